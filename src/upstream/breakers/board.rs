//! What breakers of one cluster (or one rule) share: numbers, the log, and when the next probe of an endpoint is due.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Owner;
use crate::base::limits;
use crate::policy::breaker::Standing;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::{BreakerLabels, BreakerMetrics, BreakerScope, BreakerStand};
use crate::upstream::standing::HealthEpoch;

/// Shared by the breakers of a cluster and its endpoints, or one rule's own.
#[derive(Debug)]
pub(in crate::upstream) struct Board {
    name: Name,
    /// Of the endpoints, where there are any.
    endpoints: Arc<BreakerMetrics>,
    /// Of the cluster or the rule.
    whole: Arc<BreakerMetrics>,
    epoch: Instant,
    /// The earliest moment at which a breaker of an endpoint may want a probe, in nanoseconds; `u64::MAX`: none does. It
    /// may be too early, never too late: whoever takes it looks.
    due: AtomicU64,
    said: Mutex<Said>,
}

#[derive(Debug)]
enum Name {
    /// With what moves when an endpoint becomes fit or unfit.
    Cluster(Arc<str>, Arc<HealthEpoch>),
    Rule(Arc<str>, Arc<str>),
}

#[derive(Debug)]
struct Said {
    since: Instant,
    lines: u32,
    unsaid: u64,
}

impl Board {
    pub(in crate::upstream) fn of_cluster(
        name: &Arc<str>,
        health: &Arc<HealthEpoch>,
        metrics: &Metrics,
        now: Instant,
    ) -> Arc<Self> {
        let cluster = || Arc::clone(name);
        let endpoints = metrics.breakers(&BreakerLabels::Endpoints { cluster: cluster() });
        let whole = metrics.breakers(&BreakerLabels::Cluster { cluster: cluster() });
        Self::new(Name::Cluster(cluster(), Arc::clone(health)), (endpoints, whole), now)
    }

    pub(in crate::upstream) fn unseen(name: &Arc<str>, health: &Arc<HealthEpoch>, now: Instant) -> Arc<Self> {
        let metrics = BreakerMetrics::unseen();
        Self::new(Name::Cluster(Arc::clone(name), Arc::clone(health)), (Arc::clone(&metrics), metrics), now)
    }

    pub(super) fn of_rule((table, rule): (&Arc<str>, &Arc<str>), metrics: &Metrics, now: Instant) -> Arc<Self> {
        let whole = metrics.breakers(&BreakerLabels::Rule { table: Arc::clone(table), rule: Arc::clone(rule) });
        Self::new(Name::Rule(Arc::clone(table), Arc::clone(rule)), (Arc::clone(&whole), whole), now)
    }

    fn new(name: Name, (endpoints, whole): (Arc<BreakerMetrics>, Arc<BreakerMetrics>), now: Instant) -> Arc<Self> {
        let said = Mutex::new(Said { since: now, lines: 0, unsaid: 0 });
        Arc::new(Self { name, endpoints, whole, epoch: now, due: AtomicU64::new(u64::MAX), said })
    }

    pub(super) fn metrics(&self, scope: BreakerScope) -> &BreakerMetrics {
        match scope {
            BreakerScope::Endpoint => &self.endpoints,
            BreakerScope::Cluster | BreakerScope::Rule => &self.whole,
        }
    }

    /// An endpoint has become fit or unfit.
    pub(super) fn endpoint_changed(&self) {
        if let Name::Cluster(_, health) = &self.name {
            health.advance();
        }
    }

    /// A probe will be due then.
    pub(super) fn probe_due(&self, at: Instant) {
        self.due.fetch_min(self.nanos(at), Ordering::Relaxed);
    }

    /// Whether a probe may be due. If so, it is for the caller to look, and to say when the next ones are.
    pub(super) fn takes_due(&self, now: Instant) -> bool {
        let due = self.due.load(Ordering::Relaxed);
        due != u64::MAX
            && due <= self.nanos(now)
            && self.due.compare_exchange(due, u64::MAX, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX - 1)
    }

    /// Says what a breaker has become. At most [`limits::BREAKER_LOG_LINES`] in [`limits::REFUSAL_LOG`].
    pub(super) fn say(&self, owner: Owner, to: BreakerStand, standing: Standing, now: Instant) {
        let Some(not_logged) = self.may_say(now) else { return };
        let (cluster, routes, rule) = match &self.name {
            Name::Cluster(cluster, _) => (Some(&**cluster), None, None),
            Name::Rule(table, rule) => (None, Some(&**table), Some(&**rule)),
        };
        let endpoint = match owner {
            Owner::Endpoint(address) => Some(tracing::field::display(address)),
            Owner::Cluster | Owner::Rule => None,
        };
        let (state, cause) = (to.as_str(), standing.cause.as_str());
        match to {
            BreakerStand::Open => {
                let probe_in: Option<Duration> = standing.next_probe;
                tracing::warn!(
                    cluster,
                    routes,
                    rule,
                    endpoint,
                    cause,
                    ?probe_in,
                    not_logged,
                    "a circuit breaker opened"
                );
            }
            BreakerStand::ForcedOpen | BreakerStand::ForcedClosed => {
                tracing::warn!(cluster, routes, rule, endpoint, state, not_logged, "a circuit breaker was forced");
            }
            BreakerStand::HalfOpen | BreakerStand::Ramp | BreakerStand::Closed => {
                tracing::info!(cluster, routes, rule, endpoint, state, not_logged, "a circuit breaker changed");
            }
        }
    }

    /// Whether a line may be written; with how many were not since the last one.
    fn may_say(&self, now: Instant) -> Option<u64> {
        let mut said = self.said.lock();
        if now.saturating_duration_since(said.since) >= limits::REFUSAL_LOG {
            said.since = now;
            said.lines = 0;
        }
        if said.lines >= limits::BREAKER_LOG_LINES {
            said.unsaid += 1;
            return None;
        }
        said.lines += 1;
        Some(std::mem::take(&mut said.unsaid))
    }
}
