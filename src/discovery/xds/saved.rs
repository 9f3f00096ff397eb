//! The last good resources on disk, for a start when no control plane is there.
//!
//! One file, readable by its owner only, replaced in one step. Its head holds the SHA-256 of the rest: what was cut or
//! changed is not used. Writing happens beside the control thread, and what is newer replaces what waits.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use outrigger_xds::Kind;
use prost::Message;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use super::store::{Held, Id, Store};

const FILE: &str = "last-good.xds";
/// Names the form of what follows: another version of this program may write another one.
const MAGIC: &[u8; 24] = b"outrigger last good xds\x01";
const HASH: usize = 32;

/// Resources with the time at which they were known to be the newest.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Saved {
    /// Milliseconds since 1970.
    #[prost(uint64, tag = "1")]
    confirmed: u64,
    #[prost(message, repeated, tag = "2")]
    resources: Vec<SavedResource>,
}

#[derive(Clone, PartialEq, Message)]
struct SavedResource {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    version: String,
    #[prost(bytes = "bytes", tag = "4")]
    body: Bytes,
}

impl Saved {
    /// What is in effect, known to be the newest at `at`.
    pub(crate) fn of(store: &Store, at: SystemTime) -> Self {
        let confirmed = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let resources = store.accepted().map(|(kind, name, held)| SavedResource {
            type_url: kind.type_url().to_owned(),
            name: name.to_string(),
            version: held.version.to_string(),
            body: held.body.clone(),
        });
        Self { confirmed: u64::try_from(confirmed).unwrap_or(u64::MAX), resources: resources.collect() }
    }

    /// When it was known to be the newest.
    pub(crate) fn at(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.confirmed)
    }

    /// How long ago that was; a time to come counts as now.
    pub(crate) fn age(&self, now: SystemTime) -> Duration {
        now.duration_since(self.at()).unwrap_or_default()
    }

    /// The resources.
    pub(crate) fn resources(self) -> impl Iterator<Item = (Id, Held)> {
        self.resources.into_iter().filter_map(|SavedResource { type_url, name, version, body }| {
            Some(((Kind::from_type_url(&type_url)?, name.into()), Held { version: version.into(), body }))
        })
    }
}

/// The file.
#[derive(Debug, Clone)]
pub(crate) struct SavedFile {
    folder: PathBuf,
}

impl SavedFile {
    /// In the state folder.
    pub(crate) fn new(state: &Path) -> Self {
        Self { folder: state.to_owned() }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.join(FILE)
    }

    /// What is in it; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read, or is not what was written.
    pub(crate) fn read(&self) -> io::Result<Option<Saved>> {
        let bytes = match fs::read(self.path()) {
            Ok(bytes) => Bytes::from(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let changed = || io::Error::new(io::ErrorKind::InvalidData, "it was cut or changed");
        let head = MAGIC.len() + HASH;
        if bytes.len() < head || bytes[..MAGIC.len()] != MAGIC[..] {
            return Err(changed());
        }
        let body = bytes.slice(head..);
        if bytes[MAGIC.len()..head] != Sha256::digest(&body)[..] {
            return Err(changed());
        }
        Saved::decode(body).map(Some).map_err(|_| changed())
    }

    /// Replaces it. On disk when this returns.
    ///
    /// # Errors
    /// When the folder cannot be made or written to; what was there is kept then.
    pub(crate) fn write(&self, saved: &Saved) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let body = saved.encode_to_vec();
        let fresh = self.folder.join(format!(".{FILE}.{}", std::process::id()));
        let write = || {
            let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&fresh)?;
            file.write_all(MAGIC)?;
            file.write_all(&Sha256::digest(&body))?;
            file.write_all(&body)?;
            file.sync_all()?;
            fs::rename(&fresh, self.path())
        };
        let written = write();
        if written.is_err() {
            // What is left of it is of no use; that it cannot be removed changes nothing.
            let _ = fs::remove_file(&fresh);
        }
        written?;
        File::open(&self.folder)?.sync_all()
    }
}

/// Writes the file beside the control thread.
#[derive(Debug)]
pub(crate) struct Keeper {
    newest: watch::Sender<Option<Task>>,
    done: watch::Receiver<u64>,
    number: u64,
}

#[derive(Debug, Clone)]
struct Task {
    number: u64,
    saved: Arc<Saved>,
    urgent: bool,
}

impl Keeper {
    /// A keeper and its task, which ends with it.
    pub(crate) fn new(file: SavedFile) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (newest, tasks) = watch::channel(None);
        let (report, done) = watch::channel(0);
        (Self { newest, done, number: 0 }, write_all(file, tasks, report))
    }

    /// Writes this soon, together with what comes meanwhile.
    pub(crate) fn later(&mut self, saved: Saved) {
        self.give(saved, false);
    }

    /// Writes this, and waits until it is on disk; for a while only, because a disk that hangs must not keep a
    /// configuration from being acknowledged.
    pub(crate) async fn now(&mut self, saved: Saved) {
        let number = self.give(saved, true);
        let mut done = self.done.clone();
        let written = tokio::time::timeout(PATIENCE, done.wait_for(|done| *done >= number)).await;
        if written.is_err() {
            tracing::error!("the last good resources are not on disk yet: the disk is slow");
        }
    }

    fn give(&mut self, saved: Saved, urgent: bool) -> u64 {
        self.number += 1;
        let number = self.number;
        self.newest.send_replace(Some(Task { number, saved: Arc::new(saved), urgent }));
        number
    }
}

async fn write_all(file: SavedFile, mut tasks: watch::Receiver<Option<Task>>, report: watch::Sender<u64>) {
    while tasks.changed().await.is_ok() {
        let urgent = |task: &Option<Task>| task.as_ref().is_some_and(|task| task.urgent);
        if !urgent(&tasks.borrow()) {
            // An urgent one that comes meanwhile ends the wait; when nobody is left, what there is is written.
            let _ = tokio::time::timeout(GATHER, tasks.wait_for(urgent)).await;
        }
        let Some(Task { number, saved, urgent: _ }) = tasks.borrow_and_update().clone() else { continue };
        let to = file.clone();
        let written = tokio::task::spawn_blocking(move || to.write(&saved)).await;
        if let Ok(Err(error)) = written {
            let path = file.path();
            tracing::error!(%error, path = %path.display(), "the last good resources could not be kept");
        }
        report.send_replace(number);
    }
}

/// How long changes that are not urgent are gathered.
const GATHER: Duration = Duration::from_secs(1);
/// How long an acknowledgement waits for the disk.
const PATIENCE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn saved(versions: &[(&str, &str)], seconds: u64) -> Saved {
        let held = |version: &str| Held { version: version.into(), body: Bytes::copy_from_slice(version.as_bytes()) };
        let store = Store::new(versions.iter().map(|(name, version)| ((Kind::Cluster, (*name).into()), held(version))));
        Saved::of(&store, UNIX_EPOCH + Duration::from_secs(seconds))
    }

    #[test]
    fn what_was_written_is_read_with_its_age_and_only_its_owner_can() {
        let root = tempfile::tempdir().expect("a folder");
        let file = SavedFile::new(&root.path().join("a"));
        assert_eq!(file.read().expect("no error"), None);
        for at in [100, 200] {
            file.write(&saved(&[("a", "1"), ("b", "2")], at)).expect("written");
            let read = file.read().expect("read").expect("there");
            let now = UNIX_EPOCH + Duration::from_secs(260);
            assert_eq!(read.age(now), Duration::from_secs(260 - at));
            assert_eq!(read.age(UNIX_EPOCH), Duration::ZERO);
            assert_eq!(read.resources().count(), 2);
        }
        let mode = |path: &Path| fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
        assert_eq!((mode(&file.path()), mode(&file.folder)), (0o600, 0o700));
        assert_eq!(fs::read_dir(&file.folder).expect("the folder").count(), 1, "nothing is left over");
    }

    #[test]
    fn one_bit_or_one_byte_less_and_it_is_not_used() {
        let root = tempfile::tempdir().expect("a folder");
        let file = SavedFile::new(root.path());
        file.write(&saved(&[("a", "1")], 1)).expect("written");
        let good = fs::read(file.path()).expect("read");
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(file.path(), &bad).expect("written");
            assert!(file.read().is_err(), "bit of byte {at}");
            fs::write(file.path(), &good[..at]).expect("written");
            assert!(file.read().is_err(), "cut at {at}");
        }
        fs::write(file.path(), &good).expect("written");
        assert!(file.read().expect("good again").is_some());
    }

    #[tokio::test]
    async fn what_waits_is_replaced_by_what_is_newer_and_an_urgent_one_is_written_at_once() {
        let root = tempfile::tempdir().expect("a folder");
        let file = SavedFile::new(root.path());
        let (mut keeper, task) = Keeper::new(file.clone());
        let task = tokio::spawn(task);
        for at in 1..50 {
            keeper.later(saved(&[("a", "1")], at));
        }
        assert!(file.read().expect("no error").is_none(), "it is gathered");
        keeper.now(saved(&[("a", "1")], 99)).await;
        assert_eq!(file.read().expect("read").expect("there").confirmed, 99_000);
        keeper.later(saved(&[("a", "1")], 100));
        drop(keeper);
        task.await.expect("it ends");
        assert_eq!(file.read().expect("read").expect("there").confirmed, 100_000, "nothing is lost at the end");
    }
}
