//! The folder that holds what has to survive a restart: the certificate and the last good resources.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Where it is when nobody says otherwise and systemd has none for us.
const DEFAULT: &str = "/var/lib/outrigger";

/// The state folder of this process alone.
#[derive(Debug)]
pub struct StateFolder {
    path: PathBuf,
    /// Held while the process lives.
    _lock: File,
}

/// Why there is no state folder.
#[derive(Debug, Error)]
pub enum StateError {
    /// It cannot be made or written to.
    #[error("the state folder {} cannot be used: {source}; name another one with --state-dir", path.display())]
    Unusable {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process uses it.
    #[error("the state folder {} is used by another process; give each its own with --state-dir", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// Others may read keys in it.
    #[error("others may enter the state folder {}, which holds a private key; run chmod 700 on it", path.display())]
    Open {
        /// The folder.
        path: PathBuf,
    },
}

impl StateFolder {
    /// Opens the folder, or makes it. Without one: that of the service (`STATE_DIRECTORY`), or /var/lib/outrigger.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn open(wanted: Option<PathBuf>) -> Result<Self, StateError> {
        let path = wanted.or_else(of_service).unwrap_or_else(|| PathBuf::from(DEFAULT));
        let unusable = |source| StateError::Unusable { path: path.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(unusable)?;
        let mode = fs::metadata(&path).map_err(unusable)?.permissions().mode();
        if mode & 0o077 != 0 {
            // A folder that was made beforehand: nobody else has a business in it.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700))
                .map_err(|_| StateError::Open { path: path.clone() })?;
        }
        let lock = File::options().create(true).truncate(false).write(true).mode(0o600).open(path.join("lock"));
        let lock = lock.map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(fs::TryLockError::WouldBlock) => Err(StateError::InUse { path }),
            Err(fs::TryLockError::Error(source)) => Err(unusable(source)),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// What systemd made for `StateDirectory=`; the first, where there are several.
fn of_service() -> Option<PathBuf> {
    let listed = std::env::var_os("STATE_DIRECTORY")?;
    std::env::split_paths(&listed).next().filter(|path| !path.as_os_str().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_belongs_to_one_process_and_to_nobody_else() {
        let root = tempfile::tempdir().expect("a folder");
        let path = root.path().join("a/b");
        let first = StateFolder::open(Some(path.clone())).expect("made");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o700);
        let second = StateFolder::open(Some(path.clone())).expect_err("in use");
        assert!(matches!(second, StateError::InUse { .. }) && second.to_string().contains("--state-dir"), "{second}");
        drop(first);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("opened up");
        StateFolder::open(Some(path.clone())).expect("free again");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn what_is_no_folder_is_refused_with_the_flag() {
        let root = tempfile::tempdir().expect("a folder");
        let file = root.path().join("file");
        fs::write(&file, "").expect("written");
        let error = StateFolder::open(Some(file)).expect_err("a file");
        assert!(error.to_string().contains("--state-dir"), "{error}");
    }
}
