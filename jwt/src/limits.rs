//! How much of a token or a key set is looked at.

/// A JSON Web Token: bytes.
pub const JWT_BYTES: usize = 8 * 1024;
/// Keys that one token is tried with.
pub const JWT_KEYS_TRIED: usize = 8;
/// A provider's key set: bytes. Whoever reads the document keeps to it.
pub const JWKS_BYTES: usize = 1024 * 1024;
/// A provider's key set: keys.
pub const JWKS_KEYS: usize = 128;
