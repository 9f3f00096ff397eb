//! Our control plane as a child process, used as people use it: by its commands.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;

use super::foreign::Variant;
use super::subject::{Papers, Plane};
use crate::support::{PATIENCE, proxy, within};

/// A running control plane; stopped when dropped.
pub struct Control {
    child: Child,
    pub grpc: SocketAddr,
    api: SocketAddr,
    folder: TempDir,
}

impl Control {
    /// Starts one without manifests, and waits until its ports are open.
    pub async fn start() -> Self {
        crate::support::gate::shared();
        let folder = tempfile::tempdir().expect("make a temporary folder");
        let file = |name: &str| std::fs::File::create(folder.path().join(name)).expect("create a file");
        let mut command = program();
        command.arg("serve").arg("--data").arg(folder.path().join("data"));
        command.args(["--grpc", "127.0.0.1:0", "--api", "127.0.0.1:0", "--log-level", "info"]);
        let child = command
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .spawn()
            .expect("start the control plane");
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut control = Self { child, grpc: nowhere, api: nowhere, folder };
        let start = Instant::now();
        loop {
            let said = std::fs::read_to_string(control.folder.path().join("stdout")).unwrap_or_default();
            let addr = |name: &str| {
                let line = said.lines().find_map(|line| line.strip_prefix(name));
                line.and_then(|text| text.trim().parse().ok())
            };
            if let (Some(grpc), Some(api), true) = (addr("gRPC "), addr("API "), said.ends_with('\n')) {
                (control.grpc, control.api) = (grpc, api);
                return control;
            }
            let ended = control.child.try_wait().expect("ask for the child");
            assert!(ended.is_none(), "the control plane ended:\n{}", control.log());
            assert!(start.elapsed() < PATIENCE, "the control plane listens:\n{}", control.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Pushes manifests, and gives the generation that they made.
    pub async fn apply(&self, manifests: &str) -> u64 {
        let said = self.run(&["apply", "-f", "-", "--output", "json"], manifests).await;
        let said: Value = serde_json::from_str(&said).expect("JSON");
        said["generation"].as_u64().unwrap_or_else(|| panic!("a new generation: {said}"))
    }

    /// Where every proxy stands.
    pub async fn status(&self) -> Value {
        serde_json::from_str(&self.run(&["status", "--output", "json"], "").await).expect("JSON")
    }

    /// Where one proxy stands.
    pub async fn proxy(&self, workload: &str) -> Option<Value> {
        let status = self.status().await;
        status["proxies"].as_array().into_iter().flatten().find(|proxy| proxy["proxy"] == workload).cloned()
    }

    /// Waits until a proxy has taken a generation.
    pub async fn synced(&self, workload: &str, generation: u64) {
        let taken = |row: &Value| row["state"] == "synced" && row["accepted"].as_u64() >= Some(generation);
        self.until(workload, &format!("generation {generation} is taken"), taken).await;
    }

    /// Waits until a proxy refused something, and gives its row.
    pub async fn refused(&self, workload: &str) -> Value {
        self.until(workload, "something is refused", |row| row["state"] == "refused").await
    }

    async fn until(&self, workload: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            match self.proxy(workload).await {
                Some(row) if holds(&row) => return row,
                row => assert!(start.elapsed() < PATIENCE, "{workload}: {what}: {row:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A certificate for a workload, as files, fetched with a join token.
    pub async fn join(&self, workload: &str) -> Papers {
        let folder = self.folder.path().join(workload.replace('/', "-"));
        let token = self.run(&["token", "create", "--join", workload], "").await;
        let mut command = program();
        command.arg("join").arg("--grpc").arg(self.grpc.to_string()).arg("--ca").arg(self.bundle());
        command.arg("--out").arg(&folder).env("OUTRIGGER_JOIN_TOKEN", token.trim());
        ended(command, "").await;
        let path = |name: &str| folder.join(name);
        Papers {
            certificate: path("svid.pem"),
            key: path("svid.key"),
            roots: path("bundle.pem"),
            name: "localhost".to_owned(),
        }
    }

    /// A workload's way to the control plane, with a certificate for it.
    pub async fn plane(&self, workload: &str, variant: Variant) -> Plane {
        Plane { addr: self.grpc, variant, tls: Some(self.join(workload).await) }
    }

    /// A join token in a file.
    pub async fn token_file(&self, workload: &str) -> PathBuf {
        let path = self.folder.path().join(format!("{}.token", workload.replace('/', "-")));
        let token = self.run(&["token", "create", "--join", workload], "").await;
        std::fs::write(&path, token).expect("write the token");
        path
    }

    /// The roots that the control plane is verified by.
    pub fn bundle(&self) -> PathBuf {
        self.folder.path().join("data/bundle.pem")
    }

    /// A folder for the test's own files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs a command as the first administrator; it must succeed. Gives what it printed.
    pub async fn run(&self, arguments: &[&str], input: &str) -> String {
        let said = std::fs::read_to_string(self.folder.path().join("stdout")).unwrap_or_default();
        let token = said.lines().find_map(|line| line.strip_prefix("the first admin token is in ")).expect("a token");
        let mut command = program();
        command.args(arguments).args(["--server", &format!("http://{}", self.api), "--token-file", token.trim()]);
        String::from_utf8(ended(command, input).await.stdout).expect("text")
    }

    /// What it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        let log = self.log();
        if std::thread::panicking() {
            let tail = log.lines().rev().take(40).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n");
            eprintln!("--- the control plane's log ---\n{tail}\n---");
        } else {
            assert!(!log.contains("panicked at"), "the control plane panicked:\n{log}");
        }
    }
}

/// Runs a command beside everything else; it must succeed.
async fn ended(command: Command, input: &str) -> Output {
    let shown = format!("{command:?}");
    let mut child = tokio::process::Command::from(command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("run the command");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input.as_bytes()).await.expect("it reads");
    drop(stdin);
    let output = within(PATIENCE, &shown, child.wait_with_output()).await.expect("it ends");
    let (out, problems) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{shown}:\n{out}{problems}");
    output
}

/// The control plane's commands; `OUTRIGGER_CONTROL_BIN` names another build of them.
fn program() -> Command {
    match std::env::var_os("OUTRIGGER_CONTROL_BIN") {
        Some(path) => Command::new(path),
        None => {
            let mut command = Command::new(proxy::binary());
            command.arg("control");
            command
        }
    }
}
