//! The way between two proxies loses packets, or all datagrams: two hosts of the tests' own with a filter between them.

use std::time::Duration;

use tokio::process::Child;

use crate::interception::proxied::Resident;
use crate::support::{Mesh, Namespace, PATIENCE, full, gate, ms, process, within};

/// The caller's proxy, which speaks one version to the other one.
fn outbound(mesh: &Mesh, version: &str) -> String {
    format!(
        "
listeners:
  - {{ name: in, bind: 127.0.0.1:15001, routes: main }}
routes:
  main: [{{ rules: [{{ backendRefs: [{{ cluster: c }}], retry: {{ attempts: 2 }} }}] }}]
clusters:
  c:
    protocol: {version}
    tls: {{ peerIdentities: [\"{}\"] }}
    endpoints: [\"10.77.0.2:15006\"]
",
        mesh.id("shop/pay")
    )
}

const INBOUND: &str = "
listeners:
  - name: in
    bind: 10.77.0.2:15006
    http3: true
    tls: { mode: strict }
    routes: main
routes:
  main: [{ rules: [{ backendRefs: [{ cluster: c }] }] }]
clusters:
  c: { protocol: http2, endpoints: [\"127.0.0.1:8080\"] }
";

/// A server of small answers.
struct Application {
    _child: Child,
    _folder: tempfile::TempDir,
}

impl Application {
    async fn start(host: &Namespace) -> Self {
        let folder = tempfile::tempdir().expect("make a folder");
        std::fs::write(folder.path().join("small"), [b'x'; 200]).expect("write a file");
        let child = host
            .command(process::tool("nghttpd"))
            .args(["--no-tls", "--address", "127.0.0.1", "--max-concurrent-streams", "1000", "--htdocs"])
            .arg(folder.path())
            .arg("8080")
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("start nghttpd");
        let start = std::time::Instant::now();
        let asked = ["-sf", "--http2-prior-knowledge", "http://127.0.0.1:8080/small"];
        while !host.run("curl", &asked).await.status.success() {
            assert!(start.elapsed() < PATIENCE, "nghttpd listens");
            tokio::time::sleep(ms(20)).await;
        }
        Self { _child: child, _folder: folder }
    }
}

/// What became of a load of requests.
struct Report {
    /// How long each took that succeeded, shortest first.
    times: Vec<Duration>,
    failed: usize,
    /// Those whose head had come when they ended.
    broken_off: usize,
}

impl Report {
    fn p99(&self) -> Duration {
        self.times[self.times.len() * 99 / 100]
    }
}

/// A hundred requests at a time.
async fn load(host: &Namespace, requests: usize) -> Report {
    let folder = tempfile::tempdir().expect("make a folder");
    let log = folder.path().join("log").display().to_string();
    let requests_text = requests.to_string();
    let arguments = ["-n", &requests_text, "-c", "2", "-m", "50", "--log-file", &log, "http://127.0.0.1:15001/small"];
    let run = host.command(process::tool("h2load")).args(arguments).output();
    let output = within(Duration::from_secs(180), "h2load", run).await.expect("run h2load");
    assert!(output.status.success(), "{output:?}");
    let text = std::fs::read_to_string(&log).expect("a log");
    // Start, status and duration, in microseconds.
    let rows: Vec<Vec<u64>> =
        text.lines().map(|line| line.split('\t').map(|field| field.parse().unwrap_or(0)).collect()).collect();
    let mut times: Vec<_> = rows.iter().filter(|row| row[1] == 200).map(|row| Duration::from_micros(row[2])).collect();
    times.sort();
    let text = String::from_utf8_lossy(&output.stdout);
    let heads = text.split("status codes: ").nth(1).and_then(|rest| rest.split(' ').next());
    let heads: usize = heads.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{text}"));
    Report { failed: requests - heads, broken_off: heads - times.len(), times }
}

/// Drops what arrives over the wire, by a condition.
async fn filter(host: &Namespace, condition: &str) {
    let rules = format!(
        "add table inet loss; flush table inet loss; \
         add chain inet loss arriving {{ type filter hook input priority 0; }}; \
         add rule inet loss arriving iifname wire {condition} drop"
    );
    host.printed("nft", &[&rules]).await;
}

/// p99 of 100 concurrent small requests with 2 % of the packets lost each way: over HTTP/3 at most half of what it is over HTTP/2, where
/// every lost packet holds all of a connection up. On a busy machine the proxies' own time is measured as well, so it may take
/// another attempt.
#[tokio::test]
async fn with_lost_packets_http3_keeps_requests_apart() {
    gate::exclusive();
    let (host, peer) = Namespace::pair();
    for side in [&host, &peer] {
        // Packets are lost one by one, as a wire loses them, and not by the handful.
        side.ip(&["link", "set", "dev", "wire", "gso_max_segs", "1"]);
    }
    let mesh = Mesh::new();
    let _application = Application::start(&peer).await;
    let _inbound = Resident::start(&peer, &mesh, "shop/pay", INBOUND).await;
    let mut measured = Vec::new();
    for _ in 0..4 {
        let http2 = lossy(&host, &peer, &mesh, "http2").await;
        let http3 = lossy(&host, &peer, &mesh, "http3").await;
        if http3 * 2 <= http2 {
            return;
        }
        measured.push((http2, http3));
    }
    panic!("HTTP/2 and HTTP/3: {measured:?}");
}

async fn lossy(host: &Namespace, peer: &Namespace, mesh: &Mesh, version: &str) -> Duration {
    let requests = if full() { 40_000 } else { 10_000 };
    let proxy = Resident::start(host, mesh, "shop/cart", &outbound(mesh, version)).await;
    // The connections are made before anything is lost.
    let clean = load(host, 2000).await;
    for side in [host, peer] {
        filter(side, "numgen random mod 100 < 2").await;
    }
    let report = load(host, requests).await;
    let label = format!("protocol=\"{version}\"");
    assert!(proxy.metric("outrigger_upstream_protocol_connections", &[&label]).await >= 1.0);
    for side in [host, peer] {
        side.printed("nft", &["delete table inet loss"]).await;
    }
    let failed = [&report, &clean].into_iter().map(|report| report.failed + report.broken_off).sum::<usize>();
    let p99 = report.p99();
    println!("{version}: p99 {:?} without loss, {p99:?} with 2 %, {failed} failed", clean.p99());
    assert_eq!(failed, 0, "{version}: {}", proxy.log());
    proxy.stop().await;
    p99
}

/// Datagrams no longer get through in the middle of it: requests go on over TCP, none fails, and none waits for longer than a second.
#[tokio::test]
async fn without_udp_requests_go_on_over_tcp_within_a_second() {
    cut_off(|host, peer| vec![host, peer]).await;
}

/// The server hears nothing and is still heard: what it repeats is no sign that it hears.
#[tokio::test]
async fn without_udp_in_one_direction_requests_go_on_over_tcp_within_a_second() {
    cut_off(|_, peer| vec![peer]).await;
}

/// Datagrams stop arriving at some of the two hosts while requests are under way, and others come.
async fn cut_off(deaf: for<'a> fn(&'a Namespace, &'a Namespace) -> Vec<&'a Namespace>) {
    gate::exclusive();
    let (host, peer) = Namespace::pair();
    let mesh = Mesh::new();
    let _application = Application::start(&peer).await;
    let _inbound = Resident::start(&peer, &mesh, "shop/pay", INBOUND).await;
    let proxy = Resident::start(&host, &mesh, "shop/cart", &outbound(&mesh, "auto")).await;
    let http3 = async || proxy.metric("outrigger_upstream_protocol_connections", &["protocol=\"http3\""]).await;
    // It is learned from an answer and made beside the traffic.
    let start = std::time::Instant::now();
    while http3().await == 0.0 {
        assert_eq!(load(&host, 200).await.times.len(), 200, "{}", proxy.log());
        assert!(start.elapsed() < PATIENCE, "HTTP/3 is used:\n{}", proxy.log());
    }
    assert_eq!(load(&host, 1000).await.times.len(), 1000);
    let cutting = async {
        tokio::time::sleep(ms(300)).await;
        for side in deaf(&host, &peer) {
            filter(side, "meta l4proto udp").await;
        }
    };
    let (during, ()) = tokio::join!(load(&host, 10_000), cutting);
    let after = load(&host, 1000).await;
    let longest = *during.times.iter().chain(&after.times).max().expect("requests");
    println!("the longest took {longest:?}");
    for report in [&during, &after] {
        assert_eq!((report.failed, report.broken_off), (0, 0), "{}", proxy.log());
    }
    assert!(longest < Duration::from_secs(1), "the longest took {longest:?}:\n{}", proxy.log());
    assert_eq!(http3().await, 0.0, "it was cut off while it was used");
    proxy.stop().await;
}
