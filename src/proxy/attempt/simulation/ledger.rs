//! The second set of books: what live state must say, kept naively, and compared with what it does say.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outrigger_config::model::{Condition, RetryBudget};

use super::books::{ClusterBook, EndpointBook};
use super::fleet::{Ending, Evidence};
use super::invariants::{Admitted, Ejection, Held, Spent, Step, WatchedBreaker};
use super::trace::Counts;
use crate::policy::ewma::INITIAL_COST;
use crate::policy::retry::Lineage;
use crate::upstream::registry::LINGER;
use crate::upstream::standing::Against;
use crate::upstream::{Cluster, Member, Permit, RuleBreaker};

/// All state there should be.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    clusters: BTreeMap<Arc<str>, ClusterBook>,
    endpoints: BTreeMap<EndpointKey, EndpointBook>,
    /// Of rules, with when they were last looked at.
    rules: BTreeMap<Arc<str>, (WatchedBreaker, Instant)>,
}

type EndpointKey = (Arc<str>, SocketAddr);

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
                    assert_eq!(before.in_flight.get(), 0, "cluster {name} was forgotten in use");
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
                        assert_eq!(before.in_flight.get(), 0, "endpoint {key:?} was forgotten in use");
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
        let book = self.cluster(cluster);
        let second = book.second(now);
        book.spending.spend(spent, second);
    }

    pub(super) fn in_flight(&mut self, cluster: &Cluster) -> u32 {
        self.cluster(cluster).in_flight.get()
    }

    pub(super) fn picked(&mut self, cluster: &Cluster, permit: &Permit, now: Instant) {
        let book = self.cluster(cluster);
        book.in_flight.up();
        let ceiling = cluster.state().admission.ceiling(cluster.config().ceilings.max_requests);
        assert!(book.in_flight.get() <= ceiling, "{} in flight of at most {ceiling}", book.in_flight.get());
        let book = self.endpoint(permit, cluster);
        book.in_flight.up();
        let most = cluster.config().endpoint_ceilings.max_requests.unwrap_or(u32::MAX);
        assert!(book.in_flight.get() <= most, "{} in flight at one endpoint of at most {most}", book.in_flight.get());
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
        hold(book.in_flight.down());
        book.in_use = now;
        let book = self.endpoint(permit, cluster);
        hold(book.in_flight.down());
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
        if !wish.holds_place && book.retries.get() >= ceiling {
            return Room::CeilingReached;
        }
        let second = book.second(now);
        if !book.spending.affords(Spent::Retry, limits, second) {
            // The request ends here, and with it the place that it held.
            if wish.holds_place {
                hold(book.retries.down());
            }
            return Room::BudgetUsed;
        }
        hold(book.spending.grant(Spent::Retry, limits, second));
        if !wish.holds_place {
            book.retries.up();
        }
        Room::Yes
    }

    /// A request that was being retried is over.
    pub(super) fn retry_ended(&mut self, cluster: &Cluster) {
        let book = self.cluster(cluster);
        hold(book.retries.down());
    }

    /// Whether a hedged attempt may be made. If so, it is counted.
    pub(super) fn hedge(&mut self, cluster: &Cluster, percent: u8, now: Instant) -> bool {
        let limits = RetryBudget { percent, min_per_second: 0 };
        let book = self.cluster(cluster);
        let second = book.second(now);
        let affordable = book.spending.affords(Spent::Hedge, limits, second);
        if affordable {
            hold(book.spending.grant(Spent::Hedge, limits, second));
        }
        affordable
    }

    pub(super) fn hedge_not_made(&mut self, cluster: &Cluster, now: Instant) {
        let book = self.cluster(cluster);
        let second = book.second(now);
        book.spending.give_back(second);
    }

    /// The page of a cluster.
    pub(super) fn of(&mut self, cluster: &Cluster) -> &mut ClusterBook {
        self.cluster(cluster)
    }

    /// Looks at the breakers of a cluster and of its endpoints.
    pub(super) fn see_breakers(&mut self, cluster: &Cluster, step: Step) {
        let name = &cluster.config().name;
        hold(self.cluster(cluster).breaker.see(cluster.state().breaker.machine(), step));
        for member in cluster.endpoints().members() {
            let key = (Arc::clone(name), member.state.address);
            let book = self.endpoints.get_mut(&key).expect("an endpoint in use is in the books");
            hold(book.breaker.see(member.state.breaker.machine(), step).map_err(|why| format!("{key:?}: {why}")));
        }
    }

    /// An attempt was let through by the breakers of its endpoint and its cluster.
    pub(super) fn admitted(&mut self, cluster: &Cluster, permit: &Permit, number: u64, now: Instant) {
        self.see_breakers(cluster, Step::Asked);
        let breakers = &cluster.config().breakers;
        let admitted = Admitted { number, is_probe: permit.is_probe(), settings: &breakers.endpoint, now };
        hold(self.endpoint(permit, cluster).breaker.admit(admitted));
        if let Some(settings) = &breakers.cluster {
            let admitted = Admitted { number, is_probe: permit.is_probe_of_cluster(), settings, now };
            hold(self.cluster(cluster).breaker.admit(admitted));
        }
    }

    /// Something was told about an attempt, or its permit was dropped: then it `ended`.
    pub(super) fn told(&mut self, cluster: &Cluster, address: SocketAddr, number: u64, ended: bool) {
        let step = Step::Told(number);
        self.see_breakers(cluster, step);
        let key = (Arc::clone(&cluster.config().name), address);
        let Some(book) = self.endpoints.get_mut(&key) else { return };
        if let Some(state) = book.state.upgrade() {
            hold(book.breaker.see(state.breaker.machine(), step).map_err(|why| format!("{key:?}: {why}")));
        }
        if ended {
            book.breaker.ended(number);
            self.cluster(cluster).breaker.ended(number);
        }
    }

    /// Looks at the breaker of a rule.
    pub(super) fn see_rule(&mut self, rule: &RuleBreaker, step: Step, now: Instant) -> &mut WatchedBreaker {
        let machine = rule.machine();
        let new = || (WatchedBreaker::new(machine), now);
        let (watched, looked) = self.rules.entry(Arc::clone(&rule.rule)).or_insert_with(new);
        if now - *looked >= LINGER && machine.generation == 0 {
            // It may have been forgotten meanwhile.
            *watched = WatchedBreaker::new(machine);
        }
        *looked = now;
        hold(watched.see(machine, step).map_err(|why| format!("{}: {why}", rule.rule)));
        watched
    }

    /// Looks at who is ejected. The cluster is that of the newest configuration. How many were since the last time.
    pub(super) fn see_ejections(&mut self, cluster: &Cluster) -> u64 {
        let set = cluster.endpoints();
        let members = set.members();
        let is_out = |member: &&Member| member.state.standing.has(Against::Ejected);
        let is_left = |member: &&Member| member.condition == Condition::Healthy && member.state.standing.is_good();
        let mut new = 0;
        for member in members {
            let key = (Arc::clone(&cluster.config().name), member.state.address);
            let book = self.endpoints.get_mut(&key).expect("an endpoint in use is in the books");
            let before = std::mem::replace(&mut book.ejected, is_out(&member));
            if book.ejected && !before {
                new += 1;
                let settings = cluster.config().outlier_detection.as_ref().expect("without it nobody is ejected");
                let ejection = Ejection {
                    endpoints: members.len(),
                    out: members.iter().filter(is_out).count(),
                    left: members.iter().filter(is_left).count(),
                    percent: settings.max_ejection_percent,
                };
                hold(ejection.check().map_err(|why| format!("{key:?}: {why}")));
            }
        }
        new
    }

    /// Places taken, and requests that wait.
    pub(super) fn compare_places(&self) {
        for (name, book) in &self.clusters {
            if let Some(state) = book.state.upgrade() {
                let expected = (book.places.get(), book.waiting.get());
                assert_eq!(state.admission.usage(), expected, "places taken and waited for of {name}");
            }
        }
    }

    /// Compares everything; `swept` says that what nobody uses was just looked for.
    pub(super) fn compare_all(&mut self, now: Instant, swept: bool) {
        for (name, book) in &self.clusters {
            match book.state.upgrade() {
                Some(state) => {
                    assert_eq!(state.in_flight.get(), book.in_flight.get(), "requests in flight of {name}");
                    assert_eq!(state.retries.get(), book.retries.get(), "retries in flight of {name}");
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
            hold(book.is_quiet().map_err(|why| format!("{name}: {why}")));
        }
        for (key, book) in &self.endpoints {
            hold(book.in_flight.is_quiet().map_err(|why| format!("{key:?}: {why}")));
        }
    }

    /// What an attempt touched.
    fn compare(&self, cluster: &Cluster, permit: &Permit) {
        let name = &cluster.config().name;
        let key = (Arc::clone(name), permit.member().state.address);
        assert_eq!(
            cluster.state().in_flight.get(),
            self.clusters[name].in_flight.get(),
            "requests in flight of {name}"
        );
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

/// # Panics
/// When it does not.
pub(super) fn hold(held: Held) {
    if let Err(why) = held {
        panic!("{why}");
    }
}
