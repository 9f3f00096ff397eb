//! What breakers and ceilings mean for the choice of an endpoint: who is due to be probed comes first, who turns a request
//! away is passed over, and when nobody is left, why.

use std::time::{Duration, Instant};

use outrigger_config::model::Condition;
use smallvec::SmallVec;

use super::entry::{Entered, Turned};
use crate::policy::rng::Rng;
use crate::telemetry::metrics::BreakerScope;
use crate::upstream::cluster::{EndpointSet, Member, PickError, PickHint};
use crate::upstream::fitness::Fit;

/// Indices of members that turned a request away.
pub(in crate::upstream) type TurnedAway = SmallVec<[usize; 8]>;

impl EndpointSet {
    /// Chooses a member that lets the request in. `draw` names one that may be picked, other than those that have
    /// turned it away; `None` when there is none.
    ///
    /// # Errors
    /// Why there is none.
    pub(in crate::upstream) fn enter(
        &self,
        hint: &PickHint<'_>,
        rng: &mut Rng,
        now: Instant,
        mut draw: impl FnMut(&TurnedAway, &mut Rng) -> Option<usize>,
    ) -> Result<Entered, PickError> {
        let members = self.members();
        let Some(Member { terms, .. }) = members.first() else { return Err(PickError::NoEndpoint) };
        let retry = !hint.tried.is_empty();
        if terms.cluster.board.takes_due(now)
            && let Some(entered) = self.probe(hint, rng, now)
        {
            return Ok(entered);
        }
        let mut turned = TurnedAway::new();
        let mut why = None;
        while let Some(index) = draw(&turned, rng) {
            match members[index].enter(retry, rng, now) {
                Ok(entered) => return Ok(entered),
                Err(reason) => {
                    turned.push(index);
                    why = Turned::weigh(why, Some(reason));
                }
            }
        }
        self.last_resort(hint, why, now)
    }

    /// A member whose breaker waits for a probe gets this request, as far as it suits: otherwise it might wait long to be
    /// drawn. Requests of a session, with a key to hash, and retries go where they would go anyway.
    fn probe(&self, hint: &PickHint<'_>, rng: &mut Rng, now: Instant) -> Option<Entered> {
        let free = hint.tried.is_empty() && hint.bound.is_none() && hint.hash.is_none();
        let mut entered = None;
        for member in self.members() {
            let settings = &member.terms.endpoint_breaker;
            let Some(due) = member.state.breaker.due(settings) else { continue };
            let next = if due > now {
                due
            } else if entered.is_none() && free && suits(member, hint, now) {
                entered = member.enter(false, rng, now).ok();
                member.state.breaker.due(settings).unwrap_or(now).max(now + LOOK_AGAIN)
            } else {
                now + LOOK_AGAIN
            };
            member.terms.cluster.board.probe_due(next);
        }
        entered
    }

    /// Nobody may be picked. An endpoint that answers, and whose breaker nobody asked for, goes on being asked.
    fn last_resort(&self, hint: &PickHint<'_>, why: Option<Turned>, now: Instant) -> Result<Entered, PickError> {
        let retry = !hint.tried.is_empty();
        let in_reach = || self.members().iter().filter(|member| is_in_reach(member, hint));
        let tried = |member: &&Member| hint.tried.contains(&member.state.address);
        let untried_first = in_reach().filter(|member| !tried(member)).chain(in_reach().filter(tried));
        for member in untried_first {
            if let Some(entered) = member.enter_regardless(retry) {
                return Ok(entered);
            }
        }
        match in_reach().map(|member| member.turns_away(now)).fold(why, Turned::weigh) {
            None => Err(PickError::NoEndpoint),
            Some(Turned::Full) => Err(PickError::Overflow),
            Some(Turned::Open(retry_after)) => {
                if let Some(member) = self.members().first() {
                    member.state.breaker.reject();
                }
                Err(PickError::Open { scope: BreakerScope::Endpoint, retry_after })
            }
        }
    }
}

impl Turned {
    /// What is said of two: a ceiling passes sooner than an open breaker, and of these the first to let something in counts.
    fn weigh(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        match (one, other) {
            (Some(Self::Full), _) | (_, Some(Self::Full)) => Some(Self::Full),
            (Some(Self::Open(one)), Some(Self::Open(other))) => Some(Self::Open(one.min(other))),
            (one, other) => one.or(other),
        }
    }
}

/// Whether a request may be sent there to find out.
fn suits(member: &Member, hint: &PickHint<'_>, now: Instant) -> bool {
    Fit::of(member, now) == Fit::Fit && is_in_reach(member, hint)
}

/// Whether nothing but health, breaker and ceilings can stand against it.
fn is_in_reach(member: &Member, hint: &PickHint<'_>) -> bool {
    member.condition != Condition::Draining
        && hint.subset.is_none_or(|labels| labels.iter().all(|(name, value)| member.labels.get(name) == Some(value)))
}

/// A probe that is due and for which a request did not suit is looked for again after this.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
