//! A request as the library read it, made into a request of ours, or refused.

use std::time::Instant;

use h2::RecvStream;
use h2::ext::Protocol;
use http::Version;

use super::server::H2ServerBody;
use crate::codec::body::Body;
use crate::codec::heads::request::{self, Accepted, HeadLimits, Parts, Rejected, upgrade_of};
use crate::codec::message::Request;

/// Checks a request and takes it over.
pub(super) fn accept(
    request: http::Request<RecvStream>,
    limits: &HeadLimits,
    started: Instant,
) -> Result<Request, Rejected> {
    let (parts, stream) = request.into_parts();
    let http::request::Parts { method, uri, headers, extensions, .. } = parts;
    let protocol = match extensions.get::<Protocol>() {
        Some(protocol) => Some(upgrade_of(protocol.as_str().as_bytes()).ok_or(Rejected::Malformed)?),
        None => None,
    };
    let http::uri::Parts { scheme, authority, path_and_query: path, .. } = uri.into_parts();
    let parts = Parts { method, scheme, authority, path, protocol, version: Version::HTTP_2, headers };
    let Accepted { head, length } = request::accept(parts, limits)?;
    let body = if stream.is_end_stream() { Body::Empty } else { Body::H2Server(H2ServerBody::new(stream, length)) };
    Ok(Request { head, body, started })
}
