//! Clusters.

use std::sync::Arc;
use std::time::Duration;

use outrigger_config::grammar;
use outrigger_config::limits::{MAX_RETRIES, RETRIES_PER_SECOND};
use outrigger_config::model::{
    Balance, BalancePolicy, Ceilings, Cluster, ClusterProtocol, ConnectionOptions, DnsOptions, EndpointCeilings,
    RetryBudget, SlowStart, SubsetFallback,
};

use super::endpoint::{self, Names};
use super::reader::At;
use super::resilience::{self, Resilience};
use super::tls::{self, Socket};
use super::{DecodedCluster, fitness, listener};
use crate::extensions::ClusterExtension;
use crate::pb::{self, cluster, core, upstream};
use crate::wire;

pub(super) fn cluster(at: &At<'_>, message: &cluster::Cluster) -> Option<DecodedCluster> {
    use cluster::cluster::{ClusterDiscoveryType, DiscoveryType};
    unpack!(at, message => cluster::Cluster {
        take: [
            name,
            cluster_discovery_type,
            eds_cluster_config,
            connect_timeout,
            lb_policy,
            load_assignment,
            circuit_breakers,
            typed_extension_protocol_options,
            common_http_protocol_options,
            http2_protocol_options,
            dns_refresh_rate,
            respect_dns_ttl,
            dns_lookup_family,
            common_lb_config,
            transport_socket,
            metadata,
            load_balancing_policy,
            lb_config,
            health_checks,
            outlier_detection,
            lb_subset_config,
        ],
        ignore: [
            alt_stat_name, // labels have the name
            stats_matcher, // metrics are ours
            per_connection_buffer_limit_bytes, // buffers have limits of their own
            per_connection_buffer_high_watermark_timeout, // likewise
            http_protocol_options, // options of HTTP/1.1 that change nothing of what is sent
            dns_jitter, // lookups are spread anyway
            dns_failure_refresh_rate, // failures are tried again with a pause that grows
            wait_for_warm_on_init, // requests wait for the first lookup
            cleanup_interval, // for clusters that find their endpoints from traffic
            close_connections_on_host_health_failure, // requests in flight may end
            ignore_health_on_host_removal, // endpoints that are taken away are gone
            track_timeout_budgets, // metrics are ours
            track_cluster_stats, // likewise
            use_tcp_for_dns_lookups, // TCP is used where answers are cut off
        ],
        refuse: [
            transport_socket_matches,
            transport_socket_matcher,
            max_requests_per_connection,
            upstream_http_protocol_options,
            dns_resolvers,
            dns_resolution_config,
            typed_dns_resolver_config,
            upstream_bind_config,
            protocol_selection,
            upstream_connection_options,
            filters,
            lrs_server,
            lrs_report_endpoint_metrics,
            upstream_config,
            preconnect_policy,
            connection_pool_per_downstream_connection,
            queuing_policies,
        ],
    });
    let own = at.extension::<ClusterExtension>("ClusterExtension", metadata.as_ref());
    let name = at.field("name").held(grammar::name(name))?;
    let kind = match cluster_discovery_type {
        None => DiscoveryType::Static,
        Some(ClusterDiscoveryType::Type(kind)) => DiscoveryType::try_from(*kind).unwrap_or(DiscoveryType::OriginalDst),
        Some(ClusterDiscoveryType::ClusterType(_)) => {
            at.field("cluster_type").refuse("this is not supported; use EDS, STATIC or STRICT_DNS");
            DiscoveryType::Static
        }
    };
    let (endpoints, discovers_endpoints) = match kind {
        DiscoveryType::Eds => (Vec::new(), Some(discovery(at, eds_cluster_config.as_ref(), &name))),
        DiscoveryType::Static | DiscoveryType::StrictDns => {
            at.unset("eds_cluster_config", eds_cluster_config);
            let names = if kind == DiscoveryType::Static { Names::Addresses } else { Names::Resolved };
            let list = load_assignment.as_ref();
            (list.map_or_else(Vec::new, |list| endpoint::endpoints(&at.field("load_assignment"), list, names)), None)
        }
        DiscoveryType::LogicalDns | DiscoveryType::OriginalDst => {
            at.field("type").refuse("this is not supported; use EDS, STATIC or STRICT_DNS");
            (Vec::new(), None)
        }
    };
    if kind == DiscoveryType::Eds {
        at.unset("load_assignment", load_assignment);
    }
    let mut connection = ConnectionOptions {
        connect_timeout: positive(at, "connect_timeout", connect_timeout.as_ref()).unwrap_or(Duration::from_secs(5)),
        // Envoy's defaults.
        idle_timeout: Duration::from_secs(3600),
        keepalive_interval: Duration::ZERO,
        keepalive_timeout: Duration::from_secs(3),
        max_streams: MAX_STREAMS,
        max_age: Duration::ZERO,
        proxy_protocol: None,
    };
    let upstream = tls::upstream_socket(&at.field("transport_socket"), transport_socket.as_ref());
    connection.proxy_protocol = upstream.header;
    let mut protocol = protocol(
        at,
        (typed_extension_protocol_options, common_http_protocol_options.as_ref(), http2_protocol_options.as_ref()),
        &mut connection,
    );
    if let Some(own) = own.as_ref().and_then(|own| own.connection.as_ref()) {
        let read = |value: &Option<prost_types::Duration>| value.as_ref().and_then(wire::read_own_duration);
        connection.keepalive_interval = read(&own.keepalive_interval).unwrap_or_default();
        connection.keepalive_timeout = read(&own.keepalive_timeout).unwrap_or(connection.keepalive_timeout);
        connection.max_streams = own.max_streams;
    }
    let places = (
        at.place_of(own.as_ref().and_then(|own| own.tls.as_ref())),
        own.as_ref().and_then(|own| own.certificate.as_ref()).map(wire::read_place),
    );
    let said = typed_extension_protocol_options.contains_key(pb::HTTP_OPTIONS) || http2_protocol_options.is_some();
    match own.as_ref().and_then(|own| own.protocol.as_deref()) {
        Some("tcp") => protocol = ClusterProtocol::Tcp,
        Some(word) => {
            let reason = format!("the protocol `{}` is not known to this version", word.escape_debug());
            at.field("metadata").refuse(reason);
        }
        // Who sends a PROXY header and says nothing of HTTP hands on bytes.
        None if upstream.header.is_some() && !said => protocol = ClusterProtocol::Tcp,
        None => {}
    }
    if upstream.quic != (protocol == ClusterProtocol::Http3) && at.reader.is_clean() {
        let reason = "HTTP/3 goes over QUIC, and nothing else does; give the cluster both: the QUIC transport socket, and \
                      `http3_protocol_options` in `explicit_http_config`";
        at.field("transport_socket").refuse(reason);
    }
    let tls = match upstream.socket {
        Socket::Plain => None,
        Socket::Tls(any) => tls::upstream(&at.field("transport_socket"), &any, places),
    };
    let tls = tls.map(|(tls, alpn)| {
        speaks(at, protocol, &alpn);
        tls
    });
    if tls.is_none() && protocol == ClusterProtocol::Auto && automatic(typed_extension_protocol_options) {
        let reason =
            "what ALPN says is only known with TLS; use `explicit_http_config` or `use_downstream_protocol_config`";
        at.field("typed_extension_protocol_options").refuse(reason);
    }
    let (ceilings, retry_budget, per_host) = breakers(&at.field("circuit_breakers"), circuit_breakers.as_ref());
    let given = own.as_ref().and_then(|own| own.resilience.as_ref());
    let Resilience { balance, endpoint_ceilings, breakers, health_check, outlier_detection, admission } = match given {
        Some(given) => resilience::cluster(at, given),
        None => {
            let slow_start = options(at, lb_config.as_ref());
            let mut balance = Balance {
                policy: match &own {
                    Some(own) if own.peak_ewma => BalancePolicy::PeakEwma,
                    _ => policy(at, *lb_policy, load_balancing_policy.as_ref()),
                },
                slow_start,
                subset_fallback: subsets(at, lb_subset_config.as_ref()),
                ..Balance::default()
            };
            fitness::common(at, common_lb_config.as_ref(), &mut balance);
            Resilience {
                balance,
                endpoint_ceilings: per_host,
                health_check: fitness::health_check(at, health_checks),
                outlier_detection: fitness::outliers(at, outlier_detection.as_ref()),
                ..Resilience::default()
            }
        }
    };
    let cluster = Cluster {
        protocol,
        balance,
        endpoint_ceilings,
        breakers,
        health_check,
        outlier_detection,
        admission,
        endpoints,
        ceilings,
        retry_budget,
        connection,
        tls,
        dns: dns(at, (dns_refresh_rate.as_ref(), *respect_dns_ttl, *dns_lookup_family), own.as_ref()),
        place: at.place_of(own.as_ref().and_then(|own| own.place.as_ref())),
        name,
    };
    Some(DecodedCluster { cluster, discovers_endpoints })
}

/// Streams on a connection where nobody says.
const MAX_STREAMS: u32 = 1024;

fn discovery(at: &At<'_>, message: Option<&cluster::cluster::EdsClusterConfig>, cluster: &Arc<str>) -> Arc<str> {
    let at = at.field("eds_cluster_config");
    let Some(message) = message else {
        at.refuse("an EDS cluster says where its endpoints come from");
        return cluster.clone();
    };
    unpack!(at, message => cluster::cluster::EdsClusterConfig {
        take: [eds_config, service_name],
        ignore: [],
        refuse: [],
    });
    match eds_config {
        Some(source) => listener::over_ads(&at.field("eds_config"), source),
        None => at.field("eds_config").refuse("an EDS cluster says where its endpoints come from"),
    }
    if service_name.is_empty() { cluster.clone() } else { service_name.as_str().into() }
}

/// A duration above zero.
pub(super) fn positive(at: &At<'_>, name: &str, value: Option<&pb::Duration>) -> Option<Duration> {
    let value = at.duration(name, value)?;
    if value.is_zero() {
        at.field(name).refuse("this cannot be zero");
    }
    Some(value)
}

type Extensions = std::collections::HashMap<String, pb::Any>;

fn automatic(options: &Extensions) -> bool {
    use prost::Message as _;
    use upstream::http_protocol_options::UpstreamProtocolOptions::AutoConfig;
    options
        .get(pb::HTTP_OPTIONS)
        .and_then(|any| upstream::HttpProtocolOptions::decode(&*any.value).ok())
        .is_some_and(|options| matches!(options.upstream_protocol_options, Some(AutoConfig(_))))
}

fn protocol(
    at: &At<'_>,
    (typed, common, http2): (&Extensions, Option<&core::HttpProtocolOptions>, Option<&core::Http2ProtocolOptions>),
    connection: &mut ConnectionOptions,
) -> ClusterProtocol {
    use upstream::http_protocol_options::UseDownstreamHttpConfig;
    use upstream::http_protocol_options::explicit_http_config::ProtocolConfig;
    use upstream::http_protocol_options::{AutoHttpConfig, ExplicitHttpConfig, UpstreamProtocolOptions};
    let outer = at;
    let mut keys: Vec<&String> = typed.keys().collect();
    keys.sort();
    for key in keys {
        if key != pb::HTTP_OPTIONS {
            at.key("typed_extension_protocol_options", key).refuse("these options are not supported; remove them");
        }
    }
    let at = outer.key("typed_extension_protocol_options", pb::HTTP_OPTIONS);
    let Some(message) = typed.get(pb::HTTP_OPTIONS).and_then(|any| at.typed::<upstream::HttpProtocolOptions>(any))
    else {
        // The way it was said before.
        if let Some(common) = common {
            common_options(&outer.field("common_http_protocol_options"), common, connection);
        }
        return match http2 {
            Some(http2) => {
                http2_options(&outer.field("http2_protocol_options"), http2, connection);
                ClusterProtocol::Http2
            }
            None => ClusterProtocol::Http1,
        };
    };
    outer.unset("common_http_protocol_options", &common);
    outer.unset("http2_protocol_options", &http2);
    unpack!(at, &message => upstream::HttpProtocolOptions {
        take: [common_http_protocol_options, upstream_protocol_options],
        ignore: [],
        refuse: [
            upstream_http_protocol_options,
            http_filters,
            header_validation_config,
            outlier_detection,
            request_mirror_policies,
            hash_policy,
            retry_policy,
        ],
    });
    if let Some(common) = common_http_protocol_options {
        common_options(&at.field("common_http_protocol_options"), common, connection);
    }
    match upstream_protocol_options {
        None => ClusterProtocol::Http1,
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(message)) => {
            let at = at.field("explicit_http_config");
            unpack!(at, message => ExplicitHttpConfig { take: [protocol_config], ignore: [], refuse: [] });
            match protocol_config {
                None | Some(ProtocolConfig::HttpProtocolOptions(_)) => ClusterProtocol::Http1,
                Some(ProtocolConfig::Http2ProtocolOptions(http2)) => {
                    http2_options(&at.field("http2_protocol_options"), http2, connection);
                    ClusterProtocol::Http2
                }
                Some(ProtocolConfig::Http3ProtocolOptions(http3)) => {
                    http3_options(&at.field("http3_protocol_options"), http3, connection);
                    ClusterProtocol::Http3
                }
            }
        }
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(message)) => {
            let at = at.field("use_downstream_protocol_config");
            unpack!(at, message => UseDownstreamHttpConfig {
                take: [http2_protocol_options],
                ignore: [http_protocol_options], // they change nothing of what is sent
                refuse: [http3_protocol_options],
            });
            match http2_protocol_options {
                Some(http2) => {
                    http2_options(&at.field("http2_protocol_options"), http2, connection);
                    ClusterProtocol::Auto
                }
                // Envoy speaks HTTP/2 here only where options for it are given.
                None => ClusterProtocol::Http1,
            }
        }
        Some(UpstreamProtocolOptions::AutoConfig(message)) => {
            let at = at.field("auto_config");
            unpack!(at, message => AutoHttpConfig {
                take: [http2_protocol_options],
                ignore: [
                    http_protocol_options, // they change nothing of what is sent
                    http3_protocol_options, // HTTP/3 is used with endpoints that offer it
                    alternate_protocols_cache_options, // what they offer is remembered
                ],
                refuse: [],
            });
            if let Some(http2) = http2_protocol_options {
                http2_options(&at.field("http2_protocol_options"), http2, connection);
            }
            ClusterProtocol::Auto
        }
    }
}

fn http3_options(at: &At<'_>, message: &core::Http3ProtocolOptions, connection: &mut ConnectionOptions) {
    unpack!(at, message => core::Http3ProtocolOptions {
        take: [quic_protocol_options],
        ignore: [
            override_stream_error_on_invalid_http_message, // a stream where that is enough, else the connection
            allow_extended_connect, // where the endpoint allows it
            disable_qpack, // what is sent is not compressed by a dynamic table
            disable_connection_flow_control_for_streams, // tuning
            disallow_obs_text, // header values are as in HTTP/1
        ],
        refuse: [allow_metadata],
    });
    if let Some(quic) = quic_protocol_options {
        unpack!(at, quic => core::QuicProtocolOptions {
            take: [max_concurrent_streams],
            ignore: [
                initial_stream_window_size, // tuning
                initial_connection_window_size, // likewise
                num_timeouts_to_trigger_port_migration, // paths are changed when the network says so
                connection_keepalive, // connections have limits of idleness
                connection_options, // of one implementation
                client_connection_options, // likewise
                idle_network_timeout, // connections have limits of idleness
                max_packet_length, // found out
                client_packet_writer, // tuning
                connection_migration, // paths are changed when the network says so
                memory_reduction_timeout, // tuning
                enable_scone, // not told
            ],
            refuse: [],
        });
        if let Some(streams) = max_concurrent_streams {
            connection.max_streams = streams.value;
        }
    }
}

fn common_options(at: &At<'_>, message: &core::HttpProtocolOptions, connection: &mut ConnectionOptions) {
    unpack!(at, message => core::HttpProtocolOptions {
        take: [idle_timeout, max_connection_duration],
        ignore: [
            max_connection_duration_jitter, // the age has a jitter of its own
            max_headers_count, // responses have limits of their own
            max_response_headers_kb, // likewise
            headers_with_underscores_action, // of requests only
        ],
        refuse: [max_stream_duration, max_requests_per_connection],
    });
    if let Some(idle) = positive(at, "idle_timeout", idle_timeout.as_ref()) {
        connection.idle_timeout = idle;
    }
    if let Some(age) = at.duration("max_connection_duration", max_connection_duration.as_ref()) {
        connection.max_age = age;
    }
}

fn http2_options(at: &At<'_>, message: &core::Http2ProtocolOptions, connection: &mut ConnectionOptions) {
    let (streams, keepalive) = http2(at, message);
    if let Some(streams) = streams {
        connection.max_streams = streams;
    }
    let Some(message) = keepalive else { return };
    let at = at.field("connection_keepalive");
    unpack!(at, message => core::KeepaliveSettings {
        take: [interval, timeout],
        ignore: [
            interval_jitter, // pings follow silence, which is no rhythm
            connection_idle_interval, // a connection that was idle is tried before it is used
        ],
        refuse: [],
    });
    connection.keepalive_interval = at.duration("interval", interval.as_ref()).unwrap_or_default();
    if let Some(timeout) = positive(&at, "timeout", timeout.as_ref()) {
        connection.keepalive_timeout = timeout;
    }
}

/// Streams of a connection, and its keepalive.
pub(super) fn http2<'m>(
    at: &At<'_>,
    message: &'m core::Http2ProtocolOptions,
) -> (Option<u32>, Option<&'m core::KeepaliveSettings>) {
    unpack!(at, message => core::Http2ProtocolOptions {
        take: [max_concurrent_streams, connection_keepalive],
        ignore: [
            hpack_table_size, // tuning
            initial_stream_window_size, // likewise
            initial_connection_window_size, // likewise
            allow_connect, // websockets are always taken
            max_outbound_frames, // floods have limits of their own
            max_outbound_control_frames, // likewise
            max_consecutive_inbound_frames_with_empty_payload, // likewise
            max_inbound_priority_frames_per_stream, // likewise
            max_inbound_window_update_frames_per_data_frame_sent, // likewise
            stream_error_on_invalid_http_messaging, // only the stream ends
            override_stream_error_on_invalid_http_message, // likewise
            use_oghttp2_codec, // which library
            enable_huffman_encoding, // tuning
            max_header_field_size_kb, // heads have a limit of their own
            disallow_obs_text, // tuning
            stream_reset_burst, // floods have limits of their own
            stream_reset_rate, // likewise
        ],
        refuse: [allow_metadata, custom_settings_parameters, max_metadata_size],
    });
    let streams = max_concurrent_streams.as_ref().map(|streams| streams.value);
    // Envoy's older default is all there are.
    (
        streams.map(|streams| if streams > i32::MAX as u32 - 1 { MAX_STREAMS } else { streams }),
        connection_keepalive.as_ref(),
    )
}

/// What ALPN offers must be what is spoken.
fn speaks(at: &At<'_>, protocol: ClusterProtocol, alpn: &[String]) {
    let fits = match protocol {
        ClusterProtocol::Http1 => alpn.iter().all(|name| name.starts_with("http/1")),
        ClusterProtocol::Http2 => alpn.iter().any(|name| name == "h2") || alpn.is_empty(),
        ClusterProtocol::Http3 => alpn.iter().any(|name| name == "h3") || alpn.is_empty(),
        ClusterProtocol::Auto | ClusterProtocol::Tcp => true,
    };
    if !fits {
        at.field("transport_socket")
            .field("typed_config")
            .field("common_tls_context")
            .field("alpn_protocols")
            .refuse("ALPN offers another protocol than the cluster speaks; leave it out, or offer that one");
    }
}

/// The options of a policy.
fn options(at: &At<'_>, message: Option<&cluster::cluster::LbConfig>) -> Option<SlowStart> {
    use cluster::cluster::{LbConfig, LeastRequestLbConfig, MaglevLbConfig, RingHashLbConfig, RoundRobinLbConfig};
    match message {
        None => None,
        Some(LbConfig::LeastRequestLbConfig(message)) => {
            let at = at.field("least_request_lb_config");
            unpack!(at, message => LeastRequestLbConfig {
                take: [choice_count, slow_start_config],
                ignore: [],
                refuse: [active_request_bias],
            });
            if choice_count.as_ref().is_some_and(|count| count.value != 2) {
                at.field("choice_count").refuse("two are compared; remove it");
            }
            fitness::slow_start(&at, slow_start_config.as_ref())
        }
        Some(LbConfig::RoundRobinLbConfig(message)) => {
            let at = at.field("round_robin_lb_config");
            unpack!(at, message => RoundRobinLbConfig { take: [slow_start_config], ignore: [], refuse: [] });
            fitness::slow_start(&at, slow_start_config.as_ref())
        }
        Some(LbConfig::RingHashLbConfig(message)) => {
            unpack!(at, message => RingHashLbConfig {
                take: [],
                ignore: [
                    minimum_ring_size, // tuning
                    hash_function, // which endpoint a value leads to is each proxy's own
                    maximum_ring_size, // tuning
                ],
                refuse: [],
            });
            None
        }
        Some(LbConfig::MaglevLbConfig(message)) => {
            unpack!(at, message => MaglevLbConfig {
                take: [],
                ignore: [table_size], // tuning
                refuse: [],
            });
            None
        }
        Some(LbConfig::OriginalDstLbConfig(_)) => {
            at.field("original_dst_lb_config").refuse("this is not supported");
            None
        }
    }
}

fn policy(at: &At<'_>, policy: i32, typed: Option<&cluster::LoadBalancingPolicy>) -> BalancePolicy {
    use cluster::cluster::LbPolicy;
    if let Some(typed) = typed {
        return self::typed(&at.field("load_balancing_policy"), typed);
    }
    match LbPolicy::try_from(policy) {
        Ok(LbPolicy::RoundRobin) => BalancePolicy::RoundRobin,
        Ok(LbPolicy::LeastRequest) => BalancePolicy::LeastRequest,
        Ok(LbPolicy::Random) => BalancePolicy::Random,
        Ok(LbPolicy::RingHash) => BalancePolicy::RingHash,
        Ok(LbPolicy::Maglev) => BalancePolicy::Maglev,
        Ok(LbPolicy::ClusterProvided | LbPolicy::LoadBalancingPolicyConfig) | Err(_) => {
            at.field("lb_policy").refuse("this is not supported; use one of the policies that have a name here");
            BalancePolicy::LeastRequest
        }
    }
}

/// What is done when no endpoint has the labels of a route.
fn subsets(at: &At<'_>, message: Option<&cluster::cluster::LbSubsetConfig>) -> SubsetFallback {
    use cluster::cluster::lb_subset_config::LbSubsetFallbackPolicy;
    let Some(message) = message else { return SubsetFallback::None };
    let at = at.field("lb_subset_config");
    unpack!(at, message => cluster::cluster::LbSubsetConfig {
        take: [fallback_policy, metadata_fallback_policy],
        ignore: [
            subset_selectors, // any labels can be asked for
            locality_weight_aware, // weights of localities are refused
            scale_locality_weight, // likewise
        ],
        refuse: [default_subset, panic_mode_any, list_as_any],
    });
    if *metadata_fallback_policy != 0 {
        at.field("metadata_fallback_policy").refuse("this is not supported; remove it");
    }
    match LbSubsetFallbackPolicy::try_from(*fallback_policy) {
        Ok(LbSubsetFallbackPolicy::NoFallback) => SubsetFallback::None,
        Ok(LbSubsetFallbackPolicy::AnyEndpoint) => SubsetFallback::Any,
        Ok(LbSubsetFallbackPolicy::DefaultSubset) | Err(_) => {
            at.field("fallback_policy").refuse("this is NO_FALLBACK or ANY_ENDPOINT");
            SubsetFallback::None
        }
    }
}

/// The first policy that is known, as Envoy takes it.
fn typed(at: &At<'_>, message: &cluster::LoadBalancingPolicy) -> BalancePolicy {
    const PREFIX: &str = "envoy.extensions.load_balancing_policies.";
    unpack!(at, message => cluster::LoadBalancingPolicy { take: [policies], ignore: [], refuse: [] });
    for (index, policy) in policies.iter().enumerate() {
        let at = at.item("policies", index).field("typed_extension_config");
        let Some(any) = policy.typed_extension_config.as_ref().and_then(|config| config.typed_config.as_ref()) else {
            at.refuse("the policy has no configuration");
            continue;
        };
        let kind = any.type_url.rsplit('/').next().and_then(|name| name.strip_prefix(PREFIX)).unwrap_or(&any.type_url);
        let found = match kind {
            "round_robin.v3.RoundRobin" => BalancePolicy::RoundRobin,
            "least_request.v3.LeastRequest" => BalancePolicy::LeastRequest,
            "random.v3.Random" => BalancePolicy::Random,
            "ring_hash.v3.RingHash" => BalancePolicy::RingHash,
            "maglev.v3.Maglev" => BalancePolicy::Maglev,
            other => {
                at.refuse(format!(
                    "the policy `{other}` is not supported; use round robin, least request, random, ring hash or maglev"
                ));
                continue;
            }
        };
        if !any.value.is_empty() {
            at.field("typed_config").refuse("options of the policy are not supported; leave them out");
        }
        return found;
    }
    BalancePolicy::RoundRobin
}

fn breakers(at: &At<'_>, message: Option<&cluster::CircuitBreakers>) -> (Ceilings, RetryBudget, EndpointCeilings) {
    // Envoy's defaults.
    let mut ceilings = Ceilings { max_requests: 1024, max_pending: 1024, max_retries: 3, max_connections: 1024 };
    // Without a budget, only the number of retries at a time counts.
    let free = RetryBudget { percent: 100, min_per_second: u32::try_from(RETRIES_PER_SECOND.max).unwrap_or(u32::MAX) };
    let Some(message) = message else { return (ceilings, free, EndpointCeilings::default()) };
    let mut budget = free;
    unpack!(at, message => cluster::CircuitBreakers {
        take: [thresholds, per_host_thresholds],
        ignore: [],
        refuse: [],
    });
    for (index, message) in thresholds.iter().enumerate() {
        let at = at.item("thresholds", index);
        unpack!(at, message => cluster::circuit_breakers::Thresholds {
            take: [priority, max_connections, max_pending_requests, max_requests, max_retries, retry_budget],
            ignore: [
                track_remaining, // metrics are ours
                max_connection_pools, // pools are bounded by connections
            ],
            refuse: [],
        });
        // No route has another priority: they are refused.
        if *priority != core::RoutingPriority::Default as i32 {
            continue;
        }
        let read = |value: &Option<pb::UInt32Value>, default: u32| value.as_ref().map_or(default, |value| value.value);
        ceilings.max_connections = bounded(read(max_connections, 1024));
        ceilings.max_pending = bounded(read(max_pending_requests, 1024));
        ceilings.max_requests = read(max_requests, 1024).min(10_000_000);
        ceilings.max_retries = bounded(read(max_retries, 3));
        if let Some(message) = retry_budget {
            let at = at.field("retry_budget");
            unpack!(at, message => cluster::circuit_breakers::thresholds::RetryBudget {
                take: [budget_percent, min_retry_concurrency],
                ignore: [budget_interval], // ours is ten seconds
                refuse: [],
            });
            let percent = budget_percent.as_ref().map_or(20.0, |percent| percent.value);
            budget.percent =
                (0..=100_u8).find(|whole| (f64::from(*whole) - percent).abs() < 1e-9).unwrap_or_else(|| {
                    at.field("budget_percent").refuse("this is a whole number from 0 to 100");
                    20
                });
            budget.min_per_second = read(min_retry_concurrency, 3);
            // Envoy then looks at the budget alone.
            if max_retries.is_none() {
                ceilings.max_retries = u32::try_from(MAX_RETRIES.max).unwrap_or(u32::MAX);
            }
        }
    }
    (ceilings, budget, fitness::per_host(at, per_host_thresholds))
}

/// More than any proxy has is no limit.
fn bounded(value: u32) -> u32 {
    value.min(1_000_000)
}

fn dns(
    at: &At<'_>,
    (refresh, respect, family): (Option<&pb::Duration>, bool, i32),
    own: Option<&ClusterExtension>,
) -> DnsOptions {
    use cluster::cluster::DnsLookupFamily;
    // The others would leave out addresses that ours uses.
    if !matches!(DnsLookupFamily::try_from(family), Ok(DnsLookupFamily::Auto | DnsLookupFamily::All)) {
        at.field("dns_lookup_family").refuse("every address of a name is used; write ALL");
    }
    let read = |value: Option<&prost_types::Duration>| value.and_then(wire::read_own_duration);
    let own = own.map(|own| (read(own.min_ttl.as_ref()), read(own.max_ttl.as_ref())));
    if let Some((Some(min_ttl), Some(max_ttl))) = own {
        return DnsOptions { min_ttl, max_ttl };
    }
    let refresh = positive(at, "dns_refresh_rate", refresh);
    match (respect, refresh) {
        (true, _) => DnsOptions { min_ttl: Duration::from_secs(1), max_ttl: Duration::from_secs(24 * 3600) },
        (false, refresh) => {
            let every = refresh.unwrap_or(Duration::from_secs(5));
            DnsOptions { min_ttl: every, max_ttl: every }
        }
    }
}
