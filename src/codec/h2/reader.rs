//! The receiving half of a stream.

use std::collections::VecDeque;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::RecvStream;

use super::fault;
use crate::codec::body::{BodyError, Frame};

/// Frames below this size that wait for a blocked writer are copied together: the library keeps about 250 bytes
/// beside every one, and each pins the read buffer it came in.
const MERGE_BELOW: usize = 4 * 1024;
/// Merged frames are sealed at this size, so that growing never copies much.
const SEGMENT: usize = 16 * 1024;

/// Hands out what the peer sends on one stream, and opens the stream's window as it is handed out: whoever
/// polls can take it, so a slow writer holds the sender back.
#[derive(Debug)]
pub(super) struct Reader {
    stream: RecvStream,
    /// What was taken from the library while the writer was blocked. Its window is not released.
    held: Option<Box<Held>>,
    phase: Phase,
    /// Bytes to come, by `content-length`.
    remaining: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Data,
    Trailers,
    End,
}

#[derive(Debug, Default)]
struct Held {
    chunks: VecDeque<Bytes>,
    tail: BytesMut,
    /// Comes when everything held was handed out.
    error: Option<BodyError>,
}

impl Reader {
    pub(super) fn new(stream: RecvStream, length: Option<u64>) -> Self {
        Self { stream, held: None, phase: Phase::Data, remaining: length }
    }

    /// The next frame. Trailers are as they arrived.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        if let Some(held) = &mut self.held {
            if let Some(data) = held.pop() {
                return self.hand_out(data);
            }
            if let Some(error) = held.error {
                return self.end(Some(Err(error)));
            }
            self.held = None;
        }
        while self.phase == Phase::Data {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => return self.hand_out(data),
                Some(Err(error)) => return self.end(Some(Err(fault::of_body(&error)))),
                None => self.phase = Phase::Trailers,
            }
        }
        if self.phase == Phase::End {
            return Poll::Ready(None);
        }
        match ready!(self.stream.poll_trailers(cx)) {
            Ok(Some(trailers)) => self.end(Some(Ok(Frame::Trailers(trailers)))),
            Ok(None) => self.end(None),
            Err(error) => self.end(Some(Err(fault::of_body(&error)))),
        }
    }

    /// Called while the writer cannot take a frame: takes what has arrived out of the library and packs it.
    /// Bounded by the stream's window, which stays closed.
    pub(super) fn hold_back(&mut self, cx: &mut Context<'_>) {
        while self.phase == Phase::Data && self.held.as_ref().is_none_or(|held| held.error.is_none()) {
            match self.stream.poll_data(cx) {
                Poll::Pending => return,
                Poll::Ready(Some(Ok(data))) if data.is_empty() => {}
                Poll::Ready(Some(Ok(data))) => self.held.get_or_insert_default().push(data),
                Poll::Ready(Some(Err(error))) => {
                    self.held.get_or_insert_default().error = Some(fault::of_body(&error));
                }
                Poll::Ready(None) => self.phase = Phase::Trailers,
            }
        }
    }

    pub(super) fn is_end(&self) -> bool {
        self.phase == Phase::End || (self.held.is_none() && self.stream.is_end_stream())
    }

    pub(super) fn exact_len(&self) -> Option<u64> {
        if self.is_end() { Some(0) } else { self.remaining }
    }

    fn hand_out(&mut self, data: Bytes) -> Poll<Option<Result<Frame, BodyError>>> {
        if let Some(remaining) = &mut self.remaining {
            *remaining = remaining.saturating_sub(data.len() as u64);
        }
        // Fails only for more than was received, which cannot be.
        let _ = self.stream.flow_control().release_capacity(data.len());
        if self.held.as_ref().is_some_and(|held| held.is_empty()) {
            self.held = None;
        }
        Poll::Ready(Some(Ok(Frame::Data(data))))
    }

    fn end(&mut self, last: Option<Result<Frame, BodyError>>) -> Poll<Option<Result<Frame, BodyError>>> {
        self.phase = Phase::End;
        self.held = None;
        Poll::Ready(last)
    }
}

impl Held {
    fn push(&mut self, data: Bytes) {
        if data.len() >= MERGE_BELOW {
            self.seal();
            self.chunks.push_back(data);
            return;
        }
        if self.tail.len() + data.len() > SEGMENT {
            self.seal();
        }
        self.tail.extend_from_slice(&data);
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.chunks.push_back(std::mem::take(&mut self.tail).freeze());
        }
    }

    fn pop(&mut self) -> Option<Bytes> {
        self.chunks.pop_front().or_else(|| (!self.tail.is_empty()).then(|| std::mem::take(&mut self.tail).freeze()))
    }

    fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.tail.is_empty() && self.error.is_none()
    }
}
