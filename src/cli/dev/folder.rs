//! Where the manifests and the data of `outrigger dev` are.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The manifests of the demo, by file name.
const MANIFESTS: [(&str, &str); 3] = [
    ("mesh.yaml", include_str!("../../../deploy/examples/demo/mesh.yaml")),
    ("shop.yaml", include_str!("../../../deploy/examples/demo/shop.yaml")),
    ("payments.yaml", include_str!("../../../deploy/examples/demo/payments.yaml")),
];
/// The ports that they name. One that is taken is replaced in the copy.
const PORTS: [u16; 6] = [15001, 15006, 15101, 15106, 18080, 18081];
/// Where a user's own manifests are, the data is kept in this folder beside them. Hidden, so that nobody takes it for
/// manifests.
const DATA: &str = ".outrigger";

/// Manifests, and a place for what has to be kept.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) manifests: PathBuf,
    pub(super) data: PathBuf,
    /// Made for this run, and goes with it.
    own: Option<PathBuf>,
}

impl Folder {
    /// A user's manifests. What is made for them (authority, certificates, accepted generations) stays for the next time.
    pub(super) fn of(manifests: PathBuf) -> io::Result<Self> {
        if !fs::metadata(&manifests)?.is_dir() {
            return Err(io::Error::new(io::ErrorKind::NotADirectory, "it is not a directory"));
        }
        let data = manifests.join(DATA);
        DirBuilder::new().recursive(true).mode(0o700).create(&data)?;
        Ok(Self { manifests, data, own: None })
    }

    /// A copy of the demo's manifests in a new folder.
    pub(super) fn demo() -> io::Result<Self> {
        let own = make()?;
        // From here on it is removed at the end, also of a failure below.
        let folder = Self { manifests: own.join("manifests"), data: own.join("data"), own: Some(own) };
        for path in [&folder.manifests, &folder.data] {
            DirBuilder::new().mode(0o700).create(path)?;
        }
        let ports = Ports::choose()?;
        for (name, text) in MANIFESTS {
            write_new(&folder.manifests.join(name), &ports.put(text))?;
        }
        Ok(folder)
    }

    pub(super) fn is_demo(&self) -> bool {
        self.own.is_some()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Some(own) = &self.own {
            // One that somebody has removed already is fine.
            let _ = fs::remove_dir_all(own);
        }
    }
}

/// A file that only its owner may read.
pub(super) fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = File::options().create_new(true).write(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

/// A new folder for its owner only. The temporary folder is everybody's: one that is there already may be a trap.
fn make() -> io::Result<PathBuf> {
    let process = std::process::id();
    let mut taken = io::ErrorKind::AlreadyExists.into();
    for attempt in 0..100 {
        let folder = std::env::temp_dir().join(format!("outrigger-dev-{process}-{attempt}"));
        match DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => taken = error,
            Err(error) => return Err(error),
        }
    }
    Err(taken)
}

/// Which port stands for which of [`PORTS`].
struct Ports([(u16, u16); PORTS.len()]);

impl Ports {
    fn choose() -> io::Result<Self> {
        let mut chosen = [(0, 0); PORTS.len()];
        let mut held = Vec::new();
        for (pair, port) in chosen.iter_mut().zip(PORTS) {
            let socket = near(port)?;
            *pair = (port, socket.local_addr()?.port());
            // Held until all are chosen, so that no port is chosen twice.
            held.push(socket);
        }
        Ok(Self(chosen))
    }

    fn put(&self, text: &str) -> String {
        self.0
            .iter()
            .fold(text.to_owned(), |text, (usual, chosen)| text.replace(&usual.to_string(), &chosen.to_string()))
    }
}

/// The port itself, or any that is free. Bound without sharing, so that a program that runs already is noticed.
pub(super) fn near(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_manifests_are_their_owners_and_go_with_the_demo() {
        let folder = Folder::demo().expect("made");
        let own = folder.own.clone().expect("a folder of its own");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!([&own, &folder.manifests, &folder.data].map(|path| mode(path)), [0o700; 3]);
        for (name, _) in MANIFESTS {
            assert_eq!(mode(&folder.manifests.join(name)), 0o600);
        }
        drop(folder);
        assert!(!own.exists());
    }

    #[test]
    fn a_taken_port_is_replaced_by_a_free_one() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = taken.local_addr().expect("an address").port();
        assert_ne!(near(port).expect("another port").local_addr().expect("an address").port(), port);
    }

    #[test]
    fn every_port_that_is_bound_is_among_those_that_are_replaced() {
        let mut seen = std::collections::BTreeSet::new();
        for (name, text) in MANIFESTS {
            for number in text.split(|c: char| !c.is_ascii_digit()).filter(|word| word.len() == 5) {
                let port: u16 = number.parse().expect("a port");
                assert!(PORTS.contains(&port), "{name}: {port}");
                seen.insert(port);
            }
        }
        assert_eq!(seen.len(), PORTS.len(), "each stands in a manifest: {seen:?}");
    }
}
