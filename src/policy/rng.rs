//! A small, fast random number generator for balancing, jitter and sampling. Not for secrets.

/// A Weyl sequence through a folded 128-bit multiplication: one addition and two multiplications a number, and a state of
/// one word, so every worker keeps its own.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// The same seed gives the same numbers.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number from the whole range.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        fold(fold(self.0, self.0 ^ MASK), STEP)
    }

    /// A number below `end`, or 0 when `end` is 0. Every result is within `end / 2^64` of equally likely.
    pub fn below(&mut self, end: u64) -> u64 {
        scale(self.next_u64(), end)
    }
}

/// Maps the whole range of `u64` evenly onto `0..end`.
pub(super) fn scale(point: u64, end: u64) -> u64 {
    // The upper half of the product is below `end`, so it fits.
    ((u128::from(point) * u128::from(end)) >> 64) as u64
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

/// Odd, with as many ones as zeros among its bits, and no pattern: digits of pi.
const STEP: u64 = 0x2437_54a8_885a_308d;
/// Further digits of pi.
const MASK: u64 = 0x3131_98a2_e037_0734;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_below_an_end_are_spread_evenly() {
        for seed in 0..20 {
            let mut rng = Rng::new(seed);
            let mut counts = [0_u32; 10];
            for _ in 0..100_000 {
                counts[rng.below(10) as usize] += 1;
            }
            // Ten thousand expected, standard deviation 95.
            assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
        }
    }

    #[test]
    fn every_bit_is_set_half_of_the_time() {
        let mut rng = Rng::new(7);
        let mut ones = [0_u32; 64];
        for _ in 0..100_000 {
            let number = rng.next_u64();
            for (bit, count) in ones.iter_mut().enumerate() {
                *count += (number >> bit & 1) as u32;
            }
        }
        assert!(ones.iter().all(|count| (49_000..51_000).contains(count)), "{ones:?}");
    }

    #[test]
    fn neighbouring_seeds_have_nothing_in_common() {
        let firsts: std::collections::HashSet<u64> = (0..10_000).map(|seed| Rng::new(seed).below(1 << 32)).collect();
        assert!(firsts.len() > 9_990, "{}", firsts.len());
    }

    #[test]
    fn below_zero_and_one_is_zero() {
        let mut rng = Rng::new(1);
        assert_eq!((rng.below(0), rng.below(1)), (0, 0));
    }
}
