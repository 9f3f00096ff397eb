//! What a tunnel costs while nothing moves in it.

use super::*;
use crate::support::full;
use crate::support::proxy::Launch;

/// Opens `count` WebSockets in the way of `open`, uses each once, and gives what each costs the proxy, in bytes.
async fn cost<F: AsyncFn() -> WebSocket>(proxy: &Proxy, count: usize, open: F) -> u64 {
    // The first ones pay for what is there once.
    let mut sockets = Vec::new();
    for _ in 0..50 {
        sockets.push(open().await);
    }
    let before = proxy.rss();
    for _ in 0..count {
        let mut socket = open().await;
        socket.echoes("hello").await;
        sockets.push(socket);
    }
    // Old exchanges are entered in a book after a second, and buffers are given back.
    tokio::time::sleep(ms(2500)).await;
    let each = proxy.rss().saturating_sub(before) / count as u64;
    for socket in &mut sockets[count..] {
        socket.echoes("still open").await;
    }
    each
}

/// A cluster that takes as many as are opened here.
const ROOM: &str = "circuitBreaker: { maxConnections: 20000, maxRequests: 20000, maxPending: 1000 }";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_websocket_costs_less_than_20_kib() {
    let count = if full() { 9_000 } else { 1_500 };
    let server = EchoServer::h1().await;
    let launch = Launch { descriptors: Some(20_000), ..Launch::default() };
    let proxy = Proxy::start_as(&Config::to("http1", &[server.addr]).upstream(ROOM), &launch).await;
    let each = cost(&proxy, count, async || WebSocket::h1(proxy.addr()).await).await;
    eprintln!("{each} bytes for each WebSocket");
    assert!(each <= 20 * 1024, "{each} bytes for each WebSocket");
}
