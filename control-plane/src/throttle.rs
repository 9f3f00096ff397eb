//! How much of what is refused is put down: a token bucket, so that nobody fills the disk by asking, or pushes what others
//! did out of the audit log.

use std::time::Instant;

use parking_lot::Mutex;

/// Refusals that are put down at once; more are counted.
const BURST: u32 = 200;
/// Refusals that are put down each second after that.
const PER_SECOND: u32 = 5;
/// Bytes that are put down of what is said of one.
const MAX_DETAIL: usize = 2_048;

/// One door's bucket: a flood at one does not hide what happens at another.
#[derive(Debug)]
pub(crate) struct Throttle(Mutex<Bucket>);

#[derive(Debug)]
struct Bucket {
    level: f64,
    at: Instant,
    skipped: u64,
}

impl Throttle {
    pub(crate) fn new(now: Instant) -> Self {
        Self(Mutex::new(Bucket { level: f64::from(BURST), at: now, skipped: 0 }))
    }

    /// Whether this one is put down, and how many before it were not.
    pub(crate) fn take(&self, now: Instant) -> Option<u64> {
        let mut bucket = self.0.lock();
        let gained = now.saturating_duration_since(bucket.at).as_secs_f64() * f64::from(PER_SECOND);
        bucket.level = (bucket.level + gained).min(f64::from(BURST));
        bucket.at = now;
        if bucket.level < 1.0 {
            bucket.skipped += 1;
            return None;
        }
        bucket.level -= 1.0;
        Some(std::mem::take(&mut bucket.skipped))
    }
}

/// What is put down of a refusal: cut to a length, with how many before it were only counted.
pub(crate) fn told(mut detail: String, skipped: u64) -> String {
    if detail.len() > MAX_DETAIL {
        detail.truncate(detail.floor_char_boundary(MAX_DETAIL));
        detail.push('…');
    }
    if skipped > 0 {
        detail.push_str(&format!(" ({skipped} refusals before this one were only counted)"));
    }
    detail
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn refusals_beyond_the_burst_are_counted_and_told_with_the_next() {
        let start = Instant::now();
        let throttle = Throttle::new(start);
        for _ in 0..BURST {
            assert_eq!(throttle.take(start), Some(0));
        }
        for _ in 0..7 {
            assert_eq!(throttle.take(start), None);
        }
        assert_eq!(throttle.take(start + Duration::from_secs(1)), Some(7));
    }

    #[test]
    fn what_is_long_is_cut_and_what_was_skipped_is_said() {
        assert_eq!(told("no".to_owned(), 0), "no");
        assert_eq!(told("no".to_owned(), 3), "no (3 refusals before this one were only counted)");
        let cut = told("ü".repeat(MAX_DETAIL), 0);
        assert!(cut.len() <= MAX_DETAIL + '…'.len_utf8() && cut.ends_with('…'), "{}", cut.len());
    }
}
