//! Time limits of a request, and how callers and upstreams are told of them: `grpc-timeout` (gRPC over HTTP/2,
//! "Timeout"), `x-outrigger-deadline` and `x-envoy-expected-rq-timeout-ms`.
//!
//! All of these say how much time is left, because the clocks of two machines differ. A caller can only shorten what
//! its rule allows, so any caller may be listened to: it can cut nothing but its own requests. Every limit knows where
//! it comes from, so that it can be explained.

use std::time::Duration;

use http::HeaderValue;
use outrigger_config::model::{Place, Setting, Timeouts};
use thiserror::Error;

/// What the time limits of a request depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exchange {
    /// A request and its response.
    Plain,
    /// A gRPC call. It may be a long stream, so only the caller's deadline and what was written in the
    /// configuration bound it.
    Grpc,
    /// A stream of server-sent events (`accept: text/event-stream`).
    EventStream,
    /// An upgrade or tunnel.
    Upgrade,
}

/// How long a caller says that it waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Patience {
    /// `grpc-timeout`, of a gRPC call: for the whole call.
    pub grpc: Option<Duration>,
    /// `x-outrigger-deadline`: for the whole exchange.
    pub deadline: Option<Duration>,
    /// `x-envoy-expected-rq-timeout-ms`: for the response head. What streams after it is not cut.
    pub answer: Option<Duration>,
}

/// The limits of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits<'a> {
    /// From the end of the request head to the end of the response, retries included.
    pub request: Limit<'a>,
    /// What the caller waits for the whole exchange, also where `request` is shorter and ends with the response head.
    pub caller: Option<Duration>,
    /// What the caller waits for the response head, over all attempts.
    pub answer: Option<Duration>,
    /// One attempt, to its response head. It ends with `request` in any case.
    pub attempt: Limit<'a>,
    /// Nothing moved in either direction.
    pub idle: Limit<'a>,
}

/// A limit and where it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit<'a> {
    /// `None`: without limit.
    pub value: Option<Duration>,
    /// Where it comes from.
    pub source: Source<'a>,
}

/// Where a limit comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source<'a> {
    /// Written in the configuration.
    Written(&'a Place),
    /// The built-in default.
    Default,
    /// The listener's, written or default.
    Listener,
    /// The caller's `grpc-timeout`.
    GrpcTimeout,
    /// The caller's `x-outrigger-deadline`.
    Caller,
    /// The default does not apply to exchanges that may stream.
    Streaming,
}

impl Limits<'_> {
    /// When the whole exchange must be over: what was written, or what the caller says. The default is none: it ends
    /// with the response head, so that a long transfer is not cut.
    #[must_use]
    pub fn whole(&self) -> Option<Duration> {
        if self.request.source == Source::Default { self.caller } else { self.request.value }
    }

    /// The default: from the end of the upload to the response head.
    #[must_use]
    pub fn default_answer(&self) -> Option<Duration> {
        if self.request.source == Source::Default { self.request.value } else { None }
    }
}

/// The limits that apply to an exchange. `listener_idle` is the listener's idle limit of a stream; zero is none.
#[must_use]
pub fn limits<'a>(timeouts: &'a Timeouts, exchange: Exchange, says: Patience, listener_idle: Duration) -> Limits<'a> {
    let Timeouts { request, backend_request, idle } = timeouts;
    let idle = match idle.place {
        Some(_) => setting(idle),
        None => Limit { value: (!listener_idle.is_zero()).then_some(listener_idle), source: Source::Listener },
    };
    let attempt = setting(backend_request);
    let request = allowed(request, exchange);
    // A tunnel has no end that a caller could know, and no response head that it waits for.
    let says = if exchange == Exchange::Upgrade { Patience::default() } else { says };
    let callers = match (says.grpc, says.deadline) {
        (Some(grpc), deadline) if deadline.is_none_or(|deadline| grpc <= deadline) => Some((grpc, Source::GrpcTimeout)),
        (_, deadline) => deadline.map(|deadline| (deadline, Source::Caller)),
    };
    let caller = callers.map(|(value, _)| value);
    let request = match callers {
        Some((value, source)) if request.value.is_none_or(|limit| value < limit) => {
            Limit { value: Some(value), source }
        }
        _ => request,
    };
    Limits { request, caller, answer: says.answer, attempt, idle }
}

/// What the configuration allows.
fn allowed(written: &Setting<Option<Duration>>, exchange: Exchange) -> Limit<'_> {
    match (exchange, &written.place) {
        (Exchange::Plain, _) | (_, Some(_)) => setting(written),
        (Exchange::Grpc | Exchange::EventStream | Exchange::Upgrade, None) => {
            Limit { value: None, source: Source::Streaming }
        }
    }
}

fn setting(setting: &Setting<Option<Duration>>) -> Limit<'_> {
    let source = setting.place.as_ref().map_or(Source::Default, Source::Written);
    Limit { value: setting.value, source }
}

/// A `grpc-timeout` that is not one to eight digits and a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("grpc-timeout is not one to eight digits and one of H, M, S, m, u, n")]
pub struct BadGrpcTimeout;

/// Parses `grpc-timeout`.
///
/// # Errors
/// [`BadGrpcTimeout`].
pub fn parse_grpc_timeout(value: &[u8]) -> Result<Duration, BadGrpcTimeout> {
    let (unit, digits) = value.split_last().ok_or(BadGrpcTimeout)?;
    if !(1..=MAX_DIGITS).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return Err(BadGrpcTimeout);
    }
    let amount = digits.iter().fold(0, |amount, digit| amount * 10 + u64::from(digit - b'0'));
    Ok(match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return Err(BadGrpcTimeout),
    })
}

/// Formats a `grpc-timeout`, rounding down: the next hop never believes that it has more time than there is. Below a
/// second it is as exact as eight digits allow; from there on in milliseconds, which loses a thousandth at most, as long
/// as these fit. `None` for zero: the deadline has passed.
#[must_use]
pub fn format_grpc_timeout(left: Duration) -> Option<HeaderValue> {
    let (seconds, nanos) = (left.as_secs(), u64::from(left.subsec_nanos()));
    let (amount, unit) = match seconds {
        0 if nanos == 0 => return None,
        0 if nanos <= MAX_AMOUNT => (nanos, b'n'),
        0 => (nanos / 1_000, b'u'),
        1..MAX_MILLIS_SECONDS => (seconds * 1_000 + nanos / 1_000_000, b'm'),
        MAX_MILLIS_SECONDS..=MAX_AMOUNT => (seconds, b'S'),
        _ if seconds / 60 <= MAX_AMOUNT => (seconds / 60, b'M'),
        _ => ((seconds / 3600).min(MAX_AMOUNT), b'H'),
    };
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(amount).as_bytes();
    let mut text = [0; MAX_DIGITS + 1];
    text[..digits.len()].copy_from_slice(digits);
    text[digits.len()] = unit;
    HeaderValue::from_bytes(&text[..=digits.len()]).ok()
}

/// Parses the milliseconds of `x-outrigger-deadline` and `x-envoy-expected-rq-timeout-ms`: one to twelve digits.
/// `None` for anything else.
#[must_use]
pub fn parse_millis(value: &[u8]) -> Option<Duration> {
    if !(1..=MAX_MILLIS_DIGITS).contains(&value.len()) || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(Duration::from_millis(value.iter().fold(0, |amount, digit| amount * 10 + u64::from(digit - b'0'))))
}

/// Formats what is left in milliseconds, rounding down: the next hop never believes that it has more time than there
/// is. `None` below one: the deadline has passed.
#[must_use]
pub fn format_millis(left: Duration) -> Option<HeaderValue> {
    let millis = left.as_millis().min(MOST_MILLIS) as u64;
    if millis == 0 {
        return None;
    }
    HeaderValue::from_str(itoa::Buffer::new().format(millis)).ok()
}

const MAX_MILLIS_DIGITS: usize = 12;
const MOST_MILLIS: u128 = 999_999_999_999;
const MAX_DIGITS: usize = 8;
/// From here on a `grpc-timeout` is in milliseconds, as long as they fit.
pub const IN_MILLIS: Duration = Duration::from_secs(1);
const MAX_AMOUNT: u64 = 99_999_999;
/// What is less than so many seconds can be said in milliseconds.
const MAX_MILLIS_SECONDS: u64 = 100_000;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn place() -> Place {
        Place { file: "f".into(), line: 1, column: 2 }
    }

    fn written(seconds: Option<u64>) -> Setting<Option<Duration>> {
        Setting { value: seconds.map(Duration::from_secs), place: Some(place()) }
    }

    fn default(seconds: Option<u64>) -> Setting<Option<Duration>> {
        Setting { value: seconds.map(Duration::from_secs), place: None }
    }

    fn request(setting: Setting<Option<Duration>>, exchange: Exchange, says: Patience) -> (Option<u64>, &'static str) {
        let timeouts = Timeouts { request: setting, backend_request: default(None), idle: default(None) };
        let Limit { value, source } = limits(&timeouts, exchange, says, Duration::ZERO).request;
        let source = match source {
            Source::Written(_) => "written",
            Source::Default => "default",
            Source::Listener => "listener",
            Source::GrpcTimeout => "grpc-timeout",
            Source::Caller => "caller",
            Source::Streaming => "streaming",
        };
        (value.map(|value| value.as_secs()), source)
    }

    fn grpc(seconds: u64) -> Patience {
        Patience { grpc: Some(Duration::from_secs(seconds)), ..Patience::default() }
    }

    fn deadline(seconds: u64) -> Patience {
        Patience { deadline: Some(Duration::from_secs(seconds)), ..Patience::default() }
    }

    #[test]
    fn the_request_limit_depends_on_the_exchange_and_on_what_was_written() {
        use Exchange::{EventStream, Grpc, Plain, Upgrade};
        let nothing = Patience::default();
        for exchange in [EventStream, Upgrade, Grpc] {
            assert_eq!(request(default(Some(15)), exchange, nothing), (None, "streaming"), "{exchange:?}");
            assert_eq!(request(written(Some(60)), exchange, nothing), (Some(60), "written"), "{exchange:?}");
            assert_eq!(request(written(None), exchange, nothing), (None, "written"), "{exchange:?}");
        }
        assert_eq!(request(default(Some(15)), Plain, nothing), (Some(15), "default"));
        assert_eq!(request(written(None), Plain, nothing), (None, "written"));
        assert_eq!(request(default(Some(15)), Grpc, grpc(40)), (Some(40), "grpc-timeout"), "the default is not for it");
        assert_eq!(request(written(Some(20)), Grpc, grpc(40)), (Some(20), "written"));
        assert_eq!(request(written(Some(20)), Grpc, grpc(5)), (Some(5), "grpc-timeout"));
        assert_eq!(request(written(None), Grpc, grpc(5)), (Some(5), "grpc-timeout"));
    }

    #[test]
    fn a_caller_can_only_shorten() {
        use Exchange::{EventStream, Grpc, Plain, Upgrade};
        assert_eq!(request(default(Some(15)), Plain, deadline(5)), (Some(5), "caller"));
        assert_eq!(request(default(Some(15)), Plain, deadline(40)), (Some(15), "default"));
        assert_eq!(request(written(Some(3)), Plain, deadline(5)), (Some(3), "written"));
        assert_eq!(request(written(None), Plain, deadline(5)), (Some(5), "caller"));
        assert_eq!(request(default(Some(15)), EventStream, deadline(40)), (Some(40), "caller"));
        assert_eq!(request(default(Some(15)), Upgrade, deadline(5)), (None, "streaming"));
        let both = |grpc, deadline| Patience {
            grpc: Some(Duration::from_secs(grpc)),
            deadline: Some(Duration::from_secs(deadline)),
            answer: None,
        };
        assert_eq!(request(default(Some(15)), Grpc, both(4, 5)), (Some(4), "grpc-timeout"));
        assert_eq!(request(default(Some(15)), Grpc, both(5, 4)), (Some(4), "caller"));
    }

    #[test]
    fn the_whole_exchange_ends_with_the_callers_deadline_also_under_the_default() {
        let whole = |setting, says| {
            let timeouts = Timeouts { request: setting, backend_request: default(None), idle: default(None) };
            let limits = limits(&timeouts, Exchange::Plain, says, Duration::ZERO);
            (limits.whole().map(|d| d.as_secs()), limits.default_answer().map(|d| d.as_secs()))
        };
        assert_eq!(whole(default(Some(15)), Patience::default()), (None, Some(15)));
        assert_eq!(whole(default(Some(15)), deadline(40)), (Some(40), Some(15)));
        assert_eq!(whole(default(Some(15)), deadline(5)), (Some(5), None));
        assert_eq!(whole(written(Some(20)), deadline(40)), (Some(20), None));
    }

    #[test]
    fn idle_is_the_listeners_unless_written() {
        let idle = |idle, listener| {
            let timeouts = Timeouts { request: default(None), backend_request: written(Some(1)), idle };
            let limits = limits(&timeouts, Exchange::Plain, Patience::default(), Duration::from_secs(listener));
            assert_eq!(limits.attempt.value, Some(Duration::from_secs(1)));
            (limits.idle.value.map(|value| value.as_secs()), limits.idle.source == Source::Listener)
        };
        assert_eq!(idle(default(None), 300), (Some(300), true));
        assert_eq!(idle(default(None), 0), (None, true));
        assert_eq!(idle(written(Some(7)), 300), (Some(7), false));
        assert_eq!(idle(written(None), 300), (None, false));
    }

    #[test]
    fn grpc_timeouts_are_parsed_as_specified() {
        for (text, nanos) in [
            ("1H", 3_600_000_000_000),
            ("2M", 120_000_000_000),
            ("15S", 15_000_000_000),
            ("250m", 250_000_000),
            ("3u", 3_000),
            ("99999999n", 99_999_999),
            ("0S", 0),
            ("00000001n", 1),
            ("99999999H", 359_999_996_400_000_000_000),
        ] {
            assert_eq!(parse_grpc_timeout(text.as_bytes()).map(|d| d.as_nanos()), Ok(nanos), "{text}");
        }
        for text in ["", "S", "1", "100000000n", "1s", "1h", "-1S", "+1S", "1.5S", " 1S", "1S ", "1 S", "1SS", "٣S"] {
            assert_eq!(parse_grpc_timeout(text.as_bytes()), Err(BadGrpcTimeout), "{text}");
        }
    }

    #[test]
    fn grpc_timeouts_are_formatted_exactly_below_a_second_and_in_milliseconds_above() {
        let nanos = |nanos| Duration::from_nanos(nanos);
        for (left, text) in [
            (nanos(1), "1n"),
            (nanos(99_999_999), "99999999n"),
            (nanos(100_000_000), "100000u"),
            (nanos(100_000_999), "100000u"),
            (nanos(999_999_999), "999999u"),
            (nanos(1_000_000_000), "1000m"),
            (nanos(14_999_900_000), "14999m"),
            (Duration::from_millis(99_999_999), "99999999m"),
            (Duration::from_secs(100_000), "100000S"),
            (Duration::from_secs(100_000_001), "1666666M"),
            (Duration::from_secs(360_000_000_000), "99999999H"),
            (Duration::MAX, "99999999H"),
        ] {
            let value = format_grpc_timeout(left).expect("not zero");
            assert_eq!(value, text, "{left:?}");
        }
        assert_eq!(format_grpc_timeout(Duration::ZERO), None);
    }

    #[test]
    fn milliseconds_are_digits_and_nothing_else() {
        for (text, millis) in [("0", 0), ("1", 1), ("007", 7), ("250", 250), ("999999999999", 999_999_999_999)] {
            assert_eq!(parse_millis(text.as_bytes()), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "-1", "+1", "1.5", " 1", "1 ", "1e3", "0x10", "1000000000000", "5s", "٣"] {
            assert_eq!(parse_millis(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn milliseconds_are_rounded_down_and_none_are_none() {
        for (left, text) in [
            (Duration::from_millis(1), Some("1")),
            (Duration::from_micros(2_999), Some("2")),
            (Duration::MAX, Some("999999999999")),
            (Duration::from_micros(999), None),
            (Duration::ZERO, None),
        ] {
            assert_eq!(format_millis(left), text.map(HeaderValue::from_static), "{left:?}");
        }
    }

    proptest! {
        #[test]
        fn formatting_loses_less_than_a_thousandth_and_never_adds(nanos in 1..u64::MAX) {
            let left = Duration::from_nanos(nanos);
            let text = format_grpc_timeout(left).expect("not zero");
            let read = parse_grpc_timeout(text.as_bytes()).expect("what we format, we parse");
            prop_assert!(read <= left, "{read:?} of {left:?}");
            let exact = if left < Duration::from_secs(1) { 100_000 } else { 1_000 };
            prop_assert!(left - read < left / exact, "{read:?} of {left:?}");
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let _ = parse_grpc_timeout(&bytes);
            let _ = parse_millis(&bytes);
        }
    }
}
