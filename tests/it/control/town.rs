//! A mesh of two proxies: callers reach `web-1` in plaintext on loopback, it reaches `api-1` over mutual TLS, and that
//! reaches the application, which speaks HTTP/1.1 on one port and HTTP/2 on another.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::plane::Plane;
use crate::support::proxy::{Launch, Until, free_port};
use crate::support::{H2Backend, Proxy, h1_backend::H1Backend};

pub const WEB: &str = "shop/web-1";
pub const API: &str = "shop/api-1";

pub struct Town {
    pub plane: Plane,
    pub app: H1Backend,
    pub rpc: H2Backend,
    pub outbound: u16,
    inbound: [u16; 2],
    state: TempDir,
}

impl Town {
    /// The control plane with manifests for the two; no proxy runs yet.
    pub async fn found(plane: Plane, app: H1Backend) -> Self {
        let rpc = H2Backend::grpc_echo().await;
        let (outbound, inbound) = (free_port(), [free_port(), free_port()]);
        let state = tempfile::tempdir().expect("make a folder");
        let town = Self { plane, app, rpc, outbound, inbound, state };
        town.plane.apply(&town.manifests()).await;
        for workload in [WEB, API] {
            let token = town.plane.join_token(workload).await;
            std::fs::write(town.file(workload, "token"), token).expect("write the token");
        }
        town
    }

    /// Where callers connect.
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.outbound))
    }

    /// A port on which `api-1` is called: 0 for HTTP/1.1, 1 for HTTP/2.
    pub fn inbound(&self, which: usize) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.inbound[which]))
    }

    fn file(&self, workload: &str, suffix: &str) -> PathBuf {
        self.state.path().join(format!("{}.{suffix}", workload.replace('/', "-")))
    }

    /// Where a proxy keeps its state.
    pub fn state(&self, workload: &str) -> PathBuf {
        self.file(workload, "state")
    }

    pub fn manifests(&self) -> String {
        let ([http, grpc], app, rpc, out) = (self.inbound, self.app.addr, self.rpc.addr, self.outbound);
        let own = free_port();
        format!(
            "apiVersion: outrigger.dev/v1
kind: MeshPolicy
metadata: {{ name: mesh, namespace: outrigger-system }}
spec: {{ trustDomain: mesh.local, mtls: {{ mode: strict }} }}
---
apiVersion: v1
kind: Service
metadata: {{ name: api, namespace: shop }}
spec:
  selector: {{ app: api }}
  ports: [{{ name: http, port: 80, targetPort: http }}, {{ name: grpc, port: 81, targetPort: grpc }}]
---
apiVersion: outrigger.dev/v1
kind: Workload
metadata: {{ name: api-1, namespace: shop, labels: {{ app: api }} }}
spec:
  serviceAccount: api
  address: 127.0.0.1
  outbound: 127.0.0.1:{own}
  ports:
    - {{ name: http, port: 8080, inbound: {http}, application: \"{app}\", protocol: http1 }}
    - {{ name: grpc, port: 8081, inbound: {grpc}, application: \"{rpc}\", protocol: http2 }}
  uses: []
---
apiVersion: outrigger.dev/v1
kind: Workload
metadata: {{ name: web-1, namespace: shop, labels: {{ app: web }} }}
spec:
  serviceAccount: web
  address: 127.0.0.1
  outbound: 127.0.0.1:{out}
"
        )
    }

    /// Starts a proxy, and waits until it serves, or until it is up.
    pub async fn proxy(&self, workload: &str, until: Until) -> Proxy {
        self.proxy_with(workload, "", until).await
    }

    /// The same with another line in its `controlPlane`.
    pub async fn proxy_with(&self, workload: &str, line: &str, until: Until) -> Proxy {
        let yaml = bootstrap(&self.plane, workload, &self.file(workload, "token"), line);
        Proxy::start_yaml(&BTreeMap::new(), &yaml, &keeps(&self.state(workload)), until).await
    }

    /// Both proxies, serving.
    pub async fn proxies(&self) -> (Proxy, Proxy) {
        (self.proxy(WEB, Until::Ready).await, self.proxy(API, Until::Ready).await)
    }
}

/// What stands in a proxy's file.
pub fn bootstrap(plane: &Plane, workload: &str, token: &Path, line: &str) -> String {
    let name = workload.rsplit('/').next().expect("a name");
    format!(
        "node: {{ id: {name} }}\nadmin: {{ address: \"127.0.0.1:$ADMIN\" }}\naccessLog: off\nworkers: 2\n\
         drain: {{ acceptFor: 0s, deadline: 5s }}\n\
         controlPlane:\n  servers: [\"{}\"]\n  serverIdentity: spiffe://mesh.local/ns/outrigger/sa/control\n  \
         trustBundle: {:?}\n  joinToken: {{ file: {token:?} }}\n  workload: {workload}\n  {line}\n",
        plane.grpc,
        plane.bundle(),
    )
}

pub fn keeps(state: &Path) -> Launch {
    Launch { arguments: vec!["--state-dir".to_owned(), state.display().to_string()], ..Launch::default() }
}
