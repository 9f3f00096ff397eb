//! What goes wrong between bytes and messages, said so that one place can turn it into statuses and retries.

use std::io;
use std::sync::Arc;

use http::StatusCode;
use rustls::AlertDescription;
use thiserror::Error;

use super::body::BodyError;
use crate::net::tls::PeerAlert;

/// Whether an application may have seen (part of) a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// Provably not: nothing reached it, or the peer said that it did not process it.
    Never,
    /// It may have.
    Maybe,
}

/// An upstream exchange that gave no response head.
#[derive(Debug, Error)]
#[error("{kind}")]
pub struct SendError {
    /// May it have been executed?
    pub sent: Sent,
    /// The connection had served earlier requests: the failure may be the keep-alive race.
    pub reused: bool,
    /// What happened.
    pub kind: SendErrorKind,
}

/// What happened.
#[derive(Debug, Error)]
pub enum SendErrorKind {
    /// No connection could be made.
    #[error("could not connect: {0}")]
    Connect(io::Error),
    /// No connection within the connect timeout.
    #[error("no connection within the connect timeout")]
    ConnectTimeout,
    /// TLS with it failed: it refused us, or we refused it.
    #[error("TLS failed ({code}): {detail}")]
    Handshake {
        /// The stable code of the reason.
        code: &'static str,
        /// What was expected and what came.
        detail: Arc<str>,
    },
    /// REFUSED_STREAM or H3_REQUEST_REJECTED, or a GOAWAY below this stream.
    #[error("the upstream refused the stream")]
    Refused,
    /// The stream was reset.
    #[error("the upstream reset the stream ({0})")]
    Reset(ResetCode),
    /// The connection ended before a response head.
    #[error("the upstream closed the connection before answering")]
    Closed,
    /// The connection was over QUIC, and nothing comes on it any more. Others of the same endpoint go over TCP.
    #[error("the way to the upstream over QUIC was lost")]
    PathLost,
    /// Reading or writing failed.
    #[error("the connection to the upstream failed: {0}")]
    Io(io::Error),
    /// It takes no tunnels over a connection with other streams (RFC 8441, RFC 9220). Nothing was asked.
    #[error("the upstream does not take extended CONNECT")]
    NoExtendedConnect,
    /// The head of the request is larger than it says that it takes. Nothing was asked.
    #[error("the request head is larger than the upstream takes")]
    HeadTooLarge,
    /// It sent something that is not a valid response.
    #[error("the upstream sent an invalid response: {0}")]
    BadResponse(&'static str),
    /// The caller's request body failed, so the exchange was given up. Not the upstream's fault.
    #[error("the request body failed: {0}")]
    RequestBody(BodyError),
}

/// Why a peer reset a stream, in the words of its version of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ResetCode {
    /// RST_STREAM (RFC 9113 section 7).
    #[error("{0}")]
    Http2(h2::Reason),
    /// RESET_STREAM or STOP_SENDING (RFC 9114 section 8.1).
    #[error("{0}")]
    Http3(super::h3::Code),
}

/// The alert by which a peer refused our certificate, or the handshake as such, after we believed ourselves
/// connected. In TLS 1.3 it looks at nothing that we send before it has judged our certificate (RFC 8446 section
/// 4.4.2), so nothing that was sent can have been executed.
#[must_use]
pub fn certificate_alert(error: &io::Error) -> Option<PeerAlert> {
    let alert = *error.get_ref()?.downcast_ref::<PeerAlert>()?;
    matches!(
        alert.0,
        AlertDescription::HandshakeFailure
            | AlertDescription::NoCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError
            | AlertDescription::CertificateRequired
    )
    .then_some(alert)
}

/// The code of a refusal that comes as such an alert.
pub const REFUSED_BY_PEER: &str = "refused-by-peer";

impl SendError {
    /// Nothing of the request was sent.
    #[must_use]
    pub fn never(kind: SendErrorKind) -> Self {
        Self { sent: Sent::Never, reused: false, kind }
    }

    /// Something may have been sent.
    #[must_use]
    pub fn maybe(kind: SendErrorKind) -> Self {
        Self { sent: Sent::Maybe, reused: false, kind }
    }
}

/// A request that a codec will not pass on, and why. The text is a constant: it goes into logs and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The status to answer with.
    pub status: StatusCode,
    /// One stable word for metrics, e.g. `duplicate_host`.
    pub code: &'static str,
    /// One sentence for the caller.
    pub detail: &'static str,
}

impl Refusal {
    /// A 400.
    #[must_use]
    pub const fn bad_request(code: &'static str, detail: &'static str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code, detail }
    }

    /// A 431.
    #[must_use]
    pub const fn too_large(code: &'static str, detail: &'static str) -> Self {
        Self { status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, code, detail }
    }
}
