//! Balancing, health, breakers, admission, limits and faults made at random.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderName, HeaderValue, Method, StatusCode};
use outrigger_config::model::*;
use proptest::collection::{btree_map, vec};
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::model::{duration, duration_or_zero, header, place};

pub(crate) fn labels() -> impl Strategy<Value = Labels> {
    let value = select(vec!["v1", "v2", ""]).prop_map(Arc::from);
    btree_map(select(vec!["version", "track"]).prop_map(Arc::from), value, 0..3)
}

pub(crate) fn condition() -> impl Strategy<Value = Condition> {
    select(vec![Condition::Healthy, Condition::Draining, Condition::Unhealthy])
}

/// Half of them as they are by default.
pub(crate) fn balance() -> impl Strategy<Value = Balance> {
    let policy = select(vec![
        BalancePolicy::RoundRobin,
        BalancePolicy::LeastRequest,
        BalancePolicy::PeakEwma,
        BalancePolicy::Random,
        BalancePolicy::RingHash,
        BalancePolicy::Maglev,
    ]);
    let slow = (duration(), 1..=100_u8, select(vec![0.5, 1.0, 2.25]))
        .prop_map(|(window, min_weight, aggression)| SlowStart { window, min_weight, aggression });
    let all = (
        of(100..=1000_u16),
        of(slow),
        select(vec![Locality::Any, Locality::PreferZone]),
        0..=100_u8,
        100..=1000_u16,
        select(vec![SubsetFallback::None, SubsetFallback::Any]),
    );
    (policy, of(all)).prop_map(|(policy, all)| match all {
        None => Balance { policy, ..Balance::default() },
        Some((bounded_load, slow_start, locality, panic_threshold, overprovisioning, subset_fallback)) => {
            Balance { policy, bounded_load, slow_start, locality, panic_threshold, overprovisioning, subset_fallback }
        }
    })
}

pub(crate) fn breaker() -> impl Strategy<Value = Breaker> {
    let ratio = (1..=100_u8, duration(), 1..9_u32).prop_map(|(percent, window, min_requests)| FailureRatio {
        percent,
        window: window.max(WINDOW),
        min_requests,
    });
    let trip = (1..=99_u8, duration(), duration(), 1..9_u32).prop_map(|(quantile, above, window, min_requests)| {
        LatencyTrip { quantile, above, window: window.max(WINDOW), min_requests }
    });
    ((0..9_u32, of(place())), of(ratio), of(trip), duration(), 1..9_u32, duration_or_zero()).prop_map(
        |((value, place), failure_ratio, latency, reset_timeout, times, ramp)| Breaker {
            failure_threshold: Setting { value, place },
            failure_ratio,
            latency,
            reset_timeout,
            max_reset_timeout: reset_timeout * times,
            ramp,
        },
    )
}

const WINDOW: Duration = Duration::from_millis(250);

pub(crate) fn breakers() -> impl Strategy<Value = Breakers> {
    prop_oneof![
        1 => Just(Breakers::default()),
        1 => (breaker(), of(breaker())).prop_map(|(endpoint, cluster)| Breakers { endpoint, cluster }),
    ]
}

pub(crate) fn endpoint_ceilings() -> impl Strategy<Value = EndpointCeilings> {
    (of(1..9_u32), of(0..9_u32), of(0..9_u32), of(1..9_u32)).prop_map(
        |(max_requests, max_pending, max_retries, max_connections)| EndpointCeilings {
            max_requests,
            max_pending,
            max_retries,
            max_connections,
        },
    )
}

/// `grpc`: whether the cluster can be asked over gRPC.
pub(crate) fn health_check(grpc: bool) -> impl Strategy<Value = HealthCheck> {
    let authority = || of(select(vec!["app.local", "app.local:8080"]).prop_map(Arc::<str>::from));
    let headers = subsequence(vec![("x-probe", "1"), ("accept", "a, b")], 0..=2).prop_map(|list| {
        let pair = |(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
        list.into_iter().map(pair).collect::<Vec<_>>()
    });
    let http = (authority(), select(vec![Method::GET, Method::HEAD, Method::POST]), headers).prop_map(
        |(host, method, headers)| Probe::Http {
            path: "/healthz?full=1".into(),
            host,
            method,
            headers,
            expected: vec![200..=200, 300..=399],
        },
    );
    let call = (select(vec!["", "shop.Payments"]), authority()).prop_map(move |(service, authority)| {
        if grpc { Probe::Grpc { service: service.into(), authority } } else { Probe::Tcp }
    });
    let thresholds = (1..9_u32, 1..9_u32);
    let probe = prop_oneof![http.boxed(), Just(Probe::Tcp).boxed(), call.boxed()];
    (probe, duration(), 0..=100_u8, duration(), thresholds, duration(), of(1..9_u16)).prop_map(
        |(probe, interval, jitter, timeout, (healthy, unhealthy), quiet, port)| HealthCheck {
            probe,
            interval: interval.max(WINDOW),
            jitter,
            timeout,
            healthy_threshold: healthy,
            unhealthy_threshold: unhealthy,
            no_traffic_interval: quiet.max(WINDOW),
            port,
        },
    )
}

pub(crate) fn outliers() -> impl Strategy<Value = OutlierDetection> {
    let numbers = (0..9_u32, 0..9_u32, 0..9_u32, 0..9_999_u32, 0..9_u32, 1..9_u32);
    (numbers, any::<bool>(), duration(), duration(), 1..9_u32, 0..=100_u8).prop_map(
        |(numbers, split_local_origin, interval, base_ejection, times, max_ejection_percent)| OutlierDetection {
            consecutive_errors: numbers.0,
            consecutive_gateway_errors: numbers.1,
            consecutive_local_errors: numbers.2,
            split_local_origin,
            success_rate_stdev_factor: numbers.3,
            success_rate_min_hosts: numbers.4,
            success_rate_min_requests: numbers.5,
            interval: interval.max(WINDOW),
            base_ejection,
            max_ejection: base_ejection * times,
            max_ejection_percent,
        },
    )
}

pub(crate) fn admission() -> impl Strategy<Value = Admission> {
    let queue = (duration(), 1..9_u32).prop_map(|(timeout, max)| Queue { timeout, max });
    let limit = (1..9_u32, 9..99_u32, 1..=1000_u16).prop_map(|(min, max, tolerance)| AdaptiveConcurrency {
        min,
        max,
        tolerance,
    });
    (of(queue), of(limit)).prop_map(|(queue, concurrency)| Admission { queue, concurrency })
}

pub(crate) fn hedge() -> impl Strategy<Value = Hedge> {
    let after = prop_oneof![
        duration().prop_map(HedgeAfter::Delay),
        (50..=99_u8, duration()).prop_map(|(percent, min)| HedgeAfter::Percentile { percent, min }),
    ];
    (after, 1..=3_u8, 1..=100_u8).prop_map(|(after, max, budget_percent)| Hedge { after, max, budget_percent })
}

pub(crate) fn hash() -> impl Strategy<Value = Vec<HashKey>> {
    let sources = vec![
        HashSource::Header(HeaderName::from_static("x-user")),
        HashSource::Cookie { name: "cart".into(), ttl: Some(Duration::ZERO), path: Some("/cart".into()) },
        HashSource::Cookie { name: "other".into(), ttl: None, path: None },
        HashSource::SourceAddress,
        HashSource::Query("user".into()),
        HashSource::Path,
    ];
    (subsequence(sources, 0..=6), vec(any::<bool>(), 6)).prop_map(|(sources, terminal)| {
        sources.into_iter().zip(terminal).map(|(source, terminal)| HashKey { source, terminal }).collect()
    })
}

pub(crate) fn session() -> impl Strategy<Value = SessionPersistence> {
    let carrier = prop_oneof![
        (any::<bool>(), of(Just(Arc::from("/shop")))).prop_map(|(permanent, path)| SessionCarrier::Cookie {
            name: "session".into(),
            permanent,
            path,
        }),
        Just(SessionCarrier::Header(HeaderName::from_static("x-session"))),
    ];
    (carrier, duration(), any::<bool>(), of(duration()), any::<bool>()).prop_map(
        |(carrier, absolute, bounded, idle_timeout, strict)| {
            let kept = matches!(carrier, SessionCarrier::Cookie { permanent: true, .. });
            SessionPersistence {
                carrier,
                absolute_timeout: (bounded || kept).then_some(absolute),
                idle_timeout,
                key_file: "/certs/session.key".into(),
                strict,
            }
        },
    )
}

/// Without a name: names are unique in the whole configuration.
pub(crate) fn rate_limit() -> impl Strategy<Value = RateLimit> {
    let keys = vec![RateKey::Identity, RateKey::Address, RateKey::Header(HeaderName::from_static("x-tenant"))];
    (subsequence(keys, 0..=3), 1..99_u32, duration(), 1..99_u32, any::<bool>())
        .prop_map(|(by, requests, per, burst, shadow)| RateLimit { name: "".into(), by, requests, per, burst, shadow })
}

pub(crate) fn global() -> impl Strategy<Value = GlobalRateLimit> {
    let values = vec![
        DescriptorValue::Text("charges".into()),
        DescriptorValue::Header(HeaderName::from_static("x-tenant")),
        DescriptorValue::Identity,
        DescriptorValue::Address,
        DescriptorValue::Path,
        DescriptorValue::Method,
        DescriptorValue::Cluster,
    ];
    (select(vec!["limits", "others"]), subsequence(values, 1..=7)).prop_map(|(service, values)| GlobalRateLimit {
        service: service.into(),
        descriptor: values.into_iter().map(|value| DescriptorEntry { key: "key".into(), value }).collect(),
    })
}

pub(crate) fn service() -> impl Strategy<Value = RateLimitService> {
    (duration(), any::<bool>()).prop_map(|(timeout, allow_on_failure)| RateLimitService {
        cluster: crate::model::CLUSTERS[0].into(),
        domain: "shop".into(),
        timeout,
        allow_on_failure,
    })
}

pub(crate) fn criticality() -> impl Strategy<Value = Option<Criticality>> {
    of(select(vec![Criticality::Sheddable, Criticality::Default, Criticality::Critical]))
}

fn share() -> impl Strategy<Value = Share> {
    select(vec![Share(1), Share(5_000), Share(1_000_000)])
}

/// A fault or a mirror.
pub(crate) fn disturbance() -> impl Strategy<Value = Filter> {
    let delay = (share(), duration()).prop_map(|(share, by)| FaultDelay { share, by });
    let with = prop_oneof![
        (200..600_u16).prop_map(|status| Abort::Status(StatusCode::from_u16(status).expect("a status"))),
        (1..=16_u8).prop_map(Abort::Grpc),
    ];
    let abort = (share(), with).prop_map(|(share, with)| FaultAbort { share, with });
    let moment = (1_896_091_200_u64..1_996_091_200).prop_map(|unix| SystemTime::UNIX_EPOCH + Duration::from_secs(unix));
    let fault = (vec(header(), 0..2), delay, of(abort), moment).prop_map(|(headers, delay, abort, until)| {
        Filter::Fault(Arc::new(Fault { headers, delay: Some(delay), abort, until }))
    });
    let mirror = share().prop_map(|share| Filter::Mirror(Mirror { cluster: crate::model::CLUSTERS[1].into(), share }));
    prop_oneof![fault, mirror]
}
