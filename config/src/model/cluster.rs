//! Where requests go.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{
    Admission, Balance, Breakers, ClusterTls, Condition, EndpointCeilings, HealthCheck, Labels, OutlierDetection,
    Place, ProxyVersion,
};

/// An upstream cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    /// Unique name.
    pub name: Arc<str>,
    /// What is spoken to its endpoints.
    pub protocol: ClusterProtocol,
    /// How an endpoint is chosen.
    pub balance: Balance,
    /// Endpoints. At least one where they are written; none where discovery has none yet: requests are answered 503.
    pub endpoints: Vec<Endpoint>,
    /// Ceilings (DESIGN section 6).
    pub ceilings: Ceilings,
    /// Ceilings of each endpoint.
    pub endpoint_ceilings: EndpointCeilings,
    /// Breakers with three states.
    pub breakers: Breakers,
    /// Active health checks.
    pub health_check: Option<HealthCheck>,
    /// Ejection by what came of requests.
    pub outlier_detection: Option<OutlierDetection>,
    /// How requests are let in when it is busy.
    pub admission: Admission,
    /// How much of the traffic retries may add.
    pub retry_budget: RetryBudget,
    /// Connection options.
    pub connection: ConnectionOptions,
    /// TLS to its endpoints.
    pub tls: Option<ClusterTls>,
    /// How names are resolved.
    pub dns: DnsOptions,
    /// Where it is written.
    pub place: Place,
}

/// What is spoken to an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClusterProtocol {
    /// HTTP/1.1 with keep-alive.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// HTTP/2 for requests that came over HTTP/2, HTTP/1.1 for the others; over TLS, what ALPN says, and HTTP/3 with
    /// endpoints that advertise it and can be reached so.
    Auto,
    /// HTTP/3. Only with TLS.
    Http3,
    /// Bytes that are handed on as they are: only listeners that hand on lead here.
    Tcp,
}

/// An endpoint as written.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// An address, or a name that is resolved.
    pub target: Target,
    /// Share, 1..=1000 (default 1).
    pub weight: u32,
    /// Its zone.
    pub zone: Option<Arc<str>>,
    /// 0 is used first; the next one as far as what is healthy before it is not enough (default 0).
    pub priority: u8,
    /// Its labels.
    pub labels: Labels,
    /// What is said of it.
    pub condition: Condition,
}

impl Endpoint {
    /// An endpoint of which nothing is said but where it is.
    #[must_use]
    pub fn at(target: Target) -> Self {
        Self { target, weight: 1, zone: None, priority: 0, labels: Labels::new(), condition: Condition::Healthy }
    }
}

/// Where an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// A literal address.
    Address(SocketAddr),
    /// A DNS name: every A and AAAA record is an endpoint.
    Name {
        /// The name, lower-case.
        host: Arc<str>,
        /// The port.
        port: u16,
    },
}

/// Ceilings of a cluster; over them a request fails at once with `UO`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ceilings {
    /// Requests in flight (default 1024).
    pub max_requests: u32,
    /// Requests waiting for a connection (default 256).
    pub max_pending: u32,
    /// Retries in flight (default 64).
    pub max_retries: u32,
    /// Connections of all workers (default 1024).
    pub max_connections: u32,
}

/// Retries of a cluster may be this much of its requests; never-sent and connect-failure retries are outside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryBudget {
    /// Share of the requests of the last ten seconds (default 20).
    pub percent: u8,
    /// Allowed at any rate (default 3).
    pub min_per_second: u32,
}

/// How connections to an upstream are made and kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionOptions {
    /// TCP connect limit (default 1 s).
    pub connect_timeout: Duration,
    /// Idle connections are closed after this (default 55 s).
    pub idle_timeout: Duration,
    /// HTTP/2: PING after this much silence while streams are open (default 10 s; zero: none).
    pub keepalive_interval: Duration,
    /// HTTP/2: the PING must be answered within (default 3 s).
    pub keepalive_timeout: Duration,
    /// HTTP/2: streams that we put on one connection at most (default 100), also when the peer allows more.
    pub max_streams: u32,
    /// Connections are replaced at this age, with 10 % jitter (default 1 h; zero: none).
    pub max_age: Duration,
    /// Connections begin with a header of the PROXY protocol that says who the caller is; `None`: with none.
    pub proxy_protocol: Option<ProxyVersion>,
}

/// How names are resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DnsOptions {
    /// Lower bound of a record's time to live (default 1 s).
    pub min_ttl: Duration,
    /// Upper bound (default 60 s).
    pub max_ttl: Duration,
}
