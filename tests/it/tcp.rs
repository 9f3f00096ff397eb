//! Connections that are handed on as they are: TCP listeners, and what turned out not to be HTTP.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::support::h1_backend::Refusing;
use crate::support::{Config, H1Backend, H1Client, Mesh, PATIENCE, Proxy, TlsClient, eventually, full, ms, within};

/// A TCP listener that leads to `endpoints`.
pub fn tcp(endpoints: &[SocketAddr]) -> Config {
    Config::new()
        .listener("protocol: tcp")
        .listener("tcp: { backendRefs: [{ cluster: raw }] }")
        .cluster("raw", "tcp", endpoints)
}

/// A server that runs `serve` for every connection.
pub async fn server<F, Fut>(serve: F) -> SocketAddr
where
    F: Fn(TcpStream) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("listen");
    let addr = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).ok();
            tokio::spawn(serve(stream));
        }
    });
    addr
}

/// Says everything back until the caller has said all.
pub async fn echo() -> SocketAddr {
    server(|mut stream| async move {
        let (mut from, mut to) = stream.split();
        tokio::io::copy(&mut from, &mut to).await.ok();
        to.shutdown().await.ok();
    })
    .await
}

/// Says its name and waits for the end.
async fn named(name: &'static str) -> SocketAddr {
    server(move |mut stream| async move {
        stream.write_all(name.as_bytes()).await.ok();
        stream.shutdown().await.ok();
        stream.read_to_end(&mut Vec::new()).await.ok();
    })
    .await
}

pub async fn connect(addr: SocketAddr) -> TcpStream {
    let stream = within(PATIENCE, "a connection", TcpStream::connect(addr)).await.expect("connect");
    stream.set_nodelay(true).ok();
    stream
}

/// Everything that comes, to a clean end.
pub async fn all(stream: &mut TcpStream) -> String {
    let mut said = Vec::new();
    within(PATIENCE, "the end", stream.read_to_end(&mut said)).await.expect("a clean end");
    String::from_utf8_lossy(&said).into_owned()
}

/// Says something and waits for the same.
async fn ping(stream: &mut TcpStream, word: &str) {
    stream.write_all(word.as_bytes()).await.expect("sent");
    let mut back = vec![0; word.len()];
    within(PATIENCE, "the echo", stream.read_exact(&mut back)).await.expect("the echo");
    assert_eq!(back, word.as_bytes());
}

/// Waits until a metric is at least so much.
pub async fn counted(proxy: &Proxy, name: &str, labels: &[&str], at_least: f64) {
    let start = Instant::now();
    loop {
        let value = proxy.metric(name, labels).await;
        if value >= at_least {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{name} {labels:?} is {value} and not {at_least}");
        tokio::time::sleep(ms(5)).await;
    }
}

#[tokio::test]
async fn whoever_speaks_first_is_heard_and_each_direction_ends_by_itself() {
    let proxy = Proxy::start(&tcp(&[named("220 ready").await])).await;
    assert_eq!(all(&mut connect(proxy.addr()).await).await, "220 ready", "the server speaks first and closes first");

    // The caller ends first, and still gets its answer.
    let counting = server(|mut stream| async move {
        let mut said = Vec::new();
        stream.read_to_end(&mut said).await.ok();
        stream.write_all(format!("{} bytes", said.len()).as_bytes()).await.ok();
    })
    .await;
    let proxy = Proxy::start(&tcp(&[counting])).await;
    let mut client = connect(proxy.addr()).await;
    client.write_all(&vec![7; 300_000]).await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(all(&mut client).await, "300000 bytes");

    // The server ends first, and still hears the rest.
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let listening = server(move |mut stream| {
        let tell = tell.clone();
        async move {
            stream.write_all(b"bye").await.ok();
            stream.shutdown().await.ok();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.ok();
            tell.send(rest).ok();
        }
    })
    .await;
    let proxy = Proxy::start(&tcp(&[listening])).await;
    let mut client = connect(proxy.addr()).await;
    assert_eq!(all(&mut client).await, "bye");
    client.write_all(b"one last thing").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(within(PATIENCE, "the rest", told.recv()).await.unwrap(), b"one last thing");
}

#[tokio::test]
async fn a_reset_stays_a_reset_in_both_directions() {
    let resetting = server(|mut stream| async move {
        stream.read_exact(&mut [0; 4]).await.ok();
        stream.write_all(b"half").await.ok();
        stream.set_zero_linger().ok();
    })
    .await;
    let proxy = Proxy::start(&tcp(&[resetting])).await;
    let mut client = connect(proxy.addr()).await;
    client.write_all(b"ping").await.unwrap();
    let error = within(PATIENCE, "the end", client.read_to_end(&mut Vec::new())).await.expect_err("not a clean end");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    counted(&proxy, "outrigger_tcp_connections_closed_total", &["reason=\"UC\""], 1.0).await;

    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let hearing = server(move |mut stream| {
        let tell = tell.clone();
        async move {
            tell.send(None).ok();
            tell.send(stream.read_to_end(&mut Vec::new()).await.err().map(|error| error.kind())).ok();
        }
    })
    .await;
    let proxy = Proxy::start(&tcp(&[hearing])).await;
    let mut client = connect(proxy.addr()).await;
    client.write_all(b"x").await.unwrap();
    within(PATIENCE, "the connection", told.recv()).await.unwrap();
    client.set_zero_linger().unwrap();
    drop(client);
    let kind = within(PATIENCE, "the end", told.recv()).await.unwrap();
    assert_eq!(kind, Some(std::io::ErrorKind::ConnectionReset));
    counted(&proxy, "outrigger_tcp_connections_closed_total", &["reason=\"DC\""], 1.0).await;
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_reached_costs_nobody_a_connection() {
    let nobody = Refusing::new();
    let config = tcp(&[nobody.addr, echo().await]).upstream("loadBalancing: { policy: roundRobin }");
    let proxy = Proxy::start(&config).await;
    for _ in 0..6 {
        ping(&mut connect(proxy.addr()).await, "hello").await;
    }
    assert!(proxy.metric("outrigger_upstream_connect_failures_total", &["cluster=\"raw\""]).await >= 1.0);
}

#[tokio::test]
async fn without_any_endpoint_the_caller_is_reset_and_told_why_in_the_log() {
    let nobody = Refusing::new();
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let config = tcp(&[nobody.addr]).top(&format!("accessLog: {{ path: \"{}\" }}", log.display()));
    let proxy = Proxy::start(&config).await;
    // It may be reset before it has noticed that it is connected.
    let error = match TcpStream::connect(proxy.addr()).await {
        Ok(mut client) => within(PATIENCE, "the end", client.read_to_end(&mut Vec::new())).await.expect_err("reset"),
        Err(error) => error,
    };
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    counted(&proxy, "outrigger_tcp_connections_closed_total", &["reason=\"UF\""], 1.0).await;
    let line = || std::fs::read_to_string(&log).unwrap_or_default();
    eventually(PATIENCE, "a line", || line().contains('\n')).await;
    let line: serde_json::Value = serde_json::from_str(line().lines().next().unwrap()).unwrap();
    assert_eq!((&line["protocol"], &line["response_flags"]), (&"TCP".into(), &"UF".into()), "{line}");
    assert_eq!((&line["upstream_cluster"], &line["attempts"]), (&"raw".into(), &1.into()), "{line}");
}

#[tokio::test]
async fn failures_to_connect_open_the_breaker_of_an_endpoint() {
    let nobody = Refusing::new();
    let config = tcp(&[nobody.addr, echo().await])
        .upstream("loadBalancing: { policy: roundRobin }")
        .upstream("circuitBreaker: { failureThreshold: 2, resetTimeout: 60s }");
    let proxy = Proxy::start(&config).await;
    for _ in 0..20 {
        ping(&mut connect(proxy.addr()).await, "hello").await;
    }
    let failures = proxy.metric("outrigger_upstream_connect_failures_total", &["cluster=\"raw\""]).await;
    assert!((2.0..=4.0).contains(&failures), "{failures} failures: after two nobody asks it any more");
}

#[tokio::test]
async fn a_caller_stays_with_its_endpoint_where_the_cluster_hashes() {
    let mut endpoints = Vec::new();
    for name in ["a", "b", "c", "d"] {
        endpoints.push(named(name).await);
    }
    for policy in ["ringHash", "maglev"] {
        let config = tcp(&endpoints).upstream(&format!("loadBalancing: {{ policy: {policy} }}"));
        let proxy = Proxy::start(&config).await;
        let first = all(&mut connect(proxy.addr()).await).await;
        for _ in 0..10 {
            assert_eq!(all(&mut connect(proxy.addr()).await).await, first, "{policy}");
        }
    }
}

#[tokio::test]
async fn weights_share_connections_between_clusters() {
    let config = Config::new()
        .listener("protocol: tcp")
        .listener(
            "tcp: { backendRefs: [{ cluster: a, weight: 3 }, { cluster: b, weight: 1 }, { cluster: c, weight: 0 }] }",
        )
        .cluster("a", "tcp", &[named("a").await])
        .cluster("b", "tcp", &[named("b").await])
        .cluster("c", "tcp", &[named("c").await]);
    let proxy = Proxy::start(&config).await;
    let mut counts = [0; 3];
    for _ in 0..200 {
        counts[match all(&mut connect(proxy.addr()).await).await.as_str() {
            "a" => 0,
            "b" => 1,
            _ => 2,
        }] += 1;
    }
    assert!((115..=180).contains(&counts[0]) && counts[2] == 0, "{counts:?}");
    for (cluster, count) in ["a", "b"].into_iter().zip(counts) {
        let label = format!("cluster=\"{cluster}\"");
        counted(&proxy, "outrigger_tcp_connections_closed_total", &[&label, "reason=\"-\""], f64::from(count)).await;
    }
}

#[tokio::test]
async fn open_connections_are_load_and_are_counted_as_they_go() {
    let quiet = [echo().await, echo().await];
    let config = tcp(&quiet).upstream("circuitBreaker: { maxConnections: 3 }");
    let proxy = Proxy::start(&config).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut client = connect(proxy.addr()).await;
        ping(&mut client, "hello").await;
        open.push(client);
    }
    assert!(proxy.metric("outrigger_tcp_connections", &["cluster=\"raw\""]).await > 2.5);
    assert!(proxy.metric("outrigger_tcp_bytes_total", &["direction=\"received\""]).await > 14.5, "while they are open");
    // It may be reset before the caller has noticed that it is connected.
    if let Ok(mut refused) = TcpStream::connect(proxy.addr()).await {
        assert!(within(PATIENCE, "the end", refused.read(&mut [0])).await.is_err(), "over the ceiling");
    }
    counted(&proxy, "outrigger_tcp_connections_closed_total", &["reason=\"UO\""], 1.0).await;
    drop(open);
    counted(&proxy, "outrigger_tcp_connections_closed_total", &["reason=\"-\""], 3.0).await;
    assert_eq!(proxy.metric("outrigger_tcp_connections", &["cluster=\"raw\""]).await, 0.0);
    ping(&mut connect(proxy.addr()).await, "there is room again").await;
    assert!(proxy.metric("outrigger_tcp_connection_duration_seconds_count", &[]).await > 3.5);
}

#[tokio::test]
async fn a_connection_on_which_nothing_moves_is_closed_in_time() {
    let config = Config::new()
        .listener("protocol: tcp")
        .listener("tcp: { backendRefs: [{ cluster: raw }], idleTimeout: 300ms }")
        .cluster("raw", "tcp", &[echo().await]);
    let proxy = Proxy::start(&config).await;
    let mut client = connect(proxy.addr()).await;
    let start = Instant::now();
    while start.elapsed() < ms(600) {
        ping(&mut client, "busy").await;
        tokio::time::sleep(ms(50)).await;
    }
    assert!(within(PATIENCE, "the end", client.read(&mut [0])).await.is_err(), "reset");
    counted(&proxy, "outrigger_tcp_connections_closed_total", &["reason=\"SI\""], 1.0).await;
}

#[tokio::test]
async fn a_slow_reader_costs_no_memory() {
    let size: usize = if full() { 1 << 30 } else { 100 << 20 };
    let generous = server(move |mut stream| async move {
        let block = vec![b'x'; 64 * 1024];
        for _ in 0..size / block.len() {
            if stream.write_all(&block).await.is_err() {
                return;
            }
        }
        stream.shutdown().await.ok();
    })
    .await;
    let proxy = Proxy::start(&tcp(&[generous])).await;
    ping_through(&proxy).await;
    let before = proxy.rss();
    let mut client = connect(proxy.addr()).await;
    // Nothing is read until nothing moves any more.
    let moved = || async { proxy.metric("outrigger_tcp_bytes_total", &["direction=\"sent\""]).await };
    let mut last = -1.0;
    loop {
        let now = moved().await;
        if now == last && now > 0.0 {
            break;
        }
        last = now;
        tokio::time::sleep(ms(50)).await;
    }
    assert!(last < (size / 2) as f64, "{last} bytes were taken though nobody reads");
    let grown = proxy.rss().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes for one slow reader");
    let (mut heard, mut buffer) = (0, vec![0; 256 * 1024]);
    loop {
        match within(PATIENCE, "more", client.read(&mut buffer)).await.expect("a clean end") {
            0 => break,
            n => heard += n,
        }
    }
    assert_eq!(heard, size);
    let grown = proxy.rss().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes for {size} that passed");
}

/// One connection, so that what is made at the first is made.
async fn ping_through(proxy: &Proxy) {
    let mut client = connect(proxy.addr()).await;
    client.read_exact(&mut [0; 1024]).await.expect("bytes");
}

#[tokio::test]
async fn changes_of_the_configuration_close_no_connection() {
    let config = tcp(&[echo().await]);
    let proxy = Proxy::start(&config).await;
    let mut open = Vec::new();
    for _ in 0..50 {
        let mut client = connect(proxy.addr()).await;
        ping(&mut client, "first").await;
        open.push(client);
    }
    let other = named("other").await;
    for round in 0..20 {
        let next = if round % 2 == 0 {
            Config::new()
                .listener("protocol: tcp")
                .listener(&format!("tcp: {{ backendRefs: [{{ cluster: new{round} }}], idleTimeout: {}s }}", 60 + round))
                .cluster(&format!("new{round}"), "tcp", &[other])
        } else {
            config.clone()
        };
        let before = proxy.metric("outrigger_config_generation", &[]).await;
        proxy.replace_config(&next);
        counted(&proxy, "outrigger_config_generation", &[], before + 1.0).await;
        let expected = if round % 2 == 0 { "other" } else { "" };
        let mut fresh = connect(proxy.addr()).await;
        fresh.shutdown().await.unwrap();
        assert_eq!(all(&mut fresh).await, expected, "a new connection sees the change");
        for client in &mut open {
            ping(client, "still here").await;
        }
    }
    assert_eq!(proxy.metric("outrigger_tcp_connections", &[]).await, 50.0);
}

#[tokio::test]
async fn a_drain_lets_connections_finish_and_closes_what_is_left_at_its_end() {
    let config = tcp(&[echo().await]).top("drain: { acceptFor: 200ms, deadline: 2s }");
    let mut proxy = Proxy::start(&config).await;
    let mut one = connect(proxy.addr()).await;
    let mut two = connect(proxy.addr()).await;
    ping(&mut one, "before").await;
    ping(&mut two, "before").await;
    proxy.signal("TERM");
    proxy.logged("draining").await;
    // Well within the drain: it goes on, and ends in order.
    ping(&mut one, "within").await;
    one.shutdown().await.unwrap();
    assert_eq!(all(&mut one).await, "");
    let end = within(PATIENCE, "the end", two.read(&mut [0])).await;
    assert!(!matches!(end, Ok(1..)), "closed at the end of the drain");
    proxy.exit(Duration::from_secs(10)).await;
}

/// An outbound proxy with a TCP listener, and an inbound one before the application: mutual TLS between them.
struct Hop {
    mesh: Mesh,
    outbound: Proxy,
    inbound: Proxy,
    log: tempfile::TempDir,
}

impl Hop {
    async fn to(application: SocketAddr, inbound: &str, policies: &str) -> Self {
        let (mesh, log) = (Mesh::new(), tempfile::tempdir().unwrap());
        let mut config = tcp(&[application])
            .top(&mesh.identity("shop/db"))
            .top(&format!("accessLog: {{ path: \"{}\" }}", log.path().join("log").display()))
            .listener("tls: { mode: strict }");
        if !inbound.is_empty() {
            config = config.listener(inbound).top(policies);
        }
        let inbound = Proxy::start(&config).await;
        let outbound = tcp(&[inbound.addr()])
            .top(&mesh.identity("shop/cart"))
            .upstream(&format!("tls: {{ peerIdentities: [\"{}\"] }}", mesh.id("shop/db")));
        let outbound = Proxy::start(&outbound).await;
        Self { mesh, outbound, inbound, log }
    }

    async fn line(&self) -> serde_json::Value {
        let text = || std::fs::read_to_string(self.log.path().join("log")).unwrap_or_default();
        eventually(PATIENCE, "a line", || text().contains('\n')).await;
        serde_json::from_str(text().lines().next().unwrap()).unwrap()
    }
}

#[tokio::test]
async fn mutual_tls_carries_bytes_between_two_proxies() {
    let hop = Hop::to(echo().await, "", "").await;
    let mut client = connect(hop.outbound.addr()).await;
    ping(&mut client, "hello").await;
    let sent: Vec<u8> = (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (mut from, mut to) = client.into_split();
    let writing = tokio::spawn({
        let sent = sent.clone();
        async move {
            to.write_all(&sent).await.expect("sent");
            to.shutdown().await.expect("the caller's end passes both handshakes");
        }
    });
    let mut back = Vec::new();
    within(PATIENCE, "all of it", from.read_to_end(&mut back)).await.expect("a clean end");
    writing.await.unwrap();
    assert!(back == sent, "unchanged");
    let line = hop.line().await;
    assert_eq!(line["peerIdentity"], hop.mesh.id("shop/cart"), "{line}");
    assert_eq!(line["tlsVersion"], "TLSv1.3", "{line}");
    assert_eq!(hop.inbound.metric("outrigger_tls_handshakes_total", &["listener=\"in\""]).await, 1.0);

    // Whoever has no certificate is nobody, and plaintext is not even heard.
    // In TLS 1.3 a client may believe itself connected before it is refused.
    drop(TlsClient::anonymous().dial(hop.inbound.addr()).await);
    counted(&hop.inbound, "outrigger_tls_refused_connections_total", &["listener=\"in\""], 1.0).await;
    let mut client = connect(hop.inbound.addr()).await;
    client.write_all(b"plaintext").await.unwrap();
    assert!(!matches!(within(PATIENCE, "the end", client.read(&mut [0])).await, Ok(1..)));
    assert_eq!(hop.inbound.metric("outrigger_tcp_connections_total", &[]).await, 1.0);
}

#[tokio::test]
async fn the_server_may_speak_first_through_mutual_tls() {
    let hop = Hop::to(named("220 ready").await, "", "").await;
    let mut client = connect(hop.outbound.addr()).await;
    let mut greeting = [0; 9];
    within(PATIENCE, "a greeting", client.read_exact(&mut greeting)).await.expect("a greeting");
    assert_eq!(&greeting, b"220 ready");
}

fn policy(identity: &str) -> String {
    format!(
        "authorization: {{ who: {{ default: deny, rules: [{{ name: friend, action: allow, \
         from: [{{ identities: [\"{identity}\"] }}] }}] }} }}"
    )
}

#[tokio::test]
async fn connections_are_authorized_by_identity_and_open_ones_follow_a_change() {
    let (cart, other) = ("spiffe://mesh.local/ns/shop/sa/cart", "spiffe://mesh.local/ns/shop/sa/other");
    let hop = Hop::to(echo().await, "authorization: who", &policy(cart)).await;
    assert_eq!(hop.mesh.id("shop/cart"), cart, "the identity that the test names");
    let mut client = connect(hop.outbound.addr()).await;
    ping(&mut client, "let in").await;

    // A policy that no longer lets it in ends it, and lets nobody else of that name in.
    let text = std::fs::read_to_string(hop.inbound.config_path()).unwrap();
    hop.inbound.replace_yaml(&text.replace(cart, other));
    let end = within(PATIENCE, "the end", client.read(&mut [0])).await;
    assert!(!matches!(end, Ok(1..)), "ended by the new policy");
    counted(&hop.inbound, "outrigger_tcp_connections_closed_total", &["reason=\"RBAC\""], 1.0).await;
    let mut client = connect(hop.outbound.addr()).await;
    client.write_all(b"again").await.ok();
    assert!(!matches!(within(PATIENCE, "the end", client.read(&mut [0])).await, Ok(1..)));
    counted(&hop.inbound, "outrigger_tcp_connections_closed_total", &["reason=\"RBAC\""], 2.0).await;
    let line = hop.line().await;
    assert_eq!((&line["response_flags"], &line["authzRule"]), (&"RBAC".into(), &"default".into()), "{line}");
}

/// A listener that tells HTTP from other protocols.
fn auto(http: SocketAddr, raw: SocketAddr) -> Config {
    Config::to("http1", &[http])
        .listener("tcp: { backendRefs: [{ cluster: raw }] }")
        .listener("timeouts: { detect: 300ms }")
        .cluster("raw", "tcp", &[raw])
}

#[tokio::test]
async fn what_is_not_http_is_handed_on_and_counted() {
    let http = H1Backend::ok().await;
    let proxy = Proxy::start(&auto(http.addr, echo().await)).await;
    assert_eq!(H1Client::connect(proxy.addr()).await.get("/").await.text(), "ok");
    for words in ["*1\r\n$4\r\nPING\r\n", "PING\r\n", "SSH-2.0-x\r\n", "\0\0\0\u{8}\u{4}\u{2}\u{16}/"] {
        ping(&mut connect(proxy.addr()).await, words).await;
    }
    // Unfinished words, which are given the time of detection.
    ping(&mut connect(proxy.addr()).await, "GE").await;
    for (protocol, expected) in [("tcp", 5.0), ("http1", 1.0)] {
        let label = format!("protocol=\"{protocol}\"");
        assert_eq!(proxy.metric("outrigger_protocol_detected_total", &[&label]).await, expected, "{protocol}");
    }
}

#[tokio::test]
async fn a_server_that_speaks_first_is_found_by_silence() {
    let http = H1Backend::ok().await;
    let proxy = Proxy::start(&auto(http.addr, named("220 ready").await)).await;
    assert_eq!(all(&mut connect(proxy.addr()).await).await, "220 ready");
    assert_eq!(proxy.metric("outrigger_protocol_detected_total", &["protocol=\"tcp\""]).await, 1.0);
}

#[tokio::test]
async fn a_policy_about_requests_lets_nothing_else_in() {
    let http = H1Backend::ok().await;
    let config = auto(http.addr, echo().await).listener("authorization: get").top(
        "authorization: { get: { default: deny, rules: [{ name: get, action: allow, to: [{ methods: [GET] }] }] } }",
    );
    let proxy = Proxy::start(&config).await;
    assert_eq!(H1Client::connect(proxy.addr()).await.get("/").await.status, 200);
    let mut client = connect(proxy.addr()).await;
    client.write_all(b"PING\r\n").await.unwrap();
    assert!(!matches!(within(PATIENCE, "the end", client.read(&mut [0])).await, Ok(1..)));
    counted(&proxy, "outrigger_tcp_connections_closed_total", &["reason=\"RBAC\""], 1.0).await;
}

#[tokio::test]
async fn a_thousand_connections_at_once_all_get_their_own_bytes_back() {
    // The test's own server may be slow to accept on a busy machine.
    let config = tcp(&[echo().await]).upstream("connection: { connectTimeout: 10s }");
    let proxy = Arc::new(Proxy::start(&config).await);
    let (places, done) = (Arc::new(Semaphore::new(200)), Arc::new(AtomicUsize::new(0)));
    let mut callers = JoinSet::new();
    for number in 0..1000 {
        let (addr, places, done) = (proxy.addr(), Arc::clone(&places), Arc::clone(&done));
        callers.spawn(async move {
            let _place = places.acquire().await.unwrap();
            let mut client = connect(addr).await;
            for round in 0..5 {
                ping(&mut client, &format!("caller {number} round {round}")).await;
            }
            done.fetch_add(1, Ordering::Relaxed);
        });
    }
    while let Some(result) = within(PATIENCE, "the callers", callers.join_next()).await {
        if let Err(error) = result {
            panic!("{error}\n{}", proxy.admin("/metrics").await.1);
        }
    }
    assert_eq!(done.load(Ordering::Relaxed), 1000);
    counted(&proxy, "outrigger_tcp_connections_closed_total", &["reason=\"-\""], 1000.0).await;
}
