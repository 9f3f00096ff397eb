//! Places of clusters: who was shed, and who waited.

use std::time::Duration;

use outrigger_config::model::Criticality;

use super::{AtomicU64, Kind, Labels, Ordering, Series, Text, add};

/// Why a request got no place in a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShedCause {
    /// All places are taken, and there is no queue.
    Limit,
    /// The places of its class are taken; what is left is for more critical requests.
    Class,
    /// The queue is full of requests that matter as much, or another one took its place there.
    QueueFull,
    /// It waited as long as it may.
    QueueTimeout,
    /// The request's deadline came first.
    Deadline,
}

impl ShedCause {
    /// As answers, the access log and metrics call it.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Limit => "concurrency_limit",
            Self::Class => "class",
            Self::QueueFull => "queue_full",
            Self::QueueTimeout => "queue_timeout",
            Self::Deadline => "queue_deadline",
        }
    }
}

const CAUSES: [ShedCause; 5] =
    [ShedCause::Limit, ShedCause::Class, ShedCause::QueueFull, ShedCause::QueueTimeout, ShedCause::Deadline];

const CLASSES: [(Criticality, &str); 3] =
    [(Criticality::Sheddable, "sheddable"), (Criticality::Default, "default"), (Criticality::Critical, "critical")];

/// What is counted by worker.
#[derive(Debug, Default)]
pub(super) struct Admissions {
    shed: [[AtomicU64; CLASSES.len()]; CAUSES.len()],
    queued: AtomicU64,
    waited_nanos: AtomicU64,
}

/// How things stand. Zero places: there is no limit but the ceilings.
#[derive(Debug, Default)]
pub(super) struct Places {
    places: AtomicU64,
    waiting: AtomicU64,
}

impl Admissions {
    pub(super) fn shed(&self, cause: ShedCause, class: Criticality) {
        add(&self.shed[cause as usize][class as usize], 1);
    }

    pub(super) fn queued(&self, waited: Duration) {
        add(&self.queued, 1);
        add(&self.waited_nanos, u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX));
    }
}

impl Places {
    pub(super) fn are(&self, places: u32) {
        self.places.store(places.into(), Ordering::Relaxed);
    }

    pub(super) fn awaited(&self, waiting: u32) {
        self.waiting.store(waiting.into(), Ordering::Relaxed);
    }
}

/// A cluster with its numbers.
pub(super) type Numbers<'a, S> = (&'a Labels, &'a Series<S>, &'a Places);

pub(super) fn encode<S: Default>(clusters: &[Numbers<'_, S>], read: fn(&S) -> &Admissions, text: &mut Text) {
    text.family("outrigger_upstream_shed_total", Kind::Counter, "Requests that got no place, by cause and class.");
    for (labels, series, _) in clusters {
        for cause in CAUSES {
            for (class, name) in CLASSES {
                let count = series.sum(|shard| &read(shard).shed[cause as usize][class as usize]);
                if count > 0 {
                    text.sample(&labels.with("cause", cause.code()).with("class", name), count);
                }
            }
        }
    }
    let limited = || clusters.iter().filter(|(_, _, places)| places.places.load(Ordering::Relaxed) > 0);
    text.family(
        "outrigger_upstream_places",
        Kind::Gauge,
        "Requests that may be in flight, where that is limited by a queue or by latency.",
    );
    for (labels, _, places) in limited() {
        text.sample(labels, places.places.load(Ordering::Relaxed));
    }
    text.family("outrigger_upstream_queue_length", Kind::Gauge, "Requests that wait for a place.");
    for (labels, _, places) in limited() {
        text.sample(labels, places.waiting.load(Ordering::Relaxed));
    }
    text.family("outrigger_upstream_queued_total", Kind::Counter, "Requests that had to wait for a place.");
    for (labels, series, _) in limited() {
        text.sample(labels, series.sum(|shard| &read(shard).queued));
    }
    text.family(
        "outrigger_upstream_queue_wait_seconds_total",
        Kind::Counter,
        "Time that requests waited for a place, whether they got one or not.",
    );
    for (labels, series, _) in limited() {
        // Whole nanoseconds below 2^53 are exact: a hundred days of waiting.
        #[expect(clippy::cast_precision_loss, reason = "see above")]
        text.sample(labels, series.sum(|shard| &read(shard).waited_nanos) as f64 / 1e9);
    }
}
