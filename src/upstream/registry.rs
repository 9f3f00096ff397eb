//! What outlives a configuration: live state by its key, pools, and names. A configuration is compiled
//! against the registry and finds what it knew there; what nobody uses any more lingers for a minute, so that
//! an endpoint that flaps comes back with its history.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use outrigger_config::model::{self, DnsOptions, Target};
use parking_lot::Mutex;

use super::breakers::{RuleBreaker, RuleBreakers};
use super::cluster::Cluster;
use super::dns::{Answer, Names, Resolve};
use super::endpoints::Placement;
use super::health::HealthKeeper;
use super::keys::KeyStore;
use super::pool::{Pool, PoolKey};
use super::rates::RateState;
use super::standing::Against;
use super::state::{ClusterState, EndpointState};
use super::status::{ClusterStatus, health_of};
use crate::net::tls::{ClientTls, TlsKey};
use crate::policy::ewma;
use crate::policy::rng::Rng;
use crate::telemetry::Metrics;

/// All live state of a proxy.
pub struct Registry {
    workers: usize,
    metrics: Arc<Metrics>,
    states: Mutex<HashMap<Arc<str>, Kept<ClusterState>>>,
    endpoints: Mutex<HashMap<EndpointKey, Kept<EndpointState>>>,
    pools: Mutex<HashMap<PoolKey, Weak<Pool>>>,
    rule_breakers: RuleBreakers,
    rates: Mutex<HashMap<Arc<str>, Kept<RateState>>>,
    active: Mutex<Vec<Weak<Cluster>>>,
    names: Names,
    keys: KeyStore,
    surroundings: Surroundings,
    starts: Mutex<Rng>,
    health: HealthKeeper,
}

/// What a registry takes from the world around it. A simulation brings its own.
pub struct Surroundings {
    /// Where addresses come from.
    pub resolver: Box<dyn Resolve>,
    /// What time it is.
    pub clock: Clock,
    /// Where balancers begin follows from it.
    pub seed: u64,
}

/// What time it is.
pub type Clock = Box<dyn Fn() -> Instant + Send + Sync>;

/// The cluster and the address.
type EndpointKey = (Arc<str>, SocketAddr);

/// Something kept for as long as it is used, and a while longer.
#[derive(Debug)]
pub(super) struct Kept<T> {
    value: Arc<T>,
    /// Since when nobody uses it, as far as was looked.
    orphaned: Option<Instant>,
}

impl<T> Kept<T> {
    pub(super) fn new(value: T) -> Self {
        Self { value: Arc::new(value), orphaned: None }
    }

    /// For somebody who uses it. It may be given up again before anybody looks.
    pub(super) fn share(&mut self) -> Arc<T> {
        self.orphaned = None;
        Arc::clone(&self.value)
    }

    /// Whether it is in use, or was within [`LINGER`]. The time counts from the look that first found it unused:
    /// what a configuration used for a week and then dropped must not be forgotten at once.
    pub(super) fn stays(&mut self, now: Instant) -> bool {
        if Arc::strong_count(&self.value) > 1 {
            self.orphaned = None;
            return true;
        }
        now.saturating_duration_since(*self.orphaned.get_or_insert(now)) < LINGER
    }
}

impl std::fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Surroundings").field("seed", &self.seed).finish_non_exhaustive()
    }
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
        let seed = RandomState::new().build_hasher().finish();
        Self::within(workers, metrics, Surroundings { resolver, clock: Box::new(Instant::now), seed })
    }

    /// An empty registry in surroundings of the caller's choice.
    #[must_use]
    pub fn within(workers: usize, metrics: Arc<Metrics>, surroundings: Surroundings) -> Arc<Self> {
        Arc::new(Self {
            workers,
            keys: KeyStore::new(&metrics),
            metrics,
            states: Mutex::default(),
            endpoints: Mutex::default(),
            pools: Mutex::default(),
            rule_breakers: RuleBreakers::default(),
            rates: Mutex::default(),
            active: Mutex::default(),
            names: Names::default(),
            starts: Mutex::new(Rng::new(surroundings.seed)),
            health: HealthKeeper::default(),
            surroundings,
        })
    }

    /// Resolves what a configuration names and nobody has asked for yet, within a second or so: part of
    /// preparing it, before it is published.
    pub async fn warm(&self, config: &model::Config) {
        let Surroundings { resolver, clock, seed: _ } = &self.surroundings;
        self.names.warm(&**resolver, names_of(config), clock(), WARM_LIMIT).await;
    }

    /// Compiles a cluster: state and pools that are known are found again.
    #[must_use]
    pub fn cluster(self: &Arc<Self>, config: &model::Cluster, tls: Option<&Arc<ClientTls>>) -> Arc<Cluster> {
        self.placed(config, tls, Placement::default())
    }

    /// The same, for a proxy in a zone and backends that ask for subsets.
    #[must_use]
    pub fn placed(
        self: &Arc<Self>,
        config: &model::Cluster,
        tls: Option<&Arc<ClientTls>>,
        placement: Placement,
    ) -> Arc<Cluster> {
        let state = self.state(&config.name);
        Cluster::new((config.clone(), tls.cloned(), placement), state, Arc::downgrade(self), &self.names)
    }

    /// Makes `clusters` the ones in use: their names are kept fresh and they are shown. What others left is
    /// kept for a minute.
    pub fn activate(&self, config: &model::Config, clusters: &[Arc<Cluster>], now: Instant) {
        *self.active.lock() = clusters.iter().map(Arc::downgrade).collect();
        for cluster in clusters {
            cluster.state().tls.store(cluster.tls().cloned());
            let model::Cluster { admission, ceilings, .. } = cluster.config();
            cluster.state().configure_admission(admission, ceilings.max_requests, now);
        }
        self.retire_pools(clusters);
        self.names.want(names_of(config), now);
        self.keys.want(config.jwt_providers.values());
        // Whatever changed between compiling and now.
        for cluster in clusters {
            if cluster.has_names() {
                cluster.rebuild(&self.names);
            } else {
                self.members_changed(cluster);
            }
        }
        self.sweep(now);
    }

    /// Gives clusters in use other endpoints than are configured, without a new configuration: requests that are
    /// under way go on, and endpoints that stay keep their state and their connections. `false` for a cluster that is
    /// not in use. They hold until the next configuration is about to be compiled ([`Registry::unassign`]).
    pub fn assign(&self, cluster: &str, endpoints: Vec<model::Endpoint>) -> bool {
        let Some(cluster) = self.clusters().into_iter().find(|known| &*known.config().name == cluster) else {
            return false;
        };
        cluster.state().assigned.store(Some(Arc::new(endpoints)));
        cluster.rebuild(&self.names);
        true
    }

    /// From here on clusters are compiled with the endpoints that their configuration has. Those in use keep what
    /// they have until they are replaced.
    pub fn unassign(&self) {
        for cluster in self.clusters() {
            cluster.state().assigned.store(None);
        }
    }

    /// The endpoints that were assigned to a cluster in use.
    #[must_use]
    pub fn assigned(&self, cluster: &str) -> Option<Arc<Vec<model::Endpoint>>> {
        self.states.lock().get(cluster).and_then(|kept| kept.value.assigned.load_full())
    }

    /// Retires the pools of these clusters that were made under other TLS than is in effect now. Requests that
    /// stream hold on to theirs, and its idle connections must not be found by anybody meanwhile.
    fn retire_pools(&self, clusters: &[Arc<Cluster>]) {
        let now: HashMap<&str, Option<&Arc<TlsKey>>> =
            clusters.iter().map(|cluster| (&*cluster.config().name, cluster.tls().map(|tls| tls.key()))).collect();
        let pools: Vec<Arc<Pool>> = self.pools.lock().values().filter_map(Weak::upgrade).collect();
        for pool in pools {
            let key = pool.key();
            if now.get(&*key.cluster).is_some_and(|tls| *tls != key.tls.as_ref()) {
                pool.retire();
            }
        }
    }

    /// Closes connections that nobody uses, because memory is short.
    pub fn close_idle(&self) {
        let pools: Vec<Arc<Pool>> = self.pools.lock().values().filter_map(Weak::upgrade).collect();
        for pool in pools {
            pool.close_idle();
        }
    }

    /// Keeps names fresh for ever; run once, on the control thread.
    pub async fn run(&self) {
        let Surroundings { resolver, clock, seed: _ } = &self.surroundings;
        self.names.keep_fresh(&**resolver, clock, || self.clusters()).await;
    }

    /// Checks endpoints, and ends and begins ejections, for ever; run once, on the control thread.
    pub async fn keep_health(&self) {
        let Surroundings { resolver: _, clock, seed } = &self.surroundings;
        self.health.run(clock, *seed, || self.clusters()).await;
    }

    /// Does what the intervals of outlier detection ask for, where one is over. When the next one is. Part of
    /// [`Registry::keep_health`]; for simulations, which have no control thread.
    pub fn judge_outliers(&self, now: Instant) -> Option<Instant> {
        self.clusters().iter().filter_map(|cluster| cluster.state().judge_outliers(now)).min()
    }

    /// Counts endpoints by what is said of their health into the metrics.
    pub fn count_endpoints(&self) {
        for cluster in self.clusters() {
            let set = cluster.endpoints();
            cluster.state().metrics.endpoints(set.members().iter().map(health_of));
        }
    }

    /// A cluster in use has other endpoints than before, or other settings.
    pub(super) fn members_changed(&self, cluster: &Cluster) {
        let now = (self.surroundings.clock)();
        let (config, state, set) = (cluster.config(), cluster.state(), cluster.endpoints());
        state.seat(set.members(), config.outlier_detection.as_ref(), now);
        if config.health_check.is_none() {
            set.members().iter().for_each(|member| state.check_no_more(&member.state));
        }
        self.health.changed();
    }

    /// Asks for the names whose answers no longer hold, and gives the clusters in use what changed.
    pub async fn refresh(&self) {
        let Surroundings { resolver, clock, seed: _ } = &self.surroundings;
        self.names.refresh(&**resolver, clock, || self.clusters()).await;
    }

    /// What is counted.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The keys that tokens are verified with.
    #[must_use]
    pub fn keys(&self) -> &KeyStore {
        &self.keys
    }

    /// Asks for the addresses of a name once, for somebody on the control thread.
    ///
    /// # Errors
    /// Why there are none, in a sentence.
    pub async fn resolve(&self, host: &str) -> Result<Answer, String> {
        self.surroundings.resolver.resolve(host).await
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

    /// What is remembered of a rate limit, old or new.
    #[must_use]
    pub fn rate(&self, limit: &Arc<str>) -> Arc<RateState> {
        let new = || RateState::new(self.metrics.rate_limit(limit), (self.surroundings.clock)());
        self.rates.lock().entry(Arc::clone(limit)).or_insert_with(|| Kept::new(new())).share()
    }

    /// The breaker of a rule, by its table and name, old or new.
    #[must_use]
    pub fn rule_breaker(&self, name: (&Arc<str>, &Arc<str>), settings: &model::Breaker) -> Arc<RuleBreaker> {
        self.rule_breakers.get(name, settings, &self.metrics, (self.surroundings.clock)())
    }

    pub(super) fn rule_breakers(&self) -> &RuleBreakers {
        &self.rule_breakers
    }

    fn state(&self, name: &Arc<str>) -> Arc<ClusterState> {
        let new = || ClusterState::unused(name, &self.metrics, (self.surroundings.clock)());
        self.states.lock().entry(Arc::clone(name)).or_insert_with(|| Kept::new(new())).share()
    }

    /// The states of a cluster's endpoints, old or new. A newcomer is expected to take the median time of those
    /// that are known.
    pub(super) fn endpoints(
        &self,
        config: &model::Cluster,
        cluster: &ClusterState,
        addresses: &[SocketAddr],
    ) -> Vec<Arc<EndpointState>> {
        let now = (self.surroundings.clock)();
        let mut endpoints = self.endpoints.lock();
        let key = |address: &SocketAddr| (Arc::clone(&cluster.name), *address);
        let known: Vec<f64> = addresses
            .iter()
            .filter_map(|address| endpoints.get(&key(address)))
            .map(|kept| kept.value.latency.read(now))
            .collect();
        // Where nobody was before, nobody is new: it is this proxy that is.
        let newcomer = (!known.is_empty()).then_some(now);
        let expected = ewma::median_cost(known);
        addresses
            .iter()
            .map(|address| {
                let new = || {
                    let state = EndpointState::new(*address, expected, &cluster.board, now);
                    if config.health_check.is_some() {
                        state.standing.set(Against::Unchecked);
                    }
                    Kept::new(EndpointState { newcomer, ..state })
                };
                endpoints.entry(key(address)).or_insert_with(new).share()
            })
            .collect()
    }

    /// Where the next balancer begins, so that proxies that start together do not walk in step.
    pub(super) fn balancer_start(&self) -> u64 {
        self.starts.lock().next_u64()
    }

    /// The pool under a key, old or new.
    pub(super) fn pool(&self, key: PoolKey, cluster: &Arc<ClusterState>, endpoint: &Arc<EndpointState>) -> Arc<Pool> {
        let mut pools = self.pools.lock();
        if let Some(pool) = pools.get(&key).and_then(Weak::upgrade).filter(|pool| !pool.is_retired()) {
            return pool;
        }
        let pool = Arc::new(Pool::new(&key, self.workers, cluster, endpoint));
        pools.insert(key, Arc::downgrade(&pool));
        pool
    }

    /// Forgets what has not been used for [`LINGER`]. What somebody still holds is in use. Called with every new
    /// configuration and now and then between: names bring endpoints and take them away too.
    pub fn sweep(&self, now: Instant) {
        self.endpoints.lock().retain(|_, kept| kept.stays(now));
        self.states.lock().retain(|_, kept| kept.stays(now));
        self.rule_breakers.sweep(now);
        self.pools.lock().retain(|_, pool| pool.strong_count() > 0);
        self.rates.lock().retain(|_, kept| kept.stays(now));
        let rates: Vec<Arc<RateState>> = self.rates.lock().values().map(|kept| Arc::clone(&kept.value)).collect();
        for rate in rates {
            rate.sweep(now);
        }
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
pub const LINGER: Duration = Duration::from_secs(60);

/// How long a new configuration waits for its new names.
const WARM_LIMIT: Duration = Duration::from_millis(1500);

#[cfg(test)]
mod tests;
