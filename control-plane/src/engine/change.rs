//! What a push would make of the mesh, and whether it may.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use outrigger_config::Severity;

use super::inputs::Inputs;
use super::{Actor, Push, Refusal, View};
use crate::manifest::{self, Document, MESH_NAMESPACE, ObjectId, Outcome, Problem};
use crate::store::{Origin, Role};

/// A push that may be made.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) inputs: Inputs,
    pub(super) outcome: Outcome,
    pub(super) warnings: Vec<Problem>,
}

/// Looks at a push with the whole mesh.
pub(super) fn plan(actor: &Actor, push: &Push, inputs: &Inputs, view: &View) -> Result<Planned, Refusal> {
    let documents = named_apart(&push.documents, inputs);
    // Once by themselves, for the names of the objects.
    let alone = manifest::load(&documents, None);
    let named = names_in(&alone);
    let mut remove: BTreeSet<ObjectId> = push.remove.iter().cloned().collect();
    remove.extend(names(&push.remove_documents));
    // What is no manifest at all has problems, which are told below.
    let says_something = !named.is_empty() || !alone.problems.is_empty();
    if !says_something && remove.is_empty() && push.prune.is_empty() {
        return Err(Refusal::NotFound("there is no manifest in what was sent".to_owned()));
    }
    let namespaces = named.iter().chain(&remove).map(ObjectId::namespace).chain(push.prune.iter().map(String::as_str));
    may(actor, namespaces)?;
    for id in &remove {
        match view.held(id) {
            None => return Err(Refusal::NotFound(format!("there is no {id}"))),
            Some(held) if held.origin == Origin::Directory => return Err(in_directory(id, &held.document)),
            Some(_) => {}
        }
    }
    if let Some((id, held)) = named.iter().find_map(|id| {
        let held = view.held(id).filter(|held| held.origin == Origin::Directory)?;
        Some((id, held))
    }) {
        return Err(in_directory(id, &held.document));
    }

    let mut next = inputs.clone();
    next.pushed.retain(|id, _| {
        let pruned = push.prune.iter().any(|namespace| namespace == id.namespace());
        !pruned && !remove.contains(id) && !named.contains(id)
    });
    let mut all = next.documents();
    all.extend(documents.iter().cloned());
    let outcome = manifest::load(&all, Some(&view.mesh));
    let ours: HashSet<&Arc<str>> = documents.iter().map(|document| &document.name).collect();
    let (errors, warnings) = sort(&outcome.problems, &ours, view);
    // Errors that are not listed could be anybody's.
    if !errors.is_empty() || outcome.left_out > view.left_out {
        let problems = errors.into_iter().chain(warnings).collect();
        return Err(Refusal::Invalid { problems, left_out: outcome.left_out.saturating_sub(view.left_out) });
    }
    // Whatever the texts were taken to name: nothing else changes.
    may(actor, outcome.changes.iter().map(|change| change.object.namespace()))?;
    for id in &named {
        if let Some(object) = outcome.mesh.get(id) {
            next.pushed.insert(id.clone(), object.source.clone());
        }
    }
    Ok(Planned { inputs: next, outcome, warnings })
}

/// Errors that this push brings, and warnings about its own documents.
fn sort(problems: &[Problem], ours: &HashSet<&Arc<str>>, view: &View) -> (Vec<Problem>, Vec<Problem>) {
    let mut errors = Vec::new();
    let mut warnings = Vec::new();
    for problem in problems {
        match problem.diagnostic.severity {
            Severity::Error if ours.contains(&problem.document) || !view.problems.contains(problem) => {
                errors.push(problem.clone());
            }
            Severity::Warning if ours.contains(&problem.document) => warnings.push(problem.clone()),
            Severity::Error | Severity::Warning => {}
        }
    }
    (errors, warnings)
}

fn may<'a>(actor: &Actor, namespaces: impl Iterator<Item = &'a str>) -> Result<(), Refusal> {
    let forbidden = |namespace: &str| match &actor.role {
        Role::Admin => false,
        Role::Viewer => true,
        role @ Role::Pusher { .. } => namespace == MESH_NAMESPACE || !role.may_push(namespace),
    };
    let forbidden: BTreeSet<&str> = namespaces.filter(|namespace| forbidden(namespace)).collect();
    if forbidden.is_empty() {
        return Ok(());
    }
    let list = forbidden.iter().map(|namespace| format!("`{namespace}`")).collect::<Vec<_>>().join(", ");
    let mesh_wide = forbidden.contains(MESH_NAMESPACE);
    let why = if mesh_wide { ", which holds what is for the whole mesh and is an admin's" } else { "" };
    Err(Refusal::Forbidden(format!("{} may not change objects of namespace {list}{why}", actor.who)))
}

fn in_directory(id: &ObjectId, document: &Document) -> Refusal {
    let Document { name, line, .. } = document;
    Refusal::Conflict(format!("{id} stands in the watched directory, at {name}:{line}: change it there"))
}

/// The objects that documents name, broken ones too.
fn names(documents: &[Document]) -> BTreeSet<ObjectId> {
    if documents.is_empty() { BTreeSet::new() } else { names_in(&manifest::load(documents, None)) }
}

fn names_in(outcome: &Outcome) -> BTreeSet<ObjectId> {
    let broken = outcome.problems.iter().filter_map(|problem| problem.object.clone());
    outcome.mesh.objects().map(|object| object.id.clone()).chain(broken).collect()
}

/// The same documents under names that no file of the directory has: by its name a document is known.
fn named_apart(documents: &[Document], inputs: &Inputs) -> Vec<Document> {
    let apart = |document: &Document| {
        let taken = inputs.files.contains_key(&*document.name);
        let name = if taken { format!("{} (pushed)", document.name).into() } else { Arc::clone(&document.name) };
        Document { name, ..document.clone() }
    };
    documents.iter().map(apart).collect()
}

/// Pushed objects that a file of the directory now has as well: each such file, and what is to be said of it.
pub(super) fn taken_over(before: &Inputs, next: &Inputs, outcome: &Outcome) -> BTreeMap<String, Vec<Problem>> {
    let mut out: BTreeMap<String, Vec<Problem>> = BTreeMap::new();
    for (id, pushed) in &before.pushed {
        let doubled = outcome
            .problems
            .iter()
            .any(|problem| problem.object.as_ref() == Some(id) && problem.diagnostic.severity == Severity::Error);
        if !doubled {
            continue;
        }
        for (file, state) in next.files.iter().filter(|(_, state)| !state.documents.is_empty()) {
            if !names(&state.documents).contains(id) {
                continue;
            }
            let Some(document) = state.documents.first() else { continue };
            let message = format!("{id} was pushed, from {}:{}", pushed.name, pushed.line);
            let fix = "delete the pushed one first, or take it out of this file";
            out.entry(file.clone()).or_default().push(super::at_document(document, Some(id), message, fix));
        }
    }
    out
}
