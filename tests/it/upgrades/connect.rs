//! CONNECT that names no protocol.

use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::support::h1_backend::Unanswering;
use crate::support::websocket::H2Stream;

/// A TCP server that sends back what it is sent, and ends when its client does.
async fn tcp_echo() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await.ok();
                write.shutdown().await.ok();
            });
        }
    });
    addr
}

fn ask() -> String {
    "CONNECT a.example:443 HTTP/1.1\r\nhost: a.example:443\r\n\r\n".to_owned()
}

#[tokio::test]
async fn it_is_denied_unless_the_listener_says_otherwise() {
    let echo = tcp_echo().await;
    let proxy = Proxy::start(&Config::to("http1", &[echo])).await;
    let mut client = H1Client::connect(proxy.addr()).await;
    client.send(ask()).await;
    let reply = client.response_to("CONNECT").await;
    assert_eq!((reply.status, reply.reason()), (405, Some("UPG")));
    assert!(!client.closed(PATIENCE).await, "what follows may be anything");
    let h2 = H2Client::connect(proxy.addr()).await;
    let request = Request::builder().method("CONNECT").uri("a.example:443").body(()).unwrap();
    let (reply, _stream) = h2.open(request, false).await.unwrap();
    assert_eq!(within(PATIENCE, "an answer", reply).await.unwrap().status(), 405);
}

#[tokio::test]
async fn it_ends_here_as_bytes_over_tcp() {
    let echo = tcp_echo().await;
    let config = Config::new().listener("upgrades: { connect: tunnel }").cluster("c", "http1", &[echo]);
    let config = config.routes("- hostnames: [a.example]\n  rules: [{ backendRefs: [{ cluster: c }] }]");
    let proxy = Proxy::start(&config).await;

    let mut stream = tokio::net::TcpStream::connect(proxy.addr()).await.unwrap();
    stream.write_all(format!("{}early ", ask()).as_bytes()).await.unwrap();
    let (start, fields) = within(PATIENCE, "an answer", websocket::read_head(&mut stream)).await.unwrap();
    assert!(start.starts_with("HTTP/1.1 200 "), "{start}");
    assert!(!fields.contains_key("content-length") && !fields.contains_key("transfer-encoding"), "{fields:?}");
    stream.write_all(b"and late").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut text = String::new();
    within(PATIENCE, "the echo", stream.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "early and late");

    let h2 = H2Client::connect(proxy.addr()).await;
    let request = Request::builder().method("CONNECT").uri("a.example:443").body(()).unwrap();
    let (reply, send) = h2.open(request, false).await.unwrap();
    let reply = within(PATIENCE, "an answer", reply).await.unwrap();
    assert_eq!(reply.status(), 200);
    let mut stream = H2Stream::new(send, reply.into_body());
    stream.write_all(b"over HTTP/2").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut text = String::new();
    within(PATIENCE, "the echo", stream.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "over HTTP/2");
    metric_becomes(&proxy, "outrigger_tunnels", &["kind=\"connect\""], 0.0).await;
    assert_eq!(proxy.metric("outrigger_tunnels_total", &["kind=\"connect\""]).await, 2.0);

    let mut client = H1Client::connect(proxy.addr()).await;
    client.send("CONNECT b.example:443 HTTP/1.1\r\nhost: b.example:443\r\n\r\n").await;
    assert_eq!(client.response_to("CONNECT").await.status, 404, "there is no route to that");
}

/// The connection is what is waited for: the limits of a request bound it as they bound an answer.
#[tokio::test]
async fn a_connection_that_takes_longer_than_the_rule_allows_is_504_ut() {
    let unanswering = Unanswering::new().await;
    for limit in ["request: 300ms", "backendRequest: 150ms"] {
        let config = Config::to("http1", &[unanswering.addr]).listener("upgrades: { connect: tunnel }");
        let config = config.rule(&format!("timeouts: {{ {limit} }}")).upstream("connection: { connectTimeout: 20s }");
        let proxy = Proxy::start(&config).await;
        let mut client = H1Client::connect(proxy.addr()).await;
        let start = std::time::Instant::now();
        client.send(ask()).await;
        let reply = client.response_to("CONNECT").await;
        assert_eq!((reply.status, reply.reason()), (504, Some("UT")), "{limit}");
        assert!(start.elapsed() < ms(5_000), "{limit}: {:?}", start.elapsed());
    }
}

#[tokio::test]
async fn it_is_routed_to_a_proxy_that_opens_it() {
    let echo = tcp_echo().await;
    let last = Proxy::start(&Config::to("http1", &[echo]).listener("upgrades: { connect: tunnel }")).await;
    for protocol in ["http1", "http2"] {
        let config = Config::to(protocol, &[last.addr()]).listener("upgrades: { connect: route }");
        let first = Proxy::start(&config).await;
        let mut stream = tokio::net::TcpStream::connect(first.addr()).await.unwrap();
        stream.write_all(ask().as_bytes()).await.unwrap();
        let (start, _) = within(PATIENCE, "an answer", websocket::read_head(&mut stream)).await.unwrap();
        assert!(start.starts_with("HTTP/1.1 200 "), "{protocol}: {start}");
        stream.write_all(b"through both").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut text = String::new();
        within(PATIENCE, "the echo", stream.read_to_string(&mut text)).await.unwrap();
        assert_eq!(text, "through both", "{protocol}");
    }
}
