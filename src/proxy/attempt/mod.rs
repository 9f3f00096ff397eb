//! The attempts of one request: the loop. An attempt is picked, leased and sent in `one`, within its `patience`; its
//! end is evidence in `judge`, and a reason to try again, or none, in `classify`; a retry needs a `slot`; and what the
//! last one comes to is said in `conclude`.

mod classify;
mod conclude;
mod judge;
mod one;
mod patience;
mod slot;

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use http::header::HeaderName;
use outrigger_config::model;
use smallvec::SmallVec;

use self::classify::classify;
use self::conclude::conclude;
use self::one::{One, Try};
use self::patience::Patience;
use self::slot::RetrySlot;
use super::local::Caller;
use super::reason::Reason;
use super::record::Record;
use super::tracked::Limits;
use super::with_random;
use crate::base::timer::Deadline;
use crate::codec::{Body, Interim, PollBody, Replay, RequestHead, Response};
use crate::policy::deadline::{self, Forwarded};
use crate::policy::retry::{self, Attempts, Idempotency, Repeatable, Verdict};
use crate::telemetry::metrics::BreakerScope;
use crate::upstream::{Cluster, Permit};

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// What stays the same over all attempts.
pub(super) struct Exchange<'a> {
    pub(super) cluster: &'a Arc<Cluster>,
    pub(super) rule: &'a model::Rule,
    pub(super) limits: Limits,
    /// Of one attempt, to its response head.
    pub(super) attempt_limit: Option<Duration>,
    pub(super) caller: Caller,
}

/// No answer could be had.
pub(super) struct Failure {
    pub(super) reason: Reason,
    pub(super) details: &'static str,
    /// When it is worth asking again.
    pub(super) retry_after: Option<Duration>,
}

impl From<Reason> for Failure {
    fn from(reason: Reason) -> Self {
        Self { reason, details: "", retry_after: None }
    }
}

impl Failure {
    /// A breaker is open.
    pub(super) fn open(scope: BreakerScope, retry_after: Duration) -> Self {
        let details = match scope {
            BreakerScope::Endpoint => "breaker_endpoint",
            BreakerScope::Cluster => "breaker_cluster",
            BreakerScope::Rule => "breaker_rule",
        };
        Self { details, retry_after: Some(retry_after), ..Reason::BreakerOpen.into() }
    }
}

/// Sends a request until it is answered, or there is no answer to be had. Dropping the future cancels what is
/// under way upstream at once.
pub(super) async fn run(
    exchange: &Exchange<'_>,
    head: &mut RequestHead,
    body: Body,
    interim: &dyn Interim,
    record: &mut Record,
) -> Result<(Response<Body>, Permit), Failure> {
    let replay = (!body.is_end()).then(|| Replay::new(body));
    if let Some(replay) = &replay {
        record.note_upload(replay);
    }
    let answer = attempt_all(exchange, head, replay.as_ref(), interim, record).await;
    // However it ended: the record counts on, and must not keep the caller's body meanwhile.
    if let Some(replay) = &replay {
        replay.commit();
    }
    answer
}

async fn attempt_all(
    exchange: &Exchange<'_>,
    head: &mut RequestHead,
    replay: Option<&Replay>,
    interim: &dyn Interim,
    record: &mut Record,
) -> Result<(Response<Body>, Permit), Failure> {
    let cluster = exchange.cluster;
    let policy = &exchange.rule.retry;
    let idempotency = Idempotency::of(&head.method);
    let mut timer = Deadline::default();
    let mut attempts = Attempts::first();
    let mut tried: SmallVec<[SocketAddr; 4]> = SmallVec::new();
    let mut retrying = None;
    cluster.state().budget.deposit(Instant::now());
    loop {
        let now = Instant::now();
        if exchange.caller == Caller::Grpc && exchange.limits.deadline.is_some() {
            record.watch.before_edit(&GRPC_TIMEOUT, &head.headers);
        }
        let late = exchange.limits.deadline.is_some_and(|deadline| deadline <= now);
        if late || !forward_deadline(exchange, head, now) {
            return Err(if record.attempts == 0 { Reason::Deadline } else { Reason::Timeout }.into());
        }
        let mut one = One::begin(exchange, replay, &tried, record, now)?;
        tried.push(one.permit.member().state.address);
        let body = replay.map_or(Body::Empty, Replay::attempt);
        let tried_once = {
            let mut sending = pin!(one::send(exchange, (&one.permit, one.preference), head, body, interim));
            poll_fn(|cx| match sending.as_mut().poll(cx) {
                Poll::Ready(end) => Poll::Ready(end),
                Poll::Pending => poll_limits(cx, &mut one.patience, &mut timer, record, head),
            })
            .await
        };
        let now = Instant::now();
        let permit = one.end(exchange, &tried_once, record, now);
        let overall_over = exchange.limits.deadline.is_some_and(|deadline| deadline <= now);
        let verdict = match classify(&tried_once, exchange.caller) {
            Some(outcome) if !overall_over => {
                let kept = match replay.is_none_or(Replay::is_whole) {
                    true => retry::Replay::Whole,
                    false => retry::Replay::Lost,
                };
                let request = Repeatable { replay: kept, idempotency };
                Some(retry::decide(policy, &attempts, request, outcome))
            }
            _ => None,
        };
        if let Some(verdict @ (Verdict::RetryFree | Verdict::RetryCharged { .. })) = verdict
            && let Some(slot) = RetrySlot::enter(cluster, retrying.take(), verdict, Instant::now())
        {
            retrying = Some(slot);
            attempts.record(verdict);
            cluster.state().metrics.retried();
            drop((permit, tried_once));
            pause(exchange, verdict, &mut timer).await;
            continue;
        }
        return conclude(tried_once, overall_over).map(|response| (response, permit));
    }
}

/// Ready when the attempt must be given up.
fn poll_limits(
    cx: &mut Context<'_>,
    patience: &mut Patience<'_>,
    timer: &mut Deadline,
    record: &mut Record,
    head: &RequestHead,
) -> Poll<Try> {
    loop {
        if record.watch.poll_ended(cx).is_some() {
            record.note_ended();
            return Poll::Ready(Try::Denied);
        }
        let until = patience.until();
        match record.watch.due().filter(|due| until.is_none_or(|until| *due < until)) {
            Some(due) => {
                ready!(timer.poll(cx, due));
                record.enter_watch(Some(head));
            }
            None => return timer.poll_opt(cx, until).map(|()| patience.over()),
        }
    }
}

/// Tells the next hop how much time is left of a gRPC call; false when none is.
fn forward_deadline(exchange: &Exchange<'_>, head: &mut RequestHead, now: Instant) -> bool {
    if exchange.caller == Caller::Http {
        return true;
    }
    match deadline::forward(exchange.limits.deadline, now) {
        Forwarded::Unlimited => true,
        Forwarded::Timeout(mut value) => {
            // Each is different: not for HPACK's table.
            value.set_sensitive(true);
            head.headers.insert(GRPC_TIMEOUT, value);
            true
        }
        Forwarded::Expired => false,
    }
}

/// Waits before a retry of something that was sent; what was never sent is tried again at once.
async fn pause(exchange: &Exchange<'_>, verdict: Verdict, timer: &mut Deadline) {
    let Verdict::RetryCharged { step } = verdict else { return };
    let wait = with_random(|random| retry::backoff(&exchange.rule.retry, step, random.next_u64()));
    let mut until = Instant::now() + wait;
    if let Some(deadline) = exchange.limits.deadline {
        until = until.min(deadline);
    }
    poll_fn(|cx| timer.poll(cx, until)).await;
}

#[cfg(test)]
mod simulation;
