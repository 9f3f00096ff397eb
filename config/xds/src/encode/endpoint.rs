//! Endpoints.

use std::collections::BTreeMap;
use std::sync::Arc;

use outrigger_config::model::{Endpoint, Target};

use super::Form;
use crate::pb::{core, endpoint};
use crate::{Kind, Resource, wire};

/// The endpoints of a cluster, as a resource of their own.
#[must_use]
pub fn endpoints(cluster: &Arc<str>, list: &[Endpoint], form: Form) -> Resource {
    Resource::new(Kind::Endpoints, Arc::clone(cluster), &assignment(cluster, list, form))
}

pub(super) fn assignment(cluster: &str, list: &[Endpoint], form: Form) -> endpoint::ClusterLoadAssignment {
    let groups = match form {
        // In the order of the list.
        Form::Outrigger => list.chunk_by(|a, b| a.zone == b.zone).map(|group| group.iter().collect()).collect(),
        // These take each locality once.
        Form::Envoy | Form::Grpc => {
            let mut zones: BTreeMap<Option<&Arc<str>>, Vec<&Endpoint>> = BTreeMap::new();
            for endpoint in list {
                zones.entry(endpoint.zone.as_ref()).or_default().push(endpoint);
            }
            zones.into_values().collect::<Vec<_>>()
        }
    };
    endpoint::ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: groups.iter().map(|group| locality(group)).collect(),
        ..Default::default()
    }
}

fn locality(group: &[&Endpoint]) -> endpoint::LocalityLbEndpoints {
    let zone = group.first().and_then(|first| first.zone.as_deref()).unwrap_or_default();
    // gRPC leaves out a locality without a weight.
    let weight = group.iter().fold(0_u32, |sum, endpoint| sum.saturating_add(endpoint.weight));
    endpoint::LocalityLbEndpoints {
        locality: Some(core::Locality { region: String::new(), zone: zone.to_owned(), sub_zone: String::new() }),
        lb_endpoints: group.iter().map(|endpoint| one(endpoint)).collect(),
        load_balancing_weight: wire::number(weight),
        ..Default::default()
    }
}

fn one(Endpoint { target, weight, zone: _, priority: _, labels: _, condition: _ }: &Endpoint) -> endpoint::LbEndpoint {
    let (address, hostname) = match target {
        Target::Address(address) => (wire::address(&address.ip().to_string(), address.port()), String::new()),
        // The name is what is asked for in TLS.
        Target::Name { host, port } => (wire::address(host, *port), host.to_string()),
    };
    endpoint::LbEndpoint {
        load_balancing_weight: wire::number(*weight),
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint::Endpoint {
            address: Some(address),
            hostname,
            ..Default::default()
        })),
        ..Default::default()
    }
}
