//! What the server side writes, and what it does when callers leave.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use parking_lot::Mutex;

use super::support::*;
use crate::base::drain::Drain;
use crate::codec::body::{Body, BodyError, Frame};
use crate::codec::error::ResetCode;
use crate::codec::h2::serve;

#[tokio::test]
async fn a_request_is_answered_with_its_body() {
    let mut down = downstream(handler(|mut request, _| {
        Box::pin(async move {
            let (bytes, _) = drain_body(&mut request.body).await.expect("the upload is whole");
            ok(Body::Full(Bytes::from(bytes)))
        })
    }))
    .await;
    let (response, mut upload) = down.client.send_request(post("/echo"), false).expect("sent");
    upload.send_data(Bytes::from_static(b"hello"), true).expect("sent");
    let response = within(response).await.expect("a response");
    assert_eq!(response.status(), StatusCode::OK);
    let (bytes, _) = within(read_all(&mut response.into_body())).await.expect("a body");
    assert_eq!(bytes, b"hello");
}

#[tokio::test]
async fn a_response_without_a_body_is_one_frame() {
    let mut down = downstream(handler(|_, _| Box::pin(async { ok(Body::Empty) }))).await;
    let (response, _) = down.client.send_request(get("/"), true).expect("sent");
    assert!(within(response).await.expect("a response").into_body().is_end_stream());
}

#[tokio::test]
async fn head_204_and_304_never_carry_a_body() {
    let cases = [(Method::HEAD, 200), (Method::GET, 204), (Method::GET, 304), (Method::POST, 204)];
    for (method, status) in cases {
        let mut down = downstream(handler(move |_, _| {
            Box::pin(async move {
                let status = StatusCode::from_u16(status).expect("a status");
                let mut response = response(status, Body::Full(Bytes::from_static(b"never")).into());
                response.head.headers.insert("content-length", HeaderValue::from_static("5"));
                response
            })
        }))
        .await;
        let request = Request::builder().method(method.clone()).uri("http://a.test/").body(()).expect("a request");
        let (response, _) = down.client.send_request(request, true).expect("sent");
        let response = within(response).await.expect("a response");
        assert_eq!(response.headers()["content-length"], "5");
        assert!(response.into_body().is_end_stream(), "{method} {status}");
    }
}

#[tokio::test]
async fn trailers_end_a_response() {
    let mut down = downstream(handler(|_, _| {
        Box::pin(async {
            let (frames, body) = fed();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            let _ = frames.send(Ok(Frame::Data(Bytes::from_static(b"message"))));
            let _ = frames.send(Ok(Frame::Trailers(trailers)));
            ok(body)
        })
    }))
    .await;
    let (response, _) = down.client.send_request(get("/"), true).expect("sent");
    let mut body = within(response).await.expect("a response").into_body();
    let (bytes, trailers) = within(read_all(&mut body)).await.expect("a body");
    assert_eq!(bytes, b"message");
    assert_eq!(trailers.expect("trailers")["grpc-status"], "0");
}

#[tokio::test]
async fn interim_responses_come_first_and_in_order() {
    let mut down = downstream(handler(|_, interim| {
        Box::pin(async move {
            let mut hints = HeaderMap::new();
            hints.insert("link", HeaderValue::from_static("</a.css>; rel=preload"));
            hints.insert("connection", HeaderValue::from_static("close"));
            interim.send(StatusCode::CONTINUE, &HeaderMap::new());
            interim.send(StatusCode::SWITCHING_PROTOCOLS, &HeaderMap::new());
            interim.send(StatusCode::EARLY_HINTS, &hints);
            ok(Body::Empty)
        })
    }))
    .await;
    let (mut response, _) = down.client.send_request(get("/"), true).expect("sent");
    let mut seen = Vec::new();
    while let Some(interim) = within(std::future::poll_fn(|cx| response.poll_informational(cx))).await {
        let interim = interim.expect("an interim response");
        seen.push((interim.status().as_u16(), interim.headers().len()));
    }
    assert_eq!(seen, [(100, 0), (103, 1)]);
    assert_eq!(within(response).await.expect("a response").status(), StatusCode::OK);
}

#[tokio::test]
async fn connection_specific_fields_are_not_sent() {
    let mut down = downstream(handler(|_, _| {
        Box::pin(async {
            let mut response = ok(Body::Empty);
            for (name, value) in [("connection", "x"), ("keep-alive", "timeout=5"), ("te", "gzip"), ("x-kept", "1")] {
                response.head.headers.insert(name, HeaderValue::from_static(value));
            }
            response
        })
    }))
    .await;
    let (response, _) = down.client.send_request(get("/"), true).expect("sent");
    let response = within(response).await.expect("a response");
    assert_eq!(response.headers().len(), 1);
    assert_eq!(response.headers()["x-kept"], "1");
}

#[tokio::test]
async fn a_caller_that_resets_drops_the_handler() {
    let dropped = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&dropped);
    let (sender, mut started) = tokio::sync::mpsc::unbounded_channel();
    let mut down = downstream(handler(move |_, _| {
        let guard = OnDrop(Arc::clone(&flag));
        let sender = sender.clone();
        Box::pin(async move {
            let _guard = guard;
            let _ = sender.send(());
            std::future::pending().await
        })
    }))
    .await;
    let (response, _) = down.client.send_request(get("/"), true).expect("sent");
    within(started.recv()).await;
    assert!(!dropped.load(Ordering::SeqCst));
    drop(response);
    within(until(|| dropped.load(Ordering::SeqCst))).await;
}

#[tokio::test]
async fn a_caller_that_closes_drops_the_handler() {
    let dropped = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&dropped);
    let (sender, mut started) = tokio::sync::mpsc::unbounded_channel();
    let mut down = downstream(handler(move |_, _| {
        let guard = OnDrop(Arc::clone(&flag));
        let sender = sender.clone();
        Box::pin(async move {
            let _guard = guard;
            let _ = sender.send(());
            std::future::pending().await
        })
    }))
    .await;
    let _waiting = down.client.send_request(get("/"), true).expect("sent");
    within(started.recv()).await;
    down.driver.abort();
    within(until(|| dropped.load(Ordering::SeqCst))).await;
    within(down.server).await.expect("the connection ends");
}

#[tokio::test]
async fn a_caller_that_resets_mid_response_drops_the_body() {
    let (senders, mut bodies) = tokio::sync::mpsc::unbounded_channel();
    let mut down = downstream(handler(move |_, _| {
        let (frames, body) = fed();
        let _ = frames.send(Ok(Frame::Data(Bytes::from_static(b"first"))));
        let _ = senders.send(frames);
        Box::pin(async { ok(body) })
    }))
    .await;
    let (response, _) = down.client.send_request(get("/"), true).expect("sent");
    let mut body = within(response).await.expect("a response").into_body();
    within(body.data()).await.expect("data").expect("data");
    let frames = within(bodies.recv()).await.expect("a body");
    assert!(!frames.is_closed());
    drop(body);
    within(frames.closed()).await;
}

#[tokio::test]
async fn a_body_that_fails_resets_the_stream() {
    let cases = [
        (BodyError::Incomplete, Reason::INTERNAL_ERROR),
        (BodyError::Reset(ResetCode::Http2(Reason::CANCEL)), Reason::CANCEL),
        (BodyError::Reset(ResetCode::Http2(Reason::REFUSED_STREAM)), Reason::INTERNAL_ERROR),
        (BodyError::Reset(ResetCode::Http2(Reason::NO_ERROR)), Reason::INTERNAL_ERROR),
        (BodyError::Timeout("too long"), Reason::CANCEL),
    ];
    for (error, reason) in cases {
        let mut down = downstream(handler(move |_, _| {
            Box::pin(async move {
                let (frames, body) = fed();
                let _ = frames.send(Ok(Frame::Data(Bytes::from_static(b"part"))));
                tokio::spawn(async move {
                    tokio::task::yield_now().await;
                    let _ = frames.send(Err(error));
                });
                ok(body)
            })
        }))
        .await;
        let (response, _) = down.client.send_request(get("/"), true).expect("sent");
        let mut body = within(response).await.expect("a response").into_body();
        let failed = within(read_all(&mut body)).await.expect_err("a reset");
        assert_eq!(failed.reason(), Some(reason), "{error:?}");
    }
}

#[tokio::test]
async fn an_upload_that_nobody_wants_is_stopped_without_an_error() {
    let (near, far) = pipe();
    let drain = Drain::default();
    let answer = handler(|_, _| Box::pin(async { ok(Body::Full(Bytes::from_static(b"no"))) }));
    tokio::spawn(serve(near, answer, options(&drain)));
    let mut raw = Raw::client(far).await;
    // POST http / with authority "a", and no end of stream.
    raw.send(&[RawFrame::new(RawFrame::HEADERS, RawFrame::END_HEADERS, 1, &[0x83, 0x86, 0x84, 0x41, 1, b'a'])]).await;
    assert_eq!(raw.next_of(RawFrame::HEADERS).await.stream, 1);
    let data = raw.next_of(RawFrame::DATA).await;
    assert_eq!((data.flags & RawFrame::END_STREAM, data.payload.as_slice()), (1, b"no".as_slice()));
    assert_eq!(raw.next_of(RawFrame::RST_STREAM).await.reason(), Reason::NO_ERROR);
}

#[tokio::test]
async fn a_blocked_response_takes_no_more_from_its_body_than_fits() {
    let taken: Arc<Mutex<u64>> = Arc::default();
    let counter = Arc::clone(&taken);
    let mut down = downstream(handler(move |_, _| {
        let body = TestBody::Endless(Bytes::from_static(&[7; 1024]), Arc::clone(&counter));
        Box::pin(async { ok(body) })
    }))
    .await;
    let (response, _) = down.client.send_request(get("/"), true).expect("sent");
    let mut stalled = within(response).await.expect("a response").into_body();
    // The client's window is 64 KiB and nothing is released. Another exchange proves that all that was
    // runnable has run.
    within(stalled.data()).await.expect("data").expect("data");
    let (other, _) = down.client.send_request(get("/"), true).expect("sent");
    within(other).await.expect("a response");
    let before = *taken.lock();
    let (other, _) =
        down.client.send_request(Request::head("http://a.test/").body(()).expect("a request"), true).expect("sent");
    within(other).await.expect("a response");
    assert_eq!(*taken.lock(), before, "the stalled stream asked for more");
    assert!(before <= 2 * (64 + 64 + 2), "{before} chunks of 1 KiB were taken for a window of 64 KiB");
}

#[tokio::test]
async fn large_bodies_pass_whole_in_both_directions() {
    const SIZE: usize = 3 * 1024 * 1024 + 17;
    let mut down = downstream(handler(|request, _| Box::pin(async move { ok(request.body) }))).await;
    let (response, mut upload) = down.client.send_request(post("/"), false).expect("sent");
    let data: Vec<u8> = (0..SIZE).map(|n| (n % 251) as u8).collect();
    let sent = Bytes::from(data.clone());
    let sending = tokio::spawn(async move { send_all(&mut upload, sent, true).await });
    let mut body = within(response).await.expect("a response").into_body();
    let (bytes, _) = within(read_all(&mut body)).await.expect("a body");
    within(sending).await.expect("runs").expect("sent");
    assert!(bytes == data, "the bytes differ");
}

#[tokio::test]
async fn a_flood_of_resets_ends_the_connection() {
    let (near, far) = pipe();
    let drain = Drain::default();
    let answer = handler(|_, _| Box::pin(std::future::pending()));
    tokio::spawn(serve(near, answer, options(&drain)));
    let mut raw = Raw::client(far).await;
    let flags = RawFrame::END_HEADERS | RawFrame::END_STREAM;
    let mut frames = Vec::new();
    for n in 0..200 {
        frames.push(RawFrame::new(RawFrame::HEADERS, flags, 2 * n + 1, &[0x82, 0x86, 0x84, 0x41, 1, b'a']));
        frames.push(RawFrame::new(RawFrame::RST_STREAM, 0, 2 * n + 1, &8u32.to_be_bytes()));
    }
    raw.send(&frames).await;
    assert_eq!(raw.next_of(RawFrame::GOAWAY).await.reason(), Reason::ENHANCE_YOUR_CALM);
}
