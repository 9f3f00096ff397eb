//! An edit of a policy and what is open at that moment: streams that are no longer allowed end, no other notices,
//! whether their response has begun or not.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::watch;

use crate::support::http1::chunk;
use crate::support::{
    Call, Config, Conn, H1Backend, H1Client, H2Backend, H2Client, Mesh, PATIENCE, Proxy, TlsClient, h2_client, ms,
    within,
};

/// Backends of both versions that stream: a first word at once (or, for `/held…`, no head at all), a second when the
/// gate is at 1.
struct Streaming {
    h1: H1Backend,
    h2: H2Backend,
    gate: watch::Sender<u32>,
}

impl Streaming {
    async fn start() -> Self {
        let (gate, told) = watch::channel(0);
        let told = Arc::new(told);
        let also = Arc::clone(&told);
        let h1 = H1Backend::start(move |mut conn: Conn| {
            let mut told = (*told).clone();
            async move {
                while let Some(request) = conn.request().await {
                    let head =
                        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
                    if request.target.starts_with("/held") {
                        tokio::select! {
                            _ = told.wait_for(|step| *step > 0) => {}
                            _ = conn.closed() => return,
                        }
                        conn.send(head).await.ok();
                    } else {
                        conn.send(head).await.ok();
                        conn.send(chunk(b"data: first\n\n")).await.ok();
                        tokio::select! {
                            _ = told.wait_for(|step| *step > 0) => {}
                            _ = conn.closed() => return,
                        }
                    }
                    conn.send(chunk(b"data: second\n\n")).await.ok();
                    if told.wait_for(|step| *step > 1).await.is_err() {
                        return;
                    }
                    conn.send("0\r\n\r\n").await.ok();
                }
            }
        })
        .await;
        let h2 = H2Backend::start(move |mut call: Call| {
            let mut told = (*also).clone();
            async move {
                let held = call.path().starts_with("/held");
                if held {
                    tokio::select! {
                        _ = told.wait_for(|step| *step > 0) => {}
                        _ = call.reset_by_caller() => return,
                    }
                }
                let Ok(mut out) = call.respond(http::Response::new(()), false) else {
                    return;
                };
                if !held {
                    h2_client::send_all(&mut out, Bytes::from_static(b"data: first\n\n"), false).await.ok();
                    tokio::select! {
                        _ = told.wait_for(|step| *step > 0) => {}
                        _ = call.reset_while_sending(&mut out) => return,
                    }
                }
                h2_client::send_all(&mut out, Bytes::from_static(b"data: second\n\n"), false).await.ok();
                if told.wait_for(|step| *step > 1).await.is_ok() {
                    out.send_data(Bytes::new(), true).ok();
                }
            }
        })
        .await;
        Self { h1, h2, gate }
    }
}

/// One open stream of a caller, of which the first word (if any) has been read.
enum Stream {
    H1(H1Client),
    H2(h2::RecvStream),
    HeldH1(H1Client),
    HeldH2(h2::client::ResponseFuture),
}

/// What became of a stream.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// It brought the second word.
    GoesOn,
    /// It was cut off.
    Cut,
    /// The proxy answered instead of the backend.
    Answered(u16),
}

impl Stream {
    /// Reads on until it is clear.
    async fn fate(&mut self) -> End {
        within(PATIENCE, "the fate of a stream", async {
            match self {
                Self::H1(client) => match client.wire.chunk().await {
                    Ok(Ok(data)) if data == b"data: second\n\n" => End::GoesOn,
                    Ok(other) => panic!("{other:?}: neither cut nor going on"),
                    Err(_) => End::Cut,
                },
                Self::HeldH1(client) => match client.wire.response_head("GET").await {
                    Ok(reply) if reply.status == 200 => match client.wire.chunk().await {
                        Ok(Ok(_)) => End::GoesOn,
                        other => panic!("{other:?} after a head"),
                    },
                    Ok(reply) => End::Answered(reply.status),
                    Err(_) => End::Cut,
                },
                Self::H2(body) => match body.data().await {
                    Some(Ok(data)) if &data[..] == b"data: second\n\n" => End::GoesOn,
                    Some(Ok(data)) => panic!("{data:?}"),
                    Some(Err(_)) => End::Cut,
                    None => panic!("it ended as if it were complete"),
                },
                Self::HeldH2(response) => match response.await {
                    Ok(reply) if reply.status() == 200 => End::GoesOn,
                    Ok(reply) => End::Answered(reply.status().as_u16()),
                    Err(_) => End::Cut,
                },
            }
        })
        .await
    }
}

const ACCOUNTS: [&str; 5] = ["shop/cart", "shop/web", "shop/pay", "ops/admin", "ops/batch"];

fn config(mesh: &Mesh, streaming: &Streaming, policy: &str) -> Config {
    Config::new()
        .routes(
            "
            - hostnames: [h1.example]
              rules: [{ timeouts: { request: 0s }, backendRefs: [{ cluster: one }] }]
            - rules: [{ timeouts: { request: 0s }, backendRefs: [{ cluster: two }] }]
            ",
        )
        .top(&identity(mesh))
        .top(policy)
        .listener("tls: { mode: permissive }")
        .cluster("one", "http1", &[streaming.h1.addr])
        .cluster("two", "http2", &[streaming.h2.addr])
}

fn identity(mesh: &Mesh) -> String {
    format!(
        "identity: {{ certificate: {}, privateKey: {}, trustBundle: {} }}",
        mesh.files.quoted("shop-web.pem"),
        mesh.files.quoted("shop-web.key"),
        mesh.files.quoted("bundle.pem")
    )
}

/// A streaming request over HTTP/1.1; of one with a head, its first word is read.
async fn open_h1(mut client: H1Client, path: &str) -> Stream {
    client.send(format!("GET {path} HTTP/1.1\r\nhost: h1.example\r\naccept: text/event-stream\r\n\r\n")).await;
    if path.starts_with("/held") {
        return Stream::HeldH1(client);
    }
    let head = client.response_head().await;
    assert_eq!(head.status, 200, "{head:?}");
    let first = within(PATIENCE, "a first word", client.wire.chunk()).await.expect("readable");
    assert_eq!(first.expect("no end"), b"data: first\n\n");
    Stream::H1(client)
}

async fn open_h2(client: &H2Client, path: &str) -> Stream {
    let (response, _) = client.open(h2_client::get(path), true).await.expect("a stream");
    if path.starts_with("/held") {
        return Stream::HeldH2(response);
    }
    let response = within(PATIENCE, "a head", response).await.expect("a head");
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    let first = within(PATIENCE, "a first word", body.data()).await.expect("no end").expect("data");
    assert_eq!(&first[..], b"data: first\n\n");
    Stream::H2(body)
}

/// 500 streams of five identities and of plaintext callers, over both versions, to two folders, a quarter of them
/// without a head yet. Then `shop/web` loses everything and `/b` is closed to `ops`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_ends_exactly_the_streams_that_are_no_longer_allowed() {
    let mesh = Mesh::new();
    mesh.identity("shop/web");
    let streaming = Streaming::start().await;
    let before = "authorization:\n  p: { default: deny, rules: [\
        { name: shop, action: allow, from: [{ namespaces: [shop] }] }, \
        { name: ops, action: allow, from: [{ namespaces: [ops] }] }, \
        { name: near, action: allow, from: [{ addresses: [127.0.0.0/8] }], to: [{ paths: [{ prefix: /a }, { prefix: /held/a }] }] }] }";
    let after = "authorization:\n  p: { default: deny, rules: [\
        { name: web, action: deny, from: [{ identities: ['spiffe://mesh.local/ns/shop/sa/web'] }] }, \
        { name: shop, action: allow, from: [{ namespaces: [shop] }] }, \
        { name: ops, action: allow, from: [{ namespaces: [ops] }], to: [{ notPaths: [{ prefix: /b }, { prefix: /held/b }] }] }, \
        { name: near, action: allow, from: [{ addresses: [127.0.0.0/8] }], to: [{ paths: [{ prefix: /a }, { prefix: /held/a }] }] }] }";
    let proxy = Proxy::start(&config(&mesh, &streaming, before).listener("authorization: p")).await;
    let addr = proxy.addr();

    let mut streams: Vec<(String, bool, Stream)> = Vec::new();
    let mut kept = Vec::new();
    for account in ACCOUNTS {
        let client = TlsClient::with(&mesh.svid(account));
        let ends = |path: &str| {
            // Addresses give everybody but `web` the folder `/a`.
            account == "shop/web" || (account.starts_with("ops") && path.contains("/b"))
        };
        let h2 = [client.h2(addr).await, client.h2(addr).await];
        for number in 0..90 {
            let folder = ["a", "b"][number % 2];
            let path = if number % 4 == 3 { format!("/held/{folder}/{number}") } else { format!("/{folder}/{number}") };
            let name = format!("{account} {path}");
            let stream = if number < 72 {
                open_h2(&h2[number / 2 % 2], &path).await
            } else {
                open_h1(client.h1(addr).await, &path).await
            };
            streams.push((name, ends(&path), stream));
        }
        kept.push((account, h2));
    }
    let plain = H2Client::connect(addr).await;
    for number in 0..40 {
        streams.push((format!("plaintext /a/{number}"), false, open_h2(&plain, &format!("/a/{number}")).await));
    }
    for number in 0..10 {
        let client = H1Client::connect(addr).await;
        streams.push((format!("plaintext SSE /a/{number}"), false, open_h1(client, &format!("/a/{number}")).await));
    }
    assert_eq!(streams.len(), 500);
    // Those without a head are at the backends too.
    let held = streams.iter().filter(|(_, _, s)| matches!(s, Stream::HeldH1(_) | Stream::HeldH2(_))).count();
    streaming.h2.until(PATIENCE, "all calls", |calls| calls.len() == 5 * 72 + 40).await;
    streaming
        .h1
        .until(PATIENCE, "all requests", |r| r.iter().map(|r| r.requests.len()).sum::<usize>() == 5 * 18 + 10)
        .await;

    let edited = Instant::now();
    proxy.replace_config(&config(&mesh, &streaming, after).listener("authorization: p"));
    // Those that must end do so by themselves, while the others are still silent.
    let (ending, going): (Vec<_>, Vec<_>) = streams.into_iter().partition(|(_, ends, _)| *ends);
    assert_eq!(ending.len(), 90 + 2 * 45);
    let mut wrong = Vec::new();
    for (name, _, mut stream) in ending {
        let headless = matches!(stream, Stream::HeldH1(_) | Stream::HeldH2(_));
        let fate = stream.fate().await;
        let right = match fate {
            End::Cut => true,
            End::Answered(status) => headless && status == 403,
            End::GoesOn => false,
        };
        if !right {
            wrong.push(format!("{name}: {fate:?}, but it is no longer allowed"));
        }
    }
    println!("{} streams ended within {:?} of the edit", 180, edited.elapsed());
    streaming.gate.send_replace(1);
    let mut going = going;
    for (name, _, stream) in &mut going {
        let fate = stream.fate().await;
        if fate != End::GoesOn {
            wrong.push(format!("{name}: {fate:?}, but it is still allowed"));
        }
    }
    assert!(wrong.is_empty(), "{} of 500 ({held} without a head):\n{}", wrong.len(), wrong.join("\n"));
    streaming
        .h2
        .until(PATIENCE, "the backend to be told", |calls| {
            calls.iter().filter(|call| call.reset.is_some()).count() == 36 * 2 + 72
        })
        .await;
    streaming.gate.send_replace(2);
    // The connections themselves stay: an answer to the next request, not a closed door.
    for (account, connections) in &kept {
        for client in connections {
            let reply = client.fetch(h2_client::get("/a/again")).await;
            let expected = if *account == "shop/web" { 403 } else { 200 };
            assert_eq!(reply.expect("an answer").status, expected, "{account}");
        }
    }
    assert_eq!(
        proxy.metric("outrigger_authorization_decisions_total", &["decision=\"ended\""]).await,
        180.0,
        "each is counted once"
    );
}

/// A policy on a listener that had none, then a stricter one, then none again.
#[tokio::test]
async fn a_policy_added_later_acts_on_what_is_open() {
    let mesh = Mesh::new();
    mesh.identity("shop/web");
    let streaming = Streaming::start().await;
    let some = "authorization:\n  p: { default: allow, rules: [\
        { name: plain, action: deny, from: [{ notTrustDomains: [mesh.local] }], to: [{ paths: [{ prefix: /b }, { prefix: /held/b }] }] }] }";
    let open = config(&mesh, &streaming, "");
    let proxy = Proxy::start(&open).await;
    let cart = TlsClient::with(&mesh.svid("shop/cart"));
    let (secure, plain) = (cart.h2(proxy.addr()).await, H2Client::connect(proxy.addr()).await);
    let mut ending = [
        open_h2(&plain, "/b").await,
        open_h2(&plain, "/held/b").await,
        open_h1(H1Client::connect(proxy.addr()).await, "/b").await,
    ];
    let mut going = [
        open_h2(&plain, "/a").await,
        open_h2(&secure, "/b").await,
        open_h1(cart.h1(proxy.addr()).await, "/b").await,
        open_h1(H1Client::connect(proxy.addr()).await, "/a").await,
    ];
    proxy.replace_config(&config(&mesh, &streaming, some).listener("authorization: p"));
    for stream in &mut ending {
        assert!(matches!(stream.fate().await, End::Cut | End::Answered(403)));
    }
    assert_eq!(plain.get("/b").await.status, 403, "and the next request of the same connection is refused");
    // Taking the policy away again opens the door.
    proxy.replace_config(&open);
    let start = Instant::now();
    loop {
        let (response, _) = plain.open(h2_client::get("/b"), true).await.unwrap();
        if within(PATIENCE, "a head", response).await.unwrap().status() == 200 {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "the policy is gone");
        tokio::time::sleep(ms(5)).await;
    }
    streaming.gate.send_replace(1);
    for stream in &mut going {
        assert_eq!(stream.fate().await, End::GoesOn);
    }
}

/// An edit that changes nothing for anybody touches nobody; one of something else entirely does not either.
#[tokio::test]
async fn an_edit_that_changes_nothing_ends_nothing() {
    let mesh = Mesh::new();
    mesh.identity("shop/web");
    let streaming = Streaming::start().await;
    let policy = |name: &str| {
        format!(
            "authorization:\n  p: {{ default: deny, rules: [{{ name: {name}, action: allow, from: [{{ addresses: [127.0.0.1/32] }}] }}] }}"
        )
    };
    let proxy = Proxy::start(&config(&mesh, &streaming, &policy("one")).listener("authorization: p")).await;
    let client = H2Client::connect(proxy.addr()).await;
    let mut streams = Vec::new();
    for number in 0..20 {
        streams.push(open_h2(&client, &format!("/a/{number}")).await);
        streams.push(open_h1(H1Client::connect(proxy.addr()).await, &format!("/a/{number}")).await);
    }
    for name in ["two", "three"] {
        let config = config(&mesh, &streaming, &policy(name)).listener("authorization: p");
        proxy.replace_config(&config);
        let start = Instant::now();
        while proxy.metric("outrigger_config_reloads_total", &["result=\"applied\""]).await
            < if name == "two" { 1.0 } else { 2.0 }
        {
            assert!(start.elapsed() < PATIENCE, "the edit is applied");
            tokio::time::sleep(ms(5)).await;
        }
    }
    streaming.gate.send_replace(1);
    for stream in &mut streams {
        assert_eq!(stream.fate().await, End::GoesOn);
    }
    assert_eq!(proxy.metric("outrigger_authorization_decisions_total", &["decision=\"ended\""]).await, 0.0);
}

/// An upload that is still under way is an open exchange as well.
#[tokio::test]
async fn an_upload_under_way_is_cut_off_when_it_is_no_longer_allowed() {
    let mesh = Mesh::new();
    mesh.identity("shop/web");
    let streaming = Streaming::start().await;
    let closed =
        "authorization:\n  p: { default: allow, rules: [{ name: uploads, action: deny, to: [{ methods: [POST] }] }] }";
    let proxy = Proxy::start(&config(&mesh, &streaming, "")).await;
    let client = H2Client::connect(proxy.addr()).await;
    let (response, mut body) = client.open(h2_client::post("/held"), false).await.unwrap();
    body.send_data(Bytes::from_static(b"half"), false).unwrap();
    let h1 = H1Client::connect(proxy.addr()).await;
    h1.send("POST /held HTTP/1.1\r\nhost: h1.example\r\ncontent-length: 100\r\n\r\nhalf").await;
    streaming.h2.until(PATIENCE, "the call", |calls| calls.len() == 1).await;
    streaming.h1.until(PATIENCE, "the request", |r| r.iter().any(|r| !r.requests.is_empty())).await;
    proxy.replace_config(&config(&mesh, &streaming, closed).listener("authorization: p"));
    let mut streams = [Stream::HeldH2(response), Stream::HeldH1(h1)];
    for stream in &mut streams {
        assert!(matches!(stream.fate().await, End::Cut | End::Answered(403)));
    }
    streaming.h1.until(PATIENCE, "the backend's connection", |r| r.iter().all(|r| r.end.is_some())).await;
    assert!(streaming.h1.requests().iter().all(|request| !request.complete), "never complete");
}
