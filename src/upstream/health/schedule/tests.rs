//! Which endpoint is checked when, with time of the test and answers of the test.

use outrigger_config::model::Probe;

use super::super::LastCheck;
use super::*;
use crate::policy::health::Health;
use crate::telemetry::metrics::CheckResult;
use crate::upstream::standing::Against;
use crate::upstream::world::{World, endpoint};

const SECOND: Duration = Duration::from_secs(1);

fn check() -> HealthCheck {
    HealthCheck {
        probe: Probe::Tcp,
        interval: SECOND * 10,
        jitter: 10,
        timeout: SECOND,
        healthy_threshold: 1,
        unhealthy_threshold: 2,
        no_traffic_interval: SECOND * 60,
        port: None,
    }
}

fn world(endpoints: u16) -> World {
    World::new(|cluster| {
        cluster.health_check = Some(check());
        cluster.endpoints = (1..=endpoints).map(endpoint).collect();
    })
}

fn said(result: CheckResult, at: Instant) -> Ended {
    let last = LastCheck { at, took: Duration::ZERO, result, reason: "so".into() };
    Ended { last, line: None }
}

/// The checks that are due, by port; they end at once, all with this result.
fn run(schedule: &mut Schedule, result: CheckResult, now: Instant) -> Vec<u16> {
    let mut ports = Vec::new();
    while let Some((id, due)) = schedule.take_due(now) {
        ports.push(due.endpoint.address.port());
        schedule.ended(id, said(result, now), now);
    }
    ports
}

#[test]
fn ten_thousand_newcomers_are_spread_over_an_interval() {
    let world = world(10_000);
    let mut schedule = Schedule::new(7, 100);
    let start = world.now();
    schedule.follow(&[Arc::clone(&world.cluster)], start);
    let mut checked = 0;
    for step in 1..=100 {
        let now = start + Duration::from_millis(100) * step;
        let due = run(&mut schedule, CheckResult::Success, now).len();
        assert!((50..=160).contains(&due), "{due} in a tenth of a second");
        checked += due;
    }
    assert_eq!(checked, 10_000);
    // Without traffic they come again after a minute, still spread.
    assert_eq!(run(&mut schedule, CheckResult::Success, start + SECOND * 53).len(), 0);
    let soon = run(&mut schedule, CheckResult::Success, start + SECOND * 60).len();
    assert!((100..=4000).contains(&soon), "{soon}");
}

#[test]
fn few_newcomers_are_checked_at_once_and_then_at_the_interval() {
    let world = world(3);
    let mut schedule = Schedule::new(7, 100);
    let start = world.now();
    world.cluster.state().traffic.note(start);
    schedule.follow(&[Arc::clone(&world.cluster)], start);
    let mut ports = run(&mut schedule, CheckResult::Success, start + Duration::from_millis(3));
    ports.sort_unstable();
    assert_eq!(ports, [1, 2, 3]);
    assert_eq!(run(&mut schedule, CheckResult::Success, start + SECOND * 9), [0_u16; 0]);
    assert_eq!(run(&mut schedule, CheckResult::Success, start + SECOND * 12).len(), 3);
    assert_eq!(world.endpoint(2).checked.get().health, Health::Healthy { bad: 0 });
}

#[test]
fn what_checks_say_is_against_an_endpoint_until_they_say_otherwise() {
    let world = world(1);
    let mut schedule = Schedule::new(7, 100);
    let mut now = world.now();
    let endpoint = world.endpoint(1);
    assert!(endpoint.standing.has(Against::Unchecked));
    schedule.follow(&[Arc::clone(&world.cluster)], now);
    let mut epoch = world.cluster.state().health_epoch.get();
    let results = [
        (CheckResult::Timeout, false, true),
        (CheckResult::Success, true, true),
        (CheckResult::Failure, true, false),
        (CheckResult::Unreachable, false, true),
        (CheckResult::Failure, false, false),
        (CheckResult::Success, true, true),
    ];
    for (result, good, changed) in results {
        assert_eq!(run(&mut schedule, result, now), [1]);
        assert_eq!(endpoint.standing.is_good(), good, "{result:?}");
        let next = world.cluster.state().health_epoch.get();
        assert_eq!(next != epoch, changed, "{result:?}");
        epoch = next;
        now += SECOND * 70;
    }
}

#[test]
fn those_that_leave_are_not_checked_and_those_that_stay_keep_their_turn() {
    let mut world = world(4);
    let mut schedule = Schedule::new(7, 100);
    let start = world.now();
    schedule.follow(&[Arc::clone(&world.cluster)], start);
    run(&mut schedule, CheckResult::Success, start + SECOND);
    world.apply(|cluster| cluster.endpoints = [3, 4, 5].map(endpoint).into());
    schedule.follow(&[Arc::clone(&world.cluster)], start + SECOND);
    assert_eq!(run(&mut schedule, CheckResult::Success, start + SECOND), [5]);
    let mut later = run(&mut schedule, CheckResult::Success, start + SECOND * 70);
    later.sort_unstable();
    assert_eq!(later, [3, 4, 5]);
    world.apply(|cluster| cluster.health_check = None);
    schedule.follow(&[Arc::clone(&world.cluster)], start + SECOND * 70);
    assert_eq!(run(&mut schedule, CheckResult::Success, start + SECOND * 1000), [0_u16; 0]);
    assert_eq!(world.endpoint(4).checked.get().health, Health::Unchecked);
    assert!(world.endpoint(4).standing.is_good(), "nobody asks");
}

#[test]
fn checks_that_are_switched_on_disturb_nobody_who_serves() {
    let mut world = World::new(|cluster| cluster.endpoints = [1, 2].map(endpoint).into());
    world.apply(|cluster| {
        cluster.health_check = Some(check());
        cluster.endpoints.push(endpoint(3));
    });
    let unchecked = [1, 2, 3].map(|port| world.endpoint(port).standing.has(Against::Unchecked));
    assert_eq!(unchecked, [false, false, true]);
}

#[test]
fn traffic_after_quiet_times_brings_checks_forward() {
    let world = world(50);
    let mut schedule = Schedule::new(7, 100);
    let start = world.now();
    schedule.follow(&[Arc::clone(&world.cluster)], start);
    assert_eq!(run(&mut schedule, CheckResult::Success, start + SECOND).len(), 50);
    assert_eq!(run(&mut schedule, CheckResult::Success, start + SECOND * 20), [0_u16; 0]);
    world.cluster.state().traffic.note(start + SECOND * 20);
    let within: usize = (21..=31).map(|at| run(&mut schedule, CheckResult::Success, start + SECOND * at).len()).sum();
    assert!(within >= 50, "all within an interval, and {within} were");
}

#[test]
fn a_shorter_interval_does_not_wait_for_the_end_of_the_longer_one() {
    let mut world = world(1);
    let mut schedule = Schedule::new(7, 100);
    let start = world.now();
    schedule.follow(&[Arc::clone(&world.cluster)], start);
    run(&mut schedule, CheckResult::Success, start);
    world.apply(|cluster| {
        let check = cluster.health_check.as_mut().expect("it is checked");
        (check.interval, check.no_traffic_interval) = (SECOND, SECOND);
    });
    schedule.follow(&[Arc::clone(&world.cluster)], start + SECOND);
    assert_eq!(run(&mut schedule, CheckResult::Success, start + SECOND * 3), [1]);
}

#[tokio::test]
async fn a_check_that_was_lost_is_made_again_and_one_of_an_endpoint_that_left_is_stopped() {
    let mut world = world(1);
    let mut schedule = Schedule::new(7, 100);
    let start = world.now();
    schedule.follow(&[Arc::clone(&world.cluster)], start);
    let (id, _) = schedule.take_due(start).expect("it is due");
    let lost = tokio::spawn(std::future::pending::<()>());
    schedule.began(id, lost.abort_handle());
    schedule.lost(lost.id(), start);
    let (id, _) = schedule.take_due(start + SECOND * 70).expect("it is due again");
    let stopped = tokio::spawn(std::future::pending::<()>());
    schedule.began(id, stopped.abort_handle());
    world.apply(|cluster| cluster.endpoints = vec![endpoint(2)]);
    schedule.follow(&[Arc::clone(&world.cluster)], start + SECOND * 70);
    assert!(stopped.await.expect_err("it does not end by itself").is_cancelled());
    schedule.ended(id, said(CheckResult::Failure, start), start);
    lost.abort();
}

/// Two configurations may follow each other faster than the schedule looks.
#[test]
fn checks_that_fall_between_two_configurations_are_made_after_the_second() {
    let mut world = world(3);
    let mut schedule = Schedule::new(7, 100);
    let start = world.now();
    schedule.follow(&[Arc::clone(&world.cluster)], start);
    assert_eq!(run(&mut schedule, CheckResult::Success, start + SECOND).len(), 3);
    let now = start + SECOND * 70;
    // One check is under way, and the others are due.
    let (id, under_way) = schedule.take_due(now).expect("it is due");
    world.apply(|_| {});
    drop(under_way);
    schedule.ended(id, said(CheckResult::Success, now), now);
    assert_eq!(run(&mut schedule, CheckResult::Success, now), [0_u16; 0], "the cluster they were due for has gone");
    schedule.follow(&[Arc::clone(&world.cluster)], now);
    for now in [now, now + SECOND * 70] {
        let mut ports = run(&mut schedule, CheckResult::Success, now);
        ports.sort_unstable();
        assert_eq!(ports, [1, 2, 3]);
    }
}

#[test]
fn no_more_lines_are_kept_than_there_is_room_for() {
    let world = world(5);
    let mut schedule = Schedule::new(7, 2);
    let start = world.now();
    schedule.follow(&[Arc::clone(&world.cluster)], start);
    for round in 0..3 {
        let now = start + SECOND * 70 * (round + 1);
        let mut kept = 0;
        while let Some((id, due)) = schedule.take_due(now) {
            kept += usize::from(due.line.is_some());
            let line = Some(due.line.unwrap_or_else(|| Line::idle(&due.endpoint)));
            schedule.ended(id, Ended { line, ..said(CheckResult::Success, now) }, now);
        }
        assert_eq!(kept, if round == 0 { 0 } else { 2 });
        assert_eq!(schedule.kept, 2);
        schedule.follow(&[Arc::clone(&world.cluster)], now);
        assert_eq!(schedule.kept, 2);
    }
}
