//! Opening connections: TCP, then TLS, then what the protocol asks for, in the connect timeout all together.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout_at;

use super::turn::Failure;
use super::{Terms, Wire, WorkerPool, jittered};
use crate::base::task;
use crate::codec::h1::{ClientConn, Home};
use crate::codec::h2::{H2ClientOptions, H2Connection, H2Driver};
use crate::codec::{REFUSED_BY_PEER, SendErrorKind, certificate_alert};
use crate::net::io::Io;
use crate::net::tls::{Alpn, AlpnProtocol, ClientTls, HandshakeError, TlsInfo};
use crate::telemetry::metrics::{Carrier, Handshake};
use crate::upstream::guards::{Open, Pending};
use crate::upstream::lease::{LeaseError, Overflow};

/// A connection that was opened for one request.
pub(super) enum Opened {
    /// HTTP/1, for the one who asked.
    Http1(Box<ClientConn>),
    /// HTTP/2, shared: it is in the pool.
    Http2,
}

/// A connection that was opened for all who wait.
pub(super) enum Made<C> {
    /// HTTP/1: whatever was wanted, the endpoint chose that.
    Http1(Box<ClientConn>),
    /// One that they share.
    Shared { handle: C, retire_at: Option<Instant> },
}

/// A byte stream to an endpoint, counted as long as it is held.
#[derive(Debug)]
pub struct Tunnel {
    io: Io,
    open: TunnelOpen,
}

/// Counts a [`Tunnel`] as open until dropped.
#[derive(Debug)]
pub struct TunnelOpen {
    _counted: Open,
}

impl Tunnel {
    /// The stream, and what counts it: to be held as long as the stream is.
    #[must_use]
    pub fn into_parts(self) -> (Io, TunnelOpen) {
        (self.io, self.open)
    }
}

struct Dialed {
    io: Io,
    tls: Option<TlsInfo>,
    /// By when the connection must be ready for a request.
    until: tokio::time::Instant,
}

impl WorkerPool {
    /// A connection for bytes that are none of ours. `header` goes before everything else, TLS included.
    pub(super) async fn open_tunnel(&self, header: &[u8], terms: Terms<'_>) -> Result<Tunnel, LeaseError> {
        let Terms { ceilings, tls } = terms;
        let _pending = Pending::enter(&self.cluster, &self.endpoint, &ceilings)?;
        let mut open =
            Open::enter(&self.cluster, &self.endpoint, &ceilings).ok_or(LeaseError::Overflow(Overflow::Connections))?;
        // Nothing comes back to this pool; what matters is only whether its trust is still the newest.
        if tls.is_some() && self.retired.load(Ordering::Acquire) {
            return Err(LeaseError::Retired);
        }
        let until = self.deadline();
        let mut io = self.connect(until).await?;
        if !header.is_empty() {
            // A fresh socket takes a header at once.
            timeout_at(until, io.write_all(header)).await.map_err(|_| self.too_late())?.map_err(|error| {
                self.cluster.metrics.connect_failed();
                Failure::Connect(error.kind(), format!("{}: {error}", self.key.address).into())
            })?;
        }
        let io = match tls {
            Some(tls) => self.secure(io, Alpn::None, tls, until).await?.0,
            None => io,
        };
        open.made(Carrier::Tcp);
        Ok(Tunnel { io, open: TunnelOpen { _counted: open } })
    }

    /// A connection for one HTTP/1 request, or a shared one if the endpoint chooses so.
    pub(super) async fn open_h1(&self, wire: Wire, terms: Terms<'_>) -> Result<Opened, LeaseError> {
        let _pending = Pending::enter(&self.cluster, &self.endpoint, &terms.ceilings)?;
        let guard = Open::enter(&self.cluster, &self.endpoint, &terms.ceilings)
            .ok_or(LeaseError::Overflow(Overflow::Connections))?;
        let pool = self.this.upgrade().ok_or(LeaseError::Connect(SendErrorKind::Closed))?;
        Ok(match pool.make(guard, wire, terms.tls.map(|tls| &**tls)).await? {
            Made::Http1(connection) => Opened::Http1(connection),
            Made::Shared { handle, retire_at } => {
                pool.share(handle, retire_at);
                Opened::Http2
            }
        })
    }

    /// Opens a connection. What it speaks is what `wire` wants, or what the endpoint chose.
    pub(super) async fn make(
        self: &Arc<Self>,
        mut guard: Open,
        wire: Wire,
        tls: Option<&ClientTls>,
    ) -> Result<Made<H2Connection>, Failure> {
        let alpn = match wire {
            Wire::Http1 => Alpn::Http1,
            // HTTP/3 is not dialled here.
            Wire::Http2 | Wire::Http3 => Alpn::Http2,
            Wire::Negotiated => Alpn::Either,
        };
        let dialed = self.dial(alpn, tls).await?;
        let chosen = dialed.tls.as_ref().map(|tls| tls.alpn);
        let speaks = match (wire, chosen) {
            (Wire::Http1, _) | (Wire::Negotiated, Some(None | Some(AlpnProtocol::Http1)) | None) => AlpnProtocol::Http1,
            (Wire::Http2 | Wire::Http3, None) | (_, Some(Some(AlpnProtocol::Http2))) => AlpnProtocol::Http2,
            (Wire::Http2 | Wire::Http3 | Wire::Negotiated, Some(other)) => {
                let answer = if other.is_some() { "chose http/1.1" } else { "does not choose a protocol" };
                let detail = format!("{}: h2 was offered and the server {answer}", self.key.address);
                return Err(self.refused("no-h2", detail.into()));
            }
        };
        guard.made(match speaks {
            AlpnProtocol::Http1 => Carrier::Http1,
            AlpnProtocol::Http2 => Carrier::Http2,
            AlpnProtocol::Http3 => Carrier::Http3,
        });
        let not_after = dialed.tls.as_ref().and_then(|tls| tls.peer.as_ref()).map(|peer| peer.not_after);
        let retire_at = self.retire_at(not_after);
        self.note_spoken(wire, speaks);
        match speaks {
            AlpnProtocol::Http1 => {
                let home: Arc<dyn Home> = Arc::clone(self) as Arc<dyn Home>;
                let mut connection = ClientConn::new(dialed.io, home, Box::new(guard));
                connection.retire_at = retire_at;
                Ok(Made::Http1(connection))
            }
            // Not offered on this wire.
            AlpnProtocol::Http2 | AlpnProtocol::Http3 => {
                Ok(Made::Shared { handle: self.begin_h2(guard, dialed).await?, retire_at })
            }
        }
    }

    async fn begin_h2(self: &Arc<Self>, guard: Open, dialed: Dialed) -> Result<H2Connection, Failure> {
        let Dialed { io, tls, until } = dialed;
        let options = &self.key.options;
        let pool = Weak::clone(&self.this);
        // A connection that does not come about must wake nobody: they are told why.
        let begun = Arc::new(AtomicBool::new(false));
        let has_begun = Arc::clone(&begun);
        let client = H2ClientOptions {
            max_streams: options.max_streams as usize,
            keepalive_interval: (!options.keepalive_interval.is_zero()).then_some(options.keepalive_interval),
            keepalive_timeout: options.keepalive_timeout,
            on_release: Some(Arc::new(move || {
                if has_begun.load(Ordering::Relaxed)
                    && let Some(pool) = pool.upgrade()
                {
                    pool.h2.lock().wake(1);
                }
            })),
        };
        let beginning = timeout_at(until, async {
            let (handle, mut driver) = H2Connection::handshake(io, &client).await?;
            if tls.is_some() {
                // With TLS 1.3 we are connected before the server has looked at our certificate. Its first words
                // come after that, so no request is lost to a refusal.
                driver.greeted().await?;
            }
            Ok((handle, driver))
        });
        let (handle, driver): (H2Connection, H2Driver<Io>) = match beginning.await {
            Ok(Ok(made)) => made,
            Ok(Err(error)) => return Err(self.not_begun(&error)),
            Err(_) => {
                self.cluster.metrics.connect_failed();
                return Err(Failure::Timeout);
            }
        };
        begun.store(true, Ordering::Relaxed);
        task::spawn("h2-upstream", async move {
            driver.await;
            drop(guard);
        });
        Ok(handle)
    }

    /// HTTP/2 did not come about.
    pub(super) fn not_begun(&self, error: &io::Error) -> Failure {
        if let Some(alert) = certificate_alert(error) {
            return self.refused(REFUSED_BY_PEER, format!("{}: {alert}", self.key.address).into());
        }
        self.cluster.metrics.connect_failed();
        Failure::Connect(error.kind(), format!("{}: {error}", self.key.address).into())
    }

    /// TLS was complete, and yet there is no connection.
    fn refused(&self, code: &'static str, detail: Arc<str>) -> Failure {
        self.cluster.metrics.connect_failed();
        self.cluster.metrics.refused_by_endpoint(code);
        self.cluster.refusals.say_failed(&self.cluster.name, self.key.address, (code, &detail));
        Failure::Handshake(code, detail)
    }

    async fn dial(&self, alpn: Alpn, tls: Option<&ClientTls>) -> Result<Dialed, Failure> {
        let until = self.deadline();
        let io = self.connect(until).await?;
        let Some(tls) = tls else { return Ok(Dialed { io, tls: None, until }) };
        let (io, info) = self.secure(io, alpn, tls, until).await?;
        Ok(Dialed { io, tls: Some(info), until })
    }

    /// The client's side of a TLS handshake.
    async fn secure(
        &self,
        io: Io,
        alpn: Alpn,
        tls: &ClientTls,
        until: tokio::time::Instant,
    ) -> Result<(Io, TlsInfo), Failure> {
        let counted = Handshake::with_endpoint(&self.cluster.metrics);
        let connecting = tls.connect(io, self.key.host.as_deref(), self.key.address, alpn);
        let error = match timeout_at(until, connecting).await {
            Ok(Ok((io, info))) => {
                counted.completed(info.resumed);
                return Ok((io, info));
            }
            Ok(Err(error)) => error,
            Err(_) => HandshakeError::Timeout,
        };
        let code = error.code();
        counted.failed(code);
        self.cluster.metrics.connect_failed();
        self.cluster.refusals.say_failed(&self.cluster.name, self.key.address, (code, &error));
        Err(match error {
            HandshakeError::Timeout => Failure::Timeout,
            error => Failure::Handshake(code, format!("{}: {error}", self.key.address).into()),
        })
    }

    async fn connect(&self, until: tokio::time::Instant) -> Result<Io, Failure> {
        match timeout_at(until, TcpStream::connect(self.key.address)).await {
            Ok(Ok(stream)) => {
                // Small messages must not wait for an acknowledgement (RFC 896 against delayed ACK).
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, address = %self.key.address, "TCP_NODELAY was refused");
                }
                Ok(Io::tcp(stream))
            }
            Ok(Err(error)) => {
                self.cluster.metrics.connect_failed();
                Err(Failure::Connect(error.kind(), format!("{}: {error}", self.key.address).into()))
            }
            Err(_) => Err(self.too_late()),
        }
    }

    fn too_late(&self) -> Failure {
        self.cluster.metrics.connect_failed();
        Failure::Timeout
    }

    pub(super) fn deadline(&self) -> tokio::time::Instant {
        tokio::time::Instant::now() + self.key.options.connect_timeout
    }

    /// At its age, and not after the peer's certificate.
    pub(super) fn retire_at(&self, not_after: Option<SystemTime>) -> Option<Instant> {
        let now = Instant::now();
        let age = self.key.options.max_age;
        let old = (!age.is_zero()).then(|| now + jittered(age));
        let expired =
            not_after.and_then(|at| now.checked_add(at.duration_since(SystemTime::now()).unwrap_or(Duration::ZERO)));
        match (old, expired) {
            (Some(old), Some(expired)) => Some(old.min(expired)),
            (old, expired) => old.or(expired),
        }
    }
}
