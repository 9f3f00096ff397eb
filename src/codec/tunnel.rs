//! The way up of a tunnel: the request's body, which nobody reads before an answer has agreed to the tunnel, and which
//! whoever answers for the tunnel may end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use parking_lot::Mutex;

use super::body::{Body, BodyError, Frame, PollBody};
use super::websocket::Frames;

/// The way up of one tunnel. Several attempts at opening it may each be given it, because none reads before it has the
/// answer.
#[derive(Debug, Clone)]
pub struct WayUp(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Bytes so far. Written by whoever holds the lock.
    received: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    source: Body,
    /// Of a WebSocket.
    frames: Option<Frames>,
    end: End,
}

#[derive(Debug)]
enum End {
    /// It goes on.
    Open,
    /// This is to be said, if a frame may follow here, and then no more.
    Closing(Option<Bytes>),
    Ended,
}

/// The same, as the body of a request.
#[derive(Debug)]
pub struct WayUpBody {
    shared: Arc<Shared>,
    ended: bool,
}

impl WayUp {
    /// The way up of a tunnel whose request has this body. With `frames` it carries WebSocket.
    #[must_use]
    pub fn new(source: Body, frames: Option<Frames>) -> Self {
        let state = Mutex::new(State { source, frames, end: End::Open });
        Self(Arc::new(Shared { received: AtomicU64::new(0), state }))
    }

    /// The body of an attempt at opening the tunnel.
    #[must_use]
    pub fn attempt(&self) -> Body {
        Body::WayUp(Box::new(WayUpBody { shared: Arc::clone(&self.0), ended: false }))
    }

    /// Bytes that the caller has sent so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.0.received.load(Ordering::Relaxed)
    }

    /// Ends it: what the caller sends goes no further. A WebSocket between two frames says `last` before. Its body must be
    /// polled after this.
    pub fn close(&self, last: Option<Bytes>) {
        let mut state = self.0.state.lock();
        if matches!(state.end, End::Open) {
            state.end = End::Closing(last);
        }
    }

    /// There is no tunnel: the caller's body is given back.
    pub fn give_up(&self) {
        let source = {
            let mut state = self.0.state.lock();
            state.end = End::Ended;
            std::mem::replace(&mut state.source, Body::Empty)
        };
        drop(source);
    }
}

impl State {
    fn poll(&mut self, received: &AtomicU64, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        match &mut self.end {
            End::Open => {}
            End::Closing(last) => {
                let last = last.take().filter(|_| self.frames.as_ref().is_some_and(Frames::may_close));
                self.end = End::Ended;
                return Poll::Ready(last.map(|last| Ok(Frame::Data(last))));
            }
            End::Ended => return Poll::Ready(None),
        }
        let polled = self.source.poll_frame(cx);
        if let Poll::Ready(Some(Ok(Frame::Data(data)))) = &polled {
            received.store(received.load(Ordering::Relaxed) + data.len() as u64, Ordering::Relaxed);
            if let Some(frames) = &mut self.frames {
                frames.pass(data);
            }
        }
        polled
    }
}

impl PollBody for WayUpBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let polled = self.shared.state.lock().poll(&self.shared.received, cx);
        self.ended = matches!(polled, Poll::Ready(None | Some(Err(_))));
        polled
    }

    fn poll_progress(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        self.shared.state.lock().source.poll_progress(cx)
    }

    fn is_end(&self) -> bool {
        self.ended
    }

    fn exact_len(&self) -> Option<u64> {
        None
    }
}
