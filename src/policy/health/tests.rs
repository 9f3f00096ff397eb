use super::*;
use crate::policy::rng::Rng;
use outrigger_config::model::Probe;
use proptest::prelude::*;

fn check(healthy: u32, unhealthy: u32) -> HealthCheck {
    HealthCheck {
        probe: Probe::Tcp,
        interval: Duration::from_secs(10),
        jitter: 10,
        timeout: Duration::from_secs(1),
        healthy_threshold: healthy,
        unhealthy_threshold: unhealthy,
        no_traffic_interval: Duration::from_secs(60),
        port: None,
    }
}

fn run(from: Health, answers: &str, check: &HealthCheck) -> Vec<Health> {
    let mut health = from;
    answers
        .chars()
        .map(|answer| {
            health = health.after(if answer == '+' { Went::Well } else { Went::Badly }, check);
            health
        })
        .collect()
}

#[test]
fn the_first_check_decides_at_once() {
    let check = check(3, 3);
    assert_eq!(run(Health::Unchecked, "+", &check), [Health::Healthy { bad: 0 }]);
    assert_eq!(run(Health::Unchecked, "-", &check), [Health::Unhealthy { good: 0 }]);
}

#[test]
fn later_changes_take_as_many_in_a_row_as_the_threshold_says() {
    let check = check(2, 3);
    let (well, unwell) = (|bad| Health::Healthy { bad }, |good| Health::Unhealthy { good });
    let seen = run(Health::Unchecked, "+--+---+-++", &check);
    let expected =
        [well(0), well(1), well(2), well(0), well(1), well(2), unwell(0), unwell(1), unwell(0), unwell(1), well(0)];
    assert_eq!(seen, expected);
}

#[test]
fn a_lower_threshold_applies_to_what_was_counted_before() {
    let before = run(Health::Unchecked, "+---", &check(1, 10));
    assert_eq!(before.last(), Some(&Health::Healthy { bad: 3 }));
    assert_eq!(run(before[3], "-", &check(1, 2)), [Health::Unhealthy { good: 0 }]);
}

proptest! {
    /// Against the answers themselves.
    #[test]
    fn health_is_what_the_last_long_enough_run_of_answers_said(
        answers in proptest::collection::vec(any::<bool>(), 1..60),
        (healthy, unhealthy) in (1..5_u32, 1..5_u32),
    ) {
        let check = check(healthy, unhealthy);
        let mut health = Health::Unchecked;
        let mut expected = answers[0];
        for (at, &answer) in answers.iter().enumerate() {
            health = health.after(if answer { Went::Well } else { Went::Badly }, &check);
            let in_a_row = answers[..=at].iter().rev().take_while(|&&other| other == answer).count();
            let needed = if answer { healthy } else { unhealthy };
            if in_a_row >= needed as usize {
                expected = answer;
            }
            prop_assert_eq!(matches!(health, Health::Healthy { .. }), expected);
        }
    }

    #[test]
    fn pauses_stay_within_the_jitter(seed: u64, jitter in 0..=100_u8, quiet in proptest::option::of(0..200_u64)) {
        let check = HealthCheck { jitter, ..check(1, 3) };
        let mut rng = Rng::new(seed);
        let pause = pause(&check, quiet.map(Duration::from_secs), &mut rng);
        let interval = if quiet.is_none_or(|quiet| quiet >= 60) { 60.0 } else { 10.0 };
        let off = (pause.as_secs_f64() - interval).abs() / interval;
        prop_assert!(off <= f64::from(jitter) / 100.0 + 1e-6, "{pause:?}");
        prop_assert!(pause >= LEAST_PAUSE);
    }

    #[test]
    fn newcomers_begin_within_an_interval_and_few_at_once(seed: u64, newcomers in 1..100_000_usize) {
        let mut rng = Rng::new(seed);
        let pause = first_pause(&check(1, 3), newcomers, &mut rng);
        prop_assert!(pause <= Duration::from_secs(10) && pause <= FIRST_STEP * newcomers as u32);
    }
}

#[test]
fn a_single_newcomer_is_checked_at_once() {
    assert_eq!(first_pause(&check(1, 3), 1, &mut Rng::new(7)), Duration::ZERO);
}

#[test]
fn the_interval_of_quiet_times_is_never_the_shorter_one() {
    let check = HealthCheck { jitter: 0, no_traffic_interval: Duration::from_secs(1), ..check(1, 3) };
    assert_eq!(pause(&check, None, &mut Rng::new(1)), Duration::from_secs(10));
}
