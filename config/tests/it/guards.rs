//! What short forms and defaults of TLS, authorization, tokens and authorizers mean.

use std::time::Duration;

use http::header::AUTHORIZATION;
use outrigger_config::model::{
    ClientCertHeader, ClientCertificate, ClientTrust, Cluster, ClusterTlsMode, Config, JwtProvider, Listener,
    PathMatch, TlsMode, TlsVersion, TokenPlace,
};
use outrigger_config::{load, model};

/// A configuration around a listener, a rule, a cluster and further sections.
fn config(listener: &str, rule: &str, cluster: &str, rest: &str) -> Config {
    let text = format!(
        "identity: {{ certificate: a.pem, privateKey: a.key, trustBundle: roots.pem }}\n\
         listeners: [{{ name: a, bind: 127.0.0.1:1, {listener} }}]\n\
         routes: {{ r: [{{ rules: [{{ {rule} backendRefs: [{{ cluster: c }}] }}] }}] }}\n\
         clusters: {{ c: {{ {cluster} endpoints: [127.0.0.1:2] }}, raw: {{ endpoints: [127.0.0.1:3] }} }}\n{rest}\n"
    );
    (*load("a.yaml", &text).unwrap_or_else(|problems| panic!("{problems}")).config).clone()
}

fn listener(written: &str) -> Listener {
    config(&format!("routes: r, {written}"), "", "", "").listeners.remove(0)
}

fn cluster(written: &str) -> Cluster {
    config("routes: r", "", &format!("{written},"), "").clusters.remove("c").expect("the cluster")
}

fn provider(written: &str) -> JwtProvider {
    let text = format!("jwtProviders: {{ p: {{ issuer: i, audiences: [a], {written} }} }}");
    config("routes: r", "", "", &text).jwt_providers.remove("p").expect("the provider")
}

#[test]
fn a_listener_without_tls_is_one_whose_mode_is_off() {
    for written in ["", "tls: { mode: off }", "tls: { mode: \"off\" }", "tls: { mode: false }"] {
        let listener = listener(written);
        assert_eq!((listener.tls, listener.client_cert_header), (None, ClientCertHeader::Sanitize), "{written}");
    }
}

#[test]
fn callers_show_certificates_in_the_mesh_and_not_at_the_edge() {
    let own = "certificates: [{ certificate: b.pem, privateKey: b.key }]";
    for (written, asked, trust) in [
        ("mode: strict".to_owned(), ClientCertificate::Required, ClientTrust::Mesh),
        ("mode: permissive".to_owned(), ClientCertificate::Required, ClientTrust::Mesh),
        (format!("mode: strict, {own}"), ClientCertificate::None, ClientTrust::Mesh),
        (format!("mode: strict, {own}, clientCertificate: required"), ClientCertificate::Required, ClientTrust::Mesh),
        (
            "mode: strict, clientTrustBundle: c.pem".to_owned(),
            ClientCertificate::Required,
            ClientTrust::Roots("c.pem".into()),
        ),
    ] {
        let tls = listener(&format!("tls: {{ {written} }}")).tls.expect("TLS");
        assert_eq!((tls.client_certificate, tls.client_trust), (asked, trust), "{written}");
        assert_eq!((tls.min_version, tls.handshake_timeout), (TlsVersion::V1_3, Duration::from_secs(10)));
    }
}

#[test]
fn versions_are_words_with_quotes_and_without() {
    for (written, version) in [("1.2", TlsVersion::V1_2), ("\"1.2\"", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)] {
        let tls = listener(&format!("tls: {{ mode: strict, minVersion: {written} }}")).tls.expect("TLS");
        assert_eq!(tls.min_version, version, "{written}");
        let tls = cluster(&format!("tls: {{ peerIdentities: [\"spiffe://a/b\"], minVersion: {written} }}")).tls;
        assert_eq!(tls.expect("TLS").min_version, version, "{written}");
    }
}

#[test]
fn a_listener_that_hands_tls_on_needs_neither_routes_nor_an_identity() {
    let text = "listeners: [{ name: a, bind: 127.0.0.1:1, tls: { mode: passthrough, passthrough: [{ hostnames: [\"*\"], \
                backendRefs: [{ cluster: c }] }] } }]\nclusters: { c: { endpoints: [127.0.0.1:2] } }\n";
    let loaded = load("a.yaml", text).unwrap_or_else(|problems| panic!("{problems}"));
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    let listener = &loaded.config.listeners[0];
    assert_eq!(
        (listener.routes.as_ref(), listener.tls.as_ref().map(|tls| tls.mode)),
        (None, Some(TlsMode::Passthrough))
    );
}

#[test]
fn expected_identities_mean_mutual_tls() {
    for written in ["", "mode: mutual, "] {
        let tls = cluster(&format!("tls: {{ {written}peerIdentities: [\"spiffe://a/*\"] }}")).tls.expect("TLS");
        assert!(matches!(&tls.mode, ClusterTlsMode::Mutual { peer_identities } if peer_identities.len() == 1));
    }
    let tls =
        cluster("tls: { mode: simple, trustBundle: b.pem, sni: A.Example., subjectNames: [\"[::1]\", B.example] }");
    let tls = tls.tls.expect("TLS");
    assert_eq!(tls.sni.as_deref(), Some("a.example"));
    let ClusterTlsMode::Simple { subject_names, .. } = &tls.mode else { panic!("{tls:?}") };
    assert_eq!(*subject_names, ["::1".into(), "b.example".into()], "as certificates have them");
}

#[test]
fn a_rule_opts_out_of_the_authorizer_by_a_word_whatever_yaml_1_1_makes_of_it() {
    let rest = "externalAuthorizers: { o: { cluster: opa } }\n";
    for (written, asked) in [("off", false), ("false", false), ("\"off\"", false), ("on", true), ("true", true)] {
        let text = format!(
            "listeners: [{{ name: a, bind: 127.0.0.1:1, routes: r, externalAuthorization: o }}]\n\
             routes: {{ r: [{{ rules: [{{ externalAuthorization: {written}, backendRefs: [{{ cluster: c }}] }}] }}] }}\n\
             clusters: {{ c: {{ endpoints: [127.0.0.1:2] }}, opa: {{ protocol: http2, endpoints: [127.0.0.1:3] }} }}\n{rest}"
        );
        let loaded = load("a.yaml", &text).unwrap_or_else(|problems| panic!("{problems}"));
        assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
        assert_eq!(loaded.config.routes["r"].hosts[0].rules[0].external_authorization, asked, "{written}");
    }
}

#[test]
fn paths_of_authorization_are_in_the_normal_form_of_routing() {
    let paths = "[{ prefix: /v1/ }, { exact: /%7Euser }, { exact: \"/a b\" }]";
    let rest = format!(
        "authorization: {{ p: {{ default: deny, rules: [{{ name: n, action: allow, to: [{{ paths: {paths}, hosts: \
         [Payments.Shop.] }}] }}] }} }}"
    );
    let config = config("routes: r, authorization: p", "", "", &rest);
    let operation = &config.authorization["p"].rules[0].to[0];
    let expected = ["/~user", "/a%20b"].map(|path| PathMatch::Exact(path.into()));
    assert_eq!(operation.paths[0], PathMatch::Prefix("/v1".into()));
    assert_eq!(operation.paths[1..], expected);
    assert_eq!(operation.hosts, [model::HostPattern::Exact("payments.shop".into())]);
}

#[test]
fn a_token_stands_where_it_is_said_and_behind_bearer_in_authorization() {
    let header = |name, prefix: &str| TokenPlace::Header { name, prefix: prefix.into() };
    let default = provider("jwks: { file: k }");
    assert_eq!(default.from, [header(AUTHORIZATION, "Bearer ")]);
    assert_eq!(default.algorithms, model::JwtAlgorithm::ALL);
    let written = provider(
        "jwks: { file: k }, from: [{ header: Authorization }, { header: x-token }, { header: x-a, prefix: \"Token \" }]",
    );
    let named = |name| http::HeaderName::from_static(name);
    let places = [header(AUTHORIZATION, "Bearer "), header(named("x-token"), ""), header(named("x-a"), "Token ")];
    assert_eq!(written.from, places);
}

#[test]
fn a_claim_is_a_path_in_dots_or_name_by_name() {
    for (written, path) in [
        ("sub", vec!["sub"]),
        ("realm_access.roles", vec!["realm_access", "roles"]),
        ("[realm_access, roles]", vec!["realm_access", "roles"]),
        ("[\"https://id.example/roles\"]", vec!["https://id.example/roles"]),
    ] {
        let provider =
            provider(&format!("jwks: {{ file: k }}, claimsToHeaders: [{{ claim: {written}, header: x-a }}]"));
        let found: Vec<&str> = provider.claims_to_headers[0].path.iter().map(|name| &**name).collect();
        assert_eq!(found, path, "{written}");
    }
}

/// What is wrong with a listener that hands connections on.
fn connections(listener: &str, rules: &str) -> String {
    let text = format!(
        "identity: {{ certificate: a.pem, privateKey: a.key, trustBundle: roots.pem }}\n\
         jwtProviders: {{ p: {{ issuer: i, audiences: [a], jwks: {{ file: a.json }} }} }}\n\
         listeners: [{{ name: a, bind: 127.0.0.1:1, tcp: {{ backendRefs: [{{ cluster: c }}] }}, {listener} }}]\n\
         routes: {{ r: [{{ rules: [{{ backendRefs: [{{ cluster: h }}] }}] }}] }}\n\
         authorization: {{ p: {{ default: deny, rules: [{rules}] }} }}\n\
         clusters: {{ c: {{ protocol: tcp, endpoints: [127.0.0.1:2] }}, h: {{ endpoints: [127.0.0.1:3] }} }}\n"
    );
    load("a.yaml", &text).err().map(|problems| problems.to_string()).unwrap_or_default()
}

#[test]
fn a_policy_of_connections_looks_at_connections_alone() {
    let raw = "protocol: tcp, authorization: p, tls: { mode: strict }";
    let fine =
        "{ name: x, action: allow, from: [{ namespaces: [shop], addresses: [10.0.0.0/8] }], to: [{ ports: [1] }] }";
    assert_eq!(connections(raw, fine), "");
    for (condition, name) in [
        ("to: [{ paths: [{ prefix: / }] }]", "paths"),
        ("to: [{ ports: [1] }, { notMethods: [GET] }]", "notMethods"),
        ("to: [{ hosts: [a.example] }]", "hosts"),
        ("to: [{ headers: [{ name: a, exact: b }] }]", "headers"),
        ("claims: [{ claim: sub, values: [{ exact: a }] }]", "claims"),
    ] {
        let problems = connections(raw, &format!("{fine}, {{ name: y, action: deny, {condition} }}"));
        assert!(problems.contains(&format!("the rule `y` looks at `{name}`")), "{condition}: {problems}");
        let auto = connections(
            "protocol: auto, routes: r, authorization: p",
            &format!("{{ name: y, action: deny, {condition} }}"),
        );
        assert!(!auto.contains("looks at"), "requests are seen too: {auto}");
    }
}

#[test]
fn what_looks_at_requests_alone_is_not_passed_by() {
    let problems = connections("protocol: auto, routes: r, jwt: { providers: [p] }", "");
    assert!(problems.contains("without being looked at by `jwt`"), "{problems}");
    let passthrough = "protocol: tcp, authorization: p, tls: { mode: passthrough }";
    let problems = connections(passthrough, "");
    assert!(problems.contains("`authorization` has no effect"), "{problems}");
}
