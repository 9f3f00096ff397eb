//! The same over QUIC.

use std::net::UdpSocket;
use std::time::Duration;

use quinn::{Connection as Quic, ConnectionError};

use super::pki::HOUR;
use super::*;
use crate::net::quic::{self, ClientTransport, Established, Server, ServerTransport, Station, Steering};

type Met = Result<(Quic, TlsInfo), HandshakeError>;

const IDLE: Duration = Duration::from_secs(20);

/// Two endpoints on one port, as two workers have them.
struct Doors {
    servers: [Server; 2],
    address: SocketAddr,
    metrics: Arc<crate::telemetry::metrics::QuicMetrics>,
}

fn doors() -> Doors {
    let metrics = Arc::default();
    let steering = Steering::new(Arc::clone(&metrics));
    let mut sockets = quic::bind(([127, 0, 0, 1], 0).into(), 1).expect("a port");
    let address = sockets[0].local_addr().expect("an address");
    sockets.extend(quic::bind(address, 1).expect("the same port"));
    let stations = Station::join(&steering, address.port(), sockets).expect("they are few");
    let servers: Vec<Server> = stations.into_iter().map(|station| station.open().expect("open")).collect();
    Doors { servers: servers.try_into().expect("two"), address, metrics }
}

impl Doors {
    async fn accept(&self, server: &TlsSet) -> Met {
        let Established { connection, tls, rest } = self.begin(server).await?;
        if let Some(rest) = rest {
            rest.finish().await?;
        }
        Ok((connection, tls))
    }

    async fn begin(&self, server: &TlsSet) -> Result<Established, HandshakeError> {
        let caller = tokio::select! {
            caller = self.servers[0].arrival() => caller,
            caller = self.servers[1].arrival() => caller,
        };
        let tls = server.server("inbound").expect("a listener");
        let settings = ServerTransport { idle: IDLE, max_streams: 100 };
        caller.expect("the endpoint is there").accept(tls, &settings).await
    }

    async fn connect(&self, client: &TlsSet) -> Met {
        let tls = client.client("up").expect("a cluster");
        quic::connect(self.address, tls, None, &ClientTransport::new(IDLE, None)).await
    }

    async fn meet(&self, server: &TlsSet, client: &TlsSet) -> (Met, Met) {
        tokio::join!(self.accept(server), self.connect(client))
    }

    /// A connection that was used once, so that the client has got its ticket.
    async fn used(&self, server: &TlsSet, client: &TlsSet) -> ((Quic, TlsInfo), (Quic, TlsInfo)) {
        let (server, client) = self.meet(server, client).await;
        let (server, client) = (server.expect("the server agrees"), client.expect("the client agrees"));
        say(&server.0, &client.0).await;
        (server, client)
    }
}

async fn say(from: &Quic, to: &Quic) {
    let send = async {
        let mut stream = from.open_uni().await.expect("a stream");
        stream.write_all(b"hello").await.expect("sent");
        stream.finish().expect("open");
        stream
    };
    let receive = async {
        let mut stream = to.accept_uni().await.expect("a stream");
        assert_eq!(stream.read_to_end(10).await.expect("received"), b"hello");
    };
    tokio::join!(send, receive);
}

fn sides() -> (Arc<TestClock>, Authority, Side, Side) {
    let clock = Arc::new(TestClock::default());
    let root = Authority::root("Mesh CA");
    let (server, client) = (Side::server(&clock, &root), Side::client(&clock, &root));
    (clock, root, server, client)
}

fn id(info: &TlsInfo) -> &str {
    info.peer.as_ref().and_then(|peer| peer.identity.as_ref()).expect("an identity").as_str()
}

#[tokio::test]
async fn both_sides_know_each_other_and_a_session_that_is_resumed_tells_the_same() {
    let (_, _, server, client) = sides();
    let (server, client) = (server.build(), client.build());
    let doors = doors();
    for resumed in [false, true, true] {
        let ((_one, theirs), (_other, ours)) = doors.used(&server, &client).await;
        assert_eq!((id(&theirs), id(&ours)), (CLIENT_ID, SERVER_ID));
        for info in [&theirs, &ours] {
            assert_eq!((info.alpn, info.resumed), (Some(AlpnProtocol::Http3), resumed));
            assert_eq!((info.cipher, info.group), ("TLS13_AES_128_GCM_SHA256", Some("X25519MLKEM768")));
        }
        assert_eq!(ours.local_identity.as_ref().expect("ours").as_str(), CLIENT_ID);
        assert_eq!(theirs.local_identity.as_ref().expect("theirs").as_str(), SERVER_ID);
    }
    assert_eq!(server.server("inbound").expect("a listener").handshakes(), 0);
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused_and_hears_of_it_on_its_first_stream() {
    let (clock, root, mut server, _) = sides();
    let mut client = Side::new(&clock, CLIENT);
    client.yaml = CLIENT.replace(
        "tls: { peerIdentities: [\"spiffe://mesh.local/ns/shop/sa/server\"] }",
        "tls: { mode: simple, trustBundle: /tls/bundle.pem, subjectNames: [inbound.example] }",
    );
    client.yaml = client.yaml.split_once("listeners:").map(|(_, rest)| format!("listeners:{rest}")).expect("listeners");
    client.put("bundle.pem", &root.pem);
    server.identity(&root.issue(&Leaf::svid(SERVER_ID).dns("inbound.example")));
    let doors = doors();
    let (theirs, ours) = doors.meet(&server.build(), &client.build()).await;
    assert_eq!(theirs.expect_err("refused").code(), "no-certificate");
    let (connection, _) = ours.expect("the server judges last");
    let error = connection.closed().await;
    let alert = quic::peer_alert(&error).expect("an alert");
    assert_eq!(alert.to_string(), "the peer ended the connection: certificate_required");
}

#[tokio::test]
async fn a_server_that_is_somebody_else_is_refused_and_told_so() {
    let (_, root, mut server, client) = sides();
    server.identity(&root.issue(&Leaf::svid("spiffe://mesh.local/ns/shop/sa/other")));
    let (theirs, ours) = doors().meet(&server.build(), &client.build()).await;
    let error = ours.expect_err("refused");
    assert_eq!(error.code(), "wrong-identity");
    assert!(error.to_string().contains("sa/other"), "{error}");
    assert_eq!(theirs.expect_err("ended").code(), "refused-by-peer");
}

#[tokio::test]
async fn a_resumed_session_is_measured_by_the_trust_of_today() {
    let (clock, root, server, mut client) = sides();
    let end = clock.now() + HOUR;
    client.identity(&root.issue(&Leaf::svid(CLIENT_ID).with(|leaf| leaf.not_after = end)));
    let (server, client) = (server.build(), client.build());
    let doors = doors();
    doors.used(&server, &client).await;
    clock.advance(2 * HOUR);
    let (theirs, _) = doors.meet(&server, &client).await;
    assert_eq!(theirs.expect_err("refused").code(), "expired");
}

/// A client that follows no rules, keeps its sessions and comes back with early data.
fn eager(shown: &Issued) -> quinn::ClientConfig {
    let mut config = (*lenient_client(Some(shown))).clone();
    config.alpn_protocols = vec![b"h3".to_vec()];
    config.enable_early_data = true;
    let config = quinn::crypto::rustls::QuicClientConfig::try_from(config).expect("a suite");
    quinn::ClientConfig::new(Arc::new(config))
}

/// A client with early data, and what the server makes of it before it hears more.
async fn come_early(
    doors: &Doors,
    server: &TlsSet,
    client: &quinn::ClientConfig,
) -> (Quic, Result<Established, HandshakeError>) {
    let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).expect("a port");
    let connect = endpoint.connect_with(client.clone(), doors.address, "inbound.example").expect("begun");
    let Ok((ours, _)) = connect.into_0rtt() else { panic!("the client has no session") };
    let mut stream = ours.open_uni().await.expect("a stream");
    stream.write_all(b"early").await.expect("sent");
    (ours, doors.begin(server).await)
}

#[tokio::test]
async fn who_sends_early_data_is_verified_before_that_is_read_by_the_trust_of_today() {
    let clock = Arc::new(TestClock::default());
    let (root, old) = (Authority::root("Mesh CA"), Authority::root("Old CA"));
    let mut side = Side::server(&clock, &root);
    side.change("tls: { mode: strict }", "tls: { mode: strict }\n    http3: { earlyData: safeMethods }");
    let server = side.put("bundle.pem", &format!("{}{}", root.pem, old.pem)).build();
    let client = eager(&old.issue(&Leaf::svid(CLIENT_ID)));
    let doors = doors();
    let under_way = || server.server("inbound").expect("a listener").handshakes();
    let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).expect("a port");
    let connect = endpoint.connect_with(client.clone(), doors.address, "inbound.example").expect("begun");
    let (theirs, ours) = tokio::join!(doors.accept(&server), connect);
    // With what it hears it has got its session.
    say(&theirs.expect("agreed").0, &ours.expect("agreed")).await;

    let (ours, established) = come_early(&doors, &server, &client).await;
    let Established { connection, tls, rest } = established.expect("taken");
    assert_eq!((id(&tls), tls.resumed, under_way()), (CLIENT_ID, true, 1));
    let mut stream = connection.accept_uni().await.expect("a stream");
    let mut early = [0; 5];
    stream.read_exact(&mut early).await.expect("received");
    assert_eq!(&early, b"early");
    rest.expect("it is not over").finish().await.expect("it ends well");
    assert_eq!(under_way(), 0);
    say(&connection, &ours).await;

    // The handshake begins under the trust of before, whose sessions there still are.
    let trusting = side.put("bundle.pem", &root.pem.clone()).rebuild(&server);
    let (_ours, refused) = come_early(&doors, &server, &client).await;
    assert_eq!((refused.expect_err("refused").code(), under_way()), ("unknown-issuer", 0));
    drop(trusting);
}

#[tokio::test]
async fn more_handshakes_than_allowed_are_refused_at_once() {
    let (_, _, mut server, client) = sides();
    server.change("mode: strict", "mode: strict, maxHandshakes: 1");
    let (server, client) = (server.build(), client.build());
    let doors = doors();
    let _under_way = server.server("inbound").expect("a listener").over_quic().expect("a place");
    let (theirs, ours) = doors.meet(&server, &client).await;
    assert_eq!(theirs.expect_err("refused").code(), "busy");
    let error = ours.expect_err("refused");
    assert_eq!(error.io_kind(), std::io::ErrorKind::ConnectionRefused, "{error}");
}

#[tokio::test]
async fn a_peer_that_speaks_something_else_over_quic_is_refused() {
    let (_, _, server, _) = sides();
    let server = server.build();
    let doors = doors();
    let mut config = (*lenient_client(None)).clone();
    config.alpn_protocols = vec![b"hq-interop".to_vec()];
    let config = quinn::crypto::rustls::QuicClientConfig::try_from(config).expect("a suite");
    let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).expect("a port");
    let config = quinn::ClientConfig::new(Arc::new(config));
    let connect = endpoint.connect_with(config, doors.address, "inbound.example").expect("begun");
    let (theirs, ours) = tokio::join!(doors.accept(&server), connect);
    assert_eq!(theirs.expect_err("refused").code(), "no-application-protocol");
    assert!(matches!(ours, Err(ConnectionError::ConnectionClosed(_))), "{ours:?}");
}

#[tokio::test]
async fn while_many_addresses_are_unproved_others_have_to_prove_theirs_first() {
    let (_, _, server, client) = sides();
    let (server, client) = (server.build(), Arc::new(client.build()));
    let doors = Arc::new(doors());
    let mut waiting = tokio::task::JoinSet::new();
    let mut arrivals = Vec::new();
    let dial = |waiting: &mut tokio::task::JoinSet<()>| {
        let (doors, client) = (Arc::clone(&doors), Arc::clone(&client));
        waiting.spawn(async move { drop(doors.connect(&client).await) });
    };
    // Nobody answers these, at both endpoints, until both have as many as they take.
    let [first, second] = &doors.servers;
    while doors.metrics.counts()[2] == 0 {
        dial(&mut waiting);
        tokio::select! {
            arrival = first.arrival() => arrivals.push(arrival.expect("somebody")),
            arrival = second.arrival() => arrivals.push(arrival.expect("somebody")),
        }
        assert!(arrivals.len() <= 2 * usize::try_from(limits::QUIC_UNPROVED).expect("few") + 1, "nobody is asked");
    }
    assert!(arrivals.len() > usize::try_from(limits::QUIC_UNPROVED).expect("few"));
    // The last one was asked, has proved its address, and is served as any other.
    let proved = arrivals.pop().expect("there are some");
    let tls = server.server("inbound").expect("a listener");
    proved.accept(tls, &ServerTransport { idle: IDLE, max_streams: 1 }).await.expect("it is served");
}

#[tokio::test]
async fn those_that_may_be_unproved_are_counted_for_all_endpoints_of_an_address() {
    let (_, _, _, client) = sides();
    let client = Arc::new(client.build());
    let doors = Arc::new(doors());
    let [first, second] = &doors.servers;
    for most in [3, 0] {
        first.limit_unproved(most);
        let before = doors.metrics.counts()[2];
        let mut waiting = tokio::task::JoinSet::new();
        let mut unproved = Vec::new();
        while doors.metrics.counts()[2] == before {
            let (doors, client) = (Arc::clone(&doors), Arc::clone(&client));
            waiting.spawn(async move { drop(doors.connect(&client).await) });
            let arrival = tokio::select! {
                arrival = first.arrival() => arrival,
                arrival = second.arrival() => arrival,
            };
            unproved.push(arrival.expect("somebody"));
            assert!(unproved.len() <= most as usize + 1, "nobody is asked");
        }
        assert_eq!(unproved.len(), most as usize + 1, "the last one was asked");
    }
}

#[tokio::test]
async fn a_client_that_moves_goes_on_whoever_receives_its_datagrams() {
    let (_, _, server, client) = sides();
    let (server, client) = (server.build(), client.build());
    let doors = doors();
    let session = client.client("up").expect("a cluster").over_quic(None, doors.address);
    let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).expect("a port");
    let config = quinn::ClientConfig::new(Arc::new(session));
    let connect = endpoint.connect_with(config, doors.address, "any").expect("begun");
    let (theirs, ours) = tokio::join!(doors.accept(&server), connect);
    let (theirs, ours) = (theirs.expect("agreed").0, ours.expect("agreed"));
    let before = theirs.remote_address();
    // Each time the kernel may choose the one or the other.
    for _ in 0..12 {
        endpoint.rebind(UdpSocket::bind("127.0.0.1:0").expect("a port")).expect("moved");
        say(&ours, &theirs).await;
        say(&theirs, &ours).await;
    }
    assert_ne!(theirs.remote_address(), before);
    let [handed_over, dropped, _] = doors.metrics.counts();
    assert!(handed_over > 0 && dropped == 0, "{:?}", doors.metrics);
}
