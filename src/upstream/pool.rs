//! Connections to one address, worker by worker: the hot path never takes a lock that another worker wants.
//!
//! HTTP/1 connections are taken and given back whole. HTTP/2 and HTTP/3 connections are shared: their streams are
//! counted here, a further connection is opened when all are full, and one dial serves all who wait for it.

mod dial;
mod h3;
mod open;
mod shared;
mod turn;
mod worker;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use outrigger_config::model::{ConnectionOptions, EndpointCeilings};

use self::h3::Line;
use self::worker::WorkerPool;
use super::lease::{Lease, LeaseError};
use super::state::{ClusterState, EndpointState};
use crate::base::worker as workers;
use crate::codec::h2::H2Connection;
use crate::net::tls::{ClientTls, TlsKey};

pub use self::dial::{Tunnel, TunnelOpen};
pub use self::h3::H3Slot;

/// What makes two pools the same: every option that a connection was made with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// The cluster that it is counted to.
    pub cluster: Arc<str>,
    /// The address.
    pub address: SocketAddr,
    /// How connections are made.
    pub options: ConnectionOptions,
    /// Who is expected there, who we are, and what is believed: a connection made otherwise is another one.
    pub tls: Option<Arc<TlsKey>>,
    /// The name that TLS expects there, where the endpoint has one.
    pub host: Option<Arc<str>>,
}

/// What is spoken on the connection that a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// HTTP/3; for TLS.
    Http3,
    /// What the server chooses by ALPN, and HTTP/3 where it offers that and is reached so; for TLS.
    Negotiated,
}

/// Which connections suit a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preference {
    /// Any.
    Any,
    /// Young ones: the attempt before met a connection that was ending, and those of its age may be as well (a
    /// server that restarts, or that takes so many requests on one).
    Young,
}

/// All workers' connections under one key. When the last configuration that uses it goes, it is retired: it
/// takes nothing back, and what is in use ends with its last request.
#[derive(Debug)]
pub struct Pool {
    key: PoolKey,
    workers: Box<[Arc<WorkerPool>]>,
}

impl Pool {
    /// An empty pool.
    #[must_use]
    pub fn new(key: &PoolKey, workers: usize, cluster: &Arc<ClusterState>, endpoint: &Arc<EndpointState>) -> Self {
        let one = |_| WorkerPool::new(key, cluster, endpoint);
        Self { key: key.clone(), workers: (0..workers.max(1)).map(one).collect() }
    }

    /// What its connections have in common.
    #[must_use]
    pub fn key(&self) -> &PoolKey {
        &self.key
    }

    /// A connection for one request that is at hand, on the worker that asks.
    #[must_use]
    pub fn at_hand(&self, wire: Wire, preference: Preference, terms: Terms<'_>, now: Instant) -> Option<Lease> {
        let pool = self.local();
        match (wire, preference) {
            (Wire::Http1, Preference::Any) => pool.take_idle(now).map(Lease::H1),
            (Wire::Http1, Preference::Young) => None,
            (Wire::Http2, _) => pool.reserve::<H2Connection>(preference, now).map(Lease::H2),
            (Wire::Http3, _) => pool.reserve::<Line>(preference, now).map(Lease::H3),
            (Wire::Negotiated, _) => pool.offered_h3(preference, terms, now).map(Lease::H3),
        }
    }

    /// A connection for one request, on the worker that asks, however long that takes. Cancel safe.
    ///
    /// # Errors
    /// See [`LeaseError`]; nothing was sent in any case.
    pub async fn lease(&self, wire: Wire, preference: Preference, terms: Terms<'_>) -> Result<Lease, LeaseError> {
        match self.at_hand(wire, preference, terms, Instant::now()) {
            Some(lease) => Ok(lease),
            None => Box::pin(self.local().lease_slowly(wire, preference, terms)).await,
        }
    }

    /// A connection for bytes that are none of ours, never reused. `header` is what goes before everything else, TLS
    /// included. Cancel safe.
    ///
    /// # Errors
    /// See [`LeaseError`]; nothing but the header was sent.
    pub async fn tunnel(&self, header: &[u8], terms: Terms<'_>) -> Result<Tunnel, LeaseError> {
        self.local().open_tunnel(header, terms).await
    }

    /// Takes nothing back from now on, and gives nothing out; what is in use ends with its last request.
    pub fn retire(&self) {
        for pool in &self.workers {
            pool.retire();
        }
    }

    /// Closes the connections that nobody uses.
    pub fn close_idle(&self) {
        for pool in &self.workers {
            pool.close_idle();
        }
    }

    /// Whether it was retired.
    #[must_use]
    pub fn is_retired(&self) -> bool {
        self.workers.iter().any(|pool| pool.retired.load(Ordering::Acquire))
    }

    fn local(&self) -> &Arc<WorkerPool> {
        &self.workers[workers::index() % self.workers.len()]
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.retire();
    }
}

/// Under which terms a connection is opened, as the configuration says today.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// How many there may be.
    pub ceilings: Ceilings,
    /// TLS of the pool's key, the newest: certificates change and the key stays.
    pub tls: Option<&'a Arc<ClientTls>>,
}

/// The ceilings that matter when a connection is asked for, as the configuration says today.
#[derive(Debug, Clone, Copy)]
pub struct Ceilings {
    /// Requests waiting for a connection.
    pub pending: u32,
    /// Open connections.
    pub connections: u32,
    /// Those of the endpoint alone.
    pub endpoint: EndpointCeilings,
}

/// Within 10 % of `age`.
fn jittered(age: Duration) -> Duration {
    static TURN: AtomicU32 = AtomicU32::new(0);
    // A Weyl sequence spreads evenly without a generator: the fractional part of n times the golden ratio.
    let n = TURN.fetch_add(0x9E37_79B9, Ordering::Relaxed);
    age.mul_f64(0.9 + 0.2 * f64::from(n) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests;
