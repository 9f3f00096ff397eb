//! Health checks and ejection.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};

use super::{Check, Wrong, filters, headers, matches, small};
use crate::limits::{self, Bounds, MAX_MATCH_BYTES, MIN_PROBE_MILLIS};
use crate::model::{HealthCheck, OutlierDetection, Probe};
use crate::raw;
use crate::read::Field;
use crate::source::Span;
use crate::text::quoted;

/// `protocol`: what the cluster speaks.
pub(super) fn check(
    check: &Check<'_, '_>,
    field: &Field<raw::HealthCheck>,
    protocol: &Field<raw::ClusterProtocol>,
) -> Option<HealthCheck> {
    let (raw, span) = field.here()?;
    let raw::HealthCheck {
        http,
        tcp,
        grpc,
        interval,
        jitter,
        timeout,
        healthy_threshold,
        unhealthy_threshold,
        no_traffic_interval,
        port,
    } = raw;
    let probe = probe(check, (http, tcp, grpc), span);
    if let (Some(at), Some(raw::ClusterProtocol::Tcp)) = (http.span().or(grpc.span()), protocol.get()) {
        let message = "this cluster takes bytes as they are, and no requests can be sent to ask how it is";
        check.error(at, message, "ask by `tcp: {}`");
    } else if let (Some(at), None | Some(raw::ClusterProtocol::Http1), false) =
        (grpc.span(), protocol.get(), protocol.is_bad())
    {
        let message = "this cluster does not speak HTTP/2, and `grpc` asks over it";
        check.error(at, message, "add `protocol: http2` to the cluster, or ask by `http` or `tcp`");
    }
    let interval = check.time(interval, Duration::from_secs(10), INTERVALS);
    // A long interval alone lengthens the one without traffic.
    let quiet = check.time(no_traffic_interval, Duration::from_secs(60).max(interval), INTERVALS);
    Some(HealthCheck {
        probe: probe?,
        interval,
        jitter: small(check.number(jitter, 10, limits::PERCENT)),
        timeout: check.duration(timeout, Duration::from_secs(1)),
        healthy_threshold: small(check.number(healthy_threshold, 1, limits::PROBES)),
        unhealthy_threshold: small(check.number(unhealthy_threshold, 3, limits::PROBES)),
        no_traffic_interval: quiet,
        port: port.get().map(|_| small(check.number(port, 80, limits::PORT))),
    })
}

/// Times between two looks at an endpoint.
pub(crate) const INTERVALS: (Duration, Duration) =
    (Duration::from_millis(MIN_PROBE_MILLIS), Duration::from_secs(limits::MAX_HOURS * 3600));

type Ways<'r> = (&'r Field<raw::HttpProbe>, &'r Field<raw::TcpProbe>, &'r Field<raw::GrpcProbe>);

fn probe(check: &Check<'_, '_>, (http, tcp, grpc): Ways<'_>, span: Span) -> Option<Probe> {
    let fix = "write `http: { path: /healthz }`, `tcp: {}` or `grpc: {}`";
    match [http.span(), tcp.span(), grpc.span()].into_iter().flatten().collect::<Vec<_>>().as_slice() {
        [] => check.error(span, "this health check does not say what is asked", fix),
        [_] => {}
        [_, second, ..] => {
            check.error(*second, "a health check is exactly one of `http`, `tcp` and `grpc`", "keep one");
        }
    }
    if let Some((raw, span)) = http.here() {
        return http_probe(check, raw, span);
    }
    if !tcp.is_absent() {
        return Some(Probe::Tcp);
    }
    let raw::GrpcProbe { service, authority } = grpc.get()?;
    Some(Probe::Grpc {
        service: match service.here() {
            None => Arc::from(""),
            Some((text, at)) => check.parsed(service_name(text), at)?,
        },
        authority: check.authority(authority),
    })
}

fn http_probe(check: &Check<'_, '_>, raw: &raw::HttpProbe, span: Span) -> Option<Probe> {
    let raw::HttpProbe { path, host, method, headers, expected } = raw;
    let lack = ("this probe has no `path`", "add what is asked for: `path: /healthz`");
    let path = check
        .required(path, span, lack)
        .and_then(|(text, at)| check.parsed(probe_path(text), at).map(|()| Arc::from(text.as_str())));
    let method = match method.here() {
        None => Some(Method::GET),
        Some((text, at)) => matches::method(check, text, at).filter(|method| {
            let refused = *method == Method::CONNECT;
            if refused {
                check.error(at, "a probe cannot be a CONNECT", "write a method such as `GET`");
            }
            !refused
        }),
    };
    let expected = if expected.is_absent() {
        vec![200..=299]
    } else {
        let list = check.filled(expected, "expected", limits::MAX_EXPECTED);
        let each = list.iter().filter_map(Field::here);
        each.filter_map(|(text, at)| check.parsed(status_range(&text.0), at)).collect()
    };
    Some(Probe::Http {
        path: path?,
        host: check.authority(host),
        method: method?,
        headers: headers::probe(check, headers),
        expected,
    })
}

impl Check<'_, '_> {
    /// A host with an optional port.
    fn authority(&self, field: &Field<String>) -> Option<Arc<str>> {
        let (text, at) = field.here()?;
        self.parsed(authority(text), at)
    }
}

/// A host with an optional port, in the form in which it is sent.
pub(crate) fn authority(text: &str) -> Result<Arc<str>, Wrong> {
    filters::authority(text).map(|value: HeaderValue| Arc::from(value.to_str().unwrap_or_default()))
}

/// A path with an optional query, as it is sent.
pub(crate) fn probe_path(text: &str) -> Result<(), Wrong> {
    filters::new_path(text.split_once('?').map_or(text, |(path, _)| path))?;
    let query_fits = !text.contains('#') && text.bytes().all(|b| b > b' ' && b < 0x7f);
    if text.len() > MAX_MATCH_BYTES || !query_fits {
        let message = format!("`{}` cannot be asked for", quoted(text));
        return Err(Wrong::new(message, "write a path with an optional query, percent-encoded, without fragment"));
    }
    Ok(())
}

/// The full name of a gRPC service.
pub(crate) fn service_name(text: &str) -> Result<Arc<str>, Wrong> {
    let fits =
        text.len() <= limits::MAX_NAME_BYTES && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b));
    if !fits {
        let message = format!("`{}` is not the name of a gRPC service", quoted(text));
        return Err(Wrong::new(message, "write its full name, such as `shop.Payments`"));
    }
    Ok(Arc::from(text))
}

/// A header that a probe sends.
pub(crate) fn probe_header(text: &str) -> Result<HeaderName, Wrong> {
    if text.eq_ignore_ascii_case("host") || text == ":authority" {
        return Err(Wrong::new("the host of a probe is no header of its own", "write `host: NAME` beside `path`"));
    }
    headers::editable(text)
}

/// `200`, or `200-299`.
fn status_range(text: &str) -> Result<RangeInclusive<u16>, Wrong> {
    let Bounds { min, max } = limits::PROBE_STATUS;
    let one = |text: &str| text.trim().parse::<u64>().ok().filter(|status| (min..=max).contains(status));
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (one(first), one(last)) {
        (Some(first), Some(last)) if first <= last => Ok(small(first)..=small(last)),
        _ => {
            let message = format!("`{}` is not a status or a range of them", quoted(text));
            Err(Wrong::new(message, format!("write a status from {min} to {max}, or a range such as `200-299`")))
        }
    }
}

pub(super) fn outliers(check: &Check<'_, '_>, field: &Field<raw::OutlierDetection>) -> Option<OutlierDetection> {
    let (raw, span) = field.here()?;
    let raw::OutlierDetection {
        consecutive_errors,
        consecutive_gateway_errors,
        consecutive_local_errors,
        split_local_origin,
        success_rate,
        interval,
        base_ejection,
        max_ejection,
        max_ejection_percent,
    } = raw;
    let default = OutlierDetection::default();
    let split = check.flag(split_local_origin, false);
    if let (false, Some(at)) = (split, consecutive_local_errors.span()) {
        let message = "`consecutiveLocalErrors` has no effect without `splitLocalOrigin: true`";
        check.warning(at, message, "add it, or remove this");
    }
    let empty = raw::SuccessRate::default();
    let raw::SuccessRate { stdev_factor, min_hosts, min_requests } = success_rate.get().unwrap_or(&empty);
    let base = check.duration(base_ejection, default.base_ejection);
    let max = check.duration(max_ejection, default.max_ejection);
    let (base, max) = match (base_ejection.span(), max_ejection.span()) {
        (Some(at), Some(_)) if base > max => {
            check.error(at, "`baseEjection` is above `maxEjection`", "make it smaller, or the other one larger");
            (base, base)
        }
        // One alone moves the other's default out of its way.
        (Some(_), None) => (base, max.max(base)),
        (None, Some(_)) => (base.min(max), max),
        _ => (base, max),
    };
    let failures = |field: &Field<u64>, default: u32| small(check.number(field, default.into(), limits::FAILURES));
    let out = OutlierDetection {
        consecutive_errors: failures(consecutive_errors, default.consecutive_errors),
        consecutive_gateway_errors: failures(consecutive_gateway_errors, default.consecutive_gateway_errors),
        consecutive_local_errors: failures(consecutive_local_errors, default.consecutive_local_errors),
        split_local_origin: split,
        success_rate_stdev_factor: small(check.decimal(stdev_factor, 1_900, (3, limits::STDEV_FACTOR))),
        success_rate_min_hosts: small(check.number(min_hosts, 5, limits::RATED_HOSTS)),
        success_rate_min_requests: small(check.number(min_requests, 100, limits::MIN_REQUESTS)),
        interval: check.time(interval, default.interval, INTERVALS),
        base_ejection: base,
        max_ejection: max,
        max_ejection_percent: small(check.number(max_ejection_percent, 50, limits::PERCENT)),
    };
    let silent = out.consecutive_errors == 0
        && out.consecutive_gateway_errors == 0
        && (!split || out.consecutive_local_errors == 0)
        && out.success_rate_min_hosts == 0;
    if silent || out.max_ejection_percent == 0 {
        check.warning(
            span,
            "this never takes an endpoint out",
            "remove `outlierDetection`, or set a threshold above 0",
        );
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expected_statuses_are_single_ones_and_ranges() {
        assert_eq!(status_range("204"), Ok(204..=204));
        assert_eq!(status_range("300-399"), Ok(300..=399));
        for bad in ["", "2xx", "99", "600", "299-200", "200-", "-200", "200-299-300"] {
            assert!(status_range(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_probe_asks_for_a_path_with_a_query() {
        assert_eq!(probe_path("/healthz?full=1"), Ok(()));
        for bad in ["", "healthz", "/a b", "/a#b", "/a?b c", "http://a/b"] {
            assert!(probe_path(bad).is_err(), "{bad}");
        }
    }
}
