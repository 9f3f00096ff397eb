//! Connections handed on by server name: the proxy neither ends nor sees into their TLS.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{client_hello, refused};
use crate::support::tls::TlsFront;
use crate::support::{
    Config, Conn, H1Backend, H1Client, H2Backend, Mesh, PATIENCE, Proxy, TlsClient, TlsServer, within,
};

struct Passing {
    mesh: Mesh,
    fronts: Vec<TlsFront>,
    _backends: Vec<H1Backend>,
    proxy: Proxy,
    serials: Vec<u64>,
}

/// A listener that hands on `db.example` and `*.shop.example` to servers of their own.
async fn passing(more: &str) -> Passing {
    let mesh = Mesh::new();
    let (mut fronts, mut backends, mut serials) = (Vec::new(), Vec::new(), Vec::new());
    for name in ["db", "shop"] {
        let credential = mesh.issuing.issue(&crate::support::pki::Leaf::new().dns(name));
        serials.push(credential.serial);
        let backend = H1Backend::named(name).await;
        fronts.push(TlsServer::asking(&credential).front(backend.addr).await);
        backends.push(backend);
    }
    let tls = format!(
        "tls: {{ mode: passthrough, passthrough: [{{ hostnames: [db.example], backendRefs: [{{ cluster: db }}] }}, \
         {{ hostnames: [\"*.shop.example\"], backendRefs: [{{ cluster: shop }}] }}]{more} }}"
    );
    let config = Config::new()
        .listener(&tls)
        .routes("- rules: [{ filters: [{ directResponse: { status: 418 } }] }]")
        .cluster("db", "http1", &[fronts[0].addr])
        .cluster("shop", "http1", &[fronts[1].addr]);
    let proxy = Proxy::start(&config).await;
    Passing { mesh, fronts, _backends: backends, proxy, serials }
}

#[tokio::test]
async fn the_servers_own_tls_reaches_the_client_and_the_clients_reaches_the_server() {
    let passing = passing("").await;
    let credential = passing.mesh.svid("shop/cart");
    for (name, at) in [("db.example", 0), ("x.shop.example", 1), ("X.Shop.Example", 1), ("a.b.shop.example", 1)] {
        let client = TlsClient::with(&credential).sni(name);
        let dialled = client.dial(passing.proxy.addr()).await.expect("a connection");
        assert_eq!(dialled.session.peer_serial(), passing.serials[at], "{name}: the server's own certificate");
        let reply = dialled.h1().await.get("/").await;
        assert_eq!(reply.text(), ["db", "shop"][at], "{name}");
        let seen = passing.fronts[at].sessions().pop().expect("a session");
        assert_eq!(seen.peer_uris(), [passing.mesh.id("shop/cart")], "{name}: the client's own certificate");
    }
    // The end of a connection is counted once it has ended on both sides.
    let name = "outrigger_tls_passthrough_connections_total";
    let start = std::time::Instant::now();
    while passing.proxy.metric(name, &["listener=\"in\""]).await < 3.5 {
        assert!(start.elapsed() < PATIENCE, "four connections are counted");
        tokio::time::sleep(crate::support::ms(5)).await;
    }
}

#[tokio::test]
async fn an_unknown_name_or_none_is_refused_and_so_is_plaintext() {
    let passing = passing("").await;
    let addr = passing.proxy.addr();
    for name in ["other.example", "shop.example", "xshop.example", "db.example.evil"] {
        let client = TlsClient::anonymous().sni(name);
        assert!(client.dial(addr).await.is_err(), "{name}");
    }
    refused(&passing.proxy, "unrecognized-name", 4.0).await;
    assert!(TlsClient::anonymous().dial(addr).await.is_err(), "no name");
    refused(&passing.proxy, "unrecognized-name", 5.0).await;
    let mut plain = H1Client::connect(addr).await;
    plain.send("GET / HTTP/1.1\r\nhost: db.example\r\n\r\n").await;
    assert!(plain.rest(PATIENCE).await.is_empty(), "no answer in plaintext");
    refused(&passing.proxy, "plaintext", 1.0).await;
    assert!(passing.fronts.iter().all(|front| front.seen().is_empty()), "nobody was reached");
}

/// A ClientHello may come in any pieces, also of several TLS records; key shares against quantum computers make it
/// larger than a packet.
#[tokio::test]
async fn a_client_hello_in_pieces_is_understood() {
    let passing = passing("").await;
    let hello = client_hello("db.example");
    assert!(hello.len() > 1400, "larger than a packet: {}", hello.len());
    // Byte by byte, and as records of 100 bytes each (RFC 8446 section 5.1 lets a message span records).
    let mut records = Vec::new();
    for piece in hello[5..].chunks(100) {
        records.extend_from_slice(&[22, 3, 1, 0, piece.len() as u8]);
        records.extend_from_slice(piece);
    }
    for (what, bytes, step) in [("bytes", &hello, 1), ("records", &records, records.len()), ("both", &records, 7)] {
        let mut stream = TcpStream::connect(passing.proxy.addr()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        for piece in bytes.chunks(step) {
            stream.write_all(piece).await.unwrap();
        }
        let mut first = [0; 6];
        within(PATIENCE, what, stream.read_exact(&mut first)).await.expect("the server answers");
        assert_eq!((first[0], first[5]), (22, 2), "{what}: a ServerHello");
    }
}

#[tokio::test]
async fn a_hello_that_never_comes_is_given_up_in_time() {
    let passing = passing(", handshakeTimeout: 300ms").await;
    let hello = client_hello("db.example");
    for bytes in [&b""[..], &hello[..1], &hello[..hello.len() / 2]] {
        let mut stream = H1Client::connect(passing.proxy.addr()).await;
        stream.send(bytes).await;
        let start = std::time::Instant::now();
        stream.rest(PATIENCE).await;
        assert!(start.elapsed() < Duration::from_secs(5), "closed after {:?}", start.elapsed());
    }
    assert!(passing.fronts.iter().all(|front| front.seen().is_empty()));
}

/// Each direction ends by itself: a client that has said everything may still listen.
#[tokio::test]
async fn half_of_a_connection_may_end_first() {
    // Behind the name is no TLS at all, only bytes: the proxy must not care once it knows the name.
    let backend = H1Backend::start(|mut conn: Conn| async move {
        let all = conn.wire().rest().await;
        conn.send(format!("got {}", all.len())).await.ok();
    })
    .await;
    let config = Config::new()
        .listener(
            "tls: { mode: passthrough, passthrough: [{ hostnames: [db.example], backendRefs: [{ cluster: db }] }] }",
        )
        .routes("- rules: [{ filters: [{ directResponse: { status: 418 } }] }]")
        .cluster("db", "http1", &[backend.addr]);
    let proxy = Proxy::start(&config).await;
    let hello = client_hello("db.example");
    let mut client = H1Client::connect(proxy.addr()).await;
    client.send(&hello).await;
    client.send(vec![7; 100_000]).await;
    client.wire.finish();
    let said = client.rest(PATIENCE).await;
    assert_eq!(String::from_utf8_lossy(&said), format!("got {}", hello.len() + 100_000));
}

#[tokio::test]
async fn megabytes_pass_unchanged_both_ways() {
    let mesh = Mesh::new();
    let backend = H2Backend::start(|mut call| async move {
        if let Ok((body, _)) = call.body().await {
            call.reply(200, body).await;
        }
    })
    .await;
    let front = TlsServer::with(&mesh.svid("shop/db")).front(backend.addr).await;
    let config = Config::new()
        .listener("tls: { mode: passthrough, passthrough: [{ hostnames: [\"*\"], backendRefs: [{ cluster: db }] }] }")
        .routes("- rules: [{ filters: [{ directResponse: { status: 418 } }] }]")
        .cluster("db", "http2", &[front.addr]);
    let proxy = Proxy::start(&config).await;
    let body: Vec<u8> = (0..8_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let client = TlsClient::anonymous().sni("any.example").h2(proxy.addr()).await;
    let reply = client.send(crate::support::h2_client::post("/"), body.clone(), None).await.expect("an answer");
    assert!(reply.body == body, "all of it, unchanged");
    assert_eq!(TlsClient::anonymous().h2(proxy.addr()).await.get("/").await.status, 200, "`*` needs no name");
}

#[tokio::test]
async fn an_unreachable_server_closes_the_connection() {
    let nobody = crate::support::h1_backend::Refusing::new();
    let config = Config::new()
        .listener("tls: { mode: passthrough, passthrough: [{ hostnames: [\"*\"], backendRefs: [{ cluster: db }] }] }")
        .routes("- rules: [{ filters: [{ directResponse: { status: 418 } }] }]")
        .cluster("db", "http1", &[nobody.addr]);
    let proxy = Proxy::start(&config).await;
    let mut client = H1Client::connect(proxy.addr()).await;
    client.send(client_hello("db.example")).await;
    client.rest(PATIENCE).await;
    assert!(proxy.metric("outrigger_upstream_connect_failures_total", &["cluster=\"db\""]).await >= 1.0);
}

/// Names that are handed on are looked for before a listener's own TLS.
#[tokio::test]
async fn a_strict_listener_may_hand_some_names_on() {
    let mesh = Mesh::new();
    let backend = H1Backend::named("terminated").await;
    let behind = H1Backend::named("handed on").await;
    let credential = mesh.svid("shop/db");
    let front = TlsServer::with(&credential).front(behind.addr).await;
    let config = Config::to("http1", &[backend.addr])
        .top(&mesh.identity("shop/web"))
        .listener("tls: { mode: strict, passthrough: [{ hostnames: [db.example], backendRefs: [{ cluster: db }] }] }")
        .cluster("db", "http1", &[front.addr]);
    let proxy = Proxy::start(&config).await;
    let client = TlsClient::with(&mesh.svid("shop/cart"));
    assert_eq!(client.clone().sni("db.example").h1(proxy.addr()).await.get("/").await.text(), "handed on");
    assert_eq!(client.clone().sni("other.example").served(proxy.addr()).await.1.text(), "terminated");
    assert_eq!(client.served(proxy.addr()).await.1.text(), "terminated");
}
