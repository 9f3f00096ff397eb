//! TLS in front of and behind the proxy: who is let in, who is refused and why, and what a connection's end means.
//! Peers are our own client and server, `openssl s_client` and `curl`.

mod edge;
mod hostile;
mod inbound;
mod passthrough;
mod programs;
mod refusals;
mod upstream;

use crate::support::{Config, H1Backend, Mesh, PATIENCE, Proxy, eventually};

/// A mesh, a plaintext backend, and a proxy with an identity whose listener `in` leads there.
struct Inbound {
    mesh: Mesh,
    backend: H1Backend,
    proxy: Proxy,
}

impl Inbound {
    /// The listener has these TLS settings (`mode: strict`).
    async fn with(tls: &str) -> Self {
        let mesh = Mesh::new();
        let identity = mesh.identity("shop/web");
        Self::of(mesh, &identity, tls).await
    }

    /// The same with an `identity` written out.
    async fn of(mesh: Mesh, identity: &str, tls: &str) -> Self {
        let backend = H1Backend::ok().await;
        let config = Config::to("http1", &[backend.addr]).top(identity).listener(&format!("tls: {{ {tls} }}"));
        let proxy = Proxy::start(&config).await;
        Self { mesh, backend, proxy }
    }

    /// Waits until connections were refused for a reason this many times.
    async fn refused(&self, reason: &str, times: f64) {
        refused(&self.proxy, reason, times).await;
    }
}

/// Waits until the listener `in` refused connections for a reason this many times.
pub async fn refused(proxy: &Proxy, reason: &str, times: f64) {
    let label = format!("reason=\"{reason}\"");
    let start = std::time::Instant::now();
    loop {
        let (_, text) = proxy.admin("/metrics").await;
        let name = "outrigger_tls_refused_connections_total";
        let count = crate::support::proxy::metric_in(&text, name, &["listener=\"in\"", &label]);
        if (count - times).abs() < 0.5 {
            return;
        }
        let lines: Vec<_> = text.lines().filter(|line| line.starts_with(name)).collect();
        assert!(start.elapsed() < PATIENCE, "{times} refused for {reason}: {lines:#?}");
        tokio::time::sleep(crate::support::ms(5)).await;
    }
}

/// Waits until handshakes with the cluster `c` failed for a reason at least once.
async fn failed_upstream(proxy: &Proxy, reason: &str) {
    let (_, text) = proxy.admin("/metrics").await;
    let name = "outrigger_upstream_tls_failures_total";
    let label = format!("reason=\"{reason}\"");
    let count = crate::support::proxy::metric_in(&text, name, &["cluster=\"c\"", &label]);
    let lines: Vec<_> = text.lines().filter(|line| line.starts_with(name)).collect();
    assert!(count >= 1.0, "a failure for {reason}: {lines:#?}\n{}", proxy.stderr());
    eventually(PATIENCE, &format!("`{reason}` in the log"), || proxy.stderr().contains(reason)).await;
}

/// The first message of a TLS client that asks for a server name.
fn client_hello(name: &str) -> Vec<u8> {
    use std::sync::Arc;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from(name.to_owned()).expect("a name");
    let mut connection = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut hello = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut hello).expect("memory takes everything");
    }
    hello
}
