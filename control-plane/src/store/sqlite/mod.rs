//! The store in one SQLite file.
//!
//! One thread writes ([`writer`]); readers have connections of their own, and in WAL mode see the last commit without
//! waiting. `synchronous=FULL`: a commit is on disk when it returns, also when the machine loses power.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags};

use self::writer::Writer;
use super::{
    Answer, ApiToken, AuditEntry, AuditRecord, Change, Generation, JoinToken, NewGeneration, Store, StoreError,
    StoredObject, Timestamp, TokenId,
};

mod generations;
mod log;
mod schema;
mod tokens;
mod writer;

/// The name of the file in the data folder.
const FILE: &str = "control.db";
/// Held locked while the store is open.
const LOCK: &str = "control.lock";
/// Connections of readers that are kept open.
const MAX_IDLE_READERS: usize = 8;
/// How long a statement waits for a lock of the file. Only a checkpoint at the start or end holds one.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// A store in a folder.
#[derive(Debug)]
pub struct Sqlite {
    writer: Writer,
    readers: Mutex<Vec<Connection>>,
    path: std::path::PathBuf,
    /// Nobody else may open the folder while this is open.
    _lock: File,
}

impl Sqlite {
    /// Opens the store in `folder`; folder and file are made when they are not there, for their owner only.
    ///
    /// # Errors
    /// When the folder cannot be used, another process has it open, or the file was written by a later version.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        if !folder.is_dir() {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
            made.map_err(|error| file_error(folder, "cannot be made", &error))?;
        }
        let lock = lock(&folder.join(LOCK))?;
        let path = folder.join(FILE);
        // Made here and not by the database, so that it is never there with wider permissions. The files that the
        // database puts beside it take them over.
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = file.map_err(|error| file_error(&path, "cannot be opened", &error))?;
        let narrowed = file.set_permissions(fs::Permissions::from_mode(0o600));
        narrowed.map_err(|error| file_error(&path, "cannot be kept for its owner alone", &error))?;
        drop(file);

        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(&path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.pragma_update(None, "trusted_schema", false)?;
        schema::migrate(&mut connection)?;
        Ok(Self { writer: Writer::start(connection)?, readers: Mutex::default(), path, _lock: lock })
    }

    /// Runs a question on a connection of its own, which sees the last commit.
    pub(super) fn read<T>(&self, question: impl FnOnce(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let idle = self.readers.lock().pop();
        let connection = idle.map_or_else(|| self.reader(), Ok)?;
        let answer = question(&connection)?;
        let mut readers = self.readers.lock();
        if readers.len() < MAX_IDLE_READERS {
            readers.push(connection);
        }
        Ok(answer)
    }

    fn reader(&self) -> Result<Connection, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        Ok(connection)
    }
}

/// The lock ends with the process, however it ends.
fn lock(path: &Path) -> Result<File, StoreError> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path);
    let file = file.map_err(|error| file_error(path, "cannot be opened", &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let path = path.display();
            Err(StoreError::File(format!("{path} is locked: another control plane runs on this data folder")))
        }
        Err(TryLockError::Error(error)) => Err(file_error(path, "cannot be locked", &error)),
    }
}

fn file_error(path: &Path, what: &str, error: &std::io::Error) -> StoreError {
    StoreError::File(format!("{} {what}: {error}", path.display()))
}

impl Store for Sqlite {
    fn accept(&self, change: NewGeneration) -> Result<Generation, StoreError> {
        self.writer.run(move |connection| generations::accept(connection, &change))
    }

    fn latest(&self) -> Result<Option<Generation>, StoreError> {
        self.read(generations::latest)
    }

    fn generation(&self, number: u64) -> Result<Option<Generation>, StoreError> {
        self.read(|connection| generations::one(connection, number))
    }

    fn history(&self, before: Option<u64>, limit: u32) -> Result<Vec<Generation>, StoreError> {
        self.read(|connection| generations::history(connection, before, limit))
    }

    fn objects(&self, generation: u64) -> Result<Vec<StoredObject>, StoreError> {
        self.read(|connection| generations::objects(connection, generation))
    }

    fn changes(&self, generation: u64) -> Result<Vec<Change>, StoreError> {
        self.read(|connection| generations::changes(connection, generation))
    }

    fn files(&self) -> Result<BTreeMap<String, String>, StoreError> {
        self.read(generations::files)
    }

    fn record_answers(&self, answers: Vec<Answer>) -> Result<(), StoreError> {
        self.writer.send(move |connection| log::record_answers(connection, &answers))
    }

    fn answers(&self, proxy: Option<&str>, limit: u32) -> Result<Vec<Answer>, StoreError> {
        self.read(|connection| log::answers(connection, proxy, limit))
    }

    fn add_api_token(&self, token: ApiToken, audit: AuditEntry) -> Result<(), StoreError> {
        self.writer.run(move |connection| {
            tokens::add_api_token(connection, &token)?;
            log::audit(connection, &audit)
        })
    }

    fn api_token(&self, id: &TokenId) -> Result<Option<ApiToken>, StoreError> {
        self.read(|connection| tokens::api_token(connection, id))
    }

    fn api_tokens(&self) -> Result<Vec<ApiToken>, StoreError> {
        self.read(tokens::api_tokens)
    }

    fn revoke_token(&self, id: &TokenId, at: Timestamp, audit: AuditEntry) -> Result<bool, StoreError> {
        let id = id.clone();
        self.writer.run(move |connection| {
            let revoked = tokens::revoke(connection, &id, at)?;
            log::audit(connection, &audit)?;
            Ok(revoked)
        })
    }

    fn add_join_token(&self, token: JoinToken) -> Result<(), StoreError> {
        self.writer.run(move |connection| tokens::add_join_token(connection, &token))
    }

    fn join_token(&self, id: &TokenId) -> Result<Option<JoinToken>, StoreError> {
        self.read(|connection| tokens::join_token(connection, id))
    }

    fn join_tokens(&self) -> Result<Vec<JoinToken>, StoreError> {
        self.read(tokens::join_tokens)
    }

    fn use_join_token(&self, id: &TokenId, at: Timestamp, by: &str) -> Result<bool, StoreError> {
        let (id, by) = (id.clone(), by.to_owned());
        self.writer.run(move |connection| tokens::use_join_token(connection, &id, at, &by))
    }

    fn audit(&self, entry: AuditEntry) -> Result<(), StoreError> {
        self.writer.run(move |connection| log::audit(connection, &entry))
    }

    fn audit_log(&self, before: Option<u64>, limit: u32) -> Result<Vec<AuditRecord>, StoreError> {
        self.read(|connection| log::audit_log(connection, before, limit))
    }
}

/// A count or number as SQLite has it.
fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The inverse of [`int`]; what is negative was never written.
fn uint(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
