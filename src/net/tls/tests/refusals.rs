//! Every way to be refused, each with its own reason.

use super::super::certificate::Facts;
use super::super::trust::{MeshTrust, Revocations, Trust};
use super::super::verify::{Expect, Presented, Verifier};
use super::pki::{HOUR, PublicKey};
use super::*;
use outrigger_config::model::ClientCertificate;
use rcgen::{ExtendedKeyUsagePurpose, KeyUsagePurpose};
use rustls::time_provider::TimeProvider as _;
use std::time::SystemTime;

struct World {
    root: Authority,
    foreign: Authority,
    server: TlsSet,
    client: TlsSet,
}

fn world() -> World {
    let clock = Arc::new(TestClock::default());
    let root = Authority::root("Mesh CA");
    let (server, client) = (Side::server(&clock, &root).build(), Side::client(&clock, &root).build());
    World { foreign: Authority::root("Foreign CA"), root, server, client }
}

fn reason(settled: Settled) -> (RefusalReason, String) {
    match settled.expect_err("refused") {
        HandshakeError::Refused(Refusal { reason, detail }) => (reason, detail.into()),
        other => panic!("not a refusal: {other}"),
    }
}

/// What a server says of clients, and a client of servers, that show what is wrong in this way.
fn flaws(world: &World) -> Vec<(RefusalReason, Issued, &'static str)> {
    use RefusalReason::{
        CertificateAuthority, Expired, InvalidIdentity, NoIdentity, NotForThisUse, NotYetValid, SelfSigned,
        SeveralIdentities, UnknownIssuer, UnknownTrustDomain,
    };
    let good = || Leaf::svid(SERVER_ID);
    let now = SystemTime::now();
    let of_root = |leaf: Leaf| world.root.issue(&leaf);
    let namesake = Authority::root("Mesh CA");
    vec![
        (UnknownTrustDomain, of_root(Leaf::svid("spiffe://other.example/x")), "got spiffe://other.example/x"),
        (UnknownIssuer, world.foreign.issue(&good()), "expected an issuer in the trust bundle of mesh.local"),
        (UnknownIssuer, namesake.issue(&good()), "with another key"),
        (SelfSigned, good().self_signed(), "vouches for itself"),
        (Expired, of_root(good().with(|leaf| leaf.not_after = now - HOUR)), "it expired at 20"),
        (NotYetValid, of_root(good().with(|leaf| leaf.not_before = now + HOUR)), "it is valid from 20"),
        (SeveralIdentities, of_root(good().uri("spiffe://mesh.local/other")), "expected one URI, got 2"),
        (SeveralIdentities, of_root(good().uri("https://mesh.local/other")), "expected one URI, got 2"),
        (NoIdentity, of_root(Leaf::new().dns("server.example")), "expected a SPIFFE ID"),
        (InvalidIdentity, of_root(Leaf::svid("https://mesh.local/x")), "got `https://mesh.local/x`"),
        (InvalidIdentity, of_root(Leaf::svid("spiffe://mesh.local")), "a workload's has a path"),
        (InvalidIdentity, of_root(Leaf::svid("spiffe://mesh.local/a/../b")), "`.` or `..`"),
        (CertificateAuthority, of_root(good().with(|leaf| leaf.is_authority = true)), "that of an authority"),
        (
            CertificateAuthority,
            of_root(good().with(|leaf| leaf.key_usages.push(KeyUsagePurpose::KeyCertSign))),
            "that of an authority",
        ),
        (
            NotForThisUse,
            of_root(good().with(|leaf| leaf.usages = vec![ExtendedKeyUsagePurpose::CodeSigning])),
            "extended key usage",
        ),
        (
            NotForThisUse,
            of_root(good().with(|leaf| leaf.key_usages = vec![KeyUsagePurpose::KeyAgreement])),
            "digitalSignature",
        ),
    ]
}

#[tokio::test]
async fn a_server_refuses_each_flaw_with_its_own_reason() {
    let world = world();
    for (expected, shown, text) in flaws(&world) {
        let (found, detail) = reason(stranger(&world.server, Some(&shown)).await);
        assert_eq!(found, expected, "{detail}");
        assert!(detail.contains(text), "`{detail}` says `{text}`");
    }
}

#[tokio::test]
async fn a_client_refuses_each_flaw_with_its_own_reason() {
    let world = world();
    for (expected, shown, text) in flaws(&world) {
        let (found, detail) = reason(impostor(&world.client, &shown).await);
        assert_eq!(found, expected, "{detail}");
        assert!(detail.contains(text), "`{detail}` says `{text}`");
    }
}

#[tokio::test]
async fn what_is_right_is_accepted() {
    let world = world();
    stranger(&world.server, Some(&world.root.issue(&Leaf::svid(CLIENT_ID)))).await.expect("accepted");
    impostor(&world.client, &world.root.issue(&Leaf::svid(SERVER_ID))).await.expect("accepted");
    let below = world.root.intermediate("Mesh CA 2").intermediate("Mesh CA 3");
    stranger(&world.server, Some(&below.issue(&Leaf::svid(CLIENT_ID)))).await.expect("accepted");
    for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let shown = world.root.issue(&Leaf::svid(CLIENT_ID).with(|leaf| leaf.algorithm = algorithm));
        stranger(&world.server, Some(&shown)).await.expect("accepted");
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let (found, _) = reason(stranger(&world().server, None).await);
    assert_eq!(found, RefusalReason::NoCertificate);
}

#[tokio::test]
async fn another_workload_of_the_mesh_is_not_the_one_expected() {
    let world = world();
    let other = world.root.issue(&Leaf::svid("spiffe://mesh.local/ns/shop/sa/other"));
    let (found, detail) = reason(impostor(&world.client, &other).await);
    assert_eq!(found, RefusalReason::WrongIdentity);
    assert_eq!(detail, format!("expected {SERVER_ID}, got spiffe://mesh.local/ns/shop/sa/other"));
}

#[tokio::test]
async fn each_purpose_is_its_own() {
    let world = world();
    let only = |usage: &ExtendedKeyUsagePurpose| {
        world.root.issue(&Leaf::svid(SERVER_ID).with(|leaf| leaf.usages = vec![usage.clone()]))
    };
    let (server_only, client_only) =
        (only(&ExtendedKeyUsagePurpose::ServerAuth), only(&ExtendedKeyUsagePurpose::ClientAuth));
    assert_eq!(reason(stranger(&world.server, Some(&server_only)).await).0, RefusalReason::NotForThisUse);
    assert_eq!(reason(impostor(&world.client, &client_only).await).0, RefusalReason::NotForThisUse);
    stranger(&world.server, Some(&client_only)).await.expect("accepted");
    impostor(&world.client, &server_only).await.expect("accepted");
}

#[tokio::test]
async fn what_an_authority_took_back_is_refused() {
    let clock = Arc::new(TestClock::default());
    let root = Authority::root("Mesh CA");
    let below = root.intermediate("Below");
    let (revoked, kept) = (below.issue(&Leaf::svid(CLIENT_ID)), below.issue(&Leaf::svid(CLIENT_ID)));
    let mut side = Side::server(&clock, &root);
    side.change("trustBundle: /tls/bundle.pem", "trustBundle: /tls/bundle.pem\n  revocationLists: [/tls/crl.pem]");
    // A list of an issuer that is known only from the chains that peers send.
    side.put("crl.pem", &below.revocations(&[revoked.serial]));
    let server = side.build();
    assert_eq!(reason(stranger(&server, Some(&revoked)).await).0, RefusalReason::Revoked);
    stranger(&server, Some(&kept)).await.expect("accepted");

    // A list of the root, and one whose successor is overdue; an old root of the same name changes nothing.
    let namesake = Authority::root("Mesh CA");
    let (revoked, kept) = (root.issue(&Leaf::svid(CLIENT_ID)), namesake.issue(&Leaf::svid(CLIENT_ID)));
    side.put("bundle.pem", &format!("{}{}", root.pem, namesake.pem));
    side.put("crl.pem", &root.list(&[revoked.serial, kept.serial], SystemTime::now() - HOUR));
    let server = side.build();
    assert_eq!(reason(stranger(&server, Some(&revoked)).await).0, RefusalReason::Revoked);
    stranger(&server, Some(&kept)).await.expect("another issuer's serial number");
    let overdue = |status: &&CertificateStatus| status.warnings.iter().any(|text| text.contains("due since"));
    assert_eq!(server.certificates().iter().filter(overdue).count(), 1);
}

/// Keys that no library of ours would sign with: the verifier is asked directly.
#[test]
fn weak_keys_are_refused() {
    let root = Authority::root("Mesh CA");
    let clock = Arc::new(TestClock::default());
    let side = Side::server(&clock, &root);
    let secrets = Secrets::from_contents(side.files.clone());
    let mut loader = super::super::material::Loader::new(&secrets, &[], clock.now());
    let place = outrigger_config::model::Place { file: "t".into(), line: 1, column: 1 };
    let bundle = loader.bundle("/tls/bundle.pem".as_ref(), &place, &CertificateRole::TrustBundle).expect("a bundle");
    let verifier = Verifier {
        trust: Trust::Mesh(Arc::new(MeshTrust::new([("mesh.local".into(), Arc::new(bundle))].into()))),
        revocations: Arc::new(Revocations::default()),
        expect: Expect::Clients(ClientCertificate::Required),
    };
    let judged = |bits: usize| {
        let issued = root.issue(&Leaf::svid(CLIENT_ID).with(|leaf| leaf.public_key = Some(PublicKey::rsa(bits))));
        let chain = issued.certificates();
        let now = clock.current_time().expect("known");
        verifier.verify(&Presented { leaf: &chain[0], intermediates: &chain[1..], now, name: None })
    };
    let refusal = judged(1024).expect_err("refused");
    assert_eq!(refusal.reason, RefusalReason::WeakKey);
    assert_eq!(&*refusal.detail, "expected RSA with 2048 bits or more, got 1024");
    assert_eq!(judged(2048).expect("accepted").identity.expect("one").as_str(), CLIENT_ID);
}

#[test]
fn a_certificate_is_read_as_it_was_written() {
    let root = Authority::root("Mesh CA");
    let leaf = Leaf::svid(CLIENT_ID).dns("a.example").dns("b.example").with(|leaf| leaf.serial = 0x1234);
    let issued = root.issue(&leaf);
    let chain = issued.certificates();
    let facts = Facts::of(&chain[0]).expect("a certificate");
    assert_eq!(facts.serial, [0x12, 0x34]);
    assert_eq!(facts.uris().collect::<Vec<_>>(), [CLIENT_ID.as_bytes()]);
    assert_eq!(facts.dns_names().collect::<Vec<_>>(), ["a.example", "b.example"]);
    assert!(!facts.ca && !facts.is_self_issued());
    let usage = facts.key_usage.expect("there");
    assert!(usage.digital_signature && !usage.cert_sign && !usage.crl_sign);
    let end = leaf.not_after.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    assert_eq!(u64::try_from(facts.not_after).expect("after 1970"), end);
}

proptest::proptest! {
    #[test]
    fn a_damaged_certificate_is_read_or_not_and_nothing_else(at in 0usize..600, to: u8, cut in 0usize..600) {
        let mut der = sample().to_vec();
        let at = at % der.len();
        der[at] = to;
        der.truncate(der.len() - cut % der.len());
        let der = rustls::pki_types::CertificateDer::from(der);
        if let Some(facts) = Facts::of(&der) {
            let _ = (facts.uris().count(), facts.dns_names().count());
        }
    }
}

fn sample() -> &'static [u8] {
    static SAMPLE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    SAMPLE.get_or_init(|| {
        let issued = Authority::root("Mesh CA").issue(&Leaf::svid(CLIENT_ID).dns("a.example"));
        issued.certificates()[0].to_vec()
    })
}
