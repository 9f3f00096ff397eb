//! Layer 2: sockets.

mod info;
pub mod io;

pub use info::ConnInfo;
