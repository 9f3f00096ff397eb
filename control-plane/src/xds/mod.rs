//! The aggregated discovery service: xDS v3, delta and state of the world.
//!
//! `session/` decides, with time as an argument: what a client holds, what it is sent next, what its answers mean. It
//! knows no sockets and no messages. `wire` reads and writes the messages of the two protocols. `stream` carries both over
//! one stream: it waits for requests, changes and time. `service` says who may open one.

pub mod limits;
mod service;
mod session;
mod stream;
mod wire;

pub use service::{Ads, tune};
