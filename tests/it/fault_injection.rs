//! Faults that are injected on purpose, over real sockets.

use std::time::{Duration, Instant, SystemTime};

use http::Request;

use crate::support::http1::Response;
use crate::support::{Config, H1Backend, H1Client, H2Backend, H2Client, PATIENCE, Proxy, h1_client, within};

async fn get(proxy: &Proxy, headers: &str) -> Response {
    h1_client::exchange(proxy.addr(), format!("GET / HTTP/1.1\r\nhost: a\r\n{headers}\r\n")).await
}

fn faulty(fault: &str) -> String {
    format!("filters: [{{ fault: {{ until: 2999-01-01T00:00:00Z, {fault} }} }}]")
}

async fn injected(proxy: &Proxy, fault: &str) -> f64 {
    proxy.metric("outrigger_faults_injected_total", &[&format!("fault=\"{fault}\"")]).await
}

#[tokio::test]
async fn a_share_of_the_requests_is_answered_here() {
    let backend = H1Backend::ok().await;
    let rule = faulty("abort: { percent: 50, status: 418 }");
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr]).rule(&rule)).await;
    let mut client = H1Client::connect(proxy.addr()).await;
    let mut aborted = 0_u32;
    for _ in 0..400 {
        let answer = client.exchange("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        match answer.status {
            200 => assert_eq!(answer.reason(), None),
            status => {
                assert_eq!((status, answer.reason()), (418, Some("FI")));
                aborted += 1;
            }
        }
    }
    // Standard deviation 10.
    assert!((140..=260).contains(&aborted), "{aborted}");
    assert_eq!(backend.requests().len(), 400 - aborted as usize);
    assert_eq!(injected(&proxy, "abort").await, f64::from(aborted));
    assert_eq!(proxy.metric("outrigger_local_responses_total", &[r#"reason="FI""#]).await, f64::from(aborted));
    assert_eq!(proxy.admin("/ready").await.0, 200, "never the proxy's own");
}

#[tokio::test]
async fn only_requests_with_its_headers_are_meant() {
    let backend = H1Backend::ok().await;
    let rule = faulty("headers: [{ name: x-chaos, exact: \"on\" }], abort: { percent: 100, grpcStatus: data-loss }");
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr]).rule(&rule)).await;
    assert_eq!(get(&proxy, "").await.status, 200);
    assert_eq!(get(&proxy, "x-chaos: off\r\n").await.status, 200);
    assert_eq!(get(&proxy, "x-chaos: on\r\n").await.status, 503, "who does not speak gRPC");
}

#[tokio::test]
async fn a_grpc_caller_gets_a_grpc_status() {
    let backend = H2Backend::ok().await;
    for (abort, status) in [("grpcStatus: data-loss", "15"), ("status: 404", "12"), ("status: 500", "2")] {
        let rule = faulty(&format!("abort: {{ percent: 100, {abort} }}"));
        let proxy = Proxy::start(&Config::to("http2", &[backend.addr]).rule(&rule)).await;
        let client = H2Client::connect(proxy.addr()).await;
        let request = Request::post("http://a/a.B/C").header("content-type", "application/grpc").body(()).expect("one");
        let reply = client.fetch(request).await.expect("an answer");
        assert_eq!((reply.status, reply.grpc_status(), reply.reason()), (200, Some(status), Some("FI")), "{abort}");
        let labels = [&*format!("grpc_status=\"{status}\"")];
        assert_eq!(proxy.metric("outrigger_grpc_responses_total", &labels).await, 1.0);
    }
    assert_eq!(backend.count(), 0);
}

#[tokio::test]
async fn a_delay_comes_before_the_upstream_and_holds_up_nobody_else() {
    let backend = H1Backend::ok().await;
    let rule = faulty("headers: [{ name: x-chaos, present: true }], delay: { percent: 100, duration: 300ms }");
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr]).rule(&rule)).await;
    let slow = tokio::spawn({
        let addr = proxy.addr();
        async move {
            let began = Instant::now();
            let answer = h1_client::exchange(addr, "GET / HTTP/1.1\r\nhost: a\r\nx-chaos: 1\r\n\r\n").await;
            (answer.status, began.elapsed())
        }
    });
    within(PATIENCE, "the delay to begin", async {
        while injected(&proxy, "delay").await < 1.0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    assert_eq!(get(&proxy, "").await.status, 200);
    let (status, took) = slow.await.expect("no panic");
    assert_eq!(status, 200);
    assert!(took >= Duration::from_millis(300), "{took:?}");
    assert_eq!(backend.requests().len(), 2);
}

#[tokio::test]
async fn a_caller_that_leaves_is_not_held_up_any_longer() {
    let backend = H1Backend::ok().await;
    let rule = faulty("delay: { percent: 100, duration: 1h }");
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr]).rule(&rule).rule("timeouts: { request: 0s }")).await;
    let client = H1Client::connect(proxy.addr()).await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let in_flight = async |wanted: f64| {
        within(PATIENCE, "requests in flight", async {
            while proxy.metric("outrigger_requests_in_flight", &[]).await != wanted {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
    };
    in_flight(1.0).await;
    drop(client);
    in_flight(0.0).await;
    assert_eq!(backend.requests().len(), 0);
}

#[tokio::test]
async fn a_delay_is_no_longer_than_the_request_may_take() {
    let backend = H1Backend::ok().await;
    let rule = faulty("delay: { percent: 100, duration: 1h }");
    let config = Config::to("http1", &[backend.addr]).rule(&rule).rule("timeouts: { request: 200ms }");
    let proxy = Proxy::start(&config).await;
    assert_eq!(get(&proxy, "").await.status, 504);
    assert_eq!(backend.requests().len(), 0);
}

#[tokio::test]
async fn an_experiment_ends_by_itself() {
    let backend = H1Backend::ok().await;
    // The file knows whole seconds.
    let until = SystemTime::now() + Duration::from_secs(3);
    let until = to_the_second(until);
    let rule = format!("filters: [{{ fault: {{ until: {until}, abort: {{ percent: 100, status: 418 }} }} }}]");
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr]).rule(&rule)).await;
    assert_eq!(get(&proxy, "").await.status, 418);
    within(PATIENCE, "the end of the experiment", async {
        while get(&proxy, "").await.status == 418 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(get(&proxy, "").await.status, 200, "without a new configuration");
}

#[tokio::test]
async fn a_fault_that_is_over_is_told_and_injects_nothing() {
    let backend = H1Backend::ok().await;
    let rule = "filters: [{ fault: { until: 2020-01-01T00:00:00Z, abort: { percent: 100, status: 418 } } }]";
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr]).rule(rule)).await;
    proxy.logged("a fault is over").await;
    assert_eq!(get(&proxy, "").await.status, 200);
}

/// The second, as the file writes it.
fn to_the_second(time: SystemTime) -> String {
    outrigger::telemetry::rfc3339(time).split('.').next().expect("seconds").trim_end_matches('Z').to_owned() + "Z"
}
