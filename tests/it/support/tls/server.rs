//! A TLS server in front of a plaintext backend, which notes what was agreed on.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rustls::crypto::aws_lc_rs;
use rustls::{ServerConfig, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::anyone::Anyone;
use super::{Manners, Session, carry};
use crate::support::h1_backend::Refusing;
use crate::support::pki::Credential;

/// How a server speaks TLS.
#[derive(Debug, Clone)]
pub struct TlsServer {
    config: ServerConfig,
    manners: Manners,
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
        let listener = Refusing::new().listen();
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
                            let session = Session::of(connection, connection.server_name());
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
