//! WebSocket through the proxy, every version downstream with every version upstream, spoken by programs that are not ours.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::support::pki::Leaf;
use crate::support::proxy::free_port;
use crate::support::{Config, Mesh, PATIENCE, Proxy, full, process, within};

const VERSIONS: [&str; 3] = ["h1", "h2", "h3"];

const CLAIMS: [&str; 9] =
    ["text", "binary", "fragments", "pings", "closes", "caller_lost", "server_lost", "refusal", "many"];

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/python").join(name)
}

/// A server of one version; gone when dropped.
struct Server {
    port: u16,
    _child: Child,
}

impl Server {
    async fn start(version: &str, mesh: &Mesh) -> Self {
        let (certificate, key) = mesh.files.give("server", &mesh.issuing.issue(&Leaf::new().dns("a.example")));
        let port = free_port();
        let mut command = Command::new(process::python());
        command.arg("-B").arg(script("ws_server.py")).args([version, &port.to_string()]);
        if version == "h3" {
            command.args([certificate, key]);
        }
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("start Python");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let line = within(PATIENCE, "the server listens", lines.next_line()).await.expect("readable");
        assert_eq!(line.as_deref(), Some("ready"));
        Self { port, _child: child }
    }
}

/// Claims of the client, all of which have to hold.
async fn claims(version: &str, port: u16, claims: &[&str], many: usize) {
    let run = Command::new(process::python())
        .arg("-B")
        .arg(script("ws_client.py"))
        .args([version, &port.to_string()])
        .args(claims)
        .args(["--many", &many.to_string()])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = within(Duration::from_secs(120), "the client", run).await.expect("run Python");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let held: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("ok ")).collect();
    assert_eq!(held, claims, "{version}: {}", String::from_utf8_lossy(&output.stderr));
    if claims.contains(&"many") {
        assert!(text.contains(&format!("open {many}\n")), "{text}");
    }
}

/// How many tunnels are open at once: the libraries of HTTP/3 on both ends take their time.
fn many(versions: &[&str]) -> usize {
    if full() || !versions.contains(&"h3") { 1000 } else { 200 }
}

/// A proxy for every version of callers (`in` plaintext, `tls` with HTTP/3) before a server.
async fn proxy(mesh: &Mesh, server: &Server, version: &str) -> Proxy {
    let (certificate, key) = mesh.files.give("edge", &mesh.issuing.issue(&Leaf::new().dns("a.example")));
    let tls = format!("tls: {{ mode: strict, certificates: [{{ certificate: {certificate}, privateKey: {key} }}] }}");
    let protocol = match version {
        "h1" => "http1",
        "h2" => "http2",
        _ => "http3",
    };
    let mut config = Config::to(protocol, &[([127, 0, 0, 1], server.port).into()])
        .add_listener("tls")
        .listener(&tls)
        .listener("http3: true")
        .upstream("circuitBreaker: { maxRequests: 4096, maxConnections: 4096 }");
    if version == "h3" {
        let trust = mesh.files.quoted("bundle.pem");
        config = config.upstream(&format!("tls: {{ mode: simple, trustBundle: {trust}, sni: a.example }}"));
    }
    Proxy::start(&config).await
}

/// One pair of the matrix.
async fn pair(down: &str, up: &str) {
    let mesh = Mesh::new();
    let server = Server::start(up, &mesh).await;
    let proxy = proxy(&mesh, &server, up).await;
    let port = if down == "h3" { proxy.listener("tls") } else { proxy.addr() }.port();
    claims(down, port, &CLAIMS, many(&[down, up])).await;
    // The proxy keeps nothing of them.
    let open = async || proxy.metric("outrigger_tunnels", &[]).await;
    let start = std::time::Instant::now();
    while open().await != 0.0 {
        assert!(start.elapsed() < PATIENCE, "{} tunnels are left", open().await);
        tokio::time::sleep(crate::support::ms(10)).await;
    }
}

#[tokio::test]
async fn the_clients_and_servers_agree_without_a_proxy() {
    for version in VERSIONS {
        let server = Server::start(version, &Mesh::new()).await;
        claims(version, server.port, &CLAIMS, 100).await;
    }
}

macro_rules! matrix {
    ($($name:ident: $down:literal to $up:literal,)*) => {
        $(#[tokio::test]
        async fn $name() {
            pair($down, $up).await;
        })*
    };
}

matrix! {
    http1_to_http1: "h1" to "h1",
    http1_to_http2: "h1" to "h2",
    http1_to_http3: "h1" to "h3",
    http2_to_http1: "h2" to "h1",
    http2_to_http2: "h2" to "h2",
    http2_to_http3: "h2" to "h3",
    http3_to_http1: "h3" to "h1",
    http3_to_http2: "h3" to "h2",
    http3_to_http3: "h3" to "h3",
}
