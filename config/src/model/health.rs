//! Which endpoints are fit: asked actively, and judged by what comes back.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};

/// Endpoints are asked whether they are well.
#[derive(Debug, Clone, PartialEq)]
pub struct HealthCheck {
    /// What is asked.
    pub probe: Probe,
    /// Between two probes of one endpoint (default 10 s).
    pub interval: Duration,
    /// Each interval is shorter or longer by up to this many percent (default 10).
    pub jitter: u8,
    /// An answer must come within (default 1 s).
    pub timeout: Duration,
    /// Good answers in a row that make an unhealthy endpoint healthy (default 1).
    pub healthy_threshold: u32,
    /// Bad answers in a row that make a healthy endpoint unhealthy (default 3).
    pub unhealthy_threshold: u32,
    /// The interval while the cluster has had no request for the length of it (default 60 s).
    pub no_traffic_interval: Duration,
    /// Another port than the endpoint's.
    pub port: Option<u16>,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Probe {
    /// An HTTP request, over the cluster's protocol and TLS.
    Http {
        /// Its path with query.
        path: Arc<str>,
        /// Its authority; `None`: the endpoint's name or address.
        host: Option<Arc<str>>,
        /// Its method (default GET).
        method: Method,
        /// More fields.
        headers: Vec<(HeaderName, HeaderValue)>,
        /// Statuses that are well (default 200..=299).
        expected: Vec<RangeInclusive<u16>>,
    },
    /// A connection, with the cluster's TLS.
    Tcp,
    /// `grpc.health.v1.Health/Check`.
    Grpc {
        /// The service asked about; empty: the server as a whole.
        service: Arc<str>,
        /// The authority; `None`: the endpoint's name or address.
        authority: Option<Arc<str>>,
    },
}

/// Endpoints are taken out for a time by what came of requests. Thresholds that are zero are off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlierDetection {
    /// Failures in a row: 5xx, or what counts as such (default 5).
    pub consecutive_errors: u32,
    /// Gateway failures in a row: 502, 503, 504, and what got no answer (default 0).
    pub consecutive_gateway_errors: u32,
    /// With `split_local_origin`: failures in a row without an answer (connect, reset, protocol; default 5).
    pub consecutive_local_errors: u32,
    /// What got no answer is counted by itself, and not as 5xx (default false).
    pub split_local_origin: bool,
    /// Success rate: ejected below mean minus this many thousandths of the standard deviation (default 1900).
    pub success_rate_stdev_factor: u32,
    /// Success rate: looked at when at least so many endpoints have had enough requests (default 5; 0: off).
    pub success_rate_min_hosts: u32,
    /// Success rate: an endpoint has had enough with so many in an interval (default 100).
    pub success_rate_min_requests: u32,
    /// How often rates are looked at and ejections ended (default 10 s).
    pub interval: Duration,
    /// An ejection lasts this long times how often the endpoint was ejected before (default 30 s).
    pub base_ejection: Duration,
    /// But at most this long (default 300 s).
    pub max_ejection: Duration,
    /// At most this share of the endpoints is out, in percent (default 50); never the last one.
    pub max_ejection_percent: u8,
}

impl Default for OutlierDetection {
    fn default() -> Self {
        Self {
            consecutive_errors: 5,
            consecutive_gateway_errors: 0,
            consecutive_local_errors: 5,
            split_local_origin: false,
            success_rate_stdev_factor: 1900,
            success_rate_min_hosts: 5,
            success_rate_min_requests: 100,
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(30),
            max_ejection: Duration::from_secs(300),
            max_ejection_percent: 50,
        }
    }
}
