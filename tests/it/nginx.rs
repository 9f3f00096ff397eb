//! A real web server behind the proxy and a real load generator before it: h2load with
//! 100,000 requests over HTTP/1.1 and over HTTP/2 to nginx, none failed.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::proxy::free_port;
use crate::support::{Config, PATIENCE, Proxy, eventually, gate, h1_client, process, within};

/// A running nginx; stopped when dropped.
struct Nginx {
    child: Child,
    h1: u16,
    h2: u16,
    _folder: tempfile::TempDir,
}

impl Nginx {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("make a folder");
        let (h1, h2) = (free_port(), free_port());
        let root = folder.path().display();
        std::fs::create_dir(folder.path().join("www")).expect("make a folder");
        std::fs::write(folder.path().join("www/1k"), vec![b'x'; 1024]).expect("write a file");
        // Connections are closed after 1,000 requests, as by default: the proxy has to cope with that.
        let config = format!(
            "daemon off; worker_processes 1; pid {root}/pid; error_log {root}/error.log warn;\n\
             events {{ worker_connections 4096; }}\n\
             http {{\n\
               access_log off; client_body_temp_path {root}/body; proxy_temp_path {root}/proxy;\n\
               fastcgi_temp_path {root}/fcgi; uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;\n\
               keepalive_requests 1000; default_type text/plain; root {root}/www;\n\
               server {{ listen 127.0.0.1:{h1}; }}\n\
               server {{ listen 127.0.0.1:{h2} http2; }}\n\
             }}\n"
        );
        let path = folder.path().join("nginx.conf");
        std::fs::write(&path, config).expect("write the configuration");
        // Started by root, nginx becomes `nobody`, who has to get at the files.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).expect("open the folder");
        let child = Command::new(process::tool("nginx"))
            .args(["-p", &root.to_string(), "-c"])
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start nginx");
        let nginx = Self { child, h1, h2, _folder: folder };
        let listening = || std::net::TcpStream::connect(("127.0.0.1", h2)).is_ok();
        eventually(PATIENCE, "nginx listens", listening).await;
        nginx
    }

    fn addr(&self, protocol: &str) -> std::net::SocketAddr {
        let port = if protocol == "http1" { self.h1 } else { self.h2 };
        ([127, 0, 0, 1], port).into()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Asked to stop, the master also stops its worker.
        process::signal(self.child.id(), "TERM");
        self.child.wait().ok();
    }
}

async fn load(proxy: &Proxy, requests: usize, more: &[&str]) -> String {
    let run = tokio::process::Command::new(process::tool("h2load"))
        .args(["-n", &requests.to_string(), "-t", "1"])
        .args(more)
        .arg(format!("http://{}/1k", proxy.addr()))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = within(Duration::from_secs(240), "h2load", run).await.expect("run h2load");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

async fn a_hundred_thousand(down: &[&str], up: &str) {
    gate::exclusive();
    const REQUESTS: usize = 100_000;
    let nginx = Nginx::start().await;
    let proxy = Proxy::start(&Config::to(up, &[nginx.addr(up)])).await;
    assert_eq!(h1_client::get(proxy.addr(), "/1k").await.body.len(), 1024);
    let report = load(&proxy, REQUESTS, down).await;
    let line = report.lines().find(|l| l.starts_with("requests:")).unwrap_or_default().to_owned();
    println!("{}\n{line}", report.lines().find(|l| l.starts_with("finished")).unwrap_or_default());
    let (_, metrics) = proxy.admin("/metrics").await;
    let why: Vec<_> =
        metrics.lines().filter(|l| l.contains("local_responses") || l.contains("attempts_total")).collect();
    let report = format!("{report}\n{}", why.join("\n"));
    let expected = format!("{REQUESTS} done, {REQUESTS} succeeded, 0 failed, 0 errored, 0 timeout");
    assert!(line.ends_with(&expected), "{report}");
    let codes = report.lines().find(|l| l.starts_with("status codes:")).unwrap_or_default();
    assert!(codes.starts_with(&format!("status codes: {REQUESTS} 2xx")), "{report}");
    let counted = proxy.metric("outrigger_requests_total", &["class=\"2xx\""]).await;
    assert_eq!(counted, REQUESTS as f64 + 1.0, "each counted once");
}

#[tokio::test]
async fn h2load_over_http1_to_nginx_fails_no_request() {
    a_hundred_thousand(&["--h1", "-c", "32"], "http1").await;
}

#[tokio::test]
async fn h2load_over_http2_to_nginx_fails_no_request() {
    a_hundred_thousand(&["-c", "8", "-m", "32"], "http1").await;
}

#[tokio::test]
async fn h2load_over_http2_to_nginx_over_http2_fails_no_request() {
    a_hundred_thousand(&["-c", "8", "-m", "32"], "http2").await;
}

#[tokio::test]
async fn curl_speaks_both_versions_through_the_proxy() {
    let nginx = Nginx::start().await;
    let proxy = Proxy::start(&Config::to("http1", &[nginx.addr("http1")])).await;
    let url = format!("http://{}/1k", proxy.addr());
    for (flag, version) in [("--http1.1", "1.1"), ("--http2-prior-knowledge", "2"), ("--http1.0", "1.0")] {
        let output =
            process::curl(&[flag, "-o", "/dev/null", "-w", "%{http_code} %{size_download} %{http_version}", &url])
                .await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (rest, got) = text.rsplit_once(' ').unwrap_or_default();
        assert_eq!(rest, "200 1024", "{flag}: {text}");
        // An answer to HTTP/1.0 may say that the server knows 1.1.
        assert!(got == version || flag == "--http1.0", "{flag}: {text}");
    }
}
