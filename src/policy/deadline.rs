//! Time limits of a request, and `grpc-timeout` (gRPC over HTTP/2, "Timeout").
//!
//! Every limit knows where it comes from, so that it can be explained.

use std::time::{Duration, Instant};

use http::HeaderValue;
use outrigger_config::model::{Place, Setting, Timeouts};
use thiserror::Error;

/// What the time limits of a request depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exchange {
    /// A request and its response.
    Plain,
    /// A gRPC call, with the caller's `grpc-timeout`. It may be a long stream, so only the caller's deadline and
    /// what was written in the configuration bound it.
    Grpc(Option<Duration>),
    /// A stream of server-sent events (`accept: text/event-stream`).
    EventStream,
    /// An upgrade or tunnel.
    Upgrade,
}

/// The limits of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits<'a> {
    /// From the end of the request head to the end of the response, retries included.
    pub request: Limit<'a>,
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
    /// The default does not apply to exchanges that may stream.
    Streaming,
}

/// The limits that apply to an exchange. `listener_idle` is the listener's idle limit of a stream; zero is none.
#[must_use]
pub fn limits<'a>(timeouts: &'a Timeouts, exchange: Exchange, listener_idle: Duration) -> Limits<'a> {
    let Timeouts { request, backend_request, idle } = timeouts;
    let idle = match idle.place {
        Some(_) => setting(idle),
        None => Limit { value: (!listener_idle.is_zero()).then_some(listener_idle), source: Source::Listener },
    };
    Limits { request: request_limit(request, exchange), attempt: setting(backend_request), idle }
}

fn request_limit(written: &Setting<Option<Duration>>, exchange: Exchange) -> Limit<'_> {
    let configured = match (exchange, &written.place) {
        (Exchange::Plain, _) | (_, Some(_)) => setting(written),
        (Exchange::Grpc(_) | Exchange::EventStream | Exchange::Upgrade, None) => {
            Limit { value: None, source: Source::Streaming }
        }
    };
    match exchange {
        Exchange::Grpc(Some(callers)) if configured.value.is_none_or(|limit| callers < limit) => {
            Limit { value: Some(callers), source: Source::GrpcTimeout }
        }
        Exchange::Plain | Exchange::Grpc(_) | Exchange::EventStream | Exchange::Upgrade => configured,
    }
}

fn setting(setting: &Setting<Option<Duration>>) -> Limit<'_> {
    let source = setting.place.as_ref().map_or(Source::Default, Source::Written);
    Limit { value: setting.value, source }
}

/// What a gRPC upstream is told of the time that is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Forwarded {
    /// There is no deadline, so no `grpc-timeout`.
    Unlimited,
    /// This `grpc-timeout`.
    Timeout(HeaderValue),
    /// Nothing is left: the attempt is not worth making.
    Expired,
}

/// The `grpc-timeout` of an attempt that must end at `deadline`.
#[must_use]
pub fn forward(deadline: Option<Instant>, now: Instant) -> Forwarded {
    match deadline {
        None => Forwarded::Unlimited,
        Some(deadline) => {
            let left = deadline.saturating_duration_since(now);
            format_grpc_timeout(left).map_or(Forwarded::Expired, Forwarded::Timeout)
        }
    }
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

/// Formats a `grpc-timeout` in the finest unit that eight digits allow, rounding down: the next hop never believes
/// that it has more time than there is. `None` for zero: the deadline has passed.
#[must_use]
pub fn format_grpc_timeout(left: Duration) -> Option<HeaderValue> {
    if left.is_zero() {
        return None;
    }
    let nanos = left.as_nanos();
    let (unit, length) = UNITS.iter().find(|(_, length)| nanos / length <= MAX_AMOUNT).unwrap_or(&LONGEST);
    let mut digits = itoa::Buffer::new();
    let digits = digits.format((nanos / length).min(MAX_AMOUNT)).as_bytes();
    let mut text = [0; MAX_DIGITS + 1];
    text[..digits.len()].copy_from_slice(digits);
    text[digits.len()] = *unit;
    HeaderValue::from_bytes(&text[..=digits.len()]).ok()
}

const MAX_DIGITS: usize = 8;
const MAX_AMOUNT: u128 = 99_999_999;
/// From fine to coarse, in nanoseconds.
const UNITS: [(u8, u128); 6] =
    [(b'n', 1), (b'u', 1_000), (b'm', 1_000_000), (b'S', 1_000_000_000), (b'M', 60_000_000_000), LONGEST];
const LONGEST: (u8, u128) = (b'H', 3_600_000_000_000);

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

    fn request(setting: Setting<Option<Duration>>, exchange: Exchange) -> (Option<u64>, &'static str) {
        let timeouts = Timeouts { request: setting, backend_request: default(None), idle: default(None) };
        let Limit { value, source } = limits(&timeouts, exchange, Duration::ZERO).request;
        let source = match source {
            Source::Written(_) => "written",
            Source::Default => "default",
            Source::Listener => "listener",
            Source::GrpcTimeout => "grpc-timeout",
            Source::Streaming => "streaming",
        };
        (value.map(|value| value.as_secs()), source)
    }

    #[test]
    fn the_request_limit_depends_on_the_exchange_and_on_what_was_written() {
        use Exchange::{EventStream, Grpc, Plain, Upgrade};
        let grpc = |seconds| Grpc(Some(Duration::from_secs(seconds)));
        for exchange in [EventStream, Upgrade, Grpc(None)] {
            assert_eq!(request(default(Some(15)), exchange), (None, "streaming"), "{exchange:?}");
            assert_eq!(request(written(Some(60)), exchange), (Some(60), "written"), "{exchange:?}");
            assert_eq!(request(written(None), exchange), (None, "written"), "{exchange:?}");
        }
        assert_eq!(request(default(Some(15)), Plain), (Some(15), "default"));
        assert_eq!(request(written(None), Plain), (None, "written"));
        assert_eq!(request(default(Some(15)), grpc(40)), (Some(40), "grpc-timeout"), "the default does not shorten it");
        assert_eq!(request(written(Some(20)), grpc(40)), (Some(20), "written"));
        assert_eq!(request(written(Some(20)), grpc(5)), (Some(5), "grpc-timeout"));
        assert_eq!(request(written(None), grpc(5)), (Some(5), "grpc-timeout"));
    }

    #[test]
    fn idle_is_the_listeners_unless_written() {
        let idle = |idle, listener| {
            let timeouts = Timeouts { request: default(None), backend_request: written(Some(1)), idle };
            let limits = limits(&timeouts, Exchange::Plain, Duration::from_secs(listener));
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
    fn grpc_timeouts_are_formatted_in_the_finest_unit_that_fits() {
        let nanos = |nanos| Duration::from_nanos(nanos);
        for (left, text) in [
            (nanos(1), "1n"),
            (nanos(99_999_999), "99999999n"),
            (nanos(100_000_000), "100000u"),
            (nanos(100_000_999), "100000u"),
            (Duration::from_secs(15), "15000000u"),
            (Duration::from_secs(100), "100000m"),
            (Duration::from_secs(100_000), "100000S"),
            (Duration::from_secs(100_000_001), "1666666M"),
            (Duration::from_secs(360_000_000_000), "99999999H"),
            (Duration::MAX, "99999999H"),
        ] {
            assert_eq!(format_grpc_timeout(left), Some(HeaderValue::from_static(text)), "{left:?}");
        }
    }

    #[test]
    fn what_is_left_is_forwarded_and_nothing_is_expired() {
        let now = Instant::now();
        assert_eq!(forward(None, now), Forwarded::Unlimited);
        assert_eq!(forward(Some(now), now), Forwarded::Expired);
        assert_eq!(forward(Some(now), now + Duration::from_secs(1)), Forwarded::Expired);
        let left = forward(Some(now + Duration::from_micros(5)), now);
        assert_eq!(left, Forwarded::Timeout(HeaderValue::from_static("5000n")));
    }

    proptest! {
        #[test]
        fn formatting_loses_less_than_one_part_in_a_million_and_never_adds(nanos in 1..u64::MAX) {
            let left = Duration::from_nanos(nanos);
            let text = format_grpc_timeout(left).expect("not zero");
            let read = parse_grpc_timeout(text.as_bytes()).expect("what we format, we parse");
            prop_assert!(read <= left, "{read:?} of {left:?}");
            prop_assert!(left - read <= left / 600_000, "{read:?} of {left:?}");
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let _ = parse_grpc_timeout(&bytes);
        }
    }
}
