//! Answers that are long in coming: long polls and streams of events are held for as long as nothing forbids it, and limits
//! meant for requests do not end them where a route says so.
//!
//! They are held for a little longer than the limits of other routes; `OUTRIGGER_FULL=1` makes that 65 s.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::Request;
use tokio::io::AsyncWriteExt;

use crate::support::h2_client::{self, read_head};
use crate::support::websocket::read_head as read_h1_head;
use crate::support::{Config, H1Client, H2Client, PATIENCE, Proxy, full, ms, within};

/// How long the server says nothing.
fn hold() -> Duration {
    if full() { Duration::from_secs(65) } else { ms(1_500) }
}

/// A server that holds polls, and says one event at once and the next one later. It tells what it was asked with.
async fn server() -> SocketAddr {
    crate::tcp::server(|mut stream| async move {
        while let Ok((start, fields)) = read_h1_head(&mut stream).await {
            let field = |name: &str| fields.get(name).cloned().unwrap_or_default();
            let asked = format!("{} {}", field("last-event-id"), field("cookie"));
            if start.contains("/poll") {
                tokio::time::sleep(hold()).await;
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{asked}", asked.len());
                if stream.write_all(head.as_bytes()).await.is_err() {
                    return;
                }
                continue;
            }
            let event = |text: &str| {
                let text = format!("id: {text}\n\n");
                format!("{:x}\r\n{text}\r\n", text.len())
            };
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
            if stream.write_all(format!("{head}{}", event(&asked)).as_bytes()).await.is_err() {
                return;
            }
            tokio::time::sleep(hold()).await;
            if stream.write_all(format!("{}0\r\n\r\n", event("later")).as_bytes()).await.is_err() {
                return;
            }
        }
    })
    .await
}

async fn proxy() -> Proxy {
    let config = Config::new().cluster("c", "http1", &[server().await]).routes(
        "- rules:
            - { matches: [{ path: { prefix: /short } }], timeouts: { request: 500ms }, backendRefs: [{ cluster: c }] }
            - { matches: [{ path: { prefix: /idle } }], timeouts: { request: 0s, idle: 500ms }, backendRefs: [{ cluster: c }] }
            - { matches: [{ path: { prefix: /poll } }], timeouts: { request: 0s }, backendRefs: [{ cluster: c }] }
            - { backendRefs: [{ cluster: c }] }",
    );
    Proxy::start(&config).await
}

fn request(path: &str, accept: &str) -> Request<()> {
    Request::builder()
        .uri(format!("http://a.example{path}"))
        .header("accept", accept)
        .header("last-event-id", "41")
        .header("cookie", "seat=7")
        .body(())
        .unwrap()
}

fn h1(path: &str, accept: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nhost: a.example\r\naccept: {accept}\r\nlast-event-id: 41\r\ncookie: seat=7\r\n\
         connection: close\r\n\r\n"
    )
}

const EVENTS: &str = "text/event-stream";

#[tokio::test]
async fn a_long_poll_is_held_until_it_is_answered() {
    let proxy = proxy().await;
    let patience = hold() + PATIENCE;
    let over_h1 = async {
        let mut client = H1Client::connect(proxy.addr()).await;
        let began = Instant::now();
        client.send(h1("/poll", "*/*")).await;
        let said = String::from_utf8(client.rest(patience).await).unwrap();
        assert!(said.starts_with("HTTP/1.1 200 ") && said.ends_with("\r\n\r\n41 seat=7"), "{said}");
        assert!(began.elapsed() >= hold());
    };
    let over_h2 = async {
        let client = H2Client::connect(proxy.addr()).await;
        let (response, _) = client.open(request("/poll", "*/*"), true).await.unwrap();
        let reply = within(patience, "an answer", h2_client::read(response)).await.unwrap();
        assert_eq!((reply.status, &*reply.body), (200, &b"41 seat=7"[..]));
    };
    tokio::join!(over_h1, over_h2);
}

#[tokio::test]
async fn events_come_as_they_are_said_however_long_the_silence_is() {
    let proxy = proxy().await;
    let patience = hold() + PATIENCE;
    let over_h1 = async {
        let mut client = H1Client::connect(proxy.addr()).await;
        let began = Instant::now();
        client.send(h1("/events", EVENTS)).await;
        let first = within(PATIENCE, "the first event", client.wire.until(b"id: 41 seat=7\n\n\r\n")).await.unwrap();
        assert!(first.is_some(), "the first event is not held back");
        assert!(began.elapsed() < hold(), "nor does it wait for the next one");
        let rest = String::from_utf8(client.rest(patience).await).unwrap();
        assert!(rest.contains("id: later\n\n") && rest.ends_with("0\r\n\r\n"), "{rest}");
        assert!(began.elapsed() >= hold());
    };
    let over_h2 = async {
        let client = H2Client::connect(proxy.addr()).await;
        let began = Instant::now();
        let (mut response, _) = client.open(request("/events", EVENTS), true).await.unwrap();
        let (_, head) = within(PATIENCE, "a head", read_head(&mut response)).await.unwrap();
        let mut body = head.into_body();
        let first = within(PATIENCE, "the first event", body.data()).await.unwrap().unwrap();
        assert_eq!(&*first, b"id: 41 seat=7\n\n");
        assert!(began.elapsed() < hold());
        let (rest, _) = within(patience, "the next event", h2_client::read_body(&mut body)).await.unwrap();
        assert_eq!(&*rest, b"id: later\n\n");
    };
    tokio::join!(over_h1, over_h2);
}

#[tokio::test]
async fn what_a_route_says_about_requests_and_about_silence_still_ends_them() {
    let proxy = proxy().await;
    let ask = async |path: &str, accept: &str| {
        let mut client = H1Client::connect(proxy.addr()).await;
        let began = Instant::now();
        client.send(h1(path, accept)).await;
        let said = String::from_utf8(client.rest(PATIENCE).await).unwrap();
        (said, began.elapsed())
    };
    let ((short, first), (silent, second), (events, third)) =
        tokio::join!(ask("/short/poll", "*/*"), ask("/idle/poll", "*/*"), ask("/idle/events", EVENTS));
    for (said, lasted, reason) in [(short, first, "UT"), (silent, second, "SI")] {
        assert!(said.starts_with("HTTP/1.1 504 ") && said.contains(&format!(": {reason}\r\n")), "{said}");
        assert!(lasted >= ms(450) && lasted < hold(), "{lasted:?}");
    }
    assert!(events.contains("id: 41 seat=7") && !events.ends_with("0\r\n\r\n"), "it was cut: {events}");
    assert!(third >= ms(450) && third < hold(), "{third:?}");
}
