//! Routes at their parents: which ports each is for, which of them decide there, and what their backends come to.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use outrigger_config::model::HostPattern;

use super::{Unresolved, Work};
use crate::manifest::object::{Parent, Route, ServicePort, Set, Spec};
use crate::manifest::{Condition, Kind, MESH_NAMESPACE, Name, Object, ObjectId, ParentStatus};

/// Everything of one namespace's routes at one port, before it is said which kind decides.
type Group = (Name, u16, Option<Arc<str>>);

/// The routes of each group, the senior first.
type Groups<'m> = BTreeMap<Group, Vec<(&'m Arc<Object>, &'m Route)>>;

impl Work<'_> {
    /// Attaches routes to their parents.
    pub(super) fn routes(&mut self) -> BTreeMap<ObjectId, Vec<ParentStatus>> {
        let mesh = self.mesh;
        let mut routes: Vec<(&Arc<Object>, &Route)> =
            [Kind::HttpRoute, Kind::GrpcRoute, Kind::TcpRoute, Kind::TlsRoute]
                .into_iter()
                .flat_map(|kind| mesh.of(kind))
                .filter_map(|object| match &object.spec {
                    Spec::Route(route) => Some((object, route)),
                    _ => None,
                })
                .collect();
        routes.sort_by(|(a, _), (b, _)| (a.seniority(), a.id.kind).cmp(&(b.seniority(), b.id.kind)));
        let mut groups: Groups<'_> = BTreeMap::new();
        let mut ports: HashMap<(&ObjectId, usize), Vec<Group>> = HashMap::new();
        for (object, route) in &routes {
            for (number, parent) in route.parents.iter().enumerate() {
                let Ok(found) = self.ports(object, parent) else { continue };
                let consumer = (*parent.service.namespace != *object.id.namespace())
                    .then(|| Arc::clone(&object.id.name.namespace));
                for port in found {
                    let group = (parent.service.clone(), port, consumer.clone());
                    let attached = groups.entry(group.clone()).or_default();
                    if !attached.iter().any(|(other, _)| other.id == object.id) {
                        attached.push((object, route));
                    }
                    ports.entry((&object.id, number)).or_default().push(group);
                }
            }
        }
        let lost: BTreeMap<&Group, Lost<'_>> =
            groups.iter().map(|(group, routes)| (group, Lost::among(routes))).collect();
        let mut statuses: BTreeMap<ObjectId, Vec<ParentStatus>> = BTreeMap::new();
        for (object, route) in &routes {
            for (number, parent) in route.parents.iter().enumerate() {
                let groups = ports.get(&(&object.id, number)).map_or(&[][..], Vec::as_slice);
                let accepted = match self.ports(object, parent) {
                    Err(message) => {
                        self.warn(object, &parent.place, message.clone(), "name a Service and port that there is");
                        Condition::no("Accepted", "NoMatchingParent", message)
                    }
                    Ok(_) => self.accepted((object, route, parent), (groups, &lost)),
                };
                let resolved = self.refs(object, (route, parent));
                let status = ParentStatus { parent: parent.label(), conditions: vec![accepted, resolved] };
                statuses.entry(object.id.clone()).or_default().push(status);
            }
        }
        for (group, routes) in &groups {
            let of = lost.get(group);
            let routes = routes.iter().filter(|(object, _)| of.is_none_or(|lost| lost.kind(object).is_none()));
            let routes = routes.map(|(object, _)| Arc::clone(object));
            let (service, port, consumer) = group;
            let port = self.out.routes.entry(service.clone()).or_default().entry(*port).or_default();
            match consumer {
                Some(namespace) => port.consumers.entry(Arc::clone(namespace)).or_default().extend(routes),
                None => port.producer.extend(routes),
            }
        }
        statuses
    }

    /// Whether a route decides at a parent. It may be passed over for all of it, or for a part.
    fn accepted(
        &mut self,
        (object, route, parent): (&Object, &Route, &Parent),
        (groups, lost): (&[Group], &BTreeMap<&Group, Lost<'_>>),
    ) -> Condition {
        let of = |group: &Group| lost.get(group);
        let by_kind = groups.iter().filter_map(|group| Some((group, of(group)?.kind(object)?)));
        let by_kind: Vec<(&Group, Kind)> = by_kind.collect();
        if let Some((_, kind)) = by_kind.first() {
            let at: Vec<&Group> = by_kind.iter().map(|(group, _)| *group).collect();
            let message = format!("a {kind} decides at {}", label(&at));
            let fix = "attach the two to different ports, or write all rules in one kind";
            self.warn(object, &parent.place, format!("this route is passed over: {message}"), fix);
            return conflict(message, at.len() == groups.len());
        }
        let mut left = 0;
        let mut first: Option<String> = None;
        for Set { value: name, place } in &route.server_names {
            let taken: Vec<_> =
                groups.iter().filter_map(|group| Some((group, of(group)?.name(object, name)?))).collect();
            left += groups.len() - taken.len();
            if let Some((_, other)) = taken.first() {
                let at: Vec<&Group> = taken.iter().map(|(group, _)| *group).collect();
                let message = format!("{other} has the server name `{}` at {}", shown(name), label(&at));
                let fix = "remove it from one of the two: the senior route takes it";
                self.warn(object, place, format!("this name is passed over: {message}"), fix);
                first.get_or_insert(message);
            }
        }
        match first {
            Some(message) => conflict(message, left == 0),
            None => self.keyed((object, route, parent), groups),
        }
    }

    /// Sessions are signed, and a route of the Gateway API has no word for the key.
    fn keyed(&mut self, (object, route, parent): (&Object, &Route, &Parent), groups: &[Group]) -> Condition {
        let accepted = Condition::yes("Accepted", "Accepted");
        let Some(session) = route.rules.iter().find_map(|rule| rule.session.as_ref()) else { return accepted };
        let Some((_, service)) = self.mesh.service(&parent.service) else { return accepted };
        let ports = service.ports.iter().filter(|port| groups.iter().any(|(_, number, _)| *number == port.port));
        let unsaid: Vec<u16> =
            ports.filter(|port| !self.has_session_key(&parent.service, &port.name)).map(|port| port.port).collect();
        let Some(port) = unsaid.first() else { return accepted };
        let message = format!(
            "there are no sessions at {}:{port}: no policy says the key that they are signed with",
            parent.service
        );
        let fix = "add a TrafficPolicy of the Service with `sessionPersistence`, whose `keyFile` is used";
        self.warn(object, &session.place, message.clone(), fix);
        Condition { message, ..accepted }
    }

    fn has_session_key(&self, service: &Name, port: &str) -> bool {
        let of_service = self.out.traffic.get(service);
        let policies = [port, ""].into_iter().filter_map(|port| of_service?.get(port));
        let own = policies.into_iter().any(|object| match &object.spec {
            Spec::Traffic(policy) => policy.traffic.session.is_some(),
            _ => false,
        });
        own || self.mesh.mesh_policies().iter().any(|(object, policy)| {
            let near = [&*service.namespace, MESH_NAMESPACE].contains(&object.id.namespace());
            near && policy.selector.is_none() && policy.defaults.session.is_some()
        })
    }

    /// The ports of a parent that a route is for, or why there are none: TCPRoutes and TLSRoutes are for ports of TCP, and
    /// others for the rest.
    fn ports(&self, route: &Object, parent: &Parent) -> Result<Vec<u16>, String> {
        let Some((_, service)) = self.mesh.service(&parent.service) else {
            return Err(format!("there is no Service {}", parent.service));
        };
        if service.headless {
            return Err(format!(
                "the Service {} is headless, and routes are for Services with a name of their own",
                parent.service
            ));
        }
        let fits = |port: &&ServicePort| {
            parent.port.is_none_or(|number| number == port.port)
                && parent.section.as_ref().is_none_or(|section| *section == port.name)
        };
        let bytes = route.id.kind.is_of_bytes();
        let named: Vec<_> = service.ports.iter().filter(fits).collect();
        let ports: Vec<u16> = named.iter().filter(|port| port.is_tcp() == bytes).map(|port| port.port).collect();
        match (ports.is_empty(), named.is_empty()) {
            (false, _) => Ok(ports),
            (true, true) => Err(format!("the Service {} has no such port", parent.service)),
            (true, false) if bytes => {
                Err(format!("the Service {} has no port of TCP there, with `appProtocol: tcp`", parent.service))
            }
            (true, false) => Err(format!("the Service {} has only ports of TCP there", parent.service)),
        }
    }

    /// Whether the backends of a route lead somewhere.
    fn refs(&mut self, object: &Object, (route, parent): (&Route, &Parent)) -> Condition {
        let mut first: Option<Unresolved> = None;
        let backends = route.rules.iter().flat_map(|rule| &rule.backends).map(|one| (one, SHARE));
        let mirrors = route.rules.iter().flat_map(|rule| &rule.mirrors).map(|one| (&one.backend, COPIES));
        for (backend, what) in backends.chain(mirrors) {
            let found = self.mesh.backend_by(&self.out, (&object.id, &parent.service), backend);
            if let Err(unresolved) = found {
                let message = format!("{}: {what}", unresolved.message);
                let fix = match unresolved.reason {
                    "RefNotPermitted" => "add a ReferenceGrant in the namespace of the Service",
                    "InvalidKind" => "write `kind: Service`",
                    "UnsupportedProtocol" => "name a port that speaks what the route is of",
                    _ => "name a Service and port that there is",
                };
                self.warn(object, &backend.place, message, fix);
                first.get_or_insert(unresolved);
            }
        }
        match first {
            None => Condition::yes("ResolvedRefs", "ResolvedRefs"),
            Some(Unresolved { reason, message }) => Condition::no("ResolvedRefs", reason, message),
        }
    }
}

/// What becomes of the requests of a backend that leads nowhere, and of copies.
const SHARE: &str = "its share is answered with an error";
const COPIES: &str = "no copies are sent there";

/// What routes of one group lose to others of it.
struct Lost<'m> {
    /// At one port one kind decides: a GRPCRoute before an HTTPRoute, a TLSRoute before a TCPRoute (GEP-1294).
    kinds: HashSet<Kind>,
    /// Who has each server name.
    names: HashMap<&'m HostPattern, &'m ObjectId>,
}

impl<'m> Lost<'m> {
    fn among(routes: &[(&'m Arc<Object>, &'m Route)]) -> Self {
        let mut names = HashMap::new();
        for (object, route) in routes {
            for name in &route.server_names {
                names.entry(&name.value).or_insert(&object.id);
            }
        }
        Self { kinds: routes.iter().map(|(object, _)| object.id.kind).collect(), names }
    }

    /// The kind that decides instead.
    fn kind(&self, object: &Object) -> Option<Kind> {
        let stronger = match object.id.kind {
            Kind::HttpRoute => Kind::GrpcRoute,
            Kind::TcpRoute => Kind::TlsRoute,
            _ => return None,
        };
        self.kinds.contains(&stronger).then_some(stronger)
    }

    /// The route that has a server name instead.
    fn name(&self, object: &Object, name: &HostPattern) -> Option<&'m ObjectId> {
        self.names.get(name).copied().filter(|holder| **holder != object.id)
    }
}

fn conflict(message: String, whole: bool) -> Condition {
    if whole {
        Condition::no("Accepted", "Conflicted", message)
    } else {
        Condition { message, ..Condition::yes("Accepted", "Accepted") }
    }
}

fn shown(pattern: &HostPattern) -> String {
    match pattern {
        HostPattern::Any => "*".to_owned(),
        HostPattern::Wildcard(suffix) => format!("*.{suffix}"),
        HostPattern::Exact(host) => host.to_string(),
    }
}

fn label(groups: &[&Group]) -> String {
    let mut names: Vec<String> = groups.iter().map(|(service, port, _)| format!("{service}:{port}")).collect();
    names.dedup();
    names.join(", ")
}
