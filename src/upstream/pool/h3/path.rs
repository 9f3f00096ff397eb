//! The way of one connection over UDP: whether it is believed in, and who is told when it is not.

use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use quinn::{ConnectionError, TransportErrorCode};
use tokio::sync::Notify;
use tokio::time::sleep_until;

use crate::base::limits;
use crate::codec::h3::Code;
use crate::codec::{SendError, SendErrorKind, Sent};
use crate::net::quic;
use crate::policy::silence::{Bounds, Silence, Step};
use crate::telemetry::metrics::Http3Failure;
use crate::upstream::alternative::Attempt;
use crate::upstream::state::{ClusterState, EndpointState};

/// What a connection and its requests share.
pub(super) struct Path {
    quic: quinn::Connection,
    /// The attempt that made it; `None`: there is no other way.
    offered: Option<Attempt>,
    cluster: Arc<ClusterState>,
    endpoint: Arc<EndpointState>,
    doubted: AtomicBool,
    /// Told when it is doubted.
    doubt: Notify,
    /// Told when there is a request.
    wanted: Notify,
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Path").field("offered", &self.offered).field("doubted", &self.doubted).finish_non_exhaustive()
    }
}

impl Path {
    pub(super) fn new(
        quic: quinn::Connection,
        offered: Option<Attempt>,
        cluster: &Arc<ClusterState>,
        endpoint: &Arc<EndpointState>,
    ) -> Self {
        Self {
            quic,
            offered,
            cluster: Arc::clone(cluster),
            endpoint: Arc::clone(endpoint),
            doubted: AtomicBool::new(false),
            doubt: Notify::new(),
            wanted: Notify::new(),
        }
    }

    /// Whether requests could go over TCP.
    pub(super) fn has_another_way(&self) -> bool {
        self.offered.is_some()
    }

    /// Whether requests go over TCP, because HTTP/3 has failed here or on another connection.
    pub(super) fn is_left(&self) -> bool {
        self.offered.is_some_and(|attempt| !self.endpoint.http3.is_current(attempt.generation))
    }

    /// Whether it fell silent.
    pub(super) fn is_doubted(&self) -> bool {
        self.doubted.load(Ordering::Acquire)
    }

    /// There is a request.
    pub(super) fn is_wanted(&self) {
        self.wanted.notify_one();
    }

    /// Watches for silence for as long as the connection lives; ends when it is closed for it.
    pub(super) async fn watch(&self, bounds: Bounds, is_busy: impl Fn() -> bool) {
        let mut silence = Silence::new(bounds);
        loop {
            // Not whatever comes: a peer that hears nothing of us any more goes on repeating what it has said, old
            // acknowledgements among it. The round trip is measured anew with each packet that is newly acknowledged, and
            // with nothing else; the library counts no such packets.
            let heard = u64::try_from(self.quic.stats().path.rtt.as_nanos()).unwrap_or(u64::MAX);
            match silence.look(heard, is_busy(), self.quic.rtt(), Instant::now()) {
                Step::Rest => self.wanted.notified().await,
                Step::Wait(until) => sleep_until(until.into()).await,
                Step::Ask => quic::ask(&self.quic, limits::QUIC_CLIENT_CONNECTION_WINDOW),
                Step::Doubt => {
                    tracing::debug!(endpoint = %self.endpoint.address, "an HTTP/3 connection is silent");
                    self.failed(Http3Failure::Silent);
                    self.doubted.store(true, Ordering::Release);
                    self.doubt.notify_waiters();
                }
                Step::GiveUp => {
                    self.doubted.store(true, Ordering::Release);
                    self.quic.close(Code::NO_ERROR.into(), b"no sign of life");
                    return;
                }
            }
        }
    }

    /// The connection has ended.
    pub(super) fn ended(&self) {
        if self.quic.close_reason().is_some_and(|reason| is_failure(&reason)) {
            self.failed(Http3Failure::Lost);
        }
    }

    /// A request was answered with 421: over HTTP/3 nobody answers for its host. Whether it may go over TCP.
    pub(super) fn misdirected(&self) -> bool {
        self.failed(Http3Failure::Misdirected);
        self.has_another_way()
    }

    /// A request is given up here, to be repeated over TCP if it may be.
    pub(super) fn falls_back(&self) {
        self.cluster.metrics.fell_back();
    }

    fn failed(&self, how: Http3Failure) {
        if let Some(attempt) = self.offered {
            fail(&self.cluster, &self.endpoint, attempt, how);
        }
    }

    /// What comes of `sending`, unless the connection is doubted before, and it may be repeated then.
    pub(super) async fn unless_doubted<T>(
        &self,
        sending: impl Future<Output = Result<T, SendError>>,
        may_repeat: impl Fn() -> bool,
    ) -> Result<T, SendError> {
        let mut doubted = pin!(self.doubt.notified());
        doubted.as_mut().enable();
        let mut sending = pin!(sending);
        if !self.is_doubted() {
            tokio::select! {
                biased;
                sent = &mut sending => return sent,
                () = doubted => {}
            }
        }
        match may_repeat() {
            true => Err(SendError::maybe(SendErrorKind::Closed)),
            false => sending.await,
        }
    }

    /// Of what ended with its connection, where requests go over TCP from now on, that is said: it is no fault of the
    /// endpoint, and what may be repeated is.
    pub(super) fn explain(&self, error: SendError) -> SendError {
        let lost = || {
            self.is_doubted()
                || self.quic.close_reason().is_some_and(|reason| {
                    is_failure(&reason) || matches!(reason, ConnectionError::TimedOut | ConnectionError::Reset)
                })
        };
        match error.kind {
            SendErrorKind::Closed | SendErrorKind::Io(_)
                if self.has_another_way() && error.sent == Sent::Maybe && lost() =>
            {
                self.falls_back();
                SendError { kind: SendErrorKind::PathLost, ..error }
            }
            _ => error,
        }
    }
}

/// HTTP/3 with an endpoint that offers it failed: requests go over TCP for a while.
pub(super) fn fail(cluster: &ClusterState, endpoint: &EndpointState, attempt: Attempt, how: Http3Failure) {
    let random = RandomState::new().build_hasher().finish();
    if let Some(pause) = endpoint.http3.failed(attempt, Instant::now(), random) {
        cluster.metrics.http3_failed(how);
        tracing::info!(
            cluster = %cluster.name,
            endpoint = %endpoint.address,
            ?how,
            pause_ms = pause.as_millis() as u64,
            "HTTP/3 with an endpoint failed; requests go over TCP for a while"
        );
    }
}

/// Whether a connection that ended so says that HTTP/3 does not work here. One that was idle may end silently, and a server
/// that restarts knows it no more.
fn is_failure(reason: &ConnectionError) -> bool {
    match reason {
        ConnectionError::VersionMismatch | ConnectionError::TransportError(_) | ConnectionError::CidsExhausted => true,
        ConnectionError::ConnectionClosed(close) => close.error_code != TransportErrorCode::NO_ERROR,
        ConnectionError::ApplicationClosed(close) => Code::from(close.error_code) != Code::NO_ERROR,
        ConnectionError::Reset | ConnectionError::LocallyClosed | ConnectionError::TimedOut => false,
    }
}
