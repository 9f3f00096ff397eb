//! Open connections and changing policies: a connection that is handed on when its listener's policy changes, and that
//! the new one would not let in, is ended; no other is touched.
//!
//! Such connections live long, so each is entered at once. When a snapshot is published, the control thread decides
//! about those of listeners whose policy has changed, and wakes only connections that must end.

use std::collections::HashMap;
use std::future;
use std::sync::{Arc, OnceLock};

use foldhash::fast::RandomState;
use outrigger_config::model::Access;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::decide;
use crate::base::worker;
use crate::net::ConnInfo;
use crate::proxy::Proxy;
use crate::snapshot::{Listener, Published, Snapshot};

/// The connections of all workers.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Passages {
    shards: [Mutex<HashMap<usize, Arc<Entry>, RandomState>>; SHARDS],
}

/// More workers than that share.
const SHARDS: usize = 8;

#[derive(Debug)]
struct Entry {
    listener: Arc<str>,
    caller: Arc<ConnInfo>,
    /// The rule that ends it.
    ended: OnceLock<Arc<str>>,
    told: Notify,
}

/// A connection that is entered, until dropped.
#[derive(Debug)]
pub(super) struct Watched {
    entered: Option<(Arc<Entry>, Arc<Passages>, usize)>,
}

impl Proxy {
    /// Enters a connection that was let in.
    pub(super) fn watch_passage(&self, listener: &Arc<Listener>, caller: &Arc<ConnInfo>) -> Watched {
        let entry = Arc::new(Entry {
            listener: Arc::clone(&listener.config.name),
            caller: Arc::clone(caller),
            ended: OnceLock::new(),
            told: Notify::new(),
        });
        let shard = worker::index() % SHARDS;
        self.passages.shards[shard].lock().insert(key(&entry), Arc::clone(&entry));
        // Entered first, looked at second: whatever is published from now on is seen from the other side.
        if let Some(now) = self.cell.listener(&entry.listener)
            && !now.authorizes_like(listener)
        {
            entry.decide(&now);
        }
        Watched { entered: Some((entry, Arc::clone(&self.passages), shard)) }
    }
}

impl Watched {
    /// One that nothing ends.
    pub(super) fn never() -> Self {
        Self { entered: None }
    }

    /// Waits for the rule that ends it. Cancel safe.
    pub(super) async fn ended(&self) -> Arc<str> {
        let Some((entry, ..)) = &self.entered else { return future::pending().await };
        loop {
            if let Some(rule) = entry.ended.get() {
                return Arc::clone(rule);
            }
            // Nobody else waits, and one that was told before it waits is told at once.
            entry.told.notified().await;
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some((entry, passages, shard)) = &self.entered {
            passages.shards[*shard].lock().remove(&key(entry));
        }
    }
}

impl Published for Passages {
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
            let entries: Vec<Arc<Entry>> = shard.lock().values().cloned().collect();
            for entry in entries {
                if let Some(listener) = changed.iter().find(|listener| listener.config.name == entry.listener) {
                    entry.decide(listener);
                }
            }
        }
    }
}

impl Entry {
    /// Ends the connection if this view of its listener would not let it in.
    fn decide(&self, listener: &Listener) {
        let Some(authorization) = &listener.authorization else { return };
        let decision = decide(authorization, &self.caller);
        if decision.access == Access::Deny && self.ended.set(authorization.policy.name(decision.rule).into()).is_ok() {
            authorization.count_ended(decision.rule);
            self.told.notify_one();
        }
    }
}

/// Unique as long as the entry lives.
fn key(entry: &Arc<Entry>) -> usize {
    Arc::as_ptr(entry).addr()
}
