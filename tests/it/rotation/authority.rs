//! Proxies whose certificates the control plane's authority issues, while it replaces its root.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use outrigger_config::spiffe::TrustDomain;
use outrigger_control::ca::{
    Authority, Confirmations, Force, Issuing, JoinTokens, MemoryAudit, MemoryRegistrations, MemoryTokens, Proof,
    Registered, Settings, Step, SystemClock,
};
use outrigger_control::peer::{Peer, WorkloadKey};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::pki_types::CertificateDer;
use tempfile::TempDir;

use super::{Hops, Load, settle, shows, until_served};
use crate::support::pki::{Credential, Files};
use crate::support::{PATIENCE, Proxy, TlsClient, gate, ms};

/// An authority, and workloads that run as accounts of their own names.
struct Plane {
    authority: Arc<Authority>,
    issuing: Issuing,
    tokens: JoinTokens,
    _folder: TempDir,
}

/// Nobody is behind: the test waits for the proxies itself.
struct All;

impl Confirmations for All {
    fn unconfirmed(&self, _bundle: &str) -> Vec<WorkloadKey> {
        Vec::new()
    }
}

impl Plane {
    fn new(workloads: &[&str]) -> Self {
        let folder = TempDir::new().expect("a folder");
        let domain = TrustDomain::parse("mesh.local").expect("a trust domain");
        let settings = Settings { settle: Duration::ZERO, ..Settings::new(domain, folder.path().join("ca")) };
        let (audit, store) = (Arc::new(MemoryAudit::default()), Arc::new(MemoryTokens::default()));
        let authority = Authority::open(settings, Arc::new(SystemClock), audit.clone()).expect("an authority");
        let authority = Arc::new(authority);
        let registrations = Arc::new(MemoryRegistrations::default());
        for name in workloads {
            let (namespace, name) = ("shop".to_owned(), (*name).to_owned());
            registrations.insert(Registered { namespace, service_account: name.clone(), name });
        }
        let tokens = JoinTokens::new(store.clone(), registrations.clone(), audit.clone(), Arc::new(SystemClock));
        let issuing = Issuing::new(Arc::clone(&authority), registrations, store, audit);
        Self { authority, issuing, tokens, _folder: folder }
    }

    /// What a workload gets for a join token.
    fn issue(&self, name: &str) -> Credential {
        let workload = WorkloadKey::new("shop", name).expect("a workload");
        let (token, _) = self.tokens.create(&workload, Duration::from_secs(60), "test").expect("a token");
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&key).expect("a request");
        let peer = Peer { id: None, workload: None, address: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)) };
        let issued = self.issuing.issue(&peer, request.der(), Proof::JoinToken(token.reveal()), "").expect("issued");
        Credential {
            chain: issued.chain.iter().map(pem).collect(),
            key: key.serialize_pem(),
            serial: serial(&issued.chain[0]),
        }
    }

    fn step(&self, step: Step, force: Force) {
        self.authority.rotate(step, force, "test", &All).expect("a step");
    }

    fn write_bundle(&self, files: &Files) {
        for name in ["front", "back"] {
            files.write(&format!("{name}-bundle.pem"), self.authority.bundle_pem());
        }
    }
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", BASE64.encode(certificate))
}

/// The end of a serial number, by which certificates are told apart here.
fn serial(certificate: &CertificateDer<'_>) -> u64 {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).expect("a certificate");
    certificate.tbs_certificate.serial.to_u64_digits().first().copied().unwrap_or(0)
}

/// How many changes of its files a proxy has taken up.
async fn applied(proxy: &Proxy) -> f64 {
    proxy.metric("outrigger_certificate_rotations_total", &["result=\"applied\""]).await
}

/// Waits until it has taken up one more.
async fn taken_up(proxy: &Proxy, before: f64) {
    let start = Instant::now();
    while applied(proxy).await <= before {
        assert!(start.elapsed() < PATIENCE, "the new roots are taken up:\n{}", proxy.stderr());
        tokio::time::sleep(ms(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_authority_of_the_control_plane_replaces_its_root_under_load() {
    gate::exclusive();
    let plane = Plane::new(&["front", "back", "caller"]);
    let files = Files::new();
    for name in ["front", "back"] {
        files.write_credential(name, &plane.issue(name));
    }
    plane.write_bundle(&files);
    let hops = Hops::with(files).await;
    let mut caller = TlsClient::with(&plane.issue("caller"));
    let current = Arc::new(Mutex::new(caller.clone()));
    let mut load = Load::start(hops.front.addr(), &current);
    for _ in 0..3 {
        let old = caller;
        let applied = [applied(&hops.front).await, applied(&hops.back).await];
        plane.step(Step::Introduce, Force::No);
        plane.write_bundle(&hops.files);
        // Both must believe the new root before it signs.
        for (proxy, before) in [&hops.front, &hops.back].into_iter().zip(applied) {
            taken_up(proxy, before).await;
        }
        plane.step(Step::Sign, Force::No);
        caller = TlsClient::with(&plane.issue("caller"));
        for name in ["front", "back"] {
            until_served(hops.proxy(name), &caller, true).await;
            let next = plane.issue(name);
            hops.files.write_credential(name, &next);
            shows(hops.proxy(name), &caller, next.serial).await;
        }
        *current.lock().expect("no panic") = caller.clone();
        settle(&load).await;
        // A day early: everybody has renewed.
        plane.step(Step::Retire, Force::Yes);
        plane.write_bundle(&hops.files);
        for proxy in [&hops.front, &hops.back] {
            until_served(proxy, &old, false).await;
            caller.served(proxy.addr()).await;
        }
        load.check();
    }
    let served = load.finish().await;
    assert!(served > 100, "there was load: {served}");
}
