//! What an attempt tells its upstream of the time that is left.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use http::header::{Entry, HeaderMap, HeaderName, HeaderValue};

use super::{Carried, Exchange};
use crate::codec::lasting::lasting;
use crate::policy::deadline;
use crate::proxy::local::Caller;
use crate::proxy::tracked::Limits;
use crate::proxy::watch::Watch;

pub(super) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
pub(in crate::proxy) const DEADLINE: HeaderName = HeaderName::from_static("x-outrigger-deadline");
pub(in crate::proxy) const EXPECTED: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");

/// Tells the next hop how much time is left; false when none is. The watch is told what authorization saw in the place
/// of these fields.
pub(super) fn forward_deadline(
    exchange: &Exchange<'_>,
    headers: &mut HeaderMap,
    watch: Option<&mut Watch>,
    now: Instant,
) -> bool {
    let &Exchange { limits, attempt_limit, carried, caller, rule, .. } = exchange;
    Bounds { limits, attempt_limit, carried, caller, written: rule.timeouts.request.value }.tell(headers, watch, now)
}

/// A field that says how much time is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum TimeField {
    GrpcTimeout,
    Deadline,
    Expected,
}

impl TimeField {
    pub(in crate::proxy) const ALL: [Self; 3] = [Self::GrpcTimeout, Self::Deadline, Self::Expected];

    fn format(self, left: Duration) -> Option<HeaderValue> {
        match self {
            Self::GrpcTimeout => deadline::format_grpc_timeout(left),
            Self::Deadline | Self::Expected => deadline::format_millis(left),
        }
    }

    pub(in crate::proxy) const fn name(self) -> HeaderName {
        match self {
            Self::GrpcTimeout => GRPC_TIMEOUT,
            Self::Deadline => DEADLINE,
            Self::Expected => EXPECTED,
        }
    }
}

/// What bounds an attempt.
struct Bounds {
    limits: Limits,
    attempt_limit: Option<Duration>,
    carried: Carried,
    caller: Caller,
    /// What the rule allows for the whole request.
    written: Option<Duration>,
}

impl Bounds {
    fn tell(&self, headers: &mut HeaderMap, mut watch: Option<&mut Watch>, now: Instant) -> bool {
        if self.limits.is_late(now) {
            return false;
        }
        let left = self.limits.deadline.map(|deadline| deadline.saturating_duration_since(now));
        if let Some(left) = left
            && !self.tell_deadline(left, headers, watch.as_deref_mut())
        {
            return false;
        }
        if self.tells_answer() {
            let wait = self.limits.answer_by.map(|until| until.saturating_duration_since(now));
            let left = shorter(shorter(left, wait), self.attempt_limit).unwrap_or_default();
            match self.value(TimeField::Expected, left) {
                Some(value) => self.set(headers, TimeField::Expected, value, watch),
                // Less than a millisecond; zero would mean that there is no limit.
                None => {
                    if let Some(watch) = watch {
                        watch.before_edit(&EXPECTED, headers);
                    }
                    headers.remove(&EXPECTED);
                }
            }
        }
        true
    }

    fn tell_deadline(&self, left: Duration, headers: &mut HeaderMap, mut watch: Option<&mut Watch>) -> bool {
        let field = match self.caller {
            Caller::Grpc => TimeField::GrpcTimeout,
            Caller::Http => TimeField::Deadline,
        };
        // Otherwise nothing worth a request is left.
        let Some(value) = self.value(field, left) else { return false };
        self.set(headers, field, value, watch.as_deref_mut());
        // gRPC has a field of its own; the other is kept true where the caller sent it.
        if self.caller == Caller::Grpc && self.carried.has(TimeField::Deadline) {
            let millis = self.value(TimeField::Deadline, left).unwrap_or(HeaderValue::from_static("0"));
            self.set(headers, TimeField::Deadline, millis, watch);
        }
        true
    }

    /// Whether the upstream is told how long its response head is waited for: when the caller said so, or the rule
    /// limits an attempt. A gRPC call that has a deadline says that in the field that gRPC reads, and when its attempt is
    /// given up sooner, its stream is reset: it is told only what its caller had said.
    fn tells_answer(&self) -> bool {
        let told_by_grpc =
            self.caller == Caller::Grpc && self.limits.deadline.is_some() && !self.carried.has(TimeField::Expected);
        self.limits.answer_by.is_some() || (self.attempt_limit.is_some() && !told_by_grpc)
    }

    fn set(&self, headers: &mut HeaderMap, field: TimeField, value: HeaderValue, watch: Option<&mut Watch>) {
        if !self.carried.has(field) {
            // What it replaces is ours, of an attempt before.
            let added = headers.insert(field.name(), value).is_none();
            if let Some(watch) = watch.filter(|_| added) {
                watch.before_adding(field);
            }
            return;
        }
        match headers.entry(field.name()) {
            Entry::Vacant(vacant) => {
                if let Some(watch) = watch {
                    watch.before_adding(field);
                }
                vacant.insert(value);
            }
            Entry::Occupied(mut occupied) => {
                if let Some(watch) = watch {
                    watch.before_replacing(field, occupied.iter());
                }
                occupied.insert(value);
            }
        }
    }

    /// What a field says; `None` for nothing.
    fn value(&self, field: TimeField, left: Duration) -> Option<HeaderValue> {
        if self.is_usual(field, left) {
            return usual(field, left);
        }
        let mut value = field.format(left)?;
        value.set_sensitive(true);
        Some(value)
    }

    /// Whether many requests say just this, so that it is worth a place in HPACK's table: where no time has passed of
    /// what the rule allows, there are but as many values as milliseconds of [`HARDLY_ANY`]. A caller's own limits, and
    /// what is left after a wait, are new values again and again. Each would push out what is oldest in the table, and
    /// be compared with all of its name that are there: several times the cost of a field that stays outside.
    fn is_usual(&self, field: TimeField, left: Duration) -> bool {
        let is_near = |limit: Option<Duration>| limit.is_some_and(|limit| left <= limit && limit - left < HARDLY_ANY);
        (field != TimeField::GrpcTimeout || left >= deadline::IN_MILLIS)
            && (is_near(self.attempt_limit) || is_near(self.written))
    }
}

fn shorter(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// The value of a field that many requests have, to the millisecond. Those of late are remembered, so that most are not
/// written again.
fn usual(field: TimeField, left: Duration) -> Option<HeaderValue> {
    thread_local! {
        static LATELY: RefCell<[Option<Written>; REMEMBERED]> = const { RefCell::new([const { None }; REMEMBERED]) };
    }
    let millis = left.as_secs().checked_mul(1_000)?.checked_add(u64::from(left.subsec_millis()))?;
    LATELY.with_borrow_mut(|lately| {
        let place = &mut lately[(millis as usize * TimeField::ALL.len() + field as usize) % REMEMBERED];
        match place {
            Some(written) if (written.field, written.millis) == (field, millis) => Some(written.value.clone()),
            _ => {
                let value = lasting(field.format(Duration::from_millis(millis))?);
                *place = Some(Written { field, millis, value: value.clone() });
                Some(value)
            }
        }
    })
}

/// A value that was written.
struct Written {
    field: TimeField,
    millis: u64,
    value: HeaderValue,
}

/// Values that a worker remembers.
const REMEMBERED: usize = 16;

/// A request that waits for nothing reaches its attempt within this time.
const HARDLY_ANY: Duration = Duration::from_millis(4);

#[cfg(test)]
mod tests {
    use super::super::CarriedField;
    use super::*;

    const NOTHING: Bounds = Bounds {
        limits: Limits { deadline: None, answer_by: None, answer: None, idle: None },
        attempt_limit: None,
        carried: Carried::NONE,
        caller: Caller::Http,
        written: None,
    };

    /// What an upstream sees of these fields; `None` when it is too late.
    fn told(bounds: &Bounds, sent: &[(HeaderName, &'static str)], now: Instant) -> Option<Vec<(String, String)>> {
        let mut headers: HeaderMap =
            sent.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect();
        let carried = headers.keys().filter_map(CarriedField::of).collect();
        Bounds { carried, ..*bounds }.tell(&mut headers, None, now).then(|| {
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
        let bounds = Bounds { limits: Limits { deadline, ..NOTHING.limits }, caller: Caller::Grpc, ..NOTHING };
        assert_eq!(told(&bounds, &[], now), fields(&[(GRPC_TIMEOUT, "250000u")]));
        let both = fields(&[(GRPC_TIMEOUT, "250000u"), (DEADLINE, "250")]);
        assert_eq!(told(&bounds, &[(DEADLINE, "9999")], now), both);
        let late = now + Duration::from_micros(249_500);
        let both = fields(&[(GRPC_TIMEOUT, "500000n"), (DEADLINE, "0")]);
        assert_eq!(told(&bounds, &[(DEADLINE, "9999")], late), both);
    }

    #[test]
    fn a_grpc_call_with_a_deadline_is_told_of_its_answer_where_the_caller_spoke_of_it() {
        let now = Instant::now();
        let at = |millis| Some(now + Duration::from_millis(millis));
        let one = Some(Duration::from_millis(100));
        let bounds = |deadline, answer_by, attempt_limit| Bounds {
            limits: Limits { deadline, answer_by, ..NOTHING.limits },
            caller: Caller::Grpc,
            attempt_limit,
            ..NOTHING
        };
        let alone = fields(&[(GRPC_TIMEOUT, "250000u")]);
        assert_eq!(told(&bounds(at(250), None, one), &[], now), alone);
        let both = fields(&[(GRPC_TIMEOUT, "250000u"), (EXPECTED, "100")]);
        assert_eq!(told(&bounds(at(250), at(200), one), &[(EXPECTED, "200")], now), both);
        assert_eq!(told(&bounds(at(250), None, one), &[(EXPECTED, "0")], now), both, "kept true");
        assert_eq!(told(&bounds(None, None, one), &[], now), fields(&[(EXPECTED, "100")]), "nothing else says it");
    }

    #[test]
    fn what_many_requests_say_may_be_kept_in_a_table_and_nothing_else() {
        let now = Instant::now();
        let secs = Duration::from_secs;
        let is_kept = |written, left, caller| {
            let limits = Limits { deadline: Some(now + left), ..NOTHING.limits };
            let mut headers = HeaderMap::new();
            assert!(Bounds { limits, written, caller, ..NOTHING }.tell(&mut headers, None, now));
            headers.values().all(|value| !value.is_sensitive())
        };
        for caller in [Caller::Http, Caller::Grpc] {
            assert!(is_kept(Some(secs(15)), secs(15) - Duration::from_micros(3_999), caller));
            assert!(!is_kept(Some(secs(15)), secs(15) - HARDLY_ANY, caller), "it has waited");
            assert!(!is_kept(Some(secs(15)), secs(5), caller), "the caller's own");
            assert!(!is_kept(None, secs(5), caller));
        }
        let (written, left) = (Some(Duration::from_millis(250)), Duration::from_micros(249_900));
        assert!(is_kept(written, left, Caller::Http));
        assert!(!is_kept(written, left, Caller::Grpc), "too exact");
    }
}
