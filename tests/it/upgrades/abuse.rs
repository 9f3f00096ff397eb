//! Callers that abuse tunnels and their handshakes.

use super::*;
use crate::support::websocket::{BINARY, TEXT};
use crate::support::{abuse, gate};

/// Runs an abuse of a proxy while another caller has its messages echoed.
async fn abused<T>(name: &str, proxy: &Proxy, abuse: impl Future<Output = T>) -> T {
    let mut other = WebSocket::h1(proxy.addr()).await;
    abuse::abused(name, proxy, async || other.echoes("still served").await, abuse).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_read_nothing_are_held_back() {
    gate::exclusive();
    for (protocol, server) in each_server().await {
        let proxy = Proxy::start(&Config::to(protocol, &[server.addr])).await;
        for opener in Opener::each(&proxy).await {
            let message = Frame::new(BINARY, vec![b'x'; 64 * 1024]);
            let sockets = abused(&format!("unread {opener:?} to {protocol}"), &proxy, async {
                let mut sockets = Vec::new();
                for _ in 0..4 {
                    let (reading, mut writing) = opener.open().await.split();
                    let mut sent = 0;
                    while let Ok(put) = tokio::time::timeout(ms(200), writing.try_send(&message)).await {
                        put.expect("sent");
                        sent += 1;
                        assert!(sent < 1000, "64 MiB are taken and nothing is read");
                    }
                    sockets.push((reading, writing));
                }
                sockets
            })
            .await;
            drop(sockets);
        }
        metric_becomes(&proxy, "outrigger_tunnels", &[], 0.0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_may_be_as_large_as_heads_may_be_and_no_larger() {
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    gate::exclusive();
    let server = EchoServer::h1().await;
    let proxy = Proxy::start(&Config::to("http1", &[server.addr])).await;
    let fields = |count: usize| -> String { (0..count).map(|n| format!("x-{n}: {}\r\n", "v".repeat(7000))).collect() };
    abused("large handshakes", &proxy, async {
        // 63 KB: within the limit, and what was read for it is given back.
        let mut open = Vec::new();
        for _ in 0..20 {
            let (_, mut socket) = WebSocket::h1_with(proxy.addr(), "/chat", &fields(9)).await;
            socket.echoes("open").await;
            open.push(socket);
        }
        // 70 KB: beyond.
        for _ in 0..200 {
            let mut client = H1Client::connect(proxy.addr()).await;
            let reply = client.exchange(websocket::handshake("/chat", KEY, &fields(10))).await;
            assert_eq!(reply.status, 431);
        }
        // Ones that go on for ever, from callers that never look.
        let mut endless = Vec::new();
        for _ in 0..100 {
            let client = H1Client::connect(proxy.addr()).await;
            let head = websocket::handshake("/chat", KEY, &fields(9));
            client.wire.send(head.trim_end_matches("\r\n")).await.expect("sent");
            endless.push(client);
        }
        for socket in &mut open {
            socket.echoes("still open").await;
        }
    })
    .await;
    assert_eq!(server.seen.handshakes.lock().len(), 21, "nobody else reached the server");
    // The same over HTTP/2.
    let client = H2Client::connect(proxy.addr()).await;
    let large = "v".repeat(7000);
    let names: Vec<String> = (0..10).map(|n| format!("x-{n}")).collect();
    let with = |count: usize| names.iter().take(count).map(|name| (name.as_str(), large.as_str())).collect::<Vec<_>>();
    let (_, mut socket) = WebSocket::h2_with(&client, &with(9)).await;
    socket.echoes("open").await;
    let mut request = http::Request::builder().method("CONNECT").uri("http://a.example/chat");
    for (name, value) in with(10) {
        request = request.header(name, value);
    }
    let mut request = request.body(()).expect("a request");
    request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
    let refused = match client.open(request, false).await {
        Ok((answer, _)) => within(PATIENCE, "an answer", answer).await.map(|answer| answer.status().as_u16()),
        Err(error) => Err(error),
    };
    assert!(matches!(refused, Ok(431) | Err(_)), "{refused:?}");
    socket.echoes("still open").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_to_a_handshake_may_be_no_larger_than_heads_may_be() {
    let backend = crate::support::H1Backend::answering(|request| {
        if !request.head.has("upgrade") {
            return crate::support::response(200, &[], b"ok");
        }
        let accept = websocket::accept_of(request.head.get("sec-websocket-key").expect("a key"));
        let more: String = (0..10).map(|n| format!("x-{n}: {}\r\n", "v".repeat(7000))).collect();
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
             sec-websocket-accept: {accept}\r\n{more}\r\n"
        )
        .into_bytes()
    })
    .await;
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr])).await;
    let mut client = H1Client::connect(proxy.addr()).await;
    let reply = client.exchange(websocket::handshake("/", "dGhlIHNhbXBsZSBub25jZQ==", "")).await;
    assert_eq!(reply.status, 502);
    assert_eq!(client.get("/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_of_one_byte_pass_and_cost_little() {
    const FRAMES: usize = 5000;
    gate::exclusive();
    for (protocol, server) in each_server().await {
        let proxy = Proxy::start(&Config::to(protocol, &[server.addr])).await;
        for opener in Opener::each(&proxy).await {
            let name = format!("one byte {opener:?} to {protocol}");
            abused(&name, &proxy, async {
                let (mut reading, mut writing) = opener.open().await.split();
                let send = async {
                    for number in 0..FRAMES {
                        writing.send(&Frame::new(TEXT, [b'a' + (number % 26) as u8])).await;
                        // Each leaves by itself.
                        tokio::task::yield_now().await;
                    }
                    // One frame, byte by byte.
                    for byte in Frame::new(BINARY, vec![b'x'; 1000]).encode(Some([1, 2, 3, 4])) {
                        writing.send_raw(&[byte]).await;
                        tokio::task::yield_now().await;
                    }
                };
                let receive = async {
                    for number in 0..FRAMES {
                        assert_eq!(reading.next().await, Frame::new(TEXT, [b'a' + (number % 26) as u8]), "{name}");
                    }
                    assert_eq!(reading.next().await.payload.len(), 1000, "{name}");
                };
                tokio::join!(send, receive);
            })
            .await;
        }
    }
}
