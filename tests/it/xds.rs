//! A proxy that takes its configuration from a control plane: what it is told takes effect and is answered, what is
//! refused is named and changes nothing, and the control plane's absence changes nothing at all.

mod identity;
mod secrets;
mod streams;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use outrigger_xds::encode::{self, Form};
use outrigger_xds::envoy::config::cluster::v3::Cluster;
use outrigger_xds::envoy::config::cluster::v3::cluster::LbPolicy;
use outrigger_xds::{Kind, Resource};
use prost::Message as _;
use tempfile::TempDir;

use crate::support::ads::Told;
use crate::support::any::{AnyBackend, Message, Version};
use crate::support::proxy::{Launch, Until, free_port};
use crate::support::{Ads, H1Client, PATIENCE, Proxy, Speaks, eventually, h1_client, ms};

/// The resources of a configuration as it would be in a file.
fn resources(yaml: &str) -> Vec<Resource> {
    let loaded = outrigger_config::load("mesh.yaml", yaml).unwrap_or_else(|problems| panic!("{problems}"));
    encode::config(&loaded.config, Form::Outrigger)
}

/// One listener, one rule that says which version it is of, one cluster.
fn routed(port: u16, version: &str, endpoints: &[SocketAddr]) -> Vec<Resource> {
    let endpoints: Vec<String> = endpoints.iter().map(|one| format!("\"{one}\"")).collect();
    resources(&format!(
        "listeners: [{{ name: in, bind: \"127.0.0.1:{port}\", routes: main }}]\n\
         routes: {{ main: [{{ rules: [{{ name: all, filters: [{{ responseHeaders: {{ set: {{ x-version: \"{version}\" }} }} }}], \
         backendRefs: [{{ cluster: c }}] }}] }}] }}\n\
         clusters: {{ c: {{ protocol: http1, endpoints: [{}] }} }}\n",
        endpoints.join(", ")
    ))
}

/// What stands in the proxy's file.
fn bootstrap(servers: &[SocketAddr]) -> String {
    let servers: Vec<String> = servers.iter().map(|one| format!("\"http://{one}\"")).collect();
    format!(
        "node: {{ id: one, service: shop, zone: eu-1a }}\nadmin: {{ address: \"127.0.0.1:$ADMIN\" }}\naccessLog: off\nworkers: 2\n\
         drain: {{ acceptFor: 0s, deadline: 5s }}\ncontrolPlane: {{ servers: [{}] }}\n",
        servers.join(", ")
    )
}

fn keeps(state: &Path) -> Launch {
    let arguments = vec![
        "--state-dir".to_owned(),
        state.display().to_string(),
        "--log-level".to_owned(),
        "info,outrigger=debug".to_owned(),
    ];
    Launch { arguments, ..Launch::default() }
}

/// A proxy with its listener, its state and where it takes its configuration from.
struct Scene {
    port: u16,
    state: TempDir,
    backend: AnyBackend,
}

impl Scene {
    async fn new() -> Self {
        let state = tempfile::tempdir().expect("a folder");
        Self { port: free_port(), state, backend: AnyBackend::ok(Version::H1).await }
    }

    fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    fn routed(&self, version: &str) -> Vec<Resource> {
        routed(self.port, version, &[self.backend.addr()])
    }

    async fn proxy(&self, servers: &[&Ads]) -> Proxy {
        self.start(servers, Until::Ready).await
    }

    async fn start(&self, servers: &[&Ads], until: Until) -> Proxy {
        let servers: Vec<SocketAddr> = servers.iter().map(|ads| ads.addr()).collect();
        Proxy::start_yaml(&BTreeMap::new(), &bootstrap(&servers), &keeps(self.state.path()), until).await
    }

    /// Which version answers.
    async fn version(&self) -> Option<String> {
        let reply = h1_client::get(self.addr(), "/").await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.head.get("x-version").map(str::to_owned)
    }

    async fn becomes(&self, version: &str) {
        let start = std::time::Instant::now();
        while self.version().await.as_deref() != Some(version) {
            assert!(start.elapsed() < PATIENCE, "version {version} takes effect");
            tokio::time::sleep(ms(2)).await;
        }
    }
}

fn taken(told: &Told, kind: Kind) -> bool {
    told.kind == kind && !told.nonce.is_empty() && told.error.is_none()
}

#[tokio::test]
async fn what_the_control_plane_says_takes_effect_and_is_acknowledged_by_both_variants() {
    for (speaks, protocol) in [(Speaks::Both, "delta"), (Speaks::Whole, "stateOfTheWorld")] {
        let scene = Scene::new().await;
        let ads = Ads::start(speaks);
        ads.set(scene.routed("one"));
        let proxy = scene.start(&[&ads], Until::Up).await;
        scene_ready(&proxy).await;
        assert_eq!(scene.version().await.as_deref(), Some("one"));
        for kind in [Kind::Cluster, Kind::Endpoints, Kind::Listener, Kind::Route] {
            ads.heard("an acknowledgement of each kind", |told| taken(told, kind)).await;
        }
        assert!(ads.told().iter().all(|told| told.error.is_none()), "{:?}", ads.told());
        let first = &ads.told()[0];
        assert_eq!(first.node.as_deref(), Some("one"));
        assert!(ads.told()[1..].iter().filter(|told| told.stream == first.stream).all(|told| told.node.is_none()));

        let config = proxy.admin_json("/config").await;
        assert_eq!(config["upToDate"], true, "{config:#}");
        assert_eq!(config["controlPlane"]["protocol"], protocol);
        assert_eq!(config["source"]["controlPlane"], format!("http://{}", ads.addr()));
        assert!(config["controlPlane"]["versions"]["cluster"]["c"].is_string(), "{config:#}");
        assert_eq!(proxy.metric("outrigger_control_connected", &[]).await, 1.0);
        assert_eq!(proxy.metric("outrigger_config_source", &["source=\"live\""]).await, 1.0);

        ads.set(scene.routed("two"));
        scene.becomes("two").await;
        let only_routes = ads.sent(Kind::Cluster, "c") == 1 && ads.sent(Kind::Route, "main") == 2;
        assert!(only_routes, "what did not change is not sent again");
    }
}

async fn scene_ready(proxy: &Proxy) {
    let start = std::time::Instant::now();
    while proxy.admin("/ready").await.0 != 200 {
        assert!(start.elapsed() < PATIENCE, "the proxy becomes ready:\n{}", proxy.stderr());
        tokio::time::sleep(ms(2)).await;
    }
}

#[tokio::test]
async fn a_proxy_starts_without_any_file_from_its_command_line() {
    let scene = Scene::new().await;
    let ads = Ads::start(Speaks::Both);
    ads.set(scene.routed("one"));
    let admin = free_port();
    let mut child = std::process::Command::new(crate::support::proxy::binary())
        .args(["run", "--control-plane", &format!("http://{}", ads.addr()), "--node-id", "told"])
        .args(["--admin", &format!("127.0.0.1:{admin}"), "--access-log", "off"])
        .args(["--state-dir", &scene.state.path().display().to_string()])
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("start the proxy");
    ads.heard("who it is", |told| told.node.as_deref() == Some("told")).await;
    eventually(PATIENCE, "it listens", || std::net::TcpStream::connect(scene.addr()).is_ok()).await;
    scene.becomes("one").await;
    child.kill().expect("end the proxy");
    child.wait().expect("it ends");
}

#[tokio::test]
async fn a_refused_resource_is_named_with_its_field_and_the_others_take_effect() {
    for speaks in [Speaks::Both, Speaks::Whole] {
        let scene = Scene::new().await;
        let ads = Ads::start(speaks);
        ads.set(scene.routed("one"));
        let proxy = scene.proxy(&[&ads]).await;

        let bad = Cluster { name: "bad".to_owned(), lb_policy: LbPolicy::ClusterProvided as i32, ..Cluster::default() };
        let mut next = scene.routed("two");
        next.push(Resource::encoded(Kind::Cluster, "bad".into(), bad.encode_to_vec().into()));
        ads.set(next);
        scene.becomes("two").await;
        let refused = ads.heard("a refusal", |told| told.error.is_some()).await;
        assert_eq!(refused.kind, Kind::Cluster);
        let fields: Vec<&str> = refused.refusals.iter().map(|(_, field, _)| field.as_str()).collect();
        assert!(refused.refusals.iter().all(|(name, ..)| name == "bad"), "{refused:?}");
        assert!(fields.contains(&"lb_policy"), "{refused:?}");
        assert!(refused.error.as_deref().is_some_and(|text| text.contains("bad") && text.contains("lb_policy")));
        let config = proxy.admin_json("/config").await;
        assert_eq!(config["controlPlane"]["refusals"][0]["name"], "bad", "{config:#}");
        assert_eq!(config["upToDate"], false);
        assert!(proxy.metric("outrigger_control_refusals_total", &["kind=\"cluster\""]).await >= 1.0);

        ads.set(scene.routed("three"));
        scene.becomes("three").await;
        eventually_config(&proxy, |config| config["controlPlane"]["refusals"].as_array().is_some_and(Vec::is_empty))
            .await;
    }
}

async fn eventually_config(proxy: &Proxy, fits: impl Fn(&serde_json::Value) -> bool) {
    let start = std::time::Instant::now();
    loop {
        let config = proxy.admin_json("/config").await;
        if fits(&config) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{config:#}");
        tokio::time::sleep(ms(5)).await;
    }
}

#[tokio::test]
async fn a_listener_whose_address_is_taken_is_refused_and_the_one_before_goes_on() {
    let scene = Scene::new().await;
    let ads = Ads::start(Speaks::Both);
    ads.set(scene.routed("one"));
    let _proxy = scene.proxy(&[&ads]).await;
    // Listening without sharing, so that nobody else can.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let elsewhere = taken.local_addr().expect("an address").port();
    ads.put(routed(elsewhere, "two", &[scene.backend.addr()]));
    let refused = ads.heard("a refusal", |told| told.error.is_some()).await;
    assert_eq!((refused.kind, &*refused.refusals[0].0), (Kind::Listener, "in"));
    assert!(refused.refusals[0].2.contains("in use"), "{refused:?}");
    // The routes of the same response are in effect on the listener that was there.
    scene.becomes("two").await;
}

#[tokio::test]
async fn a_listener_whose_address_was_taken_is_tried_again_until_it_is_free() {
    let scene = Scene::new().await;
    for speaks in [Speaks::Both, Speaks::Whole] {
        let ads = Ads::start(speaks);
        ads.set(scene.routed("one"));
        let state = tempfile::tempdir().expect("a folder");
        let launch = keeps(state.path());
        let proxy = Proxy::start_yaml(&BTreeMap::new(), &bootstrap(&[ads.addr()]), &launch, Until::Ready).await;
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let elsewhere = taken.local_addr().expect("an address");
        ads.put(routed(elsewhere.port(), "two", &[scene.backend.addr()]));
        let refused = ads.heard("a refusal", |told| told.error.is_some()).await;
        assert_eq!((refused.kind, &*refused.refusals[0].0), (Kind::Listener, "in"));
        scene.becomes("two").await;
        drop(taken);
        // Nothing more is said by the server.
        eventually_config(&proxy, |config| config["controlPlane"]["refusals"].as_array().is_some_and(Vec::is_empty))
            .await;
        let listeners = proxy.admin_json("/listeners").await;
        assert_eq!(listeners[0]["address"], elsewhere.to_string(), "{listeners:#}");
        assert_eq!(h1_client::get(elsewhere, "/").await.status, 200);
    }
}

#[tokio::test]
async fn a_control_plane_that_has_nothing_makes_a_proxy_ready() {
    for speaks in [Speaks::Both, Speaks::Whole] {
        let scene = Scene::new().await;
        let ads = Ads::start(speaks);
        let _proxy = scene.proxy(&[&ads]).await;
        ads.set(scene.routed("one"));
        eventually(PATIENCE, "the listener comes", || std::net::TcpStream::connect(scene.addr()).is_ok()).await;
        scene.becomes("one").await;
    }
}

#[tokio::test]
async fn a_start_from_disk_leaves_out_a_listener_whose_address_is_taken_and_takes_it_up_when_it_is_free() {
    let scene = Scene::new().await;
    let mut ads = Ads::start(Speaks::Both);
    let second = free_port();
    let both = resources(&format!(
        "listeners: [{{ name: in, bind: \"127.0.0.1:{}\", routes: main }}, {{ name: more, bind: \"127.0.0.1:{second}\", routes: main }}]\n\
         routes: {{ main: [{{ rules: [{{ backendRefs: [{{ cluster: c }}] }}] }}] }}\n\
         clusters: {{ c: {{ protocol: http1, endpoints: [\"{}\"] }} }}\n",
        scene.port,
        scene.backend.addr()
    ));
    ads.set(both);
    drop(scene.proxy(&[&ads]).await);
    ads.kill();
    let second = SocketAddr::from(([127, 0, 0, 1], second));
    let taken = std::net::TcpListener::bind(second).expect("bind");
    let _proxy = scene.proxy(&[&ads]).await;
    assert_eq!(h1_client::get(scene.addr(), "/").await.status, 200);
    drop(taken);
    eventually(PATIENCE, "the address is taken up", || std::net::TcpStream::connect(second).is_ok()).await;
    assert_eq!(h1_client::get(second, "/").await.status, 200);
}

#[tokio::test]
async fn a_route_to_a_cluster_that_is_not_there_answers_503_until_it_comes() {
    let scene = Scene::new().await;
    let ads = Ads::start(Speaks::Both);
    let (clusters, others): (Vec<_>, Vec<_>) =
        scene.routed("one").into_iter().partition(|resource| matches!(resource.kind, Kind::Cluster | Kind::Endpoints));
    ads.set(others);
    let _proxy = scene.proxy(&[&ads]).await;
    let reply = h1_client::get(scene.addr(), "/").await;
    assert_eq!(reply.status, 503);
    ads.put(clusters);
    let start = std::time::Instant::now();
    while h1_client::get(scene.addr(), "/").await.status != 200 {
        assert!(start.elapsed() < PATIENCE, "the cluster comes");
        tokio::time::sleep(ms(2)).await;
    }
}

#[tokio::test]
async fn changed_endpoints_take_effect_in_place_without_a_new_configuration() {
    let scene = Scene::new().await;
    let other = AnyBackend::answering(Version::H1, 200, Message::body("other")).await;
    let ads = Ads::start(Speaks::Both);
    ads.set(scene.routed("one"));
    let proxy = scene.proxy(&[&ads]).await;
    let before = proxy.admin_json("/config").await;
    let mut kept = H1Client::connect(scene.addr()).await;
    assert_eq!(kept.get("/").await.status, 200);

    ads.set(routed(scene.port, "one", &[other.addr()]));
    let start = std::time::Instant::now();
    while kept.get("/").await.text() != "other" {
        assert!(start.elapsed() < PATIENCE, "the endpoints take effect");
    }
    assert_eq!(ads.sent(Kind::Endpoints, "c"), 2);
    assert_eq!((ads.sent(Kind::Cluster, "c"), ads.sent(Kind::Listener, "in")), (1, 1), "one resource is sent");
    let after = proxy.admin_json("/config").await;
    assert_eq!((&after["generation"], &after["hash"]), (&before["generation"], &before["hash"]));
    assert_eq!(after["config"]["clusters"]["c"]["endpoints"][0]["address"], other.addr().to_string(), "{after:#}");
    assert_eq!(proxy.metric("outrigger_control_endpoint_updates_total", &[]).await, 1.0);

    // Other settings of the process do not take them back.
    let file = proxy.config_path();
    let text = std::fs::read_to_string(&file).expect("the file of the process");
    std::fs::write(&file, text.replace("acceptFor: 0s", "acceptFor: 1s")).expect("written");
    let generation = |config: &serde_json::Value| config["generation"].as_u64();
    eventually_config(&proxy, |config| generation(config) > generation(&before)).await;
    assert_eq!(kept.get("/").await.text(), "other");

    // The next configuration has them as well.
    ads.set(routed(scene.port, "two", &[other.addr()]));
    scene.becomes("two").await;
    assert_eq!(kept.get("/").await.text(), "other");
}

#[tokio::test]
async fn without_a_control_plane_a_proxy_starts_from_disk_and_takes_up_what_is_new_when_it_is_back() {
    let scene = Scene::new().await;
    let mut ads = Ads::start(Speaks::Both);
    ads.set(scene.routed("one"));
    let proxy = scene.proxy(&[&ads]).await;
    scene.becomes("one").await;
    let file = scene.state.path().join("last-good.xds");
    eventually(PATIENCE, "it is on disk", || file.exists()).await;
    ads.kill();
    drop(proxy);

    let proxy = scene.proxy(&[&ads]).await;
    assert_eq!(scene.version().await.as_deref(), Some("one"));
    let config = proxy.admin_json("/config").await;
    assert_eq!(config["source"]["lastResources"], file.display().to_string(), "{config:#}");
    assert_eq!(config["upToDate"], false);
    assert_eq!(proxy.metric("outrigger_config_source", &["source=\"disk\""]).await, 1.0);
    assert_eq!(proxy.metric("outrigger_control_connected", &[]).await, 0.0);

    ads.set(scene.routed("two"));
    ads.revive().await;
    scene.becomes("two").await;
    let resumed = ads.heard("what is known", |told| told.stream == 2 && told.kind == Kind::Cluster).await;
    assert_eq!(resumed.known.keys().map(String::as_str).collect::<Vec<_>>(), ["c"]);
    assert_eq!(ads.sent(Kind::Cluster, "c"), 1, "what is known is not sent again");
    assert_eq!(proxy.metric("outrigger_config_source", &["source=\"live\""]).await, 1.0);
}

#[tokio::test]
async fn what_is_too_old_or_was_changed_is_not_used_at_a_start() {
    let scene = Scene::new().await;
    let mut ads = Ads::start(Speaks::Both);
    ads.set(scene.routed("one"));
    drop(scene.proxy(&[&ads]).await);
    ads.kill();
    let file = scene.state.path().join("last-good.xds");
    let good = std::fs::read(&file).expect("it is there");
    let yaml = bootstrap(&[ads.addr()]);
    let short = yaml.replace("] }", "], maxAge: 1ms }");
    let mut bad = good.clone();
    *bad.last_mut().expect("not empty") ^= 1;
    for (yaml, content, said) in [(&short, &good, "too old"), (&yaml, &bad, "cut or changed")] {
        std::fs::write(&file, content).expect("written");
        let proxy = Proxy::start_yaml(&BTreeMap::new(), yaml, &keeps(scene.state.path()), Until::Up).await;
        proxy.logged(said).await;
        proxy.logged("no stream to the control plane").await;
        tokio::time::sleep(Duration::from_millis(2500)).await;
        assert_eq!(proxy.admin("/ready").await.0, 503, "it fails closed");
    }
}

#[tokio::test]
async fn a_second_server_takes_over_and_hears_what_is_known() {
    let scene = Scene::new().await;
    let (mut first, second) = (Ads::start(Speaks::Both), Ads::start(Speaks::Both));
    first.set(scene.routed("one"));
    second.set(scene.routed("two"));
    let _proxy = scene.proxy(&[&first, &second]).await;
    scene.becomes("one").await;
    assert_eq!(second.streams(), 0, "the first is enough");
    first.kill();
    scene.becomes("two").await;
    let resumed = second.heard("what is known", |told| told.kind == Kind::Cluster).await;
    assert!(resumed.known.contains_key("c"), "{resumed:?}");
}

#[tokio::test]
async fn two_processes_cannot_share_a_state_folder() {
    let scene = Scene::new().await;
    let ads = Ads::start(Speaks::Both);
    ads.set(scene.routed("one"));
    let _proxy = scene.proxy(&[&ads]).await;
    let output = std::process::Command::new(crate::support::proxy::binary())
        .args(["run", "--control-plane", &format!("http://{}", ads.addr()), "--admin", "off"])
        .args(["--state-dir", &scene.state.path().display().to_string()])
        .output()
        .expect("run the program");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("--state-dir"), "{said}");
}
