//! Durations and sizes. Strict, because a unit that two people read differently is an outage: `64KB` may be 64,000
//! or 65,536 bytes and `10` may be seconds or milliseconds, so neither is taken; the fix says what to write instead.

use std::time::Duration;

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
