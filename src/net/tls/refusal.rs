//! Why a peer was refused, and why a handshake failed.

use std::cell::Cell;
use std::fmt;
use std::io;

use rustls::{AlertDescription, CertificateError, Error, OtherError, PeerIncompatible};
use thiserror::Error as ThisError;

/// Why a peer's certificate is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RefusalReason {
    /// It showed none.
    NoCertificate,
    /// Its time is over, or that of an issuer between it and the root.
    Expired,
    /// Its time has not come.
    NotYetValid,
    /// It is on a revocation list.
    Revoked,
    /// Its trust domain is neither ours nor federated.
    UnknownTrustDomain,
    /// No root of its trust domain stands behind it.
    UnknownIssuer,
    /// It vouches for itself.
    SelfSigned,
    /// It has no URI among its alternative names.
    NoIdentity,
    /// It has more than one.
    SeveralIdentities,
    /// The URI is not a SPIFFE ID.
    InvalidIdentity,
    /// A key of the chain is too short, or on a curve that is not known.
    WeakKey,
    /// It is not meant for this side of a connection.
    NotForThisUse,
    /// It is an authority's own.
    CertificateAuthority,
    /// Somebody else was expected.
    WrongIdentity,
    /// Another name was expected.
    WrongName,
    /// An issuer may not issue this name.
    NameConstraint,
    /// It cannot be read.
    Malformed,
    /// The peer does not hold its key.
    NotItsKey,
    /// The chain is wrong in another way.
    Unverifiable,
}

impl RefusalReason {
    /// A stable label for metrics and logs.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::NoCertificate => "no-certificate",
            Self::Expired => "expired",
            Self::NotYetValid => "not-yet-valid",
            Self::Revoked => "revoked",
            Self::UnknownTrustDomain => "unknown-trust-domain",
            Self::UnknownIssuer => "unknown-issuer",
            Self::SelfSigned => "self-signed",
            Self::NoIdentity => "no-identity",
            Self::SeveralIdentities => "several-identities",
            Self::InvalidIdentity => "invalid-identity",
            Self::WeakKey => "weak-key",
            Self::NotForThisUse => "not-for-this-use",
            Self::CertificateAuthority => "certificate-authority",
            Self::WrongIdentity => "wrong-identity",
            Self::WrongName => "wrong-name",
            Self::NameConstraint => "name-constraint",
            Self::Malformed => "malformed",
            Self::NotItsKey => "not-its-key",
            Self::Unverifiable => "unverifiable",
        }
    }

    /// The error that makes the library send the fitting alert (RFC 8446 section 6.2). The text stays here.
    pub(super) fn alert(self) -> Error {
        Error::InvalidCertificate(match self {
            Self::NoCertificate => return Error::NoCertificatesPresented,
            Self::Expired => CertificateError::Expired,
            Self::NotYetValid => CertificateError::NotValidYet,
            Self::Revoked => CertificateError::Revoked,
            Self::UnknownTrustDomain | Self::UnknownIssuer | Self::SelfSigned => CertificateError::UnknownIssuer,
            Self::NoIdentity | Self::SeveralIdentities | Self::InvalidIdentity | Self::Malformed => {
                CertificateError::BadEncoding
            }
            Self::WeakKey | Self::NotForThisUse | Self::CertificateAuthority => CertificateError::InvalidPurpose,
            Self::WrongIdentity | Self::WrongName | Self::NameConstraint => {
                CertificateError::ApplicationVerificationFailure
            }
            Self::NotItsKey => CertificateError::BadSignature,
            Self::Unverifiable => CertificateError::Other(OtherError(std::sync::Arc::new(Unverifiable))),
        })
    }
}

impl RefusalReason {
    /// The alert itself, for where the library does not send it.
    pub(super) fn description(self) -> AlertDescription {
        match self.alert() {
            Error::InvalidCertificate(error) => error.into(),
            _ => AlertDescription::CertificateRequired,
        }
    }
}

impl fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

#[derive(Debug, ThisError)]
#[error("the chain cannot be verified")]
struct Unverifiable;

/// A peer that was refused.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
#[error("{reason}: {detail}")]
pub struct Refusal {
    /// Why.
    pub reason: RefusalReason,
    /// What was expected and what came, for logs. Names and dates, never key material.
    pub detail: Box<str>,
}

impl Refusal {
    pub(super) fn new(reason: RefusalReason, detail: impl Into<Box<str>>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

/// Why a handshake did not lead to a connection. The connection is closed; the peer was sent an alert where the
/// protocol has one.
#[derive(Debug, ThisError)]
pub enum HandshakeError {
    /// We refused the peer.
    #[error("the peer was refused: {0}")]
    Refused(Refusal),
    /// The peer refused us.
    #[error("the peer ended the handshake: {}", alert_text(*.0))]
    RefusedByPeer(AlertDescription),
    /// No application protocol that both speak.
    #[error("the peer offers none of the application protocols that are served")]
    NoApplicationProtocol,
    /// No version, cipher suite, key exchange or signature scheme that both know.
    #[error("no common TLS parameters: {0}")]
    Incompatible(Box<str>),
    /// The peer does not speak TLS.
    #[error("the peer does not speak TLS")]
    NotTls,
    /// The peer broke the protocol.
    #[error("the peer broke the protocol: {0}")]
    Protocol(Box<str>),
    /// The peer closed in the middle.
    #[error("the peer closed during the handshake")]
    Closed,
    /// It took longer than allowed.
    #[error("the handshake took too long")]
    Timeout,
    /// As many handshakes as allowed are under way.
    #[error("too many handshakes are under way")]
    Busy,
    /// The connection failed.
    #[error("the connection failed during the handshake: {0}")]
    Io(io::Error),
}

impl HandshakeError {
    /// A stable label for metrics and logs: that of the refusal where we refused the peer.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.reason.code(),
            Self::RefusedByPeer(_) => "refused-by-peer",
            Self::NoApplicationProtocol => "no-application-protocol",
            Self::Incompatible(_) => "incompatible",
            Self::NotTls => "not-tls",
            Self::Protocol(_) => "protocol-error",
            Self::Closed => "closed",
            Self::Timeout => "timeout",
            Self::Busy => "busy",
            Self::Io(_) => "io",
        }
    }

    /// Why we refused the peer, where we did.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// The nearest kind of I/O error, for callers that only know those.
    #[must_use]
    pub fn io_kind(&self) -> io::ErrorKind {
        match self {
            Self::Refused(_) | Self::RefusedByPeer(_) => io::ErrorKind::PermissionDenied,
            Self::NoApplicationProtocol | Self::Incompatible(_) => io::ErrorKind::Unsupported,
            Self::NotTls | Self::Protocol(_) => io::ErrorKind::InvalidData,
            Self::Closed => io::ErrorKind::UnexpectedEof,
            Self::Timeout => io::ErrorKind::TimedOut,
            Self::Busy => io::ErrorKind::ConnectionRefused,
            Self::Io(error) => error.kind(),
        }
    }

    /// What the library says, together with what our verifier noted.
    pub(super) fn from_tls(error: Error, noted: Option<Refusal>) -> Self {
        if let Some(refusal) = noted {
            return Self::Refused(refusal);
        }
        match error {
            Error::NoCertificatesPresented => Self::Refused(Refusal::new(
                RefusalReason::NoCertificate,
                "a certificate is required and none was shown",
            )),
            Error::InvalidCertificate(CertificateError::BadSignature) => Self::Refused(Refusal::new(
                RefusalReason::NotItsKey,
                "the handshake is not signed by the certificate's key",
            )),
            Error::InvalidCertificate(error) => {
                Self::Refused(Refusal::new(RefusalReason::Unverifiable, error.to_string()))
            }
            Error::AlertReceived(alert) => Self::RefusedByPeer(alert),
            Error::NoApplicationProtocol => Self::NoApplicationProtocol,
            Error::PeerIncompatible(PeerIncompatible::SupportedVersionsExtensionRequired)
            | Error::PeerIncompatible(PeerIncompatible::Tls13RequiredForQuic) => {
                Self::Incompatible("the peer is limited to a version older than the oldest allowed".into())
            }
            Error::PeerIncompatible(what) => Self::Incompatible(format!("{what:?}").into()),
            Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => Self::NotTls,
            error => Self::Protocol(error.to_string().into()),
        }
    }
}

fn alert_text(alert: AlertDescription) -> String {
    // Known ones are named `CertificateExpired`, `UnknownCA`, `UnknownPSKIdentity`.
    let name = format!("{alert:?}").into_bytes();
    let mut text = String::with_capacity(name.len() + 4);
    for (at, letter) in name.iter().enumerate() {
        let before = at.checked_sub(1).map(|at| name[at]);
        let after_word = before.is_some_and(|before| before.is_ascii_lowercase());
        let before_word = before.is_some() && name.get(at + 1).is_some_and(u8::is_ascii_lowercase);
        if letter.is_ascii_uppercase() && (after_word || before_word) {
            text.push('_');
        }
        text.push(char::from(letter.to_ascii_lowercase()));
    }
    text
}

/// An alert that ended a connection after its handshake, inside an [`io::Error`]. In TLS 1.3 a server judges the
/// client's certificate after the client believes that it is connected, so a refusal may come this way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ThisError)]
#[error("the peer ended the connection: {}", alert_text(*.0))]
pub struct PeerAlert(pub AlertDescription);

thread_local! {
    /// What a verifier found in the step of a handshake that this thread is in. The library's error has room
    /// for an alert only, and the verifier serves all handshakes of a configuration.
    static VERDICT: Cell<Option<Verdict>> = const { Cell::new(None) };
}

/// What a verifier found.
pub(super) type Verdict = Result<super::peer::Peer, Refusal>;

/// Leaves a verdict for whoever runs the step.
pub(super) fn note(verdict: Verdict) {
    VERDICT.set(Some(verdict));
}

/// Takes the verdict of the step that just ran.
pub(super) fn noted() -> Option<Verdict> {
    VERDICT.take()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_have_the_names_of_the_standard() {
        for (alert, text) in [
            (AlertDescription::UnknownCA, "unknown_ca"),
            (AlertDescription::CertificateExpired, "certificate_expired"),
            (AlertDescription::UnknownPSKIdentity, "unknown_psk_identity"),
            (AlertDescription::BadRecordMac, "bad_record_mac"),
            (AlertDescription::NoApplicationProtocol, "no_application_protocol"),
        ] {
            assert_eq!(alert_text(alert), text);
        }
    }
}
