//! Filter chains: which connections each takes, and what all of them come to.

use std::time::Duration;

use outrigger_config::grammar;
use outrigger_config::model::{
    BackendRef, ClientCertificate, ClientTrust, HostPattern, Labels, ListenerProtocol, ListenerTls, Passthrough,
    TcpForwarding, TlsMode, TlsVersion,
};

use super::super::cluster::positive;
use super::super::reader::At;
use super::super::tls::{self, Downstream, Socket};
use super::manager::{Http, manager};
use super::opaque::IDLE;
use super::{MANAGER, TCP_PROXY};
use crate::extensions::{ListenerExtension, PassthroughExtension};
use crate::pb::{hcm, listener, tcp_proxy};
use crate::wire;

/// What is said to a chain by where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rank {
    Listed,
    /// It takes what the others leave.
    Default,
}

/// The chains of a listener, by what they do.
#[derive(Default)]
pub(super) struct Chains {
    pub(super) http: Option<Http>,
    /// The message of the connection manager, which all chains that terminate must share.
    message: Option<hcm::HttpConnectionManager>,
    /// A chain takes plaintext; a chain of the connection manager, or one of the TCP proxy.
    plain: bool,
    plain_http: bool,
    plain_tcp: bool,
    terminating: Option<(Downstream, Duration)>,
    /// The chain that terminates TLS hands on what is inside.
    terminating_tcp: bool,
    tcp: Option<(Vec<BackendRef>, Duration)>,
    handed_on: Vec<(Vec<HostPattern>, Vec<BackendRef>)>,
}

impl Chains {
    pub(super) fn add(
        &mut self,
        at: &At<'_>,
        message: &listener::FilterChain,
        own: Option<&ListenerExtension>,
        rank: Rank,
    ) {
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
                        (self.plain, self.plain_http) = (true, true);
                    }
                    Socket::Tls(any) => {
                        self.terminate(at, (&condition, handshake), &any);
                    }
                }
            }
            TCP_PROXY => {
                let Some(message) = inner.typed::<tcp_proxy::TcpProxy>(any) else { return };
                let found = proxy(&inner, &message);
                if condition.http {
                    at.field("filter_chain_match").field("application_protocols").refuse("this chain is not of HTTP");
                }
                match (&socket, condition.protocol) {
                    // Unread.
                    (Socket::Plain, Protocol::Tls) => {
                        if rank == Rank::Default {
                            at.field("filter_chain_match")
                                .refuse("a default chain takes what others leave, by no name");
                        }
                        let names = condition.names.unwrap_or_else(|| vec![HostPattern::Any]);
                        self.handed_on.push((names, found.0));
                        return;
                    }
                    (Socket::Plain, Protocol::Any | Protocol::Plain) => (self.plain, self.plain_tcp) = (true, true),
                    (Socket::Tls(any), _) => {
                        self.terminate(at, (&condition, handshake), any);
                        self.terminating_tcp = true;
                    }
                }
                if self.tcp.as_ref().is_some_and(|first| *first != found) {
                    inner.refuse("every chain of a listener that is not handed on by server name leads to the same");
                }
                self.tcp = Some(found);
            }
            other => inner.refuse(format!("the network filter `{other}` is not supported; remove it")),
        }
    }

    /// Notes the chain that terminates TLS.
    fn terminate(&mut self, at: &At<'_>, (condition, handshake): (&Condition, Duration), any: &crate::pb::Any) {
        if condition.names.is_some() {
            let reason = "certificates are chosen by server name in one chain; put them into one";
            at.field("filter_chain_match").field("server_names").refuse(reason);
        }
        if condition.protocol == Protocol::Plain {
            at.field("filter_chain_match").refuse("this chain takes plaintext, and terminates TLS");
        }
        if self.terminating.is_some() {
            at.field("transport_socket").refuse("a second chain that terminates TLS; put both into one");
        }
        if let Some(found) = tls::downstream(&at.field("transport_socket"), any) {
            self.terminating = Some((found, handshake));
        }
    }

    /// Where connections go that are not read as HTTP, and the protocol of the listener where it has no other.
    pub(super) fn bytes(&self, at: &At<'_>) -> Option<(Option<ListenerProtocol>, TcpForwarding)> {
        let (backends, idle_timeout) = self.tcp.clone()?;
        let kind = match (&self.message, self.plain_http, self.terminating_tcp) {
            (None, _, _) => Some(ListenerProtocol::Tcp),
            // What is not HTTP in plaintext.
            (Some(_), true, false) if self.plain_tcp => None,
            (Some(_), _, _) => {
                let reason = "a listener hands on what is not HTTP in plaintext, beside HTTP in plaintext; give TLS and \
                              plaintext the same filters, or listeners of their own";
                at.field("filter_chains").refuse(reason);
                None
            }
        };
        Some((kind, TcpForwarding { backends, idle_timeout, place: at.place() }))
    }

    /// What the listener takes: outer `None` for nothing, inner `None` for plaintext only.
    #[allow(clippy::option_option, reason = "no chains at all is not the same as plaintext")]
    pub(super) fn mode(&self, at: &At<'_>, own: Option<&ListenerExtension>) -> Option<Option<TlsMode>> {
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

    pub(super) fn tls(&mut self, at: &At<'_>, mode: TlsMode, own: Option<&ListenerExtension>) -> Option<ListenerTls> {
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
    pub(super) fn passthrough(&mut self, at: &At<'_>, own: Option<&[PassthroughExtension]>) -> Vec<Passthrough> {
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

/// Where a TCP proxy leads, and how long it waits when nothing moves.
fn proxy(at: &At<'_>, message: &tcp_proxy::TcpProxy) -> (Vec<BackendRef>, Duration) {
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
    let idle = at.duration("idle_timeout", idle_timeout.as_ref()).unwrap_or(IDLE);
    let one = |at: &At<'_>, name: &str, weight: u32| {
        at.held(grammar::name(name)).map(|cluster| BackendRef {
            cluster,
            weight,
            subset: Labels::new(),
            filters: Vec::new(),
        })
    };
    let backends = match cluster_specifier {
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
    };
    (backends, idle)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Any,
    Plain,
    Tls,
}

/// What plaintext is when it is HTTP.
const HTTP: [&str; 4] = ["http/1.0", "http/1.1", "h2c", "h2"];

/// Which connections a chain takes.
struct Condition {
    protocol: Protocol,
    names: Option<Vec<HostPattern>>,
    /// Only what is HTTP.
    http: bool,
}

impl Condition {
    fn of(at: &At<'_>, message: Option<&listener::FilterChainMatch>) -> Self {
        let Some(message) = message else { return Self { protocol: Protocol::Any, names: None, http: false } };
        unpack!(at, message => listener::FilterChainMatch {
            take: [server_names, transport_protocol, destination_port, application_protocols],
            ignore: [],
            refuse: [
                prefix_ranges,
                address_suffix,
                suffix_len,
                direct_source_prefix_ranges,
                source_type,
                source_prefix_ranges,
                source_ports,
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
        if application_protocols.iter().any(|name| !HTTP.contains(&name.as_str())) {
            let reason = "protocols are told apart by their first bytes; write http/1.0, http/1.1 and h2c, or none";
            at.field("application_protocols").refuse(reason);
        }
        Self { protocol, names: (!names.is_empty()).then_some(names), http: !application_protocols.is_empty() }
    }
}
