//! Conditions on headers and query parameters, and how their values are read.

use std::borrow::Cow;

use http::header::{HOST, HeaderMap, HeaderName};
use outrigger_config::model::{HeaderMatch, Match, PathMatch, ValueMatch};

use super::RouteQuery;
use super::rules::last_segment;

/// Whether everything but the path holds.
pub(super) fn others_hold(condition: &Match, request: &RouteQuery<'_>) -> bool {
    condition.method.as_ref().is_none_or(|method| method == request.method)
        && (!condition.grpc || request.is_grpc)
        && condition.headers.iter().all(|h| value_holds(&h.value, header(request, &h.name).as_deref()))
        && condition.query.iter().all(|q| value_holds(&q.value, parameter(request, &q.name).as_deref()))
}

/// Whether a path in normal form meets a condition in normal form. The index decides the same by look-ups.
pub(in crate::policy) fn path_holds(condition: &PathMatch, path: &str) -> bool {
    match condition {
        PathMatch::Any => true,
        PathMatch::Exact(wanted) => path == &**wanted,
        PathMatch::Prefix(prefix) => path
            .strip_prefix(&**prefix)
            .is_some_and(|rest| rest.starts_with('/') || (rest.is_empty() && !prefix.is_empty())),
        PathMatch::Start(start) => path.starts_with(&**start),
        PathMatch::Regex(pattern) => pattern.is_match(path),
        PathMatch::GrpcMethod(method) => last_segment(path) == &**method,
    }
}

/// Whether a value meets a condition; `None`: there is none.
pub(in crate::policy) fn value_holds(condition: &ValueMatch, value: Option<&[u8]>) -> bool {
    match (condition, value) {
        (ValueMatch::Present(wanted), value) => value.is_some() == *wanted,
        (_, None) => false,
        (ValueMatch::Exact(wanted), Some(value)) => value == wanted.as_bytes(),
        (ValueMatch::Prefix(wanted), Some(value)) => value.starts_with(wanted.as_bytes()),
        // A value that is no text matches no pattern.
        (ValueMatch::Regex(pattern), Some(value)) => {
            std::str::from_utf8(value).is_ok_and(|value| pattern.is_match(value))
        }
    }
}

/// A header's value; several lines are joined by `,`. Allocates only for several lines.
pub(in crate::policy) fn header<'a>(request: &RouteQuery<'a>, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    if name == HOST {
        return (!request.host.is_empty()).then_some(Cow::Borrowed(request.host.as_bytes()));
    }
    joined(request.headers, name)
}

/// Whether the lines of a header meet a condition.
pub(in crate::policy) fn lines_hold(condition: &HeaderMatch, headers: &HeaderMap) -> bool {
    value_holds(&condition.value, joined(headers, &condition.name).as_deref())
}

fn joined<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut lines = headers.get_all(name).iter();
    let mut value = Cow::Borrowed(lines.next()?.as_bytes());
    for line in lines {
        let joined = value.to_mut();
        joined.push(b',');
        joined.extend_from_slice(line.as_bytes());
    }
    Some(value)
}

/// The first occurrence of a query parameter, percent-decoded; `+` is a plus. Allocates only for values
/// that contain an encoding.
pub(super) fn parameter<'a>(request: &RouteQuery<'a>, name: &str) -> Option<Cow<'a, [u8]>> {
    request.query?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (*percent_decode(key) == *name.as_bytes()).then(|| percent_decode(value))
    })
}

/// What is no valid encoding stays as it is.
pub(in crate::policy) fn percent_decode(text: &str) -> Cow<'_, [u8]> {
    let bytes = text.as_bytes();
    let Some(first) = memchr::memchr(b'%', bytes) else {
        return Cow::Borrowed(bytes);
    };
    let mut out = bytes[..first].to_vec();
    let mut rest = &bytes[first..];
    while let Some((&byte, after)) = rest.split_first() {
        let decoded = match (byte, after) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        match decoded {
            Some(value) => {
                out.push(value);
                rest = &after[2..];
            }
            None => {
                out.push(byte);
                rest = after;
            }
        }
    }
    Cow::Owned(out)
}

fn hex(digit: u8) -> Option<u8> {
    // At most 15, so it fits.
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoding_keeps_what_is_no_encoding() {
        for (text, expected) in
            [("a%20b", "a b"), ("100%", "100%"), ("%zz%41", "%zzA"), ("%4", "%4"), ("+", "+"), ("", "")]
        {
            assert_eq!(&*percent_decode(text), expected.as_bytes(), "{text}");
        }
    }
}
