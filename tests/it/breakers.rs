//! Circuit breakers over real sockets: a backend that dies and comes back, who is let through meanwhile, what refused
//! calls are told and what they cost, and orders over the admin server.
//!
//! The cost of 10,000 refused calls is measured in every build; its bound holds for release builds (`OUTRIGGER_BIN`), and
//! others get a generous factor.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::Response;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::support::h1_backend::{Conn, Refusing};
use crate::support::h2_backend::grpc_status;
use crate::support::http1::response;
use crate::support::websocket::{self, EchoServer, WebSocket};
use crate::support::{
    Call, Config, H1Backend, H1Client, H2Backend, H2Client, PATIENCE, Proxy, eventually, gate, h1_client, h2_client,
    process, within,
};

/// What a backend does with requests.
const DEAD: u8 = 0;
const HOLDS: u8 = 1;
const ALIVE: u8 = 2;

/// A backend that can be told how to behave, and remembers when connections came.
struct Moody {
    backend: H1Backend,
    mood: Arc<AtomicU8>,
    arrivals: Arc<Mutex<Vec<Instant>>>,
    released: Arc<Notify>,
}

impl Moody {
    fn on(refusing: Refusing, mood: u8) -> Self {
        let mood = Arc::new(AtomicU8::new(mood));
        let arrivals = Arc::new(Mutex::new(Vec::new()));
        let released = Arc::new(Notify::new());
        let (own_mood, own_arrivals, own_released) = (Arc::clone(&mood), Arc::clone(&arrivals), Arc::clone(&released));
        let backend = H1Backend::on(refusing.listen(), move |mut conn: Conn| {
            own_arrivals.lock().expect("no panic").push(Instant::now());
            let (mood, released) = (Arc::clone(&own_mood), Arc::clone(&own_released));
            async move {
                if mood.load(Ordering::SeqCst) == DEAD {
                    return conn.reset();
                }
                while conn.request().await.is_some() {
                    if mood.load(Ordering::SeqCst) == HOLDS {
                        tokio::select! {
                            () = released.notified() => {}
                            _ = conn.closed() => return,
                        }
                    }
                    if conn.send(response(200, &[], b"ok")).await.is_err() {
                        return;
                    }
                }
            }
        });
        Self { backend, mood, arrivals, released }
    }

    fn becomes(&self, mood: u8) {
        self.mood.store(mood, Ordering::SeqCst);
    }

    fn arrivals(&self) -> Vec<Instant> {
        self.arrivals.lock().expect("no panic").clone()
    }
}

const CLOSES_SOON: &str = "circuitBreaker: { failureThreshold: 5, resetTimeout: 400ms, maxResetTimeout: 400ms }";
/// Long enough for a probe to be under way while a hundred others ask.
const PROBES_LONG: &str = "circuitBreaker: { failureThreshold: 5, resetTimeout: 2s, maxResetTimeout: 2s }";
const STAYS_OPEN: &str = "circuitBreaker: { failureThreshold: 5, resetTimeout: 120s, maxResetTimeout: 120s }";

/// Asks until a breaker refuses; the reasons given before.
async fn ask_until_open(proxy: &Proxy) -> Vec<String> {
    let mut reasons = Vec::new();
    for _ in 0..50 {
        let reply = h1_client::get(proxy.addr(), "/").await;
        match reply.reason() {
            Some("CB") => {
                assert_eq!(reply.status, 503);
                return reasons;
            }
            other => reasons.push(other.unwrap_or("").to_owned()),
        }
    }
    panic!("the breaker opens; so far: {reasons:?}");
}

async fn endpoint_breaker(proxy: &Proxy) -> serde_json::Value {
    proxy.admin_json("/clusters").await[0]["endpoints"][0]["breaker"].clone()
}

async fn transitions(proxy: &Proxy, to: &str) -> f64 {
    let to = format!("to=\"{to}\"");
    proxy.metric("outrigger_breaker_transitions_total", &["scope=\"endpoint\"", "cluster=\"c\"", &to]).await
}

#[tokio::test]
async fn a_backend_that_dies_is_probed_once_in_each_period_and_used_again_when_it_is_back() {
    gate::exclusive();
    let refusing = Refusing::new();
    let proxy = Proxy::start(&Config::to("http1", &[refusing.addr]).upstream(CLOSES_SOON)).await;
    assert_eq!(endpoint_breaker(&proxy).await["state"], "closed");

    // Nobody listens: it opens at its threshold exactly.
    let before = ask_until_open(&proxy).await;
    assert!(!before.is_empty() && before.iter().all(|reason| reason == "UF"), "{before:?}");
    let failures =
        proxy.metric("outrigger_upstream_attempts_total", &["cluster=\"c\"", "outcome=\"connect_failure\""]).await;
    assert!((5.0..=6.0).contains(&failures), "five, and a probe if this took long: {failures}");
    let breaker = endpoint_breaker(&proxy).await;
    assert_eq!(breaker["lastCause"], "failures in a row", "{breaker}");
    assert!(transitions(&proxy, "open").await >= 1.0);
    assert!(proxy.metric("outrigger_breaker_rejected_total", &["cluster=\"c\""]).await >= 1.0);
    proxy.logged("a circuit breaker opened").await;

    // It takes connections and drops them. Eight clients ask all the time.
    let backend = Moody::on(refusing, DEAD);
    let until = Instant::now() + Duration::from_millis(2_300);
    let mut clients = JoinSet::new();
    let addr = proxy.addr();
    for _ in 0..8 {
        clients.spawn(async move {
            let mut client = H1Client::connect(addr).await;
            while Instant::now() < until {
                let reply = client.get("/").await;
                assert!(matches!(reply.reason(), Some("CB" | "UC" | "UR")), "{reply:?}");
            }
        });
    }
    while let Some(done) = within(PATIENCE, "the clients", clients.join_next()).await {
        done.unwrap();
    }
    let arrivals = backend.arrivals();
    assert!((3..=6).contains(&arrivals.len()), "one in each 400 to 440 ms of 2.3 s: {}", arrivals.len());
    for pair in arrivals.windows(2) {
        let gap = pair[1] - pair[0];
        assert!(gap >= Duration::from_millis(390), "no two probes in one period: {gap:?}");
    }

    // It is back.
    backend.becomes(ALIVE);
    let mut last = String::new();
    for _ in 0..2_000 {
        let reply = h1_client::get(proxy.addr(), "/").await;
        last = reply.reason().unwrap_or("").to_owned();
        if reply.status == 200 {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(last, "", "it is used again");
    let breaker = endpoint_breaker(&proxy).await;
    assert_eq!((&breaker["state"], &breaker["probing"]), (&"closed".into(), &false.into()), "{breaker}");
    assert_eq!(transitions(&proxy, "closed").await, 1.0);
    assert_eq!(transitions(&proxy, "open").await, breaker["opens"].as_f64().unwrap());
    assert_eq!(transitions(&proxy, "half_open").await, transitions(&proxy, "open").await, "each was found out about");
    let probes = proxy.metric("outrigger_breaker_probes_total", &["scope=\"endpoint\"", "cluster=\"c\""]).await;
    assert_eq!(probes, transitions(&proxy, "open").await, "by one request");
    assert_eq!(proxy.metric("outrigger_breaker_state", &["cluster=\"c\""]).await, 0.0);
    for _ in 0..50 {
        assert_eq!(h1_client::get(proxy.addr(), "/").await.status, 200);
    }
}

#[tokio::test]
async fn refused_calls_are_cheap_say_when_to_come_back_and_touch_no_network() {
    gate::exclusive();
    const CALLS: u32 = 10_000;
    let refusing = Refusing::new();
    let proxy = Proxy::start(&Config::to("http1", &[refusing.addr]).upstream(STAYS_OPEN)).await;
    ask_until_open(&proxy).await;
    let backend = Moody::on(refusing, ALIVE);
    let mut client = H1Client::connect(proxy.addr()).await;
    let reply = client.get("/").await;
    let wait: u64 = reply.head.get("retry-after").and_then(|seconds| seconds.parse().ok()).expect("whole seconds");
    assert!((100..=133).contains(&wait), "{wait}");

    let addr = proxy.addr();
    let before = process::cpu_ticks(proxy.pid());
    let mut clients = JoinSet::new();
    for _ in 0..8 {
        clients.spawn(async move {
            let mut client = H1Client::connect(addr).await;
            for _ in 0..CALLS / 8 {
                assert_eq!(client.get("/").await.reason(), Some("CB"));
            }
        });
    }
    while let Some(done) = within(Duration::from_secs(60), "the clients", clients.join_next()).await {
        done.unwrap();
    }
    let ticks = process::cpu_ticks(proxy.pid()) - before;
    let micros = ticks as f64 * 10_000.0 / f64::from(CALLS);
    println!("{micros:.1} us of processor time for each of {CALLS} refused calls");
    let bound = if std::env::var_os("OUTRIGGER_BIN").is_some() { 15.0 } else { 400.0 };
    assert!(micros < bound, "{micros:.1} us each, at most {bound}");
    assert_eq!(backend.backend.connections(), 0, "nothing was sent, and nobody connected");
    assert!(proxy.metric("outrigger_breaker_rejected_total", &["scope=\"endpoint\""]).await >= f64::from(CALLS));
    assert_eq!(proxy.metric("outrigger_breaker_state", &["state=\"open\"", "cluster=\"c\""]).await, 1.0);
    let breaker = endpoint_breaker(&proxy).await;
    assert_eq!(breaker["state"], "open");
    assert!(breaker["nextProbeSeconds"].as_f64().is_some_and(|wait| wait > 60.0), "{breaker}");
}

/// A proxy whose breaker has opened, and a backend that holds what it gets.
async fn about_to_be_half_open() -> (Proxy, Moody) {
    let refusing = Refusing::new();
    let proxy = Proxy::start(&Config::to("http1", &[refusing.addr]).upstream(PROBES_LONG)).await;
    ask_until_open(&proxy).await;
    let backend = Moody::on(refusing, HOLDS);
    let due =
        async { while endpoint_breaker(&proxy).await["nextProbeSeconds"].as_f64().is_some_and(|wait| wait > 0.0) {} };
    within(PATIENCE, "the reset timeout", due).await;
    (proxy, backend)
}

#[tokio::test]
async fn of_a_hundred_requests_at_once_one_is_the_probe() {
    let (proxy, backend) = about_to_be_half_open().await;
    let mut clients = JoinSet::new();
    for _ in 0..100 {
        let addr = proxy.addr();
        clients.spawn(async move { h1_client::get(addr, "/").await });
    }
    // The probe hangs for less than its reset timeout, after which another would be allowed.
    for _ in 0..99 {
        let reply = within(PATIENCE, "refusals", clients.join_next()).await.unwrap().unwrap();
        assert_eq!((reply.status, reply.reason()), (503, Some("CB")));
        assert_eq!(reply.head.get("retry-after"), Some("1"));
    }
    assert_eq!(backend.backend.requests().len(), 1);
    backend.becomes(ALIVE);
    backend.released.notify_waiters();
    let reply = within(PATIENCE, "the probe", clients.join_next()).await.unwrap().unwrap();
    assert_eq!(reply.status, 200);
    assert_eq!(endpoint_breaker(&proxy).await["state"], "closed");
}

#[tokio::test]
async fn a_probe_whose_caller_leaves_decides_nothing_and_the_next_request_probes() {
    let (proxy, backend) = about_to_be_half_open().await;
    for probe in 1..=3 {
        let client = H1Client::connect(proxy.addr()).await;
        client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        backend
            .backend
            .until(PATIENCE, "a probe", |records| records.iter().flat_map(|r| &r.requests).count() == probe)
            .await;
        drop(client);
        backend.backend.until(PATIENCE, "it is dropped", |records| records.iter().all(|r| r.end.is_some())).await;
        let breaker = endpoint_breaker(&proxy).await;
        assert_eq!((&breaker["state"], &breaker["opens"]), (&"half_open".into(), &1.into()), "{breaker}");
    }
    backend.becomes(ALIVE);
    assert_eq!(h1_client::get(proxy.addr(), "/").await.status, 200);
    assert_eq!(endpoint_breaker(&proxy).await["state"], "closed");
}

#[tokio::test]
async fn an_open_breaker_survives_a_reload() {
    let refusing = Refusing::new();
    let config = Config::to("http1", &[refusing.addr]);
    let proxy = Proxy::start(&config.clone().upstream(STAYS_OPEN)).await;
    ask_until_open(&proxy).await;
    let backend = Moody::on(refusing, ALIVE);
    proxy.replace_config(&config.clone().upstream(STAYS_OPEN).rule("timeouts: { request: 3s }"));
    let generation = async { while proxy.admin_json("/config").await["generation"] != 2 {} };
    within(PATIENCE, "the new configuration", generation).await;
    assert_eq!(h1_client::get(proxy.addr(), "/").await.reason(), Some("CB"));
    assert_eq!(backend.backend.connections(), 0);
    // Settings are those of the newest configuration.
    proxy.replace_config(&config.upstream("circuitBreaker: { failureThreshold: 0 }"));
    let lets_through = async { while h1_client::get(proxy.addr(), "/").await.status != 200 {} };
    within(PATIENCE, "one that is off lets everything through", lets_through).await;
}

#[tokio::test]
async fn an_endpoint_that_answers_goes_on_being_asked_unless_a_threshold_was_written() {
    let failing = H1Backend::answering(|_| response(503, &[], b"mine")).await;
    let proxy = Proxy::start(&Config::to("http1", &[failing.addr])).await;
    for _ in 0..20 {
        let reply = h1_client::get(proxy.addr(), "/").await;
        assert_eq!((reply.status, reply.reason(), reply.text()), (503, None, "mine".to_owned()));
    }
    assert_eq!(endpoint_breaker(&proxy).await["state"], "open");
    drop(proxy);
    let proxy = Proxy::start(&Config::to("http1", &[failing.addr]).upstream(STAYS_OPEN)).await;
    assert!(ask_until_open(&proxy).await.iter().all(String::is_empty), "its own answers");
}

#[tokio::test]
async fn breakers_of_clusters_and_rules_say_who_refuses_and_can_be_forced() {
    let backend = H1Backend::ok().await;
    let config = Config::to("http1", &[backend.addr])
        .top("accessLog: stdout")
        .rule("name: all")
        .rule("circuitBreaker: { failureThreshold: 3 }");
    let proxy = Proxy::start(&config).await;
    let order = async |query: &str| {
        let (status, body) = proxy.admin_post(&format!("/breakers?{query}")).await;
        assert_eq!(status, 200, "{query}: {body}");
    };
    let address = backend.addr;
    for (whose, details) in [
        ("cluster=c".to_owned(), "breaker_cluster"),
        (format!("cluster=c&endpoint={address}"), "breaker_endpoint"),
        ("rule=all".to_owned(), "breaker_rule"),
    ] {
        let before = backend.requests().len();
        order(&format!("{whose}&state=open")).await;
        let reply = h1_client::get(proxy.addr(), "/").await;
        assert_eq!((reply.status, reply.reason()), (503, Some("CB")), "{details}");
        assert!(reply.head.get("retry-after").is_some());
        let listed = proxy.admin_json("/breakers").await;
        let forced = listed.as_array().unwrap().iter().filter(|b| b["forced"] == true && b["state"] == "forced_open");
        assert_eq!(forced.count(), 1, "{listed}");
        eventually(PATIENCE, details, || {
            proxy.stdout().lines().any(|line| line.contains("\"CB\"") && line.contains(details))
        })
        .await;
        assert_eq!(backend.requests().len(), before);
        order(&format!("{whose}&state=auto")).await;
        assert_eq!(h1_client::get(proxy.addr(), "/").await.status, 200);
    }
    assert_eq!(proxy.admin_post("/breakers?cluster=d&state=open").await.0, 404);
    assert_eq!(proxy.admin_post("/breakers?cluster=c&state=ajar").await.0, 400);
}

#[tokio::test]
async fn the_breaker_of_a_rule_counts_what_came_of_requests() {
    let failing = H1Backend::answering(|_| response(502, &[], b"")).await;
    let config = Config::to("http1", &[failing.addr])
        .rule("circuitBreaker: { failureThreshold: 3 }")
        .upstream("circuitBreaker: { failureThreshold: 0 }");
    let proxy = Proxy::start(&config).await;
    assert_eq!(ask_until_open(&proxy).await.len(), 3, "three requests, whatever was retried");
    assert_eq!(proxy.metric("outrigger_breaker_state", &["scope=\"rule\"", "state=\"open\""]).await, 1.0);
}

#[tokio::test]
async fn grpc_callers_are_told_unavailable_and_trailers_are_evidence() {
    let failing = H2Backend::start(|mut call: Call| async move {
        let _ = call.body().await;
        let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        if let Ok(mut stream) = call.respond(head, false) {
            stream.send_trailers(grpc_status(14)).ok();
        }
    })
    .await;
    let proxy = Proxy::start(&Config::to("http2", &[failing.addr]).upstream(STAYS_OPEN)).await;
    let client = H2Client::connect(proxy.addr()).await;
    for call in 0..50 {
        let reply = client.send(h2_client::grpc("/s.S/M"), h2_client::grpc_message(b"x"), None).await.unwrap();
        assert_eq!(reply.grpc_status(), Some("14"), "{reply:?}");
        if reply.reason() == Some("CB") {
            assert!(call > 0 && failing.count() == 5, "{call} calls, {} met the backend", failing.count());
            let wait: u64 = reply.header("grpc-retry-pushback-ms").and_then(|ms| ms.parse().ok()).expect("a time");
            assert!((100_000..=132_000).contains(&wait), "{wait}");
            return;
        }
    }
    panic!("the breaker opens");
}

/// A server of streams that comes back: the first stream to it goes on for ever, and all others must not wait for that.
#[tokio::test]
async fn a_stream_that_flows_closes_the_breaker_although_it_does_not_end() {
    let backend = H2Backend::start(|mut call: Call| async move {
        if call.index < 5 {
            return call.reset(h2::Reason::INTERNAL_ERROR);
        }
        let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let Ok(mut stream) = call.respond(head, false) else { return };
        h2_client::send_all(&mut stream, h2_client::grpc_message(b"news"), false).await.ok();
        call.reset_while_sending(&mut stream).await;
    })
    .await;
    let upstream = "circuitBreaker: { failureThreshold: 5, resetTimeout: 1s, maxResetTimeout: 60s }";
    let proxy = Proxy::start(&Config::to("http2", &[backend.addr]).upstream(upstream)).await;
    let client = H2Client::connect(proxy.addr()).await;
    for _ in 0..5 {
        let reply = client.send(h2_client::grpc("/s.S/Watch"), h2_client::grpc_message(b"x"), None).await.unwrap();
        assert_eq!(reply.grpc_status(), Some("14"), "{reply:?}");
    }
    let probing = async {
        loop {
            let (mut response, upload) = client.open(h2_client::grpc("/s.S/Watch"), false).await.unwrap();
            let (_, head) = h2_client::read_head(&mut response).await.unwrap();
            if !head.headers().contains_key("x-outrigger-reason") {
                return (head, upload);
            }
        }
    };
    let (mut probe, _upload) = within(PATIENCE, "the breaker lets a stream through", probing).await;
    let message = within(PATIENCE, "its first message", probe.body_mut().data()).await;
    assert!(message.is_some_and(|message| message.is_ok()));
    for _ in 0..20 {
        let (mut response, _upload) = client.open(h2_client::grpc("/s.S/Watch"), false).await.unwrap();
        let (_, head) = within(PATIENCE, "a head", h2_client::read_head(&mut response)).await.unwrap();
        assert_eq!(head.headers().get("x-outrigger-reason"), None, "{head:?}");
    }
    assert_eq!(endpoint_breaker(&proxy).await["state"], "closed");
}

/// The same for events over HTTP, of which there may be none for a long time.
#[tokio::test]
async fn a_stream_of_events_that_is_silent_closes_the_breaker() {
    let mood = Arc::new(AtomicU8::new(DEAD));
    let now = Arc::clone(&mood);
    let backend = H1Backend::start(move |mut conn: Conn| {
        let mood = now.load(Ordering::SeqCst);
        async move {
            if conn.request().await.is_none() {
                return;
            }
            if mood == DEAD {
                return conn.reset();
            }
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
            conn.send(head).await.ok();
            conn.closed().await;
        }
    })
    .await;
    let upstream = "circuitBreaker: { failureThreshold: 5, resetTimeout: 1s, maxResetTimeout: 60s }";
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr]).upstream(upstream)).await;
    ask_until_open(&proxy).await;
    mood.store(ALIVE, Ordering::SeqCst);
    let events = "GET / HTTP/1.1\r\nhost: a.example\r\naccept: text/event-stream\r\n\r\n";
    let probing = async {
        loop {
            let mut client = H1Client::connect(proxy.addr()).await;
            client.send(events).await;
            if client.response_head().await.status == 200 {
                return client;
            }
        }
    };
    let _probe = within(PATIENCE, "the breaker lets a request through", probing).await;
    let mut streams = Vec::new();
    for _ in 0..5 {
        let mut client = H1Client::connect(proxy.addr()).await;
        client.send(events).await;
        assert_eq!(client.response_head().await.status, 200);
        streams.push(client);
    }
}

/// The same where there is nothing but WebSockets, which live as long as their pages.
#[tokio::test]
async fn a_websocket_that_opens_closes_the_breaker() {
    let refusing = Refusing::new();
    let upstream = "circuitBreaker: { failureThreshold: 5, resetTimeout: 500ms, maxResetTimeout: 60s }";
    let config = Config::to("http1", &[refusing.addr])
        .upstream(upstream)
        .rule("circuitBreaker: { failureThreshold: 5, resetTimeout: 500ms, maxResetTimeout: 60s }");
    let proxy = Proxy::start(&config).await;
    let mut refused = 0;
    while endpoint_breaker(&proxy).await["state"] != "open" {
        let mut client = H1Client::connect(proxy.addr()).await;
        let reply = client.exchange(websocket::handshake("/", "dGhlIHNhbXBsZSBub25jZQ==", "")).await;
        assert_eq!(reply.status, 503, "{reply:?}");
        refused += 1;
        assert!(refused < 50, "the breaker opens");
    }
    let server = EchoServer::h1_on(refusing.listen());
    let probing = async {
        loop {
            let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
            let handshake = websocket::handshake("/", "dGhlIHNhbXBsZSBub25jZQ==", "");
            stream.write_all(handshake.as_bytes()).await.unwrap();
            if websocket::read_head(&mut stream).await.unwrap().0.contains(" 101 ") {
                return WebSocket::over(stream, true);
            }
        }
    };
    let mut probe = within(PATIENCE, "the breaker lets a handshake through", probing).await;
    assert_eq!(endpoint_breaker(&proxy).await["state"], "closed", "the open tunnel has closed it");
    let mut sockets = Vec::new();
    for n in 0..10 {
        let mut socket = WebSocket::h1(proxy.addr()).await;
        socket.echoes(&format!("socket {n}")).await;
        sockets.push(socket);
    }
    probe.echoes("the first one").await;
    assert_eq!(server.open(), 11);
}
