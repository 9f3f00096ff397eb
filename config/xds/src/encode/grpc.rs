//! What proxyless gRPC clients take (gRFC A27 and its followers): a listener named by who is called, with its routes inside.

use std::collections::BTreeMap;
use std::sync::Arc;

use outrigger_config::model::{Config, Direction, HostPattern, VirtualHost};

use super::{Form, filters, route};
use crate::pb::{hcm, listener, route as routes};
use crate::{Kind, Resource, wire};

/// The listener of `xds:///TARGET`: everything that the rules of `host` say, whatever authority is asked for. One resource
/// for each target, and no route configurations beside it.
///
/// What gRPC clients do not have is left out: rules that answer by themselves, rewrites, header changes, conditions on
/// query parameters (such rules match nothing there, so they are left out whole).
#[must_use]
pub fn client_listener(target: &str, host: &VirtualHost) -> Resource {
    let table = routes::RouteConfiguration {
        name: target.to_owned(),
        virtual_hosts: vec![routes::VirtualHost {
            name: target.to_owned(),
            domains: vec!["*".to_owned()],
            routes: host.rules.iter().flat_map(|rule| route::rule(rule, Form::Grpc)).map(|(route, _)| route).collect(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let manager = hcm::HttpConnectionManager {
        http_filters: vec![filters::router()],
        route_specifier: Some(hcm::http_connection_manager::RouteSpecifier::RouteConfig(table)),
        ..Default::default()
    };
    let message = listener::Listener {
        name: target.to_owned(),
        api_listener: Some(listener::ApiListener { api_listener: Some(wire::any(&manager)) }),
        ..Default::default()
    };
    Resource::new(Kind::Listener, target.into(), &message)
}

/// One for each exact hostname of the tables that outbound listeners use; the first that has it wins.
pub(super) fn listeners(config: &Config) -> Vec<Resource> {
    let outbound = config.listeners.iter().filter(|listener| listener.direction == Direction::Outbound);
    let tables = outbound.filter_map(|listener| config.routes.get(listener.routes.as_ref()?));
    let mut out: BTreeMap<Arc<str>, Resource> = BTreeMap::new();
    for host in tables.flat_map(|table| &table.hosts) {
        for pattern in &host.hostnames {
            if let HostPattern::Exact(name) = pattern {
                out.entry(Arc::clone(name)).or_insert_with(|| client_listener(name, host));
            }
        }
    }
    out.into_values().collect()
}
