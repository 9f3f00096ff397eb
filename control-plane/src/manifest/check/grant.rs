//! ReferenceGrants and BackendTLSPolicies.

use std::sync::Arc;

use outrigger_config::language::{Field, Span, quoted};
use outrigger_config::model::TlsVersion;

use super::{Context, label, named};
use crate::manifest::object::{BackendTls, ReferenceGrant, Spec};
use crate::manifest::{Kind, limits, raw};

pub(in crate::manifest) fn reference_grant(
    context: &Context<'_, '_>,
    spec: &raw::ReferenceGrantSpec,
    span: Span,
) -> Option<Spec> {
    let raw::ReferenceGrantSpec { from, to } = spec;
    let lack = ("this grant has no `from`", "add who may refer: `from: [{ group: …, kind: HTTPRoute, namespace: … }]`");
    let (list, at) = context.check.required(from, span, lack)?;
    let mut callers = Vec::new();
    for (raw, span) in
        context.check.within(list, limits::MAX_GRANT_ENTRIES, (Some(at), "entries")).iter().filter_map(Field::here)
    {
        let raw::GrantFrom { group, kind, namespace } = raw;
        let lack = ("this entry has no `namespace`", "add the namespace of the routes");
        let namespace = context
            .check
            .required(namespace, span, lack)
            .filter(|(text, at)| named(&context.check, (text, *at), ("namespace", label)));
        context.check.required(group, span, ("this entry has no `group`", "add `group: gateway.networking.k8s.io`"));
        context.check.required(kind, span, ("this entry has no `kind`", "add `kind: HTTPRoute`"));
        context.word(group, &["gateway.networking.k8s.io"]);
        let kind = match context.word(kind, &["HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute"]) {
            Some("GRPCRoute") => Kind::GrpcRoute,
            Some("TCPRoute") => Kind::TcpRoute,
            Some("TLSRoute") => Kind::TlsRoute,
            Some(_) => Kind::HttpRoute,
            None => continue,
        };
        if let Some((namespace, _)) = namespace {
            callers.push((kind, Arc::from(namespace.as_str())));
        }
    }
    let lack = ("this grant has no `to`", "add what may be referred to: `to: [{ group: \"\", kind: Service }]`");
    let (list, at) = context.check.required(to, span, lack)?;
    let mut targets = Vec::new();
    for (raw, span) in
        context.check.within(list, limits::MAX_GRANT_ENTRIES, (Some(at), "entries")).iter().filter_map(Field::here)
    {
        let raw::GrantTo { group, kind, name } = raw;
        context.word(group, &[""]);
        context.check.required(kind, span, ("this entry has no `kind`", "add `kind: Service`"));
        context.word(kind, &["Service"]);
        targets.push(name.get().map(|name| Arc::from(name.as_str())));
    }
    Some(Spec::ReferenceGrant(ReferenceGrant { from: callers, to: targets }))
}

/// The roots of a proxy's system.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";
const TRUST_BUNDLE: &str = "outrigger.dev/trust-bundle";
const MIN_VERSION: &str = "outrigger.dev/min-version";

pub(in crate::manifest) fn backend_tls(
    context: &Context<'_, '_>,
    spec: &raw::BackendTlsSpec,
    span: Span,
) -> Option<Spec> {
    let raw::BackendTlsSpec { target_refs, validation, options } = spec;
    let lack =
        ("this policy has no `targetRefs`", "add a Service: `targetRefs: [{ group: \"\", kind: Service, name: … }]`");
    let (list, at) = context.check.required(target_refs, span, lack)?;
    if list.is_empty() {
        context.error(at, lack.0, lack.1);
    }
    let list = context.check.within(list, limits::MAX_TARGETS, (Some(at), "targets"));
    let targets = list.iter().filter_map(Field::here);
    let targets = targets.filter_map(|(raw, span)| context.service_reference(raw, span)).collect();

    let lack =
        ("this policy has no `validation`", "add `validation: { hostname: …, wellKnownCACertificates: System }`");
    let (raw::BackendTlsValidation { well_known, hostname, subject_alt_names }, at) =
        context.check.required(validation, span, lack)?;
    let lack = ("`validation` has no `hostname`", "add the server name that is sent");
    let hostname = context.check.required(hostname, at, lack).and_then(|(text, at)| context.check.host(text, at));
    let mut subject_names = Vec::new();
    for (raw::SubjectAltName { kind, hostname }, span) in subject_alt_names.entries().iter().filter_map(Field::here) {
        context.check.required(kind, span, ("this name has no `type`", "add `type: Hostname`"));
        context.word(kind, &["Hostname"]);
        let lack = ("this name has no `hostname`", "add the name that the certificate must have");
        if let Some((text, at)) = context.check.required(hostname, span, lack) {
            subject_names.extend(context.check.host(text, at));
        }
    }
    let (mut file, mut min_version) = (None, TlsVersion::V1_2);
    for (key, value) in options.get().map_or(&[][..], |entries| &entries.pairs) {
        let Some((text, at)) = value.here() else { continue };
        match (key.text.as_str(), text.as_str()) {
            (TRUST_BUNDLE, text) => file = context.check.file(text, at),
            (MIN_VERSION, "1.2") => min_version = TlsVersion::V1_2,
            (MIN_VERSION, "1.3") => min_version = TlsVersion::V1_3,
            (MIN_VERSION, _) => context.error(at, "this is no version of TLS", "write \"1.2\" or \"1.3\""),
            (other, _) => {
                let fix = format!("remove it; the options are {TRUST_BUNDLE} and {MIN_VERSION}");
                context.error(key.span, format!("the option `{}` is not supported", quoted(other)), fix);
            }
        }
    }
    let system = well_known.here().is_some();
    if system {
        context.word(well_known, &["System"]);
    }
    let trust_bundle = match (file, system) {
        (Some(_), true) => {
            let fix = format!("keep one of the two: `{TRUST_BUNDLE}` replaces the system's roots");
            context.error(at, "this policy names two sets of roots", fix);
            return None;
        }
        (Some(file), false) => file,
        (None, true) => SYSTEM_ROOTS.into(),
        (None, false) => {
            let fix = format!("add `wellKnownCACertificates: System`, or the option `{TRUST_BUNDLE}`");
            context.error(at, "this policy does not say by which roots the servers are verified", fix);
            return None;
        }
    };
    Some(Spec::BackendTls(BackendTls { targets, hostname: hostname?, subject_names, trust_bundle, min_version }))
}
