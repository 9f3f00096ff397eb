//! TCPRoutes and TLSRoutes: connections that are handed on as they are.

use std::collections::HashMap;

use outrigger_config::language::{Field, List, Span, quoted};
use outrigger_config::model::{HostPattern, Match, PathMatch};

use super::route::{backends, parents};
use super::{Context, named, subdomain};
use crate::manifest::object::{Rank, RankedMatch, Route, RouteRule, Set, Spec, Traffic};
use crate::manifest::{limits, raw};

/// Everything that connects goes by one rule.
pub(in crate::manifest) fn tcp_route(context: &Context<'_, '_>, spec: &raw::TcpRouteSpec, span: Span) -> Option<Spec> {
    let raw::TcpRouteSpec { parent_refs, rules } = spec;
    let parents = parents(context, parent_refs, span)?;
    let rule = rule(context, rules, span)?;
    Some(Spec::Route(Route { parents, server_names: Vec::new(), rules: vec![rule] }))
}

/// Everything that asks for one of its names goes by one rule.
pub(in crate::manifest) fn tls_route(context: &Context<'_, '_>, spec: &raw::TlsRouteSpec, span: Span) -> Option<Spec> {
    let raw::TlsRouteSpec { parent_refs, hostnames, rules } = spec;
    let parents = parents(context, parent_refs, span)?;
    let server_names = server_names(context, hostnames, span);
    let rule = rule(context, rules, span)?;
    Some(Spec::Route(Route { parents, server_names, rules: vec![rule] }))
}

fn server_names(context: &Context<'_, '_>, field: &Field<List<String>>, owner: Span) -> Vec<Set<HostPattern>> {
    let lack = (
        "this route has no `hostnames`",
        "add the server names that callers ask for: `hostnames: [db.example.com]`; a TCPRoute takes all connections",
    );
    let Some((list, at)) = context.check.required(field, owner, lack) else { return Vec::new() };
    if list.is_empty() {
        context.error(at, lack.0, lack.1);
    }
    let mut seen: HashMap<HostPattern, Span> = HashMap::new();
    let mut out = Vec::with_capacity(list.len());
    let list = context.check.within(list, limits::MAX_SERVER_NAMES, (Some(at), "server names"));
    for (text, at) in list.iter().filter_map(Field::here) {
        let Some(pattern) = context.check.server_pattern(text, at) else { continue };
        if pattern == HostPattern::Any {
            let fix = "write names, or by suffix `*.example.com`; a TCPRoute takes all connections";
            context.error(at, "`*` is no server name", fix);
            continue;
        }
        if let Some(first) = seen.insert(pattern.clone(), at) {
            let text = (format!("the server name `{}` comes twice", quoted(text)), "remove one of the two".to_owned());
            context.check.sink().error_with(at, (first, "the first one is here"), text);
            continue;
        }
        out.push(Set { value: pattern, place: context.place(at) });
    }
    out
}

/// The one rule, which takes everything.
fn rule(context: &Context<'_, '_>, field: &Field<List<raw::TcpRouteRule>>, owner: Span) -> Option<RouteRule> {
    let lack = ("this route has no `rules`", "add `rules: [{ backendRefs: [{ name: …, port: … }] }]`");
    let (list, at) = context.check.required(field, owner, lack)?;
    let [rule] = &list[..] else {
        let message = format!("a {} has one rule, and this one has {}", context.id.kind, list.len());
        context.error(at, message, "keep one, with all backends by weight: connections cannot be told apart");
        return None;
    };
    let (raw::TcpRouteRule { name, backend_refs }, span) = rule.here()?;
    let lack = ("this rule leads nowhere", "add `backendRefs: [{ name: …, port: … }]`");
    context.check.required(backend_refs, span, lack);
    for (backend, _) in backend_refs.entries().iter().filter_map(Field::here) {
        if let Some(at) = backend.filters.span() {
            context.error(at, "filters cannot change what is not read as HTTP", "remove them");
        }
    }
    let matches = vec![RankedMatch {
        condition: Match { path: PathMatch::Any, method: None, headers: Vec::new(), query: Vec::new(), grpc: false },
        rank: Rank::default(),
    }];
    Some(RouteRule {
        name: name.here().and_then(|(text, at)| {
            named(&context.check, (text, at), ("name of a rule", subdomain)).then(|| text.as_str().into())
        }),
        matches,
        filters: Vec::new(),
        answer: None,
        backends: backends(context, backend_refs),
        mirrors: Vec::new(),
        session: None,
        traffic: Traffic::default(),
        place: context.place(span),
    })
}
