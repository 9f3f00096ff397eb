//! HTTP/3 spoken by programs that are not ours: Python's `aioquic` and `curl`, and bytes that no good client sends.

mod backend;
mod malformed;

use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::process::Command;

use crate::http3::relay::Relay;
use crate::support::pki::Leaf;
use crate::support::{Config, H2Backend, Mesh, PATIENCE, Proxy, eventually, gate, ms, process, within};

/// A proxy with HTTP/3 before the backend of these tests.
struct Edge {
    mesh: Mesh,
    backend: H2Backend,
    proxy: Proxy,
}

impl Edge {
    /// For callers without a certificate; the proxy's is for `a.example`.
    async fn start() -> Self {
        Self::with(|config| config).await
    }

    /// The same with more settings.
    async fn with(more: impl Fn(Config) -> Config) -> Self {
        Self::having("true", more).await
    }

    /// The same with other settings of HTTP/3.
    async fn having(http3: &str, more: impl Fn(Config) -> Config) -> Self {
        let mesh = Mesh::new();
        let (certificate, key) = mesh.files.give("edge", &mesh.issuing.issue(&Leaf::new().dns("a.example")));
        let tls =
            format!("tls: {{ mode: strict, certificates: [{{ certificate: {certificate}, privateKey: {key} }}] }}");
        Self::of(mesh, http3, |config| more(config.listener(&tls))).await
    }

    /// For members of the mesh only.
    async fn mesh() -> Self {
        let mesh = Mesh::new();
        let leaf = mesh.leaf("shop/web").dns("a.example");
        mesh.files.write_credential("web", &mesh.issuing.issue(&leaf));
        let identity = format!(
            "identity: {{ certificate: {}, privateKey: {}, trustBundle: {} }}",
            mesh.files.quoted("web.pem"),
            mesh.files.quoted("web.key"),
            mesh.files.quoted("bundle.pem"),
        );
        Self::of(mesh, "true", |config| config.top(&identity).listener("tls: { mode: strict }")).await
    }

    async fn of(mesh: Mesh, http3: &str, more: impl Fn(Config) -> Config) -> Self {
        let backend = backend::start().await;
        let config = Config::to("http2", &[backend.addr]).rule("timeouts: { request: 0s }");
        let config = config.listener(&format!("http3: {http3}"));
        let proxy = Proxy::start(&more(config)).await;
        Self { mesh, backend, proxy }
    }

    /// Runs a script with these arguments against the proxy.
    async fn script(&self, name: &str, arguments: &[&str]) -> Output {
        let run = self.command(name, arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).output();
        within(LONG, name, run).await.expect("run Python")
    }

    fn command(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(process::python());
        command
            .arg("-B")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/python").join(name))
            .args(arguments)
            .args(["--port", &self.proxy.addr().port().to_string()])
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Claims of `h3_client.py`, all of which have to hold.
    async fn claims(&self, claims: &[&str], more: &[&str]) {
        let trust = self.mesh.files.path("bundle.pem").display().to_string();
        let output = self.script("h3_client.py", &[claims, &["--trust", &trust], more].concat()).await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        let held: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("ok ")).collect();
        assert_eq!(held, claims, "{errors}");
    }

    /// `curl` over HTTP/3 and nothing else.
    async fn curl(&self, arguments: &[&str], path: &str) -> (bool, String) {
        let port = self.proxy.addr().port();
        let trust = self.mesh.files.path("bundle.pem").display().to_string();
        let run = Command::new(process::tool("curl-http3"))
            .args(["--http3-only", "--silent", "--show-error", "--max-time", "120", "--cacert", &trust])
            .args(["--connect-to", &format!("a.example:443:127.0.0.1:{port}")])
            .args(arguments)
            .arg(format!("https://a.example{path}"))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = within(LONG, "curl", run).await.expect("run curl");
        let text = [output.stdout, output.stderr].map(|out| String::from_utf8_lossy(&out).into_owned()).concat();
        (output.status.success(), text)
    }
}

/// How long a script may take that moves large bodies.
const LONG: Duration = Duration::from_secs(180);

#[tokio::test]
async fn aioquic_is_served() {
    Edge::start().await.claims(&["get", "concurrent", "trailers", "events", "aborted"], &[]).await;
}

#[tokio::test]
async fn aioquic_comes_back_with_early_data() {
    let edge = Edge::having("{ earlyData: safeMethods }", |config| config).await;
    let relay = Relay::before(edge.proxy.addr()).await;
    let port = relay.addr.port().to_string();
    let handled = async {
        let start = std::time::Instant::now();
        while edge.proxy.metric("outrigger_early_requests_total", &["outcome=\"handled\""]).await < 1.0 {
            assert!(start.elapsed() < LONG, "a request is handled while the handshake is held up");
            tokio::time::sleep(ms(5)).await;
        }
        relay.release();
    };
    let more = ["--relay", &port];
    tokio::join!(edge.claims(&["early"], &more), handled);
}

#[tokio::test]
async fn aioquic_is_served_as_a_member_of_the_mesh() {
    let edge = Edge::mesh().await;
    let (certificate, key) = edge.mesh.files.give("cart", &edge.mesh.svid("shop/cart"));
    edge.claims(&["get", "concurrent"], &["--certificate", &certificate, "--key", &key]).await;
    let seen = edge.proxy.metric("outrigger_requests_total", &["class=\"2xx\""]).await;
    assert!(seen >= 102.0, "{seen} requests");
}

#[tokio::test]
async fn without_a_certificate_of_the_mesh_there_is_no_service() {
    let edge = Edge::mesh().await;
    edge.claims(&["refused"], &[]).await;
    let stranger = Mesh::named("elsewhere.local");
    let (certificate, key) = edge.mesh.files.give("stranger", &stranger.svid("shop/cart"));
    edge.claims(&["refused"], &["--certificate", &certificate, "--key", &key]).await;
    assert!(!edge.curl(&[], "/small").await.0);
    assert_eq!(edge.backend.count(), 0);
    // One with a certificate is.
    let (certificate, key) = edge.mesh.files.give("cart", &edge.mesh.svid("shop/cart"));
    let (served, text) = edge.curl(&["--cert", &certificate, "--key", &key], "/small").await;
    assert!(served && text == "small", "{text}");
}

#[tokio::test]
async fn what_aioquic_cancels_is_cancelled_at_the_backend() {
    let edge = Edge::start().await;
    edge.claims(&["cancel"], &[]).await;
    for path in ["/endless", "/silent", "/swallow"] {
        let cancelled = || edge.backend.calls().iter().any(|call| call.path.starts_with(path) && call.reset.is_some());
        eventually(PATIENCE, &format!("{path} is cancelled"), cancelled).await;
    }
}

/// 100 MiB each way by each client in the full form, and less by the slower client otherwise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_pass_with_flat_memory() {
    gate::exclusive();
    let edge = Edge::start().await;
    // What a first connection needs for good does not count.
    edge.claims(&["get"], &[]).await;
    let before = edge.proxy.rss();
    let stop = Arc::new(AtomicBool::new(false));
    let peak = Arc::new(AtomicU64::new(0));
    let watching = {
        let (stop, peak, pid) = (Arc::clone(&stop), Arc::clone(&peak), edge.proxy.pid());
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                peak.fetch_max(process::rss(pid), Ordering::Relaxed);
                std::thread::park_timeout(ms(20));
            }
        })
    };
    let size = if crate::support::full() { "100" } else { "16" };
    edge.claims(&["upload", "download"], &["--size", size]).await;
    let folder = tempfile::tempdir().expect("make a folder");
    let file = folder.path().join("large").display().to_string();
    let (served, text) = edge.curl(&["--output", &file], &format!("/large/{}", 100 << 20)).await;
    assert!(served, "{text}");
    assert_eq!(std::fs::metadata(&file).expect("a file").len(), 100 << 20);
    let (served, text) = edge.curl(&["--data-binary", &format!("@{file}")], "/digest").await;
    assert!(served, "{text}");
    assert_eq!(text, backend::digest_of(&std::fs::read(&file).expect("a file")));
    stop.store(true, Ordering::Relaxed);
    watching.join().expect("the watch ends");
    let grown = peak.load(Ordering::Relaxed).saturating_sub(before);
    println!("memory grew by {} KiB", grown >> 10);
    assert!(grown < 24 << 20, "memory grew by {} KiB", grown >> 10);
}

#[tokio::test]
async fn curl_is_served_over_http3() {
    let edge = Edge::start().await;
    let (served, text) = edge.curl(&["--write-out", " %{http_code} %{http_version}"], "/small").await;
    assert!(served && text == "small 200 3", "{text}");
    let (served, text) = edge.curl(&["--data", "hello"], "/echo").await;
    assert!(served && text == "hello", "{text}");
    let (served, text) = edge.curl(&["--head", "--write-out", "%{http_code}"], "/small").await;
    assert!(served && text.ends_with("200"), "{text}");
}

/// A client that knows only the TCP side is told of the other one, and uses it.
#[tokio::test]
async fn curl_finds_http3_by_alt_svc() {
    let edge = Edge::start().await;
    let port = edge.proxy.addr().port();
    let trust = edge.mesh.files.path("bundle.pem").display().to_string();
    let folder = tempfile::tempdir().expect("make a folder");
    let cache = folder.path().join("alt-svc").display().to_string();
    let mut versions = Vec::new();
    for _ in 0..2 {
        let run = Command::new(process::tool("curl-http3"))
            .args(["--silent", "--show-error", "--max-time", "10", "--cacert", &trust, "--alt-svc", &cache])
            .args(["--resolve", &format!("a.example:{port}:127.0.0.1"), "--write-out", " %{http_version}"])
            .arg(format!("https://a.example:{port}/small"))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = within(PATIENCE, "curl", run).await.expect("run curl");
        versions.push(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    assert_eq!(versions, ["small 2", "small 3"]);
}

#[tokio::test]
async fn a_drain_lets_aioquic_finish_and_takes_nothing_new() {
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};
    let mut edge = Edge::with(|config| config.top("drain: { acceptFor: 0s, deadline: 20s }")).await;
    let mut client = edge
        .command("h3_client.py", &["drain"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start Python");
    let mut lines = tokio::io::BufReader::new(client.stdout.take().expect("piped")).lines();
    let line = within(PATIENCE, "an open exchange", lines.next_line()).await.expect("readable");
    assert_eq!(line.as_deref(), Some("open"));
    edge.proxy.signal("TERM");
    client.stdin.take().expect("piped").write_all(b"go on\n").await.expect("it reads");
    let line = within(Duration::from_secs(40), "the drain", lines.next_line()).await.expect("readable");
    let output = within(PATIENCE, "the client's end", client.wait_with_output()).await.expect("it ran");
    assert_eq!(line.as_deref(), Some("ok drain"), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(edge.proxy.exit(PATIENCE).await.success());
}

#[tokio::test]
async fn a_download_survives_another_port_of_the_client() {
    let edge = Edge::start().await;
    edge.claims(&["rebind"], &["--size", "16"]).await;
}
