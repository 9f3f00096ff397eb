//! The Outrigger control plane.

pub mod check;
pub mod manifest;
