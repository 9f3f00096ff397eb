//! Peers and handlers for the tests: the library itself plays the other side.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::{RecvStream, SendStream, client, server};
use http::uri::Scheme;
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::base::drain::Drain;
use crate::codec::body::{Body, BodyError, Frame, PollBody};
use crate::codec::error::Refusal;
use crate::codec::h2::{H2ClientOptions, H2Connection, serve};
use crate::codec::message::{Handler, Interim, Request, RequestHead, Response, ResponseHead, ServerOptions};

pub(in crate::codec) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
type Answer = dyn for<'a> Fn(Request, &'a dyn Interim) -> BoxFuture<'a, Response<TestBody>> + Send + Sync;

/// Fails a test that hangs.
pub(in crate::codec) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("the test hangs")
}

/// A handler from a closure, that remembers refusals.
pub(in crate::codec) struct TestHandler {
    answer: Box<Answer>,
    pub(in crate::codec) refused: Mutex<Vec<Refusal>>,
}

pub(in crate::codec) fn handler<F>(answer: F) -> Arc<TestHandler>
where
    F: for<'a> Fn(Request, &'a dyn Interim) -> BoxFuture<'a, Response<TestBody>> + Send + Sync + 'static,
{
    Arc::new(TestHandler { answer: Box::new(answer), refused: Mutex::default() })
}

impl Handler for TestHandler {
    type Body = TestBody;

    fn handle(&self, request: Request, interim: &dyn Interim) -> impl Future<Output = Response<TestBody>> + Send {
        (self.answer)(request, interim)
    }

    fn refuse(&self, refusal: Refusal) -> Response<TestBody> {
        self.refused.lock().push(refusal);
        response(refusal.status, Body::Full(Bytes::from_static(refusal.code.as_bytes())).into())
    }
}

/// A body of any kind.
pub(in crate::codec) enum TestBody {
    Real(Body),
    Fed(mpsc::UnboundedReceiver<Result<Frame, BodyError>>),
    /// The same chunk for ever; counts how often it was asked for one.
    Endless(Bytes, Arc<Mutex<u64>>),
}

impl From<Body> for TestBody {
    fn from(body: Body) -> Self {
        Self::Real(body)
    }
}

impl PollBody for TestBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        match self {
            Self::Real(body) => body.poll_frame(cx),
            Self::Fed(frames) => frames.poll_recv(cx),
            Self::Endless(chunk, taken) => {
                *taken.lock() += 1;
                Poll::Ready(Some(Ok(Frame::Data(chunk.clone()))))
            }
        }
    }

    fn poll_progress(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        match self {
            Self::Real(body) => body.poll_progress(cx),
            Self::Fed(_) | Self::Endless(..) => Ok(()),
        }
    }

    fn is_end(&self) -> bool {
        match self {
            Self::Real(body) => body.is_end(),
            Self::Fed(_) | Self::Endless(..) => false,
        }
    }

    fn exact_len(&self) -> Option<u64> {
        None
    }
}

pub(in crate::codec) fn response(status: StatusCode, body: TestBody) -> Response<TestBody> {
    Response { head: ResponseHead { status, headers: HeaderMap::new() }, body }
}

pub(in crate::codec) fn ok(body: impl Into<TestBody>) -> Response<TestBody> {
    response(StatusCode::OK, body.into())
}

/// A body that the test feeds.
pub(in crate::codec) fn fed() -> (mpsc::UnboundedSender<Result<Frame, BodyError>>, TestBody) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (sender, TestBody::Fed(receiver))
}

pub(in crate::codec) fn options(drain: &Drain) -> ServerOptions {
    ServerOptions {
        max_head_bytes: 64 * 1024,
        max_headers: 100,
        max_concurrent_streams: 1024,
        header_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(60),
        retire_at: None,
        scheme: Scheme::HTTP,
        drain: drain.watch(),
        pressure: Arc::<crate::base::pressure::Pressure>::default().watch(),
    }
}

/// A downstream connection under test, and a client on it.
pub(super) struct Downstream {
    pub(super) client: client::SendRequest<Bytes>,
    pub(super) driver: JoinHandle<Result<(), h2::Error>>,
    pub(super) server: JoinHandle<()>,
    pub(super) drain: Drain,
}

pub(super) async fn downstream(handler: Arc<TestHandler>) -> Downstream {
    let drain = Drain::default();
    let options = options(&drain);
    downstream_with(handler, options, drain).await
}

pub(super) async fn downstream_with(handler: Arc<TestHandler>, options: ServerOptions, drain: Drain) -> Downstream {
    let (near, far) = pipe();
    let server = tokio::spawn(serve(near, handler, options));
    // A client without the limits that are under test here.
    let (client, connection) = client::Builder::new()
        .initial_window_size(65_535)
        .initial_connection_window_size(1024 * 1024)
        .data_frame_budget(usize::MAX)
        .max_local_error_reset_streams(None)
        .handshake(far)
        .await
        .expect("the handshake succeeds");
    Downstream { client, driver: tokio::spawn(connection), server, drain }
}

pub(super) fn pipe() -> (DuplexStream, DuplexStream) {
    tokio::io::duplex(64 * 1024)
}

pub(super) fn get(path: &str) -> http::Request<()> {
    http::Request::builder().uri(format!("http://a.test{path}")).body(()).expect("a valid request")
}

pub(super) fn post(path: &str) -> http::Request<()> {
    http::Request::builder().method("POST").uri(format!("http://a.test{path}")).body(()).expect("a valid request")
}

/// Everything up to the end of a stream.
pub(super) async fn read_all(stream: &mut RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.data().await {
        let chunk = chunk?;
        stream.flow_control().release_capacity(chunk.len())?;
        bytes.extend_from_slice(&chunk);
    }
    Ok((bytes, stream.trailers().await?))
}

/// Everything of a body of ours.
pub(in crate::codec) async fn drain_body(
    body: &mut (impl PollBody + Send),
) -> Result<(Vec<u8>, Option<HeaderMap>), BodyError> {
    let mut bytes = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| body.poll_frame(cx)).await {
        match frame? {
            Frame::Data(chunk) => bytes.extend_from_slice(&chunk),
            Frame::Trailers(trailers) => return Ok((bytes, Some(trailers))),
        }
    }
    Ok((bytes, None))
}

/// Sends a large body as the window allows.
pub(super) async fn send_all(stream: &mut SendStream<Bytes>, mut data: Bytes, end: bool) -> Result<(), h2::Error> {
    if data.is_empty() {
        return stream.send_data(data, end);
    }
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let granted = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await.expect("the stream is open")?;
        let piece = data.split_to(granted.min(data.len()));
        stream.send_data(piece, end && data.is_empty())?;
    }
    Ok(())
}

pub(in crate::codec) fn head(method: &str, path: &str) -> RequestHead {
    RequestHead {
        method: method.parse().expect("a method"),
        scheme: Scheme::HTTP,
        authority: Some("up.test".parse().expect("an authority")),
        path: path.parse().expect("a path"),
        version: http::Version::HTTP_11,
        headers: HeaderMap::new(),
        upgrade: None,
    }
}

/// Keeps the 1xx responses it is given.
#[derive(Default)]
pub(in crate::codec) struct Interims(pub(in crate::codec) Mutex<Vec<(StatusCode, HeaderMap)>>);

impl Interim for Interims {
    fn send(&self, status: StatusCode, headers: &HeaderMap) {
        self.0.lock().push((status, headers.clone()));
    }
}

pub(super) fn client_options() -> H2ClientOptions {
    H2ClientOptions {
        max_streams: 100,
        keepalive_interval: None,
        keepalive_timeout: Duration::from_secs(3),
        on_release: None,
    }
}

/// A connection under test to the other end of `io`, driven.
pub(super) async fn connect<IO>(io: IO, options: &H2ClientOptions) -> (H2Connection, JoinHandle<()>)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (connection, driver) = H2Connection::handshake(io, options).await.expect("the handshake succeeds");
    (connection, tokio::spawn(driver))
}

pub(super) type Incoming = (http::Request<RecvStream>, server::SendResponse<Bytes>);

/// An upstream by the library: every request is given to `answer` in a task of its own.
pub(super) fn upstream<F, Fut>(builder: server::Builder, answer: F) -> (DuplexStream, JoinHandle<()>)
where
    F: Fn(Incoming) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let (near, far) = pipe();
    let task = tokio::spawn(async move {
        let mut connection = builder.handshake::<_, Bytes>(far).await.expect("the handshake succeeds");
        while let Some(Ok(incoming)) = connection.accept().await {
            tokio::spawn(answer(incoming));
        }
    });
    (near, task)
}

/// Waits until a condition holds, by letting everything else run.
pub(in crate::codec) async fn until(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "the condition never holds");
        tokio::task::yield_now().await;
    }
}

/// A flag that is raised when it is dropped.
pub(in crate::codec) struct OnDrop(pub(in crate::codec) Arc<std::sync::atomic::AtomicBool>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::SeqCst);
    }
}

/// A peer that writes and reads frames byte by byte.
pub(super) struct Raw(pub(super) DuplexStream);

/// A frame as it is on the wire.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RawFrame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

impl RawFrame {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PING: u8 = 6;
    pub(super) const GOAWAY: u8 = 7;
    pub(super) const END_STREAM: u8 = 1;
    pub(super) const ACK: u8 = 1;
    pub(super) const END_HEADERS: u8 = 4;

    pub(super) fn new(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Self {
        Self { kind, flags, stream, payload: payload.to_vec() }
    }

    /// A response head with status 200 and no fields.
    pub(in crate::codec) fn ok(stream: u32, flags: u8) -> Self {
        Self::new(Self::HEADERS, Self::END_HEADERS | flags, stream, &[0x88])
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).expect("a short payload").to_be_bytes();
        let mut bytes = length[1..].to_vec();
        bytes.extend_from_slice(&[self.kind, self.flags]);
        bytes.extend_from_slice(&self.stream.to_be_bytes());
        bytes.extend_from_slice(&self.payload);
        bytes
    }

    /// The error code of a RST_STREAM or a GOAWAY.
    pub(super) fn reason(&self) -> h2::Reason {
        let code = if self.kind == Self::GOAWAY { &self.payload[4..8] } else { &self.payload[..4] };
        u32::from_be_bytes(code.try_into().expect("four bytes")).into()
    }
}

impl Raw {
    /// The client's side of a connection, with its preface sent.
    pub(super) async fn client(io: DuplexStream) -> Self {
        let mut raw = Self(io);
        raw.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        raw.send(&[RawFrame::new(RawFrame::SETTINGS, 0, 0, &[])]).await;
        raw
    }

    /// The server's side of a connection, with the client's preface read and settings exchanged.
    pub(super) async fn server(io: DuplexStream) -> Self {
        let mut raw = Self(io);
        let mut preface = [0; 24];
        within(raw.0.read_exact(&mut preface)).await.expect("the preface");
        raw.send(&[RawFrame::new(RawFrame::SETTINGS, 0, 0, &[])]).await;
        raw
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) {
        within(self.0.write_all(bytes)).await.expect("the other side reads");
    }

    pub(super) async fn send(&mut self, frames: &[RawFrame]) {
        let bytes: Vec<u8> = frames.iter().flat_map(RawFrame::bytes).collect();
        self.write(&bytes).await;
    }

    /// The next frame, or `None` when the other side has closed.
    pub(super) async fn next(&mut self) -> Option<RawFrame> {
        let mut head = [0; 9];
        within(self.0.read_exact(&mut head)).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        within(self.0.read_exact(&mut payload)).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(RawFrame { kind: head[3], flags: head[4], stream, payload })
    }

    /// The next frame of a kind, acknowledging settings on the way.
    pub(super) async fn next_of(&mut self, kind: u8) -> RawFrame {
        loop {
            let frame = self.next().await.expect("a frame before the end");
            if frame.kind == kind {
                return frame;
            }
            if frame.kind == RawFrame::SETTINGS && frame.flags & RawFrame::ACK == 0 {
                self.send(&[RawFrame::new(RawFrame::SETTINGS, RawFrame::ACK, 0, &[])]).await;
            }
        }
    }
}
