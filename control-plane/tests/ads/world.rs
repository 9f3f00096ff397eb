//! State of the world, in the ways of Envoy and of gRPC.

use outrigger_control::fleet::{Form, ProxyState};
use outrigger_xds::Kind;

use crate::support::{Control, PATIENCE, WorldClient, memory, put, refusal, resource, texts};

#[tokio::test]
async fn envoy_comes_up_and_follows() {
    let all = |version: &str| {
        vec![
            resource(Kind::Cluster, "a", &format!("cluster a {version}")),
            resource(Kind::Endpoints, "a", "endpoints a"),
            resource(Kind::Listener, "in", "listener in"),
            resource(Kind::Route, "r", &format!("route r {version}")),
        ]
    };
    let control = Control::start(memory(all("1"))).await;
    let mut envoy = WorldClient::open(control.channel().await, "envoy").await.unwrap();
    envoy.ask(Kind::Cluster, &[], None).await;
    let clusters = envoy.next().await;
    assert_eq!(texts(&clusters), (Kind::Cluster, vec!["cluster a 1".to_owned()]));
    // Envoy asks for endpoints before it answers the clusters.
    envoy.ask(Kind::Endpoints, &["a"], None).await;
    envoy.ack(&clusters, &[]).await;
    let endpoints = envoy.next().await;
    assert_eq!(texts(&endpoints), (Kind::Endpoints, vec!["endpoints a".to_owned()]));
    envoy.ack(&endpoints, &["a"]).await;
    envoy.ask(Kind::Listener, &[], None).await;
    let listeners = envoy.next().await;
    assert_eq!(texts(&listeners).0, Kind::Listener);
    envoy.ask(Kind::Route, &["r"], None).await;
    envoy.ack(&listeners, &[]).await;
    let routes = envoy.next().await;
    assert_eq!(texts(&routes), (Kind::Route, vec!["route r 1".to_owned()]));
    envoy.ack(&routes, &["r"]).await;
    assert!(control.fleet.await_synced(1, PATIENCE).await.is_complete());

    put(&control.source, 2, all("2"));
    let clusters = envoy.next().await;
    assert_eq!(texts(&clusters), (Kind::Cluster, vec!["cluster a 2".to_owned()]));
    envoy.ack(&clusters, &[]).await;
    // The changed cluster warms with endpoints that have not changed.
    let endpoints = envoy.next().await;
    assert_eq!(texts(&endpoints), (Kind::Endpoints, vec!["endpoints a".to_owned()]));
    envoy.ack(&endpoints, &["a"]).await;
    let routes = envoy.next().await;
    assert_eq!(texts(&routes), (Kind::Route, vec!["route r 2".to_owned()]));
    envoy.nack(&routes, &["r"], refusal(Kind::Route, "r", "", "no")).await;
    let outcome = control.fleet.await_synced(2, PATIENCE).await;
    assert_eq!((outcome.refused.len(), outcome.refused[0].form), (1, Form::Envoy));
}

#[tokio::test]
async fn a_grpc_client_asks_from_its_target_down() {
    let all = [
        (Kind::Listener, "payments.shop"),
        (Kind::Listener, "other.shop"),
        (Kind::Route, "r"),
        (Kind::Cluster, "a"),
        (Kind::Cluster, "b"),
        (Kind::Endpoints, "a"),
    ];
    let all = all.map(|(kind, name)| resource(kind, name, name));
    let control = Control::start(memory(all.to_vec())).await;
    let mut grpc = WorldClient::open(control.channel().await, "gRPC C-core").await.unwrap();
    for (kind, name) in
        [(Kind::Listener, "payments.shop"), (Kind::Route, "r"), (Kind::Cluster, "a"), (Kind::Endpoints, "a")]
    {
        grpc.ask(kind, &[name], None).await;
        let response = grpc.next().await;
        assert_eq!(texts(&response), (kind, vec![name.to_owned()]), "what was asked for and nothing else");
        grpc.ack(&response, &[name]).await;
    }
    assert!(control.fleet.await_synced(1, PATIENCE).await.is_complete());
    let row = control.fleet.status().remove(0);
    assert_eq!((row.state, row.form, row.user_agent.as_str()), (ProxyState::Synced, Form::Grpc, "gRPC C-core"));
}

#[tokio::test]
async fn names_that_do_not_exist_are_left_out_and_follow_when_they_do() {
    let control = Control::start(memory(vec![resource(Kind::Listener, "here", "here")])).await;
    let mut grpc = WorldClient::open(control.channel().await, "gRPC Go").await.unwrap();
    grpc.ask(Kind::Listener, &["here", "later"], None).await;
    let first = grpc.next().await;
    assert_eq!(texts(&first).1, ["here"]);
    grpc.ack(&first, &["here", "later"]).await;
    let all = vec![resource(Kind::Listener, "here", "here"), resource(Kind::Listener, "later", "later")];
    put(&control.source, 2, all);
    let second = grpc.next().await;
    assert_eq!(texts(&second).1, ["here", "later"]);
    assert_ne!(first.version_info, second.version_info);
    assert_ne!(first.nonce, second.nonce);
}
