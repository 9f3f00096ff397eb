//! Connections over mutual TLS that carried one request each and then rest.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{http2, response};
use crate::pki::HOST;
use crate::tls::{self, Group};

/// What to hold.
#[derive(Debug)]
pub struct Hold {
    /// Where.
    pub address: SocketAddr,
    /// How many.
    pub connections: usize,
    /// Whether they speak HTTP/2, or HTTP/1.1.
    pub http2: bool,
    /// The folder of certificates.
    pub pki: PathBuf,
}

/// Opens them all, prints `holding`, and keeps them until it is ended from outside.
///
/// # Errors
/// When a connection cannot be made, or its request is not answered.
pub async fn run(load: Hold) -> anyhow::Result<()> {
    let alpn = if load.http2 { "h2" } else { "http/1.1" };
    let config = tls::client(&load.pki, Group::X25519, alpn, Resumption::disabled())?;
    let connector = TlsConnector::from(config);
    let mut http1_connections = Vec::new();
    let mut http2_connections = Vec::new();
    for _ in 0..load.connections {
        if load.http2 {
            let mut sender = http2::open(load.address, &connector).await?;
            anyhow::ensure!(http2::one(&mut sender).await?, "a request failed");
            http2_connections.push(sender);
        } else {
            let stream = TcpStream::connect(load.address).await?;
            stream.set_nodelay(true)?;
            let mut stream = connector.connect(ServerName::try_from(HOST)?, stream).await?;
            stream.write_all(format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n").as_bytes()).await?;
            let answered = response(&mut stream, &mut [0; 4096]).await.context("no answer")?;
            anyhow::ensure!(answered, "a request failed");
            http1_connections.push(stream);
        }
    }
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "holding")?;
    stdout.flush()?;
    drop(stdout);
    std::future::pending::<()>().await;
    Ok(())
}
