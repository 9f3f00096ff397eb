use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc;

use outrigger_config::model::{JwtProvider, Place, TokenPlace};

use super::*;
use crate::telemetry::Metrics;
use crate::upstream::dns::SystemResolver;

const FIRST: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
const LONG: Duration = Duration::from_secs(10);

fn registry() -> Arc<Registry> {
    Registry::new(1, Metrics::new(), Box::new(SystemResolver::default()))
}

fn provider(keys: KeySource) -> JwtProvider {
    JwtProvider {
        name: "corp".into(),
        issuer: "x".into(),
        audiences: vec!["x".into()],
        keys,
        algorithms: Vec::new(),
        clock_skew: Duration::ZERO,
        from: vec![TokenPlace::Query("t".into())],
        forward: false,
        claims_to_headers: Vec::new(),
        place: Place { file: "x".into(), line: 1, column: 1 },
    }
}

fn url(address: SocketAddr, refresh: Duration) -> KeySource {
    KeySource::Url {
        url: format!("http://{address}/jwks").into(),
        refresh,
        timeout: Duration::from_secs(5),
        trust_bundle: None,
    }
}

/// Answers one request after another with what it is given, and then no more.
fn server(answers: Vec<String>) -> (SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let (asked, questions) = mpsc::channel();
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n > 0) {
                head.push(byte[0]);
            }
            // A client that refuses what comes may close.
            let _ = stream.write_all(answer.as_bytes());
            if asked.send(String::from_utf8_lossy(&head).into_owned()).is_err() {
                return;
            }
        }
    });
    (address, questions)
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn source(address: SocketAddr) -> Source {
    Source { url: format!("http://{address}/a?b").into(), roots: None, limit: 1000 }
}

#[tokio::test]
async fn a_document_is_fetched_as_it_is() {
    let (address, questions) = server(vec![ok("hello")]);
    let document = fetch::fetch(&source(address), &registry()).await.expect("fetched");
    assert_eq!(&document[..], b"hello");
    let question = questions.recv().expect("a question").to_ascii_lowercase();
    assert!(question.starts_with("get /a?b http/1.1\r\n"), "{question}");
    assert!(question.contains(&format!("host: {address}\r\n")), "{question}");
}

#[tokio::test]
async fn anything_but_a_plain_small_answer_is_refused() {
    let (redirect, large) =
        ("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1/\r\ncontent-length: 0\r\n\r\n", "x".repeat(1001));
    let cases = [
        (redirect.to_owned(), "the server answered 302 Found"),
        ("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n".to_owned(), "the server answered 500 Internal Server Error"),
        (ok(&large), "the answer is larger than 1000 bytes"),
        (
            "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 1\r\n\r\nx".to_owned(),
            "the answer is compressed, which was not asked for",
        ),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx".to_owned(), "the answer broke off"),
        ("nonsense\r\n\r\n".to_owned(), "the request failed"),
        (String::new(), "the request failed"),
    ];
    let (address, _questions) = server(cases.iter().map(|(answer, _)| answer.clone()).collect());
    for (answer, problem) in cases {
        let error = fetch::fetch(&source(address), &registry()).await.expect_err("refused").to_string();
        assert!(error.starts_with(problem), "{answer:?}: {error}");
    }
}

#[tokio::test]
async fn the_last_good_keys_stay_and_a_document_that_is_the_same_changes_nothing() {
    let registry = registry();
    let broken = ok("<html>");
    let (address, _questions) = server(vec![broken.clone(), ok(FIRST), ok(FIRST), broken]);
    let provider = provider(url(address, Duration::from_millis(20)));
    let slot = registry.keys().slot(&provider);
    let keeping = tokio::spawn(keep(Arc::clone(&registry)));
    until("keys", || slot.current().is_some()).await;
    let first = slot.current().clone().expect("keys");
    until("a failure before the keys and one after them", || slot_failures(&registry) >= 2).await;
    assert!(Arc::ptr_eq(&first, slot.current().as_ref().expect("still there")));
    keeping.abort();
}

fn slot_failures(registry: &Registry) -> u32 {
    let text = registry.metrics().encode();
    let line = r#"outrigger_jwks_loads_total{provider="corp",result="failure"} "#;
    text.lines().find_map(|found| found.strip_prefix(line)).and_then(|n| n.parse().ok()).unwrap_or(0)
}

#[tokio::test]
async fn a_file_is_read_before_the_first_request_and_followed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("jwks.json");
    std::fs::write(&path, FIRST).expect("written");
    let registry = registry();
    let slot = registry.keys().slot(&provider(KeySource::File(path.clone())));
    Keeper::new(Arc::clone(&slot)).read(&path);
    let first = slot.current().clone().expect("keys at once");
    let keeping = tokio::spawn(keep(Arc::clone(&registry)));

    let fresh = folder.path().join("fresh");
    for text in ["", "{}", r#"{"keys":[]}"#] {
        std::fs::write(&fresh, text).expect("written");
        std::fs::rename(&fresh, &path).expect("replaced");
        let before = slot_failures(&registry);
        until("a failure", || slot_failures(&registry) > before).await;
        assert!(Arc::ptr_eq(&first, slot.current().as_ref().expect("still there")), "{text}");
    }
    std::fs::write(&fresh, format!("{FIRST}\n")).expect("written");
    std::fs::rename(&fresh, &path).expect("replaced");
    until("other keys", || slot.current().as_ref().is_some_and(|keys| !Arc::ptr_eq(keys, &first))).await;
    keeping.abort();
}

#[test]
fn pauses_grow_and_are_shorter_while_there_is_nothing() {
    let registry = registry();
    let slot = registry.keys().slot(&provider(KeySource::File("/x".into())));
    let mut keeper = Keeper::new(Arc::clone(&slot));
    let refresh = Duration::from_secs(600);
    let pauses = |keeper: &mut Keeper| -> Vec<u64> {
        (0..12)
            .map(|_| {
                keeper.fail("x");
                keeper.pause(refresh).as_secs()
            })
            .collect()
    };
    assert_eq!(keeper.pause(refresh), refresh);
    assert_eq!(pauses(&mut keeper)[..6], [1, 2, 4, 8, 15, 15]);
    keeper.take(FIRST.as_bytes());
    assert_eq!(keeper.pause(refresh), refresh);
    assert_eq!(pauses(&mut keeper)[6..], [64, 128, 256, 300, 300, 300]);
    assert_eq!(keeper.pause(Duration::from_secs(5)), Duration::from_secs(5), "never rarer than a refresh");
}

#[test]
fn another_place_is_another_slot_and_another_pace_is_not() {
    let registry = registry();
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    let slow = provider(url(address, Duration::from_secs(600)));
    let slot = registry.keys().slot(&slow);
    assert!(Arc::ptr_eq(&slot, &registry.keys().slot(&provider(url(address, Duration::from_secs(1))))));
    let mut other = provider(url(address, Duration::from_secs(600)));
    if let KeySource::Url { trust_bundle, .. } = &mut other.keys {
        *trust_bundle = Some("/roots.pem".into());
    }
    assert!(!Arc::ptr_eq(&slot, &registry.keys().slot(&other)));
    assert!(!Arc::ptr_eq(&slot, &registry.keys().slot(&provider(KeySource::File("/x".into())))));
    let fast = provider(url(address, Duration::from_secs(1)));
    registry.keys().want([&fast].into_iter());
    assert_eq!(registry.keys().slots().len(), 1);
    assert_eq!(slot.source(), fast.keys);
}
