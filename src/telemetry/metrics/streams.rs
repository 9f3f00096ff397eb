//! Connections whose bytes are handed on unread, by listener and cluster.

use super::{
    Arc, AtomicU64, Duration, Histogram, Kind, Labels, Ordering, Series, Slots, Tally, Text, add, encode_histogram,
    gauge, tallies,
};

/// What the numbers are named by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StreamLabels {
    /// The listener's name.
    pub listener: Arc<str>,
    /// The cluster's name; `-` for connections that go on to where they were going.
    pub cluster: Arc<str>,
}

impl StreamLabels {
    pub(super) fn other() -> Self {
        let other: Arc<str> = Arc::from("other");
        Self { listener: other.clone(), cluster: other }
    }

    pub(super) fn text(&self) -> Labels {
        Labels::new(&[("listener", &self.listener), ("cluster", &self.cluster)])
    }
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the caller.
    Received,
    /// To the caller.
    Sent,
}

pub(super) const DIRECTIONS: [(Direction, &str); 2] = [(Direction::Received, "received"), (Direction::Sent, "sent")];

/// The numbers of the connections of one listener to one cluster.
#[derive(Debug)]
pub struct StreamMetrics {
    labels: Labels,
    series: Arc<Series<Shard>>,
}

#[derive(Debug, Default)]
struct Shard {
    opened: AtomicU64,
    open: AtomicU64,
    closed: Tally,
    bytes: [AtomicU64; DIRECTIONS.len()],
    durations: Histogram,
}

impl StreamMetrics {
    pub(super) fn bounded(labels: &StreamLabels, slots: &Arc<Slots>, other: &Arc<Self>) -> Self {
        Self { labels: labels.text(), series: Arc::new(Series::bounded(slots, &other.series)) }
    }

    pub(super) fn other() -> Self {
        Self { labels: StreamLabels::other().text(), series: Arc::new(Series::unbounded()) }
    }

    /// A connection has come. Followed by one [`Self::closed`].
    pub fn opened(&self) {
        let shard = self.series.local();
        add(&shard.opened, 1);
        add(&shard.open, 1);
    }

    /// Bytes were handed on.
    pub fn moved(&self, direction: Direction, bytes: u64) {
        add(&self.series.local().bytes[direction as usize], bytes);
    }

    /// A connection is over. `reason` is a code of the program, empty where both sides had said all.
    pub fn closed(&self, reason: &'static str, lasted: Duration) {
        let shard = self.series.local();
        shard.open.fetch_sub(1, Ordering::Relaxed);
        shard.closed.add(if reason.is_empty() { "-" } else { reason });
        shard.durations.observe(lasted);
    }
}

pub(super) fn encode(streams: &[Arc<StreamMetrics>], text: &mut Text) {
    let mut used: Vec<&StreamMetrics> = streams.iter().map(Arc::as_ref).filter(|s| s.series.is_used()).collect();
    if used.is_empty() {
        return;
    }
    used.sort_by(|a, b| a.labels.cmp(&b.labels));
    text.family("outrigger_tcp_connections_total", Kind::Counter, "Connections to hand on that have come.");
    for stream in &used {
        text.sample(&stream.labels, stream.series.sum(|s| &s.opened));
    }
    text.family("outrigger_tcp_connections", Kind::Gauge, "Connections handed on that are open.");
    for stream in &used {
        text.sample(&stream.labels, gauge(stream.series.sum(|s| &s.open)));
    }
    text.family(
        "outrigger_tcp_connections_closed_total",
        Kind::Counter,
        "Connections handed on that are over, by reason code; - where both sides had said all.",
    );
    for stream in &used {
        for (reason, count) in tallies(&stream.series, |s| &s.closed) {
            text.sample(&stream.labels.with("reason", reason), count);
        }
    }
    text.family("outrigger_tcp_bytes_total", Kind::Counter, "Bytes handed on, from (received) and to (sent) callers.");
    for stream in &used {
        for (direction, name) in DIRECTIONS {
            let bytes = stream.series.sum(|s| &s.bytes[direction as usize]);
            text.sample(&stream.labels.with("direction", name), bytes);
        }
    }
    text.family(
        "outrigger_tcp_connection_duration_seconds",
        Kind::Histogram,
        "How long connections handed on were open.",
    );
    for stream in &used {
        encode_histogram(&stream.labels, &stream.series, |s| &s.durations, text);
    }
}
