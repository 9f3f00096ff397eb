//! How many requests an upstream is given at a time, learned from how long it takes to answer.
//!
//! An upstream that can work on `k` requests answers as fast with `k` in flight as with one; every further one waits
//! inside it. So the limit follows the latency: `limit * (1 + tolerance) * baseline / latency`, which settles where
//! requests take as much longer than the baseline as is tolerated: a little above `k`, so that there is always work at
//! hand. It is raised only while it holds requests back, so that it says nothing it has not seen.
//!
//! The baseline is what an answer takes when nothing waits. There may never be such a moment to look at: under a lasting
//! overload the limit is always reached. Stopping the traffic to look costs requests. It is not necessary either: the
//! limit lies above `k` by the tolerance, so it can be lowered by that much and a little more, for the time of one
//! window, and the upstream still has work for nearly all its workers (`Phase::Eased`); critical requests keep the limit
//! that there was. What latency does then tells the two reasons for a long one apart. It falls with the number in flight: requests wait for each other. It stays: the service has become
//! slower, and this is the new baseline. The same is concluded when the limit went down by much and nothing got better,
//! so a limit does not fall to nothing because a service has changed.
//!
//! Pure: `now` is an argument. One instance a cluster; the caller serialises.

use std::time::{Duration, Instant};

use outrigger_config::model::AdaptiveConcurrency;

use crate::base::clock;

/// The limit of one cluster and what it was learned from.
#[derive(Debug, Clone)]
pub struct Concurrency {
    limit: f64,
    /// Seconds; `None` until the first window.
    baseline: Option<f64>,
    phase: Phase,
    window: Window,
    /// Of the last windows under about this limit.
    recent: Option<f64>,
    fall: Fall,
    /// Since failures are seen: the limit then, and their share.
    failing: Option<(f64, f64)>,
    /// Failures did not become fewer when the limit went down: they are not about load.
    deaf_until: Option<Instant>,
    /// What ends earlier began under another limit. Until the first sample: none. Which samples count is decided by when
    /// they end and not when they began: of those that began just now, only the fast ones have ended.
    since: Option<Instant>,
    /// Of the last window.
    last: f64,
    /// The last window wanted about the limit that there was.
    steady: bool,
    /// The baseline was looked at once with an eased limit.
    proved: bool,
    /// `None`: as soon as it can be.
    ease_after: Option<Instant>,
    ease_every: Duration,
}

/// What is known of one attempt that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sample {
    /// It was answered after this time.
    Answered(Duration),
    /// It was given up after this time without an answer: it would have taken longer.
    Unanswered(Duration),
    /// The upstream said that it is overloaded (429, 503), or broke off.
    Overloaded(Duration),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    /// The limit follows the latency.
    Following,
    /// The limit is lowered for one window to see what latency does. The limit and the latency before.
    Eased { limit: f64, latency: f64 },
}

/// How the limit and the latency went since the limit began to go down: means of their logarithms, of the square of the
/// first, and of their product.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Fall {
    /// Where it began.
    limit: f64,
    windows: u32,
    means: [f64; 4],
}

/// What was seen since the limit was last looked at.
#[derive(Debug, Clone, Default)]
struct Window {
    /// See [`clock::nanos`].
    began: Option<u64>,
    /// Seconds. Every `stride`-th.
    latencies: Vec<f32>,
    stride: Stride,
    answered: u32,
    overloaded: u32,
    pressed: bool,
}

/// Where a limit begins.
const FIRST_LIMIT: f64 = 64.0;
/// A window is at least so long...
const WINDOW: Duration = Duration::from_millis(100);
/// ...and has at least so many samples,
const SAMPLES: usize = 30;
/// (more where much depends on it)
const EASED_SAMPLES: usize = 100;
/// unless it takes longer than this; then half as many are enough.
const LONG_WINDOW: Duration = Duration::from_secs(2);
/// Samples kept of one window: of more, every second, fourth, ...
const KEPT: usize = 256;
/// Nothing takes no time, and logarithms are taken.
const SHORTEST: f64 = 1e-6;
/// The limit changes by at most this factor in one window.
const STEP: f64 = 2.0;
/// How much of a change is made at once.
const GAIN: f64 = 0.6;
/// How fast the baseline falls to a lower latency, a window.
const FALL: f64 = 0.15;
/// How fast it rises to a higher one while the limit holds nobody back, a window.
const RISE: f64 = 0.05;
/// An eased limit lies this far below what the baseline says, so that a baseline that is too high shows.
const EASE: f64 = 0.85;
/// And this far below the one before while it only shows that all still waits.
const EASE_ON: f64 = 0.75;
/// A limit is not eased for longer than this.
const EASED_MOST: Duration = Duration::from_secs(4);
/// The limit is about what is wanted.
const STEADY: f64 = 0.25;
/// How often the limit is eased: at first, and when it has proved right.
const EASE_FIRST: Duration = Duration::from_secs(1);
const EASE_MOST: Duration = Duration::from_secs(10);
/// Latency that follows the number in flight by less than this (as exponents) is not about waiting.
const ANSWERS: f64 = 0.4;
/// And by more than this: all of it is.
const WAITING: f64 = 0.6;
/// By less than this: something else changed.
const UNCLEAR: f64 = -0.45;
/// Nothing is concluded from a fall in which the logarithm of the limit varied by less than this.
const SPREAD: f64 = 0.04;
/// Nor of failures while the limit went down by less than this factor.
const PROOF: f64 = 0.55;
/// So many times the latency a change of the limit takes to show.
const SETTLE: f64 = 1.5;
/// A share of failures from which on the limit goes down.
const FAILING: f64 = 0.05;
/// Failures that have nothing to do with load are not looked at for this long.
const DEAF: Duration = Duration::from_secs(10);

impl Concurrency {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(settings: &AdaptiveConcurrency) -> Self {
        Self {
            limit: FIRST_LIMIT.clamp(settings.min.into(), settings.max.into()),
            baseline: None,
            phase: Phase::Following,
            window: Window::default(),
            recent: None,
            fall: Fall::default(),
            failing: None,
            deaf_until: None,
            since: None,
            last: 0.0,
            steady: false,
            proved: false,
            ease_after: None,
            ease_every: EASE_FIRST,
        }
    }

    /// How many requests may be in flight.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limit.round() as u32
    }

    /// How many there may be where it matters most: a limit that is lowered to have a look is not.
    #[must_use]
    pub fn limit_of_critical(&self) -> u32 {
        match self.phase {
            Phase::Following => self.limit(),
            Phase::Eased { limit, .. } => self.limit().max(limit.round() as u32),
        }
    }

    /// What an answer takes when nothing waits, as far as is known.
    #[must_use]
    pub fn baseline(&self) -> Option<Duration> {
        self.baseline.map(Duration::from_secs_f64)
    }

    /// Keeps the limit within other bounds.
    pub fn bound(&mut self, settings: &AdaptiveConcurrency) {
        let bounded = self.limit.clamp(settings.min.into(), settings.max.into());
        if bounded != self.limit {
            self.limit = bounded;
            self.phase = Phase::Following;
        }
    }

    /// An attempt ended. `pressed`: somebody was refused or had to wait because of the limit since the last sample.
    /// True when the limit has changed.
    pub fn observe(&mut self, settings: &AdaptiveConcurrency, sample: Sample, pressed: bool, now: Instant) -> bool {
        self.window.pressed |= pressed;
        let (Sample::Answered(took) | Sample::Unanswered(took) | Sample::Overloaded(took)) = sample;
        let since = *self.since.get_or_insert_with(|| now + WINDOW + took * 3);
        if now < since {
            return false;
        }
        match sample {
            Sample::Answered(_) => self.window.add(took, now),
            Sample::Unanswered(_) => {
                // Only one that is late already says something.
                if self.baseline.is_some_and(|baseline| took.as_secs_f64() > baseline * tolerated(settings)) {
                    self.window.add(took, now);
                }
            }
            Sample::Overloaded(_) => self.window.fail(now),
        }
        let samples = if self.phase == Phase::Following { SAMPLES } else { EASED_SAMPLES };
        let is_complete = self.window.is_complete(samples, now);
        if !is_complete && self.phase == Phase::Following {
            return false;
        }
        let before = (self.limit(), self.limit_of_critical());
        if is_complete {
            self.conclude(settings, now);
        } else if let Phase::Eased { limit, .. } = self.phase
            && now.saturating_duration_since(since) > EASED_MOST
        {
            // Hardly anybody asks any more: nothing will be seen, and nobody need be held back.
            (self.phase, self.window) = (Phase::Following, Window::default());
            self.change(limit, now);
        }
        self.bound(settings);
        (self.limit(), self.limit_of_critical()) != before
    }

    fn conclude(&mut self, settings: &AdaptiveConcurrency, now: Instant) {
        let window = std::mem::take(&mut self.window);
        let (failed, pressed) = (window.failed(), window.pressed);
        let Some(latency) = window.typical() else {
            self.heed_failures(failed, now);
            return;
        };
        self.last = latency;
        let baseline = *self.baseline.get_or_insert(latency);
        if latency < baseline {
            self.baseline = Some(baseline + FALL * (latency - baseline));
        } else if !pressed && self.phase == Phase::Following {
            self.baseline = Some(baseline + RISE * (latency.min(baseline * STEP) - baseline));
        }
        if let Phase::Eased { limit, latency: before } = self.phase {
            self.phase = Phase::Following;
            self.compare_eased((limit, before), latency, settings, now);
            return;
        }
        let recent = self.recent.get_or_insert(latency);
        *recent += 0.4 * (latency - *recent);
        let recent = *recent;
        if self.heed_failures(failed, now) {
            return;
        }
        let wanted = tolerated(settings) * self.baseline.unwrap_or(latency) / latency;
        let steady = (wanted - 1.0).abs() < STEADY;
        let was_steady = std::mem::replace(&mut self.steady, steady);
        let is_due = steady && was_steady && self.ease_after.is_none_or(|after| now >= after);
        if pressed && (is_due || !self.proved) {
            let eased = self.eased(EASE / tolerated(settings), settings);
            if eased < self.limit {
                self.phase = Phase::Eased { limit: self.limit, latency: recent };
                self.change(eased, now);
                return;
            }
            self.proved = true;
        }
        if wanted < 1.0 {
            self.lower(wanted, latency, now);
        } else if pressed {
            if self.fall.limit <= self.limit {
                self.fall = Fall::default();
            }
            let raised = self.limit * (1.0 + GAIN * (wanted.min(STEP) - 1.0));
            self.change(raised.max(self.limit + 0.5), now);
        }
    }

    /// What an eased limit has shown.
    fn compare_eased(
        &mut self,
        (limit, before): (f64, f64),
        latency: f64,
        settings: &AdaptiveConcurrency,
        now: Instant,
    ) {
        let answers = (latency / before).ln() / (self.limit / limit).ln();
        let baseline = self.baseline.unwrap_or(latency);
        let was_too_high = latency < baseline * 0.92;
        self.recent = None;
        if !self.proved && answers < UNCLEAR {
            // The load was still coming up: there is nothing to compare with yet.
            self.baseline = Some(latency);
            return;
        }
        if latency > baseline {
            // As far as fewer in flight are no faster: nobody waits, and the service takes this long.
            let share = 0.6 * (1.0 - answers).clamp(0.0, 1.0);
            self.baseline = Some(baseline + share * (latency.min(baseline * 1.3) - baseline));
        }
        if answers < ANSWERS {
            self.change(limit, now);
        } else if answers > WAITING && was_too_high {
            // All still waits for each other: what was taken for the baseline was waiting too.
            self.baseline = Some(latency);
            let eased = self.eased(EASE_ON, settings);
            if eased < self.limit {
                self.phase = Phase::Eased { limit: self.limit, latency };
                self.change(eased, now);
                return;
            }
        }
        // From here the limit goes up again by itself.
        self.proved = true;
        self.ease_every = if was_too_high { EASE_FIRST } else { (self.ease_every * 2).min(EASE_MOST) };
        self.ease_after = Some(now + self.ease_every);
    }

    /// As far as the limit can be lowered for a look: to what the baseline says that the upstream works on.
    fn eased(&self, factor: f64, settings: &AdaptiveConcurrency) -> f64 {
        (self.limit * factor).max(settings.min.into()).ceil()
    }

    fn lower(&mut self, wanted: f64, latency: f64, now: Instant) {
        self.fall.limit = self.fall.limit.max(self.limit);
        self.fall.add(self.limit.ln(), latency.ln());
        if self.fall.slope().is_some_and(|answers| answers < ANSWERS) {
            self.baseline = Some(latency);
            self.fall = Fall::default();
            return;
        }
        self.change(self.limit * (1.0 + GAIN * (wanted.max(1.0 / STEP) - 1.0)), now);
    }

    /// Lowers the limit when the upstream says that it has too much. True when it did.
    fn heed_failures(&mut self, failed: f64, now: Instant) -> bool {
        if failed < FAILING {
            self.failing = None;
            return false;
        }
        if self.deaf_until.is_some_and(|until| now < until) {
            return false;
        }
        let (limit, share) = *self.failing.get_or_insert((self.limit, failed));
        if self.limit < limit * PROOF && failed > share * 0.7 {
            self.deaf_until = Some(now + DEAF);
            self.failing = None;
            self.change(limit, now);
            return true;
        }
        self.change(self.limit * (1.0 - failed / 2.0), now);
        true
    }

    fn change(&mut self, limit: f64, now: Instant) {
        self.limit = limit;
        self.since = Some(now + Duration::from_secs_f64(self.last * SETTLE));
    }
}

/// One of so many, which are a power of two.
#[derive(Debug, Clone, Copy, Default)]
struct Stride(u32);

impl Stride {
    fn takes(self, nth: u32) -> bool {
        nth & self.0 == 0
    }

    fn double(&mut self) {
        self.0 = self.0 << 1 | 1;
    }
}

impl Fall {
    /// A window of the fall, newer ones weighing more.
    fn add(&mut self, x: f64, y: f64) {
        self.windows += 1;
        let weight = (1.0 / f64::from(self.windows)).max(0.15);
        for (mean, value) in self.means.iter_mut().zip([x, y, x * x, x * y]) {
            *mean += weight * (value - *mean);
        }
    }

    /// The exponent with which latency follows the limit. `None`: the limit did not go down by enough to say.
    fn slope(&self) -> Option<f64> {
        let [x, y, xx, xy] = self.means;
        let variance = xx - x * x;
        (self.windows >= 4 && variance > SPREAD).then(|| (xy - x * y) / variance)
    }
}

const fn nanos(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}

fn tolerated(settings: &AdaptiveConcurrency) -> f64 {
    1.0 + f64::from(settings.tolerance) / 100.0
}

impl Window {
    fn add(&mut self, took: Duration, now: Instant) {
        self.began.get_or_insert_with(|| clock::nanos(now));
        self.answered += 1;
        if !self.stride.takes(self.answered) {
            return;
        }
        self.latencies.push(took.as_secs_f64().max(SHORTEST) as f32);
        if self.latencies.len() == KEPT {
            let mut at = 0;
            self.latencies.retain(|_| {
                at += 1;
                at % 2 == 0
            });
            self.stride.double();
        }
    }

    fn fail(&mut self, now: Instant) {
        self.began.get_or_insert_with(|| clock::nanos(now));
        self.overloaded += 1;
    }

    fn is_complete(&self, enough: usize, now: Instant) -> bool {
        let Some(began) = self.began else { return false };
        let age = clock::nanos(now).saturating_sub(began);
        let samples = self.latencies.len() + self.overloaded as usize;
        age >= nanos(WINDOW) && samples >= enough || age >= nanos(LONG_WINDOW) && samples >= SAMPLES / 2
    }

    fn failed(&self) -> f64 {
        f64::from(self.overloaded) / f64::from(self.overloaded + self.answered).max(1.0)
    }

    /// The mean between two quantiles: as steady as a median, and no coin toss where a service answers some requests fast
    /// and some slowly.
    fn typical(mut self) -> Option<f64> {
        if self.latencies.is_empty() {
            return None;
        }
        self.latencies.sort_unstable_by(f32::total_cmp);
        let (from, to) = (self.latencies.len() / 10, self.latencies.len() * 9 / 10 + 1);
        let middle = &self.latencies[from..to.min(self.latencies.len())];
        Some(middle.iter().copied().map(f64::from).sum::<f64>() / middle.len() as f64)
    }
}

#[cfg(test)]
mod tests;
