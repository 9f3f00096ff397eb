//! What a server makes of requests.

use bytes::Bytes;
use http::StatusCode;

use super::support::*;
use crate::codec::body::Body;
use crate::codec::h3::code::Code;
use crate::codec::h3::frames::Event;
use crate::codec::message::Upgrade;

#[tokio::test]
async fn a_request_is_answered() {
    let down = downstream(handler(|request, _| {
        Box::pin(async move {
            assert!(matches!(request.body, Body::Empty), "{:?}", request.body);
            ok(Body::Full(Bytes::from(format!("{} {}", request.head.method, request.head.path))))
        })
    }))
    .await;
    let mut stream = down.ask(&get("/a?b")).await;
    assert_eq!(stream.status().await, Ok(200));
    assert_eq!(stream.rest().await.map(|(bytes, _)| bytes), Ok(b"GET /a?b".to_vec()));
}

#[tokio::test]
async fn an_upload_is_streamed_and_echoed() {
    let down = downstream(handler(|request, _| Box::pin(async move { ok(request.body) }))).await;
    let mut stream = down.open(&request("POST", "/", &[])).await;
    assert_eq!(stream.status().await, Ok(200));
    stream.out.write_all(&data(b"hello ")).await.expect("written");
    stream.out.write_all(&data(b"world")).await.expect("written");
    stream.out.write_all(&lines(&[("x-sum", "1")])).await.expect("written");
    stream.out.finish().expect("open");
    let (bytes, trailers) = stream.rest().await.expect("whole");
    assert_eq!(bytes, b"hello world");
    assert_eq!(trailers.expect("trailers").headers["x-sum"], "1");
}

#[tokio::test]
async fn both_sides_of_ours_understand_each_other() {
    let ends = ends().await;
    let drain = crate::base::drain::Drain::default();
    let echo = handler(|request, _| Box::pin(async move { ok(request.body) }));
    tokio::spawn(crate::codec::h3::serve(ends.server.clone(), echo, options(&drain)));
    let (connection, driver) = crate::codec::h3::H3Connection::handshake(ends.client.clone(), &client_options())
        .await
        .expect("the handshake succeeds");
    tokio::spawn(driver);
    let slot = connection.reserve().expect("a stream");
    let body = Body::Full(Bytes::from_static(b"hello"));
    let mut response = within(slot.send(std::borrow::Cow::Owned(head("POST", "/")), body, &Interims::default()))
        .await
        .expect("a response");
    assert_eq!(response.head.status, 200);
    assert_eq!(within(drain_body(&mut response.body)).await.expect("whole").0, b"hello");
}

#[tokio::test]
async fn what_a_listener_does_not_accept_is_answered() {
    let answers = handler(|_, _| Box::pin(async { ok(Body::Empty) }));
    let down = downstream_with(answers.clone(), |options| {
        options.max_head_bytes = 2000;
        options.max_headers = 5;
    })
    .await;
    let long = "x".repeat(2000);
    let longer = "x".repeat(20_000);
    let many = [("a", "b"); 6];
    for (name, bytes, status, code) in [
        ("a long head", request("GET", "/", &[("a", &long)]), 431, "head_too_large"),
        ("a head that is not kept", request("GET", "/", &[("a", &longer)]), 431, "head_too_large"),
        ("many fields", request("GET", "/", &many), 431, "too_many_fields"),
    ] {
        let mut stream = down.open(&bytes).await;
        assert_eq!(stream.status().await, Ok(status), "{name}");
        assert_eq!(stream.rest().await.map(|(bytes, _)| bytes), Ok(code.as_bytes().to_vec()), "{name}");
        // What else the caller would send is not needed.
        assert_eq!(stream.stopped().await, Some(Code::NO_ERROR), "{name}");
    }
    assert_eq!(answers.refused.lock().len(), 3);
}

#[tokio::test]
async fn a_head_has_its_time() {
    let answers = handler(|_, _| Box::pin(async { ok(Body::Empty) }));
    let down = downstream_with(answers, |options| options.header_timeout = SOON).await;
    let head = get("/");
    let mut stream = down.open(&head[..5]).await;
    assert_eq!(stream.status().await, Ok(408));
}

#[tokio::test]
async fn split_cookies_are_joined_and_host_stands_in() {
    let down = downstream(handler(|request, _| {
        Box::pin(async move {
            let authority = request.head.authority.expect("an authority");
            let cookie = request.head.headers["cookie"].to_str().expect("text");
            assert_eq!(request.head.version, http::Version::HTTP_3);
            ok(Body::Full(Bytes::from(format!("{authority} {cookie}"))))
        })
    }))
    .await;
    let fields = [
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/"),
        ("host", "b.test"),
        ("cookie", "a=1"),
        ("cookie", "b=2"),
    ];
    let mut stream = down.ask(&lines(&fields)).await;
    assert_eq!(stream.status().await, Ok(200));
    assert_eq!(stream.rest().await.expect("whole").0, b"b.test a=1; b=2");
}

#[tokio::test]
async fn an_extended_connect_becomes_an_upgrade() {
    let down = downstream(handler(|request, _| {
        Box::pin(async move {
            assert_eq!(request.head.method, http::Method::GET);
            assert_eq!(request.head.upgrade, Some(Upgrade::WebSocket));
            assert_eq!(request.head.path, "/chat");
            response(StatusCode::SWITCHING_PROTOCOLS, request.body.into())
        })
    }))
    .await;
    let head = [
        (":method", "CONNECT"),
        (":protocol", "WebSocket"),
        (":scheme", "https"),
        (":authority", "a.test"),
        (":path", "/chat"),
        ("sec-websocket-version", "13"),
    ];
    let mut stream = down.open(&lines(&head)).await;
    assert_eq!(stream.status().await, Ok(200));
    stream.out.write_all(&data(b"hello")).await.expect("written");
    assert_eq!(stream.next().await, Ok(Some(Event::Data("hello".into()))));
    stream.out.finish().expect("open");
    assert_eq!(stream.next().await, Ok(None));
}

#[tokio::test]
async fn nothing_but_data_goes_through_a_tunnel() {
    let down = downstream(handler(|request, _| {
        Box::pin(async move { response(StatusCode::SWITCHING_PROTOCOLS, request.body.into()) })
    }))
    .await;
    let head = [(":method", "CONNECT"), (":protocol", "x"), (":scheme", "https"), (":authority", "a"), (":path", "/")];
    let mut stream = down.open(&lines(&head)).await;
    assert_eq!(stream.status().await, Ok(200));
    stream.out.write_all(&lines(&[("a", "b")])).await.expect("written");
    assert_eq!(down.closed().await, Code::FRAME_UNEXPECTED);
    // Nor before it is one.
    let down = downstream(handler(|request, _| {
        Box::pin(async move { response(StatusCode::SWITCHING_PROTOCOLS, request.body.into()) })
    }))
    .await;
    let _stream = down.open(&[lines(&head), lines(&[("a", "b")])].concat()).await;
    assert_eq!(down.closed().await, Code::FRAME_UNEXPECTED);
}

#[tokio::test]
async fn many_requests_share_a_connection() {
    let down = downstream(handler(|request, _| {
        Box::pin(async move { ok(Body::Full(Bytes::copy_from_slice(request.head.path.as_str().as_bytes()))) })
    }))
    .await;
    let mut streams = Vec::new();
    for n in 0..100 {
        streams.push(down.ask(&get(&format!("/{n}"))).await);
    }
    for (n, stream) in streams.iter_mut().enumerate() {
        assert_eq!(stream.status().await, Ok(200));
        assert_eq!(stream.rest().await.expect("whole").0, format!("/{n}").as_bytes());
    }
}

#[tokio::test]
async fn requests_that_are_cancelled_at_once_end_the_connection() {
    let down = downstream(handler(|_, _| Box::pin(async { ok(Body::Empty) }))).await;
    for _ in 0..2000 {
        let Ok((mut out, _inbound)) = within(down.client.open_bi()).await else { break };
        if out.write_all(&[1]).await.is_err() {
            break;
        }
        let _ = out.reset(Code::REQUEST_CANCELLED.var());
    }
    assert_eq!(down.closed().await, Code::EXCESSIVE_LOAD);
}
