//! The limit before a simulated upstream: so many workers, a queue in order, and service times of many kinds.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::policy::rng::Rng;

const SETTINGS: AdaptiveConcurrency = AdaptiveConcurrency { min: 3, max: 1000, tolerance: 50 };

/// How long requests take, in parts of the mean.
#[derive(Debug, Clone, Copy)]
enum Service {
    Constant,
    Uniform,
    Exponential,
    /// Half of them a tenth, half of them nearly twice the mean.
    TwoKinds,
    /// A heavy tail.
    Pareto,
}

impl Service {
    fn draw(self, rng: &mut Rng) -> f64 {
        let share = share(rng);
        match self {
            Self::Constant => 1.0,
            Self::Uniform => 0.5 + share,
            Self::Exponential => -share.ln(),
            Self::TwoKinds if share < 0.5 => 0.1,
            Self::TwoKinds => 1.9,
            Self::Pareto => (0.6 * share.powf(-0.4)).min(50.0),
        }
    }
}

/// Above 0, below 1.
fn share(rng: &mut Rng) -> f64 {
    ((rng.next_u64() >> 12) as f64 + 0.5) / (1_u64 << 52) as f64
}

/// What the upstream is like for some time.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    seconds: f64,
    workers: usize,
    /// Mean, seconds.
    service: f64,
    /// Requests a second.
    arrivals: f64,
}

/// What was seen in half a second.
#[derive(Debug, Clone, Copy)]
struct Half {
    /// Answered, in parts of what was possible.
    goodput: f64,
    limit: u32,
}

/// A simulated upstream behind a limit.
struct World {
    limit: Concurrency,
    base: Instant,
    rng: Rng,
    service: Service,
    now: f64,
    in_flight: u32,
    queue: VecDeque<f64>,
    busy: usize,
    /// When, in nanoseconds, and when it had begun, in nanoseconds.
    ends: BinaryHeap<Reverse<(u64, u64)>>,
    pressed: bool,
}

impl World {
    fn new(service: Service, seed: u64) -> Self {
        let base = Instant::now();
        let limit = Concurrency::new(&SETTINGS);
        let (queue, ends) = (VecDeque::new(), BinaryHeap::new());
        Self { limit, base, rng: Rng::new(seed), service, now: 0.0, in_flight: 0, queue, busy: 0, ends, pressed: false }
    }

    fn run(&mut self, stretch: Stretch) -> Vec<Half> {
        let Stretch { seconds, workers, service, arrivals } = stretch;
        let (start, possible) = (self.now, arrivals.min(workers as f64 / service));
        let mut halves = Vec::new();
        let mut done = 0;
        let mut arrival = self.now;
        while self.now < start + seconds {
            let end = self.ends.peek().map_or(f64::MAX, |Reverse((end, _))| *end as f64 / 1e9);
            self.now = end.min(arrival);
            if self.now >= start + 0.5 * (halves.len() + 1) as f64 {
                halves.push(Half { goodput: f64::from(done) * 2.0 / possible, limit: self.limit.limit() });
                done = 0;
            }
            if arrival <= end {
                arrival -= share(&mut self.rng).ln() / arrivals;
                self.arrive();
            } else {
                done += 1;
                self.finish();
            }
            while self.busy < workers && !self.queue.is_empty() {
                let began = self.queue.pop_front().expect("it is not empty");
                let end = self.now + service * self.service.draw(&mut self.rng);
                self.busy += 1;
                self.ends.push(Reverse(((end * 1e9) as u64, (began * 1e9) as u64)));
            }
        }
        halves
    }

    fn arrive(&mut self) {
        if self.in_flight < self.limit.limit() {
            self.in_flight += 1;
            self.queue.push_back(self.now);
        } else {
            self.pressed = true;
        }
    }

    fn finish(&mut self) {
        let Reverse((end, began)) = self.ends.pop().expect("something ends");
        (self.busy, self.in_flight) = (self.busy - 1, self.in_flight - 1);
        let sample = Sample::Answered(Duration::from_nanos(end - began));
        let now = self.base + Duration::from_secs_f64(self.now);
        self.limit.observe(&SETTINGS, sample, std::mem::take(&mut self.pressed), now);
    }
}

/// The mean of what was answered, and the worst two seconds.
fn goodput(halves: &[Half]) -> (f64, f64) {
    let mean = |halves: &[Half]| halves.iter().map(|half| half.goodput).sum::<f64>() / halves.len() as f64;
    (mean(halves), halves.windows(4).map(mean).fold(f64::MAX, f64::min))
}

#[test]
fn under_three_times_the_load_the_limit_finds_the_capacity_and_stays_there() {
    for service in [Service::Constant, Service::Uniform, Service::Exponential, Service::TwoKinds, Service::Pareto] {
        for (workers, seconds) in [(10, 0.01), (100, 0.02)] {
            for seed in 1..=2 {
                let arrivals = 3.0 * workers as f64 / seconds;
                let stretch = Stretch { seconds: 30.0, workers, service: seconds, arrivals };
                let halves = World::new(service, seed).run(stretch);
                let (mean, worst) = goodput(&halves[20..]);
                let what = format!("{service:?}, {workers} workers, seed {seed}: mean {mean:.2}, worst {worst:.2}");
                assert!(mean > 0.95 && worst > 0.8, "{what}");
                let limit = halves[20..].iter().map(|half| f64::from(half.limit)).sum::<f64>();
                let limit = limit / halves[20..].len() as f64 / workers as f64;
                assert!(limit < 3.0, "{what}, limit {limit:.1} x workers");
            }
        }
    }
}

#[test]
fn the_limit_follows_a_capacity_that_is_halved_and_doubled_by_workers() {
    for service in [Service::Constant, Service::Exponential] {
        let mut world = World::new(service, 3);
        for (workers, arrivals) in [(40, 6000.0), (20, 6000.0), (80, 12000.0), (40, 12000.0)] {
            let halves = world.run(Stretch { seconds: 15.0, workers, service: 0.02, arrivals });
            let (mean, worst) = goodput(&halves[10..]);
            assert!(mean > 0.95 && worst > 0.8, "{service:?}, {workers} workers: {mean:.2}, {worst:.2}");
            let limit = f64::from(halves.last().expect("some").limit) / workers as f64;
            assert!(limit < 3.0, "{service:?}, {workers} workers: limit {limit:.1} x");
        }
    }
}

#[test]
fn a_service_that_becomes_slower_is_no_overload_and_does_not_starve() {
    for service in [Service::Constant, Service::Exponential] {
        let mut world = World::new(service, 4);
        for seconds in [0.01, 0.02, 0.04, 0.01] {
            let halves = world.run(Stretch { seconds: 15.0, workers: 40, service: seconds, arrivals: 12_000.0 });
            let (mean, worst) = goodput(&halves[10..]);
            assert!(mean > 0.93 && worst > 0.8, "{service:?}, {seconds} s: {mean:.2}, {worst:.2}");
        }
    }
}

#[test]
fn below_the_capacity_nobody_is_refused_once_it_is_known() {
    let mut world = World::new(Service::Exponential, 5);
    world.run(Stretch { seconds: 20.0, workers: 40, service: 0.02, arrivals: 6000.0 });
    let halves = world.run(Stretch { seconds: 20.0, workers: 40, service: 0.02, arrivals: 1000.0 });
    let (mean, worst) = goodput(&halves[2..]);
    assert!(mean > 0.98 && worst > 0.93, "{mean:.2}, {worst:.2}");
}

/// An upstream that answers so many at a time and refuses the others at once.
fn refused(share_of_failures: impl Fn(u32) -> f64) -> Concurrency {
    let start = Instant::now();
    let mut limit = Concurrency::new(&SETTINGS);
    let mut rng = Rng::new(6);
    for tick in 0..40_000_u64 {
        let now = start + Duration::from_millis(tick);
        let took = Duration::from_millis(10);
        let fails = share(&mut rng) < share_of_failures(limit.limit());
        let sample = if fails { Sample::Overloaded(took) } else { Sample::Answered(took) };
        limit.observe(&SETTINGS, sample, true, now);
    }
    limit
}

#[test]
fn refusals_of_the_upstream_lower_the_limit_to_what_it_takes() {
    let takes = 20;
    let limit = refused(|limit| 1.0 - f64::from(takes) / f64::from(limit.max(takes)));
    assert!((takes / 2..takes * 2).contains(&limit.limit()), "{}", limit.limit());
}

#[test]
fn failures_that_have_nothing_to_do_with_load_do_not_starve_a_service() {
    let limit = refused(|_| 0.3);
    assert!(limit.limit() > 20, "{}", limit.limit());
}

#[test]
fn the_limit_keeps_to_its_bounds() {
    let narrow = AdaptiveConcurrency { min: 7, max: 9, tolerance: 50 };
    let start = Instant::now();
    let mut limit = Concurrency::new(&narrow);
    assert_eq!(limit.limit(), 9);
    for tick in 0..20_000_u64 {
        let took = Duration::from_millis(1 + tick / 100);
        limit.observe(&narrow, Sample::Answered(took), true, start + Duration::from_millis(tick));
        assert!((7..=9).contains(&limit.limit()));
    }
    limit.bound(&AdaptiveConcurrency { min: 20, max: 30, tolerance: 50 });
    assert_eq!(limit.limit(), 20);
}

#[test]
fn callers_that_leave_before_they_are_answered_show_that_it_takes_too_long() {
    let start = Instant::now();
    let mut limit = Concurrency::new(&SETTINGS);
    let fast = Duration::from_millis(10);
    for tick in 0..3000 {
        limit.observe(&SETTINGS, Sample::Answered(fast), false, start + Duration::from_millis(tick));
    }
    let before = limit.limit();
    for tick in 3000..5000 {
        let sample = Sample::Unanswered(Duration::from_millis(100));
        limit.observe(&SETTINGS, sample, true, start + Duration::from_millis(tick));
    }
    assert!(limit.limit() < before, "{before} -> {}", limit.limit());
}

#[test]
fn a_limit_that_is_lowered_for_a_look_does_not_stay_low_when_nobody_asks_any_more() {
    let start = Instant::now();
    let mut limit = Concurrency::new(&SETTINGS);
    let took = Duration::from_millis(10);
    let mut tick = 0;
    while limit.phase == Phase::Following {
        assert!(tick < 10_000, "it is lowered at some time");
        limit.observe(&SETTINGS, Sample::Answered(took), true, start + Duration::from_millis(tick));
        tick += 1;
    }
    let lowered = limit.limit();
    let later = start + Duration::from_secs(60);
    assert!(limit.observe(&SETTINGS, Sample::Answered(took), false, later));
    assert!(limit.limit() > lowered, "{lowered} -> {}", limit.limit());
}

proptest! {
    /// Whatever is observed, in whatever order: the limit stays within its bounds, and critical requests have no less.
    #[test]
    fn no_observation_drives_the_limit_out_of_its_bounds(
        samples in proptest::collection::vec((0..3_u8, 0..3_000_000_u64, 0..20_000_u64, any::<bool>()), 0..3000),
        (min, max) in (1..50_u32, 50..2000_u32),
    ) {
        let settings = AdaptiveConcurrency { min, max, tolerance: 50 };
        let mut limit = Concurrency::new(&settings);
        let mut now = Instant::now();
        for (kind, took, gap, pressed) in samples {
            now += Duration::from_micros(gap);
            let took = Duration::from_micros(took);
            let sample = match kind {
                0 => Sample::Answered(took),
                1 => Sample::Unanswered(took),
                _ => Sample::Overloaded(took),
            };
            limit.observe(&settings, sample, pressed, now);
            prop_assert!((min..=max).contains(&limit.limit()), "{limit:?}");
            prop_assert!(limit.limit_of_critical() >= limit.limit());
            prop_assert!(limit.baseline.is_none_or(|baseline| baseline.is_finite() && baseline > 0.0), "{limit:?}");
        }
    }
}
