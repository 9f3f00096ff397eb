//! Values with a grammar of their own: conditions, paths, patterns.

use std::collections::HashSet;

use http::{HeaderName, HeaderValue};
use regex::Regex;

use super::Subject;
use crate::limits::{MAX_CONDITIONS, MAX_MATCH_BYTES, MAX_PATTERN_BYTES};
use crate::model::{Action, Config, Filter, HeaderMatch, HostPattern, PathMatch, PathRewrite, ValueMatch};
use crate::validate;

/// How many different patterns there are.
pub(super) fn patterns(config: &Config) -> usize {
    let mut seen: HashSet<&str> = HashSet::new();
    for rule in config.routes.values().flat_map(|table| &table.hosts).flat_map(|host| &host.rules) {
        for one in &rule.matches {
            path_pattern(&one.path, &mut seen);
            let values = one.headers.iter().map(|header| &header.value).chain(one.query.iter().map(|q| &q.value));
            values.for_each(|value| value_pattern(value, &mut seen));
        }
        for filter in &rule.filters {
            if let Filter::UrlRewrite(rewrite) = filter {
                rewrite_pattern(rewrite.path.as_ref(), &mut seen);
            }
        }
        if let Action::Redirect(redirect) = &rule.action {
            rewrite_pattern(redirect.path.as_ref(), &mut seen);
        }
    }
    for rule in config.authorization.values().flat_map(|policy| &policy.rules) {
        for operation in &rule.to {
            operation.paths.iter().chain(&operation.not_paths).for_each(|path| path_pattern(path, &mut seen));
            operation.headers.iter().for_each(|header| value_pattern(&header.value, &mut seen));
        }
        rule.claims.iter().flat_map(|claim| &claim.values).for_each(|value| value_pattern(value, &mut seen));
    }
    seen.len()
}

fn path_pattern<'c>(path: &'c PathMatch, seen: &mut HashSet<&'c str>) {
    if let PathMatch::Regex(pattern) = path {
        seen.insert(pattern.as_str());
    }
}

fn value_pattern<'c>(value: &'c ValueMatch, seen: &mut HashSet<&'c str>) {
    if let ValueMatch::Regex(pattern) = value {
        seen.insert(pattern.as_str());
    }
}

fn rewrite_pattern<'c>(rewrite: Option<&'c PathRewrite>, seen: &mut HashSet<&'c str>) {
    if let Some(PathRewrite::Regex { pattern, .. }) = rewrite {
        seen.insert(pattern.as_str());
    }
}

impl Subject<'_> {
    pub(super) fn host(&self, field: &str, pattern: &HostPattern) {
        let text = match pattern {
            HostPattern::Any => return,
            HostPattern::Wildcard(suffix) => format!("*.{suffix}"),
            HostPattern::Exact(host) => host.to_string(),
        };
        self.same(field, validate::host_pattern(&text), pattern);
    }

    /// A hostname of a virtual host, which may have a port.
    pub(super) fn virtual_host(&self, field: &str, pattern: &HostPattern) {
        match pattern {
            HostPattern::Exact(host) => self.same(field, validate::virtual_host(host), pattern),
            HostPattern::Any | HostPattern::Wildcard(_) => self.host(field, pattern),
        }
    }

    pub(super) fn path(&self, field: &str, path: &PathMatch) {
        match path {
            PathMatch::Any => {}
            PathMatch::Exact(text) => self.same(field, validate::path(text), &text.to_string()),
            PathMatch::Prefix(text) if text.is_empty() => {}
            PathMatch::Prefix(text) => {
                self.same(field, validate::path(text), &text.to_string());
                if text.ends_with('/') {
                    self.say(field, "this prefix ends in a slash", "leave it out: prefixes match by whole segments");
                }
            }
            PathMatch::Start(text) => self.same(field, validate::path(text), &text.to_string()),
            PathMatch::Regex(pattern) => self.whole_pattern(field, pattern),
            PathMatch::GrpcMethod(method) => self.identifier(field, method),
        }
    }

    /// A name as in a .proto file.
    pub(super) fn identifier(&self, field: &str, text: &str) {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        if text.len() > MAX_MATCH_BYTES || !text.chars().all(allowed) || text.split('.').any(str::is_empty) {
            self.say(field, format!("`{text}` is not a gRPC name"), "give it as in the .proto file");
        }
    }

    /// A pattern that stands for the whole value.
    pub(super) fn whole_pattern(&self, field: &str, pattern: &Regex) {
        self.pattern(field, pattern);
        let text = pattern.as_str();
        if !(text.starts_with("^(?:") && text.ends_with(")$")) {
            self.say(field, "this pattern is not anchored at both ends", "make it with `outrigger_config::pattern`");
        }
    }

    pub(super) fn pattern(&self, field: &str, pattern: &Regex) {
        // The anchors are ours.
        if pattern.as_str().len() > MAX_PATTERN_BYTES + "^(?:\n)$".len() {
            self.say(field, "the regular expression is too long", format!("use at most {MAX_PATTERN_BYTES} bytes"));
        }
    }

    pub(super) fn header_conditions(&self, field: &str, list: &[HeaderMatch]) {
        self.at_most(field, list.len(), MAX_CONDITIONS);
        for (at, HeaderMatch { name: _, value }) in list.iter().enumerate() {
            self.value(&format!("{field}[{at}]"), value);
        }
    }

    pub(super) fn value(&self, field: &str, value: &ValueMatch) {
        match value {
            ValueMatch::Exact(text) | ValueMatch::Prefix(text) => {
                if text.len() > MAX_MATCH_BYTES {
                    self.say(field, "this value is too long", format!("use at most {MAX_MATCH_BYTES} bytes"));
                }
            }
            ValueMatch::Regex(pattern) => self.whole_pattern(field, pattern),
            ValueMatch::Present(_) => {}
        }
    }

    /// A header that a filter may change.
    pub(super) fn editable(&self, field: &str, name: &HeaderName) {
        self.held(field, validate::editable(name.as_str()));
    }

    /// A header's value as a filter sets it.
    pub(super) fn header_value(&self, field: &str, value: &HeaderValue) {
        match value.to_str() {
            Ok(text) => drop(self.held(field, validate::header_value(text))),
            Err(_) => self.say(field, "this value has bytes beyond printable ASCII", "encode them"),
        }
    }
}
