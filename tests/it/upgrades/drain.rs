//! Changes of configuration close no tunnel; a listener or a proxy that goes away closes them in good order.

use super::*;
use crate::support::websocket::TEXT;

#[tokio::test]
async fn a_proxy_that_stops_says_1001_to_both_sides() {
    for (protocol, server) in each_server().await {
        let config = Config::to(protocol, &[server.addr]).top("drain: { acceptFor: 100ms, deadline: 8s }");
        let mut proxy = Proxy::start(&config.top("accessLog: stdout")).await;
        let openers = Opener::each(&proxy).await;
        let mut sockets = Vec::new();
        for _ in 0..4 {
            for opener in &openers {
                let mut socket = opener.open().await;
                socket.echoes("hello").await;
                sockets.push(socket);
            }
        }
        // One is in the middle of a message: fragments are whole frames, so the Close may come between them.
        sockets[0].send(&Frame { fin: false, opcode: TEXT, payload: b"begun".to_vec() }).await;
        assert_eq!(sockets[0].next().await.payload, b"begun");
        proxy.signal("TERM");
        for mut socket in sockets {
            assert_eq!(socket.next().await.code(), Some(1001), "{protocol}");
            socket.send(&Frame::close(1001)).await;
            socket.ended().await;
        }
        drop(openers);
        assert!(proxy.exit(PATIENCE).await.success());
        assert_eq!(*server.seen.endings.lock(), vec![Ending::Closed(Some(1001)); 8], "{protocol}");
        assert_eq!(proxy.stdout().lines().filter(|line| line.contains("\"DRAIN\"")).count(), 8, "{}", proxy.stdout());
    }
}

#[tokio::test]
async fn a_client_that_does_not_answer_is_not_waited_for_and_the_server_hears_it_all_the_same() {
    let server = EchoServer::h1().await;
    let config = Config::to("http1", &[server.addr]).top("drain: { acceptFor: 0s, deadline: 12s }");
    let mut proxy = Proxy::start(&config).await;
    let mut socket = WebSocket::h1(proxy.addr()).await;
    socket.echoes("hello").await;
    proxy.signal("TERM");
    assert_eq!(socket.next().await.code(), Some(1001));
    socket.ended().await;
    server.saw(&Ending::Closed(Some(1001))).await;
    drop(socket);
    assert!(proxy.exit(PATIENCE).await.success());
}

#[tokio::test]
async fn a_frame_that_is_half_sent_is_finished_before_the_close() {
    // A server that sends half a frame, and the rest when it is told to.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (go_on, mut told) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        let (mut stream, _) = listener.accept().await.unwrap();
        let (_, fields) = websocket::read_head(&mut stream).await.unwrap();
        let accept = websocket::accept_of(&fields["sec-websocket-key"]);
        let head = format!(
            "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let frame = Frame::text("a whole frame").encode(None);
        stream.write_all(&frame[..5]).await.unwrap();
        (&mut told).await.unwrap();
        stream.write_all(&frame[5..]).await.unwrap();
        stream.write_all(&Frame::text("for nobody").encode(None)).await.unwrap();
        let mut socket = WebSocket::over(stream, false);
        assert_eq!(socket.next().await.code(), Some(1001));
    });
    let mut proxy = Proxy::start(&Config::to("http1", &[addr]).top("drain: { acceptFor: 0s, deadline: 8s }")).await;
    let mut socket = WebSocket::h1(proxy.addr()).await;
    proxy.signal("TERM");
    eventually(PATIENCE, "the listener is closed", || std::net::TcpStream::connect(proxy.addr()).is_err()).await;
    go_on.send(()).unwrap();
    assert_eq!(socket.next().await, Frame::text("a whole frame"));
    assert_eq!(socket.next().await.code(), Some(1001));
    socket.send(&Frame::close(1001)).await;
    within(PATIENCE, "the server", server).await.unwrap();
    socket.ended().await;
    drop(socket);
    assert!(proxy.exit(PATIENCE).await.success());
}

#[tokio::test]
async fn changes_of_configuration_close_none() {
    let server = EchoServer::h1().await;
    let config = |n: usize| {
        Config::to("http1", &[server.addr])
            .rule(&format!("filters: [{{ requestHeaders: {{ set: {{ x-n: \"{n}\" }} }} }}]"))
            .listener(&format!("upgrades: {{ maxTunnels: {} }}", 10 + n))
    };
    let proxy = Proxy::start(&config(0)).await;
    let openers = Opener::each(&proxy).await;
    let mut sockets = Vec::new();
    for opener in &openers {
        for _ in 0..5 {
            sockets.push(opener.open().await);
        }
    }
    let changes = if crate::support::full() { 1_000 } else { 100 };
    for n in 1..=changes {
        proxy.replace_config(&config(n));
        let goal = (n + 1) as f64;
        within(PATIENCE, "the change", async {
            while proxy.metric("outrigger_config_generation", &[]).await < goal {
                tokio::time::sleep(ms(1)).await;
            }
        })
        .await;
        if n % 20 == 0 {
            for socket in &mut sockets {
                socket.echoes(&format!("after {n}")).await;
            }
        }
    }
    assert_eq!(proxy.metric("outrigger_tunnels", &[]).await, 10.0);
    for socket in sockets {
        socket.close().await;
    }
}

#[tokio::test]
async fn a_listener_that_leaves_drains_its_tunnels_and_no_others() {
    let server = EchoServer::h1().await;
    let both = Config::to("http1", &[server.addr]).add_listener("other");
    let proxy = Proxy::start(&both).await;
    let mut stays = WebSocket::h1(proxy.addr()).await;
    let mut goes = WebSocket::h1(proxy.listener("other")).await;
    proxy.replace_config(&Config::to("http1", &[server.addr]));
    assert_eq!(goes.next().await.code(), Some(1001));
    goes.send(&Frame::close(1001)).await;
    goes.ended().await;
    stays.echoes("still here").await;
    stays.close().await;
}
