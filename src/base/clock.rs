//! What time it is, for destructors and those who wake up later: everybody else is told by the caller. Simulations set
//! it, so that what they drop is dropped in their time.

use std::time::Instant;

/// Now.
#[must_use]
pub fn now() -> Instant {
    #[cfg(test)]
    if let Some(now) = simulated::now() {
        return now;
    }
    Instant::now()
}

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
    use std::time::Duration;

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
