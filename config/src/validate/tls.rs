//! TLS on listeners and to clusters.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::identity::identity_pattern;
use super::routes::{BackendsOf, backends};
use super::{Check, References, Wrong, names, opaque, small};
use crate::limits;
use crate::model::{
    CertificateFiles, ClientCertHeader, ClientCertificate, ClientTrust, ClusterTls, ClusterTlsMode, HostPattern,
    ListenerTls, Passthrough, TlsMode, TlsVersion,
};
use crate::raw;
use crate::read::{Field, List};
use crate::source::Span;
use crate::text::quoted;

/// TLS of a listener. `None` is plaintext.
pub(super) fn of_listener(
    check: &Check<'_, '_>,
    field: &Field<raw::ListenerTls>,
    references: &References<'_>,
) -> Option<ListenerTls> {
    let (raw, span) = field.here()?;
    let raw::ListenerTls {
        mode,
        proposed_mode,
        certificates,
        client_certificate,
        client_trust_bundle,
        min_version,
        handshake_timeout,
        max_handshakes,
        passthrough,
    } = raw;
    let lack = ("`tls` has no `mode`", "add `mode: strict`, or `mode: permissive` to take plaintext as well");
    let (mode, at) = match check.required(mode, span, lack) {
        Some((mode, at)) => (*mode, at),
        None if mode.is_bad() => return None,
        None => (raw::TlsMode::Strict, span),
    };
    let mode = match mode {
        raw::TlsMode::Strict => TlsMode::Strict,
        raw::TlsMode::Permissive => TlsMode::Permissive,
        raw::TlsMode::Passthrough => TlsMode::Passthrough,
        raw::TlsMode::Off => {
            let others = [
                proposed_mode.span(),
                certificates.span(),
                client_certificate.span(),
                client_trust_bundle.span(),
                min_version.span(),
                handshake_timeout.span(),
                max_handshakes.span(),
                passthrough.span(),
            ];
            for other in others.into_iter().flatten() {
                let message = "this has no effect: with `mode: off` the listener takes plaintext only".to_owned();
                let fix = "remove it, or write `mode: strict` or `mode: permissive`".to_owned();
                check.sink.error_with(other, (at, "the mode is set here"), (message, fix));
            }
            return None;
        }
    };
    if mode == TlsMode::Passthrough {
        let others = [
            proposed_mode.span(),
            certificates.span(),
            client_certificate.span(),
            client_trust_bundle.span(),
            min_version.span(),
        ];
        for other in others.into_iter().flatten() {
            let message = "this has no effect: with `mode: passthrough` nothing is decrypted here".to_owned();
            let fix = "remove it, or write `mode: strict`, which takes `passthrough` entries as well".to_owned();
            check.sink.error_with(other, (at, "the mode is set here"), (message, fix));
        }
        if passthrough.is_absent() {
            let fix = "add `passthrough: [{ hostnames: [db.example.com], backendRefs: [{ cluster: NAME }] }]`";
            check.error(at, "`mode: passthrough` without entries in `passthrough` takes no connection", fix);
        }
    }
    let passthrough = handed_on(check, passthrough, references);
    let (handshake_timeout, max_handshakes) = (
        check.duration(handshake_timeout, Duration::from_secs(10)),
        small(check.number(max_handshakes, 1_024, limits::HANDSHAKES)),
    );
    let own = own_certificates(check, certificates);
    let (client_certificate, client_trust) = if mode == TlsMode::Passthrough {
        (ClientCertificate::None, ClientTrust::Mesh)
    } else {
        if certificates.is_absent() {
            let what = format!("`mode: {}` without `certificates` shows the mesh identity", shown(mode));
            check.needs_identity(at, &what, ", or `certificates: [{ certificate: …, privateKey: … }]`");
        }
        clients(check, (client_certificate, client_trust_bundle), certificates)
    };
    Some(ListenerTls {
        mode,
        proposed_mode: proposed(check, proposed_mode, (mode, at)),
        certificates: own,
        client_certificate,
        client_trust,
        min_version: version(min_version),
        handshake_timeout,
        max_handshakes,
        passthrough,
        place: check.place(span),
    })
}

fn shown(mode: TlsMode) -> &'static str {
    match mode {
        TlsMode::Off => "off",
        TlsMode::Permissive => "permissive",
        TlsMode::Strict => "strict",
        TlsMode::Passthrough => "passthrough",
    }
}

/// Only from permissive to strict is there something to rehearse.
fn proposed(check: &Check<'_, '_>, field: &Field<raw::TlsMode>, (mode, at): (TlsMode, Span)) -> Option<TlsMode> {
    let (proposed, span) = field.here()?;
    match (mode, proposed) {
        // Reported as a setting that has no effect.
        (TlsMode::Off | TlsMode::Passthrough, _) => None,
        (TlsMode::Permissive, raw::TlsMode::Strict) => Some(TlsMode::Strict),
        (TlsMode::Permissive | TlsMode::Strict, _) => {
            let message = format!("the proposed mode is not stricter than `mode: {}`", shown(mode));
            let fix = match mode {
                TlsMode::Permissive => "write `proposedMode: strict`, or remove it",
                _ => "remove it: there is no stricter mode",
            };
            check.sink.error_with(span, (at, "the mode is set here"), (message, fix.to_owned()));
            None
        }
    }
}

fn own_certificates(check: &Check<'_, '_>, field: &Field<List<raw::CertificateFiles>>) -> Vec<CertificateFiles> {
    let list = check.filled(field, "certificates", limits::MAX_CERTIFICATES);
    let mut seen: HashMap<std::path::PathBuf, Span> = HashMap::new();
    let mut out = Vec::with_capacity(list.len());
    for (raw::CertificateFiles { certificate, private_key }, span) in list.iter().filter_map(Field::here) {
        let Some(files) = check.certificate((certificate, private_key), ("this certificate", span)) else { continue };
        let at = certificate.span().unwrap_or(span);
        if let Some(first) = seen.get(&files.certificate) {
            let text = ("this certificate comes twice".to_owned(), "remove one of the two".to_owned());
            check.sink.error_with(at, (*first, "the first one is here"), text);
            continue;
        }
        seen.insert(files.certificate.clone(), at);
        out.push(files);
    }
    out
}

/// Whether callers show certificates, and whose are believed.
fn clients(
    check: &Check<'_, '_>,
    (field, bundle): (&Field<raw::ClientCertificate>, &Field<String>),
    certificates: &Field<List<raw::CertificateFiles>>,
) -> (ClientCertificate, ClientTrust) {
    let asked = match field.get() {
        Some(raw::ClientCertificate::Required) => ClientCertificate::Required,
        Some(raw::ClientCertificate::Optional) => ClientCertificate::Optional,
        Some(raw::ClientCertificate::None) => ClientCertificate::None,
        None if certificates.is_absent() => ClientCertificate::Required,
        None => ClientCertificate::None,
    };
    let roots = check.optional_file(bundle);
    match (asked, bundle.span()) {
        // What could not be read may have asked for certificates.
        (ClientCertificate::None, Some(at)) if !field.is_bad() => {
            let fix = "add `clientCertificate: required`, or remove `clientTrustBundle`";
            check.error(at, "`clientTrustBundle` has no effect: callers are not asked for a certificate", fix);
        }
        (ClientCertificate::Required | ClientCertificate::Optional, None) => {
            // Without certificates of its own the listener needs the identity anyway, and that has been reported.
            if let (false, Some(at)) = (certificates.is_absent(), field.span()) {
                let what =
                    "without `clientTrustBundle`, client certificates are verified by the mesh identity's bundles";
                check.needs_identity(at, what, ", or `clientTrustBundle: …`");
            }
        }
        (_, _) => {}
    }
    (asked, roots.map_or(ClientTrust::Mesh, ClientTrust::Roots))
}

fn version(field: &Field<raw::TlsVersion>) -> TlsVersion {
    match field.get() {
        None | Some(raw::TlsVersion::V1_3) => TlsVersion::V1_3,
        Some(raw::TlsVersion::V1_2) => TlsVersion::V1_2,
    }
}

fn handed_on(
    check: &Check<'_, '_>,
    field: &Field<List<raw::Passthrough>>,
    references: &References<'_>,
) -> Vec<Passthrough> {
    let list = check.filled(field, "passthrough", limits::MAX_PASSTHROUGH);
    let mut seen: HashMap<HostPattern, Span> = HashMap::new();
    let mut out = Vec::with_capacity(list.len());
    for (raw::Passthrough { hostnames, backend_refs }, span) in list.iter().filter_map(Field::here) {
        let lack = ("this entry has no `hostnames`", "add the server names: `hostnames: [db.example.com]`");
        let mut patterns = Vec::new();
        let entries = check.required_list(hostnames, (span, lack), ("hostnames", limits::MAX_HOSTNAMES));
        for (text, at) in entries.iter().filter_map(Field::here) {
            let Some(pattern) = check.parsed(server_pattern(text), at) else { continue };
            if let Some(first) = seen.get(&pattern) {
                let message = format!("the server name `{}` comes twice on this listener", quoted(text));
                let text = (message, "keep one: a connection goes to one of them only".to_owned());
                check.sink.error_with(at, (*first, "the first one is here"), text);
                continue;
            }
            seen.insert(pattern.clone(), at);
            patterns.push(pattern);
        }
        let lack = ("this entry leads nowhere: it has no backends", "add `backendRefs: [{ cluster: NAME }]`");
        check.required_list(backend_refs, (span, lack), ("backendRefs", limits::MAX_BACKENDS));
        opaque::unfiltered(check, backend_refs, "filters cannot change what is not decrypted");
        for (backend, at) in super::good(backend_refs) {
            let tls = backend.cluster.get().and_then(|name| references.groups.get(name.as_str()));
            if let Some(own) = tls.filter(|cluster| !hands_on_inside(cluster)).and_then(|cluster| cluster.tls.span()) {
                let name = backend.cluster.get().map(String::as_str).unwrap_or_default();
                let message =
                    format!("the cluster `{}` speaks TLS itself, so TLS would be wrapped in TLS", quoted(name));
                let fix =
                    "refer to a cluster without `tls`; between proxies, to one with `protocol: tcp` and mutual TLS"
                        .to_owned();
                let span = backend.cluster.span().unwrap_or(at);
                check.sink.error_with(span, (own, "its `tls` is here"), (message, fix));
            }
        }
        let backends = backends(check, &references.clusters, (backend_refs, BackendsOf::Passthrough));
        out.push(Passthrough { hostnames: patterns, backends, place: check.place(span) });
    }
    out
}

/// Whether TLS of others may go inside that of a cluster: to a proxy of the mesh, which takes bytes as they are.
fn hands_on_inside(cluster: &raw::Cluster) -> bool {
    let mutual = |tls: &raw::ClusterTls| match tls.mode.get() {
        Some(mode) => *mode == raw::ClusterTlsMode::Mutual,
        None => !tls.mode.is_bad() && !tls.peer_identities.is_absent(),
    };
    matches!(cluster.protocol.get(), Some(raw::ClusterProtocol::Tcp)) && cluster.tls.get().is_some_and(mutual)
}

/// A server name as in a ClientHello: never an address (RFC 6066 section 3).
pub(crate) fn server_pattern(text: &str) -> Result<HostPattern, Wrong> {
    let pattern = names::host_pattern(text)?;
    match &pattern {
        HostPattern::Exact(host) | HostPattern::Wildcard(host) if is_address(host) => Err(Wrong::new(
            format!("`{}` is an address, which no client sends as server name", quoted(text)),
            "write a name, or `*` for connections without one",
        )),
        _ => Ok(pattern),
    }
}

fn is_address(host: &str) -> bool {
    host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
}

/// What is done with `x-forwarded-client-cert`.
pub(super) fn client_cert_header(
    check: &Check<'_, '_>,
    field: &Field<raw::ClientCertHeader>,
    tls: (&Field<raw::ListenerTls>, Option<&ListenerTls>),
) -> ClientCertHeader {
    let Some((header, span)) = field.here() else { return ClientCertHeader::Sanitize };
    let (raw, checked) = tls;
    // What could not be read may have asked for certificates.
    let unread = raw.is_bad() || raw.get().is_some_and(|tls| tls.mode.is_bad() || tls.client_certificate.is_bad());
    let verifies = checked.is_some_and(|tls| tls.client_certificate != ClientCertificate::None) || unread;
    let add = "add `tls` with `clientCertificate: required`, or write `clientCertHeader: sanitize`";
    match header {
        raw::ClientCertHeader::Sanitize => ClientCertHeader::Sanitize,
        raw::ClientCertHeader::Forward | raw::ClientCertHeader::Append if !verifies => {
            let message = "callers could write this header themselves: the listener never verifies their certificates";
            check.error(span, message, add);
            ClientCertHeader::Sanitize
        }
        raw::ClientCertHeader::Forward => ClientCertHeader::Forward,
        raw::ClientCertHeader::Append => ClientCertHeader::Append,
        raw::ClientCertHeader::Set => {
            if !verifies {
                let message = "the header is never set: the listener never verifies certificates of callers";
                check.warning(span, message, add);
            }
            ClientCertHeader::Set
        }
    }
}

/// TLS to a cluster.
pub(super) fn of_cluster(check: &Check<'_, '_>, field: &Field<raw::ClusterTls>) -> Option<ClusterTls> {
    let (raw, span) = field.here()?;
    let raw::ClusterTls {
        mode,
        peer_identities,
        sni,
        min_version,
        trust_bundle,
        subject_names,
        certificate,
        private_key,
    } = raw;
    let (sni, min_version) =
        (sni.here().and_then(|(text, at)| check.parsed(server_name(text), at)), version(min_version));
    let wanted = match mode.get() {
        Some(mode) => *mode,
        None if mode.is_bad() => return None,
        None if !peer_identities.is_absent() => raw::ClusterTlsMode::Mutual,
        None => {
            let fix = "add `peerIdentities: [\"spiffe://…\"]` for workloads of the mesh, or `mode: simple` with \
                       `trustBundle: …` for other servers";
            check.error(span, "this `tls` does not say who is expected", fix);
            return None;
        }
    };
    let mode = match wanted {
        raw::ClusterTlsMode::Mutual => {
            let others = [
                ("trustBundle", trust_bundle.span()),
                ("subjectNames", subject_names.span()),
                ("certificate", certificate.span()),
                ("privateKey", private_key.span()),
            ];
            only(check, others, "mutual", "the mesh identity and its bundles are used");
            check.needs_identity(
                mode.span().unwrap_or(span),
                "mutual TLS shows the mesh identity",
                ", or write `mode: simple`",
            );
            let lack = (
                "mutual TLS without `peerIdentities`: any workload on a reused address would be believed",
                "add who is expected: `peerIdentities: [\"spiffe://mesh.local/ns/shop/sa/payments\"]`",
            );
            let at = mode.span().unwrap_or(span);
            let list = check.required_list(peer_identities, (at, lack), ("peerIdentities", limits::MAX_PEER_NAMES));
            let peer_identities = check.each(list, identity_pattern);
            ClusterTlsMode::Mutual { peer_identities }
        }
        raw::ClusterTlsMode::Simple => {
            only(check, [("peerIdentities", peer_identities.span())], "simple", "the server is known by its name");
            let lack = (
                "`mode: simple` without `trustBundle`: nobody vouches for the server",
                "add the file with the roots that issued its certificate: `trustBundle: …`",
            );
            let bundle = check.file(trust_bundle, mode.span().unwrap_or(span), lack);
            let names = check.filled(subject_names, "subjectNames", limits::MAX_PEER_NAMES);
            let subject_names = check.each(names, subject_name);
            let shown = match (certificate.span(), private_key.span()) {
                (None, None) => None,
                (at, other) => {
                    let at = at.or(other).unwrap_or(span);
                    check.certificate((certificate, private_key), ("the certificate that is shown to the server", at))
                }
            };
            ClusterTlsMode::Simple { trust_bundle: bundle?, subject_names, certificate: shown }
        }
    };
    Some(ClusterTls { mode, sni, min_version, place: check.place(span) })
}

/// Reports fields that belong to the other mode.
fn only<const N: usize>(check: &Check<'_, '_>, others: [(&str, Option<Span>); N], mode: &str, why: &str) {
    for (name, span) in others {
        if let Some(span) = span {
            let other = if mode == "mutual" { "simple" } else { "mutual" };
            let message = format!("`{name}` has no effect with `mode: {mode}`: {why}");
            check.error(span, message, format!("remove it, or write `mode: {other}`"));
        }
    }
}

/// A name that is sent in a ClientHello.
pub(crate) fn server_name(text: &str) -> Result<Arc<str>, Wrong> {
    let name = names::host(text)?;
    if is_address(&name) {
        let fix = "write a name, or leave `sni` out: no server name is sent then";
        return Err(Wrong::new(format!("`{}` is an address, which is never sent as server name", quoted(text)), fix));
    }
    Ok(name)
}

/// A name or address that a certificate must have.
pub(crate) fn subject_name(text: &str) -> Result<Arc<str>, Wrong> {
    if text.contains('*') {
        let fix = "write a name that the server is called by; a wildcard in its certificate covers it";
        return Err(Wrong::new(format!("`{}` has a `*`, and this is one name", quoted(text)), fix));
    }
    let name = names::host(text)?;
    // Certificates have addresses without brackets.
    Ok(if is_address(&name) { name.trim_start_matches('[').trim_end_matches(']').into() } else { name })
}
