//! What must hold for any input at all, one function a subject: `check` panics when it does not.
//!
//! The fuzz targets in `fuzz/targets` call these with inputs of their own making; `tests/seeds.rs` calls them with every file
//! in `fuzz/seeds`, on every toolchain, as part of the ordinary tests. A finding becomes a seed.

pub mod authz_path;
pub mod client_hello;
pub mod h3_frames;
pub mod jwt;
pub mod qpack;
pub mod spiffe;
pub mod xds;
