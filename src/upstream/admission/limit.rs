//! How many places a cluster has: its ceiling of requests, or less where the latency says so.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use outrigger_config::model::AdaptiveConcurrency;
use parking_lot::Mutex;

use crate::policy::concurrency::{Concurrency, Sample};

/// The number of places.
#[derive(Debug)]
pub(super) struct Limit {
    places: AtomicU32,
    /// Those that critical requests may use.
    for_critical: AtomicU32,
    adapts: AtomicBool,
    /// Somebody was refused or had to wait since the rule last heard of it.
    reached: AtomicBool,
    rule: Mutex<Rule>,
}

#[derive(Debug)]
struct Rule {
    ceiling: u32,
    adaptive: Option<(AdaptiveConcurrency, Concurrency)>,
}

impl Default for Limit {
    fn default() -> Self {
        Self {
            places: AtomicU32::new(u32::MAX),
            for_critical: AtomicU32::new(u32::MAX),
            adapts: AtomicBool::new(false),
            reached: AtomicBool::new(false),
            rule: Mutex::new(Rule { ceiling: u32::MAX, adaptive: None }),
        }
    }
}

impl Limit {
    pub(super) fn get(&self) -> u32 {
        self.places.load(Ordering::SeqCst)
    }

    pub(super) fn for_critical(&self) -> u32 {
        self.for_critical.load(Ordering::SeqCst)
    }

    pub(super) fn baseline(&self) -> Option<Duration> {
        self.rule.lock().adaptive.as_ref().and_then(|(_, rule)| rule.baseline())
    }

    pub(super) fn was_reached(&self) {
        if !self.reached.load(Ordering::Relaxed) {
            self.reached.store(true, Ordering::Relaxed);
        }
    }

    /// What was learned stays when bounds change.
    pub(super) fn configure(&self, settings: Option<AdaptiveConcurrency>, ceiling: u32) {
        let mut rule = self.rule.lock();
        rule.ceiling = ceiling;
        let known = rule.adaptive.take().map(|(_, known)| known);
        rule.adaptive = settings.map(|settings| {
            let mut known = known.unwrap_or_else(|| Concurrency::new(&settings));
            known.bound(&settings);
            (settings, known)
        });
        self.adapts.store(rule.adaptive.is_some(), Ordering::Relaxed);
        self.publish(&rule);
    }

    fn publish(&self, rule: &Rule) {
        let of = |limit: fn(&Concurrency) -> u32| {
            rule.adaptive.as_ref().map_or(rule.ceiling, |(_, known)| limit(known).min(rule.ceiling))
        };
        self.places.store(of(Concurrency::limit), Ordering::SeqCst);
        self.for_critical.store(of(Concurrency::limit_of_critical), Ordering::SeqCst);
    }

    /// An attempt has ended. True when there are other places than before.
    pub(super) fn observe(&self, sample: Sample, now: Instant) -> bool {
        if !self.adapts.load(Ordering::Relaxed) {
            return false;
        }
        // One sample more or less: no worker waits for another.
        let Some(mut rule) = self.rule.try_lock() else { return false };
        let Some((settings, known)) = &mut rule.adaptive else { return false };
        let reached = self.reached.load(Ordering::Relaxed) && self.reached.swap(false, Ordering::Relaxed);
        if !known.observe(settings, sample, reached, now) {
            return false;
        }
        self.publish(&rule);
        true
    }
}
