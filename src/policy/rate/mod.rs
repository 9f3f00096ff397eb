//! How many requests may pass in a time: the generic cell rate algorithm (ITU-T I.371).
//!
//! What is remembered of a rate is one number, the moment at which all of its burst will be there again ("theoretical
//! arrival time"). A request moves it later by the time that one request takes at the rate, and is refused when that
//! would be further away than the whole burst takes. So there is no window at whose edge twice the rate could pass, and
//! nothing that has to be filled up now and then.
//!
//! Times are nanoseconds since a moment that the caller chose and keeps.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use outrigger_config::model::RateLimit;

/// A rate with its burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// What one request takes, in nanoseconds; never 0.
    interval: u64,
    /// What the burst takes, in nanoseconds.
    window: u64,
    burst: u32,
}

/// What a rate says of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It may pass.
    Admitted(Standing),
    /// Not yet.
    Refused {
        /// One would pass after this time, if no other came.
        after: Duration,
        /// How the rate stands.
        standing: Standing,
    },
}

/// How a rate stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Requests that would pass now.
    pub remaining: u32,
    /// When the whole burst is there again, if no request comes.
    pub full_after: Duration,
}

impl Rate {
    /// The rate of a limit. What does not come out even is rounded so that never more passes than was said: to whole
    /// nanoseconds for each request.
    #[must_use]
    pub fn of(limit: &RateLimit) -> Self {
        let per = u64::try_from(limit.per.as_nanos()).unwrap_or(u64::MAX);
        let interval = per.div_ceil(u64::from(limit.requests.max(1))).max(1);
        let burst = limit.burst.max(1);
        Self { interval, window: interval.saturating_mul(u64::from(burst)), burst }
    }

    /// How many may come at once.
    #[must_use]
    pub const fn burst(&self) -> u32 {
        self.burst
    }

    /// How long the whole burst takes to come back.
    #[must_use]
    pub const fn window(&self) -> Duration {
        Duration::from_nanos(self.window)
    }

    /// How it stands for a request that finds the whole burst.
    #[must_use]
    pub const fn untouched(&self) -> Standing {
        self.standing(self.interval)
    }

    /// What is said of a request at `now`, and what is remembered if it passes.
    const fn judge(&self, full_at: u64, now: u64) -> (Verdict, u64) {
        // A burst that was larger before is not paid off for longer than one of today.
        let owed = min(full_at.saturating_sub(now), self.window);
        let after = owed.saturating_add(self.interval);
        if after > self.window {
            let after = Duration::from_nanos(after - self.window);
            (Verdict::Refused { after, standing: self.standing(owed) }, full_at)
        } else {
            (Verdict::Admitted(self.standing(after)), now.saturating_add(after))
        }
    }

    const fn standing(&self, owed: u64) -> Standing {
        // At most the burst.
        let remaining = ((self.window - owed) / self.interval) as u32;
        Standing { remaining, full_after: Duration::from_nanos(owed) }
    }
}

/// What is remembered of one rate, shared by all workers.
#[derive(Debug, Default)]
pub struct Bucket {
    full_at: AtomicU64,
}

impl Bucket {
    /// Takes a request from the rate if it may pass. One compare-exchange when nobody else does the same.
    pub fn take(&self, rate: &Rate, now: u64) -> Verdict {
        let mut full_at = self.full_at.load(Ordering::Relaxed);
        loop {
            let (verdict, next) = rate.judge(full_at, now);
            if matches!(verdict, Verdict::Refused { .. }) {
                return verdict;
            }
            match self.full_at.compare_exchange_weak(full_at, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return verdict,
                Err(other) => full_at = other,
            }
        }
    }

    /// What [`Bucket::take`] would say now.
    pub fn look(&self, rate: &Rate, now: u64) -> Verdict {
        rate.judge(self.full_at.load(Ordering::Relaxed), now).0
    }

    /// Gives back what was taken for a request that did not pass after all.
    pub fn give_back(&self, rate: &Rate) {
        let less = |full_at: u64| Some(full_at.saturating_sub(rate.interval));
        // Always changes something, so it cannot fail.
        let _ = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// When the whole burst is there again: from then on the bucket says no more than a new one.
    #[must_use]
    pub fn full_at(&self) -> u64 {
        self.full_at.load(Ordering::Relaxed)
    }
}

const fn min(a: u64, b: u64) -> u64 {
    if a < b { a } else { b }
}

#[cfg(test)]
mod tests;
