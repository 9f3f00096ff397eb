//! Rate limits: those that this proxy keeps, and the services that it asks.

use std::time::Duration;

use super::{Arc, AtomicU64, Histogram, Kind, Labels, Ordering, Series, Slots, Text, add, encode_histogram};

/// What came of a rate limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limited {
    /// A request passed.
    Admitted,
    /// A request was refused.
    Refused,
    /// A request passed that would have been refused, were the limit enforced.
    Shadowed,
}

const LIMITED: [(Limited, &str); 3] =
    [(Limited::Admitted, "admitted"), (Limited::Refused, "refused"), (Limited::Shadowed, "shadow_refused")];

/// The numbers of one rate limit.
#[derive(Debug)]
pub struct RateLimitMetrics {
    labels: Labels,
    series: Arc<Series<Shard>>,
    keys: AtomicU64,
}

#[derive(Debug, Default)]
struct Shard {
    limited: [AtomicU64; LIMITED.len()],
    given_up: AtomicU64,
}

impl RateLimitMetrics {
    pub(super) fn bounded(name: &str, slots: &Arc<Slots>, other: &Arc<Self>) -> Self {
        let series = Arc::new(Series::bounded(slots, &other.series));
        Self { labels: Labels::new(&[("limit", name)]), series, keys: AtomicU64::default() }
    }

    pub(super) fn other() -> Self {
        let series = Arc::new(Series::unbounded());
        Self { labels: Labels::new(&[("limit", "other")]), series, keys: AtomicU64::default() }
    }

    /// It was met by a request.
    pub fn limited(&self, what: Limited) {
        add(&self.series.local().limited[what as usize], 1);
    }

    /// So many keys were given up for others although something of their burst was used.
    pub fn gave_up(&self, keys: u64) {
        add(&self.series.local().given_up, keys);
    }

    /// So many keys are remembered.
    pub fn remembers(&self, keys: u64) {
        self.keys.store(keys, Ordering::Relaxed);
    }
}

/// What a rate limit service said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceAnswer {
    /// The request may pass.
    Ok,
    /// It is over a limit.
    OverLimit,
    /// Nothing that could be used.
    Error,
    /// Nothing in time.
    Timeout,
    /// The caller left before it said anything.
    Cancelled,
}

const ANSWERS: [(ServiceAnswer, &str); 5] = [
    (ServiceAnswer::Ok, "ok"),
    (ServiceAnswer::OverLimit, "over_limit"),
    (ServiceAnswer::Error, "error"),
    (ServiceAnswer::Timeout, "timeout"),
    (ServiceAnswer::Cancelled, "cancelled"),
];

/// The numbers of one rate limit service.
#[derive(Debug)]
pub struct RateLimitServiceMetrics {
    labels: Labels,
    series: Series<ServiceShard>,
}

#[derive(Debug, Default)]
struct ServiceShard {
    answers: [AtomicU64; ANSWERS.len()],
    failure_allowed: AtomicU64,
    time: Histogram,
}

impl RateLimitServiceMetrics {
    pub(super) fn new(name: &str) -> Self {
        Self { labels: Labels::new(&[("service", name)]), series: Series::unbounded() }
    }

    /// It was asked.
    pub fn asked(&self, what: ServiceAnswer, took: Duration) {
        let shard = self.series.local();
        add(&shard.answers[what as usize], 1);
        shard.time.observe(took);
    }

    /// A request passed because it could not be asked.
    pub fn failure_allowed(&self) {
        add(&self.series.local().failure_allowed, 1);
    }
}

pub(super) fn encode(limits: &[Arc<RateLimitMetrics>], text: &mut Text) {
    let mut used: Vec<&RateLimitMetrics> = limits.iter().map(Arc::as_ref).filter(|l| l.series.is_used()).collect();
    if used.is_empty() {
        return;
    }
    used.sort_by(|a, b| a.labels.cmp(&b.labels));
    text.family(
        "outrigger_rate_limit_requests_total",
        Kind::Counter,
        "Requests that met a rate limit, by what came of it.",
    );
    for limit in &used {
        for (what, name) in LIMITED {
            let count = limit.series.sum(|s| &s.limited[what as usize]);
            if count > 0 {
                text.sample(&limit.labels.with("result", name), count);
            }
        }
    }
    text.family(
        "outrigger_rate_limit_keys",
        Kind::Gauge,
        "Keys of a rate limit that have used something of their burst.",
    );
    for limit in &used {
        text.sample(&limit.labels, limit.keys.load(Ordering::Relaxed));
    }
    text.family(
        "outrigger_rate_limit_keys_given_up_total",
        Kind::Counter,
        "Keys forgotten before their time because others came; each begins with its whole burst again.",
    );
    for limit in &used {
        text.sample(&limit.labels, limit.series.sum(|s| &s.given_up));
    }
}

pub(super) fn encode_services(services: &[Arc<RateLimitServiceMetrics>], text: &mut Text) {
    if services.is_empty() {
        return;
    }
    let mut all: Vec<&RateLimitServiceMetrics> = services.iter().map(Arc::as_ref).collect();
    all.sort_by(|a, b| a.labels.cmp(&b.labels));
    text.family(
        "outrigger_rate_limit_service_total",
        Kind::Counter,
        "Questions to rate limit services, by what came of them.",
    );
    for service in &all {
        for (what, name) in ANSWERS {
            text.sample(&service.labels.with("result", name), service.series.sum(|s| &s.answers[what as usize]));
        }
    }
    text.family(
        "outrigger_rate_limit_service_duration_seconds",
        Kind::Histogram,
        "From a question to a rate limit service to its answer.",
    );
    for service in &all {
        encode_histogram(&service.labels, &service.series, |s| &s.time, text);
    }
    text.family(
        "outrigger_rate_limit_service_failure_allowed_total",
        Kind::Counter,
        "Requests that passed because a rate limit service could not be asked.",
    );
    for service in &all {
        text.sample(&service.labels, service.series.sum(|s| &s.failure_allowed));
    }
}
