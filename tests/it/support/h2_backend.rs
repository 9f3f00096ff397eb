//! An HTTP/2 backend (prior knowledge) on the `h2` crate. Its behaviour is an async function over
//! one call; it records calls, resets and connections.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::net::TcpStream;
use tokio::sync::{Notify, broadcast};
use tokio::task::JoinHandle;

use super::h2_client::{read_body, send_all};
use super::within;

/// What the backend saw of one call.
#[derive(Debug, Clone)]
pub struct Record {
    /// Which connection it came on.
    pub connection: usize,
    /// The method.
    pub method: String,
    /// The path with query.
    pub path: String,
    /// `:authority`.
    pub authority: Option<String>,
    /// The header fields.
    pub headers: HeaderMap,
    /// The body, once it was read to its end.
    pub body: Option<Bytes>,
    /// Trailers, once the body was read.
    pub trailers: Option<HeaderMap>,
    /// When and why the caller reset the stream, as far as the handler looked.
    pub reset: Option<(Instant, Reason)>,
}

#[derive(Debug, Default)]
struct State {
    calls: Vec<Record>,
    connections: usize,
    open_connections: usize,
    errors: Vec<String>,
}

/// The shared memory of a backend.
#[derive(Debug, Default)]
pub struct Log {
    state: Mutex<State>,
    changed: Notify,
}

impl Log {
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let out = change(&mut self.lock());
        self.changed.notify_waiters();
        out
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while recording")
    }
}

/// What all connections of a backend are told to do.
#[derive(Debug, Clone, Copy)]
enum Order {
    Graceful,
    Abort,
}

/// A listening backend; stops when dropped.
#[derive(Debug)]
pub struct H2Backend {
    /// Where it listens.
    pub addr: SocketAddr,
    log: Arc<Log>,
    orders: broadcast::Sender<Order>,
    accepting: JoinHandle<()>,
}

impl H2Backend {
    /// Runs `serve` for every call.
    pub async fn start<F, Fut>(serve: F) -> Self
    where
        F: Fn(Call) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self::with(h2::server::Builder::new(), serve).await
    }

    /// As [`Self::start`], with options of the connection.
    pub async fn with<F, Fut>(options: h2::server::Builder, serve: F) -> Self
    where
        F: Fn(Call) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = super::h1_backend::Refusing::new().listen();
        let addr = listener.local_addr().expect("bound");
        let log = Arc::new(Log::default());
        let (orders, _) = broadcast::channel(16);
        let (shared, told, serve) = (Arc::clone(&log), orders.clone(), Arc::new(serve));
        let accepting = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                stream.set_nodelay(true).ok();
                let number = shared.change(|state| {
                    state.connections += 1;
                    state.open_connections += 1;
                    state.connections - 1
                });
                let (options, log) = (options.clone(), Arc::clone(&shared));
                let (serve, orders) = (Arc::clone(&serve), told.subscribe());
                tokio::spawn(async move {
                    let log2 = Arc::clone(&log);
                    let result = connection(stream, &options, number, log2, orders, serve).await;
                    log.change(|state| {
                        state.open_connections -= 1;
                        if let Err(error) = result {
                            state.errors.push(error.to_string());
                        }
                    });
                });
            }
        });
        Self { addr, log, orders, accepting }
    }

    /// Answers every call with 200 and `ok`, after reading its body.
    pub async fn ok() -> Self {
        Self::start(|mut call| async move {
            if call.body().await.is_ok() {
                call.reply(200, "ok").await;
            }
        })
        .await
    }

    /// Answers every call with 200 and this text.
    pub async fn named(name: &'static str) -> Self {
        Self::start(move |mut call| async move {
            if call.body().await.is_ok() {
                call.reply(200, name).await;
            }
        })
        .await
    }

    /// Sends back the body, message by message, with `grpc-status: 0` at the end.
    pub async fn grpc_echo() -> Self {
        Self::start(|mut call| async move {
            let head = Response::builder().header("content-type", "application/grpc").body(()).expect("a valid head");
            let Ok(mut out) = call.respond(head, false) else {
                return;
            };
            while let Some(Ok(data)) = call.stream.data().await {
                call.stream.flow_control().release_capacity(data.len()).ok();
                if send_all(&mut out, data, false).await.is_err() {
                    return;
                }
            }
            out.send_trailers(grpc_status(0)).ok();
        })
        .await
    }

    /// A copy of all calls.
    pub fn calls(&self) -> Vec<Record> {
        self.log.lock().calls.clone()
    }

    /// The only call so far.
    pub fn only_call(&self) -> Record {
        let mut calls = self.calls();
        assert_eq!(calls.len(), 1, "one call reached the backend: {calls:?}");
        calls.remove(0)
    }

    /// How many calls came.
    pub fn count(&self) -> usize {
        self.log.lock().calls.len()
    }

    /// How many connections were accepted.
    pub fn connections(&self) -> usize {
        self.log.lock().connections
    }

    /// How many connections are open.
    pub fn open_connections(&self) -> usize {
        self.log.lock().open_connections
    }

    /// How connections failed.
    pub fn errors(&self) -> Vec<String> {
        self.log.lock().errors.clone()
    }

    /// Tells all connections to shut down gracefully (GOAWAY, then finish what runs).
    pub fn graceful(&self) {
        self.orders.send(Order::Graceful).ok();
    }

    /// Drops all connections at once.
    pub fn abort(&self) {
        self.orders.send(Order::Abort).ok();
    }

    /// Waits until the calls satisfy a condition.
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
                if condition(&self.log.lock().calls) {
                    return;
                }
                changed.await;
            }
        })
    }
}

impl Drop for H2Backend {
    fn drop(&mut self) {
        self.accepting.abort();
        self.orders.send(Order::Abort).ok();
    }
}

async fn connection<F, Fut>(
    stream: TcpStream,
    options: &h2::server::Builder,
    number: usize,
    log: Arc<Log>,
    mut orders: broadcast::Receiver<Order>,
    serve: Arc<F>,
) -> Result<(), h2::Error>
where
    F: Fn(Call) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let mut connection = options.handshake::<_, Bytes>(stream).await?;
    loop {
        tokio::select! {
            next = connection.accept() => {
                let Some(next) = next else { return Ok(()) };
                let (request, respond) = next?;
                let (parts, stream) = request.into_parts();
                let index = log.change(|state| {
                    state.calls.push(Record {
                        connection: number,
                        method: parts.method.to_string(),
                        path: parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
                        authority: parts.uri.authority().map(ToString::to_string),
                        headers: parts.headers.clone(),
                        body: None,
                        trailers: None,
                        reset: None,
                    });
                    state.calls.len() - 1
                });
                let head = Request::from_parts(parts, ());
                let log = Arc::clone(&log);
                tokio::spawn(serve(Call { head, stream, respond, index, log }));
            }
            order = orders.recv() => match order {
                Ok(Order::Graceful) => connection.graceful_shutdown(),
                Ok(Order::Abort) | Err(_) => return Ok(()),
            }
        }
    }
}

/// One call in the hands of a handler.
pub struct Call {
    /// The request's head.
    pub head: Request<()>,
    /// The request's body.
    pub stream: RecvStream,
    /// Where the answer goes.
    pub respond: SendResponse<Bytes>,
    /// Its number, from 0, over all connections.
    pub index: usize,
    log: Arc<Log>,
}

impl Call {
    /// The path of the request.
    pub fn path(&self) -> &str {
        self.head.uri().path()
    }

    /// Reads the body to its end and records it.
    pub async fn body(&mut self) -> Result<(Bytes, Option<HeaderMap>), h2::Error> {
        let result = read_body(&mut self.stream).await;
        self.log.change(|state| {
            let record = &mut state.calls[self.index];
            match &result {
                Ok((body, trailers)) => {
                    record.body = Some(body.clone());
                    record.trailers.clone_from(trailers);
                }
                Err(error) => {
                    let reason = error.reason().unwrap_or(Reason::INTERNAL_ERROR);
                    record.reset = Some((Instant::now(), reason));
                }
            }
        });
        result
    }

    /// Sends a head.
    pub fn respond(&mut self, head: Response<()>, end: bool) -> Result<SendStream<Bytes>, h2::Error> {
        self.respond.send_response(head, end)
    }

    /// Sends a whole answer.
    pub async fn reply(&mut self, status: u16, body: impl Into<Bytes>) {
        let body = body.into();
        let head =
            Response::builder().status(status).header("content-length", body.len()).body(()).expect("a valid head");
        if let Ok(mut stream) = self.respond(head, body.is_empty())
            && !body.is_empty()
        {
            send_all(&mut stream, body, true).await.ok();
        }
    }

    /// Sends a gRPC answer of one message.
    pub async fn reply_grpc(&mut self, message: Bytes) {
        let head = Response::builder().header("content-type", "application/grpc").body(()).expect("a valid head");
        if let Ok(mut stream) = self.respond(head, false)
            && send_all(&mut stream, message, false).await.is_ok()
        {
            stream.send_trailers(grpc_status(0)).ok();
        }
    }

    /// Resets the stream.
    pub fn reset(&mut self, reason: Reason) {
        self.respond.send_reset(reason);
    }

    /// Waits until the caller resets the stream before the head of an answer was sent, and records it.
    pub async fn reset_by_caller(&mut self) -> Option<Reason> {
        let reason = poll_fn(|cx| self.respond.poll_reset(cx)).await;
        self.note_reset(reason)
    }

    /// The same while a body is being sent.
    pub async fn reset_while_sending(&mut self, out: &mut SendStream<Bytes>) -> Option<Reason> {
        let reason = poll_fn(|cx| out.poll_reset(cx)).await;
        self.note_reset(reason)
    }

    fn note_reset(&self, reason: Result<Reason, h2::Error>) -> Option<Reason> {
        let at = Instant::now();
        // The connection going away counts as a reset too; tests that care look at the connections.
        let reason = reason.unwrap_or(Reason::CONNECT_ERROR);
        self.log.change(|state| state.calls[self.index].reset = Some((at, reason)));
        Some(reason)
    }
}

/// Trailers with a gRPC status.
pub fn grpc_status(code: u16) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", code.into());
    trailers
}
