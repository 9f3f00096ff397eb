//! One request to an upstream and its response.

use std::borrow::Cow;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::ext::Protocol;
use h2::{Reason, RecvStream, SendStream};
use http::header::CONTENT_LENGTH;
use http::uri::Uri;
use http::{Method, StatusCode, Version};

use super::{Link, StreamSlot};
use crate::base::limits;
use crate::codec::body::{Body, BodyError, Frame, PollBody};
use crate::codec::error::{ResetCode, SendError, SendErrorKind, Sent};
use crate::codec::h2::pump::{Pump, Stopped};
use crate::codec::h2::reader::Reader;
use crate::codec::heads::asked::Asked;
use crate::codec::heads::fields;
use crate::codec::heads::response::{self, Accepted};
use crate::codec::message::{Interim, RequestHead, Response, Upgrade};
use crate::codec::websocket::{self, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_VERSION};

impl StreamSlot {
    /// Sends a request and waits for the response head, while the upload goes on. 1xx responses go to `interim`.
    /// An owned head is moved; a borrowed one, which the caller keeps for another try, is copied.
    ///
    /// The request is handed over by the call itself, so that the future need not hold it. Dropping the future
    /// resets the stream: the upstream sees that the caller has left.
    ///
    /// # Errors
    /// [`SendError`], which says whether the application may have seen the request.
    pub fn send<'a>(
        self,
        head: Cow<'_, RequestHead>,
        body: Body,
        interim: &'a dyn Interim,
    ) -> impl Future<Output = Result<Response<Body>, SendError>> + Send + use<'a> {
        let mut sending = match head.upgrade {
            // Whether that may be asked for is in the server's settings.
            Some(_) => {
                Sending::Waiting(Box::new(Waiting { request: Some((self, head.into_owned(), body)), place: None }))
            }
            None => self.begin(head, body).map_or_else(|error| Sending::Failed(Some(error)), Sending::Begun),
        };
        poll_fn(move |cx| {
            if let Sending::Waiting(waiting) = &mut sending {
                let Some((slot, head, body)) = ready!(waiting.poll(cx)) else { return Poll::Pending };
                sending = match slot.begin(Cow::Owned(head), body) {
                    Ok(exchange) => Sending::Begun(exchange),
                    Err(error) => Sending::Failed(Some(error)),
                };
            }
            match &mut sending {
                Sending::Begun(exchange) => exchange.poll(cx, interim),
                Sending::Failed(error) => error.take().map_or(Poll::Pending, |error| Poll::Ready(Err(error))),
                Sending::Waiting(_) => Poll::Pending,
            }
        })
    }

    fn begin(self, head: Cow<'_, RequestHead>, body: Body) -> Result<Exchange, SendError> {
        // A handle of its own: one that is shared would keep the last stream alive, so that it could not be
        // cancelled.
        let Some(mut requests) = self.shared.requests.lock().clone() else {
            return Err(SendError::never(SendErrorKind::Closed));
        };
        if head.upgrade.is_some() && !requests.is_extended_connect_protocol_enabled() {
            return Err(SendError::never(SendErrorKind::NoExtendedConnect));
        }
        let link = &self.shared.link;
        let asked = Asked::of(&head);
        // What goes up a tunnel waits for the answer that makes it one, so that it is whole for another try.
        let (body, held) = if asked.is_tunnel() { (Body::Empty, Some(body)) } else { (body, None) };
        let end = body.is_end() && held.is_none();
        let written_before = link.traffic.written();
        let (receiving, stream) =
            requests.send_request(message_of(head), end).map_err(|error| SendError::never(link.kind_of(&error)))?;
        let reused = link.served.fetch_add(1, Ordering::Relaxed) > 0;
        let (upload, held) = match held {
            Some(body) => (None, Some((stream, body))),
            None => ((!end).then(|| Pump::eager(stream, body)), None),
        };
        Ok(Exchange { receiving, upload, held, asked, written_before, reused, interims: 0, slot: Some(self) })
    }
}

/// A request on its way.
enum Sending {
    /// For the server's settings.
    Waiting(Box<Waiting>),
    Begun(Exchange),
    Failed(Option<SendError>),
}

/// A request that cannot be sent before something is known.
struct Waiting {
    /// `None` once it goes.
    request: Option<(StreamSlot, RequestHead, Body)>,
    /// Among those that wait.
    place: Option<usize>,
}

impl Waiting {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<(StreamSlot, RequestHead, Body)>> {
        let Some((slot, ..)) = &self.request else { return Poll::Pending };
        let link = &slot.shared.link;
        ready!(link.poll_settled(&mut self.place, cx));
        link.leave(self.place.take());
        Poll::Ready(self.request.take())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some((slot, ..)) = &self.request {
            slot.shared.link.leave(self.place.take());
        }
    }
}

fn message_of(head: Cow<'_, RequestHead>) -> http::Request<()> {
    let RequestHead { method, scheme, authority, path, version: _, mut headers, upgrade } = head.into_owned();
    fields::make_sendable(&mut headers);
    let mut message = http::Request::new(());
    let method = match &upgrade {
        Some(upgrade) => {
            let token = match upgrade {
                Upgrade::WebSocket => {
                    headers.entry(SEC_WEBSOCKET_VERSION).or_insert(websocket::VERSION);
                    "websocket"
                }
                Upgrade::Other(token) => token,
            };
            message.extensions_mut().insert(Protocol::from(token));
            Method::CONNECT
        }
        None => method,
    };
    let mut parts = http::uri::Parts::default();
    if authority.is_some() {
        parts.scheme = Some(scheme);
        parts.authority = authority;
        *message.version_mut() = Version::HTTP_2;
    } else {
        // HTTP/1.0 without Host: there is no authority to send (RFC 9113 section 8.3.1). The library accepts
        // a bare path from older versions only.
        *message.version_mut() = Version::HTTP_11;
    }
    parts.path_and_query = Some(path);
    // Scheme and authority are both there or both not, which is all that can be wrong.
    *message.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    *message.method_mut() = method;
    *message.headers_mut() = headers;
    message
}

/// A request whose response head has not come yet.
struct Exchange {
    receiving: ResponseFuture,
    upload: Option<Pump<Body>>,
    /// What goes up a tunnel, until it is one.
    held: Option<(SendStream<Bytes>, Body)>,
    asked: Asked,
    /// What the connection had written when the request was handed over.
    written_before: u64,
    reused: bool,
    interims: u32,
    /// `None` once the response is here.
    slot: Option<StreamSlot>,
}

enum Failure {
    Library(h2::Error),
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
        let outcome = ready!(self.poll_response(cx, interim));
        let Some(slot) = self.slot.take() else { return Poll::Pending };
        Poll::Ready(
            match outcome.and_then(|(head, stream)| Ok((response::accept(head, self.asked.method())?, stream))) {
                Ok((accepted, stream)) => Ok(self.response(accepted, stream, slot)),
                Err(failure) => Err(self.error(failure, &slot.shared.link)),
            },
        )
    }

    fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
        interim: &dyn Interim,
    ) -> Poll<Result<(http::Response<()>, RecvStream), Failure>> {
        if let Err(error) = poll_upload(&mut self.upload, cx) {
            return Poll::Ready(Err(Failure::RequestBody(error)));
        }
        while let Some(received) = ready!(self.receiving.poll_informational(cx)) {
            self.interims += 1;
            if self.interims > limits::INTERIM_RESPONSES {
                return Poll::Ready(Err(Failure::Bad("too many 1xx responses")));
            }
            let head = response::accept_interim(received.map_err(Failure::Library)?)?;
            interim.send(head.status, &head.headers);
        }
        let (parts, stream) = ready!(Pin::new(&mut self.receiving).poll(cx)).map_err(Failure::Library)?.into_parts();
        Poll::Ready(Ok((http::Response::from_parts(parts, ()), stream)))
    }

    fn response(&mut self, accepted: Accepted, stream: RecvStream, slot: StreamSlot) -> Response<Body> {
        let Accepted { mut head, length } = accepted;
        let mut upload = self.upload.take();
        if let Some((mut up, body)) = self.held.take() {
            if head.status.is_success() {
                if self.asked == Asked::Upgrade {
                    // RFC 8441 section 5: this is how the canonical form says that it agrees.
                    head.status = StatusCode::SWITCHING_PROTOCOLS;
                }
                for name in [SEC_WEBSOCKET_ACCEPT, CONTENT_LENGTH] {
                    head.headers.remove(name);
                }
                upload = Some(Pump::new(up, body));
                let body = H2ClientBody {
                    unread: None,
                    reader: Reader::new(stream, None),
                    upload,
                    slot,
                    tunnel: Tunnel::Open,
                };
                return Response { head, body: Body::H2Client(Box::new(body)) };
            }
            // There is nothing to be sent to one that does not agree.
            if let Err(error) = up.send_data(Bytes::new(), true) {
                tracing::debug!(%error, "the end of a request was not sent");
            }
        }
        if upload.is_none() && stream.is_end_stream() {
            return Response { head, body: Body::Empty };
        }
        let body =
            H2ClientBody { unread: None, reader: Reader::new(stream, length), upload, slot, tunnel: Tunnel::None };
        Response { head, body: Body::H2Client(Box::new(body)) }
    }

    #[cold]
    fn error(&self, failure: Failure, link: &Link) -> SendError {
        let kind = match failure {
            Failure::Library(error) => link.kind_of(&error),
            Failure::Bad(problem) => SendErrorKind::BadResponse(problem),
            Failure::RequestBody(error) => SendErrorKind::RequestBody(error),
        };
        // Unsent if the server says so, or if no byte has left since.
        let unsent = matches!(kind, SendErrorKind::Refused) || link.traffic.written() == self.written_before;
        let sent = if unsent { Sent::Never } else { Sent::Maybe };
        SendError { sent, reused: self.reused, kind }
    }
}

/// Moves the upload on. When the stream has ended under it, the response tells what to make of that: an answer
/// that came first is complete (RFC 9113 section 8.1).
fn poll_upload(upload: &mut Option<Pump<Body>>, cx: &mut Context<'_>) -> Result<(), BodyError> {
    let Some(pump) = upload else { return Ok(()) };
    match pump.poll(cx) {
        Poll::Pending => Ok(()),
        Poll::Ready(Ok(()) | Err(Stopped::Stream)) => {
            *upload = None;
            Ok(())
        }
        Poll::Ready(Err(Stopped::Body(error))) => {
            pump.reset(Reason::CANCEL);
            *upload = None;
            Err(error)
        }
    }
}

impl Link {
    /// What a library error says about an exchange without a response.
    fn kind_of(&self, error: &h2::Error) -> SendErrorKind {
        if let Some(error) = error.get_io() {
            return match error.kind() {
                _ if self.unresponsive.load(Ordering::Relaxed) => {
                    SendErrorKind::Io(io::Error::new(io::ErrorKind::TimedOut, "no answer to a PING"))
                }
                // The first is what the library tells the streams of a connection that ended.
                io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => SendErrorKind::Closed,
                kind => SendErrorKind::Io(kind.into()),
            };
        }
        match error.reason() {
            Some(_) if error.is_library() => SendErrorKind::BadResponse("it broke the rules of HTTP/2"),
            // The library gives this to the streams that a GOAWAY says were not and will not be looked at.
            Some(_) if error.is_go_away() && error.is_remote() => SendErrorKind::Refused,
            Some(Reason::REFUSED_STREAM) if error.is_remote() => SendErrorKind::Refused,
            Some(reason) if error.is_reset() => SendErrorKind::Reset(ResetCode::Http2(reason)),
            _ => SendErrorKind::Closed,
        }
    }
}

/// The body of a response being read from an HTTP/2 upstream, and the rest of the upload. Dropping it resets
/// the stream if it has not ended.
#[derive(Debug)]
pub struct H2ClientBody {
    /// Was read, and is read again.
    unread: Option<Bytes>,
    reader: Reader,
    upload: Option<Pump<Body>>,
    slot: StreamSlot,
    tunnel: Tunnel,
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

impl H2ClientBody {
    /// Takes back what was read of it last; it is read again. The stream's window is open for it already.
    pub(in crate::codec) fn unread(&mut self, data: Bytes) {
        debug_assert!(self.unread.is_none(), "one piece at a time");
        self.unread = Some(data);
    }

    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        if self.tunnel == Tunnel::None {
            return poll_upload(&mut self.upload, cx).map_err(|_| BodyError::Abandoned);
        }
        let Some(pump) = &mut self.upload else { return Ok(()) };
        match pump.poll(cx) {
            Poll::Pending => return Ok(()),
            Poll::Ready(Ok(())) => self.tunnel = Tunnel::Ended,
            Poll::Ready(Err(Stopped::Stream)) => self.tunnel = Tunnel::Broken,
            Poll::Ready(Err(Stopped::Body(_))) => {
                pump.reset(Reason::CANCEL);
                return Err(BodyError::Abandoned);
            }
        }
        self.upload = None;
        Ok(())
    }

    fn explained(&self, error: BodyError) -> BodyError {
        if error == BodyError::Incomplete && self.slot.shared.link.unresponsive.load(Ordering::Relaxed) {
            return BodyError::Timeout("the upstream connection did not answer a PING");
        }
        error
    }
}

impl PollBody for H2ClientBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        if let Err(error) = self.poll_upload(cx) {
            return Poll::Ready(Some(Err(error)));
        }
        if let Some(data) = self.unread.take() {
            return Poll::Ready(Some(Ok(Frame::Data(data))));
        }
        match ready!(self.reader.poll_frame(cx)) {
            Some(Ok(Frame::Trailers(trailers))) => {
                Poll::Ready(fields::check_trailers(trailers).map(|trailers| trailers.map(Frame::Trailers)).transpose())
            }
            Some(Err(error)) => Poll::Ready(Some(Err(self.explained(error)))),
            frame => Poll::Ready(frame),
        }
    }

    fn poll_progress(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        self.reader.hold_back(cx);
        self.poll_upload(cx)
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        if self.tunnel == Tunnel::None {
            return Poll::Ready(Ok(()));
        }
        if let Err(error) = self.poll_upload(cx) {
            return Poll::Ready(Err(error));
        }
        match self.tunnel {
            Tunnel::None | Tunnel::Ended => Poll::Ready(Ok(())),
            Tunnel::Broken => Poll::Ready(Err(BodyError::Incomplete)),
            // The reader has ended: only this tells that the server has reset the stream.
            Tunnel::Open => match self.upload.as_mut().map(|pump| pump.poll_gone(cx)) {
                Some(Poll::Ready(())) => Poll::Ready(Err(BodyError::Incomplete)),
                Some(Poll::Pending) | None => Poll::Pending,
            },
        }
    }

    fn is_end(&self) -> bool {
        self.unread.is_none() && self.reader.is_end()
    }

    fn exact_len(&self) -> Option<u64> {
        let unread = self.unread.as_ref().map_or(0, |data| data.len() as u64);
        self.reader.exact_len().map(|rest| rest + unread)
    }
}
