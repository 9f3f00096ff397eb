//! The PROXY protocol: who is behind a connection is believed where it is asked for, and told where a cluster wants it.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Config, H1Backend, H1Client, Mesh, PATIENCE, Proxy, TlsClient, eventually, ms, response, within};
use crate::tcp::{all, connect, counted, echo, server, tcp};

const V1: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.7 1234 443\r\n";

/// Version 2 with a command, a family, and what follows.
fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, family], &length, body].concat()
}

/// From 192.0.2.1:1234 to 198.51.100.7:443, with an extension.
fn v2_header() -> Vec<u8> {
    let addresses = [192, 0, 2, 1, 198, 51, 100, 7, 4, 210, 1, 187];
    v2(0x21, 0x11, &[&addresses[..], &[0xea, 0, 3, 1, 2, 3]].concat())
}

/// A backend that answers with the forwarding header that it got.
async fn mirror() -> H1Backend {
    H1Backend::answering(|request| response(200, &[], request.head.get("x-forwarded-for").unwrap_or("-").as_bytes()))
        .await
}

/// A request after a header: who the backend thinks has called.
async fn asked(addr: SocketAddr, header: &[u8]) -> String {
    let mut client = H1Client::connect(addr).await;
    client.send([header, b"GET / HTTP/1.1\r\nhost: a.example\r\n\r\n"].concat()).await;
    client.response().await.text()
}

#[tokio::test]
async fn the_address_in_the_header_is_the_callers_everywhere() {
    let backend = mirror().await;
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let config = Config::to("http1", &[backend.addr])
        .top(&format!("accessLog: {{ path: \"{}\" }}", log.display()))
        .listener("proxyProtocol: strict")
        .listener("authorization: who")
        .top(
            "authorization: { who: { default: deny, rules: [{ name: known, action: allow, \
             from: [{ addresses: [192.0.2.0/24] }], to: [{ ports: [443] }] }] } }",
        );
    let proxy = Proxy::start(&config).await;
    assert_eq!(asked(proxy.addr(), V1).await, "192.0.2.1");
    assert_eq!(asked(proxy.addr(), &v2_header()).await, "192.0.2.1");
    let mut other = H1Client::connect(proxy.addr()).await;
    other.send(b"PROXY TCP4 203.0.113.5 198.51.100.7 1234 443\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(other.response().await.status, 403, "another address");
    let lines = || std::fs::read_to_string(&log).unwrap_or_default();
    eventually(PATIENCE, "the lines", || lines().lines().count() == 3).await;
    let line: serde_json::Value = serde_json::from_str(lines().lines().next().unwrap()).unwrap();
    assert_eq!(line["downstream_remote_address"], "192.0.2.1:1234", "{line}");
}

#[tokio::test]
async fn without_addresses_those_of_the_socket_count() {
    let backend = mirror().await;
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr]).listener("proxyProtocol: strict")).await;
    for header in [b"PROXY UNKNOWN\r\n".to_vec(), v2(0x20, 0, &[]), v2(0x21, 0, &[1, 2, 3]), v2(0x21, 0x31, &[0; 216])]
    {
        assert_eq!(asked(proxy.addr(), &header).await, "127.0.0.1", "{header:?}");
    }
}

#[tokio::test]
async fn where_a_header_must_come_nothing_else_is_heard() {
    let backend = mirror().await;
    let config =
        Config::to("http1", &[backend.addr]).listener("proxyProtocol: strict").listener("timeouts: { header: 300ms }");
    let proxy = Proxy::start(&config).await;
    for (bytes, code) in [
        (&b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"[..], "no-proxy-header"),
        (b"PROXY TCP4 192.0.2.1 198.51.100.7 1234\r\nGET / HTTP/1.1\r\n\r\n", "bad-proxy-header"),
        (b"PROXY TCP4 192.0.2.1 198.51.100.7 1234 99999\r\n", "bad-proxy-header"),
        (b"PROXY TCP4 192.", "proxy-header-timeout"),
        (b"", "proxy-header-timeout"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff", "bad-proxy-header"),
    ] {
        let label = format!("reason=\"{code}\"");
        let before = proxy.metric("outrigger_tls_refused_connections_total", &[&label]).await;
        let mut client = H1Client::connect(proxy.addr()).await;
        client.send(bytes).await;
        assert!(client.rest(PATIENCE).await.is_empty(), "no answer: {bytes:?}");
        counted(&proxy, "outrigger_tls_refused_connections_total", &[&label], before + 1.0).await;
    }
    assert!(backend.records().is_empty(), "nobody was reached");
}

#[tokio::test]
async fn an_optional_header_is_told_by_the_first_bytes() {
    let backend = mirror().await;
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr]).listener("proxyProtocol: optional")).await;
    assert_eq!(asked(proxy.addr(), V1).await, "192.0.2.1");
    assert_eq!(asked(proxy.addr(), &v2_header()).await, "192.0.2.1");
    assert_eq!(asked(proxy.addr(), b"").await, "127.0.0.1");
    let mut client = H1Client::connect(proxy.addr()).await;
    client.send(b"PROXY nonsense\r\n\r\n").await;
    assert!(client.rest(PATIENCE).await.is_empty(), "half a header is none");
}

/// As nginx's `set_real_ip_from` and HAProxy's `accept-proxy` behind an ACL.
#[tokio::test]
async fn headers_are_believed_of_the_proxies_that_are_named_alone() {
    let backend = mirror().await;
    let of = |mode: &str, from: &str| {
        Config::to("http1", &[backend.addr]).listener(&format!("proxyProtocol: {{ mode: {mode}, from: [{from}] }}"))
    };
    let near = "203.0.113.0/24, 127.0.0.0/8";
    for mode in ["strict", "optional"] {
        let proxy = Proxy::start(&of(mode, near)).await;
        assert_eq!(asked(proxy.addr(), V1).await, "192.0.2.1", "{mode}");

        let proxy = Proxy::start(&of(mode, "203.0.113.0/24")).await;
        let label = "reason=\"proxy-header-untrusted\"";
        let forged = [V1, &v2_header(), b"PROXY UNKNOWN\r\n", b"PROXY nonsense\r\n"];
        for (refused, header) in (1u32..).zip(forged) {
            let mut client = H1Client::connect(proxy.addr()).await;
            let bytes = [header, b"GET / HTTP/1.1\r\nhost: a.example\r\n\r\n"].concat();
            client.send(bytes).await;
            assert!(client.rest(PATIENCE).await.is_empty(), "{mode}: no answer to {header:?}");
            counted(&proxy, "outrigger_tls_refused_connections_total", &[label], refused.into()).await;
        }
        match mode {
            "optional" => assert_eq!(asked(proxy.addr(), b"").await, "127.0.0.1", "without a header it is taken"),
            _ => {
                let mut client = H1Client::connect(proxy.addr()).await;
                assert!(client.rest(PATIENCE).await.is_empty(), "without a header it is closed as well");
            }
        }
    }
}

/// Where the system knows where a connection was going, nobody else says it. Here it is not redirected, but has come to an
/// address of many, as with TPROXY.
#[tokio::test]
async fn a_header_does_not_say_where_a_redirected_connection_was_going() {
    let (log, folder) = (|folder: &std::path::Path| folder.join("log"), tempfile::tempdir().unwrap());
    let backend = mirror().await;
    let config = Config::to("http1", &[backend.addr])
        .top(&format!("accessLog: {{ path: \"{}\" }}", log(folder.path()).display()))
        .listener("bind: \"0.0.0.0:$PORT_in\"")
        .listener("proxyProtocol: strict")
        .listener("interception: { mode: tproxy }")
        .listener("authorization: where")
        .top("authorization: { where: { default: deny, rules: [{ name: public, action: allow, to: [{ ports: [443] }] }] } }");
    let proxy = Proxy::start(&config).await;
    let mut client = H1Client::connect(proxy.addr()).await;
    client.send([V1, b"GET / HTTP/1.1\r\nhost: a.example\r\n\r\n"].concat()).await;
    assert_eq!(client.response().await.status, 403, "the port in the header opens nothing");
    let lines = || std::fs::read_to_string(log(folder.path())).unwrap_or_default();
    eventually(PATIENCE, "a line", || lines().contains('\n')).await;
    let line: serde_json::Value = serde_json::from_str(lines().lines().next().unwrap()).unwrap();
    assert_eq!(line["downstream_remote_address"], "192.0.2.1:1234", "who calls is believed: {line}");
}

#[tokio::test]
async fn a_server_may_speak_first_where_a_header_is_optional() {
    let greeting = server(|mut stream| async move {
        stream.write_all(b"220 ready").await.ok();
        stream.shutdown().await.ok();
    })
    .await;
    let config = tcp(&[greeting]).listener("proxyProtocol: optional").listener("timeouts: { detect: 200ms }");
    let proxy = Proxy::start(&config).await;
    assert_eq!(all(&mut connect(proxy.addr()).await).await, "220 ready");
    let mut client = connect(proxy.addr()).await;
    client.write_all(V1).await.unwrap();
    assert_eq!(all(&mut client).await, "220 ready");
}

#[tokio::test]
async fn the_header_comes_before_tls() {
    let (mesh, backend) = (Mesh::new(), mirror().await);
    let config = Config::to("http1", &[backend.addr])
        .top(&mesh.identity("shop/web"))
        .listener("proxyProtocol: strict")
        .listener("tls: { mode: strict }");
    let proxy = Proxy::start(&config).await;
    for header in [V1.to_vec(), v2_header()] {
        let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
        stream.write_all(&header).await.unwrap();
        let client = TlsClient::with(&mesh.svid("shop/cart"));
        let mut client = client.over(stream).await.expect("a handshake").h1().await;
        assert_eq!(client.get("/").await.text(), "192.0.2.1");
    }
    assert!(TlsClient::with(&mesh.svid("shop/cart")).dial(proxy.addr()).await.is_err(), "without a header");
}

/// Takes one connection and returns what came first.
async fn heard(listener: &TcpListener, count: usize) -> Vec<u8> {
    let (mut stream, _) = within(PATIENCE, "a connection", listener.accept()).await.unwrap();
    let mut bytes = vec![0; count];
    within(PATIENCE, "the bytes", stream.read_exact(&mut bytes)).await.unwrap();
    bytes
}

#[tokio::test]
async fn a_cluster_that_asks_for_it_is_told_who_calls() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let endpoint = listener.local_addr().unwrap();
    let proxy = Proxy::start(&tcp(&[endpoint]).upstream("connection: { proxyProtocol: v1 }")).await;
    let mut client = connect(proxy.addr()).await;
    client.write_all(b"hello").await.unwrap();
    let (from, to) = (client.local_addr().unwrap(), proxy.addr());
    let expected = format!("PROXY TCP4 {} {} {} {}\r\nhello", from.ip(), to.ip(), from.port(), to.port());
    assert_eq!(String::from_utf8(heard(&listener, expected.len()).await).unwrap(), expected);

    let proxy = Proxy::start(&tcp(&[endpoint]).upstream("connection: { proxyProtocol: v2 }")).await;
    let mut client = connect(proxy.addr()).await;
    client.write_all(b"hello").await.unwrap();
    let (from, to) = (client.local_addr().unwrap().port(), proxy.addr().port());
    let addresses = [&[127, 0, 0, 1, 127, 0, 0, 1][..], &from.to_be_bytes(), &to.to_be_bytes()].concat();
    let expected = [v2(0x21, 0x11, &addresses), b"hello".to_vec()].concat();
    assert_eq!(heard(&listener, expected.len()).await, expected);
}

#[tokio::test]
async fn a_check_of_health_speaks_for_nobody() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let endpoint = server(move |mut stream| {
        let tell = tell.clone();
        async move {
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).await.ok();
            tell.send(bytes).ok();
        }
    })
    .await;
    let config = tcp(&[endpoint])
        .upstream("connection: { proxyProtocol: v2 }")
        .upstream("healthCheck: { tcp: {}, interval: 100ms }");
    let _proxy = Proxy::start(&config).await;
    assert_eq!(within(PATIENCE, "a check", told.recv()).await.unwrap(), v2(0x20, 0, &[]));
}

/// Out of one proxy and into the next, before their mutual TLS: the application's proxy knows the first caller.
#[tokio::test]
async fn the_caller_is_known_across_two_proxies() {
    let (mesh, folder) = (Mesh::new(), tempfile::tempdir().unwrap());
    let log = folder.path().join("log");
    let inbound = tcp(&[echo().await])
        .top(&mesh.identity("shop/db"))
        .top(&format!("accessLog: {{ path: \"{}\" }}", log.display()))
        .listener("tls: { mode: strict }")
        .listener("proxyProtocol: strict");
    let inbound = Proxy::start(&inbound).await;
    let outbound = tcp(&[inbound.addr()])
        .top(&mesh.identity("shop/cart"))
        .upstream(&format!("tls: {{ peerIdentities: [\"{}\"] }}", mesh.id("shop/db")))
        .upstream("connection: { proxyProtocol: v2 }");
    let outbound = Proxy::start(&outbound).await;
    let mut client = connect(outbound.addr()).await;
    let from = client.local_addr().unwrap();
    client.write_all(b"hello").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(all(&mut client).await, "hello");
    let lines = || std::fs::read_to_string(&log).unwrap_or_default();
    eventually(PATIENCE, "a line", || lines().contains('\n')).await;
    let line: serde_json::Value = serde_json::from_str(lines().lines().next().unwrap()).unwrap();
    assert_eq!(line["downstream_remote_address"], from.to_string(), "{line}");
    assert_eq!(line["downstream_local_address"], outbound.addr().to_string(), "{line}");
    assert_eq!(line["peerIdentity"], mesh.id("shop/cart"), "{line}");
}

/// Whatever comes, the proxy goes on.
#[tokio::test]
async fn garbage_costs_one_connection_each() {
    let backend = mirror().await;
    let config = Config::to("http1", &[backend.addr])
        .listener("proxyProtocol: optional")
        .listener("timeouts: { header: 300ms }");
    let proxy = Proxy::start(&config).await;
    let mut seed = 0x2545_F491_4F6C_DD1Du64;
    for round in 0..60 {
        let start: &[u8] = [&b""[..], b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n", b"PROXY TCP6 ::1 "][round % 4];
        let garbage: Vec<u8> = (0..round * 7)
            .map(|_| {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                seed as u8
            })
            .collect();
        let mut client = connect(proxy.addr()).await;
        client.write_all(&[start, &garbage].concat()).await.ok();
        client.shutdown().await.ok();
        let mut said = Vec::new();
        within(PATIENCE, "the end", client.read_to_end(&mut said)).await.ok();
        assert!(!String::from_utf8_lossy(&said).contains("200 OK"), "{garbage:?}");
    }
    tokio::time::timeout(ms(5000), async { assert_eq!(asked(proxy.addr(), V1).await, "192.0.2.1") }).await.unwrap();
}

/// A listener that is given connections by another one has a limit of its own.
#[tokio::test]
async fn connections_that_another_listener_has_caught_count_as_well() {
    let config = tcp(&[echo().await])
        .listener("bind: \"0.0.0.0:$PORT_in\"")
        .listener("interception: { mode: tproxy }")
        .add_listener("caught")
        .listener("protocol: tcp")
        .listener("tcp: { backendRefs: [{ cluster: raw }] }")
        .listener("intercepts: [{ addresses: [127.0.0.2] }]")
        .listener("maxConnections: 2");
    let proxy = Proxy::start(&config).await;
    let there = SocketAddr::from(([127, 0, 0, 2], proxy.addr().port()));
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut stream = connect(there).await;
        stream.write_all(b"x").await.unwrap();
        within(PATIENCE, "an echo", stream.read_exact(&mut [0])).await.unwrap();
        open.push(stream);
    }
    let mut third = connect(there).await;
    assert!(!matches!(within(PATIENCE, "the end", third.read(&mut [0])).await, Ok(1..)));
    let label = ["listener=\"caught\"", "reason=\"too-many-connections\""];
    counted(&proxy, "outrigger_tls_refused_connections_total", &label, 1.0).await;
    connect(proxy.addr()).await.write_all(b"x").await.unwrap();
    drop(open.pop());
    within(PATIENCE, "a place that is free", async {
        loop {
            let mut stream = connect(there).await;
            stream.write_all(b"x").await.ok();
            if matches!(stream.read(&mut [0]).await, Ok(1)) {
                return;
            }
        }
    })
    .await;
}
