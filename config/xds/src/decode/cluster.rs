//! Clusters.

mod balance;
mod protocol;

use std::sync::Arc;
use std::time::Duration;

use outrigger_config::grammar;
use outrigger_config::limits::{MAX_RETRIES, RETRIES_PER_SECOND};
use outrigger_config::model::{
    Balance, BalancePolicy, Ceilings, Cluster, ClusterProtocol, ConnectionOptions, DnsOptions, EndpointCeilings,
    RetryBudget,
};

use self::balance::{options, policy, subsets};
pub(super) use self::protocol::http2;
use self::protocol::{MAX_STREAMS, automatic, protocol, speaks};
use super::endpoint::{self, Names};
use super::reader::At;
use super::resilience::{self, Resilience};
use super::tls::{self, Socket};
use super::{DecodedCluster, fitness, listener};
use crate::extensions::ClusterExtension;
use crate::pb::{self, cluster, core};
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
