//! What decides about callers from outside: keys that tokens are verified with, and external authorizers.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Arc, AtomicU64, Histogram, Kind, Labels, Ordering, Series, Text, add, encode_histogram};

/// The numbers of one token provider's keys.
#[derive(Debug)]
pub struct KeyMetrics {
    labels: Labels,
    loaded: AtomicU64,
    failed: AtomicU64,
    keys: AtomicU64,
    /// Milliseconds since 1970; 0: never.
    last: AtomicU64,
}

impl KeyMetrics {
    pub(super) fn new(provider: &str) -> Self {
        Self {
            labels: Labels::new(&[("provider", provider)]),
            loaded: AtomicU64::default(),
            failed: AtomicU64::default(),
            keys: AtomicU64::default(),
            last: AtomicU64::default(),
        }
    }

    /// A key set with so many usable keys was had.
    pub fn loaded(&self, keys: usize, at: SystemTime) {
        let millis = at.duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
        self.last.store(millis, Ordering::Relaxed);
        self.keys.store(keys as u64, Ordering::Relaxed);
        add(&self.loaded, 1);
    }

    /// None was had; the one before stays in use.
    pub fn failed(&self) {
        add(&self.failed, 1);
    }
}

/// What an external authorizer said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Let it through.
    Allowed,
    /// Refuse it.
    Denied,
    /// Nothing that could be used.
    Error,
    /// Nothing in time.
    Timeout,
    /// The caller left before it said anything.
    Cancelled,
}

const ASKED: [(Asked, &str); 5] = [
    (Asked::Allowed, "allowed"),
    (Asked::Denied, "denied"),
    (Asked::Error, "error"),
    (Asked::Timeout, "timeout"),
    (Asked::Cancelled, "cancelled"),
];

/// The numbers of one external authorizer.
#[derive(Debug)]
pub struct AuthorizerMetrics {
    labels: Labels,
    series: Series<Shard>,
}

#[derive(Debug, Default)]
struct Shard {
    asked: [AtomicU64; ASKED.len()],
    failed_open: AtomicU64,
    time: Histogram,
}

impl AuthorizerMetrics {
    pub(super) fn new(name: &str) -> Self {
        Self { labels: Labels::new(&[("authorizer", name)]), series: Series::unbounded() }
    }

    /// It was asked.
    pub fn asked(&self, what: Asked, took: Duration) {
        let shard = self.series.local();
        add(&shard.asked[what as usize], 1);
        shard.time.observe(took);
    }

    /// A request was let through because it could not be asked.
    pub fn failed_open(&self) {
        add(&self.series.local().failed_open, 1);
    }
}

pub(super) fn encode_keys(providers: &[Arc<KeyMetrics>], text: &mut Text) {
    let mut all: Vec<&KeyMetrics> = providers.iter().map(Arc::as_ref).collect();
    all.sort_by(|a, b| a.labels.cmp(&b.labels));
    text.family("outrigger_jwks_loads_total", Kind::Counter, "Attempts to have a token provider's keys, by result.");
    for provider in &all {
        text.sample(&provider.labels.with("result", "success"), provider.loaded.load(Ordering::Relaxed));
        text.sample(&provider.labels.with("result", "failure"), provider.failed.load(Ordering::Relaxed));
    }
    text.family("outrigger_jwks_keys", Kind::Gauge, "Usable keys of a token provider; 0: its tokens are refused.");
    for provider in &all {
        text.sample(&provider.labels, provider.keys.load(Ordering::Relaxed));
    }
    text.family(
        "outrigger_jwks_last_success_timestamp_seconds",
        Kind::Gauge,
        "When a token provider's keys were last had, in seconds since 1970.",
    );
    for provider in &all {
        let millis = provider.last.load(Ordering::Relaxed);
        if millis > 0 {
            text.sample(&provider.labels, format_args!("{}.{:03}", millis / 1000, millis % 1000));
        }
    }
}

pub(super) fn encode_authorizers(authorizers: &[Arc<AuthorizerMetrics>], text: &mut Text) {
    let mut all: Vec<&AuthorizerMetrics> = authorizers.iter().map(Arc::as_ref).collect();
    all.sort_by(|a, b| a.labels.cmp(&b.labels));
    text.family(
        "outrigger_external_authorization_total",
        Kind::Counter,
        "Questions to external authorizers, by what came of them.",
    );
    for authorizer in &all {
        for (what, name) in ASKED {
            let count = authorizer.series.sum(|s| &s.asked[what as usize]);
            text.sample(&authorizer.labels.with("result", name), count);
        }
    }
    text.family(
        "outrigger_external_authorization_duration_seconds",
        Kind::Histogram,
        "From a question to an external authorizer to its answer.",
    );
    for authorizer in &all {
        encode_histogram(&authorizer.labels, &authorizer.series, |s| &s.time, text);
    }
    text.family(
        "outrigger_external_authorization_failed_open_total",
        Kind::Counter,
        "Requests let through because their external authorizer could not be asked.",
    );
    for authorizer in &all {
        text.sample(&authorizer.labels, authorizer.series.sum(|s| &s.failed_open));
    }
}
