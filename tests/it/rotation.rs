//! Certificates, keys, bundles and revocation lists that change while the proxy runs: nothing is dropped, what is
//! new counts at once, what is wrong never replaces what is good.
//! 20 rotations and 4 changes of roots here; `OUTRIGGER_FULL=1` makes it 200 and 20.

#[cfg(feature = "dev")]
mod authority;
mod files;
mod trust;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::support::pki::{Authority, Credential, Files, Leaf};
use crate::support::{
    Config, H1Backend, H1Client, H2Client, PATIENCE, Proxy, TlsClient, full, gate, h1_client, ms, within,
};

/// A root and the authority below it that issues. All have the same names: only keys tell them apart.
struct Generation {
    root: Authority,
    issuing: Authority,
}

impl Generation {
    fn new() -> Self {
        let root = Authority::root("mesh.local root");
        let issuing = root.intermediate("mesh.local issuing");
        Self { root, issuing }
    }

    fn issue(&self, account: &str) -> Credential {
        self.issuing.issue(&Leaf::new().uri(&id(account)))
    }
}

fn id(account: &str) -> String {
    format!("spiffe://mesh.local/ns/shop/sa/{account}")
}

/// Two proxies: callers reach `front`, in plaintext or TLS; it reaches `back` over mutual TLS and HTTP/2.
struct Hops {
    files: Files,
    front: Proxy,
    back: Proxy,
    backend: H1Backend,
}

impl Hops {
    async fn start(first: &Generation) -> Self {
        let files = Files::new();
        for name in ["front", "back"] {
            files.write_credential(name, &first.issue(name));
            files.write(&format!("{name}-bundle.pem"), &first.root.pem);
        }
        Self::with(files).await
    }

    /// With certificates, keys and bundles of both in a folder.
    async fn with(files: Files) -> Self {
        let identity = |name: &str| {
            format!(
                "identity: {{ certificate: {}, privateKey: {}, trustBundle: {} }}",
                files.quoted(&format!("{name}.pem")),
                files.quoted(&format!("{name}.key")),
                files.quoted(&format!("{name}-bundle.pem")),
            )
        };
        let backend = H1Backend::ok().await;
        // Connections between the two are short-lived, so that handshakes happen all the time.
        let back = Config::to("http1", &[backend.addr])
            .top(&identity("back"))
            .listener("tls: { mode: strict }")
            .listener("maxConnectionAge: 2s");
        let back = Proxy::start(&back).await;
        let front = Config::to("http2", &[back.addr()])
            .top(&identity("front"))
            .listener("tls: { mode: permissive }")
            .upstream(&format!("tls: {{ peerIdentities: [\"{}\"] }}", id("back")))
            .upstream("connection: { maxAge: 1s }");
        let front = Proxy::start(&front).await;
        Self { files, front, back, backend }
    }

    /// A proxy by name.
    fn proxy(&self, name: &str) -> &Proxy {
        if name == "front" { &self.front } else { &self.back }
    }

    /// Writes a new certificate for a proxy and waits until handshakes show it.
    async fn rotate(&self, name: &str, authority: &Generation, caller: &TlsClient) {
        let next = authority.issue(name);
        self.files.write_credential(name, &next);
        shows(self.proxy(name), caller, next.serial).await;
    }
}

/// Waits until a proxy shows the certificate with this serial number.
async fn shows(proxy: &Proxy, caller: &TlsClient, serial: u64) {
    let start = Instant::now();
    while serial_of(proxy, caller).await != Some(serial) {
        assert!(start.elapsed() < PATIENCE, "the new certificate is shown:\n{}", proxy.stderr());
        tokio::time::sleep(ms(2)).await;
    }
}

/// The serial number of the certificate that a proxy shows now.
async fn serial_of(proxy: &Proxy, caller: &TlsClient) -> Option<u64> {
    caller.dial(proxy.addr()).await.ok().map(|dialled| dialled.session.peer_serial())
}

/// Waits until a caller is served, or refused.
async fn until_served(proxy: &Proxy, caller: &TlsClient, served: bool) {
    let start = Instant::now();
    while caller.attempt(proxy.addr()).await.is_ok() != served {
        assert!(start.elapsed() < PATIENCE, "served becomes {served}:\n{}", proxy.stderr());
        tokio::time::sleep(ms(2)).await;
    }
}

/// Callers of every kind who go on until told to stop. A request that fails in any way fails the test.
struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    callers: JoinSet<()>,
}

impl Load {
    fn start(addr: std::net::SocketAddr, tls: &Arc<Mutex<TlsClient>>) -> Self {
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut callers = JoinSet::new();
        for kind in 0..8 {
            let (stop, served, tls) = (Arc::clone(&stop), Arc::clone(&served), Arc::clone(tls));
            callers.spawn(async move {
                let current = || tls.lock().expect("no panic").clone();
                // The first half keep one connection through everything, the others make one for each request.
                let mut plain_h1 = H1Client::connect(addr).await;
                let mut secure_h1 = current().h1(addr).await;
                let plain_h2 = H2Client::connect(addr).await;
                let secure_h2 = current().h2(addr).await;
                while !stop.load(Ordering::Relaxed) {
                    let status = match kind {
                        0 => plain_h1.get("/").await.status,
                        1 => secure_h1.get("/").await.status,
                        2 => plain_h2.get("/").await.status,
                        3 => secure_h2.get("/").await.status,
                        4 => h1_client::get(addr, "/").await.status,
                        5 => current().h1(addr).await.get("/").await.status,
                        6 => H2Client::connect(addr).await.get("/").await.status,
                        _ => current().h2(addr).await.get("/").await.status,
                    };
                    assert_eq!(status, 200, "caller {kind}");
                    served.fetch_add(1, Ordering::Relaxed);
                    tokio::task::yield_now().await;
                }
            });
        }
        Self { stop, served, callers }
    }

    /// Fails if a caller has failed.
    fn check(&mut self) {
        while let Some(done) = self.callers.try_join_next() {
            done.expect("no request fails");
        }
    }

    /// Stops; gives how many requests were served.
    async fn finish(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(done) = within(PATIENCE, "the callers ending", self.callers.join_next()).await {
            done.expect("no request fails");
        }
        self.served.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotations_of_certificates_and_roots_under_load_cost_no_request() {
    gate::exclusive();
    let (rotations, roots) = if full() { (200, 20) } else { (20, 4) };
    let mut generation = Generation::new();
    let hops = Hops::start(&generation).await;
    let caller = TlsClient::with(&generation.issue("caller"));
    let current = Arc::new(Mutex::new(caller.clone()));
    let mut load = Load::start(hops.front.addr(), &current);
    let began = Instant::now();

    for number in 0..rotations {
        hops.rotate(["front", "back"][number % 2], &generation, &caller).await;
        load.check();
    }
    let rotated = began.elapsed();

    for number in 0..roots {
        // Sessions from before, which a client might like to resume.
        let old = TlsClient::with(&generation.issue("caller")).resuming();
        for proxy in [&hops.front, &hops.back] {
            old.served(proxy.addr()).await;
            old.served(proxy.addr()).await;
        }
        let next = Generation::new();
        // Both roots are believed before anybody shows a certificate under the new one …
        for name in ["front", "back"] {
            hops.files.write(&format!("{name}-bundle.pem"), format!("{}{}", generation.root.pem, next.root.pem));
        }
        let new = TlsClient::with(&next.issue("caller"));
        for proxy in [&hops.front, &hops.back] {
            until_served(proxy, &new, true).await;
        }
        // … then all change over …
        for name in ["front", "back"] {
            hops.rotate(name, &next, &new).await;
        }
        *current.lock().expect("no panic") = new.clone();
        old.served(hops.front.addr()).await;
        // … and the old root goes. Callers that were about to connect under it have done so.
        settle(&load).await;
        for name in ["front", "back"] {
            hops.files.write(&format!("{name}-bundle.pem"), &next.root.pem);
        }
        let stranger = TlsClient::with(&generation.issue("caller"));
        for proxy in [&hops.front, &hops.back] {
            until_served(proxy, &stranger, false).await;
            for _ in 0..4 {
                old.refused(proxy.addr()).await;
                old.refused_over_h2(proxy.addr()).await;
            }
            new.served(proxy.addr()).await;
        }
        load.check();
        generation = next;
        println!("root {number} replaced after {:?}", began.elapsed());
    }
    let served = load.finish().await;
    println!(
        "{rotations} rotations in {rotated:?}, {roots} roots in {:?}, {served} requests",
        began.elapsed() - rotated
    );
    assert!(served > (rotations + roots) as u64, "there was load: {served}");
    for (name, proxy) in [("front", &hops.front), ("back", &hops.back)] {
        let applied = proxy.metric("outrigger_certificate_rotations_total", &["result=\"applied\""]).await;
        assert!(applied >= rotations as f64 / 2.0, "{name}: {applied} applied");
        assert_eq!(proxy.metric("outrigger_certificate_last_rotation_successful", &[]).await, 1.0, "{name}");
    }
    // The load passed through new connections between the proxies, not one that lasted.
    let handshakes = hops.back.metric("outrigger_tls_handshakes_total", &["listener=\"in\""]).await;
    assert!(handshakes > roots as f64, "{handshakes} handshakes between the proxies");
    assert!(hops.backend.connections() > 0);
}

/// Waits until every caller has made some more requests.
async fn settle(load: &Load) {
    let before = load.served.load(Ordering::Relaxed);
    let start = Instant::now();
    while load.served.load(Ordering::Relaxed) < before + 64 {
        assert!(start.elapsed() < Duration::from_secs(30), "the load goes on");
        tokio::time::sleep(ms(2)).await;
    }
}
