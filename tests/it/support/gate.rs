//! Tests that measure time or memory want the machine to themselves; all others may overlap.
//!
//! Two lock files (so that it also works across processes): `room` is held shared by ordinary tests
//! and exclusively by measuring ones; `turnstile` is passed by everyone on the way in, so that a
//! waiting measurement is not overtaken for ever. A test holds its place until its thread ends.

use std::cell::RefCell;
use std::fs::File;

thread_local! {
    static PLACE: RefCell<Option<File>> = const { RefCell::new(None) };
}

/// Takes a place beside other ordinary tests, unless this test already has a place.
pub fn shared() {
    PLACE.with_borrow_mut(|place| {
        if place.is_none() {
            let turnstile = open("turnstile");
            turnstile.lock().expect("lock the turnstile");
            let room = open("room");
            room.lock_shared().expect("lock the room");
            *place = Some(room);
        }
    });
}

/// Waits until no other test runs and keeps it so. Call it first in a test that measures.
pub fn exclusive() {
    PLACE.with_borrow_mut(|place| {
        // With one test thread the place of the test before is still here.
        *place = None;
        let turnstile = open("turnstile");
        turnstile.lock().expect("lock the turnstile");
        let room = open("room");
        room.lock().expect("lock the room");
        *place = Some(room);
    });
}

fn open(name: &str) -> File {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("it-{name}.lock"));
    File::options().create(true).append(true).open(path).expect("open a lock file")
}
