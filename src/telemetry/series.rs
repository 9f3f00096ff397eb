//! Storage for one label set: shards by worker, allocated when first used, and bounded in number.
//!
//! A label set that was never used costs two pointers and appears in no scrape. The number of used ones is
//! limited ([`Slots`]); those over the limit count into one common fallback, so that no configuration and no
//! caller can make the scrape grow without end.

use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::expose::{Labels, Text};
use crate::base::worker;

/// Shards of one label set. More workers than shards share them.
const SHARDS: usize = 8;

const UNDECIDED: u8 = 0;
const OWN: u8 = 1;
const FOLDED: u8 = 2;

/// How many label sets of a kind may be in use.
#[derive(Debug)]
pub(super) struct Slots {
    used: AtomicUsize,
    limit: usize,
}

impl Slots {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), limit })
    }

    fn take(&self) -> bool {
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| (used < self.limit).then_some(used + 1))
            .is_ok()
    }

    fn give_back(&self) {
        self.used.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The counters of one label set.
#[derive(Debug)]
pub(super) struct Series<T> {
    shards: [OnceLock<Box<Padded<T>>>; SHARDS],
    state: AtomicU8,
    bound: Option<Bound<T>>,
}

#[derive(Debug)]
struct Bound<T> {
    slots: Arc<Slots>,
    fallback: Arc<Series<T>>,
}

/// Two cache lines: the prefetcher of current x86 processors loads pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded<T>(T);

impl<T: Default> Series<T> {
    /// A series that always counts for itself.
    pub(super) fn unbounded() -> Self {
        Self { shards: Default::default(), state: AtomicU8::new(OWN), bound: None }
    }

    /// A series that counts into `fallback` when no slot is left at its first use.
    pub(super) fn bounded(slots: &Arc<Slots>, fallback: &Arc<Self>) -> Self {
        Self {
            shards: Default::default(),
            state: AtomicU8::new(UNDECIDED),
            bound: Some(Bound { slots: Arc::clone(slots), fallback: Arc::clone(fallback) }),
        }
    }

    /// The shard of the current worker.
    pub(super) fn local(&self) -> &T {
        match self.state.load(Ordering::Relaxed) {
            OWN => self.shard(),
            _ => self.decide(),
        }
    }

    fn shard(&self) -> &T {
        &self.shards[worker::index() % SHARDS].get_or_init(Box::default).0
    }

    #[cold]
    fn decide(&self) -> &T {
        let Some(Bound { slots, fallback }) = &self.bound else {
            return self.shard();
        };
        if self.state.load(Ordering::Acquire) == UNDECIDED {
            let chosen = if slots.take() { OWN } else { FOLDED };
            let decided = self.state.compare_exchange(UNDECIDED, chosen, Ordering::AcqRel, Ordering::Acquire);
            if decided.is_err() && chosen == OWN {
                slots.give_back();
            }
        }
        if self.state.load(Ordering::Acquire) == OWN { self.shard() } else { fallback.shard() }
    }

    /// The shards in use; none for a label set that was never counted.
    pub(super) fn shards(&self) -> impl Iterator<Item = &T> {
        self.shards.iter().filter_map(|shard| shard.get().map(|padded| &padded.0))
    }

    /// Whether anything was ever counted here.
    pub(super) fn is_used(&self) -> bool {
        self.shards().next().is_some()
    }

    /// A sum over the shards. Differences between shards wrap, so a gauge that rose on one worker and fell on
    /// another comes out right.
    pub(super) fn sum(&self, read: impl Fn(&T) -> &AtomicU64) -> u64 {
        self.shards().fold(0, |sum, shard| sum.wrapping_add(read(shard).load(Ordering::Relaxed)))
    }
}

impl<T> Drop for Series<T> {
    fn drop(&mut self) {
        if let Some(bound) = &self.bound
            && *self.state.get_mut() == OWN
        {
            bound.slots.give_back();
        }
    }
}

/// Upper bounds of the duration histogram in nanoseconds; one more bucket holds the rest.
pub(super) const BOUNDS: [Duration; 16] = [
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2500),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_secs(60),
];

/// A histogram of durations: each observation is two atomic additions.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    pub(super) buckets: [AtomicU64; BOUNDS.len() + 1],
    pub(super) nanos: AtomicU64,
}

impl Histogram {
    pub(super) fn observe(&self, duration: Duration) {
        let bucket = BOUNDS.partition_point(|bound| *bound < duration);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }
}

/// Writes the samples of a histogram; its family was begun.
pub(super) fn encode_histogram<T: Default>(
    labels: &Labels,
    series: &Series<T>,
    of: impl Fn(&T) -> &Histogram,
    text: &mut Text,
) {
    let mut total = 0u64;
    for (i, bound) in BOUNDS.iter().enumerate() {
        total += series.sum(|shard| &of(shard).buckets[i]);
        let bound = bound.as_secs_f64().to_string();
        text.suffixed("_bucket", &labels.with("le", &bound), total);
    }
    total += series.sum(|shard| &of(shard).buckets[BOUNDS.len()]);
    text.suffixed("_bucket", &labels.with("le", "+Inf"), total);
    let nanos = series.sum(|shard| &of(shard).nanos);
    text.suffixed("_sum", labels, Duration::from_nanos(nanos).as_secs_f64());
    text.suffixed("_count", labels, total);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gauge_that_rises_on_one_worker_and_falls_on_another_is_zero() {
        let series = Series::<AtomicU64>::unbounded();
        series.local().fetch_add(1, Ordering::Relaxed);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                worker::enter(1, 2);
                series.local().fetch_sub(1, Ordering::Relaxed);
            });
        });
        assert_eq!(series.shards().count(), 2);
        assert_eq!(series.sum(|value| value), 0);
    }

    #[test]
    fn series_over_the_limit_count_into_the_fallback_until_a_slot_is_free_again() {
        let slots = Slots::new(1);
        let fallback = Arc::new(Series::<AtomicU64>::unbounded());
        let bounded = || Series::bounded(&slots, &fallback);
        let (first, second) = (bounded(), bounded());
        first.local().fetch_add(1, Ordering::Relaxed);
        second.local().fetch_add(10, Ordering::Relaxed);
        second.local().fetch_add(10, Ordering::Relaxed);
        assert_eq!((first.sum(|v| v), second.is_used(), fallback.sum(|v| v)), (1, false, 20));

        drop(first);
        let third = bounded();
        third.local().fetch_add(1, Ordering::Relaxed);
        assert_eq!((third.sum(|v| v), fallback.sum(|v| v)), (1, 20));
    }

    #[test]
    fn a_duration_on_a_bound_belongs_to_that_bucket() {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_millis(1));
        histogram.observe(Duration::from_nanos(1_000_001));
        histogram.observe(Duration::from_secs(61));
        let counts: Vec<u64> = histogram.buckets.iter().map(|b| b.load(Ordering::Relaxed)).collect();
        assert_eq!((counts[1], counts[2], counts[16]), (1, 1, 1));
    }
}
