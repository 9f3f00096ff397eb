//! The end of a connection: ours to tell, and the peer's to understand.

use std::io;

use quinn::ConnectionError;

use super::code::Code;
use super::frames::Broken;
use crate::codec::body::BodyError;
use crate::net::quic::peer_alert;

/// Closes a connection for what the peer did.
pub(super) fn close(connection: &quinn::Connection, broken: Broken) {
    let Broken { code, detail } = broken;
    tracing::debug!(%code, detail, "an HTTP/3 connection is closed for an error of the peer");
    connection.close(code.var(), detail.as_bytes());
}

/// Closes a connection that is no longer needed.
pub(super) fn end(connection: &quinn::Connection) {
    connection.close(Code::NO_ERROR.var(), b"");
}

/// What it means for a body.
pub(super) fn of_body(error: &ConnectionError) -> BodyError {
    match error {
        ConnectionError::TimedOut => BodyError::Timeout("the peer of an HTTP/3 connection was silent for too long"),
        ConnectionError::ConnectionClosed(_)
        | ConnectionError::ApplicationClosed(_)
        | ConnectionError::Reset
        | ConnectionError::LocallyClosed
        | ConnectionError::CidsExhausted
        | ConnectionError::TransportError(_)
        | ConnectionError::VersionMismatch => BodyError::Incomplete,
    }
}

/// What it means for whoever uses the connection; `None` where it was simply closed. A refusal of our certificate is a
/// [`PeerAlert`](crate::net::tls::PeerAlert).
pub(super) fn of_connection(error: &ConnectionError) -> Option<io::Error> {
    match error {
        ConnectionError::TimedOut => Some(io::Error::new(io::ErrorKind::TimedOut, "no answer over QUIC")),
        ConnectionError::ConnectionClosed(_) => Some(match peer_alert(error) {
            Some(alert) => io::Error::new(io::ErrorKind::ConnectionReset, alert),
            None => io::ErrorKind::ConnectionReset.into(),
        }),
        ConnectionError::TransportError(error) => Some(io::Error::new(io::ErrorKind::InvalidData, error.to_string())),
        ConnectionError::Reset => Some(io::ErrorKind::ConnectionReset.into()),
        ConnectionError::VersionMismatch | ConnectionError::CidsExhausted => Some(io::Error::other(error.to_string())),
        ConnectionError::ApplicationClosed(_) | ConnectionError::LocallyClosed => None,
    }
}
