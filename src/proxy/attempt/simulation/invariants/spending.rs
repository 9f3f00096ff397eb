//! Retries and hedged attempts against the requests of the last ten seconds, from a list of all of them.

use std::collections::VecDeque;

use outrigger_config::model::RetryBudget;

/// What was spent, and in which second.
#[derive(Debug, Default)]
pub(in super::super) struct Spending(VecDeque<(u64, Spent)>);

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Spent {
    Request,
    Retry,
    Hedge,
}

impl Spending {
    pub(in super::super) fn spend(&mut self, what: Spent, second: u64) {
        self.0.push_back((second, what));
    }

    /// A hedged attempt that could not be made.
    pub(in super::super) fn give_back(&mut self, second: u64) {
        if let Some(at) = self.0.iter().rposition(|entry| *entry == (second, Spent::Hedge)) {
            self.0.remove(at);
        }
    }

    /// Whether one more may be spent: a share of the requests of the last ten seconds, or a few a second.
    pub(in super::super) fn affords(&mut self, what: Spent, limits: RetryBudget, second: u64) -> bool {
        self.0.retain(|(at, _)| at + 10 > second);
        let count = |wanted| self.0.iter().filter(|(_, spent)| *spent == wanted).count() as u64;
        let this_second = self.0.iter().filter(|entry| **entry == (second, what)).count() as u64;
        this_second < u64::from(limits.min_per_second)
            || count(what) < count(Spent::Request) * u64::from(limits.percent) / 100
    }

    /// One more was spent. It is counted.
    pub(in super::super) fn grant(&mut self, what: Spent, limits: RetryBudget, second: u64) -> super::Held {
        let affordable = self.affords(what, limits, second);
        self.spend(what, second);
        if affordable { Ok(()) } else { Err(format!("a {what:?} beyond the budget of {limits:?}")) }
    }
}
