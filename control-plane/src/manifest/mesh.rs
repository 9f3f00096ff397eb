//! All objects of a mesh, and what is asked about them.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use outrigger_config::model::Place;
use outrigger_config::spiffe::{SpiffeId, TrustDomain};

use super::object::{MeshPolicy, RateLimiter, Selector, Service, Spec, Workload};
use super::read::Item;
use super::resolve::Resolved;
use super::{Change, Changed, DEFAULT_TRUST_DOMAIN, Document, Kind, MESH_NAMESPACE, Name, Object, ObjectId};

/// A document and what is in it.
pub(super) type ReadDocument = (Document, Arc<Vec<Item>>);

/// Accepted objects. Cheap to share; never changed.
#[derive(Default)]
pub struct Mesh {
    pub(super) objects: BTreeMap<ObjectId, Arc<Object>>,
    /// Policies that could not be read and of which there is no earlier version: what they are for is refused.
    pub(super) closed: Vec<Closed>,
    pub(super) resolved: Resolved,
    /// What was read from which document, so that a document that did not change is not read again.
    pub(super) read: HashMap<(Arc<str>, u32), ReadDocument>,
}

/// Which workloads a policy is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope<'a> {
    /// The policy's namespace.
    pub namespace: &'a str,
    /// Its selector.
    pub selector: Option<&'a Selector>,
}

impl Scope<'_> {
    /// Whether it takes a workload in.
    #[must_use]
    pub fn takes(self, workload: &Object) -> bool {
        (self.namespace == MESH_NAMESPACE || self.namespace == workload.id.namespace())
            && self.selector.is_none_or(|selector| selects(selector, &workload.labels))
    }

    /// How particular it is: the mesh, a namespace, workloads.
    #[must_use]
    pub fn level(self) -> u8 {
        match (self.selector, self.namespace) {
            (Some(_), _) => 2,
            (None, MESH_NAMESPACE) => 0,
            (None, _) => 1,
        }
    }
}

/// Whether labels have all that a selector asks for.
#[must_use]
pub(crate) fn selects(selector: &Selector, labels: &BTreeMap<Arc<str>, Arc<str>>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// A policy that could not be read.
#[derive(Debug, Clone, PartialEq)]
pub struct Closed {
    /// Which. A name that cannot be read is `?`.
    pub id: ObjectId,
    /// Its selector, as far as it could be read; `None`: all workloads of its namespace, or of the mesh.
    pub selector: Option<Selector>,
    /// Where it is written.
    pub place: Place,
}

impl Closed {
    /// Whether it is for workloads, and not for Services.
    #[must_use]
    pub fn is_of_workloads(&self) -> bool {
        self.id.kind != Kind::BackendTlsPolicy
    }

    /// What it is for.
    #[must_use]
    pub fn scope(&self) -> Scope<'_> {
        Scope { namespace: self.id.namespace(), selector: self.selector.as_ref() }
    }
}

impl Mesh {
    /// Every object, by kind, namespace and name.
    pub fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.objects.values()
    }

    /// One object.
    #[must_use]
    pub fn get(&self, id: &ObjectId) -> Option<&Arc<Object>> {
        self.objects.get(id)
    }

    /// How many objects there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Policies that could not be read, and of which there is no earlier version.
    #[must_use]
    pub fn closed(&self) -> &[Closed] {
        &self.closed
    }

    /// Texts which, loaded, give these objects again, with the same places.
    #[must_use]
    pub fn documents(&self) -> Vec<Document> {
        self.objects.values().map(|object| object.source.clone()).collect()
    }

    /// What differs from an earlier mesh.
    #[must_use]
    pub fn changes_since(&self, before: &Self) -> Vec<Change> {
        let mut out: Vec<Change> = Vec::new();
        let mut note = |object: &ObjectId, how| out.push(Change { object: object.clone(), how });
        for (id, object) in &self.objects {
            match before.objects.get(id) {
                None => note(id, Changed::Added),
                Some(other) if Arc::ptr_eq(other, object) || other == object => {}
                Some(_) => note(id, Changed::Changed),
            }
        }
        for id in before.objects.keys().filter(|id| !self.objects.contains_key(*id)) {
            note(id, Changed::Removed);
        }
        out.sort_by(|a, b| a.object.cmp(&b.object));
        out
    }

    /// Objects of a kind, by namespace and name.
    pub(crate) fn of(&self, kind: Kind) -> impl Iterator<Item = &Arc<Object>> {
        self.objects
            .range(ObjectId::new(kind, "", "")..)
            .map(|(_, object)| object)
            .take_while(move |o| o.id.kind == kind)
    }

    /// Objects of a kind in a namespace, by name.
    pub(crate) fn within(&self, kind: Kind, namespace: &str) -> impl Iterator<Item = &Arc<Object>> {
        let from = ObjectId::new(kind, namespace, "");
        self.objects
            .range(from.clone()..)
            .map(|(_, object)| object)
            .take_while(move |object| object.id.kind == kind && object.id.name.namespace == from.name.namespace)
    }

    /// Services, by namespace and name.
    pub fn services(&self) -> impl Iterator<Item = (&Arc<Object>, &Service)> {
        self.of(Kind::Service).filter_map(|object| match &object.spec {
            Spec::Service(service) => Some((object, service)),
            _ => None,
        })
    }

    /// One Service.
    #[must_use]
    pub fn service(&self, name: &Name) -> Option<(&Arc<Object>, &Service)> {
        let object = self.objects.get(&ObjectId { kind: Kind::Service, name: name.clone() })?;
        match &object.spec {
            Spec::Service(service) => Some((object, service)),
            _ => None,
        }
    }

    /// Workloads, by namespace and name.
    pub fn workloads(&self) -> impl Iterator<Item = (&Arc<Object>, &Workload)> {
        self.of(Kind::Workload).filter_map(|object| match &object.spec {
            Spec::Workload(workload) => Some((object, workload)),
            _ => None,
        })
    }

    /// One Workload.
    #[must_use]
    pub fn workload(&self, name: &Name) -> Option<(&Arc<Object>, &Workload)> {
        let object = self.objects.get(&ObjectId { kind: Kind::Workload, name: name.clone() })?;
        match &object.spec {
            Spec::Workload(workload) => Some((object, workload)),
            _ => None,
        }
    }

    /// MeshPolicies, the one that decides first of those at one level first.
    pub(crate) fn mesh_policies(&self) -> Vec<(&Arc<Object>, &MeshPolicy)> {
        let mut out: Vec<_> = self
            .of(Kind::MeshPolicy)
            .filter_map(|object| match &object.spec {
                Spec::Mesh(policy) => Some((object, policy)),
                _ => None,
            })
            .collect();
        out.sort_by(|(a, _), (b, _)| a.seniority().cmp(&b.seniority()));
        out
    }

    /// Services that keep rate limits, by their names. Of two with one name the senior policy's counts.
    pub(crate) fn rate_limiters(&self) -> BTreeMap<&Arc<str>, (&Arc<Object>, &RateLimiter)> {
        let mut out = BTreeMap::new();
        for (object, policy) in self.mesh_policies() {
            for limiter in &policy.rate_limit_services {
                out.entry(&limiter.name).or_insert((object, limiter));
            }
        }
        out
    }

    /// The trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> TrustDomain {
        let written = self.mesh_policies().into_iter().find_map(|(_, policy)| policy.trust_domain.as_ref());
        written
            .map(|set| set.value.clone())
            .unwrap_or_else(|| TrustDomain::parse(DEFAULT_TRUST_DOMAIN).expect("the default trust domain is one"))
    }

    /// The identity of a service account.
    #[must_use]
    pub fn identity(&self, namespace: &str, account: &str) -> SpiffeId {
        let text = format!("spiffe://{}/ns/{namespace}/sa/{account}", self.trust_domain().as_str());
        SpiffeId::parse(&text).expect("namespaces and accounts are checked, and segments of a path")
    }
}

impl PartialEq for Mesh {
    fn eq(&self, other: &Self) -> bool {
        self.objects == other.objects && self.closed == other.closed
    }
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mesh").field("objects", &self.objects.len()).field("closed", &self.closed).finish()
    }
}
