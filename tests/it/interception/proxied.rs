//! Plain `curl` and `psql` in a network namespace, caught by the proxy there without being told of it.

use std::process::Stdio;

use tempfile::TempDir;
use tokio::process::Child;

use super::{PROXY_USER, iptables};
use crate::databases::Postgres;
use crate::support::proxy::{binary, metric_in};
use crate::support::{Mesh, Namespace, PATIENCE, process};

/// A proxy on a host of the tests' own, run by a user of its own; gone when dropped.
pub struct Resident<'a> {
    host: &'a Namespace,
    child: Child,
    folder: TempDir,
}

impl<'a> Resident<'a> {
    /// With this configuration; its admin server is on port 15000.
    pub async fn start(host: &'a Namespace, mesh: &Mesh, account: &str, yaml: &str) -> Self {
        let folder = tempfile::tempdir().expect("make a folder");
        let path = folder.path().join("outrigger.yaml");
        let text =
            format!("admin: {{ address: \"127.0.0.1:15000\" }}\naccessLog: off\n{}\n{yaml}", mesh.identity(account));
        std::fs::write(&path, text).expect("write the configuration");
        for open in [folder.path().to_owned(), mesh.files.path("")] {
            let all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(open, all).expect("open the folder");
        }
        let stderr = std::fs::File::create(folder.path().join("stderr")).expect("create a file");
        let child = host
            .command(process::tool("setpriv"))
            .args(["--reuid", PROXY_USER, "--regid", PROXY_USER, "--clear-groups"])
            // What TPROXY needs, and nothing more of what root may.
            .args(["--inh-caps", "-all,+net_admin", "--ambient-caps", "-all,+net_admin"])
            .arg(binary())
            .args(["run", "--config"])
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .expect("start the proxy");
        let resident = Self { host, child, folder };
        let start = std::time::Instant::now();
        while !host.run("curl", &["-sf", "http://127.0.0.1:15000/ready"]).await.status.success() {
            assert!(start.elapsed() < PATIENCE, "the proxy is ready:\n{}", resident.log());
            tokio::time::sleep(crate::support::ms(20)).await;
        }
        resident
    }

    /// Ends it, so that its ports are free.
    pub async fn stop(mut self) {
        self.child.kill().await.expect("it ends");
    }

    /// What it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default()
    }

    /// The sum of a metric.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        metric_in(&self.host.printed("curl", &["-s", "http://127.0.0.1:15000/metrics"]).await, name, labels)
    }
}

impl Drop for Resident<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the proxy's log ---\n{}\n---", self.log());
        }
    }
}

/// A web server that says which it is, and as whom it sees its caller.
async fn web(host: &Namespace, address: &str, name: &str) -> Child {
    let mut command = host.command(process::python());
    command.args(["-c", WEB, address, name]);
    host.start(command).await
}

const WEB: &str = "
import http.server, sys
address, port = sys.argv[1].rsplit(':', 1)
class Web(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        text = f'{sys.argv[2]} {self.path} {self.headers[\"host\"]} from {self.client_address[0]}\\n'.encode()
        self.send_response(200); self.send_header('content-length', len(text)); self.end_headers(); self.wfile.write(text)
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer((address, int(port)), Web)
print('ready', flush=True)
server.serve_forever()
";

/// What the caller's proxy does: HTTP by routes, PostgreSQL by its own listener over mutual TLS, the rest untouched.
fn outbound(mesh: &Mesh) -> String {
    format!(
        "
listeners:
  - name: outbound
    bind: 0.0.0.0:15001
    routes: outbound
    interception: {{ mode: redirect, unknown: serve }}
  - name: postgres
    bind: 127.0.0.1:15432
    protocol: tcp
    tcp: {{ backendRefs: [{{ cluster: postgres }}] }}
    intercepts: [{{ addresses: [10.77.0.0/24, 192.0.2.0/24], ports: [5432] }}]
routes:
  outbound:
    - rules: [{{ backendRefs: [{{ cluster: web }}] }}]
clusters:
  web: {{ endpoints: [\"10.77.0.2:8080\"] }}
  postgres:
    protocol: tcp
    tls: {{ peerIdentities: [\"{}\"] }}
    endpoints: [\"10.77.0.2:16432\"]
",
        mesh.id("shop/db")
    )
}

/// The database's proxy: mutual TLS in, plaintext to the database.
const BESIDE_POSTGRES: &str = "
listeners:
  - name: db
    bind: 10.77.0.2:16432
    protocol: tcp
    tls: { mode: strict }
    tcp: { backendRefs: [{ cluster: db }] }
routes: {}
clusters:
  db: { protocol: tcp, endpoints: [\"127.0.0.1:5432\"] }
";

#[tokio::test]
async fn curl_and_psql_are_caught_without_being_told() {
    let (host, peer) = Namespace::pair();
    let before = super::everything(&host).await;
    let mesh = Mesh::new();
    let _web = web(&peer, "10.77.0.2:8080", "the application").await;
    let postgres = Postgres::on(&peer).await;
    let _beside = Resident::start(&peer, &mesh, "shop/db", BESIDE_POSTGRES).await;
    let proxy = Resident::start(&host, &mesh, "shop/web", &outbound(&mesh)).await;

    // Nothing listens at these: whoever gets an answer was caught.
    let curl = ["--silent", "--show-error", "--max-time", "10", "http://192.0.2.7/some/page"];
    let psql = |address: &str| {
        let to = format!("host={address} port=5432 user=postgres dbname=postgres connect_timeout=5");
        ["--no-psqlrc", "--tuples-only", "--no-align", "-c", "select 6 * 7", &to].map(str::to_owned)
    };
    let ask = async |address: &str| {
        let arguments = psql(address);
        host.run("psql", &arguments.each_ref().map(String::as_str)).await
    };
    assert!(!ask("10.77.0.2").await.status.success(), "without the rules nothing is caught");

    iptables(&host, &["apply", "--inbound-port", "0"]).await;
    let answer = host.printed("curl", &curl).await;
    assert_eq!(answer, "the application /some/page 192.0.2.7 from 10.77.0.1\n");
    for address in ["10.77.0.2", "192.0.2.9"] {
        let output = ask(address).await;
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "42", "{output:?}\n{}", proxy.log());
    }
    assert!(proxy.metric("outrigger_requests_total", &["class=\"2xx\""]).await >= 1.0);
    // HTTPS that is going elsewhere is none of the proxy's routes; here nobody answers it.
    iptables(&host, &["remove"]).await;
    super::same(&super::everything(&host).await, &before, "undone");
    assert!(!ask("192.0.2.9").await.status.success(), "nothing is caught any more");
    drop(postgres);
}

/// What arrives for the application goes through its proxy, by either way of redirecting.
#[tokio::test]
async fn what_arrives_for_an_application_is_served_by_its_proxy() {
    let (caller, host) = Namespace::pair();
    let mesh = Mesh::new();
    let _application = web(&host, "127.0.0.1:8080", "the application").await;
    let _other = web(&host, "10.77.0.2:9000", "the other").await;
    for mode in ["redirect", "tproxy"] {
        let yaml = format!(
            "
listeners:
  - name: inbound
    bind: 0.0.0.0:15006
    routes: inbound
    interception: {{ mode: {mode}, unknown: passThrough }}
  - name: web
    bind: 127.0.0.1:15080
    routes: inbound
    intercepts: [{{ ports: [80] }}]
routes:
  inbound:
    - rules: [{{ backendRefs: [{{ cluster: application }}] }}]
clusters:
  application: {{ endpoints: [\"127.0.0.1:8080\"] }}
"
        );
        let proxy = Resident::start(&host, &mesh, "shop/web", &yaml).await;
        iptables(&host, &["apply", "--outbound-port", "0", "--inbound-mode", mode]).await;
        let get = async |url: &str| caller.printed("curl", &["--silent", "--max-time", "10", url]).await;
        assert_eq!(get("http://10.77.0.2/a").await, "the application /a 10.77.0.2 from 127.0.0.1\n", "{mode}");
        // What no listener serves is handed on to where it was going.
        let passed = get("http://10.77.0.2:9000/b").await;
        assert!(passed.starts_with("the other /b 10.77.0.2:9000 "), "{mode}: {passed}");
        assert_eq!(proxy.metric("outrigger_requests_total", &["class=\"2xx\""]).await, 1.0, "{mode}");
        iptables(&host, &["remove"]).await;
        proxy.stop().await;
    }
}
