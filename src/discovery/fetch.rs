//! Fetching a small document from the web, on the control thread: over our own HTTP/1 client, whole or not at all,
//! and from nowhere else than where it was asked for (no redirect is followed).

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_ENCODING, HeaderMap, HeaderValue, USER_AGENT};
use http::uri::{PathAndQuery, Scheme};
use http::{Method, StatusCode, Uri, Version};
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::net::TcpStream;

use crate::codec::h1::{ClientConn, Home};
use crate::codec::{Body, BodyError, Frame, Interim, PollBody as _, RequestHead, SendError};
use crate::net::io::Io;
use crate::net::tls::HandshakeError;
use crate::net::tls::web::{self, WebRoots};
use crate::upstream::Registry;

/// What is fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    /// `http` or `https`.
    pub(super) url: Arc<str>,
    /// Roots to verify the server by. `None`: the system's.
    pub(super) roots: Option<PathBuf>,
    /// No more bytes than that.
    pub(super) limit: usize,
}

/// Why nothing was fetched. Says nothing of what was sent.
#[derive(Debug, Error)]
pub(super) enum FetchError {
    #[error("the URL cannot be used")]
    Url,
    #[error("its host cannot be resolved: {0}")]
    Resolve(String),
    #[error("the server cannot be reached: {0}")]
    Connect(io::Error),
    #[error("the roots to verify the server by cannot be used: {0}")]
    Roots(String),
    #[error("TLS with the server failed: {0}")]
    Tls(HandshakeError),
    #[error("the request failed: {0}")]
    Send(SendError),
    #[error("the server answered {0}")]
    Status(StatusCode),
    #[error("the answer is compressed, which was not asked for")]
    Compressed,
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    #[error("the answer broke off: {0}")]
    Body(BodyError),
}

/// Fetches a document. Cancel safe: dropping the future closes the connection.
///
/// # Errors
/// See [`FetchError`].
pub(super) async fn fetch(source: &Source, registry: &Registry) -> Result<Bytes, FetchError> {
    let uri: Uri = source.url.parse().map_err(|_| FetchError::Url)?;
    let authority = uri.authority().ok_or(FetchError::Url)?.clone();
    let secure = match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTPS => true,
        Some(scheme) if *scheme == Scheme::HTTP => false,
        _ => return Err(FetchError::Url),
    };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let tcp = connect(host, port, registry).await?;
    let io = if secure { secured(tcp, host, source.roots.as_deref()).await? } else { Io::tcp(tcp) };

    let mut headers = HeaderMap::with_capacity(2);
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("outrigger/", env!("CARGO_PKG_VERSION"))));
    let head = RequestHead {
        method: Method::GET,
        scheme: if secure { Scheme::HTTPS } else { Scheme::HTTP },
        path: uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/")),
        authority: Some(authority),
        version: Version::HTTP_11,
        headers,
        upgrade: None,
    };
    let connection = ClientConn::new(io, Arc::new(Nowhere), Box::new(()));
    let response = connection.send(&head, Body::Empty, &Nobody).await.map_err(FetchError::Send)?;
    if response.head.status != StatusCode::OK {
        return Err(FetchError::Status(response.head.status));
    }
    if response.head.headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(FetchError::Compressed);
    }
    read(response.body, source.limit).await
}

async fn read(mut body: Body, limit: usize) -> Result<Bytes, FetchError> {
    let mut document = BytesMut::new();
    while let Some(frame) = poll_fn(|cx| body.poll_frame(cx)).await {
        match frame.map_err(FetchError::Body)? {
            Frame::Data(data) if document.len() + data.len() > limit => return Err(FetchError::TooLarge(limit)),
            Frame::Data(data) => document.extend_from_slice(&data),
            Frame::Trailers(_) => {}
        }
    }
    Ok(document.freeze())
}

/// The first address that answers.
async fn connect(host: &str, port: u16, registry: &Registry) -> Result<TcpStream, FetchError> {
    let addresses = match host.parse::<IpAddr>() {
        Ok(address) => vec![address],
        Err(_) => registry.resolve(host).await.map_err(FetchError::Resolve)?.addresses,
    };
    let mut problem = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match TcpStream::connect(SocketAddr::new(address, port)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => problem = error,
        }
    }
    Err(FetchError::Connect(problem))
}

/// The bundle is read for every fetch, so that it may change.
async fn secured(tcp: TcpStream, host: &str, bundle: Option<&Path>) -> Result<Io, FetchError> {
    let name = ServerName::try_from(host.to_owned()).map_err(|_| FetchError::Url)?;
    let roots = match bundle {
        Some(bundle) => WebRoots::read(bundle).map_err(FetchError::Roots)?,
        None => WebRoots::system(),
    };
    web::connect(tcp, &name, roots).await.map_err(FetchError::Tls)
}

/// Connections are used once.
struct Nowhere;

impl Home for Nowhere {
    fn take_back(&self, _: Box<ClientConn>) {}
}

struct Nobody;

impl Interim for Nobody {
    fn send(&self, _: StatusCode, _: &HeaderMap) {}
}
