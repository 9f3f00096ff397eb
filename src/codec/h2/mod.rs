//! HTTP/2 (RFC 9113), both sides, over the `h2` crate.
//!
//! The library frames, compresses, counts windows and limits floods. What a proxy needs beside that is here:
//! judging messages, 1xx, resets and what they prove, backpressure from one connection to the other, idle and
//! age limits, keepalive, and counting streams before they are opened.

mod client;
mod exchange;
mod fault;
mod pump;
mod reader;
mod request;
mod server;
mod wire;

use std::time::Instant;

pub use client::{H2ClientBody, H2ClientOptions, H2Connection, H2Driver, OnRelease, StreamSlot};
pub use server::{H2ServerBody, serve};

/// The runtime's clock, which tests can move.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
pub(in crate::codec) mod tests;
