//! The language of Outrigger's configuration. No sockets, no runtime.

pub mod model;

/// A configuration that passed validation, and what it was read from.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: model::Validated<model::Config>,
    /// The first 16 hexadecimal digits of the SHA-256 of the text.
    pub hash: String,
}
