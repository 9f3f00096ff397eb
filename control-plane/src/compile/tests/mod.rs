//! Tests of the compiler. Meshes are written as people write them.

mod authorization;
mod backends;
mod bytes;
mod determinism;
mod examples;
mod precedence;
mod requests;
mod scale;

use std::path::PathBuf;
use std::sync::Arc;

use outrigger_config::built;
use outrigger_config::model::{
    BackendRef, CertificateFiles, Config, Identity, Listener, Place, Rule, Validated, VirtualHost,
};

use super::{Compiled, Compiler, ProxyConfig};
use crate::manifest::{Document, Mesh, Name, load};

pub(super) fn mesh(text: &str) -> Arc<Mesh> {
    let outcome = load(&[Document::new("mesh.yaml", text)], None);
    let problems: Vec<String> = outcome.problems.iter().map(|problem| problem.diagnostic.to_string()).collect();
    assert!(!outcome.has_errors(), "{}", problems.join("\n"));
    outcome.mesh
}

pub(super) fn compile(text: &str) -> Arc<Compiled> {
    Compiler::new().compile(&mesh(text))
}

/// The checked configuration of one proxy.
pub(super) fn checked(compiled: &Compiled, name: &str) -> Validated<Config> {
    let config = proxy(compiled, name).config(Some(identity()));
    built::check(config).unwrap_or_else(|problems| {
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        panic!("{}", problems.join("\n"))
    })
}

pub(super) fn proxy<'c>(compiled: &'c Compiled, name: &str) -> &'c Arc<ProxyConfig> {
    let (namespace, name) = name.split_once('/').expect("namespace and name");
    compiled.workload(&Name::new(namespace, name)).expect("the workload is there")
}

fn identity() -> Identity {
    let place = Place { file: "test".into(), line: 1, column: 1 };
    let file = |name: &str| PathBuf::from(name);
    let certificate =
        CertificateFiles { certificate: file("svid.pem"), private_key: file("svid.key"), place: place.clone() };
    Identity {
        certificate,
        trust_bundle: file("bundle.pem"),
        federated_bundles: Default::default(),
        revocation_lists: Vec::new(),
        proposed_trust_bundle: None,
        place,
    }
}

/// The virtual host of the outbound table that takes a name.
pub(super) fn host<'c>(config: &'c Config, name: &str) -> &'c VirtualHost {
    let pattern = outrigger_config::model::HostPattern::Exact(name.into());
    let hosts = &config.routes.get("outbound").expect("the outbound table").hosts;
    hosts.iter().find(|host| host.hostnames.contains(&pattern)).unwrap_or_else(|| panic!("no host {name}"))
}

pub(super) fn listener<'c>(config: &'c Config, name: &str) -> &'c Listener {
    config.listeners.iter().find(|listener| &*listener.name == name).expect("the listener is there")
}

pub(super) fn names(rules: &[Rule]) -> Vec<&str> {
    rules.iter().map(|rule| rule.name.split('@').next().expect("a name")).collect()
}

pub(super) fn weights(backends: &[BackendRef]) -> Vec<(&str, u32)> {
    backends.iter().map(|backend| (&*backend.cluster, backend.weight)).collect()
}

/// Two workloads of the namespace `shop` and the Services in front of them, `a` and `b` on port 80.
pub(super) const TWO: &str = "
apiVersion: v1
kind: Service
metadata: { name: a, namespace: shop }
spec: { selector: { app: a }, ports: [{ port: 80, targetPort: 8080 }] }
---
apiVersion: v1
kind: Service
metadata: { name: b, namespace: shop }
spec: { selector: { app: b }, ports: [{ port: 80, targetPort: 8080 }] }
---
apiVersion: outrigger.dev/v1
kind: Workload
metadata: { name: a-1, namespace: shop, labels: { app: a } }
spec: { serviceAccount: a, zone: z1, address: 10.0.0.1, ports: [{ port: 8080, inbound: 15006 }] }
---
apiVersion: outrigger.dev/v1
kind: Workload
metadata: { name: b-1, namespace: shop, labels: { app: b } }
spec: { serviceAccount: b, zone: z2, address: 10.0.0.2, ports: [{ port: 8080, inbound: 15006 }] }
";

/// `TWO` and what else there is.
pub(super) fn with(text: &str) -> String {
    format!("{TWO}---\n{text}")
}
