//! Names, hostnames, addresses, paths and patterns: text with a grammar of its own.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use regex::{Regex, RegexBuilder};

use super::{Check, Wrong};
use crate::limits::{
    MAX_COMPILED_PATTERN_BYTES, MAX_MATCH_BYTES, MAX_NAME_BYTES, MAX_PATTERN_BYTES, MAX_PATTERNS, MAX_WORD_BYTES,
};
use crate::model::{HostPattern, Target};
use crate::source::Span;
use crate::text::quoted;

/// A name that people choose: it becomes a label in metrics and a word in logs.
pub(crate) fn name(text: &str) -> Result<(), Wrong> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-:/|@~".contains(c);
    if text.is_empty() {
        return Err(Wrong::new("a name cannot be empty", "give it a name"));
    }
    if text.len() > MAX_NAME_BYTES {
        return Err(Wrong::new(
            format!("the name `{}` is too long", quoted(text)),
            format!("use at most {MAX_NAME_BYTES} characters"),
        ));
    }
    match text.chars().find(|c| !allowed(*c)) {
        None => Ok(()),
        Some(bad) => Err(Wrong::new(
            format!("the name `{}` has a `{}` in it", quoted(text), quoted(&bad.to_string())),
            "use letters, digits and . _ - : / | @ ~ only",
        )),
    }
}

/// A hostname of a virtual host.
pub(crate) fn host_pattern(text: &str) -> Result<HostPattern, Wrong> {
    if text == "*" {
        return Ok(HostPattern::Any);
    }
    let suffix = text.strip_prefix("*.");
    if suffix.unwrap_or(text).contains('*') {
        return Err(Wrong::new(
            format!("the hostname `{}` has a `*` that is not its whole first label", quoted(text)),
            "write `*.example.com` for every name below it, or `*` alone for any host",
        ));
    }
    match suffix {
        Some(suffix) => host(suffix).map(HostPattern::Wildcard),
        None => host(text).map(HostPattern::Exact),
    }
}

/// A hostname of a virtual host: as [`host_pattern`], and an exact one may have a port, for requests that name it.
pub(crate) fn virtual_host(text: &str) -> Result<HostPattern, Wrong> {
    let port = text.rsplit_once(':').filter(|(name, _)| !name.contains(':') || name.ends_with(']'));
    let Some((name, port)) = port.filter(|(name, port)| {
        !name.is_empty() && !name.contains('*') && !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())
    }) else {
        return host_pattern(text);
    };
    match port.parse::<u16>() {
        Ok(number) if number > 0 => Ok(HostPattern::Exact(format!("{}:{number}", host(name)?).into())),
        _ => {
            let message = format!("the hostname `{}` has no valid port", quoted(text));
            Err(Wrong::new(message, "ports go from 1 to 65535"))
        }
    }
}

/// A host without port, in the form in which it is compared: lower case, no trailing dot, IPv6 in brackets.
pub(crate) fn host(text: &str) -> Result<Arc<str>, Wrong> {
    let wrong = |what: &str, fix: String| Err(Wrong::new(format!("the hostname `{}` {what}", quoted(text)), fix));
    if let Some((before, _)) = text.split_once("://") {
        return wrong("has a scheme", format!("leave out `{}://`", quoted(before)));
    }
    let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    if let Ok(ip) = inner.parse::<IpAddr>() {
        return Ok(match ip {
            IpAddr::V4(ip) => ip.to_string().into(),
            IpAddr::V6(ip) => format!("[{ip}]").into(),
        });
    }
    if let Some((name, port)) = text.rsplit_once(':')
        && !port.is_empty()
        && port.bytes().all(|b| b.is_ascii_digit())
    {
        return wrong("has a port", format!("leave out the port, which plays no part here: `{}`", quoted(name)));
    }
    let lower = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if lower.is_empty() {
        return Err(Wrong::new("the hostname is empty", "write a name, or remove the entry"));
    }
    if !lower.is_ascii() {
        return wrong("has letters beyond ASCII", "write it in its `xn--` form (IDNA)".to_owned());
    }
    if lower.len() > MAX_NAME_BYTES || lower.split('.').any(|label| label.len() > 63) {
        return wrong("is too long", "DNS allows 253 characters, and 63 between two dots".to_owned());
    }
    if lower.split('.').any(str::is_empty) {
        return wrong("has an empty label", "remove the extra dot".to_owned());
    }
    if let Some(bad) = lower.chars().find(|c| !(c.is_ascii_alphanumeric() || *c == '-' || *c == '_' || *c == '.')) {
        let bad = quoted(&bad.to_string());
        return wrong(&format!("has a `{bad}` in it"), "use letters, digits, `-`, `_` and dots only".to_owned());
    }
    Ok(lower.into())
}

/// `IP:PORT` to listen on; port 0 lets the system choose.
pub(super) fn bind(text: &str) -> Result<SocketAddr, Wrong> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address);
    }
    let wrong = |fix: String| Err(Wrong::new(format!("`{}` is not an address to listen on", quoted(text)), fix));
    if let Ok(port) = text.trim_start_matches([':', '*']).trim_start_matches(':').parse::<u16>() {
        return wrong(format!("write `0.0.0.0:{port}` for all addresses or `127.0.0.1:{port}` for this host only"));
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return wrong(format!("add the port: `{}`", SocketAddr::new(ip, 15006)));
    }
    match text.rsplit_once(':') {
        Some(("localhost", port)) if port.parse::<u16>().is_ok() => wrong(format!("write `127.0.0.1:{port}`")),
        Some((ip, port)) if ip.parse::<IpAddr>().is_ok() => match port.parse::<u32>() {
            Ok(_) => wrong("ports go from 0 to 65535".to_owned()),
            Err(_) => wrong("write the port as a number".to_owned()),
        },
        _ => wrong("write an IP address and a port, such as `127.0.0.1:15001` or `[::]:15006`".to_owned()),
    }
}

/// `IP:PORT` or `NAME:PORT` of an endpoint.
pub(crate) fn target(text: &str) -> Result<Target, Wrong> {
    let wrong = |what: &str, fix: String| Err(Wrong::new(format!("the endpoint `{}` {what}", quoted(text)), fix));
    if let Some((scheme, rest)) = text.split_once("://") {
        let rest = quoted(rest.split('/').next().unwrap_or_default());
        return wrong("is a URL", format!("leave out `{}://` and the path: `{rest}`", quoted(scheme)));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return match address {
            a if a.port() == 0 => wrong("has port 0", "ports go from 1 to 65535".to_owned()),
            a if a.ip().is_unspecified() => {
                wrong("is no address that can be reached", format!("write `127.0.0.1:{}` for this host", a.port()))
            }
            a => Ok(Target::Address(a)),
        };
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return wrong("has no port", format!("add the port: `{}`", SocketAddr::new(ip, 8080)));
    }
    let Some((name, port)) = text.rsplit_once(':') else {
        return wrong("has no port", format!("add the port: `{}:8080`", quoted(text)));
    };
    let port = match port.parse::<u16>() {
        Ok(port) if port > 0 => port,
        _ => return wrong("has no valid port", "ports go from 1 to 65535".to_owned()),
    };
    // `10.0.0.300` is a slip in an address, and no top-level domain is a number (RFC 3696 section 2).
    if name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit())) {
        return wrong("has a malformed IP address", "write four numbers from 0 to 255".to_owned());
    }
    if name.contains(':') {
        return wrong("has a malformed IP address", "write IPv6 addresses in brackets: `[::1]:8080`".to_owned());
    }
    host(name).map(|host| Target::Name { host, port })
}

/// The name of a query parameter.
pub(crate) fn parameter(text: &str) -> Result<Arc<str>, Wrong> {
    if text.is_empty() || text.len() > MAX_MATCH_BYTES {
        return Err(Wrong::new("this is not the name of a query parameter", "write its name, decoded"));
    }
    Ok(text.into())
}

/// The name of a cookie: a token (RFC 6265 section 4.1.1).
pub(crate) fn cookie(text: &str) -> Result<Arc<str>, Wrong> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if text.is_empty() || text.len() > MAX_NAME_BYTES || !text.bytes().all(fits) {
        let message = format!("`{}` is not the name of a cookie", quoted(text));
        return Err(Wrong::new(message, "use letters, digits, `-` and `_`, such as `session`"));
    }
    Ok(text.into())
}

/// The path of a cookie (RFC 6265 section 4.1.2.4).
pub(crate) fn cookie_path(text: &str) -> Result<Arc<str>, Wrong> {
    let fits = |b: u8| (b'!'..0x7f).contains(&b) && b != b';' && b != b',';
    if !text.starts_with('/') || text.len() > MAX_NAME_BYTES || !text.bytes().all(fits) {
        let message = format!("`{}` is not the path of a cookie", quoted(text));
        return Err(Wrong::new(message, "write a path such as `/` or `/shop`"));
    }
    Ok(text.into())
}

/// A text that another service compares.
pub(crate) fn word(text: &str) -> Result<Arc<str>, Wrong> {
    if text.is_empty() || text.len() > MAX_WORD_BYTES || text.chars().any(char::is_control) {
        let fix = format!("write 1 to {MAX_WORD_BYTES} bytes, without control characters");
        return Err(Wrong::new("this text cannot be compared by anybody", fix));
    }
    Ok(text.into())
}

/// A path that the paths of requests are compared with. They are compared in their normal form (RFC 3986 section
/// 6.2.2), so this is brought into it: nothing is encoded that need not be, hexadecimal digits are capitals, and what a
/// path cannot hold is encoded. What no normalised path can be equal to is refused.
pub(crate) fn path(text: &str) -> Result<String, Wrong> {
    let wrong = |what: &str, fix: String| Err(Wrong::new(format!("the path `{}` {what}", quoted(text)), fix));
    if text.len() > MAX_MATCH_BYTES {
        return wrong("is too long", format!("use at most {MAX_MATCH_BYTES} bytes"));
    }
    if !text.starts_with('/') {
        return wrong("does not begin with `/`", format!("write `/{}`", quoted(text)));
    }
    if let Some((before, _)) = text.split_once(['?', '#']) {
        let fix = format!("write `{}`; query parameters have a condition of their own: `query`", quoted(before));
        return wrong("has a query or a fragment", fix);
    }
    if text.ends_with('*') {
        let stem = text.trim_end_matches('*').trim_end_matches('/');
        let stem = if stem.is_empty() { "/" } else { stem };
        return wrong("ends with a `*`, which is compared literally", format!("write `prefix: {}`", quoted(stem)));
    }
    let Some(normal) = encoded(text) else {
        let fix = "a percent sign is written `%25`; control characters are refused in every request";
        return wrong("has a `%` without two digits, or a control character", fix.to_owned());
    };
    if normal.split('/').any(|segment| matches!(segment, "." | "..")) {
        let fix = format!("dot segments are resolved before: write `{}`", quoted(&without_dots(&normal)));
        return wrong("can never match", fix);
    }
    Ok(normal)
}

/// Percent-encoding in its normal form; `None` where there is none.
fn encoded(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    while let Some(&byte) = bytes.get(i) {
        i += 1;
        let (byte, was_encoded) = if byte == b'%' {
            let hex = |at: usize| bytes.get(at).and_then(|b| char::from(*b).to_digit(16));
            let value = hex(i)? * 16 + hex(i + 1)?;
            i += 2;
            (u8::try_from(value).ok()?, true)
        } else {
            (byte, false)
        };
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            0..=0x1f | 0x7f => return None,
            // Characters of a path that are not unreserved stay as they were written (RFC 3986 section 3.3).
            b'/' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@'
                if !was_encoded =>
            {
                out.push(char::from(byte));
            }
            _ => {
                // Writing to a String cannot fail.
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    Some(out)
}

fn without_dots(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    let mut directory = false;
    for segment in path.split('/').skip(1) {
        directory = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => drop(segments.pop()),
            other => segments.push(other),
        }
    }
    let end = if directory || segments.is_empty() { "/" } else { "" };
    segments.iter().flat_map(|segment| ["/", segment]).chain([end]).collect()
}

/// Whether a pattern stands for the whole value or is looked for inside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Anchors {
    Whole,
    Inside,
}

impl Check<'_, '_> {
    /// A regular expression; problems are reported at `span`.
    pub(super) fn pattern(&self, text: &str, anchors: Anchors, span: Span) -> Option<Regex> {
        if text.len() > MAX_PATTERN_BYTES {
            let fix = format!("use at most {MAX_PATTERN_BYTES} bytes");
            self.error(span, "the regular expression is too long", fix);
            return None;
        }
        let key = (text.to_owned(), anchors);
        let mut known = self.patterns.borrow_mut();
        if let Some(Some(regex)) = known.get(&key) {
            return Some(regex.clone());
        }
        if known.len() >= MAX_PATTERNS {
            drop(known);
            let message = format!("more than {MAX_PATTERNS} different regular expressions");
            self.error(span, message, "use prefix and exact conditions, which cost nothing however many they are");
            return None;
        }
        let compiled = self.parsed(compile(text, anchors), span);
        known.insert(key, compiled.clone());
        compiled
    }
}

pub(crate) fn compile(text: &str, anchors: Anchors) -> Result<Regex, Wrong> {
    // Parsed alone first: `a)|(b` is wrong, and would be well-formed inside the group that anchors it.
    regex_syntax::ast::parse::Parser::new().parse(text).map_err(|error| not_a_pattern(&error.to_string()))?;
    let built = match anchors {
        Anchors::Inside => build(text),
        Anchors::Whole => build(&format!("^(?:{text})$"))
            // A comment in verbose mode, `(?x) a # b`, swallows the end of the group.
            .or_else(|error| match error {
                regex::Error::Syntax(_) => build(&format!("^(?:{text}\n)$")),
                error => Err(error),
            }),
    };
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => Wrong::new(
            "the regular expression is too large when compiled",
            "use smaller repetitions; `(?-u:\\w)` is much smaller than `\\w`",
        ),
        error => not_a_pattern(&error.to_string()),
    })
}

fn build(text: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(text).size_limit(MAX_COMPILED_PATTERN_BYTES).build()
}

/// The last line of the parser's report is the reason; those above draw the pattern.
fn not_a_pattern(report: &str) -> Wrong {
    let reason = report.lines().last().unwrap_or_default().trim_start_matches("error: ");
    let fix = "the syntax is that of the Rust `regex` crate: like PCRE, without look-around and back-references";
    Wrong::new(format!("this is not a regular expression: {reason}"), fix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_compared_in_lower_case_without_the_trailing_dot() {
        assert_eq!(host("Payments.Shop.svc.").as_deref(), Ok("payments.shop.svc"));
        assert_eq!(host("[::1]").as_deref(), Ok("[::1]"));
        assert_eq!(host("::1").as_deref(), Ok("[::1]"));
        assert_eq!(host("10.0.0.1").as_deref(), Ok("10.0.0.1"));
        assert_eq!(host_pattern("*.Example.com"), Ok(HostPattern::Wildcard("example.com".into())));
    }

    #[test]
    fn an_exact_hostname_of_a_virtual_host_may_have_a_port() {
        for (text, stored) in [("A.svc:8080", "a.svc:8080"), ("[::1]:080", "[::1]:80"), ("::1", "[::1]"), ("a", "a")] {
            assert_eq!(virtual_host(text), Ok(HostPattern::Exact(stored.into())));
        }
        for bad in ["a:0", "a:70000", "*.a:80", "*:80", "a:", ":80", "http://a:80"] {
            assert!(virtual_host(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_that_can_never_match_are_refused() {
        for bad in ["", ".", "a..b", "a b", "payments:80", "http://a", "bücher.example", "a*.b", "*.*.b", "[::1]:80"] {
            assert!(host_pattern(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_are_brought_into_their_normal_form() {
        for normal in
            ["/", "/v1", "/v1/", "/a%2Fb", "/a%20b", "/a//b", "/a/.hidden", "/~user", "/a;b=c", "/a*b", "/..a"]
        {
            assert_eq!(path(normal).as_deref(), Ok(normal));
        }
        for (text, normal) in [
            ("/a%2fb", "/a%2Fb"),
            ("/%7Euser", "/~user"),
            ("/a b", "/a%20b"),
            ("/ä", "/%C3%A4"),
            ("/{id}|", "/%7Bid%7D%7C"),
            ("/%3b;", "/%3B;"),
        ] {
            assert_eq!(path(text).as_deref(), Ok(normal));
        }
    }

    #[test]
    fn paths_that_can_never_match_are_refused() {
        for (bad, fix) in [
            ("/a/../b", "`/b`"),
            ("/a/./b", "`/a/b`"),
            ("/a/%2e%2E", "`/`"),
            ("/100%", "`%25`"),
            ("/%00", "control"),
            ("v1", "`/v1`"),
            ("/v1?x=1", "`/v1`"),
            ("/v1/*", "`prefix: /v1`"),
        ] {
            let wrong = path(bad).expect_err(bad);
            assert!(wrong.fix.contains(fix), "{bad}: {}", wrong.fix);
        }
    }

    #[test]
    fn anchored_patterns_stand_for_the_whole_text() {
        let whole = |p: &str| compile(p, Anchors::Whole).expect(p);
        assert!(whole("a|b").is_match("b"));
        assert!(!whole("a|b").is_match("ab"));
        assert!(whole("(?x) a # comment").is_match("a"));
        assert!(!whole("a").is_match("a\n"));
        assert!(compile("a)|(?:b", Anchors::Whole).is_err());
    }

    #[test]
    fn a_pattern_that_is_huge_when_compiled_is_refused() {
        assert!(compile("(\\w{100}){100}", Anchors::Inside).is_err());
    }
}
