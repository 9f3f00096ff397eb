//! The authority with a clock that is moved by hand, on real files.

mod crashes;
mod files;
mod rotations;
mod simulation;
mod svids;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outrigger_config::spiffe::{SpiffeId, TrustDomain};
use rcgen::KeyPair;
use rustls::pki_types::{CertificateDer, UnixTime};
use tempfile::TempDir;

use super::authority::Signed;
use super::*;
use crate::peer::WorkloadKey;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// An authority in a folder of its own.
struct Plane {
    folder: TempDir,
    clock: Arc<ManualClock>,
    audit: Arc<MemoryAudit>,
    authority: Authority,
}

/// Every proxy is connected and has confirmed, but these.
struct Unconfirmed(Vec<WorkloadKey>);

impl Confirmations for Unconfirmed {
    fn unconfirmed(&self, _bundle: &str) -> Vec<WorkloadKey> {
        self.0.clone()
    }
}

fn all() -> Unconfirmed {
    Unconfirmed(Vec::new())
}

fn start() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn domain() -> TrustDomain {
    TrustDomain::parse("mesh.local").expect("a trust domain")
}

fn settings(folder: &Path) -> Settings {
    Settings::new(domain(), folder.join("ca"))
}

fn workload(name: &str) -> WorkloadKey {
    WorkloadKey::new("shop", name).expect("a workload")
}

impl Plane {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let folder = TempDir::new().expect("a folder");
        let clock = Arc::new(ManualClock::at(start()));
        let audit = Arc::new(MemoryAudit::default());
        let mut settings = settings(folder.path());
        change(&mut settings);
        let authority = Authority::open(settings, clock.clone(), audit.clone()).expect("an authority");
        Self { folder, clock, audit, authority }
    }

    /// As after a restart, perhaps with other settings.
    fn reopened(self, change: impl FnOnce(&mut Settings)) -> Self {
        let Self { folder, clock, audit, authority } = self;
        drop(authority);
        let mut settings = settings(folder.path());
        change(&mut settings);
        let authority = Authority::open(settings, clock.clone(), audit.clone()).expect("an authority");
        Self { folder, clock, audit, authority }
    }

    fn issue(&self) -> Signed {
        issue(&self.authority)
    }

    fn step(&self, step: Step) -> Result<(), AuthorityError> {
        self.authority.rotate(step, Force::No, "test", &all())
    }

    fn phase(&self) -> &'static str {
        self.authority.status(&all()).phase
    }
}

fn issue(authority: &Authority) -> Signed {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    let id = authority.identity("shop", "payments").expect("an identity");
    authority.sign(&key, id, &workload("payments-1")).expect("issued")
}

/// Whether a peer with this bundle believes a chain, on either side of a connection.
fn believes(bundle: &Bundle, chain: &[CertificateDer<'static>], now: SystemTime) -> Result<(), webpki::Error> {
    let (leaf, intermediates) = chain.split_first().expect("a chain");
    let leaf = webpki::EndEntityCert::try_from(leaf)?;
    let anchors = bundle.anchors(now);
    let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).expect("after 1970"));
    for usage in [webpki::KeyUsage::client_auth(), webpki::KeyUsage::server_auth()] {
        leaf.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchors, intermediates, now, usage, None, None)?;
    }
    Ok(())
}

fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).expect("an ID")
}
