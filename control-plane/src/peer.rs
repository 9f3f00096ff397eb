//! Who is at the other end of a connection, as its certificate says.
//!
//! The acceptor of connections makes a [`Peer`] and hands it to every request through [`tonic`'s connection
//! information](tonic::transport::server::Connected); nothing that a message claims changes it.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

/// The longest name of a namespace or a workload, as in Kubernetes.
pub const MAX_NAME_BYTES: usize = 253;

/// The name of a workload, `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadId {
    namespace: Arc<str>,
    name: Arc<str>,
}

impl WorkloadId {
    /// A workload by its namespace and name.
    ///
    /// # Errors
    /// When either is empty, too long, or has a character that is not a letter, a digit, `-`, `.` or `_`.
    pub fn new(namespace: &str, name: &str) -> Result<Self, BadWorkload> {
        if is_name(namespace) && is_name(name) {
            Ok(Self { namespace: namespace.into(), name: name.into() })
        } else {
            Err(BadWorkload)
        }
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name in the namespace.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for WorkloadId {
    type Err = BadWorkload;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (namespace, name) = text.split_once('/').ok_or(BadWorkload)?;
        Self::new(namespace, name)
    }
}

/// A text that names no workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a workload is named `namespace/name`, both of letters, digits, `-`, `.` and `_`")]
pub struct BadWorkload;

/// The other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The SPIFFE ID in its certificate. None: it showed no certificate.
    pub spiffe_id: Option<Arc<str>>,
    /// The workload that its certificate names, which is the one that it may ask for. None: it may ask for none.
    pub workload: Option<WorkloadId>,
    /// When its certificate ends. From then on no new stream is taken on the connection.
    pub expires: Option<SystemTime>,
    /// Where it connected from.
    pub address: Option<SocketAddr>,
}

fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    !text.is_empty() && text.len() <= MAX_NAME_BYTES && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_is_written_as_it_is_read() {
        let id: WorkloadId = "shop/payments-1".parse().unwrap();
        assert_eq!((id.namespace(), id.name()), ("shop", "payments-1"));
        assert_eq!(id.to_string(), "shop/payments-1");
    }

    #[test]
    fn what_names_no_workload_is_refused() {
        for text in ["", "payments", "/payments", "shop/", "shop/pay/ments", "shop/pay ments", "shop/pay\nments"] {
            assert_eq!(text.parse::<WorkloadId>(), Err(BadWorkload), "{text:?}");
        }
        assert_eq!(WorkloadId::new("shop", &"x".repeat(254)), Err(BadWorkload));
    }
}
