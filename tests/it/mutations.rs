//! Damaged input from both sides: whatever a caller sends, a backend receives only well-formed messages;
//! whatever a backend answers, a caller receives only well-formed messages and its own. The damage is
//! pseudo-random; the seed is in every failure (`OUTRIGGER_SEED` repeats it).

use crate::support::frames::{self, RawH2, block, frame};
use crate::support::{Config, H1Backend, H1Client, Proxy, h1_client, ms, response};

/// A generator of pseudo-random numbers (xorshift), good enough to damage things.
struct Random {
    seed: u64,
    state: u64,
}

impl Random {
    fn new() -> Self {
        let given = std::env::var("OUTRIGGER_SEED").ok().and_then(|text| text.parse().ok());
        let seed = given.unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.map_or(1, |d| d.as_nanos() as u64)
        });
        Self { seed, state: seed | 1 }
    }

    fn below(&mut self, bound: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state % bound as u64) as usize
    }

    fn pick<'a, T: ?Sized>(&mut self, list: &[&'a T]) -> &'a T {
        list[self.below(list.len())]
    }

    /// Changes bytes, and removes, doubles and inserts pieces, a few times.
    fn damage(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        for _ in 0..=self.below(3) {
            if bytes.is_empty() {
                break;
            }
            let at = self.below(bytes.len());
            let end = (at + 1 + self.below(12)).min(bytes.len());
            match self.below(6) {
                0 => bytes[at] = self.below(256) as u8,
                1 => bytes[at] = b"\r\n\0 \t:,;09"[self.below(10)],
                2 => drop(bytes.drain(at..end)),
                3 => {
                    let piece = bytes[at..end].to_vec();
                    bytes.splice(at..at, piece);
                }
                4 => {
                    let piece = self.pick(&[
                        "\r\n",
                        "\n",
                        "\r",
                        " ",
                        "Content-Length: 3\r\n",
                        "Transfer-Encoding: chunked\r\n",
                        "Host: b\r\n",
                        "\r\n 5\r\n",
                        "0\r\n\r\n",
                        "HTTP/1.1",
                        "%2e%2e/",
                        "Connection: close\r\n",
                        "Expect: 100-continue\r\n",
                    ]);
                    bytes.splice(at..at, piece.bytes());
                }
                _ => bytes.truncate(at.max(1)),
            }
        }
        bytes
    }
}

const REQUESTS: [&str; 6] = [
    "GET /a?b=c HTTP/1.1\r\nHost: a.example\r\nX-A: b\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: a.example\r\nContent-Length: 11\r\n\r\nhello world",
    "POST /a HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nX-T: u\r\n\r\n",
    "PUT http://a.example/b HTTP/1.1\r\nHost: a.example\r\nConnection: x-b, keep-alive\r\nX-B: 1\r\nContent-Length: 0\r\n\r\n",
    "GET / HTTP/1.0\r\nHost: a.example\r\nConnection: keep-alive\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: a.example\r\nTE: trailers\r\nUpgrade: h2c\r\n\r\n",
];

#[tokio::test]
async fn damaged_requests_reach_no_backend_malformed() {
    let mut random = Random::new();
    let backend = H1Backend::ok().await;
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr])).await;
    for round in 0..800 {
        let mut bytes = Vec::new();
        for _ in 0..=random.below(3) {
            let one = random.pick(&REQUESTS).as_bytes().to_vec();
            bytes.extend(if random.below(3) == 0 { one } else { random.damage(one) });
        }
        let place = format!("seed {}, round {round}: {}", random.seed, bytes.escape_ascii());
        let mut client = H1Client::connect(proxy.addr()).await;
        client.send(&bytes).await;
        // Some wait for more; those that are answered are answered soon.
        tokio::time::timeout(ms(20), client.wire.fill()).await.ok();
        client.wire.finish();
        let answers = client.rest(ms(10_000)).await;
        assert!(answers.is_empty() || answers.starts_with(b"HTTP/1."), "{place}\nanswered {}", answers.escape_ascii());
        let complaints: Vec<_> = backend.records().into_iter().flat_map(|r| r.violations).collect();
        assert!(complaints.is_empty(), "{place}\nthe backend received {complaints:?}");
    }
    assert_eq!(h1_client::get(proxy.addr(), "/after").await.status, 200, "seed {}", random.seed);
}

const RESPONSES: [&str; 5] = [
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: b\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-T: u\r\n\r\n",
    "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno",
    "HTTP/1.1 204 No Content\r\nConnection: keep-alive, x-b\r\nX-B: 1\r\n\r\n",
    "HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\nETag: x\r\n\r\n",
];

#[tokio::test]
async fn damaged_responses_reach_no_caller_malformed() {
    let mut random = Random::new();
    let (tell, told) = tokio::sync::watch::channel(Vec::new());
    let backend = H1Backend::answering(move |request| match request.target.as_str() {
        "/damaged" => told.borrow().clone(),
        path => response(200, &[], path.as_bytes()),
    })
    .await;
    let proxy = Proxy::start(
        &Config::new()
            .top("workers: 1")
            .routes(
                r#"
                - rules:
                    - matches: [{ path: { exact: /damaged } }]
                      timeouts: { request: 100ms, idle: 100ms }
                      backendRefs: [{ cluster: c }]
                    - backendRefs: [{ cluster: c }]
                "#,
            )
            .cluster("c", "http1", &[backend.addr]),
    )
    .await;
    for round in 0..200 {
        let one = random.pick(&RESPONSES).as_bytes().to_vec();
        let bytes = random.damage(one);
        let place = format!("seed {}, round {round}: {}", random.seed, bytes.escape_ascii());
        tell.send_replace(bytes);
        let mut client = H1Client::connect(proxy.addr()).await;
        client.send("GET /damaged HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
        match tokio::time::timeout(ms(5000), client.wire.response("GET")).await {
            Ok(Ok(_)) => {}
            // Cut off, visibly: the length or the last chunk is missing.
            Ok(Err(error)) => {
                assert_eq!(
                    error.kind(),
                    std::io::ErrorKind::UnexpectedEof,
                    "{place}\nthe caller received {}: {error}",
                    client.wire.seen.escape_ascii()
                );
            }
            Err(_) => panic!("{place}\nno answer and no end"),
        }
        // Whatever is left of it on a kept connection must not be the answer to somebody else.
        let path = format!("/{round}");
        let reply = h1_client::get(proxy.addr(), &path).await;
        assert_eq!((reply.status, reply.text()), (200, path), "{place}");
    }
}

#[tokio::test]
async fn damaged_frames_end_in_answers_resets_or_a_closed_connection() {
    let mut random = Random::new();
    let backend = H1Backend::ok().await;
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr])).await;
    let fields: [(&[u8], &[u8]); 5] = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":authority", b"a.example"),
        (b":path", b"/a"),
        (b"x-a", b"b"),
    ];
    for round in 0..300 {
        let mut bytes = Vec::new();
        for stream in [1, 3, 5] {
            bytes.extend(frame(frames::HEADERS, frames::END_HEADERS, stream, &block(&fields)));
            bytes.extend(frame(frames::DATA, 0, stream, b"hello"));
            bytes.extend(frame(frames::DATA, frames::END_STREAM, stream, b" world"));
        }
        bytes.extend(frame(frames::PING, 0, 0, b"12345678"));
        bytes.extend(frame(frames::WINDOW_UPDATE, 0, 0, &100u32.to_be_bytes()));
        let bytes = random.damage(bytes);
        let place = format!("seed {}, round {round}: {}", random.seed, bytes.escape_ascii());
        let mut raw = RawH2::connect(proxy.addr()).await;
        raw.wire.send(&bytes).await.ok();
        tokio::time::timeout(ms(20), raw.wire.fill()).await.ok();
        raw.wire.finish();
        raw.until_closed(ms(10_000)).await;
        let complaints: Vec<_> = backend.records().into_iter().flat_map(|r| r.violations).collect();
        assert!(complaints.is_empty(), "{place}\nthe backend received {complaints:?}");
    }
    assert_eq!(h1_client::get(proxy.addr(), "/after").await.status, 200, "seed {}", random.seed);
}
