//! One stream of a downstream connection: from the request to the end of the response.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Method, StatusCode};
use parking_lot::Mutex;

use super::fault;
use super::fields;
use super::now;
use super::pump::{Pump, Stopped};
use super::request::{self, HeadLimits, Rejected};
use crate::codec::body::PollBody;
use crate::codec::message::{Handler, Interim, Request, Response};

/// Answers one request. When the caller resets the stream or leaves, everything for it is dropped at once.
pub(super) async fn run<H: Handler>(
    handler: Arc<H>,
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    limits: HeadLimits,
) {
    match request::accept(request, &limits, now()) {
        Ok(request) => {
            let asked_head = request.head.method == Method::HEAD;
            let caller = Caller { stream: Mutex::new(respond) };
            if let Some(response) = answer(&*handler, request, &caller).await {
                write(caller.stream.into_inner(), response, asked_head).await;
            }
        }
        Err(Rejected::Refused(refusal)) => write(respond, handler.refuse(refusal), false).await,
        Err(Rejected::Malformed) => respond.send_reset(Reason::PROTOCOL_ERROR),
    }
}

/// The handler's response, or `None` when the caller left first.
async fn answer<H: Handler>(handler: &H, request: Request, caller: &Caller) -> Option<Response<H::Body>> {
    let mut response = pin!(handler.handle(request, caller));
    poll_fn(|cx| {
        if let Poll::Ready(response) = response.as_mut().poll(cx) {
            return Poll::Ready(Some(response));
        }
        // After the handler: sending a 1xx replaces the waker that was registered here.
        caller.stream.lock().poll_reset(cx).map(|_| None)
    })
    .await
}

/// Writes a response. What is left of the upload is refused when everything is dropped: the library then sends
/// RST_STREAM with NO_ERROR behind the END_STREAM (RFC 9113 section 8.1).
async fn write<B: PollBody>(mut respond: SendResponse<Bytes>, response: Response<B>, asked_head: bool) {
    let Response { head, body } = response;
    let bodiless = asked_head || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let end = bodiless || body.is_end();
    let mut message = http::Response::new(());
    *message.status_mut() = head.status;
    *message.headers_mut() = head.headers;
    fields::make_sendable(message.headers_mut());
    let Ok(stream) = respond.send_response(message, end) else { return };
    if end {
        return;
    }
    let mut pump = Pump::new(stream, body);
    let stopped = poll_fn(|cx| match pump.poll(cx) {
        Poll::Ready(done) => Poll::Ready(done),
        Poll::Pending => pump.poll_gone(cx).map(|()| Err(Stopped::Stream)),
    })
    .await;
    if let Err(Stopped::Body(error)) = stopped {
        tracing::debug!(%error, "a response ended before its end");
        pump.reset(fault::reset_for(error));
    }
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
