//! Decoded resources as one configuration: what refers to each other is put together, and what a route leads to that is
//! not there becomes a cluster without endpoints, which answers 503.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::model::{
    Action, BalancePolicy, Ceilings, Cluster, ClusterProtocol, Config, ConnectionOptions, DnsOptions, Endpoint, Place,
    RetryBudget, RouteTable,
};
use outrigger_xds::Kind;
use outrigger_xds::decode::{Decoded, DecodedListener, What};

use super::session::Refusal;
use super::store::Id;

/// A configuration in the making.
#[derive(Debug)]
pub(crate) struct Assembly {
    config: Config,
}

impl Assembly {
    /// Of a process with these settings.
    pub(crate) fn new(settings: Config) -> Self {
        let config = Config {
            listeners: Vec::new(),
            routes: BTreeMap::new(),
            clusters: BTreeMap::new(),
            authorization: BTreeMap::new(),
            jwt_providers: BTreeMap::new(),
            external_authorizers: BTreeMap::new(),
            ..settings
        };
        Self { config }
    }

    /// Puts complete resources together. What contradicts something else of its name is refused.
    pub(crate) fn add(&mut self, resources: &[(&Id, &Arc<Decoded>)]) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        let mut endpoints: BTreeMap<&str, &Arc<Vec<Endpoint>>> = BTreeMap::new();
        let mut tables: BTreeMap<&str, &Arc<RouteTable>> = BTreeMap::new();
        for ((_, name), decoded) in resources {
            match &decoded.what {
                What::Endpoints(list) => _ = endpoints.insert(name, list),
                What::Routes(table) => _ = tables.insert(name, table),
                What::Listener(_) | What::Cluster(_) | What::Secret => {}
            }
        }
        for ((_, name), decoded) in resources {
            match &decoded.what {
                What::Cluster(decoded) => {
                    let mut cluster = decoded.cluster.clone();
                    if let Some(list) = decoded.discovers_endpoints.as_ref().and_then(|name| endpoints.get(&**name)) {
                        cluster.endpoints = list.to_vec();
                    }
                    self.config.clusters.insert(Arc::clone(name), cluster);
                }
                What::Listener(listener) => {
                    if let Err((field, reason)) = self.listener(listener, &tables) {
                        let name = Arc::clone(name);
                        refusals.push(Refusal { kind: Kind::Listener, name, field: field.to_owned(), reason });
                    }
                }
                What::Routes(_) | What::Endpoints(_) | What::Secret => {}
            }
        }
        refusals
    }

    /// The configuration.
    pub(crate) fn finish(mut self) -> Config {
        for name in self.dangling() {
            let cluster = nowhere(&name);
            self.config.clusters.insert(name, cluster);
        }
        self.config
    }

    fn listener(
        &mut self,
        decoded: &DecodedListener,
        tables: &BTreeMap<&str, &Arc<RouteTable>>,
    ) -> Result<(), (&'static str, String)> {
        let DecodedListener { listener, authorization, jwt_providers, external_authorizer, routes } = decoded;
        let config = &mut self.config;
        let table = routes.as_ref().or_else(|| listener.routes.as_ref().and_then(|name| tables.get(&**name).copied()));
        let clash = |what: &str, name: &str| format!("another listener has a different {what} named `{name}`");
        if let Some(table) = table {
            match config.routes.get(&table.name) {
                Some(known) if *known != **table => {
                    return Err(("route_config", clash("route table", &table.name)));
                }
                Some(_) => {}
                None => _ = config.routes.insert(Arc::clone(&table.name), RouteTable::clone(table)),
            }
        }
        if let Some(policy) = authorization {
            match config.authorization.get(&policy.name) {
                Some(known) if known != policy => return Err(("http_filters", clash("policy", &policy.name))),
                Some(_) => {}
                None => _ = config.authorization.insert(Arc::clone(&policy.name), policy.clone()),
            }
        }
        for provider in jwt_providers {
            match config.jwt_providers.get(&provider.name) {
                Some(known) if known != provider => {
                    return Err(("http_filters", clash("token provider", &provider.name)));
                }
                Some(_) => {}
                None => _ = config.jwt_providers.insert(Arc::clone(&provider.name), provider.clone()),
            }
        }
        if let Some(authorizer) = external_authorizer {
            match config.external_authorizers.get(&authorizer.name) {
                Some(known) if known != authorizer => {
                    return Err(("http_filters", clash("authorizer", &authorizer.name)));
                }
                Some(_) => {}
                None => _ = config.external_authorizers.insert(Arc::clone(&authorizer.name), authorizer.clone()),
            }
        }
        config.listeners.push(listener.clone());
        Ok(())
    }

    /// Clusters that something leads to and that are not there.
    fn dangling(&self) -> BTreeSet<Arc<str>> {
        let Config { listeners, routes, clusters, external_authorizers, .. } = &self.config;
        let rules = routes.values().flat_map(|table| &table.hosts).flat_map(|host| &host.rules);
        let forwarded = rules.flat_map(|rule| match &rule.action {
            Action::Forward(backends) => &**backends,
            Action::Redirect(_) | Action::Direct(_) => &[],
        });
        let passed = listeners.iter().filter_map(|listener| listener.tls.as_ref());
        let passed = passed.flat_map(|tls| &tls.passthrough).flat_map(|entry| &entry.backends);
        let named = forwarded.chain(passed).map(|backend| &backend.cluster);
        let asked = external_authorizers.values().map(|authorizer| &authorizer.cluster);
        named.chain(asked).filter(|name| !clusters.contains_key(*name)).cloned().collect()
    }
}

/// A cluster that leads nowhere, with the defaults of every other setting.
fn nowhere(name: &Arc<str>) -> Cluster {
    let (seconds, ms) = (Duration::from_secs, Duration::from_millis);
    Cluster {
        name: Arc::clone(name),
        protocol: ClusterProtocol::Auto,
        balance: BalancePolicy::LeastRequest,
        endpoints: Vec::new(),
        ceilings: Ceilings { max_requests: 1024, max_pending: 256, max_retries: 64, max_connections: 1024 },
        retry_budget: RetryBudget { percent: 20, min_per_second: 3 },
        connection: ConnectionOptions {
            connect_timeout: ms(1000),
            idle_timeout: seconds(55),
            keepalive_interval: seconds(10),
            keepalive_timeout: seconds(3),
            max_streams: 100,
            max_age: seconds(3600),
        },
        tls: None,
        dns: DnsOptions { min_ttl: seconds(1), max_ttl: seconds(60) },
        place: Place { file: format!("xds:cluster/{name}").into(), line: 1, column: 1 },
    }
}
