//! What a stock control plane says of bytes that nobody understands, of tunnels and of HTTP/3.

use std::time::Duration;

use outrigger_config::model::{
    Cluster, ClusterProtocol, Connect, Interception, InterceptionMode, Listener, ListenerProtocol, ProxyHeader,
    ProxyProtocol, ProxyVersion, TlsMode, Unknown,
};
use outrigger_xds::Kind;
use outrigger_xds::decode::What;
use outrigger_xds::envoy::config::cluster::v3 as cluster;
use outrigger_xds::envoy::config::core::v3 as core;
use outrigger_xds::envoy::config::listener::v3 as listener;
use outrigger_xds::envoy::extensions::filters::listener::http_inspector::v3 as http_inspector;
use outrigger_xds::envoy::extensions::filters::listener::original_dst::v3 as original_dst;
use outrigger_xds::envoy::extensions::filters::listener::proxy_protocol::v3 as proxy_protocol;
use outrigger_xds::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use outrigger_xds::envoy::extensions::filters::network::tcp_proxy::v3 as tcp_proxy;
use outrigger_xds::envoy::extensions::filters::udp::udp_proxy::v3 as udp_proxy;
use outrigger_xds::envoy::extensions::transport_sockets::proxy_protocol::v3 as header;
use outrigger_xds::envoy::extensions::transport_sockets::quic::v3 as quic;
use outrigger_xds::envoy::extensions::transport_sockets::tls::v3 as tls;
use outrigger_xds::envoy::extensions::upstreams::http::v3 as upstream;
use outrigger_xds::google::protobuf;

use crate::foreign::{address, ads, any, eds, fields, listening, routing, take};

fn filter(config: protobuf::Any) -> listener::ListenerFilter {
    listener::ListenerFilter {
        name: "f".to_owned(),
        config_type: Some(listener::listener_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}

fn bytes_to(cluster: &str) -> listener::FilterChain {
    let proxy = tcp_proxy::TcpProxy {
        stat_prefix: "x".to_owned(),
        cluster_specifier: Some(tcp_proxy::tcp_proxy::ClusterSpecifier::Cluster(cluster.to_owned())),
        idle_timeout: Some(protobuf::Duration { seconds: 60, nanos: 0 }),
        ..Default::default()
    };
    listener::FilterChain {
        filters: vec![listener::Filter {
            name: "tcp".to_owned(),
            config_type: Some(listener::filter::ConfigType::TypedConfig(any(&proxy))),
        }],
        ..Default::default()
    }
}

fn raw() -> listener::Listener {
    listener::Listener {
        name: "edge".to_owned(),
        address: Some(address("127.0.0.1", 10_000)),
        filter_chains: vec![bytes_to("db")],
        ..Default::default()
    }
}

fn taken(message: &listener::Listener) -> Listener {
    match take(Kind::Listener, "edge", message).expect("taken").what {
        What::Listener(decoded) => decoded.listener.clone(),
        other => panic!("{other:?}"),
    }
}

fn taken_cluster(message: &cluster::Cluster) -> Cluster {
    match take(Kind::Cluster, &message.name, message).expect("taken").what {
        What::Cluster(decoded) => decoded.cluster.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_chain_with_the_tcp_proxy_alone_is_a_listener_of_tcp() {
    let found = taken(&raw());
    assert_eq!((found.protocol, found.routes, found.tls), (ListenerProtocol::Tcp, None, None));
    let tcp = found.tcp.expect("its backends");
    assert_eq!((&*tcp.backends[0].cluster, tcp.idle_timeout), ("db", Duration::from_secs(60)));
}

#[test]
fn a_tcp_proxy_behind_tls_is_a_listener_of_tcp_that_terminates_it() {
    let context = tls::DownstreamTlsContext {
        common_tls_context: Some(tls::CommonTlsContext {
            tls_certificate_sds_secret_configs: vec![tls::SdsSecretConfig {
                name: "default".to_owned(),
                sds_config: Some(ads()),
            }],
            ..Default::default()
        }),
        ..Default::default()
    };
    let chain = listener::FilterChain {
        transport_socket: Some(core::TransportSocket {
            name: "tls".to_owned(),
            config_type: Some(core::transport_socket::ConfigType::TypedConfig(any(&context))),
        }),
        ..bytes_to("db")
    };
    let found = taken(&listener::Listener { filter_chains: vec![chain], ..raw() });
    assert_eq!(found.protocol, ListenerProtocol::Tcp);
    assert_eq!(found.tls.map(|tls| tls.mode), Some(TlsMode::Strict));
    assert!(found.tcp.is_some());
}

#[test]
fn chains_told_apart_by_http_hand_on_the_rest() {
    let mut message = listening(vec![routing()]);
    message.filter_chains[0].filter_chain_match = Some(listener::FilterChainMatch {
        application_protocols: vec!["http/1.1".to_owned(), "h2c".to_owned()],
        ..Default::default()
    });
    message.default_filter_chain = Some(bytes_to("db"));
    message.listener_filters = vec![filter(any(&http_inspector::HttpInspector::default()))];
    let found = taken(&message);
    assert_eq!((found.protocol, found.routes.as_deref()), (ListenerProtocol::Auto, Some("main")));
    assert_eq!(&*found.tcp.expect("the rest").backends[0].cluster, "db");

    let condition = message.filter_chains[0].filter_chain_match.as_mut().expect("the condition");
    condition.application_protocols.push("istio".to_owned());
    let found = fields(take(Kind::Listener, "edge", &message));
    assert_eq!(found, ["filter_chains[0].filter_chain_match.application_protocols"]);
}

#[test]
fn the_proxy_protocol_and_original_destinations_are_listener_filters() {
    for (lenient, wanted) in [(false, ProxyHeader::Strict), (true, ProxyHeader::Optional)] {
        let message =
            proxy_protocol::ProxyProtocol { allow_requests_without_proxy_protocol: lenient, ..Default::default() };
        let filters = vec![filter(any(&original_dst::OriginalDst {})), filter(any(&message))];
        let found = taken(&listener::Listener { listener_filters: filters, ..raw() });
        assert_eq!(found.proxy_protocol, Some(ProxyProtocol { mode: wanted, from: Vec::new() }));
        let by = Interception { mode: InterceptionMode::Redirect, unknown: Unknown::Serve };
        assert_eq!(found.interception, Some(by));
    }
    let on = Some(protobuf::BoolValue { value: true });
    let found = taken(&listener::Listener { use_original_dst: on, transparent: on, ..raw() });
    assert_eq!(found.interception.map(|by| by.mode), Some(InterceptionMode::Tproxy));
    let off = Some(protobuf::BoolValue { value: false });
    let found = fields(take(Kind::Listener, "edge", &listener::Listener { bind_to_port: off, ..raw() }));
    assert_eq!(found, ["bind_to_port"]);
}

#[test]
fn nothing_is_upgraded_to_that_is_not_listed_and_h2c_never() {
    let with = |types: &[&str]| {
        let mut message = listening(vec![routing()]);
        let Some(listener::filter::ConfigType::TypedConfig(config)) =
            &mut message.filter_chains[0].filters[0].config_type
        else {
            panic!("a manager");
        };
        let mut manager: hcm::HttpConnectionManager = prost::Message::decode(&*config.value).expect("the manager");
        let one = |name: &&str| hcm::http_connection_manager::UpgradeConfig {
            upgrade_type: (*name).to_owned(),
            ..Default::default()
        };
        manager.upgrade_configs = types.iter().map(one).collect();
        *config = any(&manager);
        message
    };
    let found = taken(&with(&[])).upgrades;
    assert!(found.allow.is_empty() && found.connect == Connect::Deny, "{found:?}");
    let found = taken(&with(&["WebSocket", "CONNECT"])).upgrades;
    assert_eq!((found.allow, found.connect), (vec!["websocket".into()], Connect::Route));
    let found = fields(take(Kind::Listener, "edge", &with(&["h2c"])));
    assert_eq!(found, ["filter_chains[0].filters[0].typed_config.upgrade_configs[0].upgrade_type"]);
}

#[test]
fn datagrams_are_taken_and_quic_alone_is_refused_by_name() {
    let mut message = listener::Listener { filter_chains: Vec::new(), ..raw() };
    let Some(core::Address { address: Some(core::address::Address::SocketAddress(socket)) }) = &mut message.address
    else {
        panic!("an address");
    };
    socket.protocol = core::socket_address::Protocol::Udp as i32;
    let found = fields(take(Kind::Listener, "edge", &message));
    assert_eq!(found, ["listener_filters"], "datagrams that lead nowhere");
    let proxy = udp_proxy::UdpProxyConfig {
        stat_prefix: "x".to_owned(),
        route_specifier: Some(udp_proxy::udp_proxy_config::RouteSpecifier::Cluster("dns".to_owned())),
        ..Default::default()
    };
    message.listener_filters = vec![filter(any(&proxy))];
    message.udp_listener_config = Some(listener::UdpListenerConfig::default());
    let found = taken(&message);
    let udp = found.udp.expect("its backends");
    assert_eq!((found.protocol, &*udp.backends[0].cluster), (ListenerProtocol::Udp, "dns"));
    assert_eq!(udp.idle_timeout, Duration::from_secs(60));

    message.udp_listener_config.as_mut().expect("options").quic_options =
        Some(listener::QuicProtocolOptions::default());
    assert_eq!(fields(take(Kind::Listener, "edge", &message)), ["udp_listener_config.quic_options"]);
}

#[test]
fn a_proxy_header_to_a_cluster_makes_it_one_of_tcp() {
    let message = header::ProxyProtocolUpstreamTransport {
        config: Some(core::ProxyProtocolConfig {
            version: core::proxy_protocol_config::Version::V2 as i32,
            ..Default::default()
        }),
        ..Default::default()
    };
    let socket = core::TransportSocket {
        name: "proxy".to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(any(&message))),
    };
    let found = taken_cluster(&cluster::Cluster { transport_socket: Some(socket), ..eds("db") });
    assert_eq!((found.protocol, found.tls), (ClusterProtocol::Tcp, None));
    assert_eq!(found.connection.proxy_protocol, Some(ProxyVersion::V2));
}

#[test]
fn a_cluster_of_http3_has_the_options_and_the_transport_of_quic() {
    use upstream::http_protocol_options::explicit_http_config::ProtocolConfig;
    use upstream::http_protocol_options::{ExplicitHttpConfig, UpstreamProtocolOptions};
    let options = upstream::HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(ProtocolConfig::Http3ProtocolOptions(core::Http3ProtocolOptions::default())),
        })),
        ..Default::default()
    };
    let secret = |name: &str| tls::SdsSecretConfig { name: name.to_owned(), sds_config: Some(ads()) };
    let context = tls::UpstreamTlsContext {
        sni: "db.example".to_owned(),
        auto_sni_san_validation: true,
        common_tls_context: Some(tls::CommonTlsContext {
            validation_context_type: Some(
                tls::common_tls_context::ValidationContextType::ValidationContextSdsSecretConfig(secret("ROOTCA")),
            ),
            ..Default::default()
        }),
        ..Default::default()
    };
    let socket = |config: protobuf::Any| core::TransportSocket {
        name: "s".to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(config)),
    };
    let mut message = cluster::Cluster {
        transport_socket: Some(socket(any(&quic::QuicUpstreamTransport {
            upstream_tls_context: Some(context.clone()),
        }))),
        ..eds("far")
    };
    let key = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned();
    message.typed_extension_protocol_options.insert(key, any(&options));
    let found = taken_cluster(&message);
    assert_eq!((found.protocol, found.tls.is_some()), (ClusterProtocol::Http3, true));
    message.transport_socket = Some(socket(any(&context)));
    assert_eq!(fields(take(Kind::Cluster, "far", &message)), ["transport_socket"]);
}
