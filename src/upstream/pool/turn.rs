//! Waiting for a connection that is being opened.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::shared::{Multiplexed, Shared};
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
pub(super) struct Turn<'a, C: Multiplexed> {
    pub(super) told: oneshot::Receiver<Result<(), Failure>>,
    pub(super) shared: &'a Mutex<Shared<C>>,
}

impl<C: Multiplexed> Turn<'_, C> {
    /// Waits to be told to go on.
    pub(super) async fn come(mut self) -> Result<(), LeaseError> {
        match (&mut self.told).await {
            Ok(told) => told.map_err(LeaseError::from),
            Err(_) => Err(LeaseError::Connect(SendErrorKind::Closed)),
        }
    }
}

impl<C: Multiplexed> Drop for Turn<'_, C> {
    fn drop(&mut self) {
        if matches!(self.told.try_recv(), Ok(Ok(()))) {
            self.shared.lock().wake(1);
        }
    }
}
