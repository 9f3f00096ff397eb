//! How much of the traffic each priority gets, and which of them are in a panic: the arithmetic that Envoy documents,
//! in whole percent.
//!
//! A priority can take `well * overprovisioning / all` percent, at most 100. While all of them together can take
//! everything, each takes what those before it leave, and nobody panics, however few are well in one of them. When they
//! cannot, what they can take is scaled up to 100, and a priority with less than the threshold well panics: all of its
//! endpoints are used. When every priority panics, how many endpoints they have decides.

use smallvec::SmallVec;

/// The endpoints of one priority that could be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// How many there are.
    pub all: u32,
    /// Of those, how many are well.
    pub well: u32,
}

/// What a priority gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Of all traffic, in percent. Those of all priorities add up to 100, unless there is no endpoint.
    pub percent: u32,
    /// Whether its endpoints are used however they are.
    pub panic: bool,
}

/// Loads of priorities, in their order.
pub type Loads = SmallVec<[Load; 2]>;

/// What each priority gets. `overprovisioning` and `panic_threshold` are percentages; a threshold of zero means that
/// nobody panics.
#[must_use]
pub fn loads(levels: &[Level], overprovisioning: u16, panic_threshold: u8) -> Loads {
    let capacity = |level: &Level| capacity(*level, overprovisioning);
    let together: u64 = levels.iter().map(capacity).sum();
    let is_panicking = |level: &Level| {
        together < 100
            && level.all > 0
            && u64::from(level.well) * 100 < u64::from(level.all) * u64::from(panic_threshold.min(100))
    };
    let used = || levels.iter().filter(|level| level.all > 0);
    if used().count() > 0 && used().all(is_panicking) {
        let all: u64 = levels.iter().map(|level| u64::from(level.all)).sum();
        return share_out(levels, |level| u64::from(level.all) * 100 / all, is_panicking);
    }
    // Nobody is well and nobody panics: nothing can be sent anywhere.
    let whole = together.clamp(1, 100);
    share_out(levels, |level| capacity(level) * 100 / whole, is_panicking)
}

/// What a priority can take, in percent of everything.
fn capacity(level: Level, overprovisioning: u16) -> u64 {
    match u64::from(level.all) {
        0 => 0,
        all => (u64::from(level.well) * u64::from(overprovisioning) / all).min(100),
    }
}

/// In order, each as much as it wants of what is left; what rounding leaves goes to the first that got anything.
fn share_out(levels: &[Level], wanted: impl Fn(&Level) -> u64, panic: impl Fn(&Level) -> bool) -> Loads {
    let mut left = 100;
    let mut loads: Loads = levels
        .iter()
        .map(|level| {
            let percent = u32::try_from(wanted(level)).unwrap_or(left).min(left);
            left -= percent;
            Load { percent, panic: panic(level) }
        })
        .collect();
    if let Some(first) = loads.iter_mut().find(|load| load.percent > 0) {
        first.percent += left;
    }
    loads
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Percent well of a hundred endpoints each, to percent of the traffic; negative where it panics.
    fn of(well: &[u32]) -> Vec<i64> {
        let levels: Vec<Level> = well.iter().map(|&well| Level { all: 100, well }).collect();
        let signed = |load: &Load| if load.panic { -i64::from(load.percent) } else { i64::from(load.percent) };
        loads(&levels, 140, 50).iter().map(signed).collect()
    }

    #[test]
    fn the_second_priority_takes_what_the_first_cannot() {
        assert_eq!(of(&[100, 100]), [100, 0]);
        assert_eq!(of(&[72, 72]), [100, 0]);
        assert_eq!(of(&[71, 71]), [99, 1]);
        assert_eq!(of(&[50, 50]), [70, 30]);
        assert_eq!(of(&[25, 100]), [35, 65]);
        assert_eq!(of(&[0, 100]), [0, 100]);
        assert_eq!(of(&[25, 25, 100]), [35, 35, 30]);
    }

    #[test]
    fn capacities_that_do_not_suffice_are_scaled_up() {
        // 70 of 100 is all there is, and the second has none.
        assert_eq!(of(&[50, 0]), [100, 0]);
        // 28 and 70 of 98; what rounding leaves goes to the first.
        assert_eq!(of(&[20, 50]), [-29, 71]);
    }

    #[test]
    fn nobody_panics_while_there_is_enough_elsewhere() {
        assert_eq!(of(&[10, 100]), [14, 86]);
        assert_eq!(of(&[49, 49]), [68, 32]);
    }

    #[test]
    fn when_all_panic_the_number_of_endpoints_decides() {
        assert_eq!(of(&[49]), [-100]);
        assert_eq!(of(&[0]), [-100]);
        assert_eq!(of(&[0, 0]), [-50, -50]);
        let levels = [Level { all: 1, well: 0 }, Level { all: 0, well: 0 }, Level { all: 2, well: 0 }];
        let found: Vec<(u32, bool)> = loads(&levels, 140, 50).iter().map(|load| (load.percent, load.panic)).collect();
        assert_eq!(found, [(34, true), (0, false), (66, true)]);
    }

    #[test]
    fn without_a_threshold_nobody_panics() {
        let levels = [Level { all: 3, well: 0 }, Level { all: 3, well: 0 }];
        assert!(loads(&levels, 140, 0).iter().all(|load| *load == Load { percent: 0, panic: false }));
        let levels = [Level { all: 3, well: 1 }];
        assert_eq!(loads(&levels, 140, 0)[..], [Load { percent: 100, panic: false }]);
    }

    #[test]
    fn half_of_two_is_no_panic_and_one_of_three_is() {
        let panics = |all, well| loads(&[Level { all, well }], 140, 50)[0].panic;
        assert!(!panics(1, 1) && panics(1, 0));
        assert!(!panics(2, 1) && panics(2, 0));
        assert!(!panics(3, 2) && panics(3, 1));
        assert!(!panics(4, 2) && panics(5, 2));
    }

    proptest! {
        #[test]
        fn everything_is_shared_out_to_those_that_can_take_it(
            levels in proptest::collection::vec((0..20_u32, 0..20_u32), 1..6),
            overprovisioning in 100..300_u16,
            threshold in 0..=100_u8,
        ) {
            let levels: Vec<Level> =
                levels.into_iter().map(|(all, well)| Level { all, well: well.min(all) }).collect();
            let loads = loads(&levels, overprovisioning, threshold);
            let sum: u32 = loads.iter().map(|load| load.percent).sum();
            let usable = levels.iter().zip(&loads).any(|(level, load)| level.well > 0 || load.panic && level.all > 0);
            prop_assert!(sum == if usable { 100 } else { 0 }, "{:?}", loads);
            for (level, load) in levels.iter().zip(&loads) {
                prop_assert!(load.percent == 0 || level.well > 0 || load.panic);
                prop_assert!(!load.panic || level.well * 100 < level.all * u32::from(threshold));
            }
            // The first can take all: nobody else gets anything.
            if levels[0].all > 0 && u64::from(levels[0].well) * u64::from(overprovisioning) >= 100 * u64::from(levels[0].all) {
                prop_assert_eq!(loads[0].percent, 100);
            }
        }
    }
}
