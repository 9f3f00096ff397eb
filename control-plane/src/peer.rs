//! Who is at the other end of a connection.

use std::fmt;
use std::net::SocketAddr;

use outrigger_config::spiffe::SpiffeId;

/// The caller, as its connection proves it; nothing in a message adds to it. In the extensions of every request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its identity: the one URI of a client certificate that was verified.
    pub id: Option<SpiffeId>,
    /// The workload that the certificate was issued to.
    pub workload: Option<WorkloadKey>,
    /// Where it connects from.
    pub address: SocketAddr,
}

/// The name of a workload: `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadKey {
    /// Its namespace.
    pub namespace: String,
    /// Its name in there.
    pub name: String,
}

impl WorkloadKey {
    /// Reads `namespace/name`. Each part is 1 to 63 (namespace) or 253 (name) lower-case letters, digits, `-` and, in
    /// names, `.`; it begins and ends with a letter or a digit, as Kubernetes has it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (namespace, name) = text.split_once('/')?;
        Self::new(namespace, name)
    }

    /// The same from its parts.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Option<Self> {
        let ends = |text: &str| text.starts_with(is_plain) && text.ends_with(is_plain);
        let namespace_fits =
            namespace.len() <= 63 && ends(namespace) && namespace.chars().all(|char| is_plain(char) || char == '-');
        let name_fits =
            name.len() <= 253 && ends(name) && name.chars().all(|char| is_plain(char) || matches!(char, '-' | '.'));
        (namespace_fits && name_fits).then(|| Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

impl fmt::Display for WorkloadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

fn is_plain(char: char) -> bool {
    char.is_ascii_lowercase() || char.is_ascii_digit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_is_named_by_namespace_and_name() {
        let key = WorkloadKey::parse("shop/payments-1.x").expect("a workload");
        assert_eq!(
            (&*key.namespace, &*key.name, key.to_string()),
            ("shop", "payments-1.x", "shop/payments-1.x".into())
        );
        for text in
            ["", "/", "shop", "shop/", "/a", "a/b/c", "Shop/a", "shop/A", "sh.op/a", "-a/b", "a/b-", "a/b c", "a/ü"]
        {
            assert_eq!(WorkloadKey::parse(text), None, "{text}");
        }
        assert!(WorkloadKey::parse(&format!("{}/a", "n".repeat(64))).is_none());
        assert!(WorkloadKey::parse(&format!("n/{}", "a".repeat(254))).is_none());
    }
}
