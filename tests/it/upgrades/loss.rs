//! What breaks off on one side breaks off on the other.

use super::*;
use crate::support::websocket::{CUT, TEXT};

#[tokio::test]
async fn a_server_that_vanishes_is_a_reset_for_the_client() {
    for (protocol, server) in each_server().await {
        let proxy = Proxy::start(&Config::to(protocol, &[server.addr]).top("accessLog: stdout")).await;
        for opener in Opener::each(&proxy).await {
            let mut socket = opener.open().await;
            socket.echoes("hello").await;
            socket.send(&Frame::new(TEXT, CUT)).await;
            socket.broke_off().await;
        }
        metric_becomes(&proxy, "outrigger_tunnels", &["kind=\"websocket\""], 0.0).await;
        let reason = if protocol == "http1" { "UC" } else { "UR" };
        eventually(PATIENCE, "both are logged", || log_lines(&proxy, reason) == 2).await;
    }
}

#[tokio::test]
async fn a_client_that_vanishes_is_a_reset_for_the_server() {
    for (protocol, server) in each_server().await {
        let proxy = Proxy::start(&Config::to(protocol, &[server.addr]).top("accessLog: stdout")).await;
        for opener in Opener::each(&proxy).await {
            let mut socket = match &opener {
                Opener::H1(addr) => {
                    let stream = tokio::net::TcpStream::connect(addr).await.unwrap();
                    stream.set_zero_linger().unwrap();
                    WebSocket::h1_over(stream, "/", "").await.1
                }
                Opener::H2(_) => opener.open().await,
            };
            socket.echoes("hello").await;
            drop(socket);
            server.saw(&Ending::Broken).await;
            server.seen.endings.lock().clear();
        }
        eventually(PATIENCE, "both are logged", || log_lines(&proxy, "DC") == 2).await;
    }
}

/// Tunnels that ended for this reason, in the access log.
fn log_lines(proxy: &Proxy, reason: &str) -> usize {
    let flags = format!("\"response_flags\":\"{reason}\"");
    proxy.stdout().lines().filter(|line| line.contains(&flags) && line.contains("\"response_code\":101")).count()
}
