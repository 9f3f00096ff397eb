//! A Workload's ports to listeners, with mutual TLS, authorization and tokens, and the way to its application.
//!
//! Fails closed: where a policy for the workload could not be read, everything is refused, and mutual TLS is strict.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::model::{
    Access, AccessAction, AccessRule, Action, Authorization, BackendRef, ClientCertHeader, ClientCertificate,
    ClientTrust, Cluster, ClusterProtocol, Endpoint, HostPattern, Http3, JwtProvider, Labels, Listener, ListenerJwt,
    ListenerProtocol, ListenerTls, Place, RouteTable, Target, TcpForwarding, TlsMode, TlsVersion, Trust, Upgrades,
    VirtualHost,
};

use super::backends::cluster;
use super::defaults;
use super::limits::{Limits, PortLimits};
use super::parts::{EndpointList, Inputs, ListenerPart, Part, same_or_new};
use super::rules::{bounded, made};
use crate::manifest::object::{MeshPolicy, Spec, Traffic, Workload, WorkloadPort};
use crate::manifest::{Closed, Kind, Mesh, Name, Object, Scope};

/// What one Workload's ports came to.
#[derive(Debug)]
struct Ports {
    /// The last are rate limits, by port.
    from: (Inputs, Vec<Closed>, Vec<PortLimits>),
    parts: Vec<PortParts>,
}

#[derive(Debug, Clone)]
struct PortParts {
    listener: Arc<Part<ListenerPart>>,
    /// None where no requests are seen.
    routes: Option<Arc<Part<RouteTable>>>,
    cluster: Arc<Part<Cluster>>,
    endpoints: Arc<Part<EndpointList>>,
}

/// Inbound parts of all Workloads, kept between generations.
#[derive(Debug, Default)]
pub(super) struct Inbound {
    ports: HashMap<Name, Ports>,
    before: HashMap<Name, Ports>,
    limits: Limits,
}

/// Where parts are put.
pub(super) type Into<'a> = (
    &'a mut Vec<Arc<Part<ListenerPart>>>,
    &'a mut Vec<Arc<Part<RouteTable>>>,
    &'a mut Vec<Arc<Part<Cluster>>>,
    &'a mut Vec<Arc<Part<EndpointList>>>,
);

impl Inbound {
    /// `limits` are the rate limits of Services, by the address and port of a proxy.
    pub(super) fn begin(&mut self, limits: Limits) {
        self.before = std::mem::take(&mut self.ports);
        self.limits = limits;
    }

    pub(super) fn end(&mut self) {
        self.before = HashMap::new();
        self.limits = Limits::default();
    }

    pub(super) fn compile(&mut self, mesh: &Mesh, (object, workload): (&Arc<Object>, &Workload), out: Into<'_>) {
        let guards = Guards::of(mesh, object);
        let mut inputs = Inputs::default();
        inputs.add(object);
        inputs.extend(guards.objects.iter());
        let limits_of = |port: &WorkloadPort| match port.protocol {
            // It has no requests.
            ClusterProtocol::Tcp => PortLimits::default(),
            _ => self.limits.at(SocketAddr::new(workload.address, port.inbound)),
        };
        let limits = workload.ports.iter().map(limits_of).collect();
        let from = (inputs, guards.closed.clone(), limits);
        let before = self.before.remove(&object.id.name);
        let ports = match before {
            Some(ports) if ports.from == from => ports,
            before => {
                let earlier = before.map(|ports| ports.parts).unwrap_or_default();
                let make = |port: &WorkloadPort| {
                    let name = listener_name(port);
                    let earlier = earlier.iter().find(|parts| parts.listener.value.listener.name == name);
                    guards.port(workload, (port, limits_of(port)), earlier.cloned())
                };
                Ports { from, parts: workload.ports.iter().map(make).collect() }
            }
        };
        let (listeners, routes, clusters, endpoints) = out;
        for parts in &ports.parts {
            listeners.push(Arc::clone(&parts.listener));
            routes.extend(parts.routes.iter().cloned());
            clusters.push(Arc::clone(&parts.cluster));
            endpoints.push(Arc::clone(&parts.endpoints));
        }
        self.ports.insert(object.id.name.clone(), ports);
    }
}

/// Token providers by name.
type Providers = BTreeMap<Arc<str>, JwtProvider>;

/// Everything that guards a Workload.
struct Guards {
    objects: Vec<Arc<Object>>,
    closed: Vec<Closed>,
    tls: ListenerTls,
    authorization: Option<Authorization>,
    providers: BTreeMap<Arc<str>, JwtProvider>,
    tokens_required: bool,
    http3: Option<Http3>,
    upgrades: Upgrades,
}

/// The name of the policy of a port of TCP that nobody may connect to.
const NOBODY: &str = "inbound-nobody";

/// The name of a Workload's authorization policy, which is made of all that are for it.
const AUTHORIZATION: &str = "inbound";

impl Guards {
    fn of(mesh: &Mesh, workload: &Arc<Object>) -> Self {
        let closed: Vec<Closed> = mesh
            .closed()
            .iter()
            .filter(|closed| closed.is_of_workloads() && closed.scope().takes(workload))
            .cloned()
            .collect();
        let mut objects = Vec::new();
        let tls = tls(mesh, workload, (&closed, &mut objects));
        let (providers, tokens_required) = tokens(mesh, workload, &mut objects);
        let authorization = authorization(mesh, workload, (&closed, &providers, &mut objects));
        let http3 = http3(mesh, workload).and_then(|(object, served)| {
            objects.push(Arc::clone(object));
            served.then(Http3::default)
        });
        let upgrades = said(mesh, workload, |policy| policy.upgrades.as_ref());
        objects.extend(upgrades.iter().map(|(object, _)| Arc::clone(object)));
        let upgrades = upgrades.map_or_else(Upgrades::default, |(_, upgrades)| upgrades.clone());
        Self { objects, closed, tls, authorization, providers, tokens_required, http3, upgrades }
    }

    fn port(
        &self,
        workload: &Workload,
        (port, limits): (&WorkloadPort, PortLimits),
        earlier: Option<PortParts>,
    ) -> PortParts {
        let name = listener_name(port);
        let place = port.place.clone();
        if port.protocol == ClusterProtocol::Tcp {
            return self.tcp_port(workload, port, earlier);
        }
        let mut listener = defaults::inbound(&name, bind(workload.address, port.inbound), place.clone());
        listener.http3 = self.http3;
        listener.upgrades = self.upgrades.clone();
        listener.routes = Some(Arc::clone(&name));
        listener.tls = Some(self.tls.clone());
        // The application sees who called, and nothing that a caller made up.
        listener.client_cert_header = ClientCertHeader::Set;
        if self.tls.mode == TlsMode::Strict {
            // Whoever gets in is a proxy of the mesh: the client address and the request id that it passes on are kept.
            listener.trust = Trust::Hops(1);
        }
        listener.authorization = self.authorization.as_ref().map(|policy| Arc::clone(&policy.name));
        listener.jwt = (!self.providers.is_empty()).then(|| ListenerJwt {
            providers: self.providers.keys().cloned().collect(),
            required: self.tokens_required,
        });
        let authorization = self.authorization.iter().map(|policy| (Arc::clone(&policy.name), policy.clone()));
        let (authorization, jwt_providers) = (authorization.collect(), self.providers.clone());

        let target: Arc<str> = format!("application:{}", port.port).into();
        let backend =
            BackendRef { cluster: Arc::clone(&target), weight: 1, subset: Labels::new(), filters: Vec::new() };
        // The caller's proxy has the time limits of the mesh.
        let mut rule = made(&unlimited(&place), (Arc::clone(&name), Action::Forward(vec![backend]), &place));
        let PortLimits { local, global, services } = limits;
        (rule.rate_limits, rule.global_rate_limits) = (local, global);
        let listener = ListenerPart { listener, authorization, jwt_providers, rate_limit_services: services };
        let host = VirtualHost { hostnames: vec![HostPattern::Any], rules: vec![rule], place: place.clone() };
        let routes = RouteTable { name, hosts: vec![host] };
        let cluster = cluster((&target, port.protocol, None), &Traffic::default(), place);
        let application = Endpoint::at(Target::Address(port.application));
        let endpoints = EndpointList { cluster: target, endpoints: vec![application] };
        let (a, b, c, d) = match earlier {
            Some(PortParts { listener, routes, cluster, endpoints }) => {
                (Some(listener), routes, Some(cluster), Some(endpoints))
            }
            None => (None, None, None, None),
        };
        PortParts {
            listener: same_or_new(a, listener),
            routes: Some(same_or_new(b, routes)),
            cluster: same_or_new(c, cluster),
            endpoints: same_or_new(d, endpoints),
        }
    }
}

impl Guards {
    /// A port that hands on what comes, behind mutual TLS.
    fn tcp_port(&self, workload: &Workload, port: &WorkloadPort, earlier: Option<PortParts>) -> PortParts {
        let (name, place) = (listener_name(port), port.place.clone());
        let target: Arc<str> = format!("application:{}", port.port).into();
        let backend =
            BackendRef { cluster: Arc::clone(&target), weight: 1, subset: Labels::new(), filters: Vec::new() };
        let policy = self.policy_of_connections(&place);
        let listener = Listener {
            protocol: ListenerProtocol::Tcp,
            tls: Some(self.tls.clone()),
            authorization: policy.as_ref().map(|policy| Arc::clone(&policy.name)),
            tcp: Some(TcpForwarding {
                backends: vec![backend],
                idle_timeout: Duration::from_secs(3_600),
                place: place.clone(),
            }),
            ..defaults::inbound(&name, bind(workload.address, port.inbound), place.clone())
        };
        let authorization = policy.into_iter().map(|policy| (Arc::clone(&policy.name), policy)).collect();
        let listener = ListenerPart { authorization, ..ListenerPart::plain(listener) };
        let cluster = cluster((&target, port.protocol, None), &Traffic::default(), place);
        let application = Endpoint::at(Target::Address(port.application));
        let endpoints = EndpointList { cluster: target, endpoints: vec![application] };
        let (a, b, c) = earlier
            .map_or((None, None, None), |parts| (Some(parts.listener), Some(parts.cluster), Some(parts.endpoints)));
        PortParts {
            listener: same_or_new(a, listener),
            routes: None,
            cluster: same_or_new(b, cluster),
            endpoints: same_or_new(c, endpoints),
        }
    }

    /// The policies for the workload, where they can be looked at: nothing is known of connections but who makes them.
    /// With a condition on requests, or on tokens, nobody gets in.
    fn policy_of_connections(&self, place: &Place) -> Option<Authorization> {
        let unseen = |policy: &Authorization| policy.rules.iter().any(|rule| rule.looks_at_requests().is_some());
        if !self.providers.is_empty() || self.authorization.as_ref().is_some_and(unseen) {
            let (name, default) = (NOBODY.into(), Access::Deny);
            return Some(Authorization { name, default, rules: Vec::new(), place: place.clone() });
        }
        self.authorization.clone()
    }
}

/// What the most particular policy that says something of it says, and which.
fn said<'m, T>(
    mesh: &'m Mesh,
    workload: &Object,
    of: impl Fn(&'m MeshPolicy) -> Option<T>,
) -> Option<(&'m Arc<Object>, T)> {
    let mut best: Option<(u8, &Arc<Object>, T)> = None;
    for (object, policy) in mesh.mesh_policies() {
        let scope = Scope { namespace: object.id.namespace(), selector: policy.selector.as_ref() };
        let Some(value) = of(policy) else { continue };
        if scope.takes(workload) && best.as_ref().is_none_or(|(level, ..)| scope.level() > *level) {
            best = Some((scope.level(), object, value));
        }
    }
    best.map(|(_, object, value)| (object, value))
}

/// Whether a workload's proxy serves HTTP/3, and which policy says so.
pub(super) fn http3<'m>(mesh: &'m Mesh, workload: &Object) -> Option<(&'m Arc<Object>, bool)> {
    said(mesh, workload, |policy| policy.http3)
}

/// Upgrades and CONNECT of a workload's proxy.
pub(super) fn upgrades(mesh: &Mesh, workload: &Object) -> Upgrades {
    said(mesh, workload, |policy| policy.upgrades.as_ref()).map_or_else(Upgrades::default, |(_, said)| said.clone())
}

fn unlimited(place: &Place) -> Traffic {
    let none = crate::manifest::object::Set { value: Duration::ZERO, place: place.clone() };
    Traffic { request: Some(none), ..Traffic::default() }
}

fn listener_name(port: &WorkloadPort) -> Arc<str> {
    format!("inbound:{}", port.port).into()
}

/// A workload on a loopback address is for its own host only; any other may be reached under addresses that its host does
/// not know.
fn bind(address: IpAddr, port: u16) -> SocketAddr {
    let ip = match address {
        ip if ip.is_loopback() => ip,
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    SocketAddr::new(ip, port)
}

/// The mode of the most particular policy that says one.
fn tls(mesh: &Mesh, workload: &Arc<Object>, (closed, from): (&[Closed], &mut Vec<Arc<Object>>)) -> ListenerTls {
    let mut best: Option<(u8, &Arc<Object>, &crate::manifest::object::Mtls)> = None;
    for (object, policy) in mesh.mesh_policies() {
        let scope = Scope { namespace: object.id.namespace(), selector: policy.selector.as_ref() };
        let Some(mtls) = &policy.mtls else { continue };
        if scope.takes(workload) && best.is_none_or(|(level, ..)| scope.level() > level) {
            best = Some((scope.level(), object, mtls));
        }
    }
    let (mut mode, mut proposed, mut place) = (TlsMode::Permissive, None, workload.place.clone());
    if let Some((_, object, mtls)) = best {
        (mode, proposed, place) = (mtls.mode.value, mtls.proposed, mtls.mode.place.clone());
        from.push(Arc::clone(object));
    }
    if let Some(closed) = closed.iter().find(|closed| closed.id.kind == Kind::MeshPolicy) {
        (mode, proposed, place) = (TlsMode::Strict, None, closed.place.clone());
    }
    ListenerTls {
        mode,
        proposed_mode: proposed,
        certificates: Vec::new(),
        client_certificate: ClientCertificate::Required,
        client_trust: ClientTrust::Mesh,
        min_version: TlsVersion::V1_3,
        handshake_timeout: Duration::from_secs(10),
        max_handshakes: 1_024,
        passthrough: Vec::new(),
        place,
    }
}

/// The providers of all policies for a workload. One that requires a token requires it for all.
fn tokens(mesh: &Mesh, workload: &Object, from: &mut Vec<Arc<Object>>) -> (BTreeMap<Arc<str>, JwtProvider>, bool) {
    let (mut providers, mut required) = (BTreeMap::new(), false);
    for object in mesh.of(Kind::JwtPolicy) {
        let Spec::Jwt(policy) = &object.spec else { continue };
        let scope = Scope { namespace: object.id.namespace(), selector: policy.selector.as_ref() };
        if !scope.takes(workload) {
            continue;
        }
        from.push(Arc::clone(object));
        required |= policy.required;
        for provider in &policy.providers {
            providers.insert(Arc::clone(&provider.name), JwtProvider::clone(provider));
        }
    }
    (providers, required)
}

/// All policies for a workload as one: what any denies is refused, then what any allows passes, and the rest is refused
/// where any says so.
fn authorization(
    mesh: &Mesh,
    workload: &Object,
    (closed, providers, from): (&[Closed], &Providers, &mut Vec<Arc<Object>>),
) -> Option<Authorization> {
    // A policy that nobody understands lets nobody in.
    let unread = closed.iter().find(|closed| matches!(closed.id.kind, Kind::AuthorizationPolicy | Kind::JwtPolicy));
    if let Some(closed) = unread {
        let (name, place) = (AUTHORIZATION.into(), closed.place.clone());
        return Some(Authorization { name, default: Access::Deny, rules: Vec::new(), place });
    }
    let mut out: Option<Authorization> = None;
    for object in mesh.of(Kind::AuthorizationPolicy) {
        let Spec::Authorization(spec) = &object.spec else { continue };
        let scope = Scope { namespace: object.id.namespace(), selector: spec.selector.as_ref() };
        if !scope.takes(workload) {
            continue;
        }
        from.push(Arc::clone(object));
        let whole = out.get_or_insert_with(|| Authorization {
            name: AUTHORIZATION.into(),
            default: Access::Allow,
            rules: Vec::new(),
            place: spec.policy.place.clone(),
        });
        if spec.policy.default == Access::Deny {
            whole.default = Access::Deny;
        }
        whole.rules.extend(spec.policy.rules.iter().filter_map(|rule| renamed(object, rule, providers)));
    }
    out
}

/// A rule with the names that it has in the whole: its policy's before its own, and of a provider the full one.
///
/// A condition on a token of a provider that the workload does not believe can never hold. A rule that allows is left out
/// then. One that denies must not become harmless by a name that leads nowhere: it denies whatever the token says.
fn renamed(object: &Object, rule: &AccessRule, providers: &BTreeMap<Arc<str>, JwtProvider>) -> Option<AccessRule> {
    let mut rule = rule.clone();
    rule.name = bounded(format!("{}/{}", object.id.name, rule.name));
    let mut unknown = false;
    for claim in &mut rule.claims {
        let Some(name) = &claim.provider else { continue };
        let full = |other: &&Arc<str>| other.rsplit('/').next() == Some(name) || *other == name;
        match providers.keys().find(full) {
            Some(full) => claim.provider = Some(Arc::clone(full)),
            None => unknown = true,
        }
    }
    if unknown {
        if rule.action != AccessAction::Deny {
            return None;
        }
        rule.claims.clear();
    }
    Some(rule)
}
