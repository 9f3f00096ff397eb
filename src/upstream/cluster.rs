//! A cluster as one configuration sees it: its endpoints of this moment, and the choice among them.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::header::ALT_SVC;
use http::{StatusCode, Version};
use outrigger_config::model::{self, ClusterProtocol, Target};
use thiserror::Error;

use super::breakers;
use super::dns::Names;
use super::endpoints::{EndpointSet, Moment, Placement, Plan};
use super::lease::{Lease, LeaseError};
use super::permit::Permit;
use super::pool::{Ceilings, Pool, PoolKey, Preference, Terms, Tunnel, Wire};
use super::registry::Registry;
use super::state::{ClusterState, EndpointState};
use crate::codec::{ResponseHead, SendErrorKind};
use crate::net::proxy_protocol::{self, Addresses};
use crate::net::tls::ClientTls;
use crate::policy::rng::Rng;
use crate::telemetry::metrics::{BreakerScope, Carrier};

/// A cluster.
#[derive(Debug)]
pub struct Cluster {
    config: model::Cluster,
    tls: Option<Arc<ClientTls>>,
    state: Arc<ClusterState>,
    registry: Weak<Registry>,
    placement: Placement,
    endpoints: ArcSwap<EndpointSet>,
    terms: Arc<breakers::Terms>,
}

/// One endpoint with its share.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its live state.
    pub state: Arc<EndpointState>,
    /// What the cluster's configuration says of its endpoints.
    pub terms: Arc<breakers::Terms>,
    /// Its connections.
    pub pool: Arc<Pool>,
    /// Its share.
    pub weight: u32,
    /// Its zone.
    pub zone: Option<Arc<str>>,
    /// 0 is used first.
    pub priority: u8,
    /// Its labels.
    pub labels: Arc<model::Labels>,
    /// What is said of it.
    pub condition: model::Condition,
    /// The name it was resolved from.
    pub hostname: Option<Arc<str>>,
}

/// What bears on the choice for one attempt.
#[derive(Debug, Clone, Copy, Default)]
pub struct PickHint<'a> {
    /// Endpoints of earlier attempts: passed over as long as there is another.
    pub tried: &'a [SocketAddr],
    /// What consistent hashing goes by; `None`: chance.
    pub hash: Option<u64>,
    /// The endpoint that the session is bound to.
    pub bound: Option<SocketAddr>,
    /// A session that is bound goes nowhere else.
    pub strict: bool,
    /// Labels that the endpoint must have.
    pub subset: Option<&'a model::Labels>,
    /// Zones other than those of `tried` are preferred.
    pub other_zone: bool,
}

/// Why no endpoint was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PickError {
    /// There is none that may be picked.
    #[error("the cluster has no endpoint that may be picked")]
    NoEndpoint,
    /// As many requests as may be are in flight.
    #[error("the cluster has as many requests in flight as it may")]
    Overflow,
    /// Breakers are open.
    #[error("the circuit breaker is open")]
    Open {
        /// Whose.
        scope: BreakerScope,
        /// When the first of them lets a request through.
        retry_after: Duration,
    },
}

impl Cluster {
    pub(super) fn new(
        (config, tls, placement): (model::Cluster, Option<Arc<ClientTls>>, Placement),
        state: Arc<ClusterState>,
        registry: Weak<Registry>,
        names: &Names,
    ) -> Arc<Self> {
        let plan = Plan { balance: &config.balance, placement: &placement, tables: &state.tables, start: 0 };
        let endpoints = ArcSwap::from_pointee(EndpointSet::new(Vec::new(), &plan));
        let terms = breakers::Terms::new(&config, &state);
        let cluster = Arc::new(Self { config, tls, state, registry, placement, endpoints, terms });
        cluster.fill(names);
        cluster
    }

    /// As configured.
    #[must_use]
    pub fn config(&self) -> &model::Cluster {
        &self.config
    }

    /// TLS to its endpoints.
    #[must_use]
    pub fn tls(&self) -> Option<&Arc<ClientTls>> {
        self.tls.as_ref()
    }

    /// Its live state.
    #[must_use]
    pub fn state(&self) -> &Arc<ClusterState> {
        &self.state
    }

    /// Its endpoints now.
    #[must_use]
    pub fn endpoints(&self) -> Arc<EndpointSet> {
        self.endpoints.load_full()
    }

    /// Chooses an endpoint for one attempt and counts it in.
    ///
    /// # Errors
    /// See [`PickError`]; nothing is counted then.
    pub fn pick(&self, hint: &PickHint<'_>, rng: &mut Rng, now: Instant) -> Result<Permit, PickError> {
        let ticket = self
            .terms
            .enter_cluster(rng, now)
            .map_err(|retry_after| PickError::Open { scope: BreakerScope::Cluster, retry_after })?;
        if !self.state.in_flight.try_acquire(self.state.admission.ceiling(self.config.ceilings.max_requests)) {
            return Err(PickError::Overflow);
        }
        let set = self.endpoints.load();
        let moment = Moment { state: &self.state, now };
        match set.enter(hint, moment, rng) {
            Ok(entered) => Ok(Permit::new(entered, ticket.keep(), now)),
            Err(error) => {
                self.state.in_flight.release();
                Err(error)
            }
        }
    }

    /// How long its own breaker lets nothing through; `None` when a request may ask. A request that is turned away by
    /// this is counted as refused.
    #[must_use]
    pub fn refuses(&self, now: Instant) -> Option<Duration> {
        let breaker = &self.state.breaker;
        breaker.refuses(&self.terms.cluster_breaker, now).inspect(|_| breaker.reject())
    }

    pub(super) fn terms(&self) -> &Arc<breakers::Terms> {
        &self.terms
    }

    /// A connection, or a stream of one, for a request of `version` to a chosen endpoint. Cancel safe.
    ///
    /// # Errors
    /// See [`LeaseError`]; nothing was sent in any case.
    pub async fn lease(&self, member: &Member, version: Version, preference: Preference) -> Result<Lease, LeaseError> {
        let Some(wire) = self.wire(version) else {
            let error = io::Error::new(io::ErrorKind::Unsupported, "no request can be sent over this protocol");
            return Err(LeaseError::Connect(SendErrorKind::Connect(error)));
        };
        let terms = Terms { ceilings: self.ceilings(), tls: self.tls.as_ref() };
        let leased = match member.pool.lease(wire, preference, terms).await {
            Err(LeaseError::Retired) => Box::pin(self.lease_anew(member, wire, preference)).await,
            leased => leased,
        };
        leased.inspect(|lease| self.state.metrics.carried(lease.carrier()))
    }

    /// The same where nothing needs to be waited for. `now` is when it is asked for.
    #[must_use]
    pub fn lease_at_hand(
        &self,
        member: &Member,
        version: Version,
        preference: Preference,
        now: Instant,
    ) -> Option<Lease> {
        let terms = Terms { ceilings: self.ceilings(), tls: self.tls.as_ref() };
        let lease = member.pool.at_hand(self.wire(version)?, preference, terms, now)?;
        self.state.metrics.carried(lease.carrier());
        Some(lease)
    }

    /// What is spoken with its endpoints for a request of `version`; `None` where that is no HTTP.
    fn wire(&self, version: Version) -> Option<Wire> {
        Some(match (self.config.protocol, version) {
            (ClusterProtocol::Auto, _) if self.tls.is_some() => Wire::Negotiated,
            (ClusterProtocol::Http2, _) | (ClusterProtocol::Auto, Version::HTTP_2) => Wire::Http2,
            (ClusterProtocol::Http1 | ClusterProtocol::Auto, _) => Wire::Http1,
            (ClusterProtocol::Http3, _) => Wire::Http3,
            (ClusterProtocol::Tcp, _) => return None,
        })
    }

    /// Takes from an answer what its endpoint says of itself to whoever talks to it, for requests to `host`: where it
    /// offers HTTP/3. What it says is not for our callers, who reach it by another way. A cluster that speaks something of
    /// its own choice leaves it there.
    pub fn learn(&self, member: &Member, (carrier, host): (Carrier, Option<&str>), answer: &mut ResponseHead) {
        let learns = match self.config.protocol {
            ClusterProtocol::Auto => self.tls.is_some(),
            ClusterProtocol::Http3 => true,
            ClusterProtocol::Http1 | ClusterProtocol::Http2 | ClusterProtocol::Tcp => return,
        };
        if !learns {
            return;
        }
        if answer.headers.contains_key(&ALT_SVC) {
            // One that does not answer for the host over HTTP/3 says nothing of where it does (RFC 7838 section 6).
            let misdirected = answer.status == StatusCode::MISDIRECTED_REQUEST && carrier == Carrier::Http3;
            if self.config.protocol == ClusterProtocol::Auto && !misdirected {
                member.state.http3.learn(&answer.headers, host, Instant::now());
            }
            answer.headers.remove(&ALT_SVC);
        }
    }

    /// A connection of HTTP/1.1 for a tunnel to which an endpoint has no other way; `None` where the cluster's endpoints
    /// are not free to speak it. Cancel safe.
    ///
    /// # Errors
    /// See [`LeaseError`]; nothing was sent in any case.
    pub async fn lease_http1(&self, member: &Member, preference: Preference) -> Option<Result<Lease, LeaseError>> {
        if self.config.protocol != ClusterProtocol::Auto {
            return None;
        }
        let terms = Terms { ceilings: self.ceilings(), tls: self.tls.as_ref() };
        Some(match member.pool.lease(Wire::Http1, preference, terms).await {
            Err(LeaseError::Retired) => Box::pin(self.lease_anew(member, Wire::Http1, preference)).await,
            leased => leased,
        })
    }

    /// A connection to a chosen endpoint, for bytes that are none of ours. `caller` is who sends them, for a cluster
    /// that is told. Cancel safe.
    ///
    /// # Errors
    /// See [`LeaseError`]; none of the bytes was sent.
    pub async fn tunnel(&self, member: &Member, caller: Addresses) -> Result<Tunnel, LeaseError> {
        let version = self.config.connection.proxy_protocol;
        let header = version.map(|version| proxy_protocol::encode(version, Some(caller))).unwrap_or_default();
        let terms = Terms { ceilings: self.ceilings(), tls: self.tls.as_ref() };
        match member.pool.tunnel(&header, terms).await {
            Err(LeaseError::Retired) => {
                let (pool, newest) = self.newest(member)?;
                match pool.tunnel(&header, Terms { ceilings: self.ceilings(), tls: Some(&newest) }).await {
                    Err(LeaseError::Retired) => Err(gone()),
                    tunnel => tunnel,
                }
            }
            tunnel => tunnel,
        }
    }

    /// An endpoint refused us when a request was under way already.
    pub fn refused_by(&self, member: &Member, code: &'static str, detail: &str) {
        self.state.refused_by(member.state.address, code, detail);
    }

    /// The request began before a change that took something out of the trust: it goes on under what is in effect
    /// now, in the pool of that.
    async fn lease_anew(&self, member: &Member, wire: Wire, preference: Preference) -> Result<Lease, LeaseError> {
        let (pool, newest) = self.newest(member)?;
        let terms = Terms { ceilings: self.ceilings(), tls: Some(&newest) };
        match pool.lease(wire, preference, terms).await {
            Err(LeaseError::Retired) => Err(gone()),
            leased => leased,
        }
    }

    /// The pool of an endpoint under what is in effect now.
    fn newest(&self, member: &Member) -> Result<(Arc<Pool>, Arc<ClientTls>), LeaseError> {
        let newest = self.state.tls.load_full();
        let key = PoolKey { tls: newest.as_ref().map(|tls| Arc::clone(tls.key())), ..member.pool.key().clone() };
        // Without TLS now, and with it when the request began: it was not meant to be sent in plaintext.
        let newest = newest.ok_or_else(gone)?;
        let pool = self.registry.upgrade().ok_or_else(gone)?.pool(key, &self.state, &member.state);
        Ok((pool, newest))
    }

    fn ceilings(&self) -> Ceilings {
        let ceilings = &self.config.ceilings;
        Ceilings {
            pending: ceilings.max_pending,
            connections: ceilings.max_connections,
            endpoint: self.config.endpoint_ceilings,
        }
    }

    pub(super) fn has_names(&self) -> bool {
        self.names().next().is_some()
    }

    /// Names among the endpoints as configured. Endpoints that are assigned are addresses.
    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.config.endpoints.iter().filter_map(|endpoint| match &endpoint.target {
            Target::Name { host, .. } => Some(host),
            Target::Address(_) => None,
        })
    }

    /// As [`Cluster::fill`], for a cluster in use.
    pub(super) fn rebuild(&self, names: &Names) {
        self.fill(names);
        if let Some(registry) = self.registry.upgrade() {
            registry.members_changed(self);
        }
    }

    /// Makes the endpoints anew from what is configured and what the names mean now. State and pools of
    /// endpoints that stay are found again.
    fn fill(&self, names: &Names) {
        let Some(registry) = self.registry.upgrade() else { return };
        let assigned = self.state.assigned.load_full();
        let endpoints = assigned.as_deref().unwrap_or(&self.config.endpoints);
        let mut places: Vec<(SocketAddr, &model::Endpoint, Option<&Arc<str>>)> = Vec::with_capacity(endpoints.len());
        let mut seen = HashSet::with_capacity(endpoints.len());
        for endpoint in endpoints {
            // Two names may mean one address: it is one endpoint.
            match &endpoint.target {
                Target::Address(address) => {
                    if seen.insert(*address) {
                        places.push((*address, endpoint, None));
                    }
                }
                Target::Name { host, port } => {
                    for ip in names.addresses(host).iter() {
                        let address = SocketAddr::new(*ip, *port);
                        if seen.insert(address) {
                            places.push((address, endpoint, Some(host)));
                        }
                    }
                }
            }
        }
        let addresses: Vec<SocketAddr> = places.iter().map(|(address, ..)| *address).collect();
        let states = registry.endpoints(&self.config, &self.state, &addresses);
        let unlabelled = Arc::new(model::Labels::new());
        let members = places
            .into_iter()
            .zip(states)
            .map(|((address, endpoint, hostname), state)| {
                let key = PoolKey {
                    cluster: Arc::clone(&self.config.name),
                    address,
                    options: self.config.connection,
                    tls: self.tls.as_ref().map(|tls| Arc::clone(tls.key())),
                    // Without TLS a name is a way to the address and no more.
                    host: self.tls.as_ref().and(hostname).cloned(),
                };
                let pool = registry.pool(key, &self.state, &state);
                Member {
                    state,
                    terms: Arc::clone(&self.terms),
                    pool,
                    weight: endpoint.weight,
                    zone: endpoint.zone.clone(),
                    priority: endpoint.priority,
                    labels: if endpoint.labels.is_empty() {
                        Arc::clone(&unlabelled)
                    } else {
                        Arc::new(endpoint.labels.clone())
                    },
                    condition: endpoint.condition,
                    hostname: hostname.cloned(),
                }
            })
            .collect();
        let plan = Plan {
            balance: &self.config.balance,
            placement: &self.placement,
            tables: &self.state.tables,
            start: registry.balancer_start(),
        };
        self.endpoints.store(Arc::new(EndpointSet::new(members, &plan)));
    }
}

fn gone() -> LeaseError {
    LeaseError::Connect(SendErrorKind::Closed)
}
