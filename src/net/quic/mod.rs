//! QUIC (RFC 9000): endpoints over UDP with the credentials, verifiers and limits of TLS over TCP.
//!
//! The transport is `quinn`. Here is what it leaves to its user: sockets, which worker a datagram belongs to, TLS as
//! the configuration has it, and what a connection may cost. What is said on a connection is `codec::h3`'s business.

mod client;
mod failure;
mod ids;
mod server;
mod socket;
mod steering;
mod transport;

pub use client::{ClientTransport, close_all, connect};
pub use failure::peer_alert;
pub use server::{Arrival, Established, Server, ServerTransport, Station, Unfinished};
pub use socket::bind;
pub use steering::Steering;
pub use transport::ask;
