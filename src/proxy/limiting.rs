//! Rate limits that this proxy keeps by itself, and what callers are told of them.
//!
//! A request passes all its limits or none: what it took of those it met first is given back when a later one refuses
//! it. `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers) name each limit that a request met, and
//! those of further hops stand beside ours. The older fields with one number for all (`X-RateLimit-Remaining` and the
//! like) are not sent: with several limits on the way they cannot say whose they are, and servers disagree on what they
//! mean.

use std::hash::{Hash as _, Hasher};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use outrigger_config::model::{RateKey as By, Trust};
use smallvec::SmallVec;

use super::origin::Origin;
use crate::codec::RequestHead;
use crate::policy::forwarding;
use crate::policy::rate::{Standing, Verdict};
use crate::policy::rng::Rng;
use crate::snapshot::LocalLimit;
use crate::telemetry::metrics::Limited;
use crate::upstream::{LimitId, RateKey, RateState};

/// What limits say about one request: what it took of them, and what its caller is told.
#[derive(Debug, Default)]
pub(super) struct Rates<'a> {
    met: SmallVec<[Met<'a>; 1]>,
    /// Fields of somebody else's rate limits.
    others: Vec<(HeaderName, HeaderValue)>,
}

/// A limit that a request met.
#[derive(Debug)]
struct Met<'a> {
    limit: &'a LocalLimit,
    key: Option<RateKey>,
    /// A request was taken of it, and was not given back.
    taken: bool,
    standing: Standing,
}

/// A request is over a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OverLimit {
    /// It would pass after this time.
    pub(super) after: Duration,
}

/// Who asks what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asking<'a> {
    pub(super) head: &'a RequestHead,
    pub(super) origin: &'a Origin,
    pub(super) trust: Trust,
}

impl<'a> Rates<'a> {
    /// Takes a request from all of these limits, or from none.
    ///
    /// # Errors
    /// When one of them refuses it. What it took of others, now or before, is given back.
    pub(super) fn take(&mut self, limits: &'a [LocalLimit], asking: Asking<'_>, now: Instant) -> Result<(), OverLimit> {
        match limits {
            [limit] if !limit.config.shadow => self.take_one(limit, asking, now),
            _ => self.take_all(limits, asking, now),
        }
    }

    /// Most rules have one, which needs to be asked once.
    fn take_one(&mut self, limit: &'a LocalLimit, asking: Asking<'_>, now: Instant) -> Result<(), OverLimit> {
        let Some(key) = key(limit, asking) else { return Ok(()) };
        match limit.state.take(key, &limit.rate, now) {
            Verdict::Admitted(standing) => {
                limit.state.metrics.limited(Limited::Admitted);
                self.met.push(Met { limit, key, taken: true, standing });
                Ok(())
            }
            Verdict::Refused { after, standing } => {
                self.give_back();
                Err(self.refused((limit, key), after, standing))
            }
        }
    }

    fn take_all(&mut self, limits: &'a [LocalLimit], asking: Asking<'_>, now: Instant) -> Result<(), OverLimit> {
        let asked: SmallVec<[(&LocalLimit, Option<RateKey>); 4]> = limits
            .iter()
            .filter(|limit| !limit.config.shadow)
            .filter_map(|limit| Some((limit, key(limit, asking)?)))
            .collect();
        let first = self.met.len();
        let mut over: Option<OverLimit> = None;
        // One alone is asked once.
        for &(limit, key) in asked.iter().filter(|_| asked.len() > 1) {
            if let Verdict::Refused { after, standing } = limit.state.look(key, &limit.rate, now) {
                let refused = self.refused((limit, key), after, standing);
                over = Some(over.map_or(refused, |over| over.max(refused)));
            }
        }
        for &(limit, key) in asked.iter().take_while(|_| over.is_none()) {
            match limit.state.take(key, &limit.rate, now) {
                Verdict::Admitted(standing) => self.met.push(Met { limit, key, taken: true, standing }),
                // Somebody else was faster.
                Verdict::Refused { after, standing } => {
                    over = Some(self.refused((limit, key), after, standing));
                    break;
                }
            }
        }
        if let Some(over) = over {
            self.give_back();
            return Err(over);
        }
        self.met[first..].iter().for_each(|met| met.limit.state.metrics.limited(Limited::Admitted));
        count_shadows(limits, asking, now);
        Ok(())
    }

    /// Counts a refusal and tells of it.
    fn refused(
        &mut self,
        (limit, key): (&'a LocalLimit, Option<RateKey>),
        after: Duration,
        standing: Standing,
    ) -> OverLimit {
        limit.state.metrics.limited(Limited::Refused);
        self.met.push(Met { limit, key, taken: false, standing });
        OverLimit { after }
    }

    /// Gives back what was taken for a request that something else refused.
    pub(super) fn give_back(&mut self) {
        for met in self.met.iter_mut().filter(|met| met.taken) {
            met.taken = false;
            met.limit.state.give_back(met.key, &met.limit.rate);
        }
    }

    /// A field of somebody else's rate limit.
    pub(super) fn push(&mut self, name: HeaderName, value: HeaderValue) {
        self.others.push((name, value));
    }

    /// Whether the caller is told anything.
    pub(super) fn is_empty(&self) -> bool {
        self.met.is_empty() && self.others.is_empty()
    }

    /// Adds what the caller is told to an answer, beside what that has.
    pub(super) fn tell(&mut self, headers: &mut HeaderMap) {
        for Met { limit, standing, .. } in &self.met {
            headers.append(POLICY, limit.policy.clone());
            headers.append(RATE_LIMIT, limit.tell(*standing));
        }
        for (name, value) in self.others.drain(..) {
            headers.append(name, value);
        }
    }
}

impl OverLimit {
    fn max(self, other: Self) -> Self {
        if other.after > self.after { other } else { self }
    }
}

/// The key that the first request of a connection had at a limit by address. Nearly all connections are of one client
/// whose requests meet one such limit, and a hash that nobody outside can foresee is slow.
#[derive(Debug, Default)]
pub(super) struct KnownKey(OnceLock<(LimitId, IpAddr, RateKey)>);

impl KnownKey {
    fn get(&self, limit: &RateState, client: IpAddr) -> RateKey {
        let id = limit.id();
        let &(known, of, key) = self.0.get_or_init(|| (id, client, by_address(limit, client)));
        if known == id && of == client { key } else { by_address(limit, client) }
    }
}

/// The client's address: the one that the listener's trust rule finds.
pub(super) fn client(asking: Asking<'_>) -> IpAddr {
    let Asking { head, origin, trust } = asking;
    forwarding::client(trust, origin.peer, || {
        head.headers.get_all(FORWARDED_FOR).iter().filter_map(|line| line.to_str().ok())
    })
}

/// As much or up to a quarter more, so that those who were refused together do not come back together.
pub(super) fn spread(time: Duration, random: &mut Rng) -> Duration {
    let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    time.saturating_add(Duration::from_nanos(random.below(nanos / 4)))
}

/// Limits that refuse nothing are met by what passes.
fn count_shadows(limits: &[LocalLimit], asking: Asking<'_>, now: Instant) {
    for limit in limits.iter().filter(|limit| limit.config.shadow) {
        if let Some(key) = key(limit, asking) {
            limit.state.metrics.limited(match limit.state.take(key, &limit.rate, now) {
                Verdict::Admitted(_) => Limited::Admitted,
                Verdict::Refused { .. } => Limited::Shadowed,
            });
        }
    }
}

/// The key of a request; `None` outside: it lacks a part of it and is not limited. `None` inside: all share one rate.
#[expect(clippy::option_option, reason = "both are answers")]
fn key(limit: &LocalLimit, asking: Asking<'_>) -> Option<Option<RateKey>> {
    match limit.config.by[..] {
        [] => return Some(None),
        [By::Address] => return Some(Some(asking.origin.rate_key.get(&limit.state, client(asking)))),
        _ => {}
    }
    let mut whole = true;
    let key = limit.state.key(|hasher| {
        for by in &limit.config.by {
            match by {
                By::Header(name) => {
                    0_u8.hash(hasher);
                    name.as_str().hash(hasher);
                    let mut lines = asking.head.headers.get_all(name).iter().peekable();
                    whole &= lines.peek().is_some();
                    // Prefixed by their lengths.
                    lines.for_each(|line| line.as_bytes().hash(hasher));
                    // Ends what may have any number of parts.
                    hasher.write_u8(u8::MAX);
                }
                By::Identity => {
                    1_u8.hash(hasher);
                    match asking.origin.identity() {
                        Some(identity) => identity.as_str().hash(hasher),
                        None => whole = false,
                    }
                }
                By::Address => write_address(client(asking), hasher),
            }
        }
    });
    whole.then_some(Some(key))
}

fn by_address(limit: &RateState, client: IpAddr) -> RateKey {
    limit.key(|hasher| write_address(client, hasher))
}

fn write_address(client: IpAddr, hasher: &mut impl Hasher) {
    // In one piece, which costs a third.
    let mut part = [2; 17];
    part[1..].copy_from_slice(&in_ipv6(client).octets());
    hasher.write(&part);
}

fn in_ipv6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::telemetry::Metrics;

    #[test]
    fn a_key_that_is_known_is_that_of_its_limit_and_its_client_and_of_no_other() {
        let metrics = Metrics::new();
        let limits = ["one", "other"].map(|name| RateState::new(metrics.rate_limit(&Arc::from(name)), Instant::now()));
        let clients = ["10.0.0.1", "::ffff:10.0.0.2", "2001:db8::1"].map(|client| client.parse().expect("an address"));
        let known = KnownKey::default();
        for _ in 0..2 {
            for (limit, client) in limits.iter().flat_map(|limit| clients.map(|client| (limit, client))) {
                assert_eq!(known.get(limit, client), by_address(limit, client), "{client}");
            }
        }
    }
}
