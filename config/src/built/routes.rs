//! Route tables.

use std::collections::HashSet;
use std::sync::Arc;

use http::Method;

use super::{Subject, balance, health, overload};
use crate::limits::{
    self, MAX_BACKENDS, MAX_BODY_BYTES, MAX_CONDITIONS, MAX_CORS_ENTRIES, MAX_FILTERS, MAX_HEADER_EDITS, MAX_HOSTNAMES,
    MAX_MATCH_BYTES, MAX_MATCHES, MAX_RETRY_CONDITIONS,
};
use crate::model::{
    Action, BackendRef, ClusterProtocol, Cors, DirectResponse, Filter, HeaderEdit, Match, PathMatch, PathRewrite,
    QueryMatch, Redirect, Retry, RetryOn, RouteTable, Rule, Timeouts, UrlRewrite, VirtualHost,
};
use crate::validate::{self, Wrong};

pub(super) fn table(subject: &Subject<'_>, table: &RouteTable) {
    let RouteTable { name: _, hosts } = table;
    let mut patterns = HashSet::new();
    let mut names = HashSet::new();
    for (at, VirtualHost { hostnames, rules, place: _ }) in hosts.iter().enumerate() {
        let here = format!("hosts[{at}]");
        if hostnames.is_empty() {
            subject.say(format!("{here}.hostnames"), "this host has no hostnames", "give `*` for any host");
        }
        subject.at_most(&format!("{here}.hostnames"), hostnames.len(), MAX_HOSTNAMES);
        for (number, pattern) in hostnames.iter().enumerate() {
            let field = format!("{here}.hostnames[{number}]");
            subject.virtual_host(&field, pattern);
            if !patterns.insert(pattern) {
                subject.say(field, "this hostname comes twice in the table", "put its rules under one host");
            }
        }
        for (number, rule) in rules.iter().enumerate() {
            let here = format!("{here}.rules[{number}]");
            subject.named(&format!("{here}.name"), &rule.name);
            if !names.insert(&rule.name) {
                let message = format!("a second rule of this table is named `{}`", rule.name);
                subject.say(format!("{here}.name"), message, "give it another name");
            }
            self::rule(subject, &here, rule);
        }
    }
}

fn rule(subject: &Subject<'_>, here: &str, rule: &Rule) {
    let Rule {
        name: _,
        matches,
        filters,
        action,
        timeouts,
        retry,
        hedge,
        breaker,
        hash,
        session,
        rate_limits,
        global_rate_limits,
        criticality: _,
        external_authorization: _,
        place: _,
    } = rule;
    subject.at_most(&format!("{here}.matches"), matches.len(), MAX_MATCHES);
    for (at, one) in matches.iter().enumerate() {
        self::one_match(subject, &format!("{here}.matches[{at}]"), one);
    }
    self::filters(subject, &format!("{here}.filters"), (filters, matches));
    match action {
        Action::Forward(list) => {
            backends(subject, &format!("{here}.backends"), list);
            if !matches.iter().all(|one| one.method.as_ref() == Some(&Method::CONNECT)) || matches.is_empty() {
                takes_requests(subject, &format!("{here}.backends"), list.iter().map(|backend| &backend.cluster));
            }
        }
        Action::Redirect(redirect) => self::redirect(subject, &format!("{here}.redirect"), (redirect, matches)),
        Action::Direct(direct) => self::direct(subject, &format!("{here}.direct"), direct),
    }
    let Timeouts { request, backend_request, idle } = timeouts;
    for (name, setting) in [("request", request), ("backend_request", backend_request), ("idle", idle)] {
        if let Some(value) = setting.value {
            subject.duration(&format!("{here}.timeouts.{name}"), value);
        }
    }
    self::retry(subject, &format!("{here}.retry"), retry);
    if let Some(hedge) = hedge {
        overload::hedge(subject, &format!("{here}.hedge"), hedge);
    }
    if let Some(breaker) = breaker {
        health::breaker(subject, &format!("{here}.breaker"), breaker);
    }
    balance::hash(subject, &format!("{here}.hash"), hash);
    if let Some(session) = session {
        balance::session(subject, &format!("{here}.session"), session);
    }
    overload::rate_limits(subject, &format!("{here}.rate_limits"), rate_limits);
    overload::global(subject, &format!("{here}.global_rate_limits"), global_rate_limits);
}

/// Of a tunnel only its bytes arrive, everything else is a request.
fn takes_requests<'c>(subject: &Subject<'_>, here: &str, clusters: impl Iterator<Item = &'c Arc<str>>) {
    for name in clusters {
        if subject.config.clusters.get(name).is_some_and(|cluster| cluster.protocol == ClusterProtocol::Tcp) {
            let message = format!("the cluster `{name}` takes bytes as they are, and no requests");
            subject.say(here, message, "refer to a cluster that speaks HTTP");
        }
    }
}

fn one_match(subject: &Subject<'_>, here: &str, one: &Match) {
    let Match { path, method, headers, query, grpc } = one;
    subject.path(&format!("{here}.path"), path);
    subject.header_conditions(&format!("{here}.headers"), headers);
    subject.at_most(&format!("{here}.query"), query.len(), MAX_CONDITIONS);
    for (at, QueryMatch { name, value }) in query.iter().enumerate() {
        if name.is_empty() || name.len() > MAX_MATCH_BYTES {
            subject.say(
                format!("{here}.query[{at}].name"),
                "this is not the name of a query parameter",
                "give its name",
            );
        }
        subject.value(&format!("{here}.query[{at}].value"), value);
    }
    if *grpc && method.as_ref().is_some_and(|method| *method != Method::POST) {
        subject.say(format!("{here}.method"), "this can never match: gRPC requests are always POST", "leave it out");
    }
}

fn filters(subject: &Subject<'_>, here: &str, (list, matches): (&[Filter], &[Match])) {
    subject.at_most(here, list.len(), MAX_FILTERS);
    let (mut rewrites, mut cors) = (0, 0);
    for (at, filter) in list.iter().enumerate() {
        let here = format!("{here}[{at}]");
        match filter {
            Filter::RequestHeaders(edit) | Filter::ResponseHeaders(edit) => self::edit(subject, &here, edit),
            Filter::UrlRewrite(UrlRewrite { hostname, path }) => {
                rewrites += 1;
                if let Some(hostname) = hostname {
                    let held = validate::authority(hostname.to_str().unwrap_or_default());
                    subject.same(&format!("{here}.hostname"), held, hostname);
                }
                path_rewrite(subject, &format!("{here}.path"), (path.as_ref(), matches));
            }
            Filter::Cors(policy) => {
                cors += 1;
                self::cors(subject, &here, policy);
            }
            Filter::Fault(fault) => overload::fault(subject, &here, fault),
            Filter::Mirror(mirror) => {
                overload::mirror(subject, &here, mirror);
                takes_requests(subject, &here, std::iter::once(&mirror.cluster));
            }
        }
    }
    if rewrites > 1 || cors > 1 {
        subject.say(here, "a rule has one URL rewrite and one CORS policy at most", "put both into one");
    }
}

fn edit(subject: &Subject<'_>, here: &str, edit: &HeaderEdit) {
    let HeaderEdit { remove, set, add } = edit;
    let mut removed = HashSet::new();
    for (at, name) in remove.iter().enumerate() {
        let field = format!("{here}.remove[{at}]");
        subject.editable(&field, name);
        if !removed.insert(name) {
            subject.say(field, format!("the header `{name}` comes twice"), "keep one of the two");
        }
    }
    let mut seen = HashSet::new();
    for (at, (name, _)) in set.iter().enumerate() {
        if !seen.insert(name) {
            let field = format!("{here}.set[{at}]");
            subject.say(field, format!("the header `{name}` comes twice"), "keep one of the two");
        }
    }
    for (what, list) in [("set", set), ("add", add)] {
        for (at, (name, value)) in list.iter().enumerate() {
            let field = format!("{here}.{what}[{at}]");
            subject.editable(&field, name);
            subject.header_value(&field, value);
        }
    }
    for (what, count) in [("remove", remove.len()), ("set", set.len()), ("add", add.len())] {
        subject.at_most(&format!("{here}.{what}"), count, MAX_HEADER_EDITS);
    }
}

fn path_rewrite(subject: &Subject<'_>, here: &str, (rewrite, matches): (Option<&PathRewrite>, &[Match])) {
    match rewrite {
        None => {}
        Some(PathRewrite::Full(path)) => drop(subject.held(here, validate::new_path(path))),
        Some(PathRewrite::Prefix(path)) => {
            if !path.is_empty() {
                subject.held(here, validate::new_path(path));
            }
            let by_prefix = |one: &Match| matches!(one.path, PathMatch::Prefix(_)) && !one.grpc;
            if matches.is_empty() || !matches.iter().all(by_prefix) {
                let message = "a prefix is replaced in a rule that does not match by path prefix";
                subject.say(here, message, "replace the full path, or match by a path prefix everywhere in the rule");
            }
        }
        Some(PathRewrite::Regex { pattern, substitution }) => {
            subject.pattern(here, pattern);
            subject.held(here, validate::groups_exist(substitution, pattern));
        }
    }
}

fn backends(subject: &Subject<'_>, here: &str, list: &[BackendRef]) {
    weighted(subject, here, list);
    for (at, backend) in list.iter().enumerate() {
        let here = format!("{here}[{at}].filters");
        subject.at_most(&here, backend.filters.len(), MAX_FILTERS);
        for (number, filter) in backend.filters.iter().enumerate() {
            let here = format!("{here}[{number}]");
            match filter {
                Filter::RequestHeaders(edit) | Filter::ResponseHeaders(edit) => self::edit(subject, &here, edit),
                Filter::UrlRewrite(_) | Filter::Cors(_) | Filter::Fault(_) | Filter::Mirror(_) => {
                    subject.say(here, "a backend takes only changes of headers", "move this filter to the rule");
                }
            }
        }
    }
}

/// Backends of a rule or of TLS that is handed on.
pub(super) fn weighted(subject: &Subject<'_>, here: &str, list: &[BackendRef]) {
    subject.at_most(here, list.len(), MAX_BACKENDS);
    let mut seen = HashSet::new();
    for (at, BackendRef { cluster, weight, subset, filters: _ }) in list.iter().enumerate() {
        let field = format!("{here}[{at}]");
        subject.number(&format!("{field}.weight"), u64::from(*weight), limits::BACKEND_WEIGHT);
        subject.refers(&format!("{field}.cluster"), cluster, &subject.config.clusters, "cluster");
        balance::labels(subject, &format!("{field}.subset"), subset);
        if !seen.insert((cluster, subset)) {
            subject.say(field, format!("the cluster `{cluster}` comes twice"), "keep one and add up the weights");
        }
    }
    if list.iter().all(|backend| backend.weight == 0) {
        subject.say(here, "there is no backend with a weight above 0", "give at least one a weight above 0");
    }
}

fn redirect(subject: &Subject<'_>, here: &str, (redirect, matches): (&Redirect, &[Match])) {
    let Redirect { scheme, hostname, port, path, status } = redirect;
    if let Some(scheme) = scheme
        && !matches!(&**scheme, "http" | "https")
    {
        subject.say(format!("{here}.scheme"), format!("`{scheme}` is no scheme to redirect to"), "give http or https");
    }
    if let Some(hostname) = hostname {
        subject.same(&format!("{here}.hostname"), validate::host(hostname), hostname);
    }
    if let Some(port) = port {
        subject.number(&format!("{here}.port"), u64::from(*port), limits::PORT);
    }
    if scheme.is_none() && hostname.is_none() && port.is_none() && path.is_none() {
        let message = "this redirect leads back to where the request came from";
        subject.say(here, message, "give a scheme, a hostname, a port or a path");
    }
    if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        let message = format!("{} is not the status of a redirect", status.as_u16());
        subject.say(format!("{here}.status"), message, "give 301, 302, 303, 307 or 308");
    }
    path_rewrite(subject, &format!("{here}.path"), (path.as_ref(), matches));
}

fn direct(subject: &Subject<'_>, here: &str, direct: &DirectResponse) {
    let DirectResponse { status, body, content_type } = direct;
    subject.number(&format!("{here}.status"), u64::from(status.as_u16()), limits::DIRECT_STATUS);
    if body.len() > MAX_BODY_BYTES {
        let fix = format!("use at most {MAX_BODY_BYTES} bytes, or serve it from a backend");
        subject.say(format!("{here}.body"), "this body is too long", fix);
    }
    // RFC 9110 sections 15.3.5, 15.3.6 and 15.4.5.
    if matches!(status.as_u16(), 204 | 205 | 304) && !body.is_empty() {
        let message = format!("a response with status {} has no body", status.as_u16());
        subject.say(format!("{here}.body"), message, "leave it out");
    }
    subject.header_value(&format!("{here}.content_type"), content_type);
}

fn cors(subject: &Subject<'_>, here: &str, cors: &Cors) {
    let Cors { allow_origins, allow_methods, allow_headers, expose_headers, allow_credentials, max_age } = cors;
    if allow_origins.is_empty() {
        subject.say(format!("{here}.allow_origins"), "no origin is allowed", "say who may call, or leave CORS out");
    }
    for (at, origin) in allow_origins.iter().enumerate() {
        let field = format!("{here}.allow_origins[{at}]");
        subject.held(&field, validate::origin(origin));
        if &**origin == "*" && *allow_credentials {
            let message = "`*` with credentials would let every site act for the user";
            subject.say(field, message, "list the origins, or do not allow credentials");
        }
    }
    let token = |text: &Arc<str>| match Method::from_bytes(text.as_bytes()) {
        Ok(_) => Ok(()),
        Err(_) => Err(Wrong::new(format!("`{text}` is not a token"), "use letters, digits and `-`")),
    };
    let lists = [
        ("allow_origins", allow_origins),
        ("allow_methods", allow_methods),
        ("allow_headers", allow_headers),
        ("expose_headers", expose_headers),
    ];
    for (name, list) in lists {
        let field = format!("{here}.{name}");
        subject.at_most(&field, list.len(), MAX_CORS_ENTRIES);
        if name == "allow_origins" {
            continue;
        }
        for text in list {
            subject.held(&field, token(text));
        }
        if list.len() > 1 && list.iter().any(|text| &**text == "*") {
            subject.say(field, "`*` stands beside others, and it means all of them", "keep `*` alone, or list them");
        }
    }
    subject.duration_or_zero(&format!("{here}.max_age"), *max_age);
}

fn retry(subject: &Subject<'_>, here: &str, retry: &Retry) {
    let Retry {
        attempts,
        on,
        on_headers,
        non_idempotent: _,
        idempotency_key: _,
        backoff_base,
        backoff_max,
        max_pushback,
        other_locality: _,
        buffer,
    } = retry;
    subject.number(&format!("{here}.attempts"), u64::from(attempts.value), limits::RETRY_ATTEMPTS);
    subject.at_most(&format!("{here}.on"), on.len(), MAX_RETRY_CONDITIONS);
    subject.header_conditions(&format!("{here}.on_headers"), on_headers);
    subject.duration_or_zero(&format!("{here}.max_pushback"), *max_pushback);
    subject.number(&format!("{here}.buffer"), u64::from(*buffer), limits::REPLAY_BUFFER);
    for (at, condition) in on.iter().enumerate() {
        let field = format!("{here}.on[{at}]");
        match condition {
            RetryOn::ConnectFailure
            | RetryOn::RefusedStream
            | RetryOn::Reset
            | RetryOn::GatewayError
            | RetryOn::ServerError => {}
            RetryOn::Status(status) => subject.number(&field, u64::from(*status), limits::RETRY_STATUS),
            RetryOn::Grpc(code) => {
                if !(1..=16).contains(code) {
                    subject.say(field, format!("{code} is not the code of a gRPC failure"), "give one from 1 to 16");
                }
            }
        }
    }
    subject.duration(&format!("{here}.backoff_base"), *backoff_base);
    subject.duration(&format!("{here}.backoff_max"), *backoff_max);
    if backoff_base > backoff_max {
        subject.say(format!("{here}.backoff_base"), "it is above `backoff_max`", "make it smaller");
    }
}
