//! Ports of TCP to listeners of callers: connections to the address of a Service are caught on their way, and handed on by
//! its TCPRoutes, or to its endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::model::{
    Action, BackendRef, Cidr, Intercept, Labels, Listener, ListenerProtocol, PortRange, TcpForwarding,
};

use super::backends::{Backends, INVALID_BACKEND, PortKey};
use super::defaults;
use super::parts::ListenerPart;
use super::rules::{Maker, PortRules, bounded};
use crate::manifest::object::ServicePort;
use crate::manifest::{Mesh, Name};

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
            let (backends, wanted) = leading(mesh, backends, (name, port, caller));
            needs.extend(wanted);
            out.push(listener((name, address), port, backends));
        }
    }
    (out, needs)
}

/// Where connections to a port go.
fn leading(
    mesh: &Mesh,
    backends: &Backends,
    (service, port, caller): (&Name, &ServicePort, &str),
) -> (Vec<BackendRef>, BTreeSet<Option<PortKey>>) {
    let maker = Maker { mesh, backends, service, port: port.port };
    let PortRules { rules, needs } = match mesh.routes_of(service, port.port, caller) {
        Some(attached) => maker.routed(attached),
        None => maker.plain(&port.place),
    };
    // Of several routes, the senior's rule is the first one, and it takes everything.
    match rules.into_iter().next().map(|rule| rule.action) {
        Some(Action::Forward(list)) if !list.is_empty() => (list, needs),
        _ => {
            let invalid =
                BackendRef { cluster: INVALID_BACKEND.into(), weight: 1, subset: Labels::new(), filters: Vec::new() };
            (vec![invalid], BTreeSet::from([None]))
        }
    }
}

fn listener((service, address): (&Name, IpAddr), port: &ServicePort, backends: Vec<BackendRef>) -> ListenerPart {
    let place = port.place.clone();
    let name = bounded(format!("outbound:{service}:{}", port.port));
    // It serves what others catch; its own address is none that anybody knows.
    let bind = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    let range = Cidr { network: address, prefix: if address.is_ipv4() { 32 } else { 128 } };
    let listener = Listener {
        tcp: Some(TcpForwarding { backends, idle_timeout: Duration::from_secs(3_600), place: place.clone() }),
        intercepts: vec![Intercept {
            addresses: vec![range],
            ports: vec![PortRange { first: port.port, last: port.port }],
            place: place.clone(),
        }],
        ..defaults::outbound(&name, bind, ListenerProtocol::Tcp, place)
    };
    ListenerPart { listener, authorization: BTreeMap::new(), jwt_providers: BTreeMap::new() }
}

/// The key under which a caller's listener is kept.
pub(super) type Key = (Name, Arc<str>);
