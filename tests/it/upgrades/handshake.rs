//! What is agreed to, what is refused, and what is passed on of a handshake.

use http::Request;

use super::*;
use crate::support::{Conn, H1Backend, response};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

#[tokio::test]
async fn fields_of_the_handshake_reach_the_other_side_and_those_of_one_hop_do_not() {
    let offered = [
        ("sec-websocket-protocol", "chat, superchat"),
        ("sec-websocket-extensions", "permessage-deflate; client_max_window_bits"),
        ("cookie", "a=b"),
    ];
    for (protocol, server) in each_server().await {
        let proxy = Proxy::start(&Config::to(protocol, &[server.addr])).await;
        let lines: String = offered.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let (answer, mut socket) = WebSocket::h1_with(proxy.addr(), "/chat?x=1", &lines).await;
        assert_eq!(answer["sec-websocket-protocol"], "chat");
        socket.echoes("hello").await;
        socket.close().await;
        let client = H2Client::connect(proxy.addr()).await;
        let (answer, mut socket) = WebSocket::h2_with(&client, &offered).await;
        assert_eq!(answer["sec-websocket-protocol"], "chat");
        assert!(!answer.contains_key("sec-websocket-accept"), "{answer:?}");
        socket.echoes("hello").await;
        socket.close().await;
        for seen in server.seen.handshakes.lock().iter() {
            for (name, value) in offered {
                assert_eq!(seen[name], value, "{protocol}");
            }
            assert_eq!(seen["sec-websocket-version"], "13");
            let key = seen.get("sec-websocket-key").map(String::as_str);
            if protocol == "http1" {
                assert!(
                    key.is_some_and(|key| key != KEY),
                    "the key of one connection is not that of another: {seen:?}"
                );
            } else {
                assert_eq!((key, &*seen[":method"], &*seen[":protocol"]), (None, "CONNECT", "websocket"));
                assert!(!seen.contains_key("upgrade") && !seen.contains_key("connection"), "{seen:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_bad_handshake_is_refused_and_says_why() {
    let server = EchoServer::h1().await;
    let proxy = Proxy::start(&Config::to("http1", &[server.addr])).await;
    let good = websocket::handshake("/", KEY, "");
    for (bad, status) in [
        (good.replace("Version: 13", "Version: 8"), 426),
        (good.replace("Sec-WebSocket-Version: 13\r\n", ""), 400),
        (good.replace(KEY, "dGhl"), 400),
        (good.replace(KEY, "dGhlIHNhbXBsZSBub25j"), 400),
        (good.replace("Sec-WebSocket-Key", "X-Key"), 400),
        (good.replace("\r\n\r\n", &format!("\r\nSec-WebSocket-Key: {KEY}\r\n\r\n")), 400),
        (good.replace("GET", "POST"), 400),
        (good.replace("\r\n\r\n", "\r\nContent-Length: 2\r\n\r\nhi"), 400),
    ] {
        let mut client = H1Client::connect(proxy.addr()).await;
        let reply = client.exchange(bad.clone()).await;
        assert_eq!(reply.status, status, "{bad}");
        assert_eq!(reply.reason(), Some("DPE"));
        if status == 426 {
            assert_eq!(reply.head.get("sec-websocket-version"), Some("13"));
            assert_eq!(reply.head.get("upgrade"), Some("websocket"));
            assert_eq!(reply.head.get("connection"), Some("close, upgrade"));
        }
    }
    assert!(server.seen.handshakes.lock().is_empty());
}

#[tokio::test]
async fn tokens_pass_that_the_listener_allows_and_no_others() {
    let backend = H1Backend::start(|mut conn: Conn| async move {
        while let Some(request) = conn.request().await {
            match request.head.get("upgrade") {
                Some(token) => {
                    let agreed = format!("HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: {token}\r\n\r\nwelcome");
                    conn.send(agreed).await.ok();
                    return;
                }
                None => drop(conn.send(response(200, &[], b"plain")).await),
            }
        }
    })
    .await;
    let config = Config::to("http1", &[backend.addr]).listener("upgrades: { allow: [echo/1] }");
    let proxy = Proxy::start(&config).await;
    let ask = |token: &str| format!("GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: {token}\r\n\r\n");

    let mut stream = tokio::net::TcpStream::connect(proxy.addr()).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, ask("Echo/1").as_bytes()).await.unwrap();
    let (start, fields) = within(PATIENCE, "an answer", websocket::read_head(&mut stream)).await.unwrap();
    assert_eq!((start.as_str(), fields["upgrade"].as_str()), ("HTTP/1.1 101 Switching Protocols", "echo/1"));
    let mut welcome = String::new();
    let read = tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut welcome);
    within(PATIENCE, "the welcome", read).await.unwrap();
    assert_eq!(welcome, "welcome");

    // On one connection: what is not allowed is refused, what no proxy switches to is not asked for, and after either
    // the connection goes on.
    let mut client = H1Client::connect(proxy.addr()).await;
    for (token, status) in [("foo", 403), ("h2c", 200), ("TLS/1.0", 200), ("HTTP/2.0", 200), ("a, b", 200)] {
        let reply = client.exchange(ask(token)).await;
        assert_eq!(reply.status, status, "{token}");
        assert_eq!(reply.reason(), (status == 403).then_some("UPG"), "{token}");
    }
    let reply = client.exchange(websocket::handshake("/", KEY, "")).await;
    assert_eq!((reply.status, reply.reason()), (403, Some("UPG")), "WebSocket is not among what is allowed");
    assert_eq!(client.get("/").await.text(), "plain");
    for request in backend.requests().iter().filter(|request| request.head.get("upgrade") != Some("echo/1")) {
        for field in ["upgrade", "connection", "http2-settings"] {
            assert!(!request.head.has(field), "{field} in {request:?}");
        }
    }

    let h2 = H2Client::connect(proxy.addr()).await;
    for (protocol, status) in [("websocket", 403), ("foo", 501)] {
        let mut request = Request::builder().method("CONNECT").uri("http://a.example/").body(()).unwrap();
        request.extensions_mut().insert(h2::ext::Protocol::from(protocol));
        let (reply, _stream) = h2.open(request, false).await.unwrap();
        assert_eq!(within(PATIENCE, "an answer", reply).await.unwrap().status(), status, "{protocol}");
    }
}

#[tokio::test]
async fn an_answer_that_does_not_agree_is_an_answer() {
    let backend = H1Backend::start(|mut conn: Conn| async move {
        while let Some(request) = conn.request().await {
            let status = if request.target == "/no" { 401 } else { 200 };
            conn.send(response(status, &[], b"not here")).await.ok();
        }
    })
    .await;
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr])).await;
    let mut client = H1Client::connect(proxy.addr()).await;
    for path in ["/no", "/"] {
        let reply = client.exchange(websocket::handshake(path, KEY, "")).await;
        assert_eq!((reply.status, reply.text().as_str()), (if path == "/no" { 401 } else { 200 }, "not here"));
        assert_eq!(client.get("/").await.status, 200, "the connection goes on");
    }
    assert_eq!(proxy.metric("outrigger_tunnels_total", &[]).await, 0.0);

    // What was meant for a tunnel must never be read as a request.
    let mut client = H1Client::connect(proxy.addr()).await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nhost: a.example\r\n\r\n";
    let reply = client.exchange(format!("{}{smuggled}", websocket::handshake("/no", KEY, ""))).await;
    assert_eq!((reply.status, reply.head.get("connection")), (401, Some("close")));
    assert!(!client.closed(PATIENCE).await);
    assert!(!backend.requests().iter().any(|request| request.target == "/smuggled"));

    // Over HTTP/2, 200 would agree.
    let h2 = H2Client::connect(proxy.addr()).await;
    for (path, status, reason) in [("/no", 401, None), ("/", 502, Some("UPE"))] {
        let mut request = Request::builder().method("CONNECT").uri(format!("http://a.example{path}")).body(()).unwrap();
        request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
        let (reply, _stream) = h2.open(request, false).await.unwrap();
        let reply = within(PATIENCE, "an answer", reply).await.unwrap();
        let told = reply.headers().get("x-outrigger-reason").map(|reason| reason.to_str().unwrap());
        assert_eq!((reply.status().as_u16(), told), (status, reason), "{path}");
    }
}

#[tokio::test]
async fn an_upstream_that_proves_nothing_is_not_believed() {
    let backend = H1Backend::start(|mut conn: Conn| async move {
        while let Some(request) = conn.request().await {
            let proof = match request.target.as_str() {
                "/none" => String::new(),
                "/wrong" => format!("Sec-WebSocket-Accept: {}\r\n", websocket::accept_of(KEY)),
                _ => format!(
                    "Sec-WebSocket-Accept: {}\r\n",
                    websocket::accept_of(request.head.get("sec-websocket-key").unwrap_or(""))
                ),
            };
            let token = if request.target == "/other" { "echo" } else { "websocket" };
            conn.send(format!("HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: {token}\r\n{proof}\r\n")).await.ok();
            conn.closed().await;
        }
    })
    .await;
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr])).await;
    let mut client = H1Client::connect(proxy.addr()).await;
    for path in ["/none", "/wrong", "/other"] {
        let reply = client.exchange(websocket::handshake(path, KEY, "")).await;
        assert_eq!((reply.status, reply.reason()), (502, Some("UPE")), "{path}");
    }
    let unasked = client.get("/right").await;
    assert_eq!((unasked.status, unasked.reason()), (502, Some("UPE")), "nobody asked for a tunnel");
    WebSocket::h1_with(proxy.addr(), "/right", "").await;
}

#[tokio::test]
async fn an_http2_upstream_without_extended_connect_is_said_so() {
    let server = EchoServer::h2_without().await;
    let proxy = Proxy::start(&Config::to("http2", &[server.addr]).top("accessLog: stdout")).await;
    let mut client = H1Client::connect(proxy.addr()).await;
    let reply = client.exchange(websocket::handshake("/", KEY, "")).await;
    assert_eq!((reply.status, reply.reason()), (502, Some("UPE")));
    eventually(PATIENCE, "it is logged", || proxy.stdout().contains("no_extended_connect")).await;
    assert!(server.seen.handshakes.lock().is_empty(), "nothing was sent");
}

#[tokio::test]
async fn a_handshake_is_tried_again_like_any_request_without_a_body() {
    let broken = H1Backend::start(|mut conn: Conn| async move {
        if conn.request().await.is_some() {
            conn.send(response(503, &[], b"")).await.ok();
        }
    })
    .await;
    let server = EchoServer::h1().await;
    let config = Config::to("http1", &[broken.addr, server.addr]).rule("retry: { attempts: 3, on: [5xx] }");
    let config = config.upstream("retryBudget: { percent: 100, minPerSecond: 100 }");
    let proxy = Proxy::start(&config).await;
    // They stay open, and so the second goes to the endpoint that has none.
    let mut open = Vec::new();
    for n in 0..4 {
        let mut socket = WebSocket::h1(proxy.addr()).await;
        socket.echoes(&format!("socket {n}")).await;
        open.push(socket);
    }
    assert!(broken.requests().len() >= 3, "{:?}", broken.requests());
}

/// A length of nothing is said by clients that say it of every request. It must not become the length of what goes up.
#[tokio::test]
async fn a_declared_length_of_nothing_does_not_bind_the_tunnel() {
    for (protocol, server) in each_server().await {
        let proxy = Proxy::start(&Config::to(protocol, &[server.addr])).await;
        let (_, mut socket) = WebSocket::h1_with(proxy.addr(), "/chat", "Content-Length: 0\r\n").await;
        socket.echoes("hello").await;
        socket.close().await;
        let seen = server.seen.handshakes.lock();
        assert!(seen.iter().all(|seen| !seen.contains_key("content-length")), "{protocol}: {seen:?}");
    }
}
