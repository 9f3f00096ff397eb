use super::*;
use crate::policy::rng::Rng;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

fn settings() -> OutlierDetection {
    OutlierDetection::default()
}

fn letter(letter: char) -> Evidence {
    match letter {
        '+' => Evidence::Success,
        'e' => Evidence::ServerError,
        'g' => Evidence::GatewayError,
        'l' => Evidence::LocalFailure,
        other => panic!("no evidence: {other}"),
    }
}

/// Where causes come up.
fn causes(evidence: &str, settings: &OutlierDetection) -> Vec<(usize, Cause)> {
    let conduct = Conduct::default();
    let note = |(at, evidence)| {
        let cause = conduct.note(letter(evidence), settings)?;
        conduct.forgive(cause);
        Some((at, cause))
    };
    (1..).zip(evidence.chars()).filter_map(note).collect()
}

#[test]
fn five_errors_of_any_kind_in_a_row_are_one_cause() {
    assert_eq!(causes("eglgeeee+eeee", &settings()), [(5, Cause::ConsecutiveErrors)]);
    assert_eq!(causes("eeee+eeee", &settings()), []);
    assert_eq!(causes("eeeeeeeeee", &settings()).len(), 2, "it is looked at again after as many");
}

#[test]
fn gateway_errors_are_a_cause_of_their_own_and_other_errors_interrupt_them() {
    let settings = OutlierDetection { consecutive_errors: 0, consecutive_gateway_errors: 3, ..settings() };
    assert_eq!(causes("ggl", &settings), [(3, Cause::ConsecutiveGatewayErrors)]);
    assert_eq!(causes("ggegg", &settings), []);
}

#[test]
fn with_the_split_what_got_no_answer_counts_by_itself() {
    let settings = OutlierDetection {
        split_local_origin: true,
        consecutive_local_errors: 3,
        consecutive_errors: 3,
        consecutive_gateway_errors: 3,
        ..settings()
    };
    assert_eq!(causes("lll", &settings), [(3, Cause::ConsecutiveLocalErrors)]);
    assert_eq!(causes("elelel", &settings), [(5, Cause::ConsecutiveErrors)], "an answer, even an error, is one");
    assert_eq!(causes("ll+ll", &settings), []);
}

#[test]
fn thresholds_of_zero_are_off() {
    let off = OutlierDetection { consecutive_errors: 0, consecutive_local_errors: 0, ..settings() };
    assert_eq!(causes(&"eglgl".repeat(20), &off), []);
    let split = OutlierDetection { split_local_origin: true, ..off };
    assert_eq!(causes(&"l".repeat(20), &split), []);
}

#[test]
fn a_cause_stays_until_it_is_forgiven() {
    let conduct = Conduct::default();
    let seen: Vec<_> = (0..7).map(|_| conduct.note(Evidence::ServerError, &settings()).is_some()).collect();
    assert_eq!(seen, [false, false, false, false, true, true, true]);
    conduct.reset();
    assert_eq!(conduct.note(Evidence::ServerError, &settings()), None);
}

#[test]
fn requests_of_an_interval_are_counted_and_taken_once() {
    let conduct = Conduct::default();
    for evidence in "++el".chars() {
        conduct.note(letter(evidence), &settings());
    }
    assert_eq!(conduct.take_rates(), (Rate { requests: 4, good: 2 }, Rate::default()));
    assert_eq!(conduct.take_rates().0, Rate::default());
    let split = OutlierDetection { split_local_origin: true, ..settings() };
    for evidence in "++el".chars() {
        conduct.note(letter(evidence), &split);
    }
    assert_eq!(conduct.take_rates(), (Rate { requests: 3, good: 2 }, Rate { requests: 4, good: 3 }));
}

#[test]
fn how_many_of_few_may_be_out() {
    let out = |percent: u8| {
        let settings = OutlierDetection { max_ejection_percent: percent, ..settings() };
        [0, 1, 2, 3, 4, 5, 10].map(|endpoints| may_be_out(endpoints, &settings))
    };
    assert_eq!(out(50), [0, 0, 1, 1, 2, 2, 5]);
    assert_eq!(out(10), [0, 0, 1, 1, 1, 1, 1], "at least one");
    assert_eq!(out(100), [0, 0, 1, 2, 3, 4, 9], "never the last");
    assert_eq!(out(0), [0; 7], "unless it is to be none");
}

fn rates(percents: &[u32]) -> Vec<Rate> {
    percents.iter().map(|percent| Rate { requests: 1000, good: percent * 10 }).collect()
}

#[test]
fn who_is_far_below_the_others_is_found_the_worst_first() {
    // Mean 91, standard deviation about 20.2: below 52.6.
    assert_eq!(below_the_others(&rates(&[100, 100, 100, 100, 100, 100, 100, 98, 40, 72]), &settings()), [8]);
    let two = OutlierDetection { success_rate_stdev_factor: 1000, ..settings() };
    assert_eq!(below_the_others(&rates(&[100, 60, 100, 100, 100, 100, 100, 30]), &two), [7, 1]);
}

#[test]
fn equal_rates_are_equal_however_bad() {
    for percent in [0, 7, 33, 100] {
        let none = OutlierDetection { success_rate_stdev_factor: 0, ..settings() };
        assert_eq!(below_the_others(&rates(&[percent; 7]), &none), [0; 0]);
    }
}

#[test]
fn rates_are_judged_where_enough_had_enough() {
    let one_bad = rates(&[100, 100, 100, 100, 0]);
    let strict = OutlierDetection { success_rate_stdev_factor: 1000, ..settings() };
    assert_eq!(below_the_others(&one_bad, &strict), [4]);
    assert_eq!(below_the_others(&one_bad[1..], &strict), [0; 0], "four are too few");
    let mut few = one_bad.clone();
    few[4].requests = 99;
    assert_eq!(below_the_others(&few, &strict), [0; 0], "it had too few requests");
    let off = OutlierDetection { success_rate_min_hosts: 0, ..strict };
    assert_eq!(below_the_others(&one_bad, &off), [0; 0]);
}

fn lasts(ejections: &mut Ejections, now: Instant) -> Duration {
    let ejection = ejections.begin(Cause::ConsecutiveErrors, &settings(), now, &mut Rng::new(3));
    let lasts = ejection.until - now;
    ejections.end(now + lasts);
    lasts
}

fn about(lasts: Duration, seconds: u32) -> bool {
    let longest = SECOND * seconds;
    lasts <= longest && lasts >= longest.mul_f64(0.9)
}

#[test]
fn each_ejection_lasts_longer_up_to_the_longest() {
    let mut ejections = Ejections::default();
    let now = Instant::now();
    for seconds in [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300, 300] {
        let lasts = lasts(&mut ejections, now);
        assert!(about(lasts, seconds), "{lasts:?} for {seconds}");
    }
    assert_eq!(ejections.times, 10, "those that make it no longer do not count");
}

#[test]
fn each_interval_it_gets_through_counts_one_fewer() {
    let mut ejections = Ejections::default();
    let start = Instant::now();
    (0..3).for_each(|_| assert!(lasts(&mut ejections, start) > SECOND));
    let interval = SECOND * 10;
    // It came back between two intervals: the first one is not whole.
    ejections.end(start);
    ejections.got_through(interval, start + SECOND * 4);
    assert_eq!(ejections.times, 3);
    for (after, times) in [(14, 2), (18, 2), (24, 1), (34, 0), (44, 0)] {
        ejections.got_through(interval, start + SECOND * after);
        assert_eq!(ejections.times, times, "after {after} s");
    }
    assert!(about(lasts(&mut ejections, start), 30));
}

#[test]
fn an_ejection_is_due_at_its_end() {
    let mut ejections = Ejections::default();
    let now = Instant::now();
    let until = ejections.begin(Cause::SuccessRate, &settings(), now, &mut Rng::new(1)).until;
    assert!(!ejections.is_due(until - Duration::from_nanos(1)) && ejections.is_due(until));
    ejections.got_through(SECOND, until);
    assert_eq!(ejections.times, 1, "while it is out it gets through nothing");
    ejections.end(until);
    assert!(!ejections.is_due(until));
}

#[test]
fn a_base_beyond_the_longest_holds() {
    let settings = OutlierDetection { base_ejection: SECOND * 900, ..settings() };
    let now = Instant::now();
    let ejection = Ejections::default().begin(Cause::SuccessRate, &settings, now, &mut Rng::new(1));
    assert!(about(ejection.until - now, 900));
}

proptest! {
    #[test]
    fn never_all_and_never_more_than_the_share_but_one(endpoints in 0..10_000_usize, percent in 0..=100_u8) {
        let settings = OutlierDetection { max_ejection_percent: percent, ..settings() };
        let out = may_be_out(endpoints, &settings);
        prop_assert!(out == 0 || out < endpoints);
        prop_assert!(out <= 1 || out * 100 <= endpoints * usize::from(percent), "{out} of {endpoints}");
        prop_assert_eq!(out == 0, endpoints < 2 || percent == 0);
    }

    /// Against the mathematics as written down, in the plainest way: z = (x - mean) / stdev < -factor.
    #[test]
    fn the_success_rate_rule_is_the_one_of_the_books(
        counts in proptest::collection::vec((0..400_u32, 0..=1000_u32), 0..30),
        factor in 0..4000_u32,
    ) {
        let rates: Vec<Rate> =
            counts.iter().map(|&(requests, share)| Rate { requests, good: requests * share / 1000 }).collect();
        let settings = OutlierDetection { success_rate_stdev_factor: factor, ..settings() };
        let found = below_the_others(&rates, &settings);
        let judged: Vec<f64> = rates
            .iter()
            .filter(|rate| rate.requests >= 100)
            .map(|rate| f64::from(rate.good) * 100.0 / f64::from(rate.requests))
            .collect();
        let mean = judged.iter().sum::<f64>() / judged.len() as f64;
        let stdev = (judged.iter().map(|x| x * x).sum::<f64>() / judged.len() as f64 - mean * mean).max(0.0).sqrt();
        for (at, rate) in rates.iter().enumerate() {
            let x = f64::from(rate.good) * 100.0 / f64::from(rate.requests.max(1));
            let distance = mean - x - stdev * f64::from(factor) / 1000.0;
            // On the line the two sums may differ.
            if judged.len() < 5 || rate.requests < 100 {
                prop_assert!(!found.contains(&at));
            } else if distance.abs() > 1e-5 {
                prop_assert_eq!(found.contains(&at), distance > 0.0, "{} of {:?}", x, judged);
            }
        }
        prop_assert!(found.len() < judged.len().max(1), "somebody is not below the mean");
    }
}
