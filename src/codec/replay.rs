//! A request body that can be sent again. What an attempt has read is kept, up to a limit; the next attempt
//! reads it from the start and then goes on with what the caller still sends.
//!
//! Several attempts may read it at once, as long as one task polls them all (each is woken as the last that was
//! polled). Should the body outgrow the limit meanwhile, the one that reads on keeps the body and the others fail with
//! [`BodyError::Outrun`].

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::body::{Body, BodyError, Frame, PollBody};

/// The first chunks of a body are shared whatever their size: most requests have no more, and are over soon.
const SHARED_CHUNKS: usize = 4;

/// The request body of all attempts of one request.
#[derive(Debug, Clone)]
pub struct Replay(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    source: Body,
    kept: Vec<Bytes>,
    /// Small chunks that were read, joined: each would keep the whole block that it was read into. They become a
    /// chunk of their own when an attempt reads them again.
    tail: BytesMut,
    kept_bytes: usize,
    /// Of `kept_bytes`.
    limit: usize,
    trailers: Option<HeaderMap>,
    source_ended: bool,
    ended_at: Option<Instant>,
    /// What the caller's body broke off with.
    failed: Option<BodyError>,
    keeping: bool,
    /// Something was read that is no longer kept.
    lost: bool,
    length: Option<u64>,
    received: u64,
    /// The attempts whose bodies are alive.
    readers: SmallVec<[Reader; 1]>,
    /// There will be no further attempt.
    committed: bool,
}

/// How far an attempt has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    /// No attempt: a place for the next one.
    Gone,
    /// Up to this byte of this kept chunk; the tail counts as the last chunk.
    At { chunk: usize, offset: usize },
    /// What it would read next is gone.
    Outrun,
}

/// The body of one attempt.
#[derive(Debug)]
pub struct ReplayBody {
    state: Arc<Mutex<State>>,
    reader: usize,
    left: Option<u64>,
    ended: bool,
}

impl ReplayBody {
    /// What it is an attempt of.
    #[must_use]
    pub fn replay(&self) -> Replay {
        Replay(Arc::clone(&self.state))
    }
}

impl Replay {
    /// Wraps a body, of which up to `limit` bytes are kept.
    #[must_use]
    pub fn new(source: Body, limit: usize) -> Self {
        let length = source.exact_len();
        let source_ended = source.is_end();
        Self(Arc::new(Mutex::new(State {
            source,
            kept: Vec::new(),
            tail: BytesMut::new(),
            kept_bytes: 0,
            limit,
            trailers: None,
            source_ended,
            ended_at: source_ended.then(Instant::now),
            failed: None,
            keeping: true,
            lost: false,
            length,
            received: 0,
            readers: SmallVec::new(),
            committed: false,
        })))
    }

    /// The body for a further attempt, from its start. It fails at once unless the body is whole
    /// ([`Replay::is_whole`]).
    #[must_use]
    pub fn attempt(&self) -> Body {
        let mut state = self.0.lock();
        if state.source_ended && state.is_exhausted() && state.failed.is_none() && !state.lost {
            return Body::Empty;
        }
        let reader = state.enter();
        let left = state.length;
        drop(state);
        Body::Replay(Box::new(ReplayBody { state: Arc::clone(&self.0), reader, left, ended: false }))
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
        if !state.in_use() {
            let source = state.release();
            drop(state);
            drop(source);
            return;
        }
        state.give_back();
    }
}

impl State {
    fn in_use(&self) -> bool {
        self.readers.iter().any(|reader| *reader != Reader::Gone)
    }

    /// Nothing is kept, neither data nor trailers.
    fn is_exhausted(&self) -> bool {
        self.kept.is_empty() && self.tail.is_empty() && self.trailers.is_none()
    }

    fn enter(&mut self) -> usize {
        let start = if self.lost { Reader::Outrun } else { Reader::At { chunk: 0, offset: 0 } };
        match self.readers.iter().position(|reader| *reader == Reader::Gone) {
            Some(place) => {
                self.readers[place] = start;
                place
            }
            None => {
                self.readers.push(start);
                self.readers.len() - 1
            }
        }
    }

    /// Keeps what `reader` has read from the source.
    fn keep(&mut self, data: &Bytes, reader: usize) {
        if self.keeping && self.kept_bytes + data.len() <= self.limit {
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
            self.readers.iter_mut().filter(|other| **other != Reader::Gone).for_each(|other| *other = Reader::Outrun);
        }
        self.readers[reader] = Reader::At { chunk: self.kept.len(), offset: self.tail.len() };
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.kept.push(std::mem::take(&mut self.tail).freeze());
        }
    }

    /// What is kept and `reader` has not read yet.
    fn next_kept(&mut self, reader: usize) -> Option<Bytes> {
        loop {
            let Reader::At { chunk, offset } = self.readers[reader] else { return None };
            if chunk == self.kept.len() {
                if offset == self.tail.len() {
                    return None;
                }
                self.seal();
            }
            self.readers[reader] = Reader::At { chunk: chunk + 1, offset: 0 };
            let data = self.kept[chunk].slice(offset..);
            if self.committed {
                self.give_back();
            }
            if !data.is_empty() {
                return Some(data);
            }
        }
    }

    /// Whether `reader` has read all that is kept.
    fn is_ahead(&self, reader: usize) -> bool {
        let rest = |chunk: usize, offset: usize| match self.kept.get(chunk..) {
            Some([first, rest @ ..]) => {
                first.len() - offset + rest.iter().map(Bytes::len).sum::<usize>() + self.tail.len()
            }
            _ => self.tail.len() - offset,
        };
        match self.readers[reader] {
            Reader::At { chunk, offset } => rest(chunk, offset) == 0,
            Reader::Gone | Reader::Outrun => true,
        }
    }

    /// Empties the chunks that all attempts have read.
    fn give_back(&mut self) {
        let (mut whole, mut tail_read) = (self.kept.len(), true);
        for reader in &self.readers {
            if let Reader::At { chunk, offset } = *reader {
                whole = whole.min(chunk);
                tail_read &= chunk == self.kept.len() && offset == self.tail.len();
            }
        }
        for chunk in &mut self.kept[..whole] {
            *chunk = Bytes::new();
        }
        if tail_read && !self.tail.is_empty() {
            self.tail = BytesMut::new();
            let end = Reader::At { chunk: self.kept.len(), offset: 0 };
            self.readers
                .iter_mut()
                .filter(|reader| matches!(reader, Reader::At { .. }))
                .for_each(|reader| *reader = end);
        }
    }

    /// Gives everything back; the source must be dropped without the lock.
    fn release(&mut self) -> Body {
        self.lost = true;
        self.kept = Vec::new();
        self.tail = BytesMut::new();
        std::mem::replace(&mut self.source, Body::Empty)
    }

    fn poll_source(&mut self, cx: &mut Context<'_>, reader: usize) -> Poll<Option<Result<Frame, BodyError>>> {
        let polled = self.source.poll_frame(cx);
        match &polled {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(Ok(Frame::Data(data)))) => {
                self.received += data.len() as u64;
                self.keep(data, reader);
                self.source_ended = self.source.is_end();
            }
            Poll::Ready(Some(Ok(Frame::Trailers(trailers)))) => {
                self.trailers = Some(trailers.clone());
                self.source_ended = true;
            }
            Poll::Ready(None) => self.source_ended = true,
            Poll::Ready(Some(Err(error))) => {
                self.lost = true;
                self.failed = Some(*error);
            }
        }
        if self.source_ended && self.ended_at.is_none() {
            self.ended_at = Some(Instant::now());
        }
        if self.readers.len() > 1 {
            // Another attempt may have been waiting for this, and is polled by the same task.
            cx.waker().wake_by_ref();
        }
        polled
    }
}

impl PollBody for ReplayBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let polled = self.poll_shared(cx);
        match &polled {
            Poll::Ready(Some(Ok(Frame::Data(data)))) => {
                if let Some(left) = &mut self.left {
                    *left = left.saturating_sub(data.len() as u64);
                }
            }
            Poll::Ready(_) => self.ended = true,
            Poll::Pending => {}
        }
        polled
    }

    fn poll_progress(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        let mut state = self.state.lock();
        if state.readers[self.reader] == Reader::Outrun {
            return Err(BodyError::Outrun);
        }
        if state.source_ended || !state.is_ahead(self.reader) {
            return Ok(());
        }
        state.source.poll_progress(cx)
    }

    fn is_end(&self) -> bool {
        if self.ended {
            return true;
        }
        let state = self.state.lock();
        state.source_ended
            && state.trailers.is_none()
            && state.readers[self.reader] != Reader::Outrun
            && state.is_ahead(self.reader)
    }

    fn exact_len(&self) -> Option<u64> {
        self.left
    }
}

impl Drop for ReplayBody {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        state.readers[self.reader] = Reader::Gone;
        if state.committed && !state.in_use() {
            let source = state.release();
            drop(state);
            drop(source);
        }
    }
}

impl ReplayBody {
    fn poll_shared(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        let mut state = self.state.lock();
        if state.readers[self.reader] == Reader::Outrun {
            return Poll::Ready(Some(Err(BodyError::Outrun)));
        }
        if let Some(data) = state.next_kept(self.reader) {
            return Poll::Ready(Some(Ok(Frame::Data(data))));
        }
        if let Some(error) = state.failed {
            return Poll::Ready(Some(Err(error)));
        }
        if state.source_ended {
            return Poll::Ready(state.trailers.clone().map(|trailers| Ok(Frame::Trailers(trailers))));
        }
        state.poll_source(cx, self.reader)
    }
}

/// Chunks below this size are copied together.
const JOIN_BELOW: usize = 4 * 1024;

#[cfg(test)]
mod tests;
