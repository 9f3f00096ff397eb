//! Layer 9: where configuration comes from, and how it is put into effect.
//!
//! [`watch`] says when files may have changed; [`apply`] makes them what runs, or says why not; [`last_good`] keeps a
//! copy of the configuration for a start when it is broken; [`xds`] takes it from a control plane instead; [`jwks`] keeps the keys of token providers; [`material`]
//! and [`expiry`] know of certificates; [`status`] is what others may know about all this.

pub mod apply;
pub(crate) mod dump;
pub mod expiry;
mod fetch;
pub mod file;
pub mod jwks;
pub mod last_good;
pub mod material;
pub mod status;
pub mod watch;
pub mod xds;

pub use apply::{Applier, Parts};
pub use last_good::LastGood;
pub use status::{Origin, Status};
pub use watch::Watch;
