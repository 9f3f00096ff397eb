//! Both sides together: a handler that forwards.

use std::borrow::Cow;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::{Reason, RecvStream, client, server};
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::net::{TcpListener, TcpStream};

use super::support::*;
use crate::base::drain::Drain;
use crate::codec::body::Body;
use crate::codec::h2::{H2Connection, serve};
use crate::codec::replay::Replay;
use crate::net::io::Io;

/// Sends everything to one upstream connection; what goes to `/replay` as if it could be sent again.
fn forward(connection: &H2Connection) -> Arc<TestHandler> {
    let connection = connection.clone();
    handler(move |request, interim| {
        let slot = connection.reserve();
        Box::pin(async move {
            let Some(slot) = slot else { return response(StatusCode::SERVICE_UNAVAILABLE, Body::Empty.into()) };
            let body = if request.head.path == "/replay" {
                Replay::new(request.body, 64 * 1024).attempt()
            } else {
                request.body
            };
            match slot.send(Cow::Owned(request.head), body, interim).await {
                Ok(answer) => crate::codec::message::Response { head: answer.head, body: answer.body.into() },
                Err(_) => response(StatusCode::BAD_GATEWAY, Body::Empty.into()),
            }
        })
    })
}

/// A downstream connection that is forwarded to `answer`.
async fn proxied<F, Fut>(answer: F) -> (Downstream, H2Connection)
where
    F: Fn(Incoming) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    // A peer without the limits that are under test here.
    let mut builder = server::Builder::new();
    builder
        .initial_window_size(65_535)
        .initial_connection_window_size(8 * 1024 * 1024)
        .data_frame_budget(usize::MAX)
        .max_local_error_reset_streams(None)
        .max_pending_accept_reset_streams(usize::MAX);
    let (io, _server) = upstream(builder, answer);
    let mut options = client_options();
    options.max_streams = 300;
    let (connection, _driver) = connect(io, &options).await;
    (downstream(forward(&connection)).await, connection)
}

async fn next_chunk(stream: &mut RecvStream) -> Bytes {
    let chunk = within(stream.data()).await.expect("data").expect("no failure");
    stream.flow_control().release_capacity(chunk.len()).expect("released");
    chunk
}

#[tokio::test]
async fn messages_alternate_in_both_directions() {
    let (mut down, _connection) = proxied(|(request, mut respond)| async move {
        let mut incoming = request.into_body();
        let mut outgoing = respond.send_response(http::Response::new(()), false).expect("sent");
        while let Some(chunk) = incoming.data().await {
            let chunk = chunk.expect("no failure");
            incoming.flow_control().release_capacity(chunk.len()).expect("released");
            outgoing.send_data(chunk, false).expect("sent");
        }
        let trailers = incoming.trailers().await.expect("no failure").expect("trailers");
        outgoing.send_trailers(trailers).expect("sent");
    })
    .await;
    let (response, mut upload) = down.client.send_request(post("/chat"), false).expect("sent");
    let mut body = within(response).await.expect("the head comes before the upload ends").into_body();
    for n in 0..100u32 {
        let message = Bytes::from(format!("message {n}"));
        upload.send_data(message.clone(), false).expect("sent");
        assert_eq!(next_chunk(&mut body).await, message);
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("100"));
    upload.send_trailers(trailers).expect("sent");
    let (rest, trailers) = within(read_all(&mut body)).await.expect("the end");
    assert!(rest.is_empty());
    assert_eq!(trailers.expect("trailers")["x-sum"], "100");
}

#[tokio::test]
async fn a_blocked_response_does_not_block_the_upload() {
    const SIZE: usize = 2 * 1024 * 1024;
    let received: Arc<AtomicUsize> = Arc::default();
    let counter = Arc::clone(&received);
    let (mut down, _connection) = proxied(move |(request, mut respond)| {
        let counter = Arc::clone(&counter);
        async move {
            let mut outgoing = respond.send_response(http::Response::new(()), false).expect("sent");
            // Much more than the caller's window of 64 KiB, which it does not open.
            let flood = tokio::spawn(async move { send_all(&mut outgoing, Bytes::from(vec![1; SIZE]), true).await });
            let (bytes, _) = read_all(&mut request.into_body()).await.expect("the upload is whole");
            counter.store(bytes.len(), Ordering::SeqCst);
            flood.await.expect("runs").expect("sent");
        }
    })
    .await;
    let (response, mut upload) = down.client.send_request(post("/"), false).expect("sent");
    let mut body = within(response).await.expect("a response").into_body();
    within(send_all(&mut upload, Bytes::from(vec![2; SIZE]), true)).await.expect("sent");
    within(until(|| received.load(Ordering::SeqCst) == SIZE)).await;
    let (bytes, _) = within(read_all(&mut body)).await.expect("the response is whole");
    assert_eq!(bytes.len(), SIZE);
}

#[tokio::test]
async fn a_caller_that_leaves_while_waiting_cancels_upstream() {
    let (sender, mut events) = tokio::sync::mpsc::unbounded_channel();
    let (mut down, connection) = proxied(move |(_request, mut respond)| {
        let sender = sender.clone();
        async move {
            let _ = sender.send(None);
            let reason = poll_fn(|cx| respond.poll_reset(cx)).await.expect("a reset");
            let _ = sender.send(Some(reason));
        }
    })
    .await;
    let (response, _) = down.client.send_request(get("/"), true).expect("sent");
    assert_eq!(within(events.recv()).await, Some(None));
    drop(response);
    assert_eq!(within(events.recv()).await, Some(Some(Reason::CANCEL)));
    within(until(|| connection.active() == 0)).await;
}

#[tokio::test]
async fn a_caller_that_leaves_mid_upload_and_mid_response_cancels_upstream() {
    let (sender, mut events) = tokio::sync::mpsc::unbounded_channel();
    let (mut down, _connection) = proxied(move |(request, mut respond)| {
        let sender = sender.clone();
        async move {
            let mut outgoing = respond.send_response(http::Response::new(()), false).expect("sent");
            outgoing.send_data(Bytes::from_static(b"first"), false).expect("sent");
            let error = read_all(&mut request.into_body()).await.expect_err("a reset");
            let _ = sender.send(error.reason());
        }
    })
    .await;
    let (response, mut upload) = down.client.send_request(post("/"), false).expect("sent");
    upload.send_data(Bytes::from_static(b"part"), false).expect("sent");
    let mut body = within(response).await.expect("a response").into_body();
    next_chunk(&mut body).await;
    drop((body, upload));
    assert_eq!(within(events.recv()).await, Some(Some(Reason::CANCEL)));
}

#[tokio::test]
async fn a_reset_from_upstream_reaches_the_caller() {
    let (near, far) = pipe();
    let (connection, _driver) = connect(near, &client_options()).await;
    let mut raw = Raw::server(far).await;
    let mut down = downstream(forward(&connection)).await;
    let (response, _) = down.client.send_request(get("/"), true).expect("sent");
    raw.next_of(RawFrame::HEADERS).await;
    raw.send(&[RawFrame::ok(1, 0), RawFrame::new(RawFrame::DATA, 0, 1, b"part")]).await;
    let mut body = within(response).await.expect("a response").into_body();
    next_chunk(&mut body).await;
    raw.send(&[RawFrame::new(RawFrame::RST_STREAM, 0, 1, &11u32.to_be_bytes())]).await;
    let error = within(read_all(&mut body)).await.expect_err("a reset");
    assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM));
}

#[tokio::test]
async fn interim_responses_pass_through() {
    let (mut down, _connection) = proxied(|(request, mut respond)| async move {
        assert_eq!(request.headers()["expect"], "100-continue");
        respond.send_informational(http::Response::builder().status(100).body(()).expect("a response")).expect("sent");
        let (bytes, _) = read_all(&mut request.into_body()).await.expect("the upload is whole");
        assert_eq!(bytes, b"awaited");
        respond.send_informational(http::Response::builder().status(103).body(()).expect("a response")).expect("sent");
        respond.send_response(http::Response::new(()), true).expect("sent");
    })
    .await;
    let mut request = post("/");
    request.headers_mut().insert("expect", HeaderValue::from_static("100-continue"));
    let (mut response, mut upload) = down.client.send_request(request, false).expect("sent");
    let interim = within(poll_fn(|cx| response.poll_informational(cx))).await.expect("one").expect("no failure");
    assert_eq!(interim.status(), 100);
    upload.send_data(Bytes::from_static(b"awaited"), true).expect("sent");
    let interim = within(poll_fn(|cx| response.poll_informational(cx))).await.expect("one").expect("no failure");
    assert_eq!(interim.status(), 103);
    assert_eq!(within(response).await.expect("a response").status(), StatusCode::OK);
}

#[tokio::test]
async fn an_upstream_connection_survives_ten_thousand_cancels() {
    let (near, far) = pipe();
    let (connection, _driver) = connect(near, &client_options()).await;
    // An upstream with ten tiny frames on their way whenever it hears of a cancel.
    let upstream = tokio::spawn(async move {
        let mut raw = Raw::server(far).await;
        let mut cancelled = 0;
        while let Some(frame) = raw.next().await {
            match frame.kind {
                RawFrame::SETTINGS if frame.flags & RawFrame::ACK == 0 => {
                    raw.send(&[RawFrame::new(RawFrame::SETTINGS, RawFrame::ACK, 0, &[])]).await;
                }
                RawFrame::HEADERS if frame.stream > 20_000 => {
                    raw.send(&[RawFrame::ok(frame.stream, RawFrame::END_STREAM)]).await;
                }
                RawFrame::HEADERS => {
                    raw.send(&[RawFrame::ok(frame.stream, 0)]).await;
                }
                RawFrame::RST_STREAM if frame.reason() == Reason::CANCEL => {
                    cancelled += 1;
                    let late: Vec<_> =
                        (0..10).map(|_| RawFrame::new(RawFrame::DATA, 0, frame.stream, b"hello")).collect();
                    raw.send(&late).await;
                }
                _ => {}
            }
        }
        cancelled
    });
    let mut down = downstream(forward(&connection)).await;
    for _ in 0..10_000 {
        within(poll_fn(|cx| down.client.poll_ready(cx))).await.expect("the downstream connection lives");
        let (response, _) = down.client.send_request(get("/"), true).expect("sent");
        drop(within(response).await.expect("a response"));
    }
    assert!(!connection.is_closing());
    let (response, _) = down.client.send_request(get("/"), true).expect("sent");
    assert!(within(response).await.expect("a response").into_body().is_end_stream());
    within(until(|| connection.active() == 0)).await;
    drop(down);
    connection.close_gracefully();
    assert_eq!(within(upstream).await.expect("runs"), 10_000);
}

#[tokio::test]
async fn a_slow_reader_of_tiny_messages_hurts_nobody() {
    const MESSAGES: usize = 60_000;
    let sent: Arc<AtomicUsize> = Arc::default();
    let counter = Arc::clone(&sent);
    let (mut down, connection) = proxied(move |(request, mut respond)| {
        let counter = Arc::clone(&counter);
        async move {
            let mut outgoing = respond.send_response(http::Response::new(()), false).expect("sent");
            if request.uri().path() == "/once" {
                outgoing.send_data(Bytes::from_static(b"well"), true).expect("sent");
                return;
            }
            for _ in 0..MESSAGES {
                outgoing.reserve_capacity(5);
                while outgoing.capacity() < 5 {
                    poll_fn(|cx| outgoing.poll_capacity(cx)).await.expect("open").expect("no failure");
                }
                outgoing.send_data(Bytes::from_static(b"hello"), false).expect("sent");
                counter.fetch_add(1, Ordering::SeqCst);
            }
            outgoing.send_data(Bytes::new(), true).expect("sent");
        }
    })
    .await;
    let (response, _) = down.client.send_request(get("/slow"), true).expect("sent");
    let mut slow = within(response).await.expect("a response").into_body();
    // The upstream sends until every window on the way is closed: 64 KiB at the caller, and 256 KiB and a
    // buffer at the proxy. Meanwhile others come and go.
    let mut before = usize::MAX;
    while before != sent.load(Ordering::SeqCst) {
        before = sent.load(Ordering::SeqCst);
        for _ in 0..20 {
            let (response, _) = down.client.send_request(get("/once"), true).expect("sent");
            let mut body = within(response).await.expect("a response").into_body();
            assert_eq!(within(read_all(&mut body)).await.expect("whole").0, b"well");
        }
    }
    assert!(before < MESSAGES, "the sender is held back");
    assert!(!connection.is_closing());
    let (bytes, _) = within(read_all(&mut slow)).await.expect("whole");
    assert_eq!(bytes.len(), MESSAGES * 5);
}

#[tokio::test]
async fn stalled_downloads_leave_the_connection_to_others() {
    const STALLED: usize = 200;
    let (mut down, connection) = proxied(|(request, mut respond)| async move {
        let mut outgoing = respond.send_response(http::Response::new(()), false).expect("sent");
        // A stalled one is twice as large as what fits on the way.
        let size = if request.uri().path() == "/once" { 128 * 1024 } else { 1024 * 1024 };
        let _ = send_all(&mut outgoing, Bytes::from_static(&[1; 1024 * 1024]).slice(..size), true).await;
    })
    .await;
    let mut stalled = Vec::new();
    for _ in 0..STALLED {
        let (response, _) = down.client.send_request(get("/stall"), true).expect("sent");
        stalled.push(within(response).await.expect("a response").into_body());
    }
    drop(down);
    // Another downstream connection, whose windows are open.
    let mut down = downstream(forward(&connection)).await;
    for _ in 0..5 {
        let (response, _) = down.client.send_request(get("/once"), true).expect("sent");
        let mut body = within(response).await.expect("a response").into_body();
        assert_eq!(within(read_all(&mut body)).await.expect("whole").0.len(), 128 * 1024);
    }
    assert!(connection.active() >= STALLED, "the stalled streams are still there");
}

#[tokio::test]
async fn stalled_uploads_leave_the_connection_to_others() {
    const STALLED: usize = 20;
    let (mut down, _connection) = proxied(|(request, mut respond)| async move {
        if request.uri().path() == "/stall" {
            let _request = request;
            let _ = poll_fn(|cx| respond.poll_reset(cx)).await;
            return;
        }
        let (bytes, _) = read_all(&mut request.into_body()).await.expect("the upload is whole");
        let mut outgoing = respond.send_response(http::Response::new(()), false).expect("sent");
        outgoing.send_data(Bytes::from(bytes.len().to_string()), true).expect("sent");
    })
    .await;
    let data = Bytes::from_static(&[1; 1024 * 1024]);
    let mut stalled = tokio::task::JoinSet::new();
    let mut waiting = Vec::new();
    for _ in 0..STALLED {
        let (response, mut upload) = down.client.send_request(post("/stall"), false).expect("sent");
        waiting.push(response);
        let data = data.clone();
        stalled.spawn(async move { send_all(&mut upload, data, true).await });
    }
    for _ in 0..5 {
        let (response, mut upload) = down.client.send_request(post("/once"), false).expect("sent");
        within(send_all(&mut upload, data.clone(), true)).await.expect("sent");
        let mut body = within(response).await.expect("a response").into_body();
        assert_eq!(within(read_all(&mut body)).await.expect("whole").0, data.len().to_string().as_bytes());
    }
    assert!(stalled.try_join_next().is_none(), "the stalled uploads are still there");
}

#[tokio::test]
async fn tiny_uploads_to_a_slow_upstream_spare_the_callers_connection() {
    tiny_upload_to_a_slow_upstream("/slow").await;
}

#[tokio::test]
async fn tiny_uploads_that_may_be_sent_again_do_so_too() {
    tiny_upload_to_a_slow_upstream("/replay").await;
}

async fn tiny_upload_to_a_slow_upstream(path: &'static str) {
    const MESSAGES: usize = 30_000;
    let (release, released) = tokio::sync::watch::channel(false);
    let (mut down, _connection) = proxied(move |(request, mut respond)| {
        let mut released = released.clone();
        async move {
            if request.uri().path() == path {
                released.wait_for(|released| *released).await.expect("released");
            }
            let (bytes, _) = read_all(&mut request.into_body()).await.expect("the upload is whole");
            let mut outgoing = respond.send_response(http::Response::new(()), false).expect("sent");
            outgoing.send_data(Bytes::from(bytes.len().to_string()), true).expect("sent");
        }
    })
    .await;
    let (response, mut upload) = down.client.send_request(post(path), false).expect("sent");
    let sent: Arc<AtomicUsize> = Arc::default();
    let counter = Arc::clone(&sent);
    tokio::spawn(async move {
        for _ in 0..MESSAGES {
            upload.reserve_capacity(5);
            while upload.capacity() < 5 {
                poll_fn(|cx| upload.poll_capacity(cx)).await.expect("open").expect("no failure");
            }
            upload.send_data(Bytes::from_static(b"hello"), false).expect("sent");
            counter.fetch_add(1, Ordering::SeqCst);
        }
        upload.send_data(Bytes::new(), true).expect("sent");
    });
    // More than the library would let wait by its own rule, and others come and go.
    within(until(|| sent.load(Ordering::SeqCst) >= MESSAGES - 1)).await;
    let (other, _) = down.client.send_request(post("/other"), true).expect("sent");
    assert_eq!(within(other).await.expect("a response").status(), StatusCode::OK);
    release.send(true).expect("awaited");
    let mut body = within(response).await.expect("a response").into_body();
    let (bytes, _) = within(read_all(&mut body)).await.expect("whole");
    assert_eq!(bytes, (MESSAGES * 5).to_string().as_bytes());
}

#[tokio::test]
async fn an_early_answer_stops_the_upload_on_both_sides() {
    let (sender, mut events) = tokio::sync::mpsc::unbounded_channel();
    let (mut down, _connection) = proxied(move |(request, mut respond)| {
        let sender = sender.clone();
        async move {
            let mut outgoing = respond.send_response(http::Response::new(()), false).expect("sent");
            outgoing.send_data(Bytes::from_static(b"enough"), true).expect("sent");
            drop((outgoing, respond));
            let outcome = read_all(&mut request.into_body()).await.map(|_| ());
            let _ = sender.send(outcome.map_err(|error| error.reason()));
        }
    })
    .await;
    let (response, mut upload) = down.client.send_request(post("/"), false).expect("sent");
    upload.send_data(Bytes::from_static(b"part"), false).expect("sent");
    let mut body = within(response).await.expect("a response").into_body();
    let (bytes, _) = within(read_all(&mut body)).await.expect("the response is whole");
    assert_eq!(bytes, b"enough");
    let reason = within(poll_fn(|cx| upload.poll_reset(cx))).await.expect("a reset");
    assert_eq!(reason, Reason::NO_ERROR);
    assert_eq!(within(events.recv()).await, Some(Err(Some(Reason::CANCEL))));
}

#[tokio::test]
async fn requests_pass_over_real_sockets() {
    let upstream_listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let upstream_address = upstream_listener.local_addr().expect("bound");
    tokio::spawn(async move {
        let (stream, _) = upstream_listener.accept().await.expect("accepted");
        let mut connection = server::handshake(stream).await.expect("the handshake");
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            tokio::spawn(async move {
                let (bytes, _) = read_all(&mut request.into_body()).await.expect("whole");
                let mut outgoing = respond.send_response(http::Response::new(()), false).expect("sent");
                send_all(&mut outgoing, Bytes::from(bytes), true).await.expect("sent");
            });
        }
    });
    let stream = TcpStream::connect(upstream_address).await.expect("connected");
    let (connection, _driver) = connect(Io::tcp(stream), &client_options()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("bound");
    let drain = Drain::default();
    let options = options(&drain);
    let handler = forward(&connection);
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("accepted");
        serve(Io::tcp(stream), handler, options).await;
    });
    let stream = TcpStream::connect(address).await.expect("connected");
    let (client, driver) = client::handshake(stream).await.expect("the handshake");
    let driver = tokio::spawn(driver);
    let mut exchanges = tokio::task::JoinSet::new();
    for n in 0..50usize {
        let mut client = client.clone();
        exchanges.spawn(async move {
            for size in [0, 1, 300, 5000, 100_000] {
                let data = Bytes::from(vec![n as u8; size]);
                poll_fn(|cx| client.poll_ready(cx)).await.expect("ready");
                let (response, mut upload) = client.send_request(post("/"), false).expect("sent");
                if size == 0 {
                    upload.send_data(Bytes::new(), true).expect("sent");
                } else {
                    send_all(&mut upload, data.clone(), true).await.expect("sent");
                }
                let mut body = response.await.expect("a response").into_body();
                let (bytes, _) = read_all(&mut body).await.expect("whole");
                assert!(bytes == data, "the bytes differ");
            }
        });
    }
    while let Some(done) = within(exchanges.join_next()).await {
        done.expect("an exchange");
    }
    drop(client);
    within(driver).await.expect("runs").expect("clean");
    within(server).await.expect("runs");
}
