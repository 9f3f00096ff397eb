//! What time it is, for destructors and those who wake up later: everybody else is told by the caller. Simulations set
//! it, so that what they drop is dropped in their time. And moments as numbers, for those who keep them in atomics.

use std::cell::Cell;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// Now.
#[must_use]
pub fn now() -> Instant {
    #[cfg(test)]
    if let Some(now) = simulated::now() {
        return now;
    }
    Instant::now()
}

/// A moment in nanoseconds since a moment before the process began. Many ask about the same one: all who are told that an
/// attempt begins, and all who are told that it ends. So the last answer is remembered.
#[must_use]
#[inline]
pub fn nanos(at: Instant) -> u64 {
    match LAST.get() {
        Some((last, nanos)) if last == at => nanos,
        _ => count(at),
    }
}

#[inline(never)]
fn count(at: Instant) -> u64 {
    let nanos = u64::try_from(at.saturating_duration_since(*EPOCH).as_nanos()).unwrap_or(u64::MAX);
    LAST.set(Some((at, nanos)));
    nanos
}

thread_local! {
    static LAST: Cell<Option<(Instant, u64)>> = const { Cell::new(None) };
}

/// The moment of which [`nanos`] says this.
#[must_use]
pub fn at(nanos: u64) -> Instant {
    *EPOCH + Duration::from_nanos(nanos)
}

/// Well before anything that happens, also where a test looks back.
static EPOCH: LazyLock<Instant> = LazyLock::new(|| {
    let now = Instant::now();
    now.checked_sub(BEFORE).unwrap_or(now)
});

const BEFORE: Duration = Duration::from_secs(24 * 60 * 60);

/// Time that a test sets, on the thread of the test.
#[cfg(test)]
pub mod simulated {
    use std::cell::Cell;
    use std::time::Instant;

    thread_local! {
        static NOW: Cell<Option<Instant>> = const { Cell::new(None) };
    }

    /// Time stands still while this lives, and moves when it is told.
    pub struct Clock(());

    impl Clock {
        /// It is now `now`.
        pub fn start(now: Instant) -> Self {
            NOW.set(Some(now));
            Self(())
        }

        /// It becomes `now`.
        pub fn set(&self, now: Instant) {
            NOW.set(Some(now));
        }
    }

    impl Drop for Clock {
        fn drop(&mut self) {
            NOW.set(None);
        }
    }

    pub(super) fn now() -> Option<Instant> {
        NOW.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_as_far_apart_as_their_numbers() {
        let now = Instant::now();
        let first = nanos(now);
        for apart in [Duration::ZERO, Duration::from_nanos(1), Duration::from_secs(7_000)] {
            assert_eq!(Duration::from_nanos(nanos(now + apart) - first), apart);
            assert_eq!(Duration::from_nanos(first - nanos(now - apart)), apart);
            assert_eq!((nanos(now), at(first)), (first, now), "whatever was asked before");
        }
    }

    #[test]
    fn time_is_what_a_test_says_for_as_long_as_it_says_so() {
        let then = Instant::now() + Duration::from_secs(3600);
        let clock = simulated::Clock::start(then);
        assert_eq!(now(), then);
        clock.set(then + Duration::from_secs(1));
        assert_eq!(now(), then + Duration::from_secs(1));
        drop(clock);
        assert!(now() < then);
    }
}
