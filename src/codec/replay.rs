//! A request body that can be sent again. What an attempt has read is kept, up to a limit; the next attempt
//! reads it from the start and then goes on with what the caller still sends.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use parking_lot::Mutex;

use super::body::{Body, BodyError, Frame, PollBody};
use crate::base::limits;

/// The first chunks of a body are shared whatever their size: most requests have no more, and are over soon.
const SHARED_CHUNKS: usize = 4;

/// The request body of all attempts of one request.
#[derive(Debug, Clone)]
pub struct Replay(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    source: Body,
    kept: Vec<Bytes>,
    /// Small chunks that the present attempt has read, joined: each would keep the whole block that it was read
    /// into. They become a chunk of their own when the next attempt begins.
    tail: BytesMut,
    kept_bytes: usize,
    trailers: Option<HeaderMap>,
    source_ended: bool,
    ended_at: Option<Instant>,
    keeping: bool,
    /// Something was read that is no longer kept.
    lost: bool,
    length: Option<u64>,
    received: u64,
    /// Kept chunks that the present attempt has read.
    read: usize,
    /// The body of an attempt is alive.
    in_use: bool,
    /// The present attempt is the last.
    committed: bool,
}

/// The body of one attempt.
#[derive(Debug)]
pub struct ReplayBody {
    state: Arc<Mutex<State>>,
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
            tail: BytesMut::new(),
            kept_bytes: 0,
            trailers: None,
            source_ended,
            ended_at: source_ended.then(Instant::now),
            keeping: true,
            lost: false,
            length,
            received: 0,
            read: 0,
            in_use: false,
            committed: false,
        })))
    }

    /// The body for the next attempt. The one before must have been dropped.
    #[must_use]
    pub fn attempt(&self) -> Body {
        let mut state = self.0.lock();
        debug_assert!(!state.in_use, "two attempts at once");
        state.seal();
        state.read = 0;
        if state.source_ended && state.kept.is_empty() && state.trailers.is_none() {
            return Body::Empty;
        }
        state.in_use = true;
        let left = state.length;
        drop(state);
        Body::Replay(Box::new(ReplayBody { state: Arc::clone(&self.0), left, ended: false }))
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

    /// There will be no further attempt: what was kept is given back as soon as it is read, and the caller's body
    /// as soon as nobody reads it.
    pub fn commit(&self) {
        let mut state = self.0.lock();
        state.keeping = false;
        state.committed = true;
        if !state.in_use {
            let source = state.release();
            drop(state);
            drop(source);
            return;
        }
        let read = state.read;
        for chunk in &mut state.kept[..read] {
            *chunk = Bytes::new();
        }
        state.tail = BytesMut::new();
    }
}

impl State {
    fn keep(&mut self, data: &Bytes) {
        if self.keeping && self.kept_bytes + data.len() <= limits::REPLAY_BYTES {
            self.kept_bytes += data.len();
            if data.len() >= JOIN_BELOW || self.kept.len() < SHARED_CHUNKS {
                self.seal();
                self.kept.push(data.clone());
            } else {
                self.tail.extend_from_slice(data);
            }
        } else {
            self.keeping = false;
            self.lost = true;
            self.kept = Vec::new();
            self.tail = BytesMut::new();
            self.kept_bytes = 0;
        }
        self.read = self.kept.len();
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.kept.push(std::mem::take(&mut self.tail).freeze());
        }
    }

    fn next_kept(&mut self) -> Option<Bytes> {
        let chunk = self.kept.get_mut(self.read)?;
        self.read += 1;
        Some(if self.committed { std::mem::take(chunk) } else { chunk.clone() })
    }

    /// Gives everything back; the source must be dropped without the lock.
    fn release(&mut self) -> Body {
        self.lost = true;
        self.kept = Vec::new();
        self.tail = BytesMut::new();
        self.read = 0;
        std::mem::replace(&mut self.source, Body::Empty)
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
        if let Some(data) = state.next_kept() {
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
        let mut state = self.state.lock();
        if state.source_ended || state.read < state.kept.len() {
            return Ok(());
        }
        state.source.poll_progress(cx)
    }

    fn is_end(&self) -> bool {
        if self.ended {
            return true;
        }
        let state = self.state.lock();
        state.source_ended && state.trailers.is_none() && state.read >= state.kept.len()
    }

    fn exact_len(&self) -> Option<u64> {
        self.left
    }
}

impl Drop for ReplayBody {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        state.in_use = false;
        if state.committed {
            let source = state.release();
            drop(state);
            drop(source);
        }
    }
}

impl ReplayBody {
    fn note(&mut self, n: usize) {
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(n as u64);
        }
    }
}

/// Chunks below this size are copied together.
const JOIN_BELOW: usize = 4 * 1024;

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
        state.keep(&buffer.slice(..JOIN_BELOW));
        assert!(buffer.as_ptr_range().contains(&state.kept[5].as_ptr()), "a large one is shared");
        assert_eq!(state.kept[4].len(), 6 * 5, "those before it were joined");
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

    #[test]
    fn chunks_of_a_byte_do_not_keep_a_block_each() {
        let replay = Replay::new(Body::Full(Bytes::from_static(b"x")));
        let mut state = replay.0.lock();
        for _ in 0..1000 {
            state.keep(&Bytes::from(vec![7; 8192]).slice(..1));
        }
        assert_eq!((state.kept.len(), state.tail.len()), (SHARED_CHUNKS, 1000 - SHARED_CHUNKS));
        state.keep(&Bytes::from(vec![8; JOIN_BELOW]));
        state.keep(&Bytes::from_static(&[9]));
        drop(state);
        drop(replay.attempt());
        let sizes: Vec<usize> = replay.0.lock().kept.iter().map(Bytes::len).collect();
        assert_eq!(sizes, [1, 1, 1, 1, 996, JOIN_BELOW, 1]);
    }

    #[test]
    fn what_was_kept_goes_with_the_last_attempt() {
        let replay = Replay::new(Body::Full(Bytes::from(vec![1; 10_000])));
        let mut attempt = replay.attempt();
        assert!(read(&mut attempt).is_some());
        drop(attempt);
        let mut last = replay.attempt();
        replay.commit();
        assert_eq!(read(&mut last).map(|data| data.len()), Some(10_000), "a retry still reads what was kept");
        assert!(replay.0.lock().kept.iter().all(Bytes::is_empty), "and gives it back");
        drop(last);
        assert_eq!(replay.received(), 10_000);
    }

    #[test]
    fn the_callers_body_is_given_back_when_nobody_reads_it() {
        for committed_first in [true, false] {
            let replay = Replay::new(Body::Full(Bytes::from(vec![1; 10])));
            let attempt = replay.attempt();
            if committed_first {
                replay.commit();
                drop(attempt);
            } else {
                drop(attempt);
                assert!(matches!(replay.0.lock().source, Body::Full(_)), "another attempt may need it");
                replay.commit();
            }
            assert!(matches!(replay.0.lock().source, Body::Empty));
        }
    }
}
