//! Endpoints that take connections: one for each worker on an address.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use quinn::{
    Connecting, Connection, Endpoint, EndpointConfig, Runtime as _, ServerConfig, TokioRuntime, TransportConfig,
    VarInt, ZeroRttAccepted,
};
use tokio::runtime::Handle;

use super::ids::Ids;
use super::socket::Steered;
use super::steering::{Desk, Steering};
use super::{failure, transport};
use crate::base::{limits, task};
use crate::net::tls::{ForeignPackets, HandshakeError, Outcome, QUIC_VERSION, ServerTls, TlsInfo, UnderWay, take_turn};

/// A socket on its way to its worker.
#[derive(Debug)]
pub struct Station {
    socket: UdpSocket,
    desk: Desk,
    porch: Arc<Porch>,
}

/// An endpoint on its worker. Dropping it lets its connections finish, and closes the socket after the last one.
#[derive(Debug)]
pub struct Server {
    endpoint: Endpoint,
    steering: Arc<Steering>,
    porch: Arc<Porch>,
}

/// Handshakes under way, at all endpoints of one address, from addresses that may not be the callers'.
#[derive(Debug)]
struct Porch {
    inside: AtomicU32,
    most: AtomicU32,
}

/// Somebody who wants a connection. Dropping it refuses them.
#[derive(Debug)]
pub struct Arrival {
    incoming: quinn::Incoming,
    steering: Arc<Steering>,
    unproved: Option<Unproved>,
}

/// A connection, and who is at its other end.
#[derive(Debug)]
pub struct Established {
    /// The connection.
    pub connection: Connection,
    /// What the handshake settled; the same before its end, where a session is resumed.
    pub tls: TlsInfo,
    /// What is left of the handshake, where early data is taken: what comes before its end, somebody may have recorded and
    /// sent again (RFC 9001 section 9.2).
    pub rest: Option<Unfinished>,
}

/// The rest of a handshake; it counts among those under way until this is dropped.
pub struct Unfinished {
    connection: Connection,
    accepted: ZeroRttAccepted,
    outcome: Outcome,
    until: Instant,
    unproved: Option<Unproved>,
    _place: UnderWay,
}

/// How connections of a listener behave.
#[derive(Debug, Clone)]
pub struct ServerTransport {
    /// A connection on which nothing comes for so long is dead.
    pub idle: Duration,
    /// Exchanges under way on one connection; at most [`limits::QUIC_FIRST_STREAMS`] of them to begin with.
    pub max_streams: u32,
}

/// A handshake from an address that may not be the caller's. Counted until the caller has shown that it is, or is refused;
/// otherwise for as long as something is kept of its connection.
#[derive(Debug)]
struct Unproved {
    porch: Arc<Porch>,
    /// There is a connection, of which the transport keeps everything for a while after its end.
    lingers: bool,
}

impl Station {
    /// Makes the sockets of one address known to each other. `None` when the process has too many.
    #[must_use]
    pub fn join(steering: &Arc<Steering>, port: u16, sockets: Vec<UdpSocket>) -> Option<Vec<Self>> {
        let desks = steering.desks(port, sockets.len())?;
        let endpoints = u32::try_from(sockets.len()).unwrap_or(u32::MAX);
        let most = limits::QUIC_UNPROVED.saturating_mul(endpoints);
        let porch = Arc::new(Porch { inside: AtomicU32::new(0), most: AtomicU32::new(most) });
        let station = |(socket, desk)| Self { socket, desk, porch: Arc::clone(&porch) };
        Some(sockets.into_iter().zip(desks).map(station).collect())
    }

    /// Opens the endpoint. On its worker, inside its runtime.
    ///
    /// # Errors
    /// When the socket cannot be watched.
    pub fn open(self) -> io::Result<Server> {
        let Self { socket, desk, porch } = self;
        let steering = Arc::clone(&desk.steering);
        let mut config = EndpointConfig::new(Arc::clone(&steering.reset_key) as _);
        let (key, number) = (Arc::clone(&steering.ids), desk.number);
        config.cid_generator(move || Box::new(Ids { key: Arc::clone(&key), number }));
        config.supported_versions(vec![QUIC_VERSION]);
        let mut server = ServerConfig::new(Arc::new(ForeignPackets), Arc::clone(&steering.token_key) as _);
        server.max_incoming(limits::QUIC_CALLERS);
        server.incoming_buffer_size(limits::QUIC_CALLER_BYTES);
        server.incoming_buffer_size_total(limits::QUIC_CALLERS_BYTES);
        let socket = Arc::new(Steered::new(TokioRuntime.wrap_udp_socket(socket)?, desk));
        let endpoint = Endpoint::new_with_abstract_socket(config, Some(server), socket, Arc::new(TokioRuntime))?;
        Ok(Server { endpoint, steering, porch })
    }
}

impl Server {
    /// From now on so many handshakes may be under way, at all endpoints of the address, with addresses that may not be
    /// the callers'.
    pub fn limit_unproved(&self, most: u32) {
        self.porch.most.store(most, Ordering::Relaxed);
    }

    /// The next caller. While many handshakes are under way with addresses that may not be the callers', others have to
    /// show first that theirs is (RFC 9000 section 8.1.2), which costs them a round trip and us nothing. `None`: the
    /// endpoint is gone. Cancel safe.
    pub async fn arrival(&self) -> Option<Arrival> {
        loop {
            let incoming = self.endpoint.accept().await?;
            let unproved = if incoming.remote_address_validated() {
                None
            } else if let Some(unproved) = Unproved::enter(&self.porch) {
                Some(unproved)
            } else if !incoming.may_retry() {
                // It was asked, and has shown something else.
                incoming.ignore();
                continue;
            } else {
                self.steering.metrics.retried();
                let retried = incoming.retry();
                debug_assert!(retried.is_ok(), "it may be asked");
                continue;
            };
            return Some(Arrival { incoming, steering: Arc::clone(&self.steering), unproved });
        }
    }
}

impl Arrival {
    /// Where it is; the address may change later.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.incoming.remote_address()
    }

    /// The address of ours that it called, where the system tells.
    #[must_use]
    pub fn local_ip(&self) -> Option<IpAddr> {
        self.incoming.local_ip()
    }

    /// Tells it that no connection is to be had; it may use TCP.
    pub fn refuse(self) {
        self.incoming.refuse();
    }

    /// Runs the handshake, within the listener's limits of number and time; where early data came and is taken, as far as
    /// that. Cancel safe: dropping the future closes the connection.
    ///
    /// # Errors
    /// See [`HandshakeError`]; the caller is told what the protocol has a code for.
    pub fn accept(
        self,
        tls: &ServerTls,
        settings: &ServerTransport,
    ) -> impl Future<Output = Result<Established, HandshakeError>> + Send + use<> {
        let begun = tls.over_quic();
        let until = Instant::now() + tls.config().handshake_timeout;
        let transport = Arc::new(settings.transport());
        async move {
            let Self { incoming, steering, mut unproved } = self;
            let (session, place) = begun?;
            let (outcome, early) = (session.outcome(), session.early());
            let mut config = ServerConfig::new(Arc::new(session), Arc::clone(&steering.token_key) as _);
            config.transport_config(transport);
            if let Some(unproved) = &mut unproved {
                unproved.lingers = true;
            }
            let handshake = async {
                // The first flight is answered in here, which is the longest step of all.
                let mut connecting = take_turn(|| incoming.accept_with(Arc::new(config))).await?;
                if let Some(early) = early {
                    // The caller's first message may be longer than its first packet.
                    drop(connecting.handshake_data().await?);
                    if let Some(tls) = early.take() {
                        return Ok(Begun::Early(connecting, tls));
                    }
                }
                connecting.await.map(Begun::Over)
            };
            let begun = tokio::time::timeout_at(until.into(), handshake).await;
            let connected = match begun {
                Ok(Ok(Begun::Early(connecting, tls))) => {
                    let Ok((connection, accepted)) = connecting.into_0rtt() else { return Err(HandshakeError::Closed) };
                    let rest = Unfinished {
                        connection: connection.clone(),
                        accepted,
                        outcome,
                        until,
                        unproved,
                        _place: place,
                    };
                    return Ok(Established { connection, tls, rest: Some(rest) });
                }
                Ok(Ok(Begun::Over(connection))) => Ok(Ok(connection)),
                Ok(Err(error)) => Ok(Err(error)),
                Err(elapsed) => Err(elapsed),
            };
            drop(place);
            if let (Ok(Ok(_)), Some(unproved)) = (&connected, unproved) {
                unproved.proved();
            }
            match (connected, outcome.take()) {
                (Ok(Ok(connection)), Some(Ok(tls))) => Ok(Established { connection, tls, rest: None }),
                (Err(_), _) => Err(HandshakeError::Timeout),
                (_, Some(Err(error))) => Err(error),
                (Ok(Err(error)), _) => Err(failure::of_handshake(error)),
                (Ok(Ok(_)), None) => Err(HandshakeError::Protocol("the handshake ended without a result".into())),
            }
        }
    }
}

/// How far a handshake came.
enum Begun {
    Early(Connecting, TlsInfo),
    Over(Connection),
}

impl Unfinished {
    /// Waits for the end of the handshake, within the listener's time limit. Cancel safe; dropping the future leaves the
    /// connection as it is.
    ///
    /// # Errors
    /// See [`HandshakeError`]; the connection is closed.
    pub async fn finish(self) -> Result<(), HandshakeError> {
        let Self { connection, accepted, outcome, until, unproved, _place } = self;
        if tokio::time::timeout_at(until.into(), accepted).await.is_err() {
            connection.close(VarInt::from_u32(0), b"");
            return Err(HandshakeError::Timeout);
        }
        match (outcome.take(), connection.close_reason()) {
            (Some(Ok(_)), _) => {
                if let Some(unproved) = unproved {
                    unproved.proved();
                }
                Ok(())
            }
            (Some(Err(error)), _) => Err(error),
            (None, Some(error)) => Err(failure::of_handshake(error)),
            (None, None) => Err(HandshakeError::Protocol("the handshake ended without a result".into())),
        }
    }
}

impl fmt::Debug for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unfinished").field("connection", &self.connection).finish_non_exhaustive()
    }
}

impl ServerTransport {
    fn transport(&self) -> TransportConfig {
        let mut transport = transport::common(self.idle);
        transport.max_concurrent_bidi_streams(VarInt::from_u32(self.max_streams.min(limits::QUIC_FIRST_STREAMS)));
        transport.stream_receive_window(VarInt::from_u32(limits::QUIC_SERVER_STREAM_WINDOW));
        transport.receive_window(VarInt::from_u32(limits::QUIC_SERVER_CONNECTION_WINDOW));
        transport
    }
}

impl Unproved {
    /// `None`: there are as many as may be.
    fn enter(porch: &Arc<Porch>) -> Option<Self> {
        let most = porch.most.load(Ordering::Relaxed);
        let one_more = |inside| (inside < most).then_some(inside + 1);
        let entered = porch.inside.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        entered.ok().map(|_| Self { porch: Arc::clone(porch), lingers: false })
    }

    /// The caller has answered from its address.
    fn proved(mut self) {
        self.lingers = false;
    }
}

impl Drop for Unproved {
    fn drop(&mut self) {
        let porch = Arc::clone(&self.porch);
        let leave = move || {
            porch.inside.fetch_sub(1, Ordering::Relaxed);
        };
        // Without a runtime the endpoint is gone, and with it what it keeps.
        if self.lingers && Handle::try_current().is_ok() {
            drop(task::spawn("quic-unproved", async move {
                tokio::time::sleep(limits::QUIC_DRAINING).await;
                leave();
            }));
        } else {
            leave();
        }
    }
}
