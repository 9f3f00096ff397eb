//! Datagrams: what comes from one address is a session and goes to one endpoint, and what comes back goes back there, from
//! the address that was asked.
//!
//! A session lives on the worker whose socket got its first datagram. The endpoint is picked once, as for a connection,
//! and has a socket of the session's own, so that what it sends belongs to nobody else. A session ends when no datagram
//! has moved for long enough, when the endpoint says that nobody listens, or when its listener is gone; nothing waits: a
//! datagram that cannot go on at once is dropped and counted, as networks do.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use socket2::SockRef;
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio::sync::watch::Receiver;

use super::passage::{DRAINED, source_hash};
use super::reason::Reason;
use super::{Proxy, with_random};
use crate::base::drain::Watch;
use crate::base::timer::Deadline;
use crate::base::{limits, task};
use crate::net::datagrams::{self, Way};
use crate::net::origin;
use crate::snapshot::Listener;
use crate::telemetry::access_log::StreamEntry;
use crate::telemetry::metrics::{AttemptOutcome, DatagramMetrics, Direction};
use crate::upstream::{Outcome, Permit, PickError, PickHint};

thread_local! {
    /// Where datagrams are received to. Nothing stays in it between two calls.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; limits::DATAGRAM].into_boxed_slice());
}

/// The sessions of one socket of a UDP listener.
pub struct Datagrams {
    proxy: Proxy,
    listener: View,
    socket: datagrams::Datagrams,
    /// Sessions of all sockets of the listener.
    open: Arc<AtomicUsize>,
    sessions: Mutex<HashMap<Way, Arc<Session>, RandomState>>,
    empty: Notify,
}

/// A listener as it is now.
pub type View = Box<dyn Fn() -> Arc<Listener> + Send + Sync>;

/// A session where connections are counted.
#[derive(Debug)]
pub struct Joined<G> {
    /// Counts it until dropped.
    pub guard: G,
    /// Tells when it should finish.
    pub drain: Watch,
    /// Tells when it must be gone.
    pub closed: Receiver<bool>,
}

/// One caller and its endpoint.
#[derive(Debug)]
struct Session {
    upstream: UdpSocket,
    began: Instant,
    /// Nanoseconds from the beginning to the last datagram.
    moved: AtomicU64,
    bytes: [AtomicU64; 2],
    metrics: Arc<DatagramMetrics>,
    /// The endpoint has said that nobody listens.
    refused: Notify,
}

impl Proxy {
    /// Sessions of a socket. `open` counts those of all sockets of the listener.
    ///
    /// # Errors
    /// When the socket has no address any more.
    pub fn datagrams(&self, listener: View, socket: UdpSocket, open: Arc<AtomicUsize>) -> io::Result<Datagrams> {
        let socket = datagrams::Datagrams::new(socket)?;
        let (sessions, empty) = (Mutex::default(), Notify::new());
        Ok(Datagrams { proxy: self.clone(), listener, socket, open, sessions, empty })
    }
}

impl Datagrams {
    /// Hands datagrams on until dropped. `join` counts a session in. Cancel safe: sessions go on as long as somebody
    /// receives for them.
    pub async fn serve<G: Send + 'static>(self: &Arc<Self>, join: impl Fn() -> Joined<G> + Sync) {
        self.receive(Some(&join)).await;
    }

    /// Goes on with the sessions that there are until the last one is over; none begins.
    pub async fn finish(self: &Arc<Self>) {
        tokio::select! {
            () = self.receive::<()>(None) => {}
            () = self.ended() => {}
        }
    }

    /// Never returns. Without `join`, sessions go on and none begins. Cancel safe: a datagram is handed on in the poll
    /// that received it.
    async fn receive<G: Send + 'static>(self: &Arc<Self>, join: Option<&(dyn Fn() -> Joined<G> + Sync)>) {
        let mut trouble = false;
        loop {
            let received = poll_fn(|cx| {
                SCRATCH.with_borrow_mut(|scratch| {
                    self.socket.poll_receive(cx, scratch, |datagram, way| self.take(datagram, way, join))
                })
            });
            match received.await {
                Ok(()) => trouble = false,
                // A reply that was sent before has reached nobody: that concerns one caller, who is gone.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) => {
                    if !std::mem::replace(&mut trouble, true) {
                        tracing::warn!(address = %self.socket.local(), %error, "datagrams cannot be received");
                    }
                    tokio::time::sleep(TROUBLE_PAUSE).await;
                }
            }
        }
    }

    /// Waits until there is no session.
    async fn ended(&self) {
        loop {
            let mut told = pin!(self.empty.notified());
            told.as_mut().enable();
            if self.sessions.lock().is_empty() {
                return;
            }
            told.await;
        }
    }

    /// Hands a datagram of a caller's on.
    fn take<G: Send + 'static>(
        self: &Arc<Self>,
        datagram: &[u8],
        way: Way,
        join: Option<&(dyn Fn() -> Joined<G> + Sync)>,
    ) {
        let known = self.sessions.lock().get(&way).cloned();
        if let Some(session) = known {
            match session.send(datagram) {
                Ok(()) => return,
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    // Said of an earlier datagram. This one may go to another endpoint.
                    self.sessions.lock().remove(&way);
                    session.refused.notify_one();
                }
                Err(error) => return session.metrics.dropped(word(&error)),
            }
        }
        let listener = (self.listener)();
        let Some(join) = join else { return listener.datagram_metrics(None).dropped(DRAINED) };
        match self.begin(way.peer, &listener) {
            Ok((session, permit, idle)) => {
                if let Err(error) = session.send(datagram) {
                    session.metrics.dropped(word(&error));
                }
                let session = Arc::new(session);
                self.sessions.lock().insert(way, Arc::clone(&session));
                let Joined { guard, drain, closed } = join();
                let life = Life {
                    all: Arc::clone(self),
                    session,
                    listener: Arc::clone(&listener.config.name),
                    way,
                    permit,
                    began: SystemTime::now(),
                    reason: DRAINED,
                };
                task::spawn("udp-session", async move {
                    life.run(idle, drain, closed).await;
                    drop(guard);
                });
            }
            Err(reason) => listener.datagram_metrics(None).dropped(reason),
        }
    }

    /// Picks an endpoint for a caller.
    fn begin(&self, peer: SocketAddr, listener: &Listener) -> Result<(Session, Permit, Duration), &'static str> {
        let Some(config) = &listener.config.udp else { return Err(Reason::NoRoute.code()) };
        let backend = with_random(|random| listener.udp.as_ref()?.choose(random.next_u64()));
        let backend = backend.ok_or(Reason::NoRoute.code())?;
        let counted = Counted::enter(&self.open, config.max_sessions).ok_or(TOO_MANY_SESSIONS)?;
        let permit = with_random(|random| {
            let (hash, subset) = (Some(source_hash(peer)), backend.subset.as_ref());
            backend.cluster.pick(&PickHint { hash, subset, ..PickHint::default() }, random, Instant::now())
        });
        let permit = permit.map(Permit::untimed).map_err(|error| match error {
            PickError::NoEndpoint => Reason::NoEndpoint.code(),
            PickError::Open { .. } => Reason::BreakerOpen.code(),
            PickError::Overflow => Reason::Overflow.code(),
        })?;
        let upstream = connect(permit.member().state.address).map_err(|error| {
            tracing::debug!(%error, "no socket for a session of datagrams");
            // What is missing is missing here.
            Reason::ConnectFailure.code()
        })?;
        counted.keep();
        let metrics = listener.datagram_metrics(Some(backend));
        metrics.begun();
        let session = Session {
            upstream,
            began: Instant::now(),
            moved: AtomicU64::new(0),
            bytes: Default::default(),
            metrics,
            refused: Notify::new(),
        };
        Ok((session, permit, config.idle_timeout))
    }
}

impl fmt::Debug for Datagrams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datagrams").field("local", &self.socket.local()).finish_non_exhaustive()
    }
}

impl Session {
    fn send(&self, datagram: &[u8]) -> io::Result<()> {
        // Not by way of the runtime, which lets nothing be sent before it was told that the socket is writable: a session
        // begins with something to send.
        SockRef::from(&self.upstream).send(datagram)?;
        self.count(Direction::Received, datagram.len());
        Ok(())
    }

    fn count(&self, direction: Direction, bytes: usize) {
        self.metrics.moved(direction, bytes);
        self.bytes[direction as usize].fetch_add(bytes as u64, Ordering::Relaxed);
        let now = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.moved.store(now, Ordering::Relaxed);
    }

    fn last_moved(&self) -> Instant {
        self.began + Duration::from_nanos(self.moved.load(Ordering::Relaxed))
    }
}

/// The life of a session: what its endpoint sends goes back. Its end is told when this is dropped.
struct Life {
    all: Arc<Datagrams>,
    session: Arc<Session>,
    listener: Arc<str>,
    way: Way,
    permit: Permit,
    began: SystemTime,
    reason: &'static str,
}

impl Life {
    async fn run(mut self, mut idle: Duration, mut drain: Watch, mut closed: Receiver<bool>) {
        let (mut answered, mut draining) = (false, false);
        let ended = {
            let Self { all, session, way, permit, .. } = &self;
            let mut timer = Deadline::default();
            let mut refused = pin!(session.refused.notified());
            let mut closed = pin!(closed.wait_for(|closed| *closed));
            let mut drain = pin!(drain.begun());
            poll_fn(|cx| {
                // First: an endpoint that never pauses leaves nothing of what the runtime grants a task in one turn.
                if refused.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Reason::ConnectFailure);
                }
                if closed.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Reason::Cancelled);
                }
                if !draining && drain.as_mut().poll(cx).is_ready() {
                    draining = true;
                    idle = idle.min(limits::DATAGRAM_DRAIN);
                }
                for _ in 0..limits::DATAGRAM_TURN {
                    let received = SCRATCH.with_borrow_mut(|scratch| {
                        let mut buffer = ReadBuf::new(scratch);
                        let received = session.upstream.poll_recv(cx, &mut buffer);
                        received.map_ok(|()| {
                            let datagram = buffer.filled();
                            match all.socket.answer(datagram, way) {
                                Ok(()) => session.count(Direction::Sent, datagram.len()),
                                Err(error) => session.metrics.dropped(word(&error)),
                            }
                        })
                    });
                    match received {
                        Poll::Ready(Ok(())) if !answered => {
                            answered = true;
                            let now = Instant::now();
                            let took = now.saturating_duration_since(permit.started());
                            permit.report(Outcome::Success(took), now);
                            permit.cluster().metrics.attempted(AttemptOutcome::Success);
                        }
                        Poll::Ready(Ok(())) => {}
                        Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                            return Poll::Ready(Reason::ConnectFailure);
                        }
                        Poll::Ready(Err(_)) => return Poll::Ready(Reason::UpstreamClosed),
                        Poll::Pending => return timer.poll(cx, session.last_moved() + idle).map(|()| Reason::Idle),
                    }
                }
                cx.waker().wake_by_ref();
                Poll::Pending
            })
            .await
        };
        self.reason = match ended {
            Reason::Cancelled => DRAINED,
            reason => reason.code(),
        };
        if ended == Reason::ConnectFailure {
            self.permit.report(Outcome::Broken, Instant::now());
            let metrics = &self.permit.cluster().metrics;
            metrics.connect_failed();
            metrics.attempted(AttemptOutcome::ConnectFailure);
        }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        let Self { all, session, listener, way, permit, began, reason } = self;
        {
            let mut sessions = all.sessions.lock();
            // Another one may have taken its place.
            if sessions.get(way).is_some_and(|known| Arc::ptr_eq(known, session)) {
                sessions.remove(way);
            }
            if sessions.is_empty() {
                all.empty.notify_waiters();
            }
        }
        all.open.fetch_sub(1, Ordering::Relaxed);
        let duration = session.began.elapsed();
        session.metrics.ended(reason, duration);
        all.proxy.log.submit_stream(&StreamEntry {
            start: *began,
            protocol: "UDP",
            listener,
            server_name: None,
            // A session that nobody uses any more has ended as it should.
            reason: if *reason == Reason::Idle.code() { "" } else { reason },
            bytes_received: session.bytes[Direction::Received as usize].load(Ordering::Relaxed),
            bytes_sent: session.bytes[Direction::Sent as usize].load(Ordering::Relaxed),
            duration,
            upstream_cluster: Some(&permit.cluster().name),
            upstream_host: Some(permit.member().state.address),
            peer: origin::canonical(way.peer),
            local: all.socket.asked(way),
            attempts: 1,
            peer_identity: None,
            tls_version: None,
            authz_rule: None,
            authz_shadow: None,
            authz_audit: None,
        });
    }
}

/// A session in the count, until dropped or kept.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn enter(open: &'a AtomicUsize, most: u32) -> Option<Self> {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let enter = |open| (open < most).then_some(open + 1);
        open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enter).ok().map(|_| Self(open))
    }

    fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A socket that only hears this endpoint.
fn connect(address: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = std::net::UdpSocket::bind(any)?;
    socket.connect(address)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

/// Why a datagram could not be sent.
fn word(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::WouldBlock => "busy",
        io::ErrorKind::ConnectionRefused => "refused",
        _ => "error",
    }
}

/// The reason of datagrams that would have begun one session too many.
const TOO_MANY_SESSIONS: &str = "too-many-sessions";
/// How long a socket that fails is left alone.
const TROUBLE_PAUSE: Duration = Duration::from_millis(10);
