//! HTTP/3, tunnels, and what is handed on without being understood, made at random.

use outrigger_config::model::*;
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::model::{duration, duration_or_zero, place};
use crate::resilience;

/// What a listener may have beside requests.
#[derive(Debug, Clone)]
pub(crate) struct Extra {
    kind: u8,
    http3: Option<Http3>,
    upgrades: Upgrades,
    tcp: Option<TcpForwarding>,
    always: TcpForwarding,
    udp: UdpForwarding,
    proxy_protocol: Option<ProxyProtocol>,
    interception: Option<Interception>,
    intercepts: Vec<Intercept>,
}

pub(crate) fn extra() -> impl Strategy<Value = Extra> {
    (
        0..4_u8,
        of(http3()),
        upgrades(),
        (of(tcp()), tcp(), udp()),
        of(proxy_protocol()),
        of(interception()),
        vec(intercept(), 0..3),
    )
        .prop_map(|(kind, http3, upgrades, (tcp, always, udp), proxy_protocol, interception, intercepts)| Extra {
            kind,
            http3,
            upgrades,
            tcp,
            always,
            udp,
            proxy_protocol,
            interception,
            intercepts,
        })
}

fn proxy_protocol() -> impl Strategy<Value = ProxyProtocol> {
    let ranges =
        ["10.0.0.0/8", "192.0.2.7/32", "fd00::/8"].map(|text| outrigger_config::grammar::cidr(text).expect("a range"));
    (select(vec![ProxyHeader::Strict, ProxyHeader::Optional]), subsequence(ranges.to_vec(), 0..=3))
        .prop_map(|(mode, from)| ProxyProtocol { mode, from })
}

/// The listener with that: one of HTTP as it is, of TCP, or of UDP.
pub(crate) fn shaped(listener: Listener, extra: Extra) -> Listener {
    let mode = listener.tls.as_ref().map(|tls| tls.mode);
    let handed_on = mode == Some(TlsMode::Passthrough);
    let Extra { kind, http3, upgrades, tcp, always, udp, proxy_protocol, interception, intercepts } = extra;
    // Each listener has destinations of its own.
    let own = |(number, mut one): (u16, Intercept)| {
        let first = listener.bind.port() * 2 + number;
        one.ports.push(PortRange { first, last: first + number });
        one
    };
    // They would not be looked at.
    let unguarded = listener.jwt.is_none() && listener.external_authorization.is_none();
    let intercepts: Vec<Intercept> = (0..).zip(intercepts).map(own).collect();
    let bare = |listener: Listener| Listener {
        routes: None,
        client_cert_header: ClientCertHeader::Sanitize,
        authorization: None,
        jwt: None,
        external_authorization: None,
        rate_limits: Vec::new(),
        ..listener
    };
    let http3 = http3.filter(|_| mode.is_some() && !handed_on);
    match kind {
        0 => Listener {
            protocol: ListenerProtocol::Tcp,
            upgrades,
            tcp: (!handed_on).then_some(always),
            proxy_protocol,
            interception,
            intercepts,
            ..bare(listener)
        },
        1 => Listener { protocol: ListenerProtocol::Udp, tls: None, upgrades, udp: Some(udp), ..bare(listener) },
        _ => Listener {
            http3,
            upgrades,
            tcp: tcp.filter(|_| listener.protocol == ListenerProtocol::Auto && !handed_on && unguarded),
            // Callers over HTTP/3 have no header.
            proxy_protocol: proxy_protocol.filter(|it| http3.is_none() || it.mode == ProxyHeader::Optional),
            interception,
            intercepts,
            ..listener
        },
    }
}

fn http3() -> impl Strategy<Value = Http3> {
    let early_data = select(vec![EarlyData::Off, EarlyData::SafeMethods]);
    (of(1..9_u16), duration_or_zero(), early_data).prop_map(|(advertise, max_age, early_data)| Http3 {
        advertise,
        max_age,
        early_data,
    })
}

fn upgrades() -> impl Strategy<Value = Upgrades> {
    let allow = subsequence(vec!["websocket", "mqtt/5", "connect-udp"], 0..=3);
    let connect = select(vec![Connect::Deny, Connect::Route, Connect::Tunnel]);
    (allow, connect, duration_or_zero(), duration_or_zero(), 1..9_u32, 0..9_u32).prop_map(
        |(allow, connect, idle_timeout, max_duration, max_tunnels, max_per_caller)| Upgrades {
            allow: allow.into_iter().map(Into::into).collect(),
            connect,
            idle_timeout,
            max_duration,
            max_tunnels,
            max_per_caller,
        },
    )
}

fn tcp() -> impl Strategy<Value = TcpForwarding> {
    let subset = || prop_oneof![3 => Just(Labels::new()), 1 => resilience::labels()];
    let first = (1..4_u32, subset());
    let second = of((0..4_u32, subset()));
    (first, second, duration_or_zero(), place()).prop_map(|(first, second, idle_timeout, place)| {
        let one = |cluster: &str, (weight, subset): (u32, Labels)| BackendRef {
            cluster: cluster.into(),
            weight,
            subset,
            filters: Vec::new(),
        };
        let second = second.map(|second| one("raw", second));
        TcpForwarding { backends: std::iter::once(one("plain", first)).chain(second).collect(), idle_timeout, place }
    })
}

fn udp() -> impl Strategy<Value = UdpForwarding> {
    (1..4_u32, duration(), 1..9_u32, place()).prop_map(|(weight, idle_timeout, max_sessions, place)| UdpForwarding {
        backends: vec![BackendRef { cluster: "plain".into(), weight, subset: Labels::new(), filters: Vec::new() }],
        idle_timeout,
        max_sessions,
        place,
    })
}

fn interception() -> impl Strategy<Value = Interception> {
    let mode = select(vec![InterceptionMode::Redirect, InterceptionMode::Tproxy]);
    let unknown = select(vec![Unknown::Serve, Unknown::PassThrough, Unknown::Refuse]);
    (mode, unknown).prop_map(|(mode, unknown)| Interception { mode, unknown })
}

fn intercept() -> impl Strategy<Value = Intercept> {
    let ranges = vec![("10.0.0.0", 8), ("192.0.2.7", 32), ("fd00::", 8)];
    (subsequence(ranges, 0..=3), place()).prop_map(|(ranges, place)| {
        let one = |(network, prefix): (&str, u8)| Cidr { network: network.parse().expect("an address"), prefix };
        Intercept { addresses: ranges.into_iter().map(one).collect(), ports: Vec::new(), place }
    })
}

/// A cluster that bytes are handed on to.
pub(crate) fn raw(cluster: impl Strategy<Value = Cluster>) -> impl Strategy<Value = Cluster> {
    let header = of(select(vec![ProxyVersion::V1, ProxyVersion::V2]));
    let probe = any::<bool>();
    (cluster, header, probe).prop_map(|(cluster, proxy_protocol, probe)| Cluster {
        protocol: ClusterProtocol::Tcp,
        connection: ConnectionOptions { proxy_protocol, ..cluster.connection },
        health_check: cluster.health_check.filter(|_| probe).map(|check| HealthCheck { probe: Probe::Tcp, ..check }),
        ..cluster
    })
}

/// A listener of TCP with a policy about who connects.
fn guarded() -> Config {
    let text = "identity: { certificate: /state/svid.pem, privateKey: /state/svid.key, trustBundle: /state/roots.pem }\n\
        admin: off\naccessLog: off\nnode: { id: proxy-1 }\nlisteners:\n  - { name: raw, bind: 127.0.0.1:1, protocol: tcp, tls: { mode: strict }, \
        authorization: p, tcp: { backendRefs: [{ cluster: db }] } }\nclusters: { db: { protocol: tcp, endpoints: \
        [127.0.0.1:2] } }\nauthorization: { p: { default: deny, rules: [{ name: a, action: allow, from: [{ identities: \
        [\"spiffe://a/b\"] }] }] } }\n";
    let loaded = outrigger_config::load("a.yaml", text).unwrap_or_else(|problems| panic!("{problems}"));
    (*loaded.config).clone()
}

#[test]
fn a_policy_of_connections_travels_and_a_stock_envoy_obeys_it() {
    use outrigger_xds::envoy::config::listener::v3::{Listener as Message, filter::ConfigType};
    use outrigger_xds::{Form, Kind, encode};
    use prost::Message as _;
    let config = guarded();
    let read = crate::roundtrip::through(&config, Form::Outrigger).expect("decoded");
    assert_eq!((&read.listeners, &read.authorization), (&config.listeners, &config.authorization));
    let resources = encode::config(&config, Form::Envoy);
    let resource = resources.iter().find(|one| one.kind == Kind::Listener).expect("the listener");
    let message = Message::decode(&*resource.body).expect("a listener");
    let types: Vec<String> = message.filter_chains[0]
        .filters
        .iter()
        .map(|filter| match &filter.config_type {
            Some(ConfigType::TypedConfig(any)) => any.type_url.rsplit('.').next().unwrap_or_default().to_owned(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(types, ["RBAC", "TcpProxy"]);
}

/// Envoy has no list of proxies whose headers it believes: it takes connections from those alone.
#[test]
fn a_stock_envoy_takes_headers_from_the_proxies_that_are_named() {
    use outrigger_xds::envoy::config::listener::v3::Listener as Message;
    use outrigger_xds::{Form, Kind, encode};
    use prost::Message as _;
    let mut config = guarded();
    let from = vec![Cidr { network: [10, 0, 0, 0].into(), prefix: 8 }];
    config.listeners[0].proxy_protocol = Some(ProxyProtocol { mode: ProxyHeader::Strict, from });
    let read = crate::roundtrip::through(&config, Form::Outrigger).expect("decoded");
    assert_eq!(read.listeners, config.listeners);
    for (form, ranges) in [(Form::Envoy, 1), (Form::Outrigger, 0)] {
        let resources = encode::config(&config, form);
        let resource = resources.iter().find(|one| one.kind == Kind::Listener).expect("the listener");
        let message = Message::decode(&*resource.body).expect("a listener");
        assert!(message.default_filter_chain.is_none() && !message.filter_chains.is_empty());
        for chain in &message.filter_chains {
            let condition = chain.filter_chain_match.as_ref().expect("a condition");
            assert_eq!(condition.direct_source_prefix_ranges.len(), ranges, "{form:?}");
        }
    }
}
