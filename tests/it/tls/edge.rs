//! Listeners with certificates of their own: chosen by server name, callers with ordinary certificates or none.

use crate::support::pki::{Authority, Leaf};
use crate::support::{Config, H1Backend, Mesh, Proxy, TlsClient};

struct Edge {
    mesh: Mesh,
    backend: H1Backend,
    proxy: Proxy,
    serials: Vec<u64>,
}

impl Edge {
    /// Certificates for these lists of names, in order, and more TLS settings.
    async fn start(certificates: &[&[&str]], more: &str) -> Self {
        let mesh = Mesh::new();
        let mut list = Vec::new();
        let mut serials = Vec::new();
        for (number, names) in certificates.iter().enumerate() {
            let leaf = names.iter().fold(Leaf::new(), |leaf, name| leaf.dns(name));
            let credential = mesh.issuing.issue(&leaf);
            serials.push(credential.serial);
            let (certificate, key) = mesh.files.give(&format!("edge{number}"), &credential);
            list.push(format!("{{ certificate: {certificate}, privateKey: {key} }}"));
        }
        let backend = H1Backend::ok().await;
        let tls = format!("tls: {{ mode: strict, certificates: [{}]{more} }}", list.join(", "));
        let config = Config::to("http1", &[backend.addr]).listener(&tls).listener("clientCertHeader: set");
        let proxy = Proxy::start(&config).await;
        Self { mesh, backend, proxy, serials }
    }
}

#[tokio::test]
async fn the_certificate_follows_the_server_name() {
    let edge =
        Edge::start(&[&["first.example"], &["*.shop.example"], &["api.shop.example", "second.example"]], "").await;
    for (name, certificate) in [
        (Some("first.example"), 0),
        (Some("second.example"), 2),
        (Some("x.shop.example"), 1),
        (Some("api.shop.example"), 2),
        (Some("API.Shop.Example"), 2),
        (Some("a.b.shop.example"), 0),
        (Some("shop.example"), 0),
        (Some("unknown.example"), 0),
        (None, 0),
    ] {
        let client = TlsClient::anonymous();
        let client = name.map_or_else(|| client.clone(), |name| client.clone().sni(name));
        let (session, _) = client.served(edge.proxy.addr()).await;
        assert_eq!(session.peer_serial(), edge.serials[certificate], "{name:?}");
    }
}

#[tokio::test]
async fn callers_need_no_certificate_at_an_edge() {
    let edge = Edge::start(&[&["shop.example"]], "").await;
    TlsClient::anonymous().served(edge.proxy.addr()).await;
    // One that is not asked for does not count: nobody verified it.
    TlsClient::with(&edge.mesh.svid("shop/cart")).served(edge.proxy.addr()).await;
    for request in edge.backend.requests() {
        assert!(!request.head.has("x-forwarded-client-cert"), "{request:?}");
    }
}

#[tokio::test]
async fn callers_with_certificates_of_an_ordinary_authority() {
    let people = Authority::root("people");
    let files = crate::support::pki::Files::new();
    files.write("people.pem", &people.pem);
    let trust = format!(", clientTrustBundle: {}", files.quoted("people.pem"));
    let person = people.issue(&Leaf::new().dns("alice.example"));
    let nameless = people.issue(&Leaf::new());
    let server_only = people.issue(&Leaf::new().usages(&[rcgen::ExtendedKeyUsagePurpose::ServerAuth]));
    let expired = people.issue(&Leaf::new().dns("alice.example").expired());

    let required = Edge::start(&[&["shop.example"]], &format!(", clientCertificate: required{trust}")).await;
    let addr = required.proxy.addr();
    TlsClient::with(&person).served(addr).await;
    TlsClient::with(&nameless).served(addr).await;
    let requests = required.backend.requests();
    let header = requests[0].head.get("x-forwarded-client-cert").expect("the caller's certificate");
    assert!(header.contains("DNS=alice.example") && header.contains("Hash="), "{header}");
    TlsClient::anonymous().refused(addr).await;
    super::refused(&required.proxy, "no-certificate", 1.0).await;
    TlsClient::with(&required.mesh.svid("shop/cart")).refused(addr).await;
    super::refused(&required.proxy, "unknown-issuer", 1.0).await;
    TlsClient::with(&expired).refused(addr).await;
    super::refused(&required.proxy, "expired", 1.0).await;
    TlsClient::with(&server_only).refused(addr).await;
    super::refused(&required.proxy, "not-for-this-use", 1.0).await;
    assert_eq!(required.backend.requests().len(), 2);

    let optional = Edge::start(&[&["shop.example"]], &format!(", clientCertificate: optional{trust}")).await;
    let addr = optional.proxy.addr();
    TlsClient::anonymous().served(addr).await;
    TlsClient::with(&person).served(addr).await;
    TlsClient::with(&required.mesh.svid("shop/cart")).refused(addr).await;
    super::refused(&optional.proxy, "unknown-issuer", 1.0).await;
    let headers: Vec<_> = optional.backend.requests().iter().map(|r| r.head.has("x-forwarded-client-cert")).collect();
    assert_eq!(headers, [false, true]);
}

/// A certificate of an ordinary authority may carry a SPIFFE URI; it makes nobody a workload of the mesh.
#[tokio::test]
async fn an_ordinary_authority_gives_no_mesh_identity() {
    let mesh = Mesh::new();
    let people = Authority::root("people");
    mesh.files.write("people.pem", &people.pem);
    let (certificate, key) = mesh.files.give("edge", &mesh.issuing.issue(&Leaf::new().dns("shop.example")));
    let backend = H1Backend::ok().await;
    let tls = format!(
        "tls: {{ mode: strict, certificates: [{{ certificate: {certificate}, privateKey: {key} }}], \
         clientCertificate: required, clientTrustBundle: {} }}",
        mesh.files.quoted("people.pem")
    );
    let policy = format!(
        "authorization:\n  p:\n    default: deny\n    rules:\n      - name: workloads\n        action: allow\n        \
         from: [{{ identities: [\"{}\"] }}]",
        mesh.id("shop/cart")
    );
    let config = Config::to("http1", &[backend.addr])
        .top(&mesh.identity("shop/web"))
        .top(&policy)
        .listener(&tls)
        .listener("authorization: p");
    let proxy = Proxy::start(&config).await;
    let forged = people.issue(&mesh.leaf("shop/cart"));
    let (_, reply) = TlsClient::with(&forged).attempt(proxy.addr()).await.expect("an answer");
    assert_eq!((reply.status, reply.reason()), (403, Some("RBAC")));
    assert!(backend.requests().is_empty());
}
