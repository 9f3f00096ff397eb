//! Layer 9: where configuration comes from, and how it is put into effect.
//!
//! [`watch`] says when files may have changed; [`jwks`] keeps the keys of token providers; [`apply`] makes it what runs, or says why not; [`last_good`]
//! keeps a copy for a start when the file is broken; [`status`] is what others may know about all this.

pub mod apply;
pub(crate) mod dump;
pub mod expiry;
mod fetch;
pub mod file;
pub mod jwks;
pub mod last_good;
pub mod status;
pub mod watch;

pub use apply::{Applier, Parts};
pub use last_good::LastGood;
pub use status::{Origin, Status};
pub use watch::Watch;
