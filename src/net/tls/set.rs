//! Everything TLS of one configuration, built and checked as a whole. The keys that sessions are named with are files of
//! the same kind: read, checked, refused and replaced together with the others, they are here too.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use outrigger_config::model::{
    CertificateFiles, ClientTrust, ClusterTls, ClusterTlsMode, Config, EarlyData, Identity, Listener, Place, TlsMode,
};
use outrigger_config::spiffe::SpiffeId;
use rustls::pki_types::ServerName;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};

use super::certificate::sha256;
use super::client::{self, ClientTls, Origination, TlsKey, TlsKeyMode};
use super::epoch::{Epochs, Source};
use super::material::{Credentials, Loader};
use super::problem::{MaterialError, MaterialReason as Reason, Problem};
use super::refusal::RefusalReason;
use super::secrets::{self, Secrets};
use super::server::{self, ServerTls, Termination, expected, is_dns_name, offered};
use super::status::{CertificateRole, CertificateStatus};
use super::trust::{Bundle, MeshTrust, Revocations, Trust};
use super::verify::{Expect, Verifier};
use crate::policy::session::Namer;

/// Everything TLS of one configuration. By default there is none.
#[derive(Debug, Default)]
pub struct TlsSet {
    servers: BTreeMap<Arc<str>, Arc<ServerTls>>,
    clients: BTreeMap<Arc<str>, Arc<ClientTls>>,
    certificates: Vec<CertificateStatus>,
    identity: Option<SpiffeId>,
    epochs: Epochs,
    /// By file.
    session_keys: BTreeMap<PathBuf, Arc<Namer>>,
}

impl TlsSet {
    /// Builds what `config` asks for from the contents of its files. What did not change since `previous` goes
    /// on with it: sessions, limits, keys of pools. It becomes what open handshakes are measured by with
    /// [`TlsSet::activate`].
    ///
    /// # Errors
    /// Everything that is wrong with the files; nothing of `previous` is changed then.
    pub fn build(
        config: &Config,
        secrets: &Secrets,
        previous: Option<&Self>,
        now: SystemTime,
    ) -> Result<Self, Vec<MaterialError>> {
        Self::build_with(config, secrets, previous, now, &(Arc::new(DefaultTimeProvider) as _))
    }

    pub(super) fn build_with(
        config: &Config,
        secrets: &Secrets,
        previous: Option<&Self>,
        now: SystemTime,
        clock: &Arc<dyn TimeProvider>,
    ) -> Result<Self, Vec<MaterialError>> {
        let in_use = previous.map(Self::certificates).unwrap_or_default();
        let mut builder =
            Builder { loader: Loader::new(secrets, in_use, now), bundles: BTreeMap::new(), previous, clock };
        let mesh = config.identity.as_ref().and_then(|identity| builder.mesh(identity));
        let revocations = builder.revocations(config);
        let sources = builder.sources(config, mesh.as_ref());
        let epochs = Epochs::next(previous.map(|set| &set.epochs), sources, revocations.entries());
        let shared = Shared { mesh, revocations: Arc::new(revocations), epochs: &epochs };
        let mut servers = BTreeMap::new();
        for listener in &config.listeners {
            if let Some(server) = builder.server(listener, &shared) {
                servers.insert(Arc::clone(&listener.name), Arc::new(server));
            }
        }
        let mut clients = BTreeMap::new();
        for (name, cluster) in &config.clusters {
            if let Some(client) = cluster.tls.as_ref().and_then(|tls| builder.client(name, tls, &shared)) {
                clients.insert(Arc::clone(name), Arc::new(client));
            }
        }
        let session_keys = builder.session_keys(config);
        let identity = shared.mesh.and_then(|mesh| mesh.credentials.identity);
        let Loader { errors, statuses: certificates, .. } = builder.loader;
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Self { servers, clients, certificates, identity, epochs, session_keys })
    }

    /// TLS of a listener; `None` where it has none, or it is off.
    #[must_use]
    pub fn server(&self, listener: &str) -> Option<&Arc<ServerTls>> {
        self.servers.get(listener)
    }

    /// TLS of a cluster; `None` where it has none.
    #[must_use]
    pub fn client(&self, cluster: &str) -> Option<&Arc<ClientTls>> {
        self.clients.get(cluster)
    }

    /// What names sessions with the key in this file.
    #[must_use]
    pub fn session_key(&self, file: &Path) -> Option<&Arc<Namer>> {
        self.session_keys.get(file)
    }

    /// Files whose key for sessions is another than in `before`.
    pub fn session_keys_changed<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = &'a Path> {
        let changed = |(file, namer): &(&PathBuf, &Arc<Namer>)| {
            before.session_keys.get(*file).is_some_and(|known| !known.is_like(namer))
        };
        self.session_keys.iter().filter(changed).map(|(file, _)| file.as_path())
    }

    /// Every certificate, root and list in use.
    #[must_use]
    pub fn certificates(&self) -> &[CertificateStatus] {
        &self.certificates
    }

    /// Who we are in the mesh.
    #[must_use]
    pub fn identity(&self) -> Option<&SpiffeId> {
        self.identity.as_ref()
    }

    /// Makes this set's trust today's: from now on every handshake that ends is measured by it, also one that
    /// began under an older set, and every session that is resumed. Called when the set is published.
    pub fn activate(&self) {
        self.servers.values().for_each(|server| server.activate());
        self.clients.values().for_each(|client| client.activate());
    }
}

/// The mesh identity, loaded.
struct Mesh {
    credentials: Credentials,
    trust: Arc<MeshTrust>,
    proposed: Option<Arc<MeshTrust>>,
}

/// What listeners and clusters have in common.
struct Shared<'a> {
    mesh: Option<Mesh>,
    revocations: Arc<Revocations>,
    epochs: &'a Epochs,
}

struct Builder<'a> {
    loader: Loader<'a>,
    /// Bundles that listeners and clusters name, by file.
    bundles: BTreeMap<PathBuf, Option<Arc<Bundle>>>,
    previous: Option<&'a TlsSet>,
    clock: &'a Arc<dyn TimeProvider>,
}

impl Builder<'_> {
    fn mesh(&mut self, identity: &Identity) -> Option<Mesh> {
        let place = &identity.place;
        let credentials = self.loader.credentials(&identity.certificate, CertificateRole::Identity);
        let own = self.loader.bundle(&identity.trust_bundle, place, &CertificateRole::TrustBundle).map(Arc::new);
        let mut federated = BTreeMap::new();
        for (domain, file) in &identity.federated_bundles {
            let domain: Arc<str> = domain.as_str().into();
            let role = CertificateRole::FederatedBundle(Arc::clone(&domain));
            if let Some(bundle) = self.loader.bundle(file, place, &role) {
                federated.insert(domain, Arc::new(bundle));
            }
        }
        let proposed = identity.proposed_trust_bundle.as_ref();
        let proposed = proposed.and_then(|file| self.loader.bundle(file, place, &CertificateRole::ProposedTrustBundle));
        let (credentials, own) = (credentials?, own?);
        let id = credentials.identity.as_ref()?;
        let domain: Arc<str> = id.trust_domain().into();
        if federated.contains_key(&domain) {
            let file = identity.federated_bundles.iter().find(|(name, _)| *name.as_str() == *domain);
            let text = format!("`{domain}` is our own trust domain");
            let problem = Reason::Contradiction.problem(text, "put its roots into trustBundle");
            self.loader.fail(file.map_or(&identity.trust_bundle, |(_, file)| file), place, problem);
            return None;
        }
        let with = |own: Arc<Bundle>| {
            let mut domains = federated.clone();
            domains.insert(Arc::clone(&domain), own);
            Arc::new(MeshTrust::new(domains))
        };
        let mesh = Mesh { trust: with(own), proposed: proposed.map(|bundle| with(Arc::new(bundle))), credentials };
        self.check_own_chain(identity, &mesh);
        Some(mesh)
    }

    /// Our own certificate must stand up to our own bundle, towards both sides: what we would refuse, peers will.
    fn check_own_chain(&mut self, identity: &Identity, mesh: &Mesh) {
        let chain = &mesh.credentials.key.cert;
        let Some((leaf, intermediates)) = chain.split_first() else { return };
        let since = self.loader.now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let now = rustls::pki_types::UnixTime::since_unix_epoch(since);
        let both = [
            Expect::Clients(outrigger_config::model::ClientCertificate::Required),
            Expect::Identities(
                [mesh.credentials.identity.clone().map(outrigger_config::spiffe::IdentityPattern::Exact)]
                    .into_iter()
                    .flatten()
                    .collect(),
            ),
        ];
        for expect in both {
            let trust = Trust::Mesh(Arc::clone(&mesh.trust));
            let verifier = Verifier { trust, revocations: Arc::default(), expect };
            let presented = super::verify::Presented { leaf, intermediates, now, name: None };
            if let Err(refusal) = verifier.verify(&presented) {
                // What ran out in use was said already, and one that is not renewed yet is in nobody's way.
                let file = &identity.certificate.certificate;
                if refusal.reason == RefusalReason::Expired && self.loader.is_in_use(file, leaf) {
                    return;
                }
                let bundle = identity.trust_bundle.display();
                let text = format!("the trust bundle `{bundle}` does not verify it ({refusal})");
                let fix = "put the root that issued it into the bundle first, and the certificate after";
                let problem = Reason::Untrusted.problem(text, fix);
                self.loader.fail(&identity.certificate.certificate, &identity.certificate.place, problem);
                return;
            }
        }
    }

    fn session_keys(&mut self, config: &Config) -> BTreeMap<PathBuf, Arc<Namer>> {
        let mut keys = BTreeMap::new();
        for (session, place) in secrets::sessions(config) {
            let file = &session.key_file;
            if keys.contains_key(file) {
                continue;
            }
            let Some(contents) = self.loader.read(file, place) else { continue };
            let previous = self.previous.and_then(|set| set.session_key(file)).map(|namer| &**namer);
            match Namer::new(contents, previous) {
                Ok(namer) => drop(keys.insert(file.clone(), Arc::new(namer))),
                Err(error) => {
                    let fix = "make one with `openssl rand -hex 32`, and give it to all proxies of the service";
                    self.loader.fail(file, place, Reason::WeakKey.problem(error.to_string(), fix));
                }
            }
        }
        keys
    }

    fn revocations(&mut self, config: &Config) -> Revocations {
        let Some(identity) = &config.identity else { return Revocations::default() };
        if identity.revocation_lists.is_empty() {
            return Revocations::default();
        }
        // Lists may come from any authority that is named anywhere.
        for (file, place, role) in named_bundles(config) {
            self.bundle(&file, &place, &role);
        }
        let roots = self.loader.roots.clone();
        let files = identity.revocation_lists.iter().map(PathBuf::as_path);
        self.loader.revocations(files, &identity.place, &roots)
    }

    fn sources(&mut self, config: &Config, mesh: Option<&Mesh>) -> BTreeMap<Source, BTreeSet<[u8; 32]>> {
        let mut sources = BTreeMap::new();
        if let Some(mesh) = mesh {
            let of_domain = |(domain, bundle): (&Arc<str>, &Arc<Bundle>)| {
                let tagged = |root: [u8; 32]| sha256(&[domain.as_bytes(), &[0], &root[..]].concat());
                bundle.roots.iter().map(|root| tagged(root.sha256)).collect::<Vec<_>>()
            };
            sources.insert(Source::Mesh, mesh.trust.domains.iter().flat_map(of_domain).collect());
        }
        for (file, place, role) in named_bundles(config) {
            if let Some(bundle) = self.bundle(&file, &place, &role) {
                sources.insert(Source::File(file), bundle.roots.iter().map(|root| root.sha256).collect());
            }
        }
        sources
    }

    fn bundle(&mut self, file: &Path, place: &Place, role: &CertificateRole) -> Option<Arc<Bundle>> {
        if let Some(known) = self.bundles.get(file) {
            return known.clone();
        }
        let bundle = self.loader.bundle(file, place, role).map(Arc::new);
        self.bundles.insert(file.to_owned(), bundle.clone());
        bundle
    }

    fn server(&mut self, listener: &Listener, shared: &Shared<'_>) -> Option<ServerTls> {
        let tls = listener.tls.as_ref().filter(|tls| tls.mode != TlsMode::Off)?;
        let previous = self.previous.and_then(|set| set.server(&listener.name)).map(|server| &**server);
        if tls.mode == TlsMode::Passthrough {
            return Some(ServerTls::new(tls.clone(), None, None, previous));
        }
        let credentials = self.listener_credentials(listener, &tls.certificates, shared)?;
        let trust = match &tls.client_trust {
            ClientTrust::Mesh => shared.mesh.as_ref().map(|mesh| Trust::Mesh(Arc::clone(&mesh.trust))),
            ClientTrust::Roots(file) => {
                let role = CertificateRole::ClientTrustBundle(Arc::clone(&listener.name));
                Some(Trust::Roots(self.bundle(file, &tls.place, &role)?))
            }
        };
        let verifier = match expected(tls.client_certificate) {
            None => None,
            Some(expect) => {
                let revocations = Arc::clone(&shared.revocations);
                Some(Arc::new(Verifier { trust: trust?, revocations, expect }))
            }
        };
        let shape = server::Shape {
            credentials: credentials.iter().map(|credentials| credentials.fingerprint).collect(),
            trust: verifier.as_ref().map(|verifier| verifier.trust.fingerprint()),
            revocations: shared.revocations.fingerprint,
            clients: tls.client_certificate,
            min_version: tls.min_version,
            alpn: offered(listener.protocol),
            early: promised(listener),
        };
        let known = previous.and_then(ServerTls::termination).filter(|known| known.shape == shape);
        let terminates = match known {
            Some(known) => Arc::clone(known),
            None => match Termination::new(shape, &credentials, verifier, Arc::clone(self.clock)) {
                Ok(made) => Arc::new(made),
                Err(error) => {
                    let file = tls.certificates.first().map_or(Path::new(""), |files| &*files.certificate);
                    self.loader.fail(file, &tls.place, unusable(&error));
                    return None;
                }
            },
        };
        let proposed = shared.mesh.as_ref().and_then(|mesh| mesh.proposed.clone());
        let rehearsal = proposed.filter(|_| tls.client_trust == ClientTrust::Mesh).and_then(|trust| {
            let expect = expected(tls.client_certificate)?;
            let revocations = Arc::clone(&shared.revocations);
            Some(Arc::new(Verifier { trust: Trust::Mesh(trust), revocations, expect }))
        });
        Some(ServerTls::new(tls.clone(), Some(terminates), rehearsal, previous))
    }

    fn listener_credentials(
        &mut self,
        listener: &Listener,
        files: &[CertificateFiles],
        shared: &Shared<'_>,
    ) -> Option<Vec<Credentials>> {
        if files.is_empty() {
            return shared.mesh.as_ref().map(|mesh| vec![mesh.credentials.clone()]);
        }
        let role = CertificateRole::Listener(Arc::clone(&listener.name));
        let loaded: Vec<Option<Credentials>> =
            files.iter().map(|files| self.loader.credentials(files, role.clone())).collect();
        loaded.into_iter().collect()
    }

    fn client(&mut self, name: &Arc<str>, tls: &ClusterTls, shared: &Shared<'_>) -> Option<ClientTls> {
        let previous = self.previous.and_then(|set| set.client(name)).map(|client| &**client);
        let sni = match &tls.sni {
            Some(sni) if is_dns_name(sni) => ServerName::try_from(sni.to_string()).ok(),
            Some(sni) => {
                let problem = Reason::Contradiction.problem("it cannot be sent as SNI", "write a DNS name");
                self.loader.fail(&PathBuf::from(&**sni), &tls.place, problem);
                return None;
            }
            None => None,
        };
        let (mode, source, credentials, trust, expect) = match &tls.mode {
            ClusterTlsMode::Mutual { peer_identities } => {
                let mesh = shared.mesh.as_ref()?;
                let peers: Arc<[_]> = peer_identities.clone().into();
                let mode = TlsKeyMode::Mutual { own: mesh.credentials.identity.clone(), peers: Arc::clone(&peers) };
                let trust = Trust::Mesh(Arc::clone(&mesh.trust));
                (mode, Source::Mesh, Some(mesh.credentials.clone()), trust, Expect::Identities(peers))
            }
            ClusterTlsMode::Simple { trust_bundle, subject_names, certificate } => {
                let role = CertificateRole::ServerTrustBundle(Arc::clone(name));
                let bundle = self.bundle(trust_bundle, &tls.place, &role);
                let role = CertificateRole::Client(Arc::clone(name));
                let credentials = certificate.as_ref().map(|files| self.loader.credentials(files, role));
                let mut names = Vec::new();
                for subject in subject_names {
                    match ServerName::try_from(subject.to_string()) {
                        Ok(subject) => names.push(subject),
                        Err(_) => {
                            let fix = "write a DNS name or an address";
                            let problem = Reason::Contradiction.problem("no certificate can have this name", fix);
                            self.loader.fail(&PathBuf::from(&**subject), &tls.place, problem);
                        }
                    }
                }
                let credentials = match credentials {
                    Some(loaded) => Some(loaded?),
                    None => None,
                };
                let mode = TlsKeyMode::Simple {
                    trust_bundle: trust_bundle.clone(),
                    subject_names: subject_names.clone().into(),
                    certificate: certificate.as_ref().map(|files| files.certificate.clone()),
                };
                let source = Source::File(trust_bundle.clone());
                (mode, source, credentials, Trust::Roots(bundle?), Expect::Names(names.into()))
            }
        };
        let key =
            TlsKey { mode, sni: tls.sni.clone(), min_version: tls.min_version, trust_epoch: shared.epochs.of(&source) };
        let shape = client::Shape {
            credentials: credentials.as_ref().map(|credentials| credentials.fingerprint),
            trust: trust.fingerprint(),
            revocations: shared.revocations.fingerprint,
            expect: expect.clone(),
            min_version: tls.min_version,
        };
        let known = previous.map(ClientTls::origination).filter(|known| known.shape == shape);
        let origination = match known {
            Some(known) => Arc::clone(known),
            None => {
                let revocations = Arc::clone(&shared.revocations);
                let verifier = Arc::new(Verifier { trust, revocations, expect });
                match Origination::new(shape, credentials.as_ref(), verifier, Arc::clone(self.clock)) {
                    Ok(made) => Arc::new(made),
                    Err(error) => {
                        self.loader.fail(Path::new(""), &tls.place, unusable(&error));
                        return None;
                    }
                }
            }
        };
        let mut client = ClientTls::new(key, sni, origination, previous);
        if let Some(previous) = previous {
            client.share_key(previous);
        }
        Some(client)
    }
}

/// What callers with early data go by, where it is taken.
fn promised(listener: &Listener) -> Option<server::Promised> {
    match listener.http3?.early_data {
        EarlyData::Off => None,
        EarlyData::SafeMethods => Some(server::Promised {
            max_streams: listener.limits.max_concurrent_streams,
            max_head_bytes: listener.limits.max_head_bytes,
        }),
    }
}

fn unusable(error: &rustls::Error) -> Problem {
    Reason::Unusable.problem(format!("TLS cannot be set up: {error}"), "try a certificate for ECDSA P-256")
}

/// The bundles that listeners and clusters name.
fn named_bundles(config: &Config) -> Vec<(PathBuf, Place, CertificateRole)> {
    let mut bundles = Vec::new();
    for listener in &config.listeners {
        if let Some(tls) = &listener.tls
            && let ClientTrust::Roots(file) = &tls.client_trust
        {
            let role = CertificateRole::ClientTrustBundle(Arc::clone(&listener.name));
            bundles.push((file.clone(), tls.place.clone(), role));
        }
    }
    for (name, cluster) in &config.clusters {
        if let Some(tls) = &cluster.tls
            && let ClusterTlsMode::Simple { trust_bundle, .. } = &tls.mode
        {
            let role = CertificateRole::ServerTrustBundle(Arc::clone(name));
            bundles.push((trust_bundle.clone(), tls.place.clone(), role));
        }
    }
    bundles
}
