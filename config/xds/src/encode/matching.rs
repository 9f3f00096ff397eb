//! Conditions on requests.

use http::Method;
use outrigger_config::model::{HeaderMatch, Match, PathMatch, QueryMatch, ValueMatch};
use outrigger_config::pattern;

use super::Form;
use crate::pb::matcher::string_matcher::MatchPattern;
use crate::pb::{matcher, route};
use crate::wire;

/// What a match is in Envoy's words.
pub(super) fn route_match(one: &Match, form: Form) -> route::RouteMatch {
    let Match { path, method, headers, query, grpc } = one;
    let connect = *path == PathMatch::Any && method.as_ref() == Some(&Method::CONNECT) && form != Form::Grpc;
    let method = method
        .as_ref()
        .map(|method| string_header(":method", wire::string(MatchPattern::Exact(method.as_str().to_owned())), false));
    route::RouteMatch {
        path_specifier: Some(if connect {
            // Envoy finds CONNECT by this alone.
            route::route_match::PathSpecifier::ConnectMatcher(route::route_match::ConnectMatcher {})
        } else {
            path_specifier(path, form)
        }),
        headers: method.into_iter().chain(headers.iter().map(header)).collect(),
        query_parameters: query.iter().map(parameter).collect(),
        // A gRPC client sends nothing else.
        grpc: (*grpc && form != Form::Grpc).then_some(route::route_match::GrpcRouteMatchOptions {}),
        ..Default::default()
    }
}

/// Everything.
pub(super) fn everything() -> route::RouteMatch {
    route::RouteMatch {
        path_specifier: Some(route::route_match::PathSpecifier::Prefix(String::new())),
        ..Default::default()
    }
}

fn path_specifier(path: &PathMatch, form: Form) -> route::route_match::PathSpecifier {
    use route::route_match::PathSpecifier::{Path, PathSeparatedPrefix, Prefix, SafeRegex};
    match path {
        PathMatch::Any => Prefix(String::new()),
        PathMatch::Exact(path) => Path(path.to_string()),
        PathMatch::Prefix(prefix) if prefix.is_empty() => Prefix("/".to_owned()),
        // gRPC knows no prefixes of whole segments; those of its own methods are services.
        PathMatch::Prefix(prefix) if form == Form::Grpc => {
            SafeRegex(wire::regex(&format!("{}(/.*)?", regex_syntax::escape(prefix))))
        }
        PathMatch::Prefix(prefix) => PathSeparatedPrefix(prefix.to_string()),
        PathMatch::Start(start) => Prefix(start.to_string()),
        PathMatch::Regex(regex) => SafeRegex(wire::regex(pattern::text(regex))),
        PathMatch::GrpcMethod(method) => SafeRegex(wire::regex(&method_pattern(method))),
    }
}

/// The method of a gRPC call in any service.
pub(crate) fn method_pattern(method: &str) -> String {
    format!(".*/{}", regex_syntax::escape(method))
}

pub(super) fn header(HeaderMatch { name, value }: &HeaderMatch) -> route::HeaderMatcher {
    // The authority is what `host` means, on every protocol.
    let name = if *name == http::header::HOST { ":authority" } else { name.as_str() };
    match value {
        ValueMatch::Present(wanted) => route::HeaderMatcher {
            name: name.to_owned(),
            invert_match: !wanted,
            header_match_specifier: Some(route::header_matcher::HeaderMatchSpecifier::PresentMatch(true)),
            ..Default::default()
        },
        value => string_header(name, string(value), false),
    }
}

pub(super) fn string_header(name: &str, condition: matcher::StringMatcher, invert: bool) -> route::HeaderMatcher {
    route::HeaderMatcher {
        name: name.to_owned(),
        invert_match: invert,
        header_match_specifier: Some(route::header_matcher::HeaderMatchSpecifier::StringMatch(condition)),
        ..Default::default()
    }
}

fn parameter(QueryMatch { name, value }: &QueryMatch) -> route::QueryParameterMatcher {
    use route::query_parameter_matcher::QueryParameterMatchSpecifier::{PresentMatch, StringMatch};
    let condition = match value {
        ValueMatch::Present(wanted) => PresentMatch(*wanted),
        value => StringMatch(string(value)),
    };
    route::QueryParameterMatcher { name: name.to_string(), query_parameter_match_specifier: Some(condition) }
}

/// A condition on a value that is there.
pub(super) fn string(value: &ValueMatch) -> matcher::StringMatcher {
    wire::string(match value {
        ValueMatch::Exact(text) => MatchPattern::Exact(text.to_string()),
        ValueMatch::Prefix(text) => MatchPattern::Prefix(text.to_string()),
        ValueMatch::Regex(regex) => MatchPattern::SafeRegex(wire::regex(pattern::text(regex))),
        // Anything.
        ValueMatch::Present(_) => MatchPattern::Prefix(String::new()),
    })
}
