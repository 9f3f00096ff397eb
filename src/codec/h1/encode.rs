//! Heads and body framing, writing side.

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, TE, TRANSFER_ENCODING, UPGRADE};
use http::{Method, StatusCode, Version};

use super::buffer::WriteBuffer;
use super::upgrade::Switch;
use crate::codec::body::BodyError;
use crate::codec::message::{RequestHead, ResponseHead};

/// How the end of an outgoing body is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoder {
    /// So many bytes still to write; more or fewer is an error.
    Length(u64),
    /// Chunked.
    Chunked,
    /// By closing the connection (responses to HTTP/1.0).
    UntilClose,
    /// There is no body, whatever the other side gives (HEAD, 204, 304).
    None,
}

impl Encoder {
    /// Queues a body chunk.
    ///
    /// # Errors
    /// When there is more than the head promised.
    pub(super) fn data(&mut self, out: &mut WriteBuffer, data: Bytes) -> Result<(), BodyError> {
        match self {
            Self::Length(left) => {
                let n = data.len() as u64;
                *left =
                    left.checked_sub(n).ok_or(BodyError::Malformed("the body is longer than its Content-Length"))?;
                out.push(data);
            }
            Self::Chunked => {
                let head = out.head_mut();
                put_hex(head, data.len());
                head.put_slice(b"\r\n");
                out.push(data);
                out.head_mut().put_slice(b"\r\n");
            }
            Self::UntilClose => out.push(data),
            Self::None => {}
        }
        Ok(())
    }

    /// Queues the end of the body.
    ///
    /// # Errors
    /// When there was less than the head promised: the connection must be cut, not ended.
    pub(super) fn end(&mut self, out: &mut WriteBuffer, trailers: Option<&HeaderMap>) -> Result<(), BodyError> {
        match self {
            Self::Length(0) | Self::UntilClose | Self::None => Ok(()),
            Self::Length(_) => Err(BodyError::Incomplete),
            Self::Chunked => {
                let head = out.head_mut();
                head.put_slice(b"0\r\n");
                if let Some(trailers) = trailers {
                    put_fields(head, trailers);
                }
                head.put_slice(b"\r\n");
                Ok(())
            }
        }
    }
}

/// Writes a request head for an upstream. Gives the body's framing.
pub(super) fn request(out: &mut BytesMut, head: &RequestHead, length: Option<u64>, is_end: bool) -> Encoder {
    put_request(out, head, head.path.as_str());
    if head.headers.contains_key(TE) {
        // RFC 9110 section 10.1.4: TE concerns one hop, so Connection must name it.
        out.put_slice(b"connection: te\r\n");
    }
    let encoder = if is_end {
        // Methods whose semantics expect a body say that there is none (RFC 9110 section 8.6).
        if matches!(head.method, Method::POST | Method::PUT | Method::PATCH) {
            out.put_slice(b"content-length: 0\r\n");
        }
        Encoder::None
    } else if let Some(length) = length {
        put_length(out, length);
        Encoder::Length(length)
    } else {
        out.put_slice(b"transfer-encoding: chunked\r\n");
        Encoder::Chunked
    };
    out.put_slice(b"\r\n");
    encoder
}

/// Writes the head of a request for a tunnel, if it is one. What is to be sent through it is no content of the request.
pub(super) fn tunnel_request(out: &mut BytesMut, head: &RequestHead) -> Option<Switch> {
    if head.upgrade.is_none() && head.method != Method::CONNECT {
        return None;
    }
    let target = match (&head.upgrade, &head.authority) {
        (None, Some(authority)) => authority.as_str(),
        _ => head.path.as_str(),
    };
    put_request(out, head, target);
    let switch = Switch::ask(head, out);
    out.put_slice(b"\r\n");
    switch
}

fn put_request(out: &mut BytesMut, head: &RequestHead, target: &str) {
    out.reserve(512);
    out.put_slice(head.method.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(target.as_bytes());
    out.put_slice(b" HTTP/1.1\r\nhost: ");
    if let Some(authority) = &head.authority {
        out.put_slice(authority.as_str().as_bytes());
    }
    out.put_slice(b"\r\n");
    put_end_to_end(out, &head.headers);
}

/// Writes the head of an answer that makes a tunnel of the connection.
pub(super) fn agreement(out: &mut BytesMut, head: &ResponseHead, switch: &Switch, version: Version) {
    out.reserve(512);
    put_status_line(out, version, head.status);
    switch.put_agreement(out);
    put_end_to_end(out, &head.headers);
    out.put_slice(b"\r\n");
}

/// What a response's framing depends on besides its own head.
#[derive(Debug, Clone, Copy)]
pub(super) struct ResponseContext {
    pub(super) version: Version,
    pub(super) head_request: bool,
    pub(super) keep_alive: bool,
    pub(super) length: Option<u64>,
}

/// Writes a response head for a downstream. Gives the body's framing.
pub(super) fn response(out: &mut BytesMut, head: &ResponseHead, context: ResponseContext) -> Encoder {
    let ResponseContext { version, head_request, keep_alive, length } = context;
    out.reserve(512);
    put_status_line(out, version, head.status);
    put_end_to_end(out, &head.headers);
    let bodiless = head_request || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let encoder = if bodiless {
        // The length that a GET would have had may be told (RFC 9110 section 8.6), but never on a 204.
        if head.status != StatusCode::NO_CONTENT
            && let Some(value) = head.headers.get(CONTENT_LENGTH)
        {
            out.put_slice(b"content-length: ");
            out.put_slice(value.as_bytes());
            out.put_slice(b"\r\n");
        }
        Encoder::None
    } else if let Some(length) = length {
        put_length(out, length);
        Encoder::Length(length)
    } else if version == Version::HTTP_11 {
        out.put_slice(b"transfer-encoding: chunked\r\n");
        Encoder::Chunked
    } else {
        Encoder::UntilClose
    };
    let keep_alive = keep_alive && encoder != Encoder::UntilClose;
    if head.headers.contains_key(UPGRADE) {
        // RFC 9110 section 7.8. Only an answer of our own has it: what is passed on is without.
        out.put_slice(b"connection: close, upgrade\r\n");
    } else if !keep_alive {
        out.put_slice(b"connection: close\r\n");
    } else if version == Version::HTTP_10 {
        out.put_slice(b"connection: keep-alive\r\n");
    }
    out.put_slice(b"\r\n");
    encoder
}

/// Writes a 1xx response.
pub(super) fn interim(out: &mut BytesMut, status: StatusCode, headers: &HeaderMap) {
    put_status_line(out, Version::HTTP_11, status);
    put_end_to_end(out, headers);
    out.put_slice(b"\r\n");
}

fn put_status_line(out: &mut BytesMut, version: Version, status: StatusCode) {
    out.put_slice(if version == Version::HTTP_10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    out.put_slice(status.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(status.canonical_reason().unwrap_or("").as_bytes());
    out.put_slice(b"\r\n");
}

/// All fields but the ones that this hop writes itself.
fn put_end_to_end(out: &mut BytesMut, headers: &HeaderMap) {
    for (name, value) in headers {
        if *name == CONTENT_LENGTH || *name == TRANSFER_ENCODING || *name == CONNECTION {
            continue;
        }
        put_field(out, name.as_str(), value.as_bytes());
    }
}

fn put_fields(out: &mut BytesMut, headers: &HeaderMap) {
    for (name, value) in headers {
        put_field(out, name.as_str(), value.as_bytes());
    }
}

fn put_field(out: &mut BytesMut, name: &str, value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn put_length(out: &mut BytesMut, length: u64) {
    out.put_slice(b"content-length: ");
    out.put_slice(itoa::Buffer::new().format(length).as_bytes());
    out.put_slice(b"\r\n");
}

fn put_hex(out: &mut BytesMut, n: usize) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let nibbles = (usize::BITS - n.leading_zeros()).div_ceil(4).max(1);
    for i in (0..nibbles).rev() {
        out.put_u8(DIGITS[(n >> (i * 4)) & 0xf]);
    }
}
