//! Callers on kept connections and open streams, which fail the test when anything is not as it should be.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::any::{AnyClient, Message, Version};
use crate::support::h2_client::{self, grpc_message};
use crate::support::{Conn, H1Backend, H2Client, PATIENCE, eventually, ms, response, within};

/// An application that answers everything with 200, and `/events` with a body that goes on until the caller leaves.
pub async fn application() -> H1Backend {
    H1Backend::start(|mut conn: Conn| async move {
        while let Some(request) = conn.request().await {
            if !request.head.start.contains("/events") {
                if conn.send(response(200, &[], b"ok")).await.is_err() {
                    return;
                }
                continue;
            }
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
            if conn.send(head).await.is_err() {
                return;
            }
            for number in 0.. {
                let event = format!("data: {number}\n\n");
                if conn.send(format!("{:x}\r\n{event}\r\n", event.len())).await.is_err() {
                    return;
                }
                tokio::time::sleep(ms(10)).await;
            }
        }
    })
    .await
}

pub struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    events: Arc<AtomicUsize>,
    failures: Arc<Mutex<Vec<String>>>,
    tasks: JoinSet<()>,
}

impl Load {
    /// Requests alone, from four callers who each keep one connection.
    pub fn requests(addr: SocketAddr) -> Self {
        let mut load = Self {
            stop: Arc::default(),
            done: Arc::default(),
            events: Arc::default(),
            failures: Arc::default(),
            tasks: JoinSet::new(),
        };
        for version in [Version::H1, Version::H1, Version::H2, Version::H2] {
            load.spawn(move |stop, done, _| requests(version, addr, stop, done));
        }
        load
    }

    /// Requests, event streams over HTTP/1.1, and streams of messages over HTTP/2, all to the service `api`.
    pub fn all(addr: SocketAddr) -> Self {
        let mut load = Self::requests(addr);
        for _ in 0..2 {
            load.spawn(move |stop, _, events| event_stream(addr, stop, events));
            load.spawn(move |stop, _, events| messages(addr, stop, events));
        }
        load
    }

    fn spawn<F, Fut>(&mut self, work: F)
    where
        F: FnOnce(Arc<AtomicBool>, Arc<AtomicUsize>, Arc<AtomicUsize>) -> Fut,
        Fut: Future<Output = Result<(), String>> + Send + 'static,
    {
        let failures = Arc::clone(&self.failures);
        let work = work(Arc::clone(&self.stop), Arc::clone(&self.done), Arc::clone(&self.events));
        self.tasks.spawn(async move {
            if let Err(failure) = work.await {
                failures.lock().push(failure);
            }
        });
    }

    #[track_caller]
    pub fn check(&self) {
        let failures = self.failures.lock();
        assert!(failures.is_empty(), "something failed: {failures:#?}");
    }

    /// Waits for so many more requests.
    pub async fn more(&self, count: usize) {
        let before = self.done.load(Ordering::Relaxed);
        let failed = || !self.failures.lock().is_empty();
        let done = || self.done.load(Ordering::Relaxed) >= before + count;
        eventually(PATIENCE, "requests go on", || failed() || done()).await;
        self.check();
    }

    /// Ends it; how many requests were served, and how many events and messages came.
    pub async fn end(self) -> (usize, usize) {
        self.stop.store(true, Ordering::Relaxed);
        within(2 * PATIENCE, "the callers ending", self.tasks.join_all()).await;
        let failures = self.failures.lock();
        assert!(failures.is_empty(), "something failed: {failures:#?}");
        (self.done.load(Ordering::Relaxed), self.events.load(Ordering::Relaxed))
    }
}

async fn requests(
    version: Version,
    addr: SocketAddr,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
) -> Result<(), String> {
    let mut client = AnyClient::connect(version, addr).await;
    let message = Message::default().field("host", "api");
    while !stop.load(Ordering::Relaxed) {
        let told = client.try_call("GET", "/", &message).await.map_err(|error| format!("{version:?}: {error}"))?;
        if told.status != 200 {
            return Err(format!("{version:?}: {} {:?} {}", told.status, told.reason(), told.text()));
        }
        done.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(ms(1)).await;
    }
    Ok(())
}

/// One response whose body goes on. Its events are numbered: none is lost, none comes twice.
async fn event_stream(addr: SocketAddr, stop: Arc<AtomicBool>, events: Arc<AtomicUsize>) -> Result<(), String> {
    let failed = |what: String| format!("an event stream: {what}");
    let mut stream = TcpStream::connect(addr).await.map_err(|error| failed(error.to_string()))?;
    stream.write_all(b"GET /events HTTP/1.1\r\nhost: api\r\n\r\n").await.map_err(|error| failed(error.to_string()))?;
    let (mut text, mut next, start) = (String::new(), 0, Instant::now());
    while !stop.load(Ordering::Relaxed) {
        let mut buffer = [0; 4096];
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await;
        let count = read.map_err(|_| failed("it stopped".to_owned()))?.map_err(|error| failed(error.to_string()))?;
        if count == 0 {
            return Err(failed(format!("closed after {next} events in {:?}: {text}", start.elapsed())));
        }
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
        while let Some(at) = text.find("data: ")
            && let Some(end) = text[at..].find("\n\n")
        {
            let number = text[at + 6..at + end].to_owned();
            if number != next.to_string() {
                return Err(failed(format!("event {number} came instead of {next}")));
            }
            next += 1;
            events.fetch_add(1, Ordering::Relaxed);
            text.drain(..at + end);
        }
    }
    Ok(())
}

/// One call with messages in both directions, which ends well.
async fn messages(addr: SocketAddr, stop: Arc<AtomicBool>, events: Arc<AtomicUsize>) -> Result<(), String> {
    let failed = |error: h2::Error| format!("a stream of messages: {error}");
    let client = H2Client::connect(addr).await;
    let mut request = h2_client::grpc("/shop.Api/Watch");
    *request.uri_mut() = "http://api:81/shop.Api/Watch".parse().expect("a URI");
    let (response, mut out) = client.open(request, false).await.map_err(failed)?;
    out.send_data(grpc_message(b"first"), false).map_err(failed)?;
    let response = within(PATIENCE, "a response", response).await.map_err(failed)?;
    if response.status() != 200 || response.headers().contains_key("grpc-status") {
        return Err(format!("a stream of messages: {response:?}"));
    }
    let mut body = response.into_body();
    let mut waiting = grpc_message(b"first").len();
    loop {
        while waiting > 0 {
            let data = within(PATIENCE, "a message", body.data()).await;
            let data = data.ok_or("a stream of messages ended")?.map_err(failed)?;
            body.flow_control().release_capacity(data.len()).map_err(failed)?;
            waiting = waiting.saturating_sub(data.len());
        }
        events.fetch_add(1, Ordering::Relaxed);
        if stop.load(Ordering::Relaxed) {
            break;
        }
        tokio::time::sleep(ms(10)).await;
        let message = grpc_message(b"again");
        waiting = message.len();
        out.send_data(message, false).map_err(failed)?;
    }
    out.send_data(bytes::Bytes::new(), true).map_err(failed)?;
    let (_, trailers) = h2_client::read_body(&mut body).await.map_err(failed)?;
    let status = trailers.and_then(|trailers| trailers.get("grpc-status").cloned());
    if status.as_ref().map(http::HeaderValue::as_bytes) == Some(b"0") {
        Ok(())
    } else {
        Err(format!("a stream of messages ended with {status:?}"))
    }
}
