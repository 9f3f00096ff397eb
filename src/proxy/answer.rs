//! The body of an answer, as the codecs are given it.

use std::task::{Context, Poll};

use super::tracked::TrackedBody;
use super::tunnel::TunnelBody;
use crate::codec::{BodyError, Frame, PollBody};

/// The body of an answer.
#[expect(clippy::large_enum_variant, reason = "nearly all answers are messages, and a box for each would cost them")]
#[derive(Debug)]
pub enum AnswerBody {
    /// Of a message.
    Message(TrackedBody),
    /// What comes down a tunnel.
    Tunnel(Box<TunnelBody>),
}

impl PollBody for AnswerBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        match self {
            Self::Message(body) => body.poll_frame(cx),
            Self::Tunnel(body) => body.poll_frame(cx),
        }
    }

    fn poll_progress(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        match self {
            Self::Message(body) => body.poll_progress(cx),
            Self::Tunnel(body) => body.poll_progress(cx),
        }
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        match self {
            Self::Message(body) => body.poll_rest(cx),
            Self::Tunnel(body) => body.poll_rest(cx),
        }
    }

    fn is_end(&self) -> bool {
        match self {
            Self::Message(body) => body.is_end(),
            Self::Tunnel(body) => body.is_end(),
        }
    }

    fn exact_len(&self) -> Option<u64> {
        match self {
            Self::Message(body) => body.exact_len(),
            Self::Tunnel(body) => body.exact_len(),
        }
    }
}
