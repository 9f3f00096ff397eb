//! Callers that abuse HTTP/3 or the port below it: memory stays where it is, and others are served all the while.

use std::collections::HashMap;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::{ConnectionError, Endpoint, RecvStream, SendStream, TransportConfig, VarInt};

use super::client::{H3Client, head, section};
use super::{Edge, echo};
use crate::support::websocket::{BINARY, EchoServer, Frame, WebSocket};
use crate::support::{Config, Conn, H1Backend, Mesh, PATIENCE, Proxy, TlsClient, abuse, gate, ms, response, within};

const CANCELLED: u32 = 0x10c;
const EXCESSIVE_LOAD: u64 = 0x107;

/// Runs an abuse while another caller, on a connection of its own, asks again and again; then a new one comes.
async fn abused<T>(name: &str, edge: &Edge, abuse: impl Future<Output = T>) -> T {
    let steady = edge.connect().await;
    let serve = async || assert_eq!(steady.get("/1").await.status, 200, "{name}: another caller is served");
    let outcome = crate::support::abuse::abused(name, &edge.proxy, serve, abuse).await;
    assert_eq!(edge.connect().await.get("/1").await.status, 200, "{name}: a new caller is served");
    outcome
}

/// A proxy whose cluster takes as many requests as are sent here: its limits are not what is looked at.
async fn edge(more: &str) -> Edge {
    Edge::to(echo().await, more).await
}

/// Opens streams and has each be reset by `ruin`, up to `count`. Gives how many, and with which code the proxy ended it.
async fn resets(
    client: &H3Client,
    count: usize,
    mut ruin: impl AsyncFnMut(&mut SendStream, &mut RecvStream),
) -> (usize, Option<u64>) {
    for number in 0..count {
        match client.connection.open_bi().await {
            Ok((mut send, mut receive)) => ruin(&mut send, &mut receive).await,
            Err(ConnectionError::ApplicationClosed(close)) => return (number, Some(close.error_code.into_inner())),
            Err(error) => panic!("after {number}: {error}"),
        }
    }
    (count, None)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_streams_that_are_reset_at_once_are_cut_off() {
    gate::exclusive();
    let edge = edge("").await;
    let client = edge.connect().await;
    let (opened, code) = abused("resets", &edge, async {
        resets(&client, 10_000, async |send, receive| {
            send.write_all(&head("GET", "/1")).await.ok();
            send.reset(CANCELLED.into()).ok();
            receive.stop(CANCELLED.into()).ok();
        })
        .await
    })
    .await;
    println!("cut off after {opened}");
    assert_eq!(code, Some(EXCESSIVE_LOAD), "after {opened}");
}

/// Each is a request, sent upstream, and cancelled when it is under way there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_requests_that_are_cancelled_when_they_are_under_way_cost_the_others_nothing() {
    gate::exclusive();
    let edge = edge("").await;
    let client = edge.connect().await;
    let (cancelled, code) = abused("cancelled requests", &edge, async {
        for round in 0..100 {
            let mut streams = Vec::new();
            for _ in 0..100 {
                match client.open("POST", "/echo").await {
                    Ok(exchange) => streams.push(exchange),
                    Err(ConnectionError::ApplicationClosed(close)) => {
                        return (100 * round, Some(close.error_code.into_inner()));
                    }
                    Err(error) => panic!("round {round}: {error}"),
                }
            }
            // When this is answered those before it are under way.
            if client.try_send("GET", "/1", b"").await.is_err() {
                let closed = client.connection.closed().await;
                let ConnectionError::ApplicationClosed(close) = closed else { panic!("round {round}: {closed:?}") };
                return (100 * round, Some(close.error_code.into_inner()));
            }
            // Callers that cancel sooner are sent away.
            tokio::time::sleep(ms(25)).await;
            for exchange in &mut streams {
                exchange.send.reset(CANCELLED.into()).ok();
                exchange.stop(CANCELLED);
            }
        }
        (10_000, None)
    })
    .await;
    println!("{cancelled} cancelled, {code:?}, {} connections to the backend", edge.backend.connections());
    assert_eq!(code, None, "after {cancelled}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_that_never_end_are_given_up() {
    gate::exclusive();
    let edge = edge("timeouts: { header: 500ms }").await;
    let client = edge.connect().await;
    let streams = abused("slow heads", &edge, async {
        let mut streams = Vec::new();
        let whole = head("GET", "/1");
        for _ in 0..1000 {
            let (mut send, receive) = client.connection.open_bi().await.expect("a stream");
            send.write_all(&whole[..3]).await.expect("sent");
            streams.push((send, receive));
        }
        // A byte now and then buys no time.
        let start = Instant::now();
        for at in 3..whole.len().min(20) {
            tokio::time::sleep(ms(50)).await;
            for (send, _) in &mut streams {
                send.write_all(&whole[at..=at]).await.ok();
            }
        }
        for (send, receive) in &mut streams {
            let answer = within(PATIENCE, "the end", receive.read_to_end(4096)).await.expect("an answer");
            assert!(answer.ends_with(b"did not arrive in time.\n"), "{}", answer.escape_ascii());
            send.reset(CANCELLED.into()).ok();
        }
        start.elapsed()
    })
    .await;
    assert!(streams < Duration::from_secs(20), "{streams:?}");
    assert_eq!(client.get("/1").await.status, 200, "its places are free again");
    assert!(edge.proxy.metric("outrigger_requests_total", &["class=\"4xx\""]).await >= 1000.0);
}

/// A caller that takes little at a time.
async fn narrow(edge: &Edge) -> H3Client {
    let mut transport = TransportConfig::default();
    transport.stream_receive_window(VarInt::from_u32(16 * 1024));
    let mut config = edge.caller().quic();
    config.transport_config(Arc::new(transport));
    H3Client::try_connect_with(config, edge.proxy.addr()).await.expect("a connection over QUIC")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_reads_nothing_holds_its_own_answers_back_and_nothing_else() {
    gate::exclusive();
    let edge = edge("").await;
    let client = narrow(&edge).await;
    let streams = abused("unread answers", &edge, async {
        let mut streams = Vec::new();
        for _ in 0..100 {
            let mut exchange = client.open("GET", &format!("/{}", 8 << 20)).await.expect("a stream");
            exchange.send.finish().expect("open");
            assert_eq!(exchange.status().await.expect("an answer"), 200);
            streams.push(exchange);
        }
        // All that fits has come when nothing comes any more.
        let received = || client.connection.stats().udp_rx.bytes;
        loop {
            let before = received();
            tokio::time::sleep(ms(300)).await;
            if received() < before + 10_000 {
                break streams;
            }
        }
    })
    .await;
    assert!(client.connection.close_reason().is_none());
    drop(streams);
}

/// A backend that answers `/1` and never reads the body of anything else.
async fn unwilling() -> H1Backend {
    H1Backend::start(|mut conn: Conn| async move {
        while let Some(request) = conn.request_head().await {
            if request.target != "/1" {
                std::future::pending::<()>().await;
            }
            conn.send(response(200, &[], b"x")).await.ok();
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_that_no_backend_reads_are_held_back() {
    gate::exclusive();
    let edge = Edge::to(unwilling().await, "").await;
    let client = edge.connect().await;
    let (taken, streams) = abused("held uploads", &edge, async {
        let (mut taken, mut streams) = (0_usize, Vec::new());
        let data = vec![b'x'; 64 * 1024];
        // Until a whole second brings no room, on any stream.
        while let Ok(opened) = tokio::time::timeout(ms(1000), client.open("POST", "/hold")).await {
            let mut exchange = opened.expect("a stream");
            while let Ok(put) = tokio::time::timeout(ms(200), exchange.put(&data)).await {
                put.expect("sent");
                taken += data.len();
            }
            streams.push(exchange);
        }
        (taken, streams)
    })
    .await;
    println!("{} KiB were taken of {} uploads", taken >> 10, streams.len());
    // The connection's window, and what the kernel holds for each of the backend's connections.
    assert!(taken < 256 << 20, "{taken}");
}

/// A WebSocket server echoes what no caller reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tunnels_whose_caller_reads_nothing_are_held_back() {
    gate::exclusive();
    let (mesh, server) = (Mesh::new(), EchoServer::h1().await);
    let config = Config::to("http1", &[server.addr])
        .top(&mesh.identity("shop/web"))
        .listener("tls: { mode: strict }")
        .listener("http3: true");
    let proxy = Proxy::start(&config).await;
    let caller = TlsClient::with(&mesh.svid("shop/caller"));
    let dialled = caller.dial(proxy.addr()).await.expect("a TLS connection");
    let (_, mut other) = WebSocket::h1_over(dialled.stream, "/chat", "").await;
    let client = H3Client::connect(&caller, proxy.addr()).await;
    let head = section(&[
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":authority", "a.example"),
        (":path", "/chat"),
        ("sec-websocket-version", "13"),
    ]);
    let message = Frame::new(BINARY, vec![b'x'; 64 * 1024]).encode(Some([0; 4]));
    let serve = async || other.echoes("still served").await;
    let tunnels = abuse::abused("unread tunnels", &proxy, serve, async {
        let mut tunnels = Vec::new();
        while tunnels.len() < 8 {
            let Ok(opened) = tokio::time::timeout(ms(1000), client.open_with(&head)).await else { break };
            let mut tunnel = opened.expect("a stream");
            assert_eq!(tunnel.status().await.expect("an answer"), 200);
            while let Ok(put) = tokio::time::timeout(ms(200), tunnel.put(&message)).await {
                put.expect("sent");
            }
            tunnels.push(tunnel);
        }
        tunnels
    })
    .await;
    assert!(tunnels.len() > 1, "{}", tunnels.len());
    drop(tunnels);
    client.connection.close(0x100_u32.into(), b"");
    let start = Instant::now();
    while proxy.metric("outrigger_tunnels", &[]).await != 1.0 {
        assert!(start.elapsed() < PATIENCE, "tunnels are left");
        tokio::time::sleep(ms(10)).await;
    }
}

/// First packets of many clients, real ones and whole, each with all that its client sends before it is answered.
async fn first_packets(caller: &TlsClient, count: usize) -> Vec<Vec<Vec<u8>>> {
    let hole = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let addr = hole.local_addr().expect("bound");
    let endpoint = Endpoint::client(([127, 0, 0, 1], 0).into()).expect("a port");
    let mut packets: HashMap<Vec<u8>, Vec<Vec<u8>>> = HashMap::new();
    let mut buffer = vec![0; 65_536];
    for number in 1..=count {
        let connecting = endpoint.connect_with(caller.quic(), addr, "127.0.0.1").expect("begun");
        while packets.len() < number {
            let length = within(PATIENCE, "a first packet", hole.recv(&mut buffer)).await.expect("received");
            let id = buffer[6..6 + usize::from(buffer[5])].to_vec();
            packets.entry(id).or_default().push(buffer[..length].to_vec());
        }
        // The rest of its first flight.
        while let Ok(Ok(length)) = tokio::time::timeout(ms(1), hole.recv(&mut buffer)).await {
            let id = buffer[6..6 + usize::from(buffer[5])].to_vec();
            packets.entry(id).or_default().push(buffer[..length].to_vec());
        }
        drop(connecting);
    }
    packets.into_values().collect()
}

/// Bytes that came back to sockets.
fn came_back(sockets: &[UdpSocket]) -> usize {
    let mut buffer = vec![0; 65_536];
    let mut bytes = 0;
    for socket in sockets {
        while let Ok(length) = socket.recv(&mut buffer) {
            bytes += length;
        }
    }
    bytes
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    socket.set_nonblocking(true).expect("set");
    socket
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_handshakes_that_nobody_ends_is_asked_for_its_addresses() {
    const CALLERS: usize = 1000;
    gate::exclusive();
    let (mesh, backend) = (Mesh::new(), echo().await);
    let config = Config::to("http1", &[backend.addr])
        .top(&mesh.identity("shop/web"))
        .listener("tls: { mode: strict, handshakeTimeout: 5s }")
        .listener("http3: true");
    let proxy = Proxy::start(&config).await;
    let edge = Edge { mesh, backend, proxy };
    let flights = first_packets(&edge.caller(), CALLERS).await;
    let (sent, returned) = abused("handshakes", &edge, async {
        let (mut sent, mut returned) = (0, 0);
        // A port each, as forged addresses would be, and none that listens to an answer for longer than this.
        for flights in flights.chunks(200) {
            let sockets: Vec<UdpSocket> = flights.iter().map(|_| socket()).collect();
            for (flight, socket) in flights.iter().zip(&sockets) {
                for datagram in flight {
                    sent += socket.send_to(datagram, edge.proxy.addr()).unwrap_or(0);
                }
            }
            tokio::time::sleep(ms(100)).await;
            returned += came_back(&sockets);
        }
        (sent, returned)
    })
    .await;
    println!("{sent} bytes sent, {returned} came back");
    assert!(
        returned <= 3 * sent,
        "what is sent to an address that was not shown is at most three times what came from it"
    );
    let asked = edge.proxy.metric("outrigger_quic_retries_total", &[]).await;
    assert!(asked > 0.0, "callers beyond the first are asked for their addresses");
    // Those that were begun are over when their time is.
    let start = Instant::now();
    while edge.proxy.metric("outrigger_connections", &["listener=\"in\""]).await > 3.0 {
        assert!(start.elapsed() < PATIENCE, "handshakes are left");
        tokio::time::sleep(ms(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_at_the_port_is_not_amplified_and_not_kept() {
    gate::exclusive();
    let edge = edge("").await;
    let (sent, returned) = abused("garbage", &edge, async {
        let sockets: Vec<UdpSocket> = (0..100).map(|_| socket()).collect();
        let (mut sent, mut returned) = (0, 0);
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for number in 0..20_000_usize {
            let length = usize::try_from(random() % 1400).expect("short");
            let mut datagram: Vec<u8> = (0..length).map(|_| (random() & 0xff) as u8).collect();
            // By turns: anything; the beginning of a first packet of version 1; of a version that nobody has; a packet of a
            // connection that nobody has.
            let beginning: &[u8] = match number % 4 {
                0 => &[],
                1 => &[0xc3, 0, 0, 0, 1, 8],
                2 => &[0xc3, 0x0a, 0x1a, 0x2a, 0x3a, 8],
                _ => &[0x43],
            };
            for (byte, wanted) in datagram.iter_mut().zip(beginning) {
                *byte = *wanted;
            }
            sent += sockets[number % 100].send_to(&datagram, edge.proxy.addr()).unwrap_or(0);
            if number % 200 == 199 {
                returned += came_back(&sockets);
                tokio::task::yield_now().await;
            }
        }
        tokio::time::sleep(ms(200)).await;
        (sent, returned + came_back(&sockets))
    })
    .await;
    println!("{sent} bytes sent, {returned} came back");
    assert!(returned <= sent, "{returned} for {sent}");
}

/// What one address sends is not what keeps another out: the limit of connections is the listener's, and those who showed
/// nothing are given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_say_nothing_end_when_they_are_idle() {
    gate::exclusive();
    let edge = edge("timeouts: { idle: 1s }").await;
    let clients = abused("silent connections", &edge, async {
        let mut clients = Vec::new();
        for _ in 0..100 {
            clients.push(edge.connect().await);
        }
        clients
    })
    .await;
    for client in &clients {
        let closed = within(PATIENCE, "the end", client.connection.closed()).await;
        assert!(!matches!(closed, ConnectionError::LocallyClosed), "{closed:?}");
    }
}
