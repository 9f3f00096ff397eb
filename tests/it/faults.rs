//! Upstreams that fail, and the answers that the proxy makes itself: status, reason code, sentence,
//! and the gRPC form. What may have been executed is never sent twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::support::any::{AnyBackend, AnyClient, Message, Told, Version};
use crate::support::h1_backend::{End, Refusing, Unanswering};
use crate::support::http1::chunk;
use crate::support::{
    Call, Config, Conn, H1Backend, H1Client, H2Backend, H2Client, PATIENCE, Proxy, eventually, h1_client, h2_client,
    ms, response, within,
};

/// A backend that reads a request and then treats the connection as told.
async fn after_request<F, Fut>(act: F) -> H1Backend
where
    F: Fn(Conn) -> Fut + Send + Sync + Clone + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    H1Backend::start(move |mut conn: Conn| {
        let act = act.clone();
        async move {
            if conn.request().await.is_some() {
                act(conn).await;
            }
        }
    })
    .await
}

async fn hanging() -> H1Backend {
    after_request(|mut conn| async move {
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
async fn a_refused_connection_is_tried_at_another_endpoint_for_any_method() {
    let refusing = Refusing::new();
    for up in [Version::H1, Version::H2] {
        let backend = AnyBackend::ok(up).await;
        let proxy = Proxy::start(
            &Config::to(up.protocol(), &[refusing.addr, backend.addr()])
                .upstream("loadBalancing: { policy: roundRobin }"),
        )
        .await;
        let mut client = H1Client::connect(proxy.addr()).await;
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            for _ in 0..4 {
                let ask = format!("{method} / HTTP/1.1\r\nhost: a.example\r\ncontent-length: 2\r\n\r\nhi");
                assert_eq!(client.exchange(ask).await.status, 200, "{method} to {up:?}");
            }
        }
        let seen = backend.seen();
        assert_eq!(seen.len(), 20, "each exactly once");
        assert!(seen.iter().all(|s| s.body == b"hi"), "with its body");
    }
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
    let backend = after_request(|mut conn| async move {
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
async fn a_reset_before_the_answer_is_502_uc_and_a_post_is_not_sent_again() {
    let backend = after_request(|conn| async move { conn.reset() }).await;
    let proxy = Proxy::start(
        &Config::to("http1", &[backend.addr])
            .rule("retry: { attempts: 3, on: [reset, connect-failure, gateway-error] }"),
    )
    .await;
    let reply =
        h1_client::exchange(proxy.addr(), "POST /pay HTTP/1.1\r\nhost: a.example\r\ncontent-length: 2\r\n\r\nhi").await;
    assert_eq!((reply.status, reply.reason()), (502, Some("UC")), "{reply:?}");
    assert_eq!(backend.requests().len(), 1, "a payment is never made twice");
}

#[tokio::test]
async fn a_reset_before_the_answer_is_retried_for_an_idempotent_request_when_the_rule_says_so() {
    for method in ["GET", "PUT", "DELETE"] {
        let count = Arc::new(AtomicUsize::new(0));
        let backend = after_request(move |conn| {
            let attempt = count.fetch_add(1, Ordering::SeqCst);
            async move {
                if attempt == 0 {
                    conn.reset();
                } else {
                    conn.send(response(200, &[], b"second")).await.ok();
                }
            }
        })
        .await;
        let proxy =
            Proxy::start(&Config::to("http1", &[backend.addr]).rule("retry: { attempts: 2, on: [reset] }")).await;
        let reply = h1_client::exchange(
            proxy.addr(),
            format!("{method} / HTTP/1.1\r\nhost: a.example\r\ncontent-length: 2\r\n\r\nhi"),
        )
        .await;
        assert_eq!((reply.status, reply.text().as_str()), (200, "second"), "{method}");
        let bodies: Vec<_> = backend.requests().iter().map(|r| r.body.clone()).collect();
        assert_eq!(bodies, [b"hi", b"hi"], "{method}: the body is replayed");
    }
}

#[tokio::test]
async fn a_status_is_retried_as_the_rule_says_and_the_last_answer_is_passed_on() {
    let backend = H1Backend::answering(|_| response(503, &[("x-theirs", "1")], b"busy")).await;
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr]).rule("retry: { attempts: 2, on: [503] }")).await;
    let reply = h1_client::get(proxy.addr(), "/").await;
    assert_eq!((reply.status, reply.text().as_str()), (503, "busy"));
    assert_eq!(reply.reason(), None, "it is the upstream's own answer");
    assert_eq!(backend.requests().len(), 3, "one and two retries");
}

#[tokio::test]
async fn a_grpc_status_is_retried_when_the_rule_says_that_calls_may_be_repeated() {
    for (rule, expected) in [
        ("retry: { attempts: 1, on: [unavailable], nonIdempotent: true }", "0"),
        // The call may have been executed, and a POST is not idempotent.
        ("retry: { attempts: 1, on: [unavailable] }", "14"),
    ] {
        retry_grpc(rule, expected).await;
    }
}

async fn retry_grpc(rule: &str, expected: &str) {
    let backend = H2Backend::start(|mut call: Call| async move {
        if call.index == 0 {
            let head = http::Response::builder()
                .header("content-type", "application/grpc")
                .header("grpc-status", "14")
                .body(())
                .unwrap();
            call.respond(head, true).ok();
        } else if call.body().await.is_ok() {
            call.reply_grpc(h2_client::grpc_message(b"second")).await;
        }
    })
    .await;
    let proxy = Proxy::start(&Config::to("http2", &[backend.addr]).rule(rule)).await;
    let client = H2Client::connect(proxy.addr()).await;
    let reply = client.send(h2_client::grpc("/s.S/M"), h2_client::grpc_message(b"x"), None).await.unwrap();
    assert_eq!(reply.grpc_status(), Some(expected), "{rule}: {reply:?}");
    assert_eq!(backend.count(), if expected == "0" { 2 } else { 1 }, "{rule}");
}

#[tokio::test]
async fn a_refused_stream_is_retried_for_any_method() {
    let backend = H2Backend::start(|mut call: Call| async move {
        if call.index.is_multiple_of(2) {
            call.reset(h2::Reason::REFUSED_STREAM);
        } else if call.body().await.is_ok() {
            call.reply(200, "second").await;
        }
    })
    .await;
    let proxy = Proxy::start(&Config::to("http2", &[backend.addr])).await;
    let mut client = H1Client::connect(proxy.addr()).await;
    for method in ["POST", "GET", "PATCH"] {
        let ask = format!("{method} / HTTP/1.1\r\nhost: a.example\r\ncontent-length: 2\r\n\r\nhi");
        let reply = client.exchange(ask).await;
        assert_eq!((reply.status, reply.text().as_str()), (200, "second"), "{method}");
    }
    assert_eq!(backend.count(), 6);
}

#[tokio::test]
async fn a_reset_stream_is_502_and_a_post_is_not_sent_again() {
    let backend = H2Backend::start(|mut call: Call| async move {
        call.body().await.ok();
        call.reset(h2::Reason::INTERNAL_ERROR);
    })
    .await;
    let proxy = Proxy::start(&Config::to("http2", &[backend.addr])).await;
    for version in [Version::H1, Version::H2] {
        let mut client = AnyClient::connect(version, proxy.addr()).await;
        let told = client.call("POST", "/", &Message::body("hi")).await;
        assert_eq!((told.status, told.reason()), (502, Some("UR")), "{version:?}: {told:?}");
    }
    assert_eq!(backend.count(), 2, "each once");
    assert!(backend.connections() <= 2, "the connection of each worker lives on");
}

/// The keep-alive race (DESIGN section 6): the backend closes a kept connection at the moment when the
/// next request arrives on it.
#[tokio::test]
async fn a_kept_connection_that_dies_under_a_request_is_retried_only_when_that_is_safe() {
    let racing = || async {
        H1Backend::start(|mut conn: Conn| async move {
            if conn.request().await.is_none() {
                return;
            }
            conn.send(response(200, &[], b"first")).await.ok();
            if conn.index == 0 {
                // Reads the next request and closes without an answer.
                conn.request().await;
                return;
            }
            while conn.request().await.is_some() {
                conn.send(response(200, &[], b"again")).await.ok();
            }
        })
        .await
    };
    let backend = racing().await;
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr])).await;
    let mut client = H1Client::connect(proxy.addr()).await;
    assert_eq!(client.get("/1").await.text(), "first");
    let reply = client.get("/2").await;
    assert_eq!((reply.status, reply.text().as_str()), (200, "first"), "a GET is sent again");
    assert_eq!(backend.requests().len(), 3);

    let backend = racing().await;
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr])).await;
    let mut client = H1Client::connect(proxy.addr()).await;
    assert_eq!(client.get("/1").await.text(), "first");
    let reply = client.exchange("POST /pay HTTP/1.1\r\nhost: a.example\r\ncontent-length: 2\r\n\r\nhi").await;
    assert_eq!((reply.status, reply.reason()), (502, Some("UC")), "{reply:?}");
    let payments = backend.requests().iter().filter(|r| r.target == "/pay").count();
    assert_eq!(payments, 1, "a payment is never made twice");
}

/// A server that restarts ends all its connections: the second attempt must not take another of them.
#[tokio::test]
async fn when_all_kept_connections_die_under_requests_each_is_answered_by_a_new_one() {
    const KEPT: usize = 8;
    let (release, gate) = tokio::sync::watch::channel(false);
    let backend = H1Backend::start(move |mut conn: Conn| {
        let mut gate = gate.clone();
        async move {
            while conn.request().await.is_some() {
                if conn.index < KEPT {
                    gate.wait_for(|open| *open).await.ok();
                }
                conn.send(response(200, &[], b"ok")).await.ok();
                if conn.index < KEPT {
                    // Takes one more and closes without an answer.
                    conn.request().await;
                    return;
                }
            }
        }
    })
    .await;
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr]).top("workers: 1")).await;
    let mut clients = Vec::new();
    for _ in 0..KEPT {
        let client = H1Client::connect(proxy.addr()).await;
        client.send("GET / HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
        clients.push(client);
    }
    backend.until(PATIENCE, "all requests", |r| r.iter().filter(|r| !r.requests.is_empty()).count() == KEPT).await;
    release.send_replace(true);
    for client in &mut clients {
        assert_eq!(client.response().await.status, 200);
    }
    for (number, client) in clients.iter_mut().enumerate() {
        let reply = client.get("/again").await;
        assert_eq!(reply.status, 200, "caller {number}: {reply:?}");
    }
}

#[tokio::test]
async fn a_kept_connection_that_the_backend_has_closed_is_not_used() {
    let backend = H1Backend::start(|mut conn: Conn| async move {
        if conn.request().await.is_some() {
            conn.send(response(200, &[], b"ok")).await.ok();
        }
    })
    .await;
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr])).await;
    let mut client = H1Client::connect(proxy.addr()).await;
    for number in 1..=50 {
        let reply = client.exchange("POST / HTTP/1.1\r\nhost: a.example\r\ncontent-length: 2\r\n\r\nhi").await;
        assert_eq!(reply.status, 200, "POST {number}: {reply:?}");
        backend.until(PATIENCE, "our close", |r| r.len() == number && r[number - 1].end.is_some()).await;
    }
    assert_eq!(backend.requests().len(), 50);
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
        let backend = after_request(move |conn| {
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
