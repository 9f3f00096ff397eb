//! HTTP/3, tunnels, and what is handed on without being understood, in the words of the file.

use outrigger_config::model;
use serde_json::{Value, json};

use super::routes::backend_ref;
use super::{duration, some};

pub(super) fn http3(http3: &model::Http3) -> Value {
    let model::Http3 { advertise, max_age, early_data } = http3;
    let early_data = match early_data {
        model::EarlyData::Off => "off",
        model::EarlyData::SafeMethods => "safeMethods",
    };
    some([("advertise", json!(advertise)), ("maxAge", json!(duration(*max_age))), ("earlyData", json!(early_data))])
}

pub(super) fn upgrades(upgrades: &model::Upgrades) -> Value {
    let model::Upgrades { allow, connect, idle_timeout, max_duration, max_tunnels, max_per_caller } = upgrades;
    let connect = match connect {
        model::Connect::Deny => "deny",
        model::Connect::Route => "route",
        model::Connect::Tunnel => "tunnel",
    };
    // An empty list means something: nothing is let through.
    json!({
        "allow": allow,
        "connect": connect,
        "idleTimeout": duration(*idle_timeout),
        "maxDuration": duration(*max_duration),
        "maxTunnels": max_tunnels,
        "maxTunnelsPerCaller": max_per_caller,
    })
}

pub(super) fn tcp(tcp: &model::TcpForwarding) -> Value {
    let model::TcpForwarding { backends, idle_timeout, place: _ } = tcp;
    let backends: Value = backends.iter().map(backend_ref).collect();
    json!({ "backendRefs": backends, "idleTimeout": duration(*idle_timeout) })
}

pub(super) fn udp(udp: &model::UdpForwarding) -> Value {
    let model::UdpForwarding { backends, idle_timeout, max_sessions, place: _ } = udp;
    let backends: Value = backends.iter().map(backend_ref).collect();
    json!({ "backendRefs": backends, "idleTimeout": duration(*idle_timeout), "maxSessions": max_sessions })
}

pub(super) fn proxy_protocol(wanted: &model::ProxyProtocol) -> Value {
    let model::ProxyProtocol { mode, from } = wanted;
    let mode = match mode {
        model::ProxyHeader::Strict => "strict",
        model::ProxyHeader::Optional => "optional",
    };
    if from.is_empty() {
        return json!(mode);
    }
    json!({ "mode": mode, "from": from.iter().map(ToString::to_string).collect::<Vec<_>>() })
}

pub(super) fn proxy_version(version: model::ProxyVersion) -> &'static str {
    match version {
        model::ProxyVersion::V1 => "v1",
        model::ProxyVersion::V2 => "v2",
    }
}

pub(super) fn interception(interception: &model::Interception) -> Value {
    let model::Interception { mode, unknown } = interception;
    let mode = match mode {
        model::InterceptionMode::Redirect => "redirect",
        model::InterceptionMode::Tproxy => "tproxy",
    };
    let unknown = match unknown {
        model::Unknown::Serve => "serve",
        model::Unknown::PassThrough => "passThrough",
        model::Unknown::Refuse => "refuse",
    };
    json!({ "mode": mode, "unknown": unknown })
}

pub(super) fn intercept(intercept: &model::Intercept) -> Value {
    let model::Intercept { addresses, ports, place: _ } = intercept;
    some([
        ("addresses", addresses.iter().map(ToString::to_string).collect()),
        ("ports", ports.iter().map(ToString::to_string).collect()),
    ])
}
