//! The authority: what signs now, who is believed now, and how that changes.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use outrigger_config::spiffe::{SpiffeId, TrustDomain};
use parking_lot::Mutex;
use rcgen::PublicKeyData;
use rustls::pki_types::CertificateDer;
use thiserror::Error;
use tokio::sync::watch;

use super::audit::{Audit, Event, Outcome};
use super::bundle::{Bundle, fingerprint};
use super::clock::Clock;
use super::disk::{self, Disk, FileSystem};
use super::limiter::Limiter;
use super::material::{Material, MaterialFiles};
use super::rotation::{Confirmations, Phase, RotationStatus, SignerStatus, Step, seconds};
use super::state::{Folder, State};
use super::svid::{Leaf, ServingNames};
use crate::manifest::CONTROL_PLANE;
use crate::peer::WorkloadKey;

/// How an authority is to be.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whose identities it issues.
    pub trust_domain: TrustDomain,
    /// Where keys and state are kept; made when it is not there, owner only.
    pub folder: PathBuf,
    /// An authority made elsewhere. It is copied into the folder at the first start; another one later is taken up by
    /// the step `introduce`. Without it roots are made here.
    pub material: Option<MaterialFiles>,
    /// How long certificates are valid.
    pub lifetime: Duration,
    /// How long roots that are made here are.
    pub root_lifetime: Duration,
    /// How long a new root is known at least before it signs.
    pub settle: Duration,
    /// Whether rotations go on, and begin when the signer has used up two thirds of its time, by themselves.
    pub automatic: bool,
}

/// The authority of a trust domain.
pub struct Authority {
    settings: Settings,
    clock: Arc<dyn Clock>,
    audit: Arc<dyn Audit>,
    /// Of certificates that were refused in handshakes.
    strangers: Limiter,
    /// Whoever changes anything holds this.
    held: Mutex<Held>,
    current: ArcSwap<Current>,
    bundle: watch::Sender<Arc<Bundle>>,
}

struct Held {
    folder: Folder,
    state: State,
}

/// What counts now, as a whole.
struct Current {
    phase: Phase,
    signer: Arc<Material>,
    other: Option<Arc<Material>>,
}

/// A certificate that was issued.
pub(super) struct Signed {
    /// Leaf first, without the root.
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    /// When to ask for the next one, counted from now.
    pub(super) renew_after: Duration,
    /// What it was signed with.
    pub(super) signer: String,
}

/// Why the authority cannot be had, or did not do what it was asked.
#[derive(Debug, Error)]
pub enum AuthorityError {
    /// A file or folder cannot be used.
    #[error("{}: {source}", path.display())]
    Io {
        /// It.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others than the owner may look into what is secret.
    #[error("{}: its permissions are {mode:04o}, and others must not have access: chmod {right:04o}", path.display())]
    Permissions {
        /// The file or folder.
        path: PathBuf,
        /// What it has.
        mode: u32,
        /// What it should have.
        right: u32,
    },
    /// Another process uses the folder.
    #[error("{}: another control plane uses this folder: stop it, or give this one a folder of its own", .0.display())]
    Locked(PathBuf),
    /// What is kept cannot be believed.
    #[error("{}: {problem}: restore the folder from a backup, or begin anew with an empty one", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The folder is of another trust domain.
    #[error("the authority in this folder is of `{kept}`, and `{configured}` is configured: give it another folder")]
    TrustDomain {
        /// What it is of.
        kept: String,
        /// What it should be of.
        configured: String,
    },
    /// The configured files are no authority.
    #[error("{}: {problem}", path.display())]
    Material {
        /// The file of certificates.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A setting makes no sense.
    #[error("{0}")]
    Settings(&'static str),
    /// No root could be made.
    #[error("{0}")]
    NoRoot(String),
    /// The signer has run out.
    #[error("what signs has run out or is not valid yet: `outrigger-control ca rotate --step introduce`")]
    RunOut,
    /// The step does not go from where things stand.
    #[error("the step `{}` does not go from the phase `{phase}`; the next one would be `{}`", step.name(), next.name())]
    WrongPhase {
        /// What was asked.
        step: Step,
        /// Where things stand.
        phase: &'static str,
        /// What could be asked.
        next: Step,
    },
    /// The files hold what signs already.
    #[error("the configured files hold the authority that signs already: put the new one there first")]
    SameMaterial,
    /// The step is not safe now.
    #[error("the step `{}` is not safe now: {}; --force does it all the same", step.name(), objections.join("; "))]
    Unsafe {
        /// What was asked.
        step: Step,
        /// What speaks against it.
        objections: Vec<String>,
    },
    /// The cryptography failed.
    #[error("no certificate can be made: {0}")]
    Signing(#[from] rcgen::Error),
}

impl Settings {
    /// What is usual: certificates for 24 hours, roots for ten years, five minutes for proxies to take up a new root.
    #[must_use]
    pub fn new(trust_domain: TrustDomain, folder: PathBuf) -> Self {
        Self {
            trust_domain,
            folder,
            material: None,
            lifetime: Duration::from_secs(86_400),
            root_lifetime: Duration::from_secs(3650 * 86_400),
            settle: Duration::from_secs(300),
            automatic: true,
        }
    }
}

impl Authority {
    /// Opens the authority in its folder, or makes it there. Blocks on the disk.
    ///
    /// # Errors
    /// See [`AuthorityError`]. Nothing is repaired by guessing.
    pub fn open(settings: Settings, clock: Arc<dyn Clock>, audit: Arc<dyn Audit>) -> Result<Self, AuthorityError> {
        Self::open_on(settings, clock, audit, Box::new(FileSystem))
    }

    pub(super) fn open_on(
        settings: Settings,
        clock: Arc<dyn Clock>,
        audit: Arc<dyn Audit>,
        disk: Box<dyn Disk>,
    ) -> Result<Self, AuthorityError> {
        if settings.lifetime < MIN_LIFETIME || settings.root_lifetime < settings.lifetime {
            return Err(AuthorityError::Settings(
                "certificates live for a minute at least, and roots not shorter than those",
            ));
        }
        let now = clock.now();
        let folder = Folder::open(&settings.folder, disk)?;
        let state = match folder.state()? {
            Some(state) if state.trust_domain != settings.trust_domain.as_str() => {
                return Err(AuthorityError::TrustDomain {
                    kept: state.trust_domain,
                    configured: settings.trust_domain.as_str().to_owned(),
                });
            }
            Some(mut state) => {
                // What the present signer will issue may live longer than what it has issued so far.
                if state.longest_lifetime < settings.lifetime.as_secs() {
                    state.longest_lifetime = settings.lifetime.as_secs();
                    folder.keep_state(&state)?;
                }
                state
            }
            None => {
                let first = new_material(&settings, now)?;
                folder.keep_material(&first)?;
                let phase = Phase::Stable { signer: first.id };
                let state = State::new(&settings.trust_domain, settings.lifetime.as_secs(), phase);
                folder.keep_state(&state)?;
                state
            }
        };
        folder.sweep(&state.phase)?;
        let material = |id: &str| folder.material(id, &settings.trust_domain).map(Arc::new);
        let current = Current {
            signer: material(state.phase.signer())?,
            other: state.phase.other().map(material).transpose()?,
            phase: state.phase.clone(),
        };
        let bundle = watch::Sender::new(Arc::new(current.bundle()));
        let held = Mutex::new(Held { folder, state });
        let strangers = Limiter::default();
        Ok(Self { settings, clock, audit, strangers, held, current: ArcSwap::from_pointee(current), bundle })
    }

    /// Whose identities it issues.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.settings.trust_domain
    }

    /// Every root that is believed now.
    #[must_use]
    pub fn bundle(&self) -> Arc<Bundle> {
        Arc::clone(&self.bundle.borrow())
    }

    /// The same, PEM.
    #[must_use]
    pub fn bundle_pem(&self) -> String {
        self.bundle().pem()
    }

    /// Tells when the roots have changed.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<Bundle>> {
        self.bundle.subscribe()
    }

    /// The identity of a service account.
    #[must_use]
    pub fn identity(&self, namespace: &str, service_account: &str) -> Option<SpiffeId> {
        let domain = self.settings.trust_domain.as_str();
        SpiffeId::parse(&format!("spiffe://{domain}/ns/{namespace}/sa/{service_account}")).ok()
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Issues the certificate of a workload.
    pub(super) fn sign(
        &self,
        key: &impl PublicKeyData,
        id: SpiffeId,
        workload: &WorkloadKey,
    ) -> Result<Signed, AuthorityError> {
        self.sign_with(&self.current.load().signer, key, id, workload, ServingNames::default())
    }

    /// Issues the control plane's own certificate. As long as the old root is believed it is the old one that signs it:
    /// a proxy that was away while the new one was introduced must be able to come back and be told of it.
    pub(super) fn sign_serving(
        &self,
        key: &impl PublicKeyData,
        id: SpiffeId,
        names: ServingNames,
    ) -> Result<Signed, AuthorityError> {
        let (namespace, name) = CONTROL_PLANE;
        let workload = WorkloadKey { namespace: namespace.to_owned(), name: name.to_owned() };
        self.sign_with(self.current.load().serving(), key, id, &workload, names)
    }

    /// What would sign the control plane's certificate now.
    pub(super) fn serving_signer(&self) -> String {
        self.current.load().serving().id.clone()
    }

    fn sign_with(
        &self,
        material: &Material,
        key: &impl PublicKeyData,
        id: SpiffeId,
        workload: &WorkloadKey,
        also: ServingNames,
    ) -> Result<Signed, AuthorityError> {
        let now = self.clock.now();
        let validity = material.validity(now, self.settings.lifetime).ok_or(AuthorityError::RunOut)?;
        let (not_before, not_after) = validity;
        let leaf = Leaf { id, namespace: workload.namespace.clone(), name: workload.name.clone(), also, validity };
        let certificate = leaf.sign(key, material)?;
        let mut chain = vec![certificate];
        chain.extend(material.chain.iter().cloned());
        let left = not_after.duration_since(now).unwrap_or_default();
        Ok(Signed { chain, not_before, not_after, renew_after: half_life(left), signer: material.id.clone() })
    }

    /// How things stand.
    #[must_use]
    pub fn status(&self, confirmations: &dyn Confirmations) -> RotationStatus {
        let current = self.current.load();
        let bundle = self.bundle();
        let (unconfirmed, silent) = (confirmations.unconfirmed(bundle.version()), confirmations.silent());
        let next = current.phase.next_step();
        RotationStatus {
            phase: current.phase.name(),
            since: current.phase.since(),
            signer: current.signer.status(),
            other: current.other.as_ref().map(|other| other.status()),
            objections: current.phase.objections(next, self.clock.now(), self.settings.settle, (&unconfirmed, &silent)),
            silent: unconfirmed.iter().filter(|one| silent.contains(one)).map(ToString::to_string).collect(),
            unconfirmed: unconfirmed.iter().map(ToString::to_string).collect(),
            bundle: bundle.version().to_owned(),
            next,
        }
    }

    /// Takes a step of a rotation. Blocks on the disk. When this returns, the step is on disk and in effect; when it
    /// fails, what was in effect still is.
    ///
    /// # Errors
    /// See [`AuthorityError`]: a step that is not safe now is refused, unless it is forced.
    pub fn rotate(
        &self,
        step: Step,
        force: Force,
        by: &str,
        confirmations: &dyn Confirmations,
    ) -> Result<(), AuthorityError> {
        let result = self.take_step(step, force, confirmations);
        let (outcome, detail) = match &result {
            Ok(phase) => {
                (Outcome::Done, format!("the phase is now {}, what signs is {}", phase.name(), phase.signer()))
            }
            Err(error) => (Outcome::Refused(error.code()), error.to_string()),
        };
        self.audit.record(Event {
            at: self.clock.now(),
            action: step.action(),
            by: Some(by.to_owned()),
            address: None,
            subject: Some(self.settings.trust_domain.as_str().to_owned()),
            outcome,
            detail,
        });
        result.map(drop)
    }

    /// Puts down that somebody showed a certificate which is not believed. Of one address only as many as refusals are
    /// allowed: the others are in the log of the process. Blocks for as long as the audit does.
    pub fn refused_certificate(&self, address: SocketAddr, why: &str) {
        let now = self.clock.now();
        if self.strangers.check(address.ip(), now).is_err() {
            return;
        }
        self.strangers.count(address.ip(), now);
        self.audit.record(Event {
            at: now,
            action: "connection",
            by: None,
            address: Some(address),
            subject: None,
            outcome: Outcome::Refused("certificate"),
            detail: why.to_owned(),
        });
    }

    /// Goes on with a rotation where that is safe, and begins one when the signer has used up two thirds of its time:
    /// at most one step. To be called every minute or so; does nothing where rotations are not automatic.
    ///
    /// # Errors
    /// See [`AuthorityError`].
    pub fn advance(&self, confirmations: &dyn Confirmations) -> Result<Option<Step>, AuthorityError> {
        if !self.settings.automatic {
            return Ok(None);
        }
        let now = self.clock.now();
        let current = self.current.load_full();
        let step = current.phase.next_step();
        let due = match step {
            Step::Introduce => current.signer.is_old(now) && self.settings.material.is_none(),
            Step::Sign | Step::Retire | Step::Withdraw => {
                let unconfirmed = confirmations.unconfirmed(self.bundle().version());
                current.phase.objections(step, now, self.settings.settle, (&unconfirmed, &[])).is_empty()
            }
        };
        if !due {
            return Ok(None);
        }
        self.rotate(step, Force::No, "automatic", confirmations).map(|()| Some(step))
    }

    fn take_step(&self, step: Step, force: Force, confirmations: &dyn Confirmations) -> Result<Phase, AuthorityError> {
        let mut held = self.held.lock();
        let now = self.clock.now();
        let before = self.current.load_full();
        let wrong = || AuthorityError::WrongPhase { step, phase: before.phase.name(), next: before.phase.next_step() };
        let (unconfirmed, silent) = (confirmations.unconfirmed(self.bundle().version()), confirmations.silent());
        let objections = before.phase.objections(step, now, self.settings.settle, (&unconfirmed, &silent));
        let longest = Duration::from_secs(held.state.longest_lifetime);
        // Before a key is made for nothing.
        let phase = before.phase.step(step, now, longest, "").map_err(|_| wrong())?;
        if force == Force::No && !objections.is_empty() {
            return Err(AuthorityError::Unsafe { step, objections });
        }
        let (phase, fresh) = match step {
            Step::Introduce => {
                let fresh = new_material(&self.settings, now)?;
                if fresh.id == before.signer.id {
                    return Err(AuthorityError::SameMaterial);
                }
                held.folder.keep_material(&fresh)?;
                (before.phase.step(step, now, longest, &fresh.id).map_err(|_| wrong())?, Some(Arc::new(fresh)))
            }
            Step::Sign | Step::Retire | Step::Withdraw => (phase, None),
        };
        let longest_lifetime = match step {
            Step::Sign => self.settings.lifetime.as_secs(),
            Step::Introduce | Step::Retire | Step::Withdraw => held.state.longest_lifetime,
        };
        let state = State::new(&self.settings.trust_domain, longest_lifetime, phase.clone());
        held.folder.keep_state(&state)?;
        held.state = state;
        let after = before.after(phase.clone(), fresh.as_ref());
        let bundle = after.bundle();
        self.current.store(Arc::new(after));
        self.bundle.send_if_modified(|known| {
            let changed = **known != bundle;
            if changed {
                *known = Arc::new(bundle);
            }
            changed
        });
        if let Err(error) = held.folder.sweep(&phase) {
            tracing::warn!(%error, "what the authority does not need any more could not be removed; the next start will");
        }
        Ok(phase)
    }
}

/// Whether a step is taken that is not safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    /// It is refused.
    No,
    /// Somebody takes it upon themselves.
    Yes,
}

impl Current {
    fn bundle(&self) -> Bundle {
        let roots = std::iter::once(&self.signer).chain(&self.other).map(|material| material.root.clone());
        Bundle::new(roots.collect()).expect("a signer's root was read before")
    }

    fn serving(&self) -> &Material {
        match (&self.phase, &self.other) {
            (Phase::Signing { .. }, Some(old)) => old,
            _ => &self.signer,
        }
    }

    /// What counts after a step: the signers that its phase names, of those that are there.
    fn after(&self, phase: Phase, fresh: Option<&Arc<Material>>) -> Self {
        let known = [Some(&self.signer), self.other.as_ref(), fresh];
        let find = |id: &str| known.iter().copied().flatten().find(|material| material.id == id).map(Arc::clone);
        let signer = find(phase.signer()).expect("a step names only signers that are there");
        Self { signer, other: phase.other().and_then(find), phase }
    }
}

impl Material {
    fn status(&self) -> SignerStatus {
        SignerStatus { fingerprint: self.id.clone(), root: fingerprint(&self.root), not_after: seconds(self.not_after) }
    }

    /// Whether two thirds of its time are over.
    fn is_old(&self, now: SystemTime) -> bool {
        let whole = self.not_after.duration_since(self.not_before).unwrap_or_default();
        self.not_before + whole / 3 * 2 <= now
    }
}

impl AuthorityError {
    /// One stable word for the record.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "io",
            Self::Permissions { .. } => "permissions",
            Self::Locked(_) => "locked",
            Self::Damaged { .. } => "damaged",
            Self::TrustDomain { .. } => "trust-domain",
            Self::Material { .. } => "material",
            Self::Settings(_) => "settings",
            Self::NoRoot(_) => "no-root",
            Self::RunOut => "run-out",
            Self::WrongPhase { .. } => "wrong-phase",
            Self::SameMaterial => "same-material",
            Self::Unsafe { .. } => "unsafe",
            Self::Signing(_) => "signing",
        }
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("trust_domain", &self.settings.trust_domain).finish_non_exhaustive()
    }
}

/// From the configured files, or made.
fn new_material(settings: &Settings, now: SystemTime) -> Result<Material, AuthorityError> {
    let Some(files) = &settings.material else {
        return Material::make(&settings.trust_domain, now, settings.root_lifetime).map_err(AuthorityError::NoRoot);
    };
    let MaterialFiles { certificates, key } = files;
    let read = |path: &PathBuf| disk::read(path).map_err(|source| AuthorityError::Io { path: path.clone(), source });
    let excess = disk::excess(key, OTHERS).map_err(|source| AuthorityError::Io { path: key.clone(), source })?;
    if let Some(mode) = excess {
        return Err(AuthorityError::Permissions { path: key.clone(), mode, right: mode & !OTHERS });
    }
    Material::read(&read(certificates)?, &read(key)?, &settings.trust_domain, now)
        .map_err(|problem| AuthorityError::Material { path: certificates.clone(), problem })
}

/// Half of what is left, give or take a tenth of it, so that proxies that started together do not renew together.
fn half_life(left: Duration) -> Duration {
    let mut random = [0; 2];
    let share = match aws_lc_rs::rand::fill(&mut random) {
        Ok(()) => f64::from(u16::from_le_bytes(random)) / f64::from(u16::MAX),
        Err(_) => 0.5,
    };
    left.mul_f64(0.45 + 0.1 * share)
}

/// What anybody but the owner and the group may do: keys that a platform mounts belong to a group.
const OTHERS: u32 = 0o007;
/// Below it, clocks that differ would matter too much.
const MIN_LIFETIME: Duration = Duration::from_secs(60);
