//! Real gRPC programs through the proxy: Python's `grpcio` on both ends.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::http3_upstream;
use crate::mesh::Hop;
use crate::support::{Config, PATIENCE, Proxy, process, within};

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/python").join(name)
}

/// A Python gRPC server; gone when dropped.
struct Server {
    addr: SocketAddr,
    _child: Child,
}

impl Server {
    async fn start() -> Self {
        let mut child = Command::new(process::python())
            .arg(script("server.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("start Python");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let port = within(PATIENCE, "the server's port", lines.next_line()).await;
        let port: u16 = port.expect("readable").expect("a line").trim().parse().expect("a port");
        Self { addr: SocketAddr::from(([127, 0, 0, 1], port)), _child: child }
    }
}

async fn run_client(target: SocketAddr) -> Vec<String> {
    let client = Command::new(process::python())
        .arg(script("client.py"))
        .arg(target.to_string())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = within(Duration::from_secs(90), "the client", client).await.expect("run Python");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "the client failed after:\n{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.ends_with("done\n"), "{text}");
    text.lines().filter_map(|line| line.strip_prefix("ok ")).map(str::to_owned).collect()
}

const CLAIMS: [&str; 13] = [
    "unary",
    "server streaming",
    "client streaming",
    "bidirectional streaming",
    "metadata",
    "the deadline reaches the server",
    "a message of 8 MiB",
    "an error with message and details",
    "an error after messages",
    "an unknown method",
    "a cancel reaches the server",
    "a deadline",
    "200 calls at once",
];

#[tokio::test]
async fn the_python_client_is_content_without_a_proxy() {
    let server = Server::start().await;
    assert_eq!(run_client(server.addr).await, CLAIMS, "the test itself is right");
}

#[tokio::test]
async fn a_python_client_and_server_work_through_the_proxy() {
    let server = Server::start().await;
    let proxy = Proxy::start(&Config::to("http2", &[server.addr])).await;
    assert_eq!(run_client(proxy.addr()).await, CLAIMS);
}

#[tokio::test]
async fn a_python_client_and_server_work_through_two_proxies() {
    let server = Server::start().await;
    let back = Proxy::start(&Config::to("auto", &[server.addr]).listener("protocol: http2")).await;
    let front = Proxy::start(&Config::to("http2", &[back.addr()])).await;
    assert_eq!(run_client(front.addr()).await, CLAIMS);
}

#[tokio::test]
async fn a_python_client_and_server_work_through_the_mesh_over_quic() {
    let server = Server::start().await;
    let hop = http3_upstream::Hop::start(("http3", "http2"), server.addr).await;
    assert_eq!(run_client(hop.addr()).await, CLAIMS);
}

#[tokio::test]
async fn a_python_client_and_server_work_through_the_mesh() {
    let server = Server::start().await;
    let hop = Hop::to("http2", server.addr).await;
    assert_eq!(run_client(hop.addr()).await, CLAIMS);
}
