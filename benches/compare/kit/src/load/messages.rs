//! Messages there and back over long connections, one under way on each: raw TCP, and WebSocket over HTTP/1.1.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::ensure;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{micros, report, share};
use crate::websocket::{CLIENT_FRAME, KEY, MESSAGE, SERVER_FRAME, accept};

/// What to send.
#[derive(Debug)]
pub struct Messages {
    /// Where.
    pub address: SocketAddr,
    /// How many connections.
    pub connections: usize,
    /// How many messages, over all connections.
    pub messages: usize,
    /// In frames of WebSocket; otherwise as they are.
    pub websocket: bool,
}

/// Runs it to the end; the answer is one line of JSON.
///
/// # Errors
/// When a connection cannot be made or a task fails.
pub async fn run(load: Messages) -> anyhow::Result<String> {
    let mut streams = Vec::with_capacity(load.connections);
    for _ in 0..load.connections {
        streams.push(open(&load).await?);
    }
    let started = Instant::now();
    let shares = (0..load.connections).map(|at| share(load.messages, load.connections, at));
    let tasks: Vec<_> = streams
        .into_iter()
        .zip(shares)
        .map(|(stream, share)| tokio::spawn(drive(stream, load.websocket, share)))
        .collect();
    let mut latencies = Vec::with_capacity(load.messages);
    for task in tasks {
        latencies.extend(task.await?);
    }
    Ok(report(latencies, load.messages, started.elapsed()))
}

async fn open(load: &Messages) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(load.address).await?;
    stream.set_nodelay(true)?;
    if load.websocket {
        let head = format!(
            "GET / HTTP/1.1\r\nhost: compare.test\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: {KEY}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await?);
        }
        let answer = String::from_utf8(answer)?;
        ensure!(answer.starts_with("HTTP/1.1 101 ") && answer.contains(&accept(KEY)), "not switched: {answer}");
    }
    Ok(stream)
}

/// The latencies of the messages that came back as they were sent.
async fn drive(mut stream: TcpStream, websocket: bool, share: usize) -> Vec<u32> {
    let payload = [b'm'; MESSAGE];
    let (sent, expected) = if websocket {
        ([&CLIENT_FRAME[..], &payload].concat(), [&SERVER_FRAME[..], &payload].concat())
    } else {
        (payload.to_vec(), payload.to_vec())
    };
    let mut received = vec![0; expected.len()];
    let mut latencies = Vec::with_capacity(share);
    for _ in 0..share {
        let started = Instant::now();
        if stream.write_all(&sent).await.is_err() || stream.read_exact(&mut received).await.is_err() {
            break;
        }
        if received == expected {
            latencies.push(micros(started.elapsed()));
        }
    }
    latencies
}
