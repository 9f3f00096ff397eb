//! The effective configuration as JSON, in the words of the file: every default filled in, credentials left out.
//!
//! JSON is YAML, so the dump can be loaded again; except for what was left out it means the same. Every struct
//! is taken apart field by field, so that a new setting cannot be forgotten here.

mod clusters;
mod guards;
mod health;
mod limits;
mod opaque;
mod routes;
mod sessions;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use outrigger_config::model;
use serde_json::{Map, Value, json};

use clusters::cluster;
pub(crate) use clusters::{balance_policy, cluster_protocol, fitness, labels};
use routes::{backend_ref, header_condition, route_table};
pub(crate) use routes::{filter, host_pattern, retry_on, settings};

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
        http3,
        upgrades,
        tcp,
        udp,
        proxy_protocol,
        interception,
        intercepts,
        place: _,
    } = listener;
    // Where nothing is decrypted, or nothing is HTTP, there are no requests to say anything about.
    let decrypts = tls.as_ref().is_none_or(|tls| tls.mode != model::TlsMode::Passthrough);
    let http = decrypts && !matches!(protocol, model::ListenerProtocol::Tcp | model::ListenerProtocol::Udp);
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
        model::ListenerProtocol::Tcp => "tcp",
        model::ListenerProtocol::Udp => "udp",
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
        ("clientCertHeader", if http { header } else { Value::Null }),
        ("authorization", json!(authorization)),
        ("jwt", jwt.as_ref().map_or(Value::Null, guards::listener_jwt)),
        ("externalAuthorization", json!(external_authorization)),
        ("rateLimits", rate_limits.iter().map(limits::rate_limit).collect()),
        ("http3", http3.as_ref().map_or(Value::Null, opaque::http3)),
        ("upgrades", if http { opaque::upgrades(upgrades) } else { Value::Null }),
        ("tcp", tcp.as_ref().map_or(Value::Null, opaque::tcp)),
        ("udp", udp.as_ref().map_or(Value::Null, opaque::udp)),
        ("proxyProtocol", json!(proxy_protocol.as_ref().map(opaque::proxy_protocol))),
        ("interception", interception.as_ref().map_or(Value::Null, opaque::interception)),
        ("intercepts", intercepts.iter().map(opaque::intercept).collect()),
    ])
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
