//! How many tunnels there may be and how long they last.

use super::*;

#[tokio::test]
async fn there_are_no_more_than_the_listener_has_places() {
    let server = EchoServer::h1().await;
    let config =
        |most: u32| Config::to("http1", &[server.addr]).listener(&format!("upgrades: {{ maxTunnels: {most} }}"));
    let proxy = Proxy::start(&config(2)).await;
    let first = WebSocket::h1(proxy.addr()).await;
    let _second = WebSocket::h1(proxy.addr()).await;
    let mut client = H1Client::connect(proxy.addr()).await;
    let reply = client.exchange(websocket::handshake("/", "dGhlIHNhbXBsZSBub25jZQ==", "")).await;
    assert_eq!((reply.status, reply.reason()), (503, Some("TL")));
    assert_eq!(client.get("/").await.status, 200, "requests have places of their own");
    first.close().await;
    metric_becomes(&proxy, "outrigger_tunnels", &[], 1.0).await;
    let _third = WebSocket::h1(proxy.addr()).await;
    // Those that are open keep their places when the limit changes.
    proxy.replace_config(&config(1));
    within(PATIENCE, "the change", async {
        while proxy.metric("outrigger_config_generation", &[]).await < 2.0 {
            tokio::time::sleep(ms(5)).await;
        }
    })
    .await;
    let reply = client.exchange(websocket::handshake("/", "dGhlIHNhbXBsZSBub25jZQ==", "")).await;
    assert_eq!((reply.status, reply.reason()), (503, Some("TL")));
    assert_eq!(proxy.metric("outrigger_tunnels", &[]).await, 2.0);
}

#[tokio::test]
async fn a_caller_has_no_more_than_its_share() {
    let server = EchoServer::h1().await;
    let config = Config::to("http1", &[server.addr]).listener("upgrades: { maxTunnelsPerCaller: 1 }");
    let proxy = Proxy::start(&config).await;
    let socket = WebSocket::h1(proxy.addr()).await;
    let mut client = H1Client::connect(proxy.addr()).await;
    let reply = client.exchange(websocket::handshake("/", "dGhlIHNhbXBsZSBub25jZQ==", "")).await;
    assert_eq!((reply.status, reply.reason()), (429, Some("TL")));
    socket.close().await;
    metric_becomes(&proxy, "outrigger_tunnels", &[], 0.0).await;
    WebSocket::h1(proxy.addr()).await.close().await;
}

#[tokio::test]
async fn one_in_which_nothing_moves_is_closed_and_one_in_which_something_does_is_not() {
    for (protocol, server) in each_server().await {
        let config = Config::to(protocol, &[server.addr]).listener("upgrades: { idleTimeout: 400ms }");
        let proxy = Proxy::start(&config.top("accessLog: stdout")).await;
        for opener in Opener::each(&proxy).await {
            let (mut busy, mut idle) = (opener.open().await, opener.open().await);
            let start = std::time::Instant::now();
            let keeping = async {
                while start.elapsed() < ms(900) {
                    busy.echoes("still here").await;
                    tokio::time::sleep(ms(50)).await;
                }
            };
            let closing = async {
                assert_eq!(idle.next().await.code(), Some(1001), "{opener:?} {protocol}");
                assert!(start.elapsed() >= ms(380), "{:?}", start.elapsed());
                idle.send(&Frame::close(1001)).await;
                idle.ended().await;
            };
            tokio::join!(keeping, closing);
            drop(idle);
            server.saw(&Ending::Closed(Some(1001))).await;
            server.seen.endings.lock().clear();
            busy.close().await;
        }
        let lines =
            || proxy.stdout().lines().filter(|line| line.contains("\"SI\"") && line.contains("tunnel_idle")).count();
        eventually(PATIENCE, "both are logged", || lines() == 2).await;
    }
}

#[tokio::test]
async fn one_is_closed_at_its_age_however_much_it_is_used() {
    let server = EchoServer::h1().await;
    let config =
        Config::to("http1", &[server.addr]).listener("upgrades: { maxDuration: 500ms }").top("accessLog: stdout");
    let proxy = Proxy::start(&config).await;
    let mut socket = WebSocket::h1(proxy.addr()).await;
    let start = std::time::Instant::now();
    let last = loop {
        socket.send(&Frame::text("more")).await;
        let frame = socket.next().await;
        if frame.code().is_some() {
            break frame;
        }
        tokio::time::sleep(ms(10)).await;
    };
    assert_eq!(last.code(), Some(1001));
    assert!(start.elapsed() >= ms(480), "{:?}", start.elapsed());
    socket.send(&Frame::close(1001)).await;
    socket.ended().await;
    eventually(PATIENCE, "it is logged", || proxy.stdout().contains("\"UMSDR\"")).await;
}

#[tokio::test]
async fn time_limits_of_requests_end_with_the_handshake() {
    let server = EchoServer::h1().await;
    let config = Config::to("http1", &[server.addr]).rule("timeouts: { request: 300ms, idle: 300ms }");
    let proxy = Proxy::start(&config).await;
    let mut socket = WebSocket::h1(proxy.addr()).await;
    tokio::time::sleep(ms(700)).await;
    socket.echoes("still open").await;
    socket.close().await;
    // The handshake itself has them.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = Config::to("http1", &[silent.local_addr().unwrap()]).rule("timeouts: { request: 300ms }");
    let proxy = Proxy::start(&config).await;
    let mut client = H1Client::connect(proxy.addr()).await;
    let reply = client.exchange(websocket::handshake("/", "dGhlIHNhbXBsZSBub25jZQ==", "")).await;
    assert_eq!((reply.status, reply.reason()), (504, Some("UT")));
}

#[tokio::test]
async fn an_open_tunnel_is_load_and_its_end_is_told_once() {
    let (one, other) = (EchoServer::h1().await, EchoServer::h1().await);
    let config = Config::to("http1", &[one.addr, other.addr]).top("accessLog: stdout");
    let proxy = Proxy::start(&config).await;
    let mut sockets = Vec::new();
    for _ in 0..20 {
        sockets.push(WebSocket::h1(proxy.addr()).await);
    }
    let (at_one, at_other) = (one.open(), other.open());
    assert!(at_one.abs_diff(at_other) <= 4, "{at_one} and {at_other}");
    assert_eq!(proxy.stdout().lines().count(), 0, "none is over");
    sockets[0].echoes("hello").await;
    for socket in sockets {
        socket.close().await;
    }
    let ended = || proxy.stdout().lines().filter(|line| line.contains("\"response_code\":101")).count();
    eventually(PATIENCE, "each has a line", || ended() == 20).await;
    // A masked frame of 5 bytes has a head of 6, the other of 2; then a Close frame each way.
    let counted = |line: &str| line.contains("\"bytes_received\":19,") && line.contains("\"bytes_sent\":11,");
    assert_eq!(proxy.stdout().lines().filter(|line| counted(line)).count(), 1, "{}", proxy.stdout());
}
