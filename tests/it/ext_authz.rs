//! External authorization, with a server that is built on Envoy's own messages and Python's `grpcio`.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::Request;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::support::h1_backend::Refusing;
use crate::support::http1::{Response, chunk};
use crate::support::{
    Config, H1Backend, H1Client, H2Backend, H2Client, Mesh, PATIENCE, Proxy, TlsClient, h1_client, process, within,
};

/// An authorizer; gone when dropped.
struct Authorizer {
    addr: SocketAddr,
    lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Authorizer {
    async fn start() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/python/authorizer.py");
        let mut child = Command::new(process::python())
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("start Python");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let port = within(PATIENCE, "the authorizer's port", lines.next_line()).await;
        let port: u16 = port.expect("readable").expect("a line").trim().parse().expect("a port");
        Self { addr: SocketAddr::from(([127, 0, 0, 1], port)), lines, _child: child }
    }

    /// The next question: attributes, and the metadata of the call.
    async fn question(&mut self) -> (Value, Value) {
        let line = within(PATIENCE, "a question", self.lines.next_line()).await;
        let mut question: Value = serde_json::from_str(&line.expect("readable").expect("a line")).expect("JSON");
        (question["question"]["attributes"].take(), question["metadata"].take())
    }
}

fn config(backend: SocketAddr, authorizer: SocketAddr, settings: &str) -> Config {
    Config::to("http1", &[backend])
        .cluster("opa", "http2", &[authorizer])
        .top(&format!("externalAuthorizers:\n  opa: {{ cluster: opa, timeout: 10s{settings} }}"))
        .listener("externalAuthorization: opa")
}

async fn set_up(settings: &str) -> (H1Backend, Authorizer, Proxy) {
    let (backend, authorizer) = (H1Backend::ok().await, Authorizer::start().await);
    let proxy = Proxy::start(&config(backend.addr, authorizer.addr, settings)).await;
    (backend, authorizer, proxy)
}

async fn ask(proxy: &Proxy, how: &str) -> Response {
    h1_client::exchange(proxy.addr(), format!("GET /a HTTP/1.1\r\nhost: a.example\r\nx-ask: {how}\r\n\r\n")).await
}

async fn asked(proxy: &Proxy, result: &str) -> f64 {
    let labels = [r#"authorizer="opa""#, &format!("result=\"{result}\"")];
    proxy.metric("outrigger_external_authorization_total", &labels).await
}

#[tokio::test]
async fn an_authorizer_is_told_about_the_request() {
    let (backend, mut authorizer, proxy) = set_up(", context: { env: prod }").await;
    let mut client = H1Client::connect(proxy.addr()).await;
    let local = client.wire.local_addr();
    let told = client
        .exchange(
            "GET /a/../b?q=%31 HTTP/1.1\r\nHost: a.example:80\r\nX-Twice: 1\r\nx-twice: 2\r\ncookie: a=1\r\n\
             cookie: b=2\r\nx-envoy-auth-failure-mode-allowed: true\r\n\r\n",
        )
        .await;
    assert_eq!((told.status, told.text().as_str()), (200, "ok"));
    let (question, metadata) = authorizer.question().await;
    let http = &question["request"]["http"];
    assert_eq!(http["method"], "GET");
    assert_eq!(http["path"], "/b?q=%31");
    assert_eq!(http["host"], "a.example:80");
    assert_eq!(http["scheme"], "http");
    assert_eq!(http["protocol"], "HTTP/1.1");
    assert_eq!(http["size"], "-1");
    let headers = &http["headers"];
    assert_eq!(headers["x-twice"], "1,2");
    assert_eq!(headers["cookie"], "a=1; b=2");
    assert_eq!(headers[":authority"], "a.example:80");
    assert_eq!(headers[":path"], "/b?q=%31");
    assert_eq!(headers["x-request-id"], http["id"]);
    assert!(headers.get("x-envoy-auth-failure-mode-allowed").is_none(), "{headers}");
    assert!(http.get("body").is_none() && http.get("rawBody").is_none());
    let address = |side: &str| question[side]["address"]["socketAddress"].clone();
    assert_eq!(address("source"), json!({ "address": "127.0.0.1", "portValue": local.port() }));
    assert_eq!(address("destination"), json!({ "address": "127.0.0.1", "portValue": proxy.addr().port() }));
    assert_eq!(question["contextExtensions"], json!({ "env": "prod" }));
    assert!(question["request"]["time"].as_str().is_some_and(|time| time.starts_with("20")));
    assert!(metadata["user-agent"].as_str().is_some_and(|agent| agent.starts_with("outrigger/")), "{metadata}");
    assert!(!backend.only_request().head.has("x-envoy-auth-failure-mode-allowed"));
    assert_eq!(asked(&proxy, "allowed").await, 1.0);
}

#[tokio::test]
async fn an_authorizer_changes_headers_and_parameters_but_not_where_the_request_goes() {
    let (backend, _authorizer, proxy) = set_up("").await;
    let told = h1_client::exchange(
        proxy.addr(),
        "POST /a?secret=1&x=2&user=eve HTTP/1.1\r\nhost: a.example\r\nx-ask: change\r\nx-user: eve\r\nx-added: one\r\n\
         x-kept: old\r\nx-over: old\r\nx-secret: s\r\ncontent-length: 4\r\n\r\nbody",
    )
    .await;
    assert_eq!(told.status, 200);
    assert_eq!(told.head.all("set-cookie"), ["a=1", "b=2"]);
    let request = backend.only_request();
    assert_eq!((request.target.as_str(), &request.body[..]), ("/a?x=2&user=ann%20%26%20co", &b"body"[..]));
    let head = &request.head;
    assert_eq!(head.all("x-user"), ["ann"]);
    assert_eq!(head.all("x-added"), ["one", "two"]);
    assert_eq!(head.all("x-absent"), ["set"]);
    assert_eq!(head.all("x-kept"), ["old"]);
    assert_eq!(head.all("x-over"), ["new"]);
    assert!(!head.has("x-missing") && !head.has("x-secret") && !head.has("transfer-encoding"));
    assert_eq!(head.get("host"), Some("a.example"));
    assert_ne!(head.get("x-outrigger-via"), Some("forged"));
}

#[tokio::test]
async fn a_refusal_is_the_authorizers_own_answer() {
    let (backend, _authorizer, proxy) = set_up("").await;
    let plain = ask(&proxy, "deny").await;
    assert_eq!((plain.status, plain.reason()), (403, Some("UAEX")));

    let page = ask(&proxy, "deny with a page").await;
    assert_eq!((page.status, page.text().as_str()), (401, "<p>Who are you?</p>"));
    assert_eq!(page.head.get("content-type"), Some("text/html"));
    assert_eq!(page.head.get("www-authenticate"), Some("Custom"));
    assert_eq!(page.head.all("set-cookie"), ["a=1", "b=2"]);
    assert_eq!(page.head.get("content-length"), Some("19"));
    assert_eq!(page.reason(), Some("UAEX"));

    let elsewhere = ask(&proxy, "redirect").await;
    assert_eq!((elsewhere.status, elsewhere.head.get("location")), (302, Some("https://login.example/")));
    assert_eq!(backend.requests().len(), 0);
    assert_eq!(asked(&proxy, "denied").await, 3.0);
}

#[tokio::test]
async fn a_grpc_caller_gets_a_grpc_status() {
    let backend = H2Backend::ok().await;
    let authorizer = Authorizer::start().await;
    let config = config(backend.addr, authorizer.addr, "");
    let proxy = Proxy::start(&config).await;
    let client = H2Client::connect(proxy.addr()).await;
    for (how, status, message) in [
        ("deny", "7", None),
        ("deny with a page", "16", Some("<p>Who are you?</p>")),
        ("abort", "7", Some("The request was not authorized.")),
    ] {
        let request = Request::post("http://a.example/a.B/C")
            .header("content-type", "application/grpc")
            .header("x-ask", how)
            .body(())
            .expect("a request");
        let reply = client.fetch(request).await.expect("an answer");
        assert_eq!((reply.status, reply.grpc_status()), (200, Some(status)), "{how}");
        assert_eq!(reply.reason(), Some("UAEX"), "{how}");
        if message.is_some() {
            assert_eq!(reply.header("grpc-message"), message, "{how}");
        }
    }
}

#[tokio::test]
async fn whatever_is_no_clear_yes_is_a_no() {
    let (backend, _authorizer, proxy) = set_up(", statusOnError: 503").await;
    for how in ["abort", "split", "large"] {
        let told = ask(&proxy, how).await;
        assert_eq!((told.status, told.reason()), (503, Some("UAEX")), "{how}");
    }
    assert_eq!(ask(&proxy, "error response").await.status, 502, "the authorizer names the status");
    assert_eq!(asked(&proxy, "error").await, 4.0);
    assert_eq!(backend.requests().len(), 0);
}

#[tokio::test]
async fn without_an_authorizer_nobody_passes() {
    let (backend, nobody) = (H1Backend::ok().await, Refusing::new());
    let proxy = Proxy::start(&config(backend.addr, nobody.addr, "")).await;
    let told = ask(&proxy, "").await;
    assert_eq!((told.status, told.reason()), (403, Some("UAEX")));
    assert_eq!(asked(&proxy, "error").await, 1.0);
    assert_eq!(backend.connections(), 0);
}

#[tokio::test]
async fn an_authorizer_that_dawdles_is_not_waited_for() {
    let (backend, authorizer) = (H1Backend::ok().await, Authorizer::start().await);
    let slow = |settings: &str| {
        Config::to("http1", &[backend.addr])
            .cluster("opa", "http2", &[authorizer.addr])
            .top(&format!("externalAuthorizers:\n  opa: {{ cluster: opa{settings} }}"))
            .listener("externalAuthorization: opa")
    };
    let proxy = Proxy::start(&slow("")).await;
    let began = std::time::Instant::now();
    let told = ask(&proxy, "wait").await;
    assert_eq!((told.status, told.reason()), (403, Some("UAEX")));
    assert!(began.elapsed() >= Duration::from_millis(200), "the default is 200 ms");
    assert_eq!(asked(&proxy, "timeout").await, 1.0);
    assert_eq!(backend.requests().len(), 0);

    let proxy = Proxy::start(&slow(", failOpen: true, timeout: 50ms")).await;
    assert_eq!(ask(&proxy, "wait").await.status, 200);
    assert_eq!(backend.only_request().head.get("x-envoy-auth-failure-mode-allowed"), Some("true"));
}

#[tokio::test]
async fn an_authorizer_may_be_configured_to_fail_open_and_still_says_no() {
    let (backend, _authorizer, proxy) = set_up(", failOpen: true").await;
    for how in ["abort", "split", "error response"] {
        assert_eq!(ask(&proxy, how).await.status, 200, "{how}");
    }
    for request in backend.requests() {
        assert_eq!(request.head.get("x-envoy-auth-failure-mode-allowed"), Some("true"));
    }
    assert_eq!(proxy.metric("outrigger_external_authorization_failed_open_total", &[]).await, 3.0);
    assert_eq!(ask(&proxy, "deny").await.status, 403, "a no is no failure");
    assert_eq!(backend.requests().len(), 3);
}

#[tokio::test]
async fn a_rule_can_do_without() {
    let (backend, authorizer) = (H1Backend::ok().await, Authorizer::start().await);
    let config = config(backend.addr, authorizer.addr, "").routes(
        "- rules:
             - { matches: [{ path: { prefix: /health } }], externalAuthorization: off, backendRefs: [{ cluster: c }] }
             - backendRefs: [{ cluster: c }]",
    );
    let proxy = Proxy::start(&config).await;
    let told = h1_client::exchange(proxy.addr(), "GET /health HTTP/1.1\r\nhost: a\r\nx-ask: deny\r\n\r\n").await;
    assert_eq!(told.status, 200);
    assert_eq!(ask(&proxy, "deny").await.status, 403);
    assert_eq!(backend.requests().len(), 1);
}

#[tokio::test]
async fn a_body_is_shown_up_to_its_limit_and_forwarded_whole() {
    let (backend, mut authorizer, proxy) = set_up(", maxBodyBytes: 10B").await;
    let mut client = H1Client::connect(proxy.addr()).await;
    for (sent, shown, partial) in
        [("", "", "false"), ("short", "short", "false"), ("0123456789abc", "0123456789", "true")]
    {
        let request = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{sent}", sent.len());
        assert_eq!(client.exchange(request).await.status, 200);
        let (question, _) = authorizer.question().await;
        let http = &question["request"]["http"];
        assert_eq!(http["body"].as_str().unwrap_or_default(), shown);
        assert_eq!(http["headers"]["x-envoy-auth-partial-body"], partial);
        assert_eq!(backend.requests().last().expect("forwarded").body, sent.as_bytes());
    }

    // The rest streams: the beginning is judged while the end is yet to come.
    let start = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    client.send([start.as_bytes(), &chunk(&[0xff; 11])].concat()).await;
    let (question, _) = authorizer.question().await;
    assert_eq!(question["request"]["http"]["rawBody"], "/////////////w==", "bytes that are no text");
    client.send([&chunk(b"rest")[..], b"0\r\n\r\n"].concat()).await;
    assert_eq!(client.response().await.status, 200);
    let body = backend.requests().last().expect("forwarded").body.clone();
    assert_eq!(body, [&[0xff; 11][..], b"rest"].concat());
    backend.assert_clean();
}

#[tokio::test]
async fn a_caller_that_waits_to_be_told_is_told_to_send_what_is_to_be_judged() {
    let (backend, mut authorizer, proxy) = set_up(", maxBodyBytes: 10B").await;
    let mut client = H1Client::connect(proxy.addr()).await;
    client.send("POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n").await;
    let length = b"HTTP/1.1 100 Continue\r\n\r\n".len();
    let told = within(PATIENCE, "100", client.wire.take(length)).await.expect("bytes");
    assert!(told.starts_with(b"HTTP/1.1 100"), "{}", told.escape_ascii());
    client.send("body").await;
    assert_eq!(client.response().await.status, 200);
    assert_eq!(authorizer.question().await.0["request"]["http"]["body"], "body");
    let request = backend.only_request();
    assert_eq!((&request.body[..], request.head.has("expect")), (&b"body"[..], false));
}

#[tokio::test]
async fn a_caller_that_leaves_takes_its_question_along() {
    let (_backend, mut authorizer, proxy) = set_up("").await;
    let client = H1Client::connect(proxy.addr()).await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\nx-ask: wait\r\n\r\n").await;
    authorizer.question().await;
    drop(client);
    within(PATIENCE, "the question to be given up", async {
        while asked(&proxy, "cancelled").await < 1.0 || proxy.metric("outrigger_requests_in_flight", &[]).await > 0.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_configuration_may_bring_and_take_an_authorizer() {
    let (backend, authorizer, proxy) = set_up("").await;
    let mut client = H1Client::connect(proxy.addr()).await;
    let request = "GET / HTTP/1.1\r\nhost: a\r\nx-ask: deny\r\n\r\n";
    assert_eq!(client.exchange(request).await.status, 403);
    proxy.replace_config(&Config::to("http1", &[backend.addr]));
    proxy.logged("generation=2").await;
    assert_eq!(client.exchange(request).await.status, 200, "the same connection");
    proxy.replace_config(&config(backend.addr, authorizer.addr, ""));
    proxy.logged("generation=3").await;
    assert_eq!(client.exchange(request).await.status, 403);
}

#[tokio::test]
async fn an_authorizer_is_told_who_the_certificates_say_is_there() {
    let (backend, mut authorizer, mesh) = (H1Backend::ok().await, Authorizer::start().await, Mesh::new());
    let config = config(backend.addr, authorizer.addr, "")
        .top(&mesh.identity("shop/web"))
        .listener("tls: { mode: permissive, clientCertificate: optional }");
    let proxy = Proxy::start(&config).await;
    let client = TlsClient::with(&mesh.svid("shop/cart")).sni("web.shop.example");
    assert_eq!(client.served(proxy.addr()).await.1.status, 200);
    let (question, _) = authorizer.question().await;
    assert_eq!(question["source"]["principal"], "spiffe://mesh.local/ns/shop/sa/cart");
    assert_eq!(question["destination"]["principal"], "spiffe://mesh.local/ns/shop/sa/web");
    assert_eq!(question["tlsSession"], json!({ "sni": "web.shop.example" }));

    assert_eq!(ask(&proxy, "").await.status, 200);
    let (question, _) = authorizer.question().await;
    assert!(question["source"].get("principal").is_none(), "nobody is proved in plaintext: {question}");
    assert!(question.get("tlsSession").is_none());
}

#[tokio::test]
async fn a_question_that_an_authorizer_drops_is_asked_once_more() {
    let backend = H1Backend::ok().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    // Answers every second question, and from the fifth on none.
    let authorizer = H2Backend::start(move |mut call| {
        let number = count.fetch_add(1, Ordering::Relaxed);
        async move {
            if call.body().await.is_ok() && number % 2 == 1 && number < 4 {
                // An empty `CheckResponse`: yes, and nothing more.
                call.reply_grpc(Bytes::from_static(&[0; 5])).await;
            } else {
                call.reset(Reason::INTERNAL_ERROR);
            }
        }
    })
    .await;
    let proxy = Proxy::start(&config(backend.addr, authorizer.addr, "")).await;
    for _ in 0..2 {
        assert_eq!(ask(&proxy, "").await.status, 200);
    }
    assert_eq!(ask(&proxy, "").await.status, 403);
    assert_eq!((asked.load(Ordering::Relaxed), backend.requests().len()), (6, 2));
}
