//! Every version downstream with every version upstream.

use std::sync::Arc;

use super::*;
use crate::support::full;
use crate::support::websocket::{BINARY, CONTINUATION, END, PING, PONG, TEXT};

#[tokio::test]
async fn frames_pass_as_they_are_in_every_pair_of_versions() {
    for (protocol, server) in each_server().await {
        let proxy = Proxy::start(&Config::to(protocol, &[server.addr])).await;
        for opener in Opener::each(&proxy).await {
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
                let part = Frame { fin, opcode, payload: b"part".to_vec() };
                assert_eq!(socket.next().await, part, "{opener:?} {protocol}");
            }
            let code = if matches!(opener, Opener::H1(_)) { 3001 } else { 3002 };
            socket.send(&Frame::close(code)).await;
            assert_eq!(socket.next().await.code(), Some(code));
            socket.ended().await;
            drop(socket);
            server.saw(&Ending::Closed(Some(code))).await;
        }
        metric_becomes(&proxy, "outrigger_tunnels", &["kind=\"websocket\""], 0.0).await;
        assert_eq!(proxy.metric("outrigger_tunnels_total", &["kind=\"websocket\""]).await, 2.0);
    }
}

#[tokio::test]
async fn the_end_of_one_direction_is_not_the_end_of_the_other() {
    for (protocol, server) in each_server().await {
        let proxy = Proxy::start(&Config::to(protocol, &[server.addr])).await;
        for opener in Opener::each(&proxy).await {
            // The server ends first: what the client sends still arrives.
            let mut socket = opener.open().await;
            socket.send(&Frame::new(TEXT, END)).await;
            socket.ended().await;
            assert_eq!(server.open(), 1, "{opener:?} {protocol}");
            socket.send(&Frame::close(4000)).await;
            socket.half_close().await;
            server.saw(&Ending::Closed(Some(4000))).await;
            server.seen.endings.lock().clear();
            // The client ends first, without a Close frame: the server has the last word.
            let mut socket = opener.open().await;
            socket.echoes("hello").await;
            socket.half_close().await;
            socket.ended().await;
            server.saw(&Ending::Ended).await;
            server.seen.endings.lock().clear();
        }
    }
}

#[tokio::test]
async fn what_a_client_sends_before_the_answer_is_not_lost() {
    let server = EchoServer::h1().await;
    let proxy = Proxy::start(&Config::to("http1", &[server.addr])).await;
    let mut stream = tokio::net::TcpStream::connect(proxy.addr()).await.unwrap();
    let mut bytes = websocket::handshake("/", "dGhlIHNhbXBsZSBub25jZQ==", "").into_bytes();
    bytes.extend(Frame::text("early").encode(Some([1, 2, 3, 4])));
    tokio::io::AsyncWriteExt::write_all(&mut stream, &bytes).await.unwrap();
    let (start, _) = within(PATIENCE, "an answer", websocket::read_head(&mut stream)).await.unwrap();
    assert!(start.starts_with("HTTP/1.1 101 "), "{start}");
    let mut socket = WebSocket::over(stream, true);
    assert_eq!(socket.next().await, Frame::text("early"));
    socket.close().await;
}

#[tokio::test]
async fn a_reader_who_is_slow_holds_the_sender_up_and_loses_nothing() {
    const PIECE: usize = 256 * 1024;
    const PIECES: usize = 256;
    for (protocol, server) in each_server().await {
        let proxy = Proxy::start(&Config::to(protocol, &[server.addr])).await;
        for opener in Opener::each(&proxy).await {
            let before = proxy.rss();
            let (mut reading, mut writing) = opener.open().await.split();
            let sent = tokio::spawn(async move {
                for n in 0..PIECES {
                    let frame = Frame {
                        fin: n + 1 == PIECES,
                        opcode: if n == 0 { BINARY } else { CONTINUATION },
                        payload: vec![n as u8; PIECE],
                    };
                    writing.send(&frame).await;
                }
                writing
            });
            // Nobody reads: the echoes fill what is between, and then everything stands.
            tokio::time::sleep(ms(1000)).await;
            assert!(!sent.is_finished(), "{opener:?} {protocol}: 64 MiB went nowhere");
            let grown = proxy.rss().saturating_sub(before) / 1024;
            assert!(grown < 12 * 1024, "{opener:?} {protocol}: {grown} KiB are held for one tunnel");
            for n in 0..PIECES {
                let frame = reading.next().await;
                assert_eq!((frame.payload.len(), frame.payload[PIECE - 1]), (PIECE, n as u8));
            }
            within(PATIENCE, "the last is sent", sent).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_are_open_at_once() {
    let count = if full() { 1_000 } else { 250 };
    for (protocol, server) in each_server().await {
        let config = Config::to(protocol, &[server.addr]).listener("maxConcurrentStreams: 2000");
        let proxy = Proxy::start(&config).await;
        for opener in Opener::each(&proxy).await {
            let opener = Arc::new(opener);
            let mut opening = tokio::task::JoinSet::new();
            for n in 0..count {
                let opener = Arc::clone(&opener);
                opening.spawn(async move {
                    let mut socket = opener.open().await;
                    socket.echoes(&format!("socket {n}")).await;
                    socket
                });
            }
            let mut sockets = opening.join_all().await;
            assert_eq!(server.open(), count);
            assert_eq!(proxy.metric("outrigger_tunnels", &["kind=\"websocket\""]).await, count as f64);
            for (n, socket) in sockets.iter_mut().enumerate() {
                socket.echoes(&format!("again {n}")).await;
            }
            for socket in sockets {
                socket.close().await;
            }
            eventually(PATIENCE, "all are closed", || server.open() == 0).await;
        }
    }
}
