//! Endpoints.

use std::collections::BTreeMap;
use std::sync::Arc;

use outrigger_config::model::{Condition, Endpoint, Target};

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
        Form::Outrigger => list
            .chunk_by(|a, b| (a.priority, &a.zone) == (b.priority, &b.zone))
            .map(|group| group.iter().collect())
            .collect(),
        // These take each locality once.
        Form::Envoy | Form::Grpc => {
            let mut zones: BTreeMap<(u8, Option<&Arc<str>>), Vec<&Endpoint>> = BTreeMap::new();
            for endpoint in list {
                zones.entry((endpoint.priority, endpoint.zone.as_ref())).or_default().push(endpoint);
            }
            zones.into_values().collect::<Vec<_>>()
        }
    };
    // These count priorities without a gap.
    let mut levels: Vec<u8> = list.iter().map(|endpoint| endpoint.priority).collect();
    levels.sort_unstable();
    levels.dedup();
    let level = |priority: u8| match form {
        Form::Outrigger => u32::from(priority),
        Form::Envoy | Form::Grpc => {
            levels.iter().position(|level| *level == priority).and_then(|at| u32::try_from(at).ok()).unwrap_or(0)
        }
    };
    endpoint::ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: groups.iter().map(|group| locality(group, (&level, form))).collect(),
        ..Default::default()
    }
}

fn locality(group: &[&Endpoint], (level, form): (&dyn Fn(u8) -> u32, Form)) -> endpoint::LocalityLbEndpoints {
    let zone = group.first().and_then(|first| first.zone.as_deref()).unwrap_or_default();
    // gRPC leaves out a locality without a weight.
    let weight = group.iter().fold(0_u32, |sum, endpoint| sum.saturating_add(endpoint.weight));
    endpoint::LocalityLbEndpoints {
        locality: Some(core::Locality { region: String::new(), zone: zone.to_owned(), sub_zone: String::new() }),
        lb_endpoints: group.iter().map(|endpoint| one(endpoint, form)).collect(),
        priority: group.first().map_or(0, |first| level(first.priority)),
        load_balancing_weight: wire::number(weight),
        ..Default::default()
    }
}

fn one(endpoint: &Endpoint, form: Form) -> endpoint::LbEndpoint {
    let Endpoint { target, weight, zone: _, priority: _, labels, condition } = endpoint;
    // Envoy's are maps, whose bytes would not be the same each time.
    let own = (form == Form::Outrigger && !labels.is_empty()).then(|| super::resilience::labels(labels));
    let (address, hostname) = match target {
        Target::Address(address) => (wire::address(&address.ip().to_string(), address.port()), String::new()),
        // The name is what is asked for in TLS.
        Target::Name { host, port } => (wire::address(host, *port), host.to_string()),
    };
    endpoint::LbEndpoint {
        load_balancing_weight: wire::number(*weight),
        health_status: match condition {
            Condition::Healthy => core::HealthStatus::Unknown,
            Condition::Draining => core::HealthStatus::Draining,
            Condition::Unhealthy => core::HealthStatus::Unhealthy,
        } as i32,
        metadata: own.map(|labels| wire::metadata("LabelsExtension", &labels)),
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint::Endpoint {
            address: Some(address),
            hostname,
            ..Default::default()
        })),
    }
}
