//! A request body that can be sent again. What an attempt has read is kept, up to a limit; the next attempt
//! reads it from the start and then goes on with what the caller still sends.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::HeaderMap;
use parking_lot::Mutex;

use super::body::{Body, BodyError, Frame, PollBody};
use crate::base::limits;

/// Chunks below this size are copied when they are kept, instead of shared with the buffer they came in.
const COPY_BELOW: usize = 4 * 1024;
/// The first chunks of a body are shared whatever their size: most requests have no more, and are over soon.
const SHARED_CHUNKS: usize = 4;

/// The request body of all attempts of one request.
#[derive(Debug, Clone)]
pub struct Replay(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    source: Body,
    kept: Vec<Bytes>,
    kept_bytes: usize,
    trailers: Option<HeaderMap>,
    source_ended: bool,
    ended_at: Option<Instant>,
    keeping: bool,
    /// Something was read that is no longer kept.
    lost: bool,
    length: Option<u64>,
    received: u64,
}

/// The body of one attempt.
#[derive(Debug)]
pub struct ReplayBody {
    state: Arc<Mutex<State>>,
    /// Kept chunks that this attempt has read.
    read: usize,
    left: Option<u64>,
    ended: bool,
}

impl Replay {
    /// Wraps a body.
    #[must_use]
    pub fn new(source: Body) -> Self {
        let length = source.exact_len();
        let source_ended = source.is_end();
        Self(Arc::new(Mutex::new(State {
            source,
            kept: Vec::new(),
            kept_bytes: 0,
            trailers: None,
            source_ended,
            ended_at: source_ended.then(Instant::now),
            keeping: true,
            lost: false,
            length,
            received: 0,
        })))
    }

    /// The body for the next attempt. The one before must have been dropped.
    #[must_use]
    pub fn attempt(&self) -> Body {
        let state = self.0.lock();
        if state.source_ended && state.kept.is_empty() && state.trailers.is_none() {
            return Body::Empty;
        }
        let left = state.length;
        drop(state);
        Body::Replay(Box::new(ReplayBody { state: Arc::clone(&self.0), read: 0, left, ended: false }))
    }

    /// Whether another attempt would see the whole body.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        !self.0.lock().lost
    }

    /// Bytes that the caller has sent so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.0.lock().received
    }

    /// When the caller had sent the last of it.
    #[must_use]
    pub fn ended(&self) -> Option<Instant> {
        self.0.lock().ended_at
    }

    /// There will be no further attempt: nothing more is kept.
    pub fn commit(&self) {
        let mut state = self.0.lock();
        state.keeping = false;
    }
}

impl State {
    fn keep(&mut self, data: &Bytes) {
        if self.keeping && self.kept_bytes + data.len() <= limits::REPLAY_BYTES {
            self.kept_bytes += data.len();
            // Each small chunk of a long stream may be all that is left of a read buffer of many times its size.
            let small = data.len() < COPY_BELOW && self.kept.len() >= SHARED_CHUNKS;
            self.kept.push(if small { Bytes::copy_from_slice(data) } else { data.clone() });
        } else {
            self.keeping = false;
            self.lost = true;
            self.kept = Vec::new();
            self.kept_bytes = 0;
        }
    }
}

impl PollBody for ReplayBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let shared = Arc::clone(&self.state);
        let mut state = shared.lock();
        let state = &mut *state;
        if let Some(data) = state.kept.get(self.read) {
            self.read += 1;
            let data = data.clone();
            self.note(data.len());
            return Poll::Ready(Some(Ok(Frame::Data(data))));
        }
        if state.source_ended {
            self.ended = true;
            return Poll::Ready(state.trailers.clone().map(|trailers| Ok(Frame::Trailers(trailers))));
        }
        let polled = state.source.poll_frame(cx);
        match &polled {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(Frame::Data(data)))) => {
                state.received += data.len() as u64;
                state.keep(data);
                self.read = state.kept.len();
                state.source_ended = state.source.is_end();
                let n = data.len();
                self.note(n);
            }
            Poll::Ready(Some(Ok(Frame::Trailers(trailers)))) => {
                state.trailers = Some(trailers.clone());
                state.source_ended = true;
                self.ended = true;
            }
            Poll::Ready(None) => {
                state.source_ended = true;
                self.ended = true;
            }
            Poll::Ready(Some(Err(_))) => {
                state.lost = true;
                self.ended = true;
            }
        }
        if state.source_ended && state.ended_at.is_none() {
            state.ended_at = Some(Instant::now());
        }
        polled
    }

    fn poll_progress(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        if self.ended {
            return Ok(());
        }
        self.state.lock().source.poll_progress(cx)
    }

    fn is_end(&self) -> bool {
        if self.ended {
            return true;
        }
        let state = self.state.lock();
        state.source_ended && state.trailers.is_none() && self.read >= state.kept.len()
    }

    fn exact_len(&self) -> Option<u64> {
        self.left
    }
}

impl ReplayBody {
    fn note(&mut self, n: usize) {
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(n as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    fn read(body: &mut Body) -> Option<Bytes> {
        match body.poll_frame(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Some(Ok(Frame::Data(data)))) => Some(data),
            Poll::Ready(None) => None,
            other => panic!("unexpected {other:?}"),
        }
    }

    #[test]
    fn small_chunks_of_a_long_body_do_not_pin_their_buffers() {
        let mut state = Replay::new(Body::Empty);
        let state = Arc::get_mut(&mut state.0).expect("one owner").get_mut();
        let buffer = Bytes::from(vec![7; 64 * 1024]);
        for n in 0..10 {
            state.keep(&buffer.slice(n..n + 5));
        }
        assert_eq!(state.kept_bytes, 50);
        let shared = state.kept.iter().filter(|kept| buffer.as_ptr_range().contains(&kept.as_ptr())).count();
        assert_eq!(shared, SHARED_CHUNKS);
        state.keep(&buffer.slice(..COPY_BELOW));
        assert!(buffer.as_ptr_range().contains(&state.kept[10].as_ptr()), "a large one is shared");
    }

    #[test]
    fn a_second_attempt_reads_the_same_bytes() {
        let replay = Replay::new(Body::Full(Bytes::from_static(b"pay once")));
        for _ in 0..3 {
            let mut attempt = replay.attempt();
            assert_eq!(attempt.exact_len(), Some(8));
            assert_eq!(read(&mut attempt).as_deref(), Some(&b"pay once"[..]));
            assert!(attempt.is_end());
            assert_eq!(read(&mut attempt), None);
        }
        assert!(replay.is_whole());
    }

    #[test]
    fn a_body_over_the_limit_is_not_whole_once_read() {
        let replay = Replay::new(Body::Full(Bytes::from(vec![0; limits::REPLAY_BYTES + 1])));
        assert!(replay.is_whole(), "nothing was read yet");
        let mut attempt = replay.attempt();
        assert!(read(&mut attempt).is_some());
        assert!(!replay.is_whole());
    }

    #[test]
    fn an_empty_body_stays_empty() {
        assert!(matches!(Replay::new(Body::Empty).attempt(), Body::Empty));
    }
}
