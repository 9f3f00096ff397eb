//! The copy of the last good configuration, for a start when the file is broken or gone.
//!
//! One file, readable by its owner only, replaced in one step. Its first line holds the SHA-256 of the rest:
//! a copy that was cut or changed is not used.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

const FILE: &str = "last-good.yaml";
const HEAD: &str = "# The last good configuration of outrigger. SHA-256 of what follows: ";

/// Where the copy is kept.
#[derive(Debug, Clone)]
pub struct LastGood {
    folder: PathBuf,
}

impl LastGood {
    /// A copy in this folder.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The file itself.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder.join(FILE)
    }

    /// Replaces the copy. On disk when this returns.
    ///
    /// # Errors
    /// When the folder cannot be made or written to; the copy before is kept then.
    pub fn write(&self, text: &str) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let fresh = self.folder.join(format!(".{FILE}.{}", std::process::id()));
        let written = write_synced(&fresh, text).and_then(|()| fs::rename(&fresh, self.path()));
        if written.is_err() {
            // What is left of it is of no use; that it cannot be removed changes nothing.
            let _ = fs::remove_file(&fresh);
        }
        written?;
        File::open(&self.folder)?.sync_all()
    }

    /// The text of the copy; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read, or is not what was written.
    pub fn read(&self) -> io::Result<Option<String>> {
        let text = match fs::read_to_string(self.path()) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let whole = text.split_once('\n').and_then(|(head, rest)| {
            let hash = head.strip_prefix(HEAD)?;
            (hash == digest(rest)).then(|| rest.to_owned())
        });
        whole.map(Some).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it was cut or changed"))
    }
}

fn write_synced(path: &Path, text: &str) -> io::Result<()> {
    let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    write!(file, "{HEAD}{}\n{text}", digest(text))?;
    file.sync_all()
}

fn digest(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn what_was_written_is_read_and_only_its_owner_can() {
        let root = tempfile::tempdir().expect("a folder");
        let copy = LastGood::new(root.path().join("a/b"));
        assert_eq!(copy.read().expect("no error"), None);
        for text in ["first: 1\n", "second: äöü", ""] {
            copy.write(text).expect("written");
            assert_eq!(copy.read().expect("read").as_deref(), Some(text));
        }
        let mode = |path: &Path| fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
        assert_eq!((mode(&copy.path()), mode(&root.path().join("a/b"))), (0o600, 0o700));
        assert_eq!(fs::read_dir(root.path().join("a/b")).expect("the folder").count(), 1, "nothing is left over");
    }

    #[test]
    fn a_copy_that_was_changed_is_not_used() {
        let root = tempfile::tempdir().expect("a folder");
        let copy = LastGood::new(root.path().to_owned());
        copy.write("listeners: []\n").expect("written");
        let text = fs::read_to_string(copy.path()).expect("read");
        for broken in [text.replace("listeners", "listenerz"), text[..text.len() - 3].to_owned(), String::new()] {
            fs::write(copy.path(), broken).expect("written");
            assert_eq!(copy.read().expect_err("not used").kind(), io::ErrorKind::InvalidData);
        }
    }
}
