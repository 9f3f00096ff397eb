//! How short the process is of memory, and how many connections it has: set by the control thread and by acceptors, read
//! for every request as one relaxed load.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

use tokio::sync::{Notify, watch};

/// What is done about it. Each level does what those before it do as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    /// Nothing: there is enough.
    #[default]
    None,
    /// Idle connections are closed.
    Shrink,
    /// New requests are refused, but critical ones.
    Refuse,
    /// No connection is accepted.
    StopAccepting,
}

/// The pressure on one process.
#[derive(Debug)]
pub struct Pressure {
    level: AtomicU8,
    changes: watch::Sender<Level>,
    open: AtomicUsize,
    max_open: AtomicUsize,
    /// An acceptor waits for room.
    full: AtomicBool,
    room: Notify,
    /// There may be no room any more.
    filled: Notify,
}

/// One connection to a listener, counted until dropped.
#[derive(Debug)]
pub struct OpenConnection(Arc<Pressure>);

/// Hears of changes, on behalf of a connection.
#[derive(Debug, Clone)]
pub struct PressureWatch {
    pressure: Arc<Pressure>,
    changes: watch::Receiver<Level>,
}

impl Level {
    /// All, in order.
    pub const ALL: [Self; 4] = [Self::None, Self::Shrink, Self::Refuse, Self::StopAccepting];

    /// As logs and metrics call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Shrink => "shrink",
            Self::Refuse => "refuse",
            Self::StopAccepting => "stop_accepting",
        }
    }
}

impl Default for Pressure {
    fn default() -> Self {
        Self {
            level: AtomicU8::new(Level::None as u8),
            changes: watch::channel(Level::None).0,
            open: AtomicUsize::new(0),
            max_open: AtomicUsize::new(usize::MAX),
            full: AtomicBool::new(false),
            room: Notify::new(),
            filled: Notify::new(),
        }
    }
}

impl Pressure {
    /// Whether new requests are refused, but critical ones. One relaxed load.
    #[must_use]
    pub fn refuses(&self) -> bool {
        self.is_at(Level::Refuse)
    }

    /// Whether idle connections are closed. One relaxed load.
    #[must_use]
    pub fn shrinks(&self) -> bool {
        self.is_at(Level::Shrink)
    }

    /// The level now.
    #[must_use]
    pub fn level(&self) -> Level {
        *self.changes.borrow()
    }

    /// Open connections of all listeners.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Changes the level. False when it was that already.
    pub fn set(&self, level: Level) -> bool {
        self.level.store(level as u8, Ordering::SeqCst);
        let changed = self.changes.send_if_modified(|old| std::mem::replace(old, level) != level);
        self.tell_acceptors();
        changed
    }

    /// Changes how many connections all listeners may have together.
    pub fn limit_connections(&self, most: usize) {
        if self.max_open.swap(most, Ordering::SeqCst) != most {
            self.tell_acceptors();
        }
    }

    /// Counts a connection.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> OpenConnection {
        self.open.fetch_add(1, Ordering::SeqCst);
        if !self.has_room() {
            self.filled.notify_waiters();
        }
        OpenConnection(Arc::clone(self))
    }

    /// Whether a connection may be accepted.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.level.load(Ordering::SeqCst) < Level::StopAccepting as u8
            && self.open.load(Ordering::SeqCst) < self.max_open.load(Ordering::SeqCst)
    }

    /// Waits until a connection may be accepted. Cancel safe.
    pub async fn room(&self) {
        while !self.has_room() {
            // Enabled, and `full` set, before the count is read again; a connection that ends lowers the count before it
            // reads `full`: one of the two sees the other.
            let mut told = pin!(self.room.notified());
            told.as_mut().enable();
            self.full.store(true, Ordering::SeqCst);
            if self.has_room() {
                return;
            }
            told.await;
        }
    }

    /// Waits until no connection may be accepted: another listener took the last one, or memory became short. Cancel safe.
    pub async fn no_room(&self) {
        while self.has_room() {
            let mut told = pin!(self.filled.notified());
            told.as_mut().enable();
            if self.has_room() {
                told.await;
            }
        }
    }

    /// For a connection.
    #[must_use]
    pub fn watch(self: &Arc<Self>) -> PressureWatch {
        PressureWatch { pressure: Arc::clone(self), changes: self.changes.subscribe() }
    }

    fn tell_acceptors(&self) {
        self.room.notify_waiters();
        self.filled.notify_waiters();
    }

    fn is_at(&self, level: Level) -> bool {
        self.level.load(Ordering::Relaxed) >= level as u8
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
        if self.0.full.load(Ordering::SeqCst) {
            self.0.full.store(false, Ordering::SeqCst);
            // All: each looks whether there is room for it.
            self.0.room.notify_waiters();
        }
    }
}

impl PressureWatch {
    /// Whether idle connections are closed.
    #[must_use]
    pub fn shrinks(&self) -> bool {
        self.pressure.shrinks()
    }

    /// Waits for a change of the level. Cancel safe.
    pub async fn changed(&mut self) {
        if self.changes.changed().await.is_err() {
            // Not while we hold the sender.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_level_does_what_those_before_it_do() {
        let pressure = Pressure::default();
        let mut seen = Vec::new();
        for level in Level::ALL {
            pressure.set(level);
            seen.push((pressure.shrinks(), pressure.refuses(), !pressure.has_room()));
        }
        assert_eq!(seen, [(false, false, false), (true, false, false), (true, true, false), (true, true, true)]);
    }

    #[tokio::test]
    async fn an_acceptor_waits_for_a_connection_to_end_for_a_higher_limit_and_for_memory() {
        let pressure = Arc::new(Pressure::default());
        pressure.limit_connections(1);
        let one = pressure.enter();
        let waiting = |pressure: &Arc<Pressure>| {
            let pressure = Arc::clone(pressure);
            tokio::spawn(async move { pressure.room().await })
        };
        let waiter = waiting(&pressure);
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        drop(one);
        waiter.await.expect("there is room");

        let _one = pressure.enter();
        let waiter = waiting(&pressure);
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        pressure.limit_connections(2);
        waiter.await.expect("there is room");

        pressure.set(Level::StopAccepting);
        let waiter = waiting(&pressure);
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        pressure.set(Level::Refuse);
        waiter.await.expect("there is room");
    }

    #[tokio::test]
    async fn a_connection_hears_of_every_change() {
        let pressure = Arc::new(Pressure::default());
        let mut watch = pressure.watch();
        assert!(pressure.set(Level::Shrink));
        assert!(!pressure.set(Level::Shrink));
        watch.changed().await;
        assert!(watch.shrinks());
        pressure.set(Level::None);
        watch.changed().await;
        assert!(!watch.shrinks());
    }
}
