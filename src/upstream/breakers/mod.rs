//! Circuit breakers of endpoints, clusters and rules: [`AtomicBreaker`] with a name, numbers, a voice in the log, and
//! passes that give a probe's place back when nothing comes of it.
//!
//! State belongs to what it is about and outlives configurations with it: an endpoint's is in its
//! [`super::EndpointState`], a cluster's in its [`super::ClusterState`], a rule's is kept by the registry. Settings come
//! from the configuration of the request.

mod board;
mod choice;
mod entry;
mod rule;
mod status;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outrigger_config::model::Breaker;

pub(super) use self::board::Board;
pub(super) use self::entry::Entered;
pub use self::entry::Terms;
pub(super) use self::rule::RuleBreakers;
pub use self::rule::{Passage, RuleBreaker};
pub use self::status::{BreakerOrder, BreakerStatus, NoBreaker};
use super::permit::Outcome;
use crate::base::clock;
use crate::policy::breaker::{AtomicBreaker, Change, Evidence, Force, Machine, Pass, Standing, State, Verdict};
use crate::policy::rng::Rng;
use crate::telemetry::metrics::{BreakerScope, BreakerStand};

/// A circuit breaker.
#[derive(Debug)]
pub struct CircuitBreaker {
    state: AtomicBreaker,
    owner: Owner,
    board: Arc<Board>,
}

/// What a breaker is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Endpoint(SocketAddr),
    Cluster,
    Rule,
}

impl CircuitBreaker {
    pub(super) fn new(owner: Owner, board: &Arc<Board>, now: Instant) -> Self {
        Self { state: AtomicBreaker::new(now), owner, board: Arc::clone(board) }
    }

    /// Asks for a request. The pass must come back through [`Self::report`] or [`Self::give_back`].
    ///
    /// # Errors
    /// When to come back.
    pub(super) fn enter(&self, settings: &Breaker, rng: &mut Rng, now: Instant) -> Result<Pass, Duration> {
        let (verdict, change) = self.state.ask(settings, || rng.next_u64(), now);
        self.tell(change, settings, now);
        match verdict {
            Verdict::Pass(pass) => {
                if pass.is_probe() {
                    self.metrics().probed();
                }
                Ok(pass)
            }
            Verdict::Refuse { after } => Err(after),
        }
    }

    /// How long it lets nothing through; `None` when a request may ask.
    pub(super) fn refuses(&self, settings: &Breaker, now: Instant) -> Option<Duration> {
        self.state.refuses(settings, now)
    }

    /// A way through an open breaker whose endpoint still answers, for when no other is left.
    pub(super) fn tolerate(&self, settings: &Breaker) -> Option<Pass> {
        self.state.tolerate(settings)
    }

    /// When the next probe may go.
    pub(super) fn due(&self, settings: &Breaker) -> Option<Instant> {
        self.state.due(settings)
    }

    /// What came of a request.
    #[inline]
    pub(super) fn report(&self, pass: Pass, outcome: Outcome, settings: &Breaker, now: Instant) {
        self.tell(self.state.report(pass, evidence(outcome), settings, now), settings, now);
    }

    /// The answer to a request whose end is open (a stream of gRPC) has begun to flow. For a probe that is enough: it may
    /// go on for hours, and others must not wait for its end.
    pub(super) fn flows(&self, pass: Pass, settings: &Breaker, now: Instant) {
        if pass.is_probe() {
            self.tell(self.state.report(pass, Evidence::Good { took: None }, settings, now), settings, now);
        }
    }

    /// We gave up waiting for an answer after this time: no failure. The time counts where it is too long already; what
    /// might have become of less is not known.
    pub(super) fn gave_up(&self, pass: Pass, after: Duration, settings: &Breaker, now: Instant) {
        if settings.latency.is_none_or(|trip| after <= trip.above) {
            return;
        }
        self.tell(self.state.report(pass, Evidence::Took(after), settings, now), settings, now);
    }

    /// A request ended: if it was the probe and nothing was told of it, the next one is.
    pub(super) fn give_back(&self, pass: Pass, settings: &Breaker) {
        // The clock is read only where it matters.
        if pass.is_probe() {
            let now = clock::now();
            self.tell(self.state.gone(pass, settings, now), settings, now);
        }
    }

    /// Somebody orders something.
    pub(super) fn order(&self, force: Force, settings: &Breaker, now: Instant) {
        self.tell(self.state.order(force, now), settings, now);
    }

    /// A request is refused because of it.
    pub(super) fn reject(&self) {
        self.metrics().rejected();
    }

    pub(super) fn standing(&self, settings: &Breaker, now: Instant) -> Standing {
        self.state.standing(settings, now)
    }

    /// Where it stands, with what it goes by.
    #[cfg(test)]
    pub(crate) fn machine(&self) -> Machine {
        self.state.machine()
    }

    fn metrics(&self) -> &crate::telemetry::metrics::BreakerMetrics {
        self.board.metrics(self.scope())
    }

    fn scope(&self) -> BreakerScope {
        match self.owner {
            Owner::Endpoint(_) => BreakerScope::Endpoint,
            Owner::Cluster => BreakerScope::Cluster,
            Owner::Rule => BreakerScope::Rule,
        }
    }

    /// What is to be done about a change, if there is one: hardly ever.
    #[inline]
    fn tell(&self, change: Option<Change>, settings: &Breaker, now: Instant) {
        if let Some(change) = change {
            self.changed(change, settings, now);
        }
    }

    /// Counts and logs a change, and sees to it that picks know when the next probe is due.
    #[cold]
    fn changed(&self, Change { from, to }: Change, settings: &Breaker, now: Instant) {
        if matches!(self.owner, Owner::Endpoint(_))
            && let Some(due) = self.state.due(settings)
        {
            self.board.probe_due(due);
        }
        let (from, to) = (stand(from), stand(to));
        if from != to {
            if matches!(self.owner, Owner::Endpoint(_)) {
                self.board.endpoint_changed();
            }
            self.metrics().moved(from, to);
            self.board.say(self.owner, to, self.state.standing(settings, now), now);
        }
    }
}

impl Drop for CircuitBreaker {
    fn drop(&mut self) {
        self.metrics().left(stand(self.state.machine()));
    }
}

/// As what a breaker is counted.
fn stand(machine: Machine) -> BreakerStand {
    match (machine.force, machine.state) {
        (Force::Open, _) => BreakerStand::ForcedOpen,
        (Force::Closed, _) => BreakerStand::ForcedClosed,
        (Force::Auto, State::Closed) => BreakerStand::Closed,
        (Force::Auto, State::Ramp { .. }) => BreakerStand::Ramp,
        (Force::Auto, State::Open { .. }) => BreakerStand::Open,
        (Force::Auto, State::HalfOpen { .. }) => BreakerStand::HalfOpen,
    }
}

/// What the end of an attempt is to a breaker. A server that answers 500 or 429 is there and answers.
#[inline]
fn evidence(outcome: Outcome) -> Evidence {
    match outcome {
        Outcome::Success(took) => Evidence::Good { took: Some(took) },
        Outcome::Answering(took) => Evidence::Took(took),
        Outcome::Done | Outcome::Busy | Outcome::ServerError => Evidence::Good { took: None },
        Outcome::GatewayError | Outcome::Broken => Evidence::Bad,
    }
}

#[cfg(test)]
mod tests;
