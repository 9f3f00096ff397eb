//! What happens on a push, a rollback, and a change of the watched directory.
//!
//! There is one mesh. Its objects are pushed, or stand in files of the watched directory; `Inputs` knows which. A
//! change makes new inputs, [`manifest::load`] reads all of them to a mesh, and if that is good it is stored as a new
//! generation, shown ([`View`]) and compiled for the proxies ([`Publisher`]). Changes are made one after the other;
//! whoever looks never waits for them.
//!
//! A push is taken whole or not at all. In the directory each object stands for itself: what is broken keeps its earlier
//! version, and the rest is taken.

use std::sync::Arc;

use arc_swap::ArcSwap;
use outrigger_config::spiffe::TrustDomain;
use outrigger_config::{Diagnostic, Severity};
use parking_lot::Mutex;

use self::inputs::Inputs;
use crate::manifest::{self, Changed, Document, Mesh, ObjectId, Outcome, Problem};
use crate::store::{
    AuditEntry, Generation, NewGeneration, NewObject, ObjectKey, Origin, Outcome as Ended, Role, Store, StoreError,
    Timestamp,
};

mod change;
mod directory;
mod explain;
mod impact;
mod inputs;
mod publish;
mod view;

pub use directory::{Directory, Found};
pub use explain::{Asked, BackendStory, Decision, Part, RuleStory, SettingStory, Story};
pub use impact::{Impact, ProxyImpact};
pub use publish::{Publisher, Unexplained};
pub use view::{DirectoryState, FileState, Held, View};

/// Who changes something.
#[derive(Debug, Clone)]
pub struct Actor {
    /// For the history and the audit log.
    pub who: String,
    /// What they may do.
    pub role: Role,
    /// Where they connect from.
    pub from: String,
}

/// Objects to add, change and remove.
#[derive(Debug, Clone, Default)]
pub struct Push {
    /// Texts whose objects are added, or changed.
    pub documents: Vec<Document>,
    /// Objects to remove. Each must be there.
    pub remove: Vec<ObjectId>,
    /// Texts whose objects are to be removed. Each must be there.
    pub remove_documents: Vec<Document>,
    /// Namespaces whose pushed objects are removed when they are not in `documents`.
    pub prune: Vec<String>,
    /// What for.
    pub message: String,
    /// Whether it is only asked what would happen.
    pub dry_run: bool,
}

/// What a change came to.
#[derive(Debug, Clone)]
pub struct Applied {
    /// The generation that was made. None for a dry run, and when nothing changes.
    pub generation: Option<u64>,
    /// The generation before; 0 for none.
    pub base: u64,
    /// Objects that change.
    pub altered: Vec<Altered>,
    /// What works but is probably not meant.
    pub warnings: Vec<Problem>,
    /// What it means for the proxies. Of a dry run only: it takes a while in a large mesh.
    pub impact: Impact,
}

/// An object that changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Altered {
    /// Which.
    pub id: ObjectId,
    /// Its text before; `None` for a new one.
    pub before: Option<Arc<str>>,
    /// Its text now; `None` for one that goes.
    pub after: Option<Arc<str>>,
}

/// Why nothing was changed.
#[derive(Debug)]
pub enum Refusal {
    /// The manifests are wrong.
    Invalid {
        /// Every problem.
        problems: Vec<Problem>,
        /// How many more there are.
        left_out: usize,
    },
    /// The actor may not.
    Forbidden(String),
    /// Something else stands in the way.
    Conflict(String),
    /// Something that should be changed is not there.
    NotFound(String),
    /// The store did not take it.
    Store(StoreError),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound(_) => Self::NotFound(error.to_string()),
            error => Self::Store(error),
        }
    }
}

/// The mesh of the control plane, and how it changes.
#[derive(Debug)]
pub struct Engine {
    store: Arc<dyn Store>,
    trust_domain: TrustDomain,
    /// Held by whoever changes something.
    inputs: Mutex<Inputs>,
    view: ArcSwap<View>,
    publisher: Publisher,
}

impl Engine {
    /// Loads the latest generation of `store`. Blocks. `trust_domain` is that of the authority: the mesh must not say
    /// another.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn open(store: Arc<dyn Store>, trust_domain: TrustDomain, publisher: Publisher) -> Result<Self, StoreError> {
        let generation = store.latest()?;
        let objects = match &generation {
            Some(generation) => store.objects(generation.number)?,
            None => Vec::new(),
        };
        let inputs = Inputs::restore(&objects, store.files()?);
        let outcome = manifest::load(&inputs.documents(), None);
        for problem in outcome.problems.iter().filter(|problem| problem.diagnostic.severity == Severity::Error) {
            tracing::error!(problem = %problem.diagnostic, "something in the store cannot be read any more");
        }
        let since = objects.into_iter().filter_map(|stored| Some((view::id_of(&stored.object.key)?, stored.since)));
        let view = View::new(generation, outcome, &inputs, &since.collect());
        publisher.publish(view.number(), Arc::clone(&view.mesh));
        Ok(Self { store, trust_domain, inputs: Mutex::new(inputs), view: ArcSwap::from_pointee(view), publisher })
    }

    /// The latest generation. Never waits.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// What proxies are given.
    #[must_use]
    pub fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// Whether what is stored is compiled, so that proxies can be served.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.publisher.is_ready()
    }

    /// How the watched directory stands; `None` when none is watched.
    #[must_use]
    pub fn directory(&self) -> Option<DirectoryState> {
        self.view.load().directory.clone()
    }

    /// Applies a push. Blocks.
    ///
    /// # Errors
    /// See [`Refusal`]; then nothing has changed.
    pub fn apply(&self, actor: &Actor, push: &Push) -> Result<Applied, Refusal> {
        let mut inputs = self.inputs.lock();
        let view = self.view.load_full();
        let planned = change::plan(actor, push, &inputs, &view)?;
        self.check_trust_domain(&planned.outcome.mesh)?;
        let altered = altered(&view, &planned.outcome);
        let applied = Applied {
            generation: None,
            base: view.number(),
            altered,
            warnings: planned.warnings,
            impact: Impact::default(),
        };
        if push.dry_run {
            // Others go on meanwhile.
            drop(inputs);
            let impact = self.publisher.impact(&view.mesh, &planned.outcome.mesh);
            return Ok(Applied { impact, ..applied });
        }
        if applied.altered.is_empty() {
            return Ok(applied);
        }
        let action = if push.documents.is_empty() { "delete" } else { "apply" };
        let step = Step { actor, action, source: Origin::Push, restores: None, message: &push.message };
        let number = self.accept(&step, &mut inputs, planned.inputs, planned.outcome)?;
        Ok(Applied { generation: Some(number), ..applied })
    }

    /// Makes a new generation with the objects of an earlier one. Files of the watched directory are as they were then
    /// until they are changed. Blocks.
    ///
    /// # Errors
    /// See [`Refusal`]; then nothing has changed.
    pub fn rollback(&self, actor: &Actor, number: u64, message: &str, dry_run: bool) -> Result<Applied, Refusal> {
        let mut inputs = self.inputs.lock();
        let view = self.view.load_full();
        let objects = self.store.objects(number)?;
        let restored = inputs.rolled_back_to(&objects);
        let outcome = manifest::load(&restored.documents(), Some(&view.mesh));
        let missing = |stored: &crate::store::StoredObject| {
            let object = view::id_of(&stored.object.key).and_then(|id| outcome.mesh.get(&id).cloned());
            object.is_none_or(|object| object.source.text != stored.object.text)
        };
        if objects.iter().any(missing) {
            let Outcome { problems, left_out, .. } = outcome;
            return Err(Refusal::Invalid { problems, left_out });
        }
        self.check_trust_domain(&outcome.mesh)?;
        let altered = altered(&view, &outcome);
        let applied =
            Applied { generation: None, base: view.number(), altered, warnings: Vec::new(), impact: Impact::default() };
        if dry_run {
            drop(inputs);
            let impact = self.publisher.impact(&view.mesh, &outcome.mesh);
            return Ok(Applied { impact, ..applied });
        }
        let message = if message.is_empty() { format!("back to generation {number}") } else { message.to_owned() };
        let step =
            Step { actor, action: "rollback", source: Origin::Rollback, restores: Some(number), message: &message };
        let number = self.accept(&step, &mut inputs, restored, outcome)?;
        Ok(Applied { generation: Some(number), ..applied })
    }

    /// Takes up what stands in the watched directory. Blocks.
    ///
    /// # Errors
    /// When the store does not take it; then nothing has changed, and it should be tried again.
    pub fn take_directory(&self, path: &str, found: Found) -> Result<(), StoreError> {
        let mut inputs = self.inputs.lock();
        let view = self.view.load_full();
        let Some((mut next, names)) = inputs.with_directory(path, found) else { return Ok(()) };
        let mut outcome = manifest::load(&next.documents(), Some(&view.mesh));
        let stolen = change::taken_over(&inputs, &next, &outcome);
        if !stolen.is_empty() {
            // Those files stay as they were, and say why.
            for (file, problems) in stolen {
                next.keep_file(&inputs, &file, problems);
            }
            outcome = manifest::load(&next.documents(), Some(&view.mesh));
        }
        if let Err(Refusal::Conflict(message)) = self.check_trust_domain(&outcome.mesh) {
            tracing::error!(message, "the watched directory was not taken");
            return Ok(());
        }
        let altered = altered(&view, &outcome);
        if altered.is_empty() {
            let since = view.since();
            let view = View::new(view.generation.clone(), outcome, &next, &since);
            log_problems(&view);
            *inputs = next;
            self.put_in_force(view);
            return Ok(());
        }
        let message = shorten(&names.join(", "));
        let actor = Actor { who: "directory".to_owned(), role: Role::Admin, from: String::new() };
        let step =
            Step { actor: &actor, action: "directory", source: Origin::Directory, restores: None, message: &message };
        match self.accept(&step, &mut inputs, next, outcome) {
            Ok(_) => {
                log_problems(&self.view.load());
                Ok(())
            }
            Err(Refusal::Store(error)) => Err(error),
            Err(_) => Ok(()),
        }
    }

    /// Stores a generation, then shows and compiles it.
    fn accept(&self, step: &Step<'_>, inputs: &mut Inputs, next: Inputs, outcome: Outcome) -> Result<u64, Refusal> {
        let view = self.view.load_full();
        let (mut puts, mut deletes) = (Vec::new(), Vec::new());
        for change in outcome.mesh.changes_since(&view.mesh) {
            let id = change.object;
            match (change.how, outcome.mesh.get(&id)) {
                (Changed::Removed, _) | (_, None) => deletes.push(view::key_of(&id)),
                (Changed::Added | Changed::Changed, Some(object)) => puts.push(NewObject {
                    key: view::key_of(&id),
                    text: Arc::clone(&object.source.text),
                    file: Arc::clone(&object.source.name),
                    line: object.source.line,
                    origin: next.origin(&id),
                }),
            }
        }
        let mut since = view.since();
        let number = view.number() + 1;
        for key in &deletes {
            view::id_of(key).map(|id| since.remove(&id));
        }
        for object in &puts {
            view::id_of(&object.key).map(|id| since.insert(id, number));
        }
        let at = Timestamp::now();
        let generation = self.store.accept(NewGeneration {
            base: view.number(),
            who: step.actor.who.clone(),
            at,
            source: step.source,
            restores: step.restores,
            message: step.message.to_owned(),
            files: next.superseded_since(inputs),
            audit: AuditEntry {
                at,
                who: step.actor.who.clone(),
                from: step.actor.from.clone(),
                action: step.action.to_owned(),
                subject: format!("generation {number}"),
                outcome: Ended::Done,
                detail: shorten(&told(&puts, &deletes)),
            },
            puts,
            deletes,
        })?;
        let Generation { number, added, changed, removed, .. } = &generation;
        let (who, source) = (&step.actor.who, step.source.as_str());
        tracing::info!(generation = number, who, source, added, changed, removed, "accepted");
        let number = *number;
        let view = View::new(Some(generation), outcome, &next, &since);
        *inputs = next;
        self.put_in_force(view);
        Ok(number)
    }

    /// The view goes first: whoever is told of a generation that proxies are given finds it, or a later one, here.
    fn put_in_force(&self, view: View) {
        let (number, mesh) = (view.number(), Arc::clone(&view.mesh));
        self.view.store(Arc::new(view));
        self.publisher.publish(number, mesh);
    }

    /// Identities that are compiled in must be the ones that are issued.
    fn check_trust_domain(&self, mesh: &Mesh) -> Result<(), Refusal> {
        let (wanted, is) = (mesh.trust_domain(), &self.trust_domain);
        if wanted == *is || mesh.workloads().next().is_none() {
            return Ok(());
        }
        let (wanted, is) = (wanted.as_str(), is.as_str());
        Err(Refusal::Conflict(format!(
            "the trust domain of the mesh is {wanted}, and the authority of this control plane is that of {is}: name that \
             one in a MeshPolicy, or start the control plane with --trust-domain {wanted}"
        )))
    }
}

/// What a change is called in history and audit.
struct Step<'a> {
    actor: &'a Actor,
    action: &'static str,
    source: Origin,
    restores: Option<u64>,
    message: &'a str,
}

fn altered(view: &View, outcome: &Outcome) -> Vec<Altered> {
    let text = |mesh: &Mesh, id: &ObjectId| mesh.get(id).map(|object| Arc::clone(&object.source.text));
    let changes = outcome.mesh.changes_since(&view.mesh).into_iter().map(|change| Altered {
        before: text(&view.mesh, &change.object),
        after: text(&outcome.mesh, &change.object),
        id: change.object,
    });
    changes.collect()
}

fn told(puts: &[NewObject], deletes: &[ObjectKey]) -> String {
    let puts = puts.iter().map(|object| format!("put {}", object.key));
    puts.chain(deletes.iter().map(|key| format!("removed {key}"))).collect::<Vec<_>>().join(", ")
}

/// No more than a few lines of a list.
fn shorten(text: &str) -> String {
    const MAX: usize = 1_000;
    match text.char_indices().nth(MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn log_problems(view: &View) {
    for FileState { file, namespaces, problems, .. } in view.directory.iter().flat_map(|directory| &directory.files) {
        let namespaces = namespaces.join(", ");
        let errors = problems.iter().filter(|problem| problem.diagnostic.severity == Severity::Error);
        for Problem { diagnostic: Diagnostic { place, message, .. }, .. } in errors {
            let (line, column) = (place.line, place.column);
            tracing::warn!(file, line, column, namespaces, message, "a file of the watched directory is wrong");
        }
    }
}

/// A problem at the beginning of a document.
fn at_document(document: &Document, id: Option<&ObjectId>, message: String, fix: &str) -> Problem {
    let place = outrigger_config::model::Place { file: Arc::clone(&document.name), line: document.line, column: 1 };
    let part = (&*document.text, document.line.saturating_sub(1));
    let diagnostic = Diagnostic::in_part(Severity::Error, &place, part, (message, fix.to_owned()));
    Problem { object: id.cloned(), document: Arc::clone(&document.name), diagnostic }
}

#[cfg(test)]
mod tests;
