//! One stream of a downstream connection: from the first byte of the request to the end of the response.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;

use super::code::Code;
use super::inbound::{Fault, Head, Inbound};
use super::now;
use super::outbound::{Delivery, Outbound, Pump, Stopped, TooLarge};
use super::request;
use super::server::{Guard, H3ServerBody};
use crate::base::drain::Watch;
use crate::base::timer::Deadline;
use crate::codec::body::{Body, BodyError, PollBody};
use crate::codec::error::{Refusal, ResetCode};
use crate::codec::heads::asked::Asked;
use crate::codec::heads::fields;
use crate::codec::heads::request::{Accepted, HeadLimits, Rejected, TOO_LARGE};
use crate::codec::message::{Handler, Interim, Request, Response};

/// 1xx responses that wait for the caller to take them; further ones are left out.
const QUEUED_INTERIMS: usize = 8;

/// So many bytes have arrived long before a connection that is retired then is closed.
const SOON_DELIVERED: u64 = 16 * 1024;

const TIMEOUT: Refusal = Refusal {
    status: StatusCode::REQUEST_TIMEOUT,
    code: "header_timeout",
    detail: "The request head did not arrive in time.",
};

/// What answers the requests of one connection.
pub(super) struct Service<H> {
    pub(super) handler: Arc<H>,
    pub(super) limits: HeadLimits,
    pub(super) header_timeout: Duration,
    /// How long a caller may take for what the library has of a response.
    pub(super) idle_timeout: Duration,
    /// For tunnels.
    pub(super) drain: Watch,
}

/// Reads a request, has it answered and writes the answer. When the caller leaves, everything for it is dropped at once.
#[expect(clippy::manual_async_fn, reason = "an async function keeps its arguments twice")]
pub(super) fn run<H: Handler>(
    service: Arc<Service<H>>,
    mut out: Outbound,
    mut inbound: Inbound,
    guard: Guard,
) -> impl Future<Output = ()> + Send {
    async move {
        let started = now();
        let head = {
            let mut timer = Deadline::default();
            poll_fn(|cx| match inbound.poll_head(cx) {
                Poll::Ready(head) => Poll::Ready(Some(head)),
                Poll::Pending => timer.poll(cx, started + service.header_timeout).map(|()| None),
            })
            .await
        };
        let head = head.map(|head| judge(head, &service.limits));
        if !matches!(head, Some(Err(Unanswered::Reset))) {
            guard.note_request();
        }
        let refusal = match head {
            Some(Ok(Ok(accepted))) => {
                let delivery = answer(&service, accepted, (out, inbound), started, &guard).await;
                return deliver(delivery, service.idle_timeout).await;
            }
            Some(Ok(Err(refusal))) => refusal,
            None => TIMEOUT,
            Some(Err(unanswered)) => {
                if unanswered == Unanswered::Reset {
                    guard.note_early_reset();
                }
                let code = unanswered.code();
                out.reset(code);
                inbound.stop(code);
                return;
            }
        };
        let inbound = Mutex::new(inbound);
        let delivery = {
            let gone = pin!(out.stopped());
            respond(out, service.handler.refuse(refusal), (&inbound, &guard), Asked::Anything, gone).await
        };
        drop(inbound);
        deliver(delivery, service.idle_timeout).await;
    }
}

/// The connection may be closed when the last exchange is over, and then nothing more is sent of what the library still has.
async fn deliver(delivery: Option<Delivery>, patience: Duration) {
    if let Some(delivery) = delivery {
        let _ = tokio::time::timeout(patience, delivery).await;
    }
}

/// A request that gets no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unanswered {
    Incomplete,
    Malformed,
    /// The caller has left.
    Reset,
}

impl Unanswered {
    fn code(self) -> Code {
        match self {
            Self::Incomplete => Code::REQUEST_INCOMPLETE,
            Self::Malformed => Code::MESSAGE_ERROR,
            Self::Reset => Code::REQUEST_CANCELLED,
        }
    }
}

fn judge(head: Result<Head, Fault>, limits: &HeadLimits) -> Result<Result<Accepted, Refusal>, Unanswered> {
    let section = match head {
        Ok(Head::Section(section)) => section,
        Ok(Head::TooLarge) => return Ok(Err(TOO_LARGE)),
        Ok(Head::None) => return Err(Unanswered::Incomplete),
        Err(Fault::Malformed(_)) => return Err(Unanswered::Malformed),
        // With the connection everything ends.
        Err(Fault::Reset(_) | Fault::Broken(_) | Fault::Lost(_) | Fault::EarlyDataRejected) => {
            return Err(Unanswered::Reset);
        }
    };
    match request::accept_section(section, limits) {
        Ok(accepted) => Ok(Ok(accepted)),
        Err(Rejected::Refused(refusal)) => Ok(Err(refusal)),
        Err(Rejected::Unsound(refusal)) => {
            tracing::debug!(detail = refusal.detail, "a malformed HTTP/3 request");
            Err(Unanswered::Malformed)
        }
        Err(Rejected::Malformed) => Err(Unanswered::Malformed),
    }
}

/// Runs the handler and writes its response.
async fn answer<H: Handler>(
    service: &Service<H>,
    accepted: Accepted,
    (mut out, mut inbound): (Outbound, Inbound),
    started: Instant,
    guard: &Guard,
) -> Option<Delivery> {
    let haste = guard.haste();
    let Accepted { head, length } = accepted;
    let asked = Asked::of(&head);
    if asked.is_tunnel() {
        service.handler.drained_by(&service.drain);
    }
    inbound.expect_body(length);
    poll_fn(|cx| {
        inbound.look_ahead(cx);
        Poll::Ready(())
    })
    .await;
    if let Some(fault) = inbound.fault() {
        out.reset(code_of(fault));
        return None;
    }
    let inbound = Arc::new(Mutex::new(inbound));
    let body =
        if inbound.lock().is_end() { Body::Empty } else { Body::H3Server(H3ServerBody::new(Arc::clone(&inbound))) };
    let request = Request { head, body, started };
    let mut gone = pin!(out.stopped());
    let caller = Caller { out: Mutex::new(out) };
    let response = {
        let mut handling = pin!(service.handler.handle(request, &caller));
        poll_fn(|cx| {
            let answered = handling.as_mut().poll(cx);
            // Whatever the handler made of it: a malformed request is no request (RFC 9114 section 4.1.2).
            if let Some(fault) = inbound.lock().fault() {
                haste.note_cancel(now() - started);
                caller.out.lock().reset(code_of(fault));
                return Poll::Ready(None);
            }
            if let Poll::Ready(response) = answered {
                haste.note_request();
                return Poll::Ready(Some(response));
            }
            if gone.as_mut().poll(cx).is_ready() {
                haste.note_cancel(now() - started);
                return Poll::Ready(None);
            }
            if let Poll::Ready(fault) = inbound.lock().poll_fault(cx) {
                haste.note_cancel(now() - started);
                caller.out.lock().reset(code_of(&fault));
                return Poll::Ready(None);
            }
            // What it sent before its answer.
            let _ = caller.out.lock().poll_flush(cx);
            Poll::Pending
        })
        .await
    };
    let mut out = caller.out.into_inner();
    let Some(response) = response else {
        out.reset(Code::REQUEST_CANCELLED);
        inbound.lock().stop(Code::REQUEST_CANCELLED);
        return None;
    };
    if Arc::strong_count(&inbound) == 1 {
        // Nobody reads on. What is here already must be well-formed all the same.
        let fault = poll_fn(|cx| Poll::Ready(inbound.lock().look_through(cx))).await;
        if let Some(fault) = fault {
            out.reset(code_of(&fault));
            return None;
        }
    }
    if asked.is_tunnel()
        && (response.head.status == StatusCode::SWITCHING_PROTOCOLS || response.head.status.is_success())
    {
        inbound.lock().become_tunnel();
    }
    respond(out, response, (&inbound, guard), asked, gone).await
}

/// Writes a response. Where the caller does not take its head, a shorter one says that there is no answer.
async fn respond<B: PollBody + Send>(
    mut out: Outbound,
    response: Response<B>,
    (inbound, guard): (&Mutex<Inbound>, &Guard),
    asked: Asked,
    gone: Pin<&mut (impl Future<Output = ()> + Send)>,
) -> Option<Delivery> {
    let Response { mut head, body } = response;
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        // RFC 9220 section 3: this is how the other versions agree.
        head.status = StatusCode::OK;
    }
    fields::make_sendable(&mut head.headers);
    let queued = out.queue_head(|section| {
        section.status(head.status);
        section.fields(&head.headers);
    });
    if queued.is_ok() {
        let bodiless = asked.is_bodiless(head.status);
        drop(head);
        return finish(Pump::new(out, body, bodiless), (inbound, guard), asked, gone).await;
    }
    tracing::debug!("the head of a response is larger than the caller takes");
    drop(body);
    if out.queue_head(|section| section.status(StatusCode::BAD_GATEWAY)) == Err(TooLarge) {
        out.reset(Code::INTERNAL_ERROR);
    }
    finish(Pump::new(out, Body::Empty, true), (inbound, guard), Asked::Anything, gone).await
}

/// Writes the rest of a response. What is left of the upload when everything is dropped is not needed: the caller is told
/// so with H3_NO_ERROR (RFC 9114 section 4.1). What is returned is to be waited for when everything else is dropped: much that
/// is written may be on its way for long, and a connection that is about to be closed must not be before it has arrived.
async fn finish<B: PollBody + Send>(
    mut pump: Pump<B>,
    (inbound, guard): (&Mutex<Inbound>, &Guard),
    asked: Asked,
    mut gone: Pin<&mut (impl Future<Output = ()> + Send)>,
) -> Option<Delivery> {
    let mut written = false;
    let whole = poll_fn(|cx| {
        let polled = if written { Poll::Ready(Ok(())) } else { pump.poll(cx) };
        let polled = match polled {
            Poll::Ready(Ok(())) => {
                written = true;
                pump.poll_rest(cx)
            }
            other => other,
        };
        let code = match polled {
            Poll::Ready(Ok(())) => return Poll::Ready(true),
            Poll::Ready(Err(Stopped::Stream(_))) => Code::REQUEST_CANCELLED,
            Poll::Ready(Err(Stopped::Body(error))) => {
                tracing::debug!(%error, "a response ended before its end");
                reset_for(error, asked)
            }
            Poll::Pending => match inbound.lock().poll_fault(cx) {
                Poll::Ready(fault) => code_of(&fault),
                Poll::Pending => {
                    ready!(gone.as_mut().poll(cx));
                    Code::REQUEST_CANCELLED
                }
            },
        };
        pump.reset(code);
        inbound.lock().stop(code);
        Poll::Ready(false)
    })
    .await;
    (whole && (pump.written() > SOON_DELIVERED || guard.is_retiring())).then(|| pump.delivery())
}

/// How the caller is told that a response ends because of what it did.
fn code_of(fault: &Fault) -> Code {
    match fault {
        Fault::Malformed(_) => Code::MESSAGE_ERROR,
        Fault::Broken(_) | Fault::Reset(_) | Fault::Lost(_) | Fault::EarlyDataRejected => Code::REQUEST_CANCELLED,
    }
}

/// How the caller is told that a response ends before its end.
fn reset_for(error: BodyError, asked: Asked) -> Code {
    match error {
        // These say what happened and invite nothing. A refusal passed on would invite a retry of what was executed,
        // NO_ERROR would pass for a complete response.
        BodyError::Reset(ResetCode::Http3(Code::REQUEST_CANCELLED) | ResetCode::Http2(h2::Reason::CANCEL)) => {
            Code::REQUEST_CANCELLED
        }
        BodyError::Reset(ResetCode::Http3(Code::EXCESSIVE_LOAD) | ResetCode::Http2(h2::Reason::ENHANCE_YOUR_CALM)) => {
            Code::EXCESSIVE_LOAD
        }
        // RFC 9220 section 3.
        _ if asked == Asked::Upgrade => Code::REQUEST_CANCELLED,
        // RFC 9114 section 4.4.
        BodyError::Reset(_) | BodyError::Incomplete | BodyError::Malformed(_) | BodyError::Io(_)
            if asked == Asked::Connect =>
        {
            Code::CONNECT_ERROR
        }
        BodyError::Reset(_) | BodyError::Incomplete | BodyError::Malformed(_) | BodyError::Io(_) => {
            Code::INTERNAL_ERROR
        }
        BodyError::Timeout(_) | BodyError::Denied | BodyError::Abandoned | BodyError::Outrun => Code::REQUEST_CANCELLED,
    }
}

/// The caller of one request, as a handler sees it.
struct Caller {
    out: Mutex<Outbound>,
}

impl Interim for Caller {
    fn send(&self, status: StatusCode, headers: &HeaderMap) {
        // RFC 9114 section 4.5: there is no 101 in HTTP/3.
        if status == StatusCode::SWITCHING_PROTOCOLS || !status.is_informational() {
            return;
        }
        let mut out = self.out.lock();
        if out.queued() >= QUEUED_INTERIMS {
            tracing::debug!(%status, "an interim response was not sent: the caller takes none");
            return;
        }
        let mut headers = headers.clone();
        fields::make_sendable(&mut headers);
        let queued = out.queue_head(|section| {
            section.status(status);
            section.fields(&headers);
        });
        if queued == Err(TooLarge) {
            tracing::debug!(%status, "an interim response was not sent: it is larger than the caller takes");
        }
    }
}
