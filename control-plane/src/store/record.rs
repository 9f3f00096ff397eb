//! What is stored.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// Names one object. Shown as `HTTPRoute shop/payments`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ObjectKey {
    /// Its kind: `HTTPRoute`.
    pub kind: Arc<str>,
    /// Its namespace; empty for kinds that are for the whole mesh.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// A key.
    #[must_use]
    pub fn new(kind: &str, namespace: &str, name: &str) -> Self {
        Self { kind: kind.into(), namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, namespace, name } = self;
        if namespace.is_empty() { write!(f, "{kind} {name}") } else { write!(f, "{kind} {namespace}/{name}") }
    }
}

/// Where an object, or a generation, comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Pushed over the API.
    Push,
    /// Found in the watched directory.
    Directory,
    /// An earlier generation, brought back. Of generations only.
    Rollback,
}

impl Origin {
    /// As it is stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Directory => "directory",
            Self::Rollback => "rollback",
        }
    }

    /// The inverse of [`Self::as_str`].
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Push, Self::Directory, Self::Rollback].into_iter().find(|origin| origin.as_str() == text)
    }
}

/// An object as it is put into a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewObject {
    /// Its name.
    pub key: ObjectKey,
    /// The document it was written as.
    pub text: Arc<str>,
    /// The file that it was written in.
    pub file: Arc<str>,
    /// The line of the file on which `text` begins, from 1.
    pub line: u32,
    /// [`Origin::Push`] or [`Origin::Directory`].
    pub origin: Origin,
}

/// An object of a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredObject {
    /// What was put.
    pub object: NewObject,
    /// The generation that brought it in this form.
    pub since: u64,
}

/// A generation to be stored: what it changes in the latest one.
#[derive(Debug, Clone)]
pub struct NewGeneration {
    /// The latest generation, which the change was made for; 0 for none.
    pub base: u64,
    /// Who: `token:deploy`, `spiffe://…`, `directory`.
    pub who: String,
    /// When.
    pub at: Timestamp,
    /// From where.
    pub source: Origin,
    /// The generation that is brought back, of a rollback.
    pub restores: Option<u64>,
    /// What for, in the words of who did it.
    pub message: String,
    /// New and changed objects.
    pub puts: Vec<NewObject>,
    /// Objects that are gone.
    pub deletes: Vec<ObjectKey>,
    /// Hashes of files of the watched directory that were looked at, by path; `None` for one that is gone.
    pub files: BTreeMap<String, Option<String>>,
    /// What the audit log says of it.
    pub audit: AuditEntry,
}

/// An accepted generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Generation {
    /// Its number, from 1, each one more than the one before.
    pub number: u64,
    /// Who made it.
    pub who: String,
    /// When.
    pub at: Timestamp,
    /// From where.
    pub source: Origin,
    /// The generation that was brought back, of a rollback.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restores: Option<u64>,
    /// What for.
    pub message: String,
    /// Objects that were new.
    pub added: u32,
    /// Objects that were different.
    pub changed: u32,
    /// Objects that were gone.
    pub removed: u32,
    /// Objects in all.
    pub objects: u32,
}

/// What happened to one object in a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The object.
    pub key: ObjectKey,
    /// How it was before; `None` for a new one.
    pub before: Option<StoredObject>,
    /// How it is now; `None` for one that is gone.
    pub after: Option<StoredObject>,
}

impl Change {
    /// Added, changed or removed.
    #[must_use]
    pub fn kind(&self) -> ChangeKind {
        match (&self.before, &self.after) {
            (None, _) => ChangeKind::Added,
            (Some(_), Some(_)) => ChangeKind::Changed,
            (Some(_), None) => ChangeKind::Removed,
        }
    }
}

/// What can happen to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It is different.
    Changed,
    /// It is gone.
    Removed,
}

/// What a proxy said to something that was sent to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// The workload, `namespace/name`.
    pub proxy: String,
    /// The generation that it answered to.
    pub generation: u64,
    /// When.
    pub at: Timestamp,
    /// What it said.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// Taken or refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "verdict")]
pub enum Verdict {
    /// Everything of the generation was taken.
    Accepted,
    /// A resource was refused.
    Refused {
        /// Its type: `Route`.
        kind: String,
        /// Its name; empty when the proxy did not say.
        resource: String,
        /// The field; empty when the proxy did not say.
        field: String,
        /// Why.
        reason: String,
    },
}

/// The public half of a token: names it, and proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct TokenId(pub String);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a caller of the API may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "role")]
pub enum Role {
    /// See everything but tokens and the audit log.
    Viewer,
    /// Also change objects of these namespaces; `*` is every one. Never what is for the whole mesh.
    Pusher {
        /// The namespaces.
        namespaces: Vec<String>,
    },
    /// Everything.
    Admin,
}

impl Role {
    /// `viewer`, `pusher` or `admin`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Pusher { .. } => "pusher",
            Self::Admin => "admin",
        }
    }

    /// Whether objects of a namespace may be changed. The empty namespace is that of mesh-wide kinds.
    #[must_use]
    pub fn may_push(&self, namespace: &str) -> bool {
        match self {
            Self::Viewer => false,
            Self::Pusher { namespaces } => {
                !namespace.is_empty() && namespaces.iter().any(|allowed| allowed == "*" || allowed == namespace)
            }
            Self::Admin => true,
        }
    }
}

/// A bearer token of the API, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiToken {
    /// Its public half.
    pub id: TokenId,
    /// SHA-256 of its secret half.
    pub hash: [u8; 32],
    /// What people call it; audit entries say `token:NAME`.
    pub name: String,
    /// What it is good for.
    pub role: Role,
    /// Who made it.
    pub created_by: String,
    /// When it was made.
    pub created: Timestamp,
    /// When it ends; `None` for never.
    pub expires: Option<Timestamp>,
    /// When it was revoked.
    pub revoked: Option<Timestamp>,
}

/// A token with which a proxy gets its first certificate, without its secret. Good once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Its public half.
    pub id: TokenId,
    /// SHA-256 of its secret half.
    pub hash: [u8; 32],
    /// The workload it is for, `namespace/name`.
    pub workload: String,
    /// Who made it.
    pub created_by: String,
    /// When it was made.
    pub created: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
    /// When it was used.
    pub used: Option<Timestamp>,
    /// From where it was used.
    pub used_by: Option<String>,
    /// When it was revoked.
    pub revoked: Option<Timestamp>,
}

/// How something that was asked for ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was done.
    Done,
    /// The caller may not, or what was asked for is wrong.
    Refused,
    /// It went wrong on our side.
    Failed,
}

impl Outcome {
    /// As it is stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }

    /// The inverse of [`Self::as_str`].
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Done, Self::Refused, Self::Failed].into_iter().find(|outcome| outcome.as_str() == text)
    }
}

/// One entry for the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditEntry {
    /// When.
    pub at: Timestamp,
    /// Who: `token:deploy`, `spiffe://…`, `directory`, `anonymous`.
    pub who: String,
    /// The address it came from; empty for what comes from within.
    pub from: String,
    /// What was asked for: `apply`, `rollback`, `token create`.
    pub action: String,
    /// Of what.
    pub subject: String,
    /// How it ended.
    pub outcome: Outcome,
    /// More, in a sentence.
    pub detail: String,
}

/// An entry of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditRecord {
    /// Counts up.
    pub id: u64,
    /// What it says.
    #[serde(flatten)]
    pub entry: AuditEntry,
}
