//! Layer 5: a configuration made ready to run. Immutable; published with one pointer store; a request takes
//! one and keeps it to its end, so it never sees half of a change.

mod authorization;
mod cell;
mod external;
mod gates;
mod mirroring;
mod passthrough;
mod rule;
mod tokens;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use http::HeaderValue;
use outrigger_config::Loaded;
use outrigger_config::model;
use sha2::{Digest, Sha256};

use self::gates::RateServices;
pub use authorization::Authorization;
pub use cell::{Published, SnapshotCell, Tie};
pub use external::External;
pub use gates::{Gates, GlobalLimits, LocalLimit, RateService};
pub use mirroring::Mirroring;
pub use passthrough::Passthrough;
pub use rule::{Action, Backend, Backends, Rule};
pub use tokens::Tokens;

use crate::codec::lasting::lasting;
use crate::net::tls::{ServerTls, TlsSet};
use crate::policy::authz::Policy;
use crate::policy::route::RouteTable;
use crate::telemetry::metrics::{DatagramMetrics, RouteLabels, StreamLabels, StreamMetrics};
use crate::telemetry::{ListenerMetrics, Metrics, RouteMetrics};
use crate::upstream::{Cluster, Placement, Registry};

/// A compiled configuration.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts accepted configurations, from 1.
    pub generation: u64,
    /// What it was compiled from.
    pub loaded: Arc<Loaded>,
    listeners: HashMap<Arc<str>, Arc<Listener>, foldhash::fast::RandomState>,
    clusters: Vec<Arc<Cluster>>,
}

/// A listener's view of the configuration: everything a request on it needs.
#[derive(Debug)]
pub struct Listener {
    /// As configured.
    pub config: model::Listener,
    /// The generation it belongs to.
    pub generation: u64,
    /// Finds rules by index into [`Listener::rules`].
    pub table: RouteTable,
    /// The rules of its table, flat, in order.
    pub rules: Vec<Arc<Rule>>,
    /// Who may do what; `None`: everybody everything.
    pub authorization: Option<Authorization>,
    /// TLS, newest certificates included; `None` is plaintext.
    pub tls: Option<Arc<ServerTls>>,
    /// TLS that is handed on.
    pub passthrough: Passthrough,
    /// Where connections go of which nothing is understood.
    pub tcp: Option<Backends>,
    /// Where datagrams go.
    pub udp: Option<Backends>,
    /// Its metric handles.
    pub metrics: Arc<ListenerMetrics>,
    /// The tokens that it asks for.
    pub jwt: Option<Tokens>,
    /// The authorizer that is asked.
    pub external: Option<External>,
    /// Rate limits of all its requests.
    pub rate_limits: Vec<LocalLimit>,
    /// What callers over TCP are told of HTTP/3, where the port is known beforehand.
    pub alt_svc: Option<HeaderValue>,
    /// Marks requests that passed here, so that a loop is noticed.
    pub loop_mark: HeaderValue,
    all_metrics: Arc<Metrics>,
    unrouted: OnceLock<Arc<RouteMetrics>>,
}

impl Snapshot {
    /// Compiles a validated configuration. State known to the registry is found again there. Cannot fail:
    /// whatever could go wrong was refused by validation.
    #[must_use]
    pub fn compile(
        (loaded, tls): (&Arc<Loaded>, &TlsSet),
        registry: &Arc<Registry>,
        metrics: &Arc<Metrics>,
        generation: u64,
    ) -> Self {
        let config = &loaded.config;
        let mut subsets = rule::subsets(config);
        let clusters: HashMap<&Arc<str>, Arc<Cluster>> = config
            .clusters
            .iter()
            .map(|(name, cluster)| {
                let subsets = subsets.remove(name).unwrap_or_default().into_iter().cloned().collect();
                let placement = Placement { zone: config.node.zone.clone(), subsets };
                (name, registry.placed(cluster, tls.client(name), placement))
            })
            .collect();
        let policies: HashMap<&Arc<str>, Arc<Policy>> =
            config.authorization.iter().map(|(name, policy)| (name, Arc::new(Policy::compile(policy)))).collect();
        let services = RateServices::compile(config, &clusters, metrics);
        let nothing = model::RouteTable { name: Arc::from("-"), hosts: Vec::new() };
        let listeners = config
            .listeners
            .iter()
            .map(|listener| {
                let table = listener.routes.as_ref().map_or(&nothing, |name| &config.routes[name]);
                let compiled = Listener {
                    config: listener.clone(),
                    generation,
                    table: RouteTable::compile(table),
                    rules: table
                        .hosts
                        .iter()
                        .flat_map(|host| &host.rules)
                        .map(|rule| {
                            let gates = Gates::compile(rule, registry, &services);
                            let mirrors = Mirroring::all(rule, &clusters, metrics);
                            let named = |breaker| registry.rule_breaker((&table.name, &rule.name), breaker);
                            let breaker = rule.breaker.as_ref().map(named);
                            Arc::new(Rule { breaker, ..Rule::compile(rule, &clusters, (gates, mirrors), tls) })
                        })
                        .collect(),
                    authorization: listener
                        .authorization
                        .as_ref()
                        .map(|name| Authorization::new(&policies[name], &listener.name, metrics)),
                    tls: tls.server(&listener.name).cloned(),
                    passthrough: Passthrough::compile(
                        listener.tls.as_ref().map_or(&[], |tls| &tls.passthrough),
                        &clusters,
                    ),
                    tcp: listener.tcp.as_ref().map(|tcp| Backends::compile(&tcp.backends, &clusters)),
                    udp: listener.udp.as_ref().map(|udp| Backends::compile(&udp.backends, &clusters)),
                    metrics: metrics.listener(&listener.name),
                    jwt: listener.jwt.as_ref().map(|jwt| Tokens::compile(jwt, &config.jwt_providers, registry.keys())),
                    external: listener.external_authorization.as_ref().map(|name| {
                        let authorizer = &config.external_authorizers[name];
                        External {
                            config: authorizer.clone(),
                            cluster: Arc::clone(&clusters[&authorizer.cluster]),
                            metrics: metrics.authorizer(name),
                        }
                    }),
                    rate_limits: LocalLimit::all(&listener.rate_limits, registry),
                    alt_svc: listener.http3.and_then(|http3| {
                        let port = http3.advertise.unwrap_or(listener.bind.port());
                        (port != 0).then(|| alt_svc(http3, port))?
                    }),
                    loop_mark: loop_mark(&config.node.id, &listener.name),
                    all_metrics: Arc::clone(metrics),
                    unrouted: OnceLock::new(),
                };
                (Arc::clone(&listener.name), Arc::new(compiled))
            })
            .collect();
        Self { generation, loaded: Arc::clone(loaded), listeners, clusters: clusters.into_values().collect() }
    }

    /// A listener by its name.
    #[must_use]
    pub fn listener(&self, name: &str) -> Option<&Arc<Listener>> {
        self.listeners.get(name)
    }

    /// Its listeners.
    pub fn listeners(&self) -> impl Iterator<Item = &Arc<Listener>> {
        self.listeners.values()
    }

    /// Its clusters.
    #[must_use]
    pub fn clusters(&self) -> &[Arc<Cluster>] {
        &self.clusters
    }

    /// Whether requests still run on it besides whoever asks.
    fn is_in_use(&self) -> bool {
        self.listeners.values().any(|listener| Arc::strong_count(listener) > 1)
    }
}

impl Listener {
    /// Whether another view of a listener authorizes alike.
    #[must_use]
    pub fn authorizes_like(&self, other: &Self) -> bool {
        match (&self.authorization, &other.authorization) {
            (None, None) => true,
            (Some(one), Some(other)) => one.decides_like(other),
            (None, Some(_)) | (Some(_), None) => false,
        }
    }

    /// The metrics of a rule and the backend chosen, made at their first use: a table may have 10,000 rules
    /// of which few are ever used.
    #[must_use]
    pub fn route_metrics<'a>(&'a self, rule: &'a Rule, backend: Option<&'a Backend>) -> &'a Arc<RouteMetrics> {
        let (cell, cluster) = match backend {
            Some(backend) => (&backend.metrics, Arc::clone(&backend.cluster.config().name)),
            None => (&rule.metrics, Arc::from("-")),
        };
        cell.get_or_init(|| {
            self.all_metrics.route(&RouteLabels {
                listener: Arc::clone(&self.config.name),
                route: Arc::clone(&rule.config.name),
                cluster,
            })
        })
    }

    /// The metrics of connections that are handed on to a backend; `None`: to where they were going.
    #[must_use]
    pub fn stream_metrics(&self, backend: Option<&Backend>) -> Arc<StreamMetrics> {
        let make =
            |cluster| self.all_metrics.streams(&StreamLabels { listener: Arc::clone(&self.config.name), cluster });
        match backend {
            Some(backend) => {
                Arc::clone(backend.streams.get_or_init(|| make(Arc::clone(&backend.cluster.config().name))))
            }
            None => make(Arc::from("-")),
        }
    }

    /// The metrics of datagrams that are handed on to a backend; `None`: to none.
    #[must_use]
    pub fn datagram_metrics(&self, backend: Option<&Backend>) -> Arc<DatagramMetrics> {
        let make =
            |cluster| self.all_metrics.datagrams(&StreamLabels { listener: Arc::clone(&self.config.name), cluster });
        match backend {
            Some(backend) => {
                Arc::clone(backend.datagrams.get_or_init(|| make(Arc::clone(&backend.cluster.config().name))))
            }
            None => make(Arc::from("-")),
        }
    }

    /// The metrics of requests that no rule was found for.
    pub fn unrouted_metrics(&self) -> &Arc<RouteMetrics> {
        self.unrouted.get_or_init(|| {
            self.all_metrics.route(&RouteLabels {
                listener: Arc::clone(&self.config.name),
                route: Arc::from("-"),
                cluster: Arc::from("-"),
            })
        })
    }
}

/// `Alt-Svc` for HTTP/3 on a port (RFC 7838 section 3). `None`: it is not to be told.
#[must_use]
pub fn alt_svc(http3: model::Http3, port: u16) -> Option<HeaderValue> {
    let age = http3.max_age.as_secs();
    (age > 0).then(|| HeaderValue::try_from(format!("h3=\":{port}\"; ma={age}")).ok())?
}

/// A short stable name of this listener of this proxy; says nothing about either to who reads it.
fn loop_mark(node: &str, listener: &str) -> HeaderValue {
    let digest = Sha256::new().chain_update(node).chain_update([0]).chain_update(listener).finalize();
    let hex: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    lasting(HeaderValue::try_from(hex).unwrap_or(HeaderValue::from_static("-")))
}
