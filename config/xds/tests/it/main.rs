//! The codec through its public interface.

// Other control planes still send what Envoy calls deprecated.
#![allow(deprecated, reason = "such fields are read as well")]

mod foreign;
mod foreign_bytes;
mod model;
mod opaque;
mod resilience;
mod roundtrip;
mod table;
