//! Outrigger's configuration as Envoy v3 resources.
//!
//! The control plane encodes, the proxy decodes; both speak plain Envoy v3, so that either side may be somebody else's.
//! What Envoy's API cannot say travels in messages of our own ([`extensions`]), which others ignore.

// What Envoy calls deprecated is what many control planes still send.
#![allow(deprecated, reason = "every field of Envoy's messages is looked at, old ones too")]

#[macro_use]
mod unpack;

pub mod assemble;
mod canonical;
pub mod decode;
pub mod encode;
mod pb;
mod resource;
mod wire;

pub use assemble::{Assembled, Parts, Settings, Waiting, assemble};
pub use decode::{Context, Decoded, Refusal, decode};
pub use encode::{Form, Policies};
pub use resource::{Kind, Resource};

/// Envoy's messages.
pub use envoy_types::pb::envoy;
/// The messages that belong to every protocol.
pub use envoy_types::pb::google;

/// What Envoy's API cannot say.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]
pub mod extensions {
    tonic::include_proto!("outrigger.config.v1");
}

/// What our two programs say to each other beside xDS: certificates, and what was refused.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]
pub mod control {
    tonic::include_proto!("outrigger.control.v1");
}
