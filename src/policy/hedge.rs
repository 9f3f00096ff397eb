//! When a further attempt is started beside one that is under way, and which answer is good enough to end the wait.
//!
//! With a percentile the times of the answers themselves say when. An attempt that was given up because another was
//! faster counts with the time that it had taken, so that hedging does not hide the slow answers that it is there for,
//! and start earlier and earlier.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use outrigger_config::model::{Hedge, HedgeAfter, Retry, RetryOn};

use super::quantile::RecentDurations;
use super::retry::{self, Outcome};

/// How long the answers to the requests of one rule took lately, shared by all workers.
#[derive(Debug)]
pub struct HedgeTimes {
    epoch: Instant,
    recent: RecentDurations,
    /// A percentile and when it was read: milliseconds after `epoch`, one higher, in the upper half (wrapping after 49
    /// days), and microseconds in the lower, [`UNKNOWN`] for none.
    read: AtomicU64,
}

impl HedgeTimes {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { epoch: now, recent: RecentDurations::new(now), read: AtomicU64::new(0) }
    }

    /// An answer took so long, or was not waited for any longer.
    pub fn record(&self, took: Duration, now: Instant) {
        self.recent.record(took, now);
    }

    /// The percentile of the recent times, at most [`READ_EVERY`] old. `None` before [`ENOUGH`] answers.
    fn percentile(&self, percent: u8, now: Instant) -> Option<Duration> {
        let millis = now.saturating_duration_since(self.epoch).as_millis() as u32;
        let read = self.read.load(Ordering::Relaxed);
        let age = millis.wrapping_sub((read >> 32) as u32).wrapping_add(1);
        let micros = if read == 0 || age >= READ_EVERY.as_millis() as u32 {
            let quantile = self.recent.read(f64::from(percent) / 100.0, now);
            let micros = quantile
                .filter(|quantile| quantile.count >= ENOUGH)
                .map_or(UNKNOWN, |quantile| u32::try_from(quantile.value.as_micros()).unwrap_or(UNKNOWN - 1));
            self.read.store(u64::from(millis.wrapping_add(1)) << 32 | u64::from(micros), Ordering::Relaxed);
            micros
        } else {
            read as u32
        };
        (micros != UNKNOWN).then(|| Duration::from_micros(micros.into()))
    }
}

/// How long an attempt is waited for before another is started beside it. `None`: too little is known yet.
#[must_use]
pub fn delay(hedge: &Hedge, times: &HedgeTimes, now: Instant) -> Option<Duration> {
    match hedge.after {
        HedgeAfter::Delay(delay) => Some(delay),
        HedgeAfter::Percentile { percent, min } => times.percentile(percent, now).map(|delay| delay.max(min)),
    }
}

/// Whether the times of answers say when: where nobody reads them, they need not be recorded.
#[must_use]
pub fn learns(hedge: &Hedge) -> bool {
    matches!(hedge.after, HedgeAfter::Percentile { .. })
}

/// Whether an outcome is the answer although other attempts are under way: one that the rule would not retry. A rule
/// that names no conditions is taken to mean answers of gateways, and gRPC calls that did not get through.
#[must_use]
pub fn is_good(policy: &Retry, outcome: Outcome) -> bool {
    const USUAL: [RetryOn; 2] = [RetryOn::GatewayError, RetryOn::Grpc(UNAVAILABLE)];
    match outcome {
        Outcome::Status(_) | Outcome::Grpc(_) => {
            let on = if policy.on.is_empty() { &USUAL[..] } else { &policy.on };
            !on.iter().any(|on| retry::covers(*on, outcome))
        }
        // A hop below has tried what could be tried: another endpoint may still do better.
        Outcome::NeverSent(_)
        | Outcome::MaybeSent(_)
        | Outcome::Header
        | Outcome::Forbidden
        | Outcome::RetriedBelow => false,
    }
}

/// Answers that are needed before a percentile of them means anything.
pub const ENOUGH: u64 = 20;
/// How old a percentile may be.
pub const READ_EVERY: Duration = Duration::from_millis(100);
const UNKNOWN: u32 = u32::MAX;
const UNAVAILABLE: u8 = 14;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::budget::BudgetUsage;
    use crate::policy::retry::{MaybeSent, NeverSent};
    use crate::policy::rng::Rng;
    use outrigger_config::model::RetryBudget;

    fn percentile(percent: u8) -> Hedge {
        let after = HedgeAfter::Percentile { percent, min: Duration::from_millis(1) };
        Hedge { after, max: 1, budget_percent: 10 }
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_delay_needs_no_experience() {
        let now = Instant::now();
        let hedge = Hedge { after: HedgeAfter::Delay(millis(50)), ..percentile(95) };
        assert_eq!(delay(&hedge, &HedgeTimes::new(now), now), Some(millis(50)));
    }

    #[test]
    fn a_percentile_is_learnt_and_kept_for_a_moment() {
        let now = Instant::now();
        let times = HedgeTimes::new(now);
        (1..ENOUGH).for_each(|_| times.record(millis(10), now));
        assert_eq!(delay(&percentile(50), &times, now), None);
        times.record(millis(10), now);
        assert_eq!(delay(&percentile(50), &times, now), None, "looked at a moment ago");
        let later = now + READ_EVERY;
        let learnt = delay(&percentile(50), &times, later).expect("enough");
        assert!(learnt.abs_diff(millis(10)) < millis(1), "{learnt:?}");
        (0..1_000).for_each(|_| times.record(millis(80), later));
        assert_eq!(delay(&percentile(50), &times, later), Some(learnt));
        let learnt = delay(&percentile(50), &times, later + READ_EVERY).expect("enough");
        assert!(learnt.abs_diff(millis(80)) < millis(3), "{learnt:?}");
        assert_eq!(delay(&percentile(50), &times, later + millis(60_000)), None, "forgotten");
    }

    #[test]
    fn a_percentile_is_not_below_its_least() {
        let now = Instant::now();
        let times = HedgeTimes::new(now);
        (0..ENOUGH).for_each(|_| times.record(Duration::from_micros(90), now));
        assert_eq!(delay(&percentile(95), &times, now), Some(millis(1)));
    }

    #[test]
    fn a_failure_waits_for_the_other_attempt() {
        let usual = Retry::default();
        for good in
            [Outcome::Status(200), Outcome::Status(404), Outcome::Status(500), Outcome::Grpc(0), Outcome::Grpc(5)]
        {
            assert!(is_good(&usual, good), "{good:?}");
        }
        for bad in [
            Outcome::Status(503),
            Outcome::Grpc(14),
            Outcome::NeverSent(NeverSent::ConnectFailure),
            Outcome::MaybeSent(MaybeSent::Timeout),
            Outcome::Forbidden,
            Outcome::Header,
        ] {
            assert!(!is_good(&usual, bad), "{bad:?}");
        }
        let written = Retry { on: vec![RetryOn::ServerError], ..Retry::default() };
        assert!(!is_good(&written, Outcome::Status(500)));
        assert!(is_good(&written, Outcome::Grpc(14)), "its own conditions hold instead");
    }

    /// 200 requests a second over a minute, of which one in twenty takes 100 times as long: after a few seconds the
    /// slow ones are hedged and few others, the percentile stays where it is, and the budget is never exceeded.
    #[test]
    fn hedging_does_not_spiral() {
        let start = Instant::now();
        let (times, budget) = (HedgeTimes::new(start), BudgetUsage::new(start));
        let hedge = percentile(93);
        let mut rng = Rng::new(7);
        let mut slow_answers = 0;
        let mut hedges = 0;
        let requests = 200 * 60;
        for n in 0..requests {
            let now = start + millis(5) * n;
            budget.deposit(now);
            let mut draw = || match rng.below(20) {
                0 => millis(1_000),
                _ => Duration::from_micros(8_000 + rng.below(4_000)),
            };
            let (first, second) = (draw(), draw());
            let learnt = delay(&hedge, &times, now);
            let took = match learnt {
                Some(delay) if first > delay && budget.try_withdraw_hedge(hedge.budget_percent, now) => {
                    hedges += 1;
                    let took = first.min(delay + second);
                    times.record(second.min(took - delay), now);
                    times.record(took, now);
                    assert!(n < 1_000 || delay < millis(14), "request {n}: {delay:?}");
                    took
                }
                _ => {
                    times.record(first, now);
                    first
                }
            };
            slow_answers += u32::from(n > 1_000 && took > millis(900));
        }
        assert!(hedges * 10 <= requests, "{hedges} of {requests}");
        assert!(hedges > requests / 25, "{hedges} of {requests}");
        assert!(slow_answers < requests / 100, "{slow_answers} of {requests} are still slow");
        let limits = RetryBudget { percent: 20, min_per_second: 0 };
        assert!(budget.try_withdraw(limits, start + millis(5) * requests), "retries have a budget of their own");
    }
}
