use super::*;

const DAY: Duration = Duration::from_secs(86_400);

fn status(role: CertificateRole, file: &str, subject: &str, (begin, end): (u32, u32)) -> CertificateStatus {
    let at = |day: u32| SystemTime::UNIX_EPOCH + DAY * day;
    CertificateStatus {
        file: file.into(),
        role,
        identity: None,
        dns_names: Vec::new(),
        subject: subject.to_owned(),
        issuer: "CN=issuer".to_owned(),
        serial: "01".to_owned(),
        not_before: at(begin),
        not_after: at(end),
        sha256: format!("{subject} {begin} {end}"),
        warnings: Vec::new(),
    }
}

fn root(file: &str, subject: &str, days: (u32, u32)) -> CertificateStatus {
    status(CertificateRole::TrustBundle, file, subject, days)
}

fn shown(terms: &[(Expiring, Term)]) -> Vec<(&str, Stage)> {
    terms.iter().map(|(expiring, term)| (&*expiring.subject, term.from)).collect()
}

#[test]
fn of_a_bundle_the_root_that_lasts_longest_counts() {
    let old_and_new = [root("b.pem", "old", (0, 10)), root("b.pem", "new", (5, 100)), root("c.pem", "other", (0, 20))];
    assert_eq!(shown(&terms(&old_and_new)), [("new", Stage::Quarter), ("other", Stage::Quarter)]);
    let reversed: Vec<_> = old_and_new.iter().rev().cloned().collect();
    assert_eq!(shown(&terms(&reversed)), [("other", Stage::Quarter), ("new", Stage::Quarter)]);
}

#[test]
fn a_certificate_used_in_several_places_is_spoken_of_once_and_a_list_only_when_it_is_overdue() {
    let all = [
        status(CertificateRole::Listener("a".into()), "x.pem", "edge", (0, 10)),
        status(CertificateRole::Listener("b".into()), "x.pem", "edge", (0, 10)),
        status(CertificateRole::RevocationList, "crl.pem", "list", (0, 2)),
    ];
    assert_eq!(shown(&terms(&all)), [("edge", Stage::Half), ("list", Stage::Expired)]);
}

#[test]
fn roots_are_counted_by_bundle() {
    let federated = CertificateRole::FederatedBundle("partner.example".into());
    let all = [
        root("b.pem", "one", (0, 10)),
        root("b.pem", "two", (0, 10)),
        status(federated, "p.pem", "three", (0, 10)),
        status(CertificateRole::Identity, "i.pem", "own", (0, 10)),
    ];
    let counted: Vec<(&str, String, usize)> =
        bundles(&all).into_iter().map(|bundle| (bundle.role, bundle.owner, bundle.roots)).collect();
    let expected = [("trust-bundle", String::new(), 2), ("federated-bundle", "partner.example".to_owned(), 1)];
    assert_eq!(counted, expected);
}

#[test]
fn an_entry_says_how_long_it_still_lasts() {
    let entry = |day: u32| {
        let now = SystemTime::UNIX_EPOCH + DAY * day + DAY / 4;
        Entry::of(&status(CertificateRole::Listener("edge".into()), "x.pem", "edge", (0, 10)), now)
    };
    assert_eq!((entry(3).remaining_days, entry(12).remaining_days), (6.75, -2.25));
    assert_eq!((&*entry(0).not_before, &*entry(0).not_after), ("1970-01-01T00:00:00Z", "1970-01-11T00:00:00Z"));
    assert_eq!((entry(0).role, entry(0).owner.as_deref()), ("listener", Some("edge")));
}

#[test]
fn the_files_of_a_rotation_are_those_whose_contents_changed() {
    let before = [root("b.pem", "old", (0, 10)), root("c.pem", "same", (0, 10))];
    let now = [root("b.pem", "old", (0, 10)), root("b.pem", "new", (0, 20)), root("c.pem", "same", (0, 10))];
    assert_eq!(log_changes(&before, &now), BTreeSet::from(["b.pem".into()]));
    assert_eq!(log_changes(&now, &before), BTreeSet::from(["b.pem".into()]));
    assert_eq!(log_changes(&now, &now), BTreeSet::new());
}

#[test]
fn a_problem_is_placed_where_its_file_is_named() {
    let text = "a: 1\nidentity:\n  certificate: /c/a.pem.old\n  ü: [/c/a.pem, \"/c/b.pem\"]\n# /c/a.pem\n";
    let place = |line, column| outrigger_config::model::Place { file: "c.yaml".into(), line, column };
    let problem = |file: &str| MaterialError {
        place: place(3, 3),
        file: file.into(),
        reason: crate::net::tls::MaterialReason::Unreadable,
        problem: "it cannot be read".to_owned(),
        fix: "look".to_owned(),
    };
    let mut problems = ["/c/a.pem", "/c/b.pem", "/c/a.pem.old", "/c/a.pe", ""].map(problem);
    locate(&mut problems, text);
    let places = problems.map(|problem| (problem.place.line, problem.place.column));
    assert_eq!(places, [(4, 7), (4, 18), (3, 16), (3, 3), (3, 3)]);
}
