//! Maglev's table (Eisenbud et al., NSDI 2016, section 3.4): each endpoint has an order of preference over all places,
//! and in turn each takes the first place of its order that is free. A key is the endpoint at its place.
//!
//! Places are spread exactly by weight, to within a place. When one of N endpoints goes, its keys move, and a few percent
//! of the others.

use std::net::SocketAddr;

use crate::policy::hash::xxh64;
use crate::policy::rng::scale;

/// A table.
#[derive(Debug)]
pub struct Maglev {
    /// Whose each place is.
    places: Box<[u32]>,
    endpoints: usize,
}

/// Where an endpoint is in its order of preference.
struct Turn {
    owner: u32,
    weight: u64,
    place: u64,
    skip: u64,
    /// When it may take the next place: after this many rounds, in units of its weight.
    due: u64,
}

impl Maglev {
    /// The table of these endpoints. Their order does not matter. Empty for none.
    #[must_use]
    pub fn new(endpoints: &[(SocketAddr, u32)]) -> Self {
        if endpoints.is_empty() {
            return Self { places: Box::default(), endpoints: 0 };
        }
        let mut turns: Vec<(SocketAddr, Turn)> = (0..).zip(endpoints).map(turn).collect();
        turns.sort_unstable_by_key(|(address, _)| *address);
        let heaviest = turns.iter().map(|(_, turn)| turn.weight).max().unwrap_or(1);
        let mut places = vec![FREE; PLACES as usize];
        let mut free = PLACES;
        for round in 1_u64.. {
            for (_, turn) in &mut turns {
                if round * turn.weight < turn.due {
                    continue;
                }
                turn.due += heaviest;
                // The number of places is a prime, so every order comes to every place.
                while places[turn.place as usize] != FREE {
                    turn.place = (turn.place + turn.skip) % PLACES;
                }
                places[turn.place as usize] = turn.owner;
                free -= 1;
                if free == 0 {
                    return Self { places: places.into(), endpoints: endpoints.len() };
                }
            }
        }
        Self { places: places.into(), endpoints: endpoints.len() }
    }

    /// How many endpoints it is of.
    #[must_use]
    pub fn endpoints(&self) -> usize {
        self.endpoints
    }

    /// The endpoints for a key, the first one first: all places, from the key's on. An endpoint comes again and again.
    /// Neighbours of an endpoint's places are anybody's, so what one cannot take is spread over all others.
    pub fn walk(&self, key: u64) -> impl Iterator<Item = u32> {
        let (before, after) = self.places.split_at(scale(key, self.places.len() as u64) as usize);
        after.iter().chain(before).copied()
    }
}

fn turn((owner, (address, weight)): (u32, &(SocketAddr, u32))) -> (SocketAddr, Turn) {
    let name = address.to_string();
    let weight = u64::from((*weight).max(1));
    let place = xxh64(name.as_bytes(), 0) % PLACES;
    let skip = xxh64(name.as_bytes(), 1) % (PLACES - 1) + 1;
    (*address, Turn { owner, weight, place, skip, due: weight })
}

/// Places of a table, a prime: more than a hundred times as many as there usually are endpoints. 256 KiB.
pub const PLACES: u64 = 65_537;

const FREE: u32 = u32::MAX;
