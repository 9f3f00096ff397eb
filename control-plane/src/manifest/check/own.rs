//! Our own kinds, but for traffic.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use outrigger_config::language::raw::ClusterProtocol as RawProtocol;
use outrigger_config::language::{Entries, Field, List, Span, quoted};
use outrigger_config::model::TlsMode;

use super::traffic::{defaults, protocol};
use super::{Context, label, named, subdomain};
use crate::manifest::object::{
    AuthorizationPolicy, JwtPolicy, MeshPolicy, Mtls, RateLimiter, Set, Spec, Traffic, Workload, WorkloadPort,
};
use crate::manifest::{CONTROL_PLANE, MESH_NAMESPACE, Name, limits, raw};

pub(in crate::manifest) fn workload(context: &Context<'_, '_>, spec: &raw::WorkloadSpec, span: Span) -> Option<Spec> {
    let raw::WorkloadSpec { service_account, zone, weight, address, outbound, interception, ports, uses } = spec;
    let check = &context.check;
    let lack = ("this Workload has no `serviceAccount`", "add the service account of its identity");
    let account = check.required(service_account, span, lack);
    let account = account.filter(|(text, at)| named(check, (text, *at), ("name of a service account", subdomain)));
    if let Some((text, at)) = account
        && (context.id.namespace(), text.as_str()) == CONTROL_PLANE
    {
        let fix = "use another service account: whoever has this one could pass for the control plane";
        context.error(at, "this is the identity of the control plane itself", fix);
    }
    let lack = ("this Workload has no `address`", "add the IP address where other proxies reach it");
    let address = check.required(address, span, lack).and_then(|(text, at)| match text.parse::<IpAddr>() {
        Ok(ip) if !ip.is_unspecified() => Some(ip.to_canonical()),
        _ => {
            context.error(
                at,
                format!("`{}` is no address to reach", quoted(text)),
                "write an IP address, without port",
            );
            None
        }
    });
    let outbound = match outbound.here() {
        None => SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15_001),
        Some((text, at)) => socket(context, text, at)?,
    };
    let zone = zone.here().and_then(|(text, at)| check.name(text, at));
    let weight = check.number(weight, outrigger_config::limits::ENDPOINT_WEIGHT).unwrap_or(1);
    let uses = uses.get().map(|list| services(context, list, uses.span()));
    let ports = workload_ports(context, ports, outbound);
    Some(Spec::Workload(Workload {
        service_account: account?.0.as_str().into(),
        zone,
        weight: u32::try_from(weight).unwrap_or(1),
        address: address?,
        outbound,
        interception: check.interception(interception),
        ports,
        uses,
    }))
}

fn workload_ports(
    context: &Context<'_, '_>,
    field: &Field<List<raw::WorkloadPortSpec>>,
    outbound: SocketAddr,
) -> Vec<WorkloadPort> {
    let check = &context.check;
    let mut out: Vec<WorkloadPort> = Vec::new();
    let mut seen: HashMap<(&str, String), Span> = HashMap::new();
    let mut once = |what: &'static str, value: String, at: Span| {
        if let Some(first) = seen.get(&(what, value.clone())) {
            let text = (format!("{what} {} comes twice", quoted(&value)), "give each port its own".to_owned());
            check.sink().error_with(at, (*first, "the first one is here"), text);
        } else {
            seen.insert((what, value), at);
        }
    };
    let list = check.within(field.entries(), limits::MAX_PORTS, (field.span(), "ports"));
    for (raw, span) in list.iter().filter_map(Field::here) {
        let raw::WorkloadPortSpec { name, port, inbound, application, protocol } = raw;
        check.required(port, span, ("this port has no `port`", "add the number by which others know it"));
        let lack = ("this port has no `inbound`", "add the port on which the proxy listens: `inbound: 15006`");
        check.required(inbound, span, lack);
        if let Some((text, at)) = name.here()
            && named(check, (text, at), ("name of a port", label))
        {
            once("the name", text.clone(), at);
        }
        let (Some(number), Some(listen)) = (context.port(port), context.port(inbound)) else { continue };
        once("the port", number.to_string(), port.span().unwrap_or(span));
        once("the inbound port", listen.to_string(), inbound.span().unwrap_or(span));
        if listen == outbound.port() {
            let fix = "use another port";
            context.error(inbound.span().unwrap_or(span), "the application's requests go to this port", fix);
        }
        let application = match application.here() {
            None => Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), number)),
            Some((text, at)) => socket(context, text, at),
        };
        let Some(application) = application else { continue };
        out.push(WorkloadPort {
            name: name.get().map_or("", String::as_str).into(),
            port: number,
            inbound: listen,
            application,
            protocol: match protocol.here() {
                Some((RawProtocol::Http3, at)) => {
                    let fix = "write http1, http2, auto or tcp; between proxies, `http3: true` of a MeshPolicy";
                    context.error(at, "an application beside its proxy is reached without TLS, and HTTP/3 has it", fix);
                    continue;
                }
                protocol => self::protocol(protocol.map_or(RawProtocol::Http1, |(protocol, _)| *protocol)),
            },
            place: context.place(span),
        });
    }
    out
}

fn socket(context: &Context<'_, '_>, text: &str, at: Span) -> Option<SocketAddr> {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() > 0 && !address.ip().is_unspecified() => Some(address),
        _ => {
            let fix = "write an IP address and a port, such as `127.0.0.1:8080`";
            context.error(at, format!("`{}` is no address", quoted(text)), fix);
            None
        }
    }
}

/// `NAME` or `NAMESPACE/NAME`.
fn services(
    context: &Context<'_, '_>,
    list: &List<String>,
    span: Option<Span>,
) -> Vec<(Name, outrigger_config::model::Place)> {
    let mut out: Vec<(Name, _)> = Vec::with_capacity(list.len());
    let list = context.check.within(list, limits::MAX_USES, (span, "entries of `uses`"));
    for (text, at) in list.iter().filter_map(Field::here) {
        let (namespace, name) = text.split_once('/').unwrap_or((context.id.namespace(), text));
        let sound = named(&context.check, (namespace, at), ("namespace", label))
            && named(&context.check, (name, at), ("name of a Service", label));
        let name = Name::new(namespace, name);
        if sound && !out.iter().any(|(other, _)| *other == name) {
            out.push((name, context.place(at)));
        }
    }
    out
}

pub(in crate::manifest) fn mesh_policy(
    context: &Context<'_, '_>,
    spec: &raw::MeshPolicySpec,
    span: Span,
) -> Option<Spec> {
    let raw::MeshPolicySpec { selector, trust_domain, mtls, http3, upgrades, defaults: written, rate_limit_services } =
        spec;
    let services = rate_limit_services;
    let silent = [trust_domain.span(), mtls.span(), http3.span(), upgrades.span(), written.span(), services.span()];
    if silent.iter().all(Option::is_none) {
        context.error(span, "this policy says nothing", "add `mtls`, `http3`, `upgrades`, `defaults` or `trustDomain`");
    }
    let general =
        [("trustDomain", trust_domain.span()), ("defaults", written.span()), ("rateLimitServices", services.span())];
    for (name, at) in general {
        if let (Some(at), false) = (at, selector.is_absent()) {
            let message = format!("`{name}` is not for single workloads");
            context.error(at, message, "write a policy without `selector`");
        }
    }
    if let (Some(at), true) = (trust_domain.span(), context.id.namespace() != MESH_NAMESPACE) {
        let message = "the trust domain is the whole mesh's";
        context.error(at, message, format!("write it in the namespace {MESH_NAMESPACE}"));
    }
    if let (Some(at), true) = (services.span(), context.id.namespace() != MESH_NAMESPACE) {
        let message = "rate limit services are the whole mesh's";
        context.error(at, message, format!("write them in the namespace {MESH_NAMESPACE}"));
    }
    let trust_domain = trust_domain.here().and_then(|(text, at)| {
        let value = context.check.trust_domain(text, at)?;
        Some(Set { value, place: context.place(at) })
    });
    let mtls = mtls.here().and_then(|(raw, at)| self::mtls(context, raw, at));
    let defaults = written.get().map_or_else(Traffic::default, |spec| defaults(context, spec));
    Some(Spec::Mesh(MeshPolicy {
        selector: context.selector(selector),
        trust_domain,
        mtls,
        http3: http3.get().copied(),
        upgrades: upgrades.get().map(|_| context.check.upgrades(upgrades)),
        defaults,
        rate_limit_services: rate_limiters(context, services),
    }))
}

fn rate_limiters(context: &Context<'_, '_>, field: &Field<Entries<raw::RateLimitServiceSpec>>) -> Vec<RateLimiter> {
    let Some((entries, span)) = field.here() else { return Vec::new() };
    let max = outrigger_config::limits::MAX_RATE_LIMIT_SERVICES;
    let mut out = Vec::new();
    for (key, raw) in context.check.within(&entries.pairs, max, (Some(span), "rate limit services")) {
        let Some((raw::RateLimitServiceSpec { backend_ref, domain, timeout, on_failure }, _)) = raw.here() else {
            continue;
        };
        let name = context.check.name(&key.text, key.span);
        let who = format!("the rate limit service `{}`", quoted(&key.text));
        let asked = context.check.rate_limit_service((&who, key.span), domain, (timeout, on_failure));
        let lack = format!("{who} has no `backendRef`");
        let fix = "add the Service that answers: `backendRef: { name: …, port: … }`";
        let backend = context.check.required(backend_ref, key.span, (&lack, fix));
        if let Some((to, _)) = backend
            && let Some(at) = to.weight.span().or(to.filters.span())
        {
            context.error(at, "a rate limit service has no weight and no filters", "remove it");
        }
        let backend = backend.and_then(|(to, at)| super::route::backend(context, (to, at)));
        if let Some(backend) = &backend
            && backend.foreign.is_some()
        {
            context.error(key.span, format!("{who} is no Service"), "write `kind: Service`, or leave it out");
        }
        if let (Some(name), Some(backend), Some(asked)) = (name, backend, asked) {
            out.push(RateLimiter { name, backend, asked });
        }
    }
    out
}

fn mtls(context: &Context<'_, '_>, raw: &raw::MtlsSpec, span: Span) -> Option<Mtls> {
    let raw::MtlsSpec { mode, proposed_mode } = raw;
    let model = |mode: raw::MtlsMode| match mode {
        raw::MtlsMode::Permissive => TlsMode::Permissive,
        raw::MtlsMode::Strict => TlsMode::Strict,
    };
    let lack = ("`mtls` has no `mode`", "add `mode: permissive` or `mode: strict`");
    let (value, at) = context.check.required(mode, span, lack)?;
    if let (raw::MtlsMode::Strict, Some(at)) | (raw::MtlsMode::Permissive, Some(at)) =
        (*value, proposed_mode.here().filter(|(proposed, _)| **proposed != raw::MtlsMode::Strict).map(|(_, at)| at))
    {
        context.error(at, "what is rehearsed must be stricter", "write `proposedMode: strict`, or remove it");
    }
    if let (raw::MtlsMode::Strict, Some((raw::MtlsMode::Strict, at))) = (*value, proposed_mode.here()) {
        context.error(at, "the proposed mode is in force already", "remove it");
    }
    let mode = Set { value: model(*value), place: context.place(at) };
    Some(Mtls { mode, proposed: proposed_mode.get().map(|mode| model(*mode)) })
}

pub(in crate::manifest) fn authorization_policy(
    context: &Context<'_, '_>,
    spec: &raw::AuthorizationPolicySpec,
    span: Span,
) -> Option<Spec> {
    let raw::AuthorizationPolicySpec { selector, default, rules } = spec;
    let policy = context.check.authorization((&context.id.name.to_string(), span), default, rules);
    let selector = context.selector(selector);
    Some(Spec::Authorization(AuthorizationPolicy { selector, policy: Arc::new(policy?) }))
}

pub(in crate::manifest) fn jwt_policy(
    context: &Context<'_, '_>,
    spec: &raw::JwtPolicySpec,
    span: Span,
) -> Option<Spec> {
    let raw::JwtPolicySpec { selector, required, providers } = spec;
    let lack = ("this policy has no `providers`", "add who issues tokens: `providers: { NAME: { issuer: …, … } }`");
    let (entries, at) = context.check.required(providers, span, lack)?;
    if entries.pairs.is_empty() {
        context.error(at, lack.0, lack.1);
    }
    let mut out = Vec::new();
    let max = outrigger_config::limits::MAX_JWT_PROVIDERS;
    for (key, raw) in context.check.within(&entries.pairs, max, (Some(at), "providers")) {
        let Some(raw) = raw.get() else { continue };
        named(&context.check, (&key.text, key.span), ("name of a provider", subdomain));
        let name = format!("{}/{}", context.id.name, key.text);
        out.extend(context.check.jwt_provider((&name, key.span), raw).map(Arc::new));
    }
    let required = required.get().copied().unwrap_or(true);
    Some(Spec::Jwt(JwtPolicy { selector: context.selector(selector), required, providers: out }))
}
