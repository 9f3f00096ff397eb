//! The right to send one attempt to one endpoint, and the duty to say how it went.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::cluster::Member;
use super::state::ClusterState;

/// How an attempt ended, as evidence about its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It answered; the time is to the response head.
    Success(Duration),
    /// It answered with an overload or server error (429, 5xx): counts as slow, so that failing fast attracts nothing.
    Failure,
    /// It did not answer, or broke off.
    Broken,
}

/// An in-flight slot of a cluster and an endpoint. [`Permit::report`] says how the attempt went; dropping it
/// without a report means that the caller left or that we gave up, which is no evidence against the endpoint.
#[derive(Debug)]
pub struct Permit {
    cluster: Arc<ClusterState>,
    member: Member,
    started: Instant,
}

impl Permit {
    /// Counts the attempt in. The cluster's slot must have been acquired by the caller and is released by the permit.
    pub(super) fn new(cluster: Arc<ClusterState>, member: Member, now: Instant) -> Self {
        member.state.in_flight.fetch_add(1, Ordering::Relaxed);
        member.state.requests.fetch_add(1, Ordering::Relaxed);
        Self { cluster, member, started: now }
    }

    /// The endpoint.
    #[must_use]
    pub fn member(&self) -> &Member {
        &self.member
    }

    /// When the attempt began.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Records evidence. The slot stays taken until the permit is dropped: a response that is still streaming
    /// is load.
    pub fn report(&self, outcome: Outcome, now: Instant) {
        let state = &self.member.state;
        match outcome {
            Outcome::Success(latency) => {
                state.consecutive_failures.store(0, Ordering::Relaxed);
                state.latency.observe(latency, now);
            }
            Outcome::Failure | Outcome::Broken => {
                state.failures.fetch_add(1, Ordering::Relaxed);
                state.consecutive_failures.fetch_add(1, Ordering::Relaxed);
                state.latency.observe_failure(now);
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let before = self.member.state.in_flight.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "an endpoint had fewer requests in flight than ended");
        self.cluster.in_flight.release();
    }
}
