//! What servers say about when to come back.

use std::time::{Duration, SystemTime};

use super::part_of;

/// How long to wait when the server named a time: that long, and up to half of it more, at most 300 s in all.
#[must_use]
pub fn pushback_wait(wait: Duration, random: u64) -> Duration {
    let wait = wait.min(MOST_PUSHBACK);
    wait.saturating_add(part_of(wait / 2, random)).min(MOST_PUSHBACK)
}

/// What a server says about when to come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushback {
    /// After this long, at most 300 s.
    After(Duration),
    /// Not at all ([`super::Outcome::Forbidden`]).
    Never,
}

/// Reads `grpc-retry-pushback-ms` (gRFC A6): a negative number means never, as does what is no number.
#[must_use]
pub fn parse_grpc_pushback(value: &str) -> Pushback {
    match value.trim().parse::<i32>() {
        Ok(millis) => match u64::try_from(millis) {
            Ok(millis) => Pushback::After(Duration::from_millis(millis).min(MOST_PUSHBACK)),
            Err(_) => Pushback::Never,
        },
        Err(_) => Pushback::Never,
    }
}

/// Reads `Retry-After` (RFC 9110 section 10.2.3): seconds, or a date that is compared with `now`. What is neither
/// is ignored.
#[must_use]
pub fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let wait = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // Too many digits for a number are a long time.
        Duration::from_secs(value.parse().unwrap_or(u64::MAX))
    } else {
        httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default()
    };
    Some(wait.min(MOST_PUSHBACK))
}

const MOST_PUSHBACK: Duration = Duration::from_secs(300);
