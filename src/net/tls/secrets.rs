//! The files with secrets that a configuration names, as they were at one moment: for TLS, and the keys that sessions are
//! named with.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use outrigger_config::model::{CertificateFiles, ClientTrust, ClusterTlsMode, Config, Place, SessionPersistence};

use super::certificate::{hex, sha256};
use crate::base::limits;

/// How often reading begins again because a file changed meanwhile.
const ATTEMPTS: usize = 8;

/// The contents of certificate, key, bundle and list files by path, or why they could not be read. Never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets {
    files: BTreeMap<PathBuf, Result<Arc<Content>, String>>,
}

#[derive(PartialEq, Eq)]
struct Content {
    sha256: [u8; 32],
    bytes: Vec<u8>,
}

impl Secrets {
    /// Reads everything that `config` names. Files that belong together may be replaced while they are read:
    /// then all are read again, so that a certificate does not meet the key of its predecessor. What is equal to
    /// what `previous` holds is shared with it. Blocks; a file that cannot be read is an error when it is used.
    #[must_use]
    pub fn read(config: &Config, previous: &Self) -> Self {
        let paths = Self::paths(config);
        let mut attempt = 0;
        loop {
            attempt += 1;
            let mut stamps = Vec::with_capacity(paths.len());
            let mut files = BTreeMap::new();
            for path in &paths {
                stamps.push(Stamp::of(path));
                let read = read(path).map_err(|error| error.to_string());
                files.insert(path.clone(), read.map(|bytes| previous.shared(path, bytes)));
            }
            let settled = paths.iter().zip(&stamps).all(|(path, stamp)| Stamp::of(path) == *stamp);
            if settled || attempt == ATTEMPTS {
                return Self { files };
            }
        }
    }

    /// Contents that came another way than from files.
    pub fn from_contents(contents: impl IntoIterator<Item = (PathBuf, Vec<u8>)>) -> Self {
        let content = |bytes: Vec<u8>| Arc::new(Content { sha256: sha256(&bytes), bytes });
        Self { files: contents.into_iter().map(|(path, bytes)| (path, Ok(content(bytes)))).collect() }
    }

    /// Every file that `config` names for TLS and for names of sessions, once, in order.
    #[must_use]
    pub fn paths(config: &Config) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        let pair = |paths: &mut Vec<PathBuf>, files: &CertificateFiles| {
            paths.extend([files.certificate.clone(), files.private_key.clone()]);
        };
        if let Some(identity) = &config.identity {
            pair(&mut paths, &identity.certificate);
            paths.push(identity.trust_bundle.clone());
            paths.extend(identity.federated_bundles.values().cloned());
            paths.extend(identity.revocation_lists.iter().cloned());
            paths.extend(identity.proposed_trust_bundle.clone());
        }
        for tls in config.listeners.iter().filter_map(|listener| listener.tls.as_ref()) {
            tls.certificates.iter().for_each(|files| pair(&mut paths, files));
            if let ClientTrust::Roots(roots) = &tls.client_trust {
                paths.push(roots.clone());
            }
        }
        for tls in config.clusters.values().filter_map(|cluster| cluster.tls.as_ref()) {
            if let ClusterTlsMode::Simple { trust_bundle, subject_names: _, certificate } = &tls.mode {
                paths.push(trust_bundle.clone());
                certificate.iter().for_each(|files| pair(&mut paths, files));
            }
        }
        paths.extend(sessions(config).map(|(session, _)| session.key_file.clone()));
        paths.sort_unstable();
        paths.dedup();
        paths
    }

    /// A fingerprint of all contents, in hexadecimal digits: equal when everything is.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut all = Vec::new();
        for (path, content) in &self.files {
            all.extend_from_slice(path.as_os_str().as_encoded_bytes());
            all.push(0);
            match content {
                Ok(content) => all.extend_from_slice(&content.sha256),
                Err(problem) => all.extend_from_slice(problem.as_bytes()),
            }
        }
        hex(&sha256(&all))
    }

    /// A file's contents, or why there are none.
    pub(super) fn get(&self, path: &Path) -> Result<&[u8], &str> {
        match self.files.get(path) {
            Some(Ok(content)) => Ok(&content.bytes),
            Some(Err(problem)) => Err(problem),
            None => Err("it was not read"),
        }
    }

    fn shared(&self, path: &Path, bytes: Vec<u8>) -> Arc<Content> {
        match self.files.get(path) {
            Some(Ok(known)) if known.bytes == bytes => Arc::clone(known),
            _ => Arc::new(Content { sha256: sha256(&bytes), bytes }),
        }
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes =
            self.files.iter().map(|(path, content)| (path, content.as_ref().map(|content| content.bytes.len())));
        f.debug_map().entries(sizes).finish()
    }
}

/// Sessions of rules, and where the rules are written.
pub(super) fn sessions(config: &Config) -> impl Iterator<Item = (&SessionPersistence, &Place)> {
    let rules = config.routes.values().flat_map(|table| &table.hosts).flat_map(|host| &host.rules);
    rules.filter_map(|rule| Some((rule.session.as_ref()?, &rule.place)))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file that is too large.
    fs::File::open(path)?.take(limits::SECRET_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limits::SECRET_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it is larger than {} bytes", limits::SECRET_BYTES),
        ));
    }
    Ok(bytes)
}

/// Tells one state of a file from another. Links are followed: mounted volumes swap a directory behind a link.
#[derive(PartialEq, Eq)]
struct Stamp(Option<(u64, u64, u64, i64, i64)>);

impl Stamp {
    fn of(path: &Path) -> Self {
        let of = |file: fs::Metadata| (file.dev(), file.ino(), file.len(), file.mtime(), file.mtime_nsec());
        Self(fs::metadata(path).ok().map(of))
    }
}
