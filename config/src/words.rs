//! Closed word lists that are no fields of their own.

use crate::model::RetryOn;

/// The conditions of `retry.on` by name. gRPC names are the status names of the gRPC specification in kebab case.
pub(crate) const RETRY_CONDITIONS: [(&str, RetryOn); 21] = [
    ("connect-failure", RetryOn::ConnectFailure),
    ("refused-stream", RetryOn::RefusedStream),
    ("reset", RetryOn::Reset),
    ("gateway-error", RetryOn::GatewayError),
    ("5xx", RetryOn::ServerError),
    ("cancelled", RetryOn::Grpc(1)),
    ("unknown", RetryOn::Grpc(2)),
    ("invalid-argument", RetryOn::Grpc(3)),
    ("deadline-exceeded", RetryOn::Grpc(4)),
    ("not-found", RetryOn::Grpc(5)),
    ("already-exists", RetryOn::Grpc(6)),
    ("permission-denied", RetryOn::Grpc(7)),
    ("resource-exhausted", RetryOn::Grpc(8)),
    ("failed-precondition", RetryOn::Grpc(9)),
    ("aborted", RetryOn::Grpc(10)),
    ("out-of-range", RetryOn::Grpc(11)),
    ("unimplemented", RetryOn::Grpc(12)),
    ("internal", RetryOn::Grpc(13)),
    ("unavailable", RetryOn::Grpc(14)),
    ("data-loss", RetryOn::Grpc(15)),
    ("unauthenticated", RetryOn::Grpc(16)),
];

/// Names and codes of the gRPC statuses beside OK.
pub(crate) fn grpc_statuses() -> impl Iterator<Item = (&'static str, u8)> {
    RETRY_CONDITIONS.iter().filter_map(|(name, on)| match on {
        RetryOn::Grpc(code) => Some((*name, *code)),
        RetryOn::ConnectFailure
        | RetryOn::RefusedStream
        | RetryOn::Reset
        | RetryOn::GatewayError
        | RetryOn::ServerError
        | RetryOn::Status(_) => None,
    })
}

/// Header fields that belong to one connection or say where a message ends, and that a filter therefore cannot
/// change (RFC 9110 section 7.6.1, RFC 9112 section 6).
pub(crate) const CONNECTION_HEADERS: [&str; 10] = [
    "connection",
    "content-length",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
];
