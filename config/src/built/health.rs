//! Which endpoints are fit: health checks, ejection, breakers.

use std::time::Duration;

use http::Method;

use super::Subject;
use crate::limits;
use crate::model::{
    Breaker, Breakers, ClusterProtocol, EndpointCeilings, FailureRatio, HealthCheck, LatencyTrip, OutlierDetection,
    Probe,
};
use crate::validate;

pub(super) fn breakers(subject: &Subject<'_>, breakers: &Breakers) {
    let Breakers { endpoint, cluster } = breakers;
    breaker(subject, "breakers.endpoint", endpoint);
    if let Some(cluster) = cluster {
        breaker(subject, "breakers.cluster", cluster);
    }
}

pub(super) fn breaker(subject: &Subject<'_>, here: &str, breaker: &Breaker) {
    let Breaker { failure_threshold, failure_ratio, latency, reset_timeout, max_reset_timeout, ramp } = breaker;
    subject.number(&format!("{here}.failure_threshold"), u64::from(failure_threshold.value), limits::FAILURES);
    if let Some(FailureRatio { percent, window, min_requests }) = failure_ratio {
        let here = format!("{here}.failure_ratio");
        subject.number(&format!("{here}.percent"), u64::from(*percent), limits::SHARE);
        subject.time(&format!("{here}.window"), *window, validate::WINDOWS);
        subject.number(&format!("{here}.min_requests"), u64::from(*min_requests), limits::MIN_REQUESTS);
    }
    if let Some(LatencyTrip { quantile, above, window, min_requests }) = latency {
        let here = format!("{here}.latency");
        subject.number(&format!("{here}.quantile"), u64::from(*quantile), limits::QUANTILE);
        subject.duration(&format!("{here}.above"), *above);
        subject.time(&format!("{here}.window"), *window, validate::WINDOWS);
        subject.number(&format!("{here}.min_requests"), u64::from(*min_requests), limits::MIN_REQUESTS);
    }
    subject.duration(&format!("{here}.reset_timeout"), *reset_timeout);
    subject.duration(&format!("{here}.max_reset_timeout"), *max_reset_timeout);
    if reset_timeout > max_reset_timeout {
        subject.say(format!("{here}.reset_timeout"), "it is above `max_reset_timeout`", "make it smaller");
    }
    subject.duration_or_zero(&format!("{here}.ramp"), *ramp);
}

pub(super) fn ceilings(subject: &Subject<'_>, ceilings: &EndpointCeilings) {
    let EndpointCeilings { max_requests, max_pending, max_retries, max_connections } = ceilings;
    for (name, value, bounds) in [
        ("max_requests", max_requests, limits::MAX_REQUESTS),
        ("max_pending", max_pending, limits::MAX_PENDING),
        ("max_retries", max_retries, limits::MAX_RETRIES),
        ("max_connections", max_connections, limits::CONNECTIONS),
    ] {
        if let Some(value) = value {
            subject.number(&format!("endpoint_ceilings.{name}"), u64::from(*value), bounds);
        }
    }
}

pub(super) fn check(subject: &Subject<'_>, check: &HealthCheck, protocol: ClusterProtocol) {
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
    self::probe(subject, probe, protocol);
    subject.time("health_check.interval", *interval, validate::INTERVALS);
    subject.number("health_check.jitter", u64::from(*jitter), limits::PERCENT);
    subject.duration("health_check.timeout", *timeout);
    subject.number("health_check.healthy_threshold", u64::from(*healthy_threshold), limits::PROBES);
    subject.number("health_check.unhealthy_threshold", u64::from(*unhealthy_threshold), limits::PROBES);
    subject.time("health_check.no_traffic_interval", *no_traffic_interval, validate::INTERVALS);
    if let Some(port) = port {
        subject.number("health_check.port", u64::from(*port), limits::PORT);
    }
}

fn probe(subject: &Subject<'_>, probe: &Probe, protocol: ClusterProtocol) {
    if protocol == ClusterProtocol::Tcp && *probe != Probe::Tcp {
        let message = "this cluster takes bytes as they are, and no requests can be sent to ask how it is";
        subject.say("health_check", message, "ask by TCP");
    }
    match probe {
        Probe::Http { path, host, method, headers, expected } => {
            subject.held("health_check.http.path", validate::probe_path(path));
            if let Some(host) = host {
                subject.same("health_check.http.host", validate::probe_authority(host), host);
            }
            if *method == Method::CONNECT {
                subject.say("health_check.http.method", "a probe cannot be a CONNECT", "give a method such as `GET`");
            }
            subject.at_most("health_check.http.headers", headers.len(), limits::MAX_HEADER_EDITS);
            for (name, value) in headers {
                subject.held("health_check.http.headers", validate::probe_header(name.as_str()));
                subject.header_value("health_check.http.headers", value);
            }
            if expected.is_empty() {
                subject.say("health_check.http.expected", "no status is expected", "give 200 to 299");
            }
            subject.at_most("health_check.http.expected", expected.len(), limits::MAX_EXPECTED);
            for range in expected {
                subject.number("health_check.http.expected", u64::from(*range.start()), limits::PROBE_STATUS);
                subject.number("health_check.http.expected", u64::from(*range.end()), limits::PROBE_STATUS);
                if range.is_empty() {
                    subject.say("health_check.http.expected", "this range is empty", "give its lower end first");
                }
            }
        }
        Probe::Tcp => {}
        Probe::Grpc { service, authority } => {
            subject.held("health_check.grpc.service", validate::service_name(service));
            if let Some(authority) = authority {
                subject.same("health_check.grpc.authority", validate::probe_authority(authority), authority);
            }
            if protocol == ClusterProtocol::Http1 {
                let message = "this cluster does not speak HTTP/2, and gRPC asks over it";
                subject.say("health_check.grpc", message, "give the cluster HTTP/2, or ask by HTTP or TCP");
            }
        }
    }
}

pub(super) fn outliers(subject: &Subject<'_>, outliers: &OutlierDetection) {
    let OutlierDetection {
        consecutive_errors,
        consecutive_gateway_errors,
        consecutive_local_errors,
        split_local_origin: _,
        success_rate_stdev_factor,
        success_rate_min_hosts,
        success_rate_min_requests,
        interval,
        base_ejection,
        max_ejection,
        max_ejection_percent,
    } = outliers;
    for (name, value, bounds) in [
        ("consecutive_errors", *consecutive_errors, limits::FAILURES),
        ("consecutive_gateway_errors", *consecutive_gateway_errors, limits::FAILURES),
        ("consecutive_local_errors", *consecutive_local_errors, limits::FAILURES),
        ("success_rate_stdev_factor", *success_rate_stdev_factor, limits::STDEV_FACTOR),
        ("success_rate_min_hosts", *success_rate_min_hosts, limits::RATED_HOSTS),
        ("success_rate_min_requests", *success_rate_min_requests, limits::MIN_REQUESTS),
        ("max_ejection_percent", u32::from(*max_ejection_percent), limits::PERCENT),
    ] {
        subject.number(&format!("outlier_detection.{name}"), u64::from(value), bounds);
    }
    subject.time("outlier_detection.interval", *interval, validate::INTERVALS);
    subject.duration("outlier_detection.base_ejection", *base_ejection);
    subject.duration("outlier_detection.max_ejection", *max_ejection);
    if base_ejection > max_ejection {
        subject.say("outlier_detection.base_ejection", "it is above `max_ejection`", "make it smaller");
    }
}

impl Subject<'_> {
    /// A duration within bounds.
    pub(super) fn time(&self, field: &str, value: Duration, (min, max): (Duration, Duration)) {
        if !(min..=max).contains(&value) {
            let (min, max) = (validate::show_duration(min), validate::show_duration(max));
            self.say(field, "this duration is out of range", format!("give one from {min} to {max}"));
        }
    }
}
