//! Bodies. A closed set, so that a chunk is never boxed and never copied.

use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use thiserror::Error;

use super::error::ResetCode;
use super::h1::{ClientBody, ClientTunnel, ServerBody, ServerTunnel};
use super::h2::{H2ClientBody, H2ServerBody};
use super::h3::{H3ClientBody, H3ServerBody};
use super::prefixed::PrefixedBody;
use super::replay::ReplayBody;
use super::tee::{CopyBody, TeeBody};
use super::tunnel::WayUpBody;

/// A piece of a body.
#[derive(Debug)]
pub enum Frame {
    /// Bytes, never empty.
    Data(Bytes),
    /// The trailer section; nothing follows.
    Trailers(HeaderMap),
}

/// Why a body ended before its end. Never mistaken for a short success.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BodyError {
    /// The peer closed in the middle.
    #[error("the peer closed the connection in the middle of the body")]
    Incomplete,
    /// The peer reset the stream.
    #[error("the peer reset the stream ({0})")]
    Reset(ResetCode),
    /// The framing is invalid.
    #[error("invalid body framing: {0}")]
    Malformed(&'static str),
    /// Reading failed.
    #[error("reading the body failed: {0}")]
    Io(std::io::ErrorKind),
    /// A time limit ran out.
    #[error("{0}")]
    Timeout(&'static str),
    /// The caller may no longer do this.
    #[error("the exchange is no longer allowed")]
    Denied,
    /// The other direction of the exchange failed.
    #[error("the exchange was given up")]
    Abandoned,
    /// Another attempt at the same request has read on, and what this one would have read next is no longer kept.
    #[error("the body is no longer kept for this attempt")]
    Outrun,
}

/// A source of frames, polled by a codec that writes them out.
pub trait PollBody {
    /// The next frame; `None` at the end. After an error nothing more comes.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>>;

    /// Called while the writer is blocked and cannot take a frame: lets the other direction of the
    /// exchange (an upload still going on) move, and watches time limits. An error ends the exchange.
    ///
    /// # Errors
    /// When the exchange must be given up.
    fn poll_progress(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError>;

    /// Called when this has ended and been passed on whole: what is left of the exchange. Ready at once, but for a tunnel,
    /// whose way up may go on after the end of the way down; ready then when that has ended too.
    ///
    /// # Errors
    /// When the way up broke off.
    fn poll_rest(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        Poll::Ready(Ok(()))
    }

    /// Whether it is known that no frame will come.
    fn is_end(&self) -> bool;

    /// The exact number of bytes to come, where known.
    fn exact_len(&self) -> Option<u64>;
}

/// The body of a request from a downstream or of a response from an upstream.
#[derive(Debug)]
pub enum Body {
    /// Nothing.
    Empty,
    /// One chunk made here.
    Full(Bytes),
    /// From an HTTP/1 downstream.
    H1Server(ServerBody),
    /// What an HTTP/1 downstream sends through a tunnel.
    H1ServerTunnel(ServerTunnel),
    /// From an HTTP/1 upstream, with the rest of the upload.
    H1Client(Box<ClientBody>),
    /// What an HTTP/1 upstream sends through a tunnel, with the way up.
    H1ClientTunnel(Box<ClientTunnel>),
    /// From an HTTP/2 downstream.
    H2Server(H2ServerBody),
    /// From an HTTP/2 upstream, with the rest of the upload.
    H2Client(Box<H2ClientBody>),
    /// From an HTTP/3 downstream.
    H3Server(H3ServerBody),
    /// From an HTTP/3 upstream, with the rest of the upload.
    H3Client(Box<H3ClientBody>),
    /// What a downstream sends through a tunnel, of any version.
    WayUp(Box<WayUpBody>),
    /// One attempt at sending a body that may be sent again.
    Replay(Box<ReplayBody>),
    /// One whose beginning was read ahead.
    Prefixed(Box<PrefixedBody>),
    /// One that is copied as it streams.
    Tee(Box<TeeBody>),
    /// Such a copy.
    Copy(Box<CopyBody>),
}

impl PollBody for Body {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                if bytes.is_empty() { Poll::Ready(None) } else { Poll::Ready(Some(Ok(Frame::Data(bytes)))) }
            }
            Self::H1Server(body) => body.poll_frame(cx),
            Self::H1ServerTunnel(body) => body.poll_frame(cx),
            Self::H1Client(body) => body.poll_frame(cx),
            Self::H1ClientTunnel(body) => body.poll_frame(cx),
            Self::H2Server(body) => body.poll_frame(cx),
            Self::H2Client(body) => body.poll_frame(cx),
            Self::H3Server(body) => body.poll_frame(cx),
            Self::H3Client(body) => body.poll_frame(cx),
            Self::WayUp(body) => body.poll_frame(cx),
            Self::Replay(body) => body.poll_frame(cx),
            Self::Prefixed(body) => body.poll_frame(cx),
            Self::Tee(body) => body.poll_frame(cx),
            Self::Copy(body) => body.poll_frame(cx),
        }
    }

    fn poll_progress(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        match self {
            Self::Empty | Self::Full(_) | Self::H1Server(_) | Self::H1ServerTunnel(_) => Ok(()),
            Self::H2Server(body) => body.poll_progress(cx),
            Self::H1Client(body) => body.poll_progress(cx),
            Self::H1ClientTunnel(body) => body.poll_progress(cx),
            Self::H2Client(body) => body.poll_progress(cx),
            Self::H3Server(body) => body.poll_progress(cx),
            Self::H3Client(body) => body.poll_progress(cx),
            Self::WayUp(body) => body.poll_progress(cx),
            Self::Replay(body) => body.poll_progress(cx),
            Self::Prefixed(body) => body.poll_progress(cx),
            Self::Tee(body) => body.poll_progress(cx),
            Self::Copy(body) => body.poll_progress(cx),
        }
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        match self {
            Self::H1ClientTunnel(body) => body.poll_rest(cx),
            Self::H2Client(body) => body.poll_rest(cx),
            Self::H3Client(body) => body.poll_rest(cx),
            Self::Prefixed(body) => body.poll_rest(cx),
            _ => Poll::Ready(Ok(())),
        }
    }

    fn is_end(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::H1Server(body) => body.is_end(),
            Self::H1ServerTunnel(body) => body.is_end(),
            Self::H1Client(body) => body.is_end(),
            Self::H1ClientTunnel(body) => body.is_end(),
            Self::H2Server(body) => body.is_end(),
            Self::H2Client(body) => body.is_end(),
            Self::H3Server(body) => body.is_end(),
            Self::H3Client(body) => body.is_end(),
            Self::WayUp(body) => body.is_end(),
            Self::Replay(body) => body.is_end(),
            Self::Prefixed(body) => body.is_end(),
            Self::Tee(body) => body.is_end(),
            Self::Copy(body) => body.is_end(),
        }
    }

    fn exact_len(&self) -> Option<u64> {
        match self {
            Self::Empty => Some(0),
            Self::Full(bytes) => Some(bytes.len() as u64),
            Self::H1Server(body) => body.exact_len(),
            Self::H1ServerTunnel(body) => body.exact_len(),
            Self::H1Client(body) => body.exact_len(),
            Self::H1ClientTunnel(body) => body.exact_len(),
            Self::H2Server(body) => body.exact_len(),
            Self::H2Client(body) => body.exact_len(),
            Self::H3Server(body) => body.exact_len(),
            Self::H3Client(body) => body.exact_len(),
            Self::WayUp(body) => body.exact_len(),
            Self::Replay(body) => body.exact_len(),
            Self::Prefixed(body) => body.exact_len(),
            Self::Tee(body) => body.exact_len(),
            Self::Copy(body) => body.exact_len(),
        }
    }
}
