//! The Outrigger proxy. Modules in layer order, lowest first; a module imports only lower ones.

pub mod base;
pub mod telemetry;
pub mod policy;
pub mod net;
pub mod codec;
pub mod upstream;
pub mod snapshot;
pub mod proxy;
pub mod server;
pub mod discovery;
pub mod admin;
pub mod cli;
pub mod app;
