//! Every fixed limit of the doors in one place.

use std::time::Duration;

/// Open connections of one door, unless said otherwise; the next ones wait in the kernel.
pub const CONNECTIONS: usize = 4096;
/// Of these, the share of those without a client certificate is one in this many: whoever proves nothing cannot take
/// every place.
pub const ANONYMOUS_SHARE: usize = 2;
/// Handshakes of one door at once; the next ones wait in the kernel.
pub const HANDSHAKES: usize = 256;
/// How long a handshake takes at most.
pub const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections that have shaken hands and have not been taken up yet.
pub const READY: usize = 64;
/// How long nothing is accepted after accepting has failed: descriptors may have run out.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a gRPC connection without a client certificate lasts: long enough to get one. Others could be kept out by
/// those that stay for nothing.
pub const ANONYMOUS_GRPC: Duration = Duration::from_secs(60);
