//! Ceilings and breakers as written.

use schemars::JsonSchema;
use serde::Deserialize;

use super::DurationText;
use crate::limits;
use crate::read::Field;

/// Ceilings of a cluster, over which a request fails at once, and the breaker of each of its endpoints.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct CircuitBreaker {
    /// Requests in flight.
    #[schemars(range(min = limits::MAX_REQUESTS.min, max = limits::MAX_REQUESTS.max), extend("default" = 1024))]
    pub max_requests: Field<u64>,
    /// Requests that wait for a connection.
    #[schemars(range(min = limits::MAX_PENDING.min, max = limits::MAX_PENDING.max), extend("default" = 256))]
    pub max_pending: Field<u64>,
    /// Retries in flight.
    #[schemars(range(min = limits::MAX_RETRIES.min, max = limits::MAX_RETRIES.max), extend("default" = 64))]
    pub max_retries: Field<u64>,
    /// Connections.
    #[schemars(range(min = limits::CONNECTIONS.min, max = limits::CONNECTIONS.max), extend("default" = 1024))]
    pub max_connections: Field<u64>,
    /// Failures in a row that open the breaker of an endpoint. 0: off. Without it and the other settings of a breaker: 5, but
    /// the last endpoint that is left is not given up.
    #[schemars(range(min = limits::FAILURES.min, max = limits::FAILURES.max))]
    pub failure_threshold: Field<u64>,
    /// Opens the breaker of an endpoint by a share of failures.
    pub failure_ratio: Field<FailureRatio>,
    /// Opens the breaker of an endpoint by slowness.
    pub latency: Field<LatencyTrip>,
    /// How long a breaker stays open the first time. Each time in a row doubles it.
    #[schemars(extend("default" = "30s"))]
    pub reset_timeout: Field<DurationText>,
    /// How long it stays open at most.
    #[schemars(extend("default" = "5m"))]
    pub max_reset_timeout: Field<DurationText>,
    /// After a probe that went well, requests are let through in a growing share over this time. `0s`: all at once.
    #[schemars(extend("default" = "0s"))]
    pub ramp: Field<DurationText>,
    /// A breaker for all endpoints together.
    pub cluster: Field<Breaker>,
    /// Ceilings of each endpoint; one that is at a ceiling is passed over. Without them: only those of the cluster.
    pub per_endpoint: Field<EndpointCeilings>,
}

/// A breaker: it opens after too many failures; after a time one request decides whether it closes again.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Breaker {
    /// Failures in a row that open it. 0: off.
    #[schemars(range(min = limits::FAILURES.min, max = limits::FAILURES.max), extend("default" = 5))]
    pub failure_threshold: Field<u64>,
    /// Opens it by a share of failures.
    pub failure_ratio: Field<FailureRatio>,
    /// Opens it by slowness.
    pub latency: Field<LatencyTrip>,
    /// How long it stays open the first time. Each time in a row doubles it.
    #[schemars(extend("default" = "30s"))]
    pub reset_timeout: Field<DurationText>,
    /// How long it stays open at most.
    #[schemars(extend("default" = "5m"))]
    pub max_reset_timeout: Field<DurationText>,
    /// After a probe that went well, requests are let through in a growing share over this time. `0s`: all at once.
    #[schemars(extend("default" = "0s"))]
    pub ramp: Field<DurationText>,
}

/// A share of failures that opens a breaker.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct FailureRatio {
    /// The share of the requests of the window that failed, in percent.
    #[schemars(range(min = limits::SHARE.min, max = limits::SHARE.max), extend("x-required" = true))]
    pub percent: Field<u64>,
    /// The window.
    #[schemars(extend("default" = "10s"))]
    pub window: Field<DurationText>,
    /// Fewer requests in the window say nothing.
    #[schemars(range(min = limits::MIN_REQUESTS.min, max = limits::MIN_REQUESTS.max), extend("default" = 20))]
    pub min_requests: Field<u64>,
}

/// Slowness that opens a breaker.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct LatencyTrip {
    /// The quantile of the times to the response head, in percent.
    #[schemars(range(min = limits::QUANTILE.min, max = limits::QUANTILE.max), extend("default" = 99))]
    pub quantile: Field<u64>,
    /// A longer one opens the breaker.
    #[schemars(extend("x-required" = true))]
    pub above: Field<DurationText>,
    /// The window.
    #[schemars(extend("default" = "10s"))]
    pub window: Field<DurationText>,
    /// Fewer requests in the window say nothing.
    #[schemars(range(min = limits::MIN_REQUESTS.min, max = limits::MIN_REQUESTS.max), extend("default" = 20))]
    pub min_requests: Field<u64>,
}

/// Ceilings of each endpoint.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct EndpointCeilings {
    /// Requests in flight.
    #[schemars(range(min = limits::MAX_REQUESTS.min, max = limits::MAX_REQUESTS.max))]
    pub max_requests: Field<u64>,
    /// Requests that wait for a connection.
    #[schemars(range(min = limits::MAX_PENDING.min, max = limits::MAX_PENDING.max))]
    pub max_pending: Field<u64>,
    /// Retries in flight.
    #[schemars(range(min = limits::MAX_RETRIES.min, max = limits::MAX_RETRIES.max))]
    pub max_retries: Field<u64>,
    /// Connections.
    #[schemars(range(min = limits::CONNECTIONS.min, max = limits::CONNECTIONS.max))]
    pub max_connections: Field<u64>,
}
