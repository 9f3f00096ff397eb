//! The second set of books: what live state must say, kept naively, and compared with what it does say.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use outrigger_config::model::RetryBudget;

use super::fleet::{Ending, Evidence};
use super::trace::Counts;
use crate::policy::ewma::INITIAL_COST;
use crate::policy::retry::Lineage;
use crate::upstream::registry::LINGER;
use crate::upstream::{Cluster, ClusterState, EndpointState, Permit};

/// All state there should be.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    clusters: BTreeMap<Arc<str>, ClusterBook>,
    endpoints: BTreeMap<EndpointKey, EndpointBook>,
}

type EndpointKey = (Arc<str>, SocketAddr);

#[derive(Debug)]
struct ClusterBook {
    state: Weak<ClusterState>,
    created: Instant,
    in_use: Instant,
    in_flight: u32,
    retries: u32,
    /// The second, and whether it was a retry.
    budget: VecDeque<(u64, Spent)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spent {
    Request,
    Retry,
}

#[derive(Debug)]
struct EndpointBook {
    state: Weak<EndpointState>,
    in_use: Instant,
    in_flight: u32,
    requests: u64,
    failures: u64,
    consecutive_failures: u32,
}

/// Whether a retry may be made, and why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    Yes,
    CeilingReached,
    BudgetUsed,
}

/// What a retry asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wish {
    /// The request holds a place from an earlier retry.
    pub(super) holds_place: bool,
    /// It counts against the budget and the ceiling.
    pub(super) charged: bool,
}

impl Ledger {
    /// These clusters are about to go on being used until now.
    pub(super) fn used<'a>(&mut self, clusters: impl IntoIterator<Item = &'a Arc<Cluster>>, now: Instant) {
        for cluster in clusters {
            let name = &cluster.config().name;
            if let Some(book) = self.clusters.get_mut(name) {
                book.in_use = now;
            }
            for member in cluster.endpoints().members() {
                if let Some(book) = self.endpoints.get_mut(&(Arc::clone(name), member.state.address)) {
                    book.in_use = now;
                }
            }
        }
    }

    /// Clusters were made anew: what was known must have been found again, and what is new begins at nothing.
    pub(super) fn adopt(&mut self, clusters: &[Arc<Cluster>], now: Instant, counts: &mut Counts) {
        for cluster in clusters {
            self.adopt_cluster(cluster, now, counts);
        }
    }

    fn adopt_cluster(&mut self, cluster: &Arc<Cluster>, now: Instant, counts: &mut Counts) {
        let name = &cluster.config().name;
        match self.clusters.get(name).filter(|book| std::ptr::eq(book.state.as_ptr(), Arc::as_ptr(cluster.state()))) {
            Some(_) => {}
            None => {
                if let Some(before) = self.clusters.get(name) {
                    assert_forgettable(before.in_use, now, || format!("cluster {name}"));
                    assert_eq!(before.in_flight, 0, "cluster {name} was forgotten in use");
                    counts.clusters_forgotten += 1;
                }
                self.clusters.insert(Arc::clone(name), ClusterBook::new(cluster.state(), now));
            }
        }
        let set = cluster.endpoints();
        let mut newcomers = Vec::new();
        let mut known = Vec::new();
        for member in set.members() {
            let key = (Arc::clone(name), member.state.address);
            match self.endpoints.get_mut(&key) {
                Some(book) if std::ptr::eq(book.state.as_ptr(), Arc::as_ptr(&member.state)) => {
                    if now > book.in_use && now - book.in_use < LINGER {
                        counts.endpoints_back_within_the_linger += 1;
                    }
                    counts.endpoints_kept += 1;
                    book.in_use = now;
                    known.push(member.state.latency.read(now));
                }
                other => {
                    if let Some(before) = other {
                        assert_forgettable(before.in_use, now, || format!("endpoint {key:?}"));
                        assert_eq!(before.in_flight, 0, "endpoint {key:?} was forgotten in use");
                        counts.endpoints_forgotten += 1;
                    }
                    counts.endpoints_added += 1;
                    newcomers.push(member.state.latency.read(now));
                    self.endpoints.insert(key, EndpointBook::new(&member.state, now));
                }
            }
        }
        let (low, high) = match known.iter().copied().reduce(f64::min) {
            Some(low) => (low, known.iter().copied().fold(low, f64::max)),
            None => (INITIAL_COST, INITIAL_COST),
        };
        for cost in newcomers {
            // Expectations are kept in single precision.
            let within = (low * 0.999_999..=high * 1.000_001).contains(&cost);
            assert!(within, "a newcomer of {name} is expected to take {cost}, its peers {low} to {high}");
        }
    }

    pub(super) fn request(&mut self, cluster: &Cluster, lineage: Lineage, now: Instant) {
        let spent = match lineage {
            Lineage::First => Spent::Request,
            Lineage::RetriedAbove => Spent::Retry,
        };
        self.cluster(cluster).spend(spent, now);
    }

    pub(super) fn in_flight(&mut self, cluster: &Cluster) -> u32 {
        self.cluster(cluster).in_flight
    }

    pub(super) fn picked(&mut self, cluster: &Cluster, permit: &Permit, now: Instant) {
        let book = self.cluster(cluster);
        book.in_flight += 1;
        let ceiling = cluster.config().ceilings.max_requests;
        assert!(book.in_flight <= ceiling, "{} in flight of at most {ceiling}", book.in_flight);
        let book = self.endpoint(permit, cluster);
        book.in_flight += 1;
        book.requests += 1;
        book.in_use = now;
        self.compare(cluster, permit);
    }

    pub(super) fn reported(&mut self, cluster: &Cluster, permit: &Permit, ending: Ending, now: Instant) {
        let expectation = permit.member().state.latency.read(now);
        assert!(expectation.is_finite() && expectation >= 0.0, "expected to take {expectation}");
        let book = self.endpoint(permit, cluster);
        match ending.evidence() {
            Some(Evidence::Success) => {
                book.consecutive_failures = 0;
                let took = (now - permit.started()).as_secs_f64();
                assert!(expectation >= took * 0.999_999, "it took {took} and is expected to take {expectation}");
            }
            Some(Evidence::Failure) => {
                book.failures += 1;
                book.consecutive_failures += 1;
                assert!(expectation >= 0.099_999, "after a failure it is expected to take {expectation}");
            }
            None => {}
        }
        self.compare(cluster, permit);
    }

    /// The permit is about to be dropped.
    pub(super) fn ended(&mut self, cluster: &Cluster, permit: &Permit, now: Instant) {
        let book = self.cluster(cluster);
        book.in_flight = book.in_flight.checked_sub(1).expect("more ended than began");
        book.in_use = now;
        let book = self.endpoint(permit, cluster);
        book.in_flight = book.in_flight.checked_sub(1).expect("more ended than began");
        book.in_use = now;
    }

    /// Whether a retry may be made. If so, it is counted.
    pub(super) fn retry(&mut self, cluster: &Cluster, wish: Wish, now: Instant) -> Room {
        let ceiling = cluster.config().ceilings.max_retries;
        let limits = cluster.config().retry_budget;
        let book = self.cluster(cluster);
        if !wish.charged {
            return Room::Yes;
        }
        if !wish.holds_place && book.retries >= ceiling {
            return Room::CeilingReached;
        }
        if !book.affords(limits, now) {
            // The request ends here, and with it the place that it held.
            book.retries -= u32::from(wish.holds_place);
            return Room::BudgetUsed;
        }
        book.spend(Spent::Retry, now);
        book.retries += u32::from(!wish.holds_place);
        Room::Yes
    }

    /// A request that was being retried is over.
    pub(super) fn retry_ended(&mut self, cluster: &Cluster) {
        let book = self.cluster(cluster);
        book.retries = book.retries.checked_sub(1).expect("more retries ended than began");
    }

    /// Compares everything; `swept` says that what nobody uses was just looked for.
    pub(super) fn compare_all(&mut self, now: Instant, swept: bool) {
        for (name, book) in &self.clusters {
            match book.state.upgrade() {
                Some(state) => {
                    assert_eq!(state.in_flight.get(), book.in_flight, "requests in flight of {name}");
                    assert_eq!(state.retries.get(), book.retries, "retries in flight of {name}");
                    assert_eq!((state.pending.get(), state.connections.get()), (0, 0), "connections of {name}");
                }
                None => assert_forgettable(book.in_use, now, || format!("cluster {name}")),
            }
        }
        for (key, book) in &self.endpoints {
            match book.state.upgrade() {
                Some(state) => {
                    book.assert_equals(&state, key);
                    let unused = now - book.in_use;
                    assert!(!swept || unused < LATEST_FORGOTTEN, "endpoint {key:?} is still kept after {unused:?}");
                }
                None => assert_forgettable(book.in_use, now, || format!("endpoint {key:?}")),
            }
        }
    }

    /// Nothing is in flight any more.
    pub(super) fn assert_quiet(&self) {
        for (name, book) in &self.clusters {
            assert_eq!((book.in_flight, book.retries), (0, 0), "{name} at the end");
        }
        for (key, book) in &self.endpoints {
            assert_eq!(book.in_flight, 0, "{key:?} at the end");
        }
    }

    /// What an attempt touched.
    fn compare(&self, cluster: &Cluster, permit: &Permit) {
        let name = &cluster.config().name;
        let key = (Arc::clone(name), permit.member().state.address);
        assert_eq!(cluster.state().in_flight.get(), self.clusters[name].in_flight, "requests in flight of {name}");
        self.endpoints[&key].assert_equals(&permit.member().state, &key);
    }

    fn cluster(&mut self, cluster: &Cluster) -> &mut ClusterBook {
        let name = &cluster.config().name;
        let book = self.clusters.get_mut(name).expect("a cluster in use is in the books");
        assert!(std::ptr::eq(book.state.as_ptr(), Arc::as_ptr(cluster.state())), "{name} has two states");
        book
    }

    fn endpoint(&mut self, permit: &Permit, cluster: &Cluster) -> &mut EndpointBook {
        let state = &permit.member().state;
        let key = (Arc::clone(&cluster.config().name), state.address);
        let book = self.endpoints.get_mut(&key).expect("an endpoint in use is in the books");
        assert!(std::ptr::eq(book.state.as_ptr(), Arc::as_ptr(state)), "{key:?} has two states");
        book
    }
}

/// One sweep finds out that nothing uses it, one at the end of the linger forgets it.
const LATEST_FORGOTTEN: Duration = LINGER.saturating_add(super::world::SWEEP.saturating_mul(2));

fn assert_forgettable(in_use: Instant, now: Instant, what: impl Fn() -> String) {
    let unused = now - in_use;
    assert!(unused >= LINGER, "{} was forgotten after {unused:?}", what());
}

impl ClusterBook {
    fn new(state: &Arc<ClusterState>, now: Instant) -> Self {
        let state = Arc::downgrade(state);
        Self { state, created: now, in_use: now, in_flight: 0, retries: 0, budget: VecDeque::new() }
    }

    fn second(&self, now: Instant) -> u64 {
        (now - self.created).as_secs()
    }

    fn spend(&mut self, what: Spent, now: Instant) {
        self.budget.push_back((self.second(now), what));
    }

    /// A share of the requests of the last ten seconds, or a few a second.
    fn affords(&mut self, limits: RetryBudget, now: Instant) -> bool {
        let second = self.second(now);
        self.budget.retain(|(at, _)| at + 10 > second);
        let count = |wanted| self.budget.iter().filter(|(_, spent)| *spent == wanted).count() as u64;
        let this_second = self.budget.iter().filter(|entry| **entry == (second, Spent::Retry)).count() as u64;
        this_second < u64::from(limits.min_per_second)
            || count(Spent::Retry) < count(Spent::Request) * u64::from(limits.percent) / 100
    }
}

impl EndpointBook {
    fn new(state: &Arc<EndpointState>, now: Instant) -> Self {
        let state = Arc::downgrade(state);
        Self { state, in_use: now, in_flight: 0, requests: 0, failures: 0, consecutive_failures: 0 }
    }

    fn assert_equals(&self, state: &EndpointState, key: &EndpointKey) {
        assert_eq!(state.in_flight.load(Relaxed), self.in_flight, "requests in flight of {key:?}");
        assert_eq!(state.requests.load(Relaxed), self.requests, "requests of {key:?}");
        assert_eq!(state.failures.load(Relaxed), self.failures, "failures of {key:?}");
        let failures = state.consecutive_failures.load(Relaxed);
        assert_eq!(failures, self.consecutive_failures, "consecutive failures of {key:?}");
        assert_eq!(state.connections.load(Relaxed), 0, "connections of {key:?}");
    }
}
