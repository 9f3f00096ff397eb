//! Going down: no request fails when an instance stops while callers spread over it and
//! another one, or while another one shares its port.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::support::{
    Config, Conn, H1Backend, H1Client, H2Client, PATIENCE, Proxy, gate, h1_client, h2_client, ms, response, within,
};

const DRAIN: &str = "drain: { acceptFor: 500ms, deadline: 4s }";

/// Two instances and what callers know of them: like a load balancer, they ask for readiness before
/// they open a connection, and use an open connection until it says goodbye.
#[derive(Debug)]
struct Instances {
    listeners: Vec<std::net::SocketAddr>,
    ready: Vec<AtomicBool>,
    stop: AtomicBool,
    served: AtomicU64,
}

impl Instances {
    fn pick(&self, wanted: usize) -> std::net::SocketAddr {
        let count = self.listeners.len();
        (0..count)
            .map(|step| (wanted + step) % count)
            .find(|&at| self.ready[at].load(Ordering::Relaxed))
            .map(|at| self.listeners[at])
            .expect("one instance is ready")
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// An HTTP/1.1 caller: reconnects when it was told to, or after ten requests.
async fn h1_caller(instances: Arc<Instances>, number: usize) {
    let mut turn = number;
    while !instances.stopped() {
        turn += 1;
        let addr = instances.pick(turn);
        let mut client = H1Client::connect(addr).await;
        for _ in 0..if number.is_multiple_of(2) { 10 } else { 1_000_000 } {
            let reply = client.get("/").await;
            assert_eq!((reply.status, reply.text().as_str()), (200, "ok"), "caller {number}");
            instances.served.fetch_add(1, Ordering::Relaxed);
            if reply.head.get("connection") == Some("close") || instances.stopped() {
                break;
            }
        }
    }
}

/// An HTTP/2 caller: a request that the peer says it did not process (GOAWAY, REFUSED_STREAM) is no
/// failure, it goes to a new connection.
async fn h2_caller(instances: Arc<Instances>, number: usize) {
    let mut turn = number;
    while !instances.stopped() {
        turn += 1;
        let client = H2Client::connect(instances.pick(turn)).await;
        while !instances.stopped() {
            match client.send(h2_client::post("/"), "hello", None).await {
                Ok(reply) => {
                    assert_eq!((reply.status, &reply.body[..]), (200, &b"ok"[..]), "{number}");
                    instances.served.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    let unprocessed = error.reason() == Some(h2::Reason::REFUSED_STREAM)
                        || error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
                    assert!(unprocessed, "caller {number}: {error}");
                    break;
                }
            }
        }
    }
}

async fn spread_over(instances: &Arc<Instances>) -> JoinSet<()> {
    let mut callers = JoinSet::new();
    for number in 0..4 {
        callers.spawn(h1_caller(Arc::clone(instances), number));
        callers.spawn(h2_caller(Arc::clone(instances), number));
    }
    callers
}

async fn join(mut callers: JoinSet<()>) {
    while let Some(done) = within(PATIENCE, "the callers", callers.join_next()).await {
        done.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_stops_beside_another_fails_no_request() {
    gate::exclusive();
    let backend = H1Backend::ok().await;
    let config = Config::to("http1", &[backend.addr]).top(DRAIN);
    let mut first = Proxy::start(&config).await;
    let second = Proxy::start(&config).await;
    let instances = Arc::new(Instances {
        listeners: vec![first.addr(), second.addr()],
        ready: vec![AtomicBool::new(true), AtomicBool::new(true)],
        stop: AtomicBool::new(false),
        served: AtomicU64::new(0),
    });
    let callers = spread_over(&instances).await;
    served_more(&instances, 500).await;

    first.signal("TERM");
    let told = Instant::now();
    // The load balancer needs a moment to see it.
    while first.try_admin("GET", "/ready").await.is_some_and(|(status, _)| status == 200) {
        assert!(told.elapsed() < PATIENCE, "readiness is withdrawn");
    }
    instances.ready[0].store(false, Ordering::Relaxed);
    let status = first.exit(Duration::from_secs(15)).await;
    assert!(status.success(), "{status}");
    assert!(told.elapsed() >= ms(450), "it still accepted for a while: {:?}", told.elapsed());
    served_more(&instances, 500).await;
    instances.stop.store(true, Ordering::Relaxed);
    join(callers).await;
    assert_eq!(second.metric("outrigger_requests_in_flight", &[]).await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_stops_while_another_shares_its_port_fails_no_request() {
    gate::exclusive();
    let backend = H1Backend::ok().await;
    let config = Config::to("http1", &[backend.addr]).top(DRAIN);
    let mut first = Proxy::start(&config).await;
    let instances = Arc::new(Instances {
        listeners: vec![first.addr()],
        ready: vec![AtomicBool::new(true)],
        stop: AtomicBool::new(false),
        served: AtomicU64::new(0),
    });
    let callers = spread_over(&instances).await;
    served_more(&instances, 200).await;
    let mut generations = Vec::new();
    for _ in 0..3 {
        let next = first.start_beside(&config).await;
        served_more(&instances, 200).await;
        first.signal("TERM");
        let status = first.exit(Duration::from_secs(15)).await;
        assert!(status.success(), "{status}");
        served_more(&instances, 200).await;
        generations.push(std::mem::replace(&mut first, next));
    }
    instances.stop.store(true, Ordering::Relaxed);
    join(callers).await;
}

async fn served_more(instances: &Instances, count: u64) {
    let goal = instances.served.load(Ordering::Relaxed) + count;
    crate::support::eventually(PATIENCE, "more requests are served", || {
        instances.served.load(Ordering::Relaxed) >= goal
    })
    .await;
}

#[tokio::test]
async fn readiness_goes_first_and_the_listener_last() {
    let backend = H1Backend::ok().await;
    let mut proxy =
        Proxy::start(&Config::to("http1", &[backend.addr]).top("drain: { acceptFor: 1s, deadline: 3s }")).await;
    assert_eq!(proxy.admin("/live").await.0, 200);
    proxy.signal("TERM");
    let told = Instant::now();
    while proxy.admin("/ready").await.0 == 200 {
        assert!(told.elapsed() < ms(900), "readiness is withdrawn at once");
    }
    assert_eq!(proxy.admin("/ready").await.0, 503);
    assert_eq!(proxy.admin("/live").await.0, 200, "draining is not dead");
    let reply = h1_client::get(proxy.addr(), "/").await;
    assert_eq!(reply.status, 200, "new connections are still served");
    let status = proxy.exit(PATIENCE).await;
    assert!(status.success(), "{status}");
    assert!(told.elapsed() >= ms(950), "{:?}", told.elapsed());
}

#[tokio::test]
async fn what_was_begun_is_finished_before_the_exit() {
    let (release, gate) = tokio::sync::watch::channel(false);
    let backend = H1Backend::start(move |mut conn: Conn| {
        let mut gate = gate.clone();
        async move {
            while conn.request().await.is_some() {
                gate.wait_for(|open| *open).await.ok();
                conn.send(response(200, &[], b"late")).await.ok();
            }
        }
    })
    .await;
    let mut proxy =
        Proxy::start(&Config::to("http1", &[backend.addr]).top("drain: { acceptFor: 100ms, deadline: 6s }")).await;
    let mut h1 = H1Client::connect(proxy.addr()).await;
    h1.send("GET / HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
    let h2 = H2Client::connect(proxy.addr()).await;
    let (reply, _) = h2.open(h2_client::get("/"), true).await.unwrap();
    backend.until(PATIENCE, "both", |r| r.iter().filter(|r| !r.requests.is_empty()).count() == 2).await;
    proxy.signal("TERM");
    let told = Instant::now();
    while tokio::net::TcpStream::connect(proxy.addr()).await.is_ok() {
        assert!(told.elapsed() < PATIENCE, "the listener is closed in the end");
    }
    assert!(!proxy.has_exited(), "two requests are still being served");
    release.send_replace(true);
    // Connections are told to go one after the other, so the first answer may not say so yet; until one does,
    // none is lost.
    let mut late = h1.response().await;
    while late.head.get("connection") != Some("close") {
        assert_eq!(late.text(), "late");
        late = h1.get("/").await;
    }
    assert_eq!(late.text(), "late");
    assert_eq!(within(PATIENCE, "the reply", h2_client::read(reply)).await.unwrap().body, "late");
    assert!(proxy.exit(PATIENCE).await.success());
}

#[tokio::test]
async fn the_deadline_ends_what_does_not_end_by_itself() {
    let backend = H1Backend::start(|mut conn: Conn| async move {
        if conn.request().await.is_some() {
            conn.closed().await;
        }
    })
    .await;
    let mut proxy =
        Proxy::start(&Config::to("http1", &[backend.addr]).top("drain: { acceptFor: 100ms, deadline: 1s }")).await;
    let client = H1Client::connect(proxy.addr()).await;
    client.send("GET / HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
    backend.until(PATIENCE, "the request", |r| r.iter().any(|r| !r.requests.is_empty())).await;
    let told = Instant::now();
    proxy.signal("TERM");
    proxy.exit(PATIENCE).await;
    assert!(told.elapsed() >= ms(900) && told.elapsed() < ms(5000), "{:?}", told.elapsed());
}

#[tokio::test]
async fn an_idle_proxy_goes_down_after_the_accept_time() {
    let backend = H1Backend::ok().await;
    let mut proxy =
        Proxy::start(&Config::to("http1", &[backend.addr]).top("drain: { acceptFor: 200ms, deadline: 3s }")).await;
    let mut idle = H1Client::connect(proxy.addr()).await;
    assert_eq!(idle.get("/").await.status, 200);
    let idle_h2 = H2Client::connect(proxy.addr()).await;
    assert_eq!(idle_h2.get("/").await.status, 200);
    let told = Instant::now();
    proxy.signal("TERM");
    idle.closed(PATIENCE).await;
    let ended = within(PATIENCE, "GOAWAY and the end", idle_h2.driver).await.unwrap();
    assert!(ended.is_ok(), "a graceful end: {ended:?}");
    assert!(proxy.exit(PATIENCE).await.success());
    assert!(told.elapsed() < ms(10_000), "{:?}", told.elapsed());
}

#[tokio::test]
async fn the_admin_server_can_start_a_drain() {
    let backend = H1Backend::ok().await;
    let mut proxy =
        Proxy::start(&Config::to("http1", &[backend.addr]).top("drain: { acceptFor: 200ms, deadline: 5s }")).await;
    let (status, body) = proxy.admin_post("/drain").await;
    assert!((200..300).contains(&status), "{status}: {body}");
    assert!(proxy.exit(PATIENCE).await.success());
}

#[tokio::test]
async fn a_second_signal_ends_the_process_at_once() {
    let backend = H1Backend::start(|mut conn: Conn| async move {
        if conn.request().await.is_some() {
            conn.closed().await;
        }
    })
    .await;
    let mut proxy =
        Proxy::start(&Config::to("http1", &[backend.addr]).top("drain: { acceptFor: 30s, deadline: 60s }")).await;
    let client = H1Client::connect(proxy.addr()).await;
    client.send("GET / HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
    backend.until(PATIENCE, "the request", |r| r.iter().any(|r| !r.requests.is_empty())).await;
    proxy.signal("TERM");
    let told = Instant::now();
    while proxy.admin("/ready").await.0 == 200 {
        assert!(told.elapsed() < PATIENCE, "the drain has begun");
    }
    proxy.signal("TERM");
    proxy.exit(ms(3000)).await;
}
