use std::time::Duration;

use super::*;

fn cors(origins: &[&str]) -> Cors {
    Cors {
        allow_origins: origins.iter().map(|origin| (*origin).into()).collect(),
        allow_methods: vec!["PUT".into(), "PATCH".into()],
        allow_headers: vec!["x-a".into(), "content-type".into()],
        expose_headers: vec!["x-total".into()],
        allow_credentials: false,
        max_age: Duration::from_secs(600),
    }
}

fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    map
}

fn from(origin: &'static str) -> HeaderMap {
    map(&[("origin", origin)])
}

fn preflight(cors: &Cors, request: &[(&'static str, &'static str)]) -> HeaderMap {
    match CorsPolicy::compile(cors).decide(&Method::OPTIONS, &map(request)) {
        CorsDecision::Preflight(answer) => answer,
        CorsDecision::Pass(grant) => panic!("taken for no preflight: {grant:?}"),
    }
}

fn respond(cors: &Cors, request: &HeaderMap, upstream: &[(&'static str, &'static str)]) -> HeaderMap {
    let policy = CorsPolicy::compile(cors);
    let mut response = map(upstream);
    match policy.decide(&Method::GET, request) {
        CorsDecision::Pass(grant) => policy.apply(&grant, &mut response),
        CorsDecision::Preflight(_) => panic!("taken for a preflight"),
    }
    response
}

const VARY_ALL: (&str, &str) = ("vary", PREFLIGHT_VARY);
const ASKS: [(&str, &str); 3] = [
    ("origin", "https://app.example"),
    ("access-control-request-method", "PUT"),
    ("access-control-request-headers", "x-b, authorization, b@d"),
];

#[test]
fn a_preflight_gets_the_configured_lists() {
    assert_eq!(
        preflight(&cors(&["https://app.example"]), &ASKS),
        map(&[
            ("access-control-allow-origin", "https://app.example"),
            ("access-control-allow-methods", "PUT, PATCH"),
            ("access-control-allow-headers", "x-a, content-type"),
            ("access-control-max-age", "600"),
            VARY_ALL,
        ])
    );
}

#[test]
fn any_method_and_header_are_those_that_the_preflight_asks_for() {
    let any = Cors { allow_methods: vec!["*".into()], allow_headers: vec!["*".into()], ..cors(&["*"]) };
    assert_eq!(
        preflight(&any, &ASKS),
        map(&[
            ("access-control-allow-origin", "*"),
            ("access-control-allow-methods", "PUT"),
            ("access-control-allow-headers", "x-b, authorization"),
            ("access-control-max-age", "600"),
            VARY_ALL,
        ])
    );
    let without_headers = preflight(&any, &ASKS[..2]);
    assert!(!without_headers.contains_key(ACCESS_CONTROL_ALLOW_HEADERS));
}

#[test]
fn a_preflight_of_a_refused_origin_gets_no_permission() {
    assert_eq!(preflight(&cors(&["https://other.example"]), &ASKS), map(&[VARY_ALL]));
}

#[test]
fn only_options_with_origin_and_requested_method_is_a_preflight() {
    let policy = CorsPolicy::compile(&cors(&["*"]));
    for (method, headers) in
        [(Method::GET, map(&ASKS)), (Method::OPTIONS, from("https://app.example")), (Method::OPTIONS, map(&ASKS[1..]))]
    {
        assert!(matches!(policy.decide(&method, &headers), CorsDecision::Pass(_)), "{method} {headers:?}");
    }
}

#[test]
fn an_allowed_origin_may_read_and_caches_are_told() {
    let response = respond(&cors(&["https://app.example"]), &from("https://app.example"), &[("vary", "accept")]);
    assert_eq!(
        response,
        map(&[
            ("vary", "accept"),
            ("vary", "origin"),
            ("access-control-allow-origin", "https://app.example"),
            ("access-control-expose-headers", "x-total"),
        ])
    );
}

#[test]
fn any_origin_is_a_star_without_vary() {
    let response = respond(&cors(&["*"]), &from("https://app.example"), &[]);
    let expected = [("access-control-allow-origin", "*"), ("access-control-expose-headers", "x-total")];
    assert_eq!(response, map(&expected));
}

#[test]
fn with_credentials_the_origin_is_named_and_never_a_star() {
    let rules = Cors { allow_credentials: true, expose_headers: vec!["*".into()], ..cors(&["*"]) };
    let response = respond(&rules, &from("https://app.example"), &[("x-one", "1"), ("set-cookie", "a=b")]);
    assert_eq!(
        response,
        map(&[
            ("x-one", "1"),
            ("set-cookie", "a=b"),
            ("vary", "origin"),
            ("access-control-allow-origin", "https://app.example"),
            ("access-control-allow-credentials", "true"),
            ("access-control-expose-headers", "x-one, vary"),
        ])
    );
}

#[test]
fn what_the_upstream_says_is_replaced() {
    let upstream = [
        ("access-control-allow-origin", "*"),
        ("access-control-allow-credentials", "true"),
        ("access-control-expose-headers", "x-secret"),
        ("vary", "Accept, ORIGIN"),
    ];
    for request in [from("https://evil.example"), HeaderMap::new()] {
        let response = respond(&cors(&["https://app.example"]), &request, &upstream);
        assert_eq!(response, map(&[("vary", "Accept, ORIGIN")]), "{request:?}");
    }
}

#[test]
fn a_response_to_no_origin_still_varies_by_it() {
    let response = respond(&cors(&["https://app.example"]), &HeaderMap::new(), &[]);
    assert_eq!(response, map(&[("vary", "origin")]));
}

#[test]
fn a_wildcard_covers_whole_labels_and_nothing_else() {
    let policy = CorsPolicy::compile(&cors(&["https://*.example.com", "http://*.local:8080"]));
    let allowed = |origin| matches!(policy.grant(&from(origin)), Grant::Allowed(_));
    for origin in ["https://a.example.com", "https://b.a.example.com", "HTTPS://A.Example.COM", "http://x.local:8080"] {
        assert!(allowed(origin), "{origin}");
    }
    for origin in [
        "https://example.com",
        "https://.example.com",
        "https://a..example.com",
        "https://aexample.com",
        "http://a.example.com",
        "https://a.example.com:444",
        "https://a.example.com.evil.net",
        "https://evil.net/.example.com",
        "https://evil.net:1.example.com",
        "https://user@a.example.com",
        "http://x.local",
        "https://",
        "null",
        "",
    ] {
        assert!(!allowed(origin), "{origin}");
    }
}

#[test]
fn the_null_origin_is_allowed_only_by_name() {
    let grant = |origins: &[&str]| CorsPolicy::compile(&cors(origins)).grant(&from("null"));
    assert_eq!(grant(&["https://app.example"]), Grant::Refused);
    assert_eq!(grant(&["null"]), Grant::Allowed(HeaderValue::from_static("null")));
}

#[test]
fn two_origins_are_refused() {
    let request = map(&[("origin", "https://app.example"), ("origin", "https://app.example")]);
    assert_eq!(CorsPolicy::compile(&cors(&["https://app.example"])).grant(&request), Grant::Refused);
}
