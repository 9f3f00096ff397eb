//! Decisions by authorization rule.

use super::{Arc, AtomicU64, Kind, Labels, Series, Slots, Text, add};

/// What the numbers of a rule are named by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AccessLabels {
    /// The listener's name.
    pub listener: Arc<str>,
    /// The policy's name.
    pub policy: Arc<str>,
    /// The rule's name; `default` where no rule decided.
    pub rule: Arc<str>,
}

/// What came of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessDecision {
    /// It let a request through.
    Allow,
    /// It refused one.
    Deny,
    /// It matched and only says so.
    Audit,
    /// It would have let a refused request through, were it enforced.
    ShadowAllow,
    /// It would have refused an allowed request, were it enforced.
    ShadowDeny,
    /// It ended an exchange that was open when the policy changed.
    Ended,
}

const DECISIONS: [(AccessDecision, &str); 6] = [
    (AccessDecision::Allow, "allow"),
    (AccessDecision::Deny, "deny"),
    (AccessDecision::Audit, "audit"),
    (AccessDecision::ShadowAllow, "shadow_allow"),
    (AccessDecision::ShadowDeny, "shadow_deny"),
    (AccessDecision::Ended, "ended"),
];

/// The numbers of one rule on one listener.
#[derive(Debug)]
pub struct AccessMetrics {
    labels: Labels,
    series: Arc<Series<Shard>>,
}

#[derive(Debug, Default)]
struct Shard {
    decisions: [AtomicU64; DECISIONS.len()],
}

impl AccessMetrics {
    pub(super) fn bounded(labels: &AccessLabels, slots: &Arc<Slots>, other: &Arc<Self>) -> Self {
        Self { labels: text(labels), series: Arc::new(Series::bounded(slots, &other.series)) }
    }

    pub(super) fn other() -> Self {
        let other: Arc<str> = Arc::from("other");
        let labels = AccessLabels { listener: other.clone(), policy: other.clone(), rule: other };
        Self { labels: text(&labels), series: Arc::new(Series::unbounded()) }
    }

    /// The rule decided, or would have.
    pub fn decided(&self, decision: AccessDecision) {
        add(&self.series.local().decisions[decision as usize], 1);
    }
}

fn text(labels: &AccessLabels) -> Labels {
    Labels::new(&[("listener", &labels.listener), ("policy", &labels.policy), ("rule", &labels.rule)])
}

pub(super) fn encode(rules: &[Arc<AccessMetrics>], text: &mut Text) {
    let mut used: Vec<&AccessMetrics> = rules.iter().map(Arc::as_ref).filter(|rule| rule.series.is_used()).collect();
    used.sort_by(|a, b| a.labels.cmp(&b.labels));
    text.family(
        "outrigger_authorization_decisions_total",
        Kind::Counter,
        "Decisions by the rule that made them, and what audit and shadow rules would have.",
    );
    for rule in &used {
        for (decision, name) in DECISIONS {
            let count = rule.series.sum(|shard| &shard.decisions[decision as usize]);
            if count > 0 {
                text.sample(&rule.labels.with("decision", name), count);
            }
        }
    }
}
