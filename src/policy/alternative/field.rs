//! The field `Alt-Svc` (RFC 7838 section 3), read for one thing: HTTP/3 at the same host.

use std::time::Duration;

/// What a field says of HTTP/3 at the host of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// It is spoken at this port, and that holds for so long.
    Http3 {
        /// The UDP port.
        port: u16,
        /// From the answer on; above zero, and at most [`LONGEST`].
        max_age: Duration,
    },
    /// It is not. A field replaces what earlier ones said, also by saying nothing of it.
    Nothing,
}

/// Reads all lines of a field as one. `host` is the one that was asked: what is advertised at another host is passed over,
/// because connections go to an endpoint and not where it points. `None`: it is not well-formed, and changes nothing.
#[must_use]
pub fn parse<'a>(lines: impl IntoIterator<Item = &'a [u8]>, host: Option<&str>) -> Option<Said> {
    let mut said = Said::Nothing;
    let mut alternatives = 0;
    let mut clear = false;
    for line in lines {
        let mut rest = Rest(line);
        loop {
            rest.skip_blanks();
            if rest.is_empty() {
                break;
            }
            // Empty elements of a list are to be accepted (RFC 9110 section 5.6.1.2).
            if rest.take(b',') {
                continue;
            }
            if rest.0 == CLEAR || rest.0.strip_prefix(CLEAR).is_some_and(|after| after.trim_ascii().is_empty()) {
                clear = true;
                break;
            }
            alternatives += 1;
            let found = alternative(&mut rest, host)?;
            // The server names first what it prefers.
            if said == Said::Nothing
                && let Some(found) = found
            {
                said = found;
            }
            rest.skip_blanks();
            if !rest.is_empty() && !rest.take(b',') {
                return None;
            }
        }
    }
    match (clear, alternatives) {
        (true, 0) => Some(Said::Nothing),
        (false, 1..) => Some(said),
        // `clear` stands alone, and a field is not empty.
        _ => None,
    }
}

/// One alternative with its parameters; `None` inside: none for us.
fn alternative(rest: &mut Rest<'_>, host: Option<&str>) -> Option<Option<Said>> {
    let protocol = rest.token()?;
    if !rest.take(b'=') {
        return None;
    }
    let authority = rest.quoted()?;
    let mut max_age = USUAL;
    loop {
        let before = *rest;
        rest.skip_blanks();
        if !rest.take(b';') {
            *rest = before;
            break;
        }
        rest.skip_blanks();
        let name = rest.token()?;
        if !rest.take(b'=') {
            return None;
        }
        let value = if rest.0.first() == Some(&b'"') { rest.quoted()? } else { rest.token()?.to_vec() };
        if name == b"ma" {
            max_age = seconds(&value)?;
        }
    }
    let (alternative_host, port) = split(&authority)?;
    let same =
        alternative_host.is_empty() || host.is_some_and(|host| host.as_bytes().eq_ignore_ascii_case(alternative_host));
    let ours = protocol == HTTP3 && same && !max_age.is_zero();
    Some(ours.then_some(Said::Http3 { port, max_age }))
}

/// `[ uri-host ] ":" port`.
fn split(authority: &[u8]) -> Option<(&[u8], u16)> {
    let colon = authority.iter().rposition(|byte| *byte == b':')?;
    let (host, port) = (&authority[..colon], &authority[colon + 1..]);
    if port.is_empty() || port.len() > 5 || !port.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let port: u16 = std::str::from_utf8(port).ok()?.parse().ok().filter(|port| *port != 0)?;
    Some((host, port))
}

/// `delta-seconds` (RFC 9111 section 1.2.2): what is too large to be held is as long as can be.
fn seconds(value: &[u8]) -> Option<Duration> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = std::str::from_utf8(value).ok()?;
    Some(Duration::from_secs(digits.parse().unwrap_or(u64::MAX)).min(LONGEST))
}

/// What is left to read of a line.
#[derive(Clone, Copy)]
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, byte: u8) -> bool {
        let Some(rest) = self.0.strip_prefix(&[byte]) else { return false };
        self.0 = rest;
        true
    }

    fn skip_blanks(&mut self) {
        while self.take(b' ') || self.take(b'\t') {}
    }

    fn token(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|byte| !is_token(*byte)).unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at(end);
        self.0 = rest;
        (!token.is_empty()).then_some(token)
    }

    fn quoted(&mut self) -> Option<Vec<u8>> {
        if !self.take(b'"') {
            return None;
        }
        let mut text = Vec::new();
        loop {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            match byte {
                b'"' => return Some(text),
                b'\\' => {
                    let (&escaped, rest) = self.0.split_first()?;
                    self.0 = rest;
                    text.push(escaped);
                }
                b'\t' | b' '..=b'~' | 0x80.. => text.push(byte),
                _ => return None,
            }
        }
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

const CLEAR: &[u8] = b"clear";
/// HTTP/3 in ALPN (RFC 9114 section 3.1). No byte of it may be percent-encoded (RFC 7838 section 3).
const HTTP3: &[u8] = b"h3";
/// How long an advertisement holds that does not say (RFC 7838 section 3.1).
const USUAL: Duration = Duration::from_hours(24);
/// How long one is believed at most.
pub const LONGEST: Duration = Duration::from_hours(30 * 24);
