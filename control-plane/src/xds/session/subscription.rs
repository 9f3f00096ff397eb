//! What a client asked for, of one kind.

use std::collections::BTreeSet;
use std::sync::Arc;

use outrigger_xds::Kind;

/// The name that stands for everything.
pub(super) const WILDCARD: &str = "*";

/// A subscription. Names are kept once.
#[derive(Debug, Default)]
pub(super) struct Subscription {
    pub(super) wildcard: bool,
    pub(super) names: BTreeSet<Arc<str>>,
    /// It has said what it wants, so that saying nothing does not mean everything any more.
    pub(super) explicit: bool,
}

impl Subscription {
    pub(super) fn covers(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    /// A request that names nothing, of a client that never has, means everything: for listeners and clusters.
    pub(super) fn names_nothing(&mut self, kind: Kind) {
        if !self.explicit && is_full(kind) {
            self.wildcard = true;
        }
    }
}

/// Whether state of the world means all of them in each response.
pub(super) fn is_full(kind: Kind) -> bool {
    match kind {
        Kind::Listener | Kind::Cluster => true,
        Kind::Secret | Kind::Endpoints | Kind::Route => false,
    }
}
