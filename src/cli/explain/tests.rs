use super::*;
use outrigger_config::load;

const CONFIG: &str = r#"
listeners:
  - { name: inbound, bind: 127.0.0.1:15006, routes: local }
  - { name: outbound, bind: 127.0.0.1:15001, routes: mesh, path: { escapedSlashes: reject } }
routes:
  local: [{ rules: [{ backendRefs: [{ cluster: app }] }] }]
  mesh:
    - hostnames: [payments]
      rules:
        - name: charges
          matches: [{ path: { prefix: /v1/charges }, method: POST }]
          timeouts: { request: 2s }
          retry: { attempts: 2, on: [connect-failure, 503, unavailable] }
          filters: [{ urlRewrite: { hostname: pay.internal, path: { replacePrefixMatch: /charges } } }]
          backendRefs: [{ cluster: app, weight: 95 }, { cluster: other, weight: 5 }]
        - name: old
          matches: [{ path: { prefix: /old } }]
          filters: [{ redirect: { scheme: https, path: { replacePrefixMatch: /new } } }]
        - name: secret
          matches: [{ headers: [{ name: authorization, present: true }] }]
          filters: [{ requestHeaders: { set: { authorization: hunter2 } } }]
          backendRefs: [{ cluster: app }]
        - name: rest
          backendRefs: [{ cluster: app }]
clusters:
  app: { endpoints: [127.0.0.1:8080, { address: "db.example:90", weight: 3, zone: a }] }
  other: { protocol: http2, endpoints: [127.0.0.1:8081] }
"#;

fn args(arguments: &[&str]) -> ExplainArgs {
    use clap::Parser as _;
    let all = ["outrigger", "explain", "--config", "unused"].iter().chain(arguments);
    match super::super::Cli::parse_from(all).command {
        super::super::Command::Explain(args) => args,
        other => panic!("{other:?}"),
    }
}

fn tell(arguments: &[&str]) -> Result<Story, String> {
    explain(&load("proxy.yaml", CONFIG).expect("valid"), &args(arguments))
}

#[test]
fn a_forwarded_request_is_told_from_its_listener_to_its_endpoints() {
    let story = tell(&["POST", "http://PAYMENTS:80/v1/./charges/7?a=1"]).expect("a story");
    assert_eq!((&*story.host, &*story.path, &*story.listener.name), ("payments", "/v1/charges/7?a=1", "outbound"));
    let Decision::Forward { backends, timeouts, retries, .. } = &story.decision else { panic!("{story:?}") };
    assert_eq!(backends.len(), 2);
    assert_eq!((&*backends[0].sends_authority, &*backends[0].sends_path), ("pay.internal", "/charges/7?a=1"));
    assert_eq!((backends[0].share_percent, backends[0].endpoints.len(), backends[1].protocol), (95.0, 2, "http2"));
    assert_eq!((timeouts[0].value.as_deref(), &*timeouts[0].set_by), (Some("2s"), "proxy.yaml:12:32"));
    assert_eq!(timeouts[2].set_by, "the streamIdle timeout of listener `outbound`");
    assert_eq!((retries.attempts, retries.after_sent), (2, false));
    assert_eq!(retries.on, ["connect-failure", "503", "unavailable"]);
}

#[test]
fn every_rule_before_the_winner_says_why_it_lost() {
    let story = tell(&["http://payments/v1/charges"]).expect("a story");
    let rules: Vec<(&str, bool, &str)> = story.rules.iter().map(|r| (&*r.name, r.won, &*r.why[0])).collect();
    assert_eq!(
        rules,
        [
            ("charges", false, "the method is GET, not POST"),
            ("old", false, "the path is not `/old` or below it"),
            ("secret", false, "header `authorization` is missing"),
            ("rest", true, "it has no conditions"),
        ]
    );
}

#[test]
fn a_redirect_says_where_it_goes() {
    let story = tell(&["http://payments/old/x?q=1"]).expect("a story");
    let Decision::Redirect { status, location } = story.decision else { panic!("{story:?}") };
    assert_eq!((status, location.as_deref()), (302, Some("https://payments/new/x?q=1")));
}

#[test]
fn a_host_that_nobody_takes_is_a_story_too() {
    let story = tell(&["http://elsewhere/"]).expect("a story");
    assert!(matches!(story.decision, Decision::NoRoute { status: 404, reason: "NR", .. }), "{story:?}");
    assert!(text::render(&story, Style::Plain).contains("answer    404 NR"));
}

#[test]
fn what_the_proxy_would_refuse_is_refused() {
    for (arguments, word) in [
        (&["http://u@payments/"][..], "user information"),
        (&["http://payments/a%2Fb"], "encoded slash"),
        (&["http://payments/../x"], "above its root"),
        (&["not a url"], "not a URL"),
        (&["G ET", "http://payments/"], "not a method"),
        (&["-X", "GET", "POST", "http://payments/"], "twice"),
        (&["--listener", "missing", "http://payments/"], "`inbound`, `outbound`"),
        (&["/only/a/path"], "not a URL"),
    ] {
        let error = tell(arguments).expect_err(word);
        assert!(error.contains(word), "{arguments:?}: {error}");
    }
}

#[test]
fn a_host_header_stands_for_the_host_of_the_url() {
    assert_eq!(tell(&["/x", "-H", "host: payments"]).expect("a story").host, "payments");
    assert_eq!(tell(&["http://127.0.0.1:15001/x", "-H", "Host: payments:81"]).expect("a story").host, "payments");
}

#[test]
fn credentials_of_filters_are_not_shown() {
    let story = tell(&["http://payments/", "-H", "authorization: x"]).expect("a story");
    let text = text::render(&story, Style::Plain) + &serde_json::json!(story).to_string();
    assert!(!text.contains("hunter2") && text.contains("redacted"), "{text}");
}

#[test]
fn streaming_requests_have_other_default_limits() {
    let story = tell(&["http://payments/", "-H", "content-type: application/grpc", "-H", "grpc-timeout: 5S"]);
    let story = story.expect("a story");
    let Decision::Forward { timeouts, .. } = &story.decision else { panic!("{story:?}") };
    assert_eq!((timeouts[0].value.as_deref(), &*timeouts[0].set_by), (Some("5s"), "the caller's grpc-timeout"));
}

#[test]
fn colours_are_there_only_when_asked_for() {
    let story = tell(&["http://payments/"]).expect("a story");
    assert!(!text::render(&story, Style::Plain).contains('\x1b'));
    assert!(text::render(&story, Style::Ansi).contains("\x1b[32mwon"));
}

const GUARDED: &str = r#"
listeners: [{ name: inbound, bind: 127.0.0.1:15006, routes: app, authorization: shop-only }]
routes: { app: [{ rules: [{ name: all, backendRefs: [{ cluster: app }] }] }] }
clusters: { app: { endpoints: [127.0.0.1:8080] } }
authorization:
  shop-only:
    default: deny
    rules:
      - name: shop
        action: allow
        from: [{ namespaces: [shop], addresses: [10.0.0.0/8] }]
      - { name: log, action: audit, to: [{ paths: [{ prefix: /v1 }] }] }
      - { name: soon, action: deny, shadow: true, to: [{ ports: [15006] }] }
      - { name: staff, action: allow, claims: [{ claim: staff, values: ["true"] }] }
"#;

fn ask(arguments: &[&str]) -> Story {
    explain(&load("proxy.yaml", GUARDED).expect("valid"), &args(arguments)).expect("a story")
}

#[test]
fn who_may_ask_is_told_with_the_rule_and_its_place() {
    let cart = ["--identity", "spiffe://mesh.local/ns/shop/sa/cart", "--from", "10.1.2.3", "http://app/v1/x"];
    let story = ask(&cart);
    let access = story.authorization.as_ref().expect("a policy");
    assert_eq!((access.allowed, &*access.rule, &*access.place), (true, "shop", "proxy.yaml:9:9"));
    assert!(matches!(story.decision, Decision::Forward { .. }), "{story:?}");
    let text = text::render(&story, Style::Plain);
    for line in [
        "caller    spiffe://mesh.local/ns/shop/sa/cart at 10.1.2.3, to port 15006",
        "access    allowed by `shop` of policy `shop-only` (proxy.yaml:9:9)",
        "          would be denied by shadow rule `soon`",
        "          noted by audit rule `log`",
        "          decided without a token",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[test]
fn who_may_not_ask_is_told_nothing_of_where_it_would_go() {
    let story = ask(&["http://app/v2"]);
    let access = story.authorization.as_ref().expect("a policy");
    assert_eq!((access.allowed, &*access.rule, &*access.place), (false, "default", "proxy.yaml:6:3"));
    assert!(matches!(story.decision, Decision::Denied { status: 403, reason: "RBAC", .. }), "{story:?}");
    let text = text::render(&story, Style::Plain);
    assert!(
        text.contains("a caller without an identity at 127.0.0.1") && text.contains("answer    403 RBAC"),
        "{text}"
    );
}

#[test]
fn what_a_rule_and_its_cluster_do_beside_forwarding_is_told() {
    let text = r#"
listeners: [{ name: outbound, bind: 127.0.0.1:15001, routes: r }]
routes:
  r:
    - rules:
        - hedge: { after: 50ms }
          retry: { attempts: 1, idempotencyKey: true }
          criticality: critical
          backendRefs: [{ cluster: app, subset: { version: v2 } }]
clusters:
  app:
    queue: { timeout: 50ms }
    endpoints:
      - { address: 127.0.0.1:8080, labels: { version: v1 } }
      - { address: 127.0.0.1:8081, labels: { version: v2 }, priority: 1, condition: draining }
"#;
    let loaded = load("proxy.yaml", text).expect("valid");
    let story = explain(&loaded, &args(&["POST", "http://app/"])).expect("a story");
    let Decision::Forward { backends, retries, settings, .. } = &story.decision else { panic!("{story:?}") };
    assert_eq!(retries.why, "the method is not idempotent, unless an Idempotency-Key is there");
    assert_eq!((settings.len(), &settings["criticality"]), (2, &serde_json::json!("critical")));
    assert_eq!(backends[0].settings["queue"]["timeout"], "50ms");
    let text = text::render(&story, Style::Plain);
    for line in [
        "settings  criticality: \"critical\"",
        "          only endpoints with version=v2",
        "          - 127.0.0.1:8080, weight 1, version=v1 (not of the subset)",
        "          - 127.0.0.1:8081, weight 1, priority 1, version=v2 (draining: only what is bound to it)",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}
