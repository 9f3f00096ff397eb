//! What an attempt tells its upstream of the time that is left.

use std::time::{Duration, Instant};

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::Exchange;
use crate::policy::deadline::{self, Forwarded};
use crate::proxy::local::Caller;
use crate::proxy::record::Record;
use crate::proxy::tracked::Limits;

pub(in crate::proxy) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
pub(in crate::proxy) const DEADLINE: HeaderName = HeaderName::from_static("x-outrigger-deadline");
pub(in crate::proxy) const EXPECTED: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");

/// The fields that [`forward_deadline`] may change: what authorization saw is remembered.
pub(super) fn before_forwarding(exchange: &Exchange<'_>, headers: &HeaderMap, record: &mut Record) {
    let bounds = Bounds::of(exchange);
    if bounds.limits.deadline.is_some() {
        if bounds.caller == Caller::Grpc {
            record.watch.before_edit(&GRPC_TIMEOUT, headers);
        }
        record.watch.before_edit(&DEADLINE, headers);
    }
    if bounds.tells_answer() {
        record.watch.before_edit(&EXPECTED, headers);
    }
}

/// Tells the next hop how much time is left; false when none is.
pub(super) fn forward_deadline(exchange: &Exchange<'_>, headers: &mut HeaderMap, now: Instant) -> bool {
    Bounds::of(exchange).tell(headers, now)
}

/// What bounds an attempt.
struct Bounds {
    limits: Limits,
    attempt_limit: Option<Duration>,
    caller: Caller,
}

impl Bounds {
    fn of(exchange: &Exchange<'_>) -> Self {
        let &Exchange { limits, attempt_limit, caller, .. } = exchange;
        Self { limits, attempt_limit, caller }
    }

    fn tell(&self, headers: &mut HeaderMap, now: Instant) -> bool {
        if self.limits.is_late(now) {
            return false;
        }
        if let Some(deadline) = self.limits.deadline
            && !self.tell_deadline(deadline, headers, now)
        {
            return false;
        }
        if self.tells_answer() {
            let until = [self.limits.deadline, self.limits.answer_by].into_iter().flatten();
            let left = until.map(|until| until.saturating_duration_since(now)).chain(self.attempt_limit).min();
            match left.and_then(deadline::format_millis) {
                Some(value) => set(headers, EXPECTED, value),
                // Less than a millisecond; zero would mean that there is no limit.
                None => drop(headers.remove(&EXPECTED)),
            }
        }
        true
    }

    fn tell_deadline(&self, deadline: Instant, headers: &mut HeaderMap, now: Instant) -> bool {
        let millis = deadline::format_millis(deadline.saturating_duration_since(now));
        match (self.caller, millis) {
            (Caller::Http, Some(millis)) => set(headers, DEADLINE, millis),
            // Nothing worth a request is left.
            (Caller::Http, None) => return false,
            // gRPC has a field of its own; the other is kept true where the caller sent it.
            (Caller::Grpc, millis) => {
                match deadline::forward(Some(deadline), now) {
                    Forwarded::Timeout(value) => set(headers, GRPC_TIMEOUT, value),
                    Forwarded::Unlimited | Forwarded::Expired => return false,
                }
                if headers.contains_key(&DEADLINE) {
                    set(headers, DEADLINE, millis.unwrap_or(HeaderValue::from_static("0")));
                }
            }
        }
        true
    }

    /// Whether the upstream is told how long its response head is waited for: when the caller said so, or the rule
    /// limits an attempt.
    fn tells_answer(&self) -> bool {
        self.limits.answer_by.is_some() || self.attempt_limit.is_some()
    }
}

fn set(headers: &mut HeaderMap, name: HeaderName, mut value: HeaderValue) {
    // Each is different: not for HPACK's table.
    value.set_sensitive(true);
    headers.insert(name, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Bounds = Bounds {
        limits: Limits { deadline: None, answer_by: None, answer: None, idle: None },
        attempt_limit: None,
        caller: Caller::Http,
    };

    /// What an upstream sees of these fields; `None` when it is too late.
    fn told(bounds: &Bounds, sent: &[(HeaderName, &'static str)], now: Instant) -> Option<Vec<(String, String)>> {
        let mut headers: HeaderMap =
            sent.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect();
        bounds.tell(&mut headers, now).then(|| {
            let text = |value: &HeaderValue| value.to_str().expect("text").to_owned();
            let mut told: Vec<_> = headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
            told.sort();
            told
        })
    }

    fn fields(fields: &[(HeaderName, &str)]) -> Option<Vec<(String, String)>> {
        Some(fields.iter().map(|(name, value)| (name.to_string(), (*value).to_owned())).collect())
    }

    #[test]
    fn without_limits_the_callers_fields_pass_as_they_are() {
        let now = Instant::now();
        assert_eq!(told(&NOTHING, &[], now), fields(&[]));
        assert_eq!(told(&NOTHING, &[(DEADLINE, "soon")], now), fields(&[(DEADLINE, "soon")]));
    }

    #[test]
    fn what_is_left_is_told_and_less_each_time() {
        let now = Instant::now();
        let deadline = Some(now + Duration::from_millis(500));
        let bounds = Bounds { limits: Limits { deadline, ..NOTHING.limits }, ..NOTHING };
        assert_eq!(told(&bounds, &[(DEADLINE, "9999")], now), fields(&[(DEADLINE, "500")]));
        let later = now + Duration::from_micros(120_100);
        assert_eq!(told(&bounds, &[(DEADLINE, "500")], later), fields(&[(DEADLINE, "379")]));
        assert_eq!(told(&bounds, &[], now + Duration::from_micros(499_100)), None, "less than a millisecond");
        assert_eq!(told(&bounds, &[], now + Duration::from_millis(500)), None);
    }

    #[test]
    fn the_answer_is_waited_for_as_long_as_the_shortest_of_all_limits() {
        let now = Instant::now();
        let at = |millis| Some(now + Duration::from_millis(millis));
        let limits = |deadline, answer_by| Limits { deadline, answer_by, ..NOTHING.limits };
        let one = Some(Duration::from_millis(100));
        for (limits, attempt_limit, expected) in [
            (limits(None, None), one, "100"),
            (limits(None, at(70)), one, "70"),
            (limits(None, at(170)), one, "100"),
            (limits(None, at(170)), None, "170"),
        ] {
            let bounds = Bounds { limits, attempt_limit, ..NOTHING };
            assert_eq!(told(&bounds, &[(EXPECTED, "1")], now), fields(&[(EXPECTED, expected)]));
        }
        let bounds = Bounds { limits: limits(at(50), at(70)), attempt_limit: one, ..NOTHING };
        assert_eq!(told(&bounds, &[], now), fields(&[(EXPECTED, "50"), (DEADLINE, "50")]));
        assert_eq!(told(&bounds, &[], now + Duration::from_millis(50)), None);
        let bounds = Bounds { limits: limits(None, at(70)), ..NOTHING };
        assert_eq!(told(&bounds, &[], now + Duration::from_millis(70)), None, "nobody waits for a head any more");
    }

    #[test]
    fn a_grpc_call_is_told_in_its_own_field() {
        let now = Instant::now();
        let deadline = Some(now + Duration::from_millis(250));
        let bounds =
            Bounds { limits: Limits { deadline, ..NOTHING.limits }, attempt_limit: None, caller: Caller::Grpc };
        assert_eq!(told(&bounds, &[], now), fields(&[(GRPC_TIMEOUT, "250000u")]));
        let both = fields(&[(GRPC_TIMEOUT, "250000u"), (DEADLINE, "250")]);
        assert_eq!(told(&bounds, &[(DEADLINE, "9999")], now), both);
        let late = now + Duration::from_micros(249_500);
        let both = fields(&[(GRPC_TIMEOUT, "500000n"), (DEADLINE, "0")]);
        assert_eq!(told(&bounds, &[(DEADLINE, "9999")], late), both);
    }
}
