//! Both sides over real sockets: what is on the wire, and what happens when a peer leaves.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

use super::{ClientConn, Home, serve};
use crate::base::drain::Drain;
use crate::codec::{
    Body, BodyError, Frame, Handler, Interim, PollBody, Refusal, Request, RequestHead, Response, ResponseHead,
    SendErrorKind, Sent, ServerOptions,
};
use crate::net::io::Io;

/// Reads the whole request, then answers with what the test's function makes of it.
struct Scripted<F>(F);

impl<F> Handler for Scripted<F>
where
    F: Fn(&RequestHead, Result<(Vec<u8>, Option<HeaderMap>), BodyError>) -> Response<Body> + Send + Sync + 'static,
{
    type Body = Body;

    async fn handle(&self, request: Request, interim: &dyn Interim) -> Response<Body> {
        let Request { head, mut body, .. } = request;
        if head.headers.contains_key("x-hint") {
            let mut hint = HeaderMap::new();
            hint.insert("link", HeaderValue::from_static("</a.css>"));
            interim.send(StatusCode::EARLY_HINTS, &hint);
        }
        let read = read_all(&mut body).await;
        (self.0)(&head, read)
    }

    fn refuse(&self, refusal: Refusal) -> Response<Body> {
        text(refusal.status, refusal.code)
    }
}

async fn read_all(body: &mut Body) -> Result<(Vec<u8>, Option<HeaderMap>), BodyError> {
    let mut data = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| body.poll_frame(cx)).await {
        match frame? {
            Frame::Data(bytes) => data.extend_from_slice(&bytes),
            Frame::Trailers(trailers) => return Ok((data, Some(trailers))),
        }
    }
    Ok((data, None))
}

fn text(status: StatusCode, body: &str) -> Response<Body> {
    let body = if body.is_empty() { Body::Empty } else { Body::Full(Bytes::copy_from_slice(body.as_bytes())) };
    Response { head: ResponseHead { status, headers: HeaderMap::new() }, body }
}

fn options(drain: &Drain) -> ServerOptions {
    ServerOptions {
        max_head_bytes: 4096,
        max_headers: 20,
        max_concurrent_streams: 100,
        header_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(5),
        retire_at: None,
        scheme: Scheme::HTTP,
        drain: drain.watch(),
        pressure: Arc::<crate::base::pressure::Pressure>::default().watch(),
    }
}

/// Sends raw bytes to a server with an echoing handler, half-closes nothing, reads to the end.
async fn exchange(raw: &[u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let drain = Drain::default();
    let options = options(&drain);
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a connection");
        let echo = Scripted(|head: &RequestHead, read: Result<(Vec<u8>, Option<HeaderMap>), BodyError>| match read {
            Ok((data, trailers)) => {
                let tail = trailers.map(|t| format!(" trailers={}", t.len())).unwrap_or_default();
                let body = format!("{} {} [{}]{tail}", head.method, head.path, String::from_utf8_lossy(&data));
                text(StatusCode::OK, &body)
            }
            Err(_) => text(StatusCode::BAD_REQUEST, "bad body"),
        });
        serve(Io::tcp(stream), Arc::new(echo), options).await;
    });
    let mut client = TcpStream::connect(address).await.expect("connected");
    client.write_all(raw).await.expect("written");
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.expect("read");
    drop(client);
    server.await.expect("the server ends");
    String::from_utf8(answer).expect("text")
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_on_one_connection() {
    let answer = exchange(
        b"GET /a HTTP/1.1\r\nhost: x\r\n\r\nPOST /b HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi\
          GET /c HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    )
    .await;
    let bodies: Vec<_> = answer.match_indices('[').map(|(at, _)| &answer[at - 3..at + 1]).collect();
    assert_eq!(bodies, ["/a [", "/b [", "/c ["], "{answer}");
    assert_eq!(answer.matches("connection: close").count(), 1, "{answer}");
}

#[tokio::test]
async fn a_chunked_upload_with_trailers_arrives_whole() {
    let answer = exchange(
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n\
          3\r\nabc\r\n2\r\nde\r\n0\r\nx-sum: 1\r\n\r\n",
    )
    .await;
    assert!(answer.ends_with("POST / [abcde] trailers=1"), "{answer}");
}

#[tokio::test]
async fn early_hints_come_before_the_answer_and_never_to_http_1_0() {
    let answer = exchange(b"GET / HTTP/1.1\r\nhost: x\r\nx-hint: 1\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\n"), "{answer}");
    let answer = exchange(b"GET / HTTP/1.0\r\nx-hint: 1\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
}

#[tokio::test]
async fn ambiguous_requests_are_refused_and_end_the_connection() {
    for (raw, status) in [
        ("GET / HTTP/1.1\nhost: x\n\n", 400),
        ("GET / HTTP/1.1\r\nhost: x\r\nhost: x\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ncontent-length: 1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: x\r\ncontent-length: +1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked, identity\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip, chunked\r\n\r\n", 501),
        ("GET / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost : x\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: x\r\na: b\r\n c\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: x\r\na: b\rc\r\n\r\n", 400),
        ("GET http://y/ HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        ("GET /#f HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        ("GET * HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: a@x\r\n\r\n", 400),
        ("GET / HTTP/2.0\r\nhost: x\r\n\r\n", 505),
        ("CONNECT /x HTTP/1.1\r\nhost: x:1\r\n\r\n", 400),
        ("CONNECT x HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        ("CONNECT x:1 HTTP/1.1\r\nhost: y:1\r\n\r\n", 400),
        ("CONNECT x:1 HTTP/1.1\r\nhost: x:1\r\ncontent-length: 4\r\n\r\n", 400),
    ] {
        let answer = exchange(format!("{raw}GET /second HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{raw:?}: {answer}");
        assert!(!answer.contains("/second"), "{raw:?}: the next request was served: {answer}");
        assert!(answer.contains("connection: close\r\n"), "{raw:?}: {answer}");
    }
}

#[tokio::test]
async fn heads_over_the_limits_are_431_and_long_targets_414() {
    let many: String = (0..25).map(|i| format!("x-{i}: 1\r\n")).collect();
    let answer = exchange(format!("GET / HTTP/1.1\r\nhost: x\r\n{many}\r\n").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let long = "a".repeat(5000);
    let answer = exchange(format!("GET / HTTP/1.1\r\nhost: x\r\nx: {long}\r\n\r\n").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let answer = exchange(format!("GET /{long} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 414 "), "{answer}");
}

struct Shelf {
    returned: mpsc::UnboundedSender<Box<ClientConn>>,
}

impl Home for Shelf {
    fn take_back(&self, connection: Box<ClientConn>) {
        // A test that does not ask for it has dropped the receiver.
        let _ = self.returned.send(connection);
    }
}

struct Hints(AtomicUsize);

impl Interim for Hints {
    fn send(&self, _status: StatusCode, _headers: &HeaderMap) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn head(method: Method) -> RequestHead {
    RequestHead {
        method,
        scheme: Scheme::HTTP,
        authority: Some(Authority::from_static("x")),
        path: PathAndQuery::from_static("/p?q"),
        version: Version::HTTP_11,
        headers: HeaderMap::from_iter([(HeaderName::from_static("x-a"), HeaderValue::from_static("1"))]),
        upgrade: None,
    }
}

/// A client connection to a server that reads one request head and then does what `script` says.
async fn client_to<F, Fut>(script: F) -> (Box<ClientConn>, mpsc::UnboundedReceiver<Box<ClientConn>>)
where
    F: FnOnce(TcpStream, String) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut seen = Vec::new();
        while !seen.windows(4).any(|w| w == b"\r\n\r\n") {
            if stream.read_buf(&mut seen).await.expect("read") == 0 {
                break;
            }
        }
        script(stream, String::from_utf8(seen).expect("text")).await;
    });
    let stream = TcpStream::connect(address).await.expect("connected");
    let (returned, shelf) = mpsc::unbounded_channel();
    (ClientConn::new(Io::tcp(stream), Arc::new(Shelf { returned }), Box::new(())), shelf)
}

#[tokio::test]
async fn a_finished_exchange_gives_the_connection_back_and_1xx_are_passed_on() {
    let (client, mut shelf) = client_to(|mut stream, seen| async move {
        assert_eq!(seen, "GET /p?q HTTP/1.1\r\nhost: x\r\nx-a: 1\r\n\r\n");
        let answer = b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        stream.write_all(answer).await.expect("written");
        std::future::pending::<()>().await;
    })
    .await;
    let hints = Hints(AtomicUsize::new(0));
    let mut response = client.send(&head(Method::GET), Body::Empty, &hints).await.expect("an answer");
    assert_eq!(read_all(&mut response.body).await.expect("a body").0, b"ok");
    assert_eq!(hints.0.load(Ordering::Relaxed), 1);
    assert!(shelf.recv().await.expect("given back").is_quiet());
}

#[tokio::test]
async fn a_connection_that_dies_without_an_answer_may_have_been_executed() {
    let (client, _shelf) = client_to(|stream, _| async move { drop(stream) }).await;
    let hints = Hints(AtomicUsize::new(0));
    let error = client.send(&head(Method::GET), Body::Empty, &hints).await.expect_err("no answer");
    assert_eq!(error.sent, Sent::Maybe);
    assert!(!error.reused);
    assert!(matches!(error.kind, SendErrorKind::Closed | SendErrorKind::Io(_)));
}

#[tokio::test]
async fn half_a_body_is_an_error_and_not_a_short_success() {
    let (client, mut shelf) = client_to(|mut stream, _| async move {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await.expect("written");
    })
    .await;
    let hints = Hints(AtomicUsize::new(0));
    let mut response = client.send(&head(Method::GET), Body::Empty, &hints).await.expect("a head");
    assert!(read_all(&mut response.body).await.is_err());
    assert!(shelf.recv().await.is_none(), "a broken connection must not be kept");
}

#[tokio::test]
async fn responses_that_parsers_read_differently_are_refused() {
    for raw in [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok",
        "HTTP/1.1 200 OK\ncontent-length: 2\n\nok",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
        "nonsense\r\n\r\n",
    ] {
        let (client, _shelf) = client_to(move |mut stream, _| async move {
            stream.write_all(raw.as_bytes()).await.expect("written");
        })
        .await;
        let hints = Hints(AtomicUsize::new(0));
        let error = client.send(&head(Method::GET), Body::Empty, &hints).await.expect_err(raw);
        assert!(matches!(error.kind, SendErrorKind::BadResponse(_)), "{raw:?}: {error}");
    }
}

#[tokio::test]
async fn dropping_an_exchange_closes_the_upstream_at_once() {
    let (gone, left) = oneshot::channel();
    let (client, _shelf) = client_to(|mut stream, _| async move {
        let n = stream.read(&mut [0; 16]).await.unwrap_or(0);
        gone.send((n, Instant::now())).expect("the test waits");
    })
    .await;
    let hints = Hints(AtomicUsize::new(0));
    let head = head(Method::GET);
    {
        let sending = client.send(&head, Body::Empty, &hints);
        let waited = tokio::time::timeout(Duration::from_millis(50), sending).await;
        assert!(waited.is_err(), "the server does not answer");
    }
    let dropped = Instant::now();
    let (n, at) = left.await.expect("the server saw the end");
    assert_eq!(n, 0);
    assert!(at.saturating_duration_since(dropped) < Duration::from_millis(100));
}

#[tokio::test]
async fn a_request_of_which_a_part_was_written_may_have_been_executed() {
    let (client, _shelf) = client_to(|stream, _| async move { drop(stream) }).await;
    let hints = Hints(AtomicUsize::new(0));
    // More than the socket takes at once: some of it is still unwritten when the connection ends.
    let body = Body::Full(Bytes::from(vec![b'x'; 16 << 20]));
    let error = client.send(&head(Method::POST), body, &hints).await.expect_err("no answer");
    assert_eq!(error.sent, Sent::Maybe, "{error}");
}

#[tokio::test]
async fn a_transfer_coding_from_http_1_0_ends_the_connection() {
    let (client, mut shelf) = client_to(|mut stream, _| async move {
        let answer =
            b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
        stream.write_all(answer).await.expect("written");
    })
    .await;
    let hints = Hints(AtomicUsize::new(0));
    let mut response = client.send(&head(Method::GET), Body::Empty, &hints).await.expect("an answer");
    assert_eq!(read_all(&mut response.body).await.expect("a body").0, b"ok");
    assert!(shelf.recv().await.is_none(), "it must not be kept");
}

#[tokio::test]
async fn a_caller_that_reads_nothing_is_not_waited_for_for_ever() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let drain = Drain::default();
    let options = ServerOptions { idle_timeout: Duration::from_millis(20), ..options(&drain) };
    let mut client = TcpStream::connect(address).await.expect("connected");
    client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("written");
    let (stream, _) = listener.accept().await.expect("a connection");
    let large = "x".repeat(32 << 20);
    let handler = Scripted(move |_: &RequestHead, _: Result<_, BodyError>| text(StatusCode::OK, &large));
    // Ends by itself, although the client is there.
    serve(Io::tcp(stream), Arc::new(handler), options).await;
    drop(client);
}

#[tokio::test]
async fn bytes_read_one_by_one_share_their_blocks() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let mut peer = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
    let (stream, _) = listener.accept().await.expect("a connection");
    let mut io = Io::tcp(stream);
    let mut buffer = super::buffer::ReadBuffer::default();
    let mut held = Vec::new();
    let mut blocks = 0;
    let mut end = std::ptr::null();
    for _ in 0..4000 {
        peer.write_all(b"x").await.expect("written");
        let n = std::future::poll_fn(|cx| buffer.poll_fill(&mut io, cx, usize::MAX)).await.expect("read");
        let data = buffer.bytes.split_to(n).freeze();
        blocks += usize::from(data.as_ptr() != end);
        end = data.as_ptr_range().end;
        held.push(data);
    }
    assert!(blocks <= 4, "{blocks} blocks for 4000 bytes");
}
