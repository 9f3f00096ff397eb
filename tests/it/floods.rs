//! HTTP/2 floods: a connection that abuses the protocol is cut off or held back, memory stays where it
//! is, and other callers are served all the while.

use std::time::{Duration, Instant};

use crate::support::frames::{self, RawH2, block, frame};
use crate::support::{Config, H1Backend, H2Client, Proxy, gate, ms, within};

const GET: [(&[u8], &[u8]); 4] =
    [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a.example"), (b":path", b"/")];

/// How a flood ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The proxy closed the connection.
    Cut,
    /// The proxy stopped reading for a second: backpressure.
    HeldBack,
    /// Everything was accepted.
    Accepted,
}

/// Pours bytes into a connection without reading, while another caller is served.
async fn flood(name: &str, allowed: &[End], prepare: Vec<u8>, mut next: impl FnMut() -> Vec<u8>) {
    gate::exclusive();
    let backend = H1Backend::ok().await;
    // Fewer streams than the cluster takes requests: open streams are its ceiling's business, not this one's.
    let config = Config::to("http1", &[backend.addr]).listener("maxConcurrentStreams: 100");
    let proxy = Proxy::start(&config).await;
    let steady = H2Client::connect(proxy.addr()).await;
    assert_eq!(steady.get("/steady").await.status, 200);
    let before = proxy.rss();

    let raw = RawH2::connect(proxy.addr()).await;
    raw.wire.send(prepare).await.unwrap();
    let writer = raw.wire.writer();
    let pouring = async {
        for _ in 0..4000 {
            match tokio::time::timeout(ms(1000), writer.send(next())).await {
                Ok(Ok(())) => tokio::task::yield_now().await,
                Ok(Err(_)) => return End::Cut,
                Err(_) => return End::HeldBack,
            }
        }
        End::Accepted
    };
    let mut slowest = Duration::ZERO;
    let serving = async {
        loop {
            let start = Instant::now();
            assert_eq!(steady.get("/steady").await.status, 200, "{name}: the other caller is served");
            slowest = slowest.max(start.elapsed());
        }
    };
    let end = within(Duration::from_secs(60), name, async {
        tokio::select! {
            end = pouring => end,
            () = serving => unreachable!("it serves for ever"),
        }
    })
    .await;
    assert!(allowed.contains(&end), "{name}: {end:?}");
    assert!(slowest < ms(2000), "{name}: the other caller waited {slowest:?}");
    assert_eq!(steady.get("/after").await.status, 200, "{name}");
    let grown = proxy.rss().saturating_sub(before) >> 20;
    println!("{name}: {end:?}, {grown} MiB, slowest other request {slowest:?}");
    assert!(grown < 32, "{name}: memory grew by {grown} MiB");
}

#[tokio::test]
async fn a_rapid_reset_is_cut_off() {
    let mut stream = 1u32;
    flood("rapid reset", &[End::Cut], Vec::new(), || {
        let mut out = Vec::new();
        for _ in 0..50 {
            let flags = frames::END_HEADERS | frames::END_STREAM;
            out.extend(frame(frames::HEADERS, flags, stream, &block(&GET)));
            out.extend(frame(frames::RST_STREAM, 0, stream, &8u32.to_be_bytes()));
            stream += 2;
        }
        out
    })
    .await;
}

#[tokio::test]
async fn an_endless_header_block_is_cut_off() {
    let start = frame(frames::HEADERS, frames::END_STREAM, 1, &block(&GET));
    flood("CONTINUATION flood", &[End::Cut], start, || {
        frame(frames::CONTINUATION, 0, 1, &block(&[(b"x-a", &[b'b'; 4000])]))
    })
    .await;
}

#[tokio::test]
async fn empty_continuations_are_cut_off() {
    let start = frame(frames::HEADERS, frames::END_STREAM, 1, &block(&GET));
    flood("empty CONTINUATION flood", &[End::Cut], start, || frame(frames::CONTINUATION, 0, 1, &[]).repeat(100)).await;
}

#[tokio::test]
async fn streams_that_break_the_rules_again_and_again_are_cut_off() {
    // Each is answered with a reset by the proxy (the "made you reset" attack).
    let mut stream = 1u32;
    flood("malformed streams", &[End::Cut, End::HeldBack], Vec::new(), || {
        let mut out = Vec::new();
        for _ in 0..50 {
            let fields = block(&[GET[0], GET[1], GET[2], GET[3], (b"connection", b"close")]);
            let flags = frames::END_HEADERS | frames::END_STREAM;
            out.extend(frame(frames::HEADERS, flags, stream, &fields));
            stream += 2;
        }
        out
    })
    .await;
}

#[tokio::test]
async fn window_updates_that_force_resets_are_cut_off() {
    let mut stream = 1u32;
    flood("window overflow resets", &[End::Cut, End::HeldBack], Vec::new(), || {
        let mut out = Vec::new();
        for _ in 0..50 {
            out.extend(frame(frames::HEADERS, frames::END_HEADERS, stream, &block(&GET)));
            out.extend(frame(frames::WINDOW_UPDATE, 0, stream, &0u32.to_be_bytes()));
            stream += 2;
        }
        out
    })
    .await;
}

#[tokio::test]
async fn a_flood_of_settings_is_bounded() {
    flood("SETTINGS flood", &[End::Cut, End::HeldBack], Vec::new(), || {
        frame(frames::SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff]).repeat(500)
    })
    .await;
}

#[tokio::test]
async fn a_flood_of_pings_is_bounded() {
    flood("PING flood", &[End::Cut, End::HeldBack], Vec::new(), || frame(frames::PING, 0, 0, b"12345678").repeat(500))
        .await;
}

#[tokio::test]
async fn a_flood_of_empty_data_is_cut_off() {
    let start =
        frame(frames::HEADERS, frames::END_HEADERS, 1, &block(&[(b":method", b"POST"), GET[1], GET[2], GET[3]]));
    flood("empty DATA flood", &[End::Cut, End::HeldBack], start, || frame(frames::DATA, 0, 1, &[]).repeat(500)).await;
}

#[tokio::test]
async fn a_header_bomb_does_not_grow_memory() {
    // One large field in the dynamic table, then thousands of one-byte references to it.
    let value = [b'a'; 4000];
    let mut insert = vec![0x40, 3];
    insert.extend_from_slice(b"x-a");
    insert.extend_from_slice(&[127]);
    insert.extend_from_slice(&[(4000u32 - 127) as u8 & 0x7f | 0x80, ((4000u32 - 127) >> 7) as u8]);
    insert.extend_from_slice(&value);
    let mut first = block(&GET);
    first.extend_from_slice(&insert);
    let flags = frames::END_HEADERS | frames::END_STREAM;
    let start = frame(frames::HEADERS, flags, 1, &first);
    let mut stream = 3u32;
    flood("HPACK bomb", &[End::Cut, End::HeldBack], start, || {
        let mut fields = block(&GET);
        fields.extend(std::iter::repeat_n(0xbe, 10_000));
        let out = frame(frames::HEADERS, flags, stream, &fields);
        stream += 2;
        out
    })
    .await;
}

#[tokio::test]
async fn streams_that_open_and_never_end_are_limited() {
    let mut stream = 1u32;
    flood("stream flood", &[End::Cut, End::HeldBack, End::Accepted], Vec::new(), || {
        let fields = block(&[(b":method", b"POST"), GET[1], GET[2], GET[3]]);
        let out = frame(frames::HEADERS, frames::END_HEADERS, stream, &fields);
        stream += 2;
        out
    })
    .await;
}

#[tokio::test]
async fn other_protocol_errors_end_the_connection_with_a_reason() {
    let backend = H1Backend::ok().await;
    let proxy = Proxy::start(&Config::to("http1", &[backend.addr])).await;
    let oversized = vec![0; 20_000];
    // Where two codes stand, the second is what the h2 library says instead.
    for (name, bytes, codes) in [
        ("DATA on stream 0", frame(frames::DATA, 0, 0, b"x"), &[1][..]),
        ("HEADERS on an even stream", frame(frames::HEADERS, 5, 2, &block(&GET)), &[1][..]),
        ("a frame above the maximum", frame(frames::DATA, 0, 1, &oversized), &[6][..]),
        ("SETTINGS of five bytes", frame(frames::SETTINGS, 0, 0, &[0; 5]), &[6, 1][..]),
        ("PING of seven bytes", frame(frames::PING, 0, 0, &[0; 7]), &[6, 1][..]),
        ("CONTINUATION without HEADERS", frame(frames::CONTINUATION, 4, 1, &[]), &[1][..]),
        ("a header block that is no HPACK", frame(frames::HEADERS, 5, 1, &[0xff; 20]), &[9, 1][..]),
        ("DATA on an idle stream", frame(frames::DATA, 0, 7, b"x"), &[1][..]),
        ("a window of zero", frame(frames::WINDOW_UPDATE, 0, 0, &[0; 4]), &[1][..]),
        ("a server's PUSH_PROMISE", frame(5, 4, 1, &[0, 0, 0, 2, 0x82]), &[1][..]),
    ] {
        let mut raw = RawH2::connect(proxy.addr()).await;
        raw.wire.send(bytes).await.unwrap();
        let got = raw.until_closed(ms(5000)).await;
        assert!(got.is_some_and(|code| codes.contains(&code)), "{name}: {got:?}");
    }
    assert!(backend.requests().is_empty());
}
