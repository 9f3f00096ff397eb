//! What the control plane says becomes what runs.
//!
//! Responses are taken in as they come: decoded, refused by name where they are not good, and what they refer to is asked
//! for at once. They take effect together, when nothing more came for a moment and what is new is complete, so that a
//! route never meets a cluster that is still on its way: make before break. Only then are they answered. Endpoints of
//! a cluster that stays as it is take effect alone and at once.

mod answer;
mod put;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use outrigger_xds::Kind;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::blocked::Blocked;
use super::catalog::Catalog;
use super::identity::Identity;
use super::link::Event;
use super::saved::{Keeper, Saved, SavedFile};
use super::session::{Receipt, Refusal, Request, Response, Session, Update, Variant, is_whole};
use super::state::StateFolder;
use super::status::{ControlStatus, Refused, label};
use super::store::{Id, Store};
use crate::base::limits;
use crate::discovery::apply::Applier;
use crate::discovery::status::Origin;
use crate::telemetry::Metrics;

/// Takes in what the control plane says, and puts it into effect.
#[derive(Debug)]
pub struct Client {
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) servers: usize,
    stream: Option<Stream>,
    store: Store,
    catalog: Catalog,
    /// Responses that are not answered.
    unanswered: Vec<Unanswered>,
    /// Standing refusals, by what was refused.
    refusals: BTreeMap<Id, Refused>,
    blocked: Blocked,
    /// Kinds of which the server of this stream said something.
    heard: BTreeSet<Kind>,
    /// When what came takes effect, and when at the latest.
    due: Option<Instant>,
    latest: Option<Instant>,
    start: Start,
    failures: usize,
    status: Arc<ControlStatus>,
    metrics: Arc<Metrics>,
    identity: Arc<Identity>,
    file: SavedFile,
    keeper: Keeper,
    /// Held for as long as anything may be written to it.
    _state: Arc<StateFolder>,
    /// When the file is written again although nothing changed: it says when this was known to be the newest.
    touch: Instant,
}

/// How far the start has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// Nothing is in effect. There is something on disk, saved at this time, and it is used at this instant.
    Waiting { until: Instant, saved: SystemTime },
    /// Nothing is in effect, and there is nothing on disk.
    Empty,
    /// Something is in effect.
    Done,
}

#[derive(Debug)]
struct Stream {
    server: Arc<str>,
    session: Session,
    requests: mpsc::Sender<Request>,
    /// Dropped with this, which ends the stream.
    _open: oneshot::Sender<()>,
    since: Instant,
    /// Whether the server said anything, or it was quiet for so long that it has nothing to say.
    confirmed: bool,
}

#[derive(Debug)]
struct Unanswered {
    receipt: Receipt,
    /// What was in it, by name and version.
    contents: BTreeMap<Arc<str>, Arc<str>>,
    /// What could not be read of it.
    refused: Vec<Refusal>,
}

/// What is wanted beside a [`Client`].
pub(super) struct Surroundings {
    pub(super) state: Arc<StateFolder>,
    pub(super) status: Arc<ControlStatus>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) identity: Arc<Identity>,
    pub(super) file: SavedFile,
    pub(super) keeper: Keeper,
    pub(super) catalog: Catalog,
}

impl Client {
    /// Begins with what is on disk, if that is not too old.
    pub(super) fn new(
        (events, servers): (mpsc::Receiver<Event>, usize),
        surroundings: Surroundings,
        max_age: Duration,
    ) -> Self {
        let Surroundings { state, status, metrics, identity, file, keeper, catalog } = surroundings;
        let mut client = Self {
            events,
            servers,
            stream: None,
            store: Store::default(),
            catalog,
            unanswered: Vec::new(),
            refusals: BTreeMap::new(),
            blocked: Blocked::default(),
            heard: BTreeSet::new(),
            due: None,
            latest: None,
            start: Start::Empty,
            failures: 0,
            status,
            metrics,
            identity,
            file,
            keeper,
            _state: state,
            touch: Instant::now() + TOUCH,
        };
        client.recall(max_age);
        client
    }

    fn recall(&mut self, max_age: Duration) {
        let path = self.file.path();
        let saved = match self.file.read() {
            Ok(Some(saved)) => saved,
            Ok(None) => return,
            Err(error) => {
                tracing::error!(%error, path = %path.display(), "the last good resources cannot be used");
                return;
            }
        };
        let (at, age) = (saved.at(), saved.age(SystemTime::now()));
        if age > max_age {
            tracing::error!(?age, ?max_age, path = %path.display(), "the last good resources are too old to be used");
            return;
        }
        let mut good = Vec::new();
        for ((kind, name), held) in saved.resources() {
            match self.catalog.decode((kind, &name), &held.version, &held.body) {
                Ok(()) => good.push(((kind, name), held)),
                Err(refusals) => {
                    for refusal in refusals {
                        tracing::error!(%refusal, "a resource on disk cannot be used by this version");
                    }
                }
            }
        }
        if !good.is_empty() {
            self.store = Store::new(good);
            self.start = Start::Waiting { until: Instant::now() + START_WAIT, saved: at };
        }
    }

    /// Waits until something has to be put into effect. Cancel safe: what was taken in stays.
    pub async fn due(&mut self) {
        loop {
            let next = self.next();
            if next.is_some_and(|next| next <= Instant::now()) {
                return;
            }
            let event = tokio::select! {
                event = self.events.recv() => event,
                () = until(next) => continue,
            };
            match event {
                Some(event) => self.on(event),
                // The link ended, which it does not do by itself.
                None => std::future::pending().await,
            }
        }
    }

    /// When there is something to do by itself.
    fn next(&self) -> Option<Instant> {
        let start = match self.start {
            Start::Waiting { until, .. } if self.due.is_none() => Some(until),
            Start::Waiting { .. } | Start::Empty | Start::Done => None,
        };
        let quiet = self.stream.as_ref().filter(|stream| !stream.confirmed).map(|stream| stream.since + CONFIRM);
        let quiet = quiet.filter(|_| self.start == Start::Done && self.due.is_none());
        let touch = self.stream.as_ref().map(|_| self.touch);
        let blocked = self.blocked.due().filter(|_| self.start == Start::Done);
        [self.due, start, quiet, touch, blocked].into_iter().flatten().min()
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::Open { server, variant, requests, open } => {
                tracing::info!(%server, protocol = variant.as_str(), "connected to the control plane");
                self.unanswered.clear();
                self.heard.clear();
                self.store.discard();
                (self.due, self.latest) = (None, None);
                let versions = self.store.versions();
                let (session, first) = Session::open(variant, &self.wanted(), &versions);
                self.status.opened(Arc::clone(&server), variant);
                self.metrics.control.connected();
                let since = Instant::now();
                let stream = Stream { server, session, requests, _open: open, since, confirmed: false };
                self.stream = Some(stream);
                self.send(first);
            }
            Event::Said(response) => self.hear(response),
            Event::Failed { server, problem } => {
                if self.stream.is_some() {
                    tracing::warn!(%server, problem, "the stream to the control plane ended; what runs goes on");
                    self.metrics.control.disconnected(SystemTime::now());
                } else {
                    tracing::warn!(%server, problem, "no stream to the control plane; it is tried again");
                    self.metrics.control.failed();
                }
                self.status.failed(&server, &problem);
                self.hang_up();
                self.failures += 1;
                if let Start::Waiting { until, .. } = &mut self.start
                    && self.failures >= self.servers
                {
                    *until = Instant::now();
                }
            }
        }
    }

    /// The stream is gone; what came on it and is complete still takes effect.
    fn hang_up(&mut self) {
        self.stream = None;
        self.unanswered.clear();
        self.due = (!self.store.pending().is_empty()).then(Instant::now);
    }

    fn hear(&mut self, response: Response) {
        let Some(stream) = &mut self.stream else { return };
        let kind = response.kind;
        stream.confirmed = true;
        self.heard.insert(kind);
        let variant = stream.session.variant();
        self.metrics.control.response(label(kind));
        tracing::debug!(
            kind = label(kind),
            nonce = response.nonce,
            resources = response.resources.len(),
            removed = response.removed.len(),
            "the control plane said something"
        );
        let known = match stream.session.variant() {
            Variant::Delta => BTreeMap::new(),
            Variant::StateOfTheWorld => self.store.newest(kind),
        };
        let mut update = stream.session.receive(response, &known);
        let mut room = limits::CONTROL_RESOURCES.saturating_sub(self.store.len());
        let Update { changed, refused, .. } = &mut update;
        changed.retain(|resource| {
            let id = (kind, &resource.name);
            if room == 0 {
                let reason = format!("there are more than {} resources", limits::CONTROL_RESOURCES);
                refused.push(Refusal { kind, name: Arc::clone(&resource.name), field: String::new(), reason });
                return false;
            }
            match self.catalog.decode(id, &resource.version, &resource.body) {
                Ok(()) => {
                    room -= 1;
                    true
                }
                Err(refusals) => {
                    refused.extend(refusals);
                    false
                }
            }
        });
        self.store.stage(&update);
        self.blocked.heard(&update, variant);
        let Update { refused, contents, receipt, .. } = update;
        self.unanswered.push(Unanswered { receipt, contents, refused });
        // Others refer to nothing that has to be asked for.
        if is_whole(kind) {
            self.want();
        }
        self.answer_early();
        self.schedule();
    }

    /// Asks for what is referred to, and forgets what is not any more.
    fn want(&mut self) {
        let mut requests = Vec::new();
        for (kind, names) in self.wanted() {
            self.store.keep_only(kind, &names);
            self.refusals.retain(|(of, name), _| *of != kind || names.contains(name));
            if let Some(stream) = &mut self.stream {
                requests.extend(stream.session.want(kind, names, &self.store.versions()));
            }
        }
        self.send(requests);
    }

    /// Names that what is in effect refers to, or what came.
    fn wanted(&self) -> BTreeMap<Kind, BTreeSet<Arc<str>>> {
        let mut wanted: BTreeMap<Kind, BTreeSet<Arc<str>>> =
            Kind::ALL.into_iter().filter(|kind| !is_whole(*kind)).map(|kind| (kind, BTreeSet::new())).collect();
        let (accepted, newest) = self.store.both();
        for (kind, name) in self.catalog.references(accepted).chain(self.catalog.references(newest)) {
            wanted.entry(kind).or_default().insert(name);
        }
        wanted
    }

    /// When what came takes effect.
    fn schedule(&mut self) {
        let now = Instant::now();
        if self.store.pending().is_empty() {
            self.due = Some(now);
            return;
        }
        if self.endpoints_only().is_some() {
            self.due = Some(now);
            return;
        }
        let complete = self.catalog.missing(&self.store).is_empty() && self.has_begun();
        let latest = *self.latest.get_or_insert(now + HOLD);
        self.due = Some(if complete { (now + QUIET).min(latest) } else { latest });
    }

    /// Whether listeners and clusters have been heard of: one without the other is half of a first configuration.
    fn has_begun(&self) -> bool {
        let known = |kind| !self.store.newest(kind).is_empty();
        self.start == Start::Done || known(Kind::Listener) && known(Kind::Cluster)
    }

    /// Whether a first configuration is known to be complete although nothing new came: the server has nothing, or nothing
    /// else than is known.
    fn has_nothing(&self) -> bool {
        let all = [Kind::Listener, Kind::Cluster].iter().all(|kind| self.heard.contains(kind));
        let refused = self.unanswered.iter().any(|one| !one.refused.is_empty()) || !self.refusals.is_empty();
        self.start != Start::Done && all && !refused
    }

    /// The clusters whose endpoints change, if that is all that changes.
    fn endpoints_only(&self) -> Option<Vec<Arc<str>>> {
        if self.start != Start::Done {
            return None;
        }
        let mut endpoints = BTreeSet::new();
        for ((kind, name), held) in self.store.pending() {
            // Where there were none before, more than endpoints changes.
            if *kind != Kind::Endpoints || held.is_none() || self.store.taken(*kind, name).is_none() {
                return None;
            }
            endpoints.insert(name);
        }
        Some(self.catalog.clusters_with(&self.store, &endpoints))
    }

    /// Puts into effect what came, and answers. Not cancel safe: it is called where nothing interrupts it.
    pub async fn apply(&mut self, applier: &mut Applier) {
        let now = Instant::now();
        if let Start::Waiting { until, saved } = self.start
            && until <= now
            && self.due.is_none()
        {
            return self.apply_saved(applier, saved).await;
        }
        if self.due.is_some_and(|due| due <= now) {
            (self.due, self.latest) = (None, None);
            self.apply_pending(applier).await;
        }
        self.confirm(now);
        self.try_blocked(now);
        if self.stream.is_some() && self.touch <= now && self.start == Start::Done {
            self.save_later();
        }
    }

    /// Tries listeners again whose address was taken.
    fn try_blocked(&mut self, now: Instant) {
        if self.start != Start::Done {
            return;
        }
        let listeners = self.blocked.take(now);
        if listeners.is_empty() {
            return;
        }
        for (name, held) in listeners {
            // It was good when it came.
            if self.catalog.decode((Kind::Listener, &name), &held.version, &held.body).is_ok() {
                self.store.again((Kind::Listener, name), held);
            }
        }
        self.want();
        self.schedule();
    }

    /// A server that was told what is known and has nothing to say agrees.
    fn confirm(&mut self, now: Instant) {
        let Some(stream) = &mut self.stream else { return };
        if stream.confirmed || now < stream.since + CONFIRM {
            return;
        }
        stream.confirmed = true;
        self.status.confirmed();
        self.metrics.control.synced(SystemTime::now());
    }

    async fn apply_saved(&mut self, applier: &mut Applier, saved: SystemTime) {
        self.start = Start::Empty;
        let path: Arc<str> = self.file.path().display().to_string().into();
        let reopened = self.store.reopen(|_, _| true);
        let refused = self.put(applier, Origin::LastResources(Arc::clone(&path))).await;
        for refusal in refused.values().flatten() {
            tracing::error!(%refusal, "a resource on disk cannot be used");
        }
        if self.start == Start::Done {
            self.store.commit(&refused.keys().cloned().collect());
            self.catalog.keep_only(&self.store);
            self.want();
            self.hang_up_over(refused.keys().filter(|id| reopened.contains(*id)));
            self.metrics.control.from_disk(saved);
            tracing::warn!(%path, "no control plane yet: what it said last is in effect");
            self.status.applied(self.store.versions(), self.refusals.clone(), self.catalog.missing(&self.store));
        } else {
            self.store.close(&reopened);
            // Perhaps there is a certificate by then.
            self.start = Start::Waiting { until: Instant::now() + AGAIN, saved };
        }
    }

    async fn apply_pending(&mut self, applier: &mut Applier) {
        let mut endpoints_only = false;
        let mut dropped = BTreeSet::new();
        if self.store.pending().is_empty() && !self.has_nothing() {
            // Nothing new, but something to answer.
        } else if let Some(clusters) = self.endpoints_only() {
            endpoints_only = true;
            for cluster in clusters {
                if let Some(endpoints) = self.catalog.endpoints(&self.store, &cluster)
                    && applier.assign(&cluster, endpoints)
                {
                    self.metrics.control.endpoints();
                }
            }
            let changed =
                self.store.pending().iter().filter_map(|(id, held)| Some((id.clone(), held.clone()?.version)));
            self.status.endpoints(changed);
            self.store.commit(&BTreeSet::new());
            self.catalog.keep_only(&self.store);
            self.note_sync();
            self.touch = self.touch.min(Instant::now() + ENDPOINTS_SAVED);
        } else {
            let origin = self.stream.as_ref().map_or_else(|| "-".into(), |stream| Arc::clone(&stream.server));
            let changed: Vec<Id> = self.store.pending().keys().cloned().collect();
            // What is on disk and cannot be used any more must not be in the way of a first configuration.
            let first = self.start != Start::Done;
            let reopened = if first { self.store.reopen(|_, _| true) } else { BTreeSet::new() };
            let refused = self.put(applier, Origin::ControlPlane(origin)).await;
            if self.start != Start::Done {
                self.store.close(&reopened);
            }
            let ids: BTreeSet<Id> = refused.keys().cloned().collect();
            dropped = ids.intersection(&reopened).cloned().collect();
            for id in &changed {
                self.refusals.remove(id);
            }
            for (id, refusals) in refused {
                let held = self.store.pending().get(&id).and_then(Option::as_ref);
                let version = held.map_or_else(Arc::default, |held| Arc::clone(&held.version));
                self.refuse(id, version, refusals);
            }
            self.store.commit(&ids);
            self.catalog.keep_only(&self.store);
            self.want();
            self.note_sync();
            if self.start == Start::Done {
                self.touch = Instant::now() + TOUCH;
                self.keeper.now(Saved::of(&self.store, SystemTime::now())).await;
            }
        }
        let answers = self.answers();
        // Who hears the answer may look at once.
        if !endpoints_only {
            let waiting = self.catalog.missing(&self.store);
            self.status.applied(self.store.versions(), self.refusals.clone(), waiting);
        }
        self.send(answers);
        self.hang_up_over(&dropped);
    }

    /// The server believes that these are in effect, and would not send them again: the next stream says that they are not.
    fn hang_up_over<'a>(&mut self, dropped: impl IntoIterator<Item = &'a Id>) {
        let unknown = dropped.into_iter().any(|id| !self.blocked.has(id) && self.store.taken(id.0, &id.1).is_none());
        if unknown && self.stream.is_some() {
            self.hang_up();
        }
    }

    fn note_sync(&mut self) {
        if self.start == Start::Done {
            self.metrics.control.synced(SystemTime::now());
            self.status.confirmed();
        }
    }

    fn save_later(&mut self) {
        self.touch = Instant::now() + TOUCH;
        self.keeper.later(Saved::of(&self.store, SystemTime::now()));
    }

    /// Whether a configuration of the control plane is in effect, from wherever.
    pub fn is_ready(&self) -> bool {
        self.start == Start::Done
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Nothing more must come for so long before what came takes effect.
const QUIET: Duration = Duration::from_millis(15);
/// What came takes effect at the latest after this, without what is not complete.
const HOLD: Duration = Duration::from_secs(1);
/// How long a start waits for the control plane before it uses what is on disk.
const START_WAIT: Duration = Duration::from_secs(2);
/// How soon what is on disk is tried again that could not be used.
const AGAIN: Duration = Duration::from_secs(1);
/// A server that says nothing for so long has nothing to say.
const CONFIRM: Duration = Duration::from_secs(2);
/// Changes of endpoints alone are on disk after so long.
const ENDPOINTS_SAVED: Duration = Duration::from_secs(1);
/// How often the file says that what is in effect is still the newest.
const TOUCH: Duration = Duration::from_secs(600);
