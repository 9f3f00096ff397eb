//! How connections to upstreams end, and what that proves about requests.

use std::borrow::Cow;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, server};
use rustls::AlertDescription;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::support::*;
use crate::codec::body::{Body, BodyError};
use crate::codec::error::{SendError, SendErrorKind, Sent, certificate_alert};
use crate::codec::h2::H2Connection;
use crate::codec::message::Response;
use crate::net::tls::PeerAlert;

async fn get_on(connection: &H2Connection) -> Result<Response<Body>, SendError> {
    let slot = connection.reserve().expect("a free stream");
    let interims = Interims::default();
    slot.send(Cow::Owned(head("GET", "/")), Body::Empty, &interims).await
}

fn spawn_get(connection: &H2Connection) -> tokio::task::JoinHandle<Result<Response<Body>, SendError>> {
    let connection = connection.clone();
    tokio::spawn(async move { get_on(&connection).await })
}

fn goaway(last: u32, reason: Reason) -> RawFrame {
    let mut payload = last.to_be_bytes().to_vec();
    payload.extend_from_slice(&u32::from(reason).to_be_bytes());
    RawFrame::new(RawFrame::GOAWAY, 0, 0, &payload)
}

#[tokio::test]
async fn a_goaway_below_a_stream_refuses_it_and_spares_the_others() {
    let released: Arc<AtomicUsize> = Arc::default();
    let counter = Arc::clone(&released);
    let mut options = client_options();
    options.on_release = Some(Arc::new(move || {
        counter.fetch_add(1, Ordering::SeqCst);
    }));
    let (near, far) = pipe();
    let (connection, driver) = connect(near, &options).await;
    let mut raw = Raw::server(far).await;
    let first = spawn_get(&connection);
    raw.next_of(RawFrame::HEADERS).await;
    let second = spawn_get(&connection);
    assert_eq!(raw.next_of(RawFrame::HEADERS).await.stream, 3);
    raw.send(&[goaway(1, Reason::NO_ERROR)]).await;
    let error = within(second).await.expect("runs").expect_err("refused");
    assert!(matches!(error.kind, SendErrorKind::Refused), "{error:?}");
    assert_eq!(error.sent, Sent::Never);
    assert!(connection.is_closing());
    assert_eq!(connection.capacity(), 0);
    assert!(connection.reserve().is_none());
    assert_eq!(released.load(Ordering::SeqCst), 2, "for the refused stream, and for the GOAWAY");
    raw.send(&[RawFrame::ok(1, RawFrame::END_STREAM)]).await;
    within(first).await.expect("runs").expect("a response");
    within(driver).await.expect("the connection ends with its last stream");
}

#[tokio::test]
async fn a_slot_reserved_before_a_goaway_proves_that_nothing_was_sent() {
    let (near, far) = pipe();
    let (connection, _driver) = connect(near, &client_options()).await;
    let mut raw = Raw::server(far).await;
    let slot = connection.reserve().expect("a free stream");
    raw.send(&[goaway(0, Reason::NO_ERROR)]).await;
    within(until(|| connection.is_closing())).await;
    let interims = Interims::default();
    let error = within(slot.send(Cow::Owned(head("POST", "/")), Body::Empty, &interims)).await.expect_err("refused");
    assert_eq!(error.sent, Sent::Never);
    assert_eq!(connection.active(), 0);
}

#[tokio::test]
async fn a_connection_that_the_server_has_closed_sends_nothing() {
    let (near, far) = pipe();
    let (connection, driver) = H2Connection::handshake(near, &client_options()).await.expect("the handshake");
    // The server closes while nobody drives the connection: the request meets the end of the stream.
    let slot = connection.reserve().expect("a free stream");
    drop(far);
    let interims = Interims::default();
    let sending = slot.send(Cow::Owned(head("POST", "/")), Body::Empty, &interims);
    let (outcome, ()) = within(async { tokio::join!(sending, driver) }).await;
    let error = outcome.expect_err("closed");
    assert_eq!(error.sent, Sent::Never, "{error:?}");
    assert!(connection.is_closing());
}

#[tokio::test]
async fn a_connection_that_ends_after_the_request_proves_nothing() {
    let (near, far) = pipe();
    let (connection, _driver) = connect(near, &client_options()).await;
    let mut raw = Raw::server(far).await;
    let sending = spawn_get(&connection);
    raw.next_of(RawFrame::HEADERS).await;
    drop(raw);
    let error = within(sending).await.expect("runs").expect_err("closed");
    assert!(matches!(error.kind, SendErrorKind::Closed), "{error:?}");
    assert_eq!((error.sent, error.reused), (Sent::Maybe, false));
}

#[tokio::test]
async fn a_connection_that_ends_mid_response_leaves_it_incomplete() {
    let (near, far) = pipe();
    let (connection, _driver) = connect(near, &client_options()).await;
    let mut raw = Raw::server(far).await;
    let sending = spawn_get(&connection);
    raw.next_of(RawFrame::HEADERS).await;
    raw.send(&[RawFrame::ok(1, 0), RawFrame::new(RawFrame::DATA, 0, 1, b"part")]).await;
    drop(raw);
    let mut response = within(sending).await.expect("runs").expect("a response");
    let error = within(drain_body(&mut response.body)).await.expect_err("incomplete");
    assert_eq!(error, BodyError::Incomplete);
}

#[tokio::test]
async fn a_broken_protocol_fails_the_streams_as_bad_responses() {
    let (near, far) = pipe();
    let (connection, _driver) = connect(near, &client_options()).await;
    let mut raw = Raw::server(far).await;
    let sending = spawn_get(&connection);
    raw.next_of(RawFrame::HEADERS).await;
    // DATA before the head.
    raw.send(&[RawFrame::new(RawFrame::DATA, 0, 1, b"part")]).await;
    let error = within(sending).await.expect("runs").expect_err("broken");
    assert!(matches!(error.kind, SendErrorKind::BadResponse(_)), "{error:?}");
}

#[tokio::test]
async fn a_graceful_close_waits_for_the_last_stream() {
    let (near, far) = pipe();
    let (connection, driver) = connect(near, &client_options()).await;
    let mut raw = Raw::server(far).await;
    let sending = spawn_get(&connection);
    raw.next_of(RawFrame::HEADERS).await;
    connection.close_gracefully();
    assert!(connection.is_closing());
    assert!(connection.reserve().is_none());
    raw.send(&[RawFrame::ok(1, RawFrame::END_STREAM)]).await;
    within(sending).await.expect("runs").expect("a response");
    assert_eq!(raw.next_of(RawFrame::GOAWAY).await.reason(), Reason::NO_ERROR);
    assert_eq!(raw.next().await, None);
    within(driver).await.expect("runs");
}

#[tokio::test]
async fn a_graceful_close_of_an_idle_connection_is_immediate() {
    let (near, far) = pipe();
    let (connection, driver) = connect(near, &client_options()).await;
    let mut raw = Raw::server(far).await;
    connection.close_gracefully();
    assert_eq!(raw.next_of(RawFrame::GOAWAY).await.reason(), Reason::NO_ERROR);
    within(driver).await.expect("runs");
}

#[tokio::test]
async fn the_last_handle_takes_the_connection_with_it() {
    let (near, far) = pipe();
    let (connection, driver) = connect(near, &client_options()).await;
    let mut raw = Raw::server(far).await;
    drop(connection);
    assert_eq!(raw.next_of(RawFrame::GOAWAY).await.reason(), Reason::NO_ERROR);
    within(driver).await.expect("runs");
}

#[tokio::test]
async fn dropping_the_driver_fails_open_streams() {
    let (near, far) = pipe();
    let (connection, driver) = connect(near, &client_options()).await;
    let mut raw = Raw::server(far).await;
    let sending = spawn_get(&connection);
    raw.next_of(RawFrame::HEADERS).await;
    driver.abort();
    let error = within(sending).await.expect("runs").expect_err("closed");
    assert!(matches!(error.kind, SendErrorKind::Closed), "{error:?}");
    within(until(|| connection.is_closing())).await;
}

fn with_keepalive() -> crate::codec::h2::H2ClientOptions {
    let mut options = client_options();
    options.keepalive_interval = Some(Duration::from_secs(10));
    options.keepalive_timeout = Duration::from_secs(3);
    options
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_does_not_answer_fails_its_streams() {
    let (near, far) = pipe();
    let (connection, driver) = connect(near, &with_keepalive()).await;
    let mut raw = Raw::server(far).await;
    let start = tokio::time::Instant::now();
    let waiting = spawn_get(&connection);
    raw.next_of(RawFrame::HEADERS).await;
    raw.send(&[RawFrame::ok(1, 0)]).await;
    let mut response = waiting.await.expect("runs").expect("a response");
    let waiting = spawn_get(&connection);
    raw.next_of(RawFrame::HEADERS).await;
    let error = waiting.await.expect("runs").expect_err("dead");
    assert!(matches!(&error.kind, SendErrorKind::Io(e) if e.kind() == io::ErrorKind::TimedOut), "{error:?}");
    assert_eq!((error.sent, start.elapsed().as_secs()), (Sent::Maybe, 13));
    let error = drain_body(&mut response.body).await.expect_err("dead");
    assert!(matches!(error, BodyError::Timeout(_)), "{error:?}");
    driver.await.expect("runs");
    assert!(connection.is_closing());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_answers_lives_on() {
    let (io, _server) = upstream(server::Builder::new(), |(_, mut respond)| async move {
        tokio::time::sleep(Duration::from_secs(100)).await;
        let mut stream = respond.send_response(http::Response::new(()), false).expect("sent");
        tokio::time::sleep(Duration::from_secs(100)).await;
        stream.send_data(Bytes::from_static(b"late"), true).expect("sent");
    });
    let (connection, _driver) = connect(io, &with_keepalive()).await;
    // Longer than the interval without a stream: silence then means nothing.
    tokio::time::sleep(Duration::from_secs(1000)).await;
    let mut response = get_on(&connection).await.expect("a response");
    let (bytes, _) = drain_body(&mut response.body).await.expect("a body");
    assert_eq!(bytes, b"late");
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_not_asked() {
    let (near, far) = pipe();
    let (connection, driver) = connect(near, &with_keepalive()).await;
    let mut raw = Raw::server(far).await;
    tokio::time::sleep(Duration::from_secs(1000)).await;
    connection.close_gracefully();
    loop {
        let frame = raw.next().await.expect("a frame before the end");
        assert_ne!(frame.kind, RawFrame::PING);
        if frame.kind == RawFrame::GOAWAY {
            break;
        }
    }
    drop(raw);
    driver.await.expect("runs");
}

#[tokio::test(start_paused = true)]
async fn idle_since_tells_when_the_last_stream_ended() {
    let (io, _server) = upstream(server::Builder::new(), |(_, mut respond)| async move {
        tokio::time::sleep(Duration::from_secs(5)).await;
        respond.send_response(http::Response::new(()), true).expect("sent");
    });
    let (connection, _driver) = connect(io, &client_options()).await;
    let opened = connection.opened();
    assert_eq!(connection.idle_since(), Some(opened));
    get_on(&connection).await.expect("a response");
    tokio::time::sleep(Duration::from_secs(50)).await;
    let idle = connection.idle_since().expect("idle") - opened;
    assert_eq!(idle.as_secs(), 5);
}

/// Takes everything and is refused, as a TLS client is whose certificate the server does not accept.
struct Refused;

impl AsyncRead for Refused {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let alert = PeerAlert(AlertDescription::CertificateExpired);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, alert)))
    }
}

impl AsyncWrite for Refused {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_greeting_waits_for_the_servers_first_words() {
    let (near, far) = pipe();
    let (connection, mut driver) = H2Connection::handshake(near, &client_options()).await.expect("a connection");
    let mut greeted = Box::pin(driver.greeted());
    let polled = std::future::poll_fn(|cx| Poll::Ready(greeted.as_mut().poll(cx))).await;
    assert!(polled.is_pending(), "the server has said nothing");
    let (told, _server) = tokio::join!(within(greeted), Raw::server(far));
    told.expect("it has greeted");
    assert!(!connection.is_closing());
}

#[tokio::test]
async fn a_refusal_instead_of_a_greeting_keeps_its_reason() {
    let (connection, mut driver) = H2Connection::handshake(Refused, &client_options()).await.expect("a connection");
    let error = within(driver.greeted()).await.expect_err("refused");
    assert_eq!(certificate_alert(&error), Some(PeerAlert(AlertDescription::CertificateExpired)), "{error}");
    assert!(connection.is_closing());
}
