//! How endpoints are chosen and judged, as Envoy's fields say it.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use outrigger_config::model::{
    Balance, BalancePolicy, EndpointCeilings, HashKey, HashSource, HealthCheck, Locality, OutlierDetection, Probe,
    Share, SlowStart,
};

use super::cluster::positive;
use super::reader::At;
use crate::pb::{self, cluster, core, kind, route};

/// A percentage that is a whole number.
fn percent(at: &At<'_>, field: &str, value: Option<&kind::Percent>) -> Option<u8> {
    let value = value?.value;
    let whole = (0..=100_u8).find(|whole| (f64::from(*whole) - value).abs() < 1e-9);
    if whole.is_none() {
        at.field(field).refuse("this is a whole number from 0 to 100");
    }
    whole
}

pub(super) fn slow_start(at: &At<'_>, message: Option<&cluster::cluster::SlowStartConfig>) -> Option<SlowStart> {
    let message = message?;
    let at = &at.field("slow_start_config");
    unpack!(at, message => cluster::cluster::SlowStartConfig {
        take: [slow_start_window, aggression, min_weight_percent],
        ignore: [],
        refuse: [],
    });
    let window = positive(at, "slow_start_window", slow_start_window.as_ref())?;
    let aggression = aggression.as_ref().map_or(1.0, |aggression| aggression.default_value);
    if !(0.1..=10.0).contains(&aggression) {
        at.field("aggression").refuse("this is a number from 0.1 to 10");
    }
    let min_weight = percent(at, "min_weight_percent", min_weight_percent.as_ref()).unwrap_or(10);
    Some(SlowStart { window, min_weight: min_weight.max(1), aggression })
}

/// What all policies share.
pub(super) fn common(at: &At<'_>, message: Option<&cluster::cluster::CommonLbConfig>, balance: &mut Balance) {
    use cluster::cluster::common_lb_config::{ConsistentHashingLbConfig, LocalityConfigSpecifier, ZoneAwareLbConfig};
    // Without a factor, Envoy bounds nothing.
    let hashes = matches!(balance.policy, BalancePolicy::RingHash | BalancePolicy::Maglev);
    if hashes {
        balance.bounded_load = None;
    }
    let Some(message) = message else { return };
    let at = &at.field("common_lb_config");
    unpack!(at, message => cluster::cluster::CommonLbConfig {
        take: [healthy_panic_threshold, consistent_hashing_lb_config, locality_config_specifier],
        ignore: [
            update_merge_window, // each update is taken as it comes
            ignore_new_hosts_until_first_hc, // a new endpoint is taken when a check says that it is well
        ],
        refuse: [close_connections_on_host_set_change, override_host_status],
    });
    if let Some(threshold) = percent(at, "healthy_panic_threshold", healthy_panic_threshold.as_ref()) {
        balance.panic_threshold = threshold;
    }
    if let Some(message) = consistent_hashing_lb_config {
        let at = &at.field("consistent_hashing_lb_config");
        unpack!(at, message => ConsistentHashingLbConfig {
            take: [hash_balance_factor],
            ignore: [],
            refuse: [use_hostname_for_hashing],
        });
        let factor = hash_balance_factor.as_ref().map(|factor| factor.value);
        if let Some(factor) = factor.filter(|_| hashes) {
            balance.bounded_load = Some(u16::try_from(factor).unwrap_or(u16::MAX));
        }
    }
    match locality_config_specifier {
        None => {}
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(message)) => {
            let at = &at.field("zone_aware_lb_config");
            unpack!(at, message => ZoneAwareLbConfig {
                take: [],
                ignore: [
                    routing_enabled, // all of it
                    min_cluster_size, // zones are preferred as far as they have the capacity
                ],
                refuse: [fail_traffic_on_panic],
            });
            balance.locality = Locality::PreferZone;
        }
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => {
            let reason = "weights of localities are not supported; use `zone_aware_lb_config`";
            at.field("locality_weighted_lb_config").refuse(reason);
        }
    }
}

pub(super) fn per_host(at: &At<'_>, list: &[cluster::circuit_breakers::Thresholds]) -> EndpointCeilings {
    let mut out = EndpointCeilings::default();
    for (index, message) in list.iter().enumerate() {
        let at = &at.item("per_host_thresholds", index);
        unpack!(at, message => cluster::circuit_breakers::Thresholds {
            take: [priority, max_connections],
            ignore: [
                track_remaining, // metrics are ours
                max_pending_requests, // Envoy looks at connections of hosts only
                max_requests, // likewise
                max_retries, // likewise
                max_connection_pools, // likewise
            ],
            refuse: [retry_budget],
        });
        // No route has another priority: they are refused.
        if *priority == core::RoutingPriority::Default as i32 {
            out.max_connections = max_connections.as_ref().map(|max| max.value.clamp(1, 1_000_000));
        }
    }
    out
}

pub(super) fn health_check(at: &At<'_>, list: &[core::HealthCheck]) -> Option<HealthCheck> {
    use core::health_check::HealthChecker;
    let message = match list {
        [] => return None,
        [message] => message,
        [_, ..] => {
            at.item("health_checks", 1).refuse("endpoints are asked in one way; keep one health check");
            return None;
        }
    };
    let at = &at.item("health_checks", 0);
    unpack!(at, message => core::HealthCheck {
        take: [
            timeout,
            interval,
            interval_jitter,
            interval_jitter_percent,
            unhealthy_threshold,
            healthy_threshold,
            alt_port,
            no_traffic_interval,
            health_checker,
        ],
        ignore: [
            initial_jitter, // first probes are spread anyway
            reuse_connection, // likewise
            no_traffic_healthy_interval, // one interval without traffic
            unhealthy_interval, // the same interval whatever the last answer was
            unhealthy_edge_interval, // likewise
            healthy_edge_interval, // likewise
            event_log_path, // logs are ours
            event_logger, // likewise
            event_service, // likewise
            always_log_health_check_failures, // likewise
            always_log_health_check_success, // likewise
        ],
        refuse: [tls_options, transport_socket_match_criteria],
    });
    let interval = positive(at, "interval", interval.as_ref()).unwrap_or(Duration::from_secs(10));
    let timeout = positive(at, "timeout", timeout.as_ref()).unwrap_or(Duration::from_secs(1));
    let read = |value: &Option<pb::UInt32Value>, default: u32| value.as_ref().map_or(default, |value| value.value);
    let jitter = match at.duration("interval_jitter", interval_jitter.as_ref()) {
        // As a share of the interval, rounded up.
        Some(jitter) => u32::try_from((jitter.as_micros() * 100).div_ceil(interval.as_micros().max(1))).ok(),
        None => Some(*interval_jitter_percent),
    };
    let probe = match health_checker {
        Some(HealthChecker::HttpHealthCheck(message)) => http_probe(&at.field("http_health_check"), message)?,
        Some(HealthChecker::TcpHealthCheck(message)) => {
            let at = &at.field("tcp_health_check");
            unpack!(at, message => core::health_check::TcpHealthCheck {
                take: [],
                ignore: [],
                refuse: [send, receive, proxy_protocol_config],
            });
            Probe::Tcp
        }
        Some(HealthChecker::GrpcHealthCheck(message)) => {
            let at = &at.field("grpc_health_check");
            unpack!(at, message => core::health_check::GrpcHealthCheck {
                take: [service_name, authority],
                ignore: [],
                refuse: [initial_metadata],
            });
            let authority = Some(authority.as_str()).filter(|text| !text.is_empty()).map(Arc::from);
            Probe::Grpc { service: service_name.as_str().into(), authority }
        }
        Some(HealthChecker::CustomHealthCheck(_)) => {
            at.field("custom_health_check").refuse("this is not supported; ask by HTTP, TCP or gRPC");
            return None;
        }
        None => {
            at.refuse("the health check does not say what is asked");
            return None;
        }
    };
    Some(HealthCheck {
        probe,
        interval,
        jitter: jitter.and_then(|jitter| u8::try_from(jitter.min(100)).ok()).unwrap_or(100),
        timeout,
        healthy_threshold: read(healthy_threshold, 1),
        unhealthy_threshold: read(unhealthy_threshold, 3),
        no_traffic_interval: positive(at, "no_traffic_interval", no_traffic_interval.as_ref())
            .unwrap_or(Duration::from_secs(60)),
        port: alt_port.as_ref().and_then(|port| match u16::try_from(port.value) {
            Ok(port) => Some(port),
            Err(_) => {
                at.field("alt_port").refuse(format!("{} is not a port", port.value));
                None
            }
        }),
    })
}

fn http_probe(at: &At<'_>, message: &core::health_check::HttpHealthCheck) -> Option<Probe> {
    unpack!(at, message => core::health_check::HttpHealthCheck {
        take: [host, path, request_headers_to_add, expected_statuses, method],
        ignore: [
            response_buffer_size, // bodies of answers are not looked at
            codec_client_type, // what the cluster speaks
        ],
        refuse: [send, receive, request_headers_to_remove, retriable_statuses, service_name_matcher],
    });
    let method = match core::RequestMethod::try_from(*method) {
        Ok(core::RequestMethod::MethodUnspecified) => Some(Method::GET),
        Ok(method) => Method::from_bytes(method.as_str_name().as_bytes()).ok(),
        Err(_) => None,
    };
    let headers = request_headers_to_add.iter().enumerate().filter_map(|(index, option)| {
        let at = &at.item("request_headers_to_add", index);
        let header = option.header.as_ref()?;
        let value = http::HeaderValue::from_str(&header.value).map_err(|_| "this is no value of a header".to_owned());
        Some((at.header(&header.key)?, at.held(value)?))
    });
    let expected = expected_statuses.iter().enumerate().filter_map(|(index, range)| {
        // Half-open.
        match (u16::try_from(range.start), u16::try_from(range.end)) {
            (Ok(first), Ok(end)) if end > first => Some(first..=end - 1),
            _ => {
                at.item("expected_statuses", index).refuse("this is no range of statuses");
                None
            }
        }
    });
    let expected: Vec<_> = expected.collect();
    Some(Probe::Http {
        path: path.as_str().into(),
        host: Some(host.as_str()).filter(|text| !text.is_empty()).map(Arc::from),
        method: at.field("method").held(method.ok_or_else(|| "this is no method".to_owned()))?,
        headers: headers.collect(),
        // Envoy's default is 200 alone.
        expected: if expected_statuses.is_empty() { vec![200..=200] } else { expected },
    })
}

pub(super) fn outliers(at: &At<'_>, message: Option<&cluster::OutlierDetection>) -> Option<OutlierDetection> {
    let message = message?;
    let at = &at.field("outlier_detection");
    unpack!(at, message => cluster::OutlierDetection {
        take: [
            consecutive_5xx,
            interval,
            base_ejection_time,
            max_ejection_percent,
            enforcing_consecutive_5xx,
            enforcing_success_rate,
            success_rate_minimum_hosts,
            success_rate_request_volume,
            success_rate_stdev_factor,
            consecutive_gateway_failure,
            enforcing_consecutive_gateway_failure,
            split_external_local_origin_errors,
            consecutive_local_origin_failure,
            enforcing_consecutive_local_origin_failure,
            enforcing_failure_percentage,
            enforcing_failure_percentage_local_origin,
            max_ejection_time,
        ],
        ignore: [
            enforcing_local_origin_success_rate, // success rates are of all that came back
            failure_percentage_threshold, // only where it is enforced, which is refused
            failure_percentage_minimum_hosts, // likewise
            failure_percentage_request_volume, // likewise
            max_ejection_time_jitter, // ejections end at a look, which is spread anyway
            successful_active_health_check_uneject_host, // ejections end with their time
            always_eject_one_host, // the last endpoint is never taken out, any other may be
        ],
        refuse: [monitors, detect_degraded_hosts],
    });
    let read = |value: &Option<pb::UInt32Value>, default: u32| value.as_ref().map_or(default, |value| value.value);
    let enforced = |field: &str, value: &Option<pb::UInt32Value>, default: u32| match read(value, default) {
        0 => false,
        100 => true,
        _ => {
            at.field(field).refuse("this is 0 or 100: an ejection is enforced or it is not");
            false
        }
    };
    for (field, value) in [
        ("enforcing_failure_percentage", enforcing_failure_percentage),
        ("enforcing_failure_percentage_local_origin", enforcing_failure_percentage_local_origin),
    ] {
        if read(value, 0) != 0 {
            at.field(field).refuse("ejection by a percentage of failures is not supported; write 0, or remove it");
        }
    }
    let or_off = |on: bool, threshold: u32| if on { threshold } else { 0 };
    let gateway = enforced("enforcing_consecutive_gateway_failure", enforcing_consecutive_gateway_failure, 0);
    let errors = enforced("enforcing_consecutive_5xx", enforcing_consecutive_5xx, 100);
    let rates = enforced("enforcing_success_rate", enforcing_success_rate, 100);
    let local = enforced("enforcing_consecutive_local_origin_failure", enforcing_consecutive_local_origin_failure, 100);
    let base = positive(at, "base_ejection_time", base_ejection_time.as_ref()).unwrap_or(Duration::from_secs(30));
    let max = positive(at, "max_ejection_time", max_ejection_time.as_ref()).unwrap_or(Duration::from_secs(300));
    let share = read(max_ejection_percent, 10);
    if share > 100 {
        at.field("max_ejection_percent").refuse("this is a number from 0 to 100");
    }
    Some(OutlierDetection {
        consecutive_errors: or_off(errors, read(consecutive_5xx, 5)),
        consecutive_gateway_errors: or_off(gateway, read(consecutive_gateway_failure, 5)),
        consecutive_local_errors: or_off(local, read(consecutive_local_origin_failure, 5)),
        split_local_origin: *split_external_local_origin_errors,
        success_rate_stdev_factor: read(success_rate_stdev_factor, 1_900),
        success_rate_min_hosts: or_off(rates, read(success_rate_minimum_hosts, 5)),
        success_rate_min_requests: read(success_rate_request_volume, 100),
        interval: positive(at, "interval", interval.as_ref()).unwrap_or(Duration::from_secs(10)),
        base_ejection: base,
        max_ejection: max.max(base),
        max_ejection_percent: u8::try_from(share.min(100)).unwrap_or(100),
    })
}

/// What requests are told apart by.
pub(super) fn hash_policy(at: &At<'_>, list: &[route::route_action::HashPolicy]) -> Vec<HashKey> {
    use route::route_action::HashPolicy;
    use route::route_action::hash_policy::{Cookie, Header, PolicySpecifier};
    let mut out: Vec<HashKey> = Vec::new();
    for (index, message) in list.iter().enumerate() {
        let at = &at.item("hash_policy", index);
        unpack!(at, message => HashPolicy { take: [terminal, policy_specifier], ignore: [], refuse: [] });
        let source = match policy_specifier {
            Some(PolicySpecifier::Header(message)) => {
                let at = &at.field("header");
                unpack!(at, message => Header { take: [header_name], ignore: [], refuse: [regex_rewrite] });
                match header_name.as_str() {
                    ":path" => Some(HashSource::Path),
                    ":authority" => Some(HashSource::Header(http::header::HOST)),
                    name => at.header(name).map(HashSource::Header),
                }
            }
            Some(PolicySpecifier::Cookie(message)) => {
                let at = &at.field("cookie");
                unpack!(at, message => Cookie { take: [name, ttl, path], ignore: [], refuse: [attributes] });
                let path = Some(path.as_str()).filter(|path| !path.is_empty() && *path != "/").map(Arc::from);
                Some(HashSource::Cookie { name: name.as_str().into(), ttl: at.duration("ttl", ttl.as_ref()), path })
            }
            Some(PolicySpecifier::ConnectionProperties(properties)) if properties.source_ip => {
                Some(HashSource::SourceAddress)
            }
            Some(PolicySpecifier::ConnectionProperties(_)) => None,
            Some(PolicySpecifier::QueryParameter(parameter)) => Some(HashSource::Query(parameter.name.as_str().into())),
            Some(PolicySpecifier::FilterState(_)) => {
                at.field("filter_state").refuse("this is not supported; hash a header, a cookie or an address");
                None
            }
            None => {
                at.refuse("this does not say what is hashed");
                None
            }
        };
        // Said twice, it is the same.
        if let Some(source) = source.filter(|source| out.iter().all(|key| key.source != *source)) {
            out.push(HashKey { source, terminal: *terminal });
        }
    }
    out
}

/// A share of the requests.
pub(super) fn fraction(at: &At<'_>, message: Option<&core::RuntimeFractionalPercent>) -> Share {
    use kind::fractional_percent::DenominatorType;
    let Some(value) = message.and_then(|message| message.default_value.as_ref()) else { return Share(1_000_000) };
    let of = match DenominatorType::try_from(value.denominator) {
        Ok(DenominatorType::Hundred) => 10_000,
        Ok(DenominatorType::TenThousand) => 100,
        Ok(DenominatorType::Million) => 1,
        Err(_) => {
            at.refuse("this denominator is not known");
            1
        }
    };
    Share(value.numerator.saturating_mul(of).min(1_000_000))
}
