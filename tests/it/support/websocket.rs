//! WebSocket as the tests see it: a client and an echoing server over HTTP/1.1 and HTTP/2, in raw frames, so that every
//! byte on both sides is in the test's hands. [`WebSocket`] works over anything that is a byte stream, so other versions
//! need only [`WebSocket::over`].

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use bytes::Bytes;
use data_encoding::BASE64;
use h2::{Reason, RecvStream, SendStream};
use http::Request;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::{H2Client, PATIENCE, within};

pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// A message with this text makes the echoing server cut the connection, or reset the stream.
pub const CUT: &[u8] = b"please cut";
/// A message with this text makes the echoing server end its direction without a Close frame.
pub const END: &[u8] = b"please end";

/// Any byte stream.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// A frame, unmasked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub fin: bool,
    pub opcode: u8,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn new(opcode: u8, payload: impl Into<Vec<u8>>) -> Self {
        Self { fin: true, opcode, payload: payload.into() }
    }

    pub fn text(text: &str) -> Self {
        Self::new(TEXT, text)
    }

    pub fn close(code: u16) -> Self {
        Self::new(CLOSE, code.to_be_bytes())
    }

    /// The code of a Close frame.
    pub fn code(&self) -> Option<u16> {
        (self.opcode == CLOSE)
            .then(|| self.payload.get(..2))
            .flatten()
            .map(|code| u16::from_be_bytes([code[0], code[1]]))
    }

    /// As it stands on the wire.
    pub fn encode(&self, mask: Option<[u8; 4]>) -> Vec<u8> {
        let mut out = vec![u8::from(self.fin) << 7 | self.opcode];
        let bit = if mask.is_some() { 0x80 } else { 0 };
        match self.payload.len() {
            n @ 0..126 => out.push(bit | n as u8),
            n @ 126..65536 => {
                out.push(bit | 126);
                out.extend_from_slice(&(n as u16).to_be_bytes());
            }
            n => {
                out.push(bit | 127);
                out.extend_from_slice(&(n as u64).to_be_bytes());
            }
        }
        match mask {
            None => out.extend_from_slice(&self.payload),
            Some(mask @ [0, 0, 0, 0]) => {
                out.extend_from_slice(&mask);
                out.extend_from_slice(&self.payload);
            }
            Some(mask) => {
                out.extend_from_slice(&mask);
                out.extend(self.payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
            }
        }
        out
    }
}

/// One end of an open WebSocket.
pub struct WebSocket {
    stream: Box<dyn ByteStream>,
    buffer: Vec<u8>,
    /// A client masks.
    client: bool,
}

impl std::fmt::Debug for WebSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebSocket").field("client", &self.client).finish_non_exhaustive()
    }
}

impl WebSocket {
    /// A WebSocket that was opened by other means.
    pub fn over(stream: impl ByteStream + 'static, client: bool) -> Self {
        Self { stream: Box::new(stream), buffer: Vec::new(), client }
    }

    /// Opens one over HTTP/1.1.
    pub async fn h1(addr: SocketAddr) -> Self {
        Self::h1_with(addr, "/chat", "").await.1
    }

    /// The same with a path and more fields (`name: value\r\n`). Gives the fields of the answer.
    pub async fn h1_with(addr: SocketAddr, path: &str, fields: &str) -> (HashMap<String, String>, Self) {
        let stream = within(PATIENCE, "connecting", TcpStream::connect(addr)).await.expect("the proxy accepts");
        stream.set_nodelay(true).ok();
        Self::h1_over(stream, path, fields).await
    }

    /// The same over a stream that is open.
    pub async fn h1_over(
        mut stream: impl ByteStream + 'static,
        path: &str,
        fields: &str,
    ) -> (HashMap<String, String>, Self) {
        const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
        let head = handshake(path, KEY, fields);
        within(PATIENCE, "the handshake", stream.write_all(head.as_bytes())).await.expect("the handshake is written");
        let (start, fields) = within(PATIENCE, "an answer", read_head(&mut stream)).await.expect("an answer");
        assert!(start.starts_with("HTTP/1.1 101 "), "{start} {fields:?}");
        assert_eq!(fields["sec-websocket-accept"], accept_of(KEY));
        assert!(fields["connection"].eq_ignore_ascii_case("upgrade"), "{fields:?}");
        assert_eq!(fields["upgrade"], "websocket");
        assert!(!fields.contains_key("content-length") && !fields.contains_key("transfer-encoding"), "{fields:?}");
        (fields, Self::over(stream, true))
    }

    /// Opens one as a stream of an HTTP/2 connection.
    pub async fn h2(client: &H2Client) -> Self {
        Self::h2_with(client, &[]).await.1
    }

    /// The same with more fields.
    pub async fn h2_with(client: &H2Client, fields: &[(&str, &str)]) -> (http::HeaderMap, Self) {
        let mut request = Request::builder().method("CONNECT").uri("http://a.example/chat");
        request = request.header("sec-websocket-version", "13");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let mut request = request.body(()).expect("a request");
        request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
        let (response, send) = client.open(request, false).await.expect("a stream");
        let response = within(PATIENCE, "an answer", response).await.expect("an answer");
        assert_eq!(response.status(), 200, "{response:?}");
        let (parts, recv) = response.into_parts();
        (parts.headers, Self::over(H2Stream::new(send, recv), true))
    }

    /// One half that reads and one that writes.
    pub fn split(self) -> (Self, Self) {
        let (read, write) = tokio::io::split(self.stream);
        let reading = Self {
            stream: Box::new(tokio::io::join(read, tokio::io::sink())),
            buffer: self.buffer,
            client: self.client,
        };
        let writing = Self::over(tokio::io::join(tokio::io::empty(), write), self.client);
        (reading, writing)
    }

    /// Sends a frame.
    pub async fn send(&mut self, frame: &Frame) {
        self.try_send(frame).await.expect("the frame is sent");
    }

    pub async fn try_send(&mut self, frame: &Frame) -> io::Result<()> {
        // Large ones with a mask that changes nothing, because tests are slow to count.
        let mask = if frame.payload.len() < 100_000 { [0x12, 0x34, 0x56, 0x78] } else { [0; 4] };
        let mask = self.client.then_some(mask);
        self.try_send_raw(&frame.encode(mask)).await
    }

    /// Sends bytes that are perhaps a part of a frame.
    pub async fn send_raw(&mut self, bytes: &[u8]) {
        self.try_send_raw(bytes).await.expect("the bytes are sent");
    }

    async fn try_send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        within(PATIENCE, "room for bytes", async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        })
        .await
    }

    /// The next frame; `None` at the end.
    pub async fn try_next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some((frame, length)) = parse(&self.buffer, !self.client) {
                self.buffer.drain(..length);
                return Ok(Some(frame));
            }
            let mut chunk = vec![0; 64 * 1024];
            let n = self.stream.read(&mut chunk).await?;
            if n == 0 {
                assert!(
                    self.buffer.is_empty(),
                    "it ended within a frame: {:?}",
                    &self.buffer[..self.buffer.len().min(20)]
                );
                return Ok(None);
            }
            self.buffer.extend_from_slice(&chunk[..n]);
        }
    }

    /// The next frame.
    pub async fn next(&mut self) -> Frame {
        within(PATIENCE, "a frame", self.try_next()).await.expect("no reset").expect("no end")
    }

    /// Waits for the end, and that it is none of a reset.
    pub async fn ended(&mut self) {
        assert_eq!(within(PATIENCE, "the end", self.try_next()).await.expect("no reset"), None);
    }

    /// Waits for a reset.
    pub async fn broke_off(&mut self) {
        within(PATIENCE, "a reset", self.try_next()).await.expect_err("a reset");
    }

    /// Sends a text and waits for its echo.
    pub async fn echoes(&mut self, text: &str) {
        self.send(&Frame::text(text)).await;
        assert_eq!(self.next().await, Frame::text(text));
    }

    /// Closes in good order.
    pub async fn close(mut self) {
        self.send(&Frame::close(1000)).await;
        assert_eq!(self.next().await.code(), Some(1000));
        self.ended().await;
    }

    /// Ends this direction without a Close frame.
    pub async fn half_close(&mut self) {
        within(PATIENCE, "the end to be written", self.stream.shutdown()).await.expect("the end is written");
    }
}

/// A handshake of HTTP/1.1.
pub fn handshake(path: &str, key: &str, fields: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: a.example\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{fields}\r\n"
    )
}

pub fn accept_of(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()).as_ref())
}

/// A start line and fields with lower-case names, read byte by byte, so that nothing behind them is.
pub async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<(String, HashMap<String, String>)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let text = String::from_utf8(head).expect("a head is text");
    let mut lines = text.trim_end().split("\r\n");
    let start = lines.next().expect("a start line").to_owned();
    let fields = lines
        .map(|line| line.split_once(": ").expect("a field"))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()));
    Ok((start, fields.collect()))
}

/// A frame at the front of `bytes`, and its length there.
fn parse(bytes: &[u8], masked: bool) -> Option<(Frame, usize)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    assert_eq!(second & 0x80 != 0, masked, "clients mask and servers do not");
    let (length, mut at) = match second & 0x7f {
        126 => (u64::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)), 4),
        127 => (u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?), 10),
        short => (u64::from(short), 2),
    };
    let mask = if masked {
        at += 4;
        bytes.get(at - 4..at)?
    } else {
        &[0; 4]
    };
    let end = at + usize::try_from(length).expect("it fits");
    let payload = bytes.get(at..end)?;
    let payload = match mask {
        [0, 0, 0, 0] => payload.to_vec(),
        mask => payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]).collect(),
    };
    Some((Frame { fin: first & 0x80 != 0, opcode: first & 0x0f, payload }, end))
}

/// An HTTP/2 stream as a byte stream. Its END_STREAM is the end, and dropping it resets it.
#[derive(Debug)]
pub struct H2Stream {
    send: SendStream<Bytes>,
    recv: RecvStream,
    ahead: Bytes,
    /// This direction has ended: a reset would take that back.
    ended: bool,
}

impl H2Stream {
    pub fn new(send: SendStream<Bytes>, recv: RecvStream) -> Self {
        Self { send, recv, ahead: Bytes::new(), ended: false }
    }
}

fn broken(error: h2::Error) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

impl AsyncRead for H2Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.ahead.is_empty() {
            match ready!(self.recv.poll_data(cx)) {
                Some(Ok(data)) => {
                    self.recv.flow_control().release_capacity(data.len()).map_err(broken)?;
                    self.ahead = data;
                }
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let n = self.ahead.len().min(buf.remaining());
        buf.put_slice(&self.ahead.split_to(n));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for H2Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.send.reserve_capacity(buf.len());
        while self.send.capacity() == 0 {
            match ready!(self.send.poll_capacity(cx)) {
                Some(granted) => granted.map_err(broken)?,
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            };
        }
        let n = self.send.capacity().min(buf.len());
        self.send.send_data(Bytes::copy_from_slice(&buf[..n]), false).map_err(broken)?;
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !std::mem::replace(&mut self.ended, true) {
            self.send.send_data(Bytes::new(), true).map_err(broken)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for H2Stream {
    fn drop(&mut self) {
        if !self.ended {
            self.send.send_reset(Reason::CANCEL);
        }
    }
}

/// How a WebSocket ended, as the server saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// With a Close frame with this code.
    Closed(Option<u16>),
    /// With the end of the stream and no Close frame.
    Ended,
    /// With a reset.
    Broken,
}

/// What the echoing server has seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// Fields of the handshakes.
    pub handshakes: Mutex<Vec<HashMap<String, String>>>,
    /// How WebSockets ended.
    pub endings: Mutex<Vec<Ending>>,
    /// WebSockets open now.
    pub open: AtomicUsize,
}

impl Seen {
    fn note(&self, ending: Ending) {
        self.endings.lock().push(ending);
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A server that echoes what it is sent, frame by frame.
#[derive(Debug)]
pub struct EchoServer {
    pub addr: SocketAddr,
    pub seen: Arc<Seen>,
    accepting: JoinHandle<()>,
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl EchoServer {
    /// Over HTTP/1.1.
    pub async fn h1() -> Self {
        Self::start(|stream, seen| tokio::spawn(serve_h1(stream, seen))).await
    }

    /// The same on a socket that listens.
    pub fn h1_on(listener: TcpListener) -> Self {
        Self::on(listener, |stream, seen| tokio::spawn(serve_h1(stream, seen)))
    }

    /// Over HTTP/2 with extended CONNECT.
    pub async fn h2() -> Self {
        Self::start(|stream, seen| tokio::spawn(serve_h2(stream, seen, true))).await
    }

    /// Over HTTP/2 without extended CONNECT.
    pub async fn h2_without() -> Self {
        Self::start(|stream, seen| tokio::spawn(serve_h2(stream, seen, false))).await
    }

    async fn start<F>(serve: F) -> Self
    where
        F: Fn(TcpStream, Arc<Seen>) -> JoinHandle<()> + Send + 'static,
    {
        Self::on(TcpListener::bind("127.0.0.1:0").await.expect("a port"), serve)
    }

    fn on<F>(listener: TcpListener, serve: F) -> Self
    where
        F: Fn(TcpStream, Arc<Seen>) -> JoinHandle<()> + Send + 'static,
    {
        let addr = listener.local_addr().expect("an address");
        let seen = Arc::<Seen>::default();
        let shared = Arc::clone(&seen);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).ok();
                serve(stream, Arc::clone(&shared));
            }
        });
        Self { addr, seen, accepting }
    }

    /// Waits until a WebSocket has ended so.
    pub async fn saw(&self, ending: &Ending) {
        let what = format!("{ending:?}");
        super::eventually(PATIENCE, &what, || self.seen.endings.lock().contains(ending)).await;
    }

    /// WebSockets open now.
    pub fn open(&self) -> usize {
        self.seen.open.load(Ordering::Relaxed)
    }
}

async fn serve_h1(mut stream: TcpStream, seen: Arc<Seen>) {
    let Ok((start, fields)) = read_head(&mut stream).await else { return };
    let answer = match fields.get("upgrade").map(String::as_str) {
        Some("websocket") => {
            assert!(start.ends_with(" HTTP/1.1"), "{start}");
            assert_eq!(fields["connection"].to_lowercase(), "upgrade");
            assert_eq!(fields["sec-websocket-version"], "13");
            let accept = accept_of(&fields["sec-websocket-key"]);
            let chosen = fields.get("sec-websocket-protocol").and_then(|offered| offered.split(',').next());
            let chosen = chosen.map(|chosen| format!("Sec-WebSocket-Protocol: {chosen}\r\n")).unwrap_or_default();
            format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n{chosen}\r\n"
            )
        }
        _ => {
            let body = format!("{start} upgrade={:?}", fields.get("upgrade"));
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
        }
    };
    let switched = answer.starts_with("HTTP/1.1 101");
    seen.handshakes.lock().push(fields);
    if stream.write_all(answer.as_bytes()).await.is_err() || !switched {
        return;
    }
    let again = stream.as_fd().try_clone_to_owned().expect("another handle");
    let mut socket = WebSocket::over(stream, false);
    let ending = echo(&mut socket, &seen).await;
    if ending == Ending::Broken {
        socket2::SockRef::from(&again).set_linger(Some(Duration::ZERO)).ok();
    }
    drop((again, socket));
    seen.note(ending);
}

async fn serve_h2(stream: TcpStream, seen: Arc<Seen>, extended: bool) {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(10_000).data_frame_budget(usize::MAX);
    // What one stream leaves unread must not keep the others waiting.
    builder.initial_connection_window_size(64 << 20);
    if extended {
        builder.enable_connect_protocol();
    }
    let Ok(mut connection) = builder.handshake(stream).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let seen = Arc::clone(&seen);
        tokio::spawn(async move {
            let (parts, recv) = request.into_parts();
            let fields =
                parts.headers.iter().map(|(name, value)| (name.to_string(), value.to_str().expect("text").to_owned()));
            let mut fields: HashMap<String, String> = fields.collect();
            fields.insert(":method".to_owned(), parts.method.to_string());
            fields.insert(":path".to_owned(), parts.uri.path().to_owned());
            let protocol = parts.extensions.get::<h2::ext::Protocol>().map(|p| p.as_str().to_owned());
            let offered =
                fields.get("sec-websocket-protocol").and_then(|offered| offered.split(',').next()).map(str::to_owned);
            if let Some(protocol) = &protocol {
                fields.insert(":protocol".to_owned(), protocol.clone());
            }
            seen.handshakes.lock().push(fields);
            let mut response = http::Response::builder().status(200);
            if let Some(offered) = offered {
                response = response.header("sec-websocket-protocol", offered);
            }
            let switched = protocol.as_deref() == Some("websocket");
            let response = response.body(()).expect("a response");
            let Ok(send) = respond.send_response(response, !switched) else { return };
            if switched {
                let mut socket = WebSocket::over(H2Stream::new(send, recv), false);
                let ending = echo(&mut socket, &seen).await;
                drop(socket);
                seen.note(ending);
            }
        });
    }
    poll_fn(|cx| connection.poll_closed(cx)).await.ok();
}

async fn echo(socket: &mut WebSocket, seen: &Seen) -> Ending {
    seen.open.fetch_add(1, Ordering::Relaxed);
    let ending = loop {
        match socket.try_next().await {
            Err(_) => break Ending::Broken,
            Ok(None) => {
                // The answer to the end of one direction is the end of the other.
                socket.stream.shutdown().await.ok();
                break Ending::Ended;
            }
            Ok(Some(frame)) => match frame.opcode {
                CLOSE => {
                    socket.try_send(&frame).await.ok();
                    socket.stream.shutdown().await.ok();
                    break Ending::Closed(frame.code());
                }
                PING => {
                    if socket.try_send(&Frame { opcode: PONG, ..frame }).await.is_err() {
                        break Ending::Broken;
                    }
                }
                TEXT if frame.payload == CUT => break Ending::Broken,
                TEXT if frame.payload == END => {
                    socket.stream.shutdown().await.ok();
                }
                _ => {
                    if socket.try_send(&frame).await.is_err() {
                        break Ending::Broken;
                    }
                }
            },
        }
    };
    if matches!(ending, Ending::Ended | Ending::Closed(_)) {
        // Reads on to the end, as a server does that closes in good order, so that closing is no reset.
        while let Ok(Some(_)) = socket.try_next().await {}
    }
    ending
}
