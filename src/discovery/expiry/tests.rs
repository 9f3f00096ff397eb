use super::*;
use std::time::UNIX_EPOCH;

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);

fn at(hours: f64) -> SystemTime {
    UNIX_EPOCH + HOUR.mul_f64(hours + 1000.0)
}

fn term(begin: f64, end: f64) -> Term {
    Term { not_before: at(begin), not_after: at(end), from: Stage::Half }
}

/// Lives through the hours minute by minute and notes what is said, with the hour.
fn live(
    terms: impl Fn(f64) -> Vec<(&'static str, Term)>,
    hours: std::ops::Range<f64>,
) -> Vec<(f64, &'static str, Stage)> {
    let mut reminder = Reminder::new();
    let mut told = Vec::new();
    let minutes = ((hours.end - hours.start) * 60.0) as u32;
    for minute in 0..=minutes {
        let hour = hours.start + f64::from(minute) / 60.0;
        let now = at(hours.start) + MINUTE * minute;
        told.extend(reminder.due(&terms(hour), now).into_iter().map(|(key, stage)| (hour, key, stage)));
    }
    told
}

#[test]
fn a_certificate_that_nobody_renews_is_spoken_of_four_times_and_then_every_hour() {
    let told = live(|_| vec![("leaf", term(0.0, 20.0))], 0.0..22.5);
    let expected = [
        (10.0, "leaf", Stage::Half),
        (15.0, "leaf", Stage::Quarter),
        (18.0, "leaf", Stage::Tenth),
        (20.0, "leaf", Stage::Expired),
        (21.0, "leaf", Stage::Expired),
        (22.0, "leaf", Stage::Expired),
    ];
    assert_eq!(told, expected);
}

#[test]
fn certificates_that_are_renewed_before_half_their_life_are_never_spoken_of() {
    const NAMES: [&str; 8] = ["0", "1", "2", "3", "4", "5", "6", "7"];
    let told = live(
        |hour| {
            // A new one every 11 hours, each of 24.
            let number = (hour / 11.0) as usize;
            let begin = number as f64 * 11.0;
            vec![(NAMES[number], term(begin, begin + 24.0))]
        },
        0.0..80.0,
    );
    assert_eq!(told, []);
}

#[test]
fn a_renewal_ends_the_warnings_and_the_next_one_begins_anew() {
    let told = live(
        |hour| if hour < 16.0 { vec![("old", term(0.0, 20.0))] } else { vec![("new", term(16.0, 36.0))] },
        0.0..27.0,
    );
    assert_eq!(told, [(10.0, "old", Stage::Half), (15.0, "old", Stage::Quarter), (26.0, "new", Stage::Half)]);
}

#[test]
fn after_a_start_the_present_stage_is_said_once() {
    let told = live(|_| vec![("leaf", term(0.0, 20.0))], 16.0..17.5);
    assert_eq!(told, [(16.0, "leaf", Stage::Quarter)]);
}

#[test]
fn a_term_may_be_spoken_of_only_from_a_later_stage_on() {
    let root = Term { from: Stage::Quarter, ..term(0.0, 20.0) };
    let told = live(|_| vec![("root", root)], 0.0..16.0);
    assert_eq!(told, [(15.0, "root", Stage::Quarter)]);
}

#[test]
fn a_clock_that_is_set_back_repeats_nothing() {
    let terms = [("leaf", term(0.0, 20.0))];
    let mut reminder = Reminder::new();
    assert_eq!(reminder.due(&terms, at(18.5)), [("leaf", Stage::Tenth)]);
    assert_eq!(reminder.due(&terms, at(12.0)), []);
    assert_eq!(reminder.due(&terms, at(18.6)), []);
    assert_eq!(reminder.due(&terms, at(20.0)), [("leaf", Stage::Expired)]);
    assert_eq!(reminder.due(&terms, at(3.0)), []);
}

#[test]
fn dates_in_the_wrong_order_have_only_an_end() {
    let odd = term(20.0, 10.0);
    assert_eq!((odd.stage(at(5.0)), odd.stage(at(10.0))), (Stage::Fresh, Stage::Expired));
}

#[test]
fn the_next_look_is_at_the_next_stage_and_never_far_away() {
    let terms = [("short", term(0.0, 0.01)), ("long", term(0.0, 24.0))];
    assert_eq!(next_look(&terms, at(0.0)), HOUR.mul_f64(0.005));
    assert_eq!(next_look(&terms, at(1.0)), MINUTE);
    assert_eq!(next_look(&terms[..0], at(0.0)), MINUTE);
    let almost = at(12.0) - Duration::from_secs(2);
    assert_eq!(next_look(&terms, almost), Duration::from_secs(2));
}
