use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use outrigger_config::model::BalancePolicy::{self, Maglev, RingHash};
use proptest::prelude::*;

use super::{Bound, Table};
use crate::policy::hash::xxh64;
use crate::policy::rng::Rng;

const KEYS: u64 = 20_000;

/// Endpoints of these weights.
fn fleet(weights: impl IntoIterator<Item = u32>) -> Vec<(SocketAddr, u32)> {
    (0_u32..)
        .zip(weights)
        .map(|(n, weight)| (SocketAddr::from((Ipv4Addr::from_bits(0x0a00_0000 + n * 7), 8080)), weight))
        .collect()
}

fn key(n: u64) -> u64 {
    xxh64(&n.to_le_bytes(), 0)
}

/// Where every key goes.
fn owners(policy: BalancePolicy, fleet: &[(SocketAddr, u32)]) -> Vec<SocketAddr> {
    let table = Table::new(policy, fleet).expect("it hashes");
    (0..KEYS).map(|n| fleet[table.pick(key(n), |_| true, |_| true).expect("not empty")].0).collect()
}

fn counts(owners: &[SocketAddr]) -> BTreeMap<SocketAddr, u64> {
    let mut counts = BTreeMap::new();
    for owner in owners {
        *counts.entry(*owner).or_default() += 1;
    }
    counts
}

/// How many keys of others moved when `gone` went, and how many it had.
fn disruption(policy: BalancePolicy, fleet: &[(SocketAddr, u32)], gone: usize) -> (u64, u64) {
    let mut rest = fleet.to_vec();
    let (gone, _) = rest.remove(gone);
    let (before, after) = (owners(policy, fleet), owners(policy, &rest));
    let moved = before.iter().zip(&after).filter(|(old, new)| **old != gone && old != new).count() as u64;
    (moved, counts(&before).get(&gone).copied().unwrap_or(0))
}

#[test]
fn keys_of_a_ring_move_only_from_the_endpoint_that_goes() {
    for (fleet, gone) in [(fleet([1; 10]), 3), (fleet([1; 100]), 42), (fleet([1, 5, 1, 3]), 1), (fleet([7, 7]), 0)] {
        let (moved, had) = disruption(RingHash, &fleet, gone);
        assert_eq!(moved, 0);
        assert!(had > 0);
    }
}

/// The paper measures a few percent for tables of this size.
#[test]
fn keys_of_maglev_move_from_the_endpoint_that_goes_and_few_others() {
    for count in [3, 10, 50, 200] {
        let (moved, had) = disruption(Maglev, &fleet(vec![1; count]), count / 2);
        assert!(had * count as u64 > KEYS * 8 / 10 && had * (count as u64) < KEYS * 12 / 10, "{had} of {count}");
        assert!(moved * 100 <= KEYS * 4, "{moved} of {KEYS} keys of others moved with {count} endpoints");
    }
}

#[test]
fn maglev_shares_its_places_exactly() {
    let weights = [1, 1, 2, 4, 10];
    let fleet = fleet(weights);
    let table = super::Maglev::new(&fleet);
    let mut places = [0_u64; 5];
    // One walk comes to every place once.
    table.walk(key(1)).for_each(|owner| places[owner as usize] += 1);
    assert_eq!(places.iter().sum::<u64>(), super::super::maglev::PLACES);
    for (found, weight) in places.iter().zip(weights) {
        let due = super::super::maglev::PLACES as f64 * f64::from(weight) / 18.0;
        assert!((*found as f64 - due).abs() <= 2.0, "{found} places for weight {weight}, {due} are due");
    }
}

/// By the root of the number of points: 6 % standard deviation for 256 points. Four of those.
#[test]
fn a_ring_is_balanced_as_its_points_allow() {
    for count in [2, 5, 20] {
        let found = counts(&owners(RingHash, &fleet(vec![1; count])));
        let mean = KEYS as f64 / count as f64;
        for (endpoint, keys) in found {
            assert!((keys as f64 / mean - 1.0).abs() < 0.25 + 4.0 / mean.sqrt(), "{endpoint} of {count} has {keys}");
        }
    }
}

#[test]
fn weights_are_kept_to() {
    for policy in [RingHash, Maglev] {
        let fleet = fleet([1, 3, 6]);
        let found = counts(&owners(policy, &fleet));
        for (endpoint, weight) in fleet {
            let share = found[&endpoint] as f64 / KEYS as f64;
            let due = f64::from(weight) / 10.0;
            assert!((share / due - 1.0).abs() < 0.25, "{policy:?}: {share} for {due}");
        }
    }
}

#[test]
fn large_sets_and_weights_stay_within_the_limit() {
    for fleet in [fleet(vec![1000; 50]), fleet(vec![1; 5_000]), fleet((0..3_000).map(|n| n % 1000 + 1))] {
        let ring = super::Ring::new(&fleet);
        let points = ring.walk(0).count() as u64;
        assert!(points <= super::super::ring::POINTS, "{points}");
        assert!(points * 4 > super::super::ring::POINTS, "{points}");
    }
}

#[test]
fn nobody_is_picked_where_nobody_is() {
    for policy in [RingHash, Maglev] {
        assert_eq!(Table::new(policy, &[]).expect("it hashes").pick(7, |_| true, |_| true), None);
        let table = Table::new(policy, &fleet([1, 1])).expect("it hashes");
        assert_eq!(table.pick(7, |_| false, |_| true), None);
    }
}

#[test]
fn without_room_anywhere_the_first_is_taken() {
    for policy in [RingHash, Maglev] {
        let table = Table::new(policy, &fleet([1; 5])).expect("it hashes");
        for n in 0..50 {
            let first = table.pick(key(n), |_| true, |_| true);
            assert_eq!(table.pick(key(n), |_| true, |_| false), first);
        }
    }
}

/// A table has tens of thousands of places, and this is on the way of requests.
#[test]
fn where_nobody_can_be_picked_the_table_is_not_walked_to_its_end() {
    for policy in [RingHash, Maglev] {
        for (count, good) in [(5_usize, 0_usize), (5, 3), (500, 0), (500, 1), (500, 500)] {
            let table = Table::new(policy, &fleet(vec![1; count])).expect("it hashes");
            for n in 0..20 {
                let looks = std::cell::Cell::new(0);
                let is_good = |index| {
                    looks.set(looks.get() + 1);
                    index < good
                };
                let picked = table.pick(key(n), is_good, |_| false);
                assert_eq!(picked, table.pick(key(n), |index| index < good, |_| true), "the first good one");
                // The only good one of many may be far away.
                let most = if good == 1 { 20_000 } else { 200 + 2 * count };
                assert!(looks.get() <= most, "{policy:?}: {} looks for {good} of {count}", looks.get());
            }
        }
    }
}

/// The bound of the paper: nobody has more than its share of the whole times the factor, rounded up, and everybody is
/// placed.
#[test]
fn nobody_has_more_than_its_bound() {
    for policy in [RingHash, Maglev] {
        for percent in [110, 150] {
            let weights = [1, 1, 2, 4];
            let fleet = fleet(weights);
            let table = Table::new(policy, &fleet).expect("it hashes");
            let mut load = [0_u32; 4];
            // One key is half of all requests.
            for n in 1..=4_000_u64 {
                let key = if n % 2 == 0 { key(0) } else { key(n) };
                let bound = Bound { percent, in_flight: n, weight: 8 };
                let picked = table.pick(key, |_| true, |index| bound.admits(load[index], weights[index]));
                load[picked.expect("not empty")] += 1;
                for (load, weight) in load.iter().zip(weights) {
                    let most = (n * u64::from(weight) * u64::from(percent)).div_ceil(800);
                    assert!(u64::from(*load) <= most, "{policy:?}: {load} of at most {most}");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_order_of_endpoints_does_not_matter(
        weights in proptest::collection::vec(1..5_u32, 1..12),
        seed in any::<u64>(),
    ) {
        let fleet = fleet(weights);
        let mut shuffled = fleet.clone();
        let mut rng = Rng::new(seed);
        for at in (1..shuffled.len()).rev() {
            shuffled.swap(at, rng.below(at as u64 + 1) as usize);
        }
        for policy in [RingHash, Maglev] {
            prop_assert!(owners(policy, &fleet) == owners(policy, &shuffled), "{policy:?}");
        }
    }

    #[test]
    fn what_one_unfit_endpoint_had_is_all_that_moves(
        count in 2..20_usize,
        unfit in any::<proptest::sample::Index>(),
    ) {
        let unfit = unfit.index(count);
        for policy in [RingHash, Maglev] {
            let table = Table::new(policy, &fleet(vec![1; count])).expect("it hashes");
            for n in 0..500 {
                let before = table.pick(key(n), |_| true, |_| true).expect("not empty");
                let after = table.pick(key(n), |index| index != unfit, |_| true).expect("not empty");
                prop_assert!(before == after || before == unfit);
                prop_assert!(after != unfit);
            }
        }
    }

    #[test]
    fn a_ring_moves_only_what_it_must_at_any_change(
        weights in proptest::collection::vec(1..6_u32, 2..16),
        gone in any::<proptest::sample::Index>(),
    ) {
        let gone = gone.index(weights.len());
        let (moved, _) = disruption(RingHash, &fleet(weights), gone);
        prop_assert_eq!(moved, 0);
    }
}
