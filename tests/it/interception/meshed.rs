//! A mesh from manifests in two network namespaces: the control plane and the proxy of the servers on one host, the proxy of
//! the callers on the other, where connections to the addresses of Services are caught.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use tempfile::TempDir;
use tokio::process::Child;

use super::{PROXY_USER, iptables};
use crate::support::pki::{Authority, Leaf};
use crate::support::proxy::{binary, metric_in};
use crate::support::{Namespace, PATIENCE, ms, process};

/// The control plane on a host of the tests' own, reached from others at 10.77.0.2.
struct Plane<'a> {
    host: &'a Namespace,
    folder: TempDir,
    _child: Child,
}

impl<'a> Plane<'a> {
    async fn start(host: &'a Namespace) -> Self {
        let folder = tempfile::tempdir().expect("make a folder");
        open(folder.path(), 0o755);
        let data = folder.path().join("data");
        let log = std::fs::File::create(folder.path().join("log")).expect("create a file");
        let child = host
            .command(binary())
            .args(["control", "serve", "--grpc", "10.77.0.2:15010", "--name", "10.77.0.2", "--data"])
            .arg(&data)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("start the control plane");
        let plane = Self { host, folder, _child: child };
        let start = std::time::Instant::now();
        while !host.run("curl", &["-sf", "http://127.0.0.1:15014/v1/ready"]).await.status.success() {
            assert!(start.elapsed() < PATIENCE, "the control plane is ready:\n{}", plane.log());
            tokio::time::sleep(ms(20)).await;
        }
        plane
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Runs a command as the first administrator, which must succeed, and gives what it printed.
    async fn told(&self, arguments: &[&str]) -> String {
        let mut command = self.host.command(binary());
        command.arg("control").args(arguments);
        command.env("OUTRIGGER_CONTROL_TOKEN_FILE", self.folder.path().join("data/admin.token"));
        let output = command.output().await.expect("run the command");
        let (out, problems) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{arguments:?}:\n{out}{problems}\n{}", self.log());
        out
    }

    async fn apply(&self, manifests: &str) -> String {
        let path = self.folder.path().join("manifests.yaml");
        std::fs::write(&path, manifests).expect("write the manifests");
        self.told(&["apply", "-f", &path.display().to_string()]).await
    }

    /// Starts the proxy of a workload, run by a user of its own, and waits until it serves.
    async fn proxy<'h>(&self, host: &'h Namespace, workload: &str) -> Resident<'h> {
        let folder = tempfile::tempdir().expect("make a folder");
        let path = |name: &str| folder.path().join(name);
        let token = self.told(&["token", "create", "--join", workload]).await;
        std::fs::write(path("token"), token.trim()).expect("write the token");
        std::fs::copy(self.folder.path().join("data/bundle.pem"), path("bundle.pem")).expect("copy the roots");
        std::fs::create_dir(path("state")).expect("make a folder");
        let yaml = format!(
            "node: {{ id: {} }}\nadmin: {{ address: \"127.0.0.1:15000\" }}\naccessLog: off\nworkers: 2\ncontrolPlane:\n  \
             servers: [\"10.77.0.2:15010\"]\n  serverIdentity: spiffe://mesh.local/ns/outrigger/sa/control\n  \
             trustBundle: {:?}\n  joinToken: {{ file: {:?} }}\n  workload: {workload}\n",
            workload.rsplit('/').next().expect("a name"),
            path("bundle.pem"),
            path("token"),
        );
        std::fs::write(path("outrigger.yaml"), yaml).expect("write the configuration");
        for name in ["", "token", "bundle.pem", "state", "outrigger.yaml"] {
            let user = PROXY_USER.parse().ok();
            std::os::unix::fs::chown(path(name), user, user).expect("give it to the proxy");
        }
        let stderr = std::fs::File::create(path("stderr")).expect("create a file");
        let child = host
            .command(process::tool("setpriv"))
            .args(["--reuid", PROXY_USER, "--regid", PROXY_USER, "--clear-groups"])
            .arg(binary())
            .arg("run")
            .arg("--config")
            .arg(path("outrigger.yaml"))
            .arg("--state-dir")
            .arg(path("state"))
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .expect("start the proxy");
        let resident = Resident { host, folder, _child: child };
        let start = std::time::Instant::now();
        while !host.run("curl", &["-sf", "http://127.0.0.1:15000/ready"]).await.status.success() {
            assert!(start.elapsed() < PATIENCE, "{workload} is ready:\n{}\n{}", resident.log(), self.log());
            tokio::time::sleep(ms(20)).await;
        }
        resident
    }
}

struct Resident<'a> {
    host: &'a Namespace,
    folder: TempDir,
    _child: Child,
}

impl Resident<'_> {
    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default()
    }

    async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
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

fn open(path: &Path, mode: u32) {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(path, mode).expect("open the folder");
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A server of TLS with a certificate of its own, which says its name and the one it was asked for.
async fn secure(host: &Namespace, port: u16, (name, chain, key): (&str, &Path, &Path)) -> Child {
    let mut command = host.command(process::python());
    command.args(["-c", SECURE, &port.to_string(), name]).arg(chain).arg(key);
    host.start(command).await
}

const SECURE: &str = "
import http.server, ssl, sys
port, name, chain, key = sys.argv[1:]
class Web(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        text = f'{name} as {self.connection.asked}'.encode()
        self.send_response(200); self.send_header('content-length', len(text)); self.end_headers(); self.wfile.write(text)
    def log_message(self, *_): pass
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(chain, key)
def asked(socket, server_name, _):
    socket.asked = server_name
context.sni_callback = asked
server = http.server.ThreadingHTTPServer(('127.0.0.1', int(port)), Web)
server.socket = context.wrap_socket(server.socket, server_side=True)
print('ready', flush=True)
server.serve_forever()
";

const MESH: &str = "
apiVersion: outrigger.dev/v1
kind: MeshPolicy
metadata: { name: mesh, namespace: outrigger-system }
spec: { trustDomain: mesh.local, mtls: { mode: strict } }
---
apiVersion: v1
kind: Service
metadata: { name: front, namespace: shop }
spec: { clusterIP: 10.96.0.7, selector: { app: servers }, ports: [{ name: tls, port: 443, targetPort: one, appProtocol: tcp }] }
---
apiVersion: v1
kind: Service
metadata: { name: two, namespace: shop }
spec: { selector: { app: servers }, ports: [{ port: 443, targetPort: two, appProtocol: tcp }] }
---
apiVersion: outrigger.dev/v1
kind: Workload
metadata: { name: servers-1, namespace: shop, labels: { app: servers } }
spec:
  serviceAccount: servers
  address: 10.77.0.2
  ports:
    - { name: one, port: 9001, inbound: 16001, protocol: tcp }
    - { name: two, port: 9002, inbound: 16002, protocol: tcp }
  uses: []
---
apiVersion: outrigger.dev/v1
kind: Workload
metadata: { name: caller-1, namespace: shop }
spec:
  serviceAccount: caller
  address: 10.77.0.1
  outbound: 127.0.0.1:15001
  interception: { unknown: refuse }
  uses: [front]
";

/// A TLSRoute of `front`.
fn route(name: &str, hostnames: &str, backends: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: TLSRoute\nmetadata: {{ name: {name}, namespace: shop }}\nspec:\n  \
         parentRefs: [{{ group: \"\", kind: Service, name: front, sectionName: tls }}]\n  hostnames: [{hostnames}]\n  \
         rules: [{{ backendRefs: [{backends}] }}]\n"
    )
}

/// Who is reached under a name at the address of the Service, by a client that verifies the server.
async fn reach(host: &Namespace, name: &str, roots: &Path) -> Output {
    let (resolve, url) = (format!("{name}:443:10.96.0.7"), format!("https://{name}/"));
    let roots = roots.display().to_string();
    host.run("curl", &["-sS", "--max-time", "10", "--cacert", &roots, "--resolve", &resolve, &url]).await
}

#[tokio::test]
async fn tls_is_handed_on_by_server_name_between_two_proxies_of_a_mesh() {
    let (caller, servers) = Namespace::pair();
    let folder = tempfile::tempdir().expect("make a folder");
    let path = |name: &str| -> PathBuf { folder.path().join(name) };
    let authority = Authority::root("servers of others");
    std::fs::write(path("roots.pem"), &authority.pem).expect("write the roots");
    let mut running = Vec::new();
    for (port, name, leaf) in [
        (9001, "one", Leaf::new().dns("a.example").dns("special.b.example").dns("split.example")),
        (9002, "two", Leaf::new().dns("x.b.example").dns("split.example")),
    ] {
        let credential = authority.issue(&leaf);
        let (chain, key) = (path(&format!("{name}.pem")), path(&format!("{name}.key")));
        std::fs::write(&chain, &credential.chain).expect("write the certificate");
        std::fs::write(&key, &credential.key).expect("write the key");
        running.push(secure(&servers, port, (name, &chain, &key)).await);
    }

    let plane = Plane::start(&servers).await;
    let routes = route("one", "a.example, special.b.example", "{ name: front, port: 443 }")
        + &route("two", "\"*.b.example\"", "{ name: two, port: 443 }")
        + &route("split", "split.example", "{ name: front, port: 443 }, { name: two, port: 443 }")
        + &route("z-late", "a.example", "{ name: two, port: 443 }")
        + &route("nowhere", "nowhere.example", "{ name: gone, port: 443 }");
    plane.apply(&format!("{MESH}{routes}")).await;
    let beside = plane.proxy(&servers, "shop/servers-1").await;
    let proxy = plane.proxy(&caller, "shop/caller-1").await;
    iptables(&caller, &["apply", "--inbound-port", "0"]).await;

    let roots = path("roots.pem");
    for (name, answer) in [
        ("a.example", "one as a.example"),
        ("special.b.example", "one as special.b.example"),
        ("x.b.example", "two as x.b.example"),
    ] {
        let output = reach(&caller, name, &roots).await;
        assert_eq!(text(&output.stdout), answer, "{name}: {output:?}\n{}", proxy.log());
    }
    // By weight.
    let mut seen = std::collections::BTreeSet::new();
    let start = std::time::Instant::now();
    while seen.len() < 2 {
        let output = reach(&caller, "split.example", &roots).await;
        assert!(output.status.success(), "{output:?}");
        seen.insert(text(&output.stdout));
        assert!(start.elapsed() < PATIENCE, "both are reached: {seen:?}");
    }
    // A name of nobody, a backend that is not there, and plaintext.
    for name in ["other.example", "b.example", "nowhere.example"] {
        let output = reach(&caller, name, &roots).await;
        assert!(!output.status.success() && output.stdout.is_empty(), "{name}: {output:?}");
    }
    let plain = caller.run("curl", &["-sS", "--max-time", "10", "http://10.96.0.7:443/"]).await;
    assert!(!plain.status.success(), "{plain:?}");
    let listener = "listener=\"outbound:shop/front:443\"";
    for (reason, at_least) in [("unrecognized-name", 2.0), ("plaintext", 1.0)] {
        let refused =
            proxy.metric("outrigger_tls_refused_connections_total", &[listener, &format!("reason=\"{reason}\"")]).await;
        assert!(refused >= at_least, "{reason}: {refused}");
    }
    // Between the two proxies it went inside the mesh's own TLS.
    let shaken = beside.metric("outrigger_tls_handshakes_total", &["listener=\"inbound:9001\""]).await;
    assert!(shaken >= 2.0, "{shaken} handshakes");

    let shown = plane.told(&["get", "TLSRoute", "-n", "shop"]).await;
    let of = |name: &str| shown.lines().find(|line| line.contains(name)).unwrap_or_default().to_owned();
    assert!(of("z-late").contains("Conflicted"), "{shown}");
    assert!(of("nowhere").contains("BackendNotFound"), "{shown}");

    // Without the routes everything goes to the Service itself.
    for name in ["one", "two", "split", "z-late", "nowhere"] {
        plane.told(&["delete", "TLSRoute", name, "-n", "shop"]).await;
    }
    plane.told(&["status", "--wait", "6", "--timeout", "20s"]).await;
    let output = reach(&caller, "x.b.example", &roots).await;
    assert!(!output.status.success(), "the other server has no such certificate: {output:?}");
    let output = reach(&caller, "a.example", &roots).await;
    assert_eq!(text(&output.stdout), "one as a.example", "{output:?}");
    drop(running);
}
