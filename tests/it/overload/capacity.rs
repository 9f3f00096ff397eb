//! Three times as many requests as a backend can answer: how many are answered all the same, how fast, and whose.
//!
//! The backend has a fixed number of workers, each busy for as long as a request takes, and answers in order, as a service
//! with a pool of threads does. Requests come at random moments, whatever becomes of those before.
//!
//! `OUTRIGGER_FULL=1` measures longer, with a queue as well, and a stock Envoy with its adaptive concurrency beside it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::interop::subject::{Envoy, socket};
use crate::support::{Config, Proxy, full, gate, ms};

const WORKERS: usize = 10;
/// On average; each request takes half of it to one and a half.
const SERVICE: Duration = ms(40);
/// Percent of the requests.
const CRITICAL: u64 = 15;
const DEFAULT: u64 = 25;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Critical,
    Default,
    Sheddable,
}

#[derive(Debug, Clone, Copy)]
struct Done {
    class: Class,
    status: u16,
    began: Instant,
    took: Duration,
}

/// What a run has shown.
#[derive(Debug, Clone, Copy)]
struct Figures {
    /// Answered, a second.
    goodput: f64,
    /// Of those answered.
    p99: Duration,
    /// The worst half second.
    worst: f64,
    /// Not answered, of each class.
    lost: [f64; 3],
}

/// A small generator: the same requests in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Between 0 and 1.
    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

async fn backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    let workers = Arc::new(Semaphore::new(WORKERS));
    let random = Arc::new(Mutex::new(Random(0x9E37_79B9_7F4A_7C15)));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).ok();
            tokio::spawn(serve(stream, Arc::clone(&workers), Arc::clone(&random)));
        }
    });
    addr
}

async fn serve(mut stream: TcpStream, workers: Arc<Semaphore>, random: Arc<Mutex<Random>>) {
    let mut seen = Vec::new();
    while read_head(&mut stream, &mut seen).await.is_some() {
        {
            let _worker = workers.acquire().await.expect("open");
            let time = SERVICE.mul_f64(0.5 + random.lock().share());
            tokio::time::sleep(time).await;
        }
        if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.is_err() {
            return;
        }
    }
}

/// A head without a body behind it; `None` at the end.
async fn read_head(stream: &mut TcpStream, seen: &mut Vec<u8>) -> Option<Vec<u8>> {
    loop {
        if let Some(end) = memchr::memmem::find(seen, b"\r\n\r\n") {
            return Some(seen.drain(..end + 4).collect());
        }
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk).await {
            Ok(count) if count > 0 => seen.extend_from_slice(&chunk[..count]),
            _ => return None,
        }
    }
}

/// Connections to a proxy, used again.
struct Callers {
    addr: SocketAddr,
    idle: Mutex<Vec<TcpStream>>,
    done: Mutex<Vec<Done>>,
}

impl Callers {
    fn new(addr: SocketAddr) -> Arc<Self> {
        Arc::new(Self { addr, idle: Mutex::default(), done: Mutex::default() })
    }

    async fn call(self: Arc<Self>, class: Class) {
        let began = Instant::now();
        let status = self.exchange(class).await.unwrap_or(0);
        self.done.lock().push(Done { class, status, began, took: began.elapsed() });
    }

    async fn exchange(&self, class: Class) -> Option<u16> {
        let idle = self.idle.lock().pop();
        let mut stream = match idle {
            Some(stream) => stream,
            None => TcpStream::connect(self.addr).await.ok()?,
        };
        stream.set_nodelay(true).ok();
        let word = match class {
            Class::Critical => "critical",
            Class::Default => "default",
            Class::Sheddable => "sheddable",
        };
        let ask = format!("GET / HTTP/1.1\r\nhost: a.example\r\nx-outrigger-criticality: {word}\r\n\r\n");
        stream.write_all(ask.as_bytes()).await.ok()?;
        let mut seen = Vec::new();
        let head = String::from_utf8(read_head(&mut stream, &mut seen).await?).ok()?.to_lowercase();
        let length: usize = head.split("content-length: ").nth(1)?.split("\r\n").next()?.parse().ok()?;
        while seen.len() < length {
            let mut chunk = [0; 4096];
            match stream.read(&mut chunk).await {
                Ok(count) if count > 0 => seen.extend_from_slice(&chunk[..count]),
                _ => return None,
            }
        }
        self.idle.lock().push(stream);
        head.split(' ').nth(1)?.parse().ok()
    }

    /// So many requests a second for so long, at random moments.
    async fn load(self: &Arc<Self>, rate: f64, time: Duration) {
        let mut random = Random(0x2545_F491_4F6C_DD1D);
        let start = tokio::time::Instant::now();
        let mut next = start;
        let mut calls = tokio::task::JoinSet::new();
        while next < start + time {
            tokio::time::sleep_until(next).await;
            let class = match random.next() % 100 {
                at if at < CRITICAL => Class::Critical,
                at if at < CRITICAL + DEFAULT => Class::Default,
                _ => Class::Sheddable,
            };
            calls.spawn(Arc::clone(self).call(class));
            next += Duration::from_secs_f64(-(1.0 - random.share()).ln() / rate);
        }
        calls.join_all().await;
    }
}

/// What was seen of requests that began after `from` and before `to`.
fn figures(done: &[Done], from: Instant, to: Instant) -> Figures {
    let within: Vec<&Done> = done.iter().filter(|done| done.began >= from && done.began < to).collect();
    let mut times: Vec<Duration> = within.iter().filter(|done| done.status == 200).map(|done| done.took).collect();
    times.sort_unstable();
    let halves = (to - from).as_millis() / 500;
    let worst = (0..halves)
        .map(|at| {
            let start = from + ms(500) * at as u32;
            let ends = |done: &&Done| {
                done.status == 200 && done.began + done.took >= start && done.began + done.took < start + ms(500)
            };
            done.iter().filter(ends).count() as f64 * 2.0
        })
        .fold(f64::MAX, f64::min);
    let lost = [Class::Critical, Class::Default, Class::Sheddable].map(|class| {
        let all = within.iter().filter(|done| done.class == class).count();
        let lost = within.iter().filter(|done| done.class == class && done.status != 200).count();
        lost as f64 / all.max(1) as f64
    });
    let p99 = times.get(times.len() * 99 / 100).copied().unwrap_or_default();
    Figures { goodput: times.len() as f64 / (to - from).as_secs_f64(), p99, worst, lost }
}

/// A load, of which the first part is not looked at.
async fn run(addr: SocketAddr, times: f64, (warm, time): (Duration, Duration)) -> Figures {
    let callers = Callers::new(addr);
    let start = Instant::now();
    callers.load(capacity() * times, warm + time).await;
    let done = callers.done.lock();
    figures(&done, start + warm, start + warm + time)
}

fn capacity() -> f64 {
    WORKERS as f64 / SERVICE.as_secs_f64()
}

fn say(name: &str, figures: &Figures, peak: f64, unloaded: Duration) {
    let Figures { goodput, p99, worst, lost: [critical, default, sheddable] } = *figures;
    println!(
        "{name:32} goodput {:5.1} % of the peak (worst half second {:5.1} %), p99 {:5.1} ms = {:.2} x unloaded, lost: \
         critical {:6.2} %, default {:5.1} %, sheddable {:5.1} %",
        goodput / peak * 100.0,
        worst / peak * 100.0,
        p99.as_secs_f64() * 1e3,
        p99.as_secs_f64() / unloaded.as_secs_f64(),
        critical * 100.0,
        default * 100.0,
        sheddable * 100.0,
    );
}

#[tokio::test]
async fn at_three_times_the_capacity_goodput_latency_and_critical_requests_hold() {
    gate::exclusive();
    let backend = backend().await;
    let settings = |more: &str| Config::to("http1", &[backend]).listener("trust: local").upstream(more);
    let (warm, time) = if full() {
        (Duration::from_secs(10), Duration::from_secs(40))
    } else {
        (Duration::from_secs(6), Duration::from_secs(8))
    };

    // What the backend can do: as much as it is asked for, without anything in between that refuses.
    let plain = Proxy::start(&settings("circuitBreaker: { maxRequests: 20, failureThreshold: 0 }")).await;
    let unloaded = run(plain.addr(), 0.3, (ms(500), Duration::from_secs(3))).await;
    let peak = run(plain.addr(), 2.0, (Duration::from_secs(1), Duration::from_secs(3))).await.goodput;
    drop(plain);
    println!("peak {peak:.0}/s of {:.0}/s in theory, unloaded p99 {:?}", capacity(), unloaded.p99);

    let proxy = Proxy::start(&settings("concurrency: adaptive")).await;
    let adaptive = run(proxy.addr(), 3.0, (warm, time)).await;
    say("adaptive concurrency", &adaptive, peak, unloaded.p99);
    println!("{}", proxy.admin_json("/clusters").await[0]["admission"]);
    drop(proxy);
    if full() {
        let proxy = Proxy::start(&settings("concurrency: adaptive").upstream("queue: { timeout: 50ms }")).await;
        let queued = run(proxy.addr(), 3.0, (warm, time)).await;
        say("adaptive concurrency and a queue", &queued, peak, unloaded.p99);
        drop(proxy);
        hold(&queued, peak, unloaded.p99);

        let (envoy, addr) = envoy(backend).await;
        let theirs = run(addr, 3.0, (warm, time)).await;
        say("Envoy, adaptive concurrency", &theirs, peak, unloaded.p99);
        drop(envoy);
    }
    hold(&adaptive, peak, unloaded.p99);
}

fn hold(figures: &Figures, peak: f64, unloaded: Duration) {
    let Figures { goodput, p99, worst: _, lost: [critical, _, sheddable] } = *figures;
    assert!(goodput >= peak * 0.9, "goodput: {figures:?}, peak {peak}");
    assert!(p99 <= unloaded * 3, "p99: {figures:?}, unloaded {unloaded:?}");
    assert!(critical < 0.01, "critical: {figures:?}");
    assert!(sheddable > 0.5, "the lowest class is shed: {figures:?}");
}

/// A stock Envoy with adaptive concurrency as its documentation shows it.
async fn envoy(backend: SocketAddr) -> (Envoy, SocketAddr) {
    let port = crate::support::proxy::free_port();
    let addr = SocketAddr::from(([127, 0, 0, 1], port));
    (Envoy::start(&bootstrap(backend, addr)).await, addr)
}

fn bootstrap(backend: SocketAddr, listen: SocketAddr) -> Value {
    let typed = |name: &str, config: Value| {
        let mut config = config;
        config["@type"] = json!(format!("type.googleapis.com/{name}"));
        config
    };
    let adaptive = typed(
        "envoy.extensions.filters.http.adaptive_concurrency.v3.AdaptiveConcurrency",
        json!({
            "gradient_controller_config": {
                "sample_aggregate_percentile": { "value": 90 },
                "concurrency_limit_params": { "concurrency_update_interval": "0.1s" },
                "min_rtt_calc_params": { "jitter": { "value": 10 }, "interval": "30s", "request_count": 50 },
            },
            "enabled": { "default_value": true, "runtime_key": "adaptive_concurrency.enabled" },
        }),
    );
    let router = typed("envoy.extensions.filters.http.router.v3.Router", json!({}));
    let manager = typed(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        json!({
            "stat_prefix": "in",
            "route_config": {
                "virtual_hosts": [{
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "c" } }],
                }],
            },
            "http_filters": [
                { "name": "envoy.filters.http.adaptive_concurrency", "typed_config": adaptive },
                { "name": "envoy.filters.http.router", "typed_config": router },
            ],
        }),
    );
    let listener = json!({
        "name": "in",
        "address": socket(listen),
        "filter_chains": [{
            "filters": [{ "name": "envoy.filters.network.http_connection_manager", "typed_config": manager }],
        }],
    });
    let cluster = json!({
        "name": "c",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": "c",
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": socket(backend) } }] }],
        },
    });
    json!({
        "admin": { "address": socket(SocketAddr::from(([127, 0, 0, 1], 0))) },
        "static_resources": { "listeners": [listener], "clusters": [cluster] },
    })
}
