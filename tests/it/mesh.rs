//! The whole way through the mesh: an application speaks plaintext to its own proxy, that one mutual TLS and HTTP/2
//! to the other's, and that one plaintext to its application.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;

use crate::support::any::{AnyBackend, AnyClient, COMBINATIONS, Message, Version};
use crate::support::http1::chunk;
use crate::support::{
    Call, Config, Conn, H1Backend, H1Client, H2Backend, H2Client, Mesh, PATIENCE, Proxy, eventually, gate, h1_client,
    h2_client, ms, within,
};

/// Two proxies on the way to an application.
pub struct Hop {
    /// The identities.
    pub mesh: Mesh,
    /// Beside the caller: plaintext in, mutual TLS out.
    pub outbound: Proxy,
    /// Beside the application: mutual TLS in, plaintext out.
    pub inbound: Proxy,
}

impl Hop {
    /// To an application that speaks `protocol`.
    pub async fn to(protocol: &str, application: SocketAddr) -> Self {
        Self::with(protocol, application, |config| config).await
    }

    /// With more settings of both proxies.
    pub async fn with(protocol: &str, application: SocketAddr, more: impl Fn(Config) -> Config) -> Self {
        Self::between("http2", protocol, application, more).await
    }

    /// With this version between the proxies.
    pub async fn between(
        version: &str,
        protocol: &str,
        application: SocketAddr,
        more: impl Fn(Config) -> Config,
    ) -> Self {
        let mesh = Mesh::new();
        let mut inbound = Config::to(protocol, &[application])
            .top(&mesh.identity("shop/pay"))
            .listener("tls: { mode: strict }")
            .listener("clientCertHeader: set");
        if version != "http2" {
            inbound = inbound.listener("http3: true");
        }
        let inbound = Proxy::start(&more(inbound)).await;
        let outbound = Config::to(version, &[inbound.addr()])
            .top(&mesh.identity("shop/cart"))
            .upstream(&format!("tls: {{ peerIdentities: [\"{}\"] }}", mesh.id("shop/pay")));
        let outbound = Proxy::start(&more(outbound)).await;
        Self { mesh, outbound, inbound }
    }

    /// Where the calling application connects.
    pub fn addr(&self) -> SocketAddr {
        self.outbound.addr()
    }
}

#[tokio::test]
async fn requests_of_both_versions_arrive_as_they_were_sent() {
    for (down, up) in COMBINATIONS {
        let application = AnyBackend::with(up, |seen| {
            let mut answer = Message::body(format!("{} {}", seen.method, seen.body.len())).field("x-answer", "yes");
            if seen.target == "/trailers" {
                answer = answer.trailer("x-sum", "42");
            }
            (201, answer)
        })
        .await;
        let hop = Hop::to(up.protocol(), application.addr()).await;
        let mut client = AnyClient::connect(down, hop.addr()).await;
        let told =
            client.call("POST", "/v1/charges?q=1", &Message::body(vec![b'x'; 100_000]).field("x-asked", "a")).await;
        let place = format!("{down:?} to {up:?}");
        assert_eq!((told.status, told.text().as_str()), (201, "POST 100000"), "{place}");
        assert_eq!(told.get("x-answer"), Some("yes"), "{place}");
        let seen = application.only();
        assert_eq!((seen.target.as_str(), seen.get("host")), ("/v1/charges?q=1", Some("a.example")), "{place}");
        assert_eq!(seen.get("x-asked"), Some("a"), "{place}");
        let header = seen.get("x-forwarded-client-cert").expect("who called").to_owned();
        assert!(header.contains(&format!("URI={}", hop.mesh.id("shop/cart"))), "{place}: {header}");
        let told = client.get("/trailers").await;
        if down == Version::H2 {
            assert_eq!(told.trailers, [("x-sum".to_owned(), "42".to_owned())], "{place}");
        }
        assert_eq!(client.call("HEAD", "/", &Message::default()).await.body.len(), 0, "{place}");
    }
}

#[tokio::test]
async fn many_callers_share_few_connections_between_the_proxies() {
    let application = H1Backend::ok().await;
    let hop = Hop::to("http1", application.addr).await;
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let addr = hop.addr();
        callers.spawn(async move {
            let mut client = H1Client::connect(addr).await;
            for _ in 0..5 {
                assert_eq!(client.get("/").await.status, 200);
            }
        });
    }
    while let Some(done) = within(PATIENCE, "the callers", callers.join_next()).await {
        done.unwrap();
    }
    let handshakes = hop.inbound.metric("outrigger_tls_handshakes_total", &["listener=\"in\""]).await;
    assert!((1.0..=8.0).contains(&handshakes), "200 requests, {handshakes} handshakes");
}

#[tokio::test]
async fn events_pass_one_by_one() {
    let (tell, told) = tokio::sync::mpsc::unbounded_channel::<u32>();
    let told = Arc::new(tokio::sync::Mutex::new(told));
    let application = H1Backend::start(move |mut conn: Conn| {
        let told = Arc::clone(&told);
        async move {
            if conn.request().await.is_none() {
                return;
            }
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
            conn.send(head).await.ok();
            while let Some(number) = told.lock().await.recv().await {
                if conn.send(chunk(format!("data: {number}\n\n").as_bytes())).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let hop = Hop::to("http1", application.addr).await;
    let mut client = H1Client::connect(hop.addr()).await;
    client.send("GET / HTTP/1.1\r\nhost: a.example\r\naccept: text/event-stream\r\n\r\n").await;
    assert_eq!(client.response_head().await.status, 200);
    for number in 0..50 {
        // The next event is sent only after this one was received: nothing is held back.
        tell.send(number).unwrap();
        let event = within(PATIENCE, "an event", client.wire.chunk()).await.unwrap().expect("no end");
        assert_eq!(event, format!("data: {number}\n\n").as_bytes());
    }
    drop(client);
    // A backend notices at its next event.
    eventually(PATIENCE, "the application is told that the caller left", || {
        tell.send(0).ok();
        application.records()[0].end.is_some()
    })
    .await;
}

#[tokio::test]
async fn a_caller_that_leaves_ends_the_work_at_the_other_side() {
    let application = H2Backend::start(|mut call: Call| async move {
        call.reset_by_caller().await;
    })
    .await;
    let hop = Hop::to("http2", application.addr).await;
    let client = H2Client::connect(hop.addr()).await;
    let (response, _) = client.open(h2_client::get("/"), true).await.unwrap();
    application.until(PATIENCE, "the call", |calls| calls.len() == 1).await;
    drop(response);
    application.until(PATIENCE, "the cancel", |calls| calls[0].reset.is_some()).await;
    let h1 = H1Client::connect(hop.addr()).await;
    h1.send("GET / HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
    application.until(PATIENCE, "the call", |calls| calls.len() == 2).await;
    drop(h1);
    application.until(PATIENCE, "the cancel", |calls| calls[1].reset.is_some()).await;
}

/// 256 MiB each way in the full form, 64 MiB here, and neither proxy grows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_pass_with_flat_memory() {
    gate::exclusive();
    let size: u64 = if crate::support::full() { 1 << 30 } else { 64 << 20 };
    let application = H1Backend::start(move |mut conn: Conn| async move {
        while let Some(request) = conn.request_head().await {
            if request.method == "GET" {
                conn.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n")).await.ok();
                let piece = vec![b'x'; 64 * 1024];
                for _ in 0..size / piece.len() as u64 {
                    if conn.send(&piece).await.is_err() {
                        return;
                    }
                }
                continue;
            }
            let mut left = size;
            while left > 0 {
                let Ok(data) = (match request.framing {
                    crate::support::http1::Framing::Chunked => {
                        conn.wire().chunk().await.map(|c| c.map_or(0, |data| data.len()))
                    }
                    _ => conn.wire().some(1 << 20).await.map(|data| data.map_or(0, |data| data.len())),
                }) else {
                    return;
                };
                if data == 0 {
                    return;
                }
                left -= data as u64;
            }
            if request.framing == crate::support::http1::Framing::Chunked {
                conn.wire().chunk().await.ok();
            }
            conn.send(crate::support::response(200, &[], b"all of it")).await.ok();
        }
    })
    .await;
    let hop = Hop::with("http1", application.addr, |c| c.rule("timeouts: { request: 0s }")).await;
    let before = [hop.outbound.rss(), hop.inbound.rss()];
    let (stop, peaks) = (Arc::new(AtomicBool::new(false)), Arc::new([AtomicU64::new(0), AtomicU64::new(0)]));
    let watching = {
        let (stop, peaks) = (Arc::clone(&stop), Arc::clone(&peaks));
        let pids = [hop.outbound.pid(), hop.inbound.pid()];
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                for (pid, peak) in pids.iter().zip(peaks.iter()) {
                    peak.fetch_max(crate::support::process::rss(*pid), Ordering::Relaxed);
                }
                std::thread::park_timeout(ms(20));
            }
        })
    };
    let limit = std::time::Duration::from_secs(300);
    for version in [Version::H1, Version::H2] {
        match version {
            Version::H1 => {
                let mut client = H1Client::connect(hop.addr()).await;
                client.send("GET / HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
                client.response_head().await;
                let mut left = size;
                while left > 0 {
                    let data = within(limit, "data", client.wire.some(1 << 20)).await.unwrap();
                    left -= data.expect("not the end").len() as u64;
                }
                client.send(format!("POST / HTTP/1.1\r\nhost: a.example\r\ncontent-length: {size}\r\n\r\n")).await;
                let piece = vec![b'y'; 64 * 1024];
                for _ in 0..size / piece.len() as u64 {
                    within(limit, "sending", client.wire.send(&piece)).await.unwrap();
                }
                assert_eq!(client.response_to("POST").await.text(), "all of it");
            }
            Version::H2 => {
                let client = H2Client::connect(hop.addr()).await;
                let (reply, _) = client.open(h2_client::get("/"), true).await.unwrap();
                let mut body = within(limit, "a head", reply).await.unwrap().into_body();
                let mut left = size;
                while left > 0 {
                    let data = within(limit, "data", body.data()).await.expect("not the end").unwrap();
                    body.flow_control().release_capacity(data.len()).unwrap();
                    left -= data.len() as u64;
                }
                let (reply, mut out) = client.open(h2_client::post("/"), false).await.unwrap();
                let piece = Bytes::from(vec![b'y'; 64 * 1024]);
                let count = size / piece.len() as u64;
                for number in 0..count {
                    let sent = h2_client::send_all(&mut out, piece.clone(), number + 1 == count);
                    within(limit, "sending", sent).await.unwrap();
                }
                let reply = within(limit, "the answer", h2_client::read(reply)).await.unwrap();
                assert_eq!(&reply.body[..], b"all of it");
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    watching.join().unwrap();
    for ((name, before), peak) in ["outbound", "inbound"].iter().zip(before).zip(peaks.iter()) {
        let grown = peak.load(Ordering::Relaxed).saturating_sub(before);
        println!("{name}: {} bytes, memory grew by {} KiB", 4 * size, grown >> 10);
        assert!(grown < 24 << 20, "{name}: memory grew by {} KiB", grown >> 10);
    }
}

/// An answer of the far proxy itself (its application is down) reaches the caller with its reason.
#[tokio::test]
async fn reasons_of_the_far_proxy_reach_the_caller() {
    let nobody = crate::support::h1_backend::Refusing::new();
    let hop = Hop::to("http1", nobody.addr).await;
    let reply = h1_client::get(hop.addr(), "/").await;
    assert_eq!((reply.status, reply.reason()), (503, Some("UF")));
    let mut far = hop.inbound;
    far.signal("KILL");
    far.exit(PATIENCE).await;
    let reply = h1_client::get(hop.outbound.addr(), "/").await;
    assert_eq!((reply.status, reply.reason()), (503, Some("UF")));
}
