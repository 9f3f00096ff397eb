//! Copies of requests.

use super::{Arc, AtomicU64, Kind, Labels, Ordering, Series, Text, add, gauge};

/// What became of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mirrored {
    /// It was answered, whatever the answer.
    Answered,
    /// It could not be sent, or was not answered properly.
    Failed,
    /// The mirror's cluster had no endpoint or no room for it.
    Refused,
    /// It took too long.
    Timeout,
    /// The mirror took the body too slowly, or the request itself broke off.
    GivenUp,
    /// It was not begun: as many as may be were on the way.
    LeftOut,
}

const MIRRORED: [(Mirrored, &str); 6] = [
    (Mirrored::Answered, "answered"),
    (Mirrored::Failed, "failed"),
    (Mirrored::Refused, "refused"),
    (Mirrored::Timeout, "timeout"),
    (Mirrored::GivenUp, "given_up"),
    (Mirrored::LeftOut, "left_out"),
];

/// The numbers of the copies that one cluster gets.
#[derive(Debug)]
pub struct MirrorMetrics {
    labels: Labels,
    series: Series<Shard>,
}

#[derive(Debug, Default)]
struct Shard {
    mirrored: [AtomicU64; MIRRORED.len()],
    in_flight: AtomicU64,
}

impl MirrorMetrics {
    pub(super) fn new(cluster: &str) -> Self {
        Self { labels: Labels::new(&[("cluster", cluster)]), series: Series::unbounded() }
    }

    /// A copy is sent. Followed by one [`Self::ended`].
    pub fn began(&self) {
        add(&self.series.local().in_flight, 1);
    }

    /// A copy is over.
    pub fn ended(&self, what: Mirrored) {
        self.series.local().in_flight.fetch_sub(1, Ordering::Relaxed);
        self.mirrored(what);
    }

    /// What became of a copy, also of one that never began.
    pub fn mirrored(&self, what: Mirrored) {
        add(&self.series.local().mirrored[what as usize], 1);
    }
}

pub(super) fn encode(mirrors: &[Arc<MirrorMetrics>], text: &mut Text) {
    if mirrors.is_empty() {
        return;
    }
    let mut all: Vec<&MirrorMetrics> = mirrors.iter().map(Arc::as_ref).collect();
    all.sort_by(|a, b| a.labels.cmp(&b.labels));
    text.family("outrigger_mirrored_requests_total", Kind::Counter, "Copies of requests, by what became of them.");
    for mirror in &all {
        for (what, name) in MIRRORED {
            text.sample(&mirror.labels.with("result", name), mirror.series.sum(|s| &s.mirrored[what as usize]));
        }
    }
    text.family("outrigger_mirrored_requests_in_flight", Kind::Gauge, "Copies of requests on the way.");
    for mirror in &all {
        text.sample(&mirror.labels, gauge(mirror.series.sum(|s| &s.in_flight)));
    }
}
