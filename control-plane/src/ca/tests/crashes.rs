//! What a crash at any instant of a step leaves behind, by trying them all.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::disk::{Disk, FileSystem};
use super::*;

/// A disk that stops after some steps; of the write that it stops in, half is done.
struct Crashing(Arc<AtomicUsize>);

impl Crashing {
    fn goes_on(&self) -> io::Result<()> {
        let step = |left: usize| left.checked_sub(1);
        match self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, step) {
            Ok(_) => Ok(()),
            Err(_) => Err(io::Error::other("crashed")),
        }
    }
}

impl Disk for Crashing {
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.goes_on().inspect_err(|_| drop(FileSystem.write(path, &bytes[..bytes.len() / 2])))?;
        FileSystem.write(path, bytes)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.goes_on().and_then(|()| FileSystem.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.goes_on().and_then(|()| FileSystem.remove(path))
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.goes_on().and_then(|()| FileSystem.sync_folder(path))
    }
}

fn open_on(folder: &Path, left: &Arc<AtomicUsize>) -> Result<Authority, AuthorityError> {
    let clock = Arc::new(ManualClock::at(start()));
    let disk = Box::new(Crashing(Arc::clone(left)));
    Authority::open_on(settings(folder), clock, Arc::new(MemoryAudit::default()), disk)
}

/// What is in the folder is exactly what counts.
fn check_files(folder: &Path, status: &RotationStatus) {
    let signers = [Some(&status.signer), status.other.as_ref()].into_iter().flatten();
    let mut expected: BTreeSet<String> =
        signers.flat_map(|signer| ["pem", "key"].map(|kind| format!("{}.{kind}", signer.fingerprint))).collect();
    expected.extend(["lock", "state.json"].map(str::to_owned));
    let entries = fs::read_dir(folder.join("ca")).expect("a folder");
    let found: BTreeSet<String> =
        entries.map(|entry| entry.expect("one").file_name().into_string().expect("text")).collect();
    assert_eq!(found, expected);
}

#[test]
fn the_first_start_can_be_killed_at_any_instant() {
    let mut survived = 0;
    for steps in 0.. {
        let folder = TempDir::new().expect("a folder");
        let first = open_on(folder.path(), &Arc::new(AtomicUsize::new(steps)));
        let done = first.as_ref().ok().map(Authority::bundle_pem);
        drop(first);
        let authority = open_on(folder.path(), &Arc::new(AtomicUsize::new(usize::MAX))).expect("the next start works");
        check_files(folder.path(), &authority.status(&all()));
        assert_eq!(believes(&authority.bundle(), &issue(&authority).chain, start()), Ok(()));
        if let Some(done) = done {
            assert_eq!(done, authority.bundle_pem());
            break;
        }
        survived += 1;
    }
    assert_eq!(survived, 9, "three files, each written, named and synced");
}

#[test]
fn every_step_can_be_killed_at_any_instant() {
    let rotation = [Step::Introduce, Step::Sign, Step::Retire];
    let way = |steps: &[Step], last: Step| (steps.to_vec(), last);
    let ways = [
        way(&[], Step::Introduce),
        way(&rotation[..1], Step::Sign),
        way(&rotation[..1], Step::Withdraw),
        way(&rotation[..2], Step::Retire),
    ];
    for (before, step) in ways {
        let mut crashes = 0;
        for steps in 0.. {
            let folder = TempDir::new().expect("a folder");
            let left = Arc::new(AtomicUsize::new(usize::MAX));
            let authority = open_on(folder.path(), &left).expect("an authority");
            let rotate = |step: Step| authority.rotate(step, Force::Yes, "test", &all());
            before.iter().for_each(|step| rotate(*step).expect("a step"));
            let (was, issued) = (authority.status(&all()), issue(&authority));
            left.store(steps, Ordering::SeqCst);
            let result = rotate(step);
            let crashed = left.load(Ordering::SeqCst) == 0;
            let running = authority.status(&all());
            assert!(result.is_ok() || running == was, "what failed is not in effect");
            assert_eq!(believes(&authority.bundle(), &issue(&authority).chain, start()), Ok(()), "it goes on");
            drop(authority);

            let again = open_on(folder.path(), &Arc::new(AtomicUsize::new(usize::MAX))).expect("the next start works");
            let now = again.status(&all());
            let phases = if result.is_ok() { vec![running.phase] } else { vec![was.phase, after(step)] };
            assert!(phases.contains(&now.phase), "{step:?} after {steps}: {} is none of {phases:?}", now.phase);
            check_files(folder.path(), &now);
            assert_eq!(believes(&again.bundle(), &issue(&again).chain, start()), Ok(()));
            // What signed before is believed, whether or not the step was taken.
            assert_eq!(believes(&again.bundle(), &issued.chain, start()), Ok(()), "{step:?} after {steps}");
            // And the rotation can be brought to its end.
            let next = again.status(&all()).next;
            again.rotate(next, Force::Yes, "test", &all()).expect("it goes on from there");
            if !crashed {
                break;
            }
            crashes += 1;
        }
        assert!(crashes >= 3, "{step:?} was killed {crashes} times");
    }
}

fn after(step: Step) -> &'static str {
    match step {
        Step::Introduce => "introduced",
        Step::Sign => "signing",
        Step::Retire | Step::Withdraw => "stable",
    }
}
