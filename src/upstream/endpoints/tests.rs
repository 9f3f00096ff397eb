//! Which endpoint is picked, from sets in every state.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outrigger_config::model::{
    Balance, BalancePolicy, Condition, Endpoint, Labels, Locality, SlowStart, SubsetFallback, Target,
};
use smallvec::SmallVec;

use super::*;
use crate::telemetry::Metrics;
use crate::upstream::dns::{Answer, BoxFuture, Resolve};
use crate::upstream::standing::Against;
use crate::upstream::{Cluster, Permit, Registry};

struct NoNames;

impl Resolve for NoNames {
    fn resolve<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Answer, String>> {
        Box::pin(async { Err("no names here".to_owned()) })
    }
}

/// A cluster under test.
struct Fixture {
    registry: Arc<Registry>,
    cluster: Arc<Cluster>,
    rng: Rng,
    now: Instant,
}

/// An endpoint; its number is its port.
fn endpoint(port: u16) -> Endpoint {
    Endpoint::at(Target::Address(address(port)))
}

fn address(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn zoned(port: u16, zone: &str) -> Endpoint {
    Endpoint { zone: Some(zone.into()), ..endpoint(port) }
}

fn prior(port: u16, priority: u8) -> Endpoint {
    Endpoint { priority, ..endpoint(port) }
}

fn labels(text: &str) -> Labels {
    text.split(',').filter_map(|pair| pair.split_once('=')).map(|(name, value)| (name.into(), value.into())).collect()
}

fn labelled(port: u16, text: &str) -> Endpoint {
    Endpoint { labels: labels(text), ..endpoint(port) }
}

fn draining(port: u16) -> Endpoint {
    Endpoint { condition: Condition::Draining, ..endpoint(port) }
}

fn unhealthy(port: u16) -> Endpoint {
    Endpoint { condition: Condition::Unhealthy, ..endpoint(port) }
}

impl Fixture {
    fn new(balance: Balance, endpoints: Vec<Endpoint>) -> Self {
        let placement =
            Placement { zone: Some("here".into()), subsets: vec![labels("version=2"), labels("version=9")] };
        let registry = Registry::new(1, Metrics::new(), Box::new(NoNames));
        let cluster = compile(&registry, balance, endpoints, placement);
        Self { registry, cluster, rng: Rng::new(7), now: Instant::now() }
    }

    fn plain(endpoints: Vec<Endpoint>) -> Self {
        Self::new(Balance::default(), endpoints)
    }

    fn try_pick(&mut self, hint: &PickHint<'_>) -> Result<Permit, PickError> {
        self.cluster.pick(hint, &mut self.rng, self.now)
    }

    /// The port of the endpoint that is picked and given back.
    fn pick(&mut self, hint: &PickHint<'_>) -> Option<u16> {
        self.try_pick(hint).ok().map(|permit| permit.member().state.address.port())
    }

    /// How often each is picked of a thousand times.
    fn picks(&mut self, hint: &PickHint<'_>) -> BTreeMap<u16, u32> {
        let mut picks = BTreeMap::new();
        for _ in 0..1_000 {
            if let Some(port) = self.pick(hint) {
                *picks.entry(port).or_default() += 1;
            }
        }
        picks
    }

    fn all(&mut self) -> Vec<u16> {
        self.picks(&PickHint::default()).into_keys().collect()
    }

    /// Health speaks against an endpoint, or no longer.
    fn mark(&self, port: u16, against: Against, does: bool) {
        let set = self.cluster.endpoints();
        let member = set.members().iter().find(|member| member.state.address.port() == port).expect("a member");
        if does {
            member.state.standing.set(against);
        } else {
            member.state.standing.clear(against);
        }
        self.cluster.state().health_epoch.advance();
    }

    fn unwell(&self, ports: impl IntoIterator<Item = u16>) {
        ports.into_iter().for_each(|port| self.mark(port, Against::Unhealthy, true));
    }

    fn levels(&self) -> Vec<LevelStatus> {
        self.cluster.endpoints().levels(Moment { state: self.cluster.state(), now: self.now })
    }
}

fn compile(registry: &Arc<Registry>, balance: Balance, endpoints: Vec<Endpoint>, placement: Placement) -> Arc<Cluster> {
    let text = "listeners: [{ name: l, bind: 127.0.0.1:0, routes: r }]\n\
                routes: { r: [{ rules: [{ backendRefs: [{ cluster: c }] }] }] }\n\
                clusters: { c: { endpoints: [127.0.0.1:1] } }\n";
    let loaded = outrigger_config::load("test.yaml", text).expect("valid");
    let mut config = loaded.config.clusters["c"].clone();
    config.balance = balance;
    config.endpoints = endpoints;
    registry.placed(&config, None, placement)
}

const ANY: PickHint<'_> =
    PickHint { tried: &[], hash: None, bound: None, strict: false, subset: None, other_zone: false };

#[test]
fn none_that_is_fit_is_no_endpoint_unless_there_is_a_panic() {
    let calm = Balance { panic_threshold: 0, ..Balance::default() };
    for count in [1, 3, 6] {
        let mut fixture = Fixture::new(calm.clone(), (1..=count).map(unhealthy).collect());
        assert_eq!(fixture.try_pick(&ANY).err(), Some(PickError::NoEndpoint));
        assert_eq!(fixture.cluster.state().in_flight.get(), 0, "nothing is counted");
        let mut fixture = Fixture::plain((1..=count).map(unhealthy).collect());
        assert_eq!(fixture.all(), (1..=count).collect::<Vec<_>>());
        assert!(fixture.levels()[0].panic);
    }
    assert_eq!(Fixture::plain(Vec::new()).try_pick(&ANY).err(), Some(PickError::NoEndpoint));
}

#[test]
fn the_unwell_are_used_below_the_threshold_only() {
    let mut fixture = Fixture::plain((1..=4).map(endpoint).collect());
    assert_eq!(fixture.all(), [1, 2, 3, 4]);
    fixture.unwell([1, 2]);
    assert_eq!(fixture.all(), [3, 4]);
    fixture.unwell([3]);
    assert_eq!(fixture.all(), [1, 2, 3, 4], "one of four is below half");
    fixture.mark(1, Against::Unhealthy, false);
    assert_eq!(fixture.all(), [1, 4]);
}

#[test]
fn draining_endpoints_get_what_is_bound_to_them_and_nothing_else() {
    let mut fixture = Fixture::plain(vec![endpoint(1), draining(2), endpoint(3)]);
    assert_eq!(fixture.all(), [1, 3]);
    let bound = PickHint { bound: Some(address(2)), ..ANY };
    assert_eq!(fixture.picks(&bound).into_keys().collect::<Vec<_>>(), [2]);
    let mut fixture = Fixture::plain(vec![draining(1), draining(2)]);
    assert_eq!(fixture.try_pick(&ANY).err(), Some(PickError::NoEndpoint), "not in a panic either");
    assert_eq!(fixture.pick(&bound), Some(2));
}

#[test]
fn a_session_moves_when_its_endpoint_is_gone_or_unfit_unless_it_may_not() {
    let mut fixture = Fixture::plain(vec![endpoint(1), endpoint(2), endpoint(3)]);
    let to = |port| PickHint { bound: Some(address(port)), ..ANY };
    let strictly = |port| PickHint { strict: true, ..to(port) };
    assert_eq!(fixture.picks(&to(2)).into_keys().collect::<Vec<_>>(), [2]);
    fixture.unwell([2]);
    assert_eq!(fixture.picks(&to(2)).into_keys().collect::<Vec<_>>(), [1, 3]);
    assert_eq!(fixture.picks(&to(77)).into_keys().collect::<Vec<_>>(), [1, 3]);
    for gone in [2, 77] {
        assert_eq!(fixture.try_pick(&strictly(gone)).err(), Some(PickError::NoEndpoint));
    }
    fixture.mark(2, Against::Unhealthy, false);
    assert_eq!(fixture.pick(&strictly(2)), Some(2));
}

#[test]
fn a_retry_of_a_session_goes_elsewhere_unless_it_may_not() {
    let mut fixture = Fixture::plain(vec![endpoint(1), endpoint(2)]);
    let tried = [address(2)];
    let hint = PickHint { bound: Some(address(2)), tried: &tried, ..ANY };
    assert_eq!(fixture.pick(&hint), Some(1));
    assert_eq!(fixture.pick(&PickHint { strict: true, ..hint }), Some(2));
}

#[test]
fn those_tried_before_are_passed_over_while_there_are_others() {
    let mut fixture = Fixture::plain(vec![endpoint(1), endpoint(2), prior(3, 1)]);
    let tried: Vec<SocketAddr> = [1, 2, 3].map(address).into();
    assert_eq!(fixture.picks(&PickHint { tried: &tried[..1], ..ANY }).into_keys().collect::<Vec<_>>(), [2]);
    let hint = PickHint { tried: &tried[..2], ..ANY };
    assert_eq!(fixture.picks(&hint).into_keys().collect::<Vec<_>>(), [3], "another priority has one");
    let hint = PickHint { tried: &tried, ..ANY };
    assert_eq!(fixture.picks(&hint).into_keys().collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn the_next_priority_takes_what_is_missing() {
    let mut fixture = Fixture::plain((1..=4).map(endpoint).chain((5..=8).map(|port| prior(port, 3))).collect());
    assert_eq!(fixture.all(), [1, 2, 3, 4]);
    fixture.unwell([1, 2]);
    let picks = fixture.picks(&ANY);
    let first: u32 = picks.range(..5).map(|(_, picks)| picks).sum();
    assert!((640..760).contains(&first), "70 % of {picks:?}");
    assert!(!picks.contains_key(&1));
    fixture.unwell([3, 4]);
    assert_eq!(fixture.all(), [5, 6, 7, 8]);
    assert!(fixture.levels().iter().all(|level| !level.panic));
    fixture.unwell([5, 6, 7, 8]);
    assert_eq!(fixture.all(), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(
        fixture.levels().iter().map(|level| (level.priority, level.percent, level.panic)).collect::<Vec<_>>(),
        [(0, 50, true), (3, 50, true)]
    );
}

fn prefer_zone() -> Balance {
    Balance { locality: Locality::PreferZone, ..Balance::default() }
}

#[test]
fn the_own_zone_is_preferred_as_far_as_it_goes() {
    let mut fixture = Fixture::new(prefer_zone(), vec![zoned(1, "here"), zoned(2, "there"), zoned(3, "elsewhere")]);
    assert_eq!(fixture.all(), [1]);
    fixture.unwell([1]);
    assert_eq!(fixture.all(), [2, 3]);

    let many = std::iter::once(zoned(1, "here")).chain((2..=10).map(|port| zoned(port, "there"))).collect();
    let mut fixture = Fixture::new(prefer_zone(), many);
    let picks = fixture.picks(&ANY);
    assert!((230..330).contains(&picks[&1]), "28 % of {picks:?}");
    assert_eq!(picks.len(), 10);
}

#[test]
fn zones_mean_nothing_where_none_is_the_own_or_all_are() {
    for zones in [["there", "elsewhere"], ["here", "here"]] {
        let mut fixture = Fixture::new(prefer_zone(), vec![zoned(1, zones[0]), zoned(2, zones[1])]);
        assert_eq!(fixture.all(), [1, 2]);
    }
    let mut fixture = Fixture::plain(vec![zoned(1, "here"), zoned(2, "there")]);
    assert_eq!(fixture.all(), [1, 2], "and where nobody asked for it");
}

#[test]
fn another_zone_is_preferred_for_another_attempt_when_asked() {
    let mut fixture = Fixture::plain(vec![zoned(1, "here"), zoned(2, "here"), zoned(3, "there")]);
    let tried = [address(1)];
    let hint = PickHint { tried: &tried, other_zone: true, ..ANY };
    assert_eq!(fixture.picks(&hint).into_keys().collect::<Vec<_>>(), [3]);
    fixture.unwell([3]);
    assert_eq!(fixture.picks(&hint).into_keys().collect::<Vec<_>>(), [2]);
}

#[test]
fn a_subset_is_kept_to() {
    let fleet = || vec![labelled(1, "version=1"), labelled(2, "version=2,zone=a"), labelled(3, "version=2")];
    let (two, nine) = (labels("version=2"), labels("version=9"));
    let mut fixture = Fixture::plain(fleet());
    let of = |subset| PickHint { subset: Some(subset), ..ANY };
    assert_eq!(fixture.picks(&of(&two)).into_keys().collect::<Vec<_>>(), [2, 3]);
    assert_eq!(fixture.try_pick(&of(&nine)).err(), Some(PickError::NoEndpoint));
    assert_eq!(fixture.pick(&PickHint { bound: Some(address(2)), ..of(&two) }), Some(2));
    assert_ne!(fixture.pick(&PickHint { bound: Some(address(1)), ..of(&two) }), Some(1));

    let any = Balance { subset_fallback: SubsetFallback::Any, ..Balance::default() };
    let mut fixture = Fixture::new(any, fleet());
    assert_eq!(fixture.picks(&of(&nine)).into_keys().collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(fixture.picks(&of(&two)).into_keys().collect::<Vec<_>>(), [2, 3]);
}

#[test]
fn keys_stay_where_they_are_and_move_from_the_unfit_only() {
    for policy in [BalancePolicy::RingHash, BalancePolicy::Maglev] {
        let balance = Balance { policy, bounded_load: None, ..Balance::default() };
        let mut fixture = Fixture::new(balance, (1..=5).map(endpoint).collect());
        let keys: Vec<u64> = (0..200_u64).map(|n| crate::policy::hash::xxh64(&n.to_le_bytes(), 3)).collect();
        let of = |fixture: &mut Fixture| -> Vec<u16> {
            let pick = |key: &u64| fixture.pick(&PickHint { hash: Some(*key), ..ANY }).expect("one");
            keys.iter().map(pick).collect()
        };
        let before = of(&mut fixture);
        assert_eq!(of(&mut fixture), before);
        fixture.unwell([3]);
        let after = of(&mut fixture);
        assert!(!after.contains(&3) && before.contains(&3));
        assert!(before.iter().zip(&after).all(|(old, new)| old == new || *old == 3));
        let tried = [address(before[0])];
        let hint = PickHint { hash: Some(keys[0]), tried: &tried, ..ANY };
        assert_ne!(fixture.pick(&hint), Some(before[0]), "a retry goes on from there");
        assert_eq!(fixture.picks(&ANY).len(), 4, "without a key chance decides");
    }
}

#[test]
fn a_hot_key_spills_over_its_bound() {
    for policy in [BalancePolicy::RingHash, BalancePolicy::Maglev] {
        let balance = Balance { policy, bounded_load: Some(150), ..Balance::default() };
        let mut fixture = Fixture::new(balance, (1..=4).map(endpoint).collect());
        let hint = PickHint { hash: Some(42), ..ANY };
        let permits: Vec<Permit> = (0..100).map(|_| fixture.try_pick(&hint).expect("room")).collect();
        let set = fixture.cluster.endpoints();
        let mut loads: Vec<u32> = set
            .members()
            .iter()
            .map(|member| member.state.in_flight.load(std::sync::atomic::Ordering::Relaxed))
            .collect();
        loads.sort_unstable();
        assert_eq!(loads.iter().sum::<u32>(), 100);
        assert!((36..=38).contains(&loads[3]), "150 % of a quarter: {loads:?}");
        drop(permits);
    }
}

#[test]
fn tables_are_built_again_only_for_other_endpoints() {
    let balance = Balance { policy: BalancePolicy::Maglev, ..Balance::default() };
    let fixture = Fixture::new(balance.clone(), (1..=3).map(endpoint).collect());
    let table = |cluster: &Cluster| {
        let keyed = cluster.endpoints().members().iter().map(|member| (member.state.address, member.weight)).collect();
        Arc::as_ptr(&cluster.state().tables.get(BalancePolicy::Maglev, keyed).expect("it hashes"))
    };
    let same = compile(&fixture.registry, balance.clone(), (1..=3).map(endpoint).collect(), Placement::default());
    assert_eq!(table(&fixture.cluster), table(&same));
    let other = compile(&fixture.registry, balance, (1..=4).map(endpoint).collect(), Placement::default());
    assert_ne!(table(&fixture.cluster), table(&other));
}

#[test]
fn newcomers_begin_slowly_and_the_first_endpoints_are_none() {
    let slow = SlowStart { window: Duration::from_secs(30), min_weight: 10, aggression: 1.0 };
    let balance = Balance { policy: BalancePolicy::Random, slow_start: Some(slow), ..Balance::default() };
    let mut fixture = Fixture::new(balance.clone(), vec![endpoint(1), endpoint(2)]);
    assert!(fixture.cluster.endpoints().members().iter().all(|member| member.state.newcomer.is_none()));
    fixture.cluster =
        compile(&fixture.registry, balance, vec![endpoint(1), endpoint(2), endpoint(3)], Placement::default());
    fixture.now = Instant::now();
    let of_newcomer = |fixture: &mut Fixture| fixture.picks(&ANY).get(&3).copied().unwrap_or(0);
    let first = of_newcomer(&mut fixture);
    assert!((20..90).contains(&first), "a tenth of a share of a third: {first}");
    fixture.now += Duration::from_secs(15);
    let later = of_newcomer(&mut fixture);
    assert!((150..260).contains(&later), "half of a share: {later}");
    fixture.now += Duration::from_secs(15);
    let grown = of_newcomer(&mut fixture);
    assert!((280..390).contains(&grown), "{grown}");
}

#[test]
fn what_was_not_checked_yet_is_passed_over_and_no_sign_of_a_panic() {
    let mut fixture = Fixture::plain((1..=4).map(endpoint).collect());
    (2..=4).for_each(|port| fixture.mark(port, Against::Unchecked, true));
    assert_eq!(fixture.all(), [1]);
    assert!(!fixture.levels()[0].panic);
    fixture.mark(1, Against::Unchecked, true);
    assert_eq!(fixture.all(), [1, 2, 3, 4], "somebody must be the first");
}

#[test]
fn it_is_said_why_an_endpoint_is_not_picked() {
    let fixture = Fixture::plain(vec![endpoint(1), endpoint(2), draining(3), unhealthy(4), endpoint(5), prior(6, 1)]);
    fixture.mark(5, Against::Unchecked, true);
    let set = fixture.cluster.endpoints();
    let moment = Moment { state: fixture.cluster.state(), now: fixture.now };
    let why: SmallVec<[_; 8]> = (0..set.members().len()).map(|index| set.why_not(index, moment)).collect();
    let expected = [None, None, Some("draining"), Some("unwell"), Some("unchecked")];
    assert_eq!(why[..5], expected);
    assert_eq!(why[5], None, "two of three are 93 %: the next priority gets the rest");
}

/// A newcomer is expected to take as long as its peers do, under every policy.
#[test]
fn a_newcomer_is_expected_to_take_the_median() {
    let balance = Balance { policy: BalancePolicy::PeakEwma, ..Balance::default() };
    let fixture = Fixture::new(balance.clone(), (1..=3).map(endpoint).collect());
    for (member, millis) in fixture.cluster.endpoints().members().iter().zip([100, 400, 900]) {
        member.state.latency.observe(Duration::from_millis(millis), Instant::now());
    }
    let grown = compile(&fixture.registry, balance, (1..=4).map(endpoint).collect(), Placement::default());
    let set = grown.endpoints();
    let expected = set.members()[3].state.latency.read(Instant::now());
    assert!((0.3..0.41).contains(&expected), "{expected}");
}

/// An endpoint in any state: zone, priority, condition, what health says, version.
type State = (u8, u8, u8, u8, u8);

/// What the rules say, without groups and without counting ahead.
struct Naive<'a> {
    members: &'a [Member],
    wanted: Option<&'a Labels>,
    loads: BTreeMap<u8, crate::policy::balance::priority::Load>,
}

impl<'a> Naive<'a> {
    fn new(members: &'a [Member], wanted: Option<&'a Labels>, balance: &Balance, now: Instant) -> Self {
        let mut naive = Self { members, wanted, loads: BTreeMap::new() };
        let mut counts = BTreeMap::<u8, crate::policy::balance::priority::Level>::new();
        for member in members.iter().filter(|member| naive.is_in(member)) {
            let count =
                counts.entry(member.priority).or_insert(crate::policy::balance::priority::Level { all: 0, well: 0 });
            match Fit::of(member, now) {
                Fit::Fit => (count.all, count.well) = (count.all + 1, count.well + 1),
                Fit::Unwell => count.all += 1,
                Fit::Unchecked | Fit::Draining | Fit::Closed(_) => {}
            }
        }
        let levels: Vec<_> = counts.values().copied().collect();
        let loads = crate::policy::balance::priority::loads(&levels, balance.overprovisioning, balance.panic_threshold);
        naive.loads = counts.into_keys().zip(loads).collect();
        naive
    }

    fn is_in(&self, member: &Member) -> bool {
        let labelled = self.wanted.is_none_or(|wanted| wanted.iter().all(|(k, v)| member.labels.get(k) == Some(v)));
        labelled && member.condition != Condition::Draining
    }

    fn panics(&self, member: &Member) -> bool {
        self.loads.get(&member.priority).is_some_and(|load| load.panic)
    }

    /// Whether it is picked before those that were not checked yet.
    fn is_usable(&self, member: &Member, now: Instant) -> bool {
        let fit = match Fit::of(member, now) {
            Fit::Fit => true,
            Fit::Unwell | Fit::Unchecked => self.panics(member),
            Fit::Draining | Fit::Closed(_) => false,
        };
        fit && self.is_in(member)
    }

    fn all(&self, condition: impl Fn(&Member) -> bool) -> Vec<&'a Member> {
        self.members.iter().filter(|member| condition(member)).collect()
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(400))]

    #[test]
    fn picks_keep_to_the_rules_in_every_state(
        states in proptest::collection::vec((0..3_u8, 0..3_u8, 0..8_u8, 0..6_u8, 1..3_u8), 1..10) ,
        policy in proptest::sample::select(vec![
            BalancePolicy::RoundRobin, BalancePolicy::LeastRequest, BalancePolicy::PeakEwma, BalancePolicy::Random,
            BalancePolicy::RingHash, BalancePolicy::Maglev,
        ]),
        (prefers, threshold, by_version, hash, other_zone) in proptest::prelude::any::<(bool, bool, bool, Option<u64>, bool)>(),
        tried in proptest::collection::vec(0..10_usize, 0..4),
        bound in proptest::option::of(0..12_usize),
    ) {
        let of = |(n, (zone, priority, condition, _, version)): (usize, &State)| Endpoint {
            zone: Some(["here", "there", "elsewhere"][usize::from(*zone)].into()),
            priority: *priority,
            condition: match condition { 0 => Condition::Draining, 1 => Condition::Unhealthy, _ => Condition::Healthy },
            labels: labels(&format!("version={version}")),
            ..endpoint(n as u16 + 1)
        };
        let balance = Balance {
            policy,
            locality: if prefers { Locality::PreferZone } else { Locality::Any },
            panic_threshold: if threshold { 50 } else { 0 },
            ..Balance::default()
        };
        let mut fixture = Fixture::new(balance.clone(), states.iter().enumerate().map(of).collect());
        for (n, (.., health, _)) in states.iter().enumerate() {
            let against = match health { 0 => Against::Unhealthy, 1 => Against::Ejected, 2 => Against::Unchecked, _ => continue };
            fixture.mark(n as u16 + 1, against, true);
        }
        let two = labels("version=2");
        let subset = by_version.then_some(&two);
        let tried: Vec<SocketAddr> = tried.iter().map(|n| address(*n as u16 + 1)).collect();
        let bound = bound.map(|n| address(n as u16 + 1));
        let hint = PickHint { tried: &tried, hash, bound, strict: false, subset, other_zone };
        let set = fixture.cluster.endpoints();
        let now = fixture.now;
        let naive = Naive::new(set.members(), subset, &balance, now);
        let usable = naive.all(|member| naive.is_usable(member, now));
        let unchecked = naive.all(|member| naive.is_in(member) && Fit::of(member, now) == Fit::Unchecked);
        let was_tried = |member: &Member| tried.contains(&member.state.address);
        let home = set.members().iter().find(|member| {
            let in_subset = subset.is_none_or(|wanted| has_labels(member, wanted));
            let fit = match Fit::of(member, now) {
                Fit::Fit | Fit::Draining | Fit::Unchecked => true,
                Fit::Unwell => naive.panics(member),
                Fit::Closed(_) => false,
            };
            Some(member.state.address) == bound && in_subset && fit && !was_tried(member)
        });
        for _ in 0..8 {
            let permit = match fixture.try_pick(&hint) {
                Ok(permit) => permit,
                Err(error) => {
                    proptest::prop_assert_eq!(error, PickError::NoEndpoint);
                    proptest::prop_assert!(home.is_none() && usable.is_empty() && unchecked.is_empty());
                    continue;
                }
            };
            let picked = permit.member();
            if let Some(home) = home {
                proptest::prop_assert_eq!(picked.state.address, home.state.address);
                continue;
            }
            proptest::prop_assert!(naive.is_in(picked));
            let pool = if naive.is_usable(picked, now) { &usable } else { &unchecked };
            proptest::prop_assert!(pool.iter().any(|member| member.state.address == picked.state.address));
            proptest::prop_assert!(naive.is_usable(picked, now) || usable.is_empty(), "others were known to be well");
            proptest::prop_assert!(!was_tried(picked) || pool.iter().all(|member| was_tried(member)));
            let gets = |member: &Member| naive.loads[&member.priority].percent > 0;
            if tried.is_empty() && naive.is_usable(picked, now) {
                proptest::prop_assert!(gets(picked), "its priority gets nothing");
            }
        }
    }
}
