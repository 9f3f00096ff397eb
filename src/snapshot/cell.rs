//! Where the current snapshot is.

use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::{Listener, Snapshot};

/// Is told of every snapshot that replaces another, after it is in effect, on the control thread.
pub trait Published: std::fmt::Debug + Send + Sync {
    /// `now` has replaced `before`.
    fn published(&self, before: &Snapshot, now: &Snapshot);
}

/// The current snapshot, swapped whole.
#[derive(Debug)]
pub struct SnapshotCell {
    current: ArcSwap<Snapshot>,
    /// Replaced ones that requests still use. They are dropped by whoever publishes, never by a worker:
    /// taking a table of 10,000 rules apart would hold every request on that worker up.
    replaced: Mutex<Vec<Arc<Snapshot>>>,
    told: Mutex<Vec<Arc<dyn Published>>>,
}

impl SnapshotCell {
    /// Starts with a first snapshot.
    #[must_use]
    pub fn new(first: Snapshot) -> Self {
        Self { current: ArcSwap::from_pointee(first), replaced: Mutex::default(), told: Mutex::default() }
    }

    /// The current snapshot.
    #[must_use]
    pub fn load(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// The current view of a listener.
    #[must_use]
    pub fn listener(&self, name: &str) -> Option<Arc<Listener>> {
        self.current.load().listener(name).cloned()
    }

    /// Tells `whom` of every further snapshot.
    pub fn tell(&self, whom: Arc<dyn Published>) {
        self.told.lock().push(whom);
    }

    /// Publishes a snapshot: the next request of every connection sees it.
    pub fn store(&self, next: Snapshot) {
        let next = Arc::new(next);
        let before = self.current.swap(Arc::clone(&next));
        let told = self.told.lock().clone();
        for one in told {
            one.published(&before, &next);
        }
        self.replaced.lock().push(before);
        self.sweep();
    }

    /// Drops replaced snapshots that no request uses any more. Called from the control thread.
    pub fn sweep(&self) {
        let done: Vec<_> = {
            let mut replaced = self.replaced.lock();
            replaced.extract_if(.., |snapshot| Arc::strong_count(snapshot) == 1 && !snapshot.is_in_use()).collect()
        };
        drop(done);
    }
}
