use proptest::prelude::*;

use super::*;

const DAY: Duration = Duration::from_hours(24);

fn read(text: &str) -> Option<Said> {
    parse([text.as_bytes()], Some("shop.test"))
}

fn http3(port: u16, max_age: Duration) -> Option<Said> {
    Some(Said::Http3 { port, max_age })
}

#[test]
fn http3_at_the_same_host_is_found_among_others() {
    for text in [
        r#"h3=":8443""#,
        r#"h3=":8443"; ma=86400"#,
        r#"h3=":8443";ma="86400";persist=1"#,
        r#" , h3=":8443" ; unknown=word ,"#,
        r#"h2=":443", h3=":8443", h3=":9443"; ma=5"#,
        r#"h3="other.test:443", h3="shop.test:8443""#,
        r#"h3="Shop.TEST:8443""#,
        r#"h3-29=":444", h3="\:84\43""#,
        r#"w%3Dx%3Ay#z=":1", h3=":8443""#,
        "h3=\":8443\"\t;\tma=86400",
    ] {
        assert_eq!(read(text), http3(8443, DAY), "{text}");
    }
    let lines: [&[u8]; 2] = [br#"h2=":443""#, br#"h3=":8443"; ma=60"#];
    assert_eq!(parse(lines, None), http3(8443, Duration::from_secs(60)), "lines are one list");
}

#[test]
fn a_field_without_it_takes_back_what_was_said() {
    for text in [
        "clear",
        " clear ",
        r#"h2=":443""#,
        r#"H3=":443""#,
        r#"h%33=":443""#,
        r#"h3-29=":443""#,
        r#"h3="other.test:443""#,
        r#"h3=":443"; ma=0"#,
    ] {
        assert_eq!(read(text), Some(Said::Nothing), "{text}");
    }
    assert_eq!(parse([br#"h3="shop.test:1""#.as_slice()], None), Some(Said::Nothing), "who was asked is not known");
}

#[test]
fn what_is_not_well_formed_changes_nothing() {
    for text in [
        "",
        ",",
        "Clear",
        "clear, clear",
        r#"clear, h3=":443""#,
        r#"h3=":443", clear"#,
        "h3",
        "h3=",
        "h3=:443",
        r#"h3=":443"#,
        r#"h3="443""#,
        r#"h3=":""#,
        r#"h3=":0""#,
        r#"h3=":65536""#,
        r#"h3=":+443""#,
        r#"h3=":443" ma=1"#,
        r#"h3=":443"; ma"#,
        r#"h3=":443"; ma="#,
        r#"h3=":443"; ma=-1"#,
        r#"h3=":443"; ma=1s"#,
        r#"h3=":443";"#,
        r#"h3=":443"; ma=1 h2=":443""#,
        r#"h3 =":443""#,
        "h3=\":44\u{1}3\"",
        "h3=\":443\\",
    ] {
        assert_eq!(read(text), None, "{text}");
    }
}

#[test]
fn an_age_beyond_belief_is_as_long_as_any() {
    for text in [r#"h3=":1"; ma=99999999999"#, r#"h3=":1"; ma=99999999999999999999999999"#] {
        assert_eq!(read(text), http3(1, LONGEST), "{text}");
    }
}

fn advertised(now: Instant) -> Alternative {
    let mut known = Alternative::default();
    known.learn(Said::Http3 { port: 443, max_age: DAY }, now);
    known
}

#[test]
fn nothing_is_tried_that_was_not_advertised_and_nothing_used_after_its_time() {
    let now = Instant::now();
    let mut known = Alternative::default();
    assert_eq!((known.begin(now), known.usable_until(now), known.standing(now)), (None, None, Standing::Unknown));
    known = advertised(now);
    assert_eq!(known.begin(now), Some(443));
    assert!(known.made(0, now));
    assert_eq!(known.usable_until(now), Some(now + DAY));
    assert_eq!((known.begin(now + DAY), known.usable_until(now + DAY)), (None, None));
    known.learn(Said::Nothing, now);
    assert_eq!((known.begin(now), known.usable_until(now)), (None, None));
}

#[test]
fn a_failure_takes_all_connections_of_its_time_and_is_counted_once() {
    let now = Instant::now();
    let mut known = advertised(now);
    assert!(known.made(0, now));
    assert!(known.fail(0, now, 0));
    assert!(!known.fail(0, now, 0), "another connection of the same time");
    assert!(!known.made(0, now), "one that was under way");
    assert_eq!(known.standing(now), Standing::Broken { until: now + FIRST_PAUSE });
    assert_eq!(known.begin(now + FIRST_PAUSE - Duration::from_millis(1)), None);
}

#[test]
fn after_a_pause_one_is_tried_first() {
    let now = Instant::now();
    let mut known = advertised(now);
    known.fail(0, now, 0);
    let then = now + FIRST_PAUSE;
    assert_eq!(known.triable_from(), Some(then));
    assert_eq!(known.begin(then), Some(443));
    assert_eq!(known.begin(then), None, "one is under way");
    assert_eq!(known.triable_from(), Some(then + TRIAL));
    known.abandon(1);
    assert_eq!(known.begin(then), Some(443));
    assert_eq!(known.begin(then + TRIAL), Some(443), "nothing was heard of it");
    assert!(known.made(1, then));
    assert_eq!((known.begin(then), known.begin(then)), (Some(443), Some(443)));
}

#[test]
fn pauses_double_to_the_longest_and_a_good_connection_is_a_new_start() {
    let mut now = Instant::now();
    let mut known = advertised(now);
    let fail = |known: &mut Alternative, now: Instant| {
        known.learn(Said::Http3 { port: 443, max_age: DAY }, now);
        assert!(known.fail(known.generation(), now, 0));
        let Standing::Broken { until } = known.standing(now) else { panic!("{known:?}") };
        (until, (until - now).as_secs())
    };
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let (until, pause) = fail(&mut known, now);
        pauses.push(pause);
        now = until;
        assert_eq!(known.begin(now), Some(443));
    }
    assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 300, 300]);
    assert!(known.made(8, now));
    let (until, pause) = fail(&mut known, now + Duration::from_secs(299));
    assert_eq!(pause, 300, "it was good for less than the pause before it");
    assert!(known.begin(until).is_some() && known.made(9, until));
    assert_eq!(fail(&mut known, until + Duration::from_secs(300)).1, 5);
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic_and_what_is_found_is_sound(line: Vec<u8>, host: Option<String>) {
        if let Some(Said::Http3 { port, max_age }) = parse([line.as_slice()], host.as_deref()) {
            prop_assert!(port != 0 && !max_age.is_zero() && max_age <= LONGEST);
        }
    }

    #[test]
    fn nearly_good_fields_are_read_without_a_panic(line in r#"(h3|clear|h2|,|;|=|"|:|[0-9]{1,7}|ma|\\| |shop\.test){0,24}"#) {
        if let Some(Said::Http3 { port, max_age }) = read(&line) {
            prop_assert!(port != 0 && !max_age.is_zero() && max_age <= LONGEST);
        }
    }

    #[test]
    fn what_is_written_by_the_rules_is_read(port in 1_u16.., age in 1_u64..2_000_000, before in "[a-g][a-z0-9%!]{0,9}", blank in "[ \t]{0,3}") {
        let line = format!("{before}=\":9\"{blank};{blank}x=\"y,;\",{blank}h3=\":{port}\"{blank};{blank}ma={age}{blank}");
        prop_assert_eq!(read(&line), http3(port, Duration::from_secs(age)));
    }

    #[test]
    fn whatever_happens_it_is_tried_only_when_advertised_and_after_its_pause(
        steps in proptest::collection::vec((0_u8..6, 0_u64..20_000, any::<u64>()), 0..200),
    ) {
        let mut now = Instant::now();
        let mut known = Alternative::default();
        let (mut advertised, mut broken_until, mut trying) = (None, now, false);
        for (step, millis, random) in steps {
            now += Duration::from_millis(millis);
            match step {
                0 => {
                    let max_age = Duration::from_millis(1 + random % 60_000);
                    known.learn(Said::Http3 { port: 443, max_age }, now);
                    advertised = Some(now + max_age);
                }
                1 => {
                    known.learn(Said::Nothing, now);
                    advertised = None;
                }
                2 => {
                    let allowed = known.begin(now).is_some();
                    prop_assert!(!allowed || (advertised.is_some_and(|until| now < until) && now >= broken_until));
                    trying |= allowed;
                }
                3 if trying => {
                    let generation = known.generation();
                    prop_assert!(known.fail(generation, now, random));
                    let Standing::Broken { until } = known.standing(now) else { panic!("{known:?}") };
                    let pause = until - now;
                    prop_assert!(pause >= FIRST_PAUSE && pause <= LONGEST_PAUSE.mul_f64(1.2));
                    (broken_until, trying) = (until, false);
                }
                4 if trying => {
                    let generation = known.generation();
                    prop_assert!(known.made(generation, now));
                }
                _ => {
                    let generation = known.generation().wrapping_sub(1);
                    prop_assert!(!known.fail(generation, now, random) && !known.made(generation, now));
                }
            }
            prop_assert_eq!(known.usable_until(now), advertised.filter(|until| now < *until));
        }
    }
}
