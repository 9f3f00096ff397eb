use std::path::PathBuf;
use std::time::Duration;

use outrigger_config::model::{SessionCarrier, SessionPersistence};
use proptest::prelude::*;

use super::{BASE64URL_NOPAD, Namer, Session, TooShort};

const ONE: &[u8] = b"0123456789abcdef0123456789abcdef";
const OTHER: &[u8] = b"fedcba9876543210fedcba9876543210";

fn namer(key: &[u8]) -> Namer {
    Namer::new(key, None).expect("long enough")
}

fn session() -> Session {
    Session { endpoint: ([10, 0, 0, 7], 8080).into(), backend: 7, began: 1_000, used: 2_000 }
}

fn settings(absolute: Option<u64>, idle: Option<u64>) -> SessionPersistence {
    SessionPersistence {
        carrier: SessionCarrier::Cookie { name: "s".into(), permanent: false, path: None },
        absolute_timeout: absolute.map(Duration::from_secs),
        idle_timeout: idle.map(Duration::from_secs),
        key_file: PathBuf::from("key"),
        strict: false,
    }
}

#[test]
fn a_name_is_read_by_those_with_the_key_and_for_its_carrier() {
    let name = namer(ONE).name(&session(), "s", [1; 12]);
    assert_eq!(namer(ONE).read(name.as_bytes(), "s"), Some(session()));
    assert_eq!(namer(OTHER).read(name.as_bytes(), "s"), None);
    assert_eq!(namer(ONE).read(name.as_bytes(), "t"), None);
}

#[test]
fn a_changed_name_is_not_believed() {
    let name = namer(ONE).name(&session(), "s", [1; 12]);
    let sealed = BASE64URL_NOPAD.decode(name.as_bytes()).expect("as encoded");
    for bit in 0..sealed.len() * 8 {
        let mut forged = sealed.clone();
        forged[bit / 8] ^= 1 << (bit % 8);
        let forged = BASE64URL_NOPAD.encode(&forged);
        assert_eq!(namer(ONE).read(forged.as_bytes(), "s"), None, "bit {bit}");
    }
    assert_eq!(namer(ONE).read(&name.as_bytes()[..name.len() - 1], "s"), None);
    assert_eq!(namer(ONE).read(&[name.as_bytes(), b"AA"].concat(), "s"), None);
}

#[test]
fn a_name_says_nothing_to_others() {
    let sealed = |session: &Session| BASE64URL_NOPAD.decode(namer(ONE).name(session, "s", [1; 12]).as_bytes());
    let sealed = sealed(&session()).expect("as encoded");
    assert!(!sealed.windows(4).any(|bytes| bytes == [10, 0, 0, 7]));
}

#[test]
fn a_key_is_long_enough() {
    assert_eq!(Namer::new(&ONE[..31], None).err(), Some(TooShort(31)));
    assert_eq!(Namer::new(&[&ONE[..31], b"\n"].concat(), None).err(), Some(TooShort(31)));
    let name = namer(ONE).name(&session(), "s", [1; 12]);
    assert!(namer(&[ONE, b"\n"].concat()).read(name.as_bytes(), "s").is_some(), "a line end makes no other key");
}

#[test]
fn names_of_the_key_before_are_still_read_and_older_ones_are_not() {
    let first = namer(ONE);
    let old = first.name(&session(), "s", [1; 12]);
    let second = Namer::new(OTHER, Some(&first)).expect("long enough");
    assert!(second.read(old.as_bytes(), "s").is_some());
    assert!(first.read(second.name(&session(), "s", [2; 12]).as_bytes(), "s").is_none());
    let same = Namer::new(OTHER, Some(&second)).expect("long enough");
    assert!(same.read(old.as_bytes(), "s").is_some(), "reading the same file again changes nothing");
    assert!(same.is_like(&second) && !same.is_like(&first));
    let third = Namer::new(&[b'x'; 40], Some(&same)).expect("long enough");
    assert!(third.read(old.as_bytes(), "s").is_none());
}

#[test]
fn sessions_end_by_age_and_by_silence() {
    let session = session();
    let holds = |absolute, idle, now| session.holds(&settings(absolute, idle), now);
    assert!(holds(None, None, u64::MAX));
    assert!(holds(Some(5_000), None, 5_999) && !holds(Some(5_000), None, 6_000));
    assert!(holds(None, Some(100), 2_099) && !holds(None, Some(100), 2_100));
    assert!(!holds(Some(5_000), Some(100), 2_100));
    assert!(holds(Some(10), Some(10), 0), "a clock that is behind ends nothing");
}

#[test]
fn use_is_noted_when_a_tenth_of_the_idle_timeout_has_passed() {
    let session = session();
    let stale = |idle, now| session.is_stale(&settings(None, idle), now);
    assert!(!stale(None, 1_000_000));
    assert!(!stale(Some(100), 2_009) && stale(Some(100), 2_010));
    assert!(!stale(Some(2), 2_000) && stale(Some(2), 2_001));
}

proptest! {
    #[test]
    fn every_session_is_read_as_it_was_named(
        ip in any::<std::net::IpAddr>(), port: u16, backend: u64, began: u64, used: u64, nonce: [u8; 12],
    ) {
        let session = Session { endpoint: (ip, port).into(), backend, began, used };
        let name = namer(ONE).name(&session, "s", nonce);
        prop_assert!(name.len() <= super::NAME_BYTES);
        prop_assert_eq!(namer(ONE).read(name.as_bytes(), "s"), Some(session));
    }

    #[test]
    fn any_text_is_survived(text in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(namer(ONE).read(&text, "s"), None);
    }
}
