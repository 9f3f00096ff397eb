//! What an upstream may answer.

use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Method, StatusCode};

use super::fields;
use crate::base::limits;
use crate::codec::message::ResponseHead;

/// A checked head.
pub(in crate::codec) struct Accepted {
    pub(in crate::codec) head: ResponseHead,
    /// Bytes of the body, where declared.
    pub(in crate::codec) length: Option<u64>,
}

/// Checks a final response to `method`.
///
/// # Errors
/// What is wrong with it, in a few words.
pub(in crate::codec) fn accept(response: http::Response<()>, method: &Method) -> Result<Accepted, &'static str> {
    let (http::response::Parts { status, mut headers, .. }, ()) = response.into_parts();
    let lengths = check(&mut headers)?;
    let bodiless = *method == Method::HEAD || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let length = match lengths {
        0 => None,
        1 => Some(fields::content_length(&headers).ok_or("its Content-Length is not a number")?),
        _ => return Err("more than one Content-Length"),
    };
    let length = length.filter(|_| !bodiless);
    Ok(Accepted { head: ResponseHead { status, headers }, length })
}

/// Checks an interim response.
///
/// # Errors
/// What is wrong with it, in a few words.
pub(in crate::codec) fn accept_interim(response: http::Response<()>) -> Result<ResponseHead, &'static str> {
    let (http::response::Parts { status, mut headers, .. }, ()) = response.into_parts();
    // RFC 9113 section 8.6, RFC 9114 section 4.5.
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Err("it switched protocols");
    }
    check(&mut headers)?;
    Ok(ResponseHead { status, headers })
}

/// Checks sizes, and removes the outer blanks of values, which servers do send: they mean nothing, and what
/// goes on is well-formed. Returns how many `content-length` fields there are.
fn check(headers: &mut HeaderMap) -> Result<u32, &'static str> {
    let mut bytes = 0;
    let mut lengths = 0;
    let mut blanks = false;
    for (name, value) in headers.iter() {
        bytes += fields::size(name, value);
        blanks |= fields::has_outer_blank(value);
        lengths += u32::from(*name == CONTENT_LENGTH);
    }
    if headers.len() > limits::RESPONSE_HEADERS {
        return Err("too many header fields");
    }
    if bytes > limits::RESPONSE_HEAD_BYTES {
        return Err("its head is too large");
    }
    if blanks {
        for value in headers.values_mut().filter(|value| fields::has_outer_blank(value)) {
            *value = fields::trimmed(value);
        }
    }
    Ok(lengths)
}
