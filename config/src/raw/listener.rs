//! Listeners as written.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    ClientCertHeader, DurationText, Http3, Intercept, Interception, ListenerJwt, ListenerTls, ProxyProtocol, RateLimit,
    SizeText, TcpForwarding, UdpForwarding, Upgrades,
};
use crate::limits;
use crate::read::{Field, List};

/// Where connections are accepted, and what is believed and allowed there.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Listener {
    /// Unique name.
    #[schemars(extend("x-required" = true))]
    pub name: Field<String>,
    /// Where it listens, `IP:PORT`. `[::]` takes IPv4 as well. Port 0 lets the system choose.
    #[schemars(extend("x-required" = true))]
    pub bind: Field<String>,
    /// Name of its route table. Needed where requests are seen: not with `protocol: tcp` or `udp`, nor with
    /// `tls: { mode: passthrough }`.
    pub routes: Field<String>,
    /// What is spoken on it. `auto` tells HTTP/1 and HTTP/2 apart by the first bytes.
    #[schemars(extend("default" = "auto"))]
    pub protocol: Field<ListenerProtocol>,
    /// Which way its traffic goes. Without it: `outbound` when the name begins with `outbound`, else `inbound`.
    pub direction: Field<Direction>,
    /// What may be believed of `X-Forwarded-*`, `Forwarded` and `x-request-id`. Without it: `local` for outbound
    /// listeners, `none` for inbound ones.
    pub trust: Field<Trust>,
    /// The normal form of paths, which routing and the upstream see.
    pub path: Field<PathOptions>,
    /// Open connections; more wait in the kernel's queue.
    #[schemars(range(min = limits::CONNECTIONS.min, max = limits::CONNECTIONS.max), extend("default" = 16384))]
    pub max_connections: Field<u64>,
    /// Size of a request head; a larger one is answered with 431.
    #[schemars(extend("default" = "64KiB"))]
    pub max_head_bytes: Field<SizeText>,
    /// Header fields of a request; more are answered with 431.
    #[schemars(range(min = limits::HEADERS.min, max = limits::HEADERS.max), extend("default" = 100))]
    pub max_headers: Field<u64>,
    /// Requests in flight on one HTTP/2 connection.
    #[schemars(range(min = limits::STREAMS.min, max = limits::STREAMS.max), extend("default" = 1024))]
    pub max_concurrent_streams: Field<u64>,
    /// Time limits towards the client.
    pub timeouts: Field<ListenerTimeouts>,
    /// Age at which a connection is closed gracefully, with 10 % jitter. `0s`: never.
    #[schemars(extend("default" = "1h"))]
    pub max_connection_age: Field<DurationText>,
    /// TLS. Without it: plaintext.
    pub tls: Field<ListenerTls>,
    /// What is done with the header `x-forwarded-client-cert`.
    #[schemars(extend("default" = "sanitize"))]
    pub client_cert_header: Field<ClientCertHeader>,
    /// Name of its authorization policy. Without it: everybody may do everything.
    pub authorization: Field<String>,
    /// Tokens that are verified.
    pub jwt: Field<ListenerJwt>,
    /// Name of the authorizer that is asked about every request. Rules can opt out.
    pub external_authorization: Field<String>,
    /// Rate limits of all its requests, before routing.
    #[schemars(length(min = 1))]
    pub rate_limits: Field<List<RateLimit>>,
    /// HTTP/3: `true`, or its settings. It is served over UDP on the same address, with the same `tls`.
    #[schemars(extend("default" = false))]
    pub http3: Field<Http3>,
    /// Upgrades and CONNECT.
    pub upgrades: Field<Upgrades>,
    /// Where connections go: all with `protocol: tcp`, those that are not HTTP with `protocol: auto`.
    pub tcp: Field<TcpForwarding>,
    /// Where datagrams go, with `protocol: udp`.
    pub udp: Field<UdpForwarding>,
    /// Whether connections begin with a header of the PROXY protocol. Without it: none is looked for.
    pub proxy_protocol: Field<ProxyProtocol>,
    /// Connections that the system redirects here keep the destination they had.
    pub interception: Field<Interception>,
    /// Redirected connections with these destinations are served by this listener, whichever caught them. Where
    /// several would, the first one does, in the order of listeners and of entries.
    #[schemars(length(min = 1))]
    pub intercepts: Field<List<Intercept>>,
}

/// What is spoken on a listener.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
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

/// Which way traffic goes.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Direction {
    /// From others to the local service.
    Inbound,
    /// From the local service to others.
    Outbound,
}

/// What may be believed of forwarding headers.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Trust {
    /// Nothing: they are replaced by what this proxy saw.
    None,
    /// The caller is our own application: they are kept and appended to.
    Local,
    /// That many proxies before this one are trusted: they are kept and appended to, and the client is the address
    /// that many places from the right.
    Hops(#[schemars(range(min = limits::HOPS.min, max = limits::HOPS.max))] Field<u64>),
}

/// The normal form of paths.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct PathOptions {
    /// Merge `//` into `/`.
    #[schemars(extend("default" = true))]
    pub merge_slashes: Field<bool>,
    /// What happens to `%2F`, `%5C` and a backslash.
    #[schemars(extend("default" = "keep"))]
    pub escaped_slashes: Field<EscapedSlashes>,
}

/// What happens to an encoded slash.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum EscapedSlashes {
    /// Left encoded: it never separates segments.
    Keep,
    /// Answered with 400.
    Reject,
}

/// Time limits towards the client.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ListenerTimeouts {
    /// To the end of a request head, from its first byte or the connection's start; then 408.
    #[schemars(extend("default" = "10s"))]
    pub header: Field<DurationText>,
    /// A connection without any request.
    #[schemars(extend("default" = "1h"))]
    pub idle: Field<DurationText>,
    /// A request or response in which nothing moves in either direction. `0s`: no limit.
    #[schemars(extend("default" = "5m"))]
    pub stream_idle: Field<DurationText>,
    /// To the first bytes by which `auto` tells protocols apart.
    #[schemars(extend("default" = "1s"))]
    pub detect: Field<DurationText>,
}
