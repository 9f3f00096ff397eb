//! Weights laid side by side on a circle: a point of the circle is an endpoint.

use crate::policy::rng::scale;

/// Endpoints by weight.
#[derive(Debug)]
pub(super) enum Wheel {
    /// All weights are the same.
    Equal(usize),
    /// Running totals of the weights, which differ.
    Weighted {
        /// The last one is the sum.
        totals: Box<[u64]>,
        /// The smallest weight.
        smallest: u64,
    },
}

impl Wheel {
    /// A weight of zero counts as one: an endpoint that is to get nothing is not an endpoint.
    pub(super) fn new(weights: impl IntoIterator<Item = u32>) -> Self {
        let weights: Vec<u64> = weights.into_iter().map(|weight| u64::from(weight.max(1))).collect();
        if weights.windows(2).all(|pair| pair[0] == pair[1]) {
            return Self::Equal(weights.len());
        }
        let smallest = weights.iter().copied().min().unwrap_or(1);
        let totals = weights
            .iter()
            .scan(0, |total, weight| {
                *total += weight;
                Some(*total)
            })
            .collect();
        Self::Weighted { totals, smallest }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Equal(count) => *count,
            Self::Weighted { totals, .. } => totals.len(),
        }
    }

    /// The endpoint at a point of the circle. The wheel must not be empty.
    pub(super) fn at(&self, point: u64) -> usize {
        match self {
            Self::Equal(count) => scale(point, *count as u64) as usize,
            Self::Weighted { totals, .. } => {
                let sum = totals.last().copied().unwrap_or(0);
                let point = scale(point, sum);
                totals.partition_point(|&total| total <= point)
            }
        }
    }

    /// An endpoint's weight, in units of which the sum is what [`Wheel::at`] divides the circle by.
    pub(super) fn weight(&self, index: usize) -> u64 {
        match self {
            Self::Equal(_) => 1,
            Self::Weighted { totals, .. } => {
                totals[index] - index.checked_sub(1).map_or(0, |previous| totals[previous])
            }
        }
    }

    /// How many requests in flight count as one: the endpoint's weight, in units of the smallest.
    pub(super) fn share(&self, index: usize) -> f64 {
        match self {
            Self::Equal(_) => 1.0,
            Self::Weighted { smallest, .. } => self.weight(index) as f64 / *smallest as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_circle_is_divided_by_weight() {
        let wheel = Wheel::new([1, 2, 1]);
        let quarter = u64::MAX / 4;
        let found: Vec<usize> = [0, quarter + 2, 2 * quarter, 3 * quarter + 4, u64::MAX].map(|p| wheel.at(p)).into();
        assert_eq!(found, [0, 1, 1, 2, 2]);
        assert_eq!([0, 1, 2].map(|index| wheel.share(index)), [1.0, 2.0, 1.0]);
    }

    #[test]
    fn equal_weights_need_no_table() {
        let wheel = Wheel::new([7, 7, 7]);
        assert!(matches!(wheel, Wheel::Equal(3)));
        assert_eq!((wheel.at(0), wheel.at(u64::MAX)), (0, 2));
    }
}
