//! What a rule says of retries: reasons, times, bodies, and what hops tell each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::http1::Response;
use crate::support::{Config, H1Backend, PATIENCE, Proxy, eventually, h1_client, response};

/// A backend that answers its first request with these bytes, and later ones with 200.
async fn first(answer: Vec<u8>) -> H1Backend {
    let count = Arc::new(AtomicUsize::new(0));
    H1Backend::answering(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0 => answer.clone(),
        _ => response(200, &[], b"second"),
    })
    .await
}

async fn ask(proxy: &Proxy, request: &str) -> Response {
    h1_client::exchange(proxy.addr(), request.replace("HOST", "host: a.example\r\nconnection: close")).await
}

const GET: &str = "GET / HTTP/1.1\r\nHOST\r\n\r\n";

#[tokio::test]
async fn an_answer_with_a_named_header_is_tried_again() {
    for (fields, status) in [(&[("x-again", "1")][..], 200), (&[][..], 409)] {
        let backend = first(response(409, fields, b"not yet")).await;
        let rule = "retry: { attempts: 1, on: [reset], headers: [{ name: x-again, exact: \"1\" }] }";
        let proxy = Proxy::start(&Config::to("http1", &[backend.addr]).rule(rule)).await;
        assert_eq!(ask(&proxy, GET).await.status, status, "{fields:?}");
    }
}

#[tokio::test]
async fn a_post_with_a_key_is_tried_again_where_the_rule_believes_keys() {
    for (rule, key, status, requests) in [
        ("retry: { attempts: 1, on: [503], idempotencyKey: true }", "idempotency-key: 8e03\r\n", 200, 2),
        ("retry: { attempts: 1, on: [503], idempotencyKey: true }", "", 503, 1),
        ("retry: { attempts: 1, on: [503] }", "idempotency-key: 8e03\r\n", 503, 1),
    ] {
        let backend = first(response(503, &[], b"busy")).await;
        let proxy = Proxy::start(&Config::to("http1", &[backend.addr]).rule(rule)).await;
        let reply = ask(&proxy, &format!("POST / HTTP/1.1\r\nHOST\r\n{key}content-length: 2\r\n\r\nhi")).await;
        assert_eq!((reply.status, backend.requests().len()), (status, requests), "{rule} {key:?}");
    }
}

#[tokio::test]
async fn a_named_time_is_waited_for_within_what_the_rule_and_the_deadline_allow() {
    for (rule, status, marked, least) in [
        ("retry: { attempts: 1, on: [503] }", 200, None, 1),
        ("retry: { attempts: 1, on: [503], maxPushback: 500ms }", 503, Some("pushback"), 0),
        ("retry: { attempts: 1, on: [503] }\n          timeouts: { request: 900ms }", 503, Some("deadline"), 0),
    ] {
        let backend = first(response(503, &[("retry-after", "1")], b"busy")).await;
        let proxy = Proxy::start(&Config::to("http1", &[backend.addr]).rule(rule)).await;
        let start = Instant::now();
        let reply = ask(&proxy, GET).await;
        assert_eq!((reply.status, reply.head.get("x-outrigger-retried")), (status, marked), "{rule}");
        assert!(start.elapsed() >= Duration::from_secs(least), "{rule}: {:?}", start.elapsed());
        if let Some(cause) = marked {
            let label = format!("cause=\"{cause}\"");
            assert_eq!(proxy.metric("outrigger_upstream_retries_given_up_total", &[&label]).await, 1.0);
        }
    }
}

#[tokio::test]
async fn a_body_that_outgrows_the_buffer_gives_the_retry_up_loudly() {
    let body = "x".repeat(100 * 1024);
    let put = format!("PUT / HTTP/1.1\r\nHOST\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    for (buffer, status) in [("64KiB", 503), ("128KiB", 200)] {
        let backend = first(response(503, &[], b"busy")).await;
        let config = Config::to("http1", &[backend.addr]).top("accessLog: stdout");
        let proxy = Proxy::start(&config.rule(&format!("retry: {{ attempts: 1, on: [503], buffer: {buffer} }}"))).await;
        let reply = ask(&proxy, &put).await;
        assert_eq!((reply.status, reply.head.get("x-outrigger-retried")), (status, None), "{buffer}");
        let given_up = proxy.metric("outrigger_upstream_retries_given_up_total", &["cause=\"body\""]).await;
        assert_eq!(given_up, if status == 503 { 1.0 } else { 0.0 }, "{buffer}");
        let logged = format!("\"response_code\":{status}");
        eventually(PATIENCE, "the request in the log", || proxy.stdout().contains(&logged)).await;
        assert_eq!(proxy.stdout().contains("retry_given_up_body"), status == 503, "{}", proxy.stdout());
        assert!(backend.requests().iter().all(|request| request.body == body.as_bytes()), "each got all of it");
    }
}

#[tokio::test]
async fn later_attempts_are_numbered_over_hops_that_trust_each_other() {
    for (trust, sent, seen, status) in [
        ("none", "", [None, Some("2")], 200),
        // A stranger has no say.
        ("none", "x-outrigger-attempt: 7\r\n", [None, Some("2")], 200),
        // A retry of the hop before is that hop's affair.
        ("{ hops: 1 }", "x-outrigger-attempt: 2\r\n", [Some("2"), None], 503),
        ("{ hops: 1 }", "x-outrigger-attempt: 1\r\n", [Some("1"), Some("2")], 200),
        ("{ hops: 1 }", "x-outrigger-attempt: many\r\n", [Some("many"), Some("2")], 200),
    ] {
        let backend = first(response(503, &[], b"busy")).await;
        let config = Config::to("http1", &[backend.addr]).listener(&format!("trust: {trust}"));
        let proxy = Proxy::start(&config.rule("retry: { attempts: 1, on: [503] }")).await;
        let reply = ask(&proxy, &format!("GET / HTTP/1.1\r\nHOST\r\n{sent}\r\n")).await;
        let case = format!("{trust} {sent:?}");
        assert_eq!((reply.status, reply.head.get("x-outrigger-retried")), (status, None), "{case}");
        let requests = backend.requests();
        assert_eq!(requests.len(), if status == 200 { 2 } else { 1 }, "{case}");
        for (request, seen) in requests.iter().zip(seen) {
            assert_eq!(request.head.get("x-outrigger-attempt"), seen, "{case}");
        }
    }
}

/// It can keep its own answer from being tried again, and nothing else.
#[tokio::test]
async fn a_backend_that_claims_to_have_retried_is_not_asked_again() {
    let backend = first(response(503, &[("x-outrigger-retried", "whatever")], b"busy")).await;
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr]).rule("retry: { attempts: 2, on: [5xx] }")).await;
    let reply = ask(&proxy, GET).await;
    assert_eq!((reply.status, reply.head.get("x-outrigger-retried")), (503, Some("whatever")));
    assert_eq!(ask(&proxy, GET).await.status, 200, "the next request is another matter");
    assert_eq!(backend.requests().len(), 2);
}

#[tokio::test]
async fn a_local_answer_after_retries_says_so_and_one_without_does_not() {
    for (rule, marked, requests) in [
        ("retry: { attempts: 1, on: [reset] }", Some("exhausted"), 2),
        // Nothing was to be retried.
        ("retry: { attempts: 1, on: [503] }", None, 1),
    ] {
        let backend = H1Backend::after_request(|conn| async move { conn.reset() }).await;
        let proxy = Proxy::start(&Config::to("http1", &[backend.addr]).rule(rule)).await;
        let reply = ask(&proxy, GET).await;
        assert_eq!((reply.reason(), reply.head.get("x-outrigger-retried")), (Some("UC"), marked), "{rule}");
        assert_eq!(backend.requests().len(), requests);
    }
    // Nobody has seen it: another instance may.
    let refusing = crate::support::h1_backend::Refusing::new();
    let proxy = Proxy::start(&Config::to("http1", &[refusing.addr]).rule("retry: { attempts: 2, on: [5xx] }")).await;
    let reply = ask(&proxy, GET).await;
    assert_eq!((reply.reason(), reply.head.get("x-outrigger-retried")), (Some("UF"), None));
}

#[tokio::test]
async fn a_budget_that_is_used_up_is_said_in_the_answer() {
    let backend = H1Backend::answering(|_| response(503, &[], b"busy")).await;
    let config = Config::to("http1", &[backend.addr]).upstream("retryBudget: { percent: 1, minPerSecond: 0 }");
    let proxy = Proxy::start(&config.rule("retry: { attempts: 2, on: [5xx] }")).await;
    let reply = ask(&proxy, GET).await;
    assert_eq!((reply.status, reply.head.get("x-outrigger-retried")), (503, Some("budget")));
    assert_eq!(backend.requests().len(), 1);
}

/// Nobody has seen the attempt before: to the application it is the first.
#[tokio::test]
async fn an_attempt_after_one_that_was_never_sent_is_not_numbered() {
    let refusing = crate::support::h1_backend::Refusing::new();
    let backend = H1Backend::ok().await;
    let config = Config::to("http1", &[refusing.addr, backend.addr]).upstream("loadBalancing: { policy: roundRobin }");
    let proxy = Proxy::start(&config).await;
    for _ in 0..4 {
        assert_eq!(ask(&proxy, GET).await.status, 200);
    }
    assert!(
        proxy.metric("outrigger_upstream_retries_total", &[]).await > 0.0,
        "some were tried at the other one first"
    );
    assert!(backend.requests().iter().all(|request| !request.head.has("x-outrigger-attempt")));
}

#[tokio::test]
async fn another_zone_is_tried_where_the_rule_prefers_that() {
    let failing = || H1Backend::answering(|_| response(503, &[], b"busy"));
    let (one, two, other) = (failing().await, failing().await, H1Backend::ok().await);
    let endpoints = [(one.addr, "a"), (two.addr, "a"), (other.addr, "b")]
        .map(|(addr, zone)| format!("{{ address: \"{addr}\", zone: {zone} }}"))
        .join(", ");
    let cluster = format!(
        "protocol: http1\nendpoints: [{endpoints}]\nloadBalancing: {{ policy: roundRobin }}\n\
         circuitBreaker: {{ failureThreshold: 0 }}\nretryBudget: {{ percent: 100, minPerSecond: 100 }}"
    );
    for (rule, all_well) in
        [("retry: { attempts: 1, on: [503], otherLocality: true }", true), ("retry: { attempts: 1, on: [503] }", false)]
    {
        let routes = format!("- rules: [{{ backendRefs: [{{ cluster: z }}], {rule} }}]");
        let proxy = Proxy::start(&Config::new().cluster_yaml("z", &cluster).routes(&routes).top("workers: 1")).await;
        let mut statuses = Vec::new();
        for _ in 0..12 {
            statuses.push(ask(&proxy, GET).await.status);
        }
        assert_eq!(statuses.iter().all(|status| *status == 200), all_well, "{rule}: {statuses:?}");
    }
}
