//! What is handed on without being understood: TCP, UDP, the PROXY protocol, and redirected connections.

use std::collections::HashMap;
use std::time::Duration;

use http::Method;

use super::access::cidr;
use super::routes::{BackendsOf, backends};
use super::{Check, References, Wrong, good, small};
use crate::limits;
use crate::model::{
    BackendRef, Cidr, Intercept, Interception, InterceptionMode, ListenerProtocol, ListenerTls, Match, PortRange,
    ProxyHeader, ProxyProtocol, ProxyVersion, TcpForwarding, TlsMode, UdpForwarding, Unknown,
};
use crate::raw;
use crate::read::{Field, List};
use crate::source::Span;
use crate::text::quoted;

/// What a listener says of bytes that it does not understand.
pub(super) struct Checked {
    pub(super) tcp: Option<TcpForwarding>,
    pub(super) udp: Option<UdpForwarding>,
    pub(super) proxy_protocol: Option<ProxyProtocol>,
    pub(super) interception: Option<Interception>,
    pub(super) intercepts: Vec<Intercept>,
}

/// `who` is how the listener is called, `kind` what it speaks and its TLS.
pub(super) fn of_listener(
    check: &Check<'_, '_>,
    (raw, span): (&raw::Listener, Span),
    (who, kind): (&str, (ListenerProtocol, Option<&ListenerTls>)),
    references: &References<'_>,
) -> Checked {
    let (protocol, tls) = kind;
    fits(check, raw, (protocol, tls));
    let handed_on = tls.is_some_and(|tls| tls.mode == TlsMode::Passthrough);
    if protocol == ListenerProtocol::Tcp && !handed_on {
        let lack = format!("{who} does not say where its connections go");
        check.required(&raw.tcp, span, (&lack, "add `tcp: { backendRefs: [{ cluster: NAME }] }`"));
    }
    if protocol == ListenerProtocol::Udp {
        let lack = format!("{who} does not say where its datagrams go");
        check.required(&raw.udp, span, (&lack, "add `udp: { backendRefs: [{ cluster: NAME }] }`"));
        only_datagrams(check, raw);
    }
    Checked {
        tcp: tcp(check, &raw.tcp, references),
        udp: udp(check, &raw.udp, references),
        proxy_protocol: headers(check, &raw.proxy_protocol),
        interception: raw.interception.get().map(interception),
        intercepts: intercepts(check, &raw.intercepts),
    }
}

/// Whether `tcp` and `udp` do anything on such a listener.
fn fits(check: &Check<'_, '_>, raw: &raw::Listener, (protocol, tls): (ListenerProtocol, Option<&ListenerTls>)) {
    if raw.protocol.is_bad() {
        return;
    }
    let handed_on = tls.is_some_and(|tls| tls.mode == TlsMode::Passthrough);
    if let Some(at) = raw.tcp.span() {
        match protocol {
            ListenerProtocol::Auto | ListenerProtocol::Tcp if handed_on => {
                let message = "`tcp` has no effect: with `mode: passthrough` connections go by `passthrough` alone";
                check.error(at, message, "remove it, or write an entry with `hostnames: [\"*\"]` in `passthrough`");
            }
            ListenerProtocol::Auto => unguarded(check, raw, at),
            ListenerProtocol::Tcp => {}
            ListenerProtocol::Http1 | ListenerProtocol::Http2 => {
                let message = "`tcp` has no effect: on this listener everything is taken for HTTP";
                check.error(at, message, "remove it, or write `protocol: auto` or `protocol: tcp`");
            }
            ListenerProtocol::Udp => {
                let message = "`tcp` has no effect: with `protocol: udp` there are no connections";
                check.error(at, message, "write it as `udp`, or write `protocol: tcp`");
            }
        }
    }
    if let (Some(at), true) = (raw.udp.span(), protocol != ListenerProtocol::Udp) {
        let message = "`udp` has no effect: this listener takes no datagrams of that kind";
        check.error(at, message, "remove it, or write it on a listener of its own with `protocol: udp`");
    }
}

/// Whoever sends something else than HTTP would pass what looks at requests alone.
fn unguarded(check: &Check<'_, '_>, raw: &raw::Listener, at: Span) {
    let guards = [("jwt", raw.jwt.span()), ("externalAuthorization", raw.external_authorization.span())];
    for (name, own) in guards {
        let Some(own) = own else { continue };
        let message = format!(
            "connections that are not HTTP would go to the backends of `tcp` without being looked at by `{name}`"
        );
        let fix = format!("give these connections a listener of their own, or remove `{name}`");
        check.sink.error_with(at, (own, "it is asked for here"), (message, fix));
    }
}

/// Settings of connections on a listener that has none.
fn only_datagrams(check: &Check<'_, '_>, raw: &raw::Listener) {
    for (name, span, fix) in [
        ("tls", raw.tls.span(), "remove it: datagrams are handed on as they are"),
        ("proxyProtocol", raw.proxy_protocol.span(), "remove it"),
        ("interception", raw.interception.span(), "remove it: only TCP connections are redirected"),
        ("intercepts", raw.intercepts.span(), "remove it: only TCP connections are redirected"),
    ] {
        if let Some(span) = span {
            let message = format!("`{name}` has no effect: with `protocol: udp` there are no connections");
            check.error(span, message, fix);
        }
    }
}

fn tcp(check: &Check<'_, '_>, field: &Field<raw::TcpForwarding>, references: &References<'_>) -> Option<TcpForwarding> {
    let (raw::TcpForwarding { backend_refs, idle_timeout }, span) = field.here()?;
    Some(TcpForwarding {
        backends: forwarded(check, (backend_refs, "tcp", span), references),
        idle_timeout: check.duration_or_zero(idle_timeout, Duration::from_secs(3_600)),
        place: check.place(span),
    })
}

fn udp(check: &Check<'_, '_>, field: &Field<raw::UdpForwarding>, references: &References<'_>) -> Option<UdpForwarding> {
    let (raw::UdpForwarding { backend_refs, idle_timeout, max_sessions }, span) = field.here()?;
    let backends = forwarded(check, (backend_refs, "udp", span), references);
    for (backend, at) in good(backend_refs) {
        let Some((name, group)) = group(references, backend) else { continue };
        if let Some(own) = group.tls.span() {
            let message = format!("datagrams are handed on as they are, and the cluster `{}` has TLS", quoted(name));
            let fix = "refer to a cluster without `tls`".to_owned();
            check.sink.error_with(backend.cluster.span().unwrap_or(at), (own, "its `tls` is here"), (message, fix));
        }
        if let Some(own) = group.connection.get().and_then(|connection| connection.proxy_protocol.span()) {
            let message = format!("datagrams have no PROXY header, and the cluster `{}` asks for one", quoted(name));
            let fix = "refer to a cluster without `proxyProtocol`".to_owned();
            check.sink.error_with(backend.cluster.span().unwrap_or(at), (own, "it is asked for here"), (message, fix));
        }
    }
    Some(UdpForwarding {
        backends,
        idle_timeout: check.duration(idle_timeout, Duration::from_secs(60)),
        max_sessions: small(check.number(max_sessions, 16_384, limits::SESSIONS)),
        place: check.place(span),
    })
}

/// Backends that bytes are handed on to.
fn forwarded(
    check: &Check<'_, '_>,
    (field, name, span): (&Field<List<raw::BackendRef>>, &str, Span),
    references: &References<'_>,
) -> Vec<BackendRef> {
    let lack = format!("`{name}` leads nowhere: it has no backends");
    let fix = "add `backendRefs: [{ cluster: NAME }]`";
    check.required_list(field, (span, (&lack, fix)), ("backendRefs", limits::MAX_BACKENDS));
    unfiltered(check, field, "filters cannot change what is not read as HTTP");
    not_quic(check, field, references);
    backends(check, &references.clusters, (field, BackendsOf::Bytes))
}

/// Refuses filters of backends that bytes are handed on to.
pub(super) fn unfiltered(check: &Check<'_, '_>, field: &Field<List<raw::BackendRef>>, message: &str) {
    for (backend, _) in good(field) {
        if let Some(filters) = backend.filters.span() {
            check.error(filters, message, "remove them: bytes are handed on as they are");
        }
    }
}

/// Refuses clusters of HTTP/3, which has no connection that bytes could be handed on over.
fn not_quic(check: &Check<'_, '_>, field: &Field<List<raw::BackendRef>>, references: &References<'_>) {
    for (backend, at) in good(field) {
        let Some((name, group)) = group(references, backend) else { continue };
        if let (Some(raw::ClusterProtocol::Http3), Some(own)) = (group.protocol.get(), group.protocol.span()) {
            let message = format!("the cluster `{}` speaks HTTP/3, and bytes are handed on as they are", quoted(name));
            let fix = "refer to a cluster with `protocol: tcp`".to_owned();
            let span = backend.cluster.span().unwrap_or(at);
            check.sink.error_with(span, (own, "its protocol is here"), (message, fix));
        }
    }
}

fn group<'r>(references: &References<'r>, backend: &'r raw::BackendRef) -> Option<(&'r str, &'r raw::Cluster)> {
    let name = backend.cluster.get()?.as_str();
    Some((name, references.groups.get(name)?))
}

/// Refuses clusters of TCP as backends of a rule, and as mirrors: no request can be sent there. What only matches CONNECT
/// may lead there, because of a tunnel only its bytes arrive.
pub(super) fn takes_requests(
    check: &Check<'_, '_>,
    (rule, matches): (&raw::Rule, &[Match]),
    references: &References<'_>,
) {
    let tunnels = !matches.is_empty() && matches.iter().all(|one| one.method.as_ref() == Some(&Method::CONNECT));
    let backends = good(&rule.backend_refs).filter(|_| !tunnels).filter_map(|(backend, _)| backend.cluster.here());
    let mirrors = good(&rule.filters).filter_map(|(filter, _)| match filter {
        raw::Filter::Mirror(mirror) => mirror.get()?.cluster.here(),
        _ => None,
    });
    for (name, at) in backends.chain(mirrors) {
        let Some(group) = references.groups.get(name.as_str()) else { continue };
        if let (Some(raw::ClusterProtocol::Tcp), Some(own)) = (group.protocol.get(), group.protocol.span()) {
            let message = format!("the cluster `{}` takes bytes as they are, and no requests", quoted(name));
            let fix =
                "refer to a cluster with `protocol: http1`, `http2`, `http3` or `auto`, or to this one from `tcp` \
                       of a listener"
                    .to_owned();
            check.sink.error_with(at, (own, "its protocol is here"), (message, fix));
        }
    }
}

/// Whose headers of the PROXY protocol are believed.
fn headers(check: &Check<'_, '_>, field: &Field<raw::ProxyProtocol>) -> Option<ProxyProtocol> {
    let (raw, span) = field.here()?;
    let of = |mode: &raw::ProxyHeader| match mode {
        raw::ProxyHeader::Strict => ProxyHeader::Strict,
        raw::ProxyHeader::Optional => ProxyHeader::Optional,
    };
    match raw {
        raw::ProxyProtocol::Text(mode) => Some(ProxyProtocol { mode: of(mode), from: Vec::new() }),
        raw::ProxyProtocol::Map(raw::ProxyProtocolSettings { mode, from }) => {
            let lack = ("`proxyProtocol` does not say whether there must be a header", "add `mode: strict`");
            let mode = check.required(mode, span, lack);
            let ranges = check.filled(from, "from", limits::MAX_PROXY_SOURCES);
            let from = check.each(ranges, cidr);
            mode.map(|(mode, _)| ProxyProtocol { mode: of(mode), from })
        }
    }
}

pub(super) fn interception(raw: &raw::Interception) -> Interception {
    let raw::Interception { mode, unknown } = raw;
    Interception {
        mode: match mode.get() {
            None | Some(raw::InterceptionMode::Redirect) => InterceptionMode::Redirect,
            Some(raw::InterceptionMode::Tproxy) => InterceptionMode::Tproxy,
        },
        unknown: match unknown.get() {
            None | Some(raw::Unknown::Serve) => Unknown::Serve,
            Some(raw::Unknown::PassThrough) => Unknown::PassThrough,
            Some(raw::Unknown::Refuse) => Unknown::Refuse,
        },
    }
}

fn intercepts(check: &Check<'_, '_>, field: &Field<List<raw::Intercept>>) -> Vec<Intercept> {
    let list = check.filled(field, "intercepts", limits::MAX_INTERCEPTS);
    let mut out = Vec::with_capacity(list.len());
    for (raw::Intercept { addresses, ports }, span) in list.iter().filter_map(Field::here) {
        if addresses.is_absent() && ports.is_absent() {
            let fix =
                "add `addresses: [10.0.0.0/8]` or `ports: [5432]`; write `addresses: [0.0.0.0/0, \"::/0\"]` for all";
            check.error(span, "this entry does not say which destinations it means", fix);
        }
        let ranges = check.filled(addresses, "addresses", limits::MAX_INTERCEPT_RANGES);
        let numbers = check.filled(ports, "ports", limits::MAX_INTERCEPT_RANGES).iter().filter_map(Field::here);
        out.push(Intercept {
            addresses: check.each(ranges, cidr),
            ports: numbers.filter_map(|(raw::PortText(text), at)| check.parsed(port_range(text), at)).collect(),
            place: check.place(span),
        });
    }
    out
}

/// A port, or a range of them.
fn port_range(text: &str) -> Result<PortRange, Wrong> {
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse::<u16>().ok()).flatten().filter(|port| *port > 0)
    };
    let range = match text.split_once('-') {
        Some((first, last)) => number(first).zip(number(last)),
        None => number(text).map(|port| (port, port)),
    };
    let Some((first, last)) = range else {
        let fix = "write a number from 1 to 65535, or two with a `-` between them: `8000-8999`";
        return Err(Wrong::new(format!("`{}` is not a port", quoted(text)), fix));
    };
    if first > last {
        let fix = format!("write `{last}-{first}`");
        return Err(Wrong::new(format!("`{}` ends before it begins", quoted(text)), fix));
    }
    Ok(PortRange { first, last })
}

/// Entries of `intercepts` of all listeners, by what they take.
#[derive(Default)]
pub(super) struct Taken {
    seen: HashMap<(Vec<Cidr>, Vec<PortRange>), Span>,
    intercepting: bool,
    first: Option<Span>,
}

impl Taken {
    /// Notes the entries of a listener, and reports those that are there already.
    pub(super) fn note(&mut self, check: &Check<'_, '_>, raw: &raw::Listener, intercepts: &[Intercept]) {
        self.intercepting |= !raw.interception.is_absent();
        self.first = self.first.or(raw.intercepts.span());
        for ((_, at), entry) in good(&raw.intercepts).zip(intercepts) {
            let (mut addresses, mut ports) = (entry.addresses.clone(), entry.ports.clone());
            addresses.sort_unstable_by_key(|range| (range.network, range.prefix));
            ports.sort_unstable();
            // What could not be read would be taken for everything.
            if addresses.is_empty() && ports.is_empty() {
                continue;
            }
            if let Some(first) = self.seen.get(&(addresses.clone(), ports.clone())) {
                let message = "another entry takes the same destinations".to_owned();
                let fix = "remove one: the first one takes them".to_owned();
                check.sink.error_with(at, (*first, "the other one is here"), (message, fix));
                continue;
            }
            self.seen.insert((addresses, ports), at);
        }
    }

    /// Warns where nothing is caught.
    pub(super) fn finish(&self, check: &Check<'_, '_>) {
        if let (Some(at), false, false) = (self.first, self.intercepting, check.sink.has_errors()) {
            let message = "`intercepts` has no effect: no listener catches redirected connections";
            check.warning(at, message, "add `interception: {}` to the listener that connections are redirected to");
        }
    }
}

/// What a cluster says of the PROXY protocol. Connections for requests are shared by callers, so a header on them would
/// name the wrong one.
pub(super) fn of_cluster(
    check: &Check<'_, '_>,
    field: &Field<raw::ProxyVersion>,
    protocol: &Field<raw::ClusterProtocol>,
) -> Option<ProxyVersion> {
    let (version, at) = field.here()?;
    if !protocol.is_bad() && !matches!(protocol.get(), Some(raw::ClusterProtocol::Tcp)) {
        let message = "connections for requests are shared by callers, and a PROXY header names one";
        check.error(at, message, "write `protocol: tcp` on the cluster, or remove it: requests say it in `forwarded`");
    }
    Some(match version {
        raw::ProxyVersion::V1 => ProxyVersion::V1,
        raw::ProxyVersion::V2 => ProxyVersion::V2,
    })
}
