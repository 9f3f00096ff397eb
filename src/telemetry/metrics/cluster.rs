//! Attempts, connections and ceilings by cluster.

use std::time::Duration;

use outrigger_config::model::Criticality;

use super::admission::{self, Admissions, Places, ShedCause};
use super::carriers::{self, Carrier, Carriers};
use super::effort::{self, Effort};
use super::handshakes::{self, Handshakes, Handshaking, Names};
use super::health::{self, Health, States};
use super::{Arc, AtomicU64, Kind, Labels, Ordering, Series, Slots, Text, add, gauge};

/// How one attempt to an upstream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// A response below 500.
    Success,
    /// A response of 500 or above, or a gRPC status that says the server failed.
    ServerError,
    /// No connection could be made.
    ConnectFailure,
    /// No connection in time.
    ConnectTimeout,
    /// The upstream refused the stream without processing it.
    Refused,
    /// The stream or connection ended before or within the response.
    Reset,
    /// No response head in time.
    Timeout,
    /// The upstream sent something that is not HTTP.
    Invalid,
    /// The caller left, or its request body failed.
    Cancelled,
}

/// Which ceiling of a cluster was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// Requests in flight.
    Requests,
    /// Requests waiting for a connection.
    Pending,
    /// Retries in flight.
    Retries,
    /// Connections.
    Connections,
}

/// Why a retry that the rule would have made was not made, other than for the budget and the ceiling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GivenUp {
    /// The request's body outgrew what is kept of it.
    Body,
    /// The server asked for more time than the rule allows.
    Pushback,
    /// The request's time would have been over.
    Deadline,
}

/// The numbers of one cluster.
#[derive(Debug)]
pub struct ClusterMetrics {
    pub(super) labels: Labels,
    pub(super) series: Arc<Series<Shard>>,
    pub(super) states: States,
    places: Places,
    /// Priorities in a panic now.
    panicking: AtomicU64,
}

#[derive(Debug, Default)]
pub(super) struct Shard {
    attempts: [AtomicU64; OUTCOMES.len()],
    retries: AtomicU64,
    budget_exhausted: AtomicU64,
    given_up: [AtomicU64; GIVEN_UP.len()],
    connects: AtomicU64,
    connect_failures: AtomicU64,
    connections: AtomicU64,
    pending: AtomicU64,
    overflows: [AtomicU64; OVERFLOWS.len()],
    resolve_failures: AtomicU64,
    panic_picks: AtomicU64,
    handshakes: Handshakes,
    pub(super) health: Health,
    admissions: Admissions,
    effort: Effort,
    carriers: Carriers,
}

const OUTCOMES: [(AttemptOutcome, &str); 9] = [
    (AttemptOutcome::Success, "success"),
    (AttemptOutcome::ServerError, "server_error"),
    (AttemptOutcome::ConnectFailure, "connect_failure"),
    (AttemptOutcome::ConnectTimeout, "connect_timeout"),
    (AttemptOutcome::Refused, "refused"),
    (AttemptOutcome::Reset, "reset"),
    (AttemptOutcome::Timeout, "timeout"),
    (AttemptOutcome::Invalid, "invalid"),
    (AttemptOutcome::Cancelled, "cancelled"),
];

const OVERFLOWS: [(Overflow, &str); 4] = [
    (Overflow::Requests, "requests"),
    (Overflow::Pending, "pending"),
    (Overflow::Retries, "retries"),
    (Overflow::Connections, "connections"),
];

const GIVEN_UP: [(GivenUp, &str); 3] =
    [(GivenUp::Body, "body"), (GivenUp::Pushback, "pushback"), (GivenUp::Deadline, "deadline")];

impl ClusterMetrics {
    pub(super) fn bounded(name: &str, slots: &Arc<Slots>, other: &Arc<Self>) -> Self {
        let series = Arc::new(Series::bounded(slots, &other.series));
        Self {
            labels: Labels::new(&[("cluster", name)]),
            series,
            states: States::default(),
            panicking: AtomicU64::new(0),
            places: Places::default(),
        }
    }

    pub(super) fn other() -> Self {
        let series = Arc::new(Series::unbounded());
        Self {
            labels: Labels::new(&[("cluster", "other")]),
            series,
            states: States::default(),
            panicking: AtomicU64::new(0),
            places: Places::default(),
        }
    }

    /// Numbers that are never shown: of connections that carry no traffic.
    #[must_use]
    pub fn unseen() -> Arc<Self> {
        Arc::new(Self::other())
    }

    pub(super) fn labels(&self) -> &Labels {
        &self.labels
    }

    pub(super) fn effort(&self) -> &Effort {
        &self.series.local().effort
    }

    pub(super) fn sum_effort(&self, read: impl Fn(&Effort) -> &AtomicU64) -> u64 {
        self.series.sum(|shard| read(&shard.effort))
    }

    pub(super) fn carriers(&self) -> &Carriers {
        &self.series.local().carriers
    }

    pub(super) fn sum_carriers(&self, read: impl Fn(&Carriers) -> &AtomicU64) -> u64 {
        self.series.sum(|shard| read(&shard.carriers))
    }

    /// An attempt ended.
    pub fn attempted(&self, outcome: AttemptOutcome) {
        add(&self.series.local().attempts[outcome as usize], 1);
    }

    /// A further attempt of a request was begun.
    pub fn retried(&self) {
        add(&self.series.local().retries, 1);
    }

    /// A retry was wanted and the budget did not allow it.
    pub fn retry_budget_exhausted(&self) {
        add(&self.series.local().budget_exhausted, 1);
    }

    /// A retry was wanted and could not be made.
    pub fn gave_up_retry(&self, why: GivenUp) {
        add(&self.series.local().given_up[why as usize], 1);
    }

    /// A connection was made. Followed by one [`Self::disconnected`].
    pub fn connected(&self, carrier: Carrier) {
        let shard = self.series.local();
        shard.carriers.connected(carrier);
        add(&shard.connects, 1);
        add(&shard.connections, 1);
    }

    /// A connection that had been made is gone.
    pub fn disconnected(&self, carrier: Carrier) {
        let shard = self.series.local();
        shard.carriers.disconnected(carrier);
        shard.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// A connection could not be made.
    pub fn connect_failed(&self) {
        add(&self.series.local().connect_failures, 1);
    }

    /// A request waits for a connection. Followed by one [`Self::pending_ended`].
    pub fn pending_began(&self) {
        add(&self.series.local().pending, 1);
    }

    /// A request no longer waits.
    pub fn pending_ended(&self) {
        self.series.local().pending.fetch_sub(1, Ordering::Relaxed);
    }

    /// An endpoint refused us after the handshake was complete on our side. `reason` is a constant of the program.
    pub fn refused_by_endpoint(&self, reason: &'static str) {
        self.series.local().handshakes.refused(reason);
    }

    /// A ceiling was reached.
    pub fn overflowed(&self, kind: Overflow) {
        add(&self.series.local().overflows[kind as usize], 1);
    }

    /// A request got no place.
    pub fn shed(&self, cause: ShedCause, class: Criticality) {
        self.series.local().admissions.shed(cause, class);
    }

    /// A request has waited for a place, whatever came of it.
    pub fn queued(&self, waited: Duration) {
        self.series.local().admissions.queued(waited);
    }

    /// There are so many places; zero: as many as the ceilings allow.
    pub fn places(&self, places: u32) {
        self.places.are(places);
    }

    /// So many requests wait for a place.
    pub fn waiting(&self, waiting: u32) {
        self.places.awaited(waiting);
    }

    /// An endpoint was picked out of all because too few are well.
    pub fn picked_in_panic(&self) {
        add(&self.series.local().panic_picks, 1);
    }

    /// So many priorities are in a panic now.
    pub fn panicking(&self, priorities: u64) {
        self.panicking.store(priorities, Ordering::Relaxed);
    }

    /// A name could not be resolved; the last known addresses stay in use.
    pub fn resolve_failed(&self) {
        add(&self.series.local().resolve_failures, 1);
    }
}

impl Handshaking for ClusterMetrics {
    fn handshakes(&self) -> &Handshakes {
        &self.series.local().handshakes
    }
}

const NAMES: Names = Names {
    total: "outrigger_upstream_tls_handshakes_total",
    resumed: "outrigger_upstream_tls_resumed_handshakes_total",
    failures: "outrigger_upstream_tls_failures_total",
    under_way: "outrigger_upstream_tls_handshakes_under_way",
    duration: "outrigger_upstream_tls_handshake_duration_seconds",
};

/// Name, help text, and where it is in a shard.
type Counter = (&'static str, &'static str, fn(&Shard) -> &AtomicU64);

pub(super) fn encode(clusters: &[Arc<ClusterMetrics>], text: &mut Text) {
    let mut used: Vec<&ClusterMetrics> = clusters.iter().map(Arc::as_ref).filter(|c| c.series.is_used()).collect();
    used.sort_by(|a, b| a.labels.cmp(&b.labels));

    text.family("outrigger_upstream_attempts_total", Kind::Counter, "Attempts that ended, by outcome.");
    for cluster in &used {
        for (outcome, name) in OUTCOMES {
            let count = cluster.series.sum(|s| &s.attempts[outcome as usize]);
            if count > 0 {
                text.sample(&cluster.labels.with("outcome", name), count);
            }
        }
    }
    let counters: [Counter; 6] = [
        ("outrigger_upstream_retries_total", "Attempts beyond the first of a request.", |s| &s.retries),
        (
            "outrigger_upstream_retry_budget_exhausted_total",
            "Retries that were wanted and that the budget did not allow.",
            |s| &s.budget_exhausted,
        ),
        ("outrigger_upstream_connects_total", "Connections made.", |s| &s.connects),
        ("outrigger_upstream_connect_failures_total", "Connections that could not be made.", |s| &s.connect_failures),
        ("outrigger_upstream_resolve_failures_total", "Name look-ups that failed.", |s| &s.resolve_failures),
        (
            "outrigger_upstream_panic_picks_total",
            "Endpoints picked out of all, because too few of their priority are well.",
            |s| &s.panic_picks,
        ),
    ];
    for (name, help, read) in counters {
        text.family(name, Kind::Counter, help);
        for cluster in &used {
            text.sample(&cluster.labels, cluster.series.sum(read));
        }
    }
    text.family(
        "outrigger_upstream_retries_given_up_total",
        Kind::Counter,
        "Retries that the rule asks for and that could not be made, by cause.",
    );
    for cluster in &used {
        for (why, name) in GIVEN_UP {
            text.sample(&cluster.labels.with("cause", name), cluster.series.sum(|s| &s.given_up[why as usize]));
        }
    }
    text.family("outrigger_upstream_connections", Kind::Gauge, "Open connections.");
    for cluster in &used {
        text.sample(&cluster.labels, gauge(cluster.series.sum(|s| &s.connections)));
    }
    text.family(
        "outrigger_upstream_panic",
        Kind::Gauge,
        "Priorities in which too few endpoints are well, so that all are used.",
    );
    for cluster in &used {
        text.sample(&cluster.labels, cluster.panicking.load(Ordering::Relaxed));
    }
    text.family("outrigger_upstream_pending_requests", Kind::Gauge, "Requests waiting for a connection.");
    for cluster in &used {
        text.sample(&cluster.labels, gauge(cluster.series.sum(|s| &s.pending)));
    }
    text.family("outrigger_upstream_overflow_total", Kind::Counter, "Requests refused at a ceiling, by ceiling.");
    for cluster in &used {
        for (kind, name) in OVERFLOWS {
            text.sample(&cluster.labels.with("kind", name), cluster.series.sum(|s| &s.overflows[kind as usize]));
        }
    }
    let numbers: Vec<_> = used.iter().map(|cluster| (&cluster.labels, &*cluster.series, &cluster.places)).collect();
    admission::encode(&numbers, |shard| &shard.admissions, text);
    effort::encode(&used, text);
    carriers::encode(&used, text);
    let series: Vec<_> = used.iter().map(|cluster| (&cluster.labels, &*cluster.series)).collect();
    handshakes::encode(&NAMES, &series, |shard| &shard.handshakes, text);
    health::encode(&used, text);
}
