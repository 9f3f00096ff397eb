//! Clusters and their endpoints in the words of the file.

use outrigger_config::model;
use serde_json::{Map, Value, json};

use super::{duration, guards, health, limits, members, opaque, sessions, some};

pub(super) fn cluster(cluster: &model::Cluster, assigned: Option<&Vec<model::Endpoint>>) -> Value {
    let model::Cluster {
        name: _,
        protocol,
        balance,
        endpoints,
        ceilings: _,
        retry_budget,
        connection,
        tls,
        dns,
        endpoint_ceilings: _,
        breakers: _,
        health_check: _,
        outlier_detection: _,
        admission: _,
        place: _,
    } = cluster;
    let model::RetryBudget { percent, min_per_second } = retry_budget;
    let model::ConnectionOptions {
        connect_timeout,
        idle_timeout,
        keepalive_interval,
        keepalive_timeout,
        max_streams,
        max_age,
        proxy_protocol,
    } = connection;
    let model::DnsOptions { min_ttl, max_ttl } = dns;
    let connection = some([
        ("connectTimeout", json!(duration(*connect_timeout))),
        ("idleTimeout", json!(duration(*idle_timeout))),
        ("keepaliveInterval", json!(duration(*keepalive_interval))),
        ("keepaliveTimeout", json!(duration(*keepalive_timeout))),
        ("maxStreams", json!(max_streams)),
        ("maxAge", json!(duration(*max_age))),
        ("proxyProtocol", json!(proxy_protocol.map(opaque::proxy_version))),
    ]);
    let mut out = some([
        ("protocol", json!(cluster_protocol(*protocol))),
        ("loadBalancing", sessions::balance(balance)),
        ("retryBudget", json!({ "percent": percent, "minPerSecond": min_per_second })),
        ("connection", connection),
        ("tls", tls.as_ref().map_or(Value::Null, guards::cluster_tls)),
        ("dns", json!({ "minTtl": duration(*min_ttl), "maxTtl": duration(*max_ttl) })),
        ("endpoints", assigned.unwrap_or(endpoints).iter().map(endpoint).collect()),
    ]);
    if let Value::Object(members) = &mut out {
        members.extend(fitness(cluster));
    }
    out
}

/// What decides which endpoints are asked and how many requests are let in.
pub(crate) fn fitness(cluster: &model::Cluster) -> Map<String, Value> {
    let model::Cluster { ceilings, endpoint_ceilings, breakers, health_check, outlier_detection, admission, .. } =
        cluster;
    let model::Admission { queue, concurrency } = admission;
    members([
        ("circuitBreaker", health::circuit_breaker(ceilings, endpoint_ceilings, breakers)),
        ("healthCheck", health_check.as_ref().map_or(Value::Null, health::check)),
        ("outlierDetection", outlier_detection.as_ref().map_or(Value::Null, health::outliers)),
        ("queue", queue.as_ref().map_or(Value::Null, limits::queue)),
        ("concurrency", concurrency.as_ref().map_or(Value::Null, limits::concurrency)),
    ])
}

/// What is spoken to a cluster, in the words of the file.
pub(crate) fn cluster_protocol(protocol: model::ClusterProtocol) -> &'static str {
    match protocol {
        model::ClusterProtocol::Http1 => "http1",
        model::ClusterProtocol::Http2 => "http2",
        model::ClusterProtocol::Auto => "auto",
        model::ClusterProtocol::Http3 => "http3",
        model::ClusterProtocol::Tcp => "tcp",
    }
}

/// How an endpoint is chosen, in the words of the file.
pub(crate) fn balance_policy(policy: model::BalancePolicy) -> &'static str {
    match policy {
        model::BalancePolicy::RoundRobin => "roundRobin",
        model::BalancePolicy::LeastRequest => "leastRequest",
        model::BalancePolicy::PeakEwma => "peakEwma",
        model::BalancePolicy::Random => "random",
        model::BalancePolicy::RingHash => "ringHash",
        model::BalancePolicy::Maglev => "maglev",
    }
}

fn endpoint(endpoint: &model::Endpoint) -> Value {
    let model::Endpoint { target, weight, zone, priority, labels, condition } = endpoint;
    let address = match target {
        model::Target::Address(address) => address.to_string(),
        model::Target::Name { host, port } => format!("{host}:{port}"),
    };
    some([
        ("address", json!(address)),
        ("weight", json!(weight)),
        ("zone", json!(zone)),
        ("priority", json!(priority)),
        ("labels", self::labels(labels)),
        ("condition", json!(condition.word())),
    ])
}

/// Labels as a mapping; nothing where there are none.
pub(crate) fn labels(labels: &model::Labels) -> Value {
    if labels.is_empty() {
        return Value::Null;
    }
    labels.iter().map(|(name, value)| (name.to_string(), json!(value))).collect()
}
