//! The pages of the books: one for each cluster and each endpoint.

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::Instant;

use super::invariants::{Gauge, Held, Spending, WatchedBreaker};
use crate::upstream::{ClusterState, EndpointState};

/// A cluster.
#[derive(Debug)]
pub(super) struct ClusterBook {
    pub(super) state: Weak<ClusterState>,
    created: Instant,
    pub(super) in_use: Instant,
    pub(super) in_flight: Gauge,
    pub(super) retries: Gauge,
    /// Places that requests hold.
    pub(super) places: Gauge,
    /// Requests that wait for one.
    pub(super) waiting: Gauge,
    pub(super) spending: Spending,
    pub(super) breaker: WatchedBreaker,
}

/// An endpoint of a cluster.
#[derive(Debug)]
pub(super) struct EndpointBook {
    pub(super) state: Weak<EndpointState>,
    pub(super) in_use: Instant,
    pub(super) in_flight: Gauge,
    pub(super) requests: u64,
    pub(super) failures: u64,
    pub(super) consecutive_failures: u32,
    pub(super) breaker: WatchedBreaker,
    pub(super) ejected: bool,
}

impl ClusterBook {
    pub(super) fn new(state: &Arc<ClusterState>, now: Instant) -> Self {
        Self {
            state: Arc::downgrade(state),
            created: now,
            in_use: now,
            in_flight: Gauge::default(),
            retries: Gauge::default(),
            places: Gauge::default(),
            waiting: Gauge::default(),
            spending: Spending::default(),
            breaker: WatchedBreaker::new(state.breaker.machine()),
        }
    }

    pub(super) fn second(&self, now: Instant) -> u64 {
        (now - self.created).as_secs()
    }

    pub(super) fn is_quiet(&self) -> Held {
        [self.in_flight, self.retries, self.places, self.waiting].into_iter().try_for_each(Gauge::is_quiet)
    }
}

impl EndpointBook {
    pub(super) fn new(state: &Arc<EndpointState>, now: Instant) -> Self {
        Self {
            state: Arc::downgrade(state),
            in_use: now,
            in_flight: Gauge::default(),
            requests: 0,
            failures: 0,
            consecutive_failures: 0,
            breaker: WatchedBreaker::new(state.breaker.machine()),
            ejected: false,
        }
    }

    pub(super) fn assert_equals(&self, state: &EndpointState, key: &(Arc<str>, SocketAddr)) {
        assert_eq!(state.in_flight.load(Relaxed), self.in_flight.get(), "requests in flight of {key:?}");
        assert_eq!(state.requests.load(Relaxed), self.requests, "requests of {key:?}");
        assert_eq!(state.failures.load(Relaxed), self.failures, "failures of {key:?}");
        let failures = state.consecutive_failures.load(Relaxed);
        assert_eq!(failures, self.consecutive_failures, "consecutive failures of {key:?}");
        assert_eq!(state.connections.load(Relaxed), 0, "connections of {key:?}");
        assert_eq!(state.pending.get(), 0, "requests of {key:?} that wait for a connection");
        assert!(state.retries.get() <= self.in_flight.get(), "retries in flight of {key:?}");
    }
}
