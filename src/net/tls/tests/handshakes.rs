//! What both sides settle.

use super::*;
use outrigger_config::model::TlsVersion;
use rustls::SupportedProtocolVersion;
use std::time::Duration;

fn world() -> (Side, Side) {
    let clock = Arc::new(TestClock::default());
    let root = Authority::root("Mesh CA");
    (Side::server(&clock, &root), Side::client(&clock, &root))
}

#[tokio::test]
async fn both_sides_know_each_other() {
    let (server, client) = world();
    let ((_, server), (_, client)) = agree(&server.build(), &client.build()).await;
    let id = |info: &TlsInfo| info.peer.as_ref().and_then(|peer| peer.identity.clone()).expect("an identity");
    assert_eq!((id(&server).as_str(), id(&client).as_str()), (CLIENT_ID, SERVER_ID));
    for (info, own) in [(&server, SERVER_ID), (&client, CLIENT_ID)] {
        assert_eq!(info.version, TlsVersion::V1_3);
        assert_eq!(info.cipher, "TLS13_AES_128_GCM_SHA256");
        assert_eq!(info.group, Some("X25519MLKEM768"));
        assert_eq!(info.alpn, Some(AlpnProtocol::Http2));
        assert!(!info.resumed && info.sni.is_none() && info.rehearsal.is_none());
        assert_eq!(info.local_identity.as_ref().expect("one").as_str(), own);
    }
    let peer = server.peer.expect("a peer");
    assert_eq!(peer.subject(), "CN=leaf, O=tests");
    assert_eq!(peer.sha256_hex().len(), 64);
    assert!(peer.not_after > std::time::SystemTime::now());
}

#[tokio::test]
async fn the_server_name_is_the_configured_one_then_the_hosts() {
    let (server, mut client) = world();
    let server = server.build();
    for (sni, host, expected) in [
        (Some("payments.shop.svc"), Some("host.example"), Some("payments.shop.svc")),
        (None, Some("Host.Example."), Some("host.example")),
        (None, None, None),
        (None, Some("10.0.0.1"), None),
    ] {
        if let Some(sni) = sni {
            client.change("tls: {", &format!("tls: {{ sni: {sni}, "));
        }
        let set = client.build();
        if let Some(sni) = sni {
            client.change(&format!("sni: {sni}, "), "");
        }
        let (ours, theirs, address) = connected().await;
        let cluster = Arc::clone(set.client("up").expect("a cluster"));
        let accept = server.server("inbound").expect("a listener").accept(theirs);
        let (accepted, connected) = tokio::join!(accept, cluster.connect(ours, host, address, Alpn::Http2));
        connected.expect("connected");
        assert_eq!(accepted.expect("accepted").1.sni.as_deref(), expected, "{sni:?} {host:?}");
    }
}

#[tokio::test]
async fn the_application_protocol_is_agreed_upon() {
    let (mut server, client) = world();
    let client = client.build();
    let auto = server.build();
    let http1 = server.change("routes: r\n    tls", "routes: r\n    protocol: http1\n    tls").build();
    let http2 = server.change("protocol: http1", "protocol: http2").build();
    use AlpnProtocol::{Http1, Http2};
    for (server, offered, expected) in [
        (&auto, Alpn::Either, Some(Http2)),
        (&auto, Alpn::Http1, Some(Http1)),
        (&auto, Alpn::Http2, Some(Http2)),
        (&auto, Alpn::None, None),
        (&http1, Alpn::Either, Some(Http1)),
        (&http2, Alpn::Either, Some(Http2)),
    ] {
        let (accepted, connected) = shake_as(server, &client, offered).await;
        assert_eq!(accepted.expect("accepted").1.alpn, expected);
        assert_eq!(connected.expect("connected").1.alpn, expected);
    }
    for (server, offered) in [(&http1, Alpn::Http2), (&http2, Alpn::Http1)] {
        let (accepted, connected) = shake_as(server, &client, offered).await;
        assert!(matches!(accepted, Err(HandshakeError::NoApplicationProtocol)), "{accepted:?}");
        let error = connected.expect_err("refused");
        assert_eq!(error.to_string(), "the peer ended the handshake: no_application_protocol");
    }
}

#[tokio::test]
async fn version_1_2_is_spoken_only_where_it_is_asked_for() {
    let (mut server, _) = world();
    let strict = server.build();
    let lenient = server.change("mode: strict", "mode: strict, minVersion: \"1.2\"").build();
    let root = Authority::root("Mesh CA");
    let shown = root.issue(&Leaf::svid(CLIENT_ID));
    let lenient_root = {
        server.put("bundle.pem", &root.pem).identity(&root.issue(&Leaf::svid(SERVER_ID)));
        server.rebuild(&lenient)
    };
    for (set, version, expected) in [
        (&lenient_root, &rustls::version::TLS12, Some(TlsVersion::V1_2)),
        (&lenient_root, &rustls::version::TLS13, Some(TlsVersion::V1_3)),
        (&strict, &rustls::version::TLS12, None),
    ] {
        let settled = stranger_with(set, Some(&shown), version).await;
        match expected {
            Some(expected) => assert_eq!(settled.expect("accepted").1.version, expected),
            None => assert!(matches!(settled, Err(HandshakeError::Incompatible(_))), "{settled:?}"),
        }
    }
}

async fn stranger_with(server: &TlsSet, shown: Option<&Issued>, version: &'static SupportedProtocolVersion) -> Settled {
    let (ours, theirs, _) = connected().await;
    let shown = shown.expect("a certificate");
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[version])
        .expect("suites")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous))
        .with_client_auth_cert(shown.certificates(), key(shown))
        .expect("they belong together");
    let session = rustls::ClientConnection::new(Arc::new(config), ServerName::try_from("a.example").expect("a name"));
    let session = Connection::Client(session.expect("a client"));
    let accept = server.server("inbound").expect("a listener").accept(theirs);
    tokio::join!(accept, finish(ours, session)).0
}

#[tokio::test]
async fn the_certificate_is_chosen_by_the_server_name() {
    let clock = Arc::new(TestClock::default());
    let root = Authority::root("Edge CA");
    let mut side = Side::new(&clock, SERVER);
    side.change(
        "tls: { mode: strict }",
        "tls: { mode: strict, certificates: [
            { certificate: /tls/a.pem, privateKey: /tls/a.key },
            { certificate: /tls/b.pem, privateKey: /tls/b.key },
            { certificate: /tls/w.pem, privateKey: /tls/w.key } ] }",
    );
    let identity = side.yaml.find("identity:").expect("there")..side.yaml.find("listeners:").expect("there");
    side.yaml.replace_range(identity, "");
    for (file, names) in [("a", vec!["a.example"]), ("b", vec!["b.example", "x.b.example"]), ("w", vec!["*.b.example"])]
    {
        let leaf = names.into_iter().fold(Leaf::new(), Leaf::dns);
        let issued = root.issue(&leaf);
        side.put(&format!("{file}.pem"), &issued.chain).put(&format!("{file}.key"), &issued.key);
    }
    let set = side.build();
    for (name, expected) in [
        ("a.example", "a.example"),
        ("B.example", "b.example"),
        ("x.b.example", "b.example"),
        ("y.b.example", "*.b.example"),
        ("z.y.b.example", "a.example"),
        ("unknown.example", "a.example"),
        ("10.0.0.1", "a.example"),
    ] {
        let (ours, theirs, _) = connected().await;
        let name = ServerName::try_from(name).expect("a name");
        let session = rustls::ClientConnection::new(lenient_client(None), name.clone()).expect("a client");
        let accept = set.server("inbound").expect("a listener").accept(theirs);
        let (accepted, finished) = tokio::join!(accept, finish(ours, Connection::Client(session)));
        assert!(accepted.expect("accepted").1.peer.is_none(), "nobody is asked for a certificate");
        let finished = finished.expect("connected");
        let shown = finished.session().peer_certificates().expect("some")[0].clone();
        let facts = super::super::certificate::Facts::of(&shown).expect("a certificate");
        assert_eq!(facts.dns_names().next(), Some(expected), "{name:?}");
    }
}

#[tokio::test]
async fn ordinary_clients_are_verified_against_ordinary_roots() {
    let (mut server, _) = world();
    let root = Authority::root("Partners");
    server.put("partners.pem", &root.pem);
    server.change("mode: strict", "mode: strict, clientCertificate: optional, clientTrustBundle: /tls/partners.pem");
    let server = server.build();
    let settled = stranger(&server, Some(&root.issue(&Leaf::new().dns("partner.example")))).await;
    let peer = settled.expect("accepted").1.peer.expect("a peer");
    assert_eq!((peer.identity.as_ref(), &*peer.dns_names), (None, &["partner.example".into()][..]));
    // A name in the mesh that an ordinary root vouches for is not believed.
    let settled = stranger(&server, Some(&root.issue(&Leaf::svid(CLIENT_ID)))).await;
    assert_eq!(settled.expect("accepted").1.peer.expect("a peer").identity, None);
    assert!(stranger(&server, None).await.expect("accepted").1.peer.is_none());
    let foreign = Authority::root("Others").issue(&Leaf::new().dns("partner.example"));
    let error = stranger(&server, Some(&foreign)).await.expect_err("refused");
    assert_eq!(error.code(), "unknown-issuer");
}

#[tokio::test]
async fn ordinary_servers_are_verified_by_name() {
    let clock = Arc::new(TestClock::default());
    let root = Authority::root("Public CA");
    let mut side = Side::new(&clock, CLIENT);
    let identity = side.yaml.find("identity:").expect("there")..side.yaml.find("listeners:").expect("there");
    side.yaml.replace_range(identity, "");
    side.change(
        "peerIdentities: [\"spiffe://mesh.local/ns/shop/sa/server\"]",
        "mode: simple, trustBundle: /tls/public.pem",
    );
    side.put("public.pem", &root.pem);
    let shown = root.issue(&Leaf::new().dns("api.example").dns("*.w.example"));
    let by_address = side.build();
    let error = impostor(&by_address, &shown).await.expect_err("refused");
    assert_eq!(error.code(), "wrong-name");
    assert!(error.to_string().contains("expected 127.0.0.1, got api.example or *.w.example"), "{error}");
    let by_sni = side.change("mode: simple", "mode: simple, sni: api.example").build();
    let info = impostor(&by_sni, &shown).await.expect("accepted").1;
    assert_eq!(info.peer.expect("a peer").identity, None);
    let by_subject =
        side.change("sni: api.example", "sni: api.example, subjectNames: [other.example, a.w.example]").build();
    impostor(&by_subject, &shown).await.expect("accepted");
    let by_other = side.change("a.w.example", "a.b.w.example").build();
    assert_eq!(impostor(&by_other, &shown).await.expect_err("refused").code(), "wrong-name");
}

#[tokio::test]
async fn what_is_not_tls_is_said_to_be_so() {
    use tokio::io::AsyncWriteExt as _;
    let (server, _) = world();
    let server = server.build();
    let listener = server.server("inbound").expect("a listener");
    let (mut caller, io, _) = connected().await;
    caller.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("sent");
    let error = listener.accept(io).await.expect_err("refused");
    assert_eq!(error.code(), "not-tls", "{error:?}");
    let (caller, io, _) = connected().await;
    drop(caller);
    assert!(matches!(listener.accept(io).await, Err(HandshakeError::Closed)));
}

#[tokio::test(start_paused = true)]
async fn handshakes_are_limited_in_time_and_number() {
    let (mut server, _) = world();
    let server = server.change("mode: strict", "mode: strict, handshakeTimeout: 3s, maxHandshakes: 2").build();
    let listener = server.server("inbound").expect("a listener");
    let start = tokio::time::Instant::now();
    let (first, a, _) = connected().await;
    let (second, b, _) = connected().await;
    let (_third, c, _) = connected().await;
    let (a, b) = (listener.accept(a), listener.accept(b));
    assert_eq!(listener.handshakes(), 2);
    assert!(matches!(listener.accept(c).await, Err(HandshakeError::Busy)));
    let (a, b) = tokio::join!(a, b);
    assert!(matches!((a, b), (Err(HandshakeError::Timeout), Err(HandshakeError::Timeout))));
    assert_eq!(start.elapsed().as_secs(), 3);
    assert_eq!(listener.handshakes(), 0);
    drop((first, second));
    let unpolled = listener.accept(connected().await.1);
    drop(unpolled);
    assert_eq!(listener.handshakes(), 0, "one that is dropped gives its place back");
    assert!(start.elapsed() < Duration::from_secs(4));
}

#[tokio::test]
async fn a_listener_that_hands_on_terminates_nothing() {
    let (mut server, _) = world();
    server.change(
        "tls: { mode: strict }",
        "tls: { mode: passthrough, passthrough: [{ hostnames: [\"*\"], backendRefs: [{ cluster: app }] }] }",
    );
    let set = server.build();
    let listener = set.server("inbound").expect("a listener");
    assert!(!listener.terminates());
    assert!(listener.accept(connected().await.1).await.is_err());
    assert!(
        server
            .change(
                "mode: passthrough, passthrough: [{ hostnames: [\"*\"], backendRefs: [{ cluster: app }] }]",
                "mode: off"
            )
            .build()
            .server("inbound")
            .is_none()
    );
}

#[tokio::test]
async fn nonsense_right_behind_the_handshake_ends_the_connection() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let clock = Arc::new(TestClock::default());
    let root = Authority::root("Mesh CA");
    let server = Side::server(&clock, &root).build();
    let (ours, theirs, _) = connected().await;
    let accept = tokio::spawn(server.server("inbound").expect("a listener").accept(theirs));
    let (_, mut tcp) = ours.into_tcp();
    let shown = root.issue(&Leaf::svid(CLIENT_ID));
    let name = ServerName::try_from("inbound.example").expect("a name");
    let mut session = rustls::ClientConnection::new(lenient_client(Some(&shown)), name).expect("a client");
    let mut bytes = Vec::new();
    session.write_tls(&mut bytes).expect("written");
    tcp.write_all(&bytes).await.expect("sent");
    while session.is_handshaking() {
        let mut flight = vec![0; 8192];
        let n = tcp.read(&mut flight).await.expect("received");
        session.read_tls(&mut &flight[..n]).expect("taken");
        session.process_new_packets().expect("fine");
    }
    bytes.clear();
    while session.wants_write() {
        session.write_tls(&mut bytes).expect("written");
    }
    bytes.extend_from_slice(&[23, 3, 3, 0, 32]);
    bytes.extend_from_slice(&[9; 32]);
    tcp.write_all(&bytes).await.expect("sent");
    let settled = accept.await.expect("no panic");
    match settled {
        // It came in one piece with the end of the handshake, or after it.
        Err(error) => assert_eq!(error.code(), "protocol-error"),
        Ok((mut io, _)) => {
            let error = io.read(&mut [0; 8]).await.expect_err("refused");
            assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
        }
    }
    let end = tokio::time::timeout(Duration::from_secs(5), tcp.read_to_end(&mut Vec::new())).await;
    let _ = end.expect("it is closed");
}
