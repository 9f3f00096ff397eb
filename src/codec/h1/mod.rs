//! HTTP/1.0 and HTTP/1.1 (RFC 9110, RFC 9112), both sides. `httparse` reads the fields; framing, strictness,
//! 1xx and connection handling are ours, because a proxy must know what was sent, see both framing fields,
//! and pass 1xx on (docs/adr/0002).
//!
//! Everything about one connection is polled by one task: a server connection runs its handler in place, and
//! a client exchange is driven by whoever reads the response.

mod buffer;
mod client;
mod decode;
mod encode;
mod request;
mod respond;
mod response;
mod server;
mod tunnel;
mod upgrade;

pub use client::{ClientBody, ClientConn, Home};
pub use server::{ServerBody, TunnelRun, serve, serve_requests};
pub use tunnel::{ClientTunnel, ServerTunnel};

#[cfg(test)]
mod tests;
