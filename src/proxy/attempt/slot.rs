//! The place of a retry in flight.

use std::sync::Arc;
use std::time::Instant;

use crate::policy::retry::Verdict;
use crate::upstream::{Cluster, Overflow};

/// A retry in flight: held until the next one or the end, so that retries have a ceiling. A free one is not
/// counted: for the attempt before it the upstream did no work, and many come at once when a connection ends.
pub(super) struct RetrySlot(Option<Arc<Cluster>>);

/// Why there is no room for a retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// As many as may be are in flight.
    Ceiling,
    /// The budget is used up.
    Budget,
}

impl RetrySlot {
    /// Room for one more retry: the ceiling and the budget, unless the retry is a free one. A request that is
    /// being retried already goes on in the place it holds: one request is never two retries in flight.
    pub(super) fn enter(
        cluster: &Arc<Cluster>,
        held: Option<Self>,
        verdict: Verdict,
        now: Instant,
    ) -> Result<Self, Refused> {
        if verdict == Verdict::RetryFree {
            return Ok(held.unwrap_or(Self(None)));
        }
        let state = cluster.state();
        let slot = match held {
            Some(slot @ Self(Some(_))) => slot,
            _ if state.retries.try_acquire(cluster.config().ceilings.max_retries) => Self(Some(Arc::clone(cluster))),
            _ => {
                state.metrics.overflowed(Overflow::Retries);
                return Err(Refused::Ceiling);
            }
        };
        if !state.budget.try_withdraw(cluster.config().retry_budget, now) {
            state.metrics.retry_budget_exhausted();
            return Err(Refused::Budget);
        }
        Ok(slot)
    }

    /// Whether it counts against the ceiling.
    #[cfg(test)]
    pub(super) fn is_counted(&self) -> bool {
        self.0.is_some()
    }
}

impl Drop for RetrySlot {
    fn drop(&mut self) {
        if let Some(cluster) = &self.0 {
            cluster.state().retries.release();
        }
    }
}
