use std::collections::BTreeSet;
use std::net::IpAddr;

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::extensions::ParsedExtension;

use super::*;

fn parsed<'a>(certificate: &'a CertificateDer<'_>) -> X509Certificate<'a> {
    let (rest, certificate) = x509_parser::parse_x509_certificate(certificate).expect("a certificate");
    assert!(rest.is_empty());
    certificate
}

fn moment(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).expect("after 1970"))
}

#[test]
fn a_certificate_is_an_x509_svid() {
    let plane = Plane::new();
    let signed = plane.issue();
    let leaf = parsed(&signed.chain[0]);
    let names = leaf.subject_alternative_name().expect("readable").expect("there");
    assert_eq!(names.value.general_names, [GeneralName::URI("spiffe://mesh.local/ns/shop/sa/payments")]);
    assert_eq!(leaf.subject().to_string(), "O=shop, CN=payments-1");
    let constraints = leaf.basic_constraints().expect("readable").expect("there");
    assert!(constraints.critical && !constraints.value.ca);
    let usage = leaf.key_usage().expect("readable").expect("there");
    assert!(usage.critical && usage.value.flags == 1, "digitalSignature alone: {:b}", usage.value.flags);
    let extended = leaf.extended_key_usage().expect("readable").expect("there");
    assert!(extended.value.server_auth && extended.value.client_auth && !extended.value.any);
    let root = plane.authority.bundle();
    let root = parsed(root.certificates().next().expect("a root"));
    let identifier = |certificate: &X509Certificate<'_>| {
        certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        })
    };
    let above = leaf.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0.to_vec()),
        _ => None,
    });
    assert!(identifier(&leaf).is_some() && above == identifier(&root));
    let validity = leaf.validity();
    assert_eq!(moment(validity.not_before.timestamp()), start() - Duration::from_secs(60));
    assert_eq!(moment(validity.not_after.timestamp()), start() + DAY);
    assert_eq!((signed.not_before, signed.not_after), (start() - Duration::from_secs(60), start() + DAY));
    assert_eq!(signed.chain.len(), 1, "the root is not sent");
    assert_eq!(believes(&plane.authority.bundle(), &signed.chain, start()), Ok(()));
}

#[test]
fn a_root_is_that_of_its_trust_domain() {
    let plane = Plane::new();
    let bundle = plane.authority.bundle();
    let root = parsed(bundle.certificates().next().expect("a root"));
    let names = root.subject_alternative_name().expect("readable").expect("there");
    assert_eq!(names.value.general_names, [GeneralName::URI("spiffe://mesh.local")]);
    let constraints = root.basic_constraints().expect("readable").expect("there");
    assert!(constraints.critical && constraints.value.ca && constraints.value.path_len_constraint == Some(0));
    let usage = root.key_usage().expect("readable").expect("there").value;
    assert!(usage.key_cert_sign() && usage.crl_sign() && !usage.digital_signature());
    assert!(plane.authority.bundle_pem().starts_with("-----BEGIN CERTIFICATE-----\n"));
}

#[test]
fn serial_numbers_are_long_positive_and_different() {
    let plane = Plane::new();
    let serials: BTreeSet<Vec<u8>> = (0..200).map(|_| parsed(&plane.issue().chain[0]).raw_serial().to_vec()).collect();
    assert_eq!(serials.len(), 200);
    assert!(serials.iter().all(|serial| serial.len() == 16 && serial[0] & 0x80 == 0));
}

#[test]
fn nothing_lives_longer_than_what_signs_it_and_then_nothing_is_issued() {
    let plane = Plane::with(|settings| {
        settings.root_lifetime = 3 * DAY;
        settings.automatic = false;
    });
    plane.clock.advance(2 * DAY + 12 * HOUR);
    let late = plane.issue();
    assert_eq!(late.not_after, start() + 3 * DAY);
    assert!(late.renew_after >= 5 * HOUR && late.renew_after <= 7 * HOUR, "{:?}", late.renew_after);
    plane.clock.advance(12 * HOUR);
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    let refused = plane.authority.sign(&key, id("spiffe://mesh.local/ns/shop/sa/payments"), &workload("payments-1"));
    assert!(matches!(refused, Err(AuthorityError::RunOut)));
    assert!(believes(&plane.authority.bundle(), &late.chain, start() + 3 * DAY + HOUR).is_err());
}

#[test]
fn renewal_is_due_at_half_life_and_not_for_all_at_once() {
    let plane = Plane::new();
    let due: BTreeSet<Duration> = (0..50).map(|_| plane.issue().renew_after).collect();
    assert!(due.iter().all(|due| (DAY.mul_f64(0.45)..=DAY.mul_f64(0.55)).contains(due)), "{due:?}");
    let (first, last) = (due.first().expect("some"), due.last().expect("some"));
    assert!(*last - *first > HOUR, "{first:?} to {last:?}");
}

#[test]
fn the_control_planes_own_certificate_has_its_names_and_renews_itself() {
    let Plane { folder: _folder, clock, authority, .. } = Plane::new();
    let names = ServingNames { dns: vec!["control.local".into()], addresses: vec![IpAddr::from([127, 0, 0, 1])] };
    let serving = Serving::new(Arc::new(authority), names).expect("a certificate");
    let first = serving.certified();
    let leaf = parsed(&first.cert[0]);
    let found = leaf.subject_alternative_name().expect("readable").expect("there");
    let expected = [
        GeneralName::URI("spiffe://mesh.local/ns/outrigger/sa/control"),
        GeneralName::DNSName("control.local"),
        GeneralName::IPAddress(&[127, 0, 0, 1]),
    ];
    assert_eq!(found.value.general_names, expected);
    clock.advance(10 * HOUR);
    assert!(Arc::ptr_eq(&first, &serving.certified()), "not due yet");
    clock.advance(4 * HOUR);
    let second = serving.certified();
    assert_ne!(first.cert, second.cert);
    assert!(Arc::ptr_eq(&second, &serving.certified()));
}
