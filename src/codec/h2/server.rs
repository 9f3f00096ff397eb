//! The server side of an HTTP/2 connection.
//!
//! One task owns the connection: it reads frames, hands every new stream to a task of its own ([`super::exchange`])
//! and writes what the streams have ready. It waits for no stream.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::{Reason, RecvStream, server};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::exchange;
use super::now;
use super::reader::Reader;
use super::wire::Wire;
use crate::base::drain::{Notice, Watch};
use crate::base::limits;
use crate::base::pressure::PressureWatch;
use crate::base::timer::Deadline;
use crate::codec::body::{BodyError, Frame, PollBody};
use crate::codec::haste::{Haste, Verdict};
use crate::codec::heads::fields;
use crate::codec::heads::request::HeadLimits;
use crate::codec::message::{Handler, ServerOptions};

/// The library answers heads over its own limit with a bare 431 and tells nobody. Ours is this much lower than
/// what it is given, so that nearly all of them are answered, counted and explained by the handler.
const HEADER_LIST_MARGIN: usize = 2;
/// Streams that the caller reset before they were looked at (CVE-2023-44487). More end the connection.
const PENDING_RESETS: usize = 64;
/// Streams that the library itself had to reset, over the life of the connection (CVE-2025-8671).
const LOCAL_ERRORS: usize = 1024;
/// Streams reset by us that are remembered, so that what is still in flight on them is no error. As many as
/// may be open: under overload all of them may be answered before their uploads were read.
const REMEMBERED_RESETS: usize = 1024;
/// Bookkeeping that a caller may cause with DATA frames of under 256 bytes that nobody has read yet.
const SMALL_FRAME_BUDGET: usize = 4 * 1024 * 1024;
/// How long a caller without open streams may take to answer our GOAWAY, and then to take our last bytes.
const CLOSE_GRACE: Duration = Duration::from_secs(5);

/// Serves one connection until it ends, is idle too long, or is told to finish.
///
/// Dropping the future closes the connection and cancels every request on it.
pub async fn serve<IO, H>(io: IO, handler: Arc<H>, options: ServerOptions)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    let ServerOptions {
        max_head_bytes,
        max_headers,
        max_concurrent_streams,
        header_timeout,
        idle_timeout,
        retire_at,
        scheme,
        mut drain,
        pressure,
    } = options;
    let wire = Wire::new(io);
    let handshake = builder(max_head_bytes, max_concurrent_streams).handshake(wire.clone());
    let Ok(Ok(connection)) = tokio::time::timeout(header_timeout, handshake).await else {
        tracing::debug!("no HTTP/2 preface");
        return;
    };
    wire.take_turns();
    let mut connection = Box::new(Connection {
        connection,
        wire: wire.clone(),
        handler,
        haste: Arc::default(),
        head_limits: HeadLimits { max_bytes: max_head_bytes, max_fields: max_headers, scheme },
        idle_timeout,
        pressure: pressure.clone(),
        draining: drain.clone(),
        retire_at,
        idle_since: None,
        phase: Phase::Open,
        timer: Deadline::default(),
    });
    {
        let mut begun = pin!(drain.begun());
        let mut listening = pin!(listen(pressure));
        let mut draining = false;
        poll_fn(|cx| {
            if !draining && let Poll::Ready(notice) = begun.as_mut().poll(cx) {
                draining = true;
                connection.drain(notice);
            }
            // It is woken by a change, and looks at its time limits then.
            let _ = listening.as_mut().poll(cx);
            connection.poll(cx)
        })
        .await;
    }
    let clean = connection.phase != Phase::Broken;
    drop(connection);
    if clean {
        linger(wire).await;
    }
}

/// Hears of changes of the pressure for as long as it is polled; never resolves.
async fn listen(mut pressure: PressureWatch) {
    loop {
        pressure.changed().await;
    }
}

fn builder(max_head_bytes: usize, max_concurrent_streams: u32) -> server::Builder {
    let header_list = u32::try_from(max_head_bytes.saturating_mul(HEADER_LIST_MARGIN)).unwrap_or(u32::MAX);
    let mut builder = server::Builder::new();
    builder
        .max_header_list_size(header_list)
        .max_concurrent_streams(max_concurrent_streams)
        .initial_window_size(limits::H2_SERVER_STREAM_WINDOW)
        .initial_connection_window_size(limits::H2_SERVER_CONNECTION_WINDOW)
        .max_send_buffer_size(limits::H2_SEND_BUFFER)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(Some(LOCAL_ERRORS))
        .max_concurrent_reset_streams(REMEMBERED_RESETS)
        .data_frame_budget(SMALL_FRAME_BUDGET)
        .enable_connect_protocol();
    builder
}

struct Connection<IO, H> {
    connection: server::Connection<Wire<IO>, Bytes>,
    wire: Wire<IO>,
    handler: Arc<H>,
    haste: Arc<Haste>,
    head_limits: HeadLimits,
    idle_timeout: Duration,
    pressure: PressureWatch,
    /// For tunnels.
    draining: Watch,
    /// By age, or by a drain.
    retire_at: Option<Instant>,
    /// Since when no stream is open.
    idle_since: Option<Instant>,
    phase: Phase,
    timer: Deadline,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// GOAWAY was sent, and streams that the caller opened before it knew are still accepted.
    Closing {
        since: Instant,
    },
    /// The caller did not answer; the connection ends as soon as the last bytes are out.
    Aborting {
        since: Instant,
    },
    /// Reading or writing failed.
    Broken,
}

impl<IO, H> Connection<IO, H>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    fn drain(&mut self, notice: Notice) {
        let at = notice.since + notice.own_share();
        self.retire_at = Some(self.retire_at.map_or(at, |age| age.min(at)));
    }

    /// Ready when the connection has ended.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.poll_streams(cx).is_ready() {
                return Poll::Ready(());
            }
            if self.poll_timer(cx).is_pending() {
                break;
            }
            if self.phase == Phase::Broken {
                return Poll::Ready(());
            }
        }
        if let Poll::Ready(Err(error)) = self.wire.poll_release(cx) {
            tracing::debug!(%error, "writing to an HTTP/2 downstream failed");
            self.phase = Phase::Broken;
            return Poll::Ready(());
        }
        Poll::Pending
    }

    fn poll_streams(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match ready!(self.connection.poll_accept(cx)) {
                Some(Ok((request, respond))) => {
                    exchange::start(&self.handler, request, respond, &self.head_limits, (&self.draining, &self.haste));
                    self.judge();
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, "an HTTP/2 downstream connection failed");
                    if error.is_io() {
                        self.phase = Phase::Broken;
                    }
                    return Poll::Ready(());
                }
                None => return Poll::Ready(()),
            }
        }
    }

    /// A caller that cancels what it has just asked for is sent away.
    fn judge(&mut self) {
        match (self.haste.verdict(), self.phase) {
            (Verdict::Retires, Phase::Open) => self.retire_at = Some(now()),
            (Verdict::Ends, Phase::Open | Phase::Closing { .. }) => {
                self.phase = Phase::Aborting { since: now() };
                self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            }
            _ => {}
        }
    }

    /// Ready when a time limit was reached and acted upon: the library must be polled again.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let idle_since = if self.connection.has_streams() {
            self.idle_since = None;
            None
        } else {
            Some(*self.idle_since.get_or_insert_with(now))
        };
        match self.phase {
            Phase::Open => {
                let patience = if self.pressure.shrinks() {
                    self.idle_timeout.min(limits::PRESSURE_IDLE)
                } else {
                    self.idle_timeout
                };
                let idle_until = idle_since.map(|since| since + patience);
                let at = [idle_until, self.retire_at].into_iter().flatten().min();
                ready!(self.timer.poll_opt(cx, at));
                self.phase = Phase::Closing { since: now() };
                self.connection.graceful_shutdown();
            }
            Phase::Closing { since } => {
                let at = idle_since.map(|idle| idle.max(since) + CLOSE_GRACE);
                ready!(self.timer.poll_opt(cx, at));
                self.phase = Phase::Aborting { since: now() };
                self.connection.abrupt_shutdown(Reason::NO_ERROR);
            }
            Phase::Aborting { since } => {
                ready!(self.timer.poll(cx, since + CLOSE_GRACE));
                self.phase = Phase::Broken;
            }
            Phase::Broken => {}
        }
        Poll::Ready(())
    }
}

/// Reads and throws away until the peer closes, within limits, so that a reset does not destroy what we wrote
/// last.
async fn linger<IO: AsyncRead + AsyncWrite + Unpin>(mut wire: Wire<IO>) {
    wire.let_through();
    let throw_away = async {
        if wire.shutdown().await.is_err() {
            return;
        }
        let mut scratch = vec![0; 4 * 1024];
        let mut left = limits::LINGER_BYTES;
        while left > 0 {
            match wire.read(&mut scratch).await {
                Ok(n) if n > 0 => left = left.saturating_sub(n),
                _ => return,
            }
        }
    };
    let _ = tokio::time::timeout(limits::LINGER, throw_away).await;
}

/// The body of a request being read from an HTTP/2 downstream.
#[derive(Debug)]
pub struct H2ServerBody {
    reader: Reader,
}

impl H2ServerBody {
    pub(super) fn new(stream: RecvStream, length: Option<u64>) -> Self {
        Self { reader: Reader::new(stream, length) }
    }
}

impl PollBody for H2ServerBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        match ready!(self.reader.poll_frame(cx)) {
            Some(Ok(Frame::Trailers(trailers))) => {
                Poll::Ready(fields::check_trailers(trailers).map(|trailers| trailers.map(Frame::Trailers)).transpose())
            }
            frame => Poll::Ready(frame),
        }
    }

    fn poll_progress(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        self.reader.hold_back(cx);
        Ok(())
    }

    fn is_end(&self) -> bool {
        self.reader.is_end()
    }

    fn exact_len(&self) -> Option<u64> {
        self.reader.exact_len()
    }
}
