//! Every version downstream with every version upstream.

use super::*;
use crate::support::H2Client;

/// A way to open WebSockets to the proxy.
#[derive(Debug)]
enum Opener {
    H1(std::net::SocketAddr),
    /// Many on one connection.
    H2(H2Client),
}

impl Opener {
    async fn open(&self) -> WebSocket {
        match self {
            Self::H1(addr) => WebSocket::h1(*addr).await,
            Self::H2(client) => WebSocket::h2(client).await,
        }
    }
}

async fn each_opener(proxy: &Proxy) -> Vec<Opener> {
    vec![Opener::H1(proxy.addr())]
}

async fn each_server() -> Vec<(&'static str, EchoServer)> {
    vec![("http1", EchoServer::h1().await)]
}

#[tokio::test]
async fn frames_pass_as_they_are_in_every_pair_of_versions() {
    for (protocol, server) in each_server().await {
        let proxy = Proxy::start(&Config::to(protocol, &[server.addr])).await;
        for opener in each_opener(&proxy).await {
            let mut socket = opener.open().await;
            socket.echoes("hello").await;
            socket.send(&Frame::new(PING, "p")).await;
            assert_eq!(socket.next().await, Frame::new(PONG, "p"));
            let binary = Frame::new(BINARY, (0..=255).cycle().take(100_000).collect::<Vec<u8>>());
            socket.send(&binary).await;
            assert_eq!(socket.next().await, binary);
            let parts = [(TEXT, false), (CONTINUATION, false), (PING, true), (CONTINUATION, true)];
            for (opcode, fin) in parts {
                socket.send(&Frame { fin, opcode, payload: b"part".to_vec() }).await;
            }
            for (opcode, fin) in parts {
                let opcode = if opcode == PING { PONG } else { opcode };
                assert_eq!(
                    socket.next().await,
                    Frame { fin, opcode, payload: b"part".to_vec() },
                    "{opener:?} {protocol}"
                );
            }
            socket.send(&Frame::close(3001)).await;
            assert_eq!(socket.next().await.code(), Some(3001));
            socket.ended().await;
            drop(socket);
            server.saw(&Ending::Closed(Some(3001))).await;
        }
    }
}
