//! The proxy as a child process: started on free ports, waited for until it is ready, stopped when
//! the test ends. A proxy that panicked fails the test that used it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{Config, PATIENCE, eventually, gate, h1_client, process};

/// The program under test; `OUTRIGGER_BIN` names another build of it.
pub fn binary() -> PathBuf {
    std::env::var_os("OUTRIGGER_BIN").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_outrigger")), PathBuf::from)
}

/// How a proxy is started.
#[derive(Debug, Clone, Default)]
pub struct Launch {
    /// More arguments of `run`.
    pub arguments: Vec<String>,
    /// How many files and sockets it may have open.
    pub descriptors: Option<u32>,
}

/// How long a start is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Until the proxy is ready.
    Ready,
    /// Until it says whether it is.
    Up,
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    child: Child,
    ports: BTreeMap<String, u16>,
    folder: TempDir,
    exited: Option<ExitStatus>,
}

impl Proxy {
    /// Starts a proxy and waits until it is ready.
    pub async fn start(config: &Config) -> Self {
        Self::start_as(config, &Launch::default()).await
    }

    /// Starts a proxy in a special way.
    pub async fn start_as(config: &Config, launch: &Launch) -> Self {
        let names = config.listener_names().map(str::to_owned).collect::<Vec<_>>();
        for _ in 0..5 {
            if let Some(proxy) = Self::try_start(choose_ports(&names), &config.render(), launch).await {
                return proxy;
            }
        }
        panic!("no free ports in five attempts");
    }

    /// Starts another proxy that shares this one's listeners; its admin port is its own.
    pub async fn start_beside(&self, config: &Config) -> Self {
        for _ in 0..5 {
            let mut ports = self.ports.clone();
            ports.insert("ADMIN".to_owned(), free_port());
            if let Some(proxy) = Self::try_start(ports, &config.render(), &Launch::default()).await {
                return proxy;
            }
        }
        panic!("the listeners cannot be shared");
    }

    /// Starts another proxy on the ports of this one, which is gone, with any text as its configuration.
    pub async fn start_again(&self, yaml: &str, launch: &Launch) -> Self {
        assert!(self.exited.is_some(), "the one before has ended");
        Self::try_start(self.ports.clone(), yaml, launch).await.expect("the ports are free again")
    }

    /// Starts a proxy with any text as its configuration, in which these ports are named, and waits until it is ready,
    /// or only until its admin server answers.
    pub async fn start_yaml(ports: &BTreeMap<String, u16>, yaml: &str, launch: &Launch, until: Until) -> Self {
        let mut ports = ports.clone();
        ports.entry("ADMIN".to_owned()).or_insert_with(free_port);
        Self::launch(ports, yaml, launch, until).await.expect("the ports are free")
    }

    async fn try_start(ports: BTreeMap<String, u16>, yaml: &str, launch: &Launch) -> Option<Self> {
        Self::launch(ports, yaml, launch, Until::Ready).await
    }

    async fn launch(ports: BTreeMap<String, u16>, yaml: &str, launch: &Launch, until: Until) -> Option<Self> {
        gate::shared();
        let folder = tempfile::tempdir().expect("make a temporary folder");
        let path = folder.path().join("outrigger.yaml");
        std::fs::write(&path, fill(yaml, &ports)).expect("write the configuration");
        let stderr = std::fs::File::create(folder.path().join("stderr")).expect("create a file");
        let stdout = std::fs::File::create(folder.path().join("stdout")).expect("create a file");
        let mut command = match launch.descriptors {
            None => Command::new(binary()),
            Some(limit) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("ulimit -n {limit} && exec \"$0\" \"$@\"")]).arg(binary());
                shell
            }
        };
        let child = command
            .arg("run")
            .arg("--config")
            .arg(&path)
            .args(&launch.arguments)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .expect("start the proxy");
        let mut proxy = Self { child, ports, folder, exited: None };
        let start = Instant::now();
        loop {
            if let Some(status) = proxy.child.try_wait().expect("ask for the child") {
                proxy.exited = Some(status);
                let stderr = proxy.stderr();
                if stderr.to_lowercase().contains("in use") {
                    return None;
                }
                panic!("the proxy exited with {status} at its start:\n{stderr}");
            }
            match proxy.try_admin("GET", "/ready").await {
                Some((200, _)) => return Some(proxy),
                Some(_) if until == Until::Up => return Some(proxy),
                _ => {}
            }
            assert!(start.elapsed() < PATIENCE, "the proxy became ready:\n{}", proxy.stderr());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The first listener, `in`.
    pub fn addr(&self) -> SocketAddr {
        self.listener("in")
    }

    /// A listener by name.
    pub fn listener(&self, name: &str) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports[name]))
    }

    /// The admin server.
    pub fn admin_addr(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports["ADMIN"]))
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.folder.path().join("outrigger.yaml")
    }

    /// The temporary folder with the configuration and the outputs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Replaces the configuration file in one step, as an editor or a deployment tool does.
    pub fn replace_config(&self, config: &Config) {
        self.replace_yaml(&config.render());
    }

    /// The same with YAML as it is, apart from ports.
    pub fn replace_yaml(&self, yaml: &str) {
        let fresh = self.folder.path().join("fresh.tmp");
        std::fs::write(&fresh, fill(yaml, &self.ports)).expect("write the configuration");
        std::fs::rename(&fresh, self.config_path()).expect("replace the configuration");
    }

    /// A configuration with this proxy's ports filled in.
    pub fn render(&self, config: &Config) -> String {
        fill(&config.render(), &self.ports)
    }

    /// `GET` on the admin server: status and body.
    pub async fn admin(&self, path: &str) -> (u16, String) {
        let reply = h1_client::exchange(self.admin_addr(), admin_request("GET", path)).await;
        (reply.status, reply.text())
    }

    /// `POST` on the admin server: status and body.
    pub async fn admin_post(&self, path: &str) -> (u16, String) {
        let reply = h1_client::exchange(self.admin_addr(), admin_request("POST", path)).await;
        (reply.status, reply.text())
    }

    /// `GET` on the admin server, parsed as JSON.
    pub async fn admin_json(&self, path: &str) -> serde_json::Value {
        let (status, body) = self.admin(path).await;
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap_or_else(|e| panic!("{path} is JSON: {e}\n{body}"))
    }

    /// As [`Self::admin`], `None` when nobody listens.
    pub async fn try_admin(&self, method: &str, path: &str) -> Option<(u16, String)> {
        let stream = tokio::net::TcpStream::connect(self.admin_addr()).await.ok()?;
        let mut wire = super::http1::Wire::new(stream);
        wire.send(admin_request(method, path)).await.ok()?;
        let reply = tokio::time::timeout(PATIENCE, wire.response(method)).await.ok()?.ok()?;
        Some((reply.status, reply.text()))
    }

    /// The sum of all samples of a metric whose labels contain all of `labels`
    /// (each as it stands in the exposition: `key="value"`).
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let (_, text) = self.admin("/metrics").await;
        metric_in(&text, name, labels)
    }

    /// What the proxy logged so far.
    pub fn stderr(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default()
    }

    /// What the proxy printed so far.
    pub fn stdout(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("stdout")).unwrap_or_default()
    }

    /// Waits until the log contains a text.
    pub async fn logged(&self, text: &str) {
        eventually(PATIENCE, &format!("`{text}` in the log"), || self.stderr().contains(text)).await;
    }

    /// Resident memory in bytes.
    pub fn rss(&self) -> u64 {
        process::rss(self.pid())
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) {
        process::signal(self.pid(), name);
    }

    /// Whether the process has exited.
    pub fn has_exited(&mut self) -> bool {
        if self.exited.is_none() {
            self.exited = self.child.try_wait().expect("ask for the child");
        }
        self.exited.is_some()
    }

    /// Waits for the process to exit by itself.
    pub async fn exit(&mut self, limit: Duration) -> ExitStatus {
        let start = Instant::now();
        while !self.has_exited() {
            assert!(start.elapsed() < limit, "the proxy exits within {limit:?}:\n{}", self.stderr());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.exited.expect("it has exited")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if self.exited.is_none() {
            self.child.kill().ok();
            self.child.wait().ok();
        }
        let stderr = self.stderr();
        if std::thread::panicking() {
            let tail = stderr.len().saturating_sub(6000);
            let tail = (tail..stderr.len()).find(|&at| stderr.is_char_boundary(at)).unwrap_or(0);
            eprintln!("--- the proxy's log ---\n{}\n---", &stderr[tail..]);
        } else {
            assert!(!stderr.contains("panicked at"), "the proxy panicked:\n{stderr}");
        }
    }
}

/// The sum of the samples of a metric in Prometheus text.
pub fn metric_in(text: &str, name: &str, labels: &[&str]) -> f64 {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .filter(|(series, _)| {
            series.split('{').next() == Some(name) && labels.iter().all(|label| series.contains(label))
        })
        .map(|(_, value)| value.parse::<f64>().expect("a sample is a number"))
        .sum()
}

fn admin_request(method: &str, path: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
}

fn fill(yaml: &str, ports: &BTreeMap<String, u16>) -> String {
    // Longer names first, so that `$PORT_in` does not eat the start of `$PORT_inner`.
    let mut names: Vec<_> = ports.keys().collect();
    names.sort_by_key(|name| std::cmp::Reverse(name.len()));
    names.into_iter().fold(yaml.to_owned(), |text, name| {
        let place = if name == "ADMIN" { "$ADMIN".to_owned() } else { format!("$PORT_{name}") };
        text.replace(&place, &ports[name].to_string())
    })
}

fn choose_ports(listeners: &[String]) -> BTreeMap<String, u16> {
    let mut ports = BTreeMap::from([("ADMIN".to_owned(), free_port())]);
    ports.extend(listeners.iter().map(|name| (name.clone(), free_port())));
    ports
}

/// A port that was free a moment ago, below the range from which the kernel serves outgoing
/// connections, each test process starting elsewhere in it.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let spread = (std::process::id().wrapping_mul(97) % 20_000) as u16;
    loop {
        let port = 11_000 + (spread + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}
