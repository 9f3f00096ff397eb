//! Wall-clock time as RFC 3339 text in UTC.

use std::time::{SystemTime, UNIX_EPOCH};

/// A moment with milliseconds, e.g. `2026-02-28T23:59:59.123Z`. Times before 1970 count as 1970.
#[must_use]
pub fn rfc3339(at: SystemTime) -> String {
    let mut out = Vec::with_capacity(24);
    push_rfc3339(&mut out, at);
    String::from_utf8_lossy(&out).into_owned()
}

/// Appends `at` with milliseconds, e.g. `2026-02-28T23:59:59.123Z`. Times before 1970 count as 1970.
pub(super) fn push_rfc3339(out: &mut Vec<u8>, at: SystemTime) {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second_of_day) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    for (value, width, end) in [
        (year, 4, b'-'),
        (month, 2, b'-'),
        (day, 2, b'T'),
        (second_of_day / 3600, 2, b':'),
        (second_of_day / 60 % 60, 2, b':'),
        (second_of_day % 60, 2, b'.'),
        (u64::from(since.subsec_millis()), 3, b'Z'),
    ] {
        push_padded(out, value, width);
        out.push(end);
    }
}

/// Appends the last `width` digits of `value`, with zeros in front; at most four.
pub(super) fn push_padded(out: &mut Vec<u8>, value: u64, width: usize) {
    let digit = |place: u64| b'0' + u8::try_from(value / place % 10).unwrap_or(0);
    let digits = [digit(1000), digit(100), digit(10), digit(1)];
    out.extend_from_slice(&digits[digits.len() - width..]);
}

/// The date `days` after 1970-01-01. Years are counted from March, so that the leap day is a year's last and
/// month lengths follow one line (153 days in any five months from March).
fn civil(days: u64) -> (u64, u64, u64) {
    const DAYS_IN_400_YEARS: u64 = 146_097;
    const FROM_0000_03_01: u64 = 719_468;
    let days = days + FROM_0000_03_01;
    let (era, of_era) = (days / DAYS_IN_400_YEARS, days % DAYS_IN_400_YEARS);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn known_moments_are_written_right() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_001, "2024-02-29T23:59:59.001Z"),
            (1_709_251_200_000, "2024-03-01T00:00:00.000Z"),
            (4_102_444_800_000, "2100-01-01T00:00:00.000Z"),
        ] {
            let mut out = Vec::new();
            push_rfc3339(&mut out, UNIX_EPOCH + Duration::from_millis(millis));
            assert_eq!(String::from_utf8_lossy(&out), text);
        }
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let mut before = civil(0);
        for days in 1..150_000 {
            let (year, month, day) = civil(days);
            let next_day = (before.0, before.1, before.2 + 1);
            let next_month = (before.0, before.1 + 1, 1);
            let next_year = (before.0 + 1, 1, 1);
            assert!([next_day, next_month, next_year].contains(&(year, month, day)), "{before:?} {year} {month} {day}");
            before = (year, month, day);
        }
    }
}
