//! The Outrigger control plane.
//!
//! ```text
//! manifest   kinds as written, validation over the whole mesh, status conditions
//! compile    a mesh to the configuration of each proxy
//! store      generations, answers, tokens, audit: what outlives the process
//! ca, tls    certificates, and the doors that ask for them
//! fleet, xds proxies, and what they are told
//! engine     what happens on a push and on a change of the watched directory
//! api, cli   REST, and the commands that speak it
//! serve      wires everything
//! ```

pub mod api;
pub mod ca;
pub mod check;
pub mod cli;
pub mod compile;
pub mod engine;
pub mod fleet;
pub mod manifest;
pub mod peer;
pub mod serve;
pub mod store;
mod throttle;
pub mod tls;
pub mod xds;
