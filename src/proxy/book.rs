//! What is open and may have to end: exchanges and connections that live long, entered with what authorization saw of
//! them. When a snapshot is published, the control thread decides about the entries of listeners whose policy has
//! changed, and wakes only what must end: workers do no work for the others.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use foldhash::fast::RandomState;
use parking_lot::Mutex;

use crate::base::worker;
use crate::snapshot::{Listener, Published, Snapshot, SnapshotCell};

/// One that is entered.
pub(super) trait Open: fmt::Debug + Send + Sync {
    /// The listener that it came by.
    fn listener(&self) -> &Arc<str>;

    /// Ends it if this view of its listener would not let it in.
    fn decide(&self, listener: &Listener);
}

/// The entries of all workers.
#[derive(Debug)]
pub(super) struct Book<E> {
    shards: [Mutex<HashMap<usize, Arc<E>, RandomState>>; SHARDS],
}

/// More workers than that share.
const SHARDS: usize = 8;

/// An entry, until dropped.
#[derive(Debug)]
pub(super) struct Entered<E> {
    entry: Arc<E>,
    book: Arc<Book<E>>,
    shard: usize,
}

impl<E> Default for Book<E> {
    fn default() -> Self {
        Self { shards: Default::default() }
    }
}

impl<E: Open> Book<E> {
    /// Enters what this view of its listener let in. If another one was published meanwhile, that decides at once.
    pub(super) fn enter(self: &Arc<Self>, entry: E, let_in_by: &Listener, cell: &SnapshotCell) -> Entered<E> {
        let entry = Arc::new(entry);
        let shard = worker::index() % SHARDS;
        self.shards[shard].lock().insert(key(&entry), Arc::clone(&entry));
        // Entered first, looked at second: whatever is published from now on is seen from the other side.
        if let Some(now) = cell.listener(entry.listener())
            && !now.authorizes_like(let_in_by)
        {
            entry.decide(&now);
        }
        Entered { entry, book: Arc::clone(self), shard }
    }

    /// How many are entered.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}

impl<E: Open> Published for Book<E> {
    fn published(&self, before: &Snapshot, now: &Snapshot) {
        let changed = |listener: &&Arc<Listener>| {
            before.listener(&listener.config.name).is_none_or(|before| !before.authorizes_like(listener))
        };
        let changed: Vec<&Arc<Listener>> = now.listeners().filter(changed).collect();
        if changed.is_empty() {
            return;
        }
        for shard in &self.shards {
            // Copied, so that no worker waits for decisions.
            let entries: Vec<Arc<E>> = shard.lock().values().cloned().collect();
            for entry in entries {
                if let Some(listener) = changed.iter().find(|listener| listener.config.name == *entry.listener()) {
                    entry.decide(listener);
                }
            }
        }
    }
}

impl<E> Entered<E> {
    pub(super) fn entry(&self) -> &E {
        &self.entry
    }
}

impl<E> Drop for Entered<E> {
    fn drop(&mut self) {
        self.book.shards[self.shard].lock().remove(&key(&self.entry));
    }
}

/// Unique as long as the entry lives.
fn key<E>(entry: &Arc<E>) -> usize {
    Arc::as_ptr(entry).addr()
}
