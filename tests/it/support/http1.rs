//! HTTP/1.1 as the tests see it: strict parsing of what the proxy wrote, and raw reading and writing.
//! Shared by the recording backend and the raw client. Whatever is not exactly the canonical form is
//! a violation, because that is the property the smuggling tests rest on.

use std::io;
use std::sync::Arc;

use tokio::net::TcpStream;

/// A start line and header fields. Text is Latin-1, so that no byte is lost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Head {
    /// The request or status line.
    pub start: String,
    /// Fields in order, names as sent.
    pub fields: Vec<(String, String)>,
}

impl Head {
    /// The only value of a field. Panics when there are several.
    pub fn get(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "`{name}` is there {} times in {self:?}", all.len());
        all.first().copied()
    }

    /// All values of a field.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
    }

    /// Whether a field is there.
    pub fn has(&self, name: &str) -> bool {
        !self.all(name).is_empty()
    }
}

/// How a message's body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    None,
    /// `Content-Length`.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// Until the connection closes (responses only).
    Close,
}

/// A request as a strict reader understands it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The head.
    pub head: Head,
    /// The method.
    pub method: String,
    /// The request target.
    pub target: String,
    /// How the body is delimited.
    pub framing: Framing,
    /// The body; of a request that never completed, what came of it.
    pub body: Vec<u8>,
    /// Trailer fields.
    pub trailers: Vec<(String, String)>,
    /// Whether its end was seen.
    pub complete: bool,
    /// Its number in order of arrival over all connections of a backend.
    pub order: usize,
}

/// A response as a strict reader understands it.
#[derive(Debug, Clone)]
pub struct Response {
    /// The final status.
    pub status: u16,
    /// The final head.
    pub head: Head,
    /// The body.
    pub body: Vec<u8>,
    /// Trailer fields.
    pub trailers: Vec<(String, String)>,
    /// 1xx heads that came first.
    pub informational: Vec<Head>,
    /// How the body was delimited.
    pub framing: Framing,
}

impl Response {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The reason code of an answer that the proxy made itself.
    pub fn reason(&self) -> Option<&str> {
        self.head.get("x-outrigger-reason")
    }
}

/// Makes a response with a `content-length`.
pub fn response(status: u16, fields: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut out = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in fields {
        out += &format!("{name}: {value}\r\n");
    }
    out += "\r\n";
    let mut out = out.into_bytes();
    out.extend_from_slice(body);
    out
}

/// One chunk of a chunked body.
pub fn chunk(data: &[u8]) -> Vec<u8> {
    let mut out = format!("{:x}\r\n", data.len()).into_bytes();
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
    out
}

/// A TCP stream with a read buffer. Clones share the socket; each has its own buffer, so only one
/// clone may read.
#[derive(Debug)]
pub struct Wire {
    stream: Arc<TcpStream>,
    buffer: Vec<u8>,
    ended: bool,
    /// Every byte that was read, up to [`KEPT`].
    pub seen: Vec<u8>,
}

/// How many read bytes a [`Wire`] remembers.
const KEPT: usize = 1 << 20;

impl Wire {
    /// Wraps a connected stream.
    pub fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).ok();
        Self { stream: Arc::new(stream), buffer: Vec::new(), ended: false, seen: Vec::new() }
    }

    /// The socket, for writing from elsewhere.
    pub fn writer(&self) -> Writer {
        Writer(Arc::clone(&self.stream))
    }

    /// Where this end is.
    pub fn local_addr(&self) -> std::net::SocketAddr {
        self.stream.local_addr().expect("a connected socket")
    }

    /// Writes everything.
    pub async fn send(&self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.writer().send(bytes).await
    }

    /// Makes the coming close a reset (RST) instead of an orderly end.
    pub fn reset_on_close(&self) {
        socket2::SockRef::from(&*self.stream).set_linger(Some(std::time::Duration::ZERO)).expect("set linger");
    }

    /// Ends the writing side.
    pub fn finish(&self) {
        socket2::SockRef::from(&*self.stream).shutdown(std::net::Shutdown::Write).ok();
    }

    /// Reads more into the buffer; false at the end.
    pub async fn fill(&mut self) -> io::Result<bool> {
        if self.ended {
            return Ok(false);
        }
        let start = self.buffer.len();
        loop {
            self.stream.readable().await?;
            self.buffer.reserve(16 * 1024);
            match self.stream.try_read_buf(&mut self.buffer) {
                Ok(0) => {
                    self.ended = true;
                    return Ok(false);
                }
                Ok(_) => {
                    let room = KEPT.saturating_sub(self.seen.len());
                    let fresh = &self.buffer[start..];
                    self.seen.extend_from_slice(&fresh[..fresh.len().min(room)]);
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    self.ended = true;
                    return Err(error);
                }
            }
        }
    }

    /// What has been read and not used.
    pub fn buffered(&self) -> &[u8] {
        &self.buffer
    }

    /// Takes exactly `count` bytes.
    pub async fn take(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < count {
            if !self.fill().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let rest = self.buffer.split_off(count);
        Ok(std::mem::replace(&mut self.buffer, rest))
    }

    /// Takes what is there, at most `limit` bytes; `None` at the end.
    pub async fn some(&mut self, limit: usize) -> io::Result<Option<Vec<u8>>> {
        if self.buffer.is_empty() && !self.fill().await? {
            return Ok(None);
        }
        let count = self.buffer.len().min(limit);
        self.take(count).await.map(Some)
    }

    /// Takes up to and including `pattern`; `None` when the peer closed before a first byte.
    pub async fn until(&mut self, pattern: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut from = 0;
        loop {
            let found = self.buffer[from..].windows(pattern.len()).position(|w| w == pattern);
            if let Some(at) = found {
                return self.take(from + at + pattern.len()).await.map(Some);
            }
            from = self.buffer.len().saturating_sub(pattern.len() - 1);
            if !self.fill().await? {
                return if self.buffer.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    /// Reads and drops everything until the peer closes; true for a reset.
    pub async fn closed(&mut self) -> bool {
        loop {
            self.buffer.clear();
            match self.fill().await {
                Ok(true) => {}
                Ok(false) => return false,
                Err(_) => return true,
            }
        }
    }

    /// Everything until the peer closes; a reset ends it as well.
    pub async fn rest(&mut self) -> Vec<u8> {
        while let Ok(true) = self.fill().await {}
        std::mem::take(&mut self.buffer)
    }

    /// A head, or `None` at the end of the connection. `Err(InvalidData)` is a violation.
    pub async fn head(&mut self) -> io::Result<Option<Head>> {
        match self.until(b"\r\n\r\n").await? {
            Some(bytes) => parse_head(&bytes).map(Some).map_err(violation),
            None => Ok(None),
        }
    }

    /// The head of a request and how its body is delimited.
    pub async fn request_head(&mut self) -> io::Result<Option<Request>> {
        match self.head().await? {
            Some(head) => parse_request(head).map(Some).map_err(violation),
            None => Ok(None),
        }
    }

    /// A chunk's data, or `None` after the last one, with the trailers.
    pub async fn chunk(&mut self) -> io::Result<Result<Vec<u8>, Vec<(String, String)>>> {
        let line = self.until(b"\r\n").await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let size = parse_chunk_size(&line[..line.len() - 2]).map_err(violation)?;
        if size > 0 {
            let data = self.take(size).await?;
            if self.take(2).await? != b"\r\n" {
                return Err(violation("no CRLF after chunk data".to_owned()));
            }
            return Ok(Ok(data));
        }
        let mut block = b"\r\n".to_vec();
        loop {
            let line = self.until(b"\r\n").await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            block.extend_from_slice(&line);
            if line == b"\r\n" {
                break;
            }
        }
        Ok(Err(parse_fields(&block[2..block.len() - 2]).map_err(violation)?))
    }

    /// The body of a request whose head was read.
    pub async fn request_body(&mut self, request: &mut Request) -> io::Result<()> {
        match request.framing {
            Framing::Length(length) => {
                while (request.body.len() as u64) < length {
                    let missing = length as usize - request.body.len();
                    match self.some(missing).await? {
                        Some(piece) => request.body.extend_from_slice(&piece),
                        None => return Err(io::ErrorKind::UnexpectedEof.into()),
                    }
                }
            }
            Framing::Chunked => loop {
                match self.chunk().await? {
                    Ok(data) => request.body.extend_from_slice(&data),
                    Err(trailers) => {
                        request.trailers = trailers;
                        break;
                    }
                }
            },
            Framing::None | Framing::Close => {}
        }
        request.complete = true;
        Ok(())
    }

    /// The head of a final response, with the 1xx heads before it.
    pub async fn response_head(&mut self, method: &str) -> io::Result<Response> {
        let mut informational = Vec::new();
        loop {
            let head = self.head().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let status = parse_status(&head.start).map_err(violation)?;
            if (100..200).contains(&status) && status != 101 {
                informational.push(head);
                continue;
            }
            let framing = response_framing(&head, status, method).map_err(violation)?;
            return Ok(Response { status, head, body: Vec::new(), trailers: Vec::new(), informational, framing });
        }
    }

    /// A whole response to a request with this method.
    pub async fn response(&mut self, method: &str) -> io::Result<Response> {
        let mut response = self.response_head(method).await?;
        match response.framing {
            Framing::None => {}
            Framing::Length(length) => response.body = self.take(length as usize).await?,
            Framing::Chunked => loop {
                match self.chunk().await? {
                    Ok(data) => response.body.extend_from_slice(&data),
                    Err(trailers) => {
                        response.trailers = trailers;
                        break;
                    }
                }
            },
            Framing::Close => {
                while self.fill().await? {}
                response.body = std::mem::take(&mut self.buffer);
            }
        }
        Ok(response)
    }
}

/// The writing side of a [`Wire`].
#[derive(Debug, Clone)]
pub struct Writer(Arc<TcpStream>);

impl Writer {
    /// Writes everything.
    pub async fn send(&self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        let mut bytes = bytes.as_ref();
        while !bytes.is_empty() {
            self.0.writable().await?;
            match self.0.try_write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes what fits now; how much, or `None` when the socket is full.
    pub fn try_send(&self, bytes: &[u8]) -> io::Result<Option<usize>> {
        match self.0.try_write(bytes) {
            Ok(count) => Ok(Some(count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn violation(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Parses a head that ends with an empty line, strictly by RFC 9112 section 2.2 and 5.
pub fn parse_head(bytes: &[u8]) -> Result<Head, String> {
    let text = &bytes[..bytes.len() - 2];
    let end = text.windows(2).position(|w| w == b"\r\n").ok_or("no line end")?;
    let start = latin1(&text[..end]);
    if text[..end].iter().any(|&b| b < b' ' || b == 0x7f) {
        return Err(format!("control character in start line {start:?}"));
    }
    Ok(Head { start, fields: parse_fields(&text[end + 2..])? })
}

fn parse_fields(mut text: &[u8]) -> Result<Vec<(String, String)>, String> {
    let mut fields = Vec::new();
    while !text.is_empty() {
        let end = text.windows(2).position(|w| w == b"\r\n").ok_or("no line end")?;
        let line = &text[..end];
        text = &text[end + 2..];
        let colon = line.iter().position(|&b| b == b':').ok_or_else(|| format!("no colon in {:?}", latin1(line)))?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if name.is_empty() || !name.iter().copied().all(is_token) {
            return Err(format!("bad field name {:?}", latin1(name)));
        }
        let value = value.strip_prefix(b" ").unwrap_or(value);
        if value.iter().any(|&b| (b < b' ' && b != b'\t') || b == 0x7f) {
            return Err(format!("control character in {:?}", latin1(line)));
        }
        if value.first().is_some_and(u8::is_ascii_whitespace) || value.last().is_some_and(u8::is_ascii_whitespace) {
            return Err(format!("blanks around the value in {:?}", latin1(line)));
        }
        fields.push((latin1(name), latin1(value)));
    }
    Ok(fields)
}

fn parse_request(head: Head) -> Result<Request, String> {
    let mut parts = head.start.split(' ');
    let (Some(method), Some(target), Some("HTTP/1.1"), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(format!("bad request line {:?}", head.start));
    };
    if method.is_empty() || !method.bytes().all(is_token) || target.is_empty() {
        return Err(format!("bad request line {:?}", head.start));
    }
    if head.all("host").len() != 1 {
        return Err(format!("{} Host fields", head.all("host").len()));
    }
    let (lengths, codings) = (head.all("content-length"), head.all("transfer-encoding"));
    let framing = match (&lengths[..], &codings[..]) {
        ([], []) => Framing::None,
        ([length], []) => Framing::Length(parse_length(length)?),
        ([], ["chunked"]) => Framing::Chunked,
        _ => {
            return Err(format!("ambiguous framing: lengths {lengths:?}, codings {codings:?}"));
        }
    };
    let (method, target) = (method.to_owned(), target.to_owned());
    Ok(Request { head, method, target, framing, body: Vec::new(), trailers: Vec::new(), complete: false, order: 0 })
}

fn parse_status(start: &str) -> Result<u16, String> {
    let digits = start
        .strip_prefix("HTTP/1.1 ")
        .or_else(|| start.strip_prefix("HTTP/1.0 "))
        .and_then(|rest| rest.get(..3))
        .ok_or_else(|| format!("bad status line {start:?}"))?;
    digits.parse().map_err(|_| format!("bad status line {start:?}"))
}

fn response_framing(head: &Head, status: u16, method: &str) -> Result<Framing, String> {
    let (lengths, codings) = (head.all("content-length"), head.all("transfer-encoding"));
    if !lengths.is_empty() && !codings.is_empty() || lengths.len() > 1 || codings.len() > 1 {
        return Err(format!("ambiguous framing in {head:?}"));
    }
    if matches!(status, 101 | 204) && (!lengths.is_empty() || !codings.is_empty()) {
        return Err(format!("framing fields in a {status}: {head:?}"));
    }
    if method == "HEAD" || matches!(status, 101 | 204 | 304) {
        return Ok(Framing::None);
    }
    match (lengths.first(), codings.first()) {
        (Some(length), None) => Ok(Framing::Length(parse_length(length)?)),
        (None, Some(&"chunked")) => Ok(Framing::Chunked),
        (None, None) => Ok(Framing::Close),
        _ => Err(format!("unknown transfer coding in {head:?}")),
    }
}

fn parse_length(text: &str) -> Result<u64, String> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("bad content-length {text:?}"));
    }
    text.parse().map_err(|_| format!("bad content-length {text:?}"))
}

fn parse_chunk_size(line: &[u8]) -> Result<usize, String> {
    if line.is_empty() || line.len() > 15 || !line.iter().all(u8::is_ascii_hexdigit) {
        return Err(format!("bad chunk size line {:?}", latin1(line)));
    }
    usize::from_str_radix(&latin1(line), 16).map_err(|e| e.to_string())
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|&b| char::from(b)).collect()
}
