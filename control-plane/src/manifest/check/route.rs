//! HTTPRoutes and GRPCRoutes. What they share with the rules of a proxy is brought into that form and checked there.

use std::collections::HashMap;
use std::time::Duration;

use outrigger_config::language::raw::{self as config, DurationText};
use outrigger_config::language::{CheckedRule, Field, List, Span, quoted};
use outrigger_config::model::{Action, Match, PathMatch, RetryOn};

use super::{Context, more, named, subdomain};
use crate::manifest::object::{Backend, Parent, Rank, RankedMatch, Route, RouteRule, Set, Spec, Traffic};
use crate::manifest::{Name, limits, raw};

pub(in crate::manifest) fn http_route(
    context: &Context<'_, '_>,
    spec: &raw::HttpRouteSpec,
    span: Span,
) -> Option<Spec> {
    let raw::HttpRouteSpec { parent_refs, rules } = spec;
    let parents = parents(context, parent_refs, span)?;
    let list = context.check.within(rules.entries(), limits::MAX_RULES, (rules.span(), "rules"));
    let rules = if rules.is_absent() {
        vec![http_rule(context, (&raw::HttpRouteRule::default(), span))]
    } else {
        list.iter().filter_map(Field::here).map(|rule| http_rule(context, rule)).collect()
    };
    Some(Spec::Route(Route { parents, server_names: Vec::new(), rules }))
}

pub(in crate::manifest) fn grpc_route(
    context: &Context<'_, '_>,
    spec: &raw::GrpcRouteSpec,
    span: Span,
) -> Option<Spec> {
    let raw::GrpcRouteSpec { parent_refs, rules } = spec;
    let parents = parents(context, parent_refs, span)?;
    let list = context.check.within(rules.entries(), limits::MAX_RULES, (rules.span(), "rules"));
    let rules = if rules.is_absent() {
        vec![grpc_rule(context, (&raw::GrpcRouteRule::default(), span))]
    } else {
        list.iter().filter_map(Field::here).map(|rule| grpc_rule(context, rule)).collect()
    };
    Some(Spec::Route(Route { parents, server_names: Vec::new(), rules }))
}

pub(super) fn parents(
    context: &Context<'_, '_>,
    field: &Field<List<raw::ParentReference>>,
    owner: Span,
) -> Option<Vec<Parent>> {
    let lack = (
        "this route has no `parentRefs`",
        "add the Service that it is for: `parentRefs: [{ kind: Service, name: … }]`",
    );
    let (list, at) = context.check.required(field, owner, lack)?;
    if list.is_empty() {
        context.error(at, lack.0, lack.1);
    }
    let list = context.check.within(list, limits::MAX_PARENTS, (Some(at), "parents"));
    let mut out: Vec<Parent> = Vec::with_capacity(list.len());
    for (raw, span) in list.iter().filter_map(Field::here) {
        let raw::ParentReference { group, kind, name, namespace, port, section_name } = raw;
        match (group.get().map(String::as_str), kind.get().map(String::as_str)) {
            (Some("") | None, Some("Service")) => {}
            (None | Some("gateway.networking.k8s.io"), None | Some("Gateway")) if !kind.is_bad() => {
                let fix = "write `group: \"\"`, `kind: Service`: routes of a mesh are attached to Services";
                context.error(kind.span().unwrap_or(span), "a Gateway is no parent in a mesh", fix);
                continue;
            }
            (group, kind) => {
                let message = format!(
                    "{}/{} is no parent in a mesh",
                    quoted(group.unwrap_or_default()),
                    quoted(kind.unwrap_or_default())
                );
                context.error(span, message, "write `group: \"\"`, `kind: Service`");
                continue;
            }
        }
        let (Some(name), Some(namespace)) = (context.reference(name, span), context.namespace(namespace)) else {
            continue;
        };
        let parent = Parent {
            service: Name { namespace, name },
            port: context.port(port),
            section: section_name.get().map(|name| name.as_str().into()),
            place: context.place(span),
        };
        if out.iter().any(|other| other.label() == parent.label()) {
            context.error(span, format!("the parent {} comes twice", parent.label()), "remove one of the two");
            continue;
        }
        out.push(parent);
    }
    Some(out)
}

fn http_rule(context: &Context<'_, '_>, (raw, span): (&raw::HttpRouteRule, Span)) -> RouteRule {
    let raw::HttpRouteRule { name, matches, filters, backend_refs, timeouts, retry, session_persistence } = raw;
    let mut list: List<config::Match> =
        matches.entries().iter().filter_map(Field::here).map(|one| http_match(context, one)).collect();
    if list.is_empty() {
        list.push(http_match(context, (&raw::HttpRouteMatch::default(), span)));
    }
    let mut rule = rule(context, span, (name, filters, backend_refs), list);
    for one in &mut rule.matches {
        one.rank = http_rank(&one.condition);
    }
    rule.traffic = self::timeouts(context, timeouts);
    self::retry(context, retry, &mut rule.traffic);
    rule.session = more::session(context, session_persistence);
    rule
}

fn grpc_rule(context: &Context<'_, '_>, (raw, span): (&raw::GrpcRouteRule, Span)) -> RouteRule {
    let raw::GrpcRouteRule { name, matches, filters, backend_refs, session_persistence } = raw;
    let written: Vec<_> = matches.entries().iter().filter_map(Field::here).collect();
    let mut list = List::with_capacity(written.len());
    let mut ranks = Vec::with_capacity(written.len());
    for one in &written {
        let (condition, service, method) = grpc_match(context, *one);
        list.push(condition);
        ranks.push((service, method));
    }
    if list.is_empty() {
        let (condition, service, method) = grpc_match(context, (&raw::GrpcRouteMatch::default(), span));
        list.push(condition);
        ranks.push((service, method));
    }
    for (filter, at) in filters.entries().iter().filter_map(Field::here) {
        if matches!(filter.kind.get().map(String::as_str), Some("RequestRedirect" | "URLRewrite" | "CORS")) {
            let fix = "keep RequestHeaderModifier and ResponseHeaderModifier";
            context.error(at, "a GRPCRoute has no filter of this type", fix);
        }
    }
    let mut rule = rule(context, span, (name, filters, backend_refs), list);
    for (one, (service, method)) in rule.matches.iter_mut().zip(ranks) {
        one.condition.grpc = true;
        let regex = u32::from(matches!(one.condition.path, PathMatch::Regex(_)));
        one.rank = Rank([most(service), most(method), most(one.condition.headers.len()), regex, 0, 0]);
    }
    rule.session = more::session(context, session_persistence);
    rule
}

/// Exact paths, then regular expressions, then prefixes, the longer first; then with a method, with more headers, with
/// more query parameters.
fn http_rank(one: &Match) -> Rank {
    let (class, length) = match &one.path {
        PathMatch::Exact(path) => (0, path.len()),
        PathMatch::Regex(pattern) => (1, pattern.as_str().len()),
        PathMatch::Prefix(prefix) => (2, prefix.len()),
        PathMatch::Start(start) => (2, start.len()),
        PathMatch::GrpcMethod(_) | PathMatch::Any => (3, 0),
    };
    let method = u32::from(one.method.is_none());
    Rank([class, most(length), method, most(one.headers.len()), most(one.query.len()), 0])
}

/// The larger goes first.
fn most(number: usize) -> u32 {
    u32::MAX - u32::try_from(number).unwrap_or(u32::MAX)
}

type Parts<'r> = (&'r Field<String>, &'r Field<List<raw::RouteFilter>>, &'r Field<List<raw::RouteBackendRef>>);

fn rule(
    context: &Context<'_, '_>,
    span: Span,
    (name, filters, backend_refs): Parts<'_>,
    matches: List<config::Match>,
) -> RouteRule {
    let (mirrors, copies) = (more::mirrors(context, filters), more::mirror_span(filters));
    let filters = self::filters(context, filters);
    let in_config = config::Rule { matches: Field::Here(matches, span), filters, ..config::Rule::default() };
    let CheckedRule { matches, filters, answer } = context.check.rule(&in_config);
    let backends = backends(context, backend_refs);
    if let (Some(Action::Redirect(_)), Some(at)) = (&answer, backend_refs.span()) {
        let fix = "remove `backendRefs`, or the filter RequestRedirect";
        context.error(at, "a rule that redirects has no backends", fix);
    }
    if let (Some(_), Some(at)) = (&answer, copies) {
        context.error(at, "a rule that redirects sends no copies", "remove one of the two filters");
    }
    let matches = matches.into_iter().map(|condition| RankedMatch { condition, rank: Rank::default() }).collect();
    RouteRule {
        name: name.here().and_then(|(text, at)| {
            named(&context.check, (text, at), ("name of a rule", subdomain)).then(|| text.as_str().into())
        }),
        matches,
        filters,
        answer,
        backends,
        mirrors,
        session: None,
        traffic: Traffic::default(),
        place: context.place(span),
    }
}

fn http_match(context: &Context<'_, '_>, (raw, span): (&raw::HttpRouteMatch, Span)) -> Field<config::Match> {
    let raw::HttpRouteMatch { path, headers, query_params, method } = raw;
    let root = || Field::Here(config::PathMatch::Prefix(Field::Here("/".to_owned(), span)), span);
    let path = match path {
        Field::Absent => root(),
        Field::Bad(span) => Field::Bad(*span),
        Field::Here(raw::HttpPathMatch { kind, value }, span) => {
            let value = if value.is_absent() { Field::Here("/".to_owned(), *span) } else { value.clone() };
            match context.word(kind, &["PathPrefix", "Exact", "RegularExpression"]) {
                Some("Exact") => Field::Here(config::PathMatch::Exact(value), *span),
                Some("RegularExpression") => Field::Here(config::PathMatch::Regex(value), *span),
                Some(_) => Field::Here(config::PathMatch::Prefix(value), *span),
                None => root(),
            }
        }
    };
    let method = method.clone();
    let headers = conditions(context, headers, Case::Ignored);
    let query = conditions(context, query_params, Case::Counts);
    Field::Here(config::Match { path, method, headers, query, grpc: Field::Absent }, span)
}

/// The match, and how long its service and method are.
fn grpc_match(
    context: &Context<'_, '_>,
    (raw, span): (&raw::GrpcRouteMatch, Span),
) -> (Field<config::Match>, usize, usize) {
    let raw::GrpcRouteMatch { method, headers } = raw;
    let headers = conditions(context, headers, Case::Ignored);
    let mut out = config::Match { headers, ..config::Match::default() };
    let (mut of_service, mut of_method) = (0, 0);
    match method.here() {
        None => out.grpc = Field::Here(config::GrpcMatch::default(), span),
        Some((raw::GrpcMethodMatch { kind, service, method }, at)) => {
            let length = |field: &Field<String>| field.get().map_or(0, |text| text.chars().count());
            (of_service, of_method) = (length(service), length(method));
            if service.is_absent() && method.is_absent() {
                context.error(at, "this condition names neither a service nor a method", "add one, or remove it");
            }
            if context.word(kind, &["Exact", "RegularExpression"]) == Some("RegularExpression") {
                let sound = [service, method].into_iter().all(|field| pattern(context, field));
                let part =
                    |field: &Field<String>| field.get().map_or_else(|| "[^/]+".to_owned(), |p| format!("(?:{p})"));
                if sound {
                    let whole = format!("/{}/{}", part(service), part(method));
                    out.path = Field::Here(config::PathMatch::Regex(Field::Here(whole, at)), at);
                }
            } else {
                let (service, method) = (service.clone(), method.clone());
                out.grpc = Field::Here(config::GrpcMatch { service, method }, at);
            }
        }
    }
    (Field::Here(out, span), of_service, of_method)
}

/// A pattern is looked at alone first: in a group, an unbalanced one could mean something else.
fn pattern(context: &Context<'_, '_>, field: &Field<String>) -> bool {
    let Some((text, at)) = field.here() else { return !field.is_bad() };
    let sound = regex::Regex::new(text).is_ok();
    if !sound {
        let fix = "the syntax is that of the Rust `regex` crate: like PCRE, without look-around and back-references";
        context.error(at, format!("`{}` is not a regular expression", quoted(text)), fix);
    }
    sound
}

/// Whether names that differ only in case are the same.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Case {
    Counts,
    Ignored,
}

fn conditions(
    context: &Context<'_, '_>,
    field: &Field<List<raw::NamedMatch>>,
    case: Case,
) -> Field<List<config::Condition>> {
    let mut seen: HashMap<String, Span> = HashMap::new();
    let mut out = List::new();
    for (raw::NamedMatch { kind, name, value }, span) in field.entries().iter().filter_map(Field::here) {
        let lack = ("this condition has no `value`", "add the value that it is compared with");
        context.check.required(value, span, lack);
        if let Some((text, at)) = name.here() {
            let key = if case == Case::Ignored { text.to_ascii_lowercase() } else { text.clone() };
            if let Some(first) = seen.get(&key) {
                let text = (
                    format!("a second condition on `{}` is not looked at: only the first one counts", quoted(text)),
                    "remove it".to_owned(),
                );
                context.check.sink().warning_with(at, (*first, "the first one is here"), text);
                continue;
            }
            seen.insert(key, at);
        }
        let mut condition = config::Condition { name: name.clone(), ..config::Condition::default() };
        match context.word(kind, &["Exact", "RegularExpression"]) {
            Some("RegularExpression") => condition.regex = value.clone(),
            Some(_) if !value.is_absent() => condition.exact = value.clone(),
            // Reported already.
            _ => condition.exact = Field::Bad(span),
        }
        out.push(Field::Here(condition, span));
    }
    match field.span() {
        Some(span) => Field::Here(out, span),
        None => Field::Absent,
    }
}

fn filters(context: &Context<'_, '_>, field: &Field<List<raw::RouteFilter>>) -> Field<List<config::Filter>> {
    let mut out = List::new();
    let mut seen: HashMap<&str, Span> = HashMap::new();
    for (raw, span) in field.entries().iter().filter_map(Field::here) {
        let Some((kind, filter)) = filter(context, raw, span) else { continue };
        if let Some(first) = seen.insert(kind, span) {
            let text = (format!("a second filter of type {kind} in one rule"), "put both into one".to_owned());
            context.check.sink().error_with(span, (first, "the first one is here"), text);
            continue;
        }
        out.push(Field::Here(filter, span));
    }
    if let (Some(_), Some(at)) = (seen.get("RequestRedirect"), seen.get("URLRewrite")) {
        context.error(*at, "URLRewrite and RequestRedirect stand in one rule", "keep one of the two");
    }
    match field.span() {
        Some(span) => Field::Here(out, span),
        None => Field::Absent,
    }
}

const FILTERS: [&str; 6] =
    ["RequestHeaderModifier", "ResponseHeaderModifier", "RequestRedirect", "URLRewrite", "CORS", more::MIRROR];

fn filter<'w>(context: &Context<'_, '_>, raw: &raw::RouteFilter, span: Span) -> Option<(&'w str, config::Filter)> {
    let raw::RouteFilter {
        kind,
        request_header_modifier,
        response_header_modifier,
        request_redirect,
        url_rewrite,
        cors,
        request_mirror,
    } = raw;
    context.check.required(kind, span, ("this filter has no `type`", "add its `type`, such as `type: CORS`"))?;
    let kind = context.word(kind, &FILTERS)?;
    let fields = [
        ("RequestHeaderModifier", "requestHeaderModifier", request_header_modifier.span()),
        ("ResponseHeaderModifier", "responseHeaderModifier", response_header_modifier.span()),
        ("RequestRedirect", "requestRedirect", request_redirect.span()),
        ("URLRewrite", "urlRewrite", url_rewrite.span()),
        ("CORS", "cors", cors.span()),
        (more::MIRROR, "requestMirror", request_mirror.span()),
    ];
    for (of, name, at) in fields {
        match at {
            Some(at) if of != kind => {
                let fix = format!("remove it, or write `type: {of}`");
                context.error(at, format!("`{name}` does not belong to a filter of type {kind}"), fix);
            }
            None if of == kind => {
                context.error(span, format!("this filter has no `{name}`"), format!("add `{name}`"));
                return None;
            }
            _ => {}
        }
    }
    let filter = match kind {
        "RequestHeaderModifier" => config::Filter::RequestHeaders(headers(request_header_modifier)),
        "ResponseHeaderModifier" => config::Filter::ResponseHeaders(headers(response_header_modifier)),
        "RequestRedirect" => config::Filter::Redirect(redirect(context, request_redirect)),
        "URLRewrite" => {
            let (raw::UrlRewriteFilter { hostname, path }, at) = url_rewrite.here()?;
            let rewrite = config::UrlRewrite { hostname: hostname.clone(), path: modifier(context, path) };
            config::Filter::UrlRewrite(Field::Here(rewrite, at))
        }
        // Not a filter of a rule before its backend is known.
        more::MIRROR => return None,
        _ => config::Filter::Cors(self::cors(context, cors)),
    };
    Some((kind, filter))
}

fn headers(field: &Field<raw::HeaderModifier>) -> Field<config::HeaderEdit> {
    let Some((raw::HeaderModifier { set, add, remove }, span)) = field.here() else {
        return field.span().map_or(Field::Absent, Field::Bad);
    };
    let pair = |pair: &config::HeaderPair| config::HeaderPair { name: pair.name.clone(), value: pair.value.clone() };
    let values = |field: &Field<List<config::HeaderPair>>| match field {
        Field::Absent => Field::Absent,
        Field::Bad(span) => Field::Bad(*span),
        Field::Here(list, span) => {
            let list = list.iter().filter_map(Field::here).map(|(one, at)| Field::Here(pair(one), at)).collect();
            Field::Here(config::HeaderValues::List(list), *span)
        }
    };
    Field::Here(config::HeaderEdit { set: values(set), add: values(add), remove: remove.clone() }, span)
}

fn redirect(context: &Context<'_, '_>, field: &Field<raw::RequestRedirect>) -> Field<config::Redirect> {
    let Some((raw::RequestRedirect { scheme, hostname, path, port, status_code }, span)) = field.here() else {
        return field.span().map_or(Field::Absent, Field::Bad);
    };
    let scheme = match scheme.here() {
        None => Field::Absent,
        Some((_, at)) => match context.word(scheme, &["http", "https"]) {
            Some("https") => Field::Here(config::Scheme::Https, at),
            Some(_) => Field::Here(config::Scheme::Http, at),
            None => Field::Bad(at),
        },
    };
    let (hostname, port, status) = (hostname.clone(), port.clone(), status_code.clone());
    Field::Here(config::Redirect { scheme, hostname, port, path: modifier(context, path), status }, span)
}

fn modifier(context: &Context<'_, '_>, field: &Field<raw::PathModifier>) -> Field<config::PathRewrite> {
    let Some((raw::PathModifier { kind, replace_full_path, replace_prefix_match }, span)) = field.here() else {
        return field.span().map_or(Field::Absent, Field::Bad);
    };
    context.check.required(kind, span, ("this path has no `type`", "add `type: ReplacePrefixMatch`"));
    let Some(kind) = context.word(kind, &["ReplaceFullPath", "ReplacePrefixMatch"]) else { return Field::Bad(span) };
    let full = kind == "ReplaceFullPath";
    let (own, other) =
        if full { (replace_full_path, replace_prefix_match) } else { (replace_prefix_match, replace_full_path) };
    if let Some(at) = other.span() {
        context.error(
            at,
            format!("this does not belong to a path of type {kind}"),
            "remove it, or write the other type",
        );
        return Field::Bad(span);
    }
    if own.is_absent() {
        let name = if full { "replaceFullPath" } else { "replacePrefixMatch" };
        context.error(span, format!("this path has no `{name}`"), format!("add `{name}`"));
        return Field::Bad(span);
    }
    let mut out = config::PathRewrite::default();
    if full {
        out.replace_full_path = own.clone();
    } else {
        out.replace_prefix_match = own.clone();
    }
    Field::Here(out, span)
}

fn cors(context: &Context<'_, '_>, field: &Field<raw::CorsFilter>) -> Field<config::Cors> {
    let Some((raw, span)) = field.here() else { return field.span().map_or(Field::Absent, Field::Bad) };
    let raw::CorsFilter { allow_origins, allow_credentials, allow_methods, allow_headers, expose_headers, max_age } =
        raw;
    let bounds = outrigger_config::limits::Bounds { min: 1, max: 86_400 };
    let seconds = context.check.number(max_age, bounds);
    let max_age = match (seconds, max_age.span()) {
        (Some(seconds), Some(at)) => Field::Here(DurationText(format!("{seconds}s")), at),
        _ => Field::Absent,
    };
    let cors = config::Cors {
        allow_origins: allow_origins.clone(),
        allow_methods: allow_methods.clone(),
        allow_headers: allow_headers.clone(),
        expose_headers: expose_headers.clone(),
        allow_credentials: allow_credentials.clone(),
        max_age,
    };
    Field::Here(cors, span)
}

pub(super) fn backends(context: &Context<'_, '_>, field: &Field<List<raw::RouteBackendRef>>) -> Vec<Backend> {
    let max = outrigger_config::limits::MAX_BACKENDS;
    let list = context.check.within(field.entries(), max, (field.span(), "backends"));
    let mut out: Vec<Backend> = Vec::with_capacity(list.len());
    for (raw, span) in list.iter().filter_map(Field::here) {
        let raw::RouteBackendRef { weight, filters, .. } = raw;
        if let Some(at) = more::mirror_span(filters) {
            context.error(at, "a backend has no filter of type RequestMirror", "move it to the filters of the rule");
        }
        let filters = context.check.backend_filters(&self::filters(context, filters));
        let weight = context.check.number(weight, outrigger_config::limits::BACKEND_WEIGHT).unwrap_or(1);
        let Some(backend) = backend(context, (raw, span)) else { continue };
        let backend = Backend { weight: u32::try_from(weight).unwrap_or(u32::MAX), filters, ..backend };
        let same = |other: &&mut Backend| {
            (&other.foreign, &other.service, other.port) == (&backend.foreign, &backend.service, backend.port)
        };
        match out.iter_mut().find(same) {
            Some(other) if other.filters == backend.filters => {
                other.weight = other.weight.saturating_add(backend.weight).min(MOST);
            }
            Some(_) => {
                let message = format!("{} comes twice in this rule, with different filters", backend.service);
                context.error(span, message, "keep one, or write two rules");
            }
            None => out.push(backend),
        }
    }
    out
}

/// A backend without its weight and filters.
pub(super) fn backend(context: &Context<'_, '_>, (raw, span): (&raw::RouteBackendRef, Span)) -> Option<Backend> {
    let raw::RouteBackendRef { group, kind, name, namespace, port, weight: _, filters: _ } = raw;
    let foreign = match (group.get().map_or("", String::as_str), kind.get().map_or("Service", String::as_str)) {
        ("", "Service") => None,
        (group, kind) => Some(format!("{}/{}", quoted(group), quoted(kind)).into()),
    };
    if port.is_absent() && foreign.is_none() {
        context.error(span, "this backend has no `port`", "add the number of the Service's port: `port: 8080`");
    }
    let (name, namespace) = (context.reference(name, span), context.namespace(namespace));
    let service = Name { name: name?, namespace: namespace? };
    Some(Backend {
        foreign,
        service,
        port: context.port(port),
        weight: 1,
        filters: Vec::new(),
        place: context.place(span),
    })
}

/// The largest weight of a backend.
const MOST: u32 = 1_000_000;

fn timeouts(context: &Context<'_, '_>, field: &Field<raw::RouteTimeouts>) -> Traffic {
    let empty = raw::RouteTimeouts::default();
    let raw::RouteTimeouts { request, backend_request } = field.get().unwrap_or(&empty);
    let set = |field: &Field<DurationText>| {
        let value = context.check.duration_or_zero(field)?;
        Some(Set { value, place: context.place(field.span()?) })
    };
    let out = Traffic { request: set(request), backend_request: set(backend_request), ..Traffic::default() };
    if let (Some(whole), Some(one), Some(at)) = (&out.request, &out.backend_request, backend_request.span())
        && whole.value != Duration::ZERO
        && one.value > whole.value
    {
        context.error(at, "`backendRequest` is longer than `request`", "make it shorter, or `request` longer");
    }
    out
}

fn retry(context: &Context<'_, '_>, field: &Field<raw::RouteRetry>, traffic: &mut Traffic) {
    let Some((raw::RouteRetry { codes, attempts, backoff }, span)) = field.here() else { return };
    let place = context.place(span);
    // With `retry`, connections that fail are tried again as well (GEP-1731).
    let mut on = vec![RetryOn::ConnectFailure, RetryOn::RefusedStream, RetryOn::Reset];
    let max = outrigger_config::limits::MAX_RETRY_CONDITIONS - on.len();
    for (&raw::StatusText(code), at) in
        context.check.within(codes.entries(), max, (codes.span(), "codes")).iter().filter_map(Field::here)
    {
        match u16::try_from(code) {
            Ok(code) if (400..=599).contains(&code) => {
                if !on.contains(&RetryOn::Status(code)) {
                    on.push(RetryOn::Status(code));
                }
            }
            _ => context.error(at, format!("{code} is not a status to retry"), "write a status from 400 to 599"),
        }
    }
    let number = context.check.number(attempts, outrigger_config::limits::RETRY_ATTEMPTS).unwrap_or(1);
    let at = attempts.span().map_or_else(|| place.clone(), |span| context.place(span));
    traffic.attempts = Some(Set { value: u8::try_from(number).unwrap_or(1), place: at });
    traffic.retry_on = Some(Set { value: on, place: place.clone() });
    if let Some(value) = context.check.duration(backoff) {
        let place = backoff.span().map_or(place, |span| context.place(span));
        let max = value.saturating_mul(10);
        traffic.backoff_base = Some(Set { value, place: place.clone() });
        traffic.backoff_max = Some(Set { value: max, place });
    }
}
