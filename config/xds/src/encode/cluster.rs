//! Clusters.

use std::collections::HashMap;
use std::time::Duration;

use outrigger_config::model::{
    BalancePolicy, Ceilings, Cluster, ClusterProtocol, ClusterTlsMode, ConnectionOptions, EndpointCeilings,
    JwtProvider, KeySource, RetryBudget, Target,
};

use super::{Form, endpoint, fitness, opaque, resilience, tls};
use crate::extensions::{ClusterExtension, ConnectionExtension};
use crate::pb::{cluster, core, kind, upstream};
use crate::{Kind, Resource, pb, wire};

/// A cluster. Its endpoints are in it only where they are names; see [`discovers_endpoints`].
#[must_use]
pub fn cluster(config: &Cluster, form: Form) -> Resource {
    Resource::new(Kind::Cluster, config.name.clone(), &message(config, form))
}

/// Whether the endpoints of a cluster are a resource of their own: whether all of them are addresses.
#[must_use]
pub fn discovers_endpoints(cluster: &Cluster) -> bool {
    cluster.endpoints.iter().all(|endpoint| matches!(endpoint.target, Target::Address(_)))
}

fn message(config: &Cluster, form: Form) -> cluster::Cluster {
    use cluster::cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbPolicy};
    let Cluster {
        name,
        protocol,
        balance,
        endpoints,
        ceilings,
        endpoint_ceilings,
        breakers: _,
        health_check,
        outlier_detection,
        admission: _,
        retry_budget,
        connection,
        tls: secured,
        dns: _,
        place: _,
    } = config;
    let discovered = discovers_endpoints(config);
    let discovery = match (discovered, form) {
        (true, _) => DiscoveryType::Eds,
        (false, Form::Outrigger | Form::Envoy) => DiscoveryType::StrictDns,
        (false, Form::Grpc) => DiscoveryType::LogicalDns,
    };
    // gRPC takes one name for each cluster (gRFC A37).
    let inline = if form == Form::Grpc { &endpoints[..endpoints.len().min(1)] } else { &endpoints[..] };
    let policy = match (balance.policy, form) {
        (_, Form::Grpc) | (BalancePolicy::RoundRobin, _) => LbPolicy::RoundRobin,
        (BalancePolicy::LeastRequest | BalancePolicy::PeakEwma, _) => LbPolicy::LeastRequest,
        (BalancePolicy::Random, _) => LbPolicy::Random,
        (BalancePolicy::RingHash, _) => LbPolicy::RingHash,
        (BalancePolicy::Maglev, _) => LbPolicy::Maglev,
    };
    let plain = cluster::Cluster {
        name: name.to_string(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(discovery as i32)),
        eds_cluster_config: discovered
            .then(|| EdsClusterConfig { eds_config: Some(wire::ads()), service_name: String::new() }),
        load_assignment: (!discovered).then(|| endpoint::assignment(name, inline, form)),
        lb_policy: policy as i32,
        connect_timeout: wire::duration(connection.connect_timeout),
        circuit_breakers: Some(breakers(ceilings, *retry_budget, endpoint_ceilings)),
        ..Default::default()
    };
    if form == Form::Grpc {
        return plain;
    }
    let options = HashMap::from([(
        pb::HTTP_OPTIONS.to_owned(),
        wire::any(&http_options(*protocol, connection, secured.is_some())),
    )]);
    cluster::Cluster {
        typed_extension_protocol_options: options,
        // Every A and AAAA record is an endpoint, for as long as it says.
        dns_lookup_family: if discovered { 0 } else { cluster::cluster::DnsLookupFamily::All as i32 },
        respect_dns_ttl: !discovered,
        lb_config: fitness::policy_options(balance),
        common_lb_config: fitness::common(balance),
        health_checks: health_check.iter().map(fitness::health_check).collect(),
        outlier_detection: outlier_detection.as_ref().map(fitness::outliers),
        transport_socket: {
            let socket = secured.as_ref().map(|config| tls::upstream(config, *protocol, form));
            match connection.proxy_protocol {
                Some(version) => Some(opaque::with_header(version, socket)),
                None => socket,
            }
        },
        metadata: (form == Form::Outrigger).then(|| wire::metadata("ClusterExtension", &extension(config))),
        ..plain
    }
}

fn breakers(ceilings: &Ceilings, budget: RetryBudget, each: &EndpointCeilings) -> cluster::CircuitBreakers {
    let Ceilings { max_requests, max_pending, max_retries, max_connections } = *ceilings;
    let RetryBudget { percent, min_per_second } = budget;
    let thresholds = cluster::circuit_breakers::Thresholds {
        priority: core::RoutingPriority::Default as i32,
        max_connections: wire::number(max_connections),
        max_pending_requests: wire::number(max_pending),
        max_requests: wire::number(max_requests),
        max_retries: wire::number(max_retries),
        retry_budget: Some(cluster::circuit_breakers::thresholds::RetryBudget {
            budget_percent: Some(kind::Percent { value: f64::from(percent) }),
            budget_interval: None,
            min_retry_concurrency: wire::number(min_per_second),
        }),
        ..Default::default()
    };
    cluster::CircuitBreakers { thresholds: vec![thresholds], per_host_thresholds: fitness::per_host(each) }
}

fn http_options(
    protocol: ClusterProtocol,
    connection: &ConnectionOptions,
    secured: bool,
) -> upstream::HttpProtocolOptions {
    use upstream::http_protocol_options::explicit_http_config::ProtocolConfig;
    use upstream::http_protocol_options::{
        AutoHttpConfig, ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
    };
    let ConnectionOptions {
        connect_timeout: _,
        idle_timeout,
        keepalive_interval,
        keepalive_timeout,
        max_streams,
        max_age,
        proxy_protocol: _,
    } = *connection;
    let http2 = core::Http2ProtocolOptions {
        max_concurrent_streams: wire::number(max_streams),
        connection_keepalive: (!keepalive_interval.is_zero()).then(|| core::KeepaliveSettings {
            interval: wire::duration(keepalive_interval),
            timeout: wire::duration(keepalive_timeout),
            ..Default::default()
        }),
        ..Default::default()
    };
    let http1 = core::Http1ProtocolOptions::default();
    let options = match protocol {
        ClusterProtocol::Http1 | ClusterProtocol::Tcp => {
            UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
                protocol_config: Some(ProtocolConfig::HttpProtocolOptions(http1)),
            })
        }
        ClusterProtocol::Http2 => UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(http2)),
        }),
        ClusterProtocol::Http3 => UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(ProtocolConfig::Http3ProtocolOptions(core::Http3ProtocolOptions {
                quic_protocol_options: Some(core::QuicProtocolOptions {
                    max_concurrent_streams: wire::number(max_streams),
                    ..Default::default()
                }),
                ..Default::default()
            })),
        }),
        // What ALPN says.
        ClusterProtocol::Auto if secured => UpstreamProtocolOptions::AutoConfig(AutoHttpConfig {
            http_protocol_options: Some(http1),
            http2_protocol_options: Some(http2),
            ..Default::default()
        }),
        ClusterProtocol::Auto => UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
            http_protocol_options: Some(http1),
            http2_protocol_options: Some(http2),
            ..Default::default()
        }),
    };
    upstream::HttpProtocolOptions {
        common_http_protocol_options: Some(core::HttpProtocolOptions {
            idle_timeout: wire::duration(idle_timeout),
            max_connection_duration: (!max_age.is_zero()).then(|| wire::duration(max_age)).flatten(),
            ..Default::default()
        }),
        upstream_protocol_options: Some(options),
        ..Default::default()
    }
}

fn extension(config: &Cluster) -> ClusterExtension {
    let connection = &config.connection;
    let shown = config.tls.as_ref().and_then(|tls| match &tls.mode {
        ClusterTlsMode::Simple { certificate, .. } => certificate.as_ref(),
        ClusterTlsMode::Mutual { .. } => None,
    });
    // With HTTP/2 options, only the timeout of a keepalive that is off is left unsaid.
    let has_pings = matches!(config.protocol, ClusterProtocol::Http2 | ClusterProtocol::Auto);
    let unsaid = !has_pings || connection.keepalive_interval.is_zero();
    ClusterExtension {
        place: wire::place(&config.place),
        peak_ewma: config.balance.policy == BalancePolicy::PeakEwma,
        connection: unsaid.then(|| ConnectionExtension {
            keepalive_interval: wire::own_duration(connection.keepalive_interval),
            keepalive_timeout: wire::own_duration(connection.keepalive_timeout),
            max_streams: connection.max_streams,
        }),
        min_ttl: wire::own_duration(config.dns.min_ttl),
        max_ttl: wire::own_duration(config.dns.max_ttl),
        tls: config.tls.as_ref().and_then(|tls| wire::place(&tls.place)),
        certificate: shown.and_then(|files| wire::place(&files.place)),
        resilience: resilience::cluster(config),
        protocol: (config.protocol == ClusterProtocol::Tcp).then(|| "tcp".to_owned()),
    }
}

/// The cluster that Envoy fetches the keys of a provider from; our own proxies need none. `None` for keys in a file.
#[must_use]
pub fn keys_cluster(provider: &JwtProvider) -> Option<Resource> {
    use cluster::cluster::{ClusterDiscoveryType, DiscoveryType};
    let KeySource::Url { url, refresh: _, timeout, trust_bundle } = &provider.keys else { return None };
    let uri: http::Uri = url.parse().ok()?;
    let secured = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if secured { 443 } else { 80 });
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
    let name = keys_cluster_name(&provider.name);
    let target = match host.parse::<std::net::IpAddr>() {
        Ok(ip) => Target::Address(std::net::SocketAddr::new(ip, port)),
        Err(_) => Target::Name { host: host.into(), port },
    };
    let kind = match target {
        Target::Address(_) => DiscoveryType::Static,
        Target::Name { .. } => DiscoveryType::StrictDns,
    };
    let endpoint = outrigger_config::model::Endpoint::at(target);
    let message = cluster::Cluster {
        name: name.clone(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(kind as i32)),
        load_assignment: Some(endpoint::assignment(&name, &[endpoint], Form::Envoy)),
        connect_timeout: wire::duration((*timeout).min(Duration::from_secs(5))),
        transport_socket: secured.then(|| tls::web(host, trust_bundle.as_deref())),
        ..Default::default()
    };
    Some(Resource::new(Kind::Cluster, name.into(), &message))
}

pub(super) fn keys_cluster_name(provider: &str) -> String {
    format!("jwks/{provider}")
}
