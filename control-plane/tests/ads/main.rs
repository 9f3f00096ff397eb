//! The discovery service over real sockets: clients of both protocols, in the ways of Envoy, gRPC and Outrigger.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod abuse;
mod delta;
mod fleet;
#[path = "../../benches/fleet/mesh.rs"]
mod mesh;
#[path = "../../benches/fleet/proxy.rs"]
mod proxy;
mod support;
mod world;
