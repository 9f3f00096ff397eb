//! What must hold, as checks of what was seen. None of them asks the rules that it checks: a check is told what happened,
//! and says what is wrong with that. Their tests tell them of what must not happen.

mod breaker;
mod spending;

use std::time::{Duration, Instant};

pub(super) use self::breaker::{Admitted, Step, WatchedBreaker};
pub(super) use self::spending::{Spending, Spent};

/// `Err`: what is wrong.
pub(super) type Held = Result<(), String>;

/// Something that is counted up and down again.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gauge(u32);

impl Gauge {
    pub(super) fn get(self) -> u32 {
        self.0
    }

    pub(super) fn up(&mut self) {
        self.0 += 1;
    }

    pub(super) fn down(&mut self) -> Held {
        self.0 = self.0.checked_sub(1).ok_or("more ended than began")?;
        Ok(())
    }

    /// At the end nothing is left.
    pub(super) fn is_quiet(self) -> Held {
        if self.0 == 0 { Ok(()) } else { Err(format!("{} never ended", self.0)) }
    }
}

/// An attempt is sent.
pub(super) fn sent(now: Instant, deadline: Option<Instant>) -> Held {
    match deadline {
        Some(deadline) if deadline <= now => Err(format!("sent {:?} after the deadline", now - deadline)),
        _ => Ok(()),
    }
}

/// An upstream is told that so much time is left.
pub(super) fn told(left: Duration, now: Instant, deadline: Instant) -> Held {
    let most = deadline.saturating_duration_since(now);
    if left > most { Err(format!("the upstream is told {left:?} of {most:?}")) } else { Ok(()) }
}

/// Endpoints of a cluster at the moment when one is ejected: that one among those that are out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ejection {
    pub(super) endpoints: usize,
    pub(super) out: usize,
    /// Those that requests may go to, as far as health goes.
    pub(super) left: usize,
    /// At most this share may be out, in percent.
    pub(super) percent: u8,
}

impl Ejection {
    pub(super) fn check(self) -> Held {
        let Self { endpoints, out, left, percent } = self;
        if out >= endpoints || left == 0 {
            return Err(format!("the last endpoint was ejected: {self:?}"));
        }
        if percent == 0 || (out > 1 && out * 100 > endpoints * usize::from(percent)) {
            return Err(format!("too many are ejected: {self:?}"));
        }
        Ok(())
    }
}

/// A request waited for a place for so long, of at most `most`, and not beyond its deadline. Timers are exact to a
/// millisecond.
pub(super) fn waited(began: Instant, now: Instant, most: Duration, deadline: Option<Instant>) -> Held {
    let end = (began + most).min(deadline.unwrap_or(now)) + TIMER;
    if now > end.max(began + TIMER) { Err(format!("waited {:?} of {most:?}", now - began)) } else { Ok(()) }
}

/// What a timer may be late.
pub(super) const TIMER: Duration = Duration::from_millis(2);

#[cfg(test)]
mod tests;
