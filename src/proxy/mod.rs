//! Layer 6: the request pipeline. One [`ConnectionHandler`] serves one downstream connection; what happens to
//! a request reads top to bottom in `pipeline.rs`, and what happens to an attempt in `attempt`.

mod advertise;
mod affinity;
mod answer;
mod attempt;
mod authn;
mod authorize;
mod book;
mod client_cert;
mod criticality;
mod datagrams;
mod early;
mod external;
mod faults;
mod field;
mod filters;
mod gates;
mod limiting;
mod local;
mod mirror;
mod origin;
mod passage;
mod pipeline;
mod prepare;
pub mod preview;
mod random;
mod reason;
mod record;
mod rls;
mod tracked;
mod tunnel;
mod unary;
mod watch;

use std::sync::Arc;

pub use answer::AnswerBody;
pub use datagrams::{Datagrams, Joined, View};
pub use local::REASON;
pub use passage::Passage;
pub use reason::Reason;

use self::book::Book;
use self::faults::HeldUp;
use self::origin::Origin;
use self::random::with_random;
use self::tunnel::Tunnels;
use crate::base::pressure::Pressure;
use crate::net::ConnInfo;
use crate::snapshot::{Listener, Published, SnapshotCell, Tie};
use crate::telemetry::AccessLog;

/// The data path of one proxy.
#[derive(Debug, Clone)]
pub struct Proxy {
    cell: Arc<SnapshotCell>,
    log: Arc<AccessLog>,
    /// Exchanges that are no longer young.
    book: Arc<Book<watch::Entry>>,
    /// Connections that are handed on.
    passages: Arc<Book<passage::Entry>>,
    held_up: Arc<HeldUp>,
    pressure: Arc<Pressure>,
    tunnels: Arc<Tunnels>,
}

impl Proxy {
    /// A data path that reads its configuration from `cell`.
    #[must_use]
    pub fn new(cell: Arc<SnapshotCell>, log: Arc<AccessLog>) -> Self {
        let book: Arc<Book<watch::Entry>> = Arc::default();
        cell.tell(Arc::clone(&book) as Arc<dyn Published>);
        let passages: Arc<Book<passage::Entry>> = Arc::default();
        cell.tell(Arc::clone(&passages) as Arc<dyn Published>);
        Self { cell, log, book, passages, held_up: Arc::default(), pressure: Arc::default(), tunnels: Arc::default() }
    }

    /// How short the process is of what it needs: set by whoever watches that.
    #[must_use]
    pub fn pressure(&self) -> &Arc<Pressure> {
        &self.pressure
    }

    /// A listener as the published configuration has it.
    #[must_use]
    pub fn listener(&self, name: &str) -> Option<Arc<Listener>> {
        self.cell.listener(name)
    }

    /// The handler of one connection. `listener` is what the configuration said when it was accepted, and
    /// serves it when the configuration no longer has that listener.
    #[must_use]
    pub fn connection(&self, listener: &Arc<Listener>, info: ConnInfo) -> Arc<ConnectionHandler> {
        let origin = Arc::new(Origin::new(self.clone(), info));
        let tie = self.cell.tie(listener);
        Arc::new(ConnectionHandler { origin, tie })
    }
}

/// Answers the requests of one connection.
#[derive(Debug)]
pub struct ConnectionHandler {
    origin: Arc<Origin>,
    tie: Arc<Tie>,
}

impl ConnectionHandler {
    /// The configuration for one request: one load, kept to its end. A listener that is gone from the
    /// configuration still serves the connections that it drains.
    fn listener(&self) -> Arc<Listener> {
        self.origin.proxy.cell.tied(&self.tie)
    }
}

#[cfg(test)]
mod tests;
