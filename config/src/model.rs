//! The validated model: what the data path reads. Every value here has been checked; nothing is
//! optional that has a default. A [`Config`] reaches the outside only wrapped in [`Validated`],
//! which only [`crate::load`] and [`crate::built::check`] make, so holding one is the proof that the rules were applied.
//!
//! Units: durations are [`Duration`], sizes are bytes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};

mod access;
mod balance;
mod breaker;
mod control_plane;
mod fault;
mod health;
mod identity;
mod overload;
mod retry;

pub use access::*;
pub use balance::*;
pub use breaker::*;
pub use control_plane::*;
pub use fault::*;
pub use health::*;
pub use identity::*;
pub use overload::*;
pub use retry::*;

/// Proof that a value passed validation: read-only, and made only by this crate.
#[derive(Debug, Clone, PartialEq)]
pub struct Validated<T>(T);

impl<T> Validated<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(value)
    }
}

impl<T> Deref for Validated<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

/// A place in a configuration file, 1-based.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// The file as it was named when loaded.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
}

/// A setting together with where it was set; no place means that it is the built-in default.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting<T> {
    /// The effective value.
    pub value: T,
    /// Where it was written, or `None` for the default.
    pub place: Option<Place>,
}

/// A whole proxy configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Who this proxy is.
    pub node: Node,
    /// The admin server.
    pub admin: Admin,
    /// The access log.
    pub access_log: AccessLog,
    /// Worker threads; `None` follows the CPU quota.
    pub workers: Option<u16>,
    /// Drain timing.
    pub drain: Drain,
    /// Listeners, in file order; names and binds are unique.
    pub listeners: Vec<Listener>,
    /// Route tables by name.
    pub routes: BTreeMap<Arc<str>, RouteTable>,
    /// Clusters by name.
    pub clusters: BTreeMap<Arc<str>, Cluster>,
    /// The mesh identity. There whenever something refers to it.
    pub identity: Option<Identity>,
    /// Authorization policies by name.
    pub authorization: BTreeMap<Arc<str>, Authorization>,
    /// Token providers by name.
    pub jwt_providers: BTreeMap<Arc<str>, JwtProvider>,
    /// Authorizers outside by name.
    pub external_authorizers: BTreeMap<Arc<str>, ExternalAuthorizer>,
    /// Rate limit services by name.
    pub rate_limit_services: BTreeMap<Arc<str>, RateLimitService>,
    /// What is done when the process runs short.
    pub overload: Overload,
}

/// Who this proxy is; used in logs, metrics and the loop check.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Unique name of this instance (default: host name and process id).
    pub id: Arc<str>,
    /// The service it stands beside.
    pub service: Option<Arc<str>>,
    /// Its zone.
    pub zone: Option<Arc<str>>,
}

/// The admin server.
#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    /// `None`: no admin server. Loopback unless `allowRemote` was said.
    pub address: Option<SocketAddr>,
}

/// Where the JSON access log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLog {
    /// Not written.
    Off,
    /// Standard output.
    Stdout,
    /// Appended to a file, reopened on SIGHUP.
    File(std::path::PathBuf),
}

/// How the process goes down (DESIGN section 6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drain {
    /// How long new connections are still accepted after readiness is withdrawn (default 5 s).
    pub accept_for: Duration,
    /// Exit at the latest this long after the drain began (default 30 s).
    pub deadline: Duration,
}

/// A TCP listener.
#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    /// Unique name.
    pub name: Arc<str>,
    /// Where it listens.
    pub bind: SocketAddr,
    /// What is spoken on it.
    pub protocol: ListenerProtocol,
    /// The route table it uses; exists in [`Config::routes`]. `None` only where TLS is handed on and nothing is
    /// terminated.
    pub routes: Option<Arc<str>>,
    /// Inbound listeners are drained on shutdown; outbound ones stay open until the end.
    pub direction: Direction,
    /// What may be believed of forwarding headers.
    pub trust: Trust,
    /// Path normal form options.
    pub path: PathOptions,
    /// Limits and timeouts towards the downstream.
    pub limits: ListenerLimits,
    /// TLS; `None` is plaintext, as [`TlsMode::Off`].
    pub tls: Option<ListenerTls>,
    /// What is done with `x-forwarded-client-cert`.
    pub client_cert_header: ClientCertHeader,
    /// Its authorization policy; exists in [`Config::authorization`].
    pub authorization: Option<Arc<str>>,
    /// Tokens.
    pub jwt: Option<ListenerJwt>,
    /// The authorizer that is asked; exists in [`Config::external_authorizers`].
    pub external_authorization: Option<Arc<str>>,
    /// Rate limits of all its requests, before routing.
    pub rate_limits: Vec<RateLimit>,
    /// Where it is written.
    pub place: Place,
}

/// What is spoken on a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerProtocol {
    /// Told apart by the first bytes.
    Auto,
    /// HTTP/1.0 and HTTP/1.1 only.
    Http1,
    /// HTTP/2 with prior knowledge only.
    Http2,
}

/// Which way the traffic of a listener goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From others to the local service.
    Inbound,
    /// From the local service to others (default for a listener named `outbound…`).
    Outbound,
}

/// The trust rule of a listener: what may be believed of `X-Forwarded-*`, `Forwarded`, `x-request-id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Strangers: forwarding headers are replaced by what this proxy saw (default for inbound).
    None,
    /// The nearest `hops` proxies before us are trusted: forwarding headers are kept and appended to;
    /// the client address is the one that many places from the right.
    Hops(u8),
    /// The caller is our own application (default for outbound): kept and appended to.
    Local,
}

/// Options of the path normal form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathOptions {
    /// Merge `//` into `/` (default true).
    pub merge_slashes: bool,
    /// What to do with `%2F`, `%5C` and a literal backslash.
    pub escaped_slashes: EscapedSlashes,
}

/// What happens to an encoded slash (`%2F`, `%5C`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EscapedSlashes {
    /// Left encoded: it never separates segments, for routing as for the upstream (default).
    Keep,
    /// Refused with 400.
    Reject,
}

/// Limits of a listener. All have defaults (DESIGN section 6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerLimits {
    /// Open connections; more wait in the kernel's queue (default 16384).
    pub max_connections: u32,
    /// Request head bytes (default 64 KiB) -> 431.
    pub max_head_bytes: u32,
    /// Header fields in a request (default 100) -> 431.
    pub max_headers: u16,
    /// Concurrent streams on one HTTP/2 connection (default 1024).
    pub max_concurrent_streams: u32,
    /// From the first byte (or accept) to the end of a request head (default 10 s) -> 408.
    pub header_timeout: Duration,
    /// A connection without any request (default 1 h).
    pub idle_timeout: Duration,
    /// A stream on which nothing moves in either direction (default 5 min; zero: none).
    pub stream_idle_timeout: Duration,
    /// Age after which a connection is closed gracefully, with 10 % jitter (default 1 h; zero: none).
    pub max_connection_age: Duration,
    /// How long protocol detection may take before the connection is closed (default 1 s).
    pub detect_timeout: Duration,
}

/// An ordered list of virtual hosts.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteTable {
    /// The table's name.
    pub name: Arc<str>,
    /// Virtual hosts in file order. A host is chosen by the most specific matching hostname
    /// (exact, then the longest wildcard, then `*`); then its rules are tried in order.
    pub hosts: Vec<VirtualHost>,
}

/// Hostnames and their rules.
#[derive(Debug, Clone, PartialEq)]
pub struct VirtualHost {
    /// Unique within the table. Empty in the file means `*`.
    pub hostnames: Vec<HostPattern>,
    /// First match wins.
    pub rules: Vec<Rule>,
    /// Where it is written.
    pub place: Place,
}

/// A hostname, lower-case, without trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// Any host, also a missing one.
    Any,
    /// `*.example.com`, stored as `example.com`: one or more labels before the suffix.
    Wildcard(Arc<str>),
    /// Exactly this host. In a virtual host, `host:port` is the host of requests that name that port.
    Exact(Arc<str>),
}

/// A routing rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Unique within the table (default: `<host index>/<rule index>`); a label in logs and metrics.
    pub name: Arc<str>,
    /// Any of these; empty matches everything.
    pub matches: Vec<Match>,
    /// Applied in order.
    pub filters: Vec<Filter>,
    /// What is done with a matching request.
    pub action: Action,
    /// Time limits.
    pub timeouts: Timeouts,
    /// Retries.
    pub retry: Retry,
    /// Hedged attempts.
    pub hedge: Option<Hedge>,
    /// A breaker of its own, beside those of the cluster.
    pub breaker: Option<Breaker>,
    /// What consistent hashing goes by.
    pub hash: Vec<HashKey>,
    /// Sessions that stay with one endpoint.
    pub session: Option<SessionPersistence>,
    /// Rate limits of its requests, kept here.
    pub rate_limits: Vec<RateLimit>,
    /// Rate limits of its requests, asked for elsewhere.
    pub global_rate_limits: Vec<GlobalRateLimit>,
    /// How much its requests matter, whatever they say; `None`: what they say.
    pub criticality: Option<Criticality>,
    /// Whether the listener's authorizer is asked (default true).
    pub external_authorization: bool,
    /// Where it is written.
    pub place: Place,
}

/// All conditions of one match must hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Match {
    /// Condition on the normalised path.
    pub path: PathMatch,
    /// Condition on the method.
    pub method: Option<Method>,
    /// All must hold.
    pub headers: Vec<HeaderMatch>,
    /// All must hold.
    pub query: Vec<QueryMatch>,
    /// The request must be gRPC (`content-type: application/grpc…`). Set by a `grpc` match, whose service
    /// and method are expressed in `path`.
    pub grpc: bool,
}

/// A condition on the path.
#[derive(Debug, Clone)]
pub enum PathMatch {
    /// Any path.
    Any,
    /// The whole path, byte for byte. In normal form, as that of a request when it is compared.
    Exact(Arc<str>),
    /// By whole segments: `/v1` matches `/v1` and `/v1/x`, not `/v1x`. Stored without a trailing slash (`/` as empty).
    Prefix(Arc<str>),
    /// By bytes: `/v1` matches `/v1x` too. Not to be written; other control planes ask for it.
    Start(Arc<str>),
    /// Anchored at both ends.
    Regex(regex::Regex),
    /// Last segment equals (a gRPC method in any service).
    GrpcMethod(Arc<str>),
}

impl PartialEq for PathMatch {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, Self::Any) => true,
            (Self::Exact(a), Self::Exact(b))
            | (Self::Prefix(a), Self::Prefix(b))
            | (Self::Start(a), Self::Start(b))
            | (Self::GrpcMethod(a), Self::GrpcMethod(b)) => a == b,
            (Self::Regex(a), Self::Regex(b)) => a.as_str() == b.as_str(),
            _ => false,
        }
    }
}

/// A condition on a header. Several lines of one header are compared joined by `,`.
#[derive(Debug, Clone, PartialEq)]
pub struct HeaderMatch {
    /// The header; `host` means the authority.
    pub name: HeaderName,
    /// The condition.
    pub value: ValueMatch,
}

/// A condition on a query parameter (first occurrence, percent-decoded).
#[derive(Debug, Clone, PartialEq)]
pub struct QueryMatch {
    /// The parameter's name, decoded.
    pub name: Arc<str>,
    /// The condition.
    pub value: ValueMatch,
}

/// A condition on a text value.
#[derive(Debug, Clone)]
pub enum ValueMatch {
    /// Byte for byte.
    Exact(Arc<str>),
    /// Starts with.
    Prefix(Arc<str>),
    /// Anchored at both ends.
    Regex(regex::Regex),
    /// Is there (true) or is not (false).
    Present(bool),
}

impl PartialEq for ValueMatch {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) | (Self::Prefix(a), Self::Prefix(b)) => a == b,
            (Self::Regex(a), Self::Regex(b)) => a.as_str() == b.as_str(),
            (Self::Present(a), Self::Present(b)) => a == b,
            _ => false,
        }
    }
}

/// What is done with a request that matched.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Sent to one of these by weight; at least one weight is above zero.
    Forward(Vec<BackendRef>),
    /// Answered with a redirect.
    Redirect(Redirect),
    /// Answered here.
    Direct(DirectResponse),
}

/// A weighted cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct BackendRef {
    /// Exists in [`Config::clusters`].
    pub cluster: Arc<str>,
    /// Relative share; zero gets nothing.
    pub weight: u32,
    /// Only endpoints with these labels; empty: all.
    pub subset: Labels,
    /// Header changes for requests that go to this backend only.
    pub filters: Vec<Filter>,
}

/// A step applied to a request or its response.
#[derive(Debug, Clone, PartialEq)]
pub enum Filter {
    /// Change request headers.
    RequestHeaders(HeaderEdit),
    /// Change response headers (also of local answers).
    ResponseHeaders(HeaderEdit),
    /// Rewrite host or path before the upstream sees them.
    UrlRewrite(UrlRewrite),
    /// Cross-origin resource sharing (Fetch standard).
    Cors(Arc<Cors>),
    /// Inject faults.
    Fault(Arc<Fault>),
    /// Send copies elsewhere.
    Mirror(Mirror),
}

/// Header changes, applied in the order remove, set, add. Hop-by-hop and framing headers and `host` cannot be named.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HeaderEdit {
    /// Removed.
    pub remove: Vec<HeaderName>,
    /// Replaced or inserted.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Appended.
    pub add: Vec<(HeaderName, HeaderValue)>,
}

/// Host and path rewriting.
#[derive(Debug, Clone, PartialEq)]
pub struct UrlRewrite {
    /// The authority the upstream sees.
    pub hostname: Option<HeaderValue>,
    /// The path the upstream sees; the query is kept.
    pub path: Option<PathRewrite>,
}

/// How a path is rewritten.
#[derive(Debug, Clone)]
pub enum PathRewrite {
    /// The whole path.
    Full(Arc<str>),
    /// The matched prefix is replaced (only on rules whose every match is a path prefix).
    Prefix(Arc<str>),
    /// Every match of the pattern is replaced; `$1` and `${name}` are captures.
    Regex {
        /// What to look for.
        pattern: regex::Regex,
        /// What to put.
        substitution: Arc<str>,
    },
}

impl PartialEq for PathRewrite {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Full(a), Self::Full(b)) | (Self::Prefix(a), Self::Prefix(b)) => a == b,
            (Self::Regex { pattern: p, substitution: s }, Self::Regex { pattern: q, substitution: t }) => {
                p.as_str() == q.as_str() && s == t
            }
            _ => false,
        }
    }
}

/// A redirect; parts that are `None` are taken from the request.
#[derive(Debug, Clone, PartialEq)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<Arc<str>>,
    /// Host without port.
    pub hostname: Option<Arc<str>>,
    /// Port; left out of the location when it is the scheme's own.
    pub port: Option<u16>,
    /// New path.
    pub path: Option<PathRewrite>,
    /// 301, 302 (default), 303, 307 or 308.
    pub status: StatusCode,
}

/// A fixed answer.
#[derive(Debug, Clone, PartialEq)]
pub struct DirectResponse {
    /// The status, 200..=599.
    pub status: StatusCode,
    /// The body (at most 64 KiB).
    pub body: Arc<[u8]>,
    /// Its type (default `text/plain; charset=utf-8`).
    pub content_type: HeaderValue,
}

/// Cross-origin rules.
#[derive(Debug, Clone, PartialEq)]
pub struct Cors {
    /// Allowed origins: exact, `*`, or with one wildcard label (`https://*.example.com`).
    pub allow_origins: Vec<Arc<str>>,
    /// Allowed methods; `*` as a single entry means any.
    pub allow_methods: Vec<Arc<str>>,
    /// Allowed request headers; `*` as a single entry means any.
    pub allow_headers: Vec<Arc<str>>,
    /// Response headers a script may read.
    pub expose_headers: Vec<Arc<str>>,
    /// Whether credentials may be sent.
    pub allow_credentials: bool,
    /// How long a preflight may be cached (default 5 s).
    pub max_age: Duration,
}

/// Time limits of a rule. A zero duration in the file switches one off (`None` here).
#[derive(Debug, Clone, PartialEq)]
pub struct Timeouts {
    /// When written: from the first byte of the request to the end of the response, retries included. The
    /// default is 15 s from the end of the upload to the response head, so that a long transfer is not cut;
    /// streaming (gRPC, SSE by `accept: text/event-stream`, upgrades) has none unless it was written.
    pub request: Setting<Option<Duration>>,
    /// One attempt, to its response head.
    pub backend_request: Setting<Option<Duration>>,
    /// Nothing moved in either direction. Default: the listener's.
    pub idle: Setting<Option<Duration>>,
}

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
    /// HTTP/2 for requests that came over HTTP/2, HTTP/1.1 for the others; over TLS, what ALPN says.
    Auto,
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
}

/// How names are resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DnsOptions {
    /// Lower bound of a record's time to live (default 1 s).
    pub min_ttl: Duration,
    /// Upper bound (default 60 s).
    pub max_ttl: Duration,
}
