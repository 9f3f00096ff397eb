//! TLS: who we are, whom we believe, and connections in which both were proved.
//!
//! Everything of one configuration is in a [`TlsSet`], built and checked as a whole from files that were read at
//! one moment ([`Secrets`]), before it replaces anything. A handshake uses the set that is newest when it
//! begins; what has become untrusted by its end is refused all the same, also for sessions that are resumed.

mod certificate;
mod client;
mod control;
mod der;
mod epoch;
mod gate;
mod material;
mod peer;
mod problem;
mod quic;
mod refusal;
mod revocation;
mod secrets;
mod server;
mod session;
mod sessions;
mod set;
mod status;
mod stream;
mod tickets;
mod trust;
mod verify;
pub mod web;

#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};

use outrigger_config::model::TlsVersion;
use rustls::SupportedProtocolVersion;
use rustls::crypto::CryptoProvider;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::base::limits;

pub use client::{ClientTls, TlsKey, TlsKeyMode};
pub use control::ControlTls;
pub(in crate::net) use gate::step as take_turn;
pub use peer::{Alpn, AlpnProtocol, Peer, TlsInfo};
pub use problem::{MaterialError, MaterialReason};
pub(in crate::net) use quic::{ForeignPackets, Outcome, QUIC_VERSION};
pub use refusal::{HandshakeError, PeerAlert, Refusal, RefusalReason};
pub use secrets::Secrets;
pub use server::ServerTls;
pub(in crate::net) use session::UnderWay;
pub use set::TlsSet;
pub use status::{CertificateRole, CertificateStatus};
pub(crate) use stream::TlsStream;
pub use verify::spiffe_id;

/// The cryptography of every TLS configuration in the process. AES-128 comes first: with hardware support it is
/// the fastest suite, and its handshake hashes with SHA-256.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    let make = || {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.cipher_suites.sort_by_key(|suite| !format!("{:?}", suite.suite()).contains("AES_128"));
        Arc::new(provider)
    };
    Arc::clone(PROVIDER.get_or_init(make))
}

fn versions(min: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static NEWEST: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS13];
    static BOTH: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];
    match min {
        TlsVersion::V1_3 => &NEWEST,
        TlsVersion::V1_2 => &BOTH,
    }
}

/// Closes a connection whose handshake failed so that the alert arrives: closing a socket with unread bytes
/// would reset it and take the alert back (RFC 1122 section 4.2.2.13).
fn linger(stream: TlsStream, error: &HandshakeError) {
    let ours = match error {
        HandshakeError::Refused(_)
        | HandshakeError::NoApplicationProtocol
        | HandshakeError::Incompatible(_)
        | HandshakeError::Protocol(_)
        | HandshakeError::NotTls => true,
        HandshakeError::RefusedByPeer(_)
        | HandshakeError::Closed
        | HandshakeError::Timeout
        | HandshakeError::Busy
        | HandshakeError::Io(_) => false,
    };
    if !ours {
        return;
    }
    let mut tcp = stream.into_tcp();
    crate::base::task::spawn("tls-linger", async move {
        let throw_away = async {
            if tcp.shutdown().await.is_ok() {
                let mut rest = tcp.take(limits::ALERT_LINGER_BYTES);
                let mut scratch = [0; 1024];
                while matches!(rest.read(&mut scratch).await, Ok(n) if n > 0) {}
            }
        };
        let _ = tokio::time::timeout(limits::ALERT_LINGER, throw_away).await;
    });
}
