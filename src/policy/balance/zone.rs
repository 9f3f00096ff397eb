//! How much of a proxy's traffic stays in its zone.
//!
//! Nobody tells a proxy how many callers there are elsewhere. Callers are taken to be spread evenly over the zones that
//! have endpoints, so that each zone sends an equal part of all traffic. An endpoint's fair part is that of its weight
//! among those that are fit. As much stays in the zone as gives its endpoints at most their fair part times the
//! overprovisioning; the rest goes to the other zones. So a single endpoint in a small zone is not run over by its
//! neighbours, three zones of one endpoint each keep to themselves, and with nobody fit in the zone nothing stays.

/// Weights of the endpoints that may be used, by zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Zones {
    /// In the proxy's own zone.
    pub own: u64,
    /// In all zones, the own included.
    pub all: u64,
    /// How many zones have endpoints at all, fit or not, the own included.
    pub count: u32,
}

/// The part of the traffic that stays, of [`WHOLE`]. `overprovisioning` is a percentage.
#[must_use]
pub fn stays(zones: Zones, overprovisioning: u16) -> u32 {
    let Zones { own, all, count } = zones;
    if own >= all {
        return WHOLE;
    }
    let capacity = u128::from(own) * u128::from(overprovisioning) * u128::from(count);
    let part = capacity * u128::from(WHOLE) / (u128::from(all) * 100);
    u32::try_from(part).unwrap_or(WHOLE).min(WHOLE)
}

/// Everything.
pub const WHOLE: u32 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn percent(own: u64, all: u64, count: u32) -> u32 {
        stays(Zones { own, all, count }, 140) / 100
    }

    #[test]
    fn equal_zones_keep_to_themselves_however_few_endpoints_they_have() {
        for count in 1..6 {
            for each in 1..4 {
                assert_eq!(percent(each, each * u64::from(count), count), 100);
            }
        }
    }

    #[test]
    fn a_small_zone_spills_and_a_large_one_does_not() {
        assert_eq!(percent(1, 10, 2), 28);
        assert_eq!(percent(9, 10, 2), 100);
        assert_eq!(percent(1, 3, 2), 93);
        assert_eq!(percent(2, 3, 2), 100);
    }

    #[test]
    fn what_is_unwell_in_the_zone_spills() {
        // Of five and five, two are well here.
        assert_eq!(percent(2, 7, 2), 80);
        assert_eq!(percent(0, 5, 2), 0);
        // Those elsewhere are no better off: nothing is gained by crossing.
        assert_eq!(percent(2, 4, 2), 100);
        assert_eq!(percent(2, 2, 2), 100);
    }

    proptest! {
        #[test]
        fn nobody_gets_more_than_its_fair_part_times_the_overprovisioning(
            weights in proptest::collection::vec(1..50_u64, 1..8),
            overprovisioning in 100..300_u16,
        ) {
            let all: u64 = weights.iter().sum();
            let count = weights.len() as u32;
            for own in weights {
                let kept = f64::from(stays(Zones { own, all, count }, overprovisioning)) / f64::from(WHOLE);
                let from_here = kept / f64::from(count);
                let fair = own as f64 / all as f64;
                prop_assert!(from_here <= fair * f64::from(overprovisioning) / 100.0 + 1e-9);
            }
        }
    }
}
