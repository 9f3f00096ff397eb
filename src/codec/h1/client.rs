//! The client side of an HTTP/1 connection. Whoever reads the response drives it: while the head is awaited
//! the future of [`ClientConn::send`] writes the upload, afterwards [`ClientBody`] does.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};

use super::buffer::{ReadBuffer, WriteBuffer};
use super::decode::{Decoded, Decoder, Framing};
use super::encode::{self, Encoder};
use super::request::HeadScan;
use super::response::{self, Parsed};
use super::tunnel::ClientTunnel;
use super::upgrade::Switch;
use crate::base::limits;
use crate::codec::body::{Body, BodyError, Frame, PollBody};
use crate::codec::error::{REFUSED_BY_PEER, SendError, SendErrorKind, Sent, certificate_alert};
use crate::codec::message::{Interim, RequestHead, Response};
use crate::net::io::Io;

/// Where a connection goes when its exchange has ended well.
pub trait Home: Send + Sync {
    /// Takes an idle connection back.
    fn take_back(&self, connection: Box<ClientConn>);
}

/// A connection to an upstream. Dropping it closes it.
pub struct ClientConn {
    pub(super) io: Io,
    pub(super) read: ReadBuffer,
    pub(super) write: WriteBuffer,
    exchanges: u64,
    home: Arc<dyn Home>,
    /// When it last became idle.
    pub idle_since: Instant,
    /// When it is old enough to be replaced.
    pub retire_at: Option<Instant>,
    /// What the server said of how long it keeps idle connections.
    pub server_keeps: Option<Duration>,
    pub(super) guard: Box<dyn Send + Sync>,
}

impl std::fmt::Debug for ClientConn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientConn").field("exchanges", &self.exchanges).finish_non_exhaustive()
    }
}

impl ClientConn {
    /// A fresh connection. `guard` lives as long as it does (it counts open connections).
    #[must_use]
    pub fn new(io: Io, home: Arc<dyn Home>, guard: Box<dyn Send + Sync>) -> Box<Self> {
        let now = Instant::now();
        Box::new(Self {
            io,
            read: ReadBuffer::default(),
            write: WriteBuffer::default(),
            exchanges: 0,
            home,
            idle_since: now,
            retire_at: None,
            server_keeps: None,
            guard,
        })
    }

    /// Whether an idle connection may be used: still open, and the server has said nothing unasked.
    #[must_use]
    pub fn is_quiet(&mut self) -> bool {
        self.io.is_quiet()
    }

    /// Gives the memory of its buffers back. For connections that stay idle.
    pub fn release_buffers(&mut self) {
        self.read.release();
        self.write.release();
    }

    /// Sends a request and waits for the response head. 1xx responses go to `interim`.
    ///
    /// Dropping the future closes the connection: the upstream sees that the caller has left.
    ///
    /// # Errors
    /// [`SendError`], which says whether the application may have seen the request.
    pub async fn send(
        mut self: Box<Self>,
        head: &RequestHead,
        body: Body,
        interim: &dyn Interim,
    ) -> Result<Response<Body>, SendError> {
        let reused = self.exchanges > 0;
        self.exchanges += 1;
        let switch = encode::tunnel_request(self.write.head_mut(), head);
        // What goes up a tunnel waits for the answer that makes it one, so that it is whole for another try.
        let (body, tunnel) = if switch.is_some() { (Body::Empty, Some(body)) } else { (body, None) };
        let encoder = match switch {
            Some(_) => Encoder::None,
            None => encode::request(self.write.head_mut(), head, body.exact_len(), body.is_end()),
        };
        let mut upload = Upload {
            body,
            last: None,
            empty: encoder == Encoder::Length(0),
            done: encoder == Encoder::None,
            encoder,
            failed: false,
            written: false,
        };
        let mut progress = Progress { scan: HeadScan::default(), interims: 0, switch, agreed: false };
        let outcome = poll_fn(|cx| self.poll_response(cx, &mut upload, &mut progress, &head.method, interim)).await;
        match outcome {
            Ok(parsed) => Ok(match tunnel.filter(|_| progress.agreed) {
                Some(up) => {
                    let body = Body::H1ClientTunnel(Box::new(ClientTunnel::of(*self, up)));
                    Response { head: parsed.head, body }
                }
                None => self.into_response(parsed, upload),
            }),
            Err(kind) => {
                if let Some(alert) = self.refusal(&kind, &progress) {
                    return Err(SendError::never(alert));
                }
                let sent = if upload.written { Sent::Maybe } else { Sent::Never };
                Err(SendError { sent, reused, kind })
            }
        }
    }

    /// Whether the server refused the connection after we believed it made: no byte of a response may have come,
    /// on no earlier exchange either.
    fn refusal(&self, kind: &SendErrorKind, progress: &Progress) -> Option<SendErrorKind> {
        let SendErrorKind::Io(error) = kind else { return None };
        let silent = self.exchanges == 1 && progress.interims == 0 && self.read.bytes.is_empty();
        let alert = certificate_alert(error).filter(|_| silent)?;
        Some(SendErrorKind::Handshake { code: REFUSED_BY_PEER, detail: alert.to_string().into() })
    }

    fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
        upload: &mut Upload,
        progress: &mut Progress,
        method: &Method,
        interim: &dyn Interim,
    ) -> Poll<Result<Parsed, SendErrorKind>> {
        match upload.poll(cx, &mut self.write, &mut self.io) {
            Ok(()) => {}
            Err(UploadError::Body(error)) => return Poll::Ready(Err(SendErrorKind::RequestBody(error))),
            // Nothing was sent, so nothing can be answered.
            Err(UploadError::Io(error)) if !upload.written => return Poll::Ready(Err(SendErrorKind::Io(error))),
            // The answer may already be here (a server that refuses an upload answers and closes).
            Err(UploadError::Io(_)) => {}
        }
        loop {
            match self.take_head(progress, method) {
                Ok(Some(parsed))
                    if parsed.head.status.is_informational()
                        && parsed.head.status != StatusCode::SWITCHING_PROTOCOLS =>
                {
                    progress.interims += 1;
                    if progress.interims > limits::INTERIM_RESPONSES {
                        return Poll::Ready(Err(SendErrorKind::BadResponse("too many 1xx responses")));
                    }
                    let mut headers = parsed.head.headers;
                    crate::codec::headers::strip_hop_by_hop(&mut headers);
                    interim.send(parsed.head.status, &headers);
                    continue;
                }
                Ok(Some(mut parsed)) => match progress.judge(&mut parsed) {
                    Ok(()) => return Poll::Ready(Ok(parsed)),
                    Err(problem) => return Poll::Ready(Err(SendErrorKind::BadResponse(problem))),
                },
                Ok(None) => {}
                Err(problem) => return Poll::Ready(Err(SendErrorKind::BadResponse(problem))),
            }
            match self.read.poll_fill(&mut self.io, cx, usize::MAX) {
                Poll::Ready(Ok(n)) if n > 0 => {}
                Poll::Ready(Ok(_)) if self.read.bytes.is_empty() => return Poll::Ready(Err(SendErrorKind::Closed)),
                Poll::Ready(Ok(_)) => {
                    return Poll::Ready(Err(SendErrorKind::BadResponse("it ended in the middle of the head")));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(SendErrorKind::Io(error))),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn take_head(&mut self, progress: &mut Progress, method: &Method) -> Result<Option<Parsed>, &'static str> {
        if self.read.bytes.is_empty() {
            return Ok(None);
        }
        let end = progress.scan.find_end(&self.read.bytes).map_err(|_| "a bare line feed in the head")?;
        if end.unwrap_or(self.read.bytes.len()) > limits::RESPONSE_HEAD_BYTES {
            return Err("its head is too large");
        }
        let Some(end) = end else { return Ok(None) };
        progress.scan = HeadScan::default();
        let head = self.read.bytes.split_to(end).freeze();
        response::parse(&head, method).map(Some)
    }

    fn into_response(mut self: Box<Self>, parsed: Parsed, upload: Upload) -> Response<Body> {
        let Parsed { head, framing, keep_alive } = parsed;
        if let Some(seconds) = response::keep_alive_timeout(&head.headers) {
            self.server_keeps = Some(Duration::from_secs(seconds));
        }
        let length = match framing {
            Framing::Length(n) => Some(n),
            Framing::Chunked | Framing::UntilClose => None,
        };
        let mut body = ClientBody {
            connection: Some(self),
            upload,
            decoder: Decoder::new(framing),
            length,
            keep_alive,
            ended: false,
        };
        if body.decoder == Decoder::Done {
            body.finish();
            return Response { head, body: Body::Empty };
        }
        Response { head, body: Body::H1Client(Box::new(body)) }
    }
}

struct Progress {
    scan: HeadScan,
    interims: u32,
    /// What was asked for beside an answer.
    switch: Option<Switch>,
    /// The answer agrees to it.
    agreed: bool,
}

impl Progress {
    fn judge(&mut self, parsed: &mut Parsed) -> Result<(), &'static str> {
        self.agreed = match &self.switch {
            Some(switch) => switch.accept(parsed)?,
            None if parsed.head.status == StatusCode::SWITCHING_PROTOCOLS => {
                return Err("it switched protocols unasked");
            }
            None => false,
        };
        Ok(())
    }
}

/// The request body on its way up.
///
/// What would complete a request of declared length is kept back until the caller has ended it. An HTTP/2 caller may
/// declare 5 bytes, send them, and then send more: that request is malformed (RFC 9113 section 8.1.1), and the upstream
/// must not have taken it for a whole one before that shows.
#[derive(Debug)]
struct Upload {
    body: Body,
    encoder: Encoder,
    /// The chunk with the last declared byte.
    last: Option<Bytes>,
    /// No byte was declared, so that the head would complete it.
    empty: bool,
    done: bool,
    /// Writing failed: the server does not want more. What it answered still counts.
    failed: bool,
    /// At least a part of the request, head included, was handed to the kernel.
    written: bool,
}

enum UploadError {
    Body(BodyError),
    Io(io::Error),
}

impl Upload {
    /// Moves what can be moved now. Wakes when more can be.
    fn poll(&mut self, cx: &mut Context<'_>, write: &mut WriteBuffer, io: &mut Io) -> Result<(), UploadError> {
        if self.failed {
            return Ok(());
        }
        loop {
            while !self.done && write.len() < limits::H1_WRITE_HIGH_WATER {
                let result = match self.body.poll_frame(cx) {
                    Poll::Pending => break,
                    Poll::Ready(Some(Ok(Frame::Data(data)))) => self.data(write, data),
                    Poll::Ready(Some(Ok(Frame::Trailers(trailers)))) => self.end(write, Some(&trailers)),
                    Poll::Ready(None) => self.end(write, None),
                    Poll::Ready(Some(Err(error))) => Err(error),
                };
                result.map_err(UploadError::Body)?;
            }
            if write.is_empty() || self.empty && !self.done {
                return Ok(());
            }
            match write.poll_write(io, cx) {
                Poll::Ready(Ok(_)) => self.written = true,
                Poll::Ready(Err(error)) => {
                    self.failed = true;
                    return Err(UploadError::Io(error));
                }
                // Blocked on the upstream.
                Poll::Pending => return self.body.poll_progress(cx).map_err(UploadError::Body),
            }
        }
    }

    fn data(&mut self, write: &mut WriteBuffer, data: Bytes) -> Result<(), BodyError> {
        if let Some(last) = self.last.take() {
            self.encoder.data(write, last)?;
        } else if self.encoder == Encoder::Length(data.len() as u64) && !self.body.is_end() {
            self.last = Some(data);
            return Ok(());
        }
        self.encoder.data(write, data)
    }

    fn end(&mut self, write: &mut WriteBuffer, trailers: Option<&HeaderMap>) -> Result<(), BodyError> {
        self.done = true;
        if let Some(last) = self.last.take() {
            self.encoder.data(write, last)?;
        }
        self.encoder.end(write, trailers)
    }
}

/// The body of a response being read from an HTTP/1 upstream, and the rest of the upload.
#[derive(Debug)]
pub struct ClientBody {
    connection: Option<Box<ClientConn>>,
    upload: Upload,
    decoder: Decoder,
    length: Option<u64>,
    keep_alive: bool,
    ended: bool,
}

impl ClientBody {
    /// Ends the exchange: a connection that is in order goes back, any other is closed.
    fn finish(&mut self) {
        self.ended = true;
        let Some(mut connection) = self.connection.take() else { return };
        let clean = self.keep_alive
            && self.upload.done
            && !self.upload.failed
            && connection.write.is_empty()
            && connection.read.bytes.is_empty();
        if clean {
            connection.idle_since = Instant::now();
            let home = Arc::clone(&connection.home);
            home.take_back(connection);
        }
    }

    fn fail(&mut self, error: BodyError) -> Poll<Option<Result<Frame, BodyError>>> {
        self.ended = true;
        self.connection = None;
        Poll::Ready(Some(Err(error)))
    }

    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        let Some(connection) = &mut self.connection else { return Ok(()) };
        match self.upload.poll(cx, &mut connection.write, &mut connection.io) {
            // A server may answer and stop reading.
            Ok(()) | Err(UploadError::Io(_)) => Ok(()),
            // Whatever it was, it was not this body: the upstream must not be blamed for it.
            Err(UploadError::Body(_)) => Err(BodyError::Abandoned),
        }
    }
}

impl PollBody for ClientBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Err(error) = self.poll_upload(cx) {
            return self.fail(error);
        }
        loop {
            let Some(connection) = &mut self.connection else { return Poll::Ready(None) };
            match self.decoder.decode(&mut connection.read.bytes) {
                Ok(Decoded::Data(data)) => {
                    if let Some(left) = &mut self.length {
                        *left -= data.len() as u64;
                    }
                    if self.decoder == Decoder::Done {
                        self.finish();
                    }
                    return Poll::Ready(Some(Ok(Frame::Data(data))));
                }
                Ok(Decoded::Trailers(trailers)) => {
                    self.finish();
                    return Poll::Ready(Some(Ok(Frame::Trailers(trailers))));
                }
                Ok(Decoded::End) => {
                    self.finish();
                    return Poll::Ready(None);
                }
                Ok(Decoded::More) => {}
                Err(error) => return self.fail(error),
            }
            let limit = self.decoder.wanted().min(limits::H1_BODY_READ);
            match connection.read.poll_fill(&mut connection.io, cx, limit) {
                Poll::Ready(Ok(n)) if n > 0 => {}
                Poll::Ready(Ok(_)) if self.decoder == Decoder::UntilClose => {
                    self.finish();
                    return Poll::Ready(None);
                }
                Poll::Ready(Ok(_)) => return self.fail(BodyError::Incomplete),
                Poll::Ready(Err(error)) => return self.fail(error.into()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn poll_progress(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        self.poll_upload(cx)
    }

    fn is_end(&self) -> bool {
        self.ended
    }

    fn exact_len(&self) -> Option<u64> {
        self.length
    }
}
