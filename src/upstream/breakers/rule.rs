//! Breakers of rules. A rule's evidence is what came of a request in the end, retries included.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use outrigger_config::model::Breaker;
use parking_lot::Mutex;

use super::{Board, CircuitBreaker, Owner};
#[cfg(test)]
use crate::policy::breaker::Machine;
use crate::policy::breaker::Pass;
use crate::policy::rng::Rng;
use crate::telemetry::Metrics;
use crate::upstream::permit::Outcome;
use crate::upstream::registry::Kept;

/// The breaker of a rule as one configuration has it.
#[derive(Debug)]
pub struct RuleBreaker {
    /// The route table.
    pub table: Arc<str>,
    /// The rule's name.
    pub rule: Arc<str>,
    pub(super) settings: Breaker,
    pub(super) breaker: Arc<CircuitBreaker>,
}

/// A request that a rule's breaker has let through. Dropping it without a report is no evidence.
#[derive(Debug)]
pub struct Passage {
    rule: Arc<RuleBreaker>,
    pass: Pass,
}

impl RuleBreaker {
    /// Where it stands, with what it goes by.
    #[cfg(test)]
    pub(crate) fn machine(&self) -> Machine {
        self.breaker.machine()
    }

    /// Asks for a request.
    ///
    /// # Errors
    /// When to come back.
    pub fn enter(self: &Arc<Self>, rng: &mut Rng, now: Instant) -> Result<Passage, Duration> {
        match self.breaker.enter(&self.settings, rng, now) {
            Ok(pass) => Ok(Passage { rule: Arc::clone(self), pass }),
            Err(after) => {
                self.breaker.reject();
                Err(after)
            }
        }
    }
}

impl Passage {
    /// Whether this request finds out if others may follow.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.pass.is_probe()
    }

    /// What came of the request.
    pub fn report(&self, outcome: Outcome, now: Instant) {
        self.rule.breaker.report(self.pass, outcome, &self.rule.settings, now);
    }

    /// The answer has begun to flow.
    pub(in crate::upstream) fn flows(&self, now: Instant) {
        self.rule.breaker.flows(self.pass, &self.rule.settings, now);
    }

    /// We gave up waiting for an answer after this time.
    pub fn gave_up(&self, after: Duration, now: Instant) {
        self.rule.breaker.gave_up(self.pass, after, &self.rule.settings, now);
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        self.rule.breaker.give_back(self.pass, &self.rule.settings);
    }
}

/// The breakers of all rules, by table and rule: kept for as long as a configuration has them, and a while longer.
#[derive(Debug, Default)]
pub(in crate::upstream) struct RuleBreakers(Mutex<HashMap<RuleKey, Entry>>);

/// The route table and the rule.
type RuleKey = (Arc<str>, Arc<str>);

#[derive(Debug)]
struct Entry {
    kept: Kept<CircuitBreaker>,
    /// As the newest configuration has it.
    newest: Weak<RuleBreaker>,
}

impl RuleBreakers {
    /// The breaker of a rule, old or new.
    pub(in crate::upstream) fn get(
        &self,
        (table, rule): (&Arc<str>, &Arc<str>),
        settings: &Breaker,
        metrics: &Metrics,
        now: Instant,
    ) -> Arc<RuleBreaker> {
        let mut all = self.0.lock();
        let entry = all.entry((Arc::clone(table), Arc::clone(rule))).or_insert_with(|| {
            let board = Board::of_rule((table, rule), metrics, now);
            Entry { kept: Kept::new(CircuitBreaker::new(Owner::Rule, &board, now)), newest: Weak::new() }
        });
        let known = entry.newest.upgrade().filter(|known| known.settings == *settings);
        known.unwrap_or_else(|| {
            let breaker = entry.kept.share();
            let (table, rule) = (Arc::clone(table), Arc::clone(rule));
            let made = Arc::new(RuleBreaker { table, rule, settings: settings.clone(), breaker });
            entry.newest = Arc::downgrade(&made);
            made
        })
    }

    /// Those that a configuration has, by name.
    pub(in crate::upstream) fn in_use(&self) -> Vec<Arc<RuleBreaker>> {
        let mut rules: Vec<_> = self.0.lock().values().filter_map(|entry| entry.newest.upgrade()).collect();
        rules.sort_by(|a, b| (&a.table, &a.rule).cmp(&(&b.table, &b.rule)));
        rules
    }

    pub(in crate::upstream) fn sweep(&self, now: Instant) {
        self.0.lock().retain(|_, entry| entry.kept.stays(now));
    }
}
