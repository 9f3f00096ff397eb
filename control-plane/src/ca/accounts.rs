//! Tokens of Kubernetes service accounts: who a pod is, vouched for by its cluster.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use outrigger_config::model::{JwtAlgorithm, JwtProvider, KeySource, Place};
use outrigger_jwt::{Claims, KeySet, Refusal, Value, Verifier};
use parking_lot::Mutex;
use thiserror::Error;

use super::disk;

/// Verifies tokens of one cluster against its key set (`kubectl get --raw /openid/v1/jwks`) in a file. The file is read
/// again when it has changed; one that cannot be read leaves the keys that are there.
pub struct ServiceAccounts {
    verifier: Verifier,
    path: PathBuf,
    keys: Mutex<Known>,
}

struct Known {
    keys: Arc<KeySet>,
    stamp: Stamp,
}

/// What a file looks like from outside; another one means that it may have changed.
type Stamp = (u64, u64, i64, i64);

/// The key set cannot be used.
#[derive(Debug, Error)]
pub enum AccountsError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// It.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It holds no keys.
    #[error("{}: {source}", path.display())]
    Keys {
        /// It.
        path: PathBuf,
        /// Why.
        source: outrigger_jwt::KeySetError,
    },
}

/// A service account that was proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) namespace: String,
    pub(super) name: String,
}

impl ServiceAccounts {
    /// With the key set in a file. `issuer` is the cluster's (`kubectl get --raw /.well-known/openid-configuration`).
    ///
    /// # Errors
    /// See [`AccountsError`].
    pub fn open(path: &Path, issuer: &str) -> Result<Self, AccountsError> {
        let known = read(path)?;
        let verifier = Verifier::new(JwtProvider {
            name: "kubernetes".into(),
            issuer: issuer.into(),
            audiences: vec![AUDIENCE.into()],
            keys: KeySource::File(path.into()),
            algorithms: vec![
                JwtAlgorithm::Rs256,
                JwtAlgorithm::Rs384,
                JwtAlgorithm::Rs512,
                JwtAlgorithm::Es256,
                JwtAlgorithm::Es384,
                JwtAlgorithm::EdDsa,
            ],
            clock_skew: SKEW,
            from: Vec::new(),
            forward: false,
            claims_to_headers: Vec::new(),
            place: Place { file: path.display().to_string().into(), line: 1, column: 1 },
        });
        Ok(Self { verifier, path: path.to_owned(), keys: Mutex::new(known) })
    }

    /// Whose token it is.
    pub(super) fn verify(&self, token: &str, now: SystemTime) -> Result<Account, Refusal> {
        let keys = self.keys();
        let token = outrigger_jwt::parse(token)?;
        let verified = self.verifier.verify(&token, Some(&keys), now)?;
        account(&verified.claims).ok_or(Refusal::Malformed)
    }

    fn keys(&self) -> Arc<KeySet> {
        let mut known = self.keys.lock();
        if stamp(&self.path).is_ok_and(|stamp| stamp != known.stamp) {
            match read(&self.path) {
                Ok(fresh) => *known = fresh,
                Err(error) => tracing::warn!(%error, "the keys of service accounts stay as they are"),
            }
        }
        Arc::clone(&known.keys)
    }
}

/// A token of a service account names it twice; both must say the same.
fn account(claims: &Claims) -> Option<Account> {
    let text = |path: &[&str]| {
        let path: Vec<Arc<str>> = path.iter().map(|name| Arc::from(*name)).collect();
        claims.get(&path).and_then(Value::as_str).map(str::to_owned)
    };
    let namespace = text(&["kubernetes.io", "namespace"])?;
    let name = text(&["kubernetes.io", "serviceaccount", "name"])?;
    let subject = text(&["sub"])?;
    (subject == format!("system:serviceaccount:{namespace}:{name}")).then_some(Account { namespace, name })
}

fn read(path: &Path) -> Result<Known, AccountsError> {
    let io = |source| AccountsError::Io { path: path.to_owned(), source };
    // Before the contents: a change in between is seen next time.
    let stamp = stamp(path).map_err(io)?;
    let document = disk::read(path).map_err(io)?;
    let (keys, skipped) =
        KeySet::parse(&document).map_err(|source| AccountsError::Keys { path: path.to_owned(), source })?;
    for key in skipped {
        tracing::warn!(path = %path.display(), index = key.index, why = key.why, "a key of service accounts is not used");
    }
    Ok(Known { keys: Arc::new(keys), stamp })
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
}

impl fmt::Debug for ServiceAccounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceAccounts").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Whom tokens must be meant for: one that a pod uses for something else is of no use here.
const AUDIENCE: &str = "outrigger-control";
const SKEW: Duration = Duration::from_secs(30);
