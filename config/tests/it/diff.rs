//! What a change of the configuration is reported as.

use outrigger_config::{Diff, diff, load};

const BASE: &str = "\
listeners:
  - { name: inbound, bind: 127.0.0.1:1, routes: r }
  - { name: old, bind: 127.0.0.1:2, routes: r }
routes:
  r:
    - hostnames: [a.example]
      rules:
        - { name: one, matches: [{ path: { prefix: /one } }], backendRefs: [{ cluster: c }] }
        - { name: two, matches: [{ path: { prefix: /two } }], backendRefs: [{ cluster: c }] }
clusters:
  c: { endpoints: [127.0.0.1:3, 127.0.0.1:4] }
";

fn changed(from: &str, to: &str) -> Diff {
    assert!(BASE.contains(from), "{from}");
    between(BASE, &BASE.replacen(from, to, 1))
}

fn between(old: &str, new: &str) -> Diff {
    let load = |text: &str| load("a.yaml", text).unwrap_or_else(|problems| panic!("{problems}")).config;
    diff(&load(old), &load(new))
}

#[test]
fn moving_lines_and_comments_changes_nothing() {
    let moved =
        between(BASE, &format!("# a comment\n\n{}", BASE.replace("name: one, ", "  name: one ,\n            ")));
    assert!(moved.is_empty(), "{moved}");
    assert_eq!((moved.to_string(), moved.summary()), (String::new(), "nothing".to_owned()));
}

#[test]
fn each_kind_of_change_has_its_line() {
    for (from, to, line) in [
        ("listeners:", "workers: 3\nlisteners:", "~ workers\n"),
        ("listeners:", "node: { id: x }\nlisteners:", "~ node\n"),
        ("127.0.0.1:2, routes: r }", "127.0.0.1:5, routes: r, maxHeaders: 5 }", "~ listener old: bind, limits\n"),
        ("  - { name: old, bind: 127.0.0.1:2, routes: r }\n", "", "- listener old\n"),
        ("name: old", "name: new", "+ listener new\n- listener old\n"),
        ("[a.example]", "[a.example, b.example]", "~ routes r: hostnames\n"),
        ("/one", "/uno", "~ rule r/one: matches\n"),
        ("name: one,", "name: one, retry: {}, timeouts: { idle: 1s },", "~ rule r/one: timeouts, retry\n"),
        ("name: one", "name: uno", "+ rule r/uno\n- rule r/one\n"),
        ("c: {", "c: { protocol: http2, dns: { minTtl: 2s },", "~ cluster c: protocol, dns\n"),
        (
            "127.0.0.1:4]",
            "127.0.0.1:5, { address: \"x.y:1\", zone: z }]",
            "+ endpoint c 127.0.0.1:5\n+ endpoint c x.y:1\n- endpoint c 127.0.0.1:4\n",
        ),
        ("127.0.0.1:4]", "{ address: 127.0.0.1:4, weight: 2 }]", "~ endpoint c 127.0.0.1:4: weight\n"),
        (
            "127.0.0.1:4]",
            "{ address: 127.0.0.1:4, priority: 1, labels: { v: a }, condition: draining }]",
            "~ endpoint c 127.0.0.1:4: priority, labels, condition\n",
        ),
        ("listeners:", "overload: { refuseAt: 85 }\nlisteners:", "~ overload\n"),
        (
            "c: {",
            "c: { loadBalancing: { panicThreshold: 0 }, circuitBreaker: { cluster: {} },",
            "~ cluster c: loadBalancing, circuitBreaker\n",
        ),
        (
            "c: {",
            "c: { healthCheck: { tcp: {} }, outlierDetection: {}, queue: {}, concurrency: adaptive,",
            "~ cluster c: healthCheck, outlierDetection, queue, concurrency\n",
        ),
        (
            "name: one,",
            "name: one, hedge: { after: 1s }, circuitBreaker: {}, criticality: critical, rateLimits: [{ name: a, requests: 1, per: 1s }],",
            "~ rule r/one: hedge, circuitBreaker, rateLimits, criticality\n",
        ),
        (
            "name: one,",
            "name: one, sessionPersistence: { header: x-s, keyFile: /k }, filters: [{ mirror: { cluster: c } }],",
            "~ rule r/one: filters, sessionPersistence\n",
        ),
        (
            "127.0.0.1:2, routes: r }",
            "127.0.0.1:2, routes: r, rateLimits: [{ name: a, requests: 1, per: 1s }] }",
            "~ listener old: rateLimits\n",
        ),
        (
            "127.0.0.1:2, routes: r }",
            "127.0.0.1:2, routes: r, upgrades: { connect: route }, proxyProtocol: strict, interception: {}, intercepts: \
             [{ ports: [80] }], tcp: { backendRefs: [{ cluster: c }] } }",
            "~ listener old: upgrades, tcp, proxyProtocol, interception, intercepts\n",
        ),
        (
            "127.0.0.1:2, routes: r }",
            "127.0.0.1:2, protocol: udp, udp: { backendRefs: [{ cluster: c }] } }",
            "~ listener old: protocol, routes, udp\n",
        ),
        ("  c: {", "  d: { endpoints: [127.0.0.1:9] }\n  c: {", "+ cluster d\n"),
    ] {
        assert_eq!(changed(from, to).to_string(), line, "{from} -> {to}");
    }
}

#[test]
fn an_explicit_default_of_a_rules_time_limit_is_a_change() {
    // Written, it holds for streaming requests too.
    assert_eq!(changed("name: one,", "name: one, timeouts: { request: 15s },").to_string(), "~ rule r/one: timeouts\n");
}

#[test]
fn a_breaker_that_somebody_wrote_is_a_change_although_its_settings_are_the_defaults() {
    // Written, it also takes out the last endpoint.
    for setting in ["failureThreshold: 5", "resetTimeout: 30s", "maxResetTimeout: 5m"] {
        let written = changed("c: {", &format!("c: {{ circuitBreaker: {{ {setting} }},"));
        assert_eq!(written.to_string(), "~ cluster c: circuitBreaker\n", "{setting}");
    }
}

#[test]
fn the_order_of_rules_is_a_meaning_and_the_order_of_hosts_is_none() {
    let (head, tail) = BASE.split_at(BASE.find("        - { name: one").expect("rule one"));
    let (one, rest) = tail.split_at(tail.find("        - { name: two").expect("rule two"));
    let (two, rest) = rest.split_at(rest.find("clusters:").expect("the clusters"));
    assert_eq!(between(BASE, &format!("{head}{two}{one}{rest}")).to_string(), "~ routes r: order of rules\n");

    let host = |name: &str, rules: &str| format!("    - hostnames: [{name}]\n      rules:\n{rules}");
    let start = BASE.split_at(BASE.find("    - hostnames").expect("the host")).0;
    let forward = format!("{start}{}{}{rest}", host("a.example", one), host("b.example", two));
    let backward = format!("{start}{}{}{rest}", host("b.example", two), host("a.example", one));
    assert_eq!(between(&forward, &backward), Diff::default());
    let moved = format!("{start}{}{}{rest}", host("a.example", two), host("b.example", one));
    assert_eq!(between(&forward, &moved).to_string(), "~ routes r: order of rules\n");
}

#[test]
fn the_summary_counts() {
    let change = changed(
        "127.0.0.1:2, routes: r }",
        "127.0.0.1:5, routes: r }\n  - { name: new, bind: 127.0.0.1:6, routes: r }",
    );
    assert_eq!(change.summary(), "listeners 2");
    assert_eq!(change.to_string(), "+ listener new\n~ listener old: bind\n");
}

const GUARDED: &str = "\
identity: { certificate: a.pem, privateKey: a.key, trustBundle: roots.pem }
listeners:
  - name: inbound
    bind: 127.0.0.1:1
    routes: r
    tls: { mode: strict }
    authorization: p
    jwt: { providers: [corp] }
    externalAuthorization: opa
  - { name: sni, bind: 127.0.0.1:2, tls: { mode: passthrough, passthrough: [{ hostnames: [a.b], backendRefs: [{ cluster: raw }] }] } }
routes: { r: [{ rules: [{ name: all, backendRefs: [{ cluster: c }, { cluster: s }] }] }] }
clusters:
  c: { tls: { peerIdentities: [\"spiffe://a/b\"] }, endpoints: [127.0.0.1:3] }
  s: { tls: { mode: simple, trustBundle: s.pem, certificate: s.pem, privateKey: s.key }, endpoints: [\"s.b:3\"] }
  raw: { endpoints: [127.0.0.1:4] }
  opa: { protocol: http2, endpoints: [127.0.0.1:5] }
authorization:
  p:
    default: deny
    rules:
      - { name: one, action: allow, from: [{ identities: [\"spiffe://a/b\"] }] }
      - { name: two, action: allow, to: [{ methods: [GET] }] }
jwtProviders: { corp: { issuer: i, audiences: [a], jwks: { file: keys.json } } }
externalAuthorizers: { opa: { cluster: opa } }
";

fn guarded(from: &str, to: &str) -> Diff {
    assert!(GUARDED.contains(from), "{from}");
    between(GUARDED, &GUARDED.replacen(from, to, 1))
}

#[test]
fn a_guard_that_is_written_elsewhere_or_in_its_defaults_is_the_same() {
    let moved = format!("# a comment\n\n{}", GUARDED.replace("tls: {", "tls:  {").replace("- {", "-   {"));
    assert_eq!(between(GUARDED, &moved), Diff::default());
    let written = guarded(
        "tls: { mode: strict }",
        "clientCertHeader: sanitize\n    tls: { mode: strict, clientCertificate: required, minVersion: 1.3, maxHandshakes: 1024 }",
    );
    assert_eq!(written, Diff::default());
    assert_eq!(guarded("{ cluster: opa }", "{ cluster: opa, timeout: 200ms, statusOnError: 403 }"), Diff::default());
    // The order of authorization rules means nothing.
    let one = "      - { name: one, action: allow, from: [{ identities: [\"spiffe://a/b\"] }] }\n";
    let two = "      - { name: two, action: allow, to: [{ methods: [GET] }] }\n";
    assert_eq!(guarded(&format!("{one}{two}"), &format!("{two}{one}")), Diff::default());
}

#[test]
fn each_kind_of_change_of_a_guard_has_its_line() {
    for (from, to, line) in [
        ("a.pem,", "b.pem,", "~ identity\n"),
        ("roots.pem }", "roots.pem, revocationLists: [crl.pem] }", "~ identity\n"),
        ("roots.pem }", "roots.pem, federatedBundles: { b: b.pem } }", "~ identity\n"),
        ("roots.pem }", "roots.pem, proposedTrustBundle: b.pem }", "~ identity\n"),
        ("mode: strict", "mode: permissive", "~ listener inbound: tls\n"),
        ("mode: strict", "mode: strict, clientCertificate: optional", "~ listener inbound: tls\n"),
        ("mode: strict", "mode: strict, clientTrustBundle: b.pem", "~ listener inbound: tls\n"),
        ("mode: strict", "mode: strict, minVersion: \"1.2\"", "~ listener inbound: tls\n"),
        ("mode: strict", "mode: strict, handshakeTimeout: 1s", "~ listener inbound: tls\n"),
        ("    tls: { mode: strict }\n", "    tls: { mode: off }\n", "~ listener inbound: tls\n"),
        ("hostnames: [a.b]", "hostnames: [b.b]", "~ listener sni: tls\n"),
        (
            "    authorization: p\n",
            "    authorization: p\n    clientCertHeader: set\n",
            "~ listener inbound: clientCertHeader\n",
        ),
        ("[corp] }", "[corp], required: false }", "~ listener inbound: jwt\n"),
        ("name: all,", "name: all, externalAuthorization: off,", "~ rule r/all: externalAuthorization\n"),
        (
            "tls: { peerIdentities: [\"spiffe://a/b\"] }",
            "tls: { peerIdentities: [\"spiffe://a/*\"] }",
            "~ cluster c: tls\n",
        ),
        ("tls: { peer", "tls: { sni: a.b, peer", "~ cluster c: tls\n"),
        ("s.pem, privateKey", "t.pem, privateKey", "~ cluster s: tls\n"),
        ("trustBundle: s.pem", "trustBundle: t.pem", "~ cluster s: tls\n"),
        ("mode: simple,", "mode: simple, subjectNames: [a.b],", "~ cluster s: tls\n"),
        ("default: deny", "default: allow", "~ authorization p: default\n"),
        (
            "name: one, action: allow",
            "name: one, action: deny, shadow: true",
            "~ authorization rule p/one: action, shadow\n",
        ),
        ("methods: [GET]", "methods: [GET, PUT]", "~ authorization rule p/two: to\n"),
        ("identities: [", "namespaces: [a], identities: [", "~ authorization rule p/one: from\n"),
        ("name: two,", "name: two, claims: [{ claim: a, values: [b] }],", "~ authorization rule p/two: claims\n"),
        ("name: two", "name: three", "+ authorization rule p/three\n- authorization rule p/two\n"),
        ("issuer: i", "issuer: j, clockSkew: 1s, forward: true", "~ token provider corp: issuer, clockSkew, forward\n"),
        ("file: keys.json", "url: https://a.b/keys", "~ token provider corp: jwks\n"),
        (
            "{ cluster: opa }",
            "{ cluster: opa, failOpen: true, context: { a: b } }",
            "~ external authorizer opa: failOpen, context\n",
        ),
    ] {
        assert_eq!(guarded(from, to).to_string(), line, "{from} -> {to}");
    }
}

#[test]
fn policies_come_and_go_as_a_whole() {
    let change = guarded("    authorization: p\n", "").to_string();
    assert_eq!(change, "~ listener inbound: authorization\n");
    let rest = GUARDED.replace("    authorization: p\n", "");
    let (before, _) = rest.split_once("authorization:").expect("the policies");
    let (_, after) = rest.split_once("jwtProviders").expect("the providers");
    let gone = between(&rest, &format!("{before}jwtProviders{after}"));
    assert_eq!(
        (gone.to_string(), gone.summary()),
        ("- authorization p\n".to_owned(), "authorization policies 1".to_owned())
    );
}
