//! Resources, decoded, and what they make together.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use outrigger_config::built::Problem;
use outrigger_config::model::{ClientTrust, ClusterTlsMode, Config, Endpoint};
use outrigger_xds::decode::{self, Context, Decoded, File, What};
use outrigger_xds::{Kind, Parts, Settings};

use super::files;
use super::session::Refusal;
use super::store::{Held, Id, Store};
use crate::net::tls::MaterialError;

/// The secret that is the bundle of the mesh.
const ROOTS: &str = "ROOTCA";

/// Decoded resources by name and version.
#[derive(Debug)]
pub(crate) struct Catalog {
    context: Context,
    /// Whether our identity comes from the control plane, and with it the bundle of the mesh.
    bundle: bool,
    decoded: BTreeMap<Id, Vec<Version>>,
}

/// A version and what is in it.
type Version = (Arc<str>, Arc<Decoded>);

impl Catalog {
    /// Nothing decoded yet. Contents of secrets become files below the state folder.
    pub(crate) fn new(state: &Path, bundle: bool) -> Self {
        let context = Context { folder: state.join("secrets") };
        Self { context, bundle, decoded: BTreeMap::new() }
    }

    /// Decodes a resource, unless it is known in this version.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn decode(
        &mut self,
        (kind, name): (Kind, &Arc<str>),
        version: &Arc<str>,
        body: &[u8],
    ) -> Result<(), Vec<Refusal>> {
        let id = (kind, Arc::clone(name));
        if self.decoded.get(&id).is_some_and(|versions| versions.iter().any(|(known, _)| known == version)) {
            return Ok(());
        }
        let decoded = outrigger_xds::decode(kind, name, body, &self.context).map_err(owns)?;
        self.decoded.entry(id).or_default().push((Arc::clone(version), Arc::new(decoded)));
        Ok(())
    }

    /// Forgets what is not held any more.
    pub(crate) fn keep_only(&mut self, store: &Store) {
        self.decoded.retain(|id, versions| {
            versions.retain(|(version, _)| {
                let taken = store.taken(id.0, &id.1).is_some_and(|held| held.version == *version);
                let pending = store.pending().get(id).and_then(Option::as_ref);
                taken || pending.is_some_and(|held| held.version == *version)
            });
            !versions.is_empty()
        });
    }

    /// What is held, decoded.
    pub(crate) fn get(&self, id: &Id, held: &Held) -> Option<&Arc<Decoded>> {
        self.decoded.get(id)?.iter().find(|(version, _)| *version == held.version).map(|(_, decoded)| decoded)
    }

    /// Names that resources refer to and that have to be asked for.
    pub(crate) fn references<'a>(
        &'a self,
        resources: impl Iterator<Item = (Id, &'a Held)> + 'a,
    ) -> impl Iterator<Item = Id> + 'a {
        let bundle = self.bundle.then(|| (Kind::Secret, Arc::from(ROOTS)));
        bundle
            .into_iter()
            .chain(resources.flat_map(|(id, held)| self.get(&id, held).map(|of| needs(of)).unwrap_or_default()))
    }

    /// What waits for others that are not there, with what it waits for.
    pub(crate) fn missing(&self, store: &Store) -> BTreeMap<Id, String> {
        let effective = store.effective(&BTreeSet::new());
        let mut missing = BTreeMap::new();
        for (id, held) in &effective {
            let Some(decoded) = self.get(id, held) else { continue };
            let absent = needs(decoded).into_iter().find(|needed| !effective.contains_key(needed));
            if let Some((kind, name)) = absent {
                missing.insert(id.clone(), format!("{} `{name}`", super::status::label(kind)));
            }
        }
        missing
    }

    /// The clusters in effect that have any of these endpoints. One look at all of them, however many change.
    pub(crate) fn clusters_with(&self, store: &Store, endpoints: &BTreeSet<&Arc<str>>) -> Vec<Arc<str>> {
        let mut clusters = Vec::new();
        for (kind, name, held) in store.accepted().filter(|(kind, ..)| *kind == Kind::Cluster) {
            let Some(decoded) = self.get(&(kind, Arc::clone(name)), held) else { continue };
            if let What::Cluster(cluster) = &decoded.what
                && cluster.discovers_endpoints.as_ref().is_some_and(|source| endpoints.contains(source))
            {
                clusters.push(Arc::clone(name));
            }
        }
        clusters
    }

    /// The newest endpoints of a cluster in effect.
    pub(crate) fn endpoints(&self, store: &Store, cluster: &Arc<str>) -> Option<Vec<Endpoint>> {
        let id = (Kind::Cluster, Arc::clone(cluster));
        let decoded = self.get(&id, store.taken(Kind::Cluster, cluster)?)?;
        let What::Cluster(of) = &decoded.what else { return None };
        let id = (Kind::Endpoints, Arc::clone(of.discovers_endpoints.as_ref()?));
        let held = store.pending().get(&id).and_then(Option::as_ref).or_else(|| store.taken(id.0, &id.1))?;
        match &self.get(&id, held)?.what {
            What::Endpoints(endpoints) => Some(endpoints.to_vec()),
            What::Listener(_) | What::Routes(_) | What::Cluster(_) | What::Secret => None,
        }
    }

    /// The bundle of the mesh that came last (PEM), where it is the control plane that says it.
    pub(crate) fn trust_bundle(&self, store: &Store) -> Option<String> {
        let id = (Kind::Secret, Arc::from(ROOTS));
        let held = store.pending().get(&id).and_then(Option::as_ref).or_else(|| store.taken(id.0, &id.1))?;
        let content = self.get(&id, held).filter(|_| self.bundle)?.files.first()?.content.clone();
        String::from_utf8(content).ok()
    }

    /// A bundle that is not good.
    pub(crate) fn bundle_refusal(problem: String) -> Refusal {
        let field = "validation_context.trusted_ca".to_owned();
        Refusal { kind: Kind::Secret, name: ROOTS.into(), field, reason: problem }
    }

    /// What takes effect when `without` is left out, on a process with these settings. Files that it names are there
    /// afterwards.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn assemble(
        &self,
        store: &Store,
        without: &BTreeSet<Id>,
        settings: &Settings,
    ) -> Result<Config, Vec<Refusal>> {
        let effective = store.effective(without);
        let mut parts = Parts::default();
        let mut refusals = Vec::new();
        for (id, held) in &effective {
            let Some(decoded) = self.get(id, held) else { continue };
            let complete = |decoded: &Decoded| needs(decoded).iter().all(|needed| effective.contains_key(needed));
            let decoded = if complete(decoded) {
                decoded
            } else {
                // What was there before and is complete stays until this is.
                let before = store.taken(id.0, &id.1).and_then(|held| self.get(id, held));
                let Some(before) = before.filter(|before| complete(before)) else { continue };
                before
            };
            parts.insert(&id.1, decoded);
            for File { path, content } in &decoded.files {
                if let Err(error) = files::keep(path, content) {
                    let reason = format!("`{}` cannot be written: {error}", path.display());
                    refusals.push(Refusal { kind: id.0, name: Arc::clone(&id.1), field: String::new(), reason });
                }
            }
        }
        if !refusals.is_empty() {
            return Err(refusals);
        }
        outrigger_xds::assemble(settings, &parts).map(|assembled| assembled.config).map_err(owns)
    }

    /// Whose fault broken rules are.
    pub(crate) fn attribute_rules(problems: &[Problem]) -> Vec<Refusal> {
        owns(problems.iter().filter_map(decode::Refusal::of).collect())
    }

    /// Whose fault bad files are: of the secret that brought them, or of whoever names them.
    pub(crate) fn attribute_material(&self, store: &Store, errors: &[MaterialError]) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        let effective = store.effective(&BTreeSet::new());
        for error in errors {
            let brings = |decoded: &Decoded| decoded.files.iter().any(|file| file.path == error.file);
            for (id, held) in &effective {
                let Some(decoded) = self.get(id, held) else { continue };
                if brings(decoded) || paths(&decoded.what).contains(&error.file) {
                    let (kind, name) = id.clone();
                    let reason = format!("`{}`: {}; {}", error.file.display(), error.problem, error.fix);
                    refusals.push(Refusal { kind, name, field: "transport_socket".to_owned(), reason });
                }
            }
        }
        refusals
    }
}

/// What has to be there before this can take effect.
fn needs(decoded: &Decoded) -> Vec<Id> {
    let mut needs: Vec<Id> = decoded.secrets.iter().map(|name| (Kind::Secret, Arc::clone(name))).collect();
    match &decoded.what {
        What::Listener(listener) => {
            needs.extend(listener.discovers_routes().map(|name| (Kind::Route, Arc::clone(name))));
        }
        What::Cluster(cluster) => {
            needs.extend(cluster.discovers_endpoints.as_ref().map(|name| (Kind::Endpoints, Arc::clone(name))));
        }
        What::Routes(_) | What::Endpoints(_) | What::Secret => {}
    }
    needs
}

/// The files that a resource names.
fn paths(what: &What) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    match what {
        What::Listener(listener) => {
            if let Some(tls) = &listener.listener.tls {
                for files in &tls.certificates {
                    paths.extend([files.certificate.clone(), files.private_key.clone()]);
                }
                if let ClientTrust::Roots(roots) = &tls.client_trust {
                    paths.push(roots.clone());
                }
            }
        }
        What::Cluster(cluster) => {
            if let Some(tls) = &cluster.cluster.tls
                && let ClusterTlsMode::Simple { trust_bundle, certificate, .. } = &tls.mode
            {
                paths.push(trust_bundle.clone());
                if let Some(files) = certificate {
                    paths.extend([files.certificate.clone(), files.private_key.clone()]);
                }
            }
        }
        What::Routes(_) | What::Endpoints(_) | What::Secret => {}
    }
    paths
}

fn owns(refusals: Vec<decode::Refusal>) -> Vec<Refusal> {
    let own = |refusal: decode::Refusal| {
        let decode::Refusal { type_url, name, field, reason } = refusal;
        Some(Refusal { kind: Kind::from_type_url(&type_url)?, name: name.into(), field, reason })
    };
    refusals.into_iter().filter_map(own).collect()
}
