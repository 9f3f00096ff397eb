//! Connections that many requests share, and who waits for a stream of one.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::dial::Made;
use super::turn::Failure;
use super::{Preference, Wire, WorkerPool};
use crate::codec::h2::{H2Connection, StreamSlot};
use crate::net::tls::ClientTls;
use crate::upstream::guards::Open;

/// A kind of connection that carries many requests at once.
pub(super) trait Multiplexed: Sized + Send + 'static {
    /// The right to send one request.
    type Slot;
    /// What must be known to open one.
    type Order: Copy + Send + 'static;

    /// Where a worker keeps those of this kind.
    fn of(pool: &WorkerPool) -> &Mutex<Shared<Self>>;

    /// Opens one.
    fn dial(
        pool: &Arc<WorkerPool>,
        guard: Open,
        order: Self::Order,
        tls: Option<&ClientTls>,
    ) -> impl Future<Output = Result<Made<Self>, Failure>> + Send;

    /// Whether no connection will be of this kind, because the server chooses another.
    fn is_off(_pool: &WorkerPool, _order: Self::Order) -> bool {
        false
    }

    /// A stream, if one is free.
    fn reserve(&self) -> Option<Self::Slot>;

    /// Streams that may be open at once.
    fn capacity(&self) -> usize;

    /// Whether it takes no more requests.
    fn is_closing(&self) -> bool;

    /// Takes no more requests, and ends with its last stream.
    fn close_gracefully(&self);

    /// Since when no stream is open.
    fn idle_since(&self) -> Option<Instant>;
}

impl Multiplexed for H2Connection {
    type Slot = StreamSlot;
    type Order = Wire;

    fn of(pool: &WorkerPool) -> &Mutex<Shared<Self>> {
        &pool.h2
    }

    async fn dial(
        pool: &Arc<WorkerPool>,
        guard: Open,
        wire: Wire,
        tls: Option<&ClientTls>,
    ) -> Result<Made<Self>, Failure> {
        pool.make(guard, wire, tls).await
    }

    fn is_off(pool: &WorkerPool, wire: Wire) -> bool {
        wire == Wire::Negotiated && pool.chose_http1()
    }

    fn reserve(&self) -> Option<StreamSlot> {
        Self::reserve(self)
    }

    fn capacity(&self) -> usize {
        Self::capacity(self)
    }

    fn is_closing(&self) -> bool {
        Self::is_closing(self)
    }

    fn close_gracefully(&self) {
        Self::close_gracefully(self);
    }

    fn idle_since(&self) -> Option<Instant> {
        Self::idle_since(self)
    }
}

/// Connections of one kind, the oldest first, and who waits for one.
#[derive(Debug)]
pub(super) struct Shared<C> {
    connections: Vec<Kept<C>>,
    pub(super) dialing: usize,
    pub(super) waiting: VecDeque<oneshot::Sender<Result<(), Failure>>>,
}

#[derive(Debug)]
struct Kept<C> {
    handle: C,
    retire_at: Option<Instant>,
}

impl<C> Default for Shared<C> {
    fn default() -> Self {
        Self { connections: Vec::new(), dialing: 0, waiting: VecDeque::new() }
    }
}

impl<C: Multiplexed> Shared<C> {
    pub(super) fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    pub(super) fn push(&mut self, handle: C, retire_at: Option<Instant>) {
        self.connections.push(Kept { handle, retire_at });
    }

    /// A stream on the first connection that has room, the oldest or the youngest first. Connections that are
    /// ending or too old are taken out and given back in `gone`: they must be closed outside the lock, because
    /// closing wakes those who wait.
    pub(super) fn reserve(&mut self, preference: Preference, now: Instant, gone: &mut Vec<C>) -> Option<C::Slot> {
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
    pub(super) fn wake(&mut self, mut room: usize) {
        while room > 0 {
            let Some(waiter) = self.waiting.pop_front() else { return };
            if waiter.send(Ok(())).is_ok() {
                room -= 1;
            }
        }
    }

    pub(super) fn fail(&mut self, failure: &Failure) {
        for waiter in self.waiting.drain(..) {
            // A waiter that has left is no loss.
            let _ = waiter.send(Err(failure.clone()));
        }
    }

    /// Takes all connections out; who waits is sent elsewhere.
    pub(super) fn retire(&mut self) -> Vec<C> {
        self.fail(&Failure::Retired);
        std::mem::take(&mut self.connections).into_iter().map(|connection| connection.handle).collect()
    }

    /// Takes out those that nobody uses.
    pub(super) fn take_unused(&mut self) -> Vec<C> {
        self.take(|connection| connection.handle.idle_since().is_some())
    }

    /// Takes out those that are ending, too old, or were unused since before `idle_before`.
    pub(super) fn take_spent(&mut self, now: Instant, idle_before: Option<Instant>) -> Vec<C> {
        self.take(|Kept { handle, retire_at }| {
            handle.is_closing()
                || handle.idle_since().is_some_and(|since| idle_before.is_some_and(|before| since <= before))
                || retire_at.is_some_and(|retire_at| retire_at <= now)
        })
    }

    fn take(&mut self, which: impl Fn(&Kept<C>) -> bool) -> Vec<C> {
        self.connections.extract_if(.., |connection| which(connection)).map(|connection| connection.handle).collect()
    }
}

/// Closes connections; never called with a lock of the pool held.
pub(super) fn close_all<C: Multiplexed>(connections: impl IntoIterator<Item = C>) {
    for connection in connections {
        connection.close_gracefully();
    }
}
