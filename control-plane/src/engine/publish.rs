//! From a mesh to what each proxy is given, on a thread of its own.
//!
//! The newest mesh wins: when several are handed over while one is being compiled, those between are never compiled.
//! Whoever looks sees the last one that is ready. What did not change for a client is the same `Arc` as before, down to the
//! single resource, so that an unchanged proxy costs nothing and a changed endpoint is one resource.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use outrigger_xds::{Kind, Resource, encode};
use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use super::explain::{self, Asked, Story};
use super::impact::{self, Impact};
use crate::ca::{Bundle, Registered, Registrations};
use crate::compile::{Compiler, ProxyConfig};
use crate::fleet::{Change, Client, Form, ResourceSet, Resources, Source};
use crate::manifest::Mesh;
use crate::peer::WorkloadKey;

/// Every form, in the order of the slots of [`Given`].
const FORMS: [Form; 3] = [Form::Outrigger, Form::Envoy, Form::Grpc];

/// Compiles meshes and gives out what comes of them. Clones are the same; the thread ends with [`Publisher::stop`].
#[derive(Clone)]
pub struct Publisher(Arc<Inner>);

struct Inner {
    orders: Mutex<Orders>,
    ordered: Condvar,
    current: ArcSwap<Published>,
    changes: watch::Sender<Change>,
    /// The orders of which everybody has been told.
    told: watch::Sender<u64>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// For questions of what would be: one at a time, and nothing else waits for them.
    rehearsing: Mutex<Compiler>,
}

/// What the thread is to do next.
#[derive(Default)]
struct Orders {
    /// How many orders there were.
    count: u64,
    /// A mesh that is not compiled yet.
    mesh: Option<(u64, Arc<Mesh>)>,
    /// Roots that are not published yet.
    roots: Option<Arc<Bundle>>,
    stop: bool,
}

/// Everything that proxies are given.
#[derive(Default)]
struct Published {
    /// 0 before the first.
    generation: u64,
    /// False before the first.
    ready: bool,
    mesh: Arc<Mesh>,
    workloads: HashMap<WorkloadKey, Arc<Given>>,
    /// The roots as they travel, and their version as the authority has it.
    roots: Option<(Arc<Resource>, String)>,
    secrets: Arc<Resources>,
    took: Duration,
}

/// What one workload's proxy is given.
struct Given {
    generation: u64,
    service_account: Arc<str>,
    spiffe_id: String,
    config: Arc<ProxyConfig>,
    secrets: Arc<Resources>,
    /// By form; made when the first client of a form asks, and from then on with each generation.
    sets: [OnceLock<Arc<ResourceSet>>; FORMS.len()],
}

/// Why a request is not explained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unexplained {
    /// There is no such workload.
    Unknown,
    /// Nothing is compiled yet.
    NotYet,
    /// The question is wrong, in a sentence.
    Question(String),
}

impl Publisher {
    /// Starts the thread. `roots` are those of the mesh.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start(roots: Arc<Bundle>) -> std::io::Result<Self> {
        let (changes, _) = watch::channel(Change::default());
        let orders = Orders { count: 1, roots: Some(roots), ..Orders::default() };
        let inner = Arc::new(Inner {
            orders: Mutex::new(orders),
            ordered: Condvar::new(),
            current: ArcSwap::default(),
            changes,
            told: watch::Sender::new(0),
            thread: Mutex::default(),
            rehearsing: Mutex::default(),
        });
        let work = Arc::clone(&inner);
        let thread = thread::Builder::new().name("compile".to_owned()).spawn(move || work.run())?;
        *inner.thread.lock() = Some(thread);
        Ok(Self(inner))
    }

    /// Hands over the mesh of a generation. Does not wait.
    pub fn publish(&self, generation: u64, mesh: Arc<Mesh>) {
        let mut orders = self.0.orders.lock();
        orders.count += 1;
        orders.mesh = Some((generation, mesh));
        drop(orders);
        self.0.ordered.notify_one();
    }

    /// Hands over new roots. Does not wait.
    pub fn publish_roots(&self, roots: Arc<Bundle>) {
        let mut orders = self.0.orders.lock();
        orders.count += 1;
        orders.roots = Some(roots);
        drop(orders);
        self.0.ordered.notify_one();
    }

    /// Ends the thread. What it is compiling is finished first. Blocks.
    pub fn stop(&self) {
        self.0.orders.lock().stop = true;
        self.0.ordered.notify_one();
        let thread = self.0.thread.lock().take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the thread that compiles has panicked");
        }
    }

    /// Whether anything is published.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.current.load().ready
    }

    /// Waits until a mesh is published, and everything that was handed over, and everybody has been told of it. Cancel safe.
    pub async fn settled(&self) {
        let mut told = self.0.told.subscribe();
        let settled = told.wait_for(|told| self.is_ready() && *told == self.0.orders.lock().count);
        // Cannot fail: what would be dropped is borrowed.
        let _ = settled.await;
    }

    /// The generation that proxies are given; 0 before the first.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.0.current.load().generation
    }

    /// Whether the roots of this version are what proxies are given.
    #[must_use]
    pub fn has_roots(&self, version: &str) -> bool {
        self.0.current.load().roots.as_ref().is_some_and(|(_, known)| known == version)
    }

    /// How long the last compilation took.
    #[must_use]
    pub fn last_compile(&self) -> Duration {
        self.0.current.load().took
    }

    /// Whether a workload is registered.
    #[must_use]
    pub fn is_registered(&self, workload: &WorkloadKey) -> bool {
        self.0.current.load().workloads.contains_key(workload)
    }

    /// What a workload's proxy is given in a form. Blocks for as long as it takes to encode it.
    #[must_use]
    pub fn resources_of(&self, workload: &WorkloadKey, form: Form) -> Option<Arc<ResourceSet>> {
        Some(self.0.current.load().workloads.get(workload)?.set(form, None))
    }

    /// What a workload's proxy is not told in a form.
    #[must_use]
    pub fn left_out(&self, workload: &WorkloadKey, form: Form) -> Vec<String> {
        let current = self.0.current.load();
        current.workloads.get(workload).map_or_else(Vec::new, |compiled| compiled.config.left_out(form))
    }

    /// Explains a request.
    ///
    /// # Errors
    /// See [`Unexplained`].
    pub fn explain(&self, workload: &WorkloadKey, asked: &Asked) -> Result<Story, Unexplained> {
        let current = self.0.current.load();
        if !current.ready {
            return Err(Unexplained::NotYet);
        }
        let compiled = current.workloads.get(workload).ok_or(Unexplained::Unknown)?;
        explain::explain(&compiled.config.config(None), asked, workload.to_string(), compiled.generation)
            .map_err(Unexplained::Question)
    }

    /// What proxies would be given otherwise with one mesh instead of another. Compiles for all of them: blocks for a while.
    #[must_use]
    pub fn impact(&self, before: &Mesh, after: &Mesh) -> Impact {
        let mut compiler = self.0.rehearsing.lock();
        let before = compiler.compile(before);
        let after = compiler.compile(after);
        drop(compiler);
        impact::impact(before.workloads(), after.workloads())
    }
}

impl Source for Publisher {
    fn resources(&self, client: &Client) -> Option<Arc<ResourceSet>> {
        let current = self.0.current.load();
        let compiled = current.workloads.get(&client.workload)?;
        let known = client.spiffe_id.as_deref()?;
        (*known == *compiled.spiffe_id).then(|| compiled.set(client.form, None))
    }

    fn changes(&self) -> watch::Receiver<Change> {
        self.0.changes.subscribe()
    }
}

impl Registrations for Publisher {
    fn workload(&self, key: &WorkloadKey) -> Option<Registered> {
        let current = self.0.current.load();
        let compiled = current.workloads.get(key)?;
        Some(Registered {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            service_account: compiled.service_account.to_string(),
        })
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").field("generation", &self.generation()).finish_non_exhaustive()
    }
}

impl Inner {
    fn run(&self) {
        let mut compiler = Compiler::new();
        loop {
            let (count, mesh, roots) = {
                let mut orders = self.orders.lock();
                while orders.mesh.is_none() && orders.roots.is_none() && !orders.stop {
                    self.ordered.wait(&mut orders);
                }
                if orders.stop {
                    return;
                }
                (orders.count, orders.mesh.take(), orders.roots.take())
            };
            let began = Instant::now();
            let before = self.current.load_full();
            let roots = match roots {
                Some(roots) => Some((Arc::new(encode::trust_bundle(&roots.pem())), roots.version().to_owned())),
                None => before.roots.clone(),
            };
            let ready = before.ready || mesh.is_some();
            let order = mesh.unwrap_or_else(|| (before.generation, Arc::clone(&before.mesh)));
            let generation = order.0;
            let mut next = next(&before, &mut compiler, order, roots);
            next.ready = ready;
            next.took = began.elapsed();
            let change = what_changed(&before, &next);
            let (workloads, took) = (next.workloads.len(), next.took);
            self.current.store(Arc::new(next));
            self.changes.send_modify(|count| {
                count.endpoints += u64::from(change.endpoints);
                count.others += u64::from(change.others);
            });
            self.told.send_replace(count);
            tracing::debug!(generation, workloads, ?took, "published");
        }
    }
}

fn next(
    before: &Published,
    compiler: &mut Compiler,
    (generation, mesh): (u64, Arc<Mesh>),
    roots: Option<(Arc<Resource>, String)>,
) -> Published {
    let secrets = if roots == before.roots {
        Arc::clone(&before.secrets)
    } else {
        Arc::new(Resources::new(roots.iter().map(|(resource, _)| Arc::clone(resource))))
    };
    let compiled = compiler.compile(&mesh);
    let mut workloads = HashMap::new();
    for (name, config) in compiled.workloads() {
        let Some((_, workload)) = mesh.workload(name) else { continue };
        let Some(key) = WorkloadKey::new(&name.namespace, &name.name) else {
            tracing::error!(workload = %name, "a workload of this name can have no certificate, and gets nothing");
            continue;
        };
        let known = before.workloads.get(&key);
        let given = Given {
            generation,
            service_account: Arc::clone(&workload.service_account),
            spiffe_id: config.identity.to_string(),
            config: Arc::clone(config),
            secrets: Arc::clone(&secrets),
            sets: Default::default(),
        };
        // Forms that somebody reads are made here and not when the next one asks.
        if let Some(known) = known {
            for (form, slot) in FORMS.into_iter().zip(&known.sets) {
                if let Some(set) = slot.get() {
                    given.set(form, Some((known, set)));
                }
            }
        }
        workloads.insert(key, Arc::new(given));
    }
    Published { generation, ready: false, mesh, workloads, roots, secrets, took: Duration::ZERO }
}

/// Which of the two counters of [`Change`] go up.
struct Changed {
    endpoints: bool,
    others: bool,
}

fn what_changed(before: &Published, next: &Published) -> Changed {
    let same_workloads = before.workloads.len() == next.workloads.len();
    let mut changed =
        Changed { endpoints: false, others: !same_workloads || !Arc::ptr_eq(&before.secrets, &next.secrets) };
    for (key, given) in &next.workloads {
        let Some(known) = before.workloads.get(key) else {
            changed.others = true;
            continue;
        };
        let same_identity = known.spiffe_id == given.spiffe_id && known.service_account == given.service_account;
        changed.endpoints |= !given.config.same_endpoints(&known.config);
        changed.others |= !same_identity || !given.config.same_but_endpoints(&known.config);
    }
    // A generation that changes nothing for anybody is one that everybody has to hear of as well.
    changed.others |= !changed.endpoints;
    changed
}

impl Given {
    /// What is given in a form. `before` is what was given in it by the generation before.
    fn set(&self, form: Form, before: Option<(&Self, &Arc<ResourceSet>)>) -> Arc<ResourceSet> {
        let slot = match form {
            Form::Outrigger => &self.sets[0],
            Form::Envoy => &self.sets[1],
            Form::Grpc => &self.sets[2],
        };
        Arc::clone(slot.get_or_init(|| self.make(form, before)))
    }

    fn make(&self, form: Form, before: Option<(&Self, &Arc<ResourceSet>)>) -> Arc<ResourceSet> {
        let same = before.filter(|(known, _)| Arc::ptr_eq(&known.config, &self.config));
        if let Some((_, set)) = same {
            let kinds = Kind::ALL.into_iter().map(|kind| {
                let resources = if kind == Kind::Secret { &self.secrets } else { set.of(kind) };
                (kind, Arc::clone(resources))
            });
            return Arc::new(ResourceSet::new(self.generation, kinds));
        }
        let mut kinds: BTreeMap<Kind, Vec<Arc<Resource>>> = BTreeMap::new();
        for resource in self.config.resources(form) {
            kinds.entry(resource.kind).or_default().push(resource);
        }
        let kinds = Kind::ALL.into_iter().map(|kind| {
            if kind == Kind::Secret {
                return (kind, Arc::clone(&self.secrets));
            }
            let resources = Resources::new(kinds.remove(&kind).unwrap_or_default());
            let known = before.map(|(_, set)| set.of(kind)).filter(|known| known.version() == resources.version());
            (kind, known.cloned().unwrap_or_else(|| Arc::new(resources)))
        });
        Arc::new(ResourceSet::new(self.generation, kinds))
    }
}
