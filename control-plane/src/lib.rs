//! The Outrigger control plane.

pub mod check;
