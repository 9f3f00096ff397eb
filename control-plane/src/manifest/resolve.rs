//! What refers to what: routes and their parents, backends, policies and their targets; and the status of each object.

mod routes;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use outrigger_config::Severity;
use outrigger_config::model::Place;

use super::object::{Backend, BackendTls, Service, Spec, TrafficPolicy};
use super::{Condition, Kind, MESH_NAMESPACE, Mesh, Name, Object, ObjectId, ObjectStatus, ParentStatus};

/// What refers to what.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    /// Routes by Service and port.
    routes: BTreeMap<Name, BTreeMap<u16, PortRoutes>>,
    /// The TrafficPolicies of Services, by port name; empty is all ports.
    traffic: BTreeMap<Name, BTreeMap<Arc<str>, Arc<Object>>>,
    /// The BackendTLSPolicies of Services, by port name; empty is all ports.
    tls: BTreeMap<Name, BTreeMap<Arc<str>, Arc<Object>>>,
}

/// Routes of one port of a Service.
#[derive(Debug, Default, Clone)]
struct PortRoutes {
    /// Those of its own namespace.
    producer: Vec<Arc<Object>>,
    /// Those of callers' namespaces.
    consumers: BTreeMap<Arc<str>, Vec<Arc<Object>>>,
}

/// Routes that decide for some callers of a port.
#[derive(Debug, Clone, Copy)]
pub struct Attached<'a> {
    /// All of one kind, the senior first.
    pub routes: &'a [Arc<Object>],
    /// Whether they are those of the caller's namespace.
    pub consumer: bool,
}

/// Why a backend leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unresolved {
    /// In one word, as in the condition `ResolvedRefs`.
    pub reason: &'static str,
    /// In a sentence.
    pub message: String,
}

impl Mesh {
    /// The routes that decide for callers of a namespace. `None`: none does, and requests go to the Service's endpoints.
    #[must_use]
    pub fn routes_of(&self, service: &Name, port: u16, caller: &str) -> Option<Attached<'_>> {
        let PortRoutes { producer, consumers } = self.resolved.routes.get(service)?.get(&port)?;
        if let Some(routes) = consumers.get(caller).filter(|routes| !routes.is_empty()) {
            return Some(Attached { routes, consumer: true });
        }
        (!producer.is_empty()).then_some(Attached { routes: producer, consumer: false })
    }

    /// Whether the callers of this namespace have routes of their own for a Service.
    #[must_use]
    pub(crate) fn has_consumer_routes(&self, service: &Name, caller: &str) -> bool {
        let ports = self.resolved.routes.get(service);
        ports.is_some_and(|ports| ports.values().any(|port| port.consumers.contains_key(caller)))
    }

    /// The Service and port that a backend of a route attached to `parent` means.
    ///
    /// # Errors
    /// Why it leads nowhere.
    pub fn backend(&self, route: &ObjectId, parent: &Name, backend: &Backend) -> Result<(Name, u16), Unresolved> {
        self.backend_by(&self.resolved, (route, parent), backend)
    }

    fn backend_by(
        &self,
        resolved: &Resolved,
        (route, parent): (&ObjectId, &Name),
        backend: &Backend,
    ) -> Result<(Name, u16), Unresolved> {
        let unresolved = |reason, message: String| Err(Unresolved { reason, message });
        if let Some(foreign) = &backend.foreign {
            return unresolved("InvalidKind", format!("backends of the kind {foreign} are not supported"));
        }
        let name = &backend.service;
        // A caller reaches the parent without any route, so that leading there opens nothing.
        if *name.namespace != *route.namespace() && name != parent && !self.granted(route, name) {
            let message = format!("no ReferenceGrant in {} lets {route} refer to {name}", name.namespace);
            return unresolved("RefNotPermitted", message);
        }
        let Some((_, service)) = self.service(name) else {
            return unresolved("BackendNotFound", format!("there is no Service {name}"));
        };
        let port = backend.port.and_then(|port| service.ports.iter().find(|other| other.port == port));
        match port {
            Some(port) if port.is_tcp() != route.kind.is_of_bytes() => {
                let what = if port.is_tcp() { "is one of TCP, and takes no requests" } else { "takes requests" };
                unresolved("UnsupportedProtocol", format!("the port {} of the Service {name} {what}", port.port))
            }
            Some(port) => match resolved.backend_tls_of(name, &port.name) {
                Some((policy, _)) if route.kind == Kind::TlsRoute => {
                    let message = format!(
                        "{} has the port {} of the Service {name} called with TLS, and a TLSRoute hands on that of the callers",
                        policy.id, port.port
                    );
                    unresolved("UnsupportedProtocol", message)
                }
                _ => Ok((name.clone(), port.port)),
            },
            None => {
                let port = backend.port.map_or_else(|| "none".to_owned(), |port| port.to_string());
                unresolved("BackendNotFound", format!("the Service {name} has no port {port}"))
            }
        }
    }

    fn granted(&self, route: &ObjectId, service: &Name) -> bool {
        self.within(Kind::ReferenceGrant, &service.namespace).any(|object| {
            let Spec::ReferenceGrant(grant) = &object.spec else { return false };
            grant.from.iter().any(|(kind, namespace)| *kind == route.kind && **namespace == *route.namespace())
                && grant.to.iter().any(|name| name.as_ref().is_none_or(|name| *name == service.name))
        })
    }

    /// The TrafficPolicies of a port of a Service: that of the port, and that of all ports.
    pub(crate) fn traffic_of(
        &self,
        service: &Name,
        port: &str,
    ) -> impl Iterator<Item = (&Arc<Object>, &TrafficPolicy)> {
        let policies = self.resolved.traffic.get(service);
        let own = (!port.is_empty()).then_some(port);
        own.into_iter().chain([""]).filter_map(move |port| policies?.get(port)).filter_map(|object| {
            match &object.spec {
                Spec::Traffic(policy) => Some((object, policy)),
                _ => None,
            }
        })
    }

    /// The BackendTLSPolicy of a port of a Service. One for the port goes before one for all ports.
    pub(crate) fn backend_tls_of(&self, service: &Name, port: &str) -> Option<(&Arc<Object>, &BackendTls)> {
        self.resolved.backend_tls_of(service, port)
    }
}

/// What was read beside the good objects.
pub(super) struct Reading<'a> {
    /// Objects that are broken, and where.
    pub(super) broken: &'a BTreeMap<ObjectId, Place>,
    /// Objects whose earlier version is in force.
    pub(super) kept: &'a HashSet<ObjectId>,
}

/// What was found while resolving.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Object, severity, place, message, fix.
    pub(super) problems: Vec<(ObjectId, Severity, Place, String, String)>,
    pub(super) statuses: Vec<ObjectStatus>,
}

impl Resolved {
    fn backend_tls_of(&self, service: &Name, port: &str) -> Option<(&Arc<Object>, &BackendTls)> {
        let policies = self.tls.get(service)?;
        let object = policies.get(port).filter(|_| !port.is_empty()).or_else(|| policies.get(""))?;
        match &object.spec {
            Spec::BackendTls(policy) => Some((object, policy)),
            _ => None,
        }
    }

    pub(super) fn new(mesh: &Mesh, reading: &Reading<'_>) -> (Self, Found) {
        let mut work = Work { mesh, out: Self::default(), found: Found::default(), conditions: BTreeMap::new() };
        work.backend_tls();
        work.traffic();
        let parents = work.routes();
        work.mesh_policies();
        work.rate_limiters();
        work.workloads();
        work.slices();
        work.providers();
        work.statuses(reading, parents);
        (work.out, work.found)
    }
}

struct Work<'a> {
    mesh: &'a Mesh,
    out: Resolved,
    found: Found,
    /// Conditions of objects that are no routes, where they are not simply accepted.
    conditions: BTreeMap<ObjectId, Condition>,
}

impl Work<'_> {
    fn warn(&mut self, object: &Object, place: &Place, message: String, fix: &str) {
        self.found.problems.push((object.id.clone(), Severity::Warning, place.clone(), message, fix.to_owned()));
    }

    fn traffic(&mut self) {
        let mut policies: Vec<&Arc<Object>> = self.mesh.of(Kind::TrafficPolicy).collect();
        policies.sort_by(|a, b| a.seniority().cmp(&b.seniority()));
        for object in policies {
            let Spec::Traffic(policy) = &object.spec else { continue };
            let target = (Arc::clone(&policy.service), policy.section.clone());
            if let Some((service, section)) = self.target(object, &target) {
                let senior =
                    self.out.traffic.entry(service).or_default().entry(section).or_insert_with(|| Arc::clone(object));
                let senior = Arc::clone(senior);
                self.conflict(object, &senior);
            }
        }
    }

    fn backend_tls(&mut self) {
        let mut policies: Vec<&Arc<Object>> = self.mesh.of(Kind::BackendTlsPolicy).collect();
        policies.sort_by(|a, b| a.seniority().cmp(&b.seniority()));
        for object in policies {
            let Spec::BackendTls(policy) = &object.spec else { continue };
            for target in &policy.targets {
                if let Some((service, section)) = self.target(object, target) {
                    let senior =
                        self.out.tls.entry(service).or_default().entry(section).or_insert_with(|| Arc::clone(object));
                    let senior = Arc::clone(senior);
                    self.conflict(object, &senior);
                }
            }
        }
    }

    /// The Service and port name that a policy is for.
    fn target(&mut self, object: &Object, target: &(Arc<str>, Option<Arc<str>>)) -> Option<(Name, Arc<str>)> {
        let (service, section) = target;
        let name = Name { namespace: Arc::clone(&object.id.name.namespace), name: Arc::clone(service) };
        let has = |service: &Service, section: &Arc<str>| service.ports.iter().any(|port| port.name == *section);
        let problem = match (self.mesh.service(&name), section) {
            (None, _) => Some(format!("there is no Service {name}")),
            (Some((_, service)), Some(section)) if !has(service, section) => {
                Some(format!("the Service {name} has no port named `{section}`"))
            }
            _ => None,
        };
        if let Some(message) = problem {
            self.warn(
                object,
                &object.place,
                format!("this policy is for nothing: {message}"),
                "name one that there is",
            );
            let condition = Condition::no("Accepted", "TargetNotFound", message);
            self.conditions.entry(object.id.clone()).or_insert(condition);
            return None;
        }
        Some((name, section.clone().unwrap_or_default()))
    }

    fn conflict(&mut self, object: &Arc<Object>, senior: &Object) {
        if senior.id != object.id {
            let message = format!("{} has the same target and goes first", senior.id);
            let fix = "put both into one";
            self.warn(object, &object.place, format!("this policy is passed over: {message}"), fix);
            self.conditions.insert(object.id.clone(), Condition::no("Accepted", "Conflicted", message));
        }
    }

    /// Two MeshPolicies for the same workloads: of each setting, the senior's counts.
    fn mesh_policies(&mut self) {
        let policies = self.mesh.mesh_policies();
        let mut seen: HashMap<(Arc<str>, String), Arc<Object>> = HashMap::new();
        for (object, policy) in policies {
            let key = (Arc::clone(&object.id.name.namespace), format!("{:?}", policy.selector));
            match seen.get(&key) {
                Some(senior) => {
                    let message = format!("{} is for the same, and goes before where both set something", senior.id);
                    self.warn(object, &object.place, message, "put both into one");
                }
                None => drop(seen.insert(key, Arc::clone(object))),
            }
        }
    }

    /// Services that keep rate limits, and who asks them.
    fn rate_limiters(&mut self) {
        let mesh = self.mesh;
        let known = mesh.rate_limiters();
        for (name, (object, limiter)) in &known {
            let at = &limiter.backend;
            let ports = mesh.service(&at.service).map(|(_, service)| &service.ports);
            if !ports.is_some_and(|ports| ports.iter().any(|port| Some(port.port) == at.port && !port.is_tcp())) {
                let port = at.port.unwrap_or_default();
                let message = format!(
                    "nobody asks the rate limit service `{name}`: there is no port {port} of requests at a \
                                       Service {}",
                    at.service
                );
                self.warn(object, &at.place, message, "name a Service and port that there is");
            }
        }
        let policies = mesh.of(Kind::TrafficPolicy).chain(mesh.of(Kind::MeshPolicy));
        for object in policies {
            let said = match &object.spec {
                Spec::Traffic(policy) => &policy.traffic.global_rate_limits,
                Spec::Mesh(policy) => &policy.defaults.global_rate_limits,
                _ => continue,
            };
            let Some(said) = said else { continue };
            for limit in said.value.iter().filter(|limit| !known.contains_key(&limit.service)) {
                let message = format!("nobody is asked: no MeshPolicy has the rate limit service `{}`", limit.service);
                let fix = "name one of `rateLimitServices` of a MeshPolicy of the mesh";
                self.warn(object, &said.place, message.clone(), fix);
                let condition = Condition::no("ResolvedRefs", "BackendNotFound", message);
                self.conditions.entry(object.id.clone()).or_insert(condition);
            }
        }
    }

    /// Two Workloads that want the same socket.
    fn workloads(&mut self) {
        let mut seen: HashMap<(std::net::IpAddr, u16), Arc<Object>> = HashMap::new();
        for (object, workload) in self.mesh.workloads() {
            for port in &workload.ports {
                match seen.get(&(workload.address, port.inbound)) {
                    Some(other) => {
                        let address = std::net::SocketAddr::new(workload.address, port.inbound);
                        let message = format!("{address} is also that of {}", other.id);
                        self.warn(object, &port.place, message, "give each proxy a port of its own");
                    }
                    None => drop(seen.insert((workload.address, port.inbound), Arc::clone(object))),
                }
            }
            for (name, place) in workload.uses.iter().flatten() {
                if self.mesh.service(name).is_none() {
                    let message = format!("there is no Service {name}");
                    self.warn(object, place, message.clone(), "name one that there is");
                    let condition = Condition::no("ResolvedRefs", "ServiceNotFound", message);
                    self.conditions.entry(object.id.clone()).or_insert(condition);
                }
            }
        }
    }

    fn slices(&mut self) {
        for object in self.mesh.of(Kind::EndpointSlice) {
            let Spec::EndpointSlice(slice) = &object.spec else { continue };
            let name = Name { namespace: Arc::clone(&object.id.name.namespace), name: Arc::clone(&slice.service) };
            if self.mesh.service(&name).is_none() {
                let message = format!("these endpoints are for nothing: there is no Service {name}");
                self.warn(object, &object.place, message, "add the Service, or leave this out");
            }
        }
    }

    /// Token providers that authorization rules name.
    fn providers(&mut self) {
        let mesh = self.mesh;
        for object in mesh.of(Kind::AuthorizationPolicy) {
            let Spec::Authorization(spec) = &object.spec else { continue };
            let offered = [object.id.namespace(), MESH_NAMESPACE].into_iter().flat_map(|namespace| {
                mesh.within(Kind::JwtPolicy, namespace).filter_map(|object| match &object.spec {
                    Spec::Jwt(policy) => Some(&policy.providers),
                    _ => None,
                })
            });
            let offered: Vec<&str> = offered.flatten().map(|provider| &*provider.name).collect();
            for rule in &spec.policy.rules {
                for name in rule.claims.iter().filter_map(|claim| claim.provider.as_deref()) {
                    let known = |other: &&str| *other == name || other.rsplit('/').next() == Some(name);
                    if !offered.iter().any(known) {
                        let message =
                            format!("the rule `{}` names the provider `{name}`, which no JwtPolicy has", rule.name);
                        self.warn(object, &rule.place, message, "name one that a JwtPolicy of this namespace has");
                    }
                }
            }
        }
    }

    fn statuses(&mut self, reading: &Reading<'_>, mut parents: BTreeMap<ObjectId, Vec<ParentStatus>>) {
        let fall_back = |id: &ObjectId| {
            let message = "Fall Back: the text is not valid, and the last accepted version is in force";
            reading.kept.contains(id).then(|| Condition {
                message: message.to_owned(),
                ..Condition::yes("PartiallyInvalid", "UnsupportedValue")
            })
        };
        for (id, object) in &self.mesh.objects {
            let mut parents = parents.remove(id).unwrap_or_default();
            for parent in &mut parents {
                parent.conditions.extend(fall_back(id));
            }
            let mut conditions = Vec::new();
            if parents.is_empty() {
                match self.conditions.get(id) {
                    Some(condition) if condition.kind == "Accepted" => conditions.push(condition.clone()),
                    Some(condition) => {
                        conditions.push(Condition::yes("Accepted", "Accepted"));
                        conditions.push(condition.clone());
                    }
                    None => conditions.push(Condition::yes("Accepted", "Accepted")),
                }
                conditions.extend(fall_back(id));
            }
            let place = reading.broken.get(id).unwrap_or(&object.place).clone();
            let kept = reading.kept.contains(id);
            self.found.statuses.push(ObjectStatus { object: id.clone(), place, kept, conditions, parents });
        }
        for (id, place) in reading.broken.iter().filter(|(id, _)| !self.mesh.objects.contains_key(*id)) {
            let refuses = self.mesh.closed.iter().any(|closed| closed.id == *id);
            let message = if refuses {
                "the text is not valid; until it is, what it is for is refused"
            } else {
                "the text is not valid, and there is no earlier version"
            };
            let conditions = vec![Condition::no("Accepted", "UnsupportedValue", message)];
            let (object, place, parents) = (id.clone(), place.clone(), Vec::new());
            self.found.statuses.push(ObjectStatus { object, place, kept: false, conditions, parents });
        }
        self.found.statuses.sort_by(|a, b| a.object.cmp(&b.object));
    }
}
