//! Contents of secrets as files that only their owner can read.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Makes a file hold this content. It is replaced in one step, and left alone where it holds it already.
///
/// # Errors
/// When it cannot be written; what was there is kept then.
pub(crate) fn keep(path: &Path, content: &[u8]) -> io::Result<()> {
    if fs::read(path).is_ok_and(|known| known == content) {
        return Ok(());
    }
    let folder = path.parent().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let fresh = folder.join(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    let write = || {
        let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&fresh)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    };
    let written = write();
    if written.is_err() {
        // What is left of it is of no use; that it cannot be removed changes nothing.
        let _ = fs::remove_file(&fresh);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    #[test]
    fn a_file_is_replaced_where_it_differs_and_only_its_owner_can_read_it() {
        let root = tempfile::tempdir().expect("a folder");
        let path = root.path().join("secrets/sds-a.key");
        keep(&path, b"one").expect("written");
        let first = fs::metadata(&path).expect("there");
        assert_eq!(first.permissions().mode() & 0o777, 0o600);
        keep(&path, b"one").expect("nothing to do");
        assert_eq!(fs::metadata(&path).expect("there").ino(), first.ino());
        keep(&path, b"two").expect("written");
        assert_eq!(fs::read(&path).expect("read"), b"two");
        assert_eq!(fs::read_dir(root.path().join("secrets")).expect("a folder").count(), 1);
    }
}
