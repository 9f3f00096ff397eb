//! Circuit breakers: where they stand, their changes, and what they refused.

use super::{Arc, AtomicU64, Kind, Labels, Ordering, Series, Slots, Text, add, gauge};

/// What a breaker is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BreakerScope {
    /// One endpoint of a cluster.
    Endpoint,
    /// All endpoints of a cluster.
    Cluster,
    /// A rule of a route table.
    Rule,
}

impl BreakerScope {
    /// In a word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Endpoint => "endpoint",
            Self::Cluster => "cluster",
            Self::Rule => "rule",
        }
    }
}

/// What the numbers of breakers are named by. Those of a cluster's endpoints are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum BreakerLabels {
    /// Of all endpoints of a cluster.
    Endpoints {
        /// Its name.
        cluster: Arc<str>,
    },
    /// Of a cluster.
    Cluster {
        /// Its name.
        cluster: Arc<str>,
    },
    /// Of a rule.
    Rule {
        /// Its route table.
        table: Arc<str>,
        /// Its name.
        rule: Arc<str>,
    },
}

/// Where a breaker stands, as it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerStand {
    /// Everything passes.
    Closed,
    /// A growing share passes.
    Ramp,
    /// One request finds out.
    HalfOpen,
    /// Nothing passes.
    Open,
    /// Nothing passes, because somebody ordered it.
    ForcedOpen,
    /// Everything passes, because somebody ordered it.
    ForcedClosed,
}

const STANDS: [(BreakerStand, &str); 6] = [
    (BreakerStand::Closed, "closed"),
    (BreakerStand::Ramp, "ramp"),
    (BreakerStand::HalfOpen, "half_open"),
    (BreakerStand::Open, "open"),
    (BreakerStand::ForcedOpen, "forced_open"),
    (BreakerStand::ForcedClosed, "forced_closed"),
];

impl BreakerStand {
    /// In a word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        STANDS[self as usize].1
    }
}

/// The numbers of breakers that have their labels in common.
#[derive(Debug)]
pub struct BreakerMetrics {
    labels: Labels,
    series: Arc<Series<Shard>>,
}

/// Breakers that are closed are not counted as such: those that never did anything cost nothing.
#[derive(Debug, Default)]
struct Shard {
    standing: [AtomicU64; STANDS.len()],
    moved: [AtomicU64; STANDS.len()],
    rejected: AtomicU64,
    probes: AtomicU64,
}

impl BreakerMetrics {
    pub(super) fn bounded(labels: &BreakerLabels, slots: &Arc<Slots>, other: &Arc<Self>) -> Self {
        Self { labels: text(labels), series: Arc::new(Series::bounded(slots, &other.series)) }
    }

    pub(super) fn other() -> Self {
        Self { labels: Labels::new(&[("scope", "other")]), series: Arc::new(Series::unbounded()) }
    }

    /// Numbers that nobody sees.
    #[must_use]
    pub fn unseen() -> Arc<Self> {
        Arc::new(Self::other())
    }

    /// A breaker changed.
    pub fn moved(&self, from: BreakerStand, to: BreakerStand) {
        let shard = self.series.local();
        add(&shard.moved[to as usize], 1);
        if from != BreakerStand::Closed {
            shard.standing[from as usize].fetch_sub(1, Ordering::Relaxed);
        }
        if to != BreakerStand::Closed {
            add(&shard.standing[to as usize], 1);
        }
    }

    /// A breaker is forgotten.
    pub fn left(&self, from: BreakerStand) {
        if from != BreakerStand::Closed {
            self.series.local().standing[from as usize].fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// A request was refused.
    pub fn rejected(&self) {
        add(&self.series.local().rejected, 1);
    }

    /// A request was let through to find out.
    pub fn probed(&self) {
        add(&self.series.local().probes, 1);
    }
}

fn text(labels: &BreakerLabels) -> Labels {
    match labels {
        BreakerLabels::Endpoints { cluster } => Labels::new(&[("scope", "endpoint"), ("cluster", cluster)]),
        BreakerLabels::Cluster { cluster } => Labels::new(&[("scope", "cluster"), ("cluster", cluster)]),
        BreakerLabels::Rule { table, rule } => Labels::new(&[("scope", "rule"), ("routes", table), ("rule", rule)]),
    }
}

pub(super) fn encode(breakers: &[Arc<BreakerMetrics>], text: &mut Text) {
    let mut used: Vec<&BreakerMetrics> = breakers.iter().map(Arc::as_ref).filter(|b| b.series.is_used()).collect();
    used.sort_by(|a, b| a.labels.cmp(&b.labels));
    text.family(
        "outrigger_breaker_state",
        Kind::Gauge,
        "Circuit breakers that are not simply closed, by where they stand. Those of a cluster's endpoints together.",
    );
    for breaker in &used {
        for (stand, name) in &STANDS[1..] {
            let count = gauge(breaker.series.sum(|shard| &shard.standing[*stand as usize]));
            text.sample(&breaker.labels.with("state", name), count);
        }
    }
    text.family(
        "outrigger_breaker_transitions_total",
        Kind::Counter,
        "Changes of circuit breakers, by what they became.",
    );
    for breaker in &used {
        for (stand, name) in STANDS {
            let count = breaker.series.sum(|shard| &shard.moved[stand as usize]);
            text.sample(&breaker.labels.with("to", name), count);
        }
    }
    text.family(
        "outrigger_breaker_rejected_total",
        Kind::Counter,
        "Requests refused because a circuit breaker was open.",
    );
    for breaker in &used {
        text.sample(&breaker.labels, breaker.series.sum(|shard| &shard.rejected));
    }
    text.family(
        "outrigger_breaker_probes_total",
        Kind::Counter,
        "Requests let through by a half-open circuit breaker to find out.",
    );
    for breaker in &used {
        text.sample(&breaker.labels, breaker.series.sum(|shard| &shard.probes));
    }
}
