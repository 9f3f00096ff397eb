//! One request to an upstream and its response.

use std::borrow::Cow;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker, ready};

use http::header::CONTENT_LENGTH;
use http::uri::Scheme;
use http::{Method, StatusCode};
use quinn::{ConnectionError, VarInt};

use super::StreamSlot;
use crate::base::limits;
use crate::codec::body::{Body, BodyError, Frame, PollBody};
use crate::codec::error::{REFUSED_BY_PEER, ResetCode, SendError, SendErrorKind, Sent, certificate_alert};
use crate::codec::h3::code::Code;
use crate::codec::h3::frames::Side;
use crate::codec::h3::inbound::{Fault, Head, Inbound};
use crate::codec::h3::lost;
use crate::codec::h3::outbound::{Gone, Outbound, Pump, Stopped, TooLarge};
use crate::codec::h3::qpack::{Encoder, Pseudo, Section};
use crate::codec::heads::asked::Asked;
use crate::codec::heads::fields;
use crate::codec::heads::response::{self, Accepted};
use crate::codec::message::{Interim, RequestHead, Response, Upgrade};
use crate::codec::websocket::{self, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_VERSION};

impl StreamSlot {
    /// Sends a request and waits for the response head, while the upload goes on. 1xx responses go to `interim`.
    ///
    /// The request is handed over by the call itself, so that the future need not hold it; only one that asks for a tunnel
    /// waits for the server's settings first. Dropping the future resets the stream: the upstream sees that the caller has
    /// left.
    ///
    /// # Errors
    /// [`SendError`], which says whether the application may have seen the request.
    #[expect(clippy::needless_pass_by_value, reason = "as in HTTP/2, where the library keeps it")]
    pub fn send<'a>(
        self,
        head: Cow<'_, RequestHead>,
        body: Body,
        interim: &'a dyn Interim,
    ) -> impl Future<Output = Result<Response<Body>, SendError>> + Send + use<'a> {
        let mut exchange = self.begin(&head, body);
        poll_fn(move |cx| match &mut exchange {
            Some(begun) => {
                let outcome = ready!(begun.poll(cx, interim));
                exchange = None;
                Poll::Ready(outcome)
            }
            None => Poll::Pending,
        })
    }

    fn begin(mut self, head: &RequestHead, body: Body) -> Option<Exchange> {
        let streams = self.streams.take()?;
        let link = &self.link;
        let id = VarInt::from(streams.inbound.id()).into_inner();
        let mut out = Outbound::new(streams.out, Code::REQUEST_CANCELLED, &link.limit);
        let inbound =
            Inbound::new((link.connection.clone(), None), streams.inbound, Side::Client, limits::RESPONSE_HEAD_BYTES);
        let asked = Asked::of(head);
        let mut headers = Cow::Borrowed(&head.headers);
        if head.upgrade == Some(Upgrade::WebSocket) && !headers.contains_key(SEC_WEBSOCKET_VERSION) {
            headers.to_mut().insert(SEC_WEBSOCKET_VERSION, websocket::VERSION);
        }
        if fields::needs_cleaning(&headers) {
            fields::make_sendable(headers.to_mut());
        }
        let queued = out.queue_head(|section| {
            write_pseudo(head, section);
            section.fields(&headers);
        });
        let reused = link.served.fetch_add(1, Ordering::Relaxed) > 0;
        let upload = match asked {
            // Before an answer has agreed to a tunnel nothing goes up.
            Asked::Upgrade | Asked::Connect => Pump::held(out, body),
            Asked::Head | Asked::Anything => Pump::new(out, body, false),
        };
        let mut exchange = Exchange {
            stage: if asked == Asked::Upgrade { Stage::Settings } else { Stage::Sent },
            asked,
            id,
            reused,
            begun: false,
            early: None,
            interims: 0,
            place: None,
            open: Some(Open { inbound, upload: Some(upload), slot: self }),
        };
        // The head leaves now, with what is there of the body. Whoever is to be woken polls before long.
        exchange.early = match queued {
            Ok(()) => exchange.send(&mut Context::from_waker(Waker::noop())).err(),
            Err(TooLarge) => Some(Failure::TooLarge),
        };
        Some(exchange)
    }
}

fn write_pseudo(head: &RequestHead, section: &mut Encoder<'_>) {
    let connect = head.method == Method::CONNECT && head.upgrade.is_none();
    section.method(if head.upgrade.is_some() { &Method::CONNECT } else { &head.method });
    if !connect {
        section.scheme(if head.authority.is_some() { &head.scheme } else { &Scheme::HTTPS });
    }
    if let Some(authority) = &head.authority {
        section.authority(authority.as_str());
    }
    if !connect {
        section.path(head.path.as_str());
    }
    match &head.upgrade {
        Some(Upgrade::WebSocket) => section.protocol("websocket"),
        Some(Upgrade::Other(token)) => section.protocol(token),
        None => {}
    }
}

/// A request whose response head has not come yet.
struct Exchange {
    stage: Stage,
    asked: Asked,
    id: u64,
    reused: bool,
    /// Something was handed to the library, which may have sent it.
    begun: bool,
    /// What went wrong before the first poll.
    early: Option<Failure>,
    interims: u32,
    /// Among those that wait.
    place: Option<usize>,
    /// `None` once there is an outcome.
    open: Option<Open>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Whether the server takes extended CONNECT is not known.
    Settings,
    Sent,
}

struct Open {
    inbound: Inbound,
    upload: Option<Pump<Body>>,
    slot: StreamSlot,
}

enum Failure {
    Fault(Fault),
    /// Nothing can be sent.
    Gone(ConnectionError),
    Rejected,
    Unsupported,
    /// The server takes no head of this size.
    TooLarge,
    Bad(&'static str),
    RequestBody(BodyError),
}

impl From<&'static str> for Failure {
    fn from(problem: &'static str) -> Self {
        Self::Bad(problem)
    }
}

impl Exchange {
    fn poll(&mut self, cx: &mut Context<'_>, interim: &dyn Interim) -> Poll<Result<Response<Body>, SendError>> {
        let outcome = match self.early.take() {
            Some(failure) => Err(failure),
            None => match self.poll_response(cx, interim) {
                Poll::Ready(outcome) => outcome,
                Poll::Pending => {
                    self.wait(cx);
                    // A GOAWAY, or the settings, may have come in between.
                    match self.overtaken() {
                        Some(failure) => Err(failure),
                        None => return Poll::Pending,
                    }
                }
            },
        };
        self.leave();
        let Some(open) = self.open.take() else { return Poll::Pending };
        Poll::Ready(match outcome {
            Ok(accepted) => Ok(self.respond(accepted, open)),
            Err(failure) => Err(self.error(failure, open)),
        })
    }

    fn poll_response(&mut self, cx: &mut Context<'_>, interim: &dyn Interim) -> Poll<Result<Accepted, Failure>> {
        if let Some(failure) = self.overtaken() {
            return Poll::Ready(Err(failure));
        }
        self.send(cx)?;
        if self.stage == Stage::Settings {
            return Poll::Pending;
        }
        let Some(Open { inbound, slot, .. }) = &mut self.open else { return Poll::Pending };
        loop {
            let head = ready!(inbound.poll_head(cx)).map_err(Failure::Fault)?;
            slot.link.answered.store(true, Ordering::Relaxed);
            let section = match head {
                Head::Section(section) => section,
                Head::TooLarge => return Poll::Ready(Err(Failure::Bad("its head is too large"))),
                Head::None => return Poll::Ready(Err(Failure::Bad("it ended before its head"))),
            };
            let message = message_of(section)?;
            if !message.status().is_informational() {
                return Poll::Ready(response::accept(message, self.method()).map_err(Failure::Bad));
            }
            self.interims += 1;
            if self.interims > limits::INTERIM_RESPONSES {
                return Poll::Ready(Err(Failure::Bad("too many 1xx responses")));
            }
            let head = response::accept_interim(message)?;
            interim.send(head.status, &head.headers);
            inbound.expect_head();
        }
    }

    /// As far as it concerns bodies.
    fn method(&self) -> &'static Method {
        match self.asked {
            Asked::Head => &Method::HEAD,
            Asked::Connect | Asked::Upgrade | Asked::Anything => &Method::GET,
        }
    }

    /// What the server has said meanwhile that decides.
    fn overtaken(&mut self) -> Option<Failure> {
        let link = &self.open.as_ref()?.slot.link;
        if self.id >= link.rejected_from.load(Ordering::Relaxed) {
            return Some(Failure::Rejected);
        }
        if self.stage == Stage::Settings {
            if let Some(error) = link.connection.close_reason() {
                return Some(Failure::Gone(error));
            }
            let settings = link.state.lock().settings?;
            if !settings.enable_connect_protocol {
                return Some(Failure::Unsupported);
            }
            self.stage = Stage::Sent;
        }
        None
    }

    /// Moves the upload on. When the stream has ended under it, the response tells what to make of that: an answer
    /// that came first is complete (RFC 9114 section 4.1).
    fn send(&mut self, cx: &mut Context<'_>) -> Result<(), Failure> {
        if self.stage == Stage::Settings {
            return Ok(());
        }
        let Some(Open { upload, .. }) = &mut self.open else { return Ok(()) };
        let Some(pump) = upload else { return Ok(()) };
        let moved = pump.poll(cx);
        self.begun |= pump.is_begun();
        match moved {
            Poll::Pending => return Ok(()),
            Poll::Ready(Err(Stopped::Body(error))) => {
                pump.reset(Code::REQUEST_CANCELLED);
                return Err(Failure::RequestBody(error));
            }
            Poll::Ready(Err(Stopped::Stream(Gone::EarlyDataRejected))) => return Err(Failure::Rejected),
            Poll::Ready(Err(Stopped::Stream(Gone::Lost(error)))) => return Err(Failure::Gone(error)),
            Poll::Ready(Ok(()) | Err(Stopped::Stream(Gone::Stopped(_)))) => *upload = None,
        }
        Ok(())
    }

    fn respond(&mut self, accepted: Accepted, open: Open) -> Response<Body> {
        let Accepted { mut head, length } = accepted;
        let Open { mut inbound, mut upload, slot } = open;
        let tunnel = matches!(self.asked, Asked::Connect | Asked::Upgrade);
        if tunnel && head.status.is_success() {
            inbound.become_tunnel();
            if self.asked == Asked::Upgrade {
                head.status = StatusCode::SWITCHING_PROTOCOLS;
            }
            for name in [SEC_WEBSOCKET_ACCEPT, CONTENT_LENGTH] {
                head.headers.remove(name);
            }
            if let Some(pump) = &mut upload {
                pump.release();
            }
            let body = H3ClientBody { inbound, upload, _slot: slot, tunnel: Tunnel::Open, gone: None };
            return Response { head, body: Body::H3Client(Box::new(body)) };
        } else {
            if tunnel && let Some(pump) = upload.take() {
                pump.finish();
            }
            let bodiless =
                self.asked == Asked::Head || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
            inbound.expect_body(if bodiless { Some(0) } else { length });
        }
        inbound.look_ahead(&mut Context::from_waker(Waker::noop()));
        if upload.is_none() && inbound.is_end() {
            return Response { head, body: Body::Empty };
        }
        let body = H3ClientBody { inbound, upload, _slot: slot, tunnel: Tunnel::None, gone: None };
        Response { head, body: Body::H3Client(Box::new(body)) }
    }

    #[cold]
    fn error(&self, failure: Failure, mut open: Open) -> SendError {
        let unsent = !self.begun;
        let (never, kind) = match failure {
            Failure::Rejected | Failure::Fault(Fault::Reset(Code::REQUEST_REJECTED) | Fault::EarlyDataRejected) => {
                (true, SendErrorKind::Refused)
            }
            Failure::Unsupported => (true, SendErrorKind::NoExtendedConnect),
            Failure::TooLarge => (true, SendErrorKind::HeadTooLarge),
            Failure::Fault(Fault::Reset(code)) => (unsent, SendErrorKind::Reset(ResetCode::Http3(code))),
            Failure::Fault(Fault::Broken(broken)) => (unsent, SendErrorKind::BadResponse(broken.detail)),
            Failure::Fault(Fault::Malformed(problem)) => (unsent, SendErrorKind::BadResponse(problem)),
            Failure::Bad(problem) => {
                open.inbound.stop(Code::MESSAGE_ERROR);
                (unsent, SendErrorKind::BadResponse(problem))
            }
            Failure::RequestBody(error) => (unsent, SendErrorKind::RequestBody(error)),
            Failure::Gone(error) | Failure::Fault(Fault::Lost(error)) => {
                let kind = kind_of(&error, open.slot.link.is_let_in());
                (unsent || matches!(kind, SendErrorKind::Handshake { .. }), kind)
            }
        };
        SendError { sent: if never { Sent::Never } else { Sent::Maybe }, reused: self.reused, kind }
    }

    /// Is woken by what concerns every exchange from now on.
    fn wait(&mut self, cx: &mut Context<'_>) {
        let Some(open) = &self.open else { return };
        let waiting = &mut open.slot.link.state.lock().waiting;
        match self.place {
            Some(place) => waiting.update(place, cx.waker()),
            None => self.place = Some(waiting.insert(cx.waker().clone())),
        }
    }

    fn leave(&mut self) {
        if let (Some(place), Some(open)) = (self.place.take(), &self.open) {
            open.slot.link.state.lock().waiting.remove(place);
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.leave();
    }
}

/// What the end of the connection says about an exchange without a response. Once the server has let us in it may have acted
/// upon any request: only before that does an alert prove that it did not. The code with which it closes proves nothing: the
/// RFC gives H3_REQUEST_REJECTED a meaning for streams only.
fn kind_of(error: &ConnectionError, let_in: bool) -> SendErrorKind {
    let Some(error) = lost::of_connection(error) else { return SendErrorKind::Closed };
    if let Some(alert) = certificate_alert(&error).filter(|_| !let_in) {
        let detail = format!("the upstream refused this proxy's certificate ({:?})", alert.0);
        return SendErrorKind::Handshake { code: REFUSED_BY_PEER, detail: detail.into() };
    }
    SendErrorKind::Io(error)
}

/// A field section as a response.
fn message_of(mut section: Section) -> Result<http::Response<()>, &'static str> {
    let status = section.take(Pseudo::Status).ok_or("it has no status")?;
    let status = StatusCode::from_bytes(&status).map_err(|_| "its status is no status")?;
    if section.has_pseudo() {
        return Err("it has pseudo-header fields of requests");
    }
    let mut message = http::Response::new(());
    *message.status_mut() = status;
    *message.headers_mut() = section.headers;
    Ok(message)
}

/// The body of a response being read from an HTTP/3 upstream, and the rest of the upload. Dropping it resets
/// the stream if it has not ended.
pub struct H3ClientBody {
    inbound: Inbound,
    upload: Option<Pump<Body>>,
    _slot: StreamSlot,
    tunnel: Tunnel,
    /// Tells that the server takes nothing more of a tunnel whose way down has ended.
    gone: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
}

impl fmt::Debug for H3ClientBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("H3ClientBody")
            .field("inbound", &self.inbound)
            .field("tunnel", &self.tunnel)
            .finish_non_exhaustive()
    }
}

/// Of a stream that is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tunnel {
    None,
    Open,
    /// The way up has ended.
    Ended,
    /// The server takes nothing more.
    Broken,
}

impl H3ClientBody {
    /// Ready once a first piece of the body of which something is here is here in whole, unless it is larger than `most`
    /// bytes: a server sends it with the head, and only the network may have come between.
    pub fn poll_piece(&mut self, cx: &mut Context<'_>, most: u64) -> Poll<()> {
        match self.tunnel == Tunnel::None && self.upload.is_none() {
            true => self.inbound.poll_piece(cx, most),
            false => Poll::Ready(()),
        }
    }

    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        let Some(pump) = &mut self.upload else { return Ok(()) };
        let ended = match pump.poll(cx) {
            Poll::Pending => return Ok(()),
            Poll::Ready(Ok(())) => Tunnel::Ended,
            // What ended the stream under it, reading tells.
            Poll::Ready(Err(Stopped::Stream(_))) => Tunnel::Broken,
            Poll::Ready(Err(Stopped::Body(_))) => {
                pump.reset(Code::REQUEST_CANCELLED);
                self.upload = None;
                return Err(BodyError::Abandoned);
            }
        };
        self.upload = None;
        if self.tunnel == Tunnel::Open {
            self.tunnel = ended;
        }
        Ok(())
    }
}

impl PollBody for H3ClientBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        if let Err(error) = self.poll_upload(cx) {
            return Poll::Ready(Some(Err(error)));
        }
        self.inbound.poll_frame(cx)
    }

    fn poll_progress(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        self.poll_upload(cx)
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        if self.tunnel == Tunnel::None {
            return Poll::Ready(Ok(()));
        }
        self.poll_upload(cx)?;
        match self.tunnel {
            Tunnel::None | Tunnel::Ended => Poll::Ready(Ok(())),
            Tunnel::Broken => Poll::Ready(Err(BodyError::Incomplete)),
            Tunnel::Open => {
                let Some(pump) = &self.upload else { return Poll::Ready(Ok(())) };
                ready!(self.gone.get_or_insert_with(|| Box::pin(pump.stopped())).as_mut().poll(cx));
                Poll::Ready(Err(BodyError::Incomplete))
            }
        }
    }

    fn is_end(&self) -> bool {
        self.inbound.is_end()
    }

    fn exact_len(&self) -> Option<u64> {
        self.inbound.exact_len()
    }
}

#[cfg(test)]
mod tests {
    use quinn::{ApplicationClose, ConnectionClose, TransportErrorCode};
    use rustls::AlertDescription;

    use super::*;

    fn alert(alert: AlertDescription) -> ConnectionError {
        let error_code = TransportErrorCode::crypto(alert.into());
        ConnectionError::ConnectionClosed(ConnectionClose { error_code, frame_type: None, reason: "".into() })
    }

    #[test]
    fn an_alert_proves_something_only_before_the_server_has_let_us_in() {
        for refusal in [AlertDescription::CertificateExpired, AlertDescription::CertificateRequired] {
            assert!(matches!(kind_of(&alert(refusal), false), SendErrorKind::Handshake { .. }));
            assert!(matches!(kind_of(&alert(refusal), true), SendErrorKind::Io(_)));
        }
        assert!(matches!(kind_of(&alert(AlertDescription::InternalError), false), SendErrorKind::Io(_)));
    }

    #[test]
    fn the_code_of_a_close_proves_nothing() {
        for code in [Code::REQUEST_REJECTED, Code::NO_ERROR, Code::INTERNAL_ERROR] {
            let close = ApplicationClose { error_code: code.var(), reason: "".into() };
            for let_in in [false, true] {
                let kind = kind_of(&ConnectionError::ApplicationClosed(close.clone()), let_in);
                assert!(matches!(kind, SendErrorKind::Closed), "{code}: {kind:?}");
            }
        }
    }
}
