//! What breakers and ceilings mean for the choice of an endpoint: who is due to be probed comes first, who turns a request
//! away is passed over, and when nobody is left, why.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::entry::Entered;
use crate::policy::rng::Rng;
use crate::telemetry::metrics::BreakerScope;
use crate::upstream::cluster::{Member, PickError, PickHint};
use crate::upstream::endpoints::{EndpointSet, Moment};
use crate::upstream::fitness::{Closed, Fit};

/// Members that turned a request away.
type TurnedAway = SmallVec<[SocketAddr; 4]>;

impl EndpointSet {
    /// Chooses a member that lets the request in.
    ///
    /// # Errors
    /// Why there is none.
    pub(in crate::upstream) fn enter(
        &self,
        hint: &PickHint<'_>,
        moment: Moment<'_>,
        rng: &mut Rng,
    ) -> Result<Entered, PickError> {
        let Moment { state, now } = moment;
        let retry = !hint.tried.is_empty();
        if state.board.takes_due(now)
            && let Some(entered) = self.probe(hint, rng, now)
        {
            return Ok(entered);
        }
        let mut turned = TurnedAway::new();
        let mut why = None;
        loop {
            let error = match self.pick(hint, &turned, moment, rng) {
                Ok(index) => {
                    let member = &self.members()[index];
                    match member.enter(retry, rng, now) {
                        Ok(entered) => return Ok(entered),
                        Err(closed) => {
                            turned.push(member.state.address);
                            why = Some(why.map_or(closed.into(), |why| PickError::weigh(why, closed.into())));
                            continue;
                        }
                    }
                }
                Err(error) => why.map_or(error, |why| PickError::weigh(why, error)),
            };
            let PickError::Open { .. } = error else { return Err(error) };
            return self.last_resort(hint, rng).ok_or_else(|| {
                if let Some(member) = self.members().first() {
                    member.state.breaker.reject();
                }
                error
            });
        }
    }

    /// A member whose breaker waits for a probe gets this request, as far as it suits: otherwise it might wait long to be
    /// drawn. Requests of a session, with a key to hash, and retries go where they would go anyway.
    fn probe(&self, hint: &PickHint<'_>, rng: &mut Rng, now: Instant) -> Option<Entered> {
        let free = hint.tried.is_empty() && hint.bound.is_none() && hint.hash.is_none();
        let suits = |member: &Member| free && Fit::of(member, now) == Fit::Fit && self.offers(member, hint.subset);
        let mut entered = None;
        for member in self.members() {
            let settings = &member.terms.endpoint_breaker;
            let Some(due) = member.state.breaker.due(settings) else { continue };
            let next = if due > now {
                due
            } else if entered.is_none() && suits(member) {
                entered = member.enter(false, rng, now).ok();
                member.state.breaker.due(settings).unwrap_or(now).max(now + LOOK_AGAIN)
            } else {
                now + LOOK_AGAIN
            };
            member.terms.cluster.board.probe_due(next);
        }
        entered
    }

    /// Nobody may be picked, and breakers are the reason. An endpoint that answers, and whose breaker nobody asked for, goes
    /// on being asked: one that was not tried, if there is one. Of several, chance says which: where all of them answer
    /// badly, none must get the load of all.
    fn last_resort(&self, hint: &PickHint<'_>, rng: &mut Rng) -> Option<Entered> {
        let retry = !hint.tried.is_empty();
        let start = rng.below(self.candidates(hint).count().max(1) as u64) as usize;
        let around = || self.candidates(hint).skip(start).chain(self.candidates(hint).take(start));
        let tried = |member: &&Member| hint.tried.contains(&member.state.address);
        let untried_first = around().filter(|member| !tried(member)).chain(around().filter(tried));
        untried_first.into_iter().find_map(|member| member.enter_regardless(retry))
    }
}

impl PickError {
    /// What is said when there are two reasons: a ceiling passes sooner than an open breaker, and of these the first to
    /// let something in counts.
    pub(in crate::upstream) fn weigh(one: Self, other: Self) -> Self {
        match (one, other) {
            // It is at its ceiling: it is there, and there may be room at any moment.
            (Self::Overflow, _) | (_, Self::Overflow) => Self::Overflow,
            (Self::Open { scope, retry_after: one }, Self::Open { scope: _, retry_after: other }) => {
                Self::Open { scope, retry_after: one.min(other) }
            }
            (open @ Self::Open { .. }, Self::NoEndpoint) | (Self::NoEndpoint, open @ Self::Open { .. }) => open,
            (Self::NoEndpoint, Self::NoEndpoint) => Self::NoEndpoint,
        }
    }
}

impl From<Closed> for PickError {
    fn from(closed: Closed) -> Self {
        match closed {
            Closed::Breaker { retry_after } => Self::Open { scope: BreakerScope::Endpoint, retry_after },
            Closed::Ceiling => Self::Overflow,
        }
    }
}

/// A probe that is due and for which a request did not suit is looked for again after this.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
