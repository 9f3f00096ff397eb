//! What is remembered of rate limits: a bucket for each limit, or for each key of a limit. It outlives
//! configurations, and is shared by all workers.
//!
//! Callers choose keys, so there may be more of them than there is room. Then those are given up that have used the
//! least of their burst: a stranger who comes with ever new keys pushes out his own, and neither the caller that is at
//! its limit nor the one that comes for the first time.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::RwLock;

use crate::base::{clock, limits};
use crate::policy::rate::{Bucket, Rate, Verdict};
use crate::telemetry::metrics::RateLimitMetrics;

/// What is remembered of one rate limit.
#[derive(Debug)]
pub struct RateState {
    /// Its numbers.
    pub metrics: Arc<RateLimitMetrics>,
    id: LimitId,
    /// The buckets count from here.
    epoch: u64,
    /// Of requests that have no key.
    all: Bucket,
    /// Of those that have one. Most limits of a large configuration never see any.
    shards: OnceLock<Box<[RwLock<Shard>; SHARDS]>>,
    /// Nobody outside can choose keys that collide.
    hashing: RandomState,
}

/// Buckets by key. The keys are hashes already.
type Shard = HashMap<u64, Bucket, foldhash::fast::RandomState>;

/// Stands for what a limit tells requests apart by: a hash that is as good as the thing itself. Two keys of the
/// [`limits::RATE_KEYS`] that are remembered are the same by chance about once in ten thousand million limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateKey(u64);

/// Tells what is remembered of one limit from all others that there are and were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitId(u64);

impl LimitId {
    fn next() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed))
    }
}

impl RateState {
    /// A limit nobody has met yet.
    #[must_use]
    pub fn new(metrics: Arc<RateLimitMetrics>, now: Instant) -> Self {
        let (all, hashing) = (Bucket::default(), RandomState::new());
        Self { metrics, id: LimitId::next(), epoch: clock::nanos(now), all, shards: OnceLock::new(), hashing }
    }

    /// Which one it is: keys of another mean something else.
    #[must_use]
    pub fn id(&self) -> LimitId {
        self.id
    }

    /// The key of what is fed to the hasher.
    pub fn key(&self, feed: impl FnOnce(&mut std::hash::DefaultHasher)) -> RateKey {
        use std::hash::Hasher as _;
        let mut hasher = self.hashing.build_hasher();
        feed(&mut hasher);
        RateKey(hasher.finish())
    }

    /// Takes a request from the rate of a key, or of all, if it may pass.
    pub fn take(&self, key: Option<RateKey>, rate: &Rate, now: Instant) -> Verdict {
        let now = self.since_epoch(now);
        let Some(RateKey(key)) = key else { return self.all.take(rate, now) };
        let shard = self.shard(key);
        if let Some(bucket) = shard.read().get(&key) {
            return bucket.take(rate, now);
        }
        let mut shard = shard.write();
        if shard.len() >= limits::RATE_KEYS / SHARDS && !shard.contains_key(&key) {
            let given_up = make_room(&mut shard, now);
            self.metrics.gave_up(given_up as u64);
        }
        shard.entry(key).or_default().take(rate, now)
    }

    /// What [`RateState::take`] would say now.
    pub fn look(&self, key: Option<RateKey>, rate: &Rate, now: Instant) -> Verdict {
        let now = self.since_epoch(now);
        let Some(RateKey(key)) = key else { return self.all.look(rate, now) };
        match self.shard(key).read().get(&key) {
            Some(bucket) => bucket.look(rate, now),
            None => Bucket::default().look(rate, now),
        }
    }

    /// Gives back what was taken for a request that did not pass after all.
    pub fn give_back(&self, key: Option<RateKey>, rate: &Rate) {
        let Some(RateKey(key)) = key else { return self.all.give_back(rate) };
        if let Some(bucket) = self.shard(key).read().get(&key) {
            bucket.give_back(rate);
        }
    }

    /// Keys that are remembered.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.used_shards().map(|shard| shard.read().len()).sum()
    }

    /// Forgets keys whose whole burst is there again: nothing is lost with them.
    pub fn sweep(&self, now: Instant) {
        let now = self.since_epoch(now);
        for shard in self.used_shards() {
            let mut shard = shard.write();
            shard.retain(|_, bucket| bucket.full_at() > now);
            if shard.capacity() > SHRINK_ABOVE && shard.len() < shard.capacity() / 4 {
                shard.shrink_to_fit();
            }
        }
        self.metrics.remembers(self.keys() as u64);
    }

    fn shard(&self, key: u64) -> &RwLock<Shard> {
        // The upper bits: the map hashes the whole.
        &self.shards.get_or_init(Box::default)[(key >> 32) as usize % SHARDS]
    }

    fn used_shards(&self) -> impl Iterator<Item = &RwLock<Shard>> {
        self.shards.get().into_iter().flat_map(|shards| shards.iter())
    }

    fn since_epoch(&self, now: Instant) -> u64 {
        clock::nanos(now).saturating_sub(self.epoch)
    }
}

/// Makes room for an eighth of the keys, so that it is seldom done: first of those with nothing used, then of those that
/// have their whole burst again first. Gives how many had used something.
fn make_room(shard: &mut Shard, now: u64) -> usize {
    let enough = shard.len() - shard.len() / 8;
    shard.retain(|_, bucket| bucket.full_at() > now);
    let Some(too_many) = shard.len().checked_sub(enough).filter(|n| *n > 0) else { return 0 };
    let mut times: Vec<u64> = shard.values().map(Bucket::full_at).collect();
    let last = *times.select_nth_unstable(too_many - 1).1;
    let mut left = too_many;
    shard.retain(|_, bucket| {
        let goes = left > 0 && bucket.full_at() <= last;
        left -= usize::from(goes);
        !goes
    });
    too_many
}

/// Parts of a map, so that workers seldom wait for each other.
const SHARDS: usize = 32;

/// Below so many keys the memory of a part is not worth giving back.
const SHRINK_ABOVE: usize = 64;

#[cfg(test)]
mod tests;
