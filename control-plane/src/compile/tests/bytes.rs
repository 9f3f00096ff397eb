//! Ports of TCP, HTTP/3 between proxies, and upgrades.

use outrigger_config::model::{
    Access, BackendRef, ClusterProtocol, ClusterTlsMode, Connect, HostPattern, Http3, ListenerProtocol, TlsMode,
    Unknown, Upgrades,
};

use super::{checked, compile, listener, weights, with};

const DATABASE: &str = "\
apiVersion: v1
kind: Service
metadata: { name: db, namespace: shop }
spec: { clusterIP: 10.96.0.7, selector: { app: db }, ports: [{ name: sql, port: 5432, appProtocol: tcp }, { name: http, port: 80 }] }
---
apiVersion: outrigger.dev/v1
kind: Workload
metadata: { name: db-1, namespace: shop, labels: { app: db } }
spec: { serviceAccount: db, address: 10.0.0.3, ports: [{ port: 5432, inbound: 15007, protocol: tcp }, { port: 80, inbound: 15006 }] }
---
apiVersion: outrigger.dev/v1
kind: Workload
metadata: { name: caller, namespace: shop }
spec: { serviceAccount: caller, address: 10.0.0.4, interception: { unknown: passThrough } }
";

fn backends(of: &outrigger_config::model::Listener) -> Vec<(&str, u32)> {
    let list: &[BackendRef] = &of.tcp.as_ref().expect("its backends").backends;
    weights(list)
}

#[test]
fn a_port_of_tcp_is_a_listener_of_every_caller_that_catches_connections() {
    let config = checked(&compile(&with(DATABASE)), "shop/caller");
    let caught = listener(&config, "outbound:shop/db:5432");
    assert_eq!((caught.protocol, caught.bind.port()), (ListenerProtocol::Tcp, 0));
    assert!(caught.intercepts[0].takes("10.96.0.7:5432".parse().expect("an address")));
    assert!(!caught.intercepts[0].takes("10.96.0.7:80".parse().expect("an address")));
    assert_eq!(backends(caught), [("shop/db:5432", 1)]);
    let cluster = &config.clusters["shop/db:5432"];
    assert_eq!(cluster.protocol, ClusterProtocol::Tcp);
    let Some(ClusterTlsMode::Mutual { peer_identities }) = cluster.tls.as_ref().map(|tls| &tls.mode) else {
        panic!("{:?}", cluster.tls);
    };
    assert_eq!(peer_identities[0].to_string(), "spiffe://mesh.local/ns/shop/sa/db");
    let unknown = listener(&config, "outbound").interception.map(|by| by.unknown);
    assert_eq!(unknown, Some(Unknown::PassThrough));
    // Requests go to the other port alone.
    let hosts = &config.routes["outbound"].hosts;
    let names: Vec<String> = hosts.iter().flat_map(|host| &host.hostnames).map(|name| format!("{name:?}")).collect();
    assert!(names.iter().any(|name| name.contains("db.shop:80")) && !names.iter().any(|name| name.contains("5432")));

    let other = checked(&compile(&with(DATABASE)), "shop/a-1");
    assert_eq!(other.listeners.iter().filter(|one| one.protocol == ListenerProtocol::Tcp).count(), 0);
}

#[test]
fn the_port_of_the_workload_hands_on_behind_mutual_tls() {
    let config = checked(&compile(&with(DATABASE)), "shop/db-1");
    let inbound = listener(&config, "inbound:5432");
    assert_eq!((inbound.protocol, inbound.tls.is_some()), (ListenerProtocol::Tcp, true));
    assert_eq!(backends(inbound), [("application:5432", 1)]);
    assert_eq!(config.clusters["application:5432"].protocol, ClusterProtocol::Tcp);
    assert!(!config.routes.contains_key("inbound:5432"));
}

const POLICY: &str = "\
---
apiVersion: outrigger.dev/v1
kind: AuthorizationPolicy
metadata: { name: p, namespace: shop }
spec:
  selector: { matchLabels: { app: db } }
  default: deny
  rules: [{ name: r, action: allow, from: [{ identities: [\"spiffe://mesh.local/ns/shop/sa/caller\"] }] }]
";

#[test]
fn policies_of_connections_hold_and_with_others_nobody_gets_in() {
    let config = checked(&compile(&with(&format!("{DATABASE}{POLICY}"))), "shop/db-1");
    let name = listener(&config, "inbound:5432").authorization.as_ref().expect("a policy");
    assert_eq!((config.authorization[name].rules.len(), config.authorization[name].default), (1, Access::Deny));

    let of_requests = POLICY.replace("from:", "to: [{ methods: [GET] }], from:");
    let config = checked(&compile(&with(&format!("{DATABASE}{of_requests}"))), "shop/db-1");
    let name = listener(&config, "inbound:5432").authorization.as_ref().expect("a policy");
    assert_eq!((config.authorization[name].rules.len(), config.authorization[name].default), (0, Access::Deny));
    // The other port has the policy as it is.
    let name = listener(&config, "inbound:80").authorization.as_ref().expect("a policy");
    assert_eq!(config.authorization[name].rules.len(), 1);
}

#[test]
fn a_tcp_route_says_where_connections_go() {
    let route = "\
---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: { name: split, namespace: shop }
spec:
  parentRefs: [{ group: \"\", kind: Service, name: db }]
  rules: [{ backendRefs: [{ name: db, port: 5432, weight: 9 }, { name: b, port: 80 }] }]
";
    let config = checked(&compile(&with(&format!("{DATABASE}{route}"))), "shop/caller");
    let found = backends(listener(&config, "outbound:shop/db:5432"));
    // What takes requests takes no bytes: its share is refused.
    assert_eq!(found, [("shop/db:5432", 9), ("invalid-backend", 1)]);
}

/// A TLSRoute of `shop/db` in a namespace.
fn tls_route(name: &str, hostnames: &str, backends: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: TLSRoute\nmetadata: {{ name: {name}, namespace: shop }}\n\
         spec:\n  parentRefs: [{{ group: \"\", kind: Service, name: db, sectionName: sql }}]\n  hostnames: [{hostnames}]\n  \
         rules: [{{ backendRefs: [{backends}] }}]\n"
    )
}

#[test]
fn a_tls_route_hands_on_by_server_name() {
    let two = "---\napiVersion: v1\nkind: Service\nmetadata: { name: db2, namespace: shop }\n\
               spec: { selector: { app: db }, ports: [{ port: 5432, appProtocol: tcp }] }\n";
    let routes = tls_route(
        "one",
        "a.example, \"*.b.example\"",
        "{ name: db, port: 5432, weight: 3 }, { name: db2, port: 5432 }",
    ) + &tls_route("two", "a.example, c.example", "{ name: b, port: 80 }");
    let config = checked(&compile(&with(&format!("{DATABASE}{two}{routes}"))), "shop/caller");
    let caught = listener(&config, "outbound:shop/db:5432");
    assert_eq!((caught.protocol, caught.tcp.as_ref()), (ListenerProtocol::Tcp, None));
    assert!(caught.intercepts[0].takes("10.96.0.7:5432".parse().expect("an address")));
    let tls = caught.tls.as_ref().expect("it looks at server names");
    assert_eq!(tls.mode, TlsMode::Passthrough);
    let [one, two] = &tls.passthrough[..] else { panic!("{:?}", tls.passthrough) };
    assert_eq!(one.hostnames, [HostPattern::Exact("a.example".into()), HostPattern::Wildcard("b.example".into())]);
    assert_eq!(weights(&one.backends), [("shop/db:5432", 3), ("shop/db2:5432", 1)]);
    // The other name is the older route's; and what takes requests takes no bytes.
    assert_eq!(two.hostnames, [HostPattern::Exact("c.example".into())]);
    assert_eq!(weights(&two.backends), [("invalid-backend", 1)]);
    assert!(config.clusters["shop/db2:5432"].tls.is_some(), "inside the mesh's own TLS");
    // Where the proxy of the database listens, nothing changes.
    let config = checked(&compile(&with(&format!("{DATABASE}{routes}"))), "shop/db-1");
    assert_eq!(backends(listener(&config, "inbound:5432")), [("application:5432", 1)]);
}

#[test]
fn http3_between_proxies_is_learnt_and_upgrades_are_everywhere() {
    let policy = "\
apiVersion: outrigger.dev/v1
kind: MeshPolicy
metadata: { name: m, namespace: shop }
spec: { http3: true, upgrades: { allow: [websocket, mqtt], connect: route } }
";
    let config = checked(&compile(&with(policy)), "shop/a-1");
    assert_eq!(listener(&config, "inbound:8080").http3, Some(Http3::default()));
    assert_eq!(config.clusters["shop/b:80"].protocol, ClusterProtocol::Auto);
    for name in ["inbound:8080", "outbound"] {
        let Upgrades { allow, connect, .. } = &listener(&config, name).upgrades;
        assert_eq!((allow.len(), *connect), (2, Connect::Route), "{name}");
    }
    let plain = checked(&compile(&with("")), "shop/a-1");
    assert_eq!(listener(&plain, "inbound:8080").http3, None);
    assert_eq!(plain.clusters["shop/b:80"].protocol, ClusterProtocol::Http2);
    assert_eq!(listener(&plain, "outbound").upgrades, Upgrades::default());
}
