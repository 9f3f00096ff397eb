//! Ejection as a whole: over a registry, with a clock of the test.

use std::time::Duration;

use outrigger_config::model::{Condition, OutlierDetection};
use proptest::prelude::*;

use crate::policy::outlier::{Cause, may_be_out};
use crate::policy::rng::Rng;
use crate::upstream::standing::Against;
use crate::upstream::world::{World, endpoint};
use crate::upstream::{Outcome, Permit, PickHint};

const SECOND: Duration = Duration::from_secs(1);

impl World {
    fn with(endpoints: u16, settings: OutlierDetection) -> Self {
        Self::new(|cluster| {
            cluster.outlier_detection = Some(settings);
            cluster.endpoints = (1..=endpoints).map(endpoint).collect();
        })
    }

    fn ports_out(&self) -> Vec<u16> {
        let set = self.cluster.endpoints();
        let out = set.members().iter().filter(|member| member.state.standing.has(Against::Ejected));
        out.map(|member| member.state.address.port()).collect()
    }

    /// So many requests to one endpoint end so.
    fn report(&self, port: u16, outcome: Outcome, times: u32) {
        let endpoint = self.endpoint(port);
        for _ in 0..times {
            self.cluster.state().note_outcome(&endpoint, outcome, self.now());
        }
    }

    /// Time passes, and the control thread does its work once a second.
    fn pass(&self, seconds: u32) {
        for _ in 0..seconds {
            self.advance(SECOND);
            self.registry.judge_outliers(self.now());
        }
    }
}

#[test]
fn five_failures_in_a_row_eject_at_once_for_half_a_minute() {
    let world = World::with(3, OutlierDetection::default());
    let epoch = world.cluster.state().health_epoch.get();
    world.report(1, Outcome::Broken, 4);
    assert_eq!(world.ports_out(), [0_u16; 0]);
    world.report(1, Outcome::ServerError, 1);
    assert_eq!((world.ports_out(), world.cluster.state().outliers.out()), (vec![1], 1));
    assert_ne!(world.cluster.state().health_epoch.get(), epoch);
    assert_eq!(world.endpoint(1).outlier.ejection().expect("out").cause, Cause::ConsecutiveErrors);
    world.pass(20);
    assert_eq!(world.ports_out(), [1]);
    world.pass(10);
    assert_eq!((world.ports_out(), world.cluster.state().outliers.out()), (vec![], 0));
    world.report(1, Outcome::Broken, 4);
    assert_eq!(world.ports_out(), [0_u16; 0], "it begins anew");
    world.report(1, Outcome::Broken, 1);
    world.pass(50);
    assert_eq!(world.ports_out(), [1], "the second one is longer");
    world.pass(10);
    assert_eq!(world.ports_out(), [0_u16; 0]);
}

#[test]
fn what_reports_come_through_permits() {
    let world = World::with(2, OutlierDetection::default());
    let mut rng = Rng::new(1);
    let mut permits: Vec<Permit> = Vec::new();
    for _ in 0..40 {
        let permit = world.cluster.pick(&PickHint::default(), &mut rng, world.now()).expect("there is room");
        if permit.member().state.address.port() == 2 {
            permit.report(Outcome::GatewayError, world.now());
        }
        permits.push(permit);
    }
    assert_eq!(world.ports_out(), [2]);
    let quiet = world.cluster.state().traffic.quiet(world.now());
    assert_eq!(quiet, Some(Duration::ZERO), "requests are traffic");
}

#[test]
fn a_refusal_for_load_is_no_error_and_what_only_began_says_nothing() {
    let world = World::with(2, OutlierDetection::default());
    world.report(1, Outcome::Busy, 20);
    world.report(1, Outcome::Broken, 4);
    world.report(1, Outcome::Answering(SECOND), 1);
    assert_eq!(world.ports_out(), [0_u16; 0]);
    world.report(1, Outcome::Broken, 1);
    assert_eq!(world.ports_out(), [1], "its head had come, and then it broke off once more");
}

#[test]
fn of_few_as_many_go_as_may_and_never_the_last() {
    for (endpoints, most) in [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2)] {
        let world = World::with(endpoints, OutlierDetection::default());
        for port in 1..=endpoints {
            world.report(port, Outcome::Broken, 10);
        }
        assert_eq!(world.ports_out().len(), most, "of {endpoints}");
    }
}

#[test]
fn the_last_one_that_is_fit_stays_whatever_the_share() {
    let all = OutlierDetection { max_ejection_percent: 100, ..OutlierDetection::default() };
    let mut world = World::with(3, all);
    world.apply(|cluster| cluster.endpoints[1].condition = Condition::Draining);
    world.endpoint(1).standing.set(Against::Unhealthy);
    world.report(3, Outcome::Broken, 20);
    assert_eq!(world.ports_out(), [0_u16; 0], "one fails its checks, one goes away");
    world.endpoint(1).standing.clear(Against::Unhealthy);
    world.report(3, Outcome::Broken, 5);
    assert_eq!(world.ports_out(), [3]);
}

#[test]
fn ejections_outlive_configurations_and_end_without_the_setting() {
    let mut world = World::with(4, OutlierDetection::default());
    world.report(1, Outcome::Broken, 5);
    world.report(2, Outcome::Broken, 5);
    world.apply(|cluster| cluster.ceilings.max_requests = 7);
    assert_eq!(world.ports_out(), [1, 2]);
    world.report(3, Outcome::Broken, 5);
    assert_eq!(world.ports_out(), [1, 2], "they still count");
    world.apply(|cluster| cluster.outlier_detection = None);
    assert_eq!(world.ports_out(), [0_u16; 0]);
    world.report(3, Outcome::Broken, 50);
    assert_eq!(world.ports_out(), [0_u16; 0]);
    world.apply(|cluster| cluster.outlier_detection = Some(OutlierDetection::default()));
    assert_eq!((world.ports_out(), world.endpoint(1).outlier.ejections()), (vec![], 0));
}

#[test]
fn fewer_endpoints_bring_the_soonest_back() {
    let mut world = World::with(8, OutlierDetection::default());
    for port in 1..=4 {
        world.report(port, Outcome::Broken, 5);
        world.pass(5);
    }
    assert_eq!(world.ports_out(), [1, 2, 3, 4]);
    world.apply(|cluster| cluster.endpoints.truncate(5));
    assert_eq!(world.ports_out(), [3, 4], "half of five");
    world.apply(|cluster| cluster.endpoints = vec![endpoint(3)]);
    assert_eq!(world.ports_out(), [0_u16; 0], "the last one");
}

#[test]
fn an_endpoint_that_leaves_and_returns_is_still_out_and_one_that_left_takes_no_place() {
    let mut world = World::with(4, OutlierDetection::default());
    world.report(1, Outcome::Broken, 5);
    let gone = world.endpoint(1);
    world.apply(|cluster| cluster.endpoints.remove(0).weight = 1);
    assert_eq!(world.cluster.state().outliers.out(), 0);
    world.cluster.state().note_outcome(&gone, Outcome::Broken, world.now());
    world.report(2, Outcome::Broken, 5);
    assert_eq!(world.ports_out(), [2]);
    world.apply(|cluster| cluster.endpoints.push(endpoint(1)));
    assert_eq!((world.ports_out(), world.cluster.state().outliers.out()), (vec![2, 1], 2));
}

#[test]
fn a_far_lower_success_rate_ejects_after_an_interval() {
    let world = World::with(6, OutlierDetection { consecutive_errors: 0, ..OutlierDetection::default() });
    for port in 1..=6 {
        world.report(port, Outcome::Success(SECOND), 100);
    }
    world.report(4, Outcome::ServerError, 100);
    assert_eq!(world.ports_out(), [0_u16; 0]);
    world.pass(10);
    assert_eq!(world.ports_out(), [4]);
    assert_eq!(world.endpoint(4).outlier.ejection().expect("out").cause, Cause::SuccessRate);
    world.pass(30);
    assert_eq!(world.ports_out(), [0_u16; 0], "nothing new was held against it");
}

#[test]
fn checks_that_succeed_again_end_an_ejection() {
    let world = World::with(3, OutlierDetection::default());
    world.report(1, Outcome::Broken, 5);
    world.cluster.state().checks_recovered(&world.endpoint(1), world.now());
    assert_eq!((world.ports_out(), world.cluster.state().outliers.out()), (vec![], 0));
    assert_eq!(world.endpoint(1).outlier.ejections(), 1, "it counts for the next one");
}

#[test]
fn workers_at_once_never_eject_more_than_may_be() {
    for _ in 0..20 {
        let world = World::with(9, OutlierDetection::default());
        let endpoints: Vec<_> = (1..=9).map(|port| world.endpoint(port)).collect();
        let (state, now) = (world.cluster.state(), world.now());
        std::thread::scope(|scope| {
            for turn in 0..4 {
                let endpoints = &endpoints;
                scope.spawn(move || {
                    for step in 0..900 {
                        state.note_outcome(&endpoints[(step + turn * 3) % 9], Outcome::Broken, now);
                    }
                });
            }
        });
        assert_eq!((world.ports_out().len(), state.outliers.out()), (4, 4));
    }
}

/// What happens to a cluster.
#[derive(Debug, Clone)]
enum Step {
    Report(u16, bool),
    Pass(u32),
    Endpoints(u16),
    Percent(u8),
    Check(u16, bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1..12_u16, prop::bool::weighted(0.1)).prop_map(|(port, good)| Step::Report(port, good)),
        1 => (1..40_u32).prop_map(Step::Pass),
        1 => (1..12_u16).prop_map(Step::Endpoints),
        1 => (0..=100_u8).prop_map(Step::Percent),
        1 => (1..12_u16, any::<bool>()).prop_map(|(port, well)| Step::Check(port, well)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_happens_no_more_are_out_than_may_be(steps in proptest::collection::vec(step(), 1..80)) {
        let mut world = World::with(5, OutlierDetection { consecutive_errors: 2, ..OutlierDetection::default() });
        for step in steps {
            let before = world.ports_out();
            let there = world.cluster.endpoints().members().len() as u16;
            match step {
                Step::Report(port, good) if port <= there => {
                    let outcome = if good { Outcome::Success(SECOND) } else { Outcome::Broken };
                    world.report(port, outcome, 3);
                }
                Step::Check(port, well) if port <= there => {
                    let standing = &world.endpoint(port).standing;
                    if well { standing.clear(Against::Unhealthy) } else { standing.set(Against::Unhealthy) };
                }
                Step::Report(..) | Step::Check(..) => {}
                Step::Pass(seconds) => world.pass(seconds),
                Step::Endpoints(count) => world.apply(|cluster| cluster.endpoints = (1..=count).map(endpoint).collect()),
                Step::Percent(percent) => world.apply(|cluster| {
                    let settings = cluster.outlier_detection.as_mut().expect("it is on");
                    settings.max_ejection_percent = percent;
                }),
            }
            let set = world.cluster.endpoints();
            let settings = world.cluster.config().outlier_detection.as_ref().expect("it is on");
            let out = world.ports_out();
            prop_assert!(out.len() <= may_be_out(set.members().len(), settings), "{out:?}");
            prop_assert_eq!(out.len(), world.cluster.state().outliers.out());
            prop_assert!(out.len() < set.members().len());
            for member in set.members() {
                let flag = member.state.standing.has(Against::Ejected);
                prop_assert_eq!(flag, member.state.outlier.ejection().is_some());
            }
            // Whoever was newly ejected left somebody who is fit.
            if out.iter().any(|port| !before.contains(port)) {
                prop_assert!(set.members().iter().any(|member| member.state.standing.is_good()));
            }
        }
    }
}
