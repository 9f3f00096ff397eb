//! Copies of requests that are sent elsewhere, to see how somebody else would do. Nothing waits for them, nothing of
//! their answers is used, and none is sent twice. What would make a copy cost the request something (a mirror that is
//! slower, too many on the way) makes the copy be given up.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use http::Method;
use http::header::{EXPECT, HeaderName, HeaderValue};
use outrigger_config::model::Criticality;

use super::local::{Caller, grpc_status};
use super::with_random;
use crate::base::timer::Deadline;
use crate::base::{limits, task};
use crate::codec::tee::tee;
use crate::codec::{Body, BodyError, Frame, Interim, PollBody as _, RequestHead, SendErrorKind};
use crate::policy::fault::falls_into;
use crate::snapshot::Mirroring;
use crate::telemetry::metrics::{AttemptOutcome, Mirrored};
use crate::upstream::pool::Preference;
use crate::upstream::{Applicant, Cluster, LeaseError, Outcome, Permit, PickHint};

/// Says in a copy that it is one. A copy is not copied again.
pub(super) const MIRROR: HeaderName = HeaderName::from_static("x-outrigger-mirror");

/// Sends the copies of a request that its rule asks for, and gives its body back. `caller` tells callers apart.
pub(super) fn send_copies(mirrors: &[Mirroring], head: &RequestHead, mut body: Body, caller: u64) -> Body {
    if mirrors.is_empty() || head.headers.contains_key(MIRROR) || head.method == Method::CONNECT {
        return body;
    }
    for mirror in mirrors {
        if !with_random(|random| falls_into(mirror.share, random)) {
            continue;
        }
        let Some(flight) = Flight::begin(mirror) else {
            mirror.metrics.mirrored(Mirrored::LeftOut);
            continue;
        };
        let (original, copy) = tee(body, &mirror.cluster.state().mirrors.room);
        body = original;
        task::spawn("mirror", flight.end(copy_of(head), copy, caller));
    }
    body
}

/// A copy on its way. Counted at its end, however it ends.
struct Flight {
    mirror: Mirroring,
    what: Mirrored,
}

impl Flight {
    fn begin(mirror: &Mirroring) -> Option<Self> {
        let state = mirror.cluster.state();
        state.mirrors.in_flight.try_acquire(limits::MIRRORS_IN_FLIGHT).then(|| {
            mirror.metrics.began();
            Self { mirror: mirror.clone(), what: Mirrored::GivenUp }
        })
    }

    /// Sends it and reads its answer to the end, within a time.
    async fn end(mut self, head: RequestHead, body: Body, caller: u64) {
        let until = Instant::now() + limits::MIRROR_TIME;
        let cluster = Arc::clone(&self.mirror.cluster);
        let mut timer = Deadline::default();
        let applicant = Applicant { class: Criticality::Sheddable, caller, deadline: Some(until) };
        let mut sending = pin!(send(&cluster, head, body, applicant));
        self.what = poll_fn(|cx| match sending.as_mut().poll(cx) {
            Poll::Ready(what) => Poll::Ready(what),
            Poll::Pending => timer.poll(cx, until).map(|()| Mirrored::Timeout),
        })
        .await;
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.mirror.cluster.state().mirrors.in_flight.release();
        self.mirror.metrics.ended(self.what);
    }
}

fn copy_of(head: &RequestHead) -> RequestHead {
    let mut head = head.clone();
    // Nobody waits to be told to send the body.
    head.headers.remove(EXPECT);
    head.headers.insert(MIRROR, HeaderValue::from_static("1"));
    head
}

async fn send(cluster: &Arc<Cluster>, head: RequestHead, body: Body, applicant: Applicant) -> Mirrored {
    let Ok(place) = cluster.admit(applicant, Instant::now()).await else { return Mirrored::Refused };
    let picked = with_random(|random| cluster.pick(&PickHint::default(), random, Instant::now()));
    let Ok(permit) = picked else { return Mirrored::Refused };
    let permit = permit.holding(place);
    if !body.is_end() {
        permit.uploads();
    }
    let mut uncounted = Uncounted { cluster, outcome: Some(AttemptOutcome::Cancelled) };
    let (outcome, what) = exchange(cluster, &permit, &head, body).await;
    uncounted.outcome = outcome;
    what
}

/// Counts the attempt at its end. One that is dropped before was given up.
struct Uncounted<'a> {
    cluster: &'a Cluster,
    outcome: Option<AttemptOutcome>,
}

impl Drop for Uncounted<'_> {
    fn drop(&mut self) {
        if let Some(outcome) = self.outcome {
            self.cluster.state().metrics.attempted(outcome);
        }
    }
}

async fn exchange(
    cluster: &Cluster,
    permit: &Permit,
    head: &RequestHead,
    body: Body,
) -> (Option<AttemptOutcome>, Mirrored) {
    let broken = |outcome| {
        permit.report(Outcome::Broken, Instant::now());
        (Some(outcome), Mirrored::Failed)
    };
    let lease = match cluster.lease(permit.member(), head.version, Preference::Any).await {
        Ok(lease) => lease,
        Err(LeaseError::Overflow(kind)) => {
            cluster.state().metrics.overflowed(kind);
            return (None, Mirrored::Refused);
        }
        Err(LeaseError::Connect(SendErrorKind::ConnectTimeout)) => return broken(AttemptOutcome::ConnectTimeout),
        Err(LeaseError::Connect(_) | LeaseError::Retired) => return broken(AttemptOutcome::ConnectFailure),
    };
    let response = match lease.send(head, body, &Nobody).await {
        Ok(response) => response,
        Err(error) => {
            return match error.kind {
                SendErrorKind::RequestBody(_) => (Some(AttemptOutcome::Cancelled), Mirrored::GivenUp),
                SendErrorKind::Refused | SendErrorKind::NoExtendedConnect | SendErrorKind::HeadTooLarge => {
                    (Some(AttemptOutcome::Refused), Mirrored::Failed)
                }
                SendErrorKind::BadResponse(_) => broken(AttemptOutcome::Invalid),
                SendErrorKind::Handshake { code, detail } => {
                    cluster.refused_by(permit.member(), code, &detail);
                    broken(AttemptOutcome::ConnectFailure)
                }
                SendErrorKind::Connect(_) | SendErrorKind::ConnectTimeout => broken(AttemptOutcome::ConnectFailure),
                SendErrorKind::PathLost => (Some(AttemptOutcome::Reset), Mirrored::Failed),
                // A kept connection that the server closed meanwhile says nothing about the server.
                SendErrorKind::Reset(_) | SendErrorKind::Closed | SendErrorKind::Io(_) if error.reused => {
                    (Some(AttemptOutcome::Reset), Mirrored::Failed)
                }
                SendErrorKind::Reset(_) | SendErrorKind::Closed | SendErrorKind::Io(_) => broken(AttemptOutcome::Reset),
            };
        }
    };
    let now = Instant::now();
    let latency = now.saturating_duration_since(permit.started());
    let status = response.head.status.as_u16();
    let caller = Caller::of(&response.head.headers);
    let grpc = grpc_status(&response.head.headers).filter(|_| caller == Caller::Grpc);
    if caller == Caller::Http || grpc.is_some() {
        let grpc = grpc.and_then(Outcome::of_grpc_failure);
        permit.report(grpc.unwrap_or_else(|| Outcome::of_status(status, latency)), now);
    } else {
        permit.report(Outcome::Answering(latency), now);
    }
    let ended = read(response.body).await;
    match ended {
        Ok(trailers) => {
            if caller == Caller::Grpc && grpc.is_none() {
                permit.report(trailers.and_then(Outcome::of_grpc_failure).unwrap_or(Outcome::Done), Instant::now());
            }
            let failed = status >= 500 || grpc.or(trailers).and_then(Outcome::of_grpc_failure).is_some();
            let outcome = if failed { AttemptOutcome::ServerError } else { AttemptOutcome::Success };
            (Some(outcome), Mirrored::Answered)
        }
        Err(BodyError::Abandoned) => (Some(AttemptOutcome::Cancelled), Mirrored::GivenUp),
        Err(_) => broken(AttemptOutcome::Reset),
    }
}

/// Reads an answer and throws it away. Gives the gRPC status in its trailers.
async fn read(mut body: Body) -> Result<Option<u8>, BodyError> {
    while let Some(frame) = poll_fn(|cx| body.poll_frame(cx)).await {
        if let Frame::Trailers(trailers) = frame? {
            return Ok(grpc_status(&trailers));
        }
    }
    Ok(None)
}

/// Hears what a server says before its answer.
struct Nobody;

impl Interim for Nobody {
    fn send(&self, _: http::StatusCode, _: &http::HeaderMap) {}
}
