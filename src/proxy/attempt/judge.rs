//! What the end of an attempt says about its endpoint, and what is counted of it.

use std::time::{Duration, Instant};

use http::StatusCode;
use http::header::CONTENT_TYPE;

use super::classify::pushback;
use super::one::Try;
use crate::codec::{Body, PollBody, Response, SendErrorKind};
use crate::proxy::local::{Caller, grpc_status};
use crate::proxy::tracked::is_server_failure;
use crate::telemetry::metrics::AttemptOutcome;
use crate::upstream::{Cluster, LeaseError, Outcome, Permit};

/// Evidence about the endpoint, and the cluster's numbers. Our own limits and the caller's faults are none.
pub(super) fn note(cluster: &Cluster, permit: &Permit, tried: &Try, caller: Caller, latency: Duration, now: Instant) {
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
                _ => match Outcome::of_status(status, latency) {
                    // An endpoint that always breaks off within its answers is no good endpoint.
                    // One of events may be silent for hours, and is good when it begins.
                    Outcome::Success(latency) if !response.body.is_end() && !is_events(response) => {
                        Outcome::Answering(latency)
                    }
                    outcome => outcome,
                },
            };
            permit.report(evidence, now);
            if failed { AttemptOutcome::ServerError } else { AttemptOutcome::Success }
        }
        // Its status is evidence when the trailers are passed on, or given up: see `discard`.
        Try::Ended(ended) => {
            permit.report(Outcome::Answering(latency), now);
            match grpc_status(&ended.trailers).is_some_and(is_server_failure) {
                true => AttemptOutcome::ServerError,
                false => AttemptOutcome::Success,
            }
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
            SendErrorKind::Refused | SendErrorKind::NoExtendedConnect | SendErrorKind::HeadTooLarge => {
                AttemptOutcome::Refused
            }
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
            SendErrorKind::PathLost => AttemptOutcome::Reset,
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
            // It was sent: waiting for a connection is no answer that takes long.
            if !latency.is_zero() {
                permit.unanswered(latency, now);
            }
            AttemptOutcome::Timeout
        }
        Try::Late | Try::Stalled => AttemptOutcome::Timeout,
        Try::Denied => AttemptOutcome::Cancelled,
    };
    cluster.state().metrics.attempted(counted);
    if counted == AttemptOutcome::ServerError || is_busy(tried) {
        note_pushback(permit, tried, caller, now);
    }
}

/// An answer is not passed on, because the request is tried again.
pub(super) fn discard(permit: &Permit, tried: &Try, now: Instant) {
    if let Try::Ended(ended) = tried {
        let evidence = grpc_status(&ended.trailers).and_then(Outcome::of_grpc_failure).unwrap_or(Outcome::Done);
        permit.report(evidence, now);
    } else {
        permit.answered(now);
    }
}

fn is_events(response: &Response<Body>) -> bool {
    let kind = response.head.headers.get(CONTENT_TYPE);
    kind.and_then(|kind| kind.as_bytes().get(..EVENTS.len())).is_some_and(|kind| kind.eq_ignore_ascii_case(EVENTS))
}

fn is_busy(tried: &Try) -> bool {
    matches!(tried, Try::Answered(response) if response.head.status == StatusCode::TOO_MANY_REQUESTS)
}

const EVENTS: &[u8] = b"text/event-stream";

/// An endpoint that asks to be left alone looks as slow as it says.
fn note_pushback(permit: &Permit, tried: &Try, caller: Caller, now: Instant) {
    if let Some(wait) = pushback(tried, caller) {
        permit.member().state.latency.observe_pushback(wait, now);
    }
}
