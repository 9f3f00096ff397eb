//! Authorization in the pipeline, and what becomes of open exchanges when a policy changes.

use bytes::Bytes;
use outrigger_config::model::TlsVersion;
use outrigger_config::spiffe::SpiffeId;

use super::*;
use crate::codec::h2;
use crate::net::tls::Peer;

const FORWARD: &str = "backendRefs: [{ cluster: c }]";
/// A response that goes on.
const STREAM: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n";
const GRPC_STREAM: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n";

/// A policy `p` of the listener.
fn policy(default: &str, rules: &str) -> String {
    let rules = if rules.is_empty() { String::new() } else { format!(", rules: [{rules}]") };
    format!("authorization: {{ p: {{ default: {default}{rules} }} }}\n")
}

fn guarded(sections: &str) -> Parts<'_> {
    Parts { listener: ", authorization: p", rule: FORWARD, sections, ..Parts::default() }
}

fn tls(identity: &str) -> TlsInfo {
    let peer = Peer {
        identity: Some(SpiffeId::parse(identity).expect("an identity")),
        dns_names: Box::new([]),
        sha256: [0xab; 32],
        not_after: std::time::SystemTime::now(),
        leaf: Vec::new().into(),
    };
    TlsInfo {
        version: TlsVersion::V1_3,
        cipher: "TLS13_AES_128_GCM_SHA256",
        group: None,
        alpn: None,
        sni: None,
        resumed: false,
        peer: Some(Arc::new(peer)),
        local_identity: Some(SpiffeId::parse("spiffe://mesh.local/ns/shop/sa/payments").expect("an identity")),
        rehearsal: None,
    }
}

impl Harness {
    async fn connect_as(&self, identity: &str) -> TcpStream {
        let (caller, stream, info) = Self::accepted(Some(tls(identity))).await;
        let (handler, options) = self.handler(info);
        tokio::spawn(h1::serve(Io::tcp(stream), handler, options));
        caller
    }

    /// Asks and reads until the proxy closes.
    async fn ask_as(&self, identity: &str, raw: &str) -> String {
        let mut caller = self.connect_as(identity).await;
        caller.write_all(raw.as_bytes()).await.expect("written");
        let mut answer = String::new();
        caller.read_to_string(&mut answer).await.expect("the proxy closes");
        answer
    }

    /// A request whose response has begun.
    async fn stream(&self, raw: &str) -> TcpStream {
        let (mut caller, _) = self.connect().await;
        caller.write_all(raw.as_bytes()).await.expect("written");
        let mut read = Vec::new();
        while !read.ends_with(b"2\r\nok\r\n") {
            assert_ne!(caller.read_buf(&mut read).await.expect("an answer"), 0, "it goes on");
        }
        caller
    }

    fn decisions(&self, rule: &str, decision: &str) -> f64 {
        let labels = [format!("rule=\"{rule}\""), format!("decision=\"{decision}\"")];
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        self.metric("outrigger_authorization_decisions_total", &labels)
    }

    /// So many exchanges are old.
    async fn watches(&self, count: usize) {
        until("exchanges are entered", || self.proxy.book.len() == count).await;
    }
}

/// Whether the proxy has ended a stream; nothing was to be read from it otherwise.
async fn is_over(caller: &mut TcpStream) -> bool {
    let mut byte = [0];
    let read = tokio::time::timeout(Duration::from_millis(200), caller.read(&mut byte)).await;
    matches!(read, Ok(Ok(0) | Err(_)))
}

const CART: &str = "spiffe://mesh.local/ns/shop/sa/cart";
const GET: &str = "GET /v1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn who_may_not_ask_is_refused_without_a_trace_of_the_rule() {
    let upstream = Upstream::new(&[Act::Answer(OK)]).await;
    let rules = format!("{{ name: carts-only, action: allow, from: [{{ identities: [\"{CART}\"] }}] }}");
    let harness = Harness::with(&guarded(&policy("deny", &rules)), &[upstream.address]);
    assert!(harness.ask_as(CART, GET).await.starts_with("HTTP/1.1 200 "));
    let denied = harness.ask_as("spiffe://mesh.local/ns/shop/sa/other", GET).await;
    assert!(denied.starts_with("HTTP/1.1 403 ") && denied.contains("x-outrigger-reason: RBAC\r\n"), "{denied}");
    let anonymous = harness.ask(GET).await.expect("an answer");
    assert!(anonymous.starts_with("HTTP/1.1 403 "), "{anonymous}");
    for answer in [denied, anonymous] {
        assert!(!answer.contains("carts-only") && !answer.contains("default"), "{answer}");
    }
    assert_eq!(upstream.requests(), 1);
    assert_eq!((harness.decisions("carts-only", "allow"), harness.decisions("default", "deny")), (1.0, 2.0));
    assert_eq!(harness.metric("outrigger_requests_total", &["route=\"-\""]), 2.0, "no route was touched");
    harness.settles().await;
}

#[tokio::test]
async fn a_grpc_caller_is_told_permission_denied() {
    let harness = Harness::with(&guarded(&policy("deny", "")), &[nobody().await]);
    let call = "POST /a.B/C HTTP/1.1\r\nhost: x\r\ncontent-type: application/grpc\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let answer = harness.ask(call).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("grpc-status: 7\r\n"), "{answer}");
}

#[tokio::test]
async fn nothing_is_told_or_done_before_the_decision() {
    let sections = policy("allow", "{ name: d, action: deny, to: [{ paths: [{ prefix: /secret }] }] }");
    let redirect = "matches: [{ path: { prefix: /secret/moved } }], filters: [{ redirect: { hostname: y } }]";
    let harness = Harness::with(&Parts { rule: redirect, ..guarded(&sections) }, &[nobody().await]);
    for (path, status) in [
        ("/secret/moved", 403),
        ("/secret/nothing", 403),
        ("/x/..//%73ecret/moved", 403),
        ("/secret;v=1/moved", 403),
        ("/nothing", 404),
    ] {
        let raw = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let answer = harness.ask(&raw).await.expect("an answer");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {answer}");
    }
}

#[tokio::test]
async fn shadow_and_audit_rules_are_counted_and_enforce_nothing() {
    let upstream = Upstream::new(&[Act::Answer(OK)]).await;
    let rules = "{ name: s, action: deny, shadow: true, to: [{ methods: [GET] }] }, { name: log, action: audit, to: [{ methods: [GET] }] }";
    let harness = Harness::with(&guarded(&policy("allow", rules)), &[upstream.address]);
    assert!(harness.ask(GET).await.expect("an answer").starts_with("HTTP/1.1 200 "));
    let counted = [("s", "shadow_deny"), ("log", "audit"), ("default", "allow")].map(|(r, d)| harness.decisions(r, d));
    assert_eq!(counted, [1.0; 3]);
}

#[tokio::test]
async fn a_preflight_is_allowed_if_what_it_announces_may_be() {
    let rule = "filters: [{ cors: { allowOrigins: [\"https://a.example\"], allowMethods: [\"*\"] } }], backendRefs: [{ cluster: c }]";
    let sections = policy("deny", "{ name: a, action: allow, to: [{ methods: [POST] }] }");
    let harness = Harness::with(&Parts { rule, ..guarded(&sections) }, &[nobody().await]);
    for (method, status) in [("POST", 204), ("PUT", 403)] {
        let raw = format!(
            "OPTIONS / HTTP/1.1\r\nhost: x\r\norigin: https://a.example\r\naccess-control-request-method: {method}\r\nconnection: close\r\n\r\n"
        );
        let answer = harness.ask(&raw).await.expect("an answer");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
}

#[tokio::test]
async fn the_upstream_sees_the_callers_certificate_and_nothing_forged() {
    let upstream = Upstream::new(&[Act::Answer(OK)]).await;
    let parts = Parts { listener: ", clientCertHeader: set", rule: FORWARD, ..Parts::default() };
    let harness = Harness::with(&parts, &[upstream.address]);
    let forged = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-forwarded-client-cert: URI=spiffe://evil\r\n\
                  x-envoy-internal: true\r\nx-outrigger-reason: UH\r\nX-Outrigger-Trust: all\r\nx-kept: 1\r\n\r\n";
    harness.ask_as(CART, forged).await;
    harness.ask(forged).await.expect("an answer");
    let heads = upstream.heads.lock().clone();
    let hash = "ab".repeat(32);
    let element = format!(
        "x-forwarded-client-cert: By=spiffe://mesh.local/ns/shop/sa/payments;Hash={hash};Subject=\"\";URI={CART}\r\n"
    );
    assert!(heads[0].contains(&element), "{}", heads[0]);
    for head in &heads {
        assert!(!head.contains("evil") && !head.contains("x-envoy") && !head.contains("x-outrigger-reason"), "{head}");
        assert!(!head.contains("x-outrigger-trust") && head.contains("x-kept: 1\r\n"), "{head}");
        assert!(head.contains("x-outrigger-via: "), "{head}");
    }
    assert!(!heads[1].contains("x-forwarded-client-cert"), "{}", heads[1]);
}

#[tokio::test]
async fn a_change_of_policy_ends_exactly_what_it_forbids() {
    let upstream = Upstream::new(&[Act::Answer(STREAM)]).await;
    let harness = Harness::to(&[upstream.address]);
    let mut streams = Vec::new();
    for number in 0..12 {
        let raw = format!("GET /t/{number} HTTP/1.1\r\nhost: x\r\nx-tenant: {}\r\n\r\n", number % 3);
        streams.push(harness.stream(&raw).await);
    }
    harness.watches(12).await;
    // A policy where there was none, about a header that nobody had asked about.
    let tenant = policy("allow", "{ name: t, action: deny, to: [{ headers: [{ name: x-tenant, exact: \"1\" }] }] }");
    harness.publish(&guarded(&tenant));
    for (number, caller) in streams.iter_mut().enumerate() {
        assert_eq!(is_over(caller).await, number % 3 == 1, "{number}");
    }
    assert_eq!(harness.decisions("t", "ended"), 4.0);
    assert_eq!(harness.metric("outrigger_local_responses_total", &["reason=\"RBAC\""]), 4.0);
    // An edit, and one that changes nothing.
    let path = policy(
        "allow",
        "{ name: t, action: deny, to: [{ headers: [{ name: x-tenant, exact: \"1\" }] }, { paths: [{ exact: /t/0 }] }] }",
    );
    harness.publish(&guarded(&path));
    harness.publish(&guarded(&path));
    for (number, caller) in streams.iter_mut().enumerate().filter(|(number, _)| number % 3 != 1) {
        assert_eq!(is_over(caller).await, number == 0, "{number}");
    }
    assert_eq!(harness.proxy.book.len(), 7);
    drop(streams);
    harness.watches(0).await;
    harness.settles().await;
}

#[tokio::test]
async fn the_admitted_request_counts_whatever_filters_made_of_it() {
    let upstream = Upstream::new(&[Act::Answer(STREAM)]).await;
    let rule = "filters: [{ requestHeaders: { set: { x-a: new }, remove: [x-b] } }, \
                { urlRewrite: { hostname: other, path: { replaceFullPath: /new } } }], backendRefs: [{ cluster: c }]";
    let parts = Parts { rule, ..Parts::default() };
    let harness = Harness::with(&parts, &[upstream.address]);
    let mut kept = harness.stream("GET /old HTTP/1.1\r\nhost: Mine\r\nx-a: old\r\nx-b: 1\r\n\r\n").await;
    let mut ended = harness.stream("GET /old HTTP/1.1\r\nhost: mine\r\nx-a: new\r\nx-b: 1\r\n\r\n").await;
    harness.watches(2).await;
    let sections = policy(
        "deny",
        "{ name: a, action: allow, to: [{ hosts: [mine], paths: [{ exact: /old }], headers: [{ name: x-a, exact: old }, { name: x-b, exact: \"1\" }] }] }",
    );
    harness.publish(&Parts { rule, ..guarded(&sections) });
    assert!(is_over(&mut ended).await);
    assert!(!is_over(&mut kept).await);
}

#[tokio::test]
async fn an_exchange_that_waits_for_its_answer_is_answered() {
    let upstream = Upstream::new(&[Act::Wait]).await;
    let harness = Harness::to(&[upstream.address]);
    let (mut caller, _) = harness.connect().await;
    caller.write_all(GET.as_bytes()).await.expect("written");
    harness.watches(1).await;
    harness.publish(&guarded(&policy("deny", "")));
    let mut answer = String::new();
    caller.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("x-outrigger-reason: RBAC\r\n"), "{answer}");
    until("the upstream notices", || upstream.left.load(Ordering::Relaxed) == 1).await;
    assert_eq!(harness.metric("outrigger_upstream_attempts_total", &["outcome=\"cancelled\""]), 1.0);
    harness.settles().await;
}

#[tokio::test]
async fn an_exchange_that_was_young_when_the_policy_changed_is_looked_at_when_it_is_old() {
    let upstream = Upstream::new(&[Act::Answer(STREAM)]).await;
    let harness = Harness::to(&[upstream.address]);
    let mut caller = harness.stream("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(harness.proxy.book.len(), 0);
    harness.publish(&guarded(&policy("deny", "")));
    until("it ends", || harness.decisions("default", "ended") == 1.0).await;
    assert!(is_over(&mut caller).await);
    harness.watches(0).await;
}

#[tokio::test]
async fn on_http2_a_stream_is_reset_a_grpc_call_gets_trailers_and_the_connection_stays() {
    let upstream = Upstream::new(&[Act::Answer(STREAM), Act::Answer(GRPC_STREAM)]).await;
    let harness = Harness::to(&[upstream.address]);
    let (caller, stream, info) = Harness::accepted(None).await;
    let (handler, options) = harness.handler(info);
    tokio::spawn(h2::serve(stream, handler, options));
    let (mut send, connection) = ::h2::client::handshake(caller).await.expect("a connection");
    tokio::spawn(connection);
    let request = |path: &str, kind: &str| {
        let builder = http::Request::post(format!("http://x{path}")).header("content-type", kind);
        builder.body(()).expect("a request")
    };
    let mut open = Vec::new();
    for kind in ["text/plain", "application/grpc"] {
        let (response, _) = send.send_request(request("/a.B/C", kind), true).expect("sent");
        let mut body = response.await.expect("an answer").into_body();
        assert_eq!(body.data().await.expect("data").expect("data"), Bytes::from_static(b"ok"));
        open.push(body);
    }
    harness.watches(2).await;
    harness.publish(&guarded(&policy("deny", "{ name: a, action: allow, to: [{ paths: [{ exact: /open }] }] }")));
    let reset = open[0].data().await.expect("an end").expect_err("a reset");
    assert_eq!(reset.reason(), Some(::h2::Reason::CANCEL));
    assert!(open[1].data().await.is_none());
    let trailers = open[1].trailers().await.expect("no reset").expect("trailers");
    assert_eq!(trailers["grpc-status"], "7");
    let (response, _) = send.send_request(request("/open", "text/plain"), true).expect("sent");
    assert_eq!(response.await.expect("an answer").status(), 200);
}
