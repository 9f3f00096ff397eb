//! Where the current snapshot is.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

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
    left: Mutex<Left>,
}

/// Listeners that left the configuration and still have connections. They hold their last view here, and not each
/// connection its own: an idle connection would keep a configuration long replaced.
#[derive(Debug, Default)]
struct Left {
    views: HashMap<Arc<str>, Arc<Listener>>,
    ties: HashMap<Arc<str>, Weak<Tie>>,
}

/// Held by every connection of a listener: as long as one is, [`SnapshotCell::tied`] finds the listener.
#[derive(Debug)]
pub struct Tie {
    listener: Arc<str>,
}

impl SnapshotCell {
    /// Starts with a first snapshot.
    #[must_use]
    pub fn new(first: Snapshot) -> Self {
        Self {
            current: ArcSwap::from_pointee(first),
            replaced: Mutex::default(),
            told: Mutex::default(),
            left: Mutex::default(),
        }
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

    /// Ties a connection to its listener. `view` is what the configuration said when it was accepted.
    #[must_use]
    pub fn tie(&self, view: &Arc<Listener>) -> Arc<Tie> {
        let name = &view.config.name;
        let mut left = self.left.lock();
        if self.listener(name).is_none() {
            left.views.entry(Arc::clone(name)).or_insert_with(|| Arc::clone(view));
        }
        if let Some(tie) = left.ties.get(name).and_then(Weak::upgrade) {
            return tie;
        }
        let tie = Arc::new(Tie { listener: Arc::clone(name) });
        left.ties.insert(Arc::clone(name), Arc::downgrade(&tie));
        tie
    }

    /// The view of a listener for one of its connections: the current one, or the last.
    ///
    /// # Panics
    /// Never: a listener that leaves stays here as long as it has ties.
    #[must_use]
    pub fn tied(&self, tie: &Tie) -> Arc<Listener> {
        self.listener(&tie.listener).unwrap_or_else(|| self.departed(tie))
    }

    #[cold]
    fn departed(&self, tie: &Tie) -> Arc<Listener> {
        let left = self.left.lock();
        // It may have come back before the lock was taken.
        let view = left.views.get(&tie.listener).cloned().or_else(|| self.listener(&tie.listener));
        view.expect("a listener stays as long as it has ties")
    }

    /// Publishes a snapshot: the next request of every connection sees it.
    pub fn store(&self, next: Snapshot) {
        let next = Arc::new(next);
        let before = self.replace(&next);
        let told = self.told.lock().clone();
        for one in told {
            one.published(&before, &next);
        }
        self.replaced.lock().push(before);
        self.sweep();
    }

    /// Publishes, and keeps the views of listeners that leave with it. All under one lock: who looks for a listener
    /// finds it in the snapshot or among those that left.
    fn replace(&self, next: &Arc<Snapshot>) -> Arc<Snapshot> {
        let mut left = self.left.lock();
        let before = self.current.load_full();
        let gone = before.listeners.iter().filter(|(name, _)| next.listener(name).is_none());
        left.views.extend(gone.map(|(name, view)| (Arc::clone(name), Arc::clone(view))));
        self.current.store(Arc::clone(next));
        let back: Vec<_> = left.views.extract_if(|name, _| next.listener(name).is_some()).collect();
        drop(left);
        drop(back);
        before
    }

    /// Drops replaced snapshots that no request uses any more, and views of listeners whose connections are gone.
    /// Called from the control thread.
    pub fn sweep(&self) {
        let drained: Vec<_> = {
            let Left { views, ties } = &mut *self.left.lock();
            ties.retain(|_, tie| tie.strong_count() > 0);
            views.extract_if(|name, _| !ties.contains_key(name)).collect()
        };
        drop(drained);
        let done: Vec<_> = {
            let mut replaced = self.replaced.lock();
            replaced.extract_if(.., |snapshot| Arc::strong_count(snapshot) == 1 && !snapshot.is_in_use()).collect()
        };
        drop(done);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::tls::TlsSet;
    use crate::telemetry::Metrics;
    use crate::upstream::Registry;
    use crate::upstream::dns::{Answer, BoxFuture, Resolve};

    struct NoNames;

    impl Resolve for NoNames {
        fn resolve<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Answer, String>> {
            Box::pin(async { Err("no names here".to_owned()) })
        }
    }

    /// A snapshot with these listeners.
    fn snapshot(names: &[&str], generation: u64) -> Snapshot {
        let listeners: Vec<String> =
            names.iter().map(|name| format!("{{ name: {name}, bind: 127.0.0.1:0, routes: r }}")).collect();
        let text = format!(
            "listeners: [{}]\n\
             routes: {{ r: [{{ rules: [{{ backendRefs: [{{ cluster: c }}] }}] }}] }}\n\
             clusters: {{ c: {{ endpoints: [127.0.0.1:1] }} }}\n",
            listeners.join(", ")
        );
        let loaded = Arc::new(outrigger_config::load("test.yaml", &text).expect("valid"));
        let metrics = Metrics::new();
        let registry = Registry::new(1, Arc::clone(&metrics), Box::new(NoNames));
        Snapshot::compile((&loaded, &TlsSet::default()), &registry, &metrics, generation)
    }

    #[test]
    fn connections_of_a_listener_that_left_find_its_last_view_and_idle_ones_keep_no_other() {
        let cell = SnapshotCell::new(snapshot(&["a", "b"], 1));
        let (tie, first) = {
            let first = cell.listener("a").expect("there");
            (cell.tie(&first), Arc::downgrade(&first))
        };
        cell.store(snapshot(&["a", "b"], 2));
        assert!(first.upgrade().is_none(), "an idle connection keeps no configuration");
        cell.store(snapshot(&["b"], 3));
        assert!(cell.listener("a").is_none());
        assert_eq!(cell.tied(&tie).generation, 2);
        cell.store(snapshot(&["b"], 4));
        assert_eq!(cell.tied(&tie).generation, 2);

        cell.store(snapshot(&["a", "b"], 5));
        assert_eq!(cell.tied(&tie).generation, 5, "it is back");
        cell.store(snapshot(&["b"], 6));
        let last = Arc::downgrade(&cell.tied(&tie));
        drop(tie);
        cell.sweep();
        assert!(last.upgrade().is_none(), "its connections are gone");
    }

    #[test]
    fn one_accepted_before_its_listener_left_is_tied_after() {
        let cell = SnapshotCell::new(snapshot(&["a", "b"], 1));
        let view = cell.listener("a").expect("there");
        cell.store(snapshot(&["b"], 2));
        let tie = cell.tie(&view);
        cell.sweep();
        assert_eq!(cell.tied(&tie).generation, 1);
    }
}
