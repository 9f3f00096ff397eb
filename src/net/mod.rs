//! Layer 2: sockets.

mod info;
pub mod io;
pub mod listen;
pub mod sniff;
pub mod tls;

pub use info::ConnInfo;
