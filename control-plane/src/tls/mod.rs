//! The control plane's doors: TLS 1.3 in front of the gRPC and the REST port.
//!
//! [`Door`] accepts, shakes hands and hands out [`Conn`]s, to tonic as a stream and to axum as a listener. A client
//! certificate is optional, and verified against the roots that are believed at that moment; who came with one is in
//! the [`Peer`](crate::peer::Peer) of the connection. A connection ends when the certificate that it was made with
//! does. Sessions are not resumed, because a resumed one would skip the verification.

mod config;
mod conn;
mod door;
mod identity;
pub mod limits;
mod verifier;

use std::sync::{Arc, OnceLock};

use rustls::crypto::CryptoProvider;

pub use conn::Conn;
pub use door::{Door, DoorError, Mode, Speaks};

/// The cryptography of every TLS configuration in the process.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider())))
}
