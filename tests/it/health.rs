//! Health of endpoints: asked actively, over each protocol, and judged by what comes of requests.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::any::{AnyBackend, Message, Version};
use crate::support::h1_backend::Refusing;
use crate::support::{Config, Conn, H1Backend, Mesh, PATIENCE, Proxy, TlsServer, h1_client, ms};

const CHECKED: &str = "healthCheck: { http: { path: /healthz }, interval: 100ms, noTrafficInterval: 100ms, timeout: 2s, \
                       unhealthyThreshold: 2 }";

/// A backend that answers requests with 200 and its checks with a status that can be changed.
struct Patient {
    backend: AnyBackend,
    status: Arc<AtomicU16>,
}

impl Patient {
    async fn new(version: Version, status: u16) -> Self {
        let status = Arc::new(AtomicU16::new(status));
        let told = Arc::clone(&status);
        let answer = move |target: &str| if target == "/healthz" { told.load(Ordering::Relaxed) } else { 200 };
        let backend = AnyBackend::with(version, move |seen| (answer(&seen.target), Message::body("ok"))).await;
        Self { backend, status }
    }

    fn addr(&self) -> SocketAddr {
        self.backend.addr()
    }

    fn becomes(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    fn checks(&self) -> usize {
        self.backend.seen().iter().filter(|seen| seen.target == "/healthz").count()
    }

    fn requests(&self) -> usize {
        self.backend.seen().iter().filter(|seen| seen.target != "/healthz").count()
    }
}

/// What `/clusters` says of an endpoint of the cluster `c`.
async fn endpoint(proxy: &Proxy, addr: SocketAddr) -> Value {
    let clusters = proxy.admin_json("/clusters").await;
    let all = clusters.as_array().expect("a list").iter().filter(|cluster| cluster["name"] == "c");
    let mut endpoints = all.flat_map(|cluster| cluster["endpoints"].as_array().expect("a list").clone());
    endpoints.find(|endpoint| endpoint["address"] == addr.to_string()).expect("it is there")
}

/// Waits until an endpoint is said to be so.
#[track_caller]
fn becomes<'a>(proxy: &'a Proxy, addr: SocketAddr, health: &'a str) -> impl Future<Output = Value> + 'a {
    let place = std::panic::Location::caller();
    async move {
        let start = Instant::now();
        loop {
            let endpoint = endpoint(proxy, addr).await;
            if endpoint["health"] == health {
                return endpoint;
            }
            assert!(start.elapsed() < PATIENCE, "{addr} becomes {health} (waited at {place}): {endpoint}");
            tokio::time::sleep(ms(5)).await;
        }
    }
}

/// Waits until a backend was checked so many times more.
async fn checked_more(patient: &Patient, times: usize) {
    let before = patient.checks();
    crate::support::eventually(PATIENCE, "more checks", || patient.checks() >= before + times).await;
}

async fn get(proxy: &Proxy, times: usize) {
    for _ in 0..times {
        assert_eq!(h1_client::get(proxy.addr(), "/").await.status, 200);
    }
}

#[tokio::test]
async fn an_endpoint_whose_checks_fail_is_passed_over_until_they_succeed() {
    for (version, protocol) in [(Version::H1, "http1"), (Version::H2, "http2"), (Version::H1, "auto")] {
        let (good, bad) = (Patient::new(version, 200).await, Patient::new(version, 503).await);
        let config = Config::to(protocol, &[good.addr(), bad.addr()]).upstream(CHECKED);
        let proxy = Proxy::start(&config).await;
        becomes(&proxy, good.addr(), "healthy").await;
        // The first check decides at once.
        let said = becomes(&proxy, bad.addr(), "unhealthy").await;
        assert_eq!(
            (&said["lastCheck"]["result"], &said["lastCheck"]["reason"]),
            (&"failure".into(), &"status 503".into())
        );
        assert_eq!(said["healthReason"], "its health checks fail; the last one: status 503");
        let before = bad.requests();
        get(&proxy, 20).await;
        assert_eq!(bad.requests(), before, "{protocol}");
        bad.becomes(204);
        becomes(&proxy, bad.addr(), "healthy").await;
        good.becomes(500);
        becomes(&proxy, good.addr(), "unhealthy").await;
        let before = good.requests();
        get(&proxy, 20).await;
        assert_eq!((good.requests(), bad.requests() >= 20), (before, true), "{protocol}");
        proxy.logged("an endpoint is healthy again").await;
        let metric = async |name: &str, label: &str| proxy.metric(name, &["cluster=\"c\"", label]).await;
        assert_eq!(metric("outrigger_upstream_endpoints", "state=\"healthy\"").await, 1.0);
        assert_eq!(metric("outrigger_upstream_endpoints", "state=\"unhealthy\"").await, 1.0);
        assert!(metric("outrigger_upstream_health_checks_total", "result=\"failure\"").await >= 2.0);
        assert!(metric("outrigger_upstream_health_checks_total", "result=\"success\"").await >= 2.0);
    }
}

#[tokio::test]
async fn what_is_asked_is_as_configured_and_one_connection_serves() {
    let backend = AnyBackend::answering(Version::H1, 418, Message::body("short and stout")).await;
    let config = Config::to("http1", &[backend.addr()]).upstream(
        "healthCheck: { http: { path: \"/live?deep=1\", host: probe.test, method: HEAD, headers: { x-probe: \"yes\" }, \
         expected: [\"200\", \"410-420\"] }, interval: 100ms, noTrafficInterval: 100ms }",
    );
    let proxy = Proxy::start(&config).await;
    becomes(&proxy, backend.addr(), "healthy").await;
    crate::support::eventually(PATIENCE, "checks", || backend.seen().len() >= 6).await;
    let seen = backend.seen().remove(3);
    assert_eq!((&*seen.method, &*seen.target, seen.get("host")), ("HEAD", "/live?deep=1", Some("probe.test")));
    assert_eq!(seen.get("x-probe"), Some("yes"));
    assert!(seen.get("user-agent").is_some_and(|agent| agent.contains("health check")), "{seen:?}");
    assert_eq!(backend.connections(), 1, "it is kept");
    // They are no requests and no connections of the cluster.
    let endpoint = endpoint(&proxy, backend.addr()).await;
    assert_eq!((&endpoint["requests"], &endpoint["connections"]), (&0.into(), &0.into()));
}

#[tokio::test]
async fn answers_that_come_and_go_change_nothing_below_the_thresholds() {
    let turn = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&turn);
    let flapping = AnyBackend::with(Version::H1, move |_| {
        // Good, bad, bad, good, ...
        let status = if count.fetch_add(1, Ordering::Relaxed).is_multiple_of(3) { 200 } else { 503 };
        (status, Message::body("?"))
    })
    .await;
    let config = Config::to("http1", &[flapping.addr()]).upstream(
        "healthCheck: { http: { path: / }, interval: 100ms, noTrafficInterval: 100ms, unhealthyThreshold: 3 }",
    );
    let proxy = Proxy::start(&config).await;
    crate::support::eventually(PATIENCE, "checks", || turn.load(Ordering::Relaxed) >= 12).await;
    assert_eq!(endpoint(&proxy, flapping.addr()).await["health"], "healthy");
    assert!(!proxy.stderr().contains("an endpoint is unhealthy"));
}

#[tokio::test]
async fn an_endpoint_that_hangs_is_unhealthy_and_holds_up_no_other() {
    let hanging = H1Backend::start(|mut conn: Conn| async move {
        conn.closed().await;
    })
    .await;
    let (dead, good, other) =
        (Refusing::new(), Patient::new(Version::H1, 200).await, Patient::new(Version::H1, 200).await);
    // Two of four are well, so that the others are not needed.
    let config = Config::to("http1", &[hanging.addr, dead.addr, good.addr(), other.addr()]).upstream(
        "healthCheck: { http: { path: /healthz }, interval: 100ms, noTrafficInterval: 100ms, timeout: 400ms }",
    );
    let proxy = Proxy::start(&config).await;
    becomes(&proxy, good.addr(), "healthy").await;
    // Its first check has not even ended.
    checked_more(&good, 2).await;
    let said = becomes(&proxy, hanging.addr, "unhealthy").await;
    assert_eq!(said["lastCheck"]["reason"], "no answer within 400ms");
    assert_eq!(said["lastCheck"]["result"], "timeout");
    let said = becomes(&proxy, dead.addr, "unhealthy").await;
    assert_eq!(said["lastCheck"]["result"], "unreachable");
    assert!(said["lastCheck"]["reason"].as_str().is_some_and(|why| why.contains("refused")), "{said}");
    get(&proxy, 10).await;
    assert_eq!(good.requests() + other.requests(), 10);
}

#[tokio::test]
async fn half_an_answer_is_none() {
    let half = H1Backend::after_request(|conn: Conn| async move {
        drop(conn.send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await);
    })
    .await;
    let config = Config::to("http1", &[half.addr]).upstream(CHECKED);
    let proxy = Proxy::start(&config).await;
    let said = becomes(&proxy, half.addr, "unhealthy").await;
    assert!(said["healthReason"].as_str().is_some_and(|why| why.contains("broke off")), "{said}");
}

#[tokio::test]
async fn a_connection_alone_can_be_the_check() {
    let (listening, refusing) = (H1Backend::ok().await, Refusing::new());
    let config = Config::to("http1", &[listening.addr, refusing.addr])
        .upstream("healthCheck: { tcp: {}, interval: 100ms, noTrafficInterval: 100ms }");
    let proxy = Proxy::start(&config).await;
    let said = becomes(&proxy, listening.addr, "healthy").await;
    assert_eq!(said["lastCheck"]["reason"], "connected");
    becomes(&proxy, refusing.addr, "unhealthy").await;
    assert_eq!(listening.requests().len(), 0);
}

#[tokio::test]
async fn another_port_can_be_asked() {
    let (serving, asked) = (Patient::new(Version::H1, 500).await, Patient::new(Version::H1, 200).await);
    let config = Config::to("http1", &[serving.addr()]).upstream(&format!(
        "healthCheck: {{ http: {{ path: /healthz }}, interval: 100ms, noTrafficInterval: 100ms, port: {} }}",
        asked.addr().port()
    ));
    let proxy = Proxy::start(&config).await;
    becomes(&proxy, serving.addr(), "healthy").await;
    assert_eq!(serving.checks(), 0);
}

fn health(status: u8) -> Message {
    Message::body(vec![0, 0, 0, 0, 2, 8, status]).field("content-type", "application/grpc").trailer("grpc-status", "0")
}

#[tokio::test]
async fn grpc_health_is_serving_and_nothing_else() {
    let serving = AnyBackend::with(Version::H2, |seen| {
        let asked = seen.target == "/grpc.health.v1.Health/Check" && seen.body == b"\0\0\0\0\x06\x0a\x04shop";
        (200, health(if asked { 1 } else { 2 }))
    })
    .await;
    let not_serving = AnyBackend::answering(Version::H2, 200, health(2)).await;
    let unimplemented = Message::default().field("content-type", "application/grpc").field("grpc-status", "12");
    let unimplemented = AnyBackend::answering(Version::H2, 200, unimplemented).await;
    let no_grpc = AnyBackend::answering(Version::H2, 404, Message::body("?")).await;
    let all = [serving.addr(), not_serving.addr(), unimplemented.addr(), no_grpc.addr()];
    let config = Config::to("http2", &all).upstream(
        "healthCheck: { grpc: { service: shop, authority: shop.test }, interval: 100ms, noTrafficInterval: 100ms }",
    );
    let proxy = Proxy::start(&config).await;
    let reason = async |addr, state| becomes(&proxy, addr, state).await["lastCheck"]["reason"].clone();
    assert_eq!(reason(all[0], "healthy").await, "SERVING");
    assert_eq!(serving.seen()[0].get("host"), Some("shop.test"));
    assert_eq!(reason(all[1], "unhealthy").await, "NOT_SERVING");
    assert_eq!(reason(all[2], "unhealthy").await, "gRPC status 12 (UNIMPLEMENTED): it has no health check");
    assert_eq!(reason(all[3], "unhealthy").await, "status 404 instead of gRPC");
}

#[tokio::test]
async fn checks_go_over_the_mutual_tls_of_the_cluster() {
    let mesh = Mesh::new();
    for (version, protocol) in [(Version::H1, "http1"), (Version::H2, "http2"), (Version::H2, "auto")] {
        let (a, b) = (Patient::new(version, 200).await, Patient::new(version, 200).await);
        let right = TlsServer::asking(&mesh.svid("shop/payments")).front(a.addr()).await;
        let wrong = TlsServer::asking(&mesh.svid("shop/cart")).front(b.addr()).await;
        let tls = format!("tls: {{ peerIdentities: [\"{}\"] }}", mesh.id("shop/payments"));
        let config = Config::to(protocol, &[right.addr, wrong.addr])
            .top(&mesh.identity("shop/web"))
            .upstream(&tls)
            .upstream(CHECKED);
        let proxy = Proxy::start(&config).await;
        becomes(&proxy, right.addr, "healthy").await;
        let said = becomes(&proxy, wrong.addr, "unhealthy").await;
        assert!(said["healthReason"].as_str().is_some_and(|why| why.contains("wrong-identity")), "{said}");
        checked_more(&a, 3).await;
        assert_eq!(right.sessions()[0].peer_uris(), [mesh.id("shop/web")]);
        assert_eq!((right.sessions().len(), b.checks()), (1, 0), "{protocol}: one connection is kept");
        // The same, by connection alone.
        proxy.replace_config(
            &Config::to(protocol, &[right.addr, wrong.addr])
                .top(&mesh.identity("shop/web"))
                .upstream(&tls)
                .upstream("healthCheck: { tcp: {}, interval: 100ms, noTrafficInterval: 100ms }"),
        );
        let start = Instant::now();
        while endpoint(&proxy, right.addr).await["lastCheck"]["reason"] != "connected, with TLS" {
            assert!(start.elapsed() < PATIENCE);
            tokio::time::sleep(ms(5)).await;
        }
        assert_eq!(endpoint(&proxy, wrong.addr).await["health"], "unhealthy");
    }
}

#[tokio::test]
async fn what_is_known_outlives_a_reload_and_goes_with_the_check() {
    let (good, bad) = (Patient::new(Version::H1, 200).await, Patient::new(Version::H1, 503).await);
    let seldom = "healthCheck: { http: { path: /healthz }, interval: 60s }";
    let base = || Config::to("http1", &[good.addr(), bad.addr()]);
    let proxy = Proxy::start(&base().upstream(seldom)).await;
    becomes(&proxy, good.addr(), "healthy").await;
    becomes(&proxy, bad.addr(), "unhealthy").await;
    let later = Patient::new(Version::H1, 200).await;
    let three = Config::to("http1", &[good.addr(), bad.addr(), later.addr()]);
    proxy.replace_config(&three.upstream(seldom));
    let start = Instant::now();
    // A newcomer is checked at once, although the others are not due for a long time.
    while later.checks() == 0 {
        assert!(start.elapsed() < PATIENCE);
        tokio::time::sleep(ms(5)).await;
    }
    becomes(&proxy, later.addr(), "healthy").await;
    assert_eq!(endpoint(&proxy, bad.addr()).await["health"], "unhealthy");
    assert_eq!((good.checks(), bad.checks()), (1, 1), "those that are known are not asked again");
    // A shorter interval does not wait for the end of the longer one.
    proxy.replace_config(&base().upstream(CHECKED));
    checked_more(&bad, 3).await;
    assert_eq!(endpoint(&proxy, bad.addr()).await["health"], "unhealthy");
    let gone = later.checks();
    checked_more(&bad, 3).await;
    assert_eq!(later.checks(), gone, "it is gone");
    proxy.replace_config(&base());
    let said = becomes(&proxy, bad.addr(), "healthy").await;
    assert!(said["lastCheck"].is_null(), "{said}");
    get(&proxy, 10).await;
    assert!(bad.requests() > 0);
}

#[tokio::test]
async fn without_traffic_checks_are_rarer_and_with_it_they_are_not() {
    let backend = Patient::new(Version::H1, 200).await;
    let config = Config::to("http1", &[backend.addr()])
        .upstream("healthCheck: { http: { path: /healthz }, interval: 100ms, noTrafficInterval: 30s }");
    let proxy = Proxy::start(&config).await;
    becomes(&proxy, backend.addr(), "healthy").await;
    // With traffic it would have been checked three or four times.
    tokio::time::sleep(ms(400)).await;
    assert_eq!(backend.checks(), 1);
    get(&proxy, 1).await;
    checked_more(&backend, 3).await;
}

#[tokio::test]
async fn while_nothing_is_known_all_are_used() {
    let hanging = || {
        H1Backend::start(|mut conn: Conn| async move {
            while let Some(request) = conn.request().await {
                if request.target == "/healthz" {
                    conn.closed().await;
                    return;
                }
                if conn.send(crate::support::response(200, &[], b"ok")).await.is_err() {
                    return;
                }
            }
        })
    };
    let (a, b) = (hanging().await, hanging().await);
    let config = Config::to("http1", &[a.addr, b.addr])
        .upstream("healthCheck: { http: { path: /healthz }, timeout: 30s }")
        .upstream("loadBalancing: { policy: roundRobin }");
    let proxy = Proxy::start(&config).await;
    becomes(&proxy, a.addr, "unchecked").await;
    get(&proxy, 40).await;
    let asked = |backend: &H1Backend| backend.requests().iter().filter(|request| request.target == "/").count();
    assert_eq!((asked(&a), asked(&b)), (20, 20));
}

/// Answers with a status that can be changed.
async fn answering(status: &Arc<AtomicU16>) -> AnyBackend {
    let told = Arc::clone(status);
    AnyBackend::with(Version::H1, move |_| (told.load(Ordering::Relaxed), Message::body("?"))).await
}

/// Sends requests until an endpoint is said to be so.
async fn get_until(proxy: &Proxy, addr: SocketAddr, health: &str) -> Value {
    let start = Instant::now();
    loop {
        let endpoint = endpoint(proxy, addr).await;
        if endpoint["health"] == health {
            return endpoint;
        }
        assert!(start.elapsed() < PATIENCE, "{addr} becomes {health}: {endpoint}");
        h1_client::get(proxy.addr(), "/").await;
    }
}

const EJECTING: &str = "outlierDetection: { consecutiveErrors: 3, interval: 100ms, baseEjection: 400ms }";

#[tokio::test]
async fn an_endpoint_that_fails_is_ejected_and_comes_back() {
    let status = Arc::new(AtomicU16::new(500));
    let (bad, a, b) = (answering(&status).await, H1Backend::ok().await, H1Backend::ok().await);
    let config = Config::to("http1", &[bad.addr(), a.addr, b.addr])
        .upstream(EJECTING)
        .upstream("loadBalancing: { policy: roundRobin }");
    let proxy = Proxy::start(&config).await;
    let said = get_until(&proxy, bad.addr(), "ejected").await;
    assert_eq!(said["ejection"]["cause"], "consecutive_errors");
    assert!(said["ejection"]["secondsLeft"].as_f64().is_some_and(|left| left <= 0.4), "{said}");
    assert_eq!(bad.seen().len(), 3);
    let out = proxy.metric("outrigger_upstream_endpoints", &["state=\"ejected\""]).await;
    assert_eq!(out, 1.0);
    assert_eq!(proxy.metric("outrigger_upstream_ejections_total", &["cause=\"consecutive_errors\""]).await, 1.0);
    proxy.logged("an endpoint was ejected").await;
    status.store(200, Ordering::Relaxed);
    becomes(&proxy, bad.addr(), "healthy").await;
    proxy.logged("an ejected endpoint is back").await;
    let before = bad.seen().len();
    get(&proxy, 9).await;
    assert!(bad.seen().len() > before);
}

#[tokio::test]
async fn ejections_outlive_a_reload_and_end_with_the_setting() {
    let status = Arc::new(AtomicU16::new(502));
    let (bad, good) = (answering(&status).await, H1Backend::ok().await);
    let long = "outlierDetection: { consecutiveGatewayErrors: 2, consecutiveErrors: 0, baseEjection: 60s }";
    let base = || Config::to("http1", &[bad.addr(), good.addr]).upstream("loadBalancing: { policy: roundRobin }");
    let proxy = Proxy::start(&base().upstream(long)).await;
    let said = get_until(&proxy, bad.addr(), "ejected").await;
    assert_eq!(said["ejection"]["cause"], "consecutive_gateway_errors");
    let third = H1Backend::ok().await;
    let more = Config::to("http1", &[bad.addr(), good.addr, third.addr]).upstream("loadBalancing: { policy: random }");
    proxy.replace_config(&more.upstream(long));
    // It came with the new configuration.
    let start = Instant::now();
    while !proxy.admin_json("/clusters").await.to_string().contains(&third.addr.to_string()) {
        assert!(start.elapsed() < PATIENCE);
        tokio::time::sleep(ms(5)).await;
    }
    assert_eq!(endpoint(&proxy, bad.addr()).await["health"], "ejected");
    let before = bad.seen().len();
    get(&proxy, 20).await;
    assert_eq!(bad.seen().len(), before);
    proxy.replace_config(&base());
    becomes(&proxy, bad.addr(), "healthy").await;
}

#[tokio::test]
async fn the_last_endpoint_is_never_ejected() {
    let status = Arc::new(AtomicU16::new(500));
    let (a, b) = (answering(&status).await, answering(&status).await);
    let all = "outlierDetection: { consecutiveErrors: 2, baseEjection: 60s, maxEjectionPercent: 100 }";
    let config = Config::to("http1", &[a.addr(), b.addr()]).upstream(all).upstream("loadBalancing: { policy: random }");
    let proxy = Proxy::start(&config).await;
    let overflow = "outrigger_upstream_ejection_overflow_total";
    let start = Instant::now();
    while proxy.metric(overflow, &[]).await == 0.0 {
        assert!(start.elapsed() < PATIENCE);
        let reply = h1_client::get(proxy.addr(), "/").await;
        assert!(reply.reason().is_none_or(|reason| reason != "UH" && reason != "NE"), "{reply:?}");
    }
    assert_eq!(proxy.metric("outrigger_upstream_endpoints", &["state=\"ejected\""]).await, 1.0);
}

#[tokio::test]
async fn checks_that_recover_end_an_ejection() {
    let failing = Arc::new(AtomicU16::new(500));
    let (requests, checks) = (Arc::clone(&failing), Arc::new(AtomicU16::new(200)));
    let told = Arc::clone(&checks);
    let bad = AnyBackend::with(Version::H1, move |seen| {
        let status = if seen.target == "/healthz" { &told } else { &requests };
        (status.load(Ordering::Relaxed), Message::body("?"))
    })
    .await;
    let good = Patient::new(Version::H1, 200).await;
    let config = Config::to("http1", &[bad.addr(), good.addr()])
        .upstream(CHECKED)
        .upstream("outlierDetection: { consecutiveErrors: 2, baseEjection: 60s }")
        .upstream("loadBalancing: { policy: roundRobin }");
    let proxy = Proxy::start(&config).await;
    becomes(&proxy, bad.addr(), "healthy").await;
    get_until(&proxy, bad.addr(), "ejected").await;
    let before = bad.seen().len();
    crate::support::eventually(PATIENCE, "checks go on", || bad.seen().len() >= before + 3).await;
    assert_eq!(endpoint(&proxy, bad.addr()).await["health"], "ejected", "checks that never failed prove nothing");
    checks.store(503, Ordering::Relaxed);
    becomes(&proxy, bad.addr(), "unhealthy").await;
    checks.store(200, Ordering::Relaxed);
    failing.store(200, Ordering::Relaxed);
    becomes(&proxy, bad.addr(), "healthy").await;
}

/// Endpoints that do not answer are not asked all at once, and all have their turn.
#[tokio::test]
async fn many_endpoints_are_no_storm() {
    let everywhere = tokio::net::TcpListener::bind("0.0.0.0:0").await.expect("a port");
    let port = everywhere.local_addr().expect("an address").port();
    let open = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let (now_open, most_open) = (Arc::clone(&open), Arc::clone(&most));
    let accepting = tokio::spawn(async move {
        while let Ok((stream, _)) = everywhere.accept().await {
            let (open, most) = (Arc::clone(&now_open), Arc::clone(&most_open));
            most.fetch_max(open.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            tokio::spawn(async move {
                let mut wire = crate::support::http1::Wire::new(stream);
                wire.closed().await;
                open.fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
    let endpoints: Vec<String> = (0..600).map(|n| format!("\"127.0.{}.{}:{port}\"", n / 200, n % 200 + 1)).collect();
    let endpoints = endpoints.join(", ");
    let config = Config::new().routes("- rules: [{ backendRefs: [{ cluster: c }] }]").cluster_yaml(
        "c",
        &format!("healthCheck: {{ http: {{ path: / }}, interval: 1s, timeout: 500ms }}\nendpoints: [{endpoints}]"),
    );
    let proxy = Proxy::start(&config).await;
    let start = Instant::now();
    while proxy.metric("outrigger_upstream_health_checks_total", &["result=\"timeout\""]).await < 600.0 {
        assert!(start.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(ms(20)).await;
    }
    accepting.abort();
    let most = most.load(Ordering::Relaxed);
    // Those that have just been given up are seen to close a moment later.
    assert!((100..=300).contains(&most), "{most} at once");
}
