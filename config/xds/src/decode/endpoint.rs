//! Endpoints.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use outrigger_config::grammar;
use outrigger_config::limits::{ENDPOINT_WEIGHT, PRIORITY};
use outrigger_config::model::{Condition, Endpoint, Labels, Target};

use super::reader::At;
use super::resilience;
use crate::extensions::LabelsExtension;
use crate::pb::{self, core, endpoint};

/// What may stand where an endpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    /// Addresses only.
    Addresses,
    /// Names too: they are resolved.
    Resolved,
}

pub(super) fn endpoints(at: &At<'_>, message: &endpoint::ClusterLoadAssignment, names: Names) -> Vec<Endpoint> {
    unpack!(at, message => endpoint::ClusterLoadAssignment {
        take: [endpoints, policy],
        ignore: [cluster_name], // known by who asked
        refuse: [named_endpoints],
    });
    if let Some(policy) = policy {
        let at = at.field("policy");
        unpack!(at, policy => endpoint::cluster_load_assignment::Policy {
            take: [],
            ignore: [overprovisioning_factor], // one for a cluster, as it is or of our own
            refuse: [drop_overloads, endpoint_stale_after, weighted_priority_health],
        });
    }
    let mut out = Vec::new();
    for (index, message) in endpoints.iter().enumerate() {
        locality(&at.item("endpoints", index), message, names, &mut out);
    }
    out
}

fn locality(at: &At<'_>, message: &endpoint::LocalityLbEndpoints, names: Names, out: &mut Vec<Endpoint>) {
    unpack!(at, message => endpoint::LocalityLbEndpoints {
        take: [locality, lb_endpoints, priority],
        ignore: [
            metadata, // of others
            load_balancing_weight, // only for weighted localities, which are refused in clusters
            proximity, // not used by Envoy
        ],
        refuse: [lb_config],
    });
    let Ok(priority) = u8::try_from(*priority) else {
        at.field("priority").refuse(format!("priorities go from 0 to {}", PRIORITY.max));
        return;
    };
    let zone = locality.as_ref().and_then(|message| {
        let at = at.field("locality");
        unpack!(at, message => core::Locality {
            take: [zone, region],
            ignore: [sub_zone], // endpoints are told apart by zone
            refuse: [],
        });
        // A region alone is all that there is to tell by.
        let name = if zone.is_empty() { region } else { zone };
        if name.is_empty() { None } else { at.field("zone").held(grammar::name(name)) }
    });
    for (index, message) in lb_endpoints.iter().enumerate() {
        out.extend(one(&at.item("lb_endpoints", index), message, (names, zone.clone(), priority)));
    }
}

fn one(
    at: &At<'_>,
    message: &endpoint::LbEndpoint,
    (names, zone, priority): (Names, Option<Arc<str>>, u8),
) -> Option<Endpoint> {
    use core::HealthStatus;
    unpack!(at, message => endpoint::LbEndpoint {
        take: [health_status, load_balancing_weight, host_identifier, metadata],
        ignore: [],
        refuse: [],
    });
    let condition = match HealthStatus::try_from(*health_status) {
        Ok(HealthStatus::Unknown | HealthStatus::Healthy) => Condition::Healthy,
        Ok(HealthStatus::Draining) => Condition::Draining,
        Ok(HealthStatus::Unhealthy | HealthStatus::Timeout) => Condition::Unhealthy,
        Ok(HealthStatus::Degraded) | Err(_) => {
            at.field("health_status").refuse("degraded endpoints are not supported; leave them out or in");
            return None;
        }
    };
    let labels = match at.extension::<LabelsExtension>("LabelsExtension", metadata.as_ref()) {
        Some(own) => resilience::labels(&own),
        None => labels(metadata.as_ref()),
    };
    let weight = load_balancing_weight.as_ref().map_or(1, |weight| weight.value);
    if u64::from(weight) < ENDPOINT_WEIGHT.min || u64::from(weight) > ENDPOINT_WEIGHT.max {
        let reason = format!("{weight} is out of range; weights go from 1 to {}", ENDPOINT_WEIGHT.max);
        at.field("load_balancing_weight").refuse(reason);
    }
    let endpoint = match host_identifier {
        Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint)) => endpoint,
        Some(endpoint::lb_endpoint::HostIdentifier::EndpointName(_)) => {
            at.field("endpoint_name").refuse("this is not supported; give the endpoint itself");
            return None;
        }
        None => {
            at.refuse("there is no endpoint");
            return None;
        }
    };
    let at = at.field("endpoint");
    unpack!(at, endpoint => endpoint::Endpoint {
        take: [address, health_check_config],
        ignore: [
            hostname, // an endpoint with a name is asked for by it
            observability_name, // a label
        ],
        refuse: [additional_addresses],
    });
    let (host, port) = address.as_ref().map_or_else(
        || {
            at.refuse("the endpoint has no address");
            None
        },
        |message| socket_address(&at.field("address"), message),
    )?;
    let target = match (host.parse::<IpAddr>(), names) {
        (Ok(ip), _) => Target::Address(SocketAddr::new(ip, port)),
        (Err(_), Names::Resolved) => Target::Name { host: at.field("address").held(grammar::host(&host))?, port },
        (Err(_), Names::Addresses) => {
            let reason = format!("`{host}` is not an address; names are resolved in STRICT_DNS clusters");
            at.field("address.socket_address.address").refuse(reason);
            return None;
        }
    };
    if let Some(message) = health_check_config {
        let at = at.field("health_check_config");
        unpack!(at, message => endpoint::endpoint::HealthCheckConfig {
            take: [],
            ignore: [hostname], // probes ask for what the health check of the cluster says
            refuse: [port_value, address, disable_active_health_check],
        });
    }
    Some(Endpoint { weight, zone, priority, labels, condition, target })
}

/// Labels as Envoy keeps them, for its subsets. What is no text is not a label.
pub(super) fn labels(metadata: Option<&core::Metadata>) -> Labels {
    use pb::value::Kind;
    let fields = metadata.and_then(|metadata| metadata.filter_metadata.get(pb::SUBSETS)).map(|fields| &fields.fields);
    let text = |(key, value): (&String, &pb::Value)| match &value.kind {
        Some(Kind::StringValue(text)) => Some((Arc::from(key.as_str()), Arc::from(text.as_str()))),
        _ => None,
    };
    fields.into_iter().flatten().filter_map(text).collect()
}

/// Host and port.
pub(super) fn socket_address(at: &At<'_>, message: &core::Address) -> Option<(String, u16)> {
    use core::address::Address::{EnvoyInternalAddress, Pipe, SocketAddress};
    use core::socket_address::PortSpecifier;
    unpack!(at, message => core::Address { take: [address], ignore: [], refuse: [] });
    let message = match address {
        Some(SocketAddress(message)) => message,
        Some(Pipe(_)) => {
            at.field("pipe").refuse("this is not supported; give an address and a port");
            return None;
        }
        Some(EnvoyInternalAddress(_)) => {
            at.field("envoy_internal_address").refuse("this is not supported; give an address and a port");
            return None;
        }
        None => {
            at.refuse("there is no address");
            return None;
        }
    };
    let at = at.field("socket_address");
    unpack!(at, message => core::SocketAddress {
        take: [protocol, address, port_specifier],
        ignore: [ipv4_compat], // `[::]` takes IPv4 as well
        refuse: [resolver_name, network_namespace_filepath],
    });
    if *protocol != core::socket_address::Protocol::Tcp as i32 {
        at.field("protocol").refuse("only TCP is supported");
    }
    match port_specifier {
        Some(PortSpecifier::PortValue(port)) => match u16::try_from(*port) {
            Ok(port) => Some((address.clone(), port)),
            Err(_) => {
                at.field("port_value").refuse(format!("{port} is not a port"));
                None
            }
        },
        Some(PortSpecifier::NamedPort(_)) => {
            at.field("named_port").refuse("this is not supported; give a number");
            None
        }
        None => {
            at.field("port_value").refuse("there is no port");
            None
        }
    }
}
