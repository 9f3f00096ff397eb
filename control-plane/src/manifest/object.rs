//! Objects that were read and are good by themselves. What they refer to is looked at by `resolve`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::model::{
    Action, AdaptiveConcurrency, Authorization, Balance, BalancePolicy, Breakers, ClusterProtocol, Criticality,
    EndpointCeilings, Fault, Filter, GlobalRateLimit, HashKey, HealthCheck, Hedge, HostPattern, Interception,
    JwtProvider, Match, OutlierDetection, Place, Queue, RateLimit, RateLimitService, Retry, RetryOn,
    SessionPersistence, Share, Target, TlsMode, TlsVersion, Upgrades,
};
use outrigger_config::spiffe::TrustDomain;

use super::{Document, Name, ObjectId};

/// One object.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// Which.
    pub id: ObjectId,
    /// Its labels.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// `metadata.creationTimestamp` where it is written: of two objects that want the same, the older one wins.
    pub created: Option<Arc<str>>,
    /// Where it is written.
    pub place: Place,
    /// What it says.
    pub spec: Spec,
    /// Its text: reading it again gives this object.
    pub source: Document,
}

impl Object {
    /// Which of two objects goes first where both want the same: the older, then by namespace and name. One without a
    /// time is younger than one with.
    #[must_use]
    pub fn seniority(&self) -> (bool, &str, &Name) {
        (self.created.is_none(), self.created.as_deref().unwrap_or_default(), &self.id.name)
    }
}

/// What an object says.
#[derive(Debug, Clone, PartialEq)]
pub enum Spec {
    /// A Service.
    Service(Service),
    /// An EndpointSlice.
    EndpointSlice(EndpointSlice),
    /// An HTTPRoute, a GRPCRoute, a TCPRoute or a TLSRoute.
    Route(Route),
    /// A ReferenceGrant.
    ReferenceGrant(ReferenceGrant),
    /// A BackendTLSPolicy.
    BackendTls(BackendTls),
    /// A Workload.
    Workload(Workload),
    /// A MeshPolicy.
    Mesh(MeshPolicy),
    /// A TrafficPolicy.
    Traffic(TrafficPolicy),
    /// An AuthorizationPolicy.
    Authorization(AuthorizationPolicy),
    /// A JwtPolicy.
    Jwt(JwtPolicy),
}

/// A value and where it was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Set<T> {
    /// The value.
    pub value: T,
    /// Where.
    pub place: Place,
}

/// Labels that an object must have.
pub type Selector = BTreeMap<Arc<str>, Arc<str>>;

/// A Service.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// Its `clusterIP`, where that is an address.
    pub address: Option<IpAddr>,
    /// `clusterIP: None`: routes cannot be attached to it.
    pub headless: bool,
    /// The Workloads of its namespace that it takes. `None`: its endpoints are in EndpointSlices only.
    pub selector: Option<Selector>,
    /// Its ports, at least one.
    pub ports: Vec<ServicePort>,
    /// Whether endpoints that are not ready are called as well.
    pub unready: bool,
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq)]
pub struct ServicePort {
    /// Its name; empty where it has none.
    pub name: Arc<str>,
    /// Its number.
    pub port: u16,
    /// The port of Workloads.
    pub target: TargetPort,
    /// What is spoken, by `appProtocol`. `None`: not said.
    pub protocol: Option<Set<ClusterProtocol>>,
    /// Where it is written.
    pub place: Place,
}

impl ServicePort {
    /// Whether connections are handed on as they are.
    #[must_use]
    pub fn is_tcp(&self) -> bool {
        self.protocol.as_ref().is_some_and(|set| set.value == ClusterProtocol::Tcp)
    }
}

/// A port of Workloads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetPort {
    /// By number.
    Number(u16),
    /// By name.
    Name(Arc<str>),
}

/// An EndpointSlice.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointSlice {
    /// The Service that it belongs to, by its label.
    pub service: Arc<str>,
    /// Port numbers by the names of the Service's ports.
    pub ports: Vec<(Arc<str>, u16)>,
    /// The endpoints.
    pub endpoints: Vec<SliceEndpoint>,
}

/// An endpoint of an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Its address.
    pub address: SliceAddress,
    /// Whether it takes requests.
    pub ready: bool,
    /// It goes down, and still serves what is under way: only bound sessions are sent there.
    pub draining: bool,
    /// Its zone.
    pub zone: Option<Arc<str>>,
}

/// The address of an endpoint of an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SliceAddress {
    /// `addressType: IPv4` and `IPv6`.
    Ip(IpAddr),
    /// `addressType: FQDN`.
    Name(Arc<str>),
}

impl SliceAddress {
    /// With a port.
    #[must_use]
    pub fn target(&self, port: u16) -> Target {
        match self {
            Self::Ip(ip) => Target::Address(SocketAddr::new(*ip, port)),
            Self::Name(host) => Target::Name { host: Arc::clone(host), port },
        }
    }
}

/// An HTTPRoute, a GRPCRoute, a TCPRoute or a TLSRoute.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// The Services that it is attached to.
    pub parents: Vec<Parent>,
    /// The server names that a TLSRoute is for, at least one and each once, and where it is written; empty for the others.
    pub server_names: Vec<Set<HostPattern>>,
    /// Its rules.
    pub rules: Vec<RouteRule>,
}

/// A reference to a parent.
#[derive(Debug, Clone, PartialEq)]
pub struct Parent {
    /// The Service.
    pub service: Name,
    /// One of its ports; `None` is all of them.
    pub port: Option<u16>,
    /// One of its ports by name.
    pub section: Option<Arc<str>>,
    /// Where it is written.
    pub place: Place,
}

impl Parent {
    /// `shop/payments`, `shop/payments:8080`, `shop/payments#http`.
    #[must_use]
    pub fn label(&self) -> String {
        match (self.port, &self.section) {
            (Some(port), None) => format!("{}:{port}", self.service),
            (None, Some(section)) => format!("{}#{section}", self.service),
            (Some(port), Some(section)) => format!("{}:{port}#{section}", self.service),
            (None, None) => self.service.to_string(),
        }
    }
}

/// A rule of a route.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteRule {
    /// Its name, where it has one.
    pub name: Option<Arc<str>>,
    /// At least one.
    pub matches: Vec<RankedMatch>,
    /// Applied in order.
    pub filters: Vec<Filter>,
    /// What it answers by itself; it has no backends then.
    pub answer: Option<Action>,
    /// Where requests go.
    pub backends: Vec<Backend>,
    /// Where copies of requests go.
    pub mirrors: Vec<MirrorTo>,
    /// Its sessions. Which key they are signed with, policies say: the file here is none.
    pub session: Option<Set<SessionPersistence>>,
    /// What it sets itself.
    pub traffic: Traffic,
    /// Where it is written.
    pub place: Place,
}

/// A backend that gets copies of requests.
#[derive(Debug, Clone, PartialEq)]
pub struct MirrorTo {
    /// The backend; its weight means nothing.
    pub backend: Backend,
    /// Of which requests.
    pub share: Share,
}

/// A match with its rank: of all matches of all routes of a Service, the one with the lowest rank is tried first.
#[derive(Debug, Clone, PartialEq)]
pub struct RankedMatch {
    /// The conditions.
    pub condition: Match,
    /// How specific it is.
    pub rank: Rank,
}

/// How specific a match is, most specific first. See the documentation of the kinds for the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Rank(pub [u32; 6]);

/// A reference to a backend.
#[derive(Debug, Clone, PartialEq)]
pub struct Backend {
    /// Its group, `/` and its kind, where it is no Service.
    pub foreign: Option<Arc<str>>,
    /// The Service.
    pub service: Name,
    /// Its port.
    pub port: Option<u16>,
    /// Its share.
    pub weight: u32,
    /// Header changes for it alone.
    pub filters: Vec<Filter>,
    /// Where it is written.
    pub place: Place,
}

/// A ReferenceGrant: who may refer to Services of its namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferenceGrant {
    /// Kinds and namespaces that may refer.
    pub from: Vec<(super::Kind, Arc<str>)>,
    /// Services that may be referred to; `None` is all.
    pub to: Vec<Option<Arc<str>>>,
}

/// A BackendTLSPolicy.
#[derive(Debug, Clone, PartialEq)]
pub struct BackendTls {
    /// Services of its namespace, and a port by name.
    pub targets: Vec<(Arc<str>, Option<Arc<str>>)>,
    /// The server name that is sent.
    pub hostname: Arc<str>,
    /// Names of which the certificate must have one.
    pub subject_names: Vec<Arc<str>>,
    /// The file with the roots, on the hosts of the proxies.
    pub trust_bundle: PathBuf,
    /// The oldest version of TLS.
    pub min_version: TlsVersion,
}

/// A Workload.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    /// The service account of its identity.
    pub service_account: Arc<str>,
    /// Its zone.
    pub zone: Option<Arc<str>>,
    /// Its share of the requests, relative to the other endpoints of its Services.
    pub weight: u32,
    /// Where other proxies reach it.
    pub address: IpAddr,
    /// Where its application sends requests.
    pub outbound: SocketAddr,
    /// Connections of its application are redirected to `outbound`.
    pub interception: Option<Interception>,
    /// What it serves.
    pub ports: Vec<WorkloadPort>,
    /// The Services that it calls; `None`: those of its namespace.
    pub uses: Option<Vec<(Name, Place)>>,
}

/// A port of a Workload.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkloadPort {
    /// Its name; empty where it has none.
    pub name: Arc<str>,
    /// The port by which others know it.
    pub port: u16,
    /// The port on which its proxy listens for it.
    pub inbound: u16,
    /// Where its application listens.
    pub application: SocketAddr,
    /// What its application speaks.
    pub protocol: ClusterProtocol,
    /// Where it is written.
    pub place: Place,
}

/// A MeshPolicy.
#[derive(Debug, Clone, PartialEq)]
pub struct MeshPolicy {
    /// The workloads that it is for; `None`: its whole namespace, or the mesh.
    pub selector: Option<Selector>,
    /// The trust domain of the mesh.
    pub trust_domain: Option<Set<TrustDomain>>,
    /// What inbound listeners accept.
    pub mtls: Option<Mtls>,
    /// Whether proxies serve each other over HTTP/3 as well.
    pub http3: Option<bool>,
    /// Upgrades and CONNECT of all listeners.
    pub upgrades: Option<Upgrades>,
    /// Defaults for calls to the Services of its namespace, or of the mesh.
    pub defaults: Traffic,
    /// Services that keep rate limits.
    pub rate_limit_services: Vec<RateLimiter>,
}

/// A Service that keeps rate limits.
#[derive(Debug, Clone, PartialEq)]
pub struct RateLimiter {
    /// What policies call it.
    pub name: Arc<str>,
    /// Where it is.
    pub backend: Backend,
    /// How it is asked; its cluster has no name here.
    pub asked: RateLimitService,
}

/// What inbound listeners accept.
#[derive(Debug, Clone, PartialEq)]
pub struct Mtls {
    /// The mode.
    pub mode: Set<TlsMode>,
    /// A stricter mode that is rehearsed.
    pub proposed: Option<TlsMode>,
}

/// A TrafficPolicy.
#[derive(Debug, Clone, PartialEq)]
pub struct TrafficPolicy {
    /// The Service, in its namespace.
    pub service: Arc<str>,
    /// One of its ports by name; `None` is all.
    pub section: Option<Arc<str>>,
    /// What it sets.
    pub traffic: Traffic,
}

/// An AuthorizationPolicy.
#[derive(Debug, Clone, PartialEq)]
pub struct AuthorizationPolicy {
    /// The workloads that it is for; `None`: its whole namespace, or the mesh.
    pub selector: Option<Selector>,
    /// The rules.
    pub policy: Arc<Authorization>,
}

/// A JwtPolicy.
#[derive(Debug, Clone, PartialEq)]
pub struct JwtPolicy {
    /// The workloads that it is for; `None`: its whole namespace, or the mesh.
    pub selector: Option<Selector>,
    /// Whether a request without a token is refused.
    pub required: bool,
    /// Who issues tokens.
    pub providers: Vec<Arc<JwtProvider>>,
}

/// How calls are made, as far as one manifest says it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Traffic {
    /// What is spoken to endpoints outside the mesh.
    pub protocol: Option<Set<ClusterProtocol>>,
    /// How an endpoint is chosen.
    pub balance: Option<Set<BalancePolicy>>,
    /// Requests in flight.
    pub max_requests: Option<Set<u32>>,
    /// Requests that wait for a connection.
    pub max_pending: Option<Set<u32>>,
    /// Retries in flight.
    pub max_retries: Option<Set<u32>>,
    /// Connections.
    pub max_connections: Option<Set<u32>>,
    /// Retry budget: share of the requests, in percent.
    pub budget_percent: Option<Set<u8>>,
    /// Retry budget: retries a second at any rate.
    pub budget_min_per_second: Option<Set<u32>>,
    /// To the end of the handshakes.
    pub connect_timeout: Option<Set<Duration>>,
    /// An idle connection is closed after this.
    pub idle_timeout: Option<Set<Duration>>,
    /// Silence before a PING.
    pub keepalive_interval: Option<Set<Duration>>,
    /// How long the answer to a PING may take.
    pub keepalive_timeout: Option<Set<Duration>>,
    /// Streams on one connection.
    pub max_streams: Option<Set<u32>>,
    /// Age at which a connection is replaced.
    pub max_age: Option<Set<Duration>>,
    /// Time limit of a request; zero is none.
    pub request: Option<Set<Duration>>,
    /// Time limit of an attempt; zero is none.
    pub backend_request: Option<Set<Duration>>,
    /// Time limit of silence; zero is none.
    pub idle: Option<Set<Duration>>,
    /// Extra attempts.
    pub attempts: Option<Set<u8>>,
    /// When an attempt is tried again.
    pub retry_on: Option<Set<Vec<RetryOn>>>,
    /// Whether that goes for requests that are not idempotent.
    pub non_idempotent: Option<Set<bool>>,
    /// Upper bound of the waiting before the first retry.
    pub backoff_base: Option<Set<Duration>>,
    /// Upper bound of the waiting before any retry.
    pub backoff_max: Option<Set<Duration>>,
    /// All of `loadBalancing` but the policy.
    pub spread: Option<Set<Balance>>,
    /// Breakers of endpoints and of the Service as a whole.
    pub breakers: Option<Set<Breakers>>,
    /// Ceilings of each endpoint.
    pub endpoint_ceilings: Option<Set<EndpointCeilings>>,
    /// Active health checks.
    pub health_check: Option<Set<HealthCheck>>,
    /// Ejection by what came of requests.
    pub outlier_detection: Option<Set<OutlierDetection>>,
    /// Requests that wait.
    pub queue: Option<Set<Queue>>,
    /// A limit that follows the latency; `None` inside: off.
    pub concurrency: Option<Set<Option<AdaptiveConcurrency>>>,
    /// What is said of retries beside attempts, conditions and backoff.
    pub retry_more: Option<Set<Retry>>,
    /// Hedged attempts.
    pub hedge: Option<Set<Hedge>>,
    /// What consistent hashing goes by.
    pub hash: Option<Set<Vec<HashKey>>>,
    /// Sessions that stay with one endpoint.
    pub session: Option<Set<SessionPersistence>>,
    /// Rate limits, which the proxies of the Service's own Workloads keep.
    pub rate_limits: Option<Set<Vec<RateLimit>>>,
    /// Rate limits that services keep, which the same proxies ask.
    pub global_rate_limits: Option<Set<Vec<GlobalRateLimit>>>,
    /// How much requests matter.
    pub criticality: Option<Set<Criticality>>,
    /// Faults that are injected at the callers.
    pub faults: Option<Set<Vec<Arc<Fault>>>>,
}

impl Traffic {
    /// What this says, and what `lower` says where this says nothing.
    #[must_use]
    pub fn over(&self, lower: &Self) -> Self {
        macro_rules! layered {
            ($($field:ident)*) => { Self { $($field: self.$field.clone().or_else(|| lower.$field.clone())),* } };
        }
        layered! {
            protocol balance max_requests max_pending max_retries max_connections budget_percent budget_min_per_second
            connect_timeout idle_timeout keepalive_interval keepalive_timeout max_streams max_age request
            backend_request idle attempts retry_on non_idempotent backoff_base backoff_max spread breakers
            endpoint_ceilings health_check outlier_detection queue concurrency retry_more hedge hash session
            rate_limits global_rate_limits criticality faults
        }
    }
}
