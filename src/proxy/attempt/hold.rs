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
/// wait. Dropping the future resets the stream. `came` is when the head did.
pub(super) async fn first_frame(mut response: Response<Body>, replay: Option<&Replay>, came: Instant) -> Try {
    let mut timer = Deadline::default();
    let until = came + limits::GRPC_HEAD_HOLD;
    let first = poll_fn(|cx| {
        if let Poll::Ready(frame) = response.body.poll_frame(cx) {
            return Poll::Ready(Some(frame));
        }
        if replay.is_some_and(|replay| !replay.is_whole()) {
            return Poll::Ready(None);
        }
        timer.poll(cx, until).map(|()| None)
    })
    .await;
    match first {
        Some(frame) => shown(response, frame),
        None => {
            marks::mark(&mut response.head.headers, Spent::Held);
            Try::Answered(response)
        }
    }
}

/// What the first frame of its body makes of a response: the end of the attempt, or an answer that begins with it.
pub(super) fn shown(response: Response<Body>, first: Option<Result<Frame, BodyError>>) -> Try {
    let Response { head, body } = response;
    match first {
        Some(Ok(Frame::Trailers(trailers))) => Try::Ended(Box::new(Ended { head, trailers })),
        Some(Ok(data)) => Try::Answered(Response { head, body: PrefixedBody::before(data, body) }),
        Some(Err(error)) => Try::Send(SendError::maybe(broken(error))),
        None => Try::Answered(Response { head, body: Body::Empty }),
    }
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderValue;

    use super::*;

    fn response(body: Body) -> Response<Body> {
        Response { head: ResponseHead { status: StatusCode::OK, headers: HeaderMap::new() }, body }
    }

    #[tokio::test]
    async fn a_message_that_was_read_ahead_is_passed_on_without_a_copy() {
        let message = Bytes::from(vec![7; 1 << 20]);
        let Try::Answered(mut answer) = first_frame(response(Body::Full(message.clone())), None, Instant::now()).await
        else {
            panic!("a message is an answer")
        };
        let frame = poll_fn(|cx| answer.body.poll_frame(cx)).await;
        let Some(Ok(Frame::Data(data))) = frame else { panic!("data, not {frame:?}") };
        assert_eq!((data.as_ptr(), data.len()), (message.as_ptr(), message.len()));
        assert!(answer.body.is_end() && answer.head.headers.is_empty());
    }

    #[tokio::test]
    async fn trailers_before_any_message_are_the_end_of_the_attempt() {
        let trailers: HeaderMap =
            [(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("14"))].into_iter().collect();
        let body = PrefixedBody::before(Frame::Trailers(trailers.clone()), Body::Empty);
        let Try::Ended(ended) = first_frame(response(body), None, Instant::now()).await else { panic!("it ended") };
        assert_eq!(ended.trailers, trailers);
        let mut again = ended.into_response();
        let frame = poll_fn(|cx| again.body.poll_frame(cx)).await;
        assert!(matches!(frame, Some(Ok(Frame::Trailers(fields))) if fields == trailers), "as it came");
    }

    #[test]
    fn there_is_nothing_to_wait_for_in_an_answer_that_says_how_it_went() {
        let open = || response(Body::Full(Bytes::from_static(b"x")));
        assert!(is_open(&open()));
        let mut failed = open();
        failed.head.status = StatusCode::SERVICE_UNAVAILABLE;
        assert!(!is_open(&failed));
        let mut told = open();
        told.head.headers.insert("grpc-status", HeaderValue::from_static("0"));
        assert!(!is_open(&told));
        let mut held_below = open();
        marks::mark(&mut held_below.head.headers, Spent::Held);
        assert!(!is_open(&held_below), "delays of hops do not add up");
        assert!(!is_open(&response(Body::Empty)));
    }
}
