//! What is counted: per route, per cluster, per listener, and for the whole proxy.
//!
//! Handles are resolved once, when a configuration is compiled, and kept. A label set disappears a minute
//! after its last handle was dropped ([`Metrics::sweep`]), which is when the last snapshot that names it is gone.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

use super::expose::{self, Kind, Labels, Text};
use super::rehearsal::Rehearsals;
use super::series::{Histogram, Series, Slots, encode_histogram};
use crate::base::limits;

mod access;
mod admission;
mod authorization;
mod breakers;
mod carriers;
mod certificates;
mod cluster;
mod control;
mod datagrams;
mod effort;
mod handshakes;
mod health;
mod listener;
mod mirrors;
mod overload;
mod process;
mod proxy;
mod quic;
mod rate_limits;
mod route;
mod streams;

pub use access::{Asked, AuthorizerMetrics, KeyMetrics};
pub use admission::ShedCause;
pub use authorization::{AccessDecision, AccessLabels, AccessMetrics};
pub use breakers::{BreakerLabels, BreakerMetrics, BreakerScope, BreakerStand};
pub use carriers::{Carrier, Http3Failure};
pub use certificates::{BundleGauge, CertificateGauge, CertificateMetrics};
pub use cluster::{AttemptOutcome, ClusterMetrics, GivenUp, Overflow};
pub use control::ControlMetrics;
pub use datagrams::DatagramMetrics;
pub use effort::Waste;
pub use handshakes::Handshake;
pub use health::{CAUSES as EJECTION_CAUSES, CheckResult, EndpointHealth};
pub use listener::{Caught, Detected, EarlyRequest, ListenerMetrics, OverQuic, TunnelKind};
pub use mirrors::{MirrorMetrics, Mirrored};
pub use overload::OverloadMetrics;
pub use process::resident_bytes;
pub use proxy::ProxyMetrics;
pub use quic::QuicMetrics;
pub use rate_limits::{Limited, RateLimitMetrics, RateLimitServiceMetrics, ServiceAnswer};
pub use route::{Finished, Injected, RouteLabels, RouteMetrics};
pub use streams::{Direction, StreamLabels, StreamMetrics};

/// The content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = expose::CONTENT_TYPE;

/// All metrics of one proxy.
#[derive(Debug)]
pub struct Metrics {
    /// What concerns the whole proxy.
    pub proxy: ProxyMetrics,
    /// Certificates and their rotation.
    pub certificates: CertificateMetrics,
    /// The control plane.
    pub control: ControlMetrics,
    /// Shortage of memory.
    pub overload: OverloadMetrics,
    /// QUIC.
    pub quic: Arc<QuicMetrics>,
    /// Who would be refused by a stricter listener.
    pub rehearsals: Rehearsals,
    routes: Mutex<HashMap<RouteLabels, Kept<RouteMetrics>>>,
    clusters: Mutex<HashMap<Arc<str>, Kept<ClusterMetrics>>>,
    listeners: Mutex<HashMap<Arc<str>, Kept<ListenerMetrics>>>,
    access: Mutex<HashMap<AccessLabels, Kept<AccessMetrics>>>,
    keys: Mutex<HashMap<Arc<str>, Kept<KeyMetrics>>>,
    authorizers: Mutex<HashMap<Arc<str>, Kept<AuthorizerMetrics>>>,
    rate_limits: Mutex<HashMap<Arc<str>, Kept<RateLimitMetrics>>>,
    rate_limit_services: Mutex<HashMap<Arc<str>, Kept<RateLimitServiceMetrics>>>,
    breakers: Mutex<HashMap<BreakerLabels, Kept<BreakerMetrics>>>,
    mirrors: Mutex<HashMap<Arc<str>, Kept<MirrorMetrics>>>,
    streams: Mutex<HashMap<StreamLabels, Kept<StreamMetrics>>>,
    datagrams: Mutex<HashMap<StreamLabels, Kept<DatagramMetrics>>>,
    other_route: Arc<RouteMetrics>,
    other_cluster: Arc<ClusterMetrics>,
    other_access: Arc<AccessMetrics>,
    other_breakers: Arc<BreakerMetrics>,
    other_rate_limit: Arc<RateLimitMetrics>,
    other_streams: Arc<StreamMetrics>,
    other_datagrams: Arc<DatagramMetrics>,
    route_slots: Arc<Slots>,
    cluster_slots: Arc<Slots>,
    access_slots: Arc<Slots>,
    breaker_slots: Arc<Slots>,
    rate_limit_slots: Arc<Slots>,
    stream_slots: Arc<Slots>,
}

/// A handle in the table, and since when nobody else holds it.
#[derive(Debug)]
struct Kept<T> {
    handle: Arc<T>,
    orphaned: Option<Instant>,
}

impl Metrics {
    /// Metrics with nothing counted yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self::with_limits(limits::METRIC_ROUTES, limits::METRIC_CLUSTERS))
    }

    fn with_limits(routes: usize, clusters: usize) -> Self {
        Self {
            proxy: ProxyMetrics::default(),
            certificates: CertificateMetrics::default(),
            control: ControlMetrics::default(),
            overload: OverloadMetrics::default(),
            quic: Arc::default(),
            rehearsals: Rehearsals::default(),
            routes: Mutex::default(),
            clusters: Mutex::default(),
            listeners: Mutex::default(),
            access: Mutex::default(),
            keys: Mutex::default(),
            authorizers: Mutex::default(),
            rate_limits: Mutex::default(),
            rate_limit_services: Mutex::default(),
            breakers: Mutex::default(),
            mirrors: Mutex::default(),
            streams: Mutex::default(),
            datagrams: Mutex::default(),
            other_route: Arc::new(RouteMetrics::other()),
            other_cluster: Arc::new(ClusterMetrics::other()),
            other_access: Arc::new(AccessMetrics::other()),
            other_breakers: Arc::new(BreakerMetrics::other()),
            other_rate_limit: Arc::new(RateLimitMetrics::other()),
            other_streams: Arc::new(StreamMetrics::other()),
            other_datagrams: Arc::new(DatagramMetrics::other()),
            route_slots: Slots::new(routes),
            cluster_slots: Slots::new(clusters),
            access_slots: Slots::new(limits::METRIC_ACCESS_RULES),
            breaker_slots: Slots::new(limits::METRIC_BREAKERS),
            rate_limit_slots: Slots::new(limits::METRIC_RATE_LIMITS),
            stream_slots: Slots::new(limits::METRIC_STREAMS),
        }
    }

    /// The handle of a route. The same labels give the same handle as long as it lives.
    #[must_use]
    pub fn route(&self, labels: &RouteLabels) -> Arc<RouteMetrics> {
        keep(&self.routes, labels, || RouteMetrics::bounded(labels, &self.route_slots, &self.other_route))
    }

    /// The handle of a cluster.
    #[must_use]
    pub fn cluster(&self, name: &Arc<str>) -> Arc<ClusterMetrics> {
        keep(&self.clusters, name, || ClusterMetrics::bounded(name, &self.cluster_slots, &self.other_cluster))
    }

    /// The handle of a listener.
    #[must_use]
    pub fn listener(&self, name: &Arc<str>) -> Arc<ListenerMetrics> {
        keep(&self.listeners, name, || ListenerMetrics::new(name))
    }

    /// The handle of an authorization rule on a listener.
    #[must_use]
    pub fn access(&self, labels: &AccessLabels) -> Arc<AccessMetrics> {
        keep(&self.access, labels, || AccessMetrics::bounded(labels, &self.access_slots, &self.other_access))
    }

    /// The handle of a token provider's keys.
    #[must_use]
    pub fn keys(&self, provider: &Arc<str>) -> Arc<KeyMetrics> {
        keep(&self.keys, provider, || KeyMetrics::new(provider))
    }

    /// The handle of an external authorizer.
    #[must_use]
    pub fn authorizer(&self, name: &Arc<str>) -> Arc<AuthorizerMetrics> {
        keep(&self.authorizers, name, || AuthorizerMetrics::new(name))
    }

    /// The handle of a rate limit.
    #[must_use]
    pub fn rate_limit(&self, name: &Arc<str>) -> Arc<RateLimitMetrics> {
        let new = || RateLimitMetrics::bounded(name, &self.rate_limit_slots, &self.other_rate_limit);
        keep(&self.rate_limits, name, new)
    }

    /// The handle of a rate limit service.
    #[must_use]
    pub fn rate_limit_service(&self, name: &Arc<str>) -> Arc<RateLimitServiceMetrics> {
        keep(&self.rate_limit_services, name, || RateLimitServiceMetrics::new(name))
    }

    /// The handle of breakers.
    #[must_use]
    pub fn breakers(&self, labels: &BreakerLabels) -> Arc<BreakerMetrics> {
        keep(&self.breakers, labels, || BreakerMetrics::bounded(labels, &self.breaker_slots, &self.other_breakers))
    }

    /// The handle of a cluster that gets copies of requests.
    #[must_use]
    pub fn mirror(&self, cluster: &Arc<str>) -> Arc<MirrorMetrics> {
        keep(&self.mirrors, cluster, || MirrorMetrics::new(cluster))
    }

    /// The handle of connections that are handed on.
    #[must_use]
    pub fn streams(&self, labels: &StreamLabels) -> Arc<StreamMetrics> {
        keep(&self.streams, labels, || StreamMetrics::bounded(labels, &self.stream_slots, &self.other_streams))
    }

    /// The handle of datagrams that are handed on.
    #[must_use]
    pub fn datagrams(&self, labels: &StreamLabels) -> Arc<DatagramMetrics> {
        keep(&self.datagrams, labels, || DatagramMetrics::bounded(labels, &self.stream_slots, &self.other_datagrams))
    }

    /// Forgets what nobody has held for [`limits::METRIC_LINGER`]. Called now and then by the control thread.
    pub fn sweep(&self, now: Instant) {
        forget(&self.routes, now);
        forget(&self.clusters, now);
        forget(&self.listeners, now);
        self.rehearsals.sweep();
        forget(&self.access, now);
        forget(&self.keys, now);
        forget(&self.authorizers, now);
        forget(&self.breakers, now);
        forget(&self.rate_limits, now);
        forget(&self.rate_limit_services, now);
        forget(&self.mirrors, now);
        forget(&self.streams, now);
        forget(&self.datagrams, now);
    }

    /// Everything in the Prometheus text format ([`CONTENT_TYPE`]). Label sets that were never used are left out.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = Text::default();
        self.proxy.encode(&mut text);
        self.certificates.encode(&mut text);
        self.control.encode(&mut text, SystemTime::now());
        process::encode(&mut text);
        self.overload.encode(&mut text);
        self.quic.encode(&mut text);
        listener::encode(&handles(&self.listeners), &mut text);
        self.rehearsals.encode(&mut text, Instant::now());
        let mut routes = handles(&self.routes);
        routes.push(Arc::clone(&self.other_route));
        route::encode(&routes, &mut text);
        let mut access = handles(&self.access);
        access.push(Arc::clone(&self.other_access));
        authorization::encode(&access, &mut text);
        let mut clusters = handles(&self.clusters);
        clusters.push(Arc::clone(&self.other_cluster));
        cluster::encode(&clusters, &mut text);
        let mut all_breakers = handles(&self.breakers);
        all_breakers.push(Arc::clone(&self.other_breakers));
        breakers::encode(&all_breakers, &mut text);
        access::encode_keys(&handles(&self.keys), &mut text);
        access::encode_authorizers(&handles(&self.authorizers), &mut text);
        let mut limits = handles(&self.rate_limits);
        limits.push(Arc::clone(&self.other_rate_limit));
        rate_limits::encode(&limits, &mut text);
        rate_limits::encode_services(&handles(&self.rate_limit_services), &mut text);
        mirrors::encode(&handles(&self.mirrors), &mut text);
        let mut streams = handles(&self.streams);
        streams.push(Arc::clone(&self.other_streams));
        streams::encode(&streams, &mut text);
        let mut all_datagrams = handles(&self.datagrams);
        all_datagrams.push(Arc::clone(&self.other_datagrams));
        datagrams::encode(&all_datagrams, &mut text);
        text.finish()
    }
}

fn keep<K: Hash + Eq + Clone, T>(table: &Mutex<HashMap<K, Kept<T>>>, key: &K, make: impl FnOnce() -> T) -> Arc<T> {
    let mut table = table.lock();
    if let Some(kept) = table.get_mut(key) {
        kept.orphaned = None;
        return Arc::clone(&kept.handle);
    }
    let handle = Arc::new(make());
    table.insert(key.clone(), Kept { handle: Arc::clone(&handle), orphaned: None });
    handle
}

/// A handle is cloned only under the table's lock or from another clone, so a count of one seen under the
/// lock means that nobody can still count into it.
fn forget<K, T>(table: &Mutex<HashMap<K, Kept<T>>>, now: Instant) {
    table.lock().retain(|_, kept| {
        if Arc::strong_count(&kept.handle) > 1 {
            kept.orphaned = None;
            return true;
        }
        let since = *kept.orphaned.get_or_insert(now);
        now.saturating_duration_since(since) < limits::METRIC_LINGER
    });
}

fn handles<K, T>(table: &Mutex<HashMap<K, Kept<T>>>) -> Vec<Arc<T>> {
    table.lock().values().map(|kept| Arc::clone(&kept.handle)).collect()
}

/// Counts by a word out of a small set. The words are constants of the program; should there be more than
/// [`limits::METRIC_CODES`], the rest count as `other`.
#[derive(Debug, Default)]
struct Tally(Mutex<Vec<(&'static str, u64)>>);

impl Tally {
    fn add(&self, code: &'static str) {
        let mut counts = self.0.lock();
        let code = if counts.len() < limits::METRIC_CODES { code } else { known_or_other(&counts, code) };
        match counts.iter_mut().find(|(known, _)| *known == code) {
            Some((_, count)) => *count += 1,
            None => counts.push((code, 1)),
        }
    }

    fn read(&self, into: &mut Vec<(&'static str, u64)>) {
        for &(code, count) in self.0.lock().iter() {
            match into.iter_mut().find(|(known, _)| *known == code) {
                Some((_, sum)) => *sum += count,
                None => into.push((code, count)),
            }
        }
    }
}

fn known_or_other(counts: &[(&'static str, u64)], code: &'static str) -> &'static str {
    if counts.iter().any(|(known, _)| *known == code) { code } else { "other" }
}

fn tallies<T>(series: &Series<T>, read: impl Fn(&T) -> &Tally) -> Vec<(&'static str, u64)>
where
    T: Default,
{
    let mut counts = Vec::new();
    for shard in series.shards() {
        read(shard).read(&mut counts);
    }
    counts.sort_unstable();
    counts
}

fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

/// A gauge as text: shards may each be negative, the sum may be for an instant while a scrape reads.
fn gauge(sum: u64) -> i64 {
    sum.cast_signed().max(0)
}

#[cfg(test)]
mod tests;
