//! Writing a response to an HTTP/1 caller, while the rest of the exchange moves on.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use http::Version;

use super::decode::Decoder;
use super::encode::{self, Encoder, ResponseContext};
use super::server::{Peer, Shared};
use crate::base::limits;
use crate::base::timer::Deadline;
use crate::codec::body::{BodyError, Frame, PollBody};
use crate::codec::message::Response;

/// What the answer to a request depends on besides itself.
#[derive(Clone, Copy)]
pub(super) struct Exchange {
    pub(super) version: Version,
    pub(super) head_request: bool,
    pub(super) keep_alive: bool,
    /// The caller waits for `100 Continue` before it sends the body that begins like this.
    pub(super) expected: Option<Decoder>,
    /// How long a caller that has been given everything may leave it unread.
    pub(super) patience: Duration,
}

/// What becomes of the connection.
pub(super) enum End {
    KeepAlive,
    Close,
}

/// Writes a response. The head and what the body has ready go out in one write.
///
/// # Errors
/// When the exchange broke off: the connection must be dropped.
pub(super) async fn respond<B: PollBody>(
    shared: &Arc<Shared>,
    response: Response<B>,
    exchange: Exchange,
    timer: &mut Deadline,
) -> Result<End, BodyError> {
    let Response { head, mut body } = response;
    let Exchange { version, head_request, keep_alive, expected, patience } = exchange;
    let (mut encoder, keep_alive) = {
        let mut connection = shared.connection.lock();
        // An upload that nobody reads any more either ends in bytes already here, or ends the connection.
        let abandoned = Arc::strong_count(shared) == 1;
        // A caller that is refused before it has sent its body may send it or not (RFC 9110 section 10.1.1): what
        // comes next could be either that or a request.
        let undecided = expected == Some(connection.decoder) && connection.read.bytes.is_empty();
        let keep_alive =
            keep_alive && !connection.read_closed && !undecided && (!abandoned || connection.discard_body());
        let context = ResponseContext { version, head_request, keep_alive, length: body.exact_len() };
        let encoder = encode::response(connection.write.head_mut(), &head, context);
        (encoder, keep_alive && encoder != Encoder::UntilClose)
    };
    let mut done = encoder == Encoder::None;
    let mut blocked_since = None;
    let written = poll_fn(|cx| {
        loop {
            while !done && shared.connection.lock().write.len() < limits::H1_WRITE_HIGH_WATER {
                match body.poll_frame(cx) {
                    Poll::Ready(Some(Ok(Frame::Data(data)))) => {
                        encoder.data(&mut shared.connection.lock().write, data)?;
                    }
                    Poll::Ready(Some(Ok(Frame::Trailers(trailers)))) => {
                        encoder.end(&mut shared.connection.lock().write, Some(&trailers))?;
                        done = true;
                    }
                    Poll::Ready(None) => {
                        encoder.end(&mut shared.connection.lock().write, None)?;
                        done = true;
                    }
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                    Poll::Pending => break,
                }
            }
            let mut connection = shared.connection.lock();
            let connection = &mut *connection;
            if !connection.write.is_empty() {
                match connection.write.poll_write(&mut connection.io, cx) {
                    Poll::Ready(Ok(_)) => {
                        blocked_since = None;
                        continue;
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(BodyError::Io(error.kind()))),
                    Poll::Pending => {}
                }
                // The body watches the time as long as there is one.
                if done || body.is_end() {
                    let since = *blocked_since.get_or_insert_with(Instant::now);
                    if timer.poll(cx, since + patience).is_ready() {
                        return Poll::Ready(Err(BodyError::Timeout("the caller does not read its answer")));
                    }
                }
            } else if done {
                return Poll::Ready(Ok(()));
            } else if connection.poll_while_busy(cx) == Peer::Gone {
                return Poll::Ready(Err(BodyError::Incomplete));
            }
            break;
        }
        // Blocked on the caller or on the body: the other direction may still move.
        match body.poll_progress(cx) {
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    })
    .await;
    // What is left of the upload has no reader now.
    drop(body);
    let mut connection = shared.connection.lock();
    let connection = &mut *connection;
    if let Err(error) = written {
        if encoder == Encoder::UntilClose {
            // A close would be the end of the body.
            connection.io.reset_on_close();
        } else {
            // What came before the error is the caller's.
            let _ = connection.write.poll_flush(&mut connection.io, &mut Context::from_waker(Waker::noop()));
        }
        return Err(error);
    }
    connection.idle_since = Instant::now();
    connection.served = true;
    Ok(if keep_alive && !connection.read_closed && connection.discard_body() { End::KeepAlive } else { End::Close })
}
