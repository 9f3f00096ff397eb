//! Where the current snapshot is.

use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::{Listener, Snapshot};

/// The current snapshot, swapped whole.
#[derive(Debug)]
pub struct SnapshotCell {
    current: ArcSwap<Snapshot>,
    /// Replaced ones that requests still use. They are dropped by whoever publishes, never by a worker:
    /// taking a table of 10,000 rules apart would hold every request on that worker up.
    replaced: Mutex<Vec<Arc<Snapshot>>>,
}

impl SnapshotCell {
    /// Starts with a first snapshot.
    #[must_use]
    pub fn new(first: Snapshot) -> Self {
        Self { current: ArcSwap::from_pointee(first), replaced: Mutex::default() }
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

    /// Publishes a snapshot: the next request of every connection sees it.
    pub fn store(&self, next: Snapshot) {
        let before = self.current.swap(Arc::new(next));
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
