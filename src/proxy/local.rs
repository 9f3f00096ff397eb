//! Answers that the proxy makes itself: a status, a stable reason, one plain sentence; for gRPC callers the
//! trailers-only form, which clients read as a status of the call.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_TYPE, DATE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};

use super::reason::Reason;
use crate::codec::headers::rare;
use crate::codec::{Body, Response, ResponseHead};

/// Carries the reason code of a local answer.
pub const REASON: HeaderName = HeaderName::from_static("x-outrigger-reason");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// What kind of caller is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    /// A plain HTTP client.
    Http,
    /// A gRPC client: it reads `grpc-status`, and any other status than 200 as an unknown error.
    Grpc,
}

impl Caller {
    /// By its `content-type`.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let grpc = headers.get(CONTENT_TYPE).is_some_and(|value| {
            value
                .as_bytes()
                .strip_prefix(b"application/grpc")
                .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
        });
        if grpc { Self::Grpc } else { Self::Http }
    }
}

/// A local answer. `status` and `sentence` may be more exact than the reason's own.
pub(super) fn answer(caller: Caller, reason: Reason, status: StatusCode, sentence: &'static str) -> Response<Body> {
    let mut headers = HeaderMap::with_capacity(6);
    headers.insert(REASON, HeaderValue::from_static(reason.code()));
    headers.insert(DATE, date());
    let (status, body) = match caller {
        Caller::Http => {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
            (status, Body::Full(line(sentence)))
        }
        Caller::Grpc => {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(reason.grpc_status())));
            headers.insert(GRPC_MESSAGE, HeaderValue::from_static(sentence));
            (StatusCode::OK, Body::Empty)
        }
    };
    Response { head: ResponseHead { status, headers }, body }
}

/// Says in a local answer when it is worth asking again: for HTTP in whole seconds, rounded up and at least one
/// (RFC 9110, 10.2.3), for gRPC in milliseconds (gRFC A6).
pub(super) fn come_back(headers: &mut HeaderMap, caller: Caller, after: Duration) {
    match caller {
        Caller::Http => {
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        Caller::Grpc => {
            let millis = after.as_nanos().div_ceil(1_000_000).clamp(1, i32::MAX.unsigned_abs().into());
            headers.insert(GRPC_PUSHBACK, HeaderValue::from(millis as u32));
        }
    }
}

/// Replaces the gRPC status of a local answer.
pub(super) fn set_grpc_status(headers: &mut HeaderMap, status: u8) {
    headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(status)));
}

/// Makes the headers of an answer those of a gRPC call that ended with a status and a message.
pub(super) fn make_trailers_only(headers: &mut HeaderMap, status: u8, message: &[u8]) {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(status)));
    // gRPC over HTTP/2, "Percent-Encoded": everything outside the printable characters, and the percent sign.
    let mut text = String::new();
    for &byte in &message[..message.len().min(MESSAGE_BYTES)] {
        match byte {
            b' '..=b'~' if byte != b'%' => text.push(char::from(byte)),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    if let Ok(text) = HeaderValue::try_from(text) {
        headers.insert(GRPC_MESSAGE, text);
    }
}

/// Of a message that was not made here; a page of HTML is none.
const MESSAGE_BYTES: usize = 1024;

/// Trailers that end a gRPC response that broke off.
pub(super) fn grpc_trailers(reason: Reason) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert(GRPC_STATUS, HeaderValue::from(u16::from(reason.grpc_status())));
    trailers.insert(GRPC_MESSAGE, HeaderValue::from_static(reason.sentence()));
    trailers
}

/// The gRPC status in a header or trailer section.
pub(super) fn grpc_status(headers: &HeaderMap) -> Option<u8> {
    rare(headers, &GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

/// The current date for a `Date` field.
pub(super) fn date() -> HeaderValue {
    let text = httpdate::fmt_http_date(std::time::SystemTime::now());
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

fn line(sentence: &'static str) -> Bytes {
    let mut text = String::with_capacity(sentence.len() + 1);
    text.push_str(sentence);
    text.push('\n');
    Bytes::from(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(caller: Caller, millis: u64) -> Vec<(String, String)> {
        let mut headers = HeaderMap::new();
        come_back(&mut headers, caller, Duration::from_millis(millis));
        headers.iter().map(|(name, value)| (name.to_string(), value.to_str().expect("digits").to_owned())).collect()
    }

    #[test]
    fn http_is_told_whole_seconds_rounded_up_and_at_least_one() {
        for (millis, seconds) in [(0, "1"), (1, "1"), (1_000, "1"), (1_001, "2"), (29_500, "30")] {
            assert_eq!(said(Caller::Http, millis), [("retry-after".to_owned(), seconds.to_owned())]);
        }
    }

    #[test]
    fn grpc_is_told_milliseconds() {
        for (millis, told) in [(0, "1"), (29_500, "29500"), (u64::MAX / 2, "2147483647")] {
            assert_eq!(said(Caller::Grpc, millis), [("grpc-retry-pushback-ms".to_owned(), told.to_owned())]);
        }
    }
}
