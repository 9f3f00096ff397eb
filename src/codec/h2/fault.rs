//! What the library's errors mean.

use std::io;

use h2::Reason;

use crate::codec::body::BodyError;
use crate::codec::error::ResetCode;
use crate::codec::h3::Code;

/// The end of a body that was being received.
pub(super) fn of_body(error: &h2::Error) -> BodyError {
    if let Some(error) = error.get_io() {
        return match error.kind() {
            // The first is what the library tells the streams of a connection that ended.
            io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => BodyError::Incomplete,
            kind => BodyError::Io(kind),
        };
    }
    match error.reason() {
        Some(_) if error.is_library() => BodyError::Malformed("the peer broke the rules of HTTP/2"),
        Some(reason) if error.is_reset() => BodyError::Reset(ResetCode::Http2(reason)),
        _ => BodyError::Incomplete,
    }
}

/// How the caller is told that a response ends before its end.
pub(super) fn reset_for(error: BodyError) -> Reason {
    match error {
        // These two say what happened and invite nothing. A refusal passed on would invite a retry of what
        // was executed, NO_ERROR would pass for a complete response.
        BodyError::Reset(ResetCode::Http2(reason @ (Reason::CANCEL | Reason::ENHANCE_YOUR_CALM))) => reason,
        BodyError::Reset(ResetCode::Http3(Code::REQUEST_CANCELLED)) => Reason::CANCEL,
        BodyError::Reset(ResetCode::Http3(Code::EXCESSIVE_LOAD)) => Reason::ENHANCE_YOUR_CALM,
        BodyError::Reset(_) | BodyError::Incomplete | BodyError::Malformed(_) | BodyError::Io(_) => {
            Reason::INTERNAL_ERROR
        }
        BodyError::Timeout(_) | BodyError::Denied | BodyError::Abandoned | BodyError::Outrun => Reason::CANCEL,
    }
}

/// The same of a tunnel made with CONNECT (RFC 9113 section 8.5). A tunnel of another protocol is cancelled in any case
/// (RFC 8441 section 5).
pub(super) fn reset_of_connect(error: BodyError) -> Reason {
    match error {
        BodyError::Reset(_) | BodyError::Incomplete | BodyError::Malformed(_) | BodyError::Io(_) => {
            Reason::CONNECT_ERROR
        }
        BodyError::Timeout(_) | BodyError::Denied | BodyError::Abandoned | BodyError::Outrun => Reason::CANCEL,
    }
}
