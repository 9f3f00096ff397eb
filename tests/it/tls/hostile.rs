//! Callers that stall, flood, or speak nonsense in the handshake, and connections that end in unusual ways.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Inbound, client_hello};
use crate::support::{Config, Conn, H1Backend, H1Client, Mesh, PATIENCE, Proxy, TlsClient, eventually, ms, within};

#[tokio::test]
async fn a_caller_that_says_nothing_or_dribbles_is_closed_in_time() {
    let inbound = Inbound::with("mode: strict, handshakeTimeout: 400ms").await;
    let hello = client_hello("a.example");
    let mut callers = Vec::new();
    for start in [0, 1, 5, hello.len() - 1] {
        let client = H1Client::connect(inbound.proxy.addr()).await;
        client.send(&hello[..start]).await;
        callers.push((format!("{start} bytes"), client, Instant::now()));
    }
    // One byte at a time never completes, however long it goes on.
    let client = H1Client::connect(inbound.proxy.addr()).await;
    let writer = client.writer();
    let bytes = hello.clone();
    let dribbling = tokio::spawn(async move {
        for byte in bytes {
            if writer.send([byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(ms(20)).await;
        }
    });
    callers.push(("dribbling".to_owned(), client, Instant::now()));
    for (what, mut client, began) in callers {
        client.rest(PATIENCE).await;
        let took = began.elapsed();
        assert!((ms(300)..Duration::from_secs(5)).contains(&took), "{what}: closed after {took:?}");
    }
    dribbling.abort();
    inbound.refused("timeout", 4.0).await;
    let silent = ["listener=\"in\"", "protocol=\"timeout\""];
    assert_eq!(inbound.proxy.metric("outrigger_protocol_detected_total", &silent).await, 1.0);
    TlsClient::with(&inbound.mesh.svid("shop/cart")).served(inbound.proxy.addr()).await;
}

#[tokio::test]
async fn handshakes_beyond_the_limit_are_refused_and_room_comes_back() {
    let inbound = Inbound::with("mode: strict, maxHandshakes: 2").await;
    let addr = inbound.proxy.addr();
    let hello = client_hello("a.example");
    let under_way = async || inbound.proxy.metric("outrigger_tls_handshakes_under_way", &["listener=\"in\""]).await;
    let mut stalled = Vec::new();
    for count in 1..=2 {
        let client = H1Client::connect(addr).await;
        client.send(&hello[..50]).await;
        stalled.push(client);
        let start = Instant::now();
        while under_way().await < f64::from(count) {
            assert!(start.elapsed() < PATIENCE, "{count} handshakes are under way");
            tokio::time::sleep(ms(2)).await;
        }
    }
    let client = TlsClient::with(&inbound.mesh.svid("shop/cart"));
    client.refused(addr).await;
    inbound.refused("busy", 1.0).await;
    stalled.pop();
    let start = Instant::now();
    while under_way().await > 1.5 {
        assert!(start.elapsed() < PATIENCE, "a handshake that ended makes room");
        tokio::time::sleep(ms(2)).await;
    }
    for _ in 0..5 {
        client.served(addr).await;
    }
}

/// Whatever comes instead of a ClientHello ends the connection, is counted, and harms nobody else.
#[tokio::test]
async fn nonsense_in_the_handshake_is_refused() {
    let inbound = Inbound::with("mode: strict, handshakeTimeout: 2s").await;
    let addr = inbound.proxy.addr();
    let hello = client_hello("a.example");
    let mut wrong_length = hello.clone();
    wrong_length[6] = 0xff;
    let mut wrong_version = hello.clone();
    wrong_version[1] = 9;
    let mut not_hello = hello.clone();
    not_hello[5] = 11;
    let record = |kind: u8, length: u16, fill: u8| {
        let mut out = vec![kind, 3, 3];
        out.extend_from_slice(&length.to_be_bytes());
        out.resize(5 + usize::from(length), fill);
        out
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a length beyond everything", wrong_length),
        ("a record version of the future", wrong_version),
        ("a message that is no ClientHello", not_hello),
        ("an empty record", record(22, 0, 0)),
        ("a huge record", record(22, 0xffff, 1)),
        ("a record of the largest size", record(22, 16384, 0)),
        ("application data first", record(23, 64, 7)),
        ("an alert first", vec![21, 3, 3, 0, 2, 2, 40]),
        ("a change of cipher first", vec![20, 3, 3, 0, 1, 1]),
        ("SSL 2", vec![0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10, 1, 0, 0x80]),
        ("zeros", vec![0; 400]),
        ("ones", vec![0xff; 400]),
        ("SSH", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
    ];
    let count = cases.len();
    for (what, bytes) in cases {
        let mut client = H1Client::connect(addr).await;
        client.send(&bytes).await;
        client.wire.finish();
        let said = within(PATIENCE, what, client.wire.rest()).await;
        assert!(said.is_empty() || said[0] == 21, "{what}: nothing but an alert: {}", said.escape_ascii());
    }
    // Cut off in the middle, everywhere.
    for end in (0..hello.len()).step_by(97) {
        let mut client = H1Client::connect(addr).await;
        client.send(&hello[..end]).await;
        client.wire.finish();
        let said = within(PATIENCE, "a truncated hello", client.wire.rest()).await;
        assert!(said.is_empty() || said[0] == 21, "{end}: {}", said.escape_ascii());
    }
    // Every byte of the head of the message, and some behind, damaged.
    for at in (0..120).chain((120..hello.len()).step_by(61)) {
        let mut damaged = hello.clone();
        damaged[at] ^= 0x55;
        let mut client = H1Client::connect(addr).await;
        client.send(&damaged).await;
        client.wire.finish();
        within(PATIENCE, "a damaged hello", client.wire.rest()).await;
    }
    assert!(inbound.backend.requests().is_empty());
    let name = "outrigger_tls_refused_connections_total";
    assert!(inbound.proxy.metric(name, &[]).await >= count as f64, "they are counted");
    TlsClient::with(&inbound.mesh.svid("shop/cart")).served(addr).await;
}

#[tokio::test]
async fn nonsense_after_the_handshake_ends_the_connection_only() {
    let inbound = Inbound::with("mode: strict").await;
    let client = TlsClient::with(&inbound.mesh.svid("shop/cart"));
    let other = client.dial(inbound.proxy.addr()).await.expect("a connection");
    let dialled = client.dial(inbound.proxy.addr()).await.expect("a connection");
    let (mut tcp, _) = dialled.stream.into_inner();
    // A record that nobody holding the keys made.
    tcp.write_all(&[23, 3, 3, 0, 32]).await.unwrap();
    tcp.write_all(&[9; 32]).await.unwrap();
    let mut rest = Vec::new();
    within(PATIENCE, "the end", tcp.read_to_end(&mut rest)).await.ok();
    assert_eq!(other.h1().await.get("/").await.status, 200);
    assert_eq!(inbound.backend.requests().len(), 1);
}

/// 300 callers that begin a handshake and stop do not keep one that goes on from being served.
#[tokio::test]
async fn stalled_handshakes_do_not_hold_up_others() {
    let inbound = Inbound::with("mode: strict").await;
    let addr = inbound.proxy.addr();
    let hello = client_hello("a.example");
    let mut stalled = Vec::new();
    for number in 0..300 {
        let client = H1Client::connect(addr).await;
        // Half stop before the server's flight, half before their own last word.
        client.send(if number % 2 == 0 { &hello[..] } else { &hello[..60] }).await;
        stalled.push(client);
    }
    let client = TlsClient::with(&inbound.mesh.svid("shop/cart"));
    for _ in 0..10 {
        client.served(addr).await;
    }
    drop(stalled);
    eventually(PATIENCE, "their descriptors are given back", || {
        crate::support::process::descriptors(inbound.proxy.pid()) < 100
    })
    .await;
}

/// A request cut off without `close_notify` is as good as one cut off without TLS: not complete.
#[tokio::test]
async fn a_request_that_is_cut_off_is_never_complete_to_the_backend() {
    let inbound = Inbound::with("mode: strict").await;
    let client = TlsClient::with(&inbound.mesh.svid("shop/cart"));
    for head in ["content-length: 100", "transfer-encoding: chunked"] {
        let mut dialled = client.dial(inbound.proxy.addr()).await.expect("a connection");
        let body = if head.starts_with('c') { "half" } else { "4\r\nhalf\r\n" };
        let request = format!("POST /cut HTTP/1.1\r\nhost: a.example\r\n{head}\r\n\r\n{body}");
        dialled.stream.write_all(request.as_bytes()).await.unwrap();
        dialled.stream.flush().await.unwrap();
        inbound
            .backend
            .until(PATIENCE, "the head", |records| {
                records.iter().flat_map(|r| &r.requests).any(|r| r.head.get(head.split(':').next().unwrap()).is_some())
            })
            .await;
        // The socket goes without a word of TLS.
        drop(dialled.stream.into_inner());
    }
    inbound.backend.until(PATIENCE, "both ended", |r| r.iter().all(|r| r.end.is_some())).await;
    assert!(inbound.backend.requests().iter().all(|request| !request.complete), "{:?}", inbound.backend.requests());
}

/// A caller that closes its half has left, as in plaintext: the work for it stops. So does one whose socket goes
/// without a word of TLS.
#[tokio::test]
async fn the_work_stops_when_the_caller_leaves() {
    let mesh = Mesh::new();
    let backend = H1Backend::start(|mut conn: Conn| async move {
        if conn.request().await.is_some() {
            conn.closed().await;
        }
    })
    .await;
    let config = Config::to("http1", &[backend.addr]).top(&mesh.identity("shop/web")).listener("tls: { mode: strict }");
    let proxy = Proxy::start(&config).await;
    let client = TlsClient::with(&mesh.svid("shop/cart"));
    for (number, proper) in [true, false].into_iter().enumerate() {
        let mut dialled = client.dial(proxy.addr()).await.expect("a connection");
        dialled.stream.write_all(b"GET / HTTP/1.1\r\nhost: a.example\r\n\r\n").await.unwrap();
        backend.until(PATIENCE, "the request", |r| r.len() == number + 1 && !r[number].requests.is_empty()).await;
        if proper {
            dialled.stream.shutdown().await.unwrap();
        }
        drop(dialled.stream.into_inner());
        backend.until(PATIENCE, "the end of the work", |r| r[number].end.is_some()).await;
    }
}

/// Our own ends are proper: callers can tell that nothing is missing.
#[tokio::test]
async fn the_proxy_announces_the_end_of_its_connections() {
    let inbound = Inbound::with("mode: strict").await;
    let client = TlsClient::with(&inbound.mesh.svid("shop/cart"));
    for _ in 0..20 {
        // `read_to_end` inside fails without close_notify.
        client.served(inbound.proxy.addr()).await;
    }
}

/// A flood of post-handshake messages (key updates) must not be answered without limit or crash anything.
#[tokio::test]
async fn a_connection_with_many_key_updates_stays_sound() {
    let inbound = Inbound::with("mode: strict").await;
    let client = TlsClient::with(&inbound.mesh.svid("shop/cart"));
    let mut dialled = client.dial(inbound.proxy.addr()).await.expect("a connection");
    for _ in 0..20 {
        dialled.stream.get_mut().1.refresh_traffic_keys().expect("TLS 1.3 can");
    }
    dialled.stream.write_all(b"GET / HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut said = Vec::new();
    let result = within(PATIENCE, "an end", dialled.stream.read_to_end(&mut said)).await;
    assert!(said.starts_with(b"HTTP/1.1 200"), "{result:?} {}", said.escape_ascii());
    TlsClient::with(&inbound.mesh.svid("shop/cart")).served(inbound.proxy.addr()).await;
}

/// Idle TCP connections in permissive mode: neither TLS nor plaintext began, so the limits of HTTP/1.1 hold.
#[tokio::test]
async fn a_silent_caller_of_a_permissive_listener_does_not_stay_for_ever() {
    let inbound = Inbound::with("mode: permissive, handshakeTimeout: 300ms").await;
    let hello = client_hello("a.example");
    let mut stream = TcpStream::connect(inbound.proxy.addr()).await.unwrap();
    stream.write_all(&hello[..3]).await.unwrap();
    let mut said = Vec::new();
    within(PATIENCE, "the end", stream.read_to_end(&mut said)).await.ok();
    inbound.refused("timeout", 1.0).await;
}
