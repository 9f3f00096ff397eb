//! Plain `curl` and `psql` in a network namespace, caught by the proxy there without being told of it.

use tempfile::TempDir;
use tokio::process::Child;

use super::{PROXY_USER, iptables};
use crate::databases::Postgres;
use crate::support::proxy::{binary, metric_in};
use crate::support::{Mesh, Namespace, PATIENCE, eventually, process};

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
        let log = if yaml.contains("accessLog:") { "" } else { "accessLog: off" };
        let text = format!("admin: {{ address: \"127.0.0.1:15000\" }}\n{log}\n{}\n{yaml}", mesh.identity(account));
        std::fs::write(&path, text).expect("write the configuration");
        for open in [folder.path().to_owned(), mesh.files.path("")] {
            let all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(open, all).expect("open the folder");
        }
        let output = |name: &str| std::fs::File::create(folder.path().join(name)).expect("create a file");
        let child = host
            .command(process::tool("setpriv"))
            .args(["--reuid", PROXY_USER, "--regid", PROXY_USER, "--clear-groups"])
            // What TPROXY needs, and nothing more of what root may.
            .args(["--inh-caps", "-all,+net_admin", "--ambient-caps", "-all,+net_admin"])
            .arg(binary())
            .args(["run", "--config"])
            .arg(&path)
            .stdout(output("stdout"))
            .stderr(output("stderr"))
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

    /// The lines of its access log.
    pub fn accesses(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.folder.path().join("stdout")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
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
import http.server, socket, sys
address, port = sys.argv[1].rsplit(':', 1)
class Web(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        text = f'{sys.argv[2]} {self.path} {self.headers[\"host\"]} from {self.client_address[0]}\\n'.encode()
        self.send_response(200); self.send_header('content-length', len(text)); self.end_headers(); self.wfile.write(text)
    def log_message(self, *_): pass
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6 if ':' in address else socket.AF_INET
server = Server((address, int(port)), Web)
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

/// A listener for both families, a policy that knows callers by address and port, and raw bytes that are handed on.
fn dual(mode: &str) -> String {
    format!(
        "
accessLog: stdout
authorization:
  known:
    default: deny
    rules: [{{ name: known, action: allow, from: [{{ addresses: [10.77.0.1/32, 'fd77::1/128'] }}], to: [{{ ports: [80, 9000] }}] }}]
listeners:
  - name: inbound
    bind: \"[::]:15006\"
    routes: inbound
    interception: {{ mode: {mode}, unknown: passThrough }}
  - name: web
    bind: 127.0.0.1:15080
    routes: inbound
    authorization: known
    intercepts: [{{ addresses: [10.77.0.2/32, 'fd77::2/128'], ports: [80, 81] }}]
routes:
  inbound:
    - rules: [{{ backendRefs: [{{ cluster: application }}] }}]
clusters:
  application: {{ endpoints: [\"127.0.0.1:8080\"] }}
"
    )
}

/// A plain `curl` is seen as who it is and where it was going, by policies and in the log, in both ways and both families.
#[tokio::test]
async fn policies_and_the_log_see_the_caller_and_where_it_was_going() {
    let (caller, host) = Namespace::pair();
    // The caller has another address in each family, which the policy does not know.
    for address in ["10.77.0.9/24", "fd77::9/64"] {
        caller.ip(&["address", "add", address, "dev", "wire", "nodad"]);
    }
    let mesh = Mesh::new();
    let _application = web(&host, "127.0.0.1:8080", "the application").await;
    let _others = [web(&host, "10.77.0.2:9000", "the other").await, web(&host, "fd77::2:9000", "the other").await];
    let before = super::everything(&host).await;
    for mode in ["redirect", "tproxy"] {
        let proxy = Resident::start(&host, &mesh, "shop/web", &dual(mode)).await;
        for _ in 0..2 {
            iptables(&host, &["apply", "--outbound-port", "0", "--inbound-mode", mode]).await;
        }
        let ask = async |from: &str, url: &str| {
            let curl =
                ["--silent", "--globoff", "--max-time", "10", "--write-out", "%{http_code}", "--interface", from, url];
            caller.printed("curl", &curl).await
        };
        let mut seen = 0;
        for (known, other, to) in [("10.77.0.1", "10.77.0.9", "10.77.0.2"), ("fd77::1", "fd77::9", "[fd77::2]")] {
            let place = format!("{mode} {to}\n{}", proxy.log());
            let answer = ask(known, &format!("http://{to}/a")).await;
            assert_eq!(answer, format!("the application /a {to} from 127.0.0.1\n200"), "{place}");
            assert!(ask(other, &format!("http://{to}/b")).await.ends_with("403"), "an unknown caller: {place}");
            assert!(ask(known, &format!("http://{to}:81/c")).await.ends_with("403"), "an unknown port: {place}");
            let passed = ask(known, &format!("http://{to}:9000/d")).await;
            assert!(passed.starts_with(&format!("the other /d {to}:9000 ")), "{place}: {passed}");
            let whole = |address: &str| {
                if address.contains(':') && !address.starts_with('[') {
                    format!("[{address}]:")
                } else {
                    format!("{address}:")
                }
            };
            eventually(PATIENCE, "all are logged", || proxy.accesses().len() >= seen + 4).await;
            let lines = proxy.accesses().split_off(seen);
            seen += lines.len();
            let from = |line: &serde_json::Value, who: &str| {
                line["downstream_remote_address"].as_str().is_some_and(|address| address.starts_with(&whole(who)))
            };
            for (path, who) in [("/a", known), ("/b", other), ("/c", known)] {
                let line = lines.iter().find(|line| line["path"] == path).unwrap_or_else(|| panic!("{path}: {place}"));
                assert!(from(line, who), "{line}: {place}");
            }
            // What was handed on is logged with where it was going.
            let handed_on = lines.iter().find(|line| line["downstream_local_address"] == format!("{to}:9000"));
            assert!(handed_on.is_some_and(|line| from(line, known)), "{lines:#?}: {place}");
        }
        let caught = |outcome: &str| format!("outcome=\"{outcome}\"");
        assert_eq!(proxy.metric("outrigger_interceptions_total", &[&caught("served")]).await, 6.0, "{mode}");
        assert_eq!(proxy.metric("outrigger_interceptions_total", &[&caught("passed_through")]).await, 2.0, "{mode}");
        for _ in 0..2 {
            iptables(&host, &["remove"]).await;
        }
        super::same(&super::everything(&host).await, &before, &format!("{mode}: undone"));
        proxy.stop().await;
    }
}

/// What is excluded by port, by address or by user does not meet the proxy, in either family; everything else does.
#[tokio::test]
async fn exclusions_by_port_address_and_user_hold_in_both_families() {
    let (host, peer) = Namespace::pair();
    let mesh = Mesh::new();
    let _web: Vec<Child> = {
        let mut servers = Vec::new();
        for address in ["10.77.0.2:80", "10.77.0.2:8080", "fd77::2:80", "fd77::2:8080"] {
            servers.push(web(&peer, address, "the peer").await);
        }
        servers
    };
    let yaml = "
listeners:
  - name: outbound
    bind: \"[::]:15001\"
    routes: outbound
    interception: { mode: redirect, unknown: serve }
routes:
  outbound:
    - rules: [{ filters: [{ directResponse: { status: 200, body: 'caught' } }] }]
clusters: {}
";
    let proxy = Resident::start(&host, &mesh, "shop/web", yaml).await;
    let ask = async |user: &str, url: &str| {
        let who = [
            "--reuid",
            user,
            "--regid",
            user,
            "--clear-groups",
            "curl",
            "--silent",
            "--globoff",
            "--max-time",
            "10",
            url,
        ];
        let answer = host.printed("setpriv", &who).await;
        if answer == "caught" { "caught" } else { "direct" }
    };
    let all = async |user: &str| {
        let mut answers = Vec::new();
        for url in ["http://10.77.0.2/", "http://10.77.0.2:8080/", "http://[fd77::2]/", "http://[fd77::2]:8080/"] {
            answers.push(ask(user, url).await);
        }
        answers
    };
    assert_eq!(all("1000").await, ["direct"; 4], "nothing is caught without the rules");
    for (exclusion, user, expected) in [
        (&[][..], "1000", ["caught"; 4]),
        (&["--exclude-outbound-ports", "8080"], "1000", ["caught", "direct", "caught", "direct"]),
        (&["--exclude-outbound-cidrs", "10.77.0.0/24"], "1000", ["direct", "direct", "caught", "caught"]),
        (&["--exclude-outbound-cidrs", "fd77::/64"], "1000", ["caught", "caught", "direct", "direct"]),
        (&["--exclude-uids", "1000,1001"], "1001", ["direct"; 4]),
        (&["--exclude-uids", "1000,1001"], "1002", ["caught"; 4]),
        (&[], PROXY_USER, ["direct"; 4]),
    ] {
        iptables(&host, &[&["apply", "--inbound-port", "0"], exclusion].concat()).await;
        assert_eq!(all(user).await, expected, "{exclusion:?} as {user}\n{}", proxy.log());
    }
    iptables(&host, &["remove"]).await;
    assert_eq!(all("1000").await, ["direct"; 4], "nothing is caught any more");
}
