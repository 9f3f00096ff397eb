//! What the control plane is told of its responses: what is not refused was taken.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use outrigger_xds::Kind;

use super::{Client, Start, Unanswered};
use crate::discovery::xds::session::{Refusal, Request, Variant, is_whole};
use crate::discovery::xds::status::{Refused, label};
use crate::discovery::xds::store::Id;

impl Client {
    pub(super) fn refuse(&mut self, id: Id, version: Arc<str>, refusals: Vec<Refusal>) {
        for refusal in &refusals {
            tracing::error!(%refusal, version = %version, "a resource of the control plane is refused; the one before stays");
            self.metrics.control.refused(label(refusal.kind));
        }
        self.refusals.insert(id, Refused { refusals, version, at: SystemTime::now() });
    }

    /// Answers to every response: what is not refused was taken.
    pub(super) fn answers(&mut self) -> Vec<Request> {
        self.answers_of(|_| true)
    }

    /// Names can be asked for in the state of the world only together with an answer. Where some wait for one, responses of
    /// their kind are answered before they take effect, so that what they lead to comes in time to take effect with them.
    /// For the same reason clusters are answered before they take effect while no listener is known: a server may wait for
    /// that answer before it sends the listeners, and a first configuration has both.
    pub(super) fn answer_early(&mut self) {
        let Some(stream) = &self.stream else { return };
        let waiting = stream.session.waiting();
        let first = self.start != Start::Done && self.store.newest(Kind::Listener).is_empty();
        let is_early = |kind| waiting.contains(&kind) || first && matches!(kind, Kind::Cluster | Kind::Endpoints);
        if self.unanswered.iter().any(|one| is_early(one.receipt.kind)) {
            let answers = self.answers_of(is_early);
            self.send(answers);
        }
    }

    fn answers_of(&mut self, which: impl Fn(Kind) -> bool) -> Vec<Request> {
        let mut requests = Vec::new();
        let (answered, rest): (Vec<Unanswered>, Vec<Unanswered>) =
            std::mem::take(&mut self.unanswered).into_iter().partition(|one| which(one.receipt.kind));
        self.unanswered = rest;
        for Unanswered { receipt, contents, refused } in answered {
            let kind = receipt.kind;
            let mut by_name: BTreeMap<Id, Vec<Refusal>> = BTreeMap::new();
            for refusal in refused {
                by_name.entry((kind, Arc::clone(&refusal.name))).or_default().push(refusal);
            }
            let mut unread = Vec::new();
            for (id, refusals) in by_name {
                let version = contents.get(&id.1).cloned().unwrap_or_default();
                if version.is_empty() {
                    unread.extend(refusals.iter().cloned());
                }
                self.refuse(id, version, refusals);
            }
            // In the state of the world, what is not there any more is not refused any more either.
            let whole = is_whole(kind)
                && self.stream.as_ref().is_some_and(|stream| stream.session.variant() == Variant::StateOfTheWorld);
            if whole {
                self.refusals.retain(|(of, name), refused| {
                    *of != kind || contents.contains_key(name) || refused.version.is_empty()
                });
            }
            // A good version ends the refusal of the one before it.
            let store = &self.store;
            self.refusals.retain(|(of, name), refused| {
                let taken = contents.get(name).filter(|version| {
                    *of == kind && store.taken(kind, name).is_some_and(|held| held.version == **version)
                });
                taken.is_none_or(|version| refused.version == *version)
            });
            let standing = contents.iter().filter_map(|(name, version)| {
                let refused = self.refusals.get(&(kind, Arc::clone(name)))?;
                (refused.version == *version).then(|| refused.refusals.clone())
            });
            let mut refusals: Vec<Refusal> = standing.flatten().collect();
            // What could not be read has no version, and is not among the contents.
            refusals.extend(unread);
            if let Some(stream) = &mut self.stream {
                requests.push(stream.session.answer(receipt, refusals));
            }
            // It stands until its name comes again, which only a stream of changes tells.
            let delta = self.stream.as_ref().is_some_and(|stream| stream.session.variant() == Variant::Delta);
            self.refusals
                .retain(|(of, name), refused| *of != kind || !refused.version.is_empty() || delta && !name.is_empty());
        }
        requests
    }

    pub(super) fn send(&mut self, requests: Vec<Request>) {
        let Some(stream) = &self.stream else { return };
        for request in requests {
            if stream.requests.try_send(request).is_err() {
                // It does not read what it is told, or is gone: the next stream begins from what was taken.
                tracing::warn!(server = %stream.server, "the control plane does not read; its stream is ended");
                return self.hang_up();
            }
        }
    }
}
