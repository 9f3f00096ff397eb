//! A page in a real browser that talks through two proxies in three ways at once, WebSocket, server-sent events and a streamed
//! `fetch`, and goes on by itself when a proxy is replaced beneath it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::support::pki::Leaf;
use crate::support::proxy::{Launch, free_port};
use crate::support::{Config, Mesh, PATIENCE, Proxy, full, gate, process, within};

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/python").join(name)
}

/// The page's application.
struct Application {
    addr: SocketAddr,
    reports: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Application {
    async fn start() -> Self {
        let port = free_port();
        let mut child = Command::new(process::python())
            .arg("-B")
            .arg(script("browser_server.py"))
            .arg(port.to_string())
            .arg(script("browser.html"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("start Python");
        let mut reports = BufReader::new(child.stdout.take().expect("piped")).lines();
        let line = within(PATIENCE, "the application listens", reports.next_line()).await.expect("readable");
        assert_eq!(line.as_deref(), Some("ready"));
        Self { addr: ([127, 0, 0, 1], port).into(), reports, _child: child }
    }

    /// The next report that satisfies a condition.
    async fn report(&mut self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let limit = if full() { Duration::from_secs(120) } else { Duration::from_secs(40) };
        let mut last = Value::Null;
        let start = std::time::Instant::now();
        while start.elapsed() < limit {
            let Ok(line) = tokio::time::timeout(PATIENCE, self.reports.next_line()).await else { break };
            last = serde_json::from_str(&line.expect("readable").expect("a line")).expect("JSON");
            if condition(&last) {
                return last;
            }
        }
        // Long lists say nothing here but how long they are.
        if let Some(fields) = last.as_object_mut() {
            for value in fields.values_mut() {
                if let Some(list) = value.as_array().filter(|list| list.len() > 20) {
                    *value = Value::from(format!("{} of them", list.len()));
                }
            }
        }
        panic!("{what}; the last report: {last}");
    }
}

/// A browser without a window; gone when dropped.
struct Browser {
    child: Child,
    _profile: TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The command is a script that starts the browser, which starts more: all are of one group.
        let group = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(group) = group {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Browser {
    fn open(url: &str, more: &[&str]) -> Self {
        let profile = tempfile::tempdir().expect("make a folder");
        let child = Command::new(process::tool("chromium-headless-shell"))
            // Nothing of it may look for anything but the page.
            .args(["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"])
            .args(["--disable-component-update", "--disable-sync", "--disable-default-apps", "--disable-dev-shm-usage"])
            // It stays because somebody might connect to this; nobody does.
            .arg("--remote-debugging-port=0")
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .args(more)
            .arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("start Chromium");
        Self { child, _profile: profile }
    }
}

/// Two proxies with mutual TLS between them; the outer one can be replaced.
struct Way {
    mesh: Mesh,
    outer: Proxy,
    outer_config: Config,
    _inner: Proxy,
}

impl Way {
    async fn to(application: SocketAddr, version: &str) -> Self {
        let mesh = Mesh::new();
        let streaming = |config: Config| config.rule("timeouts: { request: 0s }");
        let inner = Config::to("http1", &[application])
            .top(&mesh.identity("shop/web"))
            .listener("tls: { mode: strict }")
            .listener("http3: true");
        let inner = Proxy::start(&streaming(inner)).await;
        let (certificate, key) = mesh.files.give("edge", &mesh.issuing.issue(&Leaf::new().dns("a.example")));
        let edge =
            format!("tls: {{ mode: strict, certificates: [{{ certificate: {certificate}, privateKey: {key} }}] }}");
        let outer_config = Config::to(version, &[inner.addr()])
            .top(&mesh.identity("shop/edge"))
            .top("drain: { acceptFor: 200ms, deadline: 2s }")
            .upstream(&format!("tls: {{ peerIdentities: [\"{}\"] }}", mesh.id("shop/web")))
            .add_listener("tls")
            .listener(&edge)
            .listener("http3: true");
        let outer_config = streaming(outer_config);
        let outer = Proxy::start(&outer_config).await;
        Self { mesh, outer, outer_config, _inner: inner }
    }

    /// A second outer proxy takes over while the first drains and goes.
    async fn replace_outer(&mut self) {
        let next = self.outer.start_beside(&self.outer_config).await;
        let mut before = std::mem::replace(&mut self.outer, next);
        before.signal("TERM");
        assert!(before.exit(PATIENCE).await.success());
    }

    /// The outer proxy drains and goes, and only then the next one comes: over QUIC two on one port do not know each other's
    /// connections.
    async fn replace_outer_in_turn(&mut self) {
        self.outer.signal("TERM");
        assert!(self.outer.exit(PATIENCE).await.success());
        self.outer = self.outer.start_again(&self.outer_config.render(), &Launch::default()).await;
    }

    /// What a browser has to be told so that it takes the certificates of the edge for good.
    fn trust(&self) -> String {
        use sha2::Digest as _;
        let credential = std::fs::read_to_string(self.mesh.files.path("edge.pem")).expect("the edge's certificate");
        let leaf = crate::support::pki::certificates(&credential).remove(0);
        let (_, parsed) = x509_parser::parse_x509_certificate(&leaf).expect("a certificate");
        let digest = sha2::Sha256::digest(parsed.tbs_certificate.subject_pki.raw);
        format!("--ignore-certificate-errors-spki-list={}", data_encoding::BASE64.encode(&digest))
    }
}

/// Whether these are 1, 2, 3 and so on without a gap, and without a repetition.
fn is_unbroken(numbers: &Value) -> bool {
    let numbers = numbers.as_array().expect("a list");
    !numbers.is_empty() && numbers.iter().zip(1..).all(|(number, expected)| number.as_u64() == Some(expected))
}

/// What has to hold at the end: nothing that was acknowledged is lost, nothing is missing from what came down.
fn is_whole(last: &Value) {
    let list = |name: &str| last[name].as_array().unwrap_or_else(|| panic!("{name}: {last}")).clone();
    let (kept, acknowledged) = (list("kept"), list("acknowledged"));
    let sent = last["sent"].as_u64().expect("a number");
    for number in 1..=sent {
        let number = Value::from(number);
        assert!(acknowledged.contains(&number), "message {number} was never acknowledged");
    }
    assert!(acknowledged.iter().all(|number| kept.contains(number)), "acknowledged and not kept");
    assert!(is_unbroken(&last["events"]), "events: {}", last["events"]);
    assert!(is_unbroken(&last["lines"]), "lines: {}", last["lines"]);
    let gave_up = last["faults"]
        .as_array()
        .expect("a list")
        .iter()
        .any(|fault| fault.as_str().is_some_and(|f| f.contains("gave up")));
    assert!(!gave_up, "{}", last["faults"]);
}

/// The page talks for some seconds, during which the outer proxy is replaced as often as said.
async fn talk(replaced: u64, scheme: &str, version: &str, between: &str) {
    gate::shared();
    let mut application = Application::start().await;
    let mut way = Way::to(application.addr, between).await;
    let listener = if scheme == "https" { way.outer.listener("tls") } else { way.outer.addr() };
    let port = listener.port();
    let milliseconds = if full() { 60_000 } else { 12_000 };
    let url = format!("{scheme}://a.example:{port}/?for={milliseconds}");
    let (resolve, trust) = ("--host-resolver-rules=MAP a.example 127.0.0.1".to_owned(), way.trust());
    let quic = format!("--origin-to-force-quic-on=a.example:{port}");
    let mut arguments = vec![resolve.as_str(), trust.as_str()];
    arguments.push(if version == "h3" { &quic } else { "--disable-quic" });
    let browser = Browser::open(&url, &arguments);
    let talks =
        |report: &Value| ["acknowledged", "events", "lines"].iter().all(|name| report[*name].as_u64() > Some(20));
    let report = application.report("the page talks in all three ways", talks).await;
    assert_eq!(report["version"].as_str(), Some(version), "{report}");
    assert_eq!(report["opened"], 1, "{report}");
    for times in 1..=replaced {
        if version == "h3" {
            way.replace_outer_in_turn().await;
        } else {
            way.replace_outer().await;
        }
        let again =
            |report: &Value| report["opened"].as_u64() > Some(times) && report["streams"].as_u64() > Some(times);
        let report = application.report("the page talks again", again).await;
        let codes = report["codes"].as_array().expect("a list");
        let drained = codes.iter().filter(|code| **code == 1001).count();
        assert_eq!(drained as u64, times, "a drain says 1001: {codes:?}");
        // While there is no proxy, an attempt fails.
        let failed = codes.iter().filter(|code| **code == 1006).count();
        assert!(drained + failed == codes.len() && (failed == 0 || version == "h3"), "{codes:?}");
    }
    let last = application.report("the page is done", |report| report["final"] == true).await;
    is_whole(&last);
    println!(
        "{scheme} {version}, {between} between: {} messages acknowledged, {} events, {} lines, {} tunnels",
        last["acknowledged"].as_array().map_or(0, Vec::len),
        last["events"].as_array().map_or(0, Vec::len),
        last["lines"].as_array().map_or(0, Vec::len),
        last["opened"],
    );
    drop(browser);
}

#[tokio::test]
async fn a_page_over_http1_loses_nothing_while_proxies_are_replaced() {
    talk(2, "http", "http/1.1", "http2").await;
}

#[tokio::test]
async fn a_page_over_http2_loses_nothing_while_proxies_are_replaced() {
    talk(2, "https", "h2", "http2").await;
}

#[tokio::test]
async fn a_page_over_http3_loses_nothing_while_proxies_are_replaced() {
    talk(2, "https", "h3", "http3").await;
}
