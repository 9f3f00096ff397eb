//! How requests are spread over endpoints, and what is said of endpoints.

use std::sync::Arc;
use std::time::Duration;

use super::{Check, Wrong, small, units};
use crate::limits::{self, Bounds};
use crate::model::{Balance, BalancePolicy, Condition, Labels, Locality, SlowStart, SubsetFallback};
use crate::raw;
use crate::read::{Entries, Field};
use crate::text::quoted;

pub(super) fn balance(check: &Check<'_, '_>, field: &Field<raw::LoadBalancing>) -> Balance {
    let default = Balance::default();
    let Some(raw) = field.get() else { return default };
    let raw::LoadBalancing {
        policy,
        bounded_load,
        slow_start,
        locality,
        panic_threshold,
        overprovisioning,
        subset_fallback,
    } = raw;
    let policy = match policy.get() {
        None | Some(raw::Policy::LeastRequest) => BalancePolicy::LeastRequest,
        Some(raw::Policy::RoundRobin) => BalancePolicy::RoundRobin,
        Some(raw::Policy::PeakEwma) => BalancePolicy::PeakEwma,
        Some(raw::Policy::Random) => BalancePolicy::Random,
        Some(raw::Policy::RingHash) => BalancePolicy::RingHash,
        Some(raw::Policy::Maglev) => BalancePolicy::Maglev,
    };
    if let (Some(span), false) = (bounded_load.span(), raw.policy.is_bad() || hashes(policy)) {
        let message = "`boundedLoad` has no effect: only `ringHash` and `maglev` keep to it";
        check.warning(span, message, "remove it, or write `policy: ringHash` or `policy: maglev`");
    }
    let locality = match locality.get() {
        None | Some(raw::Locality::Any) => Locality::Any,
        Some(raw::Locality::PreferZone) => Locality::PreferZone,
    };
    if let (Locality::PreferZone, Some(span), false) = (locality, raw.locality.span(), check.zoned) {
        let message = "no zone is preferred: this proxy does not know its own";
        check.warning(span, message, "add `node: { zone: NAME }`");
    }
    Balance {
        policy,
        bounded_load: match bounded_load.here() {
            None => default.bounded_load,
            Some((text, span)) => check.parsed(self::bounded_load(&text.0), span).flatten(),
        },
        slow_start: slow_start.get().map(|raw| self::slow_start(check, raw)),
        locality,
        panic_threshold: small(check.number(panic_threshold, 50, limits::PERCENT)),
        overprovisioning: small(check.number(overprovisioning, 140, limits::OVERPROVISIONING)),
        subset_fallback: match subset_fallback.get() {
            None | Some(raw::SubsetFallback::None) => SubsetFallback::None,
            Some(raw::SubsetFallback::Any) => SubsetFallback::Any,
        },
    }
}

/// Whether a policy needs to be told what to hash.
pub(super) fn hashes(policy: BalancePolicy) -> bool {
    match policy {
        BalancePolicy::RingHash | BalancePolicy::Maglev => true,
        BalancePolicy::RoundRobin | BalancePolicy::LeastRequest | BalancePolicy::PeakEwma | BalancePolicy::Random => {
            false
        }
    }
}

/// A percentage, or `off`, which tools that follow YAML 1.1 write as `false`.
fn bounded_load(text: &str) -> Result<Option<u16>, Wrong> {
    let Bounds { min, max } = limits::BOUNDED_LOAD;
    match (text, text.parse::<u64>()) {
        ("off" | "false", _) => Ok(None),
        (_, Ok(percent)) if (min..=max).contains(&percent) => Ok(Some(small(percent))),
        _ => {
            let message = format!("`{}` is not a bound of the load", quoted(text));
            Err(Wrong::new(message, format!("write a percentage from {min} to {max}, or off")))
        }
    }
}

fn slow_start(check: &Check<'_, '_>, raw: &raw::SlowStart) -> SlowStart {
    let raw::SlowStart { window, min_weight, aggression } = raw;
    let tenths = check.decimal(aggression, 10, (1, limits::AGGRESSION_TENTHS));
    SlowStart {
        window: check.duration(window, Duration::from_secs(30)),
        min_weight: small(check.number(min_weight, 10, limits::SHARE)),
        aggression: f64::from(small::<u32>(tenths)) / 10.0,
    }
}

/// Labels of an endpoint, or those that a backend asks for.
pub(super) fn labels(check: &Check<'_, '_>, field: &Field<Entries<String>>) -> Labels {
    let Some((entries, span)) = field.here() else { return Labels::new() };
    let mut out = Labels::new();
    for (key, value) in check.within(&entries.pairs, limits::MAX_LABELS, (Some(span), "labels")) {
        let name = check.name(&key.text, key.span);
        if let Some((text, at)) = value.here()
            && check.parsed(label_value(text), at).is_some()
        {
            out.insert(name, Arc::from(text.as_str()));
        }
    }
    out
}

/// The value of a label.
pub(crate) fn label_value(text: &str) -> Result<(), Wrong> {
    if text.len() > limits::MAX_LABEL_BYTES || text.chars().any(char::is_control) {
        let fix = format!("use at most {} bytes, without control characters", limits::MAX_LABEL_BYTES);
        return Err(Wrong::new("this cannot be the value of a label", fix));
    }
    Ok(())
}

pub(super) fn condition(field: &Field<raw::EndpointCondition>) -> Condition {
    match field.get() {
        None | Some(raw::EndpointCondition::Healthy) => Condition::Healthy,
        Some(raw::EndpointCondition::Draining) => Condition::Draining,
        Some(raw::EndpointCondition::Unhealthy) => Condition::Unhealthy,
    }
}

impl Check<'_, '_> {
    /// A decimal number with `digits` after the point, as a whole number of its last ones.
    pub(super) fn decimal(&self, field: &Field<raw::Decimal>, default: u64, (digits, bounds): (u32, Bounds)) -> u64 {
        let Some((text, span)) = field.here() else { return default };
        let Some(value) = self.parsed(units::decimal(&text.0, digits), span) else { return default };
        if value < bounds.min || value > bounds.max {
            let (min, max) = (units::show_decimal(bounds.min, digits), units::show_decimal(bounds.max, digits));
            self.error(
                span,
                format!("{} is out of range", quoted(&text.0)),
                format!("write a number from {min} to {max}"),
            );
            return default;
        }
        value
    }
}
