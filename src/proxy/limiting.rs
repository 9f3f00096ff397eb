//! Rate limits that this proxy keeps by itself, and what callers are told of them.
//!
//! A request passes all its limits or none: what it took of those it met first is given back when a later one refuses
//! it. `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers) name each limit that a request met, and
//! those of further hops stand beside ours. The older fields with one number for all (`X-RateLimit-Remaining` and the
//! like) are not sent: with several limits on the way they cannot say whose they are, and servers disagree on what they
//! mean.

use std::hash::{Hash as _, Hasher as _};
use std::net::{IpAddr, Ipv6Addr};
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
use crate::upstream::RateKey;

/// What limits say about one request: what it took of them, and what its caller is told.
#[derive(Debug, Default)]
pub(super) struct Rates<'a> {
    taken: SmallVec<[(&'a LocalLimit, Option<RateKey>); 2]>,
}

/// Fields about rate limits that an answer carries.
#[derive(Debug, Default)]
pub(super) struct RateFields {
    /// Of limits that are kept here: policy and what is left.
    own: Vec<(HeaderValue, HeaderValue)>,
    others: Vec<(HeaderName, HeaderValue)>,
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
    pub(super) fn take(
        &mut self,
        limits: &'a [LocalLimit],
        asking: Asking<'_>,
        now: Instant,
        fields: &mut RateFields,
    ) -> Result<(), OverLimit> {
        match limits {
            [limit] if !limit.config.shadow => self.take_one(limit, asking, now, fields),
            _ => self.take_all(limits, asking, now, fields),
        }
    }

    /// Most rules have one, which needs to be asked once.
    fn take_one(
        &mut self,
        limit: &'a LocalLimit,
        asking: Asking<'_>,
        now: Instant,
        fields: &mut RateFields,
    ) -> Result<(), OverLimit> {
        let Some(key) = key(limit, asking) else { return Ok(()) };
        match limit.state.take(key, &limit.rate, now) {
            Verdict::Admitted(standing) => {
                fields.own.reserve_exact(1);
                fields.tell(limit, standing);
                limit.state.metrics.limited(Limited::Admitted);
                self.taken.push((limit, key));
                Ok(())
            }
            Verdict::Refused { after, standing } => {
                self.give_back();
                Err(refused(limit, after, standing, fields))
            }
        }
    }

    fn take_all(
        &mut self,
        limits: &'a [LocalLimit],
        asking: Asking<'_>,
        now: Instant,
        fields: &mut RateFields,
    ) -> Result<(), OverLimit> {
        let met =
            limits.iter().filter(|limit| !limit.config.shadow).filter_map(|limit| Some((limit, key(limit, asking)?)));
        let first = self.taken.len();
        self.taken.extend(met);
        fields.own.reserve_exact(self.taken.len() - first);
        let met = &self.taken[first..];
        // One alone is asked once.
        let mut refusals = met.iter().filter(|_| met.len() > 1).filter_map(|(limit, key)| {
            match limit.state.look(*key, &limit.rate, now) {
                Verdict::Admitted(_) => None,
                Verdict::Refused { after, standing } => Some(refused(limit, after, standing, fields)),
            }
        });
        let mut over = refusals.next().map(|first| refusals.fold(first, OverLimit::max));
        if over.is_none() {
            for at in first..self.taken.len() {
                let (limit, key) = self.taken[at];
                match limit.state.take(key, &limit.rate, now) {
                    Verdict::Admitted(standing) => fields.tell(limit, standing),
                    // Somebody else was faster.
                    Verdict::Refused { after, standing } => {
                        self.taken.truncate(at);
                        over = Some(refused(limit, after, standing, fields));
                        break;
                    }
                }
            }
        } else {
            self.taken.truncate(first);
        }
        match over {
            Some(over) => {
                self.give_back();
                Err(over)
            }
            None => {
                self.taken[first..].iter().for_each(|(limit, _)| limit.state.metrics.limited(Limited::Admitted));
                count_shadows(limits, asking, now);
                Ok(())
            }
        }
    }

    /// Gives back what was taken for a request that something else refused.
    pub(super) fn give_back(&mut self) {
        for (limit, key) in self.taken.drain(..) {
            limit.state.give_back(key, &limit.rate);
        }
    }
}

impl OverLimit {
    fn max(self, other: Self) -> Self {
        if other.after > self.after { other } else { self }
    }
}

impl RateFields {
    pub(super) fn is_empty(&self) -> bool {
        self.own.is_empty() && self.others.is_empty()
    }

    /// A field of somebody else's rate limit.
    pub(super) fn push(&mut self, name: HeaderName, value: HeaderValue) {
        self.others.push((name, value));
    }

    /// Adds them to an answer, beside those that it has.
    pub(super) fn apply(self, headers: &mut HeaderMap) {
        for (policy, standing) in self.own {
            headers.append(POLICY, policy);
            headers.append(RATE_LIMIT, standing);
        }
        for (name, value) in self.others {
            headers.append(name, value);
        }
    }

    fn tell(&mut self, limit: &LocalLimit, standing: Standing) {
        self.own.push((limit.policy.clone(), limit.tell(standing)));
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

/// Counts a refusal and tells of it.
fn refused(limit: &LocalLimit, after: Duration, standing: Standing, fields: &mut RateFields) -> OverLimit {
    limit.state.metrics.limited(Limited::Refused);
    fields.tell(limit, standing);
    OverLimit { after }
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
    if limit.config.by.is_empty() {
        return Some(None);
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
                By::Address => {
                    // In one piece, which costs a third.
                    let mut part = [2; 17];
                    part[1..].copy_from_slice(&in_ipv6(client(asking)).octets());
                    hasher.write(&part);
                }
            }
        }
    });
    whole.then_some(Some(key))
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
