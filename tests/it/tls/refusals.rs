//! Each kind of wrong certificate is refused, and for its own reason.

use rcgen::{ExtendedKeyUsagePurpose, KeyUsagePurpose};

use crate::support::pki::{Authority, Credential, Leaf};
use crate::support::{Mesh, openssl};

/// A wrong certificate.
pub(super) struct Wrong {
    /// What is wrong.
    pub(super) name: &'static str,
    /// What a caller shows; `None`: nothing.
    pub(super) credential: Option<Credential>,
    /// The reason in metrics and log.
    pub(super) reason: &'static str,
}

/// A mesh whose proxy knows a revocation list, and every wrong certificate that we can think of.
pub(super) async fn all() -> (Mesh, String, Vec<Wrong>) {
    let mesh = Mesh::new();
    let partner = Mesh::named("partner.example");
    mesh.files.write("partner.pem", &partner.root.pem);
    let right = || mesh.leaf("shop/cart");
    let revoked = mesh.issuing.issue(&right());
    mesh.files.write("issuing.crl", mesh.issuing.revocations(&[revoked.serial]));
    mesh.files.write("root.crl", mesh.root.revocations(&[]));
    let identity = format!(
        "{}, revocationLists: [{}, {}], federatedBundles: {{ partner.example: {} }} }}",
        mesh.identity_open("shop/web"),
        mesh.files.quoted("issuing.crl"),
        mesh.files.quoted("root.crl"),
        mesh.files.quoted("partner.pem"),
    );

    let by_us = |leaf: &Leaf| Some(mesh.issuing.issue(leaf));
    let foreign = Authority::root(&format!("{} root", mesh.domain));
    let mut headless = mesh.issuing.issue(&right());
    headless.chain = leaf_only(&headless.chain);
    let stranger = Mesh::named("stranger.example");
    let id = mesh.id("shop/cart");
    let only_server = [ExtendedKeyUsagePurpose::ServerAuth];
    let only_code = [ExtendedKeyUsagePurpose::CodeSigning];

    let mut all = Vec::new();
    let mut add = |name, credential, reason| all.push(Wrong { name, credential, reason });
    add("no certificate", None, "no-certificate");
    add("expired", by_us(&right().expired()), "expired");
    add("not yet valid", by_us(&right().future()), "not-yet-valid");
    add("revoked", Some(revoked), "revoked");
    add("two identities", by_us(&right().uri(&mesh.id("shop/admin"))), "several-identities");
    add("the same identity twice", by_us(&right().uri(&id)), "several-identities");
    add("an identity and another URI", by_us(&right().uri("https://shop.example/")), "several-identities");
    add("no URI", by_us(&Leaf::new().dns("cart.shop.svc")), "no-identity");
    add("no name at all", by_us(&Leaf::new()), "no-identity");
    add("a URI of another scheme", by_us(&Leaf::new().uri("https://mesh.local/ns/shop/sa/cart")), "invalid-identity");
    for (name, uri) in [
        ("an empty segment", "spiffe://mesh.local//ns/shop/sa/cart"),
        ("a dot segment", "spiffe://mesh.local/ns/../sa/cart"),
        ("a trailing slash", "spiffe://mesh.local/ns/shop/sa/cart/"),
        ("an encoded byte", "spiffe://mesh.local/ns/shop/sa/c%61rt"),
        ("a port", "spiffe://mesh.local:443/ns/shop/sa/cart"),
        ("user information", "spiffe://partner.example@mesh.local/ns/shop/sa/cart"),
        ("upper case in the trust domain", "spiffe://MESH.local/ns/shop/sa/cart"),
        ("a query", "spiffe://mesh.local/ns/shop/sa/cart?admin"),
        ("a scheme in upper case", "SPIFFE://mesh.local/ns/shop/sa/cart"),
        ("no path, which is an authority's identity", "spiffe://mesh.local"),
    ] {
        add(name, by_us(&Leaf::new().uri(uri)), "invalid-identity");
    }
    let long = format!("{id}/{}", "x".repeat(2048));
    add("an identity that is too long", by_us(&Leaf::new().uri(&long)), "invalid-identity");
    add("signed by itself", Some(right().self_signed()), "self-signed");
    add("a foreign authority of the same name", Some(foreign.issue(&right())), "unknown-issuer");
    add("the intermediate left out", Some(headless), "unknown-issuer");
    add("another trust domain", Some(stranger.svid("shop/cart")), "unknown-trust-domain");
    add("another trust domain by our authority", by_us(&stranger.leaf("shop/cart")), "unknown-trust-domain");
    add("a federated identity by our authority", by_us(&partner.leaf("shop/cart")), "unknown-issuer");
    add("our identity by a federated authority", Some(partner.issuing.issue(&right())), "unknown-issuer");
    add(
        "a subdomain of ours",
        by_us(&Leaf::new().uri("spiffe://x.mesh.local/ns/shop/sa/cart")),
        "unknown-trust-domain",
    );
    add("an authority", by_us(&right().authority()), "certificate-authority");
    let signing = [KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
    add("a key that may sign certificates", by_us(&right().key_usages(&signing)), "certificate-authority");
    add("for servers only", by_us(&right().usages(&only_server)), "not-for-this-use");
    add("for code only", by_us(&right().usages(&only_code)), "not-for-this-use");
    let weak = openssl::rsa_credential(1024, &mesh.issuing, &id).await;
    add("a weak key", Some(weak), "weak-key");
    (mesh, identity, all)
}

/// The first certificate of a chain.
pub(super) fn leaf_only(chain: &str) -> String {
    let end = "-----END CERTIFICATE-----";
    let at = chain.find(end).expect("a certificate") + end.len();
    format!("{}\n", &chain[..at])
}

mod tests {
    use std::collections::BTreeMap;

    use super::super::Inbound;
    use super::all;
    use crate::support::TlsClient;

    #[tokio::test]
    async fn each_wrong_certificate_is_refused_for_its_own_reason() {
        let (mesh, identity, wrong) = all().await;
        let inbound = Inbound::of(mesh, &identity, "mode: strict").await;
        let addr = inbound.proxy.addr();
        TlsClient::with(&inbound.mesh.svid("shop/cart")).served(addr).await;
        let mut counts = BTreeMap::new();
        for case in &wrong {
            // Our library signs nothing with a weak key; openssl does (see `programs`).
            if case.reason == "weak-key" {
                continue;
            }
            println!("{}", case.name);
            let client = match &case.credential {
                Some(credential) => TlsClient::with(credential),
                None => TlsClient::anonymous(),
            };
            client.refused(addr).await;
            client.alpn(&["h2"]).refused_over_h2(addr).await;
            let count = counts.entry(case.reason).or_insert(0.0);
            *count += 2.0;
            inbound.refused(case.reason, *count).await;
            assert!(inbound.proxy.stderr().contains(case.reason), "{}: the log says {}", case.name, case.reason);
            assert_eq!(inbound.backend.requests().len(), 1, "{}: nothing was passed on", case.name);
        }
        assert_eq!(counts.len(), 12, "{counts:?}");
        // Those who are right are served as before.
        TlsClient::with(&inbound.mesh.svid("shop/cart")).served(addr).await;
    }

    /// What was expected and what came belongs into the log, so that an operator need not guess.
    #[tokio::test]
    async fn the_log_says_who_was_refused_and_what_was_expected() {
        let inbound = Inbound::with("mode: strict").await;
        let stranger = crate::support::Mesh::named("stranger.example");
        TlsClient::with(&stranger.svid("shop/cart")).refused(inbound.proxy.addr()).await;
        inbound.proxy.logged("spiffe://stranger.example/ns/shop/sa/cart").await;
        inbound.proxy.logged("mesh.local").await;
    }
}
