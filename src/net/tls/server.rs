//! TLS towards callers: what one listener accepts.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use outrigger_config::model::{ClientCertificate, ListenerProtocol, ListenerTls, TlsVersion};
use outrigger_config::spiffe::SpiffeId;
use rustls::pki_types::DnsName;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerConnection, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{Connection, ServerConfig};

use super::material::Credentials;
use super::peer::{AlpnProtocol, TlsInfo};
use super::quic::QuicServer;
use super::refusal::HandshakeError;
use super::session::{Line, Review, UnderWay};
use super::sessions::Sessions;
use super::stream::TlsStream;
use super::verify::{Expect, Verifier};
use super::{linger, provider, versions};
use crate::net::io::Io;

/// Tickets sent after a full handshake: enough for one connection to replace this one.
const TICKETS: usize = 1;

/// TLS of one listener under one configuration.
pub struct ServerTls {
    config: ListenerTls,
    /// `None` where nothing is terminated.
    terminates: Option<Arc<Termination>>,
    rehearsal: Option<Arc<Verifier>>,
    line: Arc<Line>,
}

/// What shapes the library's configuration; the same shape goes on with the same configuration and so with its
/// sessions. Any change of trust, of revocations or of our own certificate ends them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) credentials: Vec<[u8; 32]>,
    pub(super) trust: Option<[u8; 32]>,
    pub(super) revocations: [u8; 32],
    pub(super) clients: ClientCertificate,
    pub(super) min_version: TlsVersion,
    pub(super) alpn: Vec<AlpnProtocol>,
    /// `None` where early data is not taken.
    pub(super) early: Option<Promised>,
}

/// What a caller that comes with early data goes by, because it was told so on the connection before: limits that must not
/// have become smaller meanwhile (RFC 9000 section 7.4.1, RFC 9114 section 7.2.4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Promised {
    pub(super) max_streams: u32,
    pub(super) max_head_bytes: u32,
}

pub(super) struct Termination {
    pub(super) shape: Shape,
    rustls: Arc<ServerConfig>,
    /// The same for QUIC, where only HTTP/3 is spoken.
    pub(super) quic: Arc<ServerConfig>,
    pub(super) verifier: Option<Arc<Verifier>>,
    pub(super) identity: Option<SpiffeId>,
    pub(super) clock: Arc<dyn TimeProvider>,
}

impl Termination {
    /// `credentials` holds at least one; `verifier` judges clients, where they are asked for a certificate.
    pub(super) fn new(
        shape: Shape,
        credentials: &[Credentials],
        verifier: Option<Arc<Verifier>>,
        clock: Arc<dyn TimeProvider>,
    ) -> Result<Self, rustls::Error> {
        let clients: Arc<dyn ClientCertVerifier> = match &verifier {
            Some(verifier) => Arc::clone(verifier) as _,
            None => WebPkiClientVerifier::no_client_auth(),
        };
        let mut config = ServerConfig::builder_with_details(provider(), Arc::clone(&clock))
            .with_protocol_versions(versions(shape.min_version))?
            .with_client_cert_verifier(clients)
            .with_cert_resolver(Arc::new(Certificates::new(credentials)));
        config.alpn_protocols = shape.alpn.iter().map(|protocol| protocol.wire().to_vec()).collect();
        let no_tickets = Arc::clone(&config.ticketer);
        // Sessions are kept by the client, sealed with keys that live as long as this configuration.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
        config.send_tls13_tickets = TICKETS;
        config.max_early_data_size = 0;
        // Without it a TLS 1.2 session can be resumed into another one's identity (RFC 7627).
        config.require_ems = verifier.is_some();
        let identity = credentials.first().and_then(|credentials| credentials.identity.clone());
        let mut quic = config.clone();
        quic.alpn_protocols = vec![AlpnProtocol::Http3.wire().to_vec()];
        if shape.early.is_some() {
            // Kept here instead, for all workers, and each serves once: a first flight that somebody recorded finds its
            // session gone (RFC 8446 section 8.1).
            quic.ticketer = no_tickets;
            quic.session_storage = Arc::new(Sessions::default());
            // QUIC's word for yes (RFC 9001 section 4.6.1).
            quic.max_early_data_size = u32::MAX;
        }
        Ok(Self { shape, rustls: Arc::new(config), quic: Arc::new(quic), verifier, identity, clock })
    }
}

impl ServerTls {
    pub(super) fn new(
        config: ListenerTls,
        terminates: Option<Arc<Termination>>,
        rehearsal: Option<Arc<Verifier>>,
        previous: Option<&Self>,
    ) -> Self {
        let line = previous.map(|previous| Arc::clone(&previous.line)).unwrap_or_default();
        Self { config, terminates, rehearsal, line }
    }

    /// The listener's settings.
    #[must_use]
    pub fn config(&self) -> &ListenerTls {
        &self.config
    }

    /// Whether this listener terminates TLS at all; one that only hands connections on has no certificate.
    #[must_use]
    pub fn terminates(&self) -> bool {
        self.terminates.is_some()
    }

    /// Which trust is proposed, told apart by a fingerprint: verdicts of a rehearsal under another say nothing.
    #[must_use]
    pub fn proposal(&self) -> Option<u64> {
        let fingerprint = self.rehearsal.as_ref()?.trust.fingerprint();
        Some(fingerprint.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// Handshakes under way on the listener, on all workers.
    #[must_use]
    pub fn handshakes(&self) -> u32 {
        self.line.handshakes()
    }

    /// Runs the server's side of a handshake within the listener's limits of number and time. What `io` had
    /// read ahead is part of it. Cancel safe: dropping the future closes the connection.
    ///
    /// # Errors
    /// See [`HandshakeError`]; the connection is closed.
    ///
    /// # Panics
    /// When `io` carries TLS already.
    pub fn accept(&self, io: Io) -> impl Future<Output = Result<(Io, TlsInfo), HandshakeError>> + Send + use<> {
        let entered = self.line.enter(self.config.max_handshakes);
        let limit = self.config.handshake_timeout;
        let (line, terminates) = (Arc::clone(&self.line), self.terminates.clone());
        let rehearsal = self.rehearsal.clone();
        async move {
            let _entered = entered.ok_or(HandshakeError::Busy)?;
            let terminates =
                terminates.ok_or_else(|| HandshakeError::Incompatible("TLS is not terminated here".into()))?;
            let handshake = accept(io, &terminates, &line, rehearsal.as_ref());
            tokio::time::timeout(limit, handshake).await.unwrap_or(Err(HandshakeError::Timeout))
        }
    }

    /// Begins the server's side of a handshake over QUIC, if there is a place among the handshakes.
    pub(in crate::net) fn over_quic(&self) -> Result<(QuicServer, UnderWay), HandshakeError> {
        let place = self.line.enter(self.config.max_handshakes).ok_or(HandshakeError::Busy)?;
        let terminates = self.terminates.clone();
        let terminates = terminates.ok_or_else(|| HandshakeError::Incompatible("TLS is not terminated here".into()))?;
        Ok((QuicServer::new(terminates, Arc::clone(&self.line), self.rehearsal.clone()), place))
    }

    pub(super) fn termination(&self) -> Option<&Arc<Termination>> {
        self.terminates.as_ref()
    }

    pub(super) fn activate(&self) {
        self.line.activate(self.terminates.as_ref().and_then(|terminates| terminates.verifier.as_ref()));
    }
}

async fn accept(
    io: Io,
    terminates: &Termination,
    line: &Line,
    rehearsal: Option<&Arc<Verifier>>,
) -> Result<(Io, TlsInfo), HandshakeError> {
    let (ahead, tcp) = io.into_tcp();
    let session =
        ServerConnection::new(Arc::clone(&terminates.rustls)).map_err(|error| HandshakeError::from_tls(error, None))?;
    let mut stream = TlsStream::new(tcp, ahead, Connection::Server(session));
    let verified = match stream.handshake().await {
        Ok(verified) => verified,
        Err(error) => {
            linger(*stream, &error);
            return Err(error);
        }
    };
    let review = Review {
        line,
        verifier: terminates.verifier.as_ref(),
        rehearsal,
        clock: &*terminates.clock,
        name: None,
        local_identity: terminates.identity.as_ref(),
    };
    let info = review.run_in_turn(&stream, verified).await.map_err(HandshakeError::Refused)?;
    Ok((Io::tls(stream), info))
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").field("config", &self.config).finish_non_exhaustive()
    }
}

impl fmt::Debug for Termination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Termination").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// Certificates by server name: an exact name before a wildcard, otherwise the first.
struct Certificates {
    first: Arc<CertifiedKey>,
    exact: BTreeMap<Box<str>, Arc<CertifiedKey>>,
    /// By what follows `*.`.
    wildcard: BTreeMap<Box<str>, Arc<CertifiedKey>>,
}

impl Certificates {
    fn new(credentials: &[Credentials]) -> Self {
        let (mut exact, mut wildcard) = (BTreeMap::new(), BTreeMap::new());
        for credentials in credentials {
            for name in &credentials.dns_names {
                let (names, name) = match name.strip_prefix("*.") {
                    Some(rest) => (&mut wildcard, rest),
                    None => (&mut exact, &**name),
                };
                // The first one that has a name keeps it.
                names.entry(name.into()).or_insert_with(|| Arc::clone(&credentials.key));
            }
        }
        Self { first: Arc::clone(&credentials[0].key), exact, wildcard }
    }

    fn choose(&self, name: Option<&str>) -> &Arc<CertifiedKey> {
        let Some(name) = name else { return &self.first };
        let name = name.to_ascii_lowercase();
        // A wildcard stands for one label (RFC 9525 section 6.3).
        let below = || name.split_once('.').and_then(|(_, rest)| self.wildcard.get(rest));
        self.exact.get(&*name).or_else(below).unwrap_or(&self.first)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if self.exact.is_empty() && self.wildcard.is_empty() {
            return Some(Arc::clone(&self.first));
        }
        Some(Arc::clone(self.choose(hello.server_name())))
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("names", &(self.exact.len() + self.wildcard.len())).finish_non_exhaustive()
    }
}

/// What a listener offers.
pub(super) fn offered(protocol: ListenerProtocol) -> Vec<AlpnProtocol> {
    match protocol {
        ListenerProtocol::Auto => vec![AlpnProtocol::Http2, AlpnProtocol::Http1],
        ListenerProtocol::Http1 => vec![AlpnProtocol::Http1],
        ListenerProtocol::Http2 => vec![AlpnProtocol::Http2],
        ListenerProtocol::Tcp | ListenerProtocol::Udp => Vec::new(),
    }
}

/// The verifier of clients, where they are asked for a certificate.
pub(super) fn expected(clients: ClientCertificate) -> Option<Expect> {
    match clients {
        ClientCertificate::None => None,
        ClientCertificate::Optional | ClientCertificate::Required => Some(Expect::Clients(clients)),
    }
}

/// Whether a text may be sent as a server name.
pub(super) fn is_dns_name(text: &str) -> bool {
    DnsName::try_from(text).is_ok()
}
