//! Exchanges on the client side.

use std::borrow::Cow;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use bytes::Bytes;
use h2::{Reason, server};
use http::{HeaderMap, HeaderValue, StatusCode};
use parking_lot::Mutex;

use super::support::*;
use crate::codec::body::{Body, BodyError, Frame, PollBody};
use crate::codec::error::{ResetCode, SendError, SendErrorKind, Sent};
use crate::codec::h2::H2Connection;
use crate::codec::message::{RequestHead, Response};
use crate::codec::prefixed::PrefixedBody;

async fn send(connection: &H2Connection, head: RequestHead, body: Body) -> Result<Response<Body>, SendError> {
    let slot = connection.reserve().expect("a free stream");
    let interims = Interims::default();
    within(slot.send(Cow::Owned(head), body, &interims)).await
}

fn full(text: &'static str) -> Body {
    Body::Full(Bytes::from_static(text.as_bytes()))
}

#[tokio::test]
async fn a_request_gets_its_response() {
    let (io, _server) = upstream(server::Builder::new(), |(request, mut respond)| async move {
        assert_eq!(request.uri(), "http://up.test/a?b=c");
        assert_eq!(request.method(), "PUT");
        assert_eq!(request.headers()["x-one"], "1");
        assert_eq!(request.headers().len(), 2, "{:?}", request.headers());
        let (bytes, _) = read_all(&mut request.into_body()).await.expect("the upload is whole");
        let mut stream = respond.send_response(http::Response::new(()), false).expect("sent");
        stream.send_data(Bytes::from(bytes), true).expect("sent");
    });
    let (connection, _driver) = connect(io, &client_options()).await;
    let mut head = head("PUT", "/a?b=c");
    for (name, value) in [("x-one", "1"), ("te", "trailers"), ("connection", "x"), ("upgrade", "y")] {
        head.headers.insert(name, HeaderValue::from_static(value));
    }
    let mut response = send(&connection, head, full("hello")).await.expect("a response");
    assert_eq!(response.head.status, StatusCode::OK);
    let (bytes, _) = within(drain_body(&mut response.body)).await.expect("a body");
    assert_eq!(bytes, b"hello");
}

#[tokio::test]
async fn a_borrowed_head_is_left_as_it_is() {
    let (io, _server) = upstream(server::Builder::new(), |(_, mut respond)| async move {
        respond.send_response(http::Response::new(()), true).expect("sent");
    });
    let (connection, _driver) = connect(io, &client_options()).await;
    let head = head("GET", "/");
    let interims = Interims::default();
    for _ in 0..2 {
        let slot = connection.reserve().expect("a free stream");
        let response = within(slot.send(Cow::Borrowed(&head), Body::Empty, &interims)).await.expect("a response");
        assert!(matches!(response.body, Body::Empty), "nothing is left to hold the stream");
        assert_eq!(connection.active(), 0);
    }
}

#[tokio::test]
async fn a_request_without_authority_is_sent_without_one() {
    let (io, _server) = upstream(server::Builder::new(), |(request, mut respond)| async move {
        assert_eq!(request.uri().authority(), None);
        assert_eq!(request.uri().path(), "/old");
        respond.send_response(http::Response::new(()), true).expect("sent");
    });
    let (connection, _driver) = connect(io, &client_options()).await;
    let mut head = head("GET", "/old");
    head.authority = None;
    send(&connection, head, Body::Empty).await.expect("a response");
}

#[tokio::test]
async fn head_and_small_upload_leave_together() {
    let (near, far) = pipe();
    let (connection, _driver) = connect(near, &client_options()).await;
    let mut raw = Raw::server(far).await;
    let sending = tokio::spawn(async move { send(&connection, head("POST", "/"), full("hello")).await.map(|_| ()) });
    raw.next_of(RawFrame::HEADERS).await;
    let data = raw.next().await.expect("a frame right behind");
    assert_eq!(
        (data.kind, data.flags, data.payload.as_slice()),
        (RawFrame::DATA, RawFrame::END_STREAM, b"hello".as_slice())
    );
    raw.send(&[RawFrame::ok(1, RawFrame::END_STREAM)]).await;
    sending.await.expect("runs").expect("a response");
}

#[tokio::test]
async fn interim_responses_are_passed_on() {
    let (io, _server) = upstream(server::Builder::new(), |(_, mut respond)| async move {
        for status in [100, 103, 103] {
            let interim = http::Response::builder().status(status).header("link", "<x>").body(()).expect("a response");
            respond.send_informational(interim).expect("sent");
        }
        respond.send_response(http::Response::new(()), true).expect("sent");
    });
    let (connection, _driver) = connect(io, &client_options()).await;
    let slot = connection.reserve().expect("a free stream");
    let interims = Interims::default();
    within(slot.send(Cow::Owned(head("GET", "/")), Body::Empty, &interims)).await.expect("a response");
    let seen: Vec<_> = interims.0.lock().iter().map(|(status, fields)| (status.as_u16(), fields.len())).collect();
    assert_eq!(seen, [(100, 1), (103, 1), (103, 1)]);
}

#[tokio::test]
async fn a_flood_of_interim_responses_is_an_error() {
    let (io, _server) = upstream(server::Builder::new(), |(_, mut respond)| async move {
        for _ in 0..100 {
            let interim = http::Response::builder().status(102).body(()).expect("a response");
            let _ = respond.send_informational(interim);
        }
        let _ = respond.send_response(http::Response::new(()), true);
    });
    let (connection, _driver) = connect(io, &client_options()).await;
    let error = send(&connection, head("GET", "/"), Body::Empty).await.expect_err("an error");
    assert!(matches!(error.kind, SendErrorKind::BadResponse(_)), "{error:?}");
    assert_eq!(error.sent, Sent::Maybe);
}

#[tokio::test]
async fn invalid_responses_are_errors() {
    type Spoil = fn(&mut http::Response<()>);
    let cases: [(&str, Spoil); 3] = [
        ("too many fields", |response| {
            for n in 0..300 {
                response.headers_mut().append("x-many", HeaderValue::from(n));
            }
        }),
        ("too large", |response| {
            let value = HeaderValue::from_maybe_shared(Bytes::from(vec![b'a'; 70 * 1024])).expect("a value");
            response.headers_mut().insert("x-large", value);
        }),
        ("two lengths", |response| {
            response.headers_mut().append("content-length", HeaderValue::from_static("0"));
            response.headers_mut().append("content-length", HeaderValue::from_static("0"));
        }),
    ];
    for (name, spoil) in cases {
        let (io, _server) = upstream(server::Builder::new(), move |(_, mut respond)| async move {
            let mut response = http::Response::new(());
            spoil(&mut response);
            let _ = respond.send_response(response, true);
        });
        let (connection, _driver) = connect(io, &client_options()).await;
        let error = send(&connection, head("GET", "/"), Body::Empty).await.expect_err("an error");
        assert!(matches!(error.kind, SendErrorKind::BadResponse(_)), "{name}: {error:?}");
    }
}

#[tokio::test]
async fn a_101_is_an_invalid_response() {
    let (near, far) = pipe();
    let (connection, _driver) = connect(near, &client_options()).await;
    let mut raw = Raw::server(far).await;
    let sending = tokio::spawn(async move { send(&connection, head("GET", "/"), Body::Empty).await });
    raw.next_of(RawFrame::HEADERS).await;
    // :status 101, as a literal with the name from the static table.
    let switching = [0x08, 3, b'1', b'0', b'1'];
    raw.send(&[RawFrame::new(RawFrame::HEADERS, RawFrame::END_HEADERS, 1, &switching)]).await;
    let error = sending.await.expect("runs").expect_err("an error");
    assert!(matches!(error.kind, SendErrorKind::BadResponse(_)), "{error:?}");
}

#[tokio::test]
async fn outer_blanks_of_response_values_are_removed() {
    let (io, _server) = upstream(server::Builder::new(), |(_, mut respond)| async move {
        let response = http::Response::builder().header("x-blank", " a b ").body(()).expect("a response");
        respond.send_response(response, true).expect("sent");
    });
    let (connection, _driver) = connect(io, &client_options()).await;
    let response = send(&connection, head("GET", "/"), Body::Empty).await.expect("a response");
    assert_eq!(response.head.headers["x-blank"], "a b");
}

#[tokio::test]
async fn trailers_pass_from_the_upstream() {
    let (io, _server) = upstream(server::Builder::new(), |(_, mut respond)| async move {
        let mut stream = respond.send_response(http::Response::new(()), false).expect("sent");
        stream.send_data(Bytes::from_static(b"message"), false).expect("sent");
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        trailers.insert("content-type", HeaderValue::from_static("a/b"));
        stream.send_trailers(trailers).expect("sent");
    });
    let (connection, _driver) = connect(io, &client_options()).await;
    let mut response = send(&connection, head("GET", "/"), Body::Empty).await.expect("a response");
    let (bytes, trailers) = within(drain_body(&mut response.body)).await.expect("a body");
    assert_eq!(bytes, b"message");
    let trailers = trailers.expect("trailers");
    assert_eq!((trailers.len(), trailers["grpc-status"].as_bytes()), (1, b"0".as_slice()));
    assert!(response.body.is_end());
}

#[tokio::test]
async fn the_length_of_a_response_is_known_unless_it_has_no_body() {
    let (io, _server) = upstream(server::Builder::new(), |(request, mut respond)| async move {
        let response = http::Response::builder().header("content-length", "5").body(()).expect("a response");
        let head = request.method() == "HEAD";
        let mut stream = respond.send_response(response, head).expect("sent");
        if !head {
            stream.send_data(Bytes::from_static(b"hello"), true).expect("sent");
        }
    });
    let (connection, _driver) = connect(io, &client_options()).await;
    let mut response = send(&connection, head("GET", "/"), Body::Empty).await.expect("a response");
    assert_eq!(response.body.exact_len(), Some(5));
    within(drain_body(&mut response.body)).await.expect("a body");
    assert_eq!(response.body.exact_len(), Some(0));
    let response = send(&connection, head("HEAD", "/"), Body::Empty).await.expect("a response");
    assert_eq!(response.head.headers["content-length"], "5");
    assert_eq!((response.body.exact_len(), response.body.is_end()), (Some(0), true));
}

#[tokio::test]
async fn a_frame_that_was_read_ahead_is_read_again() {
    for (pieces, length) in [(&["hello"][..], 5), (&["hello", " ", "again"][..], 11)] {
        let (io, _server) = upstream(server::Builder::new(), move |(_, mut respond)| async move {
            let response = http::Response::builder().header("content-length", length).body(()).expect("a response");
            let mut stream = respond.send_response(response, false).expect("sent");
            for (at, piece) in pieces.iter().enumerate() {
                stream.send_data(Bytes::from_static(piece.as_bytes()), at + 1 == pieces.len()).expect("sent");
            }
        });
        let (connection, _driver) = connect(io, &client_options()).await;
        let mut body = send(&connection, head("GET", "/"), Body::Empty).await.expect("a response").body;
        let first = within(poll_fn(|cx| body.poll_frame(cx))).await.expect("a frame").expect("a good one");
        assert!(matches!(&first, Frame::Data(data) if data == "hello"), "{first:?}");
        let mut body = PrefixedBody::before(first, body);
        assert_eq!((body.exact_len(), body.is_end()), (Some(length), false));
        // While whoever writes it is blocked, the rest is read; it comes behind.
        within(poll_fn(|cx| match body.poll_progress(cx) {
            Ok(()) => Poll::Ready(()),
            Err(error) => panic!("{error}"),
        }))
        .await;
        let (bytes, _) = within(drain_body(&mut body)).await.expect("a body");
        assert_eq!(bytes, pieces.concat().as_bytes());
        assert_eq!((body.exact_len(), body.is_end()), (Some(0), true));
    }
}

#[tokio::test]
async fn a_body_that_differs_from_its_length_is_malformed() {
    let (io, _server) = upstream(server::Builder::new(), |(_, mut respond)| async move {
        let response = http::Response::builder().header("content-length", "5").body(()).expect("a response");
        let mut stream = respond.send_response(response, false).expect("sent");
        stream.send_data(Bytes::from_static(b"hell"), true).expect("sent");
    });
    let (connection, _driver) = connect(io, &client_options()).await;
    let error = match send(&connection, head("GET", "/"), Body::Empty).await {
        Ok(mut response) => within(drain_body(&mut response.body)).await.expect_err("an error"),
        Err(error) => panic!("{error:?}"),
    };
    assert!(matches!(error, BodyError::Malformed(_)), "{error:?}");
}

#[tokio::test]
async fn resets_are_told_apart() {
    let (io, _server) = upstream(server::Builder::new(), |(request, mut respond)| async move {
        respond.send_reset(match request.uri().path() {
            "/refused" => Reason::REFUSED_STREAM,
            _ => Reason::INTERNAL_ERROR,
        });
    });
    let (connection, _driver) = connect(io, &client_options()).await;
    let error = send(&connection, head("GET", "/refused"), Body::Empty).await.expect_err("an error");
    assert!(matches!(error.kind, SendErrorKind::Refused), "{error:?}");
    assert_eq!((error.sent, error.reused), (Sent::Never, false));
    let error = send(&connection, head("GET", "/failed"), Body::Empty).await.expect_err("an error");
    assert!(matches!(error.kind, SendErrorKind::Reset(ResetCode::Http2(Reason::INTERNAL_ERROR))), "{error:?}");
    assert_eq!((error.sent, error.reused), (Sent::Maybe, true));
}

#[tokio::test]
async fn a_reset_mid_response_comes_after_the_data_before_it() {
    let (near, far) = pipe();
    let (connection, _driver) = connect(near, &client_options()).await;
    let mut raw = Raw::server(far).await;
    let sending = tokio::spawn(async move { send(&connection, head("GET", "/"), Body::Empty).await });
    raw.next_of(RawFrame::HEADERS).await;
    raw.send(&[
        RawFrame::ok(1, 0),
        RawFrame::new(RawFrame::DATA, 0, 1, b"part"),
        RawFrame::new(RawFrame::RST_STREAM, 0, 1, &2u32.to_be_bytes()),
    ])
    .await;
    let mut response = sending.await.expect("runs").expect("a response");
    let first = within(std::future::poll_fn(|cx| response.body.poll_frame(cx))).await;
    assert!(matches!(first, Some(Ok(Frame::Data(data))) if data == "part"));
    let error = within(drain_body(&mut response.body)).await.expect_err("an error");
    assert_eq!(error, BodyError::Reset(ResetCode::Http2(Reason::INTERNAL_ERROR)));
}

#[tokio::test]
async fn a_reset_without_error_behind_a_complete_response_stops_only_the_upload() {
    let (near, far) = pipe();
    let (connection, _driver) = connect(near, &client_options()).await;
    let mut raw = Raw::server(far).await;
    let large = Body::Full(Bytes::from(vec![1; 1024 * 1024]));
    let sending = tokio::spawn(async move { send(&connection, head("POST", "/"), large).await });
    raw.next_of(RawFrame::DATA).await;
    raw.send(&[
        RawFrame::ok(1, 0),
        RawFrame::new(RawFrame::DATA, RawFrame::END_STREAM, 1, b"enough"),
        RawFrame::new(RawFrame::RST_STREAM, 0, 1, &0u32.to_be_bytes()),
    ])
    .await;
    let mut response = sending.await.expect("runs").expect("a response");
    let (bytes, _) = within(drain_body(&mut response.body)).await.expect("the response is whole");
    assert_eq!(bytes, b"enough");
}

#[tokio::test]
async fn an_upload_goes_on_while_the_head_is_awaited() {
    const SIZE: usize = 2 * 1024 * 1024;
    let (io, _server) = upstream(server::Builder::new(), |(request, mut respond)| async move {
        let (bytes, _) = read_all(&mut request.into_body()).await.expect("the upload is whole");
        let mut stream = respond.send_response(http::Response::new(()), false).expect("sent");
        stream.send_data(Bytes::from(bytes.len().to_string()), true).expect("sent");
    });
    let (connection, _driver) = connect(io, &client_options()).await;
    let body = Body::Full(Bytes::from(vec![7; SIZE]));
    let mut response = send(&connection, head("POST", "/"), body).await.expect("a response");
    let (bytes, _) = within(drain_body(&mut response.body)).await.expect("a body");
    assert_eq!(bytes, SIZE.to_string().as_bytes());
}

#[tokio::test]
async fn an_upload_goes_on_while_the_reader_of_the_response_is_blocked() {
    const SIZE: usize = 1024 * 1024;
    let received: Arc<AtomicUsize> = Arc::default();
    let counter = Arc::clone(&received);
    let (io, _server) = upstream(server::Builder::new(), move |(request, mut respond)| {
        let counter = Arc::clone(&counter);
        async move {
            let mut stream = respond.send_response(http::Response::new(()), false).expect("sent");
            stream.send_data(Bytes::from_static(b"early"), false).expect("sent");
            let (bytes, _) = read_all(&mut request.into_body()).await.expect("the upload is whole");
            counter.store(bytes.len(), Ordering::SeqCst);
            std::future::pending::<()>().await;
        }
    });
    let (connection, _driver) = connect(io, &client_options()).await;
    let body = Body::Full(Bytes::from(vec![7; SIZE]));
    let mut response = send(&connection, head("POST", "/"), body).await.expect("a response");
    within(std::future::poll_fn(|cx| {
        response.body.poll_progress(cx).expect("no failure");
        if received.load(Ordering::SeqCst) == SIZE {
            return std::task::Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        std::task::Poll::Pending
    }))
    .await;
}

#[tokio::test]
async fn dropping_the_future_cancels_upstream() {
    let (near, far) = pipe();
    let (connection, _driver) = connect(near, &client_options()).await;
    let mut raw = Raw::server(far).await;
    let sending = {
        let connection = connection.clone();
        tokio::spawn(async move { send(&connection, head("GET", "/"), Body::Empty).await.map(|_| ()) })
    };
    assert_eq!(raw.next_of(RawFrame::HEADERS).await.stream, 1);
    assert_eq!(connection.active(), 1);
    sending.abort();
    // Nothing else moves on the connection.
    let reset = raw.next_of(RawFrame::RST_STREAM).await;
    assert_eq!((reset.stream, reset.reason()), (1, Reason::CANCEL));
    assert_eq!(connection.active(), 0);
}

#[tokio::test]
async fn dropping_the_body_cancels_upstream() {
    let (near, far) = pipe();
    let (connection, _driver) = connect(near, &client_options()).await;
    let mut raw = Raw::server(far).await;
    let sending = {
        let connection = connection.clone();
        tokio::spawn(async move { send(&connection, head("GET", "/"), Body::Empty).await })
    };
    raw.next_of(RawFrame::HEADERS).await;
    raw.send(&[RawFrame::ok(1, 0), RawFrame::new(RawFrame::DATA, 0, 1, b"part")]).await;
    let response = sending.await.expect("runs").expect("a response");
    assert_eq!(connection.active(), 1);
    drop(response);
    let reset = raw.next_of(RawFrame::RST_STREAM).await;
    assert_eq!((reset.stream, reset.reason()), (1, Reason::CANCEL));
    assert_eq!(connection.active(), 0);
}

#[tokio::test]
async fn a_request_cancelled_before_it_was_written_still_opens_and_closes_its_stream() {
    let (near, far) = pipe();
    let (connection, driver) = H2Connection::handshake(near, &client_options()).await.expect("the handshake");
    let slot = connection.reserve().expect("a free stream");
    let interims = Interims::default();
    {
        let mut sending = Box::pin(slot.send(Cow::Owned(head("GET", "/")), Body::Empty, &interims));
        std::future::poll_fn(|cx| {
            assert!(std::future::Future::poll(sending.as_mut(), cx).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
    }
    tokio::spawn(driver);
    let mut raw = Raw::server(far).await;
    assert_eq!(raw.next_of(RawFrame::HEADERS).await.stream, 1);
    assert_eq!(raw.next_of(RawFrame::RST_STREAM).await.reason(), Reason::CANCEL);
}

#[tokio::test]
async fn slots_count_streams_and_tell_when_one_is_free() {
    let released: Arc<AtomicUsize> = Arc::default();
    let counter = Arc::clone(&released);
    let mut options = client_options();
    options.max_streams = 2;
    options.on_release = Some(Arc::new(move || {
        counter.fetch_add(1, Ordering::SeqCst);
    }));
    let (io, _server) = upstream(server::Builder::new(), |(_, mut respond)| async move {
        let mut stream = respond.send_response(http::Response::new(()), false).expect("sent");
        stream.send_data(Bytes::from_static(b"x"), true).expect("sent");
    });
    let (connection, _driver) = connect(io, &options).await;
    assert_eq!(connection.capacity(), 2);
    let mut response = send(&connection, head("GET", "/"), Body::Empty).await.expect("a response");
    let second = connection.reserve().expect("a free stream");
    assert!(connection.reserve().is_none());
    assert_eq!((connection.active(), connection.idle_since()), (2, None));
    drop(second);
    assert_eq!(released.load(Ordering::SeqCst), 1);
    within(drain_body(&mut response.body)).await.expect("a body");
    drop(response);
    assert_eq!((connection.active(), released.load(Ordering::SeqCst)), (0, 2));
    assert!(connection.idle_since().is_some());
}

#[tokio::test]
async fn the_servers_limit_on_streams_is_kept() {
    let mut builder = server::Builder::new();
    builder.max_concurrent_streams(3);
    let (io, _server) = upstream(builder, |(_, mut respond)| async move {
        respond.send_response(http::Response::new(()), true).expect("sent");
    });
    let (connection, _driver) = connect(io, &client_options()).await;
    assert_eq!(connection.capacity(), 100, "before the settings are known");
    send(&connection, head("GET", "/"), Body::Empty).await.expect("a response");
    assert_eq!(connection.capacity(), 3);
    let slots: Vec<_> = std::iter::from_fn(|| connection.reserve()).collect();
    assert_eq!(slots.len(), 3);
}

#[tokio::test]
async fn a_server_that_allows_more_streams_wakes_those_who_wait() {
    let released: Arc<AtomicUsize> = Arc::default();
    let counter = Arc::clone(&released);
    let mut options = client_options();
    options.max_streams = 1000;
    options.on_release = Some(Arc::new(move || {
        counter.fetch_add(1, Ordering::SeqCst);
    }));
    let (near, far) = pipe();
    let (connection, _driver) = connect(near, &options).await;
    let mut raw = Raw::server(far).await;
    within(until(|| connection.capacity() == 1000)).await;
    let most = |streams: u32| {
        let mut setting = vec![0, 3];
        setting.extend_from_slice(&streams.to_be_bytes());
        RawFrame::new(RawFrame::SETTINGS, 0, 0, &setting)
    };
    raw.send(&[most(0)]).await;
    within(until(|| connection.capacity() == 0)).await;
    assert!(!connection.is_closing() && connection.reserve().is_none());
    let before = released.load(Ordering::SeqCst);
    raw.send(&[most(2)]).await;
    within(until(|| released.load(Ordering::SeqCst) > before)).await;
    assert_eq!(connection.capacity(), 2);
}

#[tokio::test]
async fn a_stream_freed_by_a_cancel_can_be_used_at_once() {
    let mut builder = server::Builder::new();
    builder.max_concurrent_streams(1);
    let (sender, mut waiting) = tokio::sync::mpsc::unbounded_channel();
    let (io, _server) = upstream(builder, move |(request, mut respond)| {
        let sender = sender.clone();
        async move {
            if request.uri().path() == "/wait" {
                let _ = sender.send(());
                let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
                return;
            }
            respond.send_response(http::Response::new(()), true).expect("sent");
        }
    });
    let (connection, _driver) = connect(io, &client_options()).await;
    send(&connection, head("GET", "/"), Body::Empty).await.expect("a response");
    for _ in 0..50 {
        let sending = {
            let connection = connection.clone();
            tokio::spawn(async move { send(&connection, head("GET", "/wait"), Body::Empty).await.map(|_| ()) })
        };
        within(waiting.recv()).await;
        sending.abort();
        assert!(sending.await.is_err());
        send(&connection, head("GET", "/"), Body::Empty).await.expect("a response");
    }
}

#[tokio::test]
async fn small_frames_are_packed_while_the_writer_is_blocked() {
    const FRAMES: usize = 10_000;
    let (near, far) = pipe();
    let (connection, _driver) = connect(near, &client_options()).await;
    let mut raw = Raw::server(far).await;
    let sending = tokio::spawn(async move { send(&connection, head("GET", "/"), Body::Empty).await });
    raw.next_of(RawFrame::HEADERS).await;
    raw.send(&[RawFrame::ok(1, 0)]).await;
    let mut response = sending.await.expect("runs").expect("a response");
    let sent: Arc<Mutex<bool>> = Arc::default();
    let flag = Arc::clone(&sent);
    tokio::spawn(async move {
        for n in 0..FRAMES {
            let message = format!("{n:05}");
            raw.send(&[RawFrame::new(RawFrame::DATA, 0, 1, message.as_bytes())]).await;
        }
        raw.send(&[RawFrame::new(RawFrame::DATA, RawFrame::END_STREAM, 1, b"")]).await;
        *flag.lock() = true;
        std::future::pending::<()>().await;
    });
    within(std::future::poll_fn(|cx| {
        response.body.poll_progress(cx).expect("no failure");
        if *sent.lock() {
            return std::task::Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        std::task::Poll::Pending
    }))
    .await;
    let mut frames = 0;
    let mut bytes = Vec::new();
    while let Some(frame) = within(std::future::poll_fn(|cx| response.body.poll_frame(cx))).await {
        let Frame::Data(data) = frame.expect("whole") else { panic!("no trailers were sent") };
        frames += 1;
        bytes.extend_from_slice(&data);
    }
    let expected: String = (0..FRAMES).map(|n| format!("{n:05}")).collect();
    assert!(bytes == expected.as_bytes(), "the bytes differ");
    // What was still on its way at the end comes frame by frame.
    assert!(frames < FRAMES / 2, "{frames} frames were handed out");
}

#[tokio::test]
async fn requests_that_leave_before_the_settings_are_known_leave_nothing() {
    let (near, far) = pipe();
    let (connection, _driver) = connect(near, &client_options()).await;
    let mut asked = head("GET", "/");
    asked.upgrade = Some(crate::codec::Upgrade::WebSocket);
    let interims = Interims::default();
    let ask = || connection.reserve().expect("a stream").send(Cow::Borrowed(&asked), Body::Empty, &interims);
    let waits = || connection.waiting();
    for _ in 0..100 {
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(1), ask());
        assert!(waiting.await.is_err(), "a server that says nothing");
    }
    assert_eq!(waits(), (0, 1));
    let mut last = std::pin::pin!(ask());
    tokio::select! {
        biased;
        _ = &mut last => panic!("nothing is known yet"),
        () = tokio::task::yield_now() => {}
    }
    assert_eq!(waits(), (1, 1));
    let _raw = Raw::server(far).await;
    let error = within(last).await.expect_err("it does not take extended CONNECT");
    assert!(matches!(error.kind, SendErrorKind::NoExtendedConnect), "{error:?}");
    assert_eq!(waits(), (0, 1));
}
