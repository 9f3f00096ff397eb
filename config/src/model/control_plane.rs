//! Where a configuration comes from that is not in the file.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::Place;
use crate::spiffe::IdentityPattern;

/// How the control plane is reached, and what this proxy is to it. It belongs to the process, not to what the control
/// plane says.
#[derive(Debug, Clone, PartialEq)]
pub struct ControlPlane {
    /// Tried in this order, at least one.
    pub servers: Vec<ControlServer>,
    /// Who a server with TLS must be.
    pub expect: ControlIdentity,
    /// Roots that it is verified by (PEM), until it has given us a bundle. There whenever a server has TLS.
    pub trust_bundle: Option<PathBuf>,
    /// What is shown for the first certificate. `None`: certificates come another way.
    pub join: Option<Join>,
    /// The workload, `namespace/name`.
    pub workload: Option<Arc<str>>,
    /// How old the last good configuration may be when it is used at a start (default 72 h).
    pub max_age: Duration,
    /// Whether changes alone are asked for, where the server can (default true).
    pub delta: bool,
    /// Where it is written.
    pub place: Place,
}

/// One address of the control plane.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ControlServer {
    /// A name or an address; IPv6 without brackets.
    pub host: Arc<str>,
    /// The port.
    pub port: u16,
    /// Whether TLS is spoken.
    pub tls: bool,
}

impl std::fmt::Display for ControlServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { host, port, tls } = self;
        let scheme = if *tls { "https" } else { "http" };
        if host.contains(':') { write!(f, "{scheme}://[{host}]:{port}") } else { write!(f, "{scheme}://{host}:{port}") }
    }
}

/// Who a server must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlIdentity {
    /// A workload of the mesh.
    Spiffe(IdentityPattern),
    /// A server with a certificate for this name.
    Name(Arc<str>),
    /// A server with a certificate for the host that it is reached by.
    Host,
}

/// What a proxy shows for its first certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Join {
    /// A join token in a file.
    TokenFile(PathBuf),
    /// A join token in an environment variable.
    TokenVariable(Arc<str>),
    /// A service account token in a file.
    ServiceAccount(PathBuf),
}
