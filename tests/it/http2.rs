//! HTTP/2 on both sides: many streams, GOAWAY, shared upstream connections that must survive what
//! single callers do.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::support::frames::{self, Answer, RawH2, frame};
use crate::support::http1::Wire;
use crate::support::{
    Call, Config, Conn, H1Backend, H2Backend, H2Client, PATIENCE, Proxy, eventually, gate, h1_client, h2_client, ms,
    response, within,
};

#[tokio::test]
async fn a_thousand_streams_on_one_connection_are_answered() {
    for protocol in ["http1", "http2"] {
        let gate = Arc::new(Semaphore::new(0));
        let (for_h1, for_h2) = (Arc::clone(&gate), Arc::clone(&gate));
        let h1 = H1Backend::start(move |mut conn: Conn| {
            let gate = Arc::clone(&for_h1);
            async move {
                while conn.request().await.is_some() {
                    gate.acquire().await.unwrap().forget();
                    conn.send(response(200, &[], b"ok")).await.ok();
                }
            }
        })
        .await;
        let h2 = H2Backend::start(move |mut call: Call| {
            let gate = Arc::clone(&for_h2);
            async move {
                gate.acquire().await.unwrap().forget();
                call.reply(200, "ok").await;
            }
        })
        .await;
        let addr = if protocol == "http1" { h1.addr } else { h2.addr };
        let proxy = Proxy::start(
            &Config::to(protocol, &[addr]).upstream("circuitBreaker: { maxPending: 1024, maxConnections: 1024 }"),
        )
        .await;
        let client = Arc::new(H2Client::connect(proxy.addr()).await);
        // One answer first, so that the proxy's SETTINGS (how many streams it takes) are known.
        gate.add_permits(1);
        assert_eq!(client.get("/").await.status, 200);
        let mut calls = JoinSet::new();
        for number in 0..1000 {
            let client = Arc::clone(&client);
            calls.spawn(async move { client.get(&format!("/{number}")).await.status });
        }
        let arrived = || {
            if protocol == "http1" { h1.requests().len() } else { h2.count() }
        };
        eventually(PATIENCE, "all at the backend at once", || arrived() == 1001).await;
        gate.add_permits(1000);
        while let Some(status) = within(PATIENCE, "an answer", calls.join_next()).await {
            assert_eq!(status.unwrap(), 200, "{protocol}");
        }
        if protocol == "http2" {
            assert!(h2.connections() >= 10, "at most 100 streams on one connection by default");
        }
    }
}

#[tokio::test]
async fn the_listener_announces_its_stream_limit_and_keeps_it() {
    let backend = H2Backend::start(|mut call: Call| async move {
        call.reset_by_caller().await;
    })
    .await;
    let proxy = Proxy::start(&Config::to("http2", &[backend.addr]).listener("maxConcurrentStreams: 4")).await;
    let mut raw = RawH2::connect(proxy.addr()).await;
    let fields: [(&[u8], &[u8]); 4] =
        [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/")];
    for stream in [1, 3, 5, 7] {
        raw.headers(stream, &fields, frames::END_STREAM).await;
    }
    backend.until(PATIENCE, "four calls", |calls| calls.len() == 4).await;
    raw.headers(9, &fields, frames::END_STREAM).await;
    assert_eq!(raw.answer(9).await, Answer::Reset(7), "REFUSED_STREAM");
    assert_eq!(backend.count(), 4);
}

#[tokio::test]
async fn an_upstream_that_goes_away_gracefully_costs_no_request() {
    let backend = H2Backend::start(|mut call: Call| async move {
        if call.body().await.is_ok() {
            tokio::task::yield_now().await;
            call.reply(200, "ok").await;
        }
    })
    .await;
    let proxy = Proxy::start(&Config::to("http2", &[backend.addr])).await;
    let client = Arc::new(H2Client::connect(proxy.addr()).await);
    for round in 0..20 {
        let mut calls = JoinSet::new();
        for _ in 0..50 {
            let client = Arc::clone(&client);
            calls.spawn(async move { client.send(h2_client::post("/"), "hi", None).await.map(|reply| reply.status) });
        }
        backend.graceful();
        while let Some(status) = within(PATIENCE, "an answer", calls.join_next()).await {
            assert_eq!(status.unwrap().unwrap(), 200, "round {round}");
        }
    }
    assert!(backend.connections() > 1, "the backend did go away");
    assert_eq!(backend.count(), 1000, "each exactly once");
}

/// A GOAWAY says up to which stream the peer has worked; what is above it was not processed and may be
/// sent again, also a POST.
#[tokio::test]
async fn streams_above_the_last_one_of_a_goaway_are_sent_again() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let accepting = tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                return;
            };
            let number = counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(raw_backend(Wire::new(stream), number));
        }
    });
    let proxy = Proxy::start(&Config::to("http2", &[addr]).top("workers: 1")).await;
    let client = H2Client::connect(proxy.addr()).await;
    assert_eq!(client.get("/").await.status, 204, "stream 1 is answered");
    let reply = client.send(h2_client::post("/pay"), "hi", None).await.unwrap();
    assert_eq!(reply.status, 204, "stream 3 was not processed and is sent again: {reply:?}");
    assert_eq!(connections.load(Ordering::SeqCst), 2);
    accepting.abort();
}

/// Answers streams with 204; the first connection answers its first stream only, and meets the second
/// with a GOAWAY below it.
async fn raw_backend(mut wire: Wire, number: usize) {
    wire.take(frames::PREFACE.len()).await.unwrap();
    wire.send(frame(frames::SETTINGS, 0, 0, &[])).await.unwrap();
    loop {
        let Ok(head) = wire.take(9).await else { return };
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        if wire.take(length).await.is_err() {
            return;
        }
        match head[3] {
            frames::SETTINGS if head[4] & 1 == 0 => {
                wire.send(frame(frames::SETTINGS, 1, 0, &[])).await.unwrap();
            }
            frames::PING if head[4] & 1 == 0 => {
                wire.send(frame(frames::PING, 1, 0, &[0; 8])).await.unwrap();
            }
            frames::HEADERS if number == 0 && stream > 1 => {
                let mut payload = 1u32.to_be_bytes().to_vec();
                payload.extend_from_slice(&0u32.to_be_bytes());
                wire.send(frame(frames::GOAWAY, 0, 0, &payload)).await.unwrap();
                wire.finish();
                wire.closed().await;
                return;
            }
            frames::HEADERS => {
                let flags = frames::END_HEADERS | frames::END_STREAM;
                wire.send(frame(frames::HEADERS, flags, stream, &[0x89])).await.unwrap();
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn an_upstream_connection_that_breaks_is_replaced() {
    let backend = H2Backend::ok().await;
    let proxy = Proxy::start(&Config::to("http2", &[backend.addr])).await;
    let client = H2Client::connect(proxy.addr()).await;
    for round in 0..10 {
        assert_eq!(client.get("/").await.status, 200, "round {round}");
        backend.abort();
        eventually(PATIENCE, "the connection is gone", || backend.open_connections() == 0).await;
    }
}

/// A shared upstream connection survives 10,000 downstream cancels without hurting its other
/// streams.
#[tokio::test]
async fn ten_thousand_cancels_do_not_hurt_the_other_streams() {
    const CANCELS: usize = 10_000;
    let backend = H2Backend::start(|mut call: Call| async move {
        if call.path() == "/steady" {
            call.reply(200, "ok").await;
            return;
        }
        // Data is on its way when the cancel comes: the hardest case for a shared connection.
        let head = http::Response::builder().body(()).unwrap();
        let Ok(mut out) = call.respond(head, false) else {
            return;
        };
        loop {
            out.reserve_capacity(1024);
            match poll_fn(|cx| out.poll_capacity(cx)).await {
                Some(Ok(_)) if out.send_data(Bytes::from_static(&[0; 1024]), false).is_ok() => {}
                _ => return,
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    let proxy = Proxy::start(&Config::to("http2", &[backend.addr]).top("workers: 1")).await;
    // A long stream that must live through everything.
    // What this caller leaves unread of the long stream must not use up the window of its connection.
    let mut options = h2::client::Builder::new();
    options.initial_window_size(64 * 1024).initial_connection_window_size(1 << 20);
    let steady = H2Client::connect_with(proxy.addr(), &options).await;
    let (long, _) = steady.open(h2_client::get("/long"), true).await.unwrap();
    let mut long = within(PATIENCE, "a head", long).await.unwrap().into_body();

    let mut cancelled = 0;
    let mut served = 0;
    while cancelled < CANCELS {
        let client = H2Client::connect(proxy.addr()).await;
        for _ in 0..10 {
            let mut batch = Vec::new();
            for _ in 0..10 {
                batch.push(client.open(h2_client::get("/cancel"), true).await.unwrap());
            }
            for (response, mut stream) in batch {
                let mut body = within(PATIENCE, "a head", response).await.unwrap().into_body();
                within(PATIENCE, "data", body.data()).await.unwrap().unwrap();
                stream.send_reset(h2::Reason::CANCEL);
                cancelled += 1;
            }
            assert_eq!(steady.get("/steady").await.status, 200, "after {cancelled} cancels");
            served += 1;
            let data = within(PATIENCE, "data", long.data()).await.unwrap().unwrap();
            long.flow_control().release_capacity(data.len()).unwrap();
        }
    }
    assert_eq!(served, CANCELS / 10);
    assert!(backend.connections() <= 3, "{} upstream connections", backend.connections());
    assert!(backend.errors().is_empty(), "{:?}", backend.errors());
}

/// The same for a slow reader of tiny messages.
#[tokio::test]
async fn a_slow_reader_of_tiny_messages_does_not_hurt_the_other_streams() {
    const MESSAGES: usize = 40_000;
    let backend = H2Backend::start(|mut call: Call| async move {
        if call.path() == "/steady" {
            call.reply(200, "ok").await;
            return;
        }
        let head = http::Response::builder().body(()).unwrap();
        let Ok(mut out) = call.respond(head, false) else {
            return;
        };
        for number in 0..MESSAGES {
            out.reserve_capacity(5);
            while out.capacity() < 5 {
                match poll_fn(|cx| out.poll_capacity(cx)).await {
                    Some(Ok(_)) => {}
                    _ => return,
                }
            }
            let text = format!("{:05}", number % 100_000);
            if out.send_data(text.into(), number + 1 == MESSAGES).is_err() {
                return;
            }
            if number.is_multiple_of(100) {
                tokio::task::yield_now().await;
            }
        }
    })
    .await;
    let proxy = Proxy::start(&Config::to("http2", &[backend.addr]).top("workers: 1")).await;
    let client = H2Client::connect(proxy.addr()).await;
    let (slow, _) = client.open(h2_client::get("/slow"), true).await.unwrap();
    let mut slow = within(PATIENCE, "a head", slow).await.unwrap().into_body();
    // Nothing of the slow stream is read while others work on the same upstream connection.
    let others = H2Client::connect(proxy.addr()).await;
    for _ in 0..500 {
        assert_eq!(others.get("/steady").await.status, 200);
    }
    let (all, _) = within(PATIENCE, "the rest", h2_client::read_body(&mut slow)).await.unwrap();
    assert_eq!(all.len(), 5 * MESSAGES);
    let expected: String = (0..MESSAGES).map(|n| format!("{n:05}")).collect();
    assert!(all == expected.as_bytes(), "in order and whole");
    assert_eq!(backend.connections(), 1);
    assert!(backend.errors().is_empty(), "{:?}", backend.errors());
}

/// 50 stalled HTTP/2 downloads hold less than 50 MiB.
#[tokio::test]
async fn fifty_stalled_downloads_hold_little_memory() {
    gate::exclusive();
    let body = Bytes::from(vec![b'x'; 1 << 20]);
    for protocol in ["http1", "http2"] {
        let (for_h1, for_h2) = (body.clone(), body.clone());
        let h1 = H1Backend::start(move |mut conn: Conn| {
            let body = for_h1.clone();
            async move {
                if conn.request().await.is_none() {
                    return;
                }
                conn.send("HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n").await.ok();
                for _ in 0..1024 {
                    if conn.send(&body).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await;
        let mut options = h2::server::Builder::new();
        options.max_send_buffer_size(256 * 1024);
        let h2 = H2Backend::with(options, move |mut call: Call| {
            let body = for_h2.clone();
            async move {
                let Ok(mut out) = call.respond(http::Response::new(()), false) else {
                    return;
                };
                for _ in 0..1024 {
                    if h2_client::send_all(&mut out, body.clone(), false).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await;
        let addr = if protocol == "http1" { h1.addr } else { h2.addr };
        for connections in [1, 50] {
            let proxy = Proxy::start(&Config::to(protocol, &[addr])).await;
            assert_eq!(h1_client::exchange(proxy.addr(), "GET / HTTP/1.1\r\n\r\n").await.status, 400);
            let before = proxy.rss();
            // The callers' windows are wide open; they just do not read what arrives in their sockets
            // beyond the heads: the library's default windows stay unreleased.
            let mut clients = Vec::new();
            let mut bodies = Vec::new();
            for _ in 0..connections {
                let mut options = h2::client::Builder::new();
                options.initial_window_size(64 * 1024).initial_connection_window_size(1 << 20);
                let client = H2Client::connect_with(proxy.addr(), &options).await;
                for _ in 0..50 / connections {
                    let (response, _) = client.open(h2_client::get("/"), true).await.unwrap();
                    bodies.push(within(PATIENCE, "a head", response).await.unwrap().into_body());
                }
                clients.push(client);
            }
            assert_eq!(bodies.len(), 50);
            let peak = settled_rss(&proxy).await;
            let held = peak.saturating_sub(before) / 1024;
            println!("50 stalled downloads, {protocol}, {connections} connections: {held} KiB");
            assert!(held < 50 * 1024, "{protocol}, {connections} connections: {held} KiB held");
        }
    }
}

/// Resident memory once it no longer grows.
async fn settled_rss(proxy: &Proxy) -> u64 {
    let mut last = proxy.rss();
    let mut same = 0;
    let mut tick = tokio::time::interval(ms(50));
    while same < 10 {
        tick.tick().await;
        let now = proxy.rss();
        same = if now <= last + 64 * 1024 { same + 1 } else { 0 };
        last = last.max(now);
    }
    last
}

#[tokio::test]
async fn a_header_list_that_is_too_large_is_refused_and_the_connection_goes_on() {
    let backend = H2Backend::ok().await;
    let proxy =
        Proxy::start(&Config::to("http2", &[backend.addr]).add_listener("few").listener("maxHeaders: 10")).await;
    let client = H2Client::connect(proxy.listener("few")).await;
    let with = |count: usize, size: usize| {
        let mut request = h2_client::get("/");
        for number in 0..count {
            let name = http::HeaderName::from_bytes(format!("x-{number}").as_bytes()).unwrap();
            request.headers_mut().insert(name, "b".repeat(size).parse().unwrap());
        }
        request
    };
    assert_eq!(client.fetch(with(9, 10)).await.unwrap().status, 200);
    assert_eq!(client.fetch(with(12, 10)).await.unwrap().status, 431);
    assert_eq!(client.fetch(with(9, 10)).await.unwrap().status, 200, "the connection goes on");

    let client = H2Client::connect(proxy.addr()).await;
    assert_eq!(client.fetch(with(50, 1000)).await.unwrap().status, 200, "50 KB pass");
    match client.fetch(with(90, 1000)).await {
        Ok(reply) => assert_eq!(reply.status, 431),
        Err(error) => assert!(error.is_reset() || error.is_go_away(), "{error}"),
    }
    assert_eq!(backend.count(), 3);
}

#[tokio::test]
async fn a_trailers_only_answer_stays_trailers_only() {
    let backend = H2Backend::start(|mut call: Call| async move {
        let head = http::Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", "5")
            .header("grpc-message", "not%20here")
            .body(())
            .unwrap();
        call.respond(head, true).ok();
    })
    .await;
    let proxy = Proxy::start(&Config::to("http2", &[backend.addr])).await;
    let mut raw = RawH2::connect(proxy.addr()).await;
    let fields: [(&[u8], &[u8]); 6] = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":authority", b"a.example"),
        (b":path", b"/s.S/M"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    ];
    raw.headers(1, &fields, frames::END_STREAM).await;
    let frame = within(PATIENCE, "the answer", async {
        loop {
            let frame = raw.next().await.unwrap().expect("not the end");
            if frame.stream == 1 && frame.kind == frames::HEADERS {
                return frame;
            }
        }
    })
    .await;
    assert!(frame.flags & frames::END_STREAM != 0, "the head ends the stream");
    let client = H2Client::connect(proxy.addr()).await;
    let reply = client.fetch(h2_client::grpc("/s.S/M")).await.unwrap();
    assert_eq!((reply.header("grpc-status"), reply.header("grpc-message")), (Some("5"), Some("not%20here")));
}

#[tokio::test]
async fn an_idle_upstream_connection_is_closed_after_its_time() {
    let backend = H2Backend::ok().await;
    let proxy =
        Proxy::start(&Config::to("http2", &[backend.addr]).upstream("connection: { idleTimeout: 300ms }")).await;
    assert_eq!(h1_client::get(proxy.addr(), "/").await.status, 200);
    assert_eq!(backend.open_connections(), 1);
    eventually(PATIENCE, "the idle connection is closed", || backend.open_connections() == 0).await;
    assert_eq!(h1_client::get(proxy.addr(), "/").await.status, 200);
}

#[tokio::test]
async fn a_downstream_ping_is_answered() {
    let backend = H2Backend::ok().await;
    let proxy = Proxy::start(&Config::to("http2", &[backend.addr])).await;
    let mut raw = RawH2::connect(proxy.addr()).await;
    raw.send(frames::PING, 0, 0, b"12345678").await;
    let pong = within(PATIENCE, "a pong", async {
        loop {
            let frame = raw.next().await.unwrap().expect("not the end");
            if frame.kind == frames::PING && frame.flags & 1 == 1 {
                return frame.payload;
            }
        }
    })
    .await;
    assert_eq!(pong, b"12345678");
}

#[tokio::test]
async fn an_old_connection_is_told_to_go_and_loses_nothing() {
    let backend = H2Backend::ok().await;
    let proxy = Proxy::start(&Config::to("http2", &[backend.addr]).listener("maxConnectionAge: 300ms")).await;
    let client = H2Client::connect(proxy.addr()).await;
    let mut served = 0;
    let mut driver = std::pin::pin!(async {
        let client = client;
        loop {
            match client.fetch(h2_client::get("/")).await {
                Ok(reply) => {
                    assert_eq!(reply.status, 200);
                    served += 1;
                }
                // Only a graceful GOAWAY may end it, and only for requests that were not begun.
                Err(error) => {
                    assert!(error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR), "{error}");
                    break;
                }
            }
        }
        served
    });
    let served = within(PATIENCE, "the connection retires", &mut driver).await;
    assert!(served > 1);
    assert_eq!(backend.count(), served, "no request was begun and lost");
}
