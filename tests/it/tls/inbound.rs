//! What a listener accepts: strict, permissive and off, versions, protocols, key agreement, resumption.

use rustls::{NamedGroup, ProtocolVersion};

use super::Inbound;
use crate::support::pki::KeyKind;
use crate::support::{
    Config, Conn, H1Backend, H1Client, H2Client, Mesh, PATIENCE, Proxy, TlsClient, h1_client, response, within,
};

#[tokio::test]
async fn strict_serves_a_workload_and_nothing_in_plaintext() {
    let inbound = Inbound::with("mode: strict").await;
    let addr = inbound.proxy.addr();
    let client = TlsClient::with(&inbound.mesh.svid("shop/cart"));
    let (session, reply) = client.served(addr).await;
    assert_eq!(reply.text(), "ok");
    assert_eq!(session.version, ProtocolVersion::TLSv1_3);
    assert_eq!(session.peer_uris(), [inbound.mesh.id("shop/web")], "the proxy shows who it is");

    for request in ["GET / HTTP/1.1\r\nhost: a.example\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut plain = H1Client::connect(addr).await;
        plain.send(request).await;
        let said = plain.rest(PATIENCE).await;
        assert!(!said.windows(6).any(|w| w == b"HTTP/1"), "no answer in plaintext: {}", said.escape_ascii());
    }
    inbound.refused("plaintext", 2.0).await;
    assert_eq!(inbound.backend.requests().len(), 1, "only the workload's request was passed on");
}

#[tokio::test]
async fn permissive_serves_tls_and_plaintext_of_both_versions() {
    let inbound = Inbound::with("mode: permissive").await;
    let addr = inbound.proxy.addr();
    let client = TlsClient::with(&inbound.mesh.svid("shop/cart"));
    assert_eq!(client.served(addr).await.1.text(), "ok");
    assert_eq!(client.h2(addr).await.get("/").await.status, 200);
    assert_eq!(h1_client::get(addr, "/").await.text(), "ok");
    assert_eq!(H2Client::connect(addr).await.get("/").await.status, 200);
    assert_eq!(inbound.backend.requests().len(), 4);
    // What begins as TLS is held to the rules of TLS.
    TlsClient::anonymous().refused(addr).await;
    inbound.refused("no-certificate", 1.0).await;
    assert_eq!(inbound.backend.requests().len(), 4);
}

#[tokio::test]
async fn off_serves_plaintext_and_no_tls() {
    let inbound = Inbound::with("mode: off").await;
    assert_eq!(h1_client::get(inbound.proxy.addr(), "/").await.status, 200);
    let client = TlsClient::with(&inbound.mesh.svid("shop/cart"));
    client.refused(inbound.proxy.addr()).await;
    assert_eq!(inbound.backend.requests().len(), 1);
}

#[tokio::test]
async fn every_sound_kind_of_key_is_served() {
    let inbound = Inbound::with("mode: strict").await;
    for key in [KeyKind::P256, KeyKind::P384, KeyKind::Ed25519, KeyKind::Rsa2048] {
        let leaf = inbound.mesh.leaf("shop/cart").dns("cart.shop.svc").key(key);
        TlsClient::with(&inbound.mesh.issuing.issue(&leaf)).served(inbound.proxy.addr()).await;
    }
    // A certificate directly below the root, without an intermediate.
    let direct = inbound.mesh.root.issue(&inbound.mesh.leaf("shop/cart"));
    TlsClient::with(&direct).served(inbound.proxy.addr()).await;
    // The deepest path that the rules of SPIFFE allow: 2048 bytes.
    let start = format!("spiffe://{}/", inbound.mesh.domain);
    let long = format!("{start}{}", "x".repeat(2048 - start.len()));
    let long = inbound.mesh.issuing.issue(&crate::support::pki::Leaf::new().uri(&long));
    TlsClient::with(&long).served(inbound.proxy.addr()).await;
}

#[tokio::test]
async fn a_federated_domain_is_served_and_only_under_its_own_roots() {
    let mesh = Mesh::new();
    let partner = Mesh::named("partner.example");
    mesh.files.write("partner.pem", &partner.root.pem);
    let identity = format!(
        "{}, federatedBundles: {{ partner.example: {} }} }}",
        mesh.identity_open("shop/web"),
        mesh.files.quoted("partner.pem")
    );
    let inbound = Inbound::of(mesh, &identity, "mode: strict").await;
    let addr = inbound.proxy.addr();
    TlsClient::with(&inbound.mesh.svid("shop/cart")).served(addr).await;
    TlsClient::with(&partner.svid("shop/cart")).served(addr).await;
    // Each domain's authority speaks for its own workloads only.
    let ours_by_them = partner.issuing.issue(&inbound.mesh.leaf("shop/cart"));
    let theirs_by_us = inbound.mesh.issuing.issue(&partner.leaf("shop/cart"));
    for (count, forged) in [ours_by_them, theirs_by_us].iter().enumerate() {
        TlsClient::with(forged).refused(addr).await;
        inbound.refused("unknown-issuer", count as f64 + 1.0).await;
    }
    assert_eq!(inbound.backend.requests().len(), 2);
}

#[tokio::test]
async fn the_protocol_follows_alpn() {
    let inbound = Inbound::with("mode: strict").await;
    let addr = inbound.proxy.addr();
    let client = TlsClient::with(&inbound.mesh.svid("shop/cart"));
    for (offered, chosen) in [
        (&["h2", "http/1.1"][..], Some("h2")),
        (&["http/1.1", "h2"], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&["spdy/3", "http/1.1"], Some("http/1.1")),
        (&[], None),
    ] {
        let dialled = client.clone().alpn(offered).dial(addr).await.expect("a connection");
        assert_eq!(dialled.session.alpn.as_deref(), chosen, "{offered:?}");
        let status = match chosen {
            Some("h2") => dialled.h2().await.get("/").await.status,
            _ => dialled.h1().await.get("/").await.status,
        };
        assert_eq!(status, 200, "{offered:?}");
    }
    let error = client.clone().alpn(&["imap"]).refused(addr).await;
    assert!(error.to_lowercase().contains("noapplicationprotocol"), "{error}");
    assert_eq!(inbound.backend.requests().len(), 5);
}

#[tokio::test]
async fn tls_1_2_is_served_only_where_it_is_asked_for() {
    let inbound = Inbound::with("mode: strict").await;
    let credential = inbound.mesh.svid("shop/cart");
    let old = TlsClient::build(Some(&credential), &[&rustls::version::TLS12]);
    let error = old.refused(inbound.proxy.addr()).await;
    assert!(error.contains("ProtocolVersion"), "{error}");
    inbound.refused("incompatible", 1.0).await;

    let inbound = Inbound::with("mode: strict, minVersion: \"1.2\"").await;
    let credential = inbound.mesh.svid("shop/cart");
    let old = TlsClient::build(Some(&credential), &[&rustls::version::TLS12]);
    assert_eq!(old.served(inbound.proxy.addr()).await.0.version, ProtocolVersion::TLSv1_2);
    let both = TlsClient::with(&credential);
    assert_eq!(both.served(inbound.proxy.addr()).await.0.version, ProtocolVersion::TLSv1_3);
    let anonymous = TlsClient::build(None, &[&rustls::version::TLS12]);
    anonymous.refused(inbound.proxy.addr()).await;
    inbound.refused("no-certificate", 1.0).await;
}

#[tokio::test]
async fn the_key_is_agreed_on_with_a_hybrid_that_resists_quantum_computers() {
    let inbound = Inbound::with("mode: strict").await;
    let credential = inbound.mesh.svid("shop/cart");
    let addr = inbound.proxy.addr();
    for offered in
        [&[NamedGroup::X25519, NamedGroup::secp256r1, NamedGroup::X25519MLKEM768][..], &[NamedGroup::X25519MLKEM768]]
    {
        let (session, _) = TlsClient::groups(&credential, offered).served(addr).await;
        assert_eq!(session.group, Some(NamedGroup::X25519MLKEM768), "{offered:?}");
    }
    for group in [NamedGroup::X25519, NamedGroup::secp256r1, NamedGroup::secp384r1] {
        let (session, _) = TlsClient::groups(&credential, &[group]).served(addr).await;
        assert_eq!(session.group, Some(group), "older clients are served");
    }
}

/// Resumption saves the verification of certificates, so whoever resumes has to be verified otherwise. Whether the
/// proxy offers it is its choice; that a resumed caller keeps its identity is not.
#[tokio::test]
async fn a_resumed_session_has_the_identity_of_the_first() {
    let mesh = Mesh::new();
    let identity = mesh.identity("shop/web");
    let backend = H1Backend::ok().await;
    let config = Config::to("http1", &[backend.addr])
        .top(&identity)
        .listener("tls: { mode: strict }")
        .listener("clientCertHeader: set");
    let proxy = Proxy::start(&config).await;
    let client = TlsClient::with(&mesh.svid("shop/cart")).resuming();
    for _ in 0..4 {
        let (session, _) = client.served(proxy.addr()).await;
        assert_eq!(session.version, ProtocolVersion::TLSv1_3);
    }
    let requests = backend.requests();
    assert_eq!(requests.len(), 4);
    for request in requests {
        let header = request.head.get("x-forwarded-client-cert").expect("the caller's certificate");
        assert!(header.contains(&mesh.id("shop/cart")), "{header}");
    }
}

#[tokio::test]
async fn early_data_is_never_taken() {
    let inbound = Inbound::with("mode: strict").await;
    let client = TlsClient::with(&inbound.mesh.svid("shop/cart")).resuming().early_data();
    client.served(inbound.proxy.addr()).await;
    let dialled = client.dial(inbound.proxy.addr()).await.expect("a connection");
    let (_, connection) = dialled.stream.get_ref();
    assert!(!connection.is_early_data_accepted(), "a request that can be replayed");
}

/// A listener that turns strict serves no more plaintext, also not on connections that are open; what is under way
/// ends well, and who speaks TLS notices nothing.
#[tokio::test]
async fn a_listener_that_turns_strict_lets_plaintext_go() {
    let mesh = Mesh::new();
    let identity = mesh.identity("shop/web");
    let (go, gate) = tokio::sync::watch::channel(false);
    let backend = H1Backend::start(move |mut conn: Conn| {
        let mut gate = gate.clone();
        async move {
            while let Some(request) = conn.request().await {
                if request.target == "/late" {
                    gate.wait_for(|open| *open).await.ok();
                }
                conn.send(response(200, &[], b"ok")).await.ok();
            }
        }
    })
    .await;
    let config =
        |mode: &str| Config::to("http1", &[backend.addr]).top(&identity).listener(&format!("tls: {{ mode: {mode} }}"));
    let proxy = Proxy::start(&config("permissive")).await;
    let client = TlsClient::with(&mesh.svid("shop/cart"));
    let mut secure = client.h1(proxy.addr()).await;
    let secure_h2 = client.h2(proxy.addr()).await;
    let mut idle = H1Client::connect(proxy.addr()).await;
    let plain_h2 = H2Client::connect(proxy.addr()).await;
    let mut busy = H1Client::connect(proxy.addr()).await;
    assert_eq!(secure.get("/").await.status, 200);
    assert_eq!(secure_h2.get("/").await.status, 200);
    assert_eq!(idle.get("/").await.status, 200);
    assert_eq!(plain_h2.get("/").await.status, 200);
    busy.send("GET /late HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
    backend
        .until(PATIENCE, "the late request", |r| r.iter().any(|r| r.requests.iter().any(|r| r.target == "/late")))
        .await;

    proxy.replace_config(&config("strict"));
    let patience = 4 * PATIENCE;
    idle.rest(patience).await;
    within(patience, "the end of the plaintext connection", plain_h2.driver).await.expect("no panic").ok();
    go.send_replace(true);
    assert_eq!(busy.response().await.status, 200, "what was under way ends well");
    assert!(!busy.rest(patience).await.starts_with(b"HTTP"), "and is the last");
    assert_eq!(secure.get("/").await.status, 200, "TLS stays");
    assert_eq!(secure_h2.get("/").await.status, 200, "TLS stays");
    let mut fresh = H1Client::connect(proxy.addr()).await;
    fresh.send("GET / HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
    assert!(fresh.rest(PATIENCE).await.is_empty());
}
