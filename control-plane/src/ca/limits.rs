//! Every fixed limit of the authority in one place.

use std::time::Duration;

/// A message of the service `Identity`: bytes.
pub const MESSAGE_BYTES: usize = 64 * 1024;
/// A signing request: bytes. One for the largest RSA key with a long name stays far below.
pub const REQUEST_BYTES: usize = 16 * 1024;
/// Certificates that are being issued at once; callers beyond are told to come again.
pub const ISSUING: usize = 32;
/// Refusals that one address may cause at once before its requests are turned away unread.
pub const REFUSALS: u32 = 20;
/// How long until one more refusal is allowed again.
pub const REFUSAL_EVERY: Duration = Duration::from_secs(6);
/// Addresses whose refusals are counted; when there are more, the one that was refused longest ago is forgotten.
pub const REFUSED_ADDRESSES: usize = 4096;
/// How long a join token is good, unless said otherwise.
pub const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);
/// How long a join token can be good.
pub const TOKEN_LIFETIME_MAX: Duration = Duration::from_secs(7 * 86_400);
/// Join tokens kept in memory, where there is no store.
pub const TOKENS_IN_MEMORY: usize = 10_000;
/// Audit events kept in memory, where there is no store.
pub const EVENTS_IN_MEMORY: usize = 10_000;
/// A file of certificates, a key or a state file: bytes.
pub const FILE_BYTES: usize = 1024 * 1024;
/// Certificates in a file: the signing one, those above it, the root.
pub const CHAIN_CERTIFICATES: usize = 8;
