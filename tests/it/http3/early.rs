//! Requests that come before the handshake is over (RFC 8470).

use super::client::{Exchange, H3Client, head_with};
use super::lifecycle::reload;
use super::relay::Relay;
use crate::support::http1::Request;
use crate::support::{Config, H1Backend, Mesh, PATIENCE, Proxy, TlsClient, eventually, ms, response, within};

/// A listener that takes early data, and a caller that has been there before.
struct Early {
    identity: String,
    backend: H1Backend,
    proxy: Proxy,
    caller: TlsClient,
    _mesh: Mesh,
}

impl Early {
    async fn start() -> Self {
        Self::with(H1Backend::ok().await, |config| config).await
    }

    async fn with(backend: H1Backend, more: impl Fn(Config) -> Config) -> Self {
        Self::of(backend, |identity, backend| more(config(identity, backend, "{ mode: strict }", TAKEN))).await
    }

    async fn of(backend: H1Backend, config: impl Fn(&str, &H1Backend) -> Config) -> Self {
        let mesh = Mesh::new();
        // Once: with a new certificate of the proxy's, sessions end.
        let identity = mesh.identity("shop/web");
        let proxy = Proxy::start(&config(&identity, &backend)).await;
        let caller = TlsClient::with(&mesh.svid("shop/caller")).resuming().early_data();
        let early = Self { identity, backend, proxy, caller, _mesh: mesh };
        early.visit().await;
        early
    }

    /// The same listener with other HTTP/3.
    fn config(&self, http3: &str) -> Config {
        config(&self.identity, &self.backend, "{ mode: strict }", http3)
    }

    /// With the answer the caller has what it needs to come back.
    async fn visit(&self) {
        let client = H3Client::connect(&self.caller, self.proxy.addr()).await;
        assert_eq!(client.get("/visit").await.status, 200);
        client.connection.close(0x100_u32.into(), b"");
    }

    /// Sends early data through a relay that holds back what the proxy says.
    async fn held(&self) -> (Relay, H3Client) {
        let relay = Relay::before(self.proxy.addr()).await;
        let (client, _) = H3Client::early(&self.caller, relay.addr).await;
        (relay, client)
    }

    /// `early-data` of the requests for this that the backend has seen.
    fn marks(&self, target: &str) -> Vec<Option<String>> {
        let of = |request: &Request| request.head.get("early-data").map(str::to_owned);
        self.backend.requests().iter().filter(|request| request.target == target).map(of).collect()
    }

    async fn seen(&self, target: &str) {
        eventually(PATIENCE, "the backend has seen it", || !self.marks(target).is_empty()).await;
    }

    async fn counted(&self, outcome: &str) -> f64 {
        let labels = ["listener=\"in\"", &format!("outcome=\"{outcome}\"")];
        self.proxy.metric("outrigger_early_requests_total", &labels).await
    }

    /// Waits until this is counted.
    async fn until(&self, name: &str, labels: &[&str], count: f64) {
        let start = std::time::Instant::now();
        while (self.proxy.metric(name, labels).await - count).abs() > 0.5 {
            assert!(start.elapsed() < PATIENCE, "{name} becomes {count}");
            tokio::time::sleep(ms(5)).await;
        }
    }
}

const TAKEN: &str = "{ earlyData: safeMethods }";

fn config(identity: &str, backend: &H1Backend, tls: &str, http3: &str) -> Config {
    Config::to("http1", &[backend.addr])
        .top(identity)
        .top("workers: 4")
        .listener(&format!("tls: {tls}"))
        .listener(&format!("http3: {http3}"))
}

/// A request without a body.
async fn ask(client: &H3Client, method: &str, path: &str) -> Exchange {
    let mut exchange = client.open(method, path).await.expect("a stream");
    exchange.send.finish().expect("open");
    exchange
}

async fn status(exchange: &mut Exchange) -> u16 {
    within(PATIENCE, "an answer", exchange.reply()).await.expect("an answer").status
}

fn marked() -> Option<String> {
    Some("1".to_owned())
}

#[tokio::test]
async fn a_safe_request_is_handled_before_the_handshake_is_over_and_others_wait() {
    let early = Early::start().await;
    let (relay, client) = early.held().await;
    let mut post = ask(&client, "POST", "/post").await;
    let mut with_body = client.open("GET", "/body").await.expect("a stream");
    with_body.put(b"x").await.expect("sent");
    with_body.send.finish().expect("open");
    let mut tunnel =
        client.open_with(&head_with("CONNECT", "/tunnel", &[(":protocol", "websocket")])).await.expect("a stream");
    let mut safe = Vec::new();
    for (method, path) in [("GET", "/get"), ("HEAD", "/head"), ("OPTIONS", "/options")] {
        safe.push(ask(&client, method, path).await);
        early.seen(path).await;
        assert_eq!(early.marks(path), [marked()], "{method}");
    }
    // They came before those.
    for path in ["/post", "/body", "/tunnel"] {
        assert!(early.marks(path).is_empty(), "{path} waits");
    }
    assert_eq!((early.counted("handled").await, early.counted("held").await), (3.0, 3.0));
    let under_way = early.proxy.metric("outrigger_tls_handshakes_under_way", &["listener=\"in\""]).await;
    assert_eq!(under_way, 1.0, "the handshake");
    relay.release();
    for exchange in safe.iter_mut().chain([&mut post, &mut with_body]) {
        assert_eq!(status(exchange).await, 200);
    }
    within(PATIENCE, "an answer", tunnel.status()).await.expect("an answer");
    for path in ["/post", "/body", "/tunnel"] {
        assert_eq!(early.marks(path), [None], "{path}");
    }
    assert_eq!(client.get("/later").await.status, 200);
    assert_eq!(early.marks("/later"), [None]);
    let resumed = early.proxy.metric("outrigger_tls_resumed_handshakes_total", &["listener=\"in\""]).await;
    assert_eq!(resumed, 1.0);
}

#[tokio::test]
async fn by_default_callers_are_given_no_means_for_early_data() {
    let early =
        Early::of(H1Backend::ok().await, |identity, backend| config(identity, backend, "{ mode: strict }", "true"))
            .await;
    assert!(H3Client::try_early(&early.caller, early.proxy.addr()).await.is_none());
}

#[tokio::test]
async fn what_is_not_taken_any_more_costs_the_caller_nothing_but_time() {
    let early = Early::start().await;
    // What has nothing to do with it does not end sessions; a limit that callers go by does.
    let of = |setting: &str| early.config(TAKEN).listener(setting);
    let smaller = early.config(TAKEN).listener("maxConcurrentStreams: 64");
    let changes = [(of("maxConnections: 99"), true), (smaller, false), (early.config("true"), false)];
    for (config, taken) in changes {
        if config.render() != early.config(TAKEN).render() {
            reload(&early.proxy, &config).await;
        }
        let (client, accepted) = H3Client::early(&early.caller, early.proxy.addr()).await;
        let first = client.try_send("GET", "/early", b"").await;
        assert_eq!(within(PATIENCE, "the handshake", accepted).await, taken, "{}", config.render());
        assert_eq!(first.is_ok(), taken, "what is not taken is lost: {first:?}");
        assert_eq!(client.get("/again").await.status, 200);
        assert!(client.connection.close_reason().is_none());
    }
}

#[tokio::test]
async fn an_upstream_that_finds_it_too_early_is_asked_again_after_the_handshake() {
    let backend = H1Backend::answering(|request| {
        let status = if request.head.get("early-data").is_some() { 425 } else { 200 };
        response(status, &[], b"")
    })
    .await;
    // One failure would be enough, and 425 would be retried at once.
    let early = Early::with(backend, |config| {
        config
            .upstream("circuitBreaker: { failureThreshold: 1 }")
            .upstream("outlierDetection: { consecutiveErrors: 1 }")
            .rule("retry: { attempts: 3, on: [425] }")
    })
    .await;
    let (relay, client) = early.held().await;
    let mut ours = ask(&client, "GET", "/ours").await;
    early.seen("/ours").await;
    let mut own = client.open_with(&head_with("GET", "/own", &[("early-data", "1")])).await.expect("a stream");
    own.send.finish().expect("open");
    early.seen("/own").await;
    assert_eq!(early.marks("/ours"), [marked()], "the rest comes after the handshake");
    relay.release();
    assert_eq!(status(&mut ours).await, 200);
    assert_eq!(early.marks("/ours"), [marked(), None]);
    assert_eq!(early.counted("repeated").await, 1.0);
    // Who says it itself hears it itself, with a retry only because the rule has one.
    assert_eq!(status(&mut own).await, 425);
    assert_eq!(early.marks("/own"), vec![marked(); 4]);
    assert_eq!(early.counted("handled").await, 2.0);
    let mut later = client.open_with(&head_with("GET", "/later", &[("early-data", "1")])).await.expect("a stream");
    later.send.finish().expect("open");
    assert_eq!((status(&mut later).await, early.counted("repeated").await), (425, 1.0));
}

#[tokio::test]
async fn a_first_flight_that_is_sent_again_is_not_taken_again() {
    let early = Early::start().await;
    let (relay, client) = early.held().await;
    let mut once = ask(&client, "GET", "/once").await;
    early.seen("/once").await;
    relay.release();
    assert_eq!(status(&mut once).await, 200);
    client.connection.close(0x100_u32.into(), b"");
    early.until("outrigger_quic_connections", &["listener=\"in\""], 0.0).await;
    relay.replay(early.proxy.addr()).await;
    // It is under way as an ordinary handshake of somebody who cannot finish it.
    early.until("outrigger_tls_handshakes_under_way", &["listener=\"in\""], 1.0).await;
    early.visit().await;
    assert_eq!((early.marks("/once").len(), early.counted("handled").await), (1, 1.0));
}

#[tokio::test]
async fn sessions_serve_on_every_worker() {
    let early = Early::start().await;
    for number in 0..12 {
        let (relay, client) = early.held().await;
        let path = format!("/{number}");
        let mut request = ask(&client, "GET", &path).await;
        early.seen(&path).await;
        relay.release();
        assert_eq!(status(&mut request).await, 200);
        // Behind the handshake, and so behind the next session.
        assert_eq!(client.get("/after").await.status, 200);
        assert_eq!(early.marks(&path), [marked()]);
    }
    assert_eq!(early.counted("handled").await, 12.0);
}

/// A GET in early data is not handled before the handshake is over.
async fn waits(early: &Early) {
    let (relay, client) = early.held().await;
    let mut get = ask(&client, "GET", "/get").await;
    early.until("outrigger_early_requests_total", &["outcome=\"held\""], 1.0).await;
    assert!(early.marks("/get").is_empty());
    relay.release();
    assert_eq!(status(&mut get).await, 200);
    assert_eq!(early.marks("/get"), [None]);
}

#[tokio::test]
async fn what_is_decided_by_the_callers_certificate_waits_for_the_handshake() {
    let early = Early::with(H1Backend::ok().await, |config| {
        config.listener("authorization: p").top(
            "authorization: { p: { default: allow, rules: [{ name: none, action: audit, to: [{ ports: [1] }] }] } }",
        )
    })
    .await;
    waits(&early).await;
}

/// Before the end of the handshake a caller can claim any address.
#[tokio::test]
async fn what_is_decided_by_the_callers_address_waits_for_the_handshake() {
    let early = Early::of(H1Backend::ok().await, |identity, backend| {
        config(identity, backend, "{ mode: strict, clientCertificate: none }", TAKEN).listener("authorization: p").top(
            "authorization: { p: { default: deny, rules: [{ name: near, action: allow, from: [{ addresses: [127.0.0.0/8] }] }] } }",
        )
    })
    .await;
    waits(&early).await;
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_ended_and_what_waits_for_it_is_not_handled() {
    let tls = "{ mode: strict, handshakeTimeout: 1s }";
    let early = Early::of(H1Backend::ok().await, |identity, backend| config(identity, backend, tls, TAKEN)).await;
    let (_relay, client) = early.held().await;
    let _post = ask(&client, "POST", "/post").await;
    let _get = ask(&client, "GET", "/get").await;
    early.seen("/get").await;
    early.until("outrigger_tls_handshakes_under_way", &["listener=\"in\""], 1.0).await;
    crate::tls::refused(&early.proxy, "timeout", 1.0).await;
    early.until("outrigger_quic_connections", &["listener=\"in\""], 0.0).await;
    early.until("outrigger_connections", &["listener=\"in\""], 0.0).await;
    assert!(early.marks("/post").is_empty());
    early.visit().await;
}
