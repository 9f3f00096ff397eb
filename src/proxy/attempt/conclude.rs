//! What the last attempt comes to for the caller.

use http::StatusCode;

use super::Failure;
use super::one::Try;
use crate::codec::{Body, Response, SendError, SendErrorKind};
use crate::proxy::reason::Reason;
use crate::upstream::LeaseError;

/// The last attempt is the answer.
pub(super) fn conclude(tried: Try, overall_over: bool) -> Result<Response<Body>, Failure> {
    let reason = match tried {
        Try::Answered(response) => return Ok(response),
        Try::Ended(ended) => return Ok(ended.into_response()),
        Try::TimedOut => Reason::Timeout,
        Try::Late => Reason::Deadline,
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
            SendErrorKind::Closed | SendErrorKind::PathLost | SendErrorKind::Io(_) => Reason::UpstreamClosed,
            SendErrorKind::BadResponse(details) => {
                return Err(Failure { details, ..Reason::UpstreamProtocol.into() });
            }
            SendErrorKind::NoExtendedConnect => {
                return Err(Failure { details: "no_extended_connect", ..Reason::UpstreamProtocol.into() });
            }
            SendErrorKind::HeadTooLarge => {
                let status = Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
                let details = "head_too_large_for_upstream";
                return Err(Failure { details, status, ..Reason::DownstreamProtocol.into() });
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
