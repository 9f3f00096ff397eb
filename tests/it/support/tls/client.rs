//! A TLS client that shows whatever it is told to and believes everybody.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use rustls::client::{ClientSessionMemoryCache, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, NamedGroup, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::anyone::Anyone;
use super::{Manners, Session, carry, pair};
use crate::support::http1::{Response, Wire};
use crate::support::pki::Credential;
use crate::support::{H1Client, H2Client, PATIENCE, h2_client, within};

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

    /// The same for QUIC, offering HTTP/3.
    pub fn quic(&self) -> quinn::ClientConfig {
        let config = self.clone().alpn(&["h3"]).config;
        let config = quinn::crypto::rustls::QuicClientConfig::try_from(config).expect("TLS 1.3");
        quinn::ClientConfig::new(Arc::new(config))
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
        let session = Session::of(connection, None);
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
            send.ready().await?.send_request(h2_client::get("/"), true)?.0.await
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
