//! What the checks of one endpoint said, and what follows from it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use outrigger_config::model::HealthCheck;
use parking_lot::Mutex;

use super::super::standing::Against;
use super::super::state::{ClusterState, EndpointState};
use crate::policy::health::{Health, Went};
use crate::telemetry::metrics::CheckResult;

/// What its checks said. Written by the control thread alone.
#[derive(Debug, Default)]
pub struct CheckRecord(Mutex<Checked>);

/// See [`CheckRecord`].
#[derive(Debug, Clone, Default)]
pub struct Checked {
    /// What follows from all of them.
    pub health: Health,
    /// The last one.
    pub last: Option<LastCheck>,
}

/// A check that ended.
#[derive(Debug, Clone)]
pub struct LastCheck {
    /// When.
    pub at: Instant,
    /// What it took.
    pub took: Duration,
    /// How it went.
    pub result: CheckResult,
    /// The answer, or why there is none, in words.
    pub reason: Arc<str>,
}

impl LastCheck {
    /// Whether it was good.
    #[must_use]
    pub fn went(&self) -> Went {
        match self.result {
            CheckResult::Success => Went::Well,
            CheckResult::Failure | CheckResult::Timeout | CheckResult::Unreachable => Went::Badly,
        }
    }
}

impl CheckRecord {
    /// What is known now.
    #[must_use]
    pub fn get(&self) -> Checked {
        self.0.lock().clone()
    }
}

impl ClusterState {
    /// A check of an endpoint ended.
    pub(crate) fn check_ended(&self, endpoint: &EndpointState, check: &HealthCheck, last: LastCheck) {
        self.metrics.checked(last.result);
        let (now, went, reason) = (last.at, last.went(), Arc::clone(&last.reason));
        let (before, after) = {
            let mut checked = endpoint.checked.0.lock();
            let before = checked.health;
            checked.health = before.after(went, check);
            checked.last = Some(last);
            (before, checked.health)
        };
        let standing = &endpoint.standing;
        let (name, endpoint_address) = (&self.name, endpoint.address);
        match after {
            Health::Unchecked => {}
            Health::Healthy { .. } => {
                let recovered = standing.clear(Against::Unhealthy);
                if standing.clear(Against::Unchecked) || recovered {
                    self.health_epoch.advance();
                }
                if recovered {
                    self.checks_recovered(endpoint, now);
                    if let Some(not_logged) = self.health_news.is_news(now) {
                        let (cluster, endpoint) = (name, endpoint_address);
                        tracing::info!(%cluster, %endpoint, %reason, not_logged, "an endpoint is healthy again");
                    }
                }
            }
            Health::Unhealthy { .. } => {
                // In this order, so that nobody finds it good in between.
                let failed = standing.set(Against::Unhealthy);
                if standing.clear(Against::Unchecked) || failed {
                    self.health_epoch.advance();
                }
                if failed && let Some(not_logged) = self.health_news.is_news(now) {
                    let (cluster, endpoint, first) = (name, endpoint_address, before == Health::Unchecked);
                    tracing::warn!(%cluster, %endpoint, %reason, first, not_logged, "an endpoint is unhealthy");
                }
            }
        }
    }

    /// An endpoint is no longer checked.
    pub(in crate::upstream) fn check_no_more(&self, endpoint: &EndpointState) {
        let unhealthy = endpoint.standing.clear(Against::Unhealthy);
        if endpoint.standing.clear(Against::Unchecked) || unhealthy {
            self.health_epoch.advance();
        }
        *endpoint.checked.0.lock() = Checked::default();
    }
}
