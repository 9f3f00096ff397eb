//! The incremental protocol.

use std::time::{Duration, Instant};

use outrigger_control::fleet::{ProxyState, ResourceSet};
use outrigger_xds::Kind;

use crate::support::{Control, DeltaClient, PATIENCE, memory, put, refusal, resource};

fn mesh() -> Vec<std::sync::Arc<outrigger_xds::Resource>> {
    [(Kind::Cluster, "a"), (Kind::Endpoints, "a"), (Kind::Listener, "in"), (Kind::Route, "r")]
        .into_iter()
        .map(|(kind, name)| resource(kind, name, "1"))
        .collect()
}

#[tokio::test]
async fn a_proxy_comes_up_changes_leaves_and_returns_with_what_it_has() {
    let control = Control::start(memory(mesh())).await;
    let mut proxy = DeltaClient::open(control.channel().await, "outrigger").await.unwrap();
    proxy.ask(Kind::Cluster, &[]).await;
    assert_eq!(proxy.take().await, "Cluster a");
    proxy.ask(Kind::Endpoints, &["a"]).await;
    assert_eq!(proxy.take().await, "Endpoints a");
    proxy.ask(Kind::Listener, &[]).await;
    assert_eq!(proxy.take().await, "Listener in");
    proxy.ask(Kind::Route, &["r"]).await;
    assert_eq!(proxy.take().await, "Route r");
    assert!(control.fleet.await_synced(1, PATIENCE).await.is_complete());

    let mut next = mesh();
    next.push(resource(Kind::Cluster, "b", "1"));
    next[3] = resource(Kind::Route, "r", "2");
    put(&control.source, 2, next.clone());
    assert_eq!(proxy.take().await, "Cluster b");
    assert_eq!(proxy.take().await, "Route r");
    assert!(control.fleet.await_synced(2, PATIENCE).await.is_complete());

    let has = proxy.has.clone();
    drop(proxy);
    next.pop();
    next[0] = resource(Kind::Cluster, "a", "3");
    put(&control.source, 3, next);
    let mut proxy = DeltaClient::open(control.channel().await, "outrigger").await.unwrap();
    proxy.has = has;
    proxy.ask(Kind::Cluster, &[]).await;
    proxy.ask(Kind::Endpoints, &["a"]).await;
    proxy.ask(Kind::Listener, &[]).await;
    proxy.ask(Kind::Route, &["r"]).await;
    assert_eq!(proxy.take().await, "Cluster a");
    assert_eq!(proxy.take().await, "Cluster -b");
    assert!(control.fleet.await_synced(3, PATIENCE).await.is_complete());
}

#[tokio::test]
async fn a_refusal_is_shown_with_resource_field_and_reason() {
    let control = Control::start(memory(mesh())).await;
    let mut proxy = DeltaClient::open(control.channel().await, "outrigger").await.unwrap();
    proxy.ask(Kind::Cluster, &[]).await;
    let response = proxy.next().await.unwrap();
    proxy.answer(&response, Some(refusal(Kind::Cluster, "a", "lb_policy", "MAGLEV is not taken"))).await;
    let outcome = control.fleet.await_synced(1, PATIENCE).await;
    assert_eq!(outcome.refused.len(), 1);
    let row = &outcome.refused[0];
    assert_eq!((row.state, row.accepted_generation), (ProxyState::Refused, None));
    let refused = &row.kinds[0].refusals[0];
    assert_eq!((&*refused.resource, &*refused.field, &*refused.reason), ("a", "lb_policy", "MAGLEV is not taken"));
    let answers = control.records.answers.lock().unwrap();
    assert_eq!((answers.len(), answers[0].refusals[0].field.as_str()), (1, "lb_policy"));
    let shown = serde_json::to_value(row).unwrap();
    assert_eq!(shown["state"], "refused");
    assert_eq!(shown["kinds"][0]["refusals"][0]["field"], "lb_policy");
}

#[tokio::test]
async fn one_endpoint_among_ten_thousand_is_one_resource_and_comes_at_once() {
    const CLUSTERS: usize = 10_000;
    let names: Vec<String> = (0..CLUSTERS).map(|n| format!("c{n:05}")).collect();
    let all: Vec<_> = names.iter().map(|name| resource(Kind::Endpoints, name, "10.0.0.1:80")).collect();
    let control = Control::start(memory(all.clone())).await;
    let mut proxy = DeltaClient::open(control.channel().await, "outrigger").await.unwrap();
    let asked: Vec<&str> = names.iter().map(String::as_str).collect();
    proxy.ask(Kind::Endpoints, &asked).await;
    let response = proxy.next().await.unwrap();
    assert_eq!(response.resources.len(), CLUSTERS);
    proxy.answer(&response, None).await;
    let mut took = Vec::new();
    for change in 0..5 {
        let mut next = all.clone();
        next[77] = resource(Kind::Endpoints, "c00077", &format!("10.0.0.{change}:80"));
        let set = ResourceSet::from_resources(1, next);
        let began = Instant::now();
        control.source.put([("shop/cart-1".to_owned(), set)], true);
        assert_eq!(proxy.take().await, "Endpoints c00077");
        took.push(began.elapsed());
    }
    took.sort_unstable();
    assert!(took[2] < Duration::from_millis(200), "{took:?}");
}
