//! What a proxy gets, and how its server learns that this has changed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use outrigger_xds::encode::Form;
use outrigger_xds::{Kind, Resource};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use crate::peer::WorkloadKey;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Client {
    /// The workload, from the certificate.
    pub workload: WorkloadKey,
    /// The identity, from the certificate.
    pub spiffe_id: Option<Arc<str>>,
    /// What it can read, from its node message.
    pub form: Form,
}

/// All resources of one kind, by name, and their common version.
#[derive(Debug, PartialEq, Eq)]
pub struct Resources {
    by_name: BTreeMap<Arc<str>, Arc<Resource>>,
    version: Arc<str>,
}

impl Resources {
    /// The resources, under their names. Of two with one name the later stays.
    #[must_use]
    pub fn new(resources: impl IntoIterator<Item = Arc<Resource>>) -> Self {
        let by_name: BTreeMap<_, _> = resources.into_iter().map(|one| (Arc::clone(&one.name), one)).collect();
        let version = version_of(by_name.values());
        Self { by_name, version }
    }

    /// Each resource by its name.
    #[must_use]
    pub fn by_name(&self) -> &BTreeMap<Arc<str>, Arc<Resource>> {
        &self.by_name
    }

    /// A hash of names and versions: equal for equal contents.
    #[must_use]
    pub fn version(&self) -> &Arc<str> {
        &self.version
    }
}

impl Default for Resources {
    fn default() -> Self {
        Self::new([])
    }
}

/// Everything one client gets, shared: a kind that did not change is the same `Arc` in the next set.
#[derive(Debug, Clone)]
pub struct ResourceSet {
    /// The accepted generation of manifests that this comes from. Never counts down.
    pub generation: u64,
    kinds: [Arc<Resources>; Kind::ALL.len()],
}

impl ResourceSet {
    /// A set, from the resources of each kind; a kind that is not given is empty.
    #[must_use]
    pub fn new(generation: u64, kinds: impl IntoIterator<Item = (Kind, Arc<Resources>)>) -> Self {
        let mut set = Self { generation, kinds: std::array::from_fn(|_| Arc::default()) };
        for (kind, resources) in kinds {
            set.kinds[kind as usize] = resources;
        }
        set
    }

    /// A set, from resources of any kind.
    #[must_use]
    pub fn from_resources(generation: u64, resources: impl IntoIterator<Item = Arc<Resource>>) -> Self {
        let mut kinds: [Vec<Arc<Resource>>; Kind::ALL.len()] = Default::default();
        for resource in resources {
            kinds[resource.kind as usize].push(resource);
        }
        let kinds = Kind::ALL.into_iter().zip(kinds).map(|(kind, all)| (kind, Arc::new(Resources::new(all))));
        Self::new(generation, kinds)
    }

    /// The resources of one kind.
    #[must_use]
    pub fn of(&self, kind: Kind) -> &Arc<Resources> {
        &self.kinds[kind as usize]
    }
}

/// How often something has changed. Both only count up, so that one who looks late still knows what he missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Change {
    /// Changes of endpoints and nothing else: they are sent at once.
    pub endpoints: u64,
    /// All others, new generations among them: they are gathered for up to [`COALESCE`](crate::xds::limits::COALESCE).
    pub others: u64,
}

/// Where resources come from.
pub trait Source: Send + Sync + 'static {
    /// What this client gets now. None when its workload is not registered, or not with this identity.
    ///
    /// Called on every change for every connected client, from async code: it must answer from memory, and give the
    /// same `Arc` as long as nothing changed for this client.
    fn resources(&self, client: &Client) -> Option<Arc<ResourceSet>>;

    /// Counts up with every change, after [`Source::resources`] gives the new state.
    fn changes(&self) -> watch::Receiver<Change>;
}

/// The common version of some resources, in the order of their names.
pub(crate) fn version_of<'a>(resources: impl Iterator<Item = &'a Arc<Resource>>) -> Arc<str> {
    let mut hash = Sha256::new();
    for resource in resources {
        // Lengths keep two different lists from being the same bytes.
        hash.update(u64::try_from(resource.name.len()).unwrap_or(u64::MAX).to_le_bytes());
        hash.update(resource.name.as_bytes());
        hash.update(u64::try_from(resource.version.len()).unwrap_or(u64::MAX).to_le_bytes());
        hash.update(resource.version.as_bytes());
    }
    let version = hash.finalize().iter().take(8).fold(String::with_capacity(16), |mut out, byte| {
        // Writing to a string cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    });
    version.into()
}
