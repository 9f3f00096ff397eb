//! TLS to an ordinary server on the web, for the proxy's own errands. Nothing of the mesh is shown to it.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore};
use tokio::net::TcpStream;

use super::refusal::HandshakeError;
use super::{TlsStream, gate, provider};
use crate::net::io::Io;

/// Whom to believe on the web.
#[derive(Debug)]
pub struct WebRoots(RootCertStore);

impl WebRoots {
    /// The roots of a file.
    ///
    /// # Errors
    /// What is wrong with the file, in a sentence.
    pub fn read(bundle: &Path) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(bundle).map_err(|error| error.to_string())? {
            let certificate = certificate.map_err(|error| error.to_string())?;
            roots.add(certificate).map_err(|error| error.to_string())?;
        }
        if roots.is_empty() { Err("there is no certificate in it".to_owned()) } else { Ok(Self(roots)) }
    }

    /// The roots of the system.
    #[must_use]
    pub fn system() -> Self {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::debug!(%error, "roots of the system cannot be read");
        }
        // What the system has and the library does not understand is left out.
        let _ = roots.add_parsable_certificates(found.certs);
        Self(roots)
    }
}

/// Runs the client's side of a handshake with a server that must have a certificate for `host`. TLS 1.2 or 1.3,
/// HTTP/1.1. No time limit: the caller has one. Cancel safe: dropping the future closes the connection.
///
/// # Errors
/// See [`HandshakeError`]; the connection is closed.
pub async fn connect(tcp: TcpStream, host: &ServerName<'static>, roots: WebRoots) -> Result<Io, HandshakeError> {
    let session = gate::step(|| {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots.0)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        ClientConnection::new(Arc::new(config), host.clone())
    })
    .await;
    let session = session.map_err(|error| HandshakeError::from_tls(error, None))?;
    let mut stream = TlsStream::new(tcp, bytes::Bytes::new(), Connection::Client(session));
    stream.handshake().await?;
    Ok(Io::tls(stream))
}
