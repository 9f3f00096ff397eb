//! Which share of the requests of a window had something: failed, or took too long.
//!
//! A quantile `q` of the times is above a limit exactly when more than `1 - q` of them are: so a share is all that a
//! breaker needs to know of latency.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::millis;

/// Ten buckets of a tenth of the window. The window is an argument, so it may change at any time: what was counted under
/// another one counts no longer, or counts in another tenth, until it has passed.
#[derive(Debug, Default)]
pub(super) struct Share {
    /// From the highest bit: which tenth since the beginning (24), hits (20), all (20). When a bucket is full, the share of
    /// what it holds stays.
    buckets: [AtomicU64; BUCKETS as usize],
}

/// What a window holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Sum {
    pub(super) hits: u64,
    pub(super) all: u64,
}

impl Share {
    /// Counts one request at `now`, in milliseconds.
    pub(super) fn count(&self, hit: bool, window: Duration, now: u64) {
        let tenth = tenth(window, now);
        let one = u64::from(hit) << COUNT_BITS | 1;
        let next = |word: u64| {
            if word >> (2 * COUNT_BITS) != tenth & TAG {
                Some((tenth & TAG) << (2 * COUNT_BITS) | one)
            } else {
                (word & COUNT < COUNT).then_some(word + one)
            }
        };
        // Declined only by a bucket that is full.
        let _ = self.buckets[(tenth % BUCKETS) as usize].fetch_update(Relaxed, Relaxed, next);
    }

    /// What the window that ends at `now` holds.
    pub(super) fn sum(&self, window: Duration, now: u64) -> Sum {
        let newest = tenth(window, now) & TAG;
        let recent = |word: &u64| newest.wrapping_sub(word >> (2 * COUNT_BITS)) & TAG < BUCKETS;
        self.buckets.iter().map(|bucket| bucket.load(Relaxed)).filter(recent).fold(Sum::default(), |sum, word| Sum {
            hits: sum.hits + (word >> COUNT_BITS & COUNT),
            all: sum.all + (word & COUNT),
        })
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        for bucket in &self.buckets {
            bucket.store(0, Relaxed);
        }
    }
}

fn tenth(window: Duration, now: u64) -> u64 {
    now / (millis(window) / BUCKETS).max(1)
}

const BUCKETS: u64 = 10;
const COUNT_BITS: u32 = 20;
const COUNT: u64 = (1 << COUNT_BITS) - 1;
const TAG: u64 = (1 << 24) - 1;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WINDOW: Duration = Duration::from_secs(10);

    #[test]
    fn a_full_bucket_keeps_its_share() {
        let share = Share::default();
        share.buckets[0].store((COUNT / 2) << COUNT_BITS | (COUNT - 1), Relaxed);
        (0..5).for_each(|_| share.count(true, WINDOW, 0));
        assert_eq!(share.sum(WINDOW, 0), Sum { hits: COUNT / 2 + 1, all: COUNT });
    }

    #[test]
    fn a_shorter_window_forgets_what_it_does_not_hold() {
        let share = Share::default();
        share.count(true, WINDOW, 20_000);
        assert_eq!(share.sum(Duration::from_secs(1), 25_000), Sum::default());
    }

    proptest! {
        /// Against a list of everything.
        #[test]
        fn buckets_agree_with_a_list(steps in proptest::collection::vec((0..3_000_u64, any::<bool>()), 1..200)) {
            let share = Share::default();
            let mut list: Vec<(u64, bool)> = Vec::new();
            let mut now = 0;
            for (pause, hit) in steps {
                now += pause;
                share.count(hit, WINDOW, now);
                list.push((now / 1_000, hit));
                let held = list.iter().filter(|(second, _)| now / 1_000 - second < 10);
                let expected = Sum { hits: held.clone().filter(|(_, hit)| *hit).count() as u64, all: held.count() as u64 };
                prop_assert_eq!(share.sum(WINDOW, now), expected);
            }
        }
    }
}
