//! Connections to the control plane: a name or an address, TCP, TLS with the server verified, HTTP/2. Everything runs on
//! the control thread and waits no longer than its limits.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper_util::rt::TokioIo;
use outrigger_config::model::{CertificateFiles, ControlPlane, ControlServer};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

use crate::base::limits;
use crate::net::io::Io;
use crate::net::tls::{Alpn, AlpnProtocol, ClientTls, ControlTls, HandshakeError, MaterialError, Secrets};
use crate::upstream::Registry;

/// Why there is no connection.
#[derive(Debug, Error)]
pub(crate) enum DialError {
    #[error("its name cannot be resolved: {0}")]
    Resolve(String),
    #[error("it cannot be reached: {0}")]
    Connect(io::Error),
    #[error("it cannot be reached within {0:?}")]
    Slow(Duration),
    #[error("the certificates for it cannot be used: {0}")]
    Material(String),
    #[error("TLS with it failed: {0}")]
    Tls(HandshakeError),
    #[error("it does not speak HTTP/2")]
    Protocol,
    #[error("HTTP/2 with it failed: {0}")]
    Http2(String),
}

/// Whose certificates are used for a connection: the roots, and our own where there is one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Papers<'a> {
    pub(crate) roots: &'a Path,
    pub(crate) own: Option<&'a CertificateFiles>,
}

/// Connects to a server. Cancel safe: dropping the future closes the connection.
///
/// # Errors
/// See [`DialError`].
pub(crate) async fn dial(
    plane: &ControlPlane,
    server: &ControlServer,
    papers: Option<Papers<'_>>,
    registry: &Registry,
) -> Result<Channel, DialError> {
    let tls = match papers.filter(|_| server.tls) {
        Some(papers) => Some(tls(plane, papers)?),
        None if server.tls => return Err(DialError::Material("there are no roots to verify it by".to_owned())),
        None => None,
    };
    let limit = limits::CONTROL_CONNECT;
    timeout(limit, connect(server, tls.as_ref(), registry)).await.map_err(|_| DialError::Slow(limit))?
}

/// Read for every connection, so that files may change.
fn tls(plane: &ControlPlane, papers: Papers<'_>) -> Result<ClientTls, DialError> {
    let Papers { roots, own } = papers;
    let paths = own.into_iter().flat_map(|own| [&*own.certificate, &*own.private_key]).chain([roots]);
    let contents = paths.filter_map(|path| Some((path.to_owned(), std::fs::read(path).ok()?)));
    let secrets = Secrets::from_contents(contents);
    let wanted = ControlTls { expect: &plane.expect, roots, own, place: &plane.place };
    wanted.build(&secrets, SystemTime::now()).map_err(|errors| DialError::Material(described(&errors)))
}

/// What is wrong with files, on one line.
pub(crate) fn described(errors: &[MaterialError]) -> String {
    let one = |error: &MaterialError| format!("`{}`: {}", error.file.display(), error.problem);
    errors.iter().map(one).collect::<Vec<_>>().join("; ")
}

async fn connect(server: &ControlServer, tls: Option<&ClientTls>, registry: &Registry) -> Result<Channel, DialError> {
    let ControlServer { host, port, tls: _ } = server;
    let addresses = match host.parse::<IpAddr>() {
        Ok(address) => vec![address],
        Err(_) => registry.resolve(host).await.map_err(DialError::Resolve)?.addresses,
    };
    let mut problem = DialError::Connect(io::Error::from(io::ErrorKind::AddrNotAvailable));
    for address in addresses {
        let address = SocketAddr::new(address, *port);
        match TcpStream::connect(address).await {
            Ok(stream) => return secure(stream, (server, address), tls).await,
            Err(error) => problem = DialError::Connect(error),
        }
    }
    Err(problem)
}

async fn secure(
    stream: TcpStream,
    (server, address): (&ControlServer, SocketAddr),
    tls: Option<&ClientTls>,
) -> Result<Channel, DialError> {
    // Requests are small and are waited for.
    let _ = stream.set_nodelay(true);
    let io = Io::tcp(stream);
    let io = match tls {
        None => io,
        Some(tls) => {
            let host = server.host.parse::<IpAddr>().is_err().then_some(&*server.host);
            let (io, info) = tls.connect(io, host, address, Alpn::Http2).await.map_err(DialError::Tls)?;
            if info.alpn != Some(AlpnProtocol::Http2) {
                return Err(DialError::Protocol);
            }
            io
        }
    };
    speak(io, server).await
}

/// One HTTP/2 connection, which is not made again when it ends: the next one may be to another server.
async fn speak(io: Io, server: &ControlServer) -> Result<Channel, DialError> {
    let failed = |error: &dyn std::error::Error| DialError::Http2(causes(error));
    let authority = match server.host.contains(':') {
        true => format!("[{}]:{}", server.host, server.port),
        false => format!("{}:{}", server.host, server.port),
    };
    let scheme = if server.tls { "https" } else { "http" };
    let origin = format!("{scheme}://{authority}").parse().map_err(|error: http::uri::InvalidUri| failed(&error))?;
    // TLS is ours: to the library it is a connection like any other.
    let endpoint = Endpoint::from_shared(format!("http://{authority}"))
        .map_err(|error| failed(&error))?
        .origin(origin)
        .http2_keep_alive_interval(limits::CONTROL_KEEPALIVE)
        .keep_alive_timeout(limits::CONTROL_KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(limits::CONTROL_STREAM_WINDOW)
        .initial_connection_window_size(limits::CONTROL_CONNECTION_WINDOW)
        .http2_max_header_list_size(limits::H2_HEADER_LIST);
    let once = Arc::new(Mutex::new(Some(io)));
    let connector = tower::service_fn(move |_: http::Uri| {
        let io = once.lock().take().map(TokioIo::new);
        std::future::ready(io.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)))
    });
    endpoint.connect_with_connector(connector).await.map_err(|error| failed(&error))
}

/// An error with everything behind it.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text += ": ";
            text += &cause_text;
        }
        next = cause.source();
    }
    text
}
