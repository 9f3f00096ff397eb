//! What the end of an attempt means to the retry policy.

use http::header::{HeaderMap, HeaderName};

use super::one::Try;
use crate::codec::{SendErrorKind, Sent};
use crate::policy::retry::{self, MaybeSent, NeverSent, Pushback, parse_grpc_pushback};
use crate::proxy::local::{Caller, grpc_status};
use crate::upstream::LeaseError;

const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// What the retry policy needs to know; `None` for what can never be tried again.
pub(super) fn classify(tried: &Try, caller: Caller) -> Option<retry::Outcome> {
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
