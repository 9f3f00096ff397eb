//! A response head from bytes. As strict as the request side: a response that two parsers could read
//! differently is an upstream error, never passed on.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};

use super::decode::Framing;
use super::request::decimal;
use crate::base::limits;
use crate::codec::headers::has_token;
use crate::codec::message::ResponseHead;

/// A parsed head and what the connection must know of it.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) head: ResponseHead,
    pub(super) framing: Framing,
    pub(super) keep_alive: bool,
}

/// Parses a complete head of an answer to `method`.
///
/// # Errors
/// What is wrong with it, in a few words.
pub(super) fn parse(head: &Bytes, method: &Method) -> Result<Parsed, &'static str> {
    let mut fields = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; limits::RESPONSE_HEADERS];
    let mut raw = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    match config.parse_response_with_uninit_headers(&mut raw, head, &mut fields) {
        Ok(httparse::Status::Complete(n)) if n == head.len() => {}
        Ok(_) => return Err("malformed head"),
        Err(httparse::Error::TooManyHeaders) => return Err("too many header fields"),
        Err(_) => return Err("malformed head"),
    }
    let version = if raw.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let status = raw.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or("malformed status")?;
    let mut headers = HeaderMap::with_capacity(raw.headers.len() + 2);
    for field in raw.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| "malformed field name")?;
        let value = HeaderValue::from_maybe_shared(head.slice_ref(field.value)).map_err(|_| "malformed field value")?;
        headers.append(name, value);
    }
    let framing = framing(&headers, status, method)?;
    // RFC 9112 section 6.1: a transfer coding from HTTP/1.0 is a sign of confusion; nothing follows it.
    let confused = version == Version::HTTP_10 && headers.contains_key(TRANSFER_ENCODING);
    let keep_alive = framing != Framing::UntilClose
        && !confused
        && !has_token(&headers, &CONNECTION, "close")
        && (version == Version::HTTP_11 || has_token(&headers, &CONNECTION, "keep-alive"));
    Ok(Parsed { head: ResponseHead { status, headers }, framing, keep_alive })
}

/// RFC 9112 section 6.3.
fn framing(headers: &HeaderMap, status: StatusCode, method: &Method) -> Result<Framing, &'static str> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let length = match lengths.next() {
        None => None,
        Some(value) => Some(decimal(value.as_bytes()).ok_or("malformed Content-Length")?),
    };
    if lengths.next().is_some() {
        return Err("more than one Content-Length");
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let coding = codings.next();
    if codings.next().is_some() {
        return Err("more than one Transfer-Encoding");
    }
    let bodiless = *method == Method::HEAD
        // What follows is the tunnel.
        || *method == Method::CONNECT && status.is_success()
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if bodiless {
        return Ok(Framing::Length(0));
    }
    match (coding, length) {
        (Some(_), Some(_)) => Err("both Content-Length and Transfer-Encoding"),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        (Some(_), None) => Err("a transfer coding other than chunked"),
        (None, Some(length)) => Ok(Framing::Length(length)),
        (None, None) => Ok(Framing::UntilClose),
    }
}

/// The `timeout` parameter of a `Keep-Alive` field, in seconds.
pub(super) fn keep_alive_timeout(headers: &HeaderMap) -> Option<u64> {
    const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
    let value = headers.get(KEEP_ALIVE)?.to_str().ok()?;
    value.split(',').find_map(|parameter| {
        let (name, seconds) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("timeout").then(|| seconds.trim().parse().ok())?
    })
}
