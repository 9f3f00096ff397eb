//! How much traffic retries may add: a share of the requests of the last ten seconds, and a few a second whatever
//! the traffic is. A retry beyond both is not made, so that a failing cluster is not buried by its callers. Hedged
//! attempts have a share of their own, and none beyond it.
//!
//! The limits are arguments, not state: a changed configuration applies at once and usage stays.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use outrigger_config::model::RetryBudget;

use crate::base::clock;

/// What a cluster has used, shared by all workers. Lock-free; a deposit is one atomic operation.
#[derive(Debug)]
pub struct BudgetUsage {
    epoch: u64,
    buckets: [Bucket; WINDOW as usize],
}

/// One second. Each word holds the second in its upper half and a count in its lower: a bucket of an earlier round
/// is told apart without a sweep.
#[derive(Debug, Default)]
struct Bucket {
    requests: AtomicU64,
    retries: AtomicU64,
    hedges: AtomicU64,
}

impl BudgetUsage {
    /// Nothing used yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { epoch: clock::nanos(now), buckets: Default::default() }
    }

    /// Counts a request (once, not its retries).
    pub fn deposit(&self, now: Instant) {
        let second = self.second(now);
        let word = &self.bucket(second).requests;
        if tag(word.load(Relaxed)) == second {
            // Should the second end between these two lines, the request counts for the next one.
            word.fetch_add(1, Relaxed);
        } else {
            let _ = word.fetch_update(Relaxed, Relaxed, |old| counted(old, second));
        }
    }

    /// Counts a retry that a hop before this one makes: it needs no leave here, and leaves less for retries of our own,
    /// so that those of several hops stay within one share.
    pub fn note_retry(&self, now: Instant) {
        let second = self.second(now);
        let _ = self.bucket(second).retries.fetch_update(Relaxed, Relaxed, |old| counted(old, second));
    }

    /// Whether another retry may be made; if so, it is counted. Exact: workers that ask at once never get more than
    /// the limits allow.
    #[must_use]
    pub fn try_withdraw(&self, limits: RetryBudget, now: Instant) -> bool {
        self.withdraw(limits, |bucket| &bucket.retries, now)
    }

    /// Whether another hedged attempt may be made, which must be at most this share of the requests; if so, it is
    /// counted. Exact, as [`Self::try_withdraw`].
    #[must_use]
    pub fn try_withdraw_hedge(&self, percent: u8, now: Instant) -> bool {
        let limits = RetryBudget { percent, min_per_second: 0 };
        self.withdraw(limits, |bucket| &bucket.hedges, now)
    }

    /// A hedged attempt that was counted at `now` could not be made.
    pub fn give_back_hedge(&self, now: Instant) {
        let second = self.second(now);
        let one_less = |old| (tag(old) == second && count(old) > 0).then(|| old - 1);
        // In the next second it is too late, and too little to matter.
        let _ = self.bucket(second).hedges.fetch_update(Relaxed, Relaxed, one_less);
    }

    fn withdraw(&self, limits: RetryBudget, spent: impl Fn(&Bucket) -> &AtomicU64, now: Instant) -> bool {
        let second = self.second(now);
        let requests: u64 = self.buckets.iter().map(|bucket| in_window(&bucket.requests, second)).sum();
        let allowed = requests * u64::from(limits.percent) / 100;
        let current = self.bucket(second);
        let earlier: u64 = self
            .buckets
            .iter()
            .filter(|bucket| !std::ptr::eq(*bucket, current))
            .map(|bucket| in_window(spent(bucket), second))
            .sum();
        let take = |old| {
            let this_second = if tag(old) == second { count(old) } else { 0 };
            let granted = this_second < u64::from(limits.min_per_second) || earlier + this_second < allowed;
            granted.then(|| counted(old, second)).flatten()
        };
        spent(current).fetch_update(Relaxed, Relaxed, take).is_ok()
    }

    /// Seconds since the start, wrapping after 136 years.
    fn second(&self, now: Instant) -> u64 {
        (clock::nanos(now).saturating_sub(self.epoch) / 1_000_000_000) & COUNT
    }

    fn bucket(&self, second: u64) -> &Bucket {
        &self.buckets[(second % WINDOW) as usize]
    }
}

fn tag(word: u64) -> u64 {
    word >> 32
}

fn count(word: u64) -> u64 {
    word & COUNT
}

/// One more in this second; `None` when the bucket already belongs to a later one (a clock reading ten seconds old).
fn counted(word: u64, second: u64) -> Option<u64> {
    match tag(word) {
        tag if tag == second => Some(word + 1),
        tag if tag < second => Some(second << 32 | 1),
        _ => None,
    }
}

fn in_window(word: &AtomicU64, second: u64) -> u64 {
    let word = word.load(Relaxed);
    if tag(word) <= second && tag(word) + WINDOW > second { count(word) } else { 0 }
}

/// Seconds that count.
const WINDOW: u64 = 10;
const COUNT: u64 = u32::MAX as u64;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::time::Duration;

    const LIMITS: RetryBudget = RetryBudget { percent: 20, min_per_second: 3 };

    fn granted(budget: &BudgetUsage, limits: RetryBudget, now: Instant) -> u32 {
        (0..10_000).take_while(|_| budget.try_withdraw(limits, now)).count() as u32
    }

    #[test]
    fn a_fifth_of_the_requests_may_be_retried() {
        let now = Instant::now();
        let budget = BudgetUsage::new(now);
        (0..1_000).for_each(|_| budget.deposit(now));
        assert_eq!(granted(&budget, LIMITS, now), 200);
        assert_eq!(granted(&budget, LIMITS, now), 0);
    }

    #[test]
    fn three_a_second_are_allowed_without_traffic() {
        let start = Instant::now();
        let budget = BudgetUsage::new(start);
        for second in 0..30 {
            assert_eq!(granted(&budget, LIMITS, start + Duration::from_secs(second)), 3, "second {second}");
        }
    }

    #[test]
    fn requests_count_for_ten_seconds() {
        let start = Instant::now();
        let budget = BudgetUsage::new(start);
        (0..100).for_each(|_| budget.deposit(start));
        let none = RetryBudget { min_per_second: 0, ..LIMITS };
        assert_eq!(granted(&budget, none, start + Duration::from_secs(10)), 0);
        assert_eq!(granted(&budget, none, start + Duration::from_millis(9_999)), 20);
    }

    #[test]
    fn hedged_attempts_have_a_share_of_their_own_and_no_floor() {
        let now = Instant::now();
        let budget = BudgetUsage::new(now);
        assert!(!budget.try_withdraw_hedge(100, now));
        (0..100).for_each(|_| budget.deposit(now));
        let granted_hedges = || (0..1_000).take_while(|_| budget.try_withdraw_hedge(10, now)).count();
        assert_eq!(granted_hedges(), 10);
        budget.give_back_hedge(now);
        assert_eq!(granted_hedges(), 1);
        assert_eq!(granted(&budget, LIMITS, now), 20);
        assert!(!budget.try_withdraw_hedge(10, now + Duration::from_secs(9)), "they count for ten seconds");
    }

    #[test]
    fn changed_limits_apply_at_once_and_usage_stays() {
        let now = Instant::now();
        let budget = BudgetUsage::new(now);
        (0..100).for_each(|_| budget.deposit(now));
        assert_eq!(granted(&budget, LIMITS, now), 20);
        assert_eq!(granted(&budget, RetryBudget { percent: 50, min_per_second: 0 }, now), 30);
        assert_eq!(granted(&budget, RetryBudget { percent: 0, min_per_second: 0 }, now), 0);
    }

    #[test]
    fn retries_of_hops_before_leave_less_for_our_own() {
        let now = Instant::now();
        let budget = BudgetUsage::new(now);
        (0..100).for_each(|_| budget.deposit(now));
        (0..15).for_each(|_| budget.note_retry(now));
        assert_eq!(granted(&budget, LIMITS, now), 5);
        (0..50).for_each(|_| budget.note_retry(now));
        assert_eq!(granted(&budget, LIMITS, now), 0);
        assert_eq!(granted(&budget, LIMITS, now + Duration::from_secs(10)), 3, "until they are forgotten");
    }

    #[test]
    fn workers_together_never_get_more_than_the_limit() {
        let now = Instant::now();
        let budget = BudgetUsage::new(now);
        let total: u32 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        (0..1_000).for_each(|_| budget.deposit(now));
                        granted(&budget, LIMITS, now)
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        let rest = granted(&budget, LIMITS, now);
        assert_eq!(total + rest, 800);
    }

    proptest! {
        /// Against a log of everything that happened.
        #[test]
        fn the_buckets_agree_with_a_log(
            steps in proptest::collection::vec((0..4_000_u64, 0..30_u32, 0..8_u32), 1..60),
        ) {
            let start = Instant::now();
            let budget = BudgetUsage::new(start);
            let mut log: VecDeque<(u64, bool)> = VecDeque::new();
            let mut millis = 0;
            for (pause, requests, asked) in steps {
                millis += pause;
                let (now, second) = (start + Duration::from_millis(millis), millis / 1000);
                log.retain(|&(at, _)| at + WINDOW > second);
                for _ in 0..requests {
                    budget.deposit(now);
                    log.push_back((second, false));
                }
                for _ in 0..asked {
                    let made = log.iter().filter(|&&(_, retry)| !retry).count();
                    let retries = log.iter().filter(|&&(_, retry)| retry).count();
                    let this_second = log.iter().filter(|&&(at, retry)| retry && at == second).count();
                    let expected = this_second < 3 || retries < made / 5;
                    prop_assert_eq!(budget.try_withdraw(LIMITS, now), expected);
                    if expected {
                        log.push_back((second, true));
                    }
                }
            }
        }
    }
}
