//! The attempts of one request: the loop. An attempt is picked, leased and sent in `one`, within its `patience`; the
//! head of its answer may be held in `hold`. Its end is evidence in `judge`, and a reason to try again, or none, in
//! `classify`; whether it is tried `again` depends on the rule, the time left and a `slot`. What the last attempt
//! comes to is said in `conclude`, and to other proxies in `marks`.

mod again;
mod carried;
mod classify;
mod conclude;
mod forward;
pub(super) mod hedge;
mod hold;
mod judge;
pub(super) mod marks;
mod one;
mod patience;
mod slot;

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use http::StatusCode;
use outrigger_config::model;
use smallvec::SmallVec;

use self::again::Again;
pub(super) use self::carried::{Carried, CarriedField};
use self::conclude::conclude;
use self::forward::forward_deadline;
pub(super) use self::forward::{DEADLINE, EXPECTED, TimeField};
use self::hedge::{First, Gate, Hedges, Hedging, Led, Plan};
use self::marks::Spent;
use self::one::{One, Try};
use self::patience::Patience;
use super::local::Caller;
use super::reason::Reason;
use super::record::Record;
use super::tracked::Limits;
use crate::base::timer::Deadline;
use crate::codec::{Body, Interim, PollBody, Replay, RequestHead, Response, WayUp};
use crate::telemetry::metrics::BreakerScope;
use crate::upstream::{Cluster, Permit, PickHint};

/// What stays the same over all attempts.
pub(super) struct Exchange<'a> {
    pub(super) cluster: &'a Arc<Cluster>,
    pub(super) rule: &'a model::Rule,
    pub(super) limits: Limits,
    /// Of one attempt, to its response head.
    pub(super) attempt_limit: Option<Duration>,
    /// What the request had of the fields about these limits, and about attempts.
    pub(super) carried: Carried,
    pub(super) caller: Caller,
    /// How attempts are made beside each other, if at all.
    pub(super) hedging: Option<Hedging<'a>>,
    /// What bears on the choice of an endpoint, beside the attempts before.
    pub(super) hint: PickHint<'a>,
    /// What goes up the tunnel that is asked for.
    pub(super) tunnel: Option<&'a WayUp>,
    /// We have said that the request may be early: that it is too early for a server is no answer yet.
    pub(super) early: bool,
}

impl Exchange<'_> {
    /// Time for further attempts: to the deadline, or where there is none to the end of the default limit, counted
    /// from when the request `began` or its upload ended.
    fn time_left(&self, began: Instant, now: Instant) -> Option<Duration> {
        let end = self.limits.answer_until().or_else(|| self.limits.answer.map(|answer| began + answer));
        end.map(|end| end.saturating_duration_since(now))
    }
}

/// An answer, of the last attempt.
pub(super) struct Answered {
    pub(super) response: Response<Body>,
    pub(super) permit: Permit,
    /// When it came.
    pub(super) at: Instant,
}

/// No answer could be had.
pub(super) struct Failure {
    pub(super) reason: Reason,
    pub(super) details: &'static str,
    /// Where the reason's own does not say it well.
    pub(super) status: Option<StatusCode>,
    /// When it is worth asking again.
    pub(super) retry_after: Option<Duration>,
    /// It was tried again, or could not be.
    pub(super) retried: Option<Spent>,
}

impl From<Reason> for Failure {
    fn from(reason: Reason) -> Self {
        Self { reason, details: "", status: None, retry_after: None, retried: None }
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

/// Sends a request until it is answered, or there is no answer to be had; `now` is when that begins. Dropping the future
/// cancels what is under way upstream at once.
pub(super) async fn run(
    exchange: &Exchange<'_>,
    head: &mut RequestHead,
    body: Body,
    interim: &dyn Interim,
    record: &mut Record,
    now: Instant,
) -> Result<Answered, Failure> {
    let replay = (!body.is_end()).then(|| Replay::new(body, exchange.rule.retry.buffer as usize));
    if let Some(replay) = &replay {
        record.note_upload(replay);
    }
    let answer = attempt_all(exchange, head, replay.as_ref(), interim, record, now).await;
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
    mut now: Instant,
) -> Result<Answered, Failure> {
    let mut again = Again::first(exchange, head);
    // A session stays with its endpoint also when that is slow.
    let hedging = exchange.hedging.filter(|_| exchange.hint.bound.is_none());
    let mut timer = Deadline::default();
    let mut tried: SmallVec<[SocketAddr; 4]> = SmallVec::new();
    again.count(now);
    loop {
        if !forward_deadline(exchange, &mut head.headers, Some(&mut record.watch), now) {
            let reason = if record.attempts == 0 { Reason::Deadline } else { Reason::Timeout };
            return Err(Failure { retried: again.spent_on_failure(), ..reason.into() });
        }
        again.stamp(exchange, head, 0, record);
        let hold = exchange.caller == Caller::Grpc && again.holds(replay);
        let mut one = match One::begin(exchange, (replay, hold), &tried, record, now) {
            Ok(one) => one,
            Err(failure) => return Err(Failure { retried: again.spent_on_failure(), ..failure }),
        };
        tried.push(one.address());
        let (tried_once, permit) = {
            let hedging = hedging.filter(|hedging| again.may_hedge(hedging.hedge.max));
            let mut hedges = Hedges::new(Plan { exchange, hedging, head, replay, hold, interim }, now);
            let gate = Gate::new(interim);
            one.in_vain = hedges.in_vain();
            let led = {
                let body = match exchange.tunnel {
                    Some(up) => up.attempt(),
                    None => replay.map_or(Body::Empty, Replay::attempt),
                };
                let mut sending = pin!(one::send(exchange, &one.sending, head, body, &gate));
                poll_fn(|cx| match sending.as_mut().poll(cx) {
                    Poll::Ready(end) => Poll::Ready(Led::Ended(end)),
                    Poll::Pending => {
                        let (patience, in_vain, held) = (&mut one.patience, &mut one.in_vain, one.sending.is_held());
                        let first = First { patience, held, in_vain, gate: &gate };
                        hedges.poll(cx, Some(first), (&mut timer, &mut tried), (&mut again, record))
                    }
                })
                .await
            };
            now = Instant::now();
            match led {
                Led::Outrun(end) => {
                    drop(one);
                    *end
                }
                Led::Ended(end) => {
                    let permit = one.end(exchange, &end, record, now);
                    if hedges.are_under_way() {
                        let rest = hedges.rest((end, permit), &gate, (&mut timer, &mut tried), (&mut again, record));
                        let end = Box::pin(rest).await;
                        now = Instant::now();
                        end
                    } else {
                        (end, permit)
                    }
                }
            }
        };
        let tried_once = match tried_once {
            Try::Late if record.attempts > 1 => Try::TimedOut,
            ended => ended,
        };
        if let Some(wait) = again.after(exchange, (&tried_once, &permit), replay, record, now) {
            judge::discard(&permit, &tried_once, now);
            drop((permit, tried_once));
            pause(wait, &mut timer).await;
            now = Instant::now();
            continue;
        }
        let overall_over = exchange.limits.is_late(now);
        let mut end = conclude(tried_once, overall_over);
        if let Some(spent) = if end.is_ok() { again.spent() } else { again.spent_on_failure() } {
            marks::mark_end(&mut end, spent);
        }
        return end.map(|response| Answered { response, permit, at: now });
    }
}

/// Ready when an attempt with this patience must be given up; with `None` when another is `due` beside it.
fn poll_limits(
    cx: &mut Context<'_>,
    mut own: Option<(&mut Patience<'_>, bool)>,
    due: Option<Instant>,
    timer: &mut Deadline,
    record: &mut Record,
    head: &RequestHead,
) -> Poll<Option<Try>> {
    loop {
        if record.watch.poll_ended(cx).is_some() {
            record.note_ended();
            return Poll::Ready(Some(Try::Denied));
        }
        let until = own.as_mut().and_then(|(patience, held)| patience.until(*held));
        let due = due.filter(|due| until.is_none_or(|until| *due < until));
        let next = due.or(until);
        match record.watch.due().filter(|watched| next.is_none_or(|next| *watched < next)) {
            Some(watched) => {
                ready!(timer.poll(cx, watched));
                record.enter_watch(Some(head));
            }
            None => {
                ready!(timer.poll_opt(cx, next));
                return Poll::Ready(own.filter(|_| due.is_none()).map(|(patience, held)| patience.over(held)));
            }
        }
    }
}

/// Waits before a retry. A retry of what was never sent waits for nothing.
async fn pause(wait: Duration, timer: &mut Deadline) {
    if wait.is_zero() {
        return;
    }
    let until = Instant::now() + wait;
    poll_fn(|cx| timer.poll(cx, until)).await;
}

#[cfg(test)]
mod simulation;
