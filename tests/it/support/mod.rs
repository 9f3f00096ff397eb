//! What the tests stand on: the proxy as a child process, backends that record and misbehave on
//! command, clients that can say anything, and ways to wait for an event instead of sleeping.

pub mod abuse;
pub mod ads;
pub mod any;
pub mod config;
pub mod frames;
pub mod gate;
pub mod h1_backend;
pub mod h1_client;
pub mod h2_backend;
pub mod h2_client;
pub mod http1;
pub mod namespace;
pub mod openssl;
pub mod pki;
pub mod process;
pub mod proxy;
pub mod relay;
pub mod signer;
pub mod tls;
pub mod wait;
pub mod websocket;

pub use ads::{Ads, Speaks};
pub use config::Config;
pub use h1_backend::{Conn, H1Backend};
pub use h1_client::H1Client;
pub use h2_backend::{Call, H2Backend};
pub use h2_client::H2Client;
pub use http1::response;
pub use namespace::Namespace;
pub use pki::Mesh;
pub use proxy::Proxy;
pub use tls::{TlsClient, TlsServer};
pub use wait::{PATIENCE, eventually, within};

use std::time::Duration;

/// Milliseconds, written short because tests are full of them.
pub const fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

/// Whether the long forms of the tests were asked for (`OUTRIGGER_FULL=1`).
pub fn full() -> bool {
    std::env::var_os("OUTRIGGER_FULL").is_some_and(|v| v == "1")
}
