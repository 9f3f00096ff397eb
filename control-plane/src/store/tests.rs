use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::*;

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn entry(action: &str) -> AuditEntry {
    AuditEntry {
        at: at(1),
        who: "token:ci".to_owned(),
        from: "127.0.0.1:1".to_owned(),
        action: action.to_owned(),
        subject: String::new(),
        outcome: Outcome::Done,
        detail: String::new(),
    }
}

fn object(name: &str, text: &str) -> NewObject {
    let key = ObjectKey::new("Service", "shop", name);
    NewObject { key, text: text.into(), file: "shop.yaml".into(), line: 3, origin: Origin::Push }
}

fn generation(base: u64, puts: Vec<NewObject>, deletes: &[&str]) -> NewGeneration {
    NewGeneration {
        base,
        who: "token:ci".to_owned(),
        at: at(1_000 + i64::try_from(base).expect("small")),
        source: Origin::Push,
        restores: None,
        message: format!("after {base}"),
        puts,
        deletes: deletes.iter().map(|name| ObjectKey::new("Service", "shop", name)).collect(),
        files: BTreeMap::new(),
        audit: entry("apply"),
    }
}

fn open(folder: &Path) -> Sqlite {
    Sqlite::open(folder).expect("the store opens")
}

fn names(store: &Sqlite, number: u64) -> Vec<String> {
    let objects = store.objects(number).expect("the generation is there");
    objects.iter().map(|stored| format!("{}={}@{}", stored.object.key.name, stored.object.text, stored.since)).collect()
}

#[test]
fn every_generation_has_its_objects_and_what_it_changed_also_after_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path());
    assert_eq!(store.latest().expect("readable"), None);
    store.accept(generation(0, vec![object("a", "1"), object("b", "1")], &[])).expect("accepted");
    store.accept(generation(1, vec![object("a", "2"), object("c", "1")], &["b"])).expect("accepted");
    // What was once comes back with the same text.
    let third = store.accept(generation(2, vec![object("b", "1")], &["c", "never"])).expect("accepted");
    assert_eq!((third.number, third.added, third.changed, third.removed, third.objects), (3, 1, 0, 1, 2));

    drop(store);
    let store = open(folder.path());
    assert_eq!(store.latest().expect("readable"), Some(third));
    assert_eq!(names(&store, 1), ["a=1@1", "b=1@1"]);
    assert_eq!(names(&store, 2), ["a=2@2", "c=1@2"]);
    assert_eq!(names(&store, 3), ["a=2@2", "b=1@3"]);
    let changes = store.changes(2).expect("the generation is there");
    let kinds: Vec<_> = changes.iter().map(|change| (&*change.key.name, change.kind())).collect();
    assert_eq!(kinds, [("a", ChangeKind::Changed), ("b", ChangeKind::Removed), ("c", ChangeKind::Added)]);
    assert_eq!(changes[0].before.as_ref().map(|stored| &*stored.object.text), Some("1"));
    let history = store.history(Some(3), 10).expect("readable");
    assert_eq!(history.iter().map(|one| one.number).collect::<Vec<_>>(), [2, 1]);
    assert!(matches!(store.objects(4), Err(StoreError::NotFound(4))));
    assert_eq!(store.audit_log(None, 10).expect("readable").len(), 3);
}

#[test]
fn a_change_that_was_made_for_another_generation_stores_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path());
    store.accept(generation(0, vec![object("a", "1")], &[])).expect("accepted");
    let late = store.accept(generation(0, vec![object("a", "2")], &[]));
    assert!(matches!(late, Err(StoreError::Conflict { expected: 0, latest: 1 })));
    assert_eq!(names(&store, 1), ["a=1@1"]);
    assert_eq!(store.audit_log(None, 10).expect("readable").len(), 1);
}

#[test]
fn equal_texts_are_stored_once_and_old_generations_are_forgotten() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path());
    store.accept(generation(0, vec![object("stays", "same"), object("turns", "0")], &[])).expect("accepted");
    for base in 1..MAX_GENERATIONS + 5 {
        store.accept(generation(base, vec![object("turns", &(base % 3).to_string())], &[])).expect("accepted");
    }
    let oldest = 6;
    assert!(matches!(store.objects(oldest - 1), Err(StoreError::NotFound(_))));
    assert_eq!(names(&store, oldest), ["stays=same@1".to_owned(), format!("turns={}@{oldest}", (oldest - 1) % 3)]);
    let count = |table: &str| {
        let sql = format!("SELECT count(*) FROM {table}");
        store.read(|connection| Ok(connection.query_row(&sql, [], |row| row.get::<_, i64>(0))?)).expect("readable")
    };
    assert_eq!(count("contents"), 4);
    assert_eq!(count("generations"), i64::try_from(MAX_GENERATIONS).expect("small"));
    assert_eq!(count("objects"), i64::try_from(MAX_GENERATIONS).expect("small") + 1);
}

#[test]
fn the_files_are_for_their_owner_and_one_process_at_a_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("deep/data");
    let store = open(&data);
    store.audit(entry("x")).expect("written");
    let mode = |path: &Path| path.metadata().expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    for entry in data.read_dir().expect("readable") {
        let path = entry.expect("readable").path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    let second = Sqlite::open(&data).expect_err("it is open");
    assert!(second.to_string().contains("another control plane"), "{second}");
    drop(store);
    open(&data);
}

#[test]
fn a_file_of_a_later_version_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(open(folder.path()));
    let connection = rusqlite::Connection::open(folder.path().join("control.db")).expect("opens");
    connection.pragma_update(None, "user_version", 99).expect("written");
    drop(connection);
    let error = Sqlite::open(folder.path()).expect_err("it is of a later version");
    assert!(error.to_string().contains("version 99"), "{error}");
}

#[test]
fn a_join_token_is_good_for_exactly_one_of_many() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path());
    let token = |id: &str| JoinToken {
        id: TokenId(id.to_owned()),
        hash: [7; 32],
        workload: "shop/a".to_owned(),
        created_by: "token:ci".to_owned(),
        created: at(1),
        expires: at(100),
        used: None,
        used_by: None,
        revoked: None,
    };
    for id in ["t", "late", "revoked"] {
        store.add_join_token(token(id)).expect("added");
    }
    let won: usize = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| store.use_join_token(&TokenId("t".to_owned()), at(50), "10.0.0.1").expect("works")))
            .collect();
        callers.into_iter().map(|caller| usize::from(caller.join().expect("no panic"))).sum()
    });
    assert_eq!(won, 1);
    assert!(!store.use_join_token(&TokenId("late".to_owned()), at(100), "x").expect("works"));
    assert!(store.revoke_token(&TokenId("revoked".to_owned()), at(2), entry("revoke")).expect("works"));
    assert!(!store.revoke_token(&TokenId("revoked".to_owned()), at(3), entry("revoke")).expect("works"));
    assert!(!store.use_join_token(&TokenId("revoked".to_owned()), at(50), "x").expect("works"));
    assert!(!store.use_join_token(&TokenId("never".to_owned()), at(50), "x").expect("works"));
    let used = store.join_token(&TokenId("t".to_owned())).expect("readable").expect("there");
    assert_eq!((used.used, used.used_by.as_deref()), (Some(at(50)), Some("10.0.0.1")));
    assert_eq!(store.join_tokens().expect("readable").len(), 3);
}

#[test]
fn api_tokens_come_back_as_they_were_stored() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path());
    let token = ApiToken {
        id: TokenId("abc".to_owned()),
        hash: [9; 32],
        name: "ci".to_owned(),
        role: Role::Pusher { namespaces: vec!["shop".to_owned()] },
        created_by: "token:admin".to_owned(),
        created: at(5),
        expires: Some(at(10)),
        revoked: None,
    };
    store.add_api_token(token.clone(), entry("token create")).expect("added");
    assert_eq!(store.api_token(&token.id).expect("readable"), Some(token.clone()));
    assert!(store.add_api_token(token, entry("token create")).is_err(), "its id is taken");
    // What failed left no trace, the entry of the audit log included.
    assert_eq!(store.audit_log(None, 10).expect("readable").len(), 1);
}

#[test]
fn answers_come_back_the_newest_first() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path());
    let refused = Verdict::Refused {
        kind: "Route".to_owned(),
        resource: "outbound".to_owned(),
        field: "virtual_hosts[0]".to_owned(),
        reason: "no".to_owned(),
    };
    let answer = |proxy: &str, generation, verdict: &Verdict| Answer {
        proxy: proxy.to_owned(),
        generation,
        at: at(9),
        verdict: verdict.clone(),
    };
    let all = [answer("shop/a", 1, &Verdict::Accepted), answer("shop/b", 1, &refused), answer("shop/a", 2, &refused)];
    store.record_answers(all.to_vec()).expect("queued");
    // The queue is in order: what is written behind the answers comes after them.
    store.audit(entry("x")).expect("written");
    assert_eq!(store.answers(Some("shop/a"), 10).expect("readable"), [all[2].clone(), all[0].clone()]);
    assert_eq!(store.answers(None, 2).expect("readable"), [all[2].clone(), all[1].clone()]);
}

#[test]
fn reads_do_not_wait_for_a_long_write() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Arc::new(open(folder.path()));
    store.accept(generation(0, vec![object("a", "1")], &[])).expect("accepted");
    let writing = Arc::new(AtomicBool::new(true));
    let (writer, busy) = (Arc::clone(&store), Arc::clone(&writing));
    let thread = std::thread::spawn(move || {
        let many = (0..20_000).map(|n| object(&format!("o{n}"), &format!("text {n}"))).collect();
        let result = writer.accept(generation(1, many, &[]));
        busy.store(false, Ordering::SeqCst);
        result
    });
    let mut during = 0;
    while writing.load(Ordering::SeqCst) {
        let latest = store.latest().expect("readable").expect("there").number;
        // What is seen is the old generation or the new one, whole.
        let objects = store.objects(latest).expect("readable").len();
        assert_eq!(objects, if latest == 1 { 1 } else { 20_001 });
        during += usize::from(latest == 1);
    }
    thread.join().expect("no panic").expect("accepted");
    assert!(during > 1, "reads went on while the write did");
}

/// The name of this test is the program of the child in the next one.
#[test]
fn child_that_writes_until_it_is_killed() {
    let Some(folder) = std::env::var_os("OUTRIGGER_STORE_TEST_FOLDER") else { return };
    let store = open(Path::new(&folder));
    let mut out = std::io::stdout().lock();
    let mut base = store.latest().expect("readable").map_or(0, |generation| generation.number);
    loop {
        // Generation N holds N in three objects: half of one would show.
        let text = (base + 1).to_string();
        let three = ["a", "b", "c"].map(|name| object(name, &text)).to_vec();
        base = store.accept(generation(base, three, &[])).expect("accepted").number;
        writeln!(out, "acknowledged {base}").expect("the parent reads");
        out.flush().expect("the parent reads");
    }
}

#[test]
fn killed_at_a_hundred_random_instants_nothing_acknowledged_is_lost_and_nothing_is_half_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 1) | 1;
    let mut acknowledged = 0;
    for round in 0..100 {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "store::tests::child_that_writes_until_it_is_killed", "--nocapture"])
            .env("OUTRIGGER_STORE_TEST_FOLDER", folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the child starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut read = |until: &mut dyn FnMut(u64) -> bool| {
            for line in lines.by_ref() {
                // The child may have been cut off within a line.
                let Ok(line) = line else { break };
                let number = line.rsplit_once("acknowledged ").and_then(|(_, number)| number.parse().ok());
                if let Some(number) = number
                    && until(number)
                {
                    break;
                }
            }
        };
        // From its first generation on: at any instant of the next few.
        read(&mut |number| {
            acknowledged = number;
            true
        });
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let killed_at = Instant::now() + Duration::from_micros(random % 20_000);
        while Instant::now() < killed_at {
            std::hint::spin_loop();
        }
        child.kill().expect("SIGKILL");
        child.wait().expect("it is ended");
        read(&mut |number| {
            acknowledged = number;
            false
        });

        let store = open(folder.path());
        let latest = store.latest().expect("readable").map_or(0, |generation| generation.number);
        assert!(latest >= acknowledged, "round {round}: {acknowledged} was acknowledged, {latest} is there");
        let history = store.history(None, 50).expect("readable");
        for (expected, generation) in (1..=latest).rev().zip(&history) {
            assert_eq!(generation.number, expected, "round {round}");
            let number = generation.number;
            let expected = ["a", "b", "c"].map(|name| format!("{name}={number}@{number}"));
            assert_eq!(names(&store, number), expected, "round {round}");
        }
    }
    assert!(acknowledged >= 100, "every child wrote: {acknowledged}");
}
