//! Requests by route and cluster.

use super::{
    Arc, AtomicU64, Duration, Histogram, Kind, Labels, Ordering, Series, Slots, Tally, Text, add, encode_histogram,
    gauge, tallies,
};

/// What a route's numbers are named by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RouteLabels {
    /// The listener's name.
    pub listener: Arc<str>,
    /// The rule's name; `-` before a rule was found.
    pub route: Arc<str>,
    /// The cluster's name; `-` when none was chosen.
    pub cluster: Arc<str>,
}

/// How a request ended.
#[derive(Debug, Clone, Copy)]
pub struct Finished {
    /// The status that the caller got; 0 when it left before one.
    pub status: u16,
    /// The gRPC status, for gRPC calls.
    pub grpc_status: Option<u8>,
    /// The reason code when the proxy itself answered or cut the exchange; empty otherwise.
    pub reason: &'static str,
    /// From the first byte of the request to the last of the response.
    pub duration: Duration,
    /// Body bytes received from the caller.
    pub request_bytes: u64,
    /// Body bytes sent to the caller.
    pub response_bytes: u64,
}

/// What was done to a request on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Injected {
    /// It was held up.
    Delay,
    /// It was not held up although it should have been: as many as may be were.
    DelayLeftOut,
    /// It was answered.
    Abort,
}

const INJECTED: [(Injected, &str); 3] =
    [(Injected::Delay, "delay"), (Injected::DelayLeftOut, "delay_left_out"), (Injected::Abort, "abort")];

/// The numbers of one route and cluster.
#[derive(Debug)]
pub struct RouteMetrics {
    labels: Labels,
    series: Arc<Series<Shard>>,
}

#[derive(Debug, Default)]
struct Shard {
    classes: [AtomicU64; CLASSES.len()],
    in_flight: AtomicU64,
    durations: Histogram,
    request_bytes: AtomicU64,
    response_bytes: AtomicU64,
    reasons: Tally,
    injected: [AtomicU64; INJECTED.len()],
    grpc: [AtomicU64; GRPC_STATUSES],
}

/// `none`: the caller left before a status.
const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];
/// 0 to 16, and one for everything else.
const GRPC_STATUSES: usize = 18;

impl RouteMetrics {
    pub(super) fn bounded(labels: &RouteLabels, slots: &Arc<Slots>, other: &Arc<Self>) -> Self {
        Self { labels: text(labels), series: Arc::new(Series::bounded(slots, &other.series)) }
    }

    pub(super) fn other() -> Self {
        let other: Arc<str> = Arc::from("other");
        let labels = RouteLabels { listener: other.clone(), route: other.clone(), cluster: other };
        Self { labels: text(&labels), series: Arc::new(Series::unbounded()) }
    }

    /// A request has begun. Every call is followed by one of [`Self::finished`].
    pub fn started(&self) {
        add(&self.series.local().in_flight, 1);
    }

    /// A fault was injected into a request.
    pub fn injected(&self, what: Injected) {
        add(&self.series.local().injected[what as usize], 1);
    }

    /// A request has ended.
    pub fn finished(&self, finished: &Finished) {
        let shard = self.series.local();
        shard.in_flight.fetch_sub(1, Ordering::Relaxed);
        let class = usize::from(finished.status / 100);
        add(&shard.classes[if class < CLASSES.len() { class } else { 0 }], 1);
        shard.durations.observe(finished.duration);
        if finished.request_bytes > 0 {
            add(&shard.request_bytes, finished.request_bytes);
        }
        if finished.response_bytes > 0 {
            add(&shard.response_bytes, finished.response_bytes);
        }
        if let Some(status) = finished.grpc_status {
            add(&shard.grpc[usize::from(status).min(GRPC_STATUSES - 1)], 1);
        }
        if !finished.reason.is_empty() {
            shard.reasons.add(finished.reason);
        }
    }
}

fn text(labels: &RouteLabels) -> Labels {
    Labels::new(&[("listener", &labels.listener), ("route", &labels.route), ("cluster", &labels.cluster)])
}

pub(super) fn encode(routes: &[Arc<RouteMetrics>], text: &mut Text) {
    let mut used: Vec<&RouteMetrics> = routes.iter().map(Arc::as_ref).filter(|r| r.series.is_used()).collect();
    used.sort_by(|a, b| a.labels.cmp(&b.labels));

    text.family("outrigger_requests_total", Kind::Counter, "Requests that ended, by class of status.");
    for route in &used {
        for (i, class) in CLASSES.iter().enumerate() {
            let count = route.series.sum(|s| &s.classes[i]);
            if count > 0 {
                text.sample(&route.labels.with("class", class), count);
            }
        }
    }
    text.family(
        "outrigger_request_duration_seconds",
        Kind::Histogram,
        "From the first byte of a request to the last of its response.",
    );
    for route in &used {
        encode_histogram(&route.labels, &route.series, |s| &s.durations, text);
    }
    text.family("outrigger_requests_in_flight", Kind::Gauge, "Requests begun and not ended.");
    for route in &used {
        text.sample(&route.labels, gauge(route.series.sum(|s| &s.in_flight)));
    }
    text.family("outrigger_request_bytes_total", Kind::Counter, "Body bytes received from callers.");
    for route in &used {
        text.sample(&route.labels, route.series.sum(|s| &s.request_bytes));
    }
    text.family("outrigger_response_bytes_total", Kind::Counter, "Body bytes sent to callers.");
    for route in &used {
        text.sample(&route.labels, route.series.sum(|s| &s.response_bytes));
    }
    text.family(
        "outrigger_local_responses_total",
        Kind::Counter,
        "Requests that the proxy itself answered or cut, by reason code.",
    );
    for route in &used {
        for (reason, count) in tallies(&route.series, |s| &s.reasons) {
            text.sample(&route.labels.with("reason", reason), count);
        }
    }
    let injected = used.iter().flat_map(|route| INJECTED.map(|(what, name)| (route, what, name)));
    let injected = injected.map(|(route, what, name)| (route, name, route.series.sum(|s| &s.injected[what as usize])));
    let injected: Vec<_> = injected.filter(|(.., count)| *count > 0).collect();
    if !injected.is_empty() {
        text.family("outrigger_faults_injected_total", Kind::Counter, "Faults injected into requests on purpose.");
        for (route, name, count) in injected {
            text.sample(&route.labels.with("fault", name), count);
        }
    }
    text.family("outrigger_grpc_responses_total", Kind::Counter, "gRPC calls that ended, by gRPC status.");
    for route in &used {
        for status in 0..GRPC_STATUSES {
            let count = route.series.sum(|s| &s.grpc[status]);
            if count > 0 {
                let name = if status == GRPC_STATUSES - 1 { "other".to_owned() } else { status.to_string() };
                text.sample(&route.labels.with("grpc_status", &name), count);
            }
        }
    }
}
