//! The authority of a request: host and port in one normal form (RFC 9110 section 7.2, RFC 3986 section 3.2.2).
//!
//! Stricter than the grammar on purpose: a registered name may hold only letters, digits, `-`, `_` and `.`.
//! Percent-encodings and sub-delimiters are legal there but no name in use has them, and the parsers
//! behind this proxy disagree about them.

use std::borrow::Cow;
use std::net::Ipv6Addr;

use thiserror::Error;

/// Host and port as a request names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority<'a> {
    /// Lower-case, without a trailing dot. An IPv6 literal is in its shortest form, in brackets.
    pub host: Cow<'a, str>,
    /// The port, when one was given.
    pub port: Option<u16>,
}

/// Why an authority is refused. The request is answered with 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AuthorityError {
    /// No host.
    #[error("the host is empty")]
    Empty,
    /// `user@host`.
    #[error("the host contains user information")]
    UserInfo,
    /// A character that no host name has, or an empty label.
    #[error("the host is not a valid name")]
    BadHost,
    /// Longer than DNS allows.
    #[error("the host is longer than 253 characters")]
    TooLong,
    /// Brackets around something else than an IPv6 address.
    #[error("the host is not a valid IPv6 address")]
    BadIpv6,
    /// Not a number from 1 to 65535.
    #[error("the port is not a number from 1 to 65535")]
    BadPort,
}

/// Parses `host[:port]`. An empty port (`host:`) is no port. Borrows when the host is in normal form already.
///
/// # Errors
/// See [`AuthorityError`].
pub fn parse_authority(text: &str) -> Result<Authority<'_>, AuthorityError> {
    // One look at each byte: names are short, and searching for each of the two costs more than that.
    let mut colon = None;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'@' => return Err(AuthorityError::UserInfo),
            b':' if colon.is_none() => colon = Some(at),
            _ => {}
        }
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (address, after) = rest.split_once(']').ok_or(AuthorityError::BadIpv6)?;
        let port = match after.strip_prefix(':') {
            Some(port) => parse_port(port)?,
            None if after.is_empty() => None,
            None => return Err(AuthorityError::BadPort),
        };
        let parsed: Ipv6Addr = address.parse().map_err(|_| AuthorityError::BadIpv6)?;
        let canonical = format!("[{parsed}]");
        let written = &text[..address.len() + 2];
        let host = if written == canonical { Cow::Borrowed(written) } else { Cow::Owned(canonical) };
        return Ok(Authority { host, port });
    }
    match colon {
        Some(colon) => Ok(Authority { host: parse_name(&text[..colon])?, port: parse_port(&text[colon + 1..])? }),
        None => Ok(Authority { host: parse_name(text)?, port: None }),
    }
}

/// Brings a host name from the configuration into the form that [`parse_authority`] gives, so that they can
/// be compared. An IPv6 address may come without brackets. What is no host stays as it is: it matches nothing.
#[must_use]
pub fn canonical(host: &str) -> Cow<'_, str> {
    if let Ok(address) = host.parse::<Ipv6Addr>() {
        return Cow::Owned(format!("[{address}]"));
    }
    match parse_authority(host) {
        Ok(Authority { host, port: None }) => host,
        _ => Cow::Borrowed(host),
    }
}

fn parse_name(text: &str) -> Result<Cow<'_, str>, AuthorityError> {
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.is_empty() {
        return Err(if text.is_empty() { AuthorityError::Empty } else { AuthorityError::BadHost });
    }
    if name.len() > MAX_NAME {
        return Err(AuthorityError::TooLong);
    }
    let mut upper = false;
    let mut previous = b'.';
    for &byte in name.as_bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => {}
            b'A'..=b'Z' => upper = true,
            b'.' if previous != b'.' => {}
            _ => return Err(AuthorityError::BadHost),
        }
        previous = byte;
    }
    if previous == b'.' {
        return Err(AuthorityError::BadHost);
    }
    Ok(if upper { Cow::Owned(name.to_ascii_lowercase()) } else { Cow::Borrowed(name) })
}

fn parse_port(text: &str) -> Result<Option<u16>, AuthorityError> {
    if text.is_empty() {
        return Ok(None);
    }
    if text.len() > 5 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(AuthorityError::BadPort);
    }
    match text.parse() {
        Ok(0) | Err(_) => Err(AuthorityError::BadPort),
        Ok(port) => Ok(Some(port)),
    }
}

/// RFC 1035 section 2.3.4 allows 255 octets on the wire, which is 253 characters of text.
const MAX_NAME: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hosts_take_one_form() {
        for (text, host, port) in [
            ("example.com", "example.com", None),
            ("Example.COM:8080", "example.com", Some(8080)),
            ("example.com.", "example.com", None),
            ("example.com.:443", "example.com", Some(443)),
            ("example.com:", "example.com", None),
            ("my_service-1", "my_service-1", None),
            ("127.0.0.1:80", "127.0.0.1", Some(80)),
            ("[::1]", "[::1]", None),
            ("[0:0:0:0:0:0:0:1]:65535", "[::1]", Some(65535)),
            ("[FE80::A]", "[fe80::a]", None),
            ("a:00080", "a", Some(80)),
        ] {
            let parsed = parse_authority(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((parsed.host.as_ref(), parsed.port), (host, port), "{text}");
        }
    }

    #[test]
    fn a_normal_host_is_borrowed() {
        for text in ["a.b:80", "[::1]:80"] {
            assert!(matches!(parse_authority(text), Ok(Authority { host: Cow::Borrowed(_), .. })), "{text}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        use AuthorityError::{BadHost, BadIpv6, BadPort, Empty, TooLong, UserInfo};
        let long = "a".repeat(254);
        for (text, error) in [
            ("", Empty),
            (":80", Empty),
            ("user@host", UserInfo),
            ("user:pass@host:80", UserInfo),
            (".", BadHost),
            (".a", BadHost),
            ("a..b", BadHost),
            ("a..", BadHost),
            ("a b", BadHost),
            ("a%41", BadHost),
            ("a,b", BadHost),
            ("a/b", BadHost),
            ("a\\b", BadHost),
            ("*.a", BadHost),
            ("é", BadHost),
            ("a\u{0}", BadHost),
            (&long, TooLong),
            ("::1", Empty),
            ("[::1", BadIpv6),
            ("[]", BadIpv6),
            ("[::1%eth0]", BadIpv6),
            ("[v1.a]", BadIpv6),
            ("[127.0.0.1]", BadIpv6),
            ("[::1]a", BadPort),
            ("[::1]80", BadPort),
            ("a:0", BadPort),
            ("a:65536", BadPort),
            ("a:+1", BadPort),
            ("a:-1", BadPort),
            ("a:8o", BadPort),
            ("a:1:2", BadPort),
            ("a:000080", BadPort),
        ] {
            assert_eq!(parse_authority(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn configured_hosts_compare_with_parsed_ones() {
        assert_eq!(canonical("::1"), "[::1]");
        assert_eq!(canonical("[0::1]"), "[::1]");
        assert_eq!(canonical("A.b."), "a.b");
        assert_eq!(canonical("a:80"), "a:80");
    }

    proptest! {
        #[test]
        fn any_text_is_survived_and_the_result_is_stable(text in "[\\[\\]a-zA-Z0-9.:_@\\-é]{0,20}") {
            if let Ok(first) = parse_authority(&text) {
                let again = parse_authority(&first.host).expect("a normal host parses");
                prop_assert_eq!(again, Authority { host: first.host.clone(), port: None });
            }
        }
    }
}
