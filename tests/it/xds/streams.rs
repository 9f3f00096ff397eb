//! Traffic while the control plane speaks, and while it is away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use outrigger_xds::Kind;

use super::{Scene, resources};
use crate::support::http1::chunk;
use crate::support::{Ads, Conn, H1Backend, H1Client, PATIENCE, Speaks, eventually, gate, h1_client, ms, response};

/// Answers, and at `/stream` does so for ever.
async fn backend() -> H1Backend {
    H1Backend::start(|mut conn: Conn| async move {
        while let Some(request) = conn.request().await {
            if request.target != "/stream" {
                conn.send(response(200, &[], b"ok")).await.ok();
                continue;
            }
            conn.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.ok();
            let mut tick = tokio::time::interval(ms(10));
            loop {
                tick.tick().await;
                if conn.send(chunk(b"tick")).await.is_err() {
                    return;
                }
            }
        }
    })
    .await
}

/// Asks on a kept connection until it is told to stop.
struct Traffic {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Traffic {
    async fn to(addr: std::net::SocketAddr) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (ended, count) = (Arc::clone(&stop), Arc::clone(&answered));
        let mut client = H1Client::connect(addr).await;
        let task = tokio::spawn(async move {
            while !ended.load(Ordering::Relaxed) {
                assert_eq!(client.get("/").await.status, 200, "on a connection that is kept");
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { stop, answered, task }
    }

    async fn goes_on(&self) {
        let before = self.answered.load(Ordering::Relaxed);
        eventually(PATIENCE, "traffic goes on", || self.answered.load(Ordering::Relaxed) > before + 20).await;
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("no request failed");
    }
}

#[tokio::test]
async fn changes_cost_no_request_no_connection_and_no_open_stream() {
    let _gate = gate::shared();
    let (scene, backend) = (Scene::new().await, backend().await);
    let of = |version: usize| super::routed(scene.port, &version.to_string(), &[backend.addr]);
    let ads = Ads::start(Speaks::Both);
    ads.set(of(0));
    let proxy = scene.proxy(&[&ads]).await;
    let mut stream = H1Client::connect(scene.addr()).await;
    stream.send("GET /stream HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(stream.response_head().await.status, 200);
    let traffic = Traffic::to(scene.addr()).await;
    for version in 1..=20 {
        ads.set(of(version));
        scene.becomes(&version.to_string()).await;
    }
    traffic.goes_on().await;
    traffic.end().await;
    assert!(!stream.closed(ms(50)).await, "the stream goes on");
    let config = proxy.admin_json("/config").await;
    assert!(config["generation"].as_u64().is_some_and(|number| number >= 21), "{}", config["generation"]);
    assert!(ads.told().iter().all(|told| told.error.is_none()));
}

#[tokio::test]
async fn a_control_plane_that_dies_changes_nothing_and_one_that_comes_back_is_told_what_is_known() {
    let (scene, backend) = (Scene::new().await, backend().await);
    let of = |version: &str| super::routed(scene.port, version, &[backend.addr]);
    let mut ads = Ads::start(Speaks::Both);
    ads.set(of("one"));
    let proxy = scene.proxy(&[&ads]).await;
    let traffic = Traffic::to(scene.addr()).await;
    ads.kill();
    proxy.logged("the stream to the control plane ended").await;
    traffic.goes_on().await;
    assert_eq!(proxy.admin("/ready").await.0, 200, "what runs goes on");
    let start = std::time::Instant::now();
    while proxy.metric("outrigger_config_age_seconds", &[]).await <= 0.0 {
        assert!(start.elapsed() < PATIENCE, "the age counts");
    }
    ads.revive().await;
    ads.heard("a second stream", |told| told.stream >= 2 && told.known.contains_key("c")).await;
    ads.set(of("two"));
    scene.becomes("two").await;
    traffic.end().await;
    assert_eq!(ads.sent(Kind::Listener, "in"), 1, "what is known is not sent again");
}

#[tokio::test]
async fn a_listener_that_is_removed_drains_while_the_others_go_on() {
    let (scene, backend) = (Scene::new().await, backend().await);
    let second = crate::support::proxy::free_port();
    let with = |listeners: &[(&str, u16)]| {
        let listeners: Vec<String> = listeners
            .iter()
            .map(|(name, port)| format!("{{ name: {name}, bind: \"127.0.0.1:{port}\", routes: main }}"))
            .collect();
        resources(&format!(
            "listeners: [{}]\nroutes: {{ main: [{{ rules: [{{ backendRefs: [{{ cluster: c }}] }}] }}] }}\n\
             clusters: {{ c: {{ protocol: http1, endpoints: [\"{}\"] }} }}\n",
            listeners.join(", "),
            backend.addr
        ))
    };
    for speaks in [Speaks::Both, Speaks::Whole] {
        let ads = Ads::start(speaks);
        ads.set(with(&[("in", scene.port), ("more", second)]));
        let state = tempfile::tempdir().expect("a folder");
        let yaml = super::bootstrap(&[ads.addr()]);
        let none = std::collections::BTreeMap::new();
        let proxy = crate::support::Proxy::start_yaml(
            &none,
            &yaml,
            &super::keeps(state.path()),
            crate::support::proxy::Until::Ready,
        )
        .await;
        let more = std::net::SocketAddr::from(([127, 0, 0, 1], second));
        let mut kept = H1Client::connect(more).await;
        assert_eq!(kept.get("/").await.status, 200);
        let mut stream = H1Client::connect(more).await;
        stream.send("GET /stream HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert_eq!(stream.response_head().await.status, 200);

        ads.set(with(&[("in", scene.port)]));
        eventually(PATIENCE, "nobody listens there", || std::net::TcpStream::connect(more).is_err()).await;
        assert!(!stream.closed(ms(50)).await, "what is under way goes on");
        assert_eq!(h1_client::get(scene.addr(), "/").await.status, 200);
        proxy.logged("this change drains the connections of a listener").await;
        drop(proxy);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
