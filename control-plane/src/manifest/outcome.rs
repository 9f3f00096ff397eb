//! What comes out of reading manifests: the mesh, what was wrong and whose it is, and the status of each object.

use std::sync::Arc;

use outrigger_config::model::Place;
use outrigger_config::{Diagnostic, Severity};
use serde::Serialize;

use super::{Mesh, ObjectId};

/// A text with manifests, and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The name of its file, or of what it was pushed as; used in places.
    pub name: Arc<str>,
    /// The line of the file on which the text begins, from 1.
    pub line: u32,
    /// The text.
    pub text: Arc<str>,
}

impl Document {
    /// A whole file.
    #[must_use]
    pub fn new(name: &str, text: &str) -> Self {
        Self { name: name.into(), line: 1, text: text.into() }
    }
}

/// What came out of reading manifests.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The mesh: what was good, and the last accepted version of what was not.
    pub mesh: Arc<Mesh>,
    /// What was wrong, in the order of documents and places.
    pub problems: Vec<Problem>,
    /// How many more were found than are listed.
    pub left_out: usize,
    /// What each object came to, in their order.
    pub statuses: Vec<ObjectStatus>,
    /// What differs from the mesh before.
    pub changes: Vec<Change>,
}

impl Outcome {
    /// Whether anything was an error. A push is refused as a whole then.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.left_out > 0 || self.problems.iter().any(|problem| problem.diagnostic.severity == Severity::Error)
    }
}

/// One problem.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Problem {
    /// The object that it is about, whose namespace is its team's. `None` where a text is no object at all.
    pub object: Option<ObjectId>,
    /// The document.
    pub document: Arc<str>,
    /// Place, words and fix.
    pub diagnostic: Diagnostic,
}

/// What differs between two meshes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The object.
    pub object: ObjectId,
    /// How it differs.
    pub how: Changed,
}

/// How an object differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Changed {
    /// It is new.
    Added,
    /// Its content differs.
    Changed,
    /// It is gone.
    Removed,
}

/// What an object came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectStatus {
    /// The object.
    pub object: ObjectId,
    /// Where it is written.
    #[serde(serialize_with = "place")]
    pub place: Place,
    /// Whether the version that is in force is an earlier one than the one that is written.
    pub kept: bool,
    /// Conditions of the object itself; routes have theirs for each parent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Routes: what became of it at each of its parents.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<ParentStatus>,
}

/// What became of a route at one parent.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentStatus {
    /// The Service, and the port where one is named: `shop/payments`, `shop/payments:8080`.
    pub parent: String,
    /// `Accepted`, `ResolvedRefs`, `PartiallyInvalid`.
    pub conditions: Vec<Condition>,
}

/// A condition as in the status of Kubernetes objects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Condition {
    /// Its type, such as `Accepted`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Whether it holds.
    pub status: bool,
    /// Why, in one word.
    pub reason: &'static str,
    /// Why, in a sentence; empty where there is nothing to say.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

impl Condition {
    /// A condition that holds.
    #[must_use]
    pub fn yes(kind: &'static str, reason: &'static str) -> Self {
        Self { kind, status: true, reason, message: String::new() }
    }

    /// A condition that does not hold.
    #[must_use]
    pub fn no(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, status: false, reason, message: message.into() }
    }
}

fn place<S: serde::Serializer>(place: &Place, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{}:{}:{}", place.file, place.line, place.column))
}
