//! HTTP/1.0 and HTTP/1.1 towards callers: connections, targets, limits and time limits.

use std::time::Instant;

use crate::support::http1::Framing;
use crate::support::proxy::Launch;
use crate::support::{
    Config, Conn, H1Backend, H1Client, PATIENCE, Proxy, eventually, h1_client, ms, process, response, within,
};

async fn forwarding() -> (H1Backend, Proxy) {
    let backend = H1Backend::ok().await;
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr])).await;
    (backend, proxy)
}

#[tokio::test]
async fn connections_are_kept_on_both_sides() {
    let (backend, proxy) = forwarding().await;
    let mut client = H1Client::connect(proxy.addr()).await;
    for number in 0..20 {
        let reply = client.get(&format!("/{number}")).await;
        assert_eq!((reply.status, reply.text().as_str()), (200, "ok"));
        assert!(!reply.head.has("connection") || reply.head.get("connection") == Some("keep-alive"));
    }
    assert_eq!(backend.connections(), 1);
    assert_eq!(backend.requests().len(), 20);
}

#[tokio::test]
async fn a_caller_that_says_close_is_closed_and_told_so() {
    let (_backend, proxy) = forwarding().await;
    let mut client = H1Client::connect(proxy.addr()).await;
    let reply = client.exchange("GET / HTTP/1.1\r\nhost: a.example\r\nConnection: foo, Close\r\n\r\n").await;
    assert_eq!((reply.status, reply.head.get("connection")), (200, Some("close")));
    assert!(!client.closed(PATIENCE).await, "an orderly end");
}

#[tokio::test]
async fn a_backend_that_says_close_does_not_close_the_caller() {
    let backend = H1Backend::start(|mut conn: Conn| async move {
        if conn.request().await.is_some() {
            conn.send(response(200, &[("connection", "close")], b"ok")).await.ok();
        }
    })
    .await;
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr])).await;
    let mut client = H1Client::connect(proxy.addr()).await;
    for _ in 0..10 {
        let reply = client.get("/").await;
        assert_eq!((reply.status, reply.head.get("connection")), (200, None));
    }
    assert_eq!(backend.connections(), 10, "a connection that is to be closed is not used again");
}

#[tokio::test]
async fn http_1_0_is_answered_without_chunks_and_closed() {
    let backend = H1Backend::answering(|_| {
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_vec()
    })
    .await;
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr])).await;
    let mut client = H1Client::connect(proxy.addr()).await;
    let reply = client.exchange("GET / HTTP/1.0\r\nhost: a.example\r\n\r\n").await;
    assert_eq!((reply.status, reply.framing, reply.text().as_str()), (200, Framing::Close, "hello"));
    assert_eq!(backend.only_request().head.start, "GET / HTTP/1.1");
}

#[tokio::test]
async fn http_1_0_keep_alive_is_either_kept_and_said_or_closed() {
    let (_backend, proxy) = forwarding().await;
    let mut client = H1Client::connect(proxy.addr()).await;
    let ask = "GET / HTTP/1.0\r\nhost: a.example\r\nConnection: keep-alive\r\n\r\n";
    let reply = client.exchange(ask).await;
    assert_eq!(reply.text(), "ok");
    if reply.head.get("connection").is_some_and(|v| v.eq_ignore_ascii_case("keep-alive")) {
        assert_eq!(client.exchange(ask).await.text(), "ok");
    } else {
        client.closed(PATIENCE).await;
    }
}

#[tokio::test]
async fn http_1_0_gets_no_interim_responses() {
    let backend = H1Backend::answering(|_| {
        let mut out = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".to_vec();
        out.extend(response(200, &[], b"ok"));
        out
    })
    .await;
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr])).await;
    let reply = h1_client::exchange(proxy.addr(), "GET / HTTP/1.0\r\nhost: a.example\r\n\r\n").await;
    assert_eq!((reply.status, reply.informational.len()), (200, 0));
}

#[tokio::test]
async fn a_backend_that_ends_its_body_by_closing_is_passed_on_whole() {
    for head in ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.0 200 OK\r\n\r\n"] {
        let backend = H1Backend::start(move |mut conn: Conn| async move {
            if conn.request().await.is_some() {
                conn.send(head).await.ok();
                conn.send("until the end").await.ok();
            }
        })
        .await;
        let proxy = Proxy::start(&Config::to("http1", &[backend.addr])).await;
        let mut client = H1Client::connect(proxy.addr()).await;
        for _ in 0..2 {
            let reply = client.get("/").await;
            assert_eq!(reply.text(), "until the end", "{head:?}");
            assert_eq!(reply.framing, Framing::Chunked, "the end must be provable: {head:?}");
        }
    }
}

#[tokio::test]
async fn options_asterisk_is_forwarded_as_it_is() {
    let (backend, proxy) = forwarding().await;
    let reply = h1_client::exchange(proxy.addr(), "OPTIONS * HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
    assert_eq!(reply.status, 200);
    assert_eq!(backend.only_request().target, "*");
}

#[tokio::test]
async fn responses_to_pipelined_requests_come_in_order() {
    let backend = H1Backend::answering(|request| response(200, &[], request.target.as_bytes())).await;
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr])).await;
    let mut client = H1Client::connect(proxy.addr()).await;
    let all: String = (0..50).map(|n| format!("GET /{n} HTTP/1.1\r\nhost: a.example\r\n\r\n")).collect();
    client.send(all).await;
    for number in 0..50 {
        assert_eq!(client.response().await.text(), format!("/{number}"));
    }
}

#[tokio::test]
async fn a_request_may_arrive_byte_by_byte() {
    let (backend, proxy) = forwarding().await;
    let mut client = H1Client::connect(proxy.addr()).await;
    let ask =
        "POST /x HTTP/1.1\r\nhost: a.example\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-a: b\r\n\r\n";
    for byte in ask.as_bytes() {
        client.send([*byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(client.response().await.status, 200);
    let seen = backend.only_request();
    assert_eq!((seen.body.as_slice(), seen.trailers.len()), (&b"hello"[..], 1));
}

#[tokio::test]
async fn too_many_fields_are_431() {
    let backend = H1Backend::ok().await;
    let proxy =
        Proxy::start(&Config::to("http1", &[backend.addr]).add_listener("few").listener("maxHeaders: 10")).await;
    for (addr, most) in [(proxy.addr(), 100), (proxy.listener("few"), 10)] {
        let ask = |count: usize| {
            let fields: String = (1..count).map(|n| format!("x-{n}: y\r\n")).collect();
            format!("GET / HTTP/1.1\r\nhost: a.example\r\n{fields}\r\n")
        };
        assert_eq!(h1_client::exchange(addr, ask(most)).await.status, 200, "{most} fields");
        let mut client = H1Client::connect(addr).await;
        let reply = client.exchange(ask(most + 2)).await;
        assert_eq!(reply.status, 431, "{} fields", most + 2);
        client.closed(PATIENCE).await;
    }
    assert_eq!(backend.requests().len(), 2);
}

#[tokio::test]
async fn a_head_that_is_too_large_is_431() {
    let backend = H1Backend::ok().await;
    let proxy =
        Proxy::start(&Config::to("http1", &[backend.addr]).add_listener("small").listener("maxHeadBytes: 4KiB")).await;
    for (addr, limit) in [(proxy.addr(), 64 * 1024), (proxy.listener("small"), 4 * 1024)] {
        let ask = |size: usize| format!("GET / HTTP/1.1\r\nhost: a.example\r\nx-a: {}\r\n\r\n", "b".repeat(size));
        assert_eq!(h1_client::exchange(addr, ask(limit - 200)).await.status, 200, "below {limit}");
        let mut client = H1Client::connect(addr).await;
        let reply = client.exchange(ask(limit + 200)).await;
        assert_eq!(reply.status, 431, "above {limit}");
        client.closed(PATIENCE).await;
        // A target that is too long is the same limit; the RFC has a status of its own for it.
        let long = format!("GET /{} HTTP/1.1\r\nhost: a.example\r\n\r\n", "b".repeat(limit + 200));
        let status = h1_client::exchange(addr, long).await.status;
        assert!(matches!(status, 414 | 431), "a target above {limit}: {status}");
    }
    assert_eq!(backend.requests().len(), 2);
}

#[tokio::test]
async fn an_endless_head_is_cut_off_without_being_kept() {
    let (backend, proxy) = forwarding().await;
    let before = proxy.rss();
    let mut client = H1Client::connect(proxy.addr()).await;
    client.send("GET / HTTP/1.1\r\nhost: a.example\r\nx-a: ").await;
    let writer = client.writer();
    let sending = async move {
        for _ in 0..1024 {
            if writer.send(vec![b'a'; 64 * 1024]).await.is_err() {
                return;
            }
        }
        panic!("64 MiB of one head were accepted");
    };
    let reading = async {
        // Most likely the reset that follows eats the answer; what counts is that it ends.
        client.rest(PATIENCE).await
    };
    within(PATIENCE, "the end", async { tokio::join!(sending, reading) }).await;
    assert!(proxy.rss() < before + 8 * 1024 * 1024);
    assert!(backend.requests().is_empty());
}

#[tokio::test]
async fn a_head_that_does_not_come_to_its_end_is_408() {
    let backend = H1Backend::ok().await;
    let proxy =
        Proxy::start(&Config::to("http1", &[backend.addr]).listener("timeouts: { header: 400ms, detect: 300ms }"))
            .await;
    let mut client = H1Client::connect(proxy.addr()).await;
    let start = Instant::now();
    client.send("GET / HTTP/1.1\r\nhost: a.ex").await;
    let reply = client.response().await;
    let took = start.elapsed();
    assert_eq!(reply.status, 408);
    assert!(took >= ms(390) && took < ms(3000), "{took:?}");
    client.closed(PATIENCE).await;
}

#[tokio::test]
async fn one_byte_at_a_time_does_not_extend_the_head_timeout() {
    let backend = H1Backend::ok().await;
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr]).listener("timeouts: { header: 500ms }")).await;
    let mut client = H1Client::connect(proxy.addr()).await;
    let start = Instant::now();
    client.send("GET / HTTP/1.1\r\nx-a: ").await;
    let writer = client.writer();
    let mut tick = tokio::time::interval(ms(20));
    let dripping = async {
        loop {
            tick.tick().await;
            if writer.send("a").await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        () = dripping => unreachable!("it drips until the connection ends"),
        rest = client.rest(PATIENCE) => {
            assert!(rest.starts_with(b"HTTP/1.1 408 "), "{}", rest.escape_ascii());
        }
    }
    assert!(start.elapsed() < ms(3000), "{:?}", start.elapsed());
    assert!(backend.requests().is_empty());
}

#[tokio::test]
async fn a_caller_that_says_nothing_is_let_go() {
    let backend = H1Backend::ok().await;
    let proxy = Proxy::start(
        &Config::to("http1", &[backend.addr]).listener("timeouts: { detect: 200ms, header: 500ms, idle: 10s }"),
    )
    .await;
    // Nothing at all counts towards the head of a first request, a start of something towards detection.
    for opening in ["", "PRI * HTTP/2.0\r\n\r\nS", "P"] {
        let mut client = H1Client::connect(proxy.addr()).await;
        client.send(opening).await;
        let start = Instant::now();
        client.closed(PATIENCE).await;
        assert!(start.elapsed() < ms(3000), "{opening:?}: {:?}", start.elapsed());
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_without_a_word() {
    let backend = H1Backend::ok().await;
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr]).listener("timeouts: { idle: 300ms }")).await;
    let mut client = H1Client::connect(proxy.addr()).await;
    assert_eq!(client.get("/").await.status, 200);
    let start = Instant::now();
    let rest = client.rest(PATIENCE).await;
    assert!(rest.is_empty(), "{}", rest.escape_ascii());
    assert!(start.elapsed() >= ms(250), "{:?}", start.elapsed());
}

#[tokio::test]
async fn an_old_connection_is_closed_after_an_answer() {
    let backend = H1Backend::ok().await;
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr]).listener("maxConnectionAge: 300ms")).await;
    let mut client = H1Client::connect(proxy.addr()).await;
    let start = Instant::now();
    let mut served = 0;
    loop {
        let reply = client.get("/").await;
        assert_eq!(reply.status, 200, "no request is lost to old age");
        served += 1;
        if reply.head.get("connection") == Some("close") {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "the connection retires");
    }
    assert!(served > 1);
    client.closed(PATIENCE).await;
}

#[tokio::test]
async fn connections_above_the_limit_wait_for_their_turn() {
    let backend = H1Backend::ok().await;
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr]).listener("maxConnections: 2")).await;
    let mut first = H1Client::connect(proxy.addr()).await;
    let mut second = H1Client::connect(proxy.addr()).await;
    assert_eq!((first.get("/1").await.status, second.get("/2").await.status), (200, 200));
    let mut third = H1Client::connect(proxy.addr()).await;
    third.send("GET /3 HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
    let early = tokio::time::timeout(ms(200), third.wire.response("GET")).await;
    assert!(early.is_err(), "the third has to wait: {early:?}");
    assert_eq!(first.get("/4").await.status, 200, "the others go on");
    drop(first);
    assert_eq!(third.response().await.status, 200);
}

#[tokio::test]
async fn a_listener_that_speaks_one_version_refuses_the_other() {
    let backend = H1Backend::ok().await;
    let proxy = Proxy::start(
        &Config::to("http1", &[backend.addr])
            .listener("protocol: http1")
            .add_listener("two")
            .listener("protocol: http2"),
    )
    .await;
    assert_eq!(h1_client::get(proxy.addr(), "/").await.status, 200);
    let mut client = H1Client::connect(proxy.addr()).await;
    client.send(crate::support::frames::PREFACE).await;
    let rest = client.rest(PATIENCE).await;
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 4") || rest.starts_with(b"HTTP/1.1 505"));
    let client = crate::support::H2Client::connect(proxy.listener("two")).await;
    assert_eq!(client.get("/").await.status, 200);
    let mut client = H1Client::connect(proxy.listener("two")).await;
    client.send("GET / HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
    let rest = client.rest(PATIENCE).await;
    assert!(!rest.starts_with(b"HTTP/1.1 200"), "{}", rest.escape_ascii());
}

#[tokio::test]
async fn a_thousand_connections_are_served() {
    let backend = H1Backend::ok().await;
    // All at once they wait for a thousand new connections.
    let config = Config::to("http1", &[backend.addr]).upstream("circuitBreaker: { maxPending: 1024 }");
    let proxy = Proxy::start(&config).await;
    let mut clients = Vec::new();
    for _ in 0..1000 {
        clients.push(H1Client::connect(proxy.addr()).await);
    }
    for client in &clients {
        client.send("GET / HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
    }
    for client in &mut clients {
        let reply = client.response().await;
        assert_eq!(reply.status, 200, "{reply:?}: {}", reply.text());
    }
    assert_eq!(backend.requests().len(), 1000);
    drop(clients);
    let pid = proxy.pid();
    eventually(PATIENCE, "the descriptors are given back", || crate::support::process::descriptors(pid) < 1100).await;
}

/// An accept loop that fails for want of descriptors must neither spin nor end.
#[tokio::test]
async fn running_out_of_descriptors_is_survived() {
    let backend = H1Backend::ok().await;
    let launch = Launch { descriptors: Some(100), ..Launch::default() };
    let proxy = Proxy::start_as(&Config::to("http1", &[backend.addr]), &launch).await;
    let mut clients = Vec::new();
    for _ in 0..300 {
        clients.push(H1Client::connect(proxy.addr()).await);
    }
    let pid = proxy.pid();
    eventually(PATIENCE, "nearly all descriptors in use", || process::descriptors(pid) > 90).await;
    let before = process::cpu_ticks(pid);
    tokio::time::sleep(ms(500)).await;
    let used = process::cpu_ticks(pid) - before;
    assert!(used < 25, "half a second out of descriptors cost {used} of 50 ticks");
    drop(clients);
    let start = Instant::now();
    loop {
        let mut client = H1Client::connect(proxy.addr()).await;
        client.send("GET / HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
        match tokio::time::timeout(ms(2000), client.wire.response("GET")).await {
            Ok(Ok(reply)) if reply.status == 200 => break,
            _ => assert!(start.elapsed() < PATIENCE, "it serves again:\n{}", proxy.stderr()),
        }
    }
}
