//! What the proxy adds to, keeps in and removes from what it forwards.

use crate::support::any::{AnyBackend, AnyClient, COMBINATIONS, Message, Version};
use crate::support::{Config, H1Backend, H1Client, Proxy, h1_client, response};

async fn with_trust(trust: &str) -> (H1Backend, Proxy) {
    let backend = H1Backend::ok().await;
    let config = Config::to("http1", &[backend.addr]).listener(&format!("trust: {trust}"));
    let proxy = Proxy::start(&config).await;
    (backend, proxy)
}

const SPOOFED: &str = "GET / HTTP/1.1\r\nhost: a.example\r\nx-forwarded-for: 6.6.6.6\r\n\
    x-forwarded-proto: https\r\nx-forwarded-host: evil.example\r\nx-request-id: spoofed\r\n\
    forwarded: for=6.6.6.6\r\n\r\n";

#[tokio::test]
async fn a_stranger_cannot_say_who_it_is() {
    let (backend, proxy) = with_trust("none").await;
    assert_eq!(h1_client::exchange(proxy.addr(), SPOOFED).await.status, 200);
    let head = backend.only_request().head;
    assert_eq!(head.get("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(head.get("x-forwarded-proto"), Some("http"));
    assert_eq!(head.get("x-forwarded-host"), Some("a.example"));
    assert!(head.get("x-request-id").is_some_and(|id| id != "spoofed" && id.len() >= 16), "{head:?}");
    assert!(!head.get("forwarded").is_some_and(|value| value.contains("6.6.6.6")), "{head:?}");
}

#[tokio::test]
async fn our_own_application_is_believed_and_appended_to() {
    for trust in ["local", "{ hops: 1 }"] {
        let (backend, proxy) = with_trust(trust).await;
        assert_eq!(h1_client::exchange(proxy.addr(), SPOOFED).await.status, 200);
        let head = backend.only_request().head;
        let chain = head.all("x-forwarded-for").join(", ");
        assert_eq!(chain, "6.6.6.6, 127.0.0.1", "{trust}");
        assert_eq!(head.get("x-forwarded-proto"), Some("https"), "{trust}");
        assert_eq!(head.get("x-forwarded-host"), Some("evil.example"), "{trust}");
        assert_eq!(head.get("x-request-id"), Some("spoofed"), "{trust}");
    }
}

#[tokio::test]
async fn requests_get_different_ids() {
    let (backend, proxy) = with_trust("local").await;
    let mut client = H1Client::connect(proxy.addr()).await;
    for _ in 0..100 {
        client.get("/").await;
    }
    let mut ids: Vec<_> = backend.requests().iter().map(|r| r.head.get("x-request-id").unwrap().to_owned()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 100);
}

#[tokio::test]
async fn the_host_is_forwarded_as_the_caller_named_it() {
    for (down, up) in COMBINATIONS {
        let backend = AnyBackend::ok(up).await;
        let proxy = Proxy::start(&Config::to(up.protocol(), &[backend.addr()])).await;
        let mut client = AnyClient::connect(down, proxy.addr()).await;
        let ask = Message::default().field("host", "shop.example:8080");
        assert_eq!(client.call("GET", "/", &ask).await.status, 200);
        assert_eq!(backend.only().get("host"), Some("shop.example:8080"), "{down:?} to {up:?}");
    }
}

#[tokio::test]
async fn hop_by_hop_fields_of_a_response_stay_on_their_hop() {
    for down in [Version::H1, Version::H2] {
        let backend = H1Backend::answering(|_| {
            response(
                200,
                &[
                    ("Connection", "keep-alive, X-Private"),
                    ("Keep-Alive", "timeout=5"),
                    ("Proxy-Connection", "keep-alive"),
                    ("Upgrade", "h2c"),
                    ("X-Private", "1"),
                    ("X-Public", "2"),
                ],
                b"ok",
            )
        })
        .await;
        let proxy = Proxy::start(&Config::to("http1", &[backend.addr])).await;
        let told = AnyClient::connect(down, proxy.addr()).await.get("/").await;
        assert_eq!((told.status, told.get("x-public")), (200, Some("2")), "{down:?}");
        for name in ["keep-alive", "proxy-connection", "upgrade", "x-private"] {
            assert_eq!(told.get(name), None, "{down:?}: {name}");
        }
    }
}

#[tokio::test]
async fn te_trailers_is_kept_and_everything_else_in_te_is_not() {
    for (down, up) in COMBINATIONS {
        let backend = AnyBackend::ok(up).await;
        let proxy = Proxy::start(&Config::to(up.protocol(), &[backend.addr()])).await;
        let mut client = AnyClient::connect(down, proxy.addr()).await;
        let mut ask = Message::default();
        if down == Version::H1 {
            ask = ask.field("te", "deflate;q=0.5, trailers").field("connection", "te");
        } else {
            ask = ask.field("te", "trailers");
        }
        assert_eq!(client.call("GET", "/", &ask).await.status, 200, "{down:?} to {up:?}");
        assert_eq!(backend.only().get("te"), Some("trailers"), "{down:?} to {up:?}");
    }
}

#[tokio::test]
async fn ordinary_fields_pass_in_order_with_their_bytes() {
    for (down, up) in COMBINATIONS {
        let answer = Message::body("ok")
            .field("set-cookie", "a=1; Path=/")
            .field("set-cookie", "b=2")
            .field("x-bytes", "\u{e4}\u{ff}\tx")
            .field("server", "theirs")
            .field("date", "Thu, 01 Jan 1970 00:00:00 GMT");
        let backend = AnyBackend::answering(up, 200, answer).await;
        let proxy = Proxy::start(&Config::to(up.protocol(), &[backend.addr()])).await;
        let mut client = AnyClient::connect(down, proxy.addr()).await;
        let ask = Message::default()
            .field("accept", "text/plain")
            .field("x-list", "1")
            .field("x-list", "2")
            .field("x-bytes", "\u{e4}\u{ff}\tx")
            .field("authorization", "Basic eDp5");
        let told = client.call("GET", "/?q=%20&r=a+b", &ask).await;
        let all = |fields: &[(String, String)], name: &str| -> Vec<String> {
            fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.clone()).collect()
        };
        let place = format!("{down:?} to {up:?}");
        assert_eq!(all(&told.fields, "set-cookie"), ["a=1; Path=/", "b=2"], "{place}");
        assert_eq!(all(&told.fields, "x-bytes"), ["\u{e4}\u{ff}\tx"], "{place}");
        assert_eq!(all(&told.fields, "server"), ["theirs"], "{place}");
        assert_eq!(all(&told.fields, "date"), ["Thu, 01 Jan 1970 00:00:00 GMT"], "{place}");
        let seen = backend.only();
        assert_eq!(seen.target, "/?q=%20&r=a+b", "{place}");
        assert_eq!(all(&seen.fields, "x-list").join(","), "1,2", "{place}");
        assert_eq!(all(&seen.fields, "x-bytes"), ["\u{e4}\u{ff}\tx"], "{place}");
        assert_eq!(all(&seen.fields, "authorization"), ["Basic eDp5"], "{place}");
        assert_eq!(all(&seen.fields, "accept"), ["text/plain"], "{place}");
    }
}

#[tokio::test]
async fn cookie_crumbs_are_joined_for_http1() {
    let backend = AnyBackend::ok(Version::H1).await;
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr()])).await;
    let mut client = AnyClient::connect(Version::H2, proxy.addr()).await;
    let ask = Message::default().field("cookie", "a=1").field("cookie", "b=2").field("cookie", "c=3");
    assert_eq!(client.call("GET", "/", &ask).await.status, 200);
    assert_eq!(backend.only().get("cookie"), Some("a=1; b=2; c=3"));
}

#[tokio::test]
async fn a_loop_is_stopped_with_508() {
    for protocol in ["http1", "http2"] {
        let config = Config::new()
            .routes("- rules: [{ backendRefs: [{ cluster: self }] }]")
            .cluster_yaml("self", &format!("protocol: {protocol}\nendpoints: [\"127.0.0.1:$PORT_in\"]"));
        let proxy = Proxy::start(&config).await;
        let reply = h1_client::get(proxy.addr(), "/").await;
        assert_eq!((reply.status, reply.reason()), (508, Some("LOOP")), "{protocol}");
    }
}

#[tokio::test]
async fn a_loop_through_two_proxies_is_stopped_with_508() {
    let back = Proxy::start(
        &Config::new()
            .top("node: { id: back }")
            .routes("- rules: [{ filters: [{ directResponse: { status: 200, body: placeholder } }] }]"),
    )
    .await;
    let front = Proxy::start(&Config::to("http1", &[back.addr()]).top("node: { id: front }")).await;
    assert_eq!(h1_client::get(front.addr(), "/").await.text(), "placeholder");
    back.replace_config(&Config::to("http2", &[front.addr()]).top("node: { id: back }"));
    let start = std::time::Instant::now();
    loop {
        let reply = h1_client::get(front.addr(), "/").await;
        if reply.status == 508 {
            assert_eq!(reply.reason(), Some("LOOP"));
            break;
        }
        assert_eq!(reply.text(), "placeholder", "the new configuration is not there yet");
        assert!(start.elapsed() < crate::support::PATIENCE, "the loop is closed in the end");
    }
}

#[tokio::test]
async fn a_chain_of_different_proxies_is_no_loop() {
    let backend = H1Backend::ok().await;
    let mut addr = backend.addr;
    let mut chain = Vec::new();
    for hop in 0..5 {
        let protocol = if hop == 0 || hop % 2 == 0 { "http1" } else { "http2" };
        let proxy = Proxy::start(
            &Config::to(protocol, &[addr])
                .top("workers: 1")
                .top(&format!("node: {{ id: hop-{hop} }}"))
                .listener("trust: { hops: 5 }"),
        )
        .await;
        addr = proxy.addr();
        chain.push(proxy);
    }
    let reply = h1_client::get(addr, "/far").await;
    assert_eq!((reply.status, reply.text().as_str()), (200, "ok"));
    let head = backend.only_request().head;
    let hops = head.all("x-forwarded-for").join(",");
    assert_eq!(hops.split(',').count(), 5, "{hops}");
}
