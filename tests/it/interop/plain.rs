//! One table of requests over plain Envoy v3 resources. Envoy is held to it too, so that the table says what Envoy does and
//! not what we believe that it does.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::echo::{self, Ask, saw, who};
use super::foreign::{Foreign, Variant};
use super::resources::{
    assignment, cluster, discovered, every, filter, host, inline, listener, manager, route, routes, service, with,
};
use super::subject::{Plane, Program, Subject};
use crate::support::any::{AnyBackend, Told, Version};
use crate::support::proxy::free_port;
use crate::support::{H1Backend, PATIENCE, eventually};

/// What is expected of an answer.
type Check = Box<dyn Fn(&Told)>;

struct Backends {
    a: AnyBackend,
    b: AnyBackend,
    c: AnyBackend,
    silent: H1Backend,
}

impl Backends {
    async fn start() -> Self {
        let silent = H1Backend::start(|mut conn| async move {
            conn.request().await;
            conn.closed().await;
        })
        .await;
        Self {
            a: echo::start(Version::H1, "a").await,
            b: echo::start(Version::H1, "b").await,
            c: echo::start(Version::H2, "c").await,
            silent,
        }
    }

    fn clusters(&self) -> Vec<Value> {
        let http2 = json!({ "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": { "http2_protocol_options": {} },
            },
        } });
        let zones: [(&str, u32, &[_]); 2] =
            [("zone-a", 1, &[(self.a.addr(), 3)]), ("zone-b", 1, &[(self.b.addr(), 1)])];
        let mut out = vec![cluster("weighted"), assignment("weighted", &zones)];
        out.extend(service("a", &[self.a.addr()]));
        out.extend(service("b", &[self.b.addr()]));
        out.push(with(cluster("c"), &http2));
        out.push(service("c", &[self.c.addr()])[1].clone());
        out.extend(service("silent", &[self.silent.addr]));
        out.extend(service("empty", &[]));
        out
    }
}

fn hosts() -> Vec<Value> {
    let to = |matching: Value, name: &str| route(&matching, name);
    let acting = |matching: Value, action: Value| json!({ "match": matching, "route": action });
    vec![
        host(
            "match.example",
            &[
                to(json!({ "path": "/exact" }), "a"),
                to(json!({ "path_separated_prefix": "/whole" }), "a"),
                to(json!({ "prefix": "/begin" }), "a"),
                to(json!({ "safe_regex": { "regex": "/item/[0-9]+" } }), "a"),
                to(json!({ "path": "/FOLD", "case_sensitive": false }), "a"),
                to(
                    json!({ "prefix": "/h", "headers": [{ "name": "x-kind", "string_match": { "exact": "gold" } }] }),
                    "a",
                ),
                to(
                    json!({ "prefix": "/h", "headers": [{ "name": "x-kind", "string_match": { "prefix": "sil" } }] }),
                    "b",
                ),
                to(
                    json!({ "prefix": "/h", "headers": [{ "name": "x-kind", "string_match": { "safe_regex": { "regex": "br.*e" } } }] }),
                    "c",
                ),
                to(json!({ "prefix": "/p", "headers": [{ "name": "x-there", "present_match": true }] }), "a"),
                to(
                    json!({ "prefix": "/m", "headers": [{ "name": ":method", "string_match": { "exact": "POST" } }] }),
                    "a",
                ),
                to(
                    json!({ "prefix": "/q", "query_parameters": [{ "name": "v", "string_match": { "exact": "1" } }] }),
                    "a",
                ),
                to(json!({ "prefix": "/q", "query_parameters": [{ "name": "debug", "present_match": true }] }), "b"),
                to(every(), "b"),
            ],
        ),
        host(
            "weights.example",
            &[acting(
                every(),
                json!({ "weighted_clusters": { "clusters": [
            { "name": "a", "weight": 3 }, { "name": "b", "weight": 1 }, { "name": "c", "weight": 0 },
        ] } }),
            )],
        ),
        host("zones.example", &[to(every(), "weighted")]),
        host(
            "rewrite.example",
            &[
                acting(json!({ "path_separated_prefix": "/old" }), json!({ "cluster": "a", "prefix_rewrite": "/new" })),
                acting(
                    json!({ "prefix": "/host" }),
                    json!({ "cluster": "a", "host_rewrite_literal": "inner.example" }),
                ),
                acting(
                    json!({ "safe_regex": { "regex": "/v1/.*" } }),
                    json!({ "cluster": "a", "regex_rewrite": {
                "pattern": { "regex": "^/v1/([^/]+)" }, "substitution": "/v2/\\1" } }),
                ),
            ],
        ),
        host(
            "redirect.example",
            &[
                json!({ "match": { "path": "/moved" }, "redirect": { "path_redirect": "/here", "response_code": "FOUND" } }),
                json!({ "match": { "path_separated_prefix": "/tls" }, "redirect": { "https_redirect": true } }),
                json!({ "match": { "path_separated_prefix": "/a" }, "redirect": {
                "host_redirect": "other.example", "prefix_rewrite": "/b", "response_code": "PERMANENT_REDIRECT" } }),
            ],
        ),
        host(
            "direct.example",
            &[json!({ "match": every(), "direct_response": { "status": 418, "body": { "inline_string": "tea" } } })],
        ),
        host(
            "headers.example",
            &[json!({
                "match": every(),
                "route": { "cluster": "a" },
                "request_headers_to_add": [
                    { "header": { "key": "x-set", "value": "one" }, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD" },
                    { "header": { "key": "x-more", "value": "two" }, "append_action": "APPEND_IF_EXISTS_OR_ADD" },
                ],
                "request_headers_to_remove": ["x-secret"],
                "response_headers_to_add": [{ "header": { "key": "x-out", "value": "yes" }, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD" }],
                "response_headers_to_remove": ["x-backend"],
            })],
        ),
        host("slow.example", &[acting(every(), json!({ "cluster": "silent", "timeout": "0.3s" }))]),
        host(
            "retry.example",
            &[acting(
                every(),
                json!({ "cluster": "a", "retry_policy": {
            "retry_on": "5xx", "num_retries": 2, "retry_back_off": { "base_interval": "0.01s", "max_interval": "0.02s" } } }),
            )],
        ),
        host("once.example", &[to(every(), "a")]),
        host("http2.example", &[to(every(), "c")]),
        host("empty.example", &[to(every(), "empty")]),
        host("*.wild.example", &[to(every(), "a")]),
        host("shop.wild.example", &[to(every(), "b")]),
        with(
            host("cors.example", &[to(every(), "a")]),
            &json!({ "typed_per_filter_config": { "envoy.filters.http.cors": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy",
            "allow_origin_string_match": [{ "exact": "https://shop.example" }],
            "allow_methods": "GET, PUT",
            "allow_headers": "x-token",
            "max_age": "600",
        } } }),
        ),
    ]
}

/// Every case: what it shows, the request, and what must be true of its answer.
fn cases() -> Vec<(&'static str, Ask, Check)> {
    let by = |name: &'static str| -> Check {
        Box::new(move |told| assert_eq!((told.status, who(told)), (200, name), "{}", told.text()))
    };
    let status = |wanted: u16| -> Check { Box::new(move |told| assert_eq!(told.status, wanted, "{}", told.text())) };
    let to = |wanted: u16, location: &'static str| -> Check {
        Box::new(move |told| assert_eq!((told.status, told.get("location")), (wanted, Some(location))))
    };
    let seen = |target: &'static str, host: &'static str| -> Check {
        Box::new(move |told| {
            let saw = saw(told).expect("from a backend");
            assert_eq!((&*saw.target, &*saw.host), (target, host));
        })
    };
    let of = |path: &str| Ask::get(&format!("match.example{path}"));
    let mut out = vec![
        ("an exact path", of("/exact"), by("a")),
        ("an exact path with a query", of("/exact?x=1"), by("a")),
        ("not an exact path", of("/exact/"), by("b")),
        ("a prefix of whole segments", of("/whole/part"), by("a")),
        ("the prefix itself", of("/whole"), by("a")),
        ("no prefix of whole segments", of("/wholesale"), by("b")),
        ("a prefix of characters", of("/beginning"), by("a")),
        ("a pattern", of("/item/42"), by("a")),
        ("a pattern is for the whole path", of("/item/42/x"), by("b")),
        ("a path in any case", of("/fold"), by("a")),
        ("an exact header", of("/h").with("x-kind", "gold"), by("a")),
        ("the beginning of a header", of("/h").with("x-kind", "silver"), by("b")),
        ("a header by pattern", of("/h").with("x-kind", "bronze"), by("c")),
        ("a header that is there", of("/p").with("x-there", "1"), by("a")),
        ("a header that is not", of("/p"), by("b")),
        ("a method", Ask::new("POST", "match.example/m"), by("a")),
        ("another method", of("/m"), by("b")),
        ("a query parameter", of("/q?v=1"), by("a")),
        ("a parameter that is there", of("/q?x=1&debug="), by("b")),
        ("a prefix is replaced", Ask::get("rewrite.example/old/x?y=1"), seen("/new/x?y=1", "rewrite.example")),
        ("the whole of a path is the prefix", Ask::get("rewrite.example/old"), seen("/new", "rewrite.example")),
        ("the host is replaced", Ask::get("rewrite.example/host"), seen("/host", "inner.example")),
        (
            "a path is rewritten by a pattern",
            Ask::get("rewrite.example/v1/a/b?q"),
            seen("/v2/a/b?q", "rewrite.example"),
        ),
        ("a redirect to a path", Ask::get("redirect.example/moved?a=1"), to(302, "http://redirect.example/here?a=1")),
        ("a redirect to TLS", Ask::get("redirect.example/tls/x"), to(301, "https://redirect.example/tls/x")),
        ("a redirect to a host and a prefix", Ask::get("redirect.example/a/c"), to(308, "http://other.example/b/c")),
        (
            "a direct response",
            Ask::get("direct.example/"),
            Box::new(|told| assert_eq!((told.status, &*told.text()), (418, "tea"))),
        ),
        (
            "headers are set, added and removed",
            Ask::get("headers.example/").with("x-set", "zero").with("x-more", "one").with("x-secret", "s"),
            Box::new(|told| {
                let saw = saw(told).expect("from a backend");
                let of = |name: &str| saw.fields.get(name).map(|all| all.join(",")).unwrap_or_default();
                assert_eq!((&*of("x-set"), &*of("x-more"), &*of("x-secret")), ("one", "one,two", ""));
                assert_eq!((told.get("x-out"), told.get("x-backend")), (Some("yes"), None));
            }),
        ),
        ("a timeout", Ask::get("slow.example/"), status(504)),
        ("a failure is tried again", Ask::get("retry.example/").with("x-answer-first", "503 retried"), by("a")),
        ("without retries it is not", Ask::get("once.example/").with("x-answer-first", "503 once"), status(503)),
        ("HTTP/2 to a backend", Ask::get("http2.example/"), by("c")),
        ("no endpoint", Ask::get("empty.example/"), status(503)),
        ("no virtual host", Ask::get("nobody.example/"), status(404)),
        ("no route", Ask::get("rewrite.example/none"), status(404)),
        ("a host by its ending", Ask::get("any.wild.example/"), by("a")),
        ("an exact host before an ending", Ask::get("shop.wild.example/"), by("b")),
        (
            "a request from another origin",
            Ask::get("cors.example/").with("origin", "https://shop.example"),
            Box::new(|told| {
                assert_eq!((who(told), told.get("access-control-allow-origin")), ("a", Some("https://shop.example")));
            }),
        ),
        (
            "a request from an origin that is not allowed",
            Ask::get("cors.example/").with("origin", "https://evil.example"),
            Box::new(|told| {
                assert_eq!(told.get("access-control-allow-origin"), None);
            }),
        ),
        (
            "a question before one",
            Ask::new("OPTIONS", "cors.example/")
                .with("origin", "https://shop.example")
                .with("access-control-request-method", "PUT"),
            Box::new(|told| {
                // Envoy says 200, our proxy 204: to a browser they are the same.
                assert!(matches!(told.status, 200 | 204) && who(told) == "nobody");
                assert_eq!(told.get("access-control-allow-origin"), Some("https://shop.example"));
                assert_eq!(told.get("access-control-max-age"), Some("600"));
                assert!(told.get("access-control-allow-methods").is_some_and(|all| all.contains("PUT")));
            }),
        ),
    ];
    out.push(("the first of several routes", of("/h").with("x-kind", "none"), by("b")));
    out
}

/// Puts the table to a program.
async fn run(program: Program, variant: Variant) {
    let backends = Backends::start().await;
    let mut server = Foreign::start().await;
    let (discovering, inlined) = (free_port(), free_port());
    let cors = filter("cors", "envoy.extensions.filters.http.cors.v3.Cors", json!({}));
    let mut resources = backends.clusters();
    resources.push(listener("discovering", discovering, &manager(&discovered("main"), std::slice::from_ref(&cors))));
    resources.push(listener("inline", inlined, &manager(&inline(&hosts()), &[cors])));
    resources.push(routes("main", &hosts()));
    server.set(&resources).await;
    let subject = Subject::start(program, &Plane::of(&server, variant)).await;

    let refused = server.settled(0).await;
    assert!(refused.is_empty(), "{refused:#?}");
    assert!(server.of("open").iter().all(|open| open["protocol"] == variant.word()), "the wanted variant is spoken");
    let addr = |port: u16| std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, port));
    let mut wrong = Vec::new();
    for port in [discovering, inlined] {
        for (name, ask, check) in cases() {
            let mut ask = ask;
            // What fails the first time fails once for each listener.
            for (header, value) in &mut ask.fields {
                if header == "x-answer-first" {
                    value.push_str(&format!(" {port}"));
                }
            }
            for version in [Version::H1, Version::H2] {
                // Its first answer is heard once.
                if version == Version::H2 && ask.fields.iter().any(|(name, _)| name == "x-answer-first") {
                    continue;
                }
                let told = ask.of(version, addr(port)).await;
                let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&told)));
                if failed.is_err() {
                    wrong.push(format!("{name} ({version:?}): {} {:?} {}", told.status, told.fields, told.text()));
                }
            }
        }
        shares(addr(port), "weights.example/").await;
        shares(addr(port), "zones.example/").await;
    }
    assert!(wrong.is_empty(), "{program:?} over {variant:?}:\n{}", wrong.join("\n"));
    if let Subject::Envoy(envoy) = &subject {
        assert_eq!(envoy.get("/ready").await.0, 200);
    }
}

/// Three of four requests go to a, one to b.
async fn shares(addr: std::net::SocketAddr, url: &str) {
    const REQUESTS: u32 = 240;
    let mut client = crate::support::any::AnyClient::connect(Version::H1, addr).await;
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..REQUESTS {
        let told = Ask::get(url).over(&mut client).await.expect("an answer");
        *counts.entry(who(&told).to_owned()).or_default() += 1;
    }
    let of = |name: &str| counts.get(name).copied().unwrap_or(0);
    assert_eq!(of("a") + of("b"), REQUESTS, "{url}: {counts:?}");
    // Five standard deviations of a fair draw.
    assert!(of("b").abs_diff(60) < 34, "{url}: {counts:?}");
}

#[tokio::test]
async fn envoy_does_with_plain_resources_what_the_table_says() {
    run(Program::Envoy, Variant::Delta).await;
}

#[tokio::test]
async fn plain_resources_over_delta_do_what_they_do_in_envoy() {
    run(Program::Outrigger, Variant::Delta).await;
}

#[tokio::test]
async fn plain_resources_over_the_state_of_the_world_do_what_they_do_in_envoy() {
    run(Program::Outrigger, Variant::Whole).await;
}

#[tokio::test]
async fn thresholds_of_circuit_breakers_hold() {
    let backends = Backends::start().await;
    let mut server = Foreign::start().await;
    let port = free_port();
    let thresholds = json!({ "circuit_breakers": { "thresholds": [{ "max_requests": 1 }] } });
    let slow = json!({ "match": every(), "route": { "cluster": "silent", "timeout": "60s" } });
    server
        .set(&[
            with(cluster("silent"), &thresholds),
            service("silent", &[backends.silent.addr])[1].clone(),
            listener("in", port, &manager(&inline(&[host("*", &[slow])]), &[])),
        ])
        .await;
    let subject = Subject::start(Program::Outrigger, &Plane::of(&server, Variant::Delta)).await;
    let addr = std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, port));
    let held = tokio::spawn(async move { Ask::get("a.example/").of(Version::H1, addr).await });
    eventually(PATIENCE, "the first request reaches the backend", || !backends.silent.requests().is_empty()).await;
    let told = Ask::get("a.example/").of(Version::H1, addr).await;
    assert_eq!(told.status, 503, "{}", told.text());
    assert_eq!(backends.silent.requests().len(), 1, "the second one was not sent");
    held.abort();
    drop(subject);
}
