//! One stream of a downstream connection: from the request to the end of the response.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;

use super::fault;
use super::now;
use super::pump::{Pump, Stopped};
use super::request;
use crate::base::drain::Watch;
use crate::base::task;
use crate::codec::body::PollBody;
use crate::codec::haste::Haste;
use crate::codec::heads::asked::Asked;
use crate::codec::heads::fields;
use crate::codec::heads::request::{HeadLimits, Rejected};
use crate::codec::message::{Handler, Interim, Request, Response};

/// Checks a request and starts a task that answers it. When the caller resets the stream or leaves, everything
/// for it is dropped at once.
pub(super) fn start<H: Handler>(
    handler: &Arc<H>,
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    limits: &HeadLimits,
    (drain, haste): (&Watch, &Arc<Haste>),
) {
    match request::accept(request, limits, now()) {
        Ok(request) => {
            if request.head.asks_for_tunnel() {
                handler.drained_by(drain);
            }
            // In a place of its own: the runtime moves what it is given several times, and this is large.
            task::spawn("h2_exchange", Box::pin(answer(Arc::clone(handler), Arc::clone(haste), request, respond)));
        }
        Err(Rejected::Refused(refusal) | Rejected::Unsound(refusal)) => {
            if let Ok(Some(pump)) = begin(&mut respond, handler.refuse(refusal), Asked::Anything) {
                task::spawn("h2_refusal", finish(pump, Asked::Anything));
            }
        }
        Err(Rejected::Malformed) => respond.send_reset(Reason::PROTOCOL_ERROR),
    }
}

/// Runs the handler and writes its response.
#[expect(clippy::manual_async_fn, reason = "an async function keeps its arguments twice: 800 bytes more")]
pub(super) fn answer<H: Handler>(
    handler: Arc<H>,
    haste: Arc<Haste>,
    request: Request,
    respond: SendResponse<Bytes>,
) -> impl Future<Output = ()> + Send {
    async move {
        let asked = Asked::of(&request.head);
        let started = request.started;
        let caller = Caller { stream: Mutex::new(respond) };
        let pump = {
            let mut handling = pin!(handler.handle(request, &caller));
            poll_fn(|cx| {
                if let Poll::Ready(response) = handling.as_mut().poll(cx) {
                    let begun = begin(&mut caller.stream.lock(), response, asked);
                    match begun {
                        Ok(_) => haste.note_request(),
                        // The handler noticed first, by the body.
                        Err(Gone) => haste.note_cancel(now() - started),
                    }
                    return Poll::Ready(begun.ok().flatten());
                }
                // After the handler: sending a 1xx replaces the waker that was registered here.
                caller.stream.lock().poll_reset(cx).map(|_| {
                    haste.note_cancel(now() - started);
                    None
                })
            })
            .await
        };
        if let Some(pump) = pump {
            finish(pump, asked).await;
        }
    }
}

/// The caller has left before there was an answer.
struct Gone;

/// Sends the head of a response. What is left to do, if anything is.
fn begin<B: PollBody>(
    respond: &mut SendResponse<Bytes>,
    response: Response<B>,
    asked: Asked,
) -> Result<Option<Pump<B>>, Gone> {
    let Response { mut head, body } = response;
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        // RFC 8441 section 5: this is how HTTP/2 agrees.
        head.status = StatusCode::OK;
    }
    let bodiless = asked.is_bodiless(head.status);
    let end = bodiless || body.is_end();
    let mut message = http::Response::new(());
    *message.status_mut() = head.status;
    *message.headers_mut() = head.headers;
    fields::make_sendable(message.headers_mut());
    match respond.send_response(message, end) {
        Ok(stream) => Ok((!end).then(|| Pump::new(stream, body))),
        Err(_) => Err(Gone),
    }
}

/// Writes the rest of a response. What is left of the upload is refused when everything is dropped: the library
/// then sends RST_STREAM with NO_ERROR behind the END_STREAM (RFC 9113 section 8.1).
fn finish<B: PollBody + Send>(mut pump: Pump<B>, asked: Asked) -> impl Future<Output = ()> + Send {
    let mut written = false;
    poll_fn(move |cx| {
        let polled = if written { Poll::Ready(Ok(())) } else { pump.poll(cx) };
        let polled = match polled {
            Poll::Ready(Ok(())) => {
                written = true;
                pump.poll_rest(cx)
            }
            other => other,
        };
        let stopped = match polled {
            Poll::Ready(done) => done,
            Poll::Pending => {
                ready!(pump.poll_gone(cx));
                Err(Stopped::Stream)
            }
        };
        if let Err(Stopped::Body(error)) = stopped {
            tracing::debug!(%error, "a response ended before its end");
            pump.reset(match asked {
                Asked::Connect => fault::reset_of_connect(error),
                Asked::Upgrade => Reason::CANCEL,
                Asked::Head | Asked::Anything => fault::reset_for(error),
            });
        }
        Poll::Ready(())
    })
}

/// The caller of one request, as a handler sees it.
struct Caller {
    stream: Mutex<SendResponse<Bytes>>,
}

impl Interim for Caller {
    fn send(&self, status: StatusCode, headers: &HeaderMap) {
        // RFC 9113 section 8.6: there is no 101 in HTTP/2.
        if status == StatusCode::SWITCHING_PROTOCOLS || !status.is_informational() {
            return;
        }
        let mut message = http::Response::new(());
        *message.status_mut() = status;
        *message.headers_mut() = headers.clone();
        fields::make_sendable(message.headers_mut());
        let mut stream = self.stream.lock();
        // The library would write it even to a stream that was reset.
        let here = stream.poll_reset(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_pending();
        if here && let Err(error) = stream.send_informational(message) {
            tracing::debug!(%error, "an interim response was not sent");
        }
    }
}
