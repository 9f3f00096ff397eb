//! gRPC calls that fail in trailers after their head was sent: tried again as long as the caller has seen no message,
//! and never after.

use std::future::pending;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::SendStream;
use http::{HeaderValue, Request, Response};

use crate::support::h2_backend::grpc_status;
use crate::support::{Call, Config, H2Backend, H2Client, PATIENCE, Proxy, h2_client, ms, within};

const RETRYING: &str = "retry: { attempts: 1, on: [unavailable], nonIdempotent: true, backoff: { base: 1ms } }";
const UNAVAILABLE: u16 = 14;

fn head() -> Response<()> {
    Response::builder().header("content-type", "application/grpc").body(()).expect("a valid head")
}

fn begin(call: &mut Call) -> SendStream<Bytes> {
    call.respond(head(), false).expect("the caller is there")
}

/// The first call fails after its head; others are answered.
async fn failing_first() -> H2Backend {
    H2Backend::start(|mut call: Call| async move {
        if call.index > 0 {
            if call.body().await.is_ok() {
                call.reply_grpc(h2_client::grpc_message(b"second")).await;
            }
            return;
        }
        // The head first: the rest of the upload comes after it.
        let mut out = begin(&mut call);
        call.body().await.ok();
        out.send_trailers(grpc_status(UNAVAILABLE)).ok();
    })
    .await
}

async fn through(backend: &H2Backend, rule: &str) -> (Proxy, H2Client) {
    let proxy = Proxy::start(&Config::to("http2", &[backend.addr]).rule(rule)).await;
    let client = H2Client::connect(proxy.addr()).await;
    (proxy, client)
}

#[tokio::test]
async fn a_call_that_fails_in_trailers_after_its_head_is_tried_again() {
    let backend = failing_first().await;
    let (_proxy, client) = through(&backend, RETRYING).await;
    let message = h2_client::grpc_message(b"hello");
    let reply = client.send(h2_client::grpc("/s.S/M"), message.clone(), None).await.expect("an answer");
    assert_eq!((reply.grpc_status(), &reply.body[5..]), (Some("0"), &b"second"[..]), "{reply:?}");
    assert_eq!(reply.header("x-outrigger-retried"), None);
    let calls = backend.calls();
    assert_eq!(calls.len(), 2);
    assert!(calls.iter().all(|call| call.body.as_ref() == Some(&message)), "each has the whole request");
    let number = |call: usize, name: &str| calls[call].headers.get(name).map(|value| value.to_str().expect("a number"));
    let of = |call| (number(call, "x-outrigger-attempt"), number(call, "grpc-previous-rpc-attempts"));
    assert_eq!((of(0), of(1)), ((None, None), (Some("2"), Some("1"))));
}

#[tokio::test]
async fn a_call_is_not_tried_again_once_a_message_came() {
    let backend = H2Backend::start(|mut call: Call| async move {
        let mut out = begin(&mut call);
        h2_client::send_all(&mut out, h2_client::grpc_message(b"first"), false).await.ok();
        out.send_trailers(grpc_status(UNAVAILABLE)).ok();
    })
    .await;
    let (_proxy, client) = through(&backend, RETRYING).await;
    let reply = client.send(h2_client::grpc("/s.S/M"), h2_client::grpc_message(b"x"), None).await.expect("an answer");
    assert_eq!((reply.grpc_status(), &reply.body[5..]), (Some("14"), &b"first"[..]), "{reply:?}");
    assert_eq!(backend.count(), 1);
}

#[tokio::test]
async fn a_call_is_not_tried_again_where_the_rule_does_not_say_so() {
    for rule in [
        "retry: { attempts: 1, on: [unavailable] }",
        "retry: { attempts: 1, on: [resource-exhausted], nonIdempotent: true }",
        "retry: { attempts: 1, on: [gateway-error, reset], nonIdempotent: true }",
    ] {
        let backend = failing_first().await;
        let (_proxy, client) = through(&backend, rule).await;
        let message = h2_client::grpc_message(b"x");
        let reply = client.send(h2_client::grpc("/s.S/M"), message, None).await.expect("an answer");
        assert_eq!((reply.grpc_status(), backend.count()), (Some("14"), 1), "{rule}: {reply:?}");
        assert_eq!(reply.header("x-outrigger-retried"), None, "{rule}");
    }
}

#[tokio::test]
async fn an_answer_that_was_retried_in_vain_says_so_whatever_its_form() {
    for trailers_only in [true, false] {
        let backend = H2Backend::start(move |mut call: Call| async move {
            if trailers_only {
                let mut head = head();
                head.headers_mut().extend(grpc_status(UNAVAILABLE));
                call.respond(head, true).ok();
            } else {
                begin(&mut call).send_trailers(grpc_status(UNAVAILABLE)).ok();
            }
        })
        .await;
        let last = Proxy::start(&Config::to("http2", &[backend.addr]).rule(RETRYING)).await;
        let first = Proxy::start(&Config::to("http2", &[last.addr()]).rule(RETRYING)).await;
        let client = H2Client::connect(first.addr()).await;
        let message = h2_client::grpc_message(b"x");
        let reply = client.send(h2_client::grpc("/s.S/M"), message, None).await.expect("an answer");
        assert_eq!(
            (reply.grpc_status(), reply.header("x-outrigger-retried")),
            (Some("14"), Some("exhausted")),
            "{reply:?}"
        );
        assert_eq!(backend.count(), 2, "the hop before the backend has retried, and no other: {reply:?}");
    }
}

#[tokio::test]
async fn a_call_that_breaks_off_after_its_head_is_tried_again() {
    let backend = H2Backend::start(|mut call: Call| async move {
        if call.index == 0 {
            begin(&mut call).send_reset(h2::Reason::INTERNAL_ERROR);
        } else if call.body().await.is_ok() {
            call.reply_grpc(h2_client::grpc_message(b"second")).await;
        }
    })
    .await;
    let (_proxy, client) = through(&backend, RETRYING).await;
    let reply = client.send(h2_client::grpc("/s.S/M"), h2_client::grpc_message(b"x"), None).await.expect("an answer");
    assert_eq!((reply.grpc_status(), backend.count()), (Some("0"), 2), "{reply:?}");
}

#[tokio::test]
async fn a_caller_that_leaves_while_the_head_is_held_cancels_the_call() {
    let backend = H2Backend::start(|mut call: Call| async move {
        let mut out = begin(&mut call);
        call.reset_while_sending(&mut out).await;
    })
    .await;
    let (_proxy, client) = through(&backend, RETRYING).await;
    let (response, mut upload) = client.open(h2_client::grpc("/s.S/M"), false).await.expect("a stream");
    backend.until(PATIENCE, "the call", |calls| calls.len() == 1).await;
    upload.send_reset(h2::Reason::CANCEL);
    drop(response);
    backend.until(PATIENCE, "its reset", |calls| calls[0].reset.is_some()).await;
    assert_eq!(backend.count(), 1, "what was cancelled is not tried again");
}

#[tokio::test]
async fn the_deadline_ends_a_call_whose_head_is_held() {
    let backend = H2Backend::start(|mut call: Call| async move {
        let mut out = begin(&mut call);
        call.reset_while_sending(&mut out).await;
    })
    .await;
    let (_proxy, client) = through(&backend, RETRYING).await;
    let mut request = h2_client::grpc("/s.S/M");
    request.headers_mut().insert("grpc-timeout", HeaderValue::from_static("250m"));
    let start = Instant::now();
    let reply = client.send(request, h2_client::grpc_message(b"x"), None).await.expect("an answer");
    assert_eq!((reply.grpc_status(), reply.reason()), (Some("4"), Some("UT")), "{reply:?}");
    assert!(start.elapsed() >= ms(250));
    backend.until(PATIENCE, "its reset", |calls| calls[0].reset.is_some()).await;
}

/// A watch: the server says at once that it is there, and then nothing for a long time.
#[tokio::test]
async fn a_stream_without_a_message_gets_its_head_after_a_while_and_is_not_tried_again() {
    let backend = H2Backend::start(|mut call: Call| async move {
        let mut out = begin(&mut call);
        call.body().await.ok();
        out.send_trailers(grpc_status(UNAVAILABLE)).ok();
    })
    .await;
    let (_proxy, client) = through(&backend, RETRYING).await;
    let (mut response, mut upload) = client.open(h2_client::grpc("/s.S/Watch"), false).await.expect("a stream");
    let reading = within(PATIENCE, "the head", h2_client::read_head(&mut response));
    let (_, head) = reading.await.expect("a head");
    assert_eq!(head.headers()["x-outrigger-retried"], "held");
    // Only now the backend goes on.
    upload.send_data(Bytes::new(), true).expect("open");
    let (body, trailers) =
        within(PATIENCE, "the end", h2_client::read_body(&mut head.into_body())).await.expect("read");
    assert_eq!((body.len(), &trailers.expect("trailers")["grpc-status"]), (0, &HeaderValue::from_static("14")));
    assert_eq!(backend.count(), 1);
}

#[tokio::test]
async fn a_head_is_not_held_where_nothing_could_be_tried_again() {
    let backend = H2Backend::start(|mut call: Call| async move {
        let _out = begin(&mut call);
        pending::<()>().await;
    })
    .await;
    for rule in
        ["retry: { attempts: 1, on: [reset], nonIdempotent: true }", "retry: { attempts: 1, on: [unavailable] }"]
    {
        let (_proxy, client) = through(&backend, rule).await;
        let (mut response, _upload) = client.open(h2_client::grpc("/s.S/Watch"), false).await.expect("a stream");
        let (_, head) = within(PATIENCE, "the head", h2_client::read_head(&mut response)).await.expect("a head");
        assert!(!head.headers().contains_key("x-outrigger-retried"), "{rule}");
    }
}

#[tokio::test]
async fn a_large_message_comes_whole_through_a_rule_that_holds() {
    let large = Bytes::from((0..8 << 20).map(|n: u32| n as u8).collect::<Vec<u8>>());
    let message = h2_client::grpc_message(&large);
    let sent = message.clone();
    let backend = H2Backend::start(move |mut call: Call| {
        let message = sent.clone();
        async move { call.reply_grpc(message).await }
    })
    .await;
    let (_proxy, client) = through(&backend, RETRYING).await;
    let reply = client.send(h2_client::grpc("/s.S/M"), h2_client::grpc_message(b"x"), None).await.expect("an answer");
    assert_eq!((reply.grpc_status(), reply.body == message), (Some("0"), true));
}

/// Fails once, asking to be left alone for so long.
async fn pushing_back(millis: &'static str) -> H2Backend {
    H2Backend::start(move |mut call: Call| async move {
        if call.index == 0 {
            let mut trailers = grpc_status(UNAVAILABLE);
            trailers.insert("grpc-retry-pushback-ms", HeaderValue::from_static(millis));
            begin(&mut call).send_trailers(trailers).ok();
        } else if call.body().await.is_ok() {
            call.reply_grpc(h2_client::grpc_message(b"second")).await;
        }
    })
    .await
}

#[tokio::test]
async fn a_server_says_in_trailers_when_to_come_back_and_whether() {
    for (pushback, timeout, limit, status, marked, least) in [
        ("300", None, "5m", "0", None, 300),
        ("300", None, "200ms", "14", Some("pushback"), 0),
        ("300000", Some("2S"), "5m", "14", Some("deadline"), 0),
        ("-1", None, "5m", "14", None, 0),
    ] {
        let backend = pushing_back(pushback).await;
        let rule = RETRYING.replace("attempts: 1", &format!("attempts: 1, maxPushback: {limit}"));
        let (_proxy, client) = through(&backend, &rule).await;
        let mut request: Request<()> = h2_client::grpc("/s.S/M");
        if let Some(timeout) = timeout {
            request.headers_mut().insert("grpc-timeout", HeaderValue::from_static(timeout));
        }
        let start = Instant::now();
        let reply = client.send(request, h2_client::grpc_message(b"x"), None).await.expect("an answer");
        let case = format!("{pushback}, {timeout:?}, {limit}: {reply:?}");
        assert_eq!((reply.grpc_status(), reply.header("x-outrigger-retried")), (Some(status), marked), "{case}");
        assert!(start.elapsed() >= Duration::from_millis(least), "{case}");
        assert_eq!(backend.count(), if status == "0" { 2 } else { 1 }, "{case}");
    }
}

/// What a call comes to counts once, whether its answer was passed on or not.
#[tokio::test]
async fn each_attempt_is_one_failure_of_its_endpoint() {
    let backend = H2Backend::start(|mut call: Call| async move {
        begin(&mut call).send_trailers(grpc_status(UNAVAILABLE)).ok();
    })
    .await;
    let (proxy, client) = through(&backend, RETRYING).await;
    let reply = client.send(h2_client::grpc("/s.S/M"), h2_client::grpc_message(b"x"), None).await.expect("an answer");
    assert_eq!((reply.grpc_status(), backend.count()), (Some("14"), 2));
    let name = "outrigger_upstream_attempts_total";
    assert_eq!(proxy.metric(name, &["outcome=\"server_error\""]).await, 2.0);
    assert_eq!(proxy.metric(name, &["outcome=\"success\""]).await, 0.0);
    let clusters = proxy.admin_json("/clusters").await.to_string();
    assert!(clusters.contains("\"consecutiveFailures\":2,") && clusters.contains("\"failures\":2,"), "{clusters}");
}
