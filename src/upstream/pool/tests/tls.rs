//! Pools over TLS: what is negotiated, and what a refusal proves.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode, Version};
use outrigger_config::model::ListenerProtocol;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::mesh::{Authority, End};
use super::*;
use crate::codec::{Body, Interim, REFUSED_BY_PEER, RequestHead, SendErrorKind, Sent};
use crate::net::io::Io;
use crate::net::tls::{AlpnProtocol, ClientTls, HandshakeError, TlsInfo};
use crate::upstream::Registry;
use crate::upstream::dns::{Answer, BoxFuture, Resolve};

/// A server and a pool towards it.
struct Link {
    listener: TcpListener,
    server: End,
    tls: Arc<ClientTls>,
    setup: Setup,
}

impl Link {
    async fn new(authority: &Authority, protocol: ListenerProtocol) -> Self {
        let server = authority.end("server", &authority.pem()).speaking(protocol);
        let client = authority.end("client", &authority.pem());
        Self::between(client, server).await
    }

    async fn between(client: End, server: End) -> Self {
        let (listener, address) = listener().await;
        let tls = client.client();
        let setup = setup_with(address, 10, Some(Arc::clone(tls.key())));
        Self { listener, server, tls, setup }
    }

    async fn lease(&self, wire: Wire) -> Result<Lease, LeaseError> {
        let terms = Terms { ceilings: CEILINGS, tls: Some(&self.tls) };
        self.setup.pool.lease(wire, Preference::Any, terms).await
    }

    async fn accept(&self) -> Result<(Io, TlsInfo), HandshakeError> {
        self.server.accept(&self.listener).await
    }
}

/// An HTTP/2 server that says its settings and holds the connection.
pub(super) fn greet(mut io: Io) -> JoinHandle<()> {
    tokio::spawn(async move {
        io.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.expect("settings");
        io.flush().await.expect("settings");
        let _ = io.read_to_end(&mut Vec::new()).await;
    })
}

pub(super) struct Nobody;

impl Interim for Nobody {
    fn send(&self, _: StatusCode, _: &HeaderMap) {}
}

pub(super) fn post() -> RequestHead {
    RequestHead {
        method: Method::POST,
        scheme: http::uri::Scheme::HTTP,
        authority: Some("c.test".parse().expect("a host")),
        path: "/".parse().expect("a path"),
        version: Version::HTTP_11,
        headers: HeaderMap::new(),
        upgrade: None,
    }
}

#[tokio::test]
async fn a_stream_over_mutual_tls_is_leased_when_the_server_has_greeted() {
    let link = Link::new(&Authority::new(), ListenerProtocol::Auto).await;
    let (leased, accepted) = tokio::join!(link.lease(Wire::Http2), async {
        let (io, info) = link.accept().await.expect("a handshake");
        (greet(io), info)
    });
    assert!(matches!(leased, Ok(Lease::H2(_))), "{leased:?}");
    assert_eq!(accepted.1.alpn, Some(AlpnProtocol::Http2));
    let identity = accepted.1.peer.and_then(|peer| peer.identity.clone()).expect("an identity");
    assert_eq!(identity.as_str(), "spiffe://mesh.test/client");
}

#[tokio::test]
async fn a_server_that_does_not_speak_http2_is_no_endpoint_of_an_http2_cluster() {
    let link = Link::new(&Authority::new(), ListenerProtocol::Http1).await;
    let (leased, _) = tokio::join!(link.lease(Wire::Http2), link.accept());
    // The server of this mesh refuses; one without ALPN goes on and is refused by us.
    assert!(matches!(leased, Err(LeaseError::Connect(SendErrorKind::Handshake { .. }))), "{leased:?}");
    assert_eq!(link.setup.cluster.connections.get(), 0);
}

#[tokio::test]
async fn what_the_server_chooses_is_used_and_remembered() {
    let link = Link::new(&Authority::new(), ListenerProtocol::Http1).await;
    let (first, second, _held) = tokio::join!(link.lease(Wire::Negotiated), link.lease(Wire::Negotiated), async {
        let first = link.accept().await.expect("a handshake");
        let second = link.accept().await.expect("a handshake");
        assert_eq!((first.1.alpn, second.1.alpn), (Some(AlpnProtocol::Http1), Some(AlpnProtocol::Http1)));
        (first, second)
    });
    assert!(matches!((&first, &second), (Ok(Lease::H1(_)), Ok(Lease::H1(_)))), "{first:?} {second:?}");
    assert_eq!(link.setup.cluster.connections.get(), 2, "none was thrown away");
}

#[tokio::test]
async fn a_server_that_chooses_otherwise_the_next_time_is_followed() {
    let authority = Authority::new();
    let mut link = Link::new(&authority, ListenerProtocol::Http1).await;
    let (first, _held) = tokio::join!(link.lease(Wire::Negotiated), link.accept());
    assert!(matches!(first, Ok(Lease::H1(_))), "{first:?}");
    link.server = link.server.speaking(ListenerProtocol::Auto);
    let (second, _held) =
        tokio::join!(link.lease(Wire::Negotiated), async { (greet(link.accept().await.expect("a handshake").0),) });
    assert!(matches!(second, Ok(Lease::H2(_))), "{second:?}");
    let third = link.lease(Wire::Negotiated).await;
    assert!(matches!(third, Ok(Lease::H2(_))), "{third:?}");
    assert_eq!(link.setup.cluster.connections.get(), 2);
}

#[tokio::test]
async fn a_server_that_refuses_our_certificate_was_sent_nothing() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    // The server shows what the client believes, and believes others only.
    let server = ours.end("server", &(ours.pem() + &theirs.pem()));
    let client = ours.end("client", &ours.pem());
    let mut link = Link::between(client, server).await;
    link.server = theirs.end("server", &theirs.pem());
    let both = ours.end("client", &(ours.pem() + &theirs.pem()));
    link.tls = both.client();

    let (sent, refused) = tokio::join!(
        async {
            match link.lease(Wire::Http1).await.expect("connected, as far as we know") {
                Lease::H1(connection) => connection.send(&post(), Body::Empty, &Nobody).await.expect_err("refused"),
                Lease::H2(_) | Lease::H3(_) => unreachable!("HTTP/1 was asked for"),
            }
        },
        link.accept()
    );
    assert_eq!(refused.expect_err("refused").code(), "unknown-issuer");
    assert_eq!(sent.sent, Sent::Never, "{sent:?}");
    assert!(matches!(sent.kind, SendErrorKind::Handshake { code: REFUSED_BY_PEER, .. }), "{sent:?}");

    let (leased, _) = tokio::join!(link.lease(Wire::Http2), link.accept());
    let refused = LeaseError::Connect(SendErrorKind::Handshake { code: REFUSED_BY_PEER, detail: "".into() });
    let leased = leased.expect_err("refused");
    assert_eq!(std::mem::discriminant(&leased), std::mem::discriminant(&refused), "{leased}");
    assert!(leased.to_string().contains("the peer ended"), "{leased}");
}

#[tokio::test]
async fn somebody_else_at_the_address_is_refused() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let client = ours.end("client", &ours.pem());
    let server = theirs.end("server", &theirs.pem());
    let link = Link::between(client, server).await;
    let (leased, _) = tokio::join!(link.lease(Wire::Http1), link.accept());
    let error = leased.expect_err("refused");
    assert!(matches!(&error, LeaseError::Connect(SendErrorKind::Handshake { code: "unknown-issuer", .. })), "{error}");
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_the_connect_timeout_in_all() {
    let authority = Authority::new();
    let mut link = Link::new(&authority, ListenerProtocol::Auto).await;
    let key = Some(Arc::clone(link.tls.key()));
    let address = link.listener.local_addr().expect("an address");
    link.setup = setup_in_time(address, 10, (key, Duration::from_millis(300)));
    // Neither in TLS …
    let begun = Instant::now();
    let leased = link.lease(Wire::Http1).await;
    assert!(matches!(leased, Err(LeaseError::Connect(SendErrorKind::ConnectTimeout))), "{leased:?}");
    let _silent = link.listener.accept().await.expect("a connection");
    // … nor in HTTP/2 behind it.
    let (leased, _held) = tokio::join!(link.lease(Wire::Http2), link.accept());
    assert!(matches!(leased, Err(LeaseError::Connect(SendErrorKind::ConnectTimeout))), "{leased:?}");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(link.setup.cluster.connections.get(), 0);
}

#[tokio::test]
async fn a_retired_pool_gives_nothing_out_and_lets_what_is_in_use_end() {
    let link = Link::new(&Authority::new(), ListenerProtocol::Auto).await;
    let (leased, _server) =
        tokio::join!(link.lease(Wire::Http2), async { (greet(link.accept().await.expect("a handshake").0),) });
    let stream = leased.expect("a stream");
    link.setup.pool.retire();
    for wire in [Wire::Http1, Wire::Http2, Wire::Negotiated] {
        let refused = link.lease(wire).await;
        assert!(matches!(refused, Err(LeaseError::Retired)), "{refused:?}");
    }
    assert_eq!(link.setup.cluster.connections.get(), 1, "a request is on it");
    drop(stream);
    until(|| link.setup.cluster.connections.get() == 0).await;
}

#[tokio::test]
async fn who_waits_for_a_pool_that_is_retired_is_sent_elsewhere() {
    let link = Link::new(&Authority::new(), ListenerProtocol::Auto).await;
    let (waiting, ()) = tokio::join!(link.lease(Wire::Http2), async {
        until(|| link.setup.cluster.pending.get() == 1).await;
        link.setup.pool.retire();
    });
    assert!(matches!(waiting, Err(LeaseError::Retired)), "{waiting:?}");
}

struct NoNames;

impl Resolve for NoNames {
    fn resolve<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Answer, String>> {
        Box::pin(async { Err("no names here".to_owned()) })
    }
}

#[tokio::test]
async fn when_a_root_is_taken_out_old_pools_give_nothing_out_and_late_requests_go_on_under_the_new_trust() {
    let (old, new) = (Authority::new(), Authority::new());
    let both = old.pem() + &new.pem();
    let mut client = old.end("client", &both);
    let server = new.end("server", &both);
    let (listener, address) = listener().await;
    let registry = Registry::new(1, Metrics::new(), Box::new(NoNames));
    let config = client.config_towards(address);
    let before = registry.cluster(&config.clusters["c"], Some(&client.client()));
    registry.activate(&config, &[Arc::clone(&before)], Instant::now());
    let member = before.endpoints().members()[0].clone();

    // Our own certificate must stand up to the smaller bundle.
    client = new.end_after(&client, "client", &new.pem());
    let after = registry.cluster(&config.clusters["c"], Some(&client.client()));
    registry.activate(&config, &[Arc::clone(&after)], Instant::now());
    assert!(member.pool.is_retired());
    let newest = after.endpoints().members()[0].clone();
    assert!(!newest.pool.is_retired() && !Arc::ptr_eq(&member.pool, &newest.pool));

    let (leased, _held) = tokio::join!(before.lease(&member, Version::HTTP_11, Preference::Any), async {
        (server.accept(&listener).await.expect("a handshake"),)
    });
    let Ok(Lease::H1(connection)) = leased else { panic!("{leased:?}") };
    crate::codec::h1::Home::take_back(&*newest.pool.workers[0], connection);
    let again = after.lease(&newest, Version::HTTP_11, Preference::Any).await;
    assert!(matches!(again, Ok(Lease::H1(_))), "it is of the new pool: {again:?}");
}
