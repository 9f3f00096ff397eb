//! HTTP/3, tunnels, and what is handed on without being understood.

use outrigger_config::model::{
    BackendRef, Connect, EarlyData, Http3, Intercept, Interception, InterceptionMode, Listener, ListenerProtocol,
    PortRange, ProxyHeader, ProxyProtocol, ProxyVersion, TcpForwarding, UdpForwarding, Unknown, Upgrades,
};

use super::resilience;
use crate::extensions::{
    ForwardedBackend, Http3Extension, InterceptExtension, InterceptionExtension, ListenerExtension,
    PortRange as PortRangeExtension, TcpExtension, UdpExtension, UpgradesExtension,
};
use crate::pb::{self, core, hcm, http_inspector, listener, original_dst, proxy_protocol, tcp_proxy, udp_proxy};
use crate::wire;

/// Whether requests are what comes over this protocol.
pub(super) fn sees_requests(protocol: ListenerProtocol) -> bool {
    match protocol {
        ListenerProtocol::Auto | ListenerProtocol::Http1 | ListenerProtocol::Http2 => true,
        ListenerProtocol::Tcp | ListenerProtocol::Udp => false,
    }
}

/// Puts in what Envoy's fields cannot say.
pub(super) fn complete(config: &Listener, out: &mut ListenerExtension) {
    out.protocol = match config.protocol {
        ListenerProtocol::Auto | ListenerProtocol::Http1 | ListenerProtocol::Http2 => None,
        ListenerProtocol::Tcp => Some("tcp".to_owned()),
        ListenerProtocol::Udp => Some("udp".to_owned()),
    };
    out.http3 = config.http3.as_ref().map(http3);
    out.upgrades = Some(upgrades(&config.upgrades));
    out.tcp = config.tcp.as_ref().map(|TcpForwarding { backends, idle_timeout, place }| TcpExtension {
        place: wire::place(place),
        backends: backends.iter().map(forwarded).collect(),
        idle_timeout: wire::own_duration(*idle_timeout),
    });
    out.udp = config.udp.as_ref().map(|UdpForwarding { backends, idle_timeout, max_sessions, place }| UdpExtension {
        place: wire::place(place),
        backends: backends.iter().map(forwarded).collect(),
        idle_timeout: wire::own_duration(*idle_timeout),
        max_sessions: *max_sessions,
    });
    if let Some(ProxyProtocol { mode, from }) = &config.proxy_protocol {
        let mode = match mode {
            ProxyHeader::Strict => "strict",
            ProxyHeader::Optional => "optional",
        };
        out.proxy_protocol = Some(mode.to_owned());
        out.proxy_protocol_from = from.iter().map(ToString::to_string).collect();
    }
    out.interception = config.interception.as_ref().map(interception);
    out.intercepts = config.intercepts.iter().map(intercept).collect();
}

fn http3(Http3 { advertise, max_age, early_data }: &Http3) -> Http3Extension {
    Http3Extension {
        advertise: advertise.map(u32::from),
        max_age: wire::own_duration(*max_age),
        early_data: *early_data == EarlyData::SafeMethods,
    }
}

fn upgrades(config: &Upgrades) -> UpgradesExtension {
    let Upgrades { allow, connect, idle_timeout, max_duration, max_tunnels, max_per_caller } = config;
    UpgradesExtension {
        allow: allow.iter().map(ToString::to_string).collect(),
        connect: match connect {
            Connect::Deny => "deny",
            Connect::Route => "route",
            Connect::Tunnel => "tunnel",
        }
        .to_owned(),
        idle_timeout: wire::own_duration(*idle_timeout),
        max_duration: wire::own_duration(*max_duration),
        max_tunnels: *max_tunnels,
        max_per_caller: *max_per_caller,
    }
}

fn forwarded(BackendRef { cluster, weight, subset, filters: _ }: &BackendRef) -> ForwardedBackend {
    let subset = (!subset.is_empty()).then(|| resilience::labels(subset));
    ForwardedBackend { cluster: cluster.to_string(), weight: *weight, subset }
}

fn interception(Interception { mode, unknown }: &Interception) -> InterceptionExtension {
    InterceptionExtension {
        mode: match mode {
            InterceptionMode::Redirect => "redirect",
            InterceptionMode::Tproxy => "tproxy",
        }
        .to_owned(),
        unknown: match unknown {
            Unknown::Serve => "serve",
            Unknown::PassThrough => "pass-through",
            Unknown::Refuse => "refuse",
        }
        .to_owned(),
    }
}

fn intercept(Intercept { addresses, ports, place }: &Intercept) -> InterceptExtension {
    let range =
        |PortRange { first, last }: &PortRange| PortRangeExtension { first: u32::from(*first), last: u32::from(*last) };
    InterceptExtension {
        place: wire::place(place),
        addresses: addresses.iter().map(ToString::to_string).collect(),
        ports: ports.iter().map(range).collect(),
    }
}

/// What is said of upgrades in a connection manager. That CONNECT ends at the proxy, Envoy would have to be told by routes.
pub(super) fn upgrade_configs(config: &Upgrades) -> Vec<hcm::http_connection_manager::UpgradeConfig> {
    use hcm::http_connection_manager::UpgradeConfig;
    let one = |name: &str| UpgradeConfig { upgrade_type: name.to_owned(), ..Default::default() };
    let connect = (config.connect != Connect::Deny).then(|| one("CONNECT"));
    config.allow.iter().map(|token| one(token)).chain(connect).collect()
}

/// The network filter that hands connections on.
pub(super) fn proxy(name: &str, config: &TcpForwarding) -> listener::Filter {
    use tcp_proxy::tcp_proxy::{ClusterSpecifier, WeightedCluster, weighted_cluster::ClusterWeight};
    let clusters = config.backends.iter().filter(|backend| backend.weight > 0);
    let message = tcp_proxy::TcpProxy {
        stat_prefix: name.to_owned(),
        idle_timeout: wire::duration(config.idle_timeout),
        cluster_specifier: Some(ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: clusters
                .map(|backend| ClusterWeight {
                    name: backend.cluster.to_string(),
                    weight: backend.weight,
                    // Envoy is not told of labels.
                    metadata_match: None,
                })
                .collect(),
        })),
        ..Default::default()
    };
    super::listener::network("envoy.filters.network.tcp_proxy", wire::any(&message))
}

/// The protocols by which a chain of a plaintext listener takes what is HTTP.
pub(super) const HTTP: [&str; 3] = ["http/1.0", "http/1.1", "h2c"];

/// Listener filters beside the one that reads the ClientHello, in the order in which they are needed.
pub(super) fn filters(config: &Listener) -> (Vec<listener::ListenerFilter>, Vec<listener::ListenerFilter>) {
    let mut before = Vec::new();
    if config.interception.is_some() {
        before.push(filter("envoy.filters.listener.original_dst", wire::any(&original_dst::OriginalDst {})));
    }
    if let Some(wanted) = &config.proxy_protocol {
        let message = proxy_protocol::ProxyProtocol {
            allow_requests_without_proxy_protocol: wanted.mode == ProxyHeader::Optional,
            ..Default::default()
        };
        before.push(filter("envoy.filters.listener.proxy_protocol", wire::any(&message)));
    }
    let mut after = Vec::new();
    if config.protocol == ListenerProtocol::Auto && config.tcp.is_some() {
        let message = http_inspector::HttpInspector::default();
        after.push(filter("envoy.filters.listener.http_inspector", wire::any(&message)));
    }
    if let Some(udp) = &config.udp {
        after.push(filter("envoy.filters.udp_listener.udp_proxy", wire::any(&datagrams(&config.name, udp))));
    }
    (before, after)
}

pub(super) fn filter(name: &str, config: pb::Any) -> listener::ListenerFilter {
    listener::ListenerFilter {
        name: name.to_owned(),
        config_type: Some(listener::listener_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}

/// Envoy sends datagrams to one cluster: the one with the largest weight.
fn datagrams(name: &str, config: &UdpForwarding) -> udp_proxy::UdpProxyConfig {
    let first = config.backends.iter().rev().max_by_key(|backend| backend.weight);
    udp_proxy::UdpProxyConfig {
        stat_prefix: name.to_owned(),
        idle_timeout: wire::duration(config.idle_timeout),
        route_specifier: first
            .map(|backend| udp_proxy::udp_proxy_config::RouteSpecifier::Cluster(backend.cluster.to_string())),
        ..Default::default()
    }
}

/// A transport socket that begins with a PROXY header.
pub(super) fn with_header(version: ProxyVersion, inner: Option<core::TransportSocket>) -> core::TransportSocket {
    use core::proxy_protocol_config::Version;
    let plain = || {
        let config = wire::any(&pb::raw_buffer::RawBuffer {});
        socket("envoy.transport_sockets.raw_buffer", config)
    };
    let message = pb::upstream_proxy_protocol::ProxyProtocolUpstreamTransport {
        config: Some(core::ProxyProtocolConfig {
            version: match version {
                ProxyVersion::V1 => Version::V1,
                ProxyVersion::V2 => Version::V2,
            } as i32,
            ..Default::default()
        }),
        transport_socket: Some(inner.unwrap_or_else(plain)),
        ..Default::default()
    };
    socket("envoy.transport_sockets.upstream_proxy_protocol", wire::any(&message))
}

pub(super) fn socket(name: &str, config: pb::Any) -> core::TransportSocket {
    core::TransportSocket {
        name: name.to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(config)),
    }
}
