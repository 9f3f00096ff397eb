//! What the client side makes of servers.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use quinn::TransportConfig;

use super::support::*;
use crate::codec::body::{Body, BodyError, Frame, PollBody};
use crate::codec::error::{ResetCode, SendError, SendErrorKind, Sent};
use crate::codec::h3::code::Code;
use crate::codec::h3::frames::{Event, HEADERS, PUSH_PROMISE, SETTINGS};
use crate::codec::h3::qpack::Pseudo;
use crate::codec::h3::{H3Connection, control};
use crate::codec::message::{RequestHead, Response, Upgrade};
use crate::codec::prefixed::PrefixedBody;

async fn send(up: &Upstream, head: RequestHead, body: Body) -> Result<Response<Body>, SendError> {
    let slot = up.connection.reserve().expect("a stream");
    within(slot.send(Cow::Owned(head), body, &Interims::default())).await
}

/// Sends a GET, to which the upstream answers with these bytes and the end of the stream.
async fn answered(up: &Upstream, bytes: &[u8]) -> Result<Response<Body>, SendError> {
    let answer = async {
        let mut stream = Stream::accept(&up.server).await;
        stream.out.write_all(bytes).await.expect("written");
        let _ = stream.out.finish();
        stream
    };
    let (response, _stream) = tokio::join!(send(up, head("GET", "/"), Body::Empty), answer);
    response
}

#[tokio::test]
async fn a_request_goes_out_as_it_is() {
    let up = upstream().await;
    let mut asked = head("POST", "/a?b");
    asked.headers.insert("x-a", HeaderValue::from_static("1"));
    asked.headers.insert("connection", HeaderValue::from_static("close"));
    let answer = async {
        let mut stream = Stream::accept(&up.server).await;
        let mut section = stream.head().await.expect("a head");
        for (pseudo, value) in
            [(Pseudo::Method, "POST"), (Pseudo::Scheme, "http"), (Pseudo::Authority, "up.test"), (Pseudo::Path, "/a?b")]
        {
            assert_eq!(section.take(pseudo), Some(value.into()));
        }
        assert!(!section.has_pseudo());
        assert_eq!((section.headers.len(), &section.headers["x-a"]), (1, &HeaderValue::from_static("1")));
        assert_eq!(stream.rest().await.expect("whole").0, b"hello");
        stream.out.write_all(&[status(200), data(b"world"), lines(&[("x-sum", "1")])].concat()).await.expect("written");
        stream.out.finish().expect("open");
        stream
    };
    let (response, _stream) = tokio::join!(send(&up, asked, Body::Full("hello".into())), answer);
    let mut response = response.expect("a response");
    assert_eq!(response.head.status, StatusCode::OK);
    let (bytes, trailers) = within(drain_body(&mut response.body)).await.expect("whole");
    assert_eq!((&bytes[..], &trailers.expect("trailers")["x-sum"]), (&b"world"[..], &HeaderValue::from_static("1")));
    drop(response);
    assert_eq!(up.connection.active(), 0);
}

#[tokio::test]
async fn trailers_and_interim_responses_pass() {
    let up = upstream().await;
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("1"));
    let body = PrefixedBody::of([Bytes::from("up")], Some(trailers));
    let interims = Interims::default();
    let slot = up.connection.reserve().expect("a stream");
    let answer = async {
        let mut stream = Stream::accept(&up.server).await;
        stream.head().await.expect("a head");
        let (bytes, trailers) = stream.rest().await.expect("whole");
        assert_eq!(
            (&bytes[..], &trailers.expect("trailers").headers["x-sum"]),
            (&b"up"[..], &HeaderValue::from_static("1"))
        );
        stream.out.write_all(&[status(100), status(103), status(204)].concat()).await.expect("written");
        stream.out.finish().expect("open");
        stream
    };
    let (response, _stream) = tokio::join!(within(slot.send(Cow::Owned(head("POST", "/")), body, &interims)), answer);
    let response = response.expect("a response");
    assert!(response.head.status == 204 && response.body.is_end());
    let seen: Vec<_> = interims.0.lock().iter().map(|(status, _)| status.as_u16()).collect();
    assert_eq!(seen, [100, 103]);
}

#[tokio::test]
async fn an_answer_may_come_before_the_end_of_the_upload() {
    let up = upstream().await;
    let (_down, mut caller, body) = fed_body().await;
    let slot = up.connection.reserve().expect("a stream");
    let sending =
        tokio::spawn(async move { within(slot.send(Cow::Owned(head("POST", "/")), body, &Interims::default())).await });
    let mut stream = Stream::accept(&up.server).await;
    stream.head().await.expect("a head");
    stream.out.write_all(&status(200)).await.expect("written");
    let mut response = sending.await.expect("sent").expect("a response");
    let reading = tokio::spawn(async move { drain_body(&mut response.body).await });
    caller.out.write_all(&data(b"late")).await.expect("written");
    assert_eq!(stream.next().await, Ok(Some(Event::Data("late".into()))));
    stream.out.write_all(&data(b"down")).await.expect("written");
    stream.out.finish().expect("open");
    assert_eq!(within(reading).await.expect("read").expect("whole").0, b"down");
    // The upload was given up with the response.
    assert_eq!(stream.next().await, Err(Code::REQUEST_CANCELLED));
}

/// The body of a request that a test sends piece by piece, and what has to be kept for it.
async fn fed_body() -> (Downstream, Stream, Body) {
    let (bodies, mut body) = tokio::sync::mpsc::unbounded_channel();
    let down = downstream(handler(move |request, _| {
        bodies.send(request.body).expect("wanted");
        Box::pin(std::future::pending())
    }))
    .await;
    let stream = down.open(&request("POST", "/", &[])).await;
    let body = within(body.recv()).await.expect("a body");
    (down, stream, body)
}

#[tokio::test]
async fn a_request_whose_body_fails_is_reset() {
    let up = upstream().await;
    let (_down, mut caller, body) = fed_body().await;
    let slot = up.connection.reserve().expect("a stream");
    let sending =
        tokio::spawn(async move { within(slot.send(Cow::Owned(head("POST", "/")), body, &Interims::default())).await });
    let mut stream = Stream::accept(&up.server).await;
    stream.head().await.expect("a head");
    caller.out.reset(Code::REQUEST_CANCELLED.var()).expect("open");
    let error = sending.await.expect("sent").expect_err("an error");
    assert!(matches!(error.kind, SendErrorKind::RequestBody(BodyError::Reset(_))), "{error:?}");
    assert_eq!(stream.next().await, Err(Code::REQUEST_CANCELLED));
    assert_eq!(stream.stopped().await, Some(Code::REQUEST_CANCELLED));
}

#[tokio::test]
async fn an_upload_that_the_server_does_not_need_is_no_error() {
    let up = upstream().await;
    let (_down, _caller, body) = fed_body().await;
    let slot = up.connection.reserve().expect("a stream");
    let sending =
        tokio::spawn(async move { within(slot.send(Cow::Owned(head("POST", "/")), body, &Interims::default())).await });
    let mut stream = Stream::accept(&up.server).await;
    stream.head().await.expect("a head");
    stream.inbound.stop(Code::NO_ERROR.var()).expect("open");
    stream.out.write_all(&[status(413), data(b"too much")].concat()).await.expect("written");
    stream.out.finish().expect("open");
    let mut response = sending.await.expect("sent").expect("a response");
    assert_eq!(response.head.status, 413);
    assert_eq!(within(drain_body(&mut response.body)).await.expect("whole").0, b"too much");
}

#[tokio::test]
async fn a_caller_that_leaves_resets_both_directions() {
    let up = upstream().await;
    let (_down, _caller, body) = fed_body().await;
    let slot = up.connection.reserve().expect("a stream");
    let sending =
        tokio::spawn(async move { slot.send(Cow::Owned(head("POST", "/")), body, &Interims::default()).await.is_ok() });
    let mut stream = Stream::accept(&up.server).await;
    stream.head().await.expect("a head");
    sending.abort();
    assert_eq!(stream.next().await, Err(Code::REQUEST_CANCELLED));
    assert_eq!(stream.stopped().await, Some(Code::REQUEST_CANCELLED));
    until(|| up.connection.active() == 0).await;
}

#[tokio::test]
async fn a_response_body_that_is_dropped_is_stopped() {
    let up = upstream().await;
    let response = answered_openly(&up, &[status(200), data(b"x")].concat()).await;
    let (response, mut stream) = response;
    drop(response.expect("a response"));
    assert_eq!(stream.stopped().await, Some(Code::REQUEST_CANCELLED));
}

/// As [`answered`], with the stream left open.
async fn answered_openly(up: &Upstream, bytes: &[u8]) -> (Result<Response<Body>, SendError>, Stream) {
    let answer = async {
        let mut stream = Stream::accept(&up.server).await;
        stream.out.write_all(bytes).await.expect("written");
        stream
    };
    tokio::join!(send(up, head("GET", "/"), Body::Empty), answer)
}

#[tokio::test]
async fn what_is_reset_says_whether_it_was_looked_at() {
    let up = upstream().await;
    for (code, sent) in [(Code::REQUEST_REJECTED, Sent::Never), (Code::INTERNAL_ERROR, Sent::Maybe)] {
        let answer = async {
            let mut stream = Stream::accept(&up.server).await;
            stream.head().await.expect("a head");
            stream.out.reset(code.var()).expect("open");
            stream
        };
        let (error, _stream) = tokio::join!(send(&up, head("GET", "/"), Body::Empty), answer);
        let error = error.expect_err("an error");
        assert_eq!(error.sent, sent);
        match error.kind {
            SendErrorKind::Refused => assert_eq!(code, Code::REQUEST_REJECTED),
            SendErrorKind::Reset(reset) => assert_eq!(reset, ResetCode::Http3(code)),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_goaway_says_what_was_not_looked_at() {
    let mut up = upstream().await;
    let slots = [(); 2].map(|()| up.connection.reserve().expect("a stream"));
    let [first, second] = slots.map(|slot| {
        tokio::spawn(async move {
            within(slot.send(Cow::Owned(head("POST", "/")), Body::Empty, &Interims::default())).await
        })
    });
    let mut answered = Stream::accept(&up.server).await;
    let _unanswered = Stream::accept(&up.server).await;
    up.control.write_all(&control::goaway(4)).await.expect("written");
    let error = second.await.expect("sent").expect_err("an error");
    assert!(error.sent == Sent::Never && matches!(error.kind, SendErrorKind::Refused), "{error:?}");
    assert!(up.connection.is_closing() && up.connection.reserve().is_none() && up.connection.capacity() == 0);
    answered.out.write_all(&status(200)).await.expect("written");
    answered.out.finish().expect("open");
    assert_eq!(first.await.expect("sent").expect("a response").head.status, 200);
    // With the last stream the connection ends.
    assert_eq!(closed(&up.server).await, Code::NO_ERROR);
    within(up.driver).await.expect("the driver ends");
}

#[tokio::test]
async fn the_end_of_a_connection_leaves_the_question_open() {
    let up = upstream().await;
    let answer = async {
        let mut stream = Stream::accept(&up.server).await;
        stream.head().await.expect("a head");
        up.server.close(Code::INTERNAL_ERROR.var(), b"");
    };
    let (error, ()) = tokio::join!(send(&up, head("GET", "/"), Body::Empty), answer);
    let error = error.expect_err("an error");
    assert!(error.sent == Sent::Maybe && matches!(error.kind, SendErrorKind::Closed), "{error:?}");
    until(|| up.connection.is_closing()).await;
}

#[tokio::test]
async fn a_connection_that_is_closed_as_rejected_leaves_it_open_too() {
    let up = upstream().await;
    let answer = async {
        let mut stream = Stream::accept(&up.server).await;
        stream.head().await.expect("a head");
        up.server.close(Code::REQUEST_REJECTED.var(), b"");
    };
    let (error, ()) = tokio::join!(send(&up, head("GET", "/"), Body::Empty), answer);
    let error = error.expect_err("an error");
    assert!(error.sent == Sent::Maybe && matches!(error.kind, SendErrorKind::Closed), "{error:?}");
}

#[tokio::test]
async fn a_stream_that_becomes_free_replaces_one_that_was_not_used() {
    let mut transport = TransportConfig::default();
    transport.max_concurrent_bidi_streams(1_u32.into());
    let up = upstream_with(transport, client_options()).await;
    let unused = up.connection.reserve().expect("a stream");
    assert!(up.connection.reserve().is_none());
    drop(unused);
    up.server.set_max_concurrent_bi_streams(2_u32.into());
    until(|| up.connection.capacity() > 1).await;
    let slot = up.connection.reserve().expect("a stream");
    let answer = async {
        // The first is not there for a request, and must not look like one that was cut off.
        let mut first = Stream::accept(&up.server).await;
        assert_eq!(first.next().await, Err(Code::REQUEST_CANCELLED));
        let mut stream = Stream::accept(&up.server).await;
        stream.head().await.expect("a head");
        stream.out.write_all(&status(204)).await.expect("written");
        stream.out.finish().expect("open");
        stream
    };
    let interims = Interims::default();
    let (response, _stream) =
        tokio::join!(within(slot.send(Cow::Owned(head("GET", "/")), Body::Empty, &interims)), answer);
    assert_eq!(response.expect("a response").head.status, 204);
}

#[tokio::test]
async fn malformed_responses_cost_only_their_stream() {
    let up = upstream().await;
    for (name, bytes) in [
        ("no status", lines(&[("a", "b")])),
        ("a status that is no number", lines(&[(":status", "abc")])),
        ("a path", lines(&[(":status", "200"), (":path", "/")])),
        ("switching protocols", status(101)),
        ("an upper-case name", lines(&[(":status", "200"), ("A", "b")])),
        ("Connection", lines(&[(":status", "200"), ("connection", "close")])),
        ("two lengths", lines(&[(":status", "200"), ("content-length", "1"), ("content-length", "1")])),
        ("nothing", vec![]),
        ("an interim response only", status(100)),
        ("too many interim responses", status(100).repeat(33)),
    ] {
        let error = answered(&up, &bytes).await.expect_err(name);
        assert!(error.sent == Sent::Maybe && matches!(error.kind, SendErrorKind::BadResponse(_)), "{name}: {error:?}");
    }
    assert_eq!(answered(&up, &status(200)).await.expect("a response").head.status, 200);
}

#[tokio::test]
async fn response_bodies_agree_with_their_content_length() {
    let up = upstream().await;
    let head_of_3 = lines(&[(":status", "200"), ("content-length", "3")]);
    for body in [data(b"ab"), data(b"abcd"), vec![]] {
        let mut response = answered(&up, &[head_of_3.clone(), body].concat()).await.expect("a response");
        let error = within(drain_body(&mut response.body)).await.expect_err("an error");
        assert!(matches!(error, BodyError::Malformed(_)), "{error:?}");
    }
    let mut response = answered(&up, &[head_of_3, data(b"abc")].concat()).await.expect("a response");
    assert_eq!(response.body.exact_len(), Some(3));
    assert_eq!(within(drain_body(&mut response.body)).await.expect("whole").0, b"abc");
}

/// Whether the first piece of a body is awaited, and the body as it is then.
async fn first_piece(body: &mut Body, most: u64) -> bool {
    let Body::H3Client(body) = body else { panic!("no body of HTTP/3: {body:?}") };
    std::future::poll_fn(|cx| std::task::Poll::Ready(body.poll_piece(cx, most).is_ready())).await
}

#[tokio::test]
async fn what_is_here_of_a_short_body_is_awaited_to_its_end() {
    let up = upstream().await;
    let declared = lines(&[(":status", "200"), ("content-length", "6")]);
    let cut = |bytes: &[u8], at: usize| (bytes[..at].to_vec(), bytes[at..].to_vec());
    let whole = [&declared[..], &data(b"abcdef")].concat();
    // Within its frame, and before the end of the stream.
    for (first, rest) in [cut(&whole, whole.len() - 2), cut(&whole, whole.len())] {
        let (response, mut stream) = answered_openly(&up, &first).await;
        let mut body = response.expect("a response").body;
        assert!(!first_piece(&mut body, 6).await, "it is here in part");
        assert!(first_piece(&mut body, 5).await, "it is too large");
        stream.out.write_all(&rest).await.expect("written");
        stream.out.finish().expect("open");
        let Body::H3Client(begun) = &mut body else { panic!("{body:?}") };
        within(std::future::poll_fn(|cx| begun.poll_piece(cx, 6))).await;
        assert_eq!(body.exact_len(), Some(6));
        assert_eq!(within(drain_body(&mut body)).await.expect("whole").0, b"abcdef");
    }
}

#[tokio::test]
async fn a_body_is_not_awaited_before_it_begins_nor_behind_a_piece() {
    let up = upstream().await;
    let declared = lines(&[(":status", "200"), ("content-length", "6")]);
    for bytes in [declared.clone(), [status(200), data(b"event")].concat()] {
        let (response, _stream) = answered_openly(&up, &bytes).await;
        assert!(first_piece(&mut response.expect("a response").body, 100).await);
    }
}

#[tokio::test]
async fn a_short_body_that_breaks_off_while_it_is_awaited_is_no_success() {
    let up = upstream().await;
    let bytes = [status(200), data(b"abcdef")].concat();
    let (response, mut stream) = answered_openly(&up, &bytes[..bytes.len() - 2]).await;
    let mut body = response.expect("a response").body;
    assert!(!first_piece(&mut body, 100).await);
    stream.out.reset(Code::INTERNAL_ERROR.var()).expect("open");
    let Body::H3Client(begun) = &mut body else { panic!("{body:?}") };
    within(std::future::poll_fn(|cx| begun.poll_piece(cx, 100))).await;
    let error = within(drain_body(&mut body)).await.expect_err("an error");
    assert_eq!(error, BodyError::Reset(ResetCode::Http3(Code::INTERNAL_ERROR)));
}

#[tokio::test]
async fn trailers_behind_a_short_body_come_with_it() {
    let up = upstream().await;
    let declared = lines(&[(":status", "200"), ("content-length", "2")]);
    let (response, mut stream) = answered_openly(&up, &[declared, data(b"ab")].concat()).await;
    let mut body = response.expect("a response").body;
    assert!(!first_piece(&mut body, 100).await);
    stream.out.write_all(&lines(&[("x-sum", "1")])).await.expect("written");
    stream.out.finish().expect("open");
    let Body::H3Client(begun) = &mut body else { panic!("{body:?}") };
    within(std::future::poll_fn(|cx| begun.poll_piece(cx, 100))).await;
    let (bytes, trailers) = within(drain_body(&mut body)).await.expect("whole");
    assert_eq!((&bytes[..], &trailers.expect("trailers")["x-sum"]), (&b"ab"[..], &HeaderValue::from_static("1")));
}

#[tokio::test]
async fn a_body_that_breaks_off_is_no_success() {
    let up = upstream().await;
    let (response, mut stream) = answered_openly(&up, &[status(200), data(b"x")].concat()).await;
    let mut response = response.expect("a response");
    let first = within(std::future::poll_fn(|cx| response.body.poll_frame(cx))).await;
    assert!(matches!(first, Some(Ok(Frame::Data(_)))));
    stream.out.reset(Code::INTERNAL_ERROR.var()).expect("open");
    let error = within(drain_body(&mut response.body)).await.expect_err("an error");
    assert_eq!(error, BodyError::Reset(ResetCode::Http3(Code::INTERNAL_ERROR)));
}

#[tokio::test]
async fn servers_that_break_the_rules_are_left() {
    for (name, bytes, code) in [
        ("DATA first", data(b"x"), Code::FRAME_UNEXPECTED),
        ("a promise", frame(PUSH_PROMISE, &[0, 0, 0]), Code::ID_ERROR),
        ("SETTINGS", frame(SETTINGS, &[]), Code::FRAME_UNEXPECTED),
        ("a frame that is cut off", vec![1, 5, 0], Code::FRAME_ERROR),
        ("an index of the dynamic table", frame(HEADERS, &[0, 0, 0x80]), Code::QPACK_DECOMPRESSION_FAILED),
    ] {
        let up = upstream().await;
        let error = answered(&up, &bytes).await.expect_err(name);
        assert!(matches!(error.kind, SendErrorKind::BadResponse(_)), "{name}: {error:?}");
        assert_eq!(closed(&up.server).await, code, "{name}");
    }
    for (name, bytes, code) in [
        ("a push", vec![1, 0], Code::ID_ERROR),
        ("a second control stream", vec![0], Code::STREAM_CREATION_ERROR),
        ("an insertion", vec![2, 0xc0], Code::QPACK_ENCODER_STREAM_ERROR),
    ] {
        let up = upstream().await;
        let _stream = uni(&up.server, &bytes).await;
        assert_eq!(closed(&up.server).await, code, "{name}");
    }
    for (name, bytes, code) in [
        ("a GOAWAY that names no request", control::goaway(3).to_vec(), Code::ID_ERROR),
        ("MAX_PUSH_ID", frame(0xd, &[0]), Code::FRAME_UNEXPECTED),
        ("SETTINGS twice", frame(SETTINGS, &[]), Code::FRAME_UNEXPECTED),
    ] {
        let mut up = upstream().await;
        up.control.write_all(&bytes).await.expect("written");
        assert_eq!(closed(&up.server).await, code, "{name}");
    }
    let up = upstream().await;
    let _stream = Stream::open(&up.server, b"x").await;
    assert_eq!(closed(&up.server).await, Code::STREAM_CREATION_ERROR);
}

#[tokio::test]
async fn streams_are_counted_as_the_server_allows_them() {
    let mut transport = TransportConfig::default();
    transport.max_concurrent_bidi_streams(2_u32.into());
    let released = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&released);
    let mut options = client_options();
    options.on_release = Some(Arc::new(move || {
        counts.fetch_add(1, Ordering::SeqCst);
    }));
    let up = upstream_with(transport, options).await;
    let (first, second) = (up.connection.reserve().expect("a stream"), up.connection.reserve().expect("a stream"));
    assert!(up.connection.reserve().is_none());
    assert_eq!((up.connection.active(), up.connection.capacity()), (2, 2));
    // One that was not used is the next, and the server does not hear of it.
    drop(second);
    let second = up.connection.reserve().expect("a stream");
    assert!(up.connection.reserve().is_none());
    let before = released.load(Ordering::SeqCst);
    let answer = async {
        let mut stream = Stream::accept(&up.server).await;
        stream.head().await.expect("a head");
        stream.rest().await.expect("whole");
        stream.out.write_all(&status(204)).await.expect("written");
        stream.out.finish().expect("open");
    };
    let interims = Interims::default();
    let (response, ()) = tokio::join!(within(first.send(Cow::Owned(head("GET", "/")), Body::Empty, &interims)), answer);
    drop(response.expect("a response"));
    // The server allows another when the first is over.
    until(|| released.load(Ordering::SeqCst) >= before + 2).await;
    let third = up.connection.reserve().expect("a stream");
    drop((second, third));
    assert_eq!(up.connection.active(), 0);
}

#[tokio::test]
async fn a_connection_ends_with_its_last_handle_and_stream() {
    let up = upstream().await;
    let slot = up.connection.reserve().expect("a stream");
    let Upstream { connection, driver, server, control: _control, .. } = up;
    drop(connection);
    let answer = async {
        let mut stream = Stream::accept(&server).await;
        stream.out.write_all(&status(200)).await.expect("written");
        stream.out.finish().expect("open");
        stream
    };
    let interims = Interims::default();
    let (response, _stream) =
        tokio::join!(within(slot.send(Cow::Owned(head("GET", "/")), Body::Empty, &interims)), answer);
    drop(response.expect("a response"));
    assert_eq!(closed(&server).await, Code::NO_ERROR);
    within(driver).await.expect("the driver ends");
}

fn upgrade() -> RequestHead {
    let mut head = head("GET", "/chat");
    head.upgrade = Some(Upgrade::WebSocket);
    head
}

#[tokio::test]
async fn an_upgrade_becomes_an_extended_connect() {
    let up = upstream().await;
    assert_eq!(up.connection.takes_extended_connect(), Some(true));
    let (_down, mut caller, body) = fed_body().await;
    caller.out.write_all(&data(b"up")).await.expect("written");
    let answer = async {
        let mut stream = Stream::accept(&up.server).await;
        let mut section = stream.head().await.expect("a head");
        for (pseudo, value) in [
            (Pseudo::Method, "CONNECT"),
            (Pseudo::Protocol, "websocket"),
            (Pseudo::Scheme, "http"),
            (Pseudo::Authority, "up.test"),
            (Pseudo::Path, "/chat"),
        ] {
            assert_eq!(section.take(pseudo), Some(value.into()));
        }
        // Before an answer nothing goes up.
        assert!(tokio::time::timeout(SOON, stream.next()).await.is_err());
        stream.out.write_all(&status(200)).await.expect("written");
        stream
    };
    let (response, mut stream) = tokio::join!(send(&up, upgrade(), body), answer);
    let mut response = response.expect("a response");
    assert_eq!(response.head.status, StatusCode::SWITCHING_PROTOCOLS);
    let reading = tokio::spawn(async move { drain_body(&mut response.body).await });
    assert_eq!(stream.next().await, Ok(Some(Event::Data("up".into()))));
    caller.out.finish().expect("open");
    assert_eq!(stream.next().await, Ok(None));
    stream.out.write_all(&data(b"down")).await.expect("written");
    stream.out.finish().expect("open");
    assert_eq!(within(reading).await.expect("read").expect("whole").0, b"down");
}

#[tokio::test]
async fn an_upgrade_that_is_refused_is_an_ordinary_answer() {
    let up = upstream().await;
    let (_down, mut caller, body) = fed_body().await;
    caller.out.write_all(&data(b"up")).await.expect("written");
    let answer = async {
        let mut stream = Stream::accept(&up.server).await;
        stream.head().await.expect("a head");
        stream.out.write_all(&[status(403), data(b"no")].concat()).await.expect("written");
        stream.out.finish().expect("open");
        // What was meant for the tunnel does not arrive.
        assert_eq!(stream.next().await, Ok(None));
        stream
    };
    let (response, _stream) = tokio::join!(send(&up, upgrade(), body), answer);
    let mut response = response.expect("a response");
    assert_eq!(response.head.status, 403);
    assert_eq!(within(drain_body(&mut response.body)).await.expect("whole").0, b"no");
}

#[tokio::test]
async fn an_upgrade_waits_for_settings_and_is_not_asked_of_servers_without() {
    let ends = ends().await;
    let (connection, driver) =
        H3Connection::handshake(ends.client.clone(), &client_options()).await.expect("the handshake succeeds");
    tokio::spawn(driver);
    assert_eq!(connection.takes_extended_connect(), None);
    let slot = connection.reserve().expect("a stream");
    let sending =
        tokio::spawn(async move { within(slot.send(Cow::Owned(upgrade()), Body::Empty, &Interims::default())).await });
    assert!(tokio::time::timeout(SOON, ends.server.accept_bi()).await.is_err());
    let _control = uni(&ends.server, &[&[0][..], &frame(SETTINGS, &[])].concat()).await;
    let error = sending.await.expect("sent").expect_err("an error");
    assert!(error.sent == Sent::Never && matches!(error.kind, SendErrorKind::NoExtendedConnect), "{error:?}");
}

#[tokio::test]
async fn a_large_exchange_passes_whole_in_both_directions() {
    let ends = ends().await;
    let drain = crate::base::drain::Drain::default();
    let echo = handler(|request, _| Box::pin(async move { ok(request.body) }));
    tokio::spawn(crate::codec::h3::serve(ends.server.clone(), echo, options(&drain)));
    let (connection, driver) =
        H3Connection::handshake(ends.client.clone(), &client_options()).await.expect("the handshake succeeds");
    tokio::spawn(driver);
    let slot = connection.reserve().expect("a stream");
    let chunk = Bytes::from(vec![7; 100_000]);
    let body = PrefixedBody::of(std::iter::repeat_n(chunk, 100), None);
    let mut response =
        within(slot.send(Cow::Owned(head("POST", "/")), body, &Interims::default())).await.expect("a response");
    let (bytes, _) = within(drain_body(&mut response.body)).await.expect("whole");
    assert!(bytes.len() == 10_000_000 && bytes.iter().all(|byte| *byte == 7));
}

#[tokio::test]
async fn a_head_that_the_server_does_not_take_is_not_sent() {
    let up = upstream_of(ends().await, client_options(), 300).await;
    let mut large = head("GET", "/");
    large.headers.insert("x-a", HeaderValue::from_str(&"x".repeat(200)).expect("a value"));
    let error = send(&up, large, Body::Empty).await.expect_err("an error");
    assert!(error.sent == Sent::Never && matches!(error.kind, SendErrorKind::HeadTooLarge), "{error:?}");
    let mut stream = Stream::accept(&up.server).await;
    assert_eq!(stream.next().await, Err(Code::REQUEST_CANCELLED));
    // The connection is good for others.
    assert_eq!(answered(&up, &status(200)).await.expect("a response").head.status, 200);
}

#[tokio::test]
async fn trailers_that_the_server_does_not_take_end_the_request() {
    let up = upstream_of(ends().await, client_options(), 300).await;
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_str(&"x".repeat(300)).expect("a value"));
    let body = PrefixedBody::of([Bytes::from("up")], Some(trailers));
    let (error, mut stream) = tokio::join!(send(&up, head("POST", "/"), body), Stream::accept(&up.server));
    let error = error.expect_err("an error");
    assert!(matches!(error.kind, SendErrorKind::RequestBody(BodyError::Malformed(_))), "{error:?}");
    let end = async {
        while stream.next().await?.is_some() {}
        Ok::<(), Code>(())
    };
    assert_eq!(end.await, Err(Code::REQUEST_CANCELLED));
}
