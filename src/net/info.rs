//! What is known of a downstream connection from its socket.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;

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
    /// The end of its handshake, where requests may come before that.
    pub handshake: Option<HandshakeEnd>,
}

/// The end of a handshake that is not waited for. What comes before it, somebody may have recorded and sent again (RFC 8470).
#[derive(Debug, Clone)]
pub struct HandshakeEnd(watch::Receiver<bool>);

impl HandshakeEnd {
    /// The end, and who tells of it: true is a good one; nobody left to tell is a bad one.
    #[must_use]
    pub fn to_come() -> (watch::Sender<bool>, Self) {
        let (tell, told) = watch::channel(false);
        (tell, Self(told))
    }

    /// Whether it has come, and the caller is there.
    #[must_use]
    pub fn has_come(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits for it. False: the handshake has failed, and with it the connection. Cancel safe.
    pub async fn wait(&self) -> bool {
        self.0.clone().wait_for(|over| *over).await.is_ok()
    }
}
