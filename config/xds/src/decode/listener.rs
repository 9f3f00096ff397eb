//! Listeners.

mod chains;
mod manager;
mod opaque;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::grammar;
use outrigger_config::model::{ClientTrust, Direction, Listener, ListenerProtocol, RouteTable, TlsMode};
use prost::Message as _;

use super::cluster::positive;
use super::filters::Filters;
use super::reader::At;
use super::{DecodedListener, access, endpoint, resilience};
use crate::extensions::ListenerExtension;
use crate::pb::{core, hcm, listener, tls_inspector};

use chains::{Chains, Rank};
use manager::{Http, manager};
use opaque::Bytes;

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
            transparent,
            udp_listener_config,
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
            freebind,
            socket_options,
            tcp_fast_open_queue_length,
            api_listener,
            enable_mptcp,
            listener_specifier,
        ],
    });
    let own = at.extension::<ListenerExtension>("ListenerExtension", metadata.as_ref());
    let own = own.as_ref();
    if bind_to_port.as_ref().is_some_and(|flag| !flag.value) {
        at.field("bind_to_port").refuse("every listener has an address of its own; remove it");
    }
    let mut filters = opaque::Filters::default();
    for (index, message) in listener_filters.iter().enumerate() {
        listener_filter(&at.item("listener_filters", index), message, &mut filters);
    }
    let set = |flag: &Option<crate::pb::BoolValue>| flag.as_ref().is_some_and(|flag| flag.value);
    let interception = opaque::intercepted(filters.redirected || set(use_original_dst), set(transparent));
    opaque::over_udp(at, udp_listener_config.as_ref());
    let name = at.field("name").held(grammar::name(name));
    let mut over_udp = false;
    let bind = address.as_ref().map_or_else(
        || {
            at.field("address").refuse("the listener has no address");
            None
        },
        |message| {
            let mut message = message.clone();
            over_udp = opaque::is_udp(&mut message);
            bind(&at.field("address"), &message)
        },
    );
    if over_udp && filters.udp.is_none() && at.reader.is_clean() {
        at.field("listener_filters").refuse("the datagrams lead nowhere; add the UDP proxy");
    }
    if !over_udp && filters.udp.is_some() {
        at.field("address").refuse("the UDP proxy needs an address of UDP");
    }
    let mut chains = Chains::default();
    for (index, message) in filter_chains.iter().enumerate() {
        chains.add(&at.item("filter_chains", index), message, own, Rank::Listed);
    }
    if let Some(message) = default_filter_chain {
        chains.add(&at.field("default_filter_chain"), message, own, Rank::Default);
    }
    let (name, bind) = (name?, bind?);
    let mode = if over_udp { None } else { chains.mode(at, own)? };
    let bytes = own.map(|own| opaque::Bytes::of(at, own));
    let given = bytes.as_ref().is_some_and(|bytes| bytes.protocol.is_some() || bytes.tcp.is_some());
    // Our own message says it all.
    let opaque = if given || over_udp { None } else { chains.bytes(at) };
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
        None if mode == Some(TlsMode::Passthrough) || opaque.is_some() || over_udp => Http::default(),
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
    let Bytes { protocol, http3, upgrades, tcp, udp, proxy_protocol, interception, intercepts } =
        bytes.unwrap_or_else(|| {
            let (kind, tcp) = opaque.map_or((None, None), |(kind, tcp)| (kind, Some(tcp)));
            Bytes {
                protocol: if over_udp { Some(ListenerProtocol::Udp) } else { kind },
                http3: None,
                upgrades: None,
                tcp,
                udp: filters.udp,
                proxy_protocol: filters.proxy_protocol,
                interception,
                intercepts: Vec::new(),
            }
        });
    let protocol = protocol.unwrap_or(http.protocol);
    let upgrades = upgrades.unwrap_or(http.upgrades);
    let mut listener = Listener {
        rate_limits: own
            .map_or(&[][..], |own| &own.rate_limits)
            .iter()
            .filter_map(|one| resilience::rate_limit(&at.field("metadata"), one))
            .collect(),
        bind,
        protocol,
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
        http3,
        upgrades,
        tcp,
        udp,
        proxy_protocol,
        interception,
        intercepts,
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

fn listener_filter(at: &At<'_>, message: &listener::ListenerFilter, filters: &mut opaque::Filters) {
    const INSPECTOR: &str = "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector";
    const HTTP_INSPECTOR: &str = "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector";
    const ORIGINAL_DST: &str = "envoy.extensions.filters.listener.original_dst.v3.OriginalDst";
    const PROXY_PROTOCOL: &str = "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol";
    const UDP_PROXY: &str = "envoy.extensions.filters.udp.udp_proxy.v3.UdpProxyConfig";
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
        ORIGINAL_DST => filters.original_destination(&at.field("typed_config"), any),
        PROXY_PROTOCOL => filters.header(&at.field("typed_config"), any),
        UDP_PROXY => filters.datagrams(&at.field("typed_config"), any),
        other => at.refuse(format!("the listener filter `{other}` is not supported; remove it")),
    }
}
