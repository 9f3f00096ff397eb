//! HTTP/3, tunnels, and what is handed on without being understood.

use std::collections::{HashMap, HashSet};

use super::Subject;
use crate::limits;
use crate::model::{
    BackendRef, ClusterProtocol, ConnectionOptions, Http3, Intercept, Listener, ListenerProtocol, PortRange,
    ProxyHeader, TcpForwarding, TlsMode, UdpForwarding, Upgrades,
};
use crate::validate;

/// Whether requests are seen on a listener.
pub(super) fn sees_requests(listener: &Listener) -> bool {
    let handed_on = listener.tls.as_ref().is_some_and(|tls| tls.mode == TlsMode::Passthrough);
    !handed_on && !matches!(listener.protocol, ListenerProtocol::Tcp | ListenerProtocol::Udp)
}

pub(super) fn listener(subject: &Subject<'_>, listener: &Listener) {
    let handed_on = listener.tls.as_ref().is_some_and(|tls| tls.mode == TlsMode::Passthrough);
    if let Some(http3) = &listener.http3 {
        self::http3(subject, listener, http3);
    }
    upgrades(subject, &listener.upgrades);
    match (listener.protocol, &listener.tcp) {
        (ListenerProtocol::Auto | ListenerProtocol::Tcp, Some(_)) if handed_on => {
            subject.say("tcp", "this has no effect: TLS is handed on by server name alone", "leave it out");
        }
        (ListenerProtocol::Auto | ListenerProtocol::Tcp, Some(tcp)) => {
            self::tcp(subject, tcp);
            if listener.jwt.is_some() || listener.external_authorization.is_some() {
                let message = "connections that are not HTTP would pass without a token and without the authorizer";
                subject.say("tcp", message, "give these connections a listener of their own");
            }
        }
        (ListenerProtocol::Http1 | ListenerProtocol::Http2 | ListenerProtocol::Udp, Some(_)) => {
            subject.say("tcp", "this has no effect on a listener of this protocol", "leave it out, or make it TCP");
        }
        (ListenerProtocol::Tcp, None) if !handed_on => {
            subject.say("tcp", "this listener does not say where its connections go", "name clusters");
        }
        (_, None) => {}
    }
    match (listener.protocol, &listener.udp) {
        (ListenerProtocol::Udp, Some(udp)) => self::udp(subject, udp),
        (ListenerProtocol::Udp, None) => {
            subject.say("udp", "this listener does not say where its datagrams go", "name clusters");
        }
        (_, Some(_)) => subject.say("udp", "this listener takes no datagrams", "leave it out, or make it UDP"),
        (_, None) => {}
    }
    if listener.protocol == ListenerProtocol::Udp {
        for (field, there) in [
            ("tls", listener.tls.is_some()),
            ("proxy_protocol", listener.proxy_protocol.is_some()),
            ("interception", listener.interception.is_some()),
            ("intercepts", !listener.intercepts.is_empty()),
        ] {
            if there {
                subject.say(field, "this has no effect: there are no connections over UDP", "leave it out");
            }
        }
    }
    if let Some(headers) = &listener.proxy_protocol {
        subject.at_most("proxy_protocol.from", headers.from.len(), limits::MAX_PROXY_SOURCES);
        for (at, range) in headers.from.iter().enumerate() {
            subject.same(&format!("proxy_protocol.from[{at}]"), validate::cidr(&range.to_string()), range);
        }
    }
    subject.at_most("intercepts", listener.intercepts.len(), limits::MAX_INTERCEPTS);
    for (at, intercept) in listener.intercepts.iter().enumerate() {
        self::intercept(subject, &format!("intercepts[{at}]"), intercept);
    }
}

fn http3(subject: &Subject<'_>, listener: &Listener, http3: &Http3) {
    let Http3 { advertise, max_age, early_data: _ } = http3;
    let terminated = listener.tls.as_ref().is_some_and(|tls| matches!(tls.mode, TlsMode::Strict | TlsMode::Permissive));
    if !terminated {
        subject.say(
            "http3",
            "HTTP/3 is always encrypted, and no TLS is terminated here",
            "terminate TLS, or leave it out",
        );
    }
    if !sees_requests(listener) {
        subject.say("http3", "this has no effect: no request is seen on this listener", "leave it out");
    }
    if listener.proxy_protocol.as_ref().is_some_and(|headers| headers.mode == ProxyHeader::Strict) {
        let message = "callers over HTTP/3 have no PROXY header, and here everybody has to have one";
        subject.say("proxy_protocol", message, "leave it out, or HTTP/3");
    }
    if let Some(port) = advertise {
        subject.number("http3.advertise", u64::from(*port), limits::PORT);
    }
    subject.duration_or_zero("http3.max_age", *max_age);
}

fn upgrades(subject: &Subject<'_>, upgrades: &Upgrades) {
    let Upgrades { allow, connect: _, idle_timeout, max_duration, max_tunnels, max_per_caller } = upgrades;
    subject.at_most("upgrades.allow", allow.len(), limits::MAX_UPGRADES);
    let mut seen = HashSet::new();
    for (at, token) in allow.iter().enumerate() {
        let field = format!("upgrades.allow[{at}]");
        subject.same(&field, validate::upgrade(token), token);
        if !seen.insert(token) {
            subject.say(field, format!("the protocol `{token}` comes twice"), "keep one of the two");
        }
    }
    subject.duration_or_zero("upgrades.idle_timeout", *idle_timeout);
    subject.duration_or_zero("upgrades.max_duration", *max_duration);
    subject.number("upgrades.max_tunnels", u64::from(*max_tunnels), limits::TUNNELS);
    subject.number("upgrades.max_per_caller", u64::from(*max_per_caller), limits::CALLER_TUNNELS);
}

fn tcp(subject: &Subject<'_>, tcp: &TcpForwarding) {
    let TcpForwarding { backends, idle_timeout, place: _ } = tcp;
    forwarded(subject, "tcp.backends", backends);
    subject.duration_or_zero("tcp.idle_timeout", *idle_timeout);
}

fn udp(subject: &Subject<'_>, udp: &UdpForwarding) {
    let UdpForwarding { backends, idle_timeout, max_sessions, place: _ } = udp;
    forwarded(subject, "udp.backends", backends);
    for (at, backend) in backends.iter().enumerate() {
        let Some(cluster) = subject.config.clusters.get(&backend.cluster) else { continue };
        if cluster.tls.is_some() || cluster.connection.proxy_protocol.is_some() {
            let message = format!("datagrams are handed on as they are, and `{}` has more to say", backend.cluster);
            let fix = "refer to a cluster without TLS and without the PROXY protocol";
            subject.say(format!("udp.backends[{at}]"), message, fix);
        }
    }
    subject.duration("udp.idle_timeout", *idle_timeout);
    subject.number("udp.max_sessions", u64::from(*max_sessions), limits::SESSIONS);
}

fn forwarded(subject: &Subject<'_>, field: &str, backends: &[BackendRef]) {
    super::routes::weighted(subject, field, backends);
    for (at, backend) in backends.iter().enumerate() {
        let field = format!("{field}[{at}]");
        if !backend.filters.is_empty() {
            subject.say(&field, "filters cannot change what is not read as HTTP", "leave them out");
        }
        let cluster = subject.config.clusters.get(&backend.cluster);
        if cluster.is_some_and(|cluster| cluster.protocol == ClusterProtocol::Http3) {
            let message =
                format!("the cluster `{}` speaks HTTP/3, and bytes are handed on as they are", backend.cluster);
            subject.say(field, message, "refer to a cluster of TCP");
        }
    }
}

fn intercept(subject: &Subject<'_>, field: &str, intercept: &Intercept) {
    let Intercept { addresses, ports, place: _ } = intercept;
    if addresses.is_empty() && ports.is_empty() {
        subject.say(field, "this entry does not say which destinations it means", "give addresses or ports");
    }
    subject.at_most(field, addresses.len(), limits::MAX_INTERCEPT_RANGES);
    subject.at_most(field, ports.len(), limits::MAX_INTERCEPT_RANGES);
    for range in addresses {
        subject.same(field, validate::cidr(&range.to_string()), range);
    }
    for PortRange { first, last } in ports {
        if *first == 0 || last < first {
            subject.say(field, format!("`{first}-{last}` is no range of ports"), "begin at 1 or above, and end later");
        }
    }
}

/// Whether two entries take the same destinations.
pub(super) fn intercepts<'a>(listeners: &'a [Listener], of: impl Fn(&'a Listener) -> Subject<'a>) {
    let mut seen = HashMap::new();
    for listener in listeners {
        for (at, Intercept { addresses, ports, place: _ }) in listener.intercepts.iter().enumerate() {
            let (mut addresses, mut ports) = (addresses.clone(), ports.clone());
            addresses.sort_unstable_by_key(|range| (range.network, range.prefix));
            ports.sort_unstable();
            if let Some(other) = seen.insert((addresses, ports), &listener.name) {
                let message = format!("an entry of the listener `{other}` takes the same destinations");
                of(listener).say(format!("intercepts[{at}]"), message, "keep one of the two");
            }
        }
    }
}

/// What a cluster says that only fits some protocols.
pub(super) fn cluster(subject: &Subject<'_>, protocol: ClusterProtocol, (tls, connection): (bool, &ConnectionOptions)) {
    if protocol == ClusterProtocol::Http3 && !tls {
        subject.say("protocol", "HTTP/3 is always encrypted, and this cluster has no TLS", "add TLS");
    }
    if connection.proxy_protocol.is_some() && protocol != ClusterProtocol::Tcp {
        let message = "connections for requests are shared by callers, and a PROXY header names one";
        subject.say("connection.proxy_protocol", message, "leave it out, or make the cluster one of TCP");
    }
}
