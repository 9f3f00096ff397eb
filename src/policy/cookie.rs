//! Cookies (RFC 6265): finding one in a request, and writing one for a response.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use http::header::{COOKIE, HeaderMap, HeaderValue};

/// How a cookie that is made here is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep<'a> {
    /// How long; `None`: as long as the browser's session.
    pub max_age: Option<Duration>,
    /// For which paths; `None`: all.
    pub path: Option<&'a str>,
    /// Whether it may only be sent over TLS.
    pub secure: bool,
}

/// The values of every cookie of this name, in order.
pub fn values<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    // HTTP/2 may send each in a field of its own (RFC 9113, 8.2.3).
    let pairs = headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    pairs.filter_map(move |pair| {
        let value = pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        Some(value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value))
    })
}

/// A `Set-Cookie` field. Scripts do not see the cookie, and other sites' requests do not carry it. `None`: the name, value
/// or path is none.
#[must_use]
pub fn set(name: &str, value: &str, keep: Keep<'_>) -> Option<HeaderValue> {
    let Keep { max_age, path, secure } = keep;
    let mut text = String::with_capacity(name.len() + value.len() + 64);
    let path = path.unwrap_or("/");
    // A string takes whatever is written to it.
    let _ = write!(text, "{name}={value}; Path={path}");
    if let Some(age) = max_age {
        let _ = write!(text, "; Max-Age={}", age.as_secs());
    }
    text.push_str("; HttpOnly; SameSite=Lax");
    if secure {
        text.push_str("; Secure");
    }
    let mut value = HeaderValue::from_maybe_shared(Bytes::from(text)).ok()?;
    // Each is different, and none is for HPACK's table.
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[&'static str]) -> HeaderMap {
        lines.iter().map(|line| (COOKIE, HeaderValue::from_static(line))).collect()
    }

    #[test]
    fn a_cookie_is_found_wherever_it_stands() {
        let headers = headers(&["a=1; session=x; sessions=no", "b=2;session=\"y\" ; xsession=no; session"]);
        let found: Vec<&[u8]> = values(&headers, "session").collect();
        assert_eq!(found, [&b"x"[..], b"y"]);
        assert_eq!(values(&headers, "c").count(), 0);
    }

    #[test]
    fn a_cookie_says_how_it_is_kept() {
        let keep = Keep { max_age: None, path: None, secure: false };
        let text = |keep| set("s", "v", keep).expect("valid").to_str().expect("ASCII").to_owned();
        assert_eq!(text(keep), "s=v; Path=/; HttpOnly; SameSite=Lax");
        let keep = Keep { max_age: Some(Duration::from_secs(60)), path: Some("/shop"), secure: true };
        assert_eq!(text(keep), "s=v; Path=/shop; Max-Age=60; HttpOnly; SameSite=Lax; Secure");
    }
}
