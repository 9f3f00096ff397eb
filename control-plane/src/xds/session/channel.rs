//! One kind of resources on one stream: what the client holds, what it lacks, and what is on its way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use outrigger_xds::{Kind, Resource};
use tokio::time::Instant;

use super::subscription::{Subscription, is_full};
use super::{Nack, Now, Push};
use crate::fleet::{KindReport, Protocol, Refused, Resources, version_of};
use crate::xds::limits::MAX_REFUSALS;

/// What a client has under a name.
#[derive(Debug, Clone)]
pub(super) enum Held {
    /// This, from us, or the same from an earlier stream.
    Resource(Arc<Resource>),
    /// Something else, from an earlier stream.
    Other,
    /// It has been told that there is nothing.
    Absent,
}

/// A response that is not answered yet.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) nonce: u64,
    pub(super) at: Instant,
    version: Arc<str>,
    generation: u64,
    resources: Vec<Arc<Resource>>,
    /// What the client had before, under names whose resource is another now. Full sets alone need it.
    before: BTreeMap<Arc<str>, Arc<Resource>>,
}

/// A resource that the client refused and that has not changed since.
#[derive(Debug)]
struct Refusal {
    version: Arc<str>,
    /// The response that was refused, when the client did not say which of its resources was wrong: when one of them
    /// changes, the others are given another chance.
    response: Option<u64>,
    /// What the client goes on with.
    before: Option<Arc<Resource>>,
}

/// An answer, as it is recorded.
#[derive(Debug)]
pub(in crate::xds) struct Answered {
    pub(in crate::xds) kind: Kind,
    pub(in crate::xds) generation: u64,
    pub(in crate::xds) version: Arc<str>,
    pub(in crate::xds) refusals: Vec<Refused>,
    /// Some resource was taken.
    pub(super) took: bool,
}

#[derive(Debug)]
pub(super) struct Channel {
    pub(super) kind: Kind,
    protocol: Protocol,
    pub(super) subscription: Option<Subscription>,
    target: Arc<Resources>,
    pub(super) held: BTreeMap<Arc<str>, Held>,
    /// To be sent, now or when its turn comes.
    pub(super) adds: BTreeMap<Arc<str>, Arc<Resource>>,
    /// Held, and not in the target any more.
    pub(super) removes: BTreeSet<Arc<str>>,
    /// Asked for, and not there: to be told so. Delta alone can say it.
    absent: BTreeSet<Arc<str>>,
    /// Given up by name and not part of the wildcard subscription that goes on: to be told so.
    dropped: BTreeSet<Arc<str>>,
    /// A response is due even if it says nothing new.
    pub(super) due: bool,
    pub(super) dirty: bool,
    pub(super) in_flight: Option<InFlight>,
    pub(super) last_nonce: Option<u64>,
    refused: BTreeMap<Arc<str>, Refusal>,
    pub(super) refused_at: Option<Instant>,
    refusals: Vec<Refused>,
    refused_version: Option<(Arc<str>, std::time::SystemTime)>,
    sent_version: Option<Arc<str>>,
    accepted_version: Option<Arc<str>>,
}

impl Channel {
    pub(super) fn new(kind: Kind, protocol: Protocol, target: Arc<Resources>) -> Self {
        Self {
            kind,
            protocol,
            subscription: None,
            target,
            held: BTreeMap::new(),
            adds: BTreeMap::new(),
            removes: BTreeSet::new(),
            absent: BTreeSet::new(),
            dropped: BTreeSet::new(),
            due: false,
            dirty: false,
            in_flight: None,
            last_nonce: None,
            refused: BTreeMap::new(),
            refused_at: None,
            refusals: Vec::new(),
            refused_version: None,
            sent_version: None,
            accepted_version: None,
        }
    }

    pub(super) fn target(&self) -> &Arc<Resources> {
        &self.target
    }

    pub(super) fn is_refused(&self) -> bool {
        !self.refused.is_empty()
    }

    /// Something is to be said that waits for no removal.
    pub(super) fn has_news(&self) -> bool {
        let removes_now = self.kind == Kind::Listener && !self.removes.is_empty();
        self.due || removes_now || !self.adds.is_empty() || !self.absent.is_empty() || !self.dropped.is_empty()
    }

    /// Some resource of the target is not asked for, not sent, or not answered.
    pub(super) fn is_settling(&self) -> bool {
        let uncovered = || match &self.subscription {
            Some(subscription) => !self.target.by_name().keys().all(|name| subscription.covers(name)),
            None => !self.target.by_name().is_empty(),
        };
        self.in_flight.is_some() || !self.adds.is_empty() || uncovered()
    }

    pub(super) fn retarget(&mut self, target: &Arc<Resources>) {
        if Arc::ptr_eq(&self.target, target) {
            return;
        }
        self.target = Arc::clone(target);
        self.dirty = true;
        self.end_refusals();
    }

    /// Ends the refusals of what has changed since.
    fn end_refusals(&mut self) {
        let target = Arc::clone(&self.target);
        let is_new = |name: &str, refusal: &Refusal| {
            target.by_name().get(name).is_none_or(|resource| resource.version != refusal.version)
        };
        self.end_refusals_of(is_new);
    }

    /// Ends some refusals, and gives what was refused along with them another chance.
    fn end_refusals_of(&mut self, which: impl Fn(&str, &Refusal) -> bool) {
        let mut responses = BTreeSet::new();
        let (full, before) = (self.is_full(), self.refused.len());
        let (target, held) = (self.target.by_name(), &mut self.held);
        self.refused.retain(|name, refusal| {
            let ends = which(name, refusal);
            if ends {
                responses.extend(refusal.response);
                // A full set that still needs the name must not bring again what was refused.
                if full && !target.contains_key(name) {
                    match refusal.before.take() {
                        Some(before) => held.insert(Arc::clone(name), Held::Resource(before)),
                        None => held.remove(name),
                    };
                } else if let Some(held) = held.get_mut(name) {
                    *held = Held::Other;
                }
            }
            !ends
        });
        // Whatever the client made of the set that it refused: it is told anew what there is.
        self.due |= full && self.refused.len() != before;
        self.retry(|refusal| refusal.response.is_some_and(|response| responses.contains(&response)));
    }

    /// Gives everything that was refused another chance: what it refers to has changed.
    pub(super) fn retry_refused(&mut self) {
        self.retry(|_| true);
    }

    fn retry(&mut self, which: impl Fn(&Refusal) -> bool) {
        let held = &mut self.held;
        let before = self.refused.len();
        self.refused.retain(|name, refusal| {
            let retried = which(refusal);
            if retried {
                held.insert(Arc::clone(name), Held::Other);
            }
            !retried
        });
        self.dirty |= self.refused.len() != before;
        self.forget_refusals();
    }

    /// Makes the client be sent a resource that it has, if there is one.
    pub(super) fn resend(&mut self, name: &str) {
        if let Some(held) = self.held.get_mut(name)
            && matches!(held, Held::Resource(_))
        {
            *held = Held::Other;
            self.dirty = true;
        }
    }

    /// Drops everything that is not subscribed to any more. The client has dropped it, too.
    pub(super) fn keep_covered(&mut self) {
        let Some(subscription) = self.subscription.take() else { return };
        self.held.retain(|name, _| subscription.covers(name));
        self.end_refusals_of(|name, _| !subscription.covers(name));
        self.subscription = Some(subscription);
        self.dirty = true;
    }

    pub(super) fn forget(&mut self, name: &str) {
        self.held.remove(name);
        self.end_refusals_of(|refused, _| refused == name);
        self.dirty = true;
    }

    /// The client has given up a name, and goes on with everything: it must be told what that means for the name.
    pub(super) fn tell_dropped(&mut self, name: Arc<str>) {
        self.dropped.insert(name);
        self.dirty = true;
    }

    /// Finds out what the client lacks.
    pub(super) fn refresh(&mut self) {
        if !std::mem::take(&mut self.dirty) {
            return;
        }
        self.adds.clear();
        self.removes.clear();
        self.absent.clear();
        let Some(subscription) = &self.subscription else { return };
        let target = self.target.by_name();
        let held = &self.held;
        let lacks = |name: &Arc<str>, resource: &Arc<Resource>| match held.get(name) {
            Some(Held::Resource(has)) => !Arc::ptr_eq(has, resource) && has.version != resource.version,
            Some(Held::Other | Held::Absent) | None => true,
        };
        if subscription.wildcard {
            let lacking = target.iter().filter(|(name, resource)| lacks(name, resource));
            self.adds.extend(lacking.map(|(name, resource)| (Arc::clone(name), Arc::clone(resource))));
        } else {
            let lacking = subscription.names.iter().filter_map(|name| target.get_key_value(name));
            let lacking = lacking.filter(|(name, resource)| lacks(name, resource));
            self.adds.extend(lacking.map(|(name, resource)| (Arc::clone(name), Arc::clone(resource))));
        }
        let gone = held.iter().filter(|(name, held)| !matches!(held, Held::Absent) && !target.contains_key(*name));
        self.removes.extend(gone.map(|(name, _)| Arc::clone(name)));
        match self.protocol {
            Protocol::Delta => {
                let unknown =
                    subscription.names.iter().filter(|name| !target.contains_key(*name) && !held.contains_key(*name));
                self.absent.extend(unknown.cloned());
            }
            // There are no words for it: should it come back, it is sent again.
            Protocol::StateOfTheWorld if !is_full(self.kind) => {
                for name in std::mem::take(&mut self.removes) {
                    self.held.remove(&name);
                }
            }
            Protocol::StateOfTheWorld => {}
        }
        let dropped = std::mem::take(&mut self.dropped);
        self.dropped = dropped.into_iter().filter(|name| !target.contains_key(name)).collect();
    }

    /// The next response but for removals that wait, without what `waits`. None: there is nothing to say but that.
    pub(super) fn take_news(&mut self, waits: impl Fn(&str) -> bool, stamp: Stamp) -> Option<Push> {
        let mut removed = if self.kind == Kind::Listener { self.drop_removed() } else { Vec::new() };
        if self.is_full() {
            self.adds.clear();
            return Some(self.push(self.everything(), Vec::new(), stamp));
        }
        let adds = std::mem::take(&mut self.adds);
        let (later, now): (BTreeMap<_, _>, BTreeMap<_, _>) = adds.into_iter().partition(|(name, _)| waits(name));
        self.adds = later;
        for name in std::mem::take(&mut self.absent) {
            self.held.insert(Arc::clone(&name), Held::Absent);
            removed.push(name);
        }
        removed.extend(std::mem::take(&mut self.dropped));
        removed.sort_unstable();
        removed.dedup();
        if now.is_empty() && removed.is_empty() && !self.due {
            return None;
        }
        Some(self.push(now.into_values().collect(), removed, stamp))
    }

    /// The removals that waited.
    pub(super) fn take_removals(&mut self, stamp: Stamp) -> Option<Push> {
        if self.removes.is_empty() {
            return None;
        }
        let removed = self.drop_removed();
        Some(match self.protocol {
            Protocol::Delta => self.push(Vec::new(), removed, stamp),
            Protocol::StateOfTheWorld => self.push(self.everything(), Vec::new(), stamp),
        })
    }

    /// Takes the answer to the response in flight.
    pub(super) fn answer(&mut self, nack: Option<Nack>, now: Now) -> Option<Answered> {
        let in_flight = self.in_flight.take()?;
        let InFlight { nonce, version, generation, resources, mut before, .. } = in_flight;
        let Some(nack) = nack else {
            self.accepted_version = Some(Arc::clone(&version));
            self.forget_refusals();
            return Some(Answered {
                kind: self.kind,
                generation,
                version,
                refusals: Vec::new(),
                took: !resources.is_empty(),
            });
        };
        let named = |resource: &&Arc<Resource>| nack.refusals.iter().any(|refused| refused.resource == *resource.name);
        let says_which = resources.iter().any(|resource| named(&resource));
        let (mut took, mut given_up) = (false, false);
        for resource in &resources {
            if says_which && !named(&resource) {
                took = true;
                continue;
            }
            if matches!(self.held.get(&resource.name), Some(Held::Resource(has)) if has.version == resource.version) {
                let response = (!says_which && resources.len() > 1).then_some(nonce);
                let before = before.remove(&resource.name);
                let refusal = Refusal { version: Arc::clone(&resource.version), response, before };
                self.refused.insert(Arc::clone(&resource.name), refusal);
            } else {
                given_up = true;
            }
        }
        let new = |old: &Refused| nack.refusals.iter().any(|refused| refused.resource == old.resource);
        let refused = &self.refused;
        self.refusals.retain(|old| !new(old) && refused.contains_key(&*old.resource));
        self.refusals.splice(..0, nack.refusals.iter().cloned());
        self.refusals.truncate(MAX_REFUSALS);
        self.refused_at = Some(now.instant);
        self.refused_version = Some((Arc::clone(&version), now.wall));
        // What was wrong may have changed since, or not be there any more.
        self.end_refusals();
        if given_up {
            self.retry(|refusal| refusal.response == Some(nonce));
        }
        Some(Answered { kind: self.kind, generation, version, refusals: nack.refusals, took })
    }

    pub(super) fn report(&self) -> KindReport {
        let names =
            self.held.iter().filter(|(_, held)| !matches!(held, Held::Absent)).map(|(name, _)| Arc::clone(name));
        KindReport {
            kind: self.kind,
            sent_version: self.sent_version.clone(),
            accepted_version: self.accepted_version.clone(),
            refusals: self.refusals.clone(),
            refused: self.refused_version.clone(),
            names: names.collect(),
        }
    }

    fn push(&mut self, resources: Vec<Arc<Resource>>, removed: Vec<Arc<str>>, stamp: Stamp) -> Push {
        let full = self.is_full();
        let version = if full { version_of(resources.iter()) } else { Arc::clone(self.target.version()) };
        let before = if full { self.before(&resources) } else { BTreeMap::new() };
        if !self.refused.is_empty() {
            let sent: BTreeSet<&str> = resources.iter().map(|resource| &*resource.name).collect();
            self.end_refusals_of(|name, _| sent.contains(name));
        }
        for resource in &resources {
            self.held.insert(Arc::clone(&resource.name), Held::Resource(Arc::clone(resource)));
        }
        self.due = false;
        self.last_nonce = Some(stamp.nonce);
        self.sent_version = Some(Arc::clone(&version));
        self.in_flight = Some(InFlight {
            nonce: stamp.nonce,
            at: stamp.at,
            version: Arc::clone(&version),
            generation: stamp.generation,
            resources: resources.clone(),
            before,
        });
        Push { kind: self.kind, nonce: stamp.nonce, version, resources, removed }
    }

    /// What the client uses now, of what these replace.
    fn before(&self, resources: &[Arc<Resource>]) -> BTreeMap<Arc<str>, Arc<Resource>> {
        let replaced = resources.iter().filter_map(|resource| {
            let before = match (self.refused.get(&resource.name), self.held.get(&resource.name)) {
                (Some(refusal), _) => refusal.before.as_ref(),
                (None, Some(Held::Resource(held))) if held.version != resource.version => Some(held),
                (None, _) => None,
            };
            before.map(|before| (Arc::clone(&resource.name), Arc::clone(before)))
        });
        replaced.collect()
    }

    fn is_full(&self) -> bool {
        self.protocol == Protocol::StateOfTheWorld && is_full(self.kind)
    }

    /// Everything that the client is to have: the target, and what waits for its removal.
    fn everything(&self) -> Vec<Arc<Resource>> {
        let covered = |name: &str| self.subscription.as_ref().is_some_and(|subscription| subscription.covers(name));
        let mut all: BTreeMap<&Arc<str>, &Arc<Resource>> =
            self.target.by_name().iter().filter(|(name, _)| covered(name)).collect();
        for name in &self.removes {
            if let Some((name, Held::Resource(resource))) = self.held.get_key_value(name) {
                all.insert(name, resource);
            }
        }
        all.into_values().cloned().collect()
    }

    fn drop_removed(&mut self) -> Vec<Arc<str>> {
        let removed = std::mem::take(&mut self.removes);
        let asked_for = |name: &Arc<str>| self.subscription.as_ref().is_some_and(|all| all.names.contains(name));
        for name in &removed {
            if self.protocol == Protocol::Delta && asked_for(name) {
                self.held.insert(Arc::clone(name), Held::Absent);
            } else {
                self.held.remove(name);
            }
        }
        removed.into_iter().collect()
    }

    /// What was refused is shown as long as it stands.
    fn forget_refusals(&mut self) {
        let refused = &self.refused;
        self.refusals
            .retain(|old| !refused.is_empty() && (old.resource.is_empty() || refused.contains_key(&*old.resource)));
        if self.refused.is_empty() {
            self.refused_at = None;
        }
    }
}

/// What a response is sent with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stamp {
    pub(super) nonce: u64,
    pub(super) generation: u64,
    pub(super) at: Instant,
}
