//! When files may have changed.
//!
//! *Folders* are watched: an editor replaces a file by a rename, and a mounted ConfigMap or Secret is a link through
//! `..data`, which is swapped; a watch on the file itself would die with the first change. Every link on the way to
//! a file is followed, and the folder that each lies in is watched, so that a swap anywhere is heard at once. What
//! no watch hears (network file systems, no watches left) is found by looking every ten seconds.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsString;
use std::fs;
use std::future::pending;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

/// How often files are looked at even if nothing was heard.
const POLL: Duration = Duration::from_secs(10);
/// They are looked at the latest this long after the first step of a change.
const PATIENCE: Duration = Duration::from_millis(500);
/// Links followed on the way to one file, as many as Linux follows.
const MAX_LINKS: usize = 40;

/// Watches files.
#[derive(Debug)]
pub struct Watch {
    what: &'static str,
    files: BTreeSet<PathBuf>,
    quiet: Duration,
    next_poll: Instant,
    heard: Arc<Notify>,
    /// Something was heard and not told yet.
    stirred: bool,
    concern: Arc<Mutex<HashSet<PathBuf>>>,
    /// Watched folders. A folder that was replaced by another of its name is another folder.
    folders: HashMap<PathBuf, FolderId>,
    watcher: Option<RecommendedWatcher>,
}

/// Device and inode.
type FolderId = (u64, u64);

impl Watch {
    /// Watches no file yet. A change may have several steps: it is told once nothing was heard for `quiet`. `what`
    /// is a word for the log.
    #[must_use]
    pub fn new(what: &'static str, quiet: Duration) -> Self {
        Self {
            what,
            files: BTreeSet::new(),
            quiet,
            next_poll: Instant::now() + POLL,
            heard: Arc::new(Notify::new()),
            stirred: false,
            concern: Arc::default(),
            folders: HashMap::new(),
            watcher: None,
        }
    }

    /// Watches these files from now on, and no others.
    pub fn set(&mut self, files: BTreeSet<PathBuf>) {
        if files == self.files {
            return;
        }
        self.files = files;
        self.follow();
    }

    /// Waits until one of the files may have changed; for ever when there is none. Cancel safe: a change that was
    /// heard during a cancelled wait ends the next one. Whoever reads the files after this has missed nothing.
    pub async fn changed(&mut self) {
        if self.files.is_empty() {
            return pending().await;
        }
        if !self.stirred {
            tokio::select! {
                () = self.heard.notified() => self.stirred = true,
                () = sleep_until(self.next_poll) => {}
            }
        }
        if self.stirred {
            let deadline = Instant::now() + PATIENCE.max(self.quiet);
            while Instant::now() < deadline && timeout(self.quiet, self.heard.notified()).await.is_ok() {}
            self.stirred = false;
        }
        self.next_poll = Instant::now() + POLL;
        // Before they are read: links may lead elsewhere now.
        self.follow();
    }

    /// Watches the folders that matter today.
    fn follow(&mut self) {
        let mut concern = HashSet::new();
        for file in &self.files {
            steps_to(file, &mut concern);
        }
        let folders: HashSet<PathBuf> = concern.iter().filter_map(|step| step.parent().map(Path::to_owned)).collect();
        concern.extend(folders.iter().cloned());
        *self.concern.lock() = concern;

        if self.watcher.is_none() && !folders.is_empty() {
            self.watcher = self.watcher();
        }
        let Some(watcher) = &mut self.watcher else { return };
        self.folders.retain(|folder, id| {
            let stays = folders.contains(folder) && id_of(folder) == Some(*id);
            if !stays {
                // One that is gone took its watch with it.
                let _ = watcher.unwatch(folder);
            }
            stays
        });
        for folder in folders {
            if self.folders.contains_key(&folder) {
                continue;
            }
            // One that is not there is noticed in the folder it should be in, or at the next look.
            let Some(id) = id_of(&folder) else { continue };
            match watcher.watch(&folder, RecursiveMode::NonRecursive) {
                Ok(()) => _ = self.folders.insert(folder, id),
                Err(error) => {
                    let (folder, what) = (folder.display(), self.what);
                    tracing::warn!(%error, %folder, what, "a folder cannot be watched; it is looked at every 10 s");
                }
            }
        }
    }

    fn watcher(&self) -> Option<RecommendedWatcher> {
        let (heard, concern) = (Arc::clone(&self.heard), Arc::clone(&self.concern));
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if concerns(&event, &concern.lock()) {
                heard.notify_one();
            }
        });
        watcher
            .inspect_err(|error| {
                let what = self.what;
                tracing::warn!(%error, what, "files cannot be watched; they are looked at every 10 s");
            })
            .ok()
    }
}

/// Whether an event may mean that one of the files changed. An error means that something was missed.
fn concerns(event: &notify::Result<notify::Event>, steps: &HashSet<PathBuf>) -> bool {
    event.as_ref().map_or(true, |event| {
        changes(event.kind) && (event.paths.is_empty() || event.paths.iter().any(|path| steps.contains(path)))
    })
}

/// Reading a file is no change of it.
fn changes(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        EventKind::Any | EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_) | EventKind::Other => true,
    }
}

/// Every name on the way to a file that may come to mean something else: the links, and at the end the file itself
/// or the first thing that is missing.
fn steps_to(file: &Path, steps: &mut HashSet<PathBuf>) {
    let Ok(file) = std::path::absolute(file) else { return };
    let mut here = PathBuf::new();
    let mut rest: Vec<Step> = Vec::new();
    push(&mut rest, &file);
    let mut links = 0;
    while let Some(step) = rest.pop() {
        match step {
            Step::Root => here = PathBuf::from("/"),
            // There is no link in `here`, so its parent by name is its parent.
            Step::Up => _ = here.pop(),
            Step::Down(name) => {
                here.push(name);
                let link = fs::symlink_metadata(&here).is_ok_and(|metadata| metadata.is_symlink());
                let target = if link && links < MAX_LINKS { fs::read_link(&here).ok() } else { None };
                if let Some(target) = target {
                    steps.insert(here.clone());
                    links += 1;
                    here.pop();
                    push(&mut rest, &target);
                } else if rest.is_empty() || !here.is_dir() {
                    steps.insert(here);
                    return;
                }
            }
        }
    }
}

enum Step {
    Root,
    Up,
    Down(OsString),
}

/// The steps of a path, the first on top.
fn push(rest: &mut Vec<Step>, path: &Path) {
    rest.extend(path.components().rev().filter_map(|component| match component {
        Component::RootDir => Some(Step::Root),
        Component::ParentDir => Some(Step::Up),
        Component::Normal(name) => Some(Step::Down(name.to_owned())),
        Component::CurDir | Component::Prefix(_) => None,
    }));
}

fn id_of(folder: &Path) -> Option<FolderId> {
    fs::metadata(folder).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests;
