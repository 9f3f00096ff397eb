//! Listeners.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::grammar;
use outrigger_config::model::{
    BackendRef, ClientCertHeader, ClientCertificate, ClientTrust, Direction, EscapedSlashes, HostPattern, Labels,
    Listener, ListenerLimits, ListenerProtocol, ListenerTls, Passthrough, PathOptions, RouteTable, TlsMode, TlsVersion,
    Trust,
};
use prost::Message as _;

use super::cluster::{http2, positive};
use super::filters::{self, Filters};
use super::reader::At;
use super::tls::{self, Downstream, Socket};
use super::{DecodedListener, access, endpoint, resilience, route};
use crate::extensions::{ListenerExtension, PassthroughExtension};
use crate::pb::{core, hcm, listener, tcp_proxy, tls_inspector};
use crate::wire;

const MANAGER: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const TCP_PROXY: &str = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";

/// Discovery over the one stream; nothing else is known.
pub(super) fn over_ads(at: &At<'_>, message: &core::ConfigSource) {
    use core::config_source::ConfigSourceSpecifier::{Ads, Self_};
    unpack!(at, message => core::ConfigSource {
        take: [config_source_specifier],
        ignore: [
            initial_fetch_timeout, // what is not there yet is waited for, and nothing else is held up
            resource_api_version, // V3, since the message is
        ],
        refuse: [authorities],
    });
    if !matches!(config_source_specifier, Some(Ads(_) | Self_(_))) {
        at.refuse("resources come over the aggregated stream only; write `ads: {}`");
    }
}

pub(super) fn listener(at: &At<'_>, message: &listener::Listener) -> Option<DecodedListener> {
    unpack!(at, message => listener::Listener {
        take: [
            name,
            address,
            filter_chains,
            use_original_dst,
            default_filter_chain,
            metadata,
            listener_filters,
            listener_filters_timeout,
            traffic_direction,
            bind_to_port,
        ],
        ignore: [
            stat_prefix, // labels have the name
            stats_matcher, // metrics are ours
            per_connection_buffer_limit_bytes, // buffers have limits of their own
            per_connection_buffer_high_watermark_timeout, // likewise
            drain_type, // a listener is drained when it changes or goes
            continue_on_listener_filters_timeout, // what does not speak in time is closed
            connection_balance_config, // connections go to the least loaded worker
            reuse_port, // sockets are shared between workers anyway
            enable_reuse_port, // likewise
            access_log, // the access log is the proxy's
            tcp_backlog_size, // tuning
            max_connections_to_accept_per_socket_event, // likewise
            ignore_global_conn_limit, // there is none
            bypass_overload_manager, // likewise
            tcp_keepalive, // connections have limits of idleness
        ],
        refuse: [
            additional_addresses,
            fcds_config,
            filter_chain_matcher,
            deprecated_v1,
            transparent,
            freebind,
            socket_options,
            tcp_fast_open_queue_length,
            udp_listener_config,
            api_listener,
            enable_mptcp,
            listener_specifier,
        ],
    });
    let own = at.extension::<ListenerExtension>("ListenerExtension", metadata.as_ref());
    let own = own.as_ref();
    for (field, flag, wanted) in [("use_original_dst", use_original_dst, false), ("bind_to_port", bind_to_port, true)] {
        if flag.as_ref().is_some_and(|flag| flag.value != wanted) {
            at.field(field).refuse("original destinations are not supported; remove it");
        }
    }
    for (index, message) in listener_filters.iter().enumerate() {
        listener_filter(&at.item("listener_filters", index), message);
    }
    let name = at.field("name").held(grammar::name(name));
    let bind = address.as_ref().map_or_else(
        || {
            at.field("address").refuse("the listener has no address");
            None
        },
        |message| bind(&at.field("address"), message),
    );
    let mut chains = Chains::default();
    for (index, message) in filter_chains.iter().enumerate() {
        chains.add(&at.item("filter_chains", index), message, own, Rank::Listed);
    }
    if let Some(message) = default_filter_chain {
        chains.add(&at.field("default_filter_chain"), message, own, Rank::Default);
    }
    let (name, bind) = (name?, bind?);
    let mode = chains.mode(at, own)?;
    let http = match (chains.http.take(), own.and_then(|own| own.manager.as_ref())) {
        (Some(http), _) => Some(http),
        // The settings of one that terminates nothing.
        (None, Some(bytes)) => match hcm::HttpConnectionManager::decode(&**bytes) {
            Ok(message) => manager(&at.field("metadata"), &message, own),
            Err(error) => {
                at.field("metadata").refuse(format!("this is no HttpConnectionManager: {error}"));
                None
            }
        },
        (None, None) => None,
    };
    let mut http = match http {
        Some(http) => http,
        None if mode == Some(TlsMode::Passthrough) => Http::default(),
        None => return None,
    };
    let direction = match core::TrafficDirection::try_from(*traffic_direction) {
        Ok(core::TrafficDirection::Outbound) => Direction::Outbound,
        Ok(core::TrafficDirection::Unspecified) if name.starts_with("outbound") => Direction::Outbound,
        _ => Direction::Inbound,
    };
    http.limits.detect_timeout =
        positive(at, "listener_filters_timeout", listener_filters_timeout.as_ref()).unwrap_or(Duration::from_secs(15));
    if let Some(own) = own {
        http.limits.max_connections = own.max_connections;
        if let Some(bytes) = own.max_head_bytes {
            http.limits.max_head_bytes = bytes;
        }
    }
    let tls = mode.and_then(|mode| chains.tls(at, mode, own));
    let Filters { guards, tokens, authorizer } = http.filters;
    let authorization = guards.finish(at, own.and_then(|own| own.authorization.as_ref()), &name);
    // Inline routes are the listener's alone.
    let routes: Option<Arc<RouteTable>> =
        http.routes.map(|table| Arc::new(RouteTable { name: format!("{name}/routes").into(), ..table }));
    let (jwt, jwt_providers) = tokens.map_or((None, Vec::new()), |tokens| (Some(tokens.listener), tokens.providers));
    let mut listener = Listener {
        rate_limits: own
            .map_or(&[][..], |own| &own.rate_limits)
            .iter()
            .filter_map(|one| resilience::rate_limit(&at.field("metadata"), one))
            .collect(),
        bind,
        protocol: http.protocol,
        routes: routes.as_ref().map(|table| table.name.clone()).or(http.rds),
        direction,
        trust: http.trust,
        path: http.path,
        limits: http.limits,
        tls,
        client_cert_header: http.client_cert_header,
        authorization: None,
        jwt,
        external_authorization: authorizer.as_ref().map(|authorizer| authorizer.name.clone()),
        place: at.place_of(own.and_then(|own| own.place.as_ref())),
        name,
    };
    if own.is_none() && authorization.as_ref().is_some_and(access::names_identities) && believes_others(&listener) {
        // Envoy reads the URI of any certificate; ours is an identity only below the roots of the mesh, and what denies
        // somebody by it would let everybody in.
        let reason = "rules name identities, which only certificates of the mesh have; take the secret `ROOTCA` as validation \
                      context, or name no identities";
        at.field("filter_chains").refuse(reason);
    }
    access::refer(&mut listener, authorization.as_ref());
    let services = own.map_or(&[][..], |own| &own.rate_limit_services);
    let rate_limit_services = services.iter().filter_map(|message| resilience::service(at, message)).collect();
    Some(DecodedListener {
        listener,
        authorization,
        jwt_providers,
        external_authorizer: authorizer,
        rate_limit_services,
        routes,
    })
}

/// Whether callers are believed by other roots than those of the mesh.
fn believes_others(listener: &Listener) -> bool {
    listener.tls.as_ref().is_some_and(|tls| matches!(tls.client_trust, ClientTrust::Roots(_)))
}

fn bind(at: &At<'_>, message: &core::Address) -> Option<SocketAddr> {
    let (host, port) = endpoint::socket_address(at, message)?;
    let ip = host.parse::<IpAddr>().map_err(|_| format!("`{}` is not an address to listen on", host.escape_debug()));
    at.field("socket_address").field("address").held(ip).map(|ip| SocketAddr::new(ip, port))
}

fn listener_filter(at: &At<'_>, message: &listener::ListenerFilter) {
    const INSPECTOR: &str = "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector";
    const HTTP_INSPECTOR: &str = "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector";
    unpack!(at, message => listener::ListenerFilter {
        take: [config_type],
        ignore: [name], // the type of the configuration says which it is
        refuse: [filter_disabled],
    });
    let Some(listener::listener_filter::ConfigType::TypedConfig(any)) = config_type else {
        at.refuse("give the configuration itself, in `typed_config`");
        return;
    };
    match any.type_url.rsplit('/').next().unwrap_or_default() {
        INSPECTOR => {
            let at = at.field("typed_config");
            let Some(message) = at.typed::<tls_inspector::TlsInspector>(any) else { return };
            unpack!(at, &message => tls_inspector::TlsInspector {
                take: [],
                ignore: [
                    enable_ja3_fingerprinting, // fingerprints are not told
                    enable_ja4_fingerprinting, // likewise
                    initial_read_buffer_size, // tuning
                    close_connection_on_client_hello_parsing_errors, // always
                    max_client_hello_size, // one limit for all
                ],
                refuse: [],
            });
        }
        // Protocols are always told apart.
        HTTP_INSPECTOR => {}
        other => at.refuse(format!("the listener filter `{other}` is not supported; remove it")),
    }
}

/// What is said to a chain by where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rank {
    Listed,
    /// It takes what the others leave.
    Default,
}

/// The chains of a listener, by what they do.
#[derive(Default)]
struct Chains {
    http: Option<Http>,
    /// The message of the connection manager, which all chains that terminate must share.
    message: Option<hcm::HttpConnectionManager>,
    plain: bool,
    terminating: Option<(Downstream, Duration)>,
    handed_on: Vec<(Vec<HostPattern>, Vec<BackendRef>)>,
    idle: Option<Duration>,
}

impl Chains {
    fn add(&mut self, at: &At<'_>, message: &listener::FilterChain, own: Option<&ListenerExtension>, rank: Rank) {
        unpack!(at, message => listener::FilterChain {
            take: [filter_chain_match, filters, transport_socket, transport_socket_connect_timeout],
            ignore: [
                metadata, // of others
                name, // chains are told apart by what they do
            ],
            refuse: [use_proxy_proto],
        });
        let condition = Condition::of(&at.field("filter_chain_match"), filter_chain_match.as_ref());
        let socket = tls::socket(&at.field("transport_socket"), transport_socket.as_ref());
        let handshake = positive(at, "transport_socket_connect_timeout", transport_socket_connect_timeout.as_ref())
            .unwrap_or(Duration::from_secs(10));
        let [filter] = &filters[..] else {
            let reason = "a chain has one network filter: the HTTP connection manager, or the TCP proxy";
            at.field("filters").refuse(reason);
            return;
        };
        let inner = at.item("filters", 0);
        unpack!(inner, filter => listener::Filter {
            take: [config_type],
            ignore: [name], // the type of the configuration says which it is
            refuse: [],
        });
        let Some(listener::filter::ConfigType::TypedConfig(any)) = config_type else {
            inner.refuse("give the configuration itself, in `typed_config`");
            return;
        };
        let inner = inner.field("typed_config");
        match any.type_url.rsplit('/').next().unwrap_or_default() {
            MANAGER => {
                let Some(message) = inner.typed::<hcm::HttpConnectionManager>(any) else { return };
                match &self.message {
                    None => {
                        self.http = manager(&inner, &message, own);
                        self.message = Some(message);
                    }
                    Some(first) if *first == message => {}
                    Some(_) => inner.refuse("every chain of a listener that terminates connections says the same"),
                }
                match socket {
                    Socket::Plain => {
                        if condition.names.is_some() || condition.protocol == Protocol::Tls {
                            at.field("filter_chain_match").refuse("this chain takes TLS, and does not terminate it");
                        }
                        self.plain = true;
                    }
                    Socket::Tls(any) => {
                        if condition.names.is_some() {
                            let reason = "certificates are chosen by server name in one chain; put them into one";
                            at.field("filter_chain_match").field("server_names").refuse(reason);
                        }
                        if condition.protocol == Protocol::Plain {
                            at.field("filter_chain_match").refuse("this chain takes plaintext, and terminates TLS");
                        }
                        if self.terminating.is_some() {
                            at.field("transport_socket")
                                .refuse("a second chain that terminates TLS; put both into one");
                        }
                        if let Some(found) = tls::downstream(&at.field("transport_socket"), &any) {
                            self.terminating = Some((found, handshake));
                        }
                    }
                }
            }
            TCP_PROXY => {
                if matches!(socket, Socket::Tls(_)) || condition.protocol != Protocol::Tls || rank == Rank::Default {
                    let reason =
                        "only TLS is handed on, unread; write `transport_protocol: tls`, and no transport socket";
                    at.field("filter_chain_match").refuse(reason);
                }
                let Some(message) = inner.typed::<tcp_proxy::TcpProxy>(any) else { return };
                let backends = self.proxy(&inner, &message);
                let names = condition.names.unwrap_or_else(|| vec![HostPattern::Any]);
                self.handed_on.push((names, backends));
            }
            other => inner.refuse(format!("the network filter `{other}` is not supported; remove it")),
        }
    }

    fn proxy(&mut self, at: &At<'_>, message: &tcp_proxy::TcpProxy) -> Vec<BackendRef> {
        use tcp_proxy::tcp_proxy::{ClusterSpecifier, WeightedCluster, weighted_cluster::ClusterWeight};
        unpack!(at, message => tcp_proxy::TcpProxy {
            take: [idle_timeout, cluster_specifier],
            ignore: [
                stat_prefix, // labels have the name
                access_log, // the access log is the proxy's
                access_log_flush_interval, // likewise
                flush_access_log_on_connected, // likewise
                access_log_options, // likewise
                max_connect_attempts, // one
                backoff_options, // of more attempts
                check_drain_close, // connections are drained when the listener is
            ],
            refuse: [
                on_demand,
                metadata_match,
                downstream_idle_timeout,
                upstream_idle_timeout,
                hash_policy,
                tunneling_config,
                max_downstream_connection_duration,
                max_downstream_connection_duration_jitter_percentage,
                proxy_protocol_tlvs,
                proxy_protocol_tlv_merge_policy,
                upstream_connect_mode,
                max_early_data_bytes,
            ],
        });
        self.idle = at.duration("idle_timeout", idle_timeout.as_ref()).or(self.idle);
        let one = |at: &At<'_>, name: &str, weight: u32| {
            at.held(grammar::name(name)).map(|cluster| BackendRef {
                cluster,
                weight,
                subset: Labels::new(),
                filters: Vec::new(),
            })
        };
        match cluster_specifier {
            Some(ClusterSpecifier::Cluster(name)) => one(&at.field("cluster"), name, 1).into_iter().collect(),
            Some(ClusterSpecifier::WeightedClusters(message)) => {
                let at = at.field("weighted_clusters");
                unpack!(at, message => WeightedCluster { take: [clusters], ignore: [], refuse: [] });
                let each = clusters.iter().enumerate().filter_map(|(index, message)| {
                    let at = at.item("clusters", index);
                    unpack!(at, message => ClusterWeight {
                        take: [name, weight],
                        ignore: [],
                        refuse: [metadata_match],
                    });
                    one(&at.field("name"), name, *weight)
                });
                each.collect()
            }
            None => {
                at.refuse("the chain leads nowhere; add `cluster` or `weighted_clusters`");
                Vec::new()
            }
        }
    }

    /// What the listener takes: outer `None` for nothing, inner `None` for plaintext only.
    #[allow(clippy::option_option, reason = "no chains at all is not the same as plaintext")]
    fn mode(&self, at: &At<'_>, own: Option<&ListenerExtension>) -> Option<Option<TlsMode>> {
        match (self.plain, self.terminating.is_some(), self.handed_on.is_empty()) {
            (true, false, true) => Some(None),
            (false, true, _) => Some(Some(TlsMode::Strict)),
            (true, true, _) => Some(Some(TlsMode::Permissive)),
            (false, false, false) => Some(Some(TlsMode::Passthrough)),
            (true, false, false) => {
                at.field("filter_chains").refuse("plaintext beside TLS that is handed on is not supported");
                None
            }
            (false, false, true) => {
                // With something wrong in every chain, that has been said.
                if at.reader.is_clean() && own.is_none_or(|own| own.manager.is_none()) {
                    at.field("filter_chains").refuse("there is no filter chain");
                }
                None
            }
        }
    }

    fn tls(&mut self, at: &At<'_>, mode: TlsMode, own: Option<&ListenerExtension>) -> Option<ListenerTls> {
        let outer = own;
        let own = own.and_then(|own| own.tls.as_ref());
        let passthrough = self.passthrough(at, own.map(|own| &own.passthrough[..]));
        let place = at.place_of(own.and_then(|own| own.place.as_ref()));
        let read = |value: Option<&prost_types::Duration>| value.and_then(wire::read_own_duration);
        let common = ListenerTls {
            mode,
            proposed_mode: own.is_some_and(|own| own.proposed_strict).then_some(TlsMode::Strict),
            certificates: Vec::new(),
            client_certificate: ClientCertificate::None,
            client_trust: ClientTrust::Mesh,
            min_version: match own.and_then(|own| own.min_version.as_deref()) {
                Some("1.2") => TlsVersion::V1_2,
                _ => TlsVersion::V1_3,
            },
            handshake_timeout: read(outer.and_then(|own| own.handshake_timeout.as_ref()))
                .unwrap_or(Duration::from_secs(10)),
            max_handshakes: own.map_or(1024, |own| own.max_handshakes),
            passthrough,
            place,
        };
        let Some((Downstream { common: found, client_certificate, client_trust }, handshake)) = self.terminating.take()
        else {
            return Some(common);
        };
        let mut certificates = found.certificates;
        for (files, place) in certificates.iter_mut().zip(own.iter().flat_map(|own| &own.certificates)) {
            files.place = wire::read_place(place);
        }
        if found.alpn.iter().any(|name| !matches!(name.as_str(), "h2" | "http/1.1" | "http/1.0")) {
            let reason = "only h2 and http/1.1 are spoken";
            at.field("filter_chains").field("common_tls_context").field("alpn_protocols").refuse(reason);
        }
        Some(ListenerTls {
            certificates,
            client_certificate,
            client_trust,
            min_version: found.min_version,
            handshake_timeout: handshake,
            ..common
        })
    }

    /// Entries of one or more chains each.
    fn passthrough(&mut self, at: &At<'_>, own: Option<&[PassthroughExtension]>) -> Vec<Passthrough> {
        let mut chains = std::mem::take(&mut self.handed_on).into_iter();
        let mut out = Vec::new();
        for own in own.unwrap_or_default() {
            let mut hostnames = Vec::new();
            let mut backends = Vec::new();
            for (names, list) in chains.by_ref().take(usize::try_from(own.chains).unwrap_or(usize::MAX)) {
                hostnames.extend(names);
                backends = list;
            }
            if !own.hostnames.is_empty() {
                let names = own.hostnames.iter().filter_map(|text| at.held(grammar::host_pattern(text)));
                hostnames = names.collect();
            }
            if !own.backends.is_empty() {
                let one = |backend: &crate::extensions::WeightedBackend| BackendRef {
                    cluster: backend.cluster.as_str().into(),
                    weight: backend.weight,
                    subset: Labels::new(),
                    filters: Vec::new(),
                };
                backends = own.backends.iter().map(one).collect();
            }
            out.push(Passthrough { hostnames, backends, place: at.place_of(own.place.as_ref()) });
        }
        out.extend(chains.map(|(hostnames, backends)| Passthrough { hostnames, backends, place: at.place() }));
        out
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Any,
    Plain,
    Tls,
}

/// Which connections a chain takes.
struct Condition {
    protocol: Protocol,
    names: Option<Vec<HostPattern>>,
}

impl Condition {
    fn of(at: &At<'_>, message: Option<&listener::FilterChainMatch>) -> Self {
        let Some(message) = message else { return Self { protocol: Protocol::Any, names: None } };
        unpack!(at, message => listener::FilterChainMatch {
            take: [server_names, transport_protocol, destination_port],
            ignore: [],
            refuse: [
                prefix_ranges,
                address_suffix,
                suffix_len,
                direct_source_prefix_ranges,
                source_type,
                source_prefix_ranges,
                source_ports,
                application_protocols,
            ],
        });
        if destination_port.is_some() {
            at.field("destination_port")
                .refuse("original destinations are not supported; use a listener for each port");
        }
        let names: Vec<HostPattern> = server_names
            .iter()
            .enumerate()
            .filter_map(|(index, text)| at.item("server_names", index).held(grammar::host_pattern(text)))
            .collect();
        let protocol = match (transport_protocol.as_str(), names.is_empty()) {
            ("tls", _) => Protocol::Tls,
            ("raw_buffer", true) => Protocol::Plain,
            // Only TLS has server names.
            ("", false) => Protocol::Tls,
            ("", true) => Protocol::Any,
            (other, _) => {
                at.field("transport_protocol").refuse(format!("`{}` is not supported here", other.escape_debug()));
                Protocol::Any
            }
        };
        Self { protocol, names: (!names.is_empty()).then_some(names) }
    }
}

/// What a connection manager says.
struct Http {
    protocol: ListenerProtocol,
    rds: Option<Arc<str>>,
    routes: Option<RouteTable>,
    trust: Trust,
    path: PathOptions,
    limits: ListenerLimits,
    client_cert_header: ClientCertHeader,
    filters: Filters,
}

impl Default for Http {
    /// Envoy's defaults.
    fn default() -> Self {
        Self {
            protocol: ListenerProtocol::Auto,
            rds: None,
            routes: None,
            trust: Trust::Local,
            path: PathOptions { merge_slashes: false, escaped_slashes: EscapedSlashes::Keep },
            limits: ListenerLimits {
                max_connections: 16_384,
                max_head_bytes: 60 * 1024,
                max_headers: 100,
                max_concurrent_streams: 1024,
                header_timeout: Duration::from_secs(10),
                idle_timeout: Duration::from_secs(3600),
                stream_idle_timeout: Duration::from_secs(300),
                max_connection_age: Duration::ZERO,
                detect_timeout: Duration::from_secs(15),
            },
            client_cert_header: ClientCertHeader::Sanitize,
            filters: Filters::default(),
        }
    }
}

fn manager(at: &At<'_>, message: &hcm::HttpConnectionManager, own: Option<&ListenerExtension>) -> Option<Http> {
    use hcm::http_connection_manager::{
        CodecType, ForwardClientCertDetails, PathWithEscapedSlashesAction, RouteSpecifier,
    };
    unpack!(at, message => hcm::HttpConnectionManager {
        take: [
            codec_type,
            http_filters,
            common_http_protocol_options,
            http2_protocol_options,
            max_request_headers_kb,
            stream_idle_timeout,
            request_timeout,
            request_headers_timeout,
            use_remote_address,
            xff_num_trusted_hops,
            forward_client_cert_details,
            upgrade_configs,
            normalize_path,
            merge_slashes,
            path_with_escaped_slashes_action,
            route_specifier,
            server_header_transformation,
        ],
        ignore: [
            stat_prefix, // labels have the name
            add_user_agent, // no user agent is added
            tracing, // traces are the proxy's own settings
            http1_safe_max_connection_duration, // connections end between requests
            http_protocol_options, // HTTP/1.0 is always taken, and nothing else is optional
            server_name, // no server header is set
            drain_timeout, // drains have limits of their own
            drain_timeout_jitter, // likewise
            delayed_close_timeout, // likewise
            stream_flush_timeout, // a stream on which nothing moves ends
            access_log, // the access log is the proxy's
            access_log_flush_interval, // likewise
            flush_access_log_on_new_request, // likewise
            access_log_options, // likewise
            internal_address_config, // nobody is internal
            skip_xff_append, // forwarding headers go with the trust of the caller
            generate_request_id, // requests always have one
            preserve_external_request_id, // one of a trusted caller is kept
            always_set_request_id_in_response, // not told
            set_current_client_cert_details, // By, Hash, Subject, URI and DNS
            proxy_100_continue, // always
            represent_ipv4_remote_address_as_ipv4_mapped_ipv6, // never
            request_id_extension, // one kind of id
            stream_error_on_invalid_http_message, // a stream where that is enough, else the connection
            strip_matching_host_port, // the port plays no part
            strip_trailing_host_dot, // always
            strip_port_mode, // the port plays no part
            append_x_forwarded_port, // not told
            append_local_overload, // not told
            forward_proto_config, // told as it was seen
        ],
        refuse: [
            http3_protocol_options,
            scheme_header_transformation,
            original_ip_detection_extensions,
            early_header_mutation_extensions,
            via,
            forward_client_cert_matcher,
            local_reply_config,
            path_normalization_options,
            proxy_status_config,
            typed_header_validation_config,
            add_proxy_protocol_connection_state,
        ],
    });
    let protocol = match CodecType::try_from(*codec_type) {
        Ok(CodecType::Auto) => ListenerProtocol::Auto,
        Ok(CodecType::Http1) => ListenerProtocol::Http1,
        Ok(CodecType::Http2) => ListenerProtocol::Http2,
        Ok(CodecType::Http3) | Err(_) => {
            at.field("codec_type").refuse("HTTP/3 is not supported; write AUTO");
            ListenerProtocol::Auto
        }
    };
    let mut out = Http { protocol, ..Http::default() };
    // What the server header says is left to the application.
    let _ = server_header_transformation;
    match route_specifier {
        Some(RouteSpecifier::Rds(message)) => {
            let at = at.field("rds");
            unpack!(at, message => hcm::Rds { take: [config_source, route_config_name], ignore: [], refuse: [] });
            match config_source {
                Some(source) => over_ads(&at.field("config_source"), source),
                None => at.field("config_source").refuse("there is no source"),
            }
            out.rds = at.field("route_config_name").held(grammar::name(route_config_name));
        }
        Some(RouteSpecifier::RouteConfig(message)) => {
            let at = at.field("route_config");
            // Nobody refers to it, so it may have no name.
            let named = crate::pb::route::RouteConfiguration { name: "routes".to_owned(), ..message.clone() };
            out.routes = route::table(&at, &named);
        }
        Some(RouteSpecifier::ScopedRoutes(_)) => {
            at.field("scoped_routes").refuse("this is not supported; use `rds` or `route_config`");
        }
        None if own.is_some_and(|own| own.manager.is_some()) => {}
        None => at.refuse("there are no routes; add `rds` or `route_config`"),
    }
    if let Some(message) = common_http_protocol_options {
        common(&at.field("common_http_protocol_options"), message, &mut out.limits);
    }
    if let Some(message) = http2_protocol_options {
        let at = at.field("http2_protocol_options");
        let (streams, keepalive) = http2(&at, message);
        if let Some(streams) = streams {
            out.limits.max_concurrent_streams = streams;
        }
        at.unset("connection_keepalive", &keepalive);
    }
    if let Some(kilobytes) = max_request_headers_kb {
        out.limits.max_head_bytes = kilobytes.value.saturating_mul(1024);
    }
    if let Some(idle) = at.duration("stream_idle_timeout", stream_idle_timeout.as_ref()) {
        out.limits.stream_idle_timeout = idle;
    }
    if at.duration("request_timeout", request_timeout.as_ref()).is_some_and(|limit| !limit.is_zero()) {
        at.field("request_timeout").refuse("this is not supported; limit requests in their routes");
    }
    // Zero is Envoy's "none"; heads that never end are not waited for.
    let head = at.duration("request_headers_timeout", request_headers_timeout.as_ref());
    if let Some(head) = head.filter(|limit| !limit.is_zero()) {
        out.limits.header_timeout = head;
    }
    out.trust = match (use_remote_address.as_ref().is_some_and(|flag| flag.value), xff_num_trusted_hops) {
        (false, 0) => Trust::Local,
        (true, 0) => Trust::None,
        (_, hops) => match u8::try_from(*hops) {
            Ok(hops) => Trust::Hops(hops),
            Err(_) => {
                at.field("xff_num_trusted_hops").refuse("so many proxies are not trusted; write a smaller number");
                Trust::None
            }
        },
    };
    out.client_cert_header = match ForwardClientCertDetails::try_from(*forward_client_cert_details) {
        Ok(ForwardClientCertDetails::Sanitize) => ClientCertHeader::Sanitize,
        Ok(ForwardClientCertDetails::ForwardOnly) => ClientCertHeader::Forward,
        Ok(ForwardClientCertDetails::AppendForward) => ClientCertHeader::Append,
        Ok(ForwardClientCertDetails::SanitizeSet) => ClientCertHeader::Set,
        Ok(ForwardClientCertDetails::AlwaysForwardOnly) | Err(_) => {
            let reason = "anybody could write this header; forward it from callers with a certificate: FORWARD_ONLY";
            at.field("forward_client_cert_details").refuse(reason);
            ClientCertHeader::Sanitize
        }
    };
    for (index, upgrade) in upgrade_configs.iter().enumerate() {
        let off = upgrade.enabled.as_ref().is_some_and(|flag| !flag.value);
        if !upgrade.upgrade_type.eq_ignore_ascii_case("websocket") || off || !upgrade.filters.is_empty() {
            at.item("upgrade_configs", index).refuse("websockets are always taken, and nothing else; remove it");
        }
    }
    if normalize_path.as_ref().is_some_and(|flag| !flag.value) {
        at.field("normalize_path").refuse("paths are always brought into their normal form; remove it");
    }
    let escaped = match PathWithEscapedSlashesAction::try_from(*path_with_escaped_slashes_action) {
        Ok(
            PathWithEscapedSlashesAction::ImplementationSpecificDefault | PathWithEscapedSlashesAction::KeepUnchanged,
        ) => EscapedSlashes::Keep,
        Ok(PathWithEscapedSlashesAction::RejectRequest) => EscapedSlashes::Reject,
        _ => {
            let reason = "escaped slashes are kept or refused; write KEEP_UNCHANGED or REJECT_REQUEST";
            at.field("path_with_escaped_slashes_action").refuse(reason);
            EscapedSlashes::Keep
        }
    };
    out.path = PathOptions { merge_slashes: *merge_slashes, escaped_slashes: escaped };
    out.filters = filters::http(at, http_filters, own);
    Some(out)
}

fn common(at: &At<'_>, message: &core::HttpProtocolOptions, limits: &mut ListenerLimits) {
    unpack!(at, message => core::HttpProtocolOptions {
        take: [idle_timeout, max_connection_duration, max_headers_count, headers_with_underscores_action],
        ignore: [
            max_connection_duration_jitter, // the age has a jitter of its own
            max_response_headers_kb, // of responses
        ],
        refuse: [max_stream_duration, max_requests_per_connection],
    });
    if *headers_with_underscores_action != 0 {
        at.field("headers_with_underscores_action").refuse("such headers are kept; remove it");
    }
    if let Some(idle) = positive(at, "idle_timeout", idle_timeout.as_ref()) {
        limits.idle_timeout = idle;
    }
    if let Some(age) = at.duration("max_connection_duration", max_connection_duration.as_ref()) {
        limits.max_connection_age = age;
    }
    if let Some(count) = max_headers_count {
        limits.max_headers = u16::try_from(count.value).unwrap_or_else(|_| {
            at.field("max_headers_count").refuse("so many headers are not taken; write at most 1000");
            100
        });
    }
}
