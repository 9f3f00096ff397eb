//! The world: what there is, the clock, and the events in their order.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use outrigger_config::load;
use tokio::runtime::Runtime;

use super::fleet::{Fleet, exponential};
use super::ledger::Ledger;
use super::names::Names;
use super::plan::{self, Plan};
use super::requests::Request;
use super::trace::Trace;
use crate::base::clock::simulated::Clock;
use crate::net::tls::TlsSet;
use crate::policy::rng::Rng;
use crate::snapshot::{Snapshot, SnapshotCell};
use crate::telemetry::Metrics;
use crate::upstream::Registry;
use crate::upstream::registry::Surroundings;

/// Everything that is simulated.
pub(super) struct World<'t> {
    pub(super) trace: &'t mut Trace,
    base: Instant,
    clock: Clock,
    /// How long requests come.
    horizon: Duration,
    /// Nanoseconds since `base`; the registry reads it too.
    pub(super) now: Arc<AtomicU64>,
    queue: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    /// Numbers events and requests.
    pub(super) sequence: u64,
    pub(super) rng: Rng,
    pub(super) picks: Rng,
    pub(super) runtime: Runtime,
    pub(super) metrics: Arc<Metrics>,
    pub(super) registry: Arc<Registry>,
    pub(super) cell: SnapshotCell,
    /// All that still live.
    pub(super) snapshots: Vec<Weak<Snapshot>>,
    pub(super) names: Names,
    pub(super) plan: Plan,
    pub(super) fleet: Fleet,
    pub(super) ledger: Ledger,
    pub(super) requests: BTreeMap<u64, Request>,
    /// Those that wait for a place.
    pub(super) waiting: BTreeSet<u64>,
    /// By generation and cluster: what may be picked.
    pub(super) endpoints: BTreeMap<(u64, Arc<str>), BTreeMap<SocketAddr, u32>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    /// Some requests come.
    Arrivals,
    /// An attempt of a request ends.
    AttemptEnds(u64, u64),
    /// It is time for another attempt beside this one.
    HedgeIsDue(u64, u64),
    /// Somebody has waited for a place for long enough.
    PlacesAreLookedAt,
    /// A request is tried again.
    TryAgain(u64),
    /// A response is over.
    ResponseEnds(u64),
    /// A caller leaves.
    Leaves(u64),
    Reload,
    NameChanges,
    NamesAreRefreshed,
    EndpointChanges,
    EndpointRestarts,
    TurnsAreCounted,
    HealthIsChecked,
    BreakersAreOrdered,
    Sweep,
}

impl<'t> World<'t> {
    pub(super) fn new(seed: u64, trace: &'t mut Trace) -> Self {
        // Long enough for what is forgotten after a minute, and short enough for many.
        let horizon = if seed.is_multiple_of(8) { HORIZON * 3 } else { HORIZON };
        let mut rng = Rng::new(seed);
        // Time that timers are measured in stands still, and is moved with that of the simulation.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime");
        let base = runtime.block_on(async { tokio::time::Instant::now().into_std() });
        let told = Clock::start(base);
        let now = Arc::new(AtomicU64::new(0));
        let clock = Arc::clone(&now);
        let names = Names::default();
        let surroundings = Surroundings {
            resolver: Box::new(names.clone()),
            clock: Box::new(move || base + Duration::from_nanos(clock.load(Relaxed))),
            seed: rng.next_u64(),
        };
        let metrics = Metrics::new();
        let registry = Registry::within(2, Arc::clone(&metrics), surroundings);
        (0..4).for_each(|_| names.change(&mut rng));
        let plan = Plan::new(&mut rng);
        let loaded = Arc::new(load("simulated.yaml", &plan.yaml()).expect("a good configuration"));
        runtime.block_on(registry.warm(&loaded.config));
        let snapshot = Snapshot::compile((&loaded, &TlsSet::default()), &registry, &metrics, 1);
        let cell = SnapshotCell::new(snapshot);
        let mut world = Self {
            trace,
            base,
            clock: told,
            horizon,
            now,
            queue: BinaryHeap::new(),
            sequence: 0,
            picks: Rng::new(rng.next_u64()),
            rng,
            runtime,
            metrics,
            registry,
            cell,
            snapshots: Vec::new(),
            names,
            plan,
            fleet: Fleet::default(),
            ledger: Ledger::default(),
            requests: BTreeMap::new(),
            waiting: BTreeSet::new(),
            endpoints: BTreeMap::new(),
        };
        world.activate(&loaded);
        world
    }

    pub(super) fn run(mut self) {
        for event in [
            Event::Arrivals,
            Event::Reload,
            Event::NameChanges,
            Event::NamesAreRefreshed,
            Event::EndpointChanges,
            Event::EndpointRestarts,
            Event::TurnsAreCounted,
            Event::HealthIsChecked,
            Event::BreakersAreOrdered,
            Event::Sweep,
        ] {
            let wait = Duration::from_millis(self.rng.below(SWEEP.as_millis() as u64));
            self.after(wait, event);
        }
        while let Some(Reverse((at, _, event))) = self.queue.pop() {
            self.now.store(at.as_nanos() as u64, Relaxed);
            self.clock.set(self.now());
            self.step(event);
            self.settle();
            self.ledger.compare_places();
        }
        self.compare_all(false);
        assert!(self.requests.is_empty(), "{} requests never ended", self.requests.len());
        self.ledger.assert_quiet();
    }

    fn step(&mut self, event: Event) {
        // What goes on by itself ends with the requests.
        let again = |mean: u64| (mean > 0).then_some(Duration::from_millis(mean));
        let next = match event {
            Event::Arrivals => {
                let burst = if self.rng.below(40) == 0 { 45 } else { 1 };
                (0..burst).for_each(|_| self.arrive());
                again(90)
            }
            Event::AttemptEnds(id, attempt) => {
                self.attempt_ends(id, attempt);
                None
            }
            Event::HedgeIsDue(id, newest) => {
                self.hedge(id, newest);
                None
            }
            Event::PlacesAreLookedAt => None,
            Event::TryAgain(id) => {
                self.attempt(id);
                None
            }
            Event::ResponseEnds(id) => {
                self.response_ends(id);
                None
            }
            Event::Leaves(id) => {
                self.leaves(id);
                None
            }
            Event::Reload => {
                self.reload();
                again(4_000)
            }
            Event::NameChanges => {
                self.names.change(&mut self.rng);
                again(5_000)
            }
            Event::NamesAreRefreshed => {
                self.refresh_names();
                again(500)
            }
            Event::EndpointChanges => {
                let address = plan::any_address(&mut self.rng);
                self.fleet.change(address, &mut self.rng);
                again(2_000)
            }
            Event::EndpointRestarts => {
                self.restart();
                again(3_000)
            }
            Event::TurnsAreCounted => {
                self.count_turns();
                again(5_000)
            }
            Event::HealthIsChecked => {
                self.check_health();
                again(1_000)
            }
            Event::BreakersAreOrdered => {
                self.order();
                again(4_000)
            }
            Event::Sweep => {
                self.sweep();
                if self.elapsed() < self.horizon {
                    self.after(SWEEP, Event::Sweep);
                }
                None
            }
        };
        if let Some(mean) = next
            && self.elapsed() < self.horizon
        {
            let wait = exponential(mean, &mut self.rng);
            self.after(wait, event);
        }
    }

    /// Timers see what time it is.
    pub(super) fn turn_timers(&self) {
        let now = self.now();
        self.runtime.block_on(async {
            let behind = now.saturating_duration_since(tokio::time::Instant::now().into_std());
            tokio::time::advance(behind).await;
        });
    }

    pub(super) fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.now.load(Relaxed))
    }

    pub(super) fn now(&self) -> Instant {
        self.base + self.elapsed()
    }

    pub(super) fn after(&mut self, wait: Duration, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse((self.elapsed() + wait, self.sequence, event)));
    }

    pub(super) fn at(&mut self, at: Instant, event: Event) {
        self.after(at.saturating_duration_since(self.now()), event);
    }

    pub(super) fn note(&mut self, event: &str) {
        self.trace.note(self.elapsed(), event);
    }
}

/// How long requests come, for most seeds.
const HORIZON: Duration = Duration::from_secs(45);
/// How often the control thread looks for what nobody uses.
pub(super) const SWEEP: Duration = Duration::from_secs(10);
