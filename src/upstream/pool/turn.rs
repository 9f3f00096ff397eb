//! Waiting for a connection that is being opened.

use std::io;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::WorkerPool;
use crate::codec::SendErrorKind;
use crate::upstream::{LeaseError, Overflow};

/// Why a dial failed, for everybody who waited for it.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    Connect(io::ErrorKind, Arc<str>),
    Handshake(&'static str, Arc<str>),
    Timeout,
    Overflow,
    Retired,
}

impl From<Failure> for LeaseError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Connect(kind, text) => {
                Self::Connect(SendErrorKind::Connect(io::Error::new(kind, text.to_string())))
            }
            Failure::Handshake(code, detail) => Self::Connect(SendErrorKind::Handshake { code, detail }),
            Failure::Timeout => Self::Connect(SendErrorKind::ConnectTimeout),
            Failure::Overflow => Self::Overflow(Overflow::Connections),
            Failure::Retired => Self::Retired,
        }
    }
}

/// A place in the queue. One who leaves after it was told to go on passes that to the next: nobody else would.
pub(super) struct Turn<'a> {
    pub(super) told: oneshot::Receiver<Result<(), Failure>>,
    pub(super) pool: &'a WorkerPool,
}

impl Turn<'_> {
    /// Waits to be told to go on.
    pub(super) async fn come(mut self) -> Result<(), LeaseError> {
        match (&mut self.told).await {
            Ok(told) => told.map_err(LeaseError::from),
            Err(_) => Err(LeaseError::Connect(SendErrorKind::Closed)),
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if matches!(self.told.try_recv(), Ok(Ok(()))) {
            self.pool.shared.lock().wake(1);
        }
    }
}
