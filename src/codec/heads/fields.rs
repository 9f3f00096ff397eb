//! Header fields that HTTP/2 and HTTP/3 forbid or bound (RFC 9113 sections 8.2 and 10.5.1, RFC 9114 sections 4.2 and 4.2.2).

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE};

use crate::base::limits;
use crate::codec::body::BodyError;
use crate::codec::headers::clean_trailers;

/// Fields of a trailer section, as over HTTP/1.
const TRAILER_FIELDS: usize = 64;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Removes what may not be sent. The pipeline has done this for everything that it passes on;
/// one look at each name makes sure that no message is lost to a field it missed.
pub(in crate::codec) fn make_sendable(headers: &mut HeaderMap) {
    if needs_cleaning(headers) {
        for name in [CONNECTION, TRANSFER_ENCODING, UPGRADE, KEEP_ALIVE, PROXY_CONNECTION] {
            headers.remove(name);
        }
        if headers.get_all(TE).iter().any(|value| value != "trailers") {
            headers.remove(TE);
        }
    }
}

/// Whether [`make_sendable`] would remove something.
pub(in crate::codec) fn needs_cleaning(headers: &HeaderMap) -> bool {
    headers.iter().any(|(name, value)| is_forbidden(name, value))
}

/// Whether a field concerns one connection of HTTP/1 only.
pub(in crate::codec) fn is_forbidden(name: &HeaderName, value: &HeaderValue) -> bool {
    match name.as_str() {
        "connection" | "transfer-encoding" | "upgrade" | "keep-alive" | "proxy-connection" => true,
        "te" => value != "trailers",
        _ => false,
    }
}

/// The size of a field as RFC 9113 section 6.5.2 and RFC 9114 section 4.2.2 count it.
pub(in crate::codec) fn size(name: &HeaderName, value: &HeaderValue) -> usize {
    name.as_str().len() + value.len() + OVERHEAD
}

/// What a field counts for beside its name and value.
pub(in crate::codec) const OVERHEAD: usize = 32;

/// Whether a value begins or ends with a blank, which makes a message malformed (RFC 9113 section 8.2.1).
pub(in crate::codec) fn has_outer_blank(value: &HeaderValue) -> bool {
    matches!(value.as_bytes(), [b' ' | b'\t', ..] | [.., b' ' | b'\t'])
}

/// The value without its outer blanks.
pub(in crate::codec) fn trimmed(value: &HeaderValue) -> HeaderValue {
    let mut trimmed =
        HeaderValue::from_bytes(value.as_bytes().trim_ascii()).unwrap_or_else(|_| HeaderValue::from_static(""));
    trimmed.set_sensitive(value.is_sensitive());
    trimmed
}

/// The `content-length` of a head that has one; `None` when it is not a plain number.
pub(in crate::codec) fn content_length(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(CONTENT_LENGTH)?.to_str().ok()?;
    text.bytes().all(|byte| byte.is_ascii_digit()).then_some(())?;
    text.parse().ok()
}

/// What may be passed on of a trailer section, if anything is.
///
/// # Errors
/// A section that is malformed or over the limit. The library for HTTP/2 cuts off what is over *its* limit without a
/// word, so ours is well below.
pub(in crate::codec) fn check_trailers(mut trailers: HeaderMap) -> Result<Option<HeaderMap>, BodyError> {
    let mut total = 0;
    for (name, value) in &trailers {
        if has_outer_blank(value) {
            return Err(BodyError::Malformed("a trailer value begins or ends with a blank"));
        }
        total += size(name, value);
    }
    if total > limits::TRAILER_BYTES || trailers.len() > TRAILER_FIELDS {
        return Err(BodyError::Malformed("the trailer section is too large"));
    }
    clean_trailers(&mut trailers);
    Ok((!trailers.is_empty()).then_some(trailers))
}
