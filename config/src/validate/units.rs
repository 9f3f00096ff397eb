//! Durations and sizes. Strict, because a unit that two people read differently is an outage: `64KB` may be 64,000
//! or 65,536 bytes and `10` may be seconds or milliseconds, so neither is taken; the fix says what to write instead.

use std::time::{Duration, SystemTime};

use super::Wrong;
use crate::limits::MAX_HOURS;
use crate::text::quoted;

/// `1h30m`, `2s`, `250ms`, `500us`: the format of the Gateway API (GEP-2257), with microseconds.
pub(super) fn duration(text: &str) -> Result<Duration, Wrong> {
    let wrong = |fix: String| Err(Wrong::new(format!("`{}` is not a duration", quoted(text)), fix));
    let mut rest = text;
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return wrong("write a number with its unit, such as `2s` or `250ms`".to_owned());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let unit_len = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let micros: u64 = match unit {
            "us" => 1,
            "ms" => 1_000,
            "s" => 1_000_000,
            "m" => 60_000_000,
            "h" => 3_600_000_000,
            _ => return wrong(suggest_duration(text)),
        };
        let part = number.parse::<u64>().ok().and_then(|n| n.checked_mul(micros)).map(Duration::from_micros);
        let Some(sum) = part.and_then(|part| total.checked_add(part)) else {
            return if number.is_empty() { wrong(suggest_duration(text)) } else { Err(too_long(text)) };
        };
        total = sum;
        rest = tail;
    }
    if total > Duration::from_secs(MAX_HOURS * 3600) { Err(too_long(text)) } else { Ok(total) }
}

fn too_long(text: &str) -> Wrong {
    Wrong::new(format!("`{}` is longer than any limit may be", quoted(text)), format!("write at most `{MAX_HOURS}h`"))
}

/// What was probably meant by something that is almost a duration.
fn suggest_duration(text: &str) -> String {
    let general = "write a whole number with its unit (h, m, s, ms, us), such as `2s` or `250ms`";
    let text = text.trim();
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = match unit.trim().to_ascii_lowercase().as_str() {
        "" => {
            return match number.parse::<u64>() {
                Ok(0) => "write `0s`".to_owned(),
                Ok(n) => format!("add the unit: `{n}s` for seconds, `{n}ms` for milliseconds"),
                Err(_) => general.to_owned(),
            };
        }
        "us" | "µs" | "usec" | "micros" | "microsecond" | "microseconds" => "us",
        "ms" | "msec" | "msecs" | "millis" | "millisecond" | "milliseconds" => "ms",
        "s" | "sec" | "secs" | "second" | "seconds" => "s",
        "m" | "min" | "mins" | "minute" | "minutes" => "m",
        "h" | "hr" | "hrs" | "hour" | "hours" => "h",
        "d" | "day" | "days" => {
            return match number.parse::<u64>().ok().and_then(|n| n.checked_mul(24)) {
                Some(hours) => format!("write it in hours: `{hours}h`"),
                None => general.to_owned(),
            };
        }
        _ => return general.to_owned(),
    };
    match (number.parse::<u64>(), fraction(number, unit)) {
        (Ok(number), _) => format!("write `{number}{unit}`"),
        (_, Some(exact)) => format!("write a whole number: `{exact}`"),
        _ => general.to_owned(),
    }
}

/// `1.5` seconds as `1500ms`, where that is exact.
fn fraction(number: &str, unit: &str) -> Option<String> {
    let (whole, part) = number.split_once('.')?;
    let (next, factor) = match unit {
        "h" => ("m", 60),
        "m" => ("s", 60),
        "s" => ("ms", 1000),
        "ms" => ("us", 1000),
        _ => return None,
    };
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let scale = 10u64.checked_pow(u32::try_from(part.len()).ok()?)?;
    let scaled = part.parse::<u64>().ok()?.checked_mul(factor)?;
    let exact = scaled.is_multiple_of(scale);
    exact.then(|| Some(format!("{}{next}", whole.checked_mul(factor)?.checked_add(scaled / scale)?))).flatten()
}

/// `64KiB`, `1MiB`, `512B`: binary multiples only.
pub(super) fn size(text: &str) -> Result<u64, Wrong> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(Wrong::new(format!("`{}` is not a size", quoted(text)), suggest_size(number, unit))),
    };
    match number.parse::<u64>().ok().map(|n| n.checked_mul(factor)) {
        Some(Some(bytes)) => Ok(bytes),
        Some(None) => Err(Wrong::new(format!("`{}` is too large", quoted(text)), "write a smaller size")),
        None => Err(Wrong::new(
            format!("`{}` is not a size", quoted(text)),
            "write a whole number with its unit, such as `64KiB`",
        )),
    }
}

fn suggest_size(number: &str, unit: &str) -> String {
    let general = "write a whole number with its unit (B, KiB, MiB, GiB), such as `64KiB`".to_owned();
    let Ok(n) = number.parse::<u64>() else { return general };
    let (binary, decimal) = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" | "byte" | "bytes" => return format!("add the unit: `{}`", show_size(n)),
        "k" | "kb" | "kib" | "ki" => ("KiB", 1_000u64),
        "m" | "mb" | "mib" | "mi" => ("MiB", 1_000_000),
        "g" | "gb" | "gib" | "gi" => ("GiB", 1_000_000_000),
        _ => return general,
    };
    match n.checked_mul(decimal) {
        // The unit was binary and only spelled differently.
        Some(_) if unit.to_ascii_lowercase().contains('i') => format!("write `{n}{binary}`"),
        Some(bytes) => {
            format!("say which multiple is meant: `{n}{binary}` counts by 1024, `{bytes}B` by 1000")
        }
        None => general,
    }
}

/// A number of bytes in the largest unit that is exact.
pub(super) fn show_size(bytes: u64) -> String {
    for (unit, factor) in [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= factor && bytes.is_multiple_of(factor) {
            return format!("{}{unit}", bytes / factor);
        }
    }
    format!("{bytes}B")
}

/// `0.5`, `50`: a decimal number with at most `digits` after the point, as a whole number of its last ones.
pub(super) fn decimal(text: &str, digits: u32) -> Result<u64, Wrong> {
    let wrong = |fix: String| Err(Wrong::new(format!("`{}` is not a number", quoted(text)), fix));
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !plain(whole) || !plain(part) {
        return wrong("write a number such as `0.5` or `25`, without sign and unit".to_owned());
    }
    let part = part.trim_end_matches('0');
    let missing = usize::try_from(digits).ok().and_then(|digits| digits.checked_sub(part.len()));
    let Some(missing) = missing else {
        return Err(Wrong::new(
            format!("`{}` is more exact than it can be", quoted(text)),
            format!("write at most {digits} {} after the point", if digits == 1 { "digit" } else { "digits" }),
        ));
    };
    let scaled = format!("{whole}{part}{}", "0".repeat(missing)).parse::<u64>().ok();
    scaled.map_or_else(|| wrong("write a smaller number".to_owned()), Ok)
}

/// A duration as it would be written, without parts below microseconds.
pub(crate) fn show_duration(value: Duration) -> String {
    let micros = value.as_micros();
    for (unit, factor) in [("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000)] {
        if micros >= factor && micros.is_multiple_of(factor) {
            return format!("{}{unit}", micros / factor);
        }
    }
    format!("{micros}us")
}

/// The inverse of [`decimal`].
pub(crate) fn show_decimal(value: u64, digits: u32) -> String {
    let scale = 10u64.pow(digits);
    let (whole, part) = (value / scale, value % scale);
    if part == 0 {
        return whole.to_string();
    }
    let part = format!("{part:0width$}", width = usize::try_from(digits).unwrap_or_default());
    format!("{whole}.{}", part.trim_end_matches('0'))
}

/// A moment, `2030-01-31T12:00:00Z` (RFC 3339), from 1970 on.
pub(crate) fn timestamp(text: &str) -> Result<SystemTime, Wrong> {
    let wrong = |fix: &str| Err(Wrong::new(format!("`{}` is not a moment", quoted(text)), fix));
    let general = "write date, time and zone: `2030-01-31T12:00:00Z`, or with an offset: `2030-01-31T13:00:00+01:00`";
    let Some(Stamp { date: (year, month, day), time: (hour, minute, second), nanos, offset }) = stamp(text) else {
        let dated = text.len() >= 10 && text.bytes().take(10).all(|b| b.is_ascii_digit() || b == b'-');
        return if dated && !text.contains(['Z', 'z', '+']) {
            wrong("add the time and the zone: `2030-01-31T12:00:00Z`")
        } else {
            wrong(general)
        };
    };
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let length = month.checked_sub(1).and_then(|at| days.get(usize::try_from(at).unwrap_or(usize::MAX)));
    if length.is_none_or(|length| day == 0 || day > *length) {
        return wrong("there is no such day");
    }
    if hour > 23 || minute > 59 || second > 59 {
        return wrong("hours go to 23, minutes and seconds to 59");
    }
    let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second - offset;
    match u64::try_from(seconds) {
        Ok(seconds) => Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_nanos(nanos)),
        Err(_) => wrong("write a moment from 1970 on"),
    }
}

struct Stamp {
    date: (i64, i64, i64),
    time: (i64, i64, i64),
    nanos: u64,
    /// Seconds that the zone is ahead of UTC.
    offset: i64,
}

/// The parts of a moment, each of the right form.
fn stamp(text: &str) -> Option<Stamp> {
    let number = |from: usize, to: usize| {
        let digits = text.get(from..to)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<i64>().ok()).flatten()
    };
    let sign = |at: usize, is: &[u8]| text.as_bytes().get(at).is_some_and(|b| is.contains(b)).then_some(());
    let date = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let time = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    for (at, is) in [(4, &b"-"[..]), (7, b"-"), (10, b"Tt"), (13, b":"), (16, b":")] {
        sign(at, is)?;
    }
    let rest = text.get(19..)?;
    let (nanos, zone) = match rest.strip_prefix('.') {
        None => (0, rest),
        Some(fraction) => {
            let digits = fraction.find(|c: char| !c.is_ascii_digit())?;
            let (digits, zone) = fraction.split_at(digits);
            if digits.is_empty() || digits.len() > 9 {
                return None;
            }
            (format!("{digits:0<9}").parse().ok()?, zone)
        }
    };
    let offset = match zone.as_bytes() {
        [b'Z' | b'z'] => 0,
        [ahead @ (b'+' | b'-'), _, _, b':', _, _] => {
            let at = text.len() - 5;
            let (hours, minutes) = (number(at, at + 2)?, number(at + 3, at + 5)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let seconds = hours * 3_600 + minutes * 60;
            if *ahead == b'+' { seconds } else { -seconds }
        }
        _ => return None,
    };
    Some(Stamp { date, time, nanos, offset })
}

/// Days from 1970-01-01 to a day of the Gregorian calendar. Years are counted from March, so that the day that leap
/// years have more is their last one.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month > 2 { year } else { year - 1 };
    let days_before_month = (153 * ((month + 9) % 12) + 2) / 5;
    let days_before_year = year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    days_before_year + days_before_month + day - 1 - DAYS_TO_1970
}

/// Days from March 1 of the year 0 to January 1, 1970.
const DAYS_TO_1970: i64 = 719_468;

/// The inverse of [`timestamp`], in UTC; a moment before 1970 is the beginning of it.
pub(crate) fn show_timestamp(moment: SystemTime) -> String {
    let since = moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let days = i64::try_from(days).unwrap_or(i64::MAX / 1_000_000);
    // A year estimated from the mean length, then put right: the estimate is off by one at most.
    let mut year = 1970 + days * 400 / 146_097;
    while days_since_1970(year, 1, 1) > days {
        year -= 1;
    }
    while days_since_1970(year + 1, 1, 1) <= days {
        year += 1;
    }
    let month = (1..=12).rev().find(|month| days_since_1970(year, *month, 1) <= days).unwrap_or(1);
    let day = days - days_since_1970(year, month, 1) + 1;
    let fraction = match since.subsec_nanos() {
        0 => String::new(),
        nanos => format!(".{}", format!("{nanos:09}").trim_end_matches('0')),
    };
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_add_up_their_parts() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert_eq!(duration("500us"), Ok(Duration::from_micros(500)));
    }

    #[test]
    fn a_wrong_duration_is_answered_with_the_right_one() {
        let fix = |text| duration(text).expect_err(text).fix;
        assert_eq!(fix("2 sec"), "write `2s`");
        assert_eq!(fix("2 s"), "write `2s`");
        assert_eq!(fix("2S"), "write `2s`");
        assert_eq!(fix("10"), "add the unit: `10s` for seconds, `10ms` for milliseconds");
        assert_eq!(fix("0"), "write `0s`");
        assert_eq!(fix("1.5s"), "write a whole number: `1500ms`");
        assert_eq!(fix("0.25h"), "write a whole number: `15m`");
        assert_eq!(fix("2d"), "write it in hours: `48h`");
        assert!(fix("-1s").contains("such as `2s`"));
        assert!(fix("soon").contains("such as `2s`"));
        assert!(fix("").contains("such as `2s`"));
        assert!(fix("s").contains("such as `2s`"));
        assert!(fix("99999999999999999999s").contains("at most"));
        assert!(fix("100000h").contains("at most"));
    }

    #[test]
    fn decimals_are_exact_to_their_last_digit() {
        for (text, value) in [("0.5", 5_000), ("50", 500_000), ("0.0001", 1), ("100.0000", 1_000_000), ("1.50", 15_000)]
        {
            assert_eq!(decimal(text, 4), Ok(value), "{text}");
            assert_eq!(decimal(&show_decimal(value, 4), 4), Ok(value));
        }
        assert!(decimal("0.00001", 4).expect_err("too exact").fix.contains("4 digits"));
        for bad in ["", ".5", "5.", "-1", "+1", "1e3", "1,5", "50%", "99999999999999999999"] {
            assert!(decimal(bad, 4).is_err(), "{bad}");
        }
        assert_eq!((show_decimal(5_000, 4), show_decimal(20, 1)), ("0.5".to_owned(), "2".to_owned()));
    }

    #[test]
    fn moments_are_read_with_their_zone_and_shown_in_utc() {
        let seconds = |text: &str| {
            let moment = timestamp(text).unwrap_or_else(|wrong| panic!("{text}: {wrong:?}"));
            moment.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs()
        };
        for (text, unix) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00Z", 951_825_600),
            ("2024-12-31T23:59:59Z", 1_735_689_599),
            ("2030-01-31T12:00:00Z", 1_896_091_200),
            ("2100-03-01T00:00:00Z", 4_107_542_400),
        ] {
            assert_eq!(seconds(text), unix, "{text}");
            assert_eq!(show_timestamp(timestamp(text).expect(text)), text);
        }
        assert_eq!(seconds("2030-01-31T13:30:00+01:30"), 1_896_091_200);
        assert_eq!(seconds("2030-01-31t11:00:00-01:00"), 1_896_091_200);
        assert_eq!(show_timestamp(timestamp("2030-01-31T12:00:00.250Z").expect("fraction")), "2030-01-31T12:00:00.25Z");
        for bad in [
            "",
            "tomorrow",
            "2030-01-31",
            "2030-01-31T12:00:00",
            "2030-13-01T00:00:00Z",
            "2023-02-29T00:00:00Z",
            "2030-01-31 12:00:00Z",
            "2030-01-31T24:00:00Z",
            "2030-01-31T12:00:00+0100",
            "1969-12-31T00:00:00Z",
            "2030-01-31T12:00:00.Z",
            "2030-00-10T00:00:00Z",
            "2030-01-00T00:00:00Z",
            "+030-01-31T12:00:00Z",
        ] {
            assert!(timestamp(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_count_by_1024_and_say_so() {
        assert_eq!(size("64KiB"), Ok(65_536));
        assert_eq!(size("1MiB"), Ok(1 << 20));
        assert_eq!(size("512B"), Ok(512));
        let fix = |text| size(text).expect_err(text).fix;
        assert_eq!(fix("64KB"), "say which multiple is meant: `64KiB` counts by 1024, `64000B` by 1000");
        assert_eq!(fix("64k"), "say which multiple is meant: `64KiB` counts by 1024, `64000B` by 1000");
        assert_eq!(fix("64kib"), "write `64KiB`");
        assert_eq!(fix("65536"), "add the unit: `64KiB`");
        assert_eq!(fix("1000"), "add the unit: `1000B`");
        assert!(fix("-1KiB").contains("such as `64KiB`"));
        assert!(fix("99999999999GiB").contains("smaller"));
    }
}
