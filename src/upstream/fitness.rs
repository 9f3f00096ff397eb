//! Whether an endpoint may be picked: one question with one place that answers it. Health, ejection, breakers and
//! ceilings each keep their own state; balancers see only the answer.

use std::time::{Duration, Instant};

use outrigger_config::model::Condition;

use super::cluster::Member;

/// What stands against an endpoint. Where several things do, what cannot be overruled is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// Nothing.
    Fit,
    /// Its health: overruled in a panic, when too few are left.
    Unwell,
    /// It is checked, and its first check has not ended: passed over while another is fit. It is no sign of a panic:
    /// where it is asked how many are well, it counts neither way.
    Unchecked,
    /// It goes away: only for sessions that are bound to it.
    Draining,
    /// Its breaker is open or its ceilings are reached: never overruled.
    Closed(Closed),
}

/// What closes an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// Its breaker is open.
    Breaker {
        /// When it lets a request through.
        retry_after: Duration,
    },
    /// It has as many requests or connections as it may.
    Ceiling,
}

impl Fit {
    /// Of a member now.
    #[must_use]
    pub fn of(member: &Member, now: Instant) -> Self {
        if let Some(closed) = member.closed(now) {
            return Self::Closed(closed);
        }
        let standing = &member.state.standing;
        match member.condition {
            Condition::Unhealthy => Self::Unwell,
            Condition::Healthy if standing.is_good() => Self::Fit,
            // Its sessions go elsewhere too when it is unwell, as those of any.
            Condition::Healthy | Condition::Draining if standing.is_bad() => Self::Unwell,
            Condition::Healthy => Self::Unchecked,
            Condition::Draining => Self::Draining,
        }
    }
}
