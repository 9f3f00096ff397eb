//! Which backend of a rule a request goes to.

use smallvec::SmallVec;

use super::rng::scale;

/// Backends by weight. A weight of zero gets nothing.
#[derive(Debug, Clone)]
pub struct Split {
    /// Running totals.
    totals: SmallVec<[u64; 4]>,
}

impl Split {
    /// `None` when every weight is zero, or there is none.
    #[must_use]
    pub fn new(weights: impl IntoIterator<Item = u32>) -> Option<Self> {
        let totals: SmallVec<[u64; 4]> = weights
            .into_iter()
            .scan(0, |total, weight| {
                *total += u64::from(weight);
                Some(*total)
            })
            .collect();
        totals.last().is_some_and(|&sum| sum > 0).then_some(Self { totals })
    }

    /// The index of a backend; `random` is from the whole range.
    #[must_use]
    pub fn pick(&self, random: u64) -> usize {
        match self.totals.as_slice() {
            [_] => 0,
            totals => {
                let point = scale(random, totals.last().copied().unwrap_or(0));
                totals.partition_point(|&total| total <= point)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rng::Rng;
    use super::*;

    #[test]
    fn shares_follow_the_weights() {
        let split = Split::new([95, 0, 5, 0]).expect("not all zero");
        let mut rng = Rng::new(3);
        let mut counts = [0; 4];
        for _ in 0..100_000 {
            counts[split.pick(rng.next_u64())] += 1;
        }
        assert!((94_700..95_300).contains(&counts[0]), "{counts:?}");
        assert_eq!((counts[0] + counts[2], counts[1], counts[3]), (100_000, 0, 0));
    }

    #[test]
    fn the_ends_of_the_range_stay_inside() {
        let split = Split::new([0, u32::MAX, u32::MAX, 0]).expect("not all zero");
        assert_eq!((split.pick(0), split.pick(u64::MAX)), (1, 2));
        let alone = Split::new([7]).expect("not all zero");
        assert_eq!((alone.pick(0), alone.pick(u64::MAX)), (0, 0));
    }

    #[test]
    fn nothing_to_choose_from_is_said() {
        assert!(Split::new([]).is_none());
        assert!(Split::new([0, 0]).is_none());
    }
}
