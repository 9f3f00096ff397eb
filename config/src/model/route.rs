//! Which rule a request belongs to, and what is done with it.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::{
    Breaker, Criticality, Fault, GlobalRateLimit, HashKey, Hedge, Labels, Mirror, Place, RateLimit, Retry,
    SessionPersistence, Setting,
};

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
    /// Exists in [`Config::clusters`](super::Config::clusters).
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
