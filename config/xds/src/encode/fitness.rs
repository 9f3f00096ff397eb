//! What Envoy's fields can say of how endpoints are chosen and judged.

use outrigger_config::model::{
    Balance, BalancePolicy, EndpointCeilings, HashKey, HashSource, HealthCheck, Locality, OutlierDetection, Probe,
    Share, SlowStart,
};

use crate::pb::{cluster, core, kind, route};
use crate::wire;

/// How many millionths Envoy counts a share in.
pub(super) fn fraction(Share(millionths): Share) -> core::RuntimeFractionalPercent {
    let denominator = kind::fractional_percent::DenominatorType::Million as i32;
    core::RuntimeFractionalPercent {
        default_value: Some(kind::FractionalPercent { numerator: millionths, denominator }),
        runtime_key: String::new(),
    }
}

/// The options of a policy.
pub(super) fn policy_options(balance: &Balance) -> Option<cluster::cluster::LbConfig> {
    use cluster::cluster::{LbConfig, LeastRequestLbConfig, MaglevLbConfig, RingHashLbConfig, RoundRobinLbConfig};
    let slow = balance.slow_start.as_ref().map(slow_start);
    match balance.policy {
        BalancePolicy::RoundRobin => {
            slow.map(|slow| LbConfig::RoundRobinLbConfig(RoundRobinLbConfig { slow_start_config: Some(slow) }))
        }
        BalancePolicy::LeastRequest | BalancePolicy::PeakEwma => slow.map(|slow| {
            LbConfig::LeastRequestLbConfig(LeastRequestLbConfig { slow_start_config: Some(slow), ..Default::default() })
        }),
        BalancePolicy::RingHash => Some(LbConfig::RingHashLbConfig(RingHashLbConfig::default())),
        BalancePolicy::Maglev => Some(LbConfig::MaglevLbConfig(MaglevLbConfig::default())),
        BalancePolicy::Random => None,
    }
}

fn slow_start(SlowStart { window, min_weight, aggression }: &SlowStart) -> cluster::cluster::SlowStartConfig {
    cluster::cluster::SlowStartConfig {
        slow_start_window: wire::duration(*window),
        aggression: Some(core::RuntimeDouble {
            default_value: *aggression,
            // Envoy wants one.
            runtime_key: "outrigger.slow_start.aggression".to_owned(),
        }),
        min_weight_percent: Some(kind::Percent { value: f64::from(*min_weight) }),
    }
}

/// What all policies share; nothing where it is the default of both.
pub(super) fn common(balance: &Balance) -> Option<cluster::cluster::CommonLbConfig> {
    use cluster::cluster::CommonLbConfig;
    use cluster::cluster::common_lb_config::{ConsistentHashingLbConfig, LocalityConfigSpecifier, ZoneAwareLbConfig};
    let hashes = matches!(balance.policy, BalancePolicy::RingHash | BalancePolicy::Maglev);
    let out = CommonLbConfig {
        healthy_panic_threshold: (balance.panic_threshold != Balance::default().panic_threshold)
            .then(|| kind::Percent { value: f64::from(balance.panic_threshold) }),
        consistent_hashing_lb_config: balance.bounded_load.filter(|_| hashes).map(|percent| {
            ConsistentHashingLbConfig {
                use_hostname_for_hashing: false,
                hash_balance_factor: wire::number(u32::from(percent)),
            }
        }),
        locality_config_specifier: (balance.locality == Locality::PreferZone)
            .then(|| LocalityConfigSpecifier::ZoneAwareLbConfig(ZoneAwareLbConfig::default())),
        ..Default::default()
    };
    (out != CommonLbConfig::default()).then_some(out)
}

pub(super) fn per_host(ceilings: &EndpointCeilings) -> Vec<cluster::circuit_breakers::Thresholds> {
    // Envoy knows only this one for hosts.
    let EndpointCeilings { max_requests: _, max_pending: _, max_retries: _, max_connections } = ceilings;
    let one = |max: u32| cluster::circuit_breakers::Thresholds {
        priority: core::RoutingPriority::Default as i32,
        max_connections: wire::number(max),
        ..Default::default()
    };
    max_connections.map(one).into_iter().collect()
}

pub(super) fn health_check(check: &HealthCheck) -> core::HealthCheck {
    use core::health_check::{GrpcHealthCheck, HealthChecker, HttpHealthCheck, TcpHealthCheck};
    let HealthCheck {
        probe,
        interval,
        jitter,
        timeout,
        healthy_threshold,
        unhealthy_threshold,
        no_traffic_interval,
        port,
    } = check;
    let checker = match probe {
        Probe::Http { path, host, method, headers, expected } => HealthChecker::HttpHealthCheck(HttpHealthCheck {
            host: host.as_deref().unwrap_or_default().to_owned(),
            path: path.to_string(),
            method: core::RequestMethod::from_str_name(method.as_str()).map_or(0, |method| method as i32),
            request_headers_to_add: headers
                .iter()
                .map(|(name, value)| wire::header_option(name, value, false))
                .collect(),
            expected_statuses: expected
                .iter()
                .map(|range| kind::Int64Range { start: i64::from(*range.start()), end: i64::from(*range.end()) + 1 })
                .collect(),
            ..Default::default()
        }),
        Probe::Tcp => HealthChecker::TcpHealthCheck(TcpHealthCheck::default()),
        Probe::Grpc { service, authority } => HealthChecker::GrpcHealthCheck(GrpcHealthCheck {
            service_name: service.to_string(),
            authority: authority.as_deref().unwrap_or_default().to_owned(),
            ..Default::default()
        }),
    };
    core::HealthCheck {
        timeout: wire::duration(*timeout),
        interval: wire::duration(*interval),
        interval_jitter_percent: u32::from(*jitter),
        unhealthy_threshold: wire::number(*unhealthy_threshold),
        healthy_threshold: wire::number(*healthy_threshold),
        alt_port: port.and_then(|port| wire::number(u32::from(port))),
        no_traffic_interval: wire::duration(*no_traffic_interval),
        health_checker: Some(checker),
        ..Default::default()
    }
}

pub(super) fn outliers(outliers: &OutlierDetection) -> cluster::OutlierDetection {
    let OutlierDetection {
        consecutive_errors,
        consecutive_gateway_errors,
        consecutive_local_errors,
        split_local_origin,
        success_rate_stdev_factor,
        success_rate_min_hosts,
        success_rate_min_requests,
        interval,
        base_ejection,
        max_ejection,
        max_ejection_percent,
    } = *outliers;
    // Zero is off, which Envoy says by not enforcing it.
    let on = |threshold: u32| wire::number(if threshold == 0 { 0 } else { 100 });
    let local = if split_local_origin { success_rate_min_hosts } else { 0 };
    cluster::OutlierDetection {
        consecutive_5xx: wire::number(consecutive_errors.max(1)),
        enforcing_consecutive_5xx: on(consecutive_errors),
        consecutive_gateway_failure: wire::number(consecutive_gateway_errors.max(1)),
        enforcing_consecutive_gateway_failure: on(consecutive_gateway_errors),
        split_external_local_origin_errors: split_local_origin,
        consecutive_local_origin_failure: wire::number(consecutive_local_errors.max(1)),
        enforcing_consecutive_local_origin_failure: on(consecutive_local_errors),
        enforcing_success_rate: on(success_rate_min_hosts),
        enforcing_local_origin_success_rate: on(local),
        success_rate_minimum_hosts: wire::number(success_rate_min_hosts),
        success_rate_request_volume: wire::number(success_rate_min_requests),
        success_rate_stdev_factor: wire::number(success_rate_stdev_factor),
        interval: wire::duration(interval),
        base_ejection_time: wire::duration(base_ejection),
        max_ejection_time: wire::duration(max_ejection),
        max_ejection_percent: wire::number(u32::from(max_ejection_percent)),
        ..Default::default()
    }
}

/// What a rule's requests are told apart by; keys that Envoy has none of are left out.
pub(super) fn hash_policy(keys: &[HashKey]) -> Vec<route::route_action::HashPolicy> {
    use route::route_action::HashPolicy;
    use route::route_action::hash_policy::{ConnectionProperties, Cookie, Header, PolicySpecifier, QueryParameter};
    let one = |HashKey { source, terminal }: &HashKey| {
        let specifier = match source {
            HashSource::Header(name) => {
                PolicySpecifier::Header(Header { header_name: name.as_str().to_owned(), regex_rewrite: None })
            }
            HashSource::Cookie { name, ttl, path } => PolicySpecifier::Cookie(Cookie {
                name: name.to_string(),
                ttl: ttl.and_then(wire::duration),
                path: path.as_deref().unwrap_or_default().to_owned(),
                attributes: Vec::new(),
            }),
            HashSource::SourceAddress => {
                PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: true })
            }
            HashSource::Query(name) => PolicySpecifier::QueryParameter(QueryParameter { name: name.to_string() }),
            // With the query, which ours leaves out.
            HashSource::Path => {
                PolicySpecifier::Header(Header { header_name: ":path".to_owned(), regex_rewrite: None })
            }
        };
        HashPolicy { terminal: *terminal, policy_specifier: Some(specifier) }
    };
    keys.iter().map(one).collect()
}
