//! What is known of HTTP/3 at an endpoint, for all workers: the rule is `policy::alternative`, and this is where a request
//! looks without a lock.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::header::{ALT_SVC, HeaderMap};
use parking_lot::Mutex;

use crate::policy::alternative::{Alternative, Said, Standing, parse};

/// See the module.
#[derive(Debug)]
pub struct Http3Known {
    rule: Mutex<Alternative>,
    /// Instants are kept in nanoseconds after this.
    epoch: Instant,
    generation: AtomicU32,
    /// Until when connections may be used; zero: they may not.
    usable_until: AtomicU64,
    /// From when on one may be tried; `u64::MAX`: nobody knows.
    triable_from: AtomicU64,
    /// What was said last, so that saying it again costs little.
    said: AtomicU64,
}

/// One that is about to be tried, or was made. It goes on to be used while no other of its generation has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attempt {
    pub(super) port: u16,
    pub(super) generation: u32,
}

impl Http3Known {
    pub(super) fn new(epoch: Instant) -> Self {
        Self {
            rule: Mutex::default(),
            epoch,
            generation: AtomicU32::new(0),
            usable_until: AtomicU64::new(0),
            triable_from: AtomicU64::new(u64::MAX),
            said: AtomicU64::new(0),
        }
    }

    /// Learns from an answer of the endpoint, to a request for `host`.
    pub(super) fn learn(&self, headers: &HeaderMap, host: Option<&str>, now: Instant) {
        let lines = headers.get_all(ALT_SVC).into_iter().map(http::HeaderValue::as_bytes);
        let Some(said) = parse(lines, host) else { return };
        if !self.is_old_news(said, now) {
            self.change(now, |rule| {
                rule.learn(said, now);
                self.said.store(word(said), Ordering::Relaxed);
            });
        }
    }

    /// Nearly all answers say what the one before said. What is renewed is so when half of it is over.
    fn is_old_news(&self, said: Said, now: Instant) -> bool {
        if self.said.load(Ordering::Relaxed) != word(said) {
            return false;
        }
        match said {
            Said::Nothing => true,
            Said::Http3 { max_age, .. } => self.usable_until.load(Ordering::Relaxed) > self.nanos(now + max_age / 2),
        }
    }

    /// Whether connections may be used now.
    pub(super) fn is_usable(&self, now: Instant) -> bool {
        let until = self.usable_until.load(Ordering::Relaxed);
        until != 0 && self.nanos(now) < until
    }

    /// Whether none of this generation has failed.
    pub(super) fn is_current(&self, generation: u32) -> bool {
        self.generation.load(Ordering::Relaxed) == generation
    }

    /// A connection may be tried: it is about to be. Followed by [`Self::made`], [`Self::failed`] or [`Self::abandoned`].
    pub(super) fn begin(&self, now: Instant) -> Option<Attempt> {
        if !self.is_usable(now) || self.nanos(now) < self.triable_from.load(Ordering::Relaxed) {
            return None;
        }
        self.change(now, |rule| {
            let port = rule.begin(now)?;
            Some(Attempt { port, generation: rule.generation() })
        })
    }

    /// It was made. Whether it may be used.
    pub(super) fn made(&self, attempt: Attempt, now: Instant) -> bool {
        self.change(now, |rule| rule.made(attempt.generation, now))
    }

    /// It was given up before its end.
    pub(super) fn abandoned(&self, attempt: Attempt, now: Instant) {
        self.change(now, |rule| rule.abandon(attempt.generation));
    }

    /// It failed, before it was made or after. For how long it is left alone, if that is news.
    pub(super) fn failed(&self, attempt: Attempt, now: Instant, random: u64) -> Option<Duration> {
        self.change(now, |rule| {
            let news = rule.fail(attempt.generation, now, random);
            match rule.standing(now) {
                Standing::Broken { until } if news => Some(until.saturating_duration_since(now)),
                _ => None,
            }
        })
    }

    /// How things stand.
    pub(super) fn standing(&self, now: Instant) -> Standing {
        self.rule.lock().standing(now)
    }

    fn change<T>(&self, now: Instant, with: impl FnOnce(&mut Alternative) -> T) -> T {
        let mut rule = self.rule.lock();
        let outcome = with(&mut rule);
        self.generation.store(rule.generation(), Ordering::Relaxed);
        self.usable_until.store(rule.usable_until(now).map_or(0, |until| self.nanos(until)), Ordering::Relaxed);
        let triable_from = match rule.usable_until(now) {
            Some(_) => rule.triable_from().map_or(0, |from| self.nanos(from)),
            None => u64::MAX,
        };
        self.triable_from.store(triable_from, Ordering::Relaxed);
        outcome
    }

    fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX)
    }
}

/// The same for the same, and never zero.
fn word(said: Said) -> u64 {
    match said {
        Said::Nothing => 1,
        Said::Http3 { port, max_age } => (max_age.as_secs() << 17) | (u64::from(port) << 1),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(lines: &[&'static str]) -> HeaderMap {
        lines.iter().map(|line| (ALT_SVC, HeaderValue::from_static(line))).collect()
    }

    fn known(now: Instant, line: &'static str) -> Http3Known {
        let known = Http3Known::new(now);
        known.learn(&headers(&[line]), Some("shop.test"), now);
        known
    }

    #[test]
    fn what_an_answer_says_is_known_until_it_ends_or_another_says_otherwise() {
        let now = Instant::now();
        let known = known(now, r#"h3=":8443"; ma=60"#);
        let first = Attempt { port: 8443, generation: 0 };
        assert_eq!((known.is_usable(now), known.begin(now)), (true, Some(first)));
        known.learn(&headers(&[]), None, now);
        known.learn(&headers(&["no such thing"]), None, now);
        assert!(known.is_usable(now), "nothing was said");
        let end = now + Duration::from_secs(60);
        assert_eq!((known.is_usable(end), known.begin(end)), (false, None));
        known.learn(&headers(&["clear"]), None, now);
        assert_eq!((known.is_usable(now), known.begin(now)), (false, None));
        known.learn(&headers(&[r#"h3=":8443"; ma=60"#]), None, now);
        assert!(known.is_usable(now));
    }

    #[test]
    fn what_is_said_again_lasts_longer() {
        let now = Instant::now();
        let line = r#"h3=":8443"; ma=60"#;
        let known = known(now, line);
        for seconds in [20, 40, 60, 80, 100, 120] {
            let now = now + Duration::from_secs(seconds);
            assert!(known.is_usable(now), "after {seconds} s");
            known.learn(&headers(&[line]), None, now);
        }
        assert!(known.is_usable(now + Duration::from_secs(149)));
    }

    #[test]
    fn after_a_failure_none_of_its_time_is_used_and_none_is_tried_for_a_while() {
        let now = Instant::now();
        let known = known(now, r#"h3=":8443""#);
        let attempt = known.begin(now).expect("it is advertised");
        assert!(known.made(attempt, now) && known.is_current(attempt.generation));
        let pause = known.failed(attempt, now, 0).expect("news");
        assert_eq!(known.failed(attempt, now, 0), None, "known already");
        assert!(!known.is_current(attempt.generation) && !known.made(attempt, now));
        assert_eq!(known.begin(now), None);
        let next = known.begin(now + pause).expect("the pause is over");
        assert_eq!(known.begin(now + pause), None, "one is under way");
        known.abandoned(next, now + pause);
        let next = known.begin(now + pause).expect("it was given up");
        assert!(known.made(next, now + pause) && known.is_current(next.generation));
        assert!(known.begin(now + pause).is_some());
    }
}
