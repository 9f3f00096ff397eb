//! What is written about HTTP/3, tunnels, and bytes that nobody understands, as the data path gets it.

use std::time::Duration;

use outrigger_config::load;
use outrigger_config::model::{
    ClusterProtocol, Config, Connect, EarlyData, Http3, Interception, InterceptionMode, Listener, ListenerProtocol,
    ProxyHeader, ProxyProtocol, ProxyVersion, Unknown, Upgrades,
};

fn config(listener: &str) -> Config {
    let text = format!(
        "identity: {{ certificate: a.pem, privateKey: a.key, trustBundle: b.pem }}\nlisteners:\n  - {{ name: a, bind: \
         127.0.0.1:1, {listener} }}\nroutes: {{ r: [{{ rules: [{{ matches: [{{ method: CONNECT }}], backendRefs: [{{ \
         cluster: c }}] }}] }}] }}\nclusters:\n  c: {{ protocol: tcp, connection: {{ proxyProtocol: v1 }}, endpoints: \
         [127.0.0.1:2] }}\n  d: {{ protocol: tcp, endpoints: [127.0.0.1:2] }}\n"
    );
    let loaded = load("a.yaml", &text).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
    (*loaded.config).clone()
}

fn listener(text: &str) -> Listener {
    config(text).listeners[0].clone()
}

#[test]
fn what_is_not_written_is_as_the_model_says() {
    let plain = listener("routes: r");
    assert_eq!(plain.upgrades, Upgrades::default());
    assert_eq!((plain.http3, plain.tcp, plain.udp), (None, None, None));
    assert_eq!((plain.proxy_protocol, plain.interception, plain.intercepts.len()), (None, None, 0));
    assert_eq!(listener("routes: r, upgrades: {}").upgrades, Upgrades::default());
}

#[test]
fn http3_has_a_short_and_a_long_form() {
    let http3 = |text: &str| listener(&format!("routes: r, tls: {{ mode: permissive }}, http3: {text}")).http3;
    assert_eq!(http3("true"), Some(Http3::default()));
    assert_eq!(http3("{}"), Some(Http3::default()));
    assert_eq!(http3("false"), None);
    let whole = http3("{ advertise: 443, maxAge: 0s, earlyData: safeMethods }");
    let early_data = EarlyData::SafeMethods;
    assert_eq!(whole, Some(Http3 { advertise: Some(443), max_age: Duration::ZERO, early_data }));
    for off in ["off", "false", "\"off\""] {
        assert_eq!(http3(&format!("{{ earlyData: {off} }}")), Some(Http3::default()), "{off}");
    }
}

#[test]
fn upgrades_are_as_written_and_none_when_the_list_is_empty() {
    let text = "routes: r, upgrades: { allow: [websocket, mqtt/5], connect: tunnel, idleTimeout: 0s, maxDuration: 1h, \
                maxTunnels: 5, maxTunnelsPerCaller: 2 }";
    let whole = Upgrades {
        allow: vec!["websocket".into(), "mqtt/5".into()],
        connect: Connect::Tunnel,
        idle_timeout: Duration::ZERO,
        max_duration: Duration::from_secs(3600),
        max_tunnels: 5,
        max_per_caller: 2,
    };
    assert_eq!(listener(text).upgrades, whole);
    assert!(listener("routes: r, upgrades: { allow: [] }").upgrades.allow.is_empty());
}

#[test]
fn tcp_and_udp_say_where_bytes_go() {
    let raw = listener(
        "protocol: tcp, proxyProtocol: strict, tcp: { backendRefs: [{ cluster: c, weight: 3 }, { cluster: d }] }",
    );
    let strict = ProxyProtocol { mode: ProxyHeader::Strict, from: Vec::new() };
    assert_eq!((raw.protocol, raw.proxy_protocol), (ListenerProtocol::Tcp, Some(strict)));
    let tcp = raw.tcp.expect("its backends");
    assert_eq!((tcp.backends.len(), tcp.backends[0].weight, tcp.idle_timeout), (2, 3, Duration::from_secs(3600)));
    let raw = listener("protocol: udp, udp: { backendRefs: [{ cluster: d }], maxSessions: 7 }");
    let udp = raw.udp.expect("its backends");
    assert_eq!((raw.protocol, udp.idle_timeout, udp.max_sessions), (ListenerProtocol::Udp, Duration::from_secs(60), 7));
    let rest = listener("routes: r, tcp: { backendRefs: [{ cluster: c }], idleTimeout: 0s }").tcp.expect("the rest");
    assert_eq!(rest.idle_timeout, Duration::ZERO);
}

#[test]
fn a_cluster_of_tcp_says_who_calls() {
    let cluster = config("routes: r").clusters["c"].clone();
    assert_eq!((cluster.protocol, cluster.connection.proxy_protocol), (ClusterProtocol::Tcp, Some(ProxyVersion::V1)));
}

#[test]
fn interception_is_by_redirect_and_serves_what_is_unknown_unless_it_says_else() {
    let by = |text: &str| listener(&format!("routes: r, interception: {text}")).interception.expect("it is there");
    assert_eq!(by("{}"), Interception { mode: InterceptionMode::Redirect, unknown: Unknown::Serve });
    let other = by("{ mode: tproxy, unknown: refuse }");
    assert_eq!(other, Interception { mode: InterceptionMode::Tproxy, unknown: Unknown::Refuse });
}

#[test]
fn destinations_are_ranges_of_addresses_and_of_ports() {
    let caught = listener(
        "routes: r, interception: {}, intercepts: [{ addresses: [10.0.0.0/8, \"fd00::/8\"], ports: [5432, \"80-89\"] }, { \
         ports: [53] }]",
    );
    let [both, port] = &*caught.intercepts else { panic!("two entries") };
    for (destination, taken) in [
        ("10.1.2.3:5432", true),
        ("[fd00::1]:80", true),
        ("[::ffff:10.1.2.3]:89", true),
        ("10.1.2.3:90", false),
        ("11.1.2.3:80", false),
    ] {
        assert_eq!(both.takes(destination.parse().expect("an address")), taken, "{destination}");
    }
    assert!(port.takes("192.0.2.1:53".parse().expect("an address")));
    assert_eq!(both.ports.iter().map(ToString::to_string).collect::<Vec<_>>(), ["5432", "80-89"]);
}

#[test]
fn headers_are_believed_of_the_proxies_that_are_named() {
    let of = |text: &str| listener(&format!("routes: r, proxyProtocol: {text}")).proxy_protocol.expect("it is there");
    assert_eq!(of("optional"), ProxyProtocol { mode: ProxyHeader::Optional, from: Vec::new() });
    assert_eq!(of("{ mode: optional }"), of("optional"));
    let some = of("{ mode: strict, from: [10.0.0.0/8, \"fd00::7\"] }");
    assert_eq!((some.mode, some.from.len()), (ProxyHeader::Strict, 2));
    for (source, believed) in [("10.9.9.9", true), ("::ffff:10.1.2.3", true), ("fd00::7", true), ("11.0.0.1", false)] {
        assert_eq!(some.believes(source.parse().expect("an address")), believed, "{source}");
        assert!(of("strict").believes(source.parse().expect("an address")), "without a list everyone is");
    }
}

#[test]
fn a_policy_by_address_behind_headers_of_everyone_is_warned_of() {
    let warned = |header: &str, more: &str| {
        let text = format!(
            "listeners:\n  - {{ name: a, bind: 127.0.0.1:1, routes: r, proxyProtocol: {header}, {more} }}\nroutes: {{ r: \
             [{{ rules: [{{ backendRefs: [{{ cluster: c }}] }}] }}] }}\nclusters: {{ c: {{ endpoints: [127.0.0.1:2] }} \
             }}\nauthorization:\n  by-address: {{ default: deny, rules: [{{ name: near, action: allow, from: [{{ \
             addresses: [10.0.0.0/8] }}] }}] }}\n  by-path: {{ default: deny, rules: [{{ name: open, action: allow, to: \
             [{{ paths: [{{ prefix: /a }}] }}] }}] }}\n"
        );
        let loaded = load("a.yaml", &text).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
        loaded.warnings.to_string().contains("says in a PROXY header which one it has")
    };
    assert!(warned("strict", "authorization: by-address"));
    assert!(warned("optional", "rateLimits: [{ name: l, requests: 1, per: 1s, by: [address] }]"));
    assert!(!warned("{ mode: strict, from: [10.0.0.0/8] }", "authorization: by-address"));
    assert!(!warned("strict", "authorization: by-path"));
}
