//! The data path over real sockets: a raw caller, the HTTP/1 server, the pipeline, and scripted upstreams.

mod authorize;
mod endings;
mod limits;
mod retries;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::uri::Scheme;
use outrigger_config::{Loaded, model};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::{ConnectionHandler, Proxy};
use crate::base::drain::Drain;
use crate::codec::{ServerOptions, h1};
use crate::net::ConnInfo;
use crate::net::io::Io;
use crate::net::tls::{TlsInfo, TlsSet};
use crate::snapshot::{Snapshot, SnapshotCell};
use crate::telemetry::{AccessLog, Metrics};
use crate::upstream::dns::{Answer, BoxFuture, Resolve};
use crate::upstream::{Cluster, Registry};

struct NoNames;

impl Resolve for NoNames {
    fn resolve<'a>(&'a self, _host: &'a str) -> BoxFuture<'a, Result<Answer, String>> {
        Box::pin(async { Err("there are no names here".to_owned()) })
    }
}

/// The insides of YAML mappings.
#[derive(Debug, Clone, Copy, Default)]
struct Parts<'a> {
    listener: &'a str,
    rule: &'a str,
    cluster: &'a str,
    /// Further sections.
    sections: &'a str,
}

impl Parts<'_> {
    /// With what the configuration language does not say.
    fn edited(&self, endpoints: &str, edit: impl FnOnce(&mut model::Config)) -> Arc<Loaded> {
        let mut config = model::Config::clone(&self.load(endpoints).config);
        edit(&mut config);
        Arc::new(Loaded::built(outrigger_config::built::check(config).expect("valid"), "edited"))
    }

    fn load(&self, endpoints: &str) -> Arc<Loaded> {
        let Self { listener, rule, cluster, sections } = self;
        let text = format!(
            "listeners: [{{ name: l, bind: 127.0.0.1:0, routes: r{listener} }}]\n\
             routes: {{ r: [{{ rules: [{{ {rule} }}] }}] }}\n\
             clusters: {{ c: {{ endpoints: [{endpoints}]{cluster} }} }}\n{sections}"
        );
        Arc::new(outrigger_config::load("test.yaml", &text).unwrap_or_else(|problems| panic!("{problems:?}")))
    }
}

/// A proxy with one listener, `l`, one rule and one cluster, `c`.
struct Harness {
    proxy: Proxy,
    cell: Arc<SnapshotCell>,
    metrics: Arc<Metrics>,
    drain: Drain,
    /// It outlives every snapshot.
    registry: Arc<Registry>,
    /// What its endpoints are.
    endpoints: String,
}

impl Harness {
    /// `rule` and `cluster` are the inside of YAML mappings.
    fn new(rule: &str, cluster: &str, endpoints: &[SocketAddr]) -> Self {
        Self::with(&Parts { rule, cluster, ..Parts::default() }, endpoints)
    }

    fn with(parts: &Parts<'_>, endpoints: &[SocketAddr]) -> Self {
        let endpoints = joined(endpoints);
        Self::of(&parts.load(&endpoints), endpoints)
    }

    fn edited(parts: &Parts<'_>, endpoints: &[SocketAddr], edit: impl FnOnce(&mut model::Config)) -> Self {
        let endpoints = joined(endpoints);
        Self::of(&parts.edited(&endpoints, edit), endpoints)
    }

    fn of(loaded: &Arc<Loaded>, endpoints: String) -> Self {
        let metrics = Metrics::new();
        let registry = Registry::new(1, Arc::clone(&metrics), Box::new(NoNames));
        let first = Snapshot::compile((loaded, &TlsSet::default()), &registry, &metrics, 1);
        let cell = Arc::new(SnapshotCell::new(first));
        let proxy = Proxy::new(Arc::clone(&cell), AccessLog::off(&metrics));
        Self { proxy, cell, metrics, drain: Drain::default(), registry, endpoints }
    }

    /// Puts another configuration into effect.
    fn publish(&self, parts: &Parts<'_>) {
        self.publish_loaded(&parts.load(&self.endpoints));
    }

    fn publish_edited(&self, parts: &Parts<'_>, edit: impl FnOnce(&mut model::Config)) {
        self.publish_loaded(&parts.edited(&self.endpoints, edit));
    }

    fn publish_loaded(&self, loaded: &Arc<Loaded>) {
        let generation = self.cell.load().generation + 1;
        let next = Snapshot::compile((loaded, &TlsSet::default()), &self.registry, &self.metrics, generation);
        self.cell.store(next);
    }

    /// Forwards to these.
    fn to(endpoints: &[SocketAddr]) -> Self {
        Self::new("backendRefs: [{ cluster: c }]", "", endpoints)
    }

    /// A caller's connection, and the task that serves it.
    async fn connect(&self) -> (TcpStream, JoinHandle<()>) {
        let (caller, stream, info) = Self::accepted(None).await;
        let (handler, options) = self.handler(info);
        (caller, tokio::spawn(h1::serve(Io::tcp(stream), handler, options)))
    }

    /// Both ends of a connection.
    async fn accepted(tls: Option<TlsInfo>) -> (TcpStream, TcpStream, ConnInfo) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let caller = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
        let (stream, peer) = listener.accept().await.expect("a connection");
        let local = stream.local_addr().expect("an address");
        (
            caller,
            stream,
            ConnInfo { listener: Arc::from("l"), peer, local, worker: 0, tls: tls.map(Arc::new), handshake: None },
        )
    }

    fn handler(&self, info: ConnInfo) -> (Arc<ConnectionHandler>, ServerOptions) {
        let handler = self.proxy.connection(&self.proxy.listener("l").expect("configured"), info);
        let options = ServerOptions {
            max_head_bytes: 16 * 1024,
            max_headers: 50,
            max_concurrent_streams: 100,
            header_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(5),
            retire_at: None,
            scheme: Scheme::HTTP,
            drain: self.drain.watch(),
            pressure: Arc::<crate::base::pressure::Pressure>::default().watch(),
        };
        (handler, options)
    }

    /// Sends bytes and reads until the proxy closes.
    async fn ask(&self, raw: &str) -> io::Result<String> {
        let (mut caller, serving) = self.connect().await;
        caller.write_all(raw.as_bytes()).await.expect("written");
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(10), caller.read_to_end(&mut answer)).await;
        read.expect("the proxy closes")?;
        drop(caller);
        serving.await.expect("no panic");
        Ok(String::from_utf8(answer).expect("text"))
    }

    fn cluster(&self) -> Arc<Cluster> {
        Arc::clone(&self.cell.load().clusters()[0])
    }

    /// The sum of the series of a family whose labels contain all of `labels`.
    fn metric(&self, family: &str, labels: &[&str]) -> f64 {
        let text = self.metrics.encode();
        let lines = text.lines().filter(|line| line.strip_prefix(family).is_some_and(|rest| rest.starts_with('{')));
        lines
            .filter(|line| labels.iter().all(|label| line.contains(label)))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Nothing is counted as under way any more.
    async fn settles(&self) {
        let cluster = self.cluster();
        let state = cluster.state();
        until("everything is counted out", || {
            let endpoints = cluster.endpoints();
            let busy = endpoints.members().iter().map(|member| member.state.in_flight.load(Ordering::Relaxed)).sum();
            let now = [state.in_flight.get(), state.pending.get(), state.retries.get(), busy];
            now == [0; 4] && self.metric("outrigger_requests_in_flight", &[]) == 0.0
        })
        .await;
    }
}

fn joined(endpoints: &[SocketAddr]) -> String {
    let endpoints: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
    endpoints.join(", ")
}

/// Lets everything that is ready run until something is so.
async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let settled = async {
        while !done() {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(10), settled).await.is_ok(), "{what}");
}

/// What an upstream does with the n-th request that it reads, from 0.
#[derive(Clone, Copy)]
enum Act {
    /// Writes this and goes on reading requests.
    Answer(&'static str),
    /// Writes this and closes.
    Last(&'static str),
    /// Says nothing and waits for the proxy to leave.
    Wait,
}

/// An upstream with what it has seen.
struct Upstream {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    /// Connections that ended, as far as it noticed.
    left: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Upstream {
    /// Acts by the number of the request; the last act is repeated. Bodies by `content-length` are read first,
    /// unless the caller waits for 100.
    async fn new(acts: &'static [Act]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let left: Arc<AtomicUsize> = Arc::default();
        let (seen, gone) = (Arc::clone(&heads), Arc::clone(&left));
        let accepting = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let (seen, gone) = (Arc::clone(&seen), Arc::clone(&gone));
                tokio::spawn(async move {
                    // A connection that breaks has ended as well.
                    let _ = serve_script(stream, acts, &seen).await;
                    gone.fetch_add(1, Ordering::Relaxed);
                });
            }
        });
        Self { address, heads, left, accepting }
    }

    fn requests(&self) -> usize {
        self.heads.lock().len()
    }
}

async fn serve_script(mut stream: TcpStream, acts: &[Act], seen: &Mutex<Vec<String>>) -> io::Result<()> {
    let mut read = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = memchr::memmem::find(&read, b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut read).await? == 0 {
                return Ok(());
            }
        };
        let head = String::from_utf8(read.drain(..end).collect()).expect("text");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
        let number = {
            let mut seen = seen.lock();
            seen.push(head.clone());
            seen.len() - 1
        };
        while !head.contains("expect:") && read.len() < length {
            if stream.read_buf(&mut read).await? == 0 {
                return Ok(());
            }
        }
        read.drain(..length.min(read.len()));
        match acts[number.min(acts.len() - 1)] {
            Act::Answer(answer) => stream.write_all(answer.as_bytes()).await?,
            Act::Last(answer) => return stream.write_all(answer.as_bytes()).await,
            Act::Wait => {
                stream.read_to_end(&mut read).await?;
                return Ok(());
            }
        }
    }
}

/// An address where nobody listens.
async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    listener.local_addr().expect("an address")
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
