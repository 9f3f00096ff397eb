//! `compare-backend`: what every proxy in the comparison forwards to.
//!
//! Listens on ephemeral loopback ports and prints them, one line each: `http1 ADDRESS` answers every request with 1 KiB,
//! `grpc ADDRESS` echoes unary gRPC messages over cleartext HTTP/2, `echo ADDRESS` echoes bytes, `websocket ADDRESS` messages of WebSocket, and, when its argument is a folder of certificates, `tls ADDRESS`
//! answers every request with 1 KiB over HTTP/2 and mutual TLS. It does as little as it can, because it shares a core with
//! the load generator. One thread.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Response};
use outrigger_compare_kit::load::BODY;
use outrigger_compare_kit::{tls, websocket};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

fn main() -> anyhow::Result<()> {
    let pki = std::env::args_os().nth(1).map(PathBuf::from);
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(pki))
}

async fn serve(pki: Option<PathBuf>) -> anyhow::Result<()> {
    let http1 = TcpListener::bind("127.0.0.1:0").await?;
    let grpc = TcpListener::bind("127.0.0.1:0").await?;
    let bytes = TcpListener::bind("127.0.0.1:0").await?;
    let messages = TcpListener::bind("127.0.0.1:0").await?;
    let mut stdout = std::io::stdout().lock();
    write!(stdout, "http1 {}\ngrpc {}\n", http1.local_addr()?, grpc.local_addr()?)?;
    write!(stdout, "echo {}\nwebsocket {}\n", bytes.local_addr()?, messages.local_addr()?)?;
    if let Some(pki) = pki {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        writeln!(stdout, "tls {}", listener.local_addr()?)?;
        tokio::spawn(serve_tls(listener, TlsAcceptor::from(tls::server(&pki)?)));
    }
    stdout.flush()?;
    drop(stdout);

    let mut answer =
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {BODY}\r\n\r\n").into_bytes();
    answer.resize(answer.len() + BODY, b'x');
    let answer = Bytes::from(answer);
    loop {
        // A failed connection concerns only its client, whose load generator counts it.
        tokio::select! {
            accepted = http1.accept() => {
                let (stream, _) = accepted?;
                let answer = answer.clone();
                tokio::spawn(async move { let _ended = serve_http1(stream, answer).await; });
            }
            accepted = grpc.accept() => {
                let (stream, _) = accepted?;
                stream.set_nodelay(true)?;
                tokio::spawn(async move { let _ended = serve_http2(stream, None).await; });
            }
            accepted = bytes.accept() => {
                let (stream, _) = accepted?;
                tokio::spawn(async move { let _ended = echo_bytes(stream).await; });
            }
            accepted = messages.accept() => {
                let (stream, _) = accepted?;
                tokio::spawn(async move { let _ended = echo_messages(stream).await; });
            }
        }
    }
}

/// Answers once for every empty line: right for requests without a body, which is all that is sent here.
async fn serve_http1(mut stream: TcpStream, answer: Bytes) -> std::io::Result<()> {
    const HEAD_END: &[u8; 4] = b"\r\n\r\n";
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 4096];
    let mut matched = 0;
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        for &byte in &buffer[..read] {
            matched = if byte == HEAD_END[matched] { matched + 1 } else { usize::from(byte == b'\r') };
            if matched == HEAD_END.len() {
                matched = 0;
                stream.write_all(&answer).await?;
            }
        }
    }
}

async fn echo_bytes(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            read => stream.write_all(&buffer[..read]).await?,
        }
    }
}

/// Switches to WebSocket whatever asks for it, and echoes what comes then.
async fn echo_messages(mut stream: TcpStream) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut received = BytesMut::with_capacity(4096);
    let end = loop {
        anyhow::ensure!(stream.read_buf(&mut received).await? > 0, "no request");
        if let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let head = received.split_to(end);
    let head = std::str::from_utf8(&head)?;
    let key = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("sec-websocket-key").then(|| value.trim())
    });
    let accept = websocket::accept(key.unwrap_or_default());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: {accept}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await?;
    let mut out = Vec::with_capacity(256);
    loop {
        while let Some(message) = websocket::take(&mut received)? {
            out.extend_from_slice(&[0x82, u8::try_from(message.len())?]);
            out.extend_from_slice(&message);
        }
        if !out.is_empty() {
            stream.write_all(&out).await?;
            out.clear();
        }
        received.reserve(4096);
        if stream.read_buf(&mut received).await? == 0 {
            return Ok(());
        }
    }
}

async fn serve_tls(listener: TcpListener, acceptor: TlsAcceptor) -> anyhow::Result<()> {
    let answer = Bytes::from(vec![b'x'; BODY]);
    let acceptor = Arc::new(acceptor);
    loop {
        let (stream, _) = listener.accept().await?;
        let (acceptor, answer) = (Arc::clone(&acceptor), answer.clone());
        tokio::spawn(async move {
            stream.set_nodelay(true)?;
            serve_http2(acceptor.accept(stream).await?, Some(answer)).await
        });
    }
}

/// Gives every request the same answer, or echoes gRPC messages when there is none.
async fn serve_http2(stream: impl AsyncRead + AsyncWrite + Unpin, answer: Option<Bytes>) -> anyhow::Result<()> {
    let mut connection = h2::server::Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(16 << 20)
        .handshake::<_, Bytes>(stream)
        .await?;
    while let Some(accepted) = connection.accept().await {
        let (request, mut respond) = accepted?;
        match &answer {
            // The requests that come here have no body, and the answer fits any window.
            Some(answer) => {
                let mut response = Response::new(());
                response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
                response.headers_mut().insert(http::header::CONTENT_LENGTH, HeaderValue::from(answer.len()));
                respond.send_response(response, false)?.send_data(answer.clone(), true)?;
            }
            None => {
                tokio::spawn(async move {
                    let _ended = echo(request.into_body(), respond).await;
                });
            }
        }
    }
    Ok(())
}

async fn echo(mut body: h2::RecvStream, mut respond: h2::server::SendResponse<Bytes>) -> anyhow::Result<()> {
    let mut message = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        message.extend_from_slice(&chunk);
    }
    let mut response = Response::new(());
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let mut send = respond.send_response(response, false)?;
    send.send_data(message.freeze(), false)?;
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    send.send_trailers(trailers)?;
    Ok(())
}
