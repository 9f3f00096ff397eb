//! TLS 1.3 settings of the load generator and of the backend: mutual, one cipher suite, one group.
//!
//! The load generator offers exactly one of each, so that every proxy does the same arithmetic.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// A key agreement.
#[derive(Debug, Clone, Copy)]
pub enum Group {
    /// Elliptic curve only.
    X25519,
    /// The hybrid with ML-KEM-768.
    X25519MlKem768,
}

/// A client with the certificate of `client`, which speaks `alpn` only. Every call makes new resumption storage.
///
/// # Errors
/// When the files of [`crate::pki`] are not in `directory`.
pub fn client(directory: &Path, group: Group, alpn: &str, resumption: Resumption) -> anyhow::Result<Arc<ClientConfig>> {
    let (chain, key) = identity(directory, "client")?;
    let mut config = ClientConfig::builder_with_provider(provider(Some(group)))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots(directory)?)
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    config.resumption = resumption;
    Ok(Arc::new(config))
}

/// A server with the certificate of `backend`, which requires one of its clients and speaks HTTP/2 only.
///
/// # Errors
/// When the files of [`crate::pki`] are not in `directory`.
pub fn server(directory: &Path) -> anyhow::Result<Arc<ServerConfig>> {
    let (chain, key) = identity(directory, "backend")?;
    let provider = provider(None);
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots(directory)?), Arc::clone(&provider)).build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

fn provider(group: Option<Group>) -> Arc<CryptoProvider> {
    let groups = match group {
        Some(Group::X25519) => vec![kx_group::X25519],
        Some(Group::X25519MlKem768) => vec![kx_group::X25519MLKEM768],
        None => vec![kx_group::X25519MLKEM768, kx_group::X25519],
    };
    Arc::new(CryptoProvider {
        cipher_suites: vec![cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: groups,
        ..aws_lc_rs::default_provider()
    })
}

fn identity(directory: &Path, name: &str) -> anyhow::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let chain = certificates(&directory.join(format!("{name}.pem")))?;
    let path = directory.join(format!("{name}.key"));
    let key = PrivateKeyDer::from_pem_file(&path).with_context(|| format!("read {}", path.display()))?;
    Ok((chain, key))
}

fn roots(directory: &Path) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&directory.join("ca.pem"))? {
        roots.add(certificate)?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(path).and_then(Iterator::collect).with_context(|| format!("read {}", path.display()))
}
