//! Balancing, hashing, sessions and hedging in the words of the file.

use outrigger_config::model;
use serde_json::{Value, json};

use super::{balance_policy, duration, some};

pub(super) fn balance(balance: &model::Balance) -> Value {
    let model::Balance {
        policy,
        bounded_load,
        slow_start,
        locality,
        panic_threshold,
        overprovisioning,
        subset_fallback,
    } = balance;
    let hashes = match policy {
        model::BalancePolicy::RingHash | model::BalancePolicy::Maglev => true,
        model::BalancePolicy::RoundRobin
        | model::BalancePolicy::LeastRequest
        | model::BalancePolicy::PeakEwma
        | model::BalancePolicy::Random => false,
    };
    // Elsewhere it has no effect, and is not written where it is the default.
    let bounded = match bounded_load {
        Some(percent) if hashes || *bounded_load != model::Balance::default().bounded_load => json!(percent),
        Some(_) => Value::Null,
        None => json!("off"),
    };
    let locality = match locality {
        model::Locality::Any => "any",
        model::Locality::PreferZone => "preferZone",
    };
    let fallback = match subset_fallback {
        model::SubsetFallback::None => "none",
        model::SubsetFallback::Any => "any",
    };
    some([
        ("policy", json!(balance_policy(*policy))),
        ("boundedLoad", bounded),
        ("slowStart", slow_start.as_ref().map_or(Value::Null, self::slow_start)),
        ("locality", json!(locality)),
        ("panicThreshold", json!(panic_threshold)),
        ("overprovisioning", json!(overprovisioning)),
        ("subsetFallback", json!(fallback)),
    ])
}

fn slow_start(slow_start: &model::SlowStart) -> Value {
    let model::SlowStart { window, min_weight, aggression } = slow_start;
    // One digit after the point is as exact as it is written; one that came from elsewhere is rounded.
    let aggression = (aggression * 10.0).round() / 10.0;
    json!({ "window": duration(*window), "minWeight": min_weight, "aggression": aggression })
}

pub(super) fn hash_key(key: &model::HashKey) -> Value {
    let model::HashKey { source, terminal } = key;
    let (name, source) = match source {
        model::HashSource::Header(header) => ("header", json!(header.as_str())),
        model::HashSource::Cookie { name, ttl, path } => {
            let cookie = some([
                ("name", json!(name)),
                ("ttl", ttl.map_or(Value::Null, |ttl| json!(duration(ttl)))),
                ("path", json!(path)),
            ]);
            ("cookie", cookie)
        }
        model::HashSource::SourceAddress => ("sourceAddress", json!(true)),
        model::HashSource::Query(name) => ("query", json!(name)),
        model::HashSource::Path => ("path", json!(true)),
    };
    some([(name, source), ("terminal", json!(terminal))])
}

pub(super) fn session(session: &model::SessionPersistence) -> Value {
    let model::SessionPersistence { carrier, absolute_timeout, idle_timeout, key_file, strict } = session;
    let (name, carrier) = match carrier {
        model::SessionCarrier::Cookie { name, permanent, path } => {
            ("cookie", some([("name", json!(name)), ("permanent", json!(permanent)), ("path", json!(path))]))
        }
        model::SessionCarrier::Header(header) => ("header", json!(header.as_str())),
    };
    some([
        (name, carrier),
        ("absoluteTimeout", absolute_timeout.map_or(Value::Null, |limit| json!(duration(limit)))),
        ("idleTimeout", idle_timeout.map_or(Value::Null, |limit| json!(duration(limit)))),
        ("keyFile", json!(key_file.display().to_string())),
        ("strict", json!(strict)),
    ])
}

/// Hedging in the words of the file.
pub(super) fn hedge(hedge: &model::Hedge) -> Value {
    let model::Hedge { after, max, budget_percent } = hedge;
    let (after, percentile, min) = match after {
        model::HedgeAfter::Delay(delay) => (json!(duration(*delay)), Value::Null, Value::Null),
        model::HedgeAfter::Percentile { percent, min } => (Value::Null, json!(percent), json!(duration(*min))),
    };
    some([
        ("after", after),
        ("percentile", percentile),
        ("min", min),
        ("max", json!(max)),
        ("budgetPercent", json!(budget_percent)),
    ])
}
