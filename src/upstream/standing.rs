//! What health says of one endpoint, in one byte that every pick reads.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// What active checks and outlier detection say of an endpoint. Written by its checks (control thread) and by ejection
/// (workers, control thread), each its own bits.
#[derive(Debug, Default)]
pub struct Standing(AtomicU8);

/// One thing that health may have against an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Against {
    /// It is checked, and its first check has not ended.
    Unchecked = 1,
    /// Its checks fail.
    Unhealthy = 2,
    /// It was ejected.
    Ejected = 4,
}

impl Standing {
    /// Whether there is nothing against it.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }

    /// Whether this is against it.
    #[must_use]
    pub fn has(&self, against: Against) -> bool {
        self.0.load(Ordering::Relaxed) & against as u8 != 0
    }

    /// Whether its checks fail or it was ejected: what is known, not what is not known yet.
    #[must_use]
    pub fn is_bad(&self) -> bool {
        self.0.load(Ordering::Relaxed) & (Against::Unhealthy as u8 | Against::Ejected as u8) != 0
    }

    /// From now on this is against it. Whether it was not before.
    pub(super) fn set(&self, against: Against) -> bool {
        self.0.fetch_or(against as u8, Ordering::Relaxed) & against as u8 == 0
    }

    /// From now on this is not against it. Whether it was before.
    pub(super) fn clear(&self, against: Against) -> bool {
        self.0.fetch_and(!(against as u8), Ordering::Relaxed) & against as u8 != 0
    }
}

/// Moves with every change of what health says of any endpoint of a cluster, so that what follows from it can be
/// kept until it changes.
#[derive(Debug, Default)]
pub struct HealthEpoch(AtomicU64);

impl HealthEpoch {
    /// The present one. Read before the endpoints are looked at.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// After a change.
    pub(super) fn advance(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_says_its_own_and_takes_back_its_own() {
        let standing = Standing::default();
        assert!(standing.is_good());
        assert!(standing.set(Against::Unhealthy) && standing.set(Against::Ejected));
        assert!(!standing.set(Against::Ejected), "it was so before");
        assert!(standing.clear(Against::Unhealthy) && !standing.clear(Against::Unhealthy));
        assert!(standing.has(Against::Ejected) && standing.is_bad() && !standing.is_good());
        assert!(standing.clear(Against::Ejected) && standing.is_good());
    }

    #[test]
    fn what_was_never_checked_is_neither_good_nor_bad() {
        let standing = Standing::default();
        standing.set(Against::Unchecked);
        assert!(!standing.is_good() && !standing.is_bad());
    }
}
