//! Which server is tried next, and after what time. Pure: chance and time are arguments.

use std::time::Duration;

/// The order in which servers are tried: from the first to the last, then a pause with full jitter that doubles at most,
/// and again from the first.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    servers: usize,
    /// The next one.
    next: usize,
    /// Rounds without success.
    rounds: u32,
}

impl Backoff {
    /// For so many servers, at least one.
    pub(crate) fn new(servers: usize) -> Self {
        Self { servers: servers.max(1), next: 0, rounds: 0 }
    }

    /// The server to try now.
    pub(crate) fn server(&self) -> usize {
        self.next
    }

    /// The server did not do. How long to wait before the next is tried; `random` is uniform.
    pub(crate) fn failed(&mut self, random: u64) -> Duration {
        self.next += 1;
        if self.next < self.servers {
            return Duration::ZERO;
        }
        self.next = 0;
        let ceiling = BASE.saturating_mul(1 << self.rounds.min(16)).min(CAP);
        self.rounds = self.rounds.saturating_add(1);
        jitter(ceiling, random)
    }

    /// A stream ended that had been open for a time. How long to wait before the first server is tried again.
    pub(crate) fn ended(&mut self, open: Duration, random: u64) -> Duration {
        if open < HEALTHY {
            return self.failed(random);
        }
        (self.next, self.rounds) = (0, 0);
        jitter(BASE, random)
    }
}

/// Uniform from zero to `ceiling`.
pub(crate) fn jitter(ceiling: Duration, random: u64) -> Duration {
    // The upper half of the number has enough bits, and the product fits.
    let nanos = u128::from(random >> 32) * ceiling.as_nanos() >> 32;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

const BASE: Duration = Duration::from_millis(500);
const CAP: Duration = Duration::from_secs(30);
/// A stream that was open for so long was healthy.
const HEALTHY: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_tried_in_order_and_then_there_is_a_pause_that_grows_to_its_cap() {
        let mut backoff = Backoff::new(2);
        let mut pauses = Vec::new();
        for _ in 0..10 {
            assert_eq!(backoff.server(), 0);
            assert_eq!(backoff.failed(u64::MAX), Duration::ZERO);
            assert_eq!(backoff.server(), 1);
            pauses.push(backoff.failed(u64::MAX).as_millis().div_ceil(100));
        }
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 300, 300, 300, 300]);
    }

    #[test]
    fn a_healthy_stream_begins_again_at_the_first_server_and_at_the_first_pause() {
        let mut backoff = Backoff::new(2);
        for _ in 0..9 {
            backoff.failed(0);
        }
        assert!(backoff.ended(HEALTHY, u64::MAX) < BASE);
        assert_eq!(backoff.server(), 0);
        assert_eq!(backoff.ended(Duration::from_secs(1), 0), Duration::ZERO);
        assert_eq!(backoff.server(), 1, "one that hangs up at once did not do");
    }

    #[test]
    fn jitter_is_full() {
        let ceiling = Duration::from_secs(30);
        assert_eq!(jitter(ceiling, 0), Duration::ZERO);
        assert_eq!(jitter(ceiling, u64::MAX / 2).as_secs(), 14);
        assert!(jitter(ceiling, u64::MAX) < ceiling && jitter(ceiling, u64::MAX) > ceiling * 99 / 100);
    }
}
