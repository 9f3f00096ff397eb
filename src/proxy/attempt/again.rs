//! Whether a request is tried again after an attempt, and when.

use std::sync::Arc;
use std::time::{Duration, Instant};

use outrigger_config::model;

use super::Exchange;
use super::classify::{self, classify};
use super::marks::{Incoming, Spent};
use super::one::Try;
use super::slot::{Refused, RetrySlot};
use crate::codec::{Replay, RequestHead};
use crate::policy::retry::{self, Attempts, Idempotency, Lineage, Repeatable, TooLong, Verdict, Why};
use crate::proxy::record::Record;
use crate::proxy::with_random;
use crate::telemetry::metrics::GivenUp;
use crate::upstream::{Cluster, Permit};

/// What was tried of one request, and what is left to try.
pub(super) struct Again<'a> {
    cluster: &'a Arc<Cluster>,
    policy: &'a model::Retry,
    attempts: Attempts,
    idempotency: Idempotency,
    /// Read when it is first needed: of most requests it never is.
    incoming: Option<Incoming>,
    retrying: Option<RetrySlot>,
    /// Attempts so far that may have reached an application, and of which the next one is a repetition.
    reached: u32,
    /// An attempt so far reached an application and would be repeated, as far as the rule goes.
    failed: bool,
    /// Why there is no further attempt, though the rule would have one.
    spent: Option<Spent>,
}

impl<'a> Again<'a> {
    /// Nothing was tried yet.
    pub(super) fn first(exchange: &Exchange<'a>, head: &RequestHead) -> Self {
        let policy = &exchange.rule.retry;
        Self {
            cluster: exchange.cluster,
            policy,
            attempts: Attempts::first(),
            idempotency: Idempotency::of_request(policy, &head.method, &head.headers),
            incoming: (policy.attempts.value > 0 || exchange.hedging.is_some())
                .then(|| Incoming::of(&head.headers, exchange.caller, exchange.carried)),
            retrying: None,
            reached: 0,
            failed: false,
            spent: None,
        }
    }

    /// Counts the request in the budget of its cluster: as a request, or as a retry if it is one of a hop before.
    pub(super) fn count(&self, now: Instant) {
        let budget = &self.cluster.state().budget;
        if self.is_retried_above() { budget.note_retry(now) } else { budget.deposit(now) }
    }

    fn is_retried_above(&self) -> bool {
        self.incoming.is_some_and(|incoming| incoming.attempt > 1)
    }

    /// Whether the head of the next answer is held back until it shows how a call goes on.
    pub(super) fn holds(&self, replay: Option<&Replay>) -> bool {
        retry::is_worth_holding(self.policy, &self.attempts, self.request(replay))
    }

    /// Whether a further attempt may be made beside those so far: of what may be executed twice, and that is not being
    /// repeated by a hop before.
    pub(super) fn may_hedge(&self, most: u8) -> bool {
        let repeatable = self.idempotency == Idempotency::Idempotent || self.policy.non_idempotent;
        repeatable && !self.is_retried_above() && retry::may_hedge(self.policy, &self.attempts, most)
    }

    /// Such a one was begun.
    pub(super) fn hedged(&mut self) {
        self.attempts.hedge();
    }

    /// An attempt ended. How long to wait before the next one; `None`: the end stands.
    pub(super) fn after(
        &mut self,
        exchange: &Exchange<'_>,
        (tried, permit): (&Try, &Permit),
        replay: Option<&Replay>,
        record: &mut Record,
        now: Instant,
    ) -> Option<Duration> {
        let outcome = classify(tried, exchange, permit)?;
        let verdict = retry::decide(self.policy, &self.attempts, self.request(replay), outcome);
        let began = replay.and_then(Replay::ended).map_or(record.started(), |ended| ended.max(record.started()));
        let left = || exchange.time_left(began, now);
        self.reached += u32::from(outcome.reached());
        let spent = match verdict {
            Verdict::RetryFree if left() == Some(Duration::ZERO) => return None,
            Verdict::RetryFree => match self.enter(verdict, now) {
                Ok(()) => return Some(Duration::ZERO),
                Err(spent) => spent,
            },
            Verdict::RetryCharged { step } => {
                self.failed |= outcome.reached();
                match self.wait(exchange, tried, step, left()).and_then(|wait| self.enter(verdict, now).map(|()| wait))
                {
                    Ok(wait) => return Some(wait),
                    Err(spent) => spent,
                }
            }
            Verdict::Done(Why::Exhausted) if retry::is_covered(self.policy, outcome) => {
                self.failed |= outcome.reached();
                Spent::Exhausted
            }
            Verdict::Done(Why::NotReplayable) => {
                self.give_up_for_body(record);
                return None;
            }
            Verdict::Done(_) => return None,
        };
        self.spent = self.failed.then_some(spent);
        None
    }

    /// What the last answer must say of retries.
    pub(super) fn spent(&self) -> Option<Spent> {
        self.spent
    }

    /// What a failure must say of them that is none of the upstream's answers.
    pub(super) fn spent_on_failure(&self) -> Option<Spent> {
        self.spent.or(self.failed.then_some(Spent::Exhausted))
    }

    /// Says in the head of a further attempt which one it is. What nobody has seen is no attempt (gRFC A6, transparent
    /// retries), so that an endpoint that is down does not look like retries to those that serve in its place. `beside` it
    /// so many are under way, or have failed there.
    pub(super) fn stamp(&mut self, exchange: &Exchange<'_>, head: &mut RequestHead, beside: u32, record: &mut Record) {
        let made = self.reached.saturating_add(beside);
        if made == 0 {
            return;
        }
        let incoming =
            *self.incoming.get_or_insert_with(|| Incoming::of(&head.headers, exchange.caller, exchange.carried));
        incoming.stamp(&mut head.headers, exchange.caller, made, record);
    }

    fn request(&self, replay: Option<&Replay>) -> Repeatable {
        Repeatable {
            replay: match replay.is_none_or(Replay::is_whole) {
                true => retry::Replay::Whole,
                false => retry::Replay::Lost,
            },
            idempotency: self.idempotency,
            lineage: if self.is_retried_above() { Lineage::RetriedAbove } else { Lineage::First },
        }
    }

    fn wait(&self, exchange: &Exchange<'_>, tried: &Try, step: u8, left: Option<Duration>) -> Result<Duration, Spent> {
        let pushback = classify::pushback(tried, exchange.caller);
        let wait = with_random(|random| retry::wait(self.policy, step, (pushback, left), random.next_u64()));
        wait.map_err(|too_long| {
            let (spent, given_up) = match too_long {
                TooLong::Pushback => (Spent::Pushback, GivenUp::Pushback),
                TooLong::Deadline => (Spent::Deadline, GivenUp::Deadline),
            };
            self.cluster.state().metrics.gave_up_retry(given_up);
            spent
        })
    }

    fn enter(&mut self, verdict: Verdict, now: Instant) -> Result<(), Spent> {
        let slot =
            RetrySlot::enter(self.cluster, self.retrying.take(), verdict, now).map_err(|refused| match refused {
                Refused::Ceiling => Spent::Ceiling,
                Refused::Budget => Spent::Budget,
            })?;
        self.retrying = Some(slot);
        self.attempts.record(verdict);
        self.cluster.state().metrics.retried();
        Ok(())
    }

    /// Loud, because a larger buffer would have helped.
    fn give_up_for_body(&self, record: &mut Record) {
        record.details = "retry_given_up_body";
        self.cluster.state().metrics.gave_up_retry(GivenUp::Body);
        tracing::debug!(
            cluster = %self.cluster.config().name,
            received = record.received(),
            buffer = self.policy.buffer,
            "a request was not tried again: its body outgrew the buffer for retries"
        );
    }
}
