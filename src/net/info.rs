//! What is known of a downstream connection from its socket.

use std::net::SocketAddr;
use std::sync::Arc;

/// What is known of a downstream connection before its first byte.
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
}
