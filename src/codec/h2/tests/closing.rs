//! How downstream connections end. Time is simulated.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::StatusCode;
use tokio::sync::{Notify, mpsc};

use super::support::*;
use crate::base::drain::Drain;
use crate::base::limits;
use crate::codec::body::{Body, Frame, PollBody};
use crate::codec::h2::{now, serve};

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_gracefully() {
    let down = downstream(handler(|_, _| Box::pin(async { ok(Body::Empty) }))).await;
    let start = tokio::time::Instant::now();
    // Both ends of the connection end without an error.
    tokio::time::timeout(Duration::from_secs(100), down.driver).await.expect("it ends").expect("runs").expect("clean");
    assert_eq!(start.elapsed().as_secs(), 60);
    down.server.await.expect("runs");
}

#[tokio::test(start_paused = true)]
async fn idle_time_counts_from_the_end_of_the_last_stream() {
    let mut down = downstream(handler(|_, _| {
        Box::pin(async {
            tokio::time::sleep(Duration::from_secs(100)).await;
            ok(Body::Empty)
        })
    }))
    .await;
    let start = tokio::time::Instant::now();
    let (response, _) = down.client.send_request(get("/"), true).expect("sent");
    assert_eq!(response.await.expect("a response").status(), StatusCode::OK);
    down.driver.await.expect("runs").expect("clean");
    assert_eq!(start.elapsed().as_secs(), 160);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_says_nothing_is_dropped_after_the_header_timeout() {
    let (near, _far) = pipe();
    let drain = Drain::default();
    let start = tokio::time::Instant::now();
    serve(near, handler(|_, _| Box::pin(async { ok(Body::Empty) })), options(&drain)).await;
    assert_eq!(start.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_sends_half_a_preface_is_dropped_after_the_header_timeout() {
    let (near, far) = pipe();
    let mut raw = Raw(far);
    raw.write(b"PRI * HTTP/2.0\r\n").await;
    let drain = Drain::default();
    let start = tokio::time::Instant::now();
    serve(near, handler(|_, _| Box::pin(async { ok(Body::Empty) })), options(&drain)).await;
    assert_eq!(start.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_connection_of_age_finishes_its_streams_and_closes() {
    let drain = Drain::default();
    let mut options = options(&drain);
    options.retire_at = Some(now() + Duration::from_secs(30));
    let (senders, mut bodies) = tokio::sync::mpsc::unbounded_channel();
    let answer = handler(move |_, _| {
        let (frames, body) = fed();
        let _ = senders.send(frames);
        Box::pin(async { ok(body) })
    });
    let mut down = downstream_with(answer, options, drain).await;
    let (response, _) = down.client.send_request(get("/"), true).expect("sent");
    let mut body = response.await.expect("a response").into_body();
    let frames = bodies.recv().await.expect("a body");
    tokio::time::sleep(Duration::from_secs(31)).await;
    let refused = down.client.clone().ready().await;
    assert!(refused.is_err_and(|error| error.is_go_away() && error.reason() == Some(Reason::NO_ERROR)));
    assert!(!down.server.is_finished(), "a stream is still open");
    frames.send(Ok(Frame::Data(Bytes::from_static(b"late")))).expect("the stream lives");
    drop(frames);
    let (bytes, _) = read_all(&mut body).await.expect("the response is whole");
    assert_eq!(bytes, b"late");
    down.driver.await.expect("runs").expect("clean");
    down.server.await.expect("runs");
}

#[tokio::test(start_paused = true)]
async fn a_drain_closes_within_its_spread_and_is_waited_for() {
    let down = downstream(handler(|_, _| Box::pin(async { ok(Body::Empty) }))).await;
    let start = tokio::time::Instant::now();
    down.drain.start(Duration::from_secs(5));
    down.driver.await.expect("runs").expect("clean");
    down.drain.finished().await;
    assert!(start.elapsed() <= Duration::from_secs(5), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_request_sent_before_the_goaway_was_seen_is_answered() {
    let drain = Drain::default();
    let (near, far) = pipe();
    tokio::spawn(serve(near, handler(|_, _| Box::pin(async { ok(Body::Empty) })), options(&drain)));
    let mut raw = Raw::client(far).await;
    let settings = raw.next_of(RawFrame::SETTINGS).await;
    assert_eq!(settings.flags & RawFrame::ACK, 0);
    drain.start(Duration::ZERO);
    let goaway = raw.next_of(RawFrame::GOAWAY).await;
    assert_eq!(goaway.payload[..4], [0x7f, 0xff, 0xff, 0xff], "the first GOAWAY refuses nothing");
    let ping = raw.next_of(RawFrame::PING).await;
    let flags = RawFrame::END_HEADERS | RawFrame::END_STREAM;
    raw.send(&[RawFrame::new(RawFrame::HEADERS, flags, 1, &[0x82, 0x86, 0x84, 0x41, 1, b'a'])]).await;
    assert_eq!(raw.next_of(RawFrame::HEADERS).await.stream, 1);
    raw.send(&[RawFrame::new(RawFrame::PING, RawFrame::ACK, 0, &ping.payload)]).await;
    let goaway = raw.next_of(RawFrame::GOAWAY).await;
    assert_eq!(goaway.payload[..4], [0, 0, 0, 1], "the second GOAWAY names the last stream");
    assert_eq!(raw.next().await, None, "and the connection ends");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_ignores_goaway_is_dropped_after_a_grace() {
    let drain = Drain::default();
    let (near, far) = pipe();
    let server = tokio::spawn(serve(near, handler(|_, _| Box::pin(async { ok(Body::Empty) })), options(&drain)));
    let mut raw = Raw::client(far).await;
    let start = tokio::time::Instant::now();
    drain.start(Duration::ZERO);
    raw.next_of(RawFrame::GOAWAY).await;
    // The PING behind it is never answered.
    raw.next_of(RawFrame::GOAWAY).await;
    assert_eq!(raw.next().await, None);
    assert_eq!(start.elapsed().as_secs(), 5);
    drop(raw);
    server.await.expect("runs");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_stops_reading_is_dropped() {
    let drain = Drain::default();
    // Room for our settings, and for nothing behind them.
    let (near, mut far) = tokio::io::duplex(60);
    let start = tokio::time::Instant::now();
    let server = tokio::spawn(serve(near, handler(|_, _| Box::pin(async { ok(Body::Empty) })), options(&drain)));
    tokio::io::AsyncWriteExt::write_all(&mut far, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("written");
    server.await.expect("runs");
    assert_eq!(start.elapsed().as_secs(), 70, "idle, then a grace for GOAWAY, then one for the last bytes");
}

/// A handler that says what has come, answers `/slow` when it is told to, and nothing else ever.
fn held() -> (Arc<TestHandler>, mpsc::UnboundedReceiver<()>, Arc<Notify>) {
    let (comes, came) = mpsc::unbounded_channel();
    let go = Arc::new(Notify::new());
    let goes = Arc::clone(&go);
    let answer = handler(move |request, _| {
        let _ = comes.send(());
        let goes = Arc::clone(&goes);
        Box::pin(async move {
            match request.head.path == "/slow" {
                true => goes.notified().await,
                false => std::future::pending().await,
            }
            ok(Body::Empty)
        })
    });
    (answer, came, go)
}

async fn cancel_one(
    down: &Downstream,
    came: &mut mpsc::UnboundedReceiver<()>,
    after: Duration,
) -> Result<(), h2::Error> {
    let mut client = down.client.clone().ready().await?;
    let (response, mut stream) = client.send_request(get("/"), true)?;
    came.recv().await.expect("it comes");
    tokio::time::sleep(after).await;
    stream.send_reset(Reason::CANCEL);
    drop(response);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_cancels_what_it_has_just_asked_for_is_sent_away_and_nobodys_request_is_lost() {
    let (answer, mut came, go) = held();
    let mut down = downstream(answer).await;
    let (slow, _) = down.client.send_request(get("/slow"), true).expect("sent");
    came.recv().await.expect("it comes");
    let mut cancelled = 0;
    let end = loop {
        match cancel_one(&down, &mut came, Duration::ZERO).await {
            Ok(()) => cancelled += 1,
            Err(error) => break error,
        }
        assert!(cancelled < 2 * limits::HASTY_CANCELS, "it goes on");
    };
    assert!(cancelled >= limits::HASTY_CANCELS, "{cancelled}");
    assert!(end.is_go_away() && end.reason() == Some(Reason::NO_ERROR), "{end:?}");
    go.notify_one();
    assert_eq!(slow.await.expect("a response").status(), StatusCode::OK);
    within(down.driver).await.expect("runs").expect("clean");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_cancels_uploads_is_sent_away_though_they_are_answered_at_once() {
    let (comes, mut came) = mpsc::unbounded_channel();
    let down = downstream(handler(move |mut request, _| {
        let _ = comes.send(());
        Box::pin(async move {
            // As where an upload to an upstream fails.
            let failed = std::future::poll_fn(|cx| request.body.poll_frame(cx)).await;
            assert!(matches!(failed, Some(Err(_))), "{failed:?}");
            ok(Body::Empty)
        })
    }))
    .await;
    let mut cancelled = 0;
    let end = loop {
        let mut client = match down.client.clone().ready().await {
            Ok(client) => client,
            Err(error) => break error,
        };
        let (response, mut stream) = match client.send_request(post("/"), false) {
            Ok(sent) => sent,
            Err(error) => break error,
        };
        came.recv().await.expect("it comes");
        stream.send_reset(Reason::CANCEL);
        drop(response);
        cancelled += 1;
        assert!(cancelled < 2 * limits::HASTY_CANCELS, "it goes on");
    };
    assert!(cancelled >= limits::HASTY_CANCELS, "{cancelled}");
    assert!(end.is_go_away() && end.reason() == Some(Reason::NO_ERROR), "{end:?}");
}

#[tokio::test(start_paused = true)]
async fn callers_whose_deadlines_are_short_are_not_sent_away() {
    let (answer, mut came, _go) = held();
    let down = downstream(answer).await;
    for _ in 0..2 * limits::HASTY_CANCELS {
        cancel_one(&down, &mut came, limits::HASTY_CANCEL).await.expect("it stays");
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_does_not_stop_cancelling_is_cut_off() {
    let (answer, mut came, _go) = held();
    let (near, far) = pipe();
    let drain = Drain::default();
    let server = tokio::spawn(serve(near, answer, options(&drain)));
    let mut raw = Raw::client(far).await;
    // It hears nothing of our GOAWAY: the PING that asks whether it has is not answered.
    for n in 0..limits::HASTY_CANCELS_AT_MOST {
        let flags = RawFrame::END_HEADERS | RawFrame::END_STREAM;
        raw.send(&[RawFrame::new(RawFrame::HEADERS, flags, 2 * n + 1, &[0x82, 0x86, 0x84, 0x41, 1, b'a'])]).await;
        came.recv().await.expect("it comes");
        raw.send(&[RawFrame::new(RawFrame::RST_STREAM, 0, 2 * n + 1, &8u32.to_be_bytes())]).await;
    }
    // Until the last one is noticed.
    tokio::time::sleep(Duration::from_millis(1)).await;
    let n = limits::HASTY_CANCELS_AT_MOST;
    let flags = RawFrame::END_HEADERS | RawFrame::END_STREAM;
    raw.send(&[RawFrame::new(RawFrame::HEADERS, flags, 2 * n + 1, &[0x82, 0x86, 0x84, 0x41, 1, b'a'])]).await;
    loop {
        let frame = raw.next_of(RawFrame::GOAWAY).await;
        if frame.reason() == Reason::ENHANCE_YOUR_CALM {
            break;
        }
        assert_eq!(frame.reason(), Reason::NO_ERROR);
    }
    drop(raw);
    within(server).await.expect("runs");
}
