//! A circuit breaker, watched from step to step: from closed to open, from open to half-open, from there to either, and
//! one request at a time while it is half-open. Ramps are closed breakers that let less through.

use std::time::{Duration, Instant};

use outrigger_config::model::Breaker;

use super::Held;
use crate::policy::breaker::{Force, Machine, State};

/// What is known of a breaker.
#[derive(Debug)]
pub(in super::super) struct WatchedBreaker {
    last: Machine,
    /// The request that finds out, and since when.
    probe: Option<(u64, Instant)>,
    /// Requests that were let through while it was open, because no other endpoint was left.
    tolerated: Vec<u64>,
}

/// Since a breaker was last looked at...
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Step {
    /// ...requests asked.
    Asked,
    /// ...something was told about this one, or it ended.
    Told(u64),
    /// ...somebody ordered something.
    Ordered,
}

/// A request that was let through.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Admitted<'a> {
    pub(in super::super) number: u64,
    pub(in super::super) is_probe: bool,
    pub(in super::super) settings: &'a Breaker,
    pub(in super::super) now: Instant,
}

/// What matters of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stands {
    Closed,
    Open,
    HalfOpen,
}

impl WatchedBreaker {
    pub(in super::super) fn new(machine: Machine) -> Self {
        Self { last: machine, probe: None, tolerated: Vec::new() }
    }

    pub(in super::super) fn is_closed(&self) -> bool {
        self.last.force == Force::Auto && matches!(self.last.state, State::Closed)
    }

    /// It is like this now. What that was, if it changed where it stands.
    pub(in super::super) fn see(&mut self, machine: Machine, step: Step) -> Held {
        let before = std::mem::replace(&mut self.last, machine);
        if before != machine {
            self.check(before, machine, step)
                .map_err(|why| format!("{why}: from {before:?} to {machine:?} {step:?}"))?;
        }
        Ok(())
    }

    fn check(&mut self, before: Machine, after: Machine, step: Step) -> Held {
        let steps = after.generation.wrapping_sub(before.generation);
        let by_probe = |number| self.probe.is_some_and(|(probe, _)| probe == number);
        let by_tolerated = |number| self.tolerated.contains(&number);
        if step == Step::Ordered {
            self.probe = None;
            self.tolerated.clear();
            return if steps == 1 { Ok(()) } else { Err(format!("{steps} changes by one order")) };
        }
        if before.force != Force::Auto || after.force != Force::Auto {
            return Err("changed although its state was ordered".to_owned());
        }
        let legal = match (stands(before), stands(after), step, steps) {
            // A ramp is over, a probe gave its place back, or an endpoint no longer answers.
            (one, other, _, 0) => one == other,
            (Stands::Open | Stands::HalfOpen, Stands::HalfOpen, Step::Asked, 1) => true,
            (Stands::Closed, Stands::Open, Step::Told(_), 1) => true,
            (Stands::HalfOpen, Stands::Open, Step::Told(number), 1) => by_probe(number),
            (Stands::HalfOpen, Stands::Closed, Step::Told(number), 1) => by_probe(number) || by_tolerated(number),
            (Stands::Open, Stands::Closed, Step::Told(number), 1) => by_tolerated(number),
            _ => false,
        };
        if stands(after) == Stands::Closed {
            // Whoever was let through before decides nothing any more.
            self.probe = None;
            self.tolerated.clear();
        }
        if legal { Ok(()) } else { Err("no such transition".to_owned()) }
    }

    /// A request was let through, and the breaker was looked at since.
    pub(in super::super) fn admit(&mut self, admitted: Admitted<'_>) -> Held {
        let Admitted { number, is_probe, settings, now } = admitted;
        let written = settings.failure_threshold.place.is_some();
        let watches = settings.failure_ratio.is_some() || settings.latency.is_some();
        let is_off = settings.failure_threshold.value == 0 && !watches;
        let undecided = settings.reset_timeout.saturating_sub(Duration::from_millis(1));
        match (self.last.force, stands(self.last)) {
            (Force::Open, _) => Err("let through although it was ordered to be open".to_owned()),
            (Force::Closed, _) | (Force::Auto, Stands::Closed) if !is_probe => Ok(()),
            (Force::Auto, Stands::HalfOpen) if is_probe => match self.probe {
                Some((other, since)) if now - since < undecided => {
                    Err(format!("two at once find out: {other}, and {number} after {:?}", now - since))
                }
                _ => {
                    self.probe = Some((number, now));
                    Ok(())
                }
            },
            (Force::Auto, Stands::Open | Stands::HalfOpen) if !is_probe && is_off => Ok(()),
            (Force::Auto, Stands::Open | Stands::HalfOpen) if !is_probe && !written && !watches => {
                self.tolerated.push(number);
                if self.last.answered { Ok(()) } else { Err("tolerated an endpoint that does not answer".to_owned()) }
            }
            _ => Err(format!("{number} was let through, probe: {is_probe}, by {:?}", self.last)),
        }
    }

    /// Nothing that a request does from now on is evidence.
    pub(in super::super) fn ended(&mut self, number: u64) {
        self.probe = self.probe.filter(|(probe, _)| *probe != number);
        self.tolerated.retain(|tolerated| *tolerated != number);
    }
}

fn stands(machine: Machine) -> Stands {
    match machine.state {
        State::Closed | State::Ramp { .. } => Stands::Closed,
        State::Open { .. } => Stands::Open,
        State::HalfOpen { .. } => Stands::HalfOpen,
    }
}
