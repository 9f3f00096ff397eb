//! Bad files never replace good ones: each is refused with the file, what is wrong and what to do.

use super::pki::HOUR;
use super::*;
use std::time::SystemTime;

fn problem(side: &Side) -> String {
    let errors = side.try_build(None).expect_err("refused");
    assert_eq!(errors.len(), 1, "{errors:#?}");
    assert_eq!((&*errors[0].place.file, errors[0].place.line > 1), ("test.yaml", true));
    format!("{}: {}: {}", errors[0].file.display(), errors[0].problem, errors[0].fix)
}

#[test]
fn each_flaw_of_our_own_certificate_is_told() {
    let clock = Arc::new(TestClock::default());
    let (root, other) = (Authority::root("Mesh CA"), Authority::root("Other CA"));
    let now = SystemTime::now();
    let good = || Leaf::svid(SERVER_ID);
    for (issued, expected) in [
        (root.issue(&good().with(|leaf| leaf.not_after = now - HOUR)), "svid.pem: the certificate expired at"),
        (root.issue(&good().with(|leaf| leaf.not_before = now + HOUR)), "svid.pem: the certificate is valid from"),
        (root.issue(&good().uri("spiffe://mesh.local/x")), "no X.509-SVID: expected one URI, got 2"),
        (root.issue(&Leaf::new().dns("a.example")), "no X.509-SVID: expected a SPIFFE ID"),
        (root.issue(&Leaf::svid("spiffe://mesh.local")), "a workload's has a path"),
        (root.issue(&good().with(|leaf| leaf.is_authority = true)), "put the leaf certificate first"),
        (other.issue(&good()), "put the root that issued it into the bundle first"),
        (good().self_signed(), "put the root that issued it into the bundle first"),
        (Issued { key: root.issue(&good()).key, ..root.issue(&good()) }, "the certificate is not for the key in"),
        (Issued { key: "nonsense".into(), ..root.issue(&good()) }, "svid.key: it holds no private key"),
        (Issued { key: root.issue(&good()).chain, ..root.issue(&good()) }, "svid.key: it holds no private key"),
        (Issued { chain: String::new(), ..root.issue(&good()) }, "svid.pem: it holds no certificate"),
    ] {
        let mut side = Side::server(&clock, &root);
        let found = problem(side.identity(&issued));
        assert!(found.contains(expected), "`{found}` says `{expected}`");
    }
    let mut side = Side::server(&clock, &root);
    let issued = root.issue(&good());
    let damaged = issued.key.replace("-----END", "----END");
    let found = problem(side.identity(&Issued { key: damaged, ..issued.clone() }));
    assert!(found.contains("svid.key: it is damaged PEM"), "{found}");
    let lines: Vec<&str> = issued.key.lines().filter(|line| !line.starts_with("---")).collect();
    assert!(lines.iter().all(|line| !found.contains(line)), "no part of a key is ever told");
}

#[test]
fn what_ran_out_in_use_is_in_nobodys_way_and_nothing_that_ran_out_replaces_it() {
    let clock = Arc::new(TestClock::default());
    let root = Authority::root("Mesh CA");
    let until = |hours: u32| Leaf::svid(SERVER_ID).with(|leaf| leaf.not_after = SystemTime::now() + hours * HOUR);
    let (first, second) = (root.issue(&until(1)), root.issue(&until(2)));
    let mut side = Side::server(&clock, &root);
    let set = side.identity(&first).build();
    clock.advance(3 * HOUR);
    let next = Authority::root("Next CA");
    let later = side.put("bundle.pem", &format!("{}{}", root.pem, next.pem)).rebuild(&set);
    let own = later.certificates().iter().find(|status| status.role.is_own()).expect("one");
    assert!(own.warnings[0].contains("the certificate expired at"), "{own:?}");

    let errors = side.identity(&second).try_build(Some(&later)).expect_err("another that ran out");
    assert_eq!(errors[0].reason, MaterialReason::Expired, "{errors:#?}");
    assert!(side.identity(&first).try_build(None).is_err(), "a start is another thing");
}

#[test]
fn a_bundle_that_ran_out_in_use_believes_nobody_and_is_in_nobodys_way() {
    let clock = Arc::new(TestClock::default());
    let (root, edge) = (Authority::root("Mesh CA"), Authority::root_until("Edge CA", 2 * HOUR));
    let mut side = Side::server(&clock, &root);
    side.change("tls: { mode: strict", "tls: { clientTrustBundle: /tls/edge.pem, mode: strict");
    let set = side.put("edge.pem", &edge.pem).build();
    clock.advance(3 * HOUR);
    side.rebuild(&set);
    let errors = side.put("edge.pem", &Authority::expired_root("Older CA").pem).try_build(Some(&set)).expect_err("no");
    assert_eq!(errors[0].reason, MaterialReason::Expired, "{errors:#?}");
}

#[test]
fn each_flaw_of_a_bundle_is_told() {
    let clock = Arc::new(TestClock::default());
    let root = Authority::root("Mesh CA");
    let leaf = root.issue(&Leaf::svid(SERVER_ID));
    let expired = Authority::expired_root("Old CA");
    for (bundle, expected) in [
        (String::new(), "bundle.pem: it holds no certificate"),
        ("garbage".to_owned(), "bundle.pem: it holds no certificate"),
        (format!("{}{}", root.pem, leaf.chain), "certificate 2 (`CN=leaf, O=tests`) is not an authority's"),
        (expired.pem.clone(), "all its certificates are expired, the last since"),
        (root.pem.replace("-----END", "---END"), "it is damaged PEM"),
    ] {
        let mut side = Side::server(&clock, &root);
        let found = problem(side.put("bundle.pem", &bundle));
        assert!(found.contains(expected), "`{found}` says `{expected}`");
    }
    let mut side = Side::server(&clock, &root);
    let set = side.put("bundle.pem", &format!("{}{}", expired.pem, root.pem)).build();
    let skipped: Vec<_> = set.certificates().iter().filter(|status| !status.warnings.is_empty()).collect();
    assert_eq!(skipped.len(), 1);
    assert!(skipped[0].warnings[0].contains("is not used; take it out"), "{skipped:?}");
}

#[test]
fn each_flaw_of_a_revocation_list_is_told() {
    let clock = Arc::new(TestClock::default());
    let (root, namesake, unknown) =
        (Authority::root("Mesh CA"), Authority::root("Mesh CA"), Authority::root("Unknown"));
    let mut side = Side::server(&clock, &root);
    side.change("trustBundle: /tls/bundle.pem", "trustBundle: /tls/bundle.pem\n  revocationLists: [/tls/crl.pem]");
    for (list, expected) in [
        ("garbage".to_owned(), "crl.pem: it holds no revocation list"),
        (root.pem.clone(), "crl.pem: it holds no revocation list"),
        (namesake.revocations(&[1]), "crl.pem: it is not signed by the root `CN=Mesh CA` that it names"),
    ] {
        let found = problem(side.put("crl.pem", &list));
        assert!(found.contains(expected), "`{found}` says `{expected}`");
    }
    let set = side.put("crl.pem", &unknown.revocations(&[1])).build();
    let list = set.certificates().iter().find(|status| status.role == CertificateRole::RevocationList).expect("one");
    assert!(list.warnings[0].contains("no root named `CN=Unknown` is known"), "{list:?}");
    // DER as well as PEM.
    use rustls::pki_types::CertificateRevocationListDer;
    let der = CertificateRevocationListDer::from_pem_slice(root.revocations(&[1]).as_bytes()).expect("PEM").to_vec();
    side.files.insert("/tls/crl.pem".into(), der);
    side.build();
    side.files.insert("/tls/crl.pem".into(), vec![0x30, 0x03, 1, 2, 3]);
    assert!(problem(&side).contains("it is not a revocation list that can be used"));
}

#[test]
fn files_that_are_missing_are_told_all_at_once() {
    let clock = Arc::new(TestClock::default());
    let mut side = Side::server(&clock, &Authority::root("Mesh CA"));
    side.files.clear();
    let errors = side.try_build(None).expect_err("refused");
    let files: Vec<String> = errors.iter().map(|error| error.file.display().to_string()).collect();
    assert_eq!(files, ["/tls/svid.pem", "/tls/svid.key", "/tls/bundle.pem"]);
}

#[test]
fn what_is_in_use_is_listed() {
    let clock = Arc::new(TestClock::default());
    let root = Authority::root("Mesh CA");
    let mut side = Side::server(&clock, &root);
    side.identity(&root.issue(&Leaf::svid(SERVER_ID).dns("a.example").with(|leaf| leaf.serial = 0xabcd)));
    let set = side.build();
    let [own, bundle] = set.certificates() else { panic!("{:#?}", set.certificates()) };
    assert_eq!((own.role.code(), own.role.is_own(), &*own.serial), ("identity", true, "abcd"));
    assert_eq!(own.identity.as_ref().expect("one").as_str(), SERVER_ID);
    assert_eq!((&own.dns_names[..], &*own.issuer), (&["a.example".to_owned()][..], "CN=Mesh CA"));
    assert_eq!((bundle.role.code(), bundle.role.is_own(), &*bundle.subject), ("trust-bundle", false, "CN=Mesh CA"));
    assert!(own.not_before < clock.now() && own.not_after > clock.now() && own.sha256.len() == 64);
    assert_eq!(set.identity().expect("one").as_str(), SERVER_ID);
}

#[test]
fn secrets_are_read_once_shared_and_never_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let clock = Arc::new(TestClock::default());
    let mut side = Side::server(&clock, &Authority::root("Mesh CA"));
    for (path, contents) in &side.files {
        std::fs::write(folder.path().join(path.file_name().expect("a name")), contents).expect("written");
    }
    side.yaml = side.yaml.replace("/tls/", &format!("{}/", folder.path().display()));
    let config = side.config();
    let first = Secrets::read(&config, &Secrets::default());
    TlsSet::build(&config, &first, None, SystemTime::now()).expect("good");
    let second = Secrets::read(&config, &first);
    assert_eq!(first, second);
    assert_eq!(first.fingerprint(), second.fingerprint());
    std::fs::remove_file(folder.path().join("svid.key")).expect("removed");
    let third = Secrets::read(&config, &second);
    assert_ne!(first.fingerprint(), third.fingerprint());
    let errors = TlsSet::build(&config, &third, None, SystemTime::now()).expect_err("refused");
    assert!(errors[0].problem.starts_with("it cannot be read"), "{errors:?}");
    let shown = format!("{first:?}");
    assert!(shown.contains("svid.key") && !shown.contains("PRIVATE KEY"), "{shown}");
}
