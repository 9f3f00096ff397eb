//! Connections to endpoints of clusters: one socket of each address family for each thread, shared by all its
//! connections.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use quinn::{ClientConfig, ConnectError, Connection, Endpoint, EndpointConfig, TokioRuntime, TransportConfig, VarInt};

use super::{failure, socket, transport};
use crate::base::limits;
use crate::net::tls::{ClientTls, HandshakeError, QUIC_VERSION, TlsInfo};

/// How connections to a cluster behave, made once for all of them.
#[derive(Clone)]
pub struct ClientTransport(Arc<TransportConfig>);

impl ClientTransport {
    /// A connection on which nothing came for `idle` is dead; after `keep_alive` of silence it is asked whether it is
    /// there, which has to be sooner.
    #[must_use]
    pub fn new(idle: Duration, keep_alive: Option<Duration>) -> Self {
        let mut transport = transport::common(idle);
        transport.keep_alive_interval(keep_alive);
        transport.stream_receive_window(VarInt::from_u32(limits::QUIC_CLIENT_STREAM_WINDOW));
        transport.receive_window(VarInt::from_u32(limits::QUIC_CLIENT_CONNECTION_WINDOW));
        // Servers begin no exchanges (RFC 9114 section 6.1).
        transport.max_concurrent_bidi_streams(VarInt::from_u32(0));
        Self(Arc::new(transport))
    }
}

impl fmt::Debug for ClientTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClientTransport").finish_non_exhaustive()
    }
}

/// Connects to an endpoint over QUIC for HTTP/3: `host` is its name where it was given by name, `address` where it is. The
/// connection lives on this thread. No time limit but that of an idle connection: the caller has one for
/// connecting. Cancel safe: dropping the future closes the connection.
///
/// A server judges our certificate after this has returned; see [`peer_alert`](super::peer_alert).
///
/// # Errors
/// See [`HandshakeError`]; the connection is closed. Where UDP is blocked nothing comes back at all.
///
/// # Panics
/// Outside a runtime.
pub async fn connect(
    address: SocketAddr,
    tls: &ClientTls,
    host: Option<&str>,
    transport: &ClientTransport,
) -> Result<(Connection, TlsInfo), HandshakeError> {
    let session = Arc::new(tls.over_quic(host, address));
    let outcome = session.outcome();
    let name = session.name().to_str().into_owned();
    let mut config = ClientConfig::new(session);
    config.transport_config(Arc::clone(&transport.0));
    let begin = |fresh| {
        let endpoint = endpoint(address, fresh).map_err(HandshakeError::Io)?;
        Ok(endpoint.connect_with(config.clone(), address, &name))
    };
    let connecting = match begin(Fresh::No)? {
        // The runtime that it was made in has ended.
        Err(ConnectError::EndpointStopping) => begin(Fresh::Yes)?,
        begun => begun,
    };
    let connecting =
        connecting.map_err(|error| outcome.take().and_then(Result::err).unwrap_or_else(|| refused(&error)))?;
    let connected = connecting.await;
    match (connected, outcome.take()) {
        (Ok(connection), Some(Ok(info))) => Ok((connection, info)),
        (_, Some(Err(error))) => Err(error),
        (Err(error), _) => Err(failure::of_handshake(error)),
        (Ok(_), None) => Err(HandshakeError::Protocol("the handshake ended without a result".into())),
    }
}

thread_local! {
    static ENDPOINTS: RefCell<[Option<Endpoint>; 2]> = const { RefCell::new([None, None]) };
}

/// Whether an endpoint that is there will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fresh {
    No,
    Yes,
}

/// The endpoint of this thread for addresses of this family.
fn endpoint(address: SocketAddr, fresh: Fresh) -> io::Result<Endpoint> {
    let family = usize::from(address.is_ipv6());
    ENDPOINTS.with_borrow_mut(|endpoints| match &endpoints[family] {
        Some(endpoint) if fresh == Fresh::No => Ok(endpoint.clone()),
        _ => {
            let any = if address.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
            let socket = socket::bind_client(SocketAddr::new(any, 0))?;
            let mut config = EndpointConfig::default();
            config.supported_versions(vec![QUIC_VERSION]);
            let endpoint = Endpoint::new(config, None, socket, Arc::new(TokioRuntime))?;
            endpoints[family] = Some(endpoint.clone());
            Ok(endpoint)
        }
    })
}

/// Closes all connections that [`connect`] has made on this thread. Resolves when they were told. Cancel safe: they are closed
/// in any case.
pub async fn close_all(code: VarInt) {
    ENDPOINTS.with_borrow_mut(|endpoints| {
        for endpoint in endpoints.iter_mut().filter_map(Option::take) {
            endpoint.close(code, b"");
        }
    });
    // A connection says it in its next turn. The first wakes it, and it may be behind others.
    for _ in 0..FAREWELL_TURNS {
        tokio::task::yield_now().await;
    }
}

const FAREWELL_TURNS: usize = 4;

fn refused(error: &ConnectError) -> HandshakeError {
    let kind = match error {
        ConnectError::InvalidRemoteAddress(_) => io::ErrorKind::AddrNotAvailable,
        _ => io::ErrorKind::Other,
    };
    HandshakeError::Io(io::Error::new(kind, error.to_string()))
}
