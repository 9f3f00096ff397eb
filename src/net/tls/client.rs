//! TLS towards the endpoints of a cluster.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use outrigger_config::model::TlsVersion;
use outrigger_config::spiffe::{IdentityPattern, SpiffeId};
use rustls::client::{ClientConnection, ResolvesClientCert, Resumption};
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, Connection, SignatureScheme};

use super::gate;
use super::material::Credentials;
use super::peer::{Alpn, AlpnProtocol, TlsInfo};
use super::quic::QuicClient;
use super::refusal::HandshakeError;
use super::session::{Line, Review};
use super::stream::TlsStream;
use super::tickets::Tickets;
use super::verify::{Expect, Verifier};
use super::{linger, provider, versions};
use crate::net::io::Io;

/// What makes connections interchangeable: part of a pool's key, compared in full.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TlsKey {
    /// Who is expected, and what is shown.
    pub mode: TlsKeyMode,
    /// The server name that is sent.
    pub sni: Option<Arc<str>>,
    /// The oldest version.
    pub min_version: TlsVersion,
    /// Goes up whenever something is taken out of the trust: a root, a trust domain, a certificate that is newly
    /// revoked. New roots and renewed certificates of our own keep it.
    pub trust_epoch: u64,
}

/// See [`TlsKey::mode`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TlsKeyMode {
    /// The mesh.
    Mutual {
        /// Who we are.
        own: Option<SpiffeId>,
        /// Who is expected.
        peers: Arc<[IdentityPattern]>,
    },
    /// A server with a name.
    Simple {
        /// Whose roots are believed.
        trust_bundle: PathBuf,
        /// Names of which it has one.
        subject_names: Arc<[Arc<str>]>,
        /// What is shown.
        certificate: Option<PathBuf>,
    },
}

/// TLS of one cluster under one configuration.
pub struct ClientTls {
    key: Arc<TlsKey>,
    sni: Option<ServerName<'static>>,
    origination: Arc<Origination>,
    line: Arc<Line>,
}

/// What shapes the library's configuration; see [`super::server::Shape`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) credentials: Option<[u8; 32]>,
    pub(super) trust: [u8; 32],
    pub(super) revocations: [u8; 32],
    pub(super) expect: Expect,
    pub(super) min_version: TlsVersion,
}

pub(super) struct Origination {
    pub(super) shape: Shape,
    rustls: Arc<ClientConfig>,
    tickets: Arc<Tickets>,
    /// The same for QUIC, where only HTTP/3 is spoken, with sessions of its own.
    pub(super) quic: Arc<ClientConfig>,
    pub(super) quic_tickets: Arc<Tickets>,
    pub(super) verifier: Arc<Verifier>,
    pub(super) identity: Option<SpiffeId>,
    pub(super) clock: Arc<dyn TimeProvider>,
}

impl Origination {
    pub(super) fn new(
        shape: Shape,
        credentials: Option<&Credentials>,
        verifier: Arc<Verifier>,
        clock: Arc<dyn TimeProvider>,
    ) -> Result<Self, rustls::Error> {
        let own = Own(credentials.map(|credentials| Arc::clone(&credentials.key)));
        let tickets = Arc::new(Tickets::default());
        let mut config = ClientConfig::builder_with_details(provider(), Arc::clone(&clock))
            .with_protocol_versions(versions(shape.min_version))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&verifier) as _)
            .with_client_cert_resolver(Arc::new(own));
        config.resumption = Resumption::store(Arc::clone(&tickets) as _);
        config.enable_early_data = false;
        // Without it a TLS 1.2 session can be resumed into another one's identity (RFC 7627).
        config.require_ems = credentials.is_some();
        let identity = credentials.and_then(|credentials| credentials.identity.clone());
        let quic_tickets = Arc::new(Tickets::default());
        let mut quic = config.clone();
        quic.alpn_protocols = vec![AlpnProtocol::Http3.wire().to_vec()];
        quic.resumption = Resumption::store(Arc::clone(&quic_tickets) as _);
        let (rustls, quic) = (Arc::new(config), Arc::new(quic));
        Ok(Self { shape, rustls, tickets, quic, quic_tickets, verifier, identity, clock })
    }
}

impl ClientTls {
    pub(super) fn new(
        key: TlsKey,
        sni: Option<ServerName<'static>>,
        origination: Arc<Origination>,
        previous: Option<&Self>,
    ) -> Self {
        let line = previous.map(|previous| Arc::clone(&previous.line)).unwrap_or_default();
        Self { key: Arc::new(key), sni, origination, line }
    }

    /// What connections made with this have in common. Kept as it is, allocation and all, while nothing in it
    /// changes.
    #[must_use]
    pub fn key(&self) -> &Arc<TlsKey> {
        &self.key
    }

    /// Runs the client's side of a handshake with an endpoint: `host` is its name where it was given by name,
    /// `address` where it is. No time limit: the caller has one for connecting. Cancel safe: dropping the
    /// future closes the connection.
    ///
    /// In TLS 1.3 a server judges our certificate after this has returned; its refusal is then the error of the
    /// first read, [`PeerAlert`](super::PeerAlert) inside.
    ///
    /// # Errors
    /// See [`HandshakeError`]; the connection is closed.
    ///
    /// # Panics
    /// When `io` carries TLS already.
    pub async fn connect(
        &self,
        io: Io,
        host: Option<&str>,
        address: SocketAddr,
        alpn: Alpn,
    ) -> Result<(Io, TlsInfo), HandshakeError> {
        let name = self.server_name(host, address);
        let (ahead, tcp) = io.into_tcp();
        let Origination { rustls, verifier, tickets, identity, clock, shape: _, quic: _, quic_tickets: _ } =
            &*self.origination;
        // It makes the key shares, which is as much work as any step.
        let session =
            gate::step(|| ClientConnection::new_with_alpn(Arc::clone(rustls), name.clone(), alpn.wire())).await;
        let session = session.map_err(|error| HandshakeError::from_tls(error, None))?;
        let mut stream = TlsStream::new(tcp, ahead, Connection::Client(session));
        let verified = match stream.handshake().await {
            Ok(verified) => verified,
            Err(error) => {
                linger(*stream, &error);
                return Err(error);
            }
        };
        let review = Review {
            line: &self.line,
            verifier: Some(verifier),
            rehearsal: None,
            clock: &**clock,
            name: Some(&name),
            local_identity: identity.as_ref(),
        };
        match review.run_in_turn(&stream, verified).await {
            Ok(info) => Ok((Io::tls(stream), info)),
            Err(refusal) => {
                // The next attempt must not meet the same session.
                tickets.forget(&name);
                Err(HandshakeError::Refused(refusal))
            }
        }
    }

    /// Begins the client's side of a handshake over QUIC, as [`ClientTls::connect`] does over TCP.
    pub(in crate::net) fn over_quic(&self, host: Option<&str>, address: SocketAddr) -> QuicClient {
        QuicClient::new(Arc::clone(&self.origination), Arc::clone(&self.line), self.server_name(host, address))
    }

    fn server_name(&self, host: Option<&str>, address: SocketAddr) -> ServerName<'static> {
        let by_host = || {
            let name = host?.trim_end_matches('.');
            ServerName::try_from(name.to_owned()).ok()
        };
        self.sni.clone().or_else(by_host).unwrap_or_else(|| ServerName::from(address.ip()))
    }

    pub(super) fn origination(&self) -> &Arc<Origination> {
        &self.origination
    }

    pub(super) fn activate(&self) {
        self.line.activate(Some(&self.origination.verifier));
    }

    /// Goes on with the key of the predecessor where it is equal, so that comparing keys ends at the pointer.
    pub(super) fn share_key(&mut self, previous: &Self) {
        if *self.key == *previous.key {
            self.key = Arc::clone(&previous.key);
        }
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("key", &self.key).finish_non_exhaustive()
    }
}

impl fmt::Debug for Origination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origination").field("shape", &self.shape).finish_non_exhaustive()
    }
}

/// Our certificate for every server that asks, if there is one. Servers need not name their authorities.
struct Own(Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for Own {
    fn resolve(&self, _root_hint_subjects: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let own = self.0.as_ref()?;
        own.key.choose_scheme(schemes).is_some().then(|| Arc::clone(own))
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Own").field(&self.0.is_some()).finish()
    }
}
