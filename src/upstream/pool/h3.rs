//! Connections over QUIC: because the cluster says so, or because the endpoint offers HTTP/3 and is reached so. In the second
//! case they are made beside the traffic, and given up for TCP when they fall silent.

use std::borrow::Cow;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::{Duration, Instant};

use http::StatusCode;
use parking_lot::Mutex;
use tokio::time::{timeout, timeout_at};

use self::path::Path;
use super::dial::Made;
use super::shared::{Multiplexed, Shared};
use super::turn::Failure;
use super::{Preference, Terms, WorkerPool};
use crate::base::task;
use crate::codec::h3::{H3ClientOptions, H3Connection, StreamSlot};
use crate::codec::{Body, Interim, PollBody as _, Replay, RequestHead, Response, SendError, SendErrorKind};
use crate::net::quic::{self, ClientTransport};
use crate::net::tls::{ClientTls, HandshakeError};
use crate::policy::retry::Idempotency;
use crate::policy::silence::Bounds;
use crate::telemetry::metrics::{Carrier, Handshake, Http3Failure};
use crate::upstream::alternative::Attempt;
use crate::upstream::guards::Open;

mod path;

/// A connection over QUIC.
#[derive(Debug)]
pub(super) struct Line {
    connection: H3Connection,
    path: Arc<Path>,
}

/// A stream of one.
#[derive(Debug)]
pub struct H3Slot {
    slot: StreamSlot,
    path: Arc<Path>,
}

impl Multiplexed for Line {
    type Slot = H3Slot;
    /// `None`: it is HTTP/3 or nothing.
    type Order = Option<Attempt>;

    fn of(pool: &WorkerPool) -> &Mutex<Shared<Self>> {
        &pool.h3
    }

    async fn dial(
        pool: &Arc<WorkerPool>,
        guard: Open,
        offered: Option<Attempt>,
        tls: Option<&ClientTls>,
    ) -> Result<Made<Self>, Failure> {
        let made = pool.make_h3(guard, offered, tls).await;
        if let Some(attempt) = offered {
            pool.tell(attempt, made.is_ok())?;
        }
        made
    }

    fn reserve(&self) -> Option<H3Slot> {
        let slot = self.connection.reserve()?;
        self.path.is_wanted();
        Some(H3Slot { slot, path: Arc::clone(&self.path) })
    }

    fn capacity(&self) -> usize {
        self.connection.capacity()
    }

    fn is_closing(&self) -> bool {
        self.connection.is_closing() || self.path.is_left()
    }

    fn close_gracefully(&self) {
        self.connection.close_gracefully();
    }

    fn idle_since(&self) -> Option<Instant> {
        self.connection.idle_since()
    }
}

impl WorkerPool {
    /// A stream over QUIC, where the endpoint offers HTTP/3 and a connection is there. Nobody waits for one: it is dialled
    /// beside the traffic.
    pub(super) fn offered_h3(&self, preference: Preference, terms: Terms<'_>, now: Instant) -> Option<H3Slot> {
        let known = &self.endpoint.http3;
        if !known.is_usable(now) {
            return None;
        }
        if let Some(slot) = self.reserve::<Line>(preference, now) {
            return Some(slot);
        }
        let mut shared = self.h3.lock();
        if shared.dialing == 0
            && !self.retired.load(Ordering::Acquire)
            && let Some(attempt) = known.begin(now)
            && !self.try_dial(&mut shared, Some(attempt), terms)
        {
            known.abandoned(attempt, now);
        }
        None
    }

    /// Tells all workers how a connection that was tried came about. An error: another has failed meanwhile.
    fn tell(&self, attempt: Attempt, made: bool) -> Result<(), Failure> {
        let now = Instant::now();
        if !made {
            path::fail(&self.cluster, &self.endpoint, attempt, Http3Failure::Connect);
        } else if !self.endpoint.http3.made(attempt, now) {
            return Err(Failure::Retired);
        }
        Ok(())
    }

    async fn make_h3(
        self: &Arc<Self>,
        mut guard: Open,
        offered: Option<Attempt>,
        tls: Option<&ClientTls>,
    ) -> Result<Made<Line>, Failure> {
        let until = self.deadline();
        let port = offered.map_or(self.key.address.port(), |attempt| attempt.port);
        let address = SocketAddr::new(self.key.address.ip(), port);
        let tls = tls.ok_or_else(|| Failure::Handshake("no-tls", "HTTP/3 needs TLS".into()))?;
        let counted = Handshake::with_endpoint(&self.cluster.metrics);
        let transport = ClientTransport::new(IDLE, Some(KEEP_ALIVE));
        let connecting = quic::connect(address, tls, self.key.host.as_deref(), &transport);
        let (quic, info) = match timeout_at(until, connecting).await.unwrap_or(Err(HandshakeError::Timeout)) {
            Ok(connected) => connected,
            Err(error) => return Err(self.not_connected(counted, error)),
        };
        counted.completed(info.resumed);
        guard.made(Carrier::Http3);
        let retire_at = self.retire_at(info.peer.as_ref().map(|peer| peer.not_after));
        let path = Arc::new(Path::new(quic.clone(), offered, &self.cluster, &self.endpoint));
        let connection = self.begin_h3(quic, &path, guard, until).await?;
        Ok(Made::Shared { handle: Line { connection, path }, retire_at })
    }

    async fn begin_h3(
        self: &Arc<Self>,
        quic: quinn::Connection,
        path: &Arc<Path>,
        guard: Open,
        until: tokio::time::Instant,
    ) -> Result<H3Connection, Failure> {
        let pool = Weak::clone(&self.this);
        // A connection that does not come about must wake nobody: they are told why.
        let begun = Arc::new(AtomicBool::new(false));
        let has_begun = Arc::clone(&begun);
        let client = H3ClientOptions {
            max_streams: self.key.options.max_streams as usize,
            on_release: Some(Arc::new(move || {
                if has_begun.load(Ordering::Relaxed)
                    && let Some(pool) = pool.upgrade()
                {
                    pool.h3.lock().wake(1);
                }
            })),
        };
        let beginning = timeout_at(until, async {
            let (handle, mut driver) = H3Connection::handshake(quic, &client).await?;
            // As over TCP: the server's first words come after it has looked at our certificate.
            driver.greeted().await?;
            Ok((handle, driver))
        });
        let (connection, driver) = match beginning.await {
            Ok(Ok(made)) => made,
            Ok(Err(error)) => return Err(self.not_begun(&error)),
            Err(_) => {
                self.cluster.metrics.connect_failed();
                return Err(Failure::Timeout);
            }
        };
        begun.store(true, Ordering::Relaxed);
        let bounds = self.bounds(path);
        let (path, watched) = (Arc::clone(path), connection.clone());
        task::spawn("h3-upstream", async move {
            let mut driver = pin!(driver);
            tokio::select! {
                biased;
                () = &mut driver => {}
                () = path.watch(bounds, || watched.active() > 0) => driver.await,
            }
            path.ended();
            drop(guard);
        });
        Ok(connection)
    }

    /// How silence is borne: shortly where there is another way.
    fn bounds(&self, path: &Path) -> Bounds {
        let options = &self.key.options;
        match path.has_another_way() {
            true => Bounds { ask: ASK, doubt: Some(DOUBT), give_up: GIVE_UP },
            false => Bounds { ask: options.keepalive_interval, doubt: None, give_up: options.keepalive_timeout },
        }
    }

    fn not_connected(&self, counted: Handshake, error: HandshakeError) -> Failure {
        let code = error.code();
        counted.failed(code);
        self.cluster.metrics.connect_failed();
        self.cluster.refusals.say_failed(&self.cluster.name, self.key.address, (code, &error));
        match error {
            HandshakeError::Timeout => Failure::Timeout,
            HandshakeError::Io(error) => {
                Failure::Connect(error.kind(), format!("{}: {error}", self.key.address).into())
            }
            error => Failure::Handshake(code, format!("{}: {error}", self.key.address).into()),
        }
    }
}

impl H3Slot {
    /// Sends a request and waits for the response head. Where there is another way, a request that may be repeated is given
    /// up as soon as the connection is doubted.
    ///
    /// # Errors
    /// [`SendError`], which says whether the application may have seen the request.
    pub(in crate::upstream) async fn send(
        self,
        head: &RequestHead,
        body: Body,
        interim: &dyn Interim,
    ) -> Result<Response<Body>, SendError> {
        let Self { slot, path } = self;
        if path.is_doubted() {
            return Err(SendError::never(SendErrorKind::Closed));
        }
        let repeatable = path.has_another_way()
            && head.upgrade.is_none()
            && Idempotency::of(&head.method) == Idempotency::Idempotent;
        let replay = match &body {
            Body::Replay(body) => Some(body.replay()),
            _ => None,
        };
        let whole = body.is_end() || replay.is_some();
        let sending = slot.send(Cow::Borrowed(head), body, interim);
        let may_repeat = || whole && replay.as_ref().is_none_or(Replay::is_whole);
        let sent = match repeatable && whole {
            true => path.unless_doubted(with_first_piece(sending), may_repeat).await,
            false => sending.await,
        };
        // Whatever its method: it was not processed (RFC 9110 section 15.5.20).
        if let Ok(answer) = &sent
            && answer.head.status == StatusCode::MISDIRECTED_REQUEST
            && path.misdirected()
            && may_repeat()
        {
            path.falls_back();
            return Err(SendError::never(SendErrorKind::PathLost));
        }
        sent.map_err(|error| path.explain(error))
    }
}

/// Waits also for the rest of a short body that has come in part. Once its head has gone on nobody can ask again for what the
/// way lost of it.
async fn with_first_piece(
    sending: impl Future<Output = Result<Response<Body>, SendError>>,
) -> Result<Response<Body>, SendError> {
    let mut answer = sending.await?;
    if let Body::H3Client(body) = &mut answer.body {
        let mut whole = poll_fn(|cx| body.poll_piece(cx, PIECE));
        // Nearly always it is here.
        if poll_fn(|cx| Poll::Ready(Pin::new(&mut whole).poll(cx).is_pending())).await {
            let _ = timeout(PIECE_WAIT, whole).await;
        }
    }
    Ok(answer)
}

/// The largest body, in bytes, whose rest is waited for before its head goes on ...
const PIECE: u64 = 8 * 1024;
/// ... and for how long: until a connection is doubted that has fallen silent meanwhile. A server may also take its time.
const PIECE_WAIT: Duration = Duration::from_secs(1);
/// Silence after which a connection is asked for a sign of life, where there is another way ...
const ASK: Duration = Duration::from_millis(200);
/// ... how long the answer may take before requests go that way ...
const DOUBT: Duration = Duration::from_millis(300);
/// ... and before those that wait on it, and may not be repeated, have waited in vain.
const GIVE_UP: Duration = Duration::from_secs(3);
/// An idle connection is asked this often ...
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// ... and is dead after this.
const IDLE: Duration = Duration::from_secs(30);
