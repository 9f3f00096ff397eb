//! Sessions that a listener keeps itself, for callers that come back with early data. Each serves once, whichever worker it
//! comes to: what was recorded and is sent again finds none. Bounded in number, bytes and age; the oldest go first.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustls::server::StoresServerSessions;

use crate::base::limits;

/// What callers are told of how long a session lasts.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

#[derive(Default)]
pub(super) struct Sessions(Mutex<Store>);

#[derive(Default)]
struct Store {
    /// Where each is, by the ID that its caller was given.
    places: HashMap<Box<[u8]>, u64>,
    /// The oldest first.
    kept: BTreeMap<u64, Kept>,
    next: u64,
    bytes: usize,
}

struct Kept {
    id: Box<[u8]>,
    /// Secrets, and the certificates that the caller showed.
    session: Vec<u8>,
    since: Instant,
}

impl Kept {
    fn bytes(&self) -> usize {
        self.id.len() + self.session.len()
    }
}

impl Store {
    /// False: it is too large to be kept.
    fn put(&mut self, id: Vec<u8>, session: Vec<u8>, now: Instant) -> bool {
        let kept = Kept { id: id.into(), session, since: now };
        if kept.bytes() > limits::QUIC_SESSIONS_BYTES {
            return false;
        }
        self.remove(&kept.id);
        self.bytes += kept.bytes();
        self.places.insert(kept.id.clone(), self.next);
        self.kept.insert(self.next, kept);
        self.next += 1;
        while self.kept.len() > limits::QUIC_SESSIONS || self.bytes > limits::QUIC_SESSIONS_BYTES {
            let Some((_, oldest)) = self.kept.pop_first() else { break };
            self.bytes -= oldest.bytes();
            self.places.remove(&oldest.id);
        }
        true
    }

    fn take(&mut self, id: &[u8], now: Instant) -> Option<Vec<u8>> {
        let kept = self.remove(id)?;
        (now.saturating_duration_since(kept.since) <= LIFETIME).then_some(kept.session)
    }

    fn remove(&mut self, id: &[u8]) -> Option<Kept> {
        let kept = self.kept.remove(&self.places.remove(id)?)?;
        self.bytes -= kept.bytes();
        Some(kept)
    }
}

impl StoresServerSessions for Sessions {
    fn put(&self, id: Vec<u8>, session: Vec<u8>) -> bool {
        self.0.lock().put(id, session, Instant::now())
    }

    /// Sessions of TLS 1.2, which QUIC does not have, would be used again and again.
    fn get(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn take(&self, id: &[u8]) -> Option<Vec<u8>> {
        self.0.lock().take(id, Instant::now())
    }

    fn can_cache(&self) -> bool {
        true
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").field("kept", &self.0.lock().kept.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> Vec<u8> {
        number.to_be_bytes().to_vec()
    }

    #[test]
    fn a_session_serves_once_and_within_its_time() {
        let (mut store, start) = (Store::default(), Instant::now());
        for number in 0..3 {
            assert!(store.put(id(number), vec![7], start));
        }
        assert_eq!(store.take(&id(1), start + LIFETIME), Some(vec![7]));
        assert_eq!(store.take(&id(1), start), None, "it was there before");
        assert_eq!(store.take(&id(2), start + LIFETIME + Duration::from_secs(1)), None);
        assert_eq!(store.take(&id(3), start), None, "nobody was given it");
        assert_eq!((store.kept.len(), store.places.len(), store.bytes), (1, 1, 9));
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many_or_they_are_too_large() {
        let (mut store, now) = (Store::default(), Instant::now());
        for number in 0..=limits::QUIC_SESSIONS {
            assert!(store.put(id(number), vec![7], now));
        }
        assert_eq!(store.take(&id(0), now), None);
        assert_eq!(store.take(&id(1), now), Some(vec![7]));
        let large = vec![7; limits::QUIC_SESSIONS_BYTES / 2];
        for number in [1, 2, 3] {
            assert!(store.put(id(number), large.clone(), now));
        }
        assert!(store.bytes <= limits::QUIC_SESSIONS_BYTES);
        assert_eq!((store.kept.len(), store.places.len()), (1, 1), "the last one is there alone");
        assert_eq!(store.take(&id(3), now), Some(large));
        assert!(!store.put(id(4), vec![7; limits::QUIC_SESSIONS_BYTES], now));
        assert_eq!((store.kept.len(), store.places.len(), store.bytes), (0, 0, 0));
    }
}
