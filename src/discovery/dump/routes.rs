//! Route tables in the words of the file.

use http::{HeaderName, HeaderValue};
use outrigger_config::model;
use serde_json::{Map, Value, json};

use super::{duration, health, labels, limits, members, off_or, sessions, some, unless_secret, value};

pub(super) fn route_table(table: &model::RouteTable) -> Value {
    let model::RouteTable { name: _, hosts } = table;
    hosts
        .iter()
        .enumerate()
        .map(|(at, host)| {
            let model::VirtualHost { hostnames, rules, place: _ } = host;
            let unnamed = |rule: usize| format!("{at}/{rule}");
            let rules: Vec<Value> = rules.iter().enumerate().map(|(i, r)| rule(r, &unnamed(i))).collect();
            json!({ "hostnames": hostnames.iter().map(host_pattern).collect::<Vec<_>>(), "rules": rules })
        })
        .collect()
}

/// A hostname in the words of the file.
pub(crate) fn host_pattern(pattern: &model::HostPattern) -> String {
    match pattern {
        model::HostPattern::Any => "*".to_owned(),
        model::HostPattern::Wildcard(suffix) => format!("*.{suffix}"),
        model::HostPattern::Exact(name) => name.to_string(),
    }
}

/// `unnamed` is the name of a rule without one, which follows from its position.
fn rule(rule: &model::Rule, unnamed: &str) -> Value {
    let model::Rule {
        name,
        matches,
        filters,
        action,
        timeouts,
        retry,
        hedge: _,
        breaker: _,
        hash: _,
        session: _,
        rate_limits: _,
        global_rate_limits: _,
        criticality: _,
        external_authorization,
        place: _,
    } = rule;
    let mut filters: Vec<Value> = filters.iter().map(filter).collect();
    let mut backends = Value::Null;
    match action {
        model::Action::Forward(refs) => backends = refs.iter().map(backend_ref).collect(),
        model::Action::Redirect(redirect) => filters.push(json!({ "redirect": self::redirect(redirect) })),
        model::Action::Direct(direct) => {
            let model::DirectResponse { status, body, content_type } = direct;
            filters.push(json!({ "directResponse": {
                "status": status.as_u16(),
                "body": String::from_utf8_lossy(body),
                "contentType": value(content_type),
            } }));
        }
    }
    let forwards = !backends.is_null();
    let model::Timeouts { request, backend_request, idle } = timeouts;
    // The request timeout without a place is a default that a written value would not be the same as.
    let request = if request.place.is_some() { off_or(request.value) } else { Value::Null };
    let timeouts =
        some([("request", request), ("backendRequest", off_or(backend_request.value)), ("idle", off_or(idle.value))]);
    let mut out = some([
        ("name", if &**name == unnamed { Value::Null } else { json!(name) }),
        ("matches", matches.iter().map(self::matches).collect()),
        ("filters", json!(filters)),
        ("backendRefs", backends),
        ("timeouts", if forwards { timeouts } else { Value::Null }),
        ("retry", if forwards && retry.attempts.place.is_some() { self::retry(retry) } else { Value::Null }),
        ("externalAuthorization", if *external_authorization { Value::Null } else { json!("off") }),
    ]);
    if let Value::Object(members) = &mut out {
        members.extend(settings(rule));
    }
    out
}

/// What a rule says beside where requests go, how long they take and when they are tried again, as far as it is
/// written.
pub(crate) fn settings(rule: &model::Rule) -> Map<String, Value> {
    let model::Rule { hedge, breaker, hash, session, rate_limits, global_rate_limits, criticality, .. } = rule;
    members([
        ("hedge", hedge.as_ref().map_or(Value::Null, sessions::hedge)),
        ("circuitBreaker", breaker.as_ref().map_or(Value::Null, health::breaker)),
        ("hash", hash.iter().map(sessions::hash_key).collect()),
        ("sessionPersistence", session.as_ref().map_or(Value::Null, sessions::session)),
        ("rateLimits", rate_limits.iter().map(limits::rate_limit).collect()),
        ("globalRateLimits", global_rate_limits.iter().map(limits::global).collect()),
        ("criticality", criticality.map_or(Value::Null, |class| json!(limits::criticality(class)))),
    ])
}

fn retry(retry: &model::Retry) -> Value {
    let model::Retry {
        attempts,
        on,
        on_headers,
        non_idempotent,
        idempotency_key,
        backoff_base,
        backoff_max,
        max_pushback,
        other_locality,
        buffer,
    } = retry;
    some([
        ("attempts", json!(attempts.value)),
        ("on", on.iter().map(retry_on).collect()),
        ("headers", on_headers.iter().map(header_condition).collect()),
        ("nonIdempotent", json!(non_idempotent)),
        ("idempotencyKey", json!(idempotency_key)),
        ("backoff", json!({ "base": duration(*backoff_base), "max": duration(*backoff_max) })),
        ("maxPushback", json!(duration(*max_pushback))),
        ("otherLocality", json!(other_locality)),
        ("buffer", json!(format!("{buffer}B"))),
    ])
}

pub(super) fn header_condition(condition: &model::HeaderMatch) -> Value {
    let model::HeaderMatch { name, value } = condition;
    named(name.as_str(), value)
}

fn matches(condition: &model::Match) -> Value {
    let model::Match { path, method, headers, query, grpc } = condition;
    let mut rpc = Value::Null;
    let mut plain = Value::Null;
    match (path, grpc) {
        (model::PathMatch::Any, false) => {}
        (model::PathMatch::Any, true) => rpc = json!({}),
        (model::PathMatch::Exact(path), true) => rpc = grpc_path(path),
        (model::PathMatch::Prefix(service), true) => rpc = json!({ "service": service.trim_start_matches('/') }),
        (model::PathMatch::Exact(_) | model::PathMatch::Prefix(_), false)
        | (model::PathMatch::Start(_) | model::PathMatch::Regex(_), _) => {
            plain = path_condition(path);
        }
        (model::PathMatch::GrpcMethod(method), _) => rpc = json!({ "method": method }),
    }
    some([
        ("path", plain),
        ("grpc", rpc),
        ("method", json!(method.as_ref().map(http::Method::as_str))),
        ("headers", headers.iter().map(header_condition).collect()),
        ("query", query.iter().map(|parameter| named(&parameter.name, &parameter.value)).collect()),
    ])
}

/// A condition on a path of a kind that is written as one.
pub(super) fn path_condition(path: &model::PathMatch) -> Value {
    match path {
        model::PathMatch::Any => json!({ "prefix": "/" }),
        model::PathMatch::Exact(path) => json!({ "exact": path }),
        model::PathMatch::Prefix(path) => json!({ "prefix": or_slash(path) }),
        model::PathMatch::Start(start) => json!({ "regex": format!("{}.*", regex::escape(start)) }),
        model::PathMatch::Regex(pattern) => json!({ "regex": unanchored(pattern) }),
        model::PathMatch::GrpcMethod(method) => json!({ "regex": format!(".*/{}", regex::escape(method)) }),
    }
}

/// `/service/Method`, as a gRPC path is made.
fn grpc_path(path: &str) -> Value {
    let path = path.trim_start_matches('/');
    match path.rsplit_once('/') {
        Some((service, method)) => json!({ "service": service, "method": method }),
        None => json!({ "service": path }),
    }
}

fn or_slash(path: &str) -> &str {
    if path.is_empty() { "/" } else { path }
}

/// A pattern as it was written: it is compiled with anchors around it.
pub(super) fn unanchored(pattern: &regex::Regex) -> &str {
    let text = pattern.as_str();
    ["^(?:", "\\A(?:"]
        .iter()
        .zip([")$", ")\\z"])
        .find_map(|(start, end)| text.strip_prefix(start)?.strip_suffix(end))
        .unwrap_or(text)
}

pub(super) fn named(name: &str, condition: &model::ValueMatch) -> Value {
    match condition {
        // A condition on a credential contains the credential.
        model::ValueMatch::Exact(value) => json!({ "name": name, "exact": unless_secret(name, value) }),
        model::ValueMatch::Prefix(value) => json!({ "name": name, "prefix": unless_secret(name, value) }),
        model::ValueMatch::Regex(pattern) => {
            json!({ "name": name, "regex": unless_secret(name, unanchored(pattern)) })
        }
        model::ValueMatch::Present(present) => json!({ "name": name, "present": present }),
    }
}

/// A filter in the words of the file, credentials left out.
pub(crate) fn filter(filter: &model::Filter) -> Value {
    match filter {
        model::Filter::RequestHeaders(edit) => json!({ "requestHeaders": header_edit(edit) }),
        model::Filter::ResponseHeaders(edit) => json!({ "responseHeaders": header_edit(edit) }),
        model::Filter::UrlRewrite(rewrite) => {
            let model::UrlRewrite { hostname, path } = rewrite;
            json!({ "urlRewrite": some([
                ("hostname", json!(hostname.as_ref().map(value))),
                ("path", path.as_ref().map_or(Value::Null, path_rewrite)),
            ]) })
        }
        model::Filter::Fault(fault) => json!({ "fault": limits::fault(fault) }),
        model::Filter::Mirror(mirror) => json!({ "mirror": limits::mirror(mirror) }),
        model::Filter::Cors(cors) => {
            let model::Cors { allow_origins, allow_methods, allow_headers, expose_headers, allow_credentials, max_age } =
                &**cors;
            json!({ "cors": {
                "allowOrigins": allow_origins,
                "allowMethods": allow_methods,
                "allowHeaders": allow_headers,
                "exposeHeaders": expose_headers,
                "allowCredentials": allow_credentials,
                "maxAge": duration(*max_age),
            } })
        }
    }
}

fn header_edit(edit: &model::HeaderEdit) -> Value {
    let model::HeaderEdit { remove, set, add } = edit;
    let pairs = |pairs: &[(HeaderName, HeaderValue)]| -> Vec<Value> {
        let pair = |(name, text): &(HeaderName, HeaderValue)| json!({ "name": name.as_str(), "value": unless_secret(name.as_str(), &value(text)) });
        pairs.iter().map(pair).collect()
    };
    json!({
        "remove": remove.iter().map(HeaderName::as_str).collect::<Vec<_>>(),
        "set": pairs(set),
        "add": pairs(add),
    })
}

fn path_rewrite(rewrite: &model::PathRewrite) -> Value {
    match rewrite {
        model::PathRewrite::Full(path) => json!({ "replaceFullPath": path }),
        model::PathRewrite::Prefix(path) => json!({ "replacePrefixMatch": or_slash(path) }),
        model::PathRewrite::Regex { pattern, substitution } => {
            json!({ "regex": pattern.as_str(), "substitution": substitution })
        }
    }
}

fn redirect(redirect: &model::Redirect) -> Value {
    let model::Redirect { scheme, hostname, port, path, status } = redirect;
    some([
        ("scheme", json!(scheme)),
        ("hostname", json!(hostname)),
        ("port", json!(port)),
        ("path", path.as_ref().map_or(Value::Null, path_rewrite)),
        ("status", json!(status.as_u16())),
    ])
}

pub(super) fn backend_ref(backend: &model::BackendRef) -> Value {
    let model::BackendRef { cluster, weight, subset, filters } = backend;
    some([
        ("cluster", json!(cluster)),
        ("weight", json!(weight)),
        ("subset", labels(subset)),
        ("filters", filters.iter().map(filter).collect()),
    ])
}

/// A retry condition in the words of the file.
pub(crate) fn retry_on(condition: &model::RetryOn) -> Value {
    match condition {
        model::RetryOn::ConnectFailure => json!("connect-failure"),
        model::RetryOn::RefusedStream => json!("refused-stream"),
        model::RetryOn::Reset => json!("reset"),
        model::RetryOn::GatewayError => json!("gateway-error"),
        model::RetryOn::ServerError => json!("5xx"),
        model::RetryOn::Status(status) => json!(status),
        model::RetryOn::Grpc(code) => json!(GRPC_NAMES.get(usize::from(*code)).copied().unwrap_or("unknown")),
    }
}

/// The status names of the gRPC specification in kebab case, by code.
const GRPC_NAMES: [&str; 17] = [
    "ok",
    "cancelled",
    "unknown",
    "invalid-argument",
    "deadline-exceeded",
    "not-found",
    "already-exists",
    "permission-denied",
    "resource-exhausted",
    "failed-precondition",
    "aborted",
    "out-of-range",
    "unimplemented",
    "internal",
    "unavailable",
    "data-loss",
    "unauthenticated",
];
