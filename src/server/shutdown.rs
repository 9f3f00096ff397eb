//! How a proxy goes down without costing a request.
//!
//! Readiness is withdrawn first, by the caller. Whoever routes to us needs time to hear that, so connections are
//! accepted a while longer. Then the inbound sockets are closed, after everything that waits in them was taken,
//! and their connections are told to finish, spread over time. Outbound listeners stay open meanwhile: requests
//! in flight need them. When the last inbound connection is gone, outbound ones are told too. What is open at the deadline
//! is closed.

use outrigger_config::model::{Direction, Drain};
use tokio::time::Instant;

use super::ConnectionFactory;
use super::set::{ListenerSet, all_drained, begin_drains};
use crate::base::limits;

/// How a shutdown ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every connection finished.
    Finished,
    /// The deadline came first; so many connections were still open.
    Deadline {
        /// How many.
        open: usize,
    },
}

/// Drains all listeners, and ends in any case. Not cancel safe: once begun, sockets are closed.
pub async fn shutdown<F: ConnectionFactory>(listeners: &ListenerSet<F>, timing: &Drain) -> Outcome {
    let begun = Instant::now();
    let deadline = begun + timing.deadline;
    tokio::time::sleep(timing.accept_for.min(timing.deadline)).await;

    let (inbound, closed) = listeners.stop(Direction::Inbound);
    // A third: what does not listen to the hint still has two thirds to finish by itself.
    begin_drains(&inbound, deadline.saturating_duration_since(Instant::now()) / 3);
    // Meanwhile the sockets ignore new callers, so hardly anybody who is told to go comes back here.
    closed.await;
    all_drained(&inbound, deadline).await;

    // They go on accepting, so that the application can still ask for something while others finish.
    let outbound = listeners.services(Direction::Outbound);
    begin_drains(&outbound, deadline.saturating_duration_since(Instant::now()) / 3);
    all_drained(&outbound, deadline).await;

    let open = inbound.iter().chain(&outbound).map(|service| service.open()).sum();
    end(listeners).await;
    if open == 0 { Outcome::Finished } else { Outcome::Deadline { open } }
}

/// Closes everything at once. The end of the process does that too, but over QUIC it is silence: peers would wait for as long
/// as they bear that.
pub async fn end<F: ConnectionFactory>(listeners: &ListenerSet<F>) {
    let until = Instant::now() + limits::FAREWELL;
    all_drained(&listeners.close_all(), until).await;
    // Later than this there is no time left to say it.
    let _ = tokio::time::timeout_at(until, listeners.close_upstream()).await;
}
