//! Clients and backends of either version behind one face, for claims that must hold in all four
//! combinations of downstream and upstream.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};

use super::h2_client::send_all;
use super::http1::{self, chunk};
use super::{Call, Conn, H1Backend, H1Client, H2Backend, H2Client};

/// A version of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.1.
    H1,
    /// HTTP/2 with prior knowledge.
    H2,
}

impl Version {
    /// As a cluster's `protocol`.
    pub fn protocol(self) -> &'static str {
        match self {
            Self::H1 => "http1",
            Self::H2 => "http2",
        }
    }
}

/// Downstream and upstream, all four.
pub const COMBINATIONS: [(Version, Version); 4] =
    [(Version::H1, Version::H1), (Version::H1, Version::H2), (Version::H2, Version::H1), (Version::H2, Version::H2)];

/// Header fields as text (Latin-1).
pub type Fields = Vec<(String, String)>;

/// Fields written as literals.
pub fn fields(list: &[(&str, &str)]) -> Fields {
    list.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
}

/// A message to send: a request without its start line, or a response's rest.
#[derive(Debug, Clone, Default)]
pub struct Message {
    /// Header fields.
    pub fields: Fields,
    /// The body; with trailers or without a length it is chunked in HTTP/1.1.
    pub body: Vec<u8>,
    /// Trailers.
    pub trailers: Fields,
    /// 1xx heads to send first (responses).
    pub informational: Vec<(u16, Fields)>,
}

impl Message {
    /// A message with this body.
    pub fn body(body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..Self::default() }
    }

    /// With a header field.
    pub fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With a trailer.
    pub fn trailer(mut self, name: &str, value: &str) -> Self {
        self.trailers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With a 1xx head before it.
    pub fn hint(mut self, status: u16, list: &[(&str, &str)]) -> Self {
        self.informational.push((status, fields(list)));
        self
    }
}

/// A response as a client of either version saw it.
#[derive(Debug, Clone)]
pub struct Told {
    /// The final status.
    pub status: u16,
    /// Its fields.
    pub fields: Fields,
    /// The body.
    pub body: Vec<u8>,
    /// The trailers.
    pub trailers: Fields,
    /// 1xx heads.
    pub informational: Vec<(u16, Fields)>,
}

impl Told {
    /// The only value of a field.
    pub fn get(&self, name: &str) -> Option<&str> {
        only(&self.fields, name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The reason code of an answer that the proxy made itself.
    pub fn reason(&self) -> Option<&str> {
        self.get("x-outrigger-reason")
    }
}

/// A request as a backend of either version saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The method.
    pub method: String,
    /// The path with query.
    pub target: String,
    /// The fields; `host` also where it was `:authority`.
    pub fields: Fields,
    /// The body.
    pub body: Vec<u8>,
    /// The trailers.
    pub trailers: Fields,
    /// Whether its end was seen.
    pub complete: bool,
}

impl Seen {
    /// All values of a field.
    pub fn all(&self, name: &str) -> Vec<&str> {
        all(&self.fields, name)
    }

    /// The only value of a field.
    pub fn get(&self, name: &str) -> Option<&str> {
        only(&self.fields, name)
    }
}

fn all<'a>(fields: &'a Fields, name: &str) -> Vec<&'a str> {
    fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
}

fn only<'a>(fields: &'a Fields, name: &str) -> Option<&'a str> {
    let all = all(fields, name);
    assert!(all.len() < 2, "`{name}` is there {} times: {fields:?}", all.len());
    all.first().copied()
}

/// A client of either version.
#[derive(Debug)]
pub enum AnyClient {
    /// HTTP/1.1.
    H1(H1Client),
    /// HTTP/2.
    H2(H2Client),
}

impl AnyClient {
    /// Connects.
    pub async fn connect(version: Version, addr: SocketAddr) -> Self {
        match version {
            Version::H1 => Self::H1(H1Client::connect(addr).await),
            Version::H2 => Self::H2(H2Client::connect(addr).await),
        }
    }

    /// `GET path` on `a.example`.
    pub async fn get(&mut self, path: &str) -> Told {
        self.call("GET", path, &Message::default()).await
    }

    /// A request to `a.example`. A GET, HEAD or OPTIONS without body and trailers has none.
    pub async fn call(&mut self, method: &str, path: &str, message: &Message) -> Told {
        self.try_call(method, path, message).await.expect("a whole response")
    }

    /// The same; an error is a response that did not come whole.
    pub async fn try_call(&mut self, method: &str, path: &str, message: &Message) -> Result<Told, String> {
        match self {
            Self::H1(client) => {
                let mut head = format!("{method} {path} HTTP/1.1\r\n");
                if !message.fields.iter().any(|(name, _)| name == "host") {
                    head += "host: a.example\r\n";
                }
                let part = if bodiless(method, message) { Part::Bare } else { Part::Whole };
                client.send(encode(head, message, part)).await;
                let reply = super::within(super::PATIENCE, "a response", client.wire.response(method))
                    .await
                    .map_err(|e| e.to_string())?;
                Ok(Told {
                    status: reply.status,
                    fields: reply.head.fields,
                    body: reply.body,
                    trailers: reply.trailers,
                    informational: reply
                        .informational
                        .into_iter()
                        .map(|head| (head.start[9..12].parse().expect("a status"), head.fields))
                        .collect(),
                })
            }
            Self::H2(client) => {
                let host = only(&message.fields, "host").unwrap_or("a.example");
                let mut head = Request::builder()
                    .method(method)
                    .uri(format!("http://{host}{path}"))
                    .body(())
                    .expect("a valid request");
                *head.headers_mut() = header_map(&message.fields);
                head.headers_mut().remove("host");
                let reply = if message.body.is_empty() && message.trailers.is_empty() {
                    client.fetch(head).await
                } else {
                    let trailers = (!message.trailers.is_empty()).then(|| header_map(&message.trailers));
                    client.send(head, message.body.clone(), trailers).await
                }
                .map_err(|e| e.to_string())?;
                Ok(Told {
                    status: reply.status,
                    fields: texts(&reply.headers),
                    body: reply.body.to_vec(),
                    trailers: reply.trailers.as_ref().map(texts).unwrap_or_default(),
                    informational: reply
                        .informational
                        .iter()
                        .map(|(status, headers)| (*status, texts(headers)))
                        .collect(),
                })
            }
        }
    }
}

/// A backend of either version.
#[derive(Debug)]
pub enum AnyBackend {
    /// HTTP/1.1.
    H1(H1Backend),
    /// HTTP/2.
    H2(H2Backend),
}

impl AnyBackend {
    /// Answers everything with 200 and `ok`.
    pub async fn ok(version: Version) -> Self {
        Self::answering(version, 200, Message::body("ok")).await
    }

    /// Answers every request, once it is complete, with this.
    pub async fn answering(version: Version, status: u16, message: Message) -> Self {
        Self::with(version, move |_| (status, message.clone())).await
    }

    /// Answers every request, once it is complete, with what a function makes of it.
    pub async fn with<F>(version: Version, answer: F) -> Self
    where
        F: Fn(&Seen) -> (u16, Message) + Send + Sync + 'static,
    {
        let answer = Arc::new(answer);
        match version {
            Version::H1 => Self::H1(
                H1Backend::start(move |mut conn: Conn| {
                    let answer = Arc::clone(&answer);
                    async move {
                        while let Some(request) = conn.request().await {
                            let method = request.method.clone();
                            let (status, message) = answer(&from_h1(request));
                            if conn.send(h1_answer(status, &message, &method)).await.is_err() {
                                return;
                            }
                        }
                    }
                })
                .await,
            ),
            Version::H2 => Self::H2(
                H2Backend::start(move |mut call: Call| {
                    let answer = Arc::clone(&answer);
                    async move {
                        let Ok((body, trailers)) = call.body().await else {
                            return;
                        };
                        let seen = Seen {
                            method: call.head.method().to_string(),
                            target: call.path().to_owned(),
                            fields: texts(call.head.headers()),
                            body: body.to_vec(),
                            trailers: trailers.as_ref().map(texts).unwrap_or_default(),
                            complete: true,
                        };
                        let (status, message) = answer(&seen);
                        h2_answer(&mut call, status, &message).await;
                    }
                })
                .await,
            ),
        }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        match self {
            Self::H1(backend) => backend.addr,
            Self::H2(backend) => backend.addr,
        }
    }

    /// The requests so far, in order of arrival.
    pub fn seen(&self) -> Vec<Seen> {
        match self {
            Self::H1(backend) => backend.requests().into_iter().map(from_h1).collect(),
            Self::H2(backend) => backend
                .calls()
                .into_iter()
                .map(|call| {
                    let mut fields = texts(&call.headers);
                    fields.extend(call.authority.map(|a| ("host".to_owned(), a)));
                    Seen {
                        method: call.method,
                        target: call.path,
                        fields,
                        complete: call.body.is_some(),
                        body: call.body.map(|b| b.to_vec()).unwrap_or_default(),
                        trailers: call.trailers.as_ref().map(texts).unwrap_or_default(),
                    }
                })
                .collect(),
        }
    }

    /// The only request so far.
    pub fn only(&self) -> Seen {
        let mut seen = self.seen();
        assert_eq!(seen.len(), 1, "one request reached the backend: {seen:?}");
        assert!(self.complaints().is_empty(), "{:?}", self.complaints());
        seen.remove(0)
    }

    /// What was malformed (HTTP/1.1) or how connections failed (HTTP/2).
    pub fn complaints(&self) -> Vec<String> {
        match self {
            Self::H1(backend) => backend.records().into_iter().flat_map(|record| record.violations).collect(),
            Self::H2(backend) => backend.errors(),
        }
    }

    /// How many connections were accepted.
    pub fn connections(&self) -> usize {
        match self {
            Self::H1(backend) => backend.connections(),
            Self::H2(backend) => backend.connections(),
        }
    }
}

fn from_h1(request: http1::Request) -> Seen {
    Seen {
        method: request.method,
        target: request.target,
        fields: request.head.fields,
        body: request.body,
        trailers: request.trailers,
        complete: request.complete,
    }
}

/// The bytes of an HTTP/1.1 response to a request with this method.
pub fn h1_answer(status: u16, message: &Message, method: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for (status, list) in &message.informational {
        out.extend_from_slice(format!("HTTP/1.1 {status} X\r\n").as_bytes());
        put(&mut out, list);
        out.extend_from_slice(b"\r\n");
    }
    let part = match (method, status) {
        (_, 204) => Part::Bare,
        ("HEAD", _) | (_, 304) if message.body.is_empty() => Part::Bare,
        ("HEAD", _) | (_, 304) => Part::Head,
        _ => Part::Whole,
    };
    out.extend(encode(format!("HTTP/1.1 {status} X\r\n"), message, part));
    out
}

async fn h2_answer(call: &mut Call, status: u16, message: &Message) {
    for (status, list) in &message.informational {
        let mut head = Response::builder().status(*status).body(()).expect("a valid head");
        *head.headers_mut() = header_map(list);
        call.respond.send_informational(head).ok();
    }
    let bodiless = call.head.method() == "HEAD" || matches!(status, 204 | 304);
    let mut head = Response::builder().status(status).body(()).expect("a valid head");
    *head.headers_mut() = header_map(&message.fields);
    if message.trailers.is_empty() && !matches!(status, 204 | 304) && !head.headers().contains_key("content-length") {
        head.headers_mut().insert("content-length", message.body.len().into());
    }
    let trailing = !message.trailers.is_empty();
    let end = bodiless || (message.body.is_empty() && !trailing);
    let Ok(mut stream) = call.respond(head, end) else {
        return;
    };
    if end {
        return;
    }
    let body = Bytes::from(message.body.clone());
    if send_all(&mut stream, body, !trailing).await.is_ok() && trailing {
        stream.send_trailers(header_map(&message.trailers)).ok();
    }
}

/// How much of a message is written in HTTP/1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The head without framing fields: there is no body.
    Bare,
    /// The head with the framing fields of a body that does not follow (HEAD, 304).
    Head,
    /// Everything.
    Whole,
}

fn encode(start: String, message: &Message, part: Part) -> Vec<u8> {
    let mut out = start.into_bytes();
    put(&mut out, &message.fields);
    let chunked = !message.trailers.is_empty();
    if part != Part::Bare && chunked {
        out.extend_from_slice(b"transfer-encoding: chunked\r\n");
    } else if part != Part::Bare && all(&message.fields, "content-length").is_empty() {
        out.extend_from_slice(format!("content-length: {}\r\n", message.body.len()).as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    if part == Part::Whole && chunked {
        if !message.body.is_empty() {
            out.extend(chunk(&message.body));
        }
        out.extend_from_slice(b"0\r\n");
        put(&mut out, &message.trailers);
        out.extend_from_slice(b"\r\n");
    } else if part == Part::Whole {
        out.extend_from_slice(&message.body);
    }
    out
}

fn bodiless(method: &str, message: &Message) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS") && message.body.is_empty() && message.trailers.is_empty()
}

fn put(out: &mut Vec<u8>, fields: &Fields) {
    for (name, value) in fields {
        out.extend(name.chars().map(|c| c as u8));
        out.extend_from_slice(b": ");
        out.extend(value.chars().map(|c| c as u8));
        out.extend_from_slice(b"\r\n");
    }
}

/// Fields as a header map.
pub fn header_map(fields: &Fields) -> HeaderMap {
    fields
        .iter()
        .map(|(name, value)| {
            let bytes: Vec<u8> = value.chars().map(|c| c as u8).collect();
            (
                HeaderName::from_bytes(name.as_bytes()).expect("a valid name"),
                HeaderValue::from_bytes(&bytes).expect("a valid value"),
            )
        })
        .collect()
}

/// A header map as fields.
pub fn texts(headers: &HeaderMap) -> Fields {
    headers
        .iter()
        .map(|(name, value)| {
            let value = value.as_bytes().iter().map(|&b| char::from(b)).collect();
            (name.as_str().to_owned(), value)
        })
        .collect()
}
