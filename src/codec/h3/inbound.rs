//! The receiving half of a request stream.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::HeaderMap;
use quinn::{ConnectionError, ReadError, RecvStream};

use super::code::Code;
use super::frames::{Broken, Event, Frames, Side};
use super::lost;
use super::qpack::{self, DecodeError, Section};
use crate::base::limits;
use crate::codec::body::{BodyError, Frame};
use crate::codec::error::ResetCode;
use crate::codec::heads::fields;

/// What a field section may need beyond its fields: pseudo-header fields count, and a path or an authority are bounded with the
/// fields. Those that are too large by less than this are answered by whoever judges heads.
const PSEUDO_MARGIN: usize = 512;

/// Bytes of a body that nobody reads which are looked at.
const LOOKED_THROUGH: usize = 64 * 1024;

/// Streams that we gave up because a caller's message was malformed, over the life of a connection. More end it: each may have
/// made work that came to nothing (CVE-2025-8671).
const MALFORMED: u32 = 1024;

const TRAILERS_TOO_LARGE: Fault = Fault::Malformed("the trailer section is too large");

/// How many there were; shared by the streams of a connection. Upstreams are not counted: a connection to one is shared by
/// callers who cannot help it.
pub(super) type Malformed = Option<Arc<AtomicU32>>;

/// Reads frames of one stream: of requests on a server, of responses on a client. Whoever polls takes from the stream's
/// window, so that a slow writer holds the sender back. Dropped before its end it asks the sender to stop.
#[derive(Debug)]
pub(super) struct Inbound {
    stream: RecvStream,
    connection: quinn::Connection,
    malformed: Malformed,
    frames: Frames,
    /// Largest field section.
    max_section: usize,
    /// Arrived, and not looked at.
    chunk: Bytes,
    /// Looked at, and not handed out.
    ahead: Option<Event>,
    phase: Phase,
    /// Bytes of the body that were not looked at, where declared.
    remaining: Option<u64>,
    trailers: Option<HeaderMap>,
    /// What the sender is told when this is dropped early.
    code: Code,
    /// Waits for the next frame.
    reader: Option<Waker>,
    /// Waits for the end of the exchange.
    watcher: Option<Waker>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Open,
    /// The peer has sent everything, and it was read.
    End,
    Failed(Fault),
}

/// Why a stream cannot be read on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The connection is being closed for what the peer did on this stream.
    Broken(Broken),
    /// A malformed message: a stream error.
    Malformed(&'static str),
    /// The peer reset it.
    Reset(Code),
    /// The connection has ended.
    Lost(ConnectionError),
    /// The server took none of our early data.
    EarlyDataRejected,
}

/// What stands before a body.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "it is on the stack of whoever takes it apart at once")]
pub(super) enum Head {
    Section(Section),
    TooLarge,
    /// The stream ended before it.
    None,
}

impl Inbound {
    pub(super) fn new(
        (connection, malformed): (quinn::Connection, Malformed),
        stream: RecvStream,
        side: Side,
        max_head_bytes: usize,
    ) -> Self {
        let max_section = max_head_bytes.saturating_add(PSEUDO_MARGIN);
        Self {
            stream,
            connection,
            malformed,
            frames: Frames::new(side, max_section),
            max_section,
            chunk: Bytes::new(),
            ahead: None,
            phase: Phase::Open,
            remaining: None,
            trailers: None,
            code: if side == Side::Server { Code::NO_ERROR } else { Code::REQUEST_CANCELLED },
            reader: None,
            watcher: None,
        }
    }

    /// The next head.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, Fault>> {
        Poll::Ready(match ready!(self.poll_event(cx))? {
            Some(Event::Headers(section)) => match qpack::decode(&section, self.max_section) {
                Ok(section) => Ok(Head::Section(section)),
                Err(DecodeError::TooLarge) => Ok(Head::TooLarge),
                Err(error) => Err(self.undecodable(error)),
            },
            Some(Event::TooLarge) => Ok(Head::TooLarge),
            // The frames see to it that there is no DATA before a head.
            Some(Event::Data(_)) | None => Ok(Head::None),
        })
    }

    /// The head was that of an interim response.
    pub(super) fn expect_head(&mut self) {
        self.frames.expect_head();
    }

    /// The head is followed by a body of this many bytes, where that was declared.
    pub(super) fn expect_body(&mut self, length: Option<u64>) {
        self.remaining = length;
    }

    /// From now on nothing but DATA may come.
    pub(super) fn become_tunnel(&mut self) {
        self.frames.become_tunnel();
        // It came before we had agreed.
        if matches!(self.ahead, Some(Event::Headers(_) | Event::TooLarge)) {
            self.ahead = None;
            self.fail(Fault::Broken(Broken::new(Code::FRAME_UNEXPECTED, "HEADERS in a tunnel")));
        }
    }

    /// Looks at what comes next, between frames: that the stream has ended, or breaks a rule, is known then. An error comes
    /// again where it is expected.
    pub(super) fn look_ahead(&mut self, cx: &mut Context<'_>) {
        if self.phase == Phase::Open
            && self.ahead.is_none()
            && self.frames.data_missing() == 0
            && let Poll::Ready(Ok(event)) = self.poll_event(cx)
        {
            self.ahead = event;
        }
    }

    /// Ready once the piece of the body that was looked at is here as its sender wrote it: with the rest of its frame, and
    /// with the end of the stream behind all that was declared. So it is when nothing is here, or what is to come is more
    /// than `most` bytes. An error comes again where it is expected.
    pub(super) fn poll_piece(&mut self, cx: &mut Context<'_>, most: u64) -> Poll<()> {
        while let Some(Event::Data(data)) = &self.ahead {
            let missing = self.frames.data_missing();
            let is_piece = missing == 0 && self.remaining != Some(0);
            if is_piece || self.phase != Phase::Open || missing.saturating_add(data.len() as u64) > most {
                break;
            }
            match ready!(self.poll_next(cx)) {
                Ok(Some(Event::Data(more))) => {
                    if let Some(Event::Data(data)) = &mut self.ahead {
                        *data = [&data[..], &more].concat().into();
                    }
                }
                Ok(Some(Event::Headers(section))) => drop(self.keep_trailers(&section)),
                Ok(Some(Event::TooLarge)) => drop(self.fail(TRAILERS_TOO_LARGE)),
                Ok(None) | Err(_) => {}
            }
        }
        Poll::Ready(())
    }

    /// Reads what has arrived, up to a limit, of a body that nobody reads: what is wrong with it.
    pub(super) fn look_through(&mut self, cx: &mut Context<'_>) -> Option<Fault> {
        let mut seen = 0;
        while seen < LOOKED_THROUGH {
            match self.poll_body(cx) {
                Poll::Ready(Ok(Some(Frame::Data(data)))) => seen += data.len(),
                Poll::Ready(Ok(Some(Frame::Trailers(_)))) => {}
                Poll::Ready(Ok(None)) | Poll::Pending => return None,
                Poll::Ready(Err(fault)) => return Some(fault),
            }
        }
        None
    }

    /// The next frame of the body.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        let polled = self.poll_body(cx);
        if polled.is_pending() && !self.reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
            self.reader = Some(cx.waker().clone());
        }
        polled.map(|frame| match frame {
            Ok(frame) => frame.map(Ok),
            Err(fault) => Some(Err(fault.of_body())),
        })
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, Fault>> {
        loop {
            match ready!(self.poll_event(cx))? {
                Some(Event::Data(data)) => {
                    self.look_ahead(cx);
                    return Poll::Ready(Ok(Some(Frame::Data(data))));
                }
                // Handed out when nothing follows them, so that what may not follow is noticed.
                Some(Event::Headers(section)) => self.keep_trailers(&section)?,
                Some(Event::TooLarge) => return Poll::Ready(Err(self.fail(TRAILERS_TOO_LARGE))),
                None => return Poll::Ready(Ok(self.trailers.take().map(Frame::Trailers))),
            }
        }
    }

    fn keep_trailers(&mut self, section: &[u8]) -> Result<(), Fault> {
        match self.trailers_of(section) {
            Ok(trailers) => self.trailers = trailers,
            Err(fault) => return Err(self.fail(fault)),
        }
        Ok(())
    }

    fn trailers_of(&mut self, section: &[u8]) -> Result<Option<HeaderMap>, Fault> {
        let section = qpack::decode(section, limits::TRAILER_BYTES).map_err(|error| self.undecodable(error))?;
        // RFC 9114 section 4.3.
        if section.has_pseudo() {
            return Err(Fault::Malformed("pseudo-header fields in trailers"));
        }
        fields::check_trailers(section.headers).map_err(|_| Fault::Malformed("malformed trailers"))
    }

    /// The next event; `None` at the end.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Event>, Fault>> {
        if let Some(event) = self.ahead.take() {
            return Poll::Ready(Ok(Some(event)));
        }
        self.poll_next(cx)
    }

    /// The event behind the one that was looked at.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Event>, Fault>> {
        loop {
            match &self.phase {
                Phase::Open => {}
                Phase::End => return Poll::Ready(Ok(None)),
                Phase::Failed(fault) => return Poll::Ready(Err(fault.clone())),
            }
            match self.frames.next(&mut self.chunk) {
                Ok(Some(event)) => {
                    self.count(&event)?;
                    return Poll::Ready(Ok(Some(event)));
                }
                Ok(None) => {}
                Err(broken) => return Poll::Ready(Err(self.fail(Fault::Broken(broken)))),
            }
            if !ready!(self.poll_fill(cx))? {
                if let Err(broken) = self.frames.finish() {
                    return Poll::Ready(Err(self.fail(Fault::Broken(broken))));
                }
                if self.remaining.is_some_and(|remaining| remaining > 0) {
                    return Poll::Ready(Err(self.fail(Fault::Malformed("a body shorter than its Content-Length"))));
                }
                self.phase = Phase::End;
            }
        }
    }

    /// Bodies agree with their declared length.
    fn count(&mut self, event: &Event) -> Result<(), Fault> {
        if let (Event::Data(data), Some(remaining)) = (event, &mut self.remaining) {
            match remaining.checked_sub(data.len() as u64) {
                Some(left) => *remaining = left,
                None => return Err(self.fail(Fault::Malformed("a body longer than its Content-Length"))),
            }
        }
        Ok(())
    }

    /// Reads on, when everything was looked at; false at the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Fault>> {
        let read = ready!(pin!(self.stream.read_chunk(usize::MAX, true)).poll(cx));
        Poll::Ready(match read {
            Ok(Some(chunk)) => {
                self.chunk = chunk.bytes;
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(error) => Err(self.fail(Fault::of_read(error))),
        })
    }

    /// Ready with what went wrong, while nobody reads. Reads one piece ahead for that: what is behind a piece that nobody
    /// takes is not seen.
    pub(super) fn poll_fault(&mut self, cx: &mut Context<'_>) -> Poll<Fault> {
        match &self.phase {
            Phase::Open => {}
            Phase::End => return Poll::Pending,
            Phase::Failed(fault) => return Poll::Ready(fault.clone()),
        }
        if self.reader.as_ref().is_some_and(|reader| !reader.will_wake(cx.waker())) {
            // Another task reads, and there is one waker for each stream: it is told.
            self.watcher = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if self.chunk.is_empty()
            && let Poll::Ready(Err(fault)) = self.poll_fill(cx)
        {
            return Poll::Ready(fault);
        }
        Poll::Pending
    }

    /// What went wrong, if something did.
    pub(super) fn fault(&self) -> Option<&Fault> {
        if let Phase::Failed(fault) = &self.phase { Some(fault) } else { None }
    }

    pub(super) fn is_end(&self) -> bool {
        self.phase == Phase::End && self.ahead.is_none() && self.trailers.is_none()
    }

    /// Bytes of the body to come, where known.
    pub(super) fn exact_len(&self) -> Option<u64> {
        let ahead = if let Some(Event::Data(data)) = &self.ahead { data.len() as u64 } else { 0 };
        if self.is_end() { Some(0) } else { self.remaining.map(|remaining| remaining + ahead) }
    }

    /// Asks the sender to stop, if it has not.
    pub(super) fn stop(&mut self, code: Code) {
        self.code = code;
        if self.phase == Phase::Open {
            // It may have been stopped already.
            let _ = self.stream.stop(code.var());
            self.ahead = None;
            self.phase = Phase::Failed(Fault::Reset(code));
        }
    }

    fn undecodable(&mut self, error: DecodeError) -> Fault {
        match error {
            DecodeError::Failed(detail) => {
                self.fail(Fault::Broken(Broken::new(Code::QPACK_DECOMPRESSION_FAILED, detail)))
            }
            DecodeError::Malformed(detail) => self.fail(Fault::Malformed(detail)),
            DecodeError::TooLarge => self.fail(Fault::Malformed("a field section that is too large")),
        }
    }

    /// Remembers what went wrong, and does what the RFC asks for.
    fn fail(&mut self, fault: Fault) -> Fault {
        match fault {
            Fault::Broken(broken) => lost::close(&self.connection, broken),
            Fault::Malformed(detail) => {
                tracing::debug!(detail, "a malformed HTTP/3 message");
                let _ = self.stream.stop(Code::MESSAGE_ERROR.var());
                if let Some(malformed) = &self.malformed
                    && malformed.fetch_add(1, Ordering::Relaxed) >= MALFORMED
                {
                    lost::close(&self.connection, Broken::new(Code::EXCESSIVE_LOAD, "too many malformed messages"));
                }
            }
            Fault::Reset(_) | Fault::Lost(_) | Fault::EarlyDataRejected => {}
        }
        self.phase = Phase::Failed(fault.clone());
        if let Some(watcher) = self.watcher.take() {
            watcher.wake();
        }
        fault
    }
}

impl Drop for Inbound {
    fn drop(&mut self) {
        if self.phase == Phase::Open {
            let _ = self.stream.stop(self.code.var());
        }
    }
}

impl Fault {
    fn of_read(error: ReadError) -> Self {
        match error {
            ReadError::Reset(code) => Self::Reset(code.into()),
            ReadError::ConnectionLost(error) => Self::Lost(error),
            ReadError::ZeroRttRejected => Self::EarlyDataRejected,
            // It was stopped by us, and ordered reads are all there are.
            ReadError::ClosedStream | ReadError::IllegalOrderedRead => Self::Lost(ConnectionError::LocallyClosed),
        }
    }

    /// As the end of a body.
    pub(super) fn of_body(&self) -> BodyError {
        match self {
            Self::Broken(broken) => BodyError::Malformed(broken.detail),
            Self::Malformed(detail) => BodyError::Malformed(detail),
            Self::Reset(code) => BodyError::Reset(ResetCode::Http3(*code)),
            Self::Lost(error) => lost::of_body(error),
            Self::EarlyDataRejected => BodyError::Incomplete,
        }
    }
}
