//! What a proxy must know of WebSocket (RFC 6455): the handshake of HTTP/1.1, where one frame ends and the next begins,
//! and the frame that closes.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use aws_lc_rs::rand;
use bytes::{BufMut, Bytes, BytesMut};
use data_encoding::BASE64;
use http::{HeaderName, HeaderValue};

/// The only version of the protocol.
pub const VERSION: HeaderValue = HeaderValue::from_static("13");
/// Names the version.
pub const SEC_WEBSOCKET_VERSION: HeaderName = HeaderName::from_static("sec-websocket-version");
pub(super) const SEC_WEBSOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
pub(super) const SEC_WEBSOCKET_ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");

/// The endpoint goes away (RFC 6455 section 7.4.1).
pub const GOING_AWAY: u16 = 1001;
/// What is asked for is against a policy.
pub const POLICY_VIOLATION: u16 = 1008;

/// RFC 6455 section 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const KEY_BYTES: usize = 16;

/// A key that was never used before, for a handshake of ours.
pub(super) fn fresh_key() -> HeaderValue {
    let text = BASE64.encode(&random::<KEY_BYTES>());
    HeaderValue::try_from(text).expect("base64 is visible text")
}

/// Whether a caller's key is one: 16 bytes in base64.
pub(super) fn is_key(value: &HeaderValue) -> bool {
    // With its padding: two bytes more than there are.
    let mut room = [0; KEY_BYTES + 2];
    BASE64.decode_len(value.len()) == Ok(room.len())
        && BASE64.decode_mut(value.as_bytes(), &mut room).is_ok_and(|n| n == KEY_BYTES)
}

/// The `Sec-WebSocket-Accept` that proves that `key` was read.
pub(super) fn accept_of(key: &HeaderValue) -> HeaderValue {
    let mut text = Vec::with_capacity(key.len() + GUID.len());
    text.extend_from_slice(key.as_bytes());
    text.extend_from_slice(GUID);
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &text);
    HeaderValue::try_from(BASE64.encode(hash.as_ref())).expect("base64 is visible text")
}

/// A Close frame with a code and no reason. From a client it is masked (RFC 6455 section 5.3).
#[must_use]
pub fn close_frame(code: u16, from: From) -> Bytes {
    let [high, low] = code.to_be_bytes();
    let mut frame = BytesMut::with_capacity(8);
    frame.put_u8(FIN | CLOSE);
    match from {
        From::Server => frame.put_slice(&[2, high, low]),
        From::Client => {
            let mask = random::<4>();
            frame.put_u8(MASKED | 2);
            frame.put_slice(&mask);
            frame.put_slice(&[high ^ mask[0], low ^ mask[1]]);
        }
    }
    frame.freeze()
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// The client: its frames are masked.
    Client,
    /// The server.
    Server,
}

const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;
const CLOSE: u8 = 8;

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).expect("the system gives random bytes");
    bytes
}

/// Follows one direction of a WebSocket from frame to frame. It reads heads only, looks at no payload and judges
/// nothing: what is no frame is somebody else's to refuse.
#[derive(Debug, Default)]
pub struct Frames {
    /// Bytes of the payload (and its mask) to come.
    left: u64,
    /// The beginning of a head whose rest has not come.
    head: [u8; MAX_HEAD],
    held: u8,
    closed: bool,
}

/// Two bytes, and up to eight for the length. The mask counts as payload.
const MAX_HEAD: usize = 10;

impl Frames {
    /// These bytes pass.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let n = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= n as u64;
                bytes = &bytes[n..];
                continue;
            }
            // Nearly always a head comes whole.
            if self.held == 0
                && let Some(length) = bytes.get(1).map(|second| head_length(*second))
                && let Some((head, rest)) = bytes.split_at_checked(length)
                && let Some((kind, length)) = head_of(head)
            {
                bytes = rest;
                self.left = length;
                self.closed |= kind == CLOSE;
                continue;
            }
            self.head[usize::from(self.held)] = bytes[0];
            self.held += 1;
            bytes = &bytes[1..];
            if let Some((kind, length)) = head_of(&self.head[..usize::from(self.held)]) {
                self.held = 0;
                self.left = length;
                self.closed |= kind == CLOSE;
            }
        }
    }

    /// How many of these bytes belong to the frame that has begun to pass, as far as it can be told.
    #[must_use]
    pub fn rest_of_frame(&self, bytes: &[u8]) -> usize {
        let mut rest = Self { left: self.left, head: self.head, held: self.held, closed: false };
        let mut at = 0;
        while at < bytes.len() && !rest.at_boundary() {
            let n = usize::try_from(rest.left).unwrap_or(usize::MAX).clamp(1, bytes.len() - at);
            rest.pass(&bytes[at..at + n]);
            at += n;
        }
        at
    }

    /// Whether a frame could follow here.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        self.left == 0 && self.held == 0
    }

    /// Whether a Close frame has begun to pass: nothing may follow it.
    #[must_use]
    pub fn has_closed(&self) -> bool {
        self.closed
    }

    /// Whether a Close frame may follow here.
    #[must_use]
    pub fn may_close(&self) -> bool {
        self.at_boundary() && !self.closed
    }
}

/// The length of a head with this second byte.
fn head_length(second: u8) -> usize {
    match second & 0x7f {
        126 => 4,
        127 => MAX_HEAD,
        _ => 2,
    }
}

/// The opcode and the length of the rest, when the head is whole.
fn head_of(head: &[u8]) -> Option<(u8, u64)> {
    let [first, second, rest @ ..] = head else { return None };
    let length = match second & 0x7f {
        126 => u64::from(u16::from_be_bytes(rest.try_into().ok()?)),
        127 => u64::from_be_bytes(rest.try_into().ok()?),
        short => u64::from(short),
    };
    let mask = if second & MASKED == 0 { 0 } else { 4 };
    Some((first & 0x0f, length.saturating_add(mask)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_accept_of_the_rfcs_example() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept_of(&key), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_key_is_sixteen_bytes_in_base64() {
        assert!(is_key(&HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==")));
        assert!(is_key(&fresh_key()));
        assert_ne!(fresh_key(), fresh_key());
        for bad in [
            "",
            "dGhlIHNhbXBsZSBub25jZQ",
            "dGhlIHNhbXBsZSBub25j",
            "dGhlIHNhbXBsZSBub25jZTE=",
            "!!!!",
            "dGhlIHNhbXBsZSBub25jZWFhYQ==",
        ] {
            assert!(!is_key(&HeaderValue::from_static(bad)), "{bad}");
        }
    }

    #[test]
    fn a_close_frame_of_a_client_is_masked() {
        assert_eq!(close_frame(1001, From::Server), &[0x88, 2, 0x03, 0xe9][..]);
        let masked = close_frame(1001, From::Client);
        assert_eq!((masked[0], masked[1], masked.len()), (0x88, 0x82, 8));
        assert_eq!([masked[6] ^ masked[2], masked[7] ^ masked[3]], 1001u16.to_be_bytes());
    }

    fn frame(kind: u8, length: usize, masked: bool) -> Vec<u8> {
        let mut frame = vec![FIN | kind];
        let bit = if masked { MASKED } else { 0 };
        match length {
            0..126 => frame.push(bit | length as u8),
            126..65536 => {
                frame.push(bit | 126);
                frame.extend_from_slice(&(length as u16).to_be_bytes());
            }
            _ => {
                frame.push(bit | 127);
                frame.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        frame.extend(std::iter::repeat_n(0xff, length + if masked { 4 } else { 0 }));
        frame
    }

    proptest! {
        #[test]
        fn boundaries_are_found_however_the_bytes_come(
            frames in proptest::collection::vec((0u8..8, 0usize..70_000, any::<bool>()), 1..5),
            cuts in proptest::collection::vec(1usize..5_000, 1..20),
        ) {
            let mut ends = vec![0];
            let mut wire = Vec::new();
            for (kind, length, masked) in frames {
                wire.extend(frame(kind, length, masked));
                ends.push(wire.len());
            }
            let mut follow = Frames::default();
            let mut at = 0;
            for cut in cuts.into_iter().cycle() {
                prop_assert_eq!(follow.at_boundary(), ends.contains(&at), "at {}", at);
                let end = ends.iter().find(|end| **end >= at).expect("the last one is the end");
                prop_assert_eq!(follow.rest_of_frame(&wire[at..]), end - at);
                if at == wire.len() {
                    break;
                }
                let to = wire.len().min(at + cut);
                follow.pass(&wire[at..to]);
                at = to;
            }
            prop_assert!(!follow.has_closed());
            follow.pass(&close_frame(GOING_AWAY, From::Client));
            prop_assert!(follow.has_closed() && follow.at_boundary());
        }

        #[test]
        fn whatever_comes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            Frames::default().pass(&bytes);
        }
    }
}
