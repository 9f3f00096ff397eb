//! Messages as the pipeline sees them, and the seam between the codecs and the pipeline.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, StatusCode, Version};

use super::body::{Body, PollBody};
use super::error::Refusal;
use crate::base::drain;
use crate::base::pressure::PressureWatch;

/// The head of a request, independent of the HTTP version. `Host` is never among the headers:
/// it is [`RequestHead::authority`].
#[derive(Debug, Clone)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// `http` or `https`, as the caller meant it.
    pub scheme: Scheme,
    /// Host and port as the caller named them; `None` only for HTTP/1.0 without `Host`.
    pub authority: Option<Authority>,
    /// Path and query; `*` for a server-wide OPTIONS.
    pub path: PathAndQuery,
    /// The version it arrived in.
    pub version: Version,
    /// End-to-end and hop-by-hop fields as they arrived, checked, without `Host`.
    pub headers: HeaderMap,
    /// What it asks to switch to. Then the body is what goes up the tunnel, of no declared length.
    pub upgrade: Option<Upgrade>,
}

/// What a request asks to switch its connection, or its stream, to: `Upgrade` in HTTP/1.1 (RFC 9110 section 7.8),
/// `:protocol` in HTTP/2 (RFC 8441) and HTTP/3 (RFC 9220). Whichever it came as, its method is GET here, the fields of
/// one hop (`Upgrade`, `Connection`, `Sec-WebSocket-Key`) are gone, and the answer that agrees to it is
/// 101. A codec makes of it what its own version says.
///
/// The request's body is what goes up the tunnel. It is not read before an answer has agreed, so that what the caller sent
/// early is there for another attempt, and is not sent to a server that does not agree. The end of a body is the end of one
/// direction; a body that fails, or is dropped before its end, is a reset. A server codec that has passed on the whole
/// answer goes on with [`PollBody::poll_rest`], because the way up may end later than the way down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upgrade {
    /// WebSocket (RFC 6455).
    WebSocket,
    /// Anything else, by its token in lower case.
    Other(Arc<str>),
}

impl RequestHead {
    /// Whether it asks for a tunnel: by an upgrade, or by CONNECT.
    #[must_use]
    pub fn asks_for_tunnel(&self) -> bool {
        self.upgrade.is_some() || self.method == Method::CONNECT
    }
}

/// A request with its body.
#[derive(Debug)]
pub struct Request {
    /// The head.
    pub head: RequestHead,
    /// The body, streamed.
    pub body: Body,
    /// When its first byte was seen.
    pub started: Instant,
}

/// The head of a response.
#[derive(Debug, Clone)]
pub struct ResponseHead {
    /// The status. Of 1xx only 101, which agrees to an [`Upgrade`]: the body is then what comes down the tunnel.
    pub status: StatusCode,
    /// Fields.
    pub headers: HeaderMap,
}

/// A response with its body.
#[derive(Debug)]
pub struct Response<B> {
    /// The head.
    pub head: ResponseHead,
    /// The body, streamed.
    pub body: B,
}

/// Sends 1xx responses to the caller before the final one. Best effort: an HTTP/1.0 caller gets none.
pub trait Interim: Sync {
    /// Sends one informational response (100, 102, 103).
    fn send(&self, status: StatusCode, headers: &HeaderMap);
}

/// What answers requests. One value serves one connection and knows its addresses.
pub trait Handler: Send + Sync + 'static {
    /// The body of its answers.
    type Body: PollBody + Send + 'static;

    /// Answers one request. Dropping the future means that the caller has left: all work for it must stop.
    fn handle(&self, request: Request, interim: &dyn Interim) -> impl Future<Output = Response<Self::Body>> + Send;

    /// Called before a request for a tunnel is handled: this tells when the tunnel should finish. What is a tunnel does not
    /// end with the request that the codec knows of, so whoever handles it ends it.
    fn drained_by(&self, _drain: &drain::Watch) {}

    /// Answers, counts and logs a request that the codec refused.
    fn refuse(&self, refusal: Refusal) -> Response<Self::Body>;
}

/// What a server side needs to know about its listener, fixed for the life of a connection.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Request head bytes.
    pub max_head_bytes: usize,
    /// Header fields of a request.
    pub max_headers: usize,
    /// Concurrent HTTP/2 streams.
    pub max_concurrent_streams: u32,
    /// From the first byte to the end of a head.
    pub header_timeout: Duration,
    /// Without any request.
    pub idle_timeout: Duration,
    /// When this connection has lived long enough (jitter included).
    pub retire_at: Option<Instant>,
    /// The scheme of requests on this connection.
    pub scheme: Scheme,
    /// Tells when to finish.
    pub drain: drain::Watch,
    /// Tells when memory is short: then idle connections go.
    pub pressure: PressureWatch,
}
