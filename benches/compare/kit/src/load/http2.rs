//! HTTP/2 over mutual TLS: what h2load cannot do, since it presents no certificate.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request, StatusCode};
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{BODY, micros, report, share};
use crate::pki::HOST;
use crate::tls::{self, Group};

/// What to ask for.
#[derive(Debug)]
pub struct Http2 {
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
pub async fn run(load: Http2) -> anyhow::Result<String> {
    let config = tls::client(&load.pki, Group::X25519, "h2", Resumption::disabled())?;
    let connector = TlsConnector::from(config);
    let mut tasks = Vec::with_capacity(load.connections * load.streams);
    let started = Instant::now();
    for connection in 0..load.connections {
        let sender = open(load.address, &connector).await?;
        for stream in 0..load.streams {
            let share = share(load.requests, load.connections * load.streams, connection * load.streams + stream);
            tasks.push(tokio::spawn(drive(sender.clone(), share)));
        }
    }
    let mut latencies = Vec::with_capacity(load.requests);
    for task in tasks {
        latencies.extend(task.await?);
    }
    Ok(report(latencies, load.requests, started.elapsed()))
}

/// Opens one connection, driven by a task of its own.
pub(super) async fn open(address: SocketAddr, connector: &TlsConnector) -> anyhow::Result<SendRequest<Bytes>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let stream = connector.connect(ServerName::try_from(HOST)?, stream).await?;
    let (sender, connection) = h2::client::Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(1 << 30)
        .handshake(stream)
        .await?;
    tokio::spawn(async move {
        // Its requests tell how it ended.
        let _ended = connection.await;
    });
    Ok(sender)
}

async fn drive(mut sender: SendRequest<Bytes>, share: usize) -> Vec<u32> {
    let mut latencies = Vec::with_capacity(share);
    for _ in 0..share {
        let started = Instant::now();
        match one(&mut sender).await {
            Ok(true) => latencies.push(micros(started.elapsed())),
            Ok(false) => {}
            Err(_) => break,
        }
    }
    latencies
}

/// One request: whether it was answered with 200 and the whole body.
pub(super) async fn one(sender: &mut SendRequest<Bytes>) -> anyhow::Result<bool> {
    std::future::poll_fn(|cx| sender.poll_ready(cx)).await?;
    let request = Request::builder()
        .method(Method::GET)
        .uri("https://compare.test/")
        .header(http::header::USER_AGENT, "compare-load")
        .body(())?;
    let (response, _) = sender.send_request(request, true)?;
    let (head, mut body) = response.await?.into_parts();
    let mut arrived = 0;
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        arrived += chunk.len();
        body.flow_control().release_capacity(chunk.len())?;
    }
    Ok(head.status == StatusCode::OK && arrived == BODY)
}
