//! A connection, or a stream of one, for one request.

use std::borrow::Cow;

use thiserror::Error;

use super::pool::H3Slot;
use crate::codec::h1::ClientConn;
use crate::codec::h2::StreamSlot;
use crate::codec::{Body, Interim, RequestHead, Response, SendError, SendErrorKind};
use crate::telemetry::metrics::Carrier;
pub use crate::telemetry::metrics::Overflow;

/// What a request is sent on.
#[derive(Debug)]
pub enum Lease {
    /// A whole HTTP/1 connection.
    H1(Box<ClientConn>),
    /// A stream of a shared HTTP/2 connection.
    H2(StreamSlot),
    /// A stream of a shared HTTP/3 connection.
    H3(H3Slot),
}

/// Why there is none. Nothing was sent.
#[derive(Debug, Error)]
pub enum LeaseError {
    /// No connection could be made.
    #[error("{0}")]
    Connect(SendErrorKind),
    /// A ceiling is reached.
    #[error("a ceiling of the cluster is reached: {0:?}")]
    Overflow(Overflow),
    /// The pool takes no more requests; there is a newer one.
    #[error("the pool is retired")]
    Retired,
}

impl Lease {
    /// What is spoken.
    #[must_use]
    pub fn carrier(&self) -> Carrier {
        match self {
            Self::H1(_) => Carrier::Http1,
            Self::H2(_) => Carrier::Http2,
            Self::H3(_) => Carrier::Http3,
        }
    }

    /// Sends a request and waits for the response head. Dropping the future cancels it upstream at once.
    ///
    /// # Errors
    /// [`SendError`], which says whether the application may have seen the request.
    pub async fn send(
        self,
        head: &RequestHead,
        body: Body,
        interim: &dyn Interim,
    ) -> Result<Response<Body>, SendError> {
        match self {
            Self::H1(connection) => connection.send(head, body, interim).await,
            Self::H2(slot) => slot.send(Cow::Borrowed(head), body, interim).await,
            // Apart, so that requests over the others need no room for it.
            Self::H3(slot) => Box::pin(slot.send(head, body, interim)).await,
        }
    }
}
