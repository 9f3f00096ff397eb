//! Tunnels in which something moves all the time, in both directions, as fast as it can: they end when they must all
//! the same.
//!
//! Those who send and receive have threads of their own, so that the proxy is never the one that waits.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::*;

/// Sends and receives as much as it can until its peer has enough of it; how much came.
fn floods(stream: TcpStream) -> u64 {
    let mut sending = stream.try_clone().expect("another handle");
    let writer = thread::spawn(move || {
        let block = vec![0; 256 * 1024];
        while sending.write_all(&block).is_ok() {}
    });
    let received = drain(stream);
    writer.join().expect("no panic");
    received
}

/// Receives until the end; then nothing more can be sent either.
fn drain(mut stream: TcpStream) -> u64 {
    let (mut received, mut buffer) = (0, vec![0; 256 * 1024]);
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        received += n as u64;
    }
    stream.shutdown(Shutdown::Both).ok();
    received
}

/// A server that floods whoever connects.
fn flooding() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let addr = listener.local_addr().expect("an address");
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            thread::spawn(move || floods(stream));
        }
    });
    addr
}

/// A caller that floods a tunnel made with CONNECT; how long that lasted, and how much came.
async fn flood(addr: SocketAddr) -> (Duration, u64) {
    let mut stream = tokio::net::TcpStream::connect(addr).await.expect("a connection");
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"CONNECT a.example:443 HTTP/1.1\r\nhost: a.example:443\r\n\r\n")
        .await
        .expect("sent");
    let (start, _) = within(PATIENCE, "an answer", websocket::read_head(&mut stream)).await.expect("an answer");
    assert!(start.contains(" 200 "), "{start}");
    let stream = stream.into_std().expect("a socket");
    stream.set_nonblocking(false).expect("set");
    let began = Instant::now();
    let flooding = tokio::task::spawn_blocking(move || floods(stream));
    let received = within(PATIENCE, "the end of the tunnel", flooding).await.expect("no panic");
    (began.elapsed(), received)
}

/// A server that floods whoever connects until it hears a byte from it.
fn flooding_until_told() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let addr = listener.local_addr().expect("an address");
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            thread::spawn(move || {
                let mut sending = stream.try_clone().expect("another handle");
                let writer = thread::spawn(move || {
                    let block = vec![0; 256 * 1024];
                    while sending.write_all(&block).is_ok() {}
                });
                let told = stream.read_exact(&mut [0]);
                stream.shutdown(Shutdown::Both).ok();
                writer.join().expect("no panic");
                told
            });
        }
    });
    addr
}

#[tokio::test]
async fn a_caller_is_heard_while_its_server_floods_it() {
    let config = Config::to("http1", &[flooding_until_told()]).listener("upgrades: { connect: tunnel }");
    let proxy = Proxy::start(&config).await;
    let mut stream = tokio::net::TcpStream::connect(proxy.addr()).await.expect("a connection");
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"CONNECT a.example:443 HTTP/1.1\r\nhost: a.example:443\r\n\r\n")
        .await
        .expect("sent");
    within(PATIENCE, "an answer", websocket::read_head(&mut stream)).await.expect("an answer");
    let mut stream = stream.into_std().expect("a socket");
    stream.set_nonblocking(false).expect("set");
    let received = tokio::task::spawn_blocking(move || {
        // In the middle of the flood.
        stream.read_exact(&mut vec![0; 8 << 20]).expect("a flood");
        stream.write_all(b"x").expect("sent");
        drain(stream)
    });
    // It ends, because the server was told.
    within(PATIENCE, "the end of the flood", received).await.expect("no panic");
}

#[tokio::test]
async fn a_tunnel_under_full_load_ends_at_its_age() {
    let last = Config::to("http1", &[flooding()]).listener("upgrades: { connect: tunnel, maxDuration: 1s }");
    let last = Proxy::start(&last.top("accessLog: stdout")).await;
    for protocol in ["", "http1", "http2"] {
        let config = Config::to(protocol, &[last.addr()]).listener("upgrades: { connect: route }");
        // Over one proxy, and over two with each protocol between them.
        let first = if protocol.is_empty() { None } else { Some(Proxy::start(&config).await) };
        let (lasted, received) = flood(first.as_ref().unwrap_or(&last).addr()).await;
        assert!(lasted > ms(900) && lasted < ms(6_000), "{protocol:?}: {lasted:?}");
        assert!(received > 1 << 20, "{protocol:?}: {received} bytes are no load");
    }
    eventually(PATIENCE, "each is logged", || last.stdout().matches("\"UMSDR\"").count() == 3).await;
}

#[tokio::test]
async fn a_tunnel_under_full_load_hears_of_a_drain() {
    let config = Config::to("http1", &[flooding()]).listener("upgrades: { connect: tunnel }");
    let config = config.top("accessLog: stdout").top("drain: { acceptFor: 100ms, deadline: 20s }");
    let mut proxy = Proxy::start(&config).await;
    let tunnel = tokio::spawn(flood(proxy.addr()));
    metric_becomes(&proxy, "outrigger_tunnels", &[], 1.0).await;
    proxy.signal("TERM");
    let (_, received) = within(PATIENCE, "the end", tunnel).await.expect("no panic");
    assert!(received > 0);
    assert!(proxy.exit(PATIENCE).await.success());
    // It went by itself at its moment of the drain, and was not cut at the end of it.
    assert!(proxy.stdout().contains("\"DRAIN\""), "{}", proxy.stdout());
}

#[tokio::test]
async fn a_websocket_under_full_load_is_closed_in_good_order_at_its_age() {
    for (protocol, server) in each_server().await {
        let config = Config::to(protocol, &[server.addr]).listener("upgrades: { maxDuration: 700ms }");
        let proxy = Proxy::start(&config).await;
        for opener in Opener::each(&proxy).await {
            let (mut reading, mut writing) = opener.open().await.split();
            let began = Instant::now();
            let sending = tokio::spawn(async move {
                let frame = Frame::new(websocket::BINARY, vec![7; 200_000]);
                while writing.try_send(&frame).await.is_ok() {}
            });
            let code = within(PATIENCE, "a Close frame", async {
                loop {
                    if let Some(code) = reading.next().await.code() {
                        return code;
                    }
                }
            })
            .await;
            assert_eq!(code, 1001, "{opener:?} {protocol}");
            assert!(began.elapsed() > ms(600), "{:?}", began.elapsed());
            sending.abort();
        }
    }
}

/// The same of connections of which nothing is understood: their listener ends them at the end of its drain.
#[tokio::test]
async fn a_connection_under_full_load_ends_with_the_drain() {
    let config = crate::tcp::tcp(&[flooding()]).top("drain: { acceptFor: 100ms, deadline: 1500ms }");
    let mut proxy = Proxy::start(&config).await;
    let stream = TcpStream::connect(proxy.addr()).expect("a connection");
    let flooding = tokio::task::spawn_blocking(move || floods(stream));
    crate::tcp::counted(&proxy, "outrigger_tcp_connections", &[], 1.0).await;
    proxy.signal("TERM");
    assert!(within(PATIENCE, "the end", flooding).await.expect("no panic") > 0);
    assert!(proxy.exit(PATIENCE).await.success());
}
