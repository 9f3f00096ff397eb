//! An authorization policy on a listener.

use std::sync::Arc;

use outrigger_config::model::Access;

use crate::policy::authz::{DEFAULT, Decision, Policy, RuleId};
use crate::telemetry::Metrics;
use crate::telemetry::metrics::{AccessDecision, AccessLabels, AccessMetrics};

/// A policy with its metric handles.
#[derive(Debug)]
pub struct Authorization {
    /// The policy; shared by the listeners that name it.
    pub policy: Arc<Policy>,
    rules: Box<[Arc<AccessMetrics>]>,
    default: Arc<AccessMetrics>,
}

impl Authorization {
    pub(super) fn new(policy: &Arc<Policy>, listener: &Arc<str>, metrics: &Metrics) -> Self {
        let config = policy.config();
        let handle = |rule: &Arc<str>| {
            let (listener, policy, rule) = (Arc::clone(listener), Arc::clone(&config.name), Arc::clone(rule));
            metrics.access(&AccessLabels { listener, policy, rule })
        };
        Self {
            policy: Arc::clone(policy),
            rules: config.rules.iter().map(|rule| handle(&rule.name)).collect(),
            default: handle(&Arc::from(DEFAULT)),
        }
    }

    /// Counts a decision.
    pub fn count(&self, decision: &Decision) {
        let Decision { access, rule, shadow, audits } = decision;
        let (decided, would) = match access {
            Access::Allow => (AccessDecision::Allow, AccessDecision::ShadowDeny),
            Access::Deny => (AccessDecision::Deny, AccessDecision::ShadowAllow),
        };
        self.metrics(*rule).decided(decided);
        if shadow.is_some() {
            self.metrics(*shadow).decided(would);
        }
        for audit in audits {
            self.metrics(Some(*audit)).decided(AccessDecision::Audit);
        }
    }

    /// Counts an open exchange that was ended by a rule, or by the default.
    pub fn count_ended(&self, rule: Option<RuleId>) {
        self.metrics(rule).decided(AccessDecision::Ended);
    }

    /// Whether another one decides alike, so that nothing need be decided again.
    #[must_use]
    pub fn decides_like(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.policy, &other.policy) || self.policy.config() == other.policy.config()
    }

    fn metrics(&self, rule: Option<RuleId>) -> &AccessMetrics {
        rule.and_then(|rule| self.rules.get(rule.index())).unwrap_or(&self.default)
    }
}
