//! The attempts of one request: pick, lease, send, classify, decide.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::header::{HeaderName, HeaderValue};
use http::Version;
use outrigger_config::model::{self, ClusterProtocol};
use smallvec::SmallVec;

use super::local::{Caller, grpc_status};
use super::reason::Reason;
use super::record::Record;
use super::tracked::{Limits, is_server_failure};
use super::with_random;
use crate::base::timer::Deadline;
use crate::codec::{Body, Interim, PollBody, Replay, RequestHead, Response, SendError, SendErrorKind, Sent};
use crate::policy::deadline;
use crate::policy::retry::{self, Attempts, Verdict};
use crate::telemetry::metrics::AttemptOutcome;
use crate::upstream::pool::{Ceilings, Wire};
use crate::upstream::{Cluster, LeaseError, Outcome, Overflow, Permit, PickError};

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// What stays the same over all attempts.
pub(super) struct Exchange<'a> {
    pub(super) cluster: &'a Arc<Cluster>,
    pub(super) rule: &'a model::Rule,
    pub(super) limits: Limits,
    pub(super) caller: Caller,
}

/// No answer could be had.
pub(super) struct Failure {
    pub(super) reason: Reason,
    pub(super) details: &'static str,
}

impl From<Reason> for Failure {
    fn from(reason: Reason) -> Self {
        Self { reason, details: "" }
    }
}

/// How one attempt ended.
enum Try {
    Answered(Response<Body>),
    Lease(LeaseError),
    Send(SendError),
    /// The limit of one attempt, or of the request, ran out.
    TimedOut,
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
    let cluster = exchange.cluster;
    let policy = &exchange.rule.retry;
    let idempotent = retry::is_idempotent(&head.method);
    let mut timer = Deadline::default();
    let mut attempts = Attempts::default();
    let mut tried: SmallVec<[std::net::SocketAddr; 4]> = SmallVec::new();
    let replay = (!body.is_end()).then(|| Replay::new(body));
    if let Some(replay) = &replay {
        record.note_upload(replay);
    }
    let mut retrying = None;
    cluster.state().budget.deposit(Instant::now());
    loop {
        let now = Instant::now();
        if exchange.limits.deadline.is_some_and(|deadline| deadline <= now) {
            return Err(if record.attempts == 0 { Reason::Deadline } else { Reason::Timeout }.into());
        }
        forward_deadline(exchange, head, now);
        let permit = match with_random(|random| cluster.pick(&tried, random, now)) {
            Ok(permit) => permit,
            Err(PickError::NoEndpoint) => return Err(Reason::NoEndpoint.into()),
            Err(PickError::Overflow) => {
                cluster.state().metrics.overflowed(Overflow::Requests.into());
                return Err(Reason::Overflow.into());
            }
        };
        record.attempts += 1;
        record.upstream_host = Some(permit.member().state.address);
        tried.push(permit.member().state.address);
        let body = replay.as_ref().map_or(Body::Empty, Replay::attempt);
        let per_try = exchange.rule.timeouts.backend_request.value.map(|limit| now + limit);
        let until = match (per_try, exchange.limits.deadline) {
            (Some(one), Some(all)) => Some(one.min(all)),
            (one, all) => one.or(all),
        };
        let tried_once = {
            let mut sending = pin!(send_once(cluster, &permit, head, body, interim));
            poll_fn(|cx| match sending.as_mut().poll(cx) {
                Poll::Ready(end) => Poll::Ready(end),
                Poll::Pending => timer.poll_opt(cx, until).map(|()| Try::TimedOut),
            })
            .await
        };
        let latency = permit.started().elapsed();
        record.upstream_time = Some(latency);
        note(cluster, &permit, &tried_once, exchange.caller, latency);
        let overall_over = exchange.limits.deadline.is_some_and(|deadline| deadline <= Instant::now());
        let outcome = classify(&tried_once, exchange.caller);
        let replayable = replay.as_ref().is_none_or(Replay::is_whole);
        let verdict = match outcome {
            Some(outcome) if !overall_over => {
                retry::decide(policy, &attempts, outcome, retry::Request { replayable, idempotent })
            }
            _ => Verdict::Done,
        };
        if let Verdict::Retry(kind) = verdict
            && let Some(slot) = RetrySlot::enter(cluster, kind)
        {
            drop(retrying.replace(slot));
            attempts.note(kind);
            cluster.state().metrics.retried();
            drop(permit);
            drop(tried_once);
            pause(exchange, &attempts, kind, &mut timer).await;
            continue;
        }
        if let Some(replay) = &replay {
            replay.commit();
        }
        return conclude(tried_once, overall_over).map(|response| (response, permit));
    }
}

async fn send_once(
    cluster: &Cluster,
    permit: &Permit,
    head: &RequestHead,
    body: Body,
    interim: &dyn Interim,
) -> Try {
    let config = cluster.config();
    let wire = match (config.protocol, head.version) {
        (ClusterProtocol::Http2, _) | (ClusterProtocol::Auto, Version::HTTP_2) => Wire::Http2,
        (ClusterProtocol::Http1 | ClusterProtocol::Auto, _) => Wire::Http1,
    };
    let ceilings =
        Ceilings { pending: config.ceilings.max_pending, connections: config.ceilings.max_connections };
    match permit.member().pool.lease(wire, ceilings).await {
        Err(error) => Try::Lease(error),
        Ok(lease) => match lease.send(head, body, interim).await {
            Ok(response) => Try::Answered(response),
            Err(error) => Try::Send(error),
        },
    }
}

/// Tells the next hop how much time is left of a gRPC call.
fn forward_deadline(exchange: &Exchange<'_>, head: &mut RequestHead, now: Instant) {
    if exchange.caller != Caller::Grpc {
        return;
    }
    if let Some(deadline) = exchange.limits.deadline
        && let Some(text) = deadline::format(deadline.saturating_duration_since(now))
        && let Ok(value) = HeaderValue::try_from(text)
    {
        head.headers.insert(GRPC_TIMEOUT, value);
    }
}

/// Evidence about the endpoint, and the cluster's numbers. Our own limits and the caller's faults are none.
fn note(cluster: &Cluster, permit: &Permit, tried: &Try, caller: Caller, latency: Duration) {
    let now = permit.started() + latency;
    let counted = match tried {
        Try::Answered(response) => {
            let status = response.head.status.as_u16();
            let grpc = match caller {
                Caller::Grpc => grpc_status(&response.head.headers),
                Caller::Http => None,
            };
            let failed = status >= 500 || grpc.is_some_and(is_server_failure);
            if failed || status == 429 {
                permit.report(Outcome::Failure, now);
            } else {
                permit.report(Outcome::Success(latency), now);
            }
            if failed { AttemptOutcome::ServerError } else { AttemptOutcome::Success }
        }
        Try::Lease(LeaseError::Overflow(kind)) => {
            cluster.state().metrics.overflowed((*kind).into());
            return;
        }
        Try::Lease(LeaseError::Connect(SendErrorKind::ConnectTimeout)) => {
            permit.report(Outcome::Broken, now);
            AttemptOutcome::ConnectTimeout
        }
        Try::Lease(LeaseError::Connect(_)) => {
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
                Some(status) => retry::Outcome::Grpc(status),
                None => retry::Outcome::Status(response.head.status.as_u16()),
            })
        }
        Try::Lease(LeaseError::Overflow(_)) => None,
        Try::Lease(LeaseError::Connect(_)) => Some(retry::Outcome::ConnectFailure),
        Try::Send(SendError { kind: SendErrorKind::RequestBody(_), .. }) => None,
        Try::Send(SendError { kind: SendErrorKind::Refused, .. }) => Some(retry::Outcome::Refused),
        Try::Send(SendError { sent: Sent::Never, .. }) => Some(retry::Outcome::NeverSent),
        Try::Send(SendError { kind: SendErrorKind::BadResponse(_), .. }) => Some(retry::Outcome::MaybeSent),
        Try::Send(SendError { reused: true, .. }) => Some(retry::Outcome::StaleConnection),
        Try::Send(_) => Some(retry::Outcome::MaybeSent),
        Try::TimedOut => Some(retry::Outcome::TryTimeout),
    }
}

/// A retry in flight: held until the next one or the end, so that retries have a ceiling.
struct RetrySlot(Arc<Cluster>);

impl RetrySlot {
    /// Room for one more retry: the ceiling, and the budget unless the retry is a free one.
    fn enter(cluster: &Arc<Cluster>, kind: retry::Kind) -> Option<Self> {
        let state = cluster.state();
        if !state.retries.try_acquire(cluster.config().ceilings.max_retries) {
            state.metrics.overflowed(Overflow::Retries.into());
            return None;
        }
        let slot = Self(Arc::clone(cluster));
        let budget = cluster.config().retry_budget;
        if kind.is_budgeted() && !state.budget.try_withdraw(&budget, Instant::now()) {
            state.metrics.retry_budget_exhausted();
            return None;
        }
        Some(slot)
    }
}

impl Drop for RetrySlot {
    fn drop(&mut self) {
        self.0.state().retries.release();
    }
}

/// Waits before a retry of something that was sent; what was never sent is tried again at once.
async fn pause(exchange: &Exchange<'_>, attempts: &Attempts, kind: retry::Kind, timer: &mut Deadline) {
    if !kind.backs_off() {
        return;
    }
    let wait = with_random(|random| retry::backoff(&exchange.rule.retry, attempts, random.next_u64()));
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
        Try::Lease(LeaseError::Overflow(_)) => Reason::Overflow,
        Try::Lease(LeaseError::Connect(_)) => Reason::ConnectFailure,
        Try::Send(error) => match error.kind {
            SendErrorKind::Connect(_) | SendErrorKind::ConnectTimeout => Reason::ConnectFailure,
            SendErrorKind::Refused | SendErrorKind::Reset(_) => Reason::UpstreamReset,
            SendErrorKind::Closed | SendErrorKind::Io(_) => Reason::UpstreamClosed,
            SendErrorKind::BadResponse(details) => {
                return Err(Failure { reason: Reason::UpstreamProtocol, details });
            }
            SendErrorKind::RequestBody(_) => Reason::RequestBody,
        },
    };
    let details = match (reason, overall_over) {
        (Reason::Timeout, true) => "request_timeout",
        (Reason::Timeout, false) => "backend_request_timeout",
        _ => "",
    };
    Err(Failure { reason, details })
}
