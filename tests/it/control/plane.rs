//! The control plane as a child process on ports of its own, which it keeps when it is started again.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::proxy::{binary, free_port};
use crate::support::{PATIENCE, gate, ms};

/// A control plane; killed when dropped.
#[derive(Debug)]
pub struct Plane {
    child: Option<Child>,
    pub grpc: SocketAddr,
    pub api: SocketAddr,
    folder: TempDir,
    settings: String,
}

impl Plane {
    pub async fn start() -> Self {
        Self::with("").await
    }

    /// With more lines in its file.
    pub async fn with(settings: &str) -> Self {
        gate::shared();
        for _ in 0..5 {
            let port = || SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
            let folder = tempfile::tempdir().expect("make a folder");
            let mut plane = Self { child: None, grpc: port(), api: port(), folder, settings: settings.to_owned() };
            if plane.launch().await {
                return plane;
            }
        }
        panic!("no free ports in five attempts");
    }

    /// Starts it again after [`Self::kill`], with the same data on the same ports.
    pub async fn again(&mut self) {
        assert!(self.child.is_none(), "it is gone");
        assert!(self.launch().await, "its ports are free again:\n{}", self.log());
    }

    async fn launch(&mut self) -> bool {
        let path = |name: &str| self.folder.path().join(name);
        let file = format!(
            "data: {}\ngrpc: {}\napi: {{ address: \"{}\" }}\n{}",
            path("data").display(),
            self.grpc,
            self.api,
            self.settings
        );
        std::fs::write(path("control.yaml"), file).expect("write its file");
        let log = std::fs::File::options().create(true).append(true).open(path("log")).expect("open a file");
        let mut command = control();
        command.arg("serve").arg("--config").arg(path("control.yaml"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().expect("start the control plane"));
        let start = Instant::now();
        loop {
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait().expect("ask for the child")
            {
                self.child = None;
                assert!(self.log().to_lowercase().contains("in use"), "it ended with {status}:\n{}", self.log());
                return false;
            }
            if self.try_ask("", "GET", "/v1/ready", &Value::Null).await.is_some_and(|(status, _)| status == 200) {
                return true;
            }
            assert!(start.elapsed() < PATIENCE, "the control plane is ready:\n{}", self.log());
            tokio::time::sleep(ms(5)).await;
        }
    }

    /// Ends it at once, without a chance to finish anything.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("kill it");
            child.wait().expect("it ends");
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The roots that it is verified by.
    pub fn bundle(&self) -> PathBuf {
        self.path("data/bundle.pem")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub fn admin(&self) -> String {
        std::fs::read_to_string(self.path("data/admin.token")).expect("the first start makes a token").trim().to_owned()
    }

    /// Asks the API as the first administrator.
    pub async fn ask(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        self.try_ask(&self.admin(), method, path, body).await.expect("an answer")
    }

    pub async fn get(&self, path: &str) -> Value {
        let (status, body) = self.ask("GET", path, &Value::Null).await;
        assert_eq!(status, 200, "{path}: {body:#}");
        body
    }

    /// The same as anybody; `None` when no whole answer comes.
    pub async fn try_ask(&self, token: &str, method: &str, path: &str, body: &Value) -> Option<(u16, Value)> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {token}\r\n\
             content-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let stream = tokio::net::TcpStream::connect(self.api).await.ok()?;
        let mut wire = crate::support::http1::Wire::new(stream);
        wire.send(request).await.ok()?;
        let reply = tokio::time::timeout(4 * PATIENCE, wire.response(method)).await.ok()?.ok()?;
        let text = reply.text();
        Some((reply.status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// Pushes manifests; gives the generation.
    pub async fn apply(&self, manifests: &str) -> u64 {
        let (status, body) = self.ask("POST", "/v1/apply", &push(manifests)).await;
        assert_eq!(status, 200, "{body:#}");
        body["generation"].as_u64().unwrap_or_else(|| panic!("a new generation: {body:#}"))
    }

    /// A join token for a workload that is, or will soon be, registered.
    pub async fn join_token(&self, workload: &str) -> String {
        let start = Instant::now();
        loop {
            let (status, body) = self.ask("POST", "/v1/join-tokens", &json!({ "workload": workload })).await;
            if status == 200 {
                return body["token"].as_str().expect("a token").to_owned();
            }
            assert!(start.elapsed() < PATIENCE, "{workload} is registered: {body:#}");
            tokio::time::sleep(ms(10)).await;
        }
    }

    /// The stream of a proxy that is connected, if one is.
    pub async fn proxy(&self, workload: &str) -> Option<Value> {
        let status = self.get("/v1/status").await;
        let mut rows = status["proxies"].as_array().into_iter().flatten();
        rows.find(|row| row["proxy"] == workload && row["state"] != "disconnected").cloned()
    }

    /// Waits until a proxy has taken a generation.
    pub async fn synced(&self, workload: &str, generation: u64) {
        let start = Instant::now();
        loop {
            let row = self.proxy(workload).await.unwrap_or_default();
            if row["state"] == "synced" && row["accepted"].as_u64() >= Some(generation) {
                return;
            }
            let shown = self.get("/v1/status").await;
            assert!(start.elapsed() < 2 * PATIENCE, "{workload} takes {generation}: {shown:#}\n{}", self.log());
            tokio::time::sleep(ms(20)).await;
        }
    }

    /// Entries of the audit log that hold all of these texts.
    pub async fn audited(&self, texts: &[&str]) -> Vec<Value> {
        let log = self.get("/v1/audit").await;
        let entries = log.as_array().into_iter().flatten();
        entries.filter(|entry| texts.iter().all(|text| entry.to_string().contains(text))).cloned().collect()
    }

    /// Runs a command as the first administrator.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let mut command = control();
        command.args(arguments).env("OUTRIGGER_CONTROL_SERVER", format!("http://{}", self.api));
        command.env("OUTRIGGER_CONTROL_TOKEN", self.admin()).stdin(Stdio::null());
        command.output().expect("run the command")
    }

    /// The same; it must succeed. Gives what it printed.
    pub fn told(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let (out, problems) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{arguments:?}:\n{out}{problems}");
        out.into_owned()
    }

    /// Gets a certificate with a token, into a folder.
    pub fn join(&self, token: &str, out: &Path) -> Output {
        let mut command = control();
        command.arg("join").arg("--grpc").arg(self.grpc.to_string()).arg("--ca").arg(self.bundle());
        command.arg("--out").arg(out).env("OUTRIGGER_JOIN_TOKEN", token).stdin(Stdio::null());
        command.output().expect("run the command")
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
        let log = self.log();
        if std::thread::panicking() {
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- the control plane's log ---\n{}\n---", lines[lines.len().saturating_sub(40)..].join("\n"));
        } else {
            assert!(!log.contains("panicked at"), "the control plane panicked:\n{log}");
        }
    }
}

/// The body of a push.
pub fn push(manifests: &str) -> Value {
    json!({ "documents": [{ "name": "test.yaml", "text": manifests }] })
}

fn control() -> Command {
    let mut command = Command::new(binary());
    command.arg("control");
    command
}
