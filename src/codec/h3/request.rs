//! A field section as a request.

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Version};

use super::qpack::{Pseudo, Section};
use crate::codec::heads::request::{Accepted, HeadLimits, Parts, Rejected, accept, upgrade_of};

/// Checks the head of a request.
pub(super) fn accept_section(section: Section, limits: &HeadLimits) -> Result<Accepted, Rejected> {
    accept(parts_of(section).ok_or(Rejected::Malformed)?, limits)
}

/// Its pseudo-header fields as what they are; `None` if they are not.
fn parts_of(mut section: Section) -> Option<Parts> {
    let method = Method::from_bytes(&section.take(Pseudo::Method)?).ok()?;
    let scheme = parsed(section.take(Pseudo::Scheme), |scheme| match &*scheme {
        b"https" => Some(Scheme::HTTPS),
        b"http" => Some(Scheme::HTTP),
        other => Scheme::try_from(other).ok(),
    })?;
    let authority = parsed(section.take(Pseudo::Authority), |text| Authority::from_maybe_shared(text).ok())?;
    let path = parsed(section.take(Pseudo::Path), |text| {
        // RFC 9114 section 4.3.1: it is not empty, and path and query are all that is in it. The parser would leave a fragment out.
        if text.is_empty() || text.contains(&b'#') { None } else { PathAndQuery::from_maybe_shared(text).ok() }
    })?;
    let protocol = parsed(section.take(Pseudo::Protocol), |token| upgrade_of(&token))?;
    if section.has_pseudo() {
        // `:status`.
        return None;
    }
    // RFC 9114 section 4.3.1: only CONNECT has none.
    if scheme.is_none() && method != Method::CONNECT {
        return None;
    }
    let version = Version::HTTP_3;
    Some(Parts { method, scheme, authority, path, protocol, version, headers: section.headers })
}

/// What was there, parsed; `None` if it cannot be.
fn parsed<T>(text: Option<Bytes>, parse: impl FnOnce(Bytes) -> Option<T>) -> Option<Option<T>> {
    match text {
        None => Some(None),
        Some(text) => parse(text).map(Some),
    }
}
