//! Layer 2: sockets.

pub mod io;
