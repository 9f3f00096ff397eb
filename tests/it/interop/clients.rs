//! Clients of our control plane: our own proxy, a stock Envoy and a proxyless gRPC client, each with a certificate from our
//! authority, all of one mesh.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::control::Control;
use super::echo::{self, Ask, saw, who};
use super::foreign::Variant;
use super::live::Load;
use super::subject::{Papers, Program, Subject, in_folder};
use super::table::{service_yaml, workload_yaml};
use crate::support::any::{AnyBackend, Version};
use crate::support::proxy::{Proxy, free_port};
use crate::support::{H1Client, PATIENCE, TlsClient, process, within};

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// A mesh: `payments`, behind our proxy with mutual TLS and nothing else, and a caller.
struct Mesh {
    control: Control,
    payments: AnyBackend,
    inbound: u16,
    /// Where the caller's application sends requests.
    outbound: u16,
    generation: u64,
    _before: Subject,
}

impl Mesh {
    /// With this program before the service.
    async fn start(before: Program, more: &str) -> Self {
        let control = Control::start().await;
        let payments = echo::start(Version::H1, "payments").await;
        let (inbound, outbound) = (free_port(), free_port());
        let own = free_port();
        let manifests = format!(
            "apiVersion: outrigger.dev/v1\nkind: MeshPolicy\nmetadata: {{ name: mesh, namespace: outrigger-system }}\n\
             spec: {{ mtls: {{ mode: strict }} }}\n---\n\
             apiVersion: v1\nkind: Service\nmetadata: {{ name: payments, namespace: shop }}\n\
             spec: {{ selector: {{ app: payments }}, ports: [{{ name: http, port: 80, targetPort: 8080 }}] }}\n---\n\
             apiVersion: outrigger.dev/v1\nkind: Workload\n\
             metadata: {{ name: payments-1, namespace: shop, labels: {{ app: payments }} }}\nspec:\n  \
             serviceAccount: payments\n  address: 127.0.0.1\n  outbound: \"127.0.0.1:{own}\"\n  \
             ports: [{{ port: 8080, inbound: {inbound}, application: \"{}\" }}]\n---\n\
             apiVersion: outrigger.dev/v1\nkind: Workload\nmetadata: {{ name: web-1, namespace: shop }}\n\
             spec: {{ serviceAccount: web, address: 127.0.0.1, outbound: \"127.0.0.1:{outbound}\" }}\n{more}",
            payments.addr()
        );
        let generation = control.apply(&manifests).await;
        let before = match before {
            // As its users start it: the key is made in the proxy, and a join token gets the certificate.
            Program::Outrigger => {
                let state = tempfile::tempdir().expect("make a temporary folder");
                let yaml = joining(&control, "shop/payments-1").await;
                let proxy = Proxy::start_bootstrap(&yaml, &in_folder(state.path())).await;
                Subject::Outrigger { proxy: Box::new(proxy), _state: state }
            }
            Program::Envoy => Subject::start(before, &control.plane("shop/payments-1", Variant::Delta).await).await,
        };
        control.synced("shop/payments-1", generation).await;
        Self { control, payments, inbound, outbound, generation, _before: before }
    }

    /// Pushes manifests and waits until the caller has them.
    async fn push(&self, manifests: &str) {
        let generation = self.control.apply(manifests).await;
        self.control.synced("shop/web-1", generation).await;
    }

    /// Removes an object of the namespace `shop` and waits until the caller knows.
    async fn remove(&self, kind: &str, name: &str) {
        let said = self.control.run(&["delete", kind, name, "-n", "shop", "--output", "json"], "").await;
        let said: Value = serde_json::from_str(&said).expect("JSON");
        self.control.synced("shop/web-1", said["generation"].as_u64().expect("a new generation")).await;
    }
}

/// Whether a program has a cluster.
async fn knows(subject: &Subject, cluster: &str) -> bool {
    match subject {
        Subject::Envoy(envoy) => envoy.get("/clusters").await.1.contains(&format!("{cluster}::")),
        Subject::Outrigger { .. } => !subject.control_plane().await["versions"]["cluster"][cluster].is_null(),
    }
}

/// The bootstrap file of a proxy that gets its certificate with a join token.
async fn joining(control: &Control, workload: &str) -> String {
    format!(
        "node: {{ id: {:?} }}\nadmin: {{ address: \"127.0.0.1:$ADMIN\" }}\naccessLog: off\nworkers: 2\n\
         controlPlane:\n  servers: [\"{}\"]\n  trustBundle: {:?}\n  joinToken: {{ file: {:?} }}\n  workload: {workload}\n",
        workload.rsplit('/').next().expect("a name"),
        control.grpc,
        control.bundle(),
        control.token_file(workload).await,
    )
}

fn http_route(name: &str, backends: &[(&str, u32)]) -> String {
    let list: Vec<String> =
        backends.iter().map(|(name, weight)| format!("{{ name: {name}, port: 80, weight: {weight} }}")).collect();
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: {name}, namespace: shop }}\n\
         spec:\n  parentRefs: [{{ group: \"\", kind: Service, name: {name} }}]\n  rules: [{{ backendRefs: [{}] }}]\n",
        list.join(", ")
    )
}

/// What every data plane must do with our control plane: take everything, reach services in and out of the mesh, follow
/// changes under load, and refuse nothing.
async fn served(program: Program, variant: Variant) {
    let backends = [echo::start(Version::H1, "a").await, echo::start(Version::H1, "b").await];
    let plain = |name: &str, addrs: &[SocketAddr]| service_yaml(("shop", name), false, addrs);
    let more = plain("front", &[])
        + &plain("a", &[backends[0].addr()])
        + &plain("b", &[backends[1].addr()])
        + &http_route("front", &[("a", 1)]);
    let mesh = Mesh::start(Program::Outrigger, &more).await;
    let subject = Subject::start(program, &mesh.control.plane("shop/web-1", variant).await).await;
    mesh.control.synced("shop/web-1", mesh.generation).await;
    let addr = local(mesh.outbound);

    // A service in the mesh: our proxy stands before it and lets nobody in without a certificate.
    let told = Ask::get("payments/charge?x=1").of(Version::H1, addr).await;
    assert_eq!((told.status, who(&told)), (200, "payments"), "{}", told.text());
    let request = saw(&told).expect("from the backend");
    assert_eq!((&*request.target, &*request.host), ("/charge?x=1", "payments"));
    let told = Ask::get("payments.shop.svc/").of(Version::H2, addr).await;
    assert_eq!((told.status, who(&told)), (200, "payments"), "{}", told.text());
    let mut stranger = H1Client::connect(local(mesh.inbound)).await;
    stranger.send("GET / HTTP/1.1\r\nhost: payments\r\n\r\n").await;
    assert!(!stranger.rest(PATIENCE).await.starts_with(b"HTTP/1.1 200"), "plaintext does not get in");
    assert_eq!(mesh.payments.seen().len(), 2);

    // Changes: a route, weights, endpoints; requests go on meanwhile.
    let ask = Ask::get("front/");
    assert_eq!(who(&ask.of(Version::H1, addr).await), "a");
    let load = Load::to(addr, "front/");
    mesh.push(&http_route("front", &[("b", 1)])).await;
    load.more(20).await;
    assert_eq!(who(&ask.of(Version::H1, addr).await), "b", "the route was followed");
    mesh.push(&http_route("front", &[("a", 1), ("b", 0)])).await;
    assert_eq!(who(&ask.of(Version::H1, addr).await), "a", "the weights were followed");
    mesh.push(&plain("a", &[backends[1].addr()])).await;
    load.more(20).await;
    assert_eq!(who(&ask.of(Version::H1, addr).await), "b", "the endpoints were followed");
    load.end().await;

    // What is removed is gone from the data plane too.
    assert!(knows(&subject, "shop/a:80").await);
    mesh.remove("HTTPRoute", "front").await;
    mesh.remove("Service", "a").await;
    assert!(!knows(&subject, "shop/a:80").await);
    let told = ask.of(Version::H1, addr).await;
    assert_eq!(
        (told.status, who(&told)),
        (503, "nobody"),
        "without a route its own endpoints are meant: there are none"
    );

    let row = mesh.control.proxy("shop/web-1").await.expect("it is connected");
    assert_eq!((&row["state"], &row["refusals"]), (&json!("synced"), &json!([])), "{row}");
    match &subject {
        Subject::Envoy(envoy) => {
            let (_, stats) = envoy.get("/stats?filter=update_rejected").await;
            let rejected: Vec<&str> = stats.lines().filter(|line| !line.ends_with(": 0")).collect();
            assert!(rejected.is_empty() && stats.contains("cds.update_rejected"), "{stats}");
        }
        Subject::Outrigger { .. } => {
            let report = subject.control_plane().await;
            let protocol = if variant == Variant::Delta { "delta" } else { "stateOfTheWorld" };
            assert_eq!((&report["protocol"], &report["refusals"]), (&json!(protocol), &json!([])), "{report:#}");
        }
    }
}

#[tokio::test]
async fn outrigger_over_delta_is_served_and_follows() {
    served(Program::Outrigger, Variant::Delta).await;
}

#[tokio::test]
async fn outrigger_over_the_state_of_the_world_is_served_and_follows() {
    served(Program::Outrigger, Variant::Whole).await;
}

#[tokio::test]
async fn envoy_over_delta_is_served_and_follows() {
    served(Program::Envoy, Variant::Delta).await;
}

#[tokio::test]
async fn envoy_over_the_state_of_the_world_is_served_and_follows() {
    served(Program::Envoy, Variant::Whole).await;
}

/// Envoy stands before the service, and lets in who has a certificate of the mesh.
#[tokio::test]
async fn outrigger_reaches_a_service_behind_envoy() {
    let mesh = Mesh::start(Program::Envoy, "").await;
    let _caller = Subject::start(Program::Outrigger, &mesh.control.plane("shop/web-1", Variant::Delta).await).await;
    mesh.control.synced("shop/web-1", mesh.generation).await;
    let told = Ask::get("payments/charge").of(Version::H1, local(mesh.outbound)).await;
    assert_eq!((told.status, who(&told)), (200, "payments"), "{}", told.text());
    let mut stranger = H1Client::connect(local(mesh.inbound)).await;
    stranger.send("GET / HTTP/1.1\r\nhost: payments\r\n\r\n").await;
    assert!(!stranger.rest(PATIENCE).await.starts_with(b"HTTP/1.1 200"), "plaintext does not get in");
    TlsClient::anonymous().refused(local(mesh.inbound)).await;
    assert_eq!(mesh.payments.seen().len(), 1);
}

/// What cannot take effect on the proxy's machine is refused by name, `status` says so, and traffic goes on.
#[tokio::test]
async fn status_says_what_a_proxy_refused_and_why() {
    let mesh = Mesh::start(Program::Outrigger, "").await;
    let caller = Subject::start(Program::Outrigger, &mesh.control.plane("shop/web-1", Variant::Delta).await).await;
    mesh.control.synced("shop/web-1", mesh.generation).await;
    let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let port = taken.local_addr().expect("bound").port();
    let workload = |ports: &str| {
        format!(
            "apiVersion: outrigger.dev/v1\nkind: Workload\nmetadata: {{ name: web-1, namespace: shop }}\nspec: \
             {{ serviceAccount: web, address: 127.0.0.1, outbound: \"127.0.0.1:{}\", ports: [{ports}] }}\n",
            mesh.outbound
        )
    };
    mesh.control.apply(&workload(&format!("{{ port: 8080, inbound: {port} }}"))).await;
    let row = mesh.control.refused("shop/web-1").await;
    let refusal = &row["refusals"][0];
    let told = |key: &str| refusal[key].as_str().unwrap_or_default().to_owned();
    assert_eq!((&*told("kind"), &*told("resource"), &*told("field")), ("Listener", "inbound:8080", "address"), "{row}");
    assert!(told("reason").contains("in use"), "{row}");
    let shown = mesh.control.run(&["status"], "").await;
    for part in ["shop/web-1", "refused", "inbound:8080", "address", "in use"] {
        assert!(shown.contains(part), "`{part}`: {shown}");
    }
    let told = Ask::get("payments/").of(Version::H1, local(mesh.outbound)).await;
    assert_eq!((told.status, who(&told)), (200, "payments"), "traffic is as it was");
    mesh.push(&workload("")).await;
    assert_eq!(caller.control_plane().await["refusals"], json!([]));
}

/// A gRPC client that has no proxy; gone when dropped.
struct GrpcClient {
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl GrpcClient {
    fn start(control: &Control, papers: &Papers, target: &str) -> Self {
        let bootstrap = control.folder().join("grpc.json");
        let server = json!({
            "server_uri": control.grpc.to_string(),
            "channel_creds": [{ "type": "tls", "config": {
                "ca_certificate_file": papers.roots,
                "certificate_file": papers.certificate,
                "private_key_file": papers.key,
            } }],
            "server_features": ["xds_v3"],
        });
        let content = json!({ "xds_servers": [server], "node": { "id": "grpc-1", "cluster": "tests" } });
        std::fs::write(&bootstrap, content.to_string()).expect("write the bootstrap file");
        let mut child = Command::new(process::python())
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/python/xds_client.py"))
            .arg(target)
            .env("GRPC_XDS_BOOTSTRAP", &bootstrap)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("start Python");
        let stdin = child.stdin.take().expect("piped");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { stdin, lines, _child: child }
    }

    /// How many of so many calls were answered by whom.
    async fn call(&mut self, method: &str, count: u32) -> BTreeMap<String, u32> {
        self.stdin.write_all(format!("{method} {count}\n").as_bytes()).await.expect("it listens");
        let line = within(PATIENCE * 2, "answers to the gRPC client", self.lines.next_line()).await;
        serde_json::from_str(&line.expect("readable").expect("a line")).expect("JSON")
    }

    /// Calls until the answers are as wanted.
    async fn until(&mut self, what: &str, wanted: impl Fn(&BTreeMap<String, u32>) -> bool) {
        let start = std::time::Instant::now();
        loop {
            let found = self.call("/shop.Payments/Charge", 40).await;
            if wanted(&found) {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{what}: {found:?}");
        }
    }
}

fn grpc_route(rules: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {{ name: ledger, namespace: shop }}\n\
         spec:\n  parentRefs: [{{ group: \"\", kind: Service, name: ledger }}]\n  rules:\n{rules}"
    )
}

#[tokio::test]
async fn a_grpc_client_without_a_proxy_is_served_and_follows() {
    let backends = [
        echo::start(Version::H2, "v1").await,
        echo::start(Version::H2, "v2").await,
        echo::start(Version::H2, "v3").await,
    ];
    let grpc = |name: &str, backend: usize| service_yaml(("shop", name), true, &[backends[backend].addr()]);
    let control = Control::start().await;
    let shares = |v1: u32, v2: u32| {
        grpc_route(&format!(
            "  - matches: [{{ method: {{ service: shop.Payments }} }}]\n    backendRefs: [{{ name: v1, port: 80, weight: {v1} }}, \
             {{ name: v2, port: 80, weight: {v2} }}]\n  - matches: [{{ method: {{ service: shop.Audit, method: Write }} }}]\n    \
             backendRefs: [{{ name: v2, port: 80 }}]\n"
        ))
    };
    let first = control
        .apply(
            &(service_yaml(("shop", "ledger"), true, &[])
                + &grpc("v1", 0)
                + &grpc("v2", 1)
                + &shares(1, 0)
                + &workload_yaml("client-1", free_port(), &["ledger".to_owned()])),
        )
        .await;
    let papers = control.join("shop/client-1").await;
    let mut client = GrpcClient::start(&control, &papers, "xds:///ledger.shop");
    let all = |name: &'static str| move |found: &BTreeMap<String, u32>| found.get(name) == Some(&40);
    client.until("calls reach the backend", all("v1")).await;
    control.synced("shop/client-1", first).await;
    assert_eq!(client.call("/shop.Audit/Write", 5).await, BTreeMap::from([("v2".to_owned(), 5)]), "by method");

    // Weights.
    let generation = control.apply(&shares(1, 1)).await;
    client
        .until("half of the calls go to each", |found| {
            let of = |name: &str| found.get(name).copied().unwrap_or(0);
            of("v1") + of("v2") == 40 && of("v1") > 5 && of("v2") > 5
        })
        .await;
    control.synced("shop/client-1", generation).await;
    control.apply(&shares(0, 1)).await;
    client.until("every call goes to the other", all("v2")).await;

    // Endpoints.
    let generation = control.apply(&grpc("v2", 2)).await;
    client.until("calls follow the endpoint", all("v3")).await;
    control.synced("shop/client-1", generation).await;
    let row = control.proxy("shop/client-1").await.expect("it is connected");
    assert_eq!((&row["state"], &row["refusals"]), (&Value::from("synced"), &json!([])), "{row}");
}
