//! How a proxy goes down without costing a request.
//!
//! Readiness is withdrawn first, by the caller. Whoever routes to us needs time to hear that, so connections are
//! accepted a while longer. Then the inbound sockets are closed, after everything that waits in them was taken,
//! and their connections are told to finish, spread over time. Outbound listeners stay open meanwhile: requests
//! in flight need them. When the last inbound connection is gone, outbound ones are told too.

use std::sync::Arc;

use outrigger_config::model::{Direction, Drain};
use tokio::time::Instant;

use super::ConnectionFactory;
use super::service::Service;
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

/// Drains all listeners. Not cancel safe: once begun, sockets are closed.
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

    let all: Vec<Arc<Service>> = inbound.into_iter().chain(outbound).collect();
    let open = all.iter().map(|service| service.open()).sum();
    if open == 0 {
        return Outcome::Finished;
    }
    // Over TCP the kernel would tell the peers that their connections are gone. Over QUIC nobody would but us, and they would
    // wait until their idle time has passed.
    for service in &all {
        service.close();
    }
    all_drained(&all, Instant::now() + limits::LAST_WORDS).await;
    Outcome::Deadline { open }
}
