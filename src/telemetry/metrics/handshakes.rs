//! TLS handshakes, of a listener's callers and with a cluster's endpoints.

use super::{
    Arc, AtomicU64, ClusterMetrics, Histogram, Instant, Kind, Labels, ListenerMetrics, Ordering, Series, Tally, Text,
    add, encode_histogram, gauge, tallies,
};

/// What is counted of handshakes.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    under_way: AtomicU64,
    completed: AtomicU64,
    resumed: AtomicU64,
    failures: Tally,
    durations: Histogram,
}

/// Whose handshakes.
pub(super) trait Handshaking {
    /// The counters of the current worker.
    fn handshakes(&self) -> &Handshakes;
}

/// A handshake under way. Dropping it means that it was given up, which counts as a failure.
#[derive(Debug)]
pub struct Handshake {
    with: With,
    started: Instant,
    over: bool,
}

#[derive(Debug)]
enum With {
    Callers(Arc<ListenerMetrics>),
    Endpoints(Arc<ClusterMetrics>),
}

/// The reason under which a handshake is counted that was given up: the connection, or whoever waited for it, went.
const ABANDONED: &str = "abandoned";

impl Handshake {
    /// A caller's handshake begins.
    #[must_use]
    pub fn of_caller(metrics: &Arc<ListenerMetrics>) -> Self {
        Self::begin(With::Callers(Arc::clone(metrics)))
    }

    /// A handshake with an endpoint begins.
    #[must_use]
    pub fn with_endpoint(metrics: &Arc<ClusterMetrics>) -> Self {
        Self::begin(With::Endpoints(Arc::clone(metrics)))
    }

    fn begin(with: With) -> Self {
        let handshake = Self { with, started: Instant::now(), over: false };
        add(&handshake.counters().under_way, 1);
        handshake
    }

    /// It is complete. `resumed`: of an earlier session.
    pub fn completed(mut self, resumed: bool) {
        self.over = true;
        let counters = self.counters();
        add(&counters.completed, 1);
        if resumed {
            add(&counters.resumed, 1);
        }
        counters.durations.observe(self.started.elapsed());
    }

    /// It failed. `reason` is a constant of the program.
    pub fn failed(mut self, reason: &'static str) {
        self.over = true;
        self.counters().failures.add(reason);
    }

    fn counters(&self) -> &Handshakes {
        match &self.with {
            With::Callers(metrics) => metrics.handshakes(),
            With::Endpoints(metrics) => metrics.handshakes(),
        }
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let counters = self.counters();
        counters.under_way.fetch_sub(1, Ordering::Relaxed);
        if !self.over {
            counters.failures.add(ABANDONED);
        }
    }
}

impl Handshakes {
    /// A connection failed before any handshake. `reason` is a constant of the program.
    pub(super) fn refused(&self, reason: &'static str) {
        self.failures.add(reason);
    }
}

/// The names of the families, which differ by side.
pub(super) struct Names {
    pub(super) total: &'static str,
    pub(super) resumed: &'static str,
    pub(super) failures: &'static str,
    pub(super) under_way: &'static str,
    pub(super) duration: &'static str,
}

/// Writes the families of one side. Those of which nothing was ever counted are left out.
pub(super) fn encode<T: Default>(
    names: &Names,
    all: &[(&Labels, &Series<T>)],
    of: fn(&T) -> &Handshakes,
    text: &mut Text,
) {
    let read = |series: &Series<T>, field: fn(&Handshakes) -> &AtomicU64| series.sum(|shard| field(of(shard)));
    let failures: Vec<_> = all.iter().map(|(_, series)| tallies(series, |shard| &of(shard).failures)).collect();
    let used = |series: &Series<T>| read(series, |h| &h.completed) + read(series, |h| &h.under_way) > 0;
    let used: Vec<_> =
        all.iter().zip(&failures).filter(|((_, series), failures)| used(series) || !failures.is_empty()).collect();
    if used.is_empty() {
        return;
    }
    text.family(names.total, Kind::Counter, "TLS handshakes completed.");
    for ((labels, series), _) in &used {
        text.sample(labels, read(series, |h| &h.completed));
    }
    text.family(names.resumed, Kind::Counter, "Of those, resumed from an earlier session.");
    for ((labels, series), _) in &used {
        text.sample(labels, read(series, |h| &h.resumed));
    }
    text.family(names.failures, Kind::Counter, "TLS connections refused, by reason.");
    for ((labels, _), failures) in &used {
        for (reason, count) in *failures {
            text.sample(&labels.with("reason", reason), *count);
        }
    }
    text.family(names.under_way, Kind::Gauge, "TLS handshakes under way.");
    for ((labels, series), _) in &used {
        text.sample(labels, gauge(read(series, |h| &h.under_way)));
    }
    text.family(names.duration, Kind::Histogram, "From the beginning of a TLS handshake to its completion.");
    for ((labels, series), _) in &used {
        encode_histogram(labels, series, |shard| &of(shard).durations, text);
    }
}
