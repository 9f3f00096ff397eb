//! Attempts beside each other: a slow endpoint costs a delay and not the answer, nothing is done twice that must not be,
//! and losers stop at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::support::any::Version;
use crate::support::{
    Call, Config, Conn, H1Backend, H1Client, H2Backend, H2Client, PATIENCE, Proxy, h1_client, ms, response, within,
};

/// Far more than a delay and a fast answer, far less than any time limit.
const SOON: Duration = Duration::from_secs(3);

enum Hanging {
    H1(H1Backend),
    H2(H2Backend),
}

impl Hanging {
    async fn start(version: Version) -> Self {
        match version {
            Version::H1 => Self::H1(
                H1Backend::start(|mut conn: Conn| async move {
                    while conn.request().await.is_some() {
                        conn.closed().await;
                    }
                })
                .await,
            ),
            Version::H2 => Self::H2(
                H2Backend::start(|mut call: Call| async move {
                    call.reset_by_caller().await;
                })
                .await,
            ),
        }
    }

    fn addr(&self) -> std::net::SocketAddr {
        match self {
            Self::H1(backend) => backend.addr,
            Self::H2(backend) => backend.addr,
        }
    }

    /// Waits until so many requests were given up by the proxy.
    async fn gave_up(&self, count: usize) {
        match self {
            Self::H1(backend) => {
                backend
                    .until(PATIENCE, "the losers are closed", |records| {
                        records.iter().filter(|record| record.end.is_some()).count() == count
                    })
                    .await;
            }
            Self::H2(backend) => {
                backend
                    .until(PATIENCE, "the losers are reset", |calls| {
                        calls.iter().filter(|call| call.reset.is_some()).count() == count
                    })
                    .await;
                let mut resets = backend.calls().into_iter().filter_map(|call| call.reset);
                assert!(resets.all(|(_, reason)| reason == h2::Reason::CANCEL));
            }
        }
    }
}

fn config(version: Version, endpoints: &[std::net::SocketAddr], hedge: &str) -> Config {
    Config::to(version.protocol(), endpoints)
        .upstream("loadBalancing: { policy: roundRobin }")
        .rule(&format!("hedge: {{ {hedge} }}"))
}

async fn in_flight(proxy: &Proxy) -> u64 {
    let clusters = proxy.admin_json("/clusters").await;
    let cluster = &clusters[0];
    let endpoints = cluster["endpoints"].as_array().expect("endpoints").iter();
    let all: u64 = endpoints.map(|endpoint| endpoint["inFlight"].as_u64().expect("a number")).sum();
    all + cluster["inFlight"].as_u64().expect("a number")
}

#[tokio::test]
async fn a_hanging_endpoint_costs_the_delay_and_losers_end_at_once() {
    for version in [Version::H1, Version::H2] {
        let hanging = Hanging::start(version).await;
        let (h1, h2) = (H1Backend::ok().await, H2Backend::ok().await);
        let fast = if version == Version::H1 { h1.addr } else { h2.addr };
        let config = config(version, &[hanging.addr(), fast], "after: 60ms, budgetPercent: 100");
        let proxy = Proxy::start(&config.top("accessLog: stdout")).await;
        let mut client = H1Client::connect(proxy.addr()).await;
        let mut slow = 0;
        for _ in 0..10 {
            let began = Instant::now();
            assert_eq!(client.get("/").await.status, 200, "{version:?}");
            let took = began.elapsed();
            assert!(took < SOON, "{version:?}: {took:?}");
            slow += usize::from(took >= ms(60));
        }
        let hedged = proxy.metric("outrigger_upstream_hedges_total", &[]).await;
        assert!((3.0..=10.0).contains(&hedged), "{version:?}: {hedged} of 10, of which some begin at the hanging one");
        assert!(slow as f64 >= hedged, "{version:?}: {slow}");
        assert!(proxy.metric("outrigger_upstream_hedges_won_total", &[]).await >= 3.0);
        let lost = &["cause=\"hedge_lost\""];
        assert_eq!(proxy.metric("outrigger_upstream_wasted_total", lost).await, hedged);
        assert!(proxy.metric("outrigger_upstream_wasted_seconds_total", lost).await >= 0.15);
        hanging.gave_up(hedged as usize).await;
        assert_eq!(in_flight(&proxy).await, 0, "{version:?}");
        let clusters = proxy.admin_json("/clusters").await;
        let failures = clusters[0]["endpoints"][0]["failures"].as_u64();
        assert_eq!(failures, Some(0), "{version:?}: being slower than another is no failure");
        within(PATIENCE, "the log", async {
            while proxy.stdout().matches("\"hedged\"").count() < 3 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let line = proxy.stdout().lines().find(|line| line.contains("\"hedged\"")).map(str::to_owned).unwrap();
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["attempts"], 2, "{line}");
        assert_eq!(line["upstream_host"], fast.to_string(), "{line}");
    }
}

#[tokio::test]
async fn what_must_not_be_done_twice_is_not_hedged() {
    let slow = || {
        H1Backend::after_request(|mut conn: Conn| async move {
            // Until another attempt would long have been made.
            tokio::time::sleep(ms(150)).await;
            conn.send(response(200, &[("connection", "close")], b"done")).await.ok();
            conn.closed().await;
        })
    };
    let (a, b) = (slow().await, slow().await);
    let config = config(Version::H1, &[a.addr, b.addr], "after: 20ms, budgetPercent: 100");
    let proxy = Proxy::start(&config.rule("retry: { attempts: 1, on: [503], idempotencyKey: true }")).await;
    let seen = || a.requests().len() + b.requests().len();
    for n in 1..=4 {
        let post = "POST /pay HTTP/1.1\r\nhost: a.example\r\ncontent-length: 2\r\n\r\nhi";
        assert_eq!(h1_client::exchange(proxy.addr(), post).await.status, 200);
        assert_eq!(seen(), n, "a payment is never made twice");
    }
    let keyed = "POST /pay HTTP/1.1\r\nhost: a.example\r\nidempotency-key: 7\r\ncontent-length: 2\r\n\r\nhi";
    assert_eq!(h1_client::exchange(proxy.addr(), keyed).await.status, 200);
    assert_eq!(seen(), 6, "unless the application says that it can be");
    let again: Vec<_> = [&a, &b].iter().flat_map(|backend| backend.requests()).collect();
    let stamps = again.iter().filter(|request| request.head.get("x-outrigger-attempt") == Some("2")).count();
    assert_eq!(stamps, 1, "the second says that it is one");
}

#[tokio::test]
async fn hedged_attempts_stay_within_their_budget_when_everything_is_slow() {
    let slow = || {
        H2Backend::start(|mut call: Call| async move {
            tokio::time::sleep(ms(200)).await;
            call.reply(200, "late").await;
        })
    };
    let (a, b) = (slow().await, slow().await);
    let proxy = Proxy::start(&config(Version::H2, &[a.addr, b.addr], "after: 10ms, budgetPercent: 10")).await;
    let mut requests = JoinSet::new();
    for _ in 0..100 {
        let client = H2Client::connect(proxy.addr()).await;
        requests.spawn(async move { client.get("/").await.status });
    }
    while let Some(status) = requests.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    let hedged = proxy.metric("outrigger_upstream_hedges_total", &[]).await;
    assert!((1.0..=10.0).contains(&hedged), "{hedged} of 100");
    assert_eq!((a.count() + b.count()) as f64, 100.0 + hedged);
    assert!(proxy.metric("outrigger_upstream_hedge_budget_exhausted_total", &[]).await >= 80.0);
}

#[tokio::test]
async fn both_attempts_get_the_whole_body_also_of_an_upload_that_still_streams() {
    let heads = Arc::new(AtomicUsize::new(0));
    let all = Arc::new(Notify::new());
    let whole = Arc::new(AtomicUsize::new(0));
    let serve = {
        let (heads, whole, all) = (Arc::clone(&heads), Arc::clone(&whole), Arc::clone(&all));
        move |mut conn: Conn| {
            let (heads, whole, all) = (Arc::clone(&heads), Arc::clone(&whole), Arc::clone(&all));
            async move {
                let Some(mut request) = conn.request_head().await else { return };
                heads.fetch_add(1, Ordering::SeqCst);
                if !conn.finish_request(&mut request).await {
                    return;
                }
                let both = all.notified();
                if whole.fetch_add(1, Ordering::SeqCst) == 1 {
                    all.notify_waiters();
                } else {
                    both.await;
                }
                conn.send(response(200, &[("connection", "close")], b"got it")).await.ok();
                conn.closed().await;
            }
        }
    };
    let (a, b) = (H1Backend::start(serve.clone()).await, H1Backend::start(serve).await);
    let proxy = Proxy::start(&config(Version::H1, &[a.addr, b.addr], "after: 50ms, budgetPercent: 100")).await;
    let mut client = H1Client::connect(proxy.addr()).await;
    let body: Vec<u8> = (0..40_000_u32).flat_map(u32::to_le_bytes).take(40_000).collect();
    client.send(format!("PUT / HTTP/1.1\r\nhost: a.example\r\ncontent-length: {}\r\n\r\n", body.len())).await;
    client.send(&body[..15_000]).await;
    within(PATIENCE, "a second attempt while the upload stands still", async {
        while heads.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    client.send(&body[15_000..]).await;
    assert_eq!(client.response().await.status, 200);
    for backend in [&a, &b] {
        assert!(backend.only_request().body == body, "each byte once and in order");
        backend.assert_clean();
    }
}

#[tokio::test]
async fn a_failure_waits_for_the_attempt_beside_it() {
    let count = Arc::new(AtomicUsize::new(0));
    let serve = {
        let count = Arc::clone(&count);
        move |mut call: Call| {
            let first = count.fetch_add(1, Ordering::SeqCst) == 0;
            async move {
                if first {
                    tokio::time::sleep(ms(250)).await;
                    call.reply(200, "slow and good").await;
                } else {
                    call.reply(503, "fast and bad").await;
                }
            }
        }
    };
    let (a, b) = (H2Backend::start(serve.clone()).await, H2Backend::start(serve).await);
    let proxy = Proxy::start(&config(Version::H2, &[a.addr, b.addr], "after: 20ms, budgetPercent: 100")).await;
    let reply = h1_client::get(proxy.addr(), "/").await;
    assert_eq!((reply.status, reply.text().as_str()), (200, "slow and good"));
    assert_eq!(count.load(Ordering::SeqCst), 2);
    assert_eq!(proxy.metric("outrigger_upstream_hedges_won_total", &[]).await, 0.0);
}

#[tokio::test]
async fn when_all_attempts_fail_the_failure_is_the_answer() {
    let serve = |mut call: Call| async move {
        tokio::time::sleep(ms(100)).await;
        call.reply(503, "busy").await;
    };
    let (a, b) = (H2Backend::start(serve).await, H2Backend::start(serve).await);
    let proxy = Proxy::start(&config(Version::H2, &[a.addr, b.addr], "after: 20ms, budgetPercent: 100")).await;
    let reply = h1_client::get(proxy.addr(), "/").await;
    assert_eq!((reply.status, reply.text().as_str()), (503, "busy"));
    assert_eq!(a.count() + b.count(), 2);
    assert_eq!(in_flight(&proxy).await, 0);
}

/// One attempt reads on beyond what can be kept, and the other can no longer have the body: that is not the caller's
/// fault when the one that has it fails.
#[tokio::test]
async fn an_attempt_that_lost_the_upload_to_the_other_is_not_blamed_on_the_caller() {
    let heads = Arc::new(AtomicUsize::new(0));
    let serve = {
        let heads = Arc::clone(&heads);
        move |mut conn: Conn| {
            let heads = Arc::clone(&heads);
            async move {
                let Some(mut request) = conn.request_head().await else { return };
                heads.fetch_add(1, Ordering::SeqCst);
                if conn.finish_request(&mut request).await {
                    conn.reset();
                }
            }
        }
    };
    let (a, b) = (H1Backend::start(serve.clone()).await, H1Backend::start(serve).await);
    let proxy = Proxy::start(&config(Version::H1, &[a.addr, b.addr], "after: 50ms, budgetPercent: 100")).await;
    let mut client = H1Client::connect(proxy.addr()).await;
    let body = vec![b'x'; 400_000];
    client.send(format!("PUT / HTTP/1.1\r\nhost: a.example\r\ncontent-length: {}\r\n\r\n", body.len())).await;
    client.send(&body[..15_000]).await;
    within(PATIENCE, "a second attempt while the upload stands still", async {
        while heads.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    client.send(&body[15_000..]).await;
    let reply = client.response().await;
    assert_eq!(reply.status, 502, "{reply:?}");
    assert!(matches!(reply.reason(), Some("UC" | "UR")), "{reply:?}");
    assert_eq!((a.connections(), b.connections()), (1, 1));
}

#[tokio::test]
async fn a_caller_that_leaves_ends_all_attempts() {
    let (a, b) = (Hanging::start(Version::H2).await, Hanging::start(Version::H2).await);
    let config = config(Version::H2, &[a.addr(), b.addr()], "after: 20ms, budgetPercent: 100");
    let proxy = Proxy::start(&config).await;
    let client = H1Client::connect(proxy.addr()).await;
    client.send("GET / HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
    for backend in [&a, &b] {
        let Hanging::H2(backend) = backend else { panic!("HTTP/2") };
        backend.until(PATIENCE, "the request", |calls| !calls.is_empty()).await;
    }
    drop(client);
    a.gave_up(1).await;
    b.gave_up(1).await;
    within(PATIENCE, "both are counted", async {
        while proxy.metric("outrigger_upstream_wasted_total", &["cause=\"caller_left\""]).await < 2.0 {}
    })
    .await;
    assert_eq!(in_flight(&proxy).await, 0);
}

#[tokio::test]
async fn without_another_endpoint_nothing_is_hedged() {
    let slow = H2Backend::start(|mut call: Call| async move {
        tokio::time::sleep(ms(100)).await;
        call.reply(200, "late").await;
    })
    .await;
    let proxy = Proxy::start(&config(Version::H2, &[slow.addr], "after: 10ms, budgetPercent: 100")).await;
    for _ in 0..3 {
        assert_eq!(h1_client::get(proxy.addr(), "/").await.status, 200);
    }
    assert_eq!(slow.count(), 3);
}

#[tokio::test]
async fn a_percentile_is_learnt_from_the_answers() {
    let hangs = Arc::new(AtomicBool::new(false));
    let serve = |hangs: Arc<AtomicBool>| {
        move |mut call: Call| {
            let hangs = hangs.load(Ordering::SeqCst);
            async move {
                if hangs {
                    call.reset_by_caller().await;
                } else {
                    call.reply(200, "ok").await;
                }
            }
        }
    };
    let a = H2Backend::start(serve(Arc::clone(&hangs))).await;
    let b = H2Backend::start(serve(Arc::default())).await;
    let hedge = "percentile: 90, min: 40ms, budgetPercent: 100";
    let proxy = Proxy::start(&config(Version::H2, &[a.addr, b.addr], hedge)).await;
    let client = H2Client::connect(proxy.addr()).await;
    for _ in 0..60 {
        assert_eq!(client.get("/").await.status, 200);
    }
    hangs.store(true, Ordering::SeqCst);
    // What is known is looked at ten times a second.
    tokio::time::sleep(ms(120)).await;
    for _ in 0..6 {
        let began = Instant::now();
        assert_eq!(client.get("/").await.status, 200);
        assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    }
    assert!(proxy.metric("outrigger_upstream_hedges_won_total", &[]).await >= 3.0);
}
