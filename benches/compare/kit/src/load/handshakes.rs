//! One mutual TLS 1.3 connection for every HTTP/1.1 request, with a full or with a resumed handshake.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{micros, report, response, share};
use crate::pki::HOST;
use crate::tls::{self, Group};

/// What to do.
#[derive(Debug)]
pub struct Handshakes {
    /// Where.
    pub address: SocketAddr,
    /// How many connections at a time.
    pub connections: usize,
    /// How many connections in all.
    pub requests: usize,
    /// Whether each resumes the session of the one before it, or none does.
    pub resumed: bool,
    /// The only key agreement that is offered.
    pub group: Group,
    /// The folder of certificates.
    pub pki: PathBuf,
}

/// Runs it to the end; the answer is one line of JSON. A handshake of the other kind counts as failed.
///
/// # Errors
/// When the certificates cannot be read or a task fails.
pub async fn run(load: Handshakes) -> anyhow::Result<String> {
    let started = Instant::now();
    let mut tasks = Vec::with_capacity(load.connections);
    for at in 0..load.connections {
        // Each task has a storage of its own: a ticket is good for one connection.
        let resumption = if load.resumed { Resumption::in_memory_sessions(1) } else { Resumption::disabled() };
        let config = tls::client(&load.pki, load.group, "http/1.1", resumption)?;
        let share = share(load.requests, load.connections, at);
        tasks.push(tokio::spawn(drive(load.address, config, load.resumed, share)));
    }
    let mut latencies = Vec::with_capacity(load.requests);
    let mut first_failure = None;
    for task in tasks {
        let (answered, failure) = task.await?;
        latencies.extend(answered);
        first_failure = first_failure.or(failure);
    }
    // Standard error goes to whoever started this, beside the figures, which count the failures but cannot tell them apart.
    if let Some(failure) = first_failure {
        use std::io::Write as _;
        writeln!(std::io::stderr(), "the first failure: {failure:#}")?;
    }
    Ok(report(latencies, load.requests, started.elapsed()))
}

async fn drive(
    address: SocketAddr,
    config: Arc<ClientConfig>,
    resumed: bool,
    share: usize,
) -> (Vec<u32>, Option<anyhow::Error>) {
    let mut latencies = Vec::with_capacity(share);
    let mut failure = None;
    let connector = TlsConnector::from(config);
    if resumed {
        // Nothing to resume yet: this one is not counted.
        failure = one(address, &connector).await.err();
    }
    let expected = if resumed { HandshakeKind::Resumed } else { HandshakeKind::Full };
    for _ in 0..share {
        let started = Instant::now();
        match one(address, &connector).await {
            Ok(kind) if kind == expected => latencies.push(micros(started.elapsed())),
            Ok(kind) => failure = failure.or_else(|| Some(anyhow::anyhow!("{kind:?} instead of {expected:?}"))),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    (latencies, failure)
}

async fn one(address: SocketAddr, connector: &TlsConnector) -> anyhow::Result<HandshakeKind> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut stream = connector.connect(ServerName::try_from(HOST)?, stream).await?;
    stream.write_all(format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nuser-agent: compare-load\r\n\r\n").as_bytes()).await?;
    let answered = response(&mut stream, &mut [0; 4096]).await.context("no answer")?;
    anyhow::ensure!(answered, "the status was not 200");
    let kind = stream.get_ref().1.handshake_kind().context("no handshake")?;
    // What is lost from here on concerns nobody.
    let _closed = stream.shutdown().await;
    Ok(kind)
}
