//! Three hops of proxies before a backend that fails every request, and all of them told to try again twice: the
//! backend must not get more than a quarter more than its callers send. Retries of 20 % at each hop would make it 73 %.
//!
//! 150 requests a second for 2 s here; `OUTRIGGER_FULL=1` makes it 1,000 for 5 s.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::support::{
    Call, Config, Conn, H1Backend, H2Backend, H2Client, PATIENCE, Proxy, full, gate, h2_client, ms, response, within,
};

const RETRYING: &str = "retry: { attempts: 2, on: [5xx] }";
const NO_BREAKER: &str = "circuitBreaker: { failureThreshold: 0 }";

/// How the backend fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failing {
    /// 503, on connections that are kept.
    Answers,
    /// It closes the connection with a reset once it has read the request.
    Resets,
    /// Each in turn, so that connections that are kept die under requests.
    Both,
    /// It resets the streams of HTTP/2.
    Streams,
    /// It never answers; hops give up, each later than the one after it.
    Silence,
}

/// A backend that fails, and how many requests it got.
struct Backend {
    protocol: &'static str,
    addr: SocketAddr,
    requests: Arc<AtomicUsize>,
    _alive: (Option<H1Backend>, Option<H2Backend>),
}

impl Backend {
    async fn start(failing: Failing) -> Self {
        let requests = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&requests);
        if failing == Failing::Streams {
            let backend = H2Backend::start(move |mut call: Call| {
                count.fetch_add(1, Ordering::Relaxed);
                async move { call.reset(h2::Reason::INTERNAL_ERROR) }
            })
            .await;
            return Self { protocol: "http2", addr: backend.addr, requests, _alive: (None, Some(backend)) };
        }
        let backend = H1Backend::start(move |mut conn: Conn| {
            let count = Arc::clone(&count);
            async move {
                while conn.request().await.is_some() {
                    let number = count.fetch_add(1, Ordering::Relaxed);
                    if failing == Failing::Silence {
                        conn.closed().await;
                        return;
                    }
                    if failing == Failing::Resets || (failing == Failing::Both && number.is_multiple_of(2)) {
                        return conn.reset();
                    }
                    if conn.send(response(503, &[], b"busy")).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await;
        Self { protocol: "http1", addr: backend.addr, requests, _alive: (Some(backend), None) }
    }
}

/// Sends requests at a steady rate; how many were sent, and the statuses of their answers.
async fn load(addr: SocketAddr) -> (usize, Vec<u16>) {
    let (rate, time) = if full() { (1_000, Duration::from_secs(5)) } else { (150, Duration::from_secs(2)) };
    let client = Arc::new(H2Client::connect(addr).await);
    let mut asking = JoinSet::new();
    let start = Instant::now();
    let mut sent = 0;
    while start.elapsed() < time {
        // As many as are due, whatever became of those before.
        while sent < (start.elapsed().as_secs_f64() * f64::from(rate)) as usize {
            let client = Arc::clone(&client);
            asking.spawn(async move { client.get("/").await.status });
            sent += 1;
        }
        tokio::time::sleep(ms(5)).await;
    }
    (sent, within(PATIENCE, "all answers", asking.join_all()).await)
}

async fn storm(failing: Failing, breaker: &str, trust: &str) -> f64 {
    let backend = Backend::start(failing).await;
    let hop = |protocol: &str, next: SocketAddr, patience: &str| {
        let mut config = Config::to(protocol, &[next]).rule(RETRYING).listener(trust);
        if failing == Failing::Silence {
            config = config.rule(&format!("timeouts: {{ backendRequest: {patience} }}"));
        }
        if !breaker.is_empty() {
            config = config.upstream(breaker);
        }
        config
    };
    let last = Proxy::start(&hop(backend.protocol, backend.addr, "100ms")).await;
    let middle = Proxy::start(&hop("http2", last.addr(), "250ms")).await;
    let first = Proxy::start(&hop("http2", middle.addr(), "600ms")).await;
    let (sent, statuses) = load(first.addr()).await;
    assert_eq!(statuses.len(), sent);
    assert!(statuses.iter().all(|status| (500..600).contains(status)), "{statuses:?}");
    let requests = backend.requests.load(Ordering::Relaxed);
    let factor = requests as f64 / sent as f64;
    let mut retries = Vec::new();
    for proxy in [&first, &middle, &last] {
        retries.push(proxy.metric("outrigger_upstream_retries_total", &[]).await);
    }
    println!("{failing:?} {breaker:?}: {requests} of {sent} reached the backend ({factor:.3}); retries {retries:?}");
    factor
}

#[tokio::test]
async fn three_hops_of_retries_do_not_multiply_without_breakers() {
    gate::exclusive();
    for failing in [Failing::Answers, Failing::Resets, Failing::Both, Failing::Streams] {
        let factor = storm(failing, NO_BREAKER, "trust: none").await;
        assert!(factor <= 1.25, "{failing:?}: {factor}");
        assert!(factor >= 1.1, "{failing:?}: {factor}: the hop before the backend retries");
    }
}

#[tokio::test]
async fn three_hops_of_retries_do_not_multiply_when_hops_trust_each_other() {
    gate::exclusive();
    for failing in [Failing::Both, Failing::Silence] {
        let factor = storm(failing, NO_BREAKER, "trust: { hops: 2 }").await;
        assert!(factor <= 1.25, "{failing:?}: {factor}");
        assert!(factor >= 1.1, "{failing:?}: {factor}: the hop before the backend retries");
    }
}

#[tokio::test]
async fn three_hops_of_retries_do_not_multiply_with_the_usual_breakers() {
    gate::exclusive();
    for failing in [Failing::Answers, Failing::Resets] {
        let factor = storm(failing, "", "trust: none").await;
        assert!(factor <= 1.25, "{failing:?}: {factor}");
    }
}

/// Where the hop before the backend does not retry, the one before it does, and the first does not.
#[tokio::test]
async fn a_hop_that_does_not_retry_leaves_it_to_the_one_before() {
    let backend = Backend::start(Failing::Answers).await;
    let last = Proxy::start(&Config::to("http1", &[backend.addr])).await;
    let middle = Proxy::start(&Config::to("http2", &[last.addr()]).rule(RETRYING)).await;
    let first = Proxy::start(&Config::to("http2", &[middle.addr()]).rule(RETRYING)).await;
    let reply = H2Client::connect(first.addr()).await.fetch(h2_client::get("/")).await.expect("an answer");
    assert_eq!((reply.status, reply.header("x-outrigger-retried")), (503, Some("exhausted")));
    assert_eq!(backend.requests.load(Ordering::Relaxed), 3, "one and two retries of the hop in the middle");
    assert_eq!(first.metric("outrigger_upstream_retries_total", &[]).await, 0.0);
}
