//! Circuit breakers with three states: closed, open after too many failures, half-open after a time.
//!
//! [`Machine`] is the rule: what a request that asks is told, and what comes of what is told about it. It is a value;
//! [`AtomicBreaker`] keeps one in a word that all workers share, and counts what opens it.
//!
//! * Half-open lets exactly one request through, the probe. Whoever asks meanwhile is refused. A probe that ends without
//!   evidence (its caller left, our own time limit) gives the place back, and the next request probes. One that is not
//!   decided within the reset timeout (a stream that goes on for ever) no longer counts, and the next request probes too.
//! * Each change of state and each probe begins a generation. What was let through in an earlier one changes nothing.
//! * A breaker that opens again without having been closed between doubles its timeout, up to a limit.

mod live;
mod share;
mod word;

use std::time::Duration;

use outrigger_config::model::Breaker;

pub use live::{AtomicBreaker, Cause, Change, Evidence, Standing};

use super::rng::scale;

/// Where a breaker stands, and what it goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// Its state.
    pub state: State,
    /// What somebody ordered over the admin server.
    pub force: Force,
    /// Goes up (and wraps) with each change of state and each probe.
    pub generation: u16,
    /// How often in a row it has opened.
    pub row: u8,
}

/// The state of a breaker. Times are milliseconds since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Everything passes.
    Closed,
    /// After a probe that went well: a growing share passes.
    Ramp {
        /// When that began.
        since: u64,
    },
    /// Nothing passes.
    Open {
        /// The first request from then on is the probe.
        until: u64,
    },
    /// One request passes.
    HalfOpen {
        /// When it did; `None`: nobody has asked yet.
        probe: Option<u64>,
    },
}

/// What somebody ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    /// Nothing: evidence decides.
    Auto,
    /// Nothing passes.
    Open,
    /// Everything passes, whatever comes of it.
    Closed,
}

/// That a request was let through, and as what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass {
    generation: u16,
    role: Role,
}

/// As what a request was let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Nobody asks what comes of it.
    Free,
    /// One of many.
    Regular,
    /// The one that decides.
    Probe,
    /// Through a breaker that is open, because nobody else was left and nobody had asked for the breaker.
    Tolerated,
}

/// What a request that asks is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It may go.
    Pass(Pass),
    /// It may not.
    Refuse {
        /// When it is worth asking again.
        after: Duration,
    },
}

/// What is told about a request that was let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// It went well.
    Good,
    /// It failed.
    Bad,
    /// It failed, and with it too many.
    Trip,
    /// It ended without evidence.
    Gone,
}

/// What a decision depends on besides the machine.
#[derive(Debug, Clone, Copy)]
struct When<'a> {
    settings: &'a Breaker,
    /// Milliseconds since the breaker was made.
    now: u64,
    /// From the whole range.
    random: u64,
}

impl Pass {
    /// Whether it is the one request that decides.
    #[must_use]
    pub fn is_probe(self) -> bool {
        self.role == Role::Probe
    }
}

impl Machine {
    const NEW: Self = Self { state: State::Closed, force: Force::Auto, generation: 0, row: 0 };

    /// A request asks.
    fn ask(self, when: When<'_>) -> (Self, Verdict) {
        let When { settings, now, random } = when;
        match (self.force, self.state) {
            (Force::Open, _) => self.refuse(settings.reset_timeout),
            (Force::Closed, _) => (self, self.pass(Role::Free)),
            (Force::Auto, State::Closed) => (self, self.pass(Role::Regular)),
            (Force::Auto, State::Ramp { since }) => {
                let (age, ramp) = (now.saturating_sub(since), millis(settings.ramp));
                if age >= ramp {
                    // Those let through meanwhile count on: nothing has changed for them.
                    let next = Self { state: State::Closed, row: 0, ..self };
                    (next, next.pass(Role::Regular))
                } else if scale(random, ramp) < age.max(ramp / RAMP_BEGINS) {
                    (self, self.pass(Role::Regular))
                } else {
                    self.refuse(Duration::from_millis(ramp - age))
                }
            }
            (Force::Auto, State::Open { until }) if now < until => self.refuse(Duration::from_millis(until - now)),
            (Force::Auto, State::HalfOpen { probe: Some(since) }) if now < undecided_until(since, settings) => {
                self.refuse(PROBE_TAKES)
            }
            (Force::Auto, State::Open { .. } | State::HalfOpen { .. }) => {
                let next = self.enter(State::HalfOpen { probe: Some(now) });
                (next, next.pass(Role::Probe))
            }
        }
    }

    /// Something is told about a request that was let through.
    fn told(self, pass: Pass, told: Told, when: When<'_>) -> Self {
        if pass.generation != self.generation || self.force != Force::Auto {
            return self;
        }
        match (self.state, pass.role, told) {
            (State::Closed | State::Ramp { .. }, Role::Regular, Told::Trip)
            | (State::HalfOpen { .. }, Role::Probe, Told::Bad | Told::Trip) => self.open(when),
            (State::HalfOpen { .. }, Role::Probe, Told::Good)
            | (State::Open { .. } | State::HalfOpen { .. }, Role::Tolerated, Told::Good) => self.close(when),
            (State::HalfOpen { .. }, Role::Probe, Told::Gone) => {
                Self { state: State::HalfOpen { probe: None }, ..self }
            }
            (State::Closed | State::Ramp { .. }, Role::Regular, Told::Good | Told::Bad | Told::Gone)
            | (State::Closed | State::Ramp { .. } | State::Open { .. }, Role::Probe, _)
            | (State::Closed | State::Ramp { .. }, Role::Tolerated, _)
            | (State::Open { .. } | State::HalfOpen { .. }, Role::Regular, _)
            | (State::Open { .. } | State::HalfOpen { .. }, Role::Tolerated, Told::Bad | Told::Trip | Told::Gone)
            | (_, Role::Free, _) => self,
        }
    }

    /// Somebody orders something. An order to be open leaves the breaker half-open behind: when it is taken back, one
    /// request finds out.
    fn order(self, force: Force) -> Self {
        let state = match force {
            Force::Auto if self.force == Force::Auto => return self,
            Force::Auto => self.state,
            Force::Open => State::HalfOpen { probe: None },
            Force::Closed => State::Closed,
        };
        Self { force, row: 0, ..self.enter(state) }
    }

    /// Through an open breaker, where the caller knows that no other endpoint is left. Only where nobody wrote when a breaker
    /// opens: then our answer is no better than the endpoint's, and a service that was restarted must be there at once.
    fn tolerate(self, settings: &Breaker) -> Option<Pass> {
        let asked_for = settings.failure_threshold.place.is_some()
            || settings.failure_ratio.is_some()
            || settings.latency.is_some();
        let Verdict::Pass(pass) = self.pass(Role::Tolerated) else { return None };
        match (self.force, self.state) {
            (Force::Auto, State::Open { .. } | State::HalfOpen { .. }) if !asked_for => Some(pass),
            _ => None,
        }
    }

    /// When the next request is let through; `None` when that depends on no time.
    fn due(self, settings: &Breaker) -> Option<u64> {
        match (self.force, self.state) {
            (Force::Auto, State::Open { until }) => Some(until),
            (Force::Auto, State::HalfOpen { probe: None }) => Some(0),
            (Force::Auto, State::HalfOpen { probe: Some(since) }) => Some(undecided_until(since, settings)),
            (Force::Auto, State::Closed | State::Ramp { .. }) | (Force::Open | Force::Closed, _) => None,
        }
    }

    fn open(self, When { settings, now, random }: When<'_>) -> Self {
        let reset = millis(settings.reset_timeout).max(1);
        let doubled = reset.saturating_mul(1 << self.row.min(MOST_DOUBLINGS)).min(millis(settings.max_reset_timeout));
        let base = doubled.max(reset);
        let until = now.saturating_add(base).saturating_add(scale(random, base / JITTER + 1));
        let row = self.row.saturating_add(1).min(MOST_DOUBLINGS);
        Self { row, ..self.enter(State::Open { until }) }
    }

    fn close(self, When { settings, now, random: _ }: When<'_>) -> Self {
        if settings.ramp.is_zero() {
            Self { row: 0, ..self.enter(State::Closed) }
        } else {
            self.enter(State::Ramp { since: now })
        }
    }

    fn enter(self, state: State) -> Self {
        Self { state, generation: self.generation.wrapping_add(1), ..self }
    }

    fn pass(self, role: Role) -> Verdict {
        Verdict::Pass(Pass { generation: self.generation, role })
    }

    fn refuse(self, after: Duration) -> (Self, Verdict) {
        (self, Verdict::Refuse { after })
    }
}

/// Whether anything opens such a breaker.
#[must_use]
pub fn is_on(settings: &Breaker) -> bool {
    settings.failure_threshold.value > 0 || settings.failure_ratio.is_some() || settings.latency.is_some()
}

/// From then on a probe that began at `since` no longer keeps others from probing.
fn undecided_until(since: u64, settings: &Breaker) -> u64 {
    since.saturating_add(millis(settings.reset_timeout).max(1))
}

fn millis(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000).saturating_add(u64::from(duration.subsec_millis()))
}

/// What is said of a probe that is under way: come back so much later.
const PROBE_TAKES: Duration = Duration::from_secs(1);
/// One part in so many of the timeout is the most that jitter adds.
const JITTER: u64 = 10;
/// A ramp begins with one request in so many, so that there is evidence.
const RAMP_BEGINS: u64 = 10;
/// A timeout doubled so often is beyond every limit.
const MOST_DOUBLINGS: u8 = 15;

#[cfg(test)]
mod tests;
