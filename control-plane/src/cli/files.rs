//! Manifests from files, directories and standard input.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::CommandError;
use crate::api::limits::MAX_MANIFEST_BODY;
use crate::api::wire::DocumentText;

/// Reads what was named. Under a directory those are files that end in `.yaml`, `.yml` or `.json`, without names that
/// begin with a dot.
pub(super) fn read(paths: &[PathBuf]) -> Result<Vec<DocumentText>, CommandError> {
    let mut reading = Reading::default();
    for path in paths {
        if path.as_os_str() == "-" {
            let limit = u64::try_from(MAX_MANIFEST_BODY).unwrap_or(u64::MAX);
            let mut text = String::new();
            io::stdin().lock().take(limit).read_to_string(&mut text).map_err(|error| wrong(path, &error))?;
            reading.add("<stdin>".to_owned(), text)?;
            continue;
        }
        let before = reading.documents.len();
        reading.path(path, true)?;
        if reading.documents.len() == before {
            return Err(CommandError::Other(format!("{}: there is no manifest in it", path.display())));
        }
    }
    Ok(reading.documents)
}

#[derive(Default)]
struct Reading {
    documents: Vec<DocumentText>,
    bytes: usize,
    /// So that a circle of links comes to an end.
    seen: BTreeSet<PathBuf>,
}

impl Reading {
    fn path(&mut self, path: &Path, is_named: bool) -> Result<(), CommandError> {
        let kind = fs::metadata(path).map_err(|error| wrong(path, &error))?;
        if !self.seen.insert(fs::canonicalize(path).map_err(|error| wrong(path, &error))?) {
            return Ok(());
        }
        if kind.is_dir() {
            let entries: io::Result<BTreeSet<PathBuf>> =
                fs::read_dir(path).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
            for entry in entries.map_err(|error| wrong(path, &error))? {
                let hidden = entry.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
                if !hidden {
                    self.path(&entry, false)?;
                }
            }
        } else if is_named || is_manifest(path) {
            let text = fs::read_to_string(path).map_err(|error| wrong(path, &error))?;
            self.add(path.display().to_string(), text)?;
        }
        Ok(())
    }

    fn add(&mut self, name: String, text: String) -> Result<(), CommandError> {
        self.bytes = self.bytes.saturating_add(text.len());
        if self.bytes > MAX_MANIFEST_BODY {
            let limit = MAX_MANIFEST_BODY / (1024 * 1024);
            return Err(CommandError::Other(format!("the manifests are larger than {limit} MiB: push them in parts")));
        }
        self.documents.push(DocumentText { name, text });
        Ok(())
    }
}

fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml" || extension == "json")
}

fn wrong(path: &Path, error: &io::Error) -> CommandError {
    CommandError::Other(format!("{}: {error}", path.display()))
}
