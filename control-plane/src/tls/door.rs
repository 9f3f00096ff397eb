//! Accepts connections, and shakes hands with many at once, so that one that is slow holds up nobody.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ServerConfig;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_stream::Stream;

use super::conn::{Conn, Io, Place};
use super::{config, identity, limits};
use crate::ca::{Authority, Serving};
use crate::peer::Peer;

/// A port and what comes in by it: a stream for tonic, a listener for axum. Dropping it closes the port; connections
/// that were taken from it go on.
#[derive(Debug)]
pub struct Door {
    address: SocketAddr,
    ready: mpsc::Receiver<Conn>,
    accepting: JoinHandle<()>,
}

/// Whether there is TLS.
#[derive(Debug, Clone)]
pub enum Mode {
    /// With this certificate; client certificates are asked for.
    Tls(Arc<Serving>),
    /// None, and nobody is proven: on loopback only.
    Plaintext,
}

/// What is spoken inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/2.
    Grpc,
    /// HTTP/1.1.
    Rest,
}

/// Why there is no door.
#[derive(Debug, Error)]
pub enum DoorError {
    /// The address cannot be bound.
    #[error("{address}: {source}")]
    Bind {
        /// It.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Everybody could read along, and say that they are anybody.
    #[error("{0}: without TLS the control plane listens on loopback only: use 127.0.0.1, or turn TLS on")]
    PlaintextBeyondLoopback(SocketAddr),
}

impl Speaks {
    pub(super) const fn protocol(self) -> &'static [u8] {
        match self {
            Self::Grpc => b"h2",
            Self::Rest => b"http/1.1",
        }
    }
}

impl Door {
    /// Binds an address. At most `connections` are open at once ([`limits::CONNECTIONS`] is a good number).
    ///
    /// # Errors
    /// See [`DoorError`].
    pub async fn open(address: SocketAddr, mode: Mode, speaks: Speaks, connections: usize) -> Result<Self, DoorError> {
        if matches!(mode, Mode::Plaintext) && !address.ip().is_loopback() {
            return Err(DoorError::PlaintextBeyondLoopback(address));
        }
        let bind = |source| DoorError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let (send, ready) = mpsc::channel(limits::READY);
        let tls = match mode {
            Mode::Plaintext => None,
            Mode::Tls(serving) => Some((Arc::clone(serving.authority()), config::server(serving, speaks))),
        };
        let hall = Hall {
            tls,
            anonymous_for: (speaks == Speaks::Grpc).then_some(limits::ANONYMOUS_GRPC),
            send,
            places: Arc::new(Semaphore::new(connections)),
            anonymous: Arc::new(Semaphore::new(connections.div_ceil(limits::ANONYMOUS_SHARE))),
            handshakes: Arc::new(Semaphore::new(limits::HANDSHAKES)),
        };
        let accepting = tokio::spawn(hall.accept(listener));
        Ok(Self { address, ready, accepting })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Stream for Door {
    type Item = io::Result<Conn>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.ready.poll_recv(cx).map(|conn| conn.map(Ok))
    }
}

impl axum::serve::Listener for Door {
    type Io = Conn;
    type Addr = Peer;

    async fn accept(&mut self) -> (Conn, Peer) {
        match self.ready.recv().await {
            Some(conn) => {
                let peer = conn.peer().clone();
                (conn, peer)
            }
            // The task that accepts ends with this value only.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Peer> {
        Ok(Peer { id: None, workload: None, address: self.address })
    }
}

/// What the accepting task has.
struct Hall {
    tls: Option<(Arc<Authority>, Arc<ServerConfig>)>,
    send: mpsc::Sender<Conn>,
    places: Arc<Semaphore>,
    /// For those who come to a door with TLS and prove nothing.
    anonymous: Arc<Semaphore>,
    /// How long they may stay.
    anonymous_for: Option<Duration>,
    handshakes: Arc<Semaphore>,
}

impl Hall {
    async fn accept(self, listener: TcpListener) {
        loop {
            // Places first: what there is no place for waits in the kernel.
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return };
            let Ok(shaking) = Arc::clone(&self.handshakes).acquire_owned().await else { return };
            let (tcp, address) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(limits::ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let _ = tcp.set_nodelay(true);
            let (tls, send, anonymous) = (self.tls.clone(), self.send.clone(), Arc::clone(&self.anonymous));
            let anonymous_for = self.anonymous_for;
            tokio::spawn(async move {
                let conn = match tls {
                    None => {
                        let peer = Peer { id: None, workload: None, address };
                        Some(Conn::new(Io::Plain(tcp), peer, None, Place { _any: place, _anonymous: None }))
                    }
                    Some((authority, config)) => {
                        let shaken = shake_hands(&authority, config, (tcp, address)).await;
                        shaken.and_then(|(io, peer, lasts)| {
                            let place = take(place, &anonymous, lasts)?;
                            Some(Conn::new(io, peer, lasts.or(anonymous_for), place))
                        })
                    }
                };
                drop(shaking);
                if let Some(conn) = conn {
                    // An error means that the door was closed meanwhile.
                    let _ = send.send(conn).await;
                }
            });
        }
    }
}

/// `lasts` is there when the peer has proven who it is. There is no waiting for those who have not.
fn take(any: OwnedSemaphorePermit, anonymous: &Arc<Semaphore>, lasts: Option<Duration>) -> Option<Place> {
    if lasts.is_some() {
        return Some(Place { _any: any, _anonymous: None });
    }
    match Arc::clone(anonymous).try_acquire_owned() {
        Ok(place) => Some(Place { _any: any, _anonymous: Some(place) }),
        Err(_) => {
            tracing::warn!("too many connections without a client certificate; one was closed");
            None
        }
    }
}

/// The connection, its peer, and how long the certificate of that is still good.
async fn shake_hands(
    authority: &Arc<Authority>,
    config: Arc<ServerConfig>,
    (tcp, address): (TcpStream, SocketAddr),
) -> Option<(Io, Peer, Option<Duration>)> {
    let stream = match timeout(limits::HANDSHAKE, TlsAcceptor::from(config).accept(tcp)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::info!(%address, %error, "a TLS handshake failed");
            if is_certificate(&error) {
                let (authority, why) = (Arc::clone(authority), error.to_string());
                // It waits for its disk.
                tokio::task::spawn_blocking(move || authority.refused_certificate(address, &why));
            }
            return None;
        }
        Err(_) => {
            tracing::info!(%address, "a TLS handshake took too long");
            return None;
        }
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let (peer, lasts) = match certificate {
        None => (Peer { id: None, workload: None, address }, None),
        Some(certificate) => {
            let holder = identity::of(certificate, authority.trust_domain())?;
            let lasts = holder.not_after.duration_since(authority.clock().now()).unwrap_or_default();
            (Peer { id: Some(holder.id), workload: holder.workload, address }, Some(lasts))
        }
    };
    Some((Io::Tls(Box::new(stream)), peer, lasts))
}

/// Whether it was the client's certificate that was refused.
fn is_certificate(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(error, Some(rustls::Error::InvalidCertificate(_)))
}
