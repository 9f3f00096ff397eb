//! What the transport's errors mean to those who know TLS over TCP.

use std::io;

use quinn::{ConnectionError, TransportErrorCode};
use rustls::AlertDescription;

use crate::net::tls::{HandshakeError, PeerAlert};

/// The alert with which the peer ended a connection, if it was one (RFC 9001 section 4.8).
///
/// A server judges our certificate after the client is connected. Its refusal is then what the first stream fails
/// with: inside [`quinn::ReadError`] and [`quinn::WriteError`], and in [`quinn::Connection::close_reason`].
#[must_use]
pub fn peer_alert(error: &ConnectionError) -> Option<PeerAlert> {
    match error {
        ConnectionError::ConnectionClosed(close) => alert_of(close.error_code).map(PeerAlert),
        _ => None,
    }
}

/// Why a handshake failed that the transport ended, and not TLS.
pub(super) fn of_handshake(error: ConnectionError) -> HandshakeError {
    if let Some(PeerAlert(alert)) = peer_alert(&error) {
        return HandshakeError::RefusedByPeer(alert);
    }
    let io = |kind: io::ErrorKind, text: String| HandshakeError::Io(io::Error::new(kind, text));
    match error {
        ConnectionError::VersionMismatch => HandshakeError::Incompatible("no common version of QUIC".into()),
        ConnectionError::TransportError(error) => HandshakeError::Protocol(error.to_string().into()),
        ConnectionError::ConnectionClosed(close) if close.error_code == TransportErrorCode::CONNECTION_REFUSED => {
            io(io::ErrorKind::ConnectionRefused, "the peer takes no more connections over QUIC".to_owned())
        }
        ConnectionError::ConnectionClosed(close) => io(io::ErrorKind::ConnectionAborted, close.to_string()),
        ConnectionError::ApplicationClosed(_) | ConnectionError::LocallyClosed => HandshakeError::Closed,
        ConnectionError::Reset => {
            io(io::ErrorKind::ConnectionReset, "the peer does not know the connection".to_owned())
        }
        ConnectionError::TimedOut => HandshakeError::Timeout,
        ConnectionError::CidsExhausted => io(io::ErrorKind::Other, "out of connection IDs".to_owned()),
    }
}

fn alert_of(code: TransportErrorCode) -> Option<AlertDescription> {
    let code = u64::from(code).checked_sub(0x100)?;
    u8::try_from(code).ok().map(AlertDescription::from)
}
