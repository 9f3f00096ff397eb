//! Overload: of a backend, and of the process itself.

mod capacity;
mod process;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::support::any::{Message, Version};
use crate::support::{Config, H1Backend, H1Client, PATIENCE, Proxy, eventually, h1_client, ms, response};

/// A backend that answers only when it is let.
async fn held() -> (H1Backend, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let backend = H1Backend::after_request(move |conn| {
        let gate = Arc::clone(&opened);
        async move {
            gate.acquire().await.expect("open").forget();
            conn.send(response(200, &[], b"ok")).await.ok();
        }
    })
    .await;
    (backend, gate)
}

/// One place, and a queue.
fn one_place(backend: &H1Backend, queue: &str) -> Config {
    Config::to("http1", &[backend.addr])
        .upstream("circuitBreaker: { maxRequests: 1 }")
        .upstream(&format!("queue: {queue}"))
}

async fn waiting(proxy: &Proxy, count: f64) {
    for _ in 0..2000 {
        if proxy.metric("outrigger_upstream_queue_length", &[]).await == count {
            return;
        }
        tokio::time::sleep(ms(5)).await;
    }
    panic!("never {count} in the queue");
}

fn ask(class: &str) -> String {
    format!("GET / HTTP/1.1\r\nhost: a.example\r\nx-outrigger-criticality: {class}\r\n\r\n")
}

/// Asks in a task of its own, over a connection of its own.
fn asking(proxy: &Proxy, request: String) -> tokio::task::JoinHandle<crate::support::http1::Response> {
    let addr = proxy.addr();
    tokio::spawn(async move { H1Client::connect(addr).await.exchange(request).await })
}

#[tokio::test]
async fn a_request_over_the_limit_waits_for_its_turn() {
    let (backend, gate) = held().await;
    let proxy = Proxy::start(&one_place(&backend, "{ timeout: 20s }")).await;
    let first = asking(&proxy, ask("default"));
    eventually(PATIENCE, "the first at the backend", || backend.requests().len() == 1).await;
    let second = asking(&proxy, ask("default"));
    waiting(&proxy, 1.0).await;
    assert_eq!(backend.requests().len(), 1, "the second is not sent yet");
    gate.add_permits(2);
    assert_eq!(first.await.unwrap().status, 200);
    assert_eq!(second.await.unwrap().status, 200);
    let clusters = proxy.admin_json("/clusters").await;
    assert_eq!(clusters[0]["admission"]["limit"], 1, "{clusters}");
    assert_eq!(clusters[0]["admission"]["taken"], 0, "{clusters}");
}

#[tokio::test]
async fn who_waits_too_long_is_told_why_and_when_to_come_back() {
    let (backend, gate) = held().await;
    let proxy = Proxy::start(&one_place(&backend, "{ timeout: 50ms }")).await;
    let first = asking(&proxy, ask("default"));
    eventually(PATIENCE, "the first at the backend", || backend.requests().len() == 1).await;
    let reply = h1_client::get(proxy.addr(), "/").await;
    assert_eq!((reply.status, reply.reason()), (503, Some("SHED")), "{reply:?}");
    let after: u64 = reply.head.get("retry-after").expect("when to come back").parse().expect("seconds");
    assert!((1..=30).contains(&after), "{after}");
    let shed = proxy.metric("outrigger_upstream_shed_total", &["cause=\"queue_timeout\"", "class=\"default\""]).await;
    assert_eq!(shed, 1.0);
    gate.add_permits(1);
    assert_eq!(first.await.unwrap().status, 200);
}

#[tokio::test]
async fn a_grpc_caller_is_told_in_its_own_way() {
    let (backend, gate) = held().await;
    let proxy = Proxy::start(&one_place(&backend, "{ timeout: 50ms }")).await;
    let first = asking(&proxy, ask("default"));
    eventually(PATIENCE, "the first at the backend", || backend.requests().len() == 1).await;
    let mut client = crate::support::any::AnyClient::connect(Version::H2, proxy.addr()).await;
    let call = Message::body("").field("content-type", "application/grpc").field("te", "trailers");
    let told = client.call("POST", "/s.S/M", &call).await;
    assert_eq!(told.get("grpc-status"), Some("14"), "{told:?}");
    assert!(told.get("grpc-retry-pushback-ms").is_some_and(|ms| ms.parse::<u32>().is_ok_and(|ms| ms > 0)), "{told:?}");
    gate.add_permits(1);
    first.await.unwrap();
}

#[tokio::test]
async fn in_a_full_queue_the_more_critical_takes_the_place_of_the_less_critical() {
    let (backend, gate) = held().await;
    let proxy = Proxy::start(&one_place(&backend, "{ timeout: 20s, max: 1 }").listener("trust: local")).await;
    let first = asking(&proxy, ask("critical"));
    eventually(PATIENCE, "the first at the backend", || backend.requests().len() == 1).await;
    let sheddable = asking(&proxy, ask("sheddable"));
    waiting(&proxy, 1.0).await;
    let critical = asking(&proxy, ask("critical"));
    let pushed_out = sheddable.await.unwrap();
    assert_eq!((pushed_out.status, pushed_out.reason()), (503, Some("SHED")), "{pushed_out:?}");
    gate.add_permits(2);
    assert_eq!((first.await.unwrap().status, critical.await.unwrap().status), (200, 200));
    let told: Vec<_> =
        backend.requests().iter().map(|r| r.head.get("x-outrigger-criticality").map(str::to_owned)).collect();
    assert_eq!(told, [Some("critical".to_owned()), Some("critical".to_owned())], "the next hop is told");
}

#[tokio::test]
async fn a_stranger_may_call_its_request_less_important_but_not_more() {
    let backend = H1Backend::ok().await;
    for (listener, class, told) in [
        ("trust: none", "critical", "default"),
        ("trust: none", "sheddable", "sheddable"),
        ("trust: local", "critical", "critical"),
        ("trust: local", "important", ""),
    ] {
        let before = backend.requests().len();
        let proxy = Proxy::start(&Config::to("http1", &[backend.addr]).listener(listener)).await;
        assert_eq!(h1_client::exchange(proxy.addr(), ask(class)).await.status, 200);
        let seen = backend.requests()[before].head.get("x-outrigger-criticality").unwrap_or_default().to_owned();
        assert_eq!(seen, told, "{class} with {listener}");
    }
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr]).rule("criticality: sheddable")).await;
    h1_client::exchange(proxy.addr(), ask("critical")).await;
    let seen = backend.requests().last().expect("a request").head.get("x-outrigger-criticality").map(str::to_owned);
    assert_eq!(seen.as_deref(), Some("sheddable"), "the rule says so");
}

#[tokio::test]
async fn a_caller_that_leaves_the_queue_is_not_sent_and_keeps_nobody_waiting() {
    let (backend, gate) = held().await;
    let proxy = Proxy::start(&one_place(&backend, "{ timeout: 20s, max: 1 }")).await;
    let first = asking(&proxy, ask("default"));
    eventually(PATIENCE, "the first at the backend", || backend.requests().len() == 1).await;
    let leaving = H1Client::connect(proxy.addr()).await;
    leaving.send(ask("default")).await;
    waiting(&proxy, 1.0).await;
    drop(leaving);
    waiting(&proxy, 0.0).await;
    gate.add_permits(2);
    assert_eq!(first.await.unwrap().status, 200);
    assert_eq!(h1_client::get(proxy.addr(), "/").await.status, 200);
    assert_eq!(backend.requests().len(), 2);
}

#[tokio::test]
async fn nobody_waits_beyond_the_time_of_the_request() {
    let (backend, gate) = held().await;
    let proxy = Proxy::start(&one_place(&backend, "{ timeout: 20s }").rule("timeouts: { request: 100ms }")).await;
    let first = asking(&proxy, ask("default"));
    eventually(PATIENCE, "the first at the backend", || backend.requests().len() == 1).await;
    let began = std::time::Instant::now();
    let reply = h1_client::get(proxy.addr(), "/").await;
    assert_eq!(reply.status, 504, "{reply:?}");
    assert!(began.elapsed() < Duration::from_secs(10), "not the time of the queue: {:?}", began.elapsed());
    gate.add_permits(1);
    first.await.unwrap();
}

#[tokio::test]
async fn places_are_kept_through_a_change_of_the_configuration() {
    let (backend, gate) = held().await;
    let proxy = Proxy::start(&one_place(&backend, "{ timeout: 20s }")).await;
    let first = asking(&proxy, ask("default"));
    eventually(PATIENCE, "the first at the backend", || backend.requests().len() == 1).await;
    let second = asking(&proxy, ask("default"));
    waiting(&proxy, 1.0).await;
    // A second place: whoever waits gets it at once.
    let wider = Config::to("http1", &[backend.addr])
        .upstream("circuitBreaker: { maxRequests: 2 }")
        .upstream("queue: { timeout: 20s }");
    proxy.replace_config(&wider);
    eventually(PATIENCE, "the second at the backend", || backend.requests().len() == 2).await;
    gate.add_permits(2);
    assert_eq!((first.await.unwrap().status, second.await.unwrap().status), (200, 200));
}
