//! HTTP/3 over QUIC with client certificates. As little of it as measuring takes: no table, no push, one kind of request.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use bytes::Buf as _;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint, SendStream};
use rustls::client::Resumption;

use super::{BODY, micros, report, share};
use crate::pki::HOST;
use crate::tls::{self, Group};

/// What to ask for.
#[derive(Debug)]
pub struct Http3 {
    /// Where.
    pub address: SocketAddr,
    /// How many connections.
    pub connections: usize,
    /// How many requests are open on each.
    pub streams: usize,
    /// How many requests, over all connections.
    pub requests: usize,
    /// The folder of certificates.
    pub pki: PathBuf,
}

/// Runs it to the end; the answer is one line of JSON.
///
/// # Errors
/// When a connection cannot be made or a task fails.
pub async fn run(load: Http3) -> anyhow::Result<String> {
    let crypto = tls::client(&load.pki, Group::X25519, "h3", Resumption::disabled())?;
    let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(crypto)?));
    let mut endpoints = Vec::with_capacity(load.connections);
    let mut tasks = Vec::with_capacity(load.connections * load.streams);
    let started = Instant::now();
    for at in 0..load.connections {
        // A socket for each, as clients have.
        let endpoint = Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let connection = endpoint.connect_with(config.clone(), load.address, HOST)?.await?;
        let control = greet(&connection).await?;
        for stream in 0..load.streams {
            let share = share(load.requests, load.connections * load.streams, at * load.streams + stream);
            tasks.push(tokio::spawn(drive(connection.clone(), share)));
        }
        endpoints.push((endpoint, control));
    }
    let mut latencies = Vec::with_capacity(load.requests);
    for task in tasks {
        latencies.extend(task.await?);
    }
    Ok(report(latencies, load.requests, started.elapsed()))
}

/// Sends empty settings (RFC 9114 section 6.2.1). The stream is kept: its end would end the connection. What the server says on
/// its own streams is read and thrown away.
async fn greet(connection: &Connection) -> anyhow::Result<SendStream> {
    let mut control = connection.open_uni().await?;
    control.write_all(&[0x00, 0x04, 0x00]).await?;
    let servers = connection.clone();
    tokio::spawn(async move {
        while let Ok(mut stream) = servers.accept_uni().await {
            tokio::spawn(async move { while let Ok(Some(_)) = stream.read_chunk(4096, true).await {} });
        }
    });
    Ok(control)
}

async fn drive(connection: Connection, share: usize) -> Vec<u32> {
    let request = request();
    let mut latencies = Vec::with_capacity(share);
    for _ in 0..share {
        let started = Instant::now();
        match one(&connection, &request).await {
            Ok(true) => latencies.push(micros(started.elapsed())),
            Ok(false) => {}
            Err(_) => break,
        }
    }
    latencies
}

/// A HEADERS frame: indexed fields of the static table (RFC 9204 appendix A) and literals with a name out of it.
fn request() -> Vec<u8> {
    let mut section = vec![0, 0];
    section.push(0xc0 | 17); // :method GET
    section.push(0xc0 | 23); // :scheme https
    section.push(0xc0 | 1); // :path /
    for (name, value) in [(&[0x50][..], HOST), (&[0x5f, 80], "compare-load")] {
        section.extend_from_slice(name); // :authority (0), user-agent (95 = 15 + 80)
        section.push(u8::try_from(value.len()).expect("a short value"));
        section.extend_from_slice(value.as_bytes());
    }
    let mut frame = vec![0x01, u8::try_from(section.len()).expect("a short head")];
    assert!(section.len() < 64, "a length of one byte");
    frame.extend(section);
    frame
}

/// One request: whether it was answered with 200 and the whole body.
async fn one(connection: &Connection, request: &[u8]) -> anyhow::Result<bool> {
    let (mut send, mut receive) = connection.open_bi().await?;
    send.write_all(request).await?;
    send.finish()?;
    let answer = receive.read_to_end(64 * 1024).await?;
    let mut answer = &answer[..];
    let (mut ok, mut arrived) = (false, 0);
    while answer.has_remaining() {
        let kind = integer(&mut answer)?;
        let length = usize::try_from(integer(&mut answer)?)?;
        let (payload, rest) = answer.split_at_checked(length).context("a frame is cut off")?;
        match kind {
            0x00 => arrived += length,
            // Prefix, and `:status: 200` first, which is in the static table.
            0x01 if !ok => ok = payload.get(2) == Some(&(0xc0 | 25)),
            _ => {}
        }
        answer = rest;
    }
    Ok(ok && arrived == BODY)
}

/// A variable-length integer (RFC 9000 section 16).
fn integer(bytes: &mut &[u8]) -> anyhow::Result<u64> {
    let first = *bytes.first().context("a frame is cut off")?;
    let length = 1 << (first >> 6);
    let (mut encoded, rest) = bytes.split_at_checked(length).context("a frame is cut off")?;
    let mut value = u64::from(encoded.get_u8() & 0x3f);
    while encoded.has_remaining() {
        value = value << 8 | u64::from(encoded.get_u8());
    }
    *bytes = rest;
    Ok(value)
}
