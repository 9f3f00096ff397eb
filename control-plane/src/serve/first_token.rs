//! The first admin token, by which all others are made.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::{StartError, system};
use crate::api::{NewToken, make_token};
use crate::store::{AuditEntry, Outcome, Role, Store, Timestamp};

/// Its name in the data folder.
const FILE: &str = "admin.token";

/// Makes an admin token where there is no token at all, and writes it to a file that only its owner may read. The path, when
/// one was made.
pub(super) fn ensure(store: &dyn Store, data: &Path) -> Result<Option<PathBuf>, StartError> {
    if !store.api_tokens()?.is_empty() {
        return Ok(None);
    }
    let at = Timestamp::now();
    let by = "outrigger-control".to_owned();
    let new = NewToken { name: "admin".to_owned(), role: Role::Admin, by: by.clone(), at, expires: None };
    let (token, text) = make_token(new).map_err(|_| StartError::Random)?;
    let path = data.join(FILE);
    // The file first: with only the store written, nobody could ever use the token.
    write(&path, format!("{text}\n").as_bytes())
        .map_err(|error| system(&format!("writing {}", path.display()), error))?;
    let audit = AuditEntry {
        at,
        who: by,
        from: String::new(),
        action: "token create".to_owned(),
        subject: format!("{} admin", token.id),
        outcome: Outcome::Done,
        detail: "the first admin token".to_owned(),
    };
    store.add_api_token(token, audit)?;
    Ok(Some(path))
}

/// Writes a file for its owner alone: the old one or the new one is there, never half of one.
pub(super) fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    // What a crash left behind may have other permissions.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::File::open(folder)?.sync_all()
}
