//! The configuration file of `serve`.
//!
//! ```yaml
//! data: /var/lib/outrigger
//! directory: /etc/outrigger/manifests
//! grpc: 0.0.0.0:15010
//! api: { address: 0.0.0.0:15014, tls: true }
//! trustDomain: mesh.example
//! names: [control.example, 10.0.0.5]
//! authority: { certificates: /etc/outrigger/ca.pem, key: /etc/outrigger/ca.key }
//! serviceAccounts: { keys: /etc/outrigger/jwks.json, issuer: https://kubernetes.default.svc.cluster.local }
//! certificateLifetime: 24h
//! settle: 5m
//! roles:
//!   - { identity: spiffe://mesh.example/ns/ops/sa/deploy, role: pusher, namespaces: [shop] }
//! ```

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use outrigger_config::Diagnostics;
use outrigger_config::language::{Document, Node, Sink, nearest, quoted};
use outrigger_config::spiffe::{SpiffeId, TrustDomain};

use crate::api::Roles;
use crate::ca::{MaterialFiles, ServingNames};
use crate::store::Role;

/// What the file says; what it does not say is the default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FileConfig {
    /// `data`
    pub data: Option<PathBuf>,
    /// `directory`
    pub directory: Option<PathBuf>,
    /// `grpc`
    pub grpc: Option<SocketAddr>,
    /// `api.address`
    pub api: Option<SocketAddr>,
    /// `api.tls`
    pub api_tls: Option<bool>,
    /// `trustDomain`
    pub trust_domain: Option<TrustDomain>,
    /// `names`
    pub names: ServingNames,
    /// `authority`
    pub material: Option<MaterialFiles>,
    /// `serviceAccounts`
    pub accounts: Option<AccountFiles>,
    /// `certificateLifetime`
    pub certificate_lifetime: Option<Duration>,
    /// `settle`
    pub settle: Option<Duration>,
    /// `roles`
    pub roles: Roles,
}

/// A cluster whose service account tokens are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountFiles {
    /// Its key set (JWKS).
    pub keys: PathBuf,
    /// Its issuer, as it stands in tokens.
    pub issuer: String,
}

/// Every problem in a file.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub Diagnostics);

/// Reads a file. `name` is only used in places.
///
/// # Errors
/// Every problem.
pub fn read(name: &str, text: &str) -> Result<FileConfig, ConfigError> {
    let sink = Sink::of_part(name.into(), text, 0);
    let mut config = FileConfig::default();
    if let Some(document) = Document::parse(&sink) {
        Reading { sink: &sink }.file(document.root(), &mut config);
    }
    if sink.has_errors() { Err(ConfigError(sink.into_diagnostics())) } else { Ok(config) }
}

struct Reading<'s, 't> {
    sink: &'s Sink<'t>,
}

impl Reading<'_, '_> {
    fn file(&self, root: Node<'_, '_>, config: &mut FileConfig) {
        const KEYS: [&str; 11] = [
            "data",
            "directory",
            "grpc",
            "api",
            "trustDomain",
            "names",
            "authority",
            "serviceAccounts",
            "certificateLifetime",
            "settle",
            "roles",
        ];
        if !self.is_map(root, &KEYS) {
            return;
        }
        let path = |text: &str| Some(PathBuf::from(text));
        let address = |text: &str| text.parse().ok();
        config.data = self.value(root, "data", "a path", path);
        config.directory = self.value(root, "directory", "a path", path);
        config.grpc = self.value(root, "grpc", "an address such as 0.0.0.0:15010", address);
        if let Some(api) = root.get("api").filter(|api| self.is_map(*api, &["address", "tls"])) {
            config.api = self.value(api, "address", "an address such as 0.0.0.0:15014", address);
            config.api_tls = self.value(api, "tls", "`true` or `false`", |text| text.parse().ok());
        }
        let domain = |text: &str| TrustDomain::parse(text).ok();
        config.trust_domain = self.value(root, "trustDomain", "a trust domain such as mesh.example", domain);
        for name in self.list(root, "names") {
            match name.text() {
                Some(text) => match text.parse() {
                    Ok(address) => config.names.addresses.push(address),
                    Err(_) => config.names.dns.push(text.to_owned()),
                },
                None => self.sink.error(name.span(), "this is not a name".to_owned(), NAMES),
            }
        }
        if let Some(authority) = root.get("authority").filter(|one| self.is_map(*one, &["certificates", "key"])) {
            let certificates = self.required(authority, "certificates", "a path", path);
            let key = self.required(authority, "key", "a path", path);
            config.material = certificates.zip(key).map(|(certificates, key)| MaterialFiles { certificates, key });
        }
        if let Some(accounts) = root.get("serviceAccounts").filter(|one| self.is_map(*one, &["keys", "issuer"])) {
            let keys = self.required(accounts, "keys", "the path of a key set (JWKS)", path);
            let issuer = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
            let issuer = self.required(accounts, "issuer", "the issuer of the cluster's tokens", issuer);
            config.accounts = keys.zip(issuer).map(|(keys, issuer)| AccountFiles { keys, issuer });
        }
        config.certificate_lifetime = self.value(root, "certificateLifetime", DURATION, duration);
        config.settle = self.value(root, "settle", DURATION, duration);
        for role in self.list(root, "roles") {
            if let Some((identity, role)) = self.role(role) {
                config.roles.insert(identity, role);
            }
        }
    }

    fn role(&self, node: Node<'_, '_>) -> Option<(String, Role)> {
        if !self.is_map(node, &["identity", "role", "namespaces"]) {
            return None;
        }
        let identity = |text: &str| SpiffeId::parse(text).ok().map(|id| id.to_string());
        let identity = self.required(node, "identity", "a SPIFFE ID", identity);
        let namespaces: Vec<String> =
            self.list(node, "namespaces").iter().filter_map(Node::text).map(str::to_owned).collect();
        let role = self.required(node, "role", "viewer, pusher or admin", |text| match text {
            "viewer" => Some(Role::Viewer),
            "pusher" => Some(Role::Pusher { namespaces: namespaces.clone() }),
            "admin" => Some(Role::Admin),
            _ => None,
        });
        if matches!(&role, Some(Role::Pusher { namespaces }) if namespaces.is_empty()) {
            self.sink.error(
                node.span(),
                "a pusher without namespaces".to_owned(),
                "write `namespaces`; `*` is every one",
            );
        }
        identity.zip(role)
    }

    /// Whether it is a mapping. Keys that it must not have are reported.
    fn is_map(&self, node: Node<'_, '_>, known: &[&str]) -> bool {
        if !node.is_map() {
            self.sink.error(node.span(), "this is not a mapping".to_owned(), "write `key: value`");
            return false;
        }
        for (key, span) in node.keys() {
            if !known.contains(&key) {
                let fix = match nearest(key, known.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("there are {}", known.join(", ")),
                };
                self.sink.error(span, format!("unknown key `{}`", quoted(key)), &*fix);
            }
        }
        true
    }

    fn list<'a, 't>(&self, node: Node<'a, 't>, key: &str) -> Vec<Node<'a, 't>> {
        let Some(value) = node.get(key) else { return Vec::new() };
        value.items().unwrap_or_else(|| {
            self.sink.error(value.span(), format!("`{key}` must be a list"), "write `[a, b]`");
            Vec::new()
        })
    }

    fn value<T>(&self, node: Node<'_, '_>, key: &str, wanted: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let value = node.get(key)?;
        let parsed = value.text().and_then(parse);
        if parsed.is_none() {
            self.sink.error(value.span(), format!("`{key}` must be {wanted}"), "write it so, or leave it out");
        }
        parsed
    }

    fn required<T>(&self, node: Node<'_, '_>, key: &str, wanted: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        if node.get(key).is_none() {
            self.sink.error(node.span(), format!("`{key}` is missing"), &*format!("add it: {wanted}"));
        }
        self.value(node, key, wanted, parse)
    }
}

const NAMES: &str = "write DNS names and addresses";
const DURATION: &str = "a time such as 90s, 5m or 24h";

/// `90s`, `5m`, `24h`, `7d`.
#[must_use]
pub fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(seconds).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_file_is_read() {
        let config = read(
            "control.yaml",
            "data: /d\ndirectory: /m\ngrpc: 0.0.0.0:1\napi: { address: '[::]:2', tls: true }\ntrustDomain: a.example\n\
             names: [control.example, 10.0.0.5]\nauthority: { certificates: /c, key: /k }\n\
             serviceAccounts: { keys: /j, issuer: 'https://cluster.example' }\n\
             certificateLifetime: 12h\nsettle: 90s\nroles:\n  - { identity: 'spiffe://a.example/x', role: pusher, namespaces: [shop] }\n",
        )
        .expect("it is right");
        assert_eq!(config.api, Some("[::]:2".parse().expect("an address")));
        assert_eq!((config.names.dns.len(), config.names.addresses.len()), (1, 1));
        let accounts = AccountFiles { keys: "/j".into(), issuer: "https://cluster.example".to_owned() };
        assert_eq!(config.accounts, Some(accounts));
        assert_eq!(config.certificate_lifetime, Some(Duration::from_secs(43_200)));
        assert_eq!(config.roles["spiffe://a.example/x"], Role::Pusher { namespaces: vec!["shop".to_owned()] });
        assert_eq!(read("empty.yaml", "").expect("all defaults"), FileConfig::default());
    }

    #[test]
    fn every_problem_is_told_with_its_place() {
        let error = read(
            "c.yaml",
            "grcp: 1\napi: { address: here }\nserviceAccounts: { keys: /j }\nsettle: soon\nroles: [{ role: king }]\n",
        )
        .expect_err("it is wrong")
        .to_string();
        for wanted in [
            "did you mean `grpc`?",
            "--> c.yaml:1:1",
            "`address` must be an address",
            "`settle` must be a time",
            "`issuer` is missing",
            "`identity` is missing",
            "`role` must be viewer, pusher or admin",
        ] {
            assert!(error.contains(wanted), "{wanted}: {error}");
        }
    }
}
