//! Clusters as written.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    CircuitBreaker, ClusterTls, Concurrency, DurationText, HealthCheck, LoadBalancing, OutlierDetection, ProxyVersion,
    Queue,
};
use crate::limits;
use crate::read::{Entries, Field, List};

/// A group of equal endpoints.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Cluster {
    /// What is spoken to the endpoints.
    #[schemars(extend("default" = "http1"))]
    pub protocol: Field<ClusterProtocol>,
    /// How an endpoint is chosen, for each request.
    pub load_balancing: Field<LoadBalancing>,
    /// Ceilings, over which a request fails at once, and breakers, which open after failures.
    pub circuit_breaker: Field<CircuitBreaker>,
    /// Endpoints are asked whether they are well. Without it: they are taken to be.
    pub health_check: Field<HealthCheck>,
    /// Endpoints are taken out for a time by what came of requests. Without it: only breakers are.
    pub outlier_detection: Field<OutlierDetection>,
    /// Requests over the limit wait for their turn. Without it: they fail at once.
    pub queue: Field<Queue>,
    /// A limit of requests in flight that follows the latency. Without it: only the ceilings hold.
    pub concurrency: Field<Concurrency>,
    /// How much retries may add to the traffic.
    pub retry_budget: Field<RetryBudget>,
    /// How connections are made and kept.
    pub connection: Field<Connection>,
    /// TLS to the endpoints. Without it: plaintext.
    pub tls: Field<ClusterTls>,
    /// How names of endpoints are resolved.
    pub dns: Field<Dns>,
    /// `IP:PORT`, `NAME:PORT` (every address of the name is an endpoint), or
    /// `{ address, weight, zone, priority, labels, condition }`.
    #[schemars(extend("x-required" = true), length(min = 1))]
    pub endpoints: Field<List<Endpoint>>,
}

/// What is spoken to an upstream.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ClusterProtocol {
    /// HTTP/1.1 with keep-alive.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// HTTP/2 for requests that came over HTTP/2, HTTP/1.1 for the others; over TLS, what both sides agree on, and
    /// HTTP/3 where an endpoint offers it.
    Auto,
    /// HTTP/3. It needs `tls`.
    Http3,
    /// Bytes that are handed on as they are: no requests are sent here.
    Tcp,
}

/// How much retries may add to the traffic.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct RetryBudget {
    /// Share of the requests of the last ten seconds, in percent.
    #[schemars(range(min = limits::PERCENT.min, max = limits::PERCENT.max), extend("default" = 20))]
    pub percent: Field<u64>,
    /// Retries a second that are always allowed.
    #[schemars(range(min = limits::RETRIES_PER_SECOND.min, max = limits::RETRIES_PER_SECOND.max), extend("default" = 3))]
    pub min_per_second: Field<u64>,
}

/// How connections to an upstream are made and kept.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Connection {
    /// To the end of the TCP handshake.
    #[schemars(extend("default" = "1s"))]
    pub connect_timeout: Field<DurationText>,
    /// An idle connection is closed after this. Keep it below the upstream's own limit.
    #[schemars(extend("default" = "55s"))]
    pub idle_timeout: Field<DurationText>,
    /// HTTP/2: a PING after that much silence while requests are in flight. `0s`: none.
    #[schemars(extend("default" = "10s"))]
    pub keepalive_interval: Field<DurationText>,
    /// HTTP/2: how long the answer to a PING may take.
    #[schemars(extend("default" = "3s"))]
    pub keepalive_timeout: Field<DurationText>,
    /// HTTP/2: requests in flight on one connection, also when the upstream allows more.
    #[schemars(range(min = limits::STREAMS.min, max = limits::STREAMS.max), extend("default" = 100))]
    pub max_streams: Field<u64>,
    /// Age at which a connection is replaced, with 10 % jitter. `0s`: never.
    #[schemars(extend("default" = "1h"))]
    pub max_age: Field<DurationText>,
    /// Connections begin with a header of the PROXY protocol that says who the caller is; with `protocol: tcp`. Without
    /// it: with none.
    pub proxy_protocol: Field<ProxyVersion>,
}

/// How names of endpoints are resolved.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Dns {
    /// Lower bound of a record's time to live.
    #[schemars(extend("default" = "1s"))]
    pub min_ttl: Field<DurationText>,
    /// Upper bound of a record's time to live.
    #[schemars(extend("default" = "60s"))]
    pub max_ttl: Field<DurationText>,
}

/// An endpoint, in short or in full.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(untagged)]
pub enum Endpoint {
    /// `IP:PORT` or `NAME:PORT`.
    #[serde(rename = "$text")]
    Text(String),
    /// With weight, zone and more.
    #[serde(rename = "$map")]
    Map(EndpointFields),
}

/// An endpoint in full.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct EndpointFields {
    /// `IP:PORT` or `NAME:PORT`.
    #[schemars(extend("x-required" = true))]
    pub address: Field<String>,
    /// Share of the requests, relative to the other endpoints.
    #[schemars(range(min = limits::ENDPOINT_WEIGHT.min, max = limits::ENDPOINT_WEIGHT.max), extend("default" = 1))]
    pub weight: Field<u64>,
    /// Its zone.
    pub zone: Field<String>,
    /// Endpoints of priority 0 are used first; the next ones as far as what is healthy before them is not enough.
    #[schemars(range(min = limits::PRIORITY.min, max = limits::PRIORITY.max), extend("default" = 0))]
    pub priority: Field<u64>,
    /// Its labels, for `subset` of backends.
    pub labels: Field<Entries<String>>,
    /// What is said of it.
    #[schemars(extend("default" = "healthy"))]
    pub condition: Field<EndpointCondition>,
}

/// What is said of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum EndpointCondition {
    /// It is used, as far as checks allow.
    Healthy,
    /// It goes away: only requests of sessions that are bound to it are sent there.
    Draining,
    /// Not used, but in a panic.
    Unhealthy,
}
