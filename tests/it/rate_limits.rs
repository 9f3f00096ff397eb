//! Rate limits that the proxy keeps by itself, over real sockets.

use std::time::{Duration, Instant};

use crate::support::http1::Response;
use crate::support::{Config, H1Backend, H1Client, Mesh, Proxy, TlsClient, h1_client};

async fn get(proxy: &Proxy, path: &str, headers: &str) -> Response {
    h1_client::exchange(proxy.addr(), format!("GET {path} HTTP/1.1\r\nhost: a\r\n{headers}\r\n")).await
}

async fn limited(proxy: &Proxy, limit: &str, result: &str) -> f64 {
    let labels = [&*format!("limit=\"{limit}\""), &*format!("result=\"{result}\"")];
    proxy.metric("outrigger_rate_limit_requests_total", &labels).await
}

#[tokio::test]
async fn limits_of_listeners_and_rules_hold_for_all_workers_and_say_how_they_stand() {
    let backend = H1Backend::ok().await;
    let config = Config::to("http1", &[backend.addr])
        .listener("rateLimits: [{ name: per-client, by: [address], requests: 100, per: 1h }]")
        .rule("rateLimits: [{ name: per-tenant, by: [{ header: x-tenant }], requests: 5, per: 1h, burst: 10 }]");
    let proxy = Proxy::start(&config).await;
    // Connections go to both workers in turn.
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(H1Client::connect(proxy.addr()).await);
    }
    let mut statuses = Vec::new();
    for round in 0..5 {
        for client in &mut clients {
            let answer = client.exchange("GET / HTTP/1.1\r\nhost: a\r\nx-tenant: t\r\n\r\n").await;
            if round == 0 && statuses.is_empty() {
                let policies = answer.head.all("ratelimit-policy");
                assert_eq!(policies, [r#""per-client";q=100;w=3600"#, r#""per-tenant";q=10;w=7200"#]);
                assert_eq!(answer.head.all("ratelimit"), [r#""per-client";r=99;t=36"#, r#""per-tenant";r=9;t=720"#]);
            }
            if answer.status == 429 {
                assert_eq!(answer.reason(), Some("RL"));
                let after: u64 = answer.head.get("retry-after").expect("when").parse().expect("seconds");
                assert!((700..=900).contains(&after), "{after}");
            }
            statuses.push(answer.status);
        }
    }
    assert_eq!(statuses.iter().filter(|&&status| status == 200).count(), 10, "{statuses:?}");
    assert_eq!(backend.requests().len(), 10);
    assert_eq!(
        (limited(&proxy, "per-tenant", "admitted").await, limited(&proxy, "per-tenant", "refused").await),
        (10.0, 10.0)
    );
    let other = get(&proxy, "/", "x-tenant: u\r\n").await;
    assert_eq!(other.head.all("ratelimit")[0], r#""per-client";r=89;t=396"#, "refusals took nothing from it");
    assert_eq!(get(&proxy, "/", "").await.status, 200);
}

#[tokio::test]
async fn tokens_come_back_as_time_goes() {
    let backend = H1Backend::ok().await;
    let config =
        Config::to("http1", &[backend.addr]).rule("rateLimits: [{ name: fast, requests: 20, per: 1s, burst: 5 }]");
    let proxy = Proxy::start(&config).await;
    let mut client = H1Client::connect(proxy.addr()).await;
    let began = Instant::now();
    let mut passed = 0_u32;
    while began.elapsed() < Duration::from_secs(1) {
        passed += u32::from(client.exchange("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.status == 200);
    }
    // The last one was answered a little later.
    let allowed = 5.0 + 20.0 * began.elapsed().as_secs_f64();
    assert!(passed >= 20 && f64::from(passed) <= allowed, "{passed} of at most {allowed}");
}

#[tokio::test]
async fn levels_survive_a_new_configuration() {
    let backend = H1Backend::ok().await;
    let with = |limit: &str| Config::to("http1", &[backend.addr]).rule(&format!("rateLimits: [{{ {limit} }}]"));
    let proxy = Proxy::start(&with("name: a, requests: 3, per: 1h")).await;
    for status in [200, 200, 200, 429] {
        assert_eq!(get(&proxy, "/", "").await.status, status);
    }
    proxy.replace_config(&with("name: a, requests: 6, per: 1h"));
    proxy.logged("generation=2").await;
    // What was owed is an hour; it is the whole burst of the new rate.
    assert_eq!(get(&proxy, "/", "").await.status, 429);
    proxy.replace_config(&with("name: b, requests: 1, per: 1h"));
    proxy.logged("generation=3").await;
    assert_eq!(get(&proxy, "/", "").await.status, 200);
}

#[tokio::test]
async fn an_identity_has_a_rate_of_its_own() {
    let (backend, mesh) = (H1Backend::ok().await, Mesh::new());
    let config = Config::to("http1", &[backend.addr])
        .top(&mesh.identity("shop/web"))
        .listener("tls: { mode: permissive, clientCertificate: optional }")
        .listener("rateLimits: [{ name: caller, by: [identity], requests: 1, per: 1h }]");
    let proxy = Proxy::start(&config).await;
    for (who, statuses) in [("shop/cart", [200, 429]), ("shop/till", [200, 429])] {
        let client = TlsClient::with(&mesh.svid(who));
        for status in statuses {
            let (_, answer) = client.attempt(proxy.addr()).await.expect("served");
            assert_eq!(answer.status, status, "{who}");
        }
    }
    for _ in 0..3 {
        assert_eq!(get(&proxy, "/", "").await.status, 200, "nobody in particular");
    }
}
