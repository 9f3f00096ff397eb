//! Conditions of rules.

use std::sync::Arc;

use http::{HeaderName, Method};

use super::names::{self, Anchors};
use super::{Check, headers};
use crate::limits::{MAX_CONDITIONS, MAX_MATCH_BYTES, MAX_MATCHES};
use crate::model::{HeaderMatch, Match, PathMatch, QueryMatch, ValueMatch};
use crate::raw;
use crate::read::{Field, List};
use crate::source::Span;
use crate::text::quoted;

/// `merges`: every listener that leads here merges slashes.
pub(super) fn matches(check: &Check<'_, '_>, field: &Field<List<raw::Match>>, merges: bool) -> Vec<Match> {
    let list = check.within(field.entries(), MAX_MATCHES, (field.span(), "matches"));
    list.iter().filter_map(Field::here).map(|(raw, span)| one(check, (raw, span), merges)).collect()
}

fn one(check: &Check<'_, '_>, (raw, span): (&raw::Match, Span), merges: bool) -> Match {
    let raw::Match { path, method, headers, query, grpc } = raw;
    if let (Some(at), false) = (grpc.span(), path.is_absent()) {
        let fix = "keep one of the two: `grpc` is a condition on the path";
        check.error(at, "`grpc` and `path` stand in one match", fix);
    }
    let method = method.here().and_then(|(text, at)| self::method(check, text, at).map(|method| (method, at)));
    let path = match (path.get(), grpc.here()) {
        (Some(path), _) => self::path(check, path, merges),
        (None, Some((grpc, _))) => {
            if let Some((_, at)) = method.as_ref().filter(|(method, _)| *method != Method::POST) {
                check.error(*at, "this can never match: gRPC requests are always POST", "remove `method`");
            }
            grpc_path(check, grpc)
        }
        (None, None) => PathMatch::Any,
    };
    let out = Match {
        path,
        method: method.map(|(method, _)| method),
        headers: header_conditions(check, headers),
        query: query_conditions(check, query),
        grpc: !grpc.is_absent(),
    };
    let raw::Match { path, method, headers, query, grpc } = raw;
    let written = [path.span(), method.span(), headers.span(), query.span(), grpc.span()];
    if written.iter().all(Option::is_none) {
        check.warning(span, "this match has no condition: the rule takes everything", "remove `matches`, or add one");
    }
    out
}

pub(super) fn method(check: &Check<'_, '_>, text: &str, span: Span) -> Option<Method> {
    if text.bytes().any(|b| b.is_ascii_lowercase()) {
        let message = format!("the method `{}` is not in capitals, and methods are case-sensitive", quoted(text));
        check.error(span, message, format!("write `{}`", quoted(&text.to_ascii_uppercase())));
        return None;
    }
    let method = Method::from_bytes(text.as_bytes()).ok();
    if method.is_none() {
        let message = format!("`{}` is not a method", quoted(text));
        check.error(span, message, "write a method such as `GET`; leave the field out for any");
    }
    method
}

pub(super) fn path(check: &Check<'_, '_>, raw: &raw::PathMatch, merges: bool) -> PathMatch {
    let (raw::PathMatch::Prefix(field) | raw::PathMatch::Exact(field) | raw::PathMatch::Regex(field)) = raw;
    let Some((text, span)) = field.here() else { return PathMatch::Any };
    if let raw::PathMatch::Regex(_) = raw {
        return check.pattern(text, Anchors::Whole, span).map_or(PathMatch::Any, PathMatch::Regex);
    }
    let Some(normal) = check.parsed(names::path(text), span) else { return PathMatch::Any };
    if merges && text.contains("//") {
        check.warning(
            span,
            format!("the path `{}` never matches: `//` is merged before", quoted(text)),
            "write single slashes, or set `path.mergeSlashes: false` on the listener",
        );
    }
    match raw {
        raw::PathMatch::Exact(_) => PathMatch::Exact(normal.into()),
        raw::PathMatch::Prefix(_) | raw::PathMatch::Regex(_) => PathMatch::Prefix(normal.trim_end_matches('/').into()),
    }
}

fn grpc_path(check: &Check<'_, '_>, raw::GrpcMatch { service, method }: &raw::GrpcMatch) -> PathMatch {
    let service = identifier(check, service, "shop.Payments");
    let method = identifier(check, method, "Charge");
    match (service, method) {
        (Some(service), Some(method)) => PathMatch::Exact(format!("/{service}/{method}").into()),
        (Some(service), None) => PathMatch::Prefix(format!("/{service}").into()),
        (None, Some(method)) => PathMatch::GrpcMethod(Arc::from(method)),
        (None, None) => PathMatch::Any,
    }
}

/// A name as in a .proto file; with dots where the example has them.
pub(super) fn identifier<'f>(check: &Check<'_, '_>, field: &'f Field<String>, example: &str) -> Option<&'f str> {
    let (text, span) = field.here()?;
    let dots = example.contains('.');
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || (dots && c == '.');
    if text.len() > MAX_MATCH_BYTES || !text.chars().all(allowed) || text.split('.').any(str::is_empty) {
        let message = format!("`{}` is not a gRPC name", quoted(text));
        check.error(span, message, format!("write it as in the .proto file, such as `{example}`"));
        return None;
    }
    Some(text)
}

pub(super) fn header_conditions(check: &Check<'_, '_>, field: &Field<List<raw::Condition>>) -> Vec<HeaderMatch> {
    let list = check.within(field.entries(), MAX_CONDITIONS, (field.span(), "header conditions"));
    let each = list.iter().filter_map(Field::here).filter_map(|(raw, span)| {
        let value = value(check, raw, span);
        let lack = ("this condition has no `name`", "add the name of a header: `name: x-version`");
        let (name, at) = check.required(&raw.name, span, lack)?;
        let name = header_name(check, name, at)?;
        Some(HeaderMatch { name, value: value? })
    });
    each.collect()
}

/// The name of a header that is read.
pub(super) fn header_name(check: &Check<'_, '_>, name: &str, at: Span) -> Option<HeaderName> {
    if name.starts_with(':') {
        let fix = match name {
            ":authority" => "write `host`, which means the authority on every protocol",
            ":method" => "use the `method` condition",
            ":path" => "use the `path` condition",
            _ => "use a regular header",
        };
        check.error(at, format!("`{}` is not a header", quoted(name)), fix);
        return None;
    }
    check.parsed(headers::name(name), at)
}

fn query_conditions(check: &Check<'_, '_>, field: &Field<List<raw::Condition>>) -> Vec<QueryMatch> {
    let list = check.within(field.entries(), MAX_CONDITIONS, (field.span(), "query conditions"));
    let each = list.iter().filter_map(Field::here).filter_map(|(raw, span)| {
        let value = value(check, raw, span);
        let lack = ("this condition has no `name`", "add the name of a query parameter: `name: v`");
        let (name, at) = check.required(&raw.name, span, lack)?;
        let name = check.parsed(names::parameter(name), at)?;
        Some(QueryMatch { name, value: value? })
    });
    each.collect()
}

fn value(check: &Check<'_, '_>, raw: &raw::Condition, span: Span) -> Option<ValueMatch> {
    let raw::Condition { name, exact, prefix, regex, present } = raw;
    let written = [exact.span(), prefix.span(), regex.span(), present.span()];
    let mut written = written.into_iter().flatten();
    match (written.next(), written.next()) {
        (None, _) => {
            let at = name.span().unwrap_or(span);
            check.error(
                at,
                "this condition does not say what it wants",
                "add one of `exact`, `prefix`, `regex` or `present: true`",
            );
            return None;
        }
        (Some(_), Some(second)) => {
            let fix = "keep one; for two conditions on one header write two entries";
            check.error(second, "a condition is exactly one of `exact`, `prefix`, `regex` and `present`", fix);
            return None;
        }
        (Some(_), None) => {}
    }
    let literal = |field: &Field<String>| field.here().and_then(|(text, span)| literal(check, text, span));
    if let Some((pattern, span)) = regex.here() {
        return check.pattern(pattern, Anchors::Whole, span).map(ValueMatch::Regex);
    }
    let exact = literal(exact).map(ValueMatch::Exact);
    exact
        .or_else(|| literal(prefix).map(ValueMatch::Prefix))
        .or_else(|| present.get().copied().map(ValueMatch::Present))
}

/// A value that is compared.
pub(super) fn literal(check: &Check<'_, '_>, text: &str, span: Span) -> Option<Arc<str>> {
    if text.len() > MAX_MATCH_BYTES {
        check.error(span, "this value is too long", format!("use at most {MAX_MATCH_BYTES} bytes"));
        return None;
    }
    Some(Arc::from(text))
}

/// A rule with `replacePrefixMatch` must know in every match which prefix was matched. No path condition is the
/// prefix `/`.
pub(super) fn require_prefixes(check: &Check<'_, '_>, matches: &mut Vec<Match>, at: Span) {
    if matches.is_empty() {
        let (path, method) = (PathMatch::Any, None);
        matches.push(Match { path, method, headers: Vec::new(), query: Vec::new(), grpc: false });
    }
    for one in matches.iter_mut() {
        match (&one.path, one.grpc) {
            (PathMatch::Prefix(_), false) => {}
            (PathMatch::Any, false) => one.path = PathMatch::Prefix(Arc::from("")),
            (PathMatch::Exact(_) | PathMatch::Start(_) | PathMatch::Regex(_) | PathMatch::GrpcMethod(_), _)
            | (PathMatch::Prefix(_) | PathMatch::Any, true) => {
                check.error(
                    at,
                    "`replacePrefixMatch` in a rule that does not match by path prefix",
                    "use `replaceFullPath`, or write `path: { prefix: … }` in every match of the rule",
                );
                return;
            }
        }
    }
}
