//! Letting a request in at an endpoint: its breaker and its ceilings, in one step that undoes itself.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use outrigger_config::model::{self, Breaker, ClusterProtocol, EndpointCeilings, Setting};

use super::CircuitBreaker;
use crate::policy::breaker::Pass;
use crate::policy::rng::Rng;
use crate::upstream::cluster::Member;
use crate::upstream::fitness::Closed;
use crate::upstream::state::ClusterState;

/// What the configuration of a cluster says that an attempt needs to its end: shared by its members, and by the permits of
/// requests to them.
#[derive(Debug)]
pub struct Terms {
    /// The cluster's live state.
    pub cluster: Arc<ClusterState>,
    /// The breaker of each endpoint.
    pub(in crate::upstream) endpoint_breaker: Breaker,
    /// The breaker of the cluster; off where none is configured.
    pub(in crate::upstream) cluster_breaker: Breaker,
    ceilings: EndpointCeilings,
    /// Requests that one connection carries at a time.
    per_connection: u32,
}

/// A request that an endpoint has let in. Becomes a permit.
#[derive(Debug)]
pub(in crate::upstream) struct Entered {
    pub(in crate::upstream) member: Member,
    pub(in crate::upstream) pass: Pass,
    /// It is counted among the retries.
    pub(in crate::upstream) retry: bool,
}

/// A pass of a cluster's breaker, given back unless it is kept.
#[derive(Debug)]
pub(in crate::upstream) struct Ticket<'a> {
    breaker: &'a CircuitBreaker,
    settings: &'a Breaker,
    pass: Pass,
}

impl Terms {
    pub(in crate::upstream) fn new(config: &model::Cluster, cluster: &Arc<ClusterState>) -> Arc<Self> {
        Arc::new(Self {
            cluster: Arc::clone(cluster),
            endpoint_breaker: config.breakers.endpoint.clone(),
            cluster_breaker: config.breakers.cluster.clone().unwrap_or_else(off),
            ceilings: config.endpoint_ceilings,
            per_connection: match config.protocol {
                ClusterProtocol::Http1 | ClusterProtocol::Tcp => 1,
                ClusterProtocol::Http2 | ClusterProtocol::Http3 | ClusterProtocol::Auto => {
                    config.connection.max_streams.max(1)
                }
            },
        })
    }

    /// Asks the cluster's breaker.
    ///
    /// # Errors
    /// When to come back.
    pub(in crate::upstream) fn enter_cluster(&self, rng: &mut Rng, now: Instant) -> Result<Ticket<'_>, Duration> {
        let (breaker, settings) = (&self.cluster.breaker, &self.cluster_breaker);
        match breaker.enter(settings, rng, now) {
            Ok(pass) => Ok(Ticket { breaker, settings, pass }),
            Err(after) => {
                breaker.reject();
                Err(after)
            }
        }
    }
}

/// A breaker that only orders open.
fn off() -> Breaker {
    Breaker { failure_threshold: Setting { value: 0, place: None }, ..Breaker::default() }
}

impl Ticket<'_> {
    /// It will be given back otherwise.
    pub(in crate::upstream) fn keep(self) -> Pass {
        let pass = self.pass;
        std::mem::forget(self);
        pass
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.breaker.give_back(self.pass, self.settings);
    }
}

impl Member {
    /// What closes it, as far as can be told without asking: changes nothing.
    pub(in crate::upstream) fn closed(&self, now: Instant) -> Option<Closed> {
        if let Some(retry_after) = self.state.breaker.refuses(&self.terms.endpoint_breaker, now) {
            return Some(Closed::Breaker { retry_after });
        }
        self.is_full().then_some(Closed::Ceiling)
    }

    fn is_full(&self) -> bool {
        let EndpointCeilings { max_requests, max_pending, max_retries: _, max_connections } = self.terms.ceilings;
        let in_flight = || self.state.in_flight.load(Ordering::Relaxed);
        max_requests.is_some_and(|most| in_flight() >= most)
            || max_pending.is_some_and(|most| self.state.pending.get() >= most)
            || max_connections.is_some_and(|most| {
                // Those that are open may have room.
                let connections = self.state.connections.load(Ordering::Relaxed);
                connections >= most && in_flight() >= connections.saturating_mul(self.terms.per_connection)
            })
    }

    /// Lets a request in.
    pub(super) fn enter(&self, retry: bool, rng: &mut Rng, now: Instant) -> Result<Entered, Closed> {
        let (breaker, settings) = (&self.state.breaker, &self.terms.endpoint_breaker);
        let pass = breaker.enter(settings, rng, now).map_err(|retry_after| Closed::Breaker { retry_after })?;
        self.count_in(pass, retry).inspect_err(|_| breaker.give_back(pass, settings))
    }

    /// Lets a request in although the breaker is open, where that is tolerated.
    pub(super) fn enter_regardless(&self, retry: bool) -> Option<Entered> {
        let pass = self.state.breaker.tolerate(&self.terms.endpoint_breaker)?;
        if self.is_full() { None } else { self.count_in(pass, retry).ok() }
    }

    fn count_in(&self, pass: Pass, retry: bool) -> Result<Entered, Closed> {
        let EndpointCeilings { max_requests, max_retries, .. } = self.terms.ceilings;
        let retry = match max_retries {
            Some(most) if retry => {
                if !self.state.retries.try_acquire(most) {
                    return Err(Closed::Ceiling);
                }
                true
            }
            _ => false,
        };
        let before = self.state.in_flight.fetch_add(1, Ordering::Relaxed);
        let entered = Entered { member: self.clone(), pass, retry };
        if max_requests.is_some_and(|most| before >= most) {
            // Another was faster.
            entered.member.count_out(retry);
            return Err(Closed::Ceiling);
        }
        Ok(entered)
    }

    /// A request that was let in is over.
    pub(in crate::upstream) fn count_out(&self, retry: bool) {
        let before = self.state.in_flight.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "an endpoint had fewer requests in flight than ended");
        if retry {
            self.state.retries.release();
        }
    }
}
