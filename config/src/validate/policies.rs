//! Timeouts and retries of rules.

use std::time::Duration;

use super::{Check, small};
use crate::limits;
use crate::model::{Retry, RetryOn, Setting, Timeouts};
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
    let Some((raw::Retry { attempts, on, backoff, non_idempotent }, span)) = field.here() else {
        return Retry::default();
    };
    let number: u8 = small(check.number(attempts, 1, limits::RETRY_ATTEMPTS));
    let (backoff_base, backoff_max) = self::backoff(check, backoff, (base, max));
    Retry {
        attempts: Setting { value: number, place: Some(check.place(attempts.span().unwrap_or(span))) },
        on: conditions(check, on),
        non_idempotent: check.flag(non_idempotent, false),
        backoff_base,
        backoff_max,
        ..Retry::default()
    }
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
