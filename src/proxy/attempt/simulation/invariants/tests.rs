//! Each check is told of what must not happen, and must say so.

use outrigger_config::model::{Breaker, RetryBudget, Setting};

use super::*;
use crate::policy::breaker::{Force, Machine, State};

const CLOSED: Machine = Machine { state: State::Closed, force: Force::Auto, generation: 7, row: 0, answered: false };

fn machine(state: State, generation: u16) -> Machine {
    Machine { state, generation, ..CLOSED }
}

fn open(generation: u16) -> Machine {
    machine(State::Open { until: 1_000 }, generation)
}

fn half_open(generation: u16) -> Machine {
    machine(State::HalfOpen { probe: Some(1_000) }, generation)
}

/// Written by somebody.
fn strict() -> Breaker {
    let place = outrigger_config::model::Place { file: "test".into(), line: 1, column: 1 };
    Breaker { failure_threshold: Setting { value: 5, place: Some(place) }, ..Breaker::default() }
}

fn admitted(number: u64, is_probe: bool, settings: &Breaker, now: Instant) -> Admitted<'_> {
    Admitted { number, is_probe, settings, now }
}

/// Closed, open, half-open with the request 1 as its probe.
fn probing(now: Instant) -> WatchedBreaker {
    let mut breaker = WatchedBreaker::new(CLOSED);
    breaker.see(open(8), Step::Told(0)).expect("it opens");
    breaker.see(half_open(9), Step::Asked).expect("it probes");
    breaker.admit(admitted(1, true, &strict(), now)).expect("it is the probe");
    breaker
}

#[test]
fn a_breaker_opens_probes_and_closes() {
    let now = Instant::now();
    probing(now).see(machine(State::Closed, 10), Step::Told(1)).expect("the probe went well");
    probing(now).see(machine(State::Ramp { since: 1 }, 10), Step::Told(1)).expect("the probe went well");
    probing(now).see(open(10), Step::Told(1)).expect("the probe failed");
    probing(now).see(Machine { force: Force::Open, ..half_open(10) }, Step::Ordered).expect("an order");
}

#[test]
fn a_transition_that_there_is_not_is_found() {
    let now = Instant::now();
    let closed = || WatchedBreaker::new(CLOSED);
    closed().see(half_open(8), Step::Asked).expect_err("from closed to half-open");
    closed().see(open(8), Step::Asked).expect_err("opened by a question");
    closed().see(open(9), Step::Told(0)).expect_err("two steps at once");
    closed().see(open(7), Step::Told(0)).expect_err("no new generation");
    let opened = || WatchedBreaker::new(open(8));
    opened().see(machine(State::Closed, 9), Step::Told(3)).expect_err("from open to closed");
    opened().see(half_open(9), Step::Told(3)).expect_err("half-open though nobody asked");
    probing(now).see(machine(State::Closed, 10), Step::Told(2)).expect_err("closed by another than the probe");
    probing(now).see(open(10), Step::Told(2)).expect_err("opened by another than the probe");
    let mut forced = WatchedBreaker::new(Machine { force: Force::Closed, ..CLOSED });
    forced.see(Machine { force: Force::Closed, ..open(8) }, Step::Told(1)).expect_err("although it was ordered");
    let mut gone = probing(now);
    gone.ended(1);
    gone.see(machine(State::Closed, 10), Step::Told(1)).expect_err("by a probe that had ended");
}

#[test]
fn a_second_request_through_a_half_open_breaker_is_found() {
    let (now, settings) = (Instant::now(), strict());
    let soon = now + Duration::from_secs(1);
    let mut breaker = probing(now);
    breaker.see(half_open(10), Step::Asked).expect("a new generation alone is none of our business");
    breaker.admit(admitted(2, true, &settings, soon)).expect_err("two probes");
    probing(now).admit(admitted(2, false, &settings, soon)).expect_err("another beside the probe");
    probing(now).admit(admitted(2, true, &settings, now + settings.reset_timeout)).expect("the first takes too long");
    let mut opened = WatchedBreaker::new(open(8));
    opened.admit(admitted(1, false, &settings, now)).expect_err("through an open breaker");
    opened.admit(admitted(1, false, &Breaker::default(), now)).expect_err("tolerated, and it does not answer");
    let mut answers = WatchedBreaker::new(Machine { answered: true, ..open(8) });
    answers.admit(admitted(1, false, &Breaker::default(), now)).expect("it answers, and nobody asked for the breaker");
    answers.see(machine(State::Closed, 9), Step::Told(1)).expect("it is well again");
    let mut forced = WatchedBreaker::new(Machine { force: Force::Open, ..CLOSED });
    forced.admit(admitted(1, false, &settings, now)).expect_err("through what was ordered open");
    WatchedBreaker::new(CLOSED).admit(admitted(1, true, &settings, now)).expect_err("a probe while it is closed");
}

#[test]
fn what_ends_more_often_than_it_began_is_found_and_what_never_ends() {
    let mut gauge = Gauge::default();
    gauge.down().expect_err("below zero");
    gauge.up();
    gauge.is_quiet().expect_err("one is left");
    gauge.down().expect("it ends");
    gauge.is_quiet().expect("nothing is left");
}

#[test]
fn a_request_after_its_deadline_is_found() {
    let now = Instant::now();
    sent(now, None).expect("no deadline");
    sent(now, Some(now + Duration::from_nanos(1))).expect("in time");
    sent(now, Some(now)).expect_err("too late");
    let second = Duration::from_secs(1);
    told(second, now, now + second).expect("all of it");
    told(second, now, now + second - Duration::from_nanos(1)).expect_err("more than is left");
}

#[test]
fn the_ejection_of_the_last_endpoint_is_found() {
    let usual = Ejection { endpoints: 4, out: 2, left: 2, percent: 50 };
    usual.check().expect("half of them");
    Ejection { out: 3, left: 1, ..usual }.check().expect_err("more than half of them");
    Ejection { left: 0, ..usual }.check().expect_err("checks had taken out the others");
    Ejection { endpoints: 1, out: 1, left: 0, percent: 100 }.check().expect_err("the only one");
    Ejection { endpoints: 3, out: 3, left: 0, percent: 100 }.check().expect_err("all");
    Ejection { endpoints: 3, out: 1, left: 2, percent: 10 }.check().expect("one of several always");
    Ejection { endpoints: 3, out: 1, left: 2, percent: 0 }.check().expect_err("none at all");
}

#[test]
fn spending_beyond_the_budget_is_found() {
    let limits = RetryBudget { percent: 20, min_per_second: 1 };
    for what in [Spent::Retry, Spent::Hedge] {
        let mut spending = Spending::default();
        (0..10).for_each(|_| spending.spend(Spent::Request, 0));
        spending.grant(what, limits, 0).expect("a fifth");
        spending.grant(what, limits, 0).expect("a fifth");
        spending.grant(what, limits, 0).expect_err("more than a fifth");
        let mut spending = Spending::default();
        spending.grant(what, limits, 30).expect("one a second");
        spending.grant(what, limits, 30).expect_err("two a second");
        spending.grant(what, limits, 31).expect("one a second");
    }
}

#[test]
fn waiting_for_too_long_is_found() {
    let (began, most) = (Instant::now(), Duration::from_millis(100));
    waited(began, began + most, most, None).expect("all of it");
    waited(began, began + most + TIMER * 2, most, None).expect_err("longer");
    let deadline = Some(began + most / 2);
    waited(began, began + most, most, deadline).expect_err("beyond the deadline");
    waited(began, began, most, Some(began - most)).expect("not at all, after it");
}
