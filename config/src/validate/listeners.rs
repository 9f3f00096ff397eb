//! Listeners, and whether two of them want the same socket.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::binds::Binds;
use super::{Check, Names, References, guards, http3, names, opaque, overload, small, tls, tokens, tunnels};
use crate::limits;
use crate::model::{
    ClientCertHeader, Direction, EscapedSlashes, Listener, ListenerLimits, ListenerProtocol, PathOptions, TlsMode,
    Trust,
};
use crate::raw;
use crate::read::{Field, List};
use crate::source::Span;
use crate::text::quoted;

/// `around`: where the configuration is, what can be referred to, and the admin server's address.
pub(super) fn listeners(
    check: &Check<'_, '_>,
    field: &Field<List<raw::Listener>>,
    around: (Span, &References<'_>, Option<(SocketAddr, Option<Span>)>),
) -> Vec<Listener> {
    let (span, references, admin) = around;
    let fix = "add `listeners: [{ name: inbound, bind: 0.0.0.0:15006, routes: inbound }]`";
    if field.is_absent() && !check.partial {
        check.error(span, "the configuration has no listeners", fix);
    }
    if let (Some([]), Some(span)) = (field.get().map(Vec::as_slice), field.span()) {
        check.error(span, "the configuration has no listeners", fix);
    }

    let mut seen: HashMap<&str, Span> = HashMap::new();
    // A port of TCP and the same port of UDP have nothing to do with each other.
    let (mut binds, mut datagrams) = (Binds::default(), Binds::default());
    let mut intercepted = opaque::Taken::default();
    if let Some((address, span)) = admin {
        take(check, &mut binds, (address, span), "the admin server");
    }
    let entries = check.within(field.entries(), limits::MAX_LISTENERS, (field.span(), "listeners"));
    let mut out = Vec::with_capacity(entries.len());
    for (raw, span) in entries.iter().filter_map(Field::here) {
        if let Some((name, at)) = raw.name.here() {
            if let Some(first) = seen.get(name.as_str()) {
                let text =
                    (format!("a second listener is named `{}`", quoted(name)), "give it another name".to_owned());
                check.sink.error_with(at, (*first, "the first one is here"), text);
            } else {
                seen.insert(name, at);
            }
        }
        let listener = listener(check, (raw, span), references);
        if let (Some(bind), Some(at)) = (listener.1, raw.bind.span()) {
            let by = format!("the listener `{}`", quoted(&listener.0.name));
            if listener.0.protocol != ListenerProtocol::Udp {
                take(check, &mut binds, (bind, Some(at)), &by);
            }
            if listener.0.protocol == ListenerProtocol::Udp || listener.0.http3.is_some() {
                take(check, &mut datagrams, (bind, Some(at)), &format!("{by}, over UDP,"));
            }
        }
        intercepted.note(check, raw, &listener.0.intercepts);
        out.push(listener.0);
    }
    intercepted.finish(check);
    out
}

fn listener(
    check: &Check<'_, '_>,
    (raw, span): (&raw::Listener, Span),
    references: &References<'_>,
) -> (Listener, Option<SocketAddr>) {
    let raw::Listener {
        name,
        bind,
        routes,
        protocol,
        direction,
        trust,
        path,
        max_connections,
        max_head_bytes,
        max_headers,
        max_concurrent_streams,
        timeouts,
        max_connection_age,
        tls,
        client_cert_header,
        authorization,
        jwt,
        external_authorization,
        rate_limits,
        http3: _,
        upgrades,
        tcp: _,
        udp: _,
        proxy_protocol: _,
        interception: _,
        intercepts: _,
    } = raw;

    let lack = ("this listener has no `name`", "add a name, such as `name: inbound`");
    let name = check.required(name, span, lack).map_or_else(|| Arc::from(""), |(name, at)| check.name(name, at));
    let who = if name.is_empty() { "this listener".to_owned() } else { format!("the listener `{}`", quoted(&name)) };
    let lack = format!("{who} has no `bind`");
    let address = check
        .required(bind, span, (&lack, "add where it listens, such as `bind: 127.0.0.1:15001`"))
        .and_then(|(text, at)| check.parsed(names::bind(text), at));
    let checked = tls::of_listener(check, tls, references);
    // What could not be read may have been the mode or the protocol that needs no routes.
    let readable = !tls.is_bad() && tls.get().is_none_or(|tls| !tls.mode.is_bad());
    let spoken = self::protocol(protocol);
    let handed_on = checked.as_ref().is_some_and(|tls| tls.mode == TlsMode::Passthrough);
    let opaque = matches!(spoken, ListenerProtocol::Tcp | ListenerProtocol::Udp);
    if handed_on || opaque {
        guards::no_requests(check, raw, spoken);
    } else if readable && !protocol.is_bad() {
        let lack = format!("{who} has no `routes`");
        check.required(routes, span, (&lack, "add the name of a route table: `routes: NAME`"));
    }
    let refer = |field: &Field<String>, names: &Names<'_>| {
        let (name, at) = field.here()?;
        names.refer(check, name, at);
        Some(Arc::from(name.as_str()))
    };
    let routes = refer(routes, &references.tables);

    let direction = match direction.get() {
        Some(raw::Direction::Inbound) => Direction::Inbound,
        Some(raw::Direction::Outbound) => Direction::Outbound,
        None if name.starts_with("outbound") => Direction::Outbound,
        None => Direction::Inbound,
    };
    let trust = match (trust.get(), direction) {
        (Some(raw::Trust::None), _) | (None, Direction::Inbound) => Trust::None,
        (Some(raw::Trust::Local), _) | (None, Direction::Outbound) => Trust::Local,
        (Some(raw::Trust::Hops(hops)), _) => Trust::Hops(small(check.number(hops, 1, limits::HOPS))),
    };
    let empty = raw::ListenerTimeouts::default();
    let raw::ListenerTimeouts { header, idle, stream_idle, detect } = timeouts.get().unwrap_or(&empty);

    let bytes = opaque::of_listener(check, (raw, span), (&who, (spoken, checked.as_ref())), references);
    let http3 = http3::of_listener(check, raw, spoken, (checked.as_ref(), readable));
    let listener = Listener {
        name,
        bind: address.unwrap_or(PLACEHOLDER),
        protocol: spoken,
        routes,
        direction,
        trust,
        path: path_options(check, path),
        limits: ListenerLimits {
            max_connections: small(check.number(max_connections, 16_384, limits::CONNECTIONS)),
            max_head_bytes: small(check.size(max_head_bytes, 64 * 1024, limits::HEAD_BYTES)),
            max_headers: small(check.number(max_headers, 100, limits::HEADERS)),
            max_concurrent_streams: small(check.number(max_concurrent_streams, 1_024, limits::STREAMS)),
            header_timeout: check.duration(header, Duration::from_secs(10)),
            idle_timeout: check.duration(idle, Duration::from_secs(3_600)),
            stream_idle_timeout: check.duration_or_zero(stream_idle, Duration::from_secs(300)),
            max_connection_age: check.duration_or_zero(max_connection_age, Duration::from_secs(3_600)),
            detect_timeout: check.duration(detect, Duration::from_secs(1)),
        },
        client_cert_header: if handed_on || opaque {
            ClientCertHeader::Sanitize
        } else {
            tls::client_cert_header(check, client_cert_header, (tls, checked.as_ref()))
        },
        tls: checked,
        authorization: refer(authorization, &references.policies),
        jwt: tokens::of_listener(check, jwt, &references.providers),
        external_authorization: refer(external_authorization, &references.authorizers),
        rate_limits: overload::rate_limits(check, rate_limits),
        http3,
        upgrades: tunnels::upgrades(check, upgrades),
        tcp: bytes.tcp,
        udp: bytes.udp,
        proxy_protocol: bytes.proxy_protocol,
        interception: bytes.interception,
        intercepts: bytes.intercepts,
        place: check.place(span),
    };
    (listener, address)
}

fn protocol(field: &Field<raw::ListenerProtocol>) -> ListenerProtocol {
    match field.get() {
        None | Some(raw::ListenerProtocol::Auto) => ListenerProtocol::Auto,
        Some(raw::ListenerProtocol::Http1) => ListenerProtocol::Http1,
        Some(raw::ListenerProtocol::Http2) => ListenerProtocol::Http2,
        Some(raw::ListenerProtocol::Tcp) => ListenerProtocol::Tcp,
        Some(raw::ListenerProtocol::Udp) => ListenerProtocol::Udp,
    }
}

fn path_options(check: &Check<'_, '_>, field: &Field<raw::PathOptions>) -> PathOptions {
    let empty = raw::PathOptions::default();
    let raw::PathOptions { merge_slashes, escaped_slashes } = field.get().unwrap_or(&empty);
    PathOptions {
        merge_slashes: check.flag(merge_slashes, true),
        escaped_slashes: match escaped_slashes.get() {
            None | Some(raw::EscapedSlashes::Keep) => EscapedSlashes::Keep,
            Some(raw::EscapedSlashes::Reject) => EscapedSlashes::Reject,
        },
    }
}

/// Stands where an address could not be read; such a model is never given out.
const PLACEHOLDER: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);

#[derive(Clone)]
struct Taken {
    by: String,
    span: Option<Span>,
}

/// Takes an address, or reports who has it.
fn take(check: &Check<'_, '_>, binds: &mut Binds<Taken>, (address, span): (SocketAddr, Option<Span>), by: &str) {
    let taken = Taken { by: by.to_owned(), span };
    if let Err((other_address, other)) = binds.take(address, taken) {
        report(check, (address, span), (other_address, &other));
    }
}

fn report(
    check: &Check<'_, '_>,
    (address, span): (SocketAddr, Option<Span>),
    (other_address, other): (SocketAddr, &Taken),
) {
    let message = format!("{address} is already taken: {} listens on {other_address}", other.by);
    let fix = "use another port, or two addresses of which neither covers the other".to_owned();
    match (span, other.span) {
        (Some(span), Some(first)) => check.sink.error_with(span, (first, "the other one is here"), (message, fix)),
        (Some(span), None) => check.error(span, message, format!("{fix}; `admin` can be moved or set to `off`")),
        // The admin server's default address is looked at first, so it is never the second.
        (None, _) => check.error(Span::START, message, fix),
    }
}
