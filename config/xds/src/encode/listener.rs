//! Listeners: which connections are terminated, how, and what is done with the rest.

use outrigger_config::model::{
    ClientCertHeader, Direction, EscapedSlashes, HostPattern, InterceptionMode, Listener, ListenerLimits,
    ListenerProtocol, ListenerTls, Passthrough, PathOptions, TlsMode, TlsVersion, Trust,
};

use prost::Message as _;

use super::{Form, Policies, access, filters, opaque, resilience, tokens};
use crate::extensions::{ListenerExtension, ListenerTlsExtension, PassthroughExtension, WeightedBackend};
use crate::pb::{core, hcm, listener, tcp_proxy, tls_inspector};
use crate::{Kind, Resource, wire};

/// A listener with all that it refers to but its routes and clusters. What `policies` lacks is left out: the configuration
/// has been checked.
///
/// gRPC clients have no such listeners: see [`super::client_listener`].
#[must_use]
pub fn listener(config: &Listener, policies: &Policies<'_>, form: Form) -> Resource {
    Resource::new(Kind::Listener, config.name.clone(), &message(config, policies, form))
}

fn message(config: &Listener, policies: &Policies<'_>, form: Form) -> listener::Listener {
    let chains = Chains::of(config, policies, form);
    let chains = if form == Form::Envoy { chains.only_from(config) } else { chains };
    let inspects = !chains.list.is_empty() && config.tls.is_some();
    let (mut listener_filters, after) = opaque::filters(config);
    listener_filters.extend(inspects.then(inspector));
    listener_filters.extend(after);
    let over_udp = config.protocol == ListenerProtocol::Udp;
    let mut address = wire::address(&config.bind.ip().to_string(), config.bind.port());
    if let (true, Some(core::address::Address::SocketAddress(socket))) = (over_udp, &mut address.address) {
        socket.protocol = core::socket_address::Protocol::Udp as i32;
    }
    listener::Listener {
        name: config.name.to_string(),
        address: Some(address),
        filter_chains: chains.list,
        default_filter_chain: chains.default,
        listener_filters,
        use_original_dst: config.interception.as_ref().and_then(|_| wire::flag(true)),
        transparent: config
            .interception
            .as_ref()
            .filter(|interception| interception.mode == InterceptionMode::Tproxy)
            .and_then(|_| wire::flag(true)),
        udp_listener_config: over_udp.then(listener::UdpListenerConfig::default),
        listener_filters_timeout: wire::duration(config.limits.detect_timeout),
        traffic_direction: match config.direction {
            Direction::Inbound => core::TrafficDirection::Inbound,
            Direction::Outbound => core::TrafficDirection::Outbound,
        } as i32,
        metadata: (form == Form::Outrigger)
            .then(|| wire::metadata("ListenerExtension", &extension(config, policies, form))),
        ..Default::default()
    }
}

/// The chains of a listener. One that terminates TLS beside others takes what they leave.
struct Chains {
    list: Vec<listener::FilterChain>,
    default: Option<listener::FilterChain>,
}

impl Chains {
    fn of(config: &Listener, policies: &Policies<'_>, form: Form) -> Self {
        let http =
            || network("envoy.filters.network.http_connection_manager", wire::any(&manager(config, policies, form)));
        // Our own proxy has the policy from our own message.
        let guards = || {
            let policy = config.authorization.as_ref().filter(|_| form == Form::Envoy);
            let policy = policy.and_then(|name| policies.authorization.get(name));
            policy.map_or_else(Vec::new, |policy| access::network(policy, policies))
        };
        let bytes = |config: &Listener| config.tcp.as_ref().map(|tcp| opaque::proxy(&config.name, tcp));
        let service = || match config.protocol {
            ListenerProtocol::Tcp => guards().into_iter().chain(bytes(config)).collect(),
            ListenerProtocol::Auto | ListenerProtocol::Http1 | ListenerProtocol::Http2 => vec![http()],
            ListenerProtocol::Udp => Vec::new(),
        };
        let of = |filters: Vec<listener::Filter>| listener::FilterChain { filters, ..Default::default() };
        let plain = || of(service());
        // What is not HTTP, and not inside TLS, where Envoy does not look for it.
        let rest = || {
            bytes(config)
                .filter(|_| config.protocol == ListenerProtocol::Auto)
                .map(|filter| of(guards().into_iter().chain([filter]).collect()))
        };
        let matching = |chain: listener::FilterChain, protocol: &str| listener::FilterChain {
            filter_chain_match: Some(listener::FilterChainMatch {
                transport_protocol: protocol.to_owned(),
                ..Default::default()
            }),
            ..chain
        };
        let only_http = |mut chain: listener::FilterChain| {
            let condition = chain.filter_chain_match.get_or_insert_default();
            condition.application_protocols = opaque::HTTP.iter().map(|&name| name.to_owned()).collect();
            chain
        };
        let Some(tls) = &config.tls else {
            let list = match (config.protocol, rest()) {
                (ListenerProtocol::Udp, _) => Vec::new(),
                (_, Some(rest)) => vec![only_http(plain()), rest],
                (_, None) => vec![plain()],
            };
            return Self { list, default: None };
        };
        let terminating = || listener::FilterChain {
            transport_socket: Some(super::tls::downstream(tls, config.protocol, form)),
            transport_socket_connect_timeout: wire::duration(tls.handshake_timeout),
            ..plain()
        };
        let mut list: Vec<listener::FilterChain> =
            tls.passthrough.iter().flat_map(|entry| handed_on(config, entry)).collect();
        if tls.mode == TlsMode::Permissive {
            match rest() {
                Some(rest) => {
                    list.push(only_http(matching(plain(), "raw_buffer")));
                    list.push(matching(rest, "raw_buffer"));
                }
                None => list.push(matching(plain(), "raw_buffer")),
            }
        }
        match tls.mode {
            TlsMode::Passthrough | TlsMode::Off => Self { list, default: None },
            TlsMode::Strict | TlsMode::Permissive if tls.passthrough.is_empty() => {
                list.push(matching(terminating(), "tls"));
                Self { list, default: None }
            }
            TlsMode::Strict | TlsMode::Permissive => Self { list, default: Some(terminating()) },
        }
    }
}

impl Chains {
    /// Envoy believes PROXY headers of everyone. Where some are named, the others have no chain, and are closed: also those
    /// that would be taken without a header.
    fn only_from(self, config: &Listener) -> Self {
        let Some(headers) = config.proxy_protocol.as_ref().filter(|headers| !headers.from.is_empty()) else {
            return self;
        };
        let Self { mut list, default } = self;
        if let Some(mut chain) = default {
            chain.filter_chain_match.get_or_insert_default().transport_protocol = "tls".to_owned();
            // What has the same condition is before it, and takes all of it.
            if list.iter().all(|other| other.filter_chain_match != chain.filter_chain_match) {
                list.push(chain);
            }
        }
        for chain in &mut list {
            let condition = chain.filter_chain_match.get_or_insert_default();
            condition.direct_source_prefix_ranges = headers.from.iter().map(access::cidr).collect();
        }
        Self { list, default: None }
    }
}

/// The chains of an entry: one for its names, one for connections without any, in their order.
fn handed_on(config: &Listener, entry: &Passthrough) -> Vec<listener::FilterChain> {
    let named: Vec<String> = entry.hostnames.iter().filter_map(server_name).collect();
    let any = entry.hostnames.contains(&HostPattern::Any);
    let clusters = entry.backends.iter().filter(|backend| backend.weight > 0);
    let proxy = tcp_proxy::TcpProxy {
        stat_prefix: config.name.to_string(),
        idle_timeout: wire::duration(config.limits.stream_idle_timeout),
        cluster_specifier: Some(tcp_proxy::tcp_proxy::ClusterSpecifier::WeightedClusters(
            tcp_proxy::tcp_proxy::WeightedCluster {
                clusters: clusters
                    .map(|backend| tcp_proxy::tcp_proxy::weighted_cluster::ClusterWeight {
                        name: backend.cluster.to_string(),
                        weight: backend.weight,
                        metadata_match: None,
                    })
                    .collect(),
            },
        )),
        ..Default::default()
    };
    let chain = |server_names: Vec<String>| listener::FilterChain {
        filter_chain_match: Some(listener::FilterChainMatch {
            transport_protocol: "tls".to_owned(),
            server_names,
            ..Default::default()
        }),
        filters: vec![network("envoy.filters.network.tcp_proxy", wire::any(&proxy))],
        ..Default::default()
    };
    let names = (!named.is_empty()).then(|| chain(named));
    names.into_iter().chain(any.then(|| chain(Vec::new()))).collect()
}

/// A server name that Envoy can say: "any" is none.
fn server_name(pattern: &HostPattern) -> Option<String> {
    match pattern {
        HostPattern::Any => None,
        HostPattern::Wildcard(suffix) => Some(format!("*.{suffix}")),
        HostPattern::Exact(name) => Some(name.to_string()),
    }
}

pub(super) fn network(name: &str, config: crate::pb::Any) -> listener::Filter {
    listener::Filter { name: name.to_owned(), config_type: Some(listener::filter::ConfigType::TypedConfig(config)) }
}

fn inspector() -> listener::ListenerFilter {
    opaque::filter("envoy.filters.listener.tls_inspector", wire::any(&tls_inspector::TlsInspector::default()))
}

fn manager(config: &Listener, policies: &Policies<'_>, form: Form) -> hcm::HttpConnectionManager {
    use hcm::http_connection_manager::{
        CodecType, ForwardClientCertDetails, PathWithEscapedSlashesAction, RouteSpecifier, SetCurrentClientCertDetails,
    };
    let ListenerLimits {
        max_connections: _,
        max_head_bytes,
        max_headers,
        max_concurrent_streams,
        header_timeout,
        idle_timeout,
        stream_idle_timeout,
        max_connection_age,
        detect_timeout: _,
    } = config.limits;
    let PathOptions { merge_slashes, escaped_slashes } = config.path;
    hcm::HttpConnectionManager {
        codec_type: match config.protocol {
            ListenerProtocol::Auto | ListenerProtocol::Tcp | ListenerProtocol::Udp => CodecType::Auto,
            ListenerProtocol::Http1 => CodecType::Http1,
            ListenerProtocol::Http2 => CodecType::Http2,
        } as i32,
        stat_prefix: config.name.to_string(),
        http_filters: filters::http(config, policies),
        route_specifier: config.routes.as_ref().map(|routes| {
            RouteSpecifier::Rds(hcm::Rds { config_source: Some(wire::ads()), route_config_name: routes.to_string() })
        }),
        common_http_protocol_options: Some(core::HttpProtocolOptions {
            idle_timeout: wire::duration(idle_timeout),
            max_connection_duration: (!max_connection_age.is_zero())
                .then(|| wire::duration(max_connection_age))
                .flatten(),
            max_headers_count: wire::number(u32::from(max_headers)),
            ..Default::default()
        }),
        http2_protocol_options: Some(core::Http2ProtocolOptions {
            max_concurrent_streams: wire::number(max_concurrent_streams),
            allow_connect: true,
            ..Default::default()
        }),
        max_request_headers_kb: wire::number(max_head_bytes.div_ceil(1024)),
        stream_idle_timeout: wire::duration(stream_idle_timeout),
        request_headers_timeout: wire::duration(header_timeout),
        use_remote_address: wire::flag(config.trust != Trust::Local),
        xff_num_trusted_hops: match config.trust {
            Trust::Hops(hops) => u32::from(hops),
            Trust::None | Trust::Local => 0,
        },
        forward_client_cert_details: match config.client_cert_header {
            ClientCertHeader::Sanitize => ForwardClientCertDetails::Sanitize,
            ClientCertHeader::Forward => ForwardClientCertDetails::ForwardOnly,
            ClientCertHeader::Append => ForwardClientCertDetails::AppendForward,
            ClientCertHeader::Set => ForwardClientCertDetails::SanitizeSet,
        } as i32,
        // What our own proxy tells.
        set_current_client_cert_details: Some(SetCurrentClientCertDetails {
            subject: wire::flag(true),
            dns: true,
            uri: true,
            ..Default::default()
        }),
        upgrade_configs: opaque::upgrade_configs(&config.upgrades),
        normalize_path: wire::flag(true),
        merge_slashes,
        path_with_escaped_slashes_action: match escaped_slashes {
            EscapedSlashes::Keep => PathWithEscapedSlashesAction::KeepUnchanged,
            EscapedSlashes::Reject => PathWithEscapedSlashesAction::RejectRequest,
        } as i32,
        // Grpc clients have listeners of their own.
        strip_trailing_host_dot: form != Form::Grpc,
        ..Default::default()
    }
}

fn extension(config: &Listener, policies: &Policies<'_>, form: Form) -> ListenerExtension {
    let limits = &config.limits;
    let terminates = config.tls.as_ref().is_none_or(|tls| tls.mode != TlsMode::Passthrough);
    let policy = config.authorization.as_ref().and_then(|name| policies.authorization.get(name));
    let authorizer = config.external_authorization.as_ref().and_then(|name| policies.external_authorizers.get(name));
    let providers =
        config.jwt.iter().flat_map(|jwt| &jwt.providers).filter_map(|name| policies.jwt_providers.get(name));
    let mut out = ListenerExtension {
        place: wire::place(&config.place),
        max_connections: limits.max_connections,
        max_head_bytes: (!limits.max_head_bytes.is_multiple_of(1024)).then_some(limits.max_head_bytes),
        tls: config.tls.as_ref().map(tls_extension),
        authorization: policy.map(access::extension),
        external_authorization: authorizer.map(tokens::authorizer_extension),
        providers: providers.map(tokens::provider_extension).collect(),
        manager: (!terminates || !opaque::sees_requests(config.protocol))
            .then(|| manager(config, policies, form).encode_to_vec()),
        handshake_timeout: config
            .tls
            .as_ref()
            .filter(|_| !terminates)
            .and_then(|tls| wire::own_duration(tls.handshake_timeout)),
        rate_limits: config.rate_limits.iter().map(resilience::rate_limit).collect(),
        rate_limit_services: policies.rate_limit_services.iter().map(resilience::service).collect(),
        ..Default::default()
    };
    opaque::complete(config, &mut out);
    out
}

fn tls_extension(config: &ListenerTls) -> ListenerTlsExtension {
    ListenerTlsExtension {
        place: wire::place(&config.place),
        max_handshakes: config.max_handshakes,
        proposed_strict: config.proposed_mode == Some(TlsMode::Strict),
        certificates: config.certificates.iter().filter_map(|files| wire::place(&files.place)).collect(),
        passthrough: config.passthrough.iter().map(passthrough_extension).collect(),
        min_version: (config.mode == TlsMode::Passthrough).then(|| {
            match config.min_version {
                TlsVersion::V1_2 => "1.2",
                TlsVersion::V1_3 => "1.3",
            }
            .to_owned()
        }),
    }
}

fn passthrough_extension(entry: &Passthrough) -> PassthroughExtension {
    let any = entry.hostnames.contains(&HostPattern::Any);
    let named = entry.hostnames.iter().any(|pattern| *pattern != HostPattern::Any);
    let moved = any && named && entry.hostnames.last() != Some(&HostPattern::Any);
    let text = |pattern: &HostPattern| server_name(pattern).unwrap_or_else(|| "*".to_owned());
    PassthroughExtension {
        place: wire::place(&entry.place),
        chains: u32::from(any) + u32::from(named),
        hostnames: if moved { entry.hostnames.iter().map(text).collect() } else { Vec::new() },
        backends: if entry.backends.iter().any(|backend| backend.weight == 0) {
            let one = |backend: &outrigger_config::model::BackendRef| WeightedBackend {
                cluster: backend.cluster.to_string(),
                weight: backend.weight,
            };
            entry.backends.iter().map(one).collect()
        } else {
            Vec::new()
        },
    }
}
