//! Changes while requests run, and streams that end: nothing is noticed on the data path.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use serde_json::json;
use tokio::task::JoinSet;

use super::echo::{self, Ask, who};
use super::foreign::{Foreign, Variant};
use super::resources::{cluster, discovered, endpoints, every, host, listener, manager, route, routes, service, with};
use super::subject::{Plane, Program, Subject};
use crate::support::any::{AnyClient, Version};
use crate::support::proxy::free_port;
use crate::support::{PATIENCE, eventually, within};

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Asks over and over on kept connections of both versions until told to stop. Every failure is told.
pub struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    failures: Arc<Mutex<Vec<String>>>,
    tasks: JoinSet<()>,
}

impl Load {
    fn on(addr: SocketAddr) -> Self {
        Self::to(addr, "a.example/")
    }

    /// Asks for a URL, at a proxy.
    pub fn to(addr: SocketAddr, url: &'static str) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let failures = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        for version in [Version::H1, Version::H1, Version::H2, Version::H2] {
            let (stop, done, failures) = (Arc::clone(&stop), Arc::clone(&done), Arc::clone(&failures));
            tasks.spawn(async move {
                let mut client = AnyClient::connect(version, addr).await;
                while !stop.load(Ordering::Relaxed) {
                    let failure = match Ask::get(url).over(&mut client).await {
                        Ok(told) if told.status == 200 => None,
                        Ok(told) => Some(format!("{version:?}: {} {}", told.status, told.text())),
                        Err(error) => Some(format!("{version:?}: {error}")),
                    };
                    if let Some(failure) = failure {
                        failures.lock().push(failure);
                        return;
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        Self { stop, done, failures, tasks }
    }

    /// Waits for so many more requests. Fails when one failed.
    pub async fn more(&self, count: usize) {
        let before = self.done.load(Ordering::Relaxed);
        let failed = || !self.failures.lock().is_empty();
        eventually(PATIENCE, "requests go on", || failed() || self.done.load(Ordering::Relaxed) >= before + count)
            .await;
        assert!(!failed(), "requests failed: {:#?}", self.failures.lock());
    }

    /// Ends it, and gives how many requests were made. Fails when one failed.
    pub async fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks.join_all().await;
        let failures = self.failures.lock();
        assert!(failures.is_empty(), "requests failed: {failures:#?}");
        self.done.load(Ordering::Relaxed)
    }
}

/// Clusters come and go, endpoints move, routes and listeners change: no request fails.
async fn changes(variant: Variant) {
    let backends = [echo::start(Version::H1, "a").await, echo::start(Version::H1, "b").await];
    let addrs = [backends[0].addr(), backends[1].addr()];
    let mut server = Foreign::start().await;
    let port = free_port();
    let table = |cluster: &str| routes("main", &[host("*", &[route(&every(), cluster)])]);
    let mut first = service("c0", &addrs[..1]).to_vec();
    first.push(listener("in", port, &manager(&discovered("main"), &[])));
    first.push(table("c0"));
    server.set(&first).await;
    let subject = Subject::start(Program::Outrigger, &Plane::of(&server, variant)).await;
    server.settled(0).await;
    let load = Load::on(local(port));
    let mark = server.mark();
    for round in 1..=15 {
        // A new cluster replaces the one before, which goes away in the same change.
        let (new, old) = (format!("c{round}"), format!("c{}", round - 1));
        let mut change = service(&new, &addrs).to_vec();
        change.push(table(&new));
        server.change(&change, &[("Cluster", &old), ("ClusterLoadAssignment", &old)]).await;
        load.more(5).await;
        // Its endpoints change, alone.
        server.set(&[endpoints(&new, &addrs[round % 2..=round % 2])]).await;
        load.more(5).await;
        // And its settings, and those of the listener.
        let budget = json!({ "circuit_breakers": { "thresholds": [{ "max_requests": 1000 + round }] } });
        let timeout = json!({ "stream_idle_timeout": format!("{}s", 100 + round) });
        server
            .set(&[
                with(cluster(&new), &budget),
                listener("in", port, &with(manager(&discovered("main"), &[]), &timeout)),
            ])
            .await;
        load.more(5).await;
    }
    let refused = server.settled(mark).await;
    assert!(refused.is_empty(), "{refused:#?}");
    let asked = load.end().await;
    assert!(asked > 200, "{asked} requests were made");
    assert_eq!(who(&Ask::get("a.example/").of(Version::H1, local(port)).await), "b", "the last change is in effect");
    assert_eq!(subject.control_plane().await["refusals"], json!([]));
}

#[tokio::test]
async fn changes_over_delta_fail_no_request() {
    changes(Variant::Delta).await;
}

#[tokio::test]
async fn changes_over_the_state_of_the_world_fail_no_request() {
    changes(Variant::Whole).await;
}

/// The proxy comes back to a server that hung up, says what it has, and is sent only what it has not.
#[tokio::test]
async fn a_stream_is_taken_up_where_it_ended() {
    let backend = echo::start(Version::H1, "a").await;
    let mut server = Foreign::start().await;
    let port = free_port();
    let mut resources = service("a", &[backend.addr()]).to_vec();
    resources.push(listener("in", port, &manager(&discovered("main"), &[])));
    resources.push(routes("main", &[host("*", &[route(&every(), "a")])]));
    server.set(&resources).await;
    let _subject = Subject::start(Program::Outrigger, &Plane::of(&server, Variant::Delta)).await;
    server.settled(0).await;
    let load = Load::on(local(port));
    let mark = server.mark();
    server.hang_up().await;
    // While nobody is connected, one thing changes.
    server
        .set(&[routes(
            "main",
            &[host(
                "*",
                &[json!({ "match": { "path": "/new" }, "direct_response": { "status": 201 } }), route(&every(), "a")],
            )],
        )])
        .await;
    within(PATIENCE, "the change that was missed", async {
        while Ask::get("a.example/new").of(Version::H1, local(port)).await.status != 201 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    load.end().await;
    let events = server.since(mark);
    let known = |kind: &str| {
        events
            .iter()
            .find(|event| event["kind"] == kind && event["event"] == "request")
            .map(|event| event["known"].clone())
    };
    let named =
        |kind: &str| known(kind).unwrap_or_default().as_object().map(|all| all.keys().cloned().collect::<Vec<_>>());
    assert_eq!(named("Cluster"), Some(vec!["a".to_owned()]), "{events:#?}");
    assert_eq!(named("RouteConfiguration"), Some(vec!["main".to_owned()]));
    let sent: Vec<_> = events
        .iter()
        .filter(|event| event["event"] == "response")
        .flat_map(|event| event["names"].as_array().cloned().unwrap_or_default())
        .collect();
    assert_eq!(sent, [json!("main")], "only what changed is sent: {events:#?}");
}

/// A server that does not know delta is asked for the state of the world.
#[tokio::test]
async fn a_server_without_delta_is_asked_for_everything() {
    let mut server = Foreign::with(json!({ "protocols": ["whole"] })).await;
    let port = free_port();
    let direct = json!({ "match": every(), "direct_response": { "status": 204 } });
    server
        .set(&[listener("in", port, &manager(&discovered("main"), &[])), routes("main", &[host("*", &[direct])])])
        .await;
    let subject = Subject::start(Program::Outrigger, &Plane::of(&server, Variant::Delta)).await;
    assert_eq!(server.of("unimplemented").len(), 1, "it was asked for delta once");
    assert_eq!(Ask::get("a.example/").of(Version::H1, local(port)).await.status, 204);
    assert_eq!(subject.control_plane().await["connected"], true);
}

/// The server is gone: what runs goes on, and a proxy that starts meanwhile begins with what is on disk.
#[tokio::test]
async fn without_the_server_everything_goes_on() {
    let backend = echo::start(Version::H1, "a").await;
    let mut server = Foreign::start().await;
    let port = free_port();
    let mut resources = service("a", &[backend.addr()]).to_vec();
    resources.push(listener("in", port, &manager(&discovered("main"), &[])));
    resources.push(routes("main", &[host("*", &[route(&every(), "a")])]));
    server.set(&resources).await;
    let state = tempfile::tempdir().expect("make a temporary folder");
    let plane = Plane::of(&server, Variant::Delta);
    let launch = super::subject::in_folder(state.path());
    let yaml = super::subject::bootstrap(&plane);
    let proxy = crate::support::Proxy::start_bootstrap(&yaml, &launch).await;
    server.settled(0).await;
    eventually(PATIENCE, "the last good state on disk", || state.path().join("last-good.xds").exists()).await;
    let load = Load::on(local(port));
    drop(server);
    load.more(100).await;
    load.end().await;
    drop(proxy);
    let again = crate::support::Proxy::start_bootstrap(&yaml, &launch).await;
    assert_eq!(who(&Ask::get("a.example/").of(Version::H1, local(port)).await), "a");
    assert_eq!(again.admin_json("/config").await["controlPlane"]["connected"], false);
}
