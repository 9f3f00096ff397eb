//! The server side of an HTTP/3 connection.
//!
//! One task owns the connection: it hands every new stream to a task of its own ([`super::exchange`]), listens to what the
//! peer says beside requests, and watches the time limits. It waits for no stream.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quinn::{Connection, ConnectionError, RecvStream, SendStream, VarInt};

use super::code::Code;
use super::control;
use super::exchange::{self, Service};
use super::frames::{Broken, Side};
use super::inbound::Inbound;
use super::lost;
use super::now;
use super::outbound::{Outbound, SectionLimit};
use super::peer;
use super::varint;
use crate::base::drain::Notice;
use crate::base::limits;
use crate::base::pressure::PressureWatch;
use crate::base::task;
use crate::base::timer::Deadline;
use crate::codec::body::{BodyError, Frame, PollBody};
use crate::codec::haste::{Haste, Verdict};
use crate::codec::heads::request::HeadLimits;
use crate::codec::message::{Handler, ServerOptions};
use crate::net::quic;

/// Streams that the caller reset before their requests were there, beyond those that it did not. More end the connection
/// (CVE-2023-44487).
const EARLY_RESETS: u32 = 256;
const HASTY: Broken = Broken::new(Code::EXCESSIVE_LOAD, "too many requests are cancelled at once");
/// How long callers are given to see the first GOAWAY before the second says which requests are too late: at least this, and
/// at most [`CLOSE_GRACE`]; in between two round trips.
const NOTICE: Duration = Duration::from_millis(50);
/// How long a connection is kept when its last stream has ended, so that what was sent last arrives, lost packets included.
const LINGER: Duration = Duration::from_millis(500);
/// The same, where round trips are long.
const CLOSE_GRACE: Duration = Duration::from_secs(5);
/// A caller with requests is asked this often whether it is there: well before any usual idle timeout of QUIC ends ...
const ASK: Duration = Duration::from_secs(10);
/// ... or ours, but not more often than this.
const SHORTEST_ASK: Duration = Duration::from_millis(50);
/// A GOAWAY that excludes nothing yet (RFC 9114 section 5.2): the largest identifier of a request.
const ANY_REQUEST: u64 = varint::MAX - 3;

/// Serves one connection until it ends, is idle too long, or is told to finish.
///
/// Dropping the future closes the connection and cancels every request on it.
pub async fn serve<H: Handler>(connection: Connection, handler: Arc<H>, options: ServerOptions) {
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
    let granted = max_concurrent_streams.min(limits::QUIC_FIRST_STREAMS);
    connection.set_max_concurrent_bi_streams(granted.into());
    connection.set_max_concurrent_uni_streams(peer::OPEN_STREAMS.into());
    let live = Arc::new(Live::new(connection.clone()));
    let service = Arc::new(Service {
        handler,
        limits: HeadLimits { max_bytes: max_head_bytes, max_fields: max_headers, scheme },
        header_timeout,
        idle_timeout,
        drain: drain.clone(),
    });
    let _closing = CloseOnDrop(&connection);
    let limit = SectionLimit::default();
    let told = limit.clone();
    let hear = move |event| {
        if let control::Event::Settings(settings) = event {
            told.hear(&settings);
        }
    };
    let counted = Arc::clone(&live);
    let requests = move || counted.entered.load(Ordering::Relaxed);
    task::spawn("h3_peer", peer::listen(connection.clone(), Side::Server, requests, hear));
    let mut server = Server {
        live: &live,
        service,
        idle_timeout,
        pressure: pressure.clone(),
        retire_at,
        granted,
        max_streams: max_concurrent_streams,
        next: 0,
        limit,
        malformed: Arc::default(),
        phase: Phase::Open,
        control: None,
        timer: Deadline::default(),
        asked: now(),
        asking: Deadline::default(),
    };
    let mut opening = pin!(connection.open_uni());
    let mut accepting = pin!(connection.accept_bi());
    let mut begun = pin!(drain.begun());
    let mut listening = pin!(listen(pressure));
    let mut draining = false;
    let ended = poll_fn(|cx| {
        if server.control.is_none()
            && let Poll::Ready(opened) = opening.as_mut().poll(cx)
        {
            match opened {
                Ok(stream) => server.open_control(stream, max_head_bytes),
                Err(error) => return Poll::Ready(error),
            }
        }
        if !draining && let Poll::Ready(notice) = begun.as_mut().poll(cx) {
            draining = true;
            server.drain(notice);
        }
        // It is woken by a change, and looks at its time limits then.
        let _ = listening.as_mut().poll(cx);
        loop {
            match accepting.as_mut().poll(cx) {
                Poll::Ready(Ok((out, stream))) => {
                    accepting.set(connection.accept_bi());
                    server.accept(out, stream);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(error),
                Poll::Pending => break,
            }
        }
        server.poll(cx)
    })
    .await;
    tracing::debug!(error = %ended, "an HTTP/3 downstream connection has ended");
}

/// Hears of changes of the pressure for as long as it is polled; never resolves.
async fn listen(mut pressure: PressureWatch) {
    loop {
        pressure.changed().await;
    }
}

struct CloseOnDrop<'a>(&'a Connection);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        lost::end(self.0);
    }
}

struct Server<'a, H> {
    live: &'a Arc<Live>,
    service: Arc<Service<H>>,
    idle_timeout: Duration,
    pressure: PressureWatch,
    /// By age, or by a drain.
    retire_at: Option<Instant>,
    /// Streams that the caller may have open now, and at most.
    granted: u32,
    max_streams: u32,
    /// The first stream that was not accepted yet.
    next: u64,
    /// What the caller takes.
    limit: SectionLimit,
    malformed: Arc<AtomicU32>,
    phase: Phase,
    /// Our control stream, once it is open.
    control: Option<Outbound>,
    timer: Deadline,
    /// When the caller was asked last whether it is there.
    asked: Instant,
    asking: Deadline,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// The first GOAWAY was sent, which excludes no request.
    Noticed {
        since: Instant,
    },
    /// The second was sent: what comes now is rejected.
    Closing {
        since: Instant,
        first_rejected: u64,
    },
}

impl<H: Handler> Server<'_, H> {
    fn open_control(&mut self, stream: SendStream, max_head_bytes: usize) {
        let mut control = Outbound::new(stream, Code::INTERNAL_ERROR, &self.limit);
        control.queue_raw(control::opening(Side::Server, max_head_bytes));
        let connection = self.live.connection.clone();
        task::spawn("h3_control", peer::keep(connection, control.stopped()));
        self.control = Some(control);
    }

    fn drain(&mut self, notice: Notice) {
        let at = notice.since + notice.own_share();
        self.retire_at = Some(self.retire_at.map_or(at, |age| age.min(at)));
    }

    fn accept(&mut self, out: SendStream, stream: RecvStream) {
        let id = VarInt::from(stream.id()).into_inner();
        self.next = id + 4;
        let (connection, malformed) = (self.live.connection.clone(), Some(Arc::clone(&self.malformed)));
        let mut out = Outbound::new(out, Code::INTERNAL_ERROR, &self.limit);
        let mut inbound = Inbound::new((connection, malformed), stream, Side::Server, self.service.limits.max_bytes);
        if let Phase::Closing { first_rejected, .. } = self.phase
            && id >= first_rejected
        {
            out.reset(Code::REQUEST_REJECTED);
            inbound.stop(Code::REQUEST_REJECTED);
            return;
        }
        self.judge();
        let guard = self.live.enter();
        self.make_room();
        task::spawn("h3_exchange", exchange::run(Arc::clone(&self.service), out, inbound, guard));
    }

    /// A caller that cancels what it has just asked for is sent away.
    fn judge(&mut self) {
        match (self.live.haste.verdict(), self.phase) {
            (Verdict::Retires, Phase::Open) => self.retire_at = Some(now()),
            (Verdict::Ends, _) => lost::close(&self.live.connection, HASTY),
            _ => {}
        }
    }

    /// A caller that uses half of its places is given twice as many.
    fn make_room(&mut self) {
        if self.granted < self.max_streams && self.live.open() >= self.granted / 2 {
            self.granted = self.granted.saturating_mul(2).min(self.max_streams);
            self.live.connection.set_max_concurrent_bi_streams(self.granted.into());
        }
    }

    /// Ready when the connection is to be closed.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionError> {
        while self.poll_timer(cx).is_ready() {
            if self.is_done(now()) {
                return Poll::Ready(ConnectionError::LocallyClosed);
            }
        }
        self.ask(cx);
        if let Some(control) = &mut self.control
            && let Poll::Ready(Err(_)) = control.poll_flush(cx)
        {
            lost::close(&self.live.connection, peer::CLOSED);
            return Poll::Ready(ConnectionError::LocallyClosed);
        }
        Poll::Pending
    }

    /// Ready when a time limit was reached and acted upon.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.phase {
            Phase::Open => {
                // Set again only when it was reached: streams come and go much more often.
                let idle_until = self.live.idle_since().unwrap_or_else(now) + self.patience();
                let at = self.retire_at.map_or(idle_until, |retire| retire.min(idle_until));
                ready!(self.timer.poll(cx, at));
                let idle = self.live.idle_since().is_some_and(|since| since + self.patience() <= now());
                let retired = self.retire_at.is_some_and(|retire| retire <= now());
                if idle || retired {
                    self.phase = Phase::Noticed { since: now() };
                    self.go_away(ANY_REQUEST);
                }
            }
            Phase::Noticed { since } => {
                let notice = (self.live.connection.rtt() * 2).clamp(NOTICE, CLOSE_GRACE);
                ready!(self.timer.poll(cx, since + notice));
                self.phase = Phase::Closing { since: now(), first_rejected: self.next };
                self.go_away(self.next);
            }
            Phase::Closing { since, .. } => {
                let idle = ready!(self.live.poll_idle(cx));
                ready!(self.timer.poll(cx, idle.max(since) + self.linger()));
            }
        }
        Poll::Ready(())
    }

    /// A request may be held for long, and nothing moves meanwhile: the connection must not pass for dead, at either end.
    fn ask(&mut self, cx: &mut Context<'_>) {
        let pause = ASK.min(self.idle_timeout / 3).max(SHORTEST_ASK);
        while self.asking.poll(cx, self.asked + pause).is_ready() {
            self.asked = now();
            if self.live.idle_since().is_none() {
                quic::ask(&self.live.connection, limits::QUIC_SERVER_CONNECTION_WINDOW);
            }
        }
    }

    fn is_done(&self, now: Instant) -> bool {
        match (self.phase, self.live.idle_since()) {
            (Phase::Closing { since, .. }, Some(idle)) => idle.max(since) + self.linger() <= now,
            _ => false,
        }
    }

    fn patience(&self) -> Duration {
        if self.pressure.shrinks() { self.idle_timeout.min(limits::PRESSURE_IDLE) } else { self.idle_timeout }
    }

    fn linger(&self) -> Duration {
        (self.live.connection.rtt() * 8).clamp(LINGER, CLOSE_GRACE)
    }

    fn go_away(&mut self, id: u64) {
        self.live.retiring.store(true, Ordering::Relaxed);
        if let Some(control) = &mut self.control {
            control.queue_raw(control::goaway(id));
        }
    }
}

/// The exchanges of a connection.
pub(super) struct Live {
    pub(super) connection: Connection,
    open: AtomicUsize,
    /// All that there ever were.
    entered: AtomicU64,
    opened: Instant,
    /// When the last one ended, in nanoseconds after `opened`.
    idle_since: AtomicU64,
    early_resets: AtomicU32,
    haste: Haste,
    /// The caller was told that the connection will be closed.
    retiring: AtomicBool,
    /// The connection waits for the last one to end.
    closing: AtomicBool,
    waiter: Mutex<Option<Waker>>,
}

/// Counts an exchange for as long as it lasts.
pub(super) struct Guard(Arc<Live>);

impl Live {
    fn new(connection: Connection) -> Self {
        Self {
            connection,
            open: AtomicUsize::new(0),
            entered: AtomicU64::new(0),
            opened: now(),
            idle_since: AtomicU64::new(0),
            early_resets: AtomicU32::new(0),
            haste: Haste::default(),
            retiring: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            waiter: Mutex::default(),
        }
    }

    fn enter(self: &Arc<Self>) -> Guard {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.entered.fetch_add(1, Ordering::Relaxed);
        Guard(Arc::clone(self))
    }

    /// How many there are.
    fn open(&self) -> u32 {
        u32::try_from(self.open.load(Ordering::Relaxed)).unwrap_or(u32::MAX)
    }

    /// Since when there is none; `None` while there is.
    fn idle_since(&self) -> Option<Instant> {
        (self.open.load(Ordering::Acquire) == 0)
            .then(|| self.opened + Duration::from_nanos(self.idle_since.load(Ordering::Relaxed)))
    }

    /// Ready when there is none. The task is woken by the last one from now on.
    fn poll_idle(&self, cx: &mut Context<'_>) -> Poll<Instant> {
        *self.waiter.lock() = Some(cx.waker().clone());
        self.closing.store(true, Ordering::SeqCst);
        self.idle_since().map_or(Poll::Pending, Poll::Ready)
    }
}

impl Guard {
    pub(super) fn haste(&self) -> &Haste {
        &self.0.haste
    }

    pub(super) fn is_retiring(&self) -> bool {
        self.0.retiring.load(Ordering::Relaxed)
    }

    /// The caller reset a stream before its request was there.
    pub(super) fn note_early_reset(&self) {
        if self.0.early_resets.fetch_add(1, Ordering::Relaxed) >= EARLY_RESETS {
            lost::close(&self.0.connection, HASTY);
        }
    }

    /// A request is there.
    pub(super) fn note_request(&self) {
        let _ = self.0.early_resets.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |resets| resets.checked_sub(1));
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let live = &self.0;
        if live.open.load(Ordering::Relaxed) == 1 {
            let idle = u64::try_from((now() - live.opened).as_nanos()).unwrap_or(u64::MAX);
            live.idle_since.store(idle, Ordering::Relaxed);
        }
        if live.open.fetch_sub(1, Ordering::AcqRel) == 1
            && live.closing.load(Ordering::SeqCst)
            && let Some(waker) = live.waiter.lock().take()
        {
            waker.wake();
        }
    }
}

/// The body of a request being read from an HTTP/3 downstream.
#[derive(Debug)]
pub struct H3ServerBody {
    inbound: Arc<Mutex<Inbound>>,
}

impl H3ServerBody {
    pub(super) fn new(inbound: Arc<Mutex<Inbound>>) -> Self {
        Self { inbound }
    }
}

impl PollBody for H3ServerBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        self.inbound.lock().poll_frame(cx)
    }

    fn poll_progress(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        match self.inbound.lock().poll_fault(cx) {
            Poll::Ready(fault) => Err(fault.of_body()),
            Poll::Pending => Ok(()),
        }
    }

    fn is_end(&self) -> bool {
        self.inbound.lock().is_end()
    }

    fn exact_len(&self) -> Option<u64> {
        self.inbound.lock().exact_len()
    }
}
