//! What the authority keeps on disk: keys, certificates, and which of them are in use.
//!
//! ```text
//! FOLDER/            0700
//!   lock             held by the process that uses it
//!   state.json       the phase; the only file that says what counts
//!   ID.pem, ID.key   a signer: its certificates, root last; its key (0600)
//! ```
//!
//! A signer's files are on disk before the state names them, and are removed after it has ceased to. So whatever a
//! crash leaves behind is either named and whole, or not named and swept away at the next start.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use outrigger_config::spiffe::TrustDomain;
use serde::{Deserialize, Serialize};

use super::authority::AuthorityError;
use super::disk::{self, Disk};
use super::material::Material;
use super::rotation::Phase;

/// What `state.json` holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct State {
    format: u32,
    pub(super) trust_domain: String,
    /// The longest lifetime, in seconds, of what the present signer may have issued.
    pub(super) longest_lifetime: u64,
    pub(super) phase: Phase,
}

/// The folder, held.
pub(super) struct Folder {
    path: PathBuf,
    disk: Box<dyn Disk>,
    /// Locked as long as this lives.
    _lock: File,
}

impl State {
    pub(super) fn new(domain: &TrustDomain, longest_lifetime: u64, phase: Phase) -> Self {
        Self { format: FORMAT, trust_domain: domain.as_str().to_owned(), longest_lifetime, phase }
    }
}

impl Folder {
    /// Makes the folder where there is none, and takes it.
    pub(super) fn open(path: &Path, disk: Box<dyn Disk>) -> Result<Self, AuthorityError> {
        let io = |source| AuthorityError::Io { path: path.to_owned(), source };
        disk::make_folder(path).map_err(io)?;
        if let Some(mode) = disk::excess(path, NOT_OWNER).map_err(io)? {
            return Err(AuthorityError::Permissions { path: path.to_owned(), mode, right: 0o700 });
        }
        let lock_path = path.join("lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&lock_path);
        let lock = lock.map_err(|source| AuthorityError::Io { path: lock_path.clone(), source })?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), disk, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(AuthorityError::Locked(path.to_owned())),
            Err(TryLockError::Error(source)) => Err(AuthorityError::Io { path: lock_path, source }),
        }
    }

    /// `None` before the first start has come to its end.
    pub(super) fn state(&self) -> Result<Option<State>, AuthorityError> {
        let path = self.path.join(STATE);
        let bytes = match disk::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(AuthorityError::Io { path, source }),
        };
        let damaged = |problem: String| AuthorityError::Damaged { path: path.clone(), problem };
        let state: State = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if state.format != FORMAT {
            return Err(damaged(format!("its format is {}, and this version knows {FORMAT}", state.format)));
        }
        for id in [Some(state.phase.signer()), state.phase.other()].into_iter().flatten() {
            if !is_id(id) {
                return Err(damaged("a signer is not named by 64 hexadecimal digits".to_owned()));
            }
        }
        Ok(Some(state))
    }

    pub(super) fn keep_state(&self, state: &State) -> Result<(), AuthorityError> {
        let path = self.path.join(STATE);
        let text = serde_json::to_vec_pretty(state).expect("a state is plain data");
        disk::replace(&*self.disk, &path, &text).map_err(|source| AuthorityError::Io { path, source })
    }

    pub(super) fn material(&self, id: &str, domain: &TrustDomain) -> Result<Material, AuthorityError> {
        let (certificates, key) = self.files_of(id);
        let bytes =
            |path: &Path| disk::read(path).map_err(|source| AuthorityError::Io { path: path.to_owned(), source });
        let excess = disk::excess(&key, NOT_OWNER);
        if let Some(mode) = excess.map_err(|source| AuthorityError::Io { path: key.clone(), source })? {
            return Err(AuthorityError::Permissions { path: key, mode, right: 0o600 });
        }
        let material = Material::read_kept(&bytes(&certificates)?, &bytes(&key)?, domain)
            .map_err(|problem| AuthorityError::Damaged { path: certificates.clone(), problem })?;
        if material.id != id {
            let problem = "it is not the certificate that it is named after".to_owned();
            return Err(AuthorityError::Damaged { path: certificates, problem });
        }
        Ok(material)
    }

    pub(super) fn keep_material(&self, material: &Material) -> Result<(), AuthorityError> {
        let (certificates, key) = self.files_of(&material.id);
        for (path, text) in [(certificates, material.certificates_pem()), (key, material.key_pem())] {
            disk::replace(&*self.disk, &path, text.as_bytes()).map_err(|source| AuthorityError::Io { path, source })?;
        }
        Ok(())
    }

    /// Removes what the state does not name: signers that were given up, and files that were never finished.
    pub(super) fn sweep(&self, phase: &Phase) -> Result<(), AuthorityError> {
        let io = |source| AuthorityError::Io { path: self.path.clone(), source };
        let named: BTreeSet<&str> = [Some(phase.signer()), phase.other()].into_iter().flatten().collect();
        let mut removed = false;
        for entry in fs::read_dir(&self.path).map_err(io)? {
            let path = entry.map_err(io)?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let unfinished = name.ends_with(disk::FRESH);
            let signer = name.strip_suffix(".pem").or_else(|| name.strip_suffix(".key")).filter(|id| is_id(id));
            if unfinished || signer.is_some_and(|id| !named.contains(id)) {
                self.disk.remove(&path).map_err(|source| AuthorityError::Io { path: path.clone(), source })?;
                removed = true;
            }
        }
        if removed { self.disk.sync_folder(&self.path).map_err(io) } else { Ok(()) }
    }

    fn files_of(&self, id: &str) -> (PathBuf, PathBuf) {
        (self.path.join(format!("{id}.pem")), self.path.join(format!("{id}.key")))
    }
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

const STATE: &str = "state.json";
const FORMAT: u32 = 1;
/// What a group and others may do.
const NOT_OWNER: u32 = 0o077;
