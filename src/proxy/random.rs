//! Randomness for spreading and naming, not for secrets: one small generator a worker, seeded by the system.

use std::cell::RefCell;
use std::hash::{BuildHasher, Hasher, RandomState};

use bytes::BytesMut;
use http::HeaderValue;

use crate::policy::rng::Rng;

thread_local! {
    static RANDOM: RefCell<Rng> = RefCell::new(Rng::new(RandomState::new().build_hasher().finish()));
    /// Where the next request ids are written. They share it, which costs less than a place for each.
    static IDS: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// So many request ids share a place, which is freed with the last of them.
const TOGETHER: usize = 32;

/// The generator of this worker.
pub(super) fn with_random<T>(use_it: impl FnOnce(&mut Rng) -> T) -> T {
    RANDOM.with_borrow_mut(use_it)
}

/// A version 4 UUID (RFC 9562).
pub(super) fn request_id(random: &mut Rng) -> HeaderValue {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    /// Where the two digits of each byte stand, between the dashes.
    const PLACES: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
    let high = random.next_u64() & 0xFFFF_FFFF_FFFF_0FFF | 0x4000;
    let low = random.next_u64() & 0x3FFF_FFFF_FFFF_FFFF | 0x8000_0000_0000_0000;
    let mut text = [b'-'; 36];
    let bytes = (u128::from(high) << 64 | u128::from(low)).to_be_bytes();
    for (at, byte) in PLACES.into_iter().zip(bytes) {
        text[at] = HEX[usize::from(byte >> 4)];
        text[at + 1] = HEX[usize::from(byte & 0xf)];
    }
    let text = IDS.with_borrow_mut(|ids| {
        if ids.capacity() < text.len() {
            *ids = BytesMut::with_capacity(text.len() * TOGETHER);
        }
        ids.extend_from_slice(&text);
        ids.split().freeze()
    });
    let mut id = HeaderValue::from_maybe_shared(text).unwrap_or(HeaderValue::from_static("-"));
    // Each is different: keeping it in HPACK's table would only push useful entries out.
    id.set_sensitive(true);
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_are_version_4_uuids_and_differ() {
        let ids: Vec<_> = (0..100).map(|_| with_random(request_id)).collect();
        for id in &ids {
            let text = id.to_str().expect("ASCII");
            assert_eq!(text.len(), 36);
            let parts: Vec<_> = text.split('-').map(str::len).collect();
            assert_eq!(parts, [8, 4, 4, 4, 12]);
            assert_eq!(text.as_bytes()[14], b'4');
            assert!(matches!(text.as_bytes()[19], b'8' | b'9' | b'a' | b'b'));
        }
        let distinct: std::collections::HashSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len());
    }
}
