//! Steps that a rule applies to a request and to its answer.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, DATE, HeaderMap, HeaderValue, LOCATION};
use http::uri::{Authority, PathAndQuery, Scheme};
use outrigger_config::model::{DirectResponse, Filter, HeaderEdit, PathRewrite, Redirect, UrlRewrite};

use super::local::date;
use crate::codec::{Body, RequestHead, Response, ResponseHead};
use crate::policy::{host, path};

/// Applies the request side of filters. `prefix_len` is how much of the path
/// the matched prefix covers (for prefix rewrites).
pub(super) fn apply_to_request(filters: &[Filter], head: &mut RequestHead, prefix_len: usize) {
    for filter in filters {
        match filter {
            Filter::RequestHeaders(edit) => apply_edit(edit, &mut head.headers),
            Filter::UrlRewrite(rewrite) => apply_rewrite(rewrite, head, prefix_len),
            Filter::ResponseHeaders(_) | Filter::Cors(_) | Filter::Fault(_) | Filter::Mirror(_) => {}
        }
    }
}

/// Applies the response side of filters, also to local answers.
pub(super) fn apply_to_response(filters: &[Filter], headers: &mut HeaderMap) {
    for filter in filters {
        match filter {
            Filter::ResponseHeaders(edit) => apply_edit(edit, headers),
            Filter::RequestHeaders(_)
            | Filter::UrlRewrite(_)
            | Filter::Cors(_)
            | Filter::Fault(_)
            | Filter::Mirror(_) => {}
        }
    }
}

fn apply_edit(edit: &HeaderEdit, headers: &mut HeaderMap) {
    let HeaderEdit { remove, set, add } = edit;
    for name in remove {
        headers.remove(name);
    }
    for (name, value) in set {
        headers.insert(name, value.clone());
    }
    for (name, value) in add {
        headers.append(name, value.clone());
    }
}

fn apply_rewrite(rewrite: &UrlRewrite, head: &mut RequestHead, prefix_len: usize) {
    let UrlRewrite { hostname, path } = rewrite;
    if let Some(hostname) = hostname
        && let Ok(authority) = Authority::try_from(hostname.as_bytes())
    {
        head.authority = Some(authority);
    }
    if let Some(rewrite) = path
        && let Some(path) = rewritten(rewrite, &head.path, prefix_len)
    {
        head.path = path;
    }
}

/// The new path with the old query. What a rewrite makes of a path that is then no path leaves the old one.
fn rewritten(rewrite: &PathRewrite, old: &PathAndQuery, prefix_len: usize) -> Option<PathAndQuery> {
    let (before, query) = path::split(old.as_str());
    let mut new = match rewrite {
        PathRewrite::Full(full) => full.to_string(),
        PathRewrite::Prefix(prefix) => join(prefix, before.get(prefix_len..)?),
        PathRewrite::Regex { pattern, substitution } => pattern.replace_all(before, &**substitution).into_owned(),
    };
    if !new.starts_with('/') {
        new.insert(0, '/');
    }
    if let Some(query) = query {
        new.push('?');
        new.push_str(query);
    }
    PathAndQuery::from_maybe_shared(Bytes::from(new)).ok()
}

/// Gateway API: `/foo` replaced by `/bar` in `/foo/x` is `/bar/x`; by `/` it is `/x`; slashes are not doubled,
/// and one at the end stays.
fn join(prefix: &str, rest: &str) -> String {
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    if prefix.is_empty() && rest.is_empty() { "/".to_owned() } else { format!("{prefix}{rest}") }
}

/// A redirect: parts that it does not name are the request's own.
pub(super) fn redirect(redirect: &Redirect, head: &RequestHead, prefix_len: usize) -> Response<Body> {
    let Redirect { scheme, hostname, port, path, status } = redirect;
    let own_scheme = if head.scheme == Scheme::HTTPS { "https" } else { "http" };
    let to_scheme = scheme.as_deref().unwrap_or(own_scheme);
    let authority = head.authority.as_ref().and_then(|authority| host::parse_authority(authority.as_str()).ok());
    let (own_host, own_port) = match &authority {
        Some(authority) => (&*authority.host, authority.port),
        None => ("", None),
    };
    let host = hostname.as_deref().unwrap_or(own_host);
    // Gateway API: without a port, a changed scheme goes to that scheme's own port, else the port stays.
    let port = port.or(if scheme.is_some() { None } else { own_port });
    let well_known = match to_scheme {
        "https" => 443,
        _ => 80,
    };
    let new_path = path.as_ref().and_then(|rewrite| rewritten(rewrite, &head.path, prefix_len));
    let path = new_path.as_ref().unwrap_or(&head.path);
    let location = match port.filter(|port| *port != well_known) {
        Some(port) => format!("{to_scheme}://{host}:{port}{path}"),
        None => format!("{to_scheme}://{host}{path}"),
    };
    let mut headers = HeaderMap::with_capacity(2);
    if let Ok(location) = HeaderValue::try_from(location) {
        headers.insert(LOCATION, location);
    }
    headers.insert(DATE, date());
    Response { head: ResponseHead { status: *status, headers }, body: Body::Empty }
}

/// A fixed answer.
pub(super) fn direct(direct: &DirectResponse) -> Response<Body> {
    let DirectResponse { status, body, content_type } = direct;
    let mut headers = HeaderMap::with_capacity(2);
    if !body.is_empty() {
        headers.insert(CONTENT_TYPE, content_type.clone());
    }
    headers.insert(DATE, date());
    let body = if body.is_empty() { Body::Empty } else { Body::Full(Bytes::copy_from_slice(body)) };
    Response { head: ResponseHead { status: *status, headers }, body }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix_rewrite(matched: &str, to: &str, path: &str) -> String {
        let prefix_len = matched.trim_end_matches('/').len();
        let old = PathAndQuery::try_from(path).expect("a path");
        rewritten(&PathRewrite::Prefix(to.into()), &old, prefix_len).expect("rewritten").to_string()
    }

    #[test]
    fn prefix_rewrites_follow_the_gateway_api_table() {
        for (path, matched, to, want) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo/bar", "/foo", "/", "/bar"),
            ("/foo", "/foo", "/", "/"),
            ("/foo?a=b", "/foo", "/xyz", "/xyz?a=b"),
            ("/bar", "/", "/v1", "/v1/bar"),
        ] {
            assert_eq!(prefix_rewrite(matched, to, path), want, "{path} {matched} {to}");
        }
    }

    #[test]
    fn a_regex_rewrite_keeps_the_query() {
        let rewrite = PathRewrite::Regex {
            pattern: regex::Regex::new("^/a/(.*)$").expect("a pattern"),
            substitution: "/b/$1".into(),
        };
        let old = PathAndQuery::from_static("/a/x?q=1");
        assert_eq!(rewritten(&rewrite, &old, 0).expect("rewritten").as_str(), "/b/x?q=1");
    }
}
