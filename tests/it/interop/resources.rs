//! Plain Envoy v3 resources, as protobuf's JSON. Nothing of ours is in them: they are what any control plane sends.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::{Value, json};

use super::subject::socket;

const TYPES: &str = "type.googleapis.com/envoy";

/// The type of a message of Envoy's API.
pub fn typed(name: &str) -> String {
    format!("{TYPES}.{name}")
}

/// That something is discovered over ADS.
pub fn ads() -> Value {
    json!({ "resource_api_version": "V3", "ads": {} })
}

/// A listener with an HTTP connection manager.
pub fn listener(name: &str, port: u16, manager: &Value) -> Value {
    json!({
        "@type": typed("config.listener.v3.Listener"),
        "name": name,
        "address": socket(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        "filter_chains": [{ "filters": [{ "name": "envoy.filters.network.http_connection_manager", "typed_config": manager }] }],
    })
}

/// An HTTP connection manager: these HTTP filters and a router, and where its routes are.
pub fn manager(routes: &Value, filters: &[Value]) -> Value {
    let router = filter("router", "envoy.extensions.filters.http.router.v3.Router", json!({}));
    let filters: Vec<Value> = filters.iter().cloned().chain([router]).collect();
    let mut out = json!({
        "@type": typed("extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "in",
        "codec_type": "AUTO",
        "http_filters": filters,
    });
    for (key, value) in routes.as_object().expect("an object") {
        out[key] = value.clone();
    }
    out
}

/// Routes that are a resource of their own.
pub fn discovered(name: &str) -> Value {
    json!({ "rds": { "config_source": ads(), "route_config_name": name } })
}

/// Routes in the listener.
pub fn inline(hosts: &[Value]) -> Value {
    json!({ "route_config": { "name": "inline", "virtual_hosts": hosts } })
}

/// A route configuration.
pub fn routes(name: &str, hosts: &[Value]) -> Value {
    json!({ "@type": typed("config.route.v3.RouteConfiguration"), "name": name, "virtual_hosts": hosts })
}

/// A virtual host.
pub fn host(domain: &str, routes: &[Value]) -> Value {
    json!({ "name": domain, "domains": [domain], "routes": routes })
}

/// A route to a cluster.
pub fn route(matching: &Value, cluster: &str) -> Value {
    json!({ "match": matching, "route": { "cluster": cluster } })
}

/// The match of every request.
pub fn every() -> Value {
    json!({ "prefix": "/" })
}

/// An HTTP filter.
pub fn filter(name: &str, message: &str, mut config: Value) -> Value {
    config["@type"] = Value::String(format!("type.googleapis.com/{message}"));
    json!({ "name": format!("envoy.filters.http.{name}"), "typed_config": config })
}

/// A cluster whose endpoints are a resource of their own.
pub fn cluster(name: &str) -> Value {
    json!({
        "@type": typed("config.cluster.v3.Cluster"),
        "name": name,
        "type": "EDS",
        "eds_cluster_config": { "eds_config": ads() },
        "connect_timeout": "2s",
        "lb_policy": "ROUND_ROBIN",
    })
}

/// The endpoints of a cluster, at one place.
pub fn endpoints(cluster: &str, addresses: &[SocketAddr]) -> Value {
    let weighted: Vec<(SocketAddr, u32)> = addresses.iter().map(|addr| (*addr, 1)).collect();
    assignment(cluster, &[("zone-a", 1, &weighted)])
}

/// A zone, its weight, and its endpoints with theirs.
pub type Zone<'a> = (&'a str, u32, &'a [(SocketAddr, u32)]);

/// The endpoints of a cluster, by zone, with the weights of zones and endpoints.
pub fn assignment(cluster: &str, zones: &[Zone<'_>]) -> Value {
    let endpoint = |(addr, weight): &(SocketAddr, u32)| json!({ "endpoint": { "address": socket(*addr) }, "load_balancing_weight": weight });
    let locality = |(zone, weight, list): &(&str, u32, &[(SocketAddr, u32)])| {
        json!({
            "locality": { "region": "region", "zone": zone },
            "load_balancing_weight": weight,
            "lb_endpoints": list.iter().map(endpoint).collect::<Vec<_>>(),
        })
    };
    json!({
        "@type": typed("config.endpoint.v3.ClusterLoadAssignment"),
        "cluster_name": cluster,
        "endpoints": zones.iter().map(locality).collect::<Vec<_>>(),
    })
}

/// A cluster with its endpoints: two resources.
pub fn service(name: &str, addresses: &[SocketAddr]) -> [Value; 2] {
    [cluster(name), endpoints(name, addresses)]
}

/// With what a JSON object says on top.
pub fn with(mut resource: Value, more: &Value) -> Value {
    for (key, value) in more.as_object().expect("an object") {
        resource[key] = value.clone();
    }
    resource
}
