//! Interoperation, both ways: our proxy takes its configuration from a control plane that knows nothing of it, and a stock
//! Envoy and a gRPC client take theirs from ours.
//!
//! ```text
//! foreign    the other control plane: Python, Envoy's messages, delta and state of the world
//! resources  what it sends: plain Envoy v3 resources, as JSON
//! subject    a data plane under test: our proxy or Envoy, told by a control plane
//! plain      one table of requests over plain resources, the same for our proxy and for Envoy
//! security   TLS with secrets, rules on who may call, tokens: over plain resources
//! refusals   what is not supported or not safe: refused by name and field, the rest in effect
//! live       changes while requests run; streams that end
//! control    our control plane as a process
//! clients    our proxy, Envoy and a gRPC client, each told by our control plane
//! table      one table of manifests, for Envoy and our proxy from the same control plane
//! ```

mod clients;
mod control;
mod echo;
mod foreign;
mod live;
mod plain;
mod refusals;
mod resources;
mod security;
pub mod subject;
mod table;
