//! Open connections and changing policies: a connection that is handed on when its listener's policy changes, and that
//! the new one would not let in, is ended; no other is touched.
//!
//! Such connections live long, so each is entered at once. When a snapshot is published, the control thread decides
//! about those of listeners whose policy has changed, and wakes only connections that must end.

use std::future;
use std::sync::{Arc, OnceLock};

use outrigger_config::model::Access;
use tokio::sync::Notify;

use super::decide;
use crate::net::ConnInfo;
use crate::proxy::Proxy;
use crate::proxy::book::{Entered, Open};
use crate::snapshot::Listener;

#[derive(Debug)]
pub(in crate::proxy) struct Entry {
    listener: Arc<str>,
    caller: Arc<ConnInfo>,
    /// The rule that ends it.
    ended: OnceLock<Arc<str>>,
    told: Notify,
}

/// A connection that is entered, until dropped.
#[derive(Debug)]
pub(super) struct Watched {
    entered: Option<Entered<Entry>>,
}

impl Proxy {
    /// Enters a connection that was let in.
    pub(super) fn watch_passage(&self, listener: &Arc<Listener>, caller: &Arc<ConnInfo>) -> Watched {
        let entry = Entry {
            listener: Arc::clone(&listener.config.name),
            caller: Arc::clone(caller),
            ended: OnceLock::new(),
            told: Notify::new(),
        };
        Watched { entered: Some(self.passages.enter(entry, listener, &self.cell)) }
    }
}

impl Watched {
    /// One that nothing ends.
    pub(super) fn never() -> Self {
        Self { entered: None }
    }

    /// Waits for the rule that ends it. Cancel safe.
    pub(super) async fn ended(&self) -> Arc<str> {
        let Some(entered) = &self.entered else { return future::pending().await };
        let entry = entered.entry();
        loop {
            if let Some(rule) = entry.ended.get() {
                return Arc::clone(rule);
            }
            // Nobody else waits, and one that was told before it waits is told at once.
            entry.told.notified().await;
        }
    }
}

impl Open for Entry {
    fn listener(&self) -> &Arc<str> {
        &self.listener
    }

    fn decide(&self, listener: &Listener) {
        let Some(authorization) = &listener.authorization else { return };
        let decision = decide(authorization, &self.caller);
        if decision.access == Access::Deny && self.ended.set(authorization.policy.name(decision.rule).into()).is_ok() {
            authorization.count_ended(decision.rule);
            self.told.notify_one();
        }
    }
}
