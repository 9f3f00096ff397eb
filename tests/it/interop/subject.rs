//! Data planes under test: our proxy, and a stock Envoy. Both are started with a file that names a control plane and
//! nothing else, as their users would.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::foreign::{Foreign, Variant};
use crate::support::proxy::{Launch, Proxy};
use crate::support::{PATIENCE, h1_client, within};

/// A data plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    Outrigger,
    Envoy,
}

/// A data plane that runs.
pub enum Subject {
    Outrigger { proxy: Box<Proxy>, _state: TempDir },
    Envoy(Box<Envoy>),
}

/// How a data plane finds its control plane.
#[derive(Debug, Clone)]
pub struct Plane {
    pub addr: SocketAddr,
    pub variant: Variant,
    /// Mutual TLS.
    pub tls: Option<Papers>,
}

/// Files for mutual TLS with a control plane.
#[derive(Debug, Clone)]
pub struct Papers {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub roots: PathBuf,
    /// The name in the server's certificate.
    pub name: String,
}

impl Plane {
    /// A foreign server, without TLS.
    pub fn of(server: &Foreign, variant: Variant) -> Self {
        Self { addr: server.addr, variant, tls: None }
    }
}

impl Subject {
    /// Starts a program and waits until it runs what it was told.
    pub async fn start(program: Program, plane: &Plane) -> Self {
        match program {
            Program::Outrigger => {
                let state = tempfile::tempdir().expect("make a temporary folder");
                let proxy = Proxy::start_bootstrap(&bootstrap(plane), &in_folder(state.path())).await;
                Self::Outrigger { proxy: Box::new(proxy), _state: state }
            }
            Program::Envoy => Self::Envoy(Box::new(Envoy::start(&envoy_bootstrap(plane)).await)),
        }
    }

    /// What our proxy says of its control plane.
    pub async fn control_plane(&self) -> Value {
        self.outrigger().admin_json("/config").await["controlPlane"].clone()
    }

    /// Our proxy.
    pub fn outrigger(&self) -> &Proxy {
        match self {
            Self::Outrigger { proxy, .. } => proxy,
            Self::Envoy(_) => panic!("this is Envoy"),
        }
    }
}

/// How our proxy is started in a state folder.
pub fn in_folder(state: &Path) -> Launch {
    Launch { arguments: vec!["--state-dir".to_owned(), state.display().to_string()], descriptors: None }
}

/// Our bootstrap file.
pub fn bootstrap(plane: &Plane) -> String {
    let delta = if plane.variant == Variant::Delta { "auto" } else { "off" };
    let process = "node: { id: outrigger-1 }\nadmin: { address: \"127.0.0.1:$ADMIN\" }\naccessLog: off\nworkers: 2\n";
    match &plane.tls {
        None => format!("{process}controlPlane: {{ servers: [\"http://{}\"], delta: {delta} }}\n", plane.addr),
        Some(Papers { certificate, key, roots, name }) => format!(
            "{process}identity: {{ certificate: {certificate:?}, privateKey: {key:?}, trustBundle: {roots:?} }}\n\
             controlPlane: {{ servers: [\"{}\"], serverName: \"{name}\", trustBundle: {roots:?}, delta: {delta} }}\n",
            plane.addr
        ),
    }
}

/// Envoy's bootstrap file.
pub fn envoy_bootstrap(plane: &Plane) -> Value {
    let api = if plane.variant == Variant::Delta { "DELTA_GRPC" } else { "GRPC" };
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let mut server = json!({
        "name": "control-plane",
        "type": "STATIC",
        "connect_timeout": "2s",
        "typed_extension_protocol_options": {
            options: {
                "@type": format!("type.googleapis.com/{options}"),
                "explicit_http_config": { "http2_protocol_options": {} },
            },
        },
        "load_assignment": {
            "cluster_name": "control-plane",
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": socket(plane.addr) } }] }],
        },
    });
    if let Some(Papers { certificate, key, roots, name }) = &plane.tls {
        server["transport_socket"] = json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "sni": name,
                "common_tls_context": {
                    "tls_certificates": [{
                        "certificate_chain": { "filename": certificate },
                        "private_key": { "filename": key },
                    }],
                    "validation_context": {
                        "trusted_ca": { "filename": roots },
                        "match_typed_subject_alt_names": [{ "san_type": "DNS", "matcher": { "exact": name } }],
                    },
                    "tls_params": { "tls_maximum_protocol_version": "TLSv1_3" },
                },
            },
        });
    }
    let ads = json!({ "resource_api_version": "V3", "ads": {} });
    // Our control plane sends no keys: its resources call the proxy's own certificate `default`.
    let own = plane.tls.iter().map(|Papers { certificate, key, .. }| {
        json!({ "name": "default", "tls_certificate": {
            "certificate_chain": { "filename": certificate },
            "private_key": { "filename": key },
        } })
    });
    json!({
        "node": { "id": "envoy-1", "cluster": "tests" },
        "admin": { "address": socket(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))) },
        "dynamic_resources": {
            "ads_config": {
                "api_type": api,
                "transport_api_version": "V3",
                "grpc_services": [{ "envoy_grpc": { "cluster_name": "control-plane" } }],
            },
            "cds_config": ads,
            "lds_config": ads,
        },
        "static_resources": { "clusters": [server], "secrets": own.collect::<Vec<_>>() },
    })
}

/// An address in Envoy's words.
pub fn socket(addr: SocketAddr) -> Value {
    json!({ "socket_address": { "address": addr.ip().to_string(), "port_value": addr.port() } })
}

/// A stock Envoy; stopped when dropped.
pub struct Envoy {
    child: Child,
    admin: SocketAddr,
    folder: TempDir,
}

impl Envoy {
    /// Starts it with a bootstrap file and waits until its first configuration is in effect.
    pub async fn start(bootstrap: &Value) -> Self {
        crate::support::gate::shared();
        let folder = tempfile::tempdir().expect("make a temporary folder");
        let (file, admin) = (folder.path().join("envoy.json"), folder.path().join("admin"));
        std::fs::write(&file, bootstrap.to_string()).expect("write the bootstrap file");
        let log = std::fs::File::create(folder.path().join("log")).expect("create a file");
        let child = Command::new(program())
            .arg("--config-path")
            .arg(&file)
            .arg("--admin-address-path")
            .arg(&admin)
            .args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("start Envoy");
        let mut envoy = Self { child, admin: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), folder };
        let start = Instant::now();
        loop {
            assert!(envoy.child.try_wait().expect("ask for the child").is_none(), "Envoy ended:\n{}", envoy.log());
            if let Some(addr) = std::fs::read_to_string(&admin).ok().and_then(|text| text.trim().parse().ok()) {
                envoy.admin = addr;
                if envoy.get("/ready").await.0 == 200 {
                    return envoy;
                }
            }
            assert!(start.elapsed() < PATIENCE, "Envoy became ready:\n{}", envoy.log());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// What it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// `GET` on its admin server: status and body.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        let reply = within(PATIENCE, "Envoy's admin server", h1_client::exchange(self.admin, request)).await;
        (reply.status, reply.text())
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            eprintln!("--- Envoy's log ---\n{}\n---", self.log());
        }
    }
}

/// Where the wheel puts the binary.
fn program() -> PathBuf {
    let lib = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/venv/lib");
    let versions = std::fs::read_dir(&lib).into_iter().flatten().flatten();
    let candidates = versions.map(|version| version.path().join("site-packages/envoy/_bin/envoy"));
    candidates.into_iter().find(|path| path.is_file()).expect("no Envoy: run tests/tools/install")
}
