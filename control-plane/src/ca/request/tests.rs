use std::process::{Command, Stdio};

use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, PublicKeyData as _, SanType,
};

use super::*;

const ID: &str = "spiffe://mesh.local/ns/shop/sa/payments";

fn params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
}

fn request(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = params();
    change(&mut params);
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    params.serialize_request(&key).expect("a request").der().to_vec()
}

fn agrees(change: impl FnOnce(&mut CertificateParams)) -> Result<(), Disagreement> {
    let request = SigningRequest::parse(&request(change)).expect("well formed");
    let workload = WorkloadKey::parse("shop/payments-1").expect("a workload");
    request.agrees(&SpiffeId::parse(ID).expect("an ID"), &workload)
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("a URI"))
}

/// A request made by `openssl req`.
fn openssl(arguments: &[&str]) -> Vec<u8> {
    let mut command = Command::new("openssl");
    command.args(["req", "-new", "-nodes", "-keyout", "/dev/null", "-subj", "/", "-outform", "DER"]).args(arguments);
    let output = command.stderr(Stdio::null()).output().expect("openssl runs (tests/tools/install)");
    assert!(output.status.success(), "openssl req {arguments:?}");
    output.stdout
}

#[test]
fn good_keys_are_taken_as_they_are() {
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).expect("a key");
        let der = params().serialize_request(&key).expect("a request");
        let read = SigningRequest::parse(der.der()).expect("taken");
        assert_eq!(read.key().subject_public_key_info(), key.subject_public_key_info());
    }
    assert!(SigningRequest::parse(&openssl(&["-newkey", "rsa:2048"])).is_ok());
    // The curve comes from the key, whatever it was signed with.
    let crossed = openssl(&["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-sha384"]);
    let read = SigningRequest::parse(&crossed).expect("taken");
    assert_eq!(read.key().der_bytes().len(), 65, "a point of P-256");
}

#[test]
fn keys_and_signatures_that_can_be_broken_are_refused() {
    let curve = |name: &str| openssl(&["-newkey", "ec", "-pkeyopt", &format!("ec_paramgen_curve:{name}")]);
    for weak in [openssl(&["-newkey", "rsa:1024"]), curve("secp256k1"), curve("secp521r1"), curve("P-224")] {
        assert_eq!(SigningRequest::parse(&weak).err(), Some(Malformed::WeakKey));
    }
    let sha1 = openssl(&["-newkey", "rsa:2048", "-sha1"]);
    assert_eq!(SigningRequest::parse(&sha1).err(), Some(Malformed::Signature));
}

#[test]
fn who_does_not_have_the_key_gets_nothing() {
    let der = request(|_| {});
    let mut forged = der.clone();
    *forged.last_mut().expect("bytes") ^= 1;
    assert_eq!(SigningRequest::parse(&forged).err(), Some(Malformed::Signature));
    // The key of one request under the signature of another.
    let other = request(|_| {});
    let at = der.windows(2).position(|bytes| bytes == [0x03, 0x42]).expect("a point") + 4;
    let mut swapped = der.clone();
    swapped[at..at + 64].copy_from_slice(&other[at..at + 64]);
    assert_eq!(SigningRequest::parse(&swapped).err(), Some(Malformed::Signature));
}

#[test]
fn what_is_no_request_is_refused() {
    assert_eq!(SigningRequest::parse(&[]).err(), Some(Malformed::Missing));
    assert_eq!(SigningRequest::parse(&vec![0x30; limits::REQUEST_BYTES + 1]).err(), Some(Malformed::TooLarge));
    let good = request(|_| {});
    for bad in [&b"x"[..], b"-----BEGIN CERTIFICATE REQUEST-----", &good[..good.len() - 1], &[&*good, &[0]].concat()] {
        assert_eq!(SigningRequest::parse(bad).err(), Some(Malformed::NotPkcs10));
    }
}

#[test]
fn a_request_that_asks_for_nothing_or_for_what_the_caller_is_agrees() {
    assert_eq!(agrees(|_| {}), Ok(()));
    let all = agrees(|params| {
        params.subject_alt_names = vec![uri(ID)];
        params.distinguished_name.push(DnType::CommonName, "payments-1");
        params.distinguished_name.push(DnType::OrganizationName, "shop");
        params.distinguished_name.push(DnType::CountryName, "EU");
        params.is_ca = IsCa::ExplicitNoCa;
    });
    assert_eq!(all, Ok(()));
}

#[test]
fn a_request_that_asks_for_more_does_not() {
    for other in [
        "spiffe://mesh.local/ns/shop/sa/admin",
        "spiffe://other.local/ns/shop/sa/payments",
        "spiffe://mesh.local",
        "spiffe://MESH.local/ns/shop/sa/payments",
        "https://mesh.local/ns/shop/sa/payments",
    ] {
        assert_eq!(
            agrees(|params| params.subject_alt_names = vec![uri(other)]),
            Err(Disagreement::Identity),
            "{other}"
        );
        let both = agrees(|params| params.subject_alt_names = vec![uri(ID), uri(other)]);
        assert_eq!(both, Err(Disagreement::Identity), "{other}");
    }
    let twice = agrees(|params| params.subject_alt_names = vec![uri(ID), uri(ID)]);
    assert_eq!(twice, Err(Disagreement::Identity));
    for (kind, name) in [(DnType::CommonName, "payments-2"), (DnType::OrganizationName, "billing")] {
        assert_eq!(agrees(|params| params.distinguished_name.push(kind, name)), Err(Disagreement::Subject));
    }
    for name in [SanType::DnsName("payments".try_into().expect("a name")), SanType::IpAddress([10, 0, 0, 1].into())] {
        assert_eq!(agrees(|params| params.subject_alt_names = vec![uri(ID), name]), Err(Disagreement::Names));
    }
    let authority = agrees(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert_eq!(authority, Err(Disagreement::Authority));
    let signs = agrees(|params| params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign]);
    assert_eq!(signs, Err(Disagreement::Authority));
}

proptest! {
    #[test]
    fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = SigningRequest::parse(&bytes);
    }

    #[test]
    fn one_changed_byte_is_noticed_or_changes_nothing(at in any::<prop::sample::Index>(), flip in 1u8..) {
        let mut changed = request(|params| params.subject_alt_names = vec![uri(ID)]);
        let sent = SigningRequest::parse(&changed).expect("a good request");
        let at = at.index(changed.len());
        changed[at] ^= flip;
        // What stands around the signed part has bytes that mean nothing, such as the class of a tag.
        if let Ok(read) = SigningRequest::parse(&changed) {
            prop_assert_eq!(format!("{:?}", read), format!("{:?}", sent), "byte {}", at);
        }
    }
}
