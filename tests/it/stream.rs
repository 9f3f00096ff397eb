//! Large bodies: memory stays flat, and a slow reader holds the sender back.
//! 256 MiB each way here; `OUTRIGGER_FULL=1` makes it 2 GiB.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::support::any::{COMBINATIONS, Version};
use crate::support::http1::Writer;
use crate::support::{
    Call, Config, Conn, H1Backend, H1Client, H2Backend, H2Client, Proxy, eventually, full, gate, h2_client, ms,
    response, within,
};

/// What may lie between a stalled reader and its sender: socket buffers of four ends and what the proxy
/// holds. Far below the body, so passing it means that the sender was not held back.
const IN_FLIGHT: u64 = 48 << 20;
const GROWTH: u64 = 16 << 20;
const PIECE: usize = 64 * 1024;
const LIMIT: Duration = Duration::from_secs(300);

fn size() -> u64 {
    if full() { 2 << 30 } else { 256 << 20 }
}

/// How far a sender is.
#[derive(Debug, Default)]
struct Progress {
    sent: AtomicU64,
    done: AtomicBool,
}

impl Progress {
    fn add(&self, count: u64) {
        self.sent.fetch_add(count, Ordering::Relaxed);
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Waits until the sender has made no progress for a while.
    async fn stalled(&self) -> u64 {
        let mut last = u64::MAX;
        let mut since = std::time::Instant::now();
        eventually(LIMIT, "the sender is held back", || {
            let now = self.sent();
            if now != last {
                last = now;
                since = std::time::Instant::now();
            }
            now > 0 && since.elapsed() > ms(400)
        })
        .await;
        last
    }
}

/// Watches the memory of a proxy until told to stop; gives the peak.
fn watch(pid: u32) -> (Arc<AtomicBool>, std::thread::JoinHandle<u64>) {
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    let watching = std::thread::spawn(move || {
        let mut peak = 0;
        while !told.load(Ordering::Relaxed) {
            peak = peak.max(crate::support::process::rss(pid));
            std::thread::park_timeout(ms(20));
        }
        peak
    });
    (stop, watching)
}

async fn send_h1(writer: &Writer, size: u64, progress: &Progress) {
    let piece = vec![b'x'; PIECE];
    let mut left = size;
    while left > 0 {
        let count = left.min(PIECE as u64) as usize;
        if writer.send(&piece[..count]).await.is_err() {
            return;
        }
        progress.add(count as u64);
        left -= count as u64;
    }
    progress.done.store(true, Ordering::Relaxed);
}

async fn send_h2(out: &mut h2::SendStream<Bytes>, size: u64, progress: &Progress) {
    let piece = Bytes::from(vec![b'x'; PIECE]);
    let mut left = size;
    while left > 0 {
        out.reserve_capacity(PIECE.min(left as usize));
        let room = match poll_fn(|cx| out.poll_capacity(cx)).await {
            Some(Ok(room)) => room.min(PIECE).min(left as usize),
            _ => return,
        };
        if room == 0 {
            continue;
        }
        left -= room as u64;
        if out.send_data(piece.slice(..room), left == 0).is_err() {
            return;
        }
        progress.add(room as u64);
    }
    progress.done.store(true, Ordering::Relaxed);
}

async fn sending_backend(version: Version, size: u64, progress: &Arc<Progress>) -> (u16, Holder) {
    let progress = Arc::clone(progress);
    match version {
        Version::H1 => {
            let backend = H1Backend::start(move |mut conn: Conn| {
                let progress = Arc::clone(&progress);
                async move {
                    while conn.request().await.is_some() {
                        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n");
                        conn.send(head).await.ok();
                        send_h1(&conn.writer(), size, &progress).await;
                    }
                }
            })
            .await;
            (backend.addr.port(), Holder::H1(backend))
        }
        Version::H2 => {
            let backend = H2Backend::start(move |mut call: Call| {
                let progress = Arc::clone(&progress);
                async move {
                    let head = http::Response::builder().header("content-length", size).body(()).unwrap();
                    let Ok(mut out) = call.respond(head, false) else {
                        return;
                    };
                    send_h2(&mut out, size, &progress).await;
                }
            })
            .await;
            (backend.addr.port(), Holder::H2(backend))
        }
    }
}

/// Keeps a backend alive.
enum Holder {
    H1(#[expect(dead_code, reason = "held")] H1Backend),
    H2(#[expect(dead_code, reason = "held")] H2Backend),
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_download_is_streamed_at_the_readers_pace() {
    gate::exclusive();
    let size = size();
    for (down, up) in COMBINATIONS {
        let progress = Arc::new(Progress::default());
        let (port, _backend) = sending_backend(up, size, &progress).await;
        let addr = ([127, 0, 0, 1], port).into();
        let proxy = Proxy::start(&Config::to(up.protocol(), &[addr])).await;
        let before = proxy.rss();
        let (stop, watching) = watch(proxy.pid());
        let place = format!("{down:?} from {up:?}");

        match down {
            Version::H1 => {
                let mut client = H1Client::connect(proxy.addr()).await;
                client.send("GET / HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
                assert_eq!(client.response_head().await.status, 200, "{place}");
                let held = progress.stalled().await;
                assert!(held < IN_FLIGHT, "{place}: {held} bytes were sent to nobody");
                let mut left = size;
                while left > 0 {
                    let data = within(LIMIT, "data", client.wire.some(1 << 20)).await.unwrap();
                    left -= data.expect("not the end").len() as u64;
                }
            }
            Version::H2 => {
                let client = H2Client::connect(proxy.addr()).await;
                let (reply, _) = client.open(h2_client::get("/"), true).await.unwrap();
                let mut body = within(LIMIT, "a head", reply).await.unwrap().into_body();
                let held = progress.stalled().await;
                assert!(held < IN_FLIGHT, "{place}: {held} bytes were sent to nobody");
                let mut left = size;
                while left > 0 {
                    let data = within(LIMIT, "data", body.data()).await.expect("not the end").unwrap();
                    body.flow_control().release_capacity(data.len()).unwrap();
                    left -= data.len() as u64;
                }
                assert!(within(LIMIT, "the end", body.data()).await.is_none(), "{place}");
            }
        }
        stop.store(true, Ordering::Relaxed);
        let grown = watching.join().unwrap().saturating_sub(before);
        println!("download {place}: {size} bytes, memory grew by {} KiB", grown >> 10);
        assert!(grown < GROWTH, "{place}: memory grew by {} KiB", grown >> 10);
        assert!(progress.done.load(Ordering::Relaxed), "{place}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_upload_is_streamed_at_the_readers_pace() {
    gate::exclusive();
    let size = size();
    for (down, up) in COMBINATIONS {
        let (go, gate) = tokio::sync::watch::channel(false);
        let received = Arc::new(AtomicU64::new(0));
        let (port, _backend) = receiving_backend(up, size, gate, &received).await;
        let addr = ([127, 0, 0, 1], port).into();
        let proxy = Proxy::start(&Config::to(up.protocol(), &[addr]).rule("timeouts: { request: 0s, idle: 5m }")).await;
        let before = proxy.rss();
        let (stop, watching) = watch(proxy.pid());
        let progress = Arc::new(Progress::default());
        let place = format!("{down:?} to {up:?}");

        match down {
            Version::H1 => {
                let mut client = H1Client::connect(proxy.addr()).await;
                client.send(format!("POST / HTTP/1.1\r\nhost: a.example\r\ncontent-length: {size}\r\n\r\n")).await;
                let writer = client.writer();
                let sender = Arc::clone(&progress);
                let sending = tokio::spawn(async move { send_h1(&writer, size, &sender).await });
                let held = progress.stalled().await;
                assert!(held < IN_FLIGHT, "{place}: {held} bytes were taken for nobody");
                go.send_replace(true);
                let reply = within(LIMIT, "the answer", client.wire.response("POST")).await.unwrap();
                assert_eq!(reply.status, 200, "{place}: {reply:?}");
                sending.await.unwrap();
            }
            Version::H2 => {
                let client = H2Client::connect(proxy.addr()).await;
                let (reply, mut out) = client.open(h2_client::post("/"), false).await.unwrap();
                let sender = Arc::clone(&progress);
                let sending = tokio::spawn(async move { send_h2(&mut out, size, &sender).await });
                let held = progress.stalled().await;
                assert!(held < IN_FLIGHT, "{place}: {held} bytes were taken for nobody");
                go.send_replace(true);
                let reply = within(LIMIT, "the answer", h2_client::read(reply)).await.unwrap();
                assert_eq!(reply.status, 200, "{place}: {reply:?}");
                sending.await.unwrap();
            }
        }
        stop.store(true, Ordering::Relaxed);
        let grown = watching.join().unwrap().saturating_sub(before);
        println!("upload {place}: {size} bytes, memory grew by {} KiB", grown >> 10);
        assert_eq!(received.load(Ordering::Relaxed), size, "{place}");
        assert!(grown < GROWTH, "{place}: memory grew by {} KiB", grown >> 10);
    }
}

/// Reads nothing of the body until the gate opens.
async fn receiving_backend(
    version: Version,
    size: u64,
    gate: tokio::sync::watch::Receiver<bool>,
    received: &Arc<AtomicU64>,
) -> (u16, Holder) {
    let received = Arc::clone(received);
    match version {
        Version::H1 => {
            let backend = H1Backend::start(move |mut conn: Conn| {
                let (mut gate, received) = (gate.clone(), Arc::clone(&received));
                async move {
                    let Some(request) = conn.request_head().await else {
                        return;
                    };
                    gate.wait_for(|open| *open).await.ok();
                    if request.framing == crate::support::http1::Framing::Chunked {
                        while let Ok(Ok(data)) = conn.wire().chunk().await {
                            received.fetch_add(data.len() as u64, Ordering::Relaxed);
                        }
                    } else {
                        while received.load(Ordering::Relaxed) < size {
                            let Ok(Some(data)) = conn.wire().some(1 << 20).await else {
                                return;
                            };
                            received.fetch_add(data.len() as u64, Ordering::Relaxed);
                        }
                    }
                    conn.send(response(200, &[], b"ok")).await.ok();
                }
            })
            .await;
            (backend.addr.port(), Holder::H1(backend))
        }
        Version::H2 => {
            let backend = H2Backend::start(move |mut call: Call| {
                let (mut gate, received) = (gate.clone(), Arc::clone(&received));
                async move {
                    gate.wait_for(|open| *open).await.ok();
                    while let Some(Ok(data)) = call.stream.data().await {
                        call.stream.flow_control().release_capacity(data.len()).ok();
                        received.fetch_add(data.len() as u64, Ordering::Relaxed);
                    }
                    call.reply(200, "ok").await;
                }
            })
            .await;
            (backend.addr.port(), Holder::H2(backend))
        }
    }
}

/// A stalled download over HTTP/2 must not hold up another stream of the same two connections.
#[tokio::test]
async fn a_stalled_stream_does_not_hold_up_its_neighbours() {
    let backend = H2Backend::start(|mut call: Call| async move {
        let size: u64 = if call.path() == "/large" { 1 << 30 } else { 100_000 };
        let Ok(mut out) = call.respond(http::Response::new(()), false) else {
            return;
        };
        send_h2(&mut out, size, &Progress::default()).await;
    })
    .await;
    let proxy = Proxy::start(&Config::to("http2", &[backend.addr]).top("workers: 1")).await;
    let mut options = h2::client::Builder::new();
    options.initial_connection_window_size(8 << 20);
    let client = H2Client::connect_with(proxy.addr(), &options).await;
    let mut stalled = Vec::new();
    for _ in 0..20 {
        let (reply, _) = client.open(h2_client::get("/large"), true).await.unwrap();
        stalled.push(within(LIMIT, "a head", reply).await.unwrap());
    }
    for number in 0..50 {
        let reply = client.get("/small").await;
        assert_eq!(reply.body.len(), 100_000, "download {number}");
    }
}
