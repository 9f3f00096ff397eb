//! Which documents make up the mesh: what was pushed, and the files of the watched directory.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::directory::{Found, Text};
use super::view;
use crate::manifest::{Document, ObjectId, Problem};
use crate::store::{Origin, StoredObject};

/// Everything that is read to a mesh.
#[derive(Debug, Clone, Default)]
pub(super) struct Inputs {
    /// Accepted pushed objects.
    pub(super) pushed: BTreeMap<ObjectId, Document>,
    /// Files of the watched directory, by their path in it.
    pub(super) files: BTreeMap<String, FileState>,
    /// The watched directory, once it was looked at.
    pub(super) directory: Option<String>,
}

/// A file of the watched directory.
#[derive(Debug, Clone, Default)]
pub(super) struct FileState {
    /// What is read of it: its whole text, or the objects that it had in a generation that was brought back.
    pub(super) documents: Vec<Document>,
    /// Of the text as it was last looked at; empty for a file that is not there.
    pub(super) hash: String,
    /// Whether `documents` are from another generation than the text is. They stay until the text changes.
    pub(super) superseded: bool,
    /// What is wrong with the file as a whole.
    pub(super) problems: Vec<Problem>,
}

impl Inputs {
    /// What was stored, before the directory was looked at.
    pub(super) fn restore(objects: &[StoredObject], superseded: BTreeMap<String, String>) -> Self {
        let mut inputs = Self::default();
        inputs.put(objects);
        for (file, hash) in superseded {
            let state = inputs.files.entry(file).or_default();
            (state.hash, state.superseded) = (hash, true);
        }
        inputs
    }

    fn put(&mut self, objects: &[StoredObject]) {
        for StoredObject { object, since: _ } in objects {
            let Some(id) = view::id_of(&object.key) else {
                tracing::error!(object = %object.key, "an object in the store is of a kind that is not known any more");
                continue;
            };
            let (name, text) = (Arc::clone(&object.file), Arc::clone(&object.text));
            let document = Document { name, line: object.line, text };
            match object.origin {
                Origin::Push | Origin::Rollback => _ = self.pushed.insert(id, document),
                Origin::Directory => {
                    self.files.entry(object.file.to_string()).or_default().documents.push(document);
                }
            }
        }
    }

    /// Everything that is to be read.
    pub(super) fn documents(&self) -> Vec<Document> {
        let files = self.files.values().flat_map(|file| &file.documents);
        self.pushed.values().chain(files).cloned().collect()
    }

    /// Where an object of the mesh comes from.
    pub(super) fn origin(&self, id: &ObjectId) -> Origin {
        if self.pushed.contains_key(id) { Origin::Push } else { Origin::Directory }
    }

    /// With the objects of another generation. Files that are there now say nothing until they change.
    pub(super) fn rolled_back_to(&self, objects: &[StoredObject]) -> Self {
        let mut next = Self { directory: self.directory.clone(), ..Self::default() };
        for (file, state) in &self.files {
            let state = FileState { hash: state.hash.clone(), superseded: true, ..FileState::default() };
            next.files.insert(file.clone(), state);
        }
        next.put(objects);
        for state in next.files.values_mut() {
            state.superseded = true;
        }
        next
    }

    /// With what was found in the directory, and the names of the files that differ. `None` when nothing does.
    pub(super) fn with_directory(&self, path: &str, found: Found) -> Option<(Self, Vec<String>)> {
        let mut next = Self { pushed: self.pushed.clone(), files: BTreeMap::new(), directory: Some(path.to_owned()) };
        let mut names = Vec::new();
        let mut before = self.files.clone();
        for (name, text) in found.files {
            let known = before.remove(&name);
            let state = match (text, known) {
                (Text::Read { hash, .. }, Some(known)) if known.hash == hash && known.problems.is_empty() => known,
                (Text::Read { hash, text }, _) => {
                    names.push(name.clone());
                    let documents = vec![Document { name: name.as_str().into(), line: 1, text }];
                    FileState { documents, hash, ..FileState::default() }
                }
                (Text::Failed(message), known) => {
                    let mut state = known.unwrap_or_default();
                    let document = Document::new(&name, "");
                    let fix = "check the file and its permissions";
                    let problem = super::at_document(&document, None, message, fix);
                    if state.problems != [problem.clone()] {
                        names.push(name.clone());
                    }
                    state.problems = vec![problem];
                    // Read again as soon as it can be.
                    state.hash = String::new();
                    state
                }
            };
            next.files.insert(name, state);
        }
        let is_unlisted = |name: &str| {
            let within = |folder: &String| name.strip_prefix(&**folder).is_some_and(|rest| rest.starts_with('/'));
            found.unlisted.iter().any(within)
        };
        for (name, state) in before {
            // What stands in a folder that cannot be listed is not gone.
            if is_unlisted(&name) {
                next.files.insert(name, state);
                continue;
            }
            // A file that is not there and was brought back by a rollback stays; others are gone.
            if state.superseded && state.hash.is_empty() {
                next.files.insert(name, state);
            } else {
                names.push(name);
            }
        }
        let first_look = self.directory.as_deref() != Some(path);
        (first_look || !names.is_empty()).then_some((next, names))
    }

    /// Leaves a file as it was, for these reasons.
    pub(super) fn keep_file(&mut self, before: &Self, file: &str, problems: Vec<Problem>) {
        let mut state = before.files.get(file).cloned().unwrap_or_default();
        state.problems = problems;
        self.files.insert(file.to_owned(), state);
    }

    /// Which files' hashes are to be stored, and which not any more: those that say nothing until they change.
    pub(super) fn superseded_since(&self, before: &Self) -> BTreeMap<String, Option<String>> {
        let superseded = |inputs: &Self| -> BTreeMap<String, String> {
            let files = inputs.files.iter().filter(|(_, state)| state.superseded);
            files.map(|(name, state)| (name.clone(), state.hash.clone())).collect()
        };
        let (now, then) = (superseded(self), superseded(before));
        let gone = then.into_keys().filter(|name| !now.contains_key(name)).map(|name| (name, None));
        let mut out: BTreeMap<String, Option<String>> = gone.collect();
        out.extend(now.into_iter().map(|(name, hash)| (name, Some(hash))));
        out
    }
}
