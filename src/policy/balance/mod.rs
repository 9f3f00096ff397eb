//! Which endpoint a request goes to.
//!
//! A [`Balancer`] belongs to one set of endpoints. It looks at their live state through [`Candidates`], keeps
//! nothing but a sequence number, takes no lock, and may be used from every worker at once.
//!
//! * **roundRobin**: in turn when the weights are equal; else a golden-ratio sequence over the weights, which
//!   spaces each endpoint's turns as evenly as can be and costs one atomic addition and a binary search. A request has one
//!   turn: its later attempts are drawn by weight. If they took turns, the next request would again begin where this one
//!   failed: of two endpoints, each request at the same.
//! * **random**: by weight.
//! * **leastRequest**: two different endpoints are drawn by weight and the one with fewer requests in flight is
//!   taken. Of up to three endpoints all are looked at: with two out of three the busiest would still get
//!   requests that an idle one could have had.
//! * **peakEwma**: the same with the expected latency ([`super::ewma`]) as a factor.
//!
//! Weights in the last two: an endpoint of weight 5, beside one of weight 1, counts its first five requests in
//! flight as one and every further five as one more. So shares follow the weights when everybody is idle (the
//! draw decides), and requests in flight follow them under load.
//!
//! Who may be picked is decided before: [`priority`] and [`zone`] choose among groups of endpoints, [`table`] binds keys
//! to endpoints, and [`slow_start`] says how much of its weight a newcomer has.

pub mod maglev;
pub mod priority;
pub mod ring;
pub mod slow_start;
pub mod table;
mod wheel;
pub mod zone;

use std::sync::atomic::{AtomicU64, Ordering};

use outrigger_config::model::BalancePolicy;
use smallvec::SmallVec;

use self::slow_start::FULL;
use super::rng::{Rng, scale};
use wheel::Wheel;

/// The live state of the endpoints that a [`Balancer`] was made for, in the same order.
pub trait Candidates {
    /// Requests in flight now.
    fn in_flight(&self, index: usize) -> u32;
    /// Expected latency in seconds, without the requests in flight. Read by peakEwma only.
    fn latency(&self, index: usize) -> f64;
    /// Whether it may be picked: fit, and not tried before by this request.
    fn eligible(&self, index: usize) -> bool;
    /// How much of its weight it has, of [`FULL`]. Less only for newcomers.
    fn ramp(&self, _index: usize) -> u32 {
        FULL
    }
    /// Whether the pick is for another attempt of a request that has had its turn.
    fn is_again(&self) -> bool {
        false
    }
}

/// Chooses endpoints of one set.
#[derive(Debug)]
pub struct Balancer {
    wheel: Wheel,
    policy: Policy,
}

#[derive(Debug)]
enum Policy {
    RoundRobin(AtomicU64),
    Random,
    LeastRequest,
    PeakEwma,
}

impl Balancer {
    /// `seed` moves the start of roundRobin, so that proxies that start together do not walk in step.
    #[must_use]
    pub fn new(policy: BalancePolicy, weights: impl IntoIterator<Item = u32>, seed: u64) -> Self {
        let policy = match policy {
            BalancePolicy::RoundRobin => Policy::RoundRobin(AtomicU64::new(seed)),
            // Consistent hashing falls back to this for requests without a key.
            BalancePolicy::Random | BalancePolicy::RingHash | BalancePolicy::Maglev => Policy::Random,
            BalancePolicy::LeastRequest => Policy::LeastRequest,
            BalancePolicy::PeakEwma => Policy::PeakEwma,
        };
        Self { wheel: Wheel::new(weights), policy }
    }

    /// The index of an endpoint; `None` when none is eligible.
    #[must_use]
    pub fn pick(&self, candidates: &impl Candidates, rng: &mut Rng) -> Option<usize> {
        match (self.wheel.len(), &self.policy) {
            (0, _) => None,
            (1, _) => candidates.eligible(0).then_some(0),
            (_, Policy::RoundRobin(_) | Policy::Random) => self.draw(candidates, &mut Drawn::default(), rng),
            (_, Policy::LeastRequest) => self.cheapest(candidates, rng, |index| self.load(candidates, index)),
            (_, Policy::PeakEwma) => {
                let cost = |index| candidates.latency(index) * self.load(candidates, index);
                self.cheapest(candidates, rng, cost)
            }
        }
    }

    /// What is compared between endpoints, lower being better; `None` under policies that compare nothing.
    #[must_use]
    pub fn score(&self, candidates: &impl Candidates, index: usize) -> Option<f64> {
        match &self.policy {
            Policy::RoundRobin(_) | Policy::Random => None,
            Policy::LeastRequest => Some(self.load(candidates, index)),
            Policy::PeakEwma => Some(candidates.latency(index) * self.load(candidates, index)),
        }
    }

    /// Requests in flight with the one to be sent, as a multiple of the endpoint's share.
    fn load(&self, candidates: &impl Candidates, index: usize) -> f64 {
        ((f64::from(candidates.in_flight(index)) + 1.0) / self.wheel.share(index)).max(1.0)
    }

    /// Draws until one is eligible and was not drawn before. A newcomer that was drawn is taken as often as it has of its
    /// weight, and else passed over. After a few misses (most of the weight is out) it draws once among those that
    /// are left.
    fn draw(&self, candidates: &impl Candidates, drawn: &mut Drawn, rng: &mut Rng) -> Option<usize> {
        let good = |index: usize, drawn: &Drawn| candidates.eligible(index) && !drawn.taken.contains(&index);
        let again = candidates.is_again();
        for draw in 0..DRAWS {
            let index = self.place(self.point(again, rng));
            if good(index, drawn) && drawn.takes_part(index, candidates.ramp(index), rng) {
                drawn.taken.push(index);
                return Some(index);
            }
            if draw == 0 && !self.has_eligible(candidates, index) {
                self.give_back(again);
                return None;
            }
        }
        let weight = |index: usize| self.wheel.weight(index) * u64::from(candidates.ramp(index));
        // Beside others, newcomers are compared by luck alone.
        let remains =
            |index: &usize| good(*index, drawn) && (drawn.taken.is_empty() || candidates.ramp(*index) == FULL);
        let remaining = || (0..self.wheel.len()).filter(remains);
        let mut left = scale(self.point(again, rng), remaining().map(weight).sum());
        let found = remaining().find(|&index| {
            let weight = weight(index);
            let hit = left < weight;
            left = left.saturating_sub(weight);
            hit
        });
        drawn.taken.extend(found);
        found
    }

    /// Whether there is anybody, looked for from one place on.
    fn has_eligible(&self, candidates: &impl Candidates, from: usize) -> bool {
        (from..self.wheel.len()).chain(0..from).any(|index| candidates.eligible(index))
    }

    /// The next turn, or chance.
    fn point(&self, again: bool, rng: &mut Rng) -> u64 {
        match &self.policy {
            Policy::RoundRobin(sequence) if !again => sequence.fetch_add(1, Ordering::Relaxed).wrapping_mul(GOLDEN),
            Policy::RoundRobin(_) | Policy::Random | Policy::LeastRequest | Policy::PeakEwma => rng.next_u64(),
        }
    }

    /// Nobody could take the turn. Callers ask again with a wider choice: if each asking took turns, all requests would
    /// have one in so many, and of two endpoints the same one.
    fn give_back(&self, again: bool) {
        if let Policy::RoundRobin(sequence) = &self.policy
            && !again
        {
            sequence.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn place(&self, point: u64) -> usize {
        match (&self.policy, &self.wheel) {
            // The factor is odd, so the sequence number comes back: strictly in turn.
            (Policy::RoundRobin(_), Wheel::Equal(count)) => {
                (point.wrapping_mul(GOLDEN_INVERSE) % *count as u64) as usize
            }
            (Policy::RoundRobin(_) | Policy::Random | Policy::LeastRequest | Policy::PeakEwma, wheel) => {
                wheel.at(point)
            }
        }
    }

    /// The first drawn is kept unless another is cheaper.
    fn cheapest(&self, candidates: &impl Candidates, rng: &mut Rng, cost: impl Fn(usize) -> f64) -> Option<usize> {
        let choices = if self.wheel.len() <= SCAN { self.wheel.len() } else { 2 };
        let mut drawn = Drawn::default();
        let mut best = self.draw(candidates, &mut drawn, rng)?;
        let mut lowest = cost(best);
        while drawn.taken.len() < choices {
            let next = match self.wheel.len() - drawn.taken.len() {
                // The last one left need not be drawn.
                1 => (0..self.wheel.len()).find(|index| !drawn.taken.contains(index)).filter(|&last| {
                    drawn.taken.push(last);
                    candidates.eligible(last) && drawn.takes_part(last, candidates.ramp(last), rng)
                }),
                _ => self.draw(candidates, &mut drawn, rng),
            };
            let Some(next) = next else { break };
            let cost = cost(next);
            if cost < lowest {
                (best, lowest) = (next, cost);
            }
        }
        Some(best)
    }
}

/// What was drawn for one pick.
#[derive(Default)]
struct Drawn {
    taken: SmallVec<[usize; SCAN]>,
    /// Newcomers that do not take part this time.
    passed: SmallVec<[usize; SCAN]>,
}

impl Drawn {
    /// Whether an endpoint that has so much of its weight is looked at this time: decided once.
    fn takes_part(&mut self, index: usize, ramp: u32, rng: &mut Rng) -> bool {
        if ramp >= FULL {
            return true;
        }
        let part = !self.passed.contains(&index) && rng.below(u64::from(FULL)) < u64::from(ramp);
        if !part {
            self.passed.push(index);
        }
        part
    }
}

/// Up to this many endpoints all are compared.
const SCAN: usize = 3;
/// Draws before searching in order. With half of the endpoints out, one in 256 picks searches.
const DRAWS: usize = 8;
/// `2^64` divided by the golden ratio: multiples of it fill the circle more evenly than those of any other number.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
/// `GOLDEN * GOLDEN_INVERSE` is one, modulo `2^64`.
const GOLDEN_INVERSE: u64 = 0xf1de_83e1_9937_733d;

#[cfg(test)]
mod tests;
