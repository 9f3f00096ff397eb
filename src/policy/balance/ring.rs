//! Consistent hashing on a ring (Karger et al., STOC 1997): each endpoint has points on a circle of hashes, and a key
//! belongs to the next point.
//!
//! How many points an endpoint has follows from its own weight, and where they are from its own address. So when an
//! endpoint goes, its keys move and no others; when one comes, only keys that are its own now. With 256 points for a
//! weight of one, the parts of the circle differ by some 6 % (standard deviation, one by the root of the points). Large
//! sets and weights would need more than [`POINTS`]: then everybody has half as many, or a quarter, and so on.

use std::net::SocketAddr;

use crate::policy::hash::xxh64;

/// A ring.
#[derive(Debug)]
pub struct Ring {
    /// Hashes in order.
    points: Box<[u64]>,
    /// Whose each is.
    owners: Box<[u32]>,
    endpoints: usize,
}

impl Ring {
    /// The ring of these endpoints. Their order does not matter.
    #[must_use]
    pub fn new(endpoints: &[(SocketAddr, u32)]) -> Self {
        let total = |halvings| endpoints.iter().map(|(_, weight)| points_of(*weight, halvings)).sum::<u64>();
        let halvings = (0..u32::BITS).find(|&halvings| total(halvings) <= POINTS).unwrap_or(u32::BITS);
        let mut all: Vec<(u64, SocketAddr, u32)> = Vec::with_capacity(total(halvings) as usize);
        for (owner, (address, weight)) in (0..).zip(endpoints) {
            let name = address.to_string();
            for number in 0..points_of(*weight, halvings) {
                all.push((xxh64(name.as_bytes(), number), *address, owner));
            }
        }
        // Of two at one place the lower address is first, in whatever order they came.
        all.sort_unstable();
        Self {
            points: all.iter().map(|(point, ..)| *point).collect(),
            owners: all.iter().map(|(.., owner)| *owner).collect(),
            endpoints: endpoints.len(),
        }
    }

    /// How many endpoints it is of.
    #[must_use]
    pub fn endpoints(&self) -> usize {
        self.endpoints
    }

    /// The endpoints for a key, the first one first: all points, from the key's on. An endpoint comes again and again.
    pub fn walk(&self, key: u64) -> impl Iterator<Item = u32> {
        let first = self.points.partition_point(|point| *point < key);
        let (before, after) = self.owners.split_at(first);
        after.iter().chain(before).copied()
    }
}

fn points_of(weight: u32, halvings: u32) -> u64 {
    (u64::from(weight.max(1)) * POINTS_OF_ONE).checked_shr(halvings).unwrap_or(0).max(1)
}

/// Points of an endpoint of weight one.
const POINTS_OF_ONE: u64 = 256;
/// Points of a ring at most, unless there are more endpoints: 6 MiB.
pub const POINTS: u64 = 1 << 19;
