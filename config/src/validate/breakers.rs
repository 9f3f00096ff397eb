//! Ceilings and breakers.

use std::time::Duration;

use super::{Check, small};
use crate::limits;
use crate::model::{Breaker, Breakers, Ceilings, EndpointCeilings, FailureRatio, LatencyTrip, Setting};
use crate::raw;
use crate::read::Field;
use crate::source::Span;

/// What `circuitBreaker` of a cluster says.
pub(super) struct Checked {
    pub(super) ceilings: Ceilings,
    pub(super) endpoint_ceilings: EndpointCeilings,
    pub(super) breakers: Breakers,
}

pub(super) fn of_cluster(check: &Check<'_, '_>, field: &Field<raw::CircuitBreaker>) -> Checked {
    let empty = raw::CircuitBreaker::default();
    let raw::CircuitBreaker {
        max_requests,
        max_pending,
        max_retries,
        max_connections,
        failure_threshold,
        failure_ratio,
        latency,
        reset_timeout,
        max_reset_timeout,
        ramp,
        cluster,
        per_endpoint,
    } = field.get().unwrap_or(&empty);
    let endpoint = Parts { failure_threshold, failure_ratio, latency, reset_timeout, max_reset_timeout, ramp };
    // Who says when a breaker closes again asks for one.
    let asked = reset_timeout.span().or(max_reset_timeout.span()).or(ramp.span());
    Checked {
        ceilings: Ceilings {
            max_requests: small(check.number(max_requests, 1_024, limits::MAX_REQUESTS)),
            max_pending: small(check.number(max_pending, 256, limits::MAX_PENDING)),
            max_retries: small(check.number(max_retries, 64, limits::MAX_RETRIES)),
            max_connections: small(check.number(max_connections, 1_024, limits::CONNECTIONS)),
        },
        endpoint_ceilings: endpoint_ceilings(check, per_endpoint),
        breakers: Breakers { endpoint: endpoint.read(check, asked), cluster: breaker(check, cluster) },
    }
}

/// A breaker that is written by itself: of a rule, or of all endpoints of a cluster.
pub(super) fn breaker(check: &Check<'_, '_>, field: &Field<raw::Breaker>) -> Option<Breaker> {
    let (raw, span) = field.here()?;
    let raw::Breaker { failure_threshold, failure_ratio, latency, reset_timeout, max_reset_timeout, ramp } = raw;
    let parts = Parts { failure_threshold, failure_ratio, latency, reset_timeout, max_reset_timeout, ramp };
    let breaker = parts.read(check, Some(span));
    if breaker.failure_threshold.value == 0 && failure_ratio.is_absent() && latency.is_absent() {
        let message = "this breaker never opens: its threshold is 0, and it has no `failureRatio` and no `latency`";
        check.warning(span, message, "remove it, or add one of them");
    }
    Some(breaker)
}

/// The fields of a breaker, wherever they are written.
struct Parts<'r> {
    failure_threshold: &'r Field<u64>,
    failure_ratio: &'r Field<raw::FailureRatio>,
    latency: &'r Field<raw::LatencyTrip>,
    reset_timeout: &'r Field<raw::DurationText>,
    max_reset_timeout: &'r Field<raw::DurationText>,
    ramp: &'r Field<raw::DurationText>,
}

impl Parts<'_> {
    /// `asked`: where somebody asked for this breaker, which then is none by default, whatever its threshold is.
    fn read(&self, check: &Check<'_, '_>, asked: Option<Span>) -> Breaker {
        let default = Breaker::default();
        let value = check.number(self.failure_threshold, default.failure_threshold.value.into(), limits::FAILURES);
        let place = self.failure_threshold.span().or(asked).map(|span| check.place(span));
        let reset = check.duration(self.reset_timeout, default.reset_timeout);
        let max = check.duration(self.max_reset_timeout, default.max_reset_timeout);
        let (reset_timeout, max_reset_timeout) = match (self.reset_timeout.span(), self.max_reset_timeout.span()) {
            (Some(at), Some(_)) if reset > max => {
                check.error(
                    at,
                    "`resetTimeout` is above `maxResetTimeout`",
                    "make it smaller, or the other one larger",
                );
                (reset, reset)
            }
            // One alone moves the other's default out of its way.
            (Some(_), None) => (reset, max.max(reset)),
            (None, Some(_)) => (reset.min(max), max),
            _ => (reset, max),
        };
        Breaker {
            failure_threshold: Setting { value: small(value), place },
            failure_ratio: failure_ratio(check, self.failure_ratio),
            latency: latency(check, self.latency),
            reset_timeout,
            max_reset_timeout,
            ramp: check.duration_or_zero(self.ramp, default.ramp),
        }
    }
}

fn failure_ratio(check: &Check<'_, '_>, field: &Field<raw::FailureRatio>) -> Option<FailureRatio> {
    let (raw::FailureRatio { percent, window, min_requests }, span) = field.here()?;
    check.required(percent, span, ("this ratio has no `percent`", "add the share that opens it: `percent: 50`"));
    Some(FailureRatio {
        percent: small(check.number(percent, 50, limits::SHARE)),
        window: check.time(window, WINDOW, WINDOWS),
        min_requests: small(check.number(min_requests, 20, limits::MIN_REQUESTS)),
    })
}

fn latency(check: &Check<'_, '_>, field: &Field<raw::LatencyTrip>) -> Option<LatencyTrip> {
    let (raw::LatencyTrip { quantile, above, window, min_requests }, span) = field.here()?;
    check.required(above, span, ("this latency has no `above`", "add what is too slow: `above: 500ms`"));
    Some(LatencyTrip {
        quantile: small(check.number(quantile, 99, limits::QUANTILE)),
        above: check.duration(above, Duration::from_secs(1)),
        window: check.time(window, WINDOW, WINDOWS),
        min_requests: small(check.number(min_requests, 20, limits::MIN_REQUESTS)),
    })
}

const WINDOW: Duration = Duration::from_secs(10);

/// Windows that a breaker can look back.
pub(crate) const WINDOWS: (Duration, Duration) =
    (Duration::from_millis(100), Duration::from_secs(limits::MAX_WINDOW_SECONDS));

fn endpoint_ceilings(check: &Check<'_, '_>, field: &Field<raw::EndpointCeilings>) -> EndpointCeilings {
    let empty = raw::EndpointCeilings::default();
    let raw::EndpointCeilings { max_requests, max_pending, max_retries, max_connections } =
        field.get().unwrap_or(&empty);
    let ceiling = |field: &Field<u64>, bounds: limits::Bounds| {
        field.get().map(|_| small(check.number(field, bounds.max, bounds)))
    };
    EndpointCeilings {
        max_requests: ceiling(max_requests, limits::MAX_REQUESTS),
        max_pending: ceiling(max_pending, limits::MAX_PENDING),
        max_retries: ceiling(max_retries, limits::MAX_RETRIES),
        max_connections: ceiling(max_connections, limits::CONNECTIONS),
    }
}
