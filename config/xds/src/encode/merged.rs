//! Messages whose bytes must not depend on the order of a hash map.
//!
//! Encodings of one message that are put one behind the other are read as their union: lists and maps grow, messages inside
//! are merged (protobuf encoding, "Last One Wins"). So a map with several entries is written as several messages with one
//! entry each, in the order of the keys.

use prost::{Message, Name};

use crate::pb::Any;

/// A packed message, in parts.
pub(super) fn any<M: Message + Name>(parts: impl IntoIterator<Item = M>) -> Any {
    Any { type_url: M::type_url(), value: bytes(parts) }
}

/// A message, in parts.
pub(super) fn bytes<M: Message>(parts: impl IntoIterator<Item = M>) -> Vec<u8> {
    let mut out = Vec::new();
    for part in parts {
        out.extend_from_slice(&part.encode_to_vec());
    }
    out
}

/// A message inside another: its field, its length, its bytes.
pub(super) fn field(number: u32, message: &[u8], out: &mut Vec<u8>) {
    prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, out);
    prost::encoding::encode_varint(message.len() as u64, out);
    out.extend_from_slice(message);
}
