//! Deadlines of callers: kept, reduced by the time spent, told to every hop; and work that is of no use any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::{
    Call, Config, Conn, H1Backend, H1Client, H2Backend, H2Client, PATIENCE, Proxy, h1_client, h2_client, ms, response,
    within,
};

const DEADLINE: &str = "x-outrigger-deadline";
const EXPECTED: &str = "x-envoy-expected-rq-timeout-ms";

fn ask(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nhost: a.example\r\n{fields}\r\n")
}

/// What the requests said in this field, in order.
fn told(backend: &H1Backend, field: &str) -> Vec<Option<u64>> {
    backend.requests().iter().map(|r| r.head.get(field).map(|value| value.parse().expect("milliseconds"))).collect()
}

/// Fails the first attempt of each request after a while.
async fn failing_first() -> H1Backend {
    let count = Arc::new(AtomicUsize::new(0));
    H1Backend::start(move |mut conn: Conn| {
        let count = Arc::clone(&count);
        async move {
            while conn.request().await.is_some() {
                if count.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) {
                    tokio::time::sleep(ms(30)).await;
                    conn.send(response(503, &[], b"not yet")).await.ok();
                } else {
                    conn.send(response(200, &[], b"ok")).await.ok();
                }
            }
        }
    })
    .await
}

#[tokio::test]
async fn what_is_left_shrinks_with_each_attempt_and_over_two_hops() {
    let backend = failing_first().await;
    let near = Proxy::start(&Config::to("http1", &[backend.addr]).rule("retry: { attempts: 1, on: [503] }")).await;
    let far = Proxy::start(&Config::to("http1", &[near.addr()])).await;
    let reply = h1_client::exchange(far.addr(), ask(&format!("{DEADLINE}: 5000\r\n"))).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let told = told(&backend, DEADLINE);
    let [Some(first), Some(second)] = told[..] else { panic!("{told:?}") };
    assert!(first <= 5_000 && first > 2_000, "{told:?}");
    assert!(second + 30 <= first, "the first attempt took its time: {told:?}");
}

#[tokio::test]
async fn an_attempt_is_told_how_long_its_answer_is_waited_for() {
    let backend = H1Backend::ok().await;
    let one = Config::to("http1", &[backend.addr]);
    let limited = Config::to("http1", &[backend.addr]).rule("timeouts: { backendRequest: 800ms }");
    let whole = Config::to("http1", &[backend.addr]).rule("timeouts: { request: 700ms, backendRequest: 800ms }");
    for (config, sent, (deadline, expected)) in [
        (&one, "", (None, None)),
        (&one, "x-envoy-expected-rq-timeout-ms: 600\r\n", (None, Some(600))),
        (&limited, "", (None, Some(800))),
        (&limited, "x-envoy-expected-rq-timeout-ms: 600\r\n", (None, Some(600))),
        (&limited, "x-envoy-expected-rq-timeout-ms: 9000\r\n", (None, Some(800))),
        (&whole, "x-outrigger-deadline: 9000\r\n", (Some(700), Some(700))),
        (&whole, "x-outrigger-deadline: 500\r\n", (Some(500), Some(500))),
    ] {
        let proxy = Proxy::start(config).await;
        assert_eq!(h1_client::exchange(proxy.addr(), ask(sent)).await.status, 200);
        let close = |told: Option<u64>, most: Option<u64>| match (told, most) {
            (None, None) => true,
            (Some(told), Some(most)) => told <= most && told + 400 > most,
            _ => false,
        };
        let (told_deadline, told_expected) = (told(&backend, DEADLINE), told(&backend, EXPECTED));
        assert!(close(*told_deadline.last().unwrap(), deadline), "{sent:?}: {told_deadline:?}");
        assert!(close(*told_expected.last().unwrap(), expected), "{sent:?}: {told_expected:?}");
    }
}

#[tokio::test]
async fn work_whose_deadline_has_passed_is_not_begun() {
    let backend = H1Backend::ok().await;
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr])).await;
    let mut client = H1Client::connect(proxy.addr()).await;
    let reply = client.exchange(ask(&format!("{DEADLINE}: 0\r\n"))).await;
    assert_eq!((reply.status, reply.reason()), (504, Some("DT")), "{reply:?}");
    assert_eq!(backend.connections(), 0, "the upstream hears nothing of it");
    for garbage in ["soon", "-1", "1.5", "5s", ""] {
        let reply = client.exchange(ask(&format!("{DEADLINE}: {garbage}\r\n{EXPECTED}: {garbage}\r\n"))).await;
        assert_eq!(reply.status, 200, "{garbage:?} is ignored: {reply:?}");
    }
    let reply = client.exchange(ask(&format!("{EXPECTED}: 0\r\n"))).await;
    assert_eq!(reply.status, 200, "no limit, as Envoy writes it: {reply:?}");
}

#[tokio::test]
async fn a_callers_deadline_shortens_and_what_it_wastes_is_counted() {
    let hanging = H2Backend::start(|mut call: Call| async move {
        call.reset_by_caller().await;
    })
    .await;
    for field in [DEADLINE, EXPECTED] {
        let proxy = Proxy::start(&Config::to("http2", &[hanging.addr])).await;
        let began = Instant::now();
        let reply = h1_client::exchange(proxy.addr(), ask(&format!("{field}: 150\r\n"))).await;
        assert_eq!((reply.status, reply.reason()), (504, Some("UT")), "{field}: {reply:?}");
        assert!((ms(100)..Duration::from_secs(3)).contains(&began.elapsed()), "{field}: {:?}", began.elapsed());
        let deadline = &["cause=\"deadline\""];
        assert_eq!(proxy.metric("outrigger_upstream_wasted_total", deadline).await, 1.0, "{field}");
        assert!(proxy.metric("outrigger_upstream_wasted_seconds_total", deadline).await > 0.05, "{field}");
    }
}

#[tokio::test]
async fn what_callers_that_leave_have_wasted_is_counted() {
    let hanging = H2Backend::start(|mut call: Call| async move {
        call.reset_by_caller().await;
    })
    .await;
    let proxy = Proxy::start(&Config::to("http2", &[hanging.addr])).await;
    let client = H1Client::connect(proxy.addr()).await;
    client.send(ask("")).await;
    hanging.until(PATIENCE, "the request", |calls| calls.len() == 1).await;
    drop(client);
    within(PATIENCE, "it is counted", async {
        while proxy.metric("outrigger_upstream_wasted_total", &["cause=\"caller_left\""]).await < 1.0 {}
    })
    .await;
    assert!(proxy.metric("outrigger_upstream_wasted_seconds_total", &["cause=\"caller_left\""]).await > 0.0);
    assert_eq!(proxy.metric("outrigger_upstream_wasted_total", &[]).await, 1.0);
}

#[tokio::test]
async fn an_answer_that_was_waited_for_long_enough_may_stream_on() {
    let backend = H1Backend::after_request(|mut conn: Conn| async move {
        conn.send("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 8\r\n\r\npart").await.ok();
        tokio::time::sleep(ms(400)).await;
        conn.send("rest").await.ok();
        conn.closed().await;
    })
    .await;
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr])).await;
    let reply = h1_client::exchange(proxy.addr(), ask(&format!("{EXPECTED}: 200\r\n"))).await;
    assert_eq!((reply.status, reply.text().as_str()), (200, "partrest"));
    let mut client = H1Client::connect(proxy.addr()).await;
    client.send(ask(&format!("{DEADLINE}: 200\r\n"))).await;
    assert_eq!(client.response_head().await.status, 200);
    let rest = client.rest(Duration::from_secs(3)).await;
    assert!(!rest.ends_with(b"rest"), "the deadline is for the whole of it: {:?}", String::from_utf8_lossy(&rest));
}

#[tokio::test]
async fn a_retry_that_would_come_too_late_is_not_waited_for() {
    let backend = H1Backend::answering(|_| response(503, &[("retry-after", "5")], b"later")).await;
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr]).rule("retry: { attempts: 2, on: [503] }")).await;
    let began = Instant::now();
    let reply = h1_client::exchange(proxy.addr(), ask(&format!("{DEADLINE}: 4000\r\n"))).await;
    assert_eq!((reply.status, reply.text().as_str()), (503, "later"));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(backend.requests().len(), 1);
}

#[tokio::test]
async fn a_grpc_call_is_told_in_its_own_field_over_two_hops() {
    let backend = H2Backend::grpc_echo().await;
    let near = Proxy::start(&Config::to("http2", &[backend.addr])).await;
    let far = Proxy::start(&Config::to("http2", &[near.addr()])).await;
    let client = H2Client::connect(far.addr()).await;
    let mut request = h2_client::grpc("/s.S/M");
    request.headers_mut().insert("grpc-timeout", "5S".parse().unwrap());
    request.headers_mut().insert(DEADLINE, "4000".parse().unwrap());
    let reply = client.send(request, h2_client::grpc_message(b"x"), None).await.unwrap();
    assert_eq!(reply.grpc_status(), Some("0"));
    let call = backend.only_call();
    let timeout = call.headers["grpc-timeout"].to_str().unwrap();
    let left: u64 = timeout.strip_suffix('m').expect(timeout).parse().unwrap();
    assert!(left < 4_000 && left > 1_000, "the shorter of both: {timeout}");
    let millis: u64 = call.headers[DEADLINE].to_str().unwrap().parse().unwrap();
    assert!(millis <= left, "{millis} ms and {timeout}");
}
