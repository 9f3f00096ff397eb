//! Every file of `examples/` is a configuration that works, without a warning.

use std::path::PathBuf;
use std::time::Duration;

use http::Method;
use http::header::AUTHORIZATION;
use outrigger_config::load;
use outrigger_config::model::{
    Access, AccessAction, AccessLog, Action, Cidr, ClientCertHeader, ClientCertificate, ClientTrust, ClusterTlsMode,
    Config, Direction, Filter, GrpcOperation, HostPattern, JwtAlgorithm, KeySource, ListenerProtocol, PathMatch,
    PathRewrite, RetryOn, Target, TlsMode, TlsVersion, TokenPlace, Trust, ValueMatch,
};
use outrigger_config::spiffe::{SpiffeId, TrustDomain};

/// Name and text of every example.
pub(crate) fn all() -> Vec<(String, String)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    let mut out: Vec<_> = std::fs::read_dir(folder)
        .expect("the folder of examples")
        .map(|file| {
            let path = file.expect("an entry").path();
            let name = path.file_name().and_then(|n| n.to_str()).expect("a name").to_owned();
            (name, std::fs::read_to_string(&path).expect("a readable example"))
        })
        .collect();
    out.sort();
    out
}

fn example(name: &str) -> String {
    all().into_iter().find(|(file, _)| file == name).map(|(_, text)| text).expect("the example")
}

#[test]
fn every_example_loads_without_a_problem() {
    let names: Vec<String> = all().iter().map(|(name, _)| name.clone()).collect();
    let plain = ["minimal", "grpc", "canary", "headers", "two-hop-client", "two-hop-server", "full"];
    let guarded = ["mesh-outbound", "mesh-inbound", "edge-tls", "authorization"];
    for needed in plain.into_iter().chain(guarded).chain(["bootstrap"]) {
        assert!(names.contains(&format!("{needed}.yaml")), "{needed}");
    }
    for (name, text) in all() {
        let loaded = load(&name, &text).unwrap_or_else(|problems| panic!("{problems}"));
        assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    }
}

#[test]
fn the_two_hops_meet() {
    let client = load("c", &example("two-hop-client.yaml")).expect("loads").config;
    let server = load("s", &example("two-hop-server.yaml")).expect("loads").config;
    let to = &client.clusters["payments"].endpoints[0].target;
    assert_eq!(*to, Target::Address(server.listeners[0].bind));
    assert_ne!(client.admin.address, server.admin.address);
}

#[test]
fn the_two_sides_of_the_mesh_meet_and_expect_each_other() {
    let outbound = load("o", &example("mesh-outbound.yaml")).expect("loads").config;
    let inbound = load("i", &example("mesh-inbound.yaml")).expect("loads").config;
    assert_eq!(outbound.clusters["payments"].endpoints[0].target, Target::Address(inbound.listeners[0].bind));
    let tls = outbound.clusters["payments"].tls.as_ref().expect("the hop has TLS");
    let ClusterTlsMode::Mutual { peer_identities } = &tls.mode else { panic!("{:?}", tls.mode) };
    assert_eq!(peer_identities[0].to_string(), "spiffe://mesh.local/ns/shop/sa/payments");
    let tls = inbound.listeners[0].tls.as_ref().expect("the hop has TLS");
    assert_eq!((tls.mode, tls.client_certificate), (TlsMode::Strict, ClientCertificate::Required));
    assert_eq!(inbound.listeners[0].client_cert_header, ClientCertHeader::Set);
    let rule = &inbound.authorization["payments"].rules[0];
    assert_eq!(rule.from[0].identities[0].to_string(), "spiffe://mesh.local/ns/shop/sa/shop");
}

#[test]
fn the_full_example_says_whom_it_believes() {
    let config = load("full.yaml", &example("full.yaml")).expect("loads").config;
    let identity = config.identity.as_ref().expect("an identity");
    assert_eq!(identity.certificate.certificate, PathBuf::from("/certs/svid.pem"));
    assert_eq!(identity.certificate.private_key, PathBuf::from("/certs/svid.key"));
    let partner = TrustDomain::parse("partner.example").expect("a domain");
    assert_eq!(identity.federated_bundles[&partner], PathBuf::from("/certs/partner.pem"));
    assert_eq!(identity.revocation_lists, [PathBuf::from("/certs/crl.pem")]);
    assert_eq!(identity.proposed_trust_bundle, Some(PathBuf::from("/certs/next.pem")));

    let [outbound, inbound, edge, ..] = &*config.listeners else { panic!("listeners") };
    assert_eq!((&outbound.tls, &outbound.authorization), (&None, &None));
    let tls = inbound.tls.as_ref().expect("TLS");
    assert_eq!((tls.mode, tls.proposed_mode), (TlsMode::Permissive, Some(TlsMode::Strict)));
    assert_eq!((tls.certificates.len(), &tls.client_trust), (0, &ClientTrust::Mesh));
    assert_eq!((tls.min_version, tls.max_handshakes), (TlsVersion::V1_3, 1024));
    assert_eq!(inbound.authorization.as_deref(), Some("inbound"));
    let jwt = inbound.jwt.as_ref().expect("tokens");
    assert_eq!((&*jwt.providers, jwt.required), (&["corp".into(), "partner".into()][..], true));
    let tls = edge.tls.as_ref().expect("TLS");
    assert_eq!((tls.certificates.len(), tls.client_certificate), (2, ClientCertificate::Optional));
    assert_eq!(tls.client_trust, ClientTrust::Roots("/certs/customers.pem".into()));
    assert_eq!(tls.passthrough[0].hostnames[1], HostPattern::Wildcard("legacy.example.com".into()));
    assert_eq!(&*tls.passthrough[0].backends[0].cluster, "db");

    let (v1, v2) = (&config.clusters["payments-v1"].tls, &config.clusters["payments-v2"].tls);
    assert_eq!(v1, v2, "merged by `<<`");
    let tls = config.clusters["bank"].tls.as_ref().expect("TLS");
    assert_eq!(tls.sni, None);
    let ClusterTlsMode::Simple { trust_bundle, subject_names, certificate } = &tls.mode else { panic!("{tls:?}") };
    assert_eq!((trust_bundle, &*subject_names[0]), (&PathBuf::from("/certs/bank-roots.pem"), "api.bank.example"));
    assert!(certificate.is_some());
}

#[test]
fn the_full_example_says_who_may_do_what() {
    let config = load("full.yaml", &example("full.yaml")).expect("loads").config;
    let policy = &config.authorization["inbound"];
    assert_eq!(policy.default, Access::Deny);
    let rule = &policy.rules[0];
    assert_eq!((&*rule.name, rule.action, rule.shadow), ("checkout", AccessAction::Allow, false));
    let [from] = &*rule.from else { panic!("one source") };
    let id = SpiffeId::parse("spiffe://mesh.local/ns/billing/sa/a").expect("an ID");
    assert!(from.identities.iter().any(|pattern| pattern.matches(&id)) && !from.not_identities[0].matches(&id));
    assert_eq!((&*from.namespaces[1], from.trust_domains[0].as_str()), ("billing", "mesh.local"));
    assert_eq!(from.addresses.iter().map(Cidr::to_string).collect::<Vec<_>>(), ["10.0.0.0/8", "fd00::/8"]);
    assert_eq!((from.not_namespaces.len(), from.not_trust_domains.len(), from.not_addresses.len()), (1, 1, 1));
    let [http, grpc] = &*rule.to else { panic!("two operations") };
    assert_eq!(http.hosts, [HostPattern::Exact("payments".into()), HostPattern::Wildcard("shop.svc".into())]);
    assert_eq!(http.paths[..2], [PathMatch::Prefix("/v1".into()), PathMatch::Exact("/status".into())]);
    assert_eq!(http.not_paths, [PathMatch::Prefix("/v1/internal".into())]);
    assert_eq!((&*http.methods, &*http.not_methods), (&[Method::GET, Method::POST][..], &[Method::DELETE][..]));
    assert_eq!((&*http.ports, &*http.not_ports, http.headers.len()), (&[15006, 8443][..], &[15007][..], 1));
    let charge = GrpcOperation { service: Some("shop.Payments".into()), method: Some("Charge".into()) };
    assert_eq!(grpc.grpc, [charge]);
    let [roles, tier, sub] = &*rule.claims else { panic!("three claims") };
    assert_eq!((roles.provider.as_deref(), &*roles.path), (Some("corp"), &["realm_access".into(), "roles".into()][..]));
    assert_eq!(roles.values[..2], [ValueMatch::Exact("admin".into()), ValueMatch::Prefix("pay-".into())]);
    assert!(matches!(&roles.values[2], ValueMatch::Regex(r) if r.is_match("ops-1") && !r.is_match("xops-1")));
    assert_eq!(tier.path, ["https://id.example/tier".into()]);
    assert_eq!(sub.values, [ValueMatch::Present(true)]);

    let (corp, partner) = (&config.jwt_providers["corp"], &config.jwt_providers["partner"]);
    assert_eq!((&*corp.issuer, &*corp.audiences), ("https://id.corp.example", &["payments".into()][..]));
    assert_eq!(corp.algorithms, [JwtAlgorithm::Rs256, JwtAlgorithm::Es256, JwtAlgorithm::EdDsa]);
    assert_eq!((corp.clock_skew, corp.forward), (Duration::from_secs(60), false));
    let bearer = TokenPlace::Header { name: AUTHORIZATION, prefix: "Bearer ".into() };
    assert_eq!(corp.from, [bearer.clone(), TokenPlace::Query("access_token".into())]);
    assert_eq!(corp.claims_to_headers[0].header, "x-user");
    let KeySource::Url { refresh, timeout, .. } = &corp.keys else { panic!("{:?}", corp.keys) };
    assert_eq!((*refresh, *timeout), (Duration::from_secs(600), Duration::from_secs(5)));
    assert_eq!((&partner.from, partner.algorithms.len()), (&vec![bearer], 6), "by default");
    assert_eq!(partner.keys, KeySource::File("/etc/outrigger/partner-jwks.json".into()));

    let opa = &config.external_authorizers["opa"];
    assert_eq!((&*opa.cluster, opa.timeout, opa.fail_open), ("opa", Duration::from_millis(200), false));
    assert_eq!((opa.status_on_error.as_u16(), opa.max_body_bytes), (403, 0));
    assert_eq!(opa.context, [("env".into(), "prod".into())]);
}

#[test]
fn the_full_example_says_what_it_means() {
    let text = example("full.yaml");
    let loaded = load("full.yaml", &text).expect("loads");
    let Config {
        node,
        admin,
        access_log,
        workers,
        drain,
        listeners,
        routes,
        clusters,
        // The guards have tests of their own.
        identity: _,
        authorization: _,
        jwt_providers: _,
        external_authorizers: _,
        rate_limit_services: _,
        overload: _,
    } = &*loaded.config;
    assert_eq!(
        (&*node.id, node.service.as_deref(), node.zone.as_deref()),
        ("checkout-7d9f", Some("checkout"), Some("eu-1a"))
    );
    assert_eq!(admin.address, "127.0.0.1:15000".parse().ok());
    assert_eq!((access_log, workers), (&AccessLog::Stdout, &Some(2)));
    assert_eq!((drain.accept_for, drain.deadline), (Duration::from_secs(5), Duration::from_secs(30)));

    assert_eq!((listeners[0].direction, listeners[0].trust), (Direction::Outbound, Trust::Local));
    assert_eq!((listeners[1].direction, listeners[1].trust), (Direction::Inbound, Trust::Hops(1)));
    assert_eq!(listeners[0].protocol, ListenerProtocol::Auto);
    assert_eq!(listeners[0].limits, listeners[1].limits, "the written values are the defaults");

    let hosts = &routes["outbound"].hosts;
    assert_eq!(hosts[0].hostnames[2], HostPattern::Wildcard("payments.example".into()));
    assert_eq!(hosts[1].hostnames, [HostPattern::Any]);
    let charges = &hosts[0].rules[0];
    assert_eq!(charges.matches[0].path, PathMatch::Prefix("/v1/charges".into()));
    assert_eq!(charges.matches[1].path, PathMatch::Exact("/v1/charge".into()));
    assert!(
        matches!(&charges.matches[2].path, PathMatch::Regex(r) if r.is_match("/v2/charges/7") && !r.is_match("x/v2/charges/7"))
    );
    assert_eq!(charges.matches[3].path, PathMatch::Exact("/shop.Payments/Charge".into()));
    assert!(charges.matches[3].grpc && !charges.matches[0].grpc);
    assert_eq!(charges.timeouts.request.value, Some(Duration::from_secs(2)));
    let place = charges.timeouts.request.place.as_ref().expect("it is written");
    assert_eq!(
        text.lines().nth(place.line as usize - 1).map(str::trim_start).and_then(|l| l.get(..11)),
        Some("request: 2s")
    );
    assert_eq!(charges.retry.attempts.value, 2);
    assert_eq!(charges.retry.on[4..], [RetryOn::Status(503), RetryOn::Grpc(14)]);
    assert_eq!(charges.filters.len(), 6);
    let Action::Forward(backends) = &charges.action else { panic!("{:?}", charges.action) };
    assert_eq!((backends[0].weight, backends[1].weight, backends[1].filters.len()), (95, 5, 1));
    assert!(matches!(&hosts[0].rules[1].action, Action::Redirect(r) if r.status == 308 && r.port == Some(8443)));
    assert!(matches!(&hosts[0].rules[2].action, Action::Direct(r) if r.status == 200 && *r.body == *b"ok\n"));
    // Without a path condition the matched prefix is the root.
    let rest = &hosts[0].rules[4];
    assert_eq!(rest.matches[0].path, PathMatch::Prefix("".into()));
    assert!(
        matches!(&rest.filters[0], Filter::UrlRewrite(u) if u.path == Some(PathRewrite::Prefix("/payments".into())))
    );
    assert_eq!(&*hosts[1].rules[0].name, "1/0");

    let (v1, v2) = (&clusters["payments-v1"], &clusters["payments-v2"]);
    assert_eq!((v1.connection, v1.ceilings, v1.protocol), (v2.connection, v2.ceilings, v2.protocol), "merged by `<<`");
    assert_eq!((v1.endpoints.len(), v2.endpoints.len()), (3, 2));
    assert_eq!(v1.endpoints[1].target, Target::Name { host: "payments.shop.svc".into(), port: 15006 });
}

#[test]
fn equal_texts_have_equal_hashes_of_sixteen_digits() {
    let text = example("minimal.yaml");
    let hash = |text: &str| load("a", text).expect("loads").hash;
    assert_eq!(hash(&text), hash(&text));
    assert_ne!(hash(&text), hash(&format!("{text}# more\n")));
    assert_eq!(hash(&text).len(), 16);
    assert!(hash(&text).bytes().all(|b| b.is_ascii_hexdigit()));
}

/// The minimal example with one more line.
fn with(line: &str) -> Config {
    let text = format!("{}\n{line}\n", example("minimal.yaml"));
    (*load("a.yaml", &text).unwrap_or_else(|problems| panic!("{problems}")).config).clone()
}

#[test]
fn off_is_a_word_whatever_yaml_1_1_makes_of_it() {
    for off in ["off", "\"off\"", "false"] {
        assert_eq!(with(&format!("admin: {off}")).admin.address, None, "{off}");
        assert_eq!(with(&format!("accessLog: {off}")).access_log, AccessLog::Off, "{off}");
    }
}

#[test]
fn the_access_log_has_a_short_and_a_long_form() {
    for stdout in ["stdout", "/dev/stdout", "{ path: /dev/stdout }"] {
        assert_eq!(with(&format!("accessLog: {stdout}")).access_log, AccessLog::Stdout, "{stdout}");
    }
    for file in ["/tmp/a.log", "{ path: /tmp/a.log }"] {
        assert_eq!(with(&format!("accessLog: {file}")).access_log, AccessLog::File("/tmp/a.log".into()), "{file}");
    }
}

#[test]
fn a_short_drain_deadline_shortens_the_accepting_before_it() {
    let drain = with("drain: { deadline: 2s }").drain;
    assert_eq!((drain.accept_for, drain.deadline), (Duration::from_secs(2), Duration::from_secs(2)));
}

#[test]
fn an_admin_server_for_others_must_be_said_twice() {
    let admin = with("admin: { address: 0.0.0.0:9901, allowRemote: true }").admin;
    assert_eq!(admin.address, "0.0.0.0:9901".parse().ok());
}

#[test]
fn a_node_without_a_name_has_host_and_process_for_one() {
    let id = with("node: { zone: a }").node.id;
    assert!(id.ends_with(&format!("-{}", std::process::id())), "{id}");
}

/// The rules of a table that is written as one rule with `rule` in it.
fn rule(rule: &str) -> outrigger_config::model::Rule {
    let text = format!(
        "listeners: [{{ name: a, bind: 127.0.0.1:1, routes: r }}]\nroutes: {{ r: [{{ rules: [{{ {rule}, backendRefs: \
         [{{ cluster: c }}] }}] }}] }}\nclusters: {{ c: {{ endpoints: [127.0.0.1:2] }} }}\n"
    );
    load("a.yaml", &text).unwrap_or_else(|problems| panic!("{problems}")).config.routes["r"].hosts[0].rules[0].clone()
}

#[test]
fn a_duration_of_zero_switches_a_time_limit_off_and_keeps_its_place() {
    let off = rule("timeouts: { request: 0s }").timeouts.request;
    assert_eq!(off.value, None);
    assert!(off.place.is_some());
    let default = rule("name: a").timeouts.request;
    assert_eq!((default.value, default.place), (Some(Duration::from_secs(15)), None));
}

#[test]
fn retries_without_conditions_are_only_of_what_was_never_executed() {
    let retry = rule("retry: { attempts: 3 }").retry;
    assert_eq!((retry.attempts.value, &*retry.on), (3, &[RetryOn::ConnectFailure, RetryOn::RefusedStream][..]));
    let none = rule("name: a").retry;
    assert_eq!((none.attempts.value, none.on.len()), (0, 0));
}

#[test]
fn every_grpc_status_beside_ok_is_a_condition_by_its_name() {
    let names = "cancelled, unknown, invalid-argument, deadline-exceeded, not-found, already-exists, permission-denied, \
                 resource-exhausted, failed-precondition, aborted, out-of-range, unimplemented, internal, unavailable, \
                 data-loss, unauthenticated";
    let on = rule(&format!("retry: {{ on: [{names}] }}")).retry.on;
    assert_eq!(on, (1..=16).map(RetryOn::Grpc).collect::<Vec<_>>());
}

#[test]
fn header_edits_take_a_mapping_or_a_list() {
    let map = rule("filters: [{ requestHeaders: { set: { X-A: \"1\", x-b: 2 } } }]").filters;
    let list =
        rule("filters: [{ requestHeaders: { set: [{ name: x-a, value: \"1\" }, { name: x-b, value: 2 }] } }]").filters;
    assert_eq!(map, list);
}

#[test]
fn a_trailing_slash_of_a_prefix_means_nothing() {
    for (written, stored) in [("/v1/", "/v1"), ("/v1", "/v1"), ("/", "")] {
        let path = rule(&format!("matches: [{{ path: {{ prefix: {written} }} }}]")).matches[0].path.clone();
        assert_eq!(path, PathMatch::Prefix(stored.into()), "{written}");
    }
}

#[test]
fn a_grpc_match_is_a_path_match_of_a_grpc_request() {
    for (written, path) in [
        ("{ service: a.B, method: C }", PathMatch::Exact("/a.B/C".into())),
        ("{ service: a.B }", PathMatch::Prefix("/a.B".into())),
        ("{ method: C }", PathMatch::GrpcMethod("C".into())),
        ("{}", PathMatch::Any),
    ] {
        let one = rule(&format!("matches: [{{ grpc: {written} }}]")).matches[0].clone();
        assert_eq!((one.path, one.grpc), (path, true), "{written}");
    }
}

#[test]
fn json_is_a_configuration_too() {
    let text = r#"{"listeners":[{"name":"a","bind":"127.0.0.1:1","routes":"r"}],
        "routes":{"r":[{"rules":[{"backendRefs":[{"cluster":"c"}]}]}]},"clusters":{"c":{"endpoints":["127.0.0.1:2"]}}}"#;
    assert!(load("a.json", text).is_ok());
}
