//! The watched directory: what stands in it, and when that may have changed.
//!
//! Files that end in `.yaml`, `.yml` or `.json` are read, in folders too; names that begin with a dot are passed over, so
//! that a mounted ConfigMap is read once, through its links. *Folders* are watched: an editor replaces a file by a
//! rename, and a ConfigMap swaps a link. What no watch hears (network file systems, no watches left) is found by looking
//! every ten seconds.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;
use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::Engine;
use crate::manifest::Document;
use crate::manifest::limits::{MAX_DOCUMENT_BYTES, MAX_TOTAL_BYTES};

/// How often the directory is looked at even if nothing was heard.
const POLL: Duration = Duration::from_secs(10);
/// A change may have several steps: it is looked at once nothing was heard for this long.
const QUIET: Duration = Duration::from_millis(50);
/// It is looked at the latest this long after the first step of a change.
const PATIENCE: Duration = Duration::from_millis(500);
/// Files that are read.
const MAX_FILES: usize = 20_000;
/// Folders inside folders.
const MAX_DEPTH: usize = 16;

/// What stands in a directory: files by their path in it.
#[derive(Debug, Default)]
pub struct Found {
    pub(super) files: BTreeMap<String, Text>,
    /// Folders of which nobody knows what stands in them now, by their path in it.
    pub(super) unlisted: BTreeSet<String>,
    /// Every folder that was looked into.
    folders: BTreeSet<PathBuf>,
}

/// The text of a file.
#[derive(Debug)]
pub(super) enum Text {
    Read {
        text: Arc<str>,
        hash: String,
    },
    /// Why it cannot be read.
    Failed(String),
}

impl Found {
    /// Looks into a directory. Blocks.
    ///
    /// # Errors
    /// When it cannot be listed as a whole: a directory that is away is not an empty one.
    pub fn in_directory(root: &Path) -> io::Result<Self> {
        let mut found = Self::default();
        let mut walk = Walk { home: fs::canonicalize(root)?, seen: BTreeSet::new() };
        found.folder(root, Path::new(""), 0, &mut walk)?;
        let mut bytes = 0usize;
        for text in found.files.values_mut() {
            if let Text::Read { text: content, .. } = text {
                bytes = bytes.saturating_add(content.len());
                if bytes > MAX_TOTAL_BYTES {
                    *text = Text::Failed(format!("the directory has more than {MAX_TOTAL_BYTES} bytes"));
                }
            }
        }
        Ok(found)
    }

    /// The files that could be read, by name.
    #[must_use]
    pub fn documents(&self) -> Vec<Document> {
        let read = self.files.iter().filter_map(|(name, text)| match text {
            Text::Read { text, .. } => Some(Document::new(name, text)),
            Text::Failed(_) => None,
        });
        read.collect()
    }

    fn folder(&mut self, path: &Path, name: &Path, depth: usize, walk: &mut Walk) -> io::Result<()> {
        // A circle of links comes to an end.
        if !walk.seen.insert(fs::canonicalize(path)?) {
            return Ok(());
        }
        self.folders.insert(path.to_owned());
        let entries: io::Result<BTreeSet<_>> = fs::read_dir(path)?.map(|entry| Ok(entry?.file_name())).collect();
        for entry in entries? {
            if entry.to_string_lossy().starts_with('.') {
                continue;
            }
            let (path, name) = (path.join(&entry), name.join(&entry));
            let shown = name.to_string_lossy().into_owned();
            match fs::metadata(&path) {
                Ok(kind) if kind.is_dir() => {
                    let listed = if walk.leads_out(&path) {
                        Err(io::Error::other(LEADS_OUT))
                    } else if depth >= MAX_DEPTH {
                        Err(io::Error::other(format!("folders stand in one another more than {MAX_DEPTH} deep")))
                    } else {
                        self.folder(&path, &name, depth + 1, walk)
                    };
                    if let Err(error) = listed {
                        self.unlisted.insert(shown.clone());
                        self.add(shown, Text::Failed(format!("the folder cannot be listed: {error}")))?;
                    }
                }
                Ok(kind) if kind.is_file() && is_manifest(&path) => {
                    let text = if walk.leads_out(&path) { Text::Failed(LEADS_OUT.to_owned()) } else { read(&path) };
                    self.add(shown, text)?;
                }
                Ok(_) => {}
                Err(error) if is_manifest(&path) => {
                    self.add(shown, Text::Failed(format!("the file cannot be looked at: {error}")))?;
                }
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// A directory with too many files is not taken at all: those beyond would count as removed.
    fn add(&mut self, name: String, text: Text) -> io::Result<()> {
        if self.files.len() >= MAX_FILES {
            return Err(io::Error::other(format!("there are more than {MAX_FILES} files")));
        }
        self.files.insert(name, text);
        Ok(())
    }
}

/// One look.
struct Walk {
    /// The directory, links followed.
    home: PathBuf,
    /// Folders that were looked into, links followed.
    seen: BTreeSet<PathBuf>,
}

impl Walk {
    /// Whether something is a link to what stands elsewhere. Whoever may write to the directory must not have the control
    /// plane read, and quote in its problems, what they may not read themselves.
    fn leads_out(&self, path: &Path) -> bool {
        let is_link = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink());
        is_link && !fs::canonicalize(path).is_ok_and(|target| target.starts_with(&self.home))
    }
}

const LEADS_OUT: &str = "it is a link that leads out of the watched directory: put what it leads to there";

fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml" || extension == "json")
}

fn read(path: &Path) -> Text {
    let limit = u64::try_from(MAX_DOCUMENT_BYTES).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    let result = File::open(path).and_then(|file| file.take(limit.saturating_add(1)).read_to_end(&mut bytes));
    if let Err(error) = result {
        return Text::Failed(format!("the file cannot be read: {error}"));
    }
    if bytes.len() > MAX_DOCUMENT_BYTES {
        return Text::Failed(format!("the file is larger than {MAX_DOCUMENT_BYTES} bytes"));
    }
    let hash = HEXLOWER.encode(&Sha256::digest(&bytes));
    match String::from_utf8(bytes) {
        Ok(text) => Text::Read { text: text.into(), hash },
        Err(_) => Text::Failed("the file is not UTF-8".to_owned()),
    }
}

/// Keeps an engine up to date with a directory.
#[derive(Debug)]
pub struct Directory {
    engine: Arc<Engine>,
    root: PathBuf,
    heard: Arc<Notify>,
    watcher: Option<RecommendedWatcher>,
    /// Watched folders. One that was replaced by another of its name is another folder.
    folders: HashMap<PathBuf, (u64, u64)>,
}

impl Directory {
    /// For a directory, which is not looked at yet.
    #[must_use]
    pub fn new(engine: Arc<Engine>, root: PathBuf) -> Self {
        let heard = Arc::new(Notify::new());
        let hears = Arc::clone(&heard);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // An error means that something was missed.
            if event.as_ref().map_or(true, |event| changes(event.kind)) {
                hears.notify_one();
            }
        });
        let watcher = watcher.inspect_err(|error| {
            tracing::warn!(%error, "the directory cannot be watched; it is looked at every 10 s");
        });
        Self { engine, root, heard, watcher: watcher.ok(), folders: HashMap::new() }
    }

    /// Looks, takes what there is, and does so again whenever something may have changed. Ends when it is dropped;
    /// cancel safe.
    pub async fn follow(mut self) {
        loop {
            self.look().await;
            if timeout(POLL, self.heard.notified()).await.is_ok() {
                let deadline = Instant::now() + PATIENCE;
                while Instant::now() < deadline && timeout(QUIET, self.heard.notified()).await.is_ok() {}
            }
        }
    }

    /// Looks once and takes what there is.
    pub async fn look(&mut self) {
        let (engine, root) = (Arc::clone(&self.engine), self.root.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let found = Found::in_directory(&root).map_err(|error| format!("it cannot be listed: {error}"))?;
            let folders = found.folders.clone();
            engine.take_directory(&root.to_string_lossy(), found).map_err(|error| error.to_string())?;
            Ok::<_, String>(folders)
        });
        match looked.await {
            Ok(Ok(folders)) => self.watch(&folders),
            Ok(Err(error)) => {
                tracing::error!(error, directory = %self.root.display(), "the watched directory was not taken");
                let root = BTreeSet::from([self.root.clone()]);
                self.watch(&root);
            }
            Err(error) => tracing::error!(%error, "looking at the watched directory has panicked"),
        }
    }

    /// Watches these folders, and the one that the directory itself is in.
    fn watch(&mut self, folders: &BTreeSet<PathBuf>) {
        let Some(watcher) = &mut self.watcher else { return };
        let parent = std::path::absolute(&self.root).ok().and_then(|root| root.parent().map(Path::to_owned));
        let wanted: BTreeSet<&PathBuf> = folders.iter().chain(&parent).collect();
        self.folders.retain(|folder, id| {
            let stays = wanted.contains(folder) && id_of(folder) == Some(*id);
            if !stays {
                // One that is gone took its watch with it.
                let _ = watcher.unwatch(folder);
            }
            stays
        });
        let mut heard = false;
        for folder in wanted {
            if self.folders.contains_key(folder) {
                continue;
            }
            let Some(id) = id_of(folder) else { continue };
            match watcher.watch(folder, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.folders.insert(folder.clone(), id);
                    heard = true;
                }
                Err(error) => {
                    tracing::warn!(%error, folder = %folder.display(), "it cannot be watched; it is looked at every 10 s");
                }
            }
        }
        if heard {
            // What changed between the look and the watch was not heard.
            self.heard.notify_one();
        }
    }
}

/// Reading a file is no change of it.
fn changes(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        EventKind::Any | EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_) | EventKind::Other => true,
    }
}

fn id_of(folder: &Path) -> Option<(u64, u64)> {
    fs::metadata(folder).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}
