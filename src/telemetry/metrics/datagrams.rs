//! Datagrams that are handed on, by listener and cluster.

use super::streams::{DIRECTIONS, Direction};
use super::{
    Arc, AtomicU64, Duration, Histogram, Kind, Labels, Ordering, Series, Slots, StreamLabels, Tally, Text, add,
    encode_histogram, gauge, tallies,
};

/// The numbers of the sessions of one listener with one cluster.
#[derive(Debug)]
pub struct DatagramMetrics {
    labels: Labels,
    series: Arc<Series<Shard>>,
}

#[derive(Debug, Default)]
struct Shard {
    begun: AtomicU64,
    open: AtomicU64,
    ended: Tally,
    datagrams: [AtomicU64; DIRECTIONS.len()],
    bytes: [AtomicU64; DIRECTIONS.len()],
    dropped: Tally,
    durations: Histogram,
}

impl DatagramMetrics {
    pub(super) fn bounded(labels: &StreamLabels, slots: &Arc<Slots>, other: &Arc<Self>) -> Self {
        Self { labels: labels.text(), series: Arc::new(Series::bounded(slots, &other.series)) }
    }

    pub(super) fn other() -> Self {
        Self { labels: StreamLabels::other().text(), series: Arc::new(Series::unbounded()) }
    }

    /// A session has begun. Followed by one [`Self::ended`].
    pub fn begun(&self) {
        let shard = self.series.local();
        add(&shard.begun, 1);
        add(&shard.open, 1);
    }

    /// A session is over. `reason` is a code of the program.
    pub fn ended(&self, reason: &'static str, lasted: Duration) {
        let shard = self.series.local();
        shard.open.fetch_sub(1, Ordering::Relaxed);
        shard.ended.add(reason);
        shard.durations.observe(lasted);
    }

    /// A datagram was handed on.
    pub fn moved(&self, direction: Direction, bytes: usize) {
        let shard = self.series.local();
        add(&shard.datagrams[direction as usize], 1);
        add(&shard.bytes[direction as usize], bytes as u64);
    }

    /// A datagram was not handed on. `reason` is a code of the program.
    pub fn dropped(&self, reason: &'static str) {
        self.series.local().dropped.add(reason);
    }
}

pub(super) fn encode(all: &[Arc<DatagramMetrics>], text: &mut Text) {
    let mut used: Vec<&DatagramMetrics> = all.iter().map(Arc::as_ref).filter(|s| s.series.is_used()).collect();
    if used.is_empty() {
        return;
    }
    used.sort_by(|a, b| a.labels.cmp(&b.labels));
    text.family("outrigger_udp_sessions_total", Kind::Counter, "Sessions of datagrams that have begun.");
    for one in &used {
        text.sample(&one.labels, one.series.sum(|s| &s.begun));
    }
    text.family("outrigger_udp_sessions", Kind::Gauge, "Sessions of datagrams that are open.");
    for one in &used {
        text.sample(&one.labels, gauge(one.series.sum(|s| &s.open)));
    }
    text.family("outrigger_udp_sessions_ended_total", Kind::Counter, "Sessions that are over, by reason code.");
    for one in &used {
        for (reason, count) in tallies(&one.series, |s| &s.ended) {
            text.sample(&one.labels.with("reason", reason), count);
        }
    }
    text.family("outrigger_udp_datagrams_total", Kind::Counter, "Datagrams handed on, by direction.");
    for one in &used {
        for (direction, name) in DIRECTIONS {
            let count = one.series.sum(|s| &s.datagrams[direction as usize]);
            text.sample(&one.labels.with("direction", name), count);
        }
    }
    text.family("outrigger_udp_bytes_total", Kind::Counter, "Bytes of datagrams handed on, by direction.");
    for one in &used {
        for (direction, name) in DIRECTIONS {
            let bytes = one.series.sum(|s| &s.bytes[direction as usize]);
            text.sample(&one.labels.with("direction", name), bytes);
        }
    }
    text.family("outrigger_udp_datagrams_dropped_total", Kind::Counter, "Datagrams not handed on, by reason code.");
    for one in &used {
        for (reason, count) in tallies(&one.series, |s| &s.dropped) {
            text.sample(&one.labels.with("reason", reason), count);
        }
    }
    text.family("outrigger_udp_session_duration_seconds", Kind::Histogram, "How long sessions of datagrams lasted.");
    for one in &used {
        encode_histogram(&one.labels, &one.series, |s| &s.durations, text);
    }
}
