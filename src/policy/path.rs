//! The one normal form of a request path (RFC 3986 section 6.2.2). Routing, later authorization and the
//! upstream all see it, so no two of them can read one request differently.
//!
//! What is done: unreserved characters are percent-decoded, the remaining `%xx` are upper-cased, characters
//! that a path may not contain are percent-encoded, dot segments are removed (after decoding, so `%2e%2e` is
//! one too), and slashes are merged when asked. What cannot be given exactly one reading is refused.
//!
//! An encoded slash is never decoded: it does not separate segments here, and the upstream receives it
//! encoded. Path parameters (`;x=y`) are ordinary characters of their segment.
//!
//! The invariant: [`normalize`] is idempotent, and a path that is already normal is returned borrowed.

use std::borrow::Cow;

use outrigger_config::model::{EscapedSlashes, PathOptions};
use thiserror::Error;

/// Why a path has no normal form. The request is answered with 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PathError {
    /// Neither `/…` nor `*`.
    #[error("the path does not start with a slash")]
    NotAbsolute,
    /// A `#`: fragments are never sent.
    #[error("the path contains a fragment")]
    Fragment,
    /// `%` without two hexadecimal digits.
    #[error("the path contains an invalid percent-encoding")]
    BadEncoding,
    /// A control character or a space, raw; or a control character, encoded.
    #[error("the path contains a control character")]
    Control,
    /// `%2F` or `%5C` where the listener refuses them.
    #[error("the path contains an encoded slash")]
    EscapedSlash,
    /// `\` where the listener refuses it.
    #[error("the path contains a backslash")]
    Backslash,
    /// More `..` than segments before them.
    #[error("the path climbs above its root")]
    AboveRoot,
}

impl PathError {
    /// One stable word for logs and metrics.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::NotAbsolute => "path_not_absolute",
            Self::Fragment => "path_fragment",
            Self::BadEncoding => "path_bad_encoding",
            Self::Control => "path_control_character",
            Self::EscapedSlash => "path_escaped_slash",
            Self::Backslash => "path_backslash",
            Self::AboveRoot => "path_above_root",
        }
    }
}

/// Brings a path with its optional query into normal form. An empty path becomes `/`
/// (RFC 3986 section 6.2.3); `*` passes as it is.
///
/// The query is not interpreted: its bytes stay, except that raw non-ASCII bytes are percent-encoded and
/// control characters, spaces and `#` are refused.
///
/// # Errors
/// See [`PathError`].
pub fn normalize(path_and_query: &str, options: PathOptions) -> Result<Cow<'_, str>, PathError> {
    if is_normal(path_and_query.as_bytes(), options) {
        return Ok(Cow::Borrowed(path_and_query));
    }
    rebuild(path_and_query, options).map(Cow::Owned)
}

/// Splits a normalised path from its query (without the `?`).
#[must_use]
pub fn split(path_and_query: &str) -> (&str, Option<&str>) {
    match path_and_query.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (path_and_query, None),
    }
}

/// Decides in one scan whether nothing would change. May say no to a path that is normal; never yes to one
/// that is not.
fn is_normal(bytes: &[u8], options: PathOptions) -> bool {
    if bytes.first() != Some(&b'/') {
        return bytes == b"*";
    }
    let mut at = 1;
    while let Some(&byte) = bytes.get(at) {
        match CLASS[usize::from(byte)] {
            Class::Plain => at += 1,
            Class::Slash => {
                if options.merge_slashes && bytes[at - 1] == b'/' {
                    return false;
                }
                at += 1;
            }
            Class::Dot => {
                if bytes[at - 1] == b'/' && is_dot_segment(&bytes[at..]) {
                    return false;
                }
                at += 1;
            }
            Class::Percent => {
                let (Some(high), Some(low)) = (upper_hex(bytes.get(at + 1)), upper_hex(bytes.get(at + 2))) else {
                    return false;
                };
                if !matches!(encoded(high << 4 | low, options), Ok(Encoded::Keep)) {
                    return false;
                }
                at += 3;
            }
            Class::Question => {
                return bytes[at + 1..].iter().all(|&b| query_byte(b) == QueryByte::Keep);
            }
            Class::Encode | Class::Backslash | Class::Hash | Class::Control => return false,
        }
    }
    true
}

/// Whether the bytes up to the next `/` or `?` are `.` or `..`.
fn is_dot_segment(rest: &[u8]) -> bool {
    let ([b'.', b'.', rest @ ..] | [b'.', rest @ ..]) = rest else {
        return false;
    };
    matches!(rest.first(), None | Some(b'/' | b'?'))
}

fn rebuild(path_and_query: &str, options: PathOptions) -> Result<String, PathError> {
    let (path, query) = split(path_and_query);
    let mut out = String::with_capacity(path_and_query.len() + 16);
    match path {
        "" => out.push('/'),
        // `*` alone is on the fast path; with a query it means nothing.
        _ => rebuild_path(path.strip_prefix('/').ok_or(PathError::NotAbsolute)?, options, &mut out)?,
    }
    if let Some(query) = query {
        out.push('?');
        rebuild_query(query, &mut out)?;
    }
    Ok(out)
}

/// Segment by segment: append it decoded, then look at what it became. `out` is always a sequence of
/// `/segment`, so removing the last one is truncating at the last slash.
fn rebuild_path(segments: &str, options: PathOptions, out: &mut String) -> Result<(), PathError> {
    let mut segments = segments.split('/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        let start = out.len();
        out.push('/');
        push_segment(segment, options, out)?;
        match &out[start + 1..] {
            "." => out.truncate(start),
            ".." => {
                out.truncate(start);
                let parent = out.rfind('/').ok_or(PathError::AboveRoot)?;
                out.truncate(parent);
            }
            "" if options.merge_slashes && !last => {
                out.truncate(start);
                continue;
            }
            _ => continue,
        }
        if last {
            out.push('/');
        }
    }
    if out.is_empty() {
        out.push('/');
    }
    Ok(())
}

fn push_segment(segment: &str, options: PathOptions, out: &mut String) -> Result<(), PathError> {
    let bytes = segment.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match CLASS[usize::from(byte)] {
            Class::Plain | Class::Dot => out.push(char::from(byte)),
            Class::Percent => {
                let (Some(high), Some(low)) = (hex(bytes.get(at + 1)), hex(bytes.get(at + 2))) else {
                    return Err(PathError::BadEncoding);
                };
                let value = high << 4 | low;
                match encoded(value, options)? {
                    Encoded::Decode => out.push(char::from(value)),
                    Encoded::Keep => push_encoded(value, out),
                }
                at += 2;
            }
            Class::Encode => push_encoded(byte, out),
            Class::Backslash => match options.escaped_slashes {
                EscapedSlashes::Keep => push_encoded(byte, out),
                EscapedSlashes::Reject => return Err(PathError::Backslash),
            },
            Class::Hash => return Err(PathError::Fragment),
            // Slashes and the question mark were split off by the callers.
            Class::Control | Class::Slash | Class::Question => return Err(PathError::Control),
        }
        at += 1;
    }
    Ok(())
}

fn rebuild_query(query: &str, out: &mut String) -> Result<(), PathError> {
    for &byte in query.as_bytes() {
        match query_byte(byte) {
            QueryByte::Keep => out.push(char::from(byte)),
            QueryByte::Encode => push_encoded(byte, out),
            QueryByte::Refuse(error) => return Err(error),
        }
    }
    Ok(())
}

/// What becomes of a percent-encoded byte of the path.
#[derive(Debug, PartialEq, Eq)]
enum Encoded {
    Decode,
    Keep,
}

fn encoded(value: u8, options: PathOptions) -> Result<Encoded, PathError> {
    match value {
        0..=0x1f | 0x7f => Err(PathError::Control),
        b'/' | b'\\' => match options.escaped_slashes {
            EscapedSlashes::Keep => Ok(Encoded::Keep),
            EscapedSlashes::Reject => Err(PathError::EscapedSlash),
        },
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => Ok(Encoded::Decode),
        _ => Ok(Encoded::Keep),
    }
}

/// What becomes of a raw byte of the query.
#[derive(Debug, PartialEq, Eq)]
enum QueryByte {
    Keep,
    Encode,
    Refuse(PathError),
}

fn query_byte(byte: u8) -> QueryByte {
    match byte {
        0..=b' ' | 0x7f => QueryByte::Refuse(PathError::Control),
        b'#' => QueryByte::Refuse(PathError::Fragment),
        0x80.. => QueryByte::Encode,
        _ => QueryByte::Keep,
    }
}

fn push_encoded(byte: u8, out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(char::from(DIGITS[usize::from(byte >> 4)]));
    out.push(char::from(DIGITS[usize::from(byte & 15)]));
}

fn hex(digit: Option<&u8>) -> Option<u8> {
    match *digit? {
        d @ b'a'..=b'f' => Some(d - b'a' + 10),
        _ => upper_hex(digit),
    }
}

fn upper_hex(digit: Option<&u8>) -> Option<u8> {
    match *digit? {
        d @ b'0'..=b'9' => Some(d - b'0'),
        d @ b'A'..=b'F' => Some(d - b'A' + 10),
        _ => None,
    }
}

/// What a raw byte means in a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// `pchar` other than the dot and the percent sign.
    Plain,
    Slash,
    Dot,
    Percent,
    Question,
    Hash,
    Backslash,
    /// Not allowed in a URI, without any second meaning: non-ASCII bytes and `"<>[]^{|}` and the backtick.
    Encode,
    Control,
}

const CLASS: [Class; 256] = {
    let mut table = [Class::Encode; 256];
    let mut byte = 0;
    while byte < 128 {
        table[byte] = match byte as u8 {
            0..=b' ' | 0x7f => Class::Control,
            b'/' => Class::Slash,
            b'.' => Class::Dot,
            b'%' => Class::Percent,
            b'?' => Class::Question,
            b'#' => Class::Hash,
            b'\\' => Class::Backslash,
            b'"' | b'<' | b'>' | b'[' | b']' | b'^' | b'`' | b'{' | b'|' | b'}' => Class::Encode,
            _ => Class::Plain,
        };
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests;
