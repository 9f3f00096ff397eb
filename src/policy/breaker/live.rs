//! A breaker that all workers share, without a lock.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use outrigger_config::model::{Breaker, FailureRatio, LatencyTrip};

use super::share::Share;
use super::word::{generation, is_plainly_closed, pack, unpack};
use super::{Force, Machine, Pass, Role, State, Told, Verdict, When, is_on};
use crate::base::clock;
use crate::policy::rng::Rng;

/// The state of a breaker and what it counts. Its settings are an argument, so that they may change while it stays.
///
/// While it is closed and nothing fails, a request costs two loads.
#[derive(Debug)]
pub struct AtomicBreaker {
    word: AtomicU64,
    /// Failures in a row of one generation: in the highest bits the generation (16), in the lowest how many (32).
    failures: AtomicU64,
    shares: OnceLock<Box<Shares>>,
    /// See [`clock::nanos`].
    epoch: u64,
    /// When it took its state, in milliseconds; for people.
    since: AtomicU64,
    opens: AtomicU32,
    cause: AtomicU8,
}

#[derive(Debug, Default)]
struct Shares {
    failed: Share,
    slow: Share,
}

/// How a request went, as far as a breaker is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// It was answered, and that was no failure.
    Good {
        /// In this time; `None`: that was told before.
        took: Option<Duration>,
    },
    /// It failed.
    Bad,
    /// It took so long, or longer; how it went is not known, or not yet.
    Took(Duration),
}

/// Why a breaker opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It never did.
    None = 0,
    /// Failures in a row.
    Failures = 1,
    /// The share of failures.
    Ratio = 2,
    /// The share of slow answers.
    Latency = 3,
    /// The probe failed.
    Probe = 4,
    /// Somebody ordered it.
    Forced = 5,
}

/// A change of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// What it was.
    pub from: Machine,
    /// What it is.
    pub to: Machine,
}

/// A breaker as people see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// State and order.
    pub machine: Machine,
    /// How long it has been in that state.
    pub since: Duration,
    /// How often it has opened.
    pub opens: u32,
    /// Why it opened last.
    pub cause: Cause,
    /// How long until a request is let through to find out; `None` when nobody waits for that.
    pub next_probe: Option<Duration>,
}

impl AtomicBreaker {
    /// Closed.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            word: AtomicU64::new(pack(Machine::NEW)),
            failures: AtomicU64::new(0),
            shares: OnceLock::new(),
            epoch: clock::nanos(now),
            since: AtomicU64::new(0),
            opens: AtomicU32::new(0),
            cause: AtomicU8::new(Cause::None as u8),
        }
    }

    /// A request asks. What it is given must be told to [`Self::report`], or to [`Self::gone`] when there is nothing to
    /// tell. `random` is called when there is something to draw.
    pub fn ask(&self, settings: &Breaker, random: impl FnOnce() -> u64, now: Instant) -> (Verdict, Option<Change>) {
        let word = self.word.load(Relaxed);
        if is_plainly_closed(word) {
            return (Verdict::Pass(Pass { generation: generation(word), role: Role::Regular }), None);
        }
        if self.lets_everything_through(unpack(word), settings) {
            return (Verdict::Pass(Pass { generation: generation(word), role: Role::Free }), None);
        }
        let when = When { settings, now: self.millis(now), random: random() };
        self.step(|machine| machine.ask(when), now)
    }

    /// How long it lets nothing through; `None` when a request may ask. Changes nothing.
    #[must_use]
    pub fn refuses(&self, settings: &Breaker, now: Instant) -> Option<Duration> {
        let word = self.word.load(Relaxed);
        if is_plainly_closed(word) {
            return None;
        }
        let machine = unpack(word);
        if self.lets_everything_through(machine, settings) || matches!(machine.state, State::Ramp { .. }) {
            return None;
        }
        let when = When { settings, now: self.millis(now), random: 0 };
        match machine.ask(when).1 {
            Verdict::Pass(_) => None,
            Verdict::Refuse { after } => Some(after),
        }
    }

    /// Lets a request through although the breaker is open, because there is nothing better to be had: see
    /// [`Machine`].
    #[must_use]
    pub fn tolerate(&self, settings: &Breaker) -> Option<Pass> {
        let word = self.word.load(Relaxed);
        if is_plainly_closed(word) { None } else { unpack(word).tolerate(settings) }
    }

    /// When the next probe may go; in the past when it may go now, `None` when none is waited for.
    #[must_use]
    pub fn due(&self, settings: &Breaker) -> Option<Instant> {
        let word = self.word.load(Relaxed);
        if is_plainly_closed(word) || !is_on(settings) {
            return None;
        }
        let due = unpack(word).due(settings)?;
        Some(clock::at(self.epoch.saturating_add(due.saturating_mul(NANOS_PER_MILLI))))
    }

    /// How a request went.
    #[inline]
    pub fn report(&self, pass: Pass, evidence: Evidence, settings: &Breaker, now: Instant) -> Option<Change> {
        // Most breakers count nothing of what goes well.
        if pass.role == Role::Regular && !self.counts(evidence, settings) {
            return None;
        }
        self.heed(pass, evidence, settings, now)
    }

    fn heed(&self, pass: Pass, evidence: Evidence, settings: &Breaker, now: Instant) -> Option<Change> {
        match pass.role {
            Role::Free => None,
            Role::Regular => self.count(pass, evidence, settings, now),
            Role::Probe | Role::Tolerated => {
                let too_long = |took: Duration| settings.latency.is_some_and(|trip| took > trip.above);
                let told = match evidence {
                    Evidence::Good { took: Some(took) } | Evidence::Took(took) if too_long(took) => Told::Bad,
                    Evidence::Good { .. } => Told::Good,
                    Evidence::Bad => Told::Bad,
                    Evidence::Took(_) => return None,
                };
                self.tell(pass, told, Cause::Probe, (settings, now))
            }
        }
    }

    /// A request ended without evidence, or with what was told before: a probe gives its place back.
    pub fn gone(&self, pass: Pass, settings: &Breaker, now: Instant) -> Option<Change> {
        if pass.role != Role::Probe || generation(self.word.load(Relaxed)) != pass.generation {
            return None;
        }
        self.tell(pass, Told::Gone, Cause::None, (settings, now))
    }

    /// Somebody orders something.
    pub fn order(&self, force: Force, now: Instant) -> Option<Change> {
        let ((), change) = self.step(|machine| (machine.order(force), ()), now);
        if let Some(Change { to: Machine { force: Force::Open, .. }, .. }) = change {
            self.cause.store(Cause::Forced as u8, Relaxed);
        }
        change
    }

    /// For people.
    #[must_use]
    pub fn standing(&self, settings: &Breaker, now: Instant) -> Standing {
        let machine = unpack(self.word.load(Relaxed));
        let millis = self.millis(now);
        Standing {
            machine,
            since: Duration::from_millis(millis.saturating_sub(self.since.load(Relaxed))),
            opens: self.opens.load(Relaxed),
            cause: Cause::of(self.cause.load(Relaxed)),
            next_probe: machine.due(settings).map(|due| Duration::from_millis(due.saturating_sub(millis))),
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn machine(&self) -> Machine {
        unpack(self.word.load(Relaxed))
    }

    fn lets_everything_through(&self, machine: Machine, settings: &Breaker) -> bool {
        machine.force == Force::Auto && !is_on(settings)
    }

    /// Whether there is something to count, while it is closed.
    #[inline]
    fn counts(&self, evidence: Evidence, settings: &Breaker) -> bool {
        let Breaker { failure_ratio, latency, .. } = settings;
        match evidence {
            Evidence::Bad => true,
            Evidence::Good { took } => {
                failure_ratio.is_some()
                    || latency.is_some() && took.is_some()
                    || self.failures.load(Relaxed) & FAILURE_COUNT != 0
            }
            Evidence::Took(_) => latency.is_some(),
        }
    }

    /// Counts what opens a breaker that is closed.
    fn count(&self, pass: Pass, evidence: Evidence, settings: &Breaker, now: Instant) -> Option<Change> {
        let Breaker { failure_ratio, latency, .. } = settings;
        if generation(self.word.load(Relaxed)) != pass.generation {
            return None;
        }
        let millis = self.millis(now);
        let (failed, took) = match evidence {
            Evidence::Good { took } => {
                let failures = self.failures.load(Relaxed);
                if failures & FAILURE_COUNT != 0 {
                    // Another that fails meanwhile has come after this one, and counts.
                    let _ = self.failures.compare_exchange(failures, 0, Relaxed, Relaxed);
                }
                (Some(false), took)
            }
            Evidence::Bad => {
                if self.count_failure(pass, settings) {
                    return self.tell(pass, Told::Trip, Cause::Failures, (settings, now));
                }
                (Some(true), None)
            }
            Evidence::Took(took) => (None, Some(took)),
        };
        let tripped = |cause| self.tell(pass, Told::Trip, cause, (settings, now));
        if let (Some(ratio), Some(failed)) = (failure_ratio, failed)
            && self.shares().count_failed(failed, ratio, millis)
        {
            return tripped(Cause::Ratio);
        }
        if let (Some(trip), Some(took)) = (latency, took)
            && self.shares().count_time(took, trip, millis)
        {
            return tripped(Cause::Latency);
        }
        None
    }

    /// One more in a row; whether they are enough.
    fn count_failure(&self, pass: Pass, settings: &Breaker) -> bool {
        let threshold = u64::from(settings.failure_threshold.value);
        if threshold == 0 {
            return false;
        }
        let tag = u64::from(pass.generation) << 48;
        let counted = |old: u64| {
            let old = if old >> 48 == u64::from(pass.generation) { old } else { tag };
            (old & FAILURE_COUNT < FAILURE_COUNT).then_some(old + 1)
        };
        let before = self.failures.fetch_update(Relaxed, Relaxed, counted).unwrap_or_else(|full| full);
        let after = counted(before).unwrap_or(before);
        after & FAILURE_COUNT >= threshold
    }

    fn tell(&self, pass: Pass, told: Told, cause: Cause, (settings, now): (&Breaker, Instant)) -> Option<Change> {
        let when = When { settings, now: self.millis(now), random: self.jitter(pass, now) };
        let ((), change) = self.step(|machine| (machine.told(pass, told, when), ()), now);
        if let Some(Change { to: Machine { state: State::Open { .. }, .. }, from }) = change
            && !matches!(from.state, State::Open { .. })
        {
            self.opens.fetch_add(1, Relaxed);
            self.cause.store(cause as u8, Relaxed);
            if let Some(shares) = self.shares.get() {
                shares.failed.clear();
                shares.slow.clear();
            }
        }
        change
    }

    /// Takes a step, whatever others do meanwhile.
    fn step<T>(&self, step: impl Fn(Machine) -> (Machine, T), now: Instant) -> (T, Option<Change>) {
        let mut word = self.word.load(Relaxed);
        loop {
            let from = unpack(word);
            let (to, result) = step(from);
            let next = pack(to);
            if next == word {
                return (result, None);
            }
            match self.word.compare_exchange_weak(word, next, Relaxed, Relaxed) {
                Ok(_) => {
                    if std::mem::discriminant(&from.state) != std::mem::discriminant(&to.state)
                        || from.force != to.force
                    {
                        self.since.store(self.millis(now), Relaxed);
                    }
                    return (result, Some(Change { from, to }));
                }
                Err(other) => word = other,
            }
        }
    }

    /// Different in each proxy and each time, because clocks are read in nanoseconds, and the same when a run is repeated
    /// under simulated time.
    fn jitter(&self, pass: Pass, now: Instant) -> u64 {
        let nanos = clock::nanos(now).saturating_sub(self.epoch);
        Rng::new(nanos ^ u64::from(pass.generation) << 48).next_u64()
    }

    fn shares(&self) -> &Shares {
        self.shares.get_or_init(Box::default)
    }

    fn millis(&self, now: Instant) -> u64 {
        clock::nanos(now).saturating_sub(self.epoch) / NANOS_PER_MILLI
    }
}

impl Shares {
    /// Whether too many have failed.
    fn count_failed(&self, failed: bool, ratio: &FailureRatio, now: u64) -> bool {
        let FailureRatio { percent, window, min_requests } = *ratio;
        self.failed.count(failed, window, now);
        if !failed {
            return false;
        }
        let sum = self.failed.sum(window, now);
        sum.all >= u64::from(min_requests) && sum.hits * 100 >= sum.all * u64::from(percent)
    }

    /// Whether the quantile is too long: more than the rest of the requests are slow.
    fn count_time(&self, took: Duration, trip: &LatencyTrip, now: u64) -> bool {
        let LatencyTrip { quantile, above, window, min_requests } = *trip;
        let slow = took > above;
        self.slow.count(slow, window, now);
        if !slow {
            return false;
        }
        let sum = self.slow.sum(window, now);
        sum.all >= u64::from(min_requests) && sum.hits * 100 > sum.all * (100 - u64::from(quantile.min(100)))
    }
}

impl Cause {
    fn of(number: u8) -> Self {
        const ALL: [Cause; 6] =
            [Cause::None, Cause::Failures, Cause::Ratio, Cause::Latency, Cause::Probe, Cause::Forced];
        ALL.get(usize::from(number)).copied().unwrap_or(Cause::None)
    }

    /// In a word, for people.
    #[must_use]
    pub fn as_str(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Failures => Some("failures in a row"),
            Self::Ratio => Some("share of failures"),
            Self::Latency => Some("share of slow answers"),
            Self::Probe => Some("failed probe"),
            Self::Forced => Some("forced"),
        }
    }
}

const FAILURE_COUNT: u64 = u32::MAX as u64;
const NANOS_PER_MILLI: u64 = 1_000_000;
