//! Balancing per request: one client connection, several endpoints, each policy.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::support::{
    Call, Config, H2Backend, H2Client, PATIENCE, Proxy, gate, h1_backend::Refusing, h1_client, h2_client, ms, within,
};

/// Answers gRPC calls after a while.
async fn taking(time: Duration) -> H2Backend {
    H2Backend::start(move |mut call: Call| async move {
        let Ok((message, _)) = call.body().await else {
            return;
        };
        if !time.is_zero() {
            tokio::time::sleep(time).await;
        }
        call.reply_grpc(message).await;
    })
    .await
}

/// Makes RPCs over one client connection, `parallel` at a time; all must succeed.
async fn call(proxy: &Proxy, count: usize, parallel: usize) {
    let client = Arc::new(H2Client::connect(proxy.addr()).await);
    let mut callers = JoinSet::new();
    for caller in 0..parallel {
        let client = Arc::clone(&client);
        let share = count / parallel + usize::from(caller < count % parallel);
        callers.spawn(async move {
            for _ in 0..share {
                let message = h2_client::grpc_message(b"hello");
                let reply = client.send(h2_client::grpc("/s.S/M"), message, None).await.unwrap();
                assert_eq!(reply.grpc_status(), Some("0"), "{reply:?}");
            }
        });
    }
    while let Some(done) = within(Duration::from_secs(120), "the calls", callers.join_next()).await {
        done.unwrap();
    }
}

async fn spread(policy: &str, backends: &[&H2Backend], count: usize, parallel: usize) -> Vec<usize> {
    let addrs: Vec<_> = backends.iter().map(|b| b.addr).collect();
    let proxy =
        Proxy::start(&Config::to("http2", &addrs).upstream(&format!("loadBalancing: {{ policy: {policy} }}"))).await;
    call(&proxy, count, parallel).await;
    backends.iter().map(|b| b.count()).collect()
}

#[tokio::test]
async fn round_robin_gives_each_endpoint_the_same() {
    let (a, b, c) = (taking(ms(0)).await, taking(ms(0)).await, taking(ms(0)).await);
    let counts = spread("roundRobin", &[&a, &b, &c], 9000, 32).await;
    assert_eq!(counts.iter().sum::<usize>(), 9000);
    for count in &counts {
        assert!((2910..=3090).contains(count), "3,000 ± 3 %: {counts:?}");
    }
}

#[tokio::test]
async fn round_robin_follows_weights() {
    let (a, b) = (taking(ms(0)).await, taking(ms(0)).await);
    let proxy = Proxy::start(&Config::new()
        .routes("- rules: [{ backendRefs: [{ cluster: c }] }]")
        .cluster_yaml("c", &format!(
            "protocol: http2\nloadBalancing: {{ policy: roundRobin }}\nendpoints: [{{ address: \"{}\", weight: 1 }}, {{ address: \"{}\", weight: 3 }}]",
            a.addr, b.addr
        )))
    .await;
    call(&proxy, 2000, 16).await;
    let counts = (a.count(), b.count());
    assert!((485..=515).contains(&counts.0), "500 and 1500: {counts:?}");
}

#[tokio::test]
async fn random_spreads_too() {
    let (a, b, c) = (taking(ms(0)).await, taking(ms(0)).await, taking(ms(0)).await);
    let counts = spread("random", &[&a, &b, &c], 3000, 16).await;
    for count in &counts {
        // Four standard deviations (25.8) are 103.
        assert!((890..=1110).contains(count), "about 1,000 each: {counts:?}");
    }
}

async fn slow_endpoint_gets_little(policy: &str) {
    gate::exclusive();
    let (a, b, slow) = (taking(ms(10)).await, taking(ms(10)).await, taking(ms(100)).await);
    let counts = spread(policy, &[&a, &b, &slow], 9000, 64).await;
    println!("{policy}: {counts:?}");
    assert_eq!(counts.iter().sum::<usize>(), 9000);
    assert!(counts[2] < 9000 / 5, "a 10 times slower endpoint gets under a fifth: {counts:?}");
    assert!(counts[2] > 0, "and is not forgotten: {counts:?}");
}

#[tokio::test]
async fn least_request_sends_little_to_a_slow_endpoint() {
    slow_endpoint_gets_little("leastRequest").await;
}

#[tokio::test]
async fn peak_ewma_sends_little_to_a_slow_endpoint() {
    slow_endpoint_gets_little("peakEwma").await;
}

#[tokio::test]
async fn every_policy_works_with_one_endpoint_and_around_a_dead_one() {
    for policy in ["roundRobin", "leastRequest", "peakEwma", "random"] {
        let alive = taking(ms(0)).await;
        let counts = spread(policy, &[&alive], 50, 4).await;
        assert_eq!(counts, [50], "{policy}");

        let dead = Refusing::new();
        let proxy = Proxy::start(
            &Config::to("http2", &[alive.addr, dead.addr]).upstream(&format!("loadBalancing: {{ policy: {policy} }}")),
        )
        .await;
        for _ in 0..50 {
            let reply = h1_client::get(proxy.addr(), "/").await;
            assert_eq!(reply.status, 200, "{policy}: {reply:?}");
        }
    }
}

/// Endpoints are chosen for each request, not for each connection, over HTTP/1.1 as well.
#[tokio::test]
async fn one_http1_connection_reaches_all_endpoints() {
    let (a, b, c) = (taking(ms(0)).await, taking(ms(0)).await, taking(ms(0)).await);
    let proxy =
        Proxy::start(&Config::to("http2", &[a.addr, b.addr, c.addr]).upstream("loadBalancing: { policy: roundRobin }"))
            .await;
    let mut client = crate::support::H1Client::connect(proxy.addr()).await;
    for _ in 0..300 {
        assert_eq!(client.get("/").await.status, 200);
    }
    let counts = [a.count(), b.count(), c.count()];
    assert!(counts.iter().all(|count| (98..=102).contains(count)), "{counts:?}");
}

#[tokio::test]
async fn a_name_is_resolved_to_all_its_addresses() {
    let backend = taking(ms(0)).await;
    let proxy = Proxy::start(
        &Config::new()
            .routes("- rules: [{ backendRefs: [{ cluster: c }] }]")
            .cluster_yaml("c", &format!("protocol: http2\nendpoints: [\"localhost:{}\"]", backend.addr.port())),
    )
    .await;
    let start = std::time::Instant::now();
    // `localhost` may also be ::1, where nobody listens: then a connect failure moves on.
    loop {
        let reply = h1_client::get(proxy.addr(), "/").await;
        if reply.status == 200 {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "{reply:?}");
    }
    for _ in 0..20 {
        assert_eq!(h1_client::get(proxy.addr(), "/").await.status, 200);
    }
}
