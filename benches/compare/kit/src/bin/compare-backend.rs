//! `compare-backend`: what every proxy in the comparison forwards to.
//!
//! Listens on two ephemeral loopback ports and prints them, one line each: `http1 ADDRESS` answers every request with 1 KiB,
//! `grpc ADDRESS` echoes unary gRPC messages over cleartext HTTP/2. It does as little as it can, because it shares a core with the
//! load generator. One thread.

use std::io::Write as _;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Response};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const BODY: usize = 1024;

fn main() -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve())
}

async fn serve() -> anyhow::Result<()> {
    let http1 = TcpListener::bind("127.0.0.1:0").await?;
    let grpc = TcpListener::bind("127.0.0.1:0").await?;
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "http1 {}\ngrpc {}", http1.local_addr()?, grpc.local_addr()?)?;
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
                tokio::spawn(async move { let _ended = serve_grpc(stream).await; });
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

async fn serve_grpc(stream: TcpStream) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut connection = h2::server::Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(16 << 20)
        .handshake::<_, Bytes>(stream)
        .await?;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted?;
        tokio::spawn(async move {
            let _ended = echo(request.into_body(), respond).await;
        });
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
