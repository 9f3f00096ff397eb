//! Upgrades, CONNECT and what tunnels may do.

use std::net::SocketAddr;

use crate::support::websocket::{self, EchoServer, Ending, Frame, WebSocket};
use crate::support::{Config, H1Client, H2Client, PATIENCE, Proxy, eventually, ms, within};

mod abuse;
mod connect;
mod drain;
mod handshake;
mod limits;
mod load;
mod loss;
mod matrix;
mod memory;
mod streams;

/// A way to open WebSockets through a proxy.
#[derive(Debug)]
pub enum Opener {
    /// Over HTTP/1.1, each on a connection of its own.
    H1(SocketAddr),
    /// Over HTTP/2, all on one.
    H2(H2Client),
}

impl Opener {
    pub async fn open(&self) -> WebSocket {
        match self {
            Self::H1(addr) => WebSocket::h1(*addr).await,
            Self::H2(client) => WebSocket::h2(client).await,
        }
    }

    /// One of each kind.
    pub async fn each(proxy: &Proxy) -> [Self; 2] {
        [Self::H1(proxy.addr()), Self::H2(H2Client::connect(proxy.addr()).await)]
    }
}

/// A server of each kind, with its `protocol` of a cluster.
pub async fn each_server() -> [(&'static str, EchoServer); 2] {
    [("http1", EchoServer::h1().await), ("http2", EchoServer::h2().await)]
}

/// Waits until a metric has a value.
pub async fn metric_becomes(proxy: &Proxy, name: &str, labels: &[&str], value: f64) {
    within(PATIENCE, name, async {
        while proxy.metric(name, labels).await != value {
            tokio::time::sleep(ms(5)).await;
        }
    })
    .await;
}
