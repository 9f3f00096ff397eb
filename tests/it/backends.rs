//! The test library against itself: what the recording backends and the clients say must be true
//! before anything that they say about the proxy counts.

use bytes::Bytes;
use http::HeaderMap;

use crate::support::h1_client::{self, H1Client};
use crate::support::http1::chunk;
use crate::support::{Call, Conn, H1Backend, H2Backend, H2Client, PATIENCE, h1_backend, h2_client, ms, response};

#[tokio::test]
async fn the_h1_backend_records_what_it_was_sent_byte_for_byte() {
    let backend = H1Backend::ok().await;
    let request = "POST /x HTTP/1.1\r\nHost: a\r\ncontent-length: 3\r\n\r\nabc";
    let reply = h1_client::exchange(backend.addr, request).await;
    assert_eq!((reply.status, reply.text().as_str()), (200, "ok"));
    let seen = backend.only_request();
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("POST", "/x"));
    assert_eq!(seen.body, b"abc");
    assert!(seen.complete);
    backend.until(PATIENCE, "the end", |r| r.iter().any(|r| r.end.is_some())).await;
    assert_eq!(backend.records()[0].bytes, request.as_bytes());
}

#[tokio::test]
async fn the_h1_backend_reads_chunked_bodies_and_trailers() {
    let backend = H1Backend::ok().await;
    let mut client = H1Client::connect(backend.addr).await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding: chunked\r\n\r\n").await;
    client.send(chunk(b"one ")).await;
    client.send(chunk(b"two")).await;
    let reply = client.exchange("0\r\nx-sum: 7\r\n\r\n").await;
    assert_eq!(reply.status, 200);
    let seen = backend.only_request();
    assert_eq!(seen.body, b"one two");
    assert_eq!(seen.trailers, [("x-sum".to_owned(), "7".to_owned())]);
}

#[tokio::test]
async fn the_h1_backend_reports_everything_that_is_not_canonical() {
    for (bad, complaint) in [
        ("GET / HTTP/1.1\r\n\r\n", "Host"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "Host"),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "request line"),
        ("GET / HTTP/1.0\r\nHost: a\r\n\r\n", "request line"),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", "field name"),
        ("GET / HTTP/1.1\r\nHost: a\r\n x: y\r\n\r\n", "field name"),
        ("GET / HTTP/1.1\r\nHost: a\nx: y\r\n\r\n", "control"),
        ("POST / HTTP/1.1\r\nHost: a\r\ncontent-length: +1\r\n\r\n", "content-length"),
        ("POST / HTTP/1.1\r\nHost: a\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\n", "framing"),
        ("POST / HTTP/1.1\r\nHost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", "framing"),
        ("POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding: chunked\r\n\r\n1;x\r\na\r\n0\r\n\r\n", "chunk"),
        ("POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n", "CRLF"),
    ] {
        let backend = H1Backend::ok().await;
        H1Client::connect(backend.addr).await.send(bad).await;
        backend.until(PATIENCE, "a violation", |r| r.iter().any(|r| !r.violations.is_empty())).await;
        let violations = backend.records()[0].violations.clone();
        assert!(violations[0].contains(complaint), "{bad:?}: {violations:?}");
    }
}

#[tokio::test]
async fn the_h1_backend_tells_a_close_from_a_reset() {
    let backend = H1Backend::start(|mut conn: Conn| async move {
        conn.closed().await;
    })
    .await;
    drop(H1Client::connect(backend.addr).await);
    let reset = H1Client::connect(backend.addr).await;
    reset.wire.reset_on_close();
    drop(reset);
    backend.until(PATIENCE, "two ends", |r| r.iter().filter(|r| r.end.is_some()).count() == 2).await;
    let ends: Vec<_> = backend.records().iter().map(|r| r.end.unwrap().1).collect();
    assert_eq!(ends, [h1_backend::End::Closed, h1_backend::End::Reset]);
}

#[tokio::test]
async fn the_h1_client_reads_early_hints_and_a_response_to_head() {
    let backend = H1Backend::start(|mut conn: Conn| async move {
        while let Some(request) = conn.request().await {
            conn.send("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n").await.ok();
            let mut out = response(200, &[], b"body");
            if request.method == "HEAD" {
                out.truncate(out.len() - 4);
            }
            conn.send(out).await.ok();
        }
    })
    .await;
    let mut client = H1Client::connect(backend.addr).await;
    let head = client.exchange("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!((head.status, head.body.len(), head.informational.len()), (200, 0, 1));
    assert_eq!(client.get("/").await.text(), "body");
}

#[tokio::test]
async fn the_h2_pair_carries_bodies_and_trailers_both_ways() {
    let backend = H2Backend::grpc_echo().await;
    let client = H2Client::connect(backend.addr).await;
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "7".parse().unwrap());
    let reply = client.send(h2_client::post("/s/m"), Bytes::from(vec![7; 300_000]), Some(trailers)).await.unwrap();
    assert_eq!(reply.body.len(), 300_000);
    assert_eq!(reply.grpc_status(), Some("0"));
}

#[tokio::test]
async fn the_h2_backend_sees_resets() {
    let backend = H2Backend::start(|mut call: Call| async move {
        call.reset_by_caller().await;
    })
    .await;
    let client = H2Client::connect(backend.addr).await;
    let (response, mut stream) = client.open(h2_client::get("/"), false).await.unwrap();
    backend.until(PATIENCE, "the call", |calls| calls.len() == 1).await;
    stream.send_reset(h2::Reason::CANCEL);
    drop(response);
    backend.until(PATIENCE, "the reset", |calls| calls.iter().any(|c| c.reset.is_some())).await;
    assert_eq!(backend.calls()[0].reset.unwrap().1, h2::Reason::CANCEL);
}

#[tokio::test]
async fn the_raw_h2_client_reads_statuses_resets_and_goaway() {
    use crate::support::frames::{Answer, END_STREAM, PING, RawH2};
    let backend = H2Backend::start(|mut call: Call| async move {
        match call.path().to_owned().as_str() {
            "/reset" => call.reset(h2::Reason::REFUSED_STREAM),
            path => {
                let status = path.trim_start_matches('/').parse().unwrap();
                call.reply(status, "").await;
            }
        }
    })
    .await;
    let mut raw = RawH2::connect(backend.addr).await;
    let mut stream = 1;
    for (path, expected) in [
        ("/200", Answer::Status(200)),
        ("/431", Answer::Status(431)),
        ("/404", Answer::Status(404)),
        ("/503", Answer::Status(503)),
        ("/reset", Answer::Reset(7)),
        ("/431", Answer::Status(431)),
    ] {
        let fields: [(&[u8], &[u8]); 4] =
            [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", path.as_bytes())];
        raw.headers(stream, &fields, END_STREAM).await;
        assert_eq!(raw.answer(stream).await, expected, "{path}");
        stream += 2;
    }
    raw.send(PING, 0, 1, &[0; 8]).await;
    assert_eq!(raw.answer(stream).await, Answer::GoAway(1));
}

#[tokio::test]
async fn an_address_that_refuses_and_one_that_never_answers() {
    let refusing = h1_backend::Refusing::new();
    let error = tokio::net::TcpStream::connect(refusing.addr).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    let unanswering = h1_backend::Unanswering::new().await;
    let attempt = tokio::net::TcpStream::connect(unanswering.addr);
    assert!(tokio::time::timeout(ms(200), attempt).await.is_err());
}
