//! How the traffic of a group is divided, kept until health changes: a pick must not look at ten thousand endpoints.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::base::clock;

/// What was last counted.
#[derive(Debug)]
pub(super) struct Tally {
    spread: ArcSwap<Spread>,
    /// There is one priority, no zone is preferred, and nobody panics: nothing but the balancer decides.
    plain: AtomicBool,
    /// The epoch of health in which it was counted.
    epoch: AtomicU64,
    /// In which second after `from` it was counted.
    second: AtomicU64,
    from: u64,
    counting: Mutex<()>,
}

/// Priorities in order.
pub(super) type Spread = SmallVec<[Share; 1]>;

/// What a priority gets of the traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    /// In percent.
    pub(super) percent: u32,
    /// Whether its endpoints are used however well they are.
    pub(super) panic: bool,
    /// The part that stays in the own zone, of [`WHOLE`](crate::policy::balance::zone::WHOLE).
    pub(super) stays: u32,
    /// How many of its endpoints count.
    pub(super) all: u32,
    /// Of those, how many are well.
    pub(super) well: u32,
    /// The weights of those that are used.
    pub(super) weight: u64,
}

impl Default for Tally {
    /// Nothing was counted yet.
    fn default() -> Self {
        Self {
            spread: ArcSwap::default(),
            plain: AtomicBool::new(false),
            epoch: AtomicU64::new(NEVER),
            second: AtomicU64::new(0),
            from: clock::nanos(clock::now()),
            counting: Mutex::new(()),
        }
    }
}

impl Tally {
    /// Whether nothing but the balancer decides.
    pub(super) fn is_plain(&self) -> bool {
        self.plain.load(Ordering::Relaxed)
    }

    /// What was counted last.
    pub(super) fn spread(&self) -> Guard<Arc<Spread>> {
        self.spread.load()
    }

    /// Counts anew where health has moved on, or the second has: a breaker that may be tried again says so to nobody. One
    /// counts, and others go on meanwhile with what was; only before the first time they wait.
    pub(super) fn refresh(&self, epoch: u64, now: Instant, count: impl FnOnce() -> (Spread, bool)) {
        let known = self.epoch.load(Ordering::Acquire);
        // Whole seconds, because they cost nothing to know.
        let second = clock::nanos(now).saturating_sub(self.from) / 1_000_000_000;
        if known == epoch && second <= self.second.load(Ordering::Relaxed) {
            return;
        }
        let counting = if known == NEVER { Some(self.counting.lock()) } else { self.counting.try_lock() };
        let Some(_counting) = counting else { return };
        let (spread, plain) = count();
        if **self.spread.load() != spread {
            self.spread.store(Arc::new(spread));
        }
        self.plain.store(plain, Ordering::Relaxed);
        self.second.fetch_max(second, Ordering::Relaxed);
        self.epoch.store(epoch, Ordering::Release);
    }
}

/// No epoch.
const NEVER: u64 = u64::MAX;
