//! A mesh to the configuration of each proxy.
//!
//! What a proxy gets is a set of [`Part`]s (listeners, route tables, clusters, lists of endpoints), shared with every proxy
//! that gets the same. The [`Compiler`] keeps them between generations: a part whose inputs are the same is not made again,
//! and one that comes out equal stays the same `Arc`, so that one changed endpoint makes one new part, whoever sees it.
//!
//! ```text
//! backends    Services to clusters and endpoints
//! bytes       Services to the listeners of callers of TCP
//! settings    layers of policies to effective values
//! rules       routes to rules, in the order in which they are tried
//! hosts       Services to virtual hosts, and those to outbound route tables
//! limits      rate limits to the proxies that keep them
//! inbound     a Workload's ports to listeners with mutual TLS, authorization and tokens
//! resources   parts to encoded resources
//! ```
//!
//! Deterministic: the same mesh gives the same parts, whatever was compiled before.

mod backends;
mod bytes;
mod defaults;
mod hosts;
mod inbound;
mod limits;
mod model;
mod parts;
mod resources;
mod rules;
mod settings;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use outrigger_config::model::{Listener, ListenerProtocol, Upgrades};
use outrigger_config::spiffe::SpiffeId;

use crate::manifest::object::Workload;
use crate::manifest::{Mesh, Name, Object};
use backends::Backends;
pub use backends::{INVALID_BACKEND, Share};
use hosts::Hosts;
use inbound::Inbound;
use limits::Limits;
use parts::Kept;
pub use parts::{EndpointList, ListenerPart, Part};

/// Everything that proxies get of one mesh.
#[derive(Debug, Default)]
pub struct Compiled {
    workloads: BTreeMap<Name, Arc<ProxyConfig>>,
}

impl Compiled {
    /// The configuration of one proxy.
    #[must_use]
    pub fn workload(&self, name: &Name) -> Option<&Arc<ProxyConfig>> {
        self.workloads.get(name)
    }

    /// Every proxy's, by namespace and name.
    #[must_use]
    pub fn workloads(&self) -> &BTreeMap<Name, Arc<ProxyConfig>> {
        &self.workloads
    }
}

/// What one proxy gets. Lists are in the order of names.
#[derive(Debug)]
pub struct ProxyConfig {
    /// The workload.
    pub workload: Name,
    /// Its identity: whoever asks for this configuration must have it.
    pub identity: SpiffeId,
    /// Its zone.
    pub zone: Option<Arc<str>>,
    /// Its listeners, each with what it refers to but its routes.
    pub listeners: Vec<Arc<Part<ListenerPart>>>,
    /// Its route tables.
    pub routes: Vec<Arc<Part<outrigger_config::model::RouteTable>>>,
    /// Its clusters. Their endpoints are in `endpoints`, but where endpoints are names, which are in the cluster itself.
    pub clusters: Vec<Arc<Part<outrigger_config::model::Cluster>>>,
    /// The endpoints of its clusters.
    pub endpoints: Vec<Arc<Part<EndpointList>>>,
}

impl ProxyConfig {
    /// Whether two have the very same parts.
    fn same(&self, other: &Self) -> bool {
        self.same_but_endpoints(other) && self.same_endpoints(other)
    }

    /// Whether two have the very same parts, those of endpoints left aside.
    pub(crate) fn same_but_endpoints(&self, other: &Self) -> bool {
        let Self { workload, identity, zone, listeners, routes, clusters, endpoints: _ } = self;
        *workload == other.workload
            && *identity == other.identity
            && *zone == other.zone
            && same(listeners, &other.listeners)
            && same(routes, &other.routes)
            && same(clusters, &other.clusters)
    }

    /// Whether two have the very same endpoints.
    pub(crate) fn same_endpoints(&self, other: &Self) -> bool {
        same(&self.endpoints, &other.endpoints)
    }
}

fn same<T>(a: &[Arc<T>], b: &[Arc<T>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
}

/// Compiles meshes, and keeps what did not change.
#[derive(Debug, Default)]
pub struct Compiler {
    backends: Backends,
    hosts: Hosts,
    inbound: Inbound,
    outbound: Kept<bytes::Key, ListenerPart>,
    last: Arc<Compiled>,
}

impl Compiler {
    /// One that has compiled nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Compiles a mesh. Proxies whose configuration did not change get the same `Arc` as from the mesh before.
    pub fn compile(&mut self, mesh: &Mesh) -> Arc<Compiled> {
        self.backends.renew(mesh);
        self.hosts.begin();
        self.inbound.begin(Limits::of(&self.backends));
        let mut by_namespace: HashMap<Arc<str>, Vec<Name>> = HashMap::new();
        for (object, _) in mesh.services() {
            by_namespace.entry(Arc::clone(&object.id.name.namespace)).or_default().push(object.id.name.clone());
        }
        let mut workloads = BTreeMap::new();
        let mut outbound = Kept::default();
        for (object, workload) in mesh.workloads() {
            let name = &object.id.name;
            let services = services_of(mesh, (object, workload), &by_namespace);
            // Who catches nothing has no use for what serves it.
            let caught: &[Name] = if workload.interception.is_some() { &services } else { &[] };
            let (of_tcp, of_bytes) = bytes::listeners(mesh, &self.backends, (&name.namespace, caught));
            let (table, needs) = self.hosts.table(mesh, &self.backends, (&name.namespace, services));
            let upgrades = inbound::upgrades(mesh, object);
            let mut listeners = Vec::with_capacity(of_tcp.len() + 1);
            for part in std::iter::once(outbound_listener(object, workload, upgrades)).chain(of_tcp) {
                let key = (name.clone(), Arc::clone(&part.listener.name));
                outbound.keep(&mut self.outbound, key.clone(), part);
                listeners.extend(outbound.get(&key).cloned());
            }
            let mut routes = vec![table];
            let mut clusters = Vec::new();
            let mut endpoints = Vec::new();
            for key in needs.iter().chain(of_bytes.iter().filter(|key| !needs.contains(*key))) {
                self.backends.parts(key, (&mut clusters, &mut endpoints));
            }
            self.inbound.compile(
                mesh,
                (object, workload),
                (&mut listeners, &mut routes, &mut clusters, &mut endpoints),
            );
            let asked: BTreeSet<&Arc<str>> =
                listeners.iter().flat_map(|part| part.value.rate_limit_services.keys()).collect();
            for (cluster, list) in
                asked.into_iter().filter_map(|name| Some(&self.backends.limiters.services.get(name)?.1))
            {
                backends::put((cluster, list), (&mut clusters, &mut endpoints));
            }
            listeners.sort_by(|a, b| a.value.listener.name.cmp(&b.value.listener.name));
            routes.sort_by(|a, b| a.value.name.cmp(&b.value.name));
            clusters.sort_by(|a, b| a.value.name.cmp(&b.value.name));
            endpoints.sort_by(|a, b| a.value.cluster.cmp(&b.value.cluster));
            let identity = mesh.identity(&name.namespace, &workload.service_account);
            let zone = workload.zone.clone();
            let config = ProxyConfig { workload: name.clone(), identity, zone, listeners, routes, clusters, endpoints };
            let config = match self.last.workloads.get(name) {
                Some(last) if last.same(&config) => Arc::clone(last),
                _ => Arc::new(config),
            };
            workloads.insert(name.clone(), config);
        }
        self.outbound = outbound;
        self.hosts.end();
        self.inbound.end();
        self.last = Arc::new(Compiled { workloads });
        Arc::clone(&self.last)
    }
}

/// The Services that a workload calls: those it names, or those of its namespace.
fn services_of(
    mesh: &Mesh,
    (object, workload): (&Object, &Workload),
    by_namespace: &HashMap<Arc<str>, Vec<Name>>,
) -> Vec<Name> {
    match &workload.uses {
        Some(uses) => {
            let mut out: Vec<Name> =
                uses.iter().map(|(name, _)| name).filter(|name| mesh.service(name).is_some()).cloned().collect();
            out.sort();
            out
        }
        None => by_namespace.get(&object.id.name.namespace).cloned().unwrap_or_default(),
    }
}

/// The name of the route table of calls.
const OUTBOUND: &str = "outbound";

fn outbound_listener(object: &Object, workload: &Workload, upgrades: Upgrades) -> ListenerPart {
    let listener = Listener {
        upgrades,
        interception: workload.interception,
        routes: Some(OUTBOUND.into()),
        ..defaults::outbound(OUTBOUND, workload.outbound, ListenerProtocol::Auto, object.place.clone())
    };
    ListenerPart::plain(listener)
}
