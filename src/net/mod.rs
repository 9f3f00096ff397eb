//! Layer 2: sockets.

pub mod datagrams;
pub mod hello;
mod info;
pub mod io;
pub mod listen;
pub mod origin;
pub mod proxy_protocol;
pub mod quic;
pub mod sniff;
pub mod splice;
pub mod tls;

pub use info::{ConnInfo, HandshakeEnd};
