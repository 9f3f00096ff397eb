//! What is known of the other side of a TLS connection, and of the connection.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use outrigger_config::model::TlsVersion;
use outrigger_config::spiffe::SpiffeId;
use rustls::pki_types::CertificateDer;

use super::certificate::{Facts, hex, name_text};
use super::refusal::Refusal;

/// What a handshake settled.
#[derive(Debug, Clone)]
pub struct TlsInfo {
    /// The version.
    pub version: TlsVersion,
    /// The cipher suite by its registered name, e.g. `TLS13_AES_128_GCM_SHA256`.
    pub cipher: &'static str,
    /// The key exchange group, e.g. `X25519MLKEM768`; not known of resumed TLS 1.2 sessions.
    pub group: Option<&'static str>,
    /// The application protocol, if the client offered any.
    pub alpn: Option<AlpnProtocol>,
    /// The server name that the client sent.
    pub sni: Option<Arc<str>>,
    /// Whether an earlier session was resumed. Its certificate was verified again.
    pub resumed: bool,
    /// The peer, verified. `None` where it showed no certificate.
    pub peer: Option<Arc<Peer>>,
    /// Our own SPIFFE ID, where our certificate has one.
    pub local_identity: Option<SpiffeId>,
    /// How the peer would have fared under the proposed bundle. `None` without one, or without a peer.
    pub rehearsal: Option<Result<(), Refusal>>,
}

/// An application protocol (RFC 7301).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AlpnProtocol {
    /// `http/1.1`.
    Http1,
    /// `h2`.
    Http2,
    /// `h3`, over QUIC only.
    Http3,
}

impl AlpnProtocol {
    pub(super) fn wire(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::Http2 => b"h2",
            Self::Http3 => b"h3",
        }
    }

    pub(super) fn from_wire(name: &[u8]) -> Option<Self> {
        [Self::Http1, Self::Http2, Self::Http3].into_iter().find(|protocol| protocol.wire() == name)
    }
}

/// Which application protocols a client offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// `http/1.1` only.
    Http1,
    /// `h2` only.
    Http2,
    /// `h2`, then `http/1.1`.
    Either,
    /// None.
    None,
}

impl Alpn {
    pub(super) fn wire(self) -> Vec<Vec<u8>> {
        let protocols: &[AlpnProtocol] = match self {
            Self::Http1 => &[AlpnProtocol::Http1],
            Self::Http2 => &[AlpnProtocol::Http2],
            Self::Either => &[AlpnProtocol::Http2, AlpnProtocol::Http1],
            Self::None => &[],
        };
        protocols.iter().map(|protocol| protocol.wire().to_vec()).collect()
    }
}

/// Who the other side is: its certificate was verified.
#[derive(Clone)]
pub struct Peer {
    /// Its SPIFFE ID. `None` for certificates that were verified against ordinary roots.
    pub identity: Option<SpiffeId>,
    /// The DNS names of its certificate.
    pub dns_names: Box<[Box<str>]>,
    /// SHA-256 of its certificate.
    pub sha256: [u8; 32],
    /// The last moment at which its certificate is valid.
    pub not_after: SystemTime,
    /// Its certificate.
    pub leaf: CertificateDer<'static>,
}

impl Peer {
    /// The subject of its certificate as text (`CN=…, O=…`); empty where it has none.
    #[must_use]
    pub fn subject(&self) -> String {
        Facts::of(&self.leaf).map(|facts| name_text(facts.subject)).unwrap_or_default()
    }

    /// The fingerprint in lower-case hexadecimal digits.
    #[must_use]
    pub fn sha256_hex(&self) -> String {
        hex(&self.sha256)
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("identity", &self.identity)
            .field("sha256", &self.sha256_hex())
            .finish_non_exhaustive()
    }
}
