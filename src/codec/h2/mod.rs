//! HTTP/2 (RFC 9113) over the `h2` crate.

use std::task::{Context, Poll};

use super::body::{BodyError, Frame};

/// The body of a request being read from an HTTP/2 downstream.
#[derive(Debug)]
pub struct H2ServerBody {}

/// The body of a response being read from an HTTP/2 upstream.
#[derive(Debug)]
pub struct H2ClientBody {}

impl H2ServerBody {
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
impl H2ClientBody {
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
