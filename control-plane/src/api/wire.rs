//! What travels over the API, in both directions. The command line reads and writes the same types.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use crate::engine::{Impact, ProxyImpact, Story};

/// Manifests to apply.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApplyRequest {
    /// Texts with manifests, each a file.
    pub documents: Vec<DocumentText>,
    /// What for; stands in the history.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
    /// Namespaces whose pushed objects are removed when they are not among the documents.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prune: Vec<String>,
}

/// A text with manifests.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DocumentText {
    /// The name of its file; problems and `explain` name places in it.
    pub name: String,
    /// The text: YAML documents, divided by `---`.
    pub text: String,
}

/// Objects to remove.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeleteRequest {
    /// The objects.
    #[serde(default)]
    pub objects: Vec<ObjectRef>,
    /// Texts with manifests: their objects are removed, whatever they say beside their names.
    #[serde(default)]
    pub documents: Vec<DocumentText>,
    /// What for; stands in the history.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
}

/// A generation to bring back.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RollbackRequest {
    /// What for; stands in the history.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
}

/// Names an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ObjectRef {
    /// Its kind: `HTTPRoute`.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What a change came to.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChangeResponse {
    /// The generation that was made. None for a dry run, and when nothing changes.
    pub generation: Option<u64>,
    /// The generation that it is compared to; 0 for none.
    pub base: u64,
    /// Objects that change.
    pub changes: Vec<ObjectChange>,
    /// What works but is probably not meant.
    pub warnings: Vec<Problem>,
    /// What it means for the proxies.
    pub impact: Impact,
}

/// An object that changes.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectChange {
    /// Which.
    #[serde(flatten)]
    pub object: ObjectRef,
    /// `added`, `changed` or `removed`.
    pub how: String,
    /// Lines of its text that differ, as a unified diff.
    pub diff: String,
}

/// A problem in a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// `error` or `warning`.
    pub severity: String,
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
    /// The column, from 1.
    pub column: u32,
    /// What is wrong.
    pub message: String,
    /// How to put it right.
    pub fix: String,
    /// The line of the file, and carets under the place.
    pub excerpt: String,
    /// The object, where it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<ObjectRef>,
}

impl Problem {
    /// For people, as compilers write it.
    #[must_use]
    pub fn render(&self) -> String {
        let Self { severity, file, line, column, message, fix, excerpt, object: _ } = self;
        let pad = " ".repeat(line.to_string().len());
        let mut out = format!("{severity}: {message}\n{pad}--> {file}:{line}:{column}\n");
        if !excerpt.is_empty() {
            out.push_str(excerpt);
            out.push('\n');
        }
        out.push_str(&format!("{pad} = help: {fix}\n"));
        out
    }
}

/// What was not done, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ErrorBody {
    /// For programs: `unauthenticated`, `forbidden`, `invalid`, `conflict`, …
    pub code: String,
    /// For people.
    pub message: String,
    /// What is wrong in manifests.
    #[serde(default)]
    pub problems: Vec<Problem>,
    /// Problems that are not listed.
    #[serde(default)]
    pub left_out: usize,
}

/// A generation.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GenerationBody {
    /// Its number.
    pub number: u64,
    /// Who made it.
    pub who: String,
    /// When, RFC 3339.
    pub at: String,
    /// `push`, `directory` or `rollback`.
    pub source: String,
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

/// A generation, with what it changed and what proxies said.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GenerationDetail {
    /// The generation.
    #[serde(flatten)]
    pub generation: GenerationBody,
    /// What it changed in the one before.
    pub changes: Vec<ObjectChange>,
}

/// An object.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectBody {
    /// Which.
    #[serde(flatten)]
    pub object: ObjectRef,
    /// Its file and line.
    pub place: String,
    /// `push` or `directory`.
    pub origin: String,
    /// The generation that brought it in this form.
    pub since: u64,
    /// Its text.
    pub text: String,
    /// What it came to: conditions as in the status of Kubernetes objects.
    #[schema(value_type = Object)]
    pub status: serde_json::Value,
}

/// How things stand.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StatusBody {
    /// The program's version.
    pub version: String,
    /// The latest generation; 0 for none.
    pub generation: u64,
    /// The generation that proxies are given; it follows the latest within moments.
    pub published: u64,
    /// Objects in it.
    pub objects: usize,
    /// The watched directory, where there is one.
    pub directory: Option<DirectoryStatus>,
    /// Every proxy, connected or lately seen.
    pub proxies: Vec<ProxyBody>,
}

/// How the watched directory stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DirectoryStatus {
    /// Its path.
    pub path: String,
    /// Its files.
    pub files: Vec<FileStatus>,
}

/// How a file of the watched directory stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileStatus {
    /// Its path in the directory.
    pub file: String,
    /// The namespaces of its objects: whose it is.
    pub namespaces: Vec<String>,
    /// How many objects it has in force.
    pub objects: usize,
    /// What is wrong in it. Its objects are kept as they were before.
    pub problems: Vec<Problem>,
}

/// A proxy, as `status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProxyBody {
    /// The workload, `namespace/name`.
    pub proxy: String,
    /// What it calls itself.
    pub node: String,
    /// The program.
    pub program: String,
    /// `synced`, `sent`, `refused`, `disconnected`.
    pub state: String,
    /// The generation of what it is given.
    pub generation: u64,
    /// The newest generation that it took whole.
    pub accepted: Option<u64>,
    /// How long it has been so, in milliseconds.
    pub age_ms: u64,
    /// Where it connected from.
    pub address: Option<String>,
    /// What it refused.
    pub refusals: Vec<RefusalBody>,
    /// What it is not told, because it is no proxy of ours and its messages have no word for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
}

/// A resource that a proxy refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RefusalBody {
    /// `Listener`, `Route`, `Cluster`, `Endpoints`, `Secret`.
    pub kind: String,
    /// Its name; empty when the proxy did not say.
    pub resource: String,
    /// The field; empty when the proxy did not say.
    pub field: String,
    /// Why.
    pub reason: String,
}

/// What an earlier response came to.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AnswerBody {
    /// The workload, `namespace/name`.
    pub proxy: String,
    /// The generation.
    pub generation: u64,
    /// When, RFC 3339.
    pub at: String,
    /// What it refused; none when it took what it was sent.
    pub refusal: Option<RefusalBody>,
}

/// What a proxy is given.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigBody {
    /// The workload, `namespace/name`.
    pub proxy: String,
    /// The generation.
    pub generation: u64,
    /// Each resource.
    pub resources: Vec<ResourceBody>,
}

/// A resource that a proxy is given.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResourceBody {
    /// `Listener`, `Route`, `Cluster`, `Endpoints`, `Secret`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// A hash of its content.
    pub version: String,
    /// Bytes of the message.
    pub bytes: usize,
}

/// Whether proxies have a generation.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SyncBody {
    /// The generation.
    pub generation: u64,
    /// How many took it.
    pub synced: usize,
    /// Those that refused something of it.
    pub refused: Vec<ProxyBody>,
    /// Those that did not answer in time.
    pub waiting: Vec<ProxyBody>,
}

/// A request to be explained.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExplainRequest {
    /// The method (default GET).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// `http://host[:port]/path?query`.
    pub url: String,
    /// Headers, `name: value`.
    #[serde(default)]
    pub headers: Vec<String>,
    /// The listener (default: the first outbound one).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
}

/// A token to be made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenRequest {
    /// What people call it; the audit log says `token:NAME`.
    pub name: String,
    /// `viewer`, `pusher` or `admin`.
    pub role: String,
    /// Of a pusher: the namespaces; `*` is every one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// Good for this many seconds (default: 90 days); at most a year.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_for_seconds: Option<u64>,
}

/// A join token to be made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JoinTokenRequest {
    /// The workload, `namespace/name`.
    pub workload: String,
    /// Good for this many seconds (default: an hour).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_for_seconds: Option<u64>,
}

/// A token that was made. Its secret is shown this once.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreatedToken {
    /// By which it is listed and revoked.
    pub id: String,
    /// The token.
    pub token: String,
    /// When it ends, RFC 3339.
    pub expires: Option<String>,
}

/// A token, without its secret.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenBody {
    /// By which it is revoked.
    pub id: String,
    /// `viewer`, `pusher`, `admin` or `join`.
    pub role: String,
    /// Its name, or the workload of a join token.
    pub name: String,
    /// Of a pusher: the namespaces.
    pub namespaces: Vec<String>,
    /// Who made it.
    pub created_by: String,
    /// When, RFC 3339.
    pub created: String,
    /// When it ends, RFC 3339.
    pub expires: Option<String>,
    /// `active`, `expired`, `revoked`, `used`.
    pub state: String,
}

/// How a rotation of roots is to go on.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RotateRequest {
    /// Go on although some proxies have not confirmed, or time is not over.
    #[serde(default)]
    pub force: bool,
    /// The step that is meant: the rotation goes on only when it is the next one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
}

/// An entry of the audit log.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditBody {
    /// Counts up.
    pub id: u64,
    /// When, RFC 3339.
    pub at: String,
    /// Who.
    pub who: String,
    /// The address it came from; empty for what comes from within.
    pub from: String,
    /// What was asked for.
    pub action: String,
    /// Of what.
    pub subject: String,
    /// `done`, `refused` or `failed`.
    pub outcome: String,
    /// More.
    pub detail: String,
}
