//! Datagrams that are handed on: sessions by caller, one endpoint each.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::UdpSocket;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinSet;

use crate::support::{Config, PATIENCE, Proxy, eventually, ms, within};
use crate::tcp::counted;

/// A UDP listener that leads to `endpoints`.
fn udp(endpoints: &[SocketAddr], more: &str) -> Config {
    Config::new()
        .listener("protocol: udp")
        .listener(&format!("udp: {{ backendRefs: [{{ cluster: raw }}]{more} }}"))
        .cluster("raw", "tcp", endpoints)
}

/// Answers every datagram with `name`, a space and what came; and tells who sent it.
async fn server(name: &'static str) -> (SocketAddr, UnboundedReceiver<SocketAddr>) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bind");
    let (addr, (tell, told)) = (socket.local_addr().expect("bound"), unbounded_channel());
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        while let Ok((n, peer)) = socket.recv_from(&mut buffer).await {
            tell.send(peer).ok();
            let answer = [name.as_bytes(), b" ", &buffer[..n]].concat();
            socket.send_to(&answer, peer).await.ok();
        }
    });
    (addr, told)
}

async fn client(proxy: &Proxy) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bind");
    socket.connect(proxy.addr()).await.expect("connect");
    socket
}

/// Asks, and asks again as resolvers do, until there is an answer.
async fn ask(socket: &UdpSocket, question: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0; 65_536];
    within(PATIENCE, "an answer", async {
        loop {
            socket.send(question).await.ok();
            if let Ok(Ok(n)) = tokio::time::timeout(ms(500), socket.recv(&mut buffer)).await {
                return buffer[..n].to_vec();
            }
        }
    })
    .await
}

#[tokio::test]
async fn each_caller_gets_its_own_answers() {
    let (addr, _told) = server("echo").await;
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let config = udp(&[addr], ", idleTimeout: 1s").top(&format!("accessLog: {{ path: \"{}\" }}", log.display()));
    let proxy = Proxy::start(&config).await;
    let mut callers = JoinSet::new();
    let target = Arc::new(proxy.addr());
    for number in 0..50 {
        let target = Arc::clone(&target);
        callers.spawn(async move {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bind");
            socket.connect(*target).await.expect("connect");
            for round in 0..10 {
                let question = format!("{number}/{round}");
                assert_eq!(ask(&socket, question.as_bytes()).await, format!("echo {question}").as_bytes());
            }
        });
    }
    while let Some(result) = within(PATIENCE, "the callers", callers.join_next()).await {
        result.unwrap();
    }
    let labels = ["listener=\"in\"", "cluster=\"raw\""];
    assert_eq!(proxy.metric("outrigger_udp_sessions_total", &labels).await, 50.0);
    assert!(proxy.metric("outrigger_udp_datagrams_total", &["direction=\"received\""]).await >= 500.0);
    assert!(proxy.metric("outrigger_udp_datagrams_total", &["direction=\"sent\""]).await >= 500.0);
    // They end by themselves, and each leaves a line.
    counted(&proxy, "outrigger_udp_sessions_ended_total", &["reason=\"SI\""], 50.0).await;
    assert_eq!(proxy.metric("outrigger_udp_sessions", &labels).await, 0.0);
    let lines = || std::fs::read_to_string(&log).unwrap_or_default();
    eventually(PATIENCE, "the lines", || lines().lines().count() == 50).await;
    let line: serde_json::Value = serde_json::from_str(lines().lines().next().unwrap()).unwrap();
    assert_eq!((&line["protocol"], &line["response_flags"]), (&"UDP".into(), &"-".into()), "{line}");
    assert_eq!(line["upstream_host"], addr.to_string(), "{line}");
}

/// Nothing asks again here: what begins a session is the question.
#[tokio::test]
async fn the_first_datagram_of_a_session_is_handed_on() {
    let (addr, _told) = server("x").await;
    let proxy = Proxy::start(&udp(&[addr], "")).await;
    for number in 0..40 {
        let socket = client(&proxy).await;
        let question = format!("once {number}");
        socket.send(question.as_bytes()).await.expect("sent");
        let mut buffer = [0; 64];
        let n = within(PATIENCE, "the only answer", socket.recv(&mut buffer)).await.expect("received");
        assert_eq!(String::from_utf8_lossy(&buffer[..n]), format!("x {question}"));
    }
    assert_eq!(proxy.metric("outrigger_udp_datagrams_dropped_total", &[]).await, 0.0);
}

/// A caller that has connected its socket hears the address that it asked, and nobody else.
#[tokio::test]
async fn a_listener_on_every_address_answers_from_the_one_that_was_asked() {
    let (addr, mut told) = server("x").await;
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let config = udp(&[addr], ", idleTimeout: 1s")
        .listener("bind: \"0.0.0.0:$PORT_in\"")
        .top(&format!("accessLog: {{ path: \"{}\" }}", log.display()));
    let proxy = Proxy::start(&config).await;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
    let mut ports = HashSet::new();
    for last in [2, 3, 1] {
        let asked = SocketAddr::from(([127, 0, 0, last], proxy.addr().port()));
        socket.connect(asked).await.unwrap();
        for size in [3, 0, 30_000] {
            let question = vec![b'?'; size];
            assert_eq!(ask(&socket, &question).await, [&b"x "[..], &question].concat(), "{asked}");
            ports.insert(told.recv().await.unwrap());
        }
    }
    assert_eq!(ports.len(), 3, "each of them is a session of its own");
    let lines = || std::fs::read_to_string(&log).unwrap_or_default();
    eventually(PATIENCE, "the lines", || lines().lines().count() == 3).await;
    for last in [1, 2, 3] {
        assert!(lines().contains(&format!("\"127.0.0.{last}:{}\"", proxy.addr().port())), "{}", lines());
    }
}

#[tokio::test]
async fn large_and_empty_datagrams_pass_whole() {
    let (addr, _told) = server("x").await;
    let proxy = Proxy::start(&udp(&[addr], "")).await;
    let socket = client(&proxy).await;
    for size in [0, 1, 512, 1472, 9000, 60_000] {
        let question: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        assert_eq!(ask(&socket, &question).await, [&b"x "[..], &question].concat(), "{size} bytes");
    }
}

#[tokio::test]
async fn a_session_stays_with_its_endpoint_and_sessions_are_spread() {
    let servers = [server("a").await, server("b").await];
    let config = udp(&[servers[0].0, servers[1].0], "").upstream("loadBalancing: { policy: roundRobin }");
    let proxy = Proxy::start(&config).await;
    let mut seen = HashSet::new();
    for _ in 0..8 {
        let socket = client(&proxy).await;
        let first = ask(&socket, b"?").await;
        for _ in 0..5 {
            assert_eq!(ask(&socket, b"?").await, first);
        }
        seen.insert(first);
    }
    assert_eq!(seen.len(), 2, "both have sessions");
}

#[tokio::test]
async fn more_sessions_than_may_be_are_refused_visibly() {
    let (addr, _told) = server("x").await;
    let proxy = Proxy::start(&udp(&[addr], ", maxSessions: 3, idleTimeout: 60s")).await;
    let mut sessions = Vec::new();
    for _ in 0..3 {
        let socket = client(&proxy).await;
        ask(&socket, b"?").await;
        sessions.push(socket);
    }
    let fourth = client(&proxy).await;
    fourth.send(b"?").await.unwrap();
    counted(&proxy, "outrigger_udp_datagrams_dropped_total", &["reason=\"too-many-sessions\""], 1.0).await;
    for socket in &sessions {
        ask(socket, b"still here").await;
    }
    assert_eq!(proxy.metric("outrigger_udp_sessions", &["cluster=\"raw\""]).await, 3.0);
}

#[tokio::test]
async fn an_endpoint_where_nobody_listens_is_left_for_another() {
    let nobody = {
        let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.local_addr().unwrap()
    };
    let (addr, _told) = server("x").await;
    let config = udp(&[nobody, addr], "")
        .upstream("loadBalancing: { policy: roundRobin }")
        .upstream("circuitBreaker: { failureThreshold: 1, resetTimeout: 60s }");
    let proxy = Proxy::start(&config).await;
    for _ in 0..6 {
        let socket = client(&proxy).await;
        assert_eq!(ask(&socket, b"?").await, b"x ?");
    }
    counted(&proxy, "outrigger_udp_sessions_ended_total", &["reason=\"UF\""], 1.0).await;
    assert!(proxy.metric("outrigger_upstream_connect_failures_total", &["cluster=\"raw\""]).await >= 1.0);
}

#[tokio::test]
async fn a_change_of_the_configuration_ends_no_session() {
    let (first, mut told) = server("first").await;
    let (second, _told) = server("second").await;
    let proxy = Proxy::start(&udp(&[first], "")).await;
    let socket = client(&proxy).await;
    assert_eq!(ask(&socket, b"?").await, b"first ?");
    let source = told.recv().await.unwrap();
    for round in 0..5u8 {
        let before = proxy.metric("outrigger_config_generation", &[]).await;
        proxy.replace_config(&udp(&[second], &format!(", idleTimeout: {}s", 60 + round)));
        counted(&proxy, "outrigger_config_generation", &[], before + 1.0).await;
        assert_eq!(ask(&socket, b"?").await, b"first ?", "a session stays where it is");
        assert_eq!(told.recv().await.unwrap(), source, "and has the same port there");
        assert_eq!(ask(&client(&proxy).await, b"?").await, b"second ?");
    }
}

#[tokio::test]
async fn a_drain_does_not_wait_for_sessions_that_are_silent() {
    let (addr, _told) = server("x").await;
    let config = udp(&[addr], ", idleTimeout: 1h").top("drain: { acceptFor: 200ms, deadline: 20s }");
    let mut proxy = Proxy::start(&config).await;
    let socket = client(&proxy).await;
    ask(&socket, b"?").await;
    proxy.signal("TERM");
    proxy.logged("draining").await;
    ask(&socket, b"still here").await;
    assert!(proxy.exit(PATIENCE).await.success());
}

#[tokio::test]
async fn a_listener_that_comes_and_goes_leaves_the_others_alone() {
    let (addr, _told) = server("x").await;
    let config = udp(&[addr], "");
    let with = config
        .clone()
        .add_listener("second")
        .listener("protocol: udp")
        .listener("udp: { backendRefs: [{ cluster: raw }] }");
    let proxy = Proxy::start(&with).await;
    let socket = client(&proxy).await;
    ask(&socket, b"?").await;
    let second = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    second.connect(proxy.listener("second")).await.unwrap();
    assert_eq!(ask(&second, b"?").await, b"x ?");
    proxy.replace_config(&config);
    proxy.logged("no longer listening").await;
    assert_eq!(ask(&socket, b"still here").await, b"x still here");
}

/// The listener ends sessions at the end of its drain, whatever endpoints do.
#[tokio::test]
async fn an_endpoint_that_never_stops_does_not_outlast_the_drain() {
    let endpoint = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = endpoint.local_addr().unwrap();
    let flooding = std::thread::spawn(move || {
        let mut buffer = [0; 1_000];
        let (_, peer) = endpoint.recv_from(&mut buffer).unwrap();
        // Until nobody listens there any more, which a connected socket is told.
        endpoint.connect(peer).unwrap();
        while endpoint.send(&buffer).is_ok() {}
    });
    let config = udp(&[addr], ", idleTimeout: 1h").top("drain: { acceptFor: 100ms, deadline: 1500ms }");
    let mut proxy = Proxy::start(&config).await;
    let socket = client(&proxy).await;
    socket.send(b"go").await.unwrap();
    within(PATIENCE, "the flood", socket.recv(&mut [0; 1_000])).await.unwrap();
    proxy.signal("TERM");
    assert!(proxy.exit(PATIENCE).await.success());
    within(PATIENCE, "the end of the flood", tokio::task::spawn_blocking(|| flooding.join().unwrap())).await.unwrap();
}
