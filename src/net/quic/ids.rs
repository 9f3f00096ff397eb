//! Connection IDs that tell us, and nobody else, whom a datagram is for.
//!
//! An ID is a nonce and the number of an endpoint, hidden with a keyed hash of the nonce: to others it is random (RFC 9000
//! section 5.1), and a number that no endpoint has shows that an ID is none of ours.

use std::fmt;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use quinn::{ConnectionId, ConnectionIdGenerator};
use quinn_proto::InvalidCid;

/// Bytes of an ID.
pub(super) const LENGTH: usize = NONCE + NUMBER;
const NONCE: usize = 5;
const NUMBER: usize = 3;

/// Endpoints are numbered below this.
pub(super) const MAX_NUMBER: u32 = 1 << 16;

/// What IDs are made and read with, as long as the process lives.
#[derive(Default)]
pub(super) struct IdKey(RandomState);

impl IdKey {
    /// A new ID of this endpoint.
    fn make(&self, number: u32) -> ConnectionId {
        let mut id = [0; LENGTH];
        aws_lc_rs::rand::fill(&mut id[..NONCE]).expect("the system has random bytes");
        let hidden = (number ^ self.mask(&id[..NONCE])).to_be_bytes();
        id[NONCE..].copy_from_slice(&hidden[4 - NUMBER..]);
        ConnectionId::new(&id)
    }

    /// The number in an ID; anything at all if it is not ours. `None` when its length is not ours.
    pub(super) fn number(&self, id: &[u8]) -> Option<u32> {
        let (nonce, hidden) = id.split_at_checked(NONCE)?;
        let &[a, b, c] = hidden else { return None };
        Some(u32::from_be_bytes([0, a, b, c]) ^ self.mask(nonce))
    }

    /// One of `count`, always the same for an ID that a client chose.
    pub(super) fn share(&self, id: &[u8], count: usize) -> usize {
        let mut hasher = self.0.build_hasher();
        hasher.write_u8(1);
        hasher.write(id);
        usize::try_from(hasher.finish() % count.max(1) as u64).unwrap_or(0)
    }

    fn mask(&self, nonce: &[u8]) -> u32 {
        let mut hasher = self.0.build_hasher();
        hasher.write(nonce);
        let [_, _, _, _, _, a, b, c] = hasher.finish().to_be_bytes();
        u32::from_be_bytes([0, a, b, c])
    }
}

impl fmt::Debug for IdKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdKey")
    }
}

/// Makes the IDs of one endpoint.
pub(super) struct Ids {
    pub(super) key: Arc<IdKey>,
    pub(super) number: u32,
}

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        self.key.make(self.number)
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        // Also the IDs of an endpoint that had the number before: whoever still uses one is told that it is gone.
        match self.key.number(id) {
            Some(number) if number < MAX_NUMBER => Ok(()),
            _ => Err(InvalidCid),
        }
    }

    fn cid_len(&self) -> usize {
        LENGTH
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_the_number_of_its_endpoint_and_no_two_are_alike() {
        let key = Arc::new(IdKey::default());
        let mut seen = std::collections::HashSet::new();
        for number in [0, 1, 7, MAX_NUMBER - 1] {
            let mut ids = Ids { key: Arc::clone(&key), number };
            for _ in 0..100 {
                let id = ids.generate_cid();
                assert_eq!(key.number(&id), Some(number));
                assert!(ids.validate(&id).is_ok());
                assert!(seen.insert(id.to_vec()));
            }
        }
    }

    #[test]
    fn what_others_make_up_is_hardly_ever_one_of_ours() {
        let ids = Ids { key: Arc::default(), number: 0 };
        let foreign = Ids { key: Arc::default(), number: 0 };
        let ours = (0..10_000).filter(|_| ids.validate(&foreign.key.make(0)).is_ok()).count();
        // One in 256 by chance.
        assert!(ours < 100, "{ours}");
        assert!(ids.validate(&ConnectionId::new(&[1; LENGTH + 1])).is_err());
        assert!(ids.validate(&ConnectionId::new(&[])).is_err());
    }

    #[test]
    fn ids_that_clients_choose_are_shared_out_evenly_and_always_alike() {
        let key = IdKey::default();
        let mut shares = [0; 3];
        for n in 0..3000_u32 {
            let id = n.to_be_bytes();
            let share = key.share(&id, 3);
            assert_eq!(share, key.share(&id, 3));
            shares[share] += 1;
        }
        assert!(shares.iter().all(|share| (850..1150).contains(share)), "{shares:?}");
    }
}
