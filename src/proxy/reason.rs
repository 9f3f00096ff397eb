//! Why the proxy answered itself or cut an exchange: stable codes, the same in the response, the access log and
//! the metrics. Envoy's letters where the meaning is the same. `docs/reasons.md` is the table for people.

use http::StatusCode;

/// A reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// No route for the request.
    NoRoute,
    /// Authorization refused the request, or an open exchange is no longer allowed.
    Denied,
    /// No token, or one that is not believed.
    Unauthenticated,
    /// The keys to verify a token with are not there.
    NoKeys,
    /// An external authorizer refused the request, or could not be asked.
    ExternallyDenied,
    /// The cluster has no endpoint (none configured by name resolution yet).
    NoEndpoint,
    /// Could not connect to the upstream.
    ConnectFailure,
    /// A ceiling of the cluster is reached.
    Overflow,
    /// There was no place for a request of its class in time.
    Shed,
    /// A circuit breaker is open.
    BreakerOpen,
    /// The upstream did not answer in time.
    Timeout,
    /// The upstream closed the connection before or within its answer.
    UpstreamClosed,
    /// The upstream reset the stream.
    UpstreamReset,
    /// The upstream sent something that is not a valid response.
    UpstreamProtocol,
    /// The request was refused as malformed or over a limit.
    DownstreamProtocol,
    /// The request came back to a proxy that it had passed.
    Loop,
    /// Nothing moved on the stream for too long.
    Idle,
    /// The caller left.
    Cancelled,
    /// The caller's request body ended early or was malformed.
    RequestBody,
    /// The caller's deadline had passed before the request could be sent.
    Deadline,
    /// A rate limit is reached.
    RateLimited,
    /// A rate limit service could not be asked, and nothing passes then.
    RateLimitService,
    /// A fault that is injected on purpose.
    Fault,
    /// The process is short of memory.
    OutOfMemory,
    /// The listener opens no tunnels of this kind.
    UpgradeRefused,
    /// As many tunnels are open as may be.
    TunnelLimit,
    /// A tunnel was as old as it may be.
    MaxDuration,
    /// A tunnel was closed because its listener, or the proxy, goes away.
    Drained,
}

impl Reason {
    /// The code in `x-outrigger-reason`, the access log and metrics.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::NoRoute => "NR",
            Self::Denied => "RBAC",
            Self::Unauthenticated | Self::NoKeys => "JWT",
            Self::ExternallyDenied => "UAEX",
            Self::NoEndpoint => "UH",
            Self::ConnectFailure => "UF",
            Self::Overflow => "UO",
            Self::Shed => "SHED",
            Self::BreakerOpen => "CB",
            Self::Timeout => "UT",
            Self::UpstreamClosed => "UC",
            Self::UpstreamReset => "UR",
            Self::UpstreamProtocol => "UPE",
            Self::DownstreamProtocol => "DPE",
            Self::Loop => "LOOP",
            Self::Idle => "SI",
            Self::Cancelled => "DC",
            Self::RequestBody => "DR",
            Self::Deadline => "DT",
            Self::RateLimited => "RL",
            Self::RateLimitService => "RLSE",
            Self::Fault => "FI",
            Self::OutOfMemory => "OM",
            Self::UpgradeRefused => "UPG",
            Self::TunnelLimit => "TL",
            Self::MaxDuration => "UMSDR",
            Self::Drained => "DRAIN",
        }
    }

    /// The status of a local answer.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::Denied | Self::ExternallyDenied | Self::UpgradeRefused => StatusCode::FORBIDDEN,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::RateLimitService => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NoKeys
            | Self::NoEndpoint
            | Self::ConnectFailure
            | Self::Overflow
            | Self::Shed
            | Self::BreakerOpen
            | Self::OutOfMemory
            | Self::TunnelLimit
            | Self::Drained
            | Self::Fault => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout | Self::Idle | Self::Deadline | Self::MaxDuration => StatusCode::GATEWAY_TIMEOUT,
            Self::UpstreamClosed | Self::UpstreamReset | Self::UpstreamProtocol => StatusCode::BAD_GATEWAY,
            Self::DownstreamProtocol | Self::RequestBody | Self::Cancelled => StatusCode::BAD_REQUEST,
            Self::Loop => StatusCode::LOOP_DETECTED,
        }
    }

    /// The gRPC status of a local answer.
    #[must_use]
    pub const fn grpc_status(self) -> u8 {
        match self {
            Self::NoRoute => GRPC_UNIMPLEMENTED,
            Self::Unauthenticated => GRPC_UNAUTHENTICATED,
            Self::Denied | Self::ExternallyDenied | Self::UpgradeRefused => GRPC_PERMISSION_DENIED,
            Self::RateLimited | Self::OutOfMemory | Self::TunnelLimit => GRPC_RESOURCE_EXHAUSTED,
            Self::RateLimitService
            | Self::Fault
            | Self::NoKeys
            | Self::NoEndpoint
            | Self::ConnectFailure
            | Self::Overflow
            | Self::Shed
            | Self::BreakerOpen
            | Self::UpstreamClosed
            | Self::Drained
            | Self::UpstreamReset => GRPC_UNAVAILABLE,
            Self::Timeout | Self::Idle | Self::Deadline | Self::MaxDuration => GRPC_DEADLINE_EXCEEDED,
            Self::UpstreamProtocol | Self::DownstreamProtocol | Self::Loop => GRPC_INTERNAL,
            Self::Cancelled | Self::RequestBody => GRPC_CANCELLED,
        }
    }

    /// One plain sentence for the caller.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::NoRoute => "No route matches this request.",
            Self::Denied => "The caller may not do this.",
            Self::Unauthenticated => "The request carries no token that is believed.",
            Self::NoKeys => "The token cannot be verified now: the keys of its issuer are not there.",
            Self::ExternallyDenied => "The request was not authorized.",
            Self::NoEndpoint => "The cluster has no endpoint to send this request to.",
            Self::ConnectFailure => "The proxy could not connect to the upstream.",
            Self::Overflow => "The cluster is at its limit; the request was not sent.",
            Self::Shed => "The upstream has as much to do as it can; the request was not sent.",
            Self::BreakerOpen => "A circuit breaker is open after failures; the request was not sent.",
            Self::Timeout => "The upstream did not answer in time.",
            Self::UpstreamClosed => "The upstream closed the connection before it had answered.",
            Self::UpstreamReset => "The upstream reset the request.",
            Self::UpstreamProtocol => "The upstream sent an invalid response.",
            Self::DownstreamProtocol => "The request is malformed.",
            Self::Loop => "The request has come back to a proxy that it had passed.",
            Self::Idle => "Nothing moved on this stream for too long.",
            Self::Cancelled => "The caller left.",
            Self::RequestBody => "The request body ended early or is malformed.",
            Self::Deadline => "The caller's deadline passed before the request could be sent.",
            Self::RateLimited => "Too many requests came: a rate limit is reached.",
            Self::RateLimitService => "Whether the request is within its rate limit could not be found out.",
            Self::OutOfMemory => "The proxy is short of memory and takes no new request.",
            Self::UpgradeRefused => "This listener does not switch to the protocol that was asked for.",
            Self::TunnelLimit => "As many tunnels are open on this listener as may be.",
            Self::MaxDuration => "The tunnel was as old as it may be.",
            Self::Drained => "The proxy goes away.",
            Self::Fault => "A fault was injected on purpose; the request was not sent.",
        }
    }
}

const GRPC_CANCELLED: u8 = 1;
const GRPC_DEADLINE_EXCEEDED: u8 = 4;
const GRPC_PERMISSION_DENIED: u8 = 7;
const GRPC_RESOURCE_EXHAUSTED: u8 = 8;
const GRPC_UNIMPLEMENTED: u8 = 12;
const GRPC_INTERNAL: u8 = 13;
const GRPC_UNAVAILABLE: u8 = 14;
const GRPC_UNAUTHENTICATED: u8 = 16;
