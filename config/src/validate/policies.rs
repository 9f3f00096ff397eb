//! Timeouts, retries and hedging of rules.

use std::time::Duration;

use super::{Check, matches, small};
use crate::limits;
use crate::model::{Hedge, HedgeAfter, Match, Retry, RetryOn, Setting, Timeouts};
use crate::raw;
use crate::read::Field;
use crate::source::Span;
use crate::text::{nearest, quoted};
use crate::words::RETRY_CONDITIONS;

const REQUEST: Duration = Duration::from_secs(15);

pub(super) fn timeouts(check: &Check<'_, '_>, field: &Field<raw::Timeouts>) -> Timeouts {
    let empty = raw::Timeouts::default();
    let raw::Timeouts { request, backend_request, idle } = field.get().unwrap_or(&empty);
    let out = Timeouts {
        request: check.switch(request, Some(REQUEST)),
        backend_request: check.switch(backend_request, None),
        idle: check.switch(idle, None),
    };
    if let (Some(whole), Some(one), Some(span)) = (out.request.value, out.backend_request.value, backend_request.span())
        && one > whole
    {
        check.warning(
            span,
            "`backendRequest` is longer than `request`, which ends first",
            "make it shorter, or `request` longer",
        );
    }
    out
}

pub(super) fn retry(check: &Check<'_, '_>, field: &Field<raw::Retry>) -> Retry {
    let (base, max) = (Duration::from_millis(25), Duration::from_millis(250));
    let default = Retry::default();
    let Some((raw, span)) = field.here() else { return default };
    let raw::Retry {
        attempts,
        on,
        backoff,
        non_idempotent,
        headers,
        idempotency_key,
        max_pushback,
        other_locality,
        buffer,
    } = raw;
    let number: u8 = small(check.number(attempts, 1, limits::RETRY_ATTEMPTS));
    let (backoff_base, backoff_max) = self::backoff(check, backoff, (base, max));
    Retry {
        attempts: Setting { value: number, place: Some(check.place(attempts.span().unwrap_or(span))) },
        on: conditions(check, on),
        on_headers: {
            check.filled(headers, "headers", limits::MAX_CONDITIONS);
            matches::header_conditions(check, headers)
        },
        non_idempotent: check.flag(non_idempotent, false),
        idempotency_key: check.flag(idempotency_key, false),
        backoff_base,
        backoff_max,
        max_pushback: check.duration_or_zero(max_pushback, default.max_pushback),
        other_locality: check.flag(other_locality, false),
        buffer: small(check.size(buffer, default.buffer.into(), limits::REPLAY_BUFFER)),
    }
}

/// `retry` and `matches` are those of the same rule.
pub(super) fn hedge(
    check: &Check<'_, '_>,
    field: &Field<raw::Hedge>,
    (retry, matches): (&Retry, &[Match]),
) -> Option<Hedge> {
    let (raw::Hedge { after, percentile, min, max, budget_percent }, span) = field.here()?;
    let when = match (after.span(), percentile.span()) {
        (None, None) => {
            check.error(
                span,
                "this does not say when a second attempt is started",
                "add `after: 50ms` or `percentile: 95`",
            );
            None
        }
        (Some(_), Some(second)) => {
            let message = "a second attempt is started by exactly one of `after` and `percentile`";
            check.error(second, message, "keep one of the two");
            None
        }
        (Some(_), None) => Some(HedgeAfter::Delay(check.duration(after, Duration::from_millis(50)))),
        (None, Some(_)) => Some(HedgeAfter::Percentile {
            percent: small(check.number(percentile, 95, limits::HEDGE_PERCENTILE)),
            min: check.duration(min, Duration::from_millis(1)),
        }),
    };
    if let (Some(at), false) = (min.span(), after.is_absent()) {
        check.warning(at, "`min` has no effect with `after`", "remove it");
    }
    let repeatable = |one: &Match| !one.grpc && one.method.as_ref().is_none_or(http::Method::is_idempotent);
    let allowed = retry.non_idempotent || retry.idempotency_key;
    if !allowed && !matches.is_empty() && !matches.iter().any(repeatable) {
        let message = "`hedge` never applies: every request of this rule has a method that is not idempotent";
        let fix = "add `retry: { idempotencyKey: true }` or `retry: { nonIdempotent: true }` where repeating does no \
                   harm, or remove it";
        check.warning(span, message, fix);
    }
    Some(Hedge {
        after: when?,
        max: small(check.number(max, 1, limits::HEDGES)),
        budget_percent: small(check.number(budget_percent, 10, limits::SHARE)),
    })
}

fn backoff(check: &Check<'_, '_>, field: &Field<raw::Backoff>, defaults: (Duration, Duration)) -> (Duration, Duration) {
    let empty = raw::Backoff::default();
    let raw::Backoff { base, max } = field.get().unwrap_or(&empty);
    let low = check.duration(base, defaults.0);
    let high = check.duration(max, defaults.1);
    match (base.span(), max.span()) {
        (Some(at), Some(_)) if low > high => {
            check.error(at, "`base` is above `max`", "make it smaller, or `max` larger");
            (low, low)
        }
        // One alone moves the other's default out of its way.
        (Some(_), None) => (low, high.max(low)),
        (None, Some(_)) => (low.min(high), high),
        _ => (low, high),
    }
}

pub(super) fn conditions(check: &Check<'_, '_>, field: &Field<crate::read::List<raw::RetryCondition>>) -> Vec<RetryOn> {
    let mut out = Vec::new();
    if field.is_absent() {
        return vec![RetryOn::ConnectFailure, RetryOn::RefusedStream];
    }
    if let (Some([]), Some(span)) = (field.get().map(Vec::as_slice), field.span()) {
        let fix = "add conditions, such as `[connect-failure, refused-stream]`, or remove `retry`";
        check.error(span, "`on` is empty: nothing would ever be tried again", fix);
    }
    let list = check.within(field.entries(), limits::MAX_RETRY_CONDITIONS, (field.span(), "conditions"));
    for (raw::RetryCondition(text), span) in list.iter().filter_map(Field::here) {
        if let Some(condition) = condition(check, text, span)
            && !out.contains(&condition)
        {
            out.push(condition);
        }
    }
    out
}

fn condition(check: &Check<'_, '_>, text: &str, span: Span) -> Option<RetryOn> {
    if let Some((_, on)) = RETRY_CONDITIONS.iter().find(|(name, _)| *name == text) {
        return Some(*on);
    }
    let message = format!("`{}` is not a condition for a retry", quoted(text));
    if let Ok(status) = text.parse::<u64>() {
        let limits::Bounds { min, max } = limits::RETRY_STATUS;
        if (min..=max).contains(&status) {
            return u16::try_from(status).ok().map(RetryOn::Status);
        }
        check.error(span, message, format!("write a status from {min} to {max}"));
        return None;
    }
    let kebab = text.to_ascii_lowercase().replace(['_', ' '], "-");
    let fix = match nearest(&kebab, RETRY_CONDITIONS.iter().map(|(name, _)| *name)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "write connect-failure, refused-stream, reset, gateway-error, 5xx, a status such as 503, or a gRPC \
                 status such as unavailable"
            .to_owned(),
    };
    check.error(span, message, fix);
    None
}
