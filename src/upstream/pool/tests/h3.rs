//! Pools over QUIC: by order of the cluster, and where an endpoint offers it.

use std::sync::atomic::Ordering;

use http::header::{ALT_SVC, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use outrigger_config::model::ListenerProtocol;
use tokio::task::{JoinHandle, JoinSet};

use super::mesh::{Authority, End};
use super::relay::Relay;
use super::tls::{Nobody, greet, post};
use super::*;
use crate::base::drain::Drain;
use crate::base::pressure::Pressure;
use crate::codec::h3::serve;
use crate::codec::{
    Body, Handler, Interim, Refusal, Replay, Request, RequestHead, Response, ResponseHead, SendError, SendErrorKind,
    Sent, ServerOptions,
};
use crate::net::quic::{self, Server, ServerTransport, Station, Steering};
use crate::net::tls::ClientTls;
use crate::policy::alternative::Standing;

/// Answers everything but `/wait`, and for nobody at `/elsewhere`.
struct Answers;

impl Handler for Answers {
    type Body = Body;

    async fn handle(&self, request: Request, _: &dyn Interim) -> Response<Body> {
        if request.head.path == "/wait" {
            std::future::pending::<()>().await;
        }
        let status = match request.head.path.path() {
            "/elsewhere" => StatusCode::MISDIRECTED_REQUEST,
            _ => StatusCode::OK,
        };
        Response { head: ResponseHead { status, headers: HeaderMap::new() }, body: Body::Empty }
    }

    fn refuse(&self, refusal: Refusal) -> Response<Body> {
        let head = ResponseHead { status: refusal.status, headers: HeaderMap::new() };
        Response { head, body: Body::Empty }
    }
}

/// A server over QUIC.
struct Endpoint {
    address: SocketAddr,
    drain: Drain,
    running: JoinHandle<()>,
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Endpoint {
    fn start(end: End, max_streams: u32) -> Self {
        let sockets = quic::bind(([127, 0, 0, 1], 0).into(), 1).expect("a port");
        let address = sockets[0].local_addr().expect("an address");
        let stations = Station::join(&Steering::new(Arc::default()), address.port(), sockets).expect("there is room");
        let server = stations.into_iter().next().expect("one").open().expect("it opens");
        let drain = Drain::default();
        let options = ServerOptions {
            max_head_bytes: 64 * 1024,
            max_headers: 100,
            max_concurrent_streams: max_streams,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            retire_at: None,
            scheme: http::uri::Scheme::HTTPS,
            drain: drain.watch(),
            pressure: Arc::<Pressure>::default().watch(),
        };
        let running = tokio::spawn(accept(server, end, options));
        Self { address, drain, running }
    }
}

async fn accept(server: Server, end: End, options: ServerOptions) {
    let mut connections = JoinSet::new();
    while let Some(arrival) = server.arrival().await {
        let transport = ServerTransport { idle: Duration::from_secs(60), max_streams: options.max_concurrent_streams };
        let accepted = arrival.accept(&end.server(), &transport);
        let options = options.clone();
        connections.spawn(async move {
            if let Ok(established) = accepted.await {
                serve(established.connection, Arc::new(Answers), options).await;
            }
        });
    }
}

/// A pool towards an address, and the TLS of its owner.
struct Line {
    tls: Arc<ClientTls>,
    setup: Setup,
}

impl Line {
    fn to(address: SocketAddr, client: &End, max_streams: u32) -> Self {
        let tls = client.client();
        let key = Some(Arc::clone(tls.key()));
        let setup = setup_in_time(address, max_streams, (key, Duration::from_secs(2)));
        Self { tls, setup }
    }

    fn terms(&self) -> Terms<'_> {
        Terms { ceilings: CEILINGS, tls: Some(&self.tls) }
    }

    async fn lease(&self, wire: Wire) -> Result<Lease, LeaseError> {
        self.setup.pool.lease(wire, Preference::Any, self.terms()).await
    }

    fn connections(&self) -> u32 {
        self.setup.cluster.connections.get()
    }

    /// The endpoint says where it speaks HTTP/3.
    fn learn(&self, port: u16) {
        self.learn_of(&format!("h3=\":{port}\""));
    }

    fn learn_of(&self, alternative: &str) {
        let mut headers = HeaderMap::new();
        headers.insert(ALT_SVC, HeaderValue::try_from(alternative).expect("a value"));
        self.setup.endpoint.http3.learn(&headers, None, Instant::now());
    }

    fn standing(&self) -> Standing {
        self.setup.endpoint.http3.standing(Instant::now())
    }

    /// Asks until a stream over QUIC is given out.
    async fn over_quic(&self) -> Lease {
        let leased = async {
            loop {
                match self.lease(Wire::Negotiated).await.expect("a connection") {
                    lease @ Lease::H3(_) => return lease,
                    _ => tokio::task::yield_now().await,
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(5), leased).await.expect("it is dialled")
    }
}

fn get(path: &'static str) -> RequestHead {
    RequestHead { method: Method::GET, path: path.parse().expect("a path"), ..post() }
}

async fn send(lease: Lease, head: &RequestHead) -> Result<StatusCode, SendError> {
    let sent = lease.send(head, Body::Empty, &Nobody);
    let answer = tokio::time::timeout(Duration::from_secs(10), sent).await.expect("an end");
    answer.map(|answer| answer.head.status)
}

fn ends() -> (End, End) {
    let authority = Authority::new();
    (authority.end("server", &authority.pem()), authority.end("client", &authority.pem()))
}

#[tokio::test]
async fn requests_over_http3_share_a_connection_that_is_dialled_once() {
    let (server, client) = ends();
    let endpoint = Endpoint::start(server, 100);
    let line = Line::to(endpoint.address, &client, 100);
    let (a, b, c) = tokio::join!(line.lease(Wire::Http3), line.lease(Wire::Http3), line.lease(Wire::Http3));
    for leased in [a, b, c] {
        let lease = leased.expect("a stream");
        assert!(matches!(lease, Lease::H3(_)), "{lease:?}");
        assert_eq!(send(lease, &get("/")).await.expect("an answer"), StatusCode::OK);
    }
    assert_eq!(line.connections(), 1);
    assert_eq!(line.setup.cluster.pending.get(), 0);
}

#[tokio::test]
async fn when_its_streams_are_taken_a_further_connection_is_opened() {
    let (server, client) = ends();
    let endpoint = Endpoint::start(server, 100);
    let line = Line::to(endpoint.address, &client, 2);
    let mut leases = Vec::new();
    for _ in 0..5 {
        leases.push(line.lease(Wire::Http3).await.expect("a stream"));
    }
    assert_eq!(line.connections(), 3);
    drop(leases);
    line.setup.pool.close_idle();
    until(|| line.connections() == 0).await;
}

#[tokio::test]
async fn a_server_that_allows_fewer_streams_is_asked_for_no_more() {
    let (server, client) = ends();
    let endpoint = Endpoint::start(server, 1);
    let line = Line::to(endpoint.address, &client, 100);
    let first = line.lease(Wire::Http3).await.expect("a stream");
    let second = line.lease(Wire::Http3).await.expect("a stream");
    assert_eq!(line.connections(), 2);
    drop((first, second));
}

#[tokio::test]
async fn nobody_there_is_a_connect_timeout_for_all_who_wait() {
    let (_server, client) = ends();
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let mut line = Line::to(silent.local_addr().expect("an address"), &client, 100);
    let key = Some(Arc::clone(line.tls.key()));
    line.setup = setup_in_time(silent.local_addr().expect("an address"), 100, (key, Duration::from_millis(200)));
    let (a, b) = tokio::join!(line.lease(Wire::Http3), line.lease(Wire::Http3));
    for refused in [a, b] {
        let refused = refused.expect_err("nobody is there");
        assert!(matches!(refused, LeaseError::Connect(SendErrorKind::ConnectTimeout)), "{refused:?}");
    }
    assert_eq!((line.connections(), line.setup.cluster.pending.get()), (0, 0));
}

#[tokio::test]
async fn a_server_that_refuses_our_certificate_was_sent_nothing() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let both = ours.pem() + &theirs.pem();
    let endpoint = Endpoint::start(theirs.end("server", &theirs.pem()), 100);
    let line = Line::to(endpoint.address, &ours.end("client", &both), 100);
    let refused = line.lease(Wire::Http3).await.expect_err("refused");
    assert!(
        matches!(&refused, LeaseError::Connect(SendErrorKind::Handshake { code: crate::codec::REFUSED_BY_PEER, .. })),
        "{refused:?}"
    );
    assert_eq!(line.connections(), 0);
}

#[tokio::test]
async fn a_retired_pool_gives_nothing_out_and_lets_what_is_in_use_end() {
    let (server, client) = ends();
    let endpoint = Endpoint::start(server, 100);
    let line = Line::to(endpoint.address, &client, 100);
    let lease = line.lease(Wire::Http3).await.expect("a stream");
    line.setup.pool.retire();
    let refused = line.lease(Wire::Http3).await;
    assert!(matches!(refused, Err(LeaseError::Retired)), "{refused:?}");
    assert_eq!(send(lease, &get("/")).await.expect("an answer"), StatusCode::OK);
    until(|| line.connections() == 0).await;
}

#[tokio::test]
async fn a_server_that_goes_is_given_no_more_requests() {
    let (server, client) = ends();
    let endpoint = Endpoint::start(server, 100);
    let line = Line::to(endpoint.address, &client, 100);
    let waiting = line.lease(Wire::Http3).await.expect("a stream");
    let waiting = tokio::spawn(async move { send(waiting, &get("/wait")).await });
    until(|| line.connections() == 1).await;
    endpoint.drain.start(Duration::ZERO);
    let gone = async {
        while line.setup.pool.workers[0]
            .reserve::<crate::upstream::pool::h3::Line>(Preference::Any, Instant::now())
            .is_some()
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), gone).await.expect("it says GOAWAY");
    waiting.abort();
}

/// A server over TCP that speaks HTTP/2, and the same over QUIC behind a relay.
struct Both {
    line: Line,
    relay: Relay,
    _endpoint: Endpoint,
    _tcp: JoinHandle<()>,
}

async fn both() -> Both {
    let authority = Authority::new();
    let end = || authority.end("server", &authority.pem()).speaking(ListenerProtocol::Auto);
    let (listener, address) = listener().await;
    let tcp = end();
    let tcp = tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            if let Ok((io, _)) = tcp.accept(&listener).await {
                held.push(greet(io));
            }
        }
    });
    let endpoint = Endpoint::start(end(), 100);
    let relay = Relay::to(endpoint.address).await;
    let line = Line::to(address, &authority.end("client", &authority.pem()), 100);
    Both { line, relay, _endpoint: endpoint, _tcp: tcp }
}

#[tokio::test]
async fn what_offers_http3_is_asked_over_tcp_until_a_connection_over_quic_is_made() {
    let Both { line, relay, .. } = &both().await;
    for _ in 0..3 {
        let lease = line.lease(Wire::Negotiated).await.expect("a stream");
        assert!(matches!(lease, Lease::H2(_)), "nothing is offered: {lease:?}");
    }
    line.learn(relay.address.port());
    let first = line.lease(Wire::Negotiated).await.expect("a stream");
    assert!(matches!(first, Lease::H2(_)), "it is dialled beside the traffic: {first:?}");
    for _ in 0..3 {
        assert_eq!(send(line.over_quic().await, &get("/")).await.expect("an answer"), StatusCode::OK);
    }
    assert_eq!(line.connections(), 2);
    line.learn_of("clear");
    let lease = line.lease(Wire::Negotiated).await.expect("a stream");
    assert!(matches!(lease, Lease::H2(_)), "nothing is offered any more: {lease:?}");
}

#[tokio::test]
async fn where_udp_is_blocked_traffic_goes_on_over_tcp_and_it_is_remembered() {
    let Both { line, relay, .. } = &both().await;
    relay.block(true);
    line.learn(relay.address.port());
    let begun = Instant::now();
    let mut longest = Duration::ZERO;
    while matches!(line.standing(), Standing::Advertised { .. }) {
        let asked = Instant::now();
        let lease = line.lease(Wire::Negotiated).await.expect("a stream");
        assert!(matches!(lease, Lease::H2(_)), "{lease:?}");
        longest = longest.max(asked.elapsed());
        tokio::task::yield_now().await;
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", line.standing());
    }
    assert!(matches!(line.standing(), Standing::Broken { .. }), "{:?}", line.standing());
    assert!(longest < Duration::from_secs(1), "nobody waits for it: {longest:?}");
    let before = line.setup.cluster.connections.get();
    line.lease(Wire::Negotiated).await.expect("a stream");
    assert_eq!((before, line.connections()), (1, 1), "it is not tried again at once");
}

#[tokio::test]
async fn when_the_way_is_lost_what_may_be_repeated_ends_within_a_second_and_the_rest_goes_over_tcp() {
    let Both { line, relay, .. } = &both().await;
    line.learn(relay.address.port());
    let (waiting, never, posted) = (line.over_quic().await, line.over_quic().await, line.over_quic().await);
    let put = line.over_quic().await;
    let put = tokio::spawn(async move {
        let head = RequestHead { method: Method::PUT, ..get("/wait") };
        let replay = Replay::new(Body::Full("a body that is kept".into()), 1024);
        let error = put.send(&head, replay.attempt(), &Nobody).await.expect_err("nothing comes any more");
        (error, Instant::now())
    });
    let waiting = tokio::spawn(async move { (send(waiting, &get("/wait")).await, Instant::now()) });
    let posted = tokio::spawn(async move {
        let head = RequestHead { path: "/wait".parse().expect("a path"), ..post() };
        (send(posted, &head).await, Instant::now())
    });
    assert_eq!(send(line.over_quic().await, &get("/")).await.expect("an answer"), StatusCode::OK);
    relay.block(true);
    let blocked = Instant::now();
    let (ended, at) = waiting.await.expect("no panic");
    let error = ended.expect_err("nothing comes any more");
    assert!(matches!(error, SendError { sent: Sent::Maybe, kind: SendErrorKind::PathLost, .. }), "{error:?}");
    let (put, put_at) = put.await.expect("no panic");
    assert!(matches!(put, SendError { sent: Sent::Maybe, kind: SendErrorKind::PathLost, .. }), "{put:?}");
    let took = at.max(put_at).duration_since(blocked);
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(matches!(line.standing(), Standing::Broken { .. }), "{:?}", line.standing());
    let lease = line.lease(Wire::Negotiated).await.expect("a stream");
    assert!(matches!(lease, Lease::H2(_)), "{lease:?}");
    let error = send(never, &get("/")).await.expect_err("it is not tried");
    assert_eq!(error.sent, Sent::Never, "{error:?}");
    // What must not be repeated is waited for longer, in vain.
    assert!(!posted.is_finished());
    let (ended, at) = posted.await.expect("no panic");
    let error = ended.expect_err("nothing comes any more");
    assert!(matches!(error, SendError { sent: Sent::Maybe, kind: SendErrorKind::PathLost, .. }), "{error:?}");
    assert!(at.duration_since(blocked) < Duration::from_secs(5), "{:?}", at.duration_since(blocked));
    until(|| line.connections() == 1).await;
    assert_eq!(line.setup.endpoint.consecutive_failures.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn what_is_answered_for_nobody_over_http3_goes_over_tcp_and_http3_is_left_alone_for_a_while() {
    let Both { line, relay, .. } = &both().await;
    line.learn(relay.address.port());
    let (first, second) = (line.over_quic().await, line.over_quic().await);
    let elsewhere = RequestHead { path: "/elsewhere".parse().expect("a path"), ..post() };
    let error = send(first, &elsewhere).await.expect_err("there is another way");
    assert!(matches!(error, SendError { sent: Sent::Never, kind: SendErrorKind::PathLost, .. }), "{error:?}");
    let broken = line.standing();
    assert!(matches!(broken, Standing::Broken { .. }), "{broken:?}");
    // That it is said once more, or that HTTP/3 is offered again over TCP, changes nothing.
    send(second, &elsewhere).await.expect_err("there is another way");
    line.learn(relay.address.port());
    assert_eq!(line.standing(), broken);
    let lease = line.lease(Wire::Negotiated).await.expect("a stream");
    assert!(matches!(lease, Lease::H2(_)), "{lease:?}");
}

#[tokio::test]
async fn where_there_is_no_other_way_an_answer_for_nobody_is_an_answer() {
    let (server, client) = ends();
    let endpoint = Endpoint::start(server, 100);
    let line = Line::to(endpoint.address, &client, 100);
    let lease = line.lease(Wire::Http3).await.expect("a stream");
    assert_eq!(send(lease, &get("/elsewhere")).await.expect("an answer"), StatusCode::MISDIRECTED_REQUEST);
}

#[tokio::test]
async fn a_silence_that_ends_costs_what_waits_nothing() {
    let Both { line, relay, .. } = &both().await;
    line.learn(relay.address.port());
    let slow = line.over_quic().await;
    let slow = tokio::spawn(async move {
        let head = RequestHead { path: "/wait".parse().expect("a path"), ..get("/") };
        send(slow, &head).await
    });
    // An answer that takes long is none: the server is there, and says so when it is asked.
    let quick = async {
        let end = Instant::now() + Duration::from_millis(1500);
        while Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert!(!slow.is_finished(), "it is given up");
        }
    };
    quick.await;
    assert!(matches!(line.standing(), Standing::Advertised { .. }), "{:?}", line.standing());
    slow.abort();
}
