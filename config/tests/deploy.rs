//! The files under `deploy/` hold what they promise, as far as that can be told without a cluster.

use std::path::Path;
use std::time::Duration;

use outrigger_config::model::{Action, PathMatch, Target};
use outrigger_config::{Loaded, load};

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The literal block (`key: |`) of a YAML text, without its indentation.
fn block(text: &str, key: &str) -> String {
    let start = format!("{key}: |");
    let mut lines = text.lines().skip_while(|line| line.trim() != start);
    let depth = |line: &str| line.len() - line.trim_start().len();
    let outer = depth(lines.next().unwrap_or_else(|| panic!("no block {key}")));
    let inside: Vec<&str> = lines.take_while(|line| line.trim().is_empty() || depth(line) > outer).collect();
    let indentation = inside.iter().filter(|line| !line.trim().is_empty()).map(|line| depth(line)).min();
    let cut = |line: &&str| line.get(indentation.unwrap_or(0)..).unwrap_or("").to_owned() + "\n";
    inside.iter().map(cut).collect()
}

/// The number behind the only mention of `key`.
fn number(text: &str, key: &str) -> u64 {
    let mut mentions = text.lines().filter(|line| !line.trim_start().starts_with('#')).filter_map(|line| {
        let (_, rest) = line.split_once(&format!("{key}: "))?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    });
    let found = mentions.next().unwrap_or_else(|| panic!("no number for {key}"));
    assert_eq!(mentions.next(), None, "{key} is there more than once");
    found
}

fn configuration() -> Loaded {
    let text = block(&read("kubernetes/config.yaml"), "outrigger.yaml");
    load("outrigger.yaml", &text).unwrap_or_else(|problems| panic!("{problems:?}"))
}

#[test]
fn the_configuration_in_the_config_map_is_good() {
    let loaded = configuration();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
}

#[test]
fn the_pod_lives_as_long_as_its_drain_takes() {
    let deployment = read("kubernetes/deployment.yaml");
    let drain = configuration().config.drain.deadline;
    let grace = Duration::from_secs(number(&deployment, "terminationGracePeriodSeconds"));
    let leaving = Duration::from_secs(number(&deployment, "preStop: { sleep: { seconds"));
    let application = Duration::from_secs(15);
    assert!(grace >= leaving + application + drain, "{grace:?} is less than {leaving:?} and the rest");
}

#[test]
fn the_ports_and_paths_are_those_of_the_configuration() {
    let deployment = read("kubernetes/deployment.yaml");
    let loaded = configuration();
    let port = |listener: &str| {
        let found = loaded.config.listeners.iter().find(|each| &*each.name == listener);
        found.unwrap_or_else(|| panic!("no listener {listener}")).bind.port()
    };
    for (name, listener) in [("mesh", "inbound"), ("probes", "probes")] {
        let line = format!("{{ name: {name}, containerPort: {} }}", port(listener));
        assert!(deployment.contains(&line), "{line}");
    }
    assert!(deployment.contains(&format!("http://127.0.0.1:{}\"", port("outbound"))), "the application's proxy");
    assert!(deployment.contains("args: [run, --config, /etc/outrigger/outrigger.yaml,"), "the file that is run");
    assert!(deployment.contains("mountPath: /etc/outrigger,"), "is in the folder that is mounted");
    assert!(!deployment.contains("subPath:"), "and the whole folder is, so that it follows changes");
    assert!(read("container/Dockerfile").contains("/etc/outrigger/outrigger.yaml"), "as the image expects it");
}

#[test]
fn only_probes_and_metrics_can_be_reached_from_outside_without_a_certificate() {
    let loaded = configuration();
    let address = loaded.config.admin.address.expect("there is one");
    assert!(address.ip().is_loopback(), "{address}");
    let mut reached = Vec::new();
    for rule in loaded.config.routes["probes"].hosts.iter().flat_map(|host| &host.rules) {
        assert!(!rule.matches.is_empty(), "no rule takes everything");
        let Action::Forward(backends) = &rule.action else { panic!("{:?}", rule.action) };
        for each in &rule.matches {
            assert_eq!(each.method.as_ref().map(http::Method::as_str), Some("GET"), "{each:?}");
            let PathMatch::Exact(path) = &each.path else { panic!("{:?}", each.path) };
            reached.extend(backends.iter().map(|backend| (backend.cluster.to_string(), path.to_string())));
        }
    }
    reached.sort();
    let expected = [("admin", "/live"), ("admin", "/metrics"), ("admin", "/ready"), ("web", "/healthz")];
    assert_eq!(reached, expected.map(|(cluster, path)| (cluster.to_owned(), path.to_owned())));
    assert_eq!(loaded.config.clusters["admin"].endpoints[0].target, Target::Address(address));
}

#[test]
fn the_identity_is_mounted_and_the_kubelet_asks_where_none_is_needed() {
    let deployment = read("kubernetes/deployment.yaml");
    let loaded = configuration();
    let identity = loaded.config.identity.as_ref().expect("there is one");
    let files = [&identity.certificate.certificate, &identity.certificate.private_key, &identity.trust_bundle];
    for file in files {
        let folder = file.parent().expect("a folder").display();
        assert!(deployment.contains(&format!("mountPath: {folder}, readOnly: true")), "{}", file.display());
    }
    let probes = loaded.config.listeners.iter().find(|listener| &*listener.name == "probes").expect("there is one");
    assert!(probes.tls.is_none(), "probes come in plaintext");
    let asked = format!("path: /healthz, port: {}", probes.bind.port());
    assert!(deployment.contains(&asked), "{asked}");
}
