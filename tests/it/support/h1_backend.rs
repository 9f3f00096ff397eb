//! An HTTP/1.1 backend that records the exact bytes and the strictly parsed requests of every
//! connection, and whose behaviour is an async function over one connection: faults are written
//! where the test is.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::http1::{Request, Wire, Writer, response};
use super::within;

/// How a connection ended, as the backend saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The peer closed in order.
    Closed,
    /// The peer reset it.
    Reset,
    /// The backend closed it.
    Ours,
}

/// What one connection brought.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// The bytes as they came (the first MiB).
    pub bytes: Vec<u8>,
    /// The requests, complete ones and at most one that was cut off.
    pub requests: Vec<Request>,
    /// What a strict reader complains about.
    pub violations: Vec<String>,
    /// When and how it ended.
    pub end: Option<(Instant, End)>,
}

/// The records of all connections.
#[derive(Debug, Default)]
pub struct Log {
    records: Mutex<Vec<Record>>,
    requests: AtomicUsize,
    changed: Notify,
}

impl Log {
    fn change(&self, index: usize, change: impl FnOnce(&mut Record)) {
        change(&mut self.lock()[index]);
        self.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Record>> {
        self.records.lock().expect("no panic while recording")
    }
}

/// A listening backend; stops accepting when dropped.
#[derive(Debug)]
pub struct H1Backend {
    /// Where it listens.
    pub addr: SocketAddr,
    log: Arc<Log>,
    accepting: JoinHandle<()>,
}

impl H1Backend {
    /// Runs `serve` for every connection.
    pub async fn start<F, Fut>(serve: F) -> Self
    where
        F: Fn(Conn) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self::on(Refusing::new().listen(), serve)
    }

    /// As [`Self::start`], on a socket that is already bound.
    pub fn on<F, Fut>(listener: TcpListener, serve: F) -> Self
    where
        F: Fn(Conn) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let addr = listener.local_addr().expect("a bound socket has an address");
        let log = Arc::new(Log::default());
        let shared = Arc::clone(&log);
        let accepting = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                let index = {
                    let mut records = shared.lock();
                    records.push(Record::default());
                    records.len() - 1
                };
                shared.changed.notify_waiters();
                let wire = Wire::new(stream);
                tokio::spawn(serve(Conn { wire, log: Arc::clone(&shared), index }));
            }
        });
        Self { addr, log, accepting }
    }

    /// Reads one request of each connection and then does with the connection as told.
    pub async fn after_request<F, Fut>(act: F) -> Self
    where
        F: Fn(Conn) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let act = Arc::new(act);
        Self::start(move |mut conn: Conn| {
            let act = Arc::clone(&act);
            async move {
                if conn.request().await.is_some() {
                    act(conn).await;
                }
            }
        })
        .await
    }

    /// Answers every request on every connection.
    pub async fn answering<F>(answer: F) -> Self
    where
        F: Fn(&Request) -> Vec<u8> + Send + Sync + 'static,
    {
        let answer = Arc::new(answer);
        Self::start(move |mut conn| {
            let answer = Arc::clone(&answer);
            async move {
                while let Some(request) = conn.request().await {
                    if conn.send(answer(&request)).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await
    }

    /// Answers every request with 200 and `ok`.
    pub async fn ok() -> Self {
        Self::answering(|_| response(200, &[], b"ok")).await
    }

    /// Answers every request with 200 and this text, to tell backends apart.
    pub async fn named(name: &'static str) -> Self {
        Self::answering(move |_| response(200, &[("x-backend", name)], name.as_bytes())).await
    }

    /// A copy of all records.
    pub fn records(&self) -> Vec<Record> {
        self.log.lock().clone()
    }

    /// The requests of all connections in order of arrival.
    pub fn requests(&self) -> Vec<Request> {
        let mut requests: Vec<_> = self.log.lock().iter().flat_map(|record| record.requests.clone()).collect();
        requests.sort_by_key(|request| request.order);
        requests
    }

    /// The only request so far.
    pub fn only_request(&self) -> Request {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "one request reached the backend: {requests:?}");
        self.assert_clean();
        requests.remove(0)
    }

    /// How many connections were accepted.
    pub fn connections(&self) -> usize {
        self.log.lock().len()
    }

    /// Fails when anything that was received was not in the canonical form.
    pub fn assert_clean(&self) {
        let violations: Vec<_> = self.log.lock().iter().flat_map(|record| record.violations.clone()).collect();
        assert!(violations.is_empty(), "the backend received malformed HTTP: {violations:?}");
    }

    /// Waits until the records satisfy a condition.
    #[track_caller]
    pub fn until<'a>(
        &'a self,
        limit: Duration,
        what: &'a str,
        condition: impl Fn(&[Record]) -> bool + 'a,
    ) -> impl Future<Output = ()> + 'a {
        within(limit, what, async move {
            loop {
                let changed = self.log.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if condition(&self.log.lock()) {
                    return;
                }
                changed.await;
            }
        })
    }
}

impl Drop for H1Backend {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// One accepted connection.
#[derive(Debug)]
pub struct Conn {
    wire: Wire,
    log: Arc<Log>,
    /// Its number, from 0.
    pub index: usize,
}

impl Conn {
    /// Reads a whole request. `None` at the end of the connection or on a violation (recorded).
    pub async fn request(&mut self) -> Option<Request> {
        let mut request = self.request_head().await?;
        self.finish_request(&mut request).await.then_some(request)
    }

    /// Reads the body of a request whose head was read; whether it came to its end.
    pub async fn finish_request(&mut self, request: &mut Request) -> bool {
        let result = self.wire.request_body(request).await;
        let kept = request.clone();
        self.log.change(self.index, |record| {
            *record.requests.last_mut().expect("its head was recorded") = kept;
        });
        self.note(&result);
        result.is_ok()
    }

    /// Reads the head of a request; the body stays in the connection.
    pub async fn request_head(&mut self) -> Option<Request> {
        let result = self.wire.request_head().await;
        self.note(&result);
        let mut request = result.ok().flatten()?;
        request.order = self.log.requests.fetch_add(1, Ordering::Relaxed);
        let mut kept = request.clone();
        kept.complete = request.framing == super::http1::Framing::None;
        self.log.change(self.index, |record| record.requests.push(kept));
        Some(request)
    }

    /// The connection itself, for reading bodies piece by piece.
    pub fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    /// A handle that writes.
    pub fn writer(&self) -> Writer {
        self.wire.writer()
    }

    /// Writes everything.
    pub async fn send(&self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.wire.send(bytes).await
    }

    /// Closes with a reset.
    pub fn reset(self) {
        self.wire.reset_on_close();
    }

    /// Waits until the peer closes or resets the connection.
    pub async fn closed(&mut self) -> End {
        let end = if self.wire.closed().await { End::Reset } else { End::Closed };
        self.log.change(self.index, |record| {
            record.end.get_or_insert((Instant::now(), end));
        });
        end
    }

    fn note<T>(&mut self, result: &io::Result<T>) {
        let seen = &self.wire.seen;
        let end = match result {
            Err(error) => match error.kind() {
                io::ErrorKind::InvalidData => None,
                io::ErrorKind::UnexpectedEof => Some(End::Closed),
                _ => Some(End::Reset),
            },
            Ok(_) => None,
        };
        self.log.change(self.index, |record| {
            record.bytes = seen.clone();
            if let Err(error) = result
                && error.kind() == io::ErrorKind::InvalidData
            {
                record.violations.push(error.to_string());
            }
            if let Some(end) = end {
                record.end.get_or_insert((Instant::now(), end));
            }
        });
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        if let Ok(mut records) = self.log.records.lock() {
            records[self.index].end.get_or_insert((Instant::now(), End::Ours));
        }
        self.log.changed.notify_waiters();
    }
}

/// An address that refuses connections for as long as the guard lives.
#[derive(Debug)]
pub struct Refusing {
    /// Nobody listens here.
    pub addr: SocketAddr,
    socket: TcpSocket,
}

impl Refusing {
    /// Binds a port without listening on it.
    pub fn new() -> Self {
        let socket = TcpSocket::new_v4().expect("make a socket");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("bind");
        Self { addr: socket.local_addr().expect("bound"), socket }
    }

    /// Starts to listen after all, with room for many connections at once.
    pub fn listen(self) -> TcpListener {
        self.socket.listen(4096).expect("listen")
    }
}

/// An address that answers no connection attempt: its accept queue is full.
#[derive(Debug)]
pub struct Unanswering {
    /// Connecting here hangs.
    pub addr: SocketAddr,
    _listener: TcpListener,
    _queue: Vec<tokio::net::TcpStream>,
}

impl Unanswering {
    /// Fills the accept queue of a listener that never accepts.
    pub async fn new() -> Self {
        let socket = TcpSocket::new_v4().expect("make a socket");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("bind");
        let listener = socket.listen(1).expect("listen");
        let addr = listener.local_addr().expect("bound");
        let mut queue = Vec::new();
        while let Ok(Ok(stream)) =
            tokio::time::timeout(Duration::from_millis(300), tokio::net::TcpStream::connect(addr)).await
        {
            queue.push(stream);
            assert!(queue.len() < 64, "the accept queue fills up");
        }
        Self { addr, _listener: listener, _queue: queue }
    }
}
