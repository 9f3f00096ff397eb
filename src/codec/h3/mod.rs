//! HTTP/3 (RFC 9114), both sides, over `quinn`, which is QUIC and knows nothing of HTTP.
//!
//! Frames ([`frames`], [`control`]) and field sections ([`qpack`]) are pure: bytes in, events out. `inbound` and
//! `outbound` are the two halves of a stream. A rule that a peer breaks on its own stream costs it the stream, one about
//! frames, settings or compression the connection, each with the code that the RFC names.

mod client;
mod code;
pub mod control;
mod exchange;
pub mod frames;
mod inbound;
mod lost;
mod outbound;
mod peer;
pub mod qpack;
mod request;
mod server;
mod varint;

use std::time::Instant;

pub use client::{H3ClientBody, H3ClientOptions, H3Connection, H3Driver, StreamSlot};
pub use code::Code;
pub use server::{H3ServerBody, serve};

/// The runtime's clock, which tests can move.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests;
