//! A body that is copied as it streams, for somebody else who reads the copy at a pace of his own. The chunks are
//! shared, not copied. The copy never holds the original up: a reader who falls too far behind loses it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use parking_lot::Mutex;

use super::body::{Body, BodyError, Frame, PollBody};

/// The original: its source, and what of it is not read yet by the reader of the copy.
#[derive(Debug)]
pub struct TeeBody {
    source: Body,
    /// `None` once the copy is whole, or given up.
    copy: Option<Arc<Shared>>,
}

/// The copy.
#[derive(Debug)]
pub struct CopyBody {
    copy: Arc<Shared>,
    left: Option<u64>,
    ended: bool,
}

/// Room for what copies hold that are not read yet, and how much of it is taken.
#[derive(Debug)]
pub struct CopyRoom {
    /// Of all copies together.
    pub all: usize,
    /// Of one.
    pub each: usize,
    taken: AtomicUsize,
}

#[derive(Debug)]
struct Shared {
    room: Arc<CopyRoom>,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    chunks: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
    taken: usize,
    state: State,
    reader: Option<Waker>,
}

/// How far the original is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Going,
    Whole,
    /// It broke off, or the reader fell too far behind.
    Broken,
    /// Nobody reads the copy any more.
    Unread,
}

impl CopyRoom {
    /// Room for so many bytes in all and for each copy.
    #[must_use]
    pub fn new(all: usize, each: usize) -> Arc<Self> {
        Arc::new(Self { all, each, taken: AtomicUsize::new(0) })
    }

    /// What is taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    fn take(&self, cost: usize) -> bool {
        let before = self.taken.fetch_add(cost, Ordering::Relaxed);
        let fits = before.saturating_add(cost) <= self.all;
        if !fits {
            self.give_back(cost);
        }
        fits
    }

    fn give_back(&self, cost: usize) {
        self.taken.fetch_sub(cost, Ordering::Relaxed);
    }
}

/// Splits a body into itself and a copy.
#[must_use]
pub fn tee(source: Body, room: &Arc<CopyRoom>) -> (Body, Body) {
    if source.is_end() {
        return (source, Body::Empty);
    }
    let copy = Arc::new(Shared { room: Arc::clone(room), queue: Mutex::default() });
    let left = source.exact_len();
    let original = TeeBody { source, copy: Some(Arc::clone(&copy)) };
    (Body::Tee(Box::new(original)), Body::Copy(Box::new(CopyBody { copy, left, ended: false })))
}

impl Shared {
    /// False when the copy is given up.
    fn push(&self, data: &Bytes) -> bool {
        let cost = cost(data);
        let mut queue = self.queue.lock();
        if queue.state == State::Unread {
            return false;
        }
        if queue.taken + cost > self.room.each || !self.room.take(cost) {
            self.end(queue, State::Broken);
            return false;
        }
        queue.taken += cost;
        queue.chunks.push_back(data.clone());
        let reader = queue.reader.take();
        drop(queue);
        if let Some(reader) = reader {
            reader.wake();
        }
        true
    }

    fn finish(&self, trailers: Option<HeaderMap>) {
        let mut queue = self.queue.lock();
        queue.trailers = trailers;
        self.end(queue, State::Whole);
    }

    fn end(&self, mut queue: parking_lot::MutexGuard<'_, Queue>, state: State) {
        if queue.state != State::Going {
            return;
        }
        queue.state = state;
        if state != State::Whole {
            self.clear(&mut queue);
        }
        let reader = queue.reader.take();
        drop(queue);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    fn clear(&self, queue: &mut Queue) {
        queue.chunks = VecDeque::new();
        self.room.give_back(std::mem::take(&mut queue.taken));
    }
}

impl PollBody for TeeBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        let polled = self.source.poll_frame(cx);
        let Some(copy) = &self.copy else { return polled };
        let goes_on = match &polled {
            Poll::Pending => true,
            Poll::Ready(Some(Ok(Frame::Data(data)))) => {
                let kept = copy.push(data);
                let over = self.source.is_end();
                if kept && over {
                    copy.finish(None);
                }
                kept && !over
            }
            Poll::Ready(Some(Ok(Frame::Trailers(trailers)))) => {
                copy.finish(Some(trailers.clone()));
                false
            }
            Poll::Ready(None) => {
                copy.finish(None);
                false
            }
            // Its end breaks the copy off.
            Poll::Ready(Some(Err(_))) => true,
        };
        if !goes_on {
            self.copy = None;
        }
        polled
    }

    fn poll_progress(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        self.source.poll_progress(cx)
    }

    fn is_end(&self) -> bool {
        self.source.is_end()
    }

    fn exact_len(&self) -> Option<u64> {
        self.source.exact_len()
    }
}

impl Drop for TeeBody {
    fn drop(&mut self) {
        if let Some(copy) = &self.copy {
            copy.end(copy.queue.lock(), State::Broken);
        }
    }
}

impl PollBody for CopyBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let mut queue = self.copy.queue.lock();
        if let Some(data) = queue.chunks.pop_front() {
            queue.taken -= cost(&data);
            self.copy.room.give_back(cost(&data));
            if let Some(left) = &mut self.left {
                *left = left.saturating_sub(data.len() as u64);
            }
            return Poll::Ready(Some(Ok(Frame::Data(data))));
        }
        match queue.state {
            State::Going => {
                queue.reader = Some(cx.waker().clone());
                Poll::Pending
            }
            State::Whole => {
                self.ended = true;
                Poll::Ready(queue.trailers.take().map(|trailers| Ok(Frame::Trailers(trailers))))
            }
            State::Broken | State::Unread => {
                self.ended = true;
                Poll::Ready(Some(Err(BodyError::Abandoned)))
            }
        }
    }

    fn poll_progress(&mut self, _: &mut Context<'_>) -> Result<(), BodyError> {
        match self.copy.queue.lock().state {
            State::Broken => Err(BodyError::Abandoned),
            State::Going | State::Whole | State::Unread => Ok(()),
        }
    }

    fn is_end(&self) -> bool {
        if self.ended {
            return true;
        }
        let queue = self.copy.queue.lock();
        queue.state == State::Whole && queue.chunks.is_empty() && queue.trailers.is_none()
    }

    fn exact_len(&self) -> Option<u64> {
        self.left
    }
}

impl Drop for CopyBody {
    fn drop(&mut self) {
        let mut queue = self.copy.queue.lock();
        queue.state = State::Unread;
        self.copy.clear(&mut queue);
    }
}

/// What a chunk takes of the room: a small one may keep the block alive that it was read into.
fn cost(data: &Bytes) -> usize {
    data.len().max(SMALL)
}

const SMALL: usize = 4 * 1024;

#[cfg(test)]
mod tests;
