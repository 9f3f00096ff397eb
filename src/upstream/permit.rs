//! The right to send one attempt to one endpoint, and the duty to say how it went.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::admission::Place;
use super::breakers::{Entered, Passage};
use super::cluster::Member;
use super::state::ClusterState;
use crate::base::clock;
use crate::policy::breaker::Pass;
use crate::policy::concurrency::Sample;

/// How an attempt ended, as evidence about its endpoint. One attempt gives one of them, or [`Outcome::Answering`] and
/// then one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It answered; the time is to the response head.
    Success(Duration),
    /// Its response head came, after this time, and says nothing yet of how it goes: the rest follows.
    Answering(Duration),
    /// What began with [`Outcome::Answering`] ended well.
    Done,
    /// It answered that it has too much to do (429, RESOURCE_EXHAUSTED): counts as slow, so that refusing fast attracts
    /// nothing, and is no error.
    Busy,
    /// It answered with an error of its own (5xx, INTERNAL, DATA_LOSS); counts as slow.
    ServerError,
    /// It answered that it cannot serve now (502, 503, 504, UNAVAILABLE); counts as slow.
    GatewayError,
    /// It did not answer, or broke off: connect, reset, protocol.
    Broken,
}

impl Outcome {
    /// What a status of HTTP says, `latency` after the request.
    #[must_use]
    pub fn of_status(status: u16, latency: Duration) -> Self {
        match status {
            429 => Self::Busy,
            502..=504 => Self::GatewayError,
            500.. => Self::ServerError,
            _ => Self::Success(latency),
        }
    }

    /// What a status of gRPC says against the server; `None` when it says nothing against it: the call may have failed,
    /// and the server did its part.
    #[must_use]
    pub fn of_grpc_failure(status: u8) -> Option<Self> {
        const RESOURCE_EXHAUSTED: u8 = 8;
        const INTERNAL: u8 = 13;
        const UNAVAILABLE: u8 = 14;
        const DATA_LOSS: u8 = 15;
        match status {
            RESOURCE_EXHAUSTED => Some(Self::Busy),
            INTERNAL | DATA_LOSS => Some(Self::ServerError),
            UNAVAILABLE => Some(Self::GatewayError),
            _ => None,
        }
    }
}

/// An in-flight slot of a cluster and an endpoint. [`Permit::report`] says how the attempt went; dropping it
/// without a report means that the caller left or that we gave up, which is no evidence against the endpoint.
#[derive(Debug)]
pub struct Permit {
    member: Member,
    /// Through the endpoint's breaker.
    endpoint: Pass,
    /// Through the cluster's.
    cluster: Pass,
    /// Through the rule's, once the request has its answer.
    rule: Option<Passage>,
    /// What was reported last.
    outcome: LastOutcome,
    /// Counted among the endpoint's retries.
    retry: bool,
    started: Instant,
    /// Whether the times of its answers say how busy the upstream is.
    timed: bool,
    /// Evidence was given, or its end without an answer is none.
    reported: AtomicBool,
    /// The place of the request, once this is its last attempt.
    place: Option<Place>,
}

impl Permit {
    /// For an attempt that its endpoint and its cluster have let in. The cluster's slot must have been acquired by the
    /// caller and is released by the permit.
    pub(super) fn new(entered: Entered, cluster: Pass, now: Instant) -> Self {
        let Entered { member, pass: endpoint, retry } = entered;
        member.terms.cluster.traffic.note(now);
        member.state.requests.fetch_add(1, Ordering::Relaxed);
        Self {
            member,
            endpoint,
            cluster,
            rule: None,
            outcome: LastOutcome::default(),
            retry,
            started: now,
            timed: true,
            reported: AtomicBool::new(false),
            place: None,
        }
    }

    /// The endpoint.
    #[must_use]
    pub fn member(&self) -> &Member {
        &self.member
    }

    /// Whether this attempt finds out if its endpoint may be used again.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.endpoint.is_probe()
    }

    /// The same of its cluster.
    #[cfg(test)]
    pub(crate) fn is_probe_of_cluster(&self) -> bool {
        self.cluster.is_probe()
    }

    /// The state of its cluster.
    #[must_use]
    pub fn cluster(&self) -> &ClusterState {
        &self.member.terms.cluster
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

    /// It was given up after it had waited for an answer for this long: at least so long it would have taken.
    pub fn unanswered(&self, waited: Duration, now: Instant) {
        let Member { state, terms, .. } = &self.member;
        state.latency.observe_at_least(waited, now);
        state.breaker.gave_up(self.endpoint, waited, &terms.endpoint_breaker, now);
        terms.cluster.breaker.gave_up(self.cluster, waited, &terms.cluster_breaker, now);
        self.sample(Sample::Unanswered(waited), now);
    }

    fn sample(&self, sample: Sample, now: Instant) {
        self.reported.store(true, Ordering::Relaxed);
        if self.timed {
            self.member.terms.cluster.observe(sample, now);
        }
    }

    /// Records evidence. The slot stays taken until the permit is dropped: a response that is still streaming
    /// is load.
    pub fn report(&self, outcome: Outcome, now: Instant) {
        self.reported.store(true, Ordering::Relaxed);
        match outcome {
            Outcome::Success(latency) | Outcome::Answering(latency) => self.sample(Sample::Answered(latency), now),
            Outcome::Busy | Outcome::GatewayError | Outcome::Broken => {
                self.sample(Sample::Overloaded(now.saturating_duration_since(self.started)), now);
            }
            // Its own errors say nothing of how much it has to do.
            Outcome::ServerError | Outcome::Done => {}
        }
        let Member { state, terms, .. } = &self.member;
        self.outcome.set(outcome);
        terms.cluster.note_outcome(state, outcome, now);
        state.breaker.report(self.endpoint, outcome, &terms.endpoint_breaker, now);
        terms.cluster.breaker.report(self.cluster, outcome, &terms.cluster_breaker, now);
        if let Some(rule) = &self.rule {
            rule.report(outcome, now);
        }
        match outcome {
            Outcome::Success(latency) => {
                state.forget_failures();
                state.latency.observe(latency, now);
            }
            Outcome::Answering(latency) => state.latency.observe(latency, now),
            Outcome::Done => state.forget_failures(),
            Outcome::Busy | Outcome::ServerError | Outcome::GatewayError | Outcome::Broken => {
                state.failures.fetch_add(1, Ordering::Relaxed);
                state.consecutive_failures.fetch_add(1, Ordering::Relaxed);
                state.latency.observe_failure(now);
            }
        }
    }

    /// Whether a breaker waits for what becomes of this attempt.
    #[must_use]
    pub fn probes(&self) -> bool {
        self.endpoint.is_probe() || self.cluster.is_probe() || self.rule.as_ref().is_some_and(Passage::is_probe)
    }

    /// The first message of an answer of which [`Outcome::Answering`] was reported has come: breakers that wait for it to
    /// find out whether they may close have waited long enough.
    pub fn flows(&self, now: Instant) {
        let Member { state, terms, .. } = &self.member;
        state.breaker.flows(self.endpoint, &terms.endpoint_breaker, now);
        terms.cluster.breaker.flows(self.cluster, &terms.cluster_breaker, now);
        if let Some(rule) = &self.rule {
            rule.flows(now);
        }
    }

    /// What began with [`Outcome::Answering`] ended well, unless it was said already how it ended.
    pub fn answered(&self, now: Instant) {
        if self.outcome.is_open() {
            self.report(Outcome::Done, now);
        }
    }

    /// This attempt is the answer of a request that a rule's breaker has let through: what is known of it is told there,
    /// and what will be.
    #[must_use]
    pub fn answering(mut self, rule: Passage, now: Instant) -> Self {
        if let Some(outcome) = self.outcome.get() {
            rule.report(outcome, now);
        }
        self.rule = Some(rule);
        self
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Member { state, terms, .. } = &self.member;
        state.breaker.give_back(self.endpoint, &terms.endpoint_breaker);
        terms.cluster.breaker.give_back(self.cluster, &terms.cluster_breaker);
        self.member.count_out(self.retry);
        terms.cluster.in_flight.release();
        if !*self.reported.get_mut() {
            // The caller left. How long it had waited says something all the same.
            let now = clock::now();
            self.sample(Sample::Unanswered(now.saturating_duration_since(self.started)), now);
        }
    }
}

/// An outcome in one word: what it is in the lowest three bits (0: none yet), its time in microseconds above.
#[derive(Debug, Default)]
struct LastOutcome(AtomicU64);

impl LastOutcome {
    fn set(&self, outcome: Outcome) {
        let (kind, took) = match outcome {
            Outcome::Success(took) => (1, took),
            Outcome::Answering(took) => (2, took),
            Outcome::Done => (3, Duration::ZERO),
            Outcome::Busy => (4, Duration::ZERO),
            Outcome::ServerError => (5, Duration::ZERO),
            Outcome::GatewayError => (6, Duration::ZERO),
            Outcome::Broken => (7, Duration::ZERO),
        };
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).min(u64::MAX >> 3);
        self.0.store(micros << 3 | kind, Ordering::Relaxed);
    }

    /// Whether the end is to follow.
    fn is_open(&self) -> bool {
        matches!(self.get(), Some(Outcome::Answering(_)))
    }

    fn get(&self) -> Option<Outcome> {
        let word = self.0.load(Ordering::Relaxed);
        let took = Duration::from_micros(word >> 3);
        Some(match word & 0b111 {
            1 => Outcome::Success(took),
            2 => Outcome::Answering(took),
            3 => Outcome::Done,
            4 => Outcome::Busy,
            5 => Outcome::ServerError,
            6 => Outcome::GatewayError,
            7 => Outcome::Broken,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOK: Duration = Duration::from_millis(7);

    #[test]
    fn the_last_outcome_is_remembered_to_the_microsecond() {
        let last = LastOutcome::default();
        assert_eq!(last.get(), None);
        let all = [
            Outcome::Success(TOOK),
            Outcome::Answering(TOOK),
            Outcome::Done,
            Outcome::Busy,
            Outcome::ServerError,
            Outcome::GatewayError,
            Outcome::Broken,
        ];
        for outcome in all {
            last.set(outcome);
            assert_eq!(last.get(), Some(outcome));
            assert_eq!(last.is_open(), outcome == Outcome::Answering(TOOK));
        }
    }

    #[test]
    fn what_a_status_says() {
        for status in [200, 204, 301, 404, 428, 499] {
            assert_eq!(Outcome::of_status(status, TOOK), Outcome::Success(TOOK), "{status}");
        }
        assert_eq!(Outcome::of_status(429, TOOK), Outcome::Busy);
        for status in [500, 501, 505, 599] {
            assert_eq!(Outcome::of_status(status, TOOK), Outcome::ServerError, "{status}");
        }
        for status in 502..=504 {
            assert_eq!(Outcome::of_status(status, TOOK), Outcome::GatewayError, "{status}");
        }
    }

    #[test]
    fn what_a_status_of_grpc_says_against_the_server() {
        let failures: Vec<_> =
            (0..=16).filter_map(|status| Some((status, Outcome::of_grpc_failure(status)?))).collect();
        let (busy, error, gateway) = (Outcome::Busy, Outcome::ServerError, Outcome::GatewayError);
        assert_eq!(failures, [(8, busy), (13, error), (14, gateway), (15, error)]);
    }
}
