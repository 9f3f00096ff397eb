//! Certificates of real proxies are renewed at half of their lives, and the root behind them is replaced, under load.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;

use super::load::{self, Load};
use super::plane::Plane;
use super::town::{API, Town, WEB};
use crate::support::{PATIENCE, Proxy, full, ms};

/// The shortest life that an authority gives.
const LIFE: Duration = Duration::from_secs(60);

/// Connections between the two live for a second: handshakes happen all the time.
const SHORT: &str = "apiVersion: outrigger.dev/v1
kind: TrafficPolicy
metadata: { name: api, namespace: shop }
spec:
  targetRef: { group: \"\", kind: Service, name: api }
  connection: { maxAge: 1s }
";

fn identity(town: &Town, workload: &str, file: &str) -> PathBuf {
    town.state(workload).join("identity/current").join(file)
}

fn read(town: &Town, workload: &str, file: &str) -> String {
    std::fs::read_to_string(identity(town, workload, file)).expect("it is there")
}

async fn handshakes(api: &Proxy) -> f64 {
    api.metric("outrigger_tls_handshakes_total", &[]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_renewed_and_the_root_replaced_under_load() {
    let town =
        Town::found(Plane::with("certificateLifetime: 60s\nsettle: 1s\n").await, load::application().await).await;
    let generation = town.plane.apply(SHORT).await;
    let (web, api) = town.proxies().await;
    let joined = Instant::now();
    for workload in [WEB, API] {
        town.plane.synced(workload, generation).await;
    }
    let load = Load::all(town.addr());
    load.more(50).await;
    let first = [WEB, API].map(|workload| (read(&town, workload, "svid.pem"), read(&town, workload, "svid.key")));
    let old_root = read(&town, WEB, "bundle.pem");
    let status = town.plane.told(&["ca", "status"]);
    assert!(status.contains("phase         stable") && status.contains("next step     introduce"), "{status}");

    let introduced = town.plane.told(&["ca", "rotate"]);
    assert!(introduced.contains("phase         introduced"), "{introduced}");
    // It signs as soon as every proxy has confirmed it, and not before.
    let start = Instant::now();
    while town.plane.get("/v1/ca").await["objections"] != json!([]) {
        assert!(start.elapsed() < PATIENCE, "{}", town.plane.told(&["ca", "status"]));
        tokio::time::sleep(ms(20)).await;
    }
    for workload in [WEB, API] {
        assert_eq!(read(&town, workload, "bundle.pem").matches("BEGIN CERT").count(), 2, "both roots are believed");
    }
    load.more(50).await;
    let signing = town.plane.told(&["ca", "rotate", "sign"]);
    assert!(signing.contains("phase         signing") && signing.contains("not yet"), "{signing}");
    let early = town.plane.run(&["ca", "rotate", "retire"]);
    let told = String::from_utf8_lossy(&early.stderr).into_owned();
    assert!(!early.status.success() && told.contains("may be valid for another"), "{told}");
    println!("{introduced}{signing}{told}");

    // Each renews when about half of its certificate's life is over, with a new key.
    let mut renewed = [None; 2];
    while renewed.iter().any(Option::is_none) {
        for (at, workload) in [WEB, API].into_iter().enumerate() {
            if renewed[at].is_none() && read(&town, workload, "svid.pem") != first[at].0 {
                assert_ne!(read(&town, workload, "svid.key"), first[at].1, "{workload} made a new key");
                renewed[at] = Some(joined.elapsed());
            }
        }
        load.check();
        assert!(joined.elapsed() < LIFE * 2 / 3, "certificates are renewed: {renewed:?}\n{}", web.stderr());
        tokio::time::sleep(ms(20)).await;
    }
    for after in renewed.into_iter().flatten() {
        assert!(after > LIFE / 3 && after < LIFE * 3 / 5, "renewed {after:?} after joining");
    }
    println!("renewed {renewed:?} after joining, of {LIFE:?}");

    // The old root goes, by itself once nothing that it signed is valid; here a little early, since all have renewed.
    if full() {
        let start = Instant::now();
        while town.plane.get("/v1/ca").await["phase"] != "stable" {
            load.check();
            assert!(start.elapsed() < 4 * LIFE, "{}", town.plane.told(&["ca", "status"]));
            tokio::time::sleep(ms(100)).await;
        }
        println!("retired by itself {:?} after joining", joined.elapsed());
    } else {
        town.plane.told(&["ca", "rotate", "retire", "--force"]);
    }
    let status = town.plane.told(&["ca", "status"]);
    assert!(status.contains("phase         stable") && !status.contains("also believed"), "{status}");
    let start = Instant::now();
    for workload in [WEB, API] {
        while read(&town, workload, "bundle.pem").matches("BEGIN CERT").count() != 1 {
            assert!(start.elapsed() < PATIENCE, "{workload} forgets the old root");
            tokio::time::sleep(ms(20)).await;
        }
        assert_ne!(read(&town, workload, "bundle.pem"), old_root, "the new root is what is left");
    }
    // And handshakes go on under the new one alone.
    let before = handshakes(&api).await;
    let start = Instant::now();
    while handshakes(&api).await < before + 2.0 {
        load.more(50).await;
        assert!(start.elapsed() < PATIENCE, "the two shake hands again");
    }
    let (all, failed) = (handshakes(&api).await, web.metric("outrigger_upstream_tls_failures_total", &[]).await);
    let (requests, events) = load.end().await;
    println!("{requests} requests, {events} events and messages, {all} handshakes, {failed} failed");
    assert_eq!(failed, 0.0, "no handshake between the proxies fails");
    assert!(all > 10.0, "there were handshakes all the time: {all}");
    for step in ["rotation.introduce", "rotation.sign", "rotation.retire"] {
        assert!(!town.plane.audited(&[step, "done"]).await.is_empty(), "{step} is audited");
    }
}
