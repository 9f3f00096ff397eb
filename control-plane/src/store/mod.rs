//! What outlives the process: accepted generations, the answers of proxies, tokens, the audit log.
//!
//! [`Store`] is what the control plane needs of a store; [`Sqlite`] is the one there is. Calls block: they are made
//! from threads that may block, never from a task. A write that returns is on disk; what did not return is there whole
//! or not at all. Reads never wait for writes.

use std::collections::BTreeMap;
use std::fmt;

mod record;
mod sqlite;
mod timestamp;

pub use record::{
    Answer, ApiToken, AuditEntry, AuditRecord, Change, ChangeKind, Generation, JoinToken, NewGeneration, NewObject,
    ObjectKey, Origin, Outcome, Role, StoredObject, TokenId, Verdict,
};
pub use sqlite::Sqlite;
pub use timestamp::Timestamp;

/// Generations that are kept; older ones are forgotten.
pub const MAX_GENERATIONS: u64 = 1_000;
/// Answers that are kept, of all proxies.
pub const MAX_ANSWERS: u64 = 100_000;
/// Entries of the audit log that are kept.
pub const MAX_AUDIT: u64 = 200_000;
/// API tokens that there may be, revoked and expired ones included until they are forgotten.
pub const MAX_API_TOKENS: u64 = 10_000;
/// Join tokens that there may be.
pub const MAX_JOIN_TOKENS: u64 = 100_000;
/// Rows that one question may answer with.
pub const MAX_PAGE: u32 = 1_000;

/// A store of the control plane. All calls block.
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// Stores a generation, which becomes the latest, with its entry in the audit log; returns when both are on disk.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the latest is not the one that the change was made for; then nothing is stored.
    fn accept(&self, change: NewGeneration) -> Result<Generation, StoreError>;

    /// The latest generation; `None` in a new store.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn latest(&self) -> Result<Option<Generation>, StoreError>;

    /// One generation; `None` when it never was or is forgotten.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn generation(&self, number: u64) -> Result<Option<Generation>, StoreError>;

    /// Generations below `before` (all, when `None`), the newest first, at most `limit`.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn history(&self, before: Option<u64>, limit: u32) -> Result<Vec<Generation>, StoreError>;

    /// Every object of a generation, in the order of keys.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for a generation that never was or is forgotten.
    fn objects(&self, generation: u64) -> Result<Vec<StoredObject>, StoreError>;

    /// What a generation changed, in the order of keys.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for a generation that never was or is forgotten.
    fn changes(&self, generation: u64) -> Result<Vec<Change>, StoreError>;

    /// Hashes of the files of the watched directory as they were last taken, by path.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn files(&self) -> Result<BTreeMap<String, String>, StoreError>;

    /// Puts down answers of proxies, without waiting for the disk. When the queue is full they are not kept: they are
    /// history, and nobody waits for it.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when they were not kept.
    fn record_answers(&self, answers: Vec<Answer>) -> Result<(), StoreError>;

    /// Answers of one proxy, or of all, the newest first, at most `limit`.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn answers(&self, proxy: Option<&str>, limit: u32) -> Result<Vec<Answer>, StoreError>;

    /// Adds an API token, with its entry in the audit log.
    ///
    /// # Errors
    /// [`StoreError::Full`] when there are too many.
    fn add_api_token(&self, token: ApiToken, audit: AuditEntry) -> Result<(), StoreError>;

    /// An API token, revoked or expired ones too.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn api_token(&self, id: &TokenId) -> Result<Option<ApiToken>, StoreError>;

    /// Every API token, the newest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn api_tokens(&self) -> Result<Vec<ApiToken>, StoreError>;

    /// Revokes an API token or a join token, whichever has the id, with its entry in the audit log. False when there is
    /// none, or it was revoked before; the entry is stored nevertheless.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn revoke_token(&self, id: &TokenId, at: Timestamp, audit: AuditEntry) -> Result<bool, StoreError>;

    /// Adds a join token.
    ///
    /// # Errors
    /// [`StoreError::Full`] when there are too many.
    fn add_join_token(&self, token: JoinToken) -> Result<(), StoreError>;

    /// A join token in whatever state.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn join_token(&self, id: &TokenId) -> Result<Option<JoinToken>, StoreError>;

    /// Every join token, the newest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn join_tokens(&self) -> Result<Vec<JoinToken>, StoreError>;

    /// Uses a join token up. True for exactly one caller: it was there, unused, neither revoked nor expired at `at`.
    ///
    /// # Errors
    /// When the store cannot be written; then it is not used up.
    fn use_join_token(&self, id: &TokenId, at: Timestamp, by: &str) -> Result<bool, StoreError>;

    /// Stores an entry of the audit log; returns when it is on disk.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn audit(&self, entry: AuditEntry) -> Result<(), StoreError>;

    /// Entries of the audit log below `before` (all, when `None`), the newest first, at most `limit`.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn audit_log(&self, before: Option<u64>, limit: u32) -> Result<Vec<AuditRecord>, StoreError>;
}

/// Why a store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Somebody else was first.
    #[error("the change was made for generation {expected}, but the latest is {latest}: make it again")]
    Conflict {
        /// The generation that the change was made for.
        expected: u64,
        /// The latest one.
        latest: u64,
    },
    /// There is no such generation.
    #[error("there is no generation {0}, or it is forgotten; `history` lists those there are")]
    NotFound(u64),
    /// There are too many of something.
    #[error("there are {limit} {what} already, as many as there may be: revoke some, or wait until some expire")]
    Full {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        limit: u64,
    },
    /// The queue to the writer is full.
    #[error("too many writes wait for the disk: try again")]
    Busy,
    /// The writer has ended.
    #[error("the store is closed")]
    Closed,
    /// What is stored cannot be understood.
    #[error("the store holds something that cannot be understood: {0}")]
    Corrupt(String),
    /// The file cannot be used.
    #[error("{0}")]
    File(String),
    /// The database failed.
    #[error("the database failed: {0}")]
    Database(#[from] rusqlite::Error),
}

#[cfg(test)]
mod tests;
