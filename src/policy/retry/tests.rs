use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, Method};
use outrigger_config::model::{HeaderMatch, Retry, RetryOn, Setting, ValueMatch};

use super::Idempotency::{Idempotent, NotIdempotent};
use super::*;

const NEVER: [Outcome; 3] = [
    Outcome::NeverSent(NeverSent::ConnectFailure),
    Outcome::NeverSent(NeverSent::Unwritten),
    Outcome::NeverSent(NeverSent::Refused),
];
const MAYBE: [Outcome; 3] = [
    Outcome::MaybeSent(MaybeSent::Reset),
    Outcome::MaybeSent(MaybeSent::ReusedClosed),
    Outcome::MaybeSent(MaybeSent::Timeout),
];
const ANSWERED: [Outcome; 9] = [
    Outcome::Status(200),
    Outcome::Status(429),
    Outcome::Status(500),
    Outcome::Status(503),
    Outcome::Grpc(0),
    Outcome::Grpc(4),
    Outcome::Grpc(14),
    Outcome::Forbidden,
    Outcome::RetriedBelow,
];
const ON: [RetryOn; 8] = [
    RetryOn::ConnectFailure,
    RetryOn::RefusedStream,
    RetryOn::Reset,
    RetryOn::GatewayError,
    RetryOn::ServerError,
    RetryOn::Status(429),
    RetryOn::Grpc(4),
    RetryOn::Grpc(14),
];

fn outcomes() -> impl Iterator<Item = Outcome> {
    NEVER.into_iter().chain(MAYBE).chain(ANSWERED)
}

fn policy(attempts: u8, on: &[RetryOn]) -> Retry {
    Retry {
        attempts: Setting { value: attempts, place: None },
        on: on.to_vec(),
        non_idempotent: false,
        backoff_base: Duration::from_millis(25),
        backoff_max: Duration::from_millis(250),
        ..Retry::default()
    }
}

fn whole(idempotency: Idempotency) -> Repeatable {
    Repeatable { replay: Replay::Whole, idempotency, lineage: Lineage::First }
}

/// The verdicts on an outcome that comes again and again.
fn story(policy: &Retry, request: Repeatable, outcome: Outcome) -> Vec<Verdict> {
    let mut attempts = Attempts::first();
    let mut verdicts = Vec::new();
    loop {
        let verdict = decide(policy, &attempts, request, outcome);
        verdicts.push(verdict);
        if let Verdict::Done(_) = verdict {
            return verdicts;
        }
        attempts.record(verdict);
        assert!(attempts.made() <= 6, "six attempts are the most that can be");
    }
}

#[test]
fn what_was_never_sent_is_retried_once_for_any_method_without_a_policy() {
    for outcome in NEVER {
        for idempotency in [Idempotent, NotIdempotent] {
            let verdicts = story(&policy(0, &[]), whole(idempotency), outcome);
            assert_eq!(verdicts, [Verdict::RetryFree, Verdict::Done(Why::NotCovered)], "{outcome:?}");
        }
    }
}

#[test]
fn a_reused_connection_that_died_is_retried_once_only_if_idempotent() {
    let outcome = Outcome::MaybeSent(MaybeSent::ReusedClosed);
    let verdicts = story(&policy(0, &[]), whole(Idempotent), outcome);
    assert_eq!(verdicts, [Verdict::RetryFree, Verdict::Done(Why::NotCovered)]);
    let verdicts = story(&policy(0, &[]), whole(NotIdempotent), outcome);
    assert_eq!(verdicts, [Verdict::Done(Why::NotCovered)]);
}

#[test]
fn without_a_policy_nothing_else_is_retried() {
    for outcome in MAYBE.into_iter().chain(ANSWERED) {
        if outcome == Outcome::MaybeSent(MaybeSent::ReusedClosed) {
            continue;
        }
        for on in [&[][..], &ON[..]] {
            let verdict = story(&policy(0, on), whole(Idempotent), outcome);
            assert!(
                matches!(verdict[..], [Verdict::Done(Why::NotCovered | Why::Forbidden | Why::RetriedBelow)]),
                "{outcome:?}"
            );
        }
    }
}

/// Every condition against every outcome.
#[test]
fn a_condition_covers_exactly_its_outcomes() {
    use MaybeSent::{Reset, ReusedClosed, Timeout};
    use NeverSent::{ConnectFailure, Refused, Unwritten};
    let no_answer = [NEVER, MAYBE].concat();
    let table: [(RetryOn, Vec<Outcome>); 8] = [
        (RetryOn::ConnectFailure, vec![Outcome::NeverSent(ConnectFailure)]),
        (RetryOn::RefusedStream, vec![Outcome::NeverSent(Refused)]),
        (
            RetryOn::Reset,
            vec![
                Outcome::NeverSent(Unwritten),
                Outcome::NeverSent(Refused),
                Outcome::MaybeSent(Reset),
                Outcome::MaybeSent(ReusedClosed),
            ],
        ),
        (RetryOn::GatewayError, [&no_answer[..], &[Outcome::Status(503)]].concat()),
        (RetryOn::ServerError, [&no_answer[..], &[Outcome::Status(500), Outcome::Status(503)]].concat()),
        (RetryOn::Status(429), vec![Outcome::Status(429)]),
        (RetryOn::Grpc(4), vec![Outcome::MaybeSent(Timeout), Outcome::Grpc(4)]),
        (
            RetryOn::Grpc(14),
            vec![
                Outcome::NeverSent(ConnectFailure),
                Outcome::NeverSent(Unwritten),
                Outcome::NeverSent(Refused),
                Outcome::MaybeSent(Reset),
                Outcome::MaybeSent(ReusedClosed),
                Outcome::Grpc(14),
            ],
        ),
    ];
    for (on, covered) in table {
        for outcome in outcomes() {
            let retried = story(&policy(1, &[on]), whole(Idempotent), outcome)
                .iter()
                .any(|verdict| matches!(verdict, Verdict::RetryCharged { .. }));
            assert_eq!(retried, covered.contains(&outcome), "{on:?} and {outcome:?}");
        }
    }
}

#[test]
fn what_may_have_been_executed_is_not_repeated_unless_idempotent_or_allowed() {
    for outcome in outcomes() {
        let strict = policy(2, &ON);
        let lenient = Retry { non_idempotent: true, ..strict.clone() };
        let charged = |policy: &Retry, idempotency| {
            let verdicts = story(policy, whole(idempotency), outcome);
            verdicts.iter().filter(|verdict| matches!(verdict, Verdict::RetryCharged { .. })).count()
        };
        let never_sent = matches!(outcome, Outcome::NeverSent(_));
        assert_eq!(charged(&lenient, NotIdempotent) > 0, charged(&strict, Idempotent) > 0, "{outcome:?}");
        assert_eq!(charged(&strict, NotIdempotent) > 0, never_sent, "{outcome:?}");
    }
    let verdicts = story(&policy(2, &ON), whole(NotIdempotent), Outcome::Status(503));
    assert_eq!(verdicts, [Verdict::Done(Why::NotIdempotent)]);
}

#[test]
fn attempts_in_all_are_three_or_what_the_rule_asks_for_and_never_over_six() {
    for (attempts, made) in [(1, 3), (2, 3), (3, 4), (4, 5), (5, 6), (9, 6), (255, 6)] {
        let connect = Outcome::NeverSent(NeverSent::ConnectFailure);
        let verdicts = story(&policy(attempts, &ON), whole(Idempotent), connect);
        assert_eq!(verdicts.len(), made, "{attempts} extra, the free one among them: {verdicts:?}");
        assert_eq!(verdicts.last(), Some(&Verdict::Done(Why::Exhausted)));
    }
    for (attempts, made) in [(1, 2), (2, 3), (5, 6), (255, 6)] {
        let verdicts = story(&policy(attempts, &ON), whole(Idempotent), Outcome::Status(503));
        assert_eq!(verdicts.len(), made, "{attempts}: {verdicts:?}");
    }
}

#[test]
fn the_free_retry_comes_first_and_then_the_policy_with_growing_steps() {
    let verdicts = story(&policy(3, &ON), whole(NotIdempotent), Outcome::NeverSent(NeverSent::Refused));
    assert_eq!(
        verdicts,
        [
            Verdict::RetryFree,
            Verdict::RetryCharged { step: 0 },
            Verdict::RetryCharged { step: 1 },
            Verdict::Done(Why::Exhausted)
        ]
    );
}

#[test]
fn the_free_retry_is_one_for_all_reasons_together() {
    let none = policy(0, &[]);
    let mut attempts = Attempts::first();
    let first = decide(&none, &attempts, whole(Idempotent), Outcome::MaybeSent(MaybeSent::ReusedClosed));
    attempts.record(first);
    let second = decide(&none, &attempts, whole(Idempotent), Outcome::NeverSent(NeverSent::ConnectFailure));
    assert_eq!((first, second), (Verdict::RetryFree, Verdict::Done(Why::NotCovered)));
}

#[test]
fn a_body_that_is_gone_is_not_repeated() {
    for outcome in outcomes() {
        let request = Repeatable { replay: Replay::Lost, ..whole(Idempotent) };
        let verdicts = story(&policy(3, &ON), request, outcome);
        assert!(
            matches!(
                verdicts[..],
                [Verdict::Done(Why::NotReplayable | Why::NotCovered | Why::Forbidden | Why::RetriedBelow)]
            ),
            "{outcome:?}"
        );
    }
}

#[test]
fn a_server_that_forbids_it_is_obeyed() {
    let verdicts = story(&Retry { non_idempotent: true, ..policy(5, &ON) }, whole(Idempotent), Outcome::Forbidden);
    assert_eq!(verdicts, [Verdict::Done(Why::Forbidden)]);
}

#[test]
fn idempotent_methods_are_those_of_rfc_9110() {
    for method in [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE, Method::PUT, Method::DELETE] {
        assert_eq!(Idempotency::of(&method), Idempotent, "{method}");
    }
    let other = Method::from_bytes(b"PROPFIND").expect("a token");
    for method in [Method::POST, Method::PATCH, Method::CONNECT, other] {
        assert_eq!(Idempotency::of(&method), NotIdempotent, "{method}");
    }
}

#[test]
fn backoff_doubles_to_its_cap_with_full_jitter() {
    let policy = policy(5, &[]);
    for (step, most) in [(0, 25), (1, 50), (2, 100), (3, 200), (4, 250), (40, 250), (255, 250)] {
        let most = Duration::from_millis(most);
        assert_eq!(backoff(&policy, step, 0), Duration::ZERO);
        assert_eq!(backoff(&policy, step, 1 << 63), most / 2);
        let longest = backoff(&policy, step, u64::MAX);
        assert!(longest < most && longest > most * 99 / 100, "{step}: {longest:?}");
    }
}

#[test]
fn pushback_is_waited_out_with_jitter_up_to_300_seconds() {
    let secs = Duration::from_secs;
    assert_eq!(pushback_wait(secs(10), 0), secs(10));
    assert_eq!(pushback_wait(secs(10), 1 << 63), Duration::from_millis(12_500));
    assert_eq!(pushback_wait(secs(290), u64::MAX), secs(300));
    assert_eq!(pushback_wait(Duration::MAX, u64::MAX), secs(300));
}

#[test]
fn grpc_pushback_is_read_as_grfc_a6_says() {
    let millis = |ms| Pushback::After(Duration::from_millis(ms));
    for (text, expected) in [
        ("0", millis(0)),
        ("250", millis(250)),
        ("2000000000", millis(300_000)),
        ("-1", Pushback::Never),
        ("soon", Pushback::Never),
        ("", Pushback::Never),
        ("99999999999", Pushback::Never),
    ] {
        assert_eq!(parse_grpc_pushback(text), expected, "{text}");
    }
}

#[test]
fn retry_after_is_seconds_or_a_date() {
    let now = httpdate::parse_http_date("Fri, 31 Dec 1999 23:59:00 GMT").expect("a date");
    let secs = |seconds| Some(Duration::from_secs(seconds));
    for (text, expected) in [
        ("0", secs(0)),
        (" 120 ", secs(120)),
        ("99999999999999999999999", secs(300)),
        ("Fri, 31 Dec 1999 23:59:59 GMT", secs(59)),
        ("Fri, 31 Dec 1999 23:00:00 GMT", secs(0)),
        ("Sat, 31 Dec 2050 23:00:00 GMT", secs(300)),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
    ] {
        assert_eq!(parse_retry_after(text, now), expected, "{text}");
    }
    assert_eq!(parse_retry_after("1", SystemTime::UNIX_EPOCH), secs(1));
}

#[test]
fn a_retry_is_left_to_the_hop_that_has_begun_it() {
    for (outcome, free) in [
        (Outcome::Status(503), false),
        (Outcome::MaybeSent(MaybeSent::Reset), false),
        (Outcome::NeverSent(NeverSent::Refused), true),
    ] {
        let request = Repeatable { lineage: Lineage::RetriedAbove, ..whole(Idempotent) };
        let mut expected = vec![Verdict::Done(Why::RetriedAbove)];
        if free {
            expected.insert(0, Verdict::RetryFree);
        }
        assert_eq!(story(&policy(3, &ON), request, outcome), expected, "{outcome:?}");
    }
}

#[test]
fn what_a_hop_below_has_retried_is_not_retried_again() {
    let lenient = Retry { non_idempotent: true, ..policy(5, &ON) };
    let verdicts = story(&lenient, whole(Idempotent), Outcome::RetriedBelow);
    assert_eq!(verdicts, [Verdict::Done(Why::RetriedBelow)]);
}

#[test]
fn a_named_header_is_a_reason_to_retry_as_a_status_is() {
    let named = |value| Retry {
        on_headers: vec![HeaderMatch { name: HeaderName::from_static("x-again"), value }],
        ..policy(1, &[])
    };
    let mut headers = HeaderMap::new();
    assert!(!names_header(&named(ValueMatch::Present(true)), &headers));
    headers.insert("x-again", HeaderValue::from_static("please"));
    assert!(names_header(&named(ValueMatch::Present(true)), &headers));
    assert!(names_header(&named(ValueMatch::Exact("please".into())), &headers));
    assert!(!names_header(&named(ValueMatch::Exact("no".into())), &headers));
    let policy = named(ValueMatch::Present(true));
    let again = [Verdict::RetryCharged { step: 0 }, Verdict::Done(Why::Exhausted)];
    assert_eq!(story(&policy, whole(Idempotent), Outcome::Header), again);
    assert_eq!(story(&policy, whole(NotIdempotent), Outcome::Header), [Verdict::Done(Why::NotIdempotent)]);
    let none = Retry { attempts: Setting { value: 0, place: None }, ..policy };
    assert_eq!(story(&none, whole(Idempotent), Outcome::Header), [Verdict::Done(Why::NotCovered)]);
}

#[test]
fn an_idempotency_key_counts_only_where_the_rule_believes_it() {
    let mut headers = HeaderMap::new();
    let believing = Retry { idempotency_key: true, ..policy(1, &ON) };
    let of = |policy: &Retry, headers: &HeaderMap| Idempotency::of_request(policy, &Method::POST, headers);
    assert_eq!(of(&believing, &headers), NotIdempotent, "without a key");
    headers.insert("idempotency-key", HeaderValue::from_static(""));
    assert_eq!(of(&believing, &headers), NotIdempotent, "an empty one");
    headers.insert("idempotency-key", HeaderValue::from_static("8e03978e"));
    assert_eq!(of(&believing, &headers), Idempotent);
    assert_eq!(of(&policy(1, &ON), &headers), NotIdempotent, "the rule does not say so");
}

#[test]
fn a_head_is_held_only_for_a_status_that_is_retried() {
    let lenient = Retry { non_idempotent: true, ..policy(1, &[RetryOn::Reset, RetryOn::Grpc(14)]) };
    let request = whole(NotIdempotent);
    let mut attempts = Attempts::first();
    assert!(is_worth_holding(&lenient, &attempts, request));
    assert!(!is_worth_holding(&Retry { non_idempotent: false, ..lenient.clone() }, &attempts, request));
    assert!(!is_worth_holding(&Retry { on: vec![RetryOn::ServerError], ..lenient.clone() }, &attempts, request));
    for unfit in
        [Repeatable { replay: Replay::Lost, ..request }, Repeatable { lineage: Lineage::RetriedAbove, ..request }]
    {
        assert!(!is_worth_holding(&lenient, &attempts, unfit), "{unfit:?}");
    }
    attempts.record(Verdict::RetryCharged { step: 0 });
    assert!(is_worth_holding(&lenient, &attempts, request), "none is left, and hops before must know");
    assert!(!is_worth_holding(&policy(0, &[RetryOn::Grpc(14)]), &attempts, request), "nothing is retried at all");
}

#[test]
fn a_named_time_is_waited_for_if_the_rule_and_the_deadline_allow() {
    let millis = Duration::from_millis;
    let policy = Retry { max_pushback: millis(2_000), ..policy(1, &ON) };
    let wait = |pushback, left| wait(&policy, 0, (pushback, left), 1 << 63);
    assert_eq!(wait(None, None), Ok(millis(25) / 2), "the usual one");
    assert_eq!(wait(Some(millis(2_000)), None), Ok(millis(2_500)));
    assert_eq!(wait(Some(millis(2_001)), None), Err(TooLong::Pushback));
    assert_eq!(wait(Some(millis(0)), None), Ok(millis(0)), "at once, as gRFC A6 says");
    assert_eq!(wait(Some(millis(1_000)), Some(millis(1_000))), Err(TooLong::Deadline));
    assert_eq!(wait(Some(millis(1_000)), Some(millis(1_100))), Ok(millis(1_050)), "jitter leaves half");
    assert_eq!(wait(None, Some(Duration::ZERO)), Err(TooLong::Deadline));
}
