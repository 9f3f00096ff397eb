//! As much of WebSocket (RFC 6455) as an echo of short messages takes.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use data_encoding::BASE64;

/// The size of a message.
pub const MESSAGE: usize = 100;
/// The key that the load generator sends: any will do where nobody caches.
pub const KEY: &str = "b3V0cmlnZ2VyLWJlbmNoIQ==";
/// The head of a frame with a message from a client, with a mask that changes nothing.
pub const CLIENT_FRAME: [u8; 6] = [0x82, 0x80 | MESSAGE as u8, 0, 0, 0, 0];
/// The head of a frame with a message from a server.
pub const SERVER_FRAME: [u8; 2] = [0x82, MESSAGE as u8];

/// What a server answers to a key (RFC 6455 section 4.2.2).
#[must_use]
pub fn accept(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()).as_ref())
}

/// Takes the first message out of `received`, unmasked; `None` while it is not all there.
///
/// # Errors
/// When something else than a short binary message of a client came: the benchmark sends nothing else.
pub fn take(received: &mut bytes::BytesMut) -> anyhow::Result<Option<bytes::BytesMut>> {
    const HEAD: usize = 6;
    if received.len() < HEAD {
        return Ok(None);
    }
    anyhow::ensure!(received[0] == 0x82 && received[1] & 0x80 != 0, "not a binary message of a client");
    let length = usize::from(received[1] & 0x7f);
    anyhow::ensure!(length < 126, "a longer message than is ever sent");
    if received.len() < HEAD + length {
        return Ok(None);
    }
    let mut message = received.split_to(HEAD + length);
    let head = message.split_to(HEAD);
    for (byte, mask) in message.iter_mut().zip(head[2..].iter().cycle()) {
        *byte ^= mask;
    }
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;

    #[test]
    fn the_answer_to_the_key_of_the_rfc() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn messages_are_taken_whole_and_unmasked() {
        let mut received = BytesMut::from(&[0x82, 0x82, 1, 2, 3, 4, b'a' ^ 1, b'b' ^ 2, 0x82][..]);
        assert_eq!(take(&mut received).expect("sound").as_deref(), Some(&b"ab"[..]));
        assert_eq!(take(&mut received).expect("sound"), None);
        assert!(take(&mut BytesMut::from(&[0x81, 0x80, 0, 0, 0, 0][..])).is_err(), "text");
    }
}
