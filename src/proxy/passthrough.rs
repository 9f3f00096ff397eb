//! TLS that is handed on: bytes go between the caller and an endpoint, and none of them is understood here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use smallvec::SmallVec;

use super::reason::Reason;
use super::{Proxy, with_random};
use crate::net::io::Io;
use crate::net::splice::{SpliceError, Traffic, splice};
use crate::snapshot::Listener;
use crate::telemetry::AccessLog;
use crate::telemetry::access_log::StreamEntry;
use crate::telemetry::metrics::AttemptOutcome;
use crate::upstream::pool::Tunnel;
use crate::upstream::{Cluster, LeaseError, Outcome, Permit, PickError, PickHint};

/// Where a connection is handed on to.
#[derive(Debug)]
pub struct Passage {
    listener: Arc<Listener>,
    cluster: Arc<Cluster>,
    log: Arc<AccessLog>,
}

/// Endpoints that are tried before the caller is given up. Nothing was sent to the ones before the last.
const ATTEMPTS: usize = 2;

impl Proxy {
    /// Where a connection with this server name is handed on to; `None` when it is not.
    #[must_use]
    pub fn passage(&self, listener: &Arc<Listener>, name: Option<&str>) -> Option<Passage> {
        let backends = listener.passthrough.find(name)?;
        let backend = with_random(|random| backends.choose(random.next_u64()))?;
        let (cluster, log) = (Arc::clone(&backend.cluster), Arc::clone(&self.log));
        Some(Passage { listener: Arc::clone(listener), cluster, log })
    }
}

impl Passage {
    /// Hands a connection on until both sides have said all, one of them fails, or nothing moves for as long as a
    /// stream of the listener may be idle. Dropping the future closes both sides; what had passed is told then.
    pub async fn run(self, io: Io, peer: SocketAddr, name: Option<&str>) {
        let idle = self.listener.config.limits.stream_idle_timeout;
        let mut record = Record {
            passage: self,
            peer,
            name: name.map(Into::into),
            begun: (SystemTime::now(), Instant::now()),
            upstream: None,
            reason: Some(Reason::Cancelled),
            traffic: Traffic::default(),
        };
        match record.passage.open().await {
            Ok((permit, tunnel)) => {
                record.upstream = Some(permit.member().state.address);
                let (upstream, _open) = tunnel.into_parts();
                record.reason = match splice(io, upstream, idle, &record.traffic).await {
                    Ok(()) => None,
                    Err(SpliceError::Idle) => Some(Reason::Idle),
                    Err(SpliceError::Downstream(_)) => Some(Reason::Cancelled),
                    Err(SpliceError::Upstream(_)) => Some(Reason::UpstreamClosed),
                };
                drop(permit);
            }
            Err((reason, tried)) => {
                record.upstream = tried;
                record.reason = Some(reason);
            }
        }
    }

    /// A connection to an endpoint. The permit is held as long as the connection: it is load.
    async fn open(&self) -> Result<(Permit, Tunnel), (Reason, Option<SocketAddr>)> {
        let metrics = &self.cluster.state().metrics;
        let mut tried: SmallVec<[SocketAddr; ATTEMPTS]> = SmallVec::new();
        loop {
            let permit = with_random(|random| {
                let hint = PickHint { tried: &tried, ..PickHint::default() };
                self.cluster.pick(&hint, random, Instant::now())
            });
            let permit = permit.map(Permit::untimed).map_err(|error| match error {
                PickError::NoEndpoint => (Reason::NoEndpoint, None),
                PickError::Open { .. } => (Reason::BreakerOpen, None),
                PickError::Overflow => (Reason::Overflow, None),
            })?;
            let address = permit.member().state.address;
            match self.cluster.tunnel(permit.member()).await {
                Ok(tunnel) => {
                    let now = Instant::now();
                    permit.report(Outcome::Success(now.saturating_duration_since(permit.started())), now);
                    metrics.attempted(AttemptOutcome::Success);
                    return Ok((permit, tunnel));
                }
                Err(LeaseError::Overflow(kind)) => {
                    metrics.overflowed(kind);
                    return Err((Reason::Overflow, None));
                }
                Err(LeaseError::Connect(_) | LeaseError::Retired) => {
                    permit.report(Outcome::Broken, Instant::now());
                    metrics.attempted(AttemptOutcome::ConnectFailure);
                }
            }
            tried.push(address);
            if tried.len() == ATTEMPTS {
                return Err((Reason::ConnectFailure, Some(address)));
            }
        }
    }
}

/// The end of a connection is told when this is dropped, also when the connection was closed from outside.
struct Record {
    passage: Passage,
    peer: SocketAddr,
    name: Option<Box<str>>,
    begun: (SystemTime, Instant),
    upstream: Option<SocketAddr>,
    reason: Option<Reason>,
    traffic: Traffic,
}

impl Drop for Record {
    fn drop(&mut self) {
        let Passage { listener, cluster, log } = &self.passage;
        let (bytes_received, bytes_sent) = (self.traffic.upstream(), self.traffic.downstream());
        listener.metrics.passed_through(bytes_received, bytes_sent);
        log.submit_stream(&StreamEntry {
            start: self.begun.0,
            listener: &listener.config.name,
            server_name: self.name.as_deref(),
            reason: self.reason.map_or("", Reason::code),
            bytes_received,
            bytes_sent,
            duration: self.begun.1.elapsed(),
            upstream_cluster: &cluster.config().name,
            upstream_host: self.upstream,
            peer: self.peer,
        });
    }
}
