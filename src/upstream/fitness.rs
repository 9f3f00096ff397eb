//! Whether an endpoint may be picked: one question with one place that answers it. Health, ejection, breakers and
//! ceilings each keep their own state; balancers see only the answer.

use std::time::Instant;

use outrigger_config::model::Condition;

use super::cluster::Member;

/// What stands against an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// Nothing.
    Fit,
    /// Its health: overruled in a panic, when too few are left.
    Unwell,
    /// It goes away: only for sessions that are bound to it.
    Draining,
    /// Its breaker is open or its ceilings are reached: never overruled.
    Closed,
}

impl Fit {
    /// Of a member now.
    #[must_use]
    pub fn of(member: &Member, _now: Instant) -> Self {
        match member.condition {
            Condition::Healthy => Self::Fit,
            Condition::Draining => Self::Draining,
            Condition::Unhealthy => Self::Unwell,
        }
    }
}
