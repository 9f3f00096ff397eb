//! Consistent hashing over one set of endpoints, with bounded load (Mirrokni, Thorup, Zadimoghaddam: Consistent Hashing
//! with Bounded Loads): an endpoint that has its share times a factor in flight passes requests on to the next.

use std::net::SocketAddr;

use outrigger_config::model::BalancePolicy;

use super::maglev::Maglev;
use super::ring::Ring;

/// Where keys go.
#[derive(Debug)]
pub enum Table {
    /// A ring of points.
    Ring(Ring),
    /// A table of places.
    Maglev(Maglev),
}

/// How much an endpoint may have in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// Percent of its share.
    pub percent: u16,
    /// In flight on all of them, the new request included.
    pub in_flight: u64,
    /// The weights of those that are fit.
    pub weight: u64,
}

impl Table {
    /// Whether a policy hashes.
    #[must_use]
    pub fn is_for(policy: BalancePolicy) -> bool {
        matches!(policy, BalancePolicy::RingHash | BalancePolicy::Maglev)
    }

    /// `None` for policies that do not hash. Takes milliseconds for many endpoints: not for a worker.
    #[must_use]
    pub fn new(policy: BalancePolicy, endpoints: &[(SocketAddr, u32)]) -> Option<Self> {
        match policy {
            BalancePolicy::RingHash => Some(Self::Ring(Ring::new(endpoints))),
            BalancePolicy::Maglev => Some(Self::Maglev(Maglev::new(endpoints))),
            BalancePolicy::RoundRobin
            | BalancePolicy::LeastRequest
            | BalancePolicy::PeakEwma
            | BalancePolicy::Random => None,
        }
    }

    /// The endpoint for a key: the first on its way that is good and has room. When none has room, the first good one:
    /// a bound spreads load, it refuses none. `None` when none is good.
    pub fn pick(&self, key: u64, good: impl Fn(usize) -> bool, has_room: impl Fn(usize) -> bool) -> Option<usize> {
        match self {
            Self::Ring(ring) => first(ring.walk(key), ring.endpoints(), good, has_room),
            Self::Maglev(maglev) => first(maglev.walk(key), maglev.endpoints(), good, has_room),
        }
    }
}

impl Bound {
    /// Whether an endpoint of this weight that has so many in flight may have one more.
    #[must_use]
    pub fn admits(&self, in_flight: u32, weight: u32) -> bool {
        let Self { percent, in_flight: all, weight: sum } = *self;
        let share = u128::from(all) * u128::from(weight.max(1)) * u128::from(percent);
        // Rounded up, so that together there is room for all.
        u128::from(in_flight) < share.div_ceil(u128::from(sum.max(1)) * 100)
    }
}

/// `way` comes to each of so many `endpoints` many times. So when it has led to nobody for a while, all endpoints are
/// looked at once: a pick that finds none does not cost as much as the table is long.
fn first(
    way: impl Iterator<Item = u32>,
    endpoints: usize,
    good: impl Fn(usize) -> bool,
    has_room: impl Fn(usize) -> bool,
) -> Option<usize> {
    let mut fallback = None;
    let mut previous = None;
    let mut none_has_room = false;
    for (step, index) in way.map(|index| index as usize).enumerate() {
        if step == LOOK_AROUND && !(0..endpoints).any(|index| good(index) && has_room(index)) {
            if fallback.is_some() || !(0..endpoints).any(&good) {
                return fallback;
            }
            none_has_room = true;
        }
        if previous == Some(index) || fallback == Some(index) || !good(index) {
            continue;
        }
        if none_has_room || has_room(index) {
            return Some(index);
        }
        previous = Some(index);
        fallback.get_or_insert(index);
    }
    fallback
}

/// Steps of a way before all endpoints are looked at.
const LOOK_AROUND: usize = 64;

#[cfg(test)]
mod tests;
