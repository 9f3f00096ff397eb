//! Attempts beside each other, and work that upstreams did for nobody.

use std::time::Duration;

use super::cluster::ClusterMetrics;
use super::{AtomicU64, Kind, Text, add};

/// Why an answer that an upstream was asked for was of no use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waste {
    /// The caller left.
    CallerLeft,
    /// The time limit of the request, or the caller's deadline, passed.
    Deadline,
    /// The time limit of one attempt passed.
    AttemptLimit,
    /// Another attempt beside it was answered first.
    HedgeLost,
}

/// The numbers of one cluster.
#[derive(Debug, Default)]
pub(super) struct Effort {
    wasted: [Wasted; WASTES.len()],
    hedges: AtomicU64,
    won: AtomicU64,
    budget_exhausted: AtomicU64,
}

#[derive(Debug, Default)]
struct Wasted {
    count: AtomicU64,
    micros: AtomicU64,
}

const WASTES: [(Waste, &str); 4] = [
    (Waste::CallerLeft, "caller_left"),
    (Waste::Deadline, "deadline"),
    (Waste::AttemptLimit, "attempt_limit"),
    (Waste::HedgeLost, "hedge_lost"),
];

impl ClusterMetrics {
    /// An attempt that had been sent so long ago was given up before its answer.
    pub fn wasted(&self, waste: Waste, spent: Duration) {
        let wasted = &self.effort().wasted[waste as usize];
        add(&wasted.count, 1);
        add(&wasted.micros, spent.as_micros() as u64);
    }

    /// A hedged attempt was begun.
    pub fn hedged(&self) {
        add(&self.effort().hedges, 1);
    }

    /// A hedged attempt gave the answer.
    pub fn hedge_won(&self) {
        add(&self.effort().won, 1);
    }

    /// A hedged attempt was due and the budget did not allow it.
    pub fn hedge_budget_exhausted(&self) {
        add(&self.effort().budget_exhausted, 1);
    }
}

/// Name, help text, and where it is.
type Counter = (&'static str, &'static str, fn(&Effort) -> &AtomicU64);

const COUNTERS: [Counter; 3] = [
    ("outrigger_upstream_hedges_total", "Attempts begun beside one that was under way.", |effort| &effort.hedges),
    ("outrigger_upstream_hedges_won_total", "Of those, the ones that gave the answer.", |effort| &effort.won),
    (
        "outrigger_upstream_hedge_budget_exhausted_total",
        "Hedged attempts that were due and that the budget did not allow.",
        |effort| &effort.budget_exhausted,
    ),
];

pub(super) fn encode(clusters: &[&ClusterMetrics], text: &mut Text) {
    for (name, help, read) in COUNTERS {
        text.family(name, Kind::Counter, help);
        for cluster in clusters {
            text.sample(cluster.labels(), cluster.sum_effort(read));
        }
    }
    text.family(
        "outrigger_upstream_wasted_total",
        Kind::Counter,
        "Attempts that were sent and given up before their answer, by cause.",
    );
    for cluster in clusters {
        for (waste, name) in WASTES {
            let count = cluster.sum_effort(|effort| &effort.wasted[waste as usize].count);
            text.sample(&cluster.labels().with("cause", name), count);
        }
    }
    text.family(
        "outrigger_upstream_wasted_seconds_total",
        Kind::Counter,
        "Time that these had been under way, by cause.",
    );
    for cluster in clusters {
        for (waste, name) in WASTES {
            let micros = cluster.sum_effort(|effort| &effort.wasted[waste as usize].micros);
            let seconds = Duration::from_micros(micros).as_secs_f64();
            text.sample(&cluster.labels().with("cause", name), seconds);
        }
    }
}
