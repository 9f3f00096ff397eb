//! Peak EWMA: how long an endpoint's next answer is likely to take.
//!
//! A slower answer than expected counts at once; a faster one lowers the expectation only as time passes (decay
//! constant 10 s). So an endpoint in trouble is left alone immediately and is trusted again gradually. What is
//! not observed decays as well, so an endpoint that was once slow is tried again.
//!
//! Failures are often fast and would attract traffic. A failure therefore counts as slow: ten times the present
//! expectation, at least 100 ms and at most 5 s, or for services that are slower than that anyway, twice the
//! expectation. One stray error costs an endpoint its traffic for some seconds, a row of them for a minute.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::base::clock;

/// The expectation of one endpoint, shared by all workers.
///
/// Value and time stand in one word, so that readers never see one without the other. Updates of several workers
/// are ordered by compare-and-swap; none is lost.
#[derive(Debug)]
pub struct AtomicEwma {
    /// Upper half: the expectation in seconds, as `f32`. Lower half: when, in milliseconds after `epoch`, wrapping
    /// after 49 days; a value exactly that old would read as fresh.
    state: AtomicU64,
    epoch: u64,
}

impl AtomicEwma {
    /// Starts with an expectation: that of its peers ([`median_cost`]), or [`INITIAL_COST`] without any.
    #[must_use]
    pub fn new(seconds: f64, now: Instant) -> Self {
        Self { state: AtomicU64::new(State { seconds: seconds as f32, millis: 0 }.pack()), epoch: clock::nanos(now) }
    }

    /// An answer took this long.
    pub fn observe(&self, rtt: Duration, now: Instant) {
        let rtt = rtt.as_secs_f32();
        self.update(now, |old, kept| if rtt >= old { rtt } else { old * kept + rtt * (1.0 - kept) });
    }

    /// An answer had not come after this long, and was not waited for: counts where it is longer than expected. A
    /// short patience must not make a slow endpoint look fast.
    pub fn observe_at_least(&self, rtt: Duration, now: Instant) {
        let rtt = rtt.as_secs_f32();
        self.update(now, |old, kept| rtt.max(old * kept));
    }

    /// The endpoint failed, or said that it is overloaded.
    pub fn observe_failure(&self, now: Instant) {
        self.update(now, |old, kept| {
            let current = old * kept;
            if current > MOST_AFTER_FAILURE {
                (current * 2.0).min(MOST)
            } else {
                (current * 10.0).clamp(LEAST_AFTER_FAILURE, MOST_AFTER_FAILURE)
            }
        });
    }

    /// With a failure the endpoint asked to be left alone for this long (`Retry-After`, `grpc-retry-pushback-ms`),
    /// counted up to 300 s. The failure as such is observed beside.
    pub fn observe_pushback(&self, wait: Duration, now: Instant) {
        let wait = wait.as_secs_f32().min(MOST);
        self.update(now, |old, kept| wait.max(old * kept));
    }

    /// The expectation now, in seconds. Changes nothing.
    #[must_use]
    pub fn read(&self, now: Instant) -> f64 {
        let state = State::unpack(self.state.load(Ordering::Relaxed));
        f64::from(state.seconds * kept(self.millis(now), state.millis))
    }

    /// `change` gets the old value and how much of it is left.
    fn update(&self, now: Instant, change: impl Fn(f32, f32) -> f32) {
        let millis = self.millis(now);
        let next = |bits| {
            let old = State::unpack(bits);
            // A clock reading that is older than the last update must not turn time back.
            let millis = if is_past(millis, old.millis) { old.millis } else { millis };
            Some(State { seconds: change(old.seconds, kept(millis, old.millis)), millis }.pack())
        };
        // The closure never declines, so neither does this.
        let _ = self.state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }

    fn millis(&self, now: Instant) -> u32 {
        // Wrapping is meant.
        (clock::nanos(now).saturating_sub(self.epoch) / 1_000_000) as u32
    }
}

/// The median of some costs, in seconds: where a newcomer starts, so that it is neither flooded nor shunned. Of an
/// even number the lower one of the middle. [`INITIAL_COST`] when there are none.
#[must_use]
pub fn median_cost(costs: impl IntoIterator<Item = f64>) -> f64 {
    let mut costs: Vec<f64> = costs.into_iter().collect();
    let Some(last) = costs.len().checked_sub(1) else {
        return INITIAL_COST;
    };
    *costs.select_nth_unstable_by(last / 2, f64::total_cmp).1
}

/// What is expected of the first endpoints of a cluster, in seconds.
pub const INITIAL_COST: f64 = 0.03;
/// After this time without news about 37 % of an expectation is left.
pub const DECAY: Duration = Duration::from_secs(10);

#[derive(Clone, Copy)]
struct State {
    seconds: f32,
    millis: u32,
}

impl State {
    fn pack(self) -> u64 {
        u64::from(self.seconds.to_bits()) << 32 | u64::from(self.millis)
    }

    fn unpack(bits: u64) -> Self {
        Self { seconds: f32::from_bits((bits >> 32) as u32), millis: bits as u32 }
    }
}

fn is_past(millis: u32, than: u32) -> bool {
    millis.wrapping_sub(than) > u32::MAX - STRAGGLING
}

/// Clock readings of different workers are this close together, in milliseconds.
const STRAGGLING: u32 = 60_000;

/// How much of a value observed at `since` is left.
fn kept(millis: u32, since: u32) -> f32 {
    match millis.wrapping_sub(since) {
        0 => 1.0,
        _ if is_past(millis, since) => 1.0,
        elapsed => (-(elapsed as f32) / DECAY.as_millis() as f32).exp(),
    }
}

/// Bounds of what one failure makes of an expectation, in seconds.
const LEAST_AFTER_FAILURE: f32 = 0.1;
const MOST_AFTER_FAILURE: f32 = 5.0;
/// Nothing but a real answer makes an expectation longer, in seconds.
const MOST: f32 = 300.0;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn secs(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn about(value: f64, expected: f64) -> bool {
        (value - expected).abs() <= expected.abs() * 1e-3
    }

    #[test]
    fn a_slower_answer_counts_at_once() {
        let start = Instant::now();
        let ewma = AtomicEwma::new(0.01, start);
        ewma.observe(secs(0.5), start + secs(0.001));
        assert!(about(ewma.read(start + secs(0.001)), 0.5));
    }

    #[test]
    fn a_faster_answer_counts_as_time_passes() {
        let start = Instant::now();
        let ewma = AtomicEwma::new(1.0, start);
        ewma.observe(secs(0.1), start);
        assert!(about(ewma.read(start), 1.0), "no time has passed");
        let later = start + DECAY;
        ewma.observe(secs(0.1), later);
        let kept = (-1.0_f64).exp();
        assert!(about(ewma.read(later), kept + 0.1 * (1.0 - kept)), "{}", ewma.read(later));
    }

    #[test]
    fn an_answer_that_was_not_waited_for_never_counts_as_fast() {
        let start = Instant::now();
        let ewma = AtomicEwma::new(1.0, start);
        ewma.observe_at_least(secs(0.1), start);
        assert!(about(ewma.read(start), 1.0));
        ewma.observe_at_least(secs(0.1), start + DECAY);
        assert!(about(ewma.read(start + DECAY), (-1.0_f64).exp()), "as if nothing had been observed");
        ewma.observe_at_least(secs(3.0), start + DECAY);
        assert!(about(ewma.read(start + DECAY), 3.0));
    }

    #[test]
    fn reading_decays_and_changes_nothing() {
        let start = Instant::now();
        let ewma = AtomicEwma::new(1.0, start);
        for _ in 0..3 {
            assert!(about(ewma.read(start + DECAY), (-1.0_f64).exp()));
        }
        assert!(about(ewma.read(start), 1.0));
    }

    #[test]
    fn a_failure_counts_ten_times_up_to_five_seconds() {
        let now = Instant::now();
        let after = |seconds: f64, failures: u32| {
            let ewma = AtomicEwma::new(seconds, now);
            (0..failures).for_each(|_| ewma.observe_failure(now));
            ewma.read(now)
        };
        assert!(about(after(0.0, 1), 0.1));
        assert!(about(after(0.03, 1), 0.3));
        assert!(about(after(0.03, 100), 5.0));
        assert!(about(after(8.0, 1), 16.0), "a slow service's failures still count as slower");
        assert!(about(after(8.0, 100), 300.0));
    }

    #[test]
    fn pushback_counts_as_long_as_it_says_up_to_300_seconds() {
        let now = Instant::now();
        for (wait, expected) in [(0.0, 0.3), (2.0, 2.0), (1e6, 300.0)] {
            let ewma = AtomicEwma::new(0.03, now);
            ewma.observe_failure(now);
            ewma.observe_pushback(secs(wait), now);
            assert!(about(ewma.read(now), expected), "{wait}");
        }
    }

    #[test]
    fn an_older_clock_reading_does_not_turn_time_back() {
        let start = Instant::now();
        let ewma = AtomicEwma::new(0.1, start);
        ewma.observe(secs(1.0), start + secs(20.0));
        ewma.observe(secs(0.5), start + secs(19.0));
        assert!(about(ewma.read(start + secs(20.0)), 1.0));
        assert!(about(ewma.read(start + secs(10.0)), 1.0));
    }

    #[test]
    fn time_wraps_after_49_days_without_a_jump() {
        let start = Instant::now();
        let ewma = AtomicEwma::new(0.1, start);
        let wrap = Duration::from_millis(1 << 32);
        ewma.observe(secs(0.1), start + wrap / 2);
        ewma.observe(secs(1.0), start + wrap - secs(5.0));
        assert!(about(ewma.read(start + wrap + secs(5.0)), (-1.0_f64).exp()));
    }

    #[test]
    fn no_observation_of_another_thread_is_lost() {
        let now = Instant::now();
        let ewma = AtomicEwma::new(0.001, now);
        std::thread::scope(|scope| {
            for thread in 1..=4_u32 {
                let ewma = &ewma;
                scope.spawn(move || {
                    for step in 0..1_000 {
                        ewma.observe(secs(f64::from(thread * 1_000 + step) * 1e-3), now);
                    }
                });
            }
        });
        assert!(about(ewma.read(now), 4.999), "the peak of all stands");
    }

    #[test]
    fn newcomers_start_at_the_median() {
        assert!(about(median_cost([0.3, 0.1, 0.2]), 0.2));
        assert!(about(median_cost([0.4, 0.1, 0.2, 0.3]), 0.2));
        assert!(about(median_cost([]), INITIAL_COST));
    }

    proptest! {
        #[test]
        fn an_expectation_stays_between_the_observations(
            steps in proptest::collection::vec((0.0..30.0_f64, 0.001..10.0_f64), 1..40),
        ) {
            let start = Instant::now();
            let mut now = start;
            let ewma = AtomicEwma::new(0.001, start);
            let mut highest: f64 = 0.001;
            for (pause, rtt) in steps {
                now += secs(pause);
                ewma.observe(secs(rtt), now);
                highest = highest.max(rtt);
                let value = ewma.read(now);
                prop_assert!(value >= rtt * 0.999 && value <= highest * 1.001, "{value} after {rtt}");
            }
        }
    }
}
