use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use outrigger_config::model::{
    ClientCertHeader, ClientCertificate, ClientTrust, Drain, EscapedSlashes, ListenerLimits, ListenerProtocol,
    ListenerTls, PathOptions, TlsMode, TlsVersion, Trust, Upgrades,
};
use tokio::sync::Semaphore;

use super::*;
use crate::base::pressure::Pressure;
use crate::codec::{Body, Handler, Interim, Refusal, Request, Response, ResponseHead};
use crate::net::ConnInfo;
use crate::server::Tls;
use crate::server::shutdown::{self, Outcome, shutdown};

const LONG: Duration = Duration::from_secs(20);

/// Answers `/` with the listener's name and the worker, and holds `/hold` until released.
struct Service {
    /// What is published.
    listeners: Mutex<Vec<Arc<Listener>>>,
    gate: Semaphore,
    holding: AtomicUsize,
    pressure: Arc<Pressure>,
}

struct OnConnection {
    service: Arc<Service>,
    info: ConnInfo,
}

impl ConnectionFactory for Arc<Service> {
    type Listener = Listener;
    type Handler = OnConnection;
    fn pressure(&self) -> &Arc<Pressure> {
        &self.pressure
    }
    fn listener(&self, name: &str) -> Option<Arc<Listener>> {
        self.listeners.lock().iter().find(|listener| &*listener.name == name).cloned()
    }
    fn tls<'a>(&self, listener: &'a Listener) -> Option<Tls<'a>> {
        Some(Tls { config: listener.tls.as_ref()?, server: None, passes: false, http3: listener.http3.is_some() })
    }
    fn handler(&self, _: Arc<Listener>, info: ConnInfo) -> Arc<OnConnection> {
        Arc::new(OnConnection { service: Arc::clone(self), info })
    }
}

impl Handler for OnConnection {
    type Body = Body;
    async fn handle(&self, request: Request, _: &dyn Interim) -> Response<Body> {
        if request.head.path.path() == "/hold" {
            self.service.holding.fetch_add(1, Ordering::SeqCst);
            self.service.gate.acquire().await.expect("never closed").forget();
        }
        let text = format!("{} {}", self.info.listener, self.info.worker);
        Response {
            head: ResponseHead { status: StatusCode::OK, headers: HeaderMap::new() },
            body: Body::Full(Bytes::from(text)),
        }
    }
    fn refuse(&self, refusal: Refusal) -> Response<Body> {
        Response { head: ResponseHead { status: refusal.status, headers: HeaderMap::new() }, body: Body::Empty }
    }
}

struct Proxy {
    set: ListenerSet<Arc<Service>>,
    service: Arc<Service>,
    metrics: Arc<Metrics>,
}

impl Proxy {
    fn new(workers: usize) -> Self {
        let service = Arc::new(Service {
            listeners: Mutex::default(),
            gate: Semaphore::new(0),
            holding: AtomicUsize::new(0),
            pressure: Arc::default(),
        });
        let metrics = Metrics::new();
        let workers = Workers::start(workers).expect("workers");
        let set = ListenerSet::new(workers, Arc::new(Arc::clone(&service)), Arc::clone(&metrics));
        Self { set, service, metrics }
    }

    fn apply(&self, listeners: &[Listener]) -> Vec<Leaving> {
        let change = self.set.prepare(listeners).expect("all can be bound");
        let leaving = change.leaving().to_vec();
        *self.service.listeners.lock() = listeners.iter().cloned().map(Arc::new).collect();
        self.set.commit(change);
        leaving
    }

    fn address(&self, name: &str) -> SocketAddr {
        self.status(name).expect("the listener is there").address
    }

    fn status(&self, name: &str) -> Option<ListenerStatus> {
        self.set.status().into_iter().find(|status| &*status.name == name)
    }

    fn holding(&self, count: usize) {
        wait_for(|| self.service.holding.load(Ordering::SeqCst) == count);
    }
}

fn wait_for(condition: impl Fn() -> bool) {
    let until = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < until, "it never happened");
        std::thread::yield_now();
    }
}

fn listener(name: &str) -> Listener {
    Listener {
        rate_limits: Vec::new(),
        name: name.into(),
        bind: ([127, 0, 0, 1], 0).into(),
        protocol: ListenerProtocol::Auto,
        routes: Some("r".into()),
        direction: Direction::Inbound,
        trust: Trust::None,
        path: PathOptions { merge_slashes: true, escaped_slashes: EscapedSlashes::Keep },
        limits: ListenerLimits {
            max_connections: 100,
            max_head_bytes: 65536,
            max_headers: 100,
            max_concurrent_streams: 100,
            header_timeout: LONG,
            idle_timeout: LONG,
            stream_idle_timeout: LONG,
            max_connection_age: Duration::ZERO,
            detect_timeout: LONG,
        },
        tls: None,
        client_cert_header: ClientCertHeader::Sanitize,
        authorization: None,
        jwt: None,
        external_authorization: None,
        http3: None,
        upgrades: Upgrades::default(),
        tcp: None,
        udp: None,
        proxy_protocol: None,
        interception: None,
        intercepts: Vec::new(),
        place: Place { file: "test".into(), line: 1, column: 1 },
    }
}

fn with_tls(mode: TlsMode) -> Listener {
    let tls = ListenerTls {
        mode,
        proposed_mode: None,
        certificates: Vec::new(),
        client_certificate: ClientCertificate::Required,
        client_trust: ClientTrust::Mesh,
        min_version: TlsVersion::V1_3,
        handshake_timeout: LONG,
        max_handshakes: 10,
        passthrough: Vec::new(),
        place: Place { file: "test".into(), line: 1, column: 1 },
    };
    Listener { tls: Some(tls), ..listener("a") }
}

struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_read_timeout(Some(LONG)).expect("a timeout");
        Self(BufReader::new(stream))
    }

    fn send(&mut self, path: &str) -> std::io::Result<()> {
        write!(self.0.get_mut(), "GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")
    }

    /// The body, and whether the server said that it closes.
    fn receive(&mut self) -> std::io::Result<(String, bool)> {
        let (mut length, mut close) = (None, false);
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.parse().ok();
            }
            close |= line == "connection: close";
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length.expect("a length")];
        self.0.read_exact(&mut body)?;
        Ok((String::from_utf8(body).expect("text"), close))
    }

    fn ask(&mut self, path: &str) -> String {
        self.send(path).expect("sent");
        self.receive().expect("an answer").0
    }

    /// Asks once more. True when this was the last answer, or there is none any more.
    fn is_told_to_go(&mut self) -> bool {
        self.send("/").is_err() || self.receive().map_or(true, |(_, close)| close)
    }

    fn is_closed(&mut self) -> bool {
        matches!(self.0.read(&mut [0]), Ok(0) | Err(_))
    }
}

#[tokio::test]
async fn a_kept_listener_keeps_its_connections_and_gives_new_ones_the_new_settings() {
    let proxy = Proxy::new(1);
    proxy.apply(&[listener("a")]);
    let address = proxy.address("a");
    let mut early = Client::connect(address);
    assert_eq!(early.ask("/"), "a 0");

    let mut changed = listener("a");
    changed.limits.max_head_bytes = 100;
    assert_eq!(proxy.apply(&[changed]), []);
    assert_eq!(proxy.address("a"), address);
    let long = format!("/{}", "x".repeat(200));
    assert_eq!(early.ask(&long), "a 0", "the limits are those of its start");
    assert_eq!(Client::connect(address).ask(&long), "", "refused under the new limit");
}

#[tokio::test]
async fn a_change_with_one_address_taken_changes_nothing() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let proxy = Proxy::new(1);
    proxy.apply(&[listener("a")]);
    let free = {
        let probe = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        probe.local_addr().expect("an address")
    };
    let new = Listener { bind: free, ..listener("b") };
    let bad = Listener { bind: taken.local_addr().expect("an address"), ..listener("c") };
    let error = proxy.set.prepare(&[new, bad]).expect_err("the port is taken");
    assert_eq!((&*error.listener, error.source.kind()), ("c", std::io::ErrorKind::AddrInUse));
    assert_eq!(TcpStream::connect(free).expect_err("not listening").kind(), std::io::ErrorKind::ConnectionRefused);
    assert_eq!(Client::connect(proxy.address("a")).ask("/"), "a 0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_listener_finishes_its_requests_and_says_how_many_connections_go() {
    let proxy = Proxy::new(2);
    proxy.apply(&[listener("a"), listener("b")]);
    let address = proxy.address("a");
    let mut busy = Client::connect(address);
    busy.send("/hold").expect("sent");
    proxy.holding(1);

    let leaving = proxy.apply(&[listener("b")]);
    assert_eq!(leaving, [Leaving { listener: "a".into(), connections: 1 }]);
    wait_for(|| {
        let refused = TcpStream::connect_timeout(&address, Duration::from_millis(50));
        refused.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    });
    proxy.service.gate.add_permits(1);
    let (body, close) = busy.receive().expect("the answer");
    assert!(body.starts_with("a ") && close, "what was under way ends its connection");
    assert!(Client::connect(proxy.address("b")).ask("/").starts_with("b "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_listener_keeps_its_socket_and_lets_go_of_old_connections() {
    let proxy = Proxy::new(1);
    let first = Listener { bind: reserve(), ..listener("a") };
    proxy.apply(std::slice::from_ref(&first));
    let mut old = Client::connect(first.bind);
    assert_eq!(old.ask("/"), "a 0");
    let leaving = proxy.apply(&[Listener { name: "b".into(), ..first.clone() }]);
    assert_eq!(leaving, [Leaving { listener: "a".into(), connections: 1 }]);
    assert_eq!(Client::connect(first.bind).ask("/"), "b 0");
    // Told at a moment of its own; until then it is answered as before.
    loop {
        old.send("/").expect("sent");
        let (body, close) = old.receive().expect("an answer");
        assert_eq!(body, "a 0");
        if close {
            break;
        }
    }
    assert!(old.is_closed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_becomes_strict_lets_go_of_plaintext_connections_and_says_how_many() {
    let proxy = Proxy::new(2);
    proxy.apply(&[with_tls(TlsMode::Permissive), listener("b")]);
    let address = proxy.address("a");
    let mut clients: Vec<Client> = (0..3).map(|_| Client::connect(address)).collect();
    for client in &mut clients {
        assert!(client.ask("/").starts_with("a "));
    }
    let mut other = Client::connect(proxy.address("b"));
    other.ask("/");
    let silent = Client::connect(address);
    wait_for(|| proxy.status("a").expect("there").connections == 4);

    let leaving = proxy.apply(&[with_tls(TlsMode::Strict), listener("b")]);
    assert_eq!(leaving, [Leaving { listener: "a".into(), connections: 3 }], "the silent one may yet speak TLS");
    // At once: who says nothing for long is closed for that.
    for mut plaintext in [silent, Client::connect(address)] {
        // It may be closed at the first bytes, before all are sent.
        assert!(plaintext.send("/").is_err() || plaintext.receive().is_err(), "closed without an answer");
    }
    for client in &mut clients {
        // Each is told at a moment of its own, and answered until then.
        while !client.is_told_to_go() {}
    }
    let refused = "outrigger_tls_refused_connections_total{listener=\"a\",reason=\"plaintext\"} 2\n";
    wait_for(|| proxy.metrics.encode().contains(refused));
    assert!(other.ask("/").starts_with("b "));
    assert_eq!(proxy.apply(&[with_tls(TlsMode::Strict), listener("b")]), [], "nothing changes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_may_become_strict_twice() {
    let proxy = Proxy::new(1);
    for _ in 0..2 {
        proxy.apply(&[with_tls(TlsMode::Permissive)]);
        let mut client = Client::connect(proxy.address("a"));
        client.ask("/");
        assert!(!client.is_told_to_go(), "the drain before concerns it no more");
        let leaving = proxy.apply(&[with_tls(TlsMode::Strict)]);
        assert_eq!(leaving, [Leaving { listener: "a".into(), connections: 1 }]);
        while !client.is_told_to_go() {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plaintext_callers_of_a_permissive_listener_are_rehearsed() {
    let proxy = Proxy::new(1);
    proxy.apply(&[listener("a")]);
    let mut early = Client::connect(proxy.address("a"));
    early.ask("/");
    assert!(proxy.metrics.rehearsals.report(Instant::now()).listeners.is_empty());

    proxy.apply(&[with_tls(TlsMode::Permissive)]);
    let report = || proxy.metrics.rehearsals.report(Instant::now()).listeners.remove(0);
    assert_eq!(report().peers.unrecorded_connections, 1, "one from before");
    drop(early);
    wait_for(|| report().peers.unrecorded_connections == 0);
    Client::connect(proxy.address("a")).ask("/");
    let seen = report();
    assert_eq!((seen.safe, seen.offenders[0].address.as_str()), (false, "127.0.0.1"));
    assert_eq!(seen.offenders[0].port, proxy.address("a").port());
}

/// A port that was free just now.
fn reserve() -> SocketAddr {
    let probe = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    probe.local_addr().expect("an address")
}

#[tokio::test]
async fn connections_over_the_limit_wait_until_one_ends() {
    let proxy = Proxy::new(1);
    let mut limited = listener("a");
    limited.limits.max_connections = 2;
    proxy.apply(&[limited]);
    let address = proxy.address("a");
    let mut first = Client::connect(address);
    let mut second = Client::connect(address);
    assert_eq!((first.ask("/"), second.ask("/")), ("a 0".into(), "a 0".into()));

    let mut third = Client::connect(address);
    third.send("/").expect("sent");
    wait_for(|| proxy.metrics.encode().contains("outrigger_connections_held_back_total{listener=\"a\"} 1\n"));
    assert_eq!(proxy.status("a").expect("there").connections, 2);
    drop(first);
    assert_eq!(third.receive().expect("an answer").0, "a 0");
}

#[tokio::test]
async fn a_raised_limit_lets_waiting_connections_in() {
    let proxy = Proxy::new(1);
    let mut limited = listener("a");
    limited.limits.max_connections = 1;
    proxy.apply(std::slice::from_ref(&limited));
    let address = proxy.address("a");
    let mut first = Client::connect(address);
    first.ask("/");
    let mut second = Client::connect(address);
    second.send("/").expect("sent");
    wait_for(|| proxy.metrics.encode().contains("held_back_total{listener=\"a\"} 1\n"));
    limited.limits.max_connections = 2;
    proxy.apply(&[limited]);
    assert_eq!(second.receive().expect("an answer").0, "a 0");
}

#[tokio::test]
async fn connections_are_spread_evenly_over_the_workers() {
    let proxy = Proxy::new(3);
    proxy.apply(&[listener("a")]);
    let mut clients: Vec<Client> = (0..9).map(|_| Client::connect(proxy.address("a"))).collect();
    let mut workers: Vec<String> = clients.iter_mut().map(|client| client.ask("/")).collect();
    workers.sort();
    assert_eq!(workers, ["a 0", "a 0", "a 0", "a 1", "a 1", "a 1", "a 2", "a 2", "a 2"]);
}

#[tokio::test]
async fn listeners_with_port_zero_are_told_apart_by_name() {
    let proxy = Proxy::new(1);
    proxy.apply(&[listener("a"), listener("b")]);
    let address = proxy.address("b");
    assert_ne!(proxy.address("a"), address);
    proxy.apply(&[listener("b")]);
    assert_eq!(proxy.address("b"), address);
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_keeps_outbound_open_until_inbound_is_done() {
    let proxy = Arc::new(Proxy::new(2));
    let outbound = Listener { direction: Direction::Outbound, ..listener("out") };
    proxy.apply(&[listener("in"), outbound]);
    let (inside, outside) = (proxy.address("in"), proxy.address("out"));
    let mut busy = Client::connect(inside);
    busy.send("/hold").expect("sent");
    proxy.holding(1);

    let timing = Drain { accept_for: Duration::ZERO, deadline: LONG };
    let going = tokio::spawn({
        let proxy = Arc::clone(&proxy);
        async move { shutdown(&proxy.set, &timing).await }
    });
    wait_for(|| proxy.status("in").is_none());
    assert!(Client::connect(outside).ask("/").starts_with("out "), "outbound serves while inbound drains");
    assert!(!going.is_finished());
    proxy.service.gate.add_permits(1);
    assert!(busy.receive().expect("the answer").0.starts_with("in "));
    drop(busy);
    assert_eq!(going.await.expect("no panic"), Outcome::Finished);
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_ends_at_its_deadline_and_says_what_was_open() {
    let proxy = Proxy::new(1);
    proxy.apply(&[listener("in")]);
    let mut busy = Client::connect(proxy.address("in"));
    busy.send("/hold").expect("sent");
    proxy.holding(1);
    let timing = Drain { accept_for: Duration::ZERO, deadline: Duration::from_millis(100) };
    assert_eq!(shutdown(&proxy.set, &timing).await, Outcome::Deadline { open: 1 });
    assert!(busy.is_closed(), "what was open is closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_closes_also_what_only_drains() {
    let proxy = Proxy::new(2);
    let renamed = Listener { bind: reserve(), ..listener("renamed") };
    let stricter = Listener { bind: reserve(), ..with_tls(TlsMode::Permissive) };
    let gone = Listener { bind: reserve(), ..listener("gone") };
    proxy.apply(&[renamed.clone(), stricter.clone(), gone.clone()]);
    let mut held: Vec<Client> = [&renamed, &stricter, &gone].map(|of| Client::connect(of.bind)).into();
    for (at, client) in held.iter_mut().enumerate() {
        client.send("/hold").expect("sent");
        proxy.holding(at + 1);
    }
    let after = [
        Listener { name: "other".into(), ..renamed.clone() },
        Listener { tls: with_tls(TlsMode::Strict).tls, ..stricter.clone() },
    ];
    proxy.apply(&after);
    let mut fresh = Client::connect(renamed.bind);
    assert!(fresh.ask("/").starts_with("other "));
    shutdown::end(&proxy.set).await;
    for client in held.iter_mut().chain([&mut fresh]) {
        assert!(client.is_closed());
    }
    assert!(TcpStream::connect(renamed.bind).is_err(), "nobody listens");
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_with_nothing_open_ends_when_accepting_ends() {
    let proxy = Proxy::new(1);
    proxy.apply(&[listener("in")]);
    let timing = Drain { accept_for: Duration::from_millis(50), deadline: LONG };
    let begun = Instant::now();
    assert_eq!(shutdown(&proxy.set, &timing).await, Outcome::Finished);
    let took = begun.elapsed();
    assert!(took >= timing.accept_for && took < LONG / 2, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_instance_on_the_same_port_takes_over_without_a_failed_request() {
    let bind = reserve();
    let shared = Listener { bind, ..listener("in") };
    let old = Proxy::new(2);
    old.apply(std::slice::from_ref(&shared));
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|index| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || drive(bind, index % 2 == 0, &stop))
        })
        .collect();

    let new = Proxy::new(2);
    new.apply(std::slice::from_ref(&shared));
    let timing = Drain { accept_for: Duration::from_millis(50), deadline: Duration::from_secs(3) };
    assert_eq!(shutdown(&old.set, &timing).await, Outcome::Finished);
    drop(old);
    stop.store(true, Ordering::SeqCst);
    let mut answered = 0;
    for client in clients {
        answered += client.join().expect("no panic").expect("no request failed");
    }
    assert!(answered >= 4, "{answered} requests");
}

/// Requests one after another until told to stop, on one connection as long as the server lets it, or on a new
/// one each.
fn drive(address: SocketAddr, keep: bool, stop: &AtomicBool) -> std::io::Result<usize> {
    let mut answered = 0;
    let mut client = Client::connect(address);
    while !stop.load(Ordering::SeqCst) {
        client.send("/")?;
        let (_, close) = client.receive()?;
        answered += 1;
        if close || !keep {
            client = Client::connect(address);
        }
    }
    Ok(answered)
}
