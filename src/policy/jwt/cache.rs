//! Tokens that were verified, by their digest: a signature is checked when a token is first seen, not for every
//! request that carries it.
//!
//! A worker looks into a shard of its own, so that the lock is free. What an entry says holds only under the keys it
//! was verified with: an entry of other keys is no entry.

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use parking_lot::Mutex;

use super::{KeySet, Verified};
use crate::base::{limits, worker};

/// What a token is known by. Collisions cannot be made, so the token itself need not be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of a token.
    #[must_use]
    pub fn of(token: &str) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        Self(bytes)
    }
}

/// Verified tokens of one listener.
#[derive(Debug, Default)]
pub struct Cache {
    shards: [Mutex<Shard>; SHARDS],
}

/// Two halves: when the younger is full the older is forgotten and the younger takes its place. What is in use moves
/// to the younger half when it is found in the older.
#[derive(Debug, Default)]
struct Shard {
    young: Entries,
    old: Entries,
}

type Entries = HashMap<Digest, Entry, foldhash::fast::RandomState>;

#[derive(Debug, Clone)]
struct Entry {
    keys: Arc<KeySet>,
    /// Which of the listener's providers verified it.
    provider: usize,
    verified: Verified,
}

/// More workers than that share.
const SHARDS: usize = 8;

impl Cache {
    /// What is known of a token, and which provider verified it. `now` is not looked at.
    #[must_use]
    pub fn find(&self, token: &Digest) -> Option<(usize, Arc<KeySet>, Verified)> {
        let mut shard = self.shard().lock();
        let entry = match shard.young.get(token) {
            Some(entry) => entry.clone(),
            None => {
                let entry = shard.old.remove(token)?;
                shard.keep(*token, entry.clone());
                entry
            }
        };
        Some((entry.provider, entry.keys, entry.verified))
    }

    /// Remembers a token.
    pub fn insert(&self, token: Digest, provider: usize, keys: Arc<KeySet>, verified: Verified) {
        self.shard().lock().keep(token, Entry { keys, provider, verified });
    }

    fn shard(&self) -> &Mutex<Shard> {
        &self.shards[worker::index() % SHARDS]
    }
}

impl Shard {
    fn keep(&mut self, token: Digest, entry: Entry) {
        if self.young.len() >= limits::JWT_CACHE / 2 && !self.young.contains_key(&token) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(token, entry);
    }
}

#[cfg(test)]
impl Cache {
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock()).map(|shard| shard.young.len() + shard.old.len()).sum()
    }
}
