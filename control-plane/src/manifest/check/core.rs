//! Services and EndpointSlices.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use outrigger_config::language::{Field, List, Span, quoted};
use outrigger_config::model::ClusterProtocol;

use super::{Context, label, labels, named};
use crate::manifest::object::{
    EndpointSlice, Service, ServicePort, Set, SliceAddress, SliceEndpoint, Spec, TargetPort,
};
use crate::manifest::{limits, raw};

pub(in crate::manifest) fn service(context: &Context<'_, '_>, spec: &raw::ServiceSpec, span: Span) -> Option<Spec> {
    let raw::ServiceSpec {
        kind,
        cluster_ip,
        cluster_ips: _,
        selector,
        ports,
        publish_not_ready_addresses,
        session_affinity,
        internal_traffic_policy,
        external_traffic_policy: _,
        ip_families: _,
        ip_family_policy: _,
        allocate_load_balancer_node_ports: _,
        health_check_node_port: _,
    } = spec;
    context.word(kind, &["ClusterIP", "NodePort", "LoadBalancer"]);
    context.word(session_affinity, &["None"]);
    context.word(internal_traffic_policy, &["Cluster"]);
    let lack = ("this Service has no `ports`", "add `ports: [{ port: 8080 }]`");
    let (list, at) = context.check.required(ports, span, lack)?;
    if list.is_empty() {
        context.error(at, lack.0, lack.1);
    }
    let selector = selector.get().map(|_| labels(&context.check, (selector, "selector", limits::MAX_LABELS)));
    let address = cluster_ip.get().and_then(|text| text.parse::<IpAddr>().ok()).map(|ip| ip.to_canonical());
    let ports = service_ports(context, list, at);
    let of_tcp = ports.iter().any(super::super::object::ServicePort::is_tcp);
    if let (true, None) = (of_tcp, address) {
        let message = "nobody can connect to the ports of TCP: this Service has no address";
        let fix = "add `clusterIP: ADDRESS`: connections to it are caught by Workloads that have `interception`";
        context.check.sink().warning(cluster_ip.span().unwrap_or(at), message, fix);
    }
    Some(Spec::Service(Service {
        address,
        headless: cluster_ip.get().is_some_and(|text| text == "None"),
        selector: selector.filter(|labels| !labels.is_empty()),
        ports,
        unready: publish_not_ready_addresses.get().copied().unwrap_or(false),
    }))
}

fn service_ports(context: &Context<'_, '_>, list: &List<raw::ServicePortSpec>, at: Span) -> Vec<ServicePort> {
    let check = &context.check;
    let mut names: HashMap<&str, Span> = HashMap::new();
    let mut numbers: HashMap<u16, Span> = HashMap::new();
    let mut out = Vec::with_capacity(list.len());
    for (raw, span) in check.within(list, limits::MAX_PORTS, (Some(at), "ports")).iter().filter_map(Field::here) {
        let raw::ServicePortSpec { name, port, target_port, protocol, app_protocol, node_port: _ } = raw;
        context.word(protocol, &["TCP"]);
        if name.is_absent() && list.len() > 1 {
            context.error(span, "this port has no `name`, and there are several", "add a name, such as `name: http`");
        }
        if let Some((text, at)) = name.here()
            && named(check, (text, at), ("name of a port", label))
            && let Some(first) = names.insert(text, at)
        {
            let text = (format!("a second port is named `{}`", quoted(text)), "give it another name".to_owned());
            check.sink().error_with(at, (first, "the first one is here"), text);
        }
        check.required(port, span, ("this port has no `port`", "add its number: `port: 8080`"));
        let Some(number) = context.port(port) else { continue };
        if let Some(first) = numbers.insert(number, port.span().unwrap_or(span)) {
            let text = (format!("the port {number} comes twice"), "remove one of the two".to_owned());
            check.sink().error_with(port.span().unwrap_or(span), (first, "the first one is here"), text);
        }
        let target = match target_port.here() {
            None => TargetPort::Number(number),
            Some((text, at)) => match text.parse::<u16>() {
                Ok(target) if target > 0 => TargetPort::Number(target),
                _ if text.bytes().all(|b| b.is_ascii_digit()) => {
                    context.error(at, format!("{} is not a port", quoted(text)), "ports go from 1 to 65535");
                    continue;
                }
                _ => TargetPort::Name(text.as_str().into()),
            },
        };
        out.push(ServicePort {
            name: name.get().map_or("", String::as_str).into(),
            port: number,
            target,
            protocol: app_protocol.here().and_then(|(text, at)| {
                let value = self::app_protocol(context, text, at)?;
                Some(Set { value, place: context.place(at) })
            }),
            place: context.place(span),
        });
    }
    out
}

fn app_protocol(context: &Context<'_, '_>, text: &str, at: Span) -> Option<ClusterProtocol> {
    match text {
        "http" | "kubernetes.io/ws" => Some(ClusterProtocol::Http1),
        "http2" | "grpc" | "kubernetes.io/h2c" => Some(ClusterProtocol::Http2),
        "tcp" => Some(ClusterProtocol::Tcp),
        "https" | "kubernetes.io/wss" => {
            let fix = "write `http` or `http2`, and a BackendTLSPolicy that says how the servers are verified";
            context.error(at, "TLS to a Service needs a policy", fix);
            None
        }
        _ => {
            let fix = "write http, http2, grpc, tcp, kubernetes.io/h2c or kubernetes.io/ws";
            context.error(at, format!("the protocol `{}` is not supported", quoted(text)), fix);
            None
        }
    }
}

/// The label that names the Service of an EndpointSlice.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

pub(in crate::manifest) fn endpoint_slice(
    context: &Context<'_, '_>,
    spec: &raw::EndpointSliceManifest,
    span: Span,
) -> Option<Spec> {
    let raw::EndpointSliceManifest { api_version: _, kind: _, metadata, address_type, endpoints, ports } = spec;
    let service = context.labels.get(SERVICE_NAME);
    if service.is_none() {
        let fix = format!("add the label `{SERVICE_NAME}: NAME` to `metadata`");
        context.error(metadata.span().unwrap_or(span), "this EndpointSlice belongs to no Service", fix);
    }
    let lack = ("this EndpointSlice has no `addressType`", "add `addressType: IPv4`");
    context.check.required(address_type, span, lack)?;
    let kind = context.word(address_type, &["IPv4", "IPv6", "FQDN"])?;
    let list = context.check.within(endpoints.entries(), limits::MAX_SLICE_ENDPOINTS, (endpoints.span(), "endpoints"));
    let endpoints = list.iter().filter_map(Field::here).filter_map(|(raw, at)| endpoint(context, (raw, at), kind));
    let endpoints = endpoints.collect();
    let list = context.check.within(ports.entries(), limits::MAX_PORTS, (ports.span(), "ports"));
    let mut out: Vec<(Arc<str>, u16)> = Vec::with_capacity(list.len());
    for (raw, at) in list.iter().filter_map(Field::here) {
        let raw::EndpointPortSpec { name, port, protocol, app_protocol: _ } = raw;
        context.word(protocol, &["TCP"]);
        context.check.required(port, at, ("this port has no `port`", "add its number: `port: 8080`"));
        let name: Arc<str> = name.get().map_or("", String::as_str).into();
        if out.iter().any(|(other, _)| *other == name) {
            context.error(at, format!("a second port is named `{}`", quoted(&name)), "remove one of the two");
        } else if let Some(port) = context.port(port) {
            out.push((name, port));
        }
    }
    Some(Spec::EndpointSlice(EndpointSlice { service: Arc::clone(service?), ports: out, endpoints }))
}

fn endpoint(context: &Context<'_, '_>, (raw, span): (&raw::EndpointSpec, Span), kind: &str) -> Option<SliceEndpoint> {
    let raw::EndpointSpec {
        addresses,
        conditions,
        zone,
        hostname: _,
        node_name: _,
        target_ref: _,
        hints: _,
        deprecated_topology: _,
    } = raw;
    let lack = ("this endpoint has no `addresses`", "add `addresses: [10.0.0.7]`");
    let (list, at) = context.check.required(addresses, span, lack)?;
    let Some((text, at)) = list.first().and_then(Field::here) else {
        if list.is_empty() {
            context.error(at, lack.0, lack.1);
        }
        return None;
    };
    let address = match (kind, text.parse::<IpAddr>()) {
        ("FQDN", Err(_)) => SliceAddress::Name(context.check.host(text, at)?),
        ("IPv4", Ok(ip)) if ip.is_ipv4() && !ip.is_unspecified() => SliceAddress::Ip(ip),
        ("IPv6", Ok(ip)) if ip.is_ipv6() && !ip.is_unspecified() => SliceAddress::Ip(ip.to_canonical()),
        _ => {
            let message = format!("`{}` is no address of type {kind}", quoted(text));
            context.error(at, message, "write an address of that type, or another `addressType`");
            return None;
        }
    };
    let ready = conditions.get().and_then(|conditions| conditions.ready.get().copied()).unwrap_or(true);
    let zone = zone.here().and_then(|(text, at)| context.check.name(text, at));
    let says = |field: fn(&raw::EndpointConditions) -> &Field<bool>| {
        conditions.get().and_then(|conditions| field(conditions).get().copied()).unwrap_or(false)
    };
    let draining = says(|of| &of.terminating) && says(|of| &of.serving);
    Some(SliceEndpoint { address, ready, draining, zone })
}
