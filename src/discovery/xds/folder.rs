//! The certificate, its key and the bundle in the state folder. They are replaced together, in one step: each set has a
//! folder of its own, and the link `current` leads to the one that holds.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use outrigger_config::model::{CertificateFiles, Identity, Place};
use parking_lot::Mutex;

/// Where they are.
#[derive(Debug, Clone)]
pub(crate) struct IdentityFolder {
    root: PathBuf,
    /// Held by whoever replaces the set: a renewal and a new bundle may come at the same time, and neither must undo the
    /// other.
    turn: Arc<Mutex<()>>,
}

/// A set, PEM.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct IdentitySet {
    /// The chain, leaf first.
    pub(crate) chain: String,
    pub(crate) key: String,
    pub(crate) bundle: String,
}

impl std::fmt::Debug for IdentitySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IdentitySet").finish_non_exhaustive()
    }
}

impl IdentityFolder {
    /// Below the state folder.
    pub(crate) fn new(state: &Path) -> Self {
        Self { root: state.join("identity"), turn: Arc::default() }
    }

    /// The files as a configuration names them.
    pub(crate) fn identity(&self) -> Identity {
        let place = Place { file: self.root.display().to_string().into(), line: 1, column: 1 };
        Identity {
            certificate: CertificateFiles {
                certificate: self.current(CHAIN),
                private_key: self.current(KEY),
                place: place.clone(),
            },
            trust_bundle: self.current(BUNDLE),
            federated_bundles: std::collections::BTreeMap::new(),
            revocation_lists: Vec::new(),
            proposed_trust_bundle: None,
            place,
        }
    }

    /// What is there; `None` when nothing was written yet.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn read(&self) -> io::Result<Option<IdentitySet>> {
        let read = |name| fs::read_to_string(self.current(name));
        match read(CHAIN) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
            Ok(chain) => Ok(Some(IdentitySet { chain, key: read(KEY)?, bundle: read(BUNDLE)? })),
        }
    }

    /// Replaces it. On disk when this returns.
    ///
    /// # Errors
    /// When it cannot be written; what was there is kept then.
    pub(crate) fn write(&self, set: &IdentitySet) -> io::Result<()> {
        let _turn = self.turn.lock();
        self.replace(set)
    }

    /// Makes another set out of the one that is there, which nobody replaces meanwhile. `None` leaves it as it is.
    ///
    /// # Errors
    /// As `change` says, and when the set cannot be read or written.
    pub(crate) fn change(
        &self,
        change: impl FnOnce(IdentitySet) -> Result<Option<IdentitySet>, String>,
    ) -> Result<(), String> {
        let _turn = self.turn.lock();
        let said = |error: io::Error| error.to_string();
        let Some(set) = self.read().map_err(said)? else { return Ok(()) };
        match change(set)? {
            Some(set) => self.replace(&set).map_err(said),
            None => Ok(()),
        }
    }

    fn replace(&self, set: &IdentitySet) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.root)?;
        let before = fs::read_link(self.root.join(CURRENT)).ok();
        let number = before.as_deref().and_then(number_of).map_or(1, |number| number.wrapping_add(1));
        let name = format!("{SET}{number}");
        let folder = self.root.join(&name);
        // What an interrupted write left.
        let _ = fs::remove_dir_all(&folder);
        DirBuilder::new().mode(0o700).create(&folder)?;
        for (file, text) in [(KEY, &set.key), (CHAIN, &set.chain), (BUNDLE, &set.bundle)] {
            let mut file = File::options().create_new(true).write(true).mode(0o600).open(folder.join(file))?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
        }
        File::open(&folder)?.sync_all()?;
        let fresh = self.root.join(format!(".{CURRENT}"));
        let _ = fs::remove_file(&fresh);
        symlink(&name, &fresh)?;
        fs::rename(&fresh, self.root.join(CURRENT))?;
        File::open(&self.root)?.sync_all()?;
        self.remove_all_but(&[Some(Path::new(&name)), before.as_deref()]);
        Ok(())
    }

    /// The set before stays as well: somebody may be reading it just now.
    fn remove_all_but(&self, kept: &[Option<&Path>]) {
        for entry in fs::read_dir(&self.root).into_iter().flatten().flatten() {
            let name = PathBuf::from(entry.file_name());
            if number_of(&name).is_some() && !kept.contains(&Some(&*name)) {
                // That it cannot be removed changes nothing.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }

    fn current(&self, file: &str) -> PathBuf {
        self.root.join(CURRENT).join(file)
    }
}

fn number_of(name: &Path) -> Option<u64> {
    name.to_str()?.strip_prefix(SET)?.parse().ok()
}

const CURRENT: &str = "current";
const SET: &str = "set-";
const CHAIN: &str = "svid.pem";
const KEY: &str = "svid.key";
const BUNDLE: &str = "bundle.pem";

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn set(text: &str) -> IdentitySet {
        let of = |what: &str| format!("{what} {text}");
        IdentitySet { chain: of("chain"), key: of("key"), bundle: of("bundle") }
    }

    #[test]
    fn a_set_is_replaced_as_a_whole_and_only_its_owner_can_read_it() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = IdentityFolder::new(root.path());
        assert_eq!(folder.read().expect("no error"), None);
        for text in ["one", "two", "three", "four"] {
            folder.write(&set(text)).expect("written");
            assert_eq!(folder.read().expect("read"), Some(set(text)));
        }
        let sets = fs::read_dir(&folder.root).expect("a folder").count();
        assert_eq!(sets, 3, "the newest, the one before and the link");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        let files = folder.identity().certificate;
        assert_eq!((mode(&files.private_key), mode(&folder.root)), (0o600, 0o700));
        assert_eq!(mode(files.private_key.parent().expect("a folder")), 0o700);
    }

    #[test]
    fn a_new_bundle_and_a_renewal_at_the_same_time_undo_nothing() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = IdentityFolder::new(root.path());
        folder.write(&set("0")).expect("written");
        for round in 1..=20 {
            let renewing = folder.clone();
            let (began, begins) = std::sync::mpsc::channel();
            let renewal = std::thread::spawn(move || {
                begins.recv().expect("the change began");
                renewing.write(&set(&round.to_string())).expect("written");
            });
            let changed = folder.change(|set| {
                began.send(()).expect("somebody waits");
                Ok(Some(IdentitySet { bundle: "new roots".to_owned(), ..set }))
            });
            changed.expect("changed");
            renewal.join().expect("no panic");
            assert_eq!(folder.read().expect("read"), Some(set(&round.to_string())), "the renewal came second");
        }
    }

    #[test]
    fn a_write_that_was_interrupted_is_forgotten() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = IdentityFolder::new(root.path());
        folder.write(&set("one")).expect("written");
        fs::create_dir(folder.root.join("set-2")).expect("half a set");
        fs::write(folder.root.join("set-2/svid.pem"), "half").expect("half a set");
        assert_eq!(folder.read().expect("read"), Some(set("one")));
        folder.write(&set("two")).expect("written");
        assert_eq!(folder.read().expect("read"), Some(set("two")));
    }
}
