//! Services to clusters and endpoints. Every port of a Service has a cluster for its endpoints in the mesh, which are
//! reached with mutual TLS, and one for those outside of it: the two are never mixed, because a cluster speaks one way.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use outrigger_config::model::{
    Cluster, ClusterProtocol, ClusterTls, ClusterTlsMode, Condition, Endpoint, Target, TlsVersion,
};
use outrigger_config::spiffe::IdentityPattern;

use super::limits::Limiters;
use super::parts::{EndpointList, Inputs, Part, same_or_new};
use super::{defaults, settings};
use crate::manifest::object::{EndpointSlice, Service, ServicePort, Spec, TargetPort, Traffic, Workload};
use crate::manifest::{Closed, Kind, Mesh, Name, Object};

/// A port of a Service.
pub(crate) type PortKey = (Name, u16);

/// A cluster and its endpoints.
pub(super) type ClusterParts = (Arc<Part<Cluster>>, Arc<Part<EndpointList>>);
/// Where parts are put.
type Into<'a> = (&'a mut Vec<Arc<Part<Cluster>>>, &'a mut Vec<Arc<Part<EndpointList>>>);

/// The cluster that stands for backends that lead nowhere. It has no endpoints.
pub const INVALID_BACKEND: &str = "invalid-backend";

/// A cluster of a port and its share of the port's requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The cluster.
    pub cluster: Arc<str>,
    /// The weights of its endpoints, added up.
    pub weight: u32,
}

/// Clusters of all ports, kept between generations.
#[derive(Debug, Default)]
pub(super) struct Backends {
    ports: HashMap<PortKey, Arc<PortBackends>>,
    invalid: Option<ClusterParts>,
    pub(super) limiters: Limiters,
}

/// The clusters of one port.
#[derive(Debug)]
pub(super) struct PortBackends {
    inputs: Inputs,
    /// A policy says how its endpoints outside the mesh are called, and cannot be read: they are not called at all.
    closed: bool,
    /// The Service's port with what policies say of it.
    pub(super) traffic: Traffic,
    /// At least one: a port without endpoints has an empty cluster.
    pub(super) clusters: Vec<ClusterParts>,
    pub(super) shares: Vec<Share>,
}

impl Backends {
    /// Brings everything up to a mesh.
    pub(super) fn renew(&mut self, mesh: &Mesh) {
        let index = Index::new(mesh);
        let mut ports = HashMap::with_capacity(self.ports.len());
        for (object, service) in mesh.services() {
            for port in &service.ports {
                let key = (object.id.name.clone(), port.port);
                let before = self.ports.remove(&key);
                ports.insert(key, index.port((object, service, port), before.as_ref()));
            }
        }
        self.ports = ports;
        let limiters = std::mem::take(&mut self.limiters);
        self.limiters = limiters.renewed(mesh, |key| self.ports.get(key).map(|port| &port.clusters[0]));
        if self.invalid.is_none() {
            let place = outrigger_config::model::Place { file: "built-in".into(), line: 1, column: 1 };
            let cluster = cluster((INVALID_BACKEND, ClusterProtocol::Http1, None), &Traffic::default(), place);
            let list = EndpointList { cluster: INVALID_BACKEND.into(), endpoints: Vec::new() };
            self.invalid = Some((Part::new(cluster), Part::new(list)));
        }
    }

    /// All ports, by Service and number.
    pub(super) fn sorted(&self) -> Vec<(&PortKey, &Arc<PortBackends>)> {
        let mut ports: Vec<_> = self.ports.iter().collect();
        ports.sort_by_key(|(key, _)| *key);
        ports
    }

    pub(super) fn port(&self, key: &PortKey) -> Option<&Arc<PortBackends>> {
        self.ports.get(key)
    }

    /// Adds the clusters of a port, or the one for what leads nowhere.
    pub(super) fn parts(&self, key: &Option<PortKey>, (clusters, endpoints): Into<'_>) {
        let port = key.as_ref().and_then(|key| self.ports.get(key));
        let list = match (key, port) {
            (Some(_), Some(port)) => port.clusters.as_slice(),
            (Some(_), None) => &[],
            (None, _) => self.invalid.as_slice(),
        };
        for (cluster, list) in list {
            put((cluster, list), (&mut *clusters, &mut *endpoints));
        }
    }
}

/// Adds a cluster.
pub(super) fn put((cluster, list): (&Arc<Part<Cluster>>, &Arc<Part<EndpointList>>), (clusters, endpoints): Into<'_>) {
    clusters.push(Arc::clone(cluster));
    // Names are in the cluster itself.
    if cluster.value.endpoints.is_empty() {
        endpoints.push(Arc::clone(list));
    }
}

/// What belongs to which Service.
struct Index<'a> {
    mesh: &'a Mesh,
    slices: HashMap<Name, Vec<(&'a Arc<Object>, &'a EndpointSlice)>>,
    workloads: HashMap<&'a str, Vec<(&'a Arc<Object>, &'a Workload)>>,
    /// By namespace, address and port.
    registered: HashMap<(&'a str, SocketAddr), (&'a Arc<Object>, &'a Workload, u16)>,
    /// MeshPolicies that say the trust domain, of which identities are made, or whether HTTP/3 is served.
    trust: Vec<&'a Arc<Object>>,
}

impl<'a> Index<'a> {
    fn new(mesh: &'a Mesh) -> Self {
        let mut slices: HashMap<Name, Vec<_>> = HashMap::new();
        for object in mesh.of(Kind::EndpointSlice) {
            if let Spec::EndpointSlice(slice) = &object.spec {
                let name = Name { namespace: Arc::clone(&object.id.name.namespace), name: Arc::clone(&slice.service) };
                slices.entry(name).or_default().push((object, slice));
            }
        }
        let mut workloads: HashMap<&str, Vec<_>> = HashMap::new();
        let mut registered = HashMap::new();
        for (object, workload) in mesh.workloads() {
            workloads.entry(object.id.namespace()).or_default().push((object, workload));
            for port in &workload.ports {
                let address = SocketAddr::new(workload.address, port.port);
                registered.entry((object.id.namespace(), address)).or_insert((object, workload, port.inbound));
            }
        }
        let says =
            |policy: &crate::manifest::object::MeshPolicy| policy.trust_domain.is_some() || policy.http3.is_some();
        let trust = mesh.mesh_policies().into_iter().filter(|(_, policy)| says(policy)).map(|(object, _)| object);
        Self { mesh, slices, workloads, registered, trust: trust.collect() }
    }

    fn port(
        &self,
        (object, service, port): (&Arc<Object>, &Service, &ServicePort),
        before: Option<&Arc<PortBackends>>,
    ) -> Arc<PortBackends> {
        let name = &object.id.name;
        let (traffic, policies) = settings::of_port(self.mesh, name, &port.name);
        let tls = self.mesh.backend_tls_of(name, &port.name);
        let mut inputs = Inputs::default();
        inputs.add(object);
        inputs.extend(&policies);
        inputs.extend(self.trust.iter().copied());
        inputs.extend(tls.map(|(object, _)| object));
        let slices = self.slices.get(name).map_or(&[][..], Vec::as_slice);
        inputs.extend(slices.iter().map(|(object, _)| *object));
        let own = self.workloads.get(object.id.namespace()).map_or(&[][..], Vec::as_slice);
        // Any workload of the namespace may be behind an address of a slice.
        let near = |object: &Object| {
            !slices.is_empty() || service.selector.as_ref().is_some_and(|s| crate::manifest::selects(s, &object.labels))
        };
        inputs.extend(own.iter().map(|(object, _)| *object).filter(|object| near(object)));
        let is_near = |policy: &Closed| !policy.is_of_workloads() && policy.id.namespace() == object.id.namespace();
        let closed = tls.is_none() && self.mesh.closed().iter().any(is_near);
        if let Some(before) = before.filter(|before| before.inputs == inputs && before.closed == closed) {
            return Arc::clone(before);
        }

        let mut found = Found::default();
        if let Some(selector) = &service.selector {
            for (object, workload) in
                own.iter().filter(|(object, _)| crate::manifest::selects(selector, &object.labels))
            {
                let fits = |other: &&crate::manifest::object::WorkloadPort| match &port.target {
                    TargetPort::Number(number) => other.port == *number,
                    TargetPort::Name(name) => other.name == *name,
                };
                if let Some(port) = workload.ports.iter().find(fits) {
                    found.workload(self.mesh, (object, workload), port.inbound);
                }
            }
        }
        for (object, slice) in slices {
            let Some((_, number)) = slice.ports.iter().find(|(name, _)| *name == port.name) else { continue };
            for endpoint in slice.endpoints.iter().filter(|one| one.ready || one.draining || service.unready) {
                let target = endpoint.address.target(*number);
                let registered = match &target {
                    Target::Address(address) => self.registered.get(&(object.id.namespace(), *address)),
                    Target::Name { .. } => None,
                };
                match registered {
                    Some((object, workload, inbound)) => {
                        found.workload(self.mesh, (object, workload), *inbound);
                        if endpoint.draining {
                            found.draining.insert(SocketAddr::new(workload.address, *inbound));
                        }
                    }
                    None if closed => {}
                    None => found.outside((target, endpoint.draining), endpoint.zone.clone()),
                }
            }
        }
        let protocol = traffic.protocol.as_ref().filter(|_| !port.is_tcp()).or(port.protocol.as_ref());
        let protocol = protocol.map_or(ClusterProtocol::Http1, |set| set.value);
        let outside = tls.map(|(object, policy)| ClusterTls {
            mode: ClusterTlsMode::Simple {
                trust_bundle: policy.trust_bundle.clone(),
                subject_names: policy.subject_names.clone(),
                certificate: None,
            },
            sni: Some(Arc::clone(&policy.hostname)),
            min_version: policy.min_version,
            place: object.place.clone(),
        });
        let made = found.clusters(self.mesh, (name, port), (&traffic, protocol, outside));
        let earlier = |cluster: &Cluster| {
            let clusters = &before?.clusters;
            clusters.iter().find(|(part, _)| part.value.name == cluster.name).cloned()
        };
        let clusters: Vec<_> = made
            .into_iter()
            .map(|(cluster, list)| {
                let (old_cluster, old_list) = earlier(&cluster).unzip();
                (same_or_new(old_cluster, cluster), same_or_new(old_list, list))
            })
            .collect();
        let shares = clusters.iter().map(|(cluster, list)| Share {
            cluster: Arc::clone(&cluster.value.name),
            // What goes down gets no new requests.
            weight: list.value.endpoints.iter().fold(0, |sum, endpoint| match endpoint.condition {
                Condition::Healthy => sum.saturating_add(endpoint.weight),
                Condition::Draining | Condition::Unhealthy => sum,
            }),
        });
        let shares = shares.collect();
        Arc::new(PortBackends { inputs, closed, traffic, clusters, shares })
    }
}

/// Endpoints of one port, without duplicates, in the order of their zones and addresses.
#[derive(Default)]
struct Found {
    mesh: BTreeMap<(Option<Arc<str>>, SocketAddr), u32>,
    accounts: BTreeSet<(Arc<str>, Arc<str>)>,
    /// Some of them serve HTTP/3, which they say themselves.
    http3: bool,
    seen: BTreeSet<SocketAddr>,
    /// Workloads that an EndpointSlice says are going down.
    draining: BTreeSet<SocketAddr>,
    outside: BTreeMap<(Option<Arc<str>>, String), Endpoint>,
    seen_outside: BTreeSet<String>,
}

impl Found {
    fn workload(&mut self, mesh: &Mesh, (object, workload): (&Arc<Object>, &Workload), inbound: u16) {
        self.http3 |= super::inbound::http3(mesh, object).is_some_and(|(_, served)| served);
        let address = SocketAddr::new(workload.address, inbound);
        if self.seen.insert(address) {
            self.mesh.insert((workload.zone.clone(), address), workload.weight);
            self.accounts.insert((Arc::clone(&object.id.name.namespace), Arc::clone(&workload.service_account)));
        }
    }

    fn outside(&mut self, (target, draining): (Target, bool), zone: Option<Arc<str>>) {
        let key = match &target {
            Target::Address(address) => address.to_string(),
            Target::Name { host, port } => format!("{host}:{port}"),
        };
        if self.seen_outside.insert(key.clone()) {
            let endpoint = Endpoint { zone: zone.clone(), condition: condition(draining), ..Endpoint::at(target) };
            self.outside.insert((zone, key), endpoint);
        }
    }

    fn clusters(
        self,
        mesh: &Mesh,
        (service, port): (&Name, &ServicePort),
        (traffic, protocol, tls): (&Traffic, ClusterProtocol, Option<ClusterTls>),
    ) -> Vec<(Cluster, EndpointList)> {
        let name: Arc<str> = format!("{service}:{}", port.port).into();
        let mut out = Vec::new();
        if !self.mesh.is_empty() {
            let identity =
                |(namespace, account): &(Arc<str>, Arc<str>)| IdentityPattern::Exact(mesh.identity(namespace, account));
            let mutual = ClusterTls {
                mode: ClusterTlsMode::Mutual { peer_identities: self.accounts.iter().map(identity).collect() },
                sni: None,
                min_version: TlsVersion::V1_3,
                place: port.place.clone(),
            };
            let inside = match (protocol, self.http3) {
                (ClusterProtocol::Tcp, _) => ClusterProtocol::Tcp,
                (_, true) => ClusterProtocol::Auto,
                (_, false) => ClusterProtocol::Http2,
            };
            let inside = cluster((&name, inside, Some(mutual)), traffic, port.place.clone());
            let draining = self.draining;
            let endpoints = self.mesh.into_iter().map(|((zone, address), weight)| Endpoint {
                weight,
                zone,
                condition: condition(draining.contains(&address)),
                ..Endpoint::at(Target::Address(address))
            });
            out.push((inside, EndpointList { cluster: Arc::clone(&name), endpoints: endpoints.collect() }));
        }
        if !self.outside.is_empty() || out.is_empty() {
            let name = if out.is_empty() { name } else { format!("{name}@outside").into() };
            let mut outside = cluster((&name, protocol, tls), traffic, port.place.clone());
            let endpoints: Vec<Endpoint> = self.outside.into_values().collect();
            if endpoints.iter().any(|endpoint| matches!(endpoint.target, Target::Name { .. })) {
                outside.endpoints.clone_from(&endpoints);
            }
            out.push((outside, EndpointList { cluster: name, endpoints }));
        }
        out
    }
}

fn condition(draining: bool) -> Condition {
    if draining { Condition::Draining } else { Condition::Healthy }
}

/// A cluster without its endpoints.
pub(super) fn cluster(
    (name, protocol, tls): (&str, ClusterProtocol, Option<ClusterTls>),
    traffic: &Traffic,
    place: outrigger_config::model::Place,
) -> Cluster {
    Cluster {
        name: name.into(),
        protocol,
        balance: settings::balance(traffic),
        endpoint_ceilings: settings::endpoint_ceilings(traffic),
        breakers: settings::breakers(traffic),
        health_check: settings::health_check(traffic, protocol),
        outlier_detection: settings::outlier_detection(traffic),
        admission: settings::admission(traffic),
        endpoints: Vec::new(),
        ceilings: settings::ceilings(traffic),
        retry_budget: settings::budget(traffic),
        connection: settings::connection(traffic),
        tls,
        dns: defaults::DNS,
        place,
    }
}
