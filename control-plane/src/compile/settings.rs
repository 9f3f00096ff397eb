//! Layers of policies to effective values: mesh, then namespace of the Service, then the Service, then its port, then the
//! route. What is nearer goes before.

use std::sync::Arc;
use std::time::Duration;

use outrigger_config::model::{
    Admission, Balance, BalancePolicy, Breakers, Ceilings, ClusterProtocol, ConnectionOptions, EndpointCeilings,
    Filter, HealthCheck, Hedge, OutlierDetection, Probe, Retry, RetryBudget, Rule, Setting, Timeouts,
};

use crate::manifest::object::{Set, Traffic};
use crate::manifest::{MESH_NAMESPACE, Mesh, Name, Object};

/// What policies say of a port of a Service, and which they are.
pub(super) fn of_port(mesh: &Mesh, service: &Name, port: &str) -> (Traffic, Vec<Arc<Object>>) {
    let mut traffic = Traffic::default();
    let mut from = Vec::new();
    for (object, policy) in mesh.traffic_of(service, port) {
        traffic = traffic.over(&policy.traffic);
        from.push(Arc::clone(object));
    }
    let policies = mesh.mesh_policies();
    for namespace in [&*service.namespace, MESH_NAMESPACE] {
        let general = policies.iter().filter(|(object, policy)| {
            object.id.namespace() == namespace && policy.selector.is_none() && policy.defaults != Traffic::default()
        });
        for (object, policy) in general {
            traffic = traffic.over(&policy.defaults);
            from.push(Arc::clone(object));
        }
        if *service.namespace == *MESH_NAMESPACE {
            break;
        }
    }
    (traffic, from)
}

fn or<T: Clone>(set: &Option<Set<T>>, default: T) -> T {
    set.as_ref().map_or(default, |set| set.value.clone())
}

pub(super) fn balance(traffic: &Traffic) -> Balance {
    let policy = or(&traffic.balance, BalancePolicy::LeastRequest);
    Balance { policy, ..or(&traffic.spread, Balance::default()) }
}

pub(super) fn endpoint_ceilings(traffic: &Traffic) -> EndpointCeilings {
    or(&traffic.endpoint_ceilings, EndpointCeilings::default())
}

pub(super) fn breakers(traffic: &Traffic) -> Breakers {
    or(&traffic.breakers, Breakers::default())
}

/// Endpoints that speak HTTP/1 cannot be asked over gRPC, and those of TCP only by a connection: they are not asked
/// otherwise.
pub(super) fn health_check(traffic: &Traffic, protocol: ClusterProtocol) -> Option<HealthCheck> {
    let check = traffic.health_check.as_ref().map(|set| set.value.clone())?;
    let asked = match protocol {
        ClusterProtocol::Http1 => !matches!(check.probe, Probe::Grpc { .. }),
        ClusterProtocol::Tcp => matches!(check.probe, Probe::Tcp),
        ClusterProtocol::Http2 | ClusterProtocol::Http3 | ClusterProtocol::Auto => true,
    };
    asked.then_some(check)
}

pub(super) fn outlier_detection(traffic: &Traffic) -> Option<OutlierDetection> {
    traffic.outlier_detection.as_ref().map(|set| set.value.clone())
}

pub(super) fn admission(traffic: &Traffic) -> Admission {
    Admission { queue: traffic.queue.as_ref().map(|set| set.value), concurrency: or(&traffic.concurrency, None) }
}

fn hedge(traffic: &Traffic) -> Option<Hedge> {
    traffic.hedge.as_ref().map(|set| set.value)
}

/// What a rule says of requests, of all that is not in another setting.
pub(super) fn put_into(rule: &mut Rule, traffic: &Traffic) {
    rule.hedge = hedge(traffic);
    rule.hash = or(&traffic.hash, Vec::new());
    rule.session = traffic.session.as_ref().map(|set| set.value.clone());
    rule.criticality = traffic.criticality.as_ref().map(|set| set.value);
    let faults = traffic.faults.iter().flat_map(|set| &set.value).map(|fault| Filter::Fault(Arc::clone(fault)));
    // Before anything else is done with a request.
    rule.filters.splice(0..0, faults);
}

pub(super) fn ceilings(traffic: &Traffic) -> Ceilings {
    Ceilings {
        max_requests: or(&traffic.max_requests, 1_024),
        max_pending: or(&traffic.max_pending, 256),
        max_retries: or(&traffic.max_retries, 64),
        max_connections: or(&traffic.max_connections, 1_024),
    }
}

pub(super) fn budget(traffic: &Traffic) -> RetryBudget {
    RetryBudget { percent: or(&traffic.budget_percent, 20), min_per_second: or(&traffic.budget_min_per_second, 3) }
}

pub(super) fn connection(traffic: &Traffic) -> ConnectionOptions {
    let seconds = Duration::from_secs;
    ConnectionOptions {
        connect_timeout: or(&traffic.connect_timeout, seconds(1)),
        idle_timeout: or(&traffic.idle_timeout, seconds(55)),
        keepalive_interval: or(&traffic.keepalive_interval, seconds(10)),
        keepalive_timeout: or(&traffic.keepalive_timeout, seconds(3)),
        max_streams: or(&traffic.max_streams, 100),
        max_age: or(&traffic.max_age, seconds(3_600)),
        proxy_protocol: None,
    }
}

pub(super) fn timeouts(traffic: &Traffic) -> Timeouts {
    let setting = |set: &Option<Set<Duration>>, default: Option<Duration>| match set {
        Some(set) => {
            Setting { value: Some(set.value).filter(|value| !value.is_zero()), place: Some(set.place.clone()) }
        }
        None => Setting { value: default, place: None },
    };
    Timeouts {
        request: setting(&traffic.request, Some(Duration::from_secs(15))),
        backend_request: setting(&traffic.backend_request, None),
        idle: setting(&traffic.idle, None),
    }
}

pub(super) fn retry(traffic: &Traffic) -> Retry {
    let attempts = match &traffic.attempts {
        Some(set) => Setting { value: set.value, place: Some(set.place.clone()) },
        None => Setting { value: 0, place: None },
    };
    let base = or(&traffic.backoff_base, Duration::from_millis(25));
    let max = or(&traffic.backoff_max, Duration::from_millis(250));
    // One alone moves the other's default out of its way; of two that were set in different layers, `base` counts.
    let (base, max) = match (&traffic.backoff_base, &traffic.backoff_max) {
        (None, Some(_)) => (base.min(max), max),
        _ => (base, max.max(base)),
    };
    Retry {
        attempts,
        on: or(&traffic.retry_on, Vec::new()),
        non_idempotent: or(&traffic.non_idempotent, false),
        backoff_base: base,
        backoff_max: max,
        ..or(&traffic.retry_more, Retry::default())
    }
}
