//! Circuit breakers with three states, and ceilings of one endpoint.

use std::time::Duration;

use super::Setting;

/// The breakers of a cluster.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Breakers {
    /// One for each endpoint. On by default; a threshold of zero is off.
    pub endpoint: Breaker,
    /// One for all endpoints together.
    pub cluster: Option<Breaker>,
}

/// A breaker: closed, open after too many failures, half-open after a time with one request that decides.
///
/// A failure is what got no answer (connect, reset, protocol), 502, 503, 504, and gRPC UNAVAILABLE: not 500, not 429.
/// Time limits, queueing and callers that leave are none.
#[derive(Debug, Clone, PartialEq)]
pub struct Breaker {
    /// Failures in a row that open it (default 5; 0: off). By default, not written, the last endpoint that
    /// is left is not given up: its own 503 says more than ours, and it may be back at any moment.
    pub failure_threshold: Setting<u32>,
    /// Opens by a share of failures.
    pub failure_ratio: Option<FailureRatio>,
    /// Opens by slowness.
    pub latency: Option<LatencyTrip>,
    /// How long it stays open the first time (default 30 s). Each time in a row doubles it; jitter of 10 % comes on top.
    pub reset_timeout: Duration,
    /// And at most (default 5 min).
    pub max_reset_timeout: Duration,
    /// After a probe that went well, requests are let through in a growing share over this time (default 0: all at once).
    pub ramp: Duration,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            failure_threshold: Setting { value: 5, place: None },
            failure_ratio: None,
            latency: None,
            reset_timeout: Duration::from_secs(30),
            max_reset_timeout: Duration::from_secs(300),
            ramp: Duration::ZERO,
        }
    }
}

/// Opens a breaker when of the requests of a window so many failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailureRatio {
    /// In percent, 1..=100.
    pub percent: u8,
    /// The window (default 10 s).
    pub window: Duration,
    /// Fewer requests in the window say nothing (default 20).
    pub min_requests: u32,
}

/// Opens a breaker when a quantile of the time to the response head is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LatencyTrip {
    /// The quantile in percent, 1..=99 (default 99).
    pub quantile: u8,
    /// The time.
    pub above: Duration,
    /// The window (default 10 s).
    pub window: Duration,
    /// Fewer requests in the window say nothing (default 20).
    pub min_requests: u32,
}

/// Ceilings of one endpoint; an endpoint at one of them is passed over, and when all are the request fails with `UO`.
/// `None`: none but the cluster's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EndpointCeilings {
    /// Requests in flight.
    pub max_requests: Option<u32>,
    /// Requests waiting for a connection.
    pub max_pending: Option<u32>,
    /// Retries in flight.
    pub max_retries: Option<u32>,
    /// Connections of all workers.
    pub max_connections: Option<u32>,
}
