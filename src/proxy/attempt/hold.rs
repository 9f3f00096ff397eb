//! The head of a gRPC answer, held back until it shows how the call goes on: one that ends with a status in trailers
//! before any message can still be tried again, and the caller has seen nothing of it.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Instant;

use http::{HeaderMap, StatusCode};

use super::marks::{self, Spent};
use super::one::Try;
use crate::base::limits;
use crate::base::timer::Deadline;
use crate::codec::{
    Body, BodyError, Frame, PollBody, PrefixedBody, Replay, Response, ResponseHead, SendError, SendErrorKind,
};
use crate::proxy::local::grpc_status;

/// A call that ended with trailers before any message, and of which the caller has seen nothing.
pub(super) struct Ended {
    pub(super) head: ResponseHead,
    pub(super) trailers: HeaderMap,
}

impl Ended {
    /// As it came.
    pub(super) fn into_response(self) -> Response<Body> {
        let Self { head, trailers } = self;
        Response { head, body: PrefixedBody::before(Frame::Trailers(trailers), Body::Empty) }
    }
}

/// Whether there is anything to wait for.
pub(super) fn is_open(response: &Response<Body>) -> bool {
    response.head.status == StatusCode::OK
        && !response.body.is_end()
        && grpc_status(&response.head.headers).is_none()
        // Nobody tries it again, so nobody needs to wait: a hop below that has held it says so as well.
        && !marks::is_spent(&response.head.headers)
}

/// Waits for the first frame, for a limited time: a server may send its head long before the first message, and a
/// caller may wait for it. The upload goes on meanwhile; if it outgrows what can be sent again, there is no reason to
/// wait. Dropping the future resets the stream.
pub(super) async fn first_frame(mut response: Response<Body>, replay: Option<&Replay>) -> Try {
    let mut timer = Deadline::default();
    let until = Instant::now() + limits::GRPC_HEAD_HOLD;
    let first = poll_fn(|cx| {
        if let Poll::Ready(frame) = response.body.poll_frame(cx) {
            return Poll::Ready(First::Frame(frame));
        }
        if replay.is_some_and(|replay| !replay.is_whole()) {
            return Poll::Ready(First::Late);
        }
        timer.poll(cx, until).map(|()| First::Late)
    })
    .await;
    match first {
        First::Frame(Some(Ok(Frame::Trailers(trailers)))) => {
            Try::Ended(Box::new(Ended { head: response.head, trailers }))
        }
        First::Frame(Some(Ok(data))) => {
            let Response { head, body } = response;
            Try::Answered(Response { head, body: PrefixedBody::before(data, body) })
        }
        First::Frame(Some(Err(error))) => Try::Send(SendError::maybe(broken(error))),
        First::Frame(None) => Try::Answered(Response { head: response.head, body: Body::Empty }),
        First::Late => {
            marks::mark(&mut response.head.headers, Spent::Held);
            Try::Answered(response)
        }
    }
}

enum First {
    Frame(Option<Result<Frame, BodyError>>),
    Late,
}

/// A body that broke off before the caller has seen anything of the answer: as if no head had come.
fn broken(error: BodyError) -> SendErrorKind {
    match error {
        BodyError::Incomplete => SendErrorKind::Closed,
        BodyError::Reset(reason) => SendErrorKind::Reset(reason),
        BodyError::Malformed(details) => SendErrorKind::BadResponse(details),
        BodyError::Io(kind) => SendErrorKind::Io(kind.into()),
        BodyError::Timeout(_) | BodyError::Denied | BodyError::Abandoned | BodyError::Outrun => {
            SendErrorKind::RequestBody(error)
        }
    }
}
