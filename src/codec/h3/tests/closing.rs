//! How a server lets connections go.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::{IdleTimeout, RecvStream, TransportConfig};
use tokio::sync::Notify;

use super::support::*;
use crate::base::limits;
use crate::codec::body::{Body, PollBody};
use crate::codec::h3::code::Code;
use crate::codec::h3::control::{Control, Event};
use crate::codec::h3::frames::Side;
use crate::codec::h3::varint;

/// The server's control stream, as a client reads it.
struct Listening {
    stream: RecvStream,
    control: Control,
    chunk: Bytes,
}

impl Listening {
    async fn on(down: &Downstream) -> Self {
        let mut stream = within(down.client.accept_uni()).await.expect("a stream");
        let mut chunk = within(stream.read_chunk(1000, true)).await.expect("read").expect("bytes").bytes;
        assert_eq!(varint::take(&mut chunk), Some(0));
        let mut listening = Self { stream, control: Control::new(Side::Client), chunk };
        assert!(matches!(listening.next().await, Event::Settings(_)));
        listening
    }

    async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.control.next(&mut self.chunk).expect("good frames") {
                return event;
            }
            self.chunk = within(self.stream.read_chunk(1000, true)).await.expect("read").expect("more").bytes;
        }
    }
}

#[tokio::test]
async fn a_drain_tells_twice_and_finishes_what_runs() {
    let go = Arc::new(Notify::new());
    let goes = Arc::clone(&go);
    let down = downstream(handler(move |request, _| {
        let goes = Arc::clone(&goes);
        Box::pin(async move {
            if request.head.path == "/slow" {
                goes.notified().await;
            }
            ok(Body::Full("done".into()))
        })
    }))
    .await;
    let mut listening = Listening::on(&down).await;
    let mut slow = down.ask(&get("/slow")).await;
    let mut quick = down.ask(&get("/")).await;
    assert_eq!(quick.status().await, Ok(200));
    down.drain.start(Duration::ZERO);
    assert_eq!(listening.next().await, Event::GoAway(varint::MAX - 3));
    // It excludes nothing yet.
    let mut late = down.ask(&get("/")).await;
    assert_eq!(late.status().await, Ok(200));
    assert_eq!(listening.next().await, Event::GoAway(12));
    let mut too_late = down.open(&get("/")).await;
    assert_eq!(too_late.next().await, Err(Code::REQUEST_REJECTED));
    assert_eq!(too_late.stopped().await, Some(Code::REQUEST_REJECTED));
    go.notify_one();
    assert_eq!(slow.status().await, Ok(200));
    assert_eq!(slow.rest().await.expect("whole").0, b"done");
    assert_eq!(down.closed().await, Code::NO_ERROR);
    within(down.server).await.expect("the server ends");
}

#[tokio::test]
async fn an_idle_connection_goes() {
    let down = downstream_with(handler(|_, _| Box::pin(async { ok(Body::Empty) })), |options| {
        options.idle_timeout = SOON;
    })
    .await;
    let mut listening = Listening::on(&down).await;
    assert_eq!(listening.next().await, Event::GoAway(varint::MAX - 3));
    assert_eq!(listening.next().await, Event::GoAway(0));
    assert_eq!(down.closed().await, Code::NO_ERROR);
}

#[tokio::test]
async fn a_connection_with_a_request_is_not_idle() {
    let down = downstream_with(
        handler(|_, _| {
            Box::pin(async {
                tokio::time::sleep(SOON * 3).await;
                ok(Body::Empty)
            })
        }),
        |options| options.idle_timeout = SOON,
    )
    .await;
    let began = Instant::now();
    let mut stream = down.ask(&get("/")).await;
    assert_eq!(stream.status().await, Ok(200));
    assert_eq!(down.closed().await, Code::NO_ERROR);
    assert!(began.elapsed() >= SOON * 4);
}

#[tokio::test]
async fn a_connection_retires_by_age() {
    let down = downstream_with(handler(|_, _| Box::pin(async { ok(Body::Empty) })), |options| {
        options.retire_at = Some(Instant::now());
    })
    .await;
    let mut listening = Listening::on(&down).await;
    assert_eq!(listening.next().await, Event::GoAway(varint::MAX - 3));
    assert_eq!(down.closed().await, Code::NO_ERROR);
}

#[tokio::test]
async fn a_caller_that_cancels_what_it_has_just_asked_for_is_sent_away() {
    cancels(true).await;
}

#[tokio::test]
async fn a_caller_that_cancels_uploads_is_sent_away_though_they_are_answered_at_once() {
    cancels(false).await;
}

/// Cancels requests that are never answered, or uploads that are answered when they fail.
async fn cancels(whole: bool) {
    let (comes, mut came) = tokio::sync::mpsc::unbounded_channel();
    let down = downstream(handler(move |mut request, _| {
        let _ = comes.send(());
        Box::pin(async move {
            if whole {
                std::future::pending::<()>().await;
            }
            let failed = std::future::poll_fn(|cx| request.body.poll_frame(cx)).await;
            assert!(matches!(failed, Some(Err(_))), "{failed:?}");
            ok(Body::Empty)
        })
    }))
    .await;
    let mut listening = Listening::on(&down).await;
    let ask = if whole { get("/") } else { request("POST", "/", &[]) };
    let open = async || if whole { down.ask(&ask).await } else { down.open(&ask).await };
    let mut cancelled = 0;
    let told = loop {
        tokio::select! {
            biased;
            told = listening.next() => break told,
            mut stream = open() => {
                within(came.recv()).await.expect("it comes");
                if !whole {
                    stream.out.reset(0x10c_u32.into()).expect("it is open");
                }
                drop(stream);
                cancelled += 1;
            }
        }
        // Those that a busy machine took long for do not count.
        assert!(cancelled < 20 * limits::HASTY_CANCELS, "it goes on");
    };
    assert_eq!(told, Event::GoAway(varint::MAX - 3));
    assert!(cancelled >= limits::HASTY_CANCELS, "{cancelled}");
    assert_eq!(down.closed().await, Code::NO_ERROR);
}

#[tokio::test]
async fn a_server_that_is_dropped_closes() {
    let down = downstream(handler(|_, _| Box::pin(async { ok(Body::Empty) }))).await;
    let _listening = Listening::on(&down).await;
    down.server.abort();
    assert_eq!(down.closed().await, Code::NO_ERROR);
}

#[tokio::test]
async fn a_request_that_is_held_for_long_keeps_its_connection() {
    // Both ends take a connection for dead after this much silence.
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(Some(IdleTimeout::try_from(SOON * 5).expect("short")));
    let ends = ends_with(transport).await;
    let drain = crate::base::drain::Drain::default();
    let mut options = options(&drain);
    options.idle_timeout = SOON * 5;
    let answers = handler(|_, _| {
        Box::pin(async {
            tokio::time::sleep(SOON * 15).await;
            ok(Body::Empty)
        })
    });
    tokio::spawn(crate::codec::h3::serve(ends.server.clone(), answers, options));
    let mut stream = Stream::open(&ends.client, &get("/")).await;
    stream.out.finish().expect("open");
    assert_eq!(stream.status().await, Ok(200));
}
