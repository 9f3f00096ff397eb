//! The server side of an HTTP/1 connection: one task reads a head, runs the handler in place, and writes the
//! answer, while it watches for the caller leaving.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use http::header::EXPECT;
use http::{HeaderMap, Method, StatusCode, Version};
use parking_lot::Mutex;
use tokio::io::AsyncWrite;

use super::buffer::{ReadBuffer, WriteBuffer};
use super::decode::{Decoded, Decoder};
use super::encode;
use super::request::{self, HeadScan, Parsed};
use super::respond::{End, Exchange, respond};
use super::tunnel::{self, ServerTunnel, Tunnel};
use super::upgrade::{self, Switch};
use crate::base::drain::Watch;
use crate::base::limits;
use crate::base::timer::Deadline;
use crate::codec::body::{Body, BodyError, Frame, PollBody};
use crate::codec::error::Refusal;
use crate::codec::headers::has_token;
use crate::codec::message::{Handler, Interim, Request, ServerOptions};
use crate::net::io::Io;

/// Serves one connection until it ends, is idle too long, or is told to finish.
///
/// Dropping the future closes the connection and cancels the request in it.
pub async fn serve<H: Handler>(io: Io, handler: Arc<H>, options: ServerOptions) {
    if let Some(tunnel) = serve_requests(io, handler, options).await {
        tunnel.await;
    }
}

/// What a connection has become that carries no requests any more; see [`serve_requests`].
pub type TunnelRun = Pin<Box<dyn Future<Output = ()> + Send>>;

/// As [`serve`], but gives a tunnel back: it lives long, and must not hold the memory that serving requests takes.
pub async fn serve_requests<H: Handler>(io: Io, handler: Arc<H>, options: ServerOptions) -> Option<TunnelRun> {
    let shared = Arc::new(Shared { connection: Mutex::new(Connection::new(io)) });
    let heard = Heard::default();
    let mut listening = pin!(listen(&options, &heard));
    let mut turn = 0u32;
    let mut timer = Deadline::default();
    loop {
        // The retirement is looked at when there is nothing to read, and now and then under a caller that pipelines.
        turn = turn.wrapping_add(1);
        let next = poll_fn(|cx| {
            if turn.is_multiple_of(LOOK_EVERY) {
                let _ = listening.as_mut().poll(cx);
            }
            loop {
                let retiring = heard.retiring.load(Ordering::Relaxed);
                let polled = shared.connection.lock().poll_head(cx, &options, &mut timer, retiring);
                let before = heard.changes.load(Ordering::Relaxed);
                if polled.is_ready() || listening.as_mut().poll(cx).is_ready() {
                    return polled;
                }
                if heard.changes.load(Ordering::Relaxed) == before {
                    return polled;
                }
            }
        })
        .await;
        let (parsed, started) = match next {
            Next::Request(parsed, started) => (parsed, started),
            Next::Refuse(refusal) => {
                refuse(&shared, &*handler, refusal, &options, &mut timer).await;
                return None;
            }
            Next::Close => {
                shared.close(&mut timer, Instant::now()).await;
                return None;
            }
        };
        let Parsed { head, framing, keep_alive, switch } = parsed;
        // A request that arrives while we retire is still answered, and told that it was the last.
        let draining = options.drain.has_begun();
        let decoder = Decoder::new(framing);
        let expects = decoder != Decoder::Done && has_token(&head.headers, &EXPECT, "100-continue");
        let mut exchange = Exchange {
            version: head.version,
            head_request: head.method == Method::HEAD,
            keep_alive: keep_alive && !heard.retiring.load(Ordering::Relaxed),
            expected: expects.then_some(decoder),
            patience: options.idle_timeout,
        };
        let body = match switch {
            Some(_) => {
                handler.drained_by(&options.drain);
                shared.ask_tunnel()
            }
            None => shared.begin_body(decoder),
        };
        let request = Request { head, body, started };
        let interim = InterimWriter { shared: &shared, version: exchange.version };
        let answer = {
            let mut handling = pin!(handler.handle(request, &interim));
            poll_fn(|cx| match handling.as_mut().poll(cx) {
                Poll::Ready(response) => Poll::Ready(Some(response)),
                Poll::Pending if shared.connection.lock().poll_while_busy(cx) == Peer::Gone => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            })
            .await
        };
        // The caller has left: dropping the handler's future has stopped all work for it.
        let response = answer?;
        if let Some(switch) = switch {
            if switch.is_agreed(response.head.status) {
                return Some(Box::pin(tunnel::run(shared, response, switch, exchange.version)));
            }
            exchange.keep_alive &= switch != Switch::Connect && shared.decline_tunnel();
        }
        // A request that was under way when the drain began is the last of its connection: its caller hears it in
        // time, which one whose connection is closed while it is idle may not.
        exchange.keep_alive &= draining || !options.drain.has_begun();
        match respond(&shared, response, exchange, &mut timer).await {
            Ok(End::KeepAlive) => {}
            Ok(End::Close) => {
                shared.close(&mut timer, Instant::now()).await;
                return None;
            }
            Err(_) => return None,
        }
    }
}

/// What has changed for an idle connection: how long it may be idle follows from it.
#[derive(Debug, Default)]
struct Heard {
    /// It has lived long enough.
    retiring: AtomicBool,
    /// How often anything changed.
    changes: AtomicU32,
}

/// Hears of changes for as long as it is polled; never resolves.
async fn listen(options: &ServerOptions, heard: &Heard) {
    let mut retire = pin!(retirement(options.drain.clone(), options.retire_at));
    let mut pressure = options.pressure.clone();
    loop {
        let retiring = heard.retiring.load(Ordering::Relaxed);
        // Both are cancel safe.
        tokio::select! {
            () = &mut retire, if !retiring => heard.retiring.store(true, Ordering::Relaxed),
            () = pressure.changed() => {}
        }
        heard.changes.fetch_add(1, Ordering::Relaxed);
    }
}

/// Resolves when the connection has lived long enough: at its age limit, or at a random moment of a drain.
async fn retirement(mut drain: Watch, retire_at: Option<Instant>) {
    let aged = async {
        match retire_at {
            Some(at) => tokio::time::sleep_until(at.into()).await,
            None => std::future::pending().await,
        }
    };
    let drained = async {
        let notice = drain.begun().await;
        tokio::time::sleep_until((notice.since + notice.own_share()).into()).await;
    };
    tokio::select! {
        () = aged => {}
        () = drained => {}
    }
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) connection: Mutex<Connection>,
}

/// What the task of the connection and the body of the current request share.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) io: Io,
    pub(super) read: ReadBuffer,
    pub(super) write: WriteBuffer,
    scan: HeadScan,
    pub(super) decoder: Decoder,
    pub(super) tunnel: Tunnel,
    /// When the first byte of the head being read was seen.
    head_started: Option<Instant>,
    /// Since when nothing has been asked.
    pub(super) idle_since: Instant,
    /// At least one request was answered.
    pub(super) served: bool,
    /// Reading has ended or failed.
    pub(super) read_closed: bool,
}

#[expect(clippy::large_enum_variant, reason = "it is on the stack of the one task that makes and takes it")]
enum Next {
    Request(Parsed, Instant),
    Refuse(Refusal),
    Close,
}

#[derive(PartialEq, Eq)]
pub(super) enum Peer {
    Here,
    Gone,
}

/// Requests after which a connection that never waits looks whether it should go.
const LOOK_EVERY: u32 = 64;

const TIMEOUT: Refusal = Refusal {
    status: StatusCode::REQUEST_TIMEOUT,
    code: "header_timeout",
    detail: "The request head did not arrive in time.",
};

impl Connection {
    fn new(io: Io) -> Self {
        Self {
            io,
            read: ReadBuffer::default(),
            write: WriteBuffer::default(),
            scan: HeadScan::default(),
            decoder: Decoder::Done,
            tunnel: Tunnel::None,
            head_started: None,
            idle_since: Instant::now(),
            served: false,
            read_closed: false,
        }
    }

    /// Waits for a complete head. A connection that stays idle holds no buffer.
    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        options: &ServerOptions,
        timer: &mut Deadline,
        retiring: bool,
    ) -> Poll<Next> {
        loop {
            if self.scan.is_fresh() {
                request::skip_empty_line(&mut self.read.bytes);
            }
            if !self.read.bytes.is_empty() {
                let started = *self.head_started.get_or_insert_with(Instant::now);
                match self.take_head(options) {
                    Ok(Some(parsed)) => {
                        self.head_started = None;
                        return Poll::Ready(Next::Request(parsed, started));
                    }
                    Ok(None) => {}
                    Err(refusal) => return Poll::Ready(Next::Refuse(refusal)),
                }
            } else if self.io.poll_read_ready(cx).is_pending() {
                let close_at = self.idle_until(options, retiring);
                if self.read.is_held() || self.write.is_held() {
                    // A busy caller is about to ask again and needs the buffers then.
                    if timer.poll(cx, close_at.min(self.idle_since + limits::BUFFER_LINGER)).is_pending() {
                        return Poll::Pending;
                    }
                    self.read.release();
                    self.write.release();
                }
                return match timer.poll(cx, close_at) {
                    Poll::Ready(()) => Poll::Ready(Next::Close),
                    Poll::Pending => Poll::Pending,
                };
            }
            match self.read.poll_fill(&mut self.io, cx, usize::MAX) {
                Poll::Ready(Ok(n)) if n > 0 => {}
                Poll::Ready(_) => {
                    self.read_closed = true;
                    return Poll::Ready(Next::Close);
                }
                Poll::Pending => {
                    let at = match self.head_started {
                        Some(started) => started + options.header_timeout,
                        None => self.idle_until(options, retiring),
                    };
                    return match timer.poll(cx, at) {
                        Poll::Ready(()) if self.head_started.is_some() => Poll::Ready(Next::Refuse(TIMEOUT)),
                        Poll::Ready(()) => Poll::Ready(Next::Close),
                        Poll::Pending => Poll::Pending,
                    };
                }
            }
        }
    }

    /// A connection that has never asked anything is given the time of a request head only. One that retires
    /// is closed unasked only after some silence: a busy caller is about to ask again, and a close under way
    /// would cost it that request; it is answered and told that it was the last.
    fn idle_until(&self, options: &ServerOptions, retiring: bool) -> Instant {
        let mut patience = if self.served { options.idle_timeout } else { options.header_timeout };
        if options.pressure.shrinks() {
            patience = patience.min(limits::PRESSURE_IDLE);
        }
        self.idle_since + if retiring { patience.min(limits::DRAIN_GRACE) } else { patience }
    }

    fn take_head(&mut self, options: &ServerOptions) -> Result<Option<Parsed>, Refusal> {
        let end = self.scan.find_end(&self.read.bytes)?;
        let length = end.unwrap_or(self.read.bytes.len());
        if length > options.max_head_bytes {
            let first_line = memchr::memchr(b'\n', &self.read.bytes).unwrap_or(usize::MAX);
            return Err(if first_line > options.max_head_bytes {
                Refusal {
                    status: StatusCode::URI_TOO_LONG,
                    code: "target_too_long",
                    detail: "The request line is longer than this proxy accepts.",
                }
            } else {
                Refusal::too_large("head_too_large", "The request head is larger than this proxy accepts.")
            });
        }
        let Some(end) = end else { return Ok(None) };
        self.scan = HeadScan::default();
        let head = self.read.bytes.split_to(end).freeze();
        request::parse(&head, options.max_headers, &options.scheme).map(Some)
    }

    /// While a request is being answered: notices that the caller has closed. Only possible once its whole
    /// request was read; pipelined bytes are kept up to a limit.
    pub(super) fn poll_while_busy(&mut self, cx: &mut Context<'_>) -> Peer {
        // An interim response may still be on its way out.
        if !self.write.is_empty() && matches!(self.write.poll_flush(&mut self.io, cx), Poll::Ready(Err(_))) {
            return Peer::Gone;
        }
        while self.decoder == Decoder::Done && !self.read_closed && self.read.bytes.len() < limits::H1_READ_AHEAD {
            match self.read.poll_fill(&mut self.io, cx, limits::H1_READ_AHEAD) {
                Poll::Ready(Ok(n)) if n > 0 => {}
                Poll::Ready(_) => {
                    self.read_closed = true;
                    return Peer::Gone;
                }
                Poll::Pending => break,
            }
        }
        Peer::Here
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        loop {
            match self.decoder.decode(&mut self.read.bytes) {
                Ok(Decoded::Data(data)) => return Poll::Ready(Some(Ok(Frame::Data(data)))),
                Ok(Decoded::Trailers(trailers)) => return Poll::Ready(Some(Ok(Frame::Trailers(trailers)))),
                Ok(Decoded::End) => return Poll::Ready(None),
                Ok(Decoded::More) => {}
                Err(error) => {
                    self.read_closed = true;
                    return Poll::Ready(Some(Err(error)));
                }
            }
            if self.read_closed {
                return Poll::Ready(Some(Err(BodyError::Incomplete)));
            }
            let limit = self.decoder.wanted().min(limits::H1_BODY_READ);
            match self.read.poll_fill(&mut self.io, cx, limit) {
                Poll::Ready(Ok(n)) if n > 0 => {}
                Poll::Ready(Ok(_)) => {
                    self.read_closed = true;
                    return Poll::Ready(Some(Err(BodyError::Incomplete)));
                }
                Poll::Ready(Err(error)) => {
                    self.read_closed = true;
                    return Poll::Ready(Some(Err(BodyError::Io(error.kind()))));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Throws away what is at hand of the request's body; whether that was all of it.
    pub(super) fn discard_body(&mut self) -> bool {
        loop {
            match self.decoder.decode(&mut self.read.bytes) {
                Ok(Decoded::Data(_) | Decoded::Trailers(_)) => {}
                Ok(Decoded::End) => return true,
                Ok(Decoded::More) | Err(_) => return false,
            }
        }
    }

    /// Reads and throws away until the peer closes, within limits, so that a reset does not destroy what we
    /// wrote last (RFC 9112 section 9.6).
    fn poll_linger(&mut self, cx: &mut Context<'_>, left: &mut usize) -> Poll<()> {
        loop {
            self.read.bytes.clear();
            if *left == 0 || self.read_closed {
                return Poll::Ready(());
            }
            match self.read.poll_fill(&mut self.io, cx, *left) {
                Poll::Ready(Ok(n)) if n > 0 => *left -= n.min(*left),
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl Shared {
    fn begin_body(self: &Arc<Self>, decoder: Decoder) -> Body {
        self.connection.lock().decoder = decoder;
        let length = match decoder {
            Decoder::Done => return Body::Empty,
            Decoder::Length(n) => Some(n),
            Decoder::Chunked(_) | Decoder::UntilClose => None,
        };
        Body::H1Server(ServerBody { shared: Arc::clone(self), length, done: false })
    }

    /// The body of a request for a tunnel.
    fn ask_tunnel(self: &Arc<Self>) -> Body {
        let mut connection = self.connection.lock();
        connection.decoder = Decoder::Done;
        connection.tunnel = Tunnel::Asked;
        Body::H1ServerTunnel(ServerTunnel::new(self))
    }

    /// There is no tunnel, and whether the connection may go on: what was sent for one must not be read as a request,
    /// and it cannot be told whether what has come was.
    fn decline_tunnel(&self) -> bool {
        let mut connection = self.connection.lock();
        connection.tunnel = Tunnel::None;
        connection.read.bytes.is_empty()
    }

    /// Closes so that the peer can read everything we wrote.
    async fn close(&self, timer: &mut Deadline, now: Instant) {
        let mut left = limits::LINGER_BYTES;
        let mut shut = false;
        poll_fn(|cx| {
            let mut connection = self.connection.lock();
            let connection = &mut *connection;
            if timer.poll(cx, now + limits::LINGER).is_ready() {
                return Poll::Ready(());
            }
            if !shut {
                match connection.write.poll_flush(&mut connection.io, cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
                match Pin::new(&mut connection.io).poll_shutdown(cx) {
                    Poll::Ready(Ok(())) => shut = true,
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
            connection.poll_linger(cx, &mut left)
        })
        .await;
    }
}

async fn refuse<H: Handler>(
    shared: &Arc<Shared>,
    handler: &H,
    refusal: Refusal,
    options: &ServerOptions,
    timer: &mut Deadline,
) {
    let mut response = handler.refuse(refusal);
    upgrade::explain(refusal, &mut response.head.headers);
    let exchange = Exchange {
        version: Version::HTTP_11,
        head_request: false,
        keep_alive: false,
        expected: None,
        patience: options.idle_timeout,
    };
    if respond(shared, response, exchange, timer).await.is_ok() {
        shared.close(timer, Instant::now()).await;
    }
}

/// The body of a request being read from an HTTP/1 downstream.
#[derive(Debug)]
pub struct ServerBody {
    shared: Arc<Shared>,
    length: Option<u64>,
    done: bool,
}

impl PollBody for ServerBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        if self.done {
            return Poll::Ready(None);
        }
        let polled = self.shared.connection.lock().poll_body(cx);
        match &polled {
            Poll::Ready(None | Some(Err(_) | Ok(Frame::Trailers(_)))) => self.done = true,
            Poll::Ready(Some(Ok(Frame::Data(data)))) => {
                if let Some(left) = &mut self.length {
                    *left -= data.len() as u64;
                    self.done = *left == 0;
                }
            }
            Poll::Pending => {}
        }
        polled
    }

    fn poll_progress(&mut self, _cx: &mut Context<'_>) -> Result<(), BodyError> {
        Ok(())
    }

    fn is_end(&self) -> bool {
        self.done
    }

    fn exact_len(&self) -> Option<u64> {
        self.length
    }
}

struct InterimWriter<'a> {
    shared: &'a Shared,
    version: Version,
}

impl Interim for InterimWriter<'_> {
    fn send(&self, status: StatusCode, headers: &HeaderMap) {
        // RFC 9110 section 15.2: an HTTP/1.0 client must not get one. It is flushed when the task next waits.
        if self.version == Version::HTTP_11 {
            encode::interim(self.shared.connection.lock().write.head_mut(), status, headers);
        }
    }
}

impl From<io::Error> for BodyError {
    fn from(error: io::Error) -> Self {
        Self::Io(error.kind())
    }
}
