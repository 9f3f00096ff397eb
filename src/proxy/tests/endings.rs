//! How requests end, and that each ends once.

use super::*;

/// How many requests ended, and with which reason.
fn ended(harness: &Harness, reason: &str) -> (f64, f64) {
    let reason = format!("reason=\"{reason}\"");
    (harness.metric("outrigger_requests_total", &[]), harness.metric("outrigger_local_responses_total", &[&reason]))
}

#[tokio::test]
async fn a_caller_that_leaves_stops_the_upstream_and_is_counted_once() {
    let upstream = Upstream::new(&[Act::Wait]).await;
    let harness = Harness::to(&[upstream.address]);
    let (mut caller, serving) = harness.connect().await;
    caller.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("written");
    until("the upstream has the request", || upstream.requests() == 1).await;
    drop(caller);
    serving.await.expect("no panic");
    until("the upstream notices", || upstream.left.load(Ordering::Relaxed) == 1).await;
    assert_eq!(ended(&harness, "DC"), (1.0, 1.0));
    assert_eq!(harness.metric("outrigger_upstream_attempts_total", &["outcome=\"cancelled\""]), 1.0);
    harness.settles().await;
}

#[tokio::test]
async fn head_answered_here_is_complete() {
    let harness = Harness::new("filters: [{ directResponse: { status: 200, body: hello } }]", "", &[nobody().await]);
    let answer = harness.ask("HEAD / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\n"), "{answer}");
    assert_eq!(ended(&harness, "DC"), (1.0, 0.0));
    harness.settles().await;
}

#[tokio::test]
async fn half_a_response_reaches_the_caller_and_is_never_taken_for_a_whole_one() {
    let upstream =
        Upstream::new(&[Act::Last("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n")]).await;
    let harness = Harness::to(&[upstream.address]);
    let answer = harness.ask("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("what there was");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\n4\r\nhalf\r\n"), "{answer}");
    // HTTP/1.0 knows no other end of a body than the end of the connection.
    let broken = harness.ask("GET / HTTP/1.0\r\nhost: x\r\n\r\n").await;
    assert_eq!(broken.map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionReset));
    assert_eq!(ended(&harness, "UC"), (2.0, 2.0));
    harness.settles().await;
}

/// The head of an answer is no success yet, or an endpoint that dies within each of its answers would look well.
#[tokio::test]
async fn an_endpoint_that_breaks_off_within_every_answer_is_given_up() {
    const HALF: &[Act] = &[Act::Last("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf")];
    const WHOLE: &[Act] = &[Act::Last("HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nhalf")];
    for (acts, opens) in [(HALF, true), (WHOLE, false)] {
        let upstream = Upstream::new(acts).await;
        let harness = Harness::new(
            "backendRefs: [{ cluster: c }]",
            ", circuitBreaker: { failureThreshold: 5 }",
            &[upstream.address],
        );
        for _ in 0..5 {
            harness.ask("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.expect("what there was");
        }
        let answer = harness.ask("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.expect("an answer");
        assert_eq!(answer.contains("x-outrigger-reason: CB\r\n"), opens, "{answer}");
        let endpoint = harness.cluster().endpoints().members()[0].state.clone();
        let expected = if opens { 5 } else { 0 };
        assert_eq!(endpoint.consecutive_failures.load(Ordering::Relaxed), expected);
        harness.settles().await;
    }
}

#[tokio::test]
async fn an_upload_that_breaks_behind_the_answer_is_not_the_upstreams_fault() {
    const EARLY: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n";
    let upstream = Upstream::new(&[Act::Answer(EARLY)]).await;
    let harness = Harness::to(&[upstream.address]);
    let (mut caller, serving) = harness.connect().await;
    caller
        .write_all(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n")
        .await
        .expect("written");
    let mut answer = vec![0; EARLY.len()];
    caller.read_exact(&mut answer).await.expect("the answer begins");
    caller.write_all(b"no chunk\r\n").await.expect("written");
    serving.await.expect("no panic");
    assert_eq!(ended(&harness, "DR"), (1.0, 1.0));
    let endpoint = harness.cluster().endpoints().members()[0].state.clone();
    assert_eq!(endpoint.failures.load(Ordering::Relaxed), 0);
    harness.settles().await;
}

#[tokio::test]
async fn a_refused_expectation_ends_the_connection_in_so_many_words() {
    let upstream = Upstream::new(&[Act::Last("HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\n\r\n")]).await;
    let harness = Harness::to(&[upstream.address]);
    let head = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n";
    let answer = harness.ask(head).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 417 ") && answer.contains("connection: close\r\n"), "{answer}");
    assert!(upstream.heads.lock()[0].contains("expect: 100-continue\r\n"));
    harness.settles().await;
}

#[tokio::test]
async fn a_request_that_nobody_can_take_is_answered_once_and_its_connection_kept() {
    let harness = Harness::to(&[nobody().await]);
    let answer = harness
        .ask(
            "POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi\
             GET /b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        )
        .await
        .expect("answers");
    assert_eq!(answer.matches("HTTP/1.1 503 ").count(), 2, "{answer}");
    assert_eq!(answer.matches("x-outrigger-reason: UF\r\n").count(), 2, "{answer}");
    assert_eq!(answer.matches("connection: close\r\n").count(), 1, "{answer}");
    assert_eq!(ended(&harness, "UF"), (2.0, 2.0));
    harness.settles().await;
}

#[tokio::test]
async fn grpc_callers_are_answered_in_their_own_way() {
    let harness = Harness::to(&[nobody().await]);
    let answer = harness
        .ask("POST /s/m HTTP/1.1\r\nhost: x\r\ncontent-type: application/grpc\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        .await
        .expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("grpc-status: 14\r\n"), "{answer}");
    assert_eq!(ended(&harness, "UF"), (1.0, 1.0));
    harness.settles().await;
}

#[tokio::test]
async fn fields_of_one_hop_are_not_passed_on() {
    let upstream = Upstream::new(&[Act::Answer(
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: x-private\r\nx-private: 1\r\nkeep-alive: timeout=5\r\nupgrade: h2c\r\n\r\n",
    )])
    .await;
    let harness = Harness::to(&[upstream.address]);
    let answer = harness
        .ask(
            "GET / HTTP/1.1\r\nhost: x\r\nconnection: close, upgrade, x-secret\r\nx-secret: 1\r\nupgrade: h2c\r\n\
             te: trailers, gzip\r\n\r\n",
        )
        .await
        .expect("an answer");
    for name in ["x-private", "keep-alive", "upgrade"] {
        assert!(!answer.contains(&format!("\r\n{name}: ")), "{name}: {answer}");
    }
    let head = upstream.heads.lock()[0].clone();
    for name in ["x-secret", "upgrade", "keep-alive"] {
        assert!(!head.contains(&format!("\r\n{name}: ")), "{name}: {head}");
    }
    assert!(head.contains("\r\nte: trailers\r\n") && head.contains("\r\nconnection: te\r\n"), "{head}");
}

#[tokio::test]
async fn an_upload_that_stands_still_is_cut_and_is_no_evidence_against_the_endpoint() {
    let upstream = Upstream::new(&[Act::Answer(OK)]).await;
    let rule = "backendRefs: [{ cluster: c }], timeouts: { idle: 50ms }, retry: { attempts: 2, on: [gateway-error] }";
    let harness = Harness::new(rule, "", &[upstream.address]);
    let endpoint = harness.cluster().endpoints().members()[0].state.clone();
    let now = std::time::Instant::now();
    let before = endpoint.latency.read(now);
    let answer = harness.ask("PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhe").await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 504 ") && answer.contains("x-outrigger-reason: SI\r\n"), "{answer}");
    assert_eq!(upstream.requests(), 1, "the same caller would stand still again");
    assert_eq!(endpoint.failures.load(Ordering::Relaxed), 0);
    assert!((endpoint.latency.read(now) - before).abs() < 1e-9, "it does not look slow");
    harness.settles().await;
}
