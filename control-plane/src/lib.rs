//! The Outrigger control plane.

pub mod ca;
pub mod check;
pub mod peer;
pub mod store;
pub mod tls;
