//! Upstreams that fail, and the answers that the proxy makes itself: status, reason code, sentence,
//! and the gRPC form. What may have been executed is never sent twice.

use std::time::Instant;

use crate::support::any::{AnyBackend, AnyClient, Message, Told, Version};
use crate::support::h1_backend::{End, Refusing, Unanswering};
use crate::support::http1::chunk;
use crate::support::{
    Call, Config, Conn, H1Backend, H1Client, H2Backend, H2Client, PATIENCE, Proxy, eventually, h1_client, h2_client,
    ms, response, within,
};

async fn hanging() -> H1Backend {
    H1Backend::after_request(|mut conn| async move {
        conn.closed().await;
    })
    .await
}

/// Asks over every version, and by gRPC, and checks that the refusal has the right form each time.
async fn expect_local(proxy: &Proxy, method: &str, status: u16, reason: &str, grpc_status: &str) {
    for version in [Version::H1, Version::H2] {
        let mut client = AnyClient::connect(version, proxy.addr()).await;
        let told = client.call(method, "/", &Message::default()).await;
        assert_local(&told, status, reason, &format!("{version:?}"));
    }
    let client = H2Client::connect(proxy.addr()).await;
    let reply = client.send(h2_client::grpc("/s.S/M"), "", None).await.unwrap();
    assert_eq!(reply.status, 200, "gRPC callers get 200: {reply:?}");
    assert_eq!(reply.header("content-type"), Some("application/grpc"));
    assert_eq!(reply.header("grpc-status"), Some(grpc_status), "trailers-only: {reply:?}");
    assert!(reply.header("grpc-message").is_some_and(|m| !m.is_empty()), "{reply:?}");
    assert_eq!(reply.reason(), Some(reason));
    assert!(reply.body.is_empty() && reply.trailers.is_none(), "trailers-only: {reply:?}");
}

fn assert_local(told: &Told, status: u16, reason: &str, place: &str) {
    assert_eq!((told.status, told.reason()), (status, Some(reason)), "{place}: {told:?}");
    assert!(told.get("content-type").is_some_and(|t| t.starts_with("text/plain")), "{told:?}");
    let text = told.text();
    assert!(text.trim_end().ends_with('.') && text.trim_end().lines().count() == 1, "{text:?}");
}

#[tokio::test]
async fn no_route_is_404_nr() {
    let proxy = Proxy::start(
        &Config::new()
            .routes("- hostnames: [other.example]\n  rules: [{ filters: [{ directResponse: { status: 200 } }] }]"),
    )
    .await;
    expect_local(&proxy, "GET", 404, "NR", "12").await;
}

#[tokio::test]
async fn a_refused_connection_is_503_uf() {
    let refusing = Refusing::new();
    for protocol in ["http1", "http2"] {
        let proxy = Proxy::start(&Config::to(protocol, &[refusing.addr])).await;
        expect_local(&proxy, "POST", 503, "UF", "14").await;
    }
}

#[tokio::test]
async fn a_connection_that_is_not_answered_is_503_uf_after_the_connect_timeout() {
    let unanswering = Unanswering::new().await;
    let proxy =
        Proxy::start(&Config::to("http1", &[unanswering.addr]).upstream("connection: { connectTimeout: 200ms }")).await;
    let start = Instant::now();
    let reply = h1_client::get(proxy.addr(), "/").await;
    assert_eq!((reply.status, reply.reason()), (503, Some("UF")));
    let took = start.elapsed();
    assert!(took >= ms(190) && took < ms(3000), "{took:?}");
}

#[tokio::test]
async fn an_endpoint_that_comes_back_is_used_again() {
    let refusing = Refusing::new();
    let addr = refusing.addr;
    let proxy = Proxy::start(&Config::to("http1", &[addr])).await;
    assert_eq!(h1_client::get(proxy.addr(), "/").await.reason(), Some("UF"));
    let backend = H1Backend::on(refusing.listen(), |mut conn: Conn| async move {
        while conn.request().await.is_some() {
            conn.send(response(200, &[], b"ok")).await.ok();
        }
    });
    assert_eq!(h1_client::get(proxy.addr(), "/").await.status, 200);
    drop(backend);
}

#[tokio::test]
async fn too_many_requests_at_once_are_503_uo() {
    let backend = hanging().await;
    let proxy =
        Proxy::start(&Config::to("http1", &[backend.addr]).upstream("circuitBreaker: { maxRequests: 3 }")).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let client = H1Client::connect(proxy.addr()).await;
        client.send("GET / HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
        held.push(client);
    }
    backend.until(PATIENCE, "three requests", |r| r.iter().filter(|r| !r.requests.is_empty()).count() == 3).await;
    expect_local(&proxy, "GET", 503, "UO", "14").await;
    // A slot is given back when its caller leaves.
    drop(held.pop());
    let addr = proxy.addr();
    let start = Instant::now();
    loop {
        let mut client = H1Client::connect(addr).await;
        client.send("GET / HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
        // The backend hangs, so an answer is the ceiling speaking.
        match tokio::time::timeout(ms(200), client.wire.response("GET")).await {
            Err(_) => break,
            Ok(reply) => assert_eq!(reply.unwrap().status, 503),
        }
        assert!(start.elapsed() < PATIENCE, "the slot is free again");
    }
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_504_ut() {
    let h1 = hanging().await;
    let h2 = H2Backend::start(|mut call: Call| async move {
        call.reset_by_caller().await;
    })
    .await;
    for (protocol, addr) in [("http1", h1.addr), ("http2", h2.addr)] {
        for timeouts in ["{ request: 150ms }", "{ backendRequest: 150ms }"] {
            let proxy = Proxy::start(&Config::to(protocol, &[addr]).rule(&format!("timeouts: {timeouts}"))).await;
            let start = Instant::now();
            let mut client = H1Client::connect(proxy.addr()).await;
            let reply = client.get("/").await;
            let took = start.elapsed();
            assert_eq!((reply.status, reply.reason()), (504, Some("UT")), "{protocol} {timeouts}");
            assert!(took >= ms(140) && took < ms(3000), "{took:?}");
            expect_local(&proxy, "GET", 504, "UT", "4").await;
        }
    }
    // The backends were told to stop.
    h1.until(PATIENCE, "the upstream connections to close", |records| {
        records.iter().all(|r| r.end.is_some_and(|(_, end)| end != End::Ours))
    })
    .await;
    h2.until(PATIENCE, "the upstream streams to be reset", |calls| {
        calls.iter().all(|call| call.reset.is_some_and(|(_, why)| why == h2::Reason::CANCEL))
    })
    .await;
}

#[tokio::test]
async fn grpc_timeout_is_enforced_reduced_and_forwarded() {
    let backend = H2Backend::start(|mut call: Call| async move {
        call.reset_by_caller().await;
    })
    .await;
    let proxy = Proxy::start(&Config::to("http2", &[backend.addr])).await;
    let client = H2Client::connect(proxy.addr()).await;
    let mut request = h2_client::grpc("/s.S/M");
    request.headers_mut().insert("grpc-timeout", "300m".parse().unwrap());
    let start = Instant::now();
    let reply = client.send(request, "", None).await.unwrap();
    let took = start.elapsed();
    assert_eq!((reply.status, reply.grpc_status()), (200, Some("4")), "{reply:?}");
    assert!(took >= ms(280) && took < ms(3000), "{took:?}");
    let forwarded = backend.only_call().headers["grpc-timeout"].to_str().unwrap().to_owned();
    let (number, unit) = forwarded.split_at(forwarded.len() - 1);
    let number: u64 = number.parse().expect("digits");
    let micros = match unit {
        "n" => number / 1000,
        "u" => number,
        "m" => number * 1000,
        "S" => number * 1_000_000,
        other => panic!("unit {other} is too coarse for 300 ms"),
    };
    assert!((100_000..=300_000).contains(&micros), "{forwarded}");
}

#[tokio::test]
async fn a_response_that_stalls_ends_with_the_stream_idle_timeout() {
    let backend = H1Backend::after_request(|mut conn| async move {
        conn.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart").await.ok();
        conn.closed().await;
    })
    .await;
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr]).rule("timeouts: { idle: 300ms }")).await;
    let mut client = H1Client::connect(proxy.addr()).await;
    client.send("GET / HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
    assert_eq!(client.response_head().await.status, 200);
    let body = client.rest(PATIENCE).await;
    assert_eq!(body, b"part", "the body is cut, and the caller can tell by its length");
    backend.until(PATIENCE, "the end", |r| r[0].end.is_some_and(|(_, e)| e != End::Ours)).await;
}

#[tokio::test]
async fn an_upstream_that_ends_before_answering_is_502_uc() {
    for protocol in ["http1", "http2"] {
        let backend = H1Backend::start(|mut conn: Conn| async move {
            // Reads something, then closes in order; for HTTP/2 that is in the middle of the preface.
            conn.wire().fill().await.ok();
        })
        .await;
        let proxy = Proxy::start(&Config::to(protocol, &[backend.addr])).await;
        let reply =
            h1_client::exchange(proxy.addr(), "POST / HTTP/1.1\r\nhost: a.example\r\ncontent-length: 2\r\n\r\nhi")
                .await;
        assert!(matches!(reply.status, 502 | 503), "{protocol}: {}", reply.status);
        assert!(matches!(reply.reason(), Some("UC" | "UF")), "{protocol}: {reply:?}");
    }
}

#[tokio::test]
async fn a_malformed_response_is_502_upe_and_its_connection_is_not_used_again() {
    for bad in [
        "garbage\r\n\r\n",
        "HTTP/1.1\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        "HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, identity\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nx-a: b\r\n folded\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx-a : b\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx-a: b\0c\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        "HTTP/1.1 200 OK\r\n: b\r\ncontent-length: 0\r\n\r\n",
    ] {
        let backend = H1Backend::answering(move |request| match request.target.as_str() {
            "/good" => response(200, &[], b"good"),
            _ => bad.as_bytes().to_vec(),
        })
        .await;
        let proxy = Proxy::start(&Config::to("http1", &[backend.addr]).top("workers: 1")).await;
        for version in [Version::H1, Version::H2] {
            let before = backend.connections();
            let mut client = AnyClient::connect(version, proxy.addr()).await;
            let told = client.call("POST", "/bad", &Message::body("hi")).await;
            assert_eq!((told.status, told.reason()), (502, Some("UPE")), "{version:?} {bad:?}: {told:?}");
            assert_eq!(client.get("/good").await.text(), "good", "{version:?} {bad:?}");
            assert_eq!(backend.connections(), before + if before == 0 { 2 } else { 1 }, "{bad:?}");
        }
    }
}

/// Bytes that follow a response on a kept connection belong to nobody: were they taken for the answer
/// to the next request, callers would get each other's responses.
#[tokio::test]
async fn a_response_that_nobody_asked_for_reaches_nobody() {
    let backend = H1Backend::answering(|request| {
        let mut out = response(200, &[], request.target.as_bytes());
        if request.target == "/evil" {
            out.extend(response(200, &[], b"poison"));
        }
        out
    })
    .await;
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr]).top("workers: 1")).await;
    let mut client = H1Client::connect(proxy.addr()).await;
    for round in 0..20 {
        assert_eq!(client.get("/evil").await.text(), "/evil", "round {round}");
        let path = format!("/{round}");
        assert_eq!(client.get(&path).await.text(), path, "round {round}");
    }
}

#[tokio::test]
async fn a_response_body_that_breaks_off_is_never_passed_on_as_whole() {
    let cases: [(&str, Vec<u8>); 4] = [
        ("a length", b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello".to_vec()),
        ("no last chunk", {
            let mut out = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
            out.extend(chunk(b"hello"));
            out
        }),
        ("a bad chunk", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0x0\r\n\r\n".to_vec()),
        (
            "a chunk without line end",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello0\r\n\r\n".to_vec(),
        ),
    ];
    for (name, bytes) in cases {
        let backend = H1Backend::after_request(move |conn| {
            let bytes = bytes.clone();
            async move {
                conn.send(bytes).await.ok();
            }
        })
        .await;
        let proxy = Proxy::start(&Config::to("http1", &[backend.addr])).await;
        let mut client = H1Client::connect(proxy.addr()).await;
        client.send("GET / HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
        let whole = within(PATIENCE, "an end", client.wire.response("GET")).await;
        assert!(
            whole.is_err() || whole.as_ref().is_ok_and(|r| r.status == 502),
            "{name}: HTTP/1.1 cannot take it for whole: {whole:?}"
        );
        let client = H2Client::connect(proxy.addr()).await;
        let whole = client.fetch(h2_client::get("/")).await;
        assert!(
            whole.is_err() || whole.as_ref().is_ok_and(|r| r.status == 502),
            "{name}: HTTP/2 cannot take it for whole: {whole:?}"
        );
    }
}

#[tokio::test]
async fn a_reset_in_the_middle_of_a_response_reaches_the_caller() {
    let backend = H2Backend::start(|mut call: Call| async move {
        let head = http::Response::builder().body(()).unwrap();
        let Ok(mut out) = call.respond(head, false) else {
            return;
        };
        out.send_data("part".into(), false).ok();
        call.stream.data().await;
        std::future::poll_fn(|cx| {
            // Wait until the data is on its way, or the reset would overtake it.
            out.reserve_capacity(1);
            out.poll_capacity(cx)
        })
        .await;
        out.send_reset(h2::Reason::INTERNAL_ERROR);
    })
    .await;
    let proxy = Proxy::start(&Config::to("http2", &[backend.addr])).await;
    for version in [Version::H1, Version::H2] {
        let mut client = AnyClient::connect(version, proxy.addr()).await;
        let told = client.try_call("GET", "/", &Message::default()).await;
        assert!(told.is_err() || told.as_ref().is_ok_and(|t| t.status == 502), "{version:?}: {told:?}");
    }
}

#[tokio::test]
async fn a_request_body_that_breaks_off_never_completes_upstream() {
    for up in [Version::H1, Version::H2] {
        let backend = AnyBackend::ok(up).await;
        let proxy = Proxy::start(&Config::to(up.protocol(), &[backend.addr()])).await;
        let arrived = async |before: usize| {
            eventually(PATIENCE, "the head at the backend", || backend.seen().len() > before).await;
        };
        for framing in ["content-length: 10\r\n\r\nhello", "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"] {
            let before = backend.seen().len();
            let client = H1Client::connect(proxy.addr()).await;
            client.send(format!("POST / HTTP/1.1\r\nhost: a.example\r\n{framing}")).await;
            arrived(before).await;
            drop(client);
        }
        let before = backend.seen().len();
        let client = H2Client::connect(proxy.addr()).await;
        let (reply, mut stream) = client.open(h2_client::post("/"), false).await.unwrap();
        stream.send_data("part".into(), false).unwrap();
        arrived(before).await;
        stream.send_reset(h2::Reason::CANCEL);
        drop(reply);
        // A whole request afterwards shows that the earlier ones had their time.
        assert_eq!(h1_client::get(proxy.addr(), "/after").await.status, 200);
        let complete: Vec<_> = backend.seen().into_iter().filter(|s| s.complete && s.target != "/after").collect();
        assert!(complete.is_empty(), "{up:?}: {complete:?}");
    }
}

#[tokio::test]
async fn a_refused_request_says_why() {
    let backend = H1Backend::ok().await;
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr])).await;
    let mut client = H1Client::connect(proxy.addr()).await;
    let reply = client.exchange("GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!((reply.status, reply.reason()), (400, Some("DPE")));
    assert!(reply.text().to_lowercase().contains("host"), "{}", reply.text());
    assert_eq!(reply.head.get("connection"), Some("close"));
}

#[tokio::test]
async fn a_slow_connection_attempt_does_not_hold_up_other_requests() {
    let unanswering = Unanswering::new().await;
    let backend = H1Backend::ok().await;
    let proxy = Proxy::start(
        &Config::new()
            .top("workers: 1")
            .routes(
                "- rules:\n    - { matches: [{ path: { prefix: /slow } }], backendRefs: [{ cluster: slow }] }\n    - { backendRefs: [{ cluster: fast }] }",
            )
            .cluster("slow", "http1", &[unanswering.addr])
            .cluster("fast", "http1", &[backend.addr]),
    )
    .await;
    let mut waiting = Vec::new();
    for _ in 0..50 {
        let client = H1Client::connect(proxy.addr()).await;
        client.send("GET /slow HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
        waiting.push(client);
    }
    let start = Instant::now();
    let mut client = H1Client::connect(proxy.addr()).await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert!(start.elapsed() < ms(900), "{:?}", start.elapsed());
    for client in &mut waiting {
        assert_eq!(client.response().await.reason(), Some("UF"));
    }
}

#[tokio::test]
async fn endless_interim_responses_and_endless_heads_are_502_upe() {
    for piece in ["HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n", "x-a: bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\r\n"]
    {
        let backend = H1Backend::after_request(move |conn| async move {
            conn.send("HTTP/1.1 103 Early Hints\r\n\r\n").await.ok();
            if piece.starts_with('x') {
                conn.send("HTTP/1.1 200 OK\r\n").await.ok();
            }
            let many = piece.repeat(1000);
            for _ in 0..1000 {
                if conn.send(&many).await.is_err() {
                    return;
                }
            }
        })
        .await;
        let proxy = Proxy::start(&Config::to("http1", &[backend.addr])).await;
        let before = proxy.rss();
        for version in [Version::H1, Version::H2] {
            let mut client = AnyClient::connect(version, proxy.addr()).await;
            let told = client.call("POST", "/", &Message::body("hi")).await;
            assert_eq!((told.status, told.reason()), (502, Some("UPE")), "{version:?} {piece:?}: {told:?}");
        }
        let grown = proxy.rss().saturating_sub(before) >> 20;
        assert!(grown < 8, "{piece:?}: memory grew by {grown} MiB");
    }
}

#[tokio::test]
async fn an_http2_body_that_is_not_as_long_as_declared_is_never_passed_on_as_whole() {
    for sent in [&b"hello"[..], b"hello world, and more"] {
        let backend = H2Backend::start(move |mut call: Call| async move {
            let head = http::Response::builder().header("content-length", 11).body(()).unwrap();
            let Ok(mut out) = call.respond(head, false) else { return };
            h2_client::send_all(&mut out, sent.into(), true).await.ok();
        })
        .await;
        let proxy = Proxy::start(&Config::to("http2", &[backend.addr])).await;
        for version in [Version::H1, Version::H2] {
            let mut client = AnyClient::connect(version, proxy.addr()).await;
            let told = client.try_call("GET", "/", &Message::default()).await;
            assert!(
                told.is_err() || told.as_ref().is_ok_and(|t| t.status == 502),
                "{version:?}, {} of 11 bytes: {told:?}",
                sent.len()
            );
        }
    }
}

/// A server that does not want a body answers and closes with the rest of it unread, which resets the
/// connection. What it said must not be lost in that.
#[tokio::test]
async fn an_answer_followed_by_a_reset_reaches_the_caller() {
    let backend = H1Backend::start(|mut conn: Conn| async move {
        if conn.request_head().await.is_some() {
            conn.send(response(413, &[("connection", "close")], b"too large")).await.ok();
        }
    })
    .await;
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr])).await;
    let body = vec![b'x'; 3_000_000];
    for version in [Version::H1, Version::H2] {
        for round in 0..20 {
            let mut client = AnyClient::connect(version, proxy.addr()).await;
            let told = match &mut client {
                AnyClient::H1(client) => {
                    let head = format!("POST / HTTP/1.1\r\nhost: a.example\r\ncontent-length: {}\r\n\r\n", body.len());
                    let writer = client.writer();
                    let sending = async {
                        writer.send(head).await.ok();
                        writer.send(&body).await.ok();
                    };
                    let (_, reply) = tokio::join!(sending, client.wire.response("POST"));
                    reply.map(|reply| (reply.status, reply.text())).map_err(|e| e.to_string())
                }
                AnyClient::H2(client) => client
                    .send(h2_client::post("/"), body.clone(), None)
                    .await
                    .map(|reply| (reply.status, String::from_utf8_lossy(&reply.body).into_owned()))
                    .map_err(|e| e.to_string()),
            };
            assert_eq!(told, Ok((413, "too large".to_owned())), "{version:?}, round {round}");
        }
    }
}

/// A server may answer before it has read the whole request, and read on: both directions finish, and the
/// connection is as good as before.
#[tokio::test]
async fn an_early_answer_does_not_cut_an_upload_that_the_server_reads_to_its_end() {
    let backend = H1Backend::start(|mut conn: Conn| async move {
        while let Some(mut request) = conn.request_head().await {
            conn.send(response(200, &[], request.target.as_bytes())).await.ok();
            if !conn.finish_request(&mut request).await {
                return;
            }
        }
    })
    .await;
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr]).top("workers: 1")).await;
    for version in [Version::H1, Version::H2] {
        let mut client = AnyClient::connect(version, proxy.addr()).await;
        for number in 0..10 {
            let path = format!("/{number}");
            let told = client.call("POST", &path, &Message::body(vec![b'x'; 200_000])).await;
            assert_eq!((told.status, told.text()), (200, path), "{version:?}");
            // An HTTP/1.1 connection may be ended after an answer that came before the end of the upload.
            if version == Version::H1 {
                client = AnyClient::connect(version, proxy.addr()).await;
            }
        }
    }
    backend.assert_clean();
}
