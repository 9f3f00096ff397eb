//! Tunnels through a proxy, from a caller on one connection to an upstream on another.

use std::borrow::Cow;
use std::sync::Arc;

use super::support::*;
use crate::base::drain::Drain;
use crate::codec::body::Body;
use crate::codec::error::Refusal;
use crate::codec::h3::code::Code;
use crate::codec::h3::frames::Event;
use crate::codec::h3::{H3Connection, serve};
use crate::codec::message::{Handler, Interim, Request, Response};

/// Hands every request on.
struct Forward(H3Connection);

impl Handler for Forward {
    type Body = Body;

    async fn handle(&self, request: Request, interim: &dyn Interim) -> Response<Body> {
        let slot = self.0.reserve().expect("a stream");
        slot.send(Cow::Owned(request.head), request.body, interim).await.expect("a response")
    }

    fn refuse(&self, refusal: Refusal) -> Response<Body> {
        panic!("refused: {refusal:?}")
    }
}

/// Both ends of an open tunnel, and what has to be kept for it.
struct Open {
    caller: Stream,
    upstream: Stream,
    _kept: (Ends, Upstream, Drain),
}

async fn open(head: &[(&str, &str)]) -> Open {
    let up = upstream().await;
    let ends = ends().await;
    let drain = Drain::default();
    tokio::spawn(serve(ends.server.clone(), Arc::new(Forward(up.connection.clone())), options(&drain)));
    let mut caller = Stream::open(&ends.client, &lines(head)).await;
    let mut upstream = Stream::accept(&up.server).await;
    upstream.head().await.expect("a head");
    upstream.out.write_all(&status(200)).await.expect("written");
    assert_eq!(caller.status().await, Ok(200));
    Open { caller, upstream, _kept: (ends, up, drain) }
}

const WEBSOCKET: [(&str, &str); 5] = [
    (":method", "CONNECT"),
    (":protocol", "websocket"),
    (":scheme", "https"),
    (":authority", "a.test"),
    (":path", "/"),
];
const CONNECT: [(&str, &str); 2] = [(":method", "CONNECT"), (":authority", "a.test:1")];

#[tokio::test]
async fn each_direction_of_a_tunnel_ends_for_itself() {
    for head in [&WEBSOCKET[..], &CONNECT[..]] {
        let Open { mut caller, mut upstream, _kept } = open(head).await;
        upstream.out.write_all(&data(b"down")).await.expect("written");
        upstream.out.finish().expect("open");
        assert_eq!(caller.rest().await.expect("whole").0, b"down");
        // The way up goes on.
        for piece in ["up", "and up"] {
            caller.out.write_all(&data(piece.as_bytes())).await.expect("written");
            assert_eq!(upstream.next().await, Ok(Some(Event::Data(piece.into()))));
        }
        caller.out.finish().expect("open");
        assert_eq!(upstream.next().await, Ok(None));
    }
}

#[tokio::test]
async fn the_way_down_goes_on_when_the_way_up_has_ended() {
    let Open { mut caller, mut upstream, _kept } = open(&WEBSOCKET).await;
    caller.out.write_all(&data(b"up")).await.expect("written");
    caller.out.finish().expect("open");
    assert_eq!(upstream.rest().await.expect("whole").0, b"up");
    upstream.out.write_all(&data(b"down")).await.expect("written");
    assert_eq!(caller.next().await, Ok(Some(Event::Data("down".into()))));
    upstream.out.finish().expect("open");
    assert_eq!(caller.next().await, Ok(None));
}

#[tokio::test]
async fn a_reset_stays_a_reset() {
    for (head, code) in [(&WEBSOCKET[..], Code::REQUEST_CANCELLED), (&CONNECT[..], Code::CONNECT_ERROR)] {
        let Open { mut caller, mut upstream, _kept } = open(head).await;
        upstream.out.reset(Code::CONNECT_ERROR.var()).expect("open");
        assert_eq!(caller.next().await, Err(code));
        let Open { mut caller, mut upstream, _kept } = open(head).await;
        caller.out.reset(Code::REQUEST_CANCELLED.var()).expect("open");
        assert_eq!(upstream.next().await, Err(Code::REQUEST_CANCELLED));
        assert_eq!(upstream.stopped().await, Some(Code::REQUEST_CANCELLED));
    }
}

#[tokio::test]
async fn a_reset_of_the_way_up_is_heard_after_the_end_of_the_way_down() {
    let Open { mut caller, mut upstream, _kept } = open(&WEBSOCKET).await;
    upstream.out.finish().expect("open");
    assert_eq!(caller.next().await, Ok(None));
    caller.out.reset(Code::REQUEST_CANCELLED.var()).expect("open");
    assert_eq!(upstream.next().await, Err(Code::REQUEST_CANCELLED));
    // And the other way round: an upstream that takes nothing more.
    let Open { mut caller, mut upstream, _kept } = open(&WEBSOCKET).await;
    upstream.out.finish().expect("open");
    assert_eq!(caller.next().await, Ok(None));
    upstream.inbound.stop(Code::REQUEST_CANCELLED.var()).expect("open");
    assert_eq!(caller.stopped().await, Some(Code::REQUEST_CANCELLED));
}
