//! The sending half of a request stream.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use quinn::{ConnectionError, SendStream, WriteError};
use smallvec::SmallVec;

use super::code::Code;
use super::control::Settings;
use super::frames;
use super::qpack::Encoder;
use crate::codec::body::{BodyError, Frame, PollBody};
use crate::codec::heads::fields;

/// Bytes for a head, and for the headers of the frames behind it: nearly every message needs one allocation.
const SCRATCH: usize = 512;

/// What is to be written to a stream. Dropped before its end it resets the stream: a message that is cut off must not pass
/// for a whole one.
#[derive(Debug)]
pub(super) struct Outbound {
    stream: SendStream,
    queue: SmallVec<[Bytes; 3]>,
    scratch: BytesMut,
    limit: SectionLimit,
    /// What the receiver is told when this is dropped early.
    code: Code,
    ended: bool,
    /// Something was handed to the library.
    begun: bool,
    /// Bytes that were.
    written: u64,
}

/// The largest field section that the peer of a connection takes (RFC 9114 section 4.2.2): any, before it has said.
#[derive(Debug, Clone)]
pub(super) struct SectionLimit(Arc<AtomicU64>);

/// A field section is larger than the peer takes. Nothing of it was queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLarge;

impl SectionLimit {
    /// The peer has said what it takes.
    pub(super) fn hear(&self, settings: &Settings) {
        self.0.store(settings.max_field_section_size.unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Default for SectionLimit {
    fn default() -> Self {
        Self(Arc::new(AtomicU64::new(u64::MAX)))
    }
}

/// Why a stream cannot be written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Gone {
    /// The peer asked to stop.
    Stopped(Code),
    /// The connection has ended.
    Lost(ConnectionError),
    /// The server took none of our early data.
    EarlyDataRejected,
}

impl Outbound {
    pub(super) fn new(stream: SendStream, code: Code, limit: &SectionLimit) -> Self {
        let (queue, scratch, limit) = (SmallVec::new(), BytesMut::new(), limit.clone());
        Self { stream, queue, scratch, limit, code, ended: false, begun: false, written: 0 }
    }

    /// Queues a HEADERS frame.
    ///
    /// # Errors
    /// The peer takes none of this size.
    pub(super) fn queue_head(&mut self, encode: impl FnOnce(&mut Encoder<'_>)) -> Result<(), TooLarge> {
        if self.scratch.capacity() == 0 {
            self.scratch.reserve(SCRATCH);
        }
        let mut size = 0;
        frames::put_headers(&mut self.scratch, |buffer| {
            let mut encoder = Encoder::new(buffer);
            encode(&mut encoder);
            size = encoder.size();
        });
        let head = self.scratch.split().freeze();
        if size > self.limit.0.load(Ordering::Relaxed) {
            return Err(TooLarge);
        }
        self.queue.push(head);
        Ok(())
    }

    /// Queues a DATA frame.
    fn queue_data(&mut self, data: Bytes) {
        frames::put_data_header(&mut self.scratch, data.len());
        self.queue.push(self.scratch.split().freeze());
        self.queue.push(data);
    }

    /// Queues bytes as they are.
    pub(super) fn queue_raw(&mut self, bytes: Bytes) {
        self.queue.push(bytes);
    }

    /// Pieces that wait.
    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Something was handed to the library, which may have sent it.
    pub(super) fn is_begun(&self) -> bool {
        self.begun
    }

    /// Ready once everything is in the library's hands. Written is as much as it and the peer have room for.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        while !self.queue.is_empty() {
            let written = match ready!(pin!(self.stream.write_chunks(&mut self.queue)).poll(cx)) {
                Ok(written) => written,
                Err(error) => return Poll::Ready(Err(Gone::of_write(error))),
            };
            self.begun = true;
            self.written += written.bytes as u64;
            self.queue.drain(..written.chunks);
        }
        Poll::Ready(Ok(()))
    }

    /// Nothing follows.
    pub(super) fn finish(&mut self) {
        self.ended = true;
        // Fails only when there is nothing to finish.
        let _ = self.stream.finish();
    }

    /// Gives the stream up.
    pub(super) fn reset(&mut self, code: Code) {
        if !std::mem::replace(&mut self.ended, true) {
            let _ = self.stream.reset(code.var());
        }
    }

    /// Resolves when the peer asks to stop, or the connection ends; never once the peer has everything.
    pub(super) fn stopped(&self) -> impl Future<Output = ()> + Send + Sync + use<> {
        let stopped = self.stream.stopped();
        async move {
            if matches!(stopped.await, Ok(None)) {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Until the peer has everything, does not want it, or the connection has ended.
pub(super) type Delivery = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Drop for Outbound {
    fn drop(&mut self) {
        self.reset(self.code);
    }
}

impl Gone {
    fn of_write(error: WriteError) -> Self {
        match error {
            WriteError::Stopped(code) => Self::Stopped(code.into()),
            WriteError::ConnectionLost(error) => Self::Lost(error),
            WriteError::ZeroRttRejected => Self::EarlyDataRejected,
            // We finished or reset it.
            WriteError::ClosedStream => Self::Lost(ConnectionError::LocallyClosed),
        }
    }
}

/// Moves a body into a stream. Holds at most one chunk, and hands it on as the peer takes it.
#[derive(Debug)]
pub(super) struct Pump<B> {
    out: Outbound,
    body: B,
    /// The body has ended, or needs not be sent.
    last: bool,
    /// The body is not touched for now.
    held: bool,
}

/// Why a pump stopped early.
#[derive(Debug)]
pub(super) enum Stopped {
    /// The body failed. The stream is untouched: reset it.
    Body(BodyError),
    /// The peer wants no more, or the connection has ended.
    Stream(Gone),
}

impl<B: PollBody> Pump<B> {
    /// For a stream whose head is queued.
    pub(super) fn new(out: Outbound, body: B, bodiless: bool) -> Self {
        let last = bodiless || body.is_end();
        Self { out, body, last, held: false }
    }

    /// For a stream whose head is queued, and whose body is not to be touched before [`Pump::release`].
    pub(super) fn held(out: Outbound, body: B) -> Self {
        Self { out, body, last: false, held: true }
    }

    /// Lets the body go.
    pub(super) fn release(&mut self) {
        self.held = false;
        self.last = self.body.is_end();
    }

    /// Moves what can be moved. Ready when everything, with its end, is in the library's hands.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stopped>> {
        loop {
            // A first chunk joins the head, so that both leave in the same write.
            let waits = self.held || !self.last && self.out.queued() <= 1 && self.poll_body(cx)?.is_pending();
            match self.out.poll_flush(cx) {
                Poll::Ready(Ok(())) if self.last => {
                    self.out.finish();
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Ok(())) if waits => return Poll::Pending,
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(gone)) => return Poll::Ready(Err(Stopped::Stream(gone))),
                // Blocked on the peer: the other direction may still move, and a deadline may pass.
                Poll::Pending if self.held => return Poll::Pending,
                Poll::Pending => {
                    return match self.body.poll_progress(cx) {
                        Ok(()) => Poll::Pending,
                        Err(error) => Poll::Ready(Err(Stopped::Body(error))),
                    };
                }
            }
        }
    }

    /// Queues what comes next of the body.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Stopped> {
        match self.body.poll_frame(cx) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(Some(Ok(Frame::Data(data)))) => {
                if !data.is_empty() {
                    self.out.queue_data(data);
                }
                self.last = self.body.is_end();
            }
            Poll::Ready(Some(Ok(Frame::Trailers(mut trailers)))) => {
                fields::make_sendable(&mut trailers);
                if self.out.queue_head(|section| section.fields(&trailers)) == Err(TooLarge) {
                    let detail = "a trailer section is larger than its receiver takes";
                    return Err(Stopped::Body(BodyError::Malformed(detail)));
                }
                self.last = true;
            }
            Poll::Ready(None) => self.last = true,
            Poll::Ready(Some(Err(error))) => return Err(Stopped::Body(error)),
        }
        Ok(Poll::Ready(()))
    }

    /// Gives the stream up.
    pub(super) fn reset(&mut self, code: Code) {
        self.out.reset(code);
    }

    /// Ends the stream where it is.
    pub(super) fn finish(mut self) {
        self.out.finish();
    }

    /// Something was handed to the library, which may have sent it.
    pub(super) fn is_begun(&self) -> bool {
        self.out.is_begun()
    }

    /// Bytes that were handed to the library.
    pub(super) fn written(&self) -> u64 {
        self.out.written
    }

    /// Of what was handed to the library, when that is everything.
    pub(super) fn delivery(&self) -> Delivery {
        let stopped = self.out.stream.stopped();
        Box::pin(async move {
            let _ = stopped.await;
        })
    }

    /// As [`Outbound::stopped`].
    pub(super) fn stopped(&self) -> impl Future<Output = ()> + Send + Sync + use<B> {
        self.out.stopped()
    }

    /// After everything was sent: what is left of the exchange. See [`PollBody::poll_rest`].
    pub(super) fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stopped>> {
        self.body.poll_rest(cx).map_err(Stopped::Body)
    }
}
