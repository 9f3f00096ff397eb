//! HTTP/1.0 and HTTP/1.1 (RFC 9110, RFC 9112).

use std::task::{Context, Poll};

use super::body::{BodyError, Frame};

/// The body of a request being read from an HTTP/1 downstream.
#[derive(Debug)]
pub struct ServerBody {}

/// The body of a response being read from an HTTP/1 upstream.
#[derive(Debug)]
pub struct ClientBody {}

impl ServerBody {
    pub(crate) fn poll_frame(&mut self, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        Poll::Ready(None)
    }
    pub(crate) fn is_end(&self) -> bool {
        true
    }
    pub(crate) fn exact_len(&self) -> Option<u64> {
        None
    }
}
impl ClientBody {
    pub(crate) fn poll_frame(&mut self, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        Poll::Ready(None)
    }
    pub(crate) fn poll_progress(&mut self, _cx: &mut Context<'_>) -> Result<(), BodyError> {
        Ok(())
    }
    pub(crate) fn is_end(&self) -> bool {
        true
    }
    pub(crate) fn exact_len(&self) -> Option<u64> {
        None
    }
}
