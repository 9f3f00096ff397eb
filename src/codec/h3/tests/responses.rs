//! What the server side writes, and what it does when callers leave.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use parking_lot::Mutex;

use super::support::*;
use crate::codec::body::{Body, BodyError, Frame};
use crate::codec::error::ResetCode;
use crate::codec::h3::code::Code;
use crate::codec::h3::frames::Side;

#[tokio::test]
async fn a_body_and_trailers_are_streamed() {
    let (frames, body) = fed();
    let body = Mutex::new(Some(body));
    let down = downstream(handler(move |_, _| {
        let body = body.lock().take().expect("one request");
        Box::pin(async move { ok(body) })
    }))
    .await;
    let mut stream = down.ask(&get("/")).await;
    assert_eq!(stream.status().await, Ok(200));
    for piece in ["one", "two"] {
        frames.send(Ok(Frame::Data(piece.into()))).expect("read");
        assert_eq!(stream.next().await, Ok(Some(crate::codec::h3::frames::Event::Data(piece.into()))));
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    frames.send(Ok(Frame::Trailers(trailers))).expect("read");
    let (rest, trailers) = stream.rest().await.expect("whole");
    assert_eq!((rest.len(), &trailers.expect("trailers").headers["grpc-status"]), (0, &HeaderValue::from_static("0")));
}

#[tokio::test]
async fn a_large_body_arrives_whole() {
    let down = downstream(handler(|_, _| Box::pin(async { ok(Body::Full(Bytes::from(vec![7; 5_000_000]))) }))).await;
    let mut stream = down.ask(&get("/")).await;
    assert_eq!(stream.status().await, Ok(200));
    let (bytes, _) = stream.rest().await.expect("whole");
    assert!(bytes.len() == 5_000_000 && bytes.iter().all(|byte| *byte == 7));
}

#[tokio::test]
async fn head_and_bodiless_statuses_have_no_body() {
    let down = downstream(handler(|request, _| {
        Box::pin(async move {
            let status = if request.head.path == "/none" { StatusCode::NO_CONTENT } else { StatusCode::OK };
            let mut answer = response(status, Body::Full("hello".into()).into());
            answer.head.headers.insert("content-length", HeaderValue::from_static("5"));
            answer.head.headers.insert("connection", HeaderValue::from_static("close"));
            answer
        })
    }))
    .await;
    for (method, path) in [("HEAD", "/"), ("GET", "/none")] {
        let mut stream = down.ask(&request(method, path, &[])).await;
        let head = stream.head().await.expect("a head");
        assert_eq!(head.headers["content-length"], "5");
        assert!(!head.headers.contains_key("connection"));
        assert_eq!(stream.next().await, Ok(None));
    }
}

#[tokio::test]
async fn interim_responses_come_first() {
    let down = downstream(handler(|mut request, interim| {
        Box::pin(async move {
            interim.send(StatusCode::SWITCHING_PROTOCOLS, &HeaderMap::new());
            interim.send(StatusCode::CONTINUE, &HeaderMap::new());
            let (bytes, _) = drain_body(&mut request.body).await.expect("whole");
            let mut hints = HeaderMap::new();
            hints.insert("link", HeaderValue::from_static("</a>"));
            interim.send(StatusCode::EARLY_HINTS, &hints);
            ok(Body::Full(bytes.into()))
        })
    }))
    .await;
    let mut stream = down.open(&request("POST", "/", &[("expect", "100-continue")])).await;
    assert_eq!(stream.status().await, Ok(100));
    stream.expect_head();
    stream.out.write_all(&data(b"x")).await.expect("written");
    stream.out.finish().expect("open");
    let hints = stream.head().await.expect("a head");
    assert_eq!(hints.headers["link"], "</a>");
    stream.expect_head();
    assert_eq!(stream.status().await, Ok(200));
    assert_eq!(stream.rest().await.expect("whole").0, b"x");
}

#[tokio::test]
async fn a_response_that_breaks_off_is_reset() {
    let cases = [
        (BodyError::Incomplete, Code::INTERNAL_ERROR),
        (BodyError::Reset(ResetCode::Http3(Code::REQUEST_CANCELLED)), Code::REQUEST_CANCELLED),
        (BodyError::Reset(ResetCode::Http3(Code::REQUEST_REJECTED)), Code::INTERNAL_ERROR),
        (BodyError::Reset(ResetCode::Http3(Code::NO_ERROR)), Code::INTERNAL_ERROR),
        (BodyError::Reset(ResetCode::Http2(h2::Reason::ENHANCE_YOUR_CALM)), Code::EXCESSIVE_LOAD),
        (BodyError::Timeout("too long"), Code::REQUEST_CANCELLED),
    ];
    let failing = Arc::new(Mutex::new(BodyError::Incomplete));
    let fails = Arc::clone(&failing);
    let down = downstream(handler(move |_, _| {
        let (frames, body) = fed();
        frames.send(Err(*fails.lock())).expect("kept");
        Box::pin(async move { ok(body) })
    }))
    .await;
    for (error, code) in cases {
        *failing.lock() = error;
        let mut stream = down.ask(&get("/")).await;
        let mut ended = stream.next().await;
        if ended.is_ok() {
            ended = stream.next().await;
        }
        assert_eq!(ended, Err(code), "{error:?}");
    }
}

#[tokio::test]
async fn a_tunnel_that_breaks_off_says_so() {
    let down = downstream(handler(|_, _| {
        let (frames, body) = fed();
        frames.send(Err(BodyError::Incomplete)).expect("kept");
        Box::pin(async move { response(StatusCode::OK, body) })
    }))
    .await;
    let connect = [(":method", "CONNECT"), (":authority", "a:1")];
    let extended =
        [(":method", "CONNECT"), (":protocol", "x"), (":scheme", "https"), (":authority", "a"), (":path", "/")];
    for (head, code) in [(&connect[..], Code::CONNECT_ERROR), (&extended[..], Code::REQUEST_CANCELLED)] {
        let mut stream = down.open(&lines(head)).await;
        let mut ended = stream.next().await;
        if ended.is_ok() {
            ended = stream.next().await;
        }
        assert_eq!(ended, Err(code));
    }
}

#[tokio::test]
async fn an_upload_that_is_not_needed_is_stopped_behind_the_answer() {
    let down = downstream(handler(|_, _| Box::pin(async { ok(Body::Full("enough".into())) }))).await;
    let mut stream = down.open(&request("POST", "/", &[])).await;
    assert_eq!(stream.status().await, Ok(200));
    assert_eq!(stream.rest().await.expect("whole").0, b"enough");
    assert_eq!(stream.stopped().await, Some(Code::NO_ERROR));
}

/// A server whose handler never answers, and a flag that tells when it was dropped.
async fn stuck() -> (Downstream, Arc<AtomicBool>, Arc<AtomicBool>) {
    let (called, dropped) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (calls, drops) = (Arc::clone(&called), Arc::clone(&dropped));
    let down = downstream(handler(move |_, _| {
        let (calls, guard) = (Arc::clone(&calls), OnDrop(Arc::clone(&drops)));
        Box::pin(async move {
            let _guard = guard;
            calls.store(true, Ordering::SeqCst);
            std::future::pending().await
        })
    }))
    .await;
    (down, called, dropped)
}

#[tokio::test]
async fn a_caller_that_stops_the_response_is_gone() {
    let (down, called, dropped) = stuck().await;
    let mut stream = down.ask(&get("/")).await;
    until(|| called.load(Ordering::SeqCst)).await;
    stream.inbound.stop(Code::REQUEST_CANCELLED.var()).expect("open");
    until(|| dropped.load(Ordering::SeqCst)).await;
}

#[tokio::test]
async fn a_caller_that_resets_its_request_is_gone() {
    let (down, called, dropped) = stuck().await;
    let mut stream = down.open(&request("POST", "/", &[])).await;
    until(|| called.load(Ordering::SeqCst)).await;
    assert!(!dropped.load(Ordering::SeqCst));
    stream.out.reset(Code::REQUEST_CANCELLED.var()).expect("open");
    until(|| dropped.load(Ordering::SeqCst)).await;
    assert_eq!(stream.next().await, Err(Code::REQUEST_CANCELLED));
}

#[tokio::test]
async fn with_the_connection_every_request_is_gone() {
    let (down, called, dropped) = stuck().await;
    let _stream = down.ask(&get("/")).await;
    until(|| called.load(Ordering::SeqCst)).await;
    down.client.close(0_u32.into(), b"");
    until(|| dropped.load(Ordering::SeqCst)).await;
    within(down.server).await.expect("the server ends");
}

#[tokio::test]
async fn a_caller_that_leaves_in_the_middle_of_a_response_is_gone() {
    let (frames, body) = fed();
    let body = Mutex::new(Some(body));
    let down = downstream(handler(move |_, _| {
        let body = body.lock().take().expect("one request");
        Box::pin(async move { ok(body) })
    }))
    .await;
    let mut stream = down.ask(&get("/")).await;
    assert_eq!(stream.status().await, Ok(200));
    stream.inbound.stop(Code::REQUEST_CANCELLED.var()).expect("open");
    within(frames.closed()).await;
}

#[tokio::test]
async fn a_caller_that_does_not_read_holds_the_response_back() {
    let taken = Arc::new(Mutex::new(0));
    let counts = Arc::clone(&taken);
    let down = downstream(handler(move |_, _| {
        let body = TestBody::Endless(Bytes::from(vec![0; 64 * 1024]), Arc::clone(&counts));
        Box::pin(async move { ok(body) })
    }))
    .await;
    let mut stream = down.ask(&get("/")).await;
    assert_eq!(stream.status().await, Ok(200));
    let count = || *taken.lock();
    until(|| count() > 0).await;
    let mut before = 0;
    while before != count() {
        before = count();
        tokio::time::sleep(SOON).await;
    }
    // What the transport lets a sender have on the way: a stream window of 1.25 MB, and what quinn itself keeps.
    assert!(before < 500, "{before} chunks");
    stream.inbound.stop(Code::REQUEST_CANCELLED.var()).expect("open");
}

#[tokio::test]
async fn an_upload_that_nobody_reads_is_held_back() {
    let (down, called, _dropped) = stuck().await;
    let mut stream = down.open(&request("POST", "/", &[])).await;
    until(|| called.load(Ordering::SeqCst)).await;
    let mut sent = 0;
    let chunk = data(&vec![0; 64 * 1024]);
    while sent < 64 * 1024 * 1024 && tokio::time::timeout(SOON, stream.out.write_all(&chunk)).await.is_ok() {
        sent += chunk.len();
    }
    assert!(sent < 32 * 1024 * 1024, "{sent} bytes");
}

/// A response with a field and a trailer of this many bytes.
async fn wordy(head: usize, trailer: usize) -> Downstream {
    downstream(handler(move |_, _| {
        let value = |length| HeaderValue::from_str(&"x".repeat(length)).expect("a value");
        let mut trailers = HeaderMap::new();
        trailers.insert("x-b", value(trailer));
        let body = crate::codec::prefixed::PrefixedBody::of([Bytes::from("body")], Some(trailers));
        let mut answer = response(StatusCode::OK, body.into());
        answer.head.headers.insert("x-a", value(head));
        Box::pin(async move { answer })
    }))
    .await
}

/// What comes of a request once the server has heard what the caller takes.
async fn asked(down: &Downstream) -> Result<(u16, Vec<u8>), Code> {
    let mut stream = down.ask(&get("/")).await;
    let status = stream.status().await?;
    Ok((status, stream.rest().await?.0))
}

#[tokio::test]
async fn what_the_caller_does_not_take_is_not_sent() {
    for (max, head, trailer, expected) in [
        (200, 200, 10, Ok((502, Vec::new()))),
        (200, 10, 200, Err(Code::INTERNAL_ERROR)),
        // Not even that there is no answer.
        (41, 10, 10, Err(Code::INTERNAL_ERROR)),
    ] {
        let down = wordy(head, trailer).await;
        let _control = uni(&down.client, &crate::codec::h3::control::opening(Side::Client, max)).await;
        let heard = async {
            loop {
                let told = asked(&down).await;
                if told != Ok((200, b"body".to_vec())) {
                    return told;
                }
            }
        };
        assert_eq!(within(heard).await, expected, "{max}");
    }
}
