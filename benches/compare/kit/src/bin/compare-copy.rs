//! `compare-copy LISTEN UPSTREAM`: a bare TCP copy, one upstream connection for each one accepted.
//!
//! It is the floor of the comparison: what moving the bytes costs with the same runtime as the proxy, without looking at
//! them. One thread, like every other proxy in the comparison.

use std::net::SocketAddr;

use anyhow::Context as _;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut address = |name: &str| -> anyhow::Result<SocketAddr> {
        let text = arguments.next().with_context(|| format!("{name} is missing"))?;
        text.parse().with_context(|| format!("{name} is not an address: {text}"))
    };
    let (listen, upstream) = (address("LISTEN")?, address("UPSTREAM")?);
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(listen, upstream))
}

async fn serve(listen: SocketAddr, upstream: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen).await.with_context(|| format!("bind {listen}"))?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            // Either side leaving ends the pair; there is nobody to report it to.
            let _ended = forward(stream, upstream).await;
        });
    }
}

async fn forward(mut downstream: TcpStream, upstream: SocketAddr) -> std::io::Result<()> {
    let mut upstream = TcpStream::connect(upstream).await?;
    downstream.set_nodelay(true)?;
    upstream.set_nodelay(true)?;
    copy_bidirectional(&mut downstream, &mut upstream).await?;
    Ok(())
}
