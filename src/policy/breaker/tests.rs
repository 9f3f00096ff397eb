use std::time::{Duration, Instant};

use outrigger_config::model::{FailureRatio, LatencyTrip, Place, Setting};
use proptest::prelude::*;

use super::*;
use crate::policy::rng::Rng;

const RESET: Duration = Duration::from_secs(30);
const GOOD: Evidence = Evidence::Good { took: None };
const BAD: Evidence = Evidence::Bad;

fn written<T>(value: T) -> Setting<T> {
    Setting { value, place: Some(Place { file: "test".into(), line: 1, column: 1 }) }
}

/// A breaker with a clock.
struct Bench {
    breaker: AtomicBreaker,
    settings: Breaker,
    start: Instant,
    now: Instant,
}

impl Bench {
    fn new(settings: Breaker) -> Self {
        let start = Instant::now();
        Self { breaker: AtomicBreaker::new(start), settings, start, now: start }
    }

    fn after(&mut self, millis: u64) -> &mut Self {
        self.now += Duration::from_millis(millis);
        self
    }

    fn ask(&self) -> Option<Pass> {
        match self.breaker.ask(&self.settings, || 0, self.now).0 {
            Verdict::Pass(pass) => Some(pass),
            Verdict::Refuse { .. } => None,
        }
    }

    fn passes(&self) -> Pass {
        self.ask().expect("it lets a request through")
    }

    fn report(&self, pass: Pass, evidence: Evidence) {
        self.breaker.report(pass, evidence, &self.settings, self.now);
        self.breaker.gone(pass, &self.settings, self.now);
    }

    fn request(&self, evidence: Evidence) {
        self.report(self.passes(), evidence);
    }

    fn opened(settings: Breaker) -> Self {
        let bench = Self::new(settings);
        (0..bench.settings.failure_threshold.value).for_each(|_| bench.request(BAD));
        assert!(bench.is_open());
        bench
    }

    fn is_open(&self) -> bool {
        matches!(self.breaker.machine().state, State::Open { .. })
    }

    fn is_closed(&self) -> bool {
        self.breaker.machine().state == State::Closed
    }

    /// How long it will stay open.
    fn waits(&self) -> Duration {
        self.breaker.refuses(&self.settings, self.now).expect("it is open")
    }

    fn until_due(&mut self) -> &mut Self {
        self.now = self.breaker.due(&self.settings).expect("a probe is waited for");
        self
    }
}

#[test]
fn so_many_failures_in_a_row_open_it_and_a_success_between_starts_over() {
    let bench = Bench::new(Breaker::default());
    (0..4).for_each(|_| bench.request(BAD));
    bench.request(GOOD);
    (0..4).for_each(|_| bench.request(BAD));
    assert!(bench.is_closed());
    bench.request(BAD);
    assert!(bench.is_open());
    assert_eq!(bench.ask(), None);
}

#[test]
fn half_open_lets_one_through_and_its_success_closes() {
    let mut bench = Bench::opened(Breaker::default());
    bench.until_due();
    let probe = bench.passes();
    assert!(probe.is_probe());
    assert!((0..100).all(|_| bench.ask().is_none()));
    bench.report(probe, GOOD);
    assert!(bench.is_closed());
    assert!((0..100).all(|_| bench.ask().is_some()));
}

#[test]
fn a_probe_that_fails_doubles_the_timeout_up_to_the_limit_with_a_tenth_of_jitter() {
    let mut bench = Bench::opened(Breaker::default());
    for seconds in [30, 60, 120, 240, 300, 300] {
        let (least, waits) = (Duration::from_secs(seconds), bench.waits());
        assert!(waits >= least && waits <= least + least / 10 + Duration::from_millis(1), "{waits:?} for {seconds} s");
        bench.until_due().request(BAD);
    }
    bench.until_due().request(GOOD);
    (0..5).for_each(|_| bench.request(BAD));
    assert!(bench.waits() <= Duration::from_secs(33), "after it was closed it starts over");
}

#[test]
fn a_probe_that_ends_without_evidence_gives_its_place_to_the_next() {
    let mut bench = Bench::opened(Breaker::default());
    bench.until_due();
    let probe = bench.passes();
    assert_eq!(bench.ask(), None);
    bench.breaker.gone(probe, &bench.settings, bench.now);
    let next = bench.passes();
    assert!(next.is_probe());
    assert_eq!(bench.ask(), None);
    bench.report(probe, GOOD);
    assert_eq!(bench.ask(), None, "the first one counts no longer");
    bench.report(next, GOOD);
    assert!(bench.is_closed());
}

#[test]
fn a_probe_that_is_never_decided_keeps_others_waiting_for_one_timeout() {
    let mut bench = Bench::opened(Breaker::default());
    bench.until_due();
    let first = bench.passes();
    bench.report(first, Evidence::Took(Duration::from_millis(3)));
    // Reporting gave its place back; ask again and only let it go on.
    let going_on = bench.passes();
    bench.after(29_999);
    assert_eq!(bench.ask(), None);
    bench.after(1);
    let next = bench.passes();
    assert!(next.is_probe());
    bench.report(going_on, BAD);
    assert!(!bench.is_open(), "it counts no longer");
    bench.report(next, GOOD);
    assert!(bench.is_closed());
}

#[test]
fn what_was_let_through_before_it_opened_changes_nothing() {
    let mut bench = Bench::new(Breaker::default());
    let early: Vec<Pass> = (0..20).map(|_| bench.passes()).collect();
    (0..5).for_each(|_| bench.request(BAD));
    bench.report(early[0], GOOD);
    assert!(bench.is_open());
    bench.until_due().request(GOOD);
    early[1..].iter().for_each(|pass| bench.report(*pass, BAD));
    assert!(bench.is_closed());
    (0..4).for_each(|_| bench.request(BAD));
    assert!(bench.is_closed(), "none of them was counted");
}

#[test]
fn a_share_of_failures_opens_it_from_the_least_number_on() {
    let ratio = FailureRatio { percent: 50, window: Duration::from_secs(10), min_requests: 20 };
    let bench = Bench::new(Breaker { failure_threshold: written(0), failure_ratio: Some(ratio), ..Breaker::default() });
    (0..9).for_each(|_| {
        bench.request(BAD);
        bench.request(GOOD);
    });
    bench.request(GOOD);
    assert!(bench.is_closed());
    bench.request(BAD);
    assert!(bench.is_open(), "10 of 20");
    assert_eq!(bench.breaker.standing(&bench.settings, bench.now).cause, Cause::Ratio);
}

#[test]
fn failures_of_before_the_window_are_forgotten() {
    let ratio = FailureRatio { percent: 50, window: Duration::from_secs(10), min_requests: 4 };
    let mut bench =
        Bench::new(Breaker { failure_threshold: written(0), failure_ratio: Some(ratio), ..Breaker::default() });
    (0..3).for_each(|_| bench.request(BAD));
    bench.after(10_000);
    (0..4).for_each(|_| bench.request(GOOD));
    bench.request(BAD);
    assert!(bench.is_closed());
}

#[test]
fn a_quantile_of_the_time_opens_it_and_a_slow_probe_keeps_it_open() {
    let above = Duration::from_millis(100);
    let trip = LatencyTrip { quantile: 90, above, window: Duration::from_secs(10), min_requests: 20 };
    let mut bench = Bench::new(Breaker { latency: Some(trip), ..Breaker::default() });
    let took = |millis| Evidence::Good { took: Some(Duration::from_millis(millis)) };
    (0..18).for_each(|_| bench.request(took(100)));
    bench.request(took(101));
    bench.request(took(101));
    assert!(bench.is_closed(), "the 90th percentile of 20 is the 18th");
    bench.request(Evidence::Took(Duration::from_millis(500)));
    assert!(bench.is_open(), "our own time limit says how long it took at least");
    bench.until_due().request(took(101));
    assert!(bench.is_open());
    bench.until_due().request(took(99));
    assert!(bench.is_closed());
}

#[test]
fn our_own_time_limits_are_no_failures() {
    let mut bench = Bench::new(Breaker::default());
    (0..100).for_each(|_| bench.request(Evidence::Took(Duration::from_secs(15))));
    assert!(bench.is_closed());
    (0..5).for_each(|_| bench.request(BAD));
    bench.until_due().request(Evidence::Took(Duration::from_secs(15)));
    assert!(!bench.is_open() && !bench.is_closed(), "a probe that met one decides nothing");
}

#[test]
fn the_ramp_lets_a_growing_share_through_and_ends_closed() {
    let ramp = Duration::from_secs(10);
    let mut bench = Bench::opened(Breaker { ramp, ..Breaker::default() });
    bench.until_due().request(GOOD);
    let mut rng = Rng::new(1);
    let mut share = |bench: &Bench| {
        let ask =
            |_: &u32| matches!(bench.breaker.ask(&bench.settings, || rng.next_u64(), bench.now).0, Verdict::Pass(_));
        (0..10_000).filter(ask).count()
    };
    for (millis, expected) in [(0, 1_000), (2_500, 2_500), (2_500, 5_000), (4_000, 9_000)] {
        let passed = share(bench.after(millis));
        assert!(passed.abs_diff(expected) < 300, "{passed}, not {expected}");
    }
    assert_eq!(share(bench.after(1_000)), 10_000);
    assert!(bench.is_closed());
}

#[test]
fn failures_within_the_ramp_double_the_timeout() {
    let ramp = Duration::from_secs(10);
    let mut bench = Bench::opened(Breaker { ramp, ..Breaker::default() });
    bench.until_due().request(GOOD);
    (0..5).for_each(|_| bench.request(BAD));
    assert!(bench.waits() >= 2 * RESET);
}

#[test]
fn the_last_endpoint_is_tolerated_where_nobody_wrote_a_threshold() {
    let bench = Bench::new(Breaker::default());
    (0..5).for_each(|_| bench.request(BAD));
    assert_eq!(bench.ask(), None);
    let tolerated = bench.breaker.tolerate(&bench.settings).expect("nobody asked for a breaker");
    bench.report(tolerated, BAD);
    assert!(bench.is_open());
    let wrote = Breaker { failure_threshold: written(5), ..Breaker::default() };
    assert_eq!(bench.breaker.tolerate(&wrote), None);
    let tolerated = bench.breaker.tolerate(&bench.settings).expect("still");
    bench.report(tolerated, GOOD);
    assert!(bench.is_closed(), "it is well again");
}

#[test]
fn orders_hold_whatever_comes_of_requests_and_end_in_a_probe() {
    let mut bench = Bench::new(Breaker::default());
    let early = bench.passes();
    bench.breaker.order(Force::Open, bench.now);
    bench.report(early, GOOD);
    assert_eq!(bench.after(3_600_000).ask(), None);
    bench.breaker.order(Force::Auto, bench.now);
    assert!(bench.passes().is_probe());
    bench.breaker.order(Force::Closed, bench.now);
    (0..100).for_each(|_| bench.request(BAD));
    assert!(bench.ask().is_some());
    bench.breaker.order(Force::Auto, bench.now);
    assert!(bench.is_closed());
    (0..5).for_each(|_| bench.request(BAD));
    assert!(bench.is_open());
}

#[test]
fn one_that_is_switched_off_while_open_lets_everything_through() {
    let mut bench = Bench::opened(Breaker::default());
    bench.settings.failure_threshold = written(0);
    (0..100).for_each(|_| bench.request(BAD));
    assert_eq!(bench.breaker.refuses(&bench.settings, bench.now), None);
    bench.settings.failure_threshold = written(5);
    assert_eq!(bench.ask(), None, "it remembers");
}

#[test]
fn workers_that_ask_at_once_get_one_probe() {
    for round in 0..200 {
        let mut bench = Bench::opened(Breaker::default());
        bench.until_due();
        let barrier = std::sync::Barrier::new(4);
        let probes: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        barrier.wait();
                        (0..25).filter(|_| bench.ask().is_some()).count()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert_eq!(probes, 1, "round {round}");
    }
}

/// A breaker as one would write it who has all the memory and one thread.
struct Naive {
    state: Kind,
    failures: u32,
    /// Requests under way: which they are, and in which stretch of time between two changes they were let through.
    stretch: u32,
    row: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Closed,
    Open { until: u64 },
    HalfOpen { probing_since: Option<u64> },
}

#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Ask,
    End(usize, Ending),
}

#[derive(Debug, Clone, Copy)]
enum Ending {
    Good,
    Bad,
    Gone,
}

fn step() -> impl Strategy<Value = Step> {
    let ending = prop_oneof![2 => Just(Ending::Good), 5 => Just(Ending::Bad), 2 => Just(Ending::Gone)];
    prop_oneof![
        2 => (0..1_500_u64).prop_map(Step::Wait),
        5 => Just(Step::Ask),
        5 => (any::<usize>(), ending).prop_map(|(which, ending)| Step::End(which, ending)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn it_does_what_a_naive_one_does(
        steps in proptest::collection::vec(step(), 1..250),
        threshold in 1..4_u32,
        reset in 1..1_000_u64,
        longest in 1..6_000_u64,
    ) {
        let settings = Breaker {
            failure_threshold: written(threshold),
            reset_timeout: Duration::from_millis(reset),
            max_reset_timeout: Duration::from_millis(longest),
            ..Breaker::default()
        };
        let mut bench = Bench::new(settings);
        let mut naive = Naive { state: Kind::Closed, failures: 0, stretch: 0, row: 0 };
        let mut under_way: Vec<(Pass, u32)> = Vec::new();
        for step in steps {
            let before = bench.breaker.machine().state;
            match step {
                Step::Wait(millis) => { bench.after(millis); }
                Step::Ask => {
                    let now = (bench.now - bench.start).as_millis() as u64;
                    let allowed = match naive.state {
                        Kind::Closed => true,
                        Kind::Open { until } => now >= until,
                        Kind::HalfOpen { probing_since } => probing_since.is_none_or(|since| now >= since + reset),
                    };
                    if allowed && naive.state != Kind::Closed {
                        naive.state = Kind::HalfOpen { probing_since: Some(now) };
                        naive.stretch += 1;
                    }
                    let told = bench.breaker.refuses(&bench.settings, bench.now);
                    prop_assert_eq!(told.is_none(), allowed, "asked without asking");
                    let pass = bench.ask();
                    prop_assert_eq!(pass.is_some(), allowed);
                    if let Some(pass) = pass {
                        prop_assert_eq!(pass.is_probe(), naive.state != Kind::Closed);
                        under_way.push((pass, naive.stretch));
                    }
                }
                Step::End(which, ending) => {
                    let Some(last) = under_way.len().checked_sub(1) else { continue };
                    let (pass, stretch) = under_way.swap_remove(which % (last + 1));
                    match ending {
                        Ending::Good => bench.report(pass, GOOD),
                        Ending::Bad => bench.report(pass, BAD),
                        Ending::Gone => { bench.breaker.gone(pass, &bench.settings, bench.now); }
                    }
                    let now = (bench.now - bench.start).as_millis() as u64;
                    let counts = stretch == naive.stretch;
                    let open = |naive: &mut Naive| -> Result<(), TestCaseError> {
                        let base = reset.saturating_mul(1 << naive.row.min(15)).min(longest).max(reset);
                        let State::Open { until } = bench.breaker.machine().state else {
                            return Err(TestCaseError::fail("it should be open"));
                        };
                        prop_assert!(until >= now + base && until <= now + base + base / 10, "{} after {}", until - now, base);
                        *naive = Naive { state: Kind::Open { until }, failures: 0, stretch: naive.stretch + 1, row: naive.row + 1 };
                        Ok(())
                    };
                    match (naive.state, ending) {
                        _ if !counts => {}
                        (Kind::Closed, Ending::Good) => naive.failures = 0,
                        (Kind::Closed, Ending::Gone) => {}
                        (Kind::Closed, Ending::Bad) => {
                            naive.failures += 1;
                            if naive.failures == threshold { open(&mut naive)?; }
                        }
                        (Kind::HalfOpen { .. }, Ending::Good) => {
                            naive = Naive { state: Kind::Closed, failures: 0, stretch: naive.stretch + 1, row: 0 };
                        }
                        (Kind::HalfOpen { .. }, Ending::Gone) => naive.state = Kind::HalfOpen { probing_since: None },
                        (Kind::HalfOpen { .. }, Ending::Bad) => open(&mut naive)?,
                        (Kind::Open { .. }, _) => unreachable!("nothing is let through while it is open"),
                    }
                }
            }
            let after = bench.breaker.machine().state;
            let expected = match naive.state {
                Kind::Closed => State::Closed,
                Kind::Open { until } => State::Open { until },
                Kind::HalfOpen { probing_since } => State::HalfOpen { probe: probing_since },
            };
            prop_assert_eq!(after, expected);
            let legal = match (before, after) {
                (before, after) if before == after => true,
                (State::Closed, State::Open { .. }) => true,
                (State::Open { .. } | State::HalfOpen { .. }, State::HalfOpen { .. }) => true,
                (State::HalfOpen { .. }, State::Closed | State::Open { .. }) => true,
                _ => false,
            };
            prop_assert!(legal, "{:?} became {:?}", before, after);
        }
    }
}
