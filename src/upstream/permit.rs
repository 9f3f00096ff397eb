//! The right to send one attempt to one endpoint, and the duty to say how it went.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::admission::Place;
use super::cluster::Member;
use super::state::ClusterState;
use crate::policy::concurrency::Sample;

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
    /// Whether the times of its answers say how busy the upstream is.
    timed: bool,
    /// Evidence was given, or its end without an answer is none.
    reported: AtomicBool,
    /// The place of the request, once this is its last attempt.
    place: Option<Place>,
}

impl Permit {
    /// Counts the attempt in. The cluster's slot must have been acquired by the caller and is released by the permit.
    pub(super) fn new(cluster: Arc<ClusterState>, member: Member, now: Instant) -> Self {
        member.state.in_flight.fetch_add(1, Ordering::Relaxed);
        member.state.requests.fetch_add(1, Ordering::Relaxed);
        Self { cluster, member, started: now, timed: true, reported: AtomicBool::new(false), place: None }
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

    /// Keeps the place of the request until this ends.
    #[must_use]
    pub fn holding(mut self, place: Option<Place>) -> Self {
        self.place = place;
        self
    }

    /// What is sent are not requests: its times say nothing of how busy the upstream is.
    #[must_use]
    pub fn untimed(mut self) -> Self {
        self.timed = false;
        self
    }

    /// The caller sends a body. An end without an answer says nothing then: the time may have been the caller's.
    pub fn uploads(&self) {
        self.reported.store(true, Ordering::Relaxed);
    }

    /// It was given up after it had waited for an answer for this long.
    pub fn unanswered(&self, waited: Duration, now: Instant) {
        self.member.state.latency.observe(waited, now);
        self.sample(Sample::Unanswered(waited), now);
    }

    fn sample(&self, sample: Sample, now: Instant) {
        self.reported.store(true, Ordering::Relaxed);
        if self.timed {
            self.cluster.observe(sample, now);
        }
    }

    /// Records evidence. The slot stays taken until the permit is dropped: a response that is still streaming
    /// is load.
    pub fn report(&self, outcome: Outcome, now: Instant) {
        let sample = match outcome {
            Outcome::Success(latency) => Sample::Answered(latency),
            Outcome::Failure | Outcome::Broken => Sample::Overloaded(now.saturating_duration_since(self.started)),
        };
        self.sample(sample, now);
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
        if !*self.reported.get_mut() {
            // The caller left. How long it had waited says something all the same.
            let now = Instant::now();
            self.sample(Sample::Unanswered(now.saturating_duration_since(self.started)), now);
        }
    }
}
