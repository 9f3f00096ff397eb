//! Quantiles of recent durations: what answers took in about the last ten seconds.
//!
//! Durations are counted in buckets whose width grows with the value, so that memory is fixed and a quantile is off by
//! at most [`RELATIVE_ERROR`] (below 32 us by half a microsecond). Three generations of counts rotate: a reading covers
//! at least the window and at most one and a half of it. Shared by all workers without a lock: recording is one relaxed
//! addition. At a change of generations a count of another thread within that microsecond may be lost.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long durations are remembered, unless said otherwise.
pub const WINDOW: Duration = Duration::from_secs(10);
/// By how much a quantile may differ from the exact one.
pub const RELATIVE_ERROR: f64 = 1.0 / (2 * STEPS) as f64;
/// What takes longer counts as this.
pub const LONGEST: Duration = Duration::from_micros((1 << LONGEST_BITS) - 1);

/// Recent durations. Takes 8.5 KiB, on the heap.
#[derive(Debug)]
pub struct RecentDurations {
    epoch: Instant,
    /// Of one generation, in nanoseconds.
    period: u64,
    generations: Box<[Generation; GENERATIONS as usize]>,
}

#[derive(Debug)]
struct Generation {
    /// The period that is counted here, one higher so that zero is none; with [`CLEARING`] while the counts of the
    /// one before are taken away.
    tag: AtomicU64,
    counts: [AtomicU32; BUCKETS],
}

/// A quantile and what it is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantile {
    /// So long or shorter took the asked share of all.
    pub value: Duration,
    /// How many durations that were.
    pub count: u64,
}

impl RecentDurations {
    /// Nothing recorded yet; remembers for [`WINDOW`].
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self::with_window(WINDOW, now)
    }

    /// Nothing recorded yet; remembers for `window`, at least a millisecond.
    #[must_use]
    pub fn with_window(window: Duration, now: Instant) -> Self {
        let period = window.max(Duration::from_millis(1)) / (GENERATIONS as u32 - 1);
        Self {
            epoch: now,
            period: u64::try_from(period.as_nanos()).unwrap_or(u64::MAX),
            generations: Box::new(std::array::from_fn(|_| Generation::new())),
        }
    }

    /// Counts a duration that ended at `now`.
    pub fn record(&self, duration: Duration, now: Instant) {
        let tag = self.tag(now);
        let generation = &self.generations[(tag % GENERATIONS) as usize];
        if generation.tag.load(Ordering::Relaxed) == tag || generation.turn_to(tag) {
            generation.counts[index(duration)].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The duration that a share `q` (0 to 1) of the recent ones did not exceed: the smallest one (but for the
    /// error) with at least that share at or below it. `None` without any. Reads about 2,000 counters: not for each request.
    #[must_use]
    pub fn quantile(&self, q: f64, now: Instant) -> Option<Duration> {
        self.read(q, now).map(|quantile| quantile.value)
    }

    /// The same, with the number of durations that it is made of: whether that is enough is the asker's rule.
    #[must_use]
    pub fn read(&self, q: f64, now: Instant) -> Option<Quantile> {
        let recent = self.recent(now);
        let mut sums = [0_u64; BUCKETS];
        for generation in recent {
            for (sum, count) in sums.iter_mut().zip(&generation.counts) {
                *sum += u64::from(count.load(Ordering::Relaxed));
            }
        }
        let count: u64 = sums.iter().sum();
        let rank = ((count as f64 * q.clamp(0.0, 1.0)).ceil() as u64).clamp(1, count.max(1));
        let mut below = 0;
        let bucket = sums.iter().position(|sum| {
            below += sum;
            below >= rank
        })?;
        Some(Quantile { value: middle(bucket), count })
    }

    /// How many durations are remembered.
    #[must_use]
    pub fn count(&self, now: Instant) -> u64 {
        self.recent(now)
            .flat_map(|generation| &generation.counts)
            .map(|count| u64::from(count.load(Ordering::Relaxed)))
            .sum()
    }

    fn recent(&self, now: Instant) -> impl Iterator<Item = &Generation> {
        let newest = self.tag(now);
        self.generations.iter().filter(move |generation| {
            // Acquire: what is counted under this tag is seen without the counts that were there before.
            let tag = generation.tag.load(Ordering::Acquire);
            // One that is being cleared is far above. A worker with a newer clock reading may be one ahead.
            tag != 0 && tag <= newest + 1 && tag + GENERATIONS > newest
        })
    }

    fn tag(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.epoch).as_nanos();
        // In 64 bits: 584 years.
        since as u64 / self.period + 1
    }
}

impl Generation {
    fn new() -> Self {
        Self { tag: AtomicU64::new(0), counts: std::array::from_fn(|_| AtomicU32::new(0)) }
    }

    /// Makes this the generation of `tag`; false when it belongs to a later one already (an older clock reading).
    #[cold]
    fn turn_to(&self, tag: u64) -> bool {
        let old = self.tag.load(Ordering::Relaxed);
        if old & !CLEARING >= tag {
            return old & !CLEARING == tag;
        }
        if old & CLEARING == 0
            && self.tag.compare_exchange(old, tag | CLEARING, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            for count in &self.counts {
                count.store(0, Ordering::Relaxed);
            }
            self.tag.store(tag, Ordering::Release);
        }
        true
    }
}

/// Equal steps up to the 64th microsecond, then [`STEPS`] steps to each power of two.
fn index(duration: Duration) -> usize {
    let micros = duration.min(LONGEST).as_micros() as u64;
    let shift = (u64::BITS - micros.leading_zeros()).saturating_sub(STEP_BITS + 1);
    shift as usize * STEPS + (micros >> shift) as usize
}

fn middle(index: usize) -> Duration {
    let shift = (index / STEPS).saturating_sub(1);
    let from = (index - shift * STEPS) as u64;
    Duration::from_nanos((from * 1000 + 500) << shift)
}

/// One is being filled, the others are whole.
const GENERATIONS: u64 = 3;
const STEP_BITS: u32 = 5;
const STEPS: usize = 1 << STEP_BITS;
const LONGEST_BITS: u32 = 26;
const BUCKETS: usize = (LONGEST_BITS - STEP_BITS + 1) as usize * STEPS;
const CLEARING: u64 = 1 << 63;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    /// The nearest-rank quantile.
    fn exact(durations: &[Duration], q: f64) -> Option<Duration> {
        let mut sorted = durations.to_vec();
        sorted.sort();
        let rank = (sorted.len() as f64 * q).ceil() as usize;
        sorted.get(rank.max(1) - 1).copied()
    }

    fn is_close(value: Duration, exact: Duration) -> bool {
        // What is below a microsecond is not counted.
        let error = exact.as_secs_f64() * RELATIVE_ERROR;
        (value.as_secs_f64() - exact.as_secs_f64()).abs() <= error.max(0.5e-6) + 1e-6
    }

    #[test]
    fn without_durations_there_is_no_quantile() {
        let now = Instant::now();
        let recent = RecentDurations::new(now);
        assert_eq!(recent.quantile(0.5, now), None);
        assert_eq!(recent.count(now), 0);
    }

    #[test]
    fn quantiles_of_a_hundred() {
        let now = Instant::now();
        let recent = RecentDurations::new(now);
        (1..=100).for_each(|n| recent.record(Duration::from_millis(n), now));
        for (q, millis) in [(0.0, 1), (0.01, 1), (0.5, 50), (0.95, 95), (0.99, 99), (1.0, 100), (7.0, 100)] {
            let found = recent.read(q, now).expect("some");
            assert!(is_close(found.value, Duration::from_millis(millis)), "{q}: {found:?}");
            assert_eq!(found.count, 100);
        }
    }

    #[test]
    fn the_longest_bucket_takes_everything_beyond() {
        let now = Instant::now();
        let recent = RecentDurations::new(now);
        recent.record(Duration::MAX, now);
        recent.record(Duration::ZERO, now);
        assert!(is_close(recent.quantile(1.0, now).expect("some"), LONGEST));
        assert!(recent.quantile(0.0, now).expect("some") < micros(1));
        assert_eq!(index(Duration::MAX), BUCKETS - 1);
    }

    #[test]
    fn a_window_of_its_own_is_kept() {
        let start = Instant::now();
        let recent = RecentDurations::with_window(Duration::from_secs(1), start);
        recent.record(micros(10), start);
        assert_eq!(recent.count(start + Duration::from_millis(1_499)), 1);
        assert_eq!(recent.count(start + Duration::from_millis(1_500)), 0);
        let least = RecentDurations::with_window(Duration::ZERO, start);
        least.record(micros(10), start);
        assert_eq!(least.count(start), 1);
    }

    #[test]
    fn an_older_clock_reading_changes_no_later_generation() {
        let start = Instant::now();
        let recent = RecentDurations::new(start);
        let later = start + WINDOW * 3 / 2;
        recent.record(micros(100), later);
        recent.record(micros(7), start);
        assert_eq!(recent.read(1.0, later).map(|quantile| quantile.count), Some(1));
        assert!(recent.quantile(0.0, later).expect("some") > micros(90));
    }

    #[test]
    fn no_count_of_another_thread_is_lost_within_a_generation() {
        let now = Instant::now();
        let recent = RecentDurations::new(now);
        recent.record(micros(1), now);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1_000).for_each(|n| recent.record(micros(n % 7), now)));
            }
        });
        assert_eq!(recent.count(now), 4_001);
    }

    #[test]
    fn threads_that_turn_generations_together_leave_whole_counts() {
        let start = Instant::now();
        let recent = RecentDurations::with_window(Duration::from_millis(2), start);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for step in 0..10_000 {
                        recent.record(micros(50), start + micros(step));
                        if step % 100 == 0 {
                            assert!(recent.count(start + micros(step)) <= 4 * 4_000);
                        }
                    }
                });
            }
        });
        let much_later = start + Duration::from_secs(1);
        assert_eq!(recent.count(much_later), 0);
        recent.record(micros(50), much_later);
        assert_eq!(recent.count(much_later), 1);
    }

    proptest! {
        #[test]
        fn each_duration_is_close_to_the_middle_of_its_bucket(nanos in 0..67_000_000_000_u64) {
            let duration = Duration::from_nanos(nanos);
            prop_assert!(is_close(middle(index(duration)), duration));
        }

        #[test]
        fn longer_is_never_a_lower_bucket(a in 0..80_000_000_u64, b in 0..80_000_000_u64) {
            let (low, high) = (a.min(b), a.max(b));
            prop_assert!(index(micros(low)) <= index(micros(high)));
        }

        /// Everything of the window counts, nothing that is older than one and a half of it, and quantiles are as
        /// exact as promised.
        #[test]
        fn quantiles_agree_with_exact_ones(
            steps in proptest::collection::vec((0..4_000_u64, 0..20_000_000_u64), 1..120),
            q in 0.0..=1.0_f64,
        ) {
            let start = Instant::now();
            let recent = RecentDurations::new(start);
            let mut log: Vec<(Instant, Duration)> = Vec::new();
            let mut now = start;
            for (pause, taken) in steps {
                now += Duration::from_millis(pause);
                recent.record(micros(taken), now);
                log.push((now, micros(taken)));
            }
            // Generations begin every five seconds: what counts is known exactly.
            let generation = |at: Instant| at.duration_since(start).as_secs() / 5;
            let (counted, old): (Vec<_>, Vec<_>) =
                log.into_iter().partition(|&(at, _)| generation(now) - generation(at) < 3);
            prop_assert!(counted.iter().all(|&(at, _)| now.duration_since(at) < WINDOW * 3 / 2));
            prop_assert!(old.iter().all(|&(at, _)| now.duration_since(at) > WINDOW));
            let durations: Vec<Duration> = counted.into_iter().map(|(_, taken)| taken).collect();
            let found = recent.read(q, now).expect("one at least");
            prop_assert_eq!(found.count, durations.len() as u64);
            let expected = exact(&durations, q).expect("one at least");
            prop_assert!(is_close(found.value, expected), "{:?} instead of {:?}", found, expected);
        }
    }
}
