//! Ports of TCP to listeners of callers: connections to the address of a Service are caught on their way, and handed on by
//! its routes, or to its endpoints: by TLSRoutes, which look at the server name of TLS, or by TCPRoutes.

use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::limits::MAX_PASSTHROUGH;
use outrigger_config::model::{
    Action, BackendRef, Cidr, ClientCertificate, ClientTrust, HostPattern, Intercept, Labels, Listener, ListenerLimits,
    ListenerProtocol, ListenerTls, Passthrough, PortRange, Rule, TcpForwarding, TlsMode, TlsVersion,
};

use super::backends::{Backends, INVALID_BACKEND, PortKey};
use super::defaults;
use super::parts::ListenerPart;
use super::rules::{Maker, PortRules, bounded};
use crate::manifest::object::{ServicePort, Spec};
use crate::manifest::{Attached, Kind, Mesh, Name, Object};

/// The listeners of a caller for the ports of TCP of these Services, and the ports that they lead to.
pub(super) fn listeners(
    mesh: &Mesh,
    backends: &Backends,
    (caller, services): (&str, &[Name]),
) -> (Vec<ListenerPart>, BTreeSet<Option<PortKey>>) {
    let (mut out, mut needs) = (Vec::new(), BTreeSet::new());
    for name in services {
        let Some((_, service)) = mesh.service(name) else { continue };
        // Without an address, nobody can connect to it.
        let Some(address) = service.address else { continue };
        for port in service.ports.iter().filter(|port| port.is_tcp()) {
            let way = leading(mesh, backends, (name, port, caller), &mut needs);
            out.push(listener((name, address), port, way));
        }
    }
    (out, needs)
}

/// Where connections to a port go.
enum Way {
    /// All of them.
    Open(Vec<BackendRef>),
    /// By the server name that they ask for; any other is refused.
    Named(Vec<Passthrough>),
}

fn leading(
    mesh: &Mesh,
    backends: &Backends,
    (service, port, caller): (&Name, &ServicePort, &str),
    needs: &mut BTreeSet<Option<PortKey>>,
) -> Way {
    let maker = Maker { mesh, backends, service, port: port.port };
    let attached = mesh.routes_of(service, port.port, caller);
    if let Some(attached) = attached
        && attached.routes.iter().any(|route| route.id.kind == Kind::TlsRoute)
    {
        return Way::Named(by_name(&maker, attached, needs));
    }
    // Of several routes, the senior's rule is the first one, and it takes everything.
    let made = attached.map_or_else(|| maker.plain(&port.place), |attached| maker.routed(attached));
    Way::Open(backends_of(made, needs))
}

/// Every TLSRoute with the names that no senior one has.
fn by_name(maker: &Maker<'_>, attached: Attached<'_>, needs: &mut BTreeSet<Option<PortKey>>) -> Vec<Passthrough> {
    let mut taken: HashSet<&HostPattern> = HashSet::new();
    let mut out = Vec::new();
    for object in attached.routes.iter().take(MAX_PASSTHROUGH) {
        let Spec::Route(route) = &object.spec else { continue };
        let names = route.server_names.iter().map(|name| &name.value);
        let hostnames: Vec<HostPattern> = names.filter(|name| taken.insert(name)).cloned().collect();
        if hostnames.is_empty() {
            continue;
        }
        let alone: &[Arc<Object>] = std::slice::from_ref(object);
        let backends = backends_of(maker.routed(Attached { routes: alone, ..attached }), needs);
        out.push(Passthrough { hostnames, backends, place: object.place.clone() });
    }
    out
}

/// The backends of the first rule, or the one that stands for none.
fn backends_of(made: PortRules, needs: &mut BTreeSet<Option<PortKey>>) -> Vec<BackendRef> {
    match made.rules.into_iter().next() {
        Some(Rule { action: Action::Forward(list), .. }) if !list.is_empty() => {
            needs.extend(made.needs);
            list
        }
        _ => {
            needs.insert(None);
            vec![BackendRef { cluster: INVALID_BACKEND.into(), weight: 1, subset: Labels::new(), filters: Vec::new() }]
        }
    }
}

fn listener((service, address): (&Name, IpAddr), port: &ServicePort, way: Way) -> ListenerPart {
    let place = port.place.clone();
    let name = bounded(format!("outbound:{service}:{}", port.port));
    // It serves what others catch; its own address is none that anybody knows.
    let bind = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    let range = Cidr { network: address, prefix: if address.is_ipv4() { 32 } else { 128 } };
    let mut listener = Listener {
        intercepts: vec![Intercept {
            addresses: vec![range],
            ports: vec![PortRange { first: port.port, last: port.port }],
            place: place.clone(),
        }],
        ..defaults::outbound(&name, bind, ListenerProtocol::Tcp, place.clone())
    };
    match way {
        Way::Open(backends) => listener.tcp = Some(TcpForwarding { backends, idle_timeout: IDLE, place }),
        Way::Named(passthrough) => {
            // Of TLS that is handed on, the listener says how long nothing may move.
            listener.limits = ListenerLimits { stream_idle_timeout: IDLE, ..listener.limits };
            listener.tls = Some(ListenerTls {
                mode: TlsMode::Passthrough,
                proposed_mode: None,
                certificates: Vec::new(),
                client_certificate: ClientCertificate::None,
                client_trust: ClientTrust::Mesh,
                min_version: TlsVersion::V1_3,
                handshake_timeout: Duration::from_secs(10),
                max_handshakes: 1_024,
                passthrough,
                place,
            });
        }
    }
    ListenerPart::plain(listener)
}

/// A connection on which nothing moves is closed after this.
const IDLE: Duration = Duration::from_secs(3_600);

/// The key under which a caller's listener is kept.
pub(super) type Key = (Name, Arc<str>);
