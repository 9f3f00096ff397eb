//! Connections of which nothing is understood: bytes go between the caller and an endpoint, as they are.
//!
//! Three kinds come here: TLS that is handed on by server name, connections of TCP listeners and those that turned out
//! not to speak HTTP, and redirected connections that go on to where they were going. A connection is one request to
//! the balancer for as long as it lives: its permit is load, and failing to connect is evidence. As long as there is no
//! connection nothing of the caller's was sent, so the next endpoint is tried.

mod record;
mod watch;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outrigger_config::model::{self, Access};
use outrigger_config::spiffe::SpiffeId;
use smallvec::SmallVec;
use tokio::net::TcpStream;
use tokio::sync::watch::Receiver;

use self::record::Record;
pub(super) use self::watch::Entry;
use super::reason::Reason;
use super::{Proxy, with_random};
use crate::base::limits;
use crate::codec::{REFUSED_BY_PEER, certificate_alert};
use crate::net::ConnInfo;
use crate::net::io::Io;
use crate::net::proxy_protocol::Addresses;
use crate::net::splice::{SpliceError, splice};
use crate::policy::authz::Connection;
use crate::policy::hash::xxh64;
use crate::snapshot::{Authorization, Backend, Listener};
use crate::telemetry::StreamMetrics;
use crate::telemetry::metrics::AttemptOutcome;
use crate::upstream::pool::Tunnel;
use crate::upstream::{Cluster, LeaseError, Outcome, Permit, PickError, PickHint};

/// Where a connection is handed on to.
#[derive(Debug)]
pub struct Passage {
    proxy: Proxy,
    listener: Arc<Listener>,
    metrics: Arc<StreamMetrics>,
    to: Target,
}

#[derive(Debug)]
enum Target {
    /// An endpoint of this cluster.
    Cluster { cluster: Arc<Cluster>, subset: Option<model::Labels>, load: Load },
    /// Where it was going.
    Address(SocketAddr),
}

/// What is handed on. It is sent as the cluster says either way: between proxies, TLS of others goes inside that of the
/// mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Load {
    /// Bytes of whoever connected.
    Open,
    /// TLS between others, chosen by its server name.
    Sealed,
}

impl Proxy {
    /// Where TLS for this server name is handed on to; `None` when it is not.
    #[must_use]
    pub fn passage(&self, listener: &Arc<Listener>, name: Option<&str>) -> Option<Passage> {
        let backend = with_random(|random| listener.passthrough.find(name)?.choose(random.next_u64()))?;
        Some(self.passage_to(listener, backend, Load::Sealed))
    }

    /// Where a connection that is not HTTP is handed on to; `None` where a listener has no place for it.
    #[must_use]
    pub fn tcp_passage(&self, listener: &Arc<Listener>) -> Option<Passage> {
        let backend = with_random(|random| listener.tcp.as_ref()?.choose(random.next_u64()))?;
        Some(self.passage_to(listener, backend, Load::Open))
    }

    /// The way on to where a redirected connection was going.
    #[must_use]
    pub fn passage_onward(&self, listener: &Arc<Listener>, destination: SocketAddr) -> Passage {
        let (listener, metrics) = (Arc::clone(listener), listener.stream_metrics(None));
        Passage { proxy: self.clone(), listener, metrics, to: Target::Address(destination) }
    }

    fn passage_to(&self, listener: &Arc<Listener>, backend: &Backend, load: Load) -> Passage {
        let (cluster, subset) = (Arc::clone(&backend.cluster), backend.subset.clone());
        let (listener, metrics) = (Arc::clone(listener), listener.stream_metrics(Some(backend)));
        Passage { proxy: self.clone(), listener, metrics, to: Target::Cluster { cluster, subset, load } }
    }
}

impl Passage {
    /// Hands a connection on until both sides have said all, one of them fails, nothing moves for too long, or `closed`
    /// says so. `name` is the server name of TLS that is handed on. Dropping the future closes both sides; what had
    /// passed is told then.
    pub async fn run(self, io: Io, caller: Arc<ConnInfo>, name: Option<&str>, mut closed: Receiver<bool>) {
        let mut record = Record::new(&self, &caller, name);
        let idle = self.idle();
        let watched = match self.authorize(&caller, &mut record) {
            Ok(watched) => watched,
            Err(reason) => {
                io.reset_on_close();
                return record.ended(reason.code());
            }
        };
        let opened = tokio::select! {
            opened = self.open(&caller, &mut record) => opened,
            _ = closed.wait_for(|closed| *closed) => return record.ended(DRAINED),
        };
        let (permit, upstream, _open) = match opened {
            Ok(Opened::Endpoint(permit, tunnel)) => {
                let (upstream, open) = tunnel.into_parts();
                (Some(permit), upstream, Some(open))
            }
            Ok(Opened::Onward(upstream)) => (None, upstream, None),
            Err(reason) => {
                io.reset_on_close();
                return record.ended(reason.code());
            }
        };
        // What the configuration was when the connection came is not held for as long as it lives.
        drop(self);
        let cut = async {
            tokio::select! {
                rule = watched.ended() => Some(rule),
                _ = closed.wait_for(|closed| *closed) => None,
            }
        };
        let result = splice(io, upstream, (idle, cut), &record.traffic).await;
        let reason = match result {
            Ok(()) => "",
            Err(SpliceError::Idle) => Reason::Idle.code(),
            Err(SpliceError::Cut(None)) => DRAINED,
            Err(SpliceError::Cut(Some(rule))) => {
                record.ended_by(rule);
                Reason::Denied.code()
            }
            Err(SpliceError::Downstream(_)) => Reason::Cancelled.code(),
            Err(SpliceError::Upstream(error)) => match certificate_alert(&error) {
                Some(alert) if record.traffic.downstream() == 0 => {
                    if let Some(permit) = &permit {
                        let address = permit.member().state.address;
                        permit.cluster().refused_by(address, REFUSED_BY_PEER, &alert.to_string());
                    }
                    Reason::ConnectFailure.code()
                }
                _ => Reason::UpstreamClosed.code(),
            },
        };
        record.ended(reason);
    }

    /// How long nothing may move.
    fn idle(&self) -> Duration {
        let model::Listener { tcp, limits, .. } = &self.listener.config;
        match (&self.to, tcp) {
            (Target::Cluster { load: Load::Sealed, .. }, _) => limits.stream_idle_timeout,
            (_, Some(tcp)) => tcp.idle_timeout,
            (_, None) => limits.idle_timeout,
        }
    }

    /// Whether the caller may connect. TLS of others has no caller that is known: it is not asked.
    fn authorize(&self, caller: &Arc<ConnInfo>, record: &mut Record) -> Result<watch::Watched, Reason> {
        let sealed = matches!(self.to, Target::Cluster { load: Load::Sealed, .. });
        let Some(authorization) = self.listener.authorization.as_ref().filter(|_| !sealed) else {
            return Ok(if sealed { watch::Watched::never() } else { self.proxy.watch_passage(&self.listener, caller) });
        };
        let decision = authorization.policy.decide_connection(&connection(caller));
        authorization.count(&decision);
        record.decided(&authorization.policy, &decision);
        match decision.access {
            Access::Allow => Ok(self.proxy.watch_passage(&self.listener, caller)),
            Access::Deny => Err(Reason::Denied),
        }
    }

    async fn open(&self, caller: &ConnInfo, record: &mut Record) -> Result<Opened, Reason> {
        match &self.to {
            Target::Cluster { cluster, subset, load: _ } => {
                let choice = Choice { cluster, subset: subset.as_ref() };
                choice.open(caller, record).await.map(|(permit, tunnel)| Opened::Endpoint(permit, tunnel))
            }
            Target::Address(address) => {
                record.tried(*address);
                let connecting = tokio::time::timeout(limits::ONWARD_CONNECT, TcpStream::connect(*address));
                match connecting.await {
                    Ok(Ok(stream)) => {
                        // A socket that is already reset may refuse its options; using it finds out.
                        let _ = stream.set_nodelay(true);
                        Ok(Opened::Onward(Io::tcp(stream)))
                    }
                    Ok(Err(_)) | Err(_) => Err(Reason::ConnectFailure),
                }
            }
        }
    }
}

/// The other side.
enum Opened {
    /// The permit is held as long as the connection: it is load.
    Endpoint(Permit, Tunnel),
    Onward(Io),
}

/// Among which endpoints is chosen.
struct Choice<'a> {
    cluster: &'a Cluster,
    subset: Option<&'a model::Labels>,
}

impl Choice<'_> {
    async fn open(&self, caller: &ConnInfo, record: &mut Record) -> Result<(Permit, Tunnel), Reason> {
        let metrics = &self.cluster.state().metrics;
        let addresses = Addresses { source: caller.peer, destination: caller.local };
        let mut tried: SmallVec<[SocketAddr; limits::PASSAGE_ATTEMPTS]> = SmallVec::new();
        loop {
            let permit = with_random(|random| {
                let hash = Some(source_hash(caller.peer));
                let hint = PickHint { tried: &tried, hash, subset: self.subset, ..PickHint::default() };
                self.cluster.pick(&hint, random, Instant::now())
            });
            let permit = permit.map(Permit::untimed).map_err(|error| match error {
                // Whoever is left now was not reached before.
                _ if !tried.is_empty() => Reason::ConnectFailure,
                PickError::NoEndpoint => Reason::NoEndpoint,
                PickError::Open { .. } => Reason::BreakerOpen,
                PickError::Overflow => Reason::Overflow,
            })?;
            let address = permit.member().state.address;
            if tried.contains(&address) {
                // There is no other.
                return Err(Reason::ConnectFailure);
            }
            record.tried(address);
            match self.cluster.tunnel(permit.member(), addresses).await {
                Ok(tunnel) => {
                    let now = Instant::now();
                    permit.report(Outcome::Success(now.saturating_duration_since(permit.started())), now);
                    metrics.attempted(AttemptOutcome::Success);
                    return Ok((permit, tunnel));
                }
                Err(LeaseError::Overflow(kind)) => {
                    metrics.overflowed(kind);
                    return Err(Reason::Overflow);
                }
                Err(LeaseError::Connect(_) | LeaseError::Retired) => {
                    permit.report(Outcome::Broken, Instant::now());
                    metrics.attempted(AttemptOutcome::ConnectFailure);
                }
            }
            tried.push(address);
            if tried.len() == limits::PASSAGE_ATTEMPTS {
                return Err(Reason::ConnectFailure);
            }
        }
    }
}

/// As requests are hashed that are hashed by nothing but where they come from.
pub(super) fn source_hash(peer: SocketAddr) -> u64 {
    match peer.ip().to_canonical() {
        std::net::IpAddr::V4(ip) => xxh64(&ip.octets(), 0),
        std::net::IpAddr::V6(ip) => xxh64(&ip.octets(), 0),
    }
}

/// The caller as authorization sees it.
fn connection(caller: &ConnInfo) -> Connection<'_> {
    let identity: Option<&SpiffeId> = caller.tls.as_deref().and_then(|tls| tls.peer.as_ref()?.identity.as_ref());
    Connection { identity, address: caller.peer.ip().to_canonical(), port: caller.local.port() }
}

/// Whether an authorization would let a caller in, and by which rule.
fn decide(authorization: &Authorization, caller: &ConnInfo) -> crate::policy::authz::Decision {
    authorization.policy.decide_connection(&connection(caller))
}

/// The reason of connections that were closed at the end of a drain.
pub(super) const DRAINED: &str = "DRAIN";
