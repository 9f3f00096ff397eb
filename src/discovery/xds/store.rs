//! The resources of a control plane: those in effect, and those that came and are not in effect yet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use outrigger_xds::Kind;

use super::session::{Incoming, Update, Versions};

/// A resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) version: Arc<str>,
    pub(crate) body: Bytes,
}

/// Kind and name of a resource.
pub(crate) type Id = (Kind, Arc<str>);

/// Resources by kind and name.
#[derive(Debug, Default)]
pub(crate) struct Store {
    accepted: BTreeMap<Kind, BTreeMap<Arc<str>, Held>>,
    /// What changes with the next application; `None` is gone.
    pending: BTreeMap<Id, Option<Held>>,
}

impl Store {
    /// Starts with what was in effect before.
    pub(crate) fn new(accepted: impl IntoIterator<Item = (Id, Held)>) -> Self {
        let mut store = Self::default();
        for ((kind, name), held) in accepted {
            store.accepted.entry(kind).or_default().insert(name, held);
        }
        store
    }

    /// What is in effect, or was taken to be.
    pub(crate) fn accepted(&self) -> impl Iterator<Item = (Kind, &Arc<str>, &Held)> {
        self.accepted.iter().flat_map(|(kind, of)| of.iter().map(|(name, held)| (*kind, name, held)))
    }

    /// How many resources there are, what is not in effect yet included.
    pub(crate) fn len(&self) -> usize {
        let staged = self.pending.iter().filter(|((kind, name), held)| {
            held.is_some() && !self.accepted.get(kind).is_some_and(|of| of.contains_key(name))
        });
        self.accepted.values().map(BTreeMap::len).sum::<usize>() + staged.count()
    }

    /// Versions of what was taken: what a server need not send again.
    pub(crate) fn versions(&self) -> Versions {
        let of = |of: &BTreeMap<Arc<str>, Held>| {
            of.iter().map(|(name, held)| (Arc::clone(name), Arc::clone(&held.version))).collect()
        };
        self.accepted.iter().map(|(kind, resources)| (*kind, of(resources))).collect()
    }

    /// Versions of a kind, with what is not in effect yet.
    pub(crate) fn newest(&self, kind: Kind) -> BTreeMap<Arc<str>, Arc<str>> {
        let accepted = self.accepted.get(&kind).into_iter().flatten();
        let mut versions: BTreeMap<Arc<str>, Arc<str>> =
            accepted.map(|(name, held)| (Arc::clone(name), Arc::clone(&held.version))).collect();
        for ((of, name), held) in &self.pending {
            if *of != kind {
                continue;
            }
            match held {
                Some(held) => _ = versions.insert(Arc::clone(name), Arc::clone(&held.version)),
                None => _ = versions.remove(name),
            }
        }
        versions
    }

    /// What is in effect, and what came instead of it or beside it.
    pub(crate) fn both(&self) -> (impl Iterator<Item = (Id, &Held)>, impl Iterator<Item = (Id, &Held)>) {
        let accepted = self.accepted().map(|(kind, name, held)| ((kind, Arc::clone(name)), held));
        let pending = self.pending.iter().filter_map(|(id, held)| Some((id.clone(), held.as_ref()?)));
        (accepted, pending)
    }

    /// What was taken of a name.
    pub(crate) fn taken(&self, kind: Kind, name: &str) -> Option<&Held> {
        self.accepted.get(&kind)?.get(name)
    }

    /// What would be in effect after the next application, if that left `without` out: of that, what was taken before
    /// stays.
    pub(crate) fn effective(&self, without: &BTreeSet<Id>) -> BTreeMap<Id, &Held> {
        let mut all: BTreeMap<Id, &Held> =
            self.accepted().map(|(kind, name, held)| ((kind, Arc::clone(name)), held)).collect();
        for (id, held) in self.pending.iter().filter(|(id, _)| !without.contains(*id)) {
            match held {
                Some(held) => _ = all.insert(id.clone(), held),
                None => _ = all.remove(id),
            }
        }
        all
    }

    /// Notes what a response changes.
    pub(crate) fn stage(&mut self, update: &Update) {
        for Incoming { name, version, body } in &update.changed {
            let held = Held { version: Arc::clone(version), body: body.clone() };
            self.pending.insert((update.kind, Arc::clone(name)), Some(held));
        }
        for name in &update.removed {
            self.pending.insert((update.kind, Arc::clone(name)), None);
        }
    }

    /// What changes with the next application.
    pub(crate) fn pending(&self) -> &BTreeMap<Id, Option<Held>> {
        &self.pending
    }

    /// Takes what is pending, apart from what is refused: of that, what was taken before stays.
    pub(crate) fn commit(&mut self, refused: &BTreeSet<Id>) {
        for (id, held) in std::mem::take(&mut self.pending) {
            if refused.contains(&id) {
                continue;
            }
            let (kind, name) = id;
            let of = self.accepted.entry(kind).or_default();
            match held {
                Some(held) => _ = of.insert(name, held),
                None => _ = of.remove(&name),
            }
        }
    }

    /// Makes what was taken count as what came, where nothing came instead of it: so it can be left out. What that is.
    pub(crate) fn reopen(&mut self, which: impl Fn(Kind, &str) -> bool) -> BTreeSet<Id> {
        let mut reopened: Vec<(Id, Held)> = Vec::new();
        for (kind, of) in &mut self.accepted {
            let pending = &self.pending;
            let taken =
                of.extract_if(.., |name, _| which(*kind, name) && !pending.contains_key(&(*kind, Arc::clone(name))));
            reopened.extend(taken.map(|(name, held)| ((*kind, name), held)));
        }
        let ids = reopened.iter().map(|(id, _)| id.clone()).collect();
        self.pending.extend(reopened.into_iter().map(|(id, held)| (id, Some(held))));
        ids
    }

    /// The opposite of [`Store::reopen`].
    pub(crate) fn close(&mut self, reopened: &BTreeSet<Id>) {
        for (kind, name) in reopened {
            if let Some(Some(held)) = self.pending.remove(&(*kind, Arc::clone(name))) {
                self.accepted.entry(*kind).or_default().insert(Arc::clone(name), held);
            }
        }
    }

    /// Tries again what was refused, unless something came instead of it.
    pub(crate) fn again(&mut self, id: Id, held: Held) {
        self.pending.entry(id).or_insert(Some(held));
    }

    /// Forgets what came and is not in effect. A new stream begins with what was taken: of anything else its server
    /// would not say that it is gone.
    pub(crate) fn discard(&mut self) {
        self.pending.clear();
    }

    /// Forgets resources of a kind that are not wanted any more.
    pub(crate) fn keep_only(&mut self, kind: Kind, wanted: &BTreeSet<Arc<str>>) {
        if let Some(of) = self.accepted.get_mut(&kind) {
            of.retain(|name, _| wanted.contains(name));
        }
        self.pending.retain(|(of, name), _| *of != kind || wanted.contains(name));
    }
}
