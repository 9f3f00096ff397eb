//! Configuration from a control plane over xDS v3 (ADS), with everything that belongs to it.
//!
//! ```text
//! dial      a connection: TCP, TLS with the server verified, HTTP/2
//! identity  the proxy's own certificate: asked for, renewed, kept (folder)
//! link      the stream, kept open: servers in order (backoff), both variants (wire)
//! session   what is asked for and answered on it; pure
//! store     the resources: in effect, and not yet
//! ```

mod backoff;
mod dial;
mod folder;
mod identity;
mod link;
mod session;
mod store;
mod wire;
