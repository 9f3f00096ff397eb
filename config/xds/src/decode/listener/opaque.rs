//! HTTP/3, tunnels, and what is handed on without being understood: from our own message where it is there, else from
//! what Envoy's fields say.

use std::time::Duration;

use outrigger_config::grammar;
use outrigger_config::model::{
    BackendRef, Cidr, Connect, EarlyData, Http3, Intercept, Interception, InterceptionMode, Labels, ListenerProtocol,
    PortRange, ProxyHeader, ProxyProtocol, TcpForwarding, UdpForwarding, Unknown, Upgrades,
};

use super::super::cluster::positive;
use super::super::reader::At;
use super::super::resilience;
use crate::extensions::{
    ForwardedBackend, InterceptExtension, InterceptionExtension, ListenerExtension, UpgradesExtension,
};
use crate::pb::{core, listener, original_dst, proxy_protocol, udp_proxy};

/// What a listener says beside its requests.
pub(super) struct Bytes {
    pub(super) protocol: Option<ListenerProtocol>,
    pub(super) http3: Option<Http3>,
    pub(super) upgrades: Option<Upgrades>,
    pub(super) tcp: Option<TcpForwarding>,
    pub(super) udp: Option<UdpForwarding>,
    pub(super) proxy_protocol: Option<ProxyProtocol>,
    pub(super) interception: Option<Interception>,
    pub(super) intercepts: Vec<Intercept>,
}

impl Bytes {
    /// What our own message says.
    pub(super) fn of(at: &At<'_>, own: &ListenerExtension) -> Self {
        let at = &at.field("metadata");
        Self {
            protocol: own.protocol.as_deref().and_then(|word| match word {
                "tcp" => Some(ListenerProtocol::Tcp),
                "udp" => Some(ListenerProtocol::Udp),
                _ => unknown(at, "protocol", word),
            }),
            http3: own.http3.as_ref().map(|message| Http3 {
                advertise: message.advertise.map(|port| u16::try_from(port).unwrap_or(0)),
                max_age: at.time("max_age", message.max_age.as_ref()),
                early_data: if message.early_data { EarlyData::SafeMethods } else { EarlyData::Off },
            }),
            upgrades: own.upgrades.as_ref().map(|message| upgrades(at, message)),
            tcp: own.tcp.as_ref().map(|message| TcpForwarding {
                backends: message.backends.iter().map(forwarded).collect(),
                idle_timeout: at.time("idle_timeout", message.idle_timeout.as_ref()),
                place: at.place_of(message.place.as_ref()),
            }),
            udp: own.udp.as_ref().map(|message| UdpForwarding {
                backends: message.backends.iter().map(forwarded).collect(),
                idle_timeout: at.time("idle_timeout", message.idle_timeout.as_ref()),
                max_sessions: message.max_sessions,
                place: at.place_of(message.place.as_ref()),
            }),
            proxy_protocol: own.proxy_protocol.as_deref().and_then(|word| {
                let mode = match word {
                    "strict" => ProxyHeader::Strict,
                    "optional" => ProxyHeader::Optional,
                    _ => return unknown(at, "proxy_protocol", word),
                };
                let from = own.proxy_protocol_from.iter().filter_map(|text| at.held(grammar::cidr(text)));
                Some(ProxyProtocol { mode, from: from.collect() })
            }),
            interception: own.interception.as_ref().and_then(|message| interception(at, message)),
            intercepts: own.intercepts.iter().map(|message| intercept(at, message)).collect(),
        }
    }
}

/// A word of a newer version.
fn unknown<T>(at: &At<'_>, field: &str, word: &str) -> Option<T> {
    at.field(field).refuse(format!("`{}` is not known to this version", word.escape_debug()));
    None
}

fn upgrades(at: &At<'_>, message: &UpgradesExtension) -> Upgrades {
    let UpgradesExtension { allow, connect, idle_timeout, max_duration, max_tunnels, max_per_caller } = message;
    Upgrades {
        allow: allow.iter().map(|token| token.as_str().into()).collect(),
        connect: match connect.as_str() {
            "deny" => Connect::Deny,
            "route" => Connect::Route,
            "tunnel" => Connect::Tunnel,
            word => unknown(at, "connect", word).unwrap_or_default(),
        },
        idle_timeout: at.time("idle_timeout", idle_timeout.as_ref()),
        max_duration: at.time("max_duration", max_duration.as_ref()),
        max_tunnels: *max_tunnels,
        max_per_caller: *max_per_caller,
    }
}

fn forwarded(ForwardedBackend { cluster, weight, subset }: &ForwardedBackend) -> BackendRef {
    BackendRef {
        cluster: cluster.as_str().into(),
        weight: *weight,
        subset: subset.as_ref().map_or_else(Labels::new, resilience::labels),
        filters: Vec::new(),
    }
}

fn interception(at: &At<'_>, message: &InterceptionExtension) -> Option<Interception> {
    let InterceptionExtension { mode, unknown: other } = message;
    let mode = match mode.as_str() {
        "redirect" => Some(InterceptionMode::Redirect),
        "tproxy" => Some(InterceptionMode::Tproxy),
        word => unknown(at, "mode", word),
    };
    let other = match other.as_str() {
        "serve" => Some(Unknown::Serve),
        "pass-through" => Some(Unknown::PassThrough),
        "refuse" => Some(Unknown::Refuse),
        word => unknown(at, "unknown", word),
    };
    Some(Interception { mode: mode?, unknown: other? })
}

fn intercept(at: &At<'_>, message: &InterceptExtension) -> Intercept {
    let InterceptExtension { place, addresses, ports } = message;
    // What is no range of ports would be taken for one that begins at 0, which is refused with the whole.
    let port = |number: u32| u16::try_from(number).unwrap_or(0);
    Intercept {
        addresses: addresses.iter().filter_map(|text| at.held(grammar::cidr(text))).collect::<Vec<Cidr>>(),
        ports: ports.iter().map(|range| PortRange { first: port(range.first), last: port(range.last) }).collect(),
        place: at.place_of(place.as_ref()),
    }
}

/// What listener filters say beside telling protocols apart.
#[derive(Default)]
pub(super) struct Filters {
    pub(super) proxy_protocol: Option<ProxyProtocol>,
    pub(super) redirected: bool,
    pub(super) udp: Option<UdpForwarding>,
}

impl Filters {
    pub(super) fn original_destination(&mut self, at: &At<'_>, any: &crate::pb::Any) {
        let Some(message) = at.typed::<original_dst::OriginalDst>(any) else { return };
        unpack!(at, &message => original_dst::OriginalDst { take: [], ignore: [], refuse: [] });
        self.redirected = true;
    }

    pub(super) fn header(&mut self, at: &At<'_>, any: &crate::pb::Any) {
        let Some(message) = at.typed::<proxy_protocol::ProxyProtocol>(any) else { return };
        unpack!(at, &message => proxy_protocol::ProxyProtocol {
            take: [allow_requests_without_proxy_protocol],
            ignore: [
                stat_prefix, // labels have the name
                tlv_location, // of `rules`
            ],
            refuse: [rules, pass_through_tlvs, disallowed_versions],
        });
        let mode = if *allow_requests_without_proxy_protocol { ProxyHeader::Optional } else { ProxyHeader::Strict };
        self.proxy_protocol = Some(ProxyProtocol { mode, from: Vec::new() });
    }

    pub(super) fn datagrams(&mut self, at: &At<'_>, any: &crate::pb::Any) {
        use udp_proxy::udp_proxy_config::RouteSpecifier;
        let Some(message) = at.typed::<udp_proxy::UdpProxyConfig>(any) else { return };
        unpack!(at, &message => udp_proxy::UdpProxyConfig {
            take: [idle_timeout, route_specifier],
            ignore: [
                stat_prefix, // labels have the name
                access_log, // the access log is the proxy's
                proxy_access_log, // likewise
                access_log_options, // likewise
            ],
            refuse: [
                use_original_src_ip,
                hash_policies,
                upstream_socket_config,
                use_per_packet_load_balancing,
                session_filters,
                tunneling_config,
            ],
        });
        let name = match route_specifier {
            Some(RouteSpecifier::Cluster(name)) => at.field("cluster").held(grammar::name(name)),
            Some(RouteSpecifier::Matcher(_)) => {
                at.field("matcher").refuse("this is not supported; name a `cluster`");
                None
            }
            None => {
                at.refuse("the datagrams lead nowhere; add `cluster`");
                None
            }
        };
        self.udp = name.map(|cluster| UdpForwarding {
            backends: vec![BackendRef { cluster, weight: 1, subset: Labels::new(), filters: Vec::new() }],
            // Envoy's default.
            idle_timeout: positive(at, "idle_timeout", idle_timeout.as_ref()).unwrap_or(Duration::from_secs(60)),
            max_sessions: 16_384,
            place: at.place(),
        });
    }
}

/// Options of UDP, which only say that there is UDP.
pub(super) fn over_udp(at: &At<'_>, message: Option<&listener::UdpListenerConfig>) {
    let Some(message) = message else { return };
    let at = at.field("udp_listener_config");
    unpack!(at, message => listener::UdpListenerConfig {
        take: [quic_options],
        ignore: [
            downstream_socket_config, // tuning
        ],
        refuse: [udp_packet_packet_writer_config],
    });
    if quic_options.is_some() {
        let reason = "a listener of HTTP/3 alone is not supported: say `http3` of the listener over TCP, in its \
                      ListenerExtension";
        at.field("quic_options").refuse(reason);
    }
}

/// Whether an address is one of UDP; it is then turned into the same one of TCP, which is what addresses are read as.
pub(super) fn is_udp(message: &mut core::Address) -> bool {
    use core::address::Address::SocketAddress;
    use core::socket_address::Protocol;
    match &mut message.address {
        Some(SocketAddress(socket)) if socket.protocol == Protocol::Udp as i32 => {
            socket.protocol = Protocol::Tcp as i32;
            true
        }
        _ => false,
    }
}

/// The default of Envoy's TCP proxy.
pub(super) const IDLE: Duration = Duration::from_secs(3600);

/// An interception that Envoy's fields say.
pub(super) fn intercepted(redirected: bool, transparent: bool) -> Option<Interception> {
    // Where no other listener has the destination, Envoy serves it by the one that caught it.
    redirected.then_some(Interception {
        mode: if transparent { InterceptionMode::Tproxy } else { InterceptionMode::Redirect },
        unknown: Unknown::Serve,
    })
}
