//! What a request must pass before it is sent: injected faults and rate limits.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::HeaderValue;
use outrigger_config::model;

use crate::codec::lasting::lasting;
use crate::policy::rate::{Rate, Standing};
use crate::telemetry::Metrics;
use crate::telemetry::metrics::RateLimitServiceMetrics;
use crate::upstream::{Cluster, RateState, Registry};

/// What the requests of a rule must pass. Most rules have none.
#[derive(Debug)]
pub struct Gates {
    /// Faults that are injected on purpose.
    pub faults: Vec<Arc<model::Fault>>,
    /// Rate limits that are kept here.
    pub local: Vec<LocalLimit>,
    /// Rate limit services that are asked, each once.
    pub global: Vec<GlobalLimits>,
}

/// What a rate limit service is asked about the requests of a rule.
#[derive(Debug)]
pub struct GlobalLimits {
    /// Who is asked.
    pub service: Arc<RateService>,
    /// About what.
    pub descriptors: Vec<Vec<model::DescriptorEntry>>,
}

/// A rate limit service, ready to be asked.
#[derive(Debug)]
pub struct RateService {
    /// As configured.
    pub config: model::RateLimitService,
    /// Where it is.
    pub cluster: Arc<Cluster>,
    /// Its numbers.
    pub metrics: Arc<RateLimitServiceMetrics>,
}

/// Rate limit services by name.
#[derive(Debug)]
pub(super) struct RateServices<'a>(HashMap<&'a Arc<str>, Arc<RateService>>);

impl<'a> RateServices<'a> {
    pub(super) fn compile(
        config: &'a model::Config,
        clusters: &HashMap<&Arc<str>, Arc<Cluster>>,
        metrics: &Metrics,
    ) -> Self {
        let ready = config.rate_limit_services.iter().map(|(name, service)| {
            let cluster = Arc::clone(&clusters[&service.cluster]);
            (
                name,
                Arc::new(RateService { config: service.clone(), cluster, metrics: metrics.rate_limit_service(name) }),
            )
        });
        Self(ready.collect())
    }
}

/// A rate limit that is kept here.
#[derive(Debug)]
pub struct LocalLimit {
    /// As configured.
    pub config: model::RateLimit,
    /// What it says.
    pub rate: Rate,
    /// What is remembered.
    pub state: Arc<RateState>,
    /// What callers are told it is: an item of `RateLimit-Policy`.
    pub policy: HeaderValue,
    /// Its name as callers are told it: a string with its quotes (RFC 9651 section 3.3.3).
    quoted: Box<str>,
    /// How it stands for those that find it untouched, and what they are told.
    untouched: (Standing, HeaderValue),
}

impl Gates {
    pub(super) fn compile(rule: &model::Rule, registry: &Registry, services: &RateServices<'_>) -> Option<Box<Self>> {
        let faults = rule.filters.iter().filter_map(|filter| match filter {
            model::Filter::Fault(fault) => Some(Arc::clone(fault)),
            _ => None,
        });
        let (faults, over): (Vec<_>, Vec<_>) = faults.partition(|fault| fault.until > SystemTime::now());
        if !over.is_empty() {
            tracing::warn!(rule = %rule.name, "a fault is over and injects nothing; remove it, or move its `until`");
        }
        let local = LocalLimit::all(&rule.rate_limits, registry);
        let mut global: Vec<GlobalLimits> = Vec::new();
        for model::GlobalRateLimit { service, descriptor } in &rule.global_rate_limits {
            let service = &services.0[service];
            match global.iter_mut().find(|known| Arc::ptr_eq(&known.service, service)) {
                Some(known) => known.descriptors.push(descriptor.clone()),
                None => {
                    global.push(GlobalLimits { service: Arc::clone(service), descriptors: vec![descriptor.clone()] });
                }
            }
        }
        let none = faults.is_empty() && local.is_empty() && global.is_empty();
        (!none).then(|| Box::new(Self { faults, local, global }))
    }
}

impl LocalLimit {
    pub(super) fn all(limits: &[model::RateLimit], registry: &Registry) -> Vec<Self> {
        limits.iter().map(|limit| Self::compile(limit, registry)).collect()
    }

    /// What callers are told of how it stands: an item of `RateLimit`.
    #[must_use]
    pub fn tell(&self, standing: Standing) -> HeaderValue {
        // Those that are far from a limit are told the same again and again, which HPACK's table makes short. Any other
        // value is new, and a new one in the table costs several times what a field beside it does.
        let (untouched, value) = &self.untouched;
        if standing == *untouched {
            return value.clone();
        }
        let mut value = item(&self.quoted, standing);
        value.set_sensitive(true);
        value
    }

    fn compile(limit: &model::RateLimit, registry: &Registry) -> Self {
        let rate = Rate::of(limit);
        let quoted = quoted(&limit.name);
        // The field knows whole seconds only; a window below one is left out.
        let window = rate.window();
        let seconds = window.as_secs() + u64::from(window.subsec_nanos() > 0);
        let policy = match window.as_secs() {
            0 if window.subsec_nanos() > 0 => format!("{quoted};q={}", rate.burst()),
            _ => format!("{quoted};q={};w={seconds}", rate.burst()),
        };
        let untouched = (rate.untouched(), lasting(item(&quoted, rate.untouched())));
        Self {
            config: limit.clone(),
            untouched,
            rate,
            state: registry.rate(&limit.name),
            // Printable ASCII.
            policy: lasting(HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static(""))),
            quoted,
        }
    }
}

/// An item of `RateLimit`.
fn item(quoted: &str, Standing { remaining, full_after }: Standing) -> HeaderValue {
    let seconds = full_after.as_secs() + u64::from(full_after.subsec_nanos() > 0);
    let (mut left, mut full) = (itoa::Buffer::new(), itoa::Buffer::new());
    let parts = [quoted, ";r=", left.format(remaining), ";t=", full.format(seconds)];
    // Exactly as long as it becomes, so that it is not copied once more.
    let mut text = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
    parts.iter().for_each(|part| text.extend_from_slice(part.as_bytes()));
    // Printable ASCII.
    HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or(HeaderValue::from_static(""))
}

/// A string of a structured field. What cannot stand in one is left out.
fn quoted(name: &str) -> Box<str> {
    let mut text = String::with_capacity(name.len() + 2);
    text.push('"');
    for c in name.chars().filter(|c| matches!(c, ' '..='~')) {
        if matches!(c, '"' | '\\') {
            text.push('\\');
        }
        text.push(c);
    }
    text.push('"');
    text.into_boxed_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_string_of_a_structured_field() {
        assert_eq!(&*quoted("per caller"), r#""per caller""#);
        assert_eq!(&*quoted("a\"b\\c\u{e9}\n"), r#""a\"b\\c""#);
    }
}
