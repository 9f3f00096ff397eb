//! One stream to a control plane, as far as it can be known without sockets: what is asked for, what came and what is
//! answered. Both variants of the protocol, incremental ("delta") and state of the world, have one form here; what
//! they look like in bytes is [`super::wire`]'s.
//!
//! Invariants: every response is answered once; a request never carries a nonce that it does not answer, except that
//! the state of the world names its newest in every request; what is known is never asked for again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use outrigger_xds::Kind;

/// A variant of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    /// Changes only.
    Delta,
    /// Everything of a kind each time.
    StateOfTheWorld,
}

impl Variant {
    /// In words.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Delta => "delta",
            Self::StateOfTheWorld => "stateOfTheWorld",
        }
    }
}

/// A resource as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Incoming {
    pub(crate) name: Arc<str>,
    pub(crate) version: Arc<str>,
    pub(crate) body: Bytes,
}

/// What a server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) kind: Kind,
    /// Of the whole response.
    pub(crate) version: String,
    pub(crate) nonce: String,
    pub(crate) resources: Vec<Incoming>,
    /// Delta only.
    pub(crate) removed: Vec<Arc<str>>,
    /// What in it could not be read.
    pub(crate) unreadable: Vec<Refusal>,
}

/// Why a resource is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) kind: Kind,
    pub(crate) name: Arc<str>,
    /// In the words of Envoy's API; empty: the resource as a whole.
    pub(crate) field: String,
    pub(crate) reason: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kind, name, field, reason } = self;
        let kind = kind.type_url().rsplit('.').next().unwrap_or_default();
        if field.is_empty() {
            write!(f, "{kind} `{name}`: {reason}")
        } else {
            write!(f, "{kind} `{name}`, {field}: {reason}")
        }
    }
}

/// What is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) kind: Kind,
    /// Delta: names that are asked for from now on. In the first request of a kind that is taken whole it is empty.
    pub(crate) subscribe: Vec<Arc<str>>,
    /// Delta: names that are no longer asked for.
    pub(crate) unsubscribe: Vec<Arc<str>>,
    /// Delta, first request of a kind: what is known already.
    pub(crate) known: Vec<(Arc<str>, Arc<str>)>,
    /// State of the world: all names that are asked for; empty: everything.
    pub(crate) names: Vec<Arc<str>>,
    /// State of the world: the last version that was taken.
    pub(crate) version: String,
    /// The response that this answers; empty: none.
    pub(crate) nonce: String,
    /// What of that response was not taken.
    pub(crate) refusals: Vec<Refusal>,
}

/// What a response changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Update {
    pub(crate) kind: Kind,
    pub(crate) changed: Vec<Incoming>,
    pub(crate) removed: Vec<Arc<str>>,
    pub(crate) refused: Vec<Refusal>,
    /// Everything that was in it, also what was known: an answer is about all of that.
    pub(crate) contents: BTreeMap<Arc<str>, Arc<str>>,
    pub(crate) receipt: Receipt,
}

/// A response that is not answered yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Receipt {
    pub(crate) kind: Kind,
    nonce: String,
    version: String,
}

/// Versions of what is known, by kind and name.
pub(crate) type Versions = BTreeMap<Kind, BTreeMap<Arc<str>, Arc<str>>>;

/// A stream.
#[derive(Debug)]
pub(crate) struct Session {
    variant: Variant,
    kinds: BTreeMap<Kind, Subscription>,
}

/// What was said of one kind.
#[derive(Debug, Default)]
struct Subscription {
    /// Whether anything was asked for on this stream.
    open: bool,
    /// Names that are wanted; not used of kinds that are taken whole.
    wanted: BTreeSet<Arc<str>>,
    /// Names that the server knows to be wanted.
    told: BTreeSet<Arc<str>>,
    /// State of the world: the version that was taken last.
    version: String,
    /// The newest response.
    nonce: String,
    /// Responses that are not answered yet.
    unanswered: usize,
}

/// Whether everything of a kind is asked for, and what is not there has been removed.
pub(crate) fn is_whole(kind: Kind) -> bool {
    match kind {
        Kind::Listener | Kind::Cluster => true,
        Kind::Secret | Kind::Endpoints | Kind::Route => false,
    }
}

impl Session {
    /// A new stream on which names are wanted. The requests that begin it, with what is known already.
    pub(crate) fn open(
        variant: Variant,
        wanted: &BTreeMap<Kind, BTreeSet<Arc<str>>>,
        known: &Versions,
    ) -> (Self, Vec<Request>) {
        let mut session = Self { variant, kinds: BTreeMap::new() };
        let mut requests = Vec::new();
        for kind in Kind::ALL {
            let names = wanted.get(&kind).cloned().unwrap_or_default();
            session.kinds.insert(kind, Subscription { wanted: names.clone(), ..Subscription::default() });
            if is_whole(kind) || !names.is_empty() {
                requests.push(session.begin(kind, known));
            }
        }
        (session, requests)
    }

    /// The variant that is spoken.
    pub(crate) fn variant(&self) -> Variant {
        self.variant
    }

    /// Wants exactly these names of a kind from now on. `None`: there is nothing to say, or it is said with the next
    /// answer ([`Session::waits`]).
    pub(crate) fn want(&mut self, kind: Kind, names: BTreeSet<Arc<str>>, known: &Versions) -> Option<Request> {
        debug_assert!(!is_whole(kind), "everything is asked for");
        let subscription = self.kinds.entry(kind).or_default();
        if subscription.wanted == names {
            return None;
        }
        subscription.wanted = names;
        if !subscription.open {
            return (!subscription.wanted.is_empty()).then(|| self.begin(kind, known));
        }
        match self.variant {
            Variant::Delta => {
                let subscribe = subscription.wanted.difference(&subscription.told).cloned().collect();
                let unsubscribe = subscription.told.difference(&subscription.wanted).cloned().collect();
                subscription.told.clone_from(&subscription.wanted);
                Some(Request { subscribe, unsubscribe, ..Request::of(kind) })
            }
            // Its nonce would answer what is not answered yet.
            Variant::StateOfTheWorld if subscription.unanswered > 0 => None,
            Variant::StateOfTheWorld => Some(subscription.everything(kind, Vec::new())),
        }
    }

    /// Whether names are wanted that the server can only be told with an answer.
    pub(crate) fn waits(&self) -> bool {
        let late = |subscription: &Subscription| subscription.open && subscription.wanted != subscription.told;
        self.variant == Variant::StateOfTheWorld && self.kinds.values().any(late)
    }

    /// Takes a response in. `known` is what is held of its kind, refused versions left out; changes alone are
    /// understood without it.
    pub(crate) fn receive(&mut self, response: Response, known: &BTreeMap<Arc<str>, Arc<str>>) -> Update {
        let Response { kind, version, nonce, resources, removed, unreadable: mut refused } = response;
        let subscription = self.kinds.entry(kind).or_default();
        subscription.nonce.clone_from(&nonce);
        subscription.unanswered += 1;
        let mut present = BTreeMap::new();
        let mut changed = Vec::with_capacity(resources.len());
        for resource in resources {
            if present.insert(Arc::clone(&resource.name), Arc::clone(&resource.version)).is_some() {
                let reason = "the response holds two resources of this name; send one".to_owned();
                refused.push(Refusal { kind, name: resource.name, field: String::new(), reason });
            } else if self.variant == Variant::Delta || known.get(&resource.name) != Some(&resource.version) {
                changed.push(resource);
            }
        }
        let twice: BTreeSet<Arc<str>> = refused.iter().map(|refusal| Arc::clone(&refusal.name)).collect();
        changed.retain(|resource| !twice.contains(&resource.name));
        let removed = match self.variant {
            Variant::Delta => removed.into_iter().filter(|name| !present.contains_key(name)).collect(),
            // One that is there and cannot be read is not gone.
            Variant::StateOfTheWorld if is_whole(kind) => {
                known.keys().filter(|name| !present.contains_key(*name) && !twice.contains(*name)).cloned().collect()
            }
            Variant::StateOfTheWorld => Vec::new(),
        };
        Update { kind, changed, removed, refused, contents: present, receipt: Receipt { kind, nonce, version } }
    }

    /// Answers a response: taken, apart from what is refused of it.
    pub(crate) fn answer(&mut self, receipt: Receipt, refusals: Vec<Refusal>) -> Request {
        let Receipt { kind, nonce, version } = receipt;
        let subscription = self.kinds.entry(kind).or_default();
        subscription.unanswered = subscription.unanswered.saturating_sub(1);
        match self.variant {
            Variant::Delta => Request { nonce, refusals, ..Request::of(kind) },
            Variant::StateOfTheWorld => {
                if refusals.is_empty() {
                    subscription.version = version;
                }
                let request = subscription.everything(kind, refusals);
                Request { nonce, ..request }
            }
        }
    }

    fn begin(&mut self, kind: Kind, known: &Versions) -> Request {
        let subscription = self.kinds.entry(kind).or_default();
        subscription.open = true;
        subscription.told.clone_from(&subscription.wanted);
        let names: Vec<Arc<str>> = subscription.wanted.iter().cloned().collect();
        match self.variant {
            Variant::Delta => {
                let asked = |name: &Arc<str>| is_whole(kind) || subscription.wanted.contains(name);
                let known = known.get(&kind).into_iter().flatten();
                let known = known.filter(|(name, _)| asked(name)).map(|(n, v)| (Arc::clone(n), Arc::clone(v)));
                Request { subscribe: names, known: known.collect(), ..Request::of(kind) }
            }
            Variant::StateOfTheWorld => Request { names, ..Request::of(kind) },
        }
    }
}

impl Subscription {
    /// A request of the state of the world.
    fn everything(&mut self, kind: Kind, refusals: Vec<Refusal>) -> Request {
        self.told.clone_from(&self.wanted);
        Request {
            names: self.wanted.iter().cloned().collect(),
            version: self.version.clone(),
            nonce: self.nonce.clone(),
            refusals,
            ..Request::of(kind)
        }
    }
}

impl Request {
    fn of(kind: Kind) -> Self {
        Self {
            kind,
            subscribe: Vec::new(),
            unsubscribe: Vec::new(),
            known: Vec::new(),
            names: Vec::new(),
            version: String::new(),
            nonce: String::new(),
            refusals: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests;
