//! Balancing, health, breakers, admission, limits and faults in our own messages, whole: what Envoy's fields say of them
//! is for Envoy.

use std::time::SystemTime;

use http::{HeaderName, HeaderValue};
use outrigger_config::model::{
    Abort, Action, AdaptiveConcurrency, Admission, Balance, BalancePolicy, Breaker, Breakers, Cluster, Criticality,
    DescriptorEntry, DescriptorValue, EndpointCeilings, FailureRatio, Fault, FaultAbort, FaultDelay, Filter,
    GlobalRateLimit, HashKey, HashSource, HeaderMatch, HealthCheck, Hedge, HedgeAfter, Labels, LatencyTrip, Locality,
    Mirror, OutlierDetection, Probe, Queue, RateKey, RateLimit, RateLimitService, Retry, Rule, SessionCarrier,
    SessionPersistence, SlowStart, SubsetFallback,
};

use super::access;
use crate::extensions::{
    self, BalanceExtension, BreakerExtension, CeilingsExtension, ClusterResilience, ConcurrencyExtension, Condition,
    DescriptorEntryExtension, FailureRatioExtension, FaultAbortExtension, FaultDelayExtension, FaultExtension,
    GlobalRateLimitExtension, GrpcProbeExtension, HashCookieExtension, HashKeyExtension, HealthCheckExtension,
    HedgeExtension, HttpProbeExtension, LabelsExtension, LatencyExtension, MirrorExtension, OutlierExtension, Pair,
    PercentileExtension, QueueExtension, RateKeyExtension, RateLimitExtension, RateLimitServiceExtension,
    RouteResilience, SessionCookieExtension, SessionExtension, SlowStartExtension, StatusRange, TcpProbeExtension,
    balance_extension, descriptor_entry_extension, fault_abort_extension, hash_key_extension, health_check_extension,
    hedge_extension, rate_key_extension, session_extension,
};
use crate::wire::{self, own_duration};

/// What a cluster says of these; nothing where all of it is the default, or one of the policies that Envoy has a word
/// for.
pub(super) fn cluster(config: &Cluster) -> Option<ClusterResilience> {
    let Cluster { balance, endpoint_ceilings, breakers, health_check, outlier_detection, admission, .. } = config;
    let worded = match balance.policy {
        BalancePolicy::RoundRobin | BalancePolicy::LeastRequest | BalancePolicy::PeakEwma | BalancePolicy::Random => {
            BalancePolicy::LeastRequest
        }
        other @ (BalancePolicy::RingHash | BalancePolicy::Maglev) => other,
    };
    let plain = Balance { policy: worded, ..balance.clone() } == Balance::default()
        && *endpoint_ceilings == EndpointCeilings::default()
        && *breakers == Breakers::default()
        && health_check.is_none()
        && outlier_detection.is_none()
        && *admission == Admission::default();
    if plain {
        return None;
    }
    let Admission { queue, concurrency } = admission;
    let EndpointCeilings { max_requests, max_pending, max_retries, max_connections } = *endpoint_ceilings;
    Some(ClusterResilience {
        balance: Some(self::balance(balance)),
        endpoint_ceilings: Some(CeilingsExtension { max_requests, max_pending, max_retries, max_connections }),
        endpoint_breaker: Some(breaker(&breakers.endpoint)),
        cluster_breaker: breakers.cluster.as_ref().map(breaker),
        health_check: health_check.as_ref().map(check),
        outlier_detection: outlier_detection.as_ref().map(outliers),
        queue: queue.map(|Queue { timeout, max }| QueueExtension { timeout: own_duration(timeout), max }),
        concurrency: concurrency.map(|AdaptiveConcurrency { min, max, tolerance }| ConcurrencyExtension {
            min,
            max,
            tolerance: u32::from(tolerance),
        }),
    })
}

fn balance(balance: &Balance) -> BalanceExtension {
    let Balance { policy, bounded_load, slow_start, locality, panic_threshold, overprovisioning, subset_fallback } =
        balance;
    use balance_extension::Policy;
    let policy = match policy {
        BalancePolicy::LeastRequest => Policy::LeastRequest,
        BalancePolicy::RoundRobin => Policy::RoundRobin,
        BalancePolicy::PeakEwma => Policy::PeakEwma,
        BalancePolicy::Random => Policy::Random,
        BalancePolicy::RingHash => Policy::RingHash,
        BalancePolicy::Maglev => Policy::Maglev,
    };
    BalanceExtension {
        policy: policy as i32,
        bounded_load: bounded_load.map(u32::from),
        slow_start: slow_start.map(|SlowStart { window, min_weight, aggression }| SlowStartExtension {
            window: own_duration(window),
            min_weight: u32::from(min_weight),
            aggression,
        }),
        prefer_zone: *locality == Locality::PreferZone,
        panic_threshold: u32::from(*panic_threshold),
        overprovisioning: u32::from(*overprovisioning),
        any_subset: *subset_fallback == SubsetFallback::Any,
    }
}

fn breaker(breaker: &Breaker) -> BreakerExtension {
    let Breaker { failure_threshold, failure_ratio, latency, reset_timeout, max_reset_timeout, ramp } = breaker;
    BreakerExtension {
        failure_threshold: failure_threshold.value,
        written: failure_threshold.place.as_ref().and_then(wire::place),
        failure_ratio: failure_ratio.map(|FailureRatio { percent, window, min_requests }| FailureRatioExtension {
            percent: u32::from(percent),
            window: own_duration(window),
            min_requests,
        }),
        latency: latency.map(|LatencyTrip { quantile, above, window, min_requests }| LatencyExtension {
            quantile: u32::from(quantile),
            above: own_duration(above),
            window: own_duration(window),
            min_requests,
        }),
        reset_timeout: own_duration(*reset_timeout),
        max_reset_timeout: own_duration(*max_reset_timeout),
        ramp: own_duration(*ramp),
    }
}

fn check(check: &HealthCheck) -> HealthCheckExtension {
    use health_check_extension::Probe as Message;
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
    let probe = match probe {
        Probe::Http { path, host, method, headers, expected } => Message::Http(HttpProbeExtension {
            path: path.to_string(),
            host: host.as_ref().map(ToString::to_string),
            method: method.as_str().to_owned(),
            headers: headers.iter().map(header_pair).collect(),
            expected: expected
                .iter()
                .map(|range| StatusRange { first: u32::from(*range.start()), last: u32::from(*range.end()) })
                .collect(),
        }),
        Probe::Tcp => Message::Tcp(TcpProbeExtension {}),
        Probe::Grpc { service, authority } => Message::Grpc(GrpcProbeExtension {
            service: service.to_string(),
            authority: authority.as_ref().map(ToString::to_string),
        }),
    };
    HealthCheckExtension {
        probe: Some(probe),
        interval: own_duration(*interval),
        jitter: u32::from(*jitter),
        timeout: own_duration(*timeout),
        healthy_threshold: *healthy_threshold,
        unhealthy_threshold: *unhealthy_threshold,
        no_traffic_interval: own_duration(*no_traffic_interval),
        port: port.map(u32::from),
    }
}

fn header_pair((name, value): &(HeaderName, HeaderValue)) -> Pair {
    Pair { key: name.as_str().to_owned(), value: value.to_str().unwrap_or_default().to_owned() }
}

fn outliers(outliers: &OutlierDetection) -> OutlierExtension {
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
    OutlierExtension {
        consecutive_errors,
        consecutive_gateway_errors,
        consecutive_local_errors,
        split_local_origin,
        success_rate_stdev_factor,
        success_rate_min_hosts,
        success_rate_min_requests,
        interval: own_duration(interval),
        base_ejection: own_duration(base_ejection),
        max_ejection: own_duration(max_ejection),
        max_ejection_percent: u32::from(max_ejection_percent),
    }
}

/// What a rule says of these; nothing where all of it is the default.
pub(super) fn rule(rule: &Rule) -> Option<RouteResilience> {
    let Rule {
        filters,
        action,
        retry,
        hedge,
        breaker,
        hash,
        session,
        rate_limits,
        global_rate_limits,
        criticality,
        ..
    } = rule;
    let Retry { on_headers, idempotency_key, max_pushback, other_locality, buffer, .. } = retry;
    let backends = match action {
        Action::Forward(list) => &list[..],
        Action::Redirect(_) | Action::Direct(_) => &[],
    };
    let default = Retry::default();
    let plain = on_headers.is_empty()
        && (*idempotency_key, *max_pushback, *other_locality, *buffer)
            == (default.idempotency_key, default.max_pushback, default.other_locality, default.buffer)
        && hedge.is_none()
        && breaker.is_none()
        && hash.is_empty()
        && session.is_none()
        && rate_limits.is_empty()
        && global_rate_limits.is_empty()
        && criticality.is_none()
        && !filters.iter().any(|filter| matches!(filter, Filter::Fault(_) | Filter::Mirror(_)))
        && backends.iter().all(|backend| backend.subset.is_empty());
    if plain {
        return None;
    }
    let faults = filters.iter().filter_map(|filter| match filter {
        Filter::Fault(one) => Some(fault(one)),
        _ => None,
    });
    let mirrors = filters.iter().filter_map(|filter| match filter {
        Filter::Mirror(Mirror { cluster, share }) => {
            Some(MirrorExtension { cluster: cluster.to_string(), millionths: share.0 })
        }
        _ => None,
    });
    Some(RouteResilience {
        retry_headers: on_headers.iter().map(condition).collect(),
        idempotency_key: *idempotency_key,
        max_pushback: own_duration(*max_pushback),
        other_locality: *other_locality,
        buffer: *buffer,
        hedge: hedge.as_ref().map(self::hedge),
        breaker: breaker.as_ref().map(self::breaker),
        hash: hash.iter().map(hash_key).collect(),
        session: session.as_ref().map(self::session),
        rate_limits: rate_limits.iter().map(rate_limit).collect(),
        global_rate_limits: global_rate_limits.iter().map(global).collect(),
        criticality: match criticality {
            None => extensions::Criticality::Unsaid,
            Some(Criticality::Sheddable) => extensions::Criticality::Sheddable,
            Some(Criticality::Default) => extensions::Criticality::Default,
            Some(Criticality::Critical) => extensions::Criticality::Critical,
        } as i32,
        faults: faults.collect(),
        mirrors: mirrors.collect(),
        subsets: if backends.iter().all(|backend| backend.subset.is_empty()) {
            Vec::new()
        } else {
            backends.iter().map(|backend| labels(&backend.subset)).collect()
        },
    })
}

pub(super) fn labels(labels: &Labels) -> LabelsExtension {
    let pair = |(key, value): (&std::sync::Arc<str>, &std::sync::Arc<str>)| Pair {
        key: key.to_string(),
        value: value.to_string(),
    };
    LabelsExtension { labels: labels.iter().map(pair).collect() }
}

fn condition(HeaderMatch { name, value }: &HeaderMatch) -> Condition {
    Condition { name: name.as_str().to_owned(), value: Some(access::value(value)) }
}

fn hedge(Hedge { after, max, budget_percent }: &Hedge) -> HedgeExtension {
    use hedge_extension::After;
    HedgeExtension {
        after: match after {
            HedgeAfter::Delay(delay) => own_duration(*delay).map(After::Delay),
            HedgeAfter::Percentile { percent, min } => {
                Some(After::Percentile(PercentileExtension { percent: u32::from(*percent), min: own_duration(*min) }))
            }
        },
        max: u32::from(*max),
        budget_percent: u32::from(*budget_percent),
    }
}

fn hash_key(HashKey { source, terminal }: &HashKey) -> HashKeyExtension {
    use hash_key_extension::Source;
    let source = match source {
        HashSource::Header(name) => Source::Header(name.as_str().to_owned()),
        HashSource::Cookie { name, ttl, path } => Source::Cookie(HashCookieExtension {
            name: name.to_string(),
            ttl: ttl.and_then(own_duration),
            path: path.as_ref().map(ToString::to_string),
        }),
        HashSource::SourceAddress => Source::SourceAddress(true),
        HashSource::Query(name) => Source::Query(name.to_string()),
        HashSource::Path => Source::Path(true),
    };
    HashKeyExtension { source: Some(source), terminal: *terminal }
}

fn session(session: &SessionPersistence) -> SessionExtension {
    use session_extension::Carrier;
    let SessionPersistence { carrier, absolute_timeout, idle_timeout, key_file, strict } = session;
    let carrier = match carrier {
        SessionCarrier::Cookie { name, permanent, path } => Carrier::Cookie(SessionCookieExtension {
            name: name.to_string(),
            permanent: *permanent,
            path: path.as_ref().map(ToString::to_string),
        }),
        SessionCarrier::Header(name) => Carrier::Header(name.as_str().to_owned()),
    };
    SessionExtension {
        carrier: Some(carrier),
        absolute_timeout: absolute_timeout.and_then(own_duration),
        idle_timeout: idle_timeout.and_then(own_duration),
        key_file: key_file.display().to_string(),
        strict: *strict,
    }
}

pub(super) fn rate_limit(limit: &RateLimit) -> RateLimitExtension {
    use rate_key_extension::Key;
    let RateLimit { name, by, requests, per, burst, shadow } = limit;
    let key = |key: &RateKey| RateKeyExtension {
        key: Some(match key {
            RateKey::Header(name) => Key::Header(name.as_str().to_owned()),
            RateKey::Identity => Key::Identity(true),
            RateKey::Address => Key::Address(true),
        }),
    };
    RateLimitExtension {
        name: name.to_string(),
        by: by.iter().map(key).collect(),
        requests: *requests,
        per: own_duration(*per),
        burst: *burst,
        shadow: *shadow,
    }
}

fn global(GlobalRateLimit { service, descriptor }: &GlobalRateLimit) -> GlobalRateLimitExtension {
    use descriptor_entry_extension::Value;
    let entry = |DescriptorEntry { key, value }: &DescriptorEntry| DescriptorEntryExtension {
        key: key.to_string(),
        value: Some(match value {
            DescriptorValue::Text(text) => Value::Text(text.to_string()),
            DescriptorValue::Header(name) => Value::Header(name.as_str().to_owned()),
            DescriptorValue::Identity => Value::Identity(true),
            DescriptorValue::Address => Value::Address(true),
            DescriptorValue::Path => Value::Path(true),
            DescriptorValue::Method => Value::Method(true),
            DescriptorValue::Cluster => Value::Cluster(true),
        }),
    };
    GlobalRateLimitExtension { service: service.to_string(), descriptor: descriptor.iter().map(entry).collect() }
}

pub(super) fn service((name, service): (&std::sync::Arc<str>, &RateLimitService)) -> RateLimitServiceExtension {
    let RateLimitService { cluster, domain, timeout, allow_on_failure } = service;
    RateLimitServiceExtension {
        name: name.to_string(),
        cluster: cluster.to_string(),
        domain: domain.to_string(),
        timeout: own_duration(*timeout),
        allow_on_failure: *allow_on_failure,
    }
}

fn fault(Fault { headers, delay, abort, until }: &Fault) -> FaultExtension {
    use fault_abort_extension::With;
    FaultExtension {
        headers: headers.iter().map(condition).collect(),
        delay: delay
            .as_ref()
            .map(|FaultDelay { share, by }| FaultDelayExtension { millionths: share.0, by: own_duration(*by) }),
        abort: abort.as_ref().map(|FaultAbort { share, with }| FaultAbortExtension {
            millionths: share.0,
            with: Some(match with {
                Abort::Status(status) => With::Status(u32::from(status.as_u16())),
                Abort::Grpc(code) => With::Grpc(u32::from(*code)),
            }),
        }),
        until: own_duration(until.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()),
    }
}
