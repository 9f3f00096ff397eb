//! What one stream's client holds, and what it is sent next.
//!
//! Time is an argument, and nothing here waits. Of each kind at most one response is unanswered, so that a client that is
//! slow costs no more than one that is not: what it lacks is known by name, and the newest state of it is sent when its
//! turn comes.
//!
//! **Order.** What is referred to comes before what refers to it: secrets, clusters, endpoints, listeners, routes.
//! Listeners and routes wait until the clusters before them are taken and the endpoints of new clusters have been asked for and
//! sent, but never longer than [`ORDER_WAIT`]. What is not needed any more is removed last, when listeners and routes are
//! taken; while one of them is refused, the client goes on with its old one, and keeps what that refers to.
//!
//! **Refusals.** What was refused is not sent again before it changes, or before something that it may refer to was taken.
//! When the client does not say which resource of a response is wrong, all of them count as refused, and a change of
//! one gives the others another chance.

mod channel;
mod requests;
mod subscription;

use std::sync::Arc;
use std::time::SystemTime;

use outrigger_xds::{Kind, Resource};
use tokio::time::Instant;

pub(super) use channel::Answered;
use channel::{Channel, Held, Stamp};
pub(super) use requests::{Names, Request};

use super::limits::{ANSWER_WAIT, ENDPOINTS_WAIT, MAX_HELD_REMOVALS, ORDER_WAIT};
use crate::fleet::{Form, Protocol, ProxyState, Refused, Report, ResourceSet};

/// The time, both ways.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) instant: Instant,
    pub(super) wall: SystemTime,
}

impl Now {
    pub(super) fn read() -> Self {
        Self { instant: Instant::now(), wall: SystemTime::now() }
    }
}

/// A response to be sent.
#[derive(Debug)]
pub(super) struct Push {
    pub(super) kind: Kind,
    pub(super) nonce: u64,
    pub(super) version: Arc<str>,
    pub(super) resources: Vec<Arc<Resource>>,
    pub(super) removed: Vec<Arc<str>>,
}

/// What a client says of a response that it does not take.
#[derive(Debug, Clone)]
pub(super) struct Nack {
    /// At least one. The name is empty when the client does not say which.
    pub(super) refusals: Vec<Refused>,
}

/// What of a set is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Endpoints,
    All,
}

/// One stream.
#[derive(Debug)]
pub(super) struct Session {
    form: Form,
    protocol: Protocol,
    generation: u64,
    accepted_generation: Option<u64>,
    answered_at: Option<SystemTime>,
    next_nonce: u64,
    channels: [Channel; Kind::ALL.len()],
    /// Until when what refers to a kind waits for it: endpoints of new clusters, routes of new listeners.
    settles_by: [Option<Instant>; Kind::ALL.len()],
    /// Since when a kind could have been sent but for the order.
    waits_since: [Option<Instant>; Kind::ALL.len()],
}

impl Session {
    pub(super) fn new(protocol: Protocol, form: Form, set: &ResourceSet) -> Self {
        Self {
            form,
            protocol,
            generation: set.generation,
            accepted_generation: None,
            answered_at: None,
            next_nonce: 0,
            channels: Kind::ALL.map(|kind| Channel::new(kind, protocol, Arc::clone(set.of(kind)))),
            settles_by: [None; Kind::ALL.len()],
            waits_since: [None; Kind::ALL.len()],
        }
    }

    /// Takes over a newer set.
    pub(super) fn retarget(&mut self, set: &ResourceSet, scope: Scope, now: Instant) {
        match scope {
            Scope::Endpoints => self.channel(Kind::Endpoints).retarget(set.of(Kind::Endpoints)),
            Scope::All => {
                self.generation = set.generation;
                for kind in Kind::ALL {
                    self.channel(kind).retarget(set.of(kind));
                }
            }
        }
        self.refresh();
        self.note_progress(now);
    }

    /// The next response that may be sent now, if any.
    pub(super) fn next(&mut self, now: Instant) -> Option<Push> {
        self.refresh();
        for kind in Kind::ALL {
            let channel = &self.channels[kind as usize];
            if !channel.has_news() {
                self.waits_since[kind as usize] = None;
                continue;
            }
            if channel.in_flight.is_some() {
                continue;
            }
            if self.must_wait(kind, now) {
                self.waits_since[kind as usize].get_or_insert(now);
                continue;
            }
            if let Some(push) = self.take_news(kind, now) {
                self.waits_since[kind as usize] = None;
                return Some(push);
            }
        }
        let removal = self.next_removal(now);
        if removal.is_none() {
            self.note_progress(now);
        }
        removal
    }

    /// When the passing of time alone may change what is to be done.
    pub(super) fn wakes_at(&self, now: Instant) -> Option<Instant> {
        let waits = self.waits_since.iter().flatten().map(|since| *since + ORDER_WAIT);
        let refused = self.channels.iter().filter_map(|channel| channel.refused_at).map(|at| at + ORDER_WAIT);
        let answers =
            self.channels.iter().filter_map(|channel| channel.in_flight.as_ref()).map(|sent| sent.at + ANSWER_WAIT);
        let settles = self.settles_by.iter().flatten().copied();
        waits.chain(refused).chain(answers).chain(settles).filter(|at| *at > now).min()
    }

    /// The kind whose response has been unanswered for too long.
    pub(super) fn unanswered(&self, now: Instant) -> Option<Kind> {
        let late = |channel: &&Channel| channel.in_flight.as_ref().is_some_and(|sent| now >= sent.at + ANSWER_WAIT);
        self.channels.iter().find(late).map(|channel| channel.kind)
    }

    pub(super) fn progress(&self, now: Instant) -> (ProxyState, u64, Option<u64>) {
        (self.state(now), self.generation, self.accepted_generation)
    }

    pub(super) fn report(&self, now: Instant) -> Report {
        let asked_for = self.channels.iter().filter(|channel| channel.subscription.is_some());
        Report {
            state: self.state(now),
            generation: self.generation,
            accepted_generation: self.accepted_generation,
            answered_at: self.answered_at,
            kinds: asked_for.map(Channel::report).collect(),
        }
    }

    /// Notes that everything has been taken, if it has.
    pub(super) fn note_progress(&mut self, now: Instant) {
        if self.state(now) == ProxyState::Synced {
            self.accepted_generation = Some(self.generation);
        }
    }

    fn state(&self, now: Instant) -> ProxyState {
        let under_way = |channel: &Channel| channel.in_flight.is_some() || channel.has_news();
        if self.channels.iter().any(under_way) {
            ProxyState::Sent
        } else if self.channels.iter().any(Channel::is_refused) {
            ProxyState::Refused
        } else if self.is_whole() && !Kind::ALL.into_iter().any(|kind| self.settles(kind, now)) {
            ProxyState::Synced
        } else {
            ProxyState::Sent
        }
    }

    /// The client has asked for what there is, and has nothing that is to be removed.
    fn is_whole(&self) -> bool {
        let asked = |kind: Kind| self.channels[kind as usize].subscription.is_some();
        let is_asked_for = match self.form {
            // It asks for what its targets need, and for clusters only when a listener leads there.
            Form::Grpc => Kind::ALL.into_iter().any(asked),
            Form::Outrigger | Form::Envoy => [Kind::Cluster, Kind::Listener]
                .into_iter()
                .all(|kind| asked(kind) || self.channels[kind as usize].target().by_name().is_empty()),
        };
        is_asked_for && self.channels.iter().all(|channel| channel.removes.is_empty())
    }

    fn channel(&mut self, kind: Kind) -> &mut Channel {
        &mut self.channels[kind as usize]
    }

    fn refresh(&mut self) {
        self.channels.iter_mut().for_each(Channel::refresh);
    }

    fn stamp(&mut self, at: Instant) -> Stamp {
        self.next_nonce += 1;
        Stamp { nonce: self.next_nonce, generation: self.generation, at }
    }

    fn take_news(&mut self, kind: Kind, now: Instant) -> Option<Push> {
        let stamp = self.stamp(now);
        let [_, clusters, endpoints, listeners, routes] = &mut self.channels;
        match kind {
            Kind::Endpoints => endpoints.take_news(|name| clusters.adds.contains_key(name), stamp),
            Kind::Cluster => {
                // Envoy takes a changed cluster into use when it has been sent its endpoints, changed or not.
                if self.form == Form::Envoy {
                    let changed = clusters
                        .adds
                        .iter()
                        .filter(|(name, _)| matches!(clusters.held.get(*name), Some(Held::Resource(_))));
                    changed.for_each(|(_, cluster)| endpoints.resend(&endpoints_of(cluster)));
                }
                let push = clusters.take_news(|_| false, stamp);
                endpoints.refresh();
                push
            }
            Kind::Listener => listeners.take_news(|_| false, stamp),
            Kind::Route => routes.take_news(|_| false, stamp),
            Kind::Secret => self.channel(kind).take_news(|_| false, stamp),
        }
    }

    /// Whether a kind must wait for those before it.
    fn must_wait(&self, kind: Kind, now: Instant) -> bool {
        let [_, clusters, _, listeners, _] = &self.channels;
        let waited = self.waits_since[kind as usize].is_some_and(|since| now >= since + ORDER_WAIT);
        let for_clusters = || {
            let refused_lately = clusters.refused_at.is_some_and(|at| now < at + ORDER_WAIT);
            clusters.in_flight.is_some() || clusters.has_news() || refused_lately || self.settles(Kind::Endpoints, now)
        };
        match kind {
            Kind::Secret | Kind::Cluster | Kind::Endpoints => false,
            Kind::Listener => !waited && for_clusters(),
            Kind::Route => !waited && (for_clusters() || listeners.has_news()),
        }
    }

    /// Whether a kind is being asked for and sent, after something that refers to it was.
    fn settles(&self, kind: Kind, now: Instant) -> bool {
        self.settles_by[kind as usize].is_some_and(|by| now < by) && self.channels[kind as usize].is_settling()
    }

    fn next_removal(&mut self, now: Instant) -> Option<Push> {
        let [.., listeners, routes] = &self.channels;
        let moved_on = |channel: &Channel| channel.in_flight.is_none() && !channel.is_refused();
        let all_sent = !self.channels.iter().any(Channel::has_news);
        let in_use = !moved_on(listeners) || !moved_on(routes) || self.settles(Kind::Route, now) || !all_sent;
        for kind in [Kind::Route, Kind::Cluster, Kind::Endpoints, Kind::Secret] {
            let channel = &self.channels[kind as usize];
            if in_use && channel.removes.len() <= MAX_HELD_REMOVALS {
                continue;
            }
            if channel.in_flight.is_some() {
                // What comes after waits as well: the order holds across kinds.
                return None;
            }
            let stamp = self.stamp(now);
            if let Some(push) = self.channel(kind).take_removals(stamp) {
                return Some(push);
            }
        }
        None
    }

    /// What follows from an answer.
    fn answered(&mut self, answered: &Answered, now: Now) {
        self.answered_at = Some(now.wall);
        if !answered.took {
            return;
        }
        let (settling, retried): (Option<Kind>, &[Kind]) = match answered.kind {
            Kind::Secret => (None, &[Kind::Cluster, Kind::Listener]),
            Kind::Cluster => (Some(Kind::Endpoints), &[Kind::Listener, Kind::Route]),
            Kind::Listener => (Some(Kind::Route), &[Kind::Route]),
            Kind::Endpoints | Kind::Route => (None, &[]),
        };
        // gRPC asks for the few that it needs, whatever there is.
        if let (Some(kind), Form::Outrigger | Form::Envoy) = (settling, self.form) {
            self.settles_by[kind as usize] = Some(now.instant + ENDPOINTS_WAIT);
        }
        for kind in retried {
            self.channel(*kind).retry_refused();
        }
    }
}

/// The name under which a cluster's endpoints are asked for.
fn endpoints_of(cluster: &Resource) -> String {
    /// The two fields of `Cluster` that say so.
    #[derive(Clone, PartialEq, prost::Message)]
    struct Names {
        #[prost(message, optional, tag = "3")]
        endpoints: Option<EndpointsFrom>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    struct EndpointsFrom {
        #[prost(string, tag = "2")]
        service_name: String,
    }
    let names = <Names as prost::Message>::decode(&*cluster.body).unwrap_or_default();
    let service = names.endpoints.map(|endpoints| endpoints.service_name).filter(|name| !name.is_empty());
    service.unwrap_or_else(|| cluster.name.to_string())
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
