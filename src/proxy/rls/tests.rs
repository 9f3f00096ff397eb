use super::wire::DescriptorStatus;
use super::*;

fn status(code: i32, seconds: i64, nanos: i32) -> DescriptorStatus {
    DescriptorStatus { code, duration_until_reset: Some(wire::Duration { seconds, nanos }) }
}

fn header(key: &str, value: &str) -> Field {
    Field { key: key.into(), value: value.into(), raw_value: Bytes::new() }
}

fn after(statuses: Vec<DescriptorStatus>) -> Option<Duration> {
    let answer = RateLimitResponse { overall_code: OVER_LIMIT, statuses, ..RateLimitResponse::default() };
    match judge(Ok(answer)) {
        Err(Refused::OverLimit { after, .. }) => after,
        other => panic!("over the limit, not {other:?}"),
    }
}

#[test]
fn only_ok_passes_and_only_over_limit_refuses() {
    let answer = |overall_code| Ok(RateLimitResponse { overall_code, ..RateLimitResponse::default() });
    assert_eq!(judge(answer(wire::OK)), Ok(Passed::default()));
    assert!(matches!(judge(answer(OVER_LIMIT)), Err(Refused::OverLimit { after: None, .. })));
    for code in [-1, 0, 3] {
        assert_eq!(judge(answer(code)), Err(Refused::Failed(UNUSABLE)), "{code}");
    }
    assert_eq!(judge(Err(CallError::Timeout)), Err(Refused::Failed(TIMEOUT)));
    assert_eq!(judge(Err(CallError::Failed)), Err(Refused::Failed(ERROR)));
}

#[test]
fn a_caller_is_told_of_the_longest_limit_that_it_is_over() {
    let statuses = vec![status(OVER_LIMIT, 2, 0), status(OVER_LIMIT, 7, 5), status(wire::OK, 60, 0)];
    assert_eq!(after(statuses), Some(Duration::new(7, 5)));
    assert_eq!(after(vec![status(OVER_LIMIT, -1, 0), status(OVER_LIMIT, 1, 1_000_000_000)]), None);
    assert_eq!(after(Vec::new()), None);
}

#[test]
fn what_is_no_header_makes_the_answer_unusable_and_framing_is_left_alone() {
    let answer = |headers| {
        judge(Ok(RateLimitResponse { overall_code: wire::OK, response_headers_to_add: headers, ..Default::default() }))
    };
    let passed = answer(vec![header("X-Limit", "5"), header(":status", "200"), header("content-length", "9")]);
    let names: Vec<_> = passed.expect("usable").response.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(names, ["x-limit"]);
    for (key, value) in [("x y", "1"), ("x", "1\r\ny: 2"), ("", "")] {
        assert_eq!(answer(vec![header(key, value)]), Err(Refused::Failed(UNUSABLE)), "{key:?}");
    }
}
