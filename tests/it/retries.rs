//! Second attempts: never of what may have been executed, unless that is harmless or the rule says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::any::{AnyBackend, AnyClient, Message, Version};
use crate::support::h1_backend::Refusing;
use crate::support::{
    Call, Config, Conn, H1Backend, H1Client, H2Backend, H2Client, PATIENCE, Proxy, h1_client, h2_client, response,
};

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
async fn a_reset_before_the_answer_is_502_uc_and_a_post_is_not_sent_again() {
    let backend = H1Backend::after_request(|conn| async move { conn.reset() }).await;
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
        let backend = H1Backend::after_request(move |conn| {
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

/// The keep-alive race: the backend closes a kept connection at the moment when the
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
async fn a_large_body_is_sent_whole_to_the_second_endpoint_when_the_first_refuses_the_connection() {
    let refusing = Refusing::new();
    for up in [Version::H1, Version::H2] {
        let backend = AnyBackend::ok(up).await;
        let proxy = Proxy::start(
            &Config::to(up.protocol(), &[refusing.addr, backend.addr()])
                .upstream("loadBalancing: { policy: roundRobin }"),
        )
        .await;
        let body: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
        for down in [Version::H1, Version::H2] {
            let mut client = AnyClient::connect(down, proxy.addr()).await;
            for _ in 0..4 {
                let told = client.call("POST", "/", &Message::body(body.clone())).await;
                assert_eq!(told.status, 200, "{down:?} to {up:?}: {told:?}");
            }
        }
        let seen = backend.seen();
        assert_eq!(seen.len(), 8, "{up:?}");
        assert!(seen.iter().all(|s| s.body == body), "{up:?}: whole each time");
    }
}

/// Only so much of a body is kept for another attempt (64 KiB); a larger one that was begun is not repeated.
#[tokio::test]
async fn a_body_too_large_to_keep_is_not_sent_again() {
    for (size, attempts) in [(60_000, 3), (200_000, 1)] {
        let backend = H1Backend::after_request(|conn| async move { conn.reset() }).await;
        let proxy =
            Proxy::start(&Config::to("http1", &[backend.addr]).rule("retry: { attempts: 2, on: [reset] }")).await;
        let mut client = AnyClient::connect(Version::H1, proxy.addr()).await;
        let told = client.call("PUT", "/", &Message::body(vec![b'x'; size])).await;
        assert_eq!((told.status, told.reason()), (502, Some("UC")), "{size} bytes: {told:?}");
        assert_eq!(backend.requests().len(), attempts, "{size} bytes");
        assert!(backend.requests().iter().all(|r| r.body.len() == size), "{size} bytes");
    }
}

/// Retries may not multiply the load of a cluster that is down: 20 % of the requests, and 3 a second.
#[tokio::test]
async fn retries_stay_within_the_budget() {
    let backend = H1Backend::answering(|_| response(503, &[], b"")).await;
    let proxy = Proxy::start(
        &Config::to("http1", &[backend.addr])
            .rule("retry: { attempts: 3, on: [503], backoff: { base: 1ms, max: 2ms } }")
            .upstream("retryBudget: { percent: 20, minPerSecond: 1 }"),
    )
    .await;
    let mut client = H1Client::connect(proxy.addr()).await;
    for _ in 0..500 {
        assert_eq!(client.get("/").await.status, 503);
    }
    let retries = backend.requests().len() - 500;
    assert!((50..=150).contains(&retries), "{retries} retries of 500 requests");
}
