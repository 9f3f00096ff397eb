//! Conditions on requests.

use std::sync::Arc;

use http::{HeaderName, Method};
use outrigger_config::model::{HeaderMatch, Match, PathMatch, QueryMatch, ValueMatch};
use outrigger_config::{grammar, pattern};
use regex::Regex;

use super::reader::At;
use crate::pb::matcher::string_matcher::MatchPattern;
use crate::pb::{matcher, route};

/// A match. `grpc_method`: the method that the path stands for.
pub(super) fn route_match(at: &At<'_>, message: &route::RouteMatch, grpc_method: Option<&str>) -> Option<Match> {
    unpack!(at, message => route::RouteMatch {
        take: [case_sensitive, headers, query_parameters, grpc, path_specifier],
        ignore: [],
        refuse: [runtime_fraction, cookies, tls_context, dynamic_metadata, filter_state],
    });
    let folds = case_sensitive.as_ref().is_some_and(|flag| !flag.value);
    let path = match grpc_method {
        Some(method) => Some(PathMatch::GrpcMethod(method.into())),
        None => path(at, path_specifier.as_ref(), folds),
    };
    let mut method = None;
    let mut out = Vec::new();
    for (index, message) in headers.iter().enumerate() {
        let at = at.item("headers", index);
        match header(&at, message) {
            Some(Header::Method(found)) if method.is_none() => method = Some(found),
            Some(Header::Method(_)) => at.refuse("a second condition on the method"),
            Some(Header::Other(condition)) => out.push(condition),
            None => {}
        }
    }
    let query = query_parameters
        .iter()
        .enumerate()
        .filter_map(|(index, message)| parameter(&at.item("query_parameters", index), message));
    if let Some(route::route_match::PathSpecifier::ConnectMatcher(_)) = path_specifier {
        if method.as_ref().is_some_and(|method| *method != Method::CONNECT) {
            at.field("headers").refuse("this can never match: `connect_matcher` takes CONNECT alone");
        }
        method = Some(Method::CONNECT);
    }
    Some(Match { method, headers: out, query: query.collect(), grpc: grpc.is_some(), path: path? })
}

fn path(at: &At<'_>, specifier: Option<&route::route_match::PathSpecifier>, folds: bool) -> Option<PathMatch> {
    use route::route_match::PathSpecifier;
    let folded = |text: &str, rest: &str| {
        at.held(pattern::whole(&format!("(?i){}{rest}", regex_syntax::escape(text))).map_err(|error| error.to_string()))
            .map(PathMatch::Regex)
    };
    match specifier {
        None => {
            at.refuse("there is no condition on the path");
            None
        }
        Some(PathSpecifier::Prefix(text)) => match text.as_str() {
            "" => Some(PathMatch::Any),
            "/" => Some(PathMatch::Prefix("".into())),
            text if folds => folded(text, "(?s:.*)"),
            text => at.field("prefix").held(grammar::path(text)).map(|path| PathMatch::Start(path.into())),
        },
        Some(PathSpecifier::Path(text)) if folds => folded(text, ""),
        Some(PathSpecifier::Path(text)) => {
            at.field("path").held(grammar::path(text)).map(|path| PathMatch::Exact(path.into()))
        }
        Some(PathSpecifier::PathSeparatedPrefix(text)) if folds => folded(text, "(?s:/.*)?"),
        Some(PathSpecifier::PathSeparatedPrefix(text)) => {
            let at = at.field("path_separated_prefix");
            if text.ends_with('/') {
                at.refuse("this ends in a slash, which Envoy refuses as well");
            }
            at.held(grammar::path(text)).map(|path| PathMatch::Prefix(path.into()))
        }
        Some(PathSpecifier::SafeRegex(regex)) => {
            let at = at.field("safe_regex");
            if folds {
                at.refuse("`case_sensitive` means nothing beside a pattern; write `(?i)` into it");
            }
            self::regex(&at, regex).map(PathMatch::Regex)
        }
        // The path of CONNECT says nothing.
        Some(PathSpecifier::ConnectMatcher(_)) => Some(PathMatch::Any),
        Some(PathSpecifier::PathMatchPolicy(_)) => {
            at.field("path_match_policy").refuse("this is not supported; match by prefix, path or pattern");
            None
        }
    }
}

/// A pattern that stands for the whole value.
pub(super) fn regex(at: &At<'_>, message: &matcher::RegexMatcher) -> Option<Regex> {
    unpack!(at, message => matcher::RegexMatcher {
        take: [regex],
        ignore: [engine_type], // there is one
        refuse: [],
    });
    at.held(pattern::whole(regex).map_err(|error| error.to_string()))
}

/// What a condition on a header is about.
pub(super) enum Header {
    Method(Method),
    Other(HeaderMatch),
}

pub(super) fn header(at: &At<'_>, message: &route::HeaderMatcher) -> Option<Header> {
    use route::header_matcher::HeaderMatchSpecifier::{
        ContainsMatch, ExactMatch, PrefixMatch, PresentMatch, RangeMatch, SafeRegexMatch, StringMatch, SuffixMatch,
    };
    unpack!(at, message => route::HeaderMatcher {
        take: [name, invert_match, header_match_specifier],
        ignore: [],
        refuse: [treat_missing_header_as_empty],
    });
    let literal = |make: fn(String) -> MatchPattern, text: &str| matcher::StringMatcher {
        ignore_case: false,
        match_pattern: Some(make(text.to_owned())),
    };
    let value = match header_match_specifier {
        None => ValueMatch::Present(!invert_match),
        Some(PresentMatch(wanted)) => ValueMatch::Present(wanted != invert_match),
        Some(specifier) => {
            if *invert_match {
                at.field("invert_match").refuse("only `present_match` can be inverted");
            }
            let message = match specifier {
                StringMatch(message) => message.clone(),
                ExactMatch(text) => literal(MatchPattern::Exact, text),
                PrefixMatch(text) => literal(MatchPattern::Prefix, text),
                SuffixMatch(text) => literal(MatchPattern::Suffix, text),
                ContainsMatch(text) => literal(MatchPattern::Contains, text),
                SafeRegexMatch(regex) => matcher::StringMatcher {
                    ignore_case: false,
                    match_pattern: Some(MatchPattern::SafeRegex(regex.clone())),
                },
                RangeMatch(_) => {
                    at.field("range_match").refuse("this is not supported; use a pattern");
                    return None;
                }
                PresentMatch(wanted) => return present(at, name, *wanted != *invert_match),
            };
            string(&at.field("string_match"), &message)?
        }
    };
    if name == ":method" {
        let ValueMatch::Exact(text) = &value else {
            at.refuse("the method is matched by `exact`");
            return None;
        };
        let method = Method::from_bytes(text.as_bytes()).map_err(|_| format!("`{text}` is not a method"));
        return at.held(method).map(Header::Method);
    }
    Some(Header::Other(HeaderMatch { name: header_name(at, name)?, value }))
}

fn present(at: &At<'_>, name: &str, wanted: bool) -> Option<Header> {
    Some(Header::Other(HeaderMatch { name: header_name(at, name)?, value: ValueMatch::Present(wanted) }))
}

fn header_name(at: &At<'_>, name: &str) -> Option<HeaderName> {
    if name == ":authority" {
        return Some(http::header::HOST);
    }
    if name.starts_with(':') {
        at.field("name").refuse(format!("a condition on `{name}` is not supported"));
        return None;
    }
    let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("`{name}` is not the name of a header"));
    at.field("name").held(parsed)
}

fn parameter(at: &At<'_>, message: &route::QueryParameterMatcher) -> Option<QueryMatch> {
    use route::query_parameter_matcher::QueryParameterMatchSpecifier::{PresentMatch, StringMatch};
    unpack!(at, message => route::QueryParameterMatcher {
        take: [name, query_parameter_match_specifier],
        ignore: [],
        refuse: [],
    });
    let value = match query_parameter_match_specifier {
        None => ValueMatch::Present(true),
        Some(PresentMatch(wanted)) => ValueMatch::Present(*wanted),
        Some(StringMatch(message)) => string(&at.field("string_match"), message)?,
    };
    Some(QueryMatch { name: Arc::from(name.as_str()), value })
}

/// A condition on a value that is there.
pub(super) fn string(at: &At<'_>, message: &matcher::StringMatcher) -> Option<ValueMatch> {
    unpack!(at, message => matcher::StringMatcher { take: [ignore_case, match_pattern], ignore: [], refuse: [] });
    let as_pattern = |text: String| {
        let text = if *ignore_case { format!("(?i){text}") } else { text };
        at.held(pattern::whole(&text).map_err(|error| error.to_string())).map(ValueMatch::Regex)
    };
    let escape = regex_syntax::escape;
    match match_pattern {
        Some(MatchPattern::Exact(text)) if !ignore_case => Some(ValueMatch::Exact(Arc::from(text.as_str()))),
        Some(MatchPattern::Exact(text)) => as_pattern(escape(text)),
        Some(MatchPattern::Prefix(text)) if !ignore_case => Some(ValueMatch::Prefix(Arc::from(text.as_str()))),
        Some(MatchPattern::Prefix(text)) => as_pattern(format!("{}(?s:.*)", escape(text))),
        Some(MatchPattern::Suffix(text)) => as_pattern(format!("(?s:.*){}", escape(text))),
        Some(MatchPattern::Contains(text)) => as_pattern(format!("(?s:.*){}(?s:.*)", escape(text))),
        Some(MatchPattern::SafeRegex(regex)) => {
            if *ignore_case {
                at.field("ignore_case").refuse("this means nothing beside a pattern; write `(?i)` into it");
            }
            self::regex(&at.field("safe_regex"), regex).map(ValueMatch::Regex)
        }
        Some(MatchPattern::Custom(_)) => {
            at.field("custom").refuse("this is not supported; use another condition");
            None
        }
        None => {
            at.refuse("there is no condition");
            None
        }
    }
}
