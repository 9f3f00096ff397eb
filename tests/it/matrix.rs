//! What must hold in all four combinations of HTTP/1.1 and HTTP/2 on the two sides of the proxy:
//! messages arrive whole, with their trailers, interim responses and special cases.

use std::time::Instant;

use crate::support::any::{AnyBackend, AnyClient, COMBINATIONS, Message, Version};
use crate::support::http1::chunk;
use crate::support::{
    Call, Config, Conn, H1Backend, H1Client, H2Backend, H2Client, PATIENCE, Proxy, h2_client, ms, response, within,
};

async fn pair(down: Version, up: Version, backend: &AnyBackend) -> (Proxy, AnyClient) {
    let proxy = Proxy::start(&Config::to(up.protocol(), &[backend.addr()])).await;
    let client = AnyClient::connect(down, proxy.addr()).await;
    (proxy, client)
}

#[tokio::test]
async fn bodies_arrive_whole_in_both_directions() {
    let body: Vec<u8> = (0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for (down, up) in COMBINATIONS {
        let backend = AnyBackend::with(up, |seen| (200, Message::body(seen.body.clone()))).await;
        let (_proxy, mut client) = pair(down, up, &backend).await;
        let told = client.call("POST", "/echo", &Message::body(body.clone())).await;
        assert_eq!(told.status, 200, "{down:?} to {up:?}");
        assert!(told.body == body, "{down:?} to {up:?}: {} bytes came back", told.body.len());
        assert!(backend.only().body == body, "{down:?} to {up:?}");
    }
}

#[tokio::test]
async fn trailers_travel_in_both_directions() {
    for (down, up) in COMBINATIONS {
        let answer = Message::body("down").trailer("x-down", "1").trailer("grpc-status", "0");
        let backend = AnyBackend::answering(up, 200, answer).await;
        let (_proxy, mut client) = pair(down, up, &backend).await;
        let message = Message::body("up").field("te", "trailers").trailer("x-up", "2");
        let told = client.call("POST", "/", &message).await;
        assert_eq!(told.text(), "down", "{down:?} to {up:?}");
        assert_eq!(
            told.trailers,
            [("x-down".to_owned(), "1".to_owned()), ("grpc-status".to_owned(), "0".to_owned())],
            "{down:?} to {up:?}"
        );
        let seen = backend.only();
        assert_eq!(seen.body, b"up", "{down:?} to {up:?}");
        assert_eq!(seen.trailers, [("x-up".to_owned(), "2".to_owned())], "{down:?} to {up:?}");
        assert_eq!(seen.get("te"), Some("trailers"), "{down:?} to {up:?}");
    }
}

#[tokio::test]
async fn trailers_without_a_body_travel_too() {
    for (down, up) in COMBINATIONS {
        let answer = Message::default().trailer("x-down", "1");
        let backend = AnyBackend::answering(up, 200, answer).await;
        let (_proxy, mut client) = pair(down, up, &backend).await;
        let told = client.call("POST", "/", &Message::default().trailer("x-up", "2")).await;
        assert_eq!(told.trailers, [("x-down".to_owned(), "1".to_owned())], "{down:?} to {up:?}");
        let seen = backend.only();
        assert_eq!(seen.trailers, [("x-up".to_owned(), "2".to_owned())], "{down:?} to {up:?}");
    }
}

#[tokio::test]
async fn early_hints_are_forwarded() {
    for (down, up) in COMBINATIONS {
        let answer = Message::body("final")
            .hint(103, &[("link", "</a.css>; rel=preload")])
            .hint(103, &[("link", "</b.css>; rel=preload")]);
        let backend = AnyBackend::answering(up, 200, answer).await;
        let (_proxy, mut client) = pair(down, up, &backend).await;
        let told = client.get("/").await;
        let hints: Vec<_> = told
            .informational
            .iter()
            .map(|(status, fields)| {
                let link = fields.iter().find(|(name, _)| name == "link").expect("a link");
                (*status, link.1.as_str())
            })
            .collect();
        assert_eq!(hints, [(103, "</a.css>; rel=preload"), (103, "</b.css>; rel=preload")], "{down:?} to {up:?}");
        assert_eq!((told.status, told.text().as_str()), (200, "final"), "{down:?} to {up:?}");
    }
}

#[tokio::test]
async fn an_early_hint_is_not_held_back_until_the_final_response() {
    let (release, gate) = tokio::sync::watch::channel(false);
    let backend = H1Backend::start(move |mut conn: Conn| {
        let mut gate = gate.clone();
        async move {
            while conn.request().await.is_some() {
                conn.send("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n").await.ok();
                gate.wait_for(|open| *open).await.ok();
                conn.send(response(200, &[], b"ok")).await.ok();
            }
        }
    })
    .await;
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr])).await;
    let mut client = H1Client::connect(proxy.addr()).await;
    client.send("GET / HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
    let hint = within(PATIENCE, "the hint", client.wire.head()).await.unwrap().unwrap();
    assert!(hint.start.starts_with("HTTP/1.1 103 "), "{hint:?}");
    release.send_replace(true);
    assert_eq!(client.response().await.status, 200);
}

#[tokio::test]
async fn head_has_the_fields_of_get_and_no_body() {
    for (down, up) in COMBINATIONS {
        let backend = AnyBackend::with(up, |seen| match seen.method.as_str() {
            "HEAD" => (200, Message::default().field("content-length", "5000000000")),
            _ => (200, Message::body("after")),
        })
        .await;
        let (_proxy, mut client) = pair(down, up, &backend).await;
        let told = client.call("HEAD", "/", &Message::default()).await;
        assert_eq!(told.status, 200, "{down:?} to {up:?}");
        assert_eq!(told.get("content-length"), Some("5000000000"), "{down:?} to {up:?}");
        assert!(told.body.is_empty());
        assert_eq!(client.get("/next").await.text(), "after", "{down:?} to {up:?}");
        assert_eq!(backend.connections(), 1, "{down:?} to {up:?}: the connection was kept");
    }
}

#[tokio::test]
async fn a_chunked_answer_to_head_has_no_body_either() {
    let backend = H1Backend::answering(|request| match request.method.as_str() {
        "HEAD" => b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec(),
        _ => response(200, &[], b"after"),
    })
    .await;
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr]).top("workers: 1")).await;
    for version in [Version::H1, Version::H2] {
        let mut client = AnyClient::connect(version, proxy.addr()).await;
        let told = client.call("HEAD", "/", &Message::default()).await;
        assert_eq!((told.status, told.body.len()), (200, 0), "{version:?}");
        assert_eq!(client.get("/next").await.text(), "after", "{version:?}");
    }
    assert_eq!(backend.connections(), 1, "the connection was kept");
}

#[tokio::test]
async fn no_content_and_not_modified_have_no_body() {
    for (down, up) in COMBINATIONS {
        let backend = AnyBackend::with(up, |seen| match seen.target.as_str() {
            "/204" => (204, Message::default().field("x-a", "b")),
            "/304" => (304, Message::default().field("etag", "\"v1\"").field("content-length", "7")),
            _ => (200, Message::body("after")),
        })
        .await;
        let (_proxy, mut client) = pair(down, up, &backend).await;
        for status in [204, 304] {
            let told = client.get(&format!("/{status}")).await;
            assert_eq!((told.status, told.body.len()), (status, 0), "{down:?} to {up:?}");
            assert_eq!(client.get("/next").await.text(), "after", "{down:?} to {up:?}");
        }
        assert_eq!(backend.connections(), 1, "{down:?} to {up:?}: the connection was kept");
    }
}

#[tokio::test]
async fn an_empty_body_is_empty_and_the_connection_goes_on() {
    for (down, up) in COMBINATIONS {
        let backend = AnyBackend::answering(up, 200, Message::default()).await;
        let (_proxy, mut client) = pair(down, up, &backend).await;
        for _ in 0..3 {
            let told = client.call("POST", "/", &Message::default()).await;
            assert_eq!((told.status, told.body.len()), (200, 0), "{down:?} to {up:?}");
        }
        let lengths: Vec<_> = backend.seen().iter().map(|s| s.get("content-length").map(str::to_owned)).collect();
        if up == Version::H1 {
            // RFC 9110 section 8.6: a POST says that its body is empty.
            assert_eq!(lengths, vec![Some("0".to_owned()); 3], "{down:?} to {up:?}");
        }
    }
}

#[tokio::test]
async fn large_headers_pass_in_both_directions() {
    let large: Vec<String> = (0..30).map(|i| format!("{i}-").repeat(500)).collect();
    for (down, up) in COMBINATIONS {
        let mut answer = Message::body("ok");
        let mut ask = Message::default();
        for (index, value) in large.iter().enumerate() {
            answer = answer.field(&format!("x-down-{index}"), value);
            ask = ask.field(&format!("x-up-{index}"), value);
        }
        let backend = AnyBackend::answering(up, 200, answer).await;
        let (_proxy, mut client) = pair(down, up, &backend).await;
        let told = client.call("GET", "/", &ask).await;
        assert_eq!(told.status, 200, "{down:?} to {up:?}");
        let seen = backend.only();
        for (index, value) in large.iter().enumerate() {
            assert_eq!(told.get(&format!("x-down-{index}")), Some(value.as_str()));
            assert_eq!(seen.get(&format!("x-up-{index}")), Some(value.as_str()));
        }
    }
}

#[tokio::test]
async fn every_status_passes_unchanged() {
    for (down, up) in COMBINATIONS {
        let backend =
            AnyBackend::with(up, |seen| (seen.target[1..].parse().expect("a status"), Message::body("x"))).await;
        let (_proxy, mut client) = pair(down, up, &backend).await;
        for status in [200, 201, 206, 299, 301, 400, 401, 404, 418, 429, 500, 501, 502, 503, 504, 599] {
            let told = client.get(&format!("/{status}")).await;
            assert_eq!((told.status, told.text().as_str()), (status, "x"), "{down:?} to {up:?}");
            assert_eq!(told.reason(), None, "an upstream's answer is not ours");
        }
    }
}

/// The body of a request reaches the backend while the client still sends, and the response reaches
/// the client while the backend still sends.
#[tokio::test]
async fn bodies_stream_without_waiting_for_their_end() {
    for up in [Version::H1, Version::H2] {
        let backend = echo_pieces(up).await;
        let proxy = Proxy::start(&Config::to(up.protocol(), &[backend.addr()])).await;

        let mut client = H1Client::connect(proxy.addr()).await;
        client.send("POST / HTTP/1.1\r\nhost: a.example\r\ntransfer-encoding: chunked\r\n\r\n").await;
        client.send(chunk(b"one")).await;
        assert_eq!(client.response_head().await.status, 200, "H1 to {up:?}");
        for piece in [&b"one"[..], b"two", b"three"] {
            if piece != b"one" {
                client.send(chunk(piece)).await;
            }
            let mut got = Vec::new();
            while got.len() < piece.len() {
                let chunk = within(PATIENCE, "a chunk", client.wire.chunk()).await.unwrap();
                got.extend(chunk.expect("not the last"));
            }
            assert_eq!(got, piece, "H1 to {up:?}");
        }

        let client = H2Client::connect(proxy.addr()).await;
        let (reply, mut stream) = client.open(h2_client::post("/"), false).await.unwrap();
        stream.send_data("one".into(), false).unwrap();
        let mut body = within(PATIENCE, "a head", reply).await.unwrap().into_body();
        for piece in ["one", "two", "three"] {
            if piece != "one" {
                stream.send_data(piece.into(), false).unwrap();
            }
            let mut got = Vec::new();
            while got.len() < piece.len() {
                let data = within(PATIENCE, "data", body.data()).await.expect("not the end").unwrap();
                body.flow_control().release_capacity(data.len()).unwrap();
                got.extend_from_slice(&data);
            }
            assert_eq!(got, piece.as_bytes(), "H2 to {up:?}");
        }
    }
}

/// A backend that sends the head of its response at once and every piece of the body back as it comes.
async fn echo_pieces(version: Version) -> AnyBackend {
    match version {
        Version::H1 => AnyBackend::H1(
            H1Backend::start(|mut conn: Conn| async move {
                if conn.request_head().await.is_none() {
                    return;
                }
                conn.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.ok();
                while let Ok(Ok(data)) = conn.wire().chunk().await {
                    conn.send(chunk(&data)).await.ok();
                }
                conn.send("0\r\n\r\n").await.ok();
            })
            .await,
        ),
        Version::H2 => AnyBackend::H2(H2Backend::grpc_echo().await),
    }
}

#[tokio::test]
async fn the_backend_is_asked_before_the_body_is_sent_when_the_client_expects_100() {
    for up in [Version::H1, Version::H2] {
        let backend = continuing(up).await;
        let proxy = Proxy::start(&Config::to(up.protocol(), &[backend.addr()])).await;
        let mut client = H1Client::connect(proxy.addr()).await;
        client.send("POST /go HTTP/1.1\r\nhost: a.example\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n").await;
        let head = within(PATIENCE, "100", client.wire.head()).await.unwrap().unwrap();
        assert!(head.start.starts_with("HTTP/1.1 100 "), "{up:?}: {head:?}");
        client.send("hello").await;
        let reply = client.response_to("POST").await;
        assert_eq!((reply.status, reply.informational.len()), (200, 0), "{up:?}");
        let seen = backend.only();
        assert_eq!((seen.body.as_slice(), seen.get("expect")), (&b"hello"[..], Some("100-continue")));

        let client = H2Client::connect(proxy.addr()).await;
        let mut request = h2_client::post("/go");
        request.headers_mut().insert("expect", "100-continue".parse().unwrap());
        let (mut reply, mut stream) = client.open(request, false).await.unwrap();
        let first = within(PATIENCE, "100", std::future::poll_fn(|cx| reply.poll_informational(cx)))
            .await
            .expect("an interim response")
            .unwrap();
        assert_eq!(first.status(), 100, "{up:?}");
        stream.send_data("hello".into(), true).unwrap();
        let reply = within(PATIENCE, "the reply", h2_client::read(reply)).await.unwrap();
        assert_eq!(reply.status, 200, "{up:?}");
    }
}

#[tokio::test]
async fn a_backend_may_refuse_what_the_client_only_announced() {
    for up in [Version::H1, Version::H2] {
        let backend = continuing(up).await;
        let proxy = Proxy::start(&Config::to(up.protocol(), &[backend.addr()])).await;
        let mut client = H1Client::connect(proxy.addr()).await;
        client.send("POST /no HTTP/1.1\r\nhost: a.example\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n").await;
        let reply = client.response_to("POST").await;
        assert_eq!((reply.status, reply.informational.len()), (417, 0), "{up:?}");
    }
}

/// Says 100 to a request that expects it, then 200; on `/no` says 417 instead of either.
async fn continuing(version: Version) -> AnyBackend {
    match version {
        Version::H1 => AnyBackend::H1(
            H1Backend::start(|mut conn: Conn| async move {
                while let Some(mut request) = conn.request_head().await {
                    if request.target == "/no" {
                        conn.send(response(417, &[("connection", "close")], b"no")).await.ok();
                        conn.closed().await;
                        return;
                    }
                    conn.send("HTTP/1.1 100 Continue\r\n\r\n").await.ok();
                    conn.finish_request(&mut request).await;
                    conn.send(response(200, &[], b"ok")).await.ok();
                }
            })
            .await,
        ),
        Version::H2 => AnyBackend::H2(
            H2Backend::start(|mut call: Call| async move {
                if call.path() == "/no" {
                    call.reply(417, "no").await;
                    return;
                }
                let head = http::Response::builder().status(100).body(()).unwrap();
                call.respond.send_informational(head).unwrap();
                if call.body().await.is_ok() {
                    call.reply(200, "ok").await;
                }
            })
            .await,
        ),
    }
}

#[tokio::test]
async fn an_answer_that_comes_while_the_client_still_uploads_reaches_it() {
    for (down, up) in COMBINATIONS {
        let backend = match up {
            Version::H1 => AnyBackend::H1(
                H1Backend::start(|mut conn: Conn| async move {
                    if conn.request_head().await.is_some() {
                        conn.send(response(413, &[("connection", "close")], b"too large")).await.ok();
                        conn.closed().await;
                    }
                })
                .await,
            ),
            Version::H2 => AnyBackend::H2(
                H2Backend::start(|mut call: Call| async move { call.reply(413, "too large").await }).await,
            ),
        };
        let proxy = Proxy::start(&Config::to(up.protocol(), &[backend.addr()])).await;
        match down {
            Version::H1 => {
                let mut client = H1Client::connect(proxy.addr()).await;
                client.send("POST / HTTP/1.1\r\nhost: a.example\r\ncontent-length: 100000000\r\n\r\npart").await;
                let reply = client.response_to("POST").await;
                assert_eq!((reply.status, reply.text().as_str()), (413, "too large"), "to {up:?}");
                // The rest of the body was never read as a request: the connection ends.
                client.send("GET /smuggled HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
                client.wire.finish();
                let rest = client.rest(PATIENCE).await;
                assert!(!rest.starts_with(b"HTTP/1.1"), "{}", rest.escape_ascii());
                assert!(backend.seen().iter().all(|seen| seen.target != "/smuggled"));
            }
            Version::H2 => {
                let client = H2Client::connect(proxy.addr()).await;
                let (reply, mut stream) = client.open(h2_client::post("/"), false).await.unwrap();
                stream.send_data("part".into(), false).unwrap();
                let reply = within(PATIENCE, "413", h2_client::read(reply)).await.unwrap();
                assert_eq!((reply.status, &reply.body[..]), (413, &b"too large"[..]), "to {up:?}");
                // The connection goes on.
                let reply = client.get("/next").await;
                assert_eq!(reply.status, 413);
            }
        }
    }
}

/// Events are passed on one by one and at once.
#[tokio::test]
async fn an_event_reaches_the_client_within_5_ms_of_being_written() {
    crate::support::gate::exclusive();
    const EVENTS: usize = 60;
    for (down, up) in COMBINATIONS {
        let (next, _) = tokio::sync::broadcast::channel::<usize>(4);
        let backend = events(up, next.clone()).await;
        let proxy = Proxy::start(&Config::to(up.protocol(), &[backend.addr()])).await;
        let mut stream = EventStream::open(down, &proxy).await;
        let mut late = Vec::new();
        for number in 0..EVENTS {
            let written = Instant::now();
            next.send(number).expect("the backend listens");
            let expected = format!("data: {number}\n\n");
            assert_eq!(stream.next(expected.len()).await, expected, "{down:?} to {up:?}");
            let took = written.elapsed();
            if took > ms(5) {
                late.push(took);
            }
        }
        // A preempted test thread is not the proxy's fault; more than a few are.
        assert!(late.len() <= EVENTS / 10, "{down:?} to {up:?}: {late:?}");
    }
}

async fn events(version: Version, next: tokio::sync::broadcast::Sender<usize>) -> AnyBackend {
    match version {
        Version::H1 => AnyBackend::H1(
            H1Backend::start(move |mut conn: Conn| {
                let mut next = next.subscribe();
                async move {
                    if conn.request().await.is_none() {
                        return;
                    }
                    conn.send(
                        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
                    )
                    .await
                    .ok();
                    while let Ok(number) = next.recv().await {
                        conn.send(chunk(format!("data: {number}\n\n").as_bytes())).await.ok();
                    }
                }
            })
            .await,
        ),
        Version::H2 => AnyBackend::H2(
            H2Backend::start(move |mut call: Call| {
                let mut next = next.subscribe();
                async move {
                    let head = http::Response::builder().header("content-type", "text/event-stream").body(()).unwrap();
                    let Ok(mut out) = call.respond(head, false) else { return };
                    while let Ok(number) = next.recv().await {
                        out.send_data(format!("data: {number}\n\n").into(), false).ok();
                    }
                }
            })
            .await,
        ),
    }
}

enum EventStream {
    H1(H1Client),
    H2(h2::RecvStream, #[expect(dead_code, reason = "keeps the connection")] H2Client),
}

impl EventStream {
    async fn open(version: Version, proxy: &Proxy) -> Self {
        match version {
            Version::H1 => {
                let mut client = H1Client::connect(proxy.addr()).await;
                client.send("GET / HTTP/1.1\r\nhost: a.example\r\naccept: text/event-stream\r\n\r\n").await;
                assert_eq!(client.response_head().await.status, 200);
                Self::H1(client)
            }
            Version::H2 => {
                let client = H2Client::connect(proxy.addr()).await;
                let mut request = h2_client::get("/");
                request.headers_mut().insert("accept", "text/event-stream".parse().unwrap());
                let (reply, _) = client.open(request, true).await.unwrap();
                let reply = within(PATIENCE, "a head", reply).await.unwrap();
                Self::H2(reply.into_body(), client)
            }
        }
    }

    async fn next(&mut self, length: usize) -> String {
        let mut got = Vec::new();
        while got.len() < length {
            match self {
                Self::H1(client) => {
                    let data = within(PATIENCE, "an event", client.wire.chunk()).await.unwrap();
                    got.extend(data.expect("not the last"));
                }
                Self::H2(body, _) => {
                    let data = within(PATIENCE, "an event", body.data()).await.unwrap().unwrap();
                    body.flow_control().release_capacity(data.len()).unwrap();
                    got.extend_from_slice(&data);
                }
            }
        }
        String::from_utf8(got).unwrap()
    }
}
