//! A request is made fit to be decided about and sent on: one path form, one host form, no hop-by-hop fields,
//! forwarding fields by the listener's trust rule. What cannot be made fit is refused.

use std::borrow::Cow;
use std::cell::RefCell;

use bytes::Bytes;
use http::header::{Entry, HeaderMap, HeaderName, HeaderValue};
use http::uri::{PathAndQuery, Scheme};
use smallvec::SmallVec;

use super::attempt::marks::RETRIED;
use super::attempt::{DEADLINE, EXPECTED};
use super::client_cert;
use super::local::REASON;
use super::origin::Origin;
use super::random::request_id;
use crate::base::limits;
use crate::codec::headers::{remove_rare, strip_hop_by_hop};
use crate::codec::{Refusal, RequestHead};
use crate::policy::forwarding::Belief;
use crate::policy::rng::Rng;
use crate::policy::{deadline, forwarding, host, path};
use crate::snapshot::Listener;

const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const PASSED: HeaderName = HeaderName::from_static("x-outrigger-via");

/// Fields with which only proxies speak to each other. Of callers that are not trusted none is taken, but those that
/// can only end or shorten the request that carries them: [`PASSED`], without which a loop through a listener would not
/// be seen, and how long the caller waits, where that can be read ([`says_patience`]).
const INTERNAL: [&str; 2] = ["x-outrigger-", "x-envoy-"];

/// So many fields are added on the way, mostly: those that are set here, and what each attempt says of its time. Growing
/// once is cheaper than when the map is full.
const ADDED: usize = 7;

/// Hosts that a worker remembers as field values, and how long they may be.
const HOSTS: usize = 16;
const LONGEST_HOST: usize = 255;

/// What is wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unfit {
    /// It is malformed.
    Refused(Refusal),
    /// It passed here before.
    Loop,
}

/// Normalises the path in place. Routing, policies and the upstream all see this form.
pub(super) fn normalise_path(head: &mut RequestHead, listener: &Listener) -> Result<(), Unfit> {
    match path::normalize(head.path.as_str(), listener.config.path) {
        Ok(Cow::Borrowed(_)) => Ok(()),
        Ok(Cow::Owned(normal)) => {
            head.path = PathAndQuery::from_maybe_shared(Bytes::from(normal)).map_err(|_| BAD_PATH)?;
            Ok(())
        }
        Err(_) => Err(BAD_PATH),
    }
}

/// The host to route by, lower-case and empty when there is none, and the port that stands with it.
pub(super) fn host_of(head: &RequestHead) -> Result<host::Authority<'_>, Unfit> {
    match &head.authority {
        None => Ok(host::Authority { host: Cow::Borrowed(""), port: None }),
        Some(authority) => host::parse_authority(authority.as_str()).map_err(|_| BAD_HOST),
    }
}

/// Removes what concerned the caller's hop only and sets what the next one should know.
pub(super) fn set_forwarding(
    head: &mut RequestHead,
    listener: &Listener,
    origin: &Origin,
    random: &mut Rng,
) -> Result<(), Unfit> {
    let trust = listener.config.trust;
    let headers = &mut head.headers;
    strip_hop_by_hop(headers);
    headers.reserve(ADDED);
    let believed = forwarding::belief(trust) == Belief::Keep;
    if believed {
        // Of answers only.
        remove_rare(headers, &REASON);
        remove_rare(headers, &RETRIED);
    } else {
        strip_internal(headers);
    }
    client_cert::apply(listener.config.client_cert_header, origin.certificate.as_ref(), headers);
    mark_passage(headers, &listener.loop_mark)?;
    if believed && headers.contains_key(FORWARDED_FOR) {
        let lines = headers.get_all(&FORWARDED_FOR).iter().filter_map(|line| line.to_str().ok());
        let chain = forwarding::forwarded_for(trust, origin.peer, lines);
        if let Ok(value) = HeaderValue::try_from(chain.value) {
            headers.insert(FORWARDED_FOR, value);
        }
    } else {
        headers.insert(FORWARDED_FOR, origin.peer_value.clone());
    }
    if !believed {
        remove_rare(headers, &FORWARDED);
    }
    if !(believed && headers.contains_key(FORWARDED_PROTO)) {
        let proto = if head.scheme == Scheme::HTTPS { "https" } else { "http" };
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static(proto));
    }
    if !(believed && headers.contains_key(FORWARDED_HOST)) {
        match head.authority.as_ref().and_then(|authority| value_of(authority.as_str())) {
            Some(host) => drop(headers.insert(FORWARDED_HOST, host)),
            None => drop(headers.remove(FORWARDED_HOST)),
        }
    }
    if !(believed && headers.get(REQUEST_ID).is_some_and(is_request_id)) {
        headers.insert(REQUEST_ID, request_id(random));
    }
    Ok(())
}

/// A host as a field value. Those of late are remembered: callers ask for few.
fn value_of(host: &str) -> Option<HeaderValue> {
    thread_local! {
        static LATELY: RefCell<[HeaderValue; HOSTS]> = const { RefCell::new([const { HeaderValue::from_static("") }; HOSTS]) };
    }
    if host.len() > LONGEST_HOST {
        return HeaderValue::from_str(host).ok();
    }
    let place = host.len() + host.bytes().next().map_or(0, usize::from) + host.bytes().last().map_or(0, usize::from);
    LATELY.with_borrow_mut(|lately| {
        let known = &mut lately[place % HOSTS];
        if known != host {
            *known = HeaderValue::from_str(host).ok()?;
        }
        Some(known.clone())
    })
}

fn strip_internal(headers: &mut HeaderMap) {
    let internal = |name: &&HeaderName| INTERNAL.iter().any(|prefix| name.as_str().starts_with(prefix));
    let found: SmallVec<[HeaderName; 2]> =
        headers.keys().filter(internal).filter(|name| **name != PASSED).cloned().collect();
    for name in found {
        if !says_patience(&name, headers) {
            headers.remove(name);
        }
    }
}

/// Whether this field says how long the caller waits. It is written anew for each attempt.
fn says_patience(name: &HeaderName, headers: &HeaderMap) -> bool {
    let limit = || headers.get(name).and_then(|value| deadline::parse_millis(value.as_bytes()));
    match name {
        name if *name == DEADLINE => limit().is_some(),
        name if *name == EXPECTED => limit().is_some_and(|limit| !limit.is_zero()),
        _ => false,
    }
}

/// Short and plain enough to go into logs as it is.
fn is_request_id(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    (1..=128).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
}

/// Adds this listener to the list of those that the request has passed (as RFC 8586 does between CDNs).
fn mark_passage(headers: &mut HeaderMap, mark: &HeaderValue) -> Result<(), Unfit> {
    let mut lines = match headers.entry(PASSED) {
        Entry::Vacant(vacant) => {
            vacant.insert(mark.clone());
            return Ok(());
        }
        Entry::Occupied(lines) => lines,
    };
    let own = mark.to_str().unwrap_or("");
    let mut passed = String::new();
    let mut hops = 0;
    for value in lines.iter() {
        for hop in value.to_str().unwrap_or("").split(',').map(str::trim) {
            hops += 1;
            if hop == own || hops > limits::MAX_HOPS {
                return Err(Unfit::Loop);
            }
            passed.push_str(hop);
            passed.push_str(", ");
        }
    }
    passed.push_str(own);
    if let Ok(value) = HeaderValue::try_from(passed) {
        lines.insert(value);
    }
    Ok(())
}

const BAD_PATH: Unfit = Unfit::Refused(Refusal::bad_request("bad_path", "The request path is malformed."));
const BAD_HOST: Unfit = Unfit::Refused(Refusal::bad_request("bad_host", "The host of the request is malformed."));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_are_remembered_in_one_place_are_told_apart() {
        let long = format!("a{}t", "x".repeat(LONGEST_HOST));
        for host in ["a1.test", "a2.test", "a1.test", "A1.test", "", long.as_str()] {
            assert_eq!(value_of(host).expect("a value"), host);
        }
        assert_eq!(value_of("a\n.test"), None);
        assert_eq!(value_of("a1.test").expect("a value"), "a1.test");
    }
}
