//! Live state that is true for the whole proxy, shared by all workers in atomics, and kept across
//! configurations by its key (docs/ARCHITECTURE.md, "What survives a change").

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use arc_swap::ArcSwapOption;
use outrigger_config::model;
use parking_lot::Mutex;

use super::admission::Admission;
use super::alternative::Http3Known;
use super::breakers::{Board, CircuitBreaker, Owner};
use super::endpoints::Tables;
use super::health::{CheckRecord, News, Traffic};
use super::outlier::{OutlierRecord, Outliers};
use super::standing::{HealthEpoch, Standing};
use crate::base::{clock, limits};
use crate::codec::tee::CopyRoom;
use crate::net::tls::ClientTls;
use crate::policy::budget::BudgetUsage;
use crate::policy::ewma::AtomicEwma;
use crate::policy::hedge::HedgeTimes;
use crate::telemetry::{ClusterMetrics, Metrics, Refusals};

/// What is known of a cluster, whatever its configuration says today.
#[derive(Debug)]
pub struct ClusterState {
    /// Its name.
    pub name: Arc<str>,
    /// Requests from pick to the end of the response.
    pub in_flight: Usage,
    /// Requests waiting for a connection.
    pub pending: Usage,
    /// Retries in flight.
    pub retries: Usage,
    /// Open connections of all workers.
    pub connections: Usage,
    /// Requests and retries of the last ten seconds.
    pub budget: BudgetUsage,
    /// What answers to rules that hedge took lately, by the name of the rule.
    hedge_times: Mutex<HashMap<Arc<str>, Weak<HedgeTimes>>>,
    /// Places for requests, where there is a queue or an adaptive limit.
    pub admission: Admission,
    /// Its breaker.
    pub breaker: CircuitBreaker,
    /// What its breaker and those of its endpoints share.
    pub(super) board: Arc<Board>,
    /// Its metric handles.
    pub metrics: Arc<ClusterMetrics>,
    /// Copies of requests that it gets.
    pub mirrors: Mirrors,
    /// What was logged of failed handshakes.
    pub refusals: Refusals,
    /// Endpoints that came after the configuration in effect, and replace those in it.
    pub assigned: ArcSwapOption<Vec<model::Endpoint>>,
    /// Moves when what health says of any endpoint changes.
    pub health_epoch: Arc<HealthEpoch>,
    /// When it had its last request.
    pub traffic: Traffic,
    /// Who is ejected.
    pub outliers: Outliers,
    /// What was logged of changes of health.
    pub health_news: News,
    /// Tables for consistent hashing that are in use.
    pub tables: Tables,
    /// TLS as the newest configuration has it: a request that began under an older one must not connect under
    /// trust that is gone.
    pub tls: ArcSwapOption<ClientTls>,
}

impl ClusterState {
    /// An endpoint refused us when a request was under way already.
    pub fn refused_by(&self, endpoint: SocketAddr, code: &'static str, detail: &str) {
        self.metrics.connect_failed();
        self.metrics.refused_by_endpoint(code);
        self.refusals.say_failed(&self.name, endpoint, (code, &detail));
    }

    /// A cluster nobody has used yet.
    #[must_use]
    pub fn unused(name: &Arc<str>, all: &Metrics, now: Instant) -> Self {
        Self::new(name, all.cluster(name), |health| Board::of_cluster(name, health, all, now), now)
    }

    /// One of which nothing is shown, for connections that are none of its requests'.
    pub(super) fn unseen(name: &Arc<str>, metrics: Arc<ClusterMetrics>, now: Instant) -> Self {
        Self::new(name, metrics, |health| Board::unseen(name, health, now), now)
    }

    fn new(
        name: &Arc<str>,
        metrics: Arc<ClusterMetrics>,
        board: impl FnOnce(&Arc<HealthEpoch>) -> Arc<Board>,
        now: Instant,
    ) -> Self {
        let health_epoch = Arc::new(HealthEpoch::default());
        let board = board(&health_epoch);
        Self {
            outliers: Outliers::new(name),
            name: Arc::clone(name),
            in_flight: Usage::default(),
            pending: Usage::default(),
            retries: Usage::default(),
            connections: Usage::default(),
            budget: BudgetUsage::new(now),
            breaker: CircuitBreaker::new(Owner::Cluster, &board, now),
            board,
            hedge_times: Mutex::default(),
            admission: Admission::new(Arc::clone(&metrics), now),
            metrics,
            mirrors: Mirrors::default(),
            refusals: Refusals::default(),
            assigned: ArcSwapOption::empty(),
            health_epoch,
            traffic: Traffic::new(now),
            health_news: News::default(),
            tables: Tables::default(),
            tls: ArcSwapOption::empty(),
        }
    }

    /// What its answers to a rule took lately: of a rule that a configuration in use has, what is known already. Rules
    /// of the same name share it.
    #[must_use]
    pub fn hedge_times(&self, rule: &Arc<str>) -> Arc<HedgeTimes> {
        let mut all = self.hedge_times.lock();
        if let Some(known) = all.get(rule).and_then(Weak::upgrade) {
            return known;
        }
        all.retain(|_, times| times.strong_count() > 0);
        let times = Arc::new(HedgeTimes::new(clock::now()));
        all.insert(Arc::clone(rule), Arc::downgrade(&times));
        times
    }
}

/// Copies of requests on the way to a cluster.
#[derive(Debug)]
pub struct Mirrors {
    /// How many.
    pub in_flight: Usage,
    /// What their bodies may be behind the originals.
    pub room: Arc<CopyRoom>,
}

impl Default for Mirrors {
    fn default() -> Self {
        Self { in_flight: Usage::default(), room: CopyRoom::new(limits::MIRROR_BUFFERS, limits::MIRROR_BUFFER) }
    }
}

/// What is known of one endpoint of one cluster.
#[derive(Debug)]
pub struct EndpointState {
    /// Its address.
    pub address: SocketAddr,
    /// Requests from pick to the end of the response.
    pub in_flight: AtomicU32,
    /// Peak EWMA of the time to the response head.
    pub latency: AtomicEwma,
    /// Requests sent.
    pub requests: AtomicU64,
    /// Of those, failed.
    pub failures: AtomicU64,
    /// Failures since the last success.
    pub consecutive_failures: AtomicU32,
    /// Requests waiting for a connection. Counted only where there is a ceiling.
    pub pending: Usage,
    /// Retries in flight. Counted only where there is a ceiling.
    pub retries: Usage,
    /// Open connections of all workers.
    pub connections: AtomicU32,
    /// Whether it is reached over HTTP/3, where that is its own choice.
    pub http3: Http3Known,
    /// Its breaker.
    pub breaker: CircuitBreaker,
    /// What health says of it.
    pub standing: Standing,
    /// What its checks said.
    pub checked: CheckRecord,
    /// What it did, and its ejections.
    pub outlier: OutlierRecord,
    /// Since when it is there, if the cluster had others before.
    pub newcomer: Option<Instant>,
}

impl EndpointState {
    /// A new endpoint, expected to answer in so many seconds: what its peers take, so that it is neither
    /// flooded nor shunned.
    #[must_use]
    pub(super) fn new(address: SocketAddr, expected: f64, board: &Arc<Board>, now: Instant) -> Self {
        Self {
            address,
            in_flight: AtomicU32::new(0),
            latency: AtomicEwma::new(expected, now),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            consecutive_failures: AtomicU32::new(0),
            pending: Usage::default(),
            retries: Usage::default(),
            connections: AtomicU32::new(0),
            http3: Http3Known::new(now),
            breaker: CircuitBreaker::new(Owner::Endpoint(address), board, now),
            standing: Standing::default(),
            checked: CheckRecord::default(),
            outlier: OutlierRecord::default(),
            newcomer: None,
        }
    }
}

impl EndpointState {
    /// After a success. Written only when there is something to forget: all workers share the word.
    pub(super) fn forget_failures(&self) {
        if self.consecutive_failures.load(Ordering::Relaxed) != 0 {
            self.consecutive_failures.store(0, Ordering::Relaxed);
        }
    }
}

/// A counter with a ceiling that is given at each use, so that it may change while usage stays.
#[derive(Debug, Default)]
pub struct Usage(AtomicU32);

impl Usage {
    /// Counts one more, unless `ceiling` is reached. Every success must be paired with [`Usage::release`].
    pub fn try_acquire(&self, ceiling: u32) -> bool {
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        if before >= ceiling {
            self.0.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        true
    }

    /// Counts one less.
    pub fn release(&self) {
        let before = self.0.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "released more than was acquired");
    }

    /// Now in use.
    #[must_use]
    pub fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}
