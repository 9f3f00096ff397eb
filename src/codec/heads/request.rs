//! A request as a codec read it, made into a request of ours, or refused.
//!
//! The codec has checked the names of the pseudo-header fields, names, connection-specific fields, and sees to the
//! agreement of `content-length` with the frames. What is left: the authority, the target, and what a next hop that speaks
//! HTTP/1 could read in another way.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, COOKIE, HOST};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};

use super::fields;
use crate::codec::error::Refusal;
use crate::codec::message::{RequestHead, Upgrade};
use crate::codec::websocket::SEC_WEBSOCKET_KEY;

/// What a listener accepts of a head.
#[derive(Debug, Clone)]
pub(in crate::codec) struct HeadLimits {
    pub(in crate::codec) max_bytes: usize,
    pub(in crate::codec) max_fields: usize,
    /// For requests that name none with their authority.
    pub(in crate::codec) scheme: Scheme,
}

/// A request that goes no further.
#[derive(Debug)]
pub(in crate::codec) enum Rejected {
    /// Well-formed, and answered.
    Refused(Refusal),
    /// Malformed, but in a way that can be answered. HTTP/2 callers are told what is wrong (RFC 9113 section 8.1.1 allows it);
    /// for HTTP/3 it is a stream error.
    Unsound(Refusal),
    /// Malformed: a stream error (RFC 9113 section 8.1.1, RFC 9114 section 4.1.2).
    Malformed,
}

impl From<Refusal> for Rejected {
    fn from(refusal: Refusal) -> Self {
        if refusal.status == StatusCode::BAD_REQUEST { Self::Unsound(refusal) } else { Self::Refused(refusal) }
    }
}

/// The parts of a request head.
#[derive(Debug)]
pub(in crate::codec) struct Parts {
    pub(in crate::codec) method: Method,
    pub(in crate::codec) scheme: Option<Scheme>,
    pub(in crate::codec) authority: Option<Authority>,
    pub(in crate::codec) path: Option<PathAndQuery>,
    /// `:protocol` (RFC 8441, RFC 9220).
    pub(in crate::codec) protocol: Option<Upgrade>,
    pub(in crate::codec) version: Version,
    pub(in crate::codec) headers: HeaderMap,
}

/// A checked request.
#[derive(Debug)]
pub(in crate::codec) struct Accepted {
    pub(in crate::codec) head: RequestHead,
    /// Bytes of the body, where declared.
    pub(in crate::codec) length: Option<u64>,
}

/// Checks the head of a request.
///
/// # Errors
/// What it is not passed on for.
pub(in crate::codec) fn accept(parts: Parts, limits: &HeadLimits) -> Result<Accepted, Rejected> {
    let Parts { method, scheme, authority, path, protocol, version, mut headers } = parts;
    let facts = Facts::of(&headers)?;
    let (method, path) = match (method, protocol.is_some()) {
        (Method::CONNECT, true) => (Method::GET, path.filter(|_| scheme.is_some()).ok_or(Rejected::Malformed)?),
        // RFC 9113 section 8.5, RFC 9114 section 4.4.
        (Method::CONNECT, false) if scheme.is_some() || path.is_some() || authority.is_none() => {
            return Err(Rejected::Malformed);
        }
        (Method::CONNECT, false) => (Method::CONNECT, PathAndQuery::from_static("/")),
        (_, true) => return Err(Rejected::Malformed),
        // Without it there is no request (RFC 9113 section 8.3.1, RFC 9114 section 4.3.1).
        (method, false) => (method, path.ok_or(Rejected::Malformed)?),
    };
    check_size(&headers, &facts, authority.as_ref(), &path, limits)?;
    check_path(&method, &path)?;
    // Another one than ours is no mistake of form.
    let scheme = scheme_of(scheme, &limits.scheme).map_err(Rejected::Refused)?;
    let authority = authority_of(authority, &mut headers, &facts, &scheme)?;
    if facts.lengths > 1 {
        return Err(DUPLICATE_LENGTH.into());
    }
    let length = match facts.lengths {
        0 => None,
        _ => Some(fields::content_length(&headers).ok_or(Rejected::Malformed)?),
    };
    let length = length.filter(|_| protocol.is_none() && method != Method::CONNECT);
    if protocol.is_some() || method == Method::CONNECT {
        // There is no content, whatever was said of it, and the key belongs to connections of HTTP/1.1.
        headers.remove(CONTENT_LENGTH);
        headers.remove(SEC_WEBSOCKET_KEY);
    }
    if facts.cookies > 1 {
        join_cookies(&mut headers);
    }
    let head = RequestHead { method, scheme, authority: Some(authority), path, version, headers, upgrade: protocol };
    Ok(Accepted { head, length })
}

/// The value of `:protocol`; `None` if it is no token.
pub(in crate::codec) fn upgrade_of(token: &[u8]) -> Option<Upgrade> {
    if token.eq_ignore_ascii_case(b"websocket") {
        return Some(Upgrade::WebSocket);
    }
    // Every method is a token (RFC 9110 section 9.1), and every token would be one.
    let token = Method::from_bytes(token).ok()?;
    Some(Upgrade::Other(token.as_str().to_ascii_lowercase().into()))
}

/// What one look at every field tells.
#[derive(Debug, Default)]
struct Facts {
    bytes: usize,
    hosts: u32,
    cookies: u32,
    lengths: u32,
}

impl Facts {
    fn of(headers: &HeaderMap) -> Result<Self, Rejected> {
        let mut facts = Self::default();
        for (name, value) in headers {
            if fields::has_outer_blank(value) {
                return Err(Rejected::Malformed);
            }
            facts.bytes += fields::size(name, value);
            if *name == COOKIE {
                facts.cookies += 1;
            } else if *name == CONTENT_LENGTH {
                facts.lengths += 1;
            } else if *name == HOST {
                facts.hosts += 1;
            }
        }
        Ok(facts)
    }
}

fn check_size(
    headers: &HeaderMap,
    facts: &Facts,
    authority: Option<&Authority>,
    path: &PathAndQuery,
    limits: &HeadLimits,
) -> Result<(), Refusal> {
    if headers.len() > limits.max_fields {
        return Err(Refusal::too_large("too_many_fields", "The request has too many header fields."));
    }
    let pseudo = path.as_str().len() + authority.map_or(0, |authority| authority.as_str().len());
    if facts.bytes + pseudo > limits.max_bytes {
        return Err(TOO_LARGE);
    }
    Ok(())
}

fn check_path(method: &Method, path: &PathAndQuery) -> Result<(), Refusal> {
    match path.as_str() {
        "*" if *method == Method::OPTIONS => Ok(()),
        path if path.starts_with('/') => Ok(()),
        _ => Err(Refusal::bad_request("bad_target", "The request target is malformed.")),
    }
}

fn scheme_of(asked: Option<Scheme>, own: &Scheme) -> Result<Scheme, Refusal> {
    match asked {
        None => Ok(own.clone()),
        Some(scheme) if scheme == Scheme::HTTP || scheme == Scheme::HTTPS => Ok(scheme),
        Some(scheme) if scheme.as_str().eq_ignore_ascii_case("http") => Ok(Scheme::HTTP),
        Some(scheme) if scheme.as_str().eq_ignore_ascii_case("https") => Ok(Scheme::HTTPS),
        Some(_) => Err(Refusal::bad_request("bad_scheme", "The scheme of the request is neither http nor https.")),
    }
}

/// `:authority`, or `Host` in its place. Both must say the same (RFC 9113 section 8.3.1, RFC 9114 section 4.3.1), and `Host` goes.
fn authority_of(
    asked: Option<Authority>,
    headers: &mut HeaderMap,
    facts: &Facts,
    scheme: &Scheme,
) -> Result<Authority, Refusal> {
    let host = match facts.hosts {
        0 => None,
        1 => headers.remove(HOST),
        _ => return Err(Refusal::bad_request("duplicate_host", "The request has more than one Host field.")),
    };
    let Some(host) = host else {
        return match asked {
            Some(authority) if is_sound(&authority) => Ok(authority),
            Some(_) => Err(BAD_AUTHORITY),
            None => Err(Refusal::bad_request("missing_host", "The request has neither :authority nor Host.")),
        };
    };
    if let Some(authority) = &asked
        && authority.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes())
    {
        return asked.filter(is_sound).ok_or(BAD_AUTHORITY);
    }
    let host = Authority::from_maybe_shared(Bytes::copy_from_slice(host.as_bytes())).ok();
    let host = host.filter(is_sound).ok_or(BAD_HOST)?;
    match asked {
        None => Ok(host),
        Some(authority) if !is_sound(&authority) => Err(BAD_AUTHORITY),
        Some(authority) if is_same(&authority, &host, scheme) => Ok(authority),
        Some(_) => Err(Refusal::bad_request("host_mismatch", "The Host field differs from :authority.")),
    }
}

/// A host, and a port if there is one; no user information.
fn is_sound(authority: &Authority) -> bool {
    let text = authority.as_str();
    let host = authority.host();
    if host.is_empty() || text.as_bytes().contains(&b'@') {
        return false;
    }
    match text.strip_prefix(host) {
        Some("" | ":") => true,
        Some(_) => authority.port_u16().is_some(),
        None => false,
    }
}

fn is_same(one: &Authority, other: &Authority, scheme: &Scheme) -> bool {
    let default = if *scheme == Scheme::HTTPS { 443 } else { 80 };
    let port = |authority: &Authority| authority.port_u16().unwrap_or(default);
    one.host().eq_ignore_ascii_case(other.host()) && port(one) == port(other)
}

/// RFC 9113 section 8.2.3: and RFC 9114 section 4.2.1: a caller may split `Cookie`; outside these versions it is one field.
fn join_cookies(headers: &mut HeaderMap) {
    let mut joined = Vec::new();
    let mut sensitive = false;
    for crumb in headers.get_all(COOKIE) {
        if !joined.is_empty() {
            joined.extend_from_slice(b"; ");
        }
        joined.extend_from_slice(crumb.as_bytes());
        sensitive |= crumb.is_sensitive();
    }
    // Valid values joined by "; " are a valid value.
    if let Ok(mut value) = HeaderValue::from_maybe_shared(Bytes::from(joined)) {
        value.set_sensitive(sensitive);
        headers.insert(COOKIE, value);
    }
}

const BAD_AUTHORITY: Refusal = Refusal::bad_request("bad_host", "The :authority of the request is malformed.");
const BAD_HOST: Refusal = Refusal::bad_request("bad_host", "The Host field is malformed.");
/// More than a listener accepts.
pub(in crate::codec) const TOO_LARGE: Refusal =
    Refusal::too_large("head_too_large", "The request head is larger than this proxy accepts.");
const DUPLICATE_LENGTH: Refusal =
    Refusal::bad_request("duplicate_content_length", "The request has more than one Content-Length field.");
