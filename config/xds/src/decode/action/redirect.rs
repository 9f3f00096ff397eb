//! Answers that are made here, and paths that are written anew.

use std::sync::Arc;

use http::{HeaderValue, StatusCode};
use outrigger_config::model::{DirectResponse, PathMatch, PathRewrite, Redirect};
use outrigger_config::{grammar, pattern};

use super::super::reader::At;
use super::Beside;
use crate::extensions::{RewriteExtension, RouteExtension, rewrite_extension};
use crate::pb::{core, matcher, route};
use crate::wire;

pub(super) fn own_rewrite(at: &At<'_>, own: &RewriteExtension) -> Option<PathRewrite> {
    match own.path.as_ref()? {
        rewrite_extension::Path::Full(path) => Some(PathRewrite::Full(path.as_str().into())),
        rewrite_extension::Path::Prefix(path) => Some(PathRewrite::Prefix(path.as_str().into())),
        rewrite_extension::Path::Regex(rewrite) => {
            let pattern = at.held(pattern::inside(&rewrite.pattern).map_err(|error| error.to_string()))?;
            Some(PathRewrite::Regex { pattern, substitution: rewrite.substitution.as_str().into() })
        }
    }
}

pub(super) fn regex_rewritten(at: &At<'_>, message: &matcher::RegexMatchAndSubstitute) -> Option<PathRewrite> {
    unpack!(at, message => matcher::RegexMatchAndSubstitute { take: [pattern, substitution], ignore: [], refuse: [] });
    let Some(message) = pattern else {
        at.field("pattern").refuse("there is no pattern");
        return None;
    };
    unpack!(at, message => matcher::RegexMatcher {
        take: [regex],
        ignore: [engine_type], // there is one
        refuse: [],
    });
    let pattern = at.field("pattern").held(pattern::inside(regex).map_err(|error| error.to_string()));
    let read = wire::read_substitution(substitution).ok_or_else(|| "this has a `\\` that means nothing".to_owned());
    let substitution = at.field("substitution").held(read);
    Some(PathRewrite::Regex { pattern: pattern?, substitution: substitution?.into() })
}

/// Envoy replaces the bytes that matched. Where that is not what replacing whole segments does, a pattern does it.
pub(super) fn prefix_rewritten(at: &At<'_>, new: &str, path: &PathMatch) -> Option<PathRewrite> {
    let bytes = |old: &str| {
        let pattern = pattern::inside(&format!("^{}", regex_syntax::escape(old))).map_err(|error| error.to_string());
        let pattern = at.held(pattern)?;
        Some(PathRewrite::Regex { pattern, substitution: new.replace('$', "$$").into() })
    };
    match path {
        PathMatch::Prefix(old) if old.is_empty() => bytes("/"),
        PathMatch::Prefix(_) if !new.ends_with('/') => Some(PathRewrite::Prefix(new.into())),
        PathMatch::Prefix(old) | PathMatch::Start(old) => bytes(old),
        PathMatch::Exact(_) => Some(PathRewrite::Full(new.into())),
        PathMatch::Any | PathMatch::Regex(_) | PathMatch::GrpcMethod(_) => {
            at.refuse("there is no prefix that could be replaced; use `regex_rewrite`");
            None
        }
    }
}

pub(super) fn redirect(at: &At<'_>, message: &route::RedirectAction, beside: &Beside<'_>) -> Option<Redirect> {
    use route::redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier};
    unpack!(at, message => route::RedirectAction {
        take: [host_redirect, port_redirect, response_code, scheme_rewrite_specifier, path_rewrite_specifier],
        ignore: [],
        refuse: [strip_query],
    });
    let scheme: Option<Arc<str>> = match scheme_rewrite_specifier {
        Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".into()),
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => Some(scheme.to_ascii_lowercase().into()),
        Some(SchemeRewriteSpecifier::HttpsRedirect(false)) | None => None,
    };
    let hostname = match host_redirect.as_str() {
        "" => None,
        host => at.field("host_redirect").held(grammar::host(host)),
    };
    let port = match u16::try_from(*port_redirect) {
        Ok(0) => None,
        Ok(port) => Some(port),
        Err(_) => {
            at.field("port_redirect").refuse("this is not a port");
            None
        }
    };
    let path = match (beside.own.and_then(|own| own.rewrite.as_ref()), path_rewrite_specifier) {
        (Some(own), _) => own_rewrite(at, own),
        (None, None) => None,
        (None, Some(PathRewriteSpecifier::PathRedirect(path))) => {
            if path.contains('?') {
                at.field("path_redirect").refuse("the query of the request is kept; leave out `?` and what follows");
            }
            Some(PathRewrite::Full(path.as_str().into()))
        }
        (None, Some(PathRewriteSpecifier::PrefixRewrite(prefix))) => {
            prefix_rewritten(&at.field("prefix_rewrite"), prefix, beside.path)
        }
        (None, Some(PathRewriteSpecifier::RegexRewrite(regex))) => regex_rewritten(&at.field("regex_rewrite"), regex),
        (None, Some(PathRewriteSpecifier::PathRewrite(_))) => {
            at.field("path_rewrite").refuse("this is not supported; use `path_redirect`");
            None
        }
    };
    let status = match RedirectResponseCode::try_from(*response_code) {
        Ok(RedirectResponseCode::MovedPermanently) => StatusCode::MOVED_PERMANENTLY,
        Ok(RedirectResponseCode::Found) => StatusCode::FOUND,
        Ok(RedirectResponseCode::SeeOther) => StatusCode::SEE_OTHER,
        Ok(RedirectResponseCode::TemporaryRedirect) => StatusCode::TEMPORARY_REDIRECT,
        Ok(RedirectResponseCode::PermanentRedirect) => StatusCode::PERMANENT_REDIRECT,
        Err(_) => {
            at.field("response_code").refuse("this is not the status of a redirect");
            return None;
        }
    };
    Some(Redirect { scheme, hostname, port, path, status })
}

pub(super) fn direct(
    at: &At<'_>,
    message: &route::DirectResponseAction,
    own: Option<&RouteExtension>,
) -> Option<DirectResponse> {
    use core::data_source::Specifier;
    unpack!(at, message => route::DirectResponseAction { take: [status, body], ignore: [], refuse: [body_format] });
    let body: Arc<[u8]> = match body.as_ref().map(|source| &source.specifier) {
        None | Some(None) => Arc::from([]),
        Some(Some(Specifier::InlineBytes(bytes))) => Arc::from(&bytes[..]),
        Some(Some(Specifier::InlineString(text))) => Arc::from(text.as_bytes()),
        Some(Some(Specifier::Filename(_) | Specifier::EnvironmentVariable(_))) => {
            at.field("body").refuse("the body travels with the route; give it as `inline_string`");
            return None;
        }
    };
    let code = u16::try_from(*status).ok().and_then(|status| StatusCode::from_u16(status).ok());
    let Some(status) = code else {
        at.field("status").refuse(format!("{status} is not a status"));
        return None;
    };
    // As Envoy says it.
    let media = own.and_then(|own| own.content_type.as_deref()).unwrap_or("text/plain");
    let content_type = at.held(HeaderValue::from_str(media).map_err(|_| "this is not a media type".to_owned()))?;
    Some(DirectResponse { status, body, content_type })
}
