//! What a request changes: the subscription, and what the client is known to hold.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use outrigger_xds::Kind;

use super::channel::{Answered, Channel, Held};
use super::subscription::{WILDCARD, is_full};
use super::{Nack, Now, Session};
use crate::fleet::Protocol;
use crate::xds::limits::{MAX_NAME_BYTES, MAX_NAMES};

/// A request, whichever protocol it came in.
#[derive(Debug)]
pub(in crate::xds) struct Request {
    pub(in crate::xds) kind: Kind,
    /// Of the response that it answers. Empty: of none.
    pub(in crate::xds) nonce: String,
    pub(in crate::xds) nack: Option<Nack>,
    pub(in crate::xds) names: Names,
}

/// What is asked for.
#[derive(Debug)]
pub(in crate::xds) enum Names {
    /// More and less than before. `known`: what the client has from an earlier stream.
    Delta { subscribe: Vec<String>, unsubscribe: Vec<String>, known: HashMap<String, String> },
    /// All of it.
    ///
    /// The version that a client says it has is not looked at: one that took part of a newer version says the older, and
    /// would keep that part if the older were taken to be what it has.
    World { names: Vec<String> },
}

/// Why a stream is closed for a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::xds) enum Violation {
    #[error("a resource name is {0} bytes long; at most {MAX_NAME_BYTES} are taken")]
    LongName(usize),
    #[error("the stream names {0} resources; at most {MAX_NAMES} are taken")]
    ManyNames(usize),
}

impl Session {
    /// Takes in a request. Gives the answer that it was to an earlier response, if it was one.
    ///
    /// # Errors
    /// When it names more than is taken: the stream must be closed.
    pub(in crate::xds) fn request(&mut self, request: Request, now: Now) -> Result<Option<Answered>, Violation> {
        let Request { kind, nonce, nack, names } = request;
        self.check(kind, &names)?;
        let channel = self.channel(kind);
        let answers = channel.in_flight.as_ref().is_some_and(|sent| is_nonce(&nonce, sent.nonce));
        let answered = if answers { channel.answer(nack, now) } else { None };
        match names {
            Names::Delta { subscribe, unsubscribe, known } => channel.change(subscribe, &unsubscribe, &known),
            // A stale request is one that was made before the response in flight was seen. Its names are the newest all the
            // same, and nothing is sent for them before that response is answered.
            Names::World { names } => channel.replace(names),
        }
        if let Some(answered) = &answered {
            self.answered(answered, now);
        }
        self.refresh();
        self.note_progress(now.instant);
        Ok(answered)
    }

    fn check(&self, kind: Kind, names: &Names) -> Result<(), Violation> {
        let (new, longest) = match names {
            Names::Delta { subscribe, unsubscribe, known } => {
                let all = subscribe.iter().chain(unsubscribe).chain(known.keys());
                (subscribe.len().max(known.len()), all.map(String::len).max())
            }
            Names::World { names } => (names.len(), names.iter().map(String::len).max()),
        };
        if let Some(longest) = longest.filter(|longest| *longest > MAX_NAME_BYTES) {
            return Err(Violation::LongName(longest));
        }
        let replaced = |of: Kind| of == kind && self.protocol == Protocol::StateOfTheWorld;
        let subscriptions = self.channels.iter().filter(|channel| !replaced(channel.kind));
        let named: usize =
            subscriptions.filter_map(|channel| channel.subscription.as_ref()).map(|all| all.names.len()).sum();
        match named + new {
            count if count > MAX_NAMES => Err(Violation::ManyNames(count)),
            _ => Ok(()),
        }
    }
}

impl Channel {
    /// Delta: more and less than before.
    fn change(&mut self, subscribe: Vec<String>, unsubscribe: &[String], known: &HashMap<String, String>) {
        let is_first = self.subscription.is_none();
        let mut subscription = self.subscription.take().unwrap_or_default();
        let was_wildcard = subscription.wildcard;
        if subscribe.is_empty() && unsubscribe.is_empty() {
            subscription.names_nothing(self.kind);
        }
        subscription.explicit |= !subscribe.is_empty() || unsubscribe.iter().any(|name| name == WILDCARD);
        let mut forgotten = Vec::new();
        let mut dropped = Vec::new();
        for name in unsubscribe {
            if name == WILDCARD {
                subscription.wildcard = false;
            } else if let Some(name) = subscription.names.take(name.as_str()) {
                if subscription.wildcard && !self.target().by_name().contains_key(&name) {
                    dropped.push(Arc::clone(&name));
                }
                forgotten.push(name);
            }
        }
        for name in subscribe {
            if name == WILDCARD {
                subscription.wildcard = true;
                continue;
            }
            let name = self.intern(name);
            // It must be sent, even if it was before: the client may have forgotten it.
            if !(is_first && known.contains_key(&*name)) {
                forgotten.push(Arc::clone(&name));
            }
            subscription.names.insert(name);
        }
        self.due |= subscription.wildcard && !was_wildcard && known.is_empty();
        let narrowed = was_wildcard && !subscription.wildcard;
        self.subscription = Some(subscription);
        forgotten.iter().for_each(|name| self.forget(name));
        dropped.into_iter().for_each(|name| self.tell_dropped(name));
        if narrowed {
            self.keep_covered();
        }
        if is_first {
            self.resume(known);
        }
        self.dirty |= is_first || !was_wildcard;
    }

    /// Delta: what the client has from an earlier stream.
    fn resume(&mut self, known: &HashMap<String, String>) {
        for (name, version) in known {
            if !self.subscription.as_ref().is_some_and(|subscription| subscription.covers(name)) {
                continue;
            }
            let target = self.target().by_name().get(name.as_str()).cloned();
            let (name, held) = match target {
                Some(resource) if *resource.version == **version => {
                    (Arc::clone(&resource.name), Held::Resource(resource))
                }
                Some(resource) => (Arc::clone(&resource.name), Held::Other),
                None => (name.as_str().into(), Held::Other),
            };
            self.held.insert(name, held);
        }
    }

    /// State of the world: exactly these.
    fn replace(&mut self, names: Vec<String>) {
        let is_first = self.subscription.is_none();
        let mut subscription = self.subscription.take().unwrap_or_default();
        subscription.explicit |= !names.is_empty();
        let was_wildcard = subscription.wildcard;
        let (wildcards, names): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| name == WILDCARD);
        let names: BTreeSet<Arc<str>> = names.into_iter().map(|name| self.intern(name)).collect();
        subscription.wildcard = !wildcards.is_empty();
        if wildcards.is_empty() && names.is_empty() {
            subscription.names_nothing(self.kind);
        }
        if !is_first && was_wildcard == subscription.wildcard && names == subscription.names {
            self.subscription = Some(subscription);
            return;
        }
        // Names that are new must be sent, even if they were before.
        let new: Vec<_> = names.difference(&subscription.names).cloned().collect();
        subscription.names = names;
        // With nothing left to ask for, there is nothing to answer.
        let asks = subscription.wildcard || !subscription.names.is_empty();
        self.subscription = Some(subscription);
        new.iter().for_each(|name| self.forget(name));
        self.keep_covered();
        self.due |= is_full(self.kind) && asks;
    }

    /// The name as the target has it, so that it is kept once.
    fn intern(&self, name: String) -> Arc<str> {
        self.target().by_name().get_key_value(name.as_str()).map_or_else(|| name.into(), |(name, _)| Arc::clone(name))
    }
}

fn is_nonce(text: &str, nonce: u64) -> bool {
    text.parse() == Ok(nonce)
}
