//! Queues, concurrency, rate limits, faults and overload in the words of the file.

use outrigger_config::{grammar, model};
use serde_json::{Value, json};

use super::{duration, header_condition, some};

pub(super) fn queue(queue: &model::Queue) -> Value {
    let model::Queue { timeout, max } = queue;
    json!({ "timeout": duration(*timeout), "max": max })
}

pub(super) fn concurrency(concurrency: &model::AdaptiveConcurrency) -> Value {
    let model::AdaptiveConcurrency { min, max, tolerance } = concurrency;
    json!({ "min": min, "max": max, "tolerance": tolerance })
}

pub(super) fn criticality(class: model::Criticality) -> &'static str {
    match class {
        model::Criticality::Critical => "critical",
        model::Criticality::Default => "default",
        model::Criticality::Sheddable => "sheddable",
    }
}

pub(super) fn rate_limit(limit: &model::RateLimit) -> Value {
    let model::RateLimit { name, by, requests, per, burst, shadow } = limit;
    let key = |key: &model::RateKey| match key {
        model::RateKey::Header(header) => json!({ "header": header.as_str() }),
        model::RateKey::Identity => json!("identity"),
        model::RateKey::Address => json!("address"),
    };
    some([
        ("name", json!(name)),
        ("by", by.iter().map(key).collect()),
        ("requests", json!(requests)),
        ("per", json!(duration(*per))),
        ("burst", json!(burst)),
        ("shadow", json!(shadow)),
    ])
}

pub(super) fn global(limit: &model::GlobalRateLimit) -> Value {
    let model::GlobalRateLimit { service, descriptor } = limit;
    let entry = |entry: &model::DescriptorEntry| {
        let model::DescriptorEntry { key, value } = entry;
        let (name, value) = match value {
            model::DescriptorValue::Text(text) => ("text", json!(text)),
            model::DescriptorValue::Header(header) => ("header", json!(header.as_str())),
            model::DescriptorValue::Identity => ("from", json!("identity")),
            model::DescriptorValue::Address => ("from", json!("address")),
            model::DescriptorValue::Path => ("from", json!("path")),
            model::DescriptorValue::Method => ("from", json!("method")),
            model::DescriptorValue::Cluster => ("from", json!("cluster")),
        };
        some([("key", json!(key)), (name, value)])
    };
    json!({ "service": service, "descriptor": descriptor.iter().map(entry).collect::<Vec<_>>() })
}

pub(super) fn service(service: &model::RateLimitService) -> Value {
    let model::RateLimitService { cluster, domain, timeout, allow_on_failure } = service;
    json!({
        "cluster": cluster,
        "domain": domain,
        "timeout": duration(*timeout),
        "onFailure": if *allow_on_failure { "allow" } else { "deny" },
    })
}

pub(super) fn fault(fault: &model::Fault) -> Value {
    let model::Fault { headers, delay, abort, until } = fault;
    let show_delay = |delay: &model::FaultDelay| {
        let model::FaultDelay { share, by } = delay;
        json!({ "percent": percent(*share), "duration": duration(*by) })
    };
    let show_abort = |abort: &model::FaultAbort| {
        let model::FaultAbort { share, with } = abort;
        match with {
            model::Abort::Status(status) => json!({ "percent": percent(*share), "status": status.as_u16() }),
            model::Abort::Grpc(code) => {
                let name = grammar::grpc_status(*code).unwrap_or("unknown");
                json!({ "percent": percent(*share), "grpcStatus": name })
            }
        }
    };
    some([
        ("headers", headers.iter().map(header_condition).collect()),
        ("delay", delay.as_ref().map_or(Value::Null, show_delay)),
        ("abort", abort.as_ref().map_or(Value::Null, show_abort)),
        ("until", json!(grammar::show_moment(*until))),
    ])
}

pub(super) fn mirror(mirror: &model::Mirror) -> Value {
    let model::Mirror { cluster, share } = mirror;
    json!({ "cluster": cluster, "percent": percent(*share) })
}

/// Four digits after the point, which is exact.
fn percent(model::Share(millionths): model::Share) -> f64 {
    f64::from(millionths) / 10_000.0
}

pub(super) fn overload(overload: &model::Overload) -> Value {
    let model::Overload { memory_limit, shrink_at, refuse_at, stop_accepting_at, max_connections } = overload;
    some([
        ("memoryLimit", memory_limit.map_or(Value::Null, |bytes| json!(format!("{bytes}B")))),
        ("shrinkAt", json!(shrink_at)),
        ("refuseAt", json!(refuse_at)),
        ("stopAcceptingAt", json!(stop_accepting_at)),
        ("maxConnections", json!(max_connections)),
    ])
}
