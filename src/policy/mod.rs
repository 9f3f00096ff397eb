//! Layer 1: decisions. Everything here is pure: no await, no clock, no socket. `now` is an argument, random
//! numbers come from a caller-owned state, and live counters are atomics that the caller places.
//!
//! In the order in which a request meets them:
//!
//! * [`path`] and [`host`]: the normal forms that everything after reads
//! * [`route`]: which rule a request belongs to

pub mod host;
pub mod path;
pub mod route;
