//! Checks proxy configurations in files and directories, before anybody runs them.
//!
//! A path that is named is always checked. Under a directory those are files that end in `.yaml` or `.yml`; names that
//! begin with a dot are passed over, and links are followed, so that a mounted ConfigMap is checked once and not three
//! times. A check that checks nothing is an error: in a pipeline it would look like success.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use outrigger_config::limits::MAX_TEXT_BYTES;
use outrigger_config::{Diagnostic, Diagnostics, Style, load};

/// What was found, file by file, in the order in which the paths were given and then by name.
#[derive(Debug, Default)]
pub struct Report {
    files: Vec<FileReport>,
}

#[derive(Debug)]
struct FileReport {
    /// False for a path that could not be looked into at all.
    checked: bool,
    problems: Diagnostics,
}

/// Checks every proxy configuration under `paths`.
#[must_use]
pub fn check(paths: &[PathBuf]) -> Report {
    let mut search = Search::default();
    for path in paths {
        search.named(path);
    }
    search.report
}

impl Report {
    /// True when a configuration would be refused, or something could not be checked.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.files.iter().any(|file| file.problems.errors() > 0)
    }

    /// Every problem with its place and fix, then the summary line.
    #[must_use]
    pub fn render(&self, style: Style) -> String {
        let problems = self.files.iter().filter(|file| !file.problems.is_empty());
        problems.map(|file| file.problems.render(style) + "\n").chain([format!("{}\n", self.summary())]).collect()
    }

    /// One line: `checked 3 files: 2 errors, 1 warning`.
    #[must_use]
    pub fn summary(&self) -> impl fmt::Display {
        let count = |of: fn(&FileReport) -> usize| self.files.iter().map(of).sum::<usize>();
        let files = count(|file| usize::from(file.checked));
        // What was not listed one by one may be of either kind; with any error at all it counts as errors.
        let errors = count(|file| file.problems.errors());
        let left_out = count(|file| file.problems.left_out());
        let warnings = count(|file| file.problems.warnings());
        let more = if left_out > 0 { format!(", {left_out} more not shown") } else { String::new() };
        format!("checked {}: {}, {}{more}", plural(files, "file"), plural(errors, "error"), plural(warnings, "warning"))
    }
}

fn plural(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// Walks through paths and gathers what it finds.
#[derive(Default)]
struct Search {
    report: Report,
    /// Where links lead in the end, so that nothing is looked at twice and a circle of links comes to an end.
    seen: BTreeSet<PathBuf>,
}

impl Search {
    /// A path that was named by the user.
    fn named(&mut self, path: &Path) {
        let before = self.report.files.len();
        match fs::metadata(path) {
            Ok(kind) if kind.is_dir() => {
                let new = self.directory(path);
                if new && self.report.files.len() == before {
                    self.failed(path, "there is no configuration in this directory".to_owned(), NO_FILES);
                }
            }
            Ok(_) => self.file(path),
            Err(error) => self.failed(path, format!("cannot be looked at: {error}"), "check the path"),
        }
    }

    /// False when it has been looked into before.
    fn directory(&mut self, path: &Path) -> bool {
        if !self.first_time(path) {
            return false;
        }
        let entries = fs::read_dir(path).and_then(|entries| {
            let paths: io::Result<BTreeSet<PathBuf>> = entries.map(|entry| Ok(entry?.path())).collect();
            paths
        });
        let entries = match entries {
            Ok(entries) => entries,
            Err(error) => {
                self.failed(path, format!("cannot be listed: {error}"), "check the permissions of the directory");
                return true;
            }
        };
        for entry in entries.iter().filter(|entry| !is_hidden(entry)) {
            match fs::metadata(entry) {
                Ok(kind) if kind.is_dir() => drop(self.directory(entry)),
                Ok(kind) if kind.is_file() && is_yaml(entry) => self.file(entry),
                // Not a configuration.
                Ok(_) => {}
                Err(error) if is_yaml(entry) => {
                    self.failed(entry, format!("cannot be looked at: {error}"), "repair or remove the link");
                }
                Err(_) => {}
            }
        }
        true
    }

    fn file(&mut self, path: &Path) {
        if !self.first_time(path) {
            return;
        }
        let text = match read(path) {
            Ok(text) => text,
            Err(error) => {
                return self.failed(path, format!("cannot be read: {error}"), "check the file and its permissions");
            }
        };
        let problems = match load(&path.display().to_string(), &text) {
            Ok(loaded) => loaded.warnings,
            Err(problems) => problems,
        };
        self.report.files.push(FileReport { checked: true, problems });
    }

    fn first_time(&mut self, path: &Path) -> bool {
        self.seen.insert(fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()))
    }

    fn failed(&mut self, path: &Path, message: String, fix: &str) {
        let problem = Diagnostic::for_file(&path.display().to_string(), message, fix.to_owned());
        self.report.files.push(FileReport { checked: false, problems: problem.into() });
    }
}

const NO_FILES: &str = "name the file, or a directory with files that end in .yaml or .yml";

/// Reads no more than it takes to see that a file is too large.
fn read(path: &Path) -> io::Result<String> {
    let limit = u64::try_from(MAX_TEXT_BYTES).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    File::open(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() > MAX_TEXT_BYTES {
        let message = format!("it is larger than {MAX_TEXT_BYTES} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..good].iter().filter(|byte| **byte == b'\n').count() + 1;
        io::Error::new(io::ErrorKind::InvalidData, format!("line {line} is not UTF-8"))
    })
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
}

fn is_yaml(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml")
}
