//! Prefixed integers (RFC 7541 section 5.1, as RFC 9204 section 4.1.1 bounds them).

use bytes::{BufMut, BytesMut};

use crate::codec::h3::varint::MAX;

/// Appends `value` behind the bits of `pattern`, in the low `prefix` bits of the first byte and what follows.
pub(super) fn put(buffer: &mut BytesMut, pattern: u8, prefix: u8, mut value: u64) {
    let full = (1_u64 << prefix) - 1;
    if value < full {
        buffer.put_u8(pattern | value as u8);
        return;
    }
    buffer.put_u8(pattern | full as u8);
    value -= full;
    while value >= 0x80 {
        buffer.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    buffer.put_u8(value as u8);
}

/// Why there is no integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Error {
    /// Its end has not come.
    Truncated,
    /// It is more than 62 bits.
    Overflow,
}

/// Reads one from the low `prefix` bits of the first byte and what follows.
pub(super) fn take(input: &mut &[u8], prefix: u8) -> Result<u64, Error> {
    let (&first, mut rest) = input.split_first().ok_or(Error::Truncated)?;
    let full = (1_u64 << prefix) - 1;
    let mut value = u64::from(first) & full;
    if value == full {
        let mut shift = 0;
        loop {
            let (&byte, behind) = rest.split_first().ok_or(Error::Truncated)?;
            rest = behind;
            // Nine groups of seven bits hold 63; a tenth could only be padding, which may not go on for ever.
            if shift > 56 {
                return Err(Error::Overflow);
            }
            value += u64::from(byte & 0x7f) << shift;
            if value > MAX {
                return Err(Error::Overflow);
            }
            if byte < 0x80 {
                break;
            }
            shift += 7;
        }
    }
    *input = rest;
    Ok(value)
}
