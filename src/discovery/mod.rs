//! Layer 9: where configuration comes from, and how it is put into effect.
//!
//! [`mod@file`] says when the file may have changed; [`apply`] makes it what runs, or says why not; [`last_good`]
//! keeps a copy for a start when the file is broken; [`status`] is what others may know about all this.

pub mod apply;
pub(crate) mod dump;
pub mod file;
pub mod last_good;
pub mod status;

pub use apply::{Applier, Parts};
pub use file::FileWatch;
pub use last_good::LastGood;
pub use status::{Origin, Status};
