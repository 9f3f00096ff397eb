//! Those endpoints of a cluster that one kind of request may go to, by priority and zone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use outrigger_config::model::{self, Locality, SlowStart};
use serde::Serialize;

use super::tally::{Share, Spread, Tally};
use super::{Moment, Plan, takes_new};
use crate::policy::balance::priority::{self, Level as Count};
use crate::policy::balance::slow_start::{FULL, ramp};
use crate::policy::balance::table::{Bound, Table};
use crate::policy::balance::zone::{self, WHOLE, Zones as Weights};
use crate::policy::balance::{Balancer, Candidates};
use crate::policy::rng::Rng;
use crate::upstream::cluster::{Member, PickHint};
use crate::upstream::fitness::{Closed, Fit};

/// A group.
#[derive(Debug)]
pub(super) struct Group {
    /// Priorities in order. Endpoints that drain are in none: they only have what is bound to them.
    levels: Box<[Level]>,
    tally: Tally,
    /// Its panics are shown.
    shown: bool,
}

/// The endpoints of one priority.
#[derive(Debug)]
struct Level {
    priority: u8,
    all: Slice,
    zones: Option<Zones>,
    table: Option<Arc<Table>>,
    /// It has all endpoints of the cluster.
    is_cluster: bool,
}

/// Where the own zone is preferred.
#[derive(Debug)]
struct Zones {
    own: Slice,
    others: Slice,
    count: u32,
}

/// Some endpoints of a set, with a balancer among them.
#[derive(Debug)]
struct Slice {
    /// Their places in the set, in order; `None`: each has its own.
    places: Option<Box<[u32]>>,
    count: usize,
    balancer: Balancer,
}

/// What one pick is made from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scene<'a> {
    pub(super) members: &'a [Member],
    pub(super) balance: &'a model::Balance,
    /// Where there are newcomers.
    pub(super) slow_start: Option<&'a SlowStart>,
    pub(super) hint: &'a PickHint<'a>,
    /// Those that did not let this request in.
    pub(super) turned: &'a [SocketAddr],
    pub(super) now: Instant,
    pub(super) bar: Bar,
}

/// What is passed over as long as there is anything else.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bar {
    tried: bool,
    zones: bool,
    /// Endpoints whose first check has not ended are not passed over.
    unchecked: bool,
    /// All are used that health alone speaks against.
    panic: bool,
}

/// A priority as people see it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LevelStatus {
    /// 0 is used first.
    pub priority: u8,
    /// Endpoints that count: those that drain or were not checked yet do not.
    pub endpoints: u32,
    /// Of those, how many are well.
    pub well: u32,
    /// What it gets of the traffic, in percent.
    pub percent: u32,
    /// Whether its endpoints are used however they are, because too few are well.
    pub panic: bool,
    /// What stays in the proxy's zone, in percent, where that is preferred.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stays_in_zone: Option<f64>,
}

impl Group {
    /// A group of the endpoints at these places. Takes milliseconds for many: not for a worker.
    pub(super) fn new(members: &[Member], places: Vec<u32>, plan: &Plan<'_>) -> Self {
        let mut levels = BTreeMap::<u8, Vec<u32>>::new();
        for place in places {
            let member = &members[place as usize];
            if takes_new(member) {
                levels.entry(member.priority).or_default().push(place);
            }
        }
        let levels = levels.into_iter().map(|(priority, places)| Level::new(priority, members, places, plan)).collect();
        Self { levels, tally: Tally::default(), shown: false }
    }

    /// The same, and metrics show its panics: the one of all endpoints.
    pub(super) fn shown(self) -> Self {
        Self { shown: true, ..self }
    }

    /// Whether nobody is there.
    pub(super) fn is_empty(&self) -> bool {
        self.levels.is_empty()
    }

    /// Its endpoints.
    pub(super) fn members<'a>(&'a self, members: &'a [Member]) -> impl Iterator<Item = &'a Member> {
        self.levels.iter().flat_map(|level| (0..level.all.count).map(|index| &members[level.all.place(index)]))
    }

    /// The place of an endpoint in the set.
    pub(super) fn pick(&self, scene: &Scene<'_>, moment: Moment<'_>, rng: &mut Rng) -> Option<usize> {
        self.refresh(scene, moment);
        let plain = self.tally.is_plain() && scene.hint.hash.is_none();
        // The usual case, as short as it can be.
        if plain
            && scene.hint.tried.is_empty()
            && let Some(picked) = self.levels[0].all.pick(scene, rng)
        {
            return Some(picked);
        }
        let bars = bars(scene.hint);
        if plain {
            let only = &self.levels[0].all;
            return bars.into_iter().find_map(|bar| only.pick(&Scene { bar, ..*scene }, rng));
        }
        let spread = self.tally.spread();
        let first = chosen(&spread, rng)?;
        let order = std::iter::once(first).chain((0..self.levels.len()).filter(|level| *level != first));
        bars.into_iter().find_map(|bar| {
            order.clone().find_map(|level| {
                let share = spread.get(level)?;
                let scene = Scene { bar: Bar { panic: share.panic, ..bar }, ..*scene };
                let picked = self.levels[level].pick(&scene, share, moment, rng);
                if picked.is_some() && share.panic {
                    moment.state.metrics.picked_in_panic();
                }
                picked
            })
        })
    }

    /// Whether all endpoints of a priority are used however they are.
    pub(super) fn panics(&self, priority: u8, scene: &Scene<'_>, moment: Moment<'_>) -> bool {
        self.refresh(scene, moment);
        let spread = self.tally.spread();
        self.levels.iter().zip(spread.iter()).any(|(level, share)| level.priority == priority && share.panic)
    }

    /// What the balancer compares.
    pub(super) fn score(&self, scene: &Scene<'_>, place: usize) -> Option<f64> {
        let level = self.levels.iter().find(|level| level.priority == scene.members[place].priority)?;
        let index = level.all.index(place)?;
        level.all.balancer.score(&View { scene, slice: &level.all }, index)
    }

    pub(super) fn levels(&self, scene: &Scene<'_>, moment: Moment<'_>) -> Vec<LevelStatus> {
        self.refresh(scene, moment);
        let status = |(level, share): (&Level, &Share)| LevelStatus {
            priority: level.priority,
            endpoints: share.all,
            well: share.well,
            percent: share.percent,
            panic: share.panic,
            stays_in_zone: level.zones.as_ref().map(|_| f64::from(share.stays) * 100.0 / f64::from(WHOLE)),
        };
        self.levels.iter().zip(self.tally.spread().iter()).map(status).collect()
    }

    fn refresh(&self, scene: &Scene<'_>, moment: Moment<'_>) {
        // Read before the endpoints are: what changes meanwhile is counted again.
        let epoch = moment.state.health_epoch.get();
        self.tally.refresh(epoch, moment.now, || {
            let spread = self.count(scene);
            let panics = spread.iter().filter(|share| share.panic).count();
            if self.shown {
                moment.state.metrics.panicking(panics as u64);
            }
            let plain = matches!(&self.levels[..], [only] if only.zones.is_none()) && panics == 0;
            (spread, plain)
        });
    }

    /// Looks at every endpoint.
    fn count(&self, scene: &Scene<'_>) -> Spread {
        let censuses: Vec<Census> = self.levels.iter().map(|level| level.all.census(scene)).collect();
        let counts: Vec<Count> = censuses.iter().map(|census| census.count).collect();
        let loads = priority::loads(&counts, scene.balance.overprovisioning, scene.balance.panic_threshold);
        let share = |((level, census), load): ((&Level, &Census), &priority::Load)| {
            let used = |census: &Census| if load.panic { census.all_weight } else { census.well_weight };
            let stays = level.zones.as_ref().map_or(WHOLE, |zones| {
                let own = used(&zones.own.census(scene));
                zone::stays(Weights { own, all: used(census), count: zones.count }, scene.balance.overprovisioning)
            });
            let Count { all, well } = census.count;
            Share { percent: load.percent, panic: load.panic, stays, all, well, weight: used(census) }
        };
        self.levels.iter().zip(&censuses).zip(&loads).map(share).collect()
    }
}

impl Level {
    fn new(priority: u8, members: &[Member], places: Vec<u32>, plan: &Plan<'_>) -> Self {
        let policy = plan.balance.policy;
        let keyed = |place: &u32| (members[*place as usize].state.address, members[*place as usize].weight);
        let table =
            Table::is_for(policy).then(|| plan.tables.get(policy, places.iter().map(keyed).collect())).flatten();
        let zone = |place: &u32| members[*place as usize].zone.clone();
        let zones = match (plan.balance.locality, &plan.placement.zone) {
            (Locality::PreferZone, Some(own)) => {
                let count = places.iter().map(zone).collect::<BTreeSet<_>>().len() as u32;
                let (here, elsewhere): (Vec<u32>, Vec<u32>) =
                    places.iter().partition(|place| zone(place).as_ref() == Some(own));
                // With all in one zone there is nothing to prefer.
                (!here.is_empty() && !elsewhere.is_empty()).then(|| Zones {
                    own: Slice::new(members, here, plan),
                    others: Slice::new(members, elsewhere, plan),
                    count,
                })
            }
            (Locality::PreferZone, None) | (Locality::Any, _) => None,
        };
        let is_cluster = places.len() == members.len();
        Self { priority, all: Slice::new(members, places, plan), zones, table, is_cluster }
    }

    fn pick(&self, scene: &Scene<'_>, share: &Share, moment: Moment<'_>, rng: &mut Rng) -> Option<usize> {
        // A key goes to its endpoint wherever the caller is: in every zone to the same.
        if let (Some(key), Some(table)) = (scene.hint.hash, &self.table) {
            let bound = scene.balance.bounded_load.map(|percent| Bound {
                percent,
                in_flight: self.in_flight(scene, moment),
                weight: share.weight,
            });
            let member = |index| &scene.members[self.all.place(index)];
            let has_room = |index| {
                let member = member(index);
                bound.is_none_or(|bound| bound.admits(member.state.in_flight.load(Ordering::Relaxed), member.weight))
            };
            return table.pick(key, |index| scene.takes(member(index)), has_room).map(|index| self.all.place(index));
        }
        let Some(Zones { own, others, count: _ }) = &self.zones else { return self.all.pick(scene, rng) };
        let stays = share.stays >= WHOLE || rng.below(u64::from(WHOLE)) < u64::from(share.stays);
        let order = if stays { [own, others] } else { [others, own] };
        order.into_iter().find_map(|slice| slice.pick(scene, rng))
    }

    /// In flight on its endpoints, that which is being picked for included. Of many endpoints some are looked at.
    fn in_flight(&self, scene: &Scene<'_>, moment: Moment<'_>) -> u64 {
        if self.is_cluster {
            return u64::from(moment.state.in_flight.get());
        }
        let step = self.all.count.div_ceil(SAMPLE).max(1);
        let looked_at = (0..self.all.count).step_by(step);
        let seen = looked_at.len().max(1) as u64;
        let in_flight = |index| scene.members[self.all.place(index)].state.in_flight.load(Ordering::Relaxed);
        let sum: u64 = looked_at.map(|index| u64::from(in_flight(index))).sum();
        sum * self.all.count as u64 / seen + 1
    }
}

/// How many endpoints of a part of a cluster are looked at to know what is in flight on it.
const SAMPLE: usize = 256;

impl Slice {
    fn new(members: &[Member], places: Vec<u32>, plan: &Plan<'_>) -> Self {
        let weights = places.iter().map(|place| members[*place as usize].weight);
        let balancer = Balancer::new(plan.balance.policy, weights, plan.start);
        let count = places.len();
        Self { places: (count < members.len()).then(|| places.into()), count, balancer }
    }

    fn place(&self, index: usize) -> usize {
        self.places.as_ref().map_or(index, |places| places[index] as usize)
    }

    /// Which of its endpoints is at this place.
    fn index(&self, place: usize) -> Option<usize> {
        match &self.places {
            None => (place < self.count).then_some(place),
            // They are in order.
            Some(places) => places.binary_search(&u32::try_from(place).ok()?).ok(),
        }
    }

    fn pick(&self, scene: &Scene<'_>, rng: &mut Rng) -> Option<usize> {
        self.balancer.pick(&View { scene, slice: self }, rng).map(|index| self.place(index))
    }

    fn census(&self, scene: &Scene<'_>) -> Census {
        let mut census = Census::default();
        for index in 0..self.count {
            let member = &scene.members[self.place(index)];
            let weight = u64::from(member.weight);
            match Fit::of(member, scene.now) {
                // At its ceiling it is well: others take what it has no room for, and nobody panics.
                Fit::Fit | Fit::Closed(Closed::Ceiling) => {
                    census.count.all += 1;
                    census.count.well += 1;
                    census.all_weight += weight;
                    census.well_weight += weight;
                }
                Fit::Unwell | Fit::Closed(Closed::Breaker { .. }) => {
                    census.count.all += 1;
                    census.all_weight += weight;
                }
                Fit::Unchecked | Fit::Draining => {}
            }
        }
        census
    }
}

/// Endpoints counted.
#[derive(Debug)]
struct Census {
    count: Count,
    all_weight: u64,
    well_weight: u64,
}

impl Default for Census {
    fn default() -> Self {
        Self { count: Count { all: 0, well: 0 }, all_weight: 0, well_weight: 0 }
    }
}

/// What is passed over first, then what still is when there was nobody, and so on.
fn bars(hint: &PickHint<'_>) -> impl IntoIterator<Item = Bar> + use<> {
    let again = !hint.tried.is_empty();
    let other_zone = hint.other_zone;
    [false, true].into_iter().flat_map(move |unchecked| {
        let bar = Bar { unchecked, ..Bar::default() };
        let zones = (again && other_zone).then_some(Bar { tried: true, zones: true, ..bar });
        let tried = again.then_some(Bar { tried: true, ..bar });
        zones.into_iter().chain(tried).chain([bar])
    })
}

/// The priority that chance falls to. Where none gets anything, the first: it may have endpoints that were not checked.
fn chosen(spread: &Spread, rng: &mut Rng) -> Option<usize> {
    match &spread[..] {
        [] => None,
        [_] => Some(0),
        shares => {
            let mut left = rng.below(100) as u32;
            let hit = |share: &Share| {
                let hit = left < share.percent;
                left = left.saturating_sub(share.percent);
                hit
            };
            Some(shares.iter().position(hit).unwrap_or(0))
        }
    }
}

impl Scene<'_> {
    fn takes(&self, member: &Member) -> bool {
        let Bar { tried, zones, unchecked, panic } = self.bar;
        let fit = match Fit::of(member, self.now) {
            Fit::Fit => true,
            Fit::Unwell => panic,
            Fit::Unchecked => panic || unchecked,
            Fit::Draining | Fit::Closed(_) => false,
        };
        let address = &member.state.address;
        let passed_over = self.turned.contains(address)
            || (tried && self.hint.tried.contains(address))
            || (zones && self.was_in_zone_of(member));
        fit && !passed_over
    }

    /// Whether an earlier attempt went to its zone.
    #[cold]
    fn was_in_zone_of(&self, member: &Member) -> bool {
        let zone_of = |address: &SocketAddr| self.members.iter().find(|known| known.state.address == *address);
        self.hint.tried.iter().filter_map(zone_of).any(|earlier| earlier.zone == member.zone)
    }
}

/// A slice as its balancer sees it.
struct View<'a> {
    scene: &'a Scene<'a>,
    slice: &'a Slice,
}

impl View<'_> {
    fn member(&self, index: usize) -> &Member {
        &self.scene.members[self.slice.place(index)]
    }
}

impl Candidates for View<'_> {
    fn in_flight(&self, index: usize) -> u32 {
        self.member(index).state.in_flight.load(Ordering::Relaxed)
    }

    fn latency(&self, index: usize) -> f64 {
        self.member(index).state.latency.read(self.scene.now)
    }

    fn eligible(&self, index: usize) -> bool {
        self.scene.takes(self.member(index))
    }

    fn ramp(&self, index: usize) -> u32 {
        let Some(settings) = self.scene.slow_start else { return FULL };
        let since = self.member(index).state.newcomer;
        since.map_or(FULL, |since| ramp(self.scene.now.saturating_duration_since(since), settings))
    }

    fn is_again(&self) -> bool {
        !self.scene.hint.tried.is_empty()
    }
}
