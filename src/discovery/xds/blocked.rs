//! Listeners whose address was taken. Nobody sends them again when it is free, so they are tried again from here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use outrigger_xds::Kind;
use tokio::time::Instant;

use super::session::{Update, Variant};
use super::store::{Held, Id};

/// Listeners to try again, and when.
#[derive(Debug, Default)]
pub(crate) struct Blocked {
    listeners: BTreeMap<Arc<str>, Held>,
    /// Attempts since something was noted that was not known.
    rounds: u32,
    due: Option<Instant>,
}

impl Blocked {
    /// The address of a listener is taken. There are no more of them than resources.
    pub(crate) fn note(&mut self, name: Arc<str>, held: Held, now: Instant) {
        self.listeners.insert(name, held);
        let pause = FIRST.saturating_mul(1 << self.rounds.min(16)).min(LONGEST);
        self.due.get_or_insert(now + pause);
    }

    /// A response says what of these there is now: only that counts, and it is tried with the response.
    pub(crate) fn heard(&mut self, update: &Update, variant: Variant) {
        if update.kind != Kind::Listener {
            return;
        }
        let named: BTreeSet<&Arc<str>> =
            update.changed.iter().map(|one| &one.name).chain(&update.removed).chain(update.contents.keys()).collect();
        self.listeners.retain(|name, _| match variant {
            Variant::Delta => !named.contains(name),
            Variant::StateOfTheWorld => false,
        });
        if self.listeners.is_empty() {
            (self.rounds, self.due) = (0, None);
        }
    }

    /// Whether a resource is one of these.
    pub(crate) fn has(&self, (kind, name): &Id) -> bool {
        *kind == Kind::Listener && self.listeners.contains_key(name)
    }

    /// When they are tried again.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Those to try now. They are noted again where that fails.
    pub(crate) fn take(&mut self, now: Instant) -> BTreeMap<Arc<str>, Held> {
        if self.due.is_none_or(|due| now < due) {
            return BTreeMap::new();
        }
        self.due = None;
        self.rounds = self.rounds.saturating_add(1);
        std::mem::take(&mut self.listeners)
    }
}

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    fn held() -> Held {
        Held { version: "1".into(), body: bytes::Bytes::new() }
    }

    #[tokio::test(start_paused = true)]
    async fn the_pause_doubles_to_its_limit() {
        let mut blocked = Blocked::default();
        let mut pauses = Vec::new();
        let mut now = Instant::now();
        for _ in 0..7 {
            blocked.note("a".into(), held(), now);
            let due = blocked.due().expect("it is tried again");
            pauses.push((due - now).as_secs());
            assert!(blocked.take(now).is_empty(), "not before its time");
            now = due;
            assert_eq!(blocked.take(now).len(), 1);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(blocked.due(), None);
    }
}
