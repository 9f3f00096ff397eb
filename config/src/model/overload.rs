//! What is let in: queues, concurrency, classes, rates, and what is done when memory runs short.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

/// How a cluster lets requests in when it is busy.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Admission {
    /// Requests over the limit wait. `None` (default): they fail at once.
    pub queue: Option<Queue>,
    /// The limit follows what the upstream can take. `None` (default): only the ceilings hold.
    pub concurrency: Option<AdaptiveConcurrency>,
}

/// Requests that wait for their turn: the more critical class first, in a class each caller in turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    /// At most this long, and never beyond the request's deadline (default 100 ms).
    pub timeout: Duration,
    /// At most so many (default 256).
    pub max: u32,
}

/// The limit of requests in flight follows the latency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdaptiveConcurrency {
    /// It never goes below (default 3).
    pub min: u32,
    /// Nor above (default 1000).
    pub max: u32,
    /// Latency may grow by this many percent before the limit goes down (default 50).
    pub tolerance: u16,
}

impl Default for AdaptiveConcurrency {
    fn default() -> Self {
        Self { min: 3, max: 1000, tolerance: 50 }
    }
}

/// How much a request matters when not all can be served. `x-outrigger-criticality` names it; a rule can set it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Criticality {
    /// Shed first: batch work, prefetching.
    Sheddable,
    /// What was not said to be anything else.
    #[default]
    Default,
    /// Shed last.
    Critical,
}

/// A rate limit that this proxy keeps by itself (GCRA).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimit {
    /// Names it in answers, metrics and logs; unique in the configuration. Limits that are renamed start anew.
    pub name: Arc<str>,
    /// What has a rate of its own: each combination of these. Empty: all requests together.
    pub by: Vec<RateKey>,
    /// Requests...
    pub requests: u32,
    /// ...in this time.
    pub per: Duration,
    /// How many may come at once (default: `requests`).
    pub burst: u32,
    /// Only counted, nothing is refused (default false).
    pub shadow: bool,
}

/// What a rate belongs to. A request that lacks one of the keys is not limited by that limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RateKey {
    /// A header's value.
    Header(HeaderName),
    /// The SPIFFE identity of the caller.
    Identity,
    /// The address of the client, as the listener's trust rule finds it.
    Address,
}

/// A rate limit service (Envoy's `envoy.service.ratelimit.v3`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimitService {
    /// The cluster that serves it; exists in [`super::Config::clusters`] and speaks HTTP/2.
    pub cluster: Arc<str>,
    /// The domain that its limits are configured under.
    pub domain: Arc<str>,
    /// An answer must come within (default 20 ms).
    pub timeout: Duration,
    /// When none comes, requests pass (`true`, to be said) or are refused.
    pub allow_on_failure: bool,
}

/// A rule's question to a rate limit service: one descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GlobalRateLimit {
    /// Exists in [`super::Config::rate_limit_services`].
    pub service: Arc<str>,
    /// Its entries in order. When a request lacks one of them the descriptor is not asked about.
    pub descriptor: Vec<DescriptorEntry>,
}

/// A key and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescriptorEntry {
    /// The key.
    pub key: Arc<str>,
    /// Where the value comes from.
    pub value: DescriptorValue,
}

/// Where the value of a descriptor's entry comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DescriptorValue {
    /// This text.
    Text(Arc<str>),
    /// A header.
    Header(HeaderName),
    /// The caller's SPIFFE identity.
    Identity,
    /// The client's address without port.
    Address,
    /// The path without query.
    Path,
    /// The method.
    Method,
    /// The cluster that the request goes to.
    Cluster,
}

/// What the process does when it runs short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overload {
    /// The memory that it may use, bytes; `None`: what the control group allows, and without a limit there, none.
    pub memory_limit: Option<u64>,
    /// From this many percent on: idle connections are closed and buffers given back (default 80).
    pub shrink_at: u8,
    /// From this many percent on: new streams and requests are refused, those of critical class excepted (default 90).
    pub refuse_at: u8,
    /// From this many percent on: no connection is accepted (default 95).
    pub stop_accepting_at: u8,
    /// Downstream connections of all listeners; more wait in the kernel's queue (default 0: only what descriptors allow).
    pub max_connections: u32,
}

impl Default for Overload {
    fn default() -> Self {
        Self { memory_limit: None, shrink_at: 80, refuse_at: 90, stop_accepting_at: 95, max_connections: 0 }
    }
}
