//! What the programs of the comparison share: certificates, TLS settings and the ways of making load.
//!
//! Everything here runs beside a proxy that is being measured, on the other core, and does as little as it can.

pub mod load;
pub mod pki;
pub mod tls;
pub mod websocket;
