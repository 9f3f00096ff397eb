//! TLS on the test's side, in front of the plaintext clients and backends: a connection is made or accepted with
//! rustls, and everything above it speaks to a local socket whose bytes are carried through. An end without
//! `close_notify` arrives there as a reset, so that truncation and a proper end stay different.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientSessionMemoryCache, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, HandshakeKind, NamedGroup, ProtocolVersion, ServerConfig,
    SignatureScheme, SupportedProtocolVersion,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::http1::{Response, Wire};
use super::pki::Credential;
use super::{H1Client, H2Client, PATIENCE, within};

/// What both ends agreed on, as this end saw it.
#[derive(Debug, Clone)]
pub struct Session {
    /// The version.
    pub version: ProtocolVersion,
    /// The protocol chosen by ALPN.
    pub alpn: Option<String>,
    /// Whether it continued an earlier session.
    pub resumed: bool,
    /// How the key was agreed on; TLS 1.2 sessions that were resumed have none.
    pub group: Option<NamedGroup>,
    /// The server name, where this end is the server.
    pub sni: Option<String>,
    /// The other end's certificates, leaf first.
    pub peer: Vec<CertificateDer<'static>>,
}

impl Session {
    /// The URI names of the other end's certificate.
    pub fn peer_uris(&self) -> Vec<String> {
        names(&self.peer).0
    }

    /// The DNS names of the other end's certificate.
    pub fn peer_names(&self) -> Vec<String> {
        names(&self.peer).1
    }

    /// The serial number of the other end's certificate.
    pub fn peer_serial(&self) -> u64 {
        let leaf = self.peer.first().expect("a certificate");
        let (_, leaf) = x509_parser::parse_x509_certificate(leaf).expect("a certificate");
        leaf.tbs_certificate.serial.to_u64_digits().first().copied().unwrap_or(0)
    }
}

fn names(chain: &[CertificateDer<'_>]) -> (Vec<String>, Vec<String>) {
    use x509_parser::extensions::GeneralName;
    let Some(leaf) = chain.first() else {
        return (Vec::new(), Vec::new());
    };
    let (_, leaf) = x509_parser::parse_x509_certificate(leaf).expect("a certificate");
    let (mut uris, mut names) = (Vec::new(), Vec::new());
    if let Some(list) = leaf.subject_alternative_name().expect("at most one extension") {
        for name in &list.value.general_names {
            match name {
                GeneralName::URI(uri) => uris.push((*uri).to_owned()),
                GeneralName::DNSName(name) => names.push((*name).to_owned()),
                _ => {}
            }
        }
    }
    (uris, names)
}

/// How a client speaks TLS. It believes every server and lets the test look at the certificate.
#[derive(Debug, Clone)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
    name: Option<String>,
}

impl TlsClient {
    /// Shows this certificate, offers HTTP/1.1, never resumes.
    pub fn with(credential: &Credential) -> Self {
        Self::build(Some(credential), rustls::ALL_VERSIONS)
    }

    /// Shows no certificate.
    pub fn anonymous() -> Self {
        Self::build(None, rustls::ALL_VERSIONS)
    }

    /// As the two above, with these versions of TLS only.
    pub fn build(credential: Option<&Credential>, versions: &[&'static SupportedProtocolVersion]) -> Self {
        Self::with_provider(credential, versions, aws_lc_rs::default_provider())
    }

    /// Offers only these ways to agree on a key.
    pub fn groups(credential: &Credential, groups: &[NamedGroup]) -> Self {
        let mut provider = aws_lc_rs::default_provider();
        provider.kx_groups = aws_lc_rs::ALL_KX_GROUPS.iter().copied().filter(|g| groups.contains(&g.name())).collect();
        assert_eq!(provider.kx_groups.len(), groups.len(), "all of them are known");
        Self::with_provider(Some(credential), &[&rustls::version::TLS13], provider)
    }

    fn with_provider(
        credential: Option<&Credential>,
        versions: &[&'static SupportedProtocolVersion],
        provider: CryptoProvider,
    ) -> Self {
        let provider = Arc::new(provider);
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .expect("versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(provider)));
        let mut config = match credential {
            Some(credential) => builder
                .with_client_auth_cert(credential.certificates(), credential.private_key())
                .expect("a pair that fits"),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::disabled();
        Self { config: Arc::new(config), name: None }
    }

    /// Offers these protocols.
    pub fn alpn(mut self, protocols: &[&str]) -> Self {
        Arc::make_mut(&mut self.config).alpn_protocols =
            protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        self
    }

    /// Asks for this server name; without it, none is sent.
    pub fn sni(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Resumes sessions wherever the server lets it.
    pub fn resuming(mut self) -> Self {
        Arc::make_mut(&mut self.config).resumption = Resumption::store(Arc::new(ClientSessionMemoryCache::new(64)));
        self
    }

    /// Sends early data where the server lets it.
    pub fn early_data(mut self) -> Self {
        Arc::make_mut(&mut self.config).enable_early_data = true;
        self
    }

    /// Connects and shakes hands.
    pub async fn dial(&self, addr: SocketAddr) -> io::Result<Dialled> {
        let stream = within(PATIENCE, "connecting", TcpStream::connect(addr)).await?;
        self.over(stream).await
    }

    /// Shakes hands over a connected stream.
    pub async fn over(&self, stream: TcpStream) -> io::Result<Dialled> {
        stream.set_nodelay(true).ok();
        let name = match &self.name {
            Some(name) => ServerName::try_from(name.clone()).expect("a server name"),
            // rustls sends no SNI for an address.
            None => ServerName::from(std::net::IpAddr::from(Ipv4Addr::LOCALHOST)),
        };
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let tls = within(PATIENCE, "a TLS handshake", connector.connect(name, stream)).await?;
        let (_, connection) = tls.get_ref();
        let session = Session {
            version: connection.protocol_version().expect("after the handshake"),
            alpn: connection.alpn_protocol().map(|p| String::from_utf8_lossy(p).into_owned()),
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            group: connection.negotiated_key_exchange_group().map(|group| group.name()),
            sni: None,
            peer: connection.peer_certificates().unwrap_or_default().iter().map(|c| c.clone().into_owned()).collect(),
        };
        Ok(Dialled { session, stream: tls })
    }

    /// A client of HTTP/1.1; panics when there is no connection.
    pub async fn h1(&self, addr: SocketAddr) -> H1Client {
        self.dial(addr).await.expect("a TLS connection").h1().await
    }

    /// A client of HTTP/2; panics when there is no connection.
    pub async fn h2(&self, addr: SocketAddr) -> H2Client {
        let dialled = self.clone().alpn(&["h2"]).dial(addr).await.expect("a TLS connection");
        assert_eq!(dialled.session.alpn.as_deref(), Some("h2"));
        dialled.h2().await
    }

    /// Shakes hands and asks for `/`. In TLS 1.3 a server refuses a client's certificate after the client has
    /// finished, so only an answer shows that it was taken.
    pub async fn attempt(&self, addr: SocketAddr) -> Result<(Session, Response), String> {
        let mut dialled = self.dial(addr).await.map_err(|e| e.to_string())?;
        let session = dialled.session.clone();
        let text = within(PATIENCE, "an answer or a refusal", async {
            let request = b"GET / HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n";
            dialled.stream.write_all(request).await?;
            dialled.stream.flush().await?;
            let mut all = Vec::new();
            dialled.stream.read_to_end(&mut all).await?;
            Ok::<_, io::Error>(all)
        })
        .await
        .map_err(|e| e.to_string())?;
        if text.is_empty() {
            return Err("closed without a word".to_owned());
        }
        let (outer, inner) = pair().await;
        let wire = Wire::new(inner);
        let mut reader = Wire::new(outer);
        let (_, response) = tokio::join!(
            async {
                wire.send(&text).await.ok();
                wire.finish();
            },
            reader.response("GET")
        );
        Ok((session, response.map_err(|e| format!("{e}: {}", text.escape_ascii()))?))
    }

    /// [`Self::attempt`] that is served; panics when it is not.
    pub async fn served(&self, addr: SocketAddr) -> (Session, Response) {
        let (session, response) = self.attempt(addr).await.expect("the connection is served");
        assert_eq!(response.status, 200, "{}", response.text());
        (session, response)
    }

    /// [`Self::attempt`] that is refused; gives the error, which names the alert.
    pub async fn refused(&self, addr: SocketAddr) -> String {
        match self.attempt(addr).await {
            Err(error) => error,
            Ok((_, response)) => panic!("not refused: {} {}", response.status, response.text()),
        }
    }
}

impl TlsClient {
    /// A request over HTTP/2 that is not answered: refused in the handshake or right behind it.
    pub async fn refused_over_h2(&self, addr: SocketAddr) {
        let Ok(dialled) = self.clone().alpn(&["h2"]).dial(addr).await else {
            return;
        };
        let (outer, inner) = pair().await;
        tokio::spawn(carry(dialled.stream, inner, Manners::Proper));
        let answer = within(PATIENCE, "an answer or a refusal", async {
            let (send, connection) = h2::client::handshake(outer).await?;
            tokio::spawn(connection);
            send.ready().await?.send_request(super::h2_client::get("/"), true)?.0.await
        })
        .await;
        assert!(answer.is_err(), "answered: {answer:?}");
    }
}

/// A TLS connection that a client made.
pub struct Dialled {
    /// What was agreed on.
    pub session: Session,
    /// The connection.
    pub stream: tokio_rustls::client::TlsStream<TcpStream>,
}

impl fmt::Debug for Dialled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.session.fmt(f)
    }
}

impl Dialled {
    /// The plaintext as a socket.
    pub async fn socket(self) -> TcpStream {
        let (outer, inner) = pair().await;
        tokio::spawn(carry(self.stream, inner, Manners::Proper));
        outer
    }

    /// A client of HTTP/1.1 over it.
    pub async fn h1(self) -> H1Client {
        H1Client { wire: Wire::new(self.socket().await) }
    }

    /// A client of HTTP/2 over it.
    pub async fn h2(self) -> H2Client {
        let mut options = h2::client::Builder::new();
        options.data_frame_budget(usize::MAX);
        H2Client::over(self.socket().await, &options).await
    }
}

/// How a server speaks TLS.
#[derive(Debug, Clone)]
pub struct TlsServer {
    config: ServerConfig,
    manners: Manners,
}

/// Whether the end of a connection is announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manners {
    /// With `close_notify`.
    Proper,
    /// The connection just closes.
    Abrupt,
}

impl TlsServer {
    /// Shows this certificate, asks nobody for one, speaks HTTP/2 and HTTP/1.1.
    pub fn with(credential: &Credential) -> Self {
        Self::build(credential, rustls::ALL_VERSIONS)
    }

    /// With these versions of TLS only.
    pub fn build(credential: &Credential, versions: &[&'static SupportedProtocolVersion]) -> Self {
        Self::make(credential, versions, false)
    }

    /// Asks for a certificate and notes whatever comes.
    pub fn asking(credential: &Credential) -> Self {
        Self::make(credential, rustls::ALL_VERSIONS, true)
    }

    fn make(credential: &Credential, versions: &[&'static SupportedProtocolVersion], ask: bool) -> Self {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .expect("versions");
        let builder = if ask {
            builder.with_client_cert_verifier(Arc::new(Anyone(provider)))
        } else {
            builder.with_no_client_auth()
        };
        let mut config =
            builder.with_single_cert(credential.certificates(), credential.private_key()).expect("a pair that fits");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self { config, manners: Manners::Proper }
    }

    /// Speaks these protocols.
    pub fn alpn(mut self, protocols: &[&str]) -> Self {
        self.config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        self
    }

    /// Ends connections without `close_notify`.
    pub fn abrupt(mut self) -> Self {
        self.manners = Manners::Abrupt;
        self
    }

    /// Listens, and carries what comes to a plaintext backend.
    pub async fn front(self, backend: SocketAddr) -> TlsFront {
        TlsFront::start(self, backend).await
    }
}

/// TLS in front of a plaintext backend; stops when dropped.
#[derive(Debug)]
pub struct TlsFront {
    /// Where it listens.
    pub addr: SocketAddr,
    seen: Arc<Mutex<Vec<Result<Session, String>>>>,
    server: Arc<Mutex<TlsServer>>,
    accepting: JoinHandle<()>,
}

impl TlsFront {
    async fn start(server: TlsServer, backend: SocketAddr) -> Self {
        let listener = super::h1_backend::Refusing::new().listen();
        let addr = listener.local_addr().expect("bound");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let server = Arc::new(Mutex::new(server));
        let (log, current) = (Arc::clone(&seen), Arc::clone(&server));
        let accepting = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                let server = current.lock().expect("no panic").clone();
                let log = Arc::clone(&log);
                tokio::spawn(async move {
                    stream.set_nodelay(true).ok();
                    let acceptor = TlsAcceptor::from(Arc::new(server.config));
                    match acceptor.accept(stream).await {
                        Ok(tls) => {
                            let (_, connection) = tls.get_ref();
                            let session = Session {
                                version: connection.protocol_version().expect("after the handshake"),
                                alpn: connection.alpn_protocol().map(|p| String::from_utf8_lossy(p).into_owned()),
                                resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
                                group: connection.negotiated_key_exchange_group().map(|group| group.name()),
                                sni: connection.server_name().map(str::to_owned),
                                peer: connection
                                    .peer_certificates()
                                    .unwrap_or_default()
                                    .iter()
                                    .map(|c| c.clone().into_owned())
                                    .collect(),
                            };
                            log.lock().expect("no panic").push(Ok(session));
                            if let Ok(inner) = TcpStream::connect(backend).await {
                                carry(tls, inner, server.manners).await;
                            }
                        }
                        Err(error) => log.lock().expect("no panic").push(Err(error.to_string())),
                    }
                });
            }
        });
        Self { addr, seen, server, accepting }
    }

    /// What was agreed on with each connection so far, or how its handshake failed.
    pub fn seen(&self) -> Vec<Result<Session, String>> {
        self.seen.lock().expect("no panic").clone()
    }

    /// The sessions among them.
    pub fn sessions(&self) -> Vec<Session> {
        self.seen().into_iter().filter_map(Result::ok).collect()
    }

    /// New connections are accepted this way.
    pub fn change(&self, server: TlsServer) {
        *self.server.lock().expect("no panic") = server;
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Two ends of a local connection.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("listen");
    let addr = listener.local_addr().expect("bound");
    let (outer, inner) = tokio::join!(TcpStream::connect(addr), listener.accept());
    let (outer, inner) = (outer.expect("connect"), inner.expect("accept").0);
    outer.set_nodelay(true).ok();
    inner.set_nodelay(true).ok();
    (outer, inner)
}

/// Carries bytes between TLS and a plaintext socket until both directions have ended, each end as it came.
async fn carry<S>(tls: S, plain: TcpStream, manners: Manners)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut tls_read, mut tls_write) = tokio::io::split(tls);
    let plain = Arc::new(plain);
    let inbound = async {
        let mut buffer = vec![0; 32 * 1024];
        loop {
            match tls_read.read(&mut buffer).await {
                Ok(0) => {
                    socket2::SockRef::from(&*plain).shutdown(std::net::Shutdown::Write).ok();
                    return;
                }
                Ok(count) => {
                    if send(&plain, &buffer[..count]).await.is_err() {
                        return;
                    }
                }
                Err(_) => {
                    // A truncated or refused connection: the reader sees a reset, the writer stops.
                    socket2::SockRef::from(&*plain).set_linger(Some(Duration::ZERO)).ok();
                    return;
                }
            }
        }
    };
    let outbound = async {
        let mut buffer = vec![0; 32 * 1024];
        loop {
            if plain.readable().await.is_err() {
                return;
            }
            match plain.try_read(&mut buffer) {
                Ok(0) => {
                    if manners == Manners::Proper {
                        tls_write.shutdown().await.ok();
                    }
                    return;
                }
                Ok(count) => {
                    if tls_write.write_all(&buffer[..count]).await.is_err() || tls_write.flush().await.is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    };
    tokio::pin!(inbound, outbound);
    // After one direction ended in order the other may go on; after a failure nothing does.
    tokio::select! {
        () = &mut inbound => {
            let reset = socket2::SockRef::from(&*plain).linger().ok().flatten().is_some();
            if !reset {
                outbound.await;
            }
        }
        () = &mut outbound => if manners == Manners::Proper { inbound.await },
    }
}

async fn send(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Believes every certificate, as long as the other end holds its key.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Anyone {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ServerCertVerifier::verify_tls12_signature(self, message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ServerCertVerifier::verify_tls13_signature(self, message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ServerCertVerifier::supported_verify_schemes(self)
    }
}
