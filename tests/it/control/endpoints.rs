//! One endpoint among 10,000: what is sent, and how soon requests go there.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::load;
use super::plane::Plane;
use super::town::{Town, WEB};
use crate::support::any::{AnyClient, Message, Version};
use crate::support::proxy::Until;
use crate::support::{H1Backend, PATIENCE, gate, ms};

/// How many milliseconds a change may take from where it is accepted.
const LIMIT: u64 = 200;
const SERVICES: usize = 100;
const ENDPOINTS: usize = 100;

/// A Service and the one endpoint that it has.
fn moving(port: u16) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ name: moving-1, namespace: shop, labels: {{ kubernetes.io/service-name: moving }} }}
addressType: IPv4
ports: [{{ name: http, port: {port} }}]
endpoints: [{{ addresses: [127.0.0.1] }}]
"
    )
}

/// Services with many endpoints, of which nobody answers.
fn crowd() -> String {
    let mut all = String::new();
    for service in 0..SERVICES {
        all += &format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{ name: crowd-{service}, namespace: shop }}\n\
             spec: {{ ports: [{{ name: http, port: 80 }}] }}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{ name: crowd-{service}-1, namespace: shop, labels: {{ kubernetes.io/service-name: crowd-{service} }} }}\n\
             addressType: IPv4\nports: [{{ name: http, port: 8080 }}]\nendpoints:\n"
        );
        for endpoint in 0..ENDPOINTS {
            all += &format!("  - {{ addresses: [10.{}.{service}.{endpoint}] }}\n", service % 7);
        }
    }
    all
}

/// One Service with as many endpoints in slices of `size`, of which the first has one that moves.
fn large(size: usize, moved: u8) -> String {
    let mut all = "apiVersion: v1\nkind: Service\nmetadata: { name: large, namespace: shop }\n\
                   spec: { ports: [{ name: http, port: 80 }] }\n"
        .to_owned();
    for slice in 0..SERVICES * ENDPOINTS / size {
        all += &large_slice(slice, size, if slice == 0 { moved } else { 0 });
    }
    all
}

fn large_slice(slice: usize, size: usize, moved: u8) -> String {
    let mut text = format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{ name: large-{slice}, namespace: shop, labels: {{ kubernetes.io/service-name: large }} }}\n\
         addressType: IPv4\nports: [{{ name: http, port: 8080 }}]\nendpoints:\n  - {{ addresses: [10.9.{slice}.{moved}] }}\n"
    );
    for endpoint in 1..size {
        text += &format!("  - {{ addresses: [10.{}.{slice}.{}] }}\n", 10 + endpoint / 250, endpoint % 250);
    }
    text
}

/// The versions of what a proxy is given, by kind and name.
async fn given(plane: &Plane) -> BTreeMap<(String, String), String> {
    let config = plane.get("/v1/proxies/shop/web-1/config").await;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let resources = config["resources"].as_array().expect("resources").iter();
    resources.map(|one| ((text(&one["kind"]), text(&one["name"])), text(&one["version"]))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_endpoint_of_ten_thousand_is_one_resource_and_in_effect_at_once() {
    gate::exclusive();
    let backends = [H1Backend::named("a").await, H1Backend::named("b").await];
    let town = Town::found(Plane::start().await, load::application().await).await;
    let service = "---\napiVersion: v1\nkind: Service\nmetadata: { name: moving, namespace: shop }\n\
                   spec: { ports: [{ name: http, port: 80 }] }\n---\n";
    let first = town.plane.apply(&format!("{}{service}{}", crowd(), moving(backends[0].addr.port()))).await;
    let web = town.proxy(WEB, Until::Ready).await;
    town.plane.synced(WEB, first).await;
    let addr = town.addr();
    let updates = || web.metric("outrigger_control_endpoint_updates_total", &[]);
    let (mut from_push, mut from_accepted) = (Vec::new(), Vec::new());
    for round in 1..=10 {
        let wanted = ["a", "b"][round % 2];
        let (before, updated) = (given(&town.plane).await, updates().await);
        let generation = web.metric("outrigger_config_generation", &[]).await;
        let mut client = AnyClient::connect(Version::H1, addr).await;
        let watching = tokio::spawn(async move {
            let (start, message) = (Instant::now(), Message::default().field("host", "moving"));
            loop {
                let told = client.try_call("GET", "/", &message).await.expect("a response");
                assert_eq!(told.status, 200, "{}", told.text());
                if told.get("x-backend") == Some(wanted) {
                    return Instant::now();
                }
                assert!(start.elapsed() < PATIENCE, "requests go to {wanted}");
                tokio::time::sleep(ms(1)).await;
            }
        });
        let pushed = Instant::now();
        town.plane.apply(&moving(backends[round % 2].addr.port())).await;
        let accepted = Instant::now();
        let effect = watching.await.expect("no panic");
        from_push.push(effect - pushed);
        from_accepted.push(effect.saturating_duration_since(accepted));

        let after = given(&town.plane).await;
        let differ: Vec<_> = after.iter().filter(|(key, version)| before.get(*key) != Some(*version)).collect();
        assert_eq!(differ.len(), 1, "one resource is another: {differ:?}");
        assert_eq!(differ[0].0, &("Endpoints".to_owned(), "shop/moving:80".to_owned()));
        assert_eq!(updates().await - updated, 1.0, "one resource came");
        assert_eq!(web.metric("outrigger_config_generation", &[]).await, generation, "nothing else was built");
    }
    let median = |all: &mut Vec<Duration>| {
        all.sort_unstable();
        (all[all.len() / 2], all[all.len() - 1])
    };
    let ((accepted, worst), (push, slowest)) = (median(&mut from_accepted), median(&mut from_push));
    println!(
        "{} endpoints; in effect {accepted:?} after it was accepted (at most {worst:?}), {push:?} after it was pushed (at \
         most {slowest:?})",
        SERVICES * ENDPOINTS + 1
    );
    assert!(accepted < ms(LIMIT), "in effect {accepted:?} after it was accepted");
}

/// All in one cluster: the one resource has 10,000 endpoints, and reading, compiling and sending it are all the work
/// that there can be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_endpoint_of_a_cluster_of_ten_thousand_is_in_effect_at_once() {
    gate::exclusive();
    let town = Town::found(Plane::start().await, load::application().await).await;
    let first = town.plane.apply(&large(ENDPOINTS, 0)).await;
    let web = town.proxy(WEB, Until::Ready).await;
    town.plane.synced(WEB, first).await;
    let generation = web.metric("outrigger_config_generation", &[]).await;
    let updates = || web.metric("outrigger_control_endpoint_updates_total", &[]);
    let mut took = Vec::new();
    for round in 1..=7 {
        let (before, updated) = (given(&town.plane).await, updates().await);
        town.plane.apply(&large_slice(0, ENDPOINTS, round)).await;
        let accepted = Instant::now();
        while updates().await == updated {
            assert!(accepted.elapsed() < PATIENCE, "the endpoints come");
            tokio::time::sleep(ms(1)).await;
        }
        took.push(accepted.elapsed());
        let after = given(&town.plane).await;
        let differ: Vec<_> = after.iter().filter(|(key, version)| before.get(*key) != Some(*version)).collect();
        assert_eq!(differ.len(), 1, "one resource is another: {differ:?}");
        assert_eq!(web.metric("outrigger_config_generation", &[]).await, generation, "nothing else was built");
    }
    took.sort_unstable();
    println!("one cluster of {} endpoints: in effect after {took:?}", SERVICES * ENDPOINTS);
    let limit = if cfg!(debug_assertions) { 10 * LIMIT } else { LIMIT };
    assert!(took[took.len() / 2] < ms(limit), "in effect after {took:?}");
}
