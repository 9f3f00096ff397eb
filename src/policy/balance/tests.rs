use std::sync::Arc;

use outrigger_config::model::BalancePolicy::{self, LeastRequest, PeakEwma, Random, RoundRobin};
use proptest::prelude::*;

use super::{Balancer, Candidates, FULL, Rng};

/// Endpoints with fixed state.
#[derive(Debug, Clone)]
struct Fixed {
    in_flight: Vec<u32>,
    latency: Vec<f64>,
    eligible: Vec<bool>,
    ramp: Vec<u32>,
    again: bool,
}

impl Fixed {
    fn idle(count: usize) -> Self {
        Self {
            in_flight: vec![0; count],
            latency: vec![0.01; count],
            eligible: vec![true; count],
            ramp: vec![FULL; count],
            again: false,
        }
    }
}

impl Candidates for Fixed {
    fn in_flight(&self, index: usize) -> u32 {
        self.in_flight[index]
    }
    fn latency(&self, index: usize) -> f64 {
        self.latency[index]
    }
    fn eligible(&self, index: usize) -> bool {
        self.eligible[index]
    }
    fn ramp(&self, index: usize) -> u32 {
        self.ramp[index]
    }
    fn is_again(&self) -> bool {
        self.again
    }
}

fn counts(balancer: &Balancer, endpoints: &Fixed, picks: usize) -> Vec<usize> {
    let mut rng = Rng::new(42);
    let mut counts = vec![0; endpoints.in_flight.len()];
    for _ in 0..picks {
        counts[balancer.pick(endpoints, &mut rng).expect("not empty")] += 1;
    }
    counts
}

fn near(counts: &[usize], expected: &[usize], tolerance: usize) -> bool {
    counts.iter().zip(expected).all(|(count, wanted)| count.abs_diff(*wanted) <= tolerance)
}

const ALL: [BalancePolicy; 4] = [RoundRobin, LeastRequest, PeakEwma, Random];

#[test]
fn round_robin_goes_strictly_in_turn() {
    let balancer = Balancer::new(RoundRobin, [1, 1, 1], 0);
    let mut rng = Rng::new(0);
    let picks: Vec<_> = (0..7).filter_map(|_| balancer.pick(&Fixed::idle(3), &mut rng)).collect();
    assert_eq!(picks, [0, 1, 2, 0, 1, 2, 0]);
}

#[test]
fn weighted_round_robin_keeps_to_the_weights_at_every_moment() {
    for weights in [vec![1, 2, 1], vec![95, 5], vec![1000, 1, 1, 7], vec![3; 4], (1..60).collect()] {
        let balancer = Balancer::new(RoundRobin, weights.clone(), 9);
        let endpoints = Fixed::idle(weights.len());
        let sum: u32 = weights.iter().sum();
        let mut counts = vec![0_u32; weights.len()];
        let mut rng = Rng::new(0);
        for picks in 1..=10_000_u32 {
            counts[balancer.pick(&endpoints, &mut rng).expect("not empty")] += 1;
            for (count, weight) in counts.iter().zip(&weights) {
                let due = f64::from(picks) * f64::from(*weight) / f64::from(sum);
                assert!((f64::from(*count) - due).abs() < 6.0, "{counts:?} of {weights:?} after {picks}");
            }
        }
    }
}

#[test]
fn round_robin_spreads_the_share_of_an_endpoint_that_is_out() {
    let mut endpoints = Fixed::idle(4);
    endpoints.eligible[1] = false;
    for weights in [[1; 4], [2, 2, 2, 3]] {
        let counts = counts(&Balancer::new(RoundRobin, weights, 0), &endpoints, 9_000);
        assert_eq!(counts[1], 0);
        assert!(counts.iter().filter(|&&count| count > 0).all(|count| (2_400..4_100).contains(count)), "{counts:?}");
    }
}

#[test]
fn a_search_that_finds_nobody_takes_no_turn() {
    for count in 2..=5 {
        let balancer = Balancer::new(RoundRobin, vec![1; count], 0);
        let mut nobody = Fixed::idle(count);
        nobody.eligible.fill(false);
        let mut rng = Rng::new(0);
        let mut pick = || {
            assert_eq!(balancer.pick(&nobody, &mut rng), None);
            balancer.pick(&Fixed::idle(count), &mut rng)
        };
        let picks: Vec<_> = (0..2 * count).filter_map(|_| pick()).collect();
        assert!((0..2 * count).all(|turn| picks[turn] == turn % count), "{picks:?}");
    }
}

/// Or each request would begin where the one before failed.
#[test]
fn later_attempts_take_no_turn() {
    for count in 2..=5 {
        let balancer = Balancer::new(RoundRobin, vec![1; count], 0);
        let mut others = Fixed::idle(count);
        (others.eligible[0], others.again) = (false, true);
        let mut rng = Rng::new(7);
        let (mut first, mut second) = (vec![0; count], vec![0; count]);
        for _ in 0..600 {
            let index = balancer.pick(&Fixed::idle(count), &mut rng).expect("not empty");
            first[index] += 1;
            if index == 0 {
                second[balancer.pick(&others, &mut rng).expect("another")] += 1;
            }
        }
        assert!(first.iter().all(|&times| times == 600 / count), "{first:?}");
        let even = 600 / count / (count - 1);
        assert!(second[0] == 0 && near(&second[1..], &vec![even; count - 1], even / 2), "{second:?}");
    }
}

#[test]
fn idle_endpoints_share_by_weight_under_every_policy() {
    for policy in ALL {
        let found = counts(&Balancer::new(policy, [1, 1, 1], 0), &Fixed::idle(3), 9_000);
        assert!(near(&found, &[3_000; 3], 270), "{policy:?}: {found:?}");
        let found = counts(&Balancer::new(policy, [95, 5], 0), &Fixed::idle(2), 10_000);
        assert!(near(&found, &[9_500, 500], 120), "{policy:?}: {found:?}");
        let found = counts(&Balancer::new(policy, [4, 1, 1, 2], 0), &Fixed::idle(4), 8_000);
        assert!(near(&found, &[4_000, 1_000, 1_000, 2_000], 250), "{policy:?}: {found:?}");
    }
}

#[test]
fn least_request_of_two_or_three_always_takes_an_idle_one() {
    for busy in 0..3 {
        let mut endpoints = Fixed::idle(3);
        endpoints.in_flight[busy] = 1;
        let found = counts(&Balancer::new(LeastRequest, [1; 3], 0), &endpoints, 1_000);
        assert_eq!(found[busy], 0, "{found:?}");
    }
    let mut endpoints = Fixed::idle(2);
    endpoints.in_flight[0] = 1;
    assert_eq!(counts(&Balancer::new(LeastRequest, [1; 2], 0), &endpoints, 1_000), [0, 1_000]);
}

#[test]
fn least_request_of_many_never_takes_the_busiest() {
    let mut endpoints = Fixed::idle(10);
    endpoints.in_flight[7] = 3;
    let found = counts(&Balancer::new(LeastRequest, [1; 10], 0), &endpoints, 10_000);
    assert_eq!(found[7], 0, "two different ones are drawn, so one of them is idle");
    assert!(found.iter().filter(|&&count| count > 0).all(|count| (950..1_280).contains(count)), "{found:?}");
}

#[test]
fn a_light_endpoint_does_not_take_the_overflow_of_a_heavy_one() {
    let mut endpoints = Fixed::idle(2);
    endpoints.in_flight[0] = 50;
    let balancer = Balancer::new(LeastRequest, [100, 1], 0);
    let found = counts(&balancer, &endpoints, 10_000);
    assert!(found[1] < 200, "half full of its weight: {found:?}");
    endpoints.in_flight[0] = 200;
    assert_eq!(counts(&balancer, &endpoints, 100), [0, 100], "twice over its weight");
}

#[test]
fn peak_ewma_takes_the_faster_until_its_queue_outweighs_it() {
    let mut endpoints = Fixed::idle(2);
    endpoints.latency = vec![0.1, 0.01];
    let balancer = Balancer::new(PeakEwma, [1, 1], 0);
    assert_eq!(counts(&balancer, &endpoints, 100), [0, 100]);
    endpoints.in_flight[1] = 20;
    assert_eq!(counts(&balancer, &endpoints, 100), [100, 0]);
}

#[test]
fn the_score_is_what_is_compared() {
    let mut endpoints = Fixed::idle(2);
    endpoints.in_flight = vec![9, 0];
    let score = |policy, index| Balancer::new(policy, [5, 1], 0).score(&endpoints, index);
    assert_eq!((score(LeastRequest, 0), score(LeastRequest, 1)), (Some(2.0), Some(1.0)));
    assert_eq!((score(PeakEwma, 0), score(PeakEwma, 1)), (Some(0.02), Some(0.01)));
    assert_eq!((score(RoundRobin, 0), score(Random, 0)), (None, None));
}

/// One endpoint is ten times slower: requests of 10 ticks in place of 1, three sent a tick.
#[test]
fn a_slow_endpoint_gets_under_a_fifth_under_load() {
    for policy in [LeastRequest, PeakEwma] {
        let mut endpoints = Fixed { latency: vec![0.1, 0.01, 0.01], ..Fixed::idle(3) };
        let balancer = Balancer::new(policy, [1; 3], 0);
        let mut rng = Rng::new(1);
        let mut ends: Vec<(usize, usize)> = Vec::new();
        let mut found = [0; 3];
        for tick in 0..3_000 {
            ends.retain(|&(end, index)| {
                if end == tick {
                    endpoints.in_flight[index] -= 1;
                }
                end > tick
            });
            for _ in 0..3 {
                let index = balancer.pick(&endpoints, &mut rng).expect("not empty");
                found[index] += 1;
                endpoints.in_flight[index] += 1;
                ends.push((tick + if index == 0 { 10 } else { 1 }, index));
            }
        }
        assert!(found[0] * 5 < 9_000, "{policy:?}: {found:?}");
    }
}

#[test]
fn when_none_is_eligible_none_is_picked() {
    for policy in ALL {
        for count in [1, 2, 3, 4, 50] {
            let endpoints = Fixed { eligible: vec![false; count], ..Fixed::idle(count) };
            let balancer = Balancer::new(policy, vec![1; count], 0);
            assert_eq!(balancer.pick(&endpoints, &mut Rng::new(1)), None, "{policy:?} of {count}");
        }
    }
}

#[test]
fn when_the_heaviest_is_out_the_others_share_by_weight() {
    let mut endpoints = Fixed::idle(4);
    endpoints.eligible[0] = false;
    for policy in ALL {
        let found = counts(&Balancer::new(policy, [100_000, 1, 1, 2], 0), &endpoints, 4_000);
        assert!(near(&found, &[0, 1_000, 1_000, 2_000], 150), "{policy:?}: {found:?}");
    }
}

#[test]
fn one_eligible_among_many_is_found() {
    for policy in ALL {
        let mut endpoints = Fixed { eligible: vec![false; 1_000], ..Fixed::idle(1_000) };
        endpoints.eligible[500] = true;
        let balancer = Balancer::new(policy, (0..1_000).map(|index| index % 5 + 1), 0);
        assert_eq!(counts(&balancer, &endpoints, 50)[500], 50, "{policy:?}");
    }
}

#[test]
fn the_empty_and_the_single_set_need_no_thought() {
    let mut rng = Rng::new(0);
    for policy in ALL {
        assert_eq!(Balancer::new(policy, [], 0).pick(&Fixed::idle(0), &mut rng), None);
        assert_eq!(Balancer::new(policy, [3], 0).pick(&Fixed::idle(1), &mut rng), Some(0));
    }
}

#[test]
fn a_newcomer_gets_its_part_while_all_are_idle() {
    for policy in ALL {
        for count in [3, 20] {
            let mut endpoints = Fixed::idle(count);
            endpoints.ramp[1] = FULL / 10;
            let found = counts(&Balancer::new(policy, vec![1; count], 0), &endpoints, 1_000 * count);
            assert!((60..160).contains(&found[1]), "{policy:?}: {} of {count}", found[1]);
        }
    }
}

#[test]
fn a_newcomer_that_looks_idle_is_not_flooded() {
    for policy in [LeastRequest, PeakEwma] {
        for count in [2, 3, 20] {
            let mut endpoints = Fixed { in_flight: vec![5; count], ..Fixed::idle(count) };
            endpoints.in_flight[1] = 0;
            endpoints.ramp[1] = FULL / 10;
            let found = counts(&Balancer::new(policy, vec![1; count], 0), &endpoints, 10_000);
            // It takes part in one pick of ten that it is drawn for.
            let most = 10_000.min(10_000 * 2 / count) * 25 / 100;
            assert!(found[1] <= most, "{policy:?}: {} of {count}", found[1]);
        }
    }
}

#[test]
fn newcomers_among_themselves_share_as_ever() {
    for policy in ALL {
        for count in [2, 3, 10] {
            let endpoints = Fixed { ramp: vec![FULL / 10; count], ..Fixed::idle(count) };
            let found = counts(&Balancer::new(policy, vec![1; count], 0), &endpoints, 1_000 * count);
            assert!(near(&found, &vec![1_000; count], 200), "{policy:?}: {found:?}");
        }
    }
}

#[test]
fn round_robin_is_even_across_threads() {
    let balancer = Arc::new(Balancer::new(RoundRobin, [1, 1, 1], 5));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let balancer = Arc::clone(&balancer);
            std::thread::spawn(move || counts(&balancer, &Fixed::idle(3), 3_000))
        })
        .collect();
    let mut total = [0; 3];
    for thread in threads {
        for (sum, count) in total.iter_mut().zip(thread.join().expect("no panic")) {
            *sum += count;
        }
    }
    assert_eq!(total, [4_000; 3]);
}

proptest! {
    #[test]
    fn an_eligible_endpoint_is_picked_whenever_there_is_one(
        states in proptest::collection::vec((0..50_u32, 0.0..5.0_f64, any::<bool>(), 0..1000_u32), 1..40),
        policy in proptest::sample::select(&ALL[..]),
        seed in any::<u64>(),
    ) {
        let endpoints = Fixed {
            in_flight: states.iter().map(|s| s.0).collect(),
            latency: states.iter().map(|s| s.1).collect(),
            eligible: states.iter().map(|s| s.2).collect(),
            ramp: states.iter().map(|s| s.3 % FULL + 1).collect(),
            again: false,
        };
        let balancer = Balancer::new(policy, states.iter().map(|s| s.3), seed);
        let mut rng = Rng::new(seed);
        for _ in 0..20 {
            match balancer.pick(&endpoints, &mut rng) {
                Some(index) => prop_assert!(endpoints.eligible[index]),
                None => prop_assert!(!endpoints.eligible.contains(&true)),
            }
        }
    }
}
