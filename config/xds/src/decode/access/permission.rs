//! Permissions: what a caller asks for.

use std::sync::Arc;

use outrigger_config::grammar;
use outrigger_config::model::{AccessOperation, GrpcOperation, HostPattern, PathMatch, ValueMatch};

use super::super::filters::unescaped;
use super::super::matching::{self, Header};
use super::super::reader::At;
use super::MAX_DEPTH;
use super::alternatives::{all, any, negated};
use super::principal::between;
use crate::encode::access::{GRPC, host_pattern};
use crate::encode::matching::method_pattern;
use crate::pb::matcher::string_matcher::MatchPattern;
use crate::pb::{matcher, rbac, route};

pub(super) fn operation(at: &At<'_>, message: &rbac::Permission, depth: usize) -> Option<Vec<AccessOperation>> {
    use rbac::permission::Rule;
    if depth > MAX_DEPTH {
        at.refuse("these conditions are too deep");
        return None;
    }
    let unsupported = |field: &str| {
        at.field(field).refuse("this is not supported; use headers, paths and ports");
        None
    };
    match message.rule.as_ref() {
        Some(Rule::Any(true)) => Some(vec![AccessOperation::default()]),
        Some(Rule::AndRules(set)) => {
            if let Some(call) = call(&set.rules) {
                return Some(vec![AccessOperation { grpc: vec![call], ..Default::default() }]);
            }
            let each = set.rules.iter().enumerate();
            let list: Vec<Option<Vec<AccessOperation>>> = each
                .map(|(index, message)| operation(&at.field("and_rules").item("rules", index), message, depth + 1))
                .collect();
            all(at, list.into_iter().collect::<Option<_>>()?)
        }
        Some(Rule::OrRules(set)) => {
            if let Some(path) = segments(&set.rules) {
                return Some(vec![AccessOperation { paths: vec![path], ..Default::default() }]);
            }
            let each = set.rules.iter().enumerate();
            let list: Vec<Option<Vec<AccessOperation>>> = each
                .map(|(index, message)| operation(&at.field("or_rules").item("rules", index), message, depth + 1))
                .collect();
            Some(any(list.into_iter().collect::<Option<_>>()?))
        }
        Some(Rule::NotRule(message)) => {
            let at = at.field("not_rule");
            let list = operation(&at, message, depth + 1)?;
            negated(&at, list)
        }
        Some(Rule::Header(message)) => header(&at.field("header"), message).map(|one| vec![one]),
        Some(Rule::UrlPath(message)) => {
            let at = at.field("url_path").field("path");
            let Some(matcher::path_matcher::Rule::Path(message)) = message.rule.as_ref() else {
                at.refuse("there is no condition");
                return None;
            };
            path(&at, message).map(|path| vec![AccessOperation { paths: vec![path], ..Default::default() }])
        }
        Some(Rule::DestinationPort(port)) => match u16::try_from(*port) {
            Ok(port) => Some(vec![AccessOperation { ports: vec![port], ..Default::default() }]),
            Err(_) => {
                at.field("destination_port").refuse("this is not a port");
                None
            }
        },
        Some(Rule::DestinationIp(_)) => unsupported("destination_ip"),
        Some(Rule::DestinationPortRange(_)) => unsupported("destination_port_range"),
        Some(Rule::Metadata(_)) => unsupported("metadata"),
        Some(Rule::RequestedServerName(_)) => unsupported("requested_server_name"),
        Some(Rule::Matcher(_)) => unsupported("matcher"),
        Some(Rule::UriTemplate(_)) => unsupported("uri_template"),
        Some(Rule::SourcedMetadata(_)) => unsupported("sourced_metadata"),
        Some(Rule::Any(false)) | None => {
            at.refuse("there is no condition");
            None
        }
    }
}

pub(super) fn header(at: &At<'_>, message: &route::HeaderMatcher) -> Option<AccessOperation> {
    use route::header_matcher::HeaderMatchSpecifier::StringMatch;
    if message.name == ":path" {
        let Some(StringMatch(inner)) = &message.header_match_specifier else {
            at.refuse("a path is matched by `url_path`");
            return None;
        };
        let _ = inner;
        at.refuse("this would be compared with the query as well; use `url_path`");
        return None;
    }
    // Hosts, whatever the port.
    if message.name == ":authority"
        && let Some(StringMatch(inner)) = &message.header_match_specifier
        && !message.invert_match
        && let Some(pattern) = host(inner)
    {
        return Some(AccessOperation { hosts: vec![pattern], ..Default::default() });
    }
    match matching::header(at, message)? {
        Header::Method(method) => Some(AccessOperation { methods: vec![method], ..Default::default() }),
        Header::Other(condition) => Some(AccessOperation { headers: vec![condition], ..Default::default() }),
    }
}

/// A host of the pattern that means it.
pub(super) fn host(message: &matcher::StringMatcher) -> Option<HostPattern> {
    match message.match_pattern.as_ref()? {
        MatchPattern::Prefix(text) if text.is_empty() => Some(HostPattern::Any),
        MatchPattern::SafeRegex(regex) => {
            let text = &regex.regex;
            let wildcard = between(text, "(?i).+\\.", "(:[0-9]+)?").map(|name| HostPattern::Wildcard(name.into()));
            let exact = between(text, "(?i)", "(:[0-9]+)?").map(|name| HostPattern::Exact(name.into()));
            let meant = |pattern: &HostPattern| host_pattern(pattern) == *text;
            wildcard.filter(meant).or_else(|| exact.filter(meant))
        }
        _ => None,
    }
}

pub(super) fn path(at: &At<'_>, message: &matcher::StringMatcher) -> Option<PathMatch> {
    match &message.match_pattern {
        Some(MatchPattern::Prefix(text)) if !message.ignore_case => {
            return match text.as_str() {
                "" => Some(PathMatch::Any),
                "/" => Some(PathMatch::Prefix("".into())),
                text => at.held(grammar::path(text)).map(|path| PathMatch::Start(path.into())),
            };
        }
        Some(MatchPattern::Exact(text)) if !message.ignore_case => {
            return at.held(grammar::path(text)).map(|path| PathMatch::Exact(path.into()));
        }
        _ => {}
    }
    match matching::string(at, message)? {
        ValueMatch::Regex(regex) => Some(PathMatch::Regex(regex)),
        ValueMatch::Exact(_) | ValueMatch::Prefix(_) | ValueMatch::Present(_) => {
            at.refuse("there is no condition");
            None
        }
    }
}

pub(super) fn url_path(message: &rbac::Permission) -> Option<&MatchPattern> {
    let Some(rbac::permission::Rule::UrlPath(path)) = &message.rule else { return None };
    let Some(matcher::path_matcher::Rule::Path(message)) = &path.rule else { return None };
    message.match_pattern.as_ref().filter(|_| !message.ignore_case)
}

/// `/v1` and what begins with `/v1/`: a prefix of whole segments. Or a choice of one: the method of a gRPC call.
pub(super) fn segments(rules: &[rbac::Permission]) -> Option<PathMatch> {
    match rules {
        [exact, start] => {
            let (Some(MatchPattern::Exact(exact)), Some(MatchPattern::Prefix(start))) =
                (url_path(exact), url_path(start))
            else {
                return None;
            };
            let same = start.strip_suffix('/') == Some(exact) && grammar::path(exact).as_ref() == Ok(exact);
            same.then(|| PathMatch::Prefix(exact.as_str().into()))
        }
        [only] => match url_path(only) {
            Some(MatchPattern::SafeRegex(regex)) => called(&regex.regex).map(PathMatch::GrpcMethod),
            _ => None,
        },
        _ => None,
    }
}

/// The method that a pattern stands for.
pub(super) fn called(text: &str) -> Option<Arc<str>> {
    let method = unescaped(text.strip_prefix(".*/")?)?;
    let fits = !method.is_empty() && method.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    (fits && method_pattern(&method) == text).then(|| method.into())
}

/// A gRPC call, as the encoder writes it.
pub(super) fn call(rules: &[rbac::Permission]) -> Option<GrpcOperation> {
    use route::header_matcher::HeaderMatchSpecifier::StringMatch;
    let [rbac::Permission { rule: Some(rbac::permission::Rule::Header(media)) }, path] = rules else { return None };
    let grpc = matches!(&media.header_match_specifier, Some(StringMatch(message))
        if !message.ignore_case && message.match_pattern == Some(MatchPattern::Prefix(GRPC.to_owned())));
    if media.name != "content-type" || media.invert_match || media.treat_missing_header_as_empty || !grpc {
        return None;
    }
    if path.rule == Some(rbac::permission::Rule::Any(true)) {
        return Some(GrpcOperation { service: None, method: None });
    }
    match url_path(path)? {
        MatchPattern::Prefix(text) => {
            let service = text.strip_prefix('/')?.strip_suffix('/')?;
            identifier(service).then(|| GrpcOperation { service: Some(service.into()), method: None })
        }
        MatchPattern::Exact(text) => {
            let (service, method) = text.strip_prefix('/')?.split_once('/')?;
            let both = identifier(service) && identifier(method);
            both.then(|| GrpcOperation { service: Some(service.into()), method: Some(method.into()) })
        }
        MatchPattern::SafeRegex(regex) => {
            called(&regex.regex).map(|method| GrpcOperation { service: None, method: Some(method) })
        }
        _ => None,
    }
}

pub(super) fn identifier(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.'))
}
