//! Connections to one address, worker by worker: the hot path never takes a lock that another worker wants.
//!
//! HTTP/1 connections are taken and given back whole. HTTP/2 connections are shared: their streams are
//! counted here, a further connection is opened when all are full, and one dial serves all who wait for it.

mod dial;
mod open;
mod turn;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use outrigger_config::model::{ConnectionOptions, EndpointCeilings};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use self::open::UNKNOWN;
use self::turn::Failure;
use super::lease::{Lease, LeaseError};
use super::state::{ClusterState, EndpointState};
use crate::base::{limits, task, worker};
use crate::codec::h1::{ClientConn, Home};
use crate::codec::h2::{H2Connection, StreamSlot};
use crate::net::tls::{ClientTls, TlsKey};

pub use self::dial::{Tunnel, TunnelOpen};

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
    /// What the server chooses by ALPN; for TLS.
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
        let one = |_| {
            Arc::new_cyclic(|this| WorkerPool {
                this: Weak::clone(this),
                key: key.clone(),
                cluster: Arc::clone(cluster),
                endpoint: Arc::clone(endpoint),
                retired: AtomicBool::new(false),
                spoken: AtomicU8::new(UNKNOWN),
                idle: Mutex::new(Idle::default()),
                shared: Mutex::new(Shared::default()),
            })
        };
        Self { key: key.clone(), workers: (0..workers.max(1)).map(one).collect() }
    }

    /// What its connections have in common.
    #[must_use]
    pub fn key(&self) -> &PoolKey {
        &self.key
    }

    /// A connection for one request, on the worker that asks. Cancel safe.
    ///
    /// # Errors
    /// See [`LeaseError`]; nothing was sent in any case.
    pub async fn lease(&self, wire: Wire, preference: Preference, terms: Terms<'_>) -> Result<Lease, LeaseError> {
        let pool = self.local();
        match (wire, preference) {
            (Wire::Http1, Preference::Any) => {
                if let Some(connection) = pool.take_idle(Instant::now()) {
                    return Ok(Lease::H1(connection));
                }
            }
            (Wire::Http2, _) => {
                if let Some(slot) = pool.reserve(preference, Instant::now()) {
                    return Ok(Lease::H2(slot));
                }
            }
            (Wire::Http1, Preference::Young) | (Wire::Negotiated, _) => {}
        }
        Box::pin(pool.lease_slowly(wire, preference, terms)).await
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
        &self.workers[worker::index() % self.workers.len()]
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

#[derive(Debug)]
struct WorkerPool {
    this: Weak<WorkerPool>,
    key: PoolKey,
    cluster: Arc<ClusterState>,
    endpoint: Arc<EndpointState>,
    retired: AtomicBool,
    /// What the server chose last, where it has the choice.
    spoken: AtomicU8,
    idle: Mutex<Idle>,
    shared: Mutex<Shared>,
}

/// Idle HTTP/1 connections, the most recently used last: it is taken first, so that the others age and close.
#[derive(Debug, Default)]
struct Idle {
    #[expect(clippy::vec_box, reason = "they are handed on boxed, and a move is cheaper than a copy")]
    connections: Vec<Box<ClientConn>>,
    reaper_runs: bool,
}

/// HTTP/2 connections, the oldest first, and who waits for one.
#[derive(Debug, Default)]
struct Shared {
    connections: Vec<SharedConnection>,
    dialing: usize,
    waiting: VecDeque<oneshot::Sender<Result<(), Failure>>>,
}

#[derive(Debug)]
struct SharedConnection {
    handle: H2Connection,
    retire_at: Option<Instant>,
}

impl Shared {
    /// A stream on the first connection that has room, the oldest or the youngest first. Connections that are
    /// ending or too old are taken out and given back in `gone`: they must be closed outside the lock, because
    /// closing wakes those who wait.
    fn reserve(&mut self, preference: Preference, now: Instant, gone: &mut Vec<H2Connection>) -> Option<StreamSlot> {
        let mut unseen = self.connections.len();
        let mut at = match preference {
            Preference::Any => 0,
            Preference::Young => unseen.saturating_sub(1),
        };
        while unseen > 0 {
            unseen -= 1;
            let connection = &self.connections[at];
            let old = connection.retire_at.is_some_and(|retire_at| retire_at <= now);
            let ending = old || connection.handle.is_closing();
            if ending {
                gone.push(self.connections.remove(at).handle);
            } else if let Some(slot) = connection.handle.reserve() {
                return Some(slot);
            }
            at = match preference {
                Preference::Any => at + usize::from(!ending),
                Preference::Young => at.saturating_sub(1),
            };
        }
        None
    }

    /// Lets as many go on as may find room; those that left meanwhile do not count.
    fn wake(&mut self, mut room: usize) {
        while room > 0 {
            let Some(waiter) = self.waiting.pop_front() else { return };
            if waiter.send(Ok(())).is_ok() {
                room -= 1;
            }
        }
    }

    fn fail(&mut self, failure: &Failure) {
        for waiter in self.waiting.drain(..) {
            // A waiter that has left is no loss.
            let _ = waiter.send(Err(failure.clone()));
        }
    }
}

/// Closes connections; never called with a lock of the pool held.
fn close_all(connections: impl IntoIterator<Item = H2Connection>) {
    for connection in connections {
        connection.close_gracefully();
    }
}

impl WorkerPool {
    /// A stream of a connection that is open.
    fn reserve(&self, preference: Preference, now: Instant) -> Option<StreamSlot> {
        let mut gone = Vec::new();
        let slot = self.shared.lock().reserve(preference, now, &mut gone);
        close_all(gone);
        slot
    }

    fn take_idle(&self, now: Instant) -> Option<Box<ClientConn>> {
        let mut idle = self.idle.lock();
        while let Some(mut connection) = idle.connections.pop() {
            if self.is_usable(&mut connection, now) {
                return Some(connection);
            }
        }
        None
    }

    fn is_usable(&self, connection: &mut ClientConn, now: Instant) -> bool {
        now < connection.idle_since + self.keeps(connection)
            && connection.retire_at.is_none_or(|retire_at| now < retire_at)
            && connection.is_quiet()
    }

    /// How long an idle connection is kept: below what the server says it keeps it, by a second or a fifth.
    fn keeps(&self, connection: &ClientConn) -> Duration {
        let own = self.key.options.idle_timeout;
        match connection.server_keeps {
            Some(theirs) => own.min(theirs.saturating_sub((theirs / 5).min(Duration::from_secs(1)))),
            None => own,
        }
    }

    /// Puts a connection, opened for one, where all find it.
    fn share(&self, handle: H2Connection, retire_at: Option<Instant>) {
        let mut shared = self.shared.lock();
        let room = handle.capacity();
        shared.connections.push(SharedConnection { handle, retire_at });
        shared.wake(room);
        drop(shared);
        self.settle();
    }

    /// After a connection was added.
    fn settle(&self) {
        self.ensure_reaper();
        if self.retired.load(Ordering::Acquire) {
            self.retire();
        }
    }

    /// Takes nothing back from now on; what is idle is closed, and who waits is sent elsewhere.
    fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        let idle = std::mem::take(&mut self.idle.lock().connections);
        drop(idle);
        let connections = {
            let mut shared = self.shared.lock();
            shared.fail(&Failure::Retired);
            std::mem::take(&mut shared.connections)
        };
        close_all(connections.into_iter().map(|connection| connection.handle));
    }

    fn close_idle(&self) {
        let idle = std::mem::take(&mut self.idle.lock().connections);
        drop(idle);
        let unused = |connection: &mut SharedConnection| connection.handle.idle_since().is_some();
        let unused: Vec<_> = self.shared.lock().connections.extract_if(.., unused).collect();
        close_all(unused.into_iter().map(|connection| connection.handle));
    }

    /// Closes what was idle too long, or was closed by the server. Whether anything is left.
    fn reap(&self, now: Instant) -> bool {
        let mut idle = self.idle.lock();
        let dead: Vec<Box<ClientConn>> =
            idle.connections.extract_if(.., |connection| !self.is_usable(connection, now)).collect();
        let rested = |connection: &&mut Box<ClientConn>| now >= connection.idle_since + limits::BUFFER_LINGER;
        idle.connections.iter_mut().filter(rested).for_each(|connection| connection.release_buffers());
        let mut shared = self.shared.lock();
        let gone: Vec<H2Connection> = shared
            .connections
            .extract_if(.., |connection| {
                let handle = &connection.handle;
                handle.is_closing()
                    || handle.idle_since().is_some_and(|since| now >= since + self.key.options.idle_timeout)
                    || connection.retire_at.is_some_and(|retire_at| retire_at <= now)
            })
            .map(|connection| connection.handle)
            .collect();
        // Under both locks, so that whoever adds a connection meanwhile starts the reaper again.
        let left = !idle.connections.is_empty() || !shared.connections.is_empty();
        idle.reaper_runs = left;
        drop((shared, idle));
        drop(dead);
        close_all(gone);
        left
    }

    /// Starts the reaper unless it runs. Called after a connection was added.
    fn ensure_reaper(&self) {
        if std::mem::replace(&mut self.idle.lock().reaper_runs, true) {
            return;
        }
        let pool = Weak::clone(&self.this);
        task::spawn("pool-reaper", async move {
            let mut ticks = tokio::time::interval(REAP_EVERY);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                match pool.upgrade() {
                    Some(pool) if pool.reap(Instant::now()) => {}
                    _ => return,
                }
            }
        });
    }
}

impl Home for WorkerPool {
    fn take_back(&self, connection: Box<ClientConn>) {
        {
            let mut idle = self.idle.lock();
            // Under the lock: what is put in after the pool was emptied would keep the pool, and the pool it.
            if self.retired.load(Ordering::Acquire) {
                drop(idle);
                return;
            }
            idle.connections.push(connection);
        }
        self.ensure_reaper();
    }
}

/// Within 10 % of `age`.
fn jittered(age: Duration) -> Duration {
    static TURN: AtomicU32 = AtomicU32::new(0);
    // A Weyl sequence spreads evenly without a generator: the fractional part of n times the golden ratio.
    let n = TURN.fetch_add(0x9E37_79B9, Ordering::Relaxed);
    age.mul_f64(0.9 + 0.2 * f64::from(n) / f64::from(u32::MAX))
}

/// How often idle HTTP/1 connections are looked through.
const REAP_EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
