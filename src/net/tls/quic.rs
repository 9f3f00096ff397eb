//! TLS inside QUIC (RFC 9001): the same credentials, verifiers and second looks as over TCP. The transport carries
//! the messages and protects its packets with the keys that come out of them.
//!
//! A session belongs to one connection and leaves what came of it in an [`Outcome`] for whoever waits: the transport's own
//! errors have room for an alert only.

use std::any::Any;
use std::fmt;
use std::io::Cursor;
use std::sync::Arc;

use aws_lc_rs::aead;
use parking_lot::Mutex;
use quinn_proto::crypto::{self, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, UnsupportedVersion};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectError, ConnectionId, Side, TransportError, TransportErrorCode};
use rustls::pki_types::ServerName;
use rustls::quic::{ClientConnection, Connection, KeyChange, Secrets, ServerConnection, Suite, Version};
use rustls::{AlertDescription, CipherSuite, HandshakeKind};

use super::client::Origination;
use super::peer::{Peer, TlsInfo};
use super::provider;
use super::refusal::{HandshakeError, Refusal, noted};
use super::server::Termination;
use super::session::{Line, Review};
use super::verify::Verifier;

/// The one version that is spoken: QUIC version 1 (RFC 9000).
pub(in crate::net) const QUIC_VERSION: u32 = 1;

/// What came of a handshake; nothing yet while it runs, or where the transport ended it.
#[derive(Debug, Clone, Default)]
pub(in crate::net) struct Outcome(Arc<Mutex<Option<Result<TlsInfo, HandshakeError>>>>);

impl Outcome {
    pub(in crate::net) fn take(&self) -> Option<Result<TlsInfo, HandshakeError>> {
        self.0.lock().take()
    }

    fn is(&self, result: Result<TlsInfo, HandshakeError>) {
        *self.0.lock() = Some(result);
    }
}

/// Who sends early data, as soon as it is known that some is taken: the one of the session that is resumed.
#[derive(Debug, Clone, Default)]
pub(in crate::net) struct Early(Arc<Mutex<Option<TlsInfo>>>);

impl Early {
    pub(in crate::net) fn take(&self) -> Option<TlsInfo> {
        self.0.lock().take()
    }
}

/// The server's side of one handshake.
#[derive(Debug)]
pub(in crate::net) struct QuicServer {
    own: Own,
    outcome: Outcome,
    /// `None` where early data is not taken.
    early: Option<Early>,
}

/// The client's side of one handshake.
#[derive(Debug)]
pub(in crate::net) struct QuicClient {
    own: Own,
    name: ServerName<'static>,
    outcome: Outcome,
}

/// What packets of no connection yet are protected with: everybody knows it.
#[derive(Debug)]
pub(in crate::net) struct ForeignPackets;

/// Whose side of a handshake.
#[derive(Debug, Clone)]
enum Own {
    Server { terminates: Arc<Termination>, line: Arc<Line>, rehearsal: Option<Arc<Verifier>> },
    Client { originates: Arc<Origination>, line: Arc<Line> },
}

impl QuicServer {
    pub(super) fn new(terminates: Arc<Termination>, line: Arc<Line>, rehearsal: Option<Arc<Verifier>>) -> Self {
        let early = terminates.shape.early.map(|_| Early::default());
        Self { own: Own::Server { terminates, line, rehearsal }, outcome: Outcome::default(), early }
    }

    /// Where it is told who sends early data, before the caller's first message was answered.
    pub(in crate::net) fn early(&self) -> Option<Early> {
        self.early.clone()
    }

    pub(in crate::net) fn outcome(&self) -> Outcome {
        self.outcome.clone()
    }
}

impl QuicClient {
    pub(super) fn new(originates: Arc<Origination>, line: Arc<Line>, name: ServerName<'static>) -> Self {
        Self { own: Own::Client { originates, line }, name, outcome: Outcome::default() }
    }

    pub(in crate::net) fn outcome(&self) -> Outcome {
        self.outcome.clone()
    }

    /// The name that the server has to have a certificate for.
    pub(in crate::net) fn name(&self) -> &ServerName<'static> {
        &self.name
    }
}

impl crypto::ServerConfig for QuicServer {
    fn initial_keys(&self, version: u32, id: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        ForeignPackets.initial_keys(version, id)
    }

    fn retry_tag(&self, version: u32, id: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        ForeignPackets.retry_tag(version, id, packet)
    }

    fn start_session(self: Arc<Self>, _version: u32, own: &TransportParameters) -> Box<dyn crypto::Session> {
        let Own::Server { terminates, .. } = &self.own else { unreachable!("a server has a server's side") };
        let tls = ServerConnection::new(Arc::clone(&terminates.quic), Version::V1, written(own))
            .expect("the configuration has TLS 1.3 and a suite for QUIC");
        let session = Session::new(Connection::Server(tls), self.own.clone(), None, self.outcome.clone());
        Box::new(Session { early: self.early.clone(), ..session })
    }
}

impl crypto::ClientConfig for QuicClient {
    fn start_session(
        self: Arc<Self>,
        _version: u32,
        _name: &str,
        own: &TransportParameters,
    ) -> Result<Box<dyn crypto::Session>, ConnectError> {
        let Own::Client { originates, .. } = &self.own else { unreachable!("a client has a client's side") };
        let tls = ClientConnection::new(Arc::clone(&originates.quic), Version::V1, self.name.clone(), written(own));
        let tls = tls.map_err(|error| {
            self.outcome.is(Err(HandshakeError::from_tls(error, None)));
            ConnectError::UnsupportedVersion
        })?;
        let name = Some(self.name.clone());
        Ok(Box::new(Session::new(Connection::Client(tls), self.own.clone(), name, self.outcome.clone())))
    }
}

impl crypto::ServerConfig for ForeignPackets {
    fn initial_keys(&self, version: u32, id: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        if version == QUIC_VERSION { Ok(initial_keys(*id, Side::Server)) } else { Err(UnsupportedVersion) }
    }

    fn retry_tag(&self, _version: u32, id: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        let (key, nonce) = retry_key();
        let tag = key.seal_in_place_separate_tag(nonce, aead::Aad::from(retry_pseudo_packet(id, &[packet])), &mut []);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(tag.expect("there is nothing to seal").as_ref());
        bytes
    }

    /// # Panics
    /// Always: each connection is accepted with a [`QuicServer`] of its own.
    fn start_session(self: Arc<Self>, _version: u32, _own: &TransportParameters) -> Box<dyn crypto::Session> {
        unreachable!("connections are accepted with a configuration of their own")
    }
}

/// TLS of one connection.
struct Session {
    tls: Connection,
    own: Own,
    /// The name that a client connects to.
    name: Option<ServerName<'static>>,
    /// Whom the verifier saw.
    peer: Option<Peer>,
    next_secrets: Option<Secrets>,
    /// The transport was told that something is known of the peer.
    told: bool,
    /// The handshake is over.
    done: bool,
    /// Where it is told who sends early data, until that was looked at.
    early: Option<Early>,
    outcome: Outcome,
}

impl Session {
    fn new(tls: Connection, own: Own, name: Option<ServerName<'static>>, outcome: Outcome) -> Self {
        Self { tls, own, name, peer: None, next_secrets: None, told: false, done: false, early: None, outcome }
    }

    /// Takes messages of the peer.
    fn read(&mut self, messages: &[u8]) -> Result<(), TransportError> {
        let _ = noted();
        let result = self.tls.read_hs(messages);
        let refused: Option<Refusal> = match noted() {
            Some(Ok(peer)) => {
                self.peer = Some(peer);
                None
            }
            Some(Err(refusal)) => Some(refusal),
            None => None,
        };
        if let Err(error) = result {
            let alert = self.tls.alert();
            self.outcome.is(Err(HandshakeError::from_tls(error, refused)));
            return Err(failure(alert.unwrap_or(AlertDescription::InternalError)));
        }
        if self.tls.is_handshaking() {
            return self.look_at_early_data();
        }
        if !self.done {
            self.done = true;
            self.conclude()?;
        }
        Ok(())
    }

    /// A session is resumed, and its early data will be taken: whose it is, is judged before anybody sees it, as strictly
    /// as at the end of the handshake.
    fn look_at_early_data(&mut self) -> Result<(), TransportError> {
        if self.tls.handshake_kind() != Some(HandshakeKind::Resumed) || self.tls.zero_rtt_keys().is_none() {
            return Ok(());
        }
        let Some(early) = self.early.take() else { return Ok(()) };
        match self.judge(None) {
            Ok(info) => {
                *early.0.lock() = Some(info);
                Ok(())
            }
            Err(refusal) => {
                let alert = failure(refusal.reason.description());
                self.outcome.is(Err(HandshakeError::Refused(refusal)));
                Err(alert)
            }
        }
    }

    /// The second look, before the transport believes that it is connected: so a refusal goes out as an alert.
    fn conclude(&mut self) -> Result<(), TransportError> {
        let peer = self.peer.take();
        let verdict = self.judge(peer);
        let refused = verdict.as_ref().err().map(|refusal| failure(refusal.reason.description()));
        self.outcome.is(verdict.map_err(HandshakeError::Refused));
        refused.map_or(Ok(()), Err)
    }

    /// `peer`: whom the verifier saw in this handshake.
    fn judge(&self, peer: Option<Peer>) -> Result<TlsInfo, Refusal> {
        match &self.own {
            Own::Server { terminates, line, rehearsal } => {
                let review = Review {
                    line,
                    verifier: terminates.verifier.as_ref(),
                    rehearsal: rehearsal.as_ref(),
                    clock: &*terminates.clock,
                    name: None,
                    local_identity: terminates.identity.as_ref(),
                };
                review.run(&self.tls, self.sni(), peer)
            }
            Own::Client { originates, line } => {
                let review = Review {
                    line,
                    verifier: Some(&originates.verifier),
                    rehearsal: None,
                    clock: &*originates.clock,
                    name: self.name.as_ref(),
                    local_identity: originates.identity.as_ref(),
                };
                let verdict = review.run(&self.tls, None, peer);
                if let (Err(_), Some(name)) = (&verdict, &self.name) {
                    // The next attempt must not meet the same session.
                    originates.quic_tickets.forget(name);
                }
                verdict
            }
        }
    }

    fn sni(&self) -> Option<&str> {
        match &self.tls {
            Connection::Server(server) => server.server_name(),
            Connection::Client(_) => None,
        }
    }
}

impl crypto::Session for Session {
    fn initial_keys(&self, id: &ConnectionId, side: Side) -> Keys {
        initial_keys(*id, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        // What is known goes into the outcome.
        self.told.then(|| Box::new(()) as _)
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        None
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        let keys = self.tls.zero_rtt_keys()?;
        Some((Box::new(keys.header), Box::new(keys.packet)))
    }

    fn early_data_accepted(&self) -> Option<bool> {
        match &self.tls {
            Connection::Client(client) => Some(client.is_early_data_accepted()),
            Connection::Server(_) => None,
        }
    }

    fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    fn read_handshake(&mut self, messages: &[u8]) -> Result<bool, TransportError> {
        self.read(messages)?;
        let first = !self.told && (self.tls.alpn_protocol().is_some() || !self.tls.is_handshaking());
        self.told |= first;
        Ok(first)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        let Some(bytes) = self.tls.quic_transport_parameters() else { return Ok(None) };
        let side = match self.tls {
            Connection::Client(_) => Side::Client,
            Connection::Server(_) => Side::Server,
        };
        TransportParameters::read(side, &mut Cursor::new(bytes)).map(Some).map_err(TransportError::from)
    }

    fn write_handshake(&mut self, messages: &mut Vec<u8>) -> Option<Keys> {
        Some(boxed(match self.tls.write_hs(messages)? {
            KeyChange::Handshake { keys } => keys,
            KeyChange::OneRtt { keys, next } => {
                self.next_secrets = Some(next);
                keys
            }
        }))
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        let keys = self.next_secrets.as_mut()?.next_packet_keys();
        Some(KeyPair { local: Box::new(keys.local), remote: Box::new(keys.remote) })
    }

    fn is_valid_retry(&self, id: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        let Some((payload, tag)) = payload.split_last_chunk::<16>() else { return false };
        let (key, nonce) = retry_key();
        let associated = aead::Aad::from(retry_pseudo_packet(id, &[header, payload]));
        key.open_in_place(nonce, associated, &mut tag.to_vec()).is_ok()
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        let exported = self.tls.export_keying_material(output, label, Some(context));
        exported.map(drop).map_err(|_| ExportKeyingMaterialError)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("own", &self.own).field("done", &self.done).finish_non_exhaustive()
    }
}

/// Ends the connection with an alert (RFC 9001 section 4.8). What is behind it stays here.
fn failure(alert: AlertDescription) -> TransportError {
    TransportError { code: TransportErrorCode::crypto(alert.into()), frame: None, reason: String::new() }
}

fn written(parameters: &TransportParameters) -> Vec<u8> {
    let mut bytes = Vec::new();
    parameters.write(&mut bytes);
    bytes
}

fn initial_keys(id: ConnectionId, side: Side) -> Keys {
    let side = match side {
        Side::Client => rustls::Side::Client,
        Side::Server => rustls::Side::Server,
    };
    boxed(initial_suite().keys(&id, side, Version::V1))
}

/// Initial packets are protected with this suite (RFC 9001 section 5.2).
fn initial_suite() -> Suite {
    let provider = provider();
    let suite = provider.cipher_suites.iter().find(|suite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256);
    suite.and_then(|suite| suite.tls13()?.quic_suite()).expect("the provider has the mandatory suite")
}

fn boxed(keys: rustls::quic::Keys) -> Keys {
    let rustls::quic::Keys { local, remote } = keys;
    Keys {
        header: KeyPair { local: Box::new(local.header), remote: Box::new(remote.header) },
        packet: KeyPair { local: Box::new(local.packet), remote: Box::new(remote.packet) },
    }
}

/// What a Retry packet is sealed with (RFC 9001 section 5.8): not a secret, it only shows that nothing was damaged.
fn retry_key() -> (aead::LessSafeKey, aead::Nonce) {
    const KEY: [u8; 16] =
        [0xbe, 0x0c, 0x69, 0x0b, 0x9f, 0x66, 0x57, 0x5a, 0x1d, 0x76, 0x6b, 0x54, 0xe3, 0x68, 0xc8, 0x4e];
    const NONCE: [u8; 12] = [0x46, 0x15, 0x99, 0xd3, 0x5d, 0x63, 0x2b, 0xf2, 0x23, 0x98, 0x25, 0xbb];
    let key = aead::UnboundKey::new(&aead::AES_128_GCM, &KEY).expect("a key of the right length");
    (aead::LessSafeKey::new(key), aead::Nonce::assume_unique_for_key(NONCE))
}

fn retry_pseudo_packet(id: &ConnectionId, parts: &[&[u8]]) -> Vec<u8> {
    let length = u8::try_from(id.len()).expect("connection IDs have at most 20 bytes");
    [&[length], &**id].into_iter().chain(parts.iter().copied()).flatten().copied().collect()
}
