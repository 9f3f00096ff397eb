//! Callers that cancel requests as soon as they have sent them: each costs us an attempt upstream and them nothing, and as
//! its place is free again at once no limit on streams holds them back (CVE-2023-44487). What they cancel before it was
//! looked at is the business of each codec.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::base::limits;

/// Requests of one connection that their caller cancelled at once, beyond those that it did not.
///
/// Hedging callers cancel at most every other one, so they do not get anywhere.
#[derive(Debug, Default)]
pub(in crate::codec) struct Haste(AtomicU32);

/// What becomes of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::codec) enum Verdict {
    /// Nothing.
    Stays,
    /// It takes no further requests. Nobody's request is lost, because it may be shared: many callers behind a proxy
    /// that leave in the same moment are no attack.
    Retires,
    /// It ends: it did not stop.
    Ends,
}

impl Haste {
    /// The caller cancelled a request so long after it had come, before there was an answer.
    pub(in crate::codec) fn note_cancel(&self, after: Duration) {
        if after < limits::HASTY_CANCEL {
            self.0.fetch_add(1, Ordering::Relaxed);
        } else {
            self.note_request();
        }
    }

    /// A request was waited for.
    pub(in crate::codec) fn note_request(&self) {
        // Nearly always: no write to what all requests of the connection share.
        if self.0.load(Ordering::Relaxed) > 0 {
            let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |hasty| hasty.checked_sub(1));
        }
    }

    pub(in crate::codec) fn verdict(&self) -> Verdict {
        match self.0.load(Ordering::Relaxed) {
            hasty if hasty >= limits::HASTY_CANCELS_AT_MOST => Verdict::Ends,
            hasty if hasty >= limits::HASTY_CANCELS => Verdict::Retires,
            _ => Verdict::Stays,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT_ONCE: Duration = Duration::ZERO;

    #[test]
    fn many_hasty_cancels_retire_a_connection_and_more_end_it() {
        let haste = Haste::default();
        for _ in 1..limits::HASTY_CANCELS {
            haste.note_cancel(AT_ONCE);
        }
        assert_eq!(haste.verdict(), Verdict::Stays);
        haste.note_cancel(AT_ONCE);
        assert_eq!(haste.verdict(), Verdict::Retires);
        for _ in limits::HASTY_CANCELS..limits::HASTY_CANCELS_AT_MOST {
            assert_eq!(haste.verdict(), Verdict::Retires);
            haste.note_cancel(AT_ONCE);
        }
        assert_eq!(haste.verdict(), Verdict::Ends);
    }

    #[test]
    fn who_waits_for_every_other_request_may_cancel_for_ever() {
        let haste = Haste::default();
        for _ in 0..10 * limits::HASTY_CANCELS_AT_MOST {
            haste.note_cancel(AT_ONCE);
            haste.note_request();
        }
        assert_eq!(haste.verdict(), Verdict::Stays);
    }

    #[test]
    fn who_waited_before_cancelling_may_cancel_for_ever() {
        let haste = Haste::default();
        for _ in 0..10 * limits::HASTY_CANCELS_AT_MOST {
            haste.note_cancel(limits::HASTY_CANCEL);
        }
        assert_eq!(haste.verdict(), Verdict::Stays);
    }
}
