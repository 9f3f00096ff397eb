//! The attempts of one request: pick, lease, send, classify, decide.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use http::header::{HeaderMap, HeaderName};
use outrigger_config::model;
use smallvec::SmallVec;

use super::local::{Caller, grpc_status};
use super::reason::Reason;
use super::record::Record;
use super::tracked::{Limits, is_server_failure};
use super::with_random;
use crate::base::timer::Deadline;
use crate::codec::{Body, Interim, PollBody, Replay, RequestHead, Response, SendError, SendErrorKind, Sent};
use crate::policy::deadline::{self, Forwarded};
use crate::policy::retry::{
    self, Attempts, Idempotency, MaybeSent, NeverSent, Pushback, Repeatable, Verdict, parse_grpc_pushback,
};
use crate::telemetry::metrics::AttemptOutcome;
use crate::upstream::pool::Preference;
use crate::upstream::{Cluster, Lease, LeaseError, Outcome, Overflow, Permit, PickError, PickHint};

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

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

/// How one attempt ended.
enum Try {
    Answered(Response<Body>),
    Lease(LeaseError),
    Send(SendError),
    /// The limit of one attempt, or of the request, ran out.
    TimedOut,
    /// The upload stood still for too long, whoever's fault it was.
    Stalled,
    /// The caller may no longer do this.
    Denied,
}

/// An attempt that is not counted yet. Dropping it means that the caller has left.
struct Uncounted<'a>(&'a Cluster);

impl Drop for Uncounted<'_> {
    fn drop(&mut self) {
        self.0.state().metrics.attempted(AttemptOutcome::Cancelled);
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
    let mut tried: SmallVec<[std::net::SocketAddr; 4]> = SmallVec::new();
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
        let hint = PickHint { tried: &tried, ..PickHint::default() };
        let permit = match with_random(|random| cluster.pick(&hint, random, now)) {
            Ok(permit) => permit,
            Err(PickError::NoEndpoint) => return Err(Reason::NoEndpoint.into()),
            Err(PickError::Open { retry_after }) => {
                let open = Failure { retry_after: Some(retry_after), ..Reason::BreakerOpen.into() };
                return Err(Failure { details: "breaker_endpoint", ..open });
            }
            Err(PickError::Overflow) => {
                cluster.state().metrics.overflowed(Overflow::Requests);
                return Err(Reason::Overflow.into());
            }
        };
        record.attempts += 1;
        record.upstream_host = Some(permit.member().state.address);
        tried.push(permit.member().state.address);
        let body = replay.map_or(Body::Empty, Replay::attempt);
        let mut patience = Patience::new(exchange, replay, now);
        let uncounted = Uncounted(cluster);
        let tried_once = {
            // What went wrong with one kept connection may be wrong with the others.
            let preference = if record.attempts > 1 { Preference::Young } else { Preference::Any };
            let leasing = cluster.lease(permit.member(), head.version, preference);
            let mut sending = pin!(send_once(leasing, head, body, interim));
            poll_fn(|cx| match sending.as_mut().poll(cx) {
                Poll::Ready(end) => Poll::Ready(end),
                Poll::Pending => poll_limits(cx, &mut patience, &mut timer, record, head),
            })
            .await
        };
        std::mem::forget(uncounted);
        let now = Instant::now();
        record.upstream_time = Some(now.saturating_duration_since(permit.started()));
        note(cluster, &permit, &tried_once, exchange.caller, patience.answered_after(now), now);
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

/// How long one attempt may take to its response head.
struct Patience<'a> {
    /// The limits that run from a fixed moment.
    fixed: Option<Instant>,
    /// The default limit: it runs from the end of the upload, so that a long upload is not cut.
    answer: Option<Duration>,
    /// While the upload goes on: it must not stand still for longer.
    idle: Option<Duration>,
    upload: Option<&'a Replay>,
    began: Instant,
    received: u64,
    moved: Instant,
}

impl<'a> Patience<'a> {
    fn new(exchange: &Exchange<'_>, upload: Option<&'a Replay>, now: Instant) -> Self {
        let one = exchange.attempt_limit.map(|limit| now + limit);
        Self {
            fixed: earlier(one, exchange.limits.deadline),
            answer: exchange.limits.answer,
            idle: exchange.limits.idle,
            upload,
            began: now,
            received: 0,
            moved: now,
        }
    }

    fn until(&mut self) -> Option<Instant> {
        let Some(upload) = self.upload else {
            return earlier(self.fixed, self.answer.map(|answer| self.began + answer));
        };
        let soft = match upload.ended() {
            Some(ended) => self.answer.map(|answer| ended.max(self.began) + answer),
            None => {
                let received = upload.received();
                if received != self.received {
                    self.received = received;
                    self.moved = Instant::now();
                }
                self.idle.map(|idle| self.moved + idle)
            }
        };
        earlier(self.fixed, soft)
    }

    /// What it means that [`Patience::until`] has passed.
    fn over(&self) -> Try {
        let uploading = self.upload.is_some_and(|upload| upload.ended().is_none());
        let stalled = uploading && self.fixed.is_none_or(|fixed| Instant::now() < fixed);
        if stalled { Try::Stalled } else { Try::TimedOut }
    }

    /// How long the upstream took to answer: not from before it had the whole request, because a caller that
    /// sends slowly must not make an endpoint look slow.
    fn answered_after(&self, now: Instant) -> Duration {
        let asked = self.upload.and_then(Replay::ended).map_or(self.began, |ended| ended.max(self.began));
        now.saturating_duration_since(asked)
    }
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

async fn send_once(
    leasing: impl Future<Output = Result<Lease, LeaseError>>,
    head: &RequestHead,
    body: Body,
    interim: &dyn Interim,
) -> Try {
    match leasing.await {
        Err(error) => Try::Lease(error),
        Ok(lease) => match lease.send(head, body, interim).await {
            Ok(response) => Try::Answered(response),
            Err(error) => Try::Send(error),
        },
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

/// Evidence about the endpoint, and the cluster's numbers. Our own limits and the caller's faults are none.
fn note(cluster: &Cluster, permit: &Permit, tried: &Try, caller: Caller, latency: Duration, now: Instant) {
    let counted = match tried {
        Try::Answered(response) => {
            let status = response.head.status.as_u16();
            let grpc = match caller {
                Caller::Grpc => grpc_status(&response.head.headers),
                Caller::Http => None,
            };
            let failed = status >= 500 || grpc.is_some_and(is_server_failure);
            let evidence = match (caller, grpc) {
                (_, Some(grpc)) => Outcome::of_grpc_failure(grpc).unwrap_or(Outcome::Success(latency)),
                // A call that has only begun: its trailers say how it went.
                (Caller::Grpc, None) if status == 200 && !response.body.is_end() => Outcome::Answering(latency),
                _ => Outcome::of_status(status, latency),
            };
            permit.report(evidence, now);
            if failed { AttemptOutcome::ServerError } else { AttemptOutcome::Success }
        }
        Try::Lease(LeaseError::Overflow(kind)) => {
            cluster.state().metrics.overflowed(*kind);
            return;
        }
        Try::Lease(LeaseError::Connect(SendErrorKind::ConnectTimeout)) => {
            permit.report(Outcome::Broken, now);
            AttemptOutcome::ConnectTimeout
        }
        Try::Lease(LeaseError::Connect(_) | LeaseError::Retired) => {
            permit.report(Outcome::Broken, now);
            AttemptOutcome::ConnectFailure
        }
        Try::Send(error) => match &error.kind {
            SendErrorKind::RequestBody(_) => AttemptOutcome::Cancelled,
            SendErrorKind::Refused => AttemptOutcome::Refused,
            SendErrorKind::BadResponse(_) => {
                permit.report(Outcome::Broken, now);
                AttemptOutcome::Invalid
            }
            SendErrorKind::Handshake { code, detail } => {
                permit.report(Outcome::Broken, now);
                // Found out by the request itself: the pool does not know.
                cluster.refused_by(permit.member(), code, detail);
                AttemptOutcome::ConnectFailure
            }
            SendErrorKind::Connect(_) | SendErrorKind::ConnectTimeout => {
                permit.report(Outcome::Broken, now);
                AttemptOutcome::ConnectFailure
            }
            SendErrorKind::Reset(_) | SendErrorKind::Closed | SendErrorKind::Io(_) => {
                // A kept connection that the server closed meanwhile says nothing about the server.
                if !error.reused {
                    permit.report(Outcome::Broken, now);
                }
                AttemptOutcome::Reset
            }
        },
        // Our own limit: no failure is counted, but the time is real, and a slow endpoint must look slow.
        Try::TimedOut => {
            permit.member().state.latency.observe(latency, now);
            AttemptOutcome::Timeout
        }
        Try::Stalled => AttemptOutcome::Timeout,
        Try::Denied => AttemptOutcome::Cancelled,
    };
    cluster.state().metrics.attempted(counted);
}

/// What the retry policy needs to know; `None` for what can never be tried again.
fn classify(tried: &Try, caller: Caller) -> Option<retry::Outcome> {
    match tried {
        Try::Answered(response) => {
            let grpc = match caller {
                Caller::Grpc => grpc_status(&response.head.headers),
                Caller::Http => None,
            };
            Some(match grpc {
                Some(_) if forbids_retry(&response.head.headers) => retry::Outcome::Forbidden,
                Some(status) => retry::Outcome::Grpc(status),
                None => retry::Outcome::Status(response.head.status.as_u16()),
            })
        }
        Try::Lease(LeaseError::Overflow(_)) => None,
        Try::Lease(LeaseError::Connect(_) | LeaseError::Retired) => {
            Some(retry::Outcome::NeverSent(NeverSent::ConnectFailure))
        }
        Try::Send(error) => match (&error.kind, error.sent) {
            (SendErrorKind::RequestBody(_), _) => None,
            (SendErrorKind::Handshake { .. }, Sent::Never) => {
                Some(retry::Outcome::NeverSent(NeverSent::ConnectFailure))
            }
            (SendErrorKind::Refused, _) => Some(retry::Outcome::NeverSent(NeverSent::Refused)),
            (_, Sent::Never) => Some(retry::Outcome::NeverSent(NeverSent::Unwritten)),
            (SendErrorKind::Closed | SendErrorKind::Io(_), Sent::Maybe) if error.reused => {
                Some(retry::Outcome::MaybeSent(MaybeSent::ReusedClosed))
            }
            (_, Sent::Maybe) => Some(retry::Outcome::MaybeSent(MaybeSent::Reset)),
        },
        Try::TimedOut => Some(retry::Outcome::MaybeSent(MaybeSent::Timeout)),
        Try::Stalled | Try::Denied => None,
    }
}

/// The server asks not to be asked again (gRFC A6).
fn forbids_retry(headers: &HeaderMap) -> bool {
    headers
        .get(PUSHBACK)
        .is_some_and(|value| value.to_str().is_ok_and(|text| parse_grpc_pushback(text) == Pushback::Never))
}

/// A retry in flight: held until the next one or the end, so that retries have a ceiling. A free one is not
/// counted: for the attempt before it the upstream did no work, and many come at once when a connection ends.
struct RetrySlot(Option<Arc<Cluster>>);

impl RetrySlot {
    /// Room for one more retry: the ceiling and the budget, unless the retry is a free one. A request that is
    /// being retried already goes on in the place it holds: one request is never two retries in flight.
    fn enter(cluster: &Arc<Cluster>, held: Option<Self>, verdict: Verdict, now: Instant) -> Option<Self> {
        if verdict == Verdict::RetryFree {
            return Some(held.unwrap_or(Self(None)));
        }
        let state = cluster.state();
        let slot = match held {
            Some(slot @ Self(Some(_))) => slot,
            _ if state.retries.try_acquire(cluster.config().ceilings.max_retries) => Self(Some(Arc::clone(cluster))),
            _ => {
                state.metrics.overflowed(Overflow::Retries);
                return None;
            }
        };
        if !state.budget.try_withdraw(cluster.config().retry_budget, now) {
            state.metrics.retry_budget_exhausted();
            return None;
        }
        Some(slot)
    }
}

impl Drop for RetrySlot {
    fn drop(&mut self) {
        if let Some(cluster) = &self.0 {
            cluster.state().retries.release();
        }
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

/// The last attempt is the answer.
fn conclude(tried: Try, overall_over: bool) -> Result<Response<Body>, Failure> {
    let reason = match tried {
        Try::Answered(response) => return Ok(response),
        Try::TimedOut => Reason::Timeout,
        Try::Stalled => Reason::Idle,
        Try::Denied => Reason::Denied,
        Try::Lease(LeaseError::Overflow(_)) => Reason::Overflow,
        Try::Lease(LeaseError::Connect(SendErrorKind::Handshake { code, .. }))
        | Try::Send(SendError { kind: SendErrorKind::Handshake { code, .. }, .. }) => {
            return Err(Failure { details: code, ..Reason::ConnectFailure.into() });
        }
        Try::Lease(LeaseError::Connect(_) | LeaseError::Retired) => Reason::ConnectFailure,
        Try::Send(error) => match error.kind {
            SendErrorKind::Handshake { .. } => Reason::ConnectFailure,
            SendErrorKind::Connect(_) | SendErrorKind::ConnectTimeout => Reason::ConnectFailure,
            SendErrorKind::Refused | SendErrorKind::Reset(_) => Reason::UpstreamReset,
            SendErrorKind::Closed | SendErrorKind::Io(_) => Reason::UpstreamClosed,
            SendErrorKind::BadResponse(details) => {
                return Err(Failure { details, ..Reason::UpstreamProtocol.into() });
            }
            SendErrorKind::RequestBody(_) => Reason::RequestBody,
        },
    };
    let details = match (reason, overall_over) {
        (Reason::Timeout, true) => "request_timeout",
        (Reason::Timeout, false) => "backend_request_timeout",
        _ => "",
    };
    Err(Failure { details, ..reason.into() })
}

#[cfg(test)]
mod simulation;
