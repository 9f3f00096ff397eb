//! A routing rule ready to run.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};

use outrigger_config::model;

use super::{Gates, Mirroring};
use crate::net::tls::TlsSet;
use crate::policy::cors::CorsPolicy;
use crate::policy::hash::xxh64;
use crate::policy::hedge::HedgeTimes;
use crate::policy::session::Namer;
use crate::policy::weighted::Split;
use crate::telemetry::RouteMetrics;
use crate::telemetry::metrics::{DatagramMetrics, StreamMetrics};
use crate::upstream::{Cluster, RuleBreaker};

/// A rule with its backends found.
#[derive(Debug)]
pub struct Rule {
    /// As configured.
    pub config: model::Rule,
    /// What is done.
    pub action: Action,
    /// Its CORS rules.
    pub cors: Option<CorsPolicy>,
    /// Its breaker.
    pub breaker: Option<Arc<RuleBreaker>>,
    /// Names the endpoints of its sessions.
    pub session: Option<Arc<Namer>>,
    /// What its requests must pass before anything is done with them.
    pub gates: Option<Box<Gates>>,
    /// Where copies of them go.
    pub mirrors: Vec<Mirroring>,
    pub(super) metrics: OnceLock<Arc<RouteMetrics>>,
}

/// What is done with a request.
#[derive(Debug)]
pub enum Action {
    /// Sent to one of these.
    Forward(Backends),
    /// Redirected.
    Redirect(model::Redirect),
    /// Answered here.
    Direct(model::DirectResponse),
}

/// Weighted backends.
#[derive(Debug)]
pub struct Backends {
    all: Vec<Backend>,
    split: Option<Split>,
}

/// A backend.
#[derive(Debug)]
pub struct Backend {
    /// The cluster.
    pub cluster: Arc<Cluster>,
    /// Its share.
    pub weight: u32,
    /// Only endpoints with these labels.
    pub subset: Option<model::Labels>,
    /// Tells it from other backends in names of sessions.
    pub mark: u64,
    /// Applied to requests that go there.
    pub filters: Vec<model::Filter>,
    /// How long its answers took lately, where the rule hedges.
    pub hedge_times: Option<Arc<HedgeTimes>>,
    pub(super) metrics: OnceLock<Arc<RouteMetrics>>,
    pub(super) streams: OnceLock<Arc<StreamMetrics>>,
    pub(super) datagrams: OnceLock<Arc<DatagramMetrics>>,
}

impl Rule {
    pub(super) fn compile(
        rule: &model::Rule,
        clusters: &HashMap<&Arc<str>, Arc<Cluster>>,
        (gates, mirrors): (Option<Box<Gates>>, Vec<Mirroring>),
        tls: &TlsSet,
    ) -> Self {
        let action = match &rule.action {
            model::Action::Redirect(redirect) => Action::Redirect(redirect.clone()),
            model::Action::Direct(direct) => Action::Direct(direct.clone()),
            model::Action::Forward(refs) => Action::Forward(Backends::compile(refs, clusters).hedged(rule)),
        };
        let cors = rule.filters.iter().find_map(|filter| match filter {
            model::Filter::Cors(cors) => Some(CorsPolicy::compile(cors)),
            _ => None,
        });
        let session = rule.session.as_ref().and_then(|session| tls.session_key(&session.key_file)).cloned();
        let config = rule.clone();
        Self { config, action, cors, breaker: None, session, gates, mirrors, metrics: OnceLock::new() }
    }
}

/// A number that follows from the cluster and the subset, on every proxy the same.
fn mark(backend: &model::BackendRef) -> u64 {
    let labels = backend.subset.iter().flat_map(|(name, value)| [name, value]);
    // Each part is hashed with what came before, so that where one ends and the next begins matters.
    std::iter::once(&backend.cluster).chain(labels).fold(0, |seed, part| xxh64(part.as_bytes(), seed))
}

/// The subsets that backends ask for, by cluster.
pub(super) fn subsets(config: &model::Config) -> BTreeMap<&Arc<str>, BTreeSet<&model::Labels>> {
    let rules = config.routes.values().flat_map(|table| &table.hosts).flat_map(|host| &host.rules);
    let requests = rules.filter_map(|rule| match &rule.action {
        model::Action::Forward(backends) => Some(backends),
        model::Action::Redirect(_) | model::Action::Direct(_) => None,
    });
    let bytes = config.listeners.iter().flat_map(|listener| {
        let sealed = listener.tls.iter().flat_map(|tls| &tls.passthrough).map(|entry| &entry.backends);
        let datagrams = listener.udp.iter().map(|udp| &udp.backends);
        listener.tcp.iter().map(|tcp| &tcp.backends).chain(datagrams).chain(sealed)
    });
    let mut subsets = BTreeMap::<_, BTreeSet<_>>::new();
    for backend in requests.chain(bytes).flatten().filter(|backend| !backend.subset.is_empty()) {
        subsets.entry(&backend.cluster).or_default().insert(&backend.subset);
    }
    subsets
}

impl Action {
    /// The backend that a uniformly random number falls to; `None` where nothing is sent, or to nobody.
    #[must_use]
    pub fn choose(&self, random: u64) -> Option<&Backend> {
        match self {
            Self::Forward(backends) => backends.choose(random),
            Self::Redirect(_) | Self::Direct(_) => None,
        }
    }
}

impl Backends {
    pub(super) fn compile(refs: &[model::BackendRef], clusters: &HashMap<&Arc<str>, Arc<Cluster>>) -> Self {
        let all: Vec<Backend> = refs
            .iter()
            .filter(|backend| backend.weight > 0)
            .map(|backend| Backend {
                cluster: Arc::clone(&clusters[&backend.cluster]),
                weight: backend.weight,
                mark: mark(backend),
                subset: (!backend.subset.is_empty()).then(|| backend.subset.clone()),
                filters: backend.filters.clone(),
                hedge_times: None,
                metrics: OnceLock::new(),
                streams: OnceLock::new(),
                datagrams: OnceLock::new(),
            })
            .collect();
        let split = Split::new(all.iter().map(|backend| backend.weight));
        Self { all, split }
    }

    /// With the times that a rule that hedges goes by.
    fn hedged(mut self, rule: &model::Rule) -> Self {
        if rule.hedge.is_some() {
            for backend in &mut self.all {
                backend.hedge_times = Some(backend.cluster.state().hedge_times(&rule.name));
            }
        }
        self
    }

    /// The backend that a uniformly random number falls to.
    #[must_use]
    pub fn choose(&self, random: u64) -> Option<&Backend> {
        self.all.get(self.split.as_ref()?.pick(random))
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[Backend] {
        &self.all
    }
}
