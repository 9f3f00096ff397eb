//! Services to virtual hosts, and those to outbound route tables. Hosts are shared by all callers that see a Service in the
//! same way, tables by all that call the same Services.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use outrigger_config::model::{HostPattern, RouteTable, VirtualHost};

use super::OUTBOUND;
use super::backends::{Backends, PortBackends, PortKey};
use super::parts::{Part, same_or_new};
use super::rules::{Maker, PortRules};
use crate::manifest::object::{Service, ServicePort, Spec};
use crate::manifest::{Attached, Mesh, Name, Object};

/// How a Service is seen: by name, with the caller's own routes where there are some, and by its short name in its own
/// namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct View {
    service: Name,
    consumer: Option<Arc<str>>,
    near: bool,
}

/// The virtual hosts of a Service, as some callers see it.
#[derive(Debug)]
struct Seen {
    from: From,
    hosts: Vec<VirtualHost>,
    /// The ports that its rules lead to.
    needs: BTreeSet<Option<PortKey>>,
}

/// What hosts were made from.
#[derive(Debug, Default)]
struct From {
    objects: Vec<Arc<Object>>,
    /// Backends of routes, and what they came to.
    backends: Vec<Option<Arc<PortBackends>>>,
}

impl PartialEq for From {
    fn eq(&self, other: &Self) -> bool {
        let same_backend = |(a, b): (&Option<Arc<PortBackends>>, &Option<Arc<PortBackends>>)| match (a, b) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || (a.shares == b.shares && a.traffic == b.traffic),
            (None, None) => true,
            _ => false,
        };
        self.objects.len() == other.objects.len()
            && self.backends.len() == other.backends.len()
            && self.objects.iter().zip(&other.objects).all(|(a, b)| Arc::ptr_eq(a, b))
            && self.backends.iter().zip(&other.backends).all(same_backend)
    }
}

type Table = (Vec<Arc<Seen>>, Arc<Part<RouteTable>>, Arc<BTreeSet<Option<PortKey>>>);
/// Callers by namespace and Services.
type Callers = (Arc<str>, Vec<Name>);

/// Hosts and tables of one generation, and those of the one before.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    seen: HashMap<View, Arc<Seen>>,
    tables: HashMap<Callers, Table>,
    before: (HashMap<View, Arc<Seen>>, HashMap<Callers, Table>),
}

impl Hosts {
    pub(super) fn begin(&mut self) {
        self.before = (std::mem::take(&mut self.seen), std::mem::take(&mut self.tables));
    }

    pub(super) fn end(&mut self) {
        self.before = Default::default();
    }

    /// The outbound table of callers of a namespace that call these Services, and the ports that it leads to.
    pub(super) fn table(
        &mut self,
        mesh: &Mesh,
        backends: &Backends,
        (namespace, services): (&Arc<str>, Vec<Name>),
    ) -> (Arc<Part<RouteTable>>, Arc<BTreeSet<Option<PortKey>>>) {
        let key = (Arc::clone(namespace), services);
        if let Some((_, table, needs)) = self.tables.get(&key) {
            return (Arc::clone(table), Arc::clone(needs));
        }
        let seen: Vec<Arc<Seen>> =
            key.1.iter().map(|service| self.service(mesh, backends, (service, namespace))).collect();
        let before = self.before.1.remove(&key);
        if let Some((earlier, table, needs)) = &before
            && earlier.len() == seen.len()
            && earlier.iter().zip(&seen).all(|(a, b)| Arc::ptr_eq(a, b))
        {
            let out = (Arc::clone(table), Arc::clone(needs));
            self.tables.insert(key, (seen, Arc::clone(table), Arc::clone(needs)));
            return out;
        }
        let hosts = seen.iter().flat_map(|seen| seen.hosts.iter().cloned()).collect();
        let table = RouteTable { name: OUTBOUND.into(), hosts };
        let table = same_or_new(before.map(|(_, table, _)| table), table);
        let needs = Arc::new(seen.iter().flat_map(|seen| seen.needs.iter().cloned()).collect());
        self.tables.insert(key, (seen, Arc::clone(&table), Arc::clone(&needs)));
        (table, needs)
    }

    fn service(&mut self, mesh: &Mesh, backends: &Backends, (service, caller): (&Name, &Arc<str>)) -> Arc<Seen> {
        let consumer = mesh.has_consumer_routes(service, caller).then(|| Arc::clone(caller));
        let view = View { service: service.clone(), consumer, near: service.namespace == *caller };
        if let Some(seen) = self.seen.get(&view) {
            return Arc::clone(seen);
        }
        let from = sources(mesh, backends, (service, caller));
        let seen = match self.before.0.remove(&view) {
            Some(seen) if seen.from == from => seen,
            _ => Arc::new(make(mesh, backends, (&view, caller), from)),
        };
        self.seen.insert(view, Arc::clone(&seen));
        seen
    }
}

fn sources(mesh: &Mesh, backends: &Backends, (service, caller): (&Name, &str)) -> From {
    let mut from = From::default();
    let Some((object, spec)) = mesh.service(service) else { return from };
    from.objects.push(Arc::clone(object));
    for port in &spec.ports {
        from.backends.push(backends.port(&(service.clone(), port.port)).cloned());
        for route in mesh.routes_of(service, port.port, caller).map_or(&[][..], |attached| attached.routes) {
            from.objects.push(Arc::clone(route));
            let Spec::Route(route_spec) = &route.spec else { continue };
            let mirrors = route_spec.rules.iter().flat_map(|rule| &rule.mirrors).map(|mirror| &mirror.backend);
            for backend in route_spec.rules.iter().flat_map(|rule| &rule.backends).chain(mirrors) {
                let key = mesh.backend(&route.id, service, backend).ok();
                from.backends.push(key.and_then(|key| backends.port(&key).cloned()));
            }
        }
    }
    from
}

fn make(mesh: &Mesh, backends: &Backends, (view, caller): (&View, &str), from: From) -> Seen {
    let mut out = Seen { from, hosts: Vec::new(), needs: BTreeSet::new() };
    let Some((object, service)) = mesh.service(&view.service) else { return out };
    let first = default_port(service);
    for port in service.ports.iter().filter(|port| !port.is_tcp()) {
        let maker = Maker { mesh, backends, service: &view.service, port: port.port };
        let PortRules { rules, needs } = match mesh.routes_of(&view.service, port.port, caller) {
            Some(attached @ Attached { .. }) => maker.routed(attached),
            None => maker.plain(&port.place),
        };
        out.needs.extend(needs);
        let hostnames = hostnames(view, port.port, port.port == first);
        out.hosts.push(VirtualHost { hostnames, rules, place: object.place.clone() });
    }
    out
}

/// The port of requests that name none: `http`, or the first.
fn default_port(service: &Service) -> u16 {
    let mut ports = service.ports.iter().filter(|port: &&ServicePort| !port.is_tcp());
    let first = ports.clone().next();
    ports.find(|port| &*port.name == "http").or(first).map_or(0, |port| port.port)
}

/// The names of a Service with a port, and those without where it is the default one.
fn hostnames(view: &View, port: u16, default: bool) -> Vec<HostPattern> {
    let Name { namespace, name } = &view.service;
    let mut names = vec![
        format!("{name}.{namespace}"),
        format!("{name}.{namespace}.svc"),
        format!("{name}.{namespace}.svc.cluster.local"),
    ];
    if view.near {
        names.insert(0, name.to_string());
    }
    let with_port: Vec<String> = names.iter().map(|name| format!("{name}:{port}")).collect();
    let plain = if default { names } else { Vec::new() };
    plain.into_iter().chain(with_port).map(|name| HostPattern::Exact(name.into())).collect()
}
