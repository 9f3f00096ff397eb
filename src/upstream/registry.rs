//! What outlives a configuration: live state by its key, pools, and names. A configuration is compiled
//! against the registry and finds what it knew there; what nobody uses any more lingers for a minute, so that
//! an endpoint that flaps comes back with its history.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use outrigger_config::model::{self, DnsOptions, Target};
use parking_lot::Mutex;

use super::cluster::Cluster;
use super::dns::{Names, Resolve};
use super::pool::{Pool, PoolKey};
use super::state::{ClusterState, EndpointState};
use super::status::ClusterStatus;
use crate::policy::ewma;
use crate::telemetry::Metrics;

/// All live state of a proxy.
pub struct Registry {
    workers: usize,
    metrics: Arc<Metrics>,
    states: Mutex<HashMap<Arc<str>, Kept<Arc<ClusterState>>>>,
    endpoints: Mutex<HashMap<EndpointKey, Kept<Arc<EndpointState>>>>,
    pools: Mutex<HashMap<PoolKey, Weak<Pool>>>,
    active: Mutex<Vec<Weak<Cluster>>>,
    names: Names,
    resolver: Box<dyn Resolve>,
}

/// The cluster and the address.
type EndpointKey = (Arc<str>, SocketAddr);

/// Something kept for as long as it is used, and a while longer.
#[derive(Debug)]
struct Kept<T> {
    value: T,
    last_used: Instant,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("workers", &self.workers).finish_non_exhaustive()
    }
}

impl Registry {
    /// An empty registry for so many workers.
    #[must_use]
    pub fn new(workers: usize, metrics: Arc<Metrics>, resolver: Box<dyn Resolve>) -> Arc<Self> {
        Arc::new(Self {
            workers,
            metrics,
            states: Mutex::default(),
            endpoints: Mutex::default(),
            pools: Mutex::default(),
            active: Mutex::default(),
            names: Names::default(),
            resolver,
        })
    }

    /// Resolves what a configuration names and nobody has asked for yet, within a second or so: part of
    /// preparing it, before it is published.
    pub async fn warm(&self, config: &model::Config) {
        self.names.warm(&*self.resolver, names_of(config), WARM_LIMIT).await;
    }

    /// Compiles a cluster: state and pools that are known are found again.
    #[must_use]
    pub fn cluster(self: &Arc<Self>, config: &model::Cluster) -> Arc<Cluster> {
        let state = self.state(&config.name);
        Cluster::new(config.clone(), state, Arc::downgrade(self), &self.names)
    }

    /// Makes `clusters` the ones in use: their names are kept fresh and they are shown. What others left is
    /// kept for a minute.
    pub fn activate(&self, config: &model::Config, clusters: &[Arc<Cluster>], now: Instant) {
        *self.active.lock() = clusters.iter().map(Arc::downgrade).collect();
        self.names.want(names_of(config), now);
        // Whatever changed between compiling and now.
        for cluster in clusters {
            if cluster.has_names() {
                cluster.rebuild(&self.names);
            }
        }
        self.forget(now);
    }

    /// Keeps names fresh for ever; run once, on the control thread.
    pub async fn run(&self) {
        self.names.keep_fresh(&*self.resolver, || self.clusters()).await;
    }

    /// The clusters in use.
    #[must_use]
    pub fn clusters(&self) -> Vec<Arc<Cluster>> {
        self.active.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// The clusters in use with their endpoints, for people.
    #[must_use]
    pub fn status(&self, now: Instant) -> Vec<ClusterStatus> {
        self.clusters().iter().map(|cluster| ClusterStatus::of(cluster, &self.names, now)).collect()
    }

    fn state(&self, name: &Arc<str>) -> Arc<ClusterState> {
        let now = Instant::now();
        let mut states = self.states.lock();
        let kept = states.entry(Arc::clone(name)).or_insert_with(|| Kept {
            value: Arc::new(ClusterState::new(Arc::clone(name), self.metrics.cluster(name), now)),
            last_used: now,
        });
        kept.last_used = now;
        Arc::clone(&kept.value)
    }

    /// The states of a cluster's endpoints, old or new. A newcomer is expected to take the median time of those
    /// that are known.
    pub(super) fn endpoints(&self, cluster: &Arc<str>, addresses: &[SocketAddr]) -> Vec<Arc<EndpointState>> {
        let now = Instant::now();
        let mut endpoints = self.endpoints.lock();
        let key = |address: &SocketAddr| (Arc::clone(cluster), *address);
        let known: Vec<f64> = addresses
            .iter()
            .filter_map(|address| endpoints.get(&key(address)))
            .map(|kept| kept.value.latency.read(now))
            .collect();
        let expected = ewma::median_cost(known);
        addresses
            .iter()
            .map(|address| {
                let kept = endpoints.entry(key(address)).or_insert_with(|| Kept {
                    value: Arc::new(EndpointState::new(*address, expected, now)),
                    last_used: now,
                });
                kept.last_used = now;
                Arc::clone(&kept.value)
            })
            .collect()
    }

    /// The pool under a key, old or new.
    pub(super) fn pool(&self, key: PoolKey, cluster: &Arc<ClusterState>, endpoint: &Arc<EndpointState>) -> Arc<Pool> {
        let mut pools = self.pools.lock();
        if let Some(pool) = pools.get(&key).and_then(Weak::upgrade) {
            return pool;
        }
        let pool = Arc::new(Pool::new(&key, self.workers, cluster, endpoint));
        pools.insert(key, Arc::downgrade(&pool));
        pool
    }

    /// Forgets what has not been used for [`LINGER`]. What somebody still holds is in use.
    fn forget(&self, now: Instant) {
        fn stays<T>(kept: &mut Kept<Arc<T>>, now: Instant) -> bool {
            if Arc::strong_count(&kept.value) > 1 {
                kept.last_used = now;
            }
            now.saturating_duration_since(kept.last_used) < LINGER
        }
        self.endpoints.lock().retain(|_, kept| stays(kept, now));
        self.states.lock().retain(|_, kept| stays(kept, now));
        self.pools.lock().retain(|_, pool| pool.strong_count() > 0);
    }
}

fn names_of(config: &model::Config) -> impl Iterator<Item = (Arc<str>, DnsOptions)> {
    config.clusters.values().flat_map(|cluster| {
        cluster.endpoints.iter().filter_map(|endpoint| match &endpoint.target {
            Target::Address(_) => None,
            Target::Name { host, .. } => Some((Arc::clone(host), cluster.dns)),
        })
    })
}

/// How long state outlives its last user.
const LINGER: Duration = Duration::from_secs(60);

/// How long a new configuration waits for its new names.
const WARM_LIMIT: Duration = Duration::from_millis(1500);
