//! Retries and hedges of a route.

use std::time::Duration;

use outrigger_config::limits::RETRY_ATTEMPTS;
use outrigger_config::model::{HeaderMatch, Hedge, HedgeAfter, Retry, RetryOn, Setting, Timeouts};

use super::super::matching::{self, Header};
use super::super::reader::At;
use crate::extensions::{RetryExtension, RouteExtension};
use crate::pb::route;
use crate::{canonical, wire};

pub(super) fn own_retry(at: &At<'_>, own: &RouteExtension, read: Retry) -> Retry {
    let place = own.attempts.as_ref().map(wire::read_place);
    let Some(RetryExtension { attempts, on, non_idempotent, backoff_base, backoff_max }) = &own.retry else {
        return Retry { attempts: Setting { value: read.attempts.value, place }, ..read };
    };
    let at = at.field("metadata");
    let duration = |value: &Option<prost_types::Duration>| value.as_ref().and_then(wire::read_own_duration);
    let condition = |text: &String| {
        let numbered = text.split_once(':').map(|(kind, number)| (kind, number.parse::<u16>()));
        match numbered {
            Some(("status", Ok(status))) => Some(RetryOn::Status(status)),
            Some(("grpc", Ok(code))) => u8::try_from(code).ok().map(RetryOn::Grpc),
            _ => match word(text) {
                Some(&[first, ..]) => Some(first),
                _ => {
                    at.refuse(format!("`{text}` is not a condition for a retry"));
                    None
                }
            },
        }
    };
    Retry {
        attempts: Setting { value: u8::try_from(*attempts).unwrap_or(u8::MAX), place },
        on: on.iter().filter_map(condition).collect(),
        non_idempotent: *non_idempotent,
        backoff_base: duration(backoff_base).unwrap_or(read.backoff_base),
        backoff_max: duration(backoff_max).unwrap_or(read.backoff_max),
        ..read
    }
}

/// A second attempt after the time limit of one, which goes on. The limit is then none.
pub(super) fn hedge(at: &At<'_>, message: &route::HedgePolicy, timeouts: &mut Timeouts) -> Option<Hedge> {
    unpack!(at, message => route::HedgePolicy {
        take: [initial_requests, hedge_on_per_try_timeout],
        ignore: [],
        refuse: [additional_request_chance],
    });
    if initial_requests.as_ref().is_some_and(|number| number.value > 1) {
        at.field("initial_requests").refuse("a request begins with one attempt; write 1, or remove it");
    }
    if !hedge_on_per_try_timeout {
        return None;
    }
    let Some(delay) = timeouts.backend_request.value.take() else {
        at.field("hedge_on_per_try_timeout").refuse("there is no `per_try_timeout` to start a second attempt at");
        return None;
    };
    timeouts.backend_request.place = None;
    Some(Hedge { after: HedgeAfter::Delay(delay), max: 1, budget_percent: 10 })
}

/// Headers of responses that are tried again.
pub(super) fn answers(at: &At<'_>, list: &[route::HeaderMatcher]) -> Vec<HeaderMatch> {
    let each = list.iter().enumerate().filter_map(|(index, message)| {
        let at = at.item("retriable_headers", index);
        match matching::header(&at, message)? {
            Header::Other(condition) => Some(condition),
            Header::Method(_) => {
                at.refuse("a response has no method");
                None
            }
        }
    });
    each.collect()
}

/// How long an answer's own word on when to come back is waited for.
pub(super) fn pushback(at: &At<'_>, message: &route::retry_policy::RateLimitedRetryBackOff) -> Duration {
    unpack!(at, message => route::retry_policy::RateLimitedRetryBackOff {
        take: [reset_headers, max_interval],
        ignore: [],
        refuse: [],
    });
    for (index, header) in reset_headers.iter().enumerate() {
        // Always read, in seconds.
        if !header.name.eq_ignore_ascii_case("retry-after") || header.format != 0 {
            at.item("reset_headers", index).refuse("only `retry-after` in seconds is supported");
        }
    }
    super::super::cluster::positive(at, "max_interval", max_interval.as_ref()).unwrap_or(Duration::from_secs(300))
}

/// A retry policy; the limit of one attempt goes to where ours keeps it.
pub(super) fn retry(at: &At<'_>, message: Option<&route::RetryPolicy>, timeouts: &mut Timeouts) -> Retry {
    let Some(message) = message else { return canonical::none() };
    unpack!(at, message => route::RetryPolicy {
        take: [
            retry_on,
            num_retries,
            per_try_timeout,
            retry_host_predicate,
            retriable_status_codes,
            retry_back_off,
            retriable_request_headers,
            rate_limited_retry_back_off,
            retriable_headers,
        ],
        ignore: [host_selection_retry_max_attempts], // one pick leaves out what has been tried
        refuse: [
            per_try_idle_timeout,
            retry_priority,
            retry_options_predicates,
            refresh_cluster_on_retry,
        ],
    });
    for (index, predicate) in retry_host_predicate.iter().enumerate() {
        // Always so.
        if predicate.name != "envoy.retry_host_predicates.previous_hosts" {
            at.item("retry_host_predicate", index).refuse("only `previous_hosts` is supported");
        }
    }
    if let Some(limit) = at.duration("per_try_timeout", per_try_timeout.as_ref()).filter(|limit| !limit.is_zero()) {
        timeouts.backend_request = Setting { value: Some(limit), place: Some(at.place()) };
    }
    if let Err(reason) = conditions(retry_on, retriable_status_codes) {
        at.field("retry_on").refuse(reason);
        return canonical::none();
    }
    let most = u32::try_from(RETRY_ATTEMPTS.max).unwrap_or(u32::MAX);
    if num_retries.as_ref().is_some_and(|number| number.value > most) {
        at.field("num_retries").refuse(format!("more than {most} retries of one request are not made"));
        return canonical::none();
    }
    if let Some(message) = retry_back_off {
        let at = at.field("retry_back_off");
        unpack!(at, message => route::retry_policy::RetryBackOff {
            take: [base_interval, max_interval],
            ignore: [],
            refuse: [],
        });
        super::super::cluster::positive(&at, "base_interval", base_interval.as_ref());
        super::super::cluster::positive(&at, "max_interval", max_interval.as_ref());
    }
    match canonical::retry(Some(message)) {
        Some(mut retry) => {
            retry.attempts.place = Some(at.place());
            retry.on_headers = answers(at, retriable_headers);
            if let Some(message) = rate_limited_retry_back_off {
                retry.max_pushback = pushback(&at.field("rate_limited_retry_back_off"), message);
            }
            retry
        }
        None => {
            if !retriable_request_headers.is_empty() {
                at.field("retriable_request_headers").refuse("this is not supported; remove it");
            }
            canonical::none()
        }
    }
}

/// The conditions of Envoy's `retry_on`, in ours.
pub(crate) fn conditions(retry_on: &str, statuses: &[u32]) -> Result<Vec<RetryOn>, String> {
    let mut out: Vec<RetryOn> = Vec::new();
    let mut add = |condition: RetryOn| {
        if !out.contains(&condition) {
            out.push(condition);
        }
    };
    for text in retry_on.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        // What they are is in a list of its own.
        if text == "retriable-headers" {
            continue;
        }
        if text == "retriable-status-codes" {
            for status in statuses {
                let status = u16::try_from(*status).ok().filter(|status| (400..=599).contains(status));
                add(RetryOn::Status(status.ok_or("only statuses from 400 to 599 are tried again")?));
            }
            continue;
        }
        let words = word(text).ok_or_else(|| format!("the condition `{text}` is not supported; remove it"))?;
        words.iter().copied().for_each(&mut add);
    }
    Ok(out)
}

/// What a word of Envoy's means: some contain others.
pub(super) fn word(text: &str) -> Option<&'static [RetryOn]> {
    use RetryOn::{ConnectFailure, GatewayError, Grpc, RefusedStream, Reset, ServerError, Status};
    Some(match text {
        "connect-failure" => &[ConnectFailure],
        "refused-stream" => &[RefusedStream],
        "reset" => &[Reset, ConnectFailure, RefusedStream],
        "gateway-error" => &[GatewayError, Reset, ConnectFailure, RefusedStream],
        "5xx" => &[ServerError, Reset, ConnectFailure, RefusedStream],
        "retriable-4xx" => &[Status(409)],
        "cancelled" => &[Grpc(1)],
        "deadline-exceeded" => &[Grpc(4)],
        "resource-exhausted" => &[Grpc(8)],
        "internal" => &[Grpc(13)],
        "unavailable" => &[Grpc(14)],
        _ => return None,
    })
}
