//! What a server answers to callers that break the rules: the codes that the RFCs name.

use bytes::Bytes;

use super::support::*;
use crate::codec::body::Body;
use crate::codec::h3::code::Code;
use crate::codec::h3::frames::{CANCEL_PUSH, HEADERS, MAX_PUSH_ID, PUSH_PROMISE, SETTINGS};
use crate::codec::h3::{control, frames::Side};

async fn echo() -> Downstream {
    downstream(handler(|request, _| Box::pin(async move { ok(request.body) }))).await
}

#[tokio::test]
async fn frames_that_break_the_rules_end_the_connection() {
    let head = get("/");
    let cut = |bytes: Vec<u8>| bytes[..bytes.len() - 1].to_vec();
    for (name, bytes, code) in [
        ("DATA first", data(b"x"), Code::FRAME_UNEXPECTED),
        ("SETTINGS", frame(SETTINGS, &[]), Code::FRAME_UNEXPECTED),
        ("PUSH_PROMISE", frame(PUSH_PROMISE, &[0]), Code::FRAME_UNEXPECTED),
        ("a frame of HTTP/2", frame(0x6, &[0; 8]), Code::FRAME_UNEXPECTED),
        ("a frame that is cut off", cut(head.clone()), Code::FRAME_ERROR),
        ("a body that is cut off", [head.clone(), cut(data(b"xyz"))].concat(), Code::FRAME_ERROR),
        ("a third HEADERS", [head.clone(), lines(&[]), lines(&[])].concat(), Code::FRAME_UNEXPECTED),
        ("an index of the dynamic table", frame(HEADERS, &[0, 0, 0x80]), Code::QPACK_DECOMPRESSION_FAILED),
        ("an empty section", frame(HEADERS, &[]), Code::QPACK_DECOMPRESSION_FAILED),
    ] {
        let down = echo().await;
        let _stream = down.ask(&bytes).await;
        assert_eq!(down.closed().await, code, "{name}");
        within(down.server).await.expect("the server ends");
    }
}

#[tokio::test]
async fn streams_that_break_the_rules_end_the_connection() {
    let settings = frame(SETTINGS, &[]);
    let control = |frames: &[Vec<u8>]| [&[0][..], &frames.concat()].concat();
    for (name, streams, code) in [
        ("no SETTINGS", vec![control(&[frame(MAX_PUSH_ID, &[0])])], Code::MISSING_SETTINGS),
        ("two control streams", vec![control(std::slice::from_ref(&settings)); 2], Code::STREAM_CREATION_ERROR),
        ("two encoder streams", vec![vec![2], vec![2]], Code::STREAM_CREATION_ERROR),
        ("two decoder streams", vec![vec![3], vec![3]], Code::STREAM_CREATION_ERROR),
        ("a push", vec![vec![1, 0]], Code::STREAM_CREATION_ERROR),
        ("a setting of HTTP/2", vec![control(&[frame(SETTINGS, &[0x4, 0])])], Code::SETTINGS_ERROR),
        ("SETTINGS twice", vec![control(&[settings.clone(), settings.clone()])], Code::FRAME_UNEXPECTED),
        ("a push cancelled", vec![control(&[settings.clone(), frame(CANCEL_PUSH, &[0])])], Code::ID_ERROR),
        ("HEADERS on the control stream", vec![control(&[settings.clone(), get("/")])], Code::FRAME_UNEXPECTED),
        ("an insertion", vec![vec![2, 0xc0, 1, b'x']], Code::QPACK_ENCODER_STREAM_ERROR),
        ("a capacity", vec![vec![2, 0x3f, 0x01]], Code::QPACK_ENCODER_STREAM_ERROR),
        ("an acknowledgement", vec![vec![3, 0x80]], Code::QPACK_DECODER_STREAM_ERROR),
        ("an increment", vec![vec![3, 0x01]], Code::QPACK_DECODER_STREAM_ERROR),
    ] {
        let down = echo().await;
        let mut kept = Vec::new();
        for bytes in streams {
            kept.push(uni(&down.client, &bytes).await);
        }
        assert_eq!(down.closed().await, code, "{name}");
    }
}

#[tokio::test]
async fn critical_streams_stay_open() {
    for kind in [0, 2, 3] {
        for finished in [true, false] {
            let down = echo().await;
            let mut bytes = vec![kind];
            if kind == 0 {
                bytes.extend_from_slice(&frame(SETTINGS, &[]));
            }
            let mut stream = uni(&down.client, &bytes).await;
            // The type has to arrive before the end of the stream does.
            let mut request = down.ask(&get("/")).await;
            assert_eq!(request.status().await, Ok(200));
            if finished {
                stream.finish().expect("open");
            } else {
                stream.reset(0_u32.into()).expect("open");
            }
            assert_eq!(down.closed().await, Code::CLOSED_CRITICAL_STREAM, "{kind}");
        }
    }
}

#[tokio::test]
async fn our_own_control_stream_may_not_be_stopped() {
    let down = echo().await;
    let mut control = within(down.client.accept_uni()).await.expect("a stream");
    control.stop(Code::NO_ERROR.var()).expect("open");
    assert_eq!(down.closed().await, Code::CLOSED_CRITICAL_STREAM);
}

#[tokio::test]
async fn a_server_opens_with_its_settings() {
    let down = echo().await;
    let mut stream = within(down.client.accept_uni()).await.expect("a stream");
    let chunk = within(stream.read_chunk(1000, true)).await.expect("read").expect("bytes");
    assert_eq!(chunk.bytes, control::opening(Side::Server, 64 * 1024));
}

#[tokio::test]
async fn unknown_streams_and_frames_are_ignored() {
    let down = echo().await;
    let unknown = uni(&down.client, &[0x21, 1, 2, 3]).await;
    let stopped = within(unknown.stopped()).await.expect("the connection lives");
    assert_eq!(stopped.map(Code::from), Some(Code::STREAM_CREATION_ERROR));
    // A stream may end before its type came.
    let mut empty = within(down.client.open_uni()).await.expect("a stream");
    empty.finish().expect("open");
    let grease = frame(0x21, b"grease");
    let mut stream = down.ask(&[&grease[..], &get("/"), &grease, &data(b"x"), &grease].concat()).await;
    assert_eq!(stream.status().await, Ok(200));
    assert_eq!(stream.rest().await.map(|(bytes, _)| bytes), Ok(b"x".to_vec()));
}

#[tokio::test]
async fn malformed_requests_cost_only_their_stream() {
    const METHOD: (&str, &str) = (":method", "GET");
    const SCHEME: (&str, &str) = (":scheme", "https");
    const AUTHORITY: (&str, &str) = (":authority", "a.test");
    const PATH: (&str, &str) = (":path", "/");
    let all = [METHOD, SCHEME, AUTHORITY, PATH];
    let with = |field: (&'static str, &'static str)| lines(&[&all[..], &[field]].concat());
    let down = echo().await;
    for (name, bytes) in [
        ("no method", lines(&[SCHEME, AUTHORITY, PATH])),
        ("no scheme", lines(&[METHOD, AUTHORITY, PATH])),
        ("no path", lines(&[METHOD, SCHEME, AUTHORITY])),
        ("an empty path", lines(&[METHOD, SCHEME, AUTHORITY, (":path", "")])),
        ("a method that is no token", lines(&[(":method", "G T"), SCHEME, AUTHORITY, PATH])),
        ("two methods", with(METHOD)),
        ("a status", lines(&[METHOD, SCHEME, AUTHORITY, PATH, (":status", "200")])),
        ("an unknown pseudo-header field", lines(&[METHOD, SCHEME, AUTHORITY, PATH, (":a", "b")])),
        ("a pseudo-header field behind a field", lines(&[METHOD, SCHEME, AUTHORITY, ("a", "b"), PATH])),
        ("a protocol without CONNECT", with((":protocol", "websocket"))),
        ("CONNECT with a path", lines(&[(":method", "CONNECT"), AUTHORITY, PATH])),
        ("CONNECT without an authority", lines(&[(":method", "CONNECT")])),
        ("an upper-case name", with(("X-a", "b"))),
        ("Connection", with(("connection", "close"))),
        ("Transfer-Encoding", with(("transfer-encoding", "chunked"))),
        ("TE: gzip", with(("te", "gzip"))),
        ("a blank in front of a value", with(("a", " b"))),
        ("a line break in a value", with(("a", "b\r\nc: d"))),
        ("another host than the authority", with(("host", "b.test"))),
        ("no authority", lines(&[(":method", "GET"), (":scheme", "https"), (":path", "/")])),
        ("two lengths", request("POST", "/", &[("content-length", "1"), ("content-length", "1")])),
        ("a target that is no path", request("GET", "*", &[])),
        ("a target without a path", request("GET", "?a", &[])),
        ("a fragment", request("GET", "/a#b", &[])),
        ("user information", lines(&[METHOD, SCHEME, (":authority", "u@a.test"), PATH])),
        ("an empty authority", lines(&[METHOD, SCHEME, (":authority", ""), PATH])),
        ("an empty host", lines(&[METHOD, SCHEME, PATH, ("host", "")])),
        ("two hosts", lines(&[METHOD, SCHEME, AUTHORITY, PATH, ("host", "a.test"), ("host", "a.test")])),
        ("an empty name", with(("", "b"))),
        ("a name with a blank", with(("a b", "c"))),
        ("a NUL in a value", with(("a", "b\0c"))),
        ("Keep-Alive", with(("keep-alive", "5"))),
        ("Proxy-Connection", with(("proxy-connection", "close"))),
        ("Upgrade", with(("upgrade", "websocket"))),
        ("TE: trailers, deflate", with(("te", "trailers, deflate"))),
        ("two paths", with(PATH)),
        ("a protocol without a scheme", lines(&[(":method", "CONNECT"), (":protocol", "websocket"), AUTHORITY, PATH])),
        ("a protocol without a path", lines(&[(":method", "CONNECT"), (":protocol", "websocket"), SCHEME, AUTHORITY])),
        ("CONNECT with a scheme", lines(&[(":method", "CONNECT"), SCHEME, AUTHORITY])),
        ("a Content-Length that is no number", with(("content-length", "+1"))),
    ] {
        let mut stream = down.ask(&bytes).await;
        assert_eq!(stream.next().await, Err(Code::MESSAGE_ERROR), "{name}");
    }
    let mut stream = down.ask(&get("/")).await;
    assert_eq!(stream.status().await, Ok(200));
}

#[tokio::test]
async fn bodies_agree_with_their_content_length() {
    let down = downstream(handler(|mut request, _| {
        Box::pin(async move {
            let _ = drain_body(&mut request.body).await;
            // A caller that is malformed gets a reset, not this.
            ok(Body::Empty)
        })
    }))
    .await;
    let head = request("POST", "/", &[("content-length", "3")]);
    for (name, body) in [
        ("short", data(b"ab")),
        ("long", data(b"abcd")),
        ("none", vec![]),
        ("two", [data(b"ab"), data(b"cd")].concat()),
    ] {
        let mut stream = down.ask(&[head.clone(), body].concat()).await;
        assert_eq!(stream.next().await, Err(Code::MESSAGE_ERROR), "{name}");
    }
    let mut stream = down.ask(&[head, data(b"ab"), data(b"c")].concat()).await;
    assert_eq!(stream.status().await, Ok(200));
}

#[tokio::test]
async fn trailers_are_checked() {
    let down = downstream(handler(|mut request, _| {
        Box::pin(async move {
            let trailers = drain_body(&mut request.body).await.map(|(_, trailers)| trailers);
            ok(Body::Full(Bytes::from(format!("{:?}", trailers.map(|trailers| trailers.is_some())))))
        })
    }))
    .await;
    let head = request("POST", "/", &[]);
    for bad in
        [lines(&[(":path", "/")]), lines(&[("connection", "close")]), lines(&[("A", "b")]), lines(&[("a", " b")])]
    {
        let mut stream = down.ask(&[head.clone(), data(b"x"), bad].concat()).await;
        assert_eq!(stream.next().await, Err(Code::MESSAGE_ERROR));
    }
    // What may not stand behind a body is left out.
    for (trailers, expected) in
        [(lines(&[("a", "b")]), "Ok(true)"), (lines(&[("host", "b")]), "Ok(false)"), (lines(&[]), "Ok(false)")]
    {
        let mut stream = down.ask(&[head.clone(), data(b"x"), trailers].concat()).await;
        assert_eq!(stream.status().await, Ok(200));
        assert_eq!(stream.rest().await.expect("whole").0, expected.as_bytes());
    }
}

#[tokio::test]
async fn a_request_that_ends_before_its_head_is_incomplete() {
    let down = echo().await;
    for bytes in [vec![], frame(0x21, b"grease")] {
        let mut stream = down.ask(&bytes).await;
        assert_eq!(stream.next().await, Err(Code::REQUEST_INCOMPLETE));
    }
}

#[tokio::test]
async fn what_nobody_reads_is_looked_at_all_the_same() {
    let cut = |bytes: Vec<u8>| bytes[..bytes.len() - 1].to_vec();
    let settings = frame(SETTINGS, &[]);
    for (name, rest, code) in [
        ("SETTINGS", settings.clone(), Code::FRAME_UNEXPECTED),
        ("SETTINGS behind a body", [data(b"x"), settings].concat(), Code::FRAME_UNEXPECTED),
        ("a body that is cut off", cut(data(b"xyz")), Code::FRAME_ERROR),
        ("a body that is cut off later", [data(b"x"), cut(data(b"xyz"))].concat(), Code::FRAME_ERROR),
        ("DATA behind trailers", [lines(&[("a", "b")]), data(b"x")].concat(), Code::FRAME_UNEXPECTED),
        ("trailers of the dynamic table", frame(HEADERS, &[0, 0, 0x80]), Code::QPACK_DECOMPRESSION_FAILED),
    ] {
        let down = downstream(handler(|_, _| Box::pin(async { ok(Body::Empty) }))).await;
        let _stream = down.ask(&[request("POST", "/", &[]), rest].concat()).await;
        assert_eq!(down.closed().await, code, "{name}");
    }
    let down = downstream(handler(|_, _| Box::pin(async { ok(Body::Empty) }))).await;
    for (name, bytes) in [
        ("short", [request("POST", "/", &[("content-length", "3")]), data(b"ab")].concat()),
        ("long", [request("POST", "/", &[("content-length", "3")]), data(b"ab"), data(b"cd")].concat()),
        ("trailers", [request("POST", "/", &[]), data(b"ab"), lines(&[(":path", "/")])].concat()),
    ] {
        let mut stream = down.ask(&bytes).await;
        assert_eq!(stream.next().await, Err(Code::MESSAGE_ERROR), "{name}");
    }
    // More than is looked at costs nothing.
    let mut stream = down.open(&[request("POST", "/", &[]), data(&vec![0; 100_000])].concat()).await;
    assert_eq!(stream.status().await, Ok(200));
    assert_eq!(stream.stopped().await, Some(Code::NO_ERROR));
}

#[tokio::test]
async fn too_many_malformed_requests_end_the_connection() {
    let down = echo().await;
    let bytes = [request("POST", "/", &[("content-length", "3")]), data(b"ab")].concat();
    for _ in 0..1024 {
        let mut stream = down.ask(&bytes).await;
        while matches!(stream.next().await, Ok(Some(_))) {}
    }
    // So many are borne.
    let mut stream = down.ask(&get("/")).await;
    assert_eq!(stream.status().await, Ok(200));
    let _stream = down.ask(&bytes).await;
    assert_eq!(down.closed().await, Code::EXCESSIVE_LOAD);
}
