//! A body whose beginning was read ahead: what was read, then the rest.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;

use super::body::{Body, BodyError, Frame, PollBody};

/// A body of which something was read already.
#[derive(Debug)]
pub struct PrefixedBody {
    front: VecDeque<Bytes>,
    /// Read as well; then there is no rest.
    trailers: Option<HeaderMap>,
    rest: Body,
}

/// What was read of the beginning of a body.
#[derive(Debug)]
pub struct Peeked {
    /// The whole body again.
    pub body: Body,
    /// Its first bytes, in pieces; of the last piece more may have been read than was asked for.
    pub start: Vec<Bytes>,
    /// There is no more than that.
    pub whole: bool,
}

impl PrefixedBody {
    /// Reads the first `limit` bytes of a body, or all of a shorter one. Not cancel safe: the body is lost.
    ///
    /// # Errors
    /// When the body breaks off.
    pub async fn peek(mut body: Body, limit: usize) -> Result<Peeked, BodyError> {
        let mut front = VecDeque::new();
        let mut trailers = None;
        let mut left = limit;
        let mut whole = body.is_end();
        while left > 0 && !whole {
            match std::future::poll_fn(|cx| body.poll_frame(cx)).await {
                Some(Ok(Frame::Data(data))) => {
                    left = left.saturating_sub(data.len());
                    front.push_back(data);
                    whole = body.is_end();
                }
                Some(Ok(Frame::Trailers(fields))) => {
                    trailers = Some(fields);
                    whole = true;
                }
                Some(Err(error)) => return Err(error),
                None => whole = true,
            }
        }
        if whole {
            body = Body::Empty;
        }
        let start = front.iter().cloned().collect();
        let body = if front.is_empty() && trailers.is_none() {
            body
        } else {
            Body::Prefixed(Box::new(Self { front, trailers, rest: body }))
        };
        Ok(Peeked { body, start, whole })
    }
}

impl PrefixedBody {
    /// A body of which one frame was read, as it was.
    #[must_use]
    pub fn before(frame: Frame, rest: Body) -> Body {
        let (front, trailers, rest) = match (frame, rest) {
            (Frame::Data(data), Body::H2Client(mut rest)) => {
                rest.unread(data);
                return Body::H2Client(rest);
            }
            (Frame::Data(data), rest) => (VecDeque::from([data]), None, rest),
            (Frame::Trailers(trailers), _) => (VecDeque::new(), Some(trailers), Body::Empty),
        };
        Body::Prefixed(Box::new(Self { front, trailers, rest }))
    }
}

#[cfg(test)]
impl PrefixedBody {
    /// A body of these pieces.
    pub(super) fn of(pieces: impl IntoIterator<Item = Bytes>, trailers: Option<HeaderMap>) -> Body {
        Body::Prefixed(Box::new(Self { front: pieces.into_iter().collect(), trailers, rest: Body::Empty }))
    }
}

impl PollBody for PrefixedBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        if let Some(data) = self.front.pop_front() {
            return Poll::Ready(Some(Ok(Frame::Data(data))));
        }
        match self.trailers.take() {
            Some(trailers) => Poll::Ready(Some(Ok(Frame::Trailers(trailers)))),
            None => self.rest.poll_frame(cx),
        }
    }

    fn poll_progress(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        self.rest.poll_progress(cx)
    }

    fn is_end(&self) -> bool {
        self.front.is_empty() && self.trailers.is_none() && self.rest.is_end()
    }

    fn exact_len(&self) -> Option<u64> {
        // With a length there would be no place for trailers in HTTP/1 (RFC 9112 section 6.3).
        if self.trailers.is_some() {
            return None;
        }
        let front: usize = self.front.iter().map(Bytes::len).sum();
        Some(self.rest.exact_len()? + front as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn drain(mut body: Body) -> (Vec<u8>, Option<HeaderMap>) {
        let (mut all, mut trailers) = (Vec::new(), None);
        while let Some(frame) = std::future::poll_fn(|cx| body.poll_frame(cx)).await {
            match frame.expect("a good body") {
                Frame::Data(data) => all.extend_from_slice(&data),
                Frame::Trailers(fields) => trailers = Some(fields),
            }
        }
        assert!(body.is_end());
        (all, trailers)
    }

    #[tokio::test]
    async fn a_short_body_is_read_whole_and_is_there_again() {
        let peeked = PrefixedBody::peek(Body::Full("hello".into()), 10).await.expect("read");
        assert!(peeked.whole);
        assert_eq!((peeked.start.concat(), peeked.body.exact_len()), (b"hello".to_vec(), Some(5)));
        assert_eq!(drain(peeked.body).await.0, b"hello");
    }

    #[tokio::test]
    async fn of_a_long_body_only_the_start_is_read() {
        let inner = PrefixedBody {
            front: ["ab", "cd", "ef"].map(Bytes::from).into(),
            trailers: None,
            rest: Body::Full("gh".into()),
        };
        let peeked = PrefixedBody::peek(Body::Prefixed(Box::new(inner)), 3).await.expect("read");
        assert!(!peeked.whole);
        assert_eq!((peeked.start.concat(), peeked.body.exact_len()), (b"abcd".to_vec(), Some(8)));
        assert_eq!(drain(peeked.body).await.0, b"abcdefgh");
    }

    #[tokio::test]
    async fn trailers_that_were_read_are_not_lost() {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", http::HeaderValue::from_static("1"));
        let inner =
            PrefixedBody { front: ["ab"].map(Bytes::from).into(), trailers: Some(trailers.clone()), rest: Body::Empty };
        let peeked = PrefixedBody::peek(Body::Prefixed(Box::new(inner)), 10).await.expect("read");
        assert!(peeked.whole && peeked.body.exact_len().is_none());
        assert_eq!(drain(peeked.body).await, (b"ab".to_vec(), Some(trailers)));
    }

    #[tokio::test]
    async fn nothing_stays_nothing() {
        let peeked = PrefixedBody::peek(Body::Empty, 10).await.expect("read");
        assert!(peeked.whole && peeked.start.is_empty() && matches!(peeked.body, Body::Empty));
    }
}
