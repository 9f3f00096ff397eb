//! What one worker has of a pool.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::h3::Line;
use super::open::UNKNOWN;
use super::shared::{Multiplexed, Shared, close_all};
use super::{PoolKey, Preference};
use crate::base::{limits, task};
use crate::codec::h1::{ClientConn, Home};
use crate::codec::h2::H2Connection;
use crate::upstream::state::{ClusterState, EndpointState};

/// The connections of one worker: HTTP/1 ones while they are idle, shared ones for as long as they take requests.
#[derive(Debug)]
pub(super) struct WorkerPool {
    pub(super) this: Weak<WorkerPool>,
    pub(super) key: PoolKey,
    pub(super) cluster: Arc<ClusterState>,
    pub(super) endpoint: Arc<EndpointState>,
    pub(super) retired: AtomicBool,
    /// What the server chose last, where it has the choice.
    pub(super) spoken: AtomicU8,
    idle: Mutex<Idle>,
    pub(super) h2: Mutex<Shared<H2Connection>>,
    pub(super) h3: Mutex<Shared<Line>>,
}

/// Idle HTTP/1 connections, the most recently used last: it is taken first, so that the others age and close.
#[derive(Debug, Default)]
struct Idle {
    #[expect(clippy::vec_box, reason = "they are handed on boxed, and a move is cheaper than a copy")]
    connections: Vec<Box<ClientConn>>,
    reaper_runs: bool,
}

impl WorkerPool {
    pub(super) fn new(key: &PoolKey, cluster: &Arc<ClusterState>, endpoint: &Arc<EndpointState>) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            this: Weak::clone(this),
            key: key.clone(),
            cluster: Arc::clone(cluster),
            endpoint: Arc::clone(endpoint),
            retired: AtomicBool::new(false),
            spoken: AtomicU8::new(UNKNOWN),
            idle: Mutex::default(),
            h2: Mutex::default(),
            h3: Mutex::default(),
        })
    }

    /// A stream of a connection that is open.
    pub(super) fn reserve<C: Multiplexed>(&self, preference: Preference, now: Instant) -> Option<C::Slot> {
        let mut gone = Vec::new();
        let slot = C::of(self).lock().reserve(preference, now, &mut gone);
        close_all(gone);
        slot
    }

    pub(super) fn take_idle(&self, now: Instant) -> Option<Box<ClientConn>> {
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
    pub(super) fn share<C: Multiplexed>(&self, handle: C, retire_at: Option<Instant>) {
        let mut shared = C::of(self).lock();
        let room = handle.capacity();
        shared.push(handle, retire_at);
        shared.wake(room);
        drop(shared);
        self.settle();
    }

    /// After a connection was added.
    pub(super) fn settle(&self) {
        self.ensure_reaper();
        if self.retired.load(Ordering::Acquire) {
            self.retire();
        }
    }

    /// Takes nothing back from now on; what is idle is closed, and who waits is sent elsewhere.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        let idle = std::mem::take(&mut self.idle.lock().connections);
        drop(idle);
        let (h2, h3) = (self.h2.lock().retire(), self.h3.lock().retire());
        close_all(h2);
        close_all(h3);
    }

    pub(super) fn close_idle(&self) {
        let idle = std::mem::take(&mut self.idle.lock().connections);
        drop(idle);
        let (h2, h3) = (self.h2.lock().take_unused(), self.h3.lock().take_unused());
        close_all(h2);
        close_all(h3);
    }

    /// Closes what was idle too long, or was closed by the server. Whether anything is left.
    fn reap(&self, now: Instant) -> bool {
        let mut idle = self.idle.lock();
        let dead: Vec<Box<ClientConn>> =
            idle.connections.extract_if(.., |connection| !self.is_usable(connection, now)).collect();
        let rested = |connection: &&mut Box<ClientConn>| now >= connection.idle_since + limits::BUFFER_LINGER;
        idle.connections.iter_mut().filter(rested).for_each(|connection| connection.release_buffers());
        let idle_before = now.checked_sub(self.key.options.idle_timeout);
        let (mut h2, mut h3) = (self.h2.lock(), self.h3.lock());
        let spent = (h2.take_spent(now, idle_before), h3.take_spent(now, idle_before));
        // Under all locks, so that whoever adds a connection meanwhile starts the reaper again.
        let left = !idle.connections.is_empty() || !h2.is_empty() || !h3.is_empty();
        idle.reaper_runs = left;
        drop((h2, h3, idle));
        drop(dead);
        close_all(spent.0);
        close_all(spent.1);
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

/// How often idle HTTP/1 connections are looked through.
const REAP_EVERY: Duration = Duration::from_secs(1);
