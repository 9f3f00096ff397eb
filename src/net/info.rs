//! What is known of a downstream connection from its socket.

use std::net::SocketAddr;
use std::sync::Arc;

use super::tls::TlsInfo;

/// What is known of a downstream connection before its first request.
#[derive(Debug, Clone)]
pub struct ConnInfo {
    /// The listener that accepted it.
    pub listener: Arc<str>,
    /// The other side.
    pub peer: SocketAddr,
    /// Our side.
    pub local: SocketAddr,
    /// The worker that serves it.
    pub worker: usize,
    /// What its TLS handshake settled; `None` is plaintext.
    pub tls: Option<Arc<TlsInfo>>,
}
