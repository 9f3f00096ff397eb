//! Sessions are resumed, and their peers are verified again each time.

use super::pki::HOUR;
use super::*;
use rustls::HandshakeKind;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

struct World {
    clock: Arc<TestClock>,
    root: Authority,
    server: Side,
    client: Side,
}

fn world() -> World {
    let clock = Arc::new(TestClock::default());
    let root = Authority::root("Mesh CA");
    let (server, client) = (Side::server(&clock, &root), Side::client(&clock, &root));
    World { clock, root, server, client }
}

/// A connection that was used once, so that the client has got its ticket.
async fn used(server: &TlsSet, client: &TlsSet) -> (TlsInfo, TlsInfo) {
    let ((mut theirs, server), (mut ours, client)) = agree(server, client).await;
    exchange(&mut theirs, &mut ours).await;
    (server, client)
}

async fn exchange(server: &mut Io, client: &mut Io) {
    server.write_all(b"hello").await.expect("sent");
    server.flush().await.expect("sent");
    client.read_exact(&mut [0; 5]).await.expect("received");
}

/// A client that follows no rules and keeps its sessions.
struct Keeper(Arc<ClientConfig>);

impl Keeper {
    fn new(shown: &Issued, versions: &[&'static rustls::SupportedProtocolVersion]) -> Self {
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .expect("suites")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Credulous))
            .with_client_auth_cert(shown.certificates(), key(shown))
            .expect("they belong together");
        Self(Arc::new(config))
    }

    async fn connect(&self, server: &TlsSet) -> Settled {
        self.attempt(server).await.0
    }

    /// The server's outcome, and whether the client resumed a session.
    async fn attempt(&self, server: &TlsSet) -> (Settled, bool) {
        let (ours, theirs, _) = connected().await;
        let name = ServerName::try_from("inbound.example").expect("a name");
        let session = rustls::ClientConnection::new(Arc::clone(&self.0), name).expect("a client");
        let accept = server.server("inbound").expect("a listener").accept(theirs);
        let (settled, ours) = tokio::join!(accept, finish(ours, Connection::Client(session)));
        let kind = ours.as_ref().ok().and_then(|ours| ours.session().handshake_kind());
        let resumed = kind == Some(HandshakeKind::Resumed);
        match settled {
            Ok((mut io, info)) => {
                let mut ours = Io::tls(ours.expect("the client is content"));
                exchange(&mut io, &mut ours).await;
                (Ok((io, info)), resumed)
            }
            refused => (refused, resumed),
        }
    }

    /// The server refuses, and whether it was a session that was resumed.
    async fn refused(&self, server: &TlsSet) -> (&'static str, bool) {
        let (settled, resumed) = self.attempt(server).await;
        (settled.expect_err("refused").code(), resumed)
    }
}

#[tokio::test]
async fn a_session_is_resumed_and_its_peer_is_known() {
    let world = world();
    let (server, client) = (world.server.build(), world.client.build());
    let (first, _) = used(&server, &client).await;
    assert!(!first.resumed);
    for _ in 0..3 {
        let (server, client) = used(&server, &client).await;
        assert!(server.resumed && client.resumed);
        let id = |info: TlsInfo| info.peer.and_then(|peer| peer.identity.clone()).expect("an identity");
        assert_eq!((id(server).as_str(), id(client).as_str()), (CLIENT_ID, SERVER_ID));
    }
}

#[tokio::test]
async fn sessions_outlive_a_configuration_with_the_same_trust() {
    let mut world = world();
    let (server, client) = (world.server.build(), world.client.build());
    used(&server, &client).await;
    world.server.change("mode: strict", "mode: strict, handshakeTimeout: 3s");
    let (server, client) = (world.server.rebuild(&server), world.client.rebuild(&client));
    let (info, _) = used(&server, &client).await;
    assert!(info.resumed);
}

#[tokio::test]
async fn a_new_certificate_of_our_own_ends_sessions() {
    let mut world = world();
    let (server, client) = (world.server.build(), world.client.build());
    used(&server, &client).await;
    world.client.identity(&world.root.issue(&Leaf::svid(CLIENT_ID)));
    let client = world.client.rebuild(&client);
    assert!(!used(&server, &client).await.0.resumed, "the client's was renewed");
    assert!(used(&server, &client).await.0.resumed);
    world.server.identity(&world.root.issue(&Leaf::svid(SERVER_ID)));
    let server = world.server.rebuild(&server);
    assert!(!used(&server, &client).await.0.resumed, "the server's was renewed");
}

#[tokio::test]
async fn a_resumed_session_of_an_expired_client_is_refused() {
    for versions in [&[&rustls::version::TLS13], &[&rustls::version::TLS12]] {
        let mut world = world();
        let end = world.clock.now() + HOUR;
        let shown = world.root.issue(&Leaf::svid(CLIENT_ID).with(|leaf| leaf.not_after = end));
        let server = world.server.change("mode: strict", "mode: strict, minVersion: \"1.2\"").build();
        let keeper = Keeper::new(&shown, versions);
        assert!(!keeper.connect(&server).await.expect("accepted").1.resumed);
        assert!(keeper.connect(&server).await.expect("accepted").1.resumed);
        world.clock.advance(2 * HOUR);
        assert_eq!(keeper.refused(&server).await, ("expired", true));
    }
}

#[tokio::test]
async fn a_resumed_session_with_an_expired_server_is_refused_once() {
    let mut world = world();
    let end = world.clock.now() + HOUR;
    world.server.identity(&world.root.issue(&Leaf::svid(SERVER_ID).with(|leaf| leaf.not_after = end)));
    let (server, client) = (world.server.build(), world.client.build());
    used(&server, &client).await;
    used(&server, &client).await;
    world.clock.advance(2 * HOUR);
    // The same server, whose certificate is over: by resumption as by a full handshake.
    for _ in 0..2 {
        let (_, settled) = shake(&server, &client).await;
        assert_eq!(settled.expect_err("refused").code(), "expired");
    }
}

#[tokio::test]
async fn a_session_from_before_a_root_was_removed_is_refused() {
    for versions in [&[&rustls::version::TLS13], &[&rustls::version::TLS12]] {
        let mut world = world();
        let old = Authority::root("Old CA");
        let both = format!("{}{}", world.root.pem, old.pem);
        world.server.put("bundle.pem", &both).change("mode: strict", "mode: strict, minVersion: \"1.2\"");
        let server = world.server.build();
        let keeper = Keeper::new(&old.issue(&Leaf::svid(CLIENT_ID)), versions);
        keeper.connect(&server).await.expect("accepted");
        assert!(keeper.connect(&server).await.expect("accepted").1.resumed);
        world.server.put("bundle.pem", &world.root.pem.clone());
        let removed = world.server.rebuild(&server);
        // A connection that was accepted before the change resumes its session, and is refused all the same.
        assert_eq!(keeper.refused(&server).await, ("unknown-issuer", true));
        // The current one does not even know it.
        assert_eq!(keeper.refused(&removed).await, ("unknown-issuer", false));
    }
}

#[tokio::test]
async fn a_session_from_before_a_revocation_is_refused() {
    let mut world = world();
    world.server.put("crl.pem", &world.root.revocations(&[]));
    let server = world
        .server
        .change("trustBundle: /tls/bundle.pem", "trustBundle: /tls/bundle.pem\n  revocationLists: [/tls/crl.pem]");
    let server_set = server.build();
    let shown = world.root.issue(&Leaf::svid(CLIENT_ID));
    let keeper = Keeper::new(&shown, &[&rustls::version::TLS13]);
    keeper.connect(&server_set).await.expect("accepted");
    server.put("crl.pem", &world.root.revocations(&[shown.serial]));
    let revoked = server.rebuild(&server_set);
    assert_eq!(keeper.refused(&server_set).await, ("revoked", true));
    assert_eq!(keeper.refused(&revoked).await, ("revoked", false));
}

#[tokio::test]
async fn a_client_does_not_resume_with_a_server_it_no_longer_believes() {
    let mut world = world();
    let old = Authority::root("Old CA");
    world.server.identity(&old.issue(&Leaf::svid(SERVER_ID)));
    world.client.put("bundle.pem", &format!("{}{}", world.root.pem, old.pem));
    let client = world.client.build();
    world.server.put("bundle.pem", &format!("{}{}", world.root.pem, old.pem));
    let server = world.server.build();
    used(&server, &client).await;
    assert!(used(&server, &client).await.1.resumed);
    world.client.put("bundle.pem", &world.root.pem.clone());
    let removed = world.client.rebuild(&client);
    for set in [&client, &removed] {
        let (_, settled) = shake(&server, set).await;
        assert_eq!(settled.expect_err("refused").code(), "unknown-issuer");
    }
}
