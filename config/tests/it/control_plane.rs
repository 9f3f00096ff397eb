//! What a file says that leaves the rest to a control plane.

use std::time::Duration;

use outrigger_config::model::{ControlIdentity, ControlPlane, ControlServer, Join};
use outrigger_config::{Loaded, load};

fn loaded(settings: &str) -> Result<Loaded, String> {
    load("a.yaml", &format!("controlPlane: {{ {settings} }}\n")).map_err(|problems| problems.to_string())
}

fn control_plane(settings: &str) -> ControlPlane {
    loaded(settings).unwrap_or_else(|problems| panic!("{settings}: {problems}")).control_plane.expect("there")
}

fn refused(settings: &str) -> String {
    loaded(settings).expect_err(settings)
}

#[test]
fn the_least_is_a_server_and_the_roots_to_verify_it_by() {
    let ControlPlane { servers, expect, trust_bundle, join, workload, max_age, delta, place } =
        control_plane("servers: [control.mesh:15012], trustBundle: /b.pem");
    assert_eq!(servers, [ControlServer { host: "control.mesh".into(), port: 15012, tls: true }]);
    assert_eq!((expect, join, workload), (ControlIdentity::Host, None, None));
    assert_eq!((trust_bundle, max_age, delta), (Some("/b.pem".into()), Duration::from_secs(72 * 3600), true));
    assert_eq!(place.line, 1);
    assert!(refused("servers: [control.mesh:15012]").contains("trustBundle"));
    assert!(refused("trustBundle: /b.pem").contains("servers"));
}

#[test]
fn plaintext_is_for_this_host_unless_it_is_asked_for() {
    assert!(!control_plane("servers: [\"http://127.0.0.1:1\", \"http://[::1]:1\"]").servers[0].tls);
    for elsewhere in ["10.0.0.1:1", "localhost:1", "control.mesh:1"] {
        let settings = format!("servers: [\"http://{elsewhere}\"]");
        assert!(refused(&settings).contains("without TLS"), "{elsewhere}");
        control_plane(&format!("{settings}, allowPlaintext: true"));
    }
}

#[test]
fn what_the_control_plane_says_cannot_be_in_the_file_too() {
    let text = "controlPlane: { servers: [\"http://127.0.0.1:1\"] }\nlisteners: []\nroutes: {}\nclusters: {}\n\
                authorization: {}\njwtProviders: {}\nexternalAuthorizers: {}\n";
    let problems = load("a.yaml", text).expect_err("refused").to_string();
    for section in ["listeners", "routes", "clusters", "authorization", "jwtProviders", "externalAuthorizers"] {
        assert!(problems.contains(&format!("`{section}` and `controlPlane` are in one file")), "{section}: {problems}");
    }
    assert!(problems.contains("a.yaml:2:"), "{problems}");
}

#[test]
fn proofs_and_names_exclude_each_other() {
    let with = |more: &str| format!("servers: [a:1], trustBundle: b.pem, {more}");
    for (more, join) in [
        ("joinToken: { file: /t }", Join::TokenFile("/t".into())),
        ("joinToken: { environment: T }", Join::TokenVariable("T".into())),
        ("serviceAccountTokenFile: /t, workload: a/b", Join::ServiceAccount("/t".into())),
    ] {
        assert_eq!(control_plane(&with(more)).join, Some(join));
    }
    for (more, said) in [
        ("joinToken: { file: /t }, serviceAccountTokenFile: /t", "one proof is enough"),
        ("joinToken: { file: /t, environment: T }", "exactly one"),
        ("joinToken: {}", "neither"),
        ("serviceAccountTokenFile: /t", "workload"),
        ("serverName: a, serverIdentity: spiffe://a/b", "keep one of the two"),
        ("serverIdentity: a", "SPIFFE"),
        ("workload: a", "namespace"),
        ("delta: on", "auto"),
    ] {
        let problems = refused(&with(more));
        assert!(problems.contains(said), "{more}: {problems}");
    }
}

#[test]
fn a_certificate_comes_one_way() {
    let identity = "identity: { certificate: a.pem, privateKey: a.key, trustBundle: roots.pem }\n";
    let control = |more: &str| format!("{identity}controlPlane: {{ servers: [a:1], trustBundle: b.pem{more} }}\n");
    let loaded = load("a.yaml", &control("")).expect("files of its own");
    assert!(loaded.warnings.is_empty() && loaded.config.identity.is_some(), "{}", loaded.warnings);
    let problems = load("a.yaml", &control(", joinToken: { file: /t }")).expect_err("both").to_string();
    assert!(problems.contains("at once"), "{problems}");
}
