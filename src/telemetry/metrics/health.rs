//! Endpoints by what is said of their health, checks, and ejections, by cluster.

use super::cluster::ClusterMetrics;
use super::{AtomicU64, Kind, Ordering, Text, add};

/// How a health check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckResult {
    /// With the answer that was expected.
    Success,
    /// With another answer.
    Failure,
    /// With none in time.
    Timeout,
    /// Without a connection, or with one that broke.
    Unreachable,
}

/// What is said of an endpoint's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointHealth {
    /// Nothing against it.
    Healthy,
    /// Its checks fail, or whoever configured it says so.
    Unhealthy,
    /// It was ejected.
    Ejected,
    /// It goes away.
    Draining,
    /// Its first check has not ended.
    Unchecked,
}

impl CheckResult {
    /// In metrics and `/clusters`.
    #[must_use]
    pub fn name(self) -> &'static str {
        RESULTS[self as usize].1
    }
}

impl EndpointHealth {
    /// In metrics and `/clusters`.
    #[must_use]
    pub fn name(self) -> &'static str {
        STATES[self as usize].1
    }
}

/// Counts of one shard.
#[derive(Debug, Default)]
pub(super) struct Health {
    checks: [AtomicU64; RESULTS.len()],
    ejections: [AtomicU64; CAUSES.len()],
    overflows: AtomicU64,
}

/// Endpoints by state, as they were counted last.
#[derive(Debug, Default)]
pub(super) struct States([AtomicU64; STATES.len()]);

impl ClusterMetrics {
    /// A health check ended.
    pub fn checked(&self, result: CheckResult) {
        add(&self.series.local().health.checks[result as usize], 1);
    }

    /// An endpoint was ejected; `cause` is one of [`CAUSES`].
    pub fn ejected(&self, cause: &'static str) {
        let known = CAUSES.iter().position(|known| *known == cause);
        debug_assert!(known.is_some(), "no cause of ejections: {cause}");
        if let Some(known) = known {
            add(&self.series.local().health.ejections[known], 1);
        }
    }

    /// An endpoint was not ejected because too few would have been left.
    pub fn ejection_overflowed(&self) {
        add(&self.series.local().health.overflows, 1);
    }

    /// How many endpoints there are now of each kind.
    pub fn endpoints(&self, endpoints: impl Iterator<Item = EndpointHealth>) {
        let mut counts = [0; STATES.len()];
        endpoints.for_each(|endpoint| counts[endpoint as usize] += 1);
        for (counter, count) in self.states.0.iter().zip(counts) {
            counter.store(count, Ordering::Relaxed);
        }
    }
}

pub(super) fn encode(clusters: &[&ClusterMetrics], text: &mut Text) {
    text.family("outrigger_upstream_endpoints", Kind::Gauge, "Endpoints, by what is said of their health.");
    for cluster in clusters {
        for (state, name) in STATES {
            let count = cluster.states.0[state as usize].load(Ordering::Relaxed);
            text.sample(&cluster.labels.with("state", name), count);
        }
    }
    text.family("outrigger_upstream_health_checks_total", Kind::Counter, "Health checks that ended, by result.");
    for cluster in clusters {
        for (result, name) in RESULTS {
            let count = cluster.series.sum(|shard| &shard.health.checks[result as usize]);
            if count > 0 {
                text.sample(&cluster.labels.with("result", name), count);
            }
        }
    }
    text.family("outrigger_upstream_ejections_total", Kind::Counter, "Endpoints that were ejected, by cause.");
    for cluster in clusters {
        for (at, cause) in CAUSES.iter().enumerate() {
            let count = cluster.series.sum(|shard| &shard.health.ejections[at]);
            if count > 0 {
                text.sample(&cluster.labels.with("cause", cause), count);
            }
        }
    }
    text.family(
        "outrigger_upstream_ejection_overflow_total",
        Kind::Counter,
        "Endpoints that were not ejected because too few would have been left.",
    );
    for cluster in clusters {
        let count = cluster.series.sum(|shard| &shard.health.overflows);
        if count > 0 {
            text.sample(&cluster.labels, count);
        }
    }
}

const RESULTS: [(CheckResult, &str); 4] = [
    (CheckResult::Success, "success"),
    (CheckResult::Failure, "failure"),
    (CheckResult::Timeout, "timeout"),
    (CheckResult::Unreachable, "unreachable"),
];

const STATES: [(EndpointHealth, &str); 5] = [
    (EndpointHealth::Healthy, "healthy"),
    (EndpointHealth::Unhealthy, "unhealthy"),
    (EndpointHealth::Ejected, "ejected"),
    (EndpointHealth::Draining, "draining"),
    (EndpointHealth::Unchecked, "unchecked"),
];

/// Why endpoints are ejected.
pub const CAUSES: [&str; 5] = [
    "consecutive_errors",
    "consecutive_gateway_errors",
    "consecutive_local_errors",
    "success_rate",
    "local_success_rate",
];
