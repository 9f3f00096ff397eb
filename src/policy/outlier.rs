//! Which endpoints are taken out for a time because of what came of requests, how many may be out, and for how long.
//!
//! * **In a row**: so many errors, gateway errors, or failures without an answer. Judged with every answer.
//! * **Success rate**: below the mean of the endpoints by so many standard deviations. Judged once an interval, where
//!   enough endpoints have had enough requests.
//!
//! An ejection lasts the base time times the number of ejections, which goes down again by one for every interval that
//! an endpoint gets through. It ends with the first interval after its time, or when active checks that had failed
//! succeed again: those of an endpoint that is ejected although its checks succeed prove nothing.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use outrigger_config::model::OutlierDetection;

use super::rng::Rng;

/// What one attempt says of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// It answered, and not with an error of its own.
    Success,
    /// It answered with an error other than those of gateways.
    ServerError,
    /// It answered 502, 503 or 504.
    GatewayError,
    /// It did not answer: connect, reset, protocol.
    LocalFailure,
}

/// Why an endpoint is ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Errors in a row.
    ConsecutiveErrors,
    /// Gateway errors in a row.
    ConsecutiveGatewayErrors,
    /// Failures without an answer, in a row.
    ConsecutiveLocalErrors,
    /// Its success rate is far below that of the others.
    SuccessRate,
    /// So is the share of its requests that get an answer.
    LocalSuccessRate,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::ConsecutiveErrors,
        Self::ConsecutiveGatewayErrors,
        Self::ConsecutiveLocalErrors,
        Self::SuccessRate,
        Self::LocalSuccessRate,
    ];

    /// In logs, metrics and `/clusters`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ConsecutiveErrors => "consecutive_errors",
            Self::ConsecutiveGatewayErrors => "consecutive_gateway_errors",
            Self::ConsecutiveLocalErrors => "consecutive_local_errors",
            Self::SuccessRate => "success_rate",
            Self::LocalSuccessRate => "local_success_rate",
        }
    }
}

/// What came of the requests to one endpoint. Shared by all workers; lock-free.
#[derive(Debug, Default)]
pub struct Conduct {
    errors: AtomicU32,
    gateway_errors: AtomicU32,
    local_errors: AtomicU32,
    answers: Window,
    local: Window,
}

impl Conduct {
    /// Counts; a cause when a threshold is reached now. It stays reached until [`Conduct::forgive`].
    pub fn note(&self, evidence: Evidence, settings: &OutlierDetection) -> Option<Cause> {
        let rates = settings.success_rate_min_hosts > 0;
        let split = settings.split_local_origin;
        if rates {
            if !(split && evidence == Evidence::LocalFailure) {
                self.answers.count(evidence == Evidence::Success);
            }
            if split {
                self.local.count(evidence != Evidence::LocalFailure);
            }
        }
        if split && evidence != Evidence::LocalFailure {
            clear(&self.local_errors);
        }
        match evidence {
            Evidence::Success => {
                clear(&self.errors);
                clear(&self.gateway_errors);
                None
            }
            Evidence::ServerError => {
                clear(&self.gateway_errors);
                reached(&self.errors, settings.consecutive_errors).then_some(Cause::ConsecutiveErrors)
            }
            Evidence::LocalFailure if split => {
                reached(&self.local_errors, settings.consecutive_local_errors).then_some(Cause::ConsecutiveLocalErrors)
            }
            Evidence::GatewayError | Evidence::LocalFailure => {
                let gateway = reached(&self.gateway_errors, settings.consecutive_gateway_errors);
                let any = reached(&self.errors, settings.consecutive_errors);
                // The narrower one says more.
                match (gateway, any) {
                    (true, _) => Some(Cause::ConsecutiveGatewayErrors),
                    (false, true) => Some(Cause::ConsecutiveErrors),
                    (false, false) => None,
                }
            }
        }
    }

    /// What was counted in a row towards `cause` begins anew: it was acted upon, or may not be now and is looked at again
    /// after as many failures.
    pub fn forgive(&self, cause: Cause) {
        match cause {
            Cause::ConsecutiveErrors => clear(&self.errors),
            Cause::ConsecutiveGatewayErrors => clear(&self.gateway_errors),
            Cause::ConsecutiveLocalErrors => clear(&self.local_errors),
            Cause::SuccessRate | Cause::LocalSuccessRate => {}
        }
    }

    /// Everything begins anew.
    pub fn reset(&self) {
        for counter in [&self.errors, &self.gateway_errors, &self.local_errors] {
            clear(counter);
        }
        self.take_rates();
    }

    /// Requests since the last call: those that were answered, by whether the answer was good; then all of them, by
    /// whether there was one (with the split).
    pub fn take_rates(&self) -> (Rate, Rate) {
        (self.answers.take(), self.local.take())
    }
}

/// A load first, so that the common case writes nothing that other workers read.
fn clear(counter: &AtomicU32) {
    if counter.load(Relaxed) != 0 {
        counter.store(0, Relaxed);
    }
}

fn reached(counter: &AtomicU32, threshold: u32) -> bool {
    let count = counter.fetch_update(Relaxed, Relaxed, |count| Some(count.saturating_add(1))).unwrap_or(u32::MAX);
    threshold > 0 && count.saturating_add(1) >= threshold
}

/// Requests of an interval: all of them in the upper half, the good ones in the lower, so that one addition counts both
/// and a reader sees them together.
#[derive(Debug, Default)]
struct Window(AtomicU64);

impl Window {
    fn count(&self, good: bool) {
        self.0.fetch_add(1 << 32 | u64::from(good), Relaxed);
    }

    fn take(&self) -> Rate {
        let both = self.0.swap(0, Relaxed);
        Rate { requests: (both >> 32) as u32, good: both as u32 }
    }
}

/// Requests of an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rate {
    /// All of them.
    pub requests: u32,
    /// Those that went well.
    pub good: u32,
}

impl Rate {
    fn percent(self) -> f64 {
        f64::from(self.good) / f64::from(self.requests) * 100.0
    }
}

/// Which of these endpoints are far below the others, the worst first; their places in `rates`. Endpoints that had too
/// few requests neither count nor are judged.
#[must_use]
pub fn below_the_others(rates: &[Rate], settings: &OutlierDetection) -> Vec<usize> {
    let enough = |rate: &Rate| rate.requests > 0 && rate.requests >= settings.success_rate_min_requests;
    let mut judged: Vec<(usize, f64)> =
        rates.iter().enumerate().filter(|(_, rate)| enough(rate)).map(|(at, rate)| (at, rate.percent())).collect();
    let min_hosts = settings.success_rate_min_hosts as usize;
    if min_hosts == 0 || judged.len() < min_hosts {
        return Vec::new();
    }
    let count = judged.len() as f64;
    let mean = judged.iter().map(|(_, percent)| percent).sum::<f64>() / count;
    let variance = judged.iter().map(|(_, percent)| (percent - mean).powi(2)).sum::<f64>() / count;
    let threshold = mean - variance.sqrt() * f64::from(settings.success_rate_stdev_factor) / 1000.0;
    // Rates that are equal but for the last bit of a sum are equal.
    judged.retain(|(_, percent)| *percent < threshold - 1e-9);
    judged.sort_by(|(_, a), (_, b)| a.total_cmp(b));
    judged.into_iter().map(|(at, _)| at).collect()
}

/// How many of so many endpoints may be out: at most the share, never all, and of two or more at least one, unless the
/// share is zero. In whole numbers, so that half of five is two.
#[must_use]
pub fn may_be_out(endpoints: usize, settings: &OutlierDetection) -> usize {
    let percent = usize::from(settings.max_ejection_percent.min(100));
    if endpoints < 2 || percent == 0 {
        return 0;
    }
    (endpoints * percent / 100).clamp(1, endpoints - 1)
}

/// The ejections of one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ejections {
    /// How many count: they lengthen the next one.
    pub times: u32,
    /// The present one.
    pub now: Option<Ejection>,
    /// Since when it has got through: the end of the last one, or of the last interval that was counted.
    since: Option<Instant>,
}

/// An ejection under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ejection {
    /// When it began.
    pub began: Instant,
    /// When it is over, at the earliest.
    pub until: Instant,
    /// Why.
    pub cause: Cause,
}

impl Ejections {
    /// It is ejected.
    pub fn begin(&mut self, cause: Cause, settings: &OutlierDetection, now: Instant, rng: &mut Rng) -> Ejection {
        let longest = settings.max_ejection.max(settings.base_ejection);
        let times = self.times.saturating_add(1);
        let lasts = settings.base_ejection.saturating_mul(times).min(longest);
        // More of them would make it no longer, and take the longer to be forgotten.
        if settings.base_ejection.saturating_mul(self.times) < longest {
            self.times = times;
        }
        // Up to a tenth shorter, so that endpoints that failed together do not come back together, and never longer
        // than it may be.
        let shorter = lasts.mul_f64(rng.below(1000) as f64 / 10_000.0);
        let ejection = Ejection { began: now, until: now + (lasts - shorter), cause };
        self.now = Some(ejection);
        self.since = None;
        ejection
    }

    /// It is back.
    pub fn end(&mut self, now: Instant) {
        self.now = None;
        self.since = Some(now);
    }

    /// An interval is over: one ejection fewer counts if it got through a whole one.
    pub fn got_through(&mut self, interval: Duration, now: Instant) {
        if self.now.is_some() || self.times == 0 {
            return;
        }
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= interval {
            self.times -= 1;
            self.since = Some(now);
        }
    }

    /// Whether the present one is over.
    #[must_use]
    pub fn is_due(&self, now: Instant) -> bool {
        self.now.is_some_and(|ejection| ejection.until <= now)
    }
}

#[cfg(test)]
mod tests;
