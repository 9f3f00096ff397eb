//! Many objects to a mesh. What is broken is left out, and an earlier version of it stays.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use outrigger_config::{Diagnostic, Diagnostics, Severity};

use super::limits::{MAX_OBJECTS, MAX_PROBLEMS, MAX_TOTAL_BYTES};
use super::read::{self, Item};
use super::resolve::{Reading, Resolved};
use super::{Closed, Document, Mesh, Object, ObjectId, Outcome, Problem};

/// Reads a whole mesh: everything that there is, such as a directory. What is in none of the documents is gone, but for
/// the earlier version of what cannot be read.
#[must_use]
pub fn load(documents: &[Document], previous: Option<&Mesh>) -> Outcome {
    Loading::new(previous).run(documents, None, &HashSet::new())
}

/// Puts documents on top of a mesh: objects that they name are replaced or added, the others stay.
///
/// Everything that is good is taken; a push that is to be refused as a whole is one whose outcome
/// [has errors](Outcome::has_errors), and its mesh is then not used.
#[must_use]
pub fn apply(current: &Mesh, documents: &[Document]) -> Outcome {
    Loading::new(Some(current)).run(documents, Some(current), &HashSet::new())
}

/// Takes objects out of a mesh.
#[must_use]
pub fn remove(current: &Mesh, objects: &[ObjectId]) -> Outcome {
    let gone: HashSet<&ObjectId> = objects.iter().collect();
    Loading::new(Some(current)).run(&[], Some(current), &gone)
}

/// One load.
struct Loading<'a> {
    previous: Option<&'a Mesh>,
    mesh: Mesh,
    problems: Vec<Problem>,
    left_out: usize,
    /// Objects whose earlier version is in force.
    kept: HashSet<ObjectId>,
    /// Objects that are broken, and where.
    broken: BTreeMap<ObjectId, outrigger_config::model::Place>,
    /// Policies that cannot be read, by ids that are only guessed.
    guessed: Vec<Closed>,
}

impl<'a> Loading<'a> {
    fn new(previous: Option<&'a Mesh>) -> Self {
        let (mesh, problems, left_out) = (Mesh::default(), Vec::new(), 0);
        Self { previous, mesh, problems, left_out, kept: HashSet::new(), broken: BTreeMap::new(), guessed: Vec::new() }
    }

    /// What is in `base` stays unless a document names it or it is to go.
    fn run(mut self, documents: &[Document], base: Option<&Mesh>, gone: &HashSet<&ObjectId>) -> Outcome {
        let mut documents: Vec<&Document> = documents.iter().collect();
        documents.sort_by(|a, b| (&a.name, a.line, &a.text).cmp(&(&b.name, b.line, &b.text)));
        documents.dedup();
        let mut bytes = 0usize;
        let mut unread: HashSet<Arc<str>> = HashSet::new();
        for document in documents {
            bytes = bytes.saturating_add(document.text.len());
            if bytes > MAX_TOTAL_BYTES {
                let message = format!("the documents have more than {MAX_TOTAL_BYTES} bytes");
                self.note_file(&document.name, message, "leave out what the mesh does not need");
                unread.insert(Arc::clone(&document.name));
                continue;
            }
            let items = self.items(document);
            for item in items.iter() {
                self.take(document, item, &mut unread);
            }
            self.mesh.read.insert((Arc::clone(&document.name), document.line), (document.clone(), items));
        }
        for (id, object) in base.into_iter().flat_map(|base| &base.objects).filter(|(id, _)| !gone.contains(id)) {
            // One that is broken now stays as it was.
            if self.broken.contains_key(id) && !self.mesh.objects.contains_key(id) {
                self.kept.insert(id.clone());
            }
            self.mesh.objects.entry(id.clone()).or_insert_with(|| Arc::clone(object));
        }
        let closed = base.into_iter().flat_map(|base| &base.closed).filter(|closed| !gone.contains(&closed.id));
        self.mesh.closed.extend(closed.cloned());
        self.keep(&unread);
        self.finish()
    }

    /// What is in a document, from the load before where its text is the same.
    fn items(&self, document: &Document) -> Arc<Vec<Item>> {
        let key = (Arc::clone(&document.name), document.line);
        match self.previous.and_then(|previous| previous.read.get(&key)) {
            Some((same, items)) if same == document => Arc::clone(items),
            _ => Arc::new(read::read(document)),
        }
    }

    fn take(&mut self, document: &Document, item: &Item, unread: &mut HashSet<Arc<str>>) {
        self.note_all(item.id.as_ref(), &document.name, &item.problems);
        match (&item.object, &item.id) {
            (Some(object), _) if self.mesh.objects.len() >= MAX_OBJECTS => {
                let message = format!("the mesh has more than {MAX_OBJECTS} objects");
                self.note(object, Severity::Error, &object.place, message, "leave out what it does not need");
            }
            (Some(object), _) => match self.mesh.objects.get(&object.id) {
                Some(first) if first == object => {}
                Some(first) => {
                    let place = &first.place;
                    let message = format!("{} is written twice", object.id);
                    let fix = format!("keep one; the first one is at {}:{}", place.file, place.line);
                    self.note(object, Severity::Error, &object.place, message, &fix);
                }
                None => drop(self.mesh.objects.insert(object.id.clone(), Arc::clone(object))),
            },
            (None, Some(id)) => {
                self.broken.entry(id.clone()).or_insert_with(|| item.place.clone());
                if item.guessed {
                    unread.insert(Arc::clone(&document.name));
                }
                if id.kind.refuses_unread() {
                    // A selector is believed with the name of what it is of.
                    let selector = item.selector.clone().filter(|_| !item.guessed);
                    let closed = Closed { id: id.clone(), selector, place: item.place.clone() };
                    let list = if item.guessed { &mut self.guessed } else { &mut self.mesh.closed };
                    list.push(closed);
                }
            }
            (None, None) => {
                unread.insert(Arc::clone(&document.name));
            }
        }
    }

    /// Earlier versions of what is broken stay. Where a part of a document is no object at all, nobody knows which one it
    /// was, so whatever was in that document before stays.
    fn keep(&mut self, unread: &HashSet<Arc<str>>) {
        let mut missing = HashMap::new();
        if let Some(previous) = self.previous {
            for (id, object) in &previous.objects {
                let broken = self.broken.contains_key(id);
                if (broken || unread.contains(&object.source.name)) && !self.mesh.objects.contains_key(id) {
                    self.kept.insert(id.clone());
                    self.mesh.objects.insert(id.clone(), Arc::clone(object));
                    if !broken {
                        *missing.entry((Arc::clone(&object.source.name), id.kind)).or_default() += 1;
                    }
                }
            }
        }
        let objects = &self.mesh.objects;
        // What nobody knows is what is missing, which stays: but not when it is more.
        self.guessed.retain(|closed| !objects.contains_key(&closed.id));
        let from = |closed: &Closed| (Arc::clone(&closed.place.file), closed.id.kind);
        let mut unknown: HashMap<_, usize> = HashMap::new();
        self.guessed.iter().for_each(|closed| *unknown.entry(from(closed)).or_default() += 1);
        let more = |closed: &Closed| unknown[&from(closed)] > missing.get(&from(closed)).copied().unwrap_or(0);
        self.mesh.closed.extend(self.guessed.drain(..).filter(more));
        self.mesh.closed.retain(|closed| !objects.contains_key(&closed.id));
        self.mesh.closed.sort_by(|a, b| a.id.cmp(&b.id));
        self.mesh.closed.dedup_by(|a, b| a.id == b.id);
    }

    fn finish(mut self) -> Outcome {
        let reading = Reading { broken: &self.broken, kept: &self.kept };
        let (resolved, found) = Resolved::new(&self.mesh, &reading);
        for (id, severity, place, message, fix) in found.problems {
            if let Some(object) = self.mesh.objects.get(&id).cloned() {
                self.note(&object, severity, &place, message, &fix);
            }
        }
        self.mesh.resolved = resolved;
        self.problems.sort_by(|a, b| order(a).cmp(&order(b)));
        let changes = match self.previous {
            Some(previous) => self.mesh.changes_since(previous),
            None => self.mesh.changes_since(&Mesh::default()),
        };
        let (mesh, problems, left_out) = (Arc::new(self.mesh), self.problems, self.left_out);
        Outcome { mesh, problems, left_out, statuses: found.statuses, changes }
    }

    fn note_all(&mut self, id: Option<&ObjectId>, document: &Arc<str>, problems: &Diagnostics) {
        self.left_out += problems.left_out();
        for diagnostic in problems {
            self.push(Problem { object: id.cloned(), document: Arc::clone(document), diagnostic: diagnostic.clone() });
        }
    }

    fn note(
        &mut self,
        object: &Object,
        severity: Severity,
        place: &outrigger_config::model::Place,
        message: String,
        fix: &str,
    ) {
        let part = (&*object.source.text, object.source.line.saturating_sub(1));
        let diagnostic = Diagnostic::in_part(severity, place, part, (message, fix.to_owned()));
        let document = Arc::clone(&object.source.name);
        self.push(Problem { object: Some(object.id.clone()), document, diagnostic });
    }

    fn note_file(&mut self, name: &Arc<str>, message: String, fix: &str) {
        let diagnostic = Diagnostic::for_file(name, message, fix.to_owned());
        self.push(Problem { object: None, document: Arc::clone(name), diagnostic });
    }

    fn push(&mut self, problem: Problem) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        } else {
            self.left_out += 1;
        }
    }
}

fn order(problem: &Problem) -> (&str, u32, u32, &str) {
    let place = &problem.diagnostic.place;
    (&problem.document, place.line, place.column, &problem.diagnostic.message)
}
