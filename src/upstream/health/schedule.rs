//! Which endpoint is checked when.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use outrigger_config::model::HealthCheck;
use tokio::task::{self, AbortHandle};

use super::probe::{Due, Ended, Line};
use crate::policy::health::{first_pause, pause};
use crate::policy::rng::Rng;
use crate::upstream::cluster::{Cluster, Member};
use crate::upstream::state::EndpointState;

/// An endpoint that is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct PlaceId(u64);

/// The checks of all endpoints.
pub(super) struct Schedule {
    places: HashMap<PlaceId, Place>,
    ids: HashMap<(Arc<str>, SocketAddr), PlaceId>,
    /// When places may be due; those that were moved meanwhile are here more than once.
    queue: BinaryHeap<Reverse<(Instant, PlaceId)>>,
    /// When clusters without traffic are looked at again.
    idle_at: Option<Instant>,
    /// How many lines may be kept, and how many are.
    room: usize,
    kept: usize,
    next_id: u64,
    round: u64,
    rng: Rng,
}

struct Place {
    /// As the newest configuration has it.
    cluster: Weak<Cluster>,
    endpoint: Weak<EndpointState>,
    hostname: Option<Arc<str>>,
    /// What `due` was reckoned with.
    check: HealthCheck,
    due: Instant,
    /// The interval is the one without traffic.
    idle: bool,
    running: Option<AbortHandle>,
    /// Its turn came, or its check ended, when its cluster was already gone and [`Schedule::follow`] had not yet heard of
    /// the next one: nothing is due until it does.
    adrift: bool,
    line: Option<Line>,
    /// The last round of [`Schedule::follow`] that found it.
    round: u64,
}

impl Schedule {
    /// Nothing to check. At most `room` lines are kept.
    pub(super) fn new(seed: u64, room: usize) -> Self {
        Self {
            places: HashMap::new(),
            ids: HashMap::new(),
            queue: BinaryHeap::new(),
            idle_at: None,
            room,
            kept: 0,
            next_id: 0,
            round: 0,
            rng: Rng::new(seed),
        }
    }

    /// These are the clusters in use. Newcomers are checked soon; what is no longer there is not checked any more, and
    /// a check of it that is under way ends.
    pub(super) fn follow(&mut self, clusters: &[Arc<Cluster>], now: Instant) {
        self.round += 1;
        let mut newcomers: Vec<(&Arc<Cluster>, &HealthCheck, Member)> = Vec::new();
        for cluster in clusters {
            let Some(check) = &cluster.config().health_check else { continue };
            for member in cluster.endpoints().members() {
                let key = (Arc::clone(&cluster.config().name), member.state.address);
                match self.ids.get(&key).copied() {
                    Some(id) => self.update(id, (cluster, check), member, now),
                    None => newcomers.push((cluster, check, member.clone())),
                }
            }
        }
        self.forget_others();
        let count = newcomers.len();
        for (cluster, check, member) in newcomers {
            let due = now + first_pause(check, count, &mut self.rng);
            self.add((cluster, check), &member, due);
        }
    }

    fn add(&mut self, (cluster, check): (&Arc<Cluster>, &HealthCheck), member: &Member, due: Instant) {
        let id = PlaceId(self.next_id);
        self.next_id += 1;
        let place = Place {
            cluster: Arc::downgrade(cluster),
            endpoint: Arc::downgrade(&member.state),
            hostname: member.hostname.clone(),
            check: check.clone(),
            due,
            idle: false,
            running: None,
            adrift: false,
            line: None,
            round: self.round,
        };
        self.ids.insert((Arc::clone(&cluster.config().name), member.state.address), id);
        self.places.insert(id, place);
        self.queue.push(Reverse((due, id)));
    }

    fn update(&mut self, id: PlaceId, (cluster, check): (&Arc<Cluster>, &HealthCheck), member: &Member, now: Instant) {
        let Some(place) = self.places.get_mut(&id) else { return };
        place.round = self.round;
        place.cluster = Arc::downgrade(cluster);
        place.endpoint = Arc::downgrade(&member.state);
        place.hostname.clone_from(&member.hostname);
        let adrift = std::mem::take(&mut place.adrift);
        if adrift {
            place.due = now;
            self.queue.push(Reverse((now, id)));
        }
        if place.check == *check {
            return;
        }
        place.check = check.clone();
        if place.running.is_none() {
            // What is asked for now need not wait for the end of a longer interval.
            let due = now + pause(check, cluster.state().traffic.quiet(now), &mut self.rng);
            if due < place.due {
                place.due = due;
                self.queue.push(Reverse((due, id)));
            }
        }
    }

    fn forget_others(&mut self) {
        let round = self.round;
        let mut kept = 0;
        self.places.retain(|_, place| {
            let stays = place.round == round;
            match (&place.running, stays) {
                (Some(running), false) => running.abort(),
                (_, true) => kept += usize::from(place.line.is_some()),
                (None, false) => {}
            }
            stays
        });
        self.kept = kept;
        self.ids.retain(|_, id| self.places.contains_key(id));
    }

    /// A check that is due. [`Schedule::began`] must follow.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<(PlaceId, Due)> {
        if self.idle_at.is_some_and(|at| at <= now) {
            self.wake_idle(now);
        }
        while let Some(&Reverse((at, id))) = self.queue.peek() {
            if at > now {
                return None;
            }
            self.queue.pop();
            let Some(place) = self.places.get_mut(&id).filter(|place| place.running.is_none() && place.due == at)
            else {
                continue;
            };
            // The registry says soon that they are gone, or replaced.
            let (Some(cluster), Some(endpoint)) = (place.cluster.upgrade(), place.endpoint.upgrade()) else {
                place.adrift = true;
                continue;
            };
            let line = place.line.take();
            self.kept -= usize::from(line.is_some());
            return Some((id, Due { cluster, endpoint, hostname: place.hostname.clone(), line }));
        }
        None
    }

    /// It is under way.
    pub(super) fn began(&mut self, id: PlaceId, running: AbortHandle) {
        if let Some(place) = self.places.get_mut(&id) {
            place.running = Some(running);
        }
    }

    /// When something is due next.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        let check = self.queue.peek().map(|Reverse((at, _))| (*at).max(now));
        [check, self.idle_at].into_iter().flatten().min()
    }

    /// A check ended: what it said is recorded, unless its endpoint has gone.
    pub(super) fn ended(&mut self, id: PlaceId, ended: Ended, now: Instant) {
        let Some(place) = self.places.get_mut(&id) else { return };
        place.running = None;
        let (Some(cluster), Some(endpoint)) = (place.cluster.upgrade(), place.endpoint.upgrade()) else {
            place.adrift = true;
            return;
        };
        // Under the thresholds of now, if it is checked at all.
        let Some(check) = &cluster.config().health_check else { return };
        cluster.state().check_ended(&endpoint, check, ended.last);
        if self.kept < self.room {
            place.line = ended.line;
            self.kept += usize::from(place.line.is_some());
        }
        self.again(id, &cluster, now);
    }

    /// A check ended without saying anything.
    pub(super) fn lost(&mut self, task: task::Id, now: Instant) {
        let mine = |place: &Place| place.running.as_ref().is_some_and(|running| running.id() == task);
        let Some((id, cluster)) = self.places.iter_mut().find(|(_, place)| mine(place)).map(|(id, place)| {
            place.running = None;
            let cluster = place.cluster.upgrade();
            place.adrift = cluster.is_none();
            (*id, cluster)
        }) else {
            return;
        };
        if let Some(cluster) = cluster {
            self.again(id, &cluster, now);
        }
    }

    fn again(&mut self, id: PlaceId, cluster: &Cluster, now: Instant) {
        let Some(check) = &cluster.config().health_check else { return };
        let Some(place) = self.places.get_mut(&id) else { return };
        let quiet = cluster.state().traffic.quiet(now);
        place.due = now + pause(check, quiet, &mut self.rng);
        place.idle = is_idle(quiet, check);
        if place.idle {
            self.idle_at.get_or_insert(now + LOOK_FOR_TRAFFIC);
        }
        self.queue.push(Reverse((place.due, id)));
    }

    /// Endpoints of clusters that have traffic again are not left unchecked for the rest of the long interval.
    fn wake_idle(&mut self, now: Instant) {
        self.idle_at = None;
        for (id, place) in &mut self.places {
            if !place.idle || place.running.is_some() {
                continue;
            }
            let Some(cluster) = place.cluster.upgrade() else { continue };
            let quiet = cluster.state().traffic.quiet(now);
            if is_idle(quiet, &place.check) {
                self.idle_at = Some(now + LOOK_FOR_TRAFFIC);
                continue;
            }
            place.idle = false;
            let interval = u64::try_from(place.check.interval.as_nanos()).unwrap_or(u64::MAX);
            let due = now + Duration::from_nanos(self.rng.below(interval));
            if due < place.due {
                place.due = due;
                self.queue.push(Reverse((due, *id)));
            }
        }
    }
}

fn is_idle(quiet: Option<Duration>, check: &HealthCheck) -> bool {
    quiet.is_none_or(|quiet| quiet >= check.no_traffic_interval)
}

/// How often it is looked whether clusters without traffic have some again.
const LOOK_FOR_TRAFFIC: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
