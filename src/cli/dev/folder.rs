//! Where the manifests and the data of `outrigger dev` are.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};

use outrigger_control::serve;

/// The manifests of the demo, by file name.
const MANIFESTS: [(&str, &str); 3] = [
    ("mesh.yaml", include_str!("../../../deploy/examples/demo/mesh.yaml")),
    ("shop.yaml", include_str!("../../../deploy/examples/demo/shop.yaml")),
    ("payments.yaml", include_str!("../../../deploy/examples/demo/payments.yaml")),
];
/// The ports that they name. Where one is taken, all are moved in the copy.
const PORTS: [u16; 6] = [15001, 15006, 15101, 15106, 18080, 18081];
/// The ports of the control plane.
const OWN: [u16; 2] = [serve::GRPC_ADDRESS.port(), serve::API_ADDRESS.port()];
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
    pub(super) fn demo(ports: &Ports) -> io::Result<Self> {
        let own = make()?;
        // From here on it is removed at the end, also of a failure below.
        let folder = Self { manifests: own.join("manifests"), data: own.join("data"), own: Some(own) };
        for path in [&folder.manifests, &folder.data] {
            DirBuilder::new().mode(0o700).create(path)?;
        }
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

/// Ports of one run: the usual ones, or all moved by the same distance. Whoever holds one of these has its ports to itself,
/// as far as programs of this kind are concerned, although none of them is bound yet.
#[derive(Debug)]
pub(super) struct Ports {
    moved: u16,
    /// A name that one process at a time can have.
    _held: UnixListener,
}

/// How far apart the ports of two runs are. No two ports of [`PORTS`] differ by a multiple of it.
const STEP: u16 = 200;
/// Runs at a time.
const RUNS: u16 = 16;

impl Ports {
    /// The first block of ports that is free.
    pub(super) fn choose() -> io::Result<Self> {
        for run in 0..RUNS {
            let name = SocketAddr::from_abstract_name(format!("outrigger-dev-{run}"))?;
            let Ok(held) = UnixListener::bind_addr(&name) else { continue };
            let ports = Self { moved: run * STEP, _held: held };
            let free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, ports.of(port))).is_ok();
            if PORTS.into_iter().chain(OWN).all(free) {
                return Ok(ports);
            }
        }
        Err(io::Error::new(io::ErrorKind::AddrInUse, "its ports are taken, those from 15001 on among them"))
    }

    /// Where a usual port is in this run.
    pub(super) fn of(&self, usual: u16) -> u16 {
        usual + self.moved
    }

    fn put(&self, text: &str) -> String {
        PORTS
            .into_iter()
            .fold(text.to_owned(), |text, port| text.replace(&port.to_string(), &self.of(port).to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_manifests_are_their_owners_and_go_with_the_demo() {
        let folder = Folder::demo(&Ports::choose().expect("ports")).expect("made");
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
    fn two_runs_have_ports_of_their_own() {
        let (one, other) = (Ports::choose().expect("ports"), Ports::choose().expect("other ports"));
        let of = |ports: &Ports| PORTS.into_iter().chain(OWN).map(|port| ports.of(port)).collect::<Vec<_>>();
        assert!(of(&one).iter().all(|port| !of(&other).contains(port)));
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
