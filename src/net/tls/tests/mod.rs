//! Both sides of TLS over loopback, with certificates made on the spot.

mod handshakes;
mod material;
mod pki;
mod quic;
mod refusals;
mod resumption;
mod rotation;
mod streams;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use outrigger_config::model::Config;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, Connection, ServerConfig};
use tokio::net::{TcpListener, TcpStream};

use self::pki::{Authority, Issued, Leaf, TestClock};
use super::stream::TlsStream;
use super::*;
use crate::net::io::Io;

const SERVER_ID: &str = "spiffe://mesh.local/ns/shop/sa/server";
const CLIENT_ID: &str = "spiffe://mesh.local/ns/shop/sa/client";

/// One side: the contents of its files, and its configuration.
struct Side {
    files: BTreeMap<PathBuf, Vec<u8>>,
    yaml: String,
    clock: Arc<TestClock>,
}

impl Side {
    fn new(clock: &Arc<TestClock>, yaml: &str) -> Self {
        Self { files: BTreeMap::new(), yaml: yaml.to_owned(), clock: Arc::clone(clock) }
    }

    /// Terminates TLS on the listener `inbound` as `server`.
    fn server(clock: &Arc<TestClock>, root: &Authority) -> Self {
        let mut side = Self::new(clock, SERVER);
        side.identity(&root.issue(&Leaf::svid(SERVER_ID))).put("bundle.pem", &root.pem);
        side
    }

    /// Connects to the cluster `up`, expecting `server`, as `client`.
    fn client(clock: &Arc<TestClock>, root: &Authority) -> Self {
        let mut side = Self::new(clock, CLIENT);
        side.identity(&root.issue(&Leaf::svid(CLIENT_ID))).put("bundle.pem", &root.pem);
        side
    }

    fn identity(&mut self, issued: &Issued) -> &mut Self {
        self.put("svid.pem", &issued.chain).put("svid.key", &issued.key)
    }

    fn put(&mut self, name: &str, contents: &str) -> &mut Self {
        self.files.insert(PathBuf::from("/tls").join(name), contents.into());
        self
    }

    fn change(&mut self, from: &str, to: &str) -> &mut Self {
        assert!(self.yaml.contains(from), "{from} is in {}", self.yaml);
        self.yaml = self.yaml.replace(from, to);
        self
    }

    fn config(&self) -> Config {
        let loaded = outrigger_config::load("test.yaml", &self.yaml).unwrap_or_else(|error| panic!("{error:?}"));
        (*loaded.config).clone()
    }

    fn try_build(&self, previous: Option<&TlsSet>) -> Result<TlsSet, Vec<MaterialError>> {
        let secrets = Secrets::from_contents(self.files.clone());
        let clock = Arc::clone(&self.clock) as _;
        TlsSet::build_with(&self.config(), &secrets, previous, self.clock.now(), &clock)
    }

    fn build(&self) -> TlsSet {
        self.try_build(None).unwrap_or_else(|errors| panic!("{errors:#?}"))
    }

    fn rebuild(&self, previous: &TlsSet) -> TlsSet {
        let set = self.try_build(Some(previous)).unwrap_or_else(|errors| panic!("{errors:#?}"));
        set.activate();
        set
    }
}

const SERVER: &str = "
identity:
  certificate: /tls/svid.pem
  privateKey: /tls/svid.key
  trustBundle: /tls/bundle.pem
listeners:
  - name: inbound
    bind: 127.0.0.1:15006
    routes: r
    tls: { mode: strict }
routes:
  r: [{ rules: [{ backendRefs: [{ cluster: app }] }] }]
clusters:
  app: { endpoints: [127.0.0.1:8080] }
";

const CLIENT: &str = "
identity:
  certificate: /tls/svid.pem
  privateKey: /tls/svid.key
  trustBundle: /tls/bundle.pem
listeners:
  - name: outbound
    bind: 127.0.0.1:15001
    routes: r
routes:
  r: [{ rules: [{ backendRefs: [{ cluster: up }] }] }]
clusters:
  up:
    protocol: http2
    endpoints: [10.0.0.7:15006]
    tls: { peerIdentities: [\"spiffe://mesh.local/ns/shop/sa/server\"] }
";

type Settled = Result<(Io, TlsInfo), HandshakeError>;

async fn connected() -> (Io, Io, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let client = TcpStream::connect(address).await.expect("a connection");
    let (server, _) = listener.accept().await.expect("a connection");
    (Io::tcp(client), Io::tcp(server), address)
}

/// Both sides' outcome.
async fn shake(server: &TlsSet, client: &TlsSet) -> (Settled, Settled) {
    shake_as(server, client, Alpn::Http2).await
}

async fn shake_as(server: &TlsSet, client: &TlsSet, alpn: Alpn) -> (Settled, Settled) {
    let (ours, theirs, address) = connected().await;
    let server = Arc::clone(server.server("inbound").expect("a listener"));
    let client = Arc::clone(client.client("up").expect("a cluster"));
    tokio::join!(server.accept(theirs), client.connect(ours, None, address, alpn))
}

/// Both sides, when they agree.
async fn agree(server: &TlsSet, client: &TlsSet) -> ((Io, TlsInfo), (Io, TlsInfo)) {
    let (server, client) = shake(server, client).await;
    (server.expect("the server agrees"), client.expect("the client agrees"))
}

/// How the server sees a client that follows no rules: it shows this and believes everybody.
async fn stranger(server: &TlsSet, shown: Option<&Issued>) -> Settled {
    let (ours, theirs, _) = connected().await;
    let server = Arc::clone(server.server("inbound").expect("a listener"));
    let config = lenient_client(shown);
    let name = ServerName::try_from("inbound.example").expect("a name");
    let session = rustls::ClientConnection::new(config, name).expect("a client");
    let (settled, _) = tokio::join!(server.accept(theirs), finish(ours, Connection::Client(session)));
    settled
}

/// How the client sees a server that shows this.
async fn impostor(client: &TlsSet, shown: &Issued) -> Settled {
    let (ours, theirs, address) = connected().await;
    let client = Arc::clone(client.client("up").expect("a cluster"));
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("suites")
        .with_client_cert_verifier(WebPkiClientVerifier::no_client_auth())
        .with_single_cert(shown.certificates(), key(shown))
        .expect("they belong together");
    config.alpn_protocols = Alpn::Http2.wire();
    let session = rustls::ServerConnection::new(Arc::new(config)).expect("a server");
    let connect = client.connect(ours, None, address, Alpn::Http2);
    let (settled, _) = tokio::join!(connect, finish(theirs, Connection::Server(session)));
    settled
}

/// Runs a handshake of the library to its end and then waits for the other side to say or do something.
async fn finish(io: Io, session: Connection) -> Result<Box<TlsStream>, HandshakeError> {
    let (_, tcp) = io.into_tcp();
    let mut stream = TlsStream::new(tcp, Bytes::new(), session);
    stream.handshake().await?;
    Ok(stream)
}

fn key(issued: &Issued) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).expect("PEM")
}

fn lenient_client(shown: Option<&Issued>) -> Arc<ClientConfig> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("suites")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous));
    Arc::new(match shown {
        Some(shown) => config.with_client_auth_cert(shown.certificates(), key(shown)).expect("they belong together"),
        None => config.with_no_client_auth(),
    })
}

/// Believes every server.
#[derive(Debug)]
struct Credulous;

impl rustls::client::danger::ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _end_entity: &rustls::pki_types::CertificateDer<'_>,
        _intermediates: &[rustls::pki_types::CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &rustls::pki_types::CertificateDer<'_>,
        _dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &rustls::pki_types::CertificateDer<'_>,
        _dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
