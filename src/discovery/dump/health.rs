//! Ceilings, breakers, health checks and ejection in the words of the file.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use outrigger_config::model;
use serde_json::{Map, Value, json};

use super::{duration, some, unless_secret, value};

pub(super) fn circuit_breaker(
    ceilings: &model::Ceilings,
    endpoint_ceilings: &model::EndpointCeilings,
    breakers: &model::Breakers,
) -> Value {
    let model::Ceilings { max_requests, max_pending, max_retries, max_connections } = ceilings;
    let model::Breakers { endpoint, cluster } = breakers;
    let own = some([
        ("maxRequests", json!(max_requests)),
        ("maxPending", json!(max_pending)),
        ("maxRetries", json!(max_retries)),
        ("maxConnections", json!(max_connections)),
        ("cluster", cluster.as_ref().map_or(Value::Null, |of_cluster| Value::Object(parts(of_cluster)))),
        ("perEndpoint", per_endpoint(endpoint_ceilings)),
    ]);
    let mut all = parts(endpoint);
    if endpoint.failure_threshold.place.is_none() {
        // A default that a written value would not be the same as.
        all.remove("failureThreshold");
    }
    if let Value::Object(own) = own {
        all.extend(own);
    }
    Value::Object(all)
}

/// A breaker by itself, of a rule or of a whole cluster.
pub(super) fn breaker(breaker: &model::Breaker) -> Value {
    Value::Object(parts(breaker))
}

fn parts(breaker: &model::Breaker) -> Map<String, Value> {
    let model::Breaker { failure_threshold, failure_ratio, latency, reset_timeout, max_reset_timeout, ramp } = breaker;
    let ratio = |ratio: &model::FailureRatio| {
        let model::FailureRatio { percent, window, min_requests } = ratio;
        json!({ "percent": percent, "window": duration(*window), "minRequests": min_requests })
    };
    let trip = |trip: &model::LatencyTrip| {
        let model::LatencyTrip { quantile, above, window, min_requests } = trip;
        json!({
            "quantile": quantile,
            "above": duration(*above),
            "window": duration(*window),
            "minRequests": min_requests,
        })
    };
    // Written, a time asks for the breaker: what nobody wrote is left out.
    let default = model::Breaker::default();
    let time = |value: Duration, default: Duration| match &failure_threshold.place {
        None if value == default => Value::Null,
        _ => json!(duration(value)),
    };
    let all = some([
        ("failureThreshold", json!(failure_threshold.value)),
        ("failureRatio", failure_ratio.as_ref().map_or(Value::Null, ratio)),
        ("latency", latency.as_ref().map_or(Value::Null, trip)),
        ("resetTimeout", time(*reset_timeout, default.reset_timeout)),
        ("maxResetTimeout", time(*max_reset_timeout, default.max_reset_timeout)),
        ("ramp", time(*ramp, default.ramp)),
    ]);
    match all {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

fn per_endpoint(ceilings: &model::EndpointCeilings) -> Value {
    if *ceilings == model::EndpointCeilings::default() {
        return Value::Null;
    }
    let model::EndpointCeilings { max_requests, max_pending, max_retries, max_connections } = ceilings;
    some([
        ("maxRequests", json!(max_requests)),
        ("maxPending", json!(max_pending)),
        ("maxRetries", json!(max_retries)),
        ("maxConnections", json!(max_connections)),
    ])
}

pub(super) fn check(check: &model::HealthCheck) -> Value {
    let model::HealthCheck {
        probe,
        interval,
        jitter,
        timeout,
        healthy_threshold,
        unhealthy_threshold,
        no_traffic_interval,
        port,
    } = check;
    let (name, probe) = match probe {
        model::Probe::Http { path, host, method, headers, expected } => {
            ("http", http_probe((path, host.as_deref()), method, (headers, expected)))
        }
        model::Probe::Tcp => ("tcp", json!({})),
        model::Probe::Grpc { service, authority } => {
            let service = if service.is_empty() { Value::Null } else { json!(service) };
            ("grpc", some([("service", service), ("authority", json!(authority))]))
        }
    };
    some([
        (name, probe),
        ("interval", json!(duration(*interval))),
        ("jitter", json!(jitter)),
        ("timeout", json!(duration(*timeout))),
        ("healthyThreshold", json!(healthy_threshold)),
        ("unhealthyThreshold", json!(unhealthy_threshold)),
        ("noTrafficInterval", json!(duration(*no_traffic_interval))),
        ("port", json!(port)),
    ])
}

fn http_probe(
    (path, host): (&str, Option<&str>),
    method: &http::Method,
    (headers, expected): (&[(HeaderName, HeaderValue)], &[std::ops::RangeInclusive<u16>]),
) -> Value {
    let pair = |(name, text): &(HeaderName, HeaderValue)| json!({ "name": name.as_str(), "value": unless_secret(name.as_str(), &value(text)) });
    let range = |range: &std::ops::RangeInclusive<u16>| match (range.start(), range.end()) {
        (first, last) if first == last => json!(first),
        (first, last) => json!(format!("{first}-{last}")),
    };
    some([
        ("path", json!(path)),
        ("host", json!(host)),
        ("method", json!(method.as_str())),
        ("headers", headers.iter().map(pair).collect()),
        ("expected", expected.iter().map(range).collect()),
    ])
}

pub(super) fn outliers(outliers: &model::OutlierDetection) -> Value {
    let model::OutlierDetection {
        consecutive_errors,
        consecutive_gateway_errors,
        consecutive_local_errors,
        split_local_origin,
        success_rate_stdev_factor,
        success_rate_min_hosts,
        success_rate_min_requests,
        interval,
        base_ejection,
        max_ejection,
        max_ejection_percent,
    } = outliers;
    // Without the split it has no effect.
    let local = if *split_local_origin { json!(consecutive_local_errors) } else { Value::Null };
    some([
        ("consecutiveErrors", json!(consecutive_errors)),
        ("consecutiveGatewayErrors", json!(consecutive_gateway_errors)),
        ("consecutiveLocalErrors", local),
        ("splitLocalOrigin", json!(split_local_origin)),
        (
            "successRate",
            json!({
                "stdevFactor": f64::from(*success_rate_stdev_factor) / 1_000.0,
                "minHosts": success_rate_min_hosts,
                "minRequests": success_rate_min_requests,
            }),
        ),
        ("interval", json!(duration(*interval))),
        ("baseEjection", json!(duration(*base_ejection))),
        ("maxEjection", json!(duration(*max_ejection))),
        ("maxEjectionPercent", json!(max_ejection_percent)),
    ])
}
