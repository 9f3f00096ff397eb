//! The sending half of a stream.

use std::task::{Context, Poll};

use bytes::Bytes;
use h2::{Reason, SendStream};

use crate::codec::body::{BodyError, Frame, PollBody};
use crate::codec::heads::fields;

/// A first chunk up to this size goes to the library before the peer's window is asked, so that it leaves in
/// the same write as the request head. Every peer grants 64 KiB to begin with, unless it says otherwise.
const FIRST_FLIGHT: usize = 16 * 1024;

/// Moves a body into a stream. Holds at most one chunk, and hands it on as the peer grants it.
#[derive(Debug)]
pub(super) struct Pump<B> {
    stream: SendStream<Bytes>,
    body: B,
    chunk: Bytes,
    /// Nothing was sent and nothing was waited for yet.
    eager: bool,
}

/// Why a pump stopped early.
#[derive(Debug)]
pub(super) enum Stopped {
    /// The body failed. The stream is untouched: reset it.
    Body(BodyError),
    /// The stream was reset, or its connection ended.
    Stream,
}

impl<B: PollBody> Pump<B> {
    /// For a stream whose head was sent.
    pub(super) fn new(stream: SendStream<Bytes>, body: B) -> Self {
        Self { stream, body, chunk: Bytes::new(), eager: false }
    }

    /// For a stream whose head is still on its way: see [`FIRST_FLIGHT`].
    pub(super) fn eager(stream: SendStream<Bytes>, body: B) -> Self {
        Self { eager: true, ..Self::new(stream, body) }
    }

    /// Moves what can be moved. Ready when everything, with its end, is in the library's hands.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stopped>> {
        loop {
            if self.chunk.is_empty() {
                match self.body.poll_frame(cx) {
                    Poll::Pending => {
                        self.eager = false;
                        return Poll::Pending;
                    }
                    Poll::Ready(Some(Ok(Frame::Data(chunk)))) => self.chunk = chunk,
                    Poll::Ready(Some(Ok(Frame::Trailers(mut trailers)))) => {
                        fields::make_sendable(&mut trailers);
                        return Poll::Ready(self.stream.send_trailers(trailers).map_err(|_| Stopped::Stream));
                    }
                    Poll::Ready(None) => return Poll::Ready(self.send(Bytes::new(), true)),
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(Stopped::Body(error))),
                }
                if self.chunk.is_empty() {
                    continue;
                }
                if !(self.eager && self.chunk.len() <= FIRST_FLIGHT) {
                    self.stream.reserve_capacity(self.chunk.len());
                }
            }
            let granted = if std::mem::take(&mut self.eager) && self.chunk.len() <= FIRST_FLIGHT {
                self.chunk.len()
            } else {
                self.stream.capacity()
            };
            if granted == 0 {
                match self.stream.poll_capacity(cx) {
                    Poll::Ready(Some(Ok(_))) => continue,
                    Poll::Ready(None | Some(Err(_))) => return Poll::Ready(Err(Stopped::Stream)),
                    Poll::Pending => {}
                }
                // Blocked on the peer: the other direction may still move, and a deadline may pass.
                return match self.body.poll_progress(cx) {
                    Ok(()) => Poll::Pending,
                    Err(error) => Poll::Ready(Err(Stopped::Body(error))),
                };
            }
            let piece =
                if granted < self.chunk.len() { self.chunk.split_to(granted) } else { std::mem::take(&mut self.chunk) };
            let last = self.chunk.is_empty() && self.body.is_end();
            if let Err(stopped) = self.send(piece, last) {
                return Poll::Ready(Err(stopped));
            }
            if last {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// After everything was sent: what is left of the exchange. See [`PollBody::poll_rest`].
    pub(super) fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stopped>> {
        self.body.poll_rest(cx).map_err(Stopped::Body)
    }

    /// Ready once the peer has reset the stream or the connection has ended.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_reset(cx).map(|_| ())
    }

    /// Gives the stream up.
    pub(super) fn reset(&mut self, reason: Reason) {
        self.stream.send_reset(reason);
    }

    fn send(&mut self, data: Bytes, last: bool) -> Result<(), Stopped> {
        self.stream.send_data(data, last).map_err(|_| Stopped::Stream)
    }
}
