use std::time::{Instant, UNIX_EPOCH};

use http::Version;
use serde_json::Value;

use super::*;

const LONG: Duration = Duration::from_secs(10);

fn entry() -> Entry<'static> {
    Entry {
        start: UNIX_EPOCH + Duration::from_millis(951_782_400_123),
        method: "GET",
        authority: Some("shop.example"),
        path: "/a/b?token=secret",
        protocol: Version::HTTP_2,
        status: 503,
        reason: "UF",
        details: "connect_failure",
        bytes_received: 1,
        bytes_sent: 2,
        duration: Duration::from_micros(12_034),
        upstream_time: None,
        upstream_host: Some(([10, 0, 0, 7], 80).into()),
        upstream_cluster: Some("shop"),
        route: Some("r"),
        listener: "in",
        request_id: Some(b"id"),
        x_forwarded_for: None,
        user_agent: Some(b"curl"),
        peer: ([127, 0, 0, 1], 4000).into(),
        attempts: 2,
        grpc_status: Some(14),
        peer_identity: Some("spiffe://mesh.local/ns/shop/sa/cart"),
        tls_version: Some("TLSv1.3"),
        authz_rule: Some("allow-cart"),
        authz_shadow: None,
        authz_audit: None,
    }
}

fn line(entry: &Entry<'_>) -> String {
    let mut out = Vec::new();
    entry.write(&mut out);
    String::from_utf8(out).expect("UTF-8")
}

fn to_file(path: &Path, metrics: &Arc<Metrics>) -> Arc<AccessLog> {
    let log = AccessLog::off(metrics);
    let sink = AccessLog::open(&model::AccessLog::File(path.to_owned())).expect("the file opens");
    log.switch(sink).expect("the thread starts");
    log
}

#[test]
fn a_line_is_the_object_it_should_be() {
    let line = line(&entry());
    assert!(line.ends_with("}\n"));
    let expected = r#"{"start_time":"2000-02-29T00:00:00.123Z","method":"GET","authority":"shop.example","path":"/a/b",
        "protocol":"HTTP/2","response_code":503,"response_flags":"UF","response_code_details":"connect_failure",
        "bytes_received":1,"bytes_sent":2,"duration":12.034,"upstream_host":"10.0.0.7:80","upstream_cluster":"shop",
        "route_name":"r","listener":"in","request_id":"id","user_agent":"curl",
        "downstream_remote_address":"127.0.0.1:4000","attempts":2,"grpc_status":14,
        "peerIdentity":"spiffe://mesh.local/ns/shop/sa/cart","tlsVersion":"TLSv1.3","authzRule":"allow-cart"}"#;
    let parse = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
    assert_eq!(parse(&line), parse(expected));
}

#[test]
fn addresses_are_written_as_they_usually_are() {
    for text in ["127.0.0.1:1", "255.10.0.9:65535", "0.0.0.0:0", "[::1]:80", "[2001:db8::7]:443"] {
        let line = line(&Entry { peer: text.parse().expect("an address"), ..entry() });
        assert!(line.contains(&format!("\"downstream_remote_address\":\"{text}\"")), "{line}");
    }
}

#[test]
fn the_query_is_never_logged() {
    assert!(!line(&entry()).contains("secret"));
}

#[test]
fn any_bytes_of_a_caller_give_one_line_of_valid_json() {
    let all: Vec<u8> = (0..=255).collect();
    let entry = Entry { user_agent: Some(&all), x_forwarded_for: Some("naïve \u{2028}".as_bytes()), ..entry() };
    let line = line(&entry);
    assert_eq!(line.matches('\n').count(), 1);
    let value: Value = serde_json::from_str(&line).expect("JSON");
    let agent = value["user_agent"].as_str().expect("a string");
    assert!(agent.starts_with("\0\u{1}\u{2}") && agent.contains("\"#") && agent.ends_with('\u{fffd}'));
    assert_eq!(value["x_forwarded_for"], "naïve \u{2028}");
}

#[test]
fn a_long_field_is_cut() {
    let agent = vec![b'x'; limits::ACCESS_LOG_FIELD + 1];
    let line = line(&Entry { user_agent: Some(&agent), ..entry() });
    let value: Value = serde_json::from_str(&line).expect("JSON");
    let agent = value["user_agent"].as_str().expect("a string");
    assert_eq!(agent.chars().count(), limits::ACCESS_LOG_FIELD + 1);
    assert!(agent.ends_with("x\u{2026}"));
}

#[test]
fn lines_of_several_threads_all_arrive_whole() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("log");
    let metrics = Metrics::new();
    let log = to_file(&path, &metrics);
    std::thread::scope(|scope| {
        for index in 0..4 {
            let log = &log;
            scope.spawn(move || {
                worker::enter(index, 4);
                for _ in 0..500 {
                    log.submit(&entry());
                }
            });
        }
    });
    assert!(log.flush(LONG));
    let text = std::fs::read_to_string(&path).expect("the file");
    assert!(text.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
    assert_eq!(text.lines().count() as u64 + metrics.proxy.log_dropped_total(), 2000);
    assert_eq!(metrics.proxy.log_dropped_total(), 0, "2000 lines fit into the queue");
}

#[test]
fn a_log_that_is_off_takes_nothing_and_has_no_thread() {
    let log = AccessLog::off(&Metrics::new());
    log.switch(AccessLog::open(&model::AccessLog::Off).expect("nothing to open")).expect("nothing to start");
    log.submit(&entry());
    assert!(!log.is_on() && log.writer.get().is_none());
    assert!(log.flush(Duration::ZERO));
}

#[test]
fn lines_over_the_limit_are_dropped_and_counted_and_the_caller_never_waits() {
    let metrics = Metrics::new();
    let log = AccessLog::off(&metrics);
    // Without a writer thread nothing empties the buffers.
    log.shared.enabled.store(true, Ordering::Relaxed);
    for _ in 0..limits::ACCESS_LOG_QUEUE + 7 {
        log.submit(&entry());
    }
    assert_eq!(metrics.proxy.log_dropped_total(), 7);
    assert_eq!(log.shared.queued.load(Ordering::Relaxed), limits::ACCESS_LOG_QUEUE);
}

#[test]
fn after_a_rotation_a_reopened_log_writes_to_the_new_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, moved) = (dir.path().join("log"), dir.path().join("log.1"));
    let log = to_file(&path, &Metrics::new());
    log.submit(&entry());
    assert!(log.flush(LONG));
    std::fs::rename(&path, &moved).expect("the rotation");
    log.reopen();
    log.submit(&entry());
    assert!(log.flush(LONG));
    for file in [&path, &moved] {
        assert_eq!(std::fs::read_to_string(file).expect("the file").lines().count(), 1, "{}", file.display());
    }
}

#[test]
fn a_line_after_a_quiet_time_is_written_without_a_flush() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("log");
    let log = to_file(&path, &Metrics::new());
    assert!(log.flush(LONG));
    let deadline = Instant::now() + LONG;
    while !log.shared.idle.load(Ordering::Relaxed) {
        assert!(Instant::now() < deadline, "the writer never became idle");
        std::thread::yield_now();
    }
    log.submit(&entry());
    while std::fs::read_to_string(&path).expect("the file").is_empty() {
        assert!(Instant::now() < deadline, "the line was never written");
        std::thread::yield_now();
    }
}

#[test]
fn a_destination_that_fails_costs_lines_and_counts_them() {
    let metrics = Metrics::new();
    let full = Path::new("/dev/full");
    if !full.exists() {
        return;
    }
    let log = to_file(full, &metrics);
    log.submit(&entry());
    assert!(log.flush(LONG));
    assert_eq!(metrics.proxy.log_dropped_total(), 1);
}

#[test]
fn a_file_that_cannot_be_opened_is_an_error_before_anything_changes() {
    let target = model::AccessLog::File("/nonexistent/dir/log".into());
    assert!(AccessLog::open(&target).is_err());
}
