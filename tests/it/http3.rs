//! HTTP/3 listeners: the same listener over UDP, with the same identities, limits, reloads and drains as over TCP. The
//! client is small and our own; foreign ones are in `h3_clients`.

mod abuse;
mod client;
mod early;
mod lifecycle;
pub mod relay;

use std::sync::Arc;

use tokio::task::JoinSet;

use self::client::H3Client;
use crate::support::{
    Config, Conn, H1Backend, Mesh, PATIENCE, Proxy, TlsClient, eventually, h2_client, response, within,
};

/// A proxy whose listener `in` has HTTP/3 and leads to a backend.
struct Edge {
    mesh: Mesh,
    backend: H1Backend,
    proxy: Proxy,
}

impl Edge {
    async fn start() -> Self {
        Self::to(H1Backend::ok().await, "").await
    }

    async fn to(backend: H1Backend, more: &str) -> Self {
        let mesh = Mesh::new();
        let config = config(&mesh, &backend);
        let config = if more.is_empty() { config } else { config.listener(more) };
        let proxy = Proxy::start(&config).await;
        Self { mesh, backend, proxy }
    }

    fn caller(&self) -> TlsClient {
        TlsClient::with(&self.mesh.svid("shop/caller"))
    }

    async fn connect(&self) -> H3Client {
        H3Client::connect(&self.caller(), self.proxy.addr()).await
    }

    async fn open(&self) -> f64 {
        self.proxy.metric("outrigger_quic_connections", &["listener=\"in\""]).await
    }
}

fn config(mesh: &Mesh, backend: &H1Backend) -> Config {
    Config::to("http1", &[backend.addr])
        .top(&mesh.identity("shop/web"))
        .top("workers: 4")
        .top("accessLog: stdout")
        .listener("tls: { mode: strict }")
        .listener("http3: true")
}

/// Answers with the body that came, or with as many bytes as the path says, which it sends in small parts.
async fn echo() -> H1Backend {
    H1Backend::start(|mut conn: Conn| async move {
        while let Some(request) = conn.request().await {
            match request.target.trim_start_matches('/').parse::<usize>() {
                Ok(length) => {
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
                    if conn.send(head).await.is_err() {
                        return;
                    }
                    for start in (0..length).step_by(PART) {
                        if conn.send(pattern(start, PART.min(length - start))).await.is_err() {
                            return;
                        }
                    }
                }
                Err(_) => conn.send(response(200, &[], &request.body)).await.expect("sent"),
            }
        }
    })
    .await
}

const PART: usize = 16 * 1024;

/// Bytes that tell where they belong.
fn pattern(start: usize, length: usize) -> Vec<u8> {
    (start..start + length).map(|at| u8::try_from(at / 7 % 251).expect("a byte")).collect()
}

#[tokio::test]
async fn a_request_is_answered_logged_and_counted_as_http_3() {
    let edge = Edge::start().await;
    let client = edge.connect().await;
    let reply = client.get("/a").await;
    assert_eq!((reply.status, &reply.body[..]), (200, &b"ok"[..]));
    let request = edge.backend.only_request();
    assert_eq!(request.head.get("x-forwarded-proto"), Some("https"));
    assert_eq!(edge.open().await, 1.0);
    assert_eq!(edge.proxy.metric("outrigger_connections", &["listener=\"in\""]).await, 1.0);
    let handshakes = edge.proxy.metric("outrigger_tls_handshakes_total", &["listener=\"in\""]).await;
    assert_eq!(handshakes, 1.0);
    let caller = edge.mesh.id("shop/caller");
    let logged = |line: &str| line.contains("\"protocol\":\"HTTP/3\"") && line.contains(&caller);
    eventually(PATIENCE, "the log", || edge.proxy.stdout().lines().any(logged)).await;
}

#[tokio::test]
async fn answers_over_tcp_advertise_it_and_answers_over_quic_do_not_have_to() {
    let edge = Edge::start().await;
    let addr = edge.proxy.addr();
    let mut over_h1 = edge.caller().h1(addr).await;
    let told = over_h1.get("/").await.head.get("alt-svc").map(str::to_owned);
    assert_eq!(told, Some(format!("h3=\":{}\"; ma=86400", addr.port())));
    let over_h2 = edge.caller().h2(addr).await;
    let reply = over_h2.fetch(h2_client::get("/")).await.expect("an answer");
    assert_eq!(reply.header("alt-svc"), told.as_deref());
}

#[tokio::test]
async fn what_the_configuration_and_the_application_say_of_alternatives_counts() {
    let backend = H1Backend::answering(|request| {
        let fields: &[(&str, &str)] = if request.target == "/own" { &[("alt-svc", "clear")] } else { &[] };
        response(200, fields, b"")
    })
    .await;
    let mesh = Mesh::new();
    let with = |http3: &str| {
        Config::to("http1", &[backend.addr])
            .top(&mesh.identity("shop/web"))
            .listener("tls: { mode: strict }")
            .listener(&format!("http3: {http3}"))
    };
    let proxy = Proxy::start(&with("{ advertise: 8443, maxAge: 10m }")).await;
    let mut client = TlsClient::with(&mesh.svid("shop/caller")).h1(proxy.addr()).await;
    assert_eq!(client.get("/").await.head.get("alt-svc"), Some("h3=\":8443\"; ma=600"));
    assert_eq!(client.get("/own").await.head.get("alt-svc"), Some("clear"));
    proxy.replace_config(&with("{ maxAge: 0s }"));
    loop {
        // The same connection, which the change does not cost.
        if client.get("/").await.head.get("alt-svc").is_none() {
            break;
        }
        tokio::time::sleep(crate::support::ms(5)).await;
    }
}

#[tokio::test]
async fn bodies_of_many_megabytes_arrive_whole_in_both_directions() {
    const SIZE: usize = 24 * 1024 * 1024;
    let edge = Edge::to(echo().await, "").await;
    let client = edge.connect().await;
    let body = pattern(0, SIZE / 4);
    let reply = client.try_send("POST", "/up", &body).await.expect("an answer");
    assert!(reply.status == 200 && reply.body == body, "{} {}", reply.status, reply.body.len());
    let reply = client.get(&format!("/{SIZE}")).await;
    assert!(reply.status == 200 && reply.body == pattern(0, SIZE), "{} {}", reply.status, reply.body.len());
}

#[tokio::test]
async fn a_hundred_requests_at_once_share_a_connection() {
    let edge = Edge::to(echo().await, "").await;
    let client = Arc::new(edge.connect().await);
    let mut requests = JoinSet::new();
    for number in 0..100 {
        let client = Arc::clone(&client);
        requests.spawn(async move {
            let reply =
                client.try_send("POST", "/echo", format!("request {number}").as_bytes()).await.expect("an answer");
            assert_eq!((reply.status, String::from_utf8(reply.body)), (200, Ok(format!("request {number}"))));
        });
    }
    within(PATIENCE, "all answers", requests.join_all()).await;
    assert_eq!(edge.open().await, 1.0);
}

#[tokio::test]
async fn a_strict_listener_refuses_a_caller_without_a_certificate_and_says_why() {
    let edge = Edge::start().await;
    let refused = match H3Client::try_connect(&TlsClient::anonymous(), edge.proxy.addr()).await {
        Err(error) => error,
        // The server judges last.
        Ok(client) => {
            assert!(client.try_send("GET", "/", b"").await.is_err());
            client.connection.close_reason().expect("closed")
        }
    };
    let quinn::ConnectionError::ConnectionClosed(close) = refused else { panic!("{refused:?}") };
    // CRYPTO_ERROR with the alert certificate_required.
    assert_eq!(u64::from(close.error_code), 0x100 + 116, "{close:?}");
    crate::tls::refused(&edge.proxy, "no-certificate", 1.0).await;
    assert!(edge.backend.requests().is_empty());
    assert_eq!(edge.proxy.metric("outrigger_connections", &["listener=\"in\""]).await, 0.0);
}

#[tokio::test]
async fn a_caller_that_changes_its_port_in_the_middle_of_a_download_finishes_it() {
    const SIZE: usize = 8 * 1024 * 1024;
    let edge = Edge::to(echo().await, "").await;
    let client = edge.connect().await;
    let mut exchange = client.open("GET", &format!("/{SIZE}")).await.expect("a stream");
    exchange.send.finish().expect("open");
    assert_eq!(exchange.status().await.expect("an answer"), 200);
    let (mut body, mut moves) = (Vec::new(), 0);
    while let Some(data) = within(PATIENCE, "more", exchange.data()).await.expect("more") {
        body.extend_from_slice(&data);
        // Ten moves among four workers: hardly ever all to the same.
        if body.len() > (moves + 1) * SIZE / 12 && moves < 10 {
            client.move_away();
            moves += 1;
        }
    }
    assert_eq!((moves, body.len()), (10, SIZE));
    assert!(body == pattern(0, SIZE));
    assert_eq!(client.get("/1").await.status, 200);
    assert!(edge.proxy.metric("outrigger_quic_datagrams_handed_over_total", &[]).await > 0.0);
    assert_eq!(edge.open().await, 1.0);
}

#[tokio::test]
async fn garbage_is_ignored() {
    let edge = Edge::start().await;
    let client = edge.connect().await;
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for number in 0..2000_usize {
        let datagram: Vec<u8> = (0..number % 1300)
            .map(|at| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                // A third looks like a first packet of version 1.
                match at {
                    0 if number.is_multiple_of(3) => 0xc0 | (state & 0x0f) as u8,
                    1..=3 if number.is_multiple_of(3) => 0,
                    4 if number.is_multiple_of(3) => 1,
                    _ => (state & 0xff) as u8,
                }
            })
            .collect();
        socket.send_to(&datagram, edge.proxy.addr()).expect("sent");
        if number.is_multiple_of(500) {
            assert_eq!(client.get("/").await.status, 200);
        }
    }
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(edge.connect().await.get("/").await.status, 200);
}
