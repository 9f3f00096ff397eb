//! Filters of rules and backends.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, StatusCode};

use super::names::{self, Anchors};
use super::{Check, Names, Wrong, faults, headers, small};
use crate::limits::{self, MAX_BODY_BYTES, MAX_CORS_ENTRIES, MAX_FILTERS, MAX_HEADER_VALUE_BYTES};
use crate::model::{Action, Cors, DirectResponse, Filter, PathRewrite, Redirect, UrlRewrite};
use crate::raw;
use crate::read::{Field, List};
use crate::source::Span;
use crate::text::quoted;

/// The filters of a rule, taken apart.
#[derive(Default)]
pub(super) struct Checked {
    pub(super) filters: Vec<Filter>,
    /// The filter that answers, and where it is.
    pub(super) terminal: Option<(Action, Span)>,
    /// A rewrite that needs to know the matched prefix.
    pub(super) prefix_rewrite: Option<Span>,
}

/// True when a filter could not be read, so that nobody knows what it was.
pub(super) fn any_bad(field: &Field<List<raw::Filter>>) -> bool {
    field.is_bad()
        || field.entries().iter().any(|filter| match filter.get() {
            None | Some(raw::Filter::Redirect(Field::Bad(_)) | raw::Filter::DirectResponse(Field::Bad(_))) => true,
            Some(_) => false,
        })
}

pub(super) fn of_rule(check: &Check<'_, '_>, field: &Field<List<raw::Filter>>, clusters: &Names<'_>) -> Checked {
    let mut out = Checked::default();
    let (mut rewrite, mut cors, mut upstream_only) = (None, None, None);
    for (filter, span) in limited(check, field) {
        match filter {
            raw::Filter::RequestHeaders(edit) => {
                upstream_only = upstream_only.or(Some(span));
                out.filters.extend(headers::edit(check, edit).map(Filter::RequestHeaders));
            }
            raw::Filter::ResponseHeaders(edit) => {
                out.filters.extend(headers::edit(check, edit).map(Filter::ResponseHeaders));
            }
            raw::Filter::UrlRewrite(raw) => {
                upstream_only = upstream_only.or(Some(span));
                if single(check, &mut rewrite, (span, "urlRewrite")) {
                    out.filters.extend(url_rewrite(check, raw, &mut out.prefix_rewrite).map(Filter::UrlRewrite));
                }
            }
            raw::Filter::Cors(raw) => {
                if single(check, &mut cors, (span, "cors")) {
                    out.filters.extend(self::cors(check, raw).map(Filter::Cors));
                }
            }
            raw::Filter::Fault(raw) => out.filters.extend(faults::fault(check, raw).map(Filter::Fault)),
            raw::Filter::Mirror(raw) => {
                upstream_only = upstream_only.or(Some(span));
                out.filters.extend(faults::mirror(check, raw, clusters).map(Filter::Mirror));
            }
            raw::Filter::Redirect(raw) => {
                let action = redirect(check, raw, &mut out.prefix_rewrite).map(Action::Redirect);
                answer(check, &mut out.terminal, action, span);
            }
            raw::Filter::DirectResponse(raw) => {
                let action = direct(check, raw).map(Action::Direct);
                answer(check, &mut out.terminal, action, span);
            }
        }
    }
    if let (Some(span), Some((_, at))) = (upstream_only, &out.terminal) {
        let message = "this filter does nothing: the rule answers by itself and no upstream sees the request";
        let text = (message.to_owned(), "remove it".to_owned());
        check.sink.warning_with(span, (*at, "the answer is given here"), text);
    }
    out
}

pub(super) fn of_backend(check: &Check<'_, '_>, field: &Field<List<raw::Filter>>) -> Vec<Filter> {
    let mut out = Vec::new();
    for (filter, span) in limited(check, field) {
        match filter {
            raw::Filter::RequestHeaders(edit) => out.extend(headers::edit(check, edit).map(Filter::RequestHeaders)),
            raw::Filter::ResponseHeaders(edit) => out.extend(headers::edit(check, edit).map(Filter::ResponseHeaders)),
            raw::Filter::UrlRewrite(_)
            | raw::Filter::Cors(_)
            | raw::Filter::Fault(_)
            | raw::Filter::Mirror(_)
            | raw::Filter::Redirect(_)
            | raw::Filter::DirectResponse(_) => check.error(
                span,
                "a backend takes only `requestHeaders` and `responseHeaders`",
                "move this filter to `filters` of the rule",
            ),
        }
    }
    out
}

fn limited<'f>(
    check: &Check<'_, '_>,
    field: &'f Field<List<raw::Filter>>,
) -> impl Iterator<Item = (&'f raw::Filter, Span)> + use<'f> {
    check.within(field.entries(), MAX_FILTERS, (field.span(), "filters")).iter().filter_map(Field::here)
}

/// Notes a filter of which a rule has one at most.
fn single(check: &Check<'_, '_>, first: &mut Option<Span>, (span, name): (Span, &str)) -> bool {
    if let Some(first) = first {
        let text = (format!("a second `{name}` in one rule"), "put both into one".to_owned());
        check.sink.error_with(span, (*first, "the first one is here"), text);
        return false;
    }
    *first = Some(span);
    true
}

fn answer(check: &Check<'_, '_>, terminal: &mut Option<(Action, Span)>, action: Option<Action>, span: Span) {
    if let Some((_, first)) = terminal {
        let text = ("a second filter that answers".to_owned(), "keep one `redirect` or `directResponse`".to_owned());
        check.sink.error_with(span, (*first, "the first one is here"), text);
    } else {
        *terminal = action.map(|action| (action, span));
    }
}

fn url_rewrite(check: &Check<'_, '_>, field: &Field<raw::UrlRewrite>, prefix: &mut Option<Span>) -> Option<UrlRewrite> {
    let (raw::UrlRewrite { hostname, path }, span) = field.here()?;
    if hostname.is_absent() && path.is_absent() {
        check.error(span, "this `urlRewrite` rewrites nothing", "add `hostname` or `path`");
    }
    Some(UrlRewrite {
        hostname: hostname.here().and_then(|(text, at)| check.parsed(authority(text), at)),
        path: path_rewrite(check, path, prefix),
    })
}

/// A host with an optional port.
pub(crate) fn authority(text: &str) -> Result<HeaderValue, Wrong> {
    let (host, port) = match text.rsplit_once(':') {
        // Other colons are those of an IPv6 address.
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let host = names::host(host)?;
    let whole = match port.map(str::parse::<u16>) {
        None => host.to_string(),
        Some(Ok(port)) if port > 0 => format!("{host}:{port}"),
        Some(_) => {
            let message = format!("`{}` has no valid port", quoted(text));
            return Err(Wrong::new(message, "ports go from 1 to 65535"));
        }
    };
    headers::value(&whole)
}

fn path_rewrite(
    check: &Check<'_, '_>,
    field: &Field<raw::PathRewrite>,
    prefix: &mut Option<Span>,
) -> Option<PathRewrite> {
    let (raw::PathRewrite { replace_full_path, replace_prefix_match, regex, substitution }, span) = field.here()?;
    let ways = [replace_full_path.span(), replace_prefix_match.span(), regex.span().or(substitution.span())];
    let mut ways = ways.into_iter().flatten();
    match (ways.next(), ways.next()) {
        (None, _) => {
            let fix = "add `replaceFullPath`, `replacePrefixMatch`, or `regex` with `substitution`";
            check.error(span, "this path rewrite says nothing", fix);
            return None;
        }
        (Some(_), Some(second)) => {
            let message = "a path is rewritten in exactly one way";
            let fix = "keep `replaceFullPath`, `replacePrefixMatch`, or `regex` with `substitution`";
            check.error(second, message, fix);
            return None;
        }
        (Some(_), None) => {}
    }
    if let Some((text, at)) = replace_full_path.here() {
        return check.parsed(new_path(text), at).map(|()| PathRewrite::Full(Arc::from(text.as_str())));
    }
    if let Some((text, at)) = replace_prefix_match.here() {
        *prefix = Some(at);
        // `/` and nothing both take the prefix away.
        if text.is_empty() {
            return Some(PathRewrite::Prefix(Arc::from("")));
        }
        return check.parsed(new_path(text), at).map(|()| PathRewrite::Prefix(Arc::from(text.as_str())));
    }
    let lack = ("`substitution` without `regex`", "add what is looked for: `regex: …`");
    let (pattern, at) = check.required(regex, span, lack)?;
    let pattern = check.pattern(pattern, Anchors::Inside, at);
    let lack = ("`regex` without `substitution`", "add what it becomes: `substitution: …`");
    let (substitution, at) = check.required(substitution, span, lack)?;
    let pattern = pattern?;
    check.parsed(groups_exist(substitution, &pattern), at)?;
    Some(PathRewrite::Regex { pattern, substitution: Arc::from(substitution.as_str()) })
}

/// A path that is sent out: it must be one, and bring no query along.
pub(crate) fn new_path(text: &str) -> Result<(), Wrong> {
    let wrong = |what: &str, fix: String| Err(Wrong::new(format!("the path `{}` {what}", quoted(text)), fix));
    if text.len() > limits::MAX_MATCH_BYTES {
        return wrong("is too long", format!("use at most {} bytes", limits::MAX_MATCH_BYTES));
    }
    if !text.starts_with('/') {
        return wrong("does not begin with `/`", format!("write `/{}`", quoted(text)));
    }
    if text.contains(['?', '#']) {
        return wrong("has a query or a fragment", "leave it out: the query of the request is kept".to_owned());
    }
    if text.bytes().any(|b| b <= b' ' || b >= 0x7f) {
        return wrong("has bytes that a path cannot hold", "percent-encode blanks and letters beyond ASCII".to_owned());
    }
    Ok(())
}

/// Every `$1` and `${name}` must be a group of the pattern: an unknown one would vanish in silence, and `$1a` is the
/// group named `1a`.
pub(crate) fn groups_exist(substitution: &str, pattern: &regex::Regex) -> Result<(), Wrong> {
    if substitution.len() > limits::MAX_MATCH_BYTES {
        return Err(Wrong::new(
            "this substitution is too long",
            format!("use at most {} bytes", limits::MAX_MATCH_BYTES),
        ));
    }
    if substitution.bytes().any(|b| b <= b' ' || b >= 0x7f) || substitution.contains(['?', '#']) {
        let fix = "percent-encode blanks, `?`, `#` and letters beyond ASCII";
        return Err(Wrong::new("this substitution has bytes that a path cannot hold", fix));
    }
    let exists = |group: &str| match group.parse::<usize>() {
        Ok(number) => number < pattern.captures_len(),
        Err(_) => pattern.capture_names().flatten().any(|name| name == group),
    };
    let mut rest = substitution;
    while let Some((_, after)) = rest.split_once('$') {
        if let Some(after) = after.strip_prefix('$') {
            rest = after;
            continue;
        }
        let (group, tail) = match after.strip_prefix('{').and_then(|braced| braced.split_once('}')) {
            Some(split) => split,
            None => {
                after.split_at(after.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(after.len()))
            }
        };
        if !exists(group) {
            let digits: String = group.chars().take_while(char::is_ascii_digit).collect();
            let fix = match digits.is_empty() || digits.len() == group.len() || !exists(&digits) {
                false => format!("write `${{{digits}}}{}`: without braces the name goes on", &group[digits.len()..]),
                true => match pattern.captures_len() - 1 {
                    0 => "the pattern has no groups: put `(…)` around what is to be kept; `$$` is a dollar sign"
                        .to_owned(),
                    last => format!("the last group of the pattern is `${last}`; `$$` is a dollar sign"),
                },
            };
            return Err(Wrong::new(format!("the pattern has no group `{}`", quoted(group)), fix));
        }
        rest = tail;
    }
    Ok(())
}

fn cors(check: &Check<'_, '_>, field: &Field<raw::Cors>) -> Option<Arc<Cors>> {
    let (raw, span) = field.here()?;
    let raw::Cors { allow_origins, allow_methods, allow_headers, expose_headers, allow_credentials, max_age } = raw;
    let lack = ("`cors` has no `allowOrigins`", "add who may call: `allowOrigins: [\"https://app.example\"]`");
    if let Some((list, at)) = check.required(allow_origins, span, lack)
        && list.is_empty()
    {
        check.error(at, lack.0, lack.1);
    }
    let credentials = check.flag(allow_credentials, false);
    let origins = texts(check, allow_origins, |text| {
        if text == "*" && credentials {
            let message = "`*` with `allowCredentials` would let every site act for the user";
            return Err(Wrong::new(message, "list the origins, or remove `allowCredentials`"));
        }
        origin(text)
    });
    let token = |text: &str| headers::name(text).map(|_| ());
    let methods = texts(check, allow_methods, |text| {
        if text.bytes().any(|b| b.is_ascii_lowercase()) {
            let message = format!("the method `{}` is not in capitals", quoted(text));
            return Err(Wrong::new(message, format!("write `{}`", quoted(&text.to_ascii_uppercase()))));
        }
        if text == "*" {
            return Ok(());
        }
        let wrong = |_| Wrong::new(format!("`{}` is not a method", quoted(text)), "write a method such as `GET`");
        http::Method::from_bytes(text.as_bytes()).map(|_| ()).map_err(wrong)
    });
    let star_alone = |field: &Field<List<String>>| {
        let star = field.entries().iter().filter_map(Field::here).find(|(text, _)| *text == "*");
        if let (Some((_, at)), true) = (star, field.entries().len() > 1) {
            check.error(at, "`*` stands beside others, and it means all of them", "keep `*` alone, or list them");
        }
    };
    star_alone(allow_methods);
    star_alone(allow_headers);
    star_alone(expose_headers);
    let or_star = |text: &str| if text == "*" { Ok(()) } else { token(text) };
    let max_age = check.duration_or_zero(max_age, Duration::from_secs(5));
    Some(Arc::new(Cors {
        allow_origins: origins,
        allow_methods: if allow_methods.is_absent() {
            ["GET", "HEAD", "POST"].map(Arc::from).to_vec()
        } else {
            methods
        },
        allow_headers: texts(check, allow_headers, or_star),
        expose_headers: texts(check, expose_headers, or_star),
        allow_credentials: credentials,
        max_age,
    }))
}

fn texts(
    check: &Check<'_, '_>,
    field: &Field<List<String>>,
    rule: impl Fn(&str) -> Result<(), Wrong>,
) -> Vec<Arc<str>> {
    let list = check.within(field.entries(), MAX_CORS_ENTRIES, (field.span(), "entries"));
    let each = list.iter().filter_map(Field::here);
    each.filter_map(|(text, at)| check.parsed(rule(text), at).map(|()| Arc::from(text.as_str()))).collect()
}

/// `https://app.example`, `https://app.example:8443`, `https://*.example`, `*`.
pub(crate) fn origin(text: &str) -> Result<(), Wrong> {
    let wrong = |fix: &str| Err(Wrong::new(format!("`{}` is not an origin", quoted(text)), fix));
    if text == "*" {
        return Ok(());
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return wrong("add the scheme: `https://app.example`");
    };
    if scheme.is_empty() || !scheme.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b))
    {
        return wrong("write the scheme in small letters: `https://app.example`");
    }
    if rest.contains(['/', '?', '#', '@']) {
        return wrong("leave out everything behind the host and port, also a `/` at the end");
    }
    let host = rest.strip_prefix("*.").unwrap_or(rest);
    if host.bytes().any(|b| b.is_ascii_uppercase()) {
        return wrong("write the host in small letters, as browsers do");
    }
    authority(host).map(|_| ())
}

fn redirect(check: &Check<'_, '_>, field: &Field<raw::Redirect>, prefix: &mut Option<Span>) -> Option<Redirect> {
    let (raw::Redirect { scheme, hostname, port, path, status }, span) = field.here()?;
    if scheme.is_absent() && hostname.is_absent() && port.is_absent() && path.is_absent() {
        let fix = "add `scheme`, `hostname`, `port` or `path`";
        check.error(span, "this redirect leads back to where the request came from", fix);
    }
    let code = match status.here() {
        None => StatusCode::FOUND,
        Some((301 | 302 | 303 | 307 | 308, _)) => {
            u16::try_from(status.get().copied().unwrap_or(302)).ok().and_then(|s| StatusCode::from_u16(s).ok())?
        }
        Some((other, at)) => {
            let fix = "write 301 or 308 (for good), 302 or 307 (for now), or 303 (see other)";
            check.error(at, format!("{other} is not the status of a redirect"), fix);
            StatusCode::FOUND
        }
    };
    Some(Redirect {
        scheme: scheme.get().map(|scheme| match scheme {
            raw::Scheme::Http => Arc::from("http"),
            raw::Scheme::Https => Arc::from("https"),
        }),
        hostname: hostname.here().and_then(|(text, at)| check.parsed(names::host(text), at)),
        port: port.get().map(|_| small(check.number(port, 80, limits::PORT))),
        path: path_rewrite(check, path, prefix),
        status: code,
    })
}

fn direct(check: &Check<'_, '_>, field: &Field<raw::DirectResponse>) -> Option<DirectResponse> {
    let (raw::DirectResponse { status, body, content_type }, _) = field.here()?;
    let code: u16 = small(check.number(status, 200, limits::DIRECT_STATUS));
    let code = StatusCode::from_u16(code).unwrap_or(StatusCode::OK);
    if let Some((text, at)) = body.here() {
        if text.len() > MAX_BODY_BYTES {
            let fix = format!("use at most {MAX_BODY_BYTES} bytes, or serve it from a backend");
            check.error(at, "this body is too long", fix);
        }
        // RFC 9110 sections 15.3.5, 15.3.6 and 15.4.5.
        if matches!(code.as_u16(), 204 | 205 | 304) && !text.is_empty() {
            check.error(at, format!("a response with status {} has no body", code.as_u16()), "remove the body");
        }
    }
    let media = content_type.here().and_then(|(text, at)| {
        let slash =
            text.split(';').next().is_some_and(|media| media.contains('/')) && text.len() <= MAX_HEADER_VALUE_BYTES;
        if !slash {
            let message = format!("`{}` is not a media type", quoted(text));
            check.error(at, message, "write a type such as `text/plain` or `application/json`");
            return None;
        }
        check.parsed(headers::value(text), at)
    });
    Some(DirectResponse {
        status: code,
        body: body.get().map_or(&[][..], |text| text.as_bytes()).into(),
        content_type: media.unwrap_or(HeaderValue::from_static("text/plain; charset=utf-8")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_does_not_exist_is_refused_and_the_braces_explained() {
        let pattern = regex::Regex::new("^/a/(.*)/(?P<tail>.*)$").expect("pattern");
        for good in ["/b/$1", "/b/${1}x", "/$tail/$2", "/$$1", "/plain", "/$0"] {
            assert_eq!(groups_exist(good, &pattern), Ok(()), "{good}");
        }
        assert_eq!(
            groups_exist("/$1x", &pattern).expect_err("name").fix,
            "write `${1}x`: without braces the name goes on"
        );
        for bad in ["/$3", "/$", "/$head", "/${", "/${}"] {
            assert!(groups_exist(bad, &pattern).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_authority_is_a_host_with_an_optional_port() {
        for (text, stored) in
            [("A.example", "a.example"), ("a:8080", "a:8080"), ("::1", "[::1]"), ("[::1]:80", "[::1]:80")]
        {
            assert_eq!(authority(text).expect(text), stored);
        }
        for bad in ["a:0", "a:http", "a:99999", "a:", ":80", "http://a", "a/b", "::1:x"] {
            assert!(authority(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn origins_are_scheme_host_and_port() {
        for good in ["*", "https://app.example", "http://localhost:3000", "https://*.example", "https://[::1]:8443"] {
            assert_eq!(origin(good), Ok(()), "{good}");
        }
        for bad in [
            "app.example",
            "https://app.example/",
            "HTTPS://a.example",
            "https://A.example",
            "https://",
            "null",
            "https://a.*.b",
        ] {
            assert!(origin(bad).is_err(), "{bad}");
        }
    }
}
