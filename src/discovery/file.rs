//! When a configuration file may have changed.
//!
//! The *folder* is watched: an editor replaces the file by a rename, and a Kubernetes ConfigMap is a link through
//! `..data`, which is swapped; a watch on the file itself would die with the first change. Whatever the watch
//! misses (network file systems, links to elsewhere, no watches left) is found by looking every ten seconds.

use std::ffi::OsStr;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

/// How often the file is looked at even if nothing was heard.
const POLL: Duration = Duration::from_secs(10);
/// A file may be written in several steps: it is read once nothing was heard for this long.
const QUIET: Duration = Duration::from_millis(10);
/// It is read at the latest this long after the first step.
const PATIENCE: Duration = Duration::from_millis(500);

/// Watches one file.
#[derive(Debug)]
pub struct FileWatch {
    heard: Arc<Notify>,
    next_poll: Instant,
    _watcher: Option<RecommendedWatcher>,
}

impl FileWatch {
    /// Begins to watch. Without a working watch there is still the look every ten seconds.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        let heard = Arc::new(Notify::new());
        let watcher = watch(path, Arc::clone(&heard));
        if let Err(error) = &watcher {
            tracing::warn!(%error, path = %path.display(), "the configuration cannot be watched; it is read every 10 s");
        }
        Self { heard, next_poll: Instant::now() + POLL, _watcher: watcher.ok() }
    }

    /// Waits until the file may have changed. Cancel safe; a change during a cancelled wait is found later.
    pub async fn changed(&mut self) {
        tokio::select! {
            () = self.heard.notified() => {
                let deadline = Instant::now() + PATIENCE;
                while Instant::now() < deadline && timeout(QUIET, self.heard.notified()).await.is_ok() {}
            }
            () = sleep_until(self.next_poll) => {}
        }
        self.next_poll = Instant::now() + POLL;
    }
}

/// Reads a configuration file, as much of it as could be one.
///
/// # Errors
/// When it cannot be read or is not text.
pub fn read(path: &Path) -> io::Result<String> {
    // One byte more than allowed, so that loading sees that it is too large.
    let limit = outrigger_config::limits::MAX_TEXT_BYTES as u64 + 1;
    let mut text = Vec::new();
    std::fs::File::open(path)?.take(limit).read_to_end(&mut text)?;
    // Cut in the middle of a character it is still too large, and says so.
    String::from_utf8(text).or_else(|error| {
        let valid = error.utf8_error().valid_up_to();
        let text = error.into_bytes();
        if text.len() as u64 == limit && text.len() - valid < 4 {
            Ok(String::from_utf8_lossy(&text).into_owned())
        } else {
            let line = text[..valid].iter().filter(|&&byte| byte == b'\n').count() + 1;
            Err(io::Error::new(io::ErrorKind::InvalidData, format!("line {line} is not UTF-8 text")))
        }
    })
}

fn watch(path: &Path, heard: Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let name = path.file_name().map(OsStr::to_owned);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let concerns_us = match event {
            Ok(event) => changes(event.kind) && (event.paths.is_empty() || event.paths.iter().any(|p| ours(p, &name))),
            // Something was missed.
            Err(_) => true,
        };
        if concerns_us {
            heard.notify_one();
        }
    })?;
    watcher.watch(&folder, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

/// Reading the file is no change of it.
fn changes(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        EventKind::Any | EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_) | EventKind::Other => true,
    }
}

/// The file itself, or one of the links of a ConfigMap, which begin with two dots.
fn ours(path: &Path, name: &Option<std::ffi::OsString>) -> bool {
    let file = path.file_name();
    file == name.as_deref() || file.is_some_and(|file| file.as_encoded_bytes().starts_with(b".."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const LONG: Duration = Duration::from_secs(5);

    async fn hears(watch: &mut FileWatch) -> bool {
        timeout(LONG, watch.changed()).await.is_ok()
    }

    #[tokio::test]
    async fn a_replaced_file_is_noticed_again_and_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("c.yaml");
        fs::write(&path, "0").expect("written");
        let mut watch = FileWatch::new(&path);
        for round in 1..4 {
            let fresh = folder.path().join("fresh");
            fs::write(&fresh, round.to_string()).expect("written");
            fs::rename(&fresh, &path).expect("replaced");
            assert!(hears(&mut watch).await, "round {round}");
            assert_eq!(read(&path).expect("read"), round.to_string());
        }
    }

    #[tokio::test]
    async fn the_swap_of_a_configmap_is_noticed() {
        let folder = tempfile::tempdir().expect("a folder");
        let version = |number: usize| {
            let inner = folder.path().join(format!("..v{number}"));
            fs::create_dir(&inner).expect("created");
            fs::write(inner.join("c.yaml"), number.to_string()).expect("written");
            let link = folder.path().join("..data_tmp");
            std::os::unix::fs::symlink(&inner, &link).expect("linked");
            fs::rename(link, folder.path().join("..data")).expect("swapped");
        };
        version(0);
        let path = folder.path().join("c.yaml");
        std::os::unix::fs::symlink("..data/c.yaml", &path).expect("linked");
        let mut watch = FileWatch::new(&path);
        for number in 1..4 {
            version(number);
            assert!(hears(&mut watch).await, "version {number}");
            assert_eq!(read(&path).expect("read"), number.to_string());
        }
    }

    #[test]
    fn reading_the_file_and_writing_beside_it_are_no_changes() {
        use notify::event::{DataChange, ModifyKind};
        assert!(!changes(EventKind::Access(AccessKind::Open(AccessMode::Read))));
        assert!(!changes(EventKind::Access(AccessKind::Close(AccessMode::Read))));
        assert!(changes(EventKind::Access(AccessKind::Close(AccessMode::Write))));
        assert!(changes(EventKind::Modify(ModifyKind::Data(DataChange::Any))));
        let name = Some("c.yaml".into());
        assert!(ours(Path::new("/etc/x/c.yaml"), &name));
        assert!(ours(Path::new("/etc/x/..data"), &name));
        assert!(!ours(Path::new("/etc/x/access.log"), &name));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_watch_the_file_is_still_looked_at() {
        let mut watch = FileWatch::new(Path::new("/nonexistent/folder/c.yaml"));
        let begun = Instant::now();
        watch.changed().await;
        watch.changed().await;
        assert_eq!(begun.elapsed(), POLL * 2);
    }

    #[test]
    fn a_file_that_is_not_text_is_refused_with_its_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("c.yaml");
        fs::write(&path, b"a: 1\nb: \xff\n").expect("written");
        let error = read(&path).expect_err("not text");
        assert!(error.to_string().contains("line 2"), "{error}");
    }
}
