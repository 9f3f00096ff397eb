use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn caller(last: u8, speaks: Speaks) -> Caller {
    Caller { address: [10, 0, 0, last].into(), port: 15006, identity: None, speaks }
}

fn numbered(n: usize, speaks: Speaks) -> Caller {
    let n = u32::try_from(n).expect("few");
    Caller { address: IpAddr::V4((0x0A00_0000 + n).into()), port: 15006, identity: None, speaks }
}

fn rehearsal(question: Question, now: Instant) -> Arc<Rehearsal> {
    let rehearsal = Arc::new(Rehearsal::new(&"in".into(), now));
    rehearsal.ask(question);
    rehearsal
}

const STRICT: Question = Question { strict: true, trust: None };
const TRUST: Question = Question { strict: false, trust: Some(7) };

/// The caller was there at `now` and has gone.
fn passed_by(rehearsal: &Arc<Rehearsal>, caller: &Caller, verdict: Option<(Verdict, Question)>, now: Instant) {
    let presence = rehearsal.present(caller.clone(), verdict, now);
    rehearsal.left(caller, now);
    // Its own end would be told with the time of the machine.
    std::mem::forget(presence);
}

fn fail() -> Verdict {
    Verdict::Fail { reason: "unknown-issuer", detail: "expected a root of mesh.local".into() }
}

#[test]
fn it_is_safe_when_nobody_spoke_plaintext_for_a_day() {
    let start = Instant::now();
    let rehearsal = rehearsal(STRICT, start);
    passed_by(&rehearsal, &caller(1, Speaks::Plaintext), None, start);
    for last in 2..5 {
        passed_by(&rehearsal, &caller(last, Speaks::Tls), None, start + HOUR);
    }
    let early = rehearsal.report(start + HOUR).expect("a report");
    assert!(!early.safe);
    assert_eq!(early.summary, "not safe to turn strict: 1 of 4 peers plaintext in 1 h");
    assert_eq!((early.offenders[0].address.as_str(), early.offenders[0].reason), ("10.0.0.1", "plaintext"));

    let late = rehearsal.report(start + WINDOW + HOUR).expect("a report");
    assert!(late.safe);
    assert_eq!(late.summary, "safe to turn strict: 0 of 3 peers plaintext in 24 h");
}

#[test]
fn a_plaintext_caller_that_stays_connected_counts_however_old_it_is() {
    let start = Instant::now();
    let rehearsal = rehearsal(STRICT, start);
    let staying = rehearsal.present(caller(1, Speaks::Plaintext), None, start);
    let later = start + WINDOW * 3;
    passed_by(&rehearsal, &caller(2, Speaks::Tls), None, later);
    let report = rehearsal.report(later).expect("a report");
    assert_eq!((report.safe, report.offenders[0].open), (false, 1));
    std::mem::forget(staying);
    rehearsal.left(&caller(1, Speaks::Plaintext), later);
    assert!(!rehearsal.report(later + HOUR).expect("a report").safe, "it went an hour ago");
}

#[test]
fn plaintext_connections_from_before_the_rehearsal_are_not_overlooked() {
    let start = Instant::now();
    let rehearsal = rehearsal(Question::default(), start);
    let old = rehearsal.unrecorded();
    assert_eq!(rehearsal.report(start), None, "nothing is rehearsed");
    rehearsal.ask(STRICT);
    passed_by(&rehearsal, &caller(2, Speaks::Tls), None, start);
    assert_eq!(rehearsal.report(start).map(|report| report.safe), Some(false));
    drop(old);
    assert_eq!(rehearsal.report(start).map(|report| report.safe), Some(true));
}

#[test]
fn without_any_caller_nothing_is_called_safe() {
    let start = Instant::now();
    let report = rehearsal(STRICT, start).report(start + HOUR).expect("a report");
    assert!(!report.safe);
    assert_eq!(report.summary, "nothing to say yet on whether it is safe to turn strict: no caller in 1 h");
}

#[test]
fn certificates_that_the_proposed_trust_refuses_are_named_with_the_reason() {
    let start = Instant::now();
    let rehearsal = rehearsal(TRUST, start);
    passed_by(&rehearsal, &caller(1, Speaks::Tls), Some((Verdict::Pass, TRUST)), start);
    let refused = Caller { identity: Some("spiffe://mesh.local/a".into()), ..caller(2, Speaks::Tls) };
    passed_by(&rehearsal, &refused, Some((fail(), TRUST)), start);
    let report = rehearsal.report(start).expect("a report");
    assert_eq!(report.summary, "not safe to take the proposed trust bundle: 1 of 2 peers untrusted in 0 s");
    let offender = &report.offenders[0];
    assert_eq!(
        (offender.reason, offender.detail.as_deref()),
        ("unknown-issuer", Some("expected a root of mesh.local"))
    );
    assert_eq!(offender.identity.as_deref(), Some("spiffe://mesh.local/a"));

    passed_by(&rehearsal, &refused, Some((Verdict::Pass, TRUST)), start + HOUR);
    assert!(rehearsal.report(start + HOUR).expect("a report").safe, "the newest certificate counts");
}

#[test]
fn verdicts_of_another_proposal_say_nothing() {
    let start = Instant::now();
    let rehearsal = rehearsal(TRUST, start);
    passed_by(&rehearsal, &caller(1, Speaks::Tls), Some((Verdict::Pass, TRUST)), start);
    assert!(rehearsal.report(start).expect("a report").safe);
    let other = Question { trust: Some(8), ..TRUST };
    rehearsal.ask(other);
    let report = rehearsal.report(start).expect("a report");
    assert_eq!((report.safe, report.peers.unknown), (false, 1));
    // A handshake that began under the one before.
    passed_by(&rehearsal, &caller(1, Speaks::Tls), Some((Verdict::Pass, TRUST)), start);
    assert_eq!(rehearsal.report(start).expect("a report").peers.unknown, 1);
    passed_by(&rehearsal, &caller(1, Speaks::Tls), Some((Verdict::Pass, other)), start);
    assert!(rehearsal.report(start).expect("a report").safe);
}

#[test]
fn over_the_limit_the_oldest_go_and_are_not_taken_for_safe() {
    let start = Instant::now();
    let rehearsal = rehearsal(STRICT, start);
    let at = |n: usize| start + Duration::from_millis(u64::try_from(n).expect("few"));
    passed_by(&rehearsal, &numbered(0, Speaks::Plaintext), None, at(0));
    let open = rehearsal.present(numbered(1, Speaks::Plaintext), None, at(1));
    for n in 2..=limits::REHEARSAL_PEERS {
        passed_by(&rehearsal, &numbered(n, Speaks::Tls), None, at(n));
    }
    let report = rehearsal.report(at(limits::REHEARSAL_PEERS)).expect("a report");
    assert!(report.peers.total <= limits::REHEARSAL_PEERS && report.forgotten > 0, "{:?}", report.peers);
    assert_eq!(report.peers.plaintext, 1, "the one that is connected stays");
    std::mem::forget(open);
    rehearsal.left(&numbered(1, Speaks::Plaintext), at(1));
    let next_day = at(limits::REHEARSAL_PEERS) + WINDOW;
    passed_by(&rehearsal, &numbered(7, Speaks::Tls), None, next_day);
    let report = rehearsal.report(next_day).expect("a report");
    assert_eq!((report.peers.plaintext, report.safe), (0, false), "a plaintext caller was forgotten within the day");
    assert!(rehearsal.report(next_day + HOUR).expect("a report").safe);
}

#[test]
fn offenders_are_listed_up_to_a_limit_and_the_latest_first() {
    let start = Instant::now();
    let rehearsal = rehearsal(STRICT, start);
    for n in 0..limits::REHEARSAL_OFFENDERS + 3 {
        let at = start + Duration::from_secs(u64::try_from(n).expect("few"));
        passed_by(&rehearsal, &numbered(n, Speaks::Plaintext), None, at);
    }
    let report = rehearsal.report(start + HOUR).expect("a report");
    assert_eq!((report.offenders.len(), report.offenders_omitted), (limits::REHEARSAL_OFFENDERS, 3));
    assert!(report.offenders[0].seen_seconds_ago < report.offenders[1].seen_seconds_ago);
}

#[test]
fn the_metrics_tell_the_same() {
    let start = Instant::now();
    let rehearsals = Rehearsals::default();
    let mut text = Text::default();
    let rehearsal = rehearsals.listener(&"in".into(), start);
    rehearsals.encode(&mut text, start);
    rehearsal.ask(STRICT);
    passed_by(&rehearsal, &caller(1, Speaks::Plaintext), None, start);
    rehearsals.encode(&mut text, start);
    let text = text.finish();
    for line in [
        r#"outrigger_rehearsal_safe{listener="in"} 0"#,
        r#"outrigger_rehearsal_peers{listener="in",kind="plaintext"} 1"#,
        r#"outrigger_rehearsal_offenders{listener="in"} 1"#,
    ] {
        assert_eq!(text.matches(line).count(), 1, "{line}\n{text}");
    }
}
