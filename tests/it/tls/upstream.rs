//! TLS to endpoints: whom the proxy believes, what it shows and asks for, and what becomes of a request when the
//! endpoint is not who it should be.

use std::net::SocketAddr;

use rustls::{NamedGroup, ProtocolVersion};

use super::failed_upstream;
use crate::support::pki::{Authority, Credential, Leaf};
use crate::support::tls::TlsFront;
use crate::support::{Config, Conn, H1Backend, H2Backend, Mesh, PATIENCE, Proxy, TlsClient, TlsServer, h1_client};

/// A plaintext listener that leads over mutual TLS to these endpoints, which have to be `shop/payments`.
fn mutual(mesh: &Mesh, protocol: &str, endpoints: &[SocketAddr]) -> Config {
    Config::to(protocol, endpoints)
        .top(&mesh.identity("shop/web"))
        .upstream(&format!("tls: {{ peerIdentities: [\"{}\"] }}", mesh.id("shop/payments")))
}

#[tokio::test]
async fn mutual_tls_shows_the_identity_and_pins_the_other() {
    let mesh = Mesh::new();
    let backend = H1Backend::ok().await;
    let front = TlsServer::asking(&mesh.svid("shop/payments")).front(backend.addr).await;
    let proxy = Proxy::start(&mutual(&mesh, "http1", &[front.addr])).await;
    assert_eq!(h1_client::get(proxy.addr(), "/").await.status, 200);
    let session = front.sessions().remove(0);
    assert_eq!(session.peer_uris(), [mesh.id("shop/web")]);
    assert_eq!(session.version, ProtocolVersion::TLSv1_3);
    assert_eq!(session.alpn.as_deref(), Some("http/1.1"));
    assert_eq!(session.group, Some(NamedGroup::X25519MLKEM768));
    assert_eq!(session.sni, None, "an address is not sent as a name");
    assert!(proxy.metric("outrigger_upstream_tls_handshakes_total", &["cluster=\"c\""]).await >= 1.0);
}

#[tokio::test]
async fn http2_and_server_names_are_asked_for_as_configured() {
    let mesh = Mesh::new();
    let backend = H2Backend::ok().await;
    let front = TlsServer::asking(&mesh.svid("shop/payments")).front(backend.addr).await;
    let config = Config::to("http2", &[front.addr]).top(&mesh.identity("shop/web")).upstream(&format!(
        "tls: {{ mode: mutual, peerIdentities: [\"spiffe://mesh.local/ns/other/*\", \"{}\"], sni: payments.shop.svc }}",
        "spiffe://mesh.local/ns/shop/*"
    ));
    let proxy = Proxy::start(&config).await;
    assert_eq!(h1_client::get(proxy.addr(), "/").await.status, 200);
    let session = front.sessions().remove(0);
    assert_eq!((session.alpn.as_deref(), session.sni.as_deref()), (Some("h2"), Some("payments.shop.svc")));
}

#[tokio::test]
async fn an_auto_cluster_takes_the_protocol_that_tls_agreed_on() {
    let mesh = Mesh::new();
    let h2 = H2Backend::ok().await;
    let h1 = H1Backend::ok().await;
    let new = TlsServer::asking(&mesh.svid("shop/payments")).front(h2.addr).await;
    let old = TlsServer::asking(&mesh.svid("shop/payments")).alpn(&["http/1.1"]).front(h1.addr).await;
    for (front, alpn) in [(&new, "h2"), (&old, "http/1.1")] {
        let proxy = Proxy::start(&mutual(&mesh, "auto", &[front.addr])).await;
        let client = crate::support::H2Client::connect(proxy.addr()).await;
        assert_eq!(client.get("/").await.status, 200, "{alpn}");
        assert_eq!(front.sessions()[0].alpn.as_deref(), Some(alpn));
    }
}

/// Each wrong endpoint, and why it is refused. Nothing of a request may reach it.
#[tokio::test]
async fn each_wrong_endpoint_is_refused_for_its_own_reason() {
    let mesh = Mesh::new();
    let right = || mesh.leaf("shop/payments");
    let issue = |leaf: &Leaf| mesh.issuing.issue(leaf);
    let revoked = issue(&right());
    mesh.files.write("issuing.crl", mesh.issuing.revocations(&[revoked.serial]));
    mesh.files.write("root.crl", mesh.root.revocations(&[]));
    let identity = format!(
        "{}, revocationLists: [{}, {}] }}",
        mesh.identity_open("shop/web"),
        mesh.files.quoted("issuing.crl"),
        mesh.files.quoted("root.crl")
    );
    let foreign = Authority::root("mesh.local root");
    let stranger = Mesh::named("stranger.example");
    let only_clients = [rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let cases: Vec<(&str, Credential, &str)> = vec![
        ("another workload", mesh.svid("shop/cart"), "wrong-identity"),
        ("a longer name", mesh.svid("shop/payments-v2"), "wrong-identity"),
        ("another namespace", mesh.svid("other/payments"), "wrong-identity"),
        ("expired", issue(&right().expired()), "expired"),
        ("not yet valid", issue(&right().future()), "not-yet-valid"),
        ("revoked", revoked, "revoked"),
        ("two identities", issue(&right().uri(&mesh.id("shop/cart"))), "several-identities"),
        ("no identity", issue(&Leaf::new().dns("payments.shop.svc")), "no-identity"),
        (
            "an invalid identity",
            issue(&Leaf::new().uri("spiffe://mesh.local//ns/shop/sa/payments")),
            "invalid-identity",
        ),
        ("signed by itself", right().self_signed(), "self-signed"),
        ("a foreign authority", foreign.issue(&right()), "unknown-issuer"),
        ("another trust domain", stranger.svid("shop/payments"), "unknown-trust-domain"),
        ("for clients only", issue(&right().usages(&only_clients)), "not-for-this-use"),
        ("an authority", issue(&right().authority()), "certificate-authority"),
    ];
    for (name, credential, reason) in cases {
        println!("{name}");
        let backend = H1Backend::ok().await;
        let front = TlsServer::asking(&credential).front(backend.addr).await;
        let config = Config::to("http1", &[front.addr])
            .top(&identity)
            .upstream(&format!("tls: {{ peerIdentities: [\"{}\"] }}", mesh.id("shop/payments")));
        let proxy = Proxy::start(&config).await;
        let reply = h1_client::get(proxy.addr(), "/").await;
        assert_eq!((reply.status, reply.reason()), (503, Some("UF")), "{name}: {}", reply.text());
        assert!(!reply.text().contains("spiffe://"), "{name}: the caller learns no names: {}", reply.text());
        failed_upstream(&proxy, reason).await;
        assert!(backend.requests().is_empty(), "{name}");
        if reason == "wrong-identity" {
            proxy.logged(&mesh.id("shop/payments")).await;
        }
    }
}

/// Addresses of pods are reused: an endpoint that was right may be somebody else after its restart.
#[tokio::test]
async fn another_workload_on_a_reused_address_is_refused() {
    let mesh = Mesh::new();
    let backend = H1Backend::start(|mut conn: Conn| async move {
        if conn.request().await.is_some() {
            conn.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok").await.ok();
        }
    })
    .await;
    let front = TlsServer::asking(&mesh.svid("shop/payments")).front(backend.addr).await;
    let proxy = Proxy::start(&mutual(&mesh, "http1", &[front.addr])).await;
    assert_eq!(h1_client::get(proxy.addr(), "/").await.status, 200);
    front.change(TlsServer::asking(&mesh.svid("shop/cart")));
    assert_eq!(h1_client::get(proxy.addr(), "/").await.reason(), Some("UF"));
    failed_upstream(&proxy, "wrong-identity").await;
    assert_eq!(backend.requests().len(), 1);
    front.change(TlsServer::asking(&mesh.svid("shop/payments")));
    assert_eq!(h1_client::get(proxy.addr(), "/").await.status, 200);
}

/// The expectation is part of what a connection was made under: one that met another is not used.
#[tokio::test]
async fn an_edit_of_the_expected_identity_acts_on_the_next_request() {
    let mesh = Mesh::new();
    let identity = mesh.identity("shop/web");
    let backend = H2Backend::ok().await;
    let front = TlsServer::asking(&mesh.svid("shop/payments")).front(backend.addr).await;
    let config = |expected: &str| {
        Config::to("http2", &[front.addr])
            .top(&identity)
            .upstream(&format!("tls: {{ peerIdentities: [\"{}\"] }}", mesh.id(expected)))
    };
    let proxy = Proxy::start(&config("shop/payments")).await;
    let mut client = crate::support::H1Client::connect(proxy.addr()).await;
    assert_eq!(client.get("/").await.status, 200);
    for (expected, status) in [("shop/cart", 503), ("shop/payments", 200)] {
        proxy.replace_config(&config(expected));
        let start = std::time::Instant::now();
        while client.get("/").await.status != status {
            assert!(start.elapsed() < PATIENCE, "{expected} is expected from now on");
            tokio::time::sleep(crate::support::ms(5)).await;
        }
        for _ in 0..4 {
            assert_eq!(client.get("/").await.status, status, "{expected}");
        }
    }
}

/// A failed handshake sent nothing, so any method may go to another endpoint.
#[tokio::test]
async fn a_request_refused_by_identity_goes_to_the_right_endpoint() {
    let mesh = Mesh::new();
    let (right, wrong) = (H1Backend::ok().await, H1Backend::ok().await);
    let right_front = TlsServer::asking(&mesh.svid("shop/payments")).front(right.addr).await;
    let wrong_front = TlsServer::asking(&mesh.svid("shop/cart")).front(wrong.addr).await;
    let config =
        mutual(&mesh, "http1", &[right_front.addr, wrong_front.addr]).upstream("loadBalancing: { policy: roundRobin }");
    let proxy = Proxy::start(&config).await;
    for _ in 0..10 {
        let reply =
            h1_client::exchange(proxy.addr(), "POST / HTTP/1.1\r\nhost: a.example\r\ncontent-length: 2\r\n\r\nhi");
        assert_eq!(reply.await.status, 200);
    }
    assert_eq!(right.requests().len(), 10);
    assert!(wrong.requests().is_empty() && !wrong_front.seen().is_empty(), "it was tried and refused");
}

#[tokio::test]
async fn an_endpoint_that_speaks_plaintext_is_an_error_not_a_fallback() {
    let mesh = Mesh::new();
    let backend = H1Backend::ok().await;
    let proxy = Proxy::start(&mutual(&mesh, "http1", &[backend.addr])).await;
    let reply = h1_client::get(proxy.addr(), "/").await;
    assert_eq!((reply.status, reply.reason()), (503, Some("UF")));
    assert!(backend.requests().is_empty(), "nothing is sent in plaintext");
}

#[tokio::test]
async fn an_endpoint_that_never_answers_the_handshake_is_given_up() {
    let mesh = Mesh::new();
    let backend = H1Backend::start(|mut conn: Conn| async move {
        conn.closed().await;
    })
    .await;
    let proxy = Proxy::start(&mutual(&mesh, "http1", &[backend.addr])).await;
    let reply = h1_client::get(proxy.addr(), "/").await;
    assert_eq!(reply.status, 503, "{}", reply.text());
    backend.until(PATIENCE, "the connection given up", |r| r.iter().all(|r| r.end.is_some())).await;
}

/// Whoever is refused after the handshake (TLS 1.3 lets a server judge late) gave no answer and did nothing.
#[tokio::test]
async fn a_server_that_does_not_believe_us_gives_an_explained_error() {
    let mesh = Mesh::new();
    let stranger = Mesh::named("stranger.example");
    let behind = Proxy::start(
        &Config::to("http1", &[H1Backend::ok().await.addr])
            .top(&stranger.identity("shop/payments"))
            .listener("tls: { mode: strict }"),
    )
    .await;
    mesh.files.write("stranger.pem", &stranger.root.pem);
    let identity = format!(
        "{}, federatedBundles: {{ stranger.example: {} }} }}",
        mesh.identity_open("shop/web"),
        mesh.files.quoted("stranger.pem")
    );
    for protocol in ["http1", "http2"] {
        let config = Config::to(protocol, &[behind.addr()])
            .top(&identity)
            .upstream(&format!("tls: {{ peerIdentities: [\"{}\"] }}", stranger.id("shop/payments")));
        let proxy = Proxy::start(&config).await;
        let reply = h1_client::get(proxy.addr(), "/").await;
        assert!([502, 503].contains(&reply.status), "{protocol}: {} {:?}", reply.status, reply.reason());
    }
}

#[tokio::test]
async fn simple_tls_believes_names_under_given_roots() {
    let web = Authority::root("web");
    let files = crate::support::pki::Files::new();
    files.write("web.pem", &web.pem);
    let backend = H1Backend::ok().await;
    let server = |leaf: Leaf| TlsServer::asking(&web.issue(&leaf));
    let front = server(Leaf::new().dns("db.example")).front(backend.addr).await;
    let start = async |tls: &str| {
        let tls = format!("tls: {{ mode: simple, trustBundle: {}{tls} }}", files.quoted("web.pem"));
        Proxy::start(&Config::to("http1", &[front.addr]).upstream(&tls)).await
    };
    let ask = async |proxy: &Proxy| h1_client::get(proxy.addr(), "/").await.status;

    let by_sni = start(", sni: db.example").await;
    assert_eq!(ask(&by_sni).await, 200);
    assert_eq!(front.sessions()[0].sni.as_deref(), Some("db.example"));
    assert!(front.sessions()[0].peer.is_empty(), "there is nothing to show");
    let by_list = start(", sni: other.example, subjectNames: [x.example, db.example]").await;
    assert_eq!(ask(&by_list).await, 200);
    let wrong = start(", sni: other.example").await;
    assert_eq!(ask(&wrong).await, 503);
    failed_upstream(&wrong, "wrong-name").await;
    let address = start("").await;
    assert_eq!(ask(&address).await, 503, "the certificate does not name the address");

    front.change(server(Leaf::new().address([127, 0, 0, 1].into())));
    let address = start("").await;
    assert_eq!(ask(&address).await, 200);
    front.change(server(Leaf::new().dns("db.example").expired()));
    let expired = start(", sni: db.example").await;
    assert_eq!(ask(&expired).await, 503);
    failed_upstream(&expired, "expired").await;
    front.change(TlsServer::asking(&Authority::root("web").issue(&Leaf::new().dns("db.example"))));
    let foreign = start(", sni: db.example").await;
    assert_eq!(ask(&foreign).await, 503);
    failed_upstream(&foreign, "unknown-issuer").await;
}

#[tokio::test]
async fn simple_tls_shows_a_certificate_where_one_is_configured() {
    let web = Authority::root("web");
    let files = crate::support::pki::Files::new();
    files.write("web.pem", &web.pem);
    let own = web.issue(&Leaf::new().dns("client.example"));
    let (certificate, key) = files.give("own", &own);
    let backend = H1Backend::ok().await;
    let front = TlsServer::asking(&web.issue(&Leaf::new().dns("db.example"))).front(backend.addr).await;
    let tls = format!(
        "tls: {{ mode: simple, trustBundle: {}, sni: db.example, certificate: {certificate}, privateKey: {key} }}",
        files.quoted("web.pem")
    );
    let proxy = Proxy::start(&Config::to("http1", &[front.addr]).upstream(&tls)).await;
    assert_eq!(h1_client::get(proxy.addr(), "/").await.status, 200);
    assert_eq!(front.sessions()[0].peer_names(), ["client.example"]);
}

#[tokio::test]
async fn tls_1_2_endpoints_are_taken_only_where_it_is_asked_for() {
    let mesh = Mesh::new();
    let backend = H1Backend::ok().await;
    let old = TlsServer::build(&mesh.svid("shop/payments"), &[&rustls::version::TLS12]);
    let front: TlsFront = old.front(backend.addr).await;
    let config = |version: &str| {
        Config::to("http1", &[front.addr]).top(&mesh.identity("shop/web")).upstream(&format!(
            "tls: {{ peerIdentities: [\"{}\"], minVersion: \"{version}\" }}",
            mesh.id("shop/payments")
        ))
    };
    let strict = Proxy::start(&config("1.3")).await;
    assert_eq!(h1_client::get(strict.addr(), "/").await.reason(), Some("UF"));
    let lenient = Proxy::start(&config("1.2")).await;
    assert_eq!(h1_client::get(lenient.addr(), "/").await.status, 200);
    assert_eq!(front.sessions()[0].version, ProtocolVersion::TLSv1_2);
}

/// A body that ends with its connection ends properly only with `close_notify`; anybody can send a FIN.
#[tokio::test]
async fn a_response_cut_off_without_close_notify_is_an_error_to_the_caller() {
    let mesh = Mesh::new();
    let backend = H1Backend::start(|mut conn: Conn| async move {
        if conn.request().await.is_some() {
            conn.send("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhalf of the").await.ok();
        }
    })
    .await;
    let payments = mesh.svid("shop/payments");
    let proper = TlsServer::asking(&payments).front(backend.addr).await;
    let abrupt = TlsServer::asking(&payments).abrupt().front(backend.addr).await;

    let proxy = Proxy::start(&mutual(&mesh, "http1", &[proper.addr])).await;
    assert_eq!(h1_client::get(proxy.addr(), "/").await.text(), "half of the", "announced, it is whole");

    let proxy = Proxy::start(&mutual(&mesh, "http1", &[abrupt.addr]).listener("tls: { mode: permissive }")).await;
    let plain = crate::support::H1Client::connect(proxy.addr()).await;
    let secure = TlsClient::with(&mesh.svid("shop/cart")).h1(proxy.addr()).await;
    for (what, mut client) in [("plaintext", plain), ("TLS", secure)] {
        client.send("GET / HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
        let reply = crate::support::within(PATIENCE, "an end", client.wire.response("GET")).await;
        assert!(reply.as_ref().is_err() || reply.as_ref().is_ok_and(|r| r.status == 502), "{what}: {reply:?}");
    }
    let h2 = crate::support::H2Client::connect(proxy.addr()).await;
    let reply = h2.fetch(crate::support::h2_client::get("/")).await;
    assert!(reply.as_ref().is_err() || reply.as_ref().is_ok_and(|r| r.status == 502), "HTTP/2: {reply:?}");
}
