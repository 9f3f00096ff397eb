//! One configuration out of the resources that have come.
//!
//! What refers to something that has not come yet does not hold up the rest: a listener waits for its routes and is left
//! out; a cluster that is not there, or has no endpoints yet, is there without endpoints, and answers 503.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use outrigger_config::model::{
    AccessLog, Action, Admin, Authorization, Cluster, Config, Drain, Endpoint, ExternalAuthorizer, Filter, Identity,
    JwtProvider, Listener, Node, Overload, Place, RateLimitService, RouteTable,
};

use crate::Kind;
use crate::decode::{Decoded, DecodedCluster, DecodedListener, Refusal, What, opaque_backends, placeholder};

/// The settings of the process, which are in no resource.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Who this proxy is.
    pub node: Node,
    /// The admin server.
    pub admin: Admin,
    /// The access log.
    pub access_log: AccessLog,
    /// Worker threads.
    pub workers: Option<u16>,
    /// Drain timing.
    pub drain: Drain,
    /// The mesh identity: the secrets `default` and `ROOTCA`.
    pub identity: Option<Identity>,
    /// What is done when the process runs short.
    pub overload: Overload,
}

/// The resources that have come, by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parts {
    /// Listeners.
    pub listeners: BTreeMap<Arc<str>, Arc<DecodedListener>>,
    /// Route configurations.
    pub routes: BTreeMap<Arc<str>, Arc<RouteTable>>,
    /// Clusters.
    pub clusters: BTreeMap<Arc<str>, Arc<DecodedCluster>>,
    /// Endpoints, by the name under which clusters look for them.
    pub endpoints: BTreeMap<Arc<str>, Arc<Vec<Endpoint>>>,
}

impl Parts {
    /// Puts a resource in place of the one of that name. Secrets are files, and nothing here.
    pub fn insert(&mut self, name: &str, decoded: &Decoded) {
        let name = Arc::from(name);
        match &decoded.what {
            What::Listener(one) => drop(self.listeners.insert(name, Arc::clone(one))),
            What::Routes(one) => drop(self.routes.insert(name, Arc::clone(one))),
            What::Cluster(one) => drop(self.clusters.insert(name, Arc::clone(one))),
            What::Endpoints(one) => drop(self.endpoints.insert(name, Arc::clone(one))),
            What::Secret => {}
        }
    }

    /// Takes a resource out.
    pub fn remove(&mut self, kind: Kind, name: &str) {
        match kind {
            Kind::Listener => drop(self.listeners.remove(name)),
            Kind::Route => drop(self.routes.remove(name)),
            Kind::Cluster => drop(self.clusters.remove(name)),
            Kind::Endpoints => drop(self.endpoints.remove(name)),
            Kind::Secret => {}
        }
    }
}

/// Something that has not come yet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Waiting {
    /// A listener is left out until its routes come.
    Routes {
        /// The listener.
        listener: Arc<str>,
        /// The route configuration.
        routes: Arc<str>,
    },
    /// Something leads to a cluster that is not there.
    Cluster(Arc<str>),
    /// A cluster has no endpoints yet.
    Endpoints {
        /// The cluster.
        cluster: Arc<str>,
        /// The name of the endpoints.
        endpoints: Arc<str>,
    },
}

/// A configuration, and what it waits for.
#[derive(Debug, Clone, PartialEq)]
pub struct Assembled {
    /// The configuration. [`outrigger_config::built::check`] it before use.
    pub config: Config,
    /// What has not come yet, in order.
    pub waiting: Vec<Waiting>,
}

/// Joins resources. Listeners are in the order of their names.
///
/// # Errors
/// Policies of two listeners have one name and are not the same.
pub fn assemble(settings: &Settings, parts: &Parts) -> Result<Assembled, Vec<Refusal>> {
    let Settings { node, admin, access_log, workers, drain, identity, overload } = settings.clone();
    let mut whole = Whole::default();
    for (name, part) in &parts.clusters {
        whole.cluster(name, part, parts);
    }
    for (name, table) in &parts.routes {
        whole.routes.insert(name.clone(), RouteTable::clone(table));
    }
    for (name, part) in &parts.listeners {
        whole.listener(name, part);
    }
    whole.fill();
    let Whole {
        listeners,
        routes,
        clusters,
        authorization,
        jwt_providers,
        external_authorizers,
        rate_limit_services,
        waiting,
        refusals,
    } = whole;
    if !refusals.is_empty() {
        return Err(refusals);
    }
    let config = Config {
        node,
        admin,
        access_log,
        workers,
        drain,
        listeners,
        routes,
        clusters,
        identity,
        authorization,
        jwt_providers,
        external_authorizers,
        rate_limit_services,
        overload,
    };
    Ok(Assembled { config, waiting: waiting.into_iter().collect() })
}

#[derive(Default)]
struct Whole {
    listeners: Vec<Listener>,
    routes: BTreeMap<Arc<str>, RouteTable>,
    clusters: BTreeMap<Arc<str>, Cluster>,
    authorization: BTreeMap<Arc<str>, Authorization>,
    jwt_providers: BTreeMap<Arc<str>, JwtProvider>,
    external_authorizers: BTreeMap<Arc<str>, ExternalAuthorizer>,
    rate_limit_services: BTreeMap<Arc<str>, RateLimitService>,
    waiting: BTreeSet<Waiting>,
    refusals: Vec<Refusal>,
}

impl Whole {
    fn cluster(&mut self, name: &Arc<str>, part: &DecodedCluster, parts: &Parts) {
        let mut cluster = part.cluster.clone();
        if let Some(source) = &part.discovers_endpoints {
            match parts.endpoints.get(source) {
                Some(list) => cluster.endpoints.clone_from(list),
                None => {
                    let (cluster, endpoints) = (name.clone(), source.clone());
                    self.waiting.insert(Waiting::Endpoints { cluster, endpoints });
                }
            }
        }
        self.clusters.insert(name.clone(), cluster);
    }

    fn listener(&mut self, name: &Arc<str>, part: &DecodedListener) {
        let DecodedListener {
            listener,
            authorization,
            jwt_providers,
            external_authorizer,
            rate_limit_services,
            routes,
        } = part;
        if let Some(table) = routes {
            self.routes.insert(table.name.clone(), RouteTable::clone(table));
        } else if let Some(routes) = listener.routes.as_ref().filter(|routes| !self.routes.contains_key(*routes)) {
            self.waiting.insert(Waiting::Routes { listener: name.clone(), routes: routes.clone() });
            return;
        }
        let mut clashes = Vec::new();
        if let Some(policy) = authorization {
            clashes.extend(put(&mut self.authorization, &policy.name, policy, "authorization policy"));
        }
        for provider in jwt_providers {
            clashes.extend(put(&mut self.jwt_providers, &provider.name, provider, "token provider"));
        }
        if let Some(authorizer) = external_authorizer {
            clashes.extend(put(&mut self.external_authorizers, &authorizer.name, authorizer, "external authorizer"));
        }
        for (name, service) in rate_limit_services {
            clashes.extend(put(&mut self.rate_limit_services, name, service, "rate limit service"));
        }
        self.refusals.extend(clashes.into_iter().map(|reason| Refusal {
            type_url: Kind::Listener.type_url().to_owned(),
            name: name.to_string(),
            field: "filter_chains".to_owned(),
            reason,
        }));
        self.listeners.push(listener.clone());
    }

    /// Puts clusters without endpoints where something leads to one that is not there.
    fn fill(&mut self) {
        let rules = self.routes.values().flat_map(|table| &table.hosts).flat_map(|host| &host.rules);
        let forwards = rules.filter_map(|rule| match &rule.action {
            Action::Forward(list) => Some(list),
            Action::Redirect(_) | Action::Direct(_) => None,
        });
        let handed_on = self.listeners.iter().filter_map(|listener| listener.tls.as_ref());
        let handed_on = handed_on.flat_map(|tls| &tls.passthrough).flat_map(|entry| &entry.backends);
        let bytes = self.listeners.iter().flat_map(opaque_backends);
        let named = forwards.flatten().chain(handed_on).chain(bytes).map(|backend| &backend.cluster);
        let asked = self.external_authorizers.values().map(|authorizer| &authorizer.cluster);
        let asked = asked.chain(self.rate_limit_services.values().map(|service| &service.cluster));
        let rules = self.routes.values().flat_map(|table| &table.hosts).flat_map(|host| &host.rules);
        let mirrored = rules.flat_map(|rule| &rule.filters).filter_map(|filter| match filter {
            Filter::Mirror(mirror) => Some(&mirror.cluster),
            _ => None,
        });
        let missing: BTreeSet<Arc<str>> =
            named.chain(asked).chain(mirrored).filter(|name| !self.clusters.contains_key(*name)).cloned().collect();
        for name in missing {
            let place = Place { file: format!("xds:cluster/{name}").into(), line: 1, column: 1 };
            self.clusters.insert(name.clone(), placeholder(name.clone(), &place));
            self.waiting.insert(Waiting::Cluster(name));
        }
    }
}

/// Puts a policy in, or says that another one has its name.
fn put<T: Clone + PartialEq>(
    map: &mut BTreeMap<Arc<str>, T>,
    name: &Arc<str>,
    value: &T,
    what: &str,
) -> Option<String> {
    match map.get(name) {
        Some(other) if other != value => {
            Some(format!("another listener has another {what} named `{name}`; give them names of their own"))
        }
        Some(_) => None,
        None => {
            map.insert(name.clone(), value.clone());
            None
        }
    }
}
