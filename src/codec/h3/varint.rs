//! Variable-length integers (RFC 9000 section 16).

use bytes::{Buf, BufMut, Bytes};

/// The largest there is.
pub(super) const MAX: u64 = (1 << 62) - 1;

/// Appends `value`, which is at most [`MAX`], in the shortest form.
pub(super) fn put(buffer: &mut impl BufMut, value: u64) {
    match value {
        0..0x40 => buffer.put_u8(value as u8),
        0x40..0x4000 => buffer.put_u16(value as u16 | 0x4000),
        0x4000..0x4000_0000 => buffer.put_u32(value as u32 | 0x8000_0000),
        _ => buffer.put_u64(value.min(MAX) | 0xc000_0000_0000_0000),
    }
}

/// The whole of one at the beginning of `input`, which is left as it was if there is less.
pub(super) fn take(input: &mut Bytes) -> Option<u64> {
    let first = *input.first()?;
    let length = 1 << (first >> 6);
    if input.len() < length {
        return None;
    }
    let value = match length {
        1 => u64::from(first),
        2 => u64::from(input.get_u16() & 0x3fff),
        4 => u64::from(input.get_u32() & 0x3fff_ffff),
        _ => input.get_u64() & MAX,
    };
    if length == 1 {
        input.advance(1);
    }
    Some(value)
}

/// One that may arrive in pieces.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Partial {
    value: u64,
    /// Bytes still to come; 0 before the first.
    missing: u8,
}

impl Partial {
    /// Takes what `input` has of it; its value once it is whole.
    pub(super) fn take(&mut self, input: &mut Bytes) -> Option<u64> {
        if self.missing == 0 {
            if let Some(value) = take(input) {
                return Some(value);
            }
            let first = *input.first()?;
            input.advance(1);
            self.missing = (1 << (first >> 6)) - 1;
            self.value = u64::from(first & 0x3f);
        }
        while self.missing > 0 {
            let byte = *input.first()?;
            input.advance(1);
            self.value = self.value << 8 | u64::from(byte);
            self.missing -= 1;
        }
        Some(self.value)
    }

    /// Something of it has arrived.
    pub(super) fn is_begun(self) -> bool {
        self.missing > 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_examples_of_the_rfc() {
        // RFC 9000 appendix A.1.
        for (wire, value) in [
            (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c][..], 151_288_809_941_952_652),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
            (&[0x40, 0x25], 37),
        ] {
            assert_eq!(take(&mut Bytes::from_static(wire)), Some(value));
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_whole_or_byte_by_byte(value in 0..=MAX) {
            let mut wire = Vec::new();
            put(&mut wire, value);
            prop_assert_eq!(take(&mut Bytes::from(wire.clone())), Some(value));
            let mut partial = Partial::default();
            for (at, byte) in wire.iter().enumerate() {
                let taken = partial.take(&mut Bytes::copy_from_slice(&[*byte]));
                prop_assert_eq!(taken, (at + 1 == wire.len()).then_some(value));
            }
            prop_assert!(!partial.is_begun());
        }
    }
}
