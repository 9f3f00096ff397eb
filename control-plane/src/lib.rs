//! The Outrigger control plane.

pub mod check;
pub mod fleet;
pub mod peer;
pub mod xds;
