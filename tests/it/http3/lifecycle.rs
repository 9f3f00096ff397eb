//! What a reload, a rotation and the end of a listener do to connections over QUIC.

use std::time::Duration;

use super::client::{Exchange, H3Client};
use super::relay::Relay;
use super::{Edge, config, echo};
use crate::support::pki::Leaf;
use crate::support::{Config, Conn, H1Backend, Mesh, PATIENCE, Proxy, TlsClient, eventually, ms, response, within};

/// Replaces the configuration and waits until it counts.
pub(super) async fn reload(proxy: &Proxy, config: &Config) {
    let before = proxy.metric("outrigger_config_reloads_total", &["result=\"applied\""]).await;
    proxy.replace_config(config);
    let start = std::time::Instant::now();
    while proxy.metric("outrigger_config_reloads_total", &["result=\"applied\""]).await <= before {
        assert!(start.elapsed() < PATIENCE, "the change counts\n{}", proxy.stderr());
        tokio::time::sleep(ms(5)).await;
    }
}

/// Sends requests one after the other until told to stop; every one has to be answered. How many there were.
async fn keep_asking(client: &H3Client, mut stop: tokio::sync::oneshot::Receiver<()>) -> usize {
    let mut answered = 0;
    while stop.try_recv().is_err() {
        assert_eq!(client.get("/").await.status, 200, "after {answered}");
        answered += 1;
    }
    answered
}

#[tokio::test]
async fn changes_of_the_configuration_cost_no_connection_and_no_request() {
    let edge = Edge::start().await;
    let client = edge.connect().await;
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let change = async {
        for number in 0..10 {
            let settings = format!("maxConnections: {}", 100 + number);
            reload(&edge.proxy, &config(&edge.mesh, &edge.backend).listener(&settings)).await;
            assert_eq!(edge.connect().await.get("/").await.status, 200);
        }
        stop.send(()).expect("it asks");
    };
    let (answered, ()) = tokio::join!(keep_asking(&client, stopped), change);
    assert!(answered > 10, "{answered}");
    assert!(client.connection.close_reason().is_none());
}

#[tokio::test]
async fn new_handshakes_show_the_newest_certificate_and_old_connections_go_on() {
    let edge = Edge::start().await;
    let client = edge.connect().await;
    let serial = |client: &H3Client| {
        let shown = client.connection.peer_identity().expect("shown");
        let shown = shown.downcast::<Vec<rustls::pki_types::CertificateDer<'static>>>().expect("certificates");
        shown[0].to_vec()
    };
    let first = serial(&client);
    let renewed = edge.mesh.issuing.issue(&Leaf::new().uri(&edge.mesh.id("shop/web")));
    edge.mesh.files.write_credential("shop-web", &renewed);
    let start = std::time::Instant::now();
    loop {
        let shown = serial(&edge.connect().await);
        if shown != first {
            assert_eq!(shown, renewed.certificates()[0].to_vec());
            break;
        }
        assert!(start.elapsed() < PATIENCE, "the new certificate is shown");
        tokio::time::sleep(ms(10)).await;
    }
    assert_eq!(client.get("/").await.status, 200);
}

#[tokio::test]
async fn http_3_comes_and_goes_with_the_configuration_and_tcp_does_not_notice() {
    let mesh = Mesh::new();
    let backend = H1Backend::ok().await;
    let without =
        Config::to("http1", &[backend.addr]).top(&mesh.identity("shop/web")).listener("tls: { mode: strict }");
    let with = without.clone().listener("http3: true");
    let proxy = Proxy::start(&without).await;
    let caller = TlsClient::with(&mesh.svid("shop/caller"));
    let mut over_tcp = caller.h1(proxy.addr()).await;
    assert_eq!(over_tcp.get("/").await.status, 200);
    for _ in 0..2 {
        reload(&proxy, &with).await;
        let mut client = H3Client::connect(&caller, proxy.addr()).await;
        assert_eq!(client.get("/").await.status, 200);
        reload(&proxy, &without).await;
        // It is told to go, and goes by itself; new ones are refused meanwhile, and afterwards nobody hears them.
        client.goaway().await;
        let refused = tokio::time::timeout(ms(300), H3Client::try_connect(&caller, proxy.addr())).await;
        assert!(!matches!(refused, Ok(Ok(_))), "no HTTP/3 any more");
        within(PATIENCE, "the end", client.connection.closed()).await;
    }
    assert_eq!(over_tcp.get("/").await.status, 200, "the same connection over TCP");
}

#[tokio::test]
async fn http_3_that_comes_back_while_it_drains_serves_old_and_new_callers() {
    let edge = Edge::to(echo().await, "").await;
    let mut old = edge.connect().await;
    let mut exchange = old.open("POST", "/echo").await.expect("a stream");
    exchange.put(b"begun").await.expect("sent");
    eventually(PATIENCE, "it arrived", || edge.backend.connections() > 0).await;
    let without = Config::to("http1", &[edge.backend.addr])
        .top(&edge.mesh.identity("shop/web"))
        .listener("tls: { mode: strict }");
    reload(&edge.proxy, &without).await;
    old.goaway().await;
    reload(&edge.proxy, &config(&edge.mesh, &edge.backend)).await;
    // As many as it takes to meet every worker's socket.
    for _ in 0..16 {
        assert_eq!(edge.connect().await.get("/1").await.status, 200);
    }
    exchange.put(b" and ended").await.expect("sent");
    exchange.send.finish().expect("open");
    let reply = within(PATIENCE, "the answer", exchange.reply()).await.expect("an answer");
    assert_eq!((reply.status, &reply.body[..]), (200, &b"begun and ended"[..]));
}

#[tokio::test]
async fn a_drain_says_goaway_finishes_what_is_under_way_and_ends_the_process() {
    let backend = H1Backend::ok().await;
    let mesh = Mesh::new();
    let config = config(&mesh, &backend).top("drain: { acceptFor: 100ms, deadline: 8s }");
    let mut proxy = Proxy::start(&config).await;
    let caller = TlsClient::with(&mesh.svid("shop/caller"));
    let mut client = H3Client::connect(&caller, proxy.addr()).await;
    assert_eq!(client.get("/").await.status, 200);
    // Under way: its body is not whole.
    let mut exchange = client.open("POST", "/").await.expect("a stream");
    exchange.put(b"begun").await.expect("sent");
    eventually(PATIENCE, "it arrived", || backend.connections() > 0).await;
    proxy.signal("TERM");
    client.goaway().await;
    exchange.put(b" and ended").await.expect("sent");
    exchange.send.finish().expect("open");
    assert_eq!(within(PATIENCE, "the answer", exchange.reply()).await.expect("an answer").status, 200);
    let closed = within(PATIENCE, "the end", client.connection.closed()).await;
    let quinn::ConnectionError::ApplicationClosed(close) = closed else { panic!("{closed:?}") };
    assert_eq!(close.error_code.into_inner(), 0x100, "H3_NO_ERROR");
    assert!(proxy.exit(Duration::from_secs(10)).await.success());
}

/// What the proxy has written is not what its caller has: here the way holds it up.
#[tokio::test]
async fn a_drain_does_not_cut_off_what_is_on_its_way() {
    let backend = H1Backend::start(|mut conn: Conn| async move {
        while conn.request().await.is_some() {
            conn.send(response(200, &[], &vec![7; 1 << 20])).await.ok();
        }
    })
    .await;
    let mesh = Mesh::new();
    let config = config(&mesh, &backend).top("drain: { acceptFor: 100ms, deadline: 20s }");
    let mut proxy = Proxy::start(&config).await;
    let relay = Relay::before(proxy.addr()).await;
    relay.release();
    let client = H3Client::connect(&TlsClient::with(&mesh.svid("shop/caller")), relay.addr).await;
    relay.hold();
    let mut exchange = client.open("GET", "/large").await.expect("a stream");
    exchange.send.finish().expect("open");
    eventually(PATIENCE, "all is written", || proxy.stdout().contains("/large")).await;
    proxy.signal("TERM");
    // For longer than a connection lingers that has nothing to do.
    tokio::time::sleep(ms(1500)).await;
    relay.release();
    let reply = within(PATIENCE, "the answer", exchange.reply()).await.expect("an answer");
    assert_eq!((reply.status, reply.body.len()), (200, 1 << 20));
    assert!(proxy.exit(Duration::from_secs(20)).await.success());
}

/// Waits until the proxy says that it ends the connection, which is not left to find out by itself.
async fn is_told(client: &H3Client) {
    let closed = within(ms(1000), "the end", client.connection.closed()).await;
    let quinn::ConnectionError::ApplicationClosed(close) = closed else { panic!("{closed:?}") };
    assert_eq!(close.error_code.into_inner(), 0x100, "H3_NO_ERROR");
}

/// A proxy with this drain, and a caller with a request under way.
async fn busy(drain: &str) -> (H1Backend, Mesh, Proxy, H3Client, Exchange) {
    let backend = H1Backend::ok().await;
    let mesh = Mesh::new();
    let proxy = Proxy::start(&config(&mesh, &backend).top(drain)).await;
    let client = H3Client::connect(&TlsClient::with(&mesh.svid("shop/caller")), proxy.addr()).await;
    let mut exchange = client.open("POST", "/").await.expect("a stream");
    exchange.put(b"begun").await.expect("sent");
    eventually(PATIENCE, "it arrived", || backend.connections() > 0).await;
    (backend, mesh, proxy, client, exchange)
}

#[tokio::test]
async fn at_the_deadline_of_a_drain_callers_are_told_that_it_is_over() {
    let (_backend, _mesh, mut proxy, mut client, _exchange) = busy("drain: { acceptFor: 50ms, deadline: 800ms }").await;
    proxy.signal("TERM");
    client.goaway().await;
    tokio::time::sleep(ms(800)).await;
    is_told(&client).await;
    assert!(proxy.exit(Duration::from_secs(5)).await.success());
}

#[tokio::test]
async fn after_a_second_signal_callers_are_told_that_it_is_over() {
    for (accept_for, drains) in [("50ms", true), ("1m", false)] {
        let drain = format!("drain: {{ acceptFor: {accept_for}, deadline: 2m }}");
        let (_backend, _mesh, mut proxy, mut client, _exchange) = busy(&drain).await;
        proxy.signal("TERM");
        match drains {
            true => drop(client.goaway().await),
            false => while proxy.try_admin("GET", "/ready").await.is_some_and(|(status, _)| status == 200) {},
        }
        proxy.signal("TERM");
        is_told(&client).await;
        assert!(!proxy.exit(Duration::from_secs(5)).await.success());
    }
}

#[tokio::test]
async fn at_the_limit_of_connections_callers_are_refused_and_let_in_when_one_ends() {
    let edge = Edge::to(echo().await, "maxConnections: 1").await;
    let client = edge.connect().await;
    assert_eq!(client.get("/1").await.status, 200);
    let refused = H3Client::try_connect(&edge.caller(), edge.proxy.addr()).await;
    assert!(matches!(refused, Err(quinn::ConnectionError::ConnectionClosed(_))), "one is there");
    assert!(edge.proxy.metric("outrigger_connections_held_back_total", &["listener=\"in\""]).await >= 1.0);
    // A quarter of one: no address is believed before it has answered.
    assert!(edge.proxy.metric("outrigger_quic_retries_total", &[]).await >= 2.0);
    client.connection.close(0x100_u32.into(), b"");
    let start = std::time::Instant::now();
    while H3Client::try_connect(&edge.caller(), edge.proxy.addr()).await.is_err() {
        assert!(start.elapsed() < PATIENCE, "there is room again");
        tokio::time::sleep(ms(5)).await;
    }
}

/// They do not know each other's connections. What goes to the wrong one is lost, and nobody is told that a connection is gone
/// which is not.
#[tokio::test]
async fn a_second_process_on_the_port_holds_connections_up_and_kills_none() {
    let edge = Edge::start().await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(edge.connect().await);
        assert_eq!(clients.last().expect("one").get("/").await.status, 200);
    }
    let second = edge.proxy.start_beside(&config(&edge.mesh, &edge.backend)).await;
    let mut requests = tokio::task::JoinSet::new();
    for client in clients {
        requests.spawn(async move {
            let reply = client.try_send("GET", "/", b"").await;
            (client, reply.map(|reply| reply.status))
        });
    }
    let mut answered = Vec::new();
    while let Ok(Some(done)) = tokio::time::timeout(ms(500), requests.join_next()).await {
        answered.push(done.expect("it asks"));
    }
    println!("{} of 8 are answered beside a second process", answered.len());
    drop(second);
    while let Some(done) = within(PATIENCE, "the others", requests.join_next()).await {
        answered.push(done.expect("it asks"));
    }
    for (client, status) in answered {
        assert_eq!(status, Ok(200));
        assert_eq!(client.get("/").await.status, 200, "the same connection");
    }
}

/// How a port is handed over: HTTP/3 is taken away first, and comes back with the next process. Callers over TCP notice nothing.
#[tokio::test]
async fn a_port_is_handed_over_by_taking_http_3_away_first() {
    let edge = Edge::start().await;
    let config = config(&edge.mesh, &edge.backend).top("drain: { acceptFor: 100ms, deadline: 8s }");
    let without = Config::to("http1", &[edge.backend.addr])
        .top(&edge.mesh.identity("shop/web"))
        .top("drain: { acceptFor: 100ms, deadline: 8s }")
        .listener("tls: { mode: strict }");
    let Edge { mesh, backend: _backend, proxy: mut old } = edge;
    let caller = TlsClient::with(&mesh.svid("shop/caller"));
    let mut client = H3Client::connect(&caller, old.addr()).await;
    assert_eq!(client.get("/").await.status, 200);
    reload(&old, &without).await;
    client.goaway().await;
    within(PATIENCE, "the end", client.connection.closed()).await;
    let mut over_tcp = caller.h1(old.addr()).await;
    assert_eq!(over_tcp.get("/").await.status, 200);
    let gone = std::time::Instant::now();
    while old.metric("outrigger_quic_connections", &[]).await > 0.0 {
        assert!(gone.elapsed() < PATIENCE, "none is left");
        tokio::time::sleep(ms(5)).await;
    }
    let new = old.start_beside(&config).await;
    old.signal("TERM");
    // From the first moment on, every caller over HTTP/3 meets the new process.
    let mut served = 0;
    while !old.has_exited() {
        assert_eq!(H3Client::connect(&caller, new.addr()).await.get("/").await.status, 200);
        served += 1;
    }
    assert!(served > 0);
    assert_eq!(caller.h1(new.addr()).await.get("/").await.status, 200);
}
