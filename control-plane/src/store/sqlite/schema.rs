//! Tables, and how older files are brought to them. `user_version` counts the steps that a file has taken.

use rusqlite::{Connection, TransactionBehavior};

use crate::store::StoreError;

/// Each step runs once, in a transaction of its own. What stands here is never changed: a new step is added.
const STEPS: [&str; 1] = [STEP_1];

/// An object is stored once for all generations in which it is the same: it is in those from `since` to before
/// `until`. The same text, also when it comes back later, is stored once.
const STEP_1: &str = "
CREATE TABLE generations (
    number INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    who TEXT NOT NULL,
    source TEXT NOT NULL,
    restores INTEGER,
    message TEXT NOT NULL,
    added INTEGER NOT NULL,
    changed INTEGER NOT NULL,
    removed INTEGER NOT NULL,
    objects INTEGER NOT NULL
) STRICT;
CREATE TABLE contents (
    id INTEGER PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE,
    text TEXT NOT NULL
) STRICT;
CREATE TABLE objects (
    kind TEXT NOT NULL,
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    since INTEGER NOT NULL,
    until INTEGER,
    content INTEGER NOT NULL REFERENCES contents (id),
    file TEXT NOT NULL,
    line INTEGER NOT NULL,
    origin TEXT NOT NULL,
    PRIMARY KEY (kind, namespace, name, since)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX objects_now ON objects (kind, namespace, name) WHERE until IS NULL;
CREATE INDEX objects_since ON objects (since);
CREATE INDEX objects_until ON objects (until) WHERE until IS NOT NULL;
CREATE INDEX objects_content ON objects (content);
CREATE TABLE files (
    path TEXT PRIMARY KEY,
    hash TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE answers (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    proxy TEXT NOT NULL,
    generation INTEGER NOT NULL,
    at INTEGER NOT NULL,
    refused INTEGER NOT NULL,
    kind TEXT NOT NULL,
    resource TEXT NOT NULL,
    field TEXT NOT NULL,
    reason TEXT NOT NULL
) STRICT;
CREATE INDEX answers_proxy ON answers (proxy, id);
CREATE TABLE api_tokens (
    id TEXT PRIMARY KEY,
    hash BLOB NOT NULL,
    name TEXT NOT NULL,
    role TEXT NOT NULL,
    created_by TEXT NOT NULL,
    created INTEGER NOT NULL,
    expires INTEGER,
    revoked INTEGER
) STRICT, WITHOUT ROWID;
CREATE TABLE join_tokens (
    id TEXT PRIMARY KEY,
    hash BLOB NOT NULL,
    workload TEXT NOT NULL,
    created_by TEXT NOT NULL,
    created INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    used INTEGER,
    used_by TEXT,
    revoked INTEGER
) STRICT, WITHOUT ROWID;
CREATE TABLE audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    who TEXT NOT NULL,
    origin TEXT NOT NULL,
    action TEXT NOT NULL,
    subject TEXT NOT NULL,
    outcome TEXT NOT NULL,
    detail TEXT NOT NULL
) STRICT;
";

/// Brings the file to the newest form.
///
/// # Errors
/// [`StoreError::File`] when the file is of a later version than this program.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let taken: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let Some(rest) = usize::try_from(taken).ok().and_then(|taken| STEPS.get(taken..)) else {
        let known = STEPS.len();
        return Err(StoreError::File(format!(
            "the store is of version {taken}, and this program knows up to {known}: run the program that wrote it, or a later one"
        )));
    };
    for (step, number) in rest.iter().zip(taken + 1..) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "user_version", number)?;
        transaction.commit()?;
    }
    Ok(())
}
