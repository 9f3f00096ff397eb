//! The REST interface, under `/v1`.
//!
//! A request passes, from the outside in: limits of size and time, the audit of refusals (`access::audit`), the proof
//! of who calls and whether their role is enough (`access::guard`), and its handler. What a handler changes is put down
//! in the audit log in the same step as the change. Handlers do what may block on threads that may.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Semaphore;

use crate::ca::{Authority, Confirmations, JoinTokens};
use crate::engine::Engine;
use crate::fleet::{Fleet, Lost};
use crate::store::Store;
use crate::throttle::Throttle;

mod access;
mod body;
mod error;
mod handlers;
pub mod limits;
mod metrics;
mod openapi;
mod router;
mod server;
mod token;
pub mod wire;

pub use access::{Caller, Roles};
pub use error::{ApiError, Code};
pub use openapi::openapi;
pub use router::router;
pub use server::Server;
pub use token::{NewToken, make as make_token};

/// What the API serves from.
pub struct Parts {
    /// Generations and what becomes of them.
    pub engine: Arc<Engine>,
    /// Tokens, history, audit.
    pub store: Arc<dyn Store>,
    /// Proxies.
    pub fleet: Fleet,
    /// Certificates.
    pub authority: Arc<Authority>,
    /// Join tokens.
    pub join_tokens: JoinTokens,
    /// Which proxies know which roots.
    pub confirmations: Arc<dyn Confirmations>,
    /// Roles of client certificates.
    pub roles: Roles,
    /// What could not be put down.
    pub lost: Arc<Lost>,
}

/// The API. Clones are the same.
#[derive(Clone)]
pub struct Api(Arc<Inner>);

struct Inner {
    parts: Parts,
    refusals: Throttle,
    working: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    metrics: metrics::Metrics,
}

impl Api {
    /// Over its parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(Inner {
            parts,
            refusals: Throttle::new(Instant::now()),
            working: Arc::new(Semaphore::new(limits::MAX_REQUESTS)),
            waiting: Arc::new(Semaphore::new(limits::MAX_WAITING)),
            metrics: metrics::Metrics::default(),
        }))
    }

    fn engine(&self) -> &Arc<Engine> {
        &self.0.parts.engine
    }

    fn store(&self) -> &Arc<dyn Store> {
        &self.0.parts.store
    }

    fn fleet(&self) -> &Fleet {
        &self.0.parts.fleet
    }

    fn authority(&self) -> &Arc<Authority> {
        &self.0.parts.authority
    }

    fn join_tokens(&self) -> &JoinTokens {
        &self.0.parts.join_tokens
    }

    fn confirmations(&self) -> &Arc<dyn Confirmations> {
        &self.0.parts.confirmations
    }

    fn roles(&self) -> &Roles {
        &self.0.parts.roles
    }

    fn lost(&self) -> &Lost {
        &self.0.parts.lost
    }

    fn refusals(&self) -> &Throttle {
        &self.0.refusals
    }

    fn metrics(&self) -> &metrics::Metrics {
        &self.0.metrics
    }
}

/// Runs what may block where it may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        tracing::error!(%error, "a request has panicked");
        ApiError::new(Code::Internal, "the request failed in an unexpected way; the log says how")
    })
}
