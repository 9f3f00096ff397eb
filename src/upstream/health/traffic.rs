//! When a cluster had its last request: without traffic its checks are rarer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::base::clock;

/// When there was a request. To the grain of a few milliseconds, so that busy workers do not write to one word with
/// every request.
#[derive(Debug)]
pub struct Traffic {
    epoch: u64,
    /// Grains since the epoch, and one; 0: never.
    last: AtomicU64,
}

impl Traffic {
    pub(in crate::upstream) fn new(now: Instant) -> Self {
        Self { epoch: clock::nanos(now), last: AtomicU64::new(0) }
    }

    /// There is a request.
    pub(in crate::upstream) fn note(&self, now: Instant) {
        let grain = self.grain(now);
        if self.last.load(Ordering::Relaxed) != grain {
            self.last.store(grain, Ordering::Relaxed);
        }
    }

    /// How long there has been none; `None`: there never was one.
    #[must_use]
    pub fn quiet(&self, now: Instant) -> Option<Duration> {
        match self.last.load(Ordering::Relaxed) {
            0 => None,
            last => Some(GRAIN * u32::try_from(self.grain(now).saturating_sub(last)).unwrap_or(u32::MAX)),
        }
    }

    fn grain(&self, now: Instant) -> u64 {
        clock::nanos(now).saturating_sub(self.epoch) / GRAIN.as_nanos() as u64 + 1
    }
}

const GRAIN: Duration = Duration::from_millis(8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quiet_is_the_time_since_the_last_request() {
        let start = Instant::now();
        let traffic = Traffic::new(start);
        assert_eq!(traffic.quiet(start + Duration::from_secs(9)), None);
        traffic.note(start + Duration::from_secs(2));
        let quiet = traffic.quiet(start + Duration::from_secs(5)).expect("there was one");
        assert!(quiet.abs_diff(Duration::from_secs(3)) <= GRAIN, "{quiet:?}");
        assert_eq!(traffic.quiet(start + Duration::from_secs(2)), Some(Duration::ZERO));
    }
}
