//! The latest generation, for whoever looks.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::inputs::Inputs;
use crate::api::problem;
use crate::api::wire::{DirectoryStatus, FileStatus};
use crate::manifest::{Document, Kind, Mesh, ObjectId, ObjectStatus, Outcome, Problem};
use crate::store::{Generation, ObjectKey, Origin};

/// A generation: its objects and what came of each.
#[derive(Debug)]
pub struct View {
    /// The generation; `None` before the first.
    pub generation: Option<Generation>,
    /// Its objects, resolved.
    pub mesh: Arc<Mesh>,
    /// What is wrong and was taken nevertheless: files of the directory.
    pub(super) problems: Vec<Problem>,
    pub(super) left_out: usize,
    pub(super) directory: Option<DirectoryStatus>,
    objects: BTreeMap<ObjectId, Held>,
    statuses: HashMap<ObjectId, ObjectStatus>,
}

/// An object of a generation.
#[derive(Debug, Clone)]
pub struct Held {
    /// Its text and where it is written.
    pub document: Document,
    /// Pushed, or from the directory.
    pub origin: Origin,
    /// The generation that brought it in this form.
    pub since: u64,
}

impl View {
    pub(super) fn new(
        generation: Option<Generation>,
        outcome: Outcome,
        inputs: &Inputs,
        since: HashMap<ObjectId, u64>,
    ) -> Self {
        let Outcome { mesh, problems, left_out, statuses, changes: _ } = outcome;
        let objects: BTreeMap<ObjectId, Held> = mesh
            .objects()
            .map(|object| {
                let id = object.id.clone();
                let (origin, since) = (inputs.origin(&id), since.get(&id).copied().unwrap_or(0));
                (id, Held { document: object.source.clone(), origin, since })
            })
            .collect();
        let directory = inputs.directory.as_ref().map(|path| directory(path, inputs, &objects, &problems));
        let statuses = statuses.into_iter().map(|status| (status.object.clone(), status)).collect();
        Self { generation, mesh, problems, left_out, directory, objects, statuses }
    }

    /// The number of the generation; 0 before the first.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.generation.as_ref().map_or(0, |generation| generation.number)
    }

    /// Every object, by kind, namespace and name.
    pub fn objects(&self) -> impl ExactSizeIterator<Item = (&ObjectId, &Held)> {
        self.objects.iter()
    }

    /// What came of an object.
    #[must_use]
    pub fn status(&self, id: &ObjectId) -> Option<&ObjectStatus> {
        self.statuses.get(id)
    }

    pub(super) fn held(&self, id: &ObjectId) -> Option<&Held> {
        self.objects.get(id)
    }

    pub(super) fn since(&self) -> HashMap<ObjectId, u64> {
        self.objects.iter().map(|(id, held)| (id.clone(), held.since)).collect()
    }
}

fn directory(
    path: &str,
    inputs: &Inputs,
    objects: &BTreeMap<ObjectId, Held>,
    problems: &[Problem],
) -> DirectoryStatus {
    let mut by_file: BTreeMap<&str, (BTreeSet<&str>, usize)> = BTreeMap::new();
    for (id, held) in objects.iter().filter(|(_, held)| held.origin == Origin::Directory) {
        let (namespaces, count) = by_file.entry(&held.document.name).or_default();
        namespaces.insert(id.namespace());
        *count += 1;
    }
    let files = inputs.files.iter().map(|(file, state)| {
        let (mut namespaces, count) = by_file.remove(&**file).unwrap_or_default();
        let own: Vec<&Problem> =
            state.problems.iter().chain(problems.iter().filter(|problem| *problem.document == **file)).collect();
        namespaces.extend(own.iter().filter_map(|problem| problem.object.as_ref()).map(ObjectId::namespace));
        FileStatus {
            file: file.clone(),
            namespaces: namespaces.into_iter().map(str::to_owned).collect(),
            objects: count,
            problems: own.into_iter().map(problem).collect(),
        }
    });
    DirectoryStatus { path: path.to_owned(), files: files.collect() }
}

pub(super) fn key_of(id: &ObjectId) -> ObjectKey {
    ObjectKey { kind: id.kind.as_str().into(), namespace: Arc::clone(&id.name.namespace), name: Arc::clone(&id.name.name) }
}

/// `None` for a kind that this program does not know.
pub(super) fn id_of(key: &ObjectKey) -> Option<ObjectId> {
    Some(ObjectId::new(Kind::named(&key.kind)?, &key.namespace, &key.name))
}
