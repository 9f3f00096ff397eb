//! What the end of an attempt means to the retry policy.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use http::StatusCode;
use http::header::{HeaderMap, HeaderName, RETRY_AFTER};

use super::one::Try;
use super::{Exchange, marks};
use crate::codec::{SendErrorKind, Sent};
use crate::policy::retry::{self, MaybeSent, NeverSent, Pushback, parse_grpc_pushback, parse_retry_after};
use crate::proxy::local::{Caller, grpc_status};
use crate::upstream::{LeaseError, Permit};

const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// What the retry policy needs to know; `None` for what can never be tried again.
pub(super) fn classify(tried: &Try, exchange: &Exchange<'_>, permit: &Permit) -> Option<retry::Outcome> {
    let policy = &exchange.rule.retry;
    match tried {
        // It is tried again when the handshake of its caller is over.
        Try::Answered(response) if exchange.early && response.head.status == StatusCode::TOO_EARLY => None,
        Try::Answered(response) => {
            let headers = &response.head.headers;
            let grpc = match exchange.caller {
                Caller::Grpc => grpc_status(headers),
                Caller::Http => None,
            };
            Some(match grpc {
                _ if marks::is_spent(headers) => retry::Outcome::RetriedBelow,
                Some(_) if grpc_pushback(headers) == Some(Pushback::Never) => retry::Outcome::Forbidden,
                _ if retry::names_header(policy, headers) => retry::Outcome::Header,
                Some(status) => retry::Outcome::Grpc(status),
                None => retry::Outcome::Status(response.head.status.as_u16()),
            })
        }
        Try::Ended(ended) => Some(match grpc_status(&ended.trailers) {
            _ if marks::is_spent(&ended.trailers) => retry::Outcome::RetriedBelow,
            _ if grpc_pushback(&ended.trailers) == Some(Pushback::Never) => retry::Outcome::Forbidden,
            _ if retry::names_header(policy, &ended.head.headers) => retry::Outcome::Header,
            Some(status) => retry::Outcome::Grpc(status),
            None => retry::Outcome::Status(ended.head.status.as_u16()),
        }),
        Try::Lease(LeaseError::Overflow(_)) => None,
        Try::Lease(LeaseError::Connect(_) | LeaseError::Retired) => {
            Some(retry::Outcome::NeverSent(NeverSent::ConnectFailure))
        }
        Try::Send(error) => match (&error.kind, error.sent) {
            (SendErrorKind::RequestBody(_) | SendErrorKind::HeadTooLarge, _) => None,
            (SendErrorKind::Handshake { .. }, Sent::Never) => {
                Some(retry::Outcome::NeverSent(NeverSent::ConnectFailure))
            }
            (SendErrorKind::Refused, _) => Some(retry::Outcome::NeverSent(NeverSent::Refused)),
            (_, Sent::Never) => Some(retry::Outcome::NeverSent(NeverSent::Unwritten)),
            // The endpoint is well, as far as anybody knows: it is asked again over TCP.
            (SendErrorKind::PathLost, Sent::Maybe) => Some(retry::Outcome::MaybeSent(MaybeSent::ReusedClosed)),
            (SendErrorKind::Closed | SendErrorKind::Io(_), Sent::Maybe) if error.reused && is_well(permit) => {
                Some(retry::Outcome::MaybeSent(MaybeSent::ReusedClosed))
            }
            (_, Sent::Maybe) => Some(retry::Outcome::MaybeSent(MaybeSent::Reset)),
        },
        Try::TimedOut => Some(retry::Outcome::MaybeSent(MaybeSent::Timeout)),
        Try::Late | Try::Stalled | Try::Denied => None,
    }
}

/// When the server wants to be asked again; `None` where it names no time.
pub(super) fn pushback(tried: &Try, caller: Caller) -> Option<Duration> {
    let (headers, trailers) = match tried {
        Try::Answered(response) => (&response.head.headers, None),
        Try::Ended(ended) => (&ended.head.headers, Some(&ended.trailers)),
        Try::Lease(_) | Try::Send(_) | Try::TimedOut | Try::Late | Try::Stalled | Try::Denied => return None,
    };
    if caller == Caller::Grpc
        && let Some(Pushback::After(wait)) = grpc_pushback(trailers.unwrap_or(headers))
    {
        return Some(wait);
    }
    let wait = parse_retry_after(headers.get(RETRY_AFTER)?.to_str().ok()?, SystemTime::now())?;
    // No time at all is no reason to come without jitter.
    Some(wait).filter(|wait| !wait.is_zero())
}

fn grpc_pushback(headers: &HeaderMap) -> Option<Pushback> {
    // What is no text is no number either.
    Some(parse_grpc_pushback(headers.get(PUSHBACK)?.to_str().unwrap_or("")))
}

/// Whether the endpoint has served what it was asked last. A kept connection that ends at a good server was being
/// closed for idleness; at one that fails anyway it is one more failure, and repeating it is not free.
fn is_well(permit: &Permit) -> bool {
    permit.member().state.consecutive_failures.load(Ordering::Relaxed) == 0
}
