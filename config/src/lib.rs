//! The language of Outrigger's configuration. No sockets, no runtime.

pub mod model;
