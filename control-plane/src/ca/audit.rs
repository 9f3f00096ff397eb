//! Who asked for what, and what came of it.

use std::net::SocketAddr;
use std::time::SystemTime;

/// Keeps events. Must not lose one of what was done that it returned from, and may count refusals that come in floods; a
/// failure to keep one is its own to report.
pub trait Audit: Send + Sync {
    /// Keeps an event. May block for as long as a write to disk takes.
    fn record(&self, event: Event);
}

/// Something that was asked of the control plane. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub at: SystemTime,
    /// What was asked for: `certificate.issue`, `token.create`, `rotation.introduce`, …
    pub action: &'static str,
    /// Who asked: a SPIFFE ID, the name of an operator, or nothing where nobody was proven.
    pub by: Option<String>,
    /// From where.
    pub address: Option<SocketAddr>,
    /// What it concerns: a workload, a root.
    pub subject: Option<String>,
    /// What came of it.
    pub outcome: Outcome,
    /// In words.
    pub detail: String,
}

/// What came of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Done,
    /// It was refused, and why in one stable word.
    Refused(&'static str),
}
