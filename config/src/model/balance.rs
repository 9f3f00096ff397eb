//! How requests are spread over endpoints.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

/// How an endpoint of a cluster is chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Balance {
    /// The policy.
    pub policy: BalancePolicy,
    /// Consistent hashing: an endpoint takes at most this percentage of its fair share of the requests in flight
    /// (100..=1000, default 150); over it the next one on the ring or in the table is taken. `None`: no bound.
    pub bounded_load: Option<u16>,
    /// Newcomers get their share gradually. `None`: at once.
    pub slow_start: Option<SlowStart>,
    /// Which zones are preferred.
    pub locality: Locality,
    /// Below this share of healthy endpoints, in percent, all are used (default 50; 0: never).
    pub panic_threshold: u8,
    /// How much more than its share the healthy rest of a priority or zone may take, in percent (default 140).
    pub overprovisioning: u16,
    /// What happens when no endpoint has the labels that a backend asks for.
    pub subset_fallback: SubsetFallback,
}

impl Default for Balance {
    fn default() -> Self {
        Self {
            policy: BalancePolicy::LeastRequest,
            bounded_load: Some(150),
            slow_start: None,
            locality: Locality::Any,
            panic_threshold: 50,
            overprovisioning: 140,
            subset_fallback: SubsetFallback::None,
        }
    }
}

/// A load-balancing policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BalancePolicy {
    /// In turn, by weight.
    RoundRobin,
    /// The less loaded of two random ones (default).
    LeastRequest,
    /// The lower of two random ones by peak EWMA of latency times load.
    PeakEwma,
    /// By weight, at random.
    Random,
    /// Consistent hashing on a ring of points; the rule's [`HashKey`]s are hashed.
    RingHash,
    /// Consistent hashing by Maglev's table (Eisenbud et al., NSDI 2016).
    Maglev,
}

/// A newcomer's weight grows from `min_weight` to all of it: `weight * max(min, (age / window) ^ (1 / aggression))`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlowStart {
    /// How long (default 30 s).
    pub window: Duration,
    /// Percent of its weight that it has at once (1..=100, default 10).
    pub min_weight: u8,
    /// 1 is linear; above, it grows faster in the beginning (default 1).
    pub aggression: f64,
}

impl Eq for SlowStart {}

/// Which zones are preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locality {
    /// None: zones mean nothing (default).
    Any,
    /// The proxy's own ([`super::Node::zone`]), as far as it has the capacity: what is healthy there times the
    /// overprovisioning, against its share of all endpoints. The rest goes to the other zones.
    PreferZone,
}

/// When no endpoint of a cluster has the labels asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubsetFallback {
    /// The request is answered 503 (default).
    None,
    /// Any endpoint is taken.
    Any,
}

/// Labels of endpoints, or those that a backend asks for: all must be there with these values.
pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// What the control plane or the file says about an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Condition {
    /// It is used, as far as checks allow.
    #[default]
    Healthy,
    /// It goes away: only requests of sessions bound to it are sent there.
    Draining,
    /// Not used, but in a panic.
    Unhealthy,
}

impl Condition {
    /// As it is written.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Draining => "draining",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// What consistent hashing and cookies of a rule go by. Keys are tried in order; those that the request lacks are
/// passed over; the others are combined, up to a terminal one. A request without any goes to a random endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashKey {
    /// Where the value comes from.
    pub source: HashSource,
    /// When it is there, the keys after it are not looked at.
    pub terminal: bool,
}

/// Where a value to hash comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashSource {
    /// A header; several lines joined by `,`.
    Header(HeaderName),
    /// A cookie. With `ttl` one is made and sent with the response when the request has none (zero: a session cookie).
    Cookie {
        /// Its name.
        name: Arc<str>,
        /// How long a cookie that is made here lasts.
        ttl: Option<Duration>,
        /// Its path; `None`: `/`.
        path: Option<Arc<str>>,
    },
    /// The address of the client, as the listener's trust rule finds it.
    SourceAddress,
    /// A query parameter, percent-decoded, first occurrence.
    Query(Arc<str>),
    /// The normalised path.
    Path,
}

/// Requests of one session go to one endpoint, which is named, signed, in a cookie or header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionPersistence {
    /// Where the session is named.
    pub carrier: SessionCarrier,
    /// The session ends this long after it began (`None`: never).
    pub absolute_timeout: Option<Duration>,
    /// The session ends when nothing came for this long (`None`: never).
    pub idle_timeout: Option<Duration>,
    /// The file with the key that names are signed with (at least 32 bytes). All proxies of a service need the same.
    pub key_file: PathBuf,
    /// When the endpoint is gone or unfit: `false` (default) takes another one and names that; `true` answers 503.
    pub strict: bool,
}

/// Where a session is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionCarrier {
    /// A cookie.
    Cookie {
        /// Its name.
        name: Arc<str>,
        /// Kept beyond the browser's session, as long as the session lasts (Gateway API `lifetimeType: Permanent`).
        permanent: bool,
        /// Its path; `None`: `/`.
        path: Option<Arc<str>>,
    },
    /// A header of responses, which the caller repeats in requests.
    Header(HeaderName),
}
