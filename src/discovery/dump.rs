//! The effective configuration as JSON, in the words of the file: every default filled in, credentials left out.
//!
//! JSON is YAML, so the dump can be loaded again; except for what was left out it means the same. Every struct
//! is taken apart field by field, so that a new setting cannot be forgotten here.

mod guards;
mod health;
mod limits;
mod sessions;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use outrigger_config::model;
use serde_json::{Map, Value, json};

/// The whole configuration. `assigned` are endpoints that came after it.
pub(super) fn config(config: &model::Config, assigned: impl Fn(&str) -> Option<Arc<Vec<model::Endpoint>>>) -> Value {
    let model::Config {
        node,
        admin,
        access_log,
        workers,
        drain,
        listeners,
        routes,
        clusters,
        identity,
        authorization,
        jwt_providers,
        external_authorizers,
        rate_limit_services,
        overload,
    } = config;
    let model::Node { id, service, zone } = node;
    let model::Admin { address } = admin;
    let model::Drain { accept_for, deadline } = drain;
    let admin = match address {
        // An address that others can reach was allowed when it was loaded.
        Some(address) => json!({ "address": address, "allowRemote": !address.ip().is_loopback() }),
        None => json!("off"),
    };
    let access_log = match access_log {
        model::AccessLog::Off => json!("off"),
        model::AccessLog::Stdout => json!("stdout"),
        model::AccessLog::File(path) => json!({ "path": path.display().to_string() }),
    };
    some([
        ("node", some([("id", json!(id)), ("service", json!(service)), ("zone", json!(zone))])),
        ("admin", admin),
        ("accessLog", access_log),
        ("workers", json!(workers)),
        ("drain", json!({ "acceptFor": duration(*accept_for), "deadline": duration(*deadline) })),
        ("overload", limits::overload(overload)),
        ("listeners", listeners.iter().map(listener).collect()),
        ("routes", routes.iter().map(|(name, table)| (name.to_string(), route_table(table))).collect()),
        ("clusters", by_name(clusters, |one| cluster(one, assigned(&one.name).as_deref()))),
        ("identity", identity.as_ref().map_or(Value::Null, guards::identity)),
        ("authorization", by_name(authorization, guards::authorization)),
        ("jwtProviders", by_name(jwt_providers, guards::jwt_provider)),
        ("externalAuthorizers", by_name(external_authorizers, guards::external_authorizer)),
        ("rateLimitServices", by_name(rate_limit_services, limits::service)),
    ])
}

/// Nothing where there is nothing.
fn by_name<T>(map: &BTreeMap<Arc<str>, T>, show: impl Fn(&T) -> Value) -> Value {
    if map.is_empty() {
        return Value::Null;
    }
    map.iter().map(|(name, thing)| (name.to_string(), show(thing))).collect()
}

fn listener(listener: &model::Listener) -> Value {
    let model::Listener {
        name,
        bind,
        protocol,
        routes,
        direction,
        trust,
        path,
        limits,
        tls,
        client_cert_header,
        authorization,
        jwt,
        external_authorization,
        rate_limits,
        place: _,
    } = listener;
    // Where nothing is decrypted there are no requests to say anything about.
    let decrypts = tls.as_ref().is_none_or(|tls| tls.mode != model::TlsMode::Passthrough);
    let model::PathOptions { merge_slashes, escaped_slashes } = path;
    let model::ListenerLimits {
        max_connections,
        max_head_bytes,
        max_headers,
        max_concurrent_streams,
        header_timeout,
        idle_timeout,
        stream_idle_timeout,
        max_connection_age,
        detect_timeout,
    } = limits;
    let protocol = match protocol {
        model::ListenerProtocol::Auto => "auto",
        model::ListenerProtocol::Http1 => "http1",
        model::ListenerProtocol::Http2 => "http2",
    };
    let direction = match direction {
        model::Direction::Inbound => "inbound",
        model::Direction::Outbound => "outbound",
    };
    let trust = match trust {
        model::Trust::None => json!("none"),
        model::Trust::Local => json!("local"),
        model::Trust::Hops(hops) => json!({ "hops": hops }),
    };
    let escaped_slashes = match escaped_slashes {
        model::EscapedSlashes::Keep => "keep",
        model::EscapedSlashes::Reject => "reject",
    };
    let timeouts = json!({
        "header": duration(*header_timeout),
        "idle": duration(*idle_timeout),
        "streamIdle": duration(*stream_idle_timeout),
        "detect": duration(*detect_timeout),
    });
    let header = json!(guards::client_cert_header(*client_cert_header));
    some([
        ("name", json!(name)),
        ("bind", json!(bind)),
        ("routes", json!(routes)),
        ("protocol", json!(protocol)),
        ("direction", json!(direction)),
        ("trust", trust),
        ("path", json!({ "mergeSlashes": merge_slashes, "escapedSlashes": escaped_slashes })),
        ("maxConnections", json!(max_connections)),
        ("maxHeadBytes", json!(format!("{max_head_bytes}B"))),
        ("maxHeaders", json!(max_headers)),
        ("maxConcurrentStreams", json!(max_concurrent_streams)),
        ("maxConnectionAge", json!(duration(*max_connection_age))),
        ("timeouts", timeouts),
        ("tls", tls.as_ref().map_or(Value::Null, guards::listener_tls)),
        ("clientCertHeader", if decrypts { header } else { Value::Null }),
        ("authorization", json!(authorization)),
        ("jwt", jwt.as_ref().map_or(Value::Null, guards::listener_jwt)),
        ("externalAuthorization", json!(external_authorization)),
        ("rateLimits", rate_limits.iter().map(limits::rate_limit).collect()),
    ])
}

fn route_table(table: &model::RouteTable) -> Value {
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

fn header_condition(condition: &model::HeaderMatch) -> Value {
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
fn path_condition(path: &model::PathMatch) -> Value {
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
fn unanchored(pattern: &regex::Regex) -> &str {
    let text = pattern.as_str();
    ["^(?:", "\\A(?:"]
        .iter()
        .zip([")$", ")\\z"])
        .find_map(|(start, end)| text.strip_prefix(start)?.strip_suffix(end))
        .unwrap_or(text)
}

fn named(name: &str, condition: &model::ValueMatch) -> Value {
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

fn backend_ref(backend: &model::BackendRef) -> Value {
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

fn cluster(cluster: &model::Cluster, assigned: Option<&Vec<model::Endpoint>>) -> Value {
    let model::Cluster {
        name: _,
        protocol,
        balance,
        endpoints,
        ceilings: _,
        retry_budget,
        connection,
        tls,
        dns,
        endpoint_ceilings: _,
        breakers: _,
        health_check: _,
        outlier_detection: _,
        admission: _,
        place: _,
    } = cluster;
    let model::RetryBudget { percent, min_per_second } = retry_budget;
    let model::ConnectionOptions {
        connect_timeout,
        idle_timeout,
        keepalive_interval,
        keepalive_timeout,
        max_streams,
        max_age,
    } = connection;
    let model::DnsOptions { min_ttl, max_ttl } = dns;
    let connection = json!({
        "connectTimeout": duration(*connect_timeout),
        "idleTimeout": duration(*idle_timeout),
        "keepaliveInterval": duration(*keepalive_interval),
        "keepaliveTimeout": duration(*keepalive_timeout),
        "maxStreams": max_streams,
        "maxAge": duration(*max_age),
    });
    let mut out = some([
        ("protocol", json!(cluster_protocol(*protocol))),
        ("loadBalancing", sessions::balance(balance)),
        ("retryBudget", json!({ "percent": percent, "minPerSecond": min_per_second })),
        ("connection", connection),
        ("tls", tls.as_ref().map_or(Value::Null, guards::cluster_tls)),
        ("dns", json!({ "minTtl": duration(*min_ttl), "maxTtl": duration(*max_ttl) })),
        ("endpoints", assigned.unwrap_or(endpoints).iter().map(endpoint).collect()),
    ]);
    if let Value::Object(members) = &mut out {
        members.extend(fitness(cluster));
    }
    out
}

/// What decides which endpoints are asked and how many requests are let in.
pub(crate) fn fitness(cluster: &model::Cluster) -> Map<String, Value> {
    let model::Cluster { ceilings, endpoint_ceilings, breakers, health_check, outlier_detection, admission, .. } =
        cluster;
    let model::Admission { queue, concurrency } = admission;
    members([
        ("circuitBreaker", health::circuit_breaker(ceilings, endpoint_ceilings, breakers)),
        ("healthCheck", health_check.as_ref().map_or(Value::Null, health::check)),
        ("outlierDetection", outlier_detection.as_ref().map_or(Value::Null, health::outliers)),
        ("queue", queue.as_ref().map_or(Value::Null, limits::queue)),
        ("concurrency", concurrency.as_ref().map_or(Value::Null, limits::concurrency)),
    ])
}

/// What is spoken to a cluster, in the words of the file.
pub(crate) fn cluster_protocol(protocol: model::ClusterProtocol) -> &'static str {
    match protocol {
        model::ClusterProtocol::Http1 => "http1",
        model::ClusterProtocol::Http2 => "http2",
        model::ClusterProtocol::Auto => "auto",
    }
}

/// How an endpoint is chosen, in the words of the file.
pub(crate) fn balance_policy(policy: model::BalancePolicy) -> &'static str {
    match policy {
        model::BalancePolicy::RoundRobin => "roundRobin",
        model::BalancePolicy::LeastRequest => "leastRequest",
        model::BalancePolicy::PeakEwma => "peakEwma",
        model::BalancePolicy::Random => "random",
        model::BalancePolicy::RingHash => "ringHash",
        model::BalancePolicy::Maglev => "maglev",
    }
}

fn endpoint(endpoint: &model::Endpoint) -> Value {
    let model::Endpoint { target, weight, zone, priority, labels, condition } = endpoint;
    let address = match target {
        model::Target::Address(address) => address.to_string(),
        model::Target::Name { host, port } => format!("{host}:{port}"),
    };
    some([
        ("address", json!(address)),
        ("weight", json!(weight)),
        ("zone", json!(zone)),
        ("priority", json!(priority)),
        ("labels", self::labels(labels)),
        ("condition", json!(condition.word())),
    ])
}

/// Labels as a mapping; nothing where there are none.
pub(crate) fn labels(labels: &model::Labels) -> Value {
    if labels.is_empty() {
        return Value::Null;
    }
    labels.iter().map(|(name, value)| (name.to_string(), json!(value))).collect()
}

/// An object without the members that are null or empty lists.
fn some<const N: usize>(all: [(&str, Value); N]) -> Value {
    Value::Object(members(all))
}

fn members<const N: usize>(all: [(&str, Value); N]) -> Map<String, Value> {
    let there = |value: &Value| !value.is_null() && value.as_array().is_none_or(|list| !list.is_empty());
    let there = all.into_iter().filter(|(_, value)| there(value));
    there.map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A duration as a configuration writes it, in its largest whole unit.
pub(crate) fn duration(duration: Duration) -> String {
    let micros = duration.as_micros();
    [(3_600_000_000, "h"), (60_000_000, "m"), (1_000_000, "s"), (1000, "ms")]
        .iter()
        .find(|(unit, _)| micros > 0 && micros.is_multiple_of(*unit))
        .map_or_else(
            || if micros == 0 { "0s".to_owned() } else { format!("{micros}us") },
            |(unit, name)| format!("{}{name}", micros / unit),
        )
}

fn off_or(limit: Option<Duration>) -> Value {
    json!(duration(limit.unwrap_or_default()))
}

fn value(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

/// Names of headers and parameters that carry credentials, by the words they are made of.
fn unless_secret<'a>(name: &str, value: &'a str) -> &'a str {
    const WORDS: [&str; 9] =
        ["auth", "cookie", "credential", "key", "passwd", "password", "secret", "session", "token"];
    let name = name.to_ascii_lowercase();
    if WORDS.iter().any(|word| name.contains(word)) { REDACTED } else { value }
}

const REDACTED: &str = "<redacted>";

#[cfg(test)]
mod tests;
