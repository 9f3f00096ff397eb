//! A request head from bytes. Stricter than the parser underneath: whatever two parsers could read
//! differently is refused (RFC 9112 sections 2.2, 3, 5 and 6).

use std::cell::RefCell;
use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};

use super::decode::Framing;
use super::upgrade::Switch;
use crate::codec::error::Refusal;
use crate::codec::headers::has_token;
use crate::codec::message::RequestHead;

/// A parsed head and what the connection must know of it.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) head: RequestHead,
    pub(super) framing: Framing,
    /// The caller may send another request on this connection.
    pub(super) keep_alive: bool,
    /// What the connection becomes if the answer agrees.
    pub(super) switch: Option<Switch>,
}

/// Looks for the end of a head across reads, remembering how far it looked.
#[derive(Debug, Default)]
pub(super) struct HeadScan {
    /// Bytes already looked at; always the start of a line.
    line_start: usize,
}

impl HeadScan {
    /// Whether not even one line is complete.
    pub(super) fn is_fresh(&self) -> bool {
        self.line_start == 0
    }

    /// The length of the complete head at the front of `buf`, if it is all there.
    ///
    /// # Errors
    /// A line that ends in a bare LF: some parsers end the line there, others do not.
    pub(super) fn find_end(&mut self, buf: &[u8]) -> Result<Option<usize>, Refusal> {
        while let Some(offset) = memchr::memchr(b'\n', &buf[self.line_start..]) {
            let newline = self.line_start + offset;
            if newline == 0 || buf[newline - 1] != b'\r' {
                return Err(Refusal::bad_request("bare_lf", "A line of the request head ends in a bare line feed."));
            }
            let empty = newline - 1 == self.line_start;
            let first_line = self.line_start == 0;
            self.line_start = newline + 1;
            if empty && !first_line {
                return Ok(Some(newline + 1));
            }
        }
        Ok(None)
    }
}

/// Removes the empty line that a few old clients send between requests (RFC 9112 section 2.2).
pub(super) fn skip_empty_line(buf: &mut BytesMut) {
    if buf.starts_with(b"\r\n") {
        let _ = buf.split_to(2);
    }
}

/// Parses a complete head.
///
/// # Errors
/// A [`Refusal`] for everything that is not exactly one well-formed request.
pub(super) fn parse(head: &Bytes, max_headers: usize, scheme: &Scheme) -> Result<Parsed, Refusal> {
    const STACK: usize = 128;
    if max_headers <= STACK {
        let mut fields = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; STACK];
        parse_with(head, &mut fields[..max_headers], scheme)
    } else {
        let mut fields = vec![MaybeUninit::uninit(); max_headers];
        parse_with(head, &mut fields, scheme)
    }
}

fn parse_with<'a>(
    head: &'a Bytes,
    fields: &mut [MaybeUninit<httparse::Header<'a>>],
    scheme: &Scheme,
) -> Result<Parsed, Refusal> {
    let mut raw = httparse::Request::new(&mut []);
    match raw.parse_with_uninit_headers(head, fields) {
        Ok(httparse::Status::Complete(n)) if n == head.len() => {}
        Ok(_) => return Err(Refusal::bad_request("bad_head", "The request head is malformed.")),
        Err(error) => return Err(refusal_of(error)),
    }
    let version = match raw.version {
        Some(0) => Version::HTTP_10,
        _ => Version::HTTP_11,
    };
    let method = Method::from_bytes(raw.method.unwrap_or("").as_bytes())
        .map_err(|_| Refusal::bad_request("bad_method", "The request method is not a token."))?;
    let target = raw.path.unwrap_or("");
    let mut headers = HeaderMap::with_capacity(raw.headers.len() + ROOM);
    let mut host: Option<Bytes> = None;
    let mut facts = Facts::default();
    for field in raw.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes())
            .map_err(|_| Refusal::bad_request("bad_field_name", "A field name is not a token."))?;
        let value = head.slice_ref(field.value);
        if name == HOST {
            if host.replace(value).is_some() {
                return Err(Refusal::bad_request("duplicate_host", "The request has more than one Host field."));
            }
            continue;
        }
        let value = HeaderValue::from_maybe_shared(value)
            .map_err(|_| Refusal::bad_request("bad_field_value", "A field value has a control character."))?;
        facts.note(&name);
        headers.append(name, value);
    }
    let framing = framing(&headers, &facts, version)?;
    let (scheme, authority, path) = target_of(head, target, &method, host, version, scheme)?;
    let keep_alive = keep_alive(&headers, &facts, version);
    let (switch, upgrade) = match facts.connection || method == Method::CONNECT {
        true => Switch::of_request(&mut headers, &method, version, framing)?.unzip(),
        false => (None, None),
    };
    let head = RequestHead { method, scheme, authority, path, version, headers, upgrade: upgrade.flatten() };
    Ok(Parsed { head, framing, keep_alive, switch })
}

/// Fields that the pipeline adds; room for them saves a rebuild of the map.
const ROOM: usize = 8;

/// Which of the fields that decide about the connection were there at all; most requests have none of them,
/// and then no look-up is made.
#[derive(Debug, Default)]
struct Facts {
    content_length: bool,
    transfer_encoding: bool,
    connection: bool,
}

impl Facts {
    fn note(&mut self, name: &HeaderName) {
        if *name == CONTENT_LENGTH {
            self.content_length = true;
        } else if *name == TRANSFER_ENCODING {
            self.transfer_encoding = true;
        } else if *name == CONNECTION {
            self.connection = true;
        }
    }
}

fn framing(headers: &HeaderMap, facts: &Facts, version: Version) -> Result<Framing, Refusal> {
    if facts.transfer_encoding {
        if facts.content_length {
            return Err(Refusal::bad_request(
                "length_and_chunked",
                "The request has both Content-Length and Transfer-Encoding.",
            ));
        }
        if version == Version::HTTP_10 {
            return Err(Refusal::bad_request("chunked_in_http10", "HTTP/1.0 has no Transfer-Encoding."));
        }
        let mut values = headers.get_all(TRANSFER_ENCODING).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(Refusal::bad_request(
                "duplicate_transfer_encoding",
                "The request has more than one Transfer-Encoding field.",
            ));
        };
        return match value.as_bytes() {
            coding if coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
            list if ends_in_chunked(list) => Err(Refusal {
                status: StatusCode::NOT_IMPLEMENTED,
                code: "unknown_transfer_coding",
                detail: "The only transfer coding this proxy reads is chunked.",
            }),
            _ => Err(Refusal::bad_request(
                "bad_transfer_encoding",
                "The last transfer coding of a request must be chunked.",
            )),
        };
    }
    if facts.content_length {
        let mut values = headers.get_all(CONTENT_LENGTH).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(Refusal::bad_request(
                "duplicate_content_length",
                "The request has more than one Content-Length field.",
            ));
        };
        let length = decimal(value.as_bytes())
            .ok_or(Refusal::bad_request("bad_content_length", "Content-Length is not a plain decimal number."))?;
        return Ok(Framing::Length(length));
    }
    Ok(Framing::Length(0))
}

/// Digits only: no sign, no blanks, no list.
pub(super) fn decimal(bytes: &[u8]) -> Option<u64> {
    if bytes.is_empty() || bytes.len() > 19 || !bytes.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(bytes.iter().fold(0u64, |n, digit| n * 10 + u64::from(digit - b'0')))
}

fn ends_in_chunked(list: &[u8]) -> bool {
    list.rsplit(|b| *b == b',').next().is_some_and(|last| last.trim_ascii().eq_ignore_ascii_case(b"chunked"))
        && list.contains(&b',')
}

fn keep_alive(headers: &HeaderMap, facts: &Facts, version: Version) -> bool {
    if !facts.connection {
        return version == Version::HTTP_11;
    }
    if has_token(headers, &CONNECTION, "close") {
        return false;
    }
    version == Version::HTTP_11 || has_token(headers, &CONNECTION, "keep-alive")
}

/// Authorities that a worker remembers, and how long they may be.
const AUTHORITIES: usize = 16;
const LONGEST_AUTHORITY: usize = 255;

const BAD_TARGET: Refusal = Refusal::bad_request("bad_target", "The request target is malformed.");
const BAD_HOST: Refusal = Refusal::bad_request("bad_host", "The Host field is malformed.");

fn target_of(
    head: &Bytes,
    target: &str,
    method: &Method,
    host: Option<Bytes>,
    version: Version,
    scheme: &Scheme,
) -> Result<(Scheme, Option<Authority>, PathAndQuery), Refusal> {
    if target.as_bytes().contains(&b'#') {
        return Err(BAD_TARGET);
    }
    let from_host = match host {
        Some(value) if value.is_empty() => None,
        Some(value) => Some(authority(&value).ok_or(BAD_HOST)?),
        None if version == Version::HTTP_10 => None,
        None => return Err(Refusal::bad_request("missing_host", "The request has no Host field.")),
    };
    let shared = |part: &str| head.slice_ref(part.as_bytes());
    if *method == Method::CONNECT {
        // RFC 9112 section 3.2.3: a host and a port, and nothing else.
        let asked = authority(&shared(target)).filter(|asked| asked.port_u16().is_some()).ok_or(BAD_TARGET)?;
        check_host(from_host.as_ref(), &asked)?;
        return Ok((scheme.clone(), Some(asked), PathAndQuery::from_static("/")));
    }
    if target.starts_with('/') {
        let path = PathAndQuery::from_maybe_shared(shared(target)).map_err(|_| BAD_TARGET)?;
        return Ok((scheme.clone(), from_host, path));
    }
    if target == "*" {
        if *method != Method::OPTIONS {
            return Err(BAD_TARGET);
        }
        return Ok((scheme.clone(), from_host, PathAndQuery::from_static("*")));
    }
    let (asked_scheme, rest) = absolute(target).ok_or(BAD_TARGET)?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let asked = authority(&shared(&rest[..end])).ok_or(BAD_TARGET)?;
    check_host(from_host.as_ref(), &asked)?;
    let path = match &rest[end..] {
        "" => PathAndQuery::from_static("/"),
        path if path.starts_with('/') => PathAndQuery::from_maybe_shared(shared(path)).map_err(|_| BAD_TARGET)?,
        query => PathAndQuery::try_from(format!("/{query}")).map_err(|_| BAD_TARGET)?,
    };
    Ok((asked_scheme, Some(asked), path))
}

fn check_host(host: Option<&Authority>, asked: &Authority) -> Result<(), Refusal> {
    if host.is_some_and(|host| !host.as_str().eq_ignore_ascii_case(asked.as_str())) {
        return Err(Refusal::bad_request("host_mismatch", "The Host field differs from the request target."));
    }
    Ok(())
}

fn absolute(target: &str) -> Option<(Scheme, &str)> {
    let (scheme, rest) = target.split_once("://")?;
    if scheme.eq_ignore_ascii_case("http") {
        Some((Scheme::HTTP, rest))
    } else if scheme.eq_ignore_ascii_case("https") {
        Some((Scheme::HTTPS, rest))
    } else {
        None
    }
}

/// An authority without user information. Those of late are remembered: callers ask for few.
fn authority(bytes: &Bytes) -> Option<Authority> {
    thread_local! {
        static LATELY: RefCell<[Option<Authority>; AUTHORITIES]> =
            const { RefCell::new([const { None }; AUTHORITIES]) };
    }
    if bytes.len() > LONGEST_AUTHORITY {
        return parse_authority(bytes.clone());
    }
    let ends = [bytes.first(), bytes.last()].into_iter().flatten();
    let place = ends.fold(bytes.len(), |sum, end| sum + usize::from(*end)) % AUTHORITIES;
    LATELY.with_borrow_mut(|lately| {
        let known = &mut lately[place];
        if known.as_ref().is_none_or(|known| known.as_str().as_bytes() != &bytes[..]) {
            // Not a part of the buffer that the head was read into.
            *known = Some(parse_authority(Bytes::copy_from_slice(bytes))?);
        }
        known.clone()
    })
}

fn parse_authority(bytes: Bytes) -> Option<Authority> {
    if bytes.contains(&b'@') {
        return None;
    }
    let authority = Authority::from_maybe_shared(bytes).ok()?;
    let well_formed = match authority.as_str().rsplit_once(':') {
        _ if authority.host().is_empty() => false,
        Some((before, _)) if before.starts_with('[') && !before.ends_with(']') => true,
        Some((_, "")) | None => true,
        Some(_) => authority.as_str().ends_with(']') || authority.port_u16().is_some(),
    };
    well_formed.then_some(authority)
}

fn refusal_of(error: httparse::Error) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => {
            Refusal::too_large("too_many_fields", "The request has too many header fields.")
        }
        httparse::Error::HeaderName => Refusal::bad_request("bad_field_name", "A field name is malformed."),
        httparse::Error::HeaderValue => Refusal::bad_request("bad_field_value", "A field value is malformed."),
        httparse::Error::Version => Refusal {
            status: StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            code: "bad_version",
            detail: "The HTTP version of the request is not supported here.",
        },
        httparse::Error::NewLine | httparse::Error::Token | httparse::Error::Status => {
            Refusal::bad_request("bad_head", "The request head is malformed.")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_that_are_remembered_in_one_place_are_told_apart() {
        let long = format!("a{}t", "x".repeat(LONGEST_AUTHORITY));
        for text in [
            "a1.test",
            "a2.test",
            "a1.test",
            "A1.test",
            "a@.test",
            "a1.test",
            "a1.test:80",
            "a1.test:x0",
            long.as_str(),
        ] {
            let read = authority(&Bytes::copy_from_slice(text.as_bytes()));
            let fresh = parse_authority(Bytes::copy_from_slice(text.as_bytes()));
            assert_eq!(read.as_ref().map(Authority::as_str), fresh.as_ref().map(Authority::as_str), "{text}");
            let sound = !text.contains(['@', 'x']) || text == long;
            assert_eq!(read.is_some_and(|read| read.as_str() == text), sound, "{text}");
        }
    }
}
