//! A control plane on ports of its own, and callers.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use outrigger_control::api::wire::{ApplyRequest, DocumentText};
use outrigger_control::api::{NewToken, make_token};
use outrigger_control::serve::{self, Options, Running};
use outrigger_control::store::{AuditEntry, Outcome, Role, Timestamp};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;

pub(crate) const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata: { name: payments, namespace: shop }
spec:
  selector: { app: payments }
  ports: [{ name: http, port: 80, targetPort: http }]
";

pub(crate) const WORKLOADS: &str = "\
apiVersion: outrigger.dev/v1
kind: Workload
metadata: { name: payments-1, namespace: shop, labels: { app: payments } }
spec:
  serviceAccount: payments
  address: 127.0.0.1
  outbound: 127.0.0.1:15101
  ports: [{ name: http, port: 8081, inbound: 15106, application: 127.0.0.1:18081 }]
---
apiVersion: outrigger.dev/v1
kind: Workload
metadata: { name: web-1, namespace: shop, labels: { app: web } }
spec:
  serviceAccount: web
  address: 127.0.0.1
  outbound: 127.0.0.1:15001
  uses: [payments]
";

/// A route of `shop/payments` with a request timeout.
pub(crate) fn route(timeout: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: payments, namespace: shop }}
spec:
  parentRefs: [{{ group: \"\", kind: Service, name: payments }}]
  rules:
    - name: charges
      matches: [{{ path: {{ type: PathPrefix, value: /v1/charges }} }}]
      timeouts: {{ request: {timeout} }}
      backendRefs: [{{ name: payments, port: 80 }}]
"
    )
}

/// A control plane and its data folder.
pub(crate) struct Control {
    pub(crate) running: Running,
    pub(crate) folder: TempDir,
    pub(crate) admin: String,
}

pub(crate) fn options(folder: &Path) -> Options {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    Options { grpc: any, api: any, ..Options::new(folder.join("data")) }
}

impl Control {
    pub(crate) async fn start() -> Self {
        Self::start_with(|options, _| options).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(Options, &Path) -> Options) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let options = change(options(folder.path()), folder.path());
        let running = serve::start(options).await.expect("it starts");
        let path = running.admin_token_file().expect("the first start makes a token");
        let admin = fs::read_to_string(path).expect("readable").trim().to_owned();
        Self { running, folder, admin }
    }

    /// The same control plane, stopped and started again.
    pub(crate) async fn restart(self) -> Self {
        let Self { running, folder, admin } = self;
        running.stop().await;
        let running = serve::start(options(folder.path())).await.expect("it starts again");
        assert_eq!(running.admin_token_file(), None, "only the first start makes a token");
        Self { running, folder, admin }
    }

    /// A token with a role.
    pub(crate) fn token(&self, name: &str, role: Role, expires: Option<Timestamp>) -> String {
        let at = Timestamp::now();
        let new = NewToken { name: name.to_owned(), role, by: "test".to_owned(), at, expires };
        let (token, text) = make_token(new).expect("random numbers");
        let audit = AuditEntry {
            at,
            who: "test".to_owned(),
            from: String::new(),
            action: "test".to_owned(),
            subject: String::new(),
            outcome: Outcome::Done,
            detail: String::new(),
        };
        self.running.store().add_api_token(token, audit).expect("added");
        text
    }

    /// Asks as somebody; `""` is nobody.
    pub(crate) async fn ask(&self, token: &str, method: &str, path: &str, body: &Value) -> (StatusCode, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let headers = [("content-type", "application/json".to_owned()), ("authorization", format!("Bearer {token}"))];
        let headers = if token.is_empty() { &headers[..1] } else { &headers[..] };
        self.raw(method, path, headers, body).await
    }

    pub(crate) async fn raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, String)],
        body: impl Into<Bytes>,
    ) -> (StatusCode, Value) {
        let tcp = TcpStream::connect(self.running.api()).await.expect("it listens");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await.expect("a connection");
        let driving = tokio::spawn(connection);
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let mut request = Request::builder().method(method).uri(path).header("host", "127.0.0.1");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(body.into())).expect("a request");
        let response = sender.send_request(request).await.expect("an answer");
        let status = response.status();
        let body = response.into_body().collect().await.expect("a whole answer").to_bytes();
        driving.abort();
        let value =
            serde_json::from_slice(&body).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&body).into()));
        (status, value)
    }

    /// Pushes texts as an admin.
    pub(crate) async fn apply(&self, texts: &[(&str, &str)]) -> Value {
        let (status, body) = self.ask(&self.admin, "POST", "/v1/apply", &documents(texts)).await;
        assert_eq!(status, StatusCode::OK, "{body:#}");
        body
    }

    pub(crate) async fn generation(&self) -> u64 {
        let (status, body) = self.ask(&self.admin, "GET", "/v1/status", &Value::Null).await;
        assert_eq!(status, StatusCode::OK, "{body:#}");
        body["generation"].as_u64().expect("a number")
    }

    /// Runs a command against this control plane. Blocks.
    pub(crate) fn command(&self, arguments: &[&str]) -> Output {
        self.command_as(&self.admin, arguments)
    }

    pub(crate) fn command_as(&self, token: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger-control"));
        command.current_dir(self.folder.path()).args(arguments).env_clear().env("HOME", self.folder.path());
        command.env("OUTRIGGER_CONTROL_SERVER", format!("http://{}", self.running.api()));
        command.env("OUTRIGGER_CONTROL_TOKEN", token);
        command.output().expect("the program runs")
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(&path, text).expect("written");
        path
    }
}

pub(crate) fn documents(texts: &[(&str, &str)]) -> Value {
    let documents =
        texts.iter().map(|(name, text)| DocumentText { name: (*name).to_owned(), text: (*text).to_owned() }).collect();
    json!(ApplyRequest { documents, ..ApplyRequest::default() })
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

/// Looks until it is so, for at most ten seconds.
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not within ten seconds: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
