//! Where requests come in.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{
    ClientCertHeader, Http3, Intercept, Interception, ListenerJwt, ListenerTls, Place, ProxyProtocol, RateLimit,
    TcpForwarding, UdpForwarding, Upgrades,
};

/// A listener.
#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    /// Unique name.
    pub name: Arc<str>,
    /// Where it listens.
    pub bind: SocketAddr,
    /// What is spoken on it.
    pub protocol: ListenerProtocol,
    /// The route table it uses; exists in [`Config::routes`](super::Config::routes). `None` only where nothing is read as
    /// HTTP: TLS that is handed on, TCP and UDP.
    pub routes: Option<Arc<str>>,
    /// Inbound listeners are drained on shutdown; outbound ones stay open until the end.
    pub direction: Direction,
    /// What may be believed of forwarding headers.
    pub trust: Trust,
    /// Path normal form options.
    pub path: PathOptions,
    /// Limits and timeouts towards the downstream.
    pub limits: ListenerLimits,
    /// TLS; `None` is plaintext, as [`TlsMode::Off`](super::TlsMode::Off).
    pub tls: Option<ListenerTls>,
    /// What is done with `x-forwarded-client-cert`.
    pub client_cert_header: ClientCertHeader,
    /// Its authorization policy; exists in [`Config::authorization`](super::Config::authorization).
    pub authorization: Option<Arc<str>>,
    /// Tokens.
    pub jwt: Option<ListenerJwt>,
    /// The authorizer that is asked; exists in [`Config::external_authorizers`](super::Config::external_authorizers).
    pub external_authorization: Option<Arc<str>>,
    /// Rate limits of all its requests, before routing.
    pub rate_limits: Vec<RateLimit>,
    /// HTTP/3 over UDP on the same address. Only with TLS that is terminated.
    pub http3: Option<Http3>,
    /// Upgrades and CONNECT.
    pub upgrades: Upgrades,
    /// Where connections go that are handed on. There with [`ListenerProtocol::Tcp`]; with [`ListenerProtocol::Auto`],
    /// it takes what is not HTTP.
    pub tcp: Option<TcpForwarding>,
    /// Where datagrams go. There with [`ListenerProtocol::Udp`], and only there.
    pub udp: Option<UdpForwarding>,
    /// The PROXY protocol of those who connect; `None`: no header is looked for.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Connections that are redirected here; `None`: the address they were made to is this listener's.
    pub interception: Option<Interception>,
    /// Destinations of connections caught by other listeners that this one serves.
    pub intercepts: Vec<Intercept>,
    /// Where it is written.
    pub place: Place,
}

/// What is spoken on a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerProtocol {
    /// Told apart by the first bytes.
    Auto,
    /// HTTP/1.0 and HTTP/1.1 only.
    Http1,
    /// HTTP/2 with prior knowledge only.
    Http2,
    /// Connections that are handed on as they are.
    Tcp,
    /// Datagrams that are handed on as they are.
    Udp,
}

/// Which way the traffic of a listener goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From others to the local service.
    Inbound,
    /// From the local service to others (default for a listener named `outbound…`).
    Outbound,
}

/// The trust rule of a listener: what may be believed of `X-Forwarded-*`, `Forwarded`, `x-request-id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Strangers: forwarding headers are replaced by what this proxy saw (default for inbound).
    None,
    /// The nearest `hops` proxies before us are trusted: forwarding headers are kept and appended to;
    /// the client address is the one that many places from the right.
    Hops(u8),
    /// The caller is our own application (default for outbound): kept and appended to.
    Local,
}

/// Options of the path normal form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathOptions {
    /// Merge `//` into `/` (default true).
    pub merge_slashes: bool,
    /// What to do with `%2F`, `%5C` and a literal backslash.
    pub escaped_slashes: EscapedSlashes,
}

/// What happens to an encoded slash (`%2F`, `%5C`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EscapedSlashes {
    /// Left encoded: it never separates segments, for routing as for the upstream (default).
    Keep,
    /// Refused with 400.
    Reject,
}

/// Limits of a listener. All have defaults (DESIGN section 6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerLimits {
    /// Open connections; more wait in the kernel's queue (default 16384).
    pub max_connections: u32,
    /// Request head bytes (default 64 KiB) -> 431.
    pub max_head_bytes: u32,
    /// Header fields in a request (default 100) -> 431.
    pub max_headers: u16,
    /// Concurrent streams on one HTTP/2 connection (default 1024).
    pub max_concurrent_streams: u32,
    /// From the first byte (or accept) to the end of a request head (default 10 s) -> 408.
    pub header_timeout: Duration,
    /// A connection without any request (default 1 h).
    pub idle_timeout: Duration,
    /// A stream on which nothing moves in either direction (default 5 min; zero: none).
    pub stream_idle_timeout: Duration,
    /// Age after which a connection is closed gracefully, with 10 % jitter (default 1 h; zero: none).
    pub max_connection_age: Duration,
    /// How long protocol detection may take before the connection is closed (default 1 s).
    pub detect_timeout: Duration,
}
