//! What is sent again, and what never is.

use super::*;

const RETRYING: &str = "backendRefs: [{ cluster: c }], retry: { attempts: 2, on: [gateway-error, reset], \
                        backoff: { base: 1ms, max: 2ms } }";
const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy";

/// Two requests on one caller's connection; the second finds the kept upstream connection.
fn twice(method: &str) -> String {
    let one = format!("{method} / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi");
    let two = format!("{method} / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi");
    one + &two
}

#[tokio::test]
async fn what_may_have_been_executed_is_not_sent_again_unless_it_is_idempotent() {
    for (method, requests, status) in [("POST", 2, "502"), ("PUT", 3, "200")] {
        let upstream = Upstream::new(&[Act::Answer(OK), Act::Last(""), Act::Answer(OK)]).await;
        let harness = Harness::to(&[upstream.address]);
        let answer = harness.ask(&twice(method)).await.expect("an answer");
        assert_eq!(upstream.requests(), requests, "{method}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 2, "{method}: {answer}");
        let last = answer.rfind("HTTP/1.1 ").expect("an answer");
        assert_eq!(&answer[last + 9..last + 12], status, "{method}");
        harness.settles().await;
        let endpoint = harness.cluster().endpoints().members()[0].state.clone();
        assert_eq!(endpoint.consecutive_failures.load(Ordering::Relaxed), 0, "it may have closed for idleness");
    }
}

#[tokio::test]
async fn what_was_never_sent_goes_to_another_endpoint_whatever_the_method() {
    let upstream = Upstream::new(&[Act::Answer(OK)]).await;
    let harness = Harness::to(&[nobody().await, upstream.address]);
    for _ in 0..10 {
        let answer = harness
            .ask("POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello")
            .await
            .expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    assert_eq!(upstream.requests(), 10);
    harness.settles().await;
}

#[tokio::test]
async fn a_retry_sends_the_whole_body_and_ends_with_the_last_answer() {
    for (acts, requests, status) in
        [(&[Act::Answer(BUSY), Act::Answer(BUSY), Act::Answer(OK)][..], 3, "200"), (&[Act::Answer(BUSY)][..], 3, "503")]
    {
        let upstream = Upstream::new(acts).await;
        let harness = Harness::new(RETRYING, "", &[upstream.address]);
        let answer = harness
            .ask("PUT / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello")
            .await
            .expect("an answer");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert_eq!(upstream.requests(), requests);
        assert!(upstream.heads.lock().iter().all(|head| head.contains("content-length: 5\r\n")));
        assert_eq!(harness.metric("outrigger_upstream_retries_total", &[]), 2.0);
        harness.settles().await;
    }
}

#[tokio::test]
async fn one_request_needs_one_place_for_all_its_retries() {
    let upstream = Upstream::new(&[Act::Answer(BUSY), Act::Answer(BUSY), Act::Answer(OK)]).await;
    let harness = Harness::new(RETRYING, ", circuitBreaker: { maxRetries: 1 }", &[upstream.address]);
    let answer = harness.ask("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    harness.settles().await;
}

#[tokio::test]
async fn at_a_ceiling_nothing_is_sent_and_nothing_stays_counted() {
    let upstream = Upstream::new(&[Act::Answer(OK)]).await;
    let harness = Harness::to(&[upstream.address]);
    let cluster = harness.cluster();
    let most = cluster.config().ceilings.max_requests;
    for _ in 0..most {
        assert!(cluster.state().in_flight.try_acquire(most));
    }
    let answer = harness.ask("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("x-outrigger-reason: UO\r\n"), "{answer}");
    assert_eq!((upstream.requests(), cluster.state().in_flight.get()), (0, most));
}

#[tokio::test]
async fn a_grpc_server_may_forbid_retries() {
    const UNAVAILABLE: &str =
        "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ngrpc-status: 14\r\ncontent-length: 0\r\n\r\n";
    const NEVER: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ngrpc-status: 14\r\n\
                         grpc-retry-pushback-ms: -1\r\ncontent-length: 0\r\n\r\n";
    let rule = "backendRefs: [{ cluster: c }], retry: { attempts: 1, on: [unavailable], nonIdempotent: true, \
                backoff: { base: 1ms, max: 2ms } }";
    for (acts, requests) in [(&[Act::Answer(UNAVAILABLE)][..], 2), (&[Act::Answer(NEVER)][..], 1)] {
        let upstream = Upstream::new(acts).await;
        let harness = Harness::new(rule, "", &[upstream.address]);
        let answer = harness
            .ask("POST /s/m HTTP/1.1\r\nhost: x\r\ncontent-type: application/grpc\r\nconnection: close\r\n\r\n")
            .await
            .expect("an answer");
        assert!(answer.contains("grpc-status: 14\r\n"), "{answer}");
        assert_eq!(upstream.requests(), requests);
        harness.settles().await;
    }
}
