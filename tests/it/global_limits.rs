//! Rate limits that a service keeps, with one that is built on Envoy's own messages and Python's `grpcio`.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use http::Request;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::support::h1_backend::Refusing;
use crate::support::http1::Response;
use crate::support::{Config, H1Backend, H1Client, H2Backend, H2Client, PATIENCE, Proxy, h1_client, process, within};

/// A rate limit service; gone when dropped.
pub struct Service {
    pub addr: SocketAddr,
    lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Service {
    pub async fn start() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/python/ratelimit.py");
        let mut child = Command::new(process::python())
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("start Python");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let port = within(PATIENCE, "the service's port", lines.next_line()).await;
        let port: u16 = port.expect("readable").expect("a line").trim().parse().expect("a port");
        Self { addr: SocketAddr::from(([127, 0, 0, 1], port)), lines, _child: child }
    }

    pub async fn question(&mut self) -> Value {
        let line = within(PATIENCE, "a question", self.lines.next_line()).await;
        serde_json::from_str(&line.expect("readable").expect("a line")).expect("JSON")
    }
}

/// A rule that asks with the value of `x-ask`.
fn config(backend: SocketAddr, service: SocketAddr, settings: &str) -> Config {
    Config::to("http1", &[backend])
        .cluster("rls", "http2", &[service])
        .top(&format!("rateLimitServices:\n  rls: {{ cluster: rls, domain: mesh, {settings} }}"))
        .rule("globalRateLimits: [{ service: rls, descriptor: [{ key: ask, header: x-ask }] }]")
}

async fn set_up(settings: &str) -> (H1Backend, Service, Proxy) {
    let (backend, service) = (H1Backend::ok().await, Service::start().await);
    let proxy = Proxy::start(&config(backend.addr, service.addr, settings)).await;
    (backend, service, proxy)
}

async fn ask(proxy: &Proxy, how: &str) -> Response {
    h1_client::exchange(proxy.addr(), format!("GET /a HTTP/1.1\r\nhost: a.example\r\nx-ask: {how}\r\n\r\n")).await
}

async fn asked(proxy: &Proxy, result: &str) -> f64 {
    let labels = [r#"service="rls""#, &format!("result=\"{result}\"")];
    proxy.metric("outrigger_rate_limit_service_total", &labels).await
}

#[tokio::test]
async fn all_descriptors_that_the_request_has_go_in_one_question() {
    let (backend, mut service) = (H1Backend::ok().await, Service::start().await);
    let config = Config::to("http1", &[backend.addr])
        .cluster("rls", "http2", &[service.addr])
        .top("rateLimitServices:\n  rls: { cluster: rls, domain: mesh, onFailure: deny, timeout: 10s }")
        .rule(
            "globalRateLimits:
            - service: rls
              descriptor:
                - { key: kind, text: api }
                - { key: tenant, header: x-tenant }
            - { service: rls, descriptor: [{ key: who, from: identity }] }
            - { service: rls, descriptor: [{ key: plan, header: x-plan }] }
            - service: rls
              descriptor:
                - { key: from, from: address }
                - { key: path, from: path }
                - { key: method, from: method }
                - { key: cluster, from: cluster }",
        );
    let proxy = Proxy::start(&config).await;
    let told = h1_client::exchange(
        proxy.addr(),
        "GET /a/../b?q=1 HTTP/1.1\r\nhost: a\r\nx-tenant: t1\r\nx-tenant: t2\r\n\r\n",
    )
    .await;
    assert_eq!(told.status, 200);
    let entries = |pairs: &[(&str, &str)]| {
        let entries: Vec<_> = pairs.iter().map(|(key, value)| json!({ "key": key, "value": value })).collect();
        json!({ "entries": entries })
    };
    let question = service.question().await;
    assert_eq!(question["domain"], "mesh");
    assert_eq!(question["hitsAddend"], 1);
    assert_eq!(
        question["descriptors"],
        json!([
            entries(&[("kind", "api"), ("tenant", "t1,t2")]),
            entries(&[("from", "127.0.0.1"), ("path", "/b"), ("method", "GET"), ("cluster", "c")]),
        ])
    );
    assert_eq!(asked(&proxy, "ok").await, 1.0);
    assert_eq!(backend.requests().len(), 1);
}

#[tokio::test]
async fn a_request_with_none_of_the_descriptors_is_not_asked_about() {
    let backend = H1Backend::ok().await;
    let proxy = Proxy::start(&config(backend.addr, Refusing::new().addr, "onFailure: deny")).await;
    let told = h1_client::exchange(proxy.addr(), "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(told.status, 200);
}

#[tokio::test]
async fn what_the_service_says_reaches_the_caller_and_the_upstream() {
    let (backend, _service, proxy) = set_up("onFailure: deny, timeout: 10s").await;
    let over = ask(&proxy, "over").await;
    assert_eq!((over.status, over.reason()), (429, Some("RL")));
    assert_eq!(over.head.get("x-envoy-ratelimited"), Some("true"));
    assert_eq!(over.head.get("retry-after"), Some("7"), "the time of the limit that it is over, rounded up");

    let page = ask(&proxy, "over%20with%20a%20page".replace("%20", " ").as_str()).await;
    assert_eq!((page.status, page.text().as_str()), (429, r#"{"slow":"down"}"#));
    assert_eq!(page.head.all("content-type"), ["application/json"]);
    assert_eq!(page.head.all("retry-after"), ["77"]);
    assert_eq!(page.head.get("x-ratelimit-limit"), Some("5"));
    assert_eq!(page.head.get("content-length"), Some("15"));
    assert_eq!(backend.requests().len(), 0);

    let passed = ask(&proxy, "change").await;
    assert_eq!((passed.status, passed.head.get("x-ratelimit-remaining")), (200, Some("4")));
    let request = backend.only_request();
    assert_eq!((request.head.get("x-quota"), request.head.get("host")), (Some("gold"), Some("a.example")));
    assert_eq!((asked(&proxy, "ok").await, asked(&proxy, "over_limit").await), (1.0, 2.0));
}

#[tokio::test]
async fn a_grpc_caller_is_told_in_its_own_way() {
    let (backend, service) = (H2Backend::ok().await, Service::start().await);
    let proxy = Proxy::start(&config(backend.addr, service.addr, "onFailure: deny, timeout: 10s")).await;
    let client = H2Client::connect(proxy.addr()).await;
    for (how, status, pushback) in [("over", "8", Some("6500")), ("over with a page", "8", None), ("abort", "14", None)]
    {
        let request = Request::post("http://a.example/a.B/C")
            .header("content-type", "application/grpc")
            .header("x-ask", how)
            .body(())
            .expect("a request");
        let reply = client.fetch(request).await.expect("an answer");
        assert_eq!((reply.status, reply.grpc_status()), (200, Some(status)), "{how}");
        assert_eq!(reply.header("content-type"), Some("application/grpc"), "{how}");
        assert_eq!(reply.header("grpc-retry-pushback-ms"), pushback, "{how}");
    }
}

#[tokio::test]
async fn a_service_that_fails_lets_pass_or_refuses_as_was_said() {
    let (backend, service, proxy) = set_up("onFailure: deny, timeout: 10s").await;
    for how in ["abort", "unclear", "split"] {
        let told = ask(&proxy, how).await;
        assert_eq!((told.status, told.reason()), (500, Some("RLSE")), "{how}");
    }
    assert_eq!(asked(&proxy, "error").await, 3.0);
    assert_eq!(backend.requests().len(), 0);

    let proxy = Proxy::start(&config(backend.addr, service.addr, "onFailure: allow, timeout: 10s")).await;
    for how in ["abort", "unclear", "split"] {
        assert_eq!(ask(&proxy, how).await.status, 200, "{how}");
    }
    assert_eq!(proxy.metric("outrigger_rate_limit_service_failure_allowed_total", &[]).await, 3.0);
    assert_eq!(ask(&proxy, "over").await.status, 429, "a no is no failure");
}

#[tokio::test]
async fn a_service_that_is_not_there_or_dawdles_is_not_waited_for() {
    let (backend, service) = (H1Backend::ok().await, Service::start().await);
    let proxy = Proxy::start(&config(backend.addr, Refusing::new().addr, "onFailure: deny")).await;
    let told = ask(&proxy, "").await;
    assert_eq!((told.status, told.reason()), (500, Some("RLSE")));

    let proxy = Proxy::start(&config(backend.addr, service.addr, "onFailure: allow")).await;
    let began = Instant::now();
    assert_eq!(ask(&proxy, "wait").await.status, 200);
    assert!(began.elapsed() >= Duration::from_millis(20), "the default is 20 ms");
    assert_eq!(asked(&proxy, "timeout").await, 1.0);
}

#[tokio::test]
async fn a_question_holds_up_nobody_else_and_leaves_with_its_caller() {
    let (_backend, mut service, proxy) = set_up("onFailure: deny, timeout: 60s").await;
    let waiting = H1Client::connect(proxy.addr()).await;
    waiting.send("GET / HTTP/1.1\r\nhost: a\r\nx-ask: wait\r\n\r\n").await;
    service.question().await;
    assert_eq!(ask(&proxy, "").await.status, 200);
    drop(waiting);
    within(PATIENCE, "the question to be given up", async {
        while asked(&proxy, "cancelled").await < 1.0 || proxy.metric("outrigger_requests_in_flight", &[]).await > 0.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_question_that_may_have_counted_is_not_asked_again() {
    let backend = H1Backend::ok().await;
    let service = H2Backend::start(|mut call| async move {
        call.body().await.ok();
        call.reset(Reason::INTERNAL_ERROR);
    })
    .await;
    let proxy = Proxy::start(&config(backend.addr, service.addr, "onFailure: deny, timeout: 10s")).await;
    assert_eq!(ask(&proxy, "").await.status, 500);
    assert_eq!(service.count(), 1);
}

#[tokio::test]
async fn malformed_answers_are_failures() {
    let backend = H1Backend::ok().await;
    let service = H2Backend::start(|mut call| async move {
        let (question, _) = call.body().await.expect("a question");
        // The value of `ask` stands at the end, before the number of hits.
        let answer: &'static [u8] = match question[question.len() - 3] {
            b'0' => &[0, 0, 0, 0, 2, 0x08],
            b'1' => &[1, 0, 0, 0, 2, 0x08, 1],
            b'2' => &[0, 0, 0, 0, 9, 0x08, 1],
            b'3' => &[0, 0, 0],
            _ => &[0, 0, 0, 0, 2, 0x08, 1],
        };
        call.reply_grpc(Bytes::from_static(answer)).await;
    })
    .await;
    let proxy = Proxy::start(&config(backend.addr, service.addr, "onFailure: deny, timeout: 10s")).await;
    for how in ["0", "1", "2", "3"] {
        assert_eq!(ask(&proxy, how).await.status, 500, "{how}");
    }
    assert_eq!(ask(&proxy, "4").await.status, 200);
}
