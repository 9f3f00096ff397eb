//! Upgrades and CONNECT.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Check, Wrong, small};
use crate::limits;
use crate::model::{Connect, Upgrades};
use crate::raw;
use crate::read::{Field, List};
use crate::source::Span;
use crate::text::quoted;

pub(super) fn upgrades(check: &Check<'_, '_>, field: &Field<raw::Upgrades>) -> Upgrades {
    let default = Upgrades::default();
    let Some(raw) = field.get() else { return default };
    let raw::Upgrades { allow, connect, idle_timeout, max_duration, max_tunnels, max_tunnels_per_caller } = raw;
    Upgrades {
        allow: if allow.is_absent() { default.allow } else { tokens(check, allow) },
        connect: match connect.get() {
            None | Some(raw::Connect::Deny) => Connect::Deny,
            Some(raw::Connect::Route) => Connect::Route,
            Some(raw::Connect::Tunnel) => Connect::Tunnel,
        },
        idle_timeout: check.duration_or_zero(idle_timeout, default.idle_timeout),
        max_duration: check.duration_or_zero(max_duration, default.max_duration),
        max_tunnels: small(check.number(max_tunnels, default.max_tunnels.into(), limits::TUNNELS)),
        max_per_caller: small(check.number(
            max_tunnels_per_caller,
            default.max_per_caller.into(),
            limits::CALLER_TUNNELS,
        )),
    }
}

fn tokens(check: &Check<'_, '_>, field: &Field<List<String>>) -> Vec<Arc<str>> {
    let list = check.within(field.entries(), limits::MAX_UPGRADES, (field.span(), "entries of `allow`"));
    let mut seen: HashMap<Arc<str>, Span> = HashMap::new();
    let mut out = Vec::with_capacity(list.len());
    for (text, at) in list.iter().filter_map(Field::here) {
        let Some(token) = check.parsed(upgrade(text), at) else { continue };
        if let Some(first) = seen.get(&token) {
            let text = (format!("the protocol `{token}` comes twice"), "remove one of the two".to_owned());
            check.sink.error_with(at, (*first, "the first one is here"), text);
            continue;
        }
        seen.insert(Arc::clone(&token), at);
        out.push(token);
    }
    out
}

/// The name of a protocol that may be upgraded to (RFC 9110 section 7.8), in lower case: it is compared without case.
pub(crate) fn upgrade(text: &str) -> Result<Arc<str>, Wrong> {
    let wrong = |what: &str, fix: &str| Err(Wrong::new(format!("`{}` {what}", quoted(text)), fix));
    let lower = text.to_ascii_lowercase();
    if lower == "h2c" {
        let what = "is never upgraded to: what a caller then says in HTTP/2 would pass unseen";
        return wrong(what, "remove it: HTTP/2 without TLS begins with prior knowledge (`protocol: auto`)");
    }
    if lower == "connect" {
        return wrong("is no protocol to upgrade to", "remove it, and write `connect: route` or `connect: tunnel`");
    }
    if text.len() > limits::MAX_UPGRADE_BYTES {
        return wrong("is too long", &format!("write a name of at most {} bytes", limits::MAX_UPGRADE_BYTES));
    }
    let token = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || MARKS.contains(&b));
    let sound = match text.split_once('/') {
        Some((name, version)) => token(name) && token(version),
        None => token(text),
    };
    if !sound {
        return wrong("is not the name of a protocol", "write one such as `websocket`");
    }
    if text != lower {
        return wrong("is not in lower case", &format!("write `{lower}`: it is compared without case"));
    }
    Ok(lower.into())
}

/// What a token may have beside letters and digits (RFC 9110 section 5.6.2).
const MARKS: &[u8] = b"!#$%&'*+-.^_`|~";
