//! What active checks make of an endpoint: thresholds, and when the next check is due.
//!
//! The first check of an endpoint decides at once, whichever way it goes. Until then an endpoint that is new is neither
//! healthy nor unhealthy: it gets nothing while others are healthy, and while nothing was checked yet all are used, so
//! that neither a scale-out nor a start costs a request. Afterwards a change takes as many answers in a row as its
//! threshold says. An answer that says "unwell" and no answer count the same.

use std::time::Duration;

use outrigger_config::model::HealthCheck;

use super::rng::Rng;

/// What is known of an endpoint from its checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Health {
    /// Its first check has not ended.
    #[default]
    Unchecked,
    /// It may be used.
    Healthy {
        /// Bad answers since the last good one.
        bad: u32,
    },
    /// It is passed over.
    Unhealthy {
        /// Good answers since the last bad one.
        good: u32,
    },
}

impl Health {
    /// After a check that went well, or did not. The thresholds are those of now: a change applies to the answers
    /// that were counted before it too.
    #[must_use]
    pub fn after(self, went: Went, check: &HealthCheck) -> Self {
        match (self, went) {
            (Self::Unchecked | Self::Healthy { .. }, Went::Well) => Self::Healthy { bad: 0 },
            (Self::Unchecked | Self::Unhealthy { .. }, Went::Badly) => Self::Unhealthy { good: 0 },
            (Self::Healthy { bad }, Went::Badly) => match bad.saturating_add(1) {
                bad if bad >= check.unhealthy_threshold => Self::Unhealthy { good: 0 },
                bad => Self::Healthy { bad },
            },
            (Self::Unhealthy { good }, Went::Well) => match good.saturating_add(1) {
                good if good >= check.healthy_threshold => Self::Healthy { bad: 0 },
                good => Self::Unhealthy { good },
            },
        }
    }
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Went {
    /// The answer that was expected.
    Well,
    /// Another one, or none.
    Badly,
}

/// How long until the next check of an endpoint. `quiet` is how long its cluster has had no request; `None`: it has had
/// none at all.
#[must_use]
pub fn pause(check: &HealthCheck, quiet: Option<Duration>, rng: &mut Rng) -> Duration {
    let idle = quiet.is_none_or(|quiet| quiet >= check.no_traffic_interval);
    // It is meant to be longer. Where it is not, traffic must not make checks rarer.
    let interval = if idle { check.no_traffic_interval.max(check.interval) } else { check.interval };
    let spread = interval.mul_f64(f64::from(check.jitter.min(100)) / 100.0);
    // From one spread less to one more. Never nothing: a check that answers at once must not run in a circle.
    (interval - spread + within(spread * 2, rng)).max(LEAST_PAUSE)
}

/// When the first check of a newcomer begins, one of `newcomers` that came together: a few are checked at once, and many
/// are spread so that they are no storm.
#[must_use]
pub fn first_pause(check: &HealthCheck, newcomers: usize, rng: &mut Rng) -> Duration {
    let newcomers = u32::try_from(newcomers.saturating_sub(1)).unwrap_or(u32::MAX);
    within(FIRST_STEP.saturating_mul(newcomers).min(check.interval), rng)
}

fn within(span: Duration, rng: &mut Rng) -> Duration {
    Duration::from_nanos(rng.below(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
}

/// Newcomers are checked this far apart, as long as all have their turn within an interval.
pub const FIRST_STEP: Duration = Duration::from_millis(1);
/// Checks of one endpoint are at least this far apart.
pub const LEAST_PAUSE: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests;
