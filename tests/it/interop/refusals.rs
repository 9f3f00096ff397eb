//! What is not supported, or not safe: refused by the name of the resource and the field, while the rest of the same response
//! takes effect and traffic is as it was.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::{Value, json};

use super::echo::{self, Ask, who};
use super::foreign::{Foreign, Variant};
use super::resources::{
    cluster, discovered, endpoints, every, filter, host, inline, listener, manager, route, routes, service, typed, with,
};
use super::subject::{Plane, Program, Subject};
use crate::support::any::{AnyClient, Version};
use crate::support::proxy::free_port;
use crate::support::{PATIENCE, within};

/// A resource that must be refused, and what must be named.
struct Bad {
    resource: Value,
    kind: &'static str,
    name: &'static str,
    /// A part of the field's path.
    field: &'static str,
}

fn bad(resource: Value, kind: &'static str, name: &'static str, field: &'static str) -> Bad {
    Bad { resource, kind, name, field }
}

/// The good resources that run: `a` and its listener.
fn good(port: u16, backend: SocketAddr) -> Vec<Value> {
    let mut out = service("a", &[backend]).to_vec();
    out.push(listener("in", port, &manager(&discovered("main"), &[])));
    out.push(routes("main", &[host("*", &[route(&every(), "a")])]));
    out
}

fn catalogue(port: u16) -> Vec<Bad> {
    let on = |more: Value| with(cluster("odd"), &more);
    let lua = filter(
        "lua",
        "envoy.extensions.filters.http.lua.v3.Lua",
        json!({ "default_source_code": { "inline_string": "x" } }),
    );
    let unknown = filter(
        "corp",
        "xds.type.v3.TypedStruct",
        json!({ "type_url": "type.googleapis.com/corp.Filter", "value": {} }),
    );
    let rule = |principal: Value| {
        let policies = json!({ "p": { "permissions": [{ "any": true }], "principals": [principal] } });
        let rules = json!({ "rules": { "action": "DENY", "policies": policies } });
        filter("rbac", "envoy.extensions.filters.http.rbac.v3.RBAC", rules)
    };
    let through =
        |filters: &[Value]| listener("odd", port, &manager(&inline(&[host("*", &[route(&every(), "a")])]), filters));
    let acting = |action: Value| routes("main", &[host("*", &[json!({ "match": every(), "route": action })])]);
    let on_match = |matching: Value| routes("main", &[host("*", &[route(&matching, "a")])]);
    vec![
        bad(
            on(json!({ "type": "ORIGINAL_DST", "eds_cluster_config": null, "lb_policy": "CLUSTER_PROVIDED" })),
            "Cluster",
            "odd",
            "type",
        ),
        bad(on(json!({ "lb_policy": "CLUSTER_PROVIDED" })), "Cluster", "odd", "lb_policy"),
        bad(
            on(
                // One way to ask is enough.
                json!({ "health_checks": [{ "timeout": "1s", "interval": "1s", "unhealthy_threshold": 1, "healthy_threshold": 1,
            "tcp_health_check": {} }, { "timeout": "1s", "interval": "1s", "unhealthy_threshold": 1, "healthy_threshold": 1,
            "http_health_check": { "path": "/" } }] }),
            ),
            "Cluster",
            "odd",
            "health_checks",
        ),
        bad(
            on(json!({ "lb_subset_config": { "fallback_policy": "DEFAULT_SUBSET" } })),
            "Cluster",
            "odd",
            "lb_subset_config",
        ),
        bad(
            on(json!({ "transport_socket": { "name": "tls", "typed_config": {
            "@type": typed("extensions.transport_sockets.tls.v3.UpstreamTlsContext"), "sni": "b.example" } } })),
            "Cluster",
            "odd",
            "transport_socket",
        ),
        bad(
            on(json!({ "outlier_detection": { "consecutive_5xx": 5, "enforcing_consecutive_5xx": 50 } })),
            "Cluster",
            "odd",
            "outlier_detection",
        ),
        bad(json!({ "raw": ["Cluster", "odd", "CgNvZGT/////"] }), "Cluster", "odd", ""),
        bad(
            json!({ "@type": typed("config.endpoint.v3.ClusterLoadAssignment"), "cluster_name": "a",
            "endpoints": [{ "priority": 300, "lb_endpoints": [] }] }),
            "ClusterLoadAssignment",
            "a",
            "endpoints[0].priority",
        ),
        bad(
            json!({ "@type": typed("config.endpoint.v3.ClusterLoadAssignment"), "cluster_name": "a", "endpoints": [{ "lb_endpoints": [
            { "endpoint": { "address": { "pipe": { "path": "/tmp/x" } } } }] }] }),
            "ClusterLoadAssignment",
            "a",
            "pipe",
        ),
        bad(through(&[lua]), "Listener", "odd", "http_filters[0]"),
        bad(through(&[unknown]), "Listener", "odd", "http_filters[0]"),
        // A rule that is not understood must not be passed over.
        bad(
            through(&[rule(json!({ "metadata": {
                "filter": "corp", "path": [{ "key": "k" }], "value": { "present_match": true } } }))]),
            "Listener",
            "odd",
            "principals[0].metadata",
        ),
        bad(
            listener(
                "in",
                port,
                &json!({ "@type": typed("extensions.filters.network.redis_proxy.v3.RedisProxy"), "stat_prefix": "r",
            "settings": { "op_timeout": "1s" } }),
            ),
            "Listener",
            "in",
            "filters[0]",
        ),
        bad(
            acting(json!({ "cluster": "a", "hash_policy": [{ "filter_state": { "key": "x" } }] })),
            "RouteConfiguration",
            "main",
            "hash_policy",
        ),
        bad(acting(json!({ "cluster_header": "x-cluster" })), "RouteConfiguration", "main", "cluster_header"),
        bad(
            acting(json!({ "cluster": "a", "request_mirror_policies": [{ "cluster_header": "x-mirror" }] })),
            "RouteConfiguration",
            "main",
            "request_mirror_policies",
        ),
        bad(acting(json!({ "cluster": "a", "timeout": "-1s" })), "RouteConfiguration", "main", "timeout"),
        bad(
            on_match(json!({ "prefix": "/", "runtime_fraction": { "default_value": { "numerator": 50 } } })),
            "RouteConfiguration",
            "main",
            "virtual_hosts[0].routes[0].match.runtime_fraction",
        ),
        bad(on_match(json!({ "safe_regex": { "regex": "(" } })), "RouteConfiguration", "main", "safe_regex"),
        bad(
            on_match(json!({ "prefix": "/", "tls_context": { "presented": true } })),
            "RouteConfiguration",
            "main",
            "tls_context",
        ),
    ]
}

/// One catalogue over one stream: each bad resource comes together with a good one of its kind.
async fn refused_by_name(variant: Variant) {
    let backend = echo::start(Version::H1, "a").await;
    let beside = echo::start(Version::H1, "beside").await;
    let mut server = Foreign::start().await;
    let (port, other) = (free_port(), free_port());
    server.set(&good(port, backend.addr())).await;
    let subject = Subject::start(Program::Outrigger, &Plane::of(&server, variant)).await;
    assert!(server.settled(0).await.is_empty());
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut client = AnyClient::connect(Version::H1, addr).await;
    let mut wrong = Vec::new();
    for (index, Bad { resource, kind, name, field }) in catalogue(other).into_iter().enumerate() {
        // In the state of the world a resource is named by itself alone: what cannot be read has no name.
        let name = if variant == Variant::Whole && resource.get("raw").is_some() { "" } else { name };
        let mark = server.mark();
        // The same response holds something that is right, and must take effect.
        let path = format!("/good-{index}");
        let fresh = routes("beside", &[host("*", &[route(&json!({ "path": path }), "beside")])]);
        let companion = match kind {
            "Cluster" => with(cluster("beside"), &json!({ "connect_timeout": format!("{}s", index + 1) })),
            "ClusterLoadAssignment" => endpoints("beside", &[beside.addr()]),
            "Listener" => listener("beside", other, &manager(&discovered("beside"), &[])),
            _ => fresh.clone(),
        };
        server.set(&[resource, companion]).await;
        let refused = server.refusal(mark).await;
        let named = refused.named.iter().find(|refusal| refusal.name == name && refusal.field.contains(field));
        if refused.kind != kind || named.is_none() || !refused.message.contains(name) {
            wrong.push(format!("{kind} {name} ({field}): {refused:#?}"));
        }
        if named.is_some_and(|refusal| refusal.reason.is_empty() || !refused.message.contains(&refusal.reason)) {
            wrong.push(format!("{kind} {name} ({field}) has no reason, or it is not told in words: {refused:#?}"));
        }
        let told = Ask::get("a.example/").over(&mut client).await.expect("an answer on the kept connection");
        assert_eq!((told.status, who(&told)), (200, "a"), "traffic is as it was after {kind} {name} ({field})");
        let report = subject.control_plane().await;
        let shown = report["refusals"].as_array().expect("a list");
        if !name.is_empty()
            && !shown
                .iter()
                .any(|refusal| refusal["name"] == name && refusal["field"].as_str().unwrap_or_default().contains(field))
        {
            wrong.push(format!("{kind} {name} ({field}) is not in the report: {report:#}"));
        }
        // Back to what is right; the refusal is over.
        let mut right = good(port, backend.addr());
        right.extend([endpoints("beside", &[beside.addr()]), cluster("beside"), fresh]);
        right.push(listener("beside", other, &manager(&discovered("beside"), &[])));
        server.change(&right, &[("Cluster", "odd"), ("Listener", "odd")]).await;
        let ask = Ask::get(&format!("a.example{path}"));
        within(PATIENCE, "what came beside takes effect", async {
            loop {
                if let Ok(stream) = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, other)).await {
                    drop(stream);
                    if who(&ask.of(Version::H1, SocketAddr::from((Ipv4Addr::LOCALHOST, other))).await) == "beside" {
                        return;
                    }
                }
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn what_is_not_supported_is_refused_by_name_and_field_over_delta() {
    refused_by_name(Variant::Delta).await;
}

#[tokio::test]
async fn what_is_not_supported_is_refused_by_name_and_field_over_the_state_of_the_world() {
    refused_by_name(Variant::Whole).await;
}

#[tokio::test]
async fn the_good_part_of_a_response_takes_effect_although_the_rest_is_refused() {
    let backend = echo::start(Version::H1, "a").await;
    let mut server = Foreign::start().await;
    let (port, other) = (free_port(), free_port());
    server.set(&good(port, backend.addr())).await;
    let _subject = Subject::start(Program::Outrigger, &Plane::of(&server, Variant::Delta)).await;
    server.settled(0).await;
    let mark = server.mark();
    let mut change: Vec<Value> = catalogue(other).into_iter().skip(1).take(1).map(|bad| bad.resource).collect();
    let direct = json!({ "match": every(), "direct_response": { "status": 202 } });
    change.push(listener("fresh", other, &manager(&inline(&[host("*", &[direct])]), &[])));
    change.push(routes(
        "main",
        &[host(
            "*",
            &[json!({ "match": { "path": "/new" }, "direct_response": { "status": 201 } }), route(&every(), "a")],
        )],
    ));
    server.set(&change).await;
    let refused = server.refusal(mark).await;
    assert_eq!((refused.named.len(), &*refused.named[0].name), (1, "odd"), "{refused:?}");
    server.settled(mark).await;
    let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    assert_eq!(Ask::get("a.example/new").of(Version::H1, local(port)).await.status, 201);
    assert_eq!(Ask::get("a.example/").of(Version::H1, local(other)).await.status, 202);
    assert_eq!(who(&Ask::get("a.example/").of(Version::H1, local(port)).await), "a");
}
