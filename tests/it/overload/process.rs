//! The process runs short of memory or connections. How short is set by configuring a limit relative to what it uses.

use crate::support::any::{AnyClient, Version};
use crate::support::{Config, H1Backend, H1Client, PATIENCE, Proxy, h1_client, ms};

/// A limit of which the process uses so many percent now.
fn limit_at(proxy: &Proxy, percent: u64) -> String {
    format!("{}KiB", proxy.rss() / 1024 * 100 / percent)
}

async fn level(proxy: &Proxy, wanted: f64) {
    let start = std::time::Instant::now();
    while proxy.metric("outrigger_overload_level", &[]).await != wanted {
        assert!(start.elapsed() < PATIENCE, "the level becomes {wanted}:\n{}", proxy.stderr());
        tokio::time::sleep(ms(20)).await;
    }
}

fn config(backend: &H1Backend) -> Config {
    Config::to("http1", &[backend.addr]).listener("trust: local")
}

fn critical() -> &'static str {
    "GET / HTTP/1.1\r\nhost: a.example\r\nx-outrigger-criticality: critical\r\n\r\n"
}

#[tokio::test]
async fn short_of_memory_it_refuses_what_is_not_critical_and_says_so_and_stays_ready() {
    let backend = H1Backend::ok().await;
    let proxy = Proxy::start(&config(&backend)).await;
    let mut open = H1Client::connect(proxy.addr()).await;
    assert_eq!(open.get("/").await.status, 200);
    // Far apart, so that a little more or less memory changes nothing.
    let limit = limit_at(&proxy, 60);
    let overload = format!("overload: {{ memoryLimit: {limit}, shrinkAt: 20, refuseAt: 30, stopAcceptingAt: 100 }}");
    proxy.replace_config(&config(&backend).top(&overload));
    level(&proxy, 2.0).await;

    let reply = h1_client::get(proxy.addr(), "/").await;
    assert_eq!((reply.status, reply.reason()), (503, Some("OM")), "{reply:?}");
    assert!(reply.head.get("retry-after").is_some(), "{reply:?}");
    let mut client = AnyClient::connect(Version::H2, proxy.addr()).await;
    for _ in 0..3 {
        let told = client.get("/").await;
        assert_eq!((told.status, told.reason()), (503, Some("OM")), "a stream is answered, the connection goes on");
    }
    assert_eq!(h1_client::exchange(proxy.addr(), critical()).await.status, 200);
    let (status, ready) = proxy.admin("/ready").await;
    assert_eq!((status, ready.as_str()), (200, "ready, short of memory: refuse\n"));
    proxy.logged("memory is short").await;

    proxy.replace_config(&config(&backend));
    level(&proxy, 0.0).await;
    assert_eq!(h1_client::get(proxy.addr(), "/").await.status, 200);
    proxy.logged("memory is no longer short").await;
}

#[tokio::test]
async fn short_of_memory_it_closes_idle_connections_on_both_sides() {
    let backend = H1Backend::ok().await;
    let proxy = Proxy::start(&config(&backend)).await;
    let mut idle = H1Client::connect(proxy.addr()).await;
    assert_eq!(idle.get("/").await.status, 200);
    let mut multiplexed = AnyClient::connect(Version::H2, proxy.addr()).await;
    assert_eq!(multiplexed.get("/").await.status, 200);
    assert_eq!(proxy.metric("outrigger_connections", &[]).await, 2.0);
    assert!(proxy.metric("outrigger_upstream_connections", &[]).await >= 1.0);

    let limit = limit_at(&proxy, 60);
    let overload = format!("overload: {{ memoryLimit: {limit}, shrinkAt: 30, refuseAt: 99, stopAcceptingAt: 100 }}");
    proxy.replace_config(&config(&backend).top(&overload));
    level(&proxy, 1.0).await;
    assert!(!idle.closed(PATIENCE).await, "closed, not reset");
    for gauge in ["outrigger_connections", "outrigger_upstream_connections"] {
        let start = std::time::Instant::now();
        while proxy.metric(gauge, &[]).await > 0.0 {
            assert!(start.elapsed() < PATIENCE, "{gauge} falls to zero");
            tokio::time::sleep(ms(20)).await;
        }
    }
    assert_eq!(h1_client::get(proxy.addr(), "/").await.status, 200, "requests are still served");
}

#[tokio::test]
async fn at_the_limit_of_all_connections_the_next_one_waits_in_the_kernel() {
    let backend = H1Backend::ok().await;
    let two = config(&backend).add_listener("other").listener("trust: local").top("overload: { maxConnections: 2 }");
    let proxy = Proxy::start(&two).await;
    let mut first = H1Client::connect(proxy.addr()).await;
    let mut second = H1Client::connect(proxy.listener("other")).await;
    assert_eq!((first.get("/").await.status, second.get("/").await.status), (200, 200));
    let mut third = H1Client::connect(proxy.addr()).await;
    third.send("GET / HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
    let accepted = || async { proxy.metric("outrigger_connections_total", &[]).await };
    assert_eq!(accepted().await, 2.0);
    drop(first);
    assert_eq!(third.response().await.status, 200, "there is room now");
    assert_eq!(accepted().await, 3.0);
}
