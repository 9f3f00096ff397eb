//! The Outrigger control plane.

pub mod ca;
pub mod check;
pub mod compile;
pub mod fleet;
pub mod manifest;
pub mod peer;
pub mod store;
pub mod tls;
pub mod xds;
